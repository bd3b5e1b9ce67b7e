package runtime_test

import (
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func TestMovesAreFound(t *testing.T) {
	ints := func(b *onnx.Builder, v ...int64) *onnx.Value { return b.Const(tensor.New(v, len(v))) }
	perm := func(b *onnx.Builder, x *onnx.Value, p ...int64) *onnx.Value {
		return b.Node("Transpose", []*onnx.Value{x}, onnx.IntsAttr("perm", p...))
	}
	// layer is all states of a layer of 4 units, beside which there is the last one.
	layer := func(b *onnx.Builder, kind, direction string, x, lens *onnx.Value) *onnx.Value {
		dirs, gates := 1, map[string]int{"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
		if direction == "bidirectional" {
			dirs = 2
		}
		in := []*onnx.Value{x, b.Const(random(dirs, 4*gates, 3)), b.Const(random(dirs, 4*gates, 4)), nil, lens}
		return b.Multi(kind, 2, in, onnx.IntAttr("hidden_size", 4), onnx.StringAttr("direction", direction))[0]
	}
	at := func(b *onnx.Builder, x *onnx.Value, axis, i int64) *onnx.Value {
		return b.Node("Gather", []*onnx.Value{x, b.Const(tensor.Scalar(i))}, onnx.IntAttr("axis", axis))
	}
	for name, p := range map[string]pattern{
		"there and back": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", perm(b, perm(b, x, 1, 2, 0), 2, 0, 1))
		}, "Sin"},
		"two become one": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return perm(b, perm(b, x, 1, 2, 0), 1, 2, 0)
		}, "Transpose"},
		"back after an activation": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Clip", b.Op("Mul", perm(b, x, 0, 2, 1), number(b, 2)), number(b, -1), number(b, 1))
			return b.Op("Sin", perm(b, b.Op("Relu", y), 0, 2, 1))
		}, "Clip Mul Relu Sin"},
		"on after an activation": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", perm(b, b.Op("Abs", perm(b, x, 1, 2, 0)), 1, 2, 0))
		}, "Abs Sin Transpose"},
		"with another reader in between both stay": {13, []int{2, 3, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Abs", perm(b, x, 0, 2, 1))
			return b.Op("Mul", perm(b, y, 0, 2, 1), y)
		}, "Abs Mul Transpose Transpose"},
		"with a vector in between both stay": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", perm(b, b.Op("Add", perm(b, x, 0, 2, 1), b.Const(random(3))), 0, 2, 1))
		}, "Add Sin Transpose Transpose"},
		"views that end where they began": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Squeeze", b.Op("Unsqueeze", x, ints(b, 1)), ints(b, 1))
			return b.Op("Sin", b.Op("Reshape", b.Op("Reshape", y, ints(b, -1)), ints(b, 2, 3, 4)))
		}, "Sin"},
		"an element of an axis of what is transposed": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", b.Node("Gather", []*onnx.Value{perm(b, x, 1, 0, 2), b.Const(tensor.Scalar(int64(-1)))}, onnx.IntAttr("axis", 1)))
		}, "Gather Sin"},
		"an element of an axis, and then a transposition": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", b.Node("Gather", []*onnx.Value{perm(b, x, 2, 0, 1), b.Const(tensor.Scalar(int64(1)))}, onnx.IntAttr("axis", 1)))
		}, "Gather Sin Transpose"},
		"several elements of what is transposed": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sin", b.Node("Gather", []*onnx.Value{perm(b, x, 1, 0, 2), ints(b, 1, 0)}, onnx.IntAttr("axis", 1)))
		}, "Gather Sin Transpose"},
		"rows that are transposed, and not their elements": {13, []int{2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			numbers := b.Node("Cast", []*onnx.Value{b.Op("Sign", x)}, onnx.IntAttr("to", int64(tensor.Int64)))
			return perm(b, b.Op("Gather", b.Const(random(4, 5, 6)), numbers), 1, 0, 2, 3)
		}, "Cast Gather Sign Transpose"},
		"elements of rows that are transposed": {13, []int{2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			numbers := b.Node("Cast", []*onnx.Value{b.Op("Sign", x)}, onnx.IntAttr("to", int64(tensor.Int64)))
			return perm(b, b.Op("Gather", b.Const(random(4, 5)), numbers), 1, 2, 0)
		}, "Cast Gather Sign Transpose"},
		"a product's transpose": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return perm(b, b.Op("MatMul", b.Op("Sin", x), perm(b, x, 0, 2, 1)), 0, 2, 1)
		}, "MatMul Sin"},
		"a product's transpose that also moves another axis": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return perm(b, b.Op("MatMul", x, b.Const(random(2, 4, 5))), 2, 0, 1)
		}, "MatMul Transpose"},
		"slices of everything, expansion by nothing": {13, []int{2, 3, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Slice", x, ints(b, 0, 0), ints(b, 1<<31-1, 3), ints(b, 2, 1))
			return b.Op("Sin", b.Op("Expand", y, ints(b, 1, 4)))
		}, "Sin"},
		"a slice backwards stays": {13, []int{2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Slice", x, ints(b, -1), ints(b, -1<<31), ints(b, 1), ints(b, -1))
		}, "Slice"},
		"parts of what is stacked twice, stacked again": {13, []int{3, 2, 4, 5}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			at := func(v *onnx.Value, i int64) *onnx.Value { return at(b, v, 0, i) }
			stack := func(vs ...*onnx.Value) *onnx.Value {
				for i, v := range vs {
					vs[i] = b.Op("Unsqueeze", v, ints(b, 0))
				}
				return b.Node("Concat", vs, onnx.IntAttr("axis", 0))
			}
			one, two := at(x, 1), at(x, -1)
			return b.Op("Neg", stack(stack(b.Op("Sin", at(one, 0)), at(one, 1)), stack(at(two, -1), at(two, 0))))
		}, "Concat Gather Gather Gather Gather Neg Reshape Reshape Reshape Reshape Reshape Sin Unsqueeze Unsqueeze Unsqueeze Unsqueeze"},
		"an If whose condition is known": {13, []int{2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			then, other := b.Sub("then"), b.Sub("other")
			inner, none := then.Sub("inner"), then.Sub("none")
			inner.OutputOf("i", inner.Op("Sin", x), nil)
			none.OutputOf("n", x, nil)
			no := then.Op("Not", then.Const(tensor.New([]bool{true}, 1)))
			y := then.Node("If", []*onnx.Value{no}, onnx.GraphAttr("then_branch", none.Graph()), onnx.GraphAttr("else_branch", inner.Graph()))
			then.OutputOf("t", then.Op("MatMul", y, then.Const(random(3, 4))), nil)
			other.OutputOf("o", other.Op("MatMul", x, other.Const(random(3, 4))), nil)
			is := b.Op("Equal", b.Op("Gather", b.Op("Shape", x), ints(b, 1)), ints(b, 3))
			y = b.Node("If", []*onnx.Value{is}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph()))
			return b.Op("Relu", b.Op("Add", y, b.Const(random(4))))
		}, "Linear Sin"},
		"initial states of zeros": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			batch := b.Op("Unsqueeze", b.Op("Gather", b.Op("Shape", x), b.Const(tensor.Scalar(int64(1)))), ints(b, 0))
			shape := b.Node("Concat", []*onnx.Value{ints(b, 1), batch, ints(b, 4)}, onnx.IntAttr("axis", 0))
			h, c := b.Op("Expand", b.Const(tensor.New([]float32{0}, 1, 1, 1)), shape), b.Op("ConstantOfShape", shape)
			in := []*onnx.Value{x, b.Const(random(1, 16, 3)), b.Const(random(1, 16, 4)), nil, nil, h, c}
			return b.Node("LSTM", in, onnx.IntAttr("hidden_size", 4))
		}, "LSTM"},
		"the last state, as PyTorch's layers give it": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return at(b, perm(b, b.Op("Squeeze", layer(b, "GRU", "forward", x, nil), ints(b, 1)), 1, 0, 2), 1, -1)
		}, "GRU Gather"},
		"the last state backwards": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return at(b, b.Op("Squeeze", layer(b, "LSTM", "reverse", x, nil), ints(b, 1)), 0, 0)
		}, "Gather LSTM"},
		"the last time backwards stays": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return at(b, b.Op("Squeeze", layer(b, "LSTM", "reverse", x, nil), ints(b, 1)), 0, -1)
		}, "Gather LSTM Squeeze"},
		"the last time of rows that end before stays": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return at(b, b.Op("Squeeze", layer(b, "RNN", "forward", x, b.Const(tensor.New([]int32{5, 3}, 2))), ints(b, 1)), 0, -1)
		}, "Gather RNN Squeeze"},
		"the last row stays": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return at(b, b.Op("Squeeze", layer(b, "RNN", "forward", x, nil), ints(b, 1)), 1, -1)
		}, "Gather RNN Squeeze"},
		"the last of both directions stays": {13, []int{5, 2, 3}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := perm(b, layer(b, "GRU", "bidirectional", x, nil), 0, 2, 1, 3)
			return at(b, b.Op("Reshape", y, b.Const(tensor.New([]int64{0, 0, -1}, 3))), 0, -1)
		}, "GRU Gather Reshape Transpose"},
	} {
		t.Run(name, func(t *testing.T) { p.find(t, alone) })
	}
}

