package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// ofBytes are the functions between float32s and bytes.
var ofBytes = []struct {
	name  string
	write func(v vec, name string)
}{
	{"quantize", vec.quantize},
	{"dequantizeU8", func(v vec, name string) { v.dequantize(name, v.VPMOVZXBD) }},
	{"dequantizeS8", func(v vec, name string) { v.dequantize(name, v.VPMOVSXBD) }},
	{"addU8", func(v vec, name string) { v.addBytes(name, v.VPMOVZXBD) }},
	{"addS8", func(v vec, name string) { v.addBytes(name, v.VPMOVSXBD) }},
	{"mulU8", func(v vec, name string) { v.mulBytes(name, v.VPMOVZXBD) }},
	{"mulS8", func(v vec, name string) { v.mulBytes(name, v.VPMOVSXBD) }},
	{"maxU8", func(v vec, name string) { v.maxBytes(name, v.VPMAXUB) }},
	{"maxS8", func(v vec, name string) { v.maxBytes(name, v.VPMAXSB) }},
}

func (v vec) quantize(name string) {
	v.fn(name, "(dst []uint8, x []float32, scale, zero, lo, hi float32)", fmt.Sprintf(
		"%s rounds the first len(x) - len(x) mod %d elements: see QuantizeBytes.", name, v.lanes()))
	n, dst, x := v.length("x"), v.ptr("dst"), v.ptr("x")
	scale, zero, lo, hi := v.param("scale"), v.param("zero"), v.param("lo"), v.param("hi")
	v.whole(n, func() {
		q := v.div(v.load(operand.Mem{Base: x}), scale)
		q = v.sel(v.cmp(q, unordered, q), v.c(0), q)
		v.storeBytes(v.toByte(q, zero, lo, hi), operand.Mem{Base: dst}, nil)
		v.ADDQ(operand.I32(v.s.bytes), x)
		v.ADDQ(operand.I32(v.lanes()), dst)
	})
}

// toByte is round(x) + zero between lo and hi as integers; NaN gives lo.
func (v vec) toByte(x V, zero, lo, hi operand.Op) V {
	i := v.new()
	v.VCVTPS2DQ(v.min(v.max(v.add(v.round(x), zero), lo), hi), i)
	return i
}

// storeBytes stores the lowest byte of each lane, of those in mask if that is given, which only masked kernels have.
func (v vec) storeBytes(x V, to operand.Mem, mask reg.Register) {
	switch {
	case mask != nil:
		v.VPMOVDB(x, mask, to)
	case v.s.masked():
		v.VPMOVDB(x, to)
	default:
		lo, hi := v.XMM(), v.XMM()
		y := v.new()
		v.VPSHUFB(v.lowBytes(), x, y)
		v.VEXTRACTI128(operand.Imm(1), y, hi)
		v.VPUNPCKLDQ(hi, y.AsX(), lo)
		v.VMOVQ(lo, to)
	}
}

func (v vec) dequantize(name string, widen func(...operand.Op)) {
	v.fn(name, "(dst []float32, x []uint8, zero int, scale float32)", fmt.Sprintf(
		"%s sets dst[i] = (x[i] - zero)·scale for the first len(x) - len(x) mod %d elements.", name, v.lanes()))
	n, dst, x, scale := v.length("x"), v.ptr("dst"), v.ptr("x"), v.param("scale")
	zero := v.new()
	v.VPBROADCASTD(v.arg("zero"), zero)
	v.whole(n, func() {
		y := v.new()
		widen(operand.Mem{Base: x}, y)
		v.VPSUBD(zero, y, y)
		v.VCVTDQ2PS(y, y)
		v.VMOVUPS(v.mul(y, scale), operand.Mem{Base: dst})
		v.ADDQ(operand.I32(v.lanes()), x)
		v.ADDQ(operand.I32(v.s.bytes), dst)
	})
}

func (v vec) addBytes(name string, widen func(...operand.Op)) {
	v.fn(name, "(dst, x, y []uint8, a, b, c, lo, hi float32)", fmt.Sprintf(
		"%s rounds the first len(x) - len(x) mod %d sums: see AddBytes.", name, v.lanes()))
	n, dst, x, y := v.length("x"), v.ptr("dst"), v.ptr("x"), v.ptr("y")
	a, b, c, lo, hi := v.param("a"), v.param("b"), v.param("c"), v.param("lo"), v.param("hi")
	v.whole(n, func() {
		f := func(p reg.GPVirtual) V {
			r := v.new()
			widen(operand.Mem{Base: p}, r)
			v.VCVTDQ2PS(r, r)
			return r
		}
		i := v.new()
		v.VCVTPS2DQ(v.min(v.max(v.fma(f(y), b, v.fma(f(x), a, c)), lo), hi), i)
		v.storeBytes(i, operand.Mem{Base: dst}, nil)
		for _, p := range []reg.GPVirtual{x, y, dst} {
			v.ADDQ(operand.I32(v.lanes()), p)
		}
	})
}

