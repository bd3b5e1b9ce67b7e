package kernel

import (
	"math"
	"testing"
)

func TestLSTMCell(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, h := range []int{1, 5, 16, 33} {
			for variant := range 4 {
				gates, c, hidden, tanhC := random[float32](4*h), random[float32](h), make([]float32, h), make([]float32, h)
				var peep []float32
				if variant&1 != 0 {
					peep = random[float32](3 * h)
				}
				next := c // in place
				if variant&2 != 0 {
					next = make([]float32, h)
				}
				in, prev := append([]float32(nil), gates...), append([]float32(nil), c...)
				LSTMCell(h, gates, peep, c, next, hidden, tanhC)
				for q := range h {
					gate := func(g int) float64 { return float64(in[g*h+q]) }
					look := func(p int, c float64) float64 {
						if peep == nil {
							return 0
						}
						return float64(peep[p*h+q]) * c
					}
					before := float64(prev[q])
					i, f, g := sigmoid(gate(0)+look(0, before)), sigmoid(gate(2)+look(2, before)), math.Tanh(gate(3))
					after := f*before + i*g
					o := sigmoid(gate(1) + look(1, after))
					for name, pair := range map[string][2]float64{
						"i": {float64(gates[q]), i}, "o": {float64(gates[h+q]), o}, "f": {float64(gates[2*h+q]), f}, "g": {float64(gates[3*h+q]), g},
						"c": {float64(next[q]), after}, "tanh c": {float64(tanhC[q]), math.Tanh(after)}, "hidden": {float64(hidden[q]), o * math.Tanh(after)},
					} {
						if math.Abs(pair[0]-pair[1]) > 1e-6 {
							t.Fatalf("h=%d variant %d: %s[%d] = %v, want %v", h, variant, name, q, pair[0], pair[1])
						}
					}
				}
			}
		}
	})
}

func TestGRUCell(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		testGRUCell[float32](t, 1e-6)
		testGRUCell[float64](t, 1e-12)
	})
}

func testGRUCell[T Float](t *testing.T, tolerance float64) {
	for _, h := range []int{1, 7, 40} {
		in, rec, prev := random[T](3*h), random[T](h), random[T](h)
		after, before := make([]T, h), make([]T, h)
		gates := append([]T(nil), in...)
		GRUCell(h, gates, rec, prev, after)

		gates = append([]T(nil), in...)
		reset := make([]T, h)
		Sigmoid(gates[:2*h], gates[:2*h])
		Mul(reset, gates[h:2*h], prev)
		for q := range h {
			gates[2*h+q] += 2 * reset[q] // a recurrent weight of 2 on the diagonal
		}
		Tanh(gates[2*h:], gates[2*h:])
		GRUBlend(gates[:h], gates[2*h:], prev, before)
		for q := range h {
			z, r, third, was := sigmoid(float64(in[q])), sigmoid(float64(in[h+q])), float64(in[2*h+q]), float64(prev[q])
			for name, pair := range map[string][2]float64{
				"linear before reset": {float64(after[q]), (1-z)*math.Tanh(third+r*float64(rec[q])) + z*was},
				"reset before linear": {float64(before[q]), (1-z)*math.Tanh(third+2*r*was) + z*was},
			} {
				if math.Abs(pair[0]-pair[1]) > tolerance {
					t.Fatalf("%s: h=%d: [%d] = %v, want %v", name, h, q, pair[0], pair[1])
				}
			}
		}
	}
}

