package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Gradients of If, Loop and Scan. The forward node is given outputs for the values that the gradient of its
// subgraph reads (of Loop and Scan: a sequence with the value of each run), and the gradient is a node of its own: an
// If on the same condition, or a ReverseLoop over the runs from the last to the first, whose states are the gradients of
// the forward states and the sums of the gradients of what the subgraph captures.

// movingCaptures is what subgraphs capture that the gradient is taken by, each once.
func (g *Grad) movingCaptures(graphs ...*onnx.Graph) []*onnx.Value {
	var vs []*onnx.Value
	for _, s := range graphs {
		for _, v := range s.Captures() {
			if g.moves[v] && !slices.Contains(vs, v) {
				vs = append(vs, v)
			}
		}
	}
	return vs
}

// internalize makes n an operator of the internal domain, whose last outputs are what its gradient needs.
func internalize(n *onnx.Node, outputs int) {
	n.Domain, n.Opset = Internal, GradOpset
	for len(n.Outputs) < outputs {
		n.Outputs = append(n.Outputs, nil)
	}
}

func gradIf(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	branches := []*onnx.Graph{n.Attr("then_branch").G, n.Attr("else_branch").G}
	wrt := g.movingCaptures(branches...)
	if len(wrt) == 0 {
		return nil, nil
	}
	results := len(branches[0].Outputs)
	internalize(n.Node, results)
	taken := -1 // the branch that runs, if that is known: the other one's shapes may fit nothing that is outside
	if t := n.Info(0).Const; t != nil {
		cond, err := scalarBool(t, "condition")
		if err != nil {
			return nil, err
		}
		if taken = 1; cond {
			taken = 0
		}
	}
	grad := []*onnx.Attribute{}
	for k, name := range []string{"then_branch", "else_branch"} {
		branch := branches[k]
		seeds := map[*onnx.Value][]*onnx.Value{}
		for i, d := range dy {
			if d != nil {
				seeds[branch.Outputs[i]] = append(seeds[branch.Outputs[i]], d)
			}
		}
		inner := g.inner(name)
		var ds map[*onnx.Value]*onnx.Value
		if taken < 0 || k == taken {
			var err error
			if ds, err = inner.Backward(branch, seeds, wrt); err != nil {
				return nil, err
			}
		}
		for _, v := range wrt {
			d := ds[v]
			if d == nil {
				d = inner.Zeros(v)
			}
			inner.Graph.Outputs = append(inner.Graph.Outputs, d)
		}
		saved := inner.borrowed(branch)
		for _, v := range saved {
			branch.Outputs = append(branch.Outputs, v)
			inner.replace(inner.Graph, v, g.output(n.Node, "saved", g.Info(v)))
		}
		if inner.err != nil {
			return nil, inner.err
		}
		n.SetAttr(IntAttr([]string{"then_saved", "else_saved"}[k], int64(len(saved))))
		grad = append(grad, &onnx.Attribute{Name: name, Type: onnx.AttrGraph, G: inner.Graph})
	}
	for i, d := range g.Internal("If", len(wrt), n.Inputs[:1], grad...) {
		g.Infos[d] = g.slope(wrt[i])
		g.Contribute(wrt[i], d)
	}
	return nil, nil
}

// reverse is the gradient of a body that runs again and again, as it is built.
type reverse struct {
	*Grad        // of the outer graph
	inner  *Grad // of the body's
	body   *onnx.Graph
	run    *onnx.Value // number of the run, an input of the inner graph
	states []int       // the body's states that have a gradient, by number
	wrt    []*onnx.Value
	seeds  map[*onnx.Value][]*onnx.Value

	init []*onnx.Value // ReverseLoop's first inputs
}

// newReverse prepares the gradient of n's body, whose states are its inputs from firstIn on and its outputs from firstOut
// on, and outside n's inputs from outer on and its first outputs. sliced says which further inputs of the body are wanted.
func newReverse(g *Grad, n *Node, dy []*onnx.Value, states, outer, firstIn, firstOut int, sliced []*onnx.Value) *reverse {
	r := &reverse{Grad: g, body: n.Attr("body").G, seeds: map[*onnx.Value][]*onnx.Value{}}
	r.inner = g.inner("reverse")
	r.run = r.inner.input("run", Tensor(tensor.Int64))
	captures := g.movingCaptures(r.body)
	// A state hangs on what the gradient is taken by if it starts so or comes to in some run.
	moving := make([]bool, states)
	for i := range moving {
		moving[i] = g.moves[n.Input(outer+i)]
	}
	for again := true; again; {
		again = false
		probe := *g
		probe.moves = map[*onnx.Value]bool{}
		for _, v := range slices.Concat(captures, sliced) {
			probe.moves[v] = true
		}
		for i, m := range moving {
			probe.moves[r.body.Inputs[firstIn+i]] = m
		}
		probe.reach(r.body)
		for i := range moving {
			if o := r.body.Outputs[firstOut+i]; !moving[i] && probe.moves[o] {
				moving[i], again = true, true
			}
		}
	}
	for i, m := range moving {
		if !m {
			continue
		}
		in, out := r.body.Inputs[firstIn+i], r.body.Outputs[firstOut+i]
		if d := g.Info(in).DType; d != tensor.Undefined && !d.IsFloat() {
			continue
		}
		r.states = append(r.states, i)
		d := r.inner.input("d_state", g.slope(out))
		r.seeds[out] = append(r.seeds[out], d)
		r.wrt = append(r.wrt, in)
		start := (*onnx.Value)(nil)
		if i < len(dy) {
			start = dy[i]
		}
		if start == nil { // nothing beyond the loop reads the state
			final := n.Output(i)
			if final == nil {
				final = &onnx.Value{Name: g.Names("final")}
				n.SetOutput(i, final)
				g.Infos[final] = g.Info(out).WithoutValue()
			}
			start = g.Zeros(final)
		}
		r.init = append(r.init, start)
	}
	r.wrt = append(r.wrt, captures...)
	for _, v := range captures {
		r.init = append(r.init, g.Zeros(v))
	}
	return r
}

