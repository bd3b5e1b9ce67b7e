package finetune

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// Parameters that the exporter merged are trained apart, one that it wrote out twice stays one, and
// the tuned file computes what the trainer does.
func TestTiesAreTrainedAsInPyTorch(t *testing.T) {
	dir := "../models/round_trip/ties"
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	b := Batch{}
	for name, a := range arrays {
		b[name] = a
	}
	cfg := Config{Loss: CrossEntropy{Output: "logits", Target: "target"}, Optimizer: SGD{LR: 0.1}, Names: readNames(t, dir)}
	tr, err := New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for range 3 {
		if _, err := tr.Step(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	want, err := tr.Loss(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	dict, lost, err := tr.StateDict()
	if err != nil || len(lost) > 0 {
		t.Fatal(lost, err)
	}
	if !same(dict["embed.weight"], dict["head.weight"]) {
		t.Error("embed.weight and head.weight are no longer one")
	}
	if same(dict["norm1.weight"], dict["norm2.weight"]) || same(dict["norm1.bias"], dict["norm2.bias"]) {
		t.Error("the two norms were trained as one")
	}
	data, err := onnx.Encode(tr.Model())
	if err != nil {
		t.Fatal(err)
	}
	tuned, err := onnx.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(tuned, Config{Loss: cfg.Loss, Optimizer: cfg.Optimizer})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := again.Loss(context.Background(), b); err != nil || got != want {
		t.Errorf("the tuned file's loss is %v (%v), the trainer's %v", got, err, want)
	}
}

// An Identity stands for a parameter that the exporter merged into an equal one, or for the very same under another name: only the module
// knows, and Names say it.
func TestNamesTellMergedFromSame(t *testing.T) {
	b := onnx.NewBuilder("tied", 17)
	x, embed := b.Input("x", tensor.Float32, 1, 2), b.Init("embed.weight", tensor.New([]float32{1, 2}))
	head := onnx.NewNode("Identity", []*onnx.Value{embed}, "head.weight")
	b.Output("y", b.Op("Add", b.Op("Mul", x, embed), b.Op("Mul", b.Op("Mul", x, x), b.Add(head)[0])), tensor.Float32, 1, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	for sameAs, want := range map[string][]float32{"": {-1, -70}, "embed.weight": {-3, -286}} {
		names := Names{"embed.weight": {Shape: []int{2}, Initializer: "embed.weight", Form: Verbatim}, "head.weight": {Shape: []int{2}, Initializer: "embed.weight", Form: Verbatim, SameAs: sameAs}}
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}, Names: names})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		// y is x·embed + x²·head = 2, 24, which is the loss's gradient; embed's is 2, 72 and head's 2, 216.
		if _, err := tr.Step(context.Background(), Batch{"x": tensor.New([]float32{1, 3}, 1, 2), "target": tensor.New([]float32{0, 0}, 1, 2)}); err != nil {
			t.Fatal(err)
		}
		dict, _, err := tr.StateDict()
		if err != nil {
			t.Fatal(err)
		}
		if got := tensor.Data[float32](dict["embed.weight"]); !slices.Equal(got, want) || same(dict["embed.weight"], dict["head.weight"]) != (sameAs != "") {
			t.Errorf("same as %q: embed.weight is %v, want %v, and head.weight %v", sameAs, got, want, tensor.Data[float32](dict["head.weight"]))
		}
	}
}

func TestTrainableByPyTorchsNames(t *testing.T) {
	dir := "../models/lstm_classifier"
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Loss: CrossEntropy{Output: "logits", Target: "target"}, Optimizer: SGD{}, Names: readNames(t, dir)}
	for _, c := range []struct {
		globs, want, fail string
	}{
		{"lstm.*", "onnx::LSTM_105 onnx::LSTM_106 onnx::LSTM_107", ""},
		{"fc.*", "fc.weight fc.bias", ""},
		{"lstm.weight_hh_l0 fc.bias", "fc.bias onnx::LSTM_106", ""},
		{"lstm.bias_ih_l0", "", "can only be trained together"},
		{"gru.*", "", "matches no"},
	} {
		cfg.Trainable = strings.Fields(c.globs)
		tr, err := New(m, cfg)
		if err != nil {
			if c.fail == "" || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%s: %v", c.globs, err)
			}
			continue
		}
		var got []string
		for _, p := range tr.Parameters() {
			got = append(got, p.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: trained %v, want %s", c.globs, got, c.want)
		}
		tr.Close()
	}
}

