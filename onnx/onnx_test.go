package onnx_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func shipped(t testing.TB) []byte {
	data, err := os.ReadFile("../models/char_lstm/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What is loaded and encoded again decodes to the same bytes when it is encoded once more, and each
// model of the suite survives that.
func TestRoundTrip(t *testing.T) {
	files := []string{"../models/char_lstm/model.onnx"}
	more, err := filepath.Glob(filepath.Join(testkit.Dir(t, "conformance"), "*", "*", "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, more...) {
		m, err := onnx.Load(f)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		first, err := onnx.Encode(m)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		again, err := onnx.Decode(first)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		second, err := onnx.Encode(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s: a second round trip gives other bytes (%v)", f, err)
		}
	}
	t.Logf("%d models", len(files)+len(more))
}

// Truncated and damaged files give an error or a model, and never a panic.
func TestDamagedFiles(t *testing.T) {
	data := shipped(t)
	for n := 0; n < len(data); n += 1 + len(data)/200 {
		if m, err := onnx.Decode(data[:n]); err == nil && m.Graph == nil {
			t.Fatalf("%d bytes: no graph and no error", n)
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		bad := bytes.Clone(data)
		for range 1 + rng.IntN(8) {
			bad[rng.IntN(2000)] = byte(rng.IntN(256))
		}
		_, _ = onnx.Decode(bad) // must return
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { use(t, data) })
}

func node(op string, in []*onnx.Value, out string, attrs ...*onnx.Attribute) *onnx.Node {
	n := onnx.NewNode(op, in, out)
	n.Attrs = attrs
	return n
}

func TestSortAndCycle(t *testing.T) {
	x := &onnx.Value{Name: "x"}
	a := node("Relu", []*onnx.Value{x}, "a")
	b := node("Relu", []*onnx.Value{a.Outputs[0]}, "b")
	g := &onnx.Graph{Name: "g", Inputs: []*onnx.Value{x}, Nodes: []*onnx.Node{b, a}}
	if err := g.Sort(); err != nil || g.Nodes[0] != a {
		t.Errorf("sort: %v", err)
	}
	a.SetInput(0, b.Outputs[0])
	if err := g.Sort(); err == nil || !strings.Contains(err.Error(), "cycle") {
		t.Errorf("a cycle gives %v", err)
	}
}

// withFunctions calls a function that calls another one, with an attribute handed through and one by default.
func withFunctions() *onnx.Model {
	leaf := &onnx.Function{Name: "leaf", Domain: "f", Opsets: []onnx.Opset{{Version: 16}}, Body: &onnx.Graph{Name: "leaf"},
		AttributeDefaults: []*onnx.Attribute{onnx.FloatAttr("alpha", 0.5)}}
	in, unused := &onnx.Value{Name: "in"}, &onnx.Value{Name: "unused"}
	relu := node("LeakyRelu", []*onnx.Value{in, unused}, "out", &onnx.Attribute{Name: "alpha", Type: onnx.AttrFloat, Ref: "alpha"})
	leaf.Body.Inputs, leaf.Body.Nodes, leaf.Body.Outputs = []*onnx.Value{in, unused}, []*onnx.Node{relu}, []*onnx.Value{relu.Outputs[0], in}

	outer := &onnx.Function{Name: "outer", Domain: "f", Overload: "1", Opsets: []onnx.Opset{{Version: 13}, {Domain: "f", Version: 1}},
		Attributes: []string{"beta", "body"}, Body: &onnx.Graph{Name: "outer"}}
	a, b := &onnx.Value{Name: "in"}, &onnx.Value{Name: "cond"}
	call := node("leaf", []*onnx.Value{a}, "out", &onnx.Attribute{Name: "alpha", Type: onnx.AttrFloat, Ref: "beta"})
	call.Domain = "f"
	branch := node("If", []*onnx.Value{b}, "picked", &onnx.Attribute{Name: "then_branch", Type: onnx.AttrGraph, Ref: "body"},
		&onnx.Attribute{Name: "else_branch", Type: onnx.AttrGraph, Ref: "body"})
	sum := node("Add", []*onnx.Value{call.Outputs[0], branch.Outputs[0]}, "sum")
	outer.Body.Inputs, outer.Body.Nodes, outer.Body.Outputs = []*onnx.Value{a, b}, []*onnx.Node{call, branch, sum}, sum.Outputs

	x := &onnx.Value{Name: "x", Type: &onnx.Type{Elem: tensor.Float32}}
	c := &onnx.Value{Name: "leaf_1/c", Type: &onnx.Type{Elem: tensor.Bool, Shape: []onnx.Dim{}}} // as inlining would call it
	one := onnx.NewNode("leaf", []*onnx.Value{x}, "y", "same")
	two := node("leaf", one.Outputs[:1], "z", onnx.FloatAttr("alpha", 0.25))
	inner := node("Neg", []*onnx.Value{one.Outputs[1]}, "neg")
	body := &onnx.Graph{Name: "body", Nodes: []*onnx.Node{inner}, Outputs: inner.Outputs}
	three := node("outer", []*onnx.Value{two.Outputs[0], c}, "w", onnx.FloatAttr("beta", 0.125), onnx.GraphAttr("body", body))
	one.Domain, two.Domain, three.Domain, three.Overload, body.Outer = "f", "f", "f", "1", three
	return &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: 16}, {Domain: "f", Version: 1}}, Functions: []*onnx.Function{leaf, outer},
		Graph: &onnx.Graph{Name: "g", Inputs: []*onnx.Value{x, c}, Nodes: []*onnx.Node{one, two, three}, Outputs: three.Outputs}}
}

func TestInlineFunctions(t *testing.T) {
	m := withFunctions()
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	was, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := onnx.InlineFunctions(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(got); err != nil {
		t.Errorf("%v", err)
	}
	var alphas []float32
	negs := 0
	names := map[string]bool{}
	got.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			switch n.Op {
			case "LeakyRelu":
				alphas = append(alphas, n.Float("alpha", -1))
				if n.Input(1) != nil {
					t.Error("an input that the call leaves out is there inside")
				}
				if n.Opset != 0 {
					t.Errorf("opset %d, which is the model's", n.Opset)
				}
			case "Neg":
				negs++
			case "If":
				if gs := n.Graphs(); len(gs) != 2 || gs[0] == gs[1] || gs[0].Outer != n || gs[1].Outer != n {
					t.Error("the branches are one graph, or another node's")
				}
			case "Identity":
			case "Add":
				if n.Opset != 13 {
					t.Errorf("opset %d, want the function's", n.Opset)
				}
			default:
				t.Errorf("%s is left", n.Op)
			}
			for _, v := range n.Outputs {
				if g == got.Graph && names[v.Name] {
					t.Errorf("two values %q", v.Name)
				}
				names[v.Name] = true
			}
		}
	})
	if len(alphas) != 3 || alphas[0] != 0.5 || alphas[1] != 0.25 || alphas[2] != 0.125 || negs != 2 {
		t.Errorf("alphas %v, %d negations", alphas, negs)
	}
	for v := range got.Graph.Values() {
		for _, n := range v.Users() {
			if n.Domain == "f" {
				t.Errorf("%q is still read by a call", v.Name)
			}
		}
	}
	if is, err := onnx.Encode(m); err != nil || !bytes.Equal(was, is) {
		t.Error("the model itself was changed")
	}

	// A function that calls itself ends in an error.
	leaf := m.Functions[0].Body.Nodes[0]
	leaf.Op, leaf.Domain, leaf.Attrs = "leaf", "f", nil
	if _, err := onnx.InlineFunctions(m); err == nil || !strings.Contains(err.Error(), `function "leaf" calls itself`) {
		t.Errorf("endless recursion gives %v", err)
	}
}
