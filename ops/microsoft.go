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
			sum := g.skip(n, 4)
			if n.Output(1) != nil || n.Output(2) != nil {
				return nil, fmt.Errorf("the outputs mean and inv_std_var are not supported")
			}
			return []*onnx.Value{g.layerNorm(sum, n.Inputs[2], n.Input(3), n), nil, nil, sum}, nil
		}),
		op(ms, "SkipSimplifiedLayerNormalization", 1, 3, 4, 4, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			sum := g.skip(n, 3)
			if n.Output(1) != nil || n.Output(2) != nil {
				return nil, fmt.Errorf("the outputs mean and inv_std_var are not supported")
			}
			return []*onnx.Value{g.rmsNorm(sum, n.Inputs[2], n), nil, nil, sum}, nil
		}),
		op("", "SimplifiedLayerNormalization", 1, 2, 2, 2, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			x := n.Inputs[0]
			out := []*onnx.Value{g.rmsNorm(x, n.Inputs[1], n), nil}
			if n.Output(1) == nil {
				return out, nil
			}
			rank := g.Rank(x)
			axis, err := n.Axis("axis", -1, rank)
			if err != nil {
				return nil, err
			}
			var axes []int64
			for i := axis; i < rank; i++ {
				axes = append(axes, int64(i))
			}
			x = g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(statType(n)))}, x)
			mean := g.Op("ReduceMean", g.Mul(x, x), g.Int64s(axes...))
			out[1] = g.Op("Reciprocal", g.Op("Sqrt", g.Add(mean, g.Like(mean, float64(n.Float("epsilon", 1e-5))))))
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
		op(ms, "Attention", 1, 2, 7, 2, microsoftAttention),
		op(ms, "MultiHeadAttention", 1, 1, 8, 3, multiHeadAttention),
		op(ms, "GroupQueryAttention", 1, 1, 14, 3, groupQueryAttention),
		op(ms, "Trilu", 1, 1, 2, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.Node("Trilu", 1, n.Inputs, IntAttr("upper", n.Int("upper", 1))), nil
		}),
		op(ms, "RotaryEmbedding", 1, 4, 4, 1, rotaryEmbedding),
	)
}

// skip is input + skip, and the bias that is the i-th input.
func (g *Grad) skip(n *Node, i int) *onnx.Value {
	sum := g.Add(n.Inputs[0], n.Inputs[1])
	if n.Has(i) {
		sum = g.Add(sum, n.Inputs[i])
	}
	return sum
}

func (g *Grad) layerNorm(x, scale, bias *onnx.Value, n *Node) *onnx.Value {
	in := []*onnx.Value{x, scale}
	if bias != nil {
		in = append(in, bias)
	}
	return g.Node("LayerNormalization", 1, in, IntAttr("axis", -1), FloatAttr("epsilon", n.Float("epsilon", 1e-12)))[0]
}

