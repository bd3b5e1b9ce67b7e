package ops_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// nodeCase is one node over inputs that are the graph's.
type nodeCase struct {
	op    string
	opset int
	attrs []*onnx.Attribute
	in    []*tensor.Tensor
}

func (c nodeCase) model() (m *onnx.Model, ins []*onnx.Value, y *onnx.Value) {
	g := &onnx.Graph{Name: "g"}
	for i, t := range c.in {
		v := &onnx.Value{Name: fmt.Sprint("x", i), Type: onnx.TypeOfTensor(t)}
		g.Inputs, ins = append(g.Inputs, v), append(ins, v)
	}
	n := onnx.NewNode(c.op, ins, "y")
	n.Attrs = c.attrs
	g.Nodes = append(g.Nodes, n)
	return &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: int64(c.opset)}}, Graph: g}, ins, n.Outputs[0]
}

func runModel(t *testing.T, m *onnx.Model, in []*tensor.Tensor) map[string]tensor.Value {
	t.Helper()
	s, err := runtime.NewSession(m, runtime.Threads(4))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	args := map[string]tensor.Value{}
	for i, x := range in {
		args[fmt.Sprint("x", i)] = x
	}
	out, err := s.Run(context.Background(), args)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c nodeCase) run(t *testing.T) *tensor.Tensor {
	t.Helper()
	m, _, y := c.model()
	m.Graph.Outputs = []*onnx.Value{y}
	return runModel(t, m, c.in)["y"].(*tensor.Tensor)
}

// gradients are those of sum(y·w), w[i] = weight(i), for every float64 input; they are nil where there are none.
func (c nodeCase) gradients(t *testing.T, weight func(i int) float64) []*tensor.Tensor {
	t.Helper()
	w := c.run(t).Clone()
	for i := range w.Len() {
		tensor.SetFloat64At(w, i, weight(i))
	}
	m, ins, y := c.model()
	wv := m.Graph.AddInit("w", w)
	mul := onnx.NewNode("Mul", []*onnx.Value{y, wv}, "yw")
	mul.Opset = 21
	sum := onnx.NewNode("ReduceSum", mul.Outputs, "loss")
	sum.Opset, sum.Attrs = 21, []*onnx.Attribute{ops.IntAttr("keepdims", 0)}
	m.Graph.Nodes = append(m.Graph.Nodes, mul, sum)
	m.Graph.Outputs = sum.Outputs
	var wrt []*onnx.Value
	for i, v := range ins {
		if c.in[i].DType() == tensor.Float64 {
			wrt = append(wrt, v)
		}
	}
	grads, err := finetune.Gradient(m, sum.Outputs[0], wrt)
	if err != nil {
		t.Fatal(err)
	}
	m.Graph.Outputs = nil
	for _, v := range ins {
		if d := grads[v]; d != nil {
			m.Graph.Outputs = append(m.Graph.Outputs, d)
		}
	}
	out := make([]*tensor.Tensor, len(ins))
	if len(m.Graph.Outputs) == 0 {
		return out
	}
	got := runModel(t, m, c.in)
	for i, v := range ins {
		if d := grads[v]; d != nil {
			out[i] = got[d.Name].(*tensor.Tensor)
		}
	}
	return out
}

func randomTensor(r *rand.Rand, lo, hi float64, shape ...int) *tensor.Tensor {
	t, err := tensor.Zeros(tensor.Float64, shape...)
	if err != nil {
		panic(err)
	}
	for i := range t.Len() {
		tensor.SetFloat64At(t, i, lo+(hi-lo)*r.Float64())
	}
	return t
}

