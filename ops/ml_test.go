package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// recordedCase is a node of ai.onnx.ml with what ONNX Runtime 1.30 answers.
type recordedCase struct {
	Name, Op string
	Opset    int64
	Attrs    map[string]recordedAttr
	Inputs   []recordedTensor
	Outputs  []recordedTensor
}

type recordedAttr struct {
	Type  string
	Value json.RawMessage
}

type recordedTensor struct {
	Type  string
	Shape []int
	Data  []any
}

func (r recordedTensor) tensor(t *testing.T) *tensor.Tensor {
	t.Helper()
	d, err := tensor.ParseDType(map[string]string{"float32": "float", "float64": "double"}[r.Type])
	if err != nil {
		d, err = tensor.ParseDType(r.Type)
	}
	if err != nil {
		t.Fatal(err)
	}
	x, err := tensor.Zeros(d, r.Shape...)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range r.Data {
		if s, ok := v.(string); ok && d == tensor.String {
			tensor.Data[string](x)[i] = s
		} else {
			tensor.SetFloat64At(x, i, number(t, v))
		}
	}
	return x
}

// number is a JSON number, or the name of one that JSON does not have.
func number(t *testing.T, v any) float64 {
	t.Helper()
	if f, ok := v.(float64); ok {
		return f
	}
	f, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (r recordedAttr) attr(t *testing.T, name string) *onnx.Attribute {
	t.Helper()
	read := func(v any) {
		if err := json.Unmarshal(r.Value, v); err != nil {
			t.Fatal(name, err)
		}
	}
	switch r.Type {
	case "int":
		var v int64
		read(&v)
		return onnx.IntAttr(name, v)
	case "float":
		var v any
		read(&v)
		return onnx.FloatAttr(name, float32(number(t, v)))
	case "string":
		var v string
		read(&v)
		return onnx.StringAttr(name, v)
	case "ints":
		var v []int64
		read(&v)
		return onnx.IntsAttr(name, v...)
	case "floats":
		var v []any
		read(&v)
		f := make([]float32, len(v))
		for i, e := range v {
			f[i] = float32(number(t, e))
		}
		return onnx.FloatsAttr(name, f...)
	case "strings":
		var v []string
		read(&v)
		return onnx.StringsAttr(name, v...)
	case "tensor":
		var v recordedTensor
		read(&v)
		return onnx.TensorAttr(name, v.tensor(t))
	}
	t.Fatalf("attribute %s has type %q", name, r.Type)
	return nil
}

// mlNode is a model of one node of ai.onnx.ml; its inputs are x0, x1, …, its outputs y0, y1, ….
func mlNode(op string, opset int64, outputs int, in []*tensor.Tensor, attrs ...*onnx.Attribute) *onnx.Model {
	g := &onnx.Graph{Name: "g"}
	var ins []*onnx.Value
	for i, x := range in {
		ins = append(ins, &onnx.Value{Name: fmt.Sprint("x", i), Type: onnx.TypeOfTensor(x)})
	}
	var names []string
	for i := range outputs {
		names = append(names, fmt.Sprint("y", i))
	}
	n := onnx.NewNode(op, ins, names...)
	n.Domain, n.Attrs = "ai.onnx.ml", attrs
	g.Inputs, g.Nodes, g.Outputs = ins, []*onnx.Node{n}, n.Outputs
	return &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: 17}, {Domain: "ai.onnx.ml", Version: opset}}, Graph: g}
}

func runNode(m *onnx.Model, in []*tensor.Tensor) (map[string]tensor.Value, error) {
	s, err := runtime.NewSession(m, runtime.Threads(2))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	args := map[string]tensor.Value{}
	for i, x := range in {
		args[fmt.Sprint("x", i)] = x
	}
	return s.Run(context.Background(), args)
}

func recordedCases(t *testing.T) []recordedCase {
	t.Helper()
	data, err := os.ReadFile("testdata/ml.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []recordedCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestMLAgainstONNXRuntime(t *testing.T) {
	for _, c := range recordedCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			var in []*tensor.Tensor
			for _, r := range c.Inputs {
				in = append(in, r.tensor(t))
			}
			var attrs []*onnx.Attribute
			for name, a := range c.Attrs {
				attrs = append(attrs, a.attr(t, name))
			}
			out, err := runNode(mlNode(c.Op, c.Opset, len(c.Outputs), in, attrs...), in)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range c.Outputs {
				if _, _, err := tensor.Compare(out[fmt.Sprint("y", i)], want.tensor(t), 1e-4, 1e-5); err != nil {
					t.Errorf("output %d: %v", i, err)
				}
			}
		})
	}
}

