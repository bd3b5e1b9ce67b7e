package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// naiveByteConv is the sums of a convolution of bytes, N×OD×OH×OW×M.
func naiveByteConv(cv Conv3D, x []uint8, flip, xZero uint8, w, wZero []int8) []int32 {
	od, oh, ow := cv.OutSize()
	per, rows, taps := cv.C/cv.Group, cv.M/cv.Group, cv.KD*cv.KH*cv.KW
	y := make([]int32, cv.N*od*oh*ow*cv.M)
	for i := range y {
		m, c, r, d, n := i%cv.M, i/cv.M%ow, i/cv.M/ow%oh, i/cv.M/ow/oh%od, i/cv.M/ow/oh/od
		z := int32(0)
		if len(wZero) > 0 {
			z = int32(wZero[min(m, len(wZero)-1)])
		}
		for k := range per * taps {
			ch, kd, kh, kw := k/taps, k/cv.KW/cv.KH%cv.KD, k/cv.KW%cv.KH, k%cv.KW
			h, v := r*cv.StrideH+kh*cv.DilH-cv.PadTop, c*cv.StrideW+kw*cv.DilW-cv.PadLeft
			u := d*cv.StrideD + kd*cv.DilD - cv.PadFront
			if u < 0 || u >= cv.D || h < 0 || h >= cv.H || v < 0 || v >= cv.W {
				continue
			}
			in := x[(((n*cv.D+u)*cv.H+h)*cv.W+v)*cv.C+m/rows*per+ch] ^ flip
			y[i] += (int32(in) - int32(xZero)) * (int32(w[m*per*taps+k]) - z)
		}
	}
	return y
}

func randomBytes(n int) []uint8 {
	x := make([]uint8, n)
	for i := range x {
		if x[i] = uint8(rand.Uint32()); rand.IntN(3) == 0 {
			x[i] = 255 // where sums of pairs would saturate
		}
	}
	return x
}

