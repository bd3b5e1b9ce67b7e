package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Resize and Upsample. Every mode is separable: one pass for each axis that changes, each
// output a weighted sum of a few inputs ([axisTaps]).
func init() {
	idx := Of(tensor.Int64)
	register(
		Op{Name: "Upsample", Since: []int{1, 7}, MinIn: 1, Infer: inferResize, Compile: compileResize, Grad: gradResize},
		Op{Name: "Upsample", Since: []int{9, 10}, MinIn: 2, Types: []TypeSet{0, Floats}, Infer: inferResize, Compile: compileResize, Grad: gradResize},
		Op{Name: "Resize", Since: []int{10}, MinIn: 2, Types: []TypeSet{0, Floats}, Infer: inferResize, Compile: compileResize, Grad: gradResize},
		Op{Name: "Resize", Since: []int{11, 13, 18, 19}, MinIn: 1, MaxIn: 4, Types: []TypeSet{0, Floats, Floats, idx}, Infer: inferResize, Compile: compileResize, Grad: gradResize},
		// dY, shape of X, roi, scales, sizes
		Op{Domain: Internal, Name: "ResizeGrad", Since: []int{1}, MinIn: 2, MaxIn: 5, Types: []TypeSet{Floats, Index, 0, 0, 0}, Infer: inferShapeInput(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: resizeGrad[float32], tensor.Float64: resizeGrad[float64]}.By(0), nil
			}, Portable: portableResizeGrad},
	)
}

// resizeForm is the operator and version that a node stands for: a gradient carries its
// forward node's.
func resizeForm(n *Node) (upsample bool, since int) {
	if n.Domain == Internal {
		return n.Int("upsample", 0) != 0, int(n.Int("since", 19))
	}
	return n.Op == "Upsample", n.Since
}

// resizeArgs is roi, scales and sizes as they are given, nil where they are not.
type resizeArgs struct {
	roi, scales []float64
	sizes       []int64
}

func floatList(t *tensor.Tensor) []float64 {
	if t == nil || t.Len() == 0 {
		return nil
	}
	out := make([]float64, t.Len())
	for i := range out {
		out[i] = tensor.Float64At(t, i)
	}
	return out
}

// scalesOf is the scales that attributes give, as an input.
func (g *Grad) scalesOf(n *Node) (*onnx.Value, error) {
	a, err := resizeInputs(n, func(int) *tensor.Tensor { return nil })
	if err != nil {
		return nil, err
	}
	list := make([]float32, len(a.scales))
	for i, s := range a.scales {
		list[i] = float32(s)
	}
	return g.Const(tensor.New(list)), nil
}