func (v vec) mulBytes(name string, widen func(...operand.Op)) {
	v.fn(name, "(dst, x, y []uint8, xZero, yZero, by, c, lo, hi float32)", fmt.Sprintf(
		"%s rounds the first len(x) - len(x) mod %d products: see MulBytes.", name, v.lanes()))
	n, dst, x, y := v.length("x"), v.ptr("dst"), v.ptr("x"), v.ptr("y")
	xZero, yZero, by, c, lo, hi := v.param("xZero"), v.param("yZero"), v.param("by"), v.param("c"), v.param("lo"), v.param("hi")
	v.whole(n, func() {
		f := func(p reg.GPVirtual, zero operand.Op) V {
			r := v.new()
			widen(operand.Mem{Base: p}, r)
			v.VCVTDQ2PS(r, r)
			return v.sub(r, zero)
		}
		i := v.new()
		v.VCVTPS2DQ(v.min(v.max(v.fma(v.mul(f(x, xZero), f(y, yZero)), by, c), lo), hi), i)
		v.storeBytes(i, operand.Mem{Base: dst}, nil)
		for _, p := range []reg.GPVirtual{x, y, dst} {
			v.ADDQ(operand.I32(v.lanes()), p)
		}
	})
}

// mapBytes holds the table in four registers, of which VBMI's permutations look at two.
func (v vec) mapBytes(name string) {
	v.fn(name, "(dst, x []uint8, table *[256]uint8)", name+" sets dst[i] = table[x[i]] for the first len(x) - len(x) mod 64 elements. It takes VBMI.")
	n, dst, x := v.length("x"), v.ptr("dst"), v.ptr("x")
	from := v.Load(v.Param("table"), v.GP64()).(reg.GPVirtual)
	var table [4]reg.VecVirtual
	for i := range table {
		table[i] = v.ZMM()
		v.VMOVDQU8(operand.Mem{Base: from, Disp: 64 * i}, table[i])
	}
	v.SUBQ(operand.I32(64), n)
	v.JL(operand.LabelRef("done"))
	v.Label("loop")
	low, high, upper := v.ZMM(), v.ZMM(), v.K()
	v.VMOVDQU8(operand.Mem{Base: x}, low)
	v.VMOVDQA64(low, high)
	v.VPMOVB2M(low, upper)
	v.VPERMI2B(table[1], table[0], low)
	v.VPERMI2B(table[3], table[2], high)
	v.VMOVDQU8(high, upper, low)
	v.VMOVDQU8(low, operand.Mem{Base: dst})
	v.ADDQ(operand.I32(64), x)
	v.ADDQ(operand.I32(64), dst)
	v.SUBQ(operand.I32(64), n)
	v.JGE(operand.LabelRef("loop"))
	v.Label("done")
	v.VZEROUPPER()
	v.RET()
}

// maxBytes goes on with 16 bytes at a time where there is no whole vector.
func (v vec) maxBytes(name string, op func(...operand.Op)) {
	v.fn(name, "(dst, x []uint8)", name+" sets dst[i] = max(dst[i], x[i]) for the first len(x) - len(x) mod 16 elements.")
	n, dst, x := v.length("x"), v.ptr("dst"), v.ptr("x")
	step := func(r V, size int) {
		v.VMOVDQU(operand.Mem{Base: x}, r)
		op(operand.Mem{Base: dst}, r, r)
		v.VMOVDQU(r, operand.Mem{Base: dst})
		v.ADDQ(operand.I32(size), x)
		v.ADDQ(operand.I32(size), dst)
		v.SUBQ(operand.I32(size), n)
	}
	v.SUBQ(operand.I32(32), n)
	v.JL(operand.LabelRef("few"))
	v.Label("many")
	step(v.YMM(), 32)
	v.JGE(operand.LabelRef("many"))
	v.Label("few")
	v.ADDQ(operand.I32(16), n)
	v.JL(operand.LabelRef("end"))
	step(v.XMM(), 16)
	v.Label("end")
	v.VZEROUPPER()
	v.RET()
}

// whole runs body, which moves its pointers, on whole vectors; the caller does the rest.
func (v vec) whole(n reg.GPVirtual, body func()) {
	v.SUBQ(operand.I32(v.lanes()), n)
	v.JL(operand.LabelRef("done"))
	v.Label("loop")
	body()
	v.SUBQ(operand.I32(v.lanes()), n)
	v.JGE(operand.LabelRef("loop"))
	v.Label("done")
	v.VZEROUPPER()
	v.RET()
}
