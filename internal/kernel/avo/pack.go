package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pack writes the copies of matrices into panels.
func pack(u *unit) {
	transpose4(u)
	transpose16(u)
	deinterleave(u)
	for _, w := range []int{6, 12, 16, 32} {
		copyRows(u, w)
	}
}

// deinterleave parts the float32s at even places from those at odd ones, eight of each at a time.
func deinterleave(u *unit) {
	u.fn("deinterleaveAVX2", "(even, odd, src *float32, n int)",
		"deinterleaveAVX2 sets even[i] = src[2·i] and odd[i] = src[2·i+1] for i < n, a multiple of 8.")
	even, odd := u.Load(u.Param("even"), u.GP64()).(reg.GPVirtual), u.Load(u.Param("odd"), u.GP64()).(reg.GPVirtual)
	src, n := u.Load(u.Param("src"), u.GP64()).(reg.GPVirtual), u.Load(u.Param("n"), u.GP64()).(reg.GPVirtual)
	u.SUBQ(operand.Imm(8), n)
	u.JL(operand.LabelRef("done"))
	u.Label("loop")
	a, b := u.YMM(), u.YMM()
	u.VMOVUPS(operand.Mem{Base: src}, a)
	u.VMOVUPS(operand.Mem{Base: src, Disp: 32}, b)
	for _, to := range []struct {
		p    reg.GPVirtual
		pick uint64
	}{{even, 0x88}, {odd, 0xdd}} {
		y := u.YMM()
		u.VSHUFPS(operand.Imm(to.pick), b, a, y) // of each half of a and b by turns
		u.VPERMPD(operand.Imm(0xd8), y, y)
		u.VMOVUPS(y, operand.Mem{Base: to.p})
		u.ADDQ(operand.Imm(32), to.p)
	}
	u.ADDQ(operand.Imm(64), src)
	u.SUBQ(operand.Imm(8), n)
	u.JGE(operand.LabelRef("loop"))
	u.Label("done")
	u.VZEROUPPER()
	u.RET()
}

