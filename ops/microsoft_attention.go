package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Attention of com.microsoft, by way of the standard's.
func init() {
	op := func(name string, minIn, maxIn, maxOut int, expand func(g *Grad, n *Node) ([]*onnx.Value, error)) Op {
		return Op{Domain: "com.microsoft", Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, MinOut: 1, MaxOut: maxOut, Expand: expand}
	}
	register(
		op("Attention", 2, 7, 2, microsoftAttention),
		op("MultiHeadAttention", 1, 10, 4, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return g.multiHeadAttention(n, attentionInputs{n.Inputs[0], n.Input(1), n.Input(2), n.Input(3), n.Input(4), n.Input(5), n.Input(6), n.Input(7), n.Input(8), n.Input(9)})
		}),
		// The same in the steps after the first.
		op("DecoderMaskedMultiHeadAttention", 1, 11, 4, decoderAttention),
		op("GroupQueryAttention", 1, 16, 4, groupQueryAttention),
		op("SparseAttention", 1, 11, 3, sparseAttention),
		op("RotaryEmbedding", 4, 4, 1, rotaryEmbedding),
	)
}

// masked is a bias of the scores, or none, with an attention mask: lengths [B], or ones and zeros [B,T], [B,S,T] or, of all queries that there were and
// will be, [B,1,M,M]. like has the batch, length is the number of keys, a scalar, of which as many as the queries are new.
func (g *Grad) masked(n *Node, bias, mask, like, queries, length *onnx.Value) (*onnx.Value, error) {
	if mask == nil {
		return bias, nil
	}
	info := g.Info(mask)
	if !info.Ranked {
		return nil, fmt.Errorf("the rank of the mask is not known")
	}
	var keep *onnx.Value
	switch len(info.Shape) {
	case 1: // where each row ends; of twice as many, the second half says where it begins
		at := g.Op("Range", g.Const(tensor.Scalar(int64(0))), length, g.Const(tensor.Scalar(int64(1))))
		bound := g.Op("Unsqueeze", g.Cast(mask, tensor.Int64), g.Int64s(1))
		switch b, m := g.Info(like).batch(), info.Shape[0]; {
		case !b.Known() || !m.Known() || m.N == b.N:
			keep = g.Op("Less", at, bound)
		case m.N == 2*b.N:
			half := g.Node("Split", 2, []*onnx.Value{bound}, IntAttr("axis", 0), IntAttr("num_outputs", 2))
			keep = g.Op("And", g.Op("Less", at, half[0]), g.Op("GreaterOrEqual", at, half[1]))
		case m.N == 3*b.N+2: // and where the rows of queries and of keys begin if they are put one after the other
			keep = g.Op("Less", at, g.Op("Slice", bound, g.Int64s(0), g.Int64s(int64(b.N))))
		default:
			return nil, fmt.Errorf("a mask of %v does not suit a batch of %d", info.Shape, b.N)
		}
		keep = g.Op("Unsqueeze", keep, g.Int64s(1, 2))
	case 2:
		if info.Shape[1].N == 1 {
			return bias, nil // the same for all keys, which the softmax takes out
		}
		mask = g.Op("Expand", mask, g.Concat(g.Int64s(1), g.Op("Unsqueeze", length, g.Int64s(0))))
		keep = g.Op("Unsqueeze", g.Cast(mask, tensor.Bool), g.Int64s(1, 2))
	case 3:
		keep = g.Op("Unsqueeze", g.Cast(mask, tensor.Bool), g.Int64s(1))
	case 4:
		end := g.Op("Unsqueeze", length, g.Int64s(0))
		begin := g.Concat(g.Sub(end, g.Op("Unsqueeze", queries, g.Int64s(0))), g.Int64s(0))
		keep = g.Cast(g.Op("Slice", mask, begin, g.Concat(end, end), g.Int64s(2, 3)), tensor.Bool)
	default:
		return nil, fmt.Errorf("a mask of rank %d is not supported", len(info.Shape))
	}
	added := g.Op("Where", keep, g.Like(like, 0), g.Like(like, float64(n.Float("mask_filter_value", -10000))))
	if bias != nil {
		added = g.Add(added, bias)
	}
	return added, nil
}

// batch is the first dimension, as far as it is known.
func (i Info) batch() Dim {
	if i.Rank() < 1 {
		return Unknown
	}
	return i.Shape[0]
}

// attend gives what Attention gives: the result, keys and values with an axis of heads, and the scores as they go into the softmax.
func (g *Grad) attend(q, k, v, bias, pastK, pastV *onnx.Value, n *Node, causal bool, outs int) []*onnx.Value {
	heads := n.Int("num_heads", 0)
	attrs := []*onnx.Attribute{IntAttr("q_num_heads", heads), IntAttr("kv_num_heads", heads)}
	if scale := n.Float("scale", 0); scale != 0 {
		attrs = append(attrs, FloatAttr("scale", scale))
	}
	if causal {
		attrs = append(attrs, IntAttr("is_causal", 1))
	}
	if outs > 3 {
		attrs = append(attrs, IntAttr("qk_matmul_output_mode", 2))
	}
	y := make([]*onnx.Value, 4)
	copy(y, g.At(23, "Attention", outs, []*onnx.Value{q, k, v, bias, pastK, pastV}, attrs...))
	return y
}