// close ends the gradient: node is the forward node, whose body has results outputs beside those that are saved, and
// sliced the body's inputs whose gradients come out run by run. It gives the gradients of the first values of the states
// and, stacked in the order of the forward runs, of sliced.
func (r *reverse) close(node *onnx.Node, results int, sliced []*onnx.Value) (states, slices []*onnx.Value, err error) {
	ds, err := r.inner.Backward(r.body, r.seeds, append(r.wrt[:len(r.wrt):len(r.wrt)], sliced...))
	if err != nil {
		return nil, nil, err
	}
	captures := r.wrt[len(r.states):]
	inner := r.inner
	var sums []*onnx.Value
	for _, v := range captures {
		sums = append(sums, inner.input("sum", r.slope(v)))
	}
	for _, in := range r.wrt[:len(r.states)] {
		d := ds[in]
		if d == nil {
			d = inner.Zeros(in)
		}
		inner.Graph.Outputs = append(inner.Graph.Outputs, d)
	}
	for i, v := range captures {
		sum := sums[i]
		if ds[v] != nil {
			sum = inner.sum(v, sum, ds[v])
		}
		inner.Graph.Outputs = append(inner.Graph.Outputs, sum)
	}
	for _, in := range sliced {
		d := ds[in]
		if d == nil {
			d = inner.Zeros(in)
		}
		inner.Graph.Outputs = append(inner.Graph.Outputs, d)
	}
	saved := inner.borrowed(r.body)
	if len(saved) == 0 { // the sequences also tell how often the body ran
		saved = r.body.Inputs[:1]
	}
	internalize(node, results)
	ins := r.init
	for _, v := range saved {
		r.body.Outputs = append(r.body.Outputs, v)
		info := r.Info(v).WithoutValue()
		ins = append(ins, r.output(node, "saved", SequenceOf(info)))
		inner.replace(inner.Graph, v, inner.input("saved", info))
	}
	node.SetAttr(IntAttr("saved", int64(len(saved))))
	if inner.err != nil {
		return nil, nil, inner.err
	}
	outs := r.Internal("ReverseLoop", len(inner.Graph.Outputs), ins, IntAttr("states", int64(len(r.init))),
		&onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: inner.Graph})
	for i, v := range r.wrt {
		r.Infos[outs[i]] = r.slope(v)
	}
	for i, v := range captures {
		r.Contribute(v, outs[len(r.states)+i])
	}
	for i, v := range sliced {
		r.Infos[outs[len(r.wrt)+i]] = Unranked(r.Info(v).DType)
	}
	return outs[:len(r.states)], outs[len(r.wrt):], nil
}

func gradLoop(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	carried := len(n.Inputs) - 2
	results := len(n.Attr("body").G.Outputs) - 1
	r := newReverse(g, n, dy, carried, 2, 2, 1, nil)
	if len(r.wrt) == 0 {
		return nil, nil
	}
	for i := carried; i < len(dy); i++ {
		if dy[i] == nil {
			continue
		}
		o := r.body.Outputs[1+i]
		r.seeds[o] = append(r.seeds[o], r.inner.With("Gather", []*onnx.Attribute{IntAttr("axis", 0)}, dy[i], r.run))
	}
	states, _, err := r.close(n.Node, results, nil)
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(n.Inputs))
	for k, i := range r.states {
		dx[2+i] = states[k]
	}
	return dx, nil
}