// The gradients of cells are the Go twins' in float64, in memory of their own and in that of what they read; those are the derivatives.
func TestCellGradients(t *testing.T) {
	wide := func(x []float32) []float64 {
		y := make([]float64, len(x))
		for i, v := range x {
			y[i] = float64(v)
		}
		return y
	}
	near := func(t *testing.T, what string, got []float32, want []float64) {
		t.Helper()
		for i, v := range want {
			if math.Abs(float64(got[i])-v) > 1e-6*(1+math.Abs(v)) {
				t.Fatalf("%s[%d] = %v, want %v", what, i, got[i], v)
			}
		}
	}
	eachLevel(t, func(t *testing.T) {
		for _, h := range []int{1, 5, 8, 16, 33, 64} {
			gates, c, dh, dc := random[float32](4*h), random[float32](h), random[float32](h), random[float32](h)
			next, hidden := make([]float32, h), make([]float32, h)
			LSTMCell(h, gates, nil, c, next, hidden, nil)
			wantGates, wantC := make([]float64, 4*h), wide(dc)
			LSTMCellGrad(h, wide(gates), wide(c), wide(next), wide(dh), wantC, wantGates)
			for _, out := range [][]float32{make([]float32, 4*h), gates} {
				gotC := append([]float32(nil), dc...)
				LSTMCellGrad(h, gates, c, next, dh, gotC, out)
				near(t, "LSTM: dGates", out, wantGates)
				near(t, "LSTM: dc", gotC, wantC)
			}

			gates, rec, prev := random[float32](3*h), random[float32](h), random[float32](h)
			GRUCell(h, gates, rec, prev, hidden)
			wantGates, wantRec, wantPrev := make([]float64, 3*h), make([]float64, h), make([]float64, h)
			GRUCellGrad(h, wide(gates), wide(rec), wide(prev), wide(dh), wantGates, wantRec, wantPrev)
			for _, out := range [][2][]float32{{make([]float32, 3*h), make([]float32, h)}, {gates, rec}} {
				gotPrev := make([]float32, h)
				GRUCellGrad(h, gates, rec, prev, dh, out[0], out[1], gotPrev)
				near(t, "GRU: dGates", out[0], wantGates)
				near(t, "GRU: dRec", out[1], wantRec)
				near(t, "GRU: dPrev", gotPrev, wantPrev)
			}
		}
	})
	// Derivatives of Σ dh·hidden + dc·c' by differences.
	const h = 3
	in, c, dh, dc := random[float64](4*h), random[float64](h), random[float64](h), random[float64](h)
	lstm := func(x []float64) float64 {
		gates, next, hidden := append([]float64(nil), x[:4*h]...), make([]float64, h), make([]float64, h)
		LSTMCell(h, gates, nil, x[4*h:], next, hidden, nil)
		return Dot(dh, hidden) + Dot(dc, next)
	}
	gates, next, hidden := append([]float64(nil), in...), make([]float64, h), make([]float64, h)
	LSTMCell(h, gates, nil, c, next, hidden, nil)
	got := append(make([]float64, 4*h), dc...)
	LSTMCellGrad(h, gates, c, next, dh, got[4*h:], got[:4*h])
	differences(t, "LSTM", lstm, append(append([]float64(nil), in...), c...), got)

	in, rec, prev := random[float64](3*h), random[float64](h), random[float64](h)
	gru := func(x []float64) float64 {
		gates, hidden := append([]float64(nil), x[:3*h]...), make([]float64, h)
		GRUCell(h, gates, x[3*h:4*h], x[4*h:], hidden)
		return Dot(dh, hidden)
	}
	gates = append([]float64(nil), in...)
	GRUCell(h, gates, rec, prev, hidden)
	got = make([]float64, 5*h)
	GRUCellGrad(h, gates, rec, prev, dh, got[:3*h], got[3*h:4*h], got[4*h:])
	differences(t, "GRU", gru, append(append(append([]float64(nil), in...), rec...), prev...), got)
}

// differences holds a gradient of f at x against central differences.
func differences(t *testing.T, what string, f func(x []float64) float64, x, grad []float64) {
	t.Helper()
	const eps = 1e-5
	for i, v := range x {
		x[i] = v + eps
		up := f(x)
		x[i] = v - eps
		want := (up - f(x)) / (2 * eps)
		x[i] = v
		if math.Abs(grad[i]-want) > 1e-8 {
			t.Errorf("%s: derivative %d is %v, by differences %v", what, i, grad[i], want)
		}
	}
}

func BenchmarkLSTMCell(b *testing.B) {
	const h = 256
	gates, c, hidden := random[float32](4*h), random[float32](h), make([]float32, h)
	for b.Loop() {
		LSTMCell(h, gates, nil, c, c, hidden, nil)
	}
}