// microsoftAttention is Attention: one product makes queries, keys and values.
func microsoftAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	x := g.MatMul(n.Inputs[0], n.Inputs[1])
	if n.Has(2) {
		x = g.Add(x, n.Inputs[2])
	}
	return g.packedAttention(n, x, n.In[1], n.Input(3), n.Input(4), n.Input(5), n.Input(6))
}

// packedAttention attends with queries, keys and values beside each other in x, of the columns of w. filled is how much of the buffer past there
// is, where the new keys and values are written into that.
func (g *Grad) packedAttention(n *Node, x *onnx.Value, w Info, mask, past, bias, filled *onnx.Value) ([]*onnx.Value, error) {
	heads, shared := n.Int("num_heads", 0), n.Int("past_present_share_buffer", 0) != 0 && past != nil
	switch {
	case heads < 1:
		return nil, fmt.Errorf("num_heads %d is out of range", heads)
	case w.Rank() != 2:
		return nil, fmt.Errorf("the rank of the weights is not known")
	case shared && filled == nil:
		return nil, fmt.Errorf("past_present_share_buffer needs past_sequence_length")
	}
	sizes, width := n.Ints("qkv_hidden_sizes", nil), w.Shape[1]
	if sizes == nil && width.Known() {
		if width.N%3 != 0 {
			return nil, fmt.Errorf("weights of %v are not those of queries, keys and values", w.Shape)
		}
		third := int64(width.N / 3)
		sizes = []int64{third, third, third}
	}
	var qkv []*onnx.Value
	switch len(sizes) {
	case 0:
		qkv = slices.Clone(g.Node("Split", 3, []*onnx.Value{x}, IntAttr("axis", 2), IntAttr("num_outputs", 3)))
	case 3:
		qkv = slices.Clone(g.Node("Split", 3, []*onnx.Value{x, g.Int64s(sizes...)}, IntAttr("axis", 2)))
	default:
		return nil, fmt.Errorf("qkv_hidden_sizes %v should be three", sizes)
	}
	scalar := func(i int64) *onnx.Value { return g.Const(tensor.Scalar(i)) }
	queries := g.Dim(x, 1)
	length, before := queries, scalar(0)
	var pastK, pastV, bufferK, bufferV *onnx.Value
	if past != nil {
		pastK, pastV = g.Op("Gather", past, scalar(0)), g.Op("Gather", past, scalar(1))
		before = g.Dim(past, 3)
		if shared {
			before = g.scalarOf(filled)
			bufferK, bufferV = pastK, pastV
			pastK, pastV = g.filled(pastK, before), g.filled(pastV, before)
		}
		length = g.Add(length, before)
	}
	if n.Int("do_rotary", 0) != 0 {
		if sizes == nil {
			return nil, fmt.Errorf("do_rotary needs weights of a known width")
		}
		dim := n.Int("rotary_embedding_dim", 0)
		if dim == 0 {
			dim = sizes[0] / heads
		}
		if dim < 2 || dim%2 != 0 || dim > sizes[0]/heads {
			return nil, fmt.Errorf("%d of a head's %d elements cannot be rotated", dim, sizes[0]/heads)
		}
		cos, sin := g.rotaryTables(x, before, dim)
		for i := range 2 {
			qkv[i] = g.At(23, "RotaryEmbedding", 1, []*onnx.Value{qkv[i], cos, sin}, IntAttr("num_heads", heads), IntAttr("rotary_embedding_dim", dim))[0]
		}
	}
	bias, err := g.masked(n, bias, mask, x, queries, length)
	if err != nil {
		return nil, err
	}
	outs := 1
	if n.Output(1) != nil && !shared {
		outs = 3
	}
	y := g.attend(qkv[0], qkv[1], qkv[2], bias, pastK, pastV, n, n.Int("unidirectional", 0) != 0, outs)
	if n.Output(1) == nil {
		return y[:1], nil
	}
	if shared {
		y[1], y[2] = g.fill(bufferK, g.split(qkv[1], heads), before), g.fill(bufferV, g.split(qkv[2], heads), before)
	}
	zero := g.Int64s(0)
	present := g.Node("Concat", 1, []*onnx.Value{g.Op("Unsqueeze", y[1], zero), g.Op("Unsqueeze", y[2], zero)}, IntAttr("axis", 0))
	return []*onnx.Value{y[0], present[0]}, nil
}

