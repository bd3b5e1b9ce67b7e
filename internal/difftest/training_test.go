package difftest

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// TestTrainingGraphs has ONNX Runtime train the shipped models by their training graphs, step by step beside our trainer.
func TestTrainingGraphs(t *testing.T) {
	p := newPeer(t)
	recordings, err := filepath.Glob("../../models/*/curves.json")
	if err != nil || len(recordings) == 0 {
		t.Fatal("no recordings: ", err)
	}
	optimizers := []finetune.Optimizer{finetune.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-3}, finetune.AdamW{LR: 1e-3}, finetune.Adam{LR: 1e-3},
		finetune.RMSprop{LR: 1e-4, Momentum: 0.5, Centered: true}, finetune.Adagrad{LR: 1e-3}, finetune.SGD{LR: 0.01, Momentum: 0.9, Nesterov: true}}
	for i, path := range recordings {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) { trainBeside(t, p, dir, optimizers[i%len(optimizers)]) })
	}
}

func trainBeside(t *testing.T, p *peer, dir string, optimizer finetune.Optimizer) {
	var rec struct {
		BatchSize int              `json:"batch_size"`
		Loss      string           `json:"loss"`
		Output    string           `json:"output"`
		Target    string           `json:"target"`
		BatchAxis map[string]int   `json:"batch_axis"`
		Fixed     map[string]int64 `json:"fixed_inputs"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "curves.json"))
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := finetune.NewDataset(arrays, rec.BatchAxis)
	if err != nil {
		t.Fatal(err)
	}
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cfg := finetune.Config{Loss: finetune.CrossEntropy{Output: rec.Output, Target: rec.Target}, Optimizer: optimizer, ClipNorm: 1}
	if rec.Loss == "mse" {
		cfg.Loss = finetune.MSE{Output: rec.Output, Target: rec.Target}
	}
	if strings.HasPrefix(filepath.Base(dir), "conv") {
		cfg.Mode = finetune.Train
	}
	tr, err := finetune.New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	graph, err := tr.TrainingGraph()
	if err != nil {
		t.Fatal(err)
	}
	// ONNX Runtime's JavaScript interface takes nothing in the place of a default.
	next, steps := map[string]*tensor.Tensor{}, 0
	graph.Graph.Inits = slices.DeleteFunc(graph.Graph.Inits, func(v *onnx.Value) bool {
		if !slices.Contains(graph.Graph.Inputs, v) {
			return false
		}
		next[v.Name], v.Const = v.Const, nil
		return true
	})
	file, err := onnx.Encode(graph)
	if err != nil {
		t.Fatal(err)
	}
	for b := range data.Batches(rec.BatchSize, nil) {
		if steps++; steps > 3 {
			break
		}
		for name, v := range rec.Fixed {
			b[name] = tensor.Scalar(v)
		}
		in := map[string]*tensor.Tensor{}
		for name, v := range b {
			in[name] = v.(*tensor.Tensor)
		}
		for name, v := range next {
			in[name] = v
		}
		out, err := p.run(file, in, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range out {
			if of, ok := strings.CutPrefix(name, finetune.NextOf); ok {
				next[of] = v
			}
		}
		s, err := tr.Step(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		loss, norm := tensor.Float64At(out[finetune.LossName], 0), tensor.Float64At(out[finetune.NormName], 0)
		t.Logf("step %d: loss %.7f, theirs %.7f; norm %.6f, theirs %.6f", steps, s.Loss, loss, s.GradNorm, norm)
		if !(math.Abs(loss-s.Loss) <= 2e-5*math.Abs(s.Loss)) || !(math.Abs(norm-s.GradNorm) <= 1e-4*s.GradNorm) {
			t.Errorf("step %d: loss %v and norm %v, ONNX Runtime's %v and %v", steps, s.Loss, s.GradNorm, loss, norm)
		}
	}
	for _, w := range tr.Parameters() {
		worst, top := 0.0, 0.0
		for i := range w.Value.Len() {
			a, b := tensor.Float64At(w.Value, i), tensor.Float64At(next[w.Name], i)
			worst, top = max(worst, math.Abs(a-b)), max(top, math.Abs(a))
		}
		if !(worst <= 1e-4*top) {
			t.Errorf("weight %s is %v from ONNX Runtime's, its greatest element is %v", w.Name, worst, top)
		}
	}
}
