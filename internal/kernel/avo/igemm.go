package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets in kernel.itile.
const (
	itileA, itileB, itileC            = 0, 8, 16
	itileColTerm, itileZero, itileRow = 24, 32, 40
	itileK, itileLDC, itileCols       = 48, 56, 64
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
	acc := make([][2]V, rows)
	for i := range acc {
		for j := range 2 {
			acc[i][j] = v.new()
			v.VXORPS(acc[i][j], acc[i][j], acc[i][j])
		}
	}
	v.TESTQ(k, k)
	v.JZ(operand.LabelRef("end"))
	v.Label("loop")
	b0, b1 := v.load(operand.Mem{Base: b}), v.load(operand.Mem{Base: b, Disp: v.s.bytes})
	for i := range rows {
		x := v.new()
		v.VPBROADCASTD(operand.Mem{Base: a, Disp: 4 * i}, x)
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
	v.ADDQ(operand.I32(4*rows), a)
	v.ADDQ(operand.I32(2*v.s.bytes), b)
	v.DECQ(k)
	v.JNZ(operand.LabelRef("loop"))
	v.Label("end")

	term := load(itileColTerm)
	for i := range rows {
		for j := range 2 {
			v.VPADDD(operand.Mem{Base: term, Disp: j * v.s.bytes}, acc[i][j], acc[i][j])
		}
	}
	zero := load(itileZero)
	v.TESTQ(zero, zero)
	v.JZ(operand.LabelRef("store"))
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
	v.Label("store")
	c, ldc := load(itileC), load(itileLDC)
	var mask [2]reg.Virtual
	if v.s.masked() {
		bits := v.GP64()
		v.MOVQ(operand.U32(1), bits)
		v.SHLXQ(load(itileCols), bits, bits)
		v.DECQ(bits)
		for j := range 2 {
			mask[j] = v.K()
			v.KMOVW(bits.As32(), mask[j])
			v.SHRQ(operand.Imm(16), bits)
		}
	}
	for i := range rows {
		for j := range 2 {
			to := operand.Mem{Base: c, Disp: j * v.s.bytes}
			if v.s.masked() {
				v.VMOVUPS(acc[i][j], mask[j], to)
			} else {
				v.VMOVUPS(acc[i][j], to)
			}
		}
		if i < rows-1 {
			v.ADDQ(ldc, c)
		}
	}
	v.VZEROUPPER()
	v.RET()
}
