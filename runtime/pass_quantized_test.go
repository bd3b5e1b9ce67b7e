package runtime_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// quantizedGraph builds graphs with bytes between the operators.
type quantizedGraph struct {
	*onnx.Builder
	r *rand.Rand
	d tensor.DType // of activations
}

func (b quantizedGraph) normal(scale float32, shape ...int) *tensor.Tensor {
	t, _ := tensor.Zeros(tensor.Float32, shape...)
	for i, v := 0, tensor.Data[float32](t); i < len(v); i++ {
		v[i] = float32(b.r.NormFloat64()) * scale
	}
	return t
}

// ends is the scale and the zero point of an activation; those of what is positive begin at the least byte.
func (b quantizedGraph) ends(scale float32, positive bool) []*onnx.Value {
	zero := 3 + b.r.IntN(200)
	if positive {
		zero = 0
	}
	z := tensor.Scalar(uint8(zero))
	if b.d == tensor.Int8 {
		z = tensor.Scalar(int8(zero - 128))
	}
	return []*onnx.Value{b.Const(tensor.Scalar(scale)), b.Const(z)}
}

// rounded is v as bytes, and what those stand for.
func (b quantizedGraph) rounded(v *onnx.Value, scale float32, positive bool) (bytes, floats *onnx.Value) {
	e := b.ends(scale, positive)
	bytes = b.Op("QuantizeLinear", v, e[0], e[1])
	return bytes, b.Op("DequantizeLinear", bytes, e[0], e[1])
}

// weights are constant bytes with a scale for each index of the axis, or one.
func (b quantizedGraph) weights(axis int, perChannel bool, shape ...int) *onnx.Value {
	n := 1
	for _, d := range shape {
		n *= d
	}
	bytes := make([]int8, n)
	for i := range bytes {
		bytes[i] = int8(b.r.IntN(255) - 127)
	}
	if !perChannel {
		return b.Op("DequantizeLinear", b.Const(tensor.New(bytes, shape...)), b.Const(tensor.Scalar(float32(0.01))), b.Const(tensor.Scalar(int8(b.r.IntN(3)-1))))
	}
	scales, zeros := make([]float32, shape[axis]), make([]int8, shape[axis])
	for i := range scales {
		scales[i] = 0.005 + 0.01*b.r.Float32()
	}
	return b.Node("DequantizeLinear", []*onnx.Value{b.Const(tensor.New(bytes, shape...)), b.Const(tensor.New(scales)), b.Const(tensor.New(zeros))}, onnx.IntAttr("axis", int64(axis)))
}

func (b quantizedGraph) conv(x *onnx.Value, m, c, k int, attrs ...*onnx.Attribute) *onnx.Value {
	in := []*onnx.Value{x, b.weights(0, b.r.IntN(2) == 0, m, c, k, k)}
	if b.r.IntN(2) == 0 {
		in = append(in, b.Const(b.normal(1, m)))
	}
	return b.Node("Conv", in, attrs...)
}

func pads(p int64) *onnx.Attribute { return onnx.IntsAttr("pads", p, p, p, p) }

