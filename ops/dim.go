package ops

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// Dim is one dimension as far as it is known: a number, a term over named sizes ("2*batch", "past+seq"), or nothing. An element of
// a tensor of integers whose value is known before a run ([Info.Values]) is one too, and may be less than zero.
type Dim struct {
	N    int   // the number, if it is not negative
	term *poly // else what is known instead, nil: nothing
}

// D is a known dimension.
func D(n int) Dim { return Dim{N: n} }

// Unknown is a dimension of which nothing is known.
var Unknown = Dim{N: -1}

// Symbol is the dimension of that name, equal to every other of its name.
func Symbol(name string) Dim { return symbol(name, strconv.Quote(name)) }

// Fresh is the size of an axis of the value of that name. Two are equal if their paths are: where in a model the value is.
func Fresh(value string, axis int, path string) Dim {
	return symbol(value+"["+strconv.Itoa(axis)+"]", "#"+path+"["+strconv.Itoa(axis)+"]")
}

// without is d, unknown if it hangs on sizes that are [Fresh] under the path.
func (d Dim) without(path string) Dim {
	if d.N < 0 && d.term != nil && d.term.hangsOn("#"+path) {
		return Unknown
	}
	return d
}

func (t *poly) hangsOn(prefix string) bool {
	for _, p := range t.sum {
		for _, a := range p.of {
			if strings.HasPrefix(a.key, prefix) || slices.ContainsFunc(a.args, func(t *poly) bool { return t.hangsOn(prefix) }) {
				return true
			}
		}
	}
	return false
}

// symbol is a named size; those of one key are equal.
func symbol(name, key string) Dim {
	a := &atom{key: key, name: name, size: 1 + len(name)/64}
	a.lo, a.hi = a.bounds()
	return Dim{N: -1, term: &poly{sum: []monomial{{1, []*atom{a}}}, key: key, size: a.size}}
}

// number is an integer of either sign.
func number(n int64) Dim {
	if n >= 0 && n <= math.MaxInt {
		return D(int(n))
	}
	return Dim{N: -1, term: constant(n)}
}

// Known reports whether the dimension is a number.
func (d Dim) Known() bool { return d.N >= 0 }

// Int is the number that d is, of either sign.
func (d Dim) Int() (n int64, ok bool) {
	if d.N >= 0 {
		return int64(d.N), true
	}
	if d.term == nil {
		return 0, false
	}
	return d.term.number()
}

// Same reports whether two dimensions are sure to be equal.
func (d Dim) Same(e Dim) bool {
	if d.N >= 0 || e.N >= 0 {
		return d.N == e.N
	}
	return d.term != nil && e.term != nil && (d.term == e.term || d.term.key == e.term.key)
}

// alike reports whether the same is known of two dimensions.
func alike(d, e Dim) bool { return d == e || d.Same(e) }

func (d Dim) String() string {
	switch {
	case d.N >= 0:
		return strconv.Itoa(d.N)
	case d.term == nil:
		return "?"
	}
	if name, ok := d.Name(); ok {
		return name
	}
	return d.term.String()
}

// Name is the name that the model gives d, ok false if it is anything but a name.
func (d Dim) Name() (name string, ok bool) {
	if d.N < 0 && d.term != nil && len(d.term.sum) == 1 {
		if p := d.term.sum[0]; p.c == 1 && len(p.of) == 1 && p.of[0].op == named {
			return p.of[0].name, true
		}
	}
	return "", false
}

// Eval is d for given sizes of its names; ok is false if it is unknown, a name has no size, or it has no value, as a quotient by
// zero or a number past int64.
func (d Dim) Eval(size func(name string) (int, bool)) (n int64, ok bool) {
	if d.N >= 0 {
		return int64(d.N), true
	}
	if d.term == nil {
		return 0, false
	}
	return d.term.eval(size)
}

