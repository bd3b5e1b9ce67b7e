package tensor

import (
	"math"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	f := func(v ...float32) *Tensor { return New(v) }
	n, in := float32(nan), float32(inf)
	for _, c := range []struct {
		name       string
		got, want  Value
		rtol, atol float64
		why        string // in the error; "" for none
	}{
		{"equal", f(1, 2), f(1, 2), 0, 0, ""},
		{"rtol is of want", f(110), f(100), 0.1, 0, ""},
		{"and not of got", f(100), f(110), 0.09, 0, "want 110, got 100"},
		{"atol", f(0.5), f(0), 0, 0.5, ""},
		{"both", f(1.75), f(1), 0.25, 0.5, ""},
		{"NaN", f(n), f(n), 0, 0, ""},
		{"infinity", f(in, -in), f(in, -in), 0, 0, ""},
		{"signs of infinity", f(in), f(-in), 1, 1, "want -INF, got INF"},
		{"NaN for a number", f(n), f(1), 1, 1, "want 1, got NaN"},
		{"number for infinity", f(1), f(in), 1, 1, "want INF, got 1"},
		{"signed zeros", f(float32(math.Copysign(0, -1))), f(0), 0, 0, ""},
		{"first of many", New([]float32{1, 2, 3, 4}, 2, 2), New([]float32{1, 0, 0, 0}, 2, 2), 0, 0, "element [0 1] of float[2,2]: want 0, got 2, and 2 more of 4 differ"},
		{"type", f(1), New([]float64{1}), 0, 0, "want type double[1], got float[1]"},
		{"shape", f(1, 2), New([]float32{1, 2}, 1, 2), 0, 0, "want shape [1 2], got [2]"},
		{"integers are exact", New([]int64{1000}), New([]int64{1001}), 0.5, 5, "want 1001, got 1000"},
		{"beyond 2^53", New([]int64{1<<53 + 1}), New([]int64{1 << 53}), 0, 0, "want 9007199254740992, got 9007199254740993"},
		{"bool", New([]bool{true}), New([]bool{false}), 1, 1, "want 0, got 1"},
		{"strings", New([]string{"a", "b"}), New([]string{"a", "c"}), 1, 1, `element [1] of string[2]: want "c", got "b"`},
		{"halves", New([]F16{F16From(1)}), New([]F16{F16From(1.001)}), 1e-2, 0, ""},
		{"complex", New([]complex64{3 + 4i}), New([]complex64{3 + 4.5i}), 0.1, 0, ""},
		{"complex NaN", New([]complex64{complex(n, 0)}), New([]complex64{complex(0, n)}), 0, 0, ""},
		{"complex apart", New([]complex64{1}), New([]complex64{1i}), 0.1, 0, "want (0+1i), got (1+0i)"},
		{"scalar", Scalar[float32](1), Scalar[float32](2), 0, 0, "element [] of float[]"},
		{"sequence", &Sequence{Values: []Value{f(1), f(2)}}, &Sequence{Values: []Value{f(1), f(3)}}, 0, 0, "value 1 of the sequence: element [0]"},
		{"length", &Sequence{}, &Sequence{Values: []Value{f(1)}}, 0, 0, "want 1 values in the sequence, got 0"},
		{"kind", f(1), &Sequence{}, 0, 0, "want a sequence, got float[1]"},
		{"nothing", nil, f(1), 0, 0, "want float[1], got nothing"},
		{"nil", (*Tensor)(nil), f(1), 0, 0, "got nothing"},
		{"no want", f(1), nil, 0, 0, "nothing to compare"},
		{"optional", &Optional{f(1)}, &Optional{f(1)}, 0, 0, ""},
		{"empty optional", &Optional{}, &Optional{}, 0, 0, ""},
		{"bare value", f(1), &Optional{f(1)}, 0, 0, ""},
		{"got empty", &Optional{}, &Optional{f(1)}, 0, 0, "got an empty optional"},
		{"want empty", &Optional{f(1)}, &Optional{}, 0, 0, "want an empty optional"},
		{"map", &Map{New([]int64{1}), f(1)}, &Map{New([]int64{1}), f(1)}, 0, 0, ""},
		{"keys", &Map{New([]int64{1}), f(1)}, &Map{New([]int64{2}), f(1)}, 0, 0, "keys of the map"},
		{"values", &Map{New([]int64{1}), f(1)}, &Map{New([]int64{1}), f(2)}, 0, 0, "values of the map"},
	} {
		_, _, err := Compare(c.got, c.want, c.rtol, c.atol)
		if (c.why == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: want %q, got %v", c.name, c.why, err)
		}
	}
	a, r, _ := Compare(f(1, 5, 3, n), f(1, 4, 0, 1), 0, 0)
	if a != 3 || r != 0.25 {
		t.Errorf("want the greatest differences 3 and 0.25, got %v and %v", a, r)
	}
}

func TestMapsHaveNoOrder(t *testing.T) {
	a := &Map{Keys: New([]string{"x", "y"}), Values: New([]float32{1, 2})}
	b := &Map{Keys: New([]string{"y", "x"}), Values: New([]float32{2, 1})}
	if _, _, err := Compare(a, b, 0, 0); err != nil {
		t.Error(err)
	}
	b.Values = New([]float32{1, 2})
	if _, _, err := Compare(a, b, 0, 0); err == nil {
		t.Error("maps of different values compare equal")
	}
	b.Keys = New([]string{"y", "z"})
	if _, _, err := Compare(a, b, 0, 0); err == nil {
		t.Error("maps of different keys compare equal")
	}
}
