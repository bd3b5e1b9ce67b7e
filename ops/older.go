package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// older is, by operator of ai.onnx, how nodes are written at [GradOpset] that are meant at an opset whose definition said the same otherwise, as
// [Op.Portable] is for internal operators. What is not here means the same at every opset from its own on.
var older map[string]func(g *Grad, n *Node) ([]*onnx.Value, error)

func init() {
	older = map[string]func(g *Grad, n *Node) ([]*onnx.Value, error){
		"Concat": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			if n.Attr("axis") == nil {
				n.SetAttr(IntAttr("axis", 1))
			}
			return nil, nil
		},
		"Clip":               olderClip,
		"Dropout":            olderDropout,
		"BatchNormalization": olderBatchNorm,
		"GroupNormalization": olderGroupNorm,
		"Pad":                olderPad,
		"Split":              olderSplit,
		"TopK":               attrToInput("k", 1, 10),
		"Reshape":            attrToInput("shape", 1, 5),
		"Squeeze":            attrToInput("axes", 1, 13),
		"Unsqueeze":          attrToInput("axes", 1, 13),
		"ReduceSum":          attrToInput("axes", 1, 13),
		"DFT":                olderDFT,
		"Resize":             olderResize,
		"Upsample":           olderResize,
		"LpPool":             olderLpPool,
		"GlobalLpPool":       olderLpPool,
		"Gemm": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			n.DelAttr("broadcast")
			return nil, nil
		},
		"GridSample": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			switch n.Str("mode", "") {
			case "bilinear":
				n.SetAttr(StringAttr("mode", "linear"))
			case "bicubic":
				n.SetAttr(StringAttr("mode", "cubic"))
			}
			return nil, nil
		},
		"Slice": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			for i, name := range []string{"starts", "ends", "axes"} {
				if _, err := attrToInput(name, 1+i, 10)(g, n); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
		"RoiAlign": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			if n.Since < 16 {
				n.SetAttr(StringAttr("coordinate_transformation_mode", "output_half_pixel"))
			}
			return nil, nil
		},
		"Scatter": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.Node("ScatterElements", 1, n.Inputs, n.Attrs...), nil
		},
		"Tile": func(g *Grad, n *Node) ([]*onnx.Value, error) {
			if n.Since == 1 && n.Has(2) {
				return nil, fmt.Errorf("opset 1's form is not supported")
			}
			return nil, nil
		},
	}
	for _, name := range []string{"Add", "Sub", "Mul", "Div", "Pow", "PRelu", "And", "Or", "Xor", "Equal", "Less", "Greater"} {
		older[name] = olderPair
	}
	for _, name := range []string{"ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ReduceMax", "ReduceMin"} {
		older[name] = attrToInput("axes", 1, 18)
	}
	for _, name := range []string{"Softmax", "LogSoftmax", "Hardmax"} {
		older[name] = olderSoftmax
	}
}

// Portable writes n in standard operators at [GradOpset] or later: see [Op.Portable]. standing: it is such already, perhaps changed itself.
func (n *Node) Portable(g *Grad) (outs []*onnx.Value, standing bool, err error) {
	write := n.Def.Portable
	if write == nil && onnx.CanonicalDomain(n.Domain) == "" {
		write = older[n.Op]
	}
	switch {
	case write != nil:
		outs, err = write(g, n)
	case n.Domain == Internal:
		return nil, false, fmt.Errorf("there is no standard form")
	}
	if g.err != nil { // the first
		err = g.err
	}
	return outs, err == nil && outs == nil, err
}

// attrToInput has a list that was an attribute before an opset, or a number, be input i.
func attrToInput(name string, i, before int) func(g *Grad, n *Node) ([]*onnx.Value, error) {
	return func(g *Grad, n *Node) ([]*onnx.Value, error) {
		if n.Since >= before {
			return nil, nil
		}
		if a := n.Attr(name); a != nil {
			list := a.Ints
			if a.Type == onnx.AttrInt {
				list = []int64{a.I}
			}
			if len(list) > 0 || name == "shape" {
				n.SetInput(i, g.Int64s(list...))
			}
			n.DelAttr(name)
		}
		n.DelAttr("consumed_inputs")
		return nil, nil
	}
}

