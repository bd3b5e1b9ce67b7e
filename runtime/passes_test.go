package runtime_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

func runWith(t *testing.T, m *onnx.Model, in map[string]tensor.Value, opts ...runtime.Option) map[string]tensor.Value {
	t.Helper()
	s, err := runtime.NewSession(m, append([]runtime.Option{runtime.Threads(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Run(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameOutputs(t *testing.T, what string, got, want map[string]tensor.Value) {
	t.Helper()
	sameWithin(t, what, got, want, 1e-5)
}

// sameWithin allows a difference of tolerance times what is greater of 1 and the number.
func sameWithin(t *testing.T, what string, got, want map[string]tensor.Value, tolerance float64) {
	t.Helper()
	if most, where := apart(got, want); most > tolerance {
		t.Fatalf("%s: %s", what, where)
	}
}

// apart is the greatest difference of tensors, by what is greater of 1 and the number, and which it is; infinite if they are not of one type and shape.
func apart(got, want map[string]tensor.Value) (most float64, where string) {
	for name, w := range want {
		a, ok := got[name].(*tensor.Tensor)
		b, ok2 := w.(*tensor.Tensor)
		if !ok || !ok2 {
			continue
		}
		if fmt.Sprint(a.DType(), a.Shape()) != fmt.Sprint(b.DType(), b.Shape()) {
			return math.Inf(1), fmt.Sprintf("%s is %s, without it %s", name, a, b)
		}
		for i := range b.Len() {
			x, y := tensor.Float64At(a, i), tensor.Float64At(b, i)
			if x == y || math.IsNaN(x) && math.IsNaN(y) {
				continue
			}
			d := math.Abs(x-y) / (1 + math.Abs(y))
			if math.IsNaN(d) {
				d = math.Inf(1)
			}
			if d > most {
				most, where = d, fmt.Sprintf("%s[%d] is %v, without it %v", name, i, x, y)
			}
		}
	}
	return most, where
}

// rounding is how far the outputs move when the inputs and weights are changed by their last bits.
func rounding(t *testing.T, m *onnx.Model, in, plain map[string]tensor.Value) (most float64) {
	r := rand.New(rand.NewPCG(3, 5))
	nudged := func(v tensor.Value) *tensor.Tensor {
		x, ok := v.(*tensor.Tensor)
		if !ok || x.DType() != tensor.Float32 {
			return nil
		}
		x = x.Clone()
		for i, v := range tensor.Data[float32](x) {
			tensor.Data[float32](x)[i] = v * (1 + float32(r.IntN(3)-1)*0x1p-23)
		}
		return x
	}
	for range 3 {
		near, moved := m.Clone(), maps.Clone(in)
		for k, v := range in {
			if x := nudged(v); x != nil {
				moved[k] = x
			}
		}
		for _, v := range near.Graph.Inits {
			if x := nudged(v.Const); x != nil {
				v.Const = x
			}
		}
		if d, _ := apart(runWith(t, near, moved, runtime.WithoutPass("all")), plain); !math.IsInf(d, 0) {
			most = max(most, d)
		}
	}
	return most
}

var corpus = flag.String("corpus", "", "further folders of models in the layout of retune verify, separated by commas; \"real\" is the set of real models")

// Each model gives the same with every pass, with none, and with each one left out that changes anything in it. A corpus of hundreds takes
// many minutes: -run 'TestPassesChangeNothing/^[a-e]' is a part of it.
func TestPassesChangeNothing(t *testing.T) {
	folders := []string{"../models", "../models/rnn_variants", "../models/round_trip"}
	for _, folder := range strings.Split(*corpus, ",") {
		if folder == "real" {
			folder = testkit.Dir(t, "models")
		}
		if folder != "" {
			folders = append(folders, folder)
		}
	}
	count := 0
	for i, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*", "model.onnx"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			count++
			t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) { passesChangeNothing(t, filepath.Dir(f), i > 2) })
		}
	}
	if count == 0 {
		t.Fatal("no models")
	}
	if _, err := runtime.NewSession(graph(nil, nil), runtime.WithoutPass("nonsense")); err == nil {
		t.Error("a pass that does not exist is left out without an error")
	}
}

// passesChangeNothing: the rounding of networks that are deep adds up, and some make more of it than others.
func passesChangeNothing(t *testing.T, folder string, deep bool) {
	m, err := onnx.Load(filepath.Join(folder, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	in := map[string]tensor.Value{}
	i := 0
	for _, v := range m.Graph.Inputs {
		if v.Const != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, "test_data_set_0", fmt.Sprintf("input_%d.pb", i)))
		if err != nil {
			t.Fatal(err)
		}
		if in[v.Name], err = onnx.DecodeValue(data, v.Type); err != nil {
			t.Fatal(err)
		}
		i++
	}
	tolerance := 1e-5
	if deep {
		tolerance = 1e-4
	}
	if slices.ContainsFunc(m.Graph.Inits, func(v *onnx.Value) bool { return v.Const.DType() == tensor.Float16 }) {
		tolerance = 2e-3
	}
	applied, err := runtime.Applied(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("changed by ", applied)
	plain := runWith(t, m, in, runtime.WithoutPass("all"))
	same := func(what string, got map[string]tensor.Value) {
		most, where := apart(got, plain)
		if most > tolerance && deep {
			tolerance = max(tolerance, 4*rounding(t, m, in, plain))
		}
		if most > tolerance {
			t.Errorf("%s: %s, where %.1g is allowed", what, where, tolerance)
		}
	}
	same("all passes", runWith(t, m, in))
	for _, name := range applied {
		same("without "+name, runWith(t, m, in, runtime.WithoutPass(name)))
	}
}

// pattern is a graph of one input and the operators that run in its place.
type pattern struct {
	opset int64
	shape []int
	graph func(b *onnx.Builder, x *onnx.Value) *onnx.Value
	runs  string // the operators' names in alphabetical order
}

// find runs a pattern with its passes, which tell what became of it, and with none, which must give the same.
func (p pattern) find(t *testing.T, opts ...runtime.Option) {
	t.Helper()
	b := onnx.NewBuilder("pattern", p.opset)
	var dims []any
	for _, d := range p.shape {
		dims = append(dims, d)
	}
	b.OutputOf("y", p.graph(b, b.Input("x", tensor.Float32, dims...)), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	finds(t, m, map[string]tensor.Value{"x": random(p.shape...)}, p.runs, opts...)
}

// alone has what is left of a pattern run node by node.
var alone = runtime.WithoutPass("pointwise")

// finds runs m with its passes, after which those operators should run, and with none, which must give the same.
func finds(t *testing.T, m *onnx.Model, in map[string]tensor.Value, runs string, opts ...runtime.Option) {
	t.Helper()
	var p runtime.Profile
	got := runWith(t, m, in, append(opts, runtime.WithProfile(&p))...)
	var names []string
	for _, n := range p.ByNode {
		names = append(names, n.Op)
	}
	slices.Sort(names)
	if s := strings.Join(names, " "); s != runs {
		t.Errorf("what ran is %s, want %s", s, runs)
	}
	sameOutputs(t, "passes", got, runWith(t, m, in, runtime.WithoutPass("all")))
}

// random is numbers of both signs, the same for the same shape.
func random(shape ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(uint64(len(shape)), 7))
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(r.NormFloat64())
	}
	return tensor.New(data, shape...)
}

// What each pattern becomes is told by the operators that a profile sees.
func TestPassesFindTheirPatterns(t *testing.T) {
	type values = []*onnx.Value
	r := rand.New(rand.NewPCG(1, 2))
	weight := func(shape ...int) *tensor.Tensor {
		w, err := tensor.Zeros(tensor.Float32, shape...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range w.Len() {
			tensor.SetFloat64At(w, i, 0.5+r.Float64())
		}
		return w
	}
	scalar := func(b *onnx.Builder, x float32) *onnx.Value { return b.Const(tensor.Scalar(x)) }
	erfGelu := func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
		e := b.Op("Add", b.Op("Erf", b.Op("Div", x, scalar(b, math.Sqrt2))), scalar(b, 1))
		return b.Op("Mul", b.Op("Mul", x, e), scalar(b, 0.5))
	}
	for name, c := range map[string]struct {
		shape []int
		graph func(b *onnx.Builder, x *onnx.Value) *onnx.Value
		nodes int
	}{
		"linear, gelu": {[]int{3, 4, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return erfGelu(b, b.Op("Add", b.Const(weight(6)), b.Op("MatMul", x, b.Const(weight(8, 6)))))
		}, 1},
		"linear, residual": {[]int{3, 4, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Add", x, b.Op("Add", b.Op("MatMul", x, b.Const(weight(8, 8))), b.Const(weight(8))))
		}, 1},
		"linear of transposed weights that are no constant": {[]int{3, 8, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			w := b.Op("Add", b.Const(weight(6, 8)), b.Node("ReduceMax", values{x}, onnx.IntAttr("keepdims", 0)))
			return b.Op("Add", b.Op("MatMul", x, b.Node("Transpose", values{w})), b.Const(weight(6)))
		}, 3},
		"batches, both transposed": {[]int{3, 4, 4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			t := func(v *onnx.Value) *onnx.Value { return b.Node("Transpose", values{v}, onnx.IntsAttr("perm", 0, 2, 1)) }
			return b.Op("MatMul", t(x), t(b.Op("Sin", x)))
		}, 2},
		"gemm, clip": {[]int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Node("Gemm", values{x, b.Const(weight(6, 8)), b.Const(weight(6))}, onnx.IntAttr("transB", 1))
			return b.Op("Clip", y, scalar(b, -1), scalar(b, 7))
		}, 1},
		"conv, norm, residual, relu": {[]int{1, 3, 5, 5}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Node("Conv", values{x, b.Const(weight(3, 3, 3, 3))}, onnx.IntsAttr("pads", 1, 1, 1, 1))
			y = b.Op("BatchNormalization", y, b.Const(weight(3)), b.Const(weight(3)), b.Const(weight(3)), b.Const(weight(3)))
			return b.Op("Relu", b.Op("Add", y, x))
		}, 1},
		"conv, swish": {[]int{1, 2, 5, 5}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Conv", x, b.Const(weight(4, 2, 3, 3)))
			return b.Op("Mul", y, b.Op("Sigmoid", y))
		}, 1},
		"conv, hard swish": {[]int{1, 2, 5, 5}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Conv", x, b.Const(weight(4, 2, 1, 1)))
			return b.Op("Mul", y, b.Node("HardSigmoid", values{y}, onnx.FloatAttr("alpha", 1.0/6)))
		}, 1},
		"dynamically quantized product, bias": {[]int{3, 4, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			q := b.Multi("DynamicQuantizeLinear", 3, values{x})
			w, zero := make([]int8, 8*6), make([]int8, 6)
			for i := range w {
				w[i] = int8(r.IntN(256))
			}
			sums := b.Op("MatMulInteger", q[0], b.Const(tensor.New(w, 8, 6)), q[2], b.Const(tensor.New(zero, 6)))
			scale := b.Op("Mul", q[1], b.Const(weight(6)))
			y := b.Op("Mul", b.Node("Cast", values{sums}, onnx.IntAttr("to", int64(tensor.Float32))), scale)
			return b.Op("Add", b.Const(weight(6)), y)
		}, 2},
		"computed twice": {[]int{4}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op("Mul", b.Op("Softmax", x), b.Op("Softmax", b.Op("Identity", x)))
		}, 2},
		"a residual that broadcasts stays": {[]int{3, 4, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Add", b.Op("MatMul", x, b.Const(weight(8, 8))), b.Const(weight(8)))
			return b.Op("Add", y, b.Const(weight(1, 4, 8)))
		}, 2},
		"a product that is read twice keeps its activation": {[]int{3, 8}, func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			y := b.Op("Add", b.Op("MatMul", x, b.Const(weight(8, 8))), b.Const(weight(8)))
			return b.Op("Sub", y, b.Op("Tanh", y))
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("pattern", 17)
			var dims []any
			for _, d := range c.shape {
				dims = append(dims, d)
			}
			b.OutputOf("y", c.graph(b, b.Input("x", tensor.Float32, dims...)), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			in := map[string]tensor.Value{"x": weight(c.shape...)}
			var p runtime.Profile
			got := runWith(t, m, in, runtime.WithProfile(&p))
			if len(p.ByNode) != c.nodes {
				t.Errorf("%d nodes ran, want %d: %v", len(p.ByNode), c.nodes, p.ByNode)
			}
			sameOutputs(t, "passes", got, runWith(t, m, in, runtime.WithoutPass("all")))
		})
	}
}
