package runtime

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// Portable is a copy of m, which may hold nodes of the internal domain and of opsets of their own as gradients do, in standard operators
// at one opset: the latest of the model's, [ops.GradOpset] and those that nodes are meant at. It can be saved. Every
// operator that cannot be written so is named in the error, all at once.
func Portable(m *onnx.Model) (*onnx.Model, error) {
	m = m.Clone()
	if err := m.Graph.Sort(); err != nil {
		return nil, err
	}
	sweep(m) // what no output hangs on, of which nothing is inferred either
	infos, err := Infer(m)
	if err != nil {
		return nil, err
	}
	p := &porter{model: m, builder: ops.NewGrad(m, infos), refused: map[string]int{}}
	if err := p.graph(m.Graph); err != nil {
		return nil, err
	}
	if len(p.refused) > 0 {
		var parts []string
		for _, why := range slices.Sorted(maps.Keys(p.refused)) {
			parts = append(parts, fmt.Sprintf("%s (%d)", why, p.refused[why]))
		}
		return nil, fmt.Errorf("the graph cannot be written in standard operators: %s", strings.Join(parts, "; "))
	}
	if err := p.settle(); err != nil {
		return nil, err
	}
	return tidy(m)
}

type porter struct {
	model   *onnx.Model
	builder *ops.Grad
	refused map[string]int // by operator, and why
}

// graph writes the nodes of g and of its subgraphs anew, those inside first, but for a Scan's and a ReverseLoop's: those are written
// as the body of the Loop that is put in the place.
func (p *porter) graph(g *onnx.Graph) error {
	queue := g.Nodes
	g.Nodes = nil
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if n.Domain != ops.Internal || n.Op != "Scan" && n.Op != "ReverseLoop" {
			for _, sub := range n.Graphs() {
				if err := p.graph(sub); err != nil {
					return err
				}
			}
		}
		r, err := ops.Resolve(n, int(p.model.OpsetVersion(n.Domain)))
		if err != nil {
			return err
		}
		for _, v := range n.Inputs {
			r.In = append(r.In, p.builder.Info(v))
		}
		w := *p.builder
		w.Graph = &onnx.Graph{}
		outs, standing, err := r.Portable(&w)
		if err == nil && !standing {
			err = stand(&w, r, outs)
		}
		if err != nil {
			p.refused[fmt.Sprintf("%s: %v", n.Op, err)]++
			continue
		}
		if standing {
			g.Nodes = append(g.Nodes, n)
		}
		g.Inits = append(g.Inits, w.Graph.Inits...)
		queue = append(w.Graph.Nodes, queue...)
	}
	return nil
}

// close has what a subgraph gives be computed in it, each value once.
func (p *porter) close(g *onnx.Graph) {
	for i, o := range g.Outputs {
		if o.Def() != nil && slices.Contains(g.Nodes, o.Def()) && !slices.Contains(g.Outputs[:i], o) {
			continue
		}
		w := *p.builder
		w.Graph = g
		g.Outputs[i] = w.Op("Identity", o)
	}
}

// settle drops what nobody reads, sorts the nodes and has all of them meant at the opset that the model imports.
func (p *porter) settle() error {
	opsets := map[string]int64{"": ops.GradOpset}
	for _, o := range p.model.Opsets {
		domain := onnx.CanonicalDomain(o.Domain)
		opsets[domain] = max(o.Version, opsets[domain])
	}
	used := map[string]bool{"": true}
	var err error
	p.model.Graph.Walk(func(g *onnx.Graph) {
		if err == nil {
			err = g.Sort()
		}
		if g != p.model.Graph {
			p.close(g)
		}
		for _, n := range g.Nodes {
			domain := onnx.CanonicalDomain(n.Domain)
			opsets[domain] = max(opsets[domain], n.Opset)
			used[domain] = true
			n.Opset = 0
		}
	})
	p.model.Opsets = nil
	for _, domain := range slices.Sorted(maps.Keys(used)) {
		p.model.Opsets = append(p.model.Opsets, onnx.Opset{Domain: domain, Version: opsets[domain]})
	}
	p.model.IRVersion = max(p.model.IRVersion, 10) // which came with opset 21
	return err
}

