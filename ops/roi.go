package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Pooling over regions of interest. Regions are no place for a gradient: PyTorch gives them none either.
func init() {
	regions := func(name string, since []int, types []TypeSet, infer func(*Node) ([]Info, error), f32, f64, g32, g64 Kernel, portable func(*Grad, *Node) ([]*onnx.Value, error)) {
		inputs := len(types)
		register(
			Op{Name: name, Since: since, MinIn: inputs, Types: types, Infer: infer, Compile: Table{tensor.Float32: f32, tensor.Float64: f64}.Always(0),
				Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
					attrs := append([]*onnx.Attribute{IntAttr("since", int64(n.Since))}, n.Attrs...)
					dx := g.Internal(name+"Grad", 1, append([]*onnx.Value{dy[0]}, n.Inputs...), attrs...)
					return append(dx, make([]*onnx.Value, inputs-1)...), nil
				}},
			// dY and the operator's inputs
			Op{Domain: Internal, Name: name + "Grad", Since: []int{1}, MinIn: 1 + inputs, Types: append([]TypeSet{Floats}, types...), Infer: SameAs(1),
				Compile: Table{tensor.Float32: g32, tensor.Float64: g64}.Always(0), Portable: portable},
		)
	}
	regions("RoiAlign", []int{10, 16, 22}, []TypeSet{Floats, Floats, Of(tensor.Int64)}, inferRoiAlign,
		roiAlign[float32], roiAlign[float64], roiAlignGrad[float32], roiAlignGrad[float64], portableRoiAlignGrad)
	regions("MaxRoiPool", []int{1, 22}, []TypeSet{Floats, Floats}, inferMaxRoiPool,
		maxRoiPool[float32], maxRoiPool[float64], maxRoiPoolGrad[float32], maxRoiPoolGrad[float64], portableMaxRoiPoolGrad)
}

// maxSampling bounds sampling_ratio, whose square is the samples of a bin.
const maxSampling = 1 << 12

func inferRegions(n *Node, columns int, pooled []int) ([]Info, error) {
	x, rois := n.In[0], n.In[1]
	if x.Ranked && len(x.Shape) != 4 {
		return nil, fmt.Errorf("an input of rank %d, not 4", len(x.Shape))
	}
	if rois.Ranked && (len(rois.Shape) != 2 || rois.Shape[1].Known() && rois.Shape[1].N != columns) {
		return nil, fmt.Errorf("regions of %v, not [regions, %d]", rois.Shape, columns)
	}
	out := Tensor(x.DType, Unknown, Unknown, D(pooled[0]), D(pooled[1]))
	if rois.Ranked {
		out.Shape[0] = rois.Shape[0]
	}
	if x.Ranked {
		out.Shape[1] = x.Shape[1]
	}
	return []Info{out}, nil
}

// regionInputs checks the inputs of a pooling from input i on: x and its regions, rows of that many columns.
func regionInputs(c *Ctx, i, columns int) (xs []int, regions int, err error) {
	x, rois := c.In(i), c.In(i+1)
	if x == nil || rois == nil {
		return nil, 0, fmt.Errorf("inputs %d and %d are not both tensors", i, i+1)
	}
	if x.DType() != rois.DType() || x.DType() != c.In(0).DType() {
		return nil, 0, fmt.Errorf("element types %s and %s differ", x.DType(), rois.DType())
	}
	if x.Rank() != 4 || rois.Rank() != 2 || rois.Shape()[1] != columns {
		return nil, 0, fmt.Errorf("an input of %v with regions of %v, not [regions, %d]", x.Shape(), rois.Shape(), columns)
	}
	return x.Shape(), rois.Shape()[0], nil
}

// regionSizes checks two attributes' sizes.
func regionSizes(h, w int64) ([]int, error) {
	if h < 1 || w < 1 || h > maxWindow || w > maxWindow {
		return nil, fmt.Errorf("an output of %d×%d is out of range", h, w)
	}
	return []int{int(h), int(w)}, nil
}

// aligner is a RoiAlign over an input of N×C×h×w.
type aligner[T kernel.Float] struct {
	n, c, h, w int
	pooled     []int
	ratio      int
	scale      T
	shift      T // of the input's coordinates
	max        bool
	rois       []T
	batch      []int64
}

