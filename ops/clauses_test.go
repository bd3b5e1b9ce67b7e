package ops_test

import (
	"context"
	"math"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
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
		"white space goes from both ends of what is split, however little is": {
			nodeCase{"StringSplit", 20, []*onnx.Attribute{onnx.IntAttr("maxsplit", 1)}, []*tensor.Tensor{tensor.New([]string{" a  b c "}, 1)}},
			tensor.New([]string{"a", "b c"}, 1, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := tensor.Compare(c.run(t), c.want, 1e-6, 1e-6); err != nil {
				t.Error(err)
			}
		})
	}
}

// Sequences may hold strings: they are cut and joined like any tensor.
func TestSequencesOfStrings(t *testing.T) {
	b := onnx.NewBuilder("strings", 21)
	x := b.Input("x", tensor.String, 3, 2)
	b.OutputOf("y", b.Node("ConcatFromSequence", []*onnx.Value{b.Op("SplitToSequence", x)}, onnx.IntAttr("axis", 1)), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Run(context.Background(), map[string]tensor.Value{"x": tensor.New([]string{"a", "b", "c", "d", "e", "f"}, 3, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tensor.Compare(out["y"], tensor.New([]string{"a", "b", "c", "d", "e", "f"}, 1, 6), 0, 0); err != nil {
		t.Error(err)
	}
}
