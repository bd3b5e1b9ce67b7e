package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"
)

// eachLevel runs f with every level that this processor has.
func eachLevel(t *testing.T, f func(t *testing.T)) {
	defer use(best)
	for l := levelGo; l <= best; l++ {
		use(l)
		t.Run(l.String(), f)
	}
}

func random[T Float](n int) []T {
	x := make([]T, n)
	for i := range x {
		x[i] = T(rand.Float64()*2 - 1)
	}
	return x
}

// gemmRef is the formula, in float64, along with the sum of the magnitudes of all terms.
func gemmRef[T Float](transA, transB bool, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int, ep *EpilogueOf[T]) (want, scale []float64) {
	want, scale = make([]float64, m*n), make([]float64, m*n)
	for i := range m {
		for j := range n {
			var s, mag float64
			for p := range k {
				x, y := 0., 0.
				if transA {
					x = float64(a[p*lda+i])
				} else {
					x = float64(a[i*lda+p])
				}
				if transB {
					y = float64(b[j*ldb+p])
				} else {
					y = float64(b[p*ldb+j])
				}
				s += x * y
				mag += math.Abs(x * y)
			}
			s *= float64(alpha)
			mag *= math.Abs(float64(alpha))
			add := func(v T) { s += float64(v); mag += math.Abs(float64(v)) }
			if beta != 0 {
				add(beta * c[i*ldc+j])
			}
			if ep != nil {
				if ep.RowBias != nil {
					add(ep.RowBias[i])
				}
				if ep.ColBias != nil {
					add(ep.ColBias[j])
				}
				if ep.Residual != nil {
					add(ep.Residual[i*ep.ResidualLD+j])
				}
				v := []float64{s}
				(&EpilogueOf[float64]{Act: ep.Act, ActAlpha: float64(ep.ActAlpha), ActBeta: float64(ep.ActBeta)}).activate(v)
				s = v[0]
			}
			want[i*n+j], scale[i*n+j] = s, mag
		}
	}
	return want, scale
}

func checkGemm[T Float](t *testing.T, what string, m, n int, c []T, ldc int, want, scale []float64) {
	t.Helper()
	eps := 1e-6
	if !is32[T]() {
		eps = 1e-14
	}
	for i := range m {
		for j := range n {
			got, w := float64(c[i*ldc+j]), want[i*n+j]
			if math.IsNaN(w) && math.IsNaN(got) || got == w {
				continue
			}
			if !(math.Abs(got-w) <= eps*(1+4*scale[i*n+j])) {
				t.Fatalf("%s: C[%d,%d] = %v, want %v", what, i, j, got, w)
			}
		}
	}
	for i := range m {
		for j := n; j < ldc && i*ldc+j < len(c); j++ {
			if !math.IsNaN(float64(c[i*ldc+j])) {
				t.Fatalf("%s: wrote beyond row %d of C", what, i)
			}
		}
	}
}

func testGemm[T Float](t *testing.T, p *Pool, m, n, k int) {
	nan := T(math.NaN())
	for variant := range 16 {
		transA, transB := variant&1 != 0, variant&2 != 0
		alpha, beta := T(1), T(0)
		if variant&4 != 0 {
			alpha, beta = 0.5, -1.5
		}
		dims := func(trans bool, r, c int) ([]T, int) {
			if trans {
				r, c = c, r
			}
			if r*c == 0 {
				return nil, c
			}
			return random[T](r*(c+3) + 1), c + 3
		}
		a, lda := dims(transA, m, k)
		b, ldb := dims(transB, k, n)
		ldc := n + 2
		var ep *EpilogueOf[T]
		if variant&8 != 0 {
			act := Activation(rand.IntN(int(ActExp)))
			ep = &EpilogueOf[T]{RowBias: random[T](m), ColBias: random[T](n), Residual: random[T](m * (n + 1)), ResidualLD: n + 1, Act: act, ActAlpha: 0.25, ActBeta: 0.75}
		}
		c0 := random[T](m * ldc)
		for i := range c0 {
			if i%ldc >= n || beta == 0 {
				c0[i] = nan
			}
		}
		want, scale := gemmRef(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c0, ldc, ep)
		what := fmt.Sprintf("%T m=%d n=%d k=%d variant=%d %+v", nan, m, n, k, variant, ep != nil)
		c := append([]T(nil), c0...)
		GemmEpilogue(p, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, ep)
		checkGemm(t, what, m, n, c, ldc, want, scale)
		copy(c, c0)
		GemmPackedB(p, transA, m, alpha, a, lda, PackB(transB, k, n, b, ldb), beta, c, ldc, ep)
		checkGemm(t, what+" PackedB", m, n, c, ldc, want, scale)
		parts := PackedBIn(random[T](PackedBSize[T](k, n)), k, n)
		for _, r := range [][2]int{{k / 3, k}, {0, k / 3}} {
			at := r[0]
			if !transB {
				at *= ldb
			}
			parts.Rows(r[0], r[1]).Pack(transB, b[at:], ldb)
		}
		copy(c, c0)
		GemmPackedBBack(p, transA, m, alpha, a, lda, parts, beta, c, ldc, ep)
		checkGemm(t, what+" PackedB in parts", m, n, c, ldc, want, scale)
		copy(c, c0)
		GemmPackedB(p, transA, m, alpha, a, lda, parts.Rows(0, k/3), beta, c, ldc, nil)
		at := k / 3
		if transA {
			at *= lda
		}
		GemmPackedB(p, transA, m, alpha, a[at:], lda, parts.Rows(k/3, k), 1, c, ldc, nil)
		if ep == nil {
			checkGemm(t, what+" by rows of PackedB", m, n, c, ldc, want, scale)
		}
		copy(c, c0)
		GemmPackedA(p, transB, n, alpha, PackA(transA, m, k, a, lda), b, ldb, beta, c, ldc, ep)
		checkGemm(t, what+" PackedA", m, n, c, ldc, want, scale)
	}
}