// scalarOf is one integer, in whatever shape, as a scalar of 64 bits.
func (g *Grad) scalarOf(v *onnx.Value) *onnx.Value {
	return g.Op("Reshape", g.Cast(v, tensor.Int64), g.Int64s())
}

// split gives [batch, tokens, heads·size] an axis of heads: [batch, heads, tokens, size].
func (g *Grad) split(v *onnx.Value, heads int64) *onnx.Value {
	return g.Transpose(g.Op("Reshape", v, g.Int64s(0, 0, heads, -1)), 0, 2, 1, 3)
}

// unsplit is split backwards.
func (g *Grad) unsplit(v *onnx.Value) *onnx.Value {
	return g.Op("Reshape", g.Transpose(v, 0, 2, 1, 3), g.Int64s(0, 0, -1))
}

// splitAll gives n's queries, keys and values, of which the first may have all in its columns, an axis of heads.
func (g *Grad) splitAll(n *Node, heads, kv int64) (q, k, v *onnx.Value) {
	if n.Has(1) {
		return g.split(n.Inputs[0], heads), g.split(n.Inputs[1], kv), g.split(n.Inputs[2], kv)
	}
	qkv := g.Node("Split", 3, []*onnx.Value{g.split(n.Inputs[0], heads+2*kv), g.Int64s(heads, kv, kv)}, IntAttr("axis", 1))
	return qkv[0], qkv[1], qkv[2]
}

// filled is the first tokens of a buffer [batch, heads, tokens, size].
func (g *Grad) filled(buffer, tokens *onnx.Value) *onnx.Value {
	return g.Op("Slice", buffer, g.Int64s(0), g.Op("Unsqueeze", tokens, g.Int64s(0)), g.Int64s(2))
}

// fill writes fresh tokens into a buffer from that token on.
func (g *Grad) fill(buffer, fresh, at *onnx.Value) *onnx.Value {
	return g.At(24, "TensorScatter", 1, []*onnx.Value{buffer, fresh, g.Op("Expand", at, g.Dims(buffer, 0))}, IntAttr("axis", 2))[0]
}

// rotaryTables are cosines and sines [batch, tokens, dim/2] for the tokens of x, of which before are past: frequencies of 10000^(-2i/dim).
func (g *Grad) rotaryTables(x, before *onnx.Value, dim int64) (cos, sin *onnx.Value) {
	turns := make([]float64, dim/2)
	for i := range turns {
		turns[i] = math.Pow(10000, -2*float64(i)/float64(dim))
	}
	places := g.Op("Unsqueeze", g.Cast(g.Add(g.Positions(x, 1), before), tensor.Float64), g.Int64s(1))
	angles := g.Mul(places, g.Const(tensor.New(turns)))
	shape := g.Concat(g.Dims(x, 0, 1), g.Int64s(dim/2))
	table := func(op string) *onnx.Value { return g.Op("Expand", g.Cast(g.Op(op, angles), g.DType(x)), shape) }
	return table("Cos"), table("Sin")
}

// rotaryEmbedding takes positions for each token or the first one for all, and heads that may have to be counted by the width of the cosines. Whether
// the tokens are of packed sequences is all the same, since each has its position, and so is a scale, which is for tables that would have to be made longer.
func rotaryEmbedding(g *Grad, n *Node) ([]*onnx.Value, error) {
	x, places := n.Inputs[0], n.Inputs[1]
	rank, heads, dim := n.Info(0).Rank(), n.Int("num_heads", 0), n.Int("rotary_embedding_dim", 0)
	switch {
	case rank != 3 && rank != 4 || n.Info(1).Rank() < 0 || n.Info(1).Rank() > 2:
		return nil, fmt.Errorf("the ranks of the input and the positions must be known")
	case dim != 0 && heads == 0 && rank == 3:
		return nil, fmt.Errorf("rotary_embedding_dim needs num_heads")
	}
	if n.Info(1).Rank() < 2 {
		tokens := int64(rank - 2)
		places = g.Op("Expand", g.Add(g.scalarOf(places), g.Positions(x, tokens)), g.Dims(x, 0, tokens))
	}
	if rank == 4 {
		return []*onnx.Value{g.rotate(x, n.Inputs[2], n.Inputs[3], places, n.Int("interleaved", 0), dim)}, nil
	}
	count := g.Int64s(heads)
	if heads == 0 {
		count = g.Div(g.Dims(x, 2), g.Mul(g.Dims(n.Inputs[2], 1), g.Int64s(2)))
	}
	if width, table := n.Info(0).Shape[2], n.Info(2); heads == 0 && width.Known() && table.Rank() == 2 && table.Shape[1].N > 0 {
		heads = int64(width.N / (2 * table.Shape[1].N))
	}
	if heads > 0 {
		return g.At(23, "RotaryEmbedding", 1, []*onnx.Value{x, n.Inputs[2], n.Inputs[3], places}, IntAttr("interleaved", n.Int("interleaved", 0)),
			IntAttr("num_heads", heads), IntAttr("rotary_embedding_dim", dim)), nil
	}
	x = g.Transpose(g.Reshape(x, g.Concat(g.Dims(x, 0, 1), count, g.Int64s(-1))), 0, 2, 1, 3)
	x = g.rotate(x, n.Inputs[2], n.Inputs[3], places, n.Int("interleaved", 0), dim)
	return []*onnx.Value{g.ReshapeLike(g.Transpose(x, 0, 2, 1, 3), n.Inputs[0])}, nil
}

