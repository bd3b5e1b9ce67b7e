package ops_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// attrKind is an attribute as the standard's definitions and cases have it.
type attrKind struct {
	Type   string
	Values []string // of strings
}

// attrTable is the attributes of each operator: those of testdata/attributes.json and, for operators that are not in it, those that
// the operator's source file reads.
func attrTable(tb testing.TB) map[string]map[string]attrKind {
	tb.Helper()
	data, err := os.ReadFile("testdata/attributes.json")
	if err != nil {
		tb.Fatal(err)
	}
	table := map[string]map[string]attrKind{}
	if err := json.Unmarshal(data, &table); err != nil {
		tb.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		tb.Fatal(err)
	}
	read := regexp.MustCompile(`\b(?:n|a|c\.Node)\.(Int|Ints|Float|Str|Attr|Axis|ints|floats|strings|int|float|str|tensor|choice)\("(\w+)"`)
	bodies := regexp.MustCompile(`\bBodies\["(\w+)"\]`)
	entry := regexp.MustCompile(`Name: "(\w+)"`)
	types := map[string]string{"Int": "int", "int": "int", "Axis": "int", "Ints": "ints", "ints": "ints", "Float": "float", "float": "float", "floats": "floats",
		"Str": "string", "str": "string", "choice": "string", "strings": "strings", "tensor": "tensor", "Attr": "any"}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		here := map[string]attrKind{}
		for _, m := range read.FindAllStringSubmatch(string(src), -1) {
			here[m[2]] = attrKind{Type: types[m[1]]}
		}
		for _, m := range bodies.FindAllStringSubmatch(string(src), -1) {
			here[m[1]] = attrKind{Type: "graph"}
		}
		for _, m := range entry.FindAllStringSubmatch(string(src), -1) {
			for _, domain := range []string{"", "com.microsoft.", ops.Internal + "."} {
				if name := domain + m[1]; table[name] == nil && len(here) > 0 {
					table[name] = here
				}
			}
		}
	}
	return table
}

// dice draws from the fuzzer's bytes while there are any, then from a generator that they seed.
type dice struct {
	data []byte
	r    *rand.Rand
}

func newDice(data []byte) *dice {
	d := seeded(data)
	d.data = data
	return d
}

// seeded draws from a generator alone.
func seeded(what ...any) *dice {
	h := fnv.New64a()
	fmt.Fprint(h, what...)
	return &dice{r: rand.New(rand.NewPCG(h.Sum64(), 1))}
}

func (d *dice) below(n int) int {
	if len(d.data) >= 2 {
		v := int(d.data[0])<<8 | int(d.data[1])
		d.data = d.data[2:]
		return v % n
	}
	return d.r.IntN(n)
}

func (d *dice) once(in int) bool { return d.below(in) == 0 }

func one[T any](d *dice, of ...T) T { return of[d.below(len(of))] }

func (d *dice) int() int64 {
	if d.once(12) {
		return one(d, math.MinInt64, math.MaxInt64, int64(math.MaxInt32), math.MinInt32, 1<<40, -1<<40, 1<<62, 1<<31, 1000, 100000)
	}
	return int64(d.below(9)) - 3
}

func (d *dice) float() float64 {
	if d.once(12) {
		return one(d, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -1e30, 1e-40, 1e18, -1e18)
	}
	return float64(d.below(17)-6) / 4
}

// tensor makes a tensor of that type; integers are small or hostile.
func (d *dice) tensor(t tensor.DType, shape []int) *tensor.Tensor {
	if n, err := tensor.NumElements(shape); err != nil || n > 1<<16 { // part of a shape with nothing in it
		shape = nil
	}
	x, err := tensor.Zeros(t, shape...)
	if err != nil {
		x, _ = tensor.Zeros(tensor.Float32)
		t = tensor.Float32
	}
	for i := range x.Len() {
		switch {
		case t == tensor.String:
			tensor.Data[string](x)[i] = one(d, "", "a", "b", "a b", "1", "NaN", "\xff", "é")
		case t == tensor.Int64:
			tensor.Data[int64](x)[i] = d.int()
		case t == tensor.Uint64:
			tensor.Data[uint64](x)[i] = uint64(d.int())
		case t == tensor.Complex64 || t == tensor.Complex128:
		case t.IsInteger() || t == tensor.Bool:
			tensor.SetFloat64At(x, i, float64(d.int()))
		default:
			tensor.SetFloat64At(x, i, d.float())
		}
	}
	return x
}

