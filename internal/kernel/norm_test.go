package kernel

import (
	"math"
	"testing"
)

func TestNormRows(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 15, 64, 1000} {
			for variant := range 4 {
				x := random[float32](n)
				AddScalar(x, x, 100) // far from 0, where one pass would cancel
				var scale, bias []float32
				if variant&1 != 0 {
					scale = random[float32](n)
				}
				if variant&2 != 0 {
					bias = random[float32](n)
				}
				var mean, variance, square float64
				for _, v := range x {
					mean += float64(v) / float64(n)
				}
				for _, v := range x {
					variance += (float64(v) - mean) * (float64(v) - mean) / float64(n)
					square += float64(v) * float64(v) / float64(n)
				}
				layer, rms := make([]float32, n), append([]float32(nil), x...)
				LayerNormRow(layer, x, scale, bias, 1e-2)
				RMSNormRow(rms, rms, scale, 1e-2)
				for i, v := range x {
					a, b := 1., 0.
					if scale != nil {
						a = float64(scale[i])
					}
					if bias != nil {
						b = float64(bias[i])
					}
					wantLayer := (float64(v)-mean)/math.Sqrt(variance+1e-2)*a + b
					wantRMS := float64(v) / math.Sqrt(square+1e-2) * a
					if math.Abs(float64(layer[i])-wantLayer) > 2e-4 || math.Abs(float64(rms[i])-wantRMS) > 1e-5 {
						t.Fatalf("n=%d variant %d: [%d] = %v, %v; want %v, %v", n, variant, i, layer[i], rms[i], wantLayer, wantRMS)
					}
				}
			}
		}
	})
}
