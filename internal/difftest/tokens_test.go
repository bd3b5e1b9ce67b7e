package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	alone["com.microsoft.SparseToDenseMatMul"] = "its first input is a sparse tensor, which the peer's interface has not"
	ms := func(name string, f func(g *gen)) {
		generators["com.microsoft."+name] = func(g *gen) {
			g.plain, g.declared, g.dtype = true, true, tensor.Float32
			f(g)
		}
	}
	tokens := func(g *gen, most int, shape ...int) *tensor.Tensor {
		t, _ := tensor.Zeros(tensor.Int64, shape...)
		for i := range t.Len() {
			tensor.Data[int64](t)[i] = int64(g.IntN(most))
		}
		return t
	}
	ms("MurmurHash3", func(g *gen) {
		g.dtype = one(g, tensor.Int32, tensor.Int64, tensor.Uint32, tensor.Uint64, tensor.Float32, tensor.Float64, tensor.String)
		g.maybe("seed", 0, 1, 42, 1<<31-1)
		g.maybe("positive", 0, 1)
		g.node(1, g.rand(g.full(0, 3)...))
	})
	ms("NGramRepeatBlock", func(g *gen) {
		b, words := g.in(1, 3), g.in(2, 4)
		g.int("ngram_size", g.in(1, 4))
		g.node(1, g.feed(tokens(g, words, b, g.in(1, 9))), g.rand(b, words))
	})
	ms("BifurcationDetector", func(g *gen) {
		least := g.in(1, 2)
		g.int("min_ngram_size", least)
		g.int("max_ngram_size", least+g.IntN(3))
		n := g.in(1, 8)
		source, at := tokens(g, 3, n), g.IntN(n+1)
		inputs := []*onnx.Value{g.feed(source), g.feed(tokens(g, 3, g.in(1, 6))), g.feed(tensor.New([]int64{int64(at)}, 1))}
		if !g.chance(3) {
			predicted := tokens(g, 3, n+1-at)
			for i := range g.IntN(n + 1 - at) { // begins as the source goes on
				tensor.Data[int64](predicted)[i] = tensor.Data[int64](source)[at+i]
			}
			inputs = append(inputs, g.feed(predicted))
		}
		g.node(2, inputs...)
	})
	ms("DynamicTimeWarping", func(g *gen) {
		s := g.full(2, 2)
		if g.chance(2) {
			s = append([]int{1}, s...)
		}
		g.node(1, g.rand(s...))
	})
	bytes := func(g *gen, shape ...int) *tensor.Tensor {
		t, _ := tensor.Zeros(tensor.Uint8, shape...)
		for i := range t.Bytes() {
			t.Bytes()[i] = byte(g.IntN(256))
		}
		return t
	}
	ms("MatMulBnb4", func(g *gen) {
		n, k, size := g.in(1, 9), g.in(1, 40), one(g, 16, 32, 64)
		g.int("N", n)
		g.int("K", k)
		g.int("block_size", size)
		g.int("quant_type", g.IntN(2))
		scales := g.tensor(g.dtype, (n*k+size-1)/size)
		g.node(1, g.rand(append(g.full(1, 2), k)...), g.b.Const(bytes(g, (n*k+1)/2)), g.b.Const(scales))
	})
	ms("MatMulInteger16", func(g *gen) {
		g.dtype = tensor.Int16
		m, n, k := g.in(1, 4), g.in(1, 4), g.in(1, 4)
		g.node(1, g.rand(m, k), g.rand(k, n))
	})
	ms("ConvTransposeWithDynamicPads", func(g *gen) {
		n := g.in(1, 2)
		x, w, pads := []int{g.in(1, 2), g.in(1, 3)}, []int{0, g.in(1, 3)}, make([]int64, 2*n)
		w[0] = x[1]
		strides := []int64{}
		for i := range n {
			x, w, strides = append(x, g.in(2, 4)), append(w, g.in(2, 3)), append(strides, int64(g.in(1, 2)))
			pads[i], pads[n+i] = int64(g.IntN(2)), int64(g.IntN(2))
		}
		g.ints("strides", strides...)
		g.ints("kernel_shape", int64s(w[2:])...)
		inputs := []*onnx.Value{g.rand(x...), g.rand(w...), g.int64s(pads...)}
		if g.chance(2) {
			inputs = append(inputs, g.rand(w[1]))
		}
		g.node(1, inputs...)
	})
	ms("QEmbedLayerNormalization", func(g *gen) {
		b, seq, n := g.in(1, 3), g.in(1, 4), g.in(2, 6)
		words, kinds := g.in(2, 9), g.in(1, 3)
		index := func(most int) *onnx.Value {
			t, _ := tensor.Zeros(tensor.Int32, b, seq)
			for i := range t.Len() {
				tensor.Data[int32](t)[i] = int32(g.IntN(most))
			}
			return g.feed(t)
		}
		inputs := []*onnx.Value{index(words), nil, g.b.Const(bytes(g, words, n)), g.b.Const(bytes(g, seq+2, n)), nil, g.b.Const(bytes(g, n)), g.b.Const(bytes(g, n)), nil}
		inputs = append(inputs, make([]*onnx.Value, 10)...)
		if g.chance(2) {
			inputs[1], inputs[4] = index(kinds), g.b.Const(bytes(g, kinds, n))
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
		for i := range 5 {
			if inputs[2+i] != nil {
				inputs[8+i] = g.b.Const(tensor.Scalar(0.01 + g.Float32()/50))
				inputs[13+i] = g.b.Const(tensor.Scalar(uint8(g.IntN(256))))
			}
		}
		g.float("epsilon", 1e-3)
		g.node(2, inputs...)
	})
}
