package ops

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Backward emits into g.Graph the gradients with respect to wrt of what graph computes: seeds holds, for values
// of graph, the gradients that reach them from outside. A wrt on which no seeded value hangs has none in the
// answer. graph is g.Graph itself for a model's top graph, another for a subgraph, whose node may be given
// more outputs: what its gradient needs of each of its runs.
func (g *Grad) Backward(graph *onnx.Graph, seeds map[*onnx.Value][]*onnx.Value, wrt []*onnx.Value) (map[*onnx.Value]*onnx.Value, error) {
	w := *g
	w.moves = map[*onnx.Value]bool{}
	for _, v := range wrt {
		w.moves[v] = true
	}
	w.reach(graph)
	w.parts = map[*onnx.Value][]*onnx.Value{}
	for v, ds := range seeds {
		w.parts[v] = slices.Clone(ds)
	}
	nodes := slices.Clone(graph.Nodes)
	for i := len(nodes) - 1; i >= 0; i-- {
		if err := w.backwardNode(nodes[i], wrt); err != nil {
			return nil, err
		}
	}
	out := map[*onnx.Value]*onnx.Value{}
	for _, v := range wrt {
		if d := w.total(v); d != nil {
			out[v] = d
		}
	}
	g.err = w.err
	return out, w.err
}

// reach marks in g.moves what hangs on the values that are marked.
func (g *Grad) reach(graph *onnx.Graph) {
	for _, n := range graph.Nodes {
		if !slices.ContainsFunc(reads(n), g.Moves) {
			continue
		}
		for _, o := range n.Outputs {
			if o == nil {
				continue
			}
			if d := g.Info(o).DType; d == tensor.Undefined || d.IsFloat() || (quantized.Has(d) || d == tensor.Int32) && g.quantizes(n) {
				g.moves[o] = true
			}
		}
	}
}

// quantizes reports whether integers that n gives stand for real numbers: it makes them so, or moves such.
func (g *Grad) quantizes(n *onnx.Node) bool {
	r, err := Resolve(n, g.Opset(n.Domain))
	if err != nil {
		return false
	}
	return r.Def.Estimate != nil && !r.Def.Flat || r.Def.Grad != nil && slices.ContainsFunc(n.Inputs, func(v *onnx.Value) bool {
		d := g.Info(v).DType
		return g.moves[v] && d != tensor.Undefined && !d.IsFloat()
	})
}

// Moves reports whether v hangs on what the gradient is taken by.
func (g *Grad) Moves(v *onnx.Value) bool { return g.moves[v] }

// Contribute adds d to the gradient of v. It is how the gradients of values that a node's subgraphs capture get
// out; those of its inputs are the answer of its Grad.
func (g *Grad) Contribute(v, d *onnx.Value) {
	if v == nil || d == nil || !g.moves[v] {
		return
	}
	if a, b := g.slope(v), g.Info(d); !a.agrees(b) {
		g.fail(fmt.Errorf("%q of %s%v would get a gradient of %s%v", v.Name, a.DType, a.Shape, b.DType, b.Shape))
		return
	}
	g.parts[v] = append(g.parts[v], d)
}

// agrees reports whether i and j may be of values of one type and shape.
func (i Info) agrees(j Info) bool {
	if i.Kind != onnx.TensorType || j.Kind != onnx.TensorType { // the gradient of an optional is that of what it holds
		return true
	}
	if i.DType != j.DType && i.DType != tensor.Undefined && j.DType != tensor.Undefined {
		return false
	}
	return !i.Ranked || !j.Ranked || slices.EqualFunc(i.Shape, j.Shape, func(a, b Dim) bool { return !a.Known() || !b.Known() || a.N == b.N })
}

// total is the sum of what has been contributed to v, nil if that is nothing.
func (g *Grad) total(v *onnx.Value) *onnx.Value {
	p := g.parts[v]
	if len(p) == 0 {
		return nil
	}
	for len(p) > 1 {
		p = append([]*onnx.Value{g.sum(v, p[0], p[1])}, p[2:]...)
	}
	g.parts[v] = p
	return p[0]
}

// sum adds two gradients of v.
func (g *Grad) sum(v, a, b *onnx.Value) *onnx.Value {
	if g.slope(v).Kind == onnx.TensorType {
		return g.Add(a, b)
	}
	return g.Internal("SequenceAdd", 1, []*onnx.Value{a, b})[0]
}