func (g *Grad) rmsNorm(x, scale *onnx.Value, n *Node) *onnx.Value {
	return g.At(23, "RMSNormalization", 1, []*onnx.Value{x, scale}, IntAttr("axis", n.Int("axis", -1)), FloatAttr("epsilon", n.Float("epsilon", 1e-5)))[0]
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
	out := []*onnx.Value{g.layerNorm(sum, n.Inputs[5], n.Input(6), n), nil, sum}
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

// maskOf is an attention mask of the contrib operators as one that is added to the scores: lengths [B], or ones and zeros [B,T] or [B,S,T].
// length is the number of keys, a scalar.
func (g *Grad) maskOf(mask, like, length *onnx.Value, filter float64) (*onnx.Value, error) {
	info := g.Info(mask)
	if !info.Ranked {
		return nil, fmt.Errorf("the rank of the mask is not known")
	}
	var keep *onnx.Value
	switch len(info.Shape) {
	case 1: // where each row ends; of twice as many, the second half says where it begins
		at := g.Op("Range", g.Const(tensor.Scalar(int64(0))), length, g.Const(tensor.Scalar(int64(1))))
		bound := g.Op("Unsqueeze", g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}, mask), g.Int64s(1))
		switch b, m := g.Info(like).batch(), info.Shape[0]; {
		case !b.Known() || !m.Known() || m.N == b.N:
			keep = g.Op("Less", at, bound)
		case m.N == 2*b.N:
			half := g.Node("Split", 2, []*onnx.Value{bound}, IntAttr("axis", 0), IntAttr("num_outputs", 2))
			keep = g.Op("And", g.Op("Less", at, half[0]), g.Op("GreaterOrEqual", at, half[1]))
		default:
			return nil, fmt.Errorf("a mask of %v does not suit a batch of %d", info.Shape, b.N)
		}
		keep = g.Op("Unsqueeze", keep, g.Int64s(1, 2))
	case 2:
		keep = g.Op("Unsqueeze", g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Bool))}, mask), g.Int64s(1, 2))
	case 3:
		keep = g.Op("Unsqueeze", g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Bool))}, mask), g.Int64s(1))
	default:
		return nil, fmt.Errorf("a mask of rank %d is not supported", len(info.Shape))
	}
	return g.Op("Where", keep, g.Like(like, 0), g.Like(like, filter)), nil
}

// batch is the first dimension, as far as it is known.
func (i Info) batch() Dim {
	if i.Rank() < 1 {
		return Unknown
	}
	return i.Shape[0]
}

func (g *Grad) attend(q, k, v, bias, pastK, pastV *onnx.Value, n *Node, causal bool, outs int) []*onnx.Value {
	heads := n.Int("num_heads", 0)
	attrs := []*onnx.Attribute{IntAttr("q_num_heads", heads), IntAttr("kv_num_heads", heads)}
	if scale := n.Float("scale", 0); scale != 0 {
		attrs = append(attrs, FloatAttr("scale", scale))
	}
	if causal {
		attrs = append(attrs, IntAttr("is_causal", 1))
	}
	return g.At(23, "Attention", outs, []*onnx.Value{q, k, v, bias, pastK, pastV}, attrs...)
}

// microsoftAttention is Attention: one product makes queries, keys and values.
func microsoftAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	x := g.MatMul(n.Inputs[0], n.Inputs[1])
	if n.Has(2) {
		x = g.Add(x, n.Inputs[2])
	}
	return g.packedAttention(n, x, n.In[1], n.Input(3), n.Input(4), n.Input(5))
}

// packedAttention attends with queries, keys and values beside each other in x, of the columns of w.
func (g *Grad) packedAttention(n *Node, x *onnx.Value, w Info, mask, past, bias *onnx.Value) ([]*onnx.Value, error) {
	heads := n.Int("num_heads", 0)
	switch {
	case heads < 1:
		return nil, fmt.Errorf("num_heads %d is out of range", heads)
	case n.Int("do_rotary", 0) != 0 || n.Int("past_present_share_buffer", 0) != 0:
		return nil, fmt.Errorf("do_rotary and past_present_share_buffer are not supported")
	case w.Rank() != 2:
		return nil, fmt.Errorf("the rank of the weights is not known")
	}
	var qkv []*onnx.Value
	switch sizes := n.Ints("qkv_hidden_sizes", nil); {
	case sizes == nil && w.Shape[1].Known() && w.Shape[1].N%3 != 0:
		return nil, fmt.Errorf("weights of %v are not those of queries, keys and values", w.Shape)
	case sizes == nil:
		qkv = g.Node("Split", 3, []*onnx.Value{x}, IntAttr("axis", 2), IntAttr("num_outputs", 3))
	case len(sizes) != 3:
		return nil, fmt.Errorf("qkv_hidden_sizes %v should be three", sizes)
	default:
		qkv = g.Node("Split", 3, []*onnx.Value{x, g.Int64s(sizes...)}, IntAttr("axis", 2))
	}
	scalar := func(i int64) *onnx.Value { return g.Const(tensor.Scalar(i)) }
	length := g.Dim(n.Inputs[0], 1)
	var pastK, pastV *onnx.Value
	if past != nil {
		pastK, pastV = g.Op("Gather", past, scalar(0)), g.Op("Gather", past, scalar(1))
		length = g.Add(length, g.Dim(past, 3))
	}
	if mask != nil {
		added, err := g.maskOf(mask, x, length, float64(n.Float("mask_filter_value", -10000)))
		if err != nil {
			return nil, err
		}
		if bias != nil {
			added = g.Add(added, bias)
		}
		bias = added
	}
	outs := 1
	if n.Output(1) != nil {
		outs = 3
	}
	y := g.attend(qkv[0], qkv[1], qkv[2], bias, pastK, pastV, n, n.Int("unidirectional", 0) != 0, outs)
	if outs == 1 {
		return y, nil
	}
	zero := g.Int64s(0)
	present := g.Node("Concat", 1, []*onnx.Value{g.Op("Unsqueeze", y[1], zero), g.Op("Unsqueeze", y[2], zero)}, IntAttr("axis", 0))
	return []*onnx.Value{y[0], present[0]}, nil
}

