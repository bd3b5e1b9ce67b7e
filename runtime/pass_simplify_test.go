package runtime_test

import (
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func TestDropoutsThatDropNothingGo(t *testing.T) {
	type values = []*onnx.Value
	flag := func(b *onnx.Builder, v bool) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	for name, c := range map[string]struct {
		opset int64
		runs  string
		graph func(b *onnx.Builder, x *onnx.Value) *onnx.Value
	}{
		"not of training, and a mask that nobody reads": {17, "Softmax", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Softmax", b.Multi("Dropout", 2, values{x, number(b, 0.5), flag(b, false)})[0])
		}},
		"of training, at a ratio of 0": {13, "Softmax", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Softmax", b.Multi("Dropout", 2, values{x, number(b, 0), flag(b, true)})[0])
		}},
		"of an old opset": {9, "Softmax", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Softmax", b.Multi("Dropout", 2, values{x})[0])
		}},
		"of the oldest, as a test": {6, "Softmax", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Softmax", b.Node("Dropout", values{x}, onnx.IntAttr("is_test", 1)))
		}},
		"a mask that is read stays": {17, "Dropout Softmax Where", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			d := b.Multi("Dropout", 2, values{x, number(b, 0), flag(b, true)})
			return b.Op("Softmax", b.Op("Where", d[1], d[0], x))
		}},
	} {
		t.Run(name, func(t *testing.T) { pattern{c.opset, []int{3, 8}, c.graph, c.runs}.find(t, alone) })
	}
}
