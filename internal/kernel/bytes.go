package kernel

import "math"

// QuantizeBytes sets dst[i] = round(x[i]/scale) + zero between lo and hi, halves to even; NaN gives zero. Of int8 these are the bits.
func QuantizeBytes(dst []uint8, x []float32, scale, zero, lo, hi float32) {
	sameLen("QuantizeBytes", len(dst), len(x))
	done := 0
	if vector.quantize != nil {
		vector.quantize(dst, x, scale, zero, lo, hi)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i, v := range x[done:] {
		q := v / scale
		if q != q {
			q = 0
		}
		dst[done+i] = toByte(q, zero, lo, hi)
	}
}

// toByte is round(x) + zero between lo and hi; NaN gives lo.
func toByte(x, zero, lo, hi float32) uint8 {
	q := float32(math.RoundToEven(float64(x))) + zero
	if !(q > lo) {
		q = lo
	}
	return uint8(int32(min(q, hi)))
}

// DequantizeU8 sets dst[i] = (x[i] - zero)·scale.
func DequantizeU8(dst []float32, x []uint8, zero int, scale float32) {
	sameLen("DequantizeU8", len(dst), len(x))
	done := 0
	if vector.dequantizeU8 != nil {
		vector.dequantizeU8(dst, x, zero, scale)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i, v := range x[done:] {
		dst[done+i] = float32(int(v)-zero) * scale
	}
}

// DequantizeS8 sets dst[i] = (x[i] - zero)·scale, where x is the bits of int8s.
func DequantizeS8(dst []float32, x []uint8, zero int, scale float32) {
	sameLen("DequantizeS8", len(dst), len(x))
	done := 0
	if vector.dequantizeS8 != nil {
		vector.dequantizeS8(dst, x, zero, scale)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i, v := range x[done:] {
		dst[done+i] = float32(int(int8(v))-zero) * scale
	}
}