func TestOneHotIsFound(t *testing.T) {
	product := func(count []int32, shape ...int) func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		return func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			i := b.Node("Cast", []*onnx.Value{b.Op("Mul", x, number(b, 3))}, onnx.IntAttr("to", int64(tensor.Int32)))
			hot := b.Node("Cast", []*onnx.Value{b.Op("Equal", b.Const(tensor.New(count, shape...)), i)}, onnx.IntAttr("to", int64(tensor.Float32)))
			return b.Op("MatMul", hot, b.Const(random(4, 5)))
		}
	}
	expanded := func(last int64) func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		return func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			i := b.Node("Cast", []*onnx.Value{x}, onnx.IntAttr("to", int64(tensor.Int64)))
			first := b.Node("Cast", []*onnx.Value{b.Op("ReduceMax", b.Op("Abs", x))}, onnx.IntAttr("to", int64(tensor.Int64)))
			first = b.Op("Add", b.Op("Mul", b.Op("Reshape", first, b.Const(tensor.New([]int64{1}, 1))), b.Const(tensor.New([]int64{0}, 1))), b.Const(tensor.New([]int64{2}, 1)))
			shape := b.Node("Concat", []*onnx.Value{first, b.Const(tensor.New([]int64{30}, 1)), b.Const(tensor.New([]int64{last}, 1))}, onnx.IntAttr("axis", 0))
			hot := b.Op("Equal", b.Op("Expand", i, shape), b.Const(tensor.New([]int64{0, 1, 2, 3}, 4)))
			return b.Op("MatMul", b.Node("Cast", []*onnx.Value{hot}, onnx.IntAttr("to", int64(tensor.Float32))), b.Const(random(4, 5)))
		}
	}
	for name, p := range map[string]pattern{
		"numbers that are expanded by other axes":    {13, []int{2, 30, 1}, expanded(1), "Abs Add Cast Cast Concat Expand Mul ReduceMax Reshape SelectRows"},
		"numbers that are expanded by the last stay": {13, []int{2, 30, 1}, expanded(4), "Abs Add Cast Cast Cast Concat Equal Expand MatMul Mul ReduceMax Reshape"},
		"rows, of which some are none":               {13, []int{2, 30, 1}, product([]int32{0, 1, 2, 3}, 1, 1, 4), "Cast Mul SelectRows"},
		"other numbers stay":                         {13, []int{2, 30, 1}, product([]int32{0, 1, 3, 2}, 4), "Cast Cast Equal MatMul Mul"},
		"numbers that do not broadcast stay":         {13, []int{2, 30, 4}, product([]int32{0, 1, 2, 3}, 4), "Cast Cast Equal MatMul Mul"},
	} {
		t.Run(name, func(t *testing.T) { p.find(t, alone) })
	}
}

// A constant that takes much more than what it is made of is not kept, and the result is the same.
func TestFoldingBudget(t *testing.T) {
	for n, runs := range map[int64]string{1 << 10: "Add", 1 << 21: "Add Expand"} {
		b := onnx.NewBuilder("grown", 13)
		x := b.Input("x", tensor.Float32, 1)
		ones := b.Op("Expand", b.Const(tensor.New([]float32{1}, 1)), b.Const(tensor.New([]int64{n}, 1)))
		b.OutputOf("y", b.Op("Add", x, ones), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		finds(t, m, map[string]tensor.Value{"x": random(1)}, runs)
	}
}
