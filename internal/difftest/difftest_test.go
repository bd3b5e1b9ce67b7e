// Package difftest holds every operator against ONNX Runtime: models of one node over random shapes, attributes, element
// types and opsets, made from a seed, are run by both. Where they differ the standard's text decides; see deviations.
package difftest

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

var (
	cases = flag.Int("cases", 60, "models an operator")
	seed  = flag.Uint64("seed", 1, "of the first model of each operator")
	shown = flag.Int("shown", 3, "differences an operator that are printed")
)

// newest is the last opset that this ONNX Runtime knows.
const newest = 25

// tolerance is by how much a float may differ, of its magnitude and of 1: kernels add in different orders, and the
// functions of the C library are not Go's.
var tolerance = map[tensor.DType]float64{tensor.Float32: 2e-5, tensor.Float64: 1e-10, tensor.Float16: 4e-3}

// loose are the operators that round to float16 on their way, sum numbers that cancel, or go on from their own results, and by what factor they
// may differ more.
var loose = map[string]float64{"Attention": 8, "MatMulNBits": 8, "MoE": 8, "QMoE": 8, "GRU": 8, "STFT": 4,
	"GroupQueryAttention": 4, "BatchNormalization": 4}

// truncated are the operators that compute integers from floats, of which 2.9999 may become 2 or 3; of the softmax of bytes ONNX Runtime
// takes the exponentials from a table of rounded ones.
var truncated = map[string]bool{"Resize": true, "Upsample": true, "QLinearSoftmax": true}

// TestAgainstONNXRuntime needs the npm package onnxruntime-node; make conformance-ort installs it.
func TestAgainstONNXRuntime(t *testing.T) {
	p := newPeer(t)
	names := []string{}
	for name := range generators {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) { compareOperator(t, p, name) })
	}
}

