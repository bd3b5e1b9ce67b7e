package finetune

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// quantizedWeight is an initializer of integers that stand for the real numbers (q − zero)·scale. Straight-through estimation trains those:
// the graph rounds them as the file will have them.
type quantizedWeight struct {
	name        string
	scale, zero *tensor.Tensor // float32; zero of scale's shape
	axis, block int            // axis -1: one scale for all
	least, most float64
	wide        bool // of 32 bits: the bias of an integer product, to which no operator rounds
}

// quantizedWeights finds in m, of which infos tells, the initializers that DequantizeLinear alone reads, with constant scales.
func quantizedWeights(m *onnx.Model, infos map[*onnx.Value]ops.Info) map[string]*quantizedWeight {
	found := map[string]*quantizedWeight{}
	for _, v := range m.Graph.Inits {
		if !v.Const.DType().IsInteger() || slices.Contains(m.Graph.Outputs, v) || slices.Contains(m.Graph.Inputs, v) || len(v.Users()) == 0 {
			continue
		}
		var w *quantizedWeight
		for _, n := range v.Users() {
			x := quantizedBy(n, v, infos)
			if x == nil || x.wide && !slices.Contains(m.Graph.Nodes, n) || w != nil && !(w.axis == x.axis && w.block == x.block && same(w.scale, x.scale) && same(w.zero, x.zero)) {
				w = nil
				break
			}
			w = x
		}
		if w != nil {
			found[v.Name] = w
		}
	}
	return found
}

// quantizedBy is v as n, one of its readers, has it, nil if that does something else with it.
func quantizedBy(n *onnx.Node, v *onnx.Value, infos map[*onnx.Value]ops.Info) *quantizedWeight {
	if n.Op != "DequantizeLinear" || n.Input(0) != v || n.Input(1) == nil || n.Input(1) == v || n.Input(2) == v {
		return nil
	}
	known := func(v *onnx.Value) *tensor.Tensor {
		if v.Const != nil {
			return v.Const
		}
		return infos[v].Const
	}
	w := &quantizedWeight{name: v.Name, scale: known(n.Input(1)), axis: -1, block: int(n.Int("block_size", 0)), wide: v.Const.DType() == tensor.Int32}
	if w.scale == nil || w.scale.DType() != tensor.Float32 || n.Int("output_dtype", int64(tensor.Float32)) != int64(tensor.Float32) {
		return nil
	}
	for i := range w.scale.Len() {
		if s := tensor.Float64At(w.scale, i); !(s > 0) || math.IsInf(s, 0) {
			return nil
		}
	}
	var err error
	if w.zero, err = tensor.Zeros(tensor.Float32, w.scale.Shape()...); err != nil {
		return nil
	}
	if z := n.Input(2); z != nil {
		t := known(z)
		if t == nil || t.Len() != w.zero.Len() {
			return nil
		}
		for i := range t.Len() {
			tensor.SetFloat64At(w.zero, i, tensor.Float64At(t, i))
		}
	}
	if w.block != 0 || w.scale.Rank() > 1 || w.scale.Len() != 1 {
		if w.axis, err = ops.NormAxis(n.Int("axis", 1), v.Const.Rank()); err != nil {
			return nil
		}
	}
	switch bits := v.Const.DType().Bits(); v.Const.DType() {
	case tensor.Int8, tensor.Int16, tensor.Int4, tensor.Int2, tensor.Int32:
		w.least, w.most = -math.Exp2(float64(bits-1)), math.Exp2(float64(bits-1))-1
	case tensor.Uint8, tensor.Uint16, tensor.Uint4, tensor.Uint2:
		w.most = math.Exp2(float64(bits)) - 1
	default:
		return nil
	}
	if w.wide && (v.Const.Rank() > 1 && w.axis >= 0 || w.block != 0 || slices.ContainsFunc(tensor.Data[float32](w.zero), func(z float32) bool { return z != 0 })) {
		return nil
	}
	return w
}

// at is which scale the elements of a tensor of that shape have.
func (w *quantizedWeight) at(shape []int) func(i int) int {
	if w.axis < 0 {
		return func(int) int { return 0 }
	}
	inner, size := 1, shape[w.axis]
	for _, d := range shape[w.axis+1:] {
		inner *= d
	}
	if w.block == 0 {
		return func(i int) int { return i / inner % size }
	}
	blocks := w.scale.Shape()[w.axis]
	return func(i int) int { return (i/inner/size*blocks+i/inner%size/w.block)*inner + i%inner }
}

