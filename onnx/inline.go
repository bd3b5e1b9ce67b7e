package onnx

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// maxInlined bounds the nodes that inlining may make: functions that call functions grow without limit.
const maxInlined = 1 << 20

// Function is the model-local function that a node calls, nil if there is none.
func (m *Model) Function(domain, name, overload string) *Function {
	domain = CanonicalDomain(domain)
	for _, f := range m.Functions {
		if f.Name == name && f.Overload == overload && CanonicalDomain(f.Domain) == domain {
			return f
		}
	}
	return nil
}

// InlineFunctions is a copy of m in which calls of model-local functions are replaced by the functions'
// nodes, with the callers' attributes in place. A node whose function imports another
// opset than the model does carries it in [Node.Opset]. Tensors are shared with m.
func InlineFunctions(m *Model) (*Model, error) {
	out := *m
	out.unmap, out.Functions = nil, nil
	out.Opsets, out.Metadata = slices.Clone(m.Opsets), slices.Clone(m.Metadata)
	in := &inliner{model: m, functions: map[functionID]*Function{}}
	for _, f := range slices.Backward(m.Functions) { // the first of a name counts
		in.functions[functionID{CanonicalDomain(f.Domain), f.Name, f.Overload}] = f
	}
	m.Graph.Walk(func(g *Graph) {
		for v := range g.Values() {
			in.names = append(in.names, v.Name)
		}
		for _, n := range g.Nodes {
			in.names = append(in.names, n.Name)
		}
	})
	slices.Sort(in.names)
	var err error
	out.Graph, err = (&copier{values: map[*Value]*Value{}, inliner: in}).graph(m.Graph)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

type functionID struct{ domain, name, overload string }

type inliner struct {
	model     *Model
	functions map[functionID]*Function
	names     []string // of the model's values and nodes, sorted
	calls     int      // numbers the calls, to make names unique
	nodes     int
}

// call is the place that a function's body is copied to.
type call struct {
	model  *Model
	node   *Node // the call as it was
	fn     *Function
	caller *copier
	depth  int
}

// opset is what a node of the body carries: 0 where function and model agree.
func (c *call) opset(domain string) int64 {
	if v := opsetVersion(c.fn.Opsets, domain); v != c.model.OpsetVersion(domain) {
		return v
	}
	return 0
}

// attribute is what a stands for: the caller's attribute, copied as the caller sees it, or the default.
func (c *call) attribute(a *Attribute, owner *Node) (*Attribute, error) {
	from, b := c.caller, c.node.Attr(a.Ref)
	if b == nil {
		i := slices.IndexFunc(c.fn.AttributeDefaults, func(d *Attribute) bool { return d.Name == a.Ref })
		if i < 0 {
			return nil, nil
		}
		from, b = &copier{values: map[*Value]*Value{}, inliner: c.caller.inliner}, c.fn.AttributeDefaults[i]
	}
	b, err := from.attribute(b, owner)
	if b != nil {
		b.Name = a.Name
	}
	return b, err
}

// prefix is one that no name of the model begins with.
func (in *inliner) prefix(fn *Function) string {
	for {
		in.calls++
		p := fmt.Sprintf("%s_%d/", fn.Name, in.calls)
		if i := sort.SearchStrings(in.names, p); i == len(in.names) || !strings.HasPrefix(in.names[i], p) {
			return p
		}
	}
}

// node puts the function that n calls at the end of out; done is false if n calls none.
func (in *inliner) node(c *copier, out *Graph, n *Node) (done bool, err error) {
	if in.nodes++; in.nodes > maxInlined {
		return false, fmt.Errorf("inlining functions makes more than %d nodes", maxInlined)
	}
	fn := in.functions[functionID{CanonicalDomain(n.Domain), n.Op, n.Overload}]
	if fn == nil {
		return false, nil
	}
	to := &call{model: in.model, node: n, fn: fn, caller: c}
	for up := c.call; up != nil; up = up.caller.call {
		if to.depth++; up.fn == fn {
			return false, fmt.Errorf("node %q: function %q calls itself", n.Name, fn.Name)
		}
	}
	if to.depth > maxNesting {
		return false, fmt.Errorf("function %q: calls nest deeper than %d", fn.Name, maxNesting)
	}
	if len(n.Inputs) > len(fn.Body.Inputs) || len(n.Outputs) > len(fn.Body.Outputs) {
		return false, fmt.Errorf("node %q: calls function %q with %d inputs and %d outputs; it has %d and %d",
			n.Name, fn.Name, len(n.Inputs), len(n.Outputs), len(fn.Body.Inputs), len(fn.Body.Outputs))
	}
	body := &copier{values: map[*Value]*Value{}, prefix: in.prefix(fn), inliner: in, call: to}
	for i, v := range fn.Body.Inputs {
		body.values[v] = nil // what the caller leaves out is left out inside
		if actual := n.Input(i); actual != nil {
			body.values[v] = c.value(actual)
		}
	}
	// What the body computes for an output is the caller's value itself.
	given, again := map[*Value]bool{}, []int{}
	for i, formal := range fn.Body.Outputs {
		actual := n.Output(i)
		switch {
		case actual == nil:
		case formal.def == nil || given[formal]: // an input, or an output twice
			again = append(again, i)
		default:
			body.values[formal], given[formal] = c.value(actual), true
		}
	}
	if err := body.nodes(out, fn.Body.Nodes, given); err != nil {
		return false, err
	}
	for _, i := range again {
		from := body.value(fn.Body.Outputs[i])
		if from == nil {
			return false, fmt.Errorf("node %q: function %q gives back an input that the call leaves out", n.Name, fn.Name)
		}
		id := NewNode("Identity", []*Value{from})
		id.Name = fmt.Sprintf("%soutput_%d", body.prefix, i)
		if in.model.OpsetVersion("") == 0 {
			id.Opset = 13
		}
		id.AddOutput(c.value(n.Outputs[i]))
		out.Nodes = append(out.Nodes, id)
	}
	return true, nil
}