func (d *dice) shape() []int {
	s := make([]int, one(d, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5))
	for i := range s {
		s[i] = one(d, 0, 1, 1, 2, 2, 3, 3, 4)
	}
	if len(s) > 0 && d.once(40) { // nothing in it, and still large
		s[0] = one(d, 1<<20, 1<<40, math.MaxInt>>2)
		s[len(s)-1] = 0
	} else if len(s) > 0 && d.once(60) { // what takes the square of it takes too long
		for i := range s {
			s[i] = min(s[i], 2)
		}
		s[d.below(len(s))] = 1 << 13
	}
	return s
}

func (d *dice) dtype(set ops.TypeSet) tensor.DType {
	for range 40 {
		if t := tensor.DType(1 + d.below(26)); set == 0 || set.Has(t) || d.once(200) {
			if set == 0 && d.below(3) > 0 {
				return one(d, tensor.Float32, tensor.Int64, tensor.Float32, tensor.Bool, tensor.Uint8)
			}
			return t
		}
	}
	return tensor.Float32
}

func (d *dice) attribute(name string, k attrKind, ranks int) *onnx.Attribute {
	typ := k.Type
	if d.once(30) || typ == "any" {
		typ = one(d, "int", "ints", "float", "floats", "string", "strings", "tensor")
	}
	few := func() int {
		if d.once(2) {
			return ranks
		}
		return d.below(7)
	}
	switch typ {
	case "int":
		if d.once(3) {
			return onnx.IntAttr(name, int64(d.below(2)))
		}
		return onnx.IntAttr(name, d.int())
	case "ints":
		v := make([]int64, few())
		for i := range v {
			v[i] = d.int()
		}
		return onnx.IntsAttr(name, v...)
	case "float":
		return onnx.FloatAttr(name, float32(d.float()))
	case "floats":
		v := make([]float32, few())
		for i := range v {
			v[i] = float32(d.float())
		}
		return onnx.FloatsAttr(name, v...)
	case "strings":
		v := make([]string, d.below(5))
		for i := range v {
			v[i] = one(d, "a", "b", "", "Tanh", "Sigmoid", "Relu", "BRANCH_LEQ", "LEAF", "\xff")
		}
		return onnx.StringsAttr(name, v...)
	case "tensor":
		return onnx.TensorAttr(name, d.tensor(d.dtype(0), d.shape()))
	case "graph":
		return onnx.GraphAttr(name, d.graph())
	}
	if len(k.Values) > 0 && d.below(8) > 0 {
		return onnx.StringAttr(name, one(d, k.Values...))
	}
	return onnx.StringAttr(name, one(d, "", "NONE", "ij,jk->ik", "...i,i", "linear", "nearest", "SAME_UPPER", "forward", "reverse", "bidirectional", "\xff", "(a+)+$", "sum", "LSTM"))
}

// graph is a subgraph that gives back what it gets and constants.
func (d *dice) graph() *onnx.Graph {
	g := &onnx.Graph{Name: "body"}
	var values []*onnx.Value
	for i := range d.below(5) {
		v := &onnx.Value{Name: fmt.Sprint("b", i)}
		g.Inputs, values = append(g.Inputs, v), append(values, v)
	}
	values = append(values, g.AddInit("yes", tensor.Scalar(true)), g.AddInit("one", tensor.New([]float32{1})))
	for i := range d.below(5) {
		n := onnx.NewNode(one(d, "Identity", "Identity", "Neg", "Shape"), []*onnx.Value{one(d, values...)}, fmt.Sprint("o", i))
		g.Nodes, g.Outputs = append(g.Nodes, n), append(g.Outputs, n.Outputs...)
	}
	return g
}

