package ops_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// TestHostileGradients takes gradients through every operator with attributes, shapes, types and indices that nobody vouches for.
func TestHostileGradients(t *testing.T) {
	everyOperator(t, "gradients", differentiates)
}

func FuzzHostileGradients(f *testing.F) { fuzzOperators(f, differentiates) }

// differentiates takes the gradient of a hostile node's first output and reports whether there is one; else it is an error, no panic, in
// bounded time and memory. Gradients have the shapes of what they are gradients of.
func differentiates(tb testing.TB, op *ops.Op, since int, d *dice, table map[string]map[string]attrKind) bool {
	m, args := d.hostile(op, since, table)
	if len(m.Graph.Outputs) == 0 {
		return false
	}
	var grads map[string]*tensor.Tensor
	err := bounded(tb, m, args, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		grads, err = finetune.OutputGradients(ctx, m, args, m.Graph.Outputs[0].Name, false, false, runtime.Threads(1), runtime.MemoryLimit(16<<20))
		return err
	})
	for name, g := range grads {
		x, _ := args[name].(*tensor.Tensor)
		for _, v := range m.Graph.Inits {
			if v.Name == name {
				x = v.Const
			}
		}
		if x == nil || g.DType() != x.DType() || !slices.Equal(g.Shape(), x.Shape()) {
			tb.Errorf("the gradient of %s is of %s\n%s", name, g, told(m, args))
		}
	}
	return err == nil
}

// TestOnceFatalGraphs is what random graphs have found.
func TestOnceFatalGraphs(t *testing.T) {
	seven := tensor.New([]float32{1, 2, 3, 4, 5, 6, 7, 7})
	b := onnx.NewBuilder("as many as are known only when it runs", 21)
	x := b.Input("x", tensor.Float32, 8)
	b.OutputOf("y", b.Op("Sub", b.Op("Unique", x), x), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runHostile(m, map[string]tensor.Value{"x": seven}, 1); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("seven less eight: want an error that is no panic, got %v", err)
	}

	b = onnx.NewBuilder("no channels", 21)
	none, _ := tensor.Zeros(tensor.Float32, 1, 0, 2, 2)
	w, _ := tensor.Zeros(tensor.Float32, 3, 0, 1, 1)
	b.OutputOf("y", b.Op("Conv", b.Input("x", tensor.Float32, 1, 0, 2, 2), b.Const(w), b.Const(tensor.New([]float32{1, 2, 3}))), nil)
	if m, err = b.Model(); err != nil {
		t.Fatal(err)
	}
	got, err := runHostile(m, map[string]tensor.Value{"x": none}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if y := tensor.Data[float32](got["y"].(*tensor.Tensor)); !slices.Equal(y, []float32{1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}) {
		t.Errorf("a convolution of no channels gives %v, not its bias", y)
	}

	// A scan of no steps has the shape that its body and its axes say.
	b = onnx.NewBuilder("no steps", 21)
	body := b.Sub("body")
	e := body.Input("e", tensor.Float32, 2)
	body.Output("o", body.Op("Neg", e), tensor.Float32, 2)
	b.OutputOf("y", b.Node("Scan", []*onnx.Value{b.Input("x", tensor.Float32, "n", 2)}, onnx.GraphAttr("body", body.Graph()), onnx.IntAttr("num_scan_inputs", 1),
		onnx.IntsAttr("scan_output_axes", 1)), nil)
	if m, err = b.Model(); err != nil {
		t.Fatal(err)
	}
	none, _ = tensor.Zeros(tensor.Float32, 0, 2)
	if got, err = runHostile(m, map[string]tensor.Value{"x": none}, 1); err != nil {
		t.Fatal(err)
	}
	if y := got["y"].(*tensor.Tensor); !slices.Equal(y.Shape(), []int{2, 0}) {
		t.Errorf("a scan of no steps gives %s, not [2,0]", y)
	}
}

// bounded calls f, which works on m: it must come back in time, without a panic, and without much memory.
func bounded(tb testing.TB, m *onnx.Model, args map[string]tensor.Value, f func() error) error {
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("panic outside a run: %v\n%s", r, debug.Stack())
			}
		}()
		done <- f()
	}()
	var err error
	select {
	case err = <-done:
	case <-time.After(10 * time.Second):
		tb.Fatalf("no answer in 10 s\n%s", told(m, args))
	}
	goruntime.ReadMemStats(&after)
	loops := slices.ContainsFunc(m.Graph.Nodes, func(n *onnx.Node) bool { return len(n.Graphs()) > 0 })
	if used := after.TotalAlloc - before.TotalAlloc; used > 400<<20 && !loops { // what a loop drops counts too
		tb.Errorf("%d MiB were allocated under a limit of 16 (and of what is folded)\n%s", used>>20, told(m, args))
	}
	if err != nil && strings.Contains(err.Error(), "panic") {
		tb.Errorf("%v\n%s", err, told(m, args))
	}
	return err
}