func TestGemm(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	shapes := [][3]int{{0, 3, 2}, {3, 0, 2}, {3, 2, 0}, {3, 70, 0}, {30, 70, 0}, {1, 1, 1}, {1, 33, 5}, {12, 32, 8}, {13, 31, 9}, {6, 16, 4}, {25, 65, 17},
		{100, 70, 3}, {2, 300, 40}, {300, 2, 40}, {7, 5, 900}, {300, 290, 50}, {1, 700, 500}, {700, 1, 500}}
	for m := 1; m <= 13; m++ {
		shapes = append(shapes, [3]int{m, rand.IntN(70) + 1, rand.IntN(40) + 1})
	}
	eachLevel(t, func(t *testing.T) {
		for _, s := range shapes {
			for _, p := range []*Pool{nil, p} {
				testGemm[float32](t, p, s[0], s[1], s[2])
				testGemm[float64](t, p, s[0], s[1], s[2])
			}
		}
	})
}

// A zero in one operand does not hide a NaN or infinity in the other, and neither leaks
// into other rows or columns.
func TestGemmNonFinite(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
			for _, s := range [][3]int{{1, 40, 20}, {5, 3, 7}, {30, 70, 20}} {
				m, n, k := s[0], s[1], s[2]
				a, b, c := make([]float32, m*k), make([]float32, k*n), make([]float32, m*n)
				b[(k-1)*n+n-1] = bad
				Sgemm(nil, false, false, m, n, k, 1, a, k, b, n, 0, c, n, nil)
				for i, v := range c {
					if (v != v) != (i%n == n-1) {
						t.Fatalf("%v: C[%d,%d] = %v", bad, i/n, i%n, v)
					}
				}
			}
		}
	})
}

func TestGemmBatch(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	for _, s := range []struct{ batch, m, n, k, strideA, strideB int }{
		{5, 20, 30, 10, 1, 1}, {5, 20, 30, 10, 1, 0}, {5, 20, 30, 10, 0, 1}, {2, 90, 80, 70, 1, 1}, {300, 2, 3, 4, 1, 1}, {0, 2, 2, 2, 1, 1},
	} {
		m, n, k := s.m, s.n, s.k
		strideA, strideB := s.strideA*m*k, s.strideB*k*n
		a, b := random[float32](s.batch*m*k), random[float32](s.batch*k*n)
		c := make([]float32, s.batch*m*n)
		SgemmBatch(p, s.batch, false, false, m, n, k, 1, a, strideA, k, b, strideB, n, 0, c, m*n, n)
		for i := range s.batch {
			want, scale := gemmRef(false, false, m, n, k, 1, a[i*strideA:], k, b[i*strideB:], n, 0, nil, 0, nil)
			checkGemm(t, fmt.Sprintf("%+v", s), m, n, c[i*m*n:][:m*n], n, want, scale)
		}
	}
}

var poolsForget bool // set where sync.Pool does not keep

func TestGemmDoesNotAllocate(t *testing.T) {
	if poolsForget {
		t.Skip("sync.Pool does not keep")
	}
	p := NewPool(2)
	defer p.Close()
	a, b, c := random[float32](300*300), random[float32](300*300), random[float32](300*300)
	if n := testing.AllocsPerRun(20, func() {
		Sgemm(p, false, true, 300, 300, 300, 1, a, 300, b, 300, 0, c, 300, nil)
	}); n > 2 { // loops still queued when the next begins
		t.Errorf("%v allocations per product", n)
	}
}

