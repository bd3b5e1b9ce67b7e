package kernel

import "math"

// What optimizers do to a parameter's elements. Results are rounded once or twice where a product is added.

// Blend sets x[i] = a·x[i] + b·y[i].
func Blend[T Float](x, y []T, a, b T) {
	sameLen("Blend", len(x), len(y))
	if is32[T]() && vector.blend != nil {
		vector.blend(f32(x), f32(y), float32(a), float32(b))
		return
	}
	for i, v := range y {
		x[i] = a*x[i] + b*v
	}
}

// BlendSquare sets x[i] = a·x[i] + b·y[i]².
func BlendSquare[T Float](x, y []T, a, b T) {
	sameLen("BlendSquare", len(x), len(y))
	if is32[T]() && vector.blendSquare != nil {
		vector.blendSquare(f32(x), f32(y), float32(a), float32(b))
		return
	}
	for i, v := range y {
		x[i] = a*x[i] + b*v*v
	}
}

// AdamStep sets w[i] = keep·w[i] - step·m[i] / (√s[i]/root + eps).
func AdamStep[T Float](w, m, s []T, keep, step, root, eps T) {
	sameLen("AdamStep", len(w), len(m), len(s))
	if is32[T]() && vector.adamStep != nil {
		vector.adamStep(f32(w), f32(m), f32(s), float32(keep), float32(step), float32(root), float32(eps))
		return
	}
	for i := range w {
		w[i] = keep*w[i] - step*m[i]/(T(math.Sqrt(float64(s[i])))/root+eps)
	}
}
