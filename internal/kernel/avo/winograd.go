package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// winograd writes the transforms of F(4×4, 3×3), a register of tiles at a time, tile beside tile.
func winograd(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		v := vec{u, s}
		v.winogradInput()
		v.winogradOutput()
	}
}

// inputRow is Bᵀ·d.
func (v vec) inputRow(d [6]V) [6]V {
	two, four, five := v.c(2), v.c(4), v.c(5)
	d42, d31 := v.sub(d[4], d[2]), v.sub(d[3], d[1])
	return [6]V{
		v.fma(d[0], four, v.fnma(d[2], five, d[4])),
		v.fnma(v.add(d[1], d[2]), four, v.add(d[3], d[4])),
		v.fma(v.sub(d[1], d[2]), four, v.sub(d[4], d[3])),
		v.fma(d31, two, d42),
		v.fnma(d31, two, d42),
		v.fma(d[1], four, v.fnma(d[3], five, d[5])),
	}
}

// outputRow is Aᵀ·m.
func (v vec) outputRow(m [6]V) [4]V {
	s12, d12, s34, d34 := v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
	return [4]V{
		v.add(m[0], v.add(s12, s34)),
		v.fma(d34, v.c(2), d12),
		v.fma(s34, v.c(4), s12),
		v.add(m[5], v.fma(d34, v.c(8), d12)),
	}
}

func (v vec) winogradInput() {
	v.fn("winogradInput"+v.s.name, "(dst, src, scratch *float32, row, phase, stride int)",
		"winogradInput"+v.s.name+" transforms a register of tiles: pixel (i, j) of tile t is src[i·row + (j mod 4)·phase + j/4 + t],\nelement (i, j) of its transform dst[(6·i+j)·stride + t]; row, phase and stride are in bytes. scratch is 36 registers.")
	dst, src, scratch := v.gp("dst"), v.gp("src"), v.gp("scratch")
	row, phase, stride := v.gp("row"), v.gp("phase"), v.gp("stride")
	at := v.GP64()
	for j := range 6 { // down the columns of the tiles
		v.MOVQ(src, at)
		if j == 4 {
			v.ADDQ(operand.Imm(4), src)
			v.MOVQ(src, at)
		}
		for range j % 4 {
			v.ADDQ(phase, at)
		}
		var d [6]V
		for i := range d {
			d[i] = v.load(operand.Mem{Base: at})
			if i < 5 {
				v.ADDQ(row, at)
			}
		}
		for i, x := range v.inputRow(d) {
			v.VMOVUPS(x, operand.Mem{Base: scratch, Disp: (6*i + j) * v.s.bytes})
		}
	}
	for i := range 6 {
		var d [6]V
		for j := range d {
			d[j] = v.load(operand.Mem{Base: scratch, Disp: (6*i + j) * v.s.bytes})
		}
		for _, x := range v.inputRow(d) {
			v.VMOVUPS(x, operand.Mem{Base: dst})
			v.ADDQ(stride, dst)
		}
	}
	v.VZEROUPPER()
	v.RET()
}

func (v vec) winogradOutput() {
	v.fn("winogradOutput"+v.s.name, "(dst, src, scratch *float32, stride, ld int)",
		"winogradOutput"+v.s.name+" transforms a register of tiles back: element (i, j) of tile t is src[(6·i+j)·stride + t], and pixel (i, j)\ndst[i·ld + 4·t + j]; stride and ld are in bytes. scratch is 24 registers.")
	dst, src, scratch := v.gp("dst"), v.gp("src"), v.gp("scratch")
	stride, ld := v.gp("stride"), v.gp("ld")
	for i := range 6 { // along the rows of the tiles
		var m [6]V
		for j := range m {
			m[j] = v.load(operand.Mem{Base: src})
			v.ADDQ(stride, src)
		}
		for j, x := range v.outputRow(m) {
			v.VMOVUPS(x, operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
	}
	// Pixels come column by column; rows are wanted, so the columns of one row are put together at the end.
	for j := range 4 {
		var m [6]V
		for i := range m {
			m[i] = v.load(operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
		for i, x := range v.outputRow(m) {
			v.VMOVUPS(x, operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
	}
	for i := range 4 {
		var p [4]V
		for j := range p {
			p[j] = v.load(operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
		unpack := func(op func(...operand.Op), a, b V) V {
			r := v.new()
			op(b, a, r)
			return r
		}
		lo01, hi01 := unpack(v.VUNPCKLPS, p[0], p[1]), unpack(v.VUNPCKHPS, p[0], p[1])
		lo23, hi23 := unpack(v.VUNPCKLPS, p[2], p[3]), unpack(v.VUNPCKHPS, p[2], p[3])
		// Quarter q of tiles[k] is tile 4·q+k.
		tiles := [4]V{unpack(v.VUNPCKLPD, lo01, lo23), unpack(v.VUNPCKHPD, lo01, lo23), unpack(v.VUNPCKLPD, hi01, hi23), unpack(v.VUNPCKHPD, hi01, hi23)}
		for k, t := range tiles {
			for q := range v.s.bytes / 16 {
				to := operand.Mem{Base: dst, Disp: 16 * (4*q + k)}
				switch {
				case q == 0:
					v.VMOVUPS(t.(reg.VecVirtual).AsX(), to)
				case v.s.masked():
					v.VEXTRACTF32X4(operand.Imm(uint64(q)), t, to)
				default:
					v.VEXTRACTF128(operand.Imm(uint64(q)), t, to)
				}
			}
		}
		if i < 3 {
			v.ADDQ(ld, dst)
		}
	}
	v.VZEROUPPER()
	v.RET()
}
