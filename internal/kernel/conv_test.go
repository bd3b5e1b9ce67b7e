package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// convRef is the formula.
func convRef[T Float](cv Conv2D, x, w []T) []float64 {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	y := make([]float64, cv.N*cv.M*oh*ow)
	convEach(cv, func(yi, xi, wi int) { y[yi] += float64(x[xi]) * float64(w[wi]) })
	return y
}

// convEach calls f for each product of the formula, with its indices in Y, X and W.
func convEach(cv Conv2D, f func(y, x, w int)) {
	oh, ow := cv.OutSize()
	chans, rows := cv.C/cv.Group, cv.M/cv.Group
	for n := range cv.N {
		for m := range cv.M {
			for r := range oh {
				for q := range ow {
					for c := range chans {
						for kh := range cv.KH {
							for kw := range cv.KW {
								h, w := r*cv.StrideH+kh*cv.DilH-cv.PadTop, q*cv.StrideW+kw*cv.DilW-cv.PadLeft
								if h >= 0 && h < cv.H && w >= 0 && w < cv.W {
									f(((n*cv.M+m)*oh+r)*ow+q, ((n*cv.C+m/rows*chans+c)*cv.H+h)*cv.W+w, ((m*chans+c)*cv.KH+kh)*cv.KW+kw)
								}
							}
						}
					}
				}
			}
		}
	}
}

func randomConv() Conv2D {
	one := func(n int) int { return 1 + rand.IntN(n) }
	cv := Conv2D{N: one(3), Group: one(3), H: one(20), W: one(40), KH: one(4), KW: one(4), StrideH: one(3), StrideW: one(3),
		PadTop: rand.IntN(3), PadLeft: rand.IntN(3), PadBottom: rand.IntN(3), PadRight: rand.IntN(3), DilH: one(2), DilW: one(2)}
	cv.C, cv.M = cv.Group*one(4), cv.Group*one(14)
	switch rand.IntN(7) {
	case 0: // pointwise
		cv.KH, cv.KW, cv.StrideH, cv.StrideW, cv.PadTop, cv.PadLeft, cv.PadBottom, cv.PadRight = 1, 1, 1, 1, 0, 0, 0, 0
	case 1: // depthwise
		cv.Group = cv.C
		cv.M = cv.C * one(2)
	case 2: // one-dimensional
		cv.H, cv.KH, cv.PadTop, cv.PadBottom, cv.StrideH = 1, 1, 0, 0, 1
	case 3: // few pixels of several images
		cv.N, cv.Group, cv.H, cv.W = 1+one(17), 1, one(9), one(9)
		cv.C, cv.M = one(20), one(40)
	case 4: // plain
		cv.StrideH, cv.StrideW, cv.DilH, cv.DilW, cv.Group = 1, 1, 1, 1, 1
	}
	return cv
}

func testConv[T Float](t *testing.T, p *Pool, cv Conv2D, eps float64) {
	oh, ow := cv.OutSize()
	x, w := random[T](cv.N*cv.C*cv.H*cv.W), random[T](cv.M*cv.C/cv.Group*cv.KH*cv.KW)
	near := func(what string, got []T, want []float64) {
		t.Helper()
		for i := range want {
			if !(math.Abs(float64(got[i])-want[i]) <= eps) {
				t.Fatalf("%s of %+v: [%d] = %v, want %v", what, cv, i, got[i], want[i])
			}
		}
	}
	want := convRef(cv, x, w)
	y := make([]T, len(want))
	for i := range y {
		y[i] = T(math.NaN())
	}
	packed := PackConvWeights(cv, w, rand.IntN(2) == 0)
	Conv(p, cv, y, x, packed, nil)
	near("Conv", y, want)

	ep := &EpilogueOf[T]{RowBias: random[T](cv.M), Residual: random[T](len(y)), Act: ActTanh}
	if rand.IntN(2) == 0 {
		ep.Act = ActRelu
	}
	Conv(p, cv, y, x, packed, ep)
	for i := range want {
		v := []float64{want[i] + float64(ep.RowBias[i/(oh*ow)%cv.M]) + float64(ep.Residual[i])}
		(&EpilogueOf[float64]{Act: ep.Act}).activate(v)
		want[i] = v[0]
	}
	near("Conv with epilogue", y, want)

	dy := random[T](len(y))
	dxWant, dwWant := make([]float64, len(x)), make([]float64, len(w))
	convEach(cv.norm(), func(yi, xi, wi int) {
		dxWant[xi] += float64(dy[yi]) * float64(w[wi])
		dwWant[wi] += float64(dy[yi]) * float64(x[xi])
	})
	dx, dw := random[T](len(x)), random[T](len(w))
	ConvGradInput(p, cv, dx, dy, w)
	near("ConvGradInput", dx, dxWant)
	ConvGradWeight(p, cv, dw, dy, x, false)
	near("ConvGradWeight", dw, dwWant)
	ConvGradWeight(p, cv, dw, dy, x, true)
	for i := range dwWant {
		dwWant[i] *= 2
	}
	near("ConvGradWeight, accumulated", dw, dwWant)
}

