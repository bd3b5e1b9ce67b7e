package finetune

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// fakeQuantize is testdata/fake_quantize.json: what PyTorch computed.
type fakeQuantize struct {
	Cases []struct {
		Shape                []int
		Scale, Zero          []float32
		Signed               bool
		Axis                 *int64
		X, Dy, Y, Dx, Dscale []float32
	}
	Training struct {
		X, Target, W1, W2, S1, S2 []float32
		Losses                    []float64
	}
}

func recordedEstimates(t *testing.T) *fakeQuantize {
	t.Helper()
	text, err := os.ReadFile("testdata/fake_quantize.json")
	if err != nil {
		t.Fatal(err)
	}
	var f fakeQuantize
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return &f
}

// floatsOf is the type of float32 of that shape.
func floatsOf(shape []int) *onnx.Type {
	t, _ := tensor.Zeros(tensor.Float32, shape...)
	return onnx.TypeOfTensor(t)
}

// integers is v in a type of 8 bits.
func integers(v []float32, signed bool, shape ...int) *tensor.Tensor {
	d := tensor.Uint8
	if signed {
		d = tensor.Int8
	}
	t, err := tensor.Zeros(d, shape...)
	if err != nil {
		panic(err)
	}
	for i, x := range v {
		tensor.SetFloat64At(t, i, float64(x))
	}
	return t
}

// near holds numbers against others, by the greatest.
func near(t *testing.T, what string, got *tensor.Tensor, want []float32, bound float64) {
	t.Helper()
	if got == nil || got.Len() != len(want) {
		t.Errorf("%s is %v, not %d numbers", what, got, len(want))
		return
	}
	top := 1e-3
	for _, w := range want {
		top = max(top, math.Abs(float64(w)))
	}
	for i, w := range want {
		if g := tensor.Float64At(got, i); !(math.Abs(g-float64(w)) <= bound*top) {
			t.Errorf("%s at %d is %g, PyTorch's %g", what, i, g, w)
		}
	}
}

