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
