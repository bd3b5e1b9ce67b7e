package finetune

import (
	"bytes"
	"context"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// A Gelu that is spelled out is differentiated as one, but where what would be its constants is trained.
func TestGeluIsFound(t *testing.T) {
	b := onnx.NewBuilder("gelu", 13)
	x := b.Input("x", tensor.Float32, 3, 4)
	w, root := b.Init("w", tensor.New([]float32{-1, 0.5, 2, 0.1})), b.Init("root", tensor.New([]float32{math.Sqrt2}))
	number := func(v float32) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	h := b.Op("Mul", x, w)
	y := b.Op("Mul", b.Op("Mul", h, b.Op("Add", b.Op("Erf", b.Op("Div", h, root)), number(1))), number(0.5))
	b.Output("y", y, tensor.Float32, 3, 4)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	var data []float32
	for i := range 12 {
		data = append(data, float32(i)/3-2)
	}
	batch := Batch{"x": tensor.New(data, 3, 4), "target": tensor.New(make([]float32, 12), 3, 4)}
	var grads [2][]float64
	for i, trained := range [][]string{{"w"}, {"w", "root"}} {
		p := &runtime.Profile{}
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{}, Trainable: trained, Threads: 1, Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		_, g, err := tr.Gradients(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, n := range p.ByNode {
			found = found || n.Op == "GeluGrad"
		}
		if found != (i == 0) {
			t.Errorf("with %v trained: Gelu found is %v", trained, found)
		}
		if i == 1 && tensor.Float64At(g["root"], 0) == 0 {
			t.Error("no gradient came to the root")
		}
		grads[i] = tensor.Float64s(g["w"])
	}
	for i, v := range grads[0] {
		if math.Abs(v-grads[1][i]) > 1e-6 {
			t.Errorf("the gradients of w are %v and %v", grads[0], grads[1])
		}
	}
}

// Attention that is spelled out is differentiated as one, but where what is added to its scores is trained.
func TestAttentionIsFound(t *testing.T) {
	b := onnx.NewBuilder("attention", 17)
	data := func(n int) []float32 {
		d := make([]float32, n)
		for i := range d {
			d[i] = float32(i*7%11)/5 - 1
		}
		return d
	}
	x := b.Input("x", tensor.Float32, 2, 5, 6)
	perm := func(v *onnx.Value, axes ...int64) *onnx.Value {
		return b.Node("Transpose", []*onnx.Value{v}, onnx.IntsAttr("perm", axes...))
	}
	heads := func(name string) *onnx.Value {
		w := b.Init(name, tensor.New(data(36), 6, 6))
		return b.Op("Reshape", b.Op("MatMul", x, w), b.Const(tensor.New([]int64{2, 5, 2, 3})))
	}
	q, k, v := perm(heads("q"), 0, 2, 1, 3), perm(heads("k"), 0, 2, 3, 1), perm(heads("v"), 0, 2, 1, 3)
	bias := b.Init("bias", tensor.New(data(50), 2, 5, 5))
	scores := b.Op("Add", b.Op("Div", b.Op("MatMul", q, k), b.Const(tensor.Scalar(float32(1.7)))), bias)
	y := perm(b.Op("MatMul", b.Node("Softmax", []*onnx.Value{scores}, onnx.IntAttr("axis", -1)), v), 0, 2, 1, 3)
	b.Output("y", y, tensor.Float32, 2, 5, 2, 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	batch := Batch{"x": tensor.New(data(60), 2, 5, 6), "target": tensor.New(make([]float32, 60), 2, 5, 2, 3)}
	var grads [2]map[string]*tensor.Tensor
	for i, trained := range [][]string{{"q", "k", "v"}, {"q", "k", "v", "bias"}} {
		p := &runtime.Profile{}
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{}, Trainable: trained, Threads: 1, Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		if _, grads[i], err = tr.Gradients(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, n := range p.ByNode {
			found = found || n.Op == "StridedAttentionGrad"
		}
		if found != (i == 0) {
			t.Errorf("with %v trained: attention found is %v", trained, found)
		}
	}
	for name, d := range grads[0] {
		want := tensor.Float64s(grads[1][name])
		for i, v := range tensor.Float64s(d) {
			if math.Abs(v-want[i]) > 1e-6 {
				t.Errorf("gradient of %s: element %d is %v and %v", name, i, v, want[i])
			}
		}
	}
	if tensor.Float64At(grads[1]["bias"], 1) == 0 {
		t.Error("no gradient came to the bias")
	}
}

// The mean's gradients are the sum's divided by the number of elements, what the output does not hang on has zeros, and an
// output that does not exist is an error.
func TestOutputGradients(t *testing.T) {
	b := onnx.NewBuilder("g", 17)
	x := b.Input("x", tensor.Float32, 2, 3)
	w := b.Init("w", tensor.New([]float32{1, 2, 3}))
	b.Init("unused", tensor.New([]float32{7, 7}))
	b.Output("y", b.Op("Mul", x, w), tensor.Float32, 2, 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Value{"x": tensor.New([]float32{1, 2, 3, 4, 5, 6}, 2, 3)}
	for _, c := range []struct {
		mean bool
		n    float32
	}{{false, 1}, {true, 6}} {
		g, err := OutputGradients(context.Background(), m, in, "y", c.mean, false)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]float32{"w": {5, 7, 9}, "x": {1, 2, 3, 1, 2, 3}, "unused": {0, 0}} {
			for i, v := range tensor.Data[float32](g[name]) {
				if d := v*c.n - want[i]; d > 1e-5 || d < -1e-5 {
					t.Errorf("mean %v: gradient of %s[%d] is %v, want %v/%v", c.mean, name, i, v, want[i], c.n)
				}
			}
		}
	}
	if _, err := OutputGradients(context.Background(), m, in, "z", false, false); err == nil || !strings.Contains(err.Error(), `"z"`) {
		t.Errorf("an output that does not exist: %v", err)
	}
}

// Roots of sums of squares are how exporters write norms, deviations and distances: where one is zero its gradient is zero, as that of
// what PyTorch had, not the root's infinite slope times nothing. A root of anything else keeps its slope.
func TestNormsOfNothing(t *testing.T) {
	number := func(b *onnx.Builder, v float64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	last := onnx.IntsAttr("axes", -1)
	for name, c := range map[string]struct {
		y    func(b *onnx.Builder, w *onnx.Value) *onnx.Value
		want []float64 // the gradient of the sum for rows 0 0 and 3 4
	}{
		"norm": {func(b *onnx.Builder, w *onnx.Value) *onnx.Value {
			return b.Op("Sqrt", b.Node("ReduceSumSquare", []*onnx.Value{w}, last))
		}, []float64{0, 0, 0.6, 0.8}},
		"norm of products": {func(b *onnx.Builder, w *onnx.Value) *onnx.Value {
			return b.Op("Sqrt", b.Op("ReduceSum", b.Op("Mul", w, w), b.Const(tensor.New([]int64{-1}))))
		}, []float64{0, 0, 0.6, 0.8}},
		"deviation": {func(b *onnx.Builder, w *onnx.Value) *onnx.Value {
			d := b.Op("Sub", w, b.Node("ReduceMean", []*onnx.Value{w}, last))
			mean := b.Node("ReduceMean", []*onnx.Value{b.Op("Mul", d, d)}, last)
			return b.Op("Sqrt", b.Op("Div", b.Op("Mul", mean, number(b, 2)), number(b, 1)))
		}, []float64{0, 0, -math.Sqrt2 / 2, math.Sqrt2 / 2}},
		"distance": {func(b *onnx.Builder, w *onnx.Value) *onnx.Value {
			return b.Op("Pow", b.Op("ReduceSum", b.Op("Pow", w, number(b, 2)), b.Const(tensor.New([]int64{-1}))), number(b, 0.5))
		}, []float64{0, 0, 0.6, 0.8}},
		"root": {func(b *onnx.Builder, w *onnx.Value) *onnx.Value { return b.Op("Sqrt", w) },
			[]float64{math.Inf(1), math.Inf(1), 0.5 / math.Sqrt(3), 0.25}},
	} {
		b := onnx.NewBuilder("norms", 17)
		x, w := b.Input("x", tensor.Float64, 2, 2), b.Init("w", tensor.New([]float64{0, 0, 3, 4}, 2, 2))
		b.Output("y", b.Op("Add", c.y(b, w), b.Op("Mul", x, number(b, 0))), tensor.Float64, 2, 2)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		g, err := OutputGradients(context.Background(), m, map[string]tensor.Value{"x": tensor.New(make([]float64, 4), 2, 2)}, "y", false, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range tensor.Float64s(g["w"]) {
			want := c.want[i]
			if name != "root" {
				want *= 2 // each row's is added to two elements
			}
			if d := v - want; !(math.Abs(d) < 1e-12) && v != want {
				t.Errorf("%s: the gradient of element %d is %v, want %v", name, i, v, want)
			}
		}
	}
}

// What is known of a tensor is known of the pieces that SplitToSequence cuts it into, so that a gradient passes what is joined of them.
func TestGradientPassesPieces(t *testing.T) {
	for name, c := range map[string]struct {
		split []int64
		attrs []*onnx.Attribute
		fresh int64 // whether joining makes a new axis
	}{
		"single":       {nil, []*onnx.Attribute{onnx.IntAttr("keepdims", 0)}, 1},
		"kept":         {nil, []*onnx.Attribute{onnx.IntAttr("axis", -2)}, 0},
		"of that many": {[]int64{1, 2}, nil, 0},
	} {
		b := onnx.NewBuilder("pieces", 13)
		x, w := b.Input("x", tensor.Float32, "n", 2), b.Init("w", tensor.New([]float32{1, 2, 3, 4, 5, 6}, 2, 3))
		in := []*onnx.Value{b.Op("Mul", x, b.Init("scale", tensor.New([]float32{1, 1})))}
		if c.split != nil {
			in = append(in, b.Const(tensor.New(c.split)))
		}
		pieces := b.Node("SplitToSequence", in, c.attrs...)
		joined := b.Node("ConcatFromSequence", []*onnx.Value{pieces}, onnx.IntAttr("axis", 0), onnx.IntAttr("new_axis", c.fresh))
		b.Output("y", b.Op("MatMul", joined, w), tensor.Float32, "n", 3)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		g, err := OutputGradients(context.Background(), m, map[string]tensor.Value{"x": tensor.New([]float32{1, 2, 3, 4, 5, 6}, 3, 2)}, "y", false, false)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for k, want := range map[string][]float64{"w": {9, 9, 9, 12, 12, 12}, "scale": {9 * 6, 12 * 15}} {
			if got := tensor.Float64s(g[k]); !slices.Equal(got, want) {
				t.Errorf("%s: the gradient of %s is %v, want %v", name, k, got, want)
			}
		}
	}
}

// asFunction is m as the call of a function that takes all of its inputs and initializers, as export_modules_as_functions writes modules.
func asFunction(m *onnx.Model) *onnx.Model {
	m = m.Clone()
	body, top := m.Graph, &onnx.Graph{Name: m.Graph.Name}
	var in []*onnx.Value
	for _, v := range body.Inputs {
		top.Inputs = append(top.Inputs, &onnx.Value{Name: v.Name, Type: v.Type})
	}
	for _, v := range body.Inits {
		top.Inits = append(top.Inits, &onnx.Value{Name: v.Name, Type: v.Type, Const: v.Const})
		v.Const = nil
	}
	in = append(slices.Clone(top.Inputs), top.Inits...)
	var outs []string
	for _, v := range body.Outputs {
		outs = append(outs, v.Name)
	}
	call := onnx.NewNode("Net", in, outs...)
	call.Domain = "modules"
	for i, v := range call.Outputs {
		v.Type = body.Outputs[i].Type
	}
	top.Nodes, top.Outputs = []*onnx.Node{call}, call.Outputs
	body.Inputs, body.Inits = append(slices.Clone(body.Inputs), body.Inits...), nil
	m.Functions = append(m.Functions, &onnx.Function{Name: "Net", Domain: "modules", Opsets: m.Opsets, Body: body})
	m.Opsets = append(slices.Clone(m.Opsets), onnx.Opset{Domain: "modules", Version: 1})
	m.Graph = top
	return m
}

// A state dict put back gives the initializers that it came from, transposed weights and gates included, within functions too.
func TestNamesBackAndForth(t *testing.T) {
	for _, dir := range []string{"char_lstm", "gru_classifier", "transformer", "lstm_classifier", "round_trip/ties"} {
		m, err := onnx.Load("../models/" + dir + "/model.onnx")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile("../models/" + dir + "/names.json")
		if err != nil {
			t.Fatal(err)
		}
		names, err := ParseNames(text)
		if err != nil {
			t.Fatal(err)
		}
		dict, _, err := names.StateDict(m)
		if err != nil {
			t.Fatal(err)
		}
		fresh := m.Clone()
		for _, v := range fresh.Graph.Inits {
			if v.Const.DType().IsFloat() {
				v.Const = v.Const.Clone()
				clear(v.Const.Bytes())
			}
		}
		back, err := names.Initializers(fresh, dict, false)
		if err != nil {
			t.Fatal(dir, err)
		}
		for name, w := range back {
			if !bytes.Equal(w.Bytes(), m.Graph.Init(name).Const.Bytes()) {
				t.Errorf("%s: initializer %s came back otherwise", dir, name)
			}
		}
		inside, _, err := names.StateDict(asFunction(m))
		if err != nil {
			t.Fatalf("%s as a function: %v", dir, err)
		}
		for name, w := range dict {
			if !same(inside[name], w) {
				t.Errorf("%s: as a function it holds another %s", dir, name)
			}
		}
	}
}

// What no gradient comes to is told, with the node that ends the way there: for all weights, and for those that were named.
func TestUntrainable(t *testing.T) {
	build := func(end func(b *onnx.Builder, scores *onnx.Value) *onnx.Value) *onnx.Model {
		b := onnx.NewBuilder("m", 17)
		x := b.Input("x", tensor.Float32, 2, 2)
		scores := b.Op("MatMul", x, b.Init("w", tensor.New([]float32{1, 2, 3, 4}, 2, 2)))
		scores.Def().Name = "scores"
		b.Output("y", end(b, scores), tensor.Float32, 2, 2)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	likeliest := func(b *onnx.Builder, scores *onnx.Value) *onnx.Value {
		best := b.Node("ArgMax", []*onnx.Value{scores}, onnx.IntAttr("axis", 1))
		best.Def().Name = "best"
		return b.Node("Cast", []*onnx.Value{best}, onnx.IntAttr("to", int64(tensor.Float32)))
	}
	also := func(b *onnx.Builder, v *onnx.Value) *onnx.Value {
		return b.Op("Mul", v, b.Init("v", tensor.New([]float32{1, 2})))
	}
	for _, c := range []struct {
		end       func(b *onnx.Builder, scores *onnx.Value) *onnx.Value
		trainable []string
		says      string
	}{
		{likeliest, nil, `hangs on no trainable weight but by node "best" (ArgMax), on the way from "w" → "scores" (MatMul), whose output of int64`},
		{func(b *onnx.Builder, s *onnx.Value) *onnx.Value { return also(b, likeliest(b, s)) }, []string{"v", "w"}, `trainable "w": the loss hangs on no weight that it matches but by node "best"`},
		{func(b *onnx.Builder, s *onnx.Value) *onnx.Value { return also(b, likeliest(b, s)) }, []string{"*"}, ""},
		{func(b *onnx.Builder, s *onnx.Value) *onnx.Value {
			return b.Op("Identity", b.Input("z", tensor.Float32, 2, 2))
		}, nil, "hangs on no trainable weight"},
		{func(b *onnx.Builder, s *onnx.Value) *onnx.Value {
			q := b.Init("q", integers([]float32{1, 2}, true, 2))
			return b.Op("Add", b.Op("DequantizeLinear", q, b.Init("scale", tensor.Scalar(float32(1)))), b.Input("z", tensor.Float32, 2, 2))
		}, nil, `those of integers, such as "q", are trained by straight-through estimation alone`},
	} {
		tr, err := New(build(c.end), Config{Loss: MSE{Output: "y", Target: "t"}, Optimizer: SGD{LR: 0.1}, Trainable: c.trainable})
		if err == nil {
			tr.Close()
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("the error is %v, not that %s", err, c.says)
		}
	}
}