// value is an input: a tensor as a rule.
func (d *dice) value(op *ops.Op, i int, base []int, common tensor.DType) (tensor.Value, *onnx.Type) {
	var set ops.TypeSet
	if len(op.Types) > 0 {
		set = op.Types[min(i, len(op.Types)-1)]
	}
	shape := base
	switch d.below(10) {
	case 0:
		shape = d.shape()
	case 1:
		shape = []int{}
	case 2:
		shape = []int{len(base)}
	case 3:
		if len(base) > 0 {
			shape = []int{base[d.below(len(base))]}
		}
	case 4:
		if len(base) > 0 {
			shape = base[d.below(len(base)):]
		}
	}
	t := common
	if !set.Has(common) || d.once(4) {
		t = d.dtype(set)
	}
	x := d.tensor(t, shape)
	odds := 60
	if strings.Contains(op.Name, "Sequence") || strings.Contains(op.Name, "Optional") || op.Name == "CastMap" || op.Name == "DictVectorizer" {
		odds = 2
	}
	if !d.once(odds) {
		return x, onnx.TypeOfTensor(x)
	}
	plain := &onnx.Type{Elem: x.DType()}
	switch d.below(3) {
	case 0:
		s := &tensor.Sequence{Elem: x.DType()}
		for range d.below(4) {
			s.Values = append(s.Values, d.tensor(x.DType(), one(d, shape, shape, base)))
		}
		return s, &onnx.Type{Kind: onnx.SequenceType, Of: plain}
	case 1:
		if d.once(2) {
			return &tensor.Optional{}, &onnx.Type{Kind: onnx.OptionalType, Of: plain}
		}
		return &tensor.Optional{Value: x}, &onnx.Type{Kind: onnx.OptionalType, Of: plain}
	}
	n := d.below(4)
	keys := d.tensor(one(d, tensor.Int64, tensor.String), []int{n})
	for i := range n { // each once
		if keys.DType() == tensor.String {
			tensor.Data[string](keys)[i] = fmt.Sprint(i)
		} else {
			tensor.Data[int64](keys)[i] = int64(2 * i)
		}
	}
	return &tensor.Map{Keys: keys, Values: d.tensor(one(d, tensor.Float32, tensor.String, tensor.Int64), []int{n})},
		&onnx.Type{Kind: onnx.MapType, Elem: keys.DType(), Of: plain}
}

