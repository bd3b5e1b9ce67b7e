package runtime_test

import (
	"fmt"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// inferred is the shape, and the elements if they are known, of the value of that name.
func inferred(t *testing.T, b *onnx.Builder) func(name string) string {
	t.Helper()
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	infos, err := runtime.Infer(m)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		for v, i := range infos {
			if v.Name == name {
				if i.Values != nil {
					return fmt.Sprint(i.Shape, i.Values)
				}
				return fmt.Sprint(i.Shape)
			}
		}
		t.Fatalf("there is no value %q", name)
		return ""
	}
}

// Shapes that a model computes from those of its inputs, as exporters write them.
func TestInferComputedShapes(t *testing.T) {
	b := onnx.NewBuilder("shapes", 17)
	x, past := b.Input("x", tensor.Float32, "batch", "seq", 768), b.Input("past", tensor.Float32, "batch", 12, "past", 64)
	ints := func(v ...int64) *onnx.Value { return b.Const(tensor.New(v, len(v))) }
	one := func(v int64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	size := func(v *onnx.Value, axis int64) *onnx.Value { return b.Op("Gather", b.Op("Shape", v), one(axis)) }
	list := func(vs ...*onnx.Value) *onnx.Value {
		for i, v := range vs {
			vs[i] = b.Op("Unsqueeze", v, ints(0))
		}
		return b.Node("Concat", vs, onnx.IntAttr("axis", 0))
	}
	want := map[string]string{}
	expect := func(name, shape string, v *onnx.Value) { b.OutputOf(name, v, nil); want[name] = shape }

	heads := b.Op("Reshape", x, list(size(x, 0), size(x, 1), one(12), one(-1)))
	expect("heads", "[batch seq 12 64]", heads)
	k := b.Node("Concat", []*onnx.Value{past, b.Node("Transpose", []*onnx.Value{heads}, onnx.IntsAttr("perm", 0, 2, 1, 3))}, onnx.IntAttr("axis", 2))
	expect("k", "[batch 12 past+seq 64]", k)
	expect("flat", "[batch*seq 768]", b.Op("Reshape", x, ints(-1, 768)))
	total := b.Op("Add", size(past, 2), size(x, 1))
	expect("total", "[] [past+seq]", total)
	expect("positions", "[seq]", b.Op("Range", size(past, 2), total, one(1)))
	expect("mask", "[seq past+seq]", b.Op("ConstantOfShape", list(size(x, 1), total)))
	expect("half", "[batch (seq+1)/2 768]", b.Op("Slice", x, ints(0), ints(1<<40), ints(1), ints(2)))
	expect("rest", "[batch seq-seq/2 768]", b.Op("Slice", x, list(b.Op("Div", size(x, 1), one(2))), ints(1<<40), ints(1)))
	expect("cut", "[batch max(0,seq-3) 768]", b.Op("Slice", x, ints(1), ints(-2), ints(1)))
	expect("tiled", "[batch seq*seq 768]", b.Op("Tile", x, list(one(1), size(x, 1), one(1))))
	expect("padded", "[batch 2*seq 768]", b.Op("Pad", x, list(one(0), size(x, 1), one(0), one(0), one(0), one(0))))
	// An expanded shape with -1 for what stays.
	shape := list(size(x, 0), one(-1), size(x, 1))
	stays := b.Op("Equal", shape, ints(-1, -1, -1))
	expect("stays", "[3]", stays) // known outright, for no size is -1
	expect("wide", "[batch 1 seq]", b.Op("Expand", b.Op("Reshape", b.Op("ReduceSum", x), ints(1, 1, 1)), b.Op("Where", stays, ints(1, 1, 1), shape)))
	expect("elements", "[] [768*batch*seq]", b.Node("ReduceProd", []*onnx.Value{b.Op("Shape", x)}, onnx.IntAttr("keepdims", 0)))
	// Sizes that hang on data have names.
	at := b.Op("NonZero", x)
	b.OutputOf("at", at, nil)
	expect("of", "[at[1] 3]", b.Node("Gather", []*onnx.Value{b.Op("Transpose", at), ints(0, 1, 2)}, onnx.IntAttr("axis", 1)))
	// All of a list of ones.
	expect("all", "[1 seq]", b.Op("NonZero", b.Node("ConstantOfShape", []*onnx.Value{list(size(x, 1))}, onnx.TensorAttr("value", tensor.New([]int64{1}, 1)))))
	got := inferred(t, b)
	for name, w := range want {
		if g := got(name); g != w {
			t.Errorf("%s: inferred %s, want %s", name, g, w)
		}
	}
}

// A size that hangs on data in a loop's body is another one in each iteration.
func TestInferSizesOfIterations(t *testing.T) {
	b := onnx.NewBuilder("loop", 17)
	x, n := b.Input("x", tensor.Float32, "n"), b.Input("trips", tensor.Int64)
	body := b.Sub("body")
	body.Input("i", tensor.Int64)
	cond := body.Input("cond", tensor.Bool)
	state, same := body.Input("state", tensor.Float32), body.Input("same", tensor.Float32)
	list := body.InputOf("list", &onnx.Type{Kind: onnx.SequenceType, Of: &onnx.Type{Elem: tensor.Float32}})
	body.OutputOf("go", body.Op("Identity", cond), nil)
	some := body.Op("Reshape", body.Node("Cast", []*onnx.Value{body.Op("NonZero", state)}, onnx.IntAttr("to", int64(tensor.Float32))), body.Const(tensor.New([]int64{-1}, 1)))
	body.OutputOf("next", some, nil)
	body.OutputOf("kept", body.Op("Neg", same), nil)
	body.OutputOf("longer", body.Op("SequenceInsert", list, some), nil)
	body.OutputOf("each", body.Op("Exp", same), nil)
	empty := b.Op("SequenceEmpty")
	ys := b.Multi("Loop", 4, []*onnx.Value{n, b.Const(tensor.Scalar(true)), x, x, empty}, onnx.GraphAttr("body", body.Graph()))
	for i, name := range []string{"last", "through", "parts", "stacked"} {
		b.OutputOf(name, ys[i], nil)
	}
	b.OutputOf("first", b.Op("SequenceAt", ys[2], b.Const(tensor.Scalar(int64(0)))), nil)
	got := inferred(t, b)
	for name, w := range map[string]string{"last": "[last[0]]", "through": "[n]", "first": "[first[0]]", "stacked": "[stacked[0] n]"} {
		if g := got(name); g != w {
			t.Errorf("%s: inferred %s, want %s", name, g, w)
		}
	}
}

// A model that is made to grow terms without end is read in no time.
func TestInferHostileTerms(t *testing.T) {
	b := onnx.NewBuilder("hostile", 17)
	x := b.Input("x", tensor.Float32, "a", "b")
	for range 500 {
		y := b.Node("Concat", []*onnx.Value{x, b.Op("Transpose", x)}, onnx.IntAttr("axis", 0))
		x = b.Op("Slice", y, b.Const(tensor.New([]int64{1, 0}, 2)), b.Const(tensor.New([]int64{-1, 1 << 40}, 2)), b.Const(tensor.New([]int64{0, 1}, 2)),
			b.Const(tensor.New([]int64{3, 2}, 2)))
	}
	b.OutputOf("y", x, nil)
	if got := inferred(t, b)("y"); len(got) > 4000 {
		t.Errorf("a shape of %d characters", len(got))
	}
}
