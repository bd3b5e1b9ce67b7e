package kernel

import "math"

// AdamRates is the numbers of [Adam].
type AdamRates[T Float] struct {
	Beta1, Rest1 T // what stays of the first moment, and what comes
	Beta2, Rest2 T // of the second
	Keep         T // of the parameters
	Step         T
	Root, Eps    T
}

// Adam moves parameters w by gradients g and their moments m and s:
//
//	m[i] = Beta1·m[i] + Rest1·g[i]
//	s[i] = Beta2·s[i] + Rest2·g[i]²
//	w[i] = Keep·w[i] - Step·m[i] / (√s[i]/Root + Eps)
//
// Results are rounded once or twice where a product is added.
func Adam[T Float](w, g, m, s []T, r AdamRates[T]) {
	sameLen("Adam", len(w), len(g), len(m), len(s))
	if is32[T]() && vector.adam != nil {
		vector.adam(f32(w), f32(g), f32(m), f32(s), float32(r.Beta1), float32(r.Rest1), float32(r.Beta2), float32(r.Rest2),
			float32(r.Keep), float32(r.Step), float32(r.Root), float32(r.Eps))
		return
	}
	for i, d := range g {
		m[i] = r.Beta1*m[i] + r.Rest1*d
		s[i] = r.Beta2*s[i] + r.Rest2*d*d
		w[i] = r.Keep*w[i] - r.Step*m[i]/(T(math.Sqrt(float64(s[i])))/r.Root+r.Eps)
	}
}
