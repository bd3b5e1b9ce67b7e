package runtime

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

const microsoft = "com.microsoft"

// microsoftNode is a node of com.microsoft; inputs at the end may be nil.
func microsoftNode(op string, in ...*onnx.Value) *onnx.Node {
	n := onnx.NewNode(op, in)
	n.Domain, n.Opset = microsoft, 1
	return n
}

// integerProducts makes one node of a product of bytes and of what gives it its scales and its bias.
func integerProducts(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "MatMulInteger") || r.infos[n.Outputs[0]].Rank() < 1 {
			continue
		}
		cast := r.next(n.Outputs[0])
		if !is(cast, "Cast") || tensor.DType(cast.Int("to", 0)) != tensor.Float32 {
			continue
		}
		mul := r.next(cast.Outputs[0])
		if !is(mul, "Mul") {
			continue
		}
		cols := r.columns(n.Inputs[1])
		a, b := r.scales(other(mul, cast.Outputs[0]), cols)
		if a == nil {
			continue
		}
		last, bias := mul, (*onnx.Value)(nil)
		if add := r.next(mul.Outputs[0]); is(add, "Add") {
			if v := other(add, mul.Outputs[0]); r.isRow(v, cols) {
				last, bias = add, v
			}
		}
		r.put(microsoftNode("MatMulIntegerToFloat", n.Inputs[0], n.Inputs[1], a, b, n.Input(2), n.Input(3), bias), last, n)
	}
}

// columns is the number of columns of the matrices of v.
func (r *rewriter) columns(v *onnx.Value) ops.Dim {
	if s := r.infos[v]; s.Rank() >= 2 {
		return s.Shape[s.Rank()-1]
	}
	return ops.Dim{}
}

// isRow reports whether v is a float32 for each of n columns.
func (r *rewriter) isRow(v *onnx.Value, n ops.Dim) bool {
	i := r.infos[v]
	return i.DType == tensor.Float32 && i.Rank() == 1 && i.Shape[0].Same(n)
}

// isOne reports whether v is a single float32 that gives no tensor another rank.
func (r *rewriter) isOne(v *onnx.Value) bool {
	i := r.infos[v]
	return i.DType == tensor.Float32 && (i.Rank() == 0 || i.Rank() == 1 && i.Shape[0].N == 1)
}

// scales are the factors of a scale of products: the first a single number, the other one too or one for each of n columns.
func (r *rewriter) scales(v *onnx.Value, n ops.Dim) (a, b *onnx.Value) {
	if def := v.Def(); is(def, "Mul") {
		for i, a := range def.Inputs {
			if b := def.Inputs[1-i]; r.isOne(a) && (r.isOne(b) || r.isRow(b, n)) {
				return a, b
			}
		}
	}
	if !r.isOne(v) && !r.isRow(v, n) {
		return nil, nil
	}
	return r.init(v, tensor.Scalar(float32(1))), v
}
