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
				m, inv := RowStatistics(x, 1e-2, false)
				NormalizeRow(layer, x, scale, bias, m, inv)
				zero, inv := RowStatistics(rms, 1e-2, true)
				NormalizeRow(rms, rms, scale, nil, zero, inv)
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

func TestNormGradients(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 15, 64, 5000} {
			dy, x, scale, dscale, dbias, dx := random[float32](n), random[float32](n), random[float32](n), random[float32](n), random[float32](n), make([]float32, n)
			ds, db := append([]float32(nil), dscale...), append([]float32(nil), dbias...)
			dot, sum := NormalizedSums(ds, db, dy, x, scale, 0.25, 3)
			ScaledDeviationGrad(dx, dy, x, scale, 0.25, 3, -2, 0.5)
			var wantDot, wantSum float64
			for i := range n {
				d, u := float64(dy[i]), (float64(x[i])-0.25)*3
				wantDot += d * float64(scale[i]) * u
				wantSum += d * float64(scale[i])
				if a, b := float64(dscale[i])+d*u, float64(dbias[i])+d; math.Abs(float64(ds[i])-a) > 1e-5 || math.Abs(float64(db[i])-b) > 1e-6 {
					t.Fatalf("n=%d: sums of %d are %v and %v, want %v and %v", n, i, ds[i], db[i], a, b)
				}
				if want := 3*d*float64(scale[i]) - 2*u/3 + 0.5; math.Abs(float64(dx[i])-want) > 1e-5 {
					t.Fatalf("n=%d: gradient %d is %v, want %v", n, i, dx[i], want)
				}
			}
			if math.Abs(float64(dot)-wantDot) > 1e-5*float64(n) || math.Abs(float64(sum)-wantSum) > 1e-5*float64(n) {
				t.Fatalf("n=%d: %v and %v, want %v and %v", n, dot, sum, wantDot, wantSum)
			}
		}
	})
}