// roiTap is a sample along one axis: between elements lo and hi, with their weights.
type roiTap[T kernel.Float] struct {
	lo, hi int
	wl, wh T
}

// roiBins is the samples of the bins along one axis: those of bin b are taps[first[b]:first[b+1]].
type roiBins[T kernel.Float] struct {
	taps    []roiTap[T]
	first   []int
	outside []bool // by bin: some sample lies outside the input
	count   int    // samples of a bin, those outside too
}

func roiAlignOf(n *Node) (pooled []int, ratio int, half, max bool, err error) {
	since := n.Since
	if n.Domain == Internal {
		since = int(n.Int("since", 22))
	}
	if pooled, err = regionSizes(n.Int("output_height", 1), n.Int("output_width", 1)); err != nil {
		return
	}
	r := n.Int("sampling_ratio", 0)
	if r < 0 || r > maxSampling {
		err = fmt.Errorf("sampling_ratio %d is out of range", r)
		return
	}
	ratio = int(r)
	mode := n.Str("coordinate_transformation_mode", "half_pixel")
	if since < 16 {
		mode = "output_half_pixel"
	}
	switch mode {
	case "half_pixel":
		half = true
	case "output_half_pixel":
	default:
		err = fmt.Errorf("coordinate_transformation_mode %q is not known", mode)
		return
	}
	switch m := n.Str("mode", "avg"); m {
	case "avg":
	case "max":
		max = true
	default:
		err = fmt.Errorf("mode %q is not known", m)
	}
	return
}

func inferRoiAlign(n *Node) ([]Info, error) {
	pooled, _, _, _, err := roiAlignOf(n)
	if err != nil {
		return nil, err
	}
	return inferRegions(n, 4, pooled)
}

func alignerOf[T kernel.Float](c *Ctx, i int) (*aligner[T], error) {
	pooled, ratio, half, max, err := roiAlignOf(c.Node)
	if err != nil {
		return nil, err
	}
	xs, regions, err := regionInputs(c, i, 4)
	if err != nil {
		return nil, err
	}
	batch := c.In(i + 2)
	if batch == nil || !slices.Equal(batch.Shape(), []int{regions}) {
		return nil, fmt.Errorf("input %d is not one index for each of %d regions", i+2, regions)
	}
	a := &aligner[T]{n: xs[0], c: xs[1], h: xs[2], w: xs[3], pooled: pooled, ratio: ratio, max: max,
		scale: T(c.Node.Float("spatial_scale", 1)), rois: tensor.Data[T](c.In(i + 1)), batch: tensor.Data[int64](batch)}
	if half {
		a.shift = 0.5
	}
	for r, b := range a.batch {
		if b < 0 || b >= int64(a.n) {
			return nil, fmt.Errorf("region %d is of image %d of %d", r, b, a.n)
		}
		for _, v := range a.rois[4*r : 4*r+4] {
			if !(math.Abs(float64(v*a.scale)) < maxWindow/2) {
				return nil, fmt.Errorf("region %d, %v, is out of range", r, a.rois[4*r:4*r+4])
			}
		}
	}
	return a, nil
}

func (a *aligner[T]) shape() []int { return []int{len(a.batch), a.c, a.pooled[0], a.pooled[1]} }

// fill finds the samples of a region from lo to hi along an axis of limit elements. Steps are worked in T, so that
// the number of samples is PyTorch's and ONNX Runtime's.
func (b *roiBins[T]) fill(a *aligner[T], lo, hi T, bins, limit int) {
	lo, hi = T(lo*a.scale)-a.shift, T(hi*a.scale)-a.shift
	size := hi - lo
	if a.shift == 0 {
		size = max(size, 1)
	}
	bin := size / T(bins)
	samples := float64(a.ratio)
	if a.ratio == 0 {
		samples = math.Ceil(float64(bin))
	}
	b.taps, b.first, b.outside = b.taps[:0], b.first[:0], b.outside[:0]
	b.count = int(max(0, min(samples, maxWindow)))
	for i := range bins {
		b.first = append(b.first, len(b.taps))
		start := lo + T(T(i)*bin)
		at := func(k int) T { return start + T(T(T(k)+0.5)*bin)/T(samples) }
		// Only the samples inside are gone through: a region may be far larger than the input.
		from, to := 0, b.count
		if step := float64(bin) / samples; step > 0 && b.count > 4 {
			from = int(max(0, min(float64(to), (-1-float64(start))/step-2)))
			to = int(max(float64(from), min(float64(to), (float64(limit)-float64(start))/step+2)))
		}
		outside := from > 0 || to < b.count
		for k := from; k < to; k++ {
			v := at(k)
			if !(v >= -1 && v <= T(limit)) {
				outside = true
				continue
			}
			v = max(v, 0)
			t := roiTap[T]{lo: int(v)}
			if t.hi = t.lo + 1; t.hi >= limit {
				t.lo, t.hi, v = limit-1, limit-1, T(limit-1)
			}
			t.wh = v - T(t.lo)
			t.wl = 1 - t.wh
			b.taps = append(b.taps, t)
		}
		b.outside = append(b.outside, outside)
	}
	b.first = append(b.first, len(b.taps))
}

