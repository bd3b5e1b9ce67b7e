package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, attentionCases) }

func attentionCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, f := ops.IntAttr, ops.FloatAttr
	bools := func(shape []int, v ...bool) *gradInput { return fixed(tensor.New(v, shape...)) }
	add("Attention", 23, "heads as an axis", nil, signed(2, 2, 3, 4), signed(2, 2, 5, 4), signed(2, 2, 5, 3))
	add("Attention", 23, "heads in the last axis", attrs{i("q_num_heads", 2), i("kv_num_heads", 2)}, signed(2, 3, 8), signed(2, 4, 8), signed(2, 4, 6))
	add("Attention", 23, "shared keys, causal, softcap, scale", attrs{i("q_num_heads", 4), i("kv_num_heads", 2), i("is_causal", 1), f("softcap", 0.7), f("scale", 0.4)},
		signed(1, 4, 8), signed(1, 4, 4), signed(1, 4, 4))
	add("Attention", 23, "one tensor thrice", attrs{i("is_causal", 1)}, same3(signed(1, 2, 3, 4))...)
	add("Attention", 23, "boolean mask", nil, signed(1, 1, 2, 4), signed(1, 1, 3, 4), signed(1, 1, 3, 2), bools([]int{2, 3}, true, false, true, false, false, false))
	add("Attention", 23, "added mask", nil, signed(1, 2, 2, 4), signed(1, 2, 3, 4), signed(1, 2, 3, 2), fixed(tensor.New([]float64{0.5, -1, 0, 2, 0, -3}, 1, 1, 2, 3)))
	past := add("Attention", 23, "past and present", attrs{i("is_causal", 1)}, signed(1, 2, 2, 4), signed(1, 2, 2, 4), signed(1, 2, 2, 3), nil, signed(1, 2, 3, 4), signed(1, 2, 3, 3))
	past.outs = 3
	add("Attention", 24, "lengths", attrs{i("is_causal", 1)}, signed(2, 1, 2, 4), signed(2, 1, 4, 4), signed(2, 1, 4, 3), nil, nil, nil, ints(3, 2))
	add("Attention", 25, "window", attrs{i("left_window_size", 1), i("right_window_size", 0)}, signed(1, 1, 4, 2), signed(1, 1, 4, 2), signed(1, 1, 4, 2))
	add("Attention", 23, "more than a tile of rows", nil, signed(1, 1, 70, 2), signed(1, 1, 3, 2), signed(1, 1, 3, 2))
	add("Attention", 23, "a mask's own", attrs{f("softcap", 1.5)}, signed(2, 2, 2, 2), signed(2, 2, 3, 2), signed(2, 2, 3, 2), signed(2, 3))
	add("Attention", 23, "a mask's own, of heads", attrs{i("is_causal", 1)}, signed(2, 2, 3, 2), signed(2, 2, 3, 2), signed(2, 2, 3, 2), signed(1, 2, 3, 3))
	add("Attention", 24, "a mask's own, of the first keys", nil, signed(1, 2, 2, 2), signed(1, 2, 4, 2), signed(1, 2, 4, 2), signed(2, 3))

	// What passes make of products around a softmax. Heads lie behind rows, or keys as columns.
	strided := func(name string, as attrs, in ...*gradInput) {
		add("Attention", 1, "strided, "+name, append(attrs{f("scale", 0.4), ops.IntsAttr("perm_v", 1, 0, 2), ops.IntsAttr("perm_y", 1, 0, 2)}, as...), in...).domain = ops.Internal
	}
	rows, columns := attrs{ops.IntsAttr("perm_q", 1, 0, 2), ops.IntsAttr("perm_k", 1, 0, 2)}, attrs{ops.IntsAttr("perm_q", 0, 1, 2), ops.IntsAttr("perm_k", 0, 2, 1)}
	ofRows := func(more ...*gradInput) []*gradInput {
		return append([]*gradInput{signed(3, 2, 4), signed(5, 2, 4), signed(5, 2, 6)}, more...)
	}
	strided("rows", rows, ofRows()...)
	strided("columns", columns, signed(2, 3, 4), signed(2, 4, 5), signed(5, 2, 6))
	strided("one tensor thrice", rows, same3(signed(3, 2, 4))...)
	strided("an addend of its own", rows, ofRows(signed(3, 1))...)
	strided("an addend", rows, ofRows(fixed(tensor.New([]float64{0.5, -1, 0, 2, -3}, 1, 5)))...)
	holds := bools([]int{3, 5}, true, false, true, false, false, false, false, false, true, false, true, true, true, true, false)
	for where := range int64(2) {
		mask := append(attrs{f("fill", -2), i("fill_where", where), i("fill_last", where)}, rows...)
		strided(fmt.Sprint("a mask, where ", where), mask, ofRows(nil, holds)...)
		strided(fmt.Sprint("a mask and an addend, where ", where), mask, ofRows(fixed(tensor.New([]float64{0.5, -1, 0}, 1, 3, 1)), holds)...)
	}
	strided("matrices that repeat", rows, signed(3, 2, 4), signed(5, 1, 4), signed(5, 2, 6))
	strided("more than a tile of rows", rows, signed(300, 1, 2), signed(220, 1, 2), signed(220, 1, 2))
	strided("nothing to look at", rows, signed(3, 2, 4), signed(0, 2, 4), signed(0, 2, 6))
	strided("no columns", rows, signed(3, 2, 0), signed(5, 2, 0), signed(5, 2, 6))
	strided("no columns of values", rows, signed(3, 2, 4), signed(5, 2, 4), signed(5, 2, 0))

	for mode := range int64(4) {
		as := func(more ...*onnx.Attribute) attrs { return append(more, i("qk_matmul_output_mode", mode)) }
		add("Attention", 23, fmt.Sprint("scores, mode ", mode), as(f("softcap", 0.7)), signed(1, 2, 3, 4), signed(1, 2, 5, 4), signed(1, 2, 5, 2), signed(3, 5)).outs = 4
		// Of those that a mask takes away the scores are infinite.
		if mode != 2 {
			add("Attention", 23, fmt.Sprint("masked scores, mode ", mode), as(i("is_causal", 1), f("softcap", 1.5)), signed(1, 4, 3, 2), signed(1, 2, 3, 2), signed(1, 2, 3, 2), nil,
				signed(1, 2, 2, 2), signed(1, 2, 2, 2)).outs = 4
		}
	}
	for _, rule := range []string{"linear", "gated", "delta", "gated_delta"} {
		for _, wide := range []bool{false, true} {
			as := attrs{i("q_num_heads", 4), i("kv_num_heads", 2), ops.StringAttr("update_rule", rule)}
			in := []*gradInput{signed(2, 3, 8), signed(2, 3, 4), signed(2, 3, 6), nil, nil, nil}
			decay, beta := signed(2, 3, 2), signed(2, 3, 1)
			if wide {
				decay, beta = signed(2, 3, 4), signed(2, 3, 2)
				in[3] = signed(2, 2, 2, 3)
				as = append(as, f("scale", 0.4))
			}
			if rule == "gated" || rule == "gated_delta" {
				in[4] = decay
			}
			if rule == "delta" || rule == "gated_delta" {
				in[5] = beta
			}
			add("LinearAttention", 27, fmt.Sprint(rule, ", wide: ", wide), as, in...).outs = 2
		}
	}

	flex := func(name string, kv int, change func(b *onnx.Builder, x *onnx.Value) *onnx.Value, as ...*onnx.Attribute) {
		c := add("FlexAttention", 1, name, as, signed(2, 4, 3, 2), signed(2, kv, 2, 2), signed(2, kv, 2, 3))
		c.domain = "ai.onnx.preview"
		c.graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
			n := onnx.NewNode("FlexAttention", in[:3], "")
			n.Outputs[0] = nil
			n.Domain, n.Attrs = c.domain, as
			n.SetOutput(0, &onnx.Value{Name: "y"})
			if change != nil {
				for _, body := range []string{"score_mod", "prob_mod"} {
					sub := b.Sub(body)
					y := change(sub, sub.InputOf(body, &onnx.Type{Elem: tensor.Float64}))
					sub.OutputOf("of_"+body, y, nil)
					n.SetAttr(onnx.GraphAttr(body, sub.Graph()))
				}
			}
			return b.Add(n)
		}
	}
	flex("plain", 4, nil)
	flex("shared keys, scale", 2, nil, f("scale", 0.7))
	flex("changed scores and probabilities", 2, func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("Mul", x, b.Op("Tanh", x)) })
}

