package finetune

import (
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() {
	gradFamilies = append(gradFamilies, func(add addCase) {
		ratio, seed := fixed(tensor.Scalar(0.4)), fixed(tensor.Scalar(int64(7)))
		add("SeededDropout", 1, "", nil, signed(5, 9), ratio, seed).domain = ops.Internal
	})
}
