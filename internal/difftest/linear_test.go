package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	ms := func(name string, f func(g *gen)) {
		generators["com.microsoft."+name] = func(g *gen) {
			g.plain, g.declared, g.dtype = true, true, tensor.Float32
			f(g)
		}
	}
	half := func(g *gen) { g.dtype = one(g, tensor.Float32, tensor.Float32, tensor.Float16) }
	ms("LinearAttention", func(g *gen) {
		b, seq, heads, dk, dv := g.in(1, 2), g.in(1, 5), g.in(1, 3), g.in(1, 4), g.in(1, 4)
		q := heads
		switch {
		case g.chance(3):
			heads *= 2
		case g.chance(3):
			q *= 2
		}
		keys := one(g, heads, one(g, 1, heads))
		rule := one(g, "linear", "gated", "delta", "gated_delta")
		g.str("update_rule", rule)
		g.int("q_num_heads", q)
		g.int("kv_num_heads", heads)
		g.maybe("chunk_size", 16, 64)
		if g.chance(2) {
			g.float("scale", 0.2+g.Float32())
		}
		small := func(shape ...int) *onnx.Value {
			t := g.tensor(g.dtype, shape...)
			for i := range t.Len() {
				tensor.SetFloat64At(t, i, g.Float64()-0.8)
			}
			return g.feed(t)
		}
		inputs := []*onnx.Value{small(b, seq, q*dk), small(b, seq, keys*dk), small(b, seq, heads*dv), nil, nil, nil}
		if g.chance(2) {
			inputs[3] = g.rand(b, heads, dk, dv)
		}
		if rule == "gated" || rule == "gated_delta" {
			inputs[4] = small(b, seq, one(g, heads, heads*dk))
		}
		if rule == "delta" || rule == "gated_delta" {
			inputs[5] = small(b, seq, one(g, heads, 1))
		}
		g.node(2, inputs...)
	})
	ms("CausalConvWithState", func(g *gen) {
		b, seq, c, k := g.in(1, 2), g.in(1, 6), g.in(1, 4), g.in(1, 4)
		g.str("activation", one(g, "none", "silu", "swish"))
		apart := 1
		if g.chance(3) {
			apart = g.in(2, 3)
			g.int("dilation", apart)
		}
		x, state := []int{b, c, seq}, []int{b, c, (k - 1) * apart}
		if g.chance(3) {
			g.int("channels_last", 1)
			x, state = []int{b, seq, c}, []int{b, (k - 1) * apart, c}
		}
		inputs := []*onnx.Value{g.rand(x...), g.rand(c, 1, k), nil, nil}
		if g.chance(2) {
			inputs[2] = g.rand(c)
		}
		if g.chance(2) && k > 1 {
			inputs[3] = g.rand(state...)
		}
		g.node(2, inputs...)
	})
	ms("LinearAttentionGate", func(g *gen) {
		half(g)
		s := g.full(1, 3)
		heads := s[len(s)-1]
		inputs := []*onnx.Value{g.rand(s...), g.feed(g.tensor(tensor.Float32, heads)), g.feed(g.tensor(tensor.Float32, heads))}
		if g.chance(2) {
			g.node(2, append(inputs, g.rand(s...))...)
			return
		}
		g.node(1, inputs...)
	})
	ms("GatedRMSNorm", func(g *gen) {
		half(g)
		s := g.full(1, 3)
		n := s[len(s)-1]
		s[len(s)-1] *= g.in(1, 3)
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		g.node(1, g.rand(s...), g.rand(n), g.rand(s...))
	})
	ms("GatedAdd", func(g *gen) {
		half(g)
		s := g.full(1, 4)
		gate := append(append([]int{}, s[:len(s)-1]...), 1)
		g.node(1, g.rand(s...), g.rand(s...), g.rand(gate...))
	})
	ms("MRotaryEmbedding", func(g *gen) {
		b, heads, seq := g.in(1, 2), g.in(1, 3), g.in(1, 4)
		sections := []int{g.in(1, 3), g.in(1, 3), g.in(1, 3)}
		layout := g.IntN(2)
		if layout == 1 { // as models have it: of each three columns one each, until there are no more
			sections[1] = min(sections[1], sections[0])
			sections[2] = min(sections[2], sections[0])
		}
		half, most := sections[0]+sections[1]+sections[2], seq+3
		g.ints("mrope_section", int64s(sections)...)
		g.int("mrope_layout", layout)
		g.maybe("interleaved", 0, 1)
		size := 2 * half
		g.int("num_heads", heads)
		if g.chance(3) {
			g.int("rotary_embedding_dim", size)
			size += 2 * g.in(1, 2)
		}
		if g.chance(3) {
			g.float("scale", 0.5+g.Float32())
		}
		ids := tensor.New(make([]int64, 3*b*seq), 3, b, seq)
		for i := range ids.Len() {
			tensor.Data[int64](ids)[i] = int64(g.IntN(most))
		}
		x := []int{b, seq, heads * size}
		if g.chance(2) {
			x = []int{b, heads, seq, size}
		}
		g.node(1, g.rand(x...), g.feed(ids), g.rand(most, half), g.rand(most, half))
	})
}
