// Package tensor is the value that travels through everything else: a typed,
// row-major, contiguous array ([Tensor]), and beside it the other values that
// ONNX knows ([Sequence], [Optional], [Map]).
//
//	x := tensor.New([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
//	v := tensor.Data[float32](x) // the same memory
package tensor

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

// Value is what an ONNX value can be at run time: a [*Tensor], a [*Sequence],
// an [*Optional] or a [*Map].
type Value interface {
	// Kind is "tensor", "sequence", "optional" or "map".
	Kind() string
}

// Tensor is a row-major contiguous array. Its shape and type do not change
// once it is made; its elements can.
type Tensor struct {
	dtype DType
	shape []int
	buf   []byte   // elements, for all types but strings
	strs  []string // elements of a string tensor
	owner any      // keeps foreign memory (a mapped file) alive
}

// Sequence is an ordered list of values of one type.
type Sequence struct {
	Elem   DType // element type of its tensors, where known
	Values []Value
}

// Optional holds a value or none (Value is nil).
type Optional struct{ Value Value }

// Map holds values under integer or string keys; both sides are 1-D tensors of
// equal length (a map of tensors is a Sequence in Values).
type Map struct {
	Keys   *Tensor
	Values Value
}

func (*Tensor) Kind() string   { return "tensor" }
func (*Sequence) Kind() string { return "sequence" }
func (*Optional) Kind() string { return "optional" }
func (*Map) Kind() string      { return "map" }

// ErrShape is wrapped by the errors about sizes that are negative or overflow.
var ErrShape = errors.New("tensor: bad shape")

// maxBytes bounds what a single tensor may claim; a real machine's limit comes earlier.
const maxBytes = math.MaxInt / 4

// NumElements is the product of the dimensions of shape (1 for a scalar). It is
// an error wrapping [ErrShape] if one is negative or the product overflows.
func NumElements(shape []int) (int, error) {
	n, zero := uint64(1), false
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: negative dimension in %v", ErrShape, shape)
		}
		if d == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > maxBytes {
			return 0, fmt.Errorf("%w: %v overflows", ErrShape, shape)
		}
		n = lo
	}
	if zero {
		return 0, nil
	}
	return int(n), nil
}

// ByteSize is the bytes that a tensor of this type and shape takes in memory
// (strings count 16 bytes each). It fails as [NumElements] does.
func ByteSize(d DType, shape []int) (int, error) {
	n, err := NumElements(shape)
	if err != nil {
		return 0, err
	}
	size := d.Size()
	if d == String {
		size = int(unsafe.Sizeof(""))
	}
	if size > 0 && n > maxBytes/size {
		return 0, fmt.Errorf("%w: %s%v overflows", ErrShape, d, shape)
	}
	return n * size, nil
}

// New makes a tensor over data, without copying it. Without a shape it is
// 1-D of data's length; a scalar is made by [Scalar].
// It panics if the shape does not hold len(data) elements: that is a mistake
// in the program; data of unknown origin goes through [FromSlice].
func New[T Element](data []T, shape ...int) *Tensor {
	if shape == nil {
		shape = []int{len(data)}
	}
	t, err := FromSlice(data, shape)
	if err != nil {
		panic(err)
	}
	return t
}

// FromSlice is [New] with an error in place of the panic.
func FromSlice[T Element](data []T, shape []int) (*Tensor, error) {
	n, err := NumElements(shape)
	if err != nil {
		return nil, err
	}
	if n != len(data) {
		return nil, fmt.Errorf("%w: %v holds %d elements, not %d", ErrShape, shape, n, len(data))
	}
	return over(data, shape), nil
}

func over[T Element](data []T, shape []int) *Tensor {
	t := &Tensor{dtype: TypeOf[T](), shape: append([]int{}, shape...)}
	if s, ok := any(data).([]string); ok {
		t.strs = s
	} else if len(data) > 0 {
		p := unsafe.Pointer(unsafe.SliceData(data))
		t.buf = unsafe.Slice((*byte)(p), len(data)*int(unsafe.Sizeof(data[0])))
	}
	return t
}

// Scalar is a tensor of rank 0.
func Scalar[T Element](v T) *Tensor { return over([]T{v}, nil) }

// Zeros makes a tensor of zeros (empty strings). It fails as [NumElements] does,
// or if d is no element type.
func Zeros(d DType, shape ...int) (*Tensor, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("tensor: %s is no element type", d)
	}
	size, err := ByteSize(d, shape)
	if err != nil {
		return nil, err
	}
	t := &Tensor{dtype: d, shape: slices.Clone(shape)}
	if t.shape == nil {
		t.shape = []int{}
	}
	if d == String {
		t.strs = make([]string, size/int(unsafe.Sizeof("")))
	} else {
		t.buf = AlignedBytes(size)
	}
	return t, nil
}

