package difftest

import (
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	generators["StringConcat"] = func(g *gen) { binary(g) }
	generators["StringNormalizer"] = func(g *gen) {
		g.str("case_change_action", one(g, "LOWER", "UPPER", "NONE"))
		g.maybe("is_case_sensitive", 0, 1)
		g.str("locale", "C")
		if g.chance(2) {
			g.strs("stopwords", "a", "ABC", "zwei")
		}
		s := []int{g.in(1, 5)}
		if g.chance(2) {
			s = []int{1, g.in(1, 5)}
		}
		x := g.tensor(tensor.String, s...)
		for i, v := range tensor.Data[string](x) {
			tensor.Data[string](x)[i] = strings.ReplaceAll(v, "ü", "U") // which letters there are is the locale's
		}
		g.node(1, g.feed(x))
	}
	generators["StringSplit"] = func(g *gen) {
		x := g.tensor(tensor.String, g.shape(0, 2)...)
		for i := range tensor.Data[string](x) {
			tensor.Data[string](x)[i] = one(g, "a b", " a  b ", "", "a,b,,c", ",", "one", "a\tb\nc", "x--y--", "ü ö")
		}
		if g.chance(2) {
			g.str("delimiter", one(g, ",", " ", "--", ""))
		}
		g.maybe("maxsplit", 1, 2, 3)
		g.node(2, g.feed(x))
	}
	generators["RegexFullMatch"] = func(g *gen) {
		g.str("pattern", one(g, "a", "[a-z]+", ".*", "(a|b)?", `\d+`, "Abc|zwei", `-?\d+(\.\d+)?`, "^a$", "(?i)ABC"))
		g.node(1, g.rand(g.shape(0, 3)...))
	}
	generators["TfIdfVectorizer"] = func(g *gen) {
		g.dtype = one(g, tensor.Int32, tensor.Int64, tensor.String)
		maxN := g.in(1, 3)
		minN := g.in(1, maxN)
		g.int("min_gram_length", minN)
		g.int("max_gram_length", maxN)
		g.int("max_skip_count", g.in(0, 3))
		g.str("mode", one(g, "TF", "IDF", "TFIDF"))
		words := []string{"a", "b", "c", "d"}
		counts, pool, n := []int64{}, []int64{}, 0
		seen := map[[3]int64]bool{}
		for size := 1; size <= maxN; size++ {
			counts = append(counts, int64(len(pool)))
			for range g.in(1, 4) {
				var gram [3]int64
				for i := range size {
					gram[i] = 1 + int64(g.IntN(4))
				}
				if seen[gram] {
					continue
				}
				seen[gram] = true
				pool = append(pool, gram[:size]...)
				n++
			}
		}
		g.ints("ngram_counts", counts...)
		index := make([]int64, n)
		for i, p := range g.Perm(n) {
			index[i] = int64(2 * p)
		}
		g.ints("ngram_indexes", index...)
		if g.chance(2) {
			g.floats("weights", g.numbers(n)...)
		}
		x := g.tensor(g.dtype, g.full(1, 2)...)
		for i := range x.Len() {
			if g.dtype == tensor.String {
				tensor.Data[string](x)[i] = words[g.IntN(4)]
			} else {
				tensor.SetFloat64At(x, i, float64(g.in(1, 4)))
			}
		}
		if g.dtype == tensor.String {
			var text []string
			for _, v := range pool {
				text = append(text, words[v-1])
			}
			g.strs("pool_strings", text...)
		} else {
			g.ints("pool_int64s", pool...)
		}
		g.node(1, g.feed(x))
	}

	generators["If"] = func(g *gen) {
		s := g.full(0, 3)
		x, y := g.rand(s...), g.rand(g.full(0, 3)...)
		branch := func(name string) *onnx.Attribute {
			b := g.b.Sub(name)
			v := b.Op("Identity", one(g, x, y))
			b.OutputOf(name+"_out", v, nil)
			return onnx.GraphAttr(name, b.Graph())
		}
		g.attrs = append(g.attrs, branch("then_branch"), branch("else_branch"))
		g.node(1, g.feed(tensor.New([]bool{g.chance(2)}, []int{1}[:g.IntN(2)]...)))
	}
	generators["Loop"] = func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Int64, tensor.Float64)
		g.plain = true
		s := g.full(0, 2)
		state, step := g.rand(s...), g.rand(s...)
		b := g.b.Sub("body")
		i := b.Input("i", tensor.Int64)
		c := b.Input("c", tensor.Bool)
		v := b.InputOf("v", &onnx.Type{Elem: g.dtype})
		next := b.Op("Add", v, step)
		go1 := b.Op("Identity", c)
		if g.chance(2) {
			go1 = b.Op("Less", b.Node("Cast", []*onnx.Value{i}, onnx.IntAttr("to", int64(tensor.Float32))), b.Const(tensor.Scalar(float32(g.in(0, 4)))))
		}
		b.OutputOf("go", go1, nil)
		b.OutputOf("next", next, nil)
		outs := g.in(1, 3)
		for k := 1; k < outs; k++ {
			scan := b.Op("Identity", one(g, next, v))
			b.OutputOf(one(g, "s", "t")+string(rune('0'+k)), scan, nil)
		}
		g.attrs = append(g.attrs, onnx.GraphAttr("body", b.Graph()))
		var trips, cond *onnx.Value
		if !g.chance(4) {
			trips = g.feed(tensor.Scalar(int64(g.in(0, 4))))
		}
		if g.chance(2) {
			cond = g.feed(tensor.Scalar(!g.chance(5)))
		}
		if trips == nil { // with neither it would never end
			trips = g.feed(tensor.Scalar(int64(3)))
		}
		g.node(outs, trips, cond, state)
	}
	generators["Scan"] = func(g *gen) {
		if g.since == 8 {
			return
		}
		g.plain = true
		g.dtype = one(g, tensor.Float32, tensor.Int64)
		n, s := g.in(1, 4), g.full(1, 2)
		scans := g.in(1, 2)
		g.int("num_scan_inputs", scans)
		var inAxes, inDirs, outAxes, outDirs []int64
		inputs := []*onnx.Value{g.rand(s...)}
		b := g.b.Sub("body")
		st := b.InputOf("st", &onnx.Type{Elem: g.dtype})
		elems := []*onnx.Value{}
		for k := range scans {
			a := g.IntN(len(s) + 1)
			inputs = append(inputs, g.rand(slices.Insert(slices.Clone(s), a, n)...))
			if g.since >= 11 && g.chance(2) {
				a -= len(s) + 1
			}
			inAxes, inDirs = append(inAxes, int64(a)), append(inDirs, int64(g.IntN(2)))
			elems = append(elems, b.InputOf("e"+string(rune('0'+k)), &onnx.Type{Elem: g.dtype}))
		}
		next := st
		for _, e := range elems {
			next = b.Op("Add", next, e)
		}
		dims := []any{}
		for _, d := range s {
			dims = append(dims, d)
		}
		b.Output("next", next, g.dtype, dims...)
		outs := g.in(1, 2)
		for k := range outs {
			b.Output("o"+string(rune('0'+k)), b.Op("Neg", one(g, next, elems[0])), g.dtype, dims...)
			a := g.IntN(len(s) + 1)
			if g.since >= 11 && g.chance(2) {
				a -= len(s) + 1
			}
			outAxes, outDirs = append(outAxes, int64(a)), append(outDirs, int64(g.IntN(2)))
		}
		g.ints("scan_input_axes", inAxes...)
		g.ints("scan_input_directions", inDirs...)
		g.ints("scan_output_axes", outAxes...)
		g.ints("scan_output_directions", outDirs...)
		g.attrs = append(g.attrs, onnx.GraphAttr("body", b.Graph()))
		g.node(1+outs, inputs...)
	}

	// Of sequences the peer shows no outputs, hence they are taken apart again.
	sequence := func(g *gen) (seq *onnx.Value, n int) {
		if g.chance(4) {
			return g.b.Node("SequenceEmpty", nil, onnx.IntAttr("dtype", int64(g.dtype))), 0
		}
		n = g.in(1, 4)
		s := g.full(1, 2)
		vs := []*onnx.Value{}
		for range n {
			vs = append(vs, g.rand(s...))
		}
		return g.b.Op("SequenceConstruct", vs...), n
	}
	generators["SequenceAt"] = func(g *gen) {
		seq, n := sequence(g)
		if n == 0 {
			return
		}
		at := g.in(-n, n-1)
		if g.chance(2) {
			g.node(1, seq, g.feed(tensor.Scalar(int64(at))))
		} else {
			g.node(1, seq, g.feed(tensor.Scalar(int32(at))))
		}
	}
	// rest is a sequence that a node gives, joined again, with its length.
	rest := func(g *gen, inputs ...*onnx.Value) {
		n := onnx.NewNode(g.def.Name, inputs)
		n.Attrs, n.Name = g.attrs, "tested"
		v := &onnx.Value{Name: "seq"}
		n.AddOutput(v)
		g.b.Add(n)
		g.b.OutputOf("n", g.b.Op("SequenceLength", v), nil)
		g.b.OutputOf("y", g.b.Node("ConcatFromSequence", []*onnx.Value{v}, onnx.IntAttr("axis", 0)), nil)
	}
	generators["SequenceInsert"] = func(g *gen) {
		s, n := g.full(1, 2), g.in(1, 3)
		vs := []*onnx.Value{}
		for range n {
			vs = append(vs, g.rand(s...))
		}
		inputs := []*onnx.Value{g.b.Op("SequenceConstruct", vs...), g.rand(s...)}
		if g.chance(2) {
			inputs = append(inputs, g.feed(tensor.Scalar(int64(g.in(-n, n)))))
		}
		rest(g, inputs...)
	}
	generators["SequenceErase"] = func(g *gen) {
		s, n := g.full(1, 2), g.in(2, 4)
		vs := []*onnx.Value{}
		for range n {
			vs = append(vs, g.rand(s...))
		}
		inputs := []*onnx.Value{g.b.Op("SequenceConstruct", vs...)}
		if g.chance(2) {
			inputs = append(inputs, g.feed(tensor.Scalar(int32(g.in(-n, n-1)))))
		}
		rest(g, inputs...)
	}
	generators["SplitToSequence"] = func(g *gen) {
		s := g.full(1, 3)
		a := g.axis(len(s), true)
		g.int("axis", a)
		d := &s[(a+len(s))%len(s)]
		var split *onnx.Value
		switch g.IntN(3) {
		case 0:
			split = g.feed(tensor.Scalar(int64(g.in(1, 6))))
		case 1:
			*d = 0
			sizes := []int64{}
			for range g.in(1, 3) {
				sizes = append(sizes, int64(g.in(1, 3)))
				*d += int(sizes[len(sizes)-1])
			}
			split = g.int64s(sizes...)
		}
		keep := true
		if split != nil || g.chance(2) {
			keep = g.chance(2) || len(s) == 1
			g.int("keepdims", map[bool]int{true: 1}[keep])
		}
		x := g.rand(s...)
		if (a+len(s))%len(s) != 0 { // pieces of several sizes join along their own axis only
			n := onnx.NewNode("SplitToSequence", slices.DeleteFunc([]*onnx.Value{x, split}, func(v *onnx.Value) bool { return v == nil }))
			n.Attrs, n.Name = g.attrs, "tested"
			v := &onnx.Value{Name: "seq"}
			n.AddOutput(v)
			g.b.Add(n)
			g.b.OutputOf("n", g.b.Op("SequenceLength", v), nil)
			g.b.OutputOf("y", g.b.Op("SequenceAt", v, g.b.Const(tensor.Scalar(int64(-1)))), nil)
			return
		}
		if split == nil {
			rest(g, x)
		} else {
			rest(g, x, split)
		}
	}
	generators["SequenceLength"] = func(g *gen) {
		seq, _ := sequence(g)
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
