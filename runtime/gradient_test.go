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

func TestGradientNodesThatAreWrong(t *testing.T) {
	for _, m := range []*onnx.Model{gradientModel(t, []string{"x"}, []string{"z"}, "x"), gradientModel(t, []string{"nothing"}, nil, "x"), gradientModel(t, []string{"x"}, []string{"x"}, "x", "x")} {
		if _, err := NewSession(m); err == nil || !strings.Contains(err.Error(), `"gradient"`) {
			t.Errorf("want an error that names the node, got %v", err)
		}
	}
}

// gradientsBy runs a model of y = f(x, z), in float64, with a Gradient node that has these inputs for the values named xs and zs.
func gradientsBy(t *testing.T, f func(b *onnx.Builder, x, z *onnx.Value) *onnx.Value, xs, zs []string, ins ...string) (map[string]tensor.Value, error) {
	t.Helper()
	b := onnx.NewBuilder("g", 21)
	b.Import(trainingDomain, 1)
	x, z := b.Input("x", tensor.Float64, 2), b.Input("z", tensor.Float64, 2)
	other := b.Input("other", tensor.Float64, 2)
	y := f(b, x, z)
	b.OutputOf("y", y, nil)
	values := map[string]*onnx.Value{"other": other}
	for v := range b.Graph().Values() {
		values[v.Name] = v
	}
	n := &onnx.Node{Name: "gradient", Op: "Gradient", Domain: trainingDomain,
		Attrs: []*onnx.Attribute{onnx.StringsAttr("xs", xs...), onnx.StringsAttr("zs", zs...), onnx.StringAttr("y", "y")}}
	for i, name := range ins {
		n.SetInput(i, values[name])
	}
	for _, name := range xs {
		n.AddOutput(&onnx.Value{Name: "d" + name})
	}
	for i, d := range b.Add(n) {
		b.OutputOf("of_"+xs[i], b.Op("Identity", d), nil)
	}
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSession(m)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(context.Background(), map[string]tensor.Value{"x": tensor.New([]float64{2, -3}), "z": tensor.New([]float64{5, 7}), "other": tensor.New([]float64{1, 4})})
}

// Gradients by what is computed, at other values, and through branches, loops and functions.
func TestGradientNodes(t *testing.T) {
	type values = []*onnx.Value
	named := func(v *onnx.Value, name string) *onnx.Value { v.Name = name; return v }
	// h = x·z, y = h²·z.
	chain := func(b *onnx.Builder, x, z *onnx.Value) *onnx.Value {
		h := named(b.Op("Mul", x, z), "h")
		return b.Op("Mul", b.Op("Mul", h, h), z)
	}
	branch := func(b *onnx.Builder, x, z *onnx.Value) *onnx.Value {
		then, other := b.Sub("then"), b.Sub("else")
		then.OutputOf("t", then.Op("Mul", x, z), nil)
		other.OutputOf("e", other.Op("Neg", x), nil)
		cond := b.Op("Greater", b.Node("ReduceSum", values{z}, onnx.IntAttr("keepdims", 0)), b.Const(tensor.Scalar(6.0)))
		return b.Node("If", values{cond}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph()))
	}
	loop := func(b *onnx.Builder, x, z *onnx.Value) *onnx.Value { // x·z³
		s := b.Sub("body")
		s.Input("i", tensor.Int64)
		s.Input("more", tensor.Bool)
		state := s.Input("state", tensor.Float64, 2)
		s.OutputOf("go", s.Const(tensor.Scalar(true)), nil)
		s.OutputOf("next", s.Op("Mul", state, z), nil)
		return b.Node("Loop", values{b.Const(tensor.Scalar(int64(3))), nil, x}, onnx.GraphAttr("body", s.Graph()))
	}
	list := func(v ...float64) *tensor.Tensor { return tensor.New(v) }
	for name, c := range map[string]struct {
		f      func(b *onnx.Builder, x, z *onnx.Value) *onnx.Value
		xs, zs []string
		ins    []string
		want   map[string]*tensor.Tensor
	}{
		"by inputs":                {f: chain, xs: []string{"x", "z"}, ins: []string{"x", "z"}, want: map[string]*tensor.Tensor{"x": list(2*2*125, 2*-3*343), "z": list(3*4*25, 3*9*49)}},
		"by one, the other stands": {f: chain, xs: []string{"x"}, zs: []string{"z"}, ins: []string{"x", "z"}, want: map[string]*tensor.Tensor{"x": list(500, -2058)}},
		"by what is computed":      {f: chain, xs: []string{"h"}, ins: []string{"h"}, want: map[string]*tensor.Tensor{"h": list(2*10*5, 2*-21*7)}},
		// h is a variable of its own, so that z's share is that of the last product alone.
		"by what is computed, and what that hangs on": {f: chain, xs: []string{"h", "z"}, ins: []string{"h", "z"}, want: map[string]*tensor.Tensor{"h": list(100, -294), "z": list(100, 441)}},
		"h does not move":                 {f: chain, xs: []string{"z"}, zs: []string{"h"}, ins: []string{"z", "h"}, want: map[string]*tensor.Tensor{"z": list(100, 441)}},
		"at another h":                    {f: chain, xs: []string{"h", "z"}, ins: []string{"other", "z"}, want: map[string]*tensor.Tensor{"h": list(2*1*5, 2*4*7), "z": list(1, 16), "y": list(500, 3087)}},
		"at one value for both":           {f: chain, xs: []string{"x", "z"}, ins: []string{"other", "other"}, want: map[string]*tensor.Tensor{"x": list(2, 2*256), "z": list(3, 3*256)}},
		"through a branch":                {f: branch, xs: []string{"x", "z"}, ins: []string{"x", "z"}, want: map[string]*tensor.Tensor{"x": list(5, 7), "z": list(2, -3)}},
		"through the other branch":        {f: branch, xs: []string{"x", "z"}, ins: []string{"x", "other"}, want: map[string]*tensor.Tensor{"x": list(-1, -1), "z": list(0, 0)}},
		"through a loop":                  {f: loop, xs: []string{"x", "z"}, ins: []string{"x", "z"}, want: map[string]*tensor.Tensor{"x": list(125, 343), "z": list(3*2*25, 3*-3*49)}},
		"through a loop, at other values": {f: loop, xs: []string{"x", "z"}, ins: []string{"z", "other"}, want: map[string]*tensor.Tensor{"x": list(1, 64), "z": list(3*5, 3*7*16)}},
	} {
		got, err := gradientsBy(t, c.f, c.xs, c.zs, c.ins...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for of, want := range c.want {
			key := "of_" + of
			if of == "y" {
				key = of
			}
			if _, _, err := tensor.Compare(got[key], want, 1e-12, 1e-12); err != nil {
				t.Errorf("%s: %s: %v", name, of, err)
			}
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
		return b.Op("SequenceAt", b.Op("SplitToSequence", b.Op("Mul", x, x)), b.Const(tensor.Scalar(int64(0))))
	}))
	if err == nil || !strings.Contains(err.Error(), `"outer"`) || !strings.Contains(err.Error(), "SequenceAtGrad") || !strings.Contains(err.Error(), "does not go through control flow and sequences") {
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
