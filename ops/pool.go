package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Pooling over one to three spatial axes; fewer than three are worked as three, with
// leading axes of 1.
func init() {
	bytes := Of(tensor.Int8, tensor.Uint8)
	register(
		Op{Name: "MaxPool", Since: []int{1, 8, 10, 11, 12, 22}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats | bytes},
			Infer: inferPool, Compile: func(*Node) (Kernel, error) {
				return Table{
					tensor.Float32: maxPool(float32(math.Inf(-1))), tensor.Float64: maxPool(math.Inf(-1)),
					tensor.Int8: maxPool[int8](math.MinInt8), tensor.Uint8: maxPool[uint8](0),
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("MaxPoolGrad", 1, []*onnx.Value{dy[0], n.Inputs[0], n.Outputs[0]}, n.Attrs...), nil
			}},
		// dY, X, Y
		Op{Domain: Internal, Name: "MaxPoolGrad", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats}, Infer: SameAs(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: maxPoolGrad[float32], tensor.Float64: maxPoolGrad[float64]}.By(0), nil
			}, Portable: portableMaxPoolGrad},
		Op{Name: "AveragePool", Since: []int{1, 7, 10, 11, 19, 22}, MinIn: 1, Types: []TypeSet{Floats},
			Infer: inferPool, Compile: func(n *Node) (Kernel, error) {
				pad := n.Int("count_include_pad", 0) != 0
				return Table{tensor.Float32: averagePool[float32](pad), tensor.Float64: averagePool[float64](pad)}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("AveragePoolGrad", 1, []*onnx.Value{dy[0], g.Shape(n.Inputs[0])}, n.Attrs...), nil
			}},
		Op{Domain: Internal, Name: "AveragePoolGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Index}, Infer: inferShapeInput(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: spreadPool(share[float32]), tensor.Float64: spreadPool(share[float64])}.By(0), nil
			}, Portable: portableSpreadPool(true)},
		Op{Name: "LpPool", Since: []int{1, 2, 11, 18, 22}, MinIn: 1, Types: []TypeSet{Floats},
			Infer: inferPool, Compile: func(n *Node) (Kernel, error) {
				p, err := normOrder(n)
				if err != nil {
					return nil, err
				}
				return Table{tensor.Float32: lpPool[float32](p), tensor.Float64: lpPool[float64](p)}.By(0), nil
			}, Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				scaled, slope, err := lpSlopes(g, n, dy[0])
				if err != nil {
					return nil, err
				}
				return []*onnx.Value{g.Mul(g.Internal("SumPoolGrad", 1, []*onnx.Value{scaled, g.Shape(n.Inputs[0])}, n.Attrs...)[0], slope)}, nil
			}},
		Op{Domain: Internal, Name: "SumPoolGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Index}, Infer: inferShapeInput(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: spreadPool(whole[float32]), tensor.Float64: spreadPool(whole[float64])}.By(0), nil
			}, Portable: portableSpreadPool(false)},
		Op{Name: "GlobalMaxPool", Since: []int{1, 22}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferGlobalPool,
			Compile: func(*Node) (Kernel, error) {
				return Table{
					tensor.Float32: globalPool(kernel.MaxReduce[float32]),
					tensor.Float64: globalPool(kernel.MaxReduce[float64]),
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("GlobalMaxPoolGrad", 1, []*onnx.Value{dy[0], n.Inputs[0]}), nil
			}},
		Op{Domain: Internal, Name: "GlobalMaxPoolGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats}, Infer: SameAs(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: globalMaxGrad[float32], tensor.Float64: globalMaxGrad[float64]}.By(0), nil
			}, Portable: portableGlobalMaxGrad},
		Op{Name: "GlobalAveragePool", Since: []int{1, 22}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferGlobalPool,
			Compile: func(*Node) (Kernel, error) {
				return Table{
					tensor.Float32: globalPool(func(x []float32) float32 { return kernel.Sum(x) / float32(len(x)) }),
					tensor.Float64: globalPool(func(x []float64) float64 { return kernel.Sum(x) / float64(len(x)) }),
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("GlobalAveragePoolGrad", 1, []*onnx.Value{dy[0], g.Shape(n.Inputs[0])}), nil
			}},
		Op{Domain: Internal, Name: "GlobalAveragePoolGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Index}, Infer: inferShapeInput(1),
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: globalAverageGrad[float32], tensor.Float64: globalAverageGrad[float64]}.By(0), nil
			}, Portable: portableGlobalAverageGrad},
		Op{Name: "GlobalLpPool", Since: []int{1, 2, 22}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferGlobalPool,
			Compile: func(n *Node) (Kernel, error) {
				p, err := normOrder(n)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: globalPool(func(x []float32) float32 { return lpNorm(x, p) }),
					tensor.Float64: globalPool(func(x []float64) float64 { return lpNorm(x, p) }),
				}.By(0), nil
			}, Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				scaled, slope, err := lpSlopes(g, n, dy[0])
				if err != nil {
					return nil, err
				}
				return []*onnx.Value{g.Mul(scaled, slope)}, nil
			}},
		Op{Name: "MaxUnpool", Since: []int{9, 11, 22}, MinIn: 2, MaxIn: 3, Types: []TypeSet{Floats, Of(tensor.Int64)}, Infer: inferUnpool,
			Compile: Table{tensor.Float32: maxUnpool[float32], tensor.Float64: maxUnpool[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				dx := g.Internal("MaxUnpoolGrad", 1, []*onnx.Value{dy[0], n.Inputs[1]}, n.Attrs...)
				return append(dx, make([]*onnx.Value, len(n.Inputs)-1)...), nil
			}},
		// dY, I
		Op{Domain: Internal, Name: "MaxUnpoolGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Of(tensor.Int64)},
			Infer: func(n *Node) ([]Info, error) {
				return []Info{{DType: n.In[0].DType, Ranked: n.In[1].Ranked, Shape: n.In[1].Shape}}, nil
			},
			Compile: Table{tensor.Float32: maxUnpoolGrad[float32], tensor.Float64: maxUnpoolGrad[float64]}.Always(0), Portable: portableMaxUnpoolGrad},
	)
}

