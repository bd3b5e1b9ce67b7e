package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// portableRNNGrad differentiates the node written as a Scan over its steps.
func portableRNNGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	n.SetOutput(0, nil) // the tape, that nothing reads
	spec, err := rnnSpecOf(n, n.Str("kind", ""))
	if err != nil {
		return nil, err
	}
	in := n.Inputs[:8]
	var wrt, outs []int
	for i, k := range []int{0, 1, 2, 3, 5, 6, 7} {
		switch {
		case n.Outputs[1+i] == nil:
		case in[k] == nil:
			return nil, fmt.Errorf("output %d is the gradient of what is left out", 1+i)
		default:
			wrt, outs = append(wrt, k), append(outs, 1+i)
		}
	}
	ds, err := g.composed(in, n.Inputs[8:11], wrt, func(g *Grad, in []*onnx.Value) []*onnx.Value { return g.recurrent(spec, in) })
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(n.Outputs))
	for i, d := range ds {
		dx[outs[i]] = d
	}
	return dx, nil
}

// recurrent is RNN, LSTM or GRU as standard operators: Y, Y_h and, of LSTM, Y_c.
func (g *Grad) recurrent(s *rnnSpec, in []*onnx.Value) []*onnx.Value {
	x, lens := in[0], in[4]
	if s.batchFirst {
		x = g.Transpose(x, 1, 0, 2)
	}
	var active *onnx.Value // whether a row has a step: steps × batch × 1
	if lens != nil {
		steps := g.Op("Unsqueeze", g.Positions(x, 0), g.Int64s(1))
		active = g.Op("Unsqueeze", g.Op("Less", steps, g.Cast(lens, tensor.Int64)), g.Int64s(2))
	}
	states := 1
	if s.kind == "LSTM" {
		states = 2
	}
	// part is what direction d has of input i, whose directions are along axis.
	part := func(i, d int, axis int64) *onnx.Value {
		if in[i] == nil {
			return nil
		}
		return g.With("Gather", []*onnx.Attribute{IntAttr("axis", axis)}, in[i], g.Const(tensor.Scalar(int64(d))))
	}
	stateAxis := int64(0)
	if s.batchFirst {
		stateAxis = 1
	}
	var ys [3][]*onnx.Value
	for d := range s.dirs {
		c := &cell{rnnSpec: s, acts: s.acts[d], r: g.Transpose(part(2, d, 0)), peep: part(7, d, 0)}
		bias := part(3, d, 0)
		xw := g.MatMul(x, g.Transpose(part(1, d, 0)))
		if bias != nil {
			cut := g.pieces(bias, 2, s.gates*s.hidden)
			c.recBias = cut[1]
			xw = g.Add(xw, cut[0])
		}
		var start []*onnx.Value
		for k := range states {
			h := part(5+k, d, stateAxis)
			if h == nil {
				h = g.Fill(x, g.Concat(g.Dims(x, 1), g.Int64s(int64(s.hidden))), 0)
			}
			start = append(start, h)
		}
		out := g.steps(c, start, xw, active, s.reverse[d])
		ys[0] = append(ys[0], g.Op("Unsqueeze", out[states], g.Int64s(1)))
		for k := range states {
			ys[1+k] = append(ys[1+k], g.Op("Unsqueeze", out[k], g.Int64s(stateAxis)))
		}
	}
	outs := make([]*onnx.Value, 1+states)
	for i := range outs {
		axis := stateAxis
		if i == 0 {
			axis = 1
		}
		outs[i] = g.Node("Concat", 1, ys[i], IntAttr("axis", axis))[0]
	}
	if s.batchFirst {
		outs[0] = g.Transpose(outs[0], 2, 0, 1, 3)
	}
	return outs
}

// pieces is v in parts of that size along its last axis.
func (g *Grad) pieces(v *onnx.Value, parts, size int) []*onnx.Value {
	sizes := make([]int64, parts)
	for i := range sizes {
		sizes[i] = int64(size)
	}
	return slices.Clone(g.Node("Split", parts, []*onnx.Value{v, g.Int64s(sizes...)}, IntAttr("axis", -1)))
}

