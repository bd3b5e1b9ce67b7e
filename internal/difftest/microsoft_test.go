package difftest

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	ms := func(names string, f func(g *gen)) {
		each(names, func(g *gen) {
			g.plain = true
			g.declared = true // Retune makes other nodes of these, for which it needs the ranks, and some widths
			g.dtype = one(g, tensor.Float32, tensor.Float32, tensor.Float16)
			f(g)
		})
	}
	ms("com.microsoft.Gelu", unary)
	ms("com.microsoft.QuickGelu", func(g *gen) {
		g.maybeFloat("alpha", 0.5, 2)
		unary(g)
	})
	ms("com.microsoft.BiasGelu com.microsoft.FastGelu", func(g *gen) {
		s := g.full(1, 4)
		if g.def.Name == "FastGelu" && g.chance(2) {
			g.node(1, g.rand(s...))
			return
		}
		g.node(1, g.rand(s...), g.rand(s[len(s)-1]))
	})
	ms("com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization", func(g *gen) {
		s := g.full(3, 3)
		n := s[2]
		skip := one(g, s, []int{1, s[1], n}, s[1:])
		inputs := []*onnx.Value{g.rand(s...), g.rand(skip...), g.rand(n), nil, nil}
		if g.chance(2) {
			inputs[3] = g.rand(n)
		}
		if g.def.Name == "SkipLayerNormalization" && g.chance(2) {
			inputs[4] = g.rand(n)
		}
		g.float("epsilon", 1e-5+g.Float32()/100)
		g.node(one(g, 1, 4), inputs...)
	})
	ms("com.microsoft.ExpandDims", func(g *gen) {
		s := g.full(0, 3)
		g.node(1, g.rand(s...), g.b.Const(tensor.Scalar(int32(g.axis(len(s)+1, true)))))
	})
	ms("com.microsoft.Range", func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Int32, tensor.Int64)
		number := func(v int) *onnx.Value {
			t := g.tensor(g.dtype)
			tensor.SetFloat64At(t, 0, float64(v))
			return g.feed(t)
		}
		inputs := []*onnx.Value{number(g.in(-5, 5)), number(g.in(-5, 20))}
		if g.chance(2) {
			inputs = append(inputs, number(one(g, 1, 2, 3, -1, -2)))
		}
		g.node(1, inputs...)
	})
	ms("com.microsoft.GatherND", func(g *gen) {
		s := g.full(1, 4)
		k := g.in(1, len(s))
		at := append(g.full(0, 2), k)
		t, _ := tensor.Zeros(one(g, tensor.Int32, tensor.Int64), at...)
		for i := range t.Len() {
			tensor.SetFloat64At(t, i, float64(g.IntN(s[i%k])))
		}
		g.node(1, g.rand(s...), g.feed(t))
	})
	ms("com.microsoft.Unique", func(g *gen) {
		t, _ := tensor.Zeros(tensor.Float32, g.in(1, 12))
		for i := range t.Len() {
			tensor.SetFloat64At(t, i, float64(g.in(-2, 3)))
		}
		g.node(3, g.feed(t))
	})
	ms("com.microsoft.Pad", func(g *gen) {
		s := g.full(1, 4)
		mode := one(g, "constant", "reflect", "edge")
		g.str("mode", mode)
		pads := make([]int64, 2*len(s))
		for i := range pads {
			if pads[i] = int64(g.in(0, 2)); mode == "reflect" {
				pads[i] = min(pads[i], int64(s[i%len(s)]-1))
			}
		}
		shape := one(g, []int{len(pads)}, []int{1, len(pads)})
		inputs := []*onnx.Value{g.rand(s...), g.feed(tensor.New(pads, shape...))}
		if mode == "constant" && g.chance(2) {
			inputs = append(inputs, g.rand(1))
		}
		g.node(1, inputs...)
	})
	ms("com.microsoft.GridSample", func(g *gen) {
		g.dtype = tensor.Float32
		n, c := g.in(1, 2), g.in(1, 3)
		g.str("mode", one(g, "bilinear", "nearest", "bicubic"))
		g.str("padding_mode", one(g, "zeros", "border", "reflection"))
		g.maybe("align_corners", 0, 1)
		grid := g.tensor(g.dtype, n, g.in(1, 4), g.in(1, 4), 2)
		for i := range grid.Len() {
			tensor.SetFloat64At(grid, i, 2.6*g.Float64()-1.3)
		}
		g.node(1, g.rand(n, c, g.in(2, 5), g.in(2, 5)), g.feed(grid))
	})
	ms("com.microsoft.CDist", func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Float64)
		k := g.in(1, 5)
		g.str("metric", one(g, "euclidean", "sqeuclidean"))
		g.node(1, g.rand(g.in(1, 4), k), g.rand(g.in(1, 4), k))
	})
	ms("com.microsoft.SampleOp", unary)
	ms("com.microsoft.UnfoldTensor", func(g *gen) {
		g.dtype = tensor.Float32
		s := g.full(1, 4)
		a := g.axis(len(s), true)
		g.int("dim", a)
		g.int("size", g.in(1, s[(a+len(s))%len(s)]))
		g.maybe("step", 1, 2, 3)
		g.node(1, g.rand(s...))
	})
	ms("com.microsoft.CropAndResize", func(g *gen) {
		g.dtype = tensor.Float32
		n, rois := g.in(1, 3), g.in(1, 4)
		g.str("mode", one(g, "bilinear", "nearest"))
		g.maybeFloat("extrapolation_value", -1, 3)
		boxes, of := g.tensor(g.dtype, rois, 4), tensor.New(make([]int32, rois), rois)
		for i := range boxes.Len() {
			tensor.SetFloat64At(boxes, i, 1.4*g.Float64()-0.2)
		}
		for i := range rois {
			tensor.Data[int32](of)[i] = int32(g.IntN(n))
		}
		crop := tensor.New([]int32{int32(g.in(1, 4)), int32(g.in(1, 4))}, 2)
		g.node(1, g.rand(n, g.in(1, 3), g.in(1, 5), g.in(1, 5)), g.feed(boxes), g.feed(of), g.feed(crop))
	})
	ms("SimplifiedLayerNormalization", func(g *gen) {
		s := g.full(1, 4)
		a := g.axis(len(s), true)
		g.int("axis", a)
		g.int("stash_type", 1)
		g.float("epsilon", 1e-5+g.Float32()/100)
		g.node(g.in(1, 2), g.rand(s...), g.rand(s[(a+len(s))%len(s):]...))
	})
	ms("com.microsoft.FusedMatMul com.microsoft.TransposeMatMul", func(g *gen) {
		a, b := g.factors()
		for len(a) < 2 || len(b) < 2 || count(a) == 0 {
			a, b = g.factors()
		}
		for i, s := range [][]int{a, b} {
			if g.chance(2) {
				s[len(s)-1], s[len(s)-2] = s[len(s)-2], s[len(s)-1]
				g.int([]string{"transA", "transB"}[i], 1)
			}
		}
		g.maybeFloat("alpha", 0.2, 2)
		g.node(1, g.rand(a...), g.rand(b...))
	})
	activation := func(g *gen) {
		g.str("activation", one(g, "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid"))
	}
	ms("com.microsoft.FusedGemm", func(g *gen) {
		m, k, n := g.in(1, 5), g.in(1, 5), g.in(1, 5)
		a, b := []int{m, k}, []int{k, n}
		if g.chance(2) {
			g.int("transA", 1)
			slices.Reverse(a)
		}
		if g.chance(2) {
			g.int("transB", 1)
			slices.Reverse(b)
		}
		g.maybeFloat("alpha", 0.2, 2)
		g.maybeFloat("beta", 0.2, 2)
		g.str("activation", one(g, "Relu", "Tanh", "Sigmoid", "LeakyRelu"))
		if g.attrs[len(g.attrs)-1].S[0] == 'L' {
			g.float("activation_alpha", 0.2)
		}
		g.node(1, g.rand(a...), g.rand(b...), g.rand(one(g, []int{m, n}, []int{n}, []int{m, 1}, []int{})...))
	})
	ms("com.microsoft.FusedConv", func(g *gen) {
		g.dtype = tensor.Float32
		x, w, _ := g.conv(false)
		activation(g)
		switch string(g.attrs[len(g.attrs)-1].S) {
		case "LeakyRelu":
			g.floats("activation_params", 0.2)
		case "Clip":
			g.floats("activation_params", -1, 2)
		case "HardSigmoid":
			g.floats("activation_params", 0.3, 0.4)
		}
		inputs := []*onnx.Value{g.rand(x...), g.rand(w...)}
		if g.chance(2) {
			inputs = append(inputs, g.rand(w[0]))
		}
		g.node(1, inputs...)
	})
	ms("com.microsoft.RotaryEmbedding", func(g *gen) {
		b, n, seq, half := g.in(1, 2), g.in(1, 3), g.in(1, 4), 4*g.in(1, 2)
		most := seq + 3
		ids := tensor.New(make([]int64, b*seq), b, seq)
		for i := range ids.Len() {
			tensor.Data[int64](ids)[i] = int64(g.IntN(most))
		}
		g.maybe("interleaved", 0, 1)
		size := 2 * half
		switch {
		case g.chance(3):
			size += g.in(0, 3)
			g.int("num_heads", n)
			g.int("rotary_embedding_dim", 2*half)
		case g.chance(3):
			g.int("num_heads", n)
		}
		x := []int{b, seq, n * size}
		if g.chance(2) {
			x = []int{b, n, seq, size}
		}
		switch {
		case g.chance(4):
			ids = tensor.New([]int64{int64(g.IntN(most - seq))}, 1)
		case g.chance(4):
			ids = tensor.Scalar(int64(g.IntN(most - seq)))
		case g.chance(3): // more tokens than there are positions
			g.int("is_packed_batching", 1)
			most = g.in(1, seq)
			for i := range ids.Len() {
				tensor.Data[int64](ids)[i] = int64(g.IntN(most))
			}
		}
		if g.chance(4) {
			g.float("scale", 2)
		}
		g.node(1, g.rand(x...), g.feed(ids), g.rand(most, half), g.rand(most, half))
	})
	ms("com.microsoft.EmbedLayerNormalization", func(g *gen) {
		g.dtype = tensor.Float32
		b, seq, n := g.in(1, 3), g.in(1, 4), g.in(2, 6)
		words, kinds := g.in(2, 9), g.in(1, 3)
		index := func(most int) *onnx.Value {
			t, _ := tensor.Zeros(tensor.Int32, b, seq)
			for i := range t.Len() {
				tensor.Data[int32](t)[i] = int32(g.IntN(most))
			}
			return g.feed(t)
		}
		inputs := []*onnx.Value{index(words), nil, g.rand(words, n), g.rand(seq+2, n), nil, g.rand(n), g.rand(n), nil, nil}
		if g.chance(2) {
			inputs[1], inputs[4] = index(kinds), g.rand(kinds, n)
		}
		if g.chance(2) {
			mask, _ := tensor.Zeros(tensor.Int32, b, seq)
			for i := range b {
				for k := range g.in(1, seq) {
					tensor.Data[int32](mask)[i*seq+k] = 1
				}
			}
			inputs[7] = g.feed(mask)
		}
		if g.chance(2) {
			inputs[8] = index(seq + 2)
		}
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		g.node(g.in(2, 3), inputs...)
	})
	mask := func(g *gen, b, q, total int) *onnx.Value {
		shape := one(g, []int{b}, []int{b, total}, []int{b, q, total})
		switch name := g.def.Name; {
		case name == "Attention" && g.chance(5):
			shape = []int{2 * b}
		case name == "Attention" && g.chance(5): // the same for all keys
			shape = []int{one(g, 1, b), 1}
		case name == "MultiHeadAttention" && g.chance(5):
			shape = []int{3*b + 2}
		}
		t, _ := tensor.Zeros(tensor.Int32, shape...)
		for i := range t.Len() {
			v := g.IntN(2)
			if len(shape) == 1 && i >= 2*b {
				v = 0
			} else if len(shape) == 1 && i >= b {
				v = g.in(0, int(tensor.Data[int32](t)[i-b])-1)
			} else if len(shape) == 1 {
				v = g.in(1, total)
			} else if i%total == 0 || shape[1] == 1 {
				v = 1
			}
			tensor.Data[int32](t)[i] = int32(v)
		}
		return g.feed(t)
	}
	// attend adds a mask as input at, a bias and a scale, or some of them.
	attend := func(g *gen, outs int, inputs []*onnx.Value, at, b, heads, seq, total int) {
		if g.chance(2) {
			inputs[at] = mask(g, b, seq, total)
		}
		if g.chance(3) {
			inputs[5] = g.rand(one(g, 1, b), one(g, 1, heads), seq, total)
		}
		if g.chance(3) {
			g.float("scale", 0.2+g.Float32())
		}
		g.node(outs, inputs...)
	}
	ms("com.microsoft.Attention", func(g *gen) {
		g.dtype = tensor.Float32
		b, seq, in, heads, h := g.in(1, 2), g.in(1, 4), g.in(1, 4), g.in(1, 3), g.in(1, 4)
		n, v := heads*h, heads*h
		if g.chance(3) {
			v = heads * g.in(1, 4)
			g.ints("qkv_hidden_sizes", int64(n), int64(n), int64(v))
		}
		g.int("num_heads", heads)
		g.maybe("unidirectional", 0, 1)
		inputs := []*onnx.Value{g.rand(b, seq, in), g.rand(in, 2*n+v), g.rand(2*n + v), nil, nil, nil}
		total, outs := seq, 1
		if v == n && g.chance(3) {
			past := g.in(1, 3)
			total += past
			outs = 2
			inputs[4] = g.rand(2, b, heads, past, h)
		}
		attend(g, outs, inputs, 3, b, heads, seq, total)
	})
	// beams are where the tokens of each beam's past come from.
	beams := func(g *gen, batch, beams, most int) *onnx.Value {
		t, _ := tensor.Zeros(tensor.Int32, batch, beams, most)
		for i := range t.Len() {
			tensor.Data[int32](t)[i] = int32(g.IntN(beams))
		}
		return g.feed(t)
	}
	whole := func(g *gen, n int) *onnx.Value { return g.feed(tensor.New([]int32{int32(n)}, 1)) }
	ms("com.microsoft.MultiHeadAttention", func(g *gen) {
		g.dtype = tensor.Float32
		b, seq, kv, heads, h := g.in(1, 2), g.in(1, 4), g.in(1, 4), g.in(1, 3), g.in(1, 4)
		n, v := heads*h, heads*one(g, h, g.in(1, 4))
		g.int("num_heads", heads)
		if g.chance(5) { // a buffer, of several beams
			wide, past := g.in(1, 3), g.in(1, 3)
			most := past + g.in(1, 3)
			if g.chance(3) {
				g.float("scale", 0.2+g.Float32())
			}
			inputs := []*onnx.Value{g.rand(b*wide, 1, n), g.rand(b*wide, 1, n), g.rand(b*wide, 1, n), nil, nil, nil, g.rand(b*wide, heads, most, h), g.rand(b*wide, heads, most, h),
				whole(g, past), beams(g, b, wide, most)}
			if g.chance(2) {
				inputs[3] = g.rand(3 * n)
			}
			g.node(3, inputs...)
			return
		}
		causal := g.chance(2)
		if causal {
			g.int("unidirectional", 1)
			kv = seq
		}
		inputs := []*onnx.Value{g.rand(b, seq, n), g.rand(b, kv, n), g.rand(b, kv, v), nil, nil, nil, nil, nil}
		total, outs := kv, one(g, 1, 3)
		if v == n && g.chance(3) {
			past := g.in(1, 3)
			total += past
			outs = 3
			inputs[6], inputs[7] = g.rand(b, heads, past, h), g.rand(b, heads, past, h)
		} else if g.chance(3) {
			inputs[1], inputs[2] = g.rand(b, heads, kv, h), g.rand(b, heads, kv, v/heads)
		}
		if g.chance(3) {
			inputs[3] = g.rand(2*n + v)
		}
		if outs == 3 && !causal && g.chance(2) {
			outs, g.typed = 4, map[int]tensor.DType{3: tensor.Float32}
		}
		attend(g, outs, inputs, 4, b, heads, seq, total)
	})
	ms("com.microsoft.DecoderMaskedMultiHeadAttention", func(g *gen) {
		g.dtype = tensor.Float32
		b, wide, heads, h, past := g.in(1, 2), 1, g.in(1, 3), g.in(1, 4), g.in(0, 3)
		n, total, most := heads*h, past+1, past+g.in(1, 3)
		indirect := g.chance(3)
		if indirect {
			wide = g.in(1, 3)
		}
		b *= wide
		g.int("num_heads", heads)
		if g.chance(3) {
			g.float("scale", 0.2+g.Float32())
		}
		inputs := make([]*onnx.Value, 11)
		inputs[0] = g.rand(b, 1, n)
		cross := !indirect && g.chance(3)
		outs := 1
		if cross {
			total = g.in(1, 4)
			inputs[1], inputs[2] = g.rand(b, heads, total, h), g.rand(b, heads, total, h)
		} else {
			g.int("past_present_share_buffer", 1)
			outs = 3
			inputs[1], inputs[2], inputs[5], inputs[6] = g.rand(b, 1, n), g.rand(b, 1, n), g.rand(b, heads, most, h), g.rand(b, heads, most, h)
			inputs[7] = whole(g, past)
			if g.chance(3) {
				inputs[4] = g.rand(1, heads, 1, total)
			}
		}
		if g.chance(3) {
			t, _ := tensor.Zeros(tensor.Int32, b, total)
			for i := range t.Len() {
				tensor.Data[int32](t)[i] = int32(g.IntN(2))
				if i%total == 0 {
					tensor.Data[int32](t)[i] = 1
				}
			}
			inputs[3] = g.feed(t)
		}
		if indirect {
			inputs[8], inputs[9] = whole(g, wide), beams(g, b/wide, wide, most)
		}
		if g.chance(3) {
			inputs[10] = g.rand(3 * n)
		}
		if outs == 3 && !indirect && g.chance(3) {
			outs, g.typed = 4, map[int]tensor.DType{3: tensor.Float32}
			g.int("output_qk", 1)
		}
		g.node(outs, inputs...)
	})
	ms("com.microsoft.GroupQueryAttention", func(g *gen) {
		g.dtype = tensor.Float32
		b, seq, kv, h := g.in(1, 2), g.in(1, 4), g.in(1, 2), 16*g.in(1, 2)
		heads, past := kv*g.in(1, 3), 0
		g.int("num_heads", heads)
		g.int("kv_num_heads", kv)
		switch {
		case g.chance(2):
			past, seq = g.in(1, 4), 1
		case g.chance(3): // a second prompt
			past, b = g.in(1, 4), 1
		}
		if g.chance(4) {
			g.int("causal", 0)
		} else if g.chance(3) {
			g.int("local_window_size", g.in(1, 4))
		}
		if g.chance(3) {
			g.float("softcap", 1+g.Float32())
		}
		if g.chance(3) {
			g.float("scale", 0.2+g.Float32())
		}
		total := past + seq
		lens := tensor.New(make([]int32, b), b)
		for i := range b {
			tensor.Data[int32](lens)[i] = int32(total - 1)
		}
		inputs := []*onnx.Value{g.rand(b, seq, heads*h), g.rand(b, seq, kv*h), g.rand(b, seq, kv*h), nil, nil, g.feed(lens), g.feed(tensor.Scalar(int32(total))), nil, nil, nil, nil, nil, nil, nil}
		if g.chance(3) {
			inputs[0], inputs[1], inputs[2] = g.rand(b, seq, (heads+2*kv)*h), nil, nil
		}
		room := past // of the cache; what is beyond the past is 0, of which ONNX Runtime makes 0 if it has another buffer for the present
		if past > 0 && g.chance(3) {
			room += g.in(1, 4)
		}
		switch {
		case past > 0 && g.chance(3): // quantized, in whole bytes or halves
			kind, bits := one(g, "PER_TENSOR", "PER_CHANNEL"), one(g, 8, 4)
			g.str("k_quant_type", kind)
			g.str("v_quant_type", kind)
			g.int("kv_cache_bit_width", bits)
			width, d := h, tensor.Int8
			if bits == 4 {
				width, d = h/2, tensor.Uint8
			}
			for i := range 2 {
				cache, _ := tensor.Zeros(d, b, kv, room, width)
				for k := range cache.Bytes() {
					if k/width%room < past {
						cache.Bytes()[k] = byte(g.IntN(256))
					}
				}
				scale := tensor.New([]float32{1}, 1)
				if kind == "PER_CHANNEL" {
					scale, _ = tensor.Zeros(tensor.Float32, 1, kv, 1, h)
				}
				for k := range tensor.Data[float32](scale) {
					tensor.Data[float32](scale)[k] = (0.5 + g.Float32()) * 4 / float32(int(1)<<(bits-1))
				}
				inputs[3+i], inputs[12+i] = g.feed(cache), g.feed(scale)
			}
		case past > 0:
			for i := range 2 {
				cache := g.tensor(g.dtype, b, kv, room, h)
				for k := range tensor.Data[float32](cache) {
					if k/h%room >= past {
						tensor.Data[float32](cache)[k] = 0
					}
				}
				inputs[3+i] = g.feed(cache)
			}
		}
		if g.chance(2) {
			g.int("do_rotary", 1)
			g.maybe("rotary_interleaved", 0, 1)
			half := 8 * g.in(1, h/16)
			inputs[7], inputs[8] = g.rand(total+2, half), g.rand(total+2, half)
			if g.chance(2) {
				ids, _ := tensor.Zeros(tensor.Int64, b, seq)
				for i := range ids.Len() {
					tensor.Data[int64](ids)[i] = int64(g.IntN(total + 3))
					if past == 0 { // counted on from the first
						tensor.Data[int64](ids)[i] = int64(g.IntN(3))
					}
				}
				inputs[9] = g.feed(ids)
			}
		}
		switch {
		case g.chance(4):
			g.int("smooth_softmax", 1)
		case g.chance(3):
			inputs[11] = g.rand(heads)
		}
		if g.chance(3) {
			inputs[10] = g.rand(one(g, 1, b), one(g, 1, heads), seq, total)
		}
		outs := 3
		if g.chance(4) {
			outs = 4
			g.int("qk_output", g.in(1, 2))
		}
		g.node(outs, inputs...)
	})
	ms("com.microsoft.SparseAttention", func(g *gen) {
		g.dtype = tensor.Float32
		const size = 16
		b, kv, h, blocks, layouts := g.in(1, 2), g.in(1, 2), 16, g.in(2, 4), g.in(1, 2)
		heads := kv * layouts * g.in(1, 2)
		most := blocks * size
		total := g.in(2, most)
		seq := total
		if g.chance(2) {
			seq = 1
		} else if g.chance(3) {
			seq = g.in(1, total)
		}
		g.int("num_heads", heads)
		g.int("kv_num_heads", kv)
		g.int("sparse_block_size", size)
		if g.chance(3) {
			g.float("scale", 0.2+g.Float32())
		}
		rows, _ := tensor.Zeros(tensor.Int32, layouts, blocks+1)
		columns, _ := tensor.Zeros(tensor.Int32, layouts, blocks*(blocks+1)/2)
		for l := range layouts {
			c := tensor.Data[int32](columns)[l*columns.Shape()[1]:][:columns.Shape()[1]]
			n := 0
			for r := range blocks {
				for k := range r + 1 {
					if k == r || g.chance(2) { // its own block it always sees
						c[n] = int32(k)
						n++
					}
				}
				tensor.Data[int32](rows)[l*(blocks+1)+r+1] = int32(n)
			}
			for ; n < len(c); n++ {
				c[n] = -1
			}
		}
		lens, _ := tensor.Zeros(tensor.Int32, b)
		for i := range b {
			tensor.Data[int32](lens)[i] = int32(total)
		}
		inputs := []*onnx.Value{g.rand(b, seq, heads*h), g.rand(b, seq, kv*h), g.rand(b, seq, kv*h), nil, nil, g.feed(rows), g.feed(columns),
			g.feed(tensor.New([]int32{int32(total)}, 1)), g.feed(lens), nil, nil}
		if g.chance(3) {
			inputs[0], inputs[1], inputs[2] = g.rand(b, seq, (heads+2*kv)*h), nil, nil
		}
		g.shared = map[string]string{} // ONNX Runtime insists on one buffer for what was and what is
		for i := range 2 {
			inputs[3+i] = g.input(g.tensor(g.dtype, b, kv, most, h))
			g.shared[fmt.Sprint("y", 1+i)] = inputs[3+i].Name
		}
		if g.chance(2) {
			g.int("do_rotary", 1)
			g.maybe("rotary_interleaved", 0, 1)
			inputs[9], inputs[10] = g.rand(most, h/2), g.rand(most, h/2)
		}
		g.node(3, inputs...)
	})
	ms("com.microsoft.Trilu", func(g *gen) {
		g.maybe("upper", 0, 1)
		inputs := []*onnx.Value{g.rand(g.full(2, 4)...)}
		if g.chance(2) {
			inputs = append(inputs, g.feed(tensor.Scalar(int64(g.in(-3, 3)))))
		}
		g.dtype = tensor.Float32
		g.node(1, inputs...)
	})
	ms("com.microsoft.Inverse", func(g *gen) {
		g.dtype = tensor.Float32
		n := g.in(1, 4)
		t := g.tensor(g.dtype, append(g.full(0, 2), n, n)...)
		for i := range t.Len() { // far from singular
			if i/n%n == i%n {
				tensor.SetFloat64At(t, i, tensor.Float64At(t, i)+30)
			}
		}
		g.node(1, g.feed(t))
	})
}
