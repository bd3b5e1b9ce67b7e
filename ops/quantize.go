package ops

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear. A scale and a zero point are for the whole tensor, for each
// index of an axis, or for each block along it.
func init() {
	since := []int{10, 13, 19, 21, 23, 24, 25}
	floats := Floats | Of(tensor.Int32)
	for _, domain := range []string{"", "com.microsoft"} {
		versions := since
		if domain != "" {
			versions = []int{1}
		}
		register(
			Op{Domain: domain, Name: "QuantizeLinear", Since: versions, MinIn: 2, MaxIn: 3, Types: []TypeSet{floats, floats | Of(tensor.Float8E8M0), quantized},
				NoGrad: "its output is rounded", Estimate: estimateQuantize, Infer: inferQuantize, Compile: func(n *Node) (Kernel, error) {
					if _, err := quantizedType(n); err != nil {
						return nil, err
					}
					return quantizeLinear, nil
				}},
			Op{Domain: domain, Name: "DequantizeLinear", Since: versions, MinIn: 2, MaxIn: 3, Types: []TypeSet{quantized | Of(tensor.Int32), Floats | Of(tensor.Float8E8M0), quantized | Of(tensor.Int32)},
				Grad: gradDequantize, Infer: inferDequantize,
				Compile: func(*Node) (Kernel, error) { return dequantizeLinear, nil }},
		)
	}
	register(Op{Name: "DynamicQuantizeLinear", Since: []int{11}, MinIn: 1, MinOut: 3, MaxOut: 3, Types: []TypeSet{Of(tensor.Float32)}, NoGrad: "its output is rounded",
		// The range is the batch's, and not differentiated.
		Estimate: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			if dy[0] == nil {
				return nil, nil
			}
			scale := n.Output(1)
			if scale == nil {
				scale = &onnx.Value{Name: g.Names("scale")}
				n.SetOutput(1, scale)
				g.Infos[scale] = Tensor(tensor.Float32)
			}
			return []*onnx.Value{g.Div(dy[0], scale)}, nil
		},
		Infer: func(n *Node) ([]Info, error) {
			y := n.In[0]
			y = y.WithoutValue()
			y.DType = tensor.Uint8
			return []Info{y, Tensor(tensor.Float32), Tensor(tensor.Uint8)}, nil
		},
		Compile: func(*Node) (Kernel, error) {
			return func(c *Ctx) error {
				x := tensor.Data[float32](c.In(0))
				scale, zero := dynamicScale(c.Pool, x)
				if t := c.Out(1); t != nil {
					tensor.Data[float32](t)[0] = scale
				}
				if t := c.Out(2); t != nil {
					tensor.Data[uint8](t)[0] = zero
				}
				if c.Out(0) == nil {
					return nil
				}
				y := tensor.Data[uint8](c.Out(0))
				c.Pool.For(len(x), unaryGrain, func(lo, hi int) { kernel.QuantizeBytes(y[lo:hi], x[lo:hi], scale, float32(zero), 0, 255) })
				return nil
			}, nil
		}})
}

// real is the numbers of an integer tensor as float32.
func (g *Grad) real(v *onnx.Value) *onnx.Value {
	return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Float32))}, v)
}

// beside gives a list that belongs to an axis of x as many axes as it takes to stand beside x.
func (g *Grad) beside(v, x *onnx.Value, axis int64) *onnx.Value {
	var after []int64
	for a := axis + 1; a < int64(g.Rank(x)); a++ {
		after = append(after, a-axis)
	}
	if after == nil {
		return v
	}
	return g.Op("Unsqueeze", v, g.Int64s(after...))
}

// scales is how the scales of a node that quantizes, or the reverse, lie beside its input.
type scales struct {
	x, scale, zero *onnx.Value
	axis           int64 // -1: one for all
	block          int64
	unsure         bool // how many there are is not known, so that it may be one for all
}

func scalesOf(g *Grad, n *Node) (s scales, err error) {
	s = scales{x: n.Inputs[0], scale: n.Inputs[1], zero: n.Input(2), axis: -1, block: n.Int("block_size", 0)}
	shape := n.Info(1)
	switch {
	case !shape.Ranked:
		return s, fmt.Errorf("the rank of the scales is not known")
	case s.block == 0 && (len(shape.Shape) == 0 || len(shape.Shape) == 1 && shape.Shape[0].N == 1):
		return s, nil
	}
	axis, err := n.Axis("axis", 1, g.Rank(s.x))
	s.axis, s.unsure = int64(axis), s.block == 0 && !shape.Shape[0].Known()
	return s, err
}

