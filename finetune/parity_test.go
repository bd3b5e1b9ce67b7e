package finetune

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

var parityFolder = flag.String("parity", "", "what scripts/parity/parity.py has recorded; see make parity")

// parityCase is a network's about.json.
type parityCase struct {
	Loss struct {
		Kind           string    `json:"kind"`
		Output         string    `json:"output"`
		IgnoreIndex    *int64    `json:"ignore_index"`
		Weight         []float64 `json:"weight"`
		LabelSmoothing float64   `json:"label_smoothing"`
		Delta          float64   `json:"delta"`
	} `json:"loss"`
	Mode       Mode     `json:"mode"`
	Straight   bool     `json:"straight_through"`
	Batches    int      `json:"batches"`
	Outputs    []string `json:"outputs"`
	Optimizers map[string]struct {
		LR          float64   `json:"lr"`
		Momentum    float64   `json:"momentum"`
		WeightDecay float64   `json:"weight_decay"`
		Float32     []float64 `json:"float32"` // losses
		Float64     []float64 `json:"float64"`
		Stray       []float64 `json:"stray"` // how far rounding takes them from float64's
	} `json:"optimizers"`
}

func (c *parityCase) loss() (Loss, error) {
	switch l := c.Loss; l.Kind {
	case "cross_entropy":
		return CrossEntropy{Output: l.Output, Target: "labels", IgnoreIndex: l.IgnoreIndex, Weight: l.Weight, LabelSmoothing: l.LabelSmoothing}, nil
	case "nll":
		return NLL{Output: l.Output, Target: "labels", IgnoreIndex: l.IgnoreIndex, Weight: l.Weight}, nil
	case "mse":
		return MSE{Output: l.Output, Target: "labels"}, nil
	case "l1":
		return L1{Output: l.Output, Target: "labels"}, nil
	case "huber":
		return Huber{Output: l.Output, Target: "labels", Delta: l.Delta}, nil
	case "bce_with_logits":
		return BCEWithLogits{Output: l.Output, Target: "labels"}, nil
	}
	return nil, fmt.Errorf("no loss %q", c.Loss.Kind)
}

func (c *parityCase) optimizer(name string) Optimizer {
	o := c.Optimizers[name]
	return map[string]Optimizer{
		"sgd_momentum": SGD{LR: o.LR, Momentum: o.Momentum},
		"adam":         Adam{LR: o.LR},
		"adamw":        AdamW{LR: o.LR, WeightDecay: o.WeightDecay},
		"rmsprop":      RMSprop{LR: o.LR},
		"adagrad":      Adagrad{LR: o.LR},
	}[name]
}

// Networks of every kind, exported by PyTorch as they train and as they do not, give PyTorch's outputs, gradients, losses of a
// hundred steps and weights after them, in float32 and in float64.
//
// In float64 there is no excuse: outputs, gradients and losses agree to 1e-6, weights after a hundred steps to 1e-5. In float32 outputs agree to
// 1e-4, and gradients with PyTorch's of float64 to 1e-4 or to four times PyTorch's own error. Losses agree with PyTorch's of float32, or with those of
// float64, to 1e-4 at every step, or to four times as far as PyTorch's own have strayed up to then in float32, or in float64 with ten times the
// disturbance: where rounding flips a rectifier, float32 is not one answer. Gradients that are nothing but rounding, as of a bias before a batch norm, are so small beside the
// model's greatest that they are held to be zero: their weights wander, and change nothing.
func TestParity(t *testing.T) {
	if *parityFolder == "" {
		t.Skip("skipped: make parity records the networks first, which takes PyTorch")
	}
	dirs, err := filepath.Glob(filepath.Join(*parityFolder, "*", "about.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("nothing is recorded in %s (%v)", *parityFolder, err)
	}
	sum := &paritySummary{}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var c parityCase
			readJSON(t, file, &c)
			t.Run("float64", func(t *testing.T) { c.check(t, dir, 1, sum) })
			t.Run("float32", func(t *testing.T) { c.check(t, dir, 0, sum) })
		})
		sum.models++
	}
	t.Logf("%d models; %d gradients, off by %.2g at most in float32 and %.2g in float64; %d curves, off by %.2g at most in float32 and %.2g in float64 (%d in float32 go by how far PyTorch strays)",
		sum.models, sum.gradients, sum.gradient[0], sum.gradient[1], sum.curves, sum.curve[0], sum.curve[1], sum.drifting)
}