func TestConvU8S8(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	eachLevel(t, func(t *testing.T) {
		for range 250 {
			cv := Conv3D{D: 1, KD: 1, StrideD: 1, DilD: 1}
			cv.Conv2D = Conv2D{N: 1 + rand.IntN(2), H: 1 + rand.IntN(9), W: 1 + rand.IntN(40), KH: 1 + rand.IntN(4), KW: 1 + rand.IntN(4),
				StrideH: 1 + rand.IntN(3), StrideW: 1 + rand.IntN(3), DilH: 1 + rand.IntN(2), DilW: 1 + rand.IntN(2),
				PadTop: rand.IntN(3), PadLeft: rand.IntN(3), PadBottom: rand.IntN(3), PadRight: rand.IntN(3), Group: 1}
			per, rows := 1+rand.IntN(9), 1+rand.IntN(70)
			switch rand.IntN(4) {
			case 0: // depthwise
				cv.Group, per, rows = 2+rand.IntN(70), 1, 1
			case 1:
				cv.Group, rows = 2+rand.IntN(3), 1+rand.IntN(40)
			case 2: // pointwise
				cv.KH, cv.KW, cv.PadTop, cv.PadLeft, cv.PadBottom, cv.PadRight, per = 1, 1, 0, 0, 0, 0, 4*per
			}
			if rand.IntN(5) == 0 {
				cv.D, cv.KD, cv.StrideD, cv.DilD, cv.PadFront, cv.PadBack = 1+rand.IntN(5), 1+rand.IntN(3), 1+rand.IntN(2), 1+rand.IntN(2), rand.IntN(2), rand.IntN(2)
			}
			cv.C, cv.M = cv.Group*per, cv.Group*rows
			if od, oh, ow := cv.OutSize(); od*oh*ow == 0 {
				continue
			}
			raw := randomBytes(cv.M * per * cv.KD * cv.KH * cv.KW)
			w := make([]int8, len(raw))
			for i, v := range raw {
				w[i] = int8(v ^ 0x80)
			}
			wZero := make([]int8, []int{0, 1, cv.M}[rand.IntN(3)])
			for i := range wZero {
				if wZero[i] = int8(rand.Uint32()); rand.IntN(2) == 0 {
					wZero[i] = -128
				}
			}
			x, flip, xZero := randomBytes(cv.N*cv.C*cv.D*cv.H*cv.W), uint8(128*rand.IntN(2)), uint8(rand.Uint32())
			want := naiveByteConv(cv, x, flip, xZero, w, wZero)
			pw := PackConvS8(cv, w, wZero)
			sums, floats, rounded := make([]int32, len(want)), make([]float32, len(want)), make([]uint8, len(want))
			ConvU8S8(p, cv, sums, x, flip, xZero, pw, nil)
			scale := &ByteScale{By: 0.5, Scale: make([]float32, cv.M), Add: make([]int32, cv.M), Bias: make([]float32, cv.M), Zero: 3}
			for m := range cv.M {
				scale.Scale[m], scale.Add[m], scale.Bias[m] = rand.Float32()*1e-2, int32(rand.IntN(10000)), rand.Float32()
			}
			ConvU8S8(p, cv, floats, x, flip, xZero, pw, scale)
			scale.Lo, scale.Hi = -120, 119
			ConvU8S8(p, cv, rounded, x, flip, xZero, pw, scale)
			for i, s := range want {
				if sums[i] != s {
					t.Fatalf("%+v, zeros %d and %v, flip %d: Y[%d] = %d, want %d", cv, xZero, wZero, flip, i, sums[i], s)
				}
				m := i % cv.M
				f := float32(float32(s+scale.Add[m])*(0.5*scale.Scale[m])) + scale.Bias[m]
				if floats[i] != f {
					t.Fatalf("%+v: float Y[%d] = %g, want %g", cv, i, floats[i], f)
				}
				if q := min(max(math.RoundToEven(float64(f))+3, -120), 119); float64(int8(rounded[i])) != q {
					t.Fatalf("%+v: byte Y[%d] = %d, want %g", cv, i, int8(rounded[i]), q)
				}
			}
		}
	})
}

func BenchmarkConvU8S8(b *testing.B) {
	for _, cv := range []Conv2D{
		{C: 3, H: 224, W: 224, M: 64, KH: 7, KW: 7, StrideH: 2, StrideW: 2, PadTop: 3, PadLeft: 3, PadBottom: 3, PadRight: 3},
		{C: 64, H: 56, W: 56, M: 64, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{C: 128, H: 28, W: 28, M: 128, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{C: 256, H: 14, W: 14, M: 256, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{C: 512, H: 7, W: 7, M: 512, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{C: 64, H: 56, W: 56, M: 256, KH: 1, KW: 1},
		{C: 64, H: 56, W: 56, M: 128, KH: 1, KW: 1, StrideH: 2, StrideW: 2},
		{C: 96, H: 112, W: 112, M: 96, Group: 96, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
	} {
		cv.N = 1
		cv := Conv3D{Conv2D: cv}.norm()
		_, oh, ow := cv.OutSize()
		n := cv.M * cv.C / cv.Group * cv.KH * cv.KW
		pw := PackConvS8(cv, make([]int8, n), nil)
		x, y := make([]uint8, cv.C*cv.H*cv.W), make([]uint8, cv.M*oh*ow)
		scale := &ByteScale{By: 1, Scale: make([]float32, cv.M), Hi: 255}
		for _, p := range []*Pool{nil, NewPool(2)} {
			b.Run(fmt.Sprintf("%d×%d×%d→%d/%d×%d/%d/threads=%d", cv.C, cv.H, cv.W, cv.M, cv.KH, cv.KW, cv.StrideH, p.Threads()), func(b *testing.B) {
				for b.Loop() {
					ConvU8S8(p, cv, y, x, 0, 3, pw, scale)
				}
				b.ReportMetric(2*float64(n*oh*ow)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gop/s")
			})
		}
	}
}
