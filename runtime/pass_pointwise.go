package runtime

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// chains makes one node of operators on single elements of which each is read by the others alone, all of one shape, which then goes
// through them tile by tile.
func chains(r *rewriter) {
	at := map[*onnx.Node]int{}
	for i, n := range r.graph.Nodes {
		at[n] = i
	}
	for _, n := range slices.Backward(slices.Clone(r.graph.Nodes)) {
		if r.graphOf[n] != r.graph {
			continue // it is in a chain
		}
		c := &chain{rewriter: r, out: n.Output(0)}
		if !c.add(n) {
			continue
		}
		for grown := true; grown; {
			grown = false
			for _, v := range slices.Clone(c.inputs) {
				d := v.Def()
				if d == nil || r.graphOf[d] != r.graph || r.outputs[v] || len(c.nodes) == ops.MaxPointwiseSteps ||
					slices.ContainsFunc(v.Users(), func(u *onnx.Node) bool { return !slices.Contains(c.nodes, u) }) {
					continue
				}
				grown = c.add(d) || grown
			}
		}
		if len(c.nodes) > 1 {
			slices.SortFunc(c.nodes, func(a, b *onnx.Node) int { return at[a] - at[b] })
			r.put(c.node(), n, n)
		}
	}
}

// chain is the nodes that are to be one, and what they read that none of them computes.
type chain struct {
	*rewriter
	out    *onnx.Value
	nodes  []*onnx.Node
	inputs []*onnx.Value
}

// add takes n in, if it is an operator on single elements with a result of the chain's shape and there is room for what it reads.
func (c *chain) add(n *onnx.Node) bool {
	step := c.pointwise(n)
	if step == nil || !c.sameShape(n.Outputs[0], c.out) {
		return false
	}
	whole := false
	for _, v := range step.Inputs {
		whole = whole || c.sameShape(v, c.out)
		if c.infos[v].DType != tensor.Float32 || !c.repeats(v, c.out) {
			return false
		}
	}
	if !whole {
		return false
	}
	inputs := slices.DeleteFunc(slices.Clone(c.inputs), func(v *onnx.Value) bool { return v == n.Outputs[0] })
	for _, v := range step.Inputs {
		if !slices.Contains(inputs, v) {
			inputs = append(inputs, v)
		}
	}
	if len(inputs) > ops.MaxPointwiseInputs {
		return false
	}
	c.nodes, c.inputs = append(c.nodes, n), inputs
	return true
}

// pointwise is n as a step, at the opset of its definition: an operator of ai.onnx on single elements of one or two operands. nil: it is none.
func (r *rewriter) pointwise(n *onnx.Node) *onnx.Node {
	if onnx.CanonicalDomain(n.Domain) != "" || len(n.Outputs) != 1 || n.Outputs[0] == nil {
		return nil
	}
	step := &onnx.Node{Op: n.Op, Inputs: n.Inputs, Attrs: n.Attrs, Opset: int64(r.since(n))}
	if n.Op == "Clip" { // its bounds are attributes of a step
		name, bounds, ok := r.activation(n)
		if !ok {
			return nil
		}
		step = &onnx.Node{Op: name, Inputs: n.Inputs[:1], Opset: 6, Attrs: []*onnx.Attribute{onnx.FloatAttr("min", bounds[0].F), onnx.FloatAttr("max", bounds[1].F)}}
	}
	op, since := ops.Lookup("", step.Op, int(step.Opset))
	if op == nil || op.Pointwise == nil || slices.Contains(step.Inputs, nil) || !op.Pointwise(&ops.Node{Node: step, Def: op, Since: since}).Takes(len(step.Inputs)) {
		return nil
	}
	return step
}

// repeats reports whether v is sure to broadcast to w's shape without repeating an axis between two that it has.
func (r *rewriter) repeats(v, w *onnx.Value) bool {
	a, b := r.infos[v], r.infos[w]
	if !a.Ranked || !b.Ranked || len(a.Shape) > len(b.Shape) {
		return false
	}
	from, to := a.Shape, b.Shape[len(b.Shape)-len(a.Shape):]
	for len(from) > 0 && from[0].N == 1 {
		from, to = from[1:], to[1:]
	}
	for len(from) > 0 && from[len(from)-1].N == 1 {
		from, to = from[:len(from)-1], to[:len(to)-1]
	}
	return slices.EqualFunc(from, to, ops.Dim.Same)
}

func (c *chain) node() *onnx.Node {
	n := internal("Pointwise", c.inputs)
	steps, args, since := &onnx.Attribute{Name: "steps", Type: onnx.AttrStrings}, []int64(nil), []int64(nil)
	number := map[*onnx.Value]int64{}
	for i, v := range c.inputs {
		number[v] = int64(i)
	}
	for i, m := range c.nodes {
		step := c.pointwise(m)
		steps.Strings = append(steps.Strings, []byte(step.Op))
		since = append(since, step.Opset)
		for _, a := range step.Attrs {
			of := *a
			of.Name = fmt.Sprintf("%d.%s", i, a.Name)
			n.Attrs = append(n.Attrs, &of)
		}
		args = append(args, number[step.Inputs[0]], -1)
		if len(step.Inputs) == 2 {
			args[2*i+1] = number[step.Inputs[1]]
		}
		number[m.Outputs[0]] = int64(len(c.inputs) + i)
	}
	n.Attrs = append(n.Attrs, steps, onnx.IntsAttr("args", args...), onnx.IntsAttr("since", since...))
	return n
}
