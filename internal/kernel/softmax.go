package kernel

import "math"

// SoftmaxRow sets dst[i] = e^(x[i]-max x) / Σ e^(x[j]-max x). dst may be x. A row
// that is all -Inf, or holds +Inf or NaN, gives NaNs as the formula does.
func SoftmaxRow[T Float](dst, x []T) {
	sameLen("SoftmaxRow", len(dst), len(x))
	if len(x) == 0 {
		return
	}
	Scale(dst, dst, 1/SoftmaxTerms(dst, x))
}

// SoftmaxTerms sets dst[i] = e^(x[i]-max x), which is [SoftmaxRow] times the sum that it returns. x is not empty; dst may be x.
func SoftmaxTerms[T Float](dst, x []T) (sum T) {
	sameLen("SoftmaxTerms", len(dst), len(x))
	return expSum(dst, x, MaxReduce(x))
}

// LogSoftmaxRow sets dst[i] = x[i] - max x - ln Σ e^(x[j]-max x). dst may be x.
func LogSoftmaxRow[T Float](dst, x []T) {
	sameLen("LogSoftmaxRow", len(dst), len(x))
	if len(x) == 0 {
		return
	}
	top := MaxReduce(x)
	var sum T
	const part = 256
	var buf []T // x must survive
	if &dst[0] == &x[0] {
		buf = make([]T, min(part, len(x)))
	}
	for lo := 0; lo < len(x); lo += part {
		hi := min(lo+part, len(x))
		to := dst[lo:hi]
		if buf != nil {
			to = buf[:hi-lo]
		}
		sum += expSum(to, x[lo:hi], top)
	}
	log := T(math.Log(float64(sum)))
	for i, v := range x {
		dst[i] = v - top - log
	}
}

// SoftmaxGradRow sets dst[i] = p[i]·(dp[i] - Σ p[j]·dp[j]), the gradient by what softmax made p of, from dp, that by p. dst may be dp.
func SoftmaxGradRow[T Float](dst, p, dp []T) {
	mean := Dot(p, dp)
	sameLen("SoftmaxGradRow", len(dst), len(p))
	if is32[T]() && vector.mulDeviation != nil {
		vector.mulDeviation(f32(dst), f32(p), f32(dp), float32(mean))
		return
	}
	for i, v := range p {
		dst[i] = v * (dp[i] - mean)
	}
}

// expSum sets dst[i] = e^(x[i]-shift) and returns the sum of dst.
func expSum[T Float](dst, x []T, shift T) T {
	if is32[T]() && vector.expSum != nil {
		return T(vector.expSum(f32(dst), f32(x), float32(shift)))
	}
	var sum float64
	for i, v := range x {
		e := math.Exp(float64(v - shift))
		dst[i] = T(e)
		sum += e
	}
	return T(sum)
}