// transpose4 copies four rows of float32 to four columns.
func transpose4(u *unit) {
	u.fn("transpose4AVX2", "(dst, src *float32, ld, n, stride int)",
		"transpose4AVX2 sets dst[j·stride+i] = src[i][j] for i < 4, j < n, where row i of src is\ni·ld bytes from the first.")
	dst, src := u.Load(u.Param("dst"), u.GP64()).(reg.GPVirtual), u.Load(u.Param("src"), u.GP64()).(reg.GPVirtual)
	ld, n, stride := u.Load(u.Param("ld"), u.GP64()).(reg.GPVirtual), u.Load(u.Param("n"), u.GP64()).(reg.GPVirtual), u.Load(u.Param("stride"), u.GP64()).(reg.GPVirtual)
	u.SHLQ(operand.Imm(2), stride)
	ld3, stride3 := u.GP64(), u.GP64()
	u.LEAQ(operand.Mem{Base: ld, Index: ld, Scale: 2}, ld3)
	u.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	at := func(p, s, s3 reg.GPVirtual, i int) operand.Mem {
		m := operand.Mem{Base: p}
		switch i {
		case 1, 2:
			m = m.Idx(s, uint8(i))
		case 3:
			m = m.Idx(s3, 1)
		}
		return m
	}
	next := u.GP64() // the rows that are likely to be copied after these
	u.LEAQ(operand.Mem{Base: src, Index: ld, Scale: 4}, next)
	u.SUBQ(operand.Imm(8), n)
	u.JL(operand.LabelRef("tail"))
	u.Label("loop")
	var r [4]reg.VecVirtual
	for i := range r {
		r[i] = u.YMM()
		u.VMOVUPS(at(src, ld, ld3, i), r[i])
		u.PREFETCHT0(at(next, ld, ld3, i))
	}
	// Each half of a column register holds one column: j and j+4.
	lo01, hi01, lo23, hi23 := u.YMM(), u.YMM(), u.YMM(), u.YMM()
	u.VUNPCKLPS(r[1], r[0], lo01)
	u.VUNPCKHPS(r[1], r[0], hi01)
	u.VUNPCKLPS(r[3], r[2], lo23)
	u.VUNPCKHPS(r[3], r[2], hi23)
	var col [4]reg.VecVirtual
	for j, pair := range [][2]reg.VecVirtual{{lo01, lo23}, {lo01, lo23}, {hi01, hi23}, {hi01, hi23}} {
		col[j] = u.YMM()
		if j%2 == 0 {
			u.VUNPCKLPD(pair[1], pair[0], col[j])
		} else {
			u.VUNPCKHPD(pair[1], pair[0], col[j])
		}
	}
	for j := range 4 {
		u.VMOVUPS(col[j].AsX(), at(dst, stride, stride3, j))
	}
	u.LEAQ(operand.Mem{Base: dst, Index: stride, Scale: 4}, dst)
	for j := range 4 {
		u.VEXTRACTF128(operand.Imm(1), col[j], at(dst, stride, stride3, j))
	}
	u.LEAQ(operand.Mem{Base: dst, Index: stride, Scale: 4}, dst)
	u.ADDQ(operand.Imm(32), src)
	u.ADDQ(operand.Imm(32), next)
	u.SUBQ(operand.Imm(8), n)
	u.JGE(operand.LabelRef("loop"))
	u.Label("tail")
	u.ADDQ(operand.Imm(8), n)
	u.JZ(operand.LabelRef("done"))
	u.Label("tailLoop")
	x := u.XMM()
	u.VMOVSS(operand.Mem{Base: src}, x)
	for i := 1; i < 4; i++ {
		u.VINSERTPS(operand.Imm(uint64(i<<4)), at(src, ld, ld3, i), x, x)
	}
	u.VMOVUPS(x, operand.Mem{Base: dst})
	u.ADDQ(stride, dst)
	u.ADDQ(operand.Imm(4), src)
	u.DECQ(n)
	u.JNZ(operand.LabelRef("tailLoop"))
	u.Label("done")
	u.VZEROUPPER()
	u.RET()
}

// transpose16 copies sixteen rows of float32 to sixteen columns, by squares, of which it reads and writes whole cache lines.
func transpose16(u *unit) {
	u.fn("transpose16AVX512", "(dst, src *float32, ld, n, stride int)",
		"transpose16AVX512 sets dst[j·stride+i] = src[i][j] for i < 16, j < n, a multiple of 16, where row i of src is\ni·ld bytes from the first.")
	v := vec{u, avx512}
	ld, n, stride := v.gp("ld"), v.gp("n"), v.gp("stride")
	u.SHLQ(operand.Imm(2), stride)
	ld3, stride3 := u.GP64(), u.GP64()
	u.LEAQ(operand.Mem{Base: ld, Index: ld, Scale: 2}, ld3)
	u.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	// Every fourth row and column.
	src, dst := [4]reg.GPVirtual{v.gp("src")}, [4]reg.GPVirtual{v.gp("dst")}
	for i := 1; i < 4; i++ {
		src[i], dst[i] = u.GP64(), u.GP64()
		u.LEAQ(operand.Mem{Base: src[i-1], Index: ld, Scale: 4}, src[i])
		u.LEAQ(operand.Mem{Base: dst[i-1], Index: stride, Scale: 4}, dst[i])
	}
	at := func(p, s, s3 reg.GPVirtual, i int) operand.Mem {
		m := operand.Mem{Base: p}
		switch i {
		case 1, 2:
			m = m.Idx(s, uint8(i))
		case 3:
			m = m.Idx(s3, 1)
		}
		return m
	}
	u.SUBQ(operand.Imm(16), n)
	u.JL(operand.LabelRef("done"))
	u.Label("loop")
	// Squares of four in the lanes of four registers: lane l of part[q][c] is column 4l+c of rows 4q to 4q+3.
	var part [4][4]V
	for q := range part {
		var r [4]V
		for i := range r {
			r[i] = v.load(at(src[q], ld, ld3, i))
		}
		lo01, hi01, lo23, hi23 := v.op2(u.VUNPCKLPS, r[0], r[1]), v.op2(u.VUNPCKHPS, r[0], r[1]), v.op2(u.VUNPCKLPS, r[2], r[3]), v.op2(u.VUNPCKHPS, r[2], r[3])
		part[q] = [4]V{v.op2(u.VUNPCKLPD, lo01, lo23), v.op2(u.VUNPCKHPD, lo01, lo23), v.op2(u.VUNPCKLPD, hi01, hi23), v.op2(u.VUNPCKHPD, hi01, hi23)}
	}
	lanes := func(a, b V, pick uint64) V {
		r := u.ZMM()
		u.VSHUFF32X4(operand.Imm(pick), b, a, r)
		return r
	}
	for c := range 4 {
		for half, pick := range []uint64{0x44, 0xee} { // lanes 0 and 1, or 2 and 3
			a, b := lanes(part[0][c], part[1][c], pick), lanes(part[2][c], part[3][c], pick)
			u.VMOVUPS(lanes(a, b, 0x88), at(dst[2*half], stride, stride3, c))
			u.VMOVUPS(lanes(a, b, 0xdd), at(dst[2*half+1], stride, stride3, c))
		}
	}
	for i := range 4 {
		u.ADDQ(operand.Imm(64), src[i])
	}
	on := u.GP64()
	u.MOVQ(stride, on)
	u.SHLQ(operand.Imm(4), on)
	for i := range 4 {
		u.ADDQ(on, dst[i])
	}
	u.SUBQ(operand.Imm(16), n)
	u.JGE(operand.LabelRef("loop"))
	u.Label("done")
	u.VZEROUPPER()
	u.RET()
}

