package finetune

import (
	"context"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// The convnet was exported in training mode and for inference with its batch norms kept, and PyTorch trained both: each
// file follows either recording, if it is told to. Running statistics end as PyTorch's, in the file as it was exported.
func TestModesFollowPyTorch(t *testing.T) {
	const train, eval = "../models/convnet", "../models/convnet_preserved"
	stats, err := npy.ReadNPZ(filepath.Join(train, "running_stats.npz"))
	if err != nil {
		t.Fatal(err)
	}
	moved := func(t *testing.T, optimizer string, tr *Trainer) {
		if optimizer != "sgd_momentum" {
			return
		}
		checked := 0
		for name, want := range stats {
			if strings.HasSuffix(name, "num_batches_tracked") {
				continue
			}
			if _, _, err := tensor.Compare(tr.Model().Graph.Init(name).Const, want, 1e-5, 1e-6); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			checked++
		}
		if checked != 4 {
			t.Errorf("%d running statistics", checked)
		}
	}
	// The exporter ran the model once before it wrote the file for training, which moved its statistics.
	training, inference := load(t, train), load(t, eval)
	for _, v := range training.Graph.Inits {
		if strings.Contains(v.Name, "running") {
			v.Const = inference.Graph.Init(v.Name).Const
		}
	}
	kept := func(t *testing.T, _ string, tr *Trainer) {
		for _, v := range inference.Graph.Inits {
			if strings.Contains(v.Name, "running") && !same(v.Const, tr.Model().Graph.Init(v.Name).Const) {
				t.Errorf("%s has moved in inference", v.Name)
			}
		}
	}
	t.Run("as exported", func(t *testing.T) { follow(t, training, train, AsExported, moved) })
	t.Run("train", func(t *testing.T) {
		follow(t, inference, train, Train, func(t *testing.T, optimizer string, tr *Trainer) {
			moved(t, optimizer, tr)
			for _, n := range tr.Model().Graph.Nodes {
				if n.Op == "BatchNormalization" && (n.Int("training_mode", 0) != 0 || len(n.Outputs) != 1 || n.Opset != 0) {
					t.Errorf("the tuned model's %s is no longer for inference", n.Name)
				}
			}
		})
	})
	t.Run("eval", func(t *testing.T) { follow(t, training, eval, Eval, kept) })
}

// Validation in train mode is PyTorch's after eval(): with the statistics as they run by then.
func TestValidationHasNoTrainingBehaviour(t *testing.T) {
	dir := "../models/convnet_preserved"
	m := load(t, dir)
	arrays, err := npy.ReadNPZ(filepath.Join(dir, "train_batches.npz"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDataset(arrays, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Loss: CrossEntropy{Output: "logits", Target: "target"}, Optimizer: SGD{LR: 0.05}, Mode: Train}
	tr, err := New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for b := range d.Batches(32, nil) {
		if _, err := tr.Step(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	again, err := New(tr.Model(), Config{Loss: cfg.Loss, Optimizer: cfg.Optimizer})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for b := range d.Batches(100, nil) {
		got, err := tr.Loss(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := again.Loss(context.Background(), b); err != nil || math.Abs(got-want) > 1e-6 {
			t.Errorf("validation gives %v, the tuned model %v (%v)", got, want, err)
		}
	}
}

// A batch of which a batch norm cannot tell the variance is found out before it is run, and running statistics may move otherwise than by what the
// file says, where that is nothing: PyTorch writes a momentum of None so.
func TestBatchNormsOfFew(t *testing.T) {
	ctx := context.Background()
	b := onnx.NewBuilder("m", 17)
	x, ones := b.Input("x", tensor.Float32, "n", 2), func() *tensor.Tensor { return tensor.New([]float32{1, 1}) }
	y := b.Node("BatchNormalization", []*onnx.Value{x, b.Init("scale", ones()), b.Init("bias", ones()), b.Init("mean", ones()), b.Init("var", ones())}, onnx.FloatAttr("momentum", 1))
	b.Output("y", y, tensor.Float32, "n", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	few := Batch{"x": tensor.New([]float32{1, 2}, 1, 2), "target": tensor.New([]float32{1, 2}, 1, 2)}
	batch := Batch{"x": tensor.New([]float32{1, 2, 3, 8}, 2, 2), "target": tensor.New([]float32{1, 2, 3, 4}, 2, 2)}
	for _, c := range []struct {
		momentum       float64
		mean, variance []float32
		notes          string
	}{
		{0, []float32{1, 1}, []float32{1, 1}, `"mean" stays as it is`},
		{0.5, []float32{1.5, 3}, []float32{1.5, 9.5}, ""}, // the batch's means 2 and 5, variances 2 and 18
	} {
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 0.1}, Mode: Train, BatchNormMomentum: c.momentum})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		if err := tr.Check(few, true); err == nil || !strings.Contains(err.Error(), "more than one value of each channel, got [1 2]") {
			t.Errorf("a batch of one gives %v", err)
		}
		if err := tr.Check(few, false); err != nil {
			t.Errorf("a batch of one, in validation: %v", err)
		}
		if err := tr.Check(batch, true); err != nil {
			t.Error(err)
		}
		if got := strings.Join(tr.Notes(), "; "); !strings.Contains(got, c.notes) || c.notes == "" && got != "" {
			t.Errorf("notes %q", got)
		}
		if _, err := tr.Step(ctx, batch); err != nil {
			t.Fatal(err)
		}
		mean, variance := tr.Model().Graph.Init("mean").Const, tr.Model().Graph.Init("var").Const
		if !slices.Equal(tensor.Data[float32](mean), c.mean) || !slices.Equal(tensor.Data[float32](variance), c.variance) {
			t.Errorf("momentum %v: statistics %v and %v, want %v and %v", c.momentum, tensor.Data[float32](mean), tensor.Data[float32](variance), c.mean, c.variance)
		}
	}
}

// dropped is y = weight · dropout(x) at an opset; the loss is MSE against y's target.
// Dropout of ratio 0 draws nothing.
func TestDropoutOfNothing(t *testing.T) {
	for _, opset := range []int64{6, 7, 10, 12, 13, 22} {
		m := dropped(t, opset, true)
		for _, n := range m.Graph.Nodes {
			if n.Op != "Dropout" {
				continue
			}
			if opset < 12 {
				n.SetAttr(onnx.FloatAttr("ratio", 0))
			} else {
				n.Inputs[1].Const = tensor.Scalar(float32(0))
			}
			n.SetOutput(1, &onnx.Value{Name: "mask"}) // that nothing reads
		}
		tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1e-9}, Mode: Train})
		if err != nil {
			t.Fatalf("opset %d: %v", opset, err)
		}
		defer tr.Close()
		x := tensor.New(slices.Repeat([]float32{1}, 6400), 64, 100)
		loss, grads, err := tr.Gradients(context.Background(), Batch{"x": x, "target": tensor.New(make([]float32, 6400), 64, 100)})
		if err != nil || loss != 1 || tr.train.takes[seedInput] {
			t.Errorf("opset %d: loss %v, %v, draws %v", opset, loss, err, tr.train.takes[seedInput])
		}
		for _, g := range tensor.Float64s(grads["weight"]) {
			if math.Abs(g-0.02) > 1e-6 {
				t.Fatalf("opset %d: gradient %v", opset, g)
			}
		}
	}
}

func dropped(t *testing.T, opset int64, training bool) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("dropped", opset)
	x := b.Input("x", tensor.Float32, 64, 100)
	w := b.Init("weight", tensor.New(slices.Repeat([]float32{1}, 100), 100))
	var attrs []*onnx.Attribute
	in := []*onnx.Value{x}
	switch {
	case opset >= 12:
		in = append(in, b.Const(tensor.Scalar(float32(0.25))))
		if training {
			in = append(in, b.Const(tensor.Scalar(true)))
		}
	case opset < 7 && !training:
		attrs = append(attrs, onnx.IntAttr("is_test", 1))
		fallthrough
	default:
		attrs = append(attrs, onnx.FloatAttr("ratio", 0.25))
	}
	y := b.Op("Mul", b.Node("Dropout", in, attrs...), w)
	if opset < 7 {
		y.Def().SetAttr(onnx.IntAttr("broadcast", 1))
	}
	b.Output("y", y, tensor.Float32, 64, 100)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Dropout that is put in drops as that of the file does, and is not in the tuned model.
func TestInsertedDropout(t *testing.T) {
	ctx := context.Background()
	b := onnx.NewBuilder("m", 17)
	x := b.Input("x", tensor.Float32, "n", 100)
	hidden := b.Op("Mul", x, b.Init("first", tensor.New(slices.Repeat([]float32{1}, 100), 100)))
	b.Output("y", b.Op("Mul", hidden, b.Init("weight", tensor.New(slices.Repeat([]float32{1}, 100), 100))), tensor.Float32, "n", 100)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	batch := Batch{"x": tensor.New(slices.Repeat([]float32{1}, 6400), 64, 100), "target": tensor.New(make([]float32, 6400), 64, 100)}
	cfg := Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1e-9}, Mode: Train, Dropout: map[string]float64{hidden.Name: 0.25}}
	tr, err := New(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	loss, _, err := tr.Gradients(ctx, batch)
	if err != nil {
		t.Fatal(err)
	}
	if kept := loss * 0.75 * 0.75; math.Abs(kept-0.75) > 0.025 || kept == 0.75 {
		t.Errorf("%.4f of the elements are kept, not about 0.75", kept)
	}
	if loss, err := tr.Loss(ctx, batch); err != nil || loss != 1 {
		t.Errorf("the loss is %v (%v) without dropout", loss, err)
	}
	if n := len(tr.Model().Graph.Nodes); n != 2 {
		t.Errorf("the tuned model has %d nodes", n)
	}
	for _, bad := range []map[string]float64{{"nowhere": 0.5}, {"y": 0.5}, {"x": 0.5}, {hidden.Name: 1}} {
		cfg.Dropout = bad
		if _, err := New(m, cfg); err == nil || !strings.Contains(err.Error(), "dropout") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestDropout(t *testing.T) {
	ctx := context.Background()
	batch := Batch{"x": tensor.New(slices.Repeat([]float32{1}, 6400), 64, 100), "target": tensor.New(make([]float32, 6400), 64, 100)}
	for _, c := range []struct {
		opset    int64
		training bool // in the file
		mode     Mode
		on       bool
	}{
		{6, false, AsExported, false}, {6, true, AsExported, true}, {6, true, Eval, false}, {6, false, Train, true},
		{7, false, AsExported, false}, {7, false, Train, true}, {10, false, Train, true},
		{12, false, AsExported, false}, {13, true, AsExported, true}, {13, true, Eval, false}, {22, false, Train, true}, {22, true, Train, true},
	} {
		t.Run(fmt.Sprint(c.opset, c.training, c.mode), func(t *testing.T) {
			m := dropped(t, c.opset, c.training)
			make := func(seed uint64) *Trainer {
				tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1e-9}, Mode: c.mode, Seed: seed})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(tr.Close)
				return tr
			}
			a, b, other := make(1), make(1), make(2)
			// With x = weight = 1 and a target of 0 the loss is the mean of (mask/0.75)², and weight k's gradient twice the
			// sum of column k of that over the number of elements.
			loss, grads, err := a.Gradients(ctx, batch)
			if err != nil {
				t.Fatal(err)
			}
			kept := loss * 0.75 * 0.75
			if !c.on {
				kept = 1
				if loss != 1 {
					t.Fatalf("the loss is %v without dropout", loss)
				}
			} else if math.Abs(kept-0.75) > 0.025 || kept == 0.75 {
				t.Fatalf("%.4f of the elements are kept, not about 0.75", kept)
			}
			sum := 0.0
			for _, g := range tensor.Float64s(grads["weight"]) {
				sum += g
			}
			if math.Abs(sum-2*loss) > 1e-5 {
				t.Errorf("the gradients' sum is %v, the loss %v: another mask", sum, loss)
			}
			var losses []float64
			for range 3 {
				s, err := a.Step(ctx, batch)
				if err != nil {
					t.Fatal(err)
				}
				again, err := b.Step(ctx, batch)
				if err != nil || again.Loss != s.Loss {
					t.Errorf("one seed gives losses %v and %v (%v)", s.Loss, again.Loss, err)
				}
				losses = append(losses, s.Loss)
			}
			if s, err := other.Step(ctx, batch); err != nil || c.on == (s.Loss == losses[0]) || c.on == (losses[0] == losses[1]) {
				t.Errorf("losses %v, and %v of another seed (%v)", losses, s.Loss, err)
			}
			if v, err := a.Loss(ctx, batch); err != nil || c.mode == Train && math.Abs(v-1) > 1e-4 {
				t.Errorf("validation loss %v (%v)", v, err)
			}
			for _, n := range a.Model().Graph.Nodes {
				if n.Domain != "" {
					t.Errorf("the tuned model has a %s", n.Op)
				}
			}
		})
	}
}

