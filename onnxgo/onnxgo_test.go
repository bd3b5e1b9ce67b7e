package onnxgo_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/owulveryck/onnx-go"
	"github.com/owulveryck/onnx-go/backend"
	"github.com/owulveryck/onnx-go/backend/testbackend"
	_ "github.com/owulveryck/onnx-go/backend/testbackend/onnx"
	"gorgonia.org/tensor"

	retune "github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/onnxgo"
	"github.com/retune-go/retune/runtime"
	own "github.com/retune-go/retune/tensor"
)

var _ backend.ComputationBackend = (*onnxgo.Graph)(nil)

// The collection compares with an absolute 1e-6, whatever the size of the numbers. These answers carry numpy's order of
// float32 operations, which differs from the true sum in the last bits, or were written down with four digits.
var rounded = map[string]float64{ // relative tolerance
	"TestPow": 2e-7, "TestReduceL1DefaultAxesKeepdimsRandom": 2e-7, "TestReduceProdDefaultAxesKeepdimsRandom": 2e-7,
	"TestReduceSumSquareDefaultAxesKeepdimsRandom": 2e-7, "TestReduceSumSquareKeepdimsRandom": 2e-7,
	"TestReduceSumSquareDoNotKeepdimsRandom": 2e-7, "TestRoialign": 1e-3,
}

// What no backend passes.
var impossible = map[string]string{
	"TestScan9Sum":    "not handled yet",   // onnx-go does not decode attributes that are graphs
	"TestSize":        "expected (1), got", // the answer is a scalar, by the standard
	"TestSizeExample": "expected (1), got",
}

// Every case of onnx-go's own collection passes but for three.
func TestBackend(t *testing.T) {
	cases := testbackend.FindAllTestsMatching(regexp.MustCompile(""))
	if len(cases) != 348 {
		t.Errorf("the collection has %d cases", len(cases))
	}
	for _, newCase := range cases {
		c := newCase()
		t.Run(c.Title, func(t *testing.T) {
			g := onnxgo.NewGraph(runtime.Threads(1))
			defer g.Close()
			tol, loose := rounded[c.Title]
			want, no := impossible[c.Title]
			if !loose && !no {
				t.Run("case", c.RunTest(g, false))
				if c.Skipped {
					t.Error("skipped")
				}
				return
			}
			err := compare(c, g, tol)
			if no && (err == nil || !strings.Contains(err.Error(), want)) || !no && err != nil {
				t.Error(err)
			}
		})
	}
}

func compare(c *testbackend.TestCase, g *onnxgo.Graph, tol float64) error {
	m := onnx.NewModel(g)
	if err := m.UnmarshalBinary(c.ModelB); err != nil {
		return err
	}
	for i, x := range c.Input {
		if err := m.SetInput(i, x); err != nil {
			return err
		}
	}
	if err := g.Run(); err != nil {
		return err
	}
	outs, err := m.GetOutputTensors()
	if err != nil {
		return err
	}
	for i, want := range c.ExpectedOutput {
		if !slices.Equal(outs[i].Shape(), want.Shape()) {
			return fmt.Errorf("expected %v, got %v", want.Shape(), outs[i].Shape())
		}
		got := outs[i].Data().([]float32)
		for k, w := range want.Data().([]float32) {
			if d := math.Abs(float64(got[k] - w)); d > tol*math.Abs(float64(w)) {
				return fmt.Errorf("element %d is %v, want %v", k, got[k], w)
			}
		}
	}
	return nil
}

// decoded is a model of our builder's as onnx-go sees it.
func decoded(t *testing.T, build func(b *retune.Builder)) (*onnxgo.Graph, *onnx.Model) {
	t.Helper()
	b := retune.NewBuilder("g", 9)
	build(b)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	data, err := retune.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	g := onnxgo.NewGraph(runtime.Threads(1))
	t.Cleanup(g.Close)
	om := onnx.NewModel(g)
	if err := om.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	return g, om
}

func floats(v ...float32) tensor.Tensor {
	return tensor.New(tensor.WithShape(len(v)), tensor.WithBacking(v))
}

