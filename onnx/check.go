package onnx

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/tensor"
)

// Check says what is wrong with m: all problems, joined, each one line that names graph, node and value. A
// model without problems can be saved, and what is saved can be loaded. Whether operators exist and get
// the inputs and attributes they want is not looked at here.
func Check(m *Model) error {
	c := &checker{model: m}
	if m.Graph == nil {
		return errors.New("the model has no graph")
	}
	if m.IRVersion < 1 {
		c.add("the model has no IR version")
	}
	c.opsets("the model", m.Opsets)
	c.where, c.imports, c.missing = "", m.Opsets, map[string]bool{}
	c.graph(m.Graph, nil, 0)
	seen := map[functionID]bool{}
	for _, f := range m.Functions {
		c.function(f, seen)
	}
	c.recursion()
	return errors.Join(c.problems...)
}

type checker struct {
	model    *Model
	problems []error

	where   string // "function ...: " in a function's body
	fn      *Function
	imports []Opset
	missing map[string]bool // domains that have been told of
}

func (c *checker) add(format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf("%s"+format, append([]any{c.where}, args...)...))
}

func (c *checker) opsets(who string, opsets []Opset) {
	seen := map[string]bool{}
	for _, o := range opsets {
		d := CanonicalDomain(o.Domain)
		if seen[d] {
			c.add("%s imports domain %q twice", who, o.Domain)
		}
		seen[d] = true
		if o.Version < 1 {
			c.add("%s imports domain %q at version %d", who, o.Domain, o.Version)
		}
	}
}

func (c *checker) graph(g *Graph, outer *scope, depth int) {
	if depth > maxNesting {
		c.add("graph %q: subgraphs nest deeper than %d", g.Name, maxNesting)
		return
	}
	was := c.where
	c.where += fmt.Sprintf("graph %q: ", g.Name)
	defer func() { c.where = was }()

	s := newScope(outer)
	c.names(g, s)
	for _, v := range g.Inputs {
		if v != nil && v.Type == nil && v.opaque == nil && depth == 0 && c.fn == nil {
			c.add("input %q has no type", v.Name)
		}
	}
	for v := range g.Values() {
		if v == nil {
			continue
		}
		c.valueType(v)
		if v.Const == nil {
			continue
		}
		if v.Type != nil && !v.Type.agrees(TypeOfTensor(v.Const)) {
			c.add("initializer %q is declared %s and holds %s", v.Name, v.Type, v.Const)
		}
	}

	sorted := *g
	sorted.Nodes = slices.Clone(g.Nodes)
	cycle := sorted.Sort()
	if cycle != nil {
		c.problems = append(c.problems, fmt.Errorf("%s%w", was, cycle))
	}
	for k, n := range g.Nodes {
		s.at = k
		c.node(n, s, k, cycle == nil, depth)
	}
	s.at = len(g.Nodes)
	for i, v := range g.Outputs {
		if v == nil {
			c.add("output %d is missing", i)
		} else if s.find(v.Name) == nil {
			c.add("output %q is never computed", v.Name)
		} else if err := s.check(v); err != nil {
			c.add("output: %w", err)
		}
	}
	if len(g.Outputs) == 0 && depth == 0 && c.fn == nil {
		c.add("there are no outputs")
	}
}

// names defines what g defines.
func (c *checker) names(g *Graph, s *scope) {
	define := func(v *Value, what string) {
		switch {
		case v == nil:
			c.add("%s is missing", what)
		case v.Name == "":
			c.add("%s has no name", what)
		default:
			if err := s.add(v); err != nil {
				c.add("%s: %w", what, err)
			}
		}
	}
	for i, v := range g.Inputs {
		define(v, fmt.Sprintf("input %d", i))
		if v != nil && v.def != nil {
			c.add("input %q is computed by node %q", v.Name, v.def.Name)
		}
	}
	for i, v := range g.Inits {
		if v != nil && v.Const == nil {
			c.add("initializer %q has no value", v.Name)
		}
		if v == nil || s.values[v.Name] != v || !slices.Contains(g.Inputs, v) {
			define(v, fmt.Sprintf("initializer %d", i))
		}
	}
	for k, n := range g.Nodes {
		for i, v := range n.Outputs {
			if v == nil {
				continue
			}
			define(v, fmt.Sprintf("node %q (%s): output %d", n.Name, n.Op, i))
			s.index[v] = k
			if v.def != n {
				c.add("node %q (%s): output %q is linked to another node", n.Name, n.Op, v.Name)
			}
		}
	}
}

