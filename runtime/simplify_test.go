package runtime_test

import (
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// saved is m as a file has it.
func saved(t *testing.T, m *onnx.Model) *onnx.Model {
	t.Helper()
	data, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = onnx.Decode(data); err != nil {
		t.Fatal(err)
	}
	return m
}

func operators(m *onnx.Model) string {
	var all []string
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			all = append(all, n.Op)
		}
	})
	return strings.Join(all, " ")
}

func TestSimplify(t *testing.T) {
	ramp := func(shape ...int) *tensor.Tensor {
		x, _ := tensor.Zeros(tensor.Float32, shape...)
		for i := range x.Len() {
			tensor.SetFloat64At(x, i, float64(i%7)-2.5)
		}
		return x
	}
	ints := func(v ...int64) *tensor.Tensor { return tensor.New(v, len(v)) }
	for _, c := range []struct {
		name  string
		graph func(b *onnx.Builder, x *onnx.Value) *onnx.Value
		want  string
	}{
		{"a shape that is computed", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			last := b.Op("Gather", b.Op("Shape", x), b.Const(ints(2)))
			return b.Op("Reshape", x, b.Node("Concat", []*onnx.Value{b.Const(ints(-1)), last}, onnx.IntAttr("axis", 0)))
		}, "Reshape"},
		{"a weight that is transposed", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("MatMul", x, b.Op("Transpose", b.Init("w", ramp(2, 4))))
		}, "MatMul"},
		{"what would make the file larger", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			big := b.Op("Expand", b.Init("one", ramp(1)), b.Const(ints(100, 1, 3, 4)))
			return b.Op("ReduceMax", b.Op("Mul", big, b.Op("Relu", x)))
		}, "Expand Relu Mul ReduceMax"},
		{"a batch norm, of a weight that something else reads too", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			w := b.Init("w", ramp(3, 3, 1))
			y := b.Op("Conv", x, w)
			y = b.Op("BatchNormalization", y, b.Init("scale", ramp(3)), b.Init("bias", ramp(3)), b.Init("mean", ramp(3)), b.Init("var", tensor.New([]float32{1, 2, 3}, 3)))
			return b.Op("Add", y, b.Op("Mul", b.Op("Relu", x), b.Op("ReduceMax", w)))
		}, "Conv Relu Mul Add"},
		{"a branch that is known, and what is computed twice", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			yes, no := b.Sub("yes"), b.Sub("no")
			yes.Output("a", yes.Op("Relu", x), tensor.Float32)
			no.Output("b", no.Op("Neg", x), tensor.Float32)
			y := b.Node("If", []*onnx.Value{b.Const(tensor.Scalar(true))}, onnx.GraphAttr("then_branch", yes.Graph()), onnx.GraphAttr("else_branch", no.Graph()))
			return b.Op("Mul", b.Op("Relu", x), b.Op("Identity", y))
		}, "Relu Mul"},
		{"what gives what it gets", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Squeeze", b.Op("Unsqueeze", b.Op("Dropout", x), b.Const(ints(0))), b.Const(ints(0)))
			y = b.Node("Transpose", []*onnx.Value{y}, onnx.IntsAttr("perm", 0, 1, 2))
			return b.Op("Neg", y)
		}, "Neg"},
		{"an operator that is computed by way of others", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			b.Import("com.microsoft", 1)
			ids, table := b.Const(tensor.New([]int32{0, 1, 1}, 1, 3)), b.Init("table", ramp(2, 4))
			embed := onnx.NewNode("EmbedLayerNormalization", []*onnx.Value{ids, nil, table, b.Init("positions", ramp(4, 4)), nil, b.Init("gamma", ramp(4)), b.Init("beta", ramp(4))}, "embedded", "mask")
			embed.Domain = "com.microsoft"
			return b.Op("Add", b.Add(embed)[0], b.Op("Add", x, b.Op("Neg", b.Op("Transpose", b.Init("w", ramp(4, 1))))))
		}, "EmbedLayerNormalization Add Add"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := onnx.NewBuilder("g", 17)
			x := b.Input("x", tensor.Float32, "n", 3, 4)
			b.Output("y", c.graph(b, x), tensor.Float32)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			before := string(encoded(t, m))
			got, err := runtime.Simplify(m)
			if err != nil {
				t.Fatal(err)
			}
			if ops := operators(got); ops != c.want {
				t.Errorf("%s, want %s", ops, c.want)
			}
			in := map[string]tensor.Value{"x": ramp(1, 3, 4)}
			sameOutputs(t, "simplified", runWith(t, saved(t, got), in), runWith(t, m, in, runtime.WithoutPass("all")))
			if string(encoded(t, m)) != before {
				t.Error("the model itself has changed")
			}
		})
	}
}

func encoded(t *testing.T, m *onnx.Model) []byte {
	t.Helper()
	data, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Calls of functions become their nodes; an initializer that a caller may replace is no constant.
func TestSimplifyKeepsWhatIsOpen(t *testing.T) {
	b := onnx.NewBuilder("g", 17)
	x := b.Input("x", tensor.Float32, 2)
	scale := b.Init("scale", tensor.New([]float32{3, 4}, 2))
	b.Output("y", b.Op("Mul", x, b.Op("Neg", scale)), tensor.Float32)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	m.Graph.Inputs = append(m.Graph.Inputs, scale)
	scale.Type = onnx.TypeOfTensor(scale.Const)
	got, err := runtime.Simplify(m)
	if err != nil {
		t.Fatal(err)
	}
	if ops := operators(got); ops != "Neg Mul" {
		t.Errorf("%s is left", ops)
	}
}
