package kernel

// A level is a set of instructions that kernels are written for.
type level int

const (
	levelGo     level = iota // no assembly
	levelAVX2                // AVX2, FMA and F16C
	levelAVX512              // AVX-512 F, BW, DQ, VL and VNNI
	numLevels
)

func (l level) String() string { return [...]string{"go", "avx2", "avx512"}[l] }

// lanes is how many float32s a register holds.
func (l level) lanes() int { return [...]int{1, 8, 16}[l] }

// best is the highest level that this processor runs, and active the one in use.
// They differ only in tests.
var (
	best   = detect()
	active level
)

func init() { use(best) }

// use switches all kernels to level l. Packed operands remember the level they
// were packed for.
func use(l level) {
	active = l
	vector = vectorLevels[l]
	gemmActive = gemmLevels[l]
	igemmActive = igemmLevels[l]
	blockActive = &blockLevels[l]
}

// vectorKernels holds the assembly of one level for operations on vectors; nil
// where there is none, and the Go twin serves. Lengths are equal and checked by
// the caller.
type vectorKernels struct {
	unary     [numUnary]func(dst, x []float32)
	binary    [numBinary]func(dst, x, y []float32)         // x op y
	scalar    [numBinary]func(dst, x []float32, s float32) // s op x
	divScalar func(dst, x []float32, s float32)
	leakyRelu func(dst, x []float32, alpha float32)
	clip      func(dst, x []float32, lo, hi float32)
	affine    func(dst, x []float32, a, b float32)
	reluGrad  func(dst, dy, y []float32)
	geluGrad  func(dst, dy, x []float32)
	mulAdd    func(dst, x, y, z []float32)
	axpy      func(y, x []float32, a float32)

	adam func(w, g, m, s []float32, beta1, rest1, beta2, rest2, keep, step, root, eps float32)

	sum       func(x []float32) float32
	dot       func(x, y []float32) float32
	maxReduce func(x []float32) float32
	minReduce func(x []float32) float32
	expSum    func(dst, x []float32, shift float32) float32

	squaredDeviations   func(x []float32, mean float32) float32
	dotDeviations       func(x, y []float32, mean float32) float32
	deviationGrad       func(dst, dy, x []float32, mean, a, b, c float32)
	normalize           func(dst, x, scale, bias []float32, mean, inv float32)
	normalizedSums      func(dscale, dbias, dy, x, scale []float32, mean, inv float32, sums *float32)
	scaledDeviationGrad func(dst, dy, x, scale []float32, mean, a, b, c float32)
	mulDeviation        func(dst, x, y []float32, mean float32)

	lstmCell func(i, o, f, a, c, next, hidden, tanhC *float32, n int)
	gruCell  func(z, r, m, rec, prev, hidden *float32, n int)

	deinterleave func(even, odd, src *float32, n int) // n a multiple of 8

	dot4 func(dst, x, y *float32, ldy, n int) // ldy in bytes

	lstmCellGrad func(h int, gates, c, cNext, dh, dc, dGates *float32)
	gruCellGrad  func(h int, gates, rec, prev, dh, dGates, dRec, dPrev *float32)
	gather       func(dst, src *float32, rows *int32, n int, chunks *chunk, nchunks, stride int)
	taps         func(dst, src *float32, n, rows, dstLD, srcLD int, offsets *int32, weights *float32, ntaps int, bias float32)

	// Conversions of as many elements as fill whole vectors; the caller does the rest.
	fromFloat16, fromBFloat16 func(dst []float32, x []uint16)
	toFloat16, toBFloat16     func(dst []uint16, x []float32)

	quantize                   func(dst []uint8, x []float32, scale, zero, lo, hi float32)
	dequantizeU8, dequantizeS8 func(dst []float32, x []uint8, zero int, scale float32)
	addU8, addS8               func(dst, x, y []uint8, a, b, c, lo, hi float32)
	mulU8, mulS8               func(dst, x, y []uint8, xZero, yZero, by, c, lo, hi float32)
	maxU8, maxS8               func(dst, x []uint8)                    // as many elements as fill 16 bytes
	mapBytes                   func(dst, x []uint8, table *[256]uint8) // as many as fill 64
}

var vector vectorKernels
