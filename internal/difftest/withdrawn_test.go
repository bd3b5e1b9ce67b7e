package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	each("Affine Scale ScaledTanh ParametricSoftplus", func(g *gen) {
		g.plain, g.dtype, g.declared = true, tensor.Float32, true
		if g.def.Name == "Scale" {
			g.maybeFloat("scale", -2, 2)
		} else {
			g.float("alpha", 0.2+g.Float32())
			g.float("beta", 0.2+g.Float32())
		}
		unary(g)
	})
	generators["ImageScaler"] = func(g *gen) {
		g.plain, g.dtype, g.declared = true, tensor.Float32, true
		s := g.full(4, 4)
		g.maybeFloat("scale", -2, 2)
		bias := make([]float32, s[1])
		for i := range bias {
			bias[i] = float32(g.NormFloat64())
		}
		g.floats("bias", bias...)
		g.node(1, g.rand(s...))
	}
	generators["Crop"] = func(g *gen) {
		g.plain, g.dtype, g.declared = true, tensor.Float32, true
		left, top, right, bottom := g.in(0, 2), g.in(0, 2), g.in(0, 2), g.in(0, 2)
		h, w := g.in(1, 4), g.in(1, 4)
		g.ints("border", int64(left), int64(top), int64(right), int64(bottom))
		if g.chance(2) {
			g.ints("scale", int64(h), int64(w))
		}
		g.node(1, g.rand(g.in(1, 2), g.in(1, 3), top+h+bottom, left+w+right))
	}
	generators["DynamicSlice"] = func(g *gen) {
		g.declared = true
		g.dtype = one(g, tensor.Float32, tensor.Int64, tensor.Int32)
		s := g.full(1, 4)
		index := func(lo, hi func(i int) int, n int) *onnx.Value {
			v := make([]int64, n)
			for i := range v {
				v[i] = int64(g.in(lo(i), hi(i)))
			}
			return g.int64s(v...)
		}
		begin := index(func(i int) int { return -s[i] }, func(i int) int { return s[i] }, len(s))
		end := index(func(i int) int { return -s[i] }, func(i int) int { return s[i] + 3 }, len(s))
		inputs := []*onnx.Value{g.rand(s...), begin, end}
		if g.chance(2) {
			inputs = append(inputs, index(func(i int) int { return i }, func(i int) int { return i }, len(s)))
		}
		g.node(1, inputs...)
	}
}
