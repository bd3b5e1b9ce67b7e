package ops

import (
	"errors"
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	register(
		Op{Name: "Concat", Since: []int{1, 4, 11, 13}, MinIn: 1, MaxIn: -1, Infer: inferConcat, Moves: []int{-1}, Compile: compileConcat, Grad: gradConcat},
		Op{Name: "Split", Since: []int{1, 2, 11, 13, 18}, MinIn: 1, MaxIn: 2, MinOut: 1, MaxOut: -1, Infer: inferSplit, Moves: []int{0}, Compile: compileSplit, Grad: gradSplit},
	)
}

func concatAxis(n *Node, rank int) (int, error) {
	if n.Attr("axis") == nil && n.Since >= 4 {
		return 0, errors.New("no axis is given")
	}
	return n.Axis("axis", 1, rank)
}

func inferConcat(n *Node) ([]Info, error) {
	var out Info
	out.DType = n.Info(0).DType
	rank := -1
	for i, in := range n.In {
		if out.DType == tensor.Undefined {
			out.DType = in.DType
		}
		if in.Ranked && rank >= 0 && len(in.Shape) != rank {
			return nil, fmt.Errorf("input %d has rank %d, others %d", i, len(in.Shape), rank)
		}
		if in.Ranked {
			rank = len(in.Shape)
		}
	}
	if rank < 0 {
		return []Info{out}, nil
	}
	axis, err := concatAxis(n, rank)
	if err != nil {
		return nil, err
	}
	out.Ranked, out.Shape = true, unknownDims(rank)
	sum := D(0)
	for i, in := range n.In {
		if !in.Ranked {
			sum = Unknown
			continue
		}
		for k, d := range in.Shape {
			switch {
			case k == axis:
				sum = sum.Add(d)
			case d.Known() && out.Shape[k].Known() && d.N != out.Shape[k].N:
				return nil, fmt.Errorf("dimension %d of input %d is %d, of others %d", k, i, d.N, out.Shape[k].N)
			case d.Known(), alike(out.Shape[k], Unknown):
				out.Shape[k] = d
			}
		}
	}
	out.Shape[axis] = sum
	return []Info{out}, nil
}

// joint is an output's shape, and where each input goes in it.
type joint struct {
	shape []int
	parts []*movement
}

func planConcat(c *Ctx) (*joint, error) {
	x := c.In(0)
	axis, err := concatAxis(c.Node, x.Rank())
	if err != nil {
		return nil, err
	}
	j := &joint{shape: slices.Clone(x.Shape())}
	j.shape[axis] = 0
	for i := range c.Ins {
		t, err := tensorIn(c, i)
		if err != nil {
			return nil, err
		}
		if t.Rank() != len(j.shape) {
			return nil, fmt.Errorf("input %d has rank %d, others %d", i, t.Rank(), len(j.shape))
		}
		for k, d := range t.Shape() {
			if k == axis {
				j.shape[k] += d
			} else if d != j.shape[k] {
				return nil, fmt.Errorf("dimension %d of input %d is %d, of others %d", k, i, d, j.shape[k])
			}
		}
	}
	ds, at := rowMajor(j.shape), 0
	for i := range c.Ins {
		shape := c.In(i).Shape()
		j.parts = append(j.parts, planMovement(shape, ds, at*ds[axis], rowMajor(shape), 0))
		at += shape[axis]
	}
	return j, nil
}

func compileConcat(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		j, err := Keep(c, func() (*joint, error) { return planConcat(c) })
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), j.shape...)
		if err != nil {
			return err
		}
		for i, m := range j.parts {
			if err := m.run(c.Pool, y, c.In(i)); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// gradConcat slices dy: by numbers where the lengths are known, else by a Split of lengths taken at run time.
func gradConcat(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	rank := g.Rank(n.Inputs[0])
	if g.Err() != nil {
		return nil, g.Err()
	}
	axis, err := concatAxis(n, rank)
	if err != nil {
		return nil, err
	}
	if len(n.Inputs) == 1 {
		return []*onnx.Value{dy[0]}, nil
	}
	lengths := make([]int64, len(n.Inputs))
	parts := make([]*onnx.Value, len(n.Inputs))
	known := true
	for i, v := range n.Inputs {
		if in := g.Info(v); in.Ranked && in.Shape[axis].Known() {
			lengths[i] = int64(in.Shape[axis].N)
		} else {
			known = false
		}
	}
	split := g.Int64s(lengths...)
	if !known {
		for i, v := range n.Inputs {
			parts[i] = g.With("Shape", []*onnx.Attribute{IntAttr("start", int64(axis)), IntAttr("end", int64(axis+1))}, v)
		}
		split = g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, parts...)
	}
	return g.Node("Split", len(n.Inputs), []*onnx.Value{dy[0], split}, IntAttr("axis", int64(axis))), nil
}

