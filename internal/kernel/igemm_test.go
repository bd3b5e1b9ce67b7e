package kernel

import (
	"fmt"
	"math"
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
			scale := &ByteScale{By: 0.5, Scale: make([]float32, n), Zero: 3, Lo: -120, Hi: 119}
			for j := range n {
				scale.Scale[j] = rand.Float32() * 1e-5
			}
			if rand.IntN(2) == 0 {
				scale.Add, scale.Bias = make([]int32, n), make([]float32, n)
				for j := range n {
					scale.Add[j], scale.Bias[j] = int32(rand.IntN(10000)), rand.Float32()
				}
			}
			rounded, floats := make([]uint8, m*ldc), make([]float32, m*ldc)
			GemmU8S8Bytes(p, m, a, lda, aZero, PackS8(transB, k, n, b, ldb), bZero, scale, rounded, ldc)
			scale.Hi, scale.Lo = 0, 0
			GemmU8S8Float(p, m, a, lda, aZero, PackS8(transB, k, n, b, ldb), bZero, scale, floats, ldc)
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
					f := float32(want)
					if scale.Add != nil {
						f = float32(float32(want+scale.Add[j])*(0.5*scale.Scale[j])) + scale.Bias[j]
					} else {
						f *= 0.5 * scale.Scale[j]
					}
					if got := floats[i*ldc+j]; got != f {
						t.Fatalf("m=%d n=%d k=%d: float C[%d,%d] = %g, want %g", m, n, k, i, j, got, f)
					}
					if got, want := int8(rounded[i*ldc+j]), math.RoundToEven(float64(f))+3; float64(got) != min(max(want, -120), 119) {
						t.Fatalf("m=%d n=%d k=%d: byte C[%d,%d] = %d, want %g", m, n, k, i, j, got, want)
					}
				}
			}
		}
	})
}

func TestBytes(t *testing.T) {
	special := []float32{0, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 0.5, 1.5, -0.5, 1e20}
	eachLevel(t, func(t *testing.T) {
		for n := range 70 {
			x := make([]float32, n)
			for i := range x {
				if x[i] = rand.Float32()*600 - 300; i%5 == 0 {
					x[i] = special[i/5%len(special)]
				}
			}
			scale := float32(1)
			if n%2 == 0 {
				scale = rand.Float32() * 3
			}
			for _, r := range [][3]float32{{7, 0, 255}, {-3, -128, 127}, {1, -8, 7}} {
				q, y := make([]uint8, n), make([]float32, n)
				QuantizeBytes(q, x, scale, r[0], r[1], r[2])
				value := func(v uint8) float32 { return float32(v) }
				if r[1] < 0 {
					value = func(v uint8) float32 { return float32(int8(v)) }
					DequantizeS8(y, q, int(r[0]), scale)
				} else {
					DequantizeU8(y, q, int(r[0]), scale)
				}
				for i, v := range x {
					want := float32(math.RoundToEven(float64(v/scale))) + r[0]
					if v != v {
						want = r[0]
					}
					if want = min(max(want, r[1]), r[2]); value(q[i]) != want {
						t.Fatalf("%g / %g: got %g, want %g", v, scale, value(q[i]), want)
					}
					if want := (want - r[0]) * scale; y[i] != want {
						t.Fatalf("dequantized %g, want %g", y[i], want)
					}
				}
			}
		}
	})
}

func TestByteArithmetic(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for n := range 150 {
			x, y, sum := randomBytes(n), randomBytes(n), make([]uint8, n)
			mapped, table := make([]uint8, n), [256]uint8(randomBytes(256))
			MapBytes(mapped, x, &table)
			for i, v := range x {
				if mapped[i] != table[v] {
					t.Fatalf("entry %d is %d, want %d", v, mapped[i], table[v])
				}
			}
			for _, signed := range []bool{false, true} {
				value, lo, hi := func(v uint8) float64 { return float64(v) }, float32(0), float32(255)
				if signed {
					value, lo, hi = func(v uint8) float64 { return float64(int8(v)) }, -128, 127
				}
				// Exact numbers, halves among them.
				a, b, c := float32(rand.IntN(5))/4-0.5, float32(rand.IntN(9))/8, float32(rand.IntN(40)-20)
				AddBytes(sum, x, y, a, b, c, lo, hi, signed)
				product, xz, yz, by := make([]uint8, n), float32(rand.IntN(256))+lo, float32(rand.IntN(256))+lo, float32(rand.IntN(9))/1024
				MulBytes(product, x, y, xz, yz, by, c, lo, hi, signed)
				most := append([]uint8(nil), x...)
				MaxBytes(most, y, signed)
				for i := range n {
					want := min(max(math.RoundToEven(value(x[i])*float64(a)+value(y[i])*float64(b)+float64(c)), float64(lo)), float64(hi))
					if got := value(sum[i]); got != want {
						t.Fatalf("%g·%g + %g·%g + %g is %g, want %g", value(x[i]), a, value(y[i]), b, c, got, want)
					}
					want = min(max(math.RoundToEven((value(x[i])-float64(xz))*(value(y[i])-float64(yz))*float64(by)+float64(c)), float64(lo)), float64(hi))
					if got := value(product[i]); got != want {
						t.Fatalf("(%g - %g)·(%g - %g)·%g + %g is %g, want %g", value(x[i]), xz, value(y[i]), yz, by, c, got, want)
					}
					if got, want := value(most[i]), max(value(x[i]), value(y[i])); got != want {
						t.Fatalf("the greater of %g and %g is %g", value(x[i]), value(y[i]), got)
					}
				}
			}
		}
	})
}

func TestItileLayout(t *testing.T) {
	var x itile
	got := [...]uintptr{unsafe.Offsetof(x.offsets), unsafe.Offsetof(x.pixel), unsafe.Offsetof(x.k), unsafe.Offsetof(x.b), unsafe.Offsetof(x.ldc), unsafe.Offsetof(x.colSum),
		unsafe.Offsetof(x.rowSum), unsafe.Offsetof(x.scale), unsafe.Offsetof(x.round), unsafe.Offsetof(x.add), unsafe.Offsetof(x.colBy), unsafe.Offsetof(x.by)}
	if want := [...]uintptr{8, 24, 32, 40, 56, 72, 88, 96, 112, 120, 128, 132}; got != want {
		t.Errorf("fields of itile are at %v, the assembly has them at %v", got, want)
	}
}

func BenchmarkGemmU8S8(b *testing.B) {
	for _, s := range [][3]int{{128, 768, 768}, {1, 768, 768}, {1024, 1024, 1024}, {512, 3072, 768}, {512, 256, 256}, {128, 384, 1536}, {64, 1024, 4096}} {
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
