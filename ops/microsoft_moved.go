package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators of com.microsoft that move, pick and sample. The standard has most of them by now, in other words.
func init() {
	op := func(name string, minIn, maxIn, maxOut int, expand func(g *Grad, n *Node) ([]*onnx.Value, error)) Op {
		return Op{Domain: "com.microsoft", Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, MinOut: 1, MaxOut: maxOut, Expand: expand}
	}
	long := []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}
	register(
		op("ExpandDims", 2, 2, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			axis := g.Op("Reshape", g.With("Cast", long, n.Inputs[1]), g.Int64s(1))
			return g.Node("Unsqueeze", 1, []*onnx.Value{n.Inputs[0], axis}), nil
		}),
		op("Range", 2, 3, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			in := []*onnx.Value{n.Inputs[0], n.Inputs[1], n.Input(2)}
			if in[2] == nil {
				in[2] = g.Like(in[0], 1)
			}
			for i, v := range in {
				if g.Info(v).Rank() != 0 { // one number in a list will do
					in[i] = g.Op("Reshape", v, g.Int64s())
				}
			}
			return g.At(11, "Range", 1, in), nil
		}),
		op("GatherND", 2, 2, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.Node("GatherND", 1, []*onnx.Value{n.Inputs[0], g.With("Cast", long, n.Inputs[1])}), nil
		}),
		op("Unique", 1, 1, 3, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			out := g.Node("Unique", 4, n.Inputs, IntAttr("sorted", 0))
			return []*onnx.Value{out[0], out[2], out[3]}, nil
		}),
		op("Pad", 2, 3, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			in := []*onnx.Value{n.Inputs[0], g.Op("Reshape", n.Inputs[1], g.Int64s(-1))}
			if n.Has(2) {
				in = append(in, g.Op("Reshape", n.Inputs[2], g.Int64s()))
			}
			return g.Node("Pad", 1, in, StringAttr("mode", n.Str("mode", "constant"))), nil
		}),
		op("GridSample", 2, 2, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.At(16, "GridSample", 1, n.Inputs, n.Attrs...), nil
		}),
		op("SampleOp", 1, 1, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) { return g.Node("Identity", 1, n.Inputs), nil }),
		op("CDist", 2, 2, 1, cdist),
		op("UnfoldTensor", 1, 1, 1, unfoldTensor),
		op("CropAndResize", 4, 4, 1, cropAndResize),
		op("ConvTransposeWithDynamicPads", 2, 4, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			if pad := n.Str("auto_pad", "NOTSET"); pad != "NOTSET" || n.Ints("output_shape", nil) != nil {
				return nil, fmt.Errorf("auto_pad %q and output_shape %v are not supported", pad, n.Ints("output_shape", nil))
			}
			x := n.Inputs[0]
			y := g.Node("ConvTranspose", 1, []*onnx.Value{x, n.Inputs[1], n.Input(3)}, n.Attrs...)[0]
			if !n.Has(2) {
				return []*onnx.Value{y}, nil
			}
			axes := make([]int64, max(0, g.Rank(x)-2)) // of which the pads are cut
			for i := range axes {
				axes[i] = int64(i + 2)
			}
			half := g.Node("Split", 2, []*onnx.Value{n.Inputs[2]}, IntAttr("axis", 0), IntAttr("num_outputs", 2))
			return []*onnx.Value{g.Op("Slice", y, half[0], g.Sub(g.Dims(y, axes...), half[1]), g.Int64s(axes...))}, nil
		}),
		op("SparseToDenseMatMul", 2, 2, 1, fusedMatMul), // a sparse weight has become a dense one by now
	)
}

// cdist is the distances of each row of A from each row of B.
func cdist(g *Grad, n *Node) ([]*onnx.Value, error) {
	metric := n.Str("metric", "sqeuclidean")
	if metric != "sqeuclidean" && metric != "euclidean" {
		return nil, fmt.Errorf("metric %q is neither sqeuclidean nor euclidean", metric)
	}
	d := g.Sub(g.Op("Unsqueeze", n.Inputs[0], g.Int64s(1)), g.Op("Unsqueeze", n.Inputs[1], g.Int64s(0)))
	y := g.ReduceSum(g.Mul(d, d), false, 2)
	if metric == "euclidean" {
		y = g.Op("Sqrt", y)
	}
	return []*onnx.Value{y}, nil
}