func TestElementwiseGradients(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var cases []nodeCase
	unary := func(opset int, lo, hi float64, names ...string) {
		for _, n := range names {
			cases = append(cases, nodeCase{op: n, opset: opset, in: []*tensor.Tensor{randomTensor(r, lo, hi, 3, 4)}})
		}
	}
	unary(22, -2.5, 2.5, "Abs", "Neg", "Exp", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Erf", "Sigmoid", "Relu", "LeakyRelu",
		"ThresholdedRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Gelu", "Mish", "Identity", "Ceil", "Dropout")
	unary(22, 0.2, 0.9, "Sqrt", "Reciprocal", "Log", "Tan", "Asin", "Acos", "Atanh")
	unary(22, 1.2, 3, "Acosh")
	unary(24, -2, 2, "Swish")
	add := func(op string, opset int, attrs []*onnx.Attribute, in ...*tensor.Tensor) {
		cases = append(cases, nodeCase{op, opset, attrs, in})
	}
	some := func(shape ...int) *tensor.Tensor { return randomTensor(r, 0.5, 2, shape...) }
	signed := func(shape ...int) *tensor.Tensor { return randomTensor(r, -2, 2, shape...) }
	add("Gelu", 22, []*onnx.Attribute{ops.StringAttr("approximate", "tanh")}, signed(7))
	add("Swish", 24, []*onnx.Attribute{ops.FloatAttr("alpha", 1.7)}, signed(7))
	add("Clip", 6, []*onnx.Attribute{ops.FloatAttr("min", -1), ops.FloatAttr("max", 0.5)}, signed(9))
	add("Clip", 13, nil, signed(9), tensor.Scalar(-0.7), tensor.Scalar(0.9))
	add("Mod", 13, []*onnx.Attribute{ops.IntAttr("fmod", 1)}, randomTensor(r, 2.1, 2.9, 3), randomTensor(r, 0.9, 1.01, 3))
	for _, op := range []string{"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"} {
		add(op, 15, nil, some(2, 3, 4), some(3, 1))
		add(op, 15, nil, some(4), some(2, 1, 4))
		add(op, 15, nil, some(2, 3), tensor.Scalar(1.5))
	}
	for _, op := range []string{"Add", "Sub", "Mul", "Div", "Pow"} {
		since := 6
		if op == "Pow" {
			since = 1
		}
		add(op, since, []*onnx.Attribute{ops.IntAttr("broadcast", 1), ops.IntAttr("axis", 1)}, some(2, 3, 4), some(3))
	}
	add("Pow", 15, nil, signed(5), tensor.Scalar(int64(3)))
	for _, op := range []string{"Max", "Min", "Sum", "Mean"} {
		add(op, 13, nil, some(2, 3), some(3), some(2, 1))
	}
	add("PRelu", 16, nil, signed(2, 3, 4), signed(3, 1))
	add("PRelu", 6, nil, signed(2, 3, 4), signed(3))
	add("Where", 16, nil, tensor.New([]bool{true, false, true}), signed(2, 3), signed(2, 1))
	seeded := []*onnx.Attribute{ops.IntAttr("seed", 3)}
	add("Dropout", 22, seeded, signed(4, 5), tensor.Scalar(0.3), tensor.Scalar(true))
	for _, c := range cases {
		t.Run(fmt.Sprint(c.op, "-", c.opset), func(t *testing.T) {
			weight := func(i int) float64 { return math.Cos(float64(3 * i)) }
			grads := c.gradients(t, weight)
			loss := func() float64 {
				sum := 0.0
				for i, v := range tensor.Float64s(c.run(t)) {
					sum += weight(i) * v
				}
				return sum
			}
			for k, x := range c.in {
				if x.DType() != tensor.Float64 || c.op == "Dropout" && k > 0 {
					continue
				}
				for i := range x.Len() {
					const h = 1e-5
					v := tensor.Float64At(x, i)
					tensor.SetFloat64At(x, i, v+h)
					up := loss()
					tensor.SetFloat64At(x, i, v-h)
					want := (up - loss()) / (2 * h)
					tensor.SetFloat64At(x, i, v)
					got := 0.0
					if grads[k] != nil {
						if !equalShapes(grads[k].Shape(), x.Shape()) {
							t.Fatalf("input %d of shape %v has a gradient of shape %v", k, x.Shape(), grads[k].Shape())
						}
						got = tensor.Float64At(grads[k], i)
					}
					if math.Abs(got-want) > 1e-6*(1+math.Abs(want)) {
						t.Errorf("input %d element %d (%v): want %v, got %v", k, i, v, want, got)
					}
				}
			}
		})
	}
}

