package ops

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestDimStrings(t *testing.T) {
	b, s, p := Symbol("batch"), Symbol("seq"), Symbol("past")
	for want, d := range map[string]Dim{
		"2*batch":           b.Mul(D(2)),
		"past+seq":          s.Add(p),
		"(seq+1)/2":         s.Sub(D(1)).FloorDiv(D(2)).Add(D(1)), // as convolutions say it
		"(seq+3)/4":         s.Add(D(1)).FloorDiv(D(2)).Add(D(1)).FloorDiv(D(2)),
		"batch":             b.Mul(s).Mul(D(12)).FloorDiv(s.Mul(D(12))),
		"past":              p.Add(s).Mul(b).Sub(b.Mul(s)).FloorDiv(b),
		"batch*seq+2*batch": b.Mul(s.Add(D(2))),
		"seq":               s.Add(D(3)).Max(D(3)).Sub(D(3)),
		"0":                 s.Sub(s),
		"-seq+5":            D(5).Sub(s),
		"max(0,seq-2)":      s.Sub(D(1)).Max(D(0)).Sub(D(1)).Max(D(0)), // x[1:][1:]
		"seq/2":             s.Sub(s.FloorDiv(D(2))).Sub(s.Mod(D(2))),
		"2*(seq/2)":         s.Sub(s.Mod(D(2))),
		"min(seq,512)":      D(512).Min(s),
		"max(past,seq)+1":   s.Max(p).Add(D(1)),
		"12/batch":          D(12).FloorDiv(b),
		"(past+seq)/batch":  s.Add(p).FloorDiv(b),
		"?":                 Unknown.Add(D(1)),
		"1":                 s.Sub(s).Add(D(1)),
		"broadcast(a,b)":    broadcastOf(Symbol("b"), Symbol("a")),
		`2*"past + 1"`:      Symbol("past + 1").Mul(D(2)),
		"past + 1":          Symbol("past + 1"),
		"seq+1":             broadcastOf(s.Add(D(1)), s.Add(D(1))),
		"seq+2":             broadcastOf(s.Add(D(2)), b),
	} {
		if got := d.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if Symbol("a+b").Same(Symbol("a").Add(Symbol("b"))) {
		t.Error("a name is taken for a sum")
	}
	if Unknown.Same(Unknown) || !alike(Unknown, Unknown) || s.Same(D(1)) {
		t.Error("Same")
	}
	// Both ends of a split make the whole, and a pooling window's two roundings are told apart.
	if half := s.CeilDiv(D(2)); !half.Add(s.Sub(half)).Same(s) || half.Same(s.FloorDiv(D(2))) {
		t.Error("halves")
	}
	if l, ok := s.Sub(s.FloorDiv(D(2))).Least(); !ok || l != 0 {
		t.Errorf("the rest of a half is at least %d", l)
	}
	if l, ok := s.Min(D(512)).Least(); !ok || l != 0 {
		t.Errorf("the lesser of a size and 512 is at least %d", l)
	}
}

// expression is a random term beside what it should come to, if it has a value.
type expression struct {
	dim  Dim
	text string
	eval func(sizes map[string]int) (int64, bool)
}

func randomExpression(r *rand.Rand, depth int) expression {
	if depth == 0 || r.IntN(6) == 0 {
		if r.IntN(3) == 0 {
			n := int64(r.IntN(9) - 3)
			return expression{number(n), fmt.Sprint(n), func(map[string]int) (int64, bool) { return n, true }}
		}
		name := string(rune('a' + r.IntN(3)))
		return expression{Symbol(name), name, func(s map[string]int) (int64, bool) { return int64(s[name]), true }}
	}
	x, y := randomExpression(r, depth-1), randomExpression(r, depth-1)
	both := func(dim Dim, sign string, f func(a, b int64) (int64, bool)) expression {
		return expression{dim, "(" + x.text + sign + y.text + ")", func(s map[string]int) (int64, bool) {
			a, ok1 := x.eval(s)
			b, ok2 := y.eval(s)
			if !ok1 || !ok2 {
				return 0, false
			}
			return f(a, b)
		}}
	}
	floor := func(a, b int64) int64 {
		q := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return q
	}
	switch r.IntN(10) {
	case 0, 1:
		return both(x.dim.Add(y.dim), "+", func(a, b int64) (int64, bool) { return a + b, true })
	case 2:
		return both(x.dim.Sub(y.dim), "-", func(a, b int64) (int64, bool) { return a - b, true })
	case 3:
		return both(x.dim.Mul(y.dim), "*", func(a, b int64) (int64, bool) { return a * b, true })
	case 4:
		return both(x.dim.FloorDiv(y.dim), "//", func(a, b int64) (int64, bool) {
			if b == 0 {
				return 0, false
			}
			return floor(a, b), true
		})
	case 5:
		return both(x.dim.Div(y.dim), "/", func(a, b int64) (int64, bool) {
			if b == 0 {
				return 0, false
			}
			return a / b, true
		})
	case 6:
		return both(x.dim.Mod(y.dim), "%", func(a, b int64) (int64, bool) {
			if b == 0 {
				return 0, false
			}
			return a - b*floor(a, b), true
		})
	case 7:
		return both(x.dim.Max(y.dim), " max ", func(a, b int64) (int64, bool) { return max(a, b), true })
	case 8:
		return both(x.dim.Min(y.dim), " min ", func(a, b int64) (int64, bool) { return min(a, b), true })
	}
	k := int64(r.IntN(4) + 1)
	return expression{x.dim.CeilDiv(D(int(k))), fmt.Sprintf("ceil(%s/%d)", x.text, k), func(s map[string]int) (int64, bool) {
		a, ok := x.eval(s)
		return -floor(-a, k), ok
	}}
}

// Whatever is made of terms comes, for every choice of sizes, to what the numbers come to, is within its bounds, and equal terms are equal.
func TestDimTermsEvaluate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type seen struct {
		text   string
		values []int64
	}
	byTerm, checked, unknown := map[string]seen{}, 0, 0
	for range 20000 {
		e := randomExpression(r, 1+r.IntN(5))
		if alike(e.dim, Unknown) {
			unknown++
			continue
		}
		least, bounded := e.dim.Least()
		for range 6 {
			sizes := map[string]int{"a": r.IntN(12), "b": r.IntN(4), "c": 1 + r.IntN(900)}
			want, ok := e.eval(sizes)
			if !ok {
				continue
			}
			checked++
			got, ok := e.dim.Eval(func(name string) (int, bool) { n, ok := sizes[name]; return n, ok })
			if !ok || got != want {
				t.Fatalf("%s became %v, which for %v is %d (%t), not %d", e.text, e.dim, sizes, got, ok, want)
			}
			if bounded && got < least {
				t.Fatalf("%s, %v, is at least %d, but %d for %v", e.text, e.dim, least, got, sizes)
			}
		}
		// The text of a term says all of it.
		if e.dim.Known() || strings.Contains(e.dim.String(), "?") {
			continue
		}
		var values []int64
		for i := range 5 {
			v, ok := e.dim.Eval(func(name string) (int, bool) { return 7*i + 3*int(name[0]-'a') + 1, true })
			if !ok {
				v = -1 << 60
			}
			values = append(values, v)
		}
		if was, ok := byTerm[e.dim.term.key]; ok && fmt.Sprint(was.values) != fmt.Sprint(values) {
			t.Fatalf("%s and %s are both %v", was.text, e.text, e.dim)
		}
		byTerm[e.dim.term.key] = seen{e.text, values}
	}
	t.Logf("%d evaluations, %d of 20000 expressions were too large to follow or have no value", checked, unknown)
	if checked < 50000 || unknown > 8000 {
		t.Errorf("%d evaluations, %d unknown", checked, unknown)
	}
}

