package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets in kernel.itile.
const (
	itileA, itileOffsets, itileTaps   = 0, 8, 16
	itilePixel, itileK                = 24, 32
	itileB, itileC, itileLDC          = 40, 48, 56
	itileCols, itileColSum, itileZero = 64, 72, 80
	itileRow, itileScale, itileBias   = 88, 96, 104
	itileRound, itileAdd              = 112, 120
	itileColBy, itileBy               = 128, 132
)

// igemm writes the tile functions of products and convolutions of bytes.
func igemm(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		s.rows = map[bool]int{true: 14, false: 6}[s.masked()]
		u.tiles("igemm", "itile", s, s.bytes/2, func(rows int) { igemmTile(vec{u, s}, rows, vec.igemmProduct) })
		u.tiles("idepthwise", "itile", s, s.bytes/2, func(rows int) { igemmTile(vec{u, s}, rows, vec.igemmDepthwise) })
	}
}

// sums is two vectors of 32-bit sums for each row of a tile.
type sums [][2]V

func (v vec) sums(rows int) sums {
	s := make(sums, rows)
	for i := range s {
		for j := range s[i] {
			s[i][j] = v.new()
			v.VXORPS(s[i][j], s[i][j], s[i][j])
		}
	}
	return s
}

// igemmProduct multiplies dwords of rows of A, four bytes with VNNI and two 16-bit integers without, with dwords of B.
func (v vec) igemmProduct(b *blockUnit, w reg.GPVirtual) sums {
	rows := b.n
	// A sum waits for the one before it: where rows are few, steps are added to sums of their own.
	var sets []sums
	for range max(1, min(unroll, 4/rows)) {
		sets = append(sets, v.sums(rows))
	}
	step := func(q int) {
		acc := sets[q%len(sets)]
		b0, b1 := v.load(operand.Mem{Base: w, Disp: 2 * q * v.s.bytes}), v.load(operand.Mem{Base: w, Disp: (2*q + 1) * v.s.bytes})
		for i := range rows {
			x := v.new()
			v.VPBROADCASTD(b.input(i, 4*q), x)
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
	advance := func(n int) {
		v.ADDQ(operand.I32(2*v.s.bytes*n), w)
		for _, r := range b.bases {
			v.ADDQ(operand.Imm(uint64(4*n)), r)
		}
	}
	b.overTaps(itileA, itileOffsets, itileTaps, 8, func(reg.GPVirtual) {
		k := b.field(itileK)
		v.SUBQ(operand.Imm(unroll), k)
		v.JL(operand.LabelRef("few"))
		v.Label("four")
		for q := range unroll {
			step(q)
		}
		advance(unroll)
		v.SUBQ(operand.Imm(unroll), k)
		v.JGE(operand.LabelRef("four"))
		v.Label("few")
		v.ADDQ(operand.Imm(unroll), k)
		v.JZ(operand.LabelRef("tapEnd"))
		v.Label("one")
		step(0)
		advance(1)
		v.DECQ(k)
		v.JNZ(operand.LabelRef("one"))
		v.Label("tapEnd")
	})
	for _, more := range sets[1:] {
		for i := range rows {
			for j := range 2 {
				v.VPADDD(more[i][j], sets[0][i][j], sets[0][i][j])
			}
		}
	}
	return sets[0]
}

// igemmDepthwise multiplies bytes with the 32-bit integers of 16 bits of the same column.
func (v vec) igemmDepthwise(b *blockUnit, w reg.GPVirtual) sums {
	acc := v.sums(b.n)
	b.overTaps(itileA, itileOffsets, itileTaps, 8, func(reg.GPVirtual) {
		for j := range 2 {
			y := v.load(operand.Mem{Base: w, Disp: j * v.s.bytes})
			for i := range b.n {
				x := v.new()
				v.VPMOVZXBD(b.input(i, j*v.lanes()), x)
				if v.s.masked() {
					v.VPDPWSSD(y, x, acc[i][j])
				} else {
					v.VPMADDWD(y, x, x)
					v.VPADDD(x, acc[i][j], acc[i][j])
				}
			}
		}
		v.ADDQ(operand.I32(2*v.s.bytes), w)
	})
	return acc
}

func igemmTile(v vec, rows int, sum func(v vec, b *blockUnit, w reg.GPVirtual) sums) {
	unit := v.blockUnit(rows, itilePixel)
	tp, load := unit.t, unit.field
	acc := sum(v, unit, load(itileB))

	colSum, by := load(itileColSum), v.new()
	v.VPBROADCASTD(operand.Mem{Base: tp, Disp: itileColBy}, by)
	for j := range 2 {
		prod := v.new()
		v.VPMULLD(operand.Mem{Base: colSum, Disp: j * v.s.bytes}, by, prod)
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

	// Halves go to even as they become integers.
	v.Label("bytes")
	param := func(i int) operand.Mem { return operand.Mem{Base: round, Disp: 64 * i} }
	rowsOf(1, func(x V, to operand.Mem, mask reg.Register) {
		v.VMAXPS(param(1), x, x)
		v.VMINPS(param(2), x, x)
		v.VCVTPS2DQ(x, x)
		v.VPADDD(param(0), x, x)
		v.storeBytes(x, to, mask)
	})
}