// rotate turns heads that are an axis: [batch, heads, tokens, size].
func (g *Grad) rotate(x, cos, sin, places *onnx.Value, interleaved, dim int64) *onnx.Value {
	return g.At(23, "RotaryEmbedding", 1, []*onnx.Value{x, cos, sin, places}, IntAttr("interleaved", interleaved), IntAttr("rotary_embedding_dim", dim))[0]
}

// rotated is how much of a head tables turn, 0, which is for all of it, if that is not known.
func (g *Grad) rotated(cos *onnx.Value) int64 {
	if t := g.Info(cos); t.Rank() == 2 && t.Shape[1].Known() {
		return 2 * int64(t.Shape[1].N)
	}
	return 0
}

// attentionInputs are those of attention whose queries, keys and values are made before.
type attentionInputs struct {
	q, k, v      *onnx.Value
	bias         *onnx.Value // of all three
	mask, added  *onnx.Value
	pastK, pastV *onnx.Value
	filled       *onnx.Value // how much of past is: the new keys and values are written into that buffer; nil: all
	beams        *onnx.Value // [batch, beams, tokens]: of which beam each token of past is
}

// multiHeadAttention takes queries, keys and values of three axes each; keys and values with an axis of heads; or packed: the queries have all
// three, [batch, tokens, heads, 3, size] or side by side, or the keys have values as well, [batch, tokens, heads, 2, size].
func (g *Grad) multiHeadAttention(n *Node, in attentionInputs) ([]*onnx.Value, error) {
	count := n.Int("num_heads", 0)
	rank := func(v *onnx.Value) int { return g.Info(v).Rank() }
	width := func(v *onnx.Value) Dim { return g.Info(v).Shape[2] }
	part := func(v *onnx.Value, i int64) *onnx.Value { // of a packed tensor
		v = g.With("Gather", []*onnx.Attribute{IntAttr("axis", 3)}, v, g.Const(tensor.Scalar(i)))
		return g.Op("Reshape", v, g.Int64s(0, 0, -1))
	}
	q, k, v := in.q, in.k, in.v
	switch {
	case count < 1 || count > maxWindow:
		return nil, fmt.Errorf("num_heads %d is out of range", count)
	case rank(q) == 5 && k == nil && v == nil:
		q, k, v = part(q, 0), part(q, 1), part(q, 2)
	case rank(q) == 3 && k == nil && v == nil:
		qkv := g.Node("Split", 3, []*onnx.Value{q}, IntAttr("axis", 2), IntAttr("num_outputs", 3))
		q, k, v = qkv[0], qkv[1], qkv[2]
		if w := width(in.q); w.Known() && w.N%3 != 0 {
			return nil, fmt.Errorf("queries, keys and values in %d columns have not the same widths", w.N)
		}
	case rank(q) == 3 && k != nil && rank(k) == 5 && v == nil:
		k, v = part(k, 0), part(k, 1)
	case rank(q) != 3 || k == nil || v == nil || rank(k) != rank(v) || rank(k) != 3 && rank(k) != 4:
		return nil, fmt.Errorf("queries, keys and values of unknown ranks, or of ranks that do not go together")
	}
	whole := rank(k) == 4 // keys and values are those of all tokens, as they are
	if in.bias != nil {
		if whole {
			q = g.Add(q, g.Op("Slice", in.bias, g.Int64s(0), g.Dims(q, 2)))
		} else {
			parts := g.Node("Split", 3, []*onnx.Value{in.bias, g.Concat(g.Dims(q, 2), g.Dims(k, 2), g.Dims(v, 2))}, IntAttr("axis", 0))
			q, k, v = g.Add(q, parts[0]), g.Add(k, parts[1]), g.Add(v, parts[2])
		}
	}
	axis := int64(1)
	if whole { // Attention wants one form for all three
		axis, q = 2, g.split(q, count)
	}
	queries, length := g.Dim(in.q, 1), g.Dim(k, axis)
	pastK, pastV := in.pastK, in.pastV
	var before *onnx.Value // where the new tokens go in a buffer
	if pastK != nil && pastV != nil {
		if in.filled != nil {
			before = g.scalarOf(in.filled)
			pastK, pastV = g.filled(pastK, before), g.filled(pastV, before)
		}
		if in.beams != nil {
			pastK, pastV = g.ofBeams(pastK, in.beams), g.ofBeams(pastV, in.beams)
		}
		length = g.Add(length, g.Dim(pastK, 2))
	} else if in.beams != nil {
		return nil, fmt.Errorf("cache_indirection needs past keys and values")
	}
	added, err := g.masked(n, in.added, in.mask, in.q, queries, length)
	if err != nil {
		return nil, err
	}
	outs := 1
	switch {
	case n.Output(3) != nil:
		outs = 4
	case n.Output(1) != nil || n.Output(2) != nil:
		outs = 3
	}
	y := g.attend(q, k, v, added, pastK, pastV, n, n.Int("unidirectional", 0) != 0, outs)
	if whole {
		y[0] = g.unsplit(y[0])
	}
	if before != nil && outs >= 3 {
		y[1], y[2] = g.fill(in.pastK, g.split(k, count), before), g.fill(in.pastV, g.split(v, count), before)
	}
	return y, nil
}

