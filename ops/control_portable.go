package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// If, Loop and Scan with outputs for their gradients, and ReverseLoop, in standard operators, which know no sequences but those of tensors. What
// each run of a body leaves for the gradient is stacked where it is a tensor whose shape is the same in every run, else inserted into a sequence that the loop
// carries; of lists, which each run may have, one sequence holds the elements of all runs one after another.

// kept is how a value that a gradient reads is held, by values that the standard has. If it is one for each run of a body, of is how it was
// held in the body, and take gives the values that hold it there in a run: values are those of the kept one itself, wherever they have been handed to.
type kept struct {
	values []*onnx.Value
	of     *kept
	take   func(g *Grad, values []*onnx.Value, run *onnx.Value) []*onnx.Value
}

// held is how v is held.
func (g *Grad) held(v *onnx.Value) (*kept, error) {
	if k := g.kept[v]; k != nil {
		return k, nil
	}
	if i := g.Info(v); i.Kind == onnx.TensorType || i.Kind == onnx.SequenceType && (i.Elem == nil || i.Elem.Kind == onnx.TensorType || i.Elem.Kind == none) {
		return &kept{values: []*onnx.Value{v}}, nil
	}
	return nil, fmt.Errorf("%q, which is neither a tensor nor a sequence of tensors, is saved for the gradient", v.Name)
}

// handed is k, held by values that have those of k handed on.
func (k *kept) handed(values []*onnx.Value) *kept { return &kept{values, k.of, k.take} }

// runs is how many runs k is of.
func (k *kept) runs(g *Grad) *onnx.Value {
	if first := k.values[0]; g.Info(first).Kind == onnx.SequenceType {
		return g.Op("SequenceLength", first)
	}
	return g.Dim(k.values[0], 0)
}

// in is what k is in a run.
func (k *kept) in(g *Grad, run *onnx.Value) *kept { return k.of.handed(k.take(g, k.values, run)) }

// sub is a builder that goes on with a subgraph.
func (g *Grad) sub(graph *onnx.Graph) *Grad {
	w := *g
	w.Graph = graph
	return &w
}

// externalize makes n an operator of ai.onnx again, and takes trailing outputs away that are left out.
func externalize(n *onnx.Node, attrs ...string) {
	n.Domain = ""
	for _, name := range attrs {
		n.DelAttr(name)
	}
	for len(n.Outputs) > 0 && n.Outputs[len(n.Outputs)-1] == nil {
		n.Outputs = n.Outputs[:len(n.Outputs)-1]
	}
}

// cutSaved takes away what a subgraph of n gives for the gradient alone, and n's outputs for it, which begin at first.
func cutSaved(n *onnx.Node, body *onnx.Graph, saved, first int) (values, outs []*onnx.Value) {
	at := len(body.Outputs) - saved
	values, body.Outputs = body.Outputs[at:], slices.Clone(body.Outputs[:at])
	outs = slices.Clone(n.Outputs[first:][:saved])
	for i := range outs {
		n.SetOutput(first+i, nil)
	}
	n.Outputs = slices.Delete(n.Outputs, first, first+saved)
	return values, outs
}

// portableIf has the branch that is not taken give something empty for what the other one saves.
func portableIf(g *Grad, n *Node) ([]*onnx.Value, error) {
	branches := []*onnx.Graph{n.Attr("then_branch").G, n.Attr("else_branch").G}
	results := len(branches[0].Outputs) - savedBy(n, "then_saved")
	var values, outs [2][]*onnx.Value
	for k, name := range []string{"then_saved", "else_saved"} {
		values[k], outs[k] = cutSaved(n.Node, branches[k], savedBy(n, name), results)
	}
	for k, taken := range branches {
		other := g.sub(branches[1-k])
		for i, v := range values[k] {
			held, err := g.held(v)
			if err != nil {
				return nil, err
			}
			var parts []*onnx.Value
			for _, part := range held.values {
				taken.Outputs = append(taken.Outputs, part)
				other.Graph.Outputs = append(other.Graph.Outputs, other.emptyLike(part))
				o := outs[k][i]
				if held.of != nil {
					o = &onnx.Value{Name: g.Names("saved")}
				}
				n.AddOutput(o)
				g.Infos[o] = settled(g.Info(part), Dim.Known) // it may be empty
				parts = append(parts, o)
			}
			if held.of != nil {
				g.kept[outs[k][i]] = held.handed(parts)
			}
		}
		g.fail(other.err)
	}
	externalize(n.Node, "then_saved", "else_saved")
	return nil, nil
}

// emptyLike is a value of v's kind and, as far as that is known, since the gradient of this branch is made for it, of its shape.
func (g *Grad) emptyLike(v *onnx.Value) *onnx.Value {
	info := g.Info(v)
	if info.Kind == onnx.SequenceType {
		return g.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(g.DType(v)))})
	}
	shape := make([]int64, len(info.Shape))
	for i, d := range info.Shape {
		shape[i] = int64(max(0, d.N))
	}
	return g.Fill(v, g.Int64s(shape...), 0)
}

