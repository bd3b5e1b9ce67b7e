package kernel

// binaryOp names an arithmetic function of two operands.
type binaryOp int

const (
	opAdd binaryOp = iota
	opSub
	opMul
	opDiv
	opMax
	opMin
	numBinary
)

// Add sets dst[i] = x[i] + y[i].
func Add[T Float](dst, x, y []T) {
	if binarySIMD("Add", opAdd, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = v + y[i]
	}
}

// Sub sets dst[i] = x[i] - y[i].
func Sub[T Float](dst, x, y []T) {
	if binarySIMD("Sub", opSub, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = v - y[i]
	}
}

// Mul sets dst[i] = x[i] · y[i].
func Mul[T Float](dst, x, y []T) {
	if binarySIMD("Mul", opMul, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = v * y[i]
	}
}

// Div sets dst[i] = x[i] / y[i].
func Div[T Float](dst, x, y []T) {
	if binarySIMD("Div", opDiv, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = v / y[i]
	}
}

// Max sets dst[i] to the greater of x[i] and y[i], NaN if either is.
func Max[T Float](dst, x, y []T) {
	if binarySIMD("Max", opMax, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = max(v, y[i])
	}
}

// Min sets dst[i] to the lesser of x[i] and y[i], NaN if either is.
func Min[T Float](dst, x, y []T) {
	if binarySIMD("Min", opMin, dst, x, y) {
		return
	}
	for i, v := range x {
		dst[i] = min(v, y[i])
	}
}

// AddScalar sets dst[i] = x[i] + s.
func AddScalar[T Float](dst, x []T, s T) {
	if scalarSIMD("AddScalar", opAdd, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = v + s
	}
}

// SubScalar sets dst[i] = x[i] - s.
func SubScalar[T Float](dst, x []T, s T) { AddScalar(dst, x, -s) }

// ScalarSub sets dst[i] = s - x[i].
func ScalarSub[T Float](dst []T, s T, x []T) {
	if scalarSIMD("ScalarSub", opSub, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = s - v
	}
}

// Scale sets dst[i] = s · x[i].
func Scale[T Float](dst, x []T, s T) {
	if scalarSIMD("Scale", opMul, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = v * s
	}
}

// DivScalar sets dst[i] = x[i] / s. It divides: the result is that of the
// quotient, not of a product with 1/s.
func DivScalar[T Float](dst, x []T, s T) {
	sameLen("DivScalar", len(dst), len(x))
	if is32[T]() && vector.divScalar != nil {
		vector.divScalar(f32(dst), f32(x), float32(s))
		return
	}
	for i, v := range x {
		dst[i] = v / s
	}
}

// ScalarDiv sets dst[i] = s / x[i].
func ScalarDiv[T Float](dst []T, s T, x []T) {
	if scalarSIMD("ScalarDiv", opDiv, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = s / v
	}
}

// MaxScalar sets dst[i] to the greater of x[i] and s, NaN if either is.
func MaxScalar[T Float](dst, x []T, s T) {
	if scalarSIMD("MaxScalar", opMax, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = max(v, s)
	}
}

// MinScalar sets dst[i] to the lesser of x[i] and s, NaN if either is.
func MinScalar[T Float](dst, x []T, s T) {
	if scalarSIMD("MinScalar", opMin, dst, x, s) {
		return
	}
	for i, v := range x {
		dst[i] = min(v, s)
	}
}

// MulAdd sets dst[i] = x[i]·y[i] + z[i], rounded once or twice.
func MulAdd[T Float](dst, x, y, z []T) {
	sameLen("MulAdd", len(dst), len(x), len(y), len(z))
	if is32[T]() && vector.mulAdd != nil {
		vector.mulAdd(f32(dst), f32(x), f32(y), f32(z))
		return
	}
	for i, v := range x {
		dst[i] = v*y[i] + z[i]
	}
}

// Axpy adds a·x[i] to y[i], rounded once or twice.
func Axpy[T Float](y []T, a T, x []T) {
	sameLen("Axpy", len(y), len(x))
	if is32[T]() && vector.axpy != nil {
		vector.axpy(f32(y), f32(x), float32(a))
		return
	}
	for i, v := range x {
		y[i] += a * v
	}
}

// binarySIMD checks lengths and runs op on two vectors in assembly, if there is
// any.
func binarySIMD[T Float](name string, op binaryOp, dst, x, y []T) bool {
	sameLen(name, len(dst), len(x), len(y))
	if !is32[T]() || vector.binary[op] == nil {
		return false
	}
	vector.binary[op](f32(dst), f32(x), f32(y))
	return true
}

// scalarSIMD does the same for s op x[i].
func scalarSIMD[T Float](name string, op binaryOp, dst, x []T, s T) bool {
	sameLen(name, len(dst), len(x))
	if !is32[T]() || vector.scalar[op] == nil {
		return false
	}
	vector.scalar[op](f32(dst), f32(x), float32(s))
	return true
}
