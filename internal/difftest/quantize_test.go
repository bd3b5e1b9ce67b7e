package difftest

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// scales of a quantisation: powers of two now and then, whose quotients are ties.
func (g *gen) scales(d tensor.DType, shape ...int) *onnx.Value {
	t := g.tensor(d, shape...)
	exact := g.chance(2)
	for i := range t.Len() {
		v := 0.02 + g.Float64()
		if exact {
			v = math.Ldexp(1, g.in(-4, 1))
		}
		tensor.SetFloat64At(t, i, v)
	}
	return g.feed(t)
}

// bytes is a tensor of all of an 8-bit type's numbers.
func (g *gen) bytes(d tensor.DType, shape ...int) *tensor.Tensor {
	t, _ := tensor.Zeros(d, shape...)
	for i := range t.Bytes() {
		t.Bytes()[i] = byte(g.IntN(256))
	}
	return t
}

// grain is the shape of the scales and zero points of a tensor of shape s: one for all, by an axis, or by blocks.
func (g *gen) grain(s []int, axes, blocks bool) []int {
	if !axes || g.chance(2) {
		return one(g, []int{}, []int{1})
	}
	a := g.axis(len(s), true)
	g.int("axis", a)
	a = (a + len(s)) % len(s)
	if blocks && g.chance(2) {
		size := g.in(2, 3)
		g.int("block_size", size)
		b := slices.Clone(s)
		b[a] = (s[a] + size - 1) / size
		return b
	}
	return []int{s[a]}
}

