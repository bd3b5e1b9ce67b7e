package runtime_test

import (
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func number(b *onnx.Builder, x float32, ones ...int) *onnx.Value {
	return b.Const(tensor.New([]float32{x}, ones...))
}

// layerNormed is x under LayerNormalization as PyTorch writes it before opset 17, without scale and bias, over the axes listed.
func layerNormed(b *onnx.Builder, x *onnx.Value, axes ...int64) *onnx.Value {
	mean := func(v *onnx.Value) *onnx.Value {
		return b.Node("ReduceMean", []*onnx.Value{v}, onnx.IntsAttr("axes", axes...))
	}
	d := b.Op("Sub", x, mean(x))
	return b.Op("Div", d, b.Op("Sqrt", b.Op("Add", mean(b.Op("Pow", d, number(b, 2))), number(b, 1e-5))))
}

func TestNormsAreFound(t *testing.T) {
	cast := func(b *onnx.Builder, x *onnx.Value, to tensor.DType) *onnx.Value {
		return b.Node("Cast", []*onnx.Value{x}, onnx.IntAttr("to", int64(to)))
	}
	rms := func(b *onnx.Builder, x *onnx.Value, finish string) *onnx.Value {
		mean := b.Node("ReduceMean", []*onnx.Value{b.Op("Pow", x, number(b, 2))}, onnx.IntsAttr("axes", -1))
		root := b.Op("Sqrt", b.Op("Add", mean, number(b, 1e-6)))
		switch finish {
		case "Div":
			return b.Op("Div", x, root)
		case "Reciprocal":
			return b.Op("Mul", x, b.Op("Reciprocal", root))
		}
		return b.Op("Mul", x, b.Op("Div", number(b, 1), root))
	}
	group := func(b *onnx.Builder, x *onnx.Value, scale ...int) *onnx.Value {
		parts := b.Op("Reshape", x, b.Const(tensor.New([]int64{0, 2, -1}, 3)))
		y := b.Op("InstanceNormalization", parts, b.Const(tensor.New([]float32{1, 1}, 2)), b.Const(tensor.New([]float32{0, 0}, 2)))
		y = b.Op("Reshape", y, b.Op("Shape", x))
		return b.Op("Add", b.Op("Mul", y, b.Const(random(scale...))), b.Const(random(scale...)))
	}
	for name, p := range map[string]pattern{
		"LayerNorm": {16, []int{2, 3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Add", b.Op("Mul", layerNormed(b, x, -1), b.Const(random(8))), b.Const(random(8)))
		}, "LayerNormalization"},
		"LayerNorm over two axes": {9, []int{2, 3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Add", b.Op("Mul", layerNormed(b, x, -2, -1), b.Const(random(3, 8))), b.Const(random(3, 8)))
		}, "LayerNormalization"},
		"LayerNorm without parameters": {13, []int{2, 3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return layerNormed(b, x, -1) }, "LayerNormalization"},
		"LayerNorm by squares": {13, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			mean := func(v *onnx.Value) *onnx.Value {
				return b.Node("ReduceMean", []*onnx.Value{v}, onnx.IntsAttr("axes", 1), onnx.IntAttr("keepdims", 1))
			}
			d := b.Op("Sub", x, mean(x))
			root := b.Op("Sqrt", b.Op("Add", number(b, 1e-12, 1), mean(b.Op("Mul", d, d))))
			return b.Op("Add", b.Const(random(8)), b.Op("Mul", b.Const(random(8)), b.Op("Mul", b.Op("Reciprocal", root), d)))
		}, "LayerNormalization"},
		"another axis stays": {16, []int{2, 3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return layerNormed(b, x, 1)
		}, "Add Div Pow ReduceMean ReduceMean Sqrt Sub"},
		"a scale with more axes stays": {16, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", layerNormed(b, x, -1), b.Const(random(2, 1, 8)))
		}, "LayerNormalization Mul"},
		"of a difference that is read elsewhere the rest": {16, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := layerNormed(b, x, -1)
			return b.Op("Add", y, y.Def().Inputs[0])
		}, "Add RMSNormalization ReduceMean Sub"},
		"a deviation that is read elsewhere stays": {16, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := layerNormed(b, x, -1)
			return b.Op("Add", y, y.Def().Inputs[1])
		}, "Add Add Div Pow ReduceMean ReduceMean Sqrt Sub"},
		"statistics over different axes stay": {16, []int{2, 3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			d := b.Op("Sub", x, b.Node("ReduceMean", []*onnx.Value{x}, onnx.IntsAttr("axes", 1, 2)))
			v := b.Node("ReduceMean", []*onnx.Value{b.Op("Pow", d, number(b, 3))}, onnx.IntsAttr("axes", 2))
			return b.Op("Div", d, b.Op("Sqrt", b.Op("Add", b.Op("Abs", v), number(b, 1e-5))))
		}, "Abs Add Div Pow ReduceMean ReduceMean Sqrt Sub"},
		"RMSNorm by Div": {13, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Const(random(8)), rms(b, x, "Div"))
		}, "RMSNormalization"},
		"RMSNorm by 1/√": {13, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Const(random(8)), cast(b, rms(b, cast(b, x, tensor.Float32), ""), tensor.Float32))
		}, "RMSNormalization"},
		"RMSNorm by Reciprocal": {13, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return rms(b, x, "Reciprocal") }, "RMSNormalization"},
		"RMSNorm of float16s in float32": {13, []int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			h := cast(b, x, tensor.Float16)
			y := b.Op("Mul", cast(b, rms(b, cast(b, h, tensor.Float32), ""), tensor.Float16), cast(b, b.Const(tensor.New([]float32{1, 1, 1, 1, 1, 1, 1, 1}, 8)), tensor.Float16))
			return cast(b, y, tensor.Float32)
		}, "Cast Cast RMSNormalization"},
		"GroupNorm":    {13, []int{2, 4, 3, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return group(b, x, 4, 1, 1) }, "GroupNormalization"},
		"GroupNorm 1d": {9, []int{2, 4, 5}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return group(b, x, 4, 1) }, "GroupNormalization"},
		"a scale along another axis than GroupNorm's stays": {13, []int{2, 4, 4, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return group(b, x, 4, 1)
		}, "Add InstanceNormalization Mul Reshape Reshape"},
	} {
		t.Run(name, func(t *testing.T) { p.find(t, alone) })
	}
}
