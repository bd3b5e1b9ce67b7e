package runtime_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Ifs on shapes: the plan for inputs of a shape holds the steps of the branches that are taken, those of branches within them too. A
// branch may give what it captures, a constant, and one value twice; what a taken branch gives may be an output of the model.
func TestBranchesOnShapes(t *testing.T) {
	b := onnx.NewBuilder("branches", 21)
	x := b.Input("x", tensor.Float32, "n")
	is := func(g *onnx.Builder, n int64) *onnx.Value {
		return g.Op("Equal", g.Op("Shape", x), g.Const(tensor.New([]int64{n}, 1)))
	}
	inner := func(g *onnx.Builder, name string, then, other func(g *onnx.Builder) *onnx.Value) []*onnx.Attribute {
		a, c := g.Sub(name+"_then"), g.Sub(name+"_else")
		a.OutputOf(name+"_y1", then(a), nil)
		c.OutputOf(name+"_y2", other(c), nil)
		return []*onnx.Attribute{onnx.GraphAttr("then_branch", a.Graph()), onnx.GraphAttr("else_branch", c.Graph())}
	}
	then, other := b.Sub("two"), b.Sub("more")
	doubled := then.Op("Add", x, x)
	then.OutputOf("a1", doubled, nil)
	then.OutputOf("b1", x, nil)
	then.OutputOf("c1", doubled, nil)
	then.OutputOf("d1", then.Const(tensor.New([]float32{7}, 1)), nil)
	neg := other.Op("Neg", x)
	nested := other.Node("If", []*onnx.Value{is(other, 3)}, inner(other, "nested",
		func(g *onnx.Builder) *onnx.Value { return g.Op("Exp", neg) },
		func(g *onnx.Builder) *onnx.Value { return neg })...)
	other.OutputOf("a2", nested, nil)
	other.OutputOf("b2", neg, nil)
	other.OutputOf("c2", other.Op("Abs", nested), nil)
	other.OutputOf("d2", x, nil)
	ys := b.Multi("If", 4, []*onnx.Value{is(b, 2)}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph()))
	for i, name := range []string{"a", "b", "c", "d"} {
		b.OutputOf(name, ys[i], nil)
	}
	b.OutputOf("sum", b.Op("Add", ys[0], ys[2]), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const e1, e2, e3 = 0.36787944, 0.13533528, 0.04978707
	for _, c := range []struct {
		x    []float32
		want [5][]float32
	}{
		{[]float32{1, 2}, [5][]float32{{2, 4}, {1, 2}, {2, 4}, {7}, {4, 8}}},
		{[]float32{1, 2, 3}, [5][]float32{{e1, e2, e3}, {-1, -2, -3}, {e1, e2, e3}, {1, 2, 3}, {2 * e1, 2 * e2, 2 * e3}}},
		{[]float32{1}, [5][]float32{{-1}, {-1}, {1}, {1}, {0}}},
	} {
		for range 2 { // in one frame
			in := tensor.New(c.x, len(c.x))
			out, err := s.Run(context.Background(), map[string]tensor.Value{"x": in})
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"a", "b", "c", "d", "sum"} {
				if _, _, err := tensor.Compare(out[name], tensor.New(c.want[i], len(c.want[i])), 1e-6, 0); err != nil {
					t.Errorf("x %v: %s: %v", c.x, name, err)
				}
				for k := range tensor.Data[float32](out[name].(*tensor.Tensor)) { // outputs are the caller's
					tensor.Data[float32](out[name].(*tensor.Tensor))[k] = 99
				}
			}
		}
	}
}

// A script squeezes an axis where its size is 1 and else leaves it: that the branch with the Squeeze does not fit is no fault while it
// is not taken, also in a loop, where nothing is put in the If's place; if it is taken, its run says what is wrong.
func TestBranchThatDoesNotFit(t *testing.T) {
	for _, size := range []int{1, 5} {
		b := onnx.NewBuilder("squeeze", 17)
		x := b.Input("x", tensor.Float32, 2, size)
		wrong := b.Input("wrong", tensor.Bool)
		body := b.Sub("body")
		body.Input("i", tensor.Int64)
		body.OutputOf("on", body.Op("Identity", body.Input("cond", tensor.Bool)), nil)
		y := body.Op("Tanh", x)
		one := body.Op("Equal", body.Op("Gather", body.Op("Shape", y), body.Const(tensor.Scalar(int64(1)))), body.Const(tensor.Scalar(int64(1))))
		then, other := b.Sub("then"), b.Sub("else")
		then.OutputOf("squeezed", then.Op("Squeeze", y, then.Const(tensor.New([]int64{1}, 1))), nil)
		other.OutputOf("left", other.Op("Identity", y), nil)
		branches := []*onnx.Attribute{onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph())}
		body.OutputOf("y", body.Node("If", []*onnx.Value{body.Op("Or", one, wrong)}, branches...), nil)
		b.OutputOf("ys", b.Node("Loop", []*onnx.Value{b.Const(tensor.Scalar(int64(2))), nil}, onnx.GraphAttr("body", body.Graph())), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		s, err := runtime.NewSession(m)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		run := func(wrong bool) (map[string]tensor.Value, error) {
			return s.Run(context.Background(), map[string]tensor.Value{"x": tensor.New(make([]float32, 2*size), 2, size), "wrong": tensor.Scalar(wrong)})
		}
		out, err := run(false)
		if err != nil {
			t.Fatal(err)
		}
		want := []int{2, 2, size}
		if size == 1 {
			want = want[:2]
		}
		if got := out["ys"].(*tensor.Tensor).Shape(); !slices.Equal(got, want) {
			t.Errorf("size %d: shape %v, want %v", size, got, want)
		}
		if _, err := run(true); (err == nil) != (size == 1) || err != nil && !strings.Contains(err.Error(), "(Squeeze): dimension 1 of [2 5] is not 1") {
			t.Errorf("size %d: the branch that does not fit is taken: %v", size, err)
		}
	}
}
