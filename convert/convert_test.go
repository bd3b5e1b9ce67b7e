package convert_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/convert"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// network is x → Split → (a, b), y = Loop over a, reading b and weight w, z = Relu(b), with a function in use and one that is not.
func network(t *testing.T) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("g", 17)
	x := b.Input("x", tensor.Float32, "n", 4)
	scale := b.Input("scale", tensor.Float32)
	parts := b.Add(onnx.NewNode("Split", []*onnx.Value{x}, "a", "b"))
	parts[0].Def().SetAttr(onnx.IntAttr("axis", 1))
	w := b.Init("w", tensor.New([]float32{1, 2}, 2))
	body := b.Sub("body")
	body.Input("i", tensor.Int64)
	cond := body.Input("c", tensor.Bool)
	state := body.Input("s", tensor.Float32, nil, 2)
	body.Output("c2", body.Op("Identity", cond), tensor.Bool)
	body.Output("s2", body.Op("Add", body.Op("Mul", state, w), parts[1]), tensor.Float32)
	y := b.Node("Loop", []*onnx.Value{b.Const(tensor.Scalar(int64(3))), nil, parts[0]}, onnx.GraphAttr("body", body.Graph()))
	b.Output("y", b.Op("Mul", y, scale), tensor.Float32, "n", 2)
	b.Output("z", b.Op("Relu", parts[1]), tensor.Float32, "n", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func inputs() map[string]tensor.Value {
	return map[string]tensor.Value{"x": tensor.New([]float32{1, -2, 3, 4, -5, 6, -7, 8}, 2, 4), "scale": tensor.Scalar(float32(0.5))}
}

func TestExtract(t *testing.T) {
	m := network(t)
	for _, c := range []struct {
		in, out  []string
		nodes    int
		takes    string
		mistakes string
	}{
		{nil, []string{"z"}, 2, "x", ""},
		{[]string{"b"}, []string{"z"}, 1, "b", ""},
		{[]string{"scale", "a", "x"}, []string{"y"}, 3, "scale a x", ""}, // Split is still there, for b
		{[]string{"b", "a"}, []string{"s"}, 0, "", `no value "s"`},
		{[]string{"b", "a"}, []string{"y"}, 0, "", "the outputs need the inputs scale too"},
		{[]string{"x", "scale"}, []string{"z"}, 0, "", `no output needs input "scale"`},
		{[]string{"x", "x"}, []string{"z"}, 0, "", "named twice"},
		{[]string{"z"}, []string{"z"}, 0, "", "an input and an output"},
	} {
		got, err := convert.Extract(m, c.in, c.out)
		if c.mistakes != "" {
			if err == nil || !strings.Contains(err.Error(), c.mistakes) {
				t.Errorf("%v to %v: %v, want %s", c.in, c.out, err, c.mistakes)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v to %v: %v", c.in, c.out, err)
			continue
		}
		data, err := onnx.Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = onnx.Decode(data); err != nil {
			t.Fatal(err)
		}
		var takes []string
		for _, v := range got.Graph.Inputs {
			takes = append(takes, v.Name)
			if v.Type == nil || v.Type.Elem != tensor.Float32 {
				t.Errorf("input %q is %s", v.Name, v.Type)
			}
		}
		if len(got.Graph.Nodes) != c.nodes || strings.Join(takes, " ") != c.takes {
			t.Errorf("%v to %v: %d nodes that take %v", c.in, c.out, len(got.Graph.Nodes), takes)
		}
		all, err := convert.Compare(context.Background(), m, got, inputs(), 0, 0)
		if err != nil || len(all) != len(c.out) || all[0].Err != nil {
			t.Errorf("%v to %v: %v %v", c.in, c.out, all, err)
		}
	}
	if got := convert.Diff(m, network(t)); got != nil {
		t.Errorf("the model itself has changed: %v", got)
	}
}

// What is changed is told, and nothing else.
func TestDiff(t *testing.T) {
	for want, change := range map[string]func(m *onnx.Model){
		`opset "ai.onnx": 17 → 18`:                      func(m *onnx.Model) { m.Opsets[0].Version = 18 },
		`metadata "k": in the second alone`:             func(m *onnx.Model) { m.Metadata = append(m.Metadata, onnx.Prop{Key: "k", Value: "v"}) },
		`input "x": float[n,4] → float[n,5]`:            func(m *onnx.Model) { m.Graph.Inputs[0].Type.Shape[1].Value = 5 },
		`inputs: x, scale → scale, x`:                   func(m *onnx.Model) { slices.Reverse(m.Graph.Inputs) },
		`node "a" (Split): attribute "axis": 1 → 0`:     func(m *onnx.Model) { m.Graph.Nodes[0].SetAttr(onnx.IntAttr("axis", 0)) },
		`node "a" (Split): operator: Split → SplitMore`: func(m *onnx.Model) { m.Graph.Nodes[0].Op = "SplitMore" },
		`node "z": in the first alone`: func(m *onnx.Model) {
			m.Graph.Nodes = slices.DeleteFunc(m.Graph.Nodes, func(n *onnx.Node) bool { return n.Op == "Relu" })
		},
		`initializer "w": float[2] → float[1]`: func(m *onnx.Model) { m.Graph.Init("w").Const = tensor.New([]float32{1}, 1) },
		`node "s2" (Add): operator: Add → Sub`: func(m *onnx.Model) {
			m.Graph.Walk(func(g *onnx.Graph) {
				for _, n := range g.Nodes {
					if n.Op == "Add" {
						n.Op = "Sub"
					}
				}
			})
		},
	} {
		m := network(t)
		change(m)
		got := convert.Diff(network(t), m)
		if len(got) != 1 || !strings.HasSuffix(strings.Replace(got[0], "(SplitMore)", "(Split)", 1), want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	m := network(t)
	m.Graph.Init("w").Const = tensor.New([]float32{1, 2.5}, 2)
	if got := convert.Diff(network(t), m); len(got) != 1 || !strings.Contains(got[0], "2.5") {
		t.Errorf("%q for a weight", got)
	}
}

// An output that is left out is nobody's: a node that has one is not needed because another node leaves an input out.
func TestExtractOfOptionalValues(t *testing.T) {
	b := onnx.NewBuilder("g", 17)
	x, other := b.Input("x", tensor.Float32, 2), b.Input("other", tensor.Float32, 1, 1, 1)
	w := b.Init("w", tensor.New([]float32{1}, 1, 1, 1))
	rnn := onnx.NewNode("RNN", []*onnx.Value{other, w, w}, "", "h")
	rnn.SetAttr(onnx.IntAttr("hidden_size", 1))
	b.Output("state", b.Add(rnn)[1], tensor.Float32, 1, 1, 1)
	b.Output("y", b.Op("Clip", x, nil, b.Const(tensor.Scalar(float32(1)))), tensor.Float32, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	got, err := convert.Extract(m, nil, []string{"y"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Graph.Nodes) != 1 || len(got.Graph.Inputs) != 1 || got.Graph.Init("w") != nil {
		t.Errorf("%d nodes and %d inputs are left", len(got.Graph.Nodes), len(got.Graph.Inputs))
	}
}