func compareOperator(t *testing.T, p *peer, name string) {
	same, deviates, failed, refused := 0, 0, 0, map[string]int{}
	for i := range *cases {
		seed := *seed + uint64(i)
		c, err := newCase(name, seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if c == nil {
			continue
		}
		theirs, refusal := p.run(c.data, c.feeds, c.shared)
		ours, err := c.run()
		if refusal != nil {
			if err == nil && !noKernel.MatchString(refusal.Error()) && !known(c, refusal) {
				refused[short(refusal.Error())]++
			}
			continue
		}
		if err == nil {
			err = c.compare(ours, theirs)
		}
		switch {
		case err == nil:
			same++
		case known(c, nil):
			deviates++
		default:
			if failed++; failed <= *shown {
				t.Errorf("seed %d: %v\n%s", seed, err, c)
			}
		}
	}
	for why, n := range refused {
		t.Errorf("ONNX Runtime refuses %d: %s", n, why)
	}
	t.Logf("%d alike, %d differ, %d where ONNX Runtime deviates", same, failed, deviates)
}

// noKernel is how ONNX Runtime says that it lacks a kernel for an element type, or that an opset does not have it.
var noKernel = regexp.MustCompile("Could not find an implementation|Failed to find kernel|Type Error: Type .* is invalid|ConstantOfShapeBase.*SetValueFromTensorProto")

var noise = regexp.MustCompile(`[0-9a-fx.]*0x[0-9a-f]+|/onnxruntime_src\S*|node_modules\S*|\bx\d+(_\d+)?\b|\d+`)

// short is a message of ONNX Runtime without what differs from case to case.
func short(s string) string {
	s = noise.ReplaceAllString(strings.ReplaceAll(s, "\n", " "), "·")
	return s[:min(len(s), 300)]
}

// testCase is a model with inputs.
type testCase struct {
	model *onnx.Model
	data  []byte
	feeds map[string]*tensor.Tensor
	since int
	// shared are the outputs that ONNX Runtime must write into inputs
	shared map[string]string
}

// node is the one that is tested.
func (c *testCase) node() *onnx.Node {
	for _, n := range c.model.Graph.Nodes {
		if n.Name == "tested" {
			return n
		}
	}
	return nil
}

// in is the node's i-th input, nil if it is left out.
func (c *testCase) in(i int) *tensor.Tensor {
	v := c.node().Input(i)
	if v == nil {
		return nil
	}
	if v.Const != nil {
		return v.Const
	}
	return c.feeds[v.Name]
}

// newCase makes the operator's case of that seed, nil if there is none.
func newCase(name string, seed uint64) (*testCase, error) {
	h := fnv.New64()
	h.Write([]byte(name))
	domain, op := "", name
	if i := strings.LastIndex(name, "."); i >= 0 {
		domain, op = name[:i], name[i+1:]
	}
	g := &gen{Rand: rand.New(rand.NewPCG(seed, h.Sum64())), feeds: map[string]*tensor.Tensor{}}
	limit := map[string]int{"": newest, "ai.onnx.ml": 5, "com.microsoft": 1, "com.microsoft.nchwc": 1}[domain]
	var sinces []int
	for _, e := range ops.All() {
		if e.Domain == domain && e.Name == op {
			sinces = append(sinces, e.Since...)
		}
	}
	if sinces = slices.DeleteFunc(sinces, func(s int) bool { return s > limit }); len(sinces) == 0 {
		return nil, fmt.Errorf("there is no operator %s", name)
	}
	if g.opset = one(g, sinces...); domain == "" {
		g.opset = max(g.opset, 7) // the first that ONNX Runtime takes
	}
	g.def, g.since = ops.Lookup(domain, op, g.opset)
	if domain == "" {
		g.b = onnx.NewBuilder(op, int64(g.opset))
	} else {
		g.b = onnx.NewBuilder(op, 21)
		g.b.Import(domain, int64(g.opset))
	}
	var types []tensor.DType
	for d := range wireTypes {
		if len(g.def.Types) == 0 || g.def.Types[0].Has(d) {
			types = append(types, d)
		}
	}
	slices.Sort(types)
	if g.dtype = one(g, types...); slices.Contains(types, tensor.Float32) && g.chance(2) {
		g.dtype = tensor.Float32
	}
	if narrow := slices.DeleteFunc(slices.Clone(narrowTypes), func(d tensor.DType) bool {
		return domain != "" || g.opset < narrowSince[d] || len(g.def.Types) > 0 && !g.def.Types[0].Has(d)
	}); len(narrow) > 0 && g.chance(8) {
		g.dtype, g.widen = one(g, narrow...), true
	}
	if generators[name](g); len(g.b.Graph().Outputs) == 0 {
		return nil, nil
	}
	m, err := g.b.Model()
	if err != nil {
		return nil, err
	}
	data, err := onnx.Encode(m)
	return &testCase{m, data, g.feeds, g.since, g.shared}, err
}

// run is the model's outputs by Retune.
func (c *testCase) run() (map[string]tensor.Value, error) {
	m, err := onnx.Decode(c.data)
	if err != nil {
		return nil, err
	}
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	feeds := map[string]tensor.Value{}
	for name, t := range c.feeds {
		feeds[name] = t
	}
	return s.Run(context.Background(), feeds)
}

func (c *testCase) compare(ours map[string]tensor.Value, theirs map[string]*tensor.Tensor) error {
	for name, want := range theirs {
		tol := tolerance[want.DType()] * max(1, loose[c.node().Op])
		off, _, err := tensor.Compare(ours[name], want, tol, tol)
		if err != nil && !(want.DType().IsInteger() && truncated[c.node().Op] && 0 < off && off <= 1) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !want.DType().IsFloat() || !zeroSigned[c.node().Op] {
			continue
		}
		got := ours[name].(*tensor.Tensor)
		for i := range want.Len() {
			a, b := tensor.Float64At(got, i), tensor.Float64At(want, i)
			if a == 0 && b == 0 && math.Signbit(a) != math.Signbit(b) {
				return fmt.Errorf("%s: element %d: want %v, got %v (the sign of zero)", name, i, b, a)
			}
		}
	}
	return nil
}

// String shows all that it takes to see who is right.
func (c *testCase) String() string {
	var s strings.Builder
	for _, n := range c.model.Graph.Nodes {
		fmt.Fprintf(&s, "  %s.%s, opsets %v:", n.Domain, n.Op, c.model.Opsets)
		for _, a := range n.Attrs {
			fmt.Fprintf(&s, " %s=%s", a.Name, attrText(a))
		}
		fmt.Fprintf(&s, "\n")
		for _, v := range n.Inputs {
			if v == nil {
				fmt.Fprintf(&s, "    left out\n")
				continue
			}
			kind, t := "constant", v.Const
			if t == nil {
				kind, t = "input", c.feeds[v.Name]
			}
			if t == nil {
				fmt.Fprintf(&s, "    %s\n", v.Name)
				continue
			}
			var elements strings.Builder
			tensor.Format(&elements, t, 40)
			text := strings.Join(strings.Fields(elements.String()), " ")
			fmt.Fprintf(&s, "    %s %s %s\n", kind, t, text[:min(len(text), 400)])
		}
	}
	return s.String()
}

func attrText(a *onnx.Attribute) string {
	switch a.Type {
	case onnx.AttrInt:
		return fmt.Sprint(a.I)
	case onnx.AttrFloat:
		return fmt.Sprint(a.F)
	case onnx.AttrString:
		return string(a.S)
	case onnx.AttrInts:
		return fmt.Sprint(a.Ints)
	case onnx.AttrFloats:
		return fmt.Sprint(a.Floats)
	case onnx.AttrStrings:
		return fmt.Sprintf("%s", a.Strings)
	}
	return fmt.Sprintf("%v", a.Type)
}