// regions calls f for channels [from, to) of each region of a part of the pairs region·channel, with the samples.
func (a *aligner[T]) regions(lo, hi int, f func(r, from, to int, y, x *roiBins[T])) {
	var y, x roiBins[T]
	for lo < hi {
		r := lo / a.c
		end := min(hi, (r+1)*a.c)
		box := a.rois[4*r : 4*r+4]
		y.fill(a, box[1], box[3], a.pooled[0], a.h)
		x.fill(a, box[0], box[2], a.pooled[1], a.w)
		f(r, lo-r*a.c, end-r*a.c, &y, &x)
		lo = end
	}
}

// reserve counts the memory of the samples, which a large sampling_ratio makes many.
func (a *aligner[T]) reserve(c *Ctx) (free func(), err error) {
	size, err := tensor.NumElements([]int{a.pooled[0] + a.pooled[1], a.ratio + 1, 32, c.Pool.Threads()})
	if err != nil {
		return nil, err
	}
	return func() { c.Mem.Give(int64(size)) }, c.Mem.Take(int64(size))
}

func roiAlign[T kernel.Float](c *Ctx) error {
	a, err := alignerOf[T](c, 0)
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), a.shape()...)
	if err != nil || out.Len() == 0 {
		return err
	}
	free, err := a.reserve(c)
	if err != nil {
		return err
	}
	defer free()
	src, dst := tensor.Data[T](c.In(0)), tensor.Data[T](out)
	ph, pw := a.pooled[0], a.pooled[1]
	c.Pool.For(len(a.batch)*a.c, 1+1024/(ph*pw), func(lo, hi int) {
		a.regions(lo, hi, func(r, from, to int, y, x *roiBins[T]) {
			total := T(max(1, float64(y.count)*float64(x.count)))
			for ch := from; ch < to; ch++ {
				in := src[(int(a.batch[r])*a.c+ch)*a.h*a.w:][:a.h*a.w]
				for i := range ph {
					row := dst[((r*a.c+ch)*ph+i)*pw:][:pw]
					ys := y.taps[y.first[i]:y.first[i+1]]
					for j := range row {
						xs := x.taps[x.first[j]:x.first[j+1]]
						if !a.max {
							row[j] = a.sum(in, ys, xs) / total
						} else if row[j], _, _ = a.top(in, ys, xs, y.outside[i] || x.outside[j]); y.count == 0 || x.count == 0 {
							row[j] = 0
						}
					}
				}
			}
		})
	})
	return nil
}

func (a *aligner[T]) sum(in []T, ys, xs []roiTap[T]) (sum T) {
	for _, y := range ys {
		upper, lower := in[y.lo*a.w:][:a.w], in[y.hi*a.w:][:a.w]
		for _, x := range xs {
			sum += y.wl*(x.wl*upper[x.lo]+x.wh*upper[x.hi]) + y.wh*(x.wl*lower[x.lo]+x.wh*lower[x.hi])
		}
	}
	return sum
}

// top is the largest of the weighed elements of all samples (not of the samples: the standard's answers have it
// so), its place and its weight; -1 for a sample outside, which counts as 0.
func (a *aligner[T]) top(in []T, ys, xs []roiTap[T], outside bool) (top T, at int, weight T) {
	if at = -1; !outside {
		top = T(math.Inf(-1))
	}
	see := func(i int, w T) {
		if v := w * in[i]; v > top || v != v && top == top {
			top, at, weight = v, i, w
		}
	}
	for _, y := range ys {
		for _, x := range xs {
			see(y.lo*a.w+x.lo, y.wl*x.wl)
			see(y.lo*a.w+x.hi, y.wl*x.wh)
			see(y.hi*a.w+x.lo, y.wh*x.wl)
			see(y.hi*a.w+x.hi, y.wh*x.wh)
		}
	}
	return top, at, weight
}