func TestTileLayout(t *testing.T) {
	var x tile[float32]
	var y tile[float64]
	for name, pair := range map[string][2]uintptr{
		"a": {unsafe.Offsetof(x.a), 0}, "c": {unsafe.Offsetof(x.c), 16}, "resid": {unsafe.Offsetof(x.resid), 40},
		"k": {unsafe.Offsetof(x.k), 48}, "ldr": {unsafe.Offsetof(x.ldr), 72}, "cols": {unsafe.Offsetof(x.cols), 80},
		"count": {unsafe.Offsetof(x.count), 104}, "on": {unsafe.Offsetof(x.on), 112}, "on.resid": {unsafe.Offsetof(x.on) + unsafe.Offsetof(x.on.resid), 152},
		"ahead": {unsafe.Offsetof(x.ahead), 160}, "aheadBy": {unsafe.Offsetof(x.aheadBy), 168},
		"alpha": {unsafe.Offsetof(x.alpha), 176}, "hi": {unsafe.Offsetof(x.hi), 188}, "hi64": {unsafe.Offsetof(y.hi), 200},
	} {
		if pair[0] != pair[1] {
			t.Errorf("tile.%s is at %d, the assembly has it at %d", name, pair[0], pair[1])
		}
	}
}

// BenchmarkTile is the rate of one tile in the first-level cache, which bounds all
// products, at each level.
func BenchmarkTile(b *testing.B) {
	defer use(best)
	for l := levelGo; l <= best; l++ {
		use(l)
		kern := activeGemm[float32]()
		const k = 192
		x, y, c := random[float32](kern.rows*k), random[float32](kern.cols*k), make([]float32, kern.rows*kern.cols)
		t := &tile[float32]{a: &x[0], b: &y[0], c: &c[0], k: k, ldb: 4 * kern.cols, ldc: 4 * kern.cols, cols: kern.cols, alpha: 1}
		b.Run(fmt.Sprintf("%dx%d", kern.rows, kern.cols), func(b *testing.B) {
			for b.Loop() {
				kern.tile[kern.rows](t)
			}
			b.ReportMetric(2*k*float64(len(c))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

func BenchmarkSgemmLevels(b *testing.B) {
	defer use(best)
	const n = 768
	x, y, c := random[float32](n*n), random[float32](n*n), make([]float32, n*n)
	x64, y64, c64 := random[float64](n*n), random[float64](n*n), make([]float64, n*n)
	p := NewPool(0)
	defer p.Close()
	for l := levelGo; l <= best; l++ {
		use(l)
		for _, p := range []*Pool{nil, p} {
			rate := func(b *testing.B) {
				b.ReportMetric(2*n*n*n*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			}
			b.Run(fmt.Sprintf("%v/float32/threads=%d", l, p.Threads()), func(b *testing.B) {
				for b.Loop() {
					Gemm(p, false, false, n, n, n, 1, x, n, y, n, 0, c, n)
				}
				rate(b)
			})
			b.Run(fmt.Sprintf("%v/float64/threads=%d", l, p.Threads()), func(b *testing.B) {
				for b.Loop() {
					Gemm(p, false, false, n, n, n, 1, x64, n, y64, n, 0, c64, n)
				}
				rate(b)
			})
		}
	}
}

func BenchmarkSgemm(b *testing.B) {
	for _, s := range [][3]int{{1024, 1024, 1024}, {128, 768, 768}, {128, 3072, 768}, {128, 768, 3072}, {3136, 64, 576}, {64, 3136, 576}, {1, 768, 768}, {4, 768, 768}, {8, 768, 768}, {128, 128, 64}, {512, 10, 128}, {16, 16, 16}, {4, 4, 4}, {64, 64, 50000}} {
		m, n, k := s[0], s[1], s[2]
		x, y, c := random[float32](m*k), random[float32](k*n), make([]float32, m*n)
		pb := PackB(false, k, n, y, n)
		name := fmt.Sprintf("%dx%dx%d", m, n, k)
		flops := 2 * float64(m) * float64(n) * float64(k)
		run := func(kind string, f func()) {
			b.Run(name+"/"+kind, func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
		run("NN", func() { Sgemm(nil, false, false, m, n, k, 1, x, k, y, n, 0, c, n, nil) })
		run("NT", func() { Sgemm(nil, false, true, m, n, k, 1, x, k, y, k, 0, c, n, nil) })
		run("packed", func() { SgemmPackedB(nil, false, m, 1, x, k, pb, 0, c, n, nil) })
	}
}

func TestTranspose(t *testing.T) {
	for m := 1; m <= 36; m++ {
		for n := 1; n <= 52; n++ {
			src, dst := make([]uint32, m*(n+3)), make([]uint32, n*(m+2))
			for i := range src {
				src[i] = uint32(i + 1)
			}
			if !Transpose(dst, m+2, src, n+3, m, n) {
				continue
			}
			for j := range n {
				for i := range m + 2 {
					want := uint32(0)
					if i < m {
						want = src[i*(n+3)+j]
					}
					if i < m+2 && j*(m+2)+i < len(dst) && dst[j*(m+2)+i] != want {
						t.Fatalf("%d×%d: element %d, %d is %d, want %d", m, n, i, j, dst[j*(m+2)+i], want)
					}
				}
			}
		}
	}
}