// steps is a Scan of c over the steps of xw, the inputs' share of the gates: the last states and the outputs of all steps.
func (g *Grad) steps(c *cell, start []*onnx.Value, xw, active *onnx.Value, reverse bool) []*onnx.Value {
	scanned := []*onnx.Value{xw}
	if active != nil {
		scanned = append(scanned, active)
	}
	last, ys := g.scan(start, scanned, 0, reverse, func(g *Grad, before, parts []*onnx.Value) (after, results []*onnx.Value) {
		after = c.step(g, parts[0], before)
		y := after[0]
		if active != nil {
			y = g.Op("Where", parts[1], y, g.Like(y, 0))
			for i := range after {
				after[i] = g.Op("Where", parts[1], after[i], before[i])
			}
		}
		return after, []*onnx.Value{y}
	})
	return append(last, ys...)
}

// scan is a Scan of step over the parts of what is scanned along axis, the last first if reverse: the states after it, and the results of all
// steps, stacked along that axis in the order of the parts.
func (g *Grad) scan(states, scanned []*onnx.Value, axis int, reverse bool, step func(g *Grad, before, parts []*onnx.Value) (after, results []*onnx.Value)) (last, stacked []*onnx.Value) {
	b := g.inner("step")
	var before, parts []*onnx.Value
	for _, v := range states {
		before = append(before, b.input("state", g.Info(v)))
	}
	var steps Dim
	for _, v := range scanned {
		part := g.Info(v)
		if !part.Ranked || axis >= len(part.Shape) {
			g.fail(fmt.Errorf("the shape of %q is not known", v.Name))
			return make([]*onnx.Value, len(states)), make([]*onnx.Value, 1)
		}
		steps = part.Shape[axis]
		part.Shape = slices.Delete(slices.Clone(part.Shape), axis, axis+1)
		parts = append(parts, b.input("part", part))
	}
	after, results := step(b, before, parts)
	for i, v := range results {
		if slices.Contains(after, v) {
			results[i] = b.Op("Identity", v)
		}
	}
	b.Graph.Outputs = slices.Concat(after, results)
	g.fail(b.err)
	list := func(name string, count int, v int64) *onnx.Attribute {
		return IntsAttr(name, slices.Repeat([]int64{v}, count)...)
	}
	attrs := []*onnx.Attribute{{Name: "body", Type: onnx.AttrGraph, G: b.Graph}, IntAttr("num_scan_inputs", int64(len(scanned)))}
	if axis != 0 {
		attrs = append(attrs, list("scan_input_axes", len(scanned), int64(axis)), list("scan_output_axes", len(results), int64(axis)))
	}
	if reverse {
		attrs = append(attrs, list("scan_input_directions", len(scanned), 1), list("scan_output_directions", len(results), 1))
	}
	outs := slices.Clone(g.Node("Scan", len(states)+len(results), slices.Concat(states, scanned), attrs...))
	last, stacked = outs[:len(states):len(states)], outs[len(states):]
	for i, v := range last {
		g.Infos[v] = b.Info(before[i])
	}
	for i, v := range stacked {
		info := b.Info(results[i]).WithoutValue()
		info.Shape = slices.Insert(slices.Clone(info.Shape), axis, steps)
		g.Infos[v] = info
	}
	return last, stacked
}

// cell is one direction's step.
type cell struct {
	*rnnSpec
	acts             []activation
	r, recBias, peep *onnx.Value // r is transposed: hidden × gates·hidden
}

