package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// noSecond is of what runs in gradients of control flow and of sequences.
const noSecond = "a gradient of a gradient does not go through control flow and sequences, but it goes through the first one's graph written in standard operators"

// If, Loop and Scan: operators that run subgraphs.
func init() {
	entries := []Op{
		{Name: "If", Since: []int{1, 11, 13, 16, 19, 21, 23, 24, 25}, AnyKind: true, MinIn: 1, MinOut: 0, MaxOut: -1, Types: []TypeSet{Bools},
			Infer: inferIf, Grad: gradIf, Compile: func(n *Node) (Kernel, error) {
				if n.Bodies["then_branch"] == nil || n.Bodies["else_branch"] == nil {
					return nil, fmt.Errorf("attributes then_branch and else_branch must be graphs")
				}
				a, b := n.Bodies["then_branch"].NumOutputs()-savedBy(n, "then_saved"), n.Bodies["else_branch"].NumOutputs()-savedBy(n, "else_saved")
				if a != b || a+savedBy(n, "then_saved")+savedBy(n, "else_saved") < len(n.Outputs) {
					return nil, fmt.Errorf("the branches give %d and %d values, the node has %d outputs", a, b, len(n.Outputs))
				}
				return runIf, nil
			}},
		{Name: "Loop", Since: []int{1, 11, 13, 16, 19, 21, 23, 24, 25}, AnyKind: true, MinIn: 0, MaxIn: -1, MinOut: 0, MaxOut: -1, // trip count and condition may be left out
			Infer: inferLoop, BodyIn: loopBodyIn, Grad: gradLoop, Compile: func(n *Node) (Kernel, error) {
				b := n.Bodies["body"]
				if b == nil || len(n.Inputs) < 2 {
					return nil, fmt.Errorf("attribute body must be a graph, and inputs 0 and 1 be there, if empty")
				}
				carried := len(n.Inputs) - 2
				if b.NumInputs() != carried+2 || b.NumOutputs() < carried+1 || b.NumOutputs()-1 < len(n.Outputs) {
					return nil, fmt.Errorf("the body takes %d and gives %d values, which does not suit %d inputs and %d outputs",
						b.NumInputs(), b.NumOutputs(), len(n.Inputs), len(n.Outputs))
				}
				return runLoop, nil
			}},
		{Name: "Scan", Since: []int{9, 11, 16, 19, 21, 23, 24, 25}, AnyKind: true, MinIn: 0, MaxIn: -1, MinOut: 0, MaxOut: -1,
			Infer: inferScan, BodyIn: scanBodyIn, Compile: compileScan, Grad: gradScan},
	}
	register(entries...)
	// The same with outputs for what their gradients need of each run of a subgraph.
	portable := map[string]func(g *Grad, n *Node) ([]*onnx.Value, error){"If": portableIf, "Loop": portableLoop, "Scan": portableScan}
	for _, op := range entries {
		op.Domain, op.Since, op.Grad, op.NoGrad, op.Portable = Internal, []int{1}, nil, noSecond, portable[op.Name]
		register(op)
	}
	register(Op{Name: "Scan", Since: []int{8}, AnyKind: true, MinIn: 0, MaxIn: -1, MinOut: 0, MaxOut: -1, Expand: scanOfBatch})
	register(Op{Domain: Internal, Name: "ReverseLoop", Since: []int{1}, AnyKind: true, MinIn: 1, MaxIn: -1, MinOut: 0, MaxOut: -1,
		Infer: inferReverseLoop, BodyIn: reverseLoopBodyIn, Compile: compileReverseLoop, NoGrad: noSecond, Portable: portableReverseLoop})
}