func equalShapes(a, b []int) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// Where a derivative jumps, PyTorch's choice.
func TestGradientsAtEdges(t *testing.T) {
	v := func(x ...float64) *tensor.Tensor { return tensor.New(x) }
	for _, c := range []struct {
		nodeCase
		want [][]float64
	}{
		{nodeCase{"Abs", 13, nil, []*tensor.Tensor{v(0, -1)}}, [][]float64{{0, -1}}},
		{nodeCase{"Relu", 14, nil, []*tensor.Tensor{v(0, 1)}}, [][]float64{{0, 1}}},
		{nodeCase{"LeakyRelu", 16, []*onnx.Attribute{ops.FloatAttr("alpha", 0.5)}, []*tensor.Tensor{v(0, 1)}}, [][]float64{{0.5, 1}}},
		{nodeCase{"Clip", 13, nil, []*tensor.Tensor{v(-1, 1, 1.5), tensor.Scalar(-1.0), tensor.Scalar(1.0)}}, [][]float64{{1, 1, 0}, {0}, {1}}},
		{nodeCase{"Max", 13, nil, []*tensor.Tensor{v(1, 2), v(1, 1)}}, [][]float64{{0.5, 1}, {0.5, 0}}},
		{nodeCase{"Min", 13, nil, []*tensor.Tensor{v(1, 2), v(1, 1)}}, [][]float64{{0.5, 0}, {0.5, 1}}},
		{nodeCase{"Pow", 15, nil, []*tensor.Tensor{v(0, 0, 0, -2), v(0, 2, 1, 2)}}, [][]float64{{0, 0, 1, -4}, {0, 0, 0, math.NaN()}}},
		{nodeCase{"PRelu", 16, nil, []*tensor.Tensor{v(0, -1), v(0.25, 0.25)}}, [][]float64{{0.25, 0.25}, {0, -1}}},
		{nodeCase{"HardSigmoid", 22, []*onnx.Attribute{ops.FloatAttr("alpha", 0.25), ops.FloatAttr("beta", 0.5)}, []*tensor.Tensor{v(-2, 0, 2)}}, [][]float64{{0, 0.25, 0}}},
		{nodeCase{"Dropout", 22, nil, []*tensor.Tensor{v(1, 2), tensor.Scalar(1.0), tensor.Scalar(true)}}, [][]float64{{0, 0}}},
	} {
		grads := c.gradients(t, func(int) float64 { return 1 })
		for k, want := range c.want {
			if grads[k] == nil {
				t.Errorf("%s: input %d has no gradient", c.op, k)
				continue
			}
			for i, w := range want {
				if got := tensor.Float64At(grads[k], i); got != w && !(got != got && w != w) {
					t.Errorf("%s: input %d element %d: want %v, got %v", c.op, k, i, w, got)
				}
			}
		}
	}
}

