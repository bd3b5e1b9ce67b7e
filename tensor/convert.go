package tensor

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unsafe"
)

// How conversion is put together. Every type narrower than float32 is exact in it, so it is decoded to
// float32 and goes on from there. What goes to such a type is first rounded to float32 "to odd" (see
// [oddFloat32]), from where rounding to nearest gives what one rounding would have given. Everything
// else is one loop per pair of Go types, made by generics, in the table casts.

// number is the Go types with arithmetic of their own.
type number interface {
	float32 | float64 | integer
}

type integer interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// castLoop converts len elements: dst and src are the elements' memory.
type castLoop func(dst, src []byte)

// casts holds the loop from type to type for all types with arithmetic in Go. The others
// borrow from it: see [carrier].
var casts [numDTypes][numDTypes]castLoop

func init() {
	castsFromFloat[float32](Float32)
	castsFromFloat[float64](Float64)
	castsFromInt[int8](Int8)
	castsFromInt[int16](Int16)
	castsFromInt[int32](Int32)
	castsFromInt[int64](Int64)
	castsFromInt[uint8](Uint8)
	castsFromInt[uint16](Uint16)
	castsFromInt[uint32](Uint32)
	castsFromInt[uint64](Uint64)
	casts[Complex64][Complex128] = func(dst, src []byte) {
		d, s := elems[complex128](dst), elems[complex64](src)
		for i, v := range s {
			d[i] = complex128(v)
		}
	}
	casts[Complex128][Complex64] = func(dst, src []byte) {
		d, s := elems[complex64](dst), elems[complex128](src)
		for i, v := range s {
			d[i] = complex64(v)
		}
	}
}

func elems[T any](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	var z T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(z)))
}

func plainCast[S, D number](dst, src []byte) {
	s := elems[S](src)
	d := elems[D](dst)[:len(s)]
	for i, v := range s {
		d[i] = D(v)
	}
}

func toBool[S number](dst, src []byte) {
	s := elems[S](src)
	d := dst[:len(s)]
	for i, v := range s {
		d[i] = 0
		if v != 0 {
			d[i] = 1
		}
	}
}

// floatToInt cuts towards zero. The standard leaves out what lies outside [lo, hi) and NaN; they
// become outside, and between the bounds the low bits are taken: both as x86 compilers, and so NumPy and
// ONNX Runtime, do it, on every processor.
func floatToInt[S float32 | float64, D integer](lo, hi float64, outside D) castLoop {
	return func(dst, src []byte) {
		s := elems[S](src)
		d := elems[D](dst)[:len(s)]
		for i, v := range s {
			if f := float64(v); f > lo && f < hi {
				d[i] = D(int64(f))
			} else {
				d[i] = outside
			}
		}
	}
}

func floatToUint64[S float32 | float64](dst, src []byte) {
	s := elems[S](src)
	d := elems[uint64](dst)[:len(s)]
	for i, v := range s {
		switch f := float64(v); {
		case f >= -0x1p63 && f < 0x1p63:
			d[i] = uint64(int64(f))
		case f >= 0x1p63 && f < 0x1p64:
			d[i] = uint64(int64(f-0x1p63)) + 1<<63
		case f >= 0x1p64:
			d[i] = 0
		default:
			d[i] = 1 << 63
		}
	}
}

func castsFromFloat[S float32 | float64](from DType) {
	c := &casts[from]
	c[Float32], c[Float64] = plainCast[S, float32], plainCast[S, float64]
	const lo32, hi32, below64 = -0x1p31 - 1, 0x1p31, -0x1.0000000000001p63
	c[Int8] = floatToInt[S, int8](lo32, hi32, 0)
	c[Int16] = floatToInt[S, int16](lo32, hi32, 0)
	c[Int32] = floatToInt[S, int32](lo32, hi32, math.MinInt32)
	c[Int64] = floatToInt[S, int64](below64, 0x1p63, math.MinInt64)
	c[Uint8] = floatToInt[S, uint8](lo32, hi32, 0)
	c[Uint16] = floatToInt[S, uint16](lo32, hi32, 0)
	c[Uint32] = floatToInt[S, uint32](below64, 0x1p63, 0)
	c[Uint64] = floatToUint64[S]
	c[Bool] = toBool[S]
}

