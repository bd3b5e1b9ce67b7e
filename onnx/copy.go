package onnx

import "slices"

// Clone is a copy of m that shares nothing with it but the elements of its tensors and, where files are
// mapped, their memory: [Model.Close] is the original's to call.
func (m *Model) Clone() *Model {
	out := *m
	out.unmap = nil
	out.Opsets, out.Metadata = slices.Clone(m.Opsets), slices.Clone(m.Metadata)
	out.Graph = m.Graph.Clone()
	out.Functions = nil
	for _, f := range m.Functions {
		g := *f
		g.Opsets, g.Attributes, g.Metadata = slices.Clone(f.Opsets), slices.Clone(f.Attributes), slices.Clone(f.Metadata)
		g.AttributeDefaults = nil
		c := &copier{values: map[*Value]*Value{}}
		for _, a := range f.AttributeDefaults {
			b, _ := c.attribute(a, nil) // only inlining fails
			g.AttributeDefaults = append(g.AttributeDefaults, b)
		}
		g.Body = f.Body.Clone()
		out.Functions = append(out.Functions, &g)
	}
	return &out
}

// Clone is a copy of g and its subgraphs; tensors are shared, and so are values of the graphs around g.
func (g *Graph) Clone() *Graph {
	out, _ := (&copier{values: map[*Value]*Value{}}).graph(g) // only inlining fails
	return out
}

// CopyInto appends copies of g's nodes and initializers to out, which read args in the place of g's inputs, with prefix before their
// names. It tells what stands for each of g's values.
func (g *Graph) CopyInto(out *Graph, prefix string, args []*Value) map[*Value]*Value {
	c := &copier{values: map[*Value]*Value{}, prefix: prefix}
	for i, v := range g.Inputs {
		c.values[v] = args[i]
	}
	for _, v := range g.Inits {
		if c.values[v] == nil {
			out.Inits = append(out.Inits, c.define(v))
		}
	}
	_ = c.nodes(out, g.Nodes, nil) // only inlining fails
	return c.values
}

// copier copies graphs. A value that it has not met lies outside of what is copied, and is shared.
type copier struct {
	values  map[*Value]*Value // what stands for a value; nil: nothing, it is left out
	prefix  string            // before the names that are copied
	inliner *inliner          // what replaces calls of functions, if they are replaced
	call    *call             // in a function's body: the call that it is copied for
}

func (c *copier) value(v *Value) *Value {
	if w, ok := c.values[v]; ok {
		return w
	}
	return v
}

// define makes the copy of a value that what is copied defines, unless one is set already.
func (c *copier) define(v *Value) *Value {
	w := &Value{Name: c.prefix + v.Name, Doc: v.Doc, Type: v.Type.clone(), Const: v.Const, Meta: slices.Clone(v.Meta),
		head: v.head, sparse: v.sparse, opaque: v.opaque, unknown: v.unknown}
	c.values[v] = w
	return w
}

func (c *copier) graph(g *Graph) (*Graph, error) {
	out := *g
	out.Nodes, out.Inputs, out.Outputs, out.Inits, out.infos = nil, nil, nil, nil, nil
	out.Metadata = slices.Clone(g.Metadata)
	made := map[*Value]bool{}
	for _, v := range g.Inputs {
		out.Inputs = append(out.Inputs, c.define(v))
		made[v] = true
	}
	for _, v := range g.Inits {
		if !made[v] {
			c.define(v)
		}
		out.Inits = append(out.Inits, c.value(v))
	}
	if err := c.nodes(&out, g.Nodes, nil); err != nil {
		return nil, err
	}
	for _, v := range g.Outputs {
		out.Outputs = append(out.Outputs, c.value(v))
	}
	for _, info := range g.infos {
		if info.value != nil {
			info.value = c.value(info.value)
		}
		out.infos = append(out.infos, info)
	}
	return &out, nil
}

// nodes copies nodes to the end of out. Outputs in given are there already.
func (c *copier) nodes(out *Graph, nodes []*Node, given map[*Value]bool) error {
	for _, n := range nodes { // all outputs first: the nodes may be out of order
		for _, v := range n.Outputs {
			if v != nil && !given[v] {
				c.define(v)
			}
		}
	}
	for _, n := range nodes {
		if c.inliner != nil {
			done, err := c.inliner.node(c, out, n)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		w := *n
		w.Inputs, w.Outputs, w.Attrs, w.Metadata = nil, nil, nil, slices.Clone(n.Metadata)
		if n.Name != "" {
			w.Name = c.prefix + n.Name
		}
		if c.call != nil && w.Opset == 0 {
			w.Opset = c.call.opset(n.Domain)
		}
		for i, v := range n.Inputs {
			w.SetInput(i, c.value(v))
		}
		for i, v := range n.Outputs {
			w.SetOutput(i, c.value(v))
		}
		for _, a := range n.Attrs {
			b, err := c.attribute(a, &w)
			if err != nil {
				return err
			}
			if b != nil {
				w.Attrs = append(w.Attrs, b)
			}
		}
		out.Nodes = append(out.Nodes, &w)
	}
	return nil
}

// attribute copies a for the node owner. It is nil if a stands for an attribute that the call leaves out.
func (c *copier) attribute(a *Attribute, owner *Node) (*Attribute, error) {
	if a.Ref != "" && c.call != nil {
		return c.call.attribute(a, owner)
	}
	b := *a
	b.S, b.Floats, b.Ints, b.Strings = slices.Clone(a.S), slices.Clone(a.Floats), slices.Clone(a.Ints), slices.Clone(a.Strings)
	b.Tensors, b.TP, b.Types = slices.Clone(a.Tensors), a.TP.clone(), slices.Clone(a.Types)
	for i, t := range b.Types {
		b.Types[i] = t.clone()
	}
	var err error
	if a.G != nil {
		if b.G, err = c.graph(a.G); err != nil {
			return nil, err
		}
		b.G.Outer = owner
	}
	b.Graphs = nil
	for _, g := range a.Graphs {
		sub, err := c.graph(g)
		if err != nil {
			return nil, err
		}
		sub.Outer = owner
		b.Graphs = append(b.Graphs, sub)
	}
	return &b, nil
}

func (t *Type) clone() *Type {
	if t == nil {
		return nil
	}
	u := *t
	u.Shape, u.Of = slices.Clone(t.Shape), t.Of.clone()
	return &u
}