// settled is info with only those dimensions that hold.
func settled(info Info, holds func(Dim) bool) Info {
	info = info.WithoutValue()
	info.Shape = slices.Clone(info.Shape)
	for i, d := range info.Shape {
		if !holds(d) {
			info.Shape[i] = Unknown
		}
	}
	return info
}

// steady reports whether a dimension of a body's value is the same in all runs: it is known, or named outside.
func steady(d Dim) bool { return d.Known() || d.term != nil && !d.term.hangsOn("#") }

// portableLoop has a Loop that saves give what its runs leave.
func portableLoop(g *Grad, n *Node) ([]*onnx.Value, error) {
	body, saved := n.Attr("body").G, savedBy(n, "saved")
	values, outs := cutSaved(n.Node, body, saved, len(body.Outputs)-1-saved)
	l := &savingLoop{outside: g, body: g.sub(body), node: n.Node, carried: len(n.Inputs) - 2}
	for i, v := range values {
		held, err := g.held(v)
		if err != nil {
			return nil, err
		}
		g.kept[outs[i]] = l.keep(held)
	}
	g.fail(l.body.err)
	externalize(n.Node, "saved")
	return nil, nil
}

// savingLoop is a Loop that is given more outputs.
type savingLoop struct {
	outside, body *Grad
	node          *onnx.Node
	carried       int
}

// keep has the loop give what holds the values that hold held in each run.
func (l *savingLoop) keep(held *kept) *kept {
	type column struct{ stack, list, lengths int } // which of the values it is, counted from 1
	var columns []column
	all := &kept{of: held}
	add := func(v *onnx.Value) int {
		all.values = append(all.values, v)
		return len(all.values)
	}
	for _, v := range held.values {
		info := l.body.Info(v)
		var c column
		switch {
		case info.Kind == onnx.SequenceType:
			c.lengths = add(l.stack(l.body.Op("SequenceLength", v)))
			c.list = add(l.list(info, func(w *Grad, before *onnx.Value) *onnx.Value {
				return w.appended(before, w.Op("SequenceLength", v), func(w *Grad, at *onnx.Value) *onnx.Value { return w.Op("SequenceAt", v, at) })
			}))
		case info.Ranked && !slices.ContainsFunc(info.Shape, func(d Dim) bool { return !steady(d) }):
			c.stack = add(l.stack(v))
		default:
			c.list = add(l.list(SequenceOf(settled(info, steady)), func(w *Grad, before *onnx.Value) *onnx.Value { return w.Op("SequenceInsert", before, v) }))
		}
		columns = append(columns, c)
	}
	all.take = func(g *Grad, values []*onnx.Value, run *onnx.Value) (of []*onnx.Value) {
		for _, c := range columns {
			switch {
			case c.stack > 0:
				of = append(of, g.Op("Gather", values[c.stack-1], run))
			case c.lengths == 0:
				of = append(of, g.Op("SequenceAt", values[c.list-1], run))
			default:
				list, lengths, zero := values[c.list-1], values[c.lengths-1], g.Int64s(0)
				first := g.ReduceSum(g.Op("Slice", lengths, zero, g.Op("Unsqueeze", run, zero)), false, 0)
				of = append(of, g.sequence(g.Op("Gather", lengths, run), g.DType(list), func(w *Grad, at *onnx.Value) *onnx.Value {
					return w.Op("SequenceAt", list, w.Add(first, at))
				}))
			}
		}
		return of
	}
	return all
}

// stack has a tensor of one shape in all runs come out, along a new axis 0.
func (l *savingLoop) stack(v *onnx.Value) *onnx.Value {
	l.body.Graph.Outputs = append(l.body.Graph.Outputs, v)
	i := l.body.Info(v)
	return l.outside.output(l.node, "stacked", Info{DType: i.DType, Ranked: i.Ranked, Shape: append([]Dim{Unknown}, i.Shape...)})
}

// list has the loop carry a sequence, to which next adds in each run.
func (l *savingLoop) list(info Info, next func(w *Grad, before *onnx.Value) *onnx.Value) *onnx.Value {
	start := l.outside.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(info.DType))})
	l.node.SetInput(2+l.carried, start)
	after := next(l.body, l.body.input("saved", info))
	l.body.Graph.Outputs = slices.Insert(l.body.Graph.Outputs, 1+l.carried, after)
	out := l.outside.output(l.node, "saved", info)
	l.node.Outputs = slices.Insert(slices.Delete(l.node.Outputs, len(l.node.Outputs)-1, len(l.node.Outputs)), l.carried, out)
	l.outside.Infos[after] = info
	l.carried++
	return out
}

