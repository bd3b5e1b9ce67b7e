package runtime

import (
	"context"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// gradientModel gives y = relu(x·w)·z and what a Gradient node says of it.
func gradientModel(t *testing.T, xs, zs []string, ins ...string) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("g", 21)
	b.Import(trainingDomain, 1)
	v := map[string]*onnx.Value{"x": b.Input("x", tensor.Float32, 2), "z": b.Input("z", tensor.Float32, 2), "u": b.Input("u", tensor.Float32, 3)}
	y := b.Op("Mul", b.Op("Relu", b.Op("Mul", v["x"], b.Init("w", tensor.New([]float32{2, -3})))), v["z"])
	b.Output("y", y, tensor.Float32, 2)
	n := &onnx.Node{Name: "gradient", Op: "Gradient", Domain: trainingDomain,
		Attrs: []*onnx.Attribute{onnx.StringsAttr("xs", xs...), onnx.StringsAttr("zs", zs...), onnx.StringAttr("y", "y")}}
	for i, name := range ins {
		n.SetInput(i, v[name])
	}
	for _, x := range xs {
		n.AddOutput(&onnx.Value{Name: "d" + x})
	}
	for i, d := range b.Add(n) {
		b.OutputOf("out_"+xs[i], b.Op("Neg", d), nil)
	}
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGradientNodesAreExpanded(t *testing.T) {
	m := gradientModel(t, []string{"x", "u"}, []string{"z"}, "x", "u", "z")
	nodes := len(m.Graph.Nodes)
	s, err := NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Run(context.Background(), map[string]tensor.Value{"x": tensor.New([]float32{1, 1}), "z": tensor.New([]float32{5, 7}), "u": tensor.New([]float32{1, 2, 3})})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]*tensor.Tensor{"out_x": tensor.New([]float32{-10, 0}), "out_u": tensor.New([]float32{0, 0, 0}), "y": tensor.New([]float32{10, 0})} {
		if _, _, err := tensor.Compare(out[name], want, 0, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(m.Graph.Nodes) != nodes {
		t.Error("the caller's model was changed")
	}
}

func TestGradientAtOtherValuesIsRefused(t *testing.T) {
	for _, m := range []*onnx.Model{gradientModel(t, []string{"x"}, nil, "z"), gradientModel(t, []string{"x"}, []string{"z"}, "x"), gradientModel(t, []string{"nothing"}, nil, "x")} {
		if _, err := NewSession(m); err == nil || !strings.Contains(err.Error(), `"gradient"`) {
			t.Errorf("want an error that names the node, got %v", err)
		}
	}
}

// nestedModel gives the gradient at x of the sum of the squares of the gradient of f(x); the outer node stands before the inner one on request.
func nestedModel(t *testing.T, outerFirst bool, f func(b *onnx.Builder, x *onnx.Value) *onnx.Value) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("g", 26)
	b.Import(trainingDomain, 1)
	x := b.Input("x", tensor.Float32, 2)
	y := f(b, x)
	b.OutputOf("y", y, nil)
	gradient := func(of, name string) *onnx.Value {
		n := &onnx.Node{Name: name, Op: "Gradient", Domain: trainingDomain, Attrs: []*onnx.Attribute{onnx.StringsAttr("xs", "x"), onnx.StringAttr("y", of)}}
		n.SetInput(0, x)
		n.AddOutput(&onnx.Value{Name: "of_" + of})
		return b.Add(n)[0]
	}
	first := gradient("y", "inner")
	b.OutputOf("squares", b.Op("Mul", first, first), nil)
	b.OutputOf("second", b.Op("Identity", gradient("squares", "outer")), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if outerFirst {
		nodes := m.Graph.Nodes
		m.Graph.Nodes = append(append([]*onnx.Node{}, nodes[len(nodes)-2:]...), nodes[:len(nodes)-2]...)
	}
	return m
}

func TestGradientsOfGradients(t *testing.T) {
	for _, outerFirst := range []bool{false, true} {
		s, err := NewSession(nestedModel(t, outerFirst, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Mul", x, b.Op("Mul", x, x)) }))
		if err != nil {
			t.Fatalf("outer node first %v: %v", outerFirst, err)
		}
		defer s.Close()
		out, err := s.Run(context.Background(), map[string]tensor.Value{"x": tensor.New([]float32{1, -2})})
		if err != nil {
			t.Fatal(err)
		}
		// (3x²)² is 9x⁴, whose slope is 36x³.
		if _, _, err := tensor.Compare(out["second"], tensor.New([]float32{36, -288}), 0, 1e-6); err != nil {
			t.Errorf("outer node first %v: %v", outerFirst, err)
		}
	}
	_, err := NewSession(nestedModel(t, false, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		return b.Node("CumProd", []*onnx.Value{x, b.Const(tensor.Scalar(int64(0)))})
	}))
	if err == nil || !strings.Contains(err.Error(), `"outer"`) || !strings.Contains(err.Error(), "gradients of gradients are not supported") {
		t.Errorf("want an error that names the node and says that it has no second gradient, got %v", err)
	}

	// Each of two differentiates what the other gives.
	m := nestedModel(t, false, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Neg", x) })
	for _, n := range m.Graph.Nodes {
		if n.Name == "inner" {
			n.Attr("y").S = []byte("second")
		}
	}
	if _, err := NewSession(m); err == nil || !strings.Contains(err.Error(), "own outputs") {
		t.Errorf("want an error about the circle, got %v", err)
	}
}
