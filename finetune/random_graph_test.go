package finetune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// weaver makes a random graph of smooth operators on float64 matrices, with branches and loops.
type weaver struct {
	*rand.Rand
	b      *onnx.Builder
	values []*onnx.Value
	shapes map[*onnx.Value][2]int
	read   map[*onnx.Value]bool
	depth  int
	told   []string
	next   *int
}

func (w *weaver) name(s string) string {
	*w.next++
	return fmt.Sprint(s, *w.next)
}

func (w *weaver) add(op string, v *onnx.Value, rows, cols int) {
	w.values, w.shapes[v] = append(w.values, v), [2]int{rows, cols}
	w.told = append(w.told, op)
}

func (w *weaver) pick() (*onnx.Value, int, int) {
	v := w.values[w.IntN(len(w.values))]
	w.read[v] = true
	return v, w.shapes[v][0], w.shapes[v][1]
}

// like is a value of that shape: another one, or a constant.
func (w *weaver) like(rows, cols int) *onnx.Value {
	var vs []*onnx.Value
	for _, v := range w.values {
		if w.shapes[v] == [2]int{rows, cols} {
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 || w.IntN(4) == 0 {
		return w.constant(rows, cols)
	}
	v := vs[w.IntN(len(vs))]
	w.read[v] = true
	return v
}

func (w *weaver) constant(rows, cols int) *onnx.Value {
	t, _ := tensor.Zeros(tensor.Float64, rows, cols)
	for i := range t.Len() {
		tensor.SetFloat64At(t, i, w.NormFloat64())
	}
	return w.b.Const(t)
}

// inside is a weaver for a subgraph, which reads what is around it.
func (w *weaver) inside(name string) *weaver {
	in := *w
	in.b, in.depth, in.told = w.b.Sub(w.name(name)), w.depth+1, nil
	in.values = slices.Clone(w.values)
	return &in
}

// last is a value of that shape that hangs on what a subgraph has made.
func (w *weaver) last(rows, cols int) *onnx.Value {
	v := w.values[len(w.values)-1]
	s := w.shapes[v]
	v = w.b.Op("MatMul", w.b.Op("MatMul", w.constant(rows, s[0]), v), w.constant(s[1], cols))
	return w.b.Op("Tanh", v)
}

func (w *weaver) step() {
	type values = []*onnx.Value
	x, r, c := w.pick()
	ints := func(v ...int64) *onnx.Value { return w.b.Const(tensor.New(v, len(v))) }
	scalar := func(v int64) *onnx.Value { return w.b.Const(tensor.Scalar(v)) }
	choices := 17
	if w.depth < 2 {
		choices = 21
	}
	switch w.IntN(choices) {
	case 0, 1:
		op := []string{"Tanh", "Sin", "Sigmoid", "Softplus", "Erf", "Atan", "Mish", "Cos", "Gelu", "Softsign"}[w.IntN(10)]
		w.add(op, w.b.Op(op, x), r, c)
	case 2, 3:
		op := []string{"Add", "Mul", "Sub"}[w.IntN(3)]
		w.add(op, w.b.Op(op, x, w.like(r, c)), r, c)
	case 4:
		w.add("Mul by a row", w.b.Op("Mul", x, w.like(1, c)), r, c)
	case 5:
		n := 1 + w.IntN(4)
		w.add("MatMul", w.b.Op("MatMul", x, w.like(c, n)), r, n)
	case 6:
		w.add("Gemm", w.b.Node("Gemm", values{x, w.like(r, 3), w.like(1, 3)}, onnx.IntAttr("transA", 1), onnx.FloatAttr("alpha", 0.5)), c, 3)
	case 7:
		w.add("Softmax", w.b.Node("Softmax", values{x}, onnx.IntAttr("axis", int64(w.IntN(2)))), r, c)
	case 8:
		w.add("Transpose", w.b.Op("Transpose", x), c, r)
	case 9:
		w.add("Concat", w.b.Node("Concat", values{x, w.like(r, c)}, onnx.IntAttr("axis", 0)), 2*r, c)
	case 10:
		if r < 2 {
			return
		}
		w.add("Slice", w.b.Op("Slice", x, ints(int64(w.IntN(r-1))), ints(int64(r)), ints(0)), 0, c)
		v := w.values[len(w.values)-1]
		w.values = w.values[:len(w.values)-1]
		w.add("ReduceMean", w.b.Node("ReduceMean", values{v, ints(0)}), 1, c)
	case 11:
		w.add("CumSum", w.b.Op("CumSum", x, scalar(int64(w.IntN(2)))), r, c)
	case 12:
		if c > 1 {
			w.add("LayerNormalization", w.b.Op("LayerNormalization", x, w.like(1, c), w.like(1, c)), r, c)
		}
	case 13:
		n := 1 + w.IntN(3)
		w.add("Einsum", w.b.Node("Einsum", values{x, w.like(n, c)}, onnx.StringAttr("equation", "ij,kj->ik")), r, n)
	case 14:
		w.add("ReduceLogSumExp", w.b.Op("ReduceLogSumExp", x, ints(1)), r, 1)
	case 15:
		w.add("Pad", w.b.Node("Pad", values{x, ints(0, 1, 0, 0)}, onnx.StringAttr("mode", []string{"constant", "edge"}[w.IntN(2)])), r, c+1)
	case 16:
		w.add("Gather", w.b.Op("Gather", x, ints(int64(w.IntN(r)), 0, -1)), 3, c)
	case 17, 18, 19: // a branch by whether the sum of something is positive
		cond := w.b.Op("Greater", w.b.Node("ReduceSum", values{x}, onnx.IntAttr("keepdims", 0)), w.b.Const(tensor.Scalar(0.0)))
		var bodies []*onnx.Graph
		for _, name := range []string{"then", "else"} {
			in := w.inside(name)
			for range 1 + w.IntN(3) {
				in.step()
			}
			y := in.last(2, 3)
			in.b.OutputOf(w.name(name+"_out"), y, nil)
			bodies = append(bodies, in.b.Graph())
			w.told = append(w.told, fmt.Sprintf("%s(%s)", name, strings.Join(in.told, " ")))
		}
		w.add("If", w.b.Node("If", values{cond}, onnx.GraphAttr("then_branch", bodies[0]), onnx.GraphAttr("else_branch", bodies[1])), 2, 3)
	default: // a few rounds of a loop that keeps a state
		in := w.inside("body")
		in.b.Input(w.name("i"), tensor.Int64)
		more := in.b.Input(w.name("more"), tensor.Bool)
		state := in.b.Input(w.name("state"), tensor.Float64, r, c)
		in.add("", state, r, c)
		for range 1 + w.IntN(3) {
			in.step()
		}
		y := in.b.Op("Add", in.last(r, c), in.b.Op("Sin", state))
		in.b.OutputOf(w.name("go"), in.b.Op("Identity", more), nil)
		in.b.OutputOf(w.name("state_out"), y, nil)
		w.told = append(w.told, fmt.Sprintf("loop(%s)", strings.Join(in.told, " ")))
		w.add("Loop", w.b.Node("Loop", values{scalar(int64(1 + w.IntN(3))), w.b.Const(tensor.Scalar(true)), x}, onnx.GraphAttr("body", in.b.Graph())), r, c)
	}
}

// The gradients of random graphs are the slopes of their losses, by the chain rule through whatever stands beside what.
func TestGradientsOfRandomGraphs(t *testing.T) {
	for n := range 120 {
		w := &weaver{Rand: rand.New(rand.NewPCG(5, uint64(n))), b: onnx.NewBuilder("random", 21), shapes: map[*onnx.Value][2]int{}, read: map[*onnx.Value]bool{}, next: new(int)}
		inputs := map[string]tensor.Value{}
		for i, s := range [][2]int{{2, 3}, {3, 2}, {1, 3}} {
			name := fmt.Sprint("x", i)
			w.add(name, w.b.Input(name, tensor.Float64, s[0], s[1]), s[0], s[1])
			x, _ := tensor.Zeros(tensor.Float64, s[0], s[1])
			for j := range x.Len() {
				tensor.SetFloat64At(x, j, w.NormFloat64())
			}
			inputs[name] = x
		}
		wrt := slices.Clone(w.values)
		for range 4 + w.IntN(9) {
			w.step()
		}
		// Two losses, of what nothing reads, and their sum.
		var losses []*onnx.Value
		for _, v := range w.values[3:] {
			if w.read[v] {
				continue
			}
			s := w.shapes[v]
			part := w.b.Node("ReduceSum", []*onnx.Value{w.b.Op("Mul", w.b.Op("Tanh", v), w.constant(s[0], s[1]))}, onnx.IntAttr("keepdims", 0))
			if len(losses) < 2 {
				losses = append(losses, part)
			} else {
				losses[1] = w.b.Op("Add", losses[1], part)
			}
		}
		if len(losses) == 0 {
			continue
		}
		if len(losses) == 2 {
			losses = append(losses, w.b.Op("Add", losses[0], losses[1]))
		}
		for i, l := range losses {
			w.b.OutputOf(fmt.Sprint("loss", i), l, nil)
		}
		m, err := w.b.Model()
		if err != nil {
			t.Fatalf("graph %d: %v", n, err)
		}
		var got [][]*tensor.Tensor // of each loss by each input
		for i := range losses {
			g, err := gradientsOf(m, i, len(wrt), inputs)
			if err != nil {
				t.Fatalf("graph %d (%s): %v", n, strings.Join(w.told, " "), err)
			}
			got = append(got, g)
		}
		for k, v := range wrt {
			x := inputs[v.Name].(*tensor.Tensor)
			for j := range x.Len() {
				if len(losses) == 3 {
					sum := tensor.Float64At(got[0][k], j) + tensor.Float64At(got[1][k], j)
					if whole := tensor.Float64At(got[2][k], j); !(math.Abs(sum-whole) <= 1e-10*(1+math.Abs(sum))) {
						t.Fatalf("graph %d (%s): the gradient of a sum is %g, the sum of gradients %g", n, strings.Join(w.told, " "), whole, sum)
					}
				}
				const h = 1e-5
				old := tensor.Float64At(x, j)
				at := func(to float64) float64 {
					tensor.SetFloat64At(x, j, to)
					out, err := runOnce(m, inputs)
					if err != nil {
						t.Fatal(err)
					}
					return tensor.Float64At(out["loss0"].(*tensor.Tensor), 0)
				}
				slope := (at(old+h) - at(old-h)) / (2 * h)
				tensor.SetFloat64At(x, j, old)
				if have := tensor.Float64At(got[0][k], j); !(math.Abs(have-slope) <= 1e-5*(1+math.Abs(slope))) {
					t.Fatalf("graph %d (%s): gradient of %s[%d] is %g, by differences %g", n, strings.Join(w.told, " "), v.Name, j, have, slope)
				}
			}
		}
	}
}

// gradientsOf is the gradients of output i of m by its first inputs; zeros where it does not hang on one.
func gradientsOf(m *onnx.Model, i, count int, inputs map[string]tensor.Value) ([]*tensor.Tensor, error) {
	m = m.Clone()
	loss, wrt := m.Graph.Outputs[i], m.Graph.Inputs[:count]
	m.Graph.Outputs = []*onnx.Value{loss}
	grads, err := Gradient(m, loss, wrt)
	if err != nil {
		return nil, err
	}
	for _, v := range wrt {
		if d := grads[v]; d != nil && !slices.Contains(m.Graph.Outputs, d) {
			m.Graph.Outputs = append(m.Graph.Outputs, d)
		}
	}
	values, err := runOnce(m, inputs)
	if err != nil {
		return nil, err
	}
	var out []*tensor.Tensor
	for _, v := range wrt {
		d, _ := tensor.Zeros(tensor.Float64, inputs[v.Name].(*tensor.Tensor).Shape()...)
		if g := grads[v]; g != nil {
			d = values[g.Name].(*tensor.Tensor)
		}
		out = append(out, d)
	}
	return out, nil
}