// slope is what is known of a gradient of v: it is like v, but float32 for integers that stand for real numbers, and like what an optional holds.
func (g *Grad) slope(v *onnx.Value) Info {
	i := g.Info(v).WithoutValue()
	if i.Kind == onnx.OptionalType {
		i = i.element()
	}
	if i.Kind == onnx.TensorType && i.DType != tensor.Undefined && !i.DType.IsFloat() {
		i.DType = tensor.Float32
	}
	return i
}

// Zeros is a gradient of v that is nothing: zeros of its shape, or a sequence as long as v that stands for such.
func (g *Grad) Zeros(v *onnx.Value) *onnx.Value {
	if i := g.slope(v); g.Info(v).Kind == onnx.TensorType {
		if i.DType != g.Info(v).DType {
			return g.ExpandTo(g.Const(tensor.Scalar(float32(0))), v)
		}
		return g.ExpandTo(g.Like(v, 0), v)
	}
	return g.Internal("SequenceZeros", 1, []*onnx.Value{v})[0]
}

func (g *Grad) backwardNode(n *onnx.Node, wrt []*onnx.Value) (err error) {
	defer Caught(n, &err)
	dy := make([]*onnx.Value, len(n.Outputs))
	any := false
	for k, o := range n.Outputs {
		if o != nil && g.moves[o] {
			dy[k] = g.total(o)
			any = any || dy[k] != nil
		}
	}
	if !any || !slices.ContainsFunc(reads(n), g.Moves) {
		return nil
	}
	r, err := Resolve(n, g.Opset(n.Domain))
	if err != nil {
		return err
	}
	grad := r.Def.Grad
	if grad == nil && g.StraightThrough {
		grad = r.Def.Estimate
	}
	if grad == nil && r.Def.NoGrad == "" && r.Def.Portable != nil {
		grad = gradPortable
	}
	if grad == nil {
		if r.Def.Flat {
			*g.cut = n
			return nil
		}
		why := r.Def.NoGrad
		if why == "" {
			why = "it has none"
		}
		if r.Def.Estimate != nil {
			why += ": only straight-through estimation, if it is asked for, passes it"
		}
		return fmt.Errorf("gradient: node %q (%s), on the way from %s: %s", n.Name, n.Op, path(n, wrt), why)
	}
	for _, v := range n.Inputs {
		if v == nil {
			r.In = append(r.In, Info{})
		} else {
			r.In = append(r.In, g.Info(v))
		}
	}
	dx, err := grad(g, r, dy)
	if g.err != nil { // the first
		err = g.err
	}
	if err != nil {
		if strings.HasPrefix(err.Error(), "gradient: node") { // of a subgraph: it says where already
			return err
		}
		return Errorf(n, "gradient: %w", err)
	}
	for k, d := range dx {
		g.Contribute(n.Input(k), d)
	}
	return nil
}

// reads is a node's inputs and what its subgraphs capture.
func reads(n *onnx.Node) []*onnx.Value {
	out := slices.Clone(n.Inputs)
	for _, g := range n.Graphs() {
		out = append(out, g.Captures()...)
	}
	return slices.DeleteFunc(out, func(v *onnx.Value) bool { return v == nil })
}

// way is the values on a way from one of wrt to n, that one first; none if n hangs on none of them.
func way(n *onnx.Node, wrt []*onnx.Value) []*onnx.Value {
	seen := map[*onnx.Node]bool{}
	var find func(n *onnx.Node) []*onnx.Value
	find = func(n *onnx.Node) []*onnx.Value {
		if seen[n] {
			return nil
		}
		seen[n] = true
		for _, v := range reads(n) {
			if slices.Contains(wrt, v) {
				return []*onnx.Value{v}
			}
			if v.Def() != nil {
				if w := find(v.Def()); w != nil {
					return append(w, v)
				}
			}
		}
		return nil
	}
	return find(n)
}

