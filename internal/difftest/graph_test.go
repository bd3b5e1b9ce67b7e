package difftest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

var graphs = flag.Int("graphs", 300, "random graphs of many operators")

// weaver makes a graph of many nodes on float32s of known shapes.
type weaver struct {
	*gen
	values []*onnx.Value
	shapes map[*onnx.Value][]int
	used   map[*onnx.Value]bool
	ops    []string
}

func (w *weaver) add(v *onnx.Value, shape ...int) *onnx.Value {
	w.values, w.shapes[v] = append(w.values, v), shape
	return v
}

// pick is a value made so far, one that nothing reads yet rather than others.
func (w *weaver) pick(ok func(shape []int) bool) *onnx.Value {
	var fresh, all []*onnx.Value
	for _, v := range w.values {
		if ok(w.shapes[v]) {
			if all = append(all, v); !w.used[v] {
				fresh = append(fresh, v)
			}
		}
	}
	if len(fresh) > 0 && !w.chance(4) {
		all = fresh
	}
	if len(all) == 0 {
		return nil
	}
	v := one(w.gen, all...)
	w.used[v] = true
	return v
}

func (w *weaver) weight(scale float64, shape ...int) *onnx.Value {
	t, _ := tensor.Zeros(tensor.Float32, shape...)
	for i := range t.Len() {
		tensor.SetFloat64At(t, i, scale*w.NormFloat64())
	}
	return w.b.Const(t)
}

func (w *weaver) op(name string, attrs []*onnx.Attribute, in ...*onnx.Value) *onnx.Value {
	w.ops = append(w.ops, name)
	return w.b.Node(name, in, attrs...)
}

// step adds an operator or a group of them as exporters write it.
func (w *weaver) step() {
	type attrs = []*onnx.Attribute
	any := func([]int) bool { return true }
	rank := func(n int) func([]int) bool { return func(s []int) bool { return len(s) == n } }
	ints, i := onnx.IntsAttr, onnx.IntAttr
	switch w.in(0, 15) {
	case 0, 1: // pointwise
		x := w.pick(any)
		w.add(w.op(one(w.gen, "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Softplus", "Elu", "LeakyRelu", "HardSwish", "Erf", "Identity", "Exp"), nil, w.op("Tanh", nil, x)), w.shapes[x]...)
	case 2, 3: // two of one shape
		x := w.pick(any)
		y := w.pick(func(s []int) bool { return slices.Equal(s, w.shapes[x]) })
		w.add(w.op(one(w.gen, "Add", "Mul", "Sub", "Max"), nil, x, y), w.shapes[x]...)
	case 4: // by a row
		x := w.pick(func(s []int) bool { return len(s) > 0 })
		s := w.shapes[x]
		w.add(w.op(one(w.gen, "Add", "Mul"), nil, x, w.weight(1, s[len(s)-1])), s...)
	case 5, 6: // linear, with or without a bias and an activation
		x := w.pick(func(s []int) bool { return len(s) >= 2 && len(s) <= 3 })
		if x == nil {
			return
		}
		s, n := slices.Clone(w.shapes[x]), w.in(1, 20)
		k := s[len(s)-1]
		y := w.op("MatMul", nil, x, w.weight(0.4, k, n))
		if w.chance(2) {
			y = w.op("Add", nil, y, w.weight(1, n))
		}
		s[len(s)-1] = n
		if w.chance(3) {
			y = w.op("Relu", nil, y)
		}
		w.add(y, s...)
	case 7: // conv, batch norm, activation
		x := w.pick(rank(4))
		if x == nil {
			return
		}
		s, m := w.shapes[x], 4*w.in(1, 3)
		k := one(w.gen, 1, 3)
		y := w.op("Conv", attrs{ints("pads", int64(k/2), int64(k/2), int64(k/2), int64(k/2))}, x, w.weight(0.3, m, s[1], k, k), w.weight(1, m))
		if w.chance(2) {
			v := w.b.Op("Abs", w.weight(1, m))
			y = w.op("BatchNormalization", nil, y, w.weight(1, m), w.weight(1, m), w.weight(0.2, m), w.b.Op("Add", v, w.b.Const(tensor.Scalar(float32(0.5)))))
		}
		if w.chance(2) {
			y = w.op(one(w.gen, "Relu", "Sigmoid", "HardSwish"), nil, y)
		}
		w.add(y, s[0], m, s[2], s[3])
	case 8: // pool
		x := w.pick(func(s []int) bool { return len(s) == 4 && s[2] > 3 && s[3] > 3 })
		if x == nil {
			return
		}
		s := w.shapes[x]
		w.add(w.op(one(w.gen, "MaxPool", "AveragePool"), attrs{ints("kernel_shape", 2, 2), ints("strides", 2, 2)}, x), s[0], s[1], s[2]/2, s[3]/2)
	case 9: // transpose
		x := w.pick(any)
		s := w.shapes[x]
		perm := w.Perm(len(s))
		var p []int64
		var out []int
		for _, a := range perm {
			p, out = append(p, int64(a)), append(out, s[a])
		}
		w.add(w.op("Transpose", attrs{ints("perm", p...)}, x), out...)
	case 10: // reshape
		x := w.pick(func(s []int) bool { return len(s) >= 2 })
		s := w.shapes[x]
		out := append([]int{s[0] * s[1]}, s[2:]...)
		if w.chance(2) {
			out = append(slices.Clone(s), 1)
		}
		var dims []int64
		for _, d := range out {
			dims = append(dims, int64(d))
		}
		w.add(w.op("Reshape", nil, x, w.b.Const(tensor.New(dims, len(dims)))), out...)
	case 11: // split and joined again, otherwise
		x := w.pick(func(s []int) bool { return len(s) > 0 && s[len(s)-1]%2 == 0 })
		if x == nil {
			return
		}
		s := w.shapes[x]
		w.ops = append(w.ops, "Split")
		h := w.b.Multi("Split", 2, []*onnx.Value{x}, i("axis", -1), i("num_outputs", 2))
		w.add(w.op("Concat", attrs{i("axis", -1)}, h[1], w.op("Sigmoid", nil, h[0])), s...)
	case 12: // softmax
		x := w.pick(any)
		if len(w.shapes[x]) > 0 {
			w.add(w.op("Softmax", attrs{i("axis", -1)}, x), w.shapes[x]...)
		}
	case 13: // layer norm, or its parts
		x := w.pick(func(s []int) bool { return len(s) > 1 && s[len(s)-1] > 2 })
		if x == nil {
			return
		}
		s := w.shapes[x]
		n := s[len(s)-1]
		if w.chance(2) {
			w.add(w.op("LayerNormalization", attrs{i("axis", -1)}, x, w.weight(1, n), w.weight(1, n)), s...)
			return
		}
		last := w.b.Const(tensor.New([]int64{-1}, 1))
		d := w.op("Sub", nil, x, w.b.Node("ReduceMean", []*onnx.Value{x, last}))
		v := w.b.Node("ReduceMean", []*onnx.Value{w.b.Op("Mul", d, d), last})
		w.add(w.op("Div", nil, d, w.b.Op("Sqrt", w.b.Op("Add", v, w.b.Const(tensor.Scalar(float32(1e-5)))))), s...)
	case 14: // gelu by its parts, swish
		x := w.pick(any)
		scalar := func(f float32) *onnx.Value { return w.b.Const(tensor.Scalar(f)) }
		if w.chance(2) {
			w.add(w.op("Mul", nil, x, w.b.Op("Sigmoid", x)), w.shapes[x]...)
			return
		}
		e := w.b.Op("Add", w.b.Op("Erf", w.b.Op("Div", x, scalar(1.4142135))), scalar(1))
		w.add(w.op("Mul", nil, w.b.Op("Mul", x, e), scalar(0.5)), w.shapes[x]...)
	default: // attention of a sequence to itself
		x := w.pick(rank(3))
		if x == nil {
			return
		}
		s := w.shapes[x]
		q, k, v := w.op("MatMul", nil, x, w.weight(0.4, s[2], 8)), w.op("MatMul", nil, x, w.weight(0.4, s[2], 8)), w.op("MatMul", nil, x, w.weight(0.4, s[2], 8))
		heads := func(v *onnx.Value) *onnx.Value {
			return w.b.Node("Transpose", []*onnx.Value{w.b.Op("Reshape", v, w.b.Const(tensor.New([]int64{0, 0, 2, 4}, 4)))}, ints("perm", 0, 2, 1, 3))
		}
		scores := w.op("MatMul", nil, heads(q), w.b.Node("Transpose", []*onnx.Value{heads(k)}, ints("perm", 0, 1, 3, 2)))
		p := w.op("Softmax", attrs{i("axis", -1)}, w.b.Op("Div", scores, w.b.Const(tensor.Scalar(float32(2)))))
		y := w.b.Node("Transpose", []*onnx.Value{w.b.Op("MatMul", p, heads(v))}, ints("perm", 0, 2, 1, 3))
		w.add(w.op("Reshape", nil, y, w.b.Const(tensor.New([]int64{0, 0, 8}, 3))), s[0], s[1], 8)
	}
}