// TestDamagedMLNodes changes one thing in each recorded node: whatever comes out, it is no panic.
func TestDamagedMLNodes(t *testing.T) {
	for k, c := range recordedCases(t) {
		for round := range 12 {
			d := seeded(k, " ", round)
			var in []*tensor.Tensor
			for _, r := range c.Inputs {
				in = append(in, r.tensor(t))
			}
			var attrs []*onnx.Attribute
			for name, a := range c.Attrs {
				attrs = append(attrs, a.attr(t, name))
			}
			slices.SortFunc(attrs, func(a, b *onnx.Attribute) int { return strings.Compare(a.Name, b.Name) })
			if len(attrs) == 0 || d.once(6) {
				in[d.below(len(in))] = d.tensor(in[0].DType(), d.shape())
			} else {
				d.damage(attrs[d.below(len(attrs))])
			}
			_, err := runNode(mlNode(c.Op, c.Opset, len(c.Outputs), in, attrs...), in)
			if err != nil && strings.Contains(err.Error(), "panic") {
				t.Errorf("%s, round %d: %v", c.Name, round, err)
			}
		}
	}
}

// damage changes an attribute: its length, or one of its elements.
func (d *dice) damage(a *onnx.Attribute) {
	cut := d.once(4)
	switch a.Type {
	case onnx.AttrInt:
		a.I = d.int()
	case onnx.AttrFloat:
		a.F = float32(d.float())
	case onnx.AttrString:
		a.S = []byte(one(d, "", "PROBIT", "MIN", "\xff"))
	case onnx.AttrInts:
		if cut {
			a.Ints = a.Ints[:d.below(len(a.Ints))]
		} else {
			a.Ints[d.below(len(a.Ints))] = d.int()
		}
	case onnx.AttrFloats:
		if cut {
			a.Floats = a.Floats[:d.below(len(a.Floats))]
		} else {
			a.Floats[d.below(len(a.Floats))] = float32(d.float())
		}
	case onnx.AttrStrings:
		if cut {
			a.Strings = a.Strings[:d.below(len(a.Strings))]
		} else {
			a.Strings[d.below(len(a.Strings))] = []byte(one(d, "", "LEAF", "BRANCH_NEQ", "odd"))
		}
	case onnx.AttrTensor:
		a.T = d.tensor(one(d, a.T.DType(), tensor.Int64, tensor.Float64), one(d, a.T.Shape(), []int{3}, []int{}))
	}
}

// stump is a tree of one split, with changes.
func stump(change ...*onnx.Attribute) []*onnx.Attribute {
	n := &onnx.Node{Attrs: []*onnx.Attribute{onnx.IntAttr("n_targets", 1),
		onnx.IntsAttr("nodes_treeids", 0, 0, 0), onnx.IntsAttr("nodes_nodeids", 0, 1, 2), onnx.IntsAttr("nodes_featureids", 0, 0, 0),
		onnx.StringsAttr("nodes_modes", "BRANCH_LEQ", "LEAF", "LEAF"), onnx.FloatsAttr("nodes_values", .5, 0, 0),
		onnx.IntsAttr("nodes_truenodeids", 1, 0, 0), onnx.IntsAttr("nodes_falsenodeids", 2, 0, 0),
		onnx.IntsAttr("target_ids", 0, 0), onnx.IntsAttr("target_treeids", 0, 0), onnx.IntsAttr("target_nodeids", 1, 2),
		onnx.FloatsAttr("target_weights", 1, 2)}}
	for _, a := range change {
		n.SetAttr(a)
	}
	return n.Attrs
}

