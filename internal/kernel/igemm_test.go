package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

func TestGemmU8S8(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	bytes := func(n int) []uint8 {
		x := make([]uint8, n)
		for i := range x {
			x[i] = uint8(rand.Uint32())
			if rand.IntN(2) == 0 {
				x[i] = 255 // where sums of pairs would saturate
			}
		}
		return x
	}
	eachLevel(t, func(t *testing.T) {
		for range 150 {
			m, n, k := rand.IntN(40), rand.IntN(100), rand.IntN(80)
			if rand.IntN(10) == 0 {
				m, k = m*5, k*20
			}
			lda, ldb, ldc := k+rand.IntN(4), n+rand.IntN(4), n+rand.IntN(4)
			transB := rand.IntN(2) == 0
			a, raw := bytes(m*lda), bytes(max(k*ldb, n*(k+1)))
			b := make([]int8, len(raw))
			for i, v := range raw {
				b[i] = int8(v ^ 0x80)
			}
			if transB {
				ldb = k + 1
			}
			aZero, bZero := uint8(rand.Uint32()), make([]int8, []int{0, 1, n}[rand.IntN(3)])
			for j := range bZero {
				bZero[j] = int8(rand.Uint32())
			}
			c := make([]int32, m*ldc)
			GemmU8S8(p, m, a, lda, aZero, PackS8(transB, k, n, b, ldb), bZero, c, ldc)
			for i := range m {
				for j := range n {
					var want int32
					for l := range k {
						v, z := b[min(l*ldb+j, len(b)-1)], int8(0)
						if transB {
							v = b[j*ldb+l]
						}
						if len(bZero) == 1 {
							z = bZero[0]
						} else if len(bZero) > 1 {
							z = bZero[j]
						}
						want += (int32(a[i*lda+l]) - int32(aZero)) * (int32(v) - int32(z))
					}
					if c[i*ldc+j] != want {
						t.Fatalf("m=%d n=%d k=%d transB=%v: C[%d,%d] = %d, want %d", m, n, k, transB, i, j, c[i*ldc+j], want)
					}
				}
			}
		}
	})
}

func TestItileLayout(t *testing.T) {
	var x itile
	got := [...]uintptr{unsafe.Offsetof(x.c), unsafe.Offsetof(x.zero), unsafe.Offsetof(x.k), unsafe.Offsetof(x.cols)}
	if want := [...]uintptr{16, 32, 48, 64}; got != want {
		t.Errorf("fields of itile are at %v, the assembly has them at %v", got, want)
	}
}

func BenchmarkGemmU8S8(b *testing.B) {
	for _, s := range [][3]int{{128, 768, 768}, {1, 768, 768}, {1024, 1024, 1024}} {
		m, n, k := s[0], s[1], s[2]
		pb, a, c := PackS8(false, k, n, make([]int8, k*n), n), make([]uint8, m*k), make([]int32, m*n)
		b.Run(fmt.Sprintf("%dx%dx%d", m, n, k), func(b *testing.B) {
			for b.Loop() {
				GemmU8S8(nil, m, a, k, 3, pb, nil, c, n)
			}
			b.ReportMetric(2*float64(m*n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gop/s")
		})
	}
}