// copyRows cuts rows of float32s into panels, w wide. It takes row after row, since those of a
// wide matrix are pages apart.
func copyRows(u *unit, w int) {
	u.fn(fmt.Sprintf("copyRows%dAVX2", w), "(dst, src *float32, ld, n, panels, stride int)",
		fmt.Sprintf("copyRows%dAVX2 sets dst[q·stride+i·%d+j] = src[i·ld+q·%d+j] for q < panels, i < n, j < %d.\npanels is not 0.", w, w, w, w))
	v := vec{u, avx2}
	dst, src, ld, n := v.gp("dst"), v.gp("src"), v.gp("ld"), v.gp("n")
	panels, stride := v.gp("panels"), v.gp("stride")
	u.SHLQ(operand.Imm(2), ld)
	u.SHLQ(operand.Imm(2), stride)
	u.TESTQ(n, n)
	u.JZ(operand.LabelRef("done"))
	u.Label("row")
	from, to, left := u.GP64(), u.GP64(), u.GP64()
	u.MOVQ(src, from)
	u.MOVQ(dst, to)
	u.MOVQ(panels, left)
	u.Label("panel")
	for off := 0; off < w*4; {
		from, to := operand.Mem{Base: from, Disp: off}, operand.Mem{Base: to, Disp: off}
		switch left := w*4 - off; {
		case left >= 32:
			y := u.YMM()
			u.VMOVUPS(from, y)
			u.VMOVUPS(y, to)
			off += 32
		case left >= 16:
			x := u.XMM()
			u.VMOVUPS(from, x)
			u.VMOVUPS(x, to)
			off += 16
		default:
			r := u.GP64()
			u.MOVQ(from, r)
			u.MOVQ(r, to)
			off += 8
		}
	}
	u.ADDQ(operand.I32(w*4), from)
	u.ADDQ(stride, to)
	u.DECQ(left)
	u.JNZ(operand.LabelRef("panel"))
	u.ADDQ(ld, src)
	u.ADDQ(operand.I32(w*4), dst)
	u.DECQ(n)
	u.JNZ(operand.LabelRef("row"))
	u.Label("done")
	u.VZEROUPPER()
	u.RET()
}
