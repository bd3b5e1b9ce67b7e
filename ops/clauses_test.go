package ops_test

import (
	"math"
	"testing"

	"github.com/retune-go/retune/tensor"
)

// What the standard's text says of corners that its test cases leave out.
func TestClauses(t *testing.T) {
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		nodeCase
		want *tensor.Tensor
	}{
		"a backward slice starts at the first element at least": {
			nodeCase{"Slice", 13, nil, []*tensor.Tensor{tensor.New([]float32{1, 2, 3}, 3), tensor.New([]int64{-6}, 1), tensor.New([]int64{-9}, 1),
				tensor.New([]int64{0}, 1), tensor.New([]int64{-2}, 1)}}, tensor.New([]float32{1}, 1)},
		"a NaN is not above the threshold": {
			nodeCase{"ThresholdedRelu", 22, nil, []*tensor.Tensor{tensor.New([]float32{nan, 2}, 2)}}, tensor.New([]float32{0, 2}, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := tensor.Compare(c.run(t), c.want, 1e-6, 1e-6); err != nil {
				t.Error(err)
			}
		})
	}
}
