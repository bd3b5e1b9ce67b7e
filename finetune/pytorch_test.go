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

// recording is a model's curves.json: runs of PyTorch's optimizers from the exported weights.
type recording struct {
	BatchSize  int              `json:"batch_size"`
	Loss       string           `json:"loss"`
	Output     string           `json:"output"`
	Target     string           `json:"target"`
	BatchAxis  map[string]int   `json:"batch_axis"`
	Fixed      map[string]int64 `json:"fixed_inputs"` // scalars that each batch brings
	Optimizers map[string]struct {
		LR          float64   `json:"lr"`
		Momentum    float64   `json:"momentum"`
		WeightDecay float64   `json:"weight_decay"`
		Losses      []float64 `json:"losses"`
	} `json:"optimizers"`
}

// Fifty steps of each optimizer follow PyTorch's losses on the same batches, for every model with a recording.
func TestCurvesFollowPyTorch(t *testing.T) {
	for _, dir := range exports(t, "curves.json") {
		t.Run(modelName(dir), func(t *testing.T) { follow(t, load(t, dir), dir, AsExported, nil) })
	}
}

func load(t *testing.T, dir string) *onnx.Model {
	t.Helper()
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// follow trains a model in a mode as PyTorch did by the recording in dir. after sees each trainer that has made all steps.
func follow(t *testing.T, m *onnx.Model, dir string, mode Mode, after func(t *testing.T, optimizer string, tr *Trainer)) {
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "curves.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec recording
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	fixed := Batch{}
	for name, v := range rec.Fixed {
		fixed[name] = tensor.Scalar(v)
	}
	data, err := NewDataset(arrays, rec.BatchAxis)
	if err != nil {
		t.Fatal(err)
	}
	var loss Loss = CrossEntropy{Output: rec.Output, Target: rec.Target}
	if rec.Loss == "mse" {
		loss = MSE{Output: rec.Output, Target: rec.Target}
	}
	names, ran := readNames(t, dir), 0
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
			tr, err := New(m, Config{Loss: loss, Optimizer: opt, Names: names, Mode: mode})
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
					for k, v := range fixed {
						b[k] = v
					}
					s, err := tr.Step(context.Background(), b)
					if err != nil {
						t.Fatal(err)
					}
					rel := math.Abs(s.Loss-steps[done]) / math.Abs(steps[done])
					worst = max(worst, rel)
					if rel > 1e-4 {
						t.Fatalf("step %d: loss %v, PyTorch's %v", s.Step, s.Loss, steps[done])
					}
					done++
				}
			}
			if after != nil && !testing.Short() {
				after(t, name, tr)
			}
			t.Logf("%d steps, greatest relative difference %.2g", len(steps), worst)
		})
	}
	if ran < 2 {
		t.Errorf("only %d optimizers are recorded", ran)
	}
}