// TestRandomGraphs compares whole graphs, which both sides rewrite before they run them.
func TestRandomGraphs(t *testing.T) {
	p := newPeer(t)
	failed := 0
	for n := range *graphs {
		w := &weaver{gen: &gen{Rand: rand.New(rand.NewPCG(*seed, uint64(n))), feeds: map[string]*tensor.Tensor{}, declared: true, plain: true, dtype: tensor.Float32},
			shapes: map[*onnx.Value][]int{}, used: map[*onnx.Value]bool{}}
		w.b = onnx.NewBuilder("graph", 18)
		for range w.in(1, 3) {
			s := one(w.gen, []int{2, 6}, []int{2, 3, 8}, []int{1, 4, 9, 8}, []int{2, 8, 7, 7})
			x, _ := tensor.Zeros(tensor.Float32, s...)
			for i := range x.Len() {
				tensor.SetFloat64At(x, i, w.NormFloat64())
			}
			w.add(w.input(x), s...)
		}
		for range w.in(3, 14) {
			w.step()
		}
		outs := 0
		for _, v := range w.values {
			if !w.used[v] && v.Def() != nil {
				w.b.OutputOf(fmt.Sprint("y", outs), v, nil)
				outs++
			}
		}
		if outs == 0 {
			continue
		}
		m, err := w.b.Model()
		if err != nil {
			t.Fatalf("graph %d: %v", n, err)
		}
		data, err := onnx.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		c := &testCase{model: m, data: data, feeds: w.feeds}
		theirs, refusal := p.run(data, w.feeds, nil)
		ours, err := c.run()
		if refusal != nil {
			t.Errorf("graph %d: ONNX Runtime: %v", n, refusal)
			continue
		}
		for name, want := range theirs {
			if err == nil {
				_, _, err = tensor.Compare(ours[name], want, 5e-4, 2e-4) // norms magnify what convolutions round
			}
		}
		if err != nil {
			if failed++; failed <= *shown {
				t.Errorf("graph %d: %v\n  %s", n, err, strings.Join(w.ops, " "))
			}
		}
	}
	t.Logf("%d graphs, %d differ", *graphs, failed)
}