// spread is v, the scales or the zero points, as it broadcasts to the input, in d's type.
func (s scales) spread(g *Grad, v, like *onnx.Value) *onnx.Value {
	v = g.Op("CastLike", v, like)
	switch {
	case s.block > 0: // each repeated along the axis, and cut to it
		v = g.Op("Unsqueeze", v, g.Int64s(s.axis+1))
		reps := make([]int64, g.Rank(v))
		if s.axis+1 >= int64(len(reps)) {
			g.fail(fmt.Errorf("scales of rank %d have no blocks along axis %d", len(reps)-1, s.axis))
			return v
		}
		for i := range reps {
			reps[i] = 1
		}
		reps[s.axis+1] = s.block
		v = g.Op("Tile", v, g.Int64s(reps...))
		var sizes []*onnx.Value
		for a := range int64(g.Rank(s.x)) {
			if a == s.axis {
				sizes = append(sizes, g.Int64s(-1))
			} else {
				sizes = append(sizes, g.Dims(s.x, a))
			}
		}
		v = g.Op("Reshape", v, g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, sizes...))
		return g.Op("Slice", v, g.Int64s(0), g.Dims(s.x, s.axis), g.Int64s(s.axis))
	case s.axis < 0:
		return g.Op("Reshape", v, g.Int64s())
	}
	return g.beside(v, s.x, s.axis)
}

// total sums d, of the input's shape, to the shape of the scales.
func (s scales) total(g *Grad, d *onnx.Value) (*onnx.Value, error) {
	if s.block > 0 {
		return nil, fmt.Errorf("the scales of blocks have none")
	}
	if s.unsure {
		d = g.SumTo(d, g.beside(s.scale, s.x, s.axis))
		return g.Op("CastLike", g.ReshapeLike(d, s.scale), s.scale), nil
	}
	var axes []int64
	for a := range int64(g.Rank(s.x)) {
		if a != s.axis {
			axes = append(axes, a)
		}
	}
	if axes != nil {
		d = g.ReduceSum(d, false, axes...)
	}
	return g.Op("CastLike", g.ReshapeLike(d, s.scale), s.scale), nil
}

// gradDequantize is that of (x − zero)·scale. What x gets is by the numbers that its integers are.
func gradDequantize(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	s, err := scalesOf(g, n)
	if err != nil {
		return nil, err
	}
	out := make([]*onnx.Value, len(n.Inputs))
	if g.Moves(s.x) {
		out[0] = g.Mul(dy[0], s.spread(g, s.scale, dy[0]))
	}
	if g.Moves(s.scale) {
		x := g.Op("CastLike", s.x, dy[0])
		if s.zero != nil {
			x = g.Sub(x, s.spread(g, s.zero, dy[0]))
		}
		out[1], err = s.total(g, g.Mul(dy[0], x))
	}
	return out, err
}

// estimateQuantize lets the gradient through rounding, but not where the output is saturated: PyTorch's estimate for torch.fake_quantize_per_tensor_affine
// and, of the scale, torch._fake_quantize_learnable_per_tensor_affine without a factor.
func estimateQuantize(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	to, err := quantizedType(n)
	if err != nil {
		return nil, err
	}
	lo, hi, ok := bounds(to)
	if !ok {
		return nil, fmt.Errorf("straight-through estimation is not supported for %s", to)
	}
	s, err := scalesOf(g, n)
	if err != nil {
		return nil, err
	}
	d := dy[0]
	scale := s.spread(g, s.scale, d)
	x := g.Op("CastLike", s.x, d)
	at := g.Div(x, scale)
	q := g.Op("Round", at)
	if s.zero != nil {
		q = g.Add(q, s.spread(g, s.zero, d))
	}
	inside := g.Op("And", g.Op("GreaterOrEqual", q, g.Like(d, float64(lo))), g.Op("LessOrEqual", q, g.Like(d, float64(hi))))
	through := g.Op("Where", inside, g.Div(d, scale), g.Like(d, 0))
	out := make([]*onnx.Value, len(n.Inputs))
	if out[0] = through; g.DType(s.x).IsFloat() {
		out[0] = g.Op("CastLike", through, s.x)
	}
	if g.Moves(s.scale) {
		out[1], err = s.total(g, g.Neg(g.Mul(through, at)))
	}
	return out, err
}