// hostile is a model of one node, and its inputs.
func (d *dice) hostile(op *ops.Op, since int, table map[string]map[string]attrKind) (*onnx.Model, map[string]tensor.Value) {
	g := &onnx.Graph{Name: "hostile"}
	base := d.shape()
	ins := op.MinIn
	if top := op.MaxIn; top < 0 || top > ins {
		if top < 0 {
			top = ins + 4
		}
		ins += d.below(top - ins + 1)
	}
	var first ops.TypeSet
	if len(op.Types) > 0 {
		first = op.Types[0]
	}
	common := d.dtype(first)
	args := map[string]tensor.Value{}
	n := &onnx.Node{Name: "n", Op: op.Name, Domain: op.Domain}
	if op.Domain == ops.Internal {
		n.Opset = ops.GradOpset
	}
	for i := range ins {
		if i >= op.MinIn && d.once(5) {
			n.SetInput(i, nil)
			continue
		}
		x, typ := d.value(op, i, base, common)
		name := fmt.Sprint("x", i)
		if t, ok := x.(*tensor.Tensor); ok && d.once(3) { // what is constant is known to inference, and folded
			n.SetInput(i, g.AddInit(name, t))
			continue
		}
		if d.once(2) {
			typ = &onnx.Type{Kind: typ.Kind, Elem: typ.Elem, Of: typ.Of}
		}
		v := &onnx.Value{Name: name, Type: typ}
		g.Inputs, args[name] = append(g.Inputs, v), x
		n.SetInput(i, v)
	}
	outs := op.MinOut
	if top := op.MaxOut; top < 0 || top > outs {
		if top < 0 {
			top = outs + 3
		}
		outs += d.below(top - outs + 1)
	}
	for i := range max(outs, 1) {
		if outs > 1 && d.once(6) && i+1 < outs {
			n.SetOutput(i, nil)
			continue
		}
		v := &onnx.Value{Name: fmt.Sprint("y", i)}
		n.SetOutput(i, v)
		g.Outputs = append(g.Outputs, v)
	}
	name := op.Name
	if op.Domain != "" {
		name = op.Domain + "." + name
	}
	kinds := table[name]
	names := make([]string, 0, len(kinds))
	for a := range kinds {
		names = append(names, a)
	}
	slices.Sort(names)
	often := 3
	if op.Domain == "ai.onnx.ml" || kinds["body"].Type != "" || kinds["then_branch"].Type != "" {
		often = 8
	}
	for _, a := range names {
		if d.below(often) > 0 {
			n.SetAttr(d.attribute(a, kinds[a], max(0, len(base)-one(d, 0, 1, 2, 2))))
		}
	}
	g.Nodes = []*onnx.Node{n}
	for _, s := range n.Graphs() {
		s.Outer = n
	}
	opsets := []onnx.Opset{{Version: 23}}
	if op.Domain == "" {
		opsets[0].Version = int64(since)
	} else {
		opsets = append(opsets, onnx.Opset{Domain: op.Domain, Version: int64(since)})
	}
	return &onnx.Model{IRVersion: 10, Opsets: opsets, Graph: g}, args
}