// paritySummary is the greatest differences in float32 and float64.
type paritySummary struct {
	models, gradients, curves, drifting int
	gradient, curve                     [2]float64
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readNPZ(t *testing.T, file ...string) map[string]*tensor.Tensor {
	t.Helper()
	arrays, err := npy.ReadNPZ(filepath.Join(file...))
	if err != nil {
		t.Fatal(err)
	}
	return arrays
}

// check compares everything, in float32 at width 0 and in float64 at 1.
func (c *parityCase) check(t *testing.T, dir string, width int, sum *paritySummary) {
	of := filepath.Join(dir, []string{"float32", "float64"}[width])
	if _, err := os.Stat(filepath.Join(of, "model.onnx")); errors.Is(err, os.ErrNotExist) {
		t.Skip("skipped: PyTorch writes it wrongly in float64")
	}
	m := load(t, of)
	names := readNames(t, of)
	loss, err := c.loss()
	if err != nil {
		t.Fatal(err)
	}
	batches := make([]Batch, c.Batches)
	for i := range batches {
		batches[i] = Batch{}
		for name, a := range readNPZ(t, dir, fmt.Sprintf("batch_%d.npz", i)) {
			if a.DType() == tensor.Float32 {
				if a, err = tensor.Convert(a, []tensor.DType{tensor.Float32, tensor.Float64}[width], true); err != nil {
					t.Fatal(err)
				}
			}
			batches[i][name] = a
		}
	}
	c.outputs(t, of, m, batches, []float64{1e-4, 1e-6}[width])
	noise := c.gradients(t, dir, m, names, loss, batches[0], width, sum)
	for name := range c.Optimizers {
		t.Run(name, func(t *testing.T) {
			c.curve(t, dir, name, m, names, loss, batches, width, noise, sum)
		})
	}
}

// outputs compares the outputs of each batch; tol is of each one's greatest magnitude.
func (c *parityCase) outputs(t *testing.T, dir string, m *onnx.Model, batches []Batch, tol float64) {
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := readNPZ(t, dir, "outputs.npz")
	for i, b := range batches {
		in := map[string]tensor.Value{}
		for _, p := range s.Inputs() {
			if b[p.Name] != nil {
				in[p.Name] = b[p.Name]
			}
		}
		got, err := s.Run(context.Background(), in)
		if err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
		for _, name := range c.Outputs {
			w := want[fmt.Sprintf("%d/%s", i, name)]
			if w == nil {
				continue // one that only the file has
			}
			g := got[name].(*tensor.Tensor)
			if !slices.Equal(g.Shape(), w.Shape()) {
				t.Errorf("batch %d: output %s is of shape %v, PyTorch's of %v", i, name, g.Shape(), w.Shape())
			} else if off, scale := difference(tensor.Float64s(g), tensor.Float64s(w)); off > tol*scale {
				t.Errorf("batch %d: output %s is off by %.2g of its greatest magnitude, %.3g", i, name, off/scale, scale)
			}
		}
	}
}

// difference is the greatest one between elements, and the greatest magnitude of w.
func difference(g, w []float64) (off, scale float64) {
	for i := range w {
		d := math.Abs(g[i] - w[i])
		if math.IsNaN(d) && !math.IsNaN(w[i]) {
			d = math.Inf(1)
		}
		off, scale = max(off, d), max(scale, math.Abs(w[i]))
	}
	return off, scale
}

// norms is the norms of g−w and of w.
func norms(g, w []float64) (off, of float64) {
	for i := range w {
		off, of = off+(g[i]-w[i])*(g[i]-w[i]), of+w[i]*w[i]
	}
	return math.Sqrt(off), math.Sqrt(of)
}

// gradients compares the loss's with PyTorch's, by element and by norm, and names the parameters whose gradient is rounding.
func (c *parityCase) gradients(t *testing.T, dir string, m *onnx.Model, names Names, loss Loss, b Batch, width int, sum *paritySummary) map[string]bool {
	tr, err := New(m, Config{Loss: loss, Optimizer: SGD{}, Names: names, Mode: c.Mode, StraightThrough: c.Straight, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	_, grads, err := tr.Gradients(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	exact := readNPZ(t, dir, "float64", "gradients.npz")
	theirs := readNPZ(t, dir, []string{"float32", "float64"}[width], "gradients.npz")
	greatest, noise := 0.0, map[string]bool{}
	for _, w := range exact {
		_, scale := difference(tensor.Float64s(w), tensor.Float64s(w))
		greatest = max(greatest, scale)
	}
	tol := []float64{1e-4, 1e-6}[width]
	for name, want := range exact {
		o, w := tr.names[name], tensor.Float64s(want)
		if o.lost() {
			t.Errorf("%s is nowhere in the file", name)
			continue
		}
		p, err := o.read(tr.model, func(v *onnx.Value) *tensor.Tensor {
			if grads[v.Name] != nil {
				return grads[v.Name]
			}
			zeros, err := tensor.Zeros(v.Const.DType(), v.Const.Shape()...) // the loss does not hang on it
			if err != nil {
				t.Fatal(err)
			}
			return zeros
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		g := tensor.Float64s(p)
		off, scale := difference(g, w)
		byNorm, norm := norms(g, w)
		if noise[name] = scale <= 1e-12*greatest; noise[name] {
			// PyTorch's in float64 is zero, but for rounding.
			if floor := []float64{1e-5, 1e-12}[width] * greatest; off > floor {
				t.Errorf("the gradient of %s is %.3g where PyTorch's is none; the model's greatest is %.3g", name, off, greatest)
			}
			continue
		}
		rel := max(off/scale, byNorm/norm)
		sum.gradients++
		if own, _ := difference(tensor.Float64s(theirs[name]), w); rel > tol && off <= 4*own {
			t.Logf("the gradient of %s, of at most %.2g where the model's greatest is %.2g, is off by %.2g of that, PyTorch's by %.2g", name, scale, greatest, off/scale, own/scale)
			continue
		}
		sum.gradient[width] = max(sum.gradient[width], rel)
		if !(rel <= tol) {
			t.Errorf("the gradient of %s is off by %.2g of its greatest magnitude, %.3g, and by %.2g of its norm", name, off/scale, scale, byNorm/norm)
		}
	}
	return noise
}

// curve compares a hundred steps, and in float64 what they have made of the weights.
func (c *parityCase) curve(t *testing.T, dir, optimizer string, m *onnx.Model, names Names, loss Loss, batches []Batch, width int, noise map[string]bool, sum *paritySummary) {
	tr, err := New(m, Config{Loss: loss, Optimizer: c.optimizer(optimizer), Names: names, Mode: c.Mode, StraightThrough: c.Straight, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	o := c.Optimizers[optimizer]
	want := [][]float64{o.Float32, o.Float64}[width]
	worst, drifts := 0.0, false
	for i, w := range want {
		s, err := tr.Step(context.Background(), batches[i%len(batches)])
		if err != nil {
			t.Fatal(err)
		}
		off, tol := math.Abs(s.Loss-w), 1e-6*math.Abs(w)
		if width == 0 {
			off = min(off, math.Abs(s.Loss-o.Float64[i]))
			tol = 1e-4 * math.Abs(w)
			if stray := 4 * o.Stray[i]; stray > tol {
				tol, drifts = stray, true
			}
		}
		if !drifts {
			worst = max(worst, off/math.Abs(w))
		}
		if !(off <= tol) {
			t.Fatalf("step %d: loss %v, PyTorch's %v and in float64 %v", s.Step, s.Loss, w, o.Float64[i])
		}
	}
	sum.curves++
	sum.curve[width] = max(sum.curve[width], worst)
	if drifts {
		sum.drifting++
	}
	if width == 0 {
		return
	}
	dict, _, err := tr.StateDict()
	if err != nil {
		t.Fatal(err)
	}
	trained := readNPZ(t, dir, "float64", "trained.npz")
	for name, g := range dict {
		w := trained[optimizer+"/"+name]
		if w == nil || noise[name] {
			continue
		}
		if off, scale := difference(tensor.Float64s(g), tensor.Float64s(w)); !(off <= 1e-5*scale) {
			t.Errorf("after the last step %s is off by %.2g of its greatest magnitude, %.3g", name, off/scale, scale)
		}
	}
}

// Networks that PyTorch trained on one domain come as far on another by our fine-tuning as by PyTorch's, with the same examples in the
// same steps: over three seeds of the order the means of the validation loss and accuracy differ by less than PyTorch's own runs do.
func TestTransfer(t *testing.T) {
	if *parityFolder == "" {
		t.Skip("skipped: make parity records PyTorch's runs first, which takes PyTorch")
	}
	files, err := filepath.Glob(filepath.Join(*parityFolder, "transfer", "*", "about.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is recorded in %s (%v)", *parityFolder, err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) { transfer(t, dir) })
	}
}

func transfer(t *testing.T, dir string) {
	var about struct {
		Model     string         `json:"model"`
		Optimizer string         `json:"optimizer"`
		LR        float64        `json:"lr"`
		Momentum  float64        `json:"momentum"`
		Clip      float64        `json:"clip"`
		Axes      map[string]int `json:"axes"`
		Runs      map[string]struct {
			Before [2]float64 `json:"before"` // loss, accuracy
			After  [2]float64 `json:"after"`
		} `json:"runs"`
	}
	readJSON(t, filepath.Join(dir, "about.json"), &about)
	from := filepath.Join("..", "models", about.Model)
	m, names := load(t, from), readNames(t, from)
	examples, valid, order := readNPZ(t, dir, "examples.npz"), readNPZ(t, dir, "valid.npz"), readNPZ(t, dir, "order.npz")
	optimizer := map[string]Optimizer{"adamw": AdamW{LR: about.LR}, "sgd": SGD{LR: about.LR, Momentum: about.Momentum}}[about.Optimizer]
	output := m.Graph.Outputs[0].Name
	var ours, theirs [2][]float64
	for seed, run := range about.Runs {
		tr := trainer(t, m, Config{Loss: CrossEntropy{Output: output, Target: "labels"}, Optimizer: optimizer, Names: names, Mode: Train, ClipNorm: about.Clip, Threads: 1})
		if before := measureClasses(t, tr.Model(), output, valid); math.Abs(before[0]-run.Before[0]) > 1e-4 {
			t.Fatalf("the validation loss is %v before, PyTorch's %v", before[0], run.Before[0])
		}
		steps, size := order[seed].Shape()[0], order[seed].Shape()[1]
		for i := range steps {
			rows := make([]int, size)
			for k, r := range tensor.Data[int64](order[seed])[i*size:][:size] {
				rows[k] = int(r)
			}
			b := Batch{}
			for name, a := range examples {
				b[name] = take(a, about.Axes[name], rows)
			}
			if _, err := tr.Step(context.Background(), b); err != nil {
				t.Fatal(err)
			}
		}
		after := measureClasses(t, tr.Model(), output, valid)
		t.Logf("seed %s: loss %.4f and accuracy %.4f before, %.5f and %.4f after, PyTorch's %.5f and %.4f", seed, run.Before[0], run.Before[1], after[0], after[1], run.After[0], run.After[1])
		for k := range 2 {
			ours[k], theirs[k] = append(ours[k], after[k]), append(theirs[k], run.After[k])
		}
	}
	for k, what := range []string{"loss", "accuracy"} {
		spread := slices.Max(theirs[k]) - slices.Min(theirs[k])
		off := math.Abs(average(ours[k]) - average(theirs[k]))
		t.Logf("mean %s %.5f, PyTorch's %.5f, whose seeds are %.5f apart", what, average(ours[k]), average(theirs[k]), spread)
		if !(off <= spread) {
			t.Errorf("the mean %s is off by %.5f, PyTorch's seeds are %.5f apart", what, off, spread)
		}
	}
}

func average(v []float64) (mean float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	return mean
}

// measureClasses is the cross entropy of a model's output, classes along its last axis, and the share of labels that are the likeliest class.
func measureClasses(t *testing.T, m *onnx.Model, output string, batch map[string]*tensor.Tensor) [2]float64 {
	t.Helper()
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	in := map[string]tensor.Value{}
	for _, p := range s.Inputs() {
		in[p.Name] = batch[p.Name]
	}
	out, err := s.Run(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	y, labels := tensor.Float64s(out[output].(*tensor.Tensor)), tensor.Data[int64](batch["labels"])
	classes := len(y) / len(labels)
	loss, right := 0.0, 0
	for i, label := range labels {
		row := y[i*classes:][:classes]
		top, sum := slices.Max(row), 0.0
		for _, v := range row {
			sum += math.Exp(v - top)
		}
		loss += math.Log(sum) + top - row[label]
		if slices.Index(row, top) == int(label) {
			right++
		}
	}
	return [2]float64{loss / float64(len(labels)), float64(right) / float64(len(labels))}
}
