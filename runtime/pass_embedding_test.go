package runtime_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// embedding is a recurrent layer over rows of a table.
func embedding(t *testing.T, kind string, layout, reset int64, rows, hidden int) *onnx.Model {
	t.Helper()
	gates := map[string]int{"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
	b := onnx.NewBuilder("embedding", 14)
	x, lens := b.Input("x", tensor.Int64, 5, 5), b.Input("lens", tensor.Int32, 5)
	recurrent := random(2, gates*hidden, hidden)
	for i, w := range tensor.Data[float32](recurrent) { // larger ones make more of rounding at each step
		tensor.Data[float32](recurrent)[i] = w / float32(math.Sqrt(float64(hidden)))
	}
	in := []*onnx.Value{b.Op("Gather", b.Const(random(rows, 6)), x), b.Const(random(2, gates*hidden, 6)), b.Const(recurrent),
		b.Const(random(2, 2*gates*hidden)), lens}
	attrs := []*onnx.Attribute{onnx.IntAttr("hidden_size", int64(hidden)), onnx.StringAttr("direction", "bidirectional"), onnx.IntAttr("layout", layout)}
	if kind == "GRU" {
		attrs = append(attrs, onnx.IntAttr("linear_before_reset", reset))
	}
	b.OutputOf("y", b.Node(kind, in, attrs...), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEmbeddingsAreFound(t *testing.T) {
	numbers := make([]int64, 25)
	for i := range numbers {
		numbers[i] = int64(i%15) - 7
	}
	in := map[string]tensor.Value{"x": tensor.New(numbers, 5, 5), "lens": tensor.New([]int32{5, 3, 0, 4, 5}, 5)}
	for _, kind := range []string{"LSTM", "GRU", "RNN"} {
		for layout := range int64(2) {
			for reset := range int64(2) {
				m := embedding(t, kind, layout, reset, 8, 64)
				finds(t, m, in, "EmbeddingRNN")
				one, three := runWith(t, m, in), runWith(t, m, in, runtime.Threads(3))
				if a, b := fmt.Sprint(one["y"]), fmt.Sprint(three["y"]); a != b {
					t.Errorf("%s: threads change the result", kind)
				}
			}
		}
	}
	finds(t, embedding(t, "LSTM", 0, 0, 9000, 64), in, "Gather LSTM") // the table would be too large
	s, err := runtime.NewSession(embedding(t, "LSTM", 0, 0, 6, 4))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Run(context.Background(), in); err == nil {
		t.Error("a row outside the table is no error")
	}
}
