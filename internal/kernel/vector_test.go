package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// ulps is the distance of got from want in units of want's last place at float32.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	switch {
	case math.IsNaN(want):
		if got != got {
			return 0
		}
		return math.Inf(1)
	case got == w:
		return 0
	case math.IsInf(float64(w), 0) || math.IsInf(float64(got), 0) || got != got:
		return math.Inf(1)
	}
	_, e := math.Frexp(want)
	return math.Abs(float64(got)-want) / math.Ldexp(1, max(e-24, -149))
}

// edges are arguments where functions turn.
func edges() []float32 {
	x := []float32{0, float32(math.Copysign(0, -1)), float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
		math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, 1, -1}
	for _, v := range []float32{0.25, 0.5, 0.75, 1.5, 2, 3, 4, 6, 9, 10, 17, 24, 88, 88.72284, 88.7, 89, 87.3, 103, 103.97, 104, 105, 1000} {
		for _, v := range []float32{v, math.Nextafter32(v, 0), math.Nextafter32(v, 1000000)} {
			x = append(x, v, -v)
		}
	}
	return x
}

// bounds of error in ulps, as documented.
var unaryBounds = [numUnary]float64{opExp: 2, opLog: 2, opTanh: 3, opSigmoid: 3, opErf: 3, opGeluErf: -1, opGeluTanh: -1, opSilu: 4,
	opSoftplus: 3, opRelu: 0, opHardSwish: -1, opSqrt: 0.5, opRsqrt: 1.5, opRecip: 0.5, opAbs: 0, opNeg: 0}

func TestUnary(t *testing.T) {
	const stride = 1009 // of bits, over all float32s
	eachLevel(t, func(t *testing.T) {
		x := edges()
		step := uint64(stride)
		if active == levelGo || testing.Short() {
			step *= 101
		}
		for b := uint64(0); b < 1<<32; b += step {
			x = append(x, math.Float32frombits(uint32(b)))
		}
		for range 200000 {
			x = append(x, float32(rand.NormFloat64()*5))
		}
		dst := make([]float32, len(x))
		for op, o := range unaryOps {
			unary(unaryOp(op), dst, x)
			worst, at := 0.0, float32(0)
			for i, v := range x {
				want := o.f(float64(v))
				e := ulps(dst[i], want)
				if unaryBounds[op] < 0 && !math.IsNaN(want) && !math.IsInf(want, 0) {
					// absolute, in units of 2^-22·|x|
					e = math.Abs(float64(dst[i])-want) / (0x1p-22 * max(math.Abs(float64(v)), 0x1p-126))
				}
				if unaryOp(op) == opSilu && math.Abs(float64(dst[i])-want) <= 0x1p-142 {
					e = 0
				}
				if e > worst || e != e {
					worst, at = e, v
				}
			}
			bound := unaryBounds[op]
			if bound < 0 {
				bound = 1
			}
			if worst > bound {
				i := 0
				for x[i] != at {
					i++
				}
				t.Errorf("%s(%v) = %v, want %v: error %.2f, bound %v", o.name, at, dst[i], o.f(float64(at)), worst, bound)
			} else {
				t.Logf("%-10s worst %.2f at %v", o.name, worst, at)
			}
		}
	})
}

func geluSlope(x float64) float64 {
	return 0.5*(1+math.Erf(x/math.Sqrt2)) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
}

func TestGeluGrad(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		x := edges()
		for range 100000 {
			x = append(x, float32(rand.NormFloat64()*3))
		}
		dy, dst := random[float32](len(x)), make([]float32, len(x))
		GeluGrad(dst, dy, x)
		worst, at := 0.0, float32(0)
		for i, v := range x {
			want := float64(dy[i]) * geluSlope(float64(v))
			if math.IsNaN(want) && dst[i] != dst[i] {
				continue
			}
			if e := math.Abs(float64(dst[i])-want) / (0x1p-21 * max(math.Abs(float64(dy[i])), 0x1p-126)); !(e <= worst) {
				worst, at = e, v
			}
		}
		if !(worst <= 1) {
			t.Errorf("the derivative at %v is off by %v·2^-21", at, worst)
		}
		t.Logf("worst %.2f at %v", worst, at)
	})
}

