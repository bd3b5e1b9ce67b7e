package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The optimizers' kernel, at every level and for lengths about a register's, beside float64.
func TestAdam(t *testing.T) {
	defer use(active)
	r := rand.New(rand.NewPCG(1, 2))
	near := func(a float32, b float64) bool { return math.Abs(float64(a)-b) <= 3e-7*(1+math.Abs(b)) }
	for l := levelGo; l <= best; l++ {
		use(l)
		for n := range 70 {
			w, m, s, g := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
			for i := range w {
				w[i], m[i], s[i], g[i] = float32(r.NormFloat64()), float32(r.NormFloat64()), r.Float32(), float32(r.NormFloat64())
			}
			old := func(v []float32) []float32 { return append([]float32(nil), v...) }
			w0, m0, s0 := old(w), old(m), old(s)
			Adam(w, g, m, s, AdamRates[float32]{0.9, 0.1, 0.99, 0.01, 0.999, 0.01, 0.7, 1e-8})
			for i := range w {
				wantM := float64(float32(0.9))*float64(m0[i]) + float64(float32(0.1))*float64(g[i])
				wantS := float64(float32(0.99))*float64(s0[i]) + float64(float32(0.01))*float64(g[i])*float64(g[i])
				wantW := float64(float32(0.999))*float64(w0[i]) - float64(float32(0.01))*float64(m[i])/(math.Sqrt(float64(s[i]))/float64(float32(0.7))+1e-8)
				if !near(m[i], wantM) || !near(s[i], wantS) || !near(w[i], wantW) {
					t.Fatalf("level %v, n %d: %v %v %v, want %v %v %v", l, n, m[i], s[i], w[i], wantM, wantS, wantW)
				}
			}
		}
	}
}
