package finetune

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// curve is one optimizer's run as PyTorch recorded it.
type curve struct {
	LR          float64   `json:"lr"`
	Momentum    float64   `json:"momentum"`
	WeightDecay float64   `json:"weight_decay"`
	Losses      []float64 `json:"losses"`
}

// Fifty steps of each optimizer follow PyTorch's losses on the same batches.
func TestCurvesFollowPyTorch(t *testing.T) {
	dir := "../models/char_lstm"
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "curves.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		BatchSize  int              `json:"batch_size"`
		Optimizers map[string]curve `json:"optimizers"`
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	n := arrays["tokens"].Shape()[0]
	arrays["h0"] = tensor.New(make([]float32, n*128), 1, n, 128)
	arrays["c0"] = tensor.New(make([]float32, n*128), 1, n, 128)
	data, err := NewDataset(arrays, map[string]int{"h0": 1, "c0": 1})
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for name, c := range rec.Optimizers {
		if strings.HasSuffix(name, "_f64") {
			continue // PyTorch's own answer in float64, to judge its float32 by
		}
		ran++
		t.Run(name, func(t *testing.T) {
			opt := map[string]Optimizer{
				"sgd_momentum": SGD{LR: c.LR, Momentum: c.Momentum},
				"adam":         Adam{LR: c.LR},
				"adamw":        AdamW{LR: c.LR, WeightDecay: c.WeightDecay},
				"rmsprop":      RMSprop{LR: c.LR},
				"adagrad":      Adagrad{LR: c.LR},
			}[name]
			tr, err := New(m, Config{Loss: CrossEntropy{Output: "logits", Target: "labels"}, Optimizer: opt})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			steps, worst := c.Losses, 0.0
			if testing.Short() {
				steps = steps[:5]
			}
			for done := 0; done < len(steps); {
				for b := range data.Batches(rec.BatchSize, nil) {
					if done == len(steps) {
						break
					}
					s, err := tr.Step(context.Background(), b)
					if err != nil {
						t.Fatal(err)
					}
					rel := math.Abs(s.Loss-steps[done]) / steps[done]
					worst = max(worst, rel)
					if rel > 1e-4 {
						t.Fatalf("step %d: loss %v, PyTorch's %v", s.Step, s.Loss, steps[done])
					}
					done++
				}
			}
			t.Logf("%d steps, greatest relative difference %.2g", len(steps), worst)
		})
	}
	if ran < 5 {
		t.Errorf("only %d optimizers are recorded", ran)
	}
}