func (c *checker) valueType(v *Value) {
	if v.Type == nil {
		return
	}
	for _, why := range typeProblems(v.Type, 0) {
		c.add("value %q: %s", v.Name, why)
	}
}

func typeProblems(t *Type, depth int) (out []string) {
	if depth > maxNesting {
		return []string{fmt.Sprintf("types nest deeper than %d", maxNesting)}
	}
	switch t.Kind {
	case TensorType, SparseTensorType:
		if !t.Elem.Valid() {
			out = append(out, fmt.Sprintf("element type %d is not known", t.Elem))
		}
		var known []int
		for _, d := range t.Shape {
			switch {
			case d.Param == "" && d.Value < -1:
				out = append(out, fmt.Sprintf("dimension %d is negative", d.Value))
			case d.Param == "" && d.Value > 0:
				known = append(known, int(d.Value))
			}
		}
		if _, err := tensor.ByteSize(t.Elem, known); err != nil {
			out = append(out, fmt.Sprintf("shape %s overflows", t))
		}
		return out
	case MapType:
		if t.Elem != tensor.String && !t.Elem.IsInteger() {
			out = append(out, fmt.Sprintf("keys of a map cannot be %s", t.Elem))
		}
	case SequenceType, OptionalType:
	default:
		return []string{fmt.Sprintf("type of kind %d is not known", t.Kind)}
	}
	if t.Of == nil {
		return append(out, "the type does not say of what")
	}
	return append(out, typeProblems(t.Of, depth+1)...)
}

func (c *checker) node(n *Node, s *scope, k int, acyclic bool, depth int) {
	was := c.where
	c.where += fmt.Sprintf("node %q (%s): ", n.Name, n.Op)
	defer func() { c.where = was }()
	if n.Op == "" {
		c.add("has no operator")
	}
	if d := CanonicalDomain(n.Domain); n.Opset == 0 && opsetVersion(c.imports, d) == 0 && !c.missing[d] {
		c.missing[d] = true
		c.add("uses domain %q, which is not imported", d)
	}
	if f := c.model.Function(n.Domain, n.Op, n.Overload); f != nil && f.Body != nil &&
		(len(n.Inputs) > len(f.Body.Inputs) || len(n.Outputs) > len(f.Body.Outputs)) {
		c.add("calls a function with %d inputs and %d outputs; it has %d and %d", len(n.Inputs), len(n.Outputs), len(f.Body.Inputs), len(f.Body.Outputs))
	}
	for i, v := range n.Inputs {
		if v == nil {
			continue
		}
		if err := s.check(v); err != nil {
			c.add("input %d: %w", i, err)
		} else if at, ok := s.index[v]; ok && at >= k && acyclic {
			c.add("input %d: value %q is computed only later", i, v.Name)
		}
	}
	seen := map[string]bool{}
	for _, a := range n.Attrs {
		if seen[a.Name] {
			c.add("attribute %q is there twice", a.Name)
		}
		seen[a.Name] = true
		if why := a.problem(); why != "" {
			c.add("attribute %q %s", a.Name, why)
		}
		if a.Ref != "" {
			switch {
			case c.fn == nil:
				c.add("attribute %q refers to %q, but is in no function", a.Name, a.Ref)
			case !slices.Contains(c.fn.Attributes, a.Ref) && !slices.ContainsFunc(c.fn.AttributeDefaults, func(d *Attribute) bool { return d.Name == a.Ref }):
				c.add("attribute %q refers to %q, which the function does not have", a.Name, a.Ref)
			}
		}
		for _, t := range append(slices.Clone(a.Types), a.TP) {
			if t != nil {
				for _, why := range typeProblems(t, 0) {
					c.add("attribute %q: %s", a.Name, why)
				}
			}
		}
	}
	for _, sub := range n.Graphs() {
		if sub.Outer != n {
			c.add("graph %q is linked to another node", sub.Name)
		}
		c.graph(sub, s, depth+1)
	}
}