// regionGradient checks that dY, input 0, is of that shape, and makes the output like input 1, cleared.
func regionGradient[T kernel.Float](c *Ctx, shape []int) (dy, dx []T, err error) {
	if !slices.Equal(c.In(0).Shape(), shape) {
		return nil, nil, fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), shape)
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), c.In(1).Shape()...)
	if err != nil {
		return nil, nil, err
	}
	clearTensor(out)
	return tensor.Data[T](c.In(0)), tensor.Data[T](out), nil
}

// roiAlignGrad divides the channels among workers, since regions overlap.
func roiAlignGrad[T kernel.Float](c *Ctx) error {
	a, err := alignerOf[T](c, 1)
	if err != nil {
		return err
	}
	dy, dx, err := regionGradient[T](c, a.shape())
	if err != nil || len(dy) == 0 {
		return err
	}
	free, err := a.reserve(c)
	if err != nil {
		return err
	}
	defer free()
	src := tensor.Data[T](c.In(1))
	ph, pw := a.pooled[0], a.pooled[1]
	c.Pool.For(a.c, 1, func(lo, hi int) {
		for r := range a.batch {
			a.regions(r*a.c+lo, r*a.c+hi, func(r, from, to int, y, x *roiBins[T]) {
				total := T(max(1, float64(y.count)*float64(x.count)))
				for ch := from; ch < to; ch++ {
					plane := (int(a.batch[r])*a.c + ch) * a.h * a.w
					in, d := src[plane:plane+a.h*a.w], dx[plane:plane+a.h*a.w]
					for i := range ph {
						ys := y.taps[y.first[i]:y.first[i+1]]
						for j, v := range dy[((r*a.c+ch)*ph+i)*pw:][:pw] {
							xs := x.taps[x.first[j]:x.first[j+1]]
							if a.max {
								if _, at, w := a.top(in, ys, xs, y.outside[i] || x.outside[j]); at >= 0 {
									d[at] += w * v
								}
								continue
							}
							v /= total
							for _, y := range ys {
								upper, lower := d[y.lo*a.w:][:a.w], d[y.hi*a.w:][:a.w]
								for _, x := range xs {
									upper[x.lo] += v * y.wl * x.wl
									upper[x.hi] += v * y.wl * x.wh
									lower[x.lo] += v * y.wh * x.wl
									lower[x.hi] += v * y.wh * x.wh
								}
							}
						}
					}
				}
			})
		}
	})
	return nil
}

func pooledShape(n *Node) ([]int, error) {
	v := n.Ints("pooled_shape", nil)
	if len(v) != 2 {
		return nil, fmt.Errorf("pooled_shape %v is not a height and a width", v)
	}
	return regionSizes(v[0], v[1])
}

func inferMaxRoiPool(n *Node) ([]Info, error) {
	pooled, err := pooledShape(n)
	if err != nil {
		return nil, err
	}
	return inferRegions(n, 5, pooled)
}

// roiSpan is where bin i of a region between elements lo and hi lies, as Fast R-CNN defined it: whole elements,
// bins that overlap where they do not divide evenly.
func roiSpan[T kernel.Float](lo, hi T, i, bins, limit int) (from, to int) {
	first, last := math.Round(float64(lo)), math.Round(float64(hi))
	bin := T(max(last-first+1, 1)) / T(bins)
	within := func(v float64) int { return int(max(0, min(v, float64(limit)))) }
	return within(math.Floor(float64(T(i)*bin)) + first), within(math.Ceil(float64(T(i+1)*bin)) + first)
}