func TestMalformedTreesAreRefused(t *testing.T) {
	x := tensor.New([]float32{0.1, 0.7}, 2, 1)
	for _, c := range []struct {
		why   string
		attrs []*onnx.Attribute
	}{
		{"cycle", stump(onnx.StringsAttr("nodes_modes", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF"), onnx.IntsAttr("nodes_truenodeids", 1, 0, 0), onnx.IntsAttr("nodes_falsenodeids", 2, 2, 0))},
		{"cycle", stump(onnx.IntsAttr("nodes_truenodeids", 0, 0, 0))},
		{"not there", stump(onnx.IntsAttr("nodes_truenodeids", 7, 0, 0))},
		{"not there", stump(onnx.IntsAttr("nodes_truenodeids", -1, 0, 0))},
		{"there twice", stump(onnx.IntsAttr("nodes_nodeids", 0, 1, 1))},
		{"has 2 elements", stump(onnx.IntsAttr("nodes_featureids", 0, 0))},
		{"not there", stump(onnx.IntsAttr("target_nodeids", 1, 9))},
		{"target_ids holds 3", stump(onnx.IntsAttr("target_ids", 0, 3))},
		{"feature -1", stump(onnx.IntsAttr("nodes_featureids", -1, 0, 0))},
		{"the trees read 6", stump(onnx.IntsAttr("nodes_featureids", 5, 0, 0))},
		{"n_targets", stump(onnx.IntAttr("n_targets", -4))},
		{"memory", stump(onnx.IntAttr("n_targets", math.MaxInt32))},
		{"BRANCH", stump(onnx.StringsAttr("nodes_modes", "BRANCH_ODD", "LEAF", "LEAF"))},
		{"of type float", stump(onnx.FloatAttr("nodes_treeids", 1))},
		{"post_transform", stump(onnx.StringAttr("post_transform", "EXP"))},
	} {
		_, err := runNode(mlNode("TreeEnsembleRegressor", 3, 1, []*tensor.Tensor{x}, c.attrs...), []*tensor.Tensor{x})
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("want an error with %q, got %v", c.why, err)
		}
	}
}

func TestZipMapMakesAMapOfEachRow(t *testing.T) {
	x := tensor.New([]float32{.1, .9, .8, .2}, 2, 2)
	out, err := runNode(mlNode("ZipMap", 1, 1, []*tensor.Tensor{x}, onnx.StringsAttr("classlabels_strings", "no", "yes")), []*tensor.Tensor{x})
	if err != nil {
		t.Fatal(err)
	}
	keys := tensor.New([]string{"no", "yes"})
	want := &tensor.Sequence{Values: []tensor.Value{
		&tensor.Map{Keys: keys, Values: tensor.New([]float32{.1, .9})}, &tensor.Map{Keys: keys, Values: tensor.New([]float32{.8, .2})}}}
	if _, _, err := tensor.Compare(out["y0"], want, 0, 0); err != nil {
		t.Error(err)
	}
}

func TestMapsBecomeTensors(t *testing.T) {
	byName := &tensor.Map{Keys: tensor.New([]string{"c", "a", "x"}), Values: tensor.New([]int64{8, 4, 1})}
	byNumber := &tensor.Map{Keys: tensor.New([]int64{3, 0}), Values: tensor.New([]float32{1.5, 2.5})}
	for _, c := range []struct {
		op    string
		in    *tensor.Map
		attrs []*onnx.Attribute
		want  *tensor.Tensor
	}{
		{"DictVectorizer", byName, []*onnx.Attribute{onnx.StringsAttr("string_vocabulary", "a", "c", "b", "z")}, tensor.New([]int64{4, 8, 0, 0}, 1, 4)},
		{"DictVectorizer", byNumber, []*onnx.Attribute{onnx.IntsAttr("int64_vocabulary", 7, 3)}, tensor.New([]float32{0, 1.5}, 1, 2)},
		{"CastMap", byNumber, nil, tensor.New([]float32{2.5, 1.5}, 1, 2)},
		{"CastMap", byNumber, []*onnx.Attribute{onnx.StringAttr("cast_to", "TO_INT64"), onnx.StringAttr("map_form", "SPARSE"), onnx.IntAttr("max_map", 5)},
			tensor.New([]int64{2, 0, 0, 1, 0}, 1, 5)},
	} {
		m := mlNode(c.op, 1, 1, []*tensor.Tensor{tensor.Scalar(float32(0))}, c.attrs...)
		m.Graph.Inputs[0].Type = &onnx.Type{Kind: onnx.MapType, Elem: c.in.Keys.DType(), Of: onnx.TypeOfTensor(c.in.Values.(*tensor.Tensor))}
		s, err := runtime.NewSession(m)
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Run(context.Background(), map[string]tensor.Value{"x0": c.in})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tensor.Compare(out["y0"], c.want, 0, 0); err != nil {
			t.Errorf("%s: %v", c.op, err)
		}
		s.Close()
	}
}
