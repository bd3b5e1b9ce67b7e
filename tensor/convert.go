package tensor

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/x448/float16"
)

// Float32 is the exact value of h.
func (h F16) Float32() float32 { return float16.Frombits(uint16(h)).Float32() }

// Float32 is the exact value of b.
func (b BF16) Float32() float32 { return math.Float32frombits(uint32(b) << 16) }

// F16From rounds v to the nearest binary16, ties to even.
func F16From(v float32) F16 { return F16(float16.Fromfloat32(v).Bits()) }

// BF16From rounds v to the nearest bfloat16, ties to even; a NaN stays one.
func BF16From(v float32) BF16 {
	b := math.Float32bits(v)
	if v != v {
		return BF16(b>>16 | 0x40)
	}
	return BF16((b + 0x7fff + b>>16&1) >> 16)
}

// oddFloat32 rounds a float64 to float32 "to odd", so that a second rounding to a
// narrower type gives what one rounding would.
func oddFloat32(v float64) float32 {
	f := float32(v)
	if float64(f) == v || v != v || math.IsInf(float64(f), 0) {
		return f
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(v) {
		b-- // towards zero
	}
	return math.Float32frombits(b | 1)
}

// smallFloat is a float type of at most eight bits by the values of its codes.
type smallFloat struct {
	values    [256]float64
	positive  int  // codes 0..positive are the finite values, ascending
	sign      byte // sign bit
	nan       int  // code of NaN, -1: none
	inf       int  // code of +Inf, -1: none
	minusZero bool
}

func newSmallFloat(exp, man, bias, positive, nan, inf int, fnuz bool) *smallFloat {
	s := &smallFloat{positive: positive, nan: nan, inf: inf, sign: 1 << (exp + man), minusZero: !fnuz}
	for c := range 1 << (exp + man) {
		e, m := c>>man, float64(c&(1<<man-1))/float64(int(1)<<man)
		v := math.Ldexp(1+m, e-bias)
		if e == 0 {
			v = math.Ldexp(m, 1-bias)
		}
		switch {
		case c == inf:
			v = math.Inf(1)
		case c > positive:
			v = math.NaN()
		}
		s.values[c], s.values[c|int(s.sign)] = v, -v
	}
	if fnuz {
		s.values[s.sign] = math.NaN()
	}
	return s
}

var smallFloats = map[DType]*smallFloat{
	Float8E4M3FN:   newSmallFloat(4, 3, 7, 0x7e, 0x7f, -1, false),
	Float8E4M3FNUZ: newSmallFloat(4, 3, 8, 0x7f, 0x80, -1, true),
	Float8E5M2:     newSmallFloat(5, 2, 15, 0x7b, 0x7f, 0x7c, false),
	Float8E5M2FNUZ: newSmallFloat(5, 2, 16, 0x7f, 0x80, -1, true),
	Float4E2M1:     newSmallFloat(2, 1, 1, 7, -1, -1, false),
	Float8E8M0:     e8m0(),
}

func e8m0() *smallFloat {
	s := &smallFloat{positive: 254, nan: 255, inf: -1}
	for c := range 255 {
		s.values[c] = math.Ldexp(1, c-127)
	}
	s.values[255] = math.NaN()
	return s
}

// encode rounds v to the nearest code, ties to the even one. Beyond the largest value it saturates,
// or gives infinity or NaN as the type has them.
func (s *smallFloat) encode(v float64, saturate bool) byte {
	if v != v {
		if s.nan < 0 {
			return 0
		}
		return byte(s.nan)
	}
	neg, a := math.Signbit(v), math.Abs(v)
	if s.sign == 0 && neg {
		neg, a = false, 0
	}
	top := s.values[s.positive]
	c := sort.Search(s.positive+1, func(c int) bool { return s.values[c] >= a })
	switch {
	case c > s.positive: // half a step beyond the top still rounds to it
		c = s.positive
		if half := (top - s.values[c-1]) / 2; !saturate && (a > top+half || a == top+half && c&1 == 1) && s.nan >= 0 {
			if s.inf >= 0 {
				c = s.inf
			} else {
				return byte(s.nan)
			}
		}
	case c > 0 && s.values[c] != a:
		lo, hi := a-s.values[c-1], s.values[c]-a
		if lo < hi || lo == hi && (c-1)&1 == 0 {
			c--
		}
	}
	if neg && (c > 0 || s.minusZero) {
		return byte(c) | s.sign
	}
	return byte(c)
}

// class is how a type's elements are carried between types.
type class int

const (
	floats class = iota
	ints
	uints
	texts
	complexes
)

func classOf(d DType) class {
	switch d {
	case String:
		return texts
	case Complex64, Complex128:
		return complexes
	case Uint8, Uint16, Uint32, Uint64, Bool, Uint4, Uint2:
		return uints
	case Int8, Int16, Int32, Int64, Int4, Int2:
		return ints
	}
	return floats
}

// Convert is t in another element type, as ONNX's Cast has it: floats to integers are cut towards zero,
// integers wrap, anything but zero is true. saturate is for the 8-bit floats alone.
func Convert(t *Tensor, to DType, saturate bool) (*Tensor, error) {
	out, err := Zeros(to, t.shape...)
	if err != nil {
		return nil, err
	}
	return out, ConvertInto(out, t, saturate)
}

// ConvertInto is [Convert] into a tensor that is there, of as many elements as src.
func ConvertInto(dst, src *Tensor, saturate bool) error {
	if dst.Len() != src.Len() {
		return fmt.Errorf("tensor: convert %s into %s", src, dst)
	}
	if dst.dtype == src.dtype {
		copy(dst.buf, src.buf)
		copy(dst.strs, src.strs)
		return nil
	}
	if classOf(src.dtype) == complexes || classOf(dst.dtype) == complexes {
		return fmt.Errorf("tensor: no conversion from %s to %s", src.dtype, dst.dtype)
	}
	switch { // the pairs that matter for speed
	case src.dtype == Float16 && dst.dtype == Float32:
		d := Data[float32](dst)
		for i, v := range Data[F16](src) {
			d[i] = v.Float32()
		}
		return nil
	case src.dtype == Float32 && dst.dtype == Float16:
		d := Data[F16](dst)
		for i, v := range Data[float32](src) {
			d[i] = F16From(v)
		}
		return nil
	case src.dtype == BFloat16 && dst.dtype == Float32:
		d := Data[float32](dst)
		for i, v := range Data[BF16](src) {
			d[i] = v.Float32()
		}
		return nil
	case src.dtype == Float32 && dst.dtype == BFloat16:
		d := Data[BF16](dst)
		for i, v := range Data[float32](src) {
			d[i] = BF16From(v)
		}
		return nil
	}
	for i := range src.Len() {
		switch classOf(src.dtype) {
		case texts:
			if err := dst.setText(i, src.strs[i], saturate); err != nil {
				return err
			}
		case floats:
			v := src.float(i)
			if dst.dtype == String {
				dst.strs[i] = formatFloat(v, src.dtype)
			} else {
				dst.setFloat(i, v, saturate)
			}
		case ints:
			v := src.int(i)
			switch classOf(dst.dtype) {
			case texts:
				dst.strs[i] = strconv.FormatInt(v, 10)
			case floats:
				dst.setFloat(i, float64(v), saturate)
			default:
				dst.setInt(i, v)
			}
		case uints:
			v := uint64(src.int(i))
			switch classOf(dst.dtype) {
			case texts:
				dst.strs[i] = strconv.FormatUint(v, 10)
				if src.dtype == Bool {
					dst.strs[i] = strconv.Itoa(int(v))
				}
			case floats:
				dst.setFloat(i, float64(v), saturate)
			default:
				dst.setInt(i, int64(v))
			}
		}
	}
	return nil
}

// Float64At is element i as a float64 (0 for strings and complex numbers).
func Float64At(t *Tensor, i int) float64 {
	switch classOf(t.dtype) {
	case floats:
		return t.float(i)
	case ints:
		return float64(t.int(i))
	case uints:
		return float64(uint64(t.int(i)))
	}
	return 0
}

// SetFloat64At makes v, converted as [Convert] does, element i.
func SetFloat64At(t *Tensor, i int, v float64) { t.setFloat(i, v, true) }

func (t *Tensor) float(i int) float64 {
	switch t.dtype {
	case Float32:
		return float64(Data[float32](t)[i])
	case Float64:
		return Data[float64](t)[i]
	case Float16:
		return float64(Data[F16](t)[i].Float32())
	case BFloat16:
		return float64(Data[BF16](t)[i].Float32())
	}
	return smallFloats[t.dtype].values[t.buf[i]]
}

func (t *Tensor) int(i int) int64 {
	switch t.dtype {
	case Int64, Uint64:
		return View[int64](t)[i]
	case Int32:
		return int64(Data[int32](t)[i])
	case Uint32:
		return int64(Data[uint32](t)[i])
	case Int16:
		return int64(Data[int16](t)[i])
	case Uint16:
		return int64(Data[uint16](t)[i])
	case Int8, Int4, Int2:
		return int64(int8(t.buf[i]))
	}
	return int64(t.buf[i])
}

func (t *Tensor) setInt(i int, v int64) {
	switch t.dtype {
	case Int64, Uint64:
		View[int64](t)[i] = v
	case Int32, Uint32:
		View[int32](t)[i] = int32(v)
	case Int16, Uint16:
		View[int16](t)[i] = int16(v)
	case Bool:
		t.buf[i] = 0
		if v != 0 {
			t.buf[i] = 1
		}
	case Uint4:
		t.buf[i] = byte(v) & 15
	case Uint2:
		t.buf[i] = byte(v) & 3
	case Int4:
		t.buf[i] = byte(int8(v) << 4 >> 4)
	case Int2:
		t.buf[i] = byte(int8(v) << 6 >> 6)
	default:
		t.buf[i] = byte(v)
	}
}

func (t *Tensor) setFloat(i int, v float64, saturate bool) {
	switch t.dtype {
	case Float32:
		Data[float32](t)[i] = float32(v)
	case Float64:
		Data[float64](t)[i] = v
	case Float16:
		Data[F16](t)[i] = F16From(oddFloat32(v))
	case BFloat16:
		Data[BF16](t)[i] = BF16From(oddFloat32(v))
	case Bool:
		t.buf[i] = 1
		if v == 0 {
			t.buf[i] = 0
		}
	case Uint64:
		if v >= 1<<63 {
			Data[uint64](t)[i] = uint64(v-(1<<63)) + 1<<63
		} else {
			Data[uint64](t)[i] = uint64(int64(v))
		}
	default:
		if s := smallFloats[t.dtype]; s != nil {
			t.buf[i] = s.encode(v, saturate)
		} else {
			t.setInt(i, int64(v))
		}
	}
}

func formatFloat(v float64, d DType) string {
	switch {
	case v != v:
		return "NaN"
	case math.IsInf(v, 1):
		return "INF"
	case math.IsInf(v, -1):
		return "-INF"
	}
	bits := 32
	if d == Float64 {
		bits = 64
	}
	return strconv.FormatFloat(v, 'g', -1, bits)
}

func (t *Tensor) setText(i int, s string, saturate bool) error {
	if classOf(t.dtype) != floats && t.dtype != Bool {
		if v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
			t.setInt(i, v)
			return nil
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil && !math.IsInf(v, 0) {
		return fmt.Errorf("tensor: %q is no %s", s, t.dtype)
	}
	t.setFloat(i, v, saturate)
	return nil
}
