package runtime

import (
	"math"

	"github.com/retune-go/retune/onnx"
)

// node is a node of ai.onnx as that opset defines it.
func node(opset int64, op string, inputs []*onnx.Value, attrs ...*onnx.Attribute) *onnx.Node {
	n := onnx.NewNode(op, inputs)
	n.Opset, n.Attrs = opset, attrs
	return n
}

// half, x and what is to be multiplied, in whatever order exporters do so.
func halved(t string) string {
	return "Mul(Mul(x, 0.5) | Div(x, 2), " + t + ") | Mul(0.5, Mul(x, " + t + ")) | Mul(x, Mul(0.5, " + t + ")) | Div(Mul(x, " + t + "), 2)"
}

var (
	geluErf = parsePatterns(halved("Add(1, Erf(Div(x, 1.41421356) | Mul(x, 0.70710678)))"))

	cube     = "(Pow(x, 3) | Mul(x, Mul(x, x)))"
	geluTanh = parsePatterns(
		halved("Add(1, Tanh(Mul(0.79788456, Add(x, Mul(0.044715, "+cube+") | Mul(x, Mul(x, Mul(0.044715, x)))))))"),
		halved("Add(1, Tanh(Mul(Mul(0.79788456, x), Add(1, Mul(0.044715, Pow(x, 2) | Mul(x, x)) | Mul(x, Mul(0.044715, x))))))"))
)

// gelu finds x/2 · (1 + erf(x/√2)), and its approximation by tanh, in the spellings of exporters that have no Gelu.
func gelu(r *rewriter) {
	become := func(patterns []*pattern, approximate string) {
		r.rewrite(patterns, func(m *match) *onnx.Node {
			if !r.float(m.values["x"]) {
				return nil
			}
			return node(20, "Gelu", []*onnx.Value{m.values["x"]}, onnx.StringAttr("approximate", approximate))
		})
	}
	become(geluErf, "none")
	become(geluTanh, "tanh")
}

var (
	silu      = parsePatterns("Mul(x, Sigmoid(x))", "Div(x, Add(1, Exp(Neg(x))))")
	mish      = parsePatterns("Mul(x, Tanh(Softplus(x)))")
	hardSwish = parsePatterns("Mul(x, h:HardSigmoid(x))",
		"Mul(x, Div(c:Clip(Add(x, 3), …), 6) | Mul(c:Clip(Add(x, 3), …), 0.16666667))",
		"Div(Mul(x, c:Clip(Add(x, 3), …)), 6) | Mul(Mul(x, c:Clip(Add(x, 3), …)), 0.16666667)")
	hardSigmoid = parsePatterns("Div(c:Clip(Add(x, 3), …), 6) | Mul(c:Clip(Add(x, 3), …), 0.16666667)")
)

// swish finds x·σ(x), Mish, HardSwish and HardSigmoid as exporters write them for opsets that have not got them.
func swish(r *rewriter) {
	become := func(patterns []*pattern, opset int64, op string, attrs ...*onnx.Attribute) {
		r.rewrite(patterns, func(m *match) *onnx.Node {
			if !r.float(m.values["x"]) || !r.isSixth(m.node("h")) || !r.isRelu6(m.node("c")) {
				return nil
			}
			return node(opset, op, []*onnx.Value{m.values["x"]}, attrs...)
		})
	}
	become(silu, 24, "Swish")
	become(mish, 22, "Mish")
	become(hardSwish, 22, "HardSwish")
	become(hardSigmoid, 22, "HardSigmoid", onnx.FloatAttr("alpha", 1.0/6), onnx.FloatAttr("beta", 0.5))
}

// isSixth reports whether n, if there is one, is the HardSigmoid x/6 + 1/2.
func (r *rewriter) isSixth(n *onnx.Node) bool {
	return n == nil || math.Abs(float64(n.Float("alpha", 0.2))-1.0/6) < 1e-6 && n.Float("beta", 0.5) == 0.5
}

// isRelu6 reports whether n, if there is one, is the Clip between 0 and 6.
func (r *rewriter) isRelu6(n *onnx.Node) bool {
	if n == nil {
		return true
	}
	_, params, ok := r.activation(n)
	return ok && params[0].F == 0 && params[1].F == 6
}