// TestPassesKeepAnswers runs random graphs, of what passes look for and of much else, with all passes, with none, and without each of
// them.
func TestPassesKeepAnswers(t *testing.T) {
	table, answers := attrTable(t), 0
	for k := range 30 * *hostileRounds {
		if keeps(t, seeded("graphs", k), table) {
			answers++
		}
	}
	t.Logf("%d graphs give an answer", answers)
}

func FuzzPasses(f *testing.F) {
	table := attrTable(f)
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, data []byte) { keeps(t, newDice(data), table) })
}

// keeps reports whether a random graph gives an answer, which must not hang on passes.
func keeps(tb testing.TB, d *dice, table map[string]map[string]attrKind) bool {
	m, args := d.woven(table)
	type result struct {
		got map[string]tensor.Value
		err error
	}
	run := func(opts ...runtime.Option) (r result) {
		r.err = bounded(tb, m, args, func() (err error) {
			r.got, err = runHostile(m, args, 1, opts...)
			return err
		})
		return r
	}
	plain := run(runtime.WithoutPass("all"))
	for _, without := range append([]string{""}, one(d, runtime.Passes()...)) {
		var opts []runtime.Option
		if without != "" {
			opts = append(opts, runtime.WithoutPass(without))
		}
		r := run(opts...)
		if (r.err == nil) != (plain.err == nil) {
			if !timed(r.err) && !timed(plain.err) {
				tb.Errorf("without passes: %v; without %q: %v\n%s", plain.err, without, r.err, told(m, args))
			}
			continue
		}
		for name, want := range plain.got {
			tol := 1e-3
			if t, ok := want.(*tensor.Tensor); ok && t.DType() == tensor.BFloat16 { // a step between two operators, or none, by which it is rounded
				tol = 0x1p-6
			}
			if _, _, err := tensor.Compare(r.got[name], want, tol, tol); err != nil && !d.unstable(m, args, name, plain.got, r.got) {
				tb.Errorf("without %q and without all: output %s: %v\n%s", without, name, err, told(m, args))
			}
		}
	}
	return plain.err == nil
}

// unstable reports whether an output moves as far as passes have moved it when the floats that go in are changed by their last bits: one that hangs
// on a quotient in the middle of two bytes does.
func (d *dice) unstable(m *onnx.Model, args map[string]tensor.Value, name string, want, got map[string]tensor.Value) bool {
	apart := func(a, b tensor.Value) (most float64) {
		x, isX := a.(*tensor.Tensor)
		y, isY := b.(*tensor.Tensor)
		if !isX || !isY || !x.DType().IsFloat() || x.DType() != y.DType() || !slices.Equal(x.Shape(), y.Shape()) {
			return math.Inf(1)
		}
		for i := range x.Len() {
			if v, w := tensor.Float64At(x, i), tensor.Float64At(y, i); v != w && (v == v || w == w) {
				most = max(most, math.Abs(v-w))
			}
		}
		return most
	}
	passes := apart(want[name], got[name])
	for range 12 {
		near, moved := m.Clone(), maps.Clone(args)
		nudged := func(v tensor.Value) *tensor.Tensor {
			t, ok := v.(*tensor.Tensor)
			if !ok || t.DType() != tensor.Float32 {
				return nil
			}
			t = t.Clone()
			for i, x := range tensor.Data[float32](t) {
				tensor.Data[float32](t)[i] = x * (1 + float32(d.r.IntN(5)-2)*0x1p-23)
			}
			return t
		}
		for k, v := range args {
			if t := nudged(v); t != nil {
				moved[k] = t
			}
		}
		for _, v := range near.Graph.Inits {
			if t := nudged(v.Const); t != nil {
				v.Const = t
			}
		}
		if out, err := runHostile(near, moved, 1, runtime.WithoutPass("all")); err == nil && apart(want[name], out[name]) >= passes/2 {
			return true
		}
	}
	return false
}

// timed reports whether err says that time or memory has run out, of which passes save some.
func timed(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "deadline") || strings.Contains(err.Error(), "memory limit"))
}

// weave is a graph in the making.
type weave struct {
	*dice
	g      *onnx.Graph
	args   map[string]tensor.Value
	values []*onnx.Value
	shapes map[*onnx.Value][]int // as far as they are known
	n      int
}

