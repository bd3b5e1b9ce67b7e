package kernel

import "math"

// LayerNormRow sets dst[i] = (x[i] - mean)·invStd · scale[i] + bias[i], where mean and invStd =
// 1/√(variance + eps) are those of x, which it returns. The variance is that of the
// population, and is taken about the mean. bias may be nil for 0, scale for 1. dst may be x.
func LayerNormRow[T Float](dst, x, scale, bias []T, eps T) (mean, invStd T) {
	sameLen("LayerNormRow", len(dst), len(x))
	if len(x) == 0 {
		return 0, 0
	}
	mean = Sum(x) / T(len(x))
	AddScalar(dst, x, -mean)
	invStd = T(1 / math.Sqrt(float64(SumSquares(dst)/T(len(x))+eps)))
	scaleRow(dst, invStd, scale, bias)
	return mean, invStd
}

// RMSNormRow sets dst[i] = x[i]·invRMS · scale[i], where invRMS = 1/√(Σx²/n + eps), which it
// returns. scale may be nil for 1. dst may be x.
func RMSNormRow[T Float](dst, x, scale []T, eps T) (invRMS T) {
	sameLen("RMSNormRow", len(dst), len(x))
	if len(x) == 0 {
		return 0
	}
	invRMS = T(1 / math.Sqrt(float64(SumSquares(x)/T(len(x))+eps)))
	copy(dst, x)
	scaleRow(dst, invRMS, scale, nil)
	return invRMS
}

// scaleRow sets x[i] = x[i]·s·scale[i] + bias[i].
func scaleRow[T Float](x []T, s T, scale, bias []T) {
	Scale(x, x, s)
	switch {
	case scale != nil && bias != nil:
		MulAdd(x, x, scale, bias)
	case scale != nil:
		Mul(x, x, scale)
	case bias != nil:
		Add(x, x, bias)
	}
}
