package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// The gradients of GridSample, AffineGrid and DeformConv in standard operators. What reads an image between its elements is written with all
// taps of all places beside each other, and differentiated.

// places is where an image is read.
type places struct {
	width   int // taps along each axis: see [gridSampler]
	padding string
	align   bool
	at      []*onnx.Value // by spatial axis, coordinates in elements: [N, P]
}

// sampled reads x, [N, C, dims…], at places: [N, C, P].
func (g *Grad) sampled(x *onnx.Value, p *places) *onnx.Value {
	rank := len(p.at)
	all := 1
	for range rank {
		if all *= p.width; all > maxTaps {
			g.fail(fmt.Errorf("%d spatial axes are too many", rank))
			return x
		}
	}
	var index, weight *onnx.Value // [N, P, width…]
	for a, place := range p.at {
		size := g.Dim(x, int64(2+a))
		at, w := g.axisTaps(p, place, size, g.DType(x))
		others := make([]int64, 0, rank)
		for b := range rank {
			if b != a {
				others = append(others, int64(2+b))
			}
		}
		if at, w = g.Op("Unsqueeze", at, g.Int64s(others...)), g.Op("Unsqueeze", w, g.Int64s(others...)); a == 0 {
			index, weight = at, w
		} else {
			index, weight = g.Op("Add", g.Op("Mul", index, size), at), g.Mul(weight, w)
		}
	}
	batch, channels, taps := g.Dims(x, 0), g.Dims(x, 1), g.Int64s(int64(all))
	count := g.Dims(p.at[0], 1)
	size := g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, g.spatial(g.Shape(x)))
	many := g.Op("Mul", count, taps)
	index = g.Op("Expand", g.Reshape(index, g.Concat(batch, g.Int64s(1), many)), g.Concat(batch, channels, many))
	read := g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", 2)}, g.Reshape(x, g.Concat(batch, channels, size)), index)
	read = g.Reshape(read, g.Concat(batch, channels, count, taps))
	return g.ReduceSum(g.Mul(read, g.Reshape(weight, g.Concat(batch, g.Int64s(1), count, taps))), false, 3)
}

// axisTaps is the elements, of an axis of that size, that a coordinate reads, and their weights in type d, both [N, P, width]. It is
// [gridSampler.axis], whose slopes come by what is written as a constant here.
func (g *Grad) axisTaps(p *places, x, size *onnx.Value, d tensor.DType) (at, weight *onnx.Value) {
	num := func(v float64) *onnx.Value { return g.Like(x, v) }
	integer := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
	wide := g.Cast(size, g.DType(x))
	last := g.Sub(wide, num(1))
	lo, hi := num(-0.5), g.Sub(wide, num(0.5))
	if p.align {
		lo, hi = num(0), last
	}
	if p.width == 1 {
		x = g.Op("Round", x)
	}
	if p.padding == "reflection" {
		x = g.Op("Clip", x, num(-maxWindow), num(maxWindow))
		span := g.Sub(hi, lo)
		twice, single := g.Add(span, span), g.Op("LessOrEqual", span, num(0))
		r := g.Op("Abs", g.Sub(x, lo))
		r = g.With("Mod", []*onnx.Attribute{IntAttr("fmod", 1)}, r, g.Op("Where", single, num(1), twice))
		r = g.Op("Where", g.Op("Greater", r, span), g.Sub(twice, r), r)
		r = g.Op("Where", single, lo, g.Add(lo, r))
		x = g.Op("Where", g.Op("Or", g.Op("Less", x, lo), g.Op("Greater", x, hi)), r, x)
	}
	if p.width == 2 && p.padding != "zeros" { // what is read does not change there
		x = g.Op("Where", g.Op("LessOrEqual", x, num(0)), num(0), x)
		x = g.Op("Where", g.Op("GreaterOrEqual", x, last), last, x)
	}
	x = g.Op("Clip", x, num(-maxWindow), num(maxWindow))
	base := g.Op("Floor", x)
	frac := g.Op("Unsqueeze", g.Sub(x, base), g.Int64s(-1))
	nowhere := 0.0 // its weights are not numbers
	if p.width == 1 {
		nowhere = -1
	}
	base = g.Cast(g.Op("Where", g.Op("IsNaN", base), num(nowhere), base), tensor.Int64)
	one := num(1)
	var ws []*onnx.Value
	first := int64(0)
	switch p.width {
	case 1:
		ws = []*onnx.Value{g.ExpandTo(one, frac)}
	case 2:
		ws = []*onnx.Value{g.Sub(one, frac), frac}
	default:
		first = -1
		const a = -0.75
		near := func(v *onnx.Value) *onnx.Value {
			return g.Add(g.Mul(g.Mul(g.Sub(g.Mul(num(a+2), v), num(a+3)), v), v), one)
		}
		far := func(v *onnx.Value) *onnx.Value {
			return g.Sub(g.Mul(g.Add(g.Mul(g.Sub(g.Mul(num(a), v), num(5*a)), v), num(8*a)), v), num(4*a))
		}
		ws = []*onnx.Value{far(g.Add(frac, one)), near(frac), near(g.Sub(one, frac)), far(g.Sub(num(2), frac))}
	}
	weight = g.Cast(g.Node("Concat", 1, ws, IntAttr("axis", -1))[0], d)
	offsets := make([]int64, p.width)
	for k := range offsets {
		offsets[k] = first + int64(k)
	}
	at = g.Op("Add", g.Op("Unsqueeze", base, g.Int64s(-1)), g.Int64s(offsets...))
	zero, most := integer(0), g.Op("Sub", size, integer(1))
	switch p.padding {
	case "zeros":
		inside := g.Op("And", g.Op("GreaterOrEqual", at, zero), g.Op("Less", at, size))
		weight = g.Op("Where", inside, weight, g.Like(weight, 0))
	case "reflection":
		if p.align {
			period := g.Op("Max", g.Op("Mul", most, integer(2)), integer(1))
			at = g.Op("Mod", g.Op("Abs", at), period)
			at = g.Op("Where", g.Op("Greater", at, most), g.Op("Sub", period, at), at)
		} else { // between the elements
			period := g.Op("Mul", size, integer(2))
			at = g.Op("Where", g.Op("Less", at, zero), g.Op("Sub", g.Op("Neg", at), integer(1)), at)
			at = g.Op("Mod", at, period)
			at = g.Op("Where", g.Op("Greater", at, most), g.Op("Sub", g.Op("Sub", period, at), integer(1)), at)
		}
	}
	return g.Op("Max", g.Op("Min", at, most), zero), weight
}