// ofBeams puts each sequence's past together of those of its batch's beams: token t of beam j is beam [batch, j, t]'s.
func (g *Grad) ofBeams(past, beams *onnx.Value) *onnx.Value {
	tokens := g.Dims(past, 2)
	at := g.Op("Slice", g.Cast(beams, tensor.Int64), g.Int64s(0), tokens, g.Int64s(2))
	at = g.Op("Unsqueeze", g.Transpose(at, 2, 0, 1), g.Int64s(3)) // [tokens, batch, beams, 1]
	all := g.Reshape(past, g.Concat(g.Dims(beams, 0, 1), g.Dims(past, 1, 2, 3)))
	all = g.With("GatherND", []*onnx.Attribute{IntAttr("batch_dims", 2)}, g.Transpose(all, 3, 0, 1, 2, 4), at)
	return g.Reshape(g.Transpose(all, 1, 2, 3, 0, 4), g.Shape(past))
}

// decoderAttention has the inputs of MultiHeadAttention in another order, and a buffer of past keys and values if an attribute says so.
func decoderAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	in := attentionInputs{n.Inputs[0], n.Input(1), n.Input(2), n.Input(10), n.Input(3), n.Input(4), n.Input(5), n.Input(6), nil, n.Input(9)}
	if n.Int("past_present_share_buffer", 0) != 0 && in.pastK != nil {
		if in.filled = n.Input(7); in.filled == nil {
			return nil, fmt.Errorf("past_present_share_buffer needs past_sequence_length")
		}
	}
	if n.Has(8) && in.beams == nil {
		beams := g.Info(n.Inputs[8]).Const
		if beams == nil || beams.Len() != 1 || tensor.Float64At(beams, 0) != 1 {
			return nil, fmt.Errorf("several beams need cache_indirection")
		}
	}
	return g.multiHeadAttention(n, in)
}

