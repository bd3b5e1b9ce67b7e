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
		for _, h := range []int{1, 7, 40} {
			in, rec, prev := random[float64](3*h), random[float64](h), random[float64](h)
			after, before := make([]float64, h), make([]float64, h)
			gates := append([]float64(nil), in...)
			GRUCell(h, gates, rec, prev, after)

			gates = append([]float64(nil), in...)
			reset := make([]float64, h)
			GRUReset(h, gates, prev, reset)
			for q := range h {
				gates[2*h+q] += 2 * reset[q] // a recurrent weight of 2 on the diagonal
			}
			GRUOutput(h, gates, prev, before)
			for q := range h {
				z, r := sigmoid(in[q]), sigmoid(in[h+q])
				for name, pair := range map[string][2]float64{
					"linear before reset": {after[q], (1-z)*math.Tanh(in[2*h+q]+r*rec[q]) + z*prev[q]},
					"reset before linear": {before[q], (1-z)*math.Tanh(in[2*h+q]+2*r*prev[q]) + z*prev[q]},
				} {
					if math.Abs(pair[0]-pair[1]) > 1e-12 {
						t.Fatalf("%s: h=%d: [%d] = %v, want %v", name, h, q, pair[0], pair[1])
					}
				}
			}
		}
	})
}

func BenchmarkLSTMCell(b *testing.B) {
	const h = 256
	gates, c, hidden := random[float32](4*h), random[float32](h), make([]float32, h)
	for b.Loop() {
		LSTMCell(h, gates, nil, c, c, hidden, nil)
	}
}