// normOrder is the attribute p, a float at opset 1.
func normOrder(n *Node) (float64, error) {
	var p float64
	if n.Since == 1 {
		p = float64(n.Float("p", 2))
	} else {
		p = float64(n.Int("p", 2))
	}
	if !(p > 0) {
		return 0, fmt.Errorf("p is %v, but must be positive", p)
	}
	return p, nil
}

// lpSlopes is the gradient of a sum of powers |x|^p whose root y is, and what an x is to be multiplied by that for: dy·y^(1-p), none where all
// of a window is zero, and sign(x)·|x|^(p-1).
func lpSlopes(g *Grad, n *Node, dy *onnx.Value) (scaled, slope *onnx.Value, err error) {
	p, err := normOrder(n)
	if err != nil {
		return nil, nil, err
	}
	x, y := n.Inputs[0], n.Outputs[0]
	slope = g.Op("Sign", x)
	if p == 1 {
		return dy, slope, nil
	}
	zero := g.Like(dy, 0)
	scaled = g.Op("Where", g.Op("Equal", y, zero), zero, g.Mul(dy, g.Op("Pow", y, g.Like(y, 1-p))))
	return scaled, g.Mul(slope, g.Op("Pow", g.Op("Abs", x), g.Like(x, p-1))), nil
}

func powAbs(v, p float64) float64 {
	switch p {
	case 1:
		return math.Abs(v)
	case 2:
		return v * v
	}
	return math.Pow(math.Abs(v), p)
}

func rootOf(v, p float64) float64 {
	switch p {
	case 1:
		return v
	case 2:
		return math.Sqrt(v)
	}
	return math.Pow(v, 1/p)
}

func lpNorm[T kernel.Float](x []T, p float64) T {
	var sum float64
	for _, v := range x {
		sum += powAbs(float64(v), p)
	}
	return T(rootOf(sum, p))
}

func poolWindow(n *Node, rank int) (*window, error) {
	w, err := windowOf(n, rank)
	if err == nil && w.kernel == nil {
		err = fmt.Errorf("kernel_shape is missing")
	}
	return w, err
}

func inferPool(n *Node) ([]Info, error) {
	x := n.In[0]
	y, idx := Unranked(x.DType), Unranked(tensor.Int64)
	if x.Ranked {
		w, err := poolWindow(n, len(x.Shape)-2)
		if err != nil {
			return nil, err
		}
		out := []Dim{x.Shape[0], x.Shape[1]}
		for i, d := range x.Shape[2:] {
			if d.N > maxWindow {
				out = append(out, Unknown)
				continue
			}
			if !d.Known() {
				out = append(out, w.axisDim(i, d, D(w.kernel[i])))
				continue
			}
			o, _, _, err := w.axis(i, d.N)
			if err != nil {
				return nil, err
			}
			out = append(out, D(o))
		}
		y, idx = Tensor(x.DType, out...), Tensor(tensor.Int64, out...)
	}
	return []Info{y, idx}[:max(1, len(n.Outputs))], nil
}

func inferGlobalPool(n *Node) ([]Info, error) {
	x := n.In[0]
	if !x.Ranked {
		return []Info{Unranked(x.DType)}, nil
	}
	if len(x.Shape) < 2 {
		return nil, fmt.Errorf("an input of rank %d has no channels", len(x.Shape))
	}
	out := []Dim{x.Shape[0], x.Shape[1]}
	for range x.Shape[2:] {
		out = append(out, D(1))
	}
	return []Info{Tensor(x.DType, out...)}, nil
}

