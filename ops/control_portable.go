package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// If, Loop and Scan with outputs for their gradients, and ReverseLoop, in standard operators. What each run of a body leaves for the gradient is
// stacked where its shape is the same in every run, else inserted into a sequence that the loop carries.

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

// portableIf has the branch that is not taken give something empty for what the other one saves.
func portableIf(g *Grad, n *Node) ([]*onnx.Value, error) {
	then, other := n.Attr("then_branch").G, n.Attr("else_branch").G
	results := len(then.Outputs) - savedBy(n, "then_saved")
	ofThen, ofOther := slices.Clone(then.Outputs[results:]), slices.Clone(other.Outputs[results:])
	empty := func(in *onnx.Graph, of []*onnx.Value) (out []*onnx.Value) {
		w := g.sub(in)
		for _, v := range of {
			switch info := w.Info(v); info.Kind {
			case onnx.TensorType:
				shape := make([]int, len(info.Shape)) // as far as it is known: the gradient of this branch is made for it
				for i, d := range info.Shape {
					shape[i] = max(0, d.N)
				}
				t, err := tensor.Zeros(w.DType(v), shape...)
				if err != nil {
					w.fail(err)
					t = tensor.Scalar(float32(0))
				}
				out = append(out, w.Op("Identity", w.Const(t)))
			case onnx.SequenceType:
				out = append(out, w.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(w.DType(v)))}))
			default:
				w.fail(fmt.Errorf("%q, which is neither a tensor nor a sequence, is saved for the gradient", v.Name))
			}
		}
		g.fail(w.err)
		return out
	}
	for i, v := range slices.Concat(ofThen, ofOther) {
		if o := n.Output(results + i); o != nil {
			info := withoutValues([]Info{g.Info(v)})[0]
			info.Shape = slices.Clone(info.Shape)
			for k, d := range info.Shape {
				if !d.Known() {
					info.Shape[k] = Unknown // it may be empty
				}
			}
			g.Infos[o] = info
		}
	}
	then.Outputs = append(then.Outputs, empty(then, ofOther)...)
	other.Outputs = slices.Concat(other.Outputs[:results:results], empty(other, ofThen), ofOther)
	externalize(n.Node, "then_saved", "else_saved")
	return nil, nil
}

// steady reports whether a value of a body has one shape in all runs: its sizes are known, or named outside.
func steady(info Info) bool {
	return info.Kind == onnx.TensorType && info.Ranked && !slices.ContainsFunc(info.Shape, func(d Dim) bool { return !d.Known() && (d.term == nil || d.term.hangsOn("#")) })
}

// plain is what can be kept of a value of a body for each run: itself, or what a sequence has been taken from.
func (g *Grad) plain(v *onnx.Value) (*onnx.Value, error) {
	if g.Info(v).Kind == onnx.TensorType {
		return v, nil
	}
	if s := stackOf(v); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%q, which is no tensor, is saved for the gradient", v.Name)
}

// stackOf is the tensor whose parts along axis 0 a sequence is, nil if it is not known to be such.
func stackOf(v *onnx.Value) *onnx.Value {
	if d := v.Def(); d != nil && d.Op == "SplitToSequence" && d.Domain == "" && d.Input(1) == nil && d.Int("axis", 0) == 0 && d.Int("keepdims", 1) == 0 {
		return d.Inputs[0]
	}
	return nil
}

// unstack has n's output i be stacked, and the sequence that it was come from that.
func (g *Grad) unstack(n *onnx.Node, i int, elem Info) {
	sequence := n.Outputs[i]
	stacked := &onnx.Value{Name: g.Names("stacked")}
	n.SetOutput(i, stacked)
	g.Infos[stacked] = Info{DType: elem.DType, Ranked: elem.Ranked, Shape: append([]Dim{Unknown}, elem.Shape...)}
	split := g.unstacked(stacked).Def()
	split.SetOutput(0, nil)
	split.SetOutput(0, sequence)
	g.Infos[sequence] = SequenceOf(elem)
}

// unstacked is the sequence of v's parts along axis 0.
func (g *Grad) unstacked(v *onnx.Value) *onnx.Value {
	return g.With("SplitToSequence", []*onnx.Attribute{IntAttr("axis", 0), IntAttr("keepdims", 0)}, v)
}