// Each operator on bytes gives what it gives on the real numbers that they stand for, but for results in the middle between two bytes.
func TestQuantizedOperators(t *testing.T) {
	type graph = func(b quantizedGraph, x *onnx.Value) *onnx.Value // of 2×6×9×8
	cases := map[string]struct {
		graph graph
		runs  string // the operator that must have run
	}{
		"conv": {func(b quantizedGraph, x *onnx.Value) *onnx.Value { return b.conv(x, 33, 6, 3, pads(1)) }, "QLinearConv"},
		"conv, relu": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.Op("Relu", b.conv(x, 5, 6, 3, pads(2), onnx.IntsAttr("strides", 2, 1), onnx.IntsAttr("dilations", 2, 2)))
		}, "QLinearConv"},
		"conv, clip": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.Op("Clip", b.conv(x, 8, 6, 1), b.Const(tensor.Scalar(float32(0))), b.Const(tensor.Scalar(float32(2))))
		}, "QLinearConv"},
		"depthwise": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.conv(x, 6, 1, 3, pads(1), onnx.IntAttr("group", 6))
		}, "QLinearConv"},
		"groups": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.conv(x, 8, 3, 3, onnx.IntAttr("group", 2))
		}, "QLinearConv"},
		"add": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.conv(x, 6, 6, 1), 0.2, false)
			return b.Op("Relu", b.Op("Add", x, y))
		}, "QLinearAdd"},
		"add alone": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.Op("Neg", x), 0.03, false)
			return b.Op("Add", x, y)
		}, "QLinearAdd"},
		"mul": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.conv(x, 6, 6, 1), 0.2, false)
			return b.Op("Clip", b.Op("Mul", x, y), b.Const(tensor.Scalar(float32(-1))), b.Const(tensor.Scalar(float32(1.5))))
		}, "QLinearMul"},
		"excite": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.conv(x, 10, 6, 1), 0.2, false)
			corner := b.Node("Slice", []*onnx.Value{y, b.Const(tensor.New([]int64{0, 0})), b.Const(tensor.New([]int64{1, 1})), b.Const(tensor.New([]int64{2, 3}))})
			_, s := b.rounded(corner, 0.2, false)
			_, s = b.rounded(b.Op("HardSigmoid", s), 1./256, true)
			return b.Op("Mul", s, y)
		}, "QLinearMul"},
		"mul by a row": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.Op("Neg", x), 0.03, false)
			_, row := b.rounded(b.Op("Squeeze", b.Node("Slice", []*onnx.Value{y, b.Const(tensor.New([]int64{0, 0, 0})), b.Const(tensor.New([]int64{1, 1, 1}))}), b.Const(tensor.New([]int64{0, 1, 2}))), 0.03, false)
			return b.Op("Mul", x, row)
		}, "QLinearMul"},
		"global average": {func(b quantizedGraph, x *onnx.Value) *onnx.Value { return b.Op("GlobalAveragePool", x) }, "QLinearGlobalAveragePool"},
		"mean": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.Node("ReduceMean", []*onnx.Value{x}, onnx.IntsAttr("axes", 2, -1), onnx.IntAttr("keepdims", 0))
		}, "QLinearGlobalAveragePool"},
		"concat": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			_, y := b.rounded(b.conv(x, 3, 6, 1), 0.2, false)
			_, z := b.rounded(b.conv(x, 5, 6, 1), 0.1, true)
			return b.Node("Concat", []*onnx.Value{y, x, z}, onnx.IntAttr("axis", -3))
		}, "ByteTable"},
		"hard swish": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			g := b.Op("Clip", b.Op("Add", x, b.Const(tensor.Scalar(float32(3)))), b.Const(tensor.Scalar(float32(0))), b.Const(tensor.Scalar(float32(6))))
			return b.Op("Div", b.Op("Mul", x, g), b.Const(tensor.Scalar(float32(6))))
		}, "ByteTable"},
		"flatten, gemm": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			e := b.ends(0.05, false)
			flat := b.Op("DequantizeLinear", b.Op("QuantizeLinear", b.Op("Flatten", x), e[0], e[1]), e[0], e[1])
			return b.Node("Gemm", []*onnx.Value{flat, b.weights(0, true, 7, 432), b.Const(b.normal(1, 7))}, onnx.IntAttr("transB", 1))
		}, "QLinearMatMul"},
		"product": {func(b quantizedGraph, x *onnx.Value) *onnx.Value {
			return b.Op("Relu", b.Op("MatMul", x, b.weights(1, true, 8, 20)))
		}, "QLinearMatMul"},
	}
	r := rand.New(rand.NewPCG(4, 2))
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			for range 12 {
				b := quantizedGraph{onnx.NewBuilder("quantized", 13), r, []tensor.DType{tensor.Uint8, tensor.Int8}[r.IntN(2)]}
				_, x := b.rounded(b.Input("x", tensor.Float32, 2, 6, 9, 8), 0.03, false)
				y, _ := b.rounded(c.graph(b, x), 0.2, r.IntN(2) == 0)
				b.OutputOf("y", y, nil)
				m, err := b.Model()
				if err != nil {
					t.Fatal(err)
				}
				in := map[string]tensor.Value{"x": b.normal(2, 2, 6, 9, 8)}
				want := runWith(t, m, in, runtime.WithoutPass("quantized"))["y"].(*tensor.Tensor)
				p := runtime.Profile{Trace: true}
				got := runWith(t, m, in, runtime.WithProfile(&p))["y"].(*tensor.Tensor)
				ran := map[string]bool{}
				for _, n := range p.Spans {
					ran[n.Op] = true
				}
				if !ran[c.runs] || ran["Conv"] || ran["BlockedConv"] || ran["Gemm"] || ran["Linear"] {
					t.Fatalf("ran %v, want %s", slices.Sorted(maps.Keys(ran)), c.runs)
				}
				if got.DType() != want.DType() || !slices.Equal(got.Shape(), want.Shape()) {
					t.Fatalf("got %s, want %s", got, want)
				}
				others := 0
				for i := range want.Len() {
					switch d := tensor.Float64At(got, i) - tensor.Float64At(want, i); {
					case d == 0:
					case d == 1 || d == -1:
						others++
					default:
						t.Fatalf("%s, y[%d] is %v, without the pass %v", b.d, i, tensor.Float64At(got, i), tensor.Float64At(want, i))
					}
				}
				if others > 1+want.Len()/50 {
					t.Fatalf("%s: %d of %d are another byte", b.d, others, want.Len())
				}
			}
		})
	}
}

