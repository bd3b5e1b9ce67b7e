package kernel

import (
	"math"
)

// Elementwise functions. In all of them dst, x and y have one length, dst may be
// x or y (but not overlap them otherwise), and NaN gives NaN.
//
// Errors in units in the last place are against the exact value, over all
// float32 arguments, subnormal results included; the tests measure them. At
// float64 they are those of package math.

// unaryOp names a function of one vector without parameters.
type unaryOp int

const (
	opExp unaryOp = iota
	opLog
	opTanh
	opSigmoid
	opErf
	opGeluErf
	opGeluTanh
	opSilu
	opSoftplus
	opRelu
	opHardSwish
	opSqrt
	opRsqrt
	opRecip
	opAbs
	opNeg
	numUnary
)

// unaryOps gives each function's name and its Go twin.
var unaryOps = [numUnary]struct {
	name string
	f    func(x float64) float64
}{
	opExp:       {"Exp", math.Exp},
	opLog:       {"Log", math.Log},
	opTanh:      {"Tanh", math.Tanh},
	opSigmoid:   {"Sigmoid", sigmoid},
	opErf:       {"Erf", math.Erf},
	opGeluErf:   {"GeluErf", func(x float64) float64 { return 0.5 * x * (1 + math.Erf(x/math.Sqrt2)) }},
	opGeluTanh:  {"GeluTanh", func(x float64) float64 { return x * sigmoid(2*sqrt2OverPi*(x+geluCubic*x*x*x)) }},
	opSilu:      {"Silu", func(x float64) float64 { return x * sigmoid(x) }},
	opSoftplus:  {"Softplus", func(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }},
	opRelu:      {"Relu", func(x float64) float64 { return max(x, 0) }},
	opHardSwish: {"HardSwish", func(x float64) float64 { return x * min(max(x/6+0.5, 0), 1) }},
	opSqrt:      {"Sqrt", math.Sqrt},
	opRsqrt:     {"Rsqrt", func(x float64) float64 { return 1 / math.Sqrt(x) }},
	opRecip:     {"Recip", func(x float64) float64 { return 1 / x }},
	opAbs:       {"Abs", math.Abs},
	opNeg:       {"Neg", func(x float64) float64 { return -x }},
}

const (
	sqrt2OverPi = 0.797884560802865355879892119868763737
	geluCubic   = 0.044715
)

// sigmoid keeps full relative accuracy where it is small.
func sigmoid(x float64) float64 {
	z := math.Exp(-math.Abs(x))
	if x < 0 {
		return z / (1 + z)
	}
	return 1 / (1 + z)
}

func unary[T Float](op unaryOp, dst, x []T) {
	o := &unaryOps[op]
	sameLen(o.name, len(dst), len(x))
	if is32[T]() && vector.unary[op] != nil {
		vector.unary[op](f32(dst), f32(x))
		return
	}
	for i, v := range x {
		dst[i] = T(o.f(float64(v)))
	}
}

// Exp sets dst[i] = e^x[i], within 2 ulp.
func Exp[T Float](dst, x []T) { unary(opExp, dst, x) }

// Log sets dst[i] = ln x[i], within 2 ulp; ln 0 = -Inf, and NaN below 0.
func Log[T Float](dst, x []T) { unary(opLog, dst, x) }

// Tanh sets dst[i] = tanh x[i], within 3 ulp.
func Tanh[T Float](dst, x []T) { unary(opTanh, dst, x) }

// Sigmoid sets dst[i] = 1/(1+e^-x[i]), within 3 ulp.
func Sigmoid[T Float](dst, x []T) { unary(opSigmoid, dst, x) }

// Erf sets dst[i] = erf x[i], within 3 ulp.
func Erf[T Float](dst, x []T) { unary(opErf, dst, x) }

// GeluErf sets dst[i] = x/2 · (1 + erf(x/√2)), x = x[i], within 2^-22·max(|x|, 2^-126).
func GeluErf[T Float](dst, x []T) { unary(opGeluErf, dst, x) }

// GeluTanh sets dst[i] = x/2 · (1 + tanh(√(2/π)·(x + 0.044715x³))), x = x[i],
// within 2^-22·max(|x|, 2^-126).
func GeluTanh[T Float](dst, x []T) { unary(opGeluTanh, dst, x) }