// step is the states after a step, of which the first is the output: from xw, the input's share of the gates, and the states before.
func (c *cell) step(g *Grad, xw *onnx.Value, before []*onnx.Value) []*onnx.Value {
	h := before[0]
	bias := func(v, b *onnx.Value) *onnx.Value {
		if b == nil {
			return v
		}
		return g.Add(v, b)
	}
	one := g.Like(xw, 1)
	mix := func(a, x, y *onnx.Value) *onnx.Value { // a of y, the rest of x
		return g.Add(g.Mul(g.Sub(one, a), x), g.Mul(a, y))
	}
	if c.kind == "GRU" {
		var rb [2]*onnx.Value
		r := g.Node("Split", 2, []*onnx.Value{c.r, g.Int64s(2*int64(c.hidden), int64(c.hidden))}, IntAttr("axis", -1))
		if c.recBias != nil {
			copy(rb[:], g.Node("Split", 2, []*onnx.Value{c.recBias, g.Int64s(2*int64(c.hidden), int64(c.hidden))}, IntAttr("axis", -1)))
		}
		x := g.Node("Split", 2, []*onnx.Value{xw, g.Int64s(2*int64(c.hidden), int64(c.hidden))}, IntAttr("axis", -1))
		zr := g.pieces(g.activate(c.acts[0], bias(g.Add(x[0], g.MatMul(h, r[0])), rb[0]), c.clip), 2, c.hidden)
		var rec *onnx.Value
		if c.linearReset {
			rec = g.Mul(zr[1], bias(g.MatMul(h, r[1]), rb[1]))
		} else {
			rec = bias(g.MatMul(g.Mul(zr[1], h), r[1]), rb[1])
		}
		return []*onnx.Value{mix(zr[0], g.activate(c.acts[1], g.Add(x[1], rec), c.clip), h)}
	}
	gates := bias(g.Add(xw, g.MatMul(h, c.r)), c.recBias)
	if c.kind == "RNN" {
		return []*onnx.Value{g.activate(c.acts[0], gates, c.clip)}
	}
	p := g.pieces(gates, 4, c.hidden) // i, o, f, c
	was := before[1]
	var peep []*onnx.Value // i, o, f
	peephole := func(i int, state *onnx.Value) {
		if c.peep != nil {
			p[i] = g.Add(p[i], g.Mul(peep[i], state))
		}
	}
	if c.peep != nil {
		peep = g.pieces(c.peep, 3, c.hidden)
	}
	peephole(0, was)
	in := g.activate(c.acts[0], p[0], c.clip)
	var forget *onnx.Value
	if c.inputForget {
		forget = g.Sub(one, in)
	} else {
		peephole(2, was)
		forget = g.activate(c.acts[0], p[2], c.clip)
	}
	state := g.Add(g.Mul(forget, was), g.Mul(in, g.activate(c.acts[1], p[3], c.clip)))
	peephole(1, state)
	return []*onnx.Value{g.Mul(g.activate(c.acts[0], p[1], c.clip), g.activate(c.acts[2], state, c.clip)), state}
}

// activate is a function that a recurrent node names, of v clipped.
func (g *Grad) activate(a activation, v *onnx.Value, clip float64) *onnx.Value {
	if clip > 0 {
		v = g.Op("Clip", v, g.Like(v, -clip), g.Like(v, clip))
	}
	alpha := FloatAttr("alpha", float32(a.alpha))
	with := func(op string, attrs ...*onnx.Attribute) *onnx.Value { return g.With(op, attrs, v) }
	switch a.name {
	case "tanh":
		return with("Tanh")
	case "sigmoid":
		return with("Sigmoid")
	case "relu":
		return with("Relu")
	case "softplus":
		return with("Softplus")
	case "softsign":
		return with("Softsign")
	case "leakyrelu":
		return with("LeakyRelu", alpha)
	case "thresholdedrelu":
		return with("ThresholdedRelu", alpha)
	case "elu":
		return with("Elu", alpha)
	case "affine", "hardsigmoid":
		line := g.Add(g.Mul(v, g.Like(v, a.alpha)), g.Like(v, a.beta))
		if a.name == "hardsigmoid" { // whose attributes would be rounded to float32
			return g.Op("Clip", line, g.Like(v, 0), g.Like(v, 1))
		}
		return line
	case "scaledtanh":
		return g.Mul(g.Op("Tanh", g.Mul(v, g.Like(v, a.beta))), g.Like(v, a.alpha))
	}
	g.fail(fmt.Errorf("activation %q is not known", a.name))
	return v
}