// quantized is the types that a zero point may have.
var quantized = Of(tensor.Int8, tensor.Uint8, tensor.Int16, tensor.Uint16, tensor.Int4, tensor.Uint4, tensor.Int2, tensor.Uint2,
	tensor.Float8E4M3FN, tensor.Float8E4M3FNUZ, tensor.Float8E5M2, tensor.Float8E5M2FNUZ, tensor.Float4E2M1)

// bounds is the least and the greatest number of an integer type.
func bounds(d tensor.DType) (lo, hi float32, ok bool) {
	switch d {
	case tensor.Int8:
		return math.MinInt8, math.MaxInt8, true
	case tensor.Uint8:
		return 0, math.MaxUint8, true
	case tensor.Int16:
		return math.MinInt16, math.MaxInt16, true
	case tensor.Uint16:
		return 0, math.MaxUint16, true
	case tensor.Int4:
		return -8, 7, true
	case tensor.Uint4:
		return 0, 15, true
	case tensor.Int2:
		return -2, 1, true
	case tensor.Uint2:
		return 0, 3, true
	}
	return 0, 0, false
}

// quantizedType is what QuantizeLinear gives: its zero point's type, or what an attribute says, or uint8.
func quantizedType(n *Node) (tensor.DType, error) {
	attr := tensor.DType(n.Int("output_dtype", 0))
	switch {
	case attr != 0 && !quantized.Has(attr):
		return 0, fmt.Errorf("output_dtype %d is no type to quantize to", int(attr))
	case n.Has(2) && n.Info(2).DType != tensor.Undefined:
		if zero := n.Info(2).DType; attr != 0 && attr != zero {
			return 0, fmt.Errorf("output_dtype is %s, the zero point %s", attr, zero)
		}
		return n.Info(2).DType, nil
	case attr != 0:
		return attr, nil
	case n.Has(2):
		return tensor.Undefined, nil
	}
	return tensor.Uint8, nil
}

func inferQuantize(n *Node) ([]Info, error) {
	d, err := quantizedType(n)
	if err != nil {
		return nil, err
	}
	y := n.In[0]
	y = y.WithoutValue()
	y.DType = d
	return []Info{y}, nil
}

func inferDequantize(n *Node) ([]Info, error) {
	y := n.In[0]
	y = y.WithoutValue()
	y.DType = n.In[1].DType
	if d := tensor.DType(n.Int("output_dtype", 0)); d != 0 {
		if !Floats.Has(d) {
			return nil, fmt.Errorf("output_dtype %d is no floating-point type", int(d))
		}
		y.DType = d
	}
	return []Info{y}, nil
}

// quantGrid is how scales lie over a tensor: outer×axis×inner elements, a scale for each index of the axis, or, if block is
// not 0, for each block of it and each inner index.
type quantGrid struct {
	outer, axis, inner, block, blocks int
	one                               bool // one scale for all
}

func quantGridOf(n *Node, x, scale, zero *tensor.Tensor) (quantGrid, error) {
	if zero != nil && !slices.Equal(zero.Shape(), scale.Shape()) && (zero.Len() != 1 || scale.Len() != 1) {
		return quantGrid{}, fmt.Errorf("a zero point of %v does not suit scales of %v", zero.Shape(), scale.Shape())
	}
	block := n.Int("block_size", 0)
	if scale.Len() == 1 && block == 0 && scale.Rank() <= 1 {
		return quantGrid{outer: 1, axis: 1, inner: x.Len(), one: true}, nil
	}
	axis, err := n.Axis("axis", 1, x.Rank())
	if err != nil {
		return quantGrid{}, err
	}
	s := x.Shape()
	g := quantGrid{outer: product(s[:axis]), axis: s[axis], inner: product(s[axis+1:])}
	if block == 0 {
		if scale.Rank() != 1 || scale.Len() != g.axis {
			return quantGrid{}, fmt.Errorf("scales of %v do not suit axis %d of %v", scale.Shape(), axis, s)
		}
		return g, nil
	}
	if block < 0 || scale.Rank() != len(s) {
		return quantGrid{}, fmt.Errorf("scales of %v do not suit blocks of %d along axis %d of %v", scale.Shape(), block, axis, s)
	}
	g.block = int(min(block, int64(max(g.axis, 1))))
	g.blocks = (g.axis + g.block - 1) / g.block
	for i, d := range scale.Shape() {
		if want := s[i]; i != axis && d != want || i == axis && d != g.blocks {
			return quantGrid{}, fmt.Errorf("scales of %v do not suit blocks of %d along axis %d of %v", scale.Shape(), block, axis, s)
		}
	}
	return g, nil
}

