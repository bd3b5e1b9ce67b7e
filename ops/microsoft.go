package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators of com.microsoft (and SimplifiedLayerNormalization, which ONNX Runtime writes into the default domain) that its
// optimizer puts into transformers. They are computed, and differentiated, by way of the standard's.
func init() {
	const ms = "com.microsoft"
	op := func(domain, name string, since, minIn, maxIn, maxOut int, expand func(g *Grad, n *Node) ([]*onnx.Value, error)) Op {
		return Op{Domain: domain, Name: name, Since: []int{since}, MinIn: minIn, MaxIn: maxIn, MinOut: 1, MaxOut: maxOut, Expand: expand}
	}
	one := func(v *onnx.Value) ([]*onnx.Value, error) { return []*onnx.Value{v}, nil }
	withBias := func(g *Grad, n *Node) *onnx.Value {
		if n.Has(1) {
			return g.Add(n.Inputs[0], n.Inputs[1])
		}
		return n.Inputs[0]
	}
	gelu := func(approximate string) func(g *Grad, n *Node) ([]*onnx.Value, error) {
		return func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.At(20, "Gelu", 1, []*onnx.Value{withBias(g, n)}, StringAttr("approximate", approximate)), nil
		}
	}
	register(
		op(ms, "Gelu", 1, 1, 1, 1, gelu("none")),
		op(ms, "BiasGelu", 1, 2, 2, 1, gelu("none")),
		op(ms, "FastGelu", 1, 1, 2, 1, gelu("tanh")),
		op(ms, "QuickGelu", 1, 1, 1, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			x := n.Inputs[0]
			return one(g.Mul(x, g.Op("Sigmoid", g.Mul(x, g.Like(x, float64(n.Float("alpha", 1.702)))))))
		}),
		op(ms, "SkipLayerNormalization", 1, 3, 5, 4, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			own, sum := g.DType(n.Inputs[0]), g.skip(n, 4)
			y := g.layerNorm(sum, n.Inputs[2], n.Input(3), n, n.Output(1) != nil || n.Output(2) != nil)
			return []*onnx.Value{g.Cast(y[0], own), y[1], y[2], g.Cast(sum, own)}, nil
		}),
		op(ms, "SkipSimplifiedLayerNormalization", 1, 3, 4, 4, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			own, sum := g.DType(n.Inputs[0]), g.skip(n, 3)
			out := []*onnx.Value{g.Cast(g.rmsNorm(sum, n.Inputs[2], n), own), nil, nil, g.Cast(sum, own)}
			if n.Output(1) != nil || n.Output(2) != nil {
				out[2] = g.inverseRMS(sum, n, 1, g.DType(sum))
				out[1] = g.Fill(out[2], g.Shape(out[2]), 0) // no mean is taken off
			}
			return out, nil
		}),
		op("", "SimplifiedLayerNormalization", 1, 2, 2, 2, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			x := n.Inputs[0]
			out := []*onnx.Value{g.rmsNorm(x, n.Inputs[1], n), nil}
			if n.Output(1) == nil {
				return out, nil
			}
			axis, err := n.Axis("axis", -1, g.Rank(x))
			if err != nil {
				return nil, err
			}
			out[1] = g.inverseRMS(x, n, g.Rank(x)-axis, statType(n))
			return out, nil
		}),
		op(ms, "EmbedLayerNormalization", 1, 1, 9, 3, embedLayerNorm),
		op(ms, "FusedMatMul", 1, 2, 2, 1, fusedMatMul), op(ms, "TransposeMatMul", 1, 2, 2, 1, fusedMatMul),
		op(ms, "FusedGemm", 1, 2, 3, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			y := g.Node("Gemm", 1, n.Inputs, FloatAttr("alpha", n.Float("alpha", 1)), FloatAttr("beta", n.Float("beta", 1)),
				IntAttr("transA", n.Int("transA", 0)), IntAttr("transB", n.Int("transB", 0)))[0]
			var params []float32
			for _, name := range []string{"activation_alpha", "activation_beta", "activation_gamma"} {
				if n.Attr(name) != nil {
					params = append(params, n.Float(name, 0))
				}
			}
			y, err := g.fusedActivation(y, n, params)
			return []*onnx.Value{y}, err
		}),
		op(ms, "FusedConv", 1, 2, 4, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			y, err := g.fusedConv(n, n.Inputs[0], n.Inputs[1])
			return []*onnx.Value{y}, err
		}),
		op(ms, "Trilu", 1, 1, 2, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.Node("Trilu", 1, n.Inputs, IntAttr("upper", n.Int("upper", 1))), nil
		}),
	)
}

// skip is input + skip, and the bias that is the i-th input: of float16 and bfloat16 as float32.
func (g *Grad) skip(n *Node, i int) *onnx.Value {
	wide := g.DType(n.Inputs[0])
	if wide != tensor.Float64 {
		wide = tensor.Float32
	}
	sum := g.Add(g.Cast(n.Inputs[0], wide), g.Cast(n.Inputs[1], wide))
	if n.Has(i) {
		sum = g.Add(sum, g.Cast(n.Inputs[i], wide))
	}
	return sum
}

// layerNorm normalizes along the last axis; the mean and the inverse deviation come along if they are asked for.
func (g *Grad) layerNorm(x, scale, bias *onnx.Value, n *Node, statistics bool) (y [3]*onnx.Value) {
	in := []*onnx.Value{x, g.Cast(scale, g.DType(x))}
	if bias != nil {
		in = append(in, g.Cast(bias, g.DType(x)))
	}
	outs, attrs := 1, []*onnx.Attribute{IntAttr("axis", -1), FloatAttr("epsilon", n.Float("epsilon", 1e-12))}
	if statistics {
		outs, attrs = 3, append(attrs, IntAttr("stash_type", int64(g.DType(x))))
	}
	copy(y[:], g.Node("LayerNormalization", outs, in, attrs...))
	return y
}