// splitSizes is the lengths of the parts of a dimension of d.
func splitSizes(n *Node, d int, split []int64, given bool) ([]int, error) {
	outs := len(n.Outputs)
	sizes := make([]int, outs)
	if given {
		if len(split) != outs {
			return nil, fmt.Errorf("split %v gives %d parts for %d outputs", split, len(split), outs)
		}
		sum := int64(0)
		for i, s := range split {
			if s < 0 || s > int64(d)-sum {
				return nil, fmt.Errorf("split %v does not divide a dimension of %d", split, d)
			}
			sum += s
			sizes[i] = int(s)
		}
		if sum != int64(d) {
			return nil, fmt.Errorf("split %v does not divide a dimension of %d", split, d)
		}
		return sizes, nil
	}
	if n.Since >= 18 {
		if k := n.Int("num_outputs", int64(outs)); k != int64(outs) {
			return nil, fmt.Errorf("num_outputs is %d, the node has %d outputs", k, outs)
		}
	} else if d%outs != 0 {
		return nil, fmt.Errorf("a dimension of %d does not divide into %d equal parts", d, outs)
	}
	chunk := (d + outs - 1) / outs
	for i := range sizes {
		sizes[i] = max(0, min(chunk, d-i*chunk))
	}
	return sizes, nil
}

// splitDims is the sizes of equal parts of a dimension that is no number.
func splitDims(n *Node, d Dim) []Dim {
	parts := make([]Dim, len(n.Outputs))
	chunk := d.FloorDiv(D(len(parts)))
	if n.Since >= 18 {
		chunk = d.CeilDiv(D(len(parts)))
	}
	for i := range parts {
		parts[i] = chunk
		if n.Since >= 18 && i > 0 { // the last ones may be shorter, or empty
			parts[i] = d.Sub(chunk.Mul(D(i))).Min(chunk).Max(D(0))
		}
	}
	return parts
}

func inferSplit(n *Node) ([]Info, error) {
	in := n.Info(0)
	out := make([]Info, len(n.Outputs))
	for i := range out {
		out[i] = Unranked(in.DType)
	}
	if !in.Ranked {
		return out, nil
	}
	axis, err := n.Axis("axis", 0, len(in.Shape))
	if err != nil {
		return nil, err
	}
	split, given, known, err := n.IntsInput("split", 1, 13)
	if n.Since == 1 && n.Has(1) {
		given = true
		split, known, err = constInts(n, 1)
	}
	if err != nil {
		return nil, err
	}
	var parts []Dim
	if given {
		if parts = numbers(split); !known {
			parts = n.Info(1).elements()
		}
	} else {
		parts = splitDims(n, in.Shape[axis])
	}
	for i := range out {
		s := slices.Clone(in.Shape)
		s[axis] = Unknown
		if i < len(parts) {
			if v, ok := parts[i].Int(); !ok || v >= 0 {
				s[axis] = parts[i]
			}
		}
		out[i] = Tensor(in.DType, s...)
	}
	if !known || !in.Shape[axis].Known() {
		return out, nil
	}
	sizes, err := splitSizes(n, in.Shape[axis].N, split, given)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Shape[axis] = D(sizes[i])
	}
	return out, nil
}

func compileSplit(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		parts, err := Keep(c, func() (*[]*arrangement, error) { return splitParts(c, x.Shape()) }, 1)
		if err != nil {
			return err
		}
		for i, part := range *parts {
			if i > 0 && !c.Wants(i) {
				continue
			}
			y, err := c.Alloc(i, x.DType(), part.shape...)
			if err != nil {
				return err
			}
			if err := part.run(c.Pool, y, x); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// splitParts is how each part of a tensor of shape xs comes out of it.
func splitParts(c *Ctx, xs []int) (*[]*arrangement, error) {
	axis, err := c.Node.Axis("axis", 0, len(xs))
	if err != nil {
		return nil, err
	}
	before := 13
	if c.Node.Since == 1 && c.In(1) != nil {
		before = 1
	}
	split, given, err := runInts(c, "split", 1, before)
	if err != nil {
		return nil, err
	}
	sizes, err := splitSizes(c.Node, xs[axis], split, given)
	if err != nil {
		return nil, err
	}
	parts := make([]*arrangement, len(sizes))
	ss, at := rowMajor(xs), 0
	for i, s := range sizes {
		shape := slices.Clone(xs)
		shape[axis] = s
		parts[i] = arrange(shape, ss, at*ss[axis])
		at += s
	}
	return &parts, nil
}

func gradSplit(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	parts := make([]*onnx.Value, len(n.Outputs))
	for i, y := range n.Outputs {
		switch {
		case i < len(dy) && dy[i] != nil:
			parts[i] = dy[i]
		case y != nil:
			parts[i] = g.ExpandTo(g.Like(n.Inputs[0], 0), y)
		default:
			return nil, fmt.Errorf("output %d is left out: the gradient's shape is not known", i)
		}
	}
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.With("Concat", []*onnx.Attribute{IntAttr("axis", n.Int("axis", 0))}, parts...)
	return out, nil
}