func olderPair(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 7 {
		return nil, nil
	}
	if axis, ok := legacyAxisOf(n); ok {
		rank := g.Rank(n.Inputs[0])
		if axis < 0 {
			axis += rank
		}
		if more := rank - axis - g.Rank(n.Inputs[1]); more > 0 {
			n.SetInput(1, g.Op("Unsqueeze", n.Inputs[1], g.Int64s(axesFrom(-more, 0)...)))
		}
	}
	for _, name := range []string{"axis", "broadcast", "consumed_inputs"} {
		n.DelAttr(name)
	}
	return nil, nil
}

func olderClip(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 11 {
		return nil, nil
	}
	x := n.Inputs[0]
	return []*onnx.Value{g.Op("Clip", x, g.Like(x, float64(n.Float("min", -math.MaxFloat32))), g.Like(x, float64(n.Float("max", math.MaxFloat32))))}, nil
}

func olderDropout(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 12 {
		return nil, nil
	}
	x := n.Inputs[0]
	in := []*onnx.Value{x, g.Like(x, float64(n.Float("ratio", 0.5)))}
	if n.Since < 7 && n.Int("is_test", 0) == 0 {
		in = append(in, g.Const(tensor.Scalar(true)))
	}
	outs := append([]*onnx.Value(nil), g.Node("Dropout", 2, in)...)
	if n.Since < 10 { // the mask was of the input's type
		outs[1] = g.Cast(outs[1], g.DType(x))
	}
	return outs, nil
}

// olderBatchNorm also gives one that trains the outputs that ONNX Runtime insists on.
func olderBatchNorm(g *Grad, n *Node) ([]*onnx.Value, error) {
	training := batchTraining(n)
	if n.Since >= 14 {
		for i := 1; training && i < 3; i++ {
			if n.Output(i) == nil {
				v := &onnx.Value{Name: g.Names("running")}
				n.SetOutput(i, v)
				g.Infos[v] = withoutValues([]Info{n.Info(2 + i)})[0]
			}
		}
		return nil, nil
	}
	if training || n.Since < 9 && n.Int("spatial", 1) == 0 { // later ones have neither saved statistics nor those of each element
		return g.batchNorm(n, n.Inputs), nil
	}
	for _, name := range []string{"spatial", "is_test", "consumed_inputs"} {
		n.DelAttr(name)
	}
	return nil, nil
}

func olderGroupNorm(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 21 { // before that scale and bias are of groups
		return nil, nil
	}
	groups := g.Int64s(n.Int("num_groups", 0))
	shape := g.Concat(groups, g.Op("Div", g.Dims(n.Inputs[0], 1), groups))
	in := []*onnx.Value{n.Inputs[0]}
	for _, p := range n.Inputs[1:3] {
		in = append(in, g.Flat(g.Op("Expand", g.Op("Unsqueeze", p, g.Int64s(1)), shape)))
	}
	return g.Node("GroupNormalization", 1, in, n.Attrs...), nil
}

func olderPad(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 11 {
		return nil, nil
	}
	in := []*onnx.Value{n.Inputs[0], g.Int64s(n.Ints(padName(n), nil)...), g.Like(n.Inputs[0], float64(n.Float("value", 0)))}
	return g.Node("Pad", 1, in, StringAttr("mode", n.Str("mode", "constant"))), nil
}

func olderSplit(g *Grad, n *Node) ([]*onnx.Value, error) {
	if _, err := attrToInput("split", 1, 13)(g, n); err != nil {
		return nil, err
	}
	if n.Since < 18 && !n.Has(1) && n.Attr("num_outputs") == nil {
		n.SetAttr(IntAttr("num_outputs", int64(len(n.Outputs))))
	}
	return nil, nil
}

