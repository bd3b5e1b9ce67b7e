package tensor

import (
	"fmt"
	"math"
	"slices"
)

// Compare holds got against want as numpy.testing.assert_allclose does: each |got−want| must be at
// most atol + rtol·|want|; NaNs equal each other, as do equal infinities; strings, integers
// and booleans with rtol = atol = 0 must be the same. It gives the greatest differences seen.
func Compare(got, want Value, rtol, atol float64) (maxAbs, maxRel float64, err error) {
	switch w := want.(type) {
	case *Tensor:
		g, ok := got.(*Tensor)
		if !ok || g == nil {
			return 0, 0, fmt.Errorf("want a tensor, got %s", kindOf(got))
		}
		return compareTensors(g, w, rtol, atol)
	case *Sequence:
		g, ok := got.(*Sequence)
		if !ok {
			return 0, 0, fmt.Errorf("want a sequence, got %s", kindOf(got))
		}
		if len(g.Values) != len(w.Values) {
			return 0, 0, fmt.Errorf("want %d values in the sequence, got %d", len(w.Values), len(g.Values))
		}
		for i := range w.Values {
			a, r, err := Compare(g.Values[i], w.Values[i], rtol, atol)
			maxAbs, maxRel = max(maxAbs, a), max(maxRel, r)
			if err != nil {
				return maxAbs, maxRel, fmt.Errorf("value %d: %w", i, err)
			}
		}
		return maxAbs, maxRel, nil
	case *Optional:
		g, ok := got.(*Optional)
		if !ok {
			g = &Optional{Value: got}
		}
		if (g.Value == nil) != (w.Value == nil) {
			return 0, 0, fmt.Errorf("one optional is empty, the other is not")
		}
		if w.Value == nil {
			return 0, 0, nil
		}
		return Compare(g.Value, w.Value, rtol, atol)
	case *Map:
		g, ok := got.(*Map)
		if !ok {
			return 0, 0, fmt.Errorf("want a map, got %s", kindOf(got))
		}
		if _, _, err := compareTensors(g.Keys, w.Keys, 0, 0); err != nil {
			return 0, 0, fmt.Errorf("keys: %w", err)
		}
		return Compare(g.Values, w.Values, rtol, atol)
	}
	return 0, 0, fmt.Errorf("nothing to compare with")
}

func kindOf(v Value) string {
	if v == nil {
		return "nothing"
	}
	return v.Kind()
}

func compareTensors(g, w *Tensor, rtol, atol float64) (maxAbs, maxRel float64, err error) {
	if g.dtype != w.dtype || !slices.Equal(g.shape, w.shape) {
		return 0, 0, fmt.Errorf("want %s, got %s", w, g)
	}
	if w.dtype == String {
		for i := range w.strs {
			if g.strs[i] != w.strs[i] {
				return 0, 0, fmt.Errorf("element %d: want %q, got %q", i, w.strs[i], g.strs[i])
			}
		}
		return 0, 0, nil
	}
	if classOf(w.dtype) == complexes {
		part := Float32
		if w.dtype == Complex128 {
			part = Float64
		}
		shape := append(slices.Clone(w.shape), 2)
		return compareTensors(&Tensor{dtype: part, shape: shape, buf: g.buf}, &Tensor{dtype: part, shape: shape, buf: w.buf}, rtol, atol)
	}
	bad := 0
	for i := range w.Len() {
		a, b := Float64At(g, i), Float64At(w, i)
		if a == b || a != a && b != b {
			continue
		}
		d := math.Abs(a - b)
		if d != d {
			d = math.Inf(1)
		}
		maxAbs = max(maxAbs, d)
		if b != 0 {
			maxRel = max(maxRel, d/math.Abs(b))
		}
		if !(d <= atol+rtol*math.Abs(b)) || math.IsInf(d, 1) {
			if bad++; bad == 1 {
				err = fmt.Errorf("element %d of %s: want %v, got %v", i, w, b, a)
			}
		}
	}
	if bad > 1 {
		err = fmt.Errorf("%w, and %d more of %d", err, bad-1, w.Len())
	}
	return maxAbs, maxRel, err
}
