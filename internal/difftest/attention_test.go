package difftest

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	attention := func(name string, f func(g *gen)) { generators[name] = func(g *gen) { g.plain = true; f(g) } }
	attention("Attention", func(g *gen) {
		b, q, k, h, v := g.in(1, 2), g.in(1, 4), g.in(1, 5), g.in(1, 4), g.in(1, 4)
		kvHeads := g.in(1, 2)
		heads := kvHeads * g.in(1, 2)
		past := g.chance(3)
		rank3 := g.chance(2)
		qs, ks, vs := []int{b, heads, q, h}, []int{b, kvHeads, k, h}, []int{b, kvHeads, k, v}
		if rank3 {
			qs, ks, vs = []int{b, q, heads * h}, []int{b, k, kvHeads * h}, []int{b, k, kvHeads * v}
			g.int("q_num_heads", heads)
			g.int("kv_num_heads", kvHeads)
		}
		total := k
		inputs := []*onnx.Value{g.rand(qs...), g.rand(ks...), g.rand(vs...), nil, nil, nil}
		outs := 1
		if past {
			p := g.in(1, 3)
			total += p
			inputs[4], inputs[5] = g.rand(b, kvHeads, p, h), g.rand(b, kvHeads, p, v)
			outs = 3
		}
		if g.chance(2) {
			d := g.dtype
			if g.chance(2) {
				d = tensor.Bool
			}
			shape := []int{b, heads, q, total}
			for i := range 2 {
				shape[i] = one(g, 1, shape[i])
			}
			m := g.tensor(d, shape[g.IntN(3):]...)
			if d == tensor.Bool { // a row without any key is no business of softmax
				for i := range m.Len() {
					if i%total == 0 {
						m.Bytes()[i] = 1
					}
				}
			}
			inputs[3] = g.feed(m)
		}
		if inputs[3] == nil || g.dtype != tensor.Bool {
			g.maybe("is_causal", 0, 1)
		}
		g.maybeFloat("scale", 0.2, 1)
		if g.chance(3) {
			g.float("softcap", 1+g.Float32()*3)
		}
		if g.chance(4) {
			g.int("softmax_precision", int(tensor.Float32))
		}
		if g.since >= 24 && !past && g.chance(4) {
			valid := make([]int64, b)
			for i := range valid {
				valid[i] = int64(g.in(1, total))
			}
			inputs = append(inputs, g.int64s(valid...))
		}
		if outs == 3 && g.chance(2) {
			g.int("qk_matmul_output_mode", g.IntN(4))
			outs = 4
		}
		g.node(outs, inputs...)
	})
	attention("RotaryEmbedding", func(g *gen) {
		b, n, seq, half := g.in(1, 2), g.in(1, 3), g.in(1, 4), g.in(1, 3)
		head := 2 * half
		rot := half
		if half > 1 && g.chance(3) {
			rot = g.in(1, half)
			g.int("rotary_embedding_dim", 2*rot)
		}
		g.maybe("interleaved", 0, 1)
		x := []int{b, n, seq, head}
		if g.chance(2) {
			x = []int{b, seq, n * head}
			g.int("num_heads", n)
		}
		if g.chance(2) {
			most := seq + 3
			ids := tensor.New(make([]int64, b*seq), b, seq)
			for i := range ids.Len() {
				tensor.Data[int64](ids)[i] = int64(g.IntN(most))
			}
			g.node(1, g.rand(x...), g.rand(most, rot), g.rand(most, rot), g.feed(ids))
			return
		}
		g.node(1, g.rand(x...), g.rand(b, seq, rot), g.rand(b, seq, rot))
	})
	generators["TensorScatter"] = func(g *gen) {
		g.plain = true
		s := g.full(2, 4)
		axis := g.in(1, len(s)-1)
		s[axis] = g.in(2, 6)
		u := slices.Clone(s)
		u[axis] = g.in(1, s[axis])
		g.int("axis", one(g, axis, axis-len(s)))
		circular := g.chance(2)
		if circular {
			g.str("mode", "circular")
		} else if g.chance(2) {
			g.str("mode", "linear")
		}
		inputs := []*onnx.Value{g.rand(s...), g.rand(u...)}
		if g.chance(2) {
			at := make([]int64, s[0])
			for i := range at {
				at[i] = int64(g.in(0, s[axis]-u[axis]))
				if circular {
					at[i] = int64(g.IntN(s[axis]))
				}
			}
			inputs = append(inputs, g.int64s(at...))
		}
		g.node(1, inputs...)
	}
}
