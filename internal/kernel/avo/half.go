package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
)

// conversions between float32 and 16-bit formats; body takes a vector of float32s to or from
// half as many bytes in memory.
var conversions = []struct {
	name, dst, src string
	body           func(v vec, dst, src operand.Mem)
}{
	{"fromFloat16", "float32", "uint16", func(v vec, dst, src operand.Mem) {
		r := v.new()
		v.VCVTPH2PS(src, r)
		v.VMOVUPS(r, dst)
	}},
	{"toFloat16", "uint16", "float32", func(v vec, dst, src operand.Mem) {
		v.VCVTPS2PH(operand.Imm(0), v.load(src), dst)
	}},
	{"fromBFloat16", "float32", "uint16", func(v vec, dst, src operand.Mem) {
		r := v.new()
		v.VPMOVZXWD(src, r)
		v.VPSLLD(operand.Imm(16), r, r)
		v.VMOVUPS(r, dst)
	}},
	{"toBFloat16", "uint16", "float32", func(v vec, dst, src operand.Mem) {
		x := v.load(src)
		// Add just under half of the last place kept, or just half if it is odd.
		r := v.new()
		v.VPSLLD(operand.Imm(15), x, r)
		v.VPSRLD(operand.Imm(31), r, r)
		v.VPADDD(x, r, r)
		v.VPADDD(v.bits(0x7fff), r, r)
		r = v.sel(v.cmp(x, unordered, x), v.or(x, v.bits(0x400000)), r)
		v.VPSRLD(operand.Imm(16), r, r)
		if v.s.masked() {
			v.VPMOVDW(r, dst)
			return
		}
		hi := v.XMM()
		v.VEXTRACTI128(operand.Imm(1), r, hi)
		v.VPACKUSDW(hi, r.AsX(), hi)
		v.VMOVUPS(hi, dst)
	}},
}

// convert writes the loop over whole vectors; the caller does the rest.
func (v vec) convert(name, dst, src string, body func(v vec, dst, src operand.Mem)) {
	v.fn(name, fmt.Sprintf("(dst []%s, x []%s)", dst, src), fmt.Sprintf("%s converts the first len(x) - len(x) mod %d elements.", name, v.lanes()))
	n, d, s := v.length("x"), v.ptr("dst"), v.ptr("x")
	step := func(typ string) operand.Op {
		if typ == "uint16" {
			return operand.I32(v.s.bytes / 2)
		}
		return operand.I32(v.s.bytes)
	}
	v.whole(n, func() {
		body(v, operand.Mem{Base: d}, operand.Mem{Base: s})
		v.ADDQ(step(dst), d)
		v.ADDQ(step(src), s)
	})
}
