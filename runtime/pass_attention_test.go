package runtime_test

import (
	"math"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// attending is what the spellings of attention share: one input, cut in three or taken three times.
type attending struct{ *onnx.Builder }

func (b attending) perm(x *onnx.Value, perm ...int64) *onnx.Value {
	return b.Node("Transpose", []*onnx.Value{x}, onnx.IntsAttr("perm", perm...))
}

func (b attending) shape(x *onnx.Value, shape ...int64) *onnx.Value {
	return b.Op("Reshape", x, b.Const(tensor.New(shape, len(shape))))
}

func (b attending) softmax(x *onnx.Value) *onnx.Value {
	return b.Node("Softmax", []*onnx.Value{x}, onnx.IntAttr("axis", -1))
}

func (b attending) number(x float64) *onnx.Value { return b.Const(tensor.Scalar(float32(x))) }

// causal is true above the diagonal.
func causal(n int) *tensor.Tensor {
	mask := make([]bool, n*n)
	for i := range mask {
		mask[i] = i%n > i/n
	}
	return tensor.New(mask, 1, 1, n, n)
}

func TestAttentionIsFound(t *testing.T) {
	inf := math.Inf(-1)
	// A GPT's block: the product's columns in three, heads before rows.
	gpt := func(b attending, x *onnx.Value, between func(scores *onnx.Value) *onnx.Value) *onnx.Value {
		qkv := b.Multi("Split", 3, []*onnx.Value{x, b.Const(tensor.New([]int64{16, 16, 16}, 3))}, onnx.IntAttr("axis", 2))
		q, k, v := b.shape(qkv[0], 2, 70, 4, 4), b.shape(qkv[1], 2, 70, 4, 4), b.shape(qkv[2], 2, 70, 4, 4)
		p := b.softmax(between(b.Op("MatMul", b.perm(q, 0, 2, 1, 3), b.perm(k, 0, 2, 3, 1))))
		return b.shape(b.perm(b.Op("MatMul", p, b.perm(v, 0, 2, 1, 3)), 0, 2, 1, 3), 2, 70, 16)
	}
	scaled := func(b attending, s *onnx.Value) *onnx.Value { return b.Op("Mul", s, b.number(0.5)) }
	type spelling struct {
		opset int64
		shape []int
		graph func(b attending, x *onnx.Value) *onnx.Value
		runs  string
	}
	const fused = "Attention Reshape Reshape Reshape Reshape Split"
	for name, c := range map[string]spelling{
		"GPT": {13, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			return gpt(b, x, func(s *onnx.Value) *onnx.Value { return scaled(b, s) })
		}, fused},
		"GPT, causal": {17, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			return gpt(b, x, func(s *onnx.Value) *onnx.Value {
				return b.Op("Where", b.Const(causal(70)), b.number(inf), scaled(b, s))
			})
		}, fused},
		"GPT, causal by a great number": {17, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			return gpt(b, x, func(s *onnx.Value) *onnx.Value {
				return b.Op("Where", b.Const(causal(70)), b.number(-1e9), scaled(b, s))
			})
		}, fused},
		"GPT-2 of Hugging Face": {13, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			keep := b.Op("Not", b.Const(causal(70)))
			padding := b.Const(random(2, 1, 1, 70))
			return gpt(b, x, func(s *onnx.Value) *onnx.Value {
				return b.Op("Add", b.Op("Where", keep, b.Op("Div", s, b.number(2)), b.number(-1e4)), padding)
			})
		}, fused},
		"a mask filled in after an addition": {13, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			bias := b.Const(random(4, 70, 70))
			return gpt(b, x, func(s *onnx.Value) *onnx.Value {
				return b.Op("Where", b.Const(causal(70)), b.number(-3), b.Op("Add", bias, scaled(b, s)))
			})
		}, fused},
		"a mask added, without any scale": {13, []int{2, 70, 48}, func(b attending, x *onnx.Value) *onnx.Value {
			mask := make([]float32, 70*70)
			for i := range mask {
				if i%70 > i/70 {
					mask[i] = float32(inf)
				}
			}
			return gpt(b, x, func(s *onnx.Value) *onnx.Value { return b.Op("Add", s, b.Const(tensor.New(mask, 70, 70))) })
		}, fused},
		"nn.MultiheadAttention": {11, []int{5, 2, 24}, func(b attending, x *onnx.Value) *onnx.Value {
			part := func(i int64) *onnx.Value {
				at := func(i int64) *onnx.Value { return b.Const(tensor.New([]int64{i}, 1)) }
				return b.shape(b.Op("Slice", x, at(8*i), at(8*i+8), at(-1)), 5, 4, 4)
			}
			q := b.Op("Div", b.perm(part(0), 1, 0, 2), b.number(2))
			p := b.softmax(b.Op("MatMul", q, b.perm(part(1), 1, 2, 0)))
			return b.shape(b.perm(b.Op("MatMul", p, b.perm(part(2), 1, 0, 2)), 1, 0, 2), 10, 8)
		}, "Attention Reshape Reshape Reshape Reshape Slice Slice Slice"},
		"nn.MultiheadAttention, padded": {13, []int{4, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			q := b.Op("Div", x, b.number(2))
			s := b.Op("Mul", b.Op("MatMul", q, b.perm(b.Op("Sin", x), 0, 2, 1)), b.number(1))
			mask := b.Op("Mul", b.Const(random(4, 1, 5)), b.number(1))
			return b.Op("MatMul", b.softmax(b.Op("Add", s, mask)), x)
		}, "Attention Sin"},
		"scaled_dot_product_attention, a root of the scale on either side": {13, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			root := b.number(math.Pow(8, -0.25))
			q, k := b.Op("Mul", x, root), b.Op("Mul", b.perm(b.Op("Sin", x), 0, 1, 3, 2), root)
			return b.Op("MatMul", b.softmax(b.Op("MatMul", q, k)), b.Op("Cos", x))
		}, "Attention Cos Sin"},
		"scaled_dot_product_attention, keys transposed as one batch of matrices": {18, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			keys := b.Op("Sin", x)
			part := func(from, to int64) *onnx.Value {
				at := func(i int64) *onnx.Value { return b.Const(tensor.New([]int64{i}, 1)) }
				return b.Op("Slice", b.Op("Shape", keys), at(from), at(to), at(0))
			}
			cat := func(v ...*onnx.Value) *onnx.Value { return b.Node("Concat", v, onnx.IntAttr("axis", 0)) }
			last, second := part(-1, math.MaxInt64), part(-2, -1)
			k := b.perm(b.Op("Reshape", keys, cat(b.Const(tensor.New([]int64{-1}, 1)), second, last)), 0, 2, 1)
			k = b.Op("Reshape", k, cat(part(0, -2), last, second))
			root := b.Op("Sqrt", b.Op("Div", b.number(1), b.Op("Sqrt", b.Node("Cast", []*onnx.Value{last}, onnx.IntAttr("to", int64(tensor.Float32))))))
			p := b.softmax(b.Op("MatMul", b.Op("Mul", x, root), b.Op("Mul", k, root)))
			return b.Op("MatMul", b.Multi("Dropout", 2, []*onnx.Value{p, b.number(0)})[0], b.Op("Cos", x))
		}, "Attention Cos Sin"},
		"einsum": {13, []int{2, 5, 3, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			einsum := func(e string, in ...*onnx.Value) *onnx.Value {
				return b.Node("Einsum", in, onnx.StringAttr("equation", e))
			}
			s := b.Op("Div", einsum("bqhd,bkhd->bhqk", x, b.Op("Sin", x)), b.number(math.Sqrt(8)))
			return einsum("bhqk,bkhd->bqhd", b.softmax(s), x)
		}, "Attention Sin"},
		"keys that are cached as columns": {13, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			k := b.Node("Concat", []*onnx.Value{b.Const(random(1, 2, 8, 3)), b.perm(x, 0, 1, 3, 2)}, onnx.IntAttr("axis", -1))
			v := b.Node("Concat", []*onnx.Value{b.Const(random(1, 2, 3, 8)), x}, onnx.IntAttr("axis", 2))
			return b.Op("MatMul", b.softmax(scaled(b, b.Op("MatMul", x, k))), v)
		}, "Attention Concat Concat Transpose"},
		"keys that all heads share": {13, []int{1, 4, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			k, v := b.Const(random(1, 1, 8, 6)), b.Const(random(1, 1, 6, 8))
			return b.Op("MatMul", b.softmax(scaled(b, b.Op("MatMul", x, k))), v)
		}, "Attention"},
		"a mask of more rows than there are": {13, []int{2, 2, 1, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			k, v := b.Const(random(1, 2, 8, 1)), b.Const(random(1, 2, 70, 3))
			return b.Op("MatMul", b.softmax(b.Op("Add", b.Op("MatMul", x, k), b.Const(random(1, 1, 66, 70)))), v)
		}, "Attention"},
		"a row without a key": {13, []int{1, 1, 3, 4}, func(b attending, x *onnx.Value) *onnx.Value {
			mask := b.Const(tensor.New([]bool{true, true, true, false, true, false, false, false, true}, 3, 3))
			return b.Op("MatMul", b.softmax(b.Op("Where", mask, b.number(inf), scaled(b, b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2))))), x)
		}, "Attention"},
		"the softmax of another axis stays": {13, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			s := b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2))
			return b.Op("MatMul", b.Node("Softmax", []*onnx.Value{s}, onnx.IntAttr("axis", 2)), x)
		}, "MatMul MatMul Softmax"},
		"the flat softmax before opset 13 stays": {11, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			return b.Op("MatMul", b.Op("Softmax", b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2))), x)
		}, "MatMul MatMul Softmax"},
		"weights that are read elsewhere stay": {13, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			p := b.softmax(b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2)))
			return b.Node("Concat", []*onnx.Value{b.Op("MatMul", p, x), p}, onnx.IntAttr("axis", 3))
		}, "Concat MatMul MatMul Softmax"},
		"scores that are read elsewhere stay": {13, []int{1, 2, 5, 5}, func(b attending, x *onnx.Value) *onnx.Value {
			s := b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2))
			return b.Op("Add", b.Op("MatMul", b.softmax(s), x), s)
		}, "Add MatMul MatMul Softmax"},
		"a scale that is no constant stays": {13, []int{1, 2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			s := b.Op("Mul", b.Op("MatMul", x, b.perm(x, 0, 1, 3, 2)), b.Op("ReduceMax", x))
			return b.Op("MatMul", b.softmax(s), x)
		}, "MatMul MatMul Mul ReduceMax Softmax"},
		"a mask with more axes stays": {13, []int{2, 5, 8}, func(b attending, x *onnx.Value) *onnx.Value {
			s := b.Op("Add", b.Op("MatMul", x, b.perm(x, 0, 2, 1)), b.Const(random(3, 1, 1, 5)))
			return b.Op("MatMul", b.softmax(s), x)
		}, "Add MatMul MatMul Softmax"},
	} {
		t.Run(name, func(t *testing.T) {
			pattern{c.opset, c.shape, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return c.graph(attending{b}, x) }, c.runs}.find(t, alone)
		})
	}
}