// woven is a graph of a few nodes: patterns that passes look for, with weights that may not suit them, and operators of any kind.
func (d *dice) woven(table map[string]map[string]attrKind) (*onnx.Model, map[string]tensor.Value) {
	w := &weave{dice: d, g: &onnx.Graph{Name: "woven"}, args: map[string]tensor.Value{}, shapes: map[*onnx.Value][]int{}}
	for i := range 1 + d.below(2) {
		s := one(d, []int{2, 8}, []int{2, 3, 8}, []int{1, 4, 5, 6}, []int{2, 16, 4, 4}, []int{1, 16, 7}, []int{8}, d.shape())
		x := w.floats(s)
		v := &onnx.Value{Name: fmt.Sprint("x", i), Type: onnx.TypeOfTensor(x)}
		if d.once(4) {
			v.Type = &onnx.Type{Elem: x.DType()}
		}
		w.g.Inputs, w.args[v.Name] = append(w.g.Inputs, v), x
		w.add(v, s)
	}
	for range 1 + d.below(4) {
		w.pattern(table)
	}
	used := map[*onnx.Value]bool{}
	for _, n := range w.g.Nodes {
		for _, v := range n.Inputs {
			used[v] = true
		}
	}
	for _, n := range w.g.Nodes {
		for _, v := range n.Outputs {
			if v != nil && (!used[v] || d.once(8)) {
				w.g.Outputs = append(w.g.Outputs, v)
			}
		}
	}
	return &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: 21}, {Domain: "com.microsoft", Version: 1}}, Graph: w.g}, w.args
}

func (w *weave) add(v *onnx.Value, shape []int) {
	w.values, w.shapes[v] = append(w.values, v), shape
}

// floats is a small tensor of small float32s.
func (w *weave) floats(shape []int) *tensor.Tensor {
	if n, err := tensor.NumElements(shape); err != nil || n > 1<<12 {
		shape = []int{2}
	}
	x, _ := tensor.Zeros(tensor.Float32, shape...)
	for i := range x.Len() {
		tensor.SetFloat64At(x, i, float64(w.r.IntN(17)-8)/8)
	}
	return x
}

// weight is a constant, or an input where passes must not see it, of that shape or, rarely, another one.
func (w *weave) weight(shape ...int) *onnx.Value {
	shape = slices.Clone(shape)
	switch {
	case w.once(12) && len(shape) > 0:
		shape[w.below(len(shape))] = one(w.dice, 1, 1, 0, 3)
	case w.once(12):
		shape = append([]int{1}, shape...)
	case w.once(20) && len(shape) > 0:
		shape = shape[1:]
	}
	return w.constant(w.floats(shape))
}

func (w *weave) constant(t *tensor.Tensor) *onnx.Value {
	w.n++
	name := fmt.Sprint("w", w.n)
	if w.once(12) {
		v := &onnx.Value{Name: name, Type: onnx.TypeOfTensor(t)}
		w.g.Inputs, w.args[name] = append(w.g.Inputs, v), t
		return v
	}
	return w.g.AddInit(name, t)
}

func (w *weave) scalar(x float32) *onnx.Value { return w.constant(tensor.Scalar(x)) }

func (w *weave) ints(v ...int64) *onnx.Value { return w.g.AddInit(w.name(), tensor.New(v, len(v))) }

func (w *weave) name() string {
	w.n++
	return fmt.Sprint("v", w.n)
}

func (w *weave) node(op string, in []*onnx.Value, attrs ...*onnx.Attribute) *onnx.Value {
	n := onnx.NewNode(op, in, w.name())
	n.Name, n.Attrs = n.Outputs[0].Name, attrs
	w.g.Nodes = append(w.g.Nodes, n)
	return n.Outputs[0]
}

func (w *weave) op(op string, in ...*onnx.Value) *onnx.Value { return w.node(op, in) }