// eachRegionMax calls f with the place of the largest element of each bin, -1 if it is empty.
func eachRegionMax[T kernel.Float](c *Ctx, i int, pooled []int, f func(region, channel, bin, at int)) error {
	xs, regions, err := regionInputs(c, i, 5)
	if err != nil {
		return err
	}
	x, rois, scale := tensor.Data[T](c.In(i)), tensor.Data[T](c.In(i+1)), T(c.Node.Float("spatial_scale", 1))
	channels, h, w := xs[1], xs[2], xs[3]
	for r := range regions {
		for _, v := range rois[5*r : 5*r+5] {
			if v-v != 0 {
				return fmt.Errorf("region %d is not finite", r)
			}
		}
		if b := rois[5*r]; b < 0 || b >= T(xs[0]) || b != T(int(b)) {
			return fmt.Errorf("region %d is of image %v of %d", r, b, xs[0])
		}
	}
	c.Pool.For(channels, 1, func(lo, hi int) { // regions overlap, channels do not
		for r := range regions {
			box := rois[5*r : 5*r+5]
			for i := range pooled[0] {
				top, bottom := roiSpan(T(box[2]*scale), T(box[4]*scale), i, pooled[0], h)
				for j := range pooled[1] {
					left, right := roiSpan(T(box[1]*scale), T(box[3]*scale), j, pooled[1], w)
					for ch := lo; ch < hi; ch++ {
						plane, at := (int(box[0])*channels+ch)*h*w, -1
						for y := top; y < bottom; y++ {
							for k := plane + y*w + left; k < plane+y*w+right; k++ {
								if at < 0 || x[k] > x[at] || x[k] != x[k] && x[at] == x[at] {
									at = k
								}
							}
						}
						f(r, ch, i*pooled[1]+j, at)
					}
				}
			}
		}
	})
	return nil
}

func maxRoiPool[T kernel.Float](c *Ctx) error {
	pooled, err := pooledShape(c.Node)
	if err != nil {
		return err
	}
	xs, regions, err := regionInputs(c, 0, 5)
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), regions, xs[1], pooled[0], pooled[1])
	if err != nil {
		return err
	}
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](out)
	return eachRegionMax[T](c, 0, pooled, func(r, ch, bin, at int) {
		o := (r*xs[1]+ch)*pooled[0]*pooled[1] + bin
		if y[o] = 0; at >= 0 {
			y[o] = x[at]
		}
	})
}

func maxRoiPoolGrad[T kernel.Float](c *Ctx) error {
	pooled, err := pooledShape(c.Node)
	if err != nil {
		return err
	}
	xs, regions, err := regionInputs(c, 1, 5)
	if err != nil {
		return err
	}
	dy, dx, err := regionGradient[T](c, []int{regions, xs[1], pooled[0], pooled[1]})
	if err != nil {
		return err
	}
	return eachRegionMax[T](c, 1, pooled, func(r, ch, bin, at int) {
		if at >= 0 {
			dx[at] += dy[(r*xs[1]+ch)*pooled[0]*pooled[1]+bin]
		}
	})
}

// The gradients in standard operators

// roiSamples is [roiBins] of all regions along one axis.
type roiSamples struct {
	count  *onnx.Value // [regions]
	at     *onnx.Value // [regions, bins, samples, 2]: the elements that a sample lies between
	weight *onnx.Value // theirs; 0 of a sample outside
	inside *onnx.Value // [regions, bins, samples]
	beyond *onnx.Value // [regions, bins]: some sample lies outside
}

