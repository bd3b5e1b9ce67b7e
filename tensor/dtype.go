package tensor

import "fmt"

// DType is an ONNX element type; its values are those of TensorProto.DataType.
type DType int32

// The element types of ONNX.
const (
	Undefined DType = iota
	Float32
	Uint8
	Int8
	Uint16
	Int16
	Int32
	Int64
	String
	Bool
	Float16
	Float64
	Uint32
	Uint64
	Complex64
	Complex128
	BFloat16
	Float8E4M3FN
	Float8E4M3FNUZ
	Float8E5M2
	Float8E5M2FNUZ
	Uint4
	Int4
	Float4E2M1
	Float8E8M0
	Uint2
	Int2
	numDTypes
)

// Element types that Go has no own type for. Each holds its bit pattern;
// the types narrower than a byte take one byte an element in memory and are
// packed only in files.
type (
	F16        uint16 // IEEE binary16
	BF16       uint16 // the upper half of a binary32
	F8E4M3FN   uint8
	F8E4M3FNUZ uint8
	F8E5M2     uint8
	F8E5M2FNUZ uint8
	U4         uint8 // 0..15
	I4         int8  // -8..7
	F4E2M1     uint8 // bit pattern in the low four bits
	F8E8M0     uint8
	U2         uint8 // 0..3
	I2         int8  // -2..1
)

// Element is every Go type that a tensor's elements can have.
type Element interface {
	float32 | uint8 | int8 | uint16 | int16 | int32 | int64 | string | bool | F16 | float64 |
		uint32 | uint64 | complex64 | complex128 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ |
		U4 | I4 | F4E2M1 | F8E8M0 | U2 | I2
}

type dtypeInfo struct {
	name string // as ONNX's type strings spell it, without "tensor()"
	size int    // bytes an element in memory; 0 for strings
	bits int    // bits an element in files
}

var dtypes = [numDTypes]dtypeInfo{
	Undefined: {"undefined", 0, 0}, Float32: {"float", 4, 32}, Uint8: {"uint8", 1, 8}, Int8: {"int8", 1, 8},
	Uint16: {"uint16", 2, 16}, Int16: {"int16", 2, 16}, Int32: {"int32", 4, 32}, Int64: {"int64", 8, 64},
	String: {"string", 0, 0}, Bool: {"bool", 1, 8}, Float16: {"float16", 2, 16}, Float64: {"double", 8, 64},
	Uint32: {"uint32", 4, 32}, Uint64: {"uint64", 8, 64}, Complex64: {"complex64", 8, 64},
	Complex128: {"complex128", 16, 128}, BFloat16: {"bfloat16", 2, 16},
	Float8E4M3FN: {"float8e4m3fn", 1, 8}, Float8E4M3FNUZ: {"float8e4m3fnuz", 1, 8},
	Float8E5M2: {"float8e5m2", 1, 8}, Float8E5M2FNUZ: {"float8e5m2fnuz", 1, 8},
	Uint4: {"uint4", 1, 4}, Int4: {"int4", 1, 4}, Float4E2M1: {"float4e2m1", 1, 4},
	Float8E8M0: {"float8e8m0", 1, 8}, Uint2: {"uint2", 1, 2}, Int2: {"int2", 1, 2},
}

// Valid reports whether d is one of ONNX's element types.
func (d DType) Valid() bool { return d > Undefined && d < numDTypes }

// String is ONNX's spelling: "float", "int64", "bfloat16".
func (d DType) String() string {
	if d < 0 || d >= numDTypes {
		return fmt.Sprintf("dtype(%d)", int32(d))
	}
	return dtypes[d].name
}

// Size is the bytes that an element takes in memory, 0 for strings.
func (d DType) Size() int {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].size
}

// Bits is the bits that an element takes in a file (4 for int4, 0 for strings).
func (d DType) Bits() int {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].bits
}

// IsFloat reports whether d is a floating-point type of any width.
func (d DType) IsFloat() bool {
	switch d {
	case Float32, Float64, Float16, BFloat16, Float8E4M3FN, Float8E4M3FNUZ, Float8E5M2, Float8E5M2FNUZ, Float4E2M1, Float8E8M0:
		return true
	}
	return false
}

// IsInteger reports whether d is a signed or unsigned integer type of any width.
func (d DType) IsInteger() bool {
	switch d {
	case Uint8, Int8, Uint16, Int16, Int32, Int64, Uint32, Uint64, Uint4, Int4, Uint2, Int2:
		return true
	}
	return false
}

// ParseDType is the inverse of [DType.String].
func ParseDType(name string) (DType, error) {
	for d, info := range dtypes {
		if d != 0 && info.name == name {
			return DType(d), nil
		}
	}
	return Undefined, fmt.Errorf("tensor: unknown element type %q", name)
}

// TypeOf is the element type whose Go type is T.
func TypeOf[T Element]() DType {
	var z T
	switch any(z).(type) {
	case float32:
		return Float32
	case uint8:
		return Uint8
	case int8:
		return Int8
	case uint16:
		return Uint16
	case int16:
		return Int16
	case int32:
		return Int32
	case int64:
		return Int64
	case string:
		return String
	case bool:
		return Bool
	case F16:
		return Float16
	case float64:
		return Float64
	case uint32:
		return Uint32
	case uint64:
		return Uint64
	case complex64:
		return Complex64
	case complex128:
		return Complex128
	case BF16:
		return BFloat16
	case F8E4M3FN:
		return Float8E4M3FN
	case F8E4M3FNUZ:
		return Float8E4M3FNUZ
	case F8E5M2:
		return Float8E5M2
	case F8E5M2FNUZ:
		return Float8E5M2FNUZ
	case U4:
		return Uint4
	case I4:
		return Int4
	case F4E2M1:
		return Float4E2M1
	case F8E8M0:
		return Float8E8M0
	case U2:
		return Uint2
	case I2:
		return Int2
	}
	return Undefined
}