// span is the elements that a window covers along an axis: count of them from lo on,
// the dilation apart; size counts those in the padding too.
type span3 struct{ lo, count, size int }

// poolShape is a pooling of planes of three axes.
type poolShape struct {
	planes  int
	shape   []int // of the output
	in, out [3]int
	dil     [3]int
	spans   [3][]span3
}

func poolOf(n *Node, xs []int) (*poolShape, error) {
	if len(xs) < 3 {
		return nil, fmt.Errorf("an input of %v has no spatial axis", xs)
	}
	rank := len(xs) - 2
	w, err := poolWindow(n, rank)
	if err != nil {
		return nil, err
	}
	s := &poolShape{planes: xs[0] * xs[1], shape: []int{xs[0], xs[1]}}
	for i := range 3 {
		s.in[i], s.out[i], s.dil[i], s.spans[i] = 1, 1, 1, []span3{{0, 1, 1}}
	}
	begins := make([]int, rank)
	ends := make([]int, rank)
	for i, d := range xs[2:] {
		if d > maxWindow {
			return nil, fmt.Errorf("spatial axis %d of %d is out of range", i, d)
		}
		o, begin, end, err := w.axis(i, d)
		if err != nil {
			return nil, err
		}
		begins[i], ends[i] = begin, end
		s.shape = append(s.shape, o)
	}
	if _, err := tensor.ByteSize(tensor.Float64, s.shape); err != nil {
		return nil, err
	}
	for i, d := range xs[2:] {
		a, o := 3-rank+i, s.shape[2+i]
		s.in[a], s.out[a], s.dil[a] = d, o, w.dil[i]
		if s.planes == 0 {
			continue
		}
		s.spans[a] = make([]span3, o)
		for k := range o {
			start := k*w.stride[i] - begins[i]
			taps := func(limit int) int { // the taps before limit
				if start >= limit {
					return 0
				}
				return min(w.kernel[i], (limit-1-start)/w.dil[i]+1)
			}
			sp := span3{size: taps(d + ends[i])}
			skip := 0 // the taps in the padding before
			if start < 0 {
				skip = min(w.kernel[i], (-start+w.dil[i]-1)/w.dil[i])
			}
			sp.lo, sp.count = start+skip*w.dil[i], max(0, taps(d)-skip)
			s.spans[a][k] = sp
		}
	}
	return s, nil
}

func (s *poolShape) inSize() int  { return s.in[0] * s.in[1] * s.in[2] }
func (s *poolShape) outSize() int { return s.out[0] * s.out[1] * s.out[2] }

// windows calls f for each output position o of a plane.
func (s *poolShape) windows(f func(o int, d, h, w span3)) {
	o := 0
	for _, d := range s.spans[0] {
		for _, h := range s.spans[1] {
			for _, w := range s.spans[2] {
				f(o, d, h, w)
				o++
			}
		}
	}
}

// each calls f for the start and the number of the elements of each run of a window.
func (s *poolShape) each(d, h, w span3, f func(at, count int)) {
	for i := range d.count {
		for j := range h.count {
			f(((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*s.in[2]+w.lo, w.count)
		}
	}
}

// parallel calls f for each plane.
func (s *poolShape) parallel(p *kernel.Pool, f func(plane int)) {
	if s.outSize() == 0 && s.inSize() == 0 {
		return
	}
	p.For(s.planes, 1+2048/max(1, s.inSize()), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f(i)
		}
	})
}