// roiSamples finds the samples of regions from lo to hi, columns of rois, along an axis of that many bins and elements.
func (g *Grad) roiSamples(rois *onnx.Value, lo, hi int64, bins, ratio int, scale, shift float64, limit *onnx.Value) *roiSamples {
	d := g.DType(rois)
	num := func(v float64) *onnx.Value { return g.Like(rois, v) }
	line := func(count *onnx.Value) *onnx.Value {
		return g.Op("Range", g.Const(tensor.Scalar(int64(0))), count, g.Const(tensor.Scalar(int64(1))))
	}
	end := func(column int64) *onnx.Value { // [regions, 1, 1]
		v := g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, rois, g.Int64s(column))
		return g.Op("Unsqueeze", g.Sub(g.Mul(v, num(scale)), num(shift)), g.Int64s(2))
	}
	from := end(lo)
	size := g.Sub(end(hi), from)
	if shift == 0 {
		size = g.Op("Max", size, num(1))
	}
	bin := g.Div(size, num(float64(bins)))
	samples := g.ExpandTo(num(float64(ratio)), bin)
	if ratio == 0 {
		samples = g.Op("Max", g.Op("Ceil", bin), num(0))
	}
	most := g.Op("ReduceMax", g.Node("Concat", 1, []*onnx.Value{g.Flat(samples), g.Fill(rois, g.Int64s(1), 0)}, IntAttr("axis", 0))[0])
	most = g.Op("Squeeze", g.Cast(most, tensor.Int64))
	k := g.Cast(line(most), d)
	start := g.Add(from, g.Mul(g.Cast(g.Op("Unsqueeze", line(g.Const(tensor.Scalar(int64(bins)))), g.Int64s(1)), d), bin))
	v := g.Add(start, g.Div(g.Mul(g.Add(k, num(0.5)), bin), g.Op("Max", samples, num(1))))
	asked := g.Op("Less", k, samples)
	wide := g.Cast(limit, d)
	within := g.Op("And", g.Op("GreaterOrEqual", v, num(-1)), g.Op("LessOrEqual", v, wide))
	s := &roiSamples{count: g.Op("Reshape", samples, g.Int64s(-1)), inside: g.Op("And", asked, within)}
	outside := g.Cast(g.Op("And", asked, g.Op("Not", within)), tensor.Int64)
	s.beyond = g.Op("Greater", g.ReduceSum(outside, false, 2), g.Const(tensor.Scalar(int64(0))))
	last := g.Sub(wide, num(1))
	v = g.Op("Min", g.Op("Max", g.Op("Where", s.inside, v, num(0)), num(0)), last)
	low := g.Op("Floor", v)
	high := g.Op("Min", g.Add(low, num(1)), last)
	part := g.Sub(v, low)
	pair := func(a, b *onnx.Value) *onnx.Value {
		axis := g.Int64s(-1)
		return g.Node("Concat", 1, []*onnx.Value{g.Op("Unsqueeze", a, axis), g.Op("Unsqueeze", b, axis)}, IntAttr("axis", -1))[0]
	}
	s.at = g.Cast(pair(low, high), tensor.Int64)
	s.weight = g.Op("Where", g.Op("Unsqueeze", s.inside, g.Int64s(-1)), pair(g.Sub(num(1), part), part), num(0))
	return s
}

// roiMatrix is what each element weighs in each bin: [regions, bins, elements].
func (g *Grad) roiMatrix(s *roiSamples, limit *onnx.Value) *onnx.Value {
	head := g.Op("Slice", g.Shape(s.at), g.Int64s(0), g.Int64s(2))
	taps := g.Concat(head, g.Op("Mul", g.Dims(s.at, 2), g.Int64s(2)))
	zeros := g.Fill(s.weight, g.Concat(head, g.Op("Unsqueeze", limit, g.Int64s(0))), 0)
	return g.Node("ScatterElements", 1, []*onnx.Value{zeros, g.Reshape(s.at, taps), g.Reshape(s.weight, taps)}, IntAttr("axis", 2), StringAttr("reduction", "add"))[0]
}

// planes is where the channels of each region's image begin among x's elements: [regions, C, 1, 1].
func (g *Grad) planes(x, image *onnx.Value) *onnx.Value {
	first := g.Op("Mul", g.Op("Reshape", image, g.Int64s(-1, 1)), g.Dims(x, 1))
	plane := g.Op("Add", first, g.Positions(x, 1))
	return g.Op("Unsqueeze", g.Op("Mul", plane, g.Op("Mul", g.Dims(x, 2), g.Dims(x, 3))), g.Int64s(2, 3))
}

// scattered adds values to the elements of zeros like x that at numbers.
func (g *Grad) scattered(x, at, values *onnx.Value) *onnx.Value {
	zeros := g.Fill(x, g.Op("Unsqueeze", g.Op("Size", x), g.Int64s(0)), 0)
	sum := g.Node("ScatterElements", 1, []*onnx.Value{zeros, g.Flat(at), g.Flat(values)}, StringAttr("reduction", "add"))[0]
	return g.ReshapeLike(sum, x)
}