// Terms do not grow without end, and numbers do not wrap around.
func TestDimBounds(t *testing.T) {
	x := Symbol("x")
	for range 100 {
		x = x.Mul(x.Add(Symbol("y")))
	}
	if !alike(x, Unknown) {
		t.Errorf("x is still followed: %d atoms", x.term.size)
	}
	big := Symbol("x").Mul(D(1 << 40)).Mul(D(1 << 40))
	if !alike(big, Unknown) {
		t.Errorf("2⁸⁰·x is %v", big)
	}
	if d := D(1 << 62).Add(D(1 << 62)); !alike(d, Unknown) {
		t.Errorf("2⁶³ is %v", d)
	}
	if d := D(1 << 40).Mul(D(1 << 40)); !alike(d, Unknown) {
		t.Errorf("2⁸⁰ is %v", d)
	}
	long := Symbol(strings.Repeat("n", 1<<20))
	if !long.Same(Symbol(strings.Repeat("n", 1<<20))) || !alike(long.Add(D(1)), Unknown) {
		t.Error("a long name")
	}
	d := Symbol("x")
	for i := range 1000 {
		d = d.Sub(Symbol(fmt.Sprint("n", i%7))).Max(D(i % 3)).Add(d).FloorDiv(Symbol("q").Add(D(i)))
	}
	if !alike(d, Unknown) {
		t.Errorf("still followed: %d atoms", d.term.size)
	}
}
