package runtime

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// expand puts the nodes that compute it in the place of each node whose operator says which, in a copy of m.
func expand(m *onnx.Model) (*onnx.Model, error) {
	needed := false
	entry := func(n *onnx.Node) *ops.Node {
		r, err := ops.Resolve(n, int(m.OpsetVersion(n.Domain)))
		if err != nil {
			return nil // said before
		}
		return r
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			r := entry(n)
			needed = needed || r != nil && r.Def.Expand != nil
		}
	})
	if !needed {
		return m, nil
	}
	m = m.Clone()
	infos := map[*onnx.Value]ops.Info{}
	builder := ops.NewGrad(m, infos)
	var failed error
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Inputs {
			infos[v] = ops.InfoOfType(v.Type)
		}
		for _, v := range g.Inits {
			infos[v] = ops.InfoOf(v.Const, !slices.Contains(g.Inputs, v))
		}
		nodes := g.Nodes
		g.Nodes = nil
		for _, n := range nodes {
			r := entry(n)
			if r == nil || failed != nil {
				g.Nodes = append(g.Nodes, n)
				continue
			}
			for _, v := range n.Inputs {
				r.In = append(r.In, infos[v])
			}
			if r.Def.Expand == nil {
				g.Nodes = append(g.Nodes, n)
				if outs, err := r.InferOutputs(); err == nil {
					for i, v := range n.Outputs {
						if v != nil {
							infos[v] = outs[i]
						}
					}
				}
				continue
			}
			failed = expandNode(builder, g, r)
		}
	})
	return m, failed
}

// expandNode appends the nodes that compute r to graph; their results are r's outputs themselves.
func expandNode(b *ops.Grad, graph *onnx.Graph, r *ops.Node) (err error) {
	defer ops.Caught(r.Node, &err)
	g := *b
	g.Graph = &onnx.Graph{}
	outs, err := r.Def.Expand(&g, r)
	if err == nil {
		err = g.Err()
	}
	if err == nil {
		err = stand(&g, r, outs)
	}
	if err != nil {
		return ops.Errorf(r.Node, "%w", err)
	}
	if err := r.Mistyped(); err != nil {
		return err
	}
	graph.Nodes = append(graph.Nodes, g.Graph.Nodes...)
	graph.Inits = append(graph.Inits, g.Graph.Inits...)
	return nil
}

// stand has outs, which the nodes in g.Graph compute, be r's outputs themselves, and takes r's inputs from it.
func stand(g *ops.Grad, r *ops.Node, outs []*onnx.Value) error {
	part := g.Graph
	for i, v := range r.Outputs {
		if v == nil {
			continue
		}
		if i >= len(outs) || outs[i] == nil {
			return fmt.Errorf("output %d is not supported", i)
		}
		from := outs[i]
		if from.Def() == nil || !slices.Contains(part.Nodes, from.Def()) || slices.Contains(outs[:i], from) {
			from = g.Op("Identity", from)
		}
		g.Infos[v] = g.Infos[from]
		d := from.Def()
		r.SetOutput(i, nil)
		d.SetOutput(slices.Index(d.Outputs, from), v)
		part.ReplaceUses(from, v)
	}
	for i := range r.Inputs {
		r.SetInput(i, nil)
	}
	if len(part.Nodes) > 0 {
		part.Nodes[len(part.Nodes)-1].Name = r.Name
	}
	return nil
}
