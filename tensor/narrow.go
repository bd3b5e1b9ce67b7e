package tensor

import (
	"math"

	"github.com/x448/float16"
)

// Float32 is the exact value of h.
func (h F16) Float32() float32 { return float16.Frombits(uint16(h)).Float32() }

// Float32 is the exact value of b.
func (b BF16) Float32() float32 { return math.Float32frombits(uint32(b) << 16) }

// Float32 is the exact value of f.
func (f F8E4M3FN) Float32() float32 { return e4m3fn.values[f] }

// Float32 is the exact value of f.
func (f F8E4M3FNUZ) Float32() float32 { return e4m3fnuz.values[f] }

// Float32 is the exact value of f.
func (f F8E5M2) Float32() float32 { return e5m2.values[f] }

// Float32 is the exact value of f.
func (f F8E5M2FNUZ) Float32() float32 { return e5m2fnuz.values[f] }

// Float32 is the exact value of f.
func (f F4E2M1) Float32() float32 { return e2m1.values[f] }

// Float32 is the exact value of f, a power of two from 2⁻¹²⁷ to 2¹²⁷, or NaN.
func (f F8E8M0) Float32() float32 { return e8m0.values[f] }

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

// F8E4M3FNFrom rounds v to nearest even. Out of range is ±448 if saturate, else NaN.
func F8E4M3FNFrom(v float32, saturate bool) F8E4M3FN { return F8E4M3FN(e4m3fn.encode(v, saturate)) }

// F8E4M3FNUZFrom rounds v to nearest even. Out of range is ±240 if saturate, else NaN.
func F8E4M3FNUZFrom(v float32, saturate bool) F8E4M3FNUZ {
	return F8E4M3FNUZ(e4m3fnuz.encode(v, saturate))
}

// F8E5M2From rounds v to nearest even. Out of range is ±57344 if saturate, else infinity.
func F8E5M2From(v float32, saturate bool) F8E5M2 { return F8E5M2(e5m2.encode(v, saturate)) }

// F8E5M2FNUZFrom rounds v to nearest even. Out of range is ±57344 if saturate, else NaN.
func F8E5M2FNUZFrom(v float32, saturate bool) F8E5M2FNUZ {
	return F8E5M2FNUZ(e5m2fnuz.encode(v, saturate))
}

// F4E2M1From rounds v to nearest even; out of range is ±6. The type has no NaN: it becomes -0,
// as in the ml_dtypes package that made the standard's test cases.
func F4E2M1From(v float32) F4E2M1 { return F4E2M1(e2m1.encode(v, true)) }

// RoundMode is Cast's round_mode, for conversions to float8e8m0.
type RoundMode int

// The values of round_mode. As e8m0 has only powers of two, RoundNearest goes up from 1.5·2ᵏ on.
const (
	RoundUp RoundMode = iota
	RoundDown
	RoundNearest
)

// F8E8M0From rounds |v| to a power of two (the type has no sign, and the standard leaves
// negative values open). Zero and what is below 2⁻¹²⁷ become 2⁻¹²⁷ if saturate, else NaN;
// infinity and what rounds beyond 2¹²⁷ become 2¹²⁷ if saturate, else NaN.
func F8E8M0From(v float32, saturate bool, mode RoundMode) F8E8M0 {
	const nan, top = 0xff, 0xfe
	b := math.Float32bits(v) &^ (1 << 31)
	switch {
	case b > 0xff<<23:
		return nan
	case b < 1<<22: // below 2⁻¹²⁷
		if saturate {
			return 0
		}
		return nan
	}
	code, frac := b>>23, b&(1<<23-1)
	half := uint32(1 << 22)
	if code == 0 { // [2⁻¹²⁷, 2⁻¹²⁶) is subnormal in a float32: its first bit is the value 2⁻¹²⁷
		frac, half = frac-1<<22, 1<<21
	}
	if mode == RoundUp && frac > 0 || mode == RoundNearest && frac >= half {
		code++
	}
	if code > top {
		if saturate {
			return top
		}
		return nan
	}
	return F8E8M0(code)
}