// runs calls f for each run [lo, hi) of elements and the scale of its first; that of the following ones is the same, or, if each,
// the following.
func (g quantGrid) runs(p *kernel.Pool, f func(lo, hi, scale int, each bool)) {
	if g.one {
		p.For(g.inner, unaryGrain, func(lo, hi int) { f(lo, hi, 0, false) })
		return
	}
	p.For(g.outer*g.axis, 1+unaryGrain/max(1, g.inner), func(lo, hi int) {
		for q := lo; q < hi; q++ {
			scale := q % g.axis
			if g.block > 0 {
				scale = (q/g.axis*g.blocks + q%g.axis/g.block) * g.inner
			}
			f(q*g.inner, (q+1)*g.inner, scale, g.block > 0)
		}
	})
}

// floats32 is t's elements as float32.
func floats32(c *Ctx, t *tensor.Tensor) ([]float32, error) {
	if t.DType() == tensor.Float32 {
		return tensor.Data[float32](t), nil
	}
	f, err := c.New(tensor.Float32, t.Shape()...)
	if err != nil {
		return nil, err
	}
	if t.DType() == tensor.Float8E8M0 {
		for i := range t.Len() {
			tensor.SetFloat64At(f, i, tensor.Float64At(t, i))
		}
		return tensor.Data[float32](f), nil
	}
	return tensor.Data[float32](f), tensor.ConvertInto(f, t, true)
}

// quantizeRun sets dst[i] = saturate(round(x[i]/scale) + zero), halves to even; NaN gives zero.
func quantizeRun[T int16 | uint16](dst []T, x []float32, scale, zero, lo, hi float32) {
	for i, v := range x {
		q := float32(math.RoundToEven(float64(v/scale))) + zero
		if q != q {
			q = zero
		}
		dst[i] = T(min(max(q, lo), hi))
	}
}

func quantizeLinear(c *Ctx) error {
	x, scale, zero := c.In(0), c.In(1), c.In(2)
	g, err := quantGridOf(c.Node, x, scale, zero)
	if err != nil {
		return err
	}
	d, err := quantizedType(c.Node)
	if err != nil {
		return err
	}
	if d == tensor.Undefined {
		d = zero.DType()
	}
	y, err := c.Alloc(0, d, x.Shape()...)
	if err != nil {
		return err
	}
	// The division is made at the precision that is asked for, or the scale's.
	precision := tensor.DType(c.Node.Int("precision", 0))
	if precision == 0 {
		precision = scale.DType()
	}
	half := precision == tensor.Float16 || precision == tensor.BFloat16
	if half && x.DType() != precision {
		if x, err = tensor.Convert(x, precision, true); err != nil {
			return err
		}
	}
	xs, err := floats32(c, x)
	if err != nil {
		return err
	}
	ss, err := floats32(c, scale)
	if err != nil {
		return err
	}
	lo, hi, integer := bounds(d)
	if integer && !half {
		zs := make([]float32, len(ss))
		if zero != nil {
			if zs, err = floats32(c, zero); err != nil {
				return err
			}
		}
		switch d {
		case tensor.Int16:
			quantizeInto(c, g, tensor.Data[int16](y), xs, ss, zs, lo, hi, quantizeRun[int16])
		case tensor.Uint16:
			quantizeInto(c, g, tensor.Data[uint16](y), xs, ss, zs, lo, hi, quantizeRun[uint16])
		default: // narrower ones have a byte each
			quantizeInto(c, g, tensor.View[uint8](y), xs, ss, zs, lo, hi, kernel.QuantizeBytes)
		}
		return nil
	}
	// Quotients first, in a tensor of their own, then what the type wants.
	q, err := c.New(tensor.Float32, x.Shape()...)
	if err != nil {
		return err
	}
	qs := tensor.Data[float32](q)
	g.runs(c.Pool, func(lo, hi, at int, each bool) {
		for i := lo; i < hi; i++ {
			qs[i] = xs[i] / ss[at]
			if each {
				at++
			}
		}
	})
	switch precision {
	case tensor.Float16:
		for i, v := range qs {
			qs[i] = tensor.F16From(v).Float32()
		}
	case tensor.BFloat16:
		for i, v := range qs {
			qs[i] = tensor.BF16From(v).Float32()
		}
	}
	if !integer {
		return tensor.ConvertInto(y, q, c.Node.Int("saturate", 1) != 0)
	}
	zs := make([]float32, len(ss))
	if zero != nil {
		if zs, err = floats32(c, zero); err != nil {
			return err
		}
	}
	g.runs(c.Pool, func(a, b, at int, each bool) {
		for i := a; i < b; i++ {
			v := float32(math.RoundToEven(float64(qs[i]))) + zs[at]
			if v != v {
				v = zs[at]
			}
			qs[i] = min(max(v, lo), hi)
			if each {
				at++
			}
		}
	})
	return tensor.ConvertInto(y, q, true)
}