func castsFromInt[S integer](from DType) {
	c := &casts[from]
	c[Float32], c[Float64] = plainCast[S, float32], plainCast[S, float64]
	c[Int8], c[Int16], c[Int32], c[Int64] = plainCast[S, int8], plainCast[S, int16], plainCast[S, int32], plainCast[S, int64]
	c[Uint8], c[Uint16], c[Uint32], c[Uint64] = plainCast[S, uint8], plainCast[S, uint16], plainCast[S, uint32], plainCast[S, uint64]
	c[Bool] = toBool[S]
}

// carrier is the type in whose memory elements of d lie as they are (a bool and a uint4 are a uint8), or,
// for the narrow floats, Undefined.
func carrier(d DType) DType {
	switch d {
	case Bool, Uint4, Uint2:
		return Uint8
	case Int4, Int2:
		return Int8
	case Float16, BFloat16, Float8E4M3FN, Float8E4M3FNUZ, Float8E5M2, Float8E5M2FNUZ, Float4E2M1, Float8E8M0:
		return Undefined
	}
	return d
}

// wrap keeps the low bits of what has been stored as d's carrier.
func wrap(d DType, b []byte) {
	var shift uint
	switch d {
	case Uint4, Int4:
		shift = 4
	case Uint2, Int2:
		shift = 6
	default:
		return
	}
	signed := d == Int4 || d == Int2
	for i, v := range b {
		if signed {
			b[i] = byte(int8(v<<shift) >> shift)
		} else {
			b[i] = v << shift >> shift
		}
	}
}

// Convert is t in another element type, as ONNX's Cast has it:
//
//   - floats to integers are cut towards zero; NaN and what the integer type's machine word cannot hold
//     give what NumPy and ONNX Runtime give on x86 (the standard leaves it open);
//   - integers to integers keep the low bits; anything but zero is true; NaN is true;
//   - floats round to nearest, ties to even, in one rounding from whatever type they come;
//   - to the 8-bit floats saturate chooses between the largest value and infinity or NaN for
//     what is out of range; float4e2m1 always saturates; float8e8m0 rounds up (see [ConvertE8M0]);
//   - strings are read as decimal numbers ("NaN", "INF", "-INF" and "+INF" in any case), and
//     written with the fewest digits that read back as the same value of their type.
//
// Complex numbers convert only to complex numbers.
func Convert(t *Tensor, to DType, saturate bool) (*Tensor, error) {
	out, err := Zeros(to, t.shape...)
	if err != nil {
		return nil, err
	}
	if err := ConvertInto(out, t, saturate); err != nil {
		return nil, err
	}
	return out, nil
}

// ConvertInto is [Convert] into a tensor that is there, of as many elements as src. The
// two must not overlap in memory.
func ConvertInto(dst, src *Tensor, saturate bool) error {
	return convertInto(dst, src, saturate, RoundUp)
}

// ConvertE8M0 is [ConvertInto] for a dst of float8e8m0 with Cast's round_mode.
func ConvertE8M0(dst, src *Tensor, saturate bool, mode RoundMode) error {
	if dst.dtype != Float8E8M0 {
		return fmt.Errorf("tensor: a rounding mode is for float8e8m0, not %s", dst.dtype)
	}
	return convertInto(dst, src, saturate, mode)
}