func olderDFT(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since < 20 {
		n.SetInput(2, g.Const(tensor.Scalar(n.Int("axis", 1))))
		n.DelAttr("axis")
	}
	return nil, nil
}

func olderLpPool(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since > 1 {
		return nil, nil
	}
	p, err := normOrder(n)
	if err != nil {
		return nil, err
	}
	if p != math.Trunc(p) { // which later opsets do not have
		x := n.Inputs[0]
		powers := g.Op("Pow", g.Op("Abs", x), g.Like(x, p))
		if n.Op == "GlobalLpPool" {
			powers = g.ReduceSum(powers, true, axesFrom(2, g.Rank(x))...)
		} else {
			w, err := poolWindow(n, g.Rank(x)-2)
			if err != nil {
				return nil, err
			}
			attrs := []*onnx.Attribute{IntAttr("count_include_pad", 1)}
			for _, a := range n.Attrs {
				if a.Name != "p" {
					attrs = append(attrs, a)
				}
			}
			powers = g.Mul(g.With("AveragePool", attrs, powers), g.Like(x, float64(product(w.kernel))))
		}
		return []*onnx.Value{g.Op("Pow", powers, g.Like(x, 1/p))}, nil
	}
	n.SetAttr(IntAttr("p", int64(p)))
	return nil, nil
}

// olderSoftmax: up to opset 11 all dimensions from the axis on are one.
func olderSoftmax(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Since >= 13 {
		return nil, nil
	}
	x, axis := n.Inputs[0], n.Int("axis", 1)
	if rank := g.Rank(x); axis == -1 || int(axis) == rank-1 {
		n.SetAttr(IntAttr("axis", -1))
		return nil, nil
	}
	flat := g.With("Flatten", []*onnx.Attribute{IntAttr("axis", axis)}, x)
	return []*onnx.Value{g.ReshapeLike(g.With(n.Op, []*onnx.Attribute{IntAttr("axis", -1)}, flat), x)}, nil
}

func olderResize(g *Grad, n *Node) ([]*onnx.Value, error) {
	upsample, since := resizeForm(n)
	if !upsample && since >= 11 {
		return nil, nil
	}
	scales := n.Input(1)
	if scales == nil {
		var err error
		if scales, err = g.scalesOf(n); err != nil {
			return nil, err
		}
	}
	return []*onnx.Value{g.oldResize(n, n.Inputs[0], scales)}, nil
}

// oldResize is what n, of before opset 11, makes of x: coordinates are asymmetric, and the nearest is the one below along axes that become
// larger and the one above along those that become smaller, which later opsets do one after the other.
func (g *Grad) oldResize(n *Node, x, scales *onnx.Value) *onnx.Value {
	mode := n.Str("mode", "nearest")
	if mode == "bilinear" {
		mode = "linear"
	}
	larger, smaller := true, mode == "nearest"
	if c := g.Info(scales).Const; c != nil && smaller {
		larger, smaller = false, false
		for i := range c.Len() {
			larger, smaller = larger || tensor.Float64At(c, i) > 1, smaller || tensor.Float64At(c, i) < 1
		}
	}
	resize := func(scales *onnx.Value, round string) {
		x = g.Node("Resize", 1, []*onnx.Value{x, nil, scales}, StringAttr("mode", mode),
			StringAttr("coordinate_transformation_mode", "asymmetric"), StringAttr("nearest_mode", round))[0]
	}
	switch one := g.Const(tensor.Scalar(float32(1))); {
	case larger && smaller:
		resize(g.Op("Max", scales, one), "floor")
		resize(g.Op("Min", scales, one), "ceil")
	case smaller:
		resize(scales, "ceil")
	default:
		resize(scales, "floor")
	}
	return x
}