// rotaryEmbedding takes positions for each token or the first one for all, and heads that may have to be counted by the
// width of the cosines.
func rotaryEmbedding(g *Grad, n *Node) ([]*onnx.Value, error) {
	x, ids, cos := n.Info(0), n.Info(1), n.Info(2)
	if n.Float("scale", 1) != 1 || n.Int("is_packed_batching", 0) != 0 {
		return nil, fmt.Errorf("neither scale nor packed batches are supported")
	}
	if x.Rank() != 3 && x.Rank() != 4 || ids.Rank() != 1 && ids.Rank() != 2 {
		return nil, fmt.Errorf("the ranks of the input and the positions must be known")
	}
	heads := n.Int("num_heads", 0)
	if heads == 0 && x.Rank() == 3 {
		if cos.Rank() != 2 || !x.Shape[2].Known() || cos.Shape[1].N < 1 {
			return nil, fmt.Errorf("without num_heads the widths of the input and the cosines must be known")
		}
		heads = int64(x.Shape[2].N / (2 * cos.Shape[1].N))
	}
	places := n.Inputs[1]
	if ids.Rank() == 1 {
		tokens := int64(x.Rank() - 2)
		places = g.Op("Expand", g.Add(places, g.Positions(n.Inputs[0], tokens)), g.Dims(n.Inputs[0], 0, tokens))
	}
	return g.At(23, "RotaryEmbedding", 1, []*onnx.Value{n.Inputs[0], n.Inputs[2], n.Inputs[3], places}, IntAttr("interleaved", n.Int("interleaved", 0)),
		IntAttr("num_heads", heads), IntAttr("rotary_embedding_dim", n.Int("rotary_embedding_dim", 0))), nil
}

