package ops

import (
	"math/cmplx"
	"math/rand/v2"
	"testing"
)

// The transform is its definition at lengths of every kind, and back again.
func TestFFT(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 8, 30, 31, 37, 74, 101, 128, 211} {
		x := make([]complex128, n)
		for i := range x {
			x[i] = complex(r.NormFloat64(), r.NormFloat64())
		}
		got := append([]complex128(nil), x...)
		f := newFFT(n)
		f.forward(got)
		for k, v := range got {
			var want complex128
			for j, a := range x {
				want += a * cmplx.Rect(1, -2*3.141592653589793*float64(k*j%n)/float64(n))
			}
			if cmplx.Abs(v-want) > 1e-11*float64(n) {
				t.Fatalf("length %d: element %d is %v, want %v", n, k, v, want)
			}
		}
		f.backward(got)
		for k, v := range got {
			if cmplx.Abs(v/complex(float64(n), 0)-x[k]) > 1e-12*float64(n) {
				t.Fatalf("length %d: element %d comes back as %v, not %v", n, k, v, x[k])
			}
		}
	}
}
