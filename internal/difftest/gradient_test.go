package difftest

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// TestGradientGraphs has ONNX Runtime compute gradients of what only kernels of ours differentiate otherwise, by their graphs in standard operators.
func TestGradientGraphs(t *testing.T) {
	p := newPeer(t)
	type values = []*onnx.Value
	i, is, s := onnx.IntAttr, onnx.IntsAttr, onnx.StringAttr
	ints := func(b *onnx.Builder, v ...int64) *onnx.Value { return b.Const(tensor.New(v, len(v))) }
	scalar := func(b *onnx.Builder, v int64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	for name, c := range map[string]struct {
		opset  int64
		shapes [][]int
		f      func(b *onnx.Builder, in values) *onnx.Value
	}{
		"Attention": {23, [][]int{{2, 4, 3, 8}, {2, 2, 5, 8}, {2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Node("Attention", in, i("is_causal", 1)) }},
		"GridSample": {20, [][]int{{2, 3, 4, 5}, {2, 3, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("GridSample", in, s("padding_mode", "border"))
		}},
		"GridSample, cubic": {20, [][]int{{2, 3, 4, 5}, {2, 3, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("GridSample", in, s("mode", "cubic"), s("padding_mode", "reflection"))
		}},
		"AffineGrid": {20, [][]int{{2, 2, 3}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("AffineGrid", in[0], ints(b, 2, 3, 4, 5)) }},
		"RoiAlign": {16, [][]int{{2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			rois := b.Const(tensor.New([]float32{0.4, 0.3, 3.1, 2.7, 1.2, 0.1, 4.6, 3.9}, 2, 4))
			return b.Node("RoiAlign", values{in[0], rois, ints(b, 0, 1)}, i("output_height", 2), i("output_width", 3))
		}},
		"DFT": {20, [][]int{{2, 6, 1}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("DFT", values{in[0], scalar(b, 8)}, i("onesided", 1))
		}},
		"STFT": {17, [][]int{{2, 9, 1}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Op("STFT", in[0], scalar(b, 2), b.Const(tensor.New([]float32{0.2, 0.9, 1, 0.4})))
		}},
		"Det": {11, [][]int{{2, 3, 3}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("Det", in[0]) }},
		"Col2Im": {18, [][]int{{2, 8, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Op("Col2Im", in[0], ints(b, 3, 4), ints(b, 2, 2))
		}},
		"MaxUnpool": {11, [][]int{{1, 1, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("MaxUnpool", values{in[0], b.Const(tensor.New([]int64{5, 7, 8, 15}, 1, 1, 2, 2))}, is("kernel_shape", 2, 2), is("strides", 2, 2))
		}},
		"MaxRoiPool": {1, [][]int{{2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("MaxRoiPool", values{in[0], b.Init("rois", tensor.New([]float32{0, 0, 0, 3, 4, 1, 1, 1, 5, 4}, 2, 5))}, is("pooled_shape", 2, 2))
		}},
		"DeformConv": {19, [][]int{{1, 2, 4, 5}, {3, 2, 2, 2}, {1, 8, 3, 4}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("DeformConv", in...) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("g", c.opset)
			r := rand.New(rand.NewPCG(1, 2))
			var in values
			inputs, batch := map[string]*tensor.Tensor{}, map[string]tensor.Value{}
			for k, shape := range c.shapes {
				x, _ := tensor.Zeros(tensor.Float32, shape...)
				for j := range x.Len() {
					tensor.SetFloat64At(x, j, 2*r.Float64()-1)
				}
				name := string(rune('a' + k))
				in = append(in, b.InputOf(name, onnx.TypeOfTensor(x)))
				inputs[name], batch[name] = x, x
			}
			y := c.f(b, in)
			b.OutputOf("y", b.Op("Mul", y, y), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			want, err := finetune.OutputGradients(context.Background(), m, batch, "y", false, false)
			if err != nil {
				t.Fatal(err)
			}
			graph, err := finetune.GradientGraph(m, "y", false, false)
			if err != nil {
				t.Fatal(err)
			}
			file, err := onnx.Encode(graph)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.run(file, inputs, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name := range inputs {
				w, g := want[name], got[finetune.GradientOf+name]
				worst, top := 0.0, 0.1
				for j := range w.Len() {
					worst, top = max(worst, math.Abs(tensor.Float64At(w, j)-tensor.Float64At(g, j))), max(top, math.Abs(tensor.Float64At(w, j)))
				}
				if !(worst <= 1e-4*top) {
					t.Errorf("the gradient of %s is %v from ONNX Runtime's, its greatest element is %v", name, worst, top)
				}
			}
		})
	}
}
