// Package finetune adapts imported models: it derives the gradient graph of a loss, trains the
// model's parameters with PyTorch's optimizers, and gives the model back as ONNX.
package finetune

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Gradient adds to m's top graph the nodes that compute the gradients of loss, which must hold one
// element, with respect to wrt, and says which value is whose gradient. A wrt that loss does not
// hang on has none. The nodes are meant at [ops.GradOpset] and partly of an internal domain: the graph
// can be run, not saved.
func Gradient(m *onnx.Model, loss *onnx.Value, wrt []*onnx.Value) (map[*onnx.Value]*onnx.Value, error) {
	infos, err := runtime.Infer(m)
	if err != nil {
		return nil, err
	}
	return gradient(m, newBuilder(m, infos), loss, wrt)
}

// newBuilder makes a builder of gradient nodes with names that m does not have.
func newBuilder(m *onnx.Model, infos map[*onnx.Value]ops.Info) *ops.Grad {
	taken := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, list := range [][]*onnx.Value{g.Inputs, g.Inits} {
			for _, v := range list {
				taken[v.Name] = true
			}
		}
		for _, n := range g.Nodes {
			for _, v := range n.Outputs {
				if v != nil {
					taken[v.Name] = true
				}
			}
		}
	})
	next := 0
	return &ops.Grad{Graph: m.Graph, Infos: infos, Names: func(hint string) string {
		for {
			next++
			if name := fmt.Sprintf("grad::%s_%d", hint, next); !taken[name] {
				taken[name] = true
				return name
			}
		}
	}}
}

func gradient(m *onnx.Model, g *ops.Grad, loss *onnx.Value, wrt []*onnx.Value) (map[*onnx.Value]*onnx.Value, error) {
	info := g.Info(loss)
	if !info.DType.IsFloat() {
		return nil, fmt.Errorf("gradient: the loss %q is no floating-point tensor", loss.Name)
	}
	// What hangs on wrt …
	moves := map[*onnx.Value]bool{}
	for _, v := range wrt {
		moves[v] = true
	}
	nodes := slices.Clone(m.Graph.Nodes)
	for _, n := range nodes {
		if !slices.ContainsFunc(reads(n), func(v *onnx.Value) bool { return moves[v] }) {
			continue
		}
		for _, o := range n.Outputs {
			if o == nil {
				continue
			}
			if d := g.Info(o).DType; d == tensor.Undefined || d.IsFloat() {
				moves[o] = true
			}
		}
	}
	// … and what the loss hangs on, from its end.
	parts := map[*onnx.Value][]*onnx.Value{loss: {g.ExpandTo(g.Like(loss, 1), loss)}}
	total := func(v *onnx.Value) *onnx.Value {
		p := parts[v]
		if len(p) == 0 {
			return nil
		}
		for len(p) > 1 {
			p = append([]*onnx.Value{g.Add(p[0], p[1])}, p[2:]...)
		}
		parts[v] = p
		return p[0]
	}
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		dy := make([]*onnx.Value, len(n.Outputs))
		any := false
		for k, o := range n.Outputs {
			if o != nil && moves[o] {
				dy[k] = total(o)
				any = any || dy[k] != nil
			}
		}
		if !any || !slices.ContainsFunc(reads(n), func(v *onnx.Value) bool { return moves[v] }) {
			continue
		}
		r, err := ops.Resolve(n, int(m.OpsetVersion(n.Domain)))
		if err != nil {
			return nil, err
		}
		if r.Def.Grad == nil {
			if r.Def.Flat {
				continue
			}
			return nil, fmt.Errorf("gradient: node %q (%s), on the way from %s to the loss %q, has none", n.Name, n.Op, origin(n, wrt), loss.Name)
		}
		for _, v := range n.Inputs {
			if v == nil {
				r.In = append(r.In, ops.Info{})
			} else {
				r.In = append(r.In, g.Info(v))
			}
		}
		dx, err := r.Def.Grad(g, r, dy)
		if err == nil {
			err = g.Err()
		}
		if err != nil {
			return nil, ops.Errorf(n, "gradient: %w", err)
		}
		for k, d := range dx {
			if v := n.Input(k); d != nil && v != nil && moves[v] {
				parts[v] = append(parts[v], d)
			}
		}
	}
	out := map[*onnx.Value]*onnx.Value{}
	for _, v := range wrt {
		if d := total(v); d != nil {
			out[v] = d
		}
	}
	return out, g.Err()
}

// reads is a node's inputs and what its subgraphs capture.
func reads(n *onnx.Node) []*onnx.Value {
	out := slices.Clone(n.Inputs)
	for _, g := range n.Graphs() {
		out = append(out, g.Captures()...)
	}
	return slices.DeleteFunc(out, func(v *onnx.Value) bool { return v == nil })
}

// origin names a wrt that n hangs on.
func origin(n *onnx.Node, wrt []*onnx.Value) string {
	seen := map[*onnx.Node]bool{}
	var find func(n *onnx.Node) string
	find = func(n *onnx.Node) string {
		if seen[n] {
			return ""
		}
		seen[n] = true
		for _, v := range reads(n) {
			if slices.Contains(wrt, v) {
				return fmt.Sprintf("%q", v.Name)
			}
			if v.Def() != nil {
				if s := find(v.Def()); s != "" {
					return s
				}
			}
		}
		return ""
	}
	return find(n)
}
