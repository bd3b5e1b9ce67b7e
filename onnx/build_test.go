package onnx_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// countdown has a subgraph that reads values of the graph around it.
func countdown(t testing.TB) *onnx.Model {
	b := onnx.NewBuilder("countdown", 21)
	x := b.Input("x", tensor.Float32, "batch", 2)
	w := b.Init("w", tensor.New([]float32{1, 2, 3, 4}, 2, 2))
	trips := b.Const(tensor.Scalar(int64(3)))
	body := b.Sub("body")
	body.Input("i", tensor.Int64)
	more := body.Input("more", tensor.Bool)
	h := body.Input("h", tensor.Float32, "batch", 2)
	body.Output("more_out", more, tensor.Bool)
	body.Output("h_out", body.Op("Add", body.Op("MatMul", h, w), x), tensor.Float32, "batch", 2)
	y := b.Multi("Loop", 1, []*onnx.Value{trips, nil, x}, onnx.GraphAttr("body", body.Graph()))[0]
	parts := b.Multi("Split", 2, []*onnx.Value{y}, onnx.IntAttr("axis", 1), onnx.IntAttr("num_outputs", 2))
	b.Output("left", parts[0], tensor.Float32, "batch", 1)
	b.Output("right", b.Node("LeakyRelu", parts[1:], onnx.FloatAttr("alpha", 0.25)), tensor.Float32, "batch", 1)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBuilder(t *testing.T) {
	m := countdown(t)
	data, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := onnx.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(again); err != nil {
		t.Error(err)
	}
	var was, is strings.Builder
	if err := onnx.Fprint(&was, m); err != nil {
		t.Fatal(err)
	}
	if err := onnx.Fprint(&is, again); err != nil {
		t.Fatal(err)
	}
	if was.String() != is.String() {
		t.Errorf("built:\n%s\nread back:\n%s", &was, &is)
	}
}

func TestBuilderTellsMistakes(t *testing.T) {
	b := onnx.NewBuilder("g", 21)
	x := b.Input("x", tensor.Float32, 1.5)
	b.Input("x", tensor.Float32)
	b.Output("y", nil, tensor.Float32)
	b.Output("z", b.Op("Relu", x), tensor.Float32)
	_, err := b.Model()
	for _, want := range []string{"not a float64", `"x" is used twice`, `"y" is no value`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in: %v", want, err)
		}
	}
}

func TestFprint(t *testing.T) {
	const want = `<
  ir_version: 10,
  opset_import: ["" : 21]
  producer_name: "retune"
>
countdown (float[batch,2] x) => (float[batch,1] left, float[batch,1] right)
<float[2,2] w = {1, 2, 3, 4},
 int64 const_1 = {3}>
{
  [Loop_1] Loop_1 = Loop <body: graph = body (int64 i, bool more, float[batch,2] h) => (bool more_out, float[batch,2] h_out)
    {
      [Identity_1] more_out = Identity (more)
      [MatMul_1] MatMul_1 = MatMul (h, w)
      [Add_1] h_out = Add (MatMul_1, x)
    }> (const_1, "", x)
  [Split_1] left, Split_2 = Split <axis: int = 1, num_outputs: int = 2> (Loop_1)
  [LeakyRelu_1] right = LeakyRelu <alpha: float = 0.25> (Split_2)
}
`
	var got strings.Builder
	if err := onnx.Fprint(&got, countdown(t)); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
	long := &onnx.Model{Graph: &onnx.Graph{Name: "a graph"}}
	long.Graph.AddInit("w", tensor.New(make([]float32, 100)))
	long.Graph.AddInit("i", tensor.New([]int32{123456789}))
	got.Reset()
	if err := onnx.Fprint(&got, long); err != nil || !strings.Contains(got.String(), "... 92 more}") ||
		!strings.Contains(got.String(), `"a graph"`) || !strings.Contains(got.String(), "{123456789}") {
		t.Errorf("%v: %s", err, &got)
	}
}

