package finetune

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// half is v as d, if it is of float32s.
func half(t *testing.T, v *tensor.Tensor, d tensor.DType) *tensor.Tensor {
	t.Helper()
	if v.DType() != tensor.Float32 {
		return v
	}
	h, err := tensor.Convert(v, d, true)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// narrowed turns all float32s of a model into d: weights, constants, casts, inputs and outputs.
func narrowed(t *testing.T, m *onnx.Model, d tensor.DType) {
	t.Helper()
	m.Graph.Walk(func(g *onnx.Graph) {
		for v := range g.Values() {
			if v.Const != nil {
				v.Const = half(t, v.Const, d)
			}
			if v.Type != nil && v.Type.Elem == tensor.Float32 {
				v.Type.Elem = d
			}
		}
		for _, n := range g.Nodes {
			for _, a := range n.Attrs {
				if a.T != nil {
					a.T = half(t, a.T, d)
				}
				if n.Op == "Cast" && a.Name == "to" && a.I == int64(tensor.Float32) {
					a.I = int64(d)
				}
			}
		}
	})
}

// Exported models with weights of 16 bits are trained about as PyTorch trains them in float32.
func TestHalfModelsLearn(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	for _, c := range []struct {
		name string
		d    tensor.DType
		tol  float64
	}{
		{"mlp", tensor.Float16, 0.01}, {"mlp", tensor.BFloat16, 0.05},
		{"convnet_preserved", tensor.Float16, 0.02}, {"convnet", tensor.Float16, 0.02}, {"convnet", tensor.BFloat16, 0.1},
		{"lstm_classifier", tensor.Float16, 0.01}, {"gru_classifier", tensor.Float16, 0.02}, {"transformer", tensor.Float16, 0.01}, {"transformer", tensor.BFloat16, 0.02},
	} {
		t.Run(c.name+" "+c.d.String(), func(t *testing.T) {
			dir := filepath.Join("../models", c.name)
			m := load(t, dir)
			narrowed(t, m, c.d)
			rec, data, loss := readRecording(t, dir, func(a *tensor.Tensor) *tensor.Tensor { return half(t, a, c.d) })
			want := rec.Optimizers["adam"]
			tr := trainer(t, m, Config{Loss: loss, Optimizer: Adam{LR: want.LR}, LossScale: 1024})
			worst := 0.0
			for b := range rec.batches(data, 12) {
				s, err := tr.Step(context.Background(), b)
				if err != nil {
					t.Fatal(err)
				}
				worst = max(worst, math.Abs(s.Loss-want.Losses[s.Step-1])/want.Losses[s.Step-1])
			}
			t.Logf("losses differ by %.2g of PyTorch's at most", worst)
			if worst > c.tol {
				t.Errorf("losses differ by %.2g of PyTorch's", worst)
			}
		})
	}
}