// What PyTorch saved comes back out of the file that it exported.
func TestStateDictOfAnExport(t *testing.T) {
	for _, dir := range exports(t, "state_dict.npz") {
		m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
		if err != nil {
			t.Fatal(err)
		}
		saved, err := npy.ReadNPZ(filepath.Join(dir, "state_dict.npz"))
		if err != nil {
			t.Fatal(err)
		}
		dict, lost, err := readNames(t, dir).StateDict(m)
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range dict {
			if _, _, err := tensor.Compare(v, saved[name], 0, 0); err != nil {
				t.Errorf("%s: %s: %v", dir, name, err)
			}
		}
		if len(dict)+len(lost) != len(saved) {
			t.Errorf("%s: %d of %d tensors, %d lost", dir, len(dict), len(saved), len(lost))
		}
	}
}

// Buffers, which the names say are such, are not trained. A tensor may be there with further axes of one,
// or in parts. Weights of recurrent layers
// and those that the names point at are trained though they are Constant nodes, as scripted modules are exported.
func TestWeightsOfEveryKind(t *testing.T) {
	b := onnx.NewBuilder("weights", 17)
	x := b.Input("x", tensor.Float32, 2, 1, 2)
	fill := func(shape ...int) *tensor.Tensor {
		n, _ := tensor.NumElements(shape)
		v := make([]float32, n)
		for i := range v {
			v[i] = 0.1 + 0.03*float32(i)
		}
		return tensor.New(v, shape...)
	}
	constant := func(shape ...int) *onnx.Value {
		return b.Node("Constant", nil, onnx.TensorAttr("value", fill(shape...)))
	}
	w, r, scale := constant(1, 6, 2), constant(1, 6, 2), constant(2)
	y := b.Multi("GRU", 2, []*onnx.Value{x, w, r}, onnx.IntAttr("hidden_size", 2))[1]
	y = b.Op("Mul", b.Op("Mul", y, b.Init("mask", fill(2))), b.Init("norm", fill(1, 2, 1)))
	y = b.Op("Add", b.Op("Mul", y, scale), constant(2))
	y = b.Op("MatMul", b.Op("MatMul", y, b.Init("query", fill(2, 1))), b.Init("key", fill(1, 2)))
	b.Output("y", y, tensor.Float32, 1, 2, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	names := Names{
		"mask":         {Shape: []int{2}, Initializer: "mask", Form: Verbatim, Buffer: true},
		"norm.weight":  {Shape: []int{2}, Initializer: "norm", Form: Verbatim},
		"scale":        {Shape: []int{2}, Initializer: scale.Name, Form: Verbatim},
		"rnn.weight_w": {Shape: []int{6, 2}, Initializer: w.Name, Form: Gates},
		"in_proj":      {Shape: []int{2, 2}, Form: Joined, Parts: []Origin{{Shape: []int{1, 2}, Initializer: "query", Form: Transposed}, {Shape: []int{1, 2}, Initializer: "key", Form: Verbatim}}},
	}
	tr := trainer(t, m, Config{Optimizer: SGD{LR: 10}, Names: names})
	before, _, err := tr.StateDict()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range before {
		before[name] = v.Clone()
	}
	batch := Batch{"x": fill(2, 1, 2), "t": tensor.New(make([]float32, 4), 1, 2, 2)}
	want, got, err := tr.Gradients(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"norm", scale.Name, w.Name, r.Name, "query", "key"} {
		if got[name] == nil {
			t.Errorf("%s is not trained", name)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d weights are trained, want 6", len(got))
	}
	if _, err := tr.Step(context.Background(), batch); err != nil {
		t.Fatal(err)
	}
	after, _, err := tr.StateDict()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range after {
		if same(v, before[name]) != (name == "mask") {
			t.Errorf("%s is %v after a step, %v before", name, v, before[name])
		}
	}
	// The tuned file, with what it held put back, is the one that came.
	back, err := names.Initializers(tr.Model(), before, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range back {
		copy(tr.Model().Graph.Init(name).Const.Bytes(), v.Bytes())
	}
	copy(tr.Model().Graph.Init(r.Name).Const.Bytes(), fill(1, 6, 2).Bytes())
	if loss, err := tr.Loss(context.Background(), batch); err != nil || loss != want {
		t.Errorf("the loss is %v (%v), want %v", loss, err, want)
	}
	all, err := OutputGradients(context.Background(), m, map[string]tensor.Value{"x": batch["x"]}, "y", false, false)
	if err != nil || all[w.Name] == nil || all[r.Name] == nil || all[scale.Name] != nil {
		t.Errorf("gradients of %v, %v", slices.Sorted(maps.Keys(all)), err)
	}
}

func TestHostileNames(t *testing.T) {
	m, err := onnx.Load("../models/lstm_classifier/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Origin{
		{Shape: []int{10, 48}, Initializer: "nowhere", Form: Verbatim},
		{Shape: []int{10, 48}, Initializer: "fc.bias", Form: Verbatim},
		{Shape: []int{10, 48}, Initializer: "fc.weight", Form: Transposed},
		{Shape: []int{10}, Initializer: "fc.bias", Form: Gates},
		{Shape: []int{10}, Initializer: "fc.bias", Form: "sideways"},
		{Shape: []int{}, Initializer: "onnx::LSTM_105", Form: Gates},
		{Shape: []int{192, 14}, Initializer: "onnx::LSTM_105", Form: Gates, Direction: 1},
		{Shape: []int{192, 14}, Initializer: "onnx::LSTM_105", Form: Gates, Direction: -1},
		{Shape: []int{192, 14}, Initializer: "onnx::LSTM_105", Form: Gates, Offset: 1},
		{Shape: []int{192, 14}, Initializer: "onnx::LSTM_105", Form: Gates, Offset: -1},
		{Shape: []int{-1, 14}, Initializer: "onnx::LSTM_105", Form: Gates},
		{Shape: []int{190, 14}, Initializer: "onnx::LSTM_105", Form: Gates},
		{Shape: []int{20, 48}, Form: Joined, Parts: []Origin{{Shape: []int{10, 48}, Initializer: "fc.weight", Form: Verbatim}}},
		{Shape: []int{10, 48}, Form: Joined, Parts: []Origin{{Shape: []int{10, 48}, Initializer: "nowhere", Form: Verbatim}}},
		{Shape: []int{}, Form: Joined, Parts: []Origin{{Shape: []int{10, 48}, Initializer: "fc.weight", Form: Verbatim}}},
		{Shape: []int{10, 48}, Form: Joined, Parts: []Origin{{Form: Joined}}},
	} {
		if _, _, err := (Names{"x": o}).StateDict(m); err == nil {
			t.Errorf("%+v was found", o)
		}
	}
	for _, o := range []Origin{
		{Shape: []int{10, 48}, Initializer: "fc.weight", Form: Verbatim, Also: []string{"fc.bias"}},
		{Shape: []int{10, 48}, Initializer: "fc.weight", Form: Verbatim, Also: []string{"nowhere"}},
	} {
		if _, err := New(m, Config{Loss: CrossEntropy{Output: "logits", Target: "y"}, Optimizer: SGD{}, Names: Names{"x": o}}); err == nil {
			t.Errorf("%+v was tied", o)
		}
	}
}
