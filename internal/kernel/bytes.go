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

// AddBytes sets dst[i] = round(x[i]·a + y[i]·b + c) between lo and hi, halves to even. signed says that all are the bits of int8s.
func AddBytes(dst, x, y []uint8, a, b, c, lo, hi float32, signed bool) {
	sameLen("AddBytes", len(dst), len(x))
	sameLen("AddBytes", len(dst), len(y))
	add, done := vector.addU8, 0
	if signed {
		add = vector.addS8
	}
	if add != nil {
		add(dst, x, y, a, b, c, lo, hi)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i := done; i < len(dst); i++ {
		v, w := float64(x[i]), float64(y[i])
		if signed {
			v, w = float64(int8(x[i])), float64(int8(y[i]))
		}
		first := float32(v*float64(a) + float64(c)) // the product is exact, as in a fused sum
		dst[i] = toByte(float32(w*float64(b)+float64(first)), 0, lo, hi)
	}
}

// MulBytes sets dst[i] = round((x[i] - xZero)·(y[i] - yZero)·by + c) between lo and hi, halves to even. signed says that all are the bits of int8s.
func MulBytes(dst, x, y []uint8, xZero, yZero, by, c, lo, hi float32, signed bool) {
	sameLen("MulBytes", len(dst), len(x))
	sameLen("MulBytes", len(dst), len(y))
	mul, done := vector.mulU8, 0
	if signed {
		mul = vector.mulS8
	}
	if mul != nil {
		mul(dst, x, y, xZero, yZero, by, c, lo, hi)
		done = len(x) / active.lanes() * active.lanes()
	}
	for i := done; i < len(dst); i++ {
		v, w := float32(x[i]), float32(y[i])
		if signed {
			v, w = float32(int8(x[i])), float32(int8(y[i]))
		}
		product := float64((v - xZero) * (w - yZero)) // exact
		dst[i] = toByte(float32(product*float64(by)+float64(c)), 0, lo, hi)
	}
}

// MapBytes sets dst[i] = table[x[i]].
func MapBytes(dst, x []uint8, table *[256]uint8) {
	sameLen("MapBytes", len(dst), len(x))
	done := 0
	if vector.mapBytes != nil {
		vector.mapBytes(dst, x, table)
		done = len(x) &^ 63
	}
	for i, v := range x[done:] {
		dst[done+i] = table[v]
	}
}

// MaxBytes sets dst[i] to the greater of dst[i] and x[i]. signed says that they are the bits of int8s.
func MaxBytes(dst, x []uint8, signed bool) {
	sameLen("MaxBytes", len(dst), len(x))
	most, done, flip := vector.maxU8, 0, uint8(0)
	if signed {
		most, flip = vector.maxS8, 0x80
	}
	if most != nil {
		most(dst, x)
		done = len(x) &^ 15
	}
	for i, v := range x[done:] {
		dst[done+i] = max(dst[done+i]^flip, v^flip) ^ flip
	}
}
