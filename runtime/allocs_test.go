//go:build !race

package runtime_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Once shapes are known, a run into memory of the caller's allocates nothing: but for loops, which make values of each turn, for
// statistics of a batch, for the sorting of packed sequences, for numbers of 16 bits, for Einsum, and for what quantizes and dequantizes. (The race detector has pools forget at random.)
func TestNoAllocations(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties what is kept from run to run
	files, err := filepath.Glob("../models/*/model.onnx")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	allocating := []string{"feedback", "feedback_converge", "scripted_if_loop", "convnet", "gru_classifier"}
	for _, file := range files {
		if slices.Contains(allocating, filepath.Base(filepath.Dir(file))) {
			continue
		}
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			m, err := onnx.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			in := map[string]tensor.Value{}
			for i, p := range m.Graph.Inputs {
				data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "test_data_set_0", fmt.Sprintf("input_%d.pb", i)))
				if err != nil {
					t.Fatal(err)
				}
				if in[p.Name], err = onnx.DecodeValue(data, p.Type); err != nil {
					t.Fatal(err)
				}
			}
			allocatesNothing(t, m, in)
		})
	}
	type values = []*onnx.Value
	ints := func(b *onnx.Builder, v ...int64) *onnx.Value { return b.Const(tensor.New(v, len(v))) }
	for name, c := range map[string]struct {
		shape []int
		graph func(b *onnx.Builder, x *onnx.Value) *onnx.Value
	}{
		"convnet": {[]int{1, 16, 12, 12}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			pads := onnx.IntsAttr("pads", 1, 1, 1, 1)
			y := b.Op("Relu", b.Node("Conv", values{x, b.Const(random(32, 16, 3, 3))}, pads))
			y = b.Op("HardSwish", b.Node("Conv", values{y, b.Const(random(32, 1, 3, 3)), b.Const(random(32))}, pads, onnx.IntAttr("group", 32)))
			squeezed := b.Op("Sigmoid", b.Op("Conv", b.Op("GlobalAveragePool", y), b.Const(random(32, 32, 1, 1))))
			y = b.Op("Mul", y, squeezed)
			y = b.Node("AveragePool", values{y}, onnx.IntsAttr("kernel_shape", 2, 2), onnx.IntsAttr("strides", 2, 2))
			y = b.Op("Conv", b.Op("Pad", y, ints(b, 0, 0, 1, 0, 0, 0, 1, 2)), b.Const(random(6, 32, 1, 1))) // too few channels for blocks
			parts := b.Multi("Split", 2, values{b.Op("Conv", y, b.Const(random(6, 6, 3, 3)))}, onnx.IntAttr("axis", 1))
			y = b.Op("Resize", b.Node("Concat", parts, onnx.IntAttr("axis", 1)), nil, b.Const(tensor.New([]float32{1, 1, 1.5, 1.5}, 4)))
			return b.Node("ReduceMean", values{y}, onnx.IntsAttr("axes", 2, 3))
		}},
		"pixels": {[]int{1, 12, 6, 6}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Node("DepthToSpace", values{x}, onnx.IntAttr("blocksize", 2))
			up := b.Node("Resize", values{y, nil, b.Const(tensor.New([]float32{1, 1, 2, 2}, 4))}, onnx.StringAttr("mode", "linear"))
			y = b.Node("Resize", values{up, nil, b.Const(tensor.New([]float32{1, 1, 0.5, 0.5}, 4))}, onnx.StringAttr("mode", "nearest"))
			return b.Node("SpaceToDepth", values{b.Op("GlobalMaxPool", y)}, onnx.IntAttr("blocksize", 1))
		}},
		"last step": {[]int{5, 2, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Multi("LSTM", 3, values{x, b.Const(random(1, 12, 4)), b.Const(random(1, 12, 3))}, onnx.IntAttr("hidden_size", 3))[0]
			return b.Node("Gather", values{b.Op("Squeeze", y, ints(b, 1)), b.Const(tensor.Scalar(int64(-1)))}, onnx.IntAttr("axis", 0))
		}},
		"encoder": {[]int{2, 6, 16}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			heads := func() *onnx.Value {
				y := b.Op("MatMul", x, b.Const(random(16, 16)))
				return b.Node("Transpose", values{b.Op("Reshape", y, ints(b, 2, 6, 4, 4))}, onnx.IntsAttr("perm", 0, 2, 1, 3))
			}
			q, k, v := heads(), heads(), heads()
			scores := b.Op("Div", b.Op("MatMul", q, b.Node("Transpose", values{k}, onnx.IntsAttr("perm", 0, 1, 3, 2))), number(b, 2))
			y := b.Node("Transpose", values{b.Op("MatMul", b.Node("Softmax", values{scores}, onnx.IntAttr("axis", -1)), v)}, onnx.IntsAttr("perm", 0, 2, 1, 3))
			y = b.Op("Add", x, b.Op("MatMul", b.Op("Reshape", y, ints(b, 2, 6, 16)), b.Const(random(16, 16))))
			y = b.Op("LayerNormalization", y, b.Const(random(16)), b.Const(random(16)))
			return b.Node("ReduceMean", values{y}, onnx.IntsAttr("axes", 1))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder(name, 17)
			var dims []any
			for _, d := range c.shape {
				dims = append(dims, d)
			}
			b.OutputOf("y", c.graph(b, b.Input("x", tensor.Float32, dims...)), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			allocatesNothing(t, m, map[string]tensor.Value{"x": random(c.shape...)})
		})
	}
}

func allocatesNothing(t *testing.T, m *onnx.Model, in map[string]tensor.Value) {
	t.Helper()
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	out, err := s.Run(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(20, func() {
		if err := s.RunInto(ctx, in, out); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations in a run", n)
	}
}
