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
	pr := newProduct(activeGemm[T](), m, n, k, alpha, beta, c, ldc, ep)
	pr.a, pr.b = sideA(transA, a, lda), sideB(transB, b, ldb)
	pr.run(p)
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
	if strideB == 0 && !transA && strideA == m*lda && strideC == m*ldc {
		Gemm(p, false, transB, batch*m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
		return
	}
	work := max(1, m*n*k)
	if grain := ceilDiv(serialWork, work); work < serialWork || batch >= 2*p.Threads() { // whole products to the workers
		if !p.Alone(batch, grain) {
			p.For(batch, grain, func(lo, hi int) {
				GemmBatch(nil, hi-lo, transA, transB, m, n, k, alpha, a[lo*strideA:], strideA, lda, b[lo*strideB:], strideB, ldb, beta, c[lo*strideC:], strideC, ldc)
			})
			return
		}
		p = nil
	}
	for i := range batch {
		Gemm(p, transA, transB, m, n, k, alpha, a[i*strideA:], lda, b[i*strideB:], ldb, beta, c[i*strideC:], ldc)
	}
}

// SgemmBatch is [GemmBatch] at float32.
func SgemmBatch(p *Pool, batch int, transA, transB bool, m, n, k int, alpha float32, a []float32, strideA, lda int, b []float32, strideB, ldb int, beta float32, c []float32, strideC, ldc int) {
	GemmBatch(p, batch, transA, transB, m, n, k, alpha, a, strideA, lda, b, strideB, ldb, beta, c, strideC, ldc)
}

// GemmPackedB is [GemmEpilogue] with a packed right operand, which gives n and k.
func GemmPackedB[T Float](p *Pool, transA bool, m int, alpha T, a []T, lda int, pb *PackedBOf[T], beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("A", transA, m, pb.k, a, lda)
	pr := newProduct(pb.kern, m, pb.n, pb.k, alpha, beta, c, ldc, ep)
	pr.a, pr.packedB, pr.deepB = sideA(transA, a, lda), pb.panels, pb.deep
	pr.run(p)
}

// GemmPackedBBack is [GemmPackedB] that reads the panels of B from the last to the first. Who multiplies by one B time and
// again, there and back, finds in the cache what was read last.
func GemmPackedBBack[T Float](p *Pool, transA bool, m int, alpha T, a []T, lda int, pb *PackedBOf[T], beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("A", transA, m, pb.k, a, lda)
	pr := newProduct(pb.kern, m, pb.n, pb.k, alpha, beta, c, ldc, ep)
	pr.a, pr.packedB, pr.deepB, pr.back = sideA(transA, a, lda), pb.panels, pb.deep, true
	pr.run(p)
}

// SgemmPackedB is [GemmPackedB] at float32.
func SgemmPackedB(p *Pool, transA bool, m int, alpha float32, a []float32, lda int, pb *PackedB, beta float32, c []float32, ldc int, ep *Epilogue) {
	GemmPackedB(p, transA, m, alpha, a, lda, pb, beta, c, ldc, ep)
}

// GemmPackedA is [GemmEpilogue] with a packed left operand, which gives m and k.
func GemmPackedA[T Float](p *Pool, transB bool, n int, alpha T, pa *PackedAOf[T], b []T, ldb int, beta T, c []T, ldc int, ep *EpilogueOf[T]) {
	checkOperand("B", transB, pa.k, n, b, ldb)
	pr := newProduct(pa.kern, pa.m, n, pa.k, alpha, beta, c, ldc, ep)
	pr.packedA, pr.b = pa.panels, sideB(transB, b, ldb)
	pr.run(p)
}

// SgemmPackedA is [GemmPackedA] at float32.
func SgemmPackedA(p *Pool, transB bool, n int, alpha float32, pa *PackedA, b []float32, ldb int, beta float32, c []float32, ldc int, ep *Epilogue) {
	GemmPackedA(p, transB, n, alpha, pa, b, ldb, beta, c, ldc, ep)
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