// groupQueryAttention attends to a cache of keys and values, into which the new ones are written: row b's at seqlens_k[b] + 1 less the number of
// new tokens. Several heads of queries may share one of keys and values. The cache may be of bytes, or of halves of bytes.
func groupQueryAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	heads, kv := n.Int("num_heads", 0), n.Int("kv_num_heads", 0)
	causal, window, report := n.Int("causal", 1) != 0, n.Int("local_window_size", -1), n.Int("qk_output", 0)
	switch {
	case heads < 1 || kv < 1 || heads%kv != 0 || heads > maxWindow:
		return nil, fmt.Errorf("%d heads of queries and %d of keys are out of range", heads, kv)
	case n.Int("sliding_window_cache", 0) != 0:
		return nil, fmt.Errorf("sliding_window_cache is not supported")
	case !n.Has(5) || n.Has(3) != n.Has(4) || n.Has(1) != n.Has(2) || n.Has(7) != n.Has(8) || n.Has(14) != n.Has(15):
		return nil, fmt.Errorf("seqlens_k is required; keys and values, cosines and sines, and the weights of norms go together")
	case !causal && window > 0:
		return nil, fmt.Errorf("local_window_size needs causal attention")
	case report < 0 || report > 2 || n.Output(3) != nil && report == 0:
		return nil, fmt.Errorf("qk_output %d does not say what output 3 is", report)
	}
	query := n.Inputs[0]
	q, k, v := g.splitAll(n, heads, kv)
	if n.Has(14) {
		norm := func(v, weight *onnx.Value) *onnx.Value {
			return g.At(23, "RMSNormalization", 1, []*onnx.Value{v, weight}, IntAttr("axis", -1), FloatAttr("epsilon", n.Float("qk_norm_epsilon", 1e-6)))[0]
		}
		q, k = norm(q, n.Inputs[14]), norm(k, n.Inputs[15])
	}
	// Where each row's new tokens begin: 0 in a first run, whose rows may be filled up at their ends.
	tokens, one, zero := g.Dim(query, 1), g.Const(tensor.Scalar(int64(1))), g.Const(tensor.Scalar(int64(0)))
	lengths := g.Add(g.Op("Reshape", g.Cast(n.Inputs[5], tensor.Int64), g.Int64s(-1)), one)
	begin := g.Op("Max", g.Sub(lengths, tokens), zero)
	var total, first *onnx.Value
	if n.Has(6) {
		total = g.scalarOf(n.Inputs[6])
		first = g.Op("Equal", total, tokens)
		begin = g.Op("Where", first, zero, begin)
	}
	places := g.Add(g.Op("Unsqueeze", begin, g.Int64s(1)), g.Positions(query, 1)) // [batch, tokens]
	if n.Int("do_rotary", 0) != 0 {
		if !n.Has(7) {
			return nil, fmt.Errorf("do_rotary needs cosines and sines")
		}
		ids := places
		if n.Has(9) {
			if ids = n.Inputs[9]; first != nil { // a first run counts on from the first of them all
				from := g.Op("Gather", g.Flat(ids), zero)
				ids = g.Op("Where", first, g.Op("Expand", g.Add(from, g.Positions(query, 1)), g.Shape(places)), ids)
			}
		}
		var dim int64
		if t := n.Info(7); t.Rank() == 2 && t.Shape[1].Known() {
			dim = 2 * int64(t.Shape[1].N)
		}
		turn := func(v *onnx.Value) *onnx.Value {
			return g.rotate(v, n.Inputs[7], n.Inputs[8], ids, n.Int("rotary_interleaved", 0), dim)
		}
		q, k = turn(q), turn(k)
	}
	presentK, presentV := k, v
	if n.Has(3) {
		var err error
		if presentK, k, err = g.cached(n, 0, k, total, begin); err != nil {
			return nil, err
		}
		if presentV, v, err = g.cached(n, 1, v, total, begin); err != nil {
			return nil, err
		}
	} else if n.Has(12) || n.Has(13) {
		return nil, fmt.Errorf("without a past there is no telling the cache's element type")
	}
	// Each token sees those up to its own place, and no further back than the window.
	at, keys := g.Op("Unsqueeze", places, g.Int64s(1, 3)), g.Positions(k, 2)
	visible := g.Op("LessOrEqual", keys, at)
	if !causal {
		visible = g.Op("Less", keys, g.Op("Unsqueeze", lengths, g.Int64s(1, 2, 3)))
	}
	if window > 0 {
		visible = g.Op("And", visible, g.Op("Greater", keys, g.Sub(at, g.Const(tensor.Scalar(window)))))
	}
	seen := visible
	if n.Has(10) {
		bias := n.Inputs[10]
		if total != nil { // which has no columns for what the cache has room for beyond
			more := g.Op("Unsqueeze", g.Sub(g.Dim(k, 2), g.Dim(bias, 3)), g.Int64s(0))
			bias = g.Op("Pad", bias, g.Concat(g.Int64s(0, 0, 0, 0, 0, 0, 0), more))
		}
		seen = g.Op("Where", seen, bias, g.Like(query, math.Inf(-1)))
	}
	attrs := []*onnx.Attribute{}
	if scale := n.Float("scale", 0); scale != 0 {
		attrs = append(attrs, FloatAttr("scale", scale))
	}
	if c := n.Float("softcap", 0); c != 0 {
		attrs = append(attrs, FloatAttr("softcap", c))
	}
	if n.Int("smooth_softmax", 0) > 0 || n.Has(11) {
		// A sink is one more key, which is zero and of which nothing comes, with a score of its own.
		sink := g.Const(tensor.New(make([]float32, heads), int(heads)))
		if n.Has(11) {
			sink = n.Inputs[11]
		}
		if g.Info(seen).DType == tensor.Bool {
			seen = g.Op("Where", seen, g.Like(query, 0), g.Like(query, math.Inf(-1)))
		}
		like := g.Cast(g.Op("Reshape", sink, g.Int64s(1, heads, 1, 1)), g.DType(seen))
		along := func(axis int64, parts ...*onnx.Value) *onnx.Value {
			return g.Node("Concat", 1, parts, IntAttr("axis", axis))[0]
		}
		rows := along(0, g.Dims(query, 0), g.Int64s(heads), g.Dims(query, 1))
		seen = along(3, g.Op("Expand", seen, along(0, rows, g.Dims(k, 2))), g.Op("Expand", like, along(0, rows, g.Int64s(1))))
		none := g.Op("Expand", g.Like(k, 0), along(0, g.Dims(k, 0, 1), g.Int64s(1), g.Dims(k, 3)))
		k, v = along(2, k, none), along(2, v, none)
	}
	outs := 1
	if n.Output(3) != nil {
		outs, attrs = 4, append(attrs, IntAttr("qk_matmul_output_mode", report+1))
	}
	y := g.At(23, "Attention", outs, []*onnx.Value{q, k, v, seen}, attrs...)
	out := []*onnx.Value{g.unsplit(y[0]), presentK, presentV, nil}
	if outs == 4 { // of the keys that there are, 0 for those that are not seen
		count := g.Dims(keys, 0)
		if total != nil {
			count = g.Op("Unsqueeze", total, g.Int64s(0))
		}
		cut := func(v *onnx.Value) *onnx.Value { return g.Op("Slice", v, g.Int64s(0), count, g.Int64s(3)) }
		out[3] = g.Op("Where", cut(visible), cut(y[3]), g.Like(query, 0))
	}
	return out, nil
}