func inferIf(n *Node) ([]Info, error) {
	out := make([]Info, len(n.Outputs))
	if n.Bodies["then_branch"] == nil || n.Bodies["else_branch"] == nil {
		return out, nil // Compile refuses it
	}
	then, err := n.Bodies["then_branch"].Infer(nil)
	if err != nil {
		return nil, err
	}
	other, err := n.Bodies["else_branch"].Infer(nil)
	if err != nil {
		return nil, err
	}
	results := join
	if t := n.Info(0).Const; t != nil { // the condition is known before the run
		cond, err := scalarBool(t, "condition")
		if err != nil {
			return nil, err
		}
		results = func(then, other Info) Info {
			if cond {
				return then
			}
			return other
		}
	}
	a, b := savedBy(n, "then_saved"), savedBy(n, "else_saved")
	both := min(len(then)-a, len(other)-b)
	for i := range out {
		switch {
		case i < both:
			out[i] = results(then[i], other[i])
		case i < both+a:
			out[i] = then[i]
		case i-a < len(other):
			out[i] = other[i-a]
		}
	}
	return out, nil
}

// join is what is known of a value that is one of two.
func join(a, b Info) Info {
	if a.Kind == none {
		return b
	}
	if b.Kind == none {
		return a
	}
	if a.Kind != b.Kind {
		return Info{}
	}
	out := Info{Kind: a.Kind}
	if a.Elem != nil && b.Elem != nil {
		e := join(*a.Elem, *b.Elem)
		out.Elem = &e
	}
	if a.DType == b.DType {
		out.DType = a.DType
	}
	if a.Ranked && b.Ranked && len(a.Shape) == len(b.Shape) {
		out.Ranked, out.Shape = true, make([]Dim, len(a.Shape))
		for i := range a.Shape {
			if out.Shape[i] = a.Shape[i]; !a.Shape[i].Same(b.Shape[i]) {
				out.Shape[i] = Unknown
			}
		}
	}
	return out
}

func scalarBool(v tensor.Value, what string) (bool, error) {
	t, ok := v.(*tensor.Tensor)
	if !ok || t == nil || t.DType() != tensor.Bool || t.Len() != 1 {
		return false, fmt.Errorf("%s must be a single bool, got %v", what, v)
	}
	return tensor.Data[bool](t)[0], nil
}

func runIf(c *Ctx) error {
	cond, err := scalarBool(c.Value(0), "the condition")
	if err != nil {
		return err
	}
	name := "else_branch"
	if cond {
		name = "then_branch"
	}
	outs, err := c.Body(name).Run(c, nil)
	if err != nil {
		return err
	}
	// What the gradient needs of the branch that ran comes after its results, in the place of its kind; what it
	// would need of the other one is empty, and nothing reads it.
	empty := func(attr string) []tensor.Value {
		return slices.Repeat([]tensor.Value{&tensor.Optional{}}, savedBy(c.Node, attr))
	}
	if cond {
		outs = append(outs, empty("else_saved")...)
	} else {
		outs = slices.Insert(outs, len(outs)-savedBy(c.Node, "else_saved"), empty("then_saved")...)
	}
	for i := range c.Node.Outputs {
		c.SetOut(i, outs[i])
	}
	return nil
}

// savedBy is how many of a subgraph's last outputs are there for its gradient alone.
func savedBy(n *Node, attr string) int { return int(max(0, n.Int(attr, 0))) }

// loopBodyIn: iteration number, condition, and what is carried, from before the loop or from the run before.
func loopBodyIn(n *Node, _ string, in, out []Info) []Info {
	if in == nil {
		in = append([]Info{Tensor(tensor.Int64), Tensor(tensor.Bool)}, n.In[min(2, len(n.In)):]...)
		return withoutValues(in)
	}
	return joinStates(in[:2:2], in[2:], out[min(1, len(out)):])
}

// joinStates is fixed, then what is known of each state that is as in or, a run later, as out says.
func joinStates(fixed, in, out []Info) []Info {
	for i, a := range in {
		if i < len(out) {
			a = join(a, out[i])
		}
		fixed = append(fixed, a)
	}
	return fixed
}

func withoutValues(in []Info) []Info {
	for i := range in {
		in[i] = in[i].WithoutValue()
	}
	return in
}

