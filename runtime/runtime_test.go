package runtime_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// graph builds a model over inputs of declared types.
func graph(inputs []*onnx.Value, outputs []*onnx.Value, nodes ...*onnx.Node) *onnx.Model {
	return &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: 21}},
		Graph: &onnx.Graph{Name: "g", Inputs: inputs, Outputs: outputs, Nodes: nodes}}
}

func floatInput(name string, dims ...onnx.Dim) *onnx.Value {
	return &onnx.Value{Name: name, Type: &onnx.Type{Elem: tensor.Float32, Shape: dims}}
}

func lstm(t *testing.T, opts ...runtime.Option) *runtime.Session {
	t.Helper()
	m, err := onnx.Load("../models/char_lstm/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	s, err := runtime.NewSession(m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func batch(n, time int) map[string]tensor.Value {
	tokens := make([]int64, n*time)
	for i := range tokens {
		tokens[i] = int64(i*7) % 97
	}
	return map[string]tensor.Value{"tokens": tensor.New(tokens, n, time),
		"h0": tensor.New(make([]float32, n*128), 1, n, 128), "c0": tensor.New(make([]float32, n*128), 1, n, 128)}
}

// Many goroutines with different shapes share one session, and each gets its own answer.
func TestConcurrentRuns(t *testing.T) {
	s := lstm(t)
	type key struct{ n, time int }
	want := map[key]tensor.Value{}
	for n := 1; n <= 3; n++ {
		out, err := s.Run(context.Background(), batch(n, 4+n))
		if err != nil {
			t.Fatal(err)
		}
		want[key{n, 4 + n}] = out["logits"]
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			k := key{1 + i%3, 5 + i%3}
			out, err := s.Run(context.Background(), batch(k.n, k.time))
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := tensor.Compare(out["logits"], want[k], 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestOneThreadAndTwoAgree(t *testing.T) {
	a, err := lstm(t, runtime.Threads(1)).Run(context.Background(), batch(4, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := lstm(t, runtime.Threads(2)).Run(context.Background(), batch(4, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tensor.Compare(a["logits"], b["logits"], 1e-5, 1e-5); err != nil {
		t.Error(err)
	}
}

func TestBadInputs(t *testing.T) {
	s := lstm(t)
	for says, change := range map[string]func(map[string]tensor.Value){
		`input "tokens" is missing`:    func(in map[string]tensor.Value) { delete(in, "tokens") },
		`no input "bogus"`:             func(in map[string]tensor.Value) { in["bogus"] = in["h0"] },
		"want element type int64":      func(in map[string]tensor.Value) { in["tokens"] = tensor.New([]float32{1}, 1, 1) },
		"want shape [1 batch 128]":     func(in map[string]tensor.Value) { in["h0"] = tensor.New(make([]float32, 64), 1, 1, 64) },
		`input "h0": the value is nil`: func(in map[string]tensor.Value) { in["h0"] = nil },
		"outside":                      func(in map[string]tensor.Value) { in["tokens"] = tensor.New([]int64{1000}, 1, 1) },
		"initial":                      func(in map[string]tensor.Value) { in["h0"] = tensor.New(make([]float32, 256), 1, 2, 128) },
	} {
		in := batch(1, 1)
		change(in)
		if _, err := s.Run(context.Background(), in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want an error with %q, got %v", says, err)
		}
	}
}

func TestCancelledAndLimited(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := lstm(t).Run(ctx, batch(1, 4)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run gives %v", err)
	}
	var limit *ops.ErrMemory
	if _, err := lstm(t, runtime.MemoryLimit(1000)).Run(context.Background(), batch(8, 64)); !errors.As(err, &limit) {
		t.Errorf("a run over its limit gives %v", err)
	}
}

// An endless loop ends with its context.
func TestEndlessLoopEnds(t *testing.T) {
	iter := &onnx.Value{Name: "i", Type: &onnx.Type{Elem: tensor.Int64, Shape: []onnx.Dim{}}}
	cond := &onnx.Value{Name: "c", Type: &onnx.Type{Elem: tensor.Bool, Shape: []onnx.Dim{}}}
	id := onnx.NewNode("Identity", []*onnx.Value{cond}, "c_out")
	body := &onnx.Graph{Name: "body", Inputs: []*onnx.Value{iter, cond}, Nodes: []*onnx.Node{id}, Outputs: id.Outputs}
	start := &onnx.Value{Name: "start", Type: &onnx.Type{Elem: tensor.Bool, Shape: []onnx.Dim{}}}
	x := floatInput("x", onnx.Dim{Value: 1})
	add := onnx.NewNode("Relu", []*onnx.Value{x}, "carried")
	loop := onnx.NewNode("Loop", []*onnx.Value{nil, start, add.Outputs[0]}, "y")
	carried := floatInput("v", onnx.Dim{Value: 1})
	body.Inputs = append(body.Inputs, carried)
	keep := onnx.NewNode("Identity", []*onnx.Value{carried}, "v_out")
	body.Nodes = append(body.Nodes, keep)
	body.Outputs = append(body.Outputs[:1:1], keep.Outputs[0])
	loop.Attrs = []*onnx.Attribute{{Name: "body", Type: onnx.AttrGraph, G: body}}
	s, err := runtime.NewSession(graph([]*onnx.Value{start, x}, loop.Outputs, add, loop))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50e6)
	defer cancel()
	_, err = s.Run(ctx, map[string]tensor.Value{"start": tensor.Scalar(true), "x": tensor.New([]float32{1})})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// All unsupported operators are named at once, before anything runs.
func TestUnsupportedOperators(t *testing.T) {
	x := floatInput("x")
	a := onnx.NewNode("Nonsense", []*onnx.Value{x}, "a")
	b := onnx.NewNode("Gibberish", a.Outputs, "b")
	_, err := runtime.NewSession(graph([]*onnx.Value{x}, b.Outputs, a, b))
	var u *runtime.UnsupportedModelError
	if !errors.As(err, &u) || len(u.Problems) != 2 {
		t.Errorf("got %v", err)
	}
}

// Outputs are the caller's: a later run does not change them, nor do they share memory with inputs.
func TestOutputsAreOwned(t *testing.T) {
	x := floatInput("x", onnx.Dim{Value: 2})
	id := onnx.NewNode("Identity", []*onnx.Value{x}, "same")
	neg := onnx.NewNode("Neg", []*onnx.Value{x}, "neg")
	s, err := runtime.NewSession(graph([]*onnx.Value{x}, []*onnx.Value{id.Outputs[0], neg.Outputs[0], x}, id, neg))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	in := tensor.New([]float32{1, 2})
	first, err := s.Run(context.Background(), map[string]tensor.Value{"x": in})
	if err != nil {
		t.Fatal(err)
	}
	tensor.Data[float32](in)[0] = 5
	if _, err := s.Run(context.Background(), map[string]tensor.Value{"x": in}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float32{"same": 1, "neg": -1, "x": 1} {
		if got := tensor.Data[float32](first[name].(*tensor.Tensor))[0]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// An output is nobody else's memory, also where control flow or a sequence passes on what it was given.
func TestOutputsAreDetached(t *testing.T) {
	b := onnx.NewBuilder("detached", 21)
	w := b.Init("w", tensor.New([]float32{1, 2}))
	x := b.Input("x", tensor.Float32, 2)
	s := b.InputOf("s", &onnx.Type{Kind: onnx.SequenceType, Of: &onnx.Type{Elem: tensor.Float32}})
	cond := b.Input("cond", tensor.Bool)
	then, other := b.Sub("then"), b.Sub("else")
	then.OutputOf("then_out", then.Op("Identity", w), nil)
	other.OutputOf("else_out", other.Op("Identity", x), nil)
	b.OutputOf("branch", b.Node("If", []*onnx.Value{cond}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph())), nil)
	b.OutputOf("element", b.Op("SequenceAt", s, b.Const(tensor.Scalar(int64(0)))), nil)
	b.OutputOf("list", b.Op("SequenceInsert", s, x), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	session, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, c := range []bool{true, false} {
		in := map[string]tensor.Value{"x": tensor.New([]float32{1, 2}), "cond": tensor.Scalar(c),
			"s": &tensor.Sequence{Elem: tensor.Float32, Values: []tensor.Value{tensor.New([]float32{1, 2})}}}
		for range 2 {
			out, err := session.Run(context.Background(), in)
			if err != nil {
				t.Fatal(err)
			}
			list := out["list"].(*tensor.Sequence)
			for _, v := range append([]tensor.Value{out["branch"], out["element"]}, list.Values...) {
				d := tensor.Data[float32](v.(*tensor.Tensor))
				if d[0] != 1 || d[1] != 2 {
					t.Fatalf("got %v: an earlier output's memory is the model's or the input's", d)
				}
				d[0] = 9
			}
		}
	}
}

// An initializer that is an input too (IR version 3) is a constant until a run is given another value for it, and is one again after that.
func TestInputsWithDefaults(t *testing.T) {
	x := floatInput("x", onnx.Dim{Param: "n"}, onnx.Dim{Value: 2})
	w := floatInput("w", onnx.Dim{Value: 2}, onnx.Dim{Value: 2})
	w.Const = tensor.New([]float32{1, 0, 0, 1}, 2, 2)
	y, z := &onnx.Value{Name: "y"}, &onnx.Value{Name: "z"}
	product := &onnx.Node{Op: "MatMul", Inputs: []*onnx.Value{x, w}}
	product.AddOutput(y)
	relu := &onnx.Node{Op: "Relu", Inputs: []*onnx.Value{y}}
	relu.AddOutput(z)
	m := graph([]*onnx.Value{w, x}, []*onnx.Value{z}, product, relu)
	m.Graph.Inits = []*onnx.Value{w}
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	in := tensor.New([]float32{1, -2, 3, 4}, 2, 2)
	for _, c := range []struct {
		w    []float32
		want []float32
	}{{nil, []float32{1, 0, 3, 4}}, {[]float32{0, 1, 1, 0}, []float32{0, 1, 4, 3}}, {nil, []float32{1, 0, 3, 4}}} {
		args := map[string]tensor.Value{"x": in}
		if c.w != nil {
			args["w"] = tensor.New(c.w, 2, 2)
		}
		out, err := s.Run(context.Background(), args)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tensor.Compare(out["z"], tensor.New(c.want, 2, 2), 0, 0); err != nil {
			t.Errorf("w %v: %v", c.w, err)
		}
	}
	if p := s.Inputs(); len(p) != 2 || !p[0].Optional || p[1].Optional {
		t.Errorf("inputs %v", p)
	}
}

// A graph made in Go may read what nothing gives: in a branch, and where it stands.
func TestUndefinedValues(t *testing.T) {
	for _, inBranch := range []bool{false, true} {
		nowhere := &onnx.Value{Name: "nowhere"}
		g := &onnx.Graph{Name: "g"}
		n := onnx.NewNode("Relu", []*onnx.Value{nowhere}, "y")
		if inBranch {
			c := &onnx.Value{Name: "c", Type: &onnx.Type{Elem: tensor.Bool}}
			g.Inputs = append(g.Inputs, c)
			branch := func(name string) *onnx.Attribute {
				b := &onnx.Graph{Name: name, Nodes: []*onnx.Node{onnx.NewNode("Relu", []*onnx.Value{nowhere}, name+"_y")}}
				b.Outputs = b.Nodes[0].Outputs
				return onnx.GraphAttr(name, b)
			}
			n = onnx.NewNode("If", []*onnx.Value{c}, "y")
			n.Attrs = append(n.Attrs, branch("then_branch"), branch("else_branch"))
			for _, b := range n.Graphs() {
				b.Outer = n
			}
		}
		g.Nodes, g.Outputs = []*onnx.Node{n}, n.Outputs
		_, err := runtime.NewSession(&onnx.Model{IRVersion: 8, Opsets: []onnx.Opset{{Version: 13}}, Graph: g})
		if err == nil || !strings.Contains(err.Error(), `"nowhere"`) || strings.Contains(err.Error(), "panic") {
			t.Errorf("in a branch %v: want an error that names the value, got %v", inBranch, err)
		}
	}
}
