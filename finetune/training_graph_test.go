package finetune

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// reload is m as it comes back from a file.
func reload(t *testing.T, m *onnx.Model) *onnx.Model {
	t.Helper()
	b, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	m, err = onnx.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// graphDriver runs a training graph and feeds back what its outputs say is next.
type graphDriver struct {
	session *runtime.Session
	next    map[string]tensor.Value
	rounded map[string]tensor.Value // of the last step
}

func newGraphDriver(t *testing.T, tr *Trainer) *graphDriver {
	t.Helper()
	m, err := tr.TrainingGraph()
	if err != nil {
		t.Fatal(err)
	}
	m = reload(t, m)
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		names := map[string]bool{"": false}
		for _, n := range g.Nodes {
			if names[n.Name] {
				t.Errorf("two nodes are named %q, which ONNX Runtime refuses", n.Name)
			}
			names[n.Name] = n.Name != ""
		}
	})
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &graphDriver{s, map[string]tensor.Value{}, map[string]tensor.Value{}}
}

// step runs a batch.
func (d *graphDriver) step(t *testing.T, b Batch) (loss, norm float64) {
	t.Helper()
	in := map[string]tensor.Value{}
	for name, v := range b {
		in[name] = v
	}
	for name, v := range d.next {
		in[name] = v
	}
	out, err := d.session.Run(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range out {
		if of, ok := strings.CutPrefix(name, NextOf); ok {
			d.next[of] = v
		}
		if of, ok := strings.CutPrefix(name, RoundedOf); ok {
			d.rounded[of] = v
		}
	}
	return tensor.Float64At(out[LossName].(*tensor.Tensor), 0), tensor.Float64At(out[NormName].(*tensor.Tensor), 0)
}

// same holds the graph's weights, states and statistics against the trainer's.
func (d *graphDriver) same(t *testing.T, tr *Trainer, tol float64) {
	t.Helper()
	names, _ := tr.cfg.Optimizer.slots()
	for _, p := range tr.params {
		if err := different(d.next[p.Name], p.master, tol); err != nil {
			t.Errorf("weight %s: %v", p.Name, err)
		}
		for k, name := range names {
			if err := different(d.next[p.Name+"."+name], p.slots[k], tol); err != nil {
				t.Errorf("state %s.%s: %v", p.Name, name, err)
			}
		}
	}
	for name, v := range tr.buffers {
		if err := different(d.next[name], v, tol); err != nil {
			t.Errorf("statistic %s: %v", name, err)
		}
	}
}

// follow takes a step of both and holds the graph's loss and norm of the gradients against the trainer's.
func (d *graphDriver) follow(t *testing.T, tr *Trainer, b Batch) {
	t.Helper()
	s, err := tr.Step(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	loss, norm := d.step(t, b)
	if math.Abs(loss-s.Loss) > 1e-5*math.Abs(s.Loss) || math.Abs(norm-s.GradNorm) > 1e-4*s.GradNorm {
		t.Errorf("step %d: loss %v and norm %v, the trainer's %v and %v", s.Step, loss, norm, s.Loss, s.GradNorm)
	}
}

// Steps of a training graph are those of the trainer, for every model with a recording.
func TestTrainingGraphsFollowTheTrainer(t *testing.T) {
	for _, dir := range exports(t, "curves.json") {
		t.Run(modelName(dir), func(t *testing.T) {
			rec, data, loss := readRecording(t, dir, nil)
			mode := AsExported
			if strings.Contains(modelName(dir), "conv") {
				mode = Train
			}
			tr := trainer(t, load(t, dir), Config{Loss: loss, Optimizer: SGD{LR: 0.01, Momentum: 0.9}, Names: readNames(t, dir), Mode: mode})
			d := newGraphDriver(t, tr)
			for b := range rec.batches(data, 5) {
				d.follow(t, tr, b)
			}
			d.same(t, tr, 1e-4)
		})
	}
}

// Each optimizer's update, and what is done to gradients before it, is the trainer's.
func TestTrainingGraphsOfOptimizers(t *testing.T) {
	dir := "../models/mlp"
	rec, data, loss := readRecording(t, dir, nil)
	for name, cfg := range map[string]Config{
		"sgd":               {Optimizer: SGD{LR: 0.1, WeightDecay: 1e-2}},
		"sgd, dampening":    {Optimizer: SGD{LR: 0.1, Momentum: 0.9, Dampening: 0.3}},
		"sgd, nesterov":     {Optimizer: SGD{LR: 0.1, Momentum: 0.9, Nesterov: true, WeightDecay: 1e-2}},
		"adam":              {Optimizer: Adam{LR: 1e-2, WeightDecay: 1e-2}},
		"adam, betas":       {Optimizer: Adam{LR: 1e-2, Betas: [2]float64{0.8, 0.95}, Eps: 1e-4}},
		"adamw":             {Optimizer: AdamW{LR: 1e-2}},
		"adam, amsgrad":     {Optimizer: Adam{LR: 1e-2, Betas: [2]float64{0.5, 0.3}, AMSGrad: true}},
		"adamw, no decay":   {Optimizer: AdamW{LR: 1e-2, NoDecay: true}},
		"rmsprop":           {Optimizer: RMSprop{LR: 1e-3, WeightDecay: 1e-2}},
		"rmsprop, all":      {Optimizer: RMSprop{LR: 1e-3, Momentum: 0.5, Centered: true}},
		"rmsprop, centered": {Optimizer: RMSprop{LR: 1e-3, Centered: true}},
		"adagrad":           {Optimizer: Adagrad{LR: 1e-2, LRDecay: 0.1, WeightDecay: 1e-2, Initial: 0.1}},
		"clipped":           {Optimizer: SGD{LR: 0.1}, ClipValue: 0.01, ClipNorm: 0.05},
		"clipped norm":      {Optimizer: SGD{LR: 0.1}, ClipNorm: 0.1},
		"penalties":         {Optimizer: SGD{LR: 0.1}, L1: 1e-3, L2: 1e-2},
		"loss scale":        {Optimizer: SGD{LR: 0.1}, LossScale: 128, ClipNorm: 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Loss = loss
			tr := trainer(t, load(t, dir), cfg)
			d := newGraphDriver(t, tr)
			for b := range rec.batches(data, 5) {
				d.follow(t, tr, b)
			}
			d.same(t, tr, 2e-5)
		})
	}
}

// The gradient graph of every model with recorded gradients gives what the kernels give.
func TestGradientGraphs(t *testing.T) {
	for _, dir := range exports(t, "gradients.npz") {
		t.Run(modelName(dir), func(t *testing.T) {
			m := load(t, dir)
			want, err := sumGradients(t, dir, m)
			if err != nil {
				t.Fatal(err)
			}
			g, err := GradientGraph(m, m.Graph.Outputs[0].Name, false, false)
			if err != nil {
				t.Fatal(err)
			}
			in := map[string]tensor.Value{}
			for i, v := range m.Graph.Inputs {
				data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("test_data_set_0/input_%d.pb", i)))
				if err == nil {
					in[v.Name], err = onnx.DecodeValue(data, v.Type)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, err := runOnce(reload(t, g), in)
			if err != nil {
				t.Fatal(err)
			}
			for name, w := range want {
				if err := different(got[GradientOf+name], w, 1e-5); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// Carried states are among what is fed back.
func TestTrainingGraphCarries(t *testing.T) {
	dir := "../models/char_lstm"
	rec, data, loss := readRecording(t, dir, nil)
	tr := trainer(t, load(t, dir), Config{Loss: loss, Optimizer: Adam{LR: 1e-3}, Carry: map[string]string{"h0": "hn", "c0": "cn"}})
	d := newGraphDriver(t, tr)
	for b := range rec.batches(data, 4) {
		if tr.Steps() > 0 {
			delete(b, "h0")
			delete(b, "c0")
		}
		s, err := tr.Step(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if loss, _ := d.step(t, b); math.Abs(loss-s.Loss) > 1e-5*s.Loss {
			t.Errorf("step %d: loss %v, the trainer's %v", s.Step, loss, s.Loss)
		}
	}
	d.same(t, tr, 1e-4)
}

// Dropout drops anew at each run, and of the same elements in the gradients: with a ratio of 0 all is as without.
func TestTrainingGraphDrops(t *testing.T) {
	dir := "../models/mlp"
	rec, data, loss := readRecording(t, dir, nil)
	m := load(t, dir)
	var hidden string
	for _, n := range m.Graph.Nodes {
		if n.Op == "Relu" {
			hidden = n.Outputs[0].Name
			break
		}
	}
	for _, ratio := range []float64{0, 0.5} {
		tr := trainer(t, m, Config{Loss: loss, Optimizer: SGD{LR: 0.1}, Mode: Train, Dropout: map[string]float64{hidden: ratio}})
		d := newGraphDriver(t, tr)
		for b := range rec.batches(data, 1) {
			s, err := tr.Step(context.Background(), b)
			if err != nil {
				t.Fatal(err)
			}
			first, _ := d.step(t, b)
			if ratio == 0 {
				if math.Abs(first-s.Loss) > 1e-6*s.Loss {
					t.Errorf("loss %v, the trainer's %v", first, s.Loss)
				}
				d.same(t, tr, 1e-5)
				continue
			}
			d.next = map[string]tensor.Value{}
			if again, _ := d.step(t, b); again == first {
				t.Errorf("the same was dropped twice: loss %v", first)
			}
		}
	}
}

// Weights of 16 bits come from wider ones, which are what is updated.
func TestTrainingGraphOfHalves(t *testing.T) {
	dir := "../models/mlp"
	rec, data, loss := readRecording(t, dir, func(v *tensor.Tensor) *tensor.Tensor { return half(t, v, tensor.Float16) })
	m := load(t, dir)
	narrowed(t, m, tensor.Float16)
	tr := trainer(t, m, Config{Loss: loss, Optimizer: SGD{LR: 0.1, Momentum: 0.9}})
	d := newGraphDriver(t, tr)
	for b := range rec.batches(data, 3) {
		s, err := tr.Step(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if loss, _ := d.step(t, b); math.Abs(loss-s.Loss) > 1e-3*s.Loss {
			t.Errorf("step %d: loss %v, the trainer's %v", s.Step, loss, s.Loss)
		}
	}
	d.same(t, tr, 1e-3)
}

// All operators that have no standard form are told at once.
func TestTrainingGraphTellsWhatItCannot(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	x := b.Op("Mul", b.InputOf("x", &onnx.Type{Elem: tensor.Float32}), b.Init("w", tensor.New([]float32{1, 2}, 2)))
	// Kernels see ranks, graphs do not.
	y := b.Op("LayerNormalization", x, b.Init("ones", tensor.New([]float32{1, 1}, 2)))
	y = b.Node("Resize", []*onnx.Value{y, nil, b.Const(tensor.New([]float32{1, 1, 2, 2}, 4))}, onnx.StringAttr("mode", "linear"))
	b.Output("y", b.Node("ReduceSum", []*onnx.Value{y}, onnx.IntAttr("keepdims", 0)), tensor.Float32)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	tr := trainer(t, m, Config{Optimizer: SGD{LR: 0.1}, Trainable: []string{"w"}})
	_, err = tr.TrainingGraph()
	if err == nil || !strings.Contains(err.Error(), "ResizeGrad: the rank") || !strings.Contains(err.Error(), "LayerNormalizationGrad: the rank") {
		t.Errorf("the error is %v", err)
	}
}

// Inputs of unknown shapes are no hindrance where the operators do not need those: an Einsum of three operands has as many indices as its equation
// says, and of an old Softmax, which does, no loss need hang.
func TestTrainingGraphOfUnknownShapes(t *testing.T) {
	type values = []*onnx.Value
	einsum := onnx.StringAttr("equation", "bi,oij,bj->bo")
	w := tensor.New([]float64{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2)
	for name, c := range map[string]struct {
		opset int64
		w     *tensor.Tensor
		f     func(b *onnx.Builder, x, w *onnx.Value) *onnx.Value
	}{
		"Einsum": {17, w, func(b *onnx.Builder, x, w *onnx.Value) *onnx.Value {
			return b.Node("Einsum", values{b.Node("Einsum", values{x, w, x}, einsum), w, x}, einsum)
		}},
		"Softmax": {11, tensor.New([]float64{1, -2}, 2), func(b *onnx.Builder, x, w *onnx.Value) *onnx.Value {
			b.OutputOf("beside", b.Node("Softmax", values{x}, onnx.IntAttr("axis", 1)), nil)
			return b.Op("Mul", x, w)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("m", c.opset)
			b.OutputOf("y", c.f(b, b.InputOf("x", &onnx.Type{Elem: tensor.Float64}), b.Init("w", c.w)), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			tr := trainer(t, m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 0.1}})
			g, err := tr.TrainingGraph()
			if err != nil {
				t.Fatal(err)
			}
			batch := Batch{"x": tensor.New([]float64{0.1, 0.2, 0.3, -0.4}, 2, 2), "target": tensor.New([]float64{1, 2, 3, 4}, 2, 2)}
			out, err := runOnce(g, batch)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tr.Step(context.Background(), batch); err != nil {
				t.Fatal(err)
			}
			if _, _, err := tensor.Compare(out["next::w"], tr.Model().Graph.Init("w").Const, 1e-12, 1e-12); err != nil {
				t.Error(err)
			}
		})
	}
}
