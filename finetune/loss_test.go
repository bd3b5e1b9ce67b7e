package finetune

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// The loss of a model with two outputs may be a sum; its gradients are those of its terms, weighed.
func TestSumOfLosses(t *testing.T) {
	ctx := context.Background()
	b := onnx.NewBuilder("m", 17)
	x := b.Input("x", tensor.Float32, "n", 2)
	h := b.Op("Tanh", b.Op("MatMul", x, b.Init("w", tensor.New([]float32{0.5, -1, 0.25, 2}, 2, 2))))
	b.Output("scores", b.Op("MatMul", h, b.Init("head", tensor.New([]float32{1, 2, -1, 0.5}, 2, 2))), tensor.Float32, "n", 2)
	b.Output("hidden", h, tensor.Float32, "n", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	classes, near := CrossEntropy{Output: "scores", Target: "class"}, MSE{Output: "hidden", Target: "state"}
	batch := Batch{"x": tensor.New([]float32{1, 2, 3, -4}, 2, 2), "class": tensor.New([]int64{0, 1}), "state": tensor.New([]float32{1, 0, 0, 1}, 2, 2)}
	gradients := func(l Loss, names ...string) (float64, map[string]*tensor.Tensor) {
		t.Helper()
		tr, err := New(m, Config{Loss: l, Optimizer: SGD{LR: 0.1}})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		in := Batch{"x": batch["x"]}
		for _, name := range names {
			in[name] = batch[name]
		}
		loss, grads, err := tr.Gradients(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return loss, grads
	}
	first, g1 := gradients(classes, "class")
	second, g2 := gradients(near, "state")
	sum, g := gradients(Sum{{classes, 1}, {near, -0.5}}, "class", "state")
	if math.Abs(sum-(first-second/2)) > 1e-6 {
		t.Errorf("the loss is %v, of %v and %v", sum, first, second)
	}
	for name, d := range g {
		for i, got := range tensor.Float64s(d) {
			want := tensor.Float64At(g1[name], i)
			if g2[name] != nil {
				want -= tensor.Float64At(g2[name], i) / 2
			}
			if math.Abs(got-want) > 1e-6 {
				t.Errorf("%s at %d is %v, want %v", name, i, got, want)
			}
		}
	}
	if len(g) != 2 || g2["head"] != nil {
		t.Errorf("gradients of %d weights, and of %v", len(g), g2)
	}
	for _, l := range []Loss{Sum{}, Sum{{nil, 1}}, Sum{{near, math.NaN()}}, Sum{{MSE{Output: "nothing", Target: "state"}, 1}}} {
		if _, err := New(m, Config{Loss: l, Optimizer: SGD{LR: 0.1}}); err == nil || !strings.Contains(err.Error(), "loss: ") {
			t.Errorf("%v gives %v", l, err)
		}
	}
}