// gridSampled is GridSample of x at grid.
func (g *Grad) gridSampled(n *Node, x, grid *onnx.Value) (*onnx.Value, error) {
	width, padding, err := gridModes(n)
	if err != nil {
		return nil, err
	}
	rank := g.Rank(grid) - 2
	if rank < 1 || g.Rank(x) != rank+2 {
		return nil, fmt.Errorf("an input of %v does not suit a grid of %v", g.Info(x).Shape, g.Info(grid).Shape)
	}
	p := &places{width: width, padding: padding, align: n.Int("align_corners", 0) != 0}
	shape := g.Shape(grid)
	out := g.Op("Slice", shape, g.Int64s(1), g.Int64s(-1))
	list := g.Reshape(grid, g.Concat(g.Dims(grid, 0), g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, out), g.Int64s(int64(rank))))
	for a := range rank { // which the grid lists from the last axis to the first
		v := g.With("Gather", []*onnx.Attribute{IntAttr("axis", 2)}, list, g.Const(tensor.Scalar(int64(rank-1-a))))
		size := g.Cast(g.Dim(x, int64(2+a)), g.DType(grid))
		one, two := g.Like(grid, 1), g.Like(grid, 2)
		if v = g.Add(v, one); p.align {
			v = g.Mul(g.Div(v, two), g.Sub(size, one))
		} else {
			v = g.Div(g.Sub(g.Mul(v, size), one), two)
		}
		p.at = append(p.at, v)
	}
	return g.Reshape(g.sampled(x, p), g.Concat(g.Dims(x, 0, 1), out)), nil
}

// portableGridGradX differentiates what does not hang on X's elements at zeros.
func portableGridGradX(g *Grad, n *Node) ([]*onnx.Value, error) {
	return g.gridGradient(n, []*onnx.Value{g.Fill(n.Inputs[0], n.Inputs[2], 0), n.Inputs[1]}, 0)
}

func portableGridGradGrid(g *Grad, n *Node) ([]*onnx.Value, error) {
	return g.gridGradient(n, n.Inputs[1:3], 1)
}

func (g *Grad) gridGradient(n *Node, in []*onnx.Value, by int) ([]*onnx.Value, error) {
	return g.composed(in, n.Inputs[:1], []int{by}, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		y, err := g.gridSampled(n, in[0], in[1])
		if err != nil {
			g.fail(err)
		}
		return []*onnx.Value{y}
	})
}