// AlignedBytes allocates n zero bytes whose start suits every element type.
func AlignedBytes(n int) []byte {
	if n == 0 {
		return nil
	}
	words := make([]complex128, (n+15)/16)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
}

// FromBytes makes a tensor over the in-memory bytes of its elements (native byte
// order, [DType.Size] bytes each) without copying; owner, if not nil, is kept alive
// as long as the tensor is. Strings are refused.
func FromBytes(d DType, shape []int, buf []byte, owner any) (*Tensor, error) {
	if d == String || !d.Valid() {
		return nil, fmt.Errorf("tensor: no %s elements from bytes", d)
	}
	size, err := ByteSize(d, shape)
	if err != nil {
		return nil, err
	}
	if size != len(buf) {
		return nil, fmt.Errorf("%w: %s%v takes %d bytes, not %d", ErrShape, d, shape, size, len(buf))
	}
	s := slices.Clone(shape)
	if s == nil {
		s = []int{}
	}
	return &Tensor{dtype: d, shape: s, buf: buf, owner: owner}, nil
}

// Reset makes t a tensor over buf as [FromBytes] does, reusing t and its shape
// slice, for callers that run a plan again and again. The caller vouches that no
// one else holds t and that buf holds exactly the elements.
func (t *Tensor) Reset(d DType, shape []int, buf []byte) {
	t.dtype, t.buf, t.strs, t.owner = d, buf, nil, nil
	t.shape = append(t.shape[:0], shape...)
}

// DType is the element type.
func (t *Tensor) DType() DType { return t.dtype }

// Shape is the list of dimensions, empty for a scalar. It must not be changed.
func (t *Tensor) Shape() []int { return t.shape }

// Rank is the number of dimensions.
func (t *Tensor) Rank() int { return len(t.shape) }

// Len is the number of elements.
func (t *Tensor) Len() int {
	if t.dtype == String {
		return len(t.strs)
	}
	return len(t.buf) / t.dtype.Size()
}

// Bytes is the elements' memory, nil for strings.
func (t *Tensor) Bytes() []byte { return t.buf }

// Data is the elements of t as a slice over the same memory. It panics if T is not
// t's element type; ask [Tensor.DType] first where the type comes from a file.
func Data[T Element](t *Tensor) []T {
	if want := TypeOf[T](); t.dtype != want {
		panic(fmt.Sprintf("tensor: elements are %s, not %s", t.dtype, want))
	}
	return View[T](t)
}

// View is the elements of t seen as Ts of the same size, whatever t's type is
// (an int8 tensor as []uint8, any 4-byte type as []uint32): for code that only
// moves elements. It panics if the sizes differ.
func View[T Element](t *Tensor) []T {
	var z T
	if t.dtype == String {
		s, ok := any(t.strs).([]T)
		if !ok {
			panic("tensor: strings viewed as " + TypeOf[T]().String())
		}
		return s
	}
	if int(unsafe.Sizeof(z)) != t.dtype.Size() {
		panic(fmt.Sprintf("tensor: %s viewed as %s", t.dtype, TypeOf[T]()))
	}
	if len(t.buf) == 0 {
		return []T{}
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&t.buf[0])), len(t.buf)/int(unsafe.Sizeof(z)))
}

// Clone copies t and its elements into fresh memory.
func (t *Tensor) Clone() *Tensor {
	c := &Tensor{dtype: t.dtype, shape: slices.Clone(t.shape), strs: slices.Clone(t.strs)}
	if t.buf != nil {
		c.buf = AlignedBytes(len(t.buf))
		copy(c.buf, t.buf)
	}
	if c.shape == nil {
		c.shape = []int{}
	}
	return c
}

// Reshape is a tensor of another shape over the same memory.
func (t *Tensor) Reshape(shape ...int) (*Tensor, error) {
	n, err := NumElements(shape)
	if err != nil {
		return nil, err
	}
	if n != t.Len() {
		return nil, fmt.Errorf("%w: %v does not hold the %d elements of %v", ErrShape, shape, t.Len(), t.shape)
	}
	c := *t
	c.shape = append([]int{}, shape...)
	return &c, nil
}

// String is the type and shape, as "float[2,3]".
func (t *Tensor) String() string {
	b := []byte(t.dtype.String())
	b = append(b, '[')
	for i, d := range t.shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Append(b, d)
	}
	return string(append(b, ']'))
}

// Int64s is the elements of an int32 or int64 tensor as int64s, for shapes, axes and
// the like. The slice may be t's own memory.
func (t *Tensor) Int64s() ([]int64, error) {
	switch t.dtype {
	case Int64:
		return View[int64](t), nil
	case Int32:
		out := make([]int64, t.Len())
		for i, v := range View[int32](t) {
			out[i] = int64(v)
		}
		return out, nil
	}
	return nil, fmt.Errorf("tensor: want int64 elements, got %s", t.dtype)
}