// narrowFloat is a float type of at most eight bits.
type narrowFloat struct {
	values [256]float32 // by code
	man    int          // bits of mantissa
	bias   int
	sign   byte // sign bit
	top    byte // code of the largest finite value
	over   byte // code of what is beyond, without saturation: infinity or NaN
	nan    byte
	fnuz   bool // no negative zero, whose code is NaN's
}

var (
	e4m3fn   = newNarrowFloat(narrowFloat{man: 3, bias: 7, sign: 0x80, top: 0x7e, over: 0x7f, nan: 0x7f})
	e4m3fnuz = newNarrowFloat(narrowFloat{man: 3, bias: 8, sign: 0x80, top: 0x7f, over: 0x80, nan: 0x80, fnuz: true})
	e5m2     = newNarrowFloat(narrowFloat{man: 2, bias: 15, sign: 0x80, top: 0x7b, over: 0x7c, nan: 0x7e})
	e5m2fnuz = newNarrowFloat(narrowFloat{man: 2, bias: 16, sign: 0x80, top: 0x7f, over: 0x80, nan: 0x80, fnuz: true})
	e2m1     = newNarrowFloat(narrowFloat{man: 1, bias: 1, sign: 8, top: 7, over: 7, nan: 8})
	e8m0     = newE8M0()
)

var narrowFloats = [numDTypes]*narrowFloat{
	Float8E4M3FN: e4m3fn, Float8E4M3FNUZ: e4m3fnuz, Float8E5M2: e5m2, Float8E5M2FNUZ: e5m2fnuz,
	Float4E2M1: e2m1, Float8E8M0: e8m0,
}

func newNarrowFloat(f narrowFloat) *narrowFloat {
	for c := range 2 * int(f.sign) {
		a := c &^ int(f.sign)
		exp, frac := a>>f.man, float64(a&(1<<f.man-1))/float64(int(1)<<f.man)
		v := math.Ldexp(1+frac, exp-f.bias)
		if exp == 0 {
			v = math.Ldexp(frac, 1-f.bias)
		}
		switch {
		case f.fnuz && c == int(f.sign), a > int(f.top) && (a != int(f.over) || f.over == f.nan):
			v = math.NaN()
		case a > int(f.top):
			v = math.Inf(1)
		}
		if c != a {
			v = -v
		}
		f.values[c] = float32(v)
	}
	// A four-bit code is read by its low bits whatever lies above them.
	for c := 2 * int(f.sign); c < 256; c++ {
		f.values[c] = f.values[c&(2*int(f.sign)-1)]
	}
	return &f
}

func newE8M0() *narrowFloat {
	f := new(narrowFloat)
	for c := range 255 {
		f.values[c] = float32(math.Ldexp(1, c-127))
	}
	f.values[255] = float32(math.NaN())
	return f
}

func (f *narrowFloat) encode(v float32, saturate bool) byte {
	bits := math.Float32bits(v)
	a := bits &^ (1 << 31)
	var sign byte
	if a != bits {
		sign = f.sign
	}
	if a > 0xff<<23 {
		if f.fnuz || f == e2m1 {
			return f.nan
		}
		return f.nan | sign
	}
	var code uint32
	if shift := 23 - f.man; a < uint32(128-f.bias)<<23 {
		// Subnormal: adding a number whose last bit weighs as much as the type's least value lets the
		// processor round.
		magic := uint32(127+1-f.bias+shift) << 23
		code = math.Float32bits(math.Float32frombits(a)+math.Float32frombits(magic)) - magic
	} else {
		a -= uint32(127-f.bias) << 23
		code = (a + 1<<(shift-1) - 1 + a>>shift&1) >> shift
	}
	switch {
	case code > uint32(f.top) && saturate:
		return f.top | sign
	case code > uint32(f.top):
		if f.fnuz {
			return f.over
		}
		return f.over | sign
	case code == 0 && f.fnuz:
		return 0
	}
	return byte(code) | sign
}

