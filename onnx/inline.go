package onnx

import (
	"fmt"
	"slices"
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
// nodes, with the callers' attributes in place. Each such node carries the opset that its
// function imports. Weights are shared with m.
func InlineFunctions(m *Model) (*Model, error) {
	out := *m
	in := &inliner{model: m}
	g, err := in.graph(m.Graph, map[*Value]*Value{}, nil)
	if err != nil {
		return nil, err
	}
	out.Graph, out.Functions = g, nil
	return &out, nil
}

type inliner struct {
	model *Model
	calls int // numbers the calls, to make names unique
	nodes int
}

// call is the place that a function's body is copied to.
type call struct {
	node   *Node // attributes resolved
	fn     *Function
	prefix string
	depth  int
}

func (in *inliner) graph(g *Graph, vals map[*Value]*Value, c *call) (*Graph, error) {
	out := *g
	out.Nodes, out.Inputs, out.Outputs, out.Inits = nil, nil, nil, nil
	for _, list := range []struct{ from, to *[]*Value }{{&g.Inputs, &out.Inputs}, {&g.Inits, &out.Inits}} {
		for _, v := range *list.from {
			*list.to = append(*list.to, in.value(v, vals, c))
		}
	}
	if err := in.body(&out, g.Nodes, vals, c); err != nil {
		return nil, err
	}
	for _, v := range g.Outputs {
		out.Outputs = append(out.Outputs, in.value(v, vals, c))
	}
	return &out, nil
}

// value is v's copy. A subgraph's reference to a value around it finds the copy made there.
func (in *inliner) value(v *Value, vals map[*Value]*Value, c *call) *Value {
	if v == nil {
		return nil
	}
	w := vals[v]
	if w == nil {
		w = &Value{Name: v.Name, Doc: v.Doc, Type: v.Type, Const: v.Const, Meta: v.Meta}
		if c != nil {
			w.Name = c.prefix + v.Name
		}
		vals[v] = w
	}
	return w
}

// body copies nodes to the end of out.
func (in *inliner) body(out *Graph, nodes []*Node, vals map[*Value]*Value, c *call) error {
	for _, n := range nodes {
		if in.nodes++; in.nodes > maxInlined {
			return fmt.Errorf("inlining functions makes more than %d nodes", maxInlined)
		}
		w := *n
		w.Inputs, w.Outputs, w.Attrs = nil, nil, nil
		if c != nil {
			w.Name = c.prefix + n.Name
			if w.Opset == 0 {
				w.Opset = opsetVersion(c.fn.Opsets, n.Domain)
			}
		}
		for i, v := range n.Inputs {
			w.SetInput(i, in.value(v, vals, c))
		}
		for i, v := range n.Outputs {
			w.SetOutput(i, in.value(v, vals, c))
		}
		for _, a := range n.Attrs {
			b, err := in.attribute(a, vals, c, &w)
			if err != nil {
				return err
			}
			if b != nil {
				w.Attrs = append(w.Attrs, b)
			}
		}
		fn := in.model.Function(n.Domain, n.Op, n.Overload)
		if fn == nil {
			out.Nodes = append(out.Nodes, &w)
			continue
		}
		if err := in.expand(out, &w, fn, c); err != nil {
			return err
		}
	}
	return nil
}

// attribute copies a, with a reference to the caller's attribute resolved: nil if the caller and
// the defaults leave it out.
func (in *inliner) attribute(a *Attribute, vals map[*Value]*Value, c *call, owner *Node) (*Attribute, error) {
	if a.Ref != "" && c != nil {
		b := c.node.Attr(a.Ref)
		if b == nil {
			i := slices.IndexFunc(c.fn.AttributeDefaults, func(d *Attribute) bool { return d.Name == a.Ref })
			if i < 0 {
				return nil, nil
			}
			b = c.fn.AttributeDefaults[i]
		}
		r := *b
		r.Name = a.Name
		return &r, nil
	}
	b := *a
	var err error
	if a.G != nil {
		if b.G, err = in.graph(a.G, vals, c); err != nil {
			return nil, err
		}
		b.G.Outer = owner
	}
	b.Graphs = nil
	for _, g := range a.Graphs {
		sub, err := in.graph(g, vals, c)
		if err != nil {
			return nil, err
		}
		sub.Outer = owner
		b.Graphs = append(b.Graphs, sub)
	}
	return &b, nil
}

// expand puts fn's nodes in the place of the call n.
func (in *inliner) expand(out *Graph, n *Node, fn *Function, outer *call) error {
	in.calls++
	c := &call{node: n, fn: fn, prefix: fmt.Sprintf("%s_%d/", fn.Name, in.calls)}
	if outer != nil {
		c.depth = outer.depth + 1
	}
	if c.depth > maxNesting {
		return fmt.Errorf("function %q: calls nest deeper than %d", fn.Name, maxNesting)
	}
	if len(n.Inputs) > len(fn.Body.Inputs) || len(n.Outputs) > len(fn.Body.Outputs) {
		return fmt.Errorf("node %q: calls function %q with %d inputs and %d outputs; it has %d and %d",
			n.Name, fn.Name, len(n.Inputs), len(n.Outputs), len(fn.Body.Inputs), len(fn.Body.Outputs))
	}
	vals := map[*Value]*Value{}
	absent := map[*Value]bool{}
	for i, v := range fn.Body.Inputs {
		if actual := n.Input(i); actual != nil {
			vals[v] = actual
		} else {
			absent[v] = true
			vals[v] = &Value{Name: c.prefix + v.Name}
		}
	}
	start := len(out.Nodes)
	if err := in.body(out, fn.Body.Nodes, vals, c); err != nil {
		return err
	}
	for v := range absent { // what the caller leaves out is left out inside
		for _, w := range out.Nodes[start:] {
			for i, x := range w.Inputs {
				if x == vals[v] {
					w.SetInput(i, nil)
				}
			}
		}
	}
	for i := range n.Inputs {
		n.SetInput(i, nil)
	}
	for i, v := range n.Outputs {
		if v == nil {
			continue
		}
		id := &Node{Name: fmt.Sprintf("%soutput_%d", c.prefix, i), Op: "Identity", Opset: 16}
		id.SetInput(0, vals[fn.Body.Outputs[i]])
		id.SetOutput(0, v)
		out.Nodes = append(out.Nodes, id)
	}
	return nil
}
