package kernel

// PackedS8 is a k×n matrix of int8 laid out for [GemmU8S8], with the sum of each
// column. It may be used by many goroutines at once.
type PackedS8 struct {
	k, n   int
	data   []int8
	colSum []int32
}

// PackS8 packs op(B), k×n, with row stride ldb as stored.
func PackS8(transB bool, k, n int, b []int8, ldb int) *PackedS8 {
	checkOperand("B", transB, k, n, b, ldb)
	pb := &PackedS8{k: k, n: n, data: make([]int8, k*n), colSum: make([]int32, n)}
	for l := range k {
		for j := range n {
			v := b[l*ldb:][j]
			if transB {
				v = b[j*ldb+l]
			}
			pb.data[l*n+j] = v
			pb.colSum[j] += int32(v)
		}
	}
	return pb
}

// GemmU8S8 computes, exactly in 32-bit arithmetic,
//
//	C[i,j] = Σ_l (A[i,l] - aZero)·(B[l,j] - bZero[j])
//
// A is m×k with row stride lda, B is packed and gives k and n, C is m×n with row
// stride ldc. bZero is nil for 0, or holds one value for all columns, or n.
func GemmU8S8(p *Pool, m int, a []uint8, lda int, aZero uint8, pb *PackedS8, bZero []int8, c []int32, ldc int) {
	n, k := pb.n, pb.k
	checkMatrix("A", m, k, a, lda)
	checkMatrix("C", m, n, c, ldc)
	if len(bZero) > 1 && len(bZero) < n {
		panic("kernel: GemmU8S8: bZero is shorter than the columns of C")
	}
	p.For(m, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			row := c[i*ldc:][:n]
			clear(row)
			for l := range k {
				v := int32(a[i*lda+l]) - int32(aZero)
				for j, w := range pb.data[l*n:][:n] {
					z := int32(0)
					switch {
					case len(bZero) == 1:
						z = int32(bZero[0])
					case len(bZero) > 1:
						z = int32(bZero[j])
					}
					row[j] += v * (int32(w) - z)
				}
			}
		}
	})
}