// The gradients through QuantizeLinear and DequantizeLinear, by the input and by the scales, are PyTorch's estimates.
func TestStraightThroughIsPyTorchs(t *testing.T) {
	for _, c := range recordedEstimates(t).Cases {
		name := fmt.Sprintf("scales %v, zero %v, signed %v, axis %v, learned %v", c.Scale, c.Zero, c.Signed, c.Axis != nil, c.Dscale != nil)
		b := onnx.NewBuilder("m", 13)
		x := b.InputOf("x", floatsOf(c.Shape))
		var attrs []*onnx.Attribute
		shape := []int{}
		if c.Axis != nil {
			attrs, shape = append(attrs, ops.IntAttr("axis", *c.Axis)), []int{len(c.Scale)}
		}
		scale, zero := b.Init("scale", tensor.New(c.Scale, shape...)), b.Init("zero", integers(c.Zero, c.Signed, shape...))
		q := b.Node("QuantizeLinear", []*onnx.Value{x, scale, zero}, attrs...)
		y := b.Node("DequantizeLinear", []*onnx.Value{q, scale, zero}, attrs...)
		b.OutputOf("y", b.Op("Mul", y, b.Const(tensor.New(c.Dy, c.Shape...))), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]tensor.Value{"x": tensor.New(c.X, c.Shape...)}
		if _, err := OutputGradients(context.Background(), m, in, "y", false, false); err == nil || !strings.Contains(err.Error(), "QuantizeLinear") || !strings.Contains(err.Error(), `from "x"`) {
			t.Errorf("%s: without straight-through estimation the error is %v", name, err)
		}
		grads, err := OutputGradients(context.Background(), m, in, "y", false, true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		near(t, name+": the input's gradient", grads["x"], c.Dx, 1e-6)
		if c.Dscale != nil {
			near(t, name+": the scales' gradient", grads["scale"], c.Dscale, 2e-5)
		}
	}
}

// qat is the network of the recorded training; its weights are real numbers that are rounded, or integers.
func qat(t *testing.T, f *fakeQuantize, asIntegers bool) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("qat", 13)
	r := f.Training
	u8 := func(name string, x *onnx.Value, scale float32, zero float32) *onnx.Value {
		s, z := b.Init(name+".scale", tensor.Scalar(scale)), b.Init(name+".zero", integers([]float32{zero}, false))
		return b.Op("DequantizeLinear", b.Op("QuantizeLinear", x, s, z), s, z)
	}
	weight := func(name string, w, scales []float32, rows, cols int) *onnx.Value {
		axis := ops.IntAttr("axis", 0)
		s, z := b.Init(name+".scale", tensor.New(scales, rows)), b.Init(name+".zero", integers(make([]float32, rows), true, rows))
		var q *onnx.Value
		if asIntegers {
			v := make([]float32, len(w))
			for i := range w {
				v[i] = float32(math.Round(float64(w[i] / scales[i/cols])))
			}
			q = b.Init(name, integers(v, true, rows, cols))
		} else {
			q = b.Node("QuantizeLinear", []*onnx.Value{b.Init(name, tensor.New(slices.Clone(w), rows, cols)), s, z}, axis)
		}
		return b.Op("Transpose", b.Node("DequantizeLinear", []*onnx.Value{q, s, z}, axis))
	}
	bias := func(name string, n int) *onnx.Value { return b.Init(name, tensor.New(make([]float32, n), n)) }
	h := u8("x", b.Input("input", tensor.Float32, 8, 3), 0.02, 128)
	h = b.Op("Relu", b.Op("Add", b.Op("MatMul", h, weight("w1", r.W1, r.S1, 5, 3)), bias("b1", 5)))
	h = u8("h", h, 0.01, 0)
	y := b.Op("Add", b.Op("MatMul", h, weight("w2", r.W2, r.S2, 2, 5)), bias("b2", 2))
	b.Output("y", y, tensor.Float32, 8, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// asConstants has the weights of m's quantization in Constant nodes, and their zeros computed, as PyTorch exports quantized modules.
func asConstants(m *onnx.Model) {
	g := m.Graph
	for _, v := range slices.Clone(g.Inits) {
		if strings.HasPrefix(v.Name, "b") {
			continue
		}
		held := v.Const
		g.Inits = slices.DeleteFunc(g.Inits, func(w *onnx.Value) bool { return w == v })
		v.Const = nil
		n := onnx.NewNode("Constant", nil)
		nodes := []*onnx.Node{n}
		if strings.HasSuffix(v.Name, "zero") && held.Rank() == 1 {
			n.SetOutput(0, &onnx.Value{Name: v.Name + " shape"})
			zeros := onnx.NewNode("ConstantOfShape", n.Outputs, v.Name+" float")
			cast := onnx.NewNode("Cast", zeros.Outputs)
			cast.SetAttr(onnx.IntAttr("to", int64(held.DType())))
			cast.SetOutput(0, v)
			nodes, held = append(nodes, zeros, cast), tensor.New([]int64{int64(held.Len())})
		} else {
			n.SetOutput(0, v)
		}
		n.SetAttr(onnx.TensorAttr("value", held))
		g.Nodes = append(nodes, g.Nodes...)
	}
}

// Quantization-aware training follows PyTorch's losses, of real weights that are rounded and of integers alike; the tuned file of integers computes
// what the trainer does.
func TestQuantizationAwareTraining(t *testing.T) {
	f := recordedEstimates(t)
	batch := Batch{"input": tensor.New(f.Training.X, 8, 3), "target": tensor.New(f.Training.Target, 8, 2)}
	for _, kind := range []string{"real", "integers", "constants"} {
		asIntegers := kind != "real"
		m := qat(t, f, asIntegers)
		first := m.Graph.Init("w1").Const
		if kind == "constants" {
			asConstants(m)
		}
		cfg := Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 0.1, Momentum: 0.9}}
		if !asIntegers {
			if _, err := New(m, cfg); err == nil || !strings.Contains(err.Error(), "straight-through") {
				t.Errorf("without straight-through estimation the error is %v", err)
			}
		}
		cfg.StraightThrough = true
		tr, err := New(m, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		var names []string
		for _, p := range tr.Parameters() {
			names = append(names, p.Name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{"b1", "b2", "w1", "w2"}) {
			t.Errorf("trained are %v", names)
		}
		for i, want := range f.Training.Losses {
			s, err := tr.Step(context.Background(), batch)
			if err != nil {
				t.Fatal(err)
			}
			if !(math.Abs(s.Loss-want) <= 1e-4) {
				t.Errorf("%s: the loss of step %d is %v, PyTorch's %v", kind, i+1, s.Loss, want)
			}
		}
		want, err := tr.Loss(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		data, err := onnx.Encode(tr.Model())
		if err != nil {
			t.Fatal(err)
		}
		tuned, err := onnx.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if w := tuned.Graph.Init("w1").Const; asIntegers && (w.DType() != tensor.Int8 || same(w, first)) {
			t.Errorf("the tuned weight is %s, and was %s", w, first)
		}
		cfg.StraightThrough, cfg.Trainable = false, []string{"b2"}
		again, err := New(tuned, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got, err := again.Loss(context.Background(), batch); err != nil || got != want {
			t.Errorf("%s: the tuned file's loss is %v (%v), the trainer's %v", kind, got, err, want)
		}
	}
}

// Weights of every width, with one scale, one for each row or each block, and biases of 32 bits: rounded once more they are as they were, and
// a step changes them by whole numbers.
func TestQuantizedWeightsOfEveryKind(t *testing.T) {
	for _, d := range []tensor.DType{tensor.Int8, tensor.Uint8, tensor.Int16, tensor.Uint16, tensor.Int4, tensor.Uint4, tensor.Int32} {
		for _, how := range []string{"one", "axis", "block"} {
			name := fmt.Sprint(d, " ", how)
			b := onnx.NewBuilder("m", 21)
			shape, scales, attrs := []int{4, 6}, []int{}, []*onnx.Attribute(nil)
			switch how {
			case "axis":
				scales, attrs = []int{4}, append(attrs, ops.IntAttr("axis", 0))
			case "block":
				scales, attrs = []int{4, 2}, append(attrs, ops.IntAttr("axis", 1), ops.IntAttr("block_size", 4))
			}
			if d == tensor.Int32 {
				if how == "block" {
					continue
				}
				if shape = []int{6}; how == "axis" {
					scales = []int{6}
				}
			}
			q, _ := tensor.Zeros(d, shape...)
			for i := range q.Len() {
				tensor.SetFloat64At(q, i, float64(1+i*5%13%7))
			}
			s, _ := tensor.Zeros(tensor.Float32, scales...)
			for i := range s.Len() {
				tensor.SetFloat64At(s, i, 0.011*float64(i+3))
			}
			in := []*onnx.Value{b.Init("w", q), b.Init("s", s)}
			if d != tensor.Int32 {
				z, _ := tensor.Zeros(d, scales...)
				for i := range z.Len() {
					tensor.SetFloat64At(z, i, float64(1+i%3))
				}
				in = append(in, b.Init("z", z))
			}
			w := b.Node("DequantizeLinear", in, attrs...)
			b.OutputOf("y", b.Op("Add", w, b.InputOf("x", floatsOf(shape))), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			x, _ := tensor.Zeros(tensor.Float32, shape...)
			target, _ := tensor.Zeros(tensor.Float32, shape...)
			for i := range target.Len() {
				tensor.SetFloat64At(target, i, 0.1*float64(i%5))
			}
			batch := Batch{"x": x, "target": target}
			tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}, StraightThrough: true})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			defer tr.Close()
			if !same(tr.Model().Graph.Init("w").Const, q) {
				t.Errorf("%s: rounded again, %v is %v", name, q, tr.Model().Graph.Init("w").Const)
			}
			d := newGraphDriver(t, tr)
			first, err := tr.Step(context.Background(), batch)
			if err != nil {
				t.Fatal(err)
			}
			if loss, _ := d.step(t, batch); !(math.Abs(loss-first.Loss) <= 1e-6*first.Loss) {
				t.Errorf("%s: the saved graph's loss is %g, the trainer's %g", name, loss, first.Loss)
			}
			for range 20 {
				if _, err := tr.Step(context.Background(), batch); err != nil {
					t.Fatal(err)
				}
				d.step(t, batch)
			}
			d.same(t, tr, 1e-6)
			if got, want := d.rounded["w"], tr.Model().Graph.Init("w").Const; !same(got.(*tensor.Tensor), want) {
				t.Errorf("%s: the saved graph's integers are %v, the trainer's %v", name, got, want)
			}
			want, err := tr.Loss(context.Background(), batch)
			if err != nil {
				t.Fatal(err)
			}
			if !(want < first.Loss/2) {
				t.Errorf("%s: the loss went from %g to %g", name, first.Loss, want)
			}
			// The file's own answer.
			out, err := runOnce(tr.Model(), map[string]tensor.Value{"x": x})
			if err != nil {
				t.Fatal(err)
			}
			y, sum := out["y"].(*tensor.Tensor), 0.0
			for i := range y.Len() {
				e := tensor.Float64At(y, i) - tensor.Float64At(target, i)
				sum += e * e
			}
			if got := sum / float64(y.Len()); !(math.Abs(got-want) <= 1e-6*want) {
				t.Errorf("%s: the tuned file's loss is %g, the trainer's %g", name, got, want)
			}
		}
	}
}

// The gradient through an operator on quantized numbers is that of the operator on the numbers themselves, where none is rounded or saturated.
func TestStraightThroughOperators(t *testing.T) {
	one := tensor.Scalar(float32(1))
	type values = []*onnx.Value
	for _, c := range []struct {
		name      string
		a, b      []int
		real      func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value
		quantized func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value // of int8 with scale 1 and zero 0
	}{
		{"MatMulInteger", []int{2, 3}, []int{3, 2},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("MatMul", x, y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				return b.Node("Cast", values{b.Op("MatMulInteger", x, y, z, z)}, ops.IntAttr("to", int64(tensor.Float32)))
			}},
		{"QLinearMatMul", []int{2, 3}, []int{3, 2},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("MatMul", x, y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				return b.Op("DequantizeLinear", b.Op("QLinearMatMul", x, s, z, y, s, z, s, z), s, z)
			}},
		{"ConvInteger", []int{1, 2, 3, 3}, []int{2, 2, 2, 2},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("Conv", x, y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				return b.Node("Cast", values{b.Op("ConvInteger", x, y, z, z)}, ops.IntAttr("to", int64(tensor.Float32)))
			}},
		{"QLinearConv", []int{1, 2, 3, 3}, []int{2, 2, 2, 2},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("Conv", x, y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				bias := b.Const(tensor.New([]int32{0, 0}, 2))
				return b.Op("DequantizeLinear", b.Op("QLinearConv", x, s, z, y, s, z, s, z, bias), s, z)
			}},
		{"QLinearAdd", []int{2, 3}, []int{3},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("Add", x, y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				n := onnx.NewNode("QLinearAdd", values{x, s, z, y, s, z, s, z}, "sum")
				n.Domain = "com.microsoft"
				return b.Op("DequantizeLinear", b.Add(n)[0], s, z)
			}},
		{"moved", []int{2, 3}, []int{3, 2},
			func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value { return b.Op("Add", b.Op("Transpose", x), y) },
			func(b *onnx.Builder, s, z, x, y *onnx.Value) *onnx.Value {
				return b.Op("Add", b.Op("DequantizeLinear", b.Op("Transpose", x), s, z), b.Op("DequantizeLinear", b.Op("Reshape", y, b.Const(tensor.New([]int64{3, -1}, 2))), s, z))
			}},
	} {
		in := map[string]tensor.Value{}
		fill := func(name string, shape []int, step int) {
			x, _ := tensor.Zeros(tensor.Float32, shape...)
			for i := range x.Len() {
				tensor.SetFloat64At(x, i, float64((i*step+3)%7-3))
			}
			in[name] = x
		}
		fill("a", c.a, 5)
		fill("b", c.b, 3)
		var of [2]map[string]*tensor.Tensor
		for i := range of {
			b := onnx.NewBuilder("m", 13)
			b.Import("com.microsoft", 1)
			x, y := b.InputOf("a", floatsOf(c.a)), b.InputOf("b", floatsOf(c.b))
			out := c.real
			if i == 1 {
				s, z := b.Const(one), b.Const(integers([]float32{0}, true))
				out = func(b *onnx.Builder, x, y *onnx.Value) *onnx.Value {
					return c.quantized(b, s, z, b.Op("QuantizeLinear", x, s, z), b.Op("QuantizeLinear", y, s, z))
				}
			}
			r := out(b, x, y)
			b.OutputOf("y", b.Op("Mul", r, r), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			if of[i], err = OutputGradients(context.Background(), m, in, "y", false, true); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if i == 1 {
				if _, err := OutputGradients(context.Background(), m, in, "y", false, false); err == nil {
					t.Errorf("%s: gradients pass without straight-through estimation", c.name)
				}
			}
		}
		for name, want := range of[0] {
			near(t, c.name+": the gradient of "+name, of[1][name], tensor.Data[float32](want), 1e-6)
		}
	}
}

// Rounding lets nothing through unless it is asked to; a loss that hangs on weights that way alone is an error.
func TestRound(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	w := b.Init("w", tensor.New([]float32{0.3, 1.6}, 2))
	b.Output("y", b.Op("Add", b.Op("Round", w), b.Input("x", tensor.Float32, 2)), tensor.Float32, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}}
	if _, err := New(m, cfg); err == nil || !strings.Contains(err.Error(), "(Round)") {
		t.Errorf("the error is %v", err)
	}
	cfg.StraightThrough = true
	tr, err := New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	_, grads, err := tr.Gradients(context.Background(), Batch{"x": tensor.New([]float32{0, 0}, 2), "target": tensor.New([]float32{1, 1}, 2)})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "the gradient", grads["w"], []float32{-1, 1}, 0)
}

// Quantized numbers that a branch or a loop's body reads are no way around.
func TestQuantizedNumbersInBodies(t *testing.T) {
	for _, op := range []string{"If", "Loop"} {
		b := onnx.NewBuilder("m", 17)
		x := b.Input("x", tensor.Float32, 2)
		s, z := b.Init("s", tensor.Scalar(float32(0.5))), b.Init("z", integers([]float32{0}, true))
		q := b.Op("QuantizeLinear", x, s, z)
		var y *onnx.Value
		if op == "If" {
			var bodies []*onnx.Graph
			for _, name := range []string{"then", "else"} {
				in := b.Sub(name)
				v := in.Op("Identity", x)
				if name == "then" {
					v = in.Op("DequantizeLinear", q, s, z)
				}
				in.OutputOf(name+"_out", v, nil)
				bodies = append(bodies, in.Graph())
			}
			y = b.Node("If", []*onnx.Value{b.Op("Greater", b.Node("ReduceSum", []*onnx.Value{x}, onnx.IntAttr("keepdims", 0)), b.Const(tensor.Scalar(float32(0))))},
				onnx.GraphAttr("then_branch", bodies[0]), onnx.GraphAttr("else_branch", bodies[1]))
		} else {
			in := b.Sub("body")
			in.Input("i", tensor.Int64)
			more, state := in.Input("more", tensor.Bool), in.Input("state", tensor.Float32, 2)
			in.OutputOf("go", in.Op("Identity", more), nil)
			in.OutputOf("next", in.Op("Add", state, in.Op("DequantizeLinear", q, s, z)), nil)
			y = b.Node("Loop", []*onnx.Value{b.Const(tensor.Scalar(int64(3))), b.Const(tensor.Scalar(true)), b.Const(tensor.New([]float32{0, 0}, 2))}, onnx.GraphAttr("body", in.Graph()))
		}
		b.OutputOf("y", y, nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]tensor.Value{"x": tensor.New([]float32{1.7, 400}, 2)}
		if _, err := OutputGradients(context.Background(), m, in, "y", false, false); err == nil || !strings.Contains(err.Error(), "QuantizeLinear") {
			t.Errorf("%s: without straight-through estimation the error is %v", op, err)
		}
		grads, err := OutputGradients(context.Background(), m, in, "y", false, true)
		if err != nil {
			t.Errorf("%s: %v", op, err)
			continue
		}
		want := []float32{1, 0}
		if op == "Loop" {
			want[0] = 3
		}
		near(t, op+": the gradient", grads["x"], want, 0)
	}
}