// Every length and alias gives what single elements give, and nothing beyond is written.
func TestVectorLengths(t *testing.T) {
	type call struct {
		name string
		f    func(dst, x, y []float32)
		want func(x, y float64) float64
	}
	var calls []call
	for op, o := range unaryOps {
		calls = append(calls, call{o.name, func(dst, x, _ []float32) { unary(unaryOp(op), dst, x) }, func(x, _ float64) float64 { return o.f(x) }})
	}
	calls = append(calls,
		call{"Add", Add[float32], func(x, y float64) float64 { return x + y }},
		call{"Sub", Sub[float32], func(x, y float64) float64 { return x - y }},
		call{"Mul", Mul[float32], func(x, y float64) float64 { return x * y }},
		call{"Div", Div[float32], func(x, y float64) float64 { return x / y }},
		call{"Max", Max[float32], func(x, y float64) float64 { return max(x, y) }},
		call{"Min", Min[float32], func(x, y float64) float64 { return min(x, y) }},
		call{"AddScalar", func(d, x, y []float32) { AddScalar(d, x, 3) }, func(x, y float64) float64 { return x + 3 }},
		call{"SubScalar", func(d, x, y []float32) { SubScalar(d, x, 3) }, func(x, y float64) float64 { return x - 3 }},
		call{"ScalarSub", func(d, x, y []float32) { ScalarSub(d, 3, x) }, func(x, y float64) float64 { return 3 - x }},
		call{"Scale", func(d, x, y []float32) { Scale(d, x, 3) }, func(x, y float64) float64 { return 3 * x }},
		call{"DivScalar", func(d, x, y []float32) { DivScalar(d, x, 3) }, func(x, y float64) float64 { return x / 3 }},
		call{"ScalarDiv", func(d, x, y []float32) { ScalarDiv(d, 3, x) }, func(x, y float64) float64 { return 3 / x }},
		call{"MaxScalar", func(d, x, y []float32) { MaxScalar(d, x, 0.5) }, func(x, y float64) float64 { return max(x, 0.5) }},
		call{"MinScalar", func(d, x, y []float32) { MinScalar(d, x, 0.5) }, func(x, y float64) float64 { return min(x, 0.5) }},
		call{"LeakyRelu", func(d, x, y []float32) { LeakyRelu(d, x, 0.25) }, func(x, y float64) float64 {
			if x < 0 {
				return x / 4
			}
			return x
		}},
		call{"ReluGrad", ReluGrad[float32], func(x, y float64) float64 {
			if y <= 0 {
				return 0
			}
			return x
		}},
		call{"GeluGrad", GeluGrad[float32], func(x, y float64) float64 { return x * geluSlope(y) }},
		call{"DeviationGrad", func(d, x, y []float32) { DeviationGrad(d, x, y, 0.5, 2, 3, -4) }, func(x, y float64) float64 { return 2*x + 3*(y-0.5) - 4 }},
		call{"Clip", func(d, x, y []float32) { Clip(d, x, -0.5, 0.25) }, func(x, y float64) float64 { return clip(x, -0.5, 0.25) }},
		call{"HardSigmoid", func(d, x, y []float32) { HardSigmoid(d, x, 0.25, 0.5) }, func(x, y float64) float64 { return clip(0.25*x+0.5, 0, 1) }},
		call{"Affine", func(d, x, y []float32) { Affine(d, x, 3, -2) }, func(x, y float64) float64 { return 3*x - 2 }},
		call{"MulAdd", func(d, x, y []float32) { MulAdd(d, x, y, x) }, func(x, y float64) float64 { return x*y + x }},
		call{"Axpy", func(d, x, y []float32) { copy(d, x); Axpy(d, 2, y) }, func(x, y float64) float64 { return x + 2*y }},
	)
	close32 := func(got float32, want float64) bool {
		return ulps(got, want) <= 8 || math.Abs(float64(got)-want) < 1e-6
	}
	eachLevel(t, func(t *testing.T) {
		for _, c := range calls {
			for n := range 70 {
				buf := random[float32](n + 40)
				orig := append([]float32(nil), buf...)
				x, y := random[float32](n), random[float32](n)
				if n > 3 {
					x[n-1], y[n/2] = float32(math.NaN()), float32(math.NaN())
					x[0], y[1] = float32(math.Inf(1)), float32(math.Inf(-1))
				}
				for _, alias := range []bool{false, true} {
					dst := buf[20 : 20+n]
					x := x
					in := append([]float32(nil), x...)
					if alias && c.name != "Axpy" {
						x = dst
						copy(x, in)
					}
					c.f(dst, x, y)
					for i := range dst {
						if want := c.want(float64(in[i]), float64(y[i])); !close32(dst[i], want) {
							t.Fatalf("%s n=%d alias=%v: [%d] f(%v,%v) = %v, want %v", c.name, n, alias, i, in[i], y[i], dst[i], want)
						}
					}
				}
				for i := range buf {
					if (i < 20 || i >= 20+n) && buf[i] != orig[i] {
						t.Fatalf("%s n=%d wrote at %d", c.name, n, i-20)
					}
				}
			}
		}
	})
}

