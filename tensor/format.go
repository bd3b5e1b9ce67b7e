package tensor

import (
	"bufio"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// edge is how many elements stay at each end of an abbreviated dimension.
const edge = 3

// Format writes the elements of t as NumPy prints an array: nested brackets, columns of one width, floats
// with at most eight digits after the point or all with an exponent. A tensor of more than maxElems elements
// keeps the first and last three of each dimension longer than six, with ... between them. There is no
// line feed at the end.
//
//	[[1.  2.5 3. ]
//	 [4.  5.  6. ]]
func Format(w io.Writer, t *Tensor, maxElems int) error {
	p := printer{t: t, short: t.Len() > maxElems, strides: make([]int, t.Rank())}
	s := 1
	for k := t.Rank() - 1; k >= 0; k-- {
		p.strides[k] = s
		s *= t.shape[k]
	}
	if t.Len() == 0 {
		_, err := io.WriteString(w, "[] (shape "+strings.TrimPrefix(t.String(), t.dtype.String())+")")
		return err
	}
	var shown []int
	p.walk(0, 0, func(i int) { shown = append(shown, i) })
	p.element = elementFormat(t, shown)
	if t.Rank() > 0 {
		for _, i := range shown {
			p.width = max(p.width, utf8.RuneCountInString(p.element(i)))
		}
	}
	p.w = bufio.NewWriter(w)
	p.print(0, 0)
	return p.w.Flush()
}

type printer struct {
	t       *Tensor
	w       *bufio.Writer
	short   bool
	strides []int
	element func(i int) string
	width   int
}

// indices calls f for each index of dimension k that is shown, and gap where some are left out.
func (p *printer) indices(k int, f func(i int), gap func()) {
	n := p.t.shape[k]
	for i := 0; i < n; i++ {
		if p.short && n > 2*edge && i == edge {
			gap()
			i = n - edge
		}
		f(i)
	}
}

func (p *printer) walk(k, at int, f func(i int)) {
	if k == p.t.Rank() {
		f(at)
		return
	}
	p.indices(k, func(i int) { p.walk(k+1, at+i*p.strides[k], f) }, func() {})
}

func (p *printer) print(k, at int) {
	rank := p.t.Rank()
	if k == rank {
		s := p.element(at)
		p.w.WriteString(strings.Repeat(" ", max(0, p.width-utf8.RuneCountInString(s))) + s)
		return
	}
	p.w.WriteByte('[')
	first := true
	between := func() {
		switch {
		case first:
		case k == rank-1:
			p.w.WriteByte(' ')
		default:
			p.w.WriteString(strings.Repeat("\n", rank-1-k) + strings.Repeat(" ", k+1))
		}
		first = false
	}
	p.indices(k, func(i int) {
		between()
		p.print(k+1, at+i*p.strides[k])
	}, func() {
		between()
		p.w.WriteString("...")
	})
	p.w.WriteByte(']')
}

// elementFormat is how the elements are written, fitting those that are shown.
func elementFormat(t *Tensor, shown []int) func(i int) string {
	switch {
	case t.dtype == String:
		return func(i int) string { return strconv.Quote(t.strs[i]) }
	case t.dtype == Bool:
		return func(i int) string { return strconv.FormatBool(t.buf[i] != 0) }
	case !t.dtype.IsFloat():
		return func(i int) string { return text(t, i) }
	}
	// NumPy's rule: an exponent if the largest is 1e8 or more, the smallest below 1e-4, or a thousandfold
	// lies between them.
	small, large := math.Inf(1), 0.0
	for _, i := range shown {
		if a := math.Abs(Float64At(t, i)); a > 0 && !math.IsInf(a, 0) {
			small, large = min(small, a), max(large, a)
		}
	}
	verb := byte('f')
	if large >= 1e8 || large > 0 && (small < 1e-4 || large/small > 1000) {
		verb = 'e'
	}
	const most = 8
	bits := 64
	if t.dtype != Float64 {
		bits = 32
	}
	digits := 0 // after the point, as the element that needs most has them
	for _, i := range shown {
		s := strconv.FormatFloat(Float64At(t, i), verb, -1, bits)
		s, _, _ = strings.Cut(s, "e")
		if _, frac, ok := strings.Cut(s, "."); ok {
			digits = max(digits, min(len(frac), most))
		}
	}
	return func(i int) string {
		v := Float64At(t, i)
		switch {
		case v != v:
			return "nan"
		case math.IsInf(v, 1):
			return "inf"
		case math.IsInf(v, -1):
			return "-inf"
		}
		s := strconv.FormatFloat(v, verb, digits, bits)
		mantissa, exp, _ := strings.Cut(s, "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += "."
		}
		if exp != "" {
			return mantissa + "e" + exp
		}
		trimmed := strings.TrimRight(mantissa, "0")
		return trimmed + strings.Repeat(" ", len(mantissa)-len(trimmed))
	}
}
