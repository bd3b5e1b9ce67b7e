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
	if is32[T]() && vector.normalize != nil && scale != nil && bias != nil {
		invStd = T(1 / math.Sqrt(float64(SquaredDeviations(x, mean)/T(len(x))+eps)))
		vector.normalize(f32(dst), f32(x), f32(scale), f32(bias), float32(mean), float32(invStd))
		return mean, invStd
	}
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

// SquaredDeviations returns Σ (x[i] - mean)², with an error below 2^-16 of it at float32 where mean is that of x.
func SquaredDeviations[T Float](x []T, mean T) T {
	if is32[T]() && vector.squaredDeviations != nil {
		x, mean := f32(x), float32(mean)
		return T(blocked(len(x), func(lo, hi int) float32 { return vector.squaredDeviations(x[lo:hi], mean) }))
	}
	var s float64
	for _, v := range x {
		d := float64(v - mean)
		s += d * d
	}
	return T(s)
}

// DotDeviations returns Σ x[i]·(y[i] - mean), with an error below 2^-16·Σ|x[i]·(y[i] - mean)| at float32.
func DotDeviations[T Float](x, y []T, mean T) T {
	sameLen("DotDeviations", len(x), len(y))
	if is32[T]() && vector.dotDeviations != nil {
		x, y, mean := f32(x), f32(y), float32(mean)
		return T(blocked(len(x), func(lo, hi int) float32 { return vector.dotDeviations(x[lo:hi], y[lo:hi], mean) }))
	}
	var s float64
	for i, v := range x {
		s += float64(v) * float64(y[i]-mean)
	}
	return T(s)
}

// DeviationGrad sets dst[i] = a·dy[i] + b·(x[i] - mean) + c: the gradient by x of a sum over normalized elements.
func DeviationGrad[T Float](dst, dy, x []T, mean, a, b, c T) {
	sameLen("DeviationGrad", len(dst), len(dy), len(x))
	if is32[T]() && vector.deviationGrad != nil {
		vector.deviationGrad(f32(dst), f32(dy), f32(x), float32(mean), float32(a), float32(b), float32(c))
		return
	}
	for i, d := range dy {
		dst[i] = a*d + b*(x[i]-mean) + c
	}
}
