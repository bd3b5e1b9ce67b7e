package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// Every half and bfloat16 survives the way there and back, but for NaNs, which stay NaNs.
func TestHalfRoundTrip(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		bits, back, wide := make([]uint16, 1<<16), make([]uint16, 1<<16), make([]float32, 1<<16)
		for i := range bits {
			bits[i] = uint16(i)
		}
		for _, f := range []struct {
			name   string
			widen  func([]float32, []uint16)
			narrow func([]uint16, []float32)
			one    func(uint16) float32
		}{{"Float16", Float16ToFloat32, Float32ToFloat16, fromFloat16}, {"BFloat16", BFloat16ToFloat32, Float32ToBFloat16, fromBFloat16}} {
			f.widen(wide, bits)
			f.narrow(back, wide)
			for i, v := range wide {
				if w := f.one(bits[i]); v != w && (v == v || w == w) {
					t.Fatalf("%s %#04x = %v, want %v", f.name, i, v, w)
				}
				if v == v && back[i] != bits[i] {
					t.Fatalf("%s %#04x came back %#04x", f.name, i, back[i])
				}
				if w := f.one(back[i]); v != v && w == w {
					t.Fatalf("%s NaN %#04x came back %v", f.name, i, w)
				}
			}
		}
	})
}

// Rounding, against big.Float for halves of normal size and the twin for all.
func TestHalfRounding(t *testing.T) {
	x := edges()
	for _, v := range []float32{65504, 65519.996, 65520, 0x1p-24, 0x1p-25, 0x1.000002p-25, 0x1p-14, 0x1.ffcp-15, 1.0009765625 / 2} {
		x = append(x, v, -v)
	}
	for range 100000 {
		x = append(x, math.Float32frombits(rand.Uint32()), float32(rand.NormFloat64()))
	}
	eachLevel(t, func(t *testing.T) {
		h, b := make([]uint16, len(x)), make([]uint16, len(x))
		Float32ToFloat16(h, x)
		Float32ToBFloat16(b, x)
		for i, v := range x {
			if h[i] != toFloat16(v) || b[i] != toBFloat16(v) {
				t.Fatalf("%v: half %#04x, want %#04x; bfloat16 %#04x, want %#04x", v, h[i], toFloat16(v), b[i], toBFloat16(v))
			}
			a := math.Abs(float64(v))
			for _, f := range []struct {
				prec   uint
				lo, hi float64
				got    float32
			}{{11, 0x1p-14, 65504, fromFloat16(h[i])}, {8, 0x1p-126, 0x1.fep127, fromBFloat16(b[i])}} {
				if a < f.lo || !(a <= f.hi) {
					continue
				}
				want, _ := new(big.Float).SetPrec(f.prec).SetMode(big.ToNearestEven).SetFloat64(float64(v)).Float64()
				if float64(f.got) != want {
					t.Fatalf("%v to %d bits: %v, want %v", v, f.prec, f.got, want)
				}
			}
		}
	})
}