// inverseRMS is 1/√(the mean of x² along that many last axes + epsilon), in the type of statistics.
func (g *Grad) inverseRMS(x *onnx.Value, n *Node, last int, stats tensor.DType) *onnx.Value {
	rank := int64(g.Rank(x))
	var axes []int64
	for i := rank - int64(last); i < rank; i++ {
		axes = append(axes, i)
	}
	x = g.Cast(x, stats)
	mean := g.Op("ReduceMean", g.Mul(x, x), g.Int64s(axes...))
	return g.Op("Reciprocal", g.Op("Sqrt", g.Add(mean, g.Like(mean, float64(n.Float("epsilon", 1e-5))))))
}

func (g *Grad) rmsNorm(x, scale *onnx.Value, n *Node) *onnx.Value {
	return g.At(23, "RMSNormalization", 1, []*onnx.Value{x, g.Cast(scale, g.DType(x))}, IntAttr("axis", n.Int("axis", -1)), FloatAttr("epsilon", n.Float("epsilon", 1e-5)))[0]
}

// fusedConv is the activation that n names of the convolution of x with w that n says, to which its input 3 is added.
func (g *Grad) fusedConv(n *Node, x, w *onnx.Value) (*onnx.Value, error) {
	var attrs []*onnx.Attribute
	for _, a := range n.Attrs {
		if a.Name != "activation" && a.Name != "activation_params" {
			attrs = append(attrs, a)
		}
	}
	y := g.Node("Conv", 1, []*onnx.Value{x, w, n.Input(2)}, attrs...)[0]
	if n.Has(3) {
		y = g.Add(y, n.Inputs[3])
	}
	var params []float32
	if a := n.Attr("activation_params"); a != nil {
		params = a.Floats
	}
	return g.fusedActivation(y, n, params)
}

// fusedActivation applies the activation that FusedConv and FusedGemm name.
func (g *Grad) fusedActivation(y *onnx.Value, n *Node, params []float32) (*onnx.Value, error) {
	name := n.Str("activation", "")
	param := func(i int, def float32) float32 {
		if i < len(params) {
			return params[i]
		}
		return def
	}
	switch name {
	case "":
		return y, nil
	case "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "HardSwish":
		return g.Op(name, y), nil
	case "LeakyRelu":
		return g.With(name, []*onnx.Attribute{FloatAttr("alpha", param(0, 0.01))}, y), nil
	case "Elu":
		return g.With(name, []*onnx.Attribute{FloatAttr("alpha", param(0, 1))}, y), nil
	case "HardSigmoid":
		return g.With(name, []*onnx.Attribute{FloatAttr("alpha", param(0, 0.2)), FloatAttr("beta", param(1, 0.5))}, y), nil
	case "Clip":
		return g.Op(name, y, g.Like(y, float64(param(0, -math.MaxFloat32))), g.Like(y, float64(param(1, math.MaxFloat32)))), nil
	}
	return nil, fmt.Errorf("activation %q is not supported", name)
}

// fusedMatMul is alpha·op(A)·op(B) of the last two axes, the first of which may come before those of the batch.
func fusedMatMul(g *Grad, n *Node) ([]*onnx.Value, error) {
	in := []*onnx.Value{n.Inputs[0], n.Inputs[1]}
	for i, name := range []string{"transBatchA", "transBatchB"} {
		if n.Int(name, 0) == 0 {
			continue
		}
		var perm []int64
		r := int64(g.Rank(in[i]))
		for k := int64(1); k < r-1; k++ {
			perm = append(perm, k)
		}
		if r > 2 {
			in[i] = g.Transpose(in[i], append(perm, 0, r-1)...)
		}
	}
	for i, name := range []string{"transA", "transB"} {
		if n.Int(name, 0) != 0 && g.Rank(in[i]) >= 2 {
			in[i] = g.Transpose(in[i])
		}
	}
	y := g.MatMul(in[0], in[1])
	if alpha := n.Float("alpha", 1); alpha != 1 {
		y = g.Mul(y, g.Like(y, float64(alpha)))
	}
	return []*onnx.Value{y}, nil
}

// embedLayerNorm adds the embeddings of words, positions and segments, and normalizes.
func embedLayerNorm(g *Grad, n *Node) ([]*onnx.Value, error) {
	for _, i := range []int{2, 3, 5} {
		if !n.Has(i) {
			return nil, fmt.Errorf("input %d is left out but required", i)
		}
	}
	ids, segments := n.Inputs[0], n.Input(1)
	words, places, kinds := n.Inputs[2], n.Inputs[3], n.Input(4)
	sum := g.Op("Gather", words, ids)
	if n.Has(8) {
		sum = g.Add(sum, g.Op("Gather", places, n.Inputs[8]))
	} else {
		sum = g.Add(sum, g.Op("Gather", places, g.Positions(ids, 1)))
	}
	if segments != nil && kinds != nil {
		sum = g.Add(sum, g.Op("Gather", kinds, segments))
	}
	out := []*onnx.Value{g.layerNorm(sum, n.Inputs[5], n.Input(6), n, false)[0], nil, sum}
	if n.Output(1) != nil { // how many tokens each row has
		count := g.Const(tensor.Scalar(int32(0)))
		if n.Has(7) {
			out[1] = g.Node("ReduceSum", 1, []*onnx.Value{n.Inputs[7], g.Int64s(1)}, IntAttr("keepdims", 0))[0]
		} else {
			out[1] = g.Op("Expand", count, g.Dims(ids, 0))
		}
	}
	return out, nil
}
