package finetune

import (
	"context"
	"encoding/json"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
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

// readRecording reads curves.json and its examples: the data and the loss of the run. each, if it is not nil, may change an array.
func readRecording(t *testing.T, dir string, each func(*tensor.Tensor) *tensor.Tensor) (rec recording, data *Dataset, loss Loss) {
	t.Helper()
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "curves.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	if each != nil {
		for name, a := range arrays {
			arrays[name] = each(a)
		}
	}
	if data, err = NewDataset(arrays, rec.BatchAxis); err != nil {
		t.Fatal(err)
	}
	loss = CrossEntropy{Output: rec.Output, Target: rec.Target}
	if rec.Loss == "mse" {
		loss = MSE{Output: rec.Output, Target: rec.Target}
	}
	return rec, data, loss
}

// batches is the first count batches of the run, which begins again at the end of the data.
func (r *recording) batches(data *Dataset, count int) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		for done := 0; done < count; {
			for b := range data.Batches(r.BatchSize, nil) {
				if done == count {
					return
				}
				for name, v := range r.Fixed {
					b[name] = tensor.Scalar(v)
				}
				if !yield(b) {
					return
				}
				done++
			}
		}
	}
}

// follow trains a model in a mode as PyTorch did by the recording in dir. after sees each trainer that has made all steps.
func follow(t *testing.T, m *onnx.Model, dir string, mode Mode, after func(t *testing.T, optimizer string, tr *Trainer)) {
	rec, data, loss := readRecording(t, dir, nil)
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
			for b := range rec.batches(data, len(steps)) {
				s, err := tr.Step(context.Background(), b)
				if err != nil {
					t.Fatal(err)
				}
				want := steps[s.Step-1]
				rel := math.Abs(s.Loss-want) / math.Abs(want)
				worst = max(worst, rel)
				if rel > 1e-4 {
					t.Fatalf("step %d: loss %v, PyTorch's %v", s.Step, s.Loss, want)
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

// Losses and gradients are the same bits with any number of threads.
func TestThreadsChangeNothing(t *testing.T) {
	for _, dir := range exports(t, "curves.json") {
		rec, data, loss := readRecording(t, dir, nil)
		var losses [2][]float64
		for i, threads := range []int{1, 3} {
			tr := trainer(t, load(t, dir), Config{Loss: loss, Optimizer: Adam{}, Threads: threads})
			for b := range rec.batches(data, 3) {
				s, err := tr.Step(context.Background(), b)
				if err != nil {
					t.Fatal(err)
				}
				losses[i] = append(losses[i], s.Loss, s.GradNorm)
			}
		}
		if !slices.Equal(losses[0], losses[1]) {
			t.Errorf("%s: losses and norms %v and, with more threads, %v", modelName(dir), losses[0], losses[1])
		}
	}
}