func portableScan(g *Grad, n *Node) ([]*onnx.Value, error) {
	body := n.Attr("body").G
	saved := savedBy(n, "saved")
	first := len(body.Outputs) - saved
	for i := range saved {
		v, err := g.plain(body.Outputs[first+i])
		if err != nil {
			return nil, err
		}
		body.Outputs[first+i] = v
		g.unstack(n.Node, first+i, g.Info(v))
	}
	states := len(n.Inputs) - int(n.Int("num_scan_inputs", 0))
	for _, name := range []string{"scan_output_axes", "scan_output_directions"} {
		if a := n.Attr(name); a != nil && len(a.Ints) > 0 {
			list := slices.Clone(a.Ints)
			for len(list) < len(body.Outputs)-states {
				list = append(list, 0)
			}
			n.SetAttr(IntsAttr(name, list...))
		}
	}
	externalize(n.Node, "saved")
	return nil, nil
}

func portableLoop(g *Grad, n *Node) ([]*onnx.Value, error) {
	body := n.Attr("body").G
	saved, carried := savedBy(n, "saved"), len(n.Inputs)-2
	first := len(body.Outputs) - saved
	values := slices.Clone(body.Outputs[first:])
	outs := slices.Clone(n.Outputs[first-1:])
	for i := range n.Outputs[first-1:] {
		n.SetOutput(first-1+i, nil)
	}
	body.Outputs, n.Outputs = body.Outputs[:first], n.Outputs[:first-1]
	w := g.sub(body)
	for i, v := range values {
		v, err := g.plain(v)
		if err != nil {
			return nil, err
		}
		info := g.Info(v)
		switch {
		case steady(info):
			body.Outputs = append(body.Outputs, v)
			n.AddOutput(outs[i])
			g.unstack(n.Node, len(n.Outputs)-1, info)
		default:
			start := g.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(g.DType(v)))})
			n.SetInput(2+carried, start)
			sequence := SequenceOf(info)
			before := w.input("saved", sequence)
			next := w.Op("SequenceInsert", before, v)
			body.Outputs = slices.Insert(body.Outputs, 1+carried, next)
			n.Outputs = slices.Insert(n.Outputs, carried, (*onnx.Value)(nil))
			n.SetOutput(carried, outs[i])
			g.Infos[outs[i]], g.Infos[next] = sequence, sequence
			carried++
		}
	}
	g.fail(w.err)
	externalize(n.Node, "saved")
	return nil, nil
}

// portableReverseLoop is a Loop whose body takes the elements of the run by its number, counted from the last. What it stacks is turned
// round after it.
func portableReverseLoop(g *Grad, n *Node) ([]*onnx.Value, error) {
	body, states := n.Attr("body").G, int(n.Int("states", 0))
	scalar := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
	var stacks []*onnx.Value // nil: there is the sequence alone
	for _, s := range n.Inputs[states:] {
		stacks = append(stacks, stackOf(s))
	}
	var runs *onnx.Value
	if stacks[0] != nil {
		runs = g.Dim(stacks[0], 0)
	} else {
		runs = g.Op("SequenceLength", n.Inputs[states])
	}
	last := g.Op("Sub", runs, scalar(1))

	w := g.sub(body)
	old := body.Inputs
	body.Inputs = nil
	iteration := w.input("iteration", Tensor(tensor.Int64))
	w.input("condition", Tensor(tensor.Bool))
	body.Inputs = append(body.Inputs, old[1:1+states]...)
	nodes := body.Nodes
	body.Nodes = nil
	become := func(v, w *onnx.Value) { // v is what w was to be
		d := w.Def()
		d.SetOutput(slices.Index(d.Outputs, w), v)
	}
	run := w.Op("Sub", last, iteration)
	for i, v := range old[1+states:] {
		at := old[0]
		if i == 0 {
			become(at, run)
		}
		info := g.Infos[v]
		var element *onnx.Value
		if stacks[i] != nil {
			element = w.Op("Gather", stacks[i], at)
		} else {
			element = w.Op("SequenceAt", n.Inputs[states+i], at)
		}
		if info.Kind == onnx.SequenceType {
			element = w.unstacked(element)
		}
		become(v, element)
		g.Infos[v] = info
	}
	body.Nodes = append(body.Nodes, nodes...)
	goOn := w.Op("Identity", w.Const(tensor.Scalar(true)))
	body.Outputs = append([]*onnx.Value{goOn}, body.Outputs...)
	g.fail(w.err)

	outs := slices.Clone(g.Node("Loop", len(n.Outputs), append([]*onnx.Value{runs, nil}, n.Inputs[:states]...), &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: body}))
	n.DelAttr("body")
	for i, v := range outs {
		if n.Outputs[i] != nil {
			g.Infos[v] = g.Info(n.Outputs[i])
		}
		if i >= states {
			outs[i] = g.Op("Slice", v, g.Int64s(-1), g.Int64s(math.MinInt64+1), g.Int64s(0), g.Int64s(-1))
		}
	}
	return outs, nil
}