// Batch norms that were new when they were exported have one running mean and its Identity: each gets its own.
func TestEqualStatisticsAreUntied(t *testing.T) {
	b := onnx.NewBuilder("norms", 17)
	x := b.Op("Mul", b.Input("x", tensor.Float32, "n", 1), b.Init("w", tensor.New([]float32{1})))
	p := func(name string, v float32) *onnx.Value { return b.Init(name, tensor.New([]float32{v})) }
	mean, variance := p("mean1", 0), p("var1", 1)
	y := b.Op("BatchNormalization", x, p("scale1", 3), p("bias1", 2), mean, variance)
	y = b.Op("BatchNormalization", y, p("scale2", 1), p("bias2", 0), b.Op("Identity", mean), b.Op("Identity", variance))
	b.Output("y", y, tensor.Float32, "n", 1)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	tr := trainer(t, m, Config{Mode: Train, Optimizer: SGD{}})
	in := Batch{"x": tensor.New([]float32{1, 2, 3, 6}, 4, 1), "t": tensor.New(make([]float32, 4), 4, 1)}
	if _, err := tr.Step(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	// The first sees mean 3 and variance 14/3, the second 2 and 9·4/3.
	var got []float64
	for _, n := range tr.Model().Graph.Nodes {
		if n.Op == "Identity" {
			t.Error("an Identity is left")
		}
		if n.Op == "BatchNormalization" {
			got = append(got, tensor.Float64At(n.Input(3).Const, 0), tensor.Float64At(n.Input(4).Const, 0))
		}
	}
	if want := []float64{0.3, 0.9 + 1.4/3, 0.2, 0.9 + 1.2}; len(got) != 4 || apart(got, want) > 1e-4 {
		t.Errorf("running statistics %v, want %v", got, want)
	}
	if err := onnx.Check(tr.Model()); err != nil {
		t.Error(err)
	}
}

// A batch norm without running statistics (track_running_stats=False), for which an exporter writes the batch's own, has none to move.
func TestBatchNormWithoutStatistics(t *testing.T) {
	b := onnx.NewBuilder("norm", 17)
	p := func(name string, v float32) *onnx.Value { return b.Init(name, tensor.New([]float32{v})) }
	x := b.Op("Mul", b.Input("x", tensor.Float32, "n", 1), p("w", 1))
	mean := b.Node("ReduceMean", []*onnx.Value{x}, onnx.IntsAttr("axes", 0), onnx.IntAttr("keepdims", 0))
	d := b.Op("Sub", x, mean)
	variance := b.Node("ReduceMean", []*onnx.Value{b.Op("Mul", d, d)}, onnx.IntsAttr("axes", 0), onnx.IntAttr("keepdims", 0))
	in := []*onnx.Value{x, p("scale", 3), p("bias", 2), mean, variance}
	b.Output("y", b.Multi("BatchNormalization", 3, in, onnx.IntAttr("training_mode", 1))[0], tensor.Float32, "n", 1)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	tr := trainer(t, m, Config{Optimizer: SGD{LR: 0.1}})
	batch := Batch{"x": tensor.New([]float32{1, 2, 3, 6}, 4, 1), "t": tensor.New(make([]float32, 4), 4, 1)}
	s, err := tr.Step(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	// The output's mean is 2 and its variance 9, but for epsilon; so the gradients of scale and bias are 2·3 and 2·2.
	if math.Abs(s.Loss-13) > 1e-3 {
		t.Errorf("the loss is %v, want 13", s.Loss)
	}
	for name, want := range map[string]float64{"scale": 3 - 0.6, "bias": 2 - 0.4} {
		if got := tensor.Float64At(tr.Model().Graph.Init(name).Const, 0); math.Abs(got-want) > 1e-4 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// Batch norms of every definition train alike, and infer alike, whatever form the file has.
func TestModesAtEveryOpset(t *testing.T) {
	x := tensor.New([]float32{1, -2, 3, 6, 0.5, -1, 2, 4, 1.5, 0, -3, 2}, 3, 2, 2)
	in := Batch{"x": x, "t": tensor.New(make([]float32, 12), 3, 2, 2)}
	run := func(opset int64, outs int, mode Mode, attrs ...*onnx.Attribute) []float64 {
		b := onnx.NewBuilder("norm", opset)
		v := []*onnx.Value{b.Input("x", tensor.Float32, "n", 2, 2)}
		for i, p := range [][]float32{{2, 3}, {0.5, -0.5}, {0.25, 0.75}, {1.5, 2.5}} {
			v = append(v, b.Init(fmt.Sprint("p", i), tensor.New(p)))
		}
		attrs = append(attrs, onnx.FloatAttr("momentum", 0.8))
		b.Output("y", b.Multi("BatchNormalization", outs, v, attrs...)[0], tensor.Float32, "n", 2, 2)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		tr := trainer(t, m, Config{Mode: mode, Optimizer: SGD{LR: 0.1}})
		var all []float64
		for range 3 {
			s, err := tr.Step(context.Background(), in)
			if err != nil {
				t.Fatalf("opset %d: %v", opset, err)
			}
			all = append(all, s.Loss)
		}
		v2, err := tr.Loss(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			all = append(all, tensor.Float64s(tr.Model().Graph.Init(fmt.Sprint("p", i)).Const)...)
		}
		return append(all, v2)
	}
	training := onnx.IntAttr("training_mode", 1)
	for _, mode := range []Mode{Train, Eval} {
		want := run(15, 1, mode)
		for name, got := range map[string][]float64{
			"6":     run(6, 1, mode, onnx.IntAttr("is_test", 1)),
			"7":     run(7, 1, mode, onnx.IntAttr("spatial", 1)),
			"9":     run(9, 1, mode),
			"14":    run(14, 1, mode),
			"15 on": run(15, 3, mode, training),
		} {
			if len(got) != len(want) || apart(got, want) != 0 {
				t.Errorf("%s, opset %s: %v, want %v", mode, name, got, want)
			}
		}
	}
	// The old form of training, five outputs, which inference then has not.
	if got, want := run(9, 5, Eval), run(9, 1, Eval); apart(got, want) != 0 {
		t.Errorf("five outputs in inference: %v, want %v", got, want)
	}
	a, b := run(9, 5, AsExported), run(15, 3, AsExported, training)
	if apart(a[:11], b[:11]) != 0 {
		t.Errorf("five outputs: %v, want %v", a, b)
	}
}

// What training cannot do right is refused.
func TestModesRefused(t *testing.T) {
	one := tensor.New([]float32{1})
	build := func(opset int64, f func(b *onnx.Builder, x *onnx.Value) *onnx.Value) *onnx.Model {
		b := onnx.NewBuilder("m", opset)
		x := b.Input("x", tensor.Float32, 4, 1, 2)
		b.Output("y", f(b, b.Op("Mul", x, b.Init("w", one.Clone()))), tensor.Float32, 4, 1, 2)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	norm := func(b *onnx.Builder, x *onnx.Value, outs int, attrs ...*onnx.Attribute) []*onnx.Value {
		in := []*onnx.Value{x}
		for i := range 4 {
			in = append(in, b.Init(fmt.Sprint("p", i, len(b.Graph().Inits)), one.Clone()))
		}
		return b.Multi("BatchNormalization", outs, in, attrs...)
	}
	within := func(b *onnx.Builder, x *onnx.Value, f func(s *onnx.Builder) *onnx.Value) *onnx.Value {
		s := b.Sub("body")
		s.Output("inner", f(s), tensor.Float32, 4, 1, 2)
		e := b.Sub("other")
		e.Output("same", e.Op("Identity", x), tensor.Float32, 4, 1, 2)
		return b.Node("If", []*onnx.Value{b.Const(tensor.Scalar(true))}, onnx.GraphAttr("then_branch", s.Graph()), onnx.GraphAttr("else_branch", e.Graph()))
	}
	for _, c := range []struct {
		name string
		mode Mode
		m    *onnx.Model
		want string
	}{
		{"subgraph", Train, build(17, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return within(b, x, func(s *onnx.Builder) *onnx.Value { return norm(s, x, 1)[0] })
		}), "in a subgraph"},
		{"outputs", Eval, build(17, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			o := norm(b, x, 3, onnx.IntAttr("training_mode", 1))
			return b.Op("Add", o[0], o[1])
		}), "is read"},
		{"spatial", Train, build(7, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return norm(b, x, 1, onnx.IntAttr("spatial", 0))[0]
		}), "spatial 0"},
		{"constant", Train, build(17, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			c := b.Node("Constant", nil, onnx.TensorAttr("value", one.Clone()))
			p := b.Init("p", one.Clone())
			return b.Op("BatchNormalization", x, p, p, c, c)
		}), "not an initializer"},
		{"no such mode", "fast", build(17, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Relu", x) }), "none of"},
	} {
		tr, err := New(c.m, Config{Loss: MSE{Output: "y", Target: "t"}, Optimizer: SGD{}, Mode: c.mode})
		if err == nil {
			tr.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, got %v", c.name, c.want, err)
		}
	}
	// One value a channel has no variance.
	m := build(17, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return norm(b, x, 1)[0] })
	tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "t"}, Optimizer: SGD{}, Mode: Train})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	single := tensor.New([]float32{1}, 1, 1, 1)
	if _, err := tr.Step(context.Background(), Batch{"x": single, "t": single}); err == nil {
		t.Error("a batch of one value was trained on")
	}
}

