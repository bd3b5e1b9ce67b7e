package ops_test

import (
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
	x := b.Input("x0", tensor.String, 3, 2)
	b.OutputOf("y", b.Node("ConcatFromSequence", []*onnx.Value{b.Op("SplitToSequence", x)}, onnx.IntAttr("axis", 1)), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	out := runModel(t, m, []*tensor.Tensor{tensor.New([]string{"a", "b", "c", "d", "e", "f"}, 3, 2)})
	if _, _, err := tensor.Compare(out["y"], tensor.New([]string{"a", "b", "c", "d", "e", "f"}, 1, 6), 0, 0); err != nil {
		t.Error(err)
	}
}

// com.microsoft's RotaryEmbedding counts heads by the cosines' width, and positions from a first one.
func TestRotaryDefaults(t *testing.T) {
	run := func(ids *tensor.Tensor, attrs ...*onnx.Attribute) tensor.Value {
		b := onnx.NewBuilder("rotary", 21)
		b.Import("com.microsoft", 1)
		x := b.Input("x0", tensor.Float32, 1, 2, 4)
		angles := b.Const(tensor.New([]float32{.1, .2, .3, .4, .5}, 5, 1))
		n := onnx.NewNode("RotaryEmbedding", []*onnx.Value{x, b.Const(ids), angles, angles}, "rotated")
		n.Domain, n.Attrs = "com.microsoft", attrs
		b.OutputOf("y", b.Add(n)[0], nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		return runModel(t, m, []*tensor.Tensor{tensor.New([]float32{1, 2, 3, 4, 5, 6, 7, 8}, 1, 2, 4)})["y"]
	}
	want := run(tensor.New([]int64{3, 4}, 1, 2), onnx.IntAttr("num_heads", 2))
	if _, _, err := tensor.Compare(run(tensor.New([]int64{3}, 1)), want, 0, 0); err != nil {
		t.Error(err)
	}
}

// A bias of MultiHeadAttention is cut by widths: where they are not known before the run it is refused.
func TestMultiHeadAttentionOfUnknownRank(t *testing.T) {
	b := onnx.NewBuilder("attention", 21)
	b.Import("com.microsoft", 1)
	q, k := b.Input("q", tensor.Float32, 1, 2, 4), b.Input("k", tensor.Float32, 1, 2, 4)
	v, bias := b.InputOf("v", &onnx.Type{Elem: tensor.Float32}), b.Input("bias", tensor.Float32, 12)
	n := onnx.NewNode("MultiHeadAttention", []*onnx.Value{q, k, v, bias}, "attended")
	n.Domain, n.Attrs = "com.microsoft", []*onnx.Attribute{onnx.IntAttr("num_heads", 2)}
	b.OutputOf("y", b.Add(n)[0], nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.NewSession(m); err == nil {
		t.Error("no error")
	}
}
