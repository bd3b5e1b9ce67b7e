package finetune

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// Sharing is an initializer that several parameters may have been merged into, or that was written out more than once.
type Sharing struct {
	Initializer string
	Nodes       []string // that read it, where there are several: itself or an Identity of it
	Copies      []string // initializers that are equal to it
	Transposed  []string // initializers that are its transpose
}

// Shared lists the floating-point initializers of m, but for those that PyTorch has as buffers, that several nodes read and those of
// which there are copies. Exporters write equal parameters as one, and one parameter twice: only who made the model knows which is which.
// See [Config.Untie] and [Config.Tie].
func Shared(m *onnx.Model) ([]Sharing, error) {
	inits := candidates(m)
	copies := copiesAmong(inits)
	var found []Sharing
	for _, v := range inits {
		s := Sharing{Initializer: v.Name}
		for _, t := range copies {
			if t.of == v.Name && t.transposed {
				s.Transposed = append(s.Transposed, t.copy)
			} else if t.of == v.Name {
				s.Copies = append(s.Copies, t.copy)
			}
		}
		if nodes := usersOf(v); len(nodes) > 1 {
			for _, n := range nodes {
				s.Nodes = append(s.Nodes, n.Name)
			}
		}
		if s.Nodes != nil || s.Copies != nil || s.Transposed != nil {
			found = append(found, s)
		}
	}
	return found, nil
}

