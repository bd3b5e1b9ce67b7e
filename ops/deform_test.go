package ops_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// zeros is a float32 tensor without anything in it.
func zeros(shape ...int) *tensor.Tensor {
	t, err := tensor.Zeros(tensor.Float32, shape...)
	if err != nil {
		panic(err)
	}
	return t
}

// TestDeformConvWithoutOffsets holds it, with a mask of halves, against a convolution of half the weights.
func TestDeformConvWithoutOffsets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ones := func(rank int) []int64 { return make([]int64, rank) }
	for rank := 1; rank <= 3; rank++ {
		spatial := []int{6, 5, 4}[:rank]
		attrs := []*onnx.Attribute{onnx.IntAttr("group", 2), onnx.IntsAttr("strides", 2, 1, 1), onnx.IntsAttr("dilations", 1, 2, 1), onnx.IntsAttr("pads", ones(2*rank)...)}
		for _, a := range attrs[1:3] {
			a.Ints = a.Ints[:rank]
		}
		attrs[3].Ints[0] = 1
		for _, d := range []tensor.DType{tensor.Float32, tensor.Float64, tensor.Float16, tensor.BFloat16} {
			as := func(x *tensor.Tensor) *tensor.Tensor {
				y, err := tensor.Zeros(d, x.Shape()...)
				if err == nil {
					err = tensor.ConvertInto(y, x, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				return y
			}
			x, w, bias := as(randomTensor(r, -1, 1, append([]int{2, 4}, spatial...)...)), as(randomTensor(r, -1, 1, append([]int{6, 2}, []int{2, 2, 3}[:rank]...)...)), as(randomTensor(r, -1, 1, 6))
			half := w.Clone()
			for i := range half.Len() {
				tensor.SetFloat64At(half, i, tensor.Float64At(w, i)/2)
			}
			want := nodeCase{"Conv", 22, attrs, []*tensor.Tensor{x, half, bias}}.run(t)
			taps := w.Len() / 12
			mask := zeros(append([]int{2, taps}, want.Shape()[2:]...)...)
			for i := range mask.Len() {
				tensor.SetFloat64At(mask, i, 0.5)
			}
			got := nodeCase{"DeformConv", 22, attrs, []*tensor.Tensor{x, w, as(zeros(append([]int{2, taps * rank}, want.Shape()[2:]...)...)), bias, as(mask)}}.run(t)
			if !equalShapes(got.Shape(), want.Shape()) || got.DType() != d {
				t.Fatalf("%s%v where %s%v is wanted", got.DType(), got.Shape(), d, want.Shape())
			}
			tol := map[tensor.DType]float64{tensor.Float64: 1e-14, tensor.Float32: 1e-5, tensor.Float16: 4e-3, tensor.BFloat16: 3e-2}[d]
			for i, v := range tensor.Float64s(want) {
				if g := tensor.Float64At(got, i); !(math.Abs(g-v) <= tol) {
					t.Fatalf("%s, %d axes: element %d is %v, not %v", d, rank, i, g, v)
				}
			}
		}
	}
}

func TestDeformConvRefuses(t *testing.T) {
	x, w, offset := zeros(1, 2, 4, 4), zeros(2, 2, 2, 2), zeros(1, 8, 3, 3)
	for _, c := range []struct {
		why   string
		in    []*tensor.Tensor
		attrs []*onnx.Attribute
	}{
		{"few offsets", []*tensor.Tensor{x, w, zeros(1, 4, 3, 3)}, nil},
		{"offsets of another output", []*tensor.Tensor{x, w, zeros(1, 8, 3, 4)}, nil},
		{"a mask of another window", []*tensor.Tensor{x, w, offset, zeros(2), zeros(1, 8, 3, 3)}, nil},
		{"a short bias", []*tensor.Tensor{x, w, offset, zeros(1)}, nil},
		{"three offset groups", []*tensor.Tensor{x, w, zeros(1, 24, 3, 3)}, []*onnx.Attribute{onnx.IntAttr("offset_group", 3)}},
		{"no offset groups", []*tensor.Tensor{x, w, offset}, []*onnx.Attribute{onnx.IntAttr("offset_group", 0)}},
	} {
		if _, err := runNode(standardNode("DeformConv", 1, c.in, c.attrs...), c.in); err == nil {
			t.Errorf("%s: no error", c.why)
		}
	}
	for _, in := range [][]*tensor.Tensor{ // nothing to convolve
		{zeros(0, 2, 4, 4), w, zeros(0, 8, 3, 3)},
		{zeros(1, 0, 4, 4), zeros(2, 0, 2, 2), offset, zeros(2)},
		{x, zeros(0, 2, 2, 2), offset},
	} {
		if _, err := runNode(standardNode("DeformConv", 1, in), in); err != nil {
			t.Error(err)
		}
	}
}
