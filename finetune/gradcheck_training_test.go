package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() {
	gradFamilies = append(gradFamilies, func(add addCase) {
		ratio, seed := fixed(tensor.Scalar(0.4)), fixed(tensor.Scalar(int64(7)))
		add("SeededDropout", 1, "", nil, signed(5, 9), ratio, seed).domain = ops.Internal
		for _, x := range [][]int{{4, 3}, {2, 3, 5}, {2, 2, 33}, {1, 2, 4, 9}} { // with planes small and not
			c := add("BatchNormalization", 1, fmt.Sprint("training ", x), []*onnx.Attribute{ops.FloatAttr("epsilon", 0.01)}, signed(x...), signed(x[1]), signed(x[1]))
			c.domain, c.outs, c.weighed = ops.Internal, 3, 1
		}
	})
}
