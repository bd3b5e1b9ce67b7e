package runtime_test

import (
	"math"
	"testing"

	"github.com/retune-go/retune/onnx"
)

func TestActivationsAreFound(t *testing.T) {
	type graph = func(b *onnx.Builder, x *onnx.Value) *onnx.Value
	cdf := func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		return b.Op("Add", b.Op("Erf", b.Op("Div", x, number(b, math.Sqrt2))), number(b, 1))
	}
	tanh := func(b *onnx.Builder, x, cube *onnx.Value) *onnx.Value {
		return b.Op("Add", number(b, 1), b.Op("Tanh", b.Op("Mul", number(b, 0.7978846), b.Op("Add", x, b.Op("Mul", number(b, 0.044715), cube)))))
	}
	cubed := func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Mul", x, b.Op("Mul", x, x)) }
	relu6 := func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		return b.Node("Clip", []*onnx.Value{b.Op("Add", x, number(b, 3))}, onnx.FloatAttr("min", 0), onnx.FloatAttr("max", 6))
	}
	for name, c := range map[string]struct {
		opset int64
		runs  string
		graph graph
	}{
		"gelu, the half last": {9, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Mul", x, cdf(b, x)), number(b, 0.5))
		}},
		"gelu, the half first": {13, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Mul", number(b, 0.5), x), cdf(b, x))
		}},
		"gelu, constants cast alike": {18, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			like := func(v float32) *onnx.Value { return b.Op("CastLike", number(b, v), x) }
			return b.Op("Mul", like(0.5), b.Op("Mul", x, b.Op("Add", b.Op("Erf", b.Op("Div", x, like(math.Sqrt2))), like(1))))
		}},
		"gelu of halved sum": {13, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Mul", number(b, 0.5), cdf(b, x)), x)
		}},
		"gelu, tanh": {13, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", number(b, 0.5), b.Op("Mul", x, tanh(b, x, cubed(b, x))))
		}},
		"gelu, tanh and pow": {11, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Mul", x, number(b, 0.5)), tanh(b, x, b.Op("Pow", x, number(b, 3))))
		}},
		"gelu, tanh, as JAX has it": {15, "Gelu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			cube := b.Op("Mul", x, b.Op("Mul", x, b.Op("Mul", number(b, 0.044715), x)))
			y := b.Op("Tanh", b.Op("Mul", number(b, 0.7978846), b.Op("Add", x, cube)))
			return b.Op("Mul", x, b.Op("Mul", number(b, 0.5), b.Op("Add", number(b, 1), y)))
		}},
		"another cube than that of gelu stays": {13, "Add Add Mul Mul Mul Mul Mul Mul Sin Tanh", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", number(b, 0.5), b.Op("Mul", x, tanh(b, x, cubed(b, b.Op("Sin", x)))))
		}},
		"another constant stays": {13, "Add Div Erf Mul Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Add", b.Op("Erf", b.Op("Div", x, number(b, 1.4))), number(b, 1))
			return b.Op("Mul", b.Op("Mul", x, y), number(b, 0.5))
		}},
		"a constant of more axes stays": {13, "Add Div Erf Mul Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Mul", x, cdf(b, x)), number(b, 0.5, 1, 1, 1))
		}},
		"an intermediate value that is read elsewhere stays": {13, "Add Add Div Erf Mul Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			c := cdf(b, x)
			return b.Op("Add", b.Op("Mul", b.Op("Mul", x, c), number(b, 0.5)), c)
		}},
		"swish": {13, "Swish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Mul", b.Op("Sigmoid", x), x) }},
		"a gate of something else stays": {13, "Mul Sigmoid Sin", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Sigmoid", b.Op("Sin", x)), x)
		}},
		"mish": {9, "Mish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Op("Tanh", b.Op("Softplus", x)))
		}},
		"hard swish": {13, "HardSwish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Node("HardSigmoid", []*onnx.Value{x}, onnx.FloatAttr("alpha", 1.0/6)))
		}},
		"hard swish by relu6": {9, "HardSwish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Div", b.Op("Mul", x, relu6(b, x)), number(b, 6))
		}},
		"hard swish by relu6, divided first": {9, "HardSwish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Op("Mul", relu6(b, x), number(b, 1.0/6)))
		}},
		"hard swish by relu6 with bounds as inputs": {11, "HardSwish", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Op("Div", b.Op("Clip", b.Op("Add", x, number(b, 3)), number(b, 0), number(b, 6)), number(b, 6)))
		}},
		"hard sigmoid by relu6": {9, "HardSigmoid", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Div", relu6(b, x), number(b, 6))
		}},
		"other bounds stay": {11, "Add Clip Div Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Op("Div", b.Op("Clip", b.Op("Add", x, number(b, 3)), number(b, 1), number(b, 6)), number(b, 6)))
		}},
		"other slopes stay": {13, "HardSigmoid Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", x, b.Op("HardSigmoid", x))
		}},
	} {
		t.Run(name, func(t *testing.T) { pattern{c.opset, []int{3, 8}, c.graph, c.runs}.find(t, alone) })
	}
}