// Severed says by which node of integers or the like v, on which no gradient of wrt hangs, hangs on one of them all the same, and on what
// way; it is empty if v hangs on none.
func (g *Grad) Severed(v *onnx.Value, wrt []*onnx.Value) string {
	if v.Def() == nil {
		return ""
	}
	for _, on := range way(v.Def(), wrt) {
		if n, d := on.Def(), g.Info(on).DType; n != nil && d != tensor.Undefined && !d.IsFloat() {
			return fmt.Sprintf("node %q (%s), on the way from %s, whose output of %s has no gradient", n.Name, n.Op, path(n, wrt), d)
		}
	}
	return ""
}

// path names one of wrt that n hangs on, and the nodes between them.
func path(n *onnx.Node, wrt []*onnx.Value) string {
	var names []string
	for i, v := range way(n, wrt) {
		if i == 0 {
			names = append(names, fmt.Sprintf("%q", v.Name))
		} else {
			names = append(names, fmt.Sprintf("%q (%s)", v.Def().Name, v.Def().Op))
		}
	}
	if len(names) > 6 {
		names = append(append(names[:3:3], "…"), names[len(names)-2:]...)
	}
	return strings.Join(names, " → ")
}

// inner is a builder for the gradient of a subgraph, which has a graph of its own.
func (g *Grad) inner(name string) *Grad {
	w := *g
	w.Graph = &onnx.Graph{Name: g.Names(name)}
	return &w
}

// input adds an input to g.Graph, of which info is known.
func (g *Grad) input(hint string, info Info) *onnx.Value {
	info = info.WithoutValue()
	v := &onnx.Value{Name: g.Names(hint), Type: info.declared()}
	g.Graph.Inputs = append(g.Graph.Inputs, v)
	g.Infos[v] = info
	return v
}

// declared is the type that says what i does, but for numbers that another run may have otherwise.
func (i Info) declared() *onnx.Type {
	if i.DType == tensor.Undefined {
		return nil
	}
	if i.Kind != onnx.TensorType {
		return &onnx.Type{Kind: i.Kind, Of: i.element().declared()}
	}
	t := &onnx.Type{Elem: i.DType}
	if i.Ranked {
		t.Shape = make([]onnx.Dim, len(i.Shape))
		for k := range t.Shape {
			t.Shape[k].Value = -1
		}
	}
	return t
}

// borrowed is what g.Graph, the gradient of the subgraph of, reads of of's own values. Weights and other
// constants of the subgraph are not among them: g.Graph has copies.
func (g *Grad) borrowed(of *onnx.Graph) []*onnx.Value {
	own := map[*onnx.Value]bool{}
	for v := range of.Values() {
		own[v] = true
	}
	// Of a list that is read for its length alone the length is borrowed.
	for _, n := range slices.Clone(g.Graph.Nodes) {
		if n.Op == "SequenceLength" && own[n.Inputs[0]] {
			g.Graph.Nodes = slices.DeleteFunc(g.Graph.Nodes, func(m *onnx.Node) bool { return m == n })
			of.Nodes = append(of.Nodes, n)
			own[n.Outputs[0]] = true
		}
	}
	var vs []*onnx.Value
	for _, v := range g.Graph.Captures() {
		if !own[v] {
			continue
		}
		c := v.Const
		if v.Def() != nil && v.Def().Op == "Constant" && onnx.CanonicalDomain(v.Def().Domain) == "" {
			c = g.Infos[v].Const
		}
		if c != nil && !slices.Contains(of.Inputs, v) {
			g.replace(g.Graph, v, g.Const(c))
			continue
		}
		vs = append(vs, v)
	}
	return vs
}

// replace makes graph and its subgraphs read w for v.
func (g *Grad) replace(graph *onnx.Graph, v, w *onnx.Value) {
	graph.Walk(func(s *onnx.Graph) {
		for _, n := range s.Nodes {
			for i, in := range n.Inputs {
				if in == v {
					n.SetInput(i, w)
				}
			}
		}
		for i, o := range s.Outputs {
			if o == v {
				s.Outputs[i] = w
			}
		}
	})
}

// output adds an output to a node of the forward graph.
func (g *Grad) output(n *onnx.Node, hint string, info Info) *onnx.Value {
	info = info.WithoutValue()
	v := &onnx.Value{Name: g.Names(hint)}
	n.AddOutput(v)
	g.Infos[v] = info
	return v
}

