package kernel

import "math"

// sumBlock is how many float32 elements are summed in float32 before the sum is
// carried on in float64.
const sumBlock = 4096

// blocked sums f over blocks of [0, n) in float64.
func blocked(n int, f func(lo, hi int) float32) float64 {
	var s float64
	for lo := 0; lo < n; lo += sumBlock {
		s += float64(f(lo, min(lo+sumBlock, n)))
	}
	return s
}

// Sum returns Σ x[i]. At float32, blocks of 4096 are summed in vector lanes and
// the blocks in float64: the error is below 2^-16·Σ|x[i]|.
func Sum[T Float](x []T) T {
	if is32[T]() && vector.sum != nil {
		x := f32(x)
		return T(blocked(len(x), func(lo, hi int) float32 { return vector.sum(x[lo:hi]) }))
	}
	var s float64
	for _, v := range x {
		s += float64(v)
	}
	return T(s)
}

// Dot returns Σ x[i]·y[i], with an error below 2^-16·Σ|x[i]·y[i]| at float32.
func Dot[T Float](x, y []T) T {
	sameLen("Dot", len(x), len(y))
	if is32[T]() && vector.dot != nil {
		x, y := f32(x), f32(y)
		return T(blocked(len(x), func(lo, hi int) float32 { return vector.dot(x[lo:hi], y[lo:hi]) }))
	}
	var s float64
	for i, v := range x {
		s += float64(v) * float64(y[i])
	}
	return T(s)
}

// SumSquares returns Σ x[i]², with an error below 2^-16 of it at float32.
func SumSquares[T Float](x []T) T { return Dot(x, x) }

// MaxReduce returns the greatest of x, NaN if any is NaN, and -Inf for no
// elements.
func MaxReduce[T Float](x []T) T {
	if is32[T]() && vector.maxReduce != nil {
		return T(vector.maxReduce(f32(x)))
	}
	m := T(math.Inf(-1))
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

// MinReduce returns the least of x, NaN if any is NaN, and +Inf for no elements.
func MinReduce[T Float](x []T) T {
	if is32[T]() && vector.minReduce != nil {
		return T(vector.minReduce(f32(x)))
	}
	m := T(math.Inf(1))
	for _, v := range x {
		m = min(m, v)
	}
	return m
}
