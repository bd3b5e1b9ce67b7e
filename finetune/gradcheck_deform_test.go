package finetune

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

func init() { gradFamilies = append(gradFamilies, deformCases) }

func deformCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, is := ops.IntAttr, ops.IntsAttr
	offsets := func(shape ...int) *gradInput { return uniform(-1.3, 1.4, shape...) }
	add("DeformConv", 19, "plain", nil, signed(1, 2, 4, 5), signed(3, 2, 2, 2), offsets(1, 8, 3, 4))
	add("DeformConv", 22, "bias and mask", attrs{is("pads", 1, 0, 1, 1)}, signed(2, 2, 3, 4), signed(2, 2, 2, 3), offsets(2, 12, 4, 3), signed(2), signed(2, 6, 4, 3))
	add("DeformConv", 22, "groups, strides, dilations", attrs{i("group", 2), i("offset_group", 4), is("strides", 2, 1), is("dilations", 1, 2), is("pads", 1, 1, 0, 2)},
		signed(1, 4, 4, 4), signed(4, 2, 2, 2), offsets(1, 32, 2, 5), nil, signed(1, 16, 2, 5))
	add("DeformConv", 22, "one axis", nil, signed(2, 1, 6), signed(2, 1, 3), offsets(2, 3, 4), signed(2))
	add("DeformConv", 22, "three axes", nil, signed(1, 1, 3, 3, 3), signed(1, 1, 2, 2, 2), offsets(1, 24, 2, 2, 2), nil, signed(1, 8, 2, 2, 2))
}