// Add is d + e.
func (d Dim) Add(e Dim) Dim {
	if d.N >= 0 && e.N >= 0 {
		if s := d.N + e.N; s >= 0 {
			return D(s)
		}
		return Unknown
	}
	return dimOf(add(d.terms(), e.terms(), 1))
}

// Sub is d - e.
func (d Dim) Sub(e Dim) Dim {
	if d.N >= 0 && e.N >= 0 {
		return number(int64(d.N) - int64(e.N))
	}
	return dimOf(add(d.terms(), e.terms(), -1))
}

// Mul is d·e: 0 if either is, whatever the other may be.
func (d Dim) Mul(e Dim) Dim {
	switch {
	case d.N == 0 || e.N == 0:
		return D(0)
	case d.N > 0 && e.N > 0:
		if hi, lo := bits.Mul64(uint64(d.N), uint64(e.N)); hi == 0 && lo <= math.MaxInt {
			return D(int(lo))
		}
		return Unknown
	case d.N == 1:
		return e
	case e.N == 1:
		return d
	}
	return dimOf(mul(d.terms(), e.terms()))
}

// FloorDiv is d / e rounded down. A quotient by zero has no value, so that b·n / b is n.
func (d Dim) FloorDiv(e Dim) Dim {
	switch {
	case e.N == 0:
		return Unknown
	case e.N == 1:
		return d
	case d.N >= 0 && e.N > 0:
		return D(d.N / e.N)
	}
	return dimOf(floorDiv(d.terms(), e.terms()))
}

// CeilDiv is d / e rounded up.
func (d Dim) CeilDiv(e Dim) Dim {
	if d.N >= 0 && e.N > 0 {
		return D(d.N/e.N + min(1, d.N%e.N))
	}
	return d.Add(e).Sub(D(1)).FloorDiv(e)
}

// Div is d / e rounded towards zero, as the quotients of integers are.
func (d Dim) Div(e Dim) Dim {
	if d.N >= 0 && e.N > 0 {
		return D(d.N / e.N)
	}
	a, b := d.terms(), e.terms()
	switch {
	case a == nil || b == nil:
		return Unknown
	case a.lo() >= 0 && b.lo() >= 0:
		return d.FloorDiv(e)
	case b.lo() >= 0: // one of the two is zero
		return d.Max(D(0)).FloorDiv(e).Sub(D(0).Sub(d).Max(D(0)).FloorDiv(e))
	}
	if n, ok := e.Int(); ok && n < 0 {
		return D(0).Sub(d).Div(D(0).Sub(e))
	}
	return dimOf(exact(a, b))
}

// Mod is the remainder of [Dim.FloorDiv], which has the sign of e.
func (d Dim) Mod(e Dim) Dim { return d.Sub(d.FloorDiv(e).Mul(e)) }

// Max is the greater of d and e.
func (d Dim) Max(e Dim) Dim {
	if d.N >= 0 && e.N >= 0 {
		return D(max(d.N, e.N))
	}
	return dimOf(add(e.terms(), ramp(add(d.terms(), e.terms(), -1)), 1))
}

// Min is the lesser of d and e.
func (d Dim) Min(e Dim) Dim {
	if d.N >= 0 && e.N >= 0 {
		return D(min(d.N, e.N))
	}
	return dimOf(add(d.terms(), ramp(add(d.terms(), e.terms(), -1)), -1))
}

// Least is a number that d is sure not to be less than; ok is false if none is known.
func (d Dim) Least() (n int64, ok bool) {
	if d.N >= 0 {
		return int64(d.N), true
	}
	if d.term == nil {
		return 0, false
	}
	n = d.term.lo()
	return n, n != math.MinInt64
}

// terms is d as a term, nil if it is unknown.
func (d Dim) terms() *poly {
	if d.N >= 0 {
		return constant(int64(d.N))
	}
	return d.term
}

func dimOf(t *poly) Dim {
	if t == nil {
		return Unknown
	}
	if n, ok := t.number(); ok && n >= 0 && n <= math.MaxInt {
		return D(int(n))
	}
	return Dim{N: -1, term: t}
}