// pattern adds one: what an exporter writes, mostly as it does.
func (w *weave) pattern(table map[string]map[string]attrKind) {
	x := w.values[w.below(len(w.values))]
	if w.below(4) > 0 {
		x = w.values[len(w.values)-1]
	}
	s := slices.Clone(w.shapes[x])
	r := len(s)
	last, channels := 1, 1
	if r > 0 {
		last = s[r-1]
	}
	if r > 1 {
		channels = s[1]
	}
	i, f, ints := onnx.IntAttr, onnx.FloatAttr, onnx.IntsAttr
	switch w.below(17) {
	case 0: // a convolution, batch norm and activation, and what came in added
		m, k := one(w.dice, channels, 16, 8, 3), one(w.dice, 1, 3, 2)
		spatial := max(r-2, 0)
		ws := []int{m, channels}
		var attrs []*onnx.Attribute
		if w.once(4) && m == channels {
			ws[1] = 1
			attrs = append(attrs, i("group", int64(channels)))
		}
		var pads, strides []int64
		for range spatial {
			ws, pads, strides = append(ws, k), append(pads, int64(k/2)), append(strides, int64(one(w.dice, 1, 1, 2, 3)))
		}
		attrs = append(attrs, ints("pads", append(pads, pads...)...))
		if w.once(3) {
			attrs = append(attrs, ints("strides", strides...))
		}
		in := []*onnx.Value{x, w.weight(ws...)}
		if w.once(2) {
			in = append(in, w.weight(m))
		}
		y := w.node("Conv", in, attrs...)
		if w.once(2) {
			y = w.node("BatchNormalization", []*onnx.Value{y, w.weight(m), w.weight(m), w.weight(m), w.op("Abs", w.weight(m))}, f("epsilon", 0.5))
		}
		if w.once(3) {
			y = w.op("Add", y, one(w.dice, x, w.values[0]))
		}
		y = w.activation(y)
		w.add(y, append(append(s[:min(1, r):min(1, r)], m), s[min(2, r):]...))
	case 1: // a linear layer
		n := one(w.dice, 8, 3, 16, last)
		var y *onnx.Value
		if w.once(3) && r == 2 {
			b := []int{last, n}
			trans := w.below(2)
			if trans == 1 {
				slices.Reverse(b)
			}
			y = w.node("Gemm", []*onnx.Value{x, w.weight(b...), w.weight(n)}, i("transB", int64(trans)), f("alpha", one(w.dice, float32(1), 0.5)), f("beta", one(w.dice, float32(1), 2)))
		} else {
			y = w.op("MatMul", x, w.weight(last, n))
			if w.once(2) {
				in := []*onnx.Value{y, w.weight(n)}
				if w.once(2) {
					slices.Reverse(in)
				}
				y = w.op("Add", in...)
			}
		}
		if w.once(3) {
			y = w.op("Add", y, w.values[w.below(len(w.values))])
		}
		y = w.activation(y)
		w.add(y, append(s[:max(r-1, 0)], n))
	case 2: // two products that are transposed
		y := w.node("Transpose", []*onnx.Value{x}, w.perm(r))
		a, b := x, y
		if w.once(2) {
			a, b = b, a
		}
		w.add(w.op("MatMul", a, b), s)
	case 3: // gelu by its parts
		c := w.scalar(one(w.dice, float32(1.4142135), 1.4142135, 2))
		e := w.op("Add", w.op("Erf", w.op("Div", x, c)), w.scalar(1))
		y := w.op("Mul", w.op("Mul", x, e), w.scalar(0.5))
		if w.once(2) {
			y = w.op("Mul", w.op("Mul", x, w.scalar(0.5)), e)
		}
		w.add(y, s)
	case 4:
		w.add(w.op("Mul", x, w.op("Sigmoid", x)), s)
	case 5: // a pool
		var k, strides []int64
		for range max(r-2, 0) {
			k, strides = append(k, int64(one(w.dice, 2, 3, 1))), append(strides, int64(one(w.dice, 1, 2)))
		}
		y := w.node(one(w.dice, "MaxPool", "AveragePool"), []*onnx.Value{x}, ints("kernel_shape", k...), ints("strides", strides...), i("ceil_mode", int64(w.below(2))))
		w.add(y, s)
	case 6:
		w.add(w.op(one(w.dice, "GlobalAveragePool", "GlobalMaxPool"), x), s)
	case 7:
		axes := w.ints(2, 3)
		if w.once(3) {
			axes = w.ints(-1)
		}
		w.add(w.node("ReduceMean", []*onnx.Value{x, axes}, i("keepdims", int64(w.below(2)))), s)
	case 8: // scales by channels, as squeeze and excitation makes them
		b := []int{1, channels}
		for range max(r-2, 0) {
			b = append(b, 1)
		}
		w.add(w.op(one(w.dice, "Mul", "Add", "Sub"), x, w.weight(b...)), s)
	case 9:
		w.add(w.op(one(w.dice, "Add", "Mul", "Sub", "Max", "Div", "Concat"), x, w.values[w.below(len(w.values))]), s)
	case 10: // quantized and back, a product of bytes between
		scale, zero := w.scalar(0.05), w.constant(tensor.Scalar(uint8(one(w.dice, 128, 0, 3))))
		q := w.op("QuantizeLinear", x, scale, zero)
		y := w.op("DequantizeLinear", q, scale, zero)
		if w.once(2) {
			k, _ := tensor.Zeros(tensor.Int8, last, 4)
			for j := range k.Len() {
				tensor.SetFloat64At(k, j, float64(w.r.IntN(20)-10))
			}
			b := w.op("DequantizeLinear", w.constant(k), w.scalar(0.1), w.constant(tensor.Scalar(int8(0))))
			y = w.op("MatMul", y, b)
			if w.once(2) {
				y = w.op("Relu", y)
			}
		}
		w.add(y, s)
	case 11:
		dyn := onnx.NewNode("DynamicQuantizeLinear", []*onnx.Value{x}, w.name(), w.name(), w.name())
		w.g.Nodes = append(w.g.Nodes, dyn)
		k, _ := tensor.Zeros(tensor.Int8, last, 4)
		for j := range k.Len() {
			tensor.SetFloat64At(k, j, float64(w.r.IntN(20)-10))
		}
		y := w.op("MatMulInteger", dyn.Outputs[0], w.constant(k), dyn.Outputs[2])
		y = w.node("Cast", []*onnx.Value{y}, i("to", int64(tensor.Float32)))
		w.add(w.op("Mul", y, w.op("Mul", dyn.Outputs[1], w.scalar(0.1))), append(s[:max(r-1, 0)], 4))
	case 12: // nothing, in many ways
		y := one(w.dice, w.op("Identity", x), w.op("Add", x, w.scalar(0)), w.op("Mul", w.scalar(1), x), w.node("Cast", []*onnx.Value{x}, i("to", 1)), w.op("Dropout", x))
		w.add(y, s)
	case 13: // the same twice
		name := one(w.dice, "Tanh", "Relu", "Neg")
		w.add(w.op("Add", w.op(name, x), w.op(name, x)), s)
	case 14:
		w.add(w.op("Reshape", x, w.op("Concat", w.ints(0), w.ints(-1))), s)
		w.g.Nodes[len(w.g.Nodes)-2].SetAttr(i("axis", 0))
	case 15:
		w.add(w.node("Transpose", []*onnx.Value{x}, w.perm(r)), s)
	default: // any operator of the standard
		all := slices.DeleteFunc(ops.All(), func(op *ops.Op) bool {
			_, since := ops.Lookup(op.Domain, op.Name, 21)
			return op.Domain != "" || op.Impure || !slices.Contains(op.Since, since) || op.Name == "Loop" || op.Name == "Scan" || op.Name == "If"
		})
		op := all[w.below(len(all))]
		_, since := ops.Lookup("", op.Name, 21)
		m, args := w.hostile(op, since, table)
		n, rename := m.Graph.Nodes[0], func(v *onnx.Value) string { return fmt.Sprint(v.Name, "_", w.name()) }
		for _, v := range slices.Clone(m.Graph.Inputs) {
			a := args[v.Name]
			v.Name = rename(v)
			w.g.Inputs, w.args[v.Name] = append(w.g.Inputs, v), a
		}
		for _, v := range m.Graph.Inits {
			v.Name = rename(v)
			w.g.Inits = append(w.g.Inits, v)
		}
		for k, v := range n.Outputs {
			if v != nil {
				v.Name = rename(v)
				if k == 0 {
					w.add(v, s)
				}
			}
		}
		if w.once(2) && len(n.Inputs) > 0 {
			n.SetInput(0, x)
		}
		w.g.Nodes = append(w.g.Nodes, n)
	}
}

func (w *weave) perm(r int) *onnx.Attribute {
	var p []int64
	for i := range r {
		p = append(p, int64(i))
	}
	switch {
	case r >= 2 && w.below(3) > 0:
		p[r-1], p[r-2] = p[r-2], p[r-1]
	default:
		w.r.Shuffle(r, func(i, j int) { p[i], p[j] = p[j], p[i] })
	}
	return onnx.IntsAttr("perm", p...)
}

func (w *weave) activation(y *onnx.Value) *onnx.Value {
	switch w.below(7) {
	case 0, 1:
		return w.op("Relu", y)
	case 2:
		return w.op("Clip", y, w.scalar(0), w.scalar(one(w.dice, float32(6), 0.5)))
	case 3:
		return w.op(one(w.dice, "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus"), y)
	case 4:
		return w.node("LeakyRelu", []*onnx.Value{y}, onnx.FloatAttr("alpha", 0.1))
	case 5:
		return w.op("Mul", y, w.op("Sigmoid", y))
	}
	return y
}