func init() {
	each(`QuantizeLinear com.microsoft.QuantizeLinear`, func(g *gen) {
		s := g.full(1, 4)
		grain := g.grain(s, g.since >= 13 || g.def.Domain != "", g.since >= 21)
		g.dtype = one(g, tensor.Float32, tensor.Float32, tensor.Float16)
		if g.since < 19 {
			g.dtype = tensor.Float32
		}
		x := g.tensor(g.dtype, s...)
		for i := range x.Len() {
			tensor.SetFloat64At(x, i, tensor.Float64At(x, i)*one(g, 1, 8, 0.5))
		}
		zeros := []tensor.DType{tensor.Uint8, tensor.Int8}
		if g.since >= 19 {
			zeros = append(zeros, tensor.Float8E4M3FN, tensor.Float8E5M2)
		}
		if g.since >= 21 {
			zeros = append(zeros, tensor.Uint16, tensor.Int16)
		}
		inputs := []*onnx.Value{g.feed(x), g.scales(g.dtype, grain...), nil}
		if g.since >= 21 && g.chance(4) {
			g.int("output_dtype", int(one(g, tensor.Uint8, tensor.Int8, tensor.Uint16)))
		} else if !g.chance(4) {
			z := g.tensor(one(g, zeros...), grain...)
			if z.DType().IsFloat() {
				g.widen = true
				z, _ = tensor.Zeros(z.DType(), grain...)
				g.maybe("saturate", 0, 1)
			} else if z.DType().Size() == 1 {
				z = g.bytes(z.DType(), grain...)
			}
			inputs[2] = g.feed(z)
		}
		g.node(1, inputs...)
	})
	each(`DequantizeLinear com.microsoft.DequantizeLinear`, func(g *gen) {
		s := g.full(1, 4)
		grain := g.grain(s, g.since >= 13 || g.def.Domain != "", g.since >= 21)
		d := one(g, tensor.Uint8, tensor.Int8, tensor.Int32)
		if g.since >= 21 && g.chance(3) {
			d = one(g, tensor.Uint16, tensor.Int16)
		}
		scale := tensor.Float32
		if g.since >= 19 && g.chance(3) {
			scale = tensor.Float16
		}
		g.dtype = d
		inputs := []*onnx.Value{g.rand(s...), g.scales(scale, grain...), nil}
		if d == tensor.Int32 {
			z, _ := tensor.Zeros(d, grain...)
			if g.chance(2) {
				inputs[2] = g.feed(z)
			}
		} else if g.chance(2) {
			inputs[2] = g.rand(grain...)
		}
		g.node(1, inputs...)
	})
	generators["DynamicQuantizeLinear"] = func(g *gen) {
		g.plain = true
		g.node(3, g.rand(g.full(1, 3)...))
	}
	generators["QLinearMatMul"] = func(g *gen) {
		a, b := g.factors()
		for len(a) < 2 || len(b) < 2 || a[len(a)-1] == 0 {
			a, b = g.factors()
		}
		ad := one(g, tensor.Uint8, tensor.Int8)
		bd, yd := ad, ad
		if ad == tensor.Uint8 {
			bd = one(g, tensor.Uint8, tensor.Int8)
		}
		grain := []int{}
		if len(b) == 2 && g.chance(2) {
			grain = []int{b[1]}
		}
		g.node(1, g.feed(g.bytes(ad, a...)), g.scales(tensor.Float32), g.feed(g.bytes(ad)), g.feed(g.bytes(bd, b...)), g.scales(tensor.Float32, grain...),
			g.feed(g.bytes(bd, grain...)), g.feed(tensor.Scalar(float32(200*g.Float64()))), g.feed(g.bytes(yd)))
	}
	each("com.microsoft.MatMulIntegerToFloat com.microsoft.DynamicQuantizeMatMul", func(g *gen) {
		g.plain = true
		a, b := g.factors()
		for len(a) < 2 || len(b) != 2 || count(a) == 0 || count(b) == 0 {
			a, b = g.factors()
		}
		bd := one(g, tensor.Uint8, tensor.Int8)
		grain := one(g, []int{}, []int{1}, []int{b[1]})
		inputs := []*onnx.Value{g.feed(g.bytes(bd, b...)), g.scales(tensor.Float32, grain...), nil, nil}
		if g.chance(2) {
			inputs[2] = g.feed(g.bytes(bd, grain...))
		}
		g.dtype = tensor.Float32
		if g.chance(2) {
			inputs[3] = g.rand(b[1])
		}
		if g.def.Name == "DynamicQuantizeMatMul" {
			g.node(1, append([]*onnx.Value{g.rand(a...)}, inputs...)...)
			return
		}
		ad := one(g, tensor.Uint8, tensor.Int8)
		var zero *onnx.Value
		if g.chance(2) {
			zero = g.feed(g.bytes(ad))
		}
		g.node(1, g.feed(g.bytes(ad, a...)), inputs[0], g.scales(tensor.Float32), inputs[1], zero, inputs[2], inputs[3])
	})
	each("com.microsoft.DynamicQuantizeLSTM", func(g *gen) {
		g.plain = true
		g.dtype = tensor.Float32
		steps, batch, in, hidden, dirs := g.in(1, 4), g.in(1, 3), g.in(1, 5), g.in(1, 4), 1
		g.int("hidden_size", hidden)
		switch g.in(0, 3) {
		case 0:
			g.str("direction", "reverse")
		case 1:
			dirs = 2
			g.str("direction", "bidirectional")
		}
		inputs := make([]*onnx.Value, 12)
		inputs[0] = g.rand(steps, batch, in)
		d := one(g, tensor.Uint8, tensor.Int8)
		for i, k := range []int{in, hidden} {
			grain := one(g, []int{dirs}, []int{dirs, 4 * hidden})
			zero, _ := tensor.Zeros(d, grain...)
			if d == tensor.Uint8 {
				z := byte(g.IntN(256)) // ONNX Runtime wants one for all columns
				for j := range zero.Bytes() {
					zero.Bytes()[j] = z
				}
			}
			scale := g.tensor(tensor.Float32, grain...)
			for j := range scale.Len() {
				tensor.SetFloat64At(scale, j, 0.002+0.01*g.Float64())
			}
			inputs[1+i], inputs[8+2*i], inputs[9+2*i] = g.feed(g.bytes(d, dirs, k, 4*hidden)), g.feed(scale), g.feed(zero)
		}
		for i, s := range map[int][]int{3: {dirs, 8 * hidden}, 5: {dirs, batch, hidden}, 6: {dirs, batch, hidden}, 7: {dirs, 3 * hidden}} {
			if g.chance(2) {
				inputs[i] = g.rand(s...)
			}
		}
		g.node(3, inputs...)
	})
	each("QLinearConv com.microsoft.QLinearConv", func(g *gen) {
		x, w, _ := g.conv(false)
		if g.def.Domain != "" && g.chance(2) {
			g.int("channels_last", 1)
			x = append(append([]int{x[0]}, x[2:]...), x[1])
		}
		xd := one(g, tensor.Uint8, tensor.Int8)
		wd := xd
		if xd == tensor.Uint8 {
			wd = one(g, tensor.Uint8, tensor.Int8)
		}
		grain := []int{}
		if g.chance(2) {
			grain = []int{w[0]}
		}
		zero, _ := tensor.Zeros(wd, grain...)
		if len(grain) == 0 {
			zero = g.bytes(wd)
		}
		inputs := []*onnx.Value{g.feed(g.bytes(xd, x...)), g.scales(tensor.Float32), g.feed(g.bytes(xd)), g.feed(g.bytes(wd, w...)), g.scales(tensor.Float32, grain...),
			g.feed(zero), g.feed(tensor.Scalar(float32(1 + 100*g.Float64()))), g.feed(g.bytes(xd))}
		if g.chance(2) {
			bias := g.tensor(tensor.Int32, w[0])
			for i := range w[0] {
				tensor.Data[int32](bias)[i] = int32(g.in(-3000, 3000))
			}
			inputs = append(inputs, g.feed(bias))
		}
		g.node(1, inputs...)
	})
	// Quantized operators of com.microsoft: the scale and the zero point of an operand.
	grain := func(g *gen, d tensor.DType) []*onnx.Value {
		return []*onnx.Value{g.feed(tensor.Scalar(float32(0.01 + 0.1*g.Float64()))), g.feed(g.bytes(d))}
	}
	each("com.microsoft.QLinearAdd com.microsoft.QLinearMul", func(g *gen) {
		a := g.full(1, 4)
		b := g.broadcasts(a)
		d := one(g, tensor.Uint8, tensor.Int8)
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, a...))}, grain(g, d)...)
		inputs = append(append(inputs, g.feed(g.bytes(d, b...))), grain(g, d)...)
		g.node(1, append(inputs, grain(g, d)...)...)
	})
	each("com.microsoft.QLinearSigmoid com.microsoft.QLinearLeakyRelu com.microsoft.QLinearSoftmax", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		s := g.full(1, 3)
		switch g.def.Name {
		case "QLinearLeakyRelu":
			g.maybeFloat("alpha", 0.1, 0.5)
		case "QLinearSoftmax":
			g.int("axis", g.axis(len(s), true))
			g.int("opset", one(g, 11, 13))
		}
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, s...))}, grain(g, d)...)
		g.node(1, append(inputs, grain(g, d)...)...)
	})
	each("com.microsoft.QLinearGlobalAveragePool", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		g.declared = true // Retune transposes, for which it needs the rank
		g.maybe("channels_last", 0, 1)
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, g.full(4, 4)...))}, grain(g, d)...)
		g.node(1, append(inputs, grain(g, d)...)...)
	})
	each("com.microsoft.QLinearConcat", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		s := g.full(1, 3)
		a := g.axis(len(s), true)
		g.int("axis", a)
		inputs := grain(g, d)
		for range g.in(1, 3) {
			part := slices.Clone(s)
			part[(a+len(s))%len(s)] = g.in(1, 3)
			inputs = append(append(inputs, g.feed(g.bytes(d, part...))), grain(g, d)...)
		}
		g.node(1, inputs...)
	})
	each("com.microsoft.QGemm", func(g *gen) {
		m, k, n := g.in(1, 5), g.in(1, 9), g.in(1, 5)
		a, b := []int{m, k}, []int{k, n}
		if g.chance(2) {
			g.int("transB", 1)
			slices.Reverse(b)
		}
		d, e := tensor.Uint8, one(g, tensor.Uint8, tensor.Int8)
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, a...))}, grain(g, d)...)
		inputs = append(append(inputs, g.feed(g.bytes(e, b...))), grain(g, e)...)
		bias := g.tensor(tensor.Int32, n)
		for i := range n {
			tensor.Data[int32](bias)[i] = int32(g.in(-3000, 3000))
		}
		inputs = append(inputs, g.feed(bias))
		if g.chance(2) {
			inputs = append(inputs, g.feed(tensor.Scalar(float32(1+20*g.Float64()))), g.feed(g.bytes(d)))
		}
		g.node(1, inputs...)
	})
	each("com.microsoft.NhwcMaxPool", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		g.declared = true
		k := []int64{int64(g.in(1, 3)), int64(g.in(1, 3))}
		g.ints("kernel_shape", k...)
		if g.chance(2) {
			g.ints("strides", int64(g.in(1, 3)), int64(g.in(1, 3)))
		}
		if g.chance(2) {
			g.ints("pads", int64(g.in(0, int(k[0])-1)), int64(g.in(0, int(k[1])-1)), int64(g.in(0, int(k[0])-1)), int64(g.in(0, int(k[1])-1)))
		}
		g.node(1, g.feed(g.bytes(d, g.in(1, 2), g.in(3, 6), g.in(3, 6), g.in(1, 4))))
	})
	each("com.microsoft.MatMulNBits", func(g *gen) {
		g.plain, g.declared = true, true
		g.dtype = tensor.Float32
		bits, size := one(g, 2, 4, 8), one(g, 16, 32)
		n, k := g.in(1, 5), one(g, g.in(1, 70), size*g.in(1, 3))
		blocks := (k + size - 1) / size
		g.int("N", n)
		g.int("K", k)
		g.int("bits", bits)
		g.int("block_size", size)
		inputs := []*onnx.Value{g.rand(append(g.full(1, 2), k)...), g.b.Const(g.bytes(tensor.Uint8, n, blocks, size*bits/8)), g.b.Const(g.tensor(tensor.Float32, n*blocks)), nil, nil, nil}
		switch g.in(0, 3) {
		case 0:
			if bits < 8 { // ONNX Runtime refuses others
				inputs[3] = g.b.Const(g.tensor(tensor.Float32, n*blocks))
			}
		case 1, 2:
			inputs[3] = g.b.Const(g.bytes(tensor.Uint8, n*((blocks*bits+7)/8)))
		}
		if bits == 4 && k%size == 0 && (inputs[3] == nil || inputs[3].Const.DType() == tensor.Uint8) { // what else ONNX Runtime refuses, or reads other rows' scales for
			of := tensor.New(make([]int32, k), k)
			for i := range k {
				tensor.Data[int32](of)[i] = int32(g.IntN(blocks))
			}
			inputs[4] = g.b.Const(of)
		}
		if g.chance(3) {
			inputs[5] = g.rand(n)
		}
		g.node(1, inputs...)
	})
	each("com.microsoft.GatherBlockQuantized", func(g *gen) {
		g.plain = true
		size, bits := one(g, 16, 32), 4
		rows, blocks := g.in(1, 4), g.in(1, 3)
		d := one(g, tensor.Uint8, tensor.Uint4, tensor.Int4)
		width := size * blocks
		shape := []int{rows, width}
		if d == tensor.Uint8 {
			bits = one(g, 4, 8)
			shape[1] = width * bits / 8
			g.int("bits", bits)
		}
		g.int("block_size", size)
		g.int("quantize_axis", 1)
		data, _ := tensor.Zeros(d, shape...)
		for i := range data.Bytes() {
			data.Bytes()[i] = byte(g.IntN(256))
			if d != tensor.Uint8 {
				data.Bytes()[i] %= 8
			}
		}
		index := tensor.New(make([]int64, 3), 3)
		for i := range 3 {
			tensor.Data[int64](index)[i] = int64(g.IntN(rows))
		}
		inputs := []*onnx.Value{g.b.Const(data), g.feed(index), g.b.Const(g.tensor(tensor.Float32, rows, blocks))}
		if d == tensor.Uint8 && g.chance(2) {
			inputs = append(inputs, g.b.Const(g.bytes(d, rows, (blocks*bits+7)/8)))
		}
		g.node(1, inputs...)
	})
	each("com.microsoft.QAttention", func(g *gen) {
		g.plain, g.declared = true, true
		g.dtype = tensor.Float32
		b, seq, in, heads, h := g.in(1, 2), g.in(1, 4), g.in(1, 4), g.in(1, 3), g.in(1, 4)
		n := heads * h
		g.int("num_heads", heads)
		g.maybe("unidirectional", 0, 1)
		w := one(g, tensor.Uint8, tensor.Int8)
		small := func() *onnx.Value { return g.feed(tensor.Scalar(float32(0.002 + 0.01*g.Float64()))) }
		inputs := []*onnx.Value{g.feed(g.bytes(tensor.Uint8, b, seq, in)), g.feed(g.bytes(w, in, 3*n)), g.rand(3 * n), small(), small(), nil,
			g.feed(g.bytes(tensor.Uint8)), g.feed(g.bytes(w))}
		g.node(1, inputs...)
	})
	each("com.microsoft.QLinearAveragePool", func(g *gen) {
		g.declared = true
		d := one(g, tensor.Uint8, tensor.Int8)
		k := []int64{int64(g.in(1, 3)), int64(g.in(1, 3))}
		g.ints("kernel_shape", k...)
		if g.chance(2) {
			g.ints("strides", int64(g.in(1, 2)), int64(g.in(1, 2)))
		}
		g.maybe("channels_last", 0, 1)
		inputs := append([]*onnx.Value{g.feed(g.bytes(d, g.in(1, 2), g.in(3, 6), g.in(3, 6), g.in(3, 6)))}, grain(g, d)...)
		g.node(1, append(inputs, grain(g, d)...)...)
	})
	each("com.microsoft.QLinearWhere", func(g *gen) {
		d := one(g, tensor.Uint8, tensor.Int8)
		s := g.full(1, 3)
		grain := func() []*onnx.Value { // constants: ONNX Runtime falls over others
			return []*onnx.Value{g.b.Const(tensor.Scalar(float32(0.01 + 0.1*g.Float64()))), g.b.Const(g.bytes(d))}
		}
		inputs := append([]*onnx.Value{g.feed(g.tensor(tensor.Bool, s...)), g.feed(g.bytes(d, s...))}, grain()...)
		inputs = append(append(inputs, g.feed(g.bytes(d, s...))), grain()...)
		g.node(1, append(inputs, grain()...)...)
	})
}