// sparseAttention attends to a buffer of keys and values, into which the new ones are written, in blocks: of which blocks of keys a block of queries
// sees any, layouts say that the heads have by turns, as matrices of compressed rows.
func sparseAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	heads, kv, size := n.Int("num_heads", 0), n.Int("kv_num_heads", 0), n.Int("sparse_block_size", 0)
	switch {
	case heads < 1 || kv < 1 || heads%kv != 0 || heads > maxWindow:
		return nil, fmt.Errorf("%d heads of queries and %d of keys are out of range", heads, kv)
	case size < 1 || size > maxWindow:
		return nil, fmt.Errorf("sparse_block_size %d is out of range", size)
	case n.Has(1) != n.Has(2) || !n.Has(3) || !n.Has(4) || !n.Has(5) || !n.Has(6) || !n.Has(7) || !n.Has(8):
		return nil, fmt.Errorf("past keys and values, blocks and lengths are required, and keys and values go together")
	}
	scalar := func(i int64) *onnx.Value { return g.Const(tensor.Scalar(i)) }
	count := func(length *onnx.Value) *onnx.Value { return g.Op("Range", scalar(0), length, scalar(1)) }
	q, k, v := g.splitAll(n, heads, kv)
	tokens, total := g.Dim(n.Inputs[0], 1), g.scalarOf(n.Inputs[7])
	begin := g.Op("Max", g.Sub(g.Op("Reshape", g.Cast(n.Inputs[8], tensor.Int64), g.Int64s(-1)), tokens), scalar(0))
	begin = g.Op("Where", g.Op("Equal", total, tokens), scalar(0), begin)
	places := g.Add(g.Op("Unsqueeze", begin, g.Int64s(1)), g.Positions(n.Inputs[0], 1)) // [batch, tokens]
	if n.Int("do_rotary", 0) != 0 {
		if !n.Has(9) || !n.Has(10) {
			return nil, fmt.Errorf("do_rotary needs cosines and sines")
		}
		dim := g.rotated(n.Inputs[9])
		turn := func(v *onnx.Value) *onnx.Value {
			return g.rotate(v, n.Inputs[9], n.Inputs[10], places, n.Int("rotary_interleaved", 0), dim)
		}
		q, k = turn(q), turn(k)
	}
	write := func(past, fresh *onnx.Value) *onnx.Value {
		return g.At(24, "TensorScatter", 1, []*onnx.Value{past, fresh, begin}, IntAttr("axis", 2))[0]
	}
	presentK, presentV := write(n.Inputs[3], k), write(n.Inputs[4], v)
	// Row r has the entries from rows[r] to rows[r+1], each of which is a column: a product says which blocks meet.
	rows, columns := g.Cast(n.Inputs[5], tensor.Int64), g.Cast(n.Inputs[6], tensor.Int64)
	entries, blocks := g.Positions(columns, 1), count(g.Sub(g.Dim(rows, 1), scalar(1)))
	bound := func(from, to int64) *onnx.Value {
		return g.Op("Unsqueeze", g.Op("Slice", rows, g.Int64s(from), g.Int64s(to), g.Int64s(1)), g.Int64s(2))
	}
	inRow := g.Op("And", g.Op("GreaterOrEqual", entries, bound(0, -1)), g.Op("Less", entries, bound(1, math.MaxInt64)))
	inColumn := g.Op("Equal", g.Op("Unsqueeze", columns, g.Int64s(2)), blocks)
	met := g.Cast(g.MatMul(g.Cast(inRow, tensor.Float32), g.Cast(inColumn, tensor.Float32)), tensor.Bool) // [layouts, blocks, blocks]
	met = g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, met, g.Div(places, scalar(size)))
	met = g.With("Gather", []*onnx.Attribute{IntAttr("axis", 3)}, met, g.Div(count(total), scalar(size))) // [layouts, batch, tokens, keys]
	seen := g.Op("And", g.Transpose(met, 1, 0, 2, 3), g.Op("LessOrEqual", count(total), g.Op("Unsqueeze", places, g.Int64s(1, 3))))
	if l := n.Info(5); l.Rank() != 2 || l.Shape[0].N != 1 {
		seen = g.Op("Tile", seen, g.Concat(g.Int64s(1), g.Div(g.Int64s(heads), g.Dims(rows, 0)), g.Int64s(1, 1)))
	}
	var attrs []*onnx.Attribute
	if scale := n.Float("scale", 0); scale != 0 {
		attrs = append(attrs, FloatAttr("scale", scale))
	}
	y := g.At(23, "Attention", 1, []*onnx.Value{q, g.filled(presentK, total), g.filled(presentV, total), seen}, attrs...)
	return []*onnx.Value{g.unsplit(y[0]), presentK, presentV}, nil
}