// Through is the gradient of an operator by way of others: compose emits what computes the node's outputs from its
// inputs, and that is differentiated. compose may leave trailing outputs out.
func (g *Grad) Through(n *Node, dy []*onnx.Value, compose func(g *Grad, in []*onnx.Value) []*onnx.Value) ([]*onnx.Value, error) {
	body, outs, err := g.apart(func(g *Grad) []*onnx.Value { return compose(g, n.Inputs) })
	if err != nil {
		return nil, err
	}
	seeds := map[*onnx.Value][]*onnx.Value{}
	for i, d := range dy {
		switch {
		case d == nil:
		case i >= len(outs) || outs[i] == nil:
			return nil, fmt.Errorf("output %d has none", i)
		default:
			seeds[outs[i]] = append(seeds[outs[i]], d)
		}
	}
	var wrt, captured []*onnx.Value
	for _, v := range n.Inputs {
		if v != nil && g.moves[v] && !slices.Contains(wrt, v) {
			wrt = append(wrt, v)
		}
	}
	for _, v := range g.movingCaptures(n.Graphs()...) {
		if !slices.Contains(wrt, v) {
			wrt, captured = append(wrt, v), append(captured, v)
		}
	}
	ds, err := g.Backward(body, seeds, wrt)
	if err != nil {
		return nil, err
	}
	for _, v := range captured {
		g.Contribute(v, ds[v])
	}
	dx := make([]*onnx.Value, len(n.Inputs))
	for i, v := range n.Inputs {
		if !slices.Contains(n.Inputs[:i], v) { // one that is read twice gets its gradient once
			dx[i] = ds[v]
		}
	}
	return dx, nil
}

// gradPortable is the gradient of an operator of the internal domain, most often a gradient itself, by way of its standard form.
func gradPortable(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, _ []*onnx.Value) []*onnx.Value {
		outs, err := n.Def.Portable(g, n)
		if err != nil {
			g.fail(err)
		}
		return outs
	})
}

// apart emits nodes that also are a graph of their own, which can be differentiated.
func (g *Grad) apart(emit func(g *Grad) []*onnx.Value) (body *onnx.Graph, outs []*onnx.Value, err error) {
	body = &onnx.Graph{}
	w := g.sub(body)
	if outs = emit(w); w.err != nil {
		return nil, nil, w.err
	}
	g.Graph.Nodes = append(g.Graph.Nodes, body.Nodes...)
	g.Graph.Inits = append(g.Graph.Inits, body.Inits...)
	return body, outs, nil
}

// composed is the gradients by in[i], for each i of wrt, of what compose emits of in, from dy, those of its outputs (nil: none): zeros where nothing
// reaches an input. It is how a gradient that a kernel computes is written in the operators that the forward one is made of.
func (g *Grad) composed(in, dy []*onnx.Value, wrt []int, compose func(g *Grad, in []*onnx.Value) []*onnx.Value) ([]*onnx.Value, error) {
	in = slices.Clone(in)
	var of []*onnx.Value
	body, outs, err := g.apart(func(g *Grad) []*onnx.Value {
		for _, i := range wrt { // one value may be several inputs, each with a gradient of its own
			in[i] = g.Op("Identity", in[i])
			of = append(of, in[i])
		}
		return compose(g, in)
	})
	if err != nil {
		return nil, err
	}
	seeds := map[*onnx.Value][]*onnx.Value{}
	for i, d := range dy {
		if d != nil {
			seeds[outs[i]] = append(seeds[outs[i]], d)
		}
	}
	ds, err := g.Backward(body, seeds, of)
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(of))
	for i, v := range of {
		if dx[i] = ds[v]; dx[i] == nil {
			dx[i] = g.Zeros(v)
		}
	}
	return dx, g.err
}

// Inline emits what a subgraph computes of args.
func (g *Grad) Inline(body *onnx.Graph, args []*onnx.Value) []*onnx.Value {
	stands := body.CopyInto(g.Graph, g.Names("inline")+"/", args)
	for v, w := range stands {
		if _, known := g.Infos[w]; !known {
			g.Infos[w] = g.Infos[v]
		}
	}
	var outs []*onnx.Value
	for _, v := range body.Outputs {
		if w := stands[v]; w != nil {
			v = w
		}
		outs = append(outs, v)
	}
	return outs
}
