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
	i, is, s := ops.IntAttr, ops.IntsAttr, ops.StringAttr

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
	add("CenterCropPad", 18, "crop", nil, signed(5, 6), ints(2, 3))
	add("CenterCropPad", 18, "pad", nil, signed(2, 3), ints(5, 6))
	add("CenterCropPad", 18, "both, axes", attrs{is("axes", -1, 0)}, signed(3, 2, 4), ints(7, 2))
}