func TestConv(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	eachLevel(t, func(t *testing.T) {
		for i := range 150 {
			pool := p
			if i%2 == 0 {
				pool = nil
			}
			cv := randomConv()
			testConv[float32](t, pool, cv, 2e-3)
			testConv[float64](t, pool, cv, 1e-11)
		}
	})
}

func BenchmarkConv(b *testing.B) {
	for _, cv := range []Conv2D{
		{N: 1, C: 3, H: 224, W: 224, M: 64, KH: 7, KW: 7, StrideH: 2, StrideW: 2, PadTop: 3, PadLeft: 3, PadBottom: 3, PadRight: 3},
		{N: 1, C: 64, H: 56, W: 56, M: 64, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{N: 1, C: 128, H: 28, W: 28, M: 128, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{N: 1, C: 256, H: 14, W: 14, M: 256, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{N: 1, C: 512, H: 7, W: 7, M: 512, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{N: 1, C: 256, H: 14, W: 14, M: 1024, KH: 1, KW: 1},
		{N: 1, C: 256, H: 56, W: 56, M: 512, KH: 1, KW: 1, StrideH: 2, StrideW: 2},
		{N: 1, C: 96, H: 56, W: 56, M: 96, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1, Group: 96},
		{N: 1, C: 384, H: 14, W: 14, M: 384, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1, Group: 384},
	} {
		oh, ow := cv.OutSize()
		c := cv.norm()
		x, w, y := random[float32](c.N*c.C*c.H*c.W), random[float32](c.M*c.C/c.Group*c.KH*c.KW), make([]float32, c.N*c.M*oh*ow)
		dx, dw := make([]float32, len(x)), make([]float32, len(w))
		packed := PackConvWeights(cv, w, false)
		ep := &Epilogue{RowBias: random[float32](c.M), Act: ActRelu}
		flops := 2 * float64(len(y)) * float64(c.C/c.Group*c.KH*c.KW)
		for _, k := range []struct {
			name string
			f    func()
		}{{"forward", func() { Conv(nil, cv, y, x, packed, ep) }}, {"gradInput", func() { ConvGradInput(nil, cv, dx, y, w) }}, {"gradWeight", func() { ConvGradWeight(nil, cv, dw, y, x, false) }}} {
			b.Run(fmt.Sprintf("%dx%dx%d_%d_%dx%d_s%d_g%d/%s", c.C, c.H, c.W, c.M, c.KH, c.KW, c.StrideH, c.Group, k.name), func(b *testing.B) {
				for b.Loop() {
					k.f()
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func TestDeinterleave(t *testing.T) {
	for n := range 70 {
		src := make([]float32, n)
		for i := range src {
			src[i] = float32(i + 1)
		}
		for _, short := range []int{0, 1, 5} {
			even, odd := make([]float32, max(0, (n+1)/2-short)+2), make([]float32, max(0, n/2-short)+2)
			Deinterleave(even[:len(even)-2], odd[:len(odd)-2], src)
			for i, v := range even {
				if want := float32(2*i + 1); i < len(even)-2 && v != want || i >= len(even)-2 && v != 0 {
					t.Fatalf("n %d, short %d: even[%d] is %v", n, short, i, v)
				}
			}
			for i, v := range odd {
				if want := float32(2*i + 2); i < len(odd)-2 && v != want || i >= len(odd)-2 && v != 0 {
					t.Fatalf("n %d, short %d: odd[%d] is %v", n, short, i, v)
				}
			}
		}
	}
}