// poly is a term: a polynomial with integer coefficients over atoms in its one canonical form: terms of one key are equal whatever the names
// stand for. Names stand for sizes from 0 to 2³¹-1, and numbers are taken not to wrap around. Where a size is divided by, or is an
// element of the shape that Reshape is given, it is taken not to be 0, which has another meaning there, or none. A
// run infers its shapes again, from its own sizes. A nil term is one that is not known, or too large to follow.
type poly struct {
	sum  []monomial // by falling degree, then by atoms; 0 is the empty sum
	key  string
	size int // atoms, with those within atoms
}

// monomial is c times atoms, which are in order.
type monomial struct {
	c  int64
	of []*atom
}

// atom is a name, or what polynomials cannot say of terms.
type atom struct {
	op   atomOp
	name string
	args []*poly
	key  string
	size int

	lo, hi int64 // by bounds
}

type atomOp int

const (
	named     atomOp = iota
	quotient         // args[0] / args[1], rounded down
	above            // args[0] where it is greater than zero, else zero
	broadcast        // what args broadcast to, if they do
)

// Bounds of the terms that are followed, so that no model can make them grow without end.
const (
	maxSum    = 16 // products of a term
	maxDegree = 8  // atoms of a product
	maxSize   = 48 // atoms of a term
)

func constant(n int64) *poly {
	if n == 0 {
		return &poly{key: "0"}
	}
	return &poly{sum: []monomial{{c: n}}, key: strconv.FormatInt(n, 10)}
}

func (t *poly) number() (int64, bool) {
	switch {
	case len(t.sum) == 0:
		return 0, true
	case len(t.sum) == 1 && len(t.sum[0].of) == 0:
		return t.sum[0].c, true
	}
	return 0, false
}

// compare orders products without their coefficients, higher degrees first.
func (p monomial) compare(q monomial) int {
	if c := len(q.of) - len(p.of); c != 0 {
		return c
	}
	for i, a := range p.of {
		if c := strings.Compare(a.key, q.of[i].key); c != 0 {
			return c
		}
	}
	return 0
}

// polyOf is the sum of products, which may be in any order and have like ones among them.
func polyOf(sum []monomial) *poly {
	slices.SortFunc(sum, monomial.compare)
	out := sum[:0]
	for _, p := range sum {
		if n := len(out); n > 0 && out[n-1].compare(p) == 0 {
			c, ok := addInt(out[n-1].c, p.c)
			if !ok {
				return nil
			}
			if out[n-1].c = c; c == 0 {
				out = out[:n-1]
			}
			continue
		}
		if p.c != 0 {
			out = append(out, p)
		}
	}
	if len(out) > maxSum {
		return nil
	}
	t := &poly{sum: out}
	for _, p := range out {
		if len(p.of) > maxDegree {
			return nil
		}
		for _, a := range p.of {
			t.size += a.size
		}
	}
	if t.size > maxSize && (len(out) != 1 || len(out[0].of) != 1) { // a long name alone is still one
		return nil
	}
	if len(out) == 1 && out[0].c == 1 && len(out[0].of) == 1 {
		t.key = out[0].of[0].key
		return t
	}
	var b strings.Builder
	for _, p := range out {
		if b.Len() > 0 {
			b.WriteByte('+')
		}
		b.WriteString(strconv.FormatInt(p.c, 10))
		for _, a := range p.of {
			b.WriteByte('*')
			b.WriteString(a.key)
		}
	}
	if t.key = b.String(); t.key == "" {
		t.key = "0"
	}
	return t
}

// single is the term of one atom.
func single(op atomOp, args ...*poly) *poly {
	marks := []string{quotient: "/", above: "^", broadcast: "&"}
	a := &atom{op: op, args: args, size: 1}
	keys := make([]string, len(args))
	for i, t := range args {
		keys[i] = t.key
		a.size += t.size
	}
	a.key = "(" + strings.Join(keys, ")"+marks[op]+"(") + ")" + marks[op]
	if a.size > maxSize {
		return nil
	}
	a.lo, a.hi = a.bounds()
	return polyOf([]monomial{{1, []*atom{a}}})
}