// The row that pads gets no gradient where it is looked up, also in a loop, and that of the head that it is tied to: torch.nn.Embedding's padding_idx,
// which an export has lost. A saved step does the same.
func TestPaddingIdx(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	table, x := b.Init("onnx::MatMul_5", tensor.New([]float64{1, 2, 3, 4, 5, 6}, 3, 2)), b.Input("tokens", tensor.Int64, 4)
	body := b.Sub("body")
	body.Input("i", tensor.Int64)
	body.OutputOf("on", body.Op("Identity", body.Input("cond", tensor.Bool)), nil)
	sum := body.Input("sum", tensor.Float64, 4, 2)
	body.OutputOf("more", body.Op("Add", sum, body.Node("Gather", []*onnx.Value{table, x}, onnx.IntAttr("axis", 0))), nil)
	zeros := b.Const(tensor.New(make([]float64, 8), 4, 2))
	h := b.Node("Loop", []*onnx.Value{b.Const(tensor.Scalar(int64(2))), nil, zeros}, onnx.GraphAttr("body", body.Graph()))
	b.OutputOf("looked", h, nil)
	b.Output("y", b.Op("MatMul", b.Op("Add", h, b.Op("Gather", table, x)), b.Node("Transpose", []*onnx.Value{table})), tensor.Float64, 4, 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	names := func(row *int) Names {
		return Names{"embed.weight": {Shape: []int{3, 2}, Initializer: "onnx::MatMul_5", Form: Verbatim, PaddingIdx: row}}
	}
	gradient := func(change func(*Config)) []float64 {
		cfg := Config{Loss: L1{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}}
		change(&cfg)
		tr := trainer(t, m, cfg)
		batch := Batch{"tokens": tensor.New([]int64{2, 0, 2, 1}, 4), "target": tensor.New(slices.Repeat([]float64{-100}, 12), 4, 3)}
		_, grads, err := tr.Gradients(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		g, err := tr.TrainingGraph()
		if err != nil {
			t.Fatal(err)
		}
		data, err := onnx.Encode(g)
		if err == nil {
			g, err = onnx.Decode(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := runtime.NewSession(g)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		in := map[string]tensor.Value{}
		maps.Copy(in, batch)
		out, err := s.Run(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		d := tensor.Float64s(grads["onnx::MatMul_5"])
		for i, next := range tensor.Float64s(out["next::onnx::MatMul_5"].(*tensor.Tensor)) {
			if math.Abs(float64(i+1)-next-d[i]) > 1e-12 {
				t.Errorf("the saved step leaves %v at %d, where the gradient is %v", next, i, d)
			}
		}
		return d
	}
	// Each element of y adds its row of the table, nine in all, 1/12 of the loss: through a lookup, three a token, [9 12] to its row, through the head
	// the sum of what was looked up.
	head := []float64{3 * (1 + 3 + 5 + 5) / 12., 3 * (2 + 4 + 6 + 6) / 12.}
	through := []float64{3 * 9 / 12., 3 * 12 / 12.}
	want := func(padded bool) []float64 {
		w := []float64{}
		for row, count := range []float64{1, 1, 2} {
			if padded && row == 2 {
				count = 0
			}
			w = append(w, head[0]+count*through[0], head[1]+count*through[1])
		}
		return w
	}
	for i, c := range []struct {
		padded bool
		change func(*Config)
	}{
		{false, func(c *Config) {}},
		{false, func(c *Config) { c.Names = names(nil) }},
		{true, func(c *Config) { c.PaddingIdx = map[string]int{"onnx::MatMul_5": 2} }},
		{true, func(c *Config) { c.Names, c.PaddingIdx = names(nil), map[string]int{"embed.weight": -1} }},
		{true, func(c *Config) { c.Names = names(&two) }},
	} {
		got, want := gradient(c.change), want(c.padded)
		if off, _ := difference(got, want); off > 1e-12 {
			t.Errorf("configuration %d: the gradient is %v, want %v", i, got, want)
		}
	}
	for name, row := range map[string]int{"nobody": 0, "onnx::MatMul_5": 3} {
		if tr, err := New(m, Config{Loss: L1{Output: "y", Target: "target"}, Optimizer: SGD{LR: 1}, PaddingIdx: map[string]int{name: row}}); err == nil || !strings.Contains(err.Error(), "padding_idx: \""+name) {
			t.Errorf("%s: %d: the error is %v", name, row, err)
			if tr != nil {
				tr.Close()
			}
		}
	}
}