// portableAffineGridGrad multiplies by the positions, which are the grid of the identity.
func portableAffineGridGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, size := n.Inputs[0], g.Cast(n.Inputs[1], tensor.Int64)
	r := g.Rank(dy) - 2
	if r < 1 {
		return nil, fmt.Errorf("a gradient of %v is none of a grid", g.Info(dy).Shape)
	}
	theta := make([]float64, r*(r+1))
	for i := range r {
		theta[i*(r+1)+i] = 1
	}
	identity := g.Cast(g.Const(tensor.New(theta, 1, r, r+1)), g.DType(dy))
	base := g.With("AffineGrid", n.Attrs, identity, g.Concat(g.Int64s(1, 1), g.Tail(size, 2)))
	base = g.Op("Reshape", base, g.Int64s(-1, int64(r)))
	base = g.Op("Pad", base, g.Int64s(0, 1), g.Like(dy, 1), g.Int64s(1))
	places := g.Reshape(dy, g.Concat(g.Dims(dy, 0), g.Dims(base, 0), g.Int64s(int64(r))))
	return []*onnx.Value{g.MatMul(g.Transpose(places), base)}, nil
}

// portableDeformConvGrad differentiates the node written as a product with columns that are read between X's elements.
func portableDeformConvGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	in := make([]*onnx.Value, 4)
	var wrt, outs []int
	for i := range in {
		if in[i] = n.Input(1 + i); in[i] != nil && n.Output(i) != nil {
			wrt, outs = append(wrt, i), append(outs, i)
		}
	}
	w, group, err := g.windowOf(n, in[0])
	if err != nil {
		return nil, err
	}
	groups := n.Int("offset_group", 1)
	ds, err := g.composed(in, n.Inputs[:1], wrt, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		return []*onnx.Value{g.deformConv(w, group, groups, in, g.Shape(n.Inputs[0]))}
	})
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, len(n.Outputs))
	for i, d := range ds {
		dx[outs[i]] = d
	}
	return dx, nil
}

// deformConv is DeformConv without a bias: of X, W, the offsets and the mask, which may be nil, to that shape.
func (g *Grad) deformConv(w *window, group, groups int64, in []*onnx.Value, shape *onnx.Value) *onnx.Value {
	x, weight, offset := in[0], in[1], in[2]
	rank := g.Rank(x) - 2
	one := g.Int64s(1)
	prod := func(list *onnx.Value) *onnx.Value {
		return g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, list)
	}
	batch, kernel, out := g.Dims(x, 0), g.spatial(g.Shape(weight)), g.spatial(shape)
	taps, pixels := prod(kernel), prod(out)
	parts := g.Op("Mul", batch, g.Int64s(groups)) // each group of channels is an image of its own
	images := g.Reshape(x, g.Concat(parts, g.Op("Div", g.Dims(x, 1), g.Int64s(groups)), g.spatial(g.Shape(x))))
	moved := g.Reshape(offset, g.Concat(parts, taps, g.Int64s(int64(rank)), pixels))
	begin, _ := g.padding(w, g.spatial(g.Shape(x)), kernel)
	// counted is the numbers along an axis of all elements of a block of those sizes, times by.
	counted := func(sizes *onnx.Value, axis, by int) *onnx.Value {
		scalar := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
		line := g.Op("Range", scalar(0), g.Op("Gather", sizes, scalar(int64(axis))), scalar(1))
		if after := axesFrom(1, rank-axis); len(after) > 0 {
			line = g.Op("Unsqueeze", line, g.Int64s(after...))
		}
		return g.Flat(g.Op("Expand", g.Op("Mul", line, scalar(int64(by))), sizes))
	}
	p := &places{width: 2, padding: "zeros"}
	many := g.Op("Mul", taps, pixels)
	for a := range rank {
		tap := g.Op("Sub", counted(kernel, a, w.dil[a]), g.Op("Gather", begin, g.Int64s(int64(a))))
		at := g.Op("Add", g.Op("Unsqueeze", tap, one), counted(out, a, w.stride[a])) // [taps, pixels]
		by := g.With("Gather", []*onnx.Attribute{IntAttr("axis", 2)}, moved, g.Const(tensor.Scalar(int64(a))))
		p.at = append(p.at, g.Reshape(g.Add(by, g.Cast(at, g.DType(x))), g.Concat(parts, many)))
	}
	cols := g.sampled(images, p)
	if in[3] != nil {
		cols = g.Mul(cols, g.Reshape(in[3], g.Concat(parts, one, many)))
	}
	depth := g.Op("Mul", g.Dims(weight, 1), taps)
	cols = g.Reshape(cols, g.Concat(batch, g.Int64s(group), depth, pixels))
	rows := g.Reshape(weight, g.Concat(g.Int64s(group), g.Op("Div", g.Dims(weight, 0), g.Int64s(group)), depth))
	return g.Reshape(g.MatMul(rows, cols), shape)
}
