package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets in kernel.itile.
const (
	itileA, itileB, itileC            = 0, 8, 16
	itileColSum, itileZero, itileRow  = 24, 32, 40
	itileK, itileLDC, itileCols       = 48, 56, 64
	itileScale, itileBias, itileRound = 72, 80, 88
	itileAdd, itileColBy, itileBy     = 96, 104, 108
)

// igemm writes the tile functions of the product of bytes. Each step multiplies a dword of A, four
// bytes with VNNI and two 16-bit integers without, with a dword of B.
func igemm(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		u.tiles("igemm", "itile", s, s.bytes/2, func(rows int) { igemmTile(vec{u, s}, rows) })
	}
}

func igemmTile(v vec, rows int) {
	tp := v.gp("t")
	load := func(off int) reg.GPVirtual {
		r := v.GP64()
		v.MOVQ(operand.Mem{Base: tp, Disp: off}, r)
		return r
	}
	a, b, k := load(itileA), load(itileB), load(itileK)
	// A sum waits for the one before it: where rows are few, steps are added to sums of their own.
	sets := make([][][2]V, max(1, 4/rows))
	for q := range sets {
		sets[q] = make([][2]V, rows)
		for i := range rows {
			for j := range 2 {
				x := v.new()
				v.VXORPS(x, x, x)
				sets[q][i][j] = x
			}
		}
	}
	acc := sets[0]
	step := func(acc [][2]V, q int) {
		b0, b1 := v.load(operand.Mem{Base: b, Disp: 2 * q * v.s.bytes}), v.load(operand.Mem{Base: b, Disp: (2*q + 1) * v.s.bytes})
		for i := range rows {
			x := v.new()
			v.VPBROADCASTD(operand.Mem{Base: a, Disp: 4 * (q*rows + i)}, x)
			for j, y := range []V{b0, b1} {
				if v.s.masked() {
					v.VPDPBUSD(y, x, acc[i][j])
				} else {
					prod := v.new()
					v.VPMADDWD(y, x, prod)
					v.VPADDD(prod, acc[i][j], acc[i][j])
				}
			}
		}
	}
	loop := func(label string, sets [][][2]V) {
		v.Label(label)
		for q := range sets {
			step(sets[q], q)
		}
		v.ADDQ(operand.I32(4*rows*len(sets)), a)
		v.ADDQ(operand.I32(2*v.s.bytes*len(sets)), b)
		v.SUBQ(operand.I32(len(sets)), k)
		v.JGE(operand.LabelRef(label))
	}
	if n := len(sets); n > 1 {
		v.SUBQ(operand.I32(n), k)
		v.JL(operand.LabelRef("rest"))
		loop("sets", sets)
		v.Label("rest")
		v.ADDQ(operand.I32(n), k)
	}
	v.SUBQ(operand.I32(1), k)
	v.JL(operand.LabelRef("end"))
	loop("loop", sets[:1])
	v.Label("end")
	for _, more := range sets[1:] {
		for i := range rows {
			for j := range 2 {
				v.VPADDD(more[i][j], acc[i][j], acc[i][j])
			}
		}
	}

	sum, by := load(itileColSum), v.new()
	v.VPBROADCASTD(operand.Mem{Base: tp, Disp: itileColBy}, by)
	for j := range 2 {
		prod := v.new()
		v.VPMULLD(operand.Mem{Base: sum, Disp: j * v.s.bytes}, by, prod)
		for i := range rows {
			v.VPADDD(prod, acc[i][j], acc[i][j])
		}
	}
	add := load(itileAdd)
	v.TESTQ(add, add)
	v.JZ(operand.LabelRef("added"))
	for i := range rows {
		for j := range 2 {
			v.VPADDD(operand.Mem{Base: add, Disp: j * v.s.bytes}, acc[i][j], acc[i][j])
		}
	}
	v.Label("added")
	zero := load(itileZero)
	v.TESTQ(zero, zero)
	v.JZ(operand.LabelRef("out"))
	sums := load(itileRow)
	z0, z1 := v.load(operand.Mem{Base: zero}), v.load(operand.Mem{Base: zero, Disp: v.s.bytes})
	for i := range rows {
		x := v.new()
		v.VPBROADCASTD(operand.Mem{Base: sums, Disp: 4 * i}, x)
		for j, z := range []V{z0, z1} {
			prod := v.new()
			v.VPMULLD(z, x, prod)
			v.VPADDD(prod, acc[i][j], acc[i][j])
		}
	}
	v.Label("out")
	c, ldc := load(itileC), load(itileLDC)
	var mask [2]reg.Register
	if v.s.masked() {
		bits := v.GP64()
		v.MOVQ(operand.U32(1), bits)
		v.SHLXQ(load(itileCols), bits, bits)
		v.DECQ(bits)
		for j := range 2 {
			k := v.K()
			v.KMOVW(bits.As32(), k)
			v.SHRQ(operand.Imm(16), bits)
			mask[j] = k
		}
	}
	// rows writes all of C, whose elements are size bytes.
	rowsOf := func(size int, store func(x V, to operand.Mem, mask reg.Register)) {
		for i := range rows {
			for j := range 2 {
				store(acc[i][j], operand.Mem{Base: c, Disp: j * v.lanes() * size}, mask[j])
			}
			if i < rows-1 {
				v.ADDQ(ldc, c)
			}
		}
		v.VZEROUPPER()
		v.RET()
	}
	dwords := func(x V, to operand.Mem, mask reg.Register) {
		if mask != nil {
			v.VMOVUPS(x, mask, to)
		} else {
			v.VMOVUPS(x, to)
		}
	}
	scale := load(itileScale)
	v.TESTQ(scale, scale)
	v.JNZ(operand.LabelRef("floats"))
	rowsOf(4, dwords)

	v.Label("floats")
	times := v.new()
	v.VBROADCASTSS(operand.Mem{Base: tp, Disp: itileBy}, times)
	for j := range 2 {
		f := v.mul(times, operand.Mem{Base: scale, Disp: j * v.s.bytes})
		for i := range acc {
			v.VCVTDQ2PS(acc[i][j], acc[i][j])
			v.VMULPS(f, acc[i][j], acc[i][j])
		}
	}
	bias := load(itileBias)
	v.TESTQ(bias, bias)
	v.JZ(operand.LabelRef("round"))
	for j := range 2 {
		f := v.load(operand.Mem{Base: bias, Disp: j * v.s.bytes})
		for i := range acc {
			v.VADDPS(f, acc[i][j], acc[i][j])
		}
	}
	v.Label("round")
	round := load(itileRound)
	v.TESTQ(round, round)
	v.JNZ(operand.LabelRef("bytes"))
	rowsOf(4, dwords)

	v.Label("bytes")
	param := func(i int) operand.Mem { return operand.Mem{Base: round, Disp: 64 * i} }
	rowsOf(1, func(x V, to operand.Mem, mask reg.Register) {
		v.storeBytes(v.toByte(x, param(0), param(1), param(2)), to, mask)
	})
}