// multiHeadAttention takes queries, keys and values made before: of three axes each, or keys and values with an axis of heads.
func multiHeadAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	if n.Int("num_heads", 0) < 1 {
		return nil, fmt.Errorf("num_heads %d is out of range", n.Int("num_heads", 0))
	}
	if !n.Has(1) || !n.Has(2) || n.Info(0).Rank() != 3 || n.Info(1).Rank() != 3 && n.Info(1).Rank() != 4 {
		return nil, fmt.Errorf("queries, keys and values packed in one tensor are not supported")
	}
	q, k, v := n.Inputs[0], n.Inputs[1], n.Inputs[2]
	if n.Has(3) {
		if n.Info(1).Rank() != 3 || n.Info(2).Rank() != 3 {
			return nil, fmt.Errorf("a bias needs keys and values of three axes")
		}
		parts := g.Node("Split", 3, []*onnx.Value{n.Inputs[3], g.Concat(g.Dims(q, 2), g.Dims(k, 2), g.Dims(v, 2))}, IntAttr("axis", 0))
		q, k, v = g.Add(q, parts[0]), g.Add(k, parts[1]), g.Add(v, parts[2])
	}
	if n.Info(1).Rank() == 4 { // Attention wants one form for all three
		heads := n.Int("num_heads", 0)
		q = g.Transpose(g.Op("Reshape", q, g.Int64s(0, 0, heads, -1)), 0, 2, 1, 3)
	}
	var bias *onnx.Value
	axis := int64(1)
	if n.Info(1).Rank() == 4 {
		axis = 2
	}
	length := g.Dim(k, axis)
	if n.Has(6) {
		length = g.Add(length, g.Dim(n.Inputs[6], 2))
	}
	if n.Has(4) {
		var err error
		if bias, err = g.maskOf(n.Inputs[4], q, length, float64(n.Float("mask_filter_value", -10000))); err != nil {
			return nil, err
		}
	}
	if n.Has(5) {
		if bias == nil {
			bias = n.Inputs[5]
		} else {
			bias = g.Add(bias, n.Inputs[5])
		}
	}
	outs := 1
	if n.Output(1) != nil || n.Output(2) != nil {
		outs = 3
	}
	y := g.attend(q, k, v, bias, n.Input(6), n.Input(7), n, n.Int("unidirectional", 0) != 0, outs)
	if n.Info(1).Rank() == 4 {
		y = append([]*onnx.Value{g.Op("Reshape", g.Transpose(y[0], 0, 2, 1, 3), g.Int64s(0, 0, -1))}, y[1:]...)
	}
	return y, nil
}