// portableRoiAlignGrad: an average is a product of the image with a matrix for each axis. Of a maximum all candidates are listed.
func portableRoiAlignGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	pooled, ratio, half, most, err := roiAlignOf(n)
	if err != nil {
		return nil, err
	}
	dy, x, rois, image := n.Inputs[0], n.Inputs[1], n.Inputs[2], n.Inputs[3]
	scale, shift := float64(n.Float("spatial_scale", 1)), 0.0
	if half {
		shift = 0.5
	}
	h, w := g.Dim(x, 2), g.Dim(x, 3)
	ys := g.roiSamples(rois, 1, 3, pooled[0], ratio, scale, shift, h)
	xs := g.roiSamples(rois, 0, 2, pooled[1], ratio, scale, shift, w)
	if !most {
		total := g.Op("Max", g.Mul(ys.count, xs.count), g.Like(rois, 1))
		dy = g.Div(dy, g.Op("Unsqueeze", total, g.Int64s(1, 2, 3)))
		rows := g.MatMul(g.Transpose(g.Op("Unsqueeze", g.roiMatrix(ys, h), g.Int64s(1))), dy) // [regions, C, H, bins]
		bins := g.Op("Mul", g.Dims(rows, 0), g.Dims(rows, 3))
		lines := g.Op("Mul", g.Dims(x, 1), g.Dims(x, 2))
		rows = g.Reshape(g.Transpose(rows, 1, 2, 0, 3), g.Concat(lines, bins))
		// The columns of the regions of each image alone.
		own := g.Op("Equal", g.Op("Unsqueeze", g.Positions(x, 0), g.Int64s(1)), image)
		cols := g.Mul(g.Op("Unsqueeze", g.Cast(own, g.DType(x)), g.Int64s(2, 3)), g.roiMatrix(xs, w)) // [N, regions, bins, W]
		cols = g.Reshape(cols, g.Concat(g.Dims(x, 0), bins, g.Dims(x, 3)))
		return []*onnx.Value{g.ReshapeLike(g.MatMul(rows, cols), x)}, nil
	}
	// [regions, C, bins, bins, samples, samples, 2, 2], to be listed along the last axis.
	up := func(v *onnx.Value) *onnx.Value { return g.Op("Unsqueeze", v, g.Int64s(1, 3, 5, 7)) }
	across := func(v *onnx.Value) *onnx.Value { return g.Op("Unsqueeze", v, g.Int64s(1, 2, 4, 6)) }
	inside := func(s *roiSamples) *onnx.Value {
		return g.ExpandTo(g.Op("Unsqueeze", s.inside, g.Int64s(-1)), s.at)
	}
	least := g.Like(x, math.Inf(-1))
	at := g.Op("Add", g.Op("Mul", up(ys.at), w), across(xs.at))
	weight := g.Mul(up(ys.weight), across(xs.weight))
	head := g.Op("Slice", g.Shape(at), g.Int64s(0), g.Int64s(4))
	list := g.Concat(head, g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, g.Tail(g.Shape(at), 4)))
	// A sample outside counts as 0, before all others; else nothing stands there.
	before := func(v *onnx.Value, first *onnx.Value) *onnx.Value {
		return g.Node("Concat", 1, []*onnx.Value{first, v}, IntAttr("axis", -1))[0]
	}
	begin := g.Op("Unsqueeze", g.planes(x, image), g.Int64s(-1))
	spot := g.Op("Add", g.Reshape(at, list), begin) // [regions, C, bins, bins, candidates]
	full := g.Shape(spot)
	value := g.Mul(g.Op("Gather", g.Flat(x), spot), g.Reshape(weight, list))
	value = g.Op("Where", g.Reshape(g.Op("And", up(inside(ys)), across(inside(xs))), list), value, least)
	one := g.Concat(g.Op("Slice", full, g.Int64s(0), g.Int64s(4)), g.Int64s(1))
	beyond := g.Op("Or", g.Op("Unsqueeze", ys.beyond, g.Int64s(1, 3)), g.Op("Unsqueeze", xs.beyond, g.Int64s(1, 2)))
	nothing := g.Op("Where", g.Op("Unsqueeze", beyond, g.Int64s(-1)), g.Like(x, 0), least)
	value = before(value, g.Op("Expand", nothing, one))
	best := g.With("ArgMax", []*onnx.Attribute{IntAttr("axis", -1)}, value)
	pick := func(v, first *onnx.Value) *onnx.Value {
		v = before(g.Op("Expand", v, full), g.Op("Expand", first, one))
		return g.Op("Squeeze", g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", -1)}, v, best), g.Int64s(-1))
	}
	spot = pick(spot, g.Int64s(0))
	return []*onnx.Value{g.scattered(x, spot, g.Mul(dy, pick(g.Reshape(weight, list), g.Like(x, 0))))}, nil
}