func inferLoop(n *Node) ([]Info, error) {
	out := make([]Info, len(n.Outputs))
	if n.Bodies["body"] == nil || len(n.Inputs) < 2 {
		return out, nil // Compile refuses it
	}
	body, err := n.Bodies["body"].Infer(nil)
	if err != nil {
		return nil, err
	}
	trips := Unknown
	if n.Has(0) && neverStops(n) {
		trips = n.number1(0).Max(D(0))
	}
	carried, saved := len(n.Inputs)-2, len(body)-savedBy(n, "saved")
	for i := range out {
		if i+1 >= len(body) {
			break
		}
		b := body[i+1]
		switch {
		case i+1 >= saved:
			out[i] = SequenceOf(b)
		case i < carried: // the body may never run
			out[i] = join(n.Info(2+i), b)
		case b.Kind == onnx.TensorType && b.Ranked:
			out[i] = Tensor(b.DType, append([]Dim{trips}, b.Shape...)...)
		default:
			out[i] = Unranked(b.DType)
		}
	}
	return out, nil
}

// neverStops reports whether a Loop's condition is true before it and in all of its iterations, so that its trip count says how many there are.
func neverStops(n *Node) bool {
	yes := func(t *tensor.Tensor) bool {
		return t != nil && t.DType() == tensor.Bool && t.Len() == 1 && tensor.View[bool](t)[0]
	}
	body := n.Attr("body")
	if body == nil || body.G == nil || len(body.G.Inputs) < 2 || len(body.G.Outputs) < 1 || n.Has(1) && !yes(n.Info(1).Const) {
		return false
	}
	v := body.G.Outputs[0]
	for range len(body.G.Nodes) + 1 {
		def := v.Def()
		switch {
		case v == body.G.Inputs[1]:
			return true
		case def == nil:
			return yes(v.Const) && slices.Contains(body.G.Inits, v) && !slices.Contains(body.G.Inputs, v)
		case def.Op == "Constant":
			a := def.Attr("value")
			return a != nil && yes(a.T)
		case (def.Op == "Identity" || def.Op == "Cast") && def.Inputs[0] != nil:
			v = def.Inputs[0]
		default:
			return false
		}
	}
	return false
}

func runLoop(c *Ctx) error {
	limit, cond := int64(-1), true
	if t := c.In(0); t != nil {
		v, err := t.Int64s()
		if err != nil || len(v) != 1 {
			return fmt.Errorf("the trip count must be a single int64, got %s", t)
		}
		limit = max(v[0], 0)
	}
	if c.Value(1) != nil {
		var err error
		if cond, err = scalarBool(c.Value(1), "the condition"); err != nil {
			return err
		}
	} else if limit < 0 {
		return fmt.Errorf("neither a trip count nor a condition: the loop would not end")
	}
	body := c.Body("body")
	carried := len(c.Ins) - 2
	state := append([]tensor.Value(nil), c.Ins[2:]...)
	scans := make([][]tensor.Value, body.NumOutputs()-1-carried)
	saved := body.NumOutputs() - 1 - savedBy(c.Node, "saved")
	one := []int{}
	for i := int64(0); cond && (limit < 0 || i < limit); i++ {
		if err := c.Context.Err(); err != nil {
			return err
		}
		iter, _ := tensor.FromSlice([]int64{i}, one)
		keep, _ := tensor.FromSlice([]bool{cond}, one)
		outs, err := body.Run(c, append([]tensor.Value{iter, keep}, state...))
		if err != nil {
			return fmt.Errorf("iteration %d: %w", i, err)
		}
		if cond, err = scalarBool(outs[0], "the body's condition"); err != nil {
			return err
		}
		copy(state, outs[1:1+carried])
		for k := range scans {
			v := outs[1+carried+k]
			if t, ok := v.(*tensor.Tensor); ok {
				if err := c.Mem.Take(int64(len(t.Bytes()))); err != nil {
					return err
				}
			}
			scans[k] = append(scans[k], v)
		}
	}
	for i := range c.Node.Outputs {
		if i < carried {
			c.SetOut(i, state[i])
			continue
		}
		if !c.Wants(i) {
			continue
		}
		if i >= saved {
			c.SetOut(i, sequenceOf(scans[i-carried]))
			continue
		}
		t, err := stack(c, scans[i-carried], c.Node, i, 0)
		if err != nil {
			return err
		}
		c.SetOut(i, t)
	}
	return nil
}