func addInt(a, b int64) (int64, bool) {
	s := a + b
	return s, (a^s)&(b^s) >= 0
}

func mulInt(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	p := a * b
	return p, p/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64)
}

// floorInt is a / b rounded down, for b > 0.
func floorInt(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// add is a + c·b.
func add(a, b *poly, c int64) *poly {
	if a == nil || b == nil {
		return nil
	}
	sum := make([]monomial, len(a.sum), len(a.sum)+len(b.sum))
	copy(sum, a.sum)
	for _, p := range b.sum {
		v, ok := mulInt(p.c, c)
		if !ok {
			return nil
		}
		sum = append(sum, monomial{v, p.of})
	}
	return polyOf(sum)
}

func mul(a, b *poly) *poly {
	if a == nil || b == nil {
		return nil
	}
	sum := make([]monomial, 0, len(a.sum)*len(b.sum))
	for _, p := range a.sum {
		for _, q := range b.sum {
			c, ok := mulInt(p.c, q.c)
			if !ok {
				return nil
			}
			of := append(slices.Clone(p.of), q.of...)
			slices.SortFunc(of, func(a, b *atom) int { return strings.Compare(a.key, b.key) })
			sum = append(sum, monomial{c, of})
		}
	}
	return polyOf(sum)
}

// without is the atoms of one product without those of another, ok false if it has not all of them.
func without(of, less []*atom) (rest []*atom, ok bool) {
	for _, a := range of {
		if len(less) > 0 && less[0].key == a.key {
			less = less[1:]
			continue
		}
		rest = append(rest, a)
	}
	return rest, len(less) == 0
}

// exact is a / b if b divides a, else nil.
func exact(a, b *poly) *poly {
	if a == nil || b == nil || len(b.sum) == 0 {
		return nil
	}
	q, lead := constant(0), b.sum[0]
	for range 2 * maxSum {
		if len(a.sum) == 0 {
			return q
		}
		p := a.sum[0]
		of, ok := without(p.of, lead.of)
		if !ok || p.c%lead.c != 0 || lead.c == -1 && p.c == math.MinInt64 {
			return nil
		}
		part := polyOf([]monomial{{p.c / lead.c, of}})
		if q, a = add(q, part, 1), add(a, mul(part, b), -1); q == nil || a == nil {
			return nil
		}
	}
	return nil
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	if a < 0 {
		return -a
	}
	return a
}

// floorDiv is a / b rounded down.
func floorDiv(a, b *poly) *poly {
	if a == nil || b == nil {
		return nil
	}
	if d, ok := b.number(); ok {
		switch {
		case d == 0 || d == math.MinInt64:
			return nil
		case d < 0:
			return floorDiv(add(constant(0), a, -1), constant(-d))
		}
		return floorDivBy(a, d)
	}
	if q := exact(a, b); q != nil {
		return q
	}
	a, b = cancel(a, b)
	if a == nil || b == nil {
		return nil
	}
	if d, ok := b.number(); ok && d != math.MinInt64 {
		return floorDiv(a, b)
	}
	return single(quotient, a, b)
}

// cancel takes what all products of two terms have in common out of them.
func cancel(a, b *poly) (*poly, *poly) {
	all := append(slices.Clone(a.sum), b.sum...)
	if len(a.sum) == 0 {
		return a, b
	}
	common, c := monomial{of: all[0].of}, int64(0)
	for _, p := range all {
		c = gcd(c, p.c)
		rest, _ := without(common.of, nil)
		var kept []*atom
		have := p.of
		for _, x := range rest {
			for len(have) > 0 && have[0].key < x.key {
				have = have[1:]
			}
			if len(have) > 0 && have[0].key == x.key {
				kept, have = append(kept, x), have[1:]
			}
		}
		common.of = kept
	}
	if common.c = c; c <= 0 { // the greatest of all negative numbers has no opposite
		return a, b
	}
	by := polyOf([]monomial{common})
	return exact(a, by), exact(b, by)
}

// floorDivBy is a / d rounded down, d > 0. What d divides is taken out of the quotient, so that what is left has coefficients from 0 to d-1.
func floorDivBy(a *poly, d int64) *poly {
	var whole, rest []monomial
	for _, p := range a.sum {
		q := floorInt(p.c, d)
		if q != 0 {
			whole = append(whole, monomial{q, p.of})
		}
		if r := p.c - q*d; r != 0 {
			rest = append(rest, monomial{r, p.of})
		}
	}
	q := polyOf(whole)
	g, left := d, int64(0)
	for _, p := range rest {
		if len(p.of) > 0 {
			g = gcd(g, p.c)
		} else {
			left = p.c
		}
	}
	if len(rest) == 0 || g == d && len(rest[0].of) == 0 {
		return q
	}
	if g > 1 { // (g·x + r) / (g·d) is (x + r/g) / d
		for i := range rest {
			rest[i].c = floorInt(rest[i].c, g)
		}
		d, left = d/g, left/g
	}
	r := polyOf(rest)
	if r == nil {
		return nil
	}
	// (x/e + c) / d is (x + c·e) / (d·e)
	if p := r.sum[0]; p.c == 1 && len(p.of) == 1 && p.of[0].op == quotient && (len(r.sum) == 1 || len(r.sum) == 2 && len(r.sum[1].of) == 0) {
		x := p.of[0]
		if e, ok := x.args[1].number(); ok {
			ce, ok1 := mulInt(left, e)
			de, ok2 := mulInt(d, e)
			if ok1 && ok2 {
				return add(q, floorDiv(add(x.args[0], constant(ce), 1), constant(de)), 1)
			}
		}
	}
	if r.lo() >= 0 && r.hi() < d {
		return q
	}
	return add(q, single(quotient, r, constant(d)), 1)
}

// ramp is the greater of a and 0.
func ramp(a *poly) *poly {
	if a == nil {
		return nil
	}
	switch {
	case a.lo() >= 0:
		return a
	case a.hi() <= 0:
		return constant(0)
	}
	if a.sum[0].c < 0 { // max(0, -x) is max(0, x) - x
		return add(ramp(add(constant(0), a, -1)), a, 1)
	}
	g := int64(0)
	for _, p := range a.sum {
		g = gcd(g, p.c)
	}
	if g > 1 {
		return mul(ramp(exact(a, constant(g))), constant(g))
	}
	// max(0, max(0, x) - n) is max(0, x - n)
	if p := a.sum[0]; p.c == 1 && len(p.of) == 1 && p.of[0].op == above && len(a.sum) == 2 && len(a.sum[1].of) == 0 && a.sum[1].c < 0 {
		return ramp(add(p.of[0].args[0], constant(a.sum[1].c), 1))
	}
	return single(above, a)
}

// broadcastOf is what two sizes, of which neither is known, broadcast to.
func broadcastOf(a, b Dim) Dim {
	if a.term == nil || b.term == nil {
		return Unknown
	}
	switch { // what is more than 1 is the result
	case a.term.lo() > 1:
		return a
	case b.term.lo() > 1:
		return b
	}
	args := func(t *poly) []*poly {
		if len(t.sum) == 1 && t.sum[0].c == 1 && len(t.sum[0].of) == 1 && t.sum[0].of[0].op == broadcast {
			return t.sum[0].of[0].args
		}
		return []*poly{t}
	}
	all := slices.Concat(args(a.term), args(b.term))
	slices.SortFunc(all, func(a, b *poly) int { return strings.Compare(a.key, b.key) })
	all = slices.CompactFunc(all, func(a, b *poly) bool { return a.key == b.key })
	if len(all) == 1 {
		return dimOf(all[0])
	}
	return dimOf(single(broadcast, all...))
}

// lo is a number that the term is not less than, math.MinInt64 if there is none.
func (t *poly) lo() int64 { return t.least(2) }

// hi is a number that the term is not greater than, math.MaxInt64 if there is none.
func (t *poly) hi() int64 {
	n := add(constant(0), t, -1)
	if n == nil {
		return math.MaxInt64
	}
	if l := n.lo(); l != math.MinInt64 {
		return -l
	}
	return math.MaxInt64
}

// maxTries bounds the atoms of one term that least looks into.
const maxTries = 4

// least is lo; depth is how often it may look into atoms.
func (t *poly) least(depth int) int64 {
	sum := int64(0)
	for _, p := range t.sum {
		v := p.least()
		if v == math.MinInt64 || sum == math.MinInt64 {
			sum = math.MinInt64
			break
		}
		s, ok := addInt(sum, v)
		switch {
		case ok:
			sum = s
		case v > 0:
			sum = math.MaxInt64 // which it is not less than
		default:
			sum = math.MinInt64
		}
	}
	if sum >= 0 || depth == 0 {
		return sum
	}
	// What is added and taken away may hang together.
	tries := 0
	for i, p := range t.sum {
		if len(p.of) != 1 || p.of[0].op != quotient && (p.of[0].op != above || p.c > 0) || tries == maxTries {
			continue
		}
		tries++
		rest, x := polyOf(slices.Delete(slices.Clone(t.sum), i, i+1)), p.of[0]
		switch x.op {
		case above: // it is 0 or its argument
			if with := add(rest, x.args[0], p.c); with != nil {
				sum = max(sum, min(rest.least(depth-1), with.least(depth-1)))
			}
		case quotient: // it is no more than the exact quotient, and less than that by less than 1
			if d, ok := x.args[1].number(); ok && d > 0 {
				top := x.args[0]
				if p.c > 0 {
					top = add(top, constant(d-1), -1)
				}
				if with := add(mul(rest, constant(d)), top, p.c); with != nil {
					if l := with.least(depth - 1); l != math.MinInt64 {
						sum = max(sum, floorInt(l, d))
					}
				}
			}
		}
	}
	return sum
}

// least is a number that the product is not less than, math.MinInt64 if there is none.
func (p monomial) least() int64 {
	v := p.c
	for _, a := range p.of {
		x := a.lo
		if p.c < 0 {
			x = a.hi
		}
		if x == math.MinInt64 || x == math.MaxInt64 && p.c < 0 || a.lo < 0 && len(p.of) > 1 {
			return math.MinInt64
		}
		w, ok := mulInt(v, x)
		if !ok && p.c > 0 && x > 0 {
			w, ok = math.MaxInt64, true // which it is not less than
		}
		if !ok {
			return math.MinInt64
		}
		v = w
	}
	return v
}

// bounds are numbers that the atom is neither less nor greater than.
func (a *atom) bounds() (lo, hi int64) {
	switch a.op {
	case above:
		return max(0, a.args[0].lo()), max(0, a.args[0].hi())
	case broadcast:
		lo, hi = math.MaxInt64, math.MinInt64
		for _, t := range a.args {
			lo, hi = min(lo, t.lo()), max(hi, t.hi())
		}
		return max(0, lo), max(0, hi) // of sizes
	case quotient:
		lo, hi := a.args[0].lo(), a.args[0].hi()
		if d, ok := a.args[1].number(); ok && d > 0 {
			if lo != math.MinInt64 {
				lo = floorInt(lo, d)
			}
			if hi != math.MaxInt64 {
				hi = floorInt(hi, d)
			}
			return lo, hi
		}
		if lo >= 0 && a.args[1].lo() >= 0 {
			return 0, hi
		}
		return math.MinInt64, math.MaxInt64
	}
	return 0, math.MaxInt32
}

func (t *poly) eval(size func(string) (int, bool)) (int64, bool) {
	sum := int64(0)
	for _, p := range t.sum {
		v := p.c
		for _, a := range p.of {
			n, ok := a.eval(size)
			if !ok {
				return 0, false
			}
			if v, ok = mulInt(v, n); !ok {
				return 0, false
			}
		}
		var ok bool
		if sum, ok = addInt(sum, v); !ok {
			return 0, false
		}
	}
	return sum, true
}

func (a *atom) eval(size func(string) (int, bool)) (int64, bool) {
	if a.op == named {
		n, ok := size(a.name)
		return int64(n), ok
	}
	args := make([]int64, len(a.args))
	for i, t := range a.args {
		var ok bool
		if args[i], ok = t.eval(size); !ok {
			return 0, false
		}
	}
	switch a.op {
	case quotient:
		x, d := args[0], args[1]
		if d == 0 || d == math.MinInt64 || x == math.MinInt64 {
			return 0, false
		}
		if d < 0 {
			x, d = -x, -d
		}
		return floorInt(x, d), true
	case above:
		return max(0, args[0]), true
	}
	for _, n := range args {
		if n != 1 {
			return n, true
		}
	}
	return 1, true
}

func (t *poly) String() string {
	var parts []string
	sum := slices.Clone(t.sum)
	for _, p := range t.sum { // x - max(0, x - y) is min(x, y), and y + max(0, x - y) is max(x, y)
		if len(p.of) != 1 || p.of[0].op != above || p.c != 1 && p.c != -1 {
			continue
		}
		var x, y []monomial
		for _, q := range p.of[0].args[0].sum {
			if q.c > 0 {
				x = append(x, q)
			} else {
				y = append(y, monomial{-q.c, q.of})
			}
		}
		name, gone := "max", append(slices.Clone(y), p)
		if p.c < 0 {
			name, gone = "min", append(slices.Clone(x), p)
		}
		in := func(set []monomial) func(monomial) bool {
			return func(q monomial) bool {
				return slices.ContainsFunc(set, func(r monomial) bool { return q.c == r.c && q.compare(r) == 0 })
			}
		}
		if !slices.ContainsFunc(gone, func(q monomial) bool { return !in(sum)(q) }) {
			sum = slices.DeleteFunc(sum, in(gone))
			parts = append(parts, fmt.Sprintf("%s(%v,%v)", name, &poly{sum: x}, &poly{sum: y}))
		}
	}
	var b strings.Builder
	b.WriteString(strings.Join(parts, "+"))
	for _, p := range sum {
		c := p.c
		switch {
		case c < 0:
			b.WriteByte('-')
		case b.Len() > 0:
			b.WriteByte('+')
		}
		parts = parts[:0]
		if c != 1 && c != -1 || len(p.of) == 0 {
			parts = append(parts, strings.TrimPrefix(strconv.FormatInt(c, 10), "-"))
		}
		for _, a := range p.of {
			s := a.String()
			if a.op == quotient && (len(p.of) > 1 || len(parts) > 0) {
				s = "(" + s + ")"
			}
			parts = append(parts, s)
		}
		b.WriteString(strings.Join(parts, "*"))
	}
	if b.Len() == 0 {
		return "0"
	}
	return b.String()
}

func (a *atom) String() string {
	args := make([]string, len(a.args))
	for i, t := range a.args {
		args[i] = t.String()
	}
	switch a.op {
	case quotient:
		for i, t := range a.args {
			if len(t.sum) > 1 || len(t.sum) == 1 && (len(t.sum[0].of) > 1 || len(t.sum[0].of) == 1 && (t.sum[0].c != 1 || t.sum[0].of[0].op == quotient)) {
				args[i] = "(" + args[i] + ")"
			}
		}
		return args[0] + "/" + args[1]
	case above:
		return "max(0," + args[0] + ")"
	case broadcast:
		return "broadcast(" + strings.Join(args, ",") + ")"
	}
	if strings.ContainsFunc(a.name, func(r rune) bool { return strings.ContainsRune("+-*/(), \"", r) }) {
		return fmt.Sprintf("%q", a.name)
	}
	return a.name
}