// usersOf is the nodes that read v, each once, those behind an Identity among them.
func usersOf(v *onnx.Value) []*onnx.Node {
	var nodes []*onnx.Node
	for _, n := range v.Users() {
		more := []*onnx.Node{n}
		if isCopy(n) {
			more = n.Outputs[0].Users()
		}
		for _, n := range more {
			if !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes
}

// candidates is the initializers that may be parameters.
func candidates(m *onnx.Model) []*onnx.Value {
	buffers := pytorchBuffers(m)
	var vs []*onnx.Value
	for _, v := range m.Graph.Inits {
		if v.Const.DType().IsFloat() && !isConstant(v) && !buffers[v.Name] {
			vs = append(vs, v)
		}
	}
	return vs
}

// parameterName is what PyTorch can call a parameter: identifiers joined by points.
var parameterName = regexp.MustCompile(`^[A-Za-z_]\w*(\.\w+)*$`)

// madeUp is what exporters call constants, though PyTorch could.
var madeUp = regexp.MustCompile(`^_?(val|const|constant|scalar|Constant|Const)(_\w*)?$`)

// isConstant reports whether an initializer without axes is a number out of a formula, such as the 0.125 of a scaled product, rather
// than a parameter: exporters give such numbers names that no parameter of PyTorch's can have, and keep those of parameters.
func isConstant(v *onnx.Value) bool {
	return v.Const.Rank() == 0 && (!parameterName.MatchString(v.Name) || madeUp.MatchString(v.Name))
}

// isCopy reports whether n is the Identity of an initializer.
func isCopy(n *onnx.Node) bool {
	return n.Op == "Identity" && onnx.CanonicalDomain(n.Domain) == "" && n.Input(0) != nil && n.Input(0).Const != nil && n.Output(0) != nil
}

// ownInitializer puts an initializer in place of the Identity of one.
func ownInitializer(g *onnx.Graph, n *onnx.Node) {
	of, v := n.Inputs[0].Const, n.Outputs[0]
	g.Remove(n)
	n.SetOutput(0, nil)
	v.Const, v.Type = of.Clone(), onnx.TypeOfTensor(of)
	g.Inits = append(g.Inits, v)
}

// untie gives each node that reads an initializer that a glob matches one of its own, or one to an Identity of it, which keeps
// its name. The first reader keeps the old one. It names the initializers that have come of one.
func untie(m *onnx.Model, globs []string) (apart map[string]bool, err error) {
	g := m.Graph
	apart = map[string]bool{}
	for _, glob := range globs {
		matched := false
		for _, v := range candidates(m) {
			whole, err := path.Match(glob, v.Name)
			if err != nil {
				return nil, fmt.Errorf("untie %q: %w", glob, err)
			}
			matched = matched || whole
			for _, n := range slices.Clone(v.Users()) {
				if !isCopy(n) {
					continue
				}
				own := n.Outputs[0]
				if ok, _ := path.Match(glob, own.Name); ok || whole {
					matched = true
					if !slices.Contains(g.Outputs, own) && slices.Contains(g.Nodes, n) {
						ownInitializer(g, n)
						apart[v.Name], apart[own.Name] = true, true
					}
				}
			}
			if !whole {
				continue
			}
			var seen []*onnx.Node
			for _, n := range slices.Clone(v.Users()) {
				if slices.Contains(seen, n) {
					continue
				}
				if seen = append(seen, n); len(seen) == 1 {
					continue
				}
				own := g.AddInit(g.FreshName(v.Name+"@"+n.Name), v.Const.Clone())
				apart[v.Name], apart[own.Name] = true, true
				for i, in := range n.Inputs {
					if in == v {
						n.SetInput(i, own)
					}
				}
			}
		}
		if !matched {
			return nil, fmt.Errorf("untie %q matches no floating-point weight", glob)
		}
	}
	return apart, nil
}

// tie is one parameter that the exporter wrote out twice: copy is of, as it is or transposed, perhaps with other axes of one.
type tie struct {
	copy, of   string
	transposed bool
}

// newTie is that of two initializers, whose values must be such.
func newTie(g *onnx.Graph, copy, of string) (tie, error) {
	t := tie{copy: copy, of: of}
	a, b := g.Init(copy), g.Init(of)
	if a == nil || b == nil || a == b {
		return t, fmt.Errorf("%q and %q are not two initializers of the model", copy, of)
	}
	if t.transposed = !alike(a.Const, b.Const); t.transposed && !isTransposed(a.Const, b.Const) {
		return t, fmt.Errorf("initializer %q is no copy of %q, as it is or transposed", copy, of)
	}
	return t, nil
}

// pressed is t without its axes of one.
func pressed(t *tensor.Tensor) *tensor.Tensor {
	p, err := t.Reshape(withoutOnes(t.Shape())...)
	if err != nil { // it has as many elements
		panic(err)
	}
	return p
}

// alike reports whether two tensors are the same but for axes of one.
func alike(a, b *tensor.Tensor) bool { return a.Len() == b.Len() && same(pressed(a), pressed(b)) }

// isTransposed reports whether a is the transpose of b, but for axes of one.
func isTransposed(a, b *tensor.Tensor) bool {
	if a, b = pressed(a), pressed(b); a.DType() != b.DType() || a.Rank() != 2 || b.Rank() != 2 {
		return false
	}
	back, err := transpose(b)
	return err == nil && same(a, back)
}

// allTies is the ties that names and the configuration tell of, each copy once. What was told apart is not tied for being equal.
func allTies(m *onnx.Model, cfg Config, names Names, apart map[string]bool) ([]tie, error) {
	g := m.Graph
	found := map[string]tie{}
	add := func(t tie) error {
		if first, ok := found[t.copy]; ok && first != t {
			return fmt.Errorf("initializer %q is the copy of both %q and %q", t.copy, first.of, t.of)
		}
		found[t.copy] = t
		return nil
	}
	ties, err := names.ties(g)
	if err != nil {
		return nil, err
	}
	for _, copy := range slices.Sorted(maps.Keys(cfg.Tie)) {
		t, err := newTie(g, copy, cfg.Tie[copy])
		if err != nil {
			return nil, fmt.Errorf("tie: %w", err)
		}
		ties = append(ties, t)
	}
	for _, glob := range cfg.TieEqual {
		var vs []*onnx.Value
		for _, v := range candidates(m) {
			ok, err := path.Match(glob, v.Name)
			if err != nil {
				return nil, fmt.Errorf("tie %q: %w", glob, err)
			}
			if ok && !apart[v.Name] {
				vs = append(vs, v)
			}
		}
		copies := copiesAmong(vs)
		if len(copies) == 0 {
			return nil, fmt.Errorf("tie %q: no two of the weights that it matches are equal, as they are or transposed", glob)
		}
		for _, t := range copies {
			if !slices.ContainsFunc(ties, func(named tie) bool { return named.copy == t.copy }) { // what is said by name goes first
				ties = append(ties, t)
			}
		}
	}
	for _, t := range ties {
		if err := add(t); err != nil {
			return nil, fmt.Errorf("tie: %w", err)
		}
	}
	for _, t := range found {
		if of, ok := found[t.of]; ok {
			return nil, fmt.Errorf("tie: initializer %q, which %q is to be a copy of, is itself to be one of %q", t.of, t.copy, of.of)
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b tie) int { return strings.Compare(a.copy, b.copy) }), nil
}

// copiesAmong finds which of vs are the first equal one before them, as it is or transposed.
func copiesAmong(vs []*onnx.Value) []tie {
	var ties []tie
	first := map[uint64][]*onnx.Value{}
	for _, v := range vs {
		mark := fingerprint(v.Const)
		found := false
		for _, of := range first[mark] {
			t := tie{copy: v.Name, of: of.Name, transposed: !alike(v.Const, of.Const)}
			if found = !t.transposed || isTransposed(v.Const, of.Const); found {
				ties = append(ties, t)
				break
			}
		}
		if !found {
			first[mark] = append(first[mark], v)
		}
	}
	return ties
}

// fingerprint is a number that t and its transpose share, and few others.
func fingerprint(t *tensor.Tensor) uint64 {
	sum, size := uint64(t.DType())<<32+uint64(t.Len()), t.DType().Size()
	data := t.Bytes()
	for i := 0; i+size <= len(data); i += size {
		var bits uint64
		switch size {
		case 8:
			bits = binary.LittleEndian.Uint64(data[i:])
		case 4:
			bits = uint64(binary.LittleEndian.Uint32(data[i:]))
		case 2:
			bits = uint64(binary.LittleEndian.Uint16(data[i:]))
		default:
			bits = uint64(data[i])
		}
		bits = (bits + 1) * 0x9e3779b97f4a7c15
		sum += (bits ^ bits>>29) * 0xbf58476d1ce4e5b9
	}
	return sum
}

// value is the copy, in that shape, of t.
func (x tie) value(t *tensor.Tensor, shape []int) (*tensor.Tensor, error) {
	t = t.Clone()
	if x.transposed {
		var err error
		if t, err = transpose(pressed(t)); err != nil {
			return nil, err
		}
	}
	return t.Reshape(shape...)
}

// compute makes the copy what nodes make of the parameter, so that its gradient comes to that.
func (x tie) compute(g *onnx.Graph) {
	c := g.Init(x.copy)
	v := g.Init(x.of)
	have, want := v.Const.Shape(), c.Const.Shape()
	var nodes []*onnx.Node
	emit := func(op string, in ...*onnx.Value) {
		n := onnx.NewNode(op, append([]*onnx.Value{v}, in...), g.FreshName(x.copy+" of "+x.of))
		n.Name, n.Opset = x.copy, ops.GradOpset
		nodes, v = append(nodes, n), n.Outputs[0]
	}
	reshape := func(to []int) {
		if !slices.Equal(have, to) {
			dims := make([]int64, len(to))
			for i, d := range to {
				dims[i] = int64(d)
			}
			emit("Reshape", g.AddInit(g.FreshName(x.copy+" shape"), tensor.New(dims, len(dims))))
			have = to
		}
	}
	if x.transposed {
		reshape(pressed(v.Const).Shape())
		emit("Transpose")
		have = []int{have[1], have[0]}
	}
	if reshape(want); nodes == nil {
		emit("Identity")
	}
	g.Inits = slices.DeleteFunc(g.Inits, func(v *onnx.Value) bool { return v == c })
	g.Inputs = slices.DeleteFunc(g.Inputs, func(v *onnx.Value) bool { return v == c })
	c.Const = nil
	nodes[len(nodes)-1].SetOutput(0, c)
	g.Nodes = append(nodes, g.Nodes...)
}
