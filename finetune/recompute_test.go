package finetune

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/retune-go/retune/models"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// deepConvNet has residual blocks of convolution, batch norm, Relu and dropout: image [batch, 3, 16, 16] → logits [batch, 4].
func deepConvNet(t *testing.T, r *rand.Rand, blocks int) *onnx.Model {
	b := onnx.NewBuilder("deep", 17)
	weights := func(name string, bound float64, shape ...int) *onnx.Value {
		v := randomFloats(r, shape...)
		for i := range v.Len() {
			tensor.SetFloat64At(v, i, bound*tensor.Float64At(v, i))
		}
		return b.Init(name, v)
	}
	full := func(name string, x float32, n int) *onnx.Value {
		v := make([]float32, n)
		for i := range v {
			v[i] = x
		}
		return b.Init(name, tensor.New(v))
	}
	x := b.Input("image", tensor.Float32, "batch", 3, 16, 16)
	x = b.Node("Conv", []*onnx.Value{x, weights("first", 0.3, 8, 3, 3, 3)}, onnx.IntsAttr("pads", 1, 1, 1, 1))
	for i := range blocks {
		name := fmt.Sprintf("block%d.", i)
		y := b.Node("Conv", []*onnx.Value{x, weights(name+"conv", 0.1, 8, 8, 3, 3)}, onnx.IntsAttr("pads", 1, 1, 1, 1))
		y = b.Op("Relu", b.Op("BatchNormalization", y, full(name+"scale", 1, 8), full(name+"bias", 0, 8), full(name+"mean", 0, 8), full(name+"variance", 1, 8)))
		x = b.Op("Add", x, b.Op("Dropout", y, b.Const(tensor.Scalar(float32(0.1)))))
	}
	flat := b.Node("Flatten", []*onnx.Value{b.Op("GlobalAveragePool", x)})
	b.Output("logits", b.Op("MatMul", flat, weights("head", 0.3, 8, 4)), tensor.Float32, "batch", 4)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// deepLSTM has LSTMs one on the other: x [time, batch, 8] → logits [batch, 4].
func deepLSTM(t *testing.T, r *rand.Rand, layers int) *onnx.Model {
	b := onnx.NewBuilder("deep", 17)
	x := b.Input("x", tensor.Float32, "time", "batch", 8)
	weights := func(name string, shape ...int) *onnx.Value {
		v := randomFloats(r, shape...)
		for i := range v.Len() {
			tensor.SetFloat64At(v, i, 0.3*tensor.Float64At(v, i))
		}
		return b.Init(name, v)
	}
	axis := b.Const(tensor.New([]int64{1}))
	for i := range layers {
		name := fmt.Sprintf("lstm%d.", i)
		y := b.Multi("LSTM", 1, []*onnx.Value{x, weights(name+"w", 1, 32, 8), weights(name+"r", 1, 32, 8)}, onnx.IntAttr("hidden_size", 8))
		x = b.Op("Squeeze", y[0], axis)
	}
	last := b.Node("ReduceMean", []*onnx.Value{x}, onnx.IntsAttr("axes", 0), onnx.IntAttr("keepdims", 0))
	b.Output("logits", b.Op("MatMul", last, weights("head", 8, 4)), tensor.Float32, "batch", 4)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func randomFloats(r *rand.Rand, shape ...int) *tensor.Tensor {
	v, err := tensor.Zeros(tensor.Float32, shape...)
	if err != nil {
		panic(err)
	}
	for i := range v.Len() {
		tensor.SetFloat64At(v, i, r.NormFloat64())
	}
	return v
}

// What is computed again comes out the same: losses, weights, running statistics and dropout's draws are equal bit for bit, in less memory.
func TestRecompute(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	transformer, err := models.Transformer(models.TransformerConfig{Vocab: 11, Context: 32, Width: 32, Layers: 12, Heads: 2, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	ints := func(below int64, shape ...int) *tensor.Tensor {
		v, err := tensor.Zeros(tensor.Int64, shape...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range v.Len() {
			tensor.Data[int64](v)[i] = r.Int64N(below)
		}
		return v
	}
	for _, c := range []struct {
		name    string
		model   *onnx.Model
		batches func(n int) Batch
		factor  float64 // of the memory that may be left
	}{
		{"transformer", transformer, func(n int) Batch { return Batch{"tokens": ints(11, n, 32), "labels": ints(11, n, 32)} }, 0.35},
		{"convnet", deepConvNet(t, r, 24), func(n int) Batch { return Batch{"image": randomFloats(r, n, 3, 16, 16), "labels": ints(4, n)} }, 0.35},
		{"lstm", deepLSTM(t, r, 12), func(n int) Batch { return Batch{"x": randomFloats(r, 24, n, 8), "labels": ints(4, n)} }, 0.5},
	} {
		t.Run(c.name, func(t *testing.T) {
			batches := []Batch{c.batches(4), c.batches(4), c.batches(3)}
			train := func(rc runtime.Recompute) (*Trainer, []Step, int64) {
				t.Helper()
				tr, err := New(c.model, Config{Loss: CrossEntropy{Output: "logits", Target: "labels"}, Optimizer: AdamW{LR: 1e-2}, Mode: Train, Seed: 5, Threads: 2, Recompute: rc})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(tr.Close)
				var steps []Step
				for _, b := range batches {
					s, err := tr.Step(context.Background(), b)
					if err != nil {
						t.Fatal(err)
					}
					s.Time = 0
					steps = append(steps, s)
				}
				m, err := tr.Memory(batches[0])
				if err != nil {
					t.Fatal(err)
				}
				return tr, steps, m.Activations
			}
			plain, want, full := train(runtime.Recompute{})
			_, _, least := train(runtime.Recompute{Auto: true})
			if float64(least) > c.factor*float64(full) {
				t.Errorf("%d of %d bytes are left", least, full)
			}
			for _, rc := range []runtime.Recompute{{Auto: true}, {Segments: 1}, {Segments: 4}, {Segments: 1 << 20}, {Budget: full}, {Budget: full - 1}, {Budget: (full + least) / 2},
				{Budget: (full + 9*least) / 10}, {Budget: least}} {
				tr, got, bytes := train(rc)
				t.Logf("%+v: %d of %d bytes", rc, bytes, full)
				if rc.Budget > 0 && bytes > rc.Budget || rc.Budget == full && bytes != full {
					t.Errorf("%+v: %d bytes are planned", rc, bytes)
				}
				for i, s := range got {
					if s != want[i] {
						t.Errorf("%+v: step %d is %+v, want %+v", rc, i, s, want[i])
					}
				}
				for name, v := range tr.weights() {
					if w := plain.weights()[name]; string(v.Bytes()) != string(w.Bytes()) {
						t.Errorf("%+v: %s differs", rc, name)
					}
				}
			}
			tr, err := New(c.model, Config{Loss: CrossEntropy{Output: "logits", Target: "labels"}, Optimizer: AdamW{LR: 1e-2}, Mode: Train, Recompute: runtime.Recompute{Budget: least - 1}})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			says := fmt.Sprintf("recompute: a budget of %d bytes is too small: %d is the least that was found", least-1, least)
			if _, err := tr.Step(context.Background(), batches[0]); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("want an error with %q, got %v", says, err)
			}
		})
	}
}

func TestRecomputeOne(t *testing.T) {
	for _, rc := range []runtime.Recompute{{Segments: -1}, {Budget: math.MinInt64}, {Segments: 2, Auto: true}} {
		m, err := models.MLP([]int{2, 2}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := runtime.NewSession(m, runtime.WithRecompute(rc)); err == nil || !strings.Contains(err.Error(), "recompute") {
			t.Errorf("%+v: %v", rc, err)
		}
	}
}