// stack joins the values of a scan output along a leading axis.
func stack(c *Ctx, vs []tensor.Value, n *Node, out int, axis int64) (*tensor.Tensor, error) {
	if len(vs) == 0 { // no iteration: the shape is what inference knows of it
		infos, err := n.InferOutputs()
		if err != nil {
			return nil, err
		}
		info := infos[out]
		if info.DType == tensor.Undefined {
			return nil, fmt.Errorf("output %d: no iteration ran and its type is not known", out)
		}
		shape, rest := []int{0}, info.Shape
		if len(rest) > 0 {
			at, err := NormAxis(axis, len(rest))
			if err != nil {
				return nil, err
			}
			rest = slices.Delete(slices.Clone(rest), at, at+1)
		}
		for _, d := range rest {
			shape = append(shape, max(d.N, 0))
		}
		return c.New(info.DType, shape...)
	}
	first, ok := vs[0].(*tensor.Tensor)
	if !ok {
		return nil, fmt.Errorf("scan output %d is no tensor", out)
	}
	t, err := c.New(first.DType(), append([]int{len(vs)}, first.Shape()...)...)
	if err != nil {
		return nil, err
	}
	for i, v := range vs {
		e, ok := v.(*tensor.Tensor)
		if !ok || e.DType() != first.DType() || !slices.Equal(e.Shape(), first.Shape()) {
			return nil, fmt.Errorf("scan output %d: iteration %d gave %v, the first %s", out, i, v, first)
		}
		if e.DType() == tensor.String {
			copy(tensor.Data[string](t)[i*e.Len():], tensor.Data[string](e))
		} else {
			copy(t.Bytes()[i*len(e.Bytes()):], e.Bytes())
		}
	}
	return t, nil
}

// scanBodyIn: the states, then a slice of each scan input.
func scanBodyIn(n *Node, _ string, in, out []Info) []Info {
	outer := n.In
	if n.Since == 8 {
		outer = outer[min(1, len(outer)):]
	}
	states := len(outer) - int(n.Int("num_scan_inputs", 0))
	if states < 0 || states > len(outer) || n.Since == 8 {
		return make([]Info, len(outer)) // Compile refuses it, or it has a batch axis
	}
	if in != nil {
		return append(joinStates(nil, in[:states], out), in[states:]...)
	}
	in = withoutValues(slices.Clone(outer))
	for k := range in[states:] {
		x := &in[states+k]
		if !x.Ranked {
			continue
		}
		axis, err := NormAxis(listed(n, "scan_input_axes", k), len(x.Shape))
		if err != nil {
			*x = Info{}
			continue
		}
		x.Shape = slices.Delete(slices.Clone(x.Shape), axis, axis+1)
	}
	return in
}

// listed is the k-th number of an attribute that may be left out, or shorter.
func listed(n *Node, attr string, k int) int64 {
	if v := n.Ints(attr, nil); k < len(v) {
		return v[k]
	}
	return 0
}

func inferScan(n *Node) ([]Info, error) {
	out := make([]Info, len(n.Outputs))
	b := n.Bodies["body"]
	if b == nil {
		return out, nil
	}
	body, err := b.Infer(nil)
	if err != nil {
		return nil, err
	}
	scanned := int(n.Int("num_scan_inputs", 0))
	states, saved := len(n.In)-scanned, len(body)-savedBy(n, "saved")
	if scanned < 1 || states < 0 {
		return out, nil // Compile refuses it
	}
	steps := Unknown
	if x := n.In[states]; x.Ranked {
		if axis, err := NormAxis(listed(n, "scan_input_axes", 0), len(x.Shape)); err == nil {
			steps = x.Shape[axis]
		}
	}
	for i := range out {
		if i >= len(body) {
			break
		}
		b := body[i]
		switch {
		case i >= saved:
			out[i] = SequenceOf(b)
		case i < states:
			out[i] = join(n.Info(i), b)
		case b.Ranked:
			axis, err := NormAxis(listed(n, "scan_output_axes", i-states), len(b.Shape)+1)
			if err != nil {
				return nil, err
			}
			out[i] = Tensor(b.DType, slices.Insert(slices.Clone(b.Shape), axis, steps)...)
		default:
			out[i] = Unranked(b.DType)
		}
	}
	return out, nil
}