// real is the numbers that q stands for.
func (w *quantizedWeight) real(q *tensor.Tensor) (*tensor.Tensor, error) {
	t, err := tensor.Zeros(tensor.Float32, q.Shape()...)
	if err != nil {
		return nil, err
	}
	at, scale, zero := w.at(q.Shape()), tensor.Data[float32](w.scale), tensor.Data[float32](w.zero)
	for i := range tensor.Data[float32](t) {
		k := at(i)
		tensor.Data[float32](t)[i] = (float32(tensor.Float64At(q, i)) - zero[k]) * scale[k]
	}
	return t, nil
}

// round makes q the integers that stand for t, as QuantizeLinear has them.
func (w *quantizedWeight) round(q, t *tensor.Tensor) {
	at, scale, zero := w.at(q.Shape()), tensor.Data[float32](w.scale), tensor.Data[float32](w.zero)
	for i, v := range tensor.Data[float32](t) {
		k := at(i)
		r := math.RoundToEven(float64(v/scale[k])) + float64(zero[k])
		tensor.SetFloat64At(q, i, min(max(r, w.least), w.most))
	}
}

// compute has the graph work with real numbers in place of the integers, which it rounds.
func (w *quantizedWeight) compute(g *onnx.Graph) error {
	v := g.Init(w.name)
	real, err := w.real(v.Const)
	if err != nil {
		return err
	}
	readers, d := slices.Clone(v.Users()), v.Const.DType()
	v.Const, v.Type = real, onnx.TypeOfTensor(real)
	scale := g.AddInit(g.FreshName("retune::scale"), w.scale)
	var nodes []*onnx.Node
	add := func(op string, attrs []*onnx.Attribute, in ...*onnx.Value) *onnx.Value {
		n := onnx.NewNode(op, in, g.FreshName("retune::rounded"))
		n.Name, n.Opset, n.Attrs = w.name, ops.GradOpset, attrs
		nodes = append(nodes, n)
		g.Nodes = append(g.Nodes, n) // for the next name
		return n.Outputs[0]
	}
	// first puts the nodes before all others.
	first := func() {
		g.Nodes = slices.Concat(nodes, g.Nodes[:len(g.Nodes)-len(nodes)])
	}
	if w.wide {
		y := add("Mul", nil, add("Round", nil, add("Div", nil, v, scale)), scale)
		first()
		for _, n := range readers {
			g.ReplaceUses(n.Outputs[0], y)
			g.Remove(n)
		}
		return nil
	}
	zero, err := w.zeroOf(d)
	if err != nil {
		return err
	}
	q := add("QuantizeLinear", w.attrs(), v, scale, g.AddInit(g.FreshName("retune::zero"), zero))
	first()
	for _, n := range readers {
		n.SetInput(0, q)
	}
	return nil
}

// zeroOf is the zero points in type d.
func (w *quantizedWeight) zeroOf(d tensor.DType) (*tensor.Tensor, error) {
	zero, err := tensor.Zeros(d, w.zero.Shape()...)
	if err != nil {
		return nil, err
	}
	for i, z := range tensor.Data[float32](w.zero) {
		tensor.SetFloat64At(zero, i, float64(z))
	}
	return zero, nil
}

// attrs is QuantizeLinear's.
func (w *quantizedWeight) attrs() (attrs []*onnx.Attribute) {
	if w.axis >= 0 {
		attrs = append(attrs, ops.IntAttr("axis", int64(w.axis)))
	}
	if w.block > 0 {
		attrs = append(attrs, ops.IntAttr("block_size", int64(w.block)))
	}
	return attrs
}

// rounded emits the integers of type d that stand for v, as [quantizedWeight.round] has them.
func (w *quantizedWeight) rounded(g *ops.Grad, v *onnx.Value, d tensor.DType) (*onnx.Value, error) {
	scale := g.Const(w.scale)
	if w.wide {
		q := g.Cast(g.Op("Round", g.Div(v, scale)), tensor.Float64) // in which the greatest integer is one
		return g.Cast(g.Op("Clip", q, g.Like(q, w.least), g.Like(q, w.most)), d), nil
	}
	zero, err := w.zeroOf(d)
	if err != nil {
		return nil, err
	}
	return g.With("QuantizeLinear", w.attrs(), v, scale, g.Const(zero)), nil
}