func TestReductions(t *testing.T) {
	near := func(got float32, want, scale float64) bool {
		return math.IsNaN(want) && got != got || float64(got) == want || math.Abs(float64(got)-want) <= 0x1p-18*scale
	}
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 4095, 4097, 10000} {
			for variant := range 3 {
				x, y := random[float32](n), random[float32](n)
				if variant == 1 && n > 0 {
					x[rand.IntN(n)] = float32(math.NaN())
				}
				if variant == 2 && n > 0 {
					x[rand.IntN(n)] = float32(math.Inf(1))
				}
				var sum, dot, sq, mag, squares, dotDev, magDev float64
				top, low := math.Inf(-1), math.Inf(1)
				for i, v := range x {
					v := float64(v)
					sum += v
					dot += v * float64(y[i])
					sq += v * v
					mag += math.Abs(v)
					squares += (v - 3) * (v - 3)
					dotDev += v * (float64(y[i]) - 3)
					magDev += math.Abs(v * (float64(y[i]) - 3))
					top, low = max(top, v), min(low, v)
				}
				for _, c := range []struct {
					name      string
					got       float32
					want, mag float64
				}{{"Sum", Sum(x), sum, mag}, {"Dot", Dot(x, y), dot, mag}, {"SumSquares", SumSquares(x), sq, sq},
					{"SquaredDeviations", SquaredDeviations(x, 3), squares, squares}, {"DotDeviations", DotDeviations(x, y, 3), dotDev, magDev}, {"MaxReduce", MaxReduce(x), top, 0}, {"MinReduce", MinReduce(x), low, 0}} {
					if !near(c.got, c.want, c.mag) {
						t.Errorf("%s of %d variant %d = %v, want %v", c.name, n, variant, c.got, c.want)
					}
				}
				if n == 0 {
					continue
				}
				soft, logs := make([]float32, n), append([]float32(nil), x...)
				SoftmaxRow(soft, x)
				LogSoftmaxRow(logs, logs)
				var denom float64
				for _, v := range x {
					denom += math.Exp(float64(v) - top)
				}
				for i, v := range x {
					want := math.Exp(float64(v)-top) / denom
					if !near(soft[i], want, 1e-6+want) || !near(logs[i], float64(v)-top-math.Log(denom), 1+math.Log(denom)) {
						t.Fatalf("softmax of %d variant %d: [%d] = %v, %v; want %v", n, variant, i, soft[i], logs[i], want)
					}
				}
			}
		}
	})
}

func TestLengthsMustAgree(t *testing.T) {
	for i, f := range []func(){
		func() { Exp(make([]float32, 2), make([]float32, 3)) },
		func() { Add(make([]float64, 2), make([]float64, 2), make([]float64, 1)) },
		func() { Dot(make([]float32, 2), make([]float32, 1)) },
		func() {
			Sgemm(nil, false, false, 2, 2, 2, 1, make([]float32, 3), 2, make([]float32, 4), 2, 0, make([]float32, 4), 2, nil)
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("call %d did not panic", i)
				}
			}()
			f()
		}()
	}
}

func BenchmarkUnary(b *testing.B) {
	x, dst := make([]float32, 4096), make([]float32, 4096)
	for i := range x {
		x[i] = float32(rand.NormFloat64()*3) + 0.1
	}
	for op, o := range unaryOps {
		b.Run(o.name, func(b *testing.B) {
			for b.Loop() {
				unary(unaryOp(op), dst, x)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(len(x)), "ns/elem")
		})
	}
	for _, c := range []struct {
		name string
		f    func()
	}{{"Add", func() { Add(dst, x, x) }}, {"Sum", func() { Sum(x) }}, {"Dot", func() { Dot(x, x) }}, {"MaxReduce", func() { MaxReduce(x) }}, {"SoftmaxRow", func() { SoftmaxRow(dst, x) }}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.f()
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(len(x)), "ns/elem")
		})
	}
}

func ExampleSoftmaxRow() {
	x := []float32{0, 0, float32(math.Log(2))}
	SoftmaxRow(x, x)
	fmt.Printf("%.2f\n", x)
	// Output: [0.25 0.25 0.50]
}