// scanOfBatch is opset 8's Scan, whose values have an axis of examples before that of the steps: for each example a Scan of later opsets. Where the
// first input says how many steps an example has, its states stay after those and zeros come out.
func scanOfBatch(g *Grad, n *Node) ([]*onnx.Value, error) {
	scanned, body := int(n.Int("num_scan_inputs", 0)), n.Attr("body")
	states := len(n.Inputs) - 1 - scanned
	if scanned < 1 || states < 0 || body == nil || body.G == nil || len(body.G.Inputs) != states+scanned || len(body.G.Outputs) != len(n.Outputs) {
		return nil, fmt.Errorf("num_scan_inputs %d does not suit %d inputs, %d outputs and the body", scanned, len(n.Inputs), len(n.Outputs))
	}
	lengths, ins := n.Inputs[0], slices.Clone(n.Inputs[1:])
	of := func(v *onnx.Value, axes int) Info { // what is known of v without its first axes
		if i := g.Info(v); i.Rank() >= axes {
			return Tensor(i.DType, i.Shape[axes:]...)
		}
		return Unranked(g.Info(v).DType)
	}
	example := g.inner("example")
	var rows []*onnx.Value
	for _, v := range ins {
		if v == nil {
			return nil, fmt.Errorf("an input is left out")
		}
		rows = append(rows, example.input("row", of(v, 1)))
	}
	n.DelAttr("body")
	if lengths == nil {
		attrs := []*onnx.Attribute{body, IntAttr("num_scan_inputs", int64(scanned)), IntsAttr("scan_input_directions", n.Ints("directions", make([]int64, scanned))...)}
		example.Graph.Outputs = slices.Clone(example.Node("Scan", len(n.Outputs), rows, attrs...))
	} else {
		ins = append(ins, lengths)
		length := example.Op("Squeeze", example.input("length", Tensor(tensor.Int64)))
		zero, one := example.Const(tensor.Scalar(int64(0))), example.Const(tensor.Scalar(int64(1)))
		at, last := example.Positions(rows[states], 0), example.Op("Sub", length, one)
		args := slices.Clone(rows[:states])
		for k, v := range rows[states:] { // past the end the last step stands, so that the body does not meet what fills the rest
			index := example.Op("Min", at, last)
			if listed(n, "directions", k) != 0 {
				index = example.Op("Max", example.Op("Sub", last, at), zero)
			}
			args = append(args, example.Op("Gather", v, index))
		}
		args = append(args, example.Op("Less", at, length))
		step := example.inner("step")
		var parts []*onnx.Value
		for k, v := range ins[:states+scanned] {
			axes := 1
			if k >= states {
				axes = 2
			}
			parts = append(parts, step.input("part", of(v, axes)))
		}
		on := step.input("on", Tensor(tensor.Bool))
		for i, v := range step.Inline(body.G, parts) {
			rest := step.Op("CastLike", step.Const(tensor.Scalar(float32(0))), v)
			if i < states {
				rest = parts[i]
			}
			step.Graph.Outputs = append(step.Graph.Outputs, step.Op("Where", on, v, rest))
		}
		if step.err != nil {
			return nil, step.err
		}
		masked := &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: step.Graph}
		example.Graph.Outputs = slices.Clone(example.Node("Scan", len(n.Outputs), args, masked, IntAttr("num_scan_inputs", int64(scanned+1))))
	}
	if example.err != nil {
		return nil, example.err
	}
	return g.Node("Scan", len(n.Outputs), ins, &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: example.Graph}, IntAttr("num_scan_inputs", int64(len(ins)))), nil
}