func quantizeInto[T uint8 | int16 | uint16](c *Ctx, g quantGrid, y []T, x, scale, zero []float32, least, most float32, run func(dst []T, x []float32, scale, zero, lo, hi float32)) {
	g.runs(c.Pool, func(lo, hi, at int, each bool) {
		if !each {
			run(y[lo:hi], x[lo:hi], scale[at], zero[at], least, most)
			return
		}
		for i := lo; i < hi; i++ {
			run(y[i:i+1], x[i:i+1], scale[at], zero[at], least, most)
			at++
		}
	})
}

func dequantizeLinear(c *Ctx) error {
	x, scale, zero := c.In(0), c.In(1), c.In(2)
	g, err := quantGridOf(c.Node, x, scale, zero)
	if err != nil {
		return err
	}
	if zero != nil && zero.DType() != x.DType() {
		return fmt.Errorf("the zero point is %s, the input %s", zero.DType(), x.DType())
	}
	infos, err := inferDequantize(c.Node)
	if err != nil {
		return err
	}
	y, err := c.Alloc(0, infos[0].DType, x.Shape()...)
	if err != nil {
		return err
	}
	ss, err := floats32(c, scale)
	if err != nil {
		return err
	}
	zs := make([]float32, len(ss))
	if zero != nil {
		if zs, err = floats32(c, zero); err != nil {
			return err
		}
	}
	f := y
	if y.DType() != tensor.Float32 {
		if f, err = c.New(tensor.Float32, x.Shape()...); err != nil {
			return err
		}
	}
	out := tensor.Data[float32](f)
	if d := x.DType(); g.block == 0 && (d == tensor.Int8 || d == tensor.Uint8) {
		run := kernel.DequantizeU8
		if d == tensor.Int8 {
			run = kernel.DequantizeS8
		}
		bytes := tensor.View[uint8](x)
		g.runs(c.Pool, func(lo, hi, at int, _ bool) { run(out[lo:hi], bytes[lo:hi], int(zs[at]), ss[at]) })
	} else {
		xs, err := floats32(c, x)
		if err != nil {
			return err
		}
		g.runs(c.Pool, func(lo, hi, at int, each bool) {
			for i := lo; i < hi; i++ {
				out[i] = (xs[i] - zs[at]) * ss[at]
				if each {
					at++
				}
			}
		})
	}
	if f != y {
		return tensor.ConvertInto(y, f, true)
	}
	return nil
}

// dynamicScale is the scale and the zero point of uint8 that x's range, with 0 in it, asks for.
func dynamicScale(p *kernel.Pool, x []float32) (scale float32, zero uint8) {
	if p.Alone(len(x), unaryGrain) {
		return scaleOfRange(rangeOf(x))
	}
	var mu sync.Mutex
	lo, hi := float32(0), float32(0)
	p.For(len(x), unaryGrain, func(i, j int) {
		a, b := rangeOf(x[i:j])
		mu.Lock()
		defer mu.Unlock()
		lo, hi = min(lo, a), max(hi, b)
	})
	return scaleOfRange(lo, hi)
}

// rangeOf is the least and the greatest of x and 0; NaN if there is any.
func rangeOf(x []float32) (lo, hi float32) {
	return min(0, kernel.MinReduce(x)), max(0, kernel.MaxReduce(x))
}

func scaleOfRange(lo, hi float32) (scale float32, zero uint8) {
	if scale = (hi - lo) / 255; scale == 0 {
		scale = 1
	}
	z := math.RoundToEven(float64(-lo / scale))
	return scale, uint8(min(max(z, 0), 255))
}
