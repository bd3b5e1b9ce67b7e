package cli

import (
	"testing"

	"github.com/retune-go/retune/tensor"
)

func TestDescribe(t *testing.T) {
	entry := &tensor.Map{Keys: tensor.New([]string{"no", "yes"}), Values: tensor.New([]float32{0.25, 0.75})}
	for want, v := range map[string]tensor.Value{
		`string[2] "a" "b\n"`: tensor.New([]string{"a", "b\n"}),
		`sequence of 2: [{"no": 0.25, "yes": 0.75}, {"no": 0.25, "yes": 0.75}]`: &tensor.Sequence{Values: []tensor.Value{entry, entry}},
		`optional of int64[] 3`:      &tensor.Optional{Value: tensor.Scalar(int64(3))},
		`empty optional`:             &tensor.Optional{},
		`int32[9] 0 0 0 0 0 0 0 0 …`: tensor.New(make([]int32, 9)),
	} {
		if got := describe(v); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

// Only what NumPy cannot say otherwise is converted: nothing is narrowed that could have been as it is wanted.
func TestInType(t *testing.T) {
	for _, c := range []struct{ have, want, get tensor.DType }{
		{tensor.Float32, tensor.BFloat16, tensor.BFloat16}, {tensor.Float32, tensor.Float8E5M2, tensor.Float8E5M2}, {tensor.Int32, tensor.Int64, tensor.Int64}, {tensor.Uint8, tensor.Int64, tensor.Int64},
		{tensor.Float32, tensor.Float16, tensor.Float32}, {tensor.Float64, tensor.Float32, tensor.Float64}, {tensor.Float64, tensor.BFloat16, tensor.Float64}, {tensor.Int64, tensor.Int32, tensor.Int64},
		{tensor.Uint64, tensor.Int64, tensor.Uint64}, {tensor.Float32, tensor.Int64, tensor.Float32}, {tensor.Bool, tensor.Int64, tensor.Bool}, {tensor.Int32, tensor.Undefined, tensor.Int32},
	} {
		zeros, err := tensor.Zeros(c.have, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := inType(zeros, c.want); err != nil || got.DType() != c.get {
			t.Errorf("%s for %s: %v (%v)", c.have, c.want, got, err)
		}
	}
}
