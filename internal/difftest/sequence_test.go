package difftest

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	// elements of a sequence, which may differ in their first dimension.
	elements := func(g *gen, n int) []*onnx.Value {
		s, vs := g.full(1, 3), []*onnx.Value{}
		for range n {
			t := slices.Clone(s)
			if g.chance(3) {
				t[0] = g.in(0, 4)
			}
			vs = append(vs, g.rand(t...))
		}
		return vs
	}
	sequence := func(g *gen, lo, hi int) (seq *onnx.Value, n int) {
		if n = g.in(lo, hi); n == 0 {
			return g.b.Node("SequenceEmpty", nil, onnx.IntAttr("dtype", int64(g.dtype))), 0
		}
		return g.b.Op("SequenceConstruct", elements(g, n)...), n
	}
	place := func(g *gen, at int) *onnx.Value {
		if g.chance(2) {
			return g.feed(tensor.Scalar(int32(at)))
		}
		return g.feed(tensor.Scalar(int64(at)))
	}
	generators["SequenceAt"] = func(g *gen) {
		seq, n := sequence(g, 1, 4)
		g.node(1, seq, place(g, g.in(-n, n-1)))
	}
	generators["SequenceInsert"] = func(g *gen) {
		vs := elements(g, g.in(2, 4))
		n := len(vs) - 1
		inputs := []*onnx.Value{g.b.Op("SequenceConstruct", vs[:n]...), vs[n]}
		if g.chance(2) {
			inputs = append(inputs, place(g, g.in(-n, n)))
		}
		g.joined(g.add(1, inputs...)[0])
	}
	generators["SequenceErase"] = func(g *gen) {
		seq, n := sequence(g, 2, 4)
		inputs := []*onnx.Value{seq}
		if g.chance(2) {
			inputs = append(inputs, place(g, g.in(-n, n-1)))
		}
		g.joined(g.add(1, inputs...)[0])
	}
	generators["SplitToSequence"] = func(g *gen) {
		s := g.full(1, 3)
		a := g.axis(len(s), true)
		g.int("axis", a)
		d := &s[(a+len(s))%len(s)]
		var split *onnx.Value
		switch g.IntN(3) {
		case 0:
			split = place(g, g.in(1, 6))
		case 1:
			*d = 0
			sizes := []int64{}
			for range g.in(1, 3) {
				sizes = append(sizes, int64(g.in(0, 3)))
				*d += int(sizes[len(sizes)-1])
			}
			split = g.int64s(sizes...)
		}
		if split != nil || g.chance(2) {
			keep := g.chance(2) || len(s) == 1
			g.int("keepdims", map[bool]int{true: 1}[keep])
		}
		seq := g.add(1, g.rand(s...), split)[0]
		if (a+len(s))%len(s) == 0 {
			g.joined(seq)
			return
		}
		g.b.OutputOf("n", g.b.Op("SequenceLength", seq), nil) // pieces of several sizes join along their own axis only
		g.b.OutputOf("y", g.b.Op("SequenceAt", seq, g.b.Const(tensor.Scalar(int64(-1)))), nil)
	}
	generators["SequenceLength"] = func(g *gen) {
		seq, _ := sequence(g, 0, 4)
		g.node(1, seq)
	}
	generators["ConcatFromSequence"] = func(g *gen) {
		n := g.in(1, 3)
		s := g.full(1, 3)
		vs := []*onnx.Value{}
		stack := g.chance(2)
		r := len(s)
		if stack {
			g.int("new_axis", 1)
			r++
		} else if g.chance(2) {
			g.int("new_axis", 0)
		}
		a := g.axis(r, true)
		g.int("axis", a)
		for range n {
			t := slices.Clone(s)
			if !stack {
				t[(a+r)%r] = g.in(0, 3)
			}
			vs = append(vs, g.rand(t...))
		}
		g.node(1, g.b.Op("SequenceConstruct", vs...))
	}
	generators["SequenceConstruct"] = func(g *gen) { g.joined(g.add(1, elements(g, g.in(1, 4))...)[0]) }
	generators["SequenceEmpty"] = func(g *gen) {
		if g.dtype = one(g, castTypes...); g.dtype != tensor.Float32 || g.chance(2) {
			g.int("dtype", int(g.dtype))
		}
		seq := g.add(1)[0]
		if g.chance(2) {
			g.b.OutputOf("n", g.b.Op("SequenceLength", seq), nil)
			return
		}
		g.joined(g.b.Op("SequenceInsert", seq, g.rand(g.full(1, 3)...)))
	}
	generators["SequenceMap"] = func(g *gen) {
		g.dtype, g.plain = tensor.Float32, true
		s := g.full(1, 2)
		vs, ws := []*onnx.Value{}, []*onnx.Value{}
		for range g.in(1, 3) {
			vs, ws = append(vs, g.rand(s...)), append(ws, g.rand(s...))
		}
		typ := &onnx.Type{Elem: tensor.Float32}
		body := g.b.Sub("body")
		x, w := body.InputOf("element", typ), body.InputOf("other", typ)
		y := body.Op("Mul", x, w)
		if g.chance(2) {
			y = body.Op("Add", y, g.rand(s...)) // captured
		}
		body.OutputOf("mapped", y, typ)
		outs := g.in(1, 2)
		if outs == 2 {
			body.OutputOf("also", body.Op("Neg", w), typ)
		}
		g.attrs = append(g.attrs, onnx.GraphAttr("body", body.Graph()))
		other := g.b.Op("SequenceConstruct", ws...)
		if g.chance(2) { // one tensor for all
			other = ws[0]
		}
		g.joined(g.add(outs, g.b.Op("SequenceConstruct", vs...), other)[outs-1])
	}
	// wrapped is an optional with something in it.
	wrapped := func(g *gen) (opt *onnx.Value, seq bool) {
		if seq = g.chance(2); seq {
			of, _ := sequence(g, 1, 3)
			return g.b.Op("Optional", of), true
		}
		return g.b.Op("Optional", g.rand(g.full(1, 3)...)), false
	}
	generators["Optional"] = func(g *gen) {
		switch g.IntN(3) {
		case 0:
			typ := &onnx.Type{Elem: g.dtype}
			if g.chance(2) {
				typ = &onnx.Type{Kind: onnx.SequenceType, Of: typ}
			}
			g.attrs = append(g.attrs, &onnx.Attribute{Name: "type", Type: onnx.AttrTypeProto, TP: typ})
			g.b.OutputOf("y", g.b.Op("OptionalHasElement", g.add(1)[0]), nil)
		case 1:
			seq, _ := sequence(g, 1, 3)
			g.joined(g.b.Op("OptionalGetElement", g.add(1, seq)[0]))
		default:
			g.b.OutputOf("y", g.b.Op("OptionalGetElement", g.add(1, g.rand(g.full(1, 3)...))[0]), nil)
		}
	}
	generators["OptionalGetElement"] = func(g *gen) {
		if g.since >= 18 && g.chance(3) { // what is none passes
			g.node(1, g.rand(g.full(1, 3)...))
			return
		}
		opt, seq := wrapped(g)
		if v := g.add(1, opt)[0]; seq {
			g.joined(v)
		} else {
			g.b.OutputOf("y", v, nil)
		}
	}
	generators["OptionalHasElement"] = func(g *gen) {
		switch {
		case g.since >= 18 && g.chance(3):
			g.node(1)
		case g.since >= 18 && g.chance(3):
			g.node(1, g.rand(g.full(1, 3)...))
		default:
			opt, _ := wrapped(g)
			g.node(1, opt)
		}
	}
}