// Broadcasts of every pattern, some long enough to be cut among workers, against index arithmetic.
func TestBroadcast(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	at := func(shape, out []int, o int) int {
		i, step := 0, 1
		for k := len(out) - 1; k >= 0; k-- {
			x := o % out[k]
			o /= out[k]
			if j := k - (len(out) - len(shape)); j >= 0 {
				if shape[j] != 1 {
					i += x * step
				}
				step *= shape[j]
			}
		}
		return i
	}
	for range 150 {
		rank := r.IntN(5)
		out := make([]int, rank)
		for i := range out {
			out[i] = r.IntN(5)
			if r.IntN(8) == 0 && i == rank-1 {
				out[i] = 20000
			}
			if out[i] == 0 && r.IntN(4) > 0 {
				out[i] = 1
			}
		}
		pick := func() []int {
			s := append([]int{}, out[r.IntN(rank+1):]...)
			for i := range s {
				if r.IntN(3) == 0 {
					s[i] = 1
				}
			}
			return s
		}
		a, b := randomTensor(r, -1, 1, pick()...), randomTensor(r, -1, 1, pick()...)
		full := randomTensor(r, -1, 1, out...)
		cond, _ := tensor.Zeros(tensor.Bool, pick()...)
		for i := range cond.Len() {
			tensor.SetFloat64At(cond, i, float64(r.IntN(2)))
		}
		sum := nodeCase{op: "Sum", opset: 13, in: []*tensor.Tensor{a, b, full}}.run(t)
		sel := nodeCase{op: "Where", opset: 16, in: []*tensor.Tensor{cond, a, full}}.run(t)
		for o := range full.Len() {
			fa, fb, ff := tensor.Float64At(a, at(a.Shape(), out, o)), tensor.Float64At(b, at(b.Shape(), out, o)), tensor.Float64At(full, o)
			if got := tensor.Float64At(sum, o); got != fa+fb+ff {
				t.Fatalf("Sum of %v, %v and %v, element %d: want %v, got %v", a, b, full, o, fa+fb+ff, got)
			}
			want := ff
			if tensor.Float64At(cond, at(cond.Shape(), out, o)) != 0 {
				want = fa
			}
			if got := tensor.Float64At(sel, o); got != want {
				t.Fatalf("Where of %v, %v and %v, element %d: want %v, got %v", cond, a, full, o, want, got)
			}
		}
	}
}

func TestIntegerArithmetic(t *testing.T) {
	for _, c := range []struct {
		op   string
		attr []*onnx.Attribute
		a, b *tensor.Tensor
		want *tensor.Tensor
	}{
		{"Add", nil, tensor.New([]int8{127, -128}), tensor.New([]int8{1}), tensor.New([]int8{-128, -127})},
		{"Div", nil, tensor.New([]int64{-7, 7}), tensor.New([]int64{2, -2}), tensor.New([]int64{-3, -3})},
		{"Mod", nil, tensor.New([]int32{-7, 7}), tensor.New([]int32{3, -3}), tensor.New([]int32{2, -2})},
		{"Mod", []*onnx.Attribute{ops.IntAttr("fmod", 1)}, tensor.New([]int32{-7, 7}), tensor.New([]int32{3, -3}), tensor.New([]int32{-1, 1})},
		{"Pow", nil, tensor.New([]int64{3, -2, 5}), tensor.New([]int32{39, 3, -1}), tensor.New([]int64{4052555153018976267, -8, 0})},
		{"Pow", nil, tensor.New([]float32{2, 9}), tensor.New([]int64{-1, 0}), tensor.New([]float32{0.5, 1})},
		{"Pow", nil, tensor.New([]int32{9}), tensor.New([]float32{0.5}), tensor.New([]int32{3})},
		{"BitShift", []*onnx.Attribute{ops.StringAttr("direction", "LEFT")}, tensor.New([]uint8{3, 255}), tensor.New([]uint8{1, 8}), tensor.New([]uint8{6, 0})},
		{"Greater", nil, tensor.New([]int64{1<<53 + 1}), tensor.New([]int64{1 << 53}), tensor.New([]bool{true})},
	} {
		got := nodeCase{c.op, 18, c.attr, []*tensor.Tensor{c.a, c.b}}.run(t)
		if _, _, err := tensor.Compare(got, c.want, 0, 0); err != nil {
			t.Errorf("%s: %v", c.op, err)
		}
	}
	m, _, y := nodeCase{"Div", 14, nil, []*tensor.Tensor{tensor.New([]int32{1}), tensor.New([]int32{0})}}.model()
	m.Graph.Outputs = []*onnx.Value{y}
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Run(context.Background(), map[string]tensor.Value{"x0": tensor.New([]int32{1}), "x1": tensor.New([]int32{0})}); err == nil {
		t.Error("1/0 gave no error")
	}
}
