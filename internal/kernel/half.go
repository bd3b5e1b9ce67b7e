package kernel

import "math"

// Conversions between float32 and the 16-bit formats, held as their bits.
// Narrowing rounds to nearest, ties to even, and overflows to infinity; NaN
// stays NaN; subnormals are kept. dst and x have one length.

// Float16ToFloat32 sets dst[i] to the IEEE 754 half with bits x[i], exactly.
func Float16ToFloat32(dst []float32, x []uint16) {
	convert("Float16ToFloat32", dst, x, vector.fromFloat16, fromFloat16)
}

// Float32ToFloat16 sets dst[i] to the bits of the half nearest to x[i].
func Float32ToFloat16(dst []uint16, x []float32) {
	convert("Float32ToFloat16", dst, x, vector.toFloat16, toFloat16)
}

// BFloat16ToFloat32 sets dst[i] to the bfloat16 with bits x[i], exactly.
func BFloat16ToFloat32(dst []float32, x []uint16) {
	convert("BFloat16ToFloat32", dst, x, vector.fromBFloat16, fromBFloat16)
}

// Float32ToBFloat16 sets dst[i] to the bits of the bfloat16 nearest to x[i].
func Float32ToBFloat16(dst []uint16, x []float32) {
	convert("Float32ToBFloat16", dst, x, vector.toBFloat16, toBFloat16)
}

// convert runs simd, if there is one, on all but the last elements, and one on the rest.
func convert[D, S any](name string, dst []D, x []S, simd func([]D, []S), one func(S) D) {
	sameLen(name, len(dst), len(x))
	done := 0
	if simd != nil {
		simd(dst, x)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i, v := range x[done:] {
		dst[done+i] = one(v)
	}
}

func fromBFloat16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

func fromFloat16(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exp {
	case 0: // zero or subnormal: frac·2^-24
		return math.Float32frombits(math.Float32bits(float32(frac)*0x1p-24) | sign)
	case 0x1f:
		if frac != 0 {
			frac |= 0x200 // quiet, as the processor's conversion does
		}
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

func toFloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, abs := uint16(bits>>16)&0x8000, bits&0x7fffffff
	switch {
	case abs > 0x7f800000:
		return sign | 0x7e00 | uint16(abs>>13)&0x3ff
	case abs >= 0x477ff000: // 65520, halfway between the greatest half and 2^16
		return sign | 0x7c00
	case abs < 0x38800000: // below 2^-14: let the adder round at 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(abs)+0.5)-math.Float32bits(0.5))
	}
	abs -= (127 - 15) << 23
	return sign | uint16((abs+0xfff+abs>>13&1)>>13)
}

func toBFloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
