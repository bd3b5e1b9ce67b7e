package ops

import (
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// portableAttentionGrad differentiates the node written as products and a softmax of all scores.
func portableAttentionGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	s, err := attentionSpecOf(n)
	if err != nil {
		return nil, err
	}
	own := g.DType(n.Inputs[0])
	wide := g.normWide(n.Inputs[0])
	in, dy := make([]*onnx.Value, 8), make([]*onnx.Value, 4)
	for i := range 7 {
		in[i] = g.widened(n.Input(i), own, wide)
	}
	for i := range dy {
		dy[i] = g.widened(n.Input(7+i), own, wide)
	}
	at := []int{0, 1, 2, 4, 5, 7} // input 7 is added to the scores, so that its gradient is theirs
	var wrt, outs []int
	for i, k := range at[:min(len(at), len(n.Outputs))] {
		if n.Outputs[i] == nil {
			continue
		}
		if k == 7 {
			q := g.heads(in[0], s.qHeads)
			keys := g.Dims(g.heads(in[1], s.kvHeads), 2)
			if in[4] != nil {
				keys = g.Op("Add", keys, g.Dims(in[4], 2))
			}
			in[k] = g.Fill(q, g.Concat(g.Dims(q, 0, 1, 2), keys), 0)
		}
		wrt, outs = append(wrt, k), append(outs, i)
	}
	ds, err := g.composed(in, dy, wrt, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		y := g.attention(s, in)
		if dy[3] != nil && s.mode == 2 { // what is masked is a constant
			y[3] = g.Op("Where", g.Op("IsInf", y[3]), g.Like(y[3], 0), y[3])
		}
		return y
	})
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(n.Outputs))
	for i, d := range ds {
		dx[outs[i]] = g.Cast(d, own)
	}
	return dx, g.err
}

// widened is v in the type wide if it is of the type own.
func (g *Grad) widened(v *onnx.Value, own, wide tensor.DType) *onnx.Value {
	if v == nil || g.DType(v) != own {
		return v
	}
	return g.Cast(v, wide)
}

// heads is v as [B,H,S,D], which it is or else [B,S,H·D].
func (g *Grad) heads(v *onnx.Value, heads int) *onnx.Value {
	if g.Rank(v) == 4 {
		return v
	}
	return g.Transpose(g.Op("Reshape", v, g.Int64s(0, 0, int64(heads), -1)), 0, 2, 1, 3)
}