// numbered makes the body of a Loop of one whose inputs are states and parts: take gives the parts in a run of that number, nil for what nobody reads.
func (g *Grad) numbered(body *onnx.Graph, states, parts []*onnx.Value, take func(w *Grad, run *onnx.Value) []*onnx.Value) *onnx.Attribute {
	w := g.sub(body)
	nodes := body.Nodes
	body.Inputs, body.Nodes = nil, nil
	run := w.input("run", Tensor(tensor.Int64))
	w.input("condition", Tensor(tensor.Bool))
	body.Inputs = append(body.Inputs, states...)
	for i, from := range take(w, run) {
		if from == nil {
			continue
		}
		if d := from.Def(); d == nil || !slices.Contains(body.Nodes, d) {
			from = w.Op("Identity", from)
		}
		d := from.Def()
		d.SetOutput(slices.Index(d.Outputs, from), parts[i])
		body.ReplaceUses(from, parts[i])
	}
	goOn := w.Op("Identity", w.Const(tensor.Scalar(true)))
	body.Nodes = append(body.Nodes, nodes...)
	body.Outputs = append([]*onnx.Value{goOn}, body.Outputs...)
	g.fail(w.err)
	return &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: body}
}

// backwards is v with axis 0 from the last to the first.
func (g *Grad) backwards(v *onnx.Value) *onnx.Value {
	return g.Op("Slice", v, g.Int64s(-1), g.Int64s(math.MinInt64+1), g.Int64s(0), g.Int64s(-1))
}

// portableScan is a Loop, which may carry lists.
func portableScan(g *Grad, n *Node) ([]*onnx.Value, error) {
	states := len(n.Inputs) - int(n.Int("num_scan_inputs", 0))
	body, scanned, saved := n.Attr("body").G, n.Inputs[states:], savedBy(n, "saved")
	given := slices.Clone(body.Outputs)
	axis, err := g.Axis(scanned[0], listed(n, "scan_input_axes", 0))
	if err != nil {
		return nil, err
	}
	steps := g.Dim(scanned[0], int64(axis))
	last := g.Sub(steps, g.Const(tensor.Scalar(int64(1))))
	numbered := g.numbered(body, body.Inputs[:states:states], body.Inputs[states:], func(w *Grad, run *onnx.Value) (parts []*onnx.Value) {
		for k, v := range scanned {
			at := run
			if listed(n, "scan_input_directions", k) != 0 {
				at = w.Sub(last, run)
			}
			parts = append(parts, w.With("Gather", []*onnx.Attribute{IntAttr("axis", listed(n, "scan_input_axes", k))}, v, at))
		}
		return parts
	})
	n.DelAttr("body")
	outs := slices.Clone(g.Internal("Loop", len(n.Outputs), append([]*onnx.Value{steps, nil}, n.Inputs[:states]...), numbered, IntAttr("saved", int64(saved))))
	for i, v := range outs {
		g.Infos[v] = g.Info(n.Outputs[i])
		if i < states || i >= len(outs)-saved {
			continue
		}
		of := g.Info(given[i])
		g.Infos[v] = Info{DType: of.DType, Ranked: of.Ranked, Shape: append([]Dim{Unknown}, settled(of, steady).Shape...)}
		if listed(n, "scan_output_directions", i-states) != 0 {
			outs[i] = g.backwards(outs[i])
		}
		if a := listed(n, "scan_output_axes", i-states); a != 0 {
			axis, err := g.Axis(v, a)
			if err != nil {
				return nil, err
			}
			outs[i] = g.Transpose(outs[i], slices.Insert(axesFrom(1, g.Rank(v)), axis, 0)...)
		}
	}
	return outs, nil
}

// portableReverseLoop is a Loop whose body takes what was saved by the number of the run, counted from the last. What it stacks is turned round after it.
func portableReverseLoop(g *Grad, n *Node) ([]*onnx.Value, error) {
	body, states := n.Attr("body").G, int(n.Int("states", 0))
	var saved []*kept
	for _, v := range n.Inputs[states:] {
		held, err := g.held(v)
		if err != nil {
			return nil, err
		}
		saved = append(saved, held)
	}
	runs := saved[0].runs(g)
	last := g.Sub(runs, g.Const(tensor.Scalar(int64(1))))
	old := body.Inputs
	elements := old[1+states:]
	parts := append([]*onnx.Value{old[0]}, elements...)
	numbered := g.numbered(body, old[1:1+states:1+states], parts, func(w *Grad, run *onnx.Value) (parts []*onnx.Value) {
		run = w.Sub(last, run)
		parts = append(parts, run)
		for i, s := range saved {
			if held := s.in(w, run); held.of != nil {
				g.kept[elements[i]] = held
				parts = append(parts, nil)
			} else {
				parts = append(parts, held.values[0])
			}
		}
		return parts
	})
	n.DelAttr("body")
	outs := slices.Clone(g.Node("Loop", len(n.Outputs), append([]*onnx.Value{runs, nil}, n.Inputs[:states]...), numbered))
	for i, v := range outs {
		if n.Outputs[i] != nil {
			g.Infos[v] = g.Info(n.Outputs[i])
		}
		if i >= states {
			outs[i] = g.backwards(v)
		}
	}
	return outs, nil
}
