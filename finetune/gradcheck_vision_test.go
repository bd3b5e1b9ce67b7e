package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, visionCases) }

func visionCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, is, s, f := ops.IntAttr, ops.IntsAttr, ops.StringAttr, ops.FloatAttr

	for _, mode := range []string{"nearest", "linear", "cubic"} {
		for _, padding := range []string{"zeros", "border", "reflection"} {
			for align := range int64(2) {
				as := attrs{s("mode", mode), s("padding_mode", padding), i("align_corners", align)}
				add("GridSample", 22, fmt.Sprint(mode, " ", padding, " ", align), as, signed(2, 3, 4, 5), uniform(-1.9, 1.9, 2, 3, 2, 2))
			}
		}
		as := attrs{s("mode", mode), s("padding_mode", "reflection")}
		add("GridSample", 22, mode+" one axis", as, signed(1, 2, 6), uniform(-1.4, 1.4, 1, 5, 1))
		add("GridSample", 22, mode+" three axes", as, signed(1, 2, 3, 2, 4), uniform(-1.4, 1.4, 1, 2, 1, 3, 3))
	}
	add("GridSample", 16, "size 1", attrs{s("mode", "bicubic"), i("align_corners", 1)}, signed(1, 1, 1, 3), uniform(-0.8, 0.8, 1, 2, 2, 2))
	add("GridSample", 22, "fixed float32 grid", nil, signed(1, 2, 3, 3), fixed(tensor.New([]float32{-0.5, 0.3, 0.9, -1.2}, 1, 1, 2, 2)))
	for align := range int64(2) {
		add("AffineGrid", 20, fmt.Sprint("2D ", align), attrs{i("align_corners", align)}, signed(2, 2, 3), ints(2, 3, 4, 5))
		add("AffineGrid", 20, fmt.Sprint("3D ", align), attrs{i("align_corners", align)}, signed(2, 3, 4), ints(2, 1, 2, 1, 3))
	}

	unpooled := intsOf([]int{1, 2, 2, 2}, 5, 3, 8, 14, 17, 19, 29, 26)
	add("MaxUnpool", 22, "by attributes", attrs{is("kernel_shape", 2, 2), is("strides", 2, 2)}, signed(1, 2, 2, 2), unpooled)
	add("MaxUnpool", 11, "larger", attrs{is("kernel_shape", 2, 2), is("strides", 2, 2)}, signed(1, 2, 2, 2), unpooled, ints(1, 2, 5, 6))
	add("MaxUnpool", 22, "one index twice", attrs{is("kernel_shape", 3), is("strides", 2), is("pads", 1, 0)}, signed(1, 1, 3), intsOf([]int{1, 1, 3}, 2, 2, 5))
	add("Col2Im", 18, "overlap", nil, signed(2, 8, 6), ints(3, 4), ints(2, 2))
	add("Col2Im", 18, "pads, strides, dilations", attrs{is("pads", 1, 0, 2, 1), is("strides", 2, 1), is("dilations", 1, 2)}, signed(1, 8, 12), ints(4, 5), ints(2, 2))
	add("Col2Im", 18, "one axis", attrs{is("strides", 3)}, signed(2, 4, 2), ints(6), ints(2))
	add("Col2Im", 18, "three axes", nil, signed(1, 8, 4), ints(2, 3, 3), ints(2, 2, 2))
	for _, p := range []int64{1, 2, 3} {
		as := attrs{i("p", p), is("kernel_shape", 2, 3), is("strides", 2, 1), is("pads", 1, 0, 0, 1)}
		add("LpPool", 22, fmt.Sprint("p ", p), as, signed(2, 2, 4, 5))
		add("LpPool", 22, fmt.Sprint("ceil, dilations, p ", p), attrs{i("p", p), is("kernel_shape", 2), is("strides", 2), is("dilations", 2), i("ceil_mode", 1)}, signed(1, 2, 8))
		add("GlobalLpPool", 22, fmt.Sprint("p ", p), attrs{i("p", p)}, signed(2, 3, 2, 3))
	}
	add("LpPool", 11, "same", attrs{is("kernel_shape", 3), s("auto_pad", "SAME_UPPER")}, signed(1, 2, 5))
	add("LpPool", 1, "by a float", attrs{f("p", 2.5), is("kernel_shape", 2)}, signed(1, 2, 5))
	add("LpPool", 1, "by a float, padded", attrs{f("p", 1.5), is("kernel_shape", 2, 3), is("pads", 1, 0, 0, 2), is("strides", 2, 1)}, signed(1, 2, 4, 4))
	add("GlobalLpPool", 1, "by a float", attrs{f("p", 2.5)}, signed(1, 2, 5))
	for _, p := range []int64{1, 2} {
		add("LpNormalization", 22, fmt.Sprint("p ", p), attrs{i("p", p)}, signed(2, 3, 4))
		add("LpNormalization", 1, fmt.Sprint("axis 1, p ", p), attrs{i("p", p), i("axis", 1)}, signed(2, 3, 4))
		add("LpNormalization", 22, fmt.Sprint("size 1, p ", p), attrs{i("p", p), i("axis", 0)}, signed(1, 2))
	}
	add("LRN", 13, "odd", attrs{i("size", 3), f("alpha", 0.5), f("beta", 0.6), f("bias", 1.5)}, signed(2, 5, 2, 2))
	add("LRN", 13, "even", attrs{i("size", 4), f("alpha", 0.7)}, signed(1, 6, 3))
	add("LRN", 1, "wider than the channels", attrs{i("size", 5), f("alpha", 0.7)}, signed(2, 2, 2, 1))
	add("MeanVarianceNormalization", 13, "", nil, signed(2, 3, 3, 2))
	add("MeanVarianceNormalization", 9, "axes", attrs{is("axes", 1, -1)}, signed(2, 3, 4))
	add("CenterCropPad", 18, "crop", nil, signed(5, 6), ints(2, 3))
	add("CenterCropPad", 18, "pad", nil, signed(2, 3), ints(5, 6))
	add("CenterCropPad", 18, "both, axes", attrs{is("axes", -1, 0)}, signed(3, 2, 4), ints(7, 2))
}
