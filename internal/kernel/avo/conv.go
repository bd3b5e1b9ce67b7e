package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// conv writes the inner loops of convolutions.
func conv(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		v := vec{u, s}
		v.gather()
		v.taps()
	}
}

func (v vec) gp(param string) reg.GPVirtual {
	return v.Load(v.Param(param), v.GP64()).(reg.GPVirtual)
}

// gather writes panels of the column matrix of an image. A chunk is four int32s, of which the
// first two are offsets in dst and in src.
func (v vec) gather() {
	v.fn("gather"+v.s.name, "(dst, src *float32, rows *int32, n int, chunks *chunk, nchunks, stride int)",
		"gather"+v.s.name+" copies, for i < n and each chunk c, one register from src[rows[i]+c.src]\nto dst[i·stride+c.dst], in this order.")
	dst, src, rows, n := v.gp("dst"), v.gp("src"), v.gp("rows"), v.gp("n")
	chunks, nchunks, stride := v.gp("chunks"), v.gp("nchunks"), v.gp("stride")
	v.SHLQ(operand.Imm(4), nchunks)
	v.ADDQ(chunks, nchunks) // the end of them
	v.TESTQ(n, n)
	v.JZ(operand.LabelRef("done"))
	v.Label("row")
	base, c := v.GP64(), v.GP64()
	v.MOVLQSX(operand.Mem{Base: rows}, base)
	v.LEAQ(operand.Mem{Base: src, Index: base, Scale: 4}, base)
	v.MOVQ(chunks, c)
	v.Label("chunk")
	d, s, x := v.GP64(), v.GP64(), v.new()
	v.MOVLQSX(operand.Mem{Base: c}, d)
	v.MOVLQSX(operand.Mem{Base: c, Disp: 4}, s)
	v.VMOVUPS(operand.Mem{Base: base, Index: s, Scale: 4}, x)
	v.VMOVUPS(x, operand.Mem{Base: dst, Index: d, Scale: 4})
	v.ADDQ(operand.Imm(16), c)
	v.CMPQ(c, nchunks)
	v.JLT(operand.LabelRef("chunk"))
	v.ADDQ(operand.Imm(4), rows)
	v.LEAQ(operand.Mem{Base: dst, Index: stride, Scale: 4}, dst)
	v.DECQ(n)
	v.JNZ(operand.LabelRef("row"))
	v.Label("done")
	v.VZEROUPPER()
	v.RET()
}

// taps writes rows of a depthwise convolution.
func (v vec) taps() {
	v.fn("taps"+v.s.name, "(dst, src *float32, n, rows, dstLD, srcLD int, offsets *int32, weights *float32, ntaps int, bias float32)",
		"taps"+v.s.name+" sets dst[r·dstLD+i] = bias + Σ_t weights[t]·src[r·srcLD+offsets[t]+i] for r < rows,\ni < n; the strides are in bytes. It reads up to a register past the last of src, and rows and\nntaps are not 0.")
	dst, src, rows := v.gp("dst"), v.gp("src"), v.gp("rows")
	offsets, weights, ntaps := v.gp("offsets"), v.gp("weights"), v.gp("ntaps")
	bias := v.param("bias")
	from, to, n := v.GP64(), v.GP64(), v.GP64()
	sums := func(label string, width int) []V {
		acc := make([]V, width)
		for i := range acc {
			acc[i] = v.new()
			v.VMOVAPS(bias, acc[i])
		}
		t, at := v.GP64(), v.GP64()
		v.XORQ(t, t)
		v.Label(label)
		v.MOVLQSX(operand.Mem{Base: offsets, Index: t, Scale: 4}, at)
		w := v.new()
		v.VBROADCASTSS(operand.Mem{Base: weights, Index: t, Scale: 4}, w)
		for i := range acc {
			v.VFMADD231PS(operand.Mem{Base: from, Index: at, Scale: 4, Disp: i * v.s.bytes}, w, acc[i])
		}
		v.INCQ(t)
		v.CMPQ(t, ntaps)
		v.JLT(operand.LabelRef(label))
		return acc
	}
	// run makes as many runs of width registers as fit in what is left of the row.
	run := func(name string, width int) {
		v.SUBQ(operand.I32(width*v.lanes()), n)
		v.JL(operand.LabelRef(name + "End"))
		v.Label(name)
		for i, x := range sums(name+"Taps", width) {
			v.VMOVUPS(x, operand.Mem{Base: to, Disp: i * v.s.bytes})
		}
		v.ADDQ(operand.I32(width*v.s.bytes), from)
		v.ADDQ(operand.I32(width*v.s.bytes), to)
		v.SUBQ(operand.I32(width*v.lanes()), n)
		v.JGE(operand.LabelRef(name))
		v.Label(name + "End")
		v.ADDQ(operand.I32(width*v.lanes()), n)
	}
	v.Label("row")
	v.MOVQ(src, from)
	v.MOVQ(dst, to)
	v.MOVQ(v.arg("n"), n)
	run("four", 4)
	run("one", 1)
	v.TESTQ(n, n)
	v.JZ(operand.LabelRef("rowEnd"))
	t := v.tailOf(n)
	t.store(sums("tailTaps", 1)[0], operand.Mem{Base: to})
	v.Label("rowEnd")
	v.ADDQ(v.arg("dstLD"), dst)
	v.ADDQ(v.arg("srcLD"), src)
	v.DECQ(rows)
	v.JNZ(operand.LabelRef("row"))
	v.VZEROUPPER()
	v.RET()
}
