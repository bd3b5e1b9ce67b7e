package finetune

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// narrowed turns all float32s of a model into d: weights, constants, casts, inputs and outputs.
func narrowed(t *testing.T, m *onnx.Model, d tensor.DType) {
	t.Helper()
	to := func(v *tensor.Tensor) *tensor.Tensor {
		if v.DType() != tensor.Float32 {
			return v
		}
		h, err := tensor.Convert(v, d, true)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		for v := range g.Values() {
			if v.Const != nil {
				v.Const = to(v.Const)
			}
			if v.Type != nil && v.Type.Elem == tensor.Float32 {
				v.Type.Elem = d
			}
		}
		for _, n := range g.Nodes {
			for _, a := range n.Attrs {
				if a.T != nil {
					a.T = to(a.T)
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
			arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
			if err != nil {
				t.Fatal(err)
			}
			for name, a := range arrays {
				if a.DType() == tensor.Float32 {
					if arrays[name], err = tensor.Convert(a, c.d, true); err != nil {
						t.Fatal(err)
					}
				}
			}
			text, err := os.ReadFile(filepath.Join(dir, "curves.json"))
			if err != nil {
				t.Fatal(err)
			}
			var rec recording
			if err := json.Unmarshal(text, &rec); err != nil {
				t.Fatal(err)
			}
			data, err := NewDataset(arrays, rec.BatchAxis)
			if err != nil {
				t.Fatal(err)
			}
			want := rec.Optimizers["adam"]
			tr := trainer(t, m, Config{Loss: CrossEntropy{Output: rec.Output, Target: rec.Target}, Optimizer: Adam{LR: want.LR}, LossScale: 1024})
			const steps = 12
			worst, done := 0.0, 0
			for done < steps {
				for b := range data.Batches(rec.BatchSize, nil) {
					if done == steps {
						break
					}
					s, err := tr.Step(context.Background(), b)
					if err != nil {
						t.Fatal(err)
					}
					worst = max(worst, math.Abs(s.Loss-want.Losses[done])/want.Losses[done])
					done++
				}
			}
			t.Logf("losses differ by %.2g of PyTorch's at most", worst)
			if worst > c.tol {
				t.Errorf("losses differ by %.2g of PyTorch's", worst)
			}
		})
	}
}
