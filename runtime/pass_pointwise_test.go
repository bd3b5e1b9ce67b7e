package runtime_test

import (
	"bytes"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

func TestChainsAreFound(t *testing.T) {
	type graph = func(b *onnx.Builder, x *onnx.Value) *onnx.Value
	for name, c := range map[string]struct {
		shape []int
		runs  string
		graph graph
	}{
		"a chain": {[]int{3, 5, 700}, "Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Sqrt", b.Op("Abs", b.Op("Sub", number(b, 3), b.Op("Tanh", b.Op("Mul", x, number(b, 0.3))))))
		}},
		"a tree with a value read twice": {[]int{2, 5000}, "Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Neg", b.Op("Add", x, number(b, 1)))
			return b.Op("Max", b.Op("Mul", b.Op("Exp", y), y), b.Op("Div", b.Op("Clip", y, number(b, -1), number(b, 1)), b.Op("Softplus", x)))
		}},
		"operators with attributes, by way of float64 too": {[]int{3, 900}, "Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Node("Elu", []*onnx.Value{b.Op("Sin", x)}, onnx.FloatAttr("alpha", 0.7))
			z := b.Node("HardSigmoid", []*onnx.Value{y}, onnx.FloatAttr("alpha", 0.3), onnx.FloatAttr("beta", 0.6))
			return b.Op("Round", b.Op("Sum", b.Node("LeakyRelu", []*onnx.Value{z}, onnx.FloatAttr("alpha", 0.2)), b.Op("Mul", y, number(b, 9))))
		}},
		"rotation by tables": {[]int{2, 3, 70, 8}, "Concat Neg Pointwise Slice Slice", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			half := func(from, to int64) *onnx.Value {
				at := func(i int64) *onnx.Value { return b.Const(tensor.New([]int64{i}, 1)) }
				return b.Op("Slice", x, at(from), at(to), at(-1))
			}
			turned := b.Node("Concat", []*onnx.Value{b.Op("Neg", half(4, 8)), half(0, 4)}, onnx.IntAttr("axis", -1))
			return b.Op("Add", b.Op("Mul", x, b.Const(random(70, 8))), b.Op("Mul", turned, b.Const(random(1, 1, 70, 8))))
		}},
		"rows, columns and channels": {[]int{4, 6, 30}, "Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Mul", b.Op("Add", x, b.Const(random(30))), b.Const(random(4, 1, 1)))
			return b.Op("Relu", b.Op("Sub", b.Op("Add", b.Const(random(6, 1)), y), b.Const(random(4, 6, 1))))
		}},
		"long rows": {[]int{4, 3, 1500}, "Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Add", x, b.Const(random(3, 1500))), b.Const(random(1500)))
		}},
		"an operand with a gap stays": {[]int{4, 6, 30}, "Add Relu", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Relu", b.Op("Add", x, b.Const(random(4, 1, 30))))
		}},
		"a result of another shape than what it hangs on": {[]int{5, 1}, "Pointwise Pointwise", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Exp", b.Op("Neg", x))
			return b.Op("Sqrt", b.Op("Abs", b.Op("Mul", y, b.Const(random(5, 7)))))
		}},
		"integers stay": {[]int{5}, "Add Cast Cast Mul", func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			i := b.Node("Cast", []*onnx.Value{x}, onnx.IntAttr("to", int64(tensor.Int32)))
			two := b.Const(tensor.New([]int32{2}, 1))
			return b.Node("Cast", []*onnx.Value{b.Op("Add", b.Op("Mul", i, two), two)}, onnx.IntAttr("to", int64(tensor.Float32)))
		}},
		"a single operator stays": {[]int{5}, "Neg", func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Neg", x) }},
	} {
		t.Run(name, func(t *testing.T) {
			pattern{17, c.shape, c.graph, c.runs}.find(t)
			// Bit for bit, on any number of threads.
			b := onnx.NewBuilder("chain", 17)
			var dims []any
			for _, d := range c.shape {
				dims = append(dims, d)
			}
			b.OutputOf("y", c.graph(b, b.Input("x", tensor.Float32, dims...)), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			in := map[string]tensor.Value{"x": random(c.shape...)}
			want := runWith(t, m, in, runtime.WithoutPass("pointwise"))["y"].(*tensor.Tensor)
			for threads := 1; threads <= 3; threads++ {
				got := runWith(t, m, in, runtime.Threads(threads))["y"].(*tensor.Tensor)
				if !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%d threads: not the same bits", threads)
				}
			}
		})
	}
	// What is read elsewhere, or leaves the graph, is computed for itself.
	b := onnx.NewBuilder("outputs", 17)
	x := b.Input("x", tensor.Float32, 4)
	y := b.Op("Exp", b.Op("Neg", x))
	b.OutputOf("y", y, nil)
	b.OutputOf("z", b.Op("Add", b.Op("Abs", y), x), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	finds(t, m, map[string]tensor.Value{"x": random(4)}, "Pointwise Pointwise")
}