// unfoldTensor cuts an axis into windows, which come as a last axis.
func unfoldTensor(g *Grad, n *Node) ([]*onnx.Value, error) {
	x, size, step := n.Inputs[0], n.Int("size", 0), n.Int("step", 1)
	rank := g.Rank(x)
	axis, err := n.Axis("dim", -1, rank)
	if err != nil {
		return nil, err
	}
	if size < 1 || step < 1 || size > maxWindow {
		return nil, fmt.Errorf("windows of %d, %d apart, are out of range", size, step)
	}
	scalar := func(i int64) *onnx.Value { return g.Const(tensor.Scalar(i)) }
	begins := g.Op("Range", scalar(0), g.Sub(g.Dim(x, int64(axis)), scalar(size-1)), scalar(step))
	at := g.Add(g.Op("Unsqueeze", begins, g.Int64s(1)), g.Op("Range", scalar(0), scalar(size), scalar(1)))
	y := g.With("Gather", []*onnx.Attribute{IntAttr("axis", int64(axis))}, x, at)
	var perm []int64
	for i := range rank + 1 {
		if i != axis+1 {
			perm = append(perm, int64(i))
		}
	}
	return []*onnx.Value{g.Transpose(y, append(perm, int64(axis+1))...)}, nil
}

// cropAndResize samples boxes of images, y1 x1 y2 x2 in shares of their sizes, at the points of a grid from edge to edge. What lies outside
// of the image is the extrapolation value.
func cropAndResize(g *Grad, n *Node) ([]*onnx.Value, error) {
	mode, outside := n.Str("mode", "bilinear"), float64(n.Float("extrapolation_value", 0))
	if mode != "bilinear" && mode != "nearest" {
		return nil, fmt.Errorf("mode %q is neither bilinear nor nearest", mode)
	}
	x, boxes, crop := n.Inputs[0], n.Inputs[1], n.Inputs[3]
	float := []*onnx.Attribute{IntAttr("to", int64(g.DType(x)))}
	long := []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}
	scalar := func(i int64) *onnx.Value { return g.Const(tensor.Scalar(i)) }
	number := func(v *onnx.Value) *onnx.Value { return g.With("Cast", float, v) }
	y := g.Op("Gather", x, n.Inputs[2]) // an image for each box
	inside := g.Const(tensor.Scalar(true))
	for i := range int64(2) {
		axis := 2 + i
		last := number(g.Sub(g.Dim(x, axis), scalar(1)))
		count := g.With("Cast", long, g.Op("Gather", crop, scalar(i)))
		gaps := g.Sub(count, scalar(1))
		from, to := g.Op("Gather", g.Transpose(boxes, 1, 0), g.Int64s(i)), g.Op("Gather", g.Transpose(boxes, 1, 0), g.Int64s(i+2)) // [1, boxes]
		step := g.Div(g.Mul(g.Sub(to, from), last), number(g.Op("Max", gaps, scalar(1))))
		begin := g.Op("Where", g.Op("Greater", gaps, scalar(0)), g.Mul(from, last), g.Mul(g.Mul(g.Add(from, to), last), g.Like(x, 0.5)))
		steps := number(g.Op("Range", scalar(0), count, scalar(1)))
		at := g.Add(g.Transpose(begin, 1, 0), g.Mul(g.Transpose(step, 1, 0), steps)) // [boxes, places]
		around := g.Int64s(1, 5-axis)
		within := g.Op("And", g.Op("GreaterOrEqual", at, g.Like(x, 0)), g.Op("LessOrEqual", at, last))
		inside = g.Op("And", inside, g.Op("Unsqueeze", within, around))
		sample := func(places *onnx.Value) *onnx.Value {
			index := g.With("Cast", long, g.Op("Clip", places, g.Like(x, 0), last))
			sizes := []*onnx.Value{g.Dims(y, 0, 1), g.Op("Reshape", count, g.Int64s(1)), g.Dims(y, 3)}
			if axis == 3 {
				sizes = []*onnx.Value{g.Dims(y, 0, 1, 2), sizes[1]}
			}
			index = g.Op("Expand", g.Op("Unsqueeze", index, around), g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, sizes...))
			return g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", axis)}, y, index)
		}
		low := g.Op("Floor", at)
		if mode == "nearest" {
			y = sample(g.Op("Floor", g.Add(at, g.Like(x, 0.5))))
			continue
		}
		share := g.Op("Unsqueeze", g.Sub(at, low), around)
		a := sample(low)
		y = g.Add(a, g.Mul(g.Sub(sample(g.Op("Ceil", at)), a), share))
	}
	return []*onnx.Value{g.Op("Where", inside, y, g.Like(x, outside))}, nil
}
