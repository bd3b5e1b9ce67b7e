package kernel

import "fmt"

// Gemm computes C = alpha·op(A)·op(B) + beta·C, row-major, as BLAS's sgemm and dgemm:
// op(A) is m×k, op(B) k×n, C m×n; ld* are the row strides as stored. With beta 0, C is
// not read. Infinities and NaNs in A and B reach C as the formula says, zeros in
// the other operand notwithstanding. The work is shared out over the pool.
func Gemm[T Float](p *Pool, transA, transB bool, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int) {
	GemmEpilogue(p, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, nil)
}

// GemmEpilogue is [Gemm] followed by ep.
func GemmEpilogue[T Float](p *Pool, transA, transB bool, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("A", transA, m, k, a, lda)
	checkOperand("B", transB, k, n, b, ldb)
	gemm(p, m, n, k, alpha, operand[T]{a, lda, transA}, operand[T]{b, ldb, transB}, beta, c, ldc, ep)
}

// Sgemm is [GemmEpilogue] at float32.
func Sgemm(p *Pool, transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int, ep *Epilogue) {
	GemmEpilogue(p, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, ep)
}

// Dgemm is [GemmEpilogue] at float64.
func Dgemm(p *Pool, transA, transB bool, m, n, k int, alpha float64, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int, ep *EpilogueOf[float64]) {
	GemmEpilogue(p, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, ep)
}

// GemmBatch computes batch products as [Gemm] does: matrix i of A begins at
// a[i·strideA], and so on; a stride of 0 uses one matrix for all.
func GemmBatch[T Float](p *Pool, batch int, transA, transB bool, m, n, k int, alpha T, a []T, strideA, lda int, b []T, strideB, ldb int, beta T, c []T, strideC, ldc int) {
	p.For(batch, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			Gemm(nil, transA, transB, m, n, k, alpha, a[i*strideA:], lda, b[i*strideB:], ldb, beta, c[i*strideC:], ldc)
		}
	})
}

// SgemmBatch is [GemmBatch] at float32.
func SgemmBatch(p *Pool, batch int, transA, transB bool, m, n, k int, alpha float32, a []float32, strideA, lda int, b []float32, strideB, ldb int, beta float32, c []float32, strideC, ldc int) {
	GemmBatch(p, batch, transA, transB, m, n, k, alpha, a, strideA, lda, b, strideB, ldb, beta, c, strideC, ldc)
}

// PackedBOf is a right operand laid out for the kernels once, to be used in many
// products. It may be used by many goroutines at once.
type PackedBOf[T Float] struct {
	k, n int
	op   operand[T]
}

// PackedB is that of [SgemmPackedB].
type PackedB = PackedBOf[float32]

// PackB packs op(B), k×n.
func PackB[T Float](transB bool, k, n int, b []T, ldb int) *PackedBOf[T] {
	checkOperand("B", transB, k, n, b, ldb)
	return &PackedBOf[T]{k, n, operand[T]{append([]T(nil), b...), ldb, transB}}
}

// GemmPackedB is [GemmEpilogue] with a packed right operand, which gives n and k.
func GemmPackedB[T Float](p *Pool, transA bool, m int, alpha T, a []T, lda int, pb *PackedBOf[T], beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("A", transA, m, pb.k, a, lda)
	gemm(p, m, pb.n, pb.k, alpha, operand[T]{a, lda, transA}, pb.op, beta, c, ldc, ep)
}

// SgemmPackedB is [GemmPackedB] at float32.
func SgemmPackedB(p *Pool, transA bool, m int, alpha float32, a []float32, lda int, pb *PackedB, beta float32, c []float32, ldc int, ep *Epilogue) {
	GemmPackedB(p, transA, m, alpha, a, lda, pb, beta, c, ldc, ep)
}

// PackedAOf is a left operand laid out for the kernels once, to be used in many
// products. It may be used by many goroutines at once.
type PackedAOf[T Float] struct {
	m, k int
	op   operand[T]
}

// PackedA is that of [SgemmPackedA].
type PackedA = PackedAOf[float32]

// PackA packs op(A), m×k.
func PackA[T Float](transA bool, m, k int, a []T, lda int) *PackedAOf[T] {
	checkOperand("A", transA, m, k, a, lda)
	return &PackedAOf[T]{m, k, operand[T]{append([]T(nil), a...), lda, transA}}
}

// GemmPackedA is [GemmEpilogue] with a packed left operand, which gives m and k.
func GemmPackedA[T Float](p *Pool, transB bool, n int, alpha T, pa *PackedAOf[T], b []T, ldb int, beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("B", transB, pa.k, n, b, ldb)
	gemm(p, pa.m, n, pa.k, alpha, pa.op, operand[T]{b, ldb, transB}, beta, c, ldc, ep)
}

// SgemmPackedA is [GemmPackedA] at float32.
func SgemmPackedA(p *Pool, transB bool, n int, alpha float32, pa *PackedA, b []float32, ldb int, beta float32, c []float32, ldc int, ep *Epilogue) {
	GemmPackedA(p, transB, n, alpha, pa, b, ldb, beta, c, ldc, ep)
}

// An operand is a matrix as BLAS stores it.
type operand[T Float] struct {
	data  []T
	ld    int
	trans bool
}

func (o operand[T]) at(i, j int) T {
	if o.trans {
		i, j = j, i
	}
	return o.data[i*o.ld+j]
}

// checkOperand panics unless x holds op(X), r×c.
func checkOperand[T any](name string, trans bool, r, c int, x []T, ld int) {
	if trans {
		r, c = c, r
	}
	checkMatrix(name, r, c, x, ld)
}

func checkMatrix[T any](name string, r, c int, x []T, ld int) {
	if r < 0 || c < 0 {
		panic(fmt.Sprintf("kernel: %s is %d×%d", name, r, c))
	}
	if r == 0 || c == 0 {
		return
	}
	if r > 1 && ld < c {
		panic(fmt.Sprintf("kernel: %s is %d×%d with row stride %d", name, r, c, ld))
	}
	if need := (r-1)*ld + c; len(x) < need {
		panic(fmt.Sprintf("kernel: %s is %d×%d with row stride %d: %d elements, want %d", name, r, c, ld, len(x), need))
	}
}

func gemm[T Float](p *Pool, m, n, k int, alpha T, a, b operand[T], beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkMatrix("C", m, n, c, ldc)
	ep.check(m, n)
	p.For(m, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			row := c[i*ldc:][:n]
			if beta == 0 {
				clear(row)
			} else {
				Scale(row, row, beta)
			}
			for l := range k {
				s := alpha * a.at(i, l)
				if !b.trans {
					Axpy(row, s, b.data[l*b.ld:][:n])
					continue
				}
				for j := range row {
					row[j] += s * b.data[j*b.ld+l]
				}
			}
			ep.row(row, i, 0)
		}
	})
}