// oddFloat32 rounds v to float32 "to odd": what is not exact goes to the neighbour whose last bit is 1,
// so that it stays off the ties of any narrower type, and rounding on to that type
// gives what one rounding from v would.
func oddFloat32(v float64) float32 {
	f := float32(v)
	if float64(f) == v || v != v {
		return f
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(v) {
		b-- // towards zero; from infinity to the largest value, which every narrower type rounds as it should
	}
	return math.Float32frombits(b | 1)
}

// oddFloat64 rounds an integer to float64 to odd.
func oddFloat64(negative bool, magnitude uint64) float64 {
	if magnitude>>53 != 0 {
		low := magnitude & 0x7ff
		magnitude &^= 0x7ff
		if low != 0 {
			magnitude |= 0x800
		}
	}
	if negative {
		return -float64(magnitude)
	}
	return float64(magnitude)
}

// decoders give elements as float32s, rounded to odd where they are not exact.
var decoders = [numDTypes]func(dst []float32, src []byte){
	Float16: func(dst []float32, src []byte) {
		for i, v := range elems[F16](src) {
			dst[i] = v.Float32()
		}
	},
	BFloat16: func(dst []float32, src []byte) {
		for i, v := range elems[BF16](src) {
			dst[i] = v.Float32()
		}
	},
	Float32: func(dst []float32, src []byte) { copy(dst, elems[float32](src)) },
	Float64: func(dst []float32, src []byte) {
		for i, v := range elems[float64](src) {
			dst[i] = oddFloat32(v)
		}
	},
	Float8E4M3FN: e4m3fn.decode, Float8E4M3FNUZ: e4m3fnuz.decode, Float8E5M2: e5m2.decode,
	Float8E5M2FNUZ: e5m2fnuz.decode, Float4E2M1: e2m1.decode, Float8E8M0: e8m0.decode,
	Int8: decodeInts[int8], Int4: decodeInts[int8], Int2: decodeInts[int8],
	Int16: decodeInts[int16], Int32: decodeInts[int32], Int64: decodeInts[int64],
	Uint8: decodeInts[uint8], Uint4: decodeInts[uint8], Uint2: decodeInts[uint8], Bool: decodeInts[uint8],
	Uint16: decodeInts[uint16], Uint32: decodeInts[uint32], Uint64: decodeInts[uint64],
}

func (f *narrowFloat) decode(dst []float32, src []byte) {
	for i, c := range src {
		dst[i] = f.values[c]
	}
}

func decodeInts[T integer](dst []float32, src []byte) {
	for i, v := range elems[T](src) {
		m := uint64(v)
		if v < 0 {
			m = -m
		}
		dst[i] = oddFloat32(oddFloat64(v < 0, m))
	}
}

// encoders round float32s to the narrow floats.
var encoders = [numDTypes]func(dst []byte, src []float32, saturate bool, mode RoundMode){
	Float16: func(dst []byte, src []float32, _ bool, _ RoundMode) {
		d := elems[F16](dst)
		for i, v := range src {
			d[i] = F16From(v)
		}
	},
	BFloat16: func(dst []byte, src []float32, _ bool, _ RoundMode) {
		d := elems[BF16](dst)
		for i, v := range src {
			d[i] = BF16From(v)
		}
	},
	Float8E4M3FN: e4m3fn.encodeAll, Float8E4M3FNUZ: e4m3fnuz.encodeAll, Float8E5M2: e5m2.encodeAll,
	Float8E5M2FNUZ: e5m2fnuz.encodeAll, Float4E2M1: e2m1.encodeAll,
	Float8E8M0: func(dst []byte, src []float32, saturate bool, mode RoundMode) {
		for i, v := range src {
			dst[i] = byte(F8E8M0From(v, saturate, mode))
		}
	},
}

func (f *narrowFloat) encodeAll(dst []byte, src []float32, saturate bool, _ RoundMode) {
	saturate = saturate || f == e2m1
	for i, v := range src {
		dst[i] = f.encode(v, saturate)
	}
}