func same3(x *gradInput) []*gradInput { return []*gradInput{x, x, x} }

func init() { gradFamilies = append(gradFamilies, rotaryCases) }

func rotaryCases(add addCase) {
	add("TensorScatter", 24, "lines", nil, signed(2, 5, 2), signed(2, 2, 2), ints(3, 0))
	add("TensorScatter", 24, "around", []*onnx.Attribute{ops.StringAttr("mode", "circular"), ops.IntAttr("axis", 2)}, signed(2, 2, 4), signed(2, 2, 3), ints(2, 3))
	add("TensorScatter", 24, "from the start", nil, signed(1, 2, 3, 2), signed(1, 2, 2, 2))
	type attrs = []*onnx.Attribute
	i, f, s := ops.IntAttr, ops.FloatAttr, ops.StringAttr
	table := func(shape ...int) *gradInput {
		in := signed(shape...)
		in.fixed = true
		return in
	}
	add("SwiGLU", 28, "plain", nil, signed(2, 3), signed(2, 3))
	add("SwiGLU", 28, "alpha", attrs{f("alpha", 1.6)}, signed(2, 3), signed(2, 3))
	x := signed(2, 3)
	add("SwiGLU", 28, "one for both", nil, x, x)
	add("RotaryEmbedding", 23, "heads as an axis", nil, signed(2, 3, 2, 4), table(2, 2, 2), table(2, 2, 2))
	add("RotaryEmbedding", 23, "tables", nil, signed(2, 3, 2, 4), signed(2, 2, 2), signed(2, 2, 2))
	add("RotaryEmbedding", 23, "tables, positions, interleaved, part", attrs{i("num_heads", 2), i("interleaved", 1), i("rotary_embedding_dim", 2)},
		signed(1, 3, 8), signed(5, 1), signed(5, 1), intsOf([]int{1, 3}, 0, 4, 2))
	add("RotaryEmbedding", 23, "positions, interleaved, part", attrs{i("num_heads", 2), i("interleaved", 1), i("rotary_embedding_dim", 2)},
		signed(1, 3, 8), table(5, 1), table(5, 1), intsOf([]int{1, 3}, 0, 4, 2))
	add("CausalConvWithState", 27, "plain", nil, signed(2, 3, 4), signed(3, 1, 3))
	state := add("CausalConvWithState", 27, "state, bias, silu", attrs{s("activation", "silu")}, signed(2, 3, 4), signed(3, 1, 3), signed(3), signed(2, 3, 2))
	state.outs = 2
	add("CausalConvWithState", 27, "one tap", nil, signed(1, 2, 3), signed(2, 1, 1))
}