func convertInto(dst, src *Tensor, saturate bool, mode RoundMode) error {
	if dst.Len() != src.Len() {
		return fmt.Errorf("tensor: convert %s into %s: the numbers of elements differ", src, dst)
	}
	switch {
	case dst.dtype == src.dtype:
		copy(dst.buf, src.buf)
		copy(dst.strs, src.strs)
		return nil
	case src.dtype == String:
		return parseInto(dst, src.strs, saturate, mode)
	case (classOf(src.dtype) == complexes) != (classOf(dst.dtype) == complexes):
		return fmt.Errorf("tensor: no conversion from %s to %s", src.dtype, dst.dtype)
	case dst.dtype == String:
		for i := range dst.strs {
			dst.strs[i] = text(src, i)
		}
		return nil
	}
	from, to := carrier(src.dtype), carrier(dst.dtype)
	if from != Undefined && to != Undefined {
		convertPlain(dst.dtype, dst.buf, from, src.buf)
		return nil
	}
	// By way of float32, a block at a time. Half types from and to float32 need no block.
	decode, encode := decoders[src.dtype], encoders[dst.dtype]
	switch {
	case dst.dtype == Float32:
		decode(elems[float32](dst.buf), src.buf)
	case src.dtype == Float32:
		encode(dst.buf, elems[float32](src.buf), saturate, mode)
	default:
		var block [512]float32
		ss, ds := src.dtype.Size(), dst.dtype.Size()
		for i, n := 0, src.Len(); i < n; i += len(block) {
			k := min(len(block), n-i)
			decode(block[:k], src.buf[i*ss:(i+k)*ss])
			if encode != nil {
				encode(dst.buf[i*ds:(i+k)*ds], block[:k], saturate, mode)
			} else {
				b := unsafe.Slice((*byte)(unsafe.Pointer(&block[0])), 4*k)
				convertPlain(dst.dtype, dst.buf[i*ds:(i+k)*ds], Float32, b)
			}
		}
	}
	return nil
}