// groupQueryAttention attends to a cache of keys and values, into which the new ones are written: row b's at seqlens_k[b] + 1 less the number of
// new tokens. Several heads of queries may share one of keys and values.
func groupQueryAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	heads, kv := n.Int("num_heads", 0), n.Int("kv_num_heads", 0)
	switch {
	case heads < 1 || kv < 1 || heads%kv != 0:
		return nil, fmt.Errorf("%d heads of queries and %d of keys are out of range", heads, kv)
	case n.Has(12) || n.Has(13):
		return nil, fmt.Errorf("caches of integers are not supported")
	case !n.Has(5) || n.Has(3) != n.Has(4) || n.Has(1) != n.Has(2):
		return nil, fmt.Errorf("seqlens_k is required, and keys and values go together")
	case n.In[0].Rank() != 3:
		return nil, fmt.Errorf("the rank of the queries is not known, or not three")
	}
	query, key, value := n.Inputs[0], n.Input(1), n.Input(2)
	size := g.Op("Div", g.Dims(query, 2), g.Int64s(heads))
	if key == nil {
		size = g.Op("Div", g.Dims(query, 2), g.Int64s(heads+2*kv))
		qkv := g.Node("Split", 3, []*onnx.Value{query, g.Op("Mul", size, g.Int64s(heads, kv, kv))}, IntAttr("axis", 2))
		query, key, value = qkv[0], qkv[1], qkv[2]
	}
	split := func(v *onnx.Value, heads int64) *onnx.Value {
		return g.Transpose(g.Op("Reshape", v, g.Concat(g.Int64s(0, 0, heads), size)), 0, 2, 1, 3)
	}
	q, k, v := split(query, heads), split(key, kv), split(value, kv)
	// Where each row's new tokens begin: 0 in a first run, whose rows may be filled up at their ends.
	long := []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}
	tokens, one, zero := g.Dim(query, 1), g.Const(tensor.Scalar(int64(1))), g.Const(tensor.Scalar(int64(0)))
	begin := g.Op("Max", g.Sub(g.Add(g.With("Cast", long, g.Op("Reshape", n.Inputs[5], g.Int64s(-1))), one), tokens), zero)
	if n.Has(6) {
		first := g.Op("Equal", g.With("Cast", long, n.Inputs[6]), tokens)
		begin = g.Op("Where", first, zero, begin)
	}
	places := g.Add(g.Op("Unsqueeze", begin, g.Int64s(1)), g.Positions(query, 1)) // [batch, tokens]
	if n.Int("do_rotary", 0) != 0 {
		if !n.Has(7) || !n.Has(8) {
			return nil, fmt.Errorf("do_rotary needs cosines and sines")
		}
		ids := places
		if n.Has(9) {
			ids = n.Inputs[9]
		}
		turn := func(v *onnx.Value) *onnx.Value {
			return g.At(23, "RotaryEmbedding", 1, []*onnx.Value{v, n.Inputs[7], n.Inputs[8], ids}, IntAttr("interleaved", n.Int("rotary_interleaved", 0)))[0]
		}
		q, k = turn(q), turn(k)
	}
	if n.Has(3) {
		// The caches with room for all tokens.
		room := g.Dim(n.Inputs[3], 2)
		if n.Has(6) {
			room = g.Op("Max", room, g.Op("Reshape", g.With("Cast", long, n.Inputs[6]), g.Const(tensor.New([]int64{}, 0))))
		}
		more := g.Op("Unsqueeze", g.Sub(room, g.Dim(n.Inputs[3], 2)), g.Int64s(0))
		pads := g.Node("Concat", 1, []*onnx.Value{g.Int64s(0, 0, 0, 0, 0, 0), more, g.Int64s(0)}, IntAttr("axis", 0))[0]
		write := func(past, fresh *onnx.Value) *onnx.Value {
			return g.At(24, "TensorScatter", 1, []*onnx.Value{g.Op("Pad", past, pads), fresh, begin}, IntAttr("axis", 2))[0]
		}
		k, v = write(n.Inputs[3], k), write(n.Inputs[4], v)
	}
	// Each token sees those up to its own place, and no further back than the window.
	at, keys := g.Op("Unsqueeze", places, g.Int64s(1, 3)), g.Positions(k, 2)
	seen := g.Op("LessOrEqual", keys, at)
	if w := n.Int("local_window_size", -1); w > 0 {
		seen = g.Op("And", seen, g.Op("Greater", keys, g.Sub(at, g.Const(tensor.Scalar(w)))))
	}
	if n.Has(10) {
		seen = g.Op("Where", seen, n.Inputs[10], g.Like(query, math.Inf(-1)))
	}
	attrs := []*onnx.Attribute{}
	if scale := n.Float("scale", 0); scale != 0 {
		attrs = append(attrs, FloatAttr("scale", scale))
	}
	if c := n.Float("softcap", 0); c != 0 {
		attrs = append(attrs, FloatAttr("softcap", c))
	}
	keysOf, valuesOf := k, v
	if n.Int("smooth_softmax", 0) > 0 || n.Has(11) {
		// A sink is one more key, which is zero and of which nothing comes, with a score of its own.
		sink := g.Const(tensor.New(make([]float32, heads), int(heads)))
		if n.Has(11) {
			sink = n.Inputs[11]
		}
		if g.Info(seen).DType == tensor.Bool {
			seen = g.Op("Where", seen, g.Like(query, 0), g.Like(query, math.Inf(-1)))
		}
		like := g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(g.DType(seen)))}, g.Op("Reshape", sink, g.Int64s(1, heads, 1, 1)))
		along := func(axis int64, parts ...*onnx.Value) *onnx.Value {
			return g.Node("Concat", 1, parts, IntAttr("axis", axis))[0]
		}
		rows := along(0, g.Dims(query, 0), g.Int64s(heads), g.Dims(query, 1))
		seen = along(3, g.Op("Expand", seen, along(0, rows, g.Dims(k, 2))), g.Op("Expand", like, along(0, rows, g.Int64s(1))))
		none := g.Op("Expand", g.Like(k, 0), along(0, g.Dims(k, 0, 1), g.Int64s(1), g.Dims(k, 3)))
		keysOf, valuesOf = along(2, k, none), along(2, v, none)
	}
	y := g.At(23, "Attention", 1, []*onnx.Value{q, keysOf, valuesOf, seen}, attrs...)[0]
	y = g.Op("Reshape", g.Transpose(y, 0, 2, 1, 3), g.Concat(g.Int64s(0, 0), g.Op("Mul", size, g.Int64s(heads))))
	return []*onnx.Value{y, k, v}, nil
}