// argmax finds the first largest element of each window of plane x, -1 if the window
// holds none; NaN counts as the largest.
func argmax[T float32 | float64 | int8 | uint8](s *poolShape, x []T, f func(o, at int)) {
	step := s.dil[2]
	s.windows(func(o int, d, h, w span3) {
		best := -1
		var top T
		for i := range d.count {
			for j := range h.count {
				at := ((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*s.in[2] + w.lo
				for range w.count {
					if v := x[at]; best < 0 || v > top || v != v && top == top {
						best, top = at, v
					}
					at += step
				}
			}
		}
		f(o, best)
	})
}

// find is where a window of plane x first holds v, -1 if nowhere; any NaN is found for NaN.
func find[T kernel.Float](s *poolShape, x []T, v T, d, h, w span3) int {
	for i := range d.count {
		for j := range h.count {
			at := ((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*s.in[2] + w.lo
			for range w.count {
				if e := x[at]; e == v || v != v && e != e {
					return at
				}
				at += s.dil[2]
			}
		}
	}
	return -1
}

func maxPool[T float32 | float64 | int8 | uint8](lowest T) Kernel {
	return func(c *Ctx) error {
		x := c.In(0)
		s, err := Keep(c, func() (*poolShape, error) { return poolOf(c.Node, x.Shape()) })
		if err != nil {
			return err
		}
		t, err := c.Alloc(0, tensor.TypeOf[T](), s.shape...)
		if err != nil {
			return err
		}
		var indices []int64
		if c.Wants(1) {
			t, err := c.Alloc(1, tensor.Int64, s.shape...)
			if err != nil {
				return err
			}
			indices = tensor.Data[int64](t)
		}
		columns := c.Node.Int("storage_order", 0) != 0
		xs, ys := tensor.Data[T](x), tensor.Data[T](t)
		ni, no := s.inSize(), s.outSize()
		if indices == nil && no > 0 && ni > 0 {
			switch xs := any(xs).(type) {
			case []float32:
				maxPoolRows(c.Pool, s, any(ys).([]float32), xs)
				return nil
			case []float64:
				maxPoolRows(c.Pool, s, any(ys).([]float64), xs)
				return nil
			}
		}
		s.parallel(c.Pool, func(plane int) {
			in, out := xs[plane*ni:(plane+1)*ni], ys[plane*no:(plane+1)*no]
			argmax(s, in, func(o, at int) {
				if out[o] = lowest; at >= 0 {
					out[o] = in[at]
				}
				if indices == nil {
					return
				}
				if at < 0 { // nothing but padding
					at = 0
				} else if columns {
					w, h, d := at%s.in[2], at/s.in[2]%s.in[1], at/(s.in[2]*s.in[1])
					at = d + s.in[0]*(h+s.in[1]*w)
				}
				indices[plane*no+o] = int64(plane*ni + at)
			})
		})
		return nil
	}
}

// maxPoolRows pools without indices: first the largest of each run of a window's width, all over a plane at once, of which
// those that begin in one row and end in the next are not looked at; then, of the rows of a window, the largest at the places where windows
// begin.
func maxPoolRows[T kernel.Float](p *kernel.Pool, s *poolShape, y, x []T) {
	kernel.InParts(p, s.planes, 1+2048/max(1, s.inSize()), maxRows[T]{s, y, x, newMaxRuns(s.spans[2], s.dil[2])})
}

// maxRows is the work of [maxPoolRows].
type maxRows[T kernel.Float] struct {
	s    *poolShape
	y, x []T
	r    maxRuns
}

// Part pools the planes [first, end).
func (p maxRows[T]) Part(first, end int) {
	s, y, x, r := p.s, p.y, p.x, &p.r
	ni, no, width, spans := s.inSize(), s.outSize(), s.in[2], s.spans[2]
	own, pool := takeRoom[T](ni + 2*width)
	defer pool.Put(own)
	room := *own
	tops, row, odd := room[:ni], room[ni:ni+width], room[ni+width:]
	for plane := first; plane < end; plane++ {
		in, out := x[plane*ni:(plane+1)*ni], y[plane*no:(plane+1)*no]
		runs := in
		if n := ni - (r.taps-1)*r.dil; r.taps > 1 && r.lo < r.hi {
			runs = tops
			kernel.Max(runs[:n], in[:n], in[r.dil:][:n])
			for t := 2; t < r.taps; t++ {
				kernel.Max(runs[:n], runs[:n], in[t*r.dil:][:n])
			}
		}
		for _, d := range s.spans[0] {
			for _, h := range s.spans[1] {
				if r.lo < r.hi {
					var top []T // the largest of the rows so far
					for i := range d.count {
						for j := range h.count {
							next := runs[((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*width+r.from:][:r.reach]
							if top == nil {
								top = next
								continue
							}
							kernel.Max(row[:r.reach], top, next)
							top = row[:r.reach]
						}
					}
					if top == nil { // the windows lie in the padding
						fill(out[r.lo:r.hi], T(math.Inf(-1)))
					} else {
						everyStep(r, out[r.lo:r.hi], top, odd)
					}
				}
				for o := range r.lo {
					out[o] = maxOfWindow(s, in, d, h, spans[o])
				}
				for o := r.hi; o < len(spans); o++ {
					out[o] = maxOfWindow(s, in, d, h, spans[o])
				}
				out = out[len(spans):]
			}
		}
	}
}

// maxRuns is the windows along a row: taps elements, dil apart, each, but for those before lo and from hi on, which the
// edges cut; the whole ones begin at from, within reach elements, and are step apart.
type maxRuns struct {
	taps, dil, lo, hi, from, reach, step int
}

func newMaxRuns(spans []span3, dil int) maxRuns {
	r := maxRuns{dil: dil, hi: len(spans)}
	for _, sp := range spans {
		r.taps = max(r.taps, sp.count)
	}
	for r.lo < r.hi && spans[r.lo].count < r.taps {
		r.lo++
	}
	if r.taps == 0 {
		r.lo = r.hi
	}
	if r.lo == r.hi {
		return r
	}
	// Where every window is cut, those of the most elements need not be as far apart as the strides are.
	r.from = spans[r.lo].lo
	if r.lo+1 < r.hi {
		r.step = spans[r.lo+1].lo - r.from
	}
	r.hi = r.lo + 1
	for r.step > 0 && r.hi < len(spans) && spans[r.hi].count == r.taps && spans[r.hi].lo == r.from+(r.hi-r.lo)*r.step {
		r.hi++
	}
	r.reach = spans[r.hi-1].lo - r.from + 1
	return r
}

// everyStep takes each step's element. odd is room for a row.
func everyStep[T kernel.Float](r *maxRuns, out, top, odd []T) {
	switch r.step {
	case 0, 1:
		copy(out, top)
	case 2:
		kernel.Deinterleave(out, odd, top)
	default:
		for o := range out {
			out[o] = top[o*r.step]
		}
	}
}

// maxOfWindow is the largest element of one window; NaN counts as the largest.
func maxOfWindow[T kernel.Float](s *poolShape, in []T, d, h, w span3) T {
	top := T(math.Inf(-1))
	for i := range d.count {
		for j := range h.count {
			at := ((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*s.in[2] + w.lo
			for t := range w.count {
				if v := in[at+t*s.dil[2]]; v > top || v != v && top == top {
					top = v
				}
			}
		}
	}
	return top
}

// pooled checks that dy has the shape of the pooling of xs, and makes the output dx, cleared.
func pooled[T kernel.Float](c *Ctx, xs []int) (s *poolShape, dy, dx []T, err error) {
	if s, err = poolOf(c.Node, xs); err != nil {
		return
	}
	if !slices.Equal(c.In(0).Shape(), s.shape) {
		err = fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), s.shape)
		return
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return
	}
	dx = tensor.Data[T](t)
	clear(dx)
	return s, tensor.Data[T](c.In(0)), dx, nil
}

// maxPoolGrad adds each element of dY to that of the first element of its window that is Y's, or NaN if that is.
func maxPoolGrad[T kernel.Float](c *Ctx) error {
	if err := sameFloats(c, 3); err != nil {
		return err
	}
	s, dy, dx, err := pooled[T](c, c.In(1).Shape())
	if err != nil {
		return err
	}
	if y := c.In(2); y == nil || !slices.Equal(y.Shape(), s.shape) {
		return fmt.Errorf("the output %v is not the input's", c.Value(2))
	}
	x, y := tensor.Data[T](c.In(1)), tensor.Data[T](c.In(2))
	ni, no := s.inSize(), s.outSize()
	s.parallel(c.Pool, func(plane int) {
		o := plane * no
		for _, d := range s.spans[0] {
			for _, h := range s.spans[1] {
				for _, w := range s.spans[2] {
					if at := find(s, x[plane*ni:][:ni], y[o], d, h, w); at >= 0 {
						dx[plane*ni+at] += dy[o]
					}
					o++
				}
			}
		}
	})
	return nil
}

// share is what each element of a window counts for in its average.
func share[T kernel.Float](pad bool, d, h, w span3) T {
	n := d.count * h.count * w.count
	if pad {
		n = d.size * h.size * w.size
	}
	if n == 0 {
		return 0
	}
	return 1 / T(n)
}

// averagePool is the means of windows, of which padding is a part or not.
func averagePool[T kernel.Float](pad bool) Kernel {
	mean := func(s *poolShape, x []T, d, h, w span3) T {
		n := d.count * h.count * w.count
		if pad {
			n = d.size * h.size * w.size
		}
		if n == 0 {
			return 0
		}
		var sum T
		for i := range d.count {
			for j := range h.count {
				at := ((d.lo+i*s.dil[0])*s.in[1]+h.lo+j*s.dil[1])*s.in[2] + w.lo
				for range w.count {
					sum += x[at]
					at += s.dil[2]
				}
			}
		}
		return sum / T(n)
	}
	return func(c *Ctx) error { return sumPool(c, mean) }
}

func lpPool[T kernel.Float](p float64) Kernel {
	return func(c *Ctx) error {
		return sumPool(c, func(s *poolShape, x []T, d, h, w span3) T {
			var sum float64
			s.each(d, h, w, func(at, count int) {
				for k := range count {
					sum += powAbs(float64(x[at+k*s.dil[2]]), p)
				}
			})
			return T(rootOf(sum, p))
		})
	}
}

// sumPool pools each window by f.
func sumPool[T kernel.Float](c *Ctx, f func(s *poolShape, x []T, d, h, w span3) T) error {
	s, err := Keep(c, func() (*poolShape, error) { return poolOf(c.Node, c.In(0).Shape()) })
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), s.shape...)
	if err != nil {
		return err
	}
	if t.Len() > 0 {
		kernel.InParts(c.Pool, s.planes, 1+2048/max(1, s.inSize()), sumPlanes[T]{f, s, tensor.Data[T](t), tensor.Data[T](c.In(0))})
	}
	return nil
}

// sumPlanes is the work of [sumPool].
type sumPlanes[T kernel.Float] struct {
	f    func(s *poolShape, x []T, d, h, w span3) T
	s    *poolShape
	y, x []T
}

// Part pools the planes [lo, hi).
func (p sumPlanes[T]) Part(lo, hi int) {
	ni, no := p.s.inSize(), p.s.outSize()
	for plane := lo; plane < hi; plane++ {
		in, out := p.x[plane*ni:(plane+1)*ni], p.y[plane*no:(plane+1)*no]
		p.s.windows(func(o int, d, h, w span3) { out[o] = p.f(p.s, in, d, h, w) })
	}
}

// whole is a share that is all of it.
func whole[T kernel.Float](bool, span3, span3, span3) T { return 1 }

// spreadPool gives each element of a window its share of the window's gradient.
func spreadPool[T kernel.Float](share func(pad bool, d, h, w span3) T) Kernel {
	return func(c *Ctx) error {
		xs, err := shapeOperand(c, 1)
		if err != nil {
			return err
		}
		s, dy, dx, err := pooled[T](c, xs)
		if err != nil {
			return err
		}
		pad := c.Node.Int("count_include_pad", 0) != 0
		ni, no := s.inSize(), s.outSize()
		s.parallel(c.Pool, func(plane int) {
			in := dx[plane*ni : (plane+1)*ni]
			s.windows(func(o int, d, h, w span3) {
				v := dy[plane*no+o] * share(pad, d, h, w)
				s.each(d, h, w, func(at, count int) {
					for k := range count {
						in[at+k*s.dil[2]] += v
					}
				})
			})
		})
		return nil
	}
}

// firstMax is the place of the first largest element; NaN counts as the largest.
func firstMax[T kernel.Float](x []T) int {
	best := 0
	for i, v := range x {
		if b := x[best]; v > b || v != v && b == b {
			best = i
		}
	}
	return best
}

// planesOf is the number of planes of a tensor N×C×... and the elements of each, at least one.
func planesOf(xs []int) (planes, size int, err error) {
	if len(xs) < 2 {
		return 0, 0, fmt.Errorf("an input of %v has no channels", xs)
	}
	planes, size = xs[0]*xs[1], product(xs[2:])
	if planes > 0 && size == 0 {
		return 0, 0, fmt.Errorf("an input of %v has nothing to pool", xs)
	}
	return planes, size, nil
}

func globalPool[T kernel.Float](f func([]T) T) Kernel {
	return func(c *Ctx) error {
		xs := c.In(0).Shape()
		planes, size, err := planesOf(xs)
		if err != nil {
			return err
		}
		shape := Scratch[[]int](c)
		*shape = append((*shape)[:0], xs[:2]...)
		for range xs[2:] {
			*shape = append(*shape, 1)
		}
		t, err := c.Alloc(0, tensor.TypeOf[T](), *shape...)
		if err != nil {
			return err
		}
		kernel.InParts(c.Pool, planes, 1+8192/max(1, size), planeFold[T]{f, tensor.Data[T](t), tensor.Data[T](c.In(0)), size})
		return nil
	}
}

// planeFold makes one number of each plane.
type planeFold[T kernel.Float] struct {
	f    func([]T) T
	y, x []T
	size int
}

// Part folds the planes [lo, hi).
func (p planeFold[T]) Part(lo, hi int) {
	for i := lo; i < hi; i++ {
		p.y[i] = p.f(p.x[i*p.size : (i+1)*p.size])
	}
}

// globalGrad makes dx of shape xs and calls f for each plane of it.
func globalGrad[T kernel.Float](c *Ctx, xs []int, f func(plane, size int, dx []T, dy T)) error {
	planes, size, err := planesOf(xs)
	if err != nil {
		return err
	}
	dy := tensor.Data[T](c.In(0))
	if len(dy) != planes {
		return fmt.Errorf("a gradient of %v does not suit an input of %v", c.In(0).Shape(), xs)
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return err
	}
	dx := tensor.Data[T](t)
	c.Pool.For(planes, 1+8192/max(1, size), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f(i, size, dx[i*size:(i+1)*size], dy[i])
		}
	})
	return nil
}

func globalMaxGrad[T kernel.Float](c *Ctx) error {
	if err := sameFloats(c, 2); err != nil {
		return err
	}
	x := tensor.Data[T](c.In(1))
	return globalGrad(c, c.In(1).Shape(), func(plane, size int, dx []T, dy T) {
		clear(dx)
		dx[firstMax(x[plane*size:(plane+1)*size])] = dy
	})
}

func globalAverageGrad[T kernel.Float](c *Ctx) error {
	xs, err := shapeOperand(c, 1)
	if err != nil {
		return err
	}
	return globalGrad(c, xs, func(_, size int, dx []T, dy T) {
		v := dy / T(size)
		for i := range dx {
			dx[i] = v
		}
	})
}

// unpooledDim is the size along spatial axis i of what was pooled to d, as the attributes say it.
func unpooledDim(w *window, i, d int) (int, error) {
	if d < 1 || d > maxWindow {
		return 0, fmt.Errorf("spatial axis %d of %d is out of range", i, d)
	}
	out := (d-1)*w.stride[i] + w.kernel[i] - w.begin[i] - w.end[i]
	if out < 1 {
		return 0, fmt.Errorf("the padding %d and %d leaves nothing of spatial axis %d", w.begin[i], w.end[i], i)
	}
	return out, nil
}

func inferUnpool(n *Node) ([]Info, error) {
	x := n.In[0]
	if !x.Ranked {
		x.Shape = n.In[1].Shape // the same
	}
	if !x.Ranked && !n.In[1].Ranked {
		return []Info{Unranked(x.DType)}, nil
	}
	w, err := poolWindow(n, len(x.Shape)-2)
	if err != nil {
		return nil, err
	}
	if n.Has(2) {
		v, known, err := n.list(2)
		if err != nil || !known {
			return []Info{Tensor(x.DType, unknownDims(len(x.Shape))...)}, err
		}
		if len(v) != len(x.Shape) {
			return nil, fmt.Errorf("an output shape of %v for an input of %v", v, x.Shape)
		}
		shape, err := dimsOf(v)
		return []Info{Tensor(x.DType, shape...)}, err
	}
	out := Tensor(x.DType, append([]Dim(nil), x.Shape...)...)
	for i, d := range x.Shape[2:] {
		if d.Known() {
			size, err := unpooledDim(w, i, d.N)
			if err != nil {
				return nil, err
			}
			out.Shape[2+i] = D(size)
			continue
		}
		out.Shape[2+i] = d.Sub(D(1)).Mul(D(w.stride[i])).Add(number(int64(w.kernel[i] - w.begin[i] - w.end[i])))
	}
	return []Info{out}, nil
}

// unpooling finds where the elements of a pooled tensor of shape xs go in one of shape want (nil: the one that
// the attributes give, which is returned). Indices count in the shape that the attributes give even where want is
// larger: it lies in want's first corner. That is what the standard's case has; ONNX Runtime counts in want.
func unpooling(n *Node, xs, want []int, indices *tensor.Tensor) (shape []int, place func(i int) (int, error), err error) {
	if indices == nil || !slices.Equal(indices.Shape(), xs) {
		return nil, nil, fmt.Errorf("the indices are not of the input's shape %v", xs)
	}
	w, err := poolWindow(n, len(xs)-2)
	if err != nil {
		return nil, nil, err
	}
	inner := append([]int(nil), xs[:2]...)
	for i, d := range xs[2:] {
		size, err := unpooledDim(w, i, d)
		if err != nil {
			return nil, nil, err
		}
		inner = append(inner, size)
	}
	total, err := tensor.NumElements(inner)
	if err != nil {
		return nil, nil, err
	}
	if shape = want; shape == nil {
		shape = inner
	}
	if len(shape) != len(inner) {
		return nil, nil, fmt.Errorf("an output shape of %v for an input of %v", shape, xs)
	}
	for i, d := range inner {
		if shape[i] < d {
			return nil, nil, fmt.Errorf("an output shape of %v has no room for %v, which the attributes give", shape, inner)
		}
	}
	idx, same, strides := tensor.Data[int64](indices), slices.Equal(shape, inner), rowMajor(shape)
	return shape, func(i int) (int, error) {
		at := idx[i]
		if at < 0 || at >= int64(total) {
			return 0, fmt.Errorf("index %d is outside the unpooled shape %v", at, inner)
		}
		if same {
			return int(at), nil
		}
		to, rest := 0, int(at)
		for a := len(inner) - 1; a >= 0; a-- {
			to += rest % inner[a] * strides[a]
			rest /= inner[a]
		}
		return to, nil
	}, nil
}

func maxUnpool[T kernel.Float](c *Ctx) error {
	var want []int
	if c.Value(2) != nil {
		var err error
		if want, err = shapeOperand(c, 2); err != nil {
			return err
		}
	}
	shape, place, err := unpooling(c.Node, c.In(0).Shape(), want, c.In(1))
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
	if err != nil {
		return err
	}
	y := tensor.Data[T](out)
	clear(y)
	for i, v := range tensor.Data[T](c.In(0)) {
		at, err := place(i)
		if err != nil {
			return err
		}
		y[at] = v // the last of those with one index stays
	}
	return nil
}

func maxUnpoolGrad[T kernel.Float](c *Ctx) error {
	indices := c.In(1)
	if indices == nil {
		return fmt.Errorf("input 1 is not a tensor")
	}
	_, place, err := unpooling(c.Node, indices.Shape(), c.In(0).Shape(), indices)
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), indices.Shape()...)
	if err != nil {
		return err
	}
	t, err := c.New(tensor.Bool, c.In(0).Shape()...)
	if err != nil {
		return err
	}
	taken, dy, dx := tensor.Data[bool](t), tensor.Data[T](c.In(0)), tensor.Data[T](out)
	for i := len(dx) - 1; i >= 0; i-- {
		at, err := place(i)
		if err != nil {
			return err
		}
		if dx[i] = 0; !taken[at] {
			dx[i], taken[at] = dy[at], true
		}
	}
	return nil
}