// shapeSize is the most elements of a value that hangs on no input for it to be written as a constant: those are shapes, axes and the like.
const shapeSize = 64

// tidy computes shapes that are known, computes once what is computed twice and drops what nobody reads, in a copy of m.
func tidy(m *onnx.Model) (*onnx.Model, error) {
	m = m.Clone()
	r, err := newRewriter(m, &settings{limit: DefaultMemoryLimit})
	if err != nil {
		return nil, err
	}
	for v, t := range r.known {
		if t.Len() > shapeSize {
			delete(r.known, v)
		}
	}
	for _, pass := range []func(*rewriter){constants, common} {
		m.Graph.Walk(func(g *onnx.Graph) {
			r.graph = g
			pass(r)
		})
	}
	sweep(m)
	m.Graph.Walk(func(g *onnx.Graph) {
		names := map[string]bool{}
		for _, n := range g.Nodes {
			if names[n.Name] { // of nodes that stand for one: ONNX Runtime refuses a name that is there twice, but not none
				n.Name = ""
			}
			names[n.Name] = true
		}
	})
	return m, nil
}

// sweep takes away the nodes and weights of m that nothing reads.
func sweep(m *onnx.Model) {
	r := &rewriter{outputs: map[*onnx.Value]bool{}}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Outputs {
			r.outputs[v] = true
		}
	})
	for n := -1; n != 0; { // a subgraph may have been all that read a value
		n = 0
		m.Graph.Walk(func(g *onnx.Graph) { n += r.prune(g) })
	}
}

// prune takes away the nodes and weights of g that nothing reads, and says how many that were, counting also what subgraphs give to nobody.
func (r *rewriter) prune(g *onnx.Graph) int {
	gone := 0
	for _, n := range slices.Backward(slices.Clone(g.Nodes)) {
		gone += r.pruneOutputs(n)
		if slices.ContainsFunc(n.Outputs, func(v *onnx.Value) bool { return v != nil && (len(v.Users()) > 0 || r.outputs[v]) }) {
			continue
		}
		for _, sub := range n.Graphs() {
			sub.Walk(func(s *onnx.Graph) {
				for _, k := range slices.Clone(s.Nodes) {
					s.Remove(k)
				}
			})
		}
		g.Remove(n)
		gone++
	}
	g.Inits = slices.DeleteFunc(g.Inits, func(v *onnx.Value) bool {
		return len(v.Users()) == 0 && !r.outputs[v] && !slices.Contains(g.Inputs, v)
	})
	return gone
}

// pruneOutputs takes away what a branch or a body gives and nothing outside reads, as the gradient may of what its kernel would.
func (r *rewriter) pruneOutputs(n *onnx.Node) (gone int) {
	lead, states := 0, 0
	switch {
	case onnx.CanonicalDomain(n.Domain) != "" || n.Op != "If" && n.Op != "Loop":
		return 0
	case n.Op == "Loop":
		lead, states = 1, len(n.Inputs)-2
	}
	graphs := n.Graphs()
	for i := len(graphs[0].Outputs) - lead - 1; i >= 0; i-- {
		o := n.Output(i)
		if o != nil && (len(o.Users()) > 0 || r.outputs[o]) {
			continue
		}
		if i < states { // one that is read for the next run of itself alone
			before, after := graphs[0].Inputs[2+i], graphs[0].Outputs[lead+i]
			if len(after.Users()) > 0 || slices.ContainsFunc(before.Users(), func(u *onnx.Node) bool {
				return slices.ContainsFunc(u.Outputs, func(v *onnx.Value) bool { return v != nil && v != after })
			}) || r.outputs[before] {
				continue
			}
			n.SetInput(2+i, nil)
			n.Inputs = slices.Delete(n.Inputs, 2+i, 3+i)
			graphs[0].Inputs = slices.Delete(graphs[0].Inputs, 2+i, 3+i)
			states--
		}
		for _, g := range graphs {
			delete(r.outputs, g.Outputs[lead+i])
			g.Outputs = slices.Delete(g.Outputs, lead+i, lead+i+1)
		}
		if i < len(n.Outputs) {
			n.SetOutput(i, nil)
			n.Outputs = slices.Delete(n.Outputs, i, i+1)
		}
		gone++
	}
	return gone
}
