package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators of com.microsoft in models whose attention is a recurrence (Qwen3-Next and its like), and in those that see images.
func init() {
	op := func(name string, minIn, maxIn, maxOut int, expand func(g *Grad, n *Node) ([]*onnx.Value, error)) Op {
		return Op{Domain: "com.microsoft", Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, MinOut: 1, MaxOut: maxOut, Expand: expand}
	}
	one := func(v *onnx.Value) ([]*onnx.Value, error) { return []*onnx.Value{v}, nil }
	register(
		op("LinearAttention", 3, 6, 2, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			heads, kv, width := n.Int("q_num_heads", 0), n.Int("kv_num_heads", 0), n.In[0]
			if heads < 1 || kv < 1 || heads%kv != 0 && kv%heads != 0 || width.Rank() != 3 || !width.Shape[2].Known() || int64(width.Shape[2].N)%heads != 0 {
				return nil, fmt.Errorf("%d heads of queries and %d of values do not suit queries of %v, whose width must be known", heads, kv, width.Shape)
			}
			size := int64(width.Shape[2].N) / heads
			attrs := []*onnx.Attribute{IntAttr("q_num_heads", max(heads, kv)), IntAttr("kv_num_heads", kv)}
			for _, a := range n.Attrs {
				switch a.Name {
				case "q_num_heads", "kv_num_heads", "chunk_size": // the last says how it is computed
				default:
					attrs = append(attrs, a)
				}
			}
			in := append([]*onnx.Value{}, n.Inputs...)
			for i := range 2 { // queries and keys of fewer heads than there are of values serve several
				own := n.In[i]
				if own.Rank() != 3 || !own.Shape[2].Known() || size == 0 || int64(own.Shape[2].N)%size != 0 {
					return nil, fmt.Errorf("input %d of %v has no heads of %d", i, own.Shape, size)
				}
				has := int64(own.Shape[2].N) / size
				if has < kv && has > 0 && kv%has == 0 {
					each := g.Op("Expand", g.Op("Reshape", in[i], g.Int64s(0, 0, has, 1, size)), g.Int64s(1, 1, 1, kv/has, 1))
					in[i] = g.Op("Reshape", each, g.Int64s(0, 0, kv*size))
				}
			}
			return g.At(27, "LinearAttention", 2, in, attrs...), nil
		}),
		op("CausalConvWithState", 2, 4, 2, causalConvWithState),
		op("LinearAttentionGate", 3, 4, 2, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			a := n.Inputs[0]
			d := g.DType(n.Inputs[1])
			out := []*onnx.Value{g.Cast(g.Mul(g.Op("Softplus", g.Add(g.Cast(a, d), n.Inputs[1])), n.Inputs[2]), g.DType(a)), nil}
			if n.Output(1) != nil {
				if !n.Has(3) {
					return nil, fmt.Errorf("the output beta needs input 3, which is left out")
				}
				out[1] = g.Op("Sigmoid", n.Inputs[3])
			}
			return out, nil
		}),
		op("GatedRMSNorm", 3, 3, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			x, scale, gate := n.Inputs[0], n.Inputs[1], n.Inputs[2]
			half := g.DType(x)
			if half == tensor.Float16 || half == tensor.BFloat16 { // rounded at the end alone
				x, scale, gate = g.Cast(x, tensor.Float32), g.Cast(scale, tensor.Float32), g.Cast(gate, tensor.Float32)
			}
			rows := g.Op("Reshape", x, g.Concat(g.Int64s(-1), g.Dims(scale, 0))) // of which an axis may have several
			y := g.ReshapeLike(g.At(23, "RMSNormalization", 1, []*onnx.Value{rows, scale}, FloatAttr("epsilon", n.Float("epsilon", 1e-5)))[0], x)
			open := g.Op("Sigmoid", gate)
			switch act := n.Str("activation", "silu"); act { // ONNX Runtime 1.30 has silu alone
			case "silu", "swish":
				open = g.Mul(gate, open)
			case "sigmoid":
			default:
				return nil, fmt.Errorf("activation %q is none of silu, swish, sigmoid", act)
			}
			return one(g.Cast(g.Mul(y, open), half))
		}),
		op("GatedAdd", 3, 3, 1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return one(g.Add(n.Inputs[0], g.Mul(n.Inputs[1], n.Inputs[2])))
		}),
		op("MRotaryEmbedding", 4, 4, 1, mRotaryEmbedding),
	)
}