// The gradients in standard operators

func portableMaxPoolGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	attrs := slices.DeleteFunc(slices.Clone(n.Attrs), func(a *onnx.Attribute) bool { return a.Name == "storage_order" })
	x := n.Inputs[1]
	at := g.Node("MaxPool", 2, []*onnx.Value{x}, attrs...)[1]
	zeros := g.Fill(x, g.Op("Unsqueeze", g.Op("Size", x), g.Int64s(0)), 0)
	dx := g.Node("ScatterElements", 1, []*onnx.Value{zeros, g.Flat(at), g.Flat(n.Inputs[0])}, StringAttr("reduction", "add"))
	return []*onnx.Value{g.ReshapeLike(dx[0], x)}, nil
}

// portableSpreadPool is a transposed convolution of each plane by itself with ones, of dY over the numbers of elements in the windows if it
// is an average's.
func portableSpreadPool(average bool) func(g *Grad, n *Node) ([]*onnx.Value, error) {
	return func(g *Grad, n *Node) ([]*onnx.Value, error) {
		dy, shape := n.Inputs[0], n.Inputs[1]
		w, err := poolWindow(n, g.Rank(dy)-2)
		if err != nil {
			return nil, err
		}
		in, kernel, out := g.spatial(shape), g.list(w.kernel), g.spatial(g.Shape(dy))
		begin, end := g.padding(w, in, kernel)
		ones := g.Fill(dy, g.Concat(g.Int64s(1, 1), kernel), 1)
		if average {
			plane := g.Fill(dy, g.Concat(g.Int64s(1, 1), in), 1)
			at := begin
			if n.Int("count_include_pad", 0) != 0 {
				plane = g.pad(plane, begin, end, 1)
				at = g.Op("Sub", begin, begin)
			}
			plane = g.lay(w, plane, at, out, g.reachOf(w, kernel))
			count := g.With("Conv", windowAttrs(w.stride, w.dil, 1), plane, ones)
			dy = g.Div(dy, g.Op("Max", count, g.Like(count, 1))) // windows of padding alone give nothing on
		}
		planes := g.Op("Reshape", dy, g.Concat(g.Int64s(-1, 1), out))
		return []*onnx.Value{g.Reshape(g.spread(w, planes, ones, begin, in, 1), shape)}, nil
	}
}

func portableGlobalMaxGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	x := n.Inputs[1]
	planes := g.Op("Reshape", x, g.Int64s(0, 0, -1))
	at := g.With("ArgMax", []*onnx.Attribute{IntAttr("axis", 2)}, planes)
	dx := g.With("ScatterElements", []*onnx.Attribute{IntAttr("axis", 2)}, g.ExpandTo(g.Like(x, 0), planes), at, g.Op("Reshape", n.Inputs[0], g.Int64s(0, 0, 1)))
	return []*onnx.Value{g.ReshapeLike(dx, x)}, nil
}

func portableGlobalAverageGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, shape := n.Inputs[0], n.Inputs[1]
	size := g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 0)}, g.spatial(shape))
	return []*onnx.Value{g.Op("Expand", g.Div(dy, g.Cast(size, g.DType(dy))), shape)}, nil
}

// portableMaxUnpoolGrad picks from the corner of dY in which indices count. Of indices that come twice the last has written.
func portableMaxUnpoolGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, at := n.Inputs[0], n.Inputs[1]
	rank := g.Rank(dy)
	w, err := poolWindow(n, rank-2)
	if err != nil {
		return nil, err
	}
	in := g.spatial(g.Shape(at))
	size := g.Op("Sub", g.covered(w, in, g.list(w.kernel)), g.Op("Add", g.list(w.begin), g.list(w.end)))
	axes := axesFrom(2, rank)
	corner := g.Flat(g.Op("Slice", dy, g.Int64s(make([]int64, rank-2)...), size, g.Int64s(axes...)))
	list := g.Flat(at)
	own := g.Positions(list, 0)
	last := g.Node("ScatterElements", 1, []*onnx.Value{g.Fill(own, g.Shape(corner), -1), list, own}, StringAttr("reduction", "max"))[0]
	written := g.Op("Equal", g.Op("Gather", last, list), own)
	return []*onnx.Value{g.ReshapeLike(g.Op("Where", written, g.Op("Gather", corner, list), g.Like(dy, 0)), at)}, nil
}