// cached writes fresh keys (side 0) or values (side 1) into their cache, with room for all tokens, and gives the cache and what it says as floats.
func (g *Grad) cached(n *Node, side int, fresh, total, begin *onnx.Value) (present, values *onnx.Value, err error) {
	past, scale := n.Inputs[3+side], n.Input(12+side)
	float, kv := g.DType(fresh), n.Int("kv_num_heads", 0)
	pack, unpack := func(v *onnx.Value) *onnx.Value { return v }, func(v *onnx.Value) *onnx.Value { return v }
	if d := g.DType(past); d != float {
		bits := n.Int("kv_cache_bit_width", 0)
		attr := []string{"k_quant_type", "v_quant_type"}[side]
		var steps *onnx.Value // that the cache counts
		switch kind := n.Str(attr, "NONE"); {
		case scale == nil || d != tensor.Int8 && d != tensor.Uint8:
			return nil, nil, fmt.Errorf("a cache of %s without a scale is not supported", d)
		case kind == "PER_TENSOR":
			steps = g.Op("Reshape", scale, g.Int64s())
		case kind == "PER_CHANNEL":
			steps = g.Op("Reshape", scale, g.Int64s(1, kv, 1, -1))
		default:
			return nil, nil, fmt.Errorf("%s %q is neither PER_TENSOR nor PER_CHANNEL", attr, kind)
		}
		wide := g.DType(steps)
		unit, middle := g.Like(steps, 1), g.Const(tensor.Scalar(int8(0)))
		halves := d == tensor.Uint8 && bits == 4
		switch {
		case halves:
			eight, err := tensor.Convert(tensor.Scalar(float32(8)), tensor.Uint4, false)
			if err != nil {
				return nil, nil, err
			}
			middle = g.Const(eight)
		case d != tensor.Int8 || bits != 8 && bits != 0:
			return nil, nil, fmt.Errorf("a cache of %s with %d bits for a number is not supported", d, bits)
		}
		pack = func(v *onnx.Value) *onnx.Value {
			v = g.Op("QuantizeLinear", g.Div(g.Cast(v, wide), steps), unit, middle)
			if halves {
				v = g.joinHalves(v)
			}
			return v
		}
		unpack = func(v *onnx.Value) *onnx.Value {
			if halves {
				v = g.splitHalves(v)
			}
			return g.Cast(g.Mul(g.Op("DequantizeLinear", v, unit, middle), steps), float)
		}
	} else if scale != nil {
		return nil, nil, fmt.Errorf("a cache of %s has no scale", d)
	}
	room := g.Dim(past, 2)
	if total != nil {
		room = g.Op("Max", room, total)
	}
	more := g.Op("Unsqueeze", g.Sub(room, g.Dim(past, 2)), g.Int64s(0))
	pads := g.Concat(g.Int64s(0, 0, 0, 0, 0, 0), more, g.Int64s(0))
	present = g.At(24, "TensorScatter", 1, []*onnx.Value{g.Op("Pad", past, pads), pack(fresh), begin}, IntAttr("axis", 2))[0]
	return present, unpack(present), nil
}

// joinHalves puts pairs of numbers of four bits into bytes, the first in the lower half, along the last axis.
func (g *Grad) joinHalves(v *onnx.Value) *onnx.Value {
	v = g.Op("Reshape", g.Cast(v, tensor.Uint8), g.Int64s(0, 0, 0, -1, 2))
	half := func(i int64) *onnx.Value {
		return g.With("Gather", []*onnx.Attribute{IntAttr("axis", 4)}, v, g.Const(tensor.Scalar(i)))
	}
	return g.Op("BitwiseOr", half(0), g.With("BitShift", []*onnx.Attribute{StringAttr("direction", "LEFT")}, half(1), g.Const(tensor.Scalar(uint8(4)))))
}

// splitHalves is joinHalves backwards.
func (g *Grad) splitHalves(v *onnx.Value) *onnx.Value {
	low := g.Op("BitwiseAnd", v, g.Const(tensor.Scalar(uint8(15))))
	high := g.With("BitShift", []*onnx.Attribute{StringAttr("direction", "RIGHT")}, v, g.Const(tensor.Scalar(uint8(4))))
	pair := g.With("Concat", []*onnx.Attribute{IntAttr("axis", -1)}, g.Op("Unsqueeze", low, g.Int64s(-1)), g.Op("Unsqueeze", high, g.Int64s(-1)))
	return g.Cast(g.Op("Reshape", pair, g.Int64s(0, 0, 0, -1)), tensor.Uint4)
}