func compileScan(n *Node) (Kernel, error) {
	b := n.Bodies["body"]
	if b == nil {
		return nil, fmt.Errorf("attribute body must be a graph")
	}
	scanned := int(n.Int("num_scan_inputs", 0))
	states := len(n.Inputs) - scanned
	if scanned < 1 || states < 0 || b.NumInputs() != len(n.Inputs) || b.NumOutputs() < states || b.NumOutputs() < len(n.Outputs) {
		return nil, fmt.Errorf("num_scan_inputs %d does not suit %d inputs and a body that takes %d and gives %d", scanned, len(n.Inputs), b.NumInputs(), b.NumOutputs())
	}
	return func(c *Ctx) error {
		outs, err := scan(c, c.Ins, states)
		if err != nil {
			return err
		}
		for i := range c.Node.Outputs {
			c.SetOut(i, outs[i])
		}
		return nil
	}, nil
}

func scan(c *Ctx, in []tensor.Value, states int) ([]tensor.Value, error) {
	n, body := c.Node, c.Body("body")
	steps := -1
	axes := make([]int, len(in)-states)
	for k := range axes {
		t, ok := in[states+k].(*tensor.Tensor)
		if !ok || t.Rank() == 0 {
			return nil, fmt.Errorf("scan input %d has no axis to scan", k)
		}
		var err error
		if axes[k], err = NormAxis(listed(n, "scan_input_axes", k), t.Rank()); err != nil {
			return nil, err
		}
		if d := t.Shape()[axes[k]]; steps >= 0 && d != steps {
			return nil, fmt.Errorf("scan inputs have %d and %d steps", steps, d)
		}
		steps = t.Shape()[axes[k]]
	}
	state := append([]tensor.Value(nil), in[:states]...)
	scans := make([][]tensor.Value, body.NumOutputs()-states)
	for i := range steps {
		if err := c.Context.Err(); err != nil {
			return nil, err
		}
		args := append([]tensor.Value(nil), state...)
		for k, axis := range axes {
			j := i
			if listed(n, "scan_input_directions", k) != 0 {
				j = steps - 1 - i
			}
			t, err := slab(c, in[states+k].(*tensor.Tensor), axis, j)
			if err != nil {
				return nil, err
			}
			args = append(args, t)
		}
		outs, err := body.Run(c, args)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i, err)
		}
		copy(state, outs[:states])
		for k := range scans {
			scans[k] = append(scans[k], outs[states+k])
		}
	}
	outs := state
	saved := len(scans) - savedBy(n, "saved")
	for k := range scans {
		vs := scans[k]
		if k >= saved {
			outs = append(outs, sequenceOf(vs))
			continue
		}
		if listed(n, "scan_output_directions", k) != 0 {
			for a, b := 0, len(vs)-1; a < b; a, b = a+1, b-1 {
				vs[a], vs[b] = vs[b], vs[a]
			}
		}
		if states+k >= len(n.Outputs) {
			break
		}
		along := listed(n, "scan_output_axes", k)
		t, err := stack(c, vs, n, states+k, along)
		if err != nil {
			return nil, err
		}
		axis, err := NormAxis(along, t.Rank())
		if err != nil {
			return nil, err
		}
		if t, err = moveFirst(c, t, axis); err != nil {
			return nil, err
		}
		outs = append(outs, t)
	}
	return outs, nil
}

// slab is t[..., i, ...] along axis, as a copy without the axis.
func slab(c *Ctx, t *tensor.Tensor, axis, i int) (*tensor.Tensor, error) {
	shape, steps := slices.Delete(slices.Clone(t.Shape()), axis, axis+1), rowMajor(t.Shape())
	out, err := c.New(t.DType(), shape...)
	if err != nil {
		return nil, err
	}
	return out, strided(c.Pool, out, t, shape, rowMajor(shape), 0, slices.Delete(slices.Clone(steps), axis, axis+1), i*steps[axis])
}

// moveFirst moves the leading axis of t to position axis.
func moveFirst(c *Ctx, t *tensor.Tensor, axis int) (*tensor.Tensor, error) {
	if axis == 0 {
		return t, nil
	}
	first := func(v []int) []int { return slices.Insert(slices.Clone(v[1:]), axis, v[0]) }
	shape := first(t.Shape())
	out, err := c.New(t.DType(), shape...)
	if err != nil {
		return nil, err
	}
	return out, strided(c.Pool, out, t, shape, rowMajor(shape), 0, first(rowMajor(t.Shape())), 0)
}