func expect(t *testing.T, got tensor.Tensor, want ...float32) {
	t.Helper()
	if got == nil || fmt.Sprint(got.Data()) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// One node as both inputs, a value that is read within and without, an initializer that is replaced, and runs one after the other.
func TestRuns(t *testing.T) {
	g, m := decoded(t, func(b *retune.Builder) {
		x := b.Input("x", own.Float32, "n")
		w := b.Init("w", own.New([]float32{10, 20}, 2))
		square := b.Op("Mul", x, x)
		sum := b.Op("Add", square, w)
		b.Output("sum", sum, own.Float32, "n")
		b.Output("square", square, own.Float32, "n")
		b.Output("twice", b.Op("Add", sum, sum), own.Float32, "n")
	})
	if err := g.Run(); err == nil || !strings.Contains(err.Error(), `no value is set for "x"`) {
		t.Errorf("a run without its input gives %v", err)
	}
	for i, x := range []float32{3, 4} {
		if err := m.SetInput(0, floats(x, 1)); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			w, _ := m.GetNodeByName("w")
			if err := w.(onnx.DataCarrier).SetTensor(floats(1, 2)); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Run(); err != nil {
			t.Fatal(err)
		}
		outs, err := m.GetOutputTensors()
		if err != nil {
			t.Fatal(err)
		}
		want := [][]float32{{19, 21}, {9, 1}, {38, 42}}
		if i == 1 {
			want = [][]float32{{17, 3}, {16, 1}, {34, 6}}
		}
		for k, w := range want {
			expect(t, outs[k], w...)
		}
	}
}

// Inputs and outputs that are left out, and forms of several opsets side by side.
func TestForms(t *testing.T) {
	g, m := decoded(t, func(b *retune.Builder) {
		x := b.Input("x", own.Float32, 4)
		clipped := b.Op("Clip", x, nil, b.Init("high", own.Scalar(float32(2))))
		part := b.Node("Slice", []*retune.Value{clipped}, retune.IntsAttr("starts", 1), retune.IntsAttr("ends", 4))
		k := b.Init("k", own.New([]int64{2}, 1))
		top := retune.NewNode("TopK", []*retune.Value{part, k}, "", "indices")
		b.Add(top)
		b.Output("indices", top.Outputs[1], own.Int64, 2)
		b.Output("part", part, own.Float32, 3)
	})
	if err := m.SetInput(0, floats(5, -1, 1, 7)); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(); err != nil {
		t.Fatal(err)
	}
	outs, err := m.GetOutputTensors()
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(outs[0].Data()) != "[2 1]" {
		t.Errorf("indices are %v", outs[0].Data())
	}
	expect(t, outs[1], -1, 1, 2)
}

func TestErrors(t *testing.T) {
	g, m := decoded(t, func(b *retune.Builder) {
		x := b.Input("x", own.Int64, 1)
		b.Output("y", b.Op("Abs", b.Op("Nonsense", b.Op("Rubbish", x))), own.Int64, 1)
	})
	if err := m.SetInput(0, floats(2)); err != nil { // an int64 by its declaration
		t.Fatal(err)
	}
	var missing *onnx.ErrNotImplemented
	if err := g.Run(); !errors.As(err, &missing) || missing.Operator != "Rubbish, Nonsense" {
		t.Errorf("unknown operators give %v", err)
	}
	if err := m.SetInput(0, floats(2.5)); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(); err == nil || !strings.Contains(err.Error(), `input "x": want element type int64`) {
		t.Errorf("a value of another type gives %v", err)
	}
	if err := onnxgo.NewGraph().Run(); err == nil {
		t.Error("an empty graph runs")
	}
}

// A model that PyTorch exported gives the answer that PyTorch recorded.
func TestExport(t *testing.T) {
	dir := "../models/mlp"
	data, err := os.ReadFile(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	g := onnxgo.NewGraph()
	defer g.Close()
	m := onnx.NewModel(g)
	if err := m.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	read := func(name string) tensor.Tensor {
		data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", name))
		if err != nil {
			t.Fatal(err)
		}
		v, err := onnx.NewTensor(data)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := m.SetInput(0, read("input_0.pb")); err != nil {
		t.Fatal(err)
	}
	if err := g.RunContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	outs, err := m.GetOutputTensors()
	if err != nil {
		t.Fatal(err)
	}
	got, want := outs[0].Data().([]float32), read("output_0.pb").Data().([]float32)
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-4 {
			t.Fatalf("element %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// Nothing but this package depends on onnx-go and its tensors.
func TestStaysApart(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Deps}}", "../...").CombinedOutput()
	if err != nil {
		t.Skipf("go list: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		path, deps, _ := strings.Cut(line, " ")
		if !strings.HasSuffix(path, "/onnxgo") && (strings.Contains(deps, "gorgonia.org/") || strings.Contains(deps, "owulveryck/onnx-go")) {
			t.Errorf("%s depends on onnx-go", path)
		}
	}
}
