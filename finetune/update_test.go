package finetune

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// linear is y = x · weight + bias with weights of that type; x has rows of three.
func linear(t *testing.T, d tensor.DType) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("linear", 17)
	as := func(v ...float64) *tensor.Tensor {
		out, err := tensor.Convert(tensor.New(v), d, true)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	w, err := as(0.5, -1, 0, 2, 0.25, -0.75).Reshape(3, 2)
	if err != nil {
		t.Fatal(err)
	}
	y := b.Op("Add", b.Op("MatMul", b.Input("x", d, "n", 3), b.Init("weight", w)), b.Init("bias", as(0, 1)))
	b.Output("y", y, d, "n", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// rows is n examples for linear, x of type d and the target y of type e.
func rows(t *testing.T, d, e tensor.DType, from, n int) Batch {
	t.Helper()
	x, y := make([]float64, 3*n), make([]float64, 2*n)
	for i := range n {
		for k := range 3 {
			x[3*i+k] = math.Sin(float64(7*(from+i) + 3*k))
		}
		for k := range 2 {
			y[2*i+k] = math.Cos(float64(5*(from+i) + 2*k))
		}
	}
	b := Batch{}
	for name, v := range map[string]*tensor.Tensor{"x": tensor.New(x, n, 3), "t": tensor.New(y, n, 2)} {
		to := d
		if name == "t" {
			to = e
		}
		var err error
		if b[name], err = tensor.Convert(v, to, true); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func trainer(t *testing.T, m *onnx.Model, cfg Config) *Trainer {
	t.Helper()
	if cfg.Loss == nil {
		cfg.Loss = MSE{Output: "y", Target: "t"}
	}
	tr, err := New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

func values(tr *Trainer) []float64 {
	var v []float64
	for _, p := range tr.Parameters() {
		v = append(v, tensor.Float64s(p.Value)...)
	}
	return v
}

func apart(a, b []float64) (worst float64) {
	for i := range a {
		worst = max(worst, math.Abs(a[i]-b[i]))
	}
	return worst
}

// Steps of two batches are those of both together.
func TestAccumulation(t *testing.T) {
	ctx := context.Background()
	for _, d := range []tensor.DType{tensor.Float32, tensor.Float64, tensor.BFloat16} {
		e := d
		if d == tensor.BFloat16 {
			e = tensor.Float32
		}
		m := linear(t, d)
		one, two := trainer(t, m, Config{Optimizer: Adam{LR: 0.01}}), trainer(t, m, Config{Optimizer: Adam{LR: 0.01}})
		for range 5 {
			a, err := one.Step(ctx, rows(t, d, e, 0, 8))
			if err != nil {
				t.Fatal(err)
			}
			b, err := two.Step(ctx, rows(t, d, e, 0, 4), rows(t, d, e, 4, 4))
			if err != nil {
				t.Fatal(err)
			}
			if tol := map[tensor.DType]float64{tensor.Float64: 1e-12, tensor.Float32: 1e-6, tensor.BFloat16: 0.02}[d]; math.Abs(a.Loss-b.Loss) > tol || apart(values(one), values(two)) > tol {
				t.Errorf("%s: losses %v and %v, weights %v apart", d, a.Loss, b.Loss, apart(values(one), values(two)))
			}
		}
		if one.Steps() != 5 || two.Steps() != 5 {
			t.Errorf("%d and %d steps", one.Steps(), two.Steps())
		}
	}
}

// The penalties' gradients and both clippings, against what they are by hand.
func TestPenaltiesAndClipping(t *testing.T) {
	ctx := context.Background()
	b := rows(t, tensor.Float64, tensor.Float64, 0, 6)
	m := linear(t, tensor.Float64)
	plain := trainer(t, m, Config{Optimizer: SGD{LR: 1}})
	_, grads, err := plain.Gradients(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	begin := values(plain)
	var g []float64
	for _, p := range plain.Parameters() {
		g = append(g, tensor.Float64s(grads[p.Name])...)
	}
	norm := func(v []float64) (s float64) {
		for _, x := range v {
			s += x * x
		}
		return math.Sqrt(s)
	}
	each := func(f func(w, g float64) float64) []float64 {
		out := make([]float64, len(g))
		for i := range g {
			out[i] = f(begin[i], g[i])
		}
		return out
	}
	sign := func(x float64) float64 {
		if x == 0 {
			return 0
		}
		return math.Copysign(1, x)
	}
	clip := func(v float64) float64 { return max(-0.1, min(0.1, v)) }
	clipped := each(func(_, g float64) float64 { return clip(g) })
	for _, c := range []struct {
		name string
		cfg  Config
		want []float64 // the step
		norm float64
	}{
		{"l1", Config{L1: 0.3}, each(func(w, g float64) float64 { return g + 0.3*sign(w) }), 0},
		{"l2", Config{L2: 0.3}, each(func(w, g float64) float64 { return g + 0.6*w }), 0},
		{"clip value", Config{ClipValue: 0.1}, clipped, norm(g)},
		{"clip norm", Config{ClipNorm: 0.5}, each(func(_, x float64) float64 { return x * 0.5 / (norm(g) + 1e-6) }), norm(g)},
		{"both", Config{ClipValue: 0.1, ClipNorm: 0.05}, each(func(_, x float64) float64 { return clip(x) * 0.05 / (norm(clipped) + 1e-6) }), norm(g)},
		{"loose", Config{ClipValue: 1e3, ClipNorm: 1e3}, g, norm(g)},
		{"scaled", Config{LossScale: 1024}, g, norm(g)},
	} {
		c.cfg.Optimizer = SGD{LR: 1}
		tr := trainer(t, m, c.cfg)
		s, err := tr.Step(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		got := values(tr)
		for i := range got {
			got[i] = begin[i] - got[i]
		}
		if apart(got, c.want) > 1e-12 {
			t.Errorf("%s: step %v, want %v", c.name, got, c.want)
		}
		if want := c.norm; want != 0 && math.Abs(s.GradNorm-want) > 1e-12 || want == 0 && math.Abs(s.GradNorm-norm(c.want)) > 1e-12 {
			t.Errorf("%s: the gradients' norm is %v", c.name, s.GradNorm)
		}
	}
}

// Weights of 16 bits have masters: steps too small for them add up.
func TestHalfWeights(t *testing.T) {
	ctx := context.Background()
	for _, d := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
		t.Run(d.String(), func(t *testing.T) {
			half, full := trainer(t, linear(t, d), Config{Optimizer: SGD{LR: 1e-4}}), trainer(t, linear(t, tensor.Float32), Config{Optimizer: SGD{LR: 1e-4}})
			var a, b Step
			var err error
			for range 400 {
				if a, err = half.Step(ctx, rows(t, d, tensor.Float32, 0, 8)); err != nil {
					t.Fatal(err)
				}
				if b, err = full.Step(ctx, rows(t, tensor.Float32, tensor.Float32, 0, 8)); err != nil {
					t.Fatal(err)
				}
			}
			if math.Abs(a.Loss-b.Loss) > 0.01*b.Loss || apart(values(half), values(full)) > 0.01 {
				t.Errorf("loss %v, of float32 %v; weights %v apart", a.Loss, b.Loss, apart(values(half), values(full)))
			}
			if got := half.Model().Graph.Init("weight").Const.DType(); got != d {
				t.Errorf("the tuned weights are %s", got)
			}
		})
	}
}

// Gradients that are too small for float16 are there with a scale; where the scaled ones are too great the step is
// skipped and the scale halved.
func TestLossScale(t *testing.T) {
	ctx := context.Background()
	m := linear(t, tensor.Float16)
	b := rows(t, tensor.Float16, tensor.Float32, 0, 8)
	tiny := Batch{"x": tensor.New(make([]tensor.F16, 24), 8, 3), "t": b["t"]}
	for i := range 24 {
		tensor.SetFloat64At(tiny["x"].(*tensor.Tensor), i, 1e-7)
	}
	tr := trainer(t, m, Config{Optimizer: SGD{LR: 1e3}, Trainable: []string{"weight"}})
	s, err := tr.Step(ctx, tiny)
	if err != nil || s.GradNorm == 0 || s.Skipped {
		t.Errorf("gradients are lost: %+v (%v)", s, err)
	}
	great := Batch{"x": b["x"], "t": tensor.New(make([]float32, 16), 8, 2)}
	for i := range 16 {
		tensor.SetFloat64At(great["t"].(*tensor.Tensor), i, 300)
	}
	tr = trainer(t, m, Config{Optimizer: Adam{}})
	begin := values(tr)
	skipped := 0
	for range 20 {
		if s, err = tr.Step(ctx, great); err != nil {
			t.Fatal(err)
		}
		if s.Skipped {
			if skipped++; apart(values(tr), begin) != 0 {
				t.Error("a skipped step changed weights")
			}
		}
	}
	if skipped == 0 || skipped == 20 || tr.at.Updates != 20-skipped {
		t.Errorf("%d steps were skipped, %d made", skipped, tr.at.Updates)
	}
	fixed := trainer(t, m, Config{Optimizer: Adam{}, LossScale: 65536})
	if _, err := fixed.Step(ctx, great); err == nil {
		t.Error("a fixed scale that is too great is no error")
	}
}

// Losses and weights do not hang on the number of threads, nor on how parameters are cut up.
func TestUpdateThreads(t *testing.T) {
	build := func() *onnx.Model {
		b := onnx.NewBuilder("wide", 17)
		w := make([]float32, 3*chunkSize+5)
		for i := range w {
			w[i] = float32(math.Sin(float64(i)))
		}
		n := len(w)
		b.Output("y", b.Op("Mul", b.Input("x", tensor.Float32, n), b.Init("w", tensor.New(w, n))), tensor.Float32, n)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	n := 3*chunkSize + 5
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], y[i] = float32(i%7), float32(i%5)
	}
	for _, opt := range []Optimizer{SGD{LR: 10, Momentum: 0.9, Nesterov: true, WeightDecay: 0.1}, Adam{WeightDecay: 0.1}, AdamW{}, RMSprop{Momentum: 0.5, Centered: true}, Adagrad{Initial: 0.1, LRDecay: 0.1}} {
		var got [2][]float64
		for i, threads := range []int{1, 3} {
			tr := trainer(t, build(), Config{Optimizer: opt, Threads: threads, ClipNorm: 0.5})
			for range 3 {
				if _, err := tr.Step(context.Background(), Batch{"x": tensor.New(x, n), "t": tensor.New(y, n)}); err != nil {
					t.Fatal(err)
				}
			}
			got[i] = values(tr)
		}
		if apart(got[0], got[1]) != 0 {
			t.Errorf("%T: %v apart with other threads", opt, apart(got[0], got[1]))
		}
	}
}

// A parameter of a branch that no batch has taken yet stays as it is, without weight decay, and its updates count from the first
// that takes it: PyTorch's gradient of it is None until then. Later batches that do not take it count, with gradients of zero.
func TestParametersOfBranches(t *testing.T) {
	b := onnx.NewBuilder("branches", 17)
	x, which := b.Input("x", tensor.Float32, 2), b.Input("which", tensor.Bool)
	var branches []*onnx.Attribute
	for _, name := range []string{"then", "else"} {
		s := b.Sub(name)
		s.Output(name+"_y", s.Op("Mul", x, b.Init(name+"_w", tensor.New([]float32{0.5, -1.5}))), tensor.Float32, 2)
		branches = append(branches, onnx.GraphAttr(name+"_branch", s.Graph()))
	}
	b.Output("y", b.Node("If", []*onnx.Value{which}, branches...), tensor.Float32, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	taken := []bool{true, true, false, true, false}
	const lr = 0.1
	path := filepath.Join(t.TempDir(), "branches.safetensors")
	tr := trainer(t, m, Config{Optimizer: AdamW{LR: lr}})
	input := []float64{1, 2}
	w := map[string][]float64{"then_w": {0.5, -1.5}, "else_w": {0.5, -1.5}}
	mean, square, steps := map[string][]float64{}, map[string][]float64{}, map[string]int{}
	for name := range w {
		mean[name], square[name] = make([]float64, 2), make([]float64, 2)
	}
	for i, then := range taken {
		if i == 3 { // a trainer that goes on where another was
			if err := tr.Save(path, ""); err != nil {
				t.Fatal(err)
			}
			tr = trainer(t, m, Config{Optimizer: AdamW{LR: lr}})
			if _, err := tr.Restore(path); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tr.Step(context.Background(), Batch{"x": tensor.New([]float32{1, 2}), "which": tensor.Scalar(then), "t": tensor.New([]float32{0, 0})}); err != nil {
			t.Fatal(err)
		}
		for name, v := range w {
			if (name == "then_w") != then && steps[name] == 0 {
				continue
			}
			steps[name]++
			n := float64(steps[name])
			for k := range v {
				d := 0.0
				if (name == "then_w") == then {
					d = input[k] * input[k] * v[k] // of the mean of two squares
				}
				mean[name][k] = 0.9*mean[name][k] + 0.1*d
				square[name][k] = 0.999*square[name][k] + 0.001*d*d
				v[k] *= 1 - lr*0.01
				v[k] -= lr / (1 - math.Pow(0.9, n)) * mean[name][k] / (math.Sqrt(square[name][k])/math.Sqrt(1-math.Pow(0.999, n)) + 1e-8)
			}
		}
		for _, p := range tr.Parameters() {
			if off := apart(tensor.Float64s(p.Value), w[p.Name]); off > 1e-6 {
				t.Errorf("step %d: %s is %v, want %v", i+1, p.Name, tensor.Float64s(p.Value), w[p.Name])
			}
		}
	}
}

// So it is in loops: one that makes no turn, or whose turns take the other branch, does not come to a parameter; one that does comes to it
// though the gradient be zero.
func TestParametersOfLoops(t *testing.T) {
	b := onnx.NewBuilder("loop", 17)
	x, turns, which := b.Input("x", tensor.Float32, 2), b.Input("turns", tensor.Int64), b.Input("which", tensor.Bool)
	w, v := b.Init("w", tensor.New([]float32{1, 2})), b.Init("v", tensor.New([]float32{3, 4}))
	s := b.Sub("body")
	s.Input("turn", tensor.Int64)
	s.Input("go", tensor.Bool)
	h := s.Input("h", tensor.Float32, 2)
	then, other := s.Sub("then"), s.Sub("else")
	then.Output("then_y", then.Op("Mul", h, v), tensor.Float32, 2)
	other.Output("else_y", other.Op("Identity", h), tensor.Float32, 2)
	y := s.Node("If", []*onnx.Value{which}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph()))
	s.Output("more", s.Const(tensor.Scalar(true)), tensor.Bool)
	s.Output("h_next", s.Op("Mul", y, w), tensor.Float32, 2)
	s.Output("h_then", s.Op("Add", y, y), tensor.Float32, 2)
	outs := b.Multi("Loop", 2, []*onnx.Value{turns, nil, x}, onnx.GraphAttr("body", s.Graph()))
	b.Output("y", outs[0], tensor.Float32, 2)
	b.Output("all", outs[1], tensor.Float32, "turns", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	tr := trainer(t, m, Config{Optimizer: AdamW{LR: 0.1, WeightDecay: 0.5}})
	w0, v0 := []float64{1, 2}, []float64{3, 4}
	for i, c := range []struct {
		turns  int64
		which  bool
		wc, vc float64 // what the decay leaves of w and v, by this step
	}{{0, true, 1, 1}, {2, false, 0.95, 1}, {0, true, 0.95 * 0.95, 1}, {1, true, 0.95 * 0.95 * 0.95, 0.95}, {1, false, math.Pow(0.95, 4), math.Pow(0.95, 2)}} {
		batch := Batch{"x": tensor.New([]float32{0, 0}), "turns": tensor.Scalar(c.turns), "which": tensor.Scalar(c.which), "t": tensor.New([]float32{0, 0})}
		if _, err := tr.Step(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
		for _, p := range tr.Parameters() {
			want := []float64{w0[0] * c.wc, w0[1] * c.wc}
			if p.Name == "v" {
				want = []float64{v0[0] * c.vc, v0[1] * c.vc}
			}
			if off := apart(tensor.Float64s(p.Value), want); off > 1e-6 {
				t.Errorf("step %d: %s is %v, want %v", i+1, p.Name, tensor.Float64s(p.Value), want)
			}
		}
	}
}
