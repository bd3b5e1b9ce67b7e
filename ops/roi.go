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
	regions := func(name string, since []int, types []TypeSet, infer func(*Node) ([]Info, error), f32, f64, g32, g64 Kernel) {
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
				Compile: Table{tensor.Float32: g32, tensor.Float64: g64}.Always(0), NoGrad: noSecond},
		)
	}
	regions("RoiAlign", []int{10, 16, 22}, []TypeSet{Floats, Floats, Of(tensor.Int64)}, inferRoiAlign,
		roiAlign[float32], roiAlign[float64], roiAlignGrad[float32], roiAlignGrad[float64])
	regions("MaxRoiPool", []int{1, 22}, []TypeSet{Floats, Floats}, inferMaxRoiPool,
		maxRoiPool[float32], maxRoiPool[float64], maxRoiPoolGrad[float32], maxRoiPoolGrad[float64])
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
	size := int64(a.pooled[0]+a.pooled[1]) * int64(a.ratio+1) * 32 * int64(c.Pool.Threads())
	return func() { c.Mem.Give(size) }, c.Mem.Take(size)
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
