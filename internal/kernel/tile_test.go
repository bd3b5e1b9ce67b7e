package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// Every tile function gives what its twin gives, for all depths, widths, epilogues and runs, and
// writes nothing else.
func TestTileTwins(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		testTileTwins[float32](t)
		testTileTwins[float64](t)
	})
}

func testTileTwins[T Float](t *testing.T) {
	kern, size := activeGemm[T](), int(unsafe.Sizeof(T(0)))
	const maxK, ld, most = 20, 120, 3
	for rows := 1; rows <= kern.rows; rows++ {
		for k := range maxK {
			a, b := random[T](most*rows*maxK), random[T](maxK*ld)
			c, bias, resid := random[T](most*rows*ld), random[T](ld), random[T](most*rows*ld)
			if k%4 == 3 && k > 0 {
				a[rand.IntN(rows*k)], b[rand.IntN(k*ld)] = T(math.NaN()), T(math.Inf(1))
			}
			x := tile[T]{a: &a[0], b: &b[0], k: k, ldb: ld * size, ldc: ld * size, cols: kern.cols, alpha: T(1+rand.IntN(2)) / 2, beta: T(rand.IntN(2)) * 2}
			if kern.masked {
				x.cols = 1 + rand.IntN(kern.cols)
			}
			if x.beta == 0 {
				c[0] = T(math.NaN()) // is overwritten
			}
			all := c
			if rand.IntN(2) == 0 {
				x.rowBias = &bias[0]
			}
			if rand.IntN(2) == 0 {
				x.colBias = &bias[0]
			}
			if rand.IntN(2) == 0 {
				x.resid, x.ldr = &resid[0], ld*size
			}
			if rand.IntN(2) == 0 {
				x.clamp, x.lo, x.hi = 1, -0.25, 0.5
			}
			run := kern.tile[rows]
			if kern.rowsTile != nil && k%2 == 0 {
				run, x.lda = kern.rowsTile[rows], maxK*size
			}
			x.count = 1 + rand.IntN(most)
			if rand.IntN(2) == 0 { // down
				x.on.a, x.on.c = rows*maxK*size, rows*ld*size
				if x.rowBias != nil {
					x.on.rowBias = rows * size
				}
				if x.resid != nil {
					x.on.resid = rows * ld * size
				}
			} else { // across, and back
				by := kern.cols * size
				if rand.IntN(2) == 0 {
					at := (x.count - 1) * kern.cols
					x.b, c, by = &b[at], c[at:], -by
					if x.colBias != nil {
						x.colBias = &bias[at]
					}
					if x.resid != nil {
						x.resid = &resid[at]
					}
				}
				x.on.b, x.on.c = by, by
				if x.colBias != nil {
					x.on.colBias = by
				}
				if x.resid != nil {
					x.on.resid = by
				}
			}
			got, want := slices.Clone(all), slices.Clone(all)
			y := x
			x.c = &got[len(all)-len(c)]
			run(&x)
			y.c = &want[len(all)-len(c)]
			tilesGo(&y, rows, kern.cols)
			for i, w := range want {
				if g := got[i]; g != w && (g == g || w == w) && !(math.Abs(float64(g-w)) < 1e-5) {
					t.Fatalf("%T, %d rows, %+v: C[%d,%d] = %v, want %v", w, rows, x, i/ld, i%ld, g, w)
				}
			}
		}
	}
}

func TestItileTwins(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		kern := igemmActive
		const maxK = 9
		words := func(n int) []uint32 {
			x := make([]uint32, n)
			for i := range x {
				x[i] = rand.Uint32()
			}
			return x
		}
		for rows := 1; rows <= kern.rows; rows++ {
			for k := range 3 * maxK {
				taps, depthwise := k/maxK+1, rand.IntN(4) == 0
				k := k % maxK
				tiles, per := kern.tile, kern.perDword()
				if depthwise {
					tiles, per = kern.depthwise, 1
				}
				const pixel, apart = 4*maxK + 3, 7
				a, b := words(rows*maxK+20+kern.cols), words(taps*maxK*kern.cols)
				offsets := []int{2 * apart, 0, apart}
				switch per {
				case 1: // 16 bits with their sign
					for i, v := range b {
						b[i] = uint32(int32(v) >> 23)
					}
				case 2: // pairs of a byte's range
					for _, x := range [][]uint32{a, b} {
						for i := range x {
							x[i] &= 0x00ff00ff
						}
					}
					offsets = []int{8, 0, 4}
				}
				ints := words(rows + 3*kern.cols)
				at := func(i int) *int32 { return (*int32)(unsafe.Pointer(&ints[i])) }
				x := itile{a: unsafe.Pointer(&a[0]), offsets: &offsets[0], taps: taps, pixel: pixel, b: &b[0], rowSum: at(0), colSum: at(rows), colBy: -7, by: 1.5, k: k, ldc: 4 * kern.cols, cols: kern.cols}
				if k%2 == 0 {
					x.zero = at(rows + kern.cols)
				}
				if k%5 < 2 {
					x.add = at(rows + 2*kern.cols)
				}
				if kern.masked {
					x.cols = 1 + rand.IntN(kern.cols)
				}
				floats := make([]float32, 2*kern.cols)
				for i := range floats {
					floats[i] = rand.Float32() * 1e-6
				}
				if k%3 > 0 {
					x.scale = &floats[0]
					if k%4 < 2 {
						x.bias = &floats[kern.cols]
					}
				}
				if k%3 == 2 {
					x.round = new(toBytes)
					for i := range 16 {
						x.round.zero[i], x.round.lo[i], x.round.hi[i] = 3, -103, 107
					}
					x.ldc = kern.cols
				}
				got, want := make([]int32, rows*kern.cols), make([]int32, rows*kern.cols)
				x.c = unsafe.Pointer(&got[0])
				if per == 2 {
					x.pixel = 4 * maxK
				}
				tiles[rows](&x)
				x.c = unsafe.Pointer(&want[0])
				itileGo(&x, rows, kern.cols, per)
				if !slices.Equal(got, want) {
					t.Fatalf("%d rows, %d a dword, %+v: %v, want %v", rows, per, x, got, want)
				}
			}
		}
	})
}

// The copies into panels, by assembly and not.
func TestPackPanelTwins(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		kern := activeGemm[float32]()
		for range 300 {
			width, n, p0, i0 := 1+rand.IntN(kern.cols), rand.IntN(40), rand.IntN(5), rand.IntN(5)
			stride := width
			if rand.IntN(2) == 0 {
				stride = kern.cols
			}
			s := side[float32]{across: rand.IntN(2) == 0, ld: 80}
			s.data = random[float32](80 * 80)
			got, want := random[float32](n*stride), make([]float32, n*stride)
			kern.packPanel(got, s, i0, width, stride, p0, n)
			gemmGo.f32.packPanel(want, s, i0, width, stride, p0, n)
			if !slices.Equal(got, want) {
				t.Fatalf("width %d, stride %d, n %d, across %v: %v, want %v", width, stride, n, s.across, got, want)
			}
		}
	})
}