// convertPlain converts elements of the carrier type from to the type to.
func convertPlain(to DType, dst []byte, from DType, src []byte) {
	c := carrier(to)
	if to == Bool {
		c = Bool
	}
	if c == from {
		copy(dst, src)
	} else {
		casts[from][c](dst, src)
	}
	wrap(to, dst)
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

// Float64At is element i as a float64, rounded to nearest for integers beyond 2⁵³
// (NaN for strings and complex numbers).
func Float64At(t *Tensor, i int) float64 {
	switch t.dtype {
	case Float32:
		return float64(View[float32](t)[i])
	case Float64:
		return View[float64](t)[i]
	case Float16:
		return float64(View[F16](t)[i].Float32())
	case BFloat16:
		return float64(View[BF16](t)[i].Float32())
	}
	switch classOf(t.dtype) {
	case floats:
		return float64(narrowFloats[t.dtype].values[t.buf[i]])
	case ints:
		return float64(t.intAt(i))
	case uints:
		return float64(uint64(t.intAt(i)))
	}
	return math.NaN()
}

// SetFloat64At makes v, converted as [Convert] does with saturation, element i. It
// does nothing to complex numbers.
func SetFloat64At(t *Tensor, i int, v float64) {
	switch t.dtype {
	case Float32:
		View[float32](t)[i] = float32(v)
	case Float64:
		View[float64](t)[i] = v
	default:
		setFloat(t, i, v, true, RoundUp)
	}
}

func setFloat(t *Tensor, i int, v float64, saturate bool, mode RoundMode) {
	switch {
	case t.dtype == String:
		t.strs[i] = formatFloat(v, Float64)
	case classOf(t.dtype) == complexes:
	default:
		size := t.dtype.Size()
		e := t.buf[i*size : (i+1)*size]
		if encode := encoders[t.dtype]; encode != nil {
			encode(e, []float32{oddFloat32(v)}, saturate, mode)
			return
		}
		convertPlain(t.dtype, e, Float64, unsafe.Slice((*byte)(unsafe.Pointer(&v)), 8))
	}
}

// Float64s is a copy of the elements as float64s, for tests and tools; nil for
// strings and complex numbers.
func Float64s(t *Tensor) []float64 {
	if c := classOf(t.dtype); c == texts || c == complexes {
		return nil
	}
	w, err := Convert(t, Float64, true)
	if err != nil {
		return nil
	}
	return View[float64](w)
}

// intAt is element i of an integer or bool tensor; a uint64 by its bits.
func (t *Tensor) intAt(i int) int64 {
	switch t.dtype {
	case Int64, Uint64:
		return View[int64](t)[i]
	case Int32:
		return int64(View[int32](t)[i])
	case Uint32:
		return int64(View[uint32](t)[i])
	case Int16:
		return int64(View[int16](t)[i])
	case Uint16:
		return int64(View[uint16](t)[i])
	case Int8, Int4, Int2:
		return int64(int8(t.buf[i]))
	}
	return int64(t.buf[i])
}

// text is element i as Cast writes it in a string.
func text(t *Tensor, i int) string {
	switch classOf(t.dtype) {
	case texts:
		return t.strs[i]
	case ints:
		return strconv.FormatInt(t.intAt(i), 10)
	case uints:
		return strconv.FormatUint(uint64(t.intAt(i)), 10)
	case complexes:
		if t.dtype == Complex64 {
			return strconv.FormatComplex(complex128(View[complex64](t)[i]), 'g', -1, 64)
		}
		return strconv.FormatComplex(View[complex128](t)[i], 'g', -1, 128)
	}
	return formatFloat(Float64At(t, i), t.dtype)
}

// formatFloat writes the fewest digits that tell v from its neighbours of type d, with an exponent
// below 1e-4 and from 1e16 on, where NumPy begins to.
func formatFloat(v float64, d DType) string {
	switch {
	case v != v:
		return "NaN"
	case math.IsInf(v, 1):
		return "INF"
	case math.IsInf(v, -1):
		return "-INF"
	}
	verb := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		verb = 'e'
	}
	switch d {
	case Float64:
		return strconv.FormatFloat(v, verb, -1, 64)
	case Float32:
		return strconv.FormatFloat(v, verb, -1, 32)
	}
	one := &Tensor{dtype: d, shape: []int{}, buf: AlignedBytes(d.Size())}
	for digits := range 17 {
		short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', digits, 64), 64)
		if err != nil {
			break
		}
		if SetFloat64At(one, 0, short); Float64At(one, 0) == v {
			v = short
			break
		}
	}
	return strconv.FormatFloat(v, verb, -1, 64)
}

func parseInto(dst *Tensor, strs []string, saturate bool, mode RoundMode) error {
	if classOf(dst.dtype) == complexes {
		return fmt.Errorf("tensor: no conversion from string to %s", dst.dtype)
	}
	for i, s := range strs {
		if err := parseElement(dst, i, strings.TrimSpace(s), saturate, mode); err != nil {
			return err
		}
	}
	return nil
}

func parseElement(t *Tensor, i int, s string, saturate bool, mode RoundMode) error {
	if c := classOf(t.dtype); c == ints || c == uints {
		if v, ok := new(big.Int).SetString(s, 10); ok && (v.IsInt64() || v.IsUint64()) {
			size := t.dtype.Size()
			w := uint64(v.Int64())
			if v.IsUint64() {
				w = v.Uint64()
			}
			convertPlain(t.dtype, t.buf[i*size:(i+1)*size], Uint64, unsafe.Slice((*byte)(unsafe.Pointer(&w)), 8))
			return nil
		}
	}
	if t.dtype == Bool && (strings.EqualFold(s, "true") || strings.EqualFold(s, "false")) {
		t.buf[i] = 0
		if len(s) == 4 {
			t.buf[i] = 1
		}
		return nil
	}
	bits := 64
	if t.dtype == Float32 {
		bits = 32
	}
	v, err := strconv.ParseFloat(s, bits)
	if err != nil && !math.IsInf(v, 0) {
		return fmt.Errorf("tensor: element %d: %q is no %s", i, s, t.dtype)
	}
	setFloat(t, i, v, saturate, mode)
	return nil
}