// All models of the suites print, and have nothing that the checker minds.
func TestCheckAcceptsTheSuites(t *testing.T) {
	for _, set := range []string{"shipped", "conformance", "models"} {
		t.Run(set, func(t *testing.T) {
			dir := "../models"
			if set != "shipped" {
				dir = testkit.Dir(t, set)
			}
			for _, file := range modelFiles(t, dir) {
				m, err := onnx.Load(file)
				if err != nil {
					t.Errorf("%v", err)
					continue
				}
				if err := onnx.Check(m); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				if err := onnx.Fprint(&bytes.Buffer{}, m); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				copied, err := onnx.Encode(m.Clone())
				if err != nil {
					t.Errorf("%s: clone: %v", file, err)
				}
				if first, err := onnx.Encode(m); err != nil || !bytes.Equal(first, copied) {
					t.Errorf("%s: a clone is another model (%v)", file, err)
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		want  string
		spoil func(m *onnx.Model)
	}{
		{`graph "countdown": node "Split_1" (Split): uses domain "", which is not imported`, func(m *onnx.Model) {
			m.Graph.Nodes[0].Opset, m.Opsets = 21, nil
			for _, n := range m.Graph.Nodes[0].Graphs()[0].Nodes {
				n.Opset = 21
			}
		}},
		{`imports domain "ai.onnx" twice`, func(m *onnx.Model) { m.Opsets = append(m.Opsets, onnx.Opset{Domain: "ai.onnx", Version: 3}) }},
		{`input "x" has no type`, func(m *onnx.Model) { m.Graph.Inputs[0].Type = nil }},
		{`value "x": element type 99 is not known`, func(m *onnx.Model) { m.Graph.Inputs[0].Type.Elem = 99 }},
		{`value "x": shape float[4611686018427387904,4611686018427387904] overflows`, func(m *onnx.Model) {
			m.Graph.Inputs[0].Type.Shape = []onnx.Dim{{Value: 1 << 62}, {Value: 1 << 62}}
		}},
		{`value "x": dimension -7 is negative`, func(m *onnx.Model) { m.Graph.Inputs[0].Type.Shape[0] = onnx.Dim{Value: -7} }},
		{`initializer "w" is declared float[2,3] and holds float[2,2]`, func(m *onnx.Model) { m.Graph.Init("w").Type.Shape[1].Value = 3 }},
		{`initializer "w" has no value`, func(m *onnx.Model) { m.Graph.Init("w").Const = nil }},
		{`value "w" is defined twice`, func(m *onnx.Model) { m.Graph.Inputs[0].Name = "w" }},
		{`node "LeakyRelu_1" (LeakyRelu): input 0: value "stray" is not defined`, func(m *onnx.Model) {
			m.Graph.Nodes[2].SetInput(0, &onnx.Value{Name: "stray"})
		}},
		{`has the name of another value`, func(m *onnx.Model) { m.Graph.Nodes[2].SetInput(0, &onnx.Value{Name: "x"}) }},
		{`node "Loop_1" (Loop): graph "body": node "MatMul_1" (MatMul): input 1: value "gone" is not defined`, func(m *onnx.Model) {
			m.Graph.Nodes[0].Graphs()[0].Nodes[0].SetInput(1, &onnx.Value{Name: "gone"})
			n := m.Graph.Nodes[0].Graphs()[0].Nodes[0]
			if n.Op != "MatMul" {
				m.Graph.Nodes[0].Graphs()[0].Nodes[1].SetInput(1, &onnx.Value{Name: "gone"})
			}
		}},
		{`output "nowhere" is never computed`, func(m *onnx.Model) { m.Graph.Outputs[0] = &onnx.Value{Name: "nowhere"} }},
		{`is part of a cycle`, func(m *onnx.Model) { m.Graph.Nodes[0].SetInput(2, m.Graph.Nodes[1].Outputs[0]) }},
		{`input 0: value "Loop_1" is computed only later`, func(m *onnx.Model) {
			m.Graph.Nodes[0], m.Graph.Nodes[1] = m.Graph.Nodes[1], m.Graph.Nodes[0]
		}},
		{`attribute "axis" is said to be int, but holds floats`, func(m *onnx.Model) { m.Graph.Nodes[1].Attr("axis").Floats = []float32{1} }},
		{`attribute "body" is said to be graph, but holds nothing`, func(m *onnx.Model) { m.Graph.Nodes[0].Attr("body").G = nil }},
		{`attribute "axis" is there twice`, func(m *onnx.Model) { m.Graph.Nodes[1].Attrs[1].Name = "axis" }},
		{`attribute "axis" refers to "k", but is in no function`, func(m *onnx.Model) { m.Graph.Nodes[1].Attr("axis").Ref = "k" }},
		{`function "f" calls itself: f > f`, func(m *onnx.Model) {
			f := &onnx.Function{Name: "f", Domain: "d", Opsets: []onnx.Opset{{Domain: "d", Version: 1}}, Body: &onnx.Graph{}}
			n := onnx.NewNode("f", nil, "y")
			n.Domain, f.Body.Nodes, f.Body.Outputs = "d", []*onnx.Node{n}, n.Outputs
			m.Functions = append(m.Functions, f)
		}},
	} {
		m := countdown(t).Clone()
		if err := onnx.Check(m); err != nil {
			t.Fatal(err)
		}
		c.spoil(m)
		if err := onnx.Check(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	// All problems are told, not the first alone.
	m := countdown(t)
	m.Graph.Inputs[0].Type, m.Graph.Outputs[0] = nil, &onnx.Value{Name: "nowhere"}
	if err := onnx.Check(m); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want two problems: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for want, change := range map[string]func(*onnx.Model){
		"is meant at opset 13, but 21 is imported": func(m *onnx.Model) { m.Graph.Nodes[1].Opset = 13 },
		`value "w" is defined twice`:               func(m *onnx.Model) { m.Graph.Nodes[1].Outputs[0].Name = "w" },
		`value "stray" is not defined`:             func(m *onnx.Model) { m.Graph.Nodes[1].SetInput(0, &onnx.Value{Name: "stray"}) },
		"has the name of another value": func(m *onnx.Model) { // a body's value that hides the one around it
			m.Graph.Nodes[0].Graphs()[0].Inputs[2].Name = "w"
		},
	} {
		m := countdown(t)
		change(m)
		if _, err := onnx.Encode(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestClone(t *testing.T) {
	m := countdown(t)
	was, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Clone()
	c.Graph.Inputs[0].Name = "renamed"
	c.Graph.Inputs[0].Type.Shape[0].Param = "n"
	c.Graph.Nodes[1].Attr("axis").I = 7
	c.Graph.Nodes[0].Graphs()[0].Nodes[0].Name = "renamed"
	c.Opsets[0].Version = 1
	if is, err := onnx.Encode(m); err != nil || !bytes.Equal(was, is) {
		t.Errorf("the original changed with its clone (%v)", err)
	}
	if c.Graph.Init("w").Const != m.Graph.Init("w").Const {
		t.Error("tensors are not shared")
	}
	if n := c.Graph.Inputs[0].Users(); len(n) != 2 {
		t.Errorf("%d users of x, want Loop and the body's Add", len(n))
	}
	if got := m.Graph.FreshName("w"); got != "w_1" {
		t.Errorf("fresh name %q", got)
	}
	if got := m.Graph.FreshName("h"); got != "h_1" {
		t.Errorf("fresh name %q for one that a subgraph has", got)
	}
}
