package finetune

import (
	"context"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

func tiesModel(t *testing.T) (*onnx.Model, Batch) {
	t.Helper()
	m, err := onnx.Load("../models/round_trip/ties/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	arrays, err := npy.ReadNPZ("../models/round_trip/ties/train_batches.npz")
	if err != nil {
		t.Fatal(err)
	}
	b := Batch{}
	for name, a := range arrays {
		b[name] = a
	}
	return m, b
}

// What a names file says of merged and of doubled weights can be said by globs: training is the same.
func TestUntieAndTieAreWhatNamesSay(t *testing.T) {
	m, b := tiesModel(t)
	cfg := Config{Loss: CrossEntropy{Output: "logits", Target: "target"}, Optimizer: SGD{LR: 0.1}}
	var want, merged []float64
	for i, change := range []func(c *Config){
		func(c *Config) { c.Names = readNames(t, filepath.Join("..", "models", "round_trip", "ties")) },
		func(c *Config) {},
		func(c *Config) {
			c.Untie, c.Tie = []string{"norm1.*"}, map[string]string{"onnx::MatMul_19": "embed.weight"}
		},
		func(c *Config) {
			c.Untie, c.Tie = []string{"norm2.*"}, map[string]string{"embed.weight": "onnx::MatMul_19"}
		},
		func(c *Config) { c.Untie, c.TieEqual = []string{"norm*"}, []string{"[eo]*[t9]"} },
		func(c *Config) { c.Untie, c.TieEqual = []string{"norm*"}, []string{"*"} }, // what was told apart is equal still
	} {
		c := cfg
		change(&c)
		tr, err := New(m, c)
		if err != nil {
			t.Fatalf("configuration %d: %v", i, err)
		}
		defer tr.Close()
		var losses []float64
		for range 4 {
			s, err := tr.Step(context.Background(), b)
			if err != nil {
				t.Fatal(err)
			}
			losses = append(losses, s.Loss)
		}
		switch i {
		case 0:
			want = losses
			continue
		case 1:
			if merged = losses; slices.Equal(merged, want) {
				t.Error("without a word of ties training is the same")
			}
			continue
		}
		if !slices.Equal(losses, want) {
			t.Errorf("configuration %d: losses %v, by names %v", i, losses, want)
		}
		embed, head := tr.Model().Graph.Init("embed.weight").Const, tr.Model().Graph.Init("onnx::MatMul_19").Const
		if back, err := transpose(head); err != nil || !same(back, embed) {
			t.Errorf("configuration %d: embedding and head are no longer one", i)
		}
		if same(tr.Model().Graph.Init("norm1.weight").Const, tr.Model().Graph.Init("norm2.weight").Const) {
			t.Errorf("configuration %d: the norms were trained as one", i)
		}
		loss, err := tr.Loss(context.Background(), b)
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
		again, err := New(tuned, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got, err := again.Loss(context.Background(), b); err != nil || got != loss {
			t.Errorf("configuration %d: the tuned file's loss is %v (%v), the trainer's %v", i, got, err, loss)
		}
	}
}

func TestSharedSaysWhatMayBeTied(t *testing.T) {
	m, _ := tiesModel(t)
	shared, err := Shared(m)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Sharing{}
	for _, s := range shared {
		found[s.Initializer] = s
	}
	if s := found["embed.weight"]; !slices.Equal(s.Transposed, []string{"onnx::MatMul_19"}) || s.Nodes != nil || s.Copies != nil {
		t.Errorf("of embed.weight it says %+v", s)
	}
	if s := found["norm1.weight"]; len(s.Nodes) != 2 || s.Copies != nil {
		t.Errorf("of norm1.weight it says %+v", s)
	}
	if s, ok := found["mix.bias"]; ok {
		t.Errorf("mix.bias is one: %+v", s)
	}
}

// shared is y = (x·w + v)·w, with copies of v.
func sharedModel(t *testing.T) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("m", 17)
	w, v := b.Init("w", tensor.New([]float32{1, 1}, 2)), b.Init("v", tensor.New([]float32{2, 3}, 2))
	u, z := b.Init("u", tensor.New([]float32{2, 3}, 2)), b.Init("z", tensor.New([]float32{2, 4}, 2))
	y := b.Op("Mul", b.Op("Add", b.Op("Mul", b.Input("x", tensor.Float32, 2), w), v), w)
	b.Output("y", b.Op("Add", y, b.Op("Mul", u, z)), tensor.Float32, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An initializer that nodes read directly becomes one for each of them.
func TestUntieOfDirectReaders(t *testing.T) {
	m := sharedModel(t)
	tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 0.1}, Untie: []string{"w"}, Trainable: []string{"w", "w@*"}})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	_, grads, err := tr.Gradients(context.Background(), Batch{"x": tensor.New([]float32{1, 2}, 2), "target": tensor.New([]float32{6, 16}, 2)})
	if err != nil {
		t.Fatal(err)
	}
	// y is 7 and 17, each 1 off: the first w gets x·w, the second x·w + v.
	var got [][]float32
	for _, p := range tr.Parameters() {
		got = append(got, tensor.Data[float32](grads[p.Name]))
	}
	if len(got) != 2 || !slices.Equal(got[0], []float32{1, 2}) || !slices.Equal(got[1], []float32{3, 5}) {
		t.Errorf("the gradients are %v", got)
	}
}

// Folding gives a copy axes of one, and may transpose it as well: it is one parameter still, and the tuned model has both, in their shapes.
func TestTiesWithAxesOfOne(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	w := b.Init("w", tensor.New([]float64{1, 2, 3, 4}, 2, 2))
	flat, turned := b.Init("flat", tensor.New([]float64{1, 2, 3, 4}, 2, 1, 2)), b.Init("turned", tensor.New([]float64{1, 3, 2, 4}, 1, 2, 2))
	y := b.Op("Mul", b.Op("MatMul", b.Op("MatMul", b.Input("x", tensor.Float64, 2, 2), w), turned), flat)
	b.Output("y", y, tensor.Float64, 2, 2, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	shared, err := Shared(m)
	if err != nil || len(shared) != 1 || !slices.Equal(shared[0].Copies, []string{"flat"}) || !slices.Equal(shared[0].Transposed, []string{"turned"}) {
		t.Errorf("it says %+v (%v)", shared, err)
	}
	names := Names{"w": {Shape: []int{2, 2}, Initializer: "w", Form: Verbatim, Also: []string{"flat", "turned"}}}
	batch := Batch{"x": tensor.New([]float64{1, -1, 0.5, 2}, 2, 2), "target": tensor.New(make([]float64, 8), 2, 2, 2)}
	for i, change := range []func(c *Config){
		func(c *Config) { c.Tie = map[string]string{"flat": "w", "turned": "w"} },
		func(c *Config) { c.Names = names },
		func(c *Config) { c.TieEqual = []string{"*"} },
	} {
		cfg := Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1e-9}}
		change(&cfg)
		tr := trainer(t, m, cfg)
		before, grads, err := tr.Gradients(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		if len(grads) != 1 {
			t.Fatalf("configuration %d: %d parameters", i, len(grads))
		}
		if _, err := tr.Step(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
		g := tr.Model().Graph
		a, f, r := g.Init("w").Const, g.Init("flat").Const, g.Init("turned").Const
		if back, err := transpose(a); err != nil || !slices.Equal(f.Bytes(), a.Bytes()) || !slices.Equal(r.Bytes(), back.Bytes()) ||
			!slices.Equal(f.Shape(), []int{2, 1, 2}) || !slices.Equal(r.Shape(), []int{1, 2, 2}) {
			t.Errorf("configuration %d: afterwards %v, %v, %v", i, a, f, r)
		}
		squares := 0.0
		for _, d := range tensor.Float64s(grads["w"]) {
			squares += d * d
		}
		after, err := tr.Loss(context.Background(), batch)
		if err != nil || math.Abs((before-after)/1e-9/squares-1) > 1e-3 {
			t.Errorf("configuration %d: the step from %v to %v (%v) is not the gradient's, whose square is %v", i, before, after, err, squares)
		}
	}
	inits, err := names.Initializers(m, map[string]*tensor.Tensor{"w": tensor.New([]float64{5, 6, 7, 8}, 2, 2)}, false)
	if err != nil || !slices.Equal(tensor.Data[float64](inits["flat"]), []float64{5, 6, 7, 8}) || !slices.Equal(tensor.Data[float64](inits["turned"]), []float64{5, 7, 6, 8}) {
		t.Errorf("from a state dict they are %v (%v)", inits, err)
	}
}

func TestTiesThatAreNone(t *testing.T) {
	m := sharedModel(t)
	for _, c := range []struct {
		change func(*Config)
		fail   string
	}{
		{func(c *Config) { c.Untie = []string{"nobody"} }, `untie "nobody" matches no`},
		{func(c *Config) { c.Untie = []string{"["} }, "syntax"},
		{func(c *Config) { c.Tie = map[string]string{"z": "v"} }, "no copy"},
		{func(c *Config) { c.Tie = map[string]string{"z": "nobody"} }, "nobody"},
		{func(c *Config) { c.Tie = map[string]string{"v": "v"} }, "not two"},
		{func(c *Config) { c.Tie = map[string]string{"v": "u", "u": "v"} }, "itself"},
		{func(c *Config) { c.TieEqual = []string{"[wz]"} }, "no two"},
		{func(c *Config) { c.TieEqual = []string{"["} }, "syntax"},
	} {
		cfg := Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 0.1}}
		c.change(&cfg)
		if tr, err := New(m, cfg); err == nil || !strings.Contains(err.Error(), c.fail) {
			t.Errorf("the error is %v, want one about %q", err, c.fail)
			if tr != nil {
				tr.Close()
			}
		}
	}
}

