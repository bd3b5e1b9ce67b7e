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
	f.Add(shipped(f)[:4000])
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := onnx.Decode(data); err == nil {
			_, _ = onnx.Encode(m)
		}
	})
}

func external(t *testing.T, location string) error {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w.bin"), make([]byte, 16), 0o644); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "model")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "w.bin"), make([]byte, 16), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "w.bin"), filepath.Join(sub, "link.bin")); err != nil {
		t.Skipf("skipped: %v", err)
	}
	// initializer w: float[4] at location, by hand: dims, data_type, name, data_location, external_data.
	entry := append([]byte{0x0a, 8}, "location"...)
	entry = append(entry, 0x12, byte(len(location)))
	entry = append(entry, location...)
	w := []byte{0x08, 4, 0x10, 1, 0x42, 1, 'w', 0x70, 1, 0x6a, byte(len(entry))}
	w = append(w, entry...)
	graph := append([]byte{0x12, 1, 'g', 0x2a, byte(len(w))}, w...)
	model := append([]byte{0x08, 8, 0x3a, byte(len(graph))}, graph...)
	path := filepath.Join(sub, "m.onnx")
	if err := os.WriteFile(path, model, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := onnx.Load(path)
	return err
}

func TestExternalDataStaysInside(t *testing.T) {
	if err := external(t, "w.bin"); err != nil {
		t.Errorf("a file beside the model: %v", err)
	}
	for _, location := range []string{"../w.bin", "/etc/passwd", "link.bin", ".", "none.bin"} {
		if err := external(t, location); err == nil {
			t.Errorf("%s was read", location)
		}
	}
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

// A function that calls another one, with an attribute handed through and one by default.
func TestInlineFunctions(t *testing.T) {
	leaf := &onnx.Function{Name: "leaf", Domain: "f", Opsets: []onnx.Opset{{Version: 16}}, Body: &onnx.Graph{},
		AttributeDefaults: []*onnx.Attribute{{Name: "alpha", Type: onnx.AttrFloat, F: 0.5}}}
	in := &onnx.Value{Name: "in"}
	relu := node("LeakyRelu", []*onnx.Value{in}, "out", &onnx.Attribute{Name: "alpha", Type: onnx.AttrFloat, Ref: "alpha"})
	leaf.Body.Inputs, leaf.Body.Nodes, leaf.Body.Outputs = []*onnx.Value{in}, []*onnx.Node{relu}, relu.Outputs

	x := &onnx.Value{Name: "x", Type: &onnx.Type{Elem: tensor.Float32}}
	one := node("leaf", []*onnx.Value{x}, "y")
	two := node("leaf", one.Outputs, "z", &onnx.Attribute{Name: "alpha", Type: onnx.AttrFloat, F: 0.25})
	one.Domain, two.Domain = "f", "f"
	m := &onnx.Model{IRVersion: 8, Opsets: []onnx.Opset{{Version: 16}, {Domain: "f", Version: 1}}, Functions: []*onnx.Function{leaf},
		Graph: &onnx.Graph{Name: "g", Inputs: []*onnx.Value{x}, Nodes: []*onnx.Node{one, two}, Outputs: two.Outputs}}
	got, err := onnx.InlineFunctions(m)
	if err != nil {
		t.Fatal(err)
	}
	var alphas []float32
	for _, n := range got.Graph.Nodes {
		if n.Op == "LeakyRelu" {
			alphas = append(alphas, n.Float("alpha", -1))
		} else if n.Op != "Identity" {
			t.Errorf("%s is left", n.Op)
		}
	}
	if len(alphas) != 2 || alphas[0] != 0.5 || alphas[1] != 0.25 {
		t.Errorf("alphas %v", alphas)
	}
	if len(m.Graph.Nodes) != 2 || m.Graph.Nodes[0].Op != "leaf" {
		t.Error("the model itself was changed")
	}

	// A function that calls itself ends in an error.
	relu.Op, relu.Domain, relu.Attrs = "leaf", "f", nil
	if _, err := onnx.InlineFunctions(m); err == nil {
		t.Error("endless recursion went through")
	}
}
