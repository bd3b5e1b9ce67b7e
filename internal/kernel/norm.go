package kernel

import "math"

// RowStatistics returns the mean and 1/√(variance + eps) of x, whose variance is that of the population, taken about the mean; or, if rms,
// 0 and 1/√(Σx²/n + eps). x is not empty.
func RowStatistics[T Float](x []T, eps T, rms bool) (mean, inv T) {
	count := T(len(x))
	if !rms {
		mean = Sum(x) / count
	}
	return mean, 1 / T(math.Sqrt(float64(SquaredDeviations(x, mean)/count+eps)))
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

// NormalizeRow sets dst[i] = (x[i]-mean)·inv · scale[i] + bias[i]. scale may be nil for 1, bias for 0; dst may be x.
func NormalizeRow[T Float](dst, x, scale, bias []T, mean, inv T) {
	sameLen("NormalizeRow", len(dst), len(x))
	if is32[T]() && vector.normalize != nil && len(scale) == len(x) && len(bias) == len(x) {
		vector.normalize(f32(dst), f32(x), f32(scale), f32(bias), float32(mean), float32(inv))
		return
	}
	AddScalar(dst, x, -mean)
	scaleRow(dst, inv, scale, bias)
}

// NormalizedSums adds dy·x̂ to dscale and dy to dbias, where x̂[i] = (x[i]-mean)·inv, and returns Σ dy·scale·x̂ and Σ dy·scale, with errors as
// [Dot]'s.
func NormalizedSums[T Float](dscale, dbias, dy, x, scale []T, mean, inv T) (dot, sum T) {
	sameLen("NormalizedSums", len(dscale), len(dbias), len(dy), len(x), len(scale))
	var d, s float64
	if is32[T]() && vector.normalizedSums != nil {
		dscale, dbias, dy, x, scale := f32(dscale), f32(dbias), f32(dy), f32(x), f32(scale)
		for lo := 0; lo < len(x); lo += sumBlock {
			hi := min(lo+sumBlock, len(x))
			var sums [2]float32
			vector.normalizedSums(dscale[lo:hi], dbias[lo:hi], dy[lo:hi], x[lo:hi], scale[lo:hi], float32(mean), float32(inv), &sums[0])
			d, s = d+float64(sums[0]), s+float64(sums[1])
		}
		return T(d), T(s)
	}
	for i, v := range dy {
		n := (x[i] - mean) * inv
		dscale[i] += v * n
		dbias[i] += v
		d += float64(v * scale[i] * n)
		s += float64(v * scale[i])
	}
	return T(d), T(s)
}

// ScaledDeviationGrad sets dst[i] = a·dy[i]·scale[i] + b·(x[i] - mean) + c, which is [DeviationGrad] of dy·scale.
func ScaledDeviationGrad[T Float](dst, dy, x, scale []T, mean, a, b, c T) {
	sameLen("ScaledDeviationGrad", len(dst), len(dy), len(x), len(scale))
	if is32[T]() && vector.scaledDeviationGrad != nil {
		vector.scaledDeviationGrad(f32(dst), f32(dy), f32(x), f32(scale), float32(mean), float32(a), float32(b), float32(c))
		return
	}
	for i, d := range dy {
		dst[i] = a*(d*scale[i]) + b*(x[i]-mean) + c
	}
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