// causalConvWithState is the standard's, with taps that may be apart, and channels that may come last, as several axes.
func causalConvWithState(g *Grad, n *Node) ([]*onnx.Value, error) {
	x, w, past, apart := n.Inputs[0], n.Inputs[1], n.Input(3), n.Int("dilation", 1)
	if n.Int("ndim", 1) != 1 || n.Int("state_window", 0) != 0 {
		return nil, fmt.Errorf("more than one spatial axis and windows of states are not supported")
	}
	if apart < 1 || apart > maxWindow {
		return nil, fmt.Errorf("dilation %d is out of range", apart)
	}
	if apart > 1 { // taps of zero between those that are there
		w = g.Op("Pad", g.Op("Unsqueeze", w, g.Int64s(3)), g.Int64s(0, 0, 0, 0, 0, 0, 0, apart-1))
		w = g.Op("Slice", g.Op("Reshape", w, g.Int64s(0, 0, -1)), g.Int64s(0), g.Int64s(1-apart), g.Int64s(2))
	}
	shape, last := g.Shape(x), n.Int("channels_last", 0) != 0
	first := func(v *onnx.Value) *onnx.Value {
		if v == nil || !last {
			return v
		}
		return g.Transpose(g.Op("Reshape", v, g.Concat(g.Dims(v, 0, 1), g.Dims(w, 0))), 0, 2, 1)
	}
	out := g.At(27, "CausalConvWithState", 2, []*onnx.Value{first(x), w, n.Input(2), first(past)}, StringAttr("activation", n.Str("activation", "none")))
	if !last {
		return out, nil
	}
	y, state := g.Transpose(out[0], 0, 2, 1), g.Transpose(out[1], 0, 2, 1)
	return []*onnx.Value{g.Reshape(y, shape), g.Reshape(state, g.Concat(g.Dims(state, 0, 1), g.Tail(shape, 2)))}, nil
}

// mRotaryEmbedding is RotaryEmbedding with three positions for each token, in time, height and width, [3, batch, tokens], each of which
// turns its own columns.
func mRotaryEmbedding(g *Grad, n *Node) ([]*onnx.Value, error) {
	sections, layout := n.Ints("mrope_section", nil), n.Int("mrope_layout", 0)
	if len(sections) != 3 || layout != 0 && layout != 1 {
		return nil, fmt.Errorf("mrope_section %v and mrope_layout %d are out of range", sections, layout)
	}
	half := n.In[2]
	if half.Rank() != 2 || !half.Shape[1].Known() || half.Shape[1].N > maxWindow {
		return nil, fmt.Errorf("the width of the cosines must be known")
	}
	width := half.Shape[1].N
	if s := sections; s[0] < 0 || s[1] < 0 || s[2] < 0 || s[0] > maxWindow || s[1] > maxWindow || s[0]+s[1]+s[2] != int64(width) {
		return nil, fmt.Errorf("mrope_section %v does not make up the %d columns of the cosines", sections, width)
	}
	of := make([][]bool, 2) // columns of time and height
	for i := range of {
		of[i] = make([]bool, width)
	}
	for c := range width {
		at := int64(c)
		height, wide := at >= sections[0] && at < sections[0]+sections[1], at >= sections[0]+sections[1]
		if layout == 1 {
			height, wide = c%3 == 1 && at < 3*sections[1], c%3 == 2 && at < 3*sections[2]
		}
		of[0][c], of[1][c] = !height && !wide, height
	}
	scale := float64(n.Float("scale", 1))
	ids := g.Op("Expand", n.Inputs[1], g.Concat(g.Int64s(3), g.Dims(n.Inputs[0], 0), g.Dims(n.Inputs[1], 2)))
	turn := func(cache *onnx.Value) *onnx.Value {
		rows := g.Op("Gather", cache, ids) // [3, batch, tokens, width]
		stream := func(i int64) *onnx.Value { return g.Op("Gather", rows, g.Const(tensor.Scalar(i))) }
		y := g.Op("Where", g.Const(tensor.New(of[1], width)), stream(1), stream(2))
		y = g.Op("Where", g.Const(tensor.New(of[0], width)), stream(0), y)
		if scale != 1 {
			y = g.Mul(y, g.Like(y, scale))
		}
		return y
	}
	heads := n.Int("num_heads", 0)
	if heads < 1 && n.In[0].Rank() != 4 {
		return nil, fmt.Errorf("num_heads %d is out of range", heads)
	}
	return g.At(23, "RotaryEmbedding", 1, []*onnx.Value{n.Inputs[0], turn(n.Inputs[2]), turn(n.Inputs[3])}, IntAttr("interleaved", n.Int("interleaved", 0)),
		IntAttr("num_heads", heads), IntAttr("rotary_embedding_dim", n.Int("rotary_embedding_dim", 0))), nil
}