// resizeInputs reads them by get, which gives input i (of the operator at 11 and later).
func resizeInputs(n *Node, get func(i int) *tensor.Tensor) (a resizeArgs, err error) {
	upsample, since := resizeForm(n)
	switch {
	case upsample && since < 7:
		a.scales = []float64{1, 1, float64(n.Float("height_scale", 0)), float64(n.Float("width_scale", 0))}
	case upsample && since < 9:
		v := n.Attr("scales")
		if v == nil {
			return a, fmt.Errorf("scales is missing")
		}
		for _, f := range v.Floats {
			a.scales = append(a.scales, float64(f))
		}
	default:
		a.roi, a.scales = floatList(get(1)), floatList(get(2))
		if t := get(3); t != nil && t.Len() > 0 {
			if a.sizes, err = t.Int64s(); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

// resizeInput is where input i of the operator at 11 is among n's, -1 for nowhere.
func resizeInput(n *Node, i int) int {
	upsample, since := resizeForm(n)
	switch {
	case n.Domain == Internal:
		return i + 1
	case upsample || since < 11:
		if i == 2 {
			return 1
		}
		return -1
	}
	return i
}

type axisResize struct {
	in, out    int
	scale      float64
	start, end float64 // of the roi
}

// resizeShape is how each axis of xs changes.
func resizeShape(n *Node, xs []int, a resizeArgs) ([]axisResize, error) {
	rank := len(xs)
	out := make([]axisResize, rank)
	for i, d := range xs {
		out[i] = axisResize{in: d, out: d, scale: 1, end: 1}
	}
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if v := n.Ints("axes", nil); len(v) > 0 {
		var err error
		if axes, err = NormAxes(v, rank); err != nil {
			return nil, err
		}
	}
	if (a.scales == nil) == (a.sizes == nil) {
		return nil, fmt.Errorf("one of scales and sizes is needed, and one only")
	}
	if max(len(a.scales), len(a.sizes)) != len(axes) {
		return nil, fmt.Errorf("%d scales or sizes for %d axes", max(len(a.scales), len(a.sizes)), len(axes))
	}
	if n.Str("coordinate_transformation_mode", "") == "tf_crop_and_resize" {
		if len(a.roi) != 2*len(axes) {
			return nil, fmt.Errorf("a roi of %d numbers for %d axes", len(a.roi), len(axes))
		}
		for i, ax := range axes {
			out[ax].start, out[ax].end = a.roi[i], a.roi[len(axes)+i]
		}
	}
	common, policy := 0.0, n.Str("keep_aspect_ratio_policy", "stretch")
	for i, ax := range axes {
		d := &out[ax]
		if a.scales != nil {
			s := a.scales[i]
			if !(s > 0) || s > maxWindow {
				return nil, fmt.Errorf("scale %v is out of range", s)
			}
			size := float64(float32(d.in) * float32(s))
			if size > maxWindow {
				return nil, fmt.Errorf("scale %v is too large for an axis of %d", s, d.in)
			}
			d.scale, d.out = s, int(size)
			continue
		}
		size := a.sizes[i]
		if size < 0 || size > maxWindow || d.in == 0 && size > 0 {
			return nil, fmt.Errorf("size %d for an axis of %d is out of range", size, d.in)
		}
		d.out, d.scale = int(size), 1
		if d.in > 0 && size > 0 {
			d.scale = float64(size) / float64(d.in)
		}
		if i == 0 || policy == "not_larger" && d.scale < common || policy == "not_smaller" && d.scale > common {
			common = d.scale
		}
	}
	switch policy {
	case "stretch":
	case "not_larger", "not_smaller":
		if a.sizes == nil {
			break
		}
		for _, ax := range axes {
			d := &out[ax]
			size := math.Floor(common*float64(d.in) + 0.5)
			if size > maxWindow {
				return nil, fmt.Errorf("an axis of %d becomes too large", d.in)
			}
			d.scale, d.out = common, int(size)
		}
	default:
		return nil, fmt.Errorf("keep_aspect_ratio_policy %q is not known", policy)
	}
	return out, nil
}

func inferResize(n *Node) ([]Info, error) {
	x := n.In[0]
	out := Unranked(x.DType)
	if !x.Ranked {
		return []Info{out}, nil
	}
	out = Tensor(x.DType, unknownDims(len(x.Shape))...)
	for _, i := range []int{1, 2, 3} {
		if k := resizeInput(n, i); k >= 0 && n.Has(k) && n.Info(k).Const == nil {
			if s, ok := n.Info(k).Static(); !ok || product(s) != 0 {
				if i == 1 && n.Str("coordinate_transformation_mode", "") != "tf_crop_and_resize" {
					continue // not read
				}
				if i != 3 || n.Info(k).Values == nil {
					return []Info{out}, nil
				}
			}
		}
	}
	if k := resizeInput(n, 3); k >= 0 && n.Has(k) && n.Info(k).Const == nil && n.Info(k).Values != nil {
		resizeToSizes(n, out.Shape, x.Shape, n.Info(k).Values)
		return []Info{out}, nil
	}
	a, err := resizeInputs(n, func(i int) *tensor.Tensor {
		if k := resizeInput(n, i); k >= 0 {
			return n.Info(k).Const
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	xs, ok := x.Static()
	if !ok {
		if a.sizes != nil {
			resizeToSizes(n, out.Shape, x.Shape, numbers(a.sizes))
		} else {
			resizeByScales(n, out.Shape, x.Shape, a.scales)
		}
		return []Info{out}, nil
	}
	axes, err := resizeShape(n, xs, a)
	if err != nil {
		return nil, err
	}
	for i, d := range axes {
		out.Shape[i] = D(d.out)
	}
	return []Info{out}, nil
}

// resizeAxes is the axes that count scales or sizes are for, nil if they are for no such tensor.
func resizeAxes(n *Node, rank, count int) []int {
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if v := n.Ints("axes", nil); len(v) > 0 {
		axes, _ = NormAxes(v, rank)
	}
	if len(axes) != count {
		return nil
	}
	return axes
}

// resizeToSizes notes in out what sizes make of dimensions that are no numbers.
func resizeToSizes(n *Node, out, x, sizes []Dim) {
	axes := resizeAxes(n, len(x), len(sizes))
	if axes == nil || n.Str("keep_aspect_ratio_policy", "stretch") != "stretch" {
		return
	}
	copy(out, x)
	for i, a := range axes {
		out[a] = sizes[i]
	}
}

// resizeByScales notes in out what scales make of dimensions that are no numbers: multiples and binary fractions, with which float32, in
// which sizes are computed, is exact up to 2²⁴.
func resizeByScales(n *Node, out, x []Dim, scales []float64) {
	axes := resizeAxes(n, len(x), len(scales))
	if axes == nil {
		return
	}
	copy(out, x)
	for i, a := range axes {
		const parts = 1 << 10
		if s := scales[i] * parts; s == math.Trunc(s) && s > 0 && s < 1<<20 {
			out[a] = x[a].Mul(D(int(s))).FloorDiv(D(parts))
		} else {
			out[a] = Unknown
		}
	}
}

// axisTaps is the taps of each output along an axis: width of them, of weight 0 where there
// are fewer. outside marks outputs whose place is outside the input.
type axisTaps struct {
	in, out, width int
	at             []int
	w              []float64
	w32            []float32 // the same
	outside        []bool
}

func tapWeights[T kernel.Float](t *axisTaps) []T {
	if w, ok := any(&t.w32).(*[]T); ok { // a pointer, since a slice in an interface is memory
		return *w
	}
	return *any(&t.w).(*[]T)
}

// resizePlace is where the input has the i-th output of an axis, NaN if the transformation is not known.
func resizePlace[T kernel.Float](d axisResize, coord string, i int) T {
	o, in, scale, start, end := T(i), T(d.in), T(d.scale), T(d.start), T(d.end)
	out := scale * in
	switch coord {
	case "tf_half_pixel_for_nn":
		return (o + 0.5) / scale
	case "half_pixel":
		return (o+0.5)/scale - 0.5
	case "pytorch_half_pixel":
		if d.out <= 1 {
			return 0
		}
		return (o+0.5)/scale - 0.5
	case "align_corners":
		if d.out <= 1 || out <= 1 {
			return 0
		}
		return o * (in - 1) / (out - 1)
	case "asymmetric":
		return o / scale
	case "tf_crop_and_resize":
		if d.out <= 1 || out <= 1 {
			return (start + end) * (in - 1) / 2
		}
		return start*(in-1) + o*(end-start)*(in-1)/(out-1)
	case "half_pixel_symmetric":
		return in/2*(1-T(d.out)/out) + (o+0.5)/scale - 0.5
	}
	return T(math.NaN())
}

func resizeTaps(n *Node, d axisResize) (*axisTaps, error) {
	upsample, since := resizeForm(n)
	mode, coord := n.Str("mode", "nearest"), n.Str("coordinate_transformation_mode", "half_pixel")
	round := n.Str("nearest_mode", "round_prefer_floor")
	if upsample || since < 11 {
		coord, round = "asymmetric", "floor"
		if d.scale < 1 {
			round = "ceil"
		}
	}
	if mode == "bilinear" {
		mode = "linear"
	}
	place := func(i int) float64 { return resizePlace[float64](d, coord, i) }
	if mode == "nearest" { // which of two pixels it is hangs on the last bit: scales are float32, and so does everyone compute
		place = func(i int) float64 { return float64(resizePlace[float32](d, coord, i)) }
	}
	t := &axisTaps{in: d.in, out: d.out, width: 1}
	if d.out == 0 || d.in == 0 {
		return t, nil
	}
	if math.IsNaN(place(0)) {
		return nil, fmt.Errorf("coordinate_transformation_mode %q is not known, or its roi is not finite", coord)
	}
	anti := 1.0
	if n.Int("antialias", 0) != 0 {
		anti = math.Min(d.scale, 1)
	}
	support := 0.0
	switch mode {
	case "nearest":
	case "linear":
		support = 1
	case "cubic":
		support = 2
	default:
		return nil, fmt.Errorf("mode %q is not known", mode)
	}
	first := 0 // of the taps, from the input before the place
	if support > 0 {
		if support/anti > 1<<20 {
			return nil, fmt.Errorf("scale %v is out of range", d.scale)
		}
		first = int(math.Floor(-support/anti)) + 1
		t.width = 2 - 2*first
	}
	if _, err := tensor.ByteSize(tensor.Float64, []int{d.out, t.width}); err != nil {
		return nil, err
	}
	t.at, t.w, t.outside = make([]int, d.out*t.width), make([]float64, d.out*t.width), make([]bool, d.out)
	coeff, exclude := float64(n.Float("cubic_coeff_a", -0.75)), n.Int("exclude_outside", 0) != 0
	for i := range d.out {
		x := place(i)
		t.outside[i] = coord == "tf_crop_and_resize" && (x < 0 || x > float64(d.in-1))
		x = math.Max(-maxWindow, math.Min(maxWindow, x)) // whatever a roi says
		at, w := t.at[i*t.width:(i+1)*t.width], t.w[i*t.width:(i+1)*t.width]
		if mode == "nearest" {
			switch round {
			case "round_prefer_floor":
				x = math.Ceil(x - 0.5)
			case "round_prefer_ceil":
				x = math.Floor(x + 0.5)
			case "floor":
				x = math.Floor(x)
			case "ceil":
				x = math.Ceil(x)
			default:
				return nil, fmt.Errorf("nearest_mode %q is not known", round)
			}
			at[0], w[0] = min(max(int(x), 0), d.in-1), 1
			continue
		}
		base := int(math.Ceil(x)) - 1
		ratio, sum := x-float64(base), 0.0
		for k := range w {
			v := math.Abs(float64(first+k)-ratio) * anti
			if mode == "linear" {
				w[k] = math.Max(0, 1-v)
			} else {
				w[k], _ = cubicWeight(coeff, v)
			}
			p := base + first + k
			if exclude && (p < 0 || p >= d.in) {
				w[k] = 0
			}
			at[k] = min(max(p, 0), d.in-1)
			sum += w[k]
		}
		if (exclude || anti < 1) && sum != 0 {
			for k := range w {
				w[k] /= sum
			}
		}
	}
	t.w32 = make([]float32, len(t.w))
	for k, w := range t.w {
		t.w32[k] = float32(w)
	}
	return t, nil
}

// cubicWeight is the cubic convolution kernel with coefficient a (Keys, 1981) at distance v ≥ 0, and its derivative.
func cubicWeight(a, v float64) (w, dw float64) {
	switch {
	case v <= 1:
		return ((a+2)*v-(a+3))*v*v + 1, (3*(a+2)*v - 2*(a+3)) * v
	case v < 2:
		return ((a*v-5*a)*v+8*a)*v - 4*a, (3*a*v-10*a)*v + 8*a
	}
	return 0, 0
}

// resizeAll is the taps of the axes that change, nil for those that do not.
func resizeAll(n *Node, axes []axisResize) ([]*axisTaps, error) {
	taps := make([]*axisTaps, len(axes))
	for i, d := range axes {
		if d.in == d.out && d.scale == 1 && d.start == 0 && d.end == 1 && n.Str("coordinate_transformation_mode", "") != "tf_half_pixel_for_nn" {
			continue
		}
		var err error
		if taps[i], err = resizeTaps(n, d); err != nil {
			return nil, err
		}
	}
	return taps, nil
}

// resizing is how each axis changes.
type resizing struct {
	axes  []axisResize
	taps  []*axisTaps // nil for axes that do not change
	shape []int       // of the output
	order []int       // in which the axes that change are worked
}

// resizeOf is that of a tensor of shape xs.
func resizeOf(c *Ctx, xs []int) (*resizing, error) {
	return Keep(c, func() (*resizing, error) {
		n := c.Node
		a, err := resizeInputs(n, func(i int) *tensor.Tensor {
			if k := resizeInput(n, i); k >= 0 {
				return c.In(k)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		r := &resizing{shape: make([]int, len(xs))}
		if r.axes, err = resizeShape(n, xs, a); err != nil {
			return nil, err
		}
		if r.taps, err = resizeAll(n, r.axes); err != nil {
			return nil, err
		}
		// Along which axes the tensor grows they come last to first, so that whole rows are what is written most.
		grows := 1.0
		for i, d := range r.axes {
			if r.shape[i] = d.out; r.taps[i] != nil {
				r.order = append(r.order, i)
				grows *= float64(d.out) / float64(max(d.in, 1))
			}
		}
		if grows > 1 {
			slices.Reverse(r.order)
		}
		return r, nil
	}, 1, 2, 3, 4)
}

// axisPass is a pass along one axis of a tensor of outer such axes, each of inner elements a step.
type axisPass[T any] struct {
	y, x         []T
	t            *axisTaps
	outer, inner int
}

// picked is a pass in mode nearest.
type picked[T any] axisPass[T]

func pickAxis[T any](p *kernel.Pool, a axisPass[T]) {
	if a.inner == 1 {
		kernel.InParts(p, a.outer, 1+4096/max(1, a.t.out), picked[T](a))
		return
	}
	kernel.InParts(p, a.outer*a.t.out, 1+4096/max(1, a.inner), picked[T](a))
}

// Part computes the rows [lo, hi) of the output, which are the axes themselves where a step is one element.
func (a picked[T]) Part(lo, hi int) {
	t := a.t
	block, o := lo/t.out, lo%t.out
	for i := lo; i < hi; i++ {
		if a.inner > 1 {
			at := (block*t.in + t.at[o]) * a.inner
			copy(a.y[i*a.inner:(i+1)*a.inner], a.x[at:at+a.inner])
			if o++; o == t.out {
				block, o = block+1, 0
			}
			continue
		}
		src, dst := a.x[i*t.in:(i+1)*t.in], a.y[i*t.out:(i+1)*t.out]
		for o, at := range t.at[:len(dst)] {
			dst[o] = src[at]
		}
	}
}

// summed is a pass in the other modes.
type summed[T kernel.Float] axisPass[T]

func sumAxis[T kernel.Float](p *kernel.Pool, a axisPass[T]) {
	if a.inner == 1 {
		kernel.InParts(p, a.outer, 1+4096/max(1, a.t.out*a.t.width), summed[T](a))
		return
	}
	kernel.InParts(p, a.outer*a.t.out, 1+4096/max(1, a.inner*a.t.width), summed[T](a))
}

// Part computes the rows [lo, hi) of the output, which are the axes themselves where a step is one element.
func (a summed[T]) Part(lo, hi int) {
	t, weights := a.t, tapWeights[T](a.t)
	for i := lo; i < hi; i++ {
		if a.inner > 1 {
			row, o := a.y[i*a.inner:(i+1)*a.inner], i%t.out
			clear(row)
			for k := o * t.width; k < (o+1)*t.width; k++ {
				if w := weights[k]; w != 0 {
					at := (i/t.out*t.in + t.at[k]) * a.inner
					kernel.Axpy(row, w, a.x[at:at+a.inner])
				}
			}
			continue
		}
		src, dst := a.x[i*t.in:(i+1)*t.in], a.y[i*t.out:(i+1)*t.out]
		for o := range dst {
			var sum T
			for k := o * t.width; k < (o+1)*t.width; k++ {
				if w := weights[k]; w != 0 {
					sum += w * src[t.at[k]]
				}
			}
			dst[o] = sum
		}
	}
}

// resizeRoom is memory for what passes leave for the next, and the shape that it has.
type resizeRoom[T any] struct {
	rooms [][]T
	shape []int
}

// passes runs pass for each axis that changes; the last writes y.
func passes[T any](c *Ctx, y, x []T, r *resizing, pass func(p *kernel.Pool, a axisPass[T])) error {
	if len(r.order) == 0 {
		copy(y, x)
		return nil
	}
	if len(y) == 0 {
		return nil
	}
	s := Scratch[resizeRoom[T]](c)
	s.shape = s.shape[:0]
	for _, d := range r.axes {
		s.shape = append(s.shape, d.in)
	}
	taken := int64(0)
	defer func() { c.Mem.Give(taken) }()
	for k, i := range r.order {
		t := r.taps[i]
		s.shape[i] = t.out
		dst := y
		if k < len(r.order)-1 {
			size, err := tensor.ByteSize(tensor.Complex128, s.shape)
			if err != nil {
				return err
			}
			if err := c.Mem.Take(int64(size)); err != nil {
				return err
			}
			taken += int64(size)
			n := product(s.shape)
			if len(s.rooms) == k {
				s.rooms = append(s.rooms, make([]T, n))
			}
			dst = s.rooms[k][:n]
		}
		pass(c.Pool, axisPass[T]{dst, x, t, product(s.shape[:i]), product(s.shape[i+1:])})
		x = dst
	}
	return nil
}

// eachOutside calls f for the elements of the output that lie outside the input.
func eachOutside(axes []axisResize, taps []*axisTaps, size int, f func(i int)) {
	any := false
	for _, t := range taps {
		if t != nil {
			for _, o := range t.outside {
				any = any || o
			}
		}
	}
	if !any {
		return
	}
	for i := range size {
		rest := i
		for k := len(axes) - 1; k >= 0; k-- {
			if t := taps[k]; t != nil && t.outside[rest%axes[k].out] {
				f(i)
				break
			}
			rest /= axes[k].out
		}
	}
}

func compileResize(n *Node) (Kernel, error) {
	if n.Str("mode", "nearest") == "nearest" {
		return resizeNearest, nil
	}
	real := Table{tensor.Float32: resizeSum[float32], tensor.Float64: resizeSum[float64]}.By(0)
	integer := viaFloat64(resizeSum[float64])
	return func(c *Ctx) error {
		if x := c.In(0); x != nil && x.DType().IsInteger() {
			return integer(c)
		}
		return real(c)
	}, nil
}

func resizeNearest(c *Ctx) error {
	x := c.In(0)
	if x == nil {
		return fmt.Errorf("input 0 is not a tensor")
	}
	r, err := resizeOf(c, x.Shape())
	if err != nil {
		return err
	}
	y, err := c.Alloc(0, x.DType(), r.shape...)
	if err != nil {
		return err
	}
	var failed error
	err = bySize(x.DType(),
		func() { failed = passes(c, tensor.View[uint8](y), tensor.View[uint8](x), r, pickAxis[uint8]) },
		func() {
			failed = passes(c, tensor.View[tensor.F16](y), tensor.View[tensor.F16](x), r, pickAxis[tensor.F16])
		},
		func() {
			failed = passes(c, tensor.View[uint32](y), tensor.View[uint32](x), r, pickAxis[uint32])
		},
		func() {
			failed = passes(c, tensor.View[uint64](y), tensor.View[uint64](x), r, pickAxis[uint64])
		},
		func() {
			failed = passes(c, tensor.View[complex128](y), tensor.View[complex128](x), r, pickAxis[complex128])
		},
		func() {
			failed = passes(c, tensor.View[string](y), tensor.View[string](x), r, pickAxis[string])
		})
	if err == nil {
		err = failed
	}
	if err != nil || x.DType() == tensor.String {
		return err
	}
	extra := float64(c.Node.Float("extrapolation_value", 0))
	eachOutside(r.axes, r.taps, y.Len(), func(i int) { tensor.SetFloat64At(y, i, extra) })
	return nil
}

func resizeSum[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	r, err := resizeOf(c, x.Shape())
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, x.DType(), r.shape...)
	if err != nil {
		return err
	}
	y := tensor.Data[T](t)
	if err := passes(c, y, tensor.Data[T](x), r, sumAxis[T]); err != nil {
		return err
	}
	extra := T(c.Node.Float("extrapolation_value", 0))
	eachOutside(r.axes, r.taps, len(y), func(i int) { y[i] = extra })
	return nil
}

// resizeGrad runs the passes backwards, each transposed.
func resizeGrad[T kernel.Float](c *Ctx) error {
	xs, err := shapeOperand(c, 1)
	if err != nil {
		return err
	}
	r, err := resizeOf(c, xs)
	if err != nil {
		return err
	}
	axes, taps, shape := r.axes, r.taps, slices.Clone(r.shape)
	if !slices.Equal(shape, c.In(0).Shape()) {
		return fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), shape)
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return err
	}
	cur := append([]T(nil), tensor.Data[T](c.In(0))...)
	eachOutside(axes, taps, len(cur), func(i int) { cur[i] = 0 })
	for i := len(taps) - 1; i >= 0; i-- {
		t := taps[i]
		if t == nil {
			continue
		}
		shape[i] = t.in
		outer, inner := product(shape[:i]), product(shape[i+1:])
		next := make([]T, outer*t.in*inner)
		if len(cur) > 0 && len(next) > 0 {
			c.Pool.For(outer, 1, func(lo, hi int) {
				for a := lo; a < hi; a++ {
					for k, w := range t.w {
						if w == 0 {
							continue
						}
						src := cur[(a*t.out+k/t.width)*inner:][:inner]
						dst := next[(a*t.in+t.at[k])*inner:][:inner]
						for j, v := range src {
							dst[j] += T(w) * v
						}
					}
				}
			})
		}
		cur = next
	}
	copy(tensor.Data[T](out), cur)
	return nil
}

func gradResize(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	upsample, since := resizeForm(n)
	attrs := append([]*onnx.Attribute{IntAttr("since", int64(since)), IntAttr("upsample", 0)}, n.Attrs...)
	if upsample {
		attrs[1].I = 1
	}
	in := []*onnx.Value{dy[0], g.Shape(n.Inputs[0])}
	for _, i := range []int{1, 2, 3} {
		var v *onnx.Value
		if k := resizeInput(n, i); k >= 0 {
			v = n.Input(k)
		}
		in = append(in, v)
	}
	for in[len(in)-1] == nil {
		in = in[:len(in)-1]
	}
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.Internal("ResizeGrad", 1, in, attrs...)[0]
	return out, nil
}

// portableResizeGrad goes back along each axis by itself: what the operator makes of the rows of an identity matrix is the matrix that it
// multiplies by there.
func portableResizeGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	d, shape := n.Inputs[0], n.Inputs[1]
	rank := g.Rank(d)
	if p := n.Str("keep_aspect_ratio_policy", "stretch"); p != "stretch" {
		return nil, fmt.Errorf("policy %s is not supported", p)
	}
	if rank > 25 {
		return nil, fmt.Errorf("%d axes are not supported", rank)
	}
	upsample, since := resizeForm(n)
	old := upsample || since < 11
	roi, scales, sizes := n.Input(2), n.Input(3), n.Input(4)
	if old && scales == nil {
		var err error
		if scales, err = g.scalesOf(n); err != nil {
			return nil, err
		}
	}
	given := func(v *onnx.Value) bool { // an empty list is none
		s := g.Info(v).Shape
		return v != nil && !(len(s) == 1 && s[0].N == 0)
	}
	axes := n.Ints("axes", nil)
	if axes == nil {
		axes = axesFrom(0, rank)
	}
	var attrs []*onnx.Attribute
	for _, a := range n.Attrs {
		switch a.Name {
		case "since", "upsample", "axes", "extrapolation_value", "keep_aspect_ratio_policy", "scales", "height_scale", "width_scale", "width", "height":
		case "mode":
			if string(a.S) == "bilinear" {
				a = StringAttr("mode", "linear")
			}
			attrs = append(attrs, a)
		default:
			attrs = append(attrs, a)
		}
	}
	for k, a := range axes {
		axis, err := NormAxis(a, rank)
		if err != nil {
			return nil, err
		}
		pick := func(v *onnx.Value, at int) *onnx.Value { return g.Op("Gather", v, g.Int64s(int64(at))) }
		if given(scales) {
			c := g.Info(scales).Const
			if c != nil && k < c.Len() && tensor.Float64At(c, k) == 1 && n.Str("coordinate_transformation_mode", "") != "tf_crop_and_resize" {
				continue
			}
		}
		size := pick(shape, axis)
		eye := g.With("EyeLike", []*onnx.Attribute{IntAttr("dtype", int64(g.DType(d)))}, g.Fill(d, g.Concat(size, size), 0))
		in := []*onnx.Value{eye, nil, nil, nil}
		one := g.Const(tensor.New([]float32{1}))
		switch {
		case given(scales):
			in[2] = g.Concat(one, g.Cast(pick(scales, k), tensor.Float32))
		case given(sizes):
			in[3] = g.Concat(size, pick(sizes, k))
		default:
			return nil, fmt.Errorf("neither scales nor sizes are given")
		}
		if given(roi) {
			from, to := pick(roi, k), pick(roi, len(axes)+k)
			zero := g.Like(from, 0)
			in[1] = g.Concat(g.Op("Unsqueeze", zero, g.Int64s(0)), from, g.Op("Unsqueeze", g.Like(from, 1), g.Int64s(0)), to)
		}
		for in[len(in)-1] == nil {
			in = in[:len(in)-1]
		}
		var m *onnx.Value
		if old {
			m = g.oldResize(n, eye, in[2])
		} else {
			m = g.Node("Resize", 1, in, attrs...)[0]
		}
		letters := "abcdefghijklmnopqrstuvwxy"[:rank]
		equation := letters + ",z" + letters[axis:axis+1] + "->" + letters[:axis] + "z" + letters[axis+1:]
		d = g.Node("Einsum", 1, []*onnx.Value{d, m}, StringAttr("equation", equation))[0]
	}
	if d == n.Inputs[0] {
		d = g.Op("Identity", d)
	}
	return []*onnx.Value{d}, nil
}