// Numbers of formulas are no parameters, unless they are called so.
func TestConstantsOfFormulasAreNotTrained(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	y := b.Input("x", tensor.Float32, 2, 2)
	for _, name := range []string{"onnx::Mul_5", "/attention/Constant_output_0", "12", "val_3", "model/scale:0", "logit_scale", "layers.0.gamma"} {
		y = b.Op("Mul", y, b.Init(name, tensor.Scalar(float32(0.5))))
	}
	y = b.Op("PRelu", y, b.Init("onnx::PRelu_7", tensor.New([]float32{0.25}, 1, 1)))
	b.Output("y", y, tensor.Float32, 2, 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		trainable []string
		names     Names
		want      string
	}{
		{nil, nil, "layers.0.gamma logit_scale onnx::PRelu_7"},
		{[]string{"*"}, nil, "layers.0.gamma logit_scale onnx::PRelu_7"},
		{[]string{"onnx::*"}, nil, "onnx::PRelu_7"},
		{[]string{"onnx::Mul_5"}, nil, "onnx::Mul_5"},
		{nil, Names{"temperature": {Shape: []int{}, Initializer: "onnx::Mul_5", Form: Verbatim}}, "layers.0.gamma logit_scale onnx::Mul_5"},
		{[]string{"*PRelu_7"}, Names{"temperature": {Shape: []int{}, Initializer: "onnx::Mul_5", Form: Verbatim}, "lost": {Shape: []int{1}}}, "onnx::PRelu_7"},
	} {
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{}, Trainable: c.trainable, Names: c.names})
		if err != nil {
			t.Errorf("%v: %v", c.trainable, err)
			continue
		}
		var got []string
		for _, p := range tr.Parameters() {
			got = append(got, p.Name)
		}
		if slices.Sort(got); strings.Join(got, " ") != c.want {
			t.Errorf("of %v trained are %v", c.trainable, got)
		}
		tr.Close()
	}
}