// A network goes through on bytes, its channels last from end to end: only the image and the result change their layout.
func TestQuantizedNetwork(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := quantizedGraph{onnx.NewBuilder("quantized", 13), r, tensor.Uint8}
	_, x := b.rounded(b.Input("x", tensor.Float32, "batch", 3, 33, 33), 0.03, false)
	bytes, x := b.rounded(b.Op("Relu", b.conv(x, 16, 3, 7, pads(3), onnx.IntsAttr("strides", 2, 2))), 0.1, true)
	pooled := b.Node("MaxPool", []*onnx.Value{x}, onnx.IntsAttr("kernel_shape", 3, 3), onnx.IntsAttr("strides", 2, 2), pads(1))
	e := bytes.Def().Inputs[1:]
	x = b.Op("DequantizeLinear", b.Op("QuantizeLinear", pooled, e[0], e[1]), e[0], e[1])
	_, y := b.rounded(b.Op("Relu", b.conv(x, 16, 16, 3, pads(1))), 0.4, true)
	_, y = b.rounded(b.conv(y, 16, 16, 3, pads(1)), 2, false)
	_, x = b.rounded(b.Op("Relu", b.Op("Add", y, x)), 1, true)
	_, x = b.rounded(b.Op("GlobalAveragePool", x), 0.5, true)
	y = b.Node("Gemm", []*onnx.Value{b.Node("Flatten", []*onnx.Value{x}), b.weights(0, true, 10, 16), b.Const(b.normal(1, 10))}, onnx.IntAttr("transB", 1))
	b.OutputOf("y", y, nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range []int{1, 3} {
		in := map[string]tensor.Value{"x": b.normal(1.5, batch, 3, 33, 33)}
		p := runtime.Profile{Trace: true}
		got := tensor.Data[float32](runWith(t, m, in, runtime.WithProfile(&p))["y"].(*tensor.Tensor))
		var ops []string
		for _, n := range p.Spans {
			ops = append(ops, n.Op)
		}
		slices.Sort(ops)
		const order = "DequantizeLinear Flatten Linear NhwcMaxPool QLinearAdd QLinearConv QLinearConv QLinearConv QLinearGlobalAveragePool QuantizeLinear Transpose Transpose"
		if s := strings.Join(ops, " "); s != order {
			t.Errorf("%s ran, want %s", s, order)
		}
		want := tensor.Data[float32](runWith(t, m, in, runtime.WithoutPass("quantized"))["y"].(*tensor.Tensor))
		argmax := func(x []float32) int { return slices.Index(x, slices.Max(x)) }
		for i := 0; i < len(want); i += 10 {
			if argmax(got[i:i+10]) != argmax(want[i:i+10]) {
				t.Errorf("the greatest of %v is another than that of %v", got[i:i+10], want[i:i+10])
			}
		}
		for i, w := range want { // a step of the mean, by weights of 0.6 or so
			if d := got[i] - w; d > 2 || d < -2 {
				t.Errorf("y[%d] is %v, without the pass %v", i, got[i], w)
			}
		}
	}
}