// Silu sets dst[i] = x[i]/(1+e^-x[i]), within 4 ulp, or 2^-142 where the divisor
// overflows.
func Silu[T Float](dst, x []T) { unary(opSilu, dst, x) }

// Softplus sets dst[i] = ln(1+e^x[i]), within 3 ulp.
func Softplus[T Float](dst, x []T) { unary(opSoftplus, dst, x) }

// Relu sets dst[i] = max(x[i], 0).
func Relu[T Float](dst, x []T) { unary(opRelu, dst, x) }

// HardSwish sets dst[i] = x · min(max(x/6 + 1/2, 0), 1), x = x[i].
func HardSwish[T Float](dst, x []T) { unary(opHardSwish, dst, x) }

// Sqrt sets dst[i] = √x[i], rounded correctly.
func Sqrt[T Float](dst, x []T) { unary(opSqrt, dst, x) }

// Rsqrt sets dst[i] = 1/√x[i], within 1.5 ulp.
func Rsqrt[T Float](dst, x []T) { unary(opRsqrt, dst, x) }

// Recip sets dst[i] = 1/x[i], rounded correctly.
func Recip[T Float](dst, x []T) { unary(opRecip, dst, x) }

// Abs sets dst[i] = |x[i]|.
func Abs[T Float](dst, x []T) { unary(opAbs, dst, x) }

// Neg sets dst[i] = -x[i].
func Neg[T Float](dst, x []T) { unary(opNeg, dst, x) }

// ReluGrad sets dst[i] = 0 where y[i] ≤ 0, and dy[i] elsewhere.
func ReluGrad[T Float](dst, dy, y []T) {
	sameLen("ReluGrad", len(dst), len(dy), len(y))
	if is32[T]() && vector.reluGrad != nil {
		vector.reluGrad(f32(dst), f32(dy), f32(y))
		return
	}
	for i, d := range dy {
		if y[i] <= 0 {
			d = 0
		}
		dst[i] = d
	}
}

// GeluGrad sets dst[i] = dy[i] times the derivative of [GeluErf] at x[i], within 2^-21·max(|dy[i]|, 2^-126).
func GeluGrad[T Float](dst, dy, x []T) {
	sameLen("GeluGrad", len(dst), len(dy), len(x))
	if is32[T]() && vector.geluGrad != nil {
		vector.geluGrad(f32(dst), f32(dy), f32(x))
		return
	}
	for i, d := range dy {
		v := float64(x[i])
		dst[i] = d * T(0.5*(1+math.Erf(v/math.Sqrt2))+v*math.Exp(-v*v/2)/math.Sqrt(2*math.Pi))
	}
}

// LeakyRelu sets dst[i] = x[i] where it is at least 0, and alpha·x[i] elsewhere.
func LeakyRelu[T Float](dst, x []T, alpha T) {
	sameLen("LeakyRelu", len(dst), len(x))
	if is32[T]() && vector.leakyRelu != nil {
		vector.leakyRelu(f32(dst), f32(x), float32(alpha))
		return
	}
	for i, v := range x {
		if v < 0 {
			v *= alpha
		}
		dst[i] = v
	}
}

// Clip sets dst[i] = min(max(x[i], lo), hi).
func Clip[T Float](dst, x []T, lo, hi T) {
	sameLen("Clip", len(dst), len(x))
	if is32[T]() && vector.clip != nil {
		vector.clip(f32(dst), f32(x), float32(lo), float32(hi))
		return
	}
	for i, v := range x {
		dst[i] = clip(v, lo, hi)
	}
}

func clip[T Float](v, lo, hi T) T {
	if v < lo {
		v = lo
	}
	if v > hi {
		v = hi
	}
	return v
}

// HardSigmoid sets dst[i] = min(max(alpha·x[i] + beta, 0), 1).
func HardSigmoid[T Float](dst, x []T, alpha, beta T) {
	Affine(dst, x, alpha, beta)
	Clip(dst, dst, 0, 1)
}

// Affine sets dst[i] = a·x[i] + b.
func Affine[T Float](dst, x []T, a, b T) {
	sameLen("Affine", len(dst), len(x))
	if is32[T]() && vector.affine != nil {
		vector.affine(f32(dst), f32(x), float32(a), float32(b))
		return
	}
	for i, v := range x {
		dst[i] = a*v + b
	}
}
