package finetune

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, roiCases) }

func roiCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, f, s := ops.IntAttr, ops.FloatAttr, ops.StringAttr
	rois := fixed(tensor.New([]float64{0.4, 0.3, 3.1, 2.7, 1.2, 0.1, 4.6, 3.9, -1, -1, 2.2, 2.4}, 3, 4))
	for _, mode := range []string{"avg", "max"} {
		for _, opset := range []int64{10, 16} {
			add("RoiAlign", opset, mode, attrs{s("mode", mode), i("output_height", 2), i("output_width", 3), i("sampling_ratio", 2), f("spatial_scale", 0.8)},
				signed(2, 2, 5, 6), rois, ints(0, 1, 0))
		}
		add("RoiAlign", 22, mode+", samples by size", attrs{s("mode", mode), i("output_height", 2), i("output_width", 2)}, signed(1, 1, 5, 6), rois, ints(0, 0, 0))
	}
	pool := attrs{{Name: "pooled_shape", Type: onnx.AttrInts, Ints: []int64{2, 2}}, f("spatial_scale", 0.5)}
	add("MaxRoiPool", 22, "plain", pool, signed(2, 2, 5, 6), fixed(tensor.New([]float64{0, 0, 0, 7, 8, 1, 2, 2, 11, 9}, 2, 5)))
}