// survives runs a hostile model and reports whether it gives an answer; else it is an error, no panic, in bounded time and memory.
func survives(tb testing.TB, op *ops.Op, since int, d *dice, table map[string]map[string]attrKind) bool {
	m, args := d.hostile(op, since, table)
	return bounded(tb, m, args, func() error {
		s, err := runtime.NewSession(m, runtime.Threads(1), runtime.MemoryLimit(16<<20))
		if err != nil {
			return err
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		_, err = s.Run(ctx, args)
		return err
	}) == nil
}

// told is a model and its inputs, for a failure's message.
func told(m *onnx.Model, args map[string]tensor.Value) string {
	var b strings.Builder
	for _, n := range m.Graph.Nodes {
		fmt.Fprintf(&b, "%s %s at %v, %d outputs\n", n.Domain, n.Op, m.Opsets, len(n.Outputs))
		for i, v := range n.Inputs {
			switch {
			case v == nil:
				fmt.Fprintf(&b, "  input %d: none\n", i)
			case v.Const != nil:
				fmt.Fprintf(&b, "  input %d: constant %s %s\n", i, v.Const, shortly(v.Const))
			case v.Def() != nil:
				fmt.Fprintf(&b, "  input %d: %s of %s\n", i, v.Name, v.Def().Op)
			default:
				t, _ := args[v.Name].(*tensor.Tensor)
				if t == nil {
					fmt.Fprintf(&b, "  input %d: %s\n", i, args[v.Name].Kind())
					continue
				}
				fmt.Fprintf(&b, "  input %d: %s %s\n", i, t, shortly(t))
			}
		}
		for _, a := range n.Attrs {
			fmt.Fprintf(&b, "  attribute %s %s: f=%v i=%v s=%q floats=%v ints=%v strings=%q t=%v\n", a.Name, a.Type, a.F, a.I, a.S, a.Floats, a.Ints, a.Strings, a.T)
		}
	}
	return b.String()
}

func shortly(t *tensor.Tensor) string {
	var b strings.Builder
	_ = tensor.Format(&b, t, 40)
	s := strings.ReplaceAll(b.String(), "\n", "")
	return s[:min(len(s), 300)]
}

var hostileRounds = flag.Int("hostile-rounds", 10, "nodes that TestHostileNodes tries of each operator and version")

// TestHostileNodes tries every operator at every version with attributes, shapes, types and indices that nobody vouches for.
func TestHostileNodes(t *testing.T) {
	everyOperator(t, "nodes", survives)
}

// nodeCheck tries a node of the operator as of that opset, drawn from d, and reports whether it gives an answer.
type nodeCheck func(tb testing.TB, op *ops.Op, since int, d *dice, table map[string]map[string]attrKind) bool

// everyOperator checks nodes of every operator and version, the same ones each time; what keeps the draws of one test apart from another's.
func everyOperator(t *testing.T, what string, check nodeCheck) {
	table, answers, nodes := attrTable(t), 0, 0
	for _, op := range ops.All() {
		for _, since := range op.Since {
			for k := range *hostileRounds {
				nodes++
				if check(t, op, since, seeded(what, op.Domain, op.Name, since, k), table) {
					answers++
				}
			}
		}
	}
	t.Logf("%d nodes, of which %d give an answer", nodes, answers)
}

// fuzzOperators has the fuzzer choose operator, version and draws.
func fuzzOperators(f *testing.F, check nodeCheck) {
	table, all := attrTable(f), ops.All()
	f.Add(uint16(0), uint8(0), []byte("seed"))
	f.Fuzz(func(t *testing.T, which uint16, version uint8, data []byte) {
		op := all[int(which)%len(all)]
		check(t, op, op.Since[int(version)%len(op.Since)], newDice(data), table)
	})
}

// TestConstantsAndInputsAgree runs hostile nodes twice: with some inputs constant, which inference and folding see, and with none. Both
// give one answer, or none.
func TestConstantsAndInputsAgree(t *testing.T) {
	table := attrTable(t)
	for _, op := range ops.All() {
		if op.Impure || op.Name == "Loop" || op.Domain == ops.Internal { // random draws, what may not end, what no file names
			continue
		}
		for _, since := range op.Since {
			for k := range *hostileRounds {
				m, args := seeded("constants", op.Domain, op.Name, since, k).hostile(op, since, table)
				want, wantErr := runHostile(m, args, 1)
				inputs := m.Clone()
				for _, v := range inputs.Graph.Inits {
					args[v.Name], v.Type, v.Const = v.Const, onnx.TypeOfTensor(v.Const), nil
					inputs.Graph.Inputs = append(inputs.Graph.Inputs, v)
				}
				inputs.Graph.Inits = nil
				got, err := runHostile(inputs, args, 3)
				if (err == nil) != (wantErr == nil) {
					if nothing(want) && nothing(got) { // where nothing is computed, not all is checked
						continue
					}
					t.Errorf("with constants: %v, without: %v\n%s", wantErr, err, told(m, args))
					continue
				}
				for name := range want {
					if _, _, err := tensor.Compare(got[name], want[name], 1e-5, 1e-5); err != nil {
						t.Errorf("with constants and without: output %s: %v\n%s", name, err, told(m, args))
					}
				}
			}
		}
	}
}

// runHostile runs a model within a second and 16 MiB.
func runHostile(m *onnx.Model, args map[string]tensor.Value, threads int, opts ...runtime.Option) (map[string]tensor.Value, error) {
	s, err := runtime.NewSession(m, append(opts, runtime.Threads(threads), runtime.MemoryLimit(16<<20))...)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.Run(ctx, args)
}

// nothing reports whether all values are tensors without elements.
func nothing(values map[string]tensor.Value) bool {
	for _, v := range values {
		if t, ok := v.(*tensor.Tensor); !ok || t.Len() > 0 {
			return false
		}
	}
	return true
}

func FuzzHostileNodes(f *testing.F) { fuzzOperators(f, survives) }

// TestOnceFatalNodes is what hostile nodes have found.
func TestOnceFatalNodes(t *testing.T) {
	empty := func(d tensor.DType, shape ...int) *tensor.Tensor {
		x, err := tensor.Zeros(d, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, c := range []struct {
		op    string
		opset int64
		attrs []*onnx.Attribute
		in    []*tensor.Tensor
	}{
		{"ScatterND", 18, nil, []*tensor.Tensor{empty(tensor.Float32, 2, 2), empty(tensor.Int64, 1<<40, 0), empty(tensor.Float32, 2)}},
		{"Div", 6, []*onnx.Attribute{onnx.IntAttr("broadcast", 1), onnx.IntAttr("axis", math.MaxInt64)}, []*tensor.Tensor{empty(tensor.Float32, 3, 2), empty(tensor.Float32, 3)}},
		{"Add", 6, []*onnx.Attribute{onnx.IntAttr("broadcast", 1), onnx.IntAttr("axis", -1<<40)}, []*tensor.Tensor{empty(tensor.Int64), empty(tensor.Int64)}},
		{"Gemm", 13, nil, []*tensor.Tensor{empty(tensor.Float64, 3, 1), empty(tensor.Uint64, 1, 3)}},
		{"Attention", 23, nil, []*tensor.Tensor{empty(tensor.Float32, 1, 1, 2, 2), empty(tensor.Float64, 1, 1, 2, 2), empty(tensor.Float64, 1, 1, 2, 2)}},
		{"STFT", 17, nil, []*tensor.Tensor{empty(tensor.Float32, 1, 4), tensor.Scalar(int64(1)), empty(tensor.Float64, 2)}},
		{"TensorScatter", 24, nil, []*tensor.Tensor{empty(tensor.Float32, 1, 2, 1), empty(tensor.Float32, 1, 1, 1), empty(tensor.Bool, 1)}},
		{"Unique", 11, []*onnx.Attribute{onnx.IntAttr("axis", 0)}, []*tensor.Tensor{empty(tensor.Float32, 1<<40, 0)}},
		{"Unique", 11, []*onnx.Attribute{onnx.IntAttr("axis", -3)}, []*tensor.Tensor{empty(tensor.Bool, 1<<61-1, 1, 0)}},
		{"SplitToSequence", 11, nil, []*tensor.Tensor{empty(tensor.Float32, 1<<40, 0)}},
		{"Reshape", 14, nil, []*tensor.Tensor{empty(tensor.Float32, 1), tensor.New([]int64{3}, 1)}},
		{"Scan", 8, []*onnx.Attribute{onnx.IntAttr("num_scan_inputs", 1), onnx.GraphAttr("body", &onnx.Graph{Name: "b"})}, nil},
	} {
		m := standardNode(c.op, 1, c.in, c.attrs...)
		m.Opsets[0].Version = c.opset
		if _, err := runNode(m, c.in); err == nil || strings.Contains(err.Error(), "panic") {
			t.Errorf("%s: want an error that is no panic, got %v", c.op, err)
		}
	}
	x := empty(tensor.Float32, 1<<40, 1, 3, 0)
	if _, err := runNode(standardNode("LRN", 1, []*tensor.Tensor{x}, onnx.IntAttr("size", 1)), []*tensor.Tensor{x}); err != nil {
		t.Errorf("LRN of nothing: %v", err)
	}
	limit := tensor.New([]int64{1})
	for _, in := range [][]*tensor.Tensor{
		{empty(tensor.Float32, 1, 0, 4), empty(tensor.Float32, 1, 1<<40, 0), limit},
		{empty(tensor.Float32, 1<<40, 0, 4), empty(tensor.Float32, 1<<40, 1, 0), limit},
	} {
		if _, err := runNode(standardNode("NonMaxSuppression", 1, in), in); err != nil {
			t.Errorf("NonMaxSuppression of no boxes: %v", err)
		}
	}
}