func gradScan(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	states := len(n.Inputs) - int(n.Int("num_scan_inputs", 0))
	body := n.Attr("body").G
	results := len(body.Outputs)
	var sliced []*onnx.Value
	var from []int
	for k := states; k < len(n.Inputs); k++ {
		if g.moves[n.Inputs[k]] {
			sliced, from = append(sliced, body.Inputs[k]), append(from, k)
		}
	}
	r := newReverse(g, n, dy, states, 0, 0, 0, sliced)
	if len(r.wrt)+len(sliced) == 0 {
		return nil, nil
	}
	back := r.inner.Op("Sub", r.inner.Const(tensor.Scalar(int64(-1))), r.run) // counted from the end
	for i := states; i < len(dy); i++ {
		if dy[i] == nil {
			continue
		}
		at := r.run
		if listed(n, "scan_output_directions", i-states) != 0 {
			at = back
		}
		axis := IntAttr("axis", listed(n, "scan_output_axes", i-states))
		r.seeds[body.Outputs[i]] = append(r.seeds[body.Outputs[i]], r.inner.With("Gather", []*onnx.Attribute{axis}, dy[i], at))
	}
	firsts, stacked, err := r.close(n.Node, results, sliced)
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(n.Inputs))
	for k, i := range r.states {
		dx[i] = firsts[k]
	}
	for k, d := range stacked {
		x := n.Inputs[from[k]]
		if listed(n, "scan_input_directions", from[k]-states) != 0 {
			d = g.backwards(d)
		}
		if a := listed(n, "scan_input_axes", from[k]-states); a != 0 {
			axis, err := g.Axis(x, a)
			if err != nil {
				return nil, err
			}
			d = g.Transpose(d, slices.Insert(axesFrom(1, g.Rank(x)), axis, 0)...)
		}
		dx[from[k]] = g.ReshapeLike(d, x) // the same shape but for what a scan of no steps does not tell
	}
	return dx, nil
}

// ReverseLoop(states…, sequences…) runs its body once for each element of the sequences, which are of one length, from
// the last to the first. The body takes the element's number, the states and the elements, and gives the states and what
// is stacked, in the order of the sequences.
func reverseLoopBodyIn(n *Node, _ string, in, out []Info) []Info {
	states := int(n.Int("states", 0))
	if states < 0 || states > len(n.In) {
		return nil // Compile refuses it
	}
	if in != nil {
		return append(joinStates(in[:1:1], in[1:1+states], out), in[1+states:]...)
	}
	in = append([]Info{Tensor(tensor.Int64)}, withoutValues(slices.Clone(n.In[:states]))...)
	for _, s := range n.In[states:] {
		in = append(in, s.element())
	}
	return in
}

func inferReverseLoop(n *Node) ([]Info, error) {
	out := make([]Info, len(n.Outputs))
	if n.Bodies["body"] == nil { // as it is emitted
		return out, nil
	}
	body, err := n.Bodies["body"].Infer(nil)
	if err != nil {
		return nil, err
	}
	states := int(n.Int("states", 0))
	for i := range out {
		switch {
		case i < states:
			out[i] = join(n.Info(i), body[i])
		case body[i].Ranked:
			out[i] = Tensor(body[i].DType, append([]Dim{Unknown}, body[i].Shape...)...)
		default:
			out[i] = Unranked(body[i].DType)
		}
	}
	return out, nil
}

func compileReverseLoop(n *Node) (Kernel, error) {
	states := int(n.Int("states", 0))
	if n.Bodies["body"] == nil || states < 0 || states >= len(n.Inputs) || n.Bodies["body"].NumOutputs() < max(states, len(n.Outputs)) {
		return nil, fmt.Errorf("%d inputs and %d outputs, of which %d are states, do not suit the body", len(n.Inputs), len(n.Outputs), states)
	}
	return func(c *Ctx) error {
		body := c.Body("body")
		state := slices.Clone(c.Ins[:states])
		var elements []*tensor.Sequence
		for i := states; i < len(c.Ins); i++ {
			s, err := sequence(c, i)
			if err != nil {
				return err
			}
			if elements = append(elements, s); len(s.Values) != len(elements[0].Values) {
				return fmt.Errorf("sequences of %d and %d elements", len(elements[0].Values), len(s.Values))
			}
		}
		runs := len(elements[0].Values)
		stacked := make([][]tensor.Value, body.NumOutputs()-states)
		for k := range stacked {
			stacked[k] = make([]tensor.Value, runs)
		}
		for i := runs - 1; i >= 0; i-- {
			if err := c.Context.Err(); err != nil {
				return err
			}
			args := append([]tensor.Value{tensor.Scalar(int64(i))}, state...)
			for _, s := range elements {
				args = append(args, s.Values[i])
			}
			outs, err := body.Run(c, args)
			if err != nil {
				return fmt.Errorf("gradient of run %d: %w", i, err)
			}
			copy(state, outs)
			for k := range stacked {
				stacked[k][i] = outs[states+k]
			}
		}
		for i := range c.Node.Outputs {
			if i < states {
				c.SetOut(i, state[i])
				continue
			}
			t, err := stack(c, stacked[i-states], c.Node, i, 0)
			if err != nil {
				return err
			}
			c.SetOut(i, t)
		}
		return nil
	}, nil
}