// roiMask is which elements of an axis lie in each bin of regions between columns lo and hi: [regions, bins, elements]. See [roiSpan].
func (g *Grad) roiMask(rois *onnx.Value, lo, hi int64, bins int, scale float64, limit *onnx.Value) *onnx.Value {
	wide := func(v float64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
	end := func(column int64) *onnx.Value { // [regions, 1], rounded away from 0
		v := g.Mul(g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, rois, g.Int64s(column)), g.Like(rois, scale))
		v = g.Cast(v, tensor.Float64)
		return g.Mul(g.Op("Sign", v), g.Op("Floor", g.Add(g.Op("Abs", v), wide(0.5))))
	}
	first := end(lo)
	size := g.Op("Max", g.Add(g.Sub(end(hi), first), wide(1)), wide(1))
	bin := g.Div(g.Cast(size, g.DType(rois)), g.Like(rois, float64(bins)))
	edge := func(round string, from int) *onnx.Value { // [regions, bins, 1]
		at := make([]float64, bins)
		for i := range at {
			at[i] = float64(from + i)
		}
		v := g.Mul(bin, g.Cast(g.Const(tensor.New(at, bins)), g.DType(rois)))
		return g.Op("Unsqueeze", g.Add(g.Op(round, g.Cast(v, tensor.Float64)), first), g.Int64s(2))
	}
	zero, one := g.Const(tensor.Scalar(int64(0))), g.Const(tensor.Scalar(int64(1)))
	element := g.Cast(g.Op("Range", zero, limit, one), tensor.Float64)
	return g.Op("And", g.Op("GreaterOrEqual", element, edge("Floor", 0)), g.Op("Less", element, edge("Ceil", 1)))
}

// portableMaxRoiPoolGrad finds the greatest element of each row of a bin, and then of its rows.
func portableMaxRoiPoolGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	pooled, err := pooledShape(n)
	if err != nil {
		return nil, err
	}
	dy, x, rois := n.Inputs[0], n.Inputs[1], n.Inputs[2]
	scale := float64(n.Float("spatial_scale", 1))
	image := g.Cast(g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, rois, g.Const(tensor.Scalar(int64(0)))), tensor.Int64)
	rows, cols := g.roiMask(rois, 2, 4, pooled[0], scale, g.Dim(x, 2)), g.roiMask(rois, 1, 3, pooled[1], scale, g.Dim(x, 3))
	least := g.Like(x, math.Inf(-1))
	greatest := func(in, v *onnx.Value, axis int64) (value, at *onnx.Value) {
		v = g.Op("Where", in, v, least)
		keep := IntAttr("keepdims", 0)
		return g.With("ReduceMax", []*onnx.Attribute{keep}, v, g.Int64s(axis)), g.With("ArgMax", []*onnx.Attribute{keep, IntAttr("axis", axis)}, v)
	}
	own := g.Op("Unsqueeze", g.Op("Gather", x, image), g.Int64s(3))                                     // [regions, C, H, 1, W]
	top, col := greatest(g.Op("Unsqueeze", cols, g.Int64s(1, 2)), own, 4)                               // [regions, C, H, bins]
	_, row := greatest(g.Op("Unsqueeze", rows, g.Int64s(1, 4)), g.Op("Unsqueeze", top, g.Int64s(2)), 3) // [regions, C, bins, bins]
	col = g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", 2)}, col, row)
	some := func(mask *onnx.Value) *onnx.Value {
		return g.With("ReduceMax", []*onnx.Attribute{IntAttr("keepdims", 0)}, g.Cast(mask, tensor.Int64), g.Int64s(2))
	}
	there := g.Op("Mul", g.Op("Unsqueeze", some(rows), g.Int64s(1, 3)), g.Op("Unsqueeze", some(cols), g.Int64s(1, 2)))
	at := g.Op("Add", g.planes(x, image), g.Op("Add", g.Op("Mul", row, g.Dim(x, 3)), col))
	return []*onnx.Value{g.scattered(x, at, g.Mul(dy, g.Cast(there, g.DType(dy))))}, nil
}