// problem says what is wrong with the attribute's form, "" if nothing is.
func (a *Attribute) problem() string {
	switch {
	case a.Name == "":
		return "has no name"
	case a.Type < 0 || int(a.Type) >= len(attrTypes):
		return fmt.Sprintf("has a type that is not known, %d", a.Type)
	case a.Ref != "":
		return ""
	case a.Type == AttrUndefined:
		return "has no type"
	}
	own := a.Type
	switch own {
	case AttrSparseTensor:
		own = AttrTensor
	case AttrSparseTensors:
		own = AttrTensors
	}
	set := map[AttrType]bool{AttrFloat: a.F != 0, AttrInt: a.I != 0, AttrString: len(a.S) > 0, AttrTensor: a.T != nil, AttrGraph: a.G != nil,
		AttrFloats: len(a.Floats) > 0, AttrInts: len(a.Ints) > 0, AttrStrings: len(a.Strings) > 0, AttrTensors: len(a.Tensors) > 0,
		AttrGraphs: len(a.Graphs) > 0, AttrTypeProto: a.TP != nil, AttrTypeProtos: len(a.Types) > 0}
	for t := AttrFloat; t <= AttrTypeProtos; t++ {
		if set[t] && t != own {
			return fmt.Sprintf("is said to be %s, but holds %s", a.Type, t)
		}
	}
	if (own == AttrTensor || own == AttrGraph) && !set[own] || slices.Contains(a.Tensors, nil) || slices.Contains(a.Graphs, nil) {
		return fmt.Sprintf("is said to be %s, but holds nothing", a.Type)
	}
	return ""
}

func (c *checker) function(f *Function, seen map[functionID]bool) {
	id := functionID{CanonicalDomain(f.Domain), f.Name, f.Overload}
	c.where, c.fn, c.imports, c.missing = fmt.Sprintf("function %q: ", f.Name), f, f.Opsets, map[string]bool{}
	defer func() { c.where, c.fn = "", nil }()
	if seen[id] {
		c.add("is there twice in domain %q", f.Domain)
	}
	seen[id] = true
	if f.Body == nil {
		c.add("has no body")
		return
	}
	if len(f.Body.Inits) > 0 {
		c.add("has initializers, which functions cannot have")
	}
	c.opsets("it", f.Opsets)
	for _, a := range f.AttributeDefaults {
		if why := a.problem(); why != "" {
			c.add("attribute %q %s", a.Name, why)
		}
		if slices.Contains(f.Attributes, a.Name) {
			c.add("attribute %q is there with and without a default", a.Name)
		}
	}
	c.graph(f.Body, nil, 0)
}

// recursion finds functions that call themselves.
func (c *checker) recursion() {
	const visiting, done = 1, 2
	state := map[*Function]int{}
	var path []string
	var visit func(f *Function)
	visit = func(f *Function) {
		switch state[f] {
		case done:
			return
		case visiting:
			c.add("function %q calls itself: %s", f.Name, strings.Join(append(path, f.Name), " > "))
			return
		}
		state[f] = visiting
		path = append(path, f.Name)
		if f.Body != nil {
			f.Body.Walk(func(g *Graph) {
				for _, n := range g.Nodes {
					if callee := c.model.Function(n.Domain, n.Op, n.Overload); callee != nil {
						visit(callee)
					}
				}
			})
		}
		path = path[:len(path)-1]
		state[f] = done
	}
	for _, f := range c.model.Functions {
		visit(f)
	}
}
