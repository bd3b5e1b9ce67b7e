package runtime

import (
	"maps"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// taken is the branch of an If whose condition is known, else nil.
func (s *step) taken(in []ops.Info) *program {
	if !is(s.node.Node, "If") || in[0].Const == nil || in[0].Const.DType() != tensor.Bool || in[0].Const.Len() != 1 {
		return nil
	}
	if tensor.Data[bool](in[0].Const)[0] {
		return s.bodies["then_branch"]
	}
	return s.bodies["else_branch"]
}

// with is p with the steps of branches in place of the Ifs that take them.
func (p *program) with(taken map[*step]*program) (*program, error) {
	q := &program{set: p.set, graph: p.graph, slots: maps.Clone(p.slots), values: slices.Clone(p.values), inputs: p.inputs, outputs: p.outputs,
		captures: p.captures, depth: p.depth, infos: slices.Clone(p.infos), known: slices.Clone(p.known)}
	for _, s := range p.steps {
		branch := taken[s]
		if branch == nil {
			q.steps = append(q.steps, s)
			continue
		}
		if err := q.splice(s, branch); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// splice adds the steps of branch. What they compute for an output of the If goes to the If's own slot.
func (q *program) splice(s *step, branch *program) error {
	at := make([]int, len(branch.values))
	for i := range at {
		at[i] = -1
	}
	for _, v := range branch.captures {
		at[branch.slots[v]] = q.slots[v]
	}
	computed := make([]bool, len(branch.values))
	for _, b := range branch.steps {
		for _, o := range b.outs {
			if o >= 0 {
				computed[o] = true
			}
		}
	}
	var copies []int // outputs that are captured, constant, or given twice
	for i, slot := range s.outs {
		if slot < 0 {
			continue
		}
		b := branch.outputs[i]
		if !computed[b] || at[b] >= 0 {
			copies = append(copies, i)
			continue
		}
		at[b], q.slots[branch.values[b]] = slot, slot
		q.infos[slot], q.known[slot] = branch.infos[b], branch.known[b]
	}
	for b, v := range branch.values {
		if at[b] < 0 {
			at[b] = q.slot(v)
			q.infos, q.known = append(q.infos, branch.infos[b]), append(q.known, branch.known[b])
		}
	}
	mapped := func(slots []int) []int {
		out := make([]int, len(slots))
		for i, b := range slots {
			if out[i] = -1; b >= 0 {
				out[i] = at[b]
			}
		}
		return out
	}
	for _, b := range branch.steps {
		q.steps = append(q.steps, &step{node: b.node, ins: mapped(b.ins), outs: mapped(b.outs), bodies: b.bodies, kernel: b.kernel})
	}
	for _, i := range copies {
		b := branch.outputs[i]
		n, err := ops.Resolve(&onnx.Node{Name: s.node.Name, Op: "Identity", Opset: ops.GradOpset,
			Inputs: []*onnx.Value{branch.values[b]}, Outputs: []*onnx.Value{s.node.Outputs[i]}}, ops.GradOpset)
		if err != nil {
			return err
		}
		q.steps = append(q.steps, &step{node: n, ins: []int{at[b]}, outs: []int{s.outs[i]}})
	}
	return nil
}
