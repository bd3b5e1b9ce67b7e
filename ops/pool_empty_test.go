package ops_test

import (
	"math"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// TestPoolsOfEmptyPlanes pools planes without elements, of which the padding makes windows.
func TestPoolsOfEmptyPlanes(t *testing.T) {
	x := []*tensor.Tensor{tensor.New([]float32{}, 1, 2, 4, 0)}
	kernel, pads := onnx.IntsAttr("kernel_shape", 3, 3), onnx.IntsAttr("pads", 2, 2, 2, 2)
	for _, c := range []struct {
		op    string
		outs  int
		attrs []*onnx.Attribute
		want  float64
	}{
		{"MaxPool", 1, []*onnx.Attribute{kernel, pads}, math.Inf(-1)},
		{"MaxPool", 2, []*onnx.Attribute{kernel, pads, onnx.IntAttr("storage_order", 1)}, math.Inf(-1)},
		{"AveragePool", 1, []*onnx.Attribute{kernel, pads}, 0},
		{"LpPool", 1, []*onnx.Attribute{kernel, pads}, 0},
	} {
		out, err := runNode(standardNode(c.op, c.outs, x, c.attrs...), x)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, v := range tensor.Data[float32](out["y0"].(*tensor.Tensor)) {
			if float64(v) != c.want {
				t.Fatalf("%s: element %d is %v, not %v", c.op, i, v, c.want)
			}
		}
	}
}
