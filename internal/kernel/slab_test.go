package kernel

import (
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"
)

// TestKept has many goroutines take memory, which must be zeros, aligned, and nobody else's.
func TestKept(t *testing.T) {
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), 0))
			var mine [][]float32
			for i := range 60 {
				x := kept[float32](r.IntN(1 << (6 + i%16)))
				if len(x) > 0 && uintptr(unsafe.Pointer(&x[0]))%slabAlign != 0 {
					t.Errorf("%d elements are not aligned", len(x))
				}
				for j := range x {
					if x[j] != 0 {
						t.Errorf("element %d of %d is %g", j, len(x), x[j])
						return
					}
					x[j] = float32(i + 1)
				}
				mine = append(mine, x)
			}
			for i, x := range mine {
				for _, v := range x {
					if v != float32(i+1) {
						t.Errorf("%d elements were written to by others", len(x))
						return
					}
				}
			}
		})
	}
	group.Wait()
}

// TestSamePacked holds products that read B where it lies against those of the packed one, bit for bit.
func TestSamePacked(t *testing.T) {
	eachLevel(t, func(t *testing.T) { testSamePacked[float32](t); testSamePacked[float64](t) })
}

func testSamePacked[T Float](t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	for range 200 {
		m, n, k := 1+rand.IntN(16), 1+rand.IntN(300), 1+rand.IntN(900)
		trans := rand.IntN(4) == 0
		if !SamePacked[T](m, n, trans) {
			continue
		}
		a, b, bias := random[T](m*k), random[T](k*n), random[T](n)
		ep := &EpilogueOf[T]{ColBias: bias, Act: ActRelu}
		c, d := make([]T, m*n), make([]T, m*n)
		GemmEpilogue(pool, false, trans, m, n, k, 1, a, k, b, n, 0, c, n, ep)
		GemmPackedB(nil, false, m, 1, a, k, PackWeights(pool, trans, k, n, b, n), 0, d, n, ep)
		for i := range c {
			if c[i] != d[i] {
				t.Fatalf("%d×%d×%d: element %d is %g, by the packed matrix %g", m, n, k, i, c[i], d[i])
			}
		}
	}
}
