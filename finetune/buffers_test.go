package finetune

import (
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// What PyTorch has as buffers is not trained, also behind operators that are computed by way of others.
func TestBuffersAreNotTrained(t *testing.T) {
	b := onnx.NewBuilder("m", 23)
	b.Import("com.microsoft", 1)
	weight := func(name string, shape ...int) *onnx.Value {
		w, err := tensor.Zeros(tensor.Float32, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return b.Init(name, w)
	}
	x := b.Op("MatMul", b.Input("x", tensor.Float32, 1, 3, 8), weight("weight", 8, 8))
	n := onnx.NewNode("RotaryEmbedding", []*onnx.Value{x, b.Const(tensor.New([]int64{0, 1, 2}, 1, 3)), weight("cos", 4, 2), weight("sin", 4, 2)})
	n.Domain, n.Attrs = "com.microsoft", []*onnx.Attribute{onnx.IntAttr("num_heads", 2)}
	n.AddOutput(&onnx.Value{Name: "turned"})
	b.Output("y", b.Op("Identity", b.Add(n)[0]), tensor.Float32, 1, 3, 8)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var names []string
	for _, p := range tr.Parameters() {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"weight"}) {
		t.Errorf("trained are %v", names)
	}
}