// attention is Attention's outputs by standard operators: of its inputs, of which past keys and values, the mask and the lengths may be nil, and
// what is added to the scores, if there is such.
func (g *Grad) attention(s *attentionSpec, in []*onnx.Value) []*onnx.Value {
	flat := g.Rank(in[0]) == 3
	q, k, v := g.heads(in[0], s.qHeads), g.heads(in[1], s.kvHeads), g.heads(in[2], s.kvHeads)
	if in[4] != nil {
		along := IntAttr("axis", 2)
		k, v = g.Node("Concat", 1, []*onnx.Value{in[4], k}, along)[0], g.Node("Concat", 1, []*onnx.Value{in[5], v}, along)[0]
	}
	var scale *onnx.Value
	if s.scale != 0 {
		scale = g.Like(q, s.scale)
	} else {
		scale = g.Op("Reciprocal", g.Op("Sqrt", g.Cast(g.Dim(q, 3), g.DType(q))))
	}
	// Heads that share keys and values are rows one after the other.
	shared := func(x *onnx.Value) *onnx.Value {
		rows := g.Op("Mul", g.Op("Div", g.Dims(q, 1), g.Dims(k, 1)), g.Dims(q, 2))
		return g.Reshape(x, g.Concat(g.Dims(k, 0, 1), rows, g.Dims(x, 3)))
	}
	var stages [4]*onnx.Value
	scores := g.MatMul(shared(g.Mul(q, scale)), g.Transpose(k))
	scores = g.Reshape(scores, g.Concat(g.Dims(q, 0, 1, 2), g.Dims(k, 2)))
	stages[0] = scores
	if s.softcap > 0 {
		cap := g.Like(q, s.softcap)
		scores = g.Mul(g.Op("Tanh", g.Div(scores, cap)), cap)
	}
	stages[1] = scores
	least := g.Like(q, math.Inf(-1))
	keep := g.attended(s, q, k, in)
	if mask := in[3]; mask != nil {
		// One that is shorter takes the last keys away.
		missing := g.Op("Sub", g.Dims(k, 2), g.Dims(mask, -1))
		kept := g.DType(mask) == tensor.Bool
		none := least
		if kept {
			none = g.Const(tensor.Scalar(false))
		}
		mask = g.Op("Pad", mask, g.Concat(g.Int64s(0), missing), none, g.Int64s(-1))
		switch {
		case !kept:
			scores = g.Add(scores, mask)
		case keep == nil:
			keep = mask
		default:
			keep = g.Op("And", keep, mask)
		}
	}
	if len(in) > 7 && in[7] != nil {
		scores = g.Add(scores, in[7])
	}
	if keep != nil {
		scores = g.Op("Where", keep, scores, least)
	}
	stages[2] = scores
	softmax := func(x *onnx.Value) *onnx.Value { return g.With("Softmax", []*onnx.Attribute{IntAttr("axis", -1)}, x) }
	if keep == nil && in[3] == nil {
		stages[3] = softmax(scores)
	} else { // rows without a key to look at give zeros
		top := g.With("ReduceMax", []*onnx.Attribute{IntAttr("keepdims", 1)}, scores, g.Int64s(-1))
		dead, zero := g.Op("Equal", top, least), g.Like(q, 0)
		stages[3] = g.Op("Where", dead, zero, softmax(g.Op("Where", dead, zero, scores)))
	}
	y := g.MatMul(shared(stages[3]), v)
	y = g.Reshape(y, g.Concat(g.Dims(q, 0, 1, 2), g.Dims(v, 3)))
	if flat {
		y = g.Transpose(y, 0, 2, 1, 3)
		y = g.Reshape(y, g.Concat(g.Dims(y, 0, 1), g.Op("Mul", g.Dims(y, 2), g.Dims(y, 3))))
	}
	return []*onnx.Value{y, k, v, stages[s.mode]}
}

// attended is which keys each row may look at but for the mask, to be broadcast to [B,H,S,T], nil: all of them. See [attentionProblem.span].
func (g *Grad) attended(s *attentionSpec, q, k *onnx.Value, in []*onnx.Value) *onnx.Value {
	lengths := in[6]
	if lengths == nil && !s.causal && s.left < 0 && s.right < 0 {
		return nil
	}
	key, rows := g.Positions(k, 2), g.Dims(q, 2)
	past := g.Int64s(0)
	if in[4] != nil {
		past = g.Dims(in[4], 2)
	}
	var keep *onnx.Value
	also := func(c *onnx.Value) {
		if keep == nil {
			keep = c
		} else {
			keep = g.Op("And", keep, c)
		}
	}
	first := past // the key of the first row: one number, or one for each example
	if lengths != nil {
		lengths = g.Op("Reshape", lengths, g.Int64s(-1, 1, 1, 1))
		lengths = g.Op("Min", g.Op("Max", lengths, g.Int64s(0)), g.Dims(k, 2))
		also(g.Op("Less", key, lengths))
		first = g.Op("Sub", lengths, rows)
		if in[4] != nil {
			first = g.Op("Where", g.Op("Greater", past, g.Int64s(0)), past, first)
		}
	}
	at := g.Op("Add", first, g.Op("Unsqueeze", g.Positions(q, 2), g.Int64s(1)))
	if s.causal {
		also(g.Op("LessOrEqual", key, at))
	}
	if s.left >= 0 {
		also(g.Op("GreaterOrEqual", key, g.Op("Sub", at, g.Int64s(int64(s.left)))))
	}
	if s.right >= 0 {
		also(g.Op("LessOrEqual", key, g.Op("Add", at, g.Int64s(int64(s.right)))))
	}
	return keep
}
