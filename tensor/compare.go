package tensor

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Compare holds got against want as numpy.testing.assert_allclose does: each element of a floating-point or
// complex tensor must have |got−want| ≤ atol + rtol·|want|; NaNs equal each other, as do
// infinities of one sign. Integers, booleans and strings must be the same. Sequences, optionals and maps are
// compared value by value; a value that is no optional compares as one that holds it.
//
// It gives the greatest absolute and relative differences of all finite elements seen (the relative one
// where want is not 0), and an error that names the first element out of tolerance, both values, and how many
// more there are, or says which type, shape or length differs.
func Compare(got, want Value, rtol, atol float64) (maxAbs, maxRel float64, err error) {
	c := comparison{rtol: rtol, atol: atol}
	err = c.values(got, want)
	return c.maxAbs, c.maxRel, err
}

type comparison struct {
	rtol, atol     float64
	maxAbs, maxRel float64
}

func (c *comparison) values(got, want Value) error {
	switch w := want.(type) {
	case *Tensor:
		g, ok := got.(*Tensor)
		if !ok || g == nil {
			return fmt.Errorf("want %s, got %s", w, kindOf(got))
		}
		return c.tensors(g, w)
	case *Sequence:
		g, ok := got.(*Sequence)
		if !ok || g == nil {
			return fmt.Errorf("want a sequence, got %s", kindOf(got))
		}
		if len(g.Values) != len(w.Values) {
			return fmt.Errorf("want %d values in the sequence, got %d", len(w.Values), len(g.Values))
		}
		for i := range w.Values {
			if err := c.values(g.Values[i], w.Values[i]); err != nil {
				return fmt.Errorf("value %d of the sequence: %w", i, err)
			}
		}
		return nil
	case *Optional:
		var g Value = got
		if o, ok := got.(*Optional); ok && o != nil {
			g = o.Value
		}
		switch {
		case w.Value == nil && g == nil:
			return nil
		case w.Value == nil:
			return fmt.Errorf("want an empty optional, got %s", kindOf(g))
		case g == nil:
			return fmt.Errorf("want %s, got an empty optional", kindOf(w.Value))
		}
		return c.values(g, w.Value)
	case *Map:
		g, ok := got.(*Map)
		if !ok || g == nil {
			return fmt.Errorf("want a map, got %s", kindOf(got))
		}
		if g.Keys == nil || w.Keys == nil {
			return errors.New("a map has no keys")
		}
		order, err := sameKeys(g.Keys, w.Keys)
		if err != nil {
			return fmt.Errorf("keys of the map: %w", err)
		}
		values := g.Values
		if t, ok := values.(*Tensor); ok && t != nil && t.Len() == len(order) {
			values = t.pick(order)
		}
		if err := c.values(values, w.Values); err != nil {
			return fmt.Errorf("values of the map: %w", err)
		}
		return nil
	}
	return errors.New("there is nothing to compare with")
}

// sameKeys is where each key of want stands in got: a map has no order.
func sameKeys(got, want *Tensor) ([]int, error) {
	if got.dtype != want.dtype || got.Len() != want.Len() {
		return nil, fmt.Errorf("want %s, got %s", want, got)
	}
	at := make(map[string]int, got.Len())
	for i := range got.Len() {
		at[text(got, i)] = i
	}
	order := make([]int, want.Len())
	for i := range order {
		j, ok := at[text(want, i)]
		if !ok {
			return nil, fmt.Errorf("%s is missing", quoted(want, i))
		}
		order[i] = j
	}
	return order, nil
}

// pick is the elements of t, which is 1-D, in another order.
func (t *Tensor) pick(order []int) *Tensor {
	out := t.Clone()
	size := t.dtype.Size()
	for i, j := range order {
		if t.dtype == String {
			out.strs[i] = t.strs[j]
		} else {
			copy(out.buf[i*size:(i+1)*size], t.buf[j*size:(j+1)*size])
		}
	}
	return out
}

func kindOf(v Value) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case *Tensor:
		if v == nil {
			return "nothing"
		}
		return v.String()
	}
	return "a value of kind " + v.Kind()
}

func (c *comparison) tensors(g, w *Tensor) error {
	switch {
	case g.dtype != w.dtype:
		return fmt.Errorf("want type %s, got %s", w, g)
	case !slices.Equal(g.shape, w.shape):
		return fmt.Errorf("want shape %v, got %v (of %s)", w.shape, g.shape, w.dtype)
	}
	first, bad := -1, 0
	miss := func(i int) {
		if bad++; bad == 1 {
			first = i
		}
	}
	switch classOf(w.dtype) {
	case texts:
		for i := range w.strs {
			if g.strs[i] != w.strs[i] {
				miss(i)
			}
		}
	case complexes:
		for i := range w.Len() {
			a, b := complexAt(g, i), complexAt(w, i)
			// NumPy has a number with a NaN in either part equal another such.
			if a == b || isNaN(a) && isNaN(b) {
				continue
			}
			if d := a - b; !c.within(math.Hypot(real(d), imag(d)), math.Hypot(real(b), imag(b))) {
				miss(i)
			}
		}
	case floats:
		for i := range w.Len() {
			a, b := Float64At(g, i), Float64At(w, i)
			if a == b || a != a && b != b {
				continue
			}
			if !c.within(math.Abs(a-b), math.Abs(b)) {
				miss(i)
			}
		}
	default:
		for i := range w.Len() {
			a, b := g.intAt(i), w.intAt(i)
			if a == b {
				continue
			}
			miss(i)
			x, y := Float64At(g, i), Float64At(w, i)
			c.within(math.Abs(x-y), math.Abs(y))
		}
	}
	if bad == 0 {
		return nil
	}
	err := fmt.Errorf("element %v of %s: want %s, got %s", place(first, w.shape), w, quoted(w, first), quoted(g, first))
	if bad > 1 {
		err = fmt.Errorf("%w, and %d more of %d differ", err, bad-1, w.Len())
	}
	return err
}

func isNaN(v complex128) bool { return real(v) != real(v) || imag(v) != imag(v) }

func complexAt(t *Tensor, i int) complex128 {
	if t.dtype == Complex64 {
		return complex128(View[complex64](t)[i])
	}
	return View[complex128](t)[i]
}

// within notes a difference and reports whether the tolerance allows it.
func (c *comparison) within(diff, want float64) bool {
	if !(diff <= math.MaxFloat64) { // a NaN or infinity on one side alone
		return false
	}
	c.maxAbs = max(c.maxAbs, diff)
	if want != 0 {
		c.maxRel = max(c.maxRel, diff/want)
	}
	return diff <= c.atol+c.rtol*want
}

// place is the index of the i-th element by dimension.
func place(i int, shape []int) []int {
	at := make([]int, len(shape))
	for k := len(shape) - 1; k >= 0; k-- {
		at[k] = i % shape[k]
		i /= shape[k]
	}
	return at
}

func quoted(t *Tensor, i int) string {
	if t.dtype == String {
		return fmt.Sprintf("%q", t.strs[i])
	}
	return text(t, i)
}
