package finetune

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// The mean's gradients are the sum's divided by the number of elements, what the output does not hang on has zeros, and an
// output that does not exist is an error.
func TestOutputGradients(t *testing.T) {
	b := onnx.NewBuilder("g", 17)
	x := b.Input("x", tensor.Float32, 2, 3)
	w := b.Init("w", tensor.New([]float32{1, 2, 3}))
	b.Init("unused", tensor.New([]float32{7, 7}))
	b.Output("y", b.Op("Mul", x, w), tensor.Float32, 2, 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Value{"x": tensor.New([]float32{1, 2, 3, 4, 5, 6}, 2, 3)}
	for _, c := range []struct {
		mean bool
		n    float32
	}{{false, 1}, {true, 6}} {
		g, err := OutputGradients(context.Background(), m, in, "y", c.mean, false)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]float32{"w": {5, 7, 9}, "x": {1, 2, 3, 1, 2, 3}, "unused": {0, 0}} {
			for i, v := range tensor.Data[float32](g[name]) {
				if d := v*c.n - want[i]; d > 1e-5 || d < -1e-5 {
					t.Errorf("mean %v: gradient of %s[%d] is %v, want %v/%v", c.mean, name, i, v, want[i], c.n)
				}
			}
		}
	}
	if _, err := OutputGradients(context.Background(), m, in, "z", false, false); err == nil || !strings.Contains(err.Error(), `"z"`) {
		t.Errorf("an output that does not exist: %v", err)
	}
}

// A state dict put back gives the initializers that it came from, transposed weights and gates included.
func TestNamesBackAndForth(t *testing.T) {
	for _, dir := range []string{"char_lstm", "gru_classifier", "transformer", "lstm_classifier", "round_trip/ties"} {
		m, err := onnx.Load("../models/" + dir + "/model.onnx")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile("../models/" + dir + "/names.json")
		if err != nil {
			t.Fatal(err)
		}
		names, err := ParseNames(text)
		if err != nil {
			t.Fatal(err)
		}
		dict, _, err := names.StateDict(m)
		if err != nil {
			t.Fatal(err)
		}
		fresh := m.Clone()
		for _, v := range fresh.Graph.Inits {
			if v.Const.DType().IsFloat() {
				v.Const = v.Const.Clone()
				clear(v.Const.Bytes())
			}
		}
		back, err := names.Initializers(fresh, dict, false)
		if err != nil {
			t.Fatal(dir, err)
		}
		for name, w := range back {
			if !bytes.Equal(w.Bytes(), m.Graph.Init(name).Const.Bytes()) {
				t.Errorf("%s: initializer %s came back otherwise", dir, name)
			}
		}
	}
}
