package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	const (
		draws  = "its answer is drawn: ops/random_test.go holds the distribution"
		newer  = "ONNX Runtime 1.30 ends at opset 25"
		maps   = "its binding for JavaScript passes no maps; ops/ml_test.go has own cases"
		absent = "ONNX Runtime has no kernel for processors"
	)
	for why, names := range map[string][]string{
		draws:  {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"},
		newer:  {"BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "SwiGLU", "ai.onnx.preview.FlexAttention"},
		maps:   {"ai.onnx.ml.CastMap", "ai.onnx.ml.DictVectorizer", "ai.onnx.ml.ZipMap"},
		absent: {"ImageDecoder", "ai.onnx.preview.training.Adagrad", "ai.onnx.preview.training.Adam", "ai.onnx.preview.training.Momentum", "com.microsoft.QLinearReduceMean"},
		"its trees are those of TreeEnsembleRegressor, which is compared; the standard's cases hold its form": {"ai.onnx.ml.TreeEnsemble"},
	} {
		for _, name := range names {
			alone[name] = why
		}
	}
	// tested adds the node; what it gives is made an output by way of others.
	tested := func(g *gen, inputs ...*onnx.Value) *onnx.Value {
		n := onnx.NewNode(g.def.Name, inputs)
		n.Attrs, n.Name, n.Domain = g.attrs, "tested", g.def.Domain
		n.AddOutput(&onnx.Value{Name: "made"})
		return g.b.Add(n)[0]
	}
	joined := func(g *gen, seq *onnx.Value) {
		g.b.OutputOf("n", g.b.Op("SequenceLength", seq), nil)
		g.b.OutputOf("y", g.b.Node("ConcatFromSequence", []*onnx.Value{seq}, onnx.IntAttr("axis", 0)), nil)
	}
	generators["SequenceConstruct"] = func(g *gen) {
		s := g.full(1, 3)
		var vs []*onnx.Value
		for range g.in(1, 4) {
			vs = append(vs, g.rand(s...))
		}
		joined(g, tested(g, vs...))
	}
	generators["SequenceEmpty"] = func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Int64)
		g.int("dtype", int(g.dtype))
		joined(g, g.b.Op("SequenceInsert", tested(g), g.rand(g.full(1, 3)...)))
	}
	generators["SequenceMap"] = func(g *gen) {
		g.dtype, g.plain = tensor.Float32, true
		s := g.full(1, 2)
		var vs []*onnx.Value
		for range g.in(1, 3) {
			vs = append(vs, g.rand(s...))
		}
		body := g.b.Sub("body")
		x, w := body.InputOf("element", &onnx.Type{Elem: tensor.Float32}), body.InputOf("other", &onnx.Type{Elem: tensor.Float32})
		body.OutputOf("mapped", body.Op("Mul", x, w), &onnx.Type{Elem: tensor.Float32})
		g.attrs = append(g.attrs, onnx.GraphAttr("body", body.Graph()))
		joined(g, tested(g, g.b.Op("SequenceConstruct", vs...), g.rand(s...)))
	}
	generators["Optional"] = func(g *gen) {
		g.b.OutputOf("y", g.b.Op("OptionalGetElement", tested(g, g.rand(g.full(1, 3)...))), nil)
	}
	generators["OptionalGetElement"] = func(g *gen) {
		g.b.OutputOf("y", tested(g, g.b.Op("Optional", g.rand(g.full(1, 3)...))), nil)
	}
	generators["OptionalHasElement"] = func(g *gen) {
		g.b.OutputOf("y", tested(g, g.b.Op("Optional", g.rand(g.full(1, 3)...))), nil)
	}
	generators["Constant"] = func(g *gen) {
		switch g.in(0, 3) {
		case 0:
			t := g.tensor(one(g, tensor.Float32, tensor.Int64, tensor.Float64), g.shape(0, 3)...)
			g.attrs = append(g.attrs, &onnx.Attribute{Name: "value", Type: onnx.AttrTensor, T: t})
		case 1:
			g.int("value_int", g.in(-5, 5))
		case 2:
			g.float("value_float", g.Float32())
		default:
			g.ints("value_ints", 1, int64(g.in(-9, 9)))
		}
		if g.since < 12 && g.attrs[0].Name != "value" {
			g.attrs = []*onnx.Attribute{{Name: "value", Type: onnx.AttrTensor, T: g.tensor(tensor.Float32, g.full(0, 3)...)}}
		}
		g.node(1)
	}
	generators["DeformConv"] = func(g *gen) {
		g.dtype, g.plain = tensor.Float32, true
		group, offsets := g.in(1, 2), g.in(1, 2)
		n, c, m, k := g.in(1, 2), 2*group*g.in(1, 2), group*g.in(1, 2), []int{g.in(1, 3), g.in(1, 3)}
		in := []int{g.in(4, 6), g.in(4, 6)}
		g.int("group", group)
		g.int("offset_group", offsets)
		stride, pad := g.in(1, 2), g.in(0, 1)
		g.ints("strides", int64(stride), int64(stride))
		g.ints("pads", int64(pad), int64(pad), int64(pad), int64(pad))
		out := []int{(in[0]+2*pad-k[0])/stride + 1, (in[1]+2*pad-k[1])/stride + 1}
		inputs := []*onnx.Value{g.rand(n, c, in[0], in[1]), g.rand(m, c/group, k[0], k[1]), g.rand(n, offsets*k[0]*k[1]*2, out[0], out[1]), nil, nil}
		if g.chance(2) {
			inputs[3] = g.rand(m)
		}
		if g.chance(2) {
			inputs[4] = g.rand(n, offsets*k[0]*k[1], out[0], out[1])
		}
		g.node(1, inputs...)
	}
	grain := func(g *gen, d tensor.DType) []*onnx.Value {
		return []*onnx.Value{g.feed(tensor.Scalar(float32(0.01 + 0.1*g.Float64()))), g.feed(g.bytes(d))}
	}
	each("com.microsoft.QLinearAveragePool", func(g *gen) {
		g.declared = true
		d := one(g, tensor.Uint8, tensor.Int8)
		k := []int64{int64(g.in(1, 3)), int64(g.in(1, 3))}
		g.ints("kernel_shape", k...)
		if g.chance(2) {
			g.ints("strides", int64(g.in(1, 2)), int64(g.in(1, 2)))
		}
		g.maybe("channels_last", 0, 1)
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, g.in(1, 2), g.in(3, 6), g.in(3, 6), g.in(3, 6)))}, grain(g, d)...)
		g.node(1, append(inputs, grain(g, d)...)...)
	})
	each("com.microsoft.QLinearWhere", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		s := g.full(1, 3)
		grain := func() []*onnx.Value { // constants: ONNX Runtime falls over others
			return []*onnx.Value{g.b.Const(tensor.Scalar(float32(0.01 + 0.1*g.Float64()))), g.b.Const(g.bytes(d))}
		}
		inputs := append([]*onnx.Value{g.feed(g.tensor(tensor.Bool, s...)), g.feed(g.bytes(d, s...))}, grain()...)
		inputs = append(append(inputs, g.feed(g.bytes(d, s...))), grain()...)
		g.node(1, append(inputs, grain()...)...)
	})
}
