package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// decoder reads the messages of one file.
type decoder struct {
	raws  [][]byte                           // if not nil, raw_data is a place in it: see [skeleton]
	open  func(name string) (fs.File, error) // a file beside the model, nil if there can be none
	files map[string][]byte
	unmap []func() error

	inFunction bool // where attributes may refer to those of the call
}

var bigEndian = binary.NativeEndian.Uint16([]byte{1, 0}) != 1

// anyAlignment says that the processor reads elements at any address.
var anyAlignment = slices.Contains([]string{"amd64", "arm64", "386", "wasm", "ppc64le", "s390x"}, runtime.GOARCH)

func intsOf(dims []int64) ([]int, error) {
	out := make([]int, len(dims))
	for i, d := range dims {
		if d < 0 || d > math.MaxInt {
			return nil, fmt.Errorf("%w: dimension %d", tensor.ErrShape, d)
		}
		out[i] = int(d)
	}
	return out, nil
}

// tensor decodes p; sizes are compared with the bytes that are there before anything is allocated.
func (d *decoder) tensor(p *onnxpb.TensorProto) (*tensor.Tensor, error) {
	if d.raws != nil && p.RawData != nil {
		p.RawData = d.raws[binary.LittleEndian.Uint32(p.RawData)]
	}
	dt := tensor.DType(p.GetDataType())
	if !dt.Valid() {
		return nil, fmt.Errorf("element type %d is not known", p.GetDataType())
	}
	shape, err := intsOf(p.Dims)
	if err != nil {
		return nil, err
	}
	n, err := tensor.NumElements(shape)
	if err != nil {
		return nil, err
	}
	if n > math.MaxInt/128 {
		return nil, fmt.Errorf("%w: %s%v overflows", tensor.ErrShape, dt, shape)
	}
	if p.Segment != nil {
		return nil, errors.New("tensors in segments are not supported")
	}
	external := p.GetDataLocation() == int32(onnxpb.TensorProto_EXTERNAL)
	if dt == tensor.String {
		if external || p.RawData != nil {
			return nil, errors.New("strings cannot be raw or external data")
		}
		if n != len(p.StringData) {
			return nil, fmt.Errorf("%s%v needs %d strings, the file has %d", dt, shape, n, len(p.StringData))
		}
		ss := make([]string, n)
		for i, s := range p.StringData {
			ss[i] = string(s)
		}
		return tensor.FromSlice(ss, shape)
	}
	raw := p.RawData
	if external {
		if raw, err = d.external(p.ExternalData); err != nil {
			return nil, err
		}
	}
	if raw != nil {
		return fromRaw(dt, shape, n, raw)
	}
	return fromFields(dt, shape, n, p)
}

// head is what p says beside type, shape and elements; nil if that is nothing but the name, unless named.
func head(p *onnxpb.TensorProto, named bool) *onnxpb.TensorProto {
	unknown := p.ProtoReflect().GetUnknown()
	if !(named && p.Name != nil) && p.DocString == nil && p.MetadataProps == nil && unknown == nil {
		return nil
	}
	h := &onnxpb.TensorProto{Name: p.Name, DocString: p.DocString, MetadataProps: p.MetadataProps}
	h.ProtoReflect().SetUnknown(unknown)
	return h
}

func fromRaw(dt tensor.DType, shape []int, n int, raw []byte) (*tensor.Tensor, error) {
	bits := dt.Bits()
	if want := (n*bits + 7) / 8; want != len(raw) {
		return nil, fmt.Errorf("%s%v takes %d bytes, the file has %d", dt, shape, want, len(raw))
	}
	switch {
	case bits < 8:
		return unpack(dt, shape, n, func(i int) byte { return raw[i] })
	case dt == tensor.Bool:
		if slices.ContainsFunc(raw, func(b byte) bool { return b > 1 }) {
			raw = slices.Clone(raw)
			for i, b := range raw {
				raw[i] = min(b, 1) // Go's bool knows no other bits
			}
		}
	case bigEndian:
		raw = swapped(dt, raw)
	case !anyAlignment && n > 0 && uintptr(unsafe.Pointer(&raw[0]))%uintptr(min(dt.Size(), 8)) != 0:
		aligned := tensor.AlignedBytes(len(raw))
		copy(aligned, raw)
		raw = aligned
	}
	return tensor.FromBytes(dt, shape, raw, nil)
}

// swapped turns the bytes of each number around, in fresh memory.
func swapped(dt tensor.DType, raw []byte) []byte {
	out := tensor.AlignedBytes(len(raw))
	copy(out, raw)
	size := dt.Size()
	if dt == tensor.Complex64 || dt == tensor.Complex128 {
		size /= 2
	}
	for i := 0; i+size <= len(out); i += size {
		slices.Reverse(out[i : i+size])
	}
	return out
}

// unpack spreads elements narrower than a byte, the first in the low bits, over a byte each.
func unpack(dt tensor.DType, shape []int, n int, at func(i int) byte) (*tensor.Tensor, error) {
	bits := dt.Bits()
	per, mask := 8/bits, byte(1)<<bits-1
	buf := make([]byte, n)
	for i := range buf {
		v := at(i/per) >> (bits * (i % per)) & mask
		if (dt == tensor.Int4 || dt == tensor.Int2) && v>>(bits-1) == 1 {
			v |= ^mask
		}
		buf[i] = v
	}
	return tensor.FromBytes(dt, shape, buf, nil)
}

// fromFields reads the field that the standard has for the type.
func fromFields(dt tensor.DType, shape []int, n int, p *onnxpb.TensorProto) (*tensor.Tensor, error) {
	have, want := 0, n
	switch dt {
	case tensor.Float32:
		have = len(p.FloatData)
	case tensor.Float64:
		have = len(p.DoubleData)
	case tensor.Int64:
		have = len(p.Int64Data)
	case tensor.Uint32, tensor.Uint64:
		have = len(p.Uint64Data)
	case tensor.Complex64:
		have, want = len(p.FloatData), 2*n
	case tensor.Complex128:
		have, want = len(p.DoubleData), 2*n
	default:
		have = len(p.Int32Data)
		if dt.Bits() < 8 {
			per := 8 / dt.Bits()
			want = (n + per - 1) / per
		}
	}
	if have != want {
		return nil, fmt.Errorf("%s%v needs %d numbers, the file has %d", dt, shape, want, have)
	}
	switch dt {
	case tensor.Float32:
		return tensor.FromSlice(p.FloatData, shape)
	case tensor.Float64:
		return tensor.FromSlice(p.DoubleData, shape)
	case tensor.Int64:
		return tensor.FromSlice(p.Int64Data, shape)
	case tensor.Int32:
		return tensor.FromSlice(p.Int32Data, shape)
	case tensor.Uint64:
		return tensor.FromSlice(p.Uint64Data, shape)
	case tensor.Uint32:
		out := make([]uint32, n)
		for i, v := range p.Uint64Data {
			out[i] = uint32(v)
		}
		return tensor.FromSlice(out, shape)
	case tensor.Complex64:
		out := make([]complex64, n)
		for i := range out {
			out[i] = complex(p.FloatData[2*i], p.FloatData[2*i+1])
		}
		return tensor.FromSlice(out, shape)
	case tensor.Complex128:
		out := make([]complex128, n)
		for i := range out {
			out[i] = complex(p.DoubleData[2*i], p.DoubleData[2*i+1])
		}
		return tensor.FromSlice(out, shape)
	}
	if dt.Bits() < 8 {
		return unpack(dt, shape, n, func(i int) byte { return byte(p.Int32Data[i]) })
	}
	t, err := tensor.Zeros(dt, shape...)
	if err != nil {
		return nil, err
	}
	b := t.Bytes()
	for i, v := range p.Int32Data {
		switch {
		case dt == tensor.Bool:
			if v != 0 {
				b[i] = 1
			}
		case dt.Size() == 1:
			b[i] = byte(v)
		default:
			binary.NativeEndian.PutUint16(b[2*i:], uint16(v))
		}
	}
	return t, nil
}

// sparseSource is a sparse tensor as the file has it, and the dense one that the graph holds for it. It is
// written back as long as the graph holds the same tensor.
type sparseSource struct {
	proto *onnxpb.SparseTensorProto
	dense *tensor.Tensor
}

// maxDense bounds the bytes that a sparse tensor may become, which its file's size does not.
const maxDense = 1 << 28

// sparse decodes a sparse tensor and makes it dense.
func (d *decoder) sparse(p *onnxpb.SparseTensorProto) (*sparseSource, error) {
	if p.Values == nil || p.Indices == nil {
		return nil, errors.New("sparse tensor without values or indices")
	}
	values, err := d.tensor(p.Values)
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	indices, err := d.tensor(p.Indices)
	if err != nil {
		return nil, fmt.Errorf("indices: %w", err)
	}
	shape, err := intsOf(p.Dims)
	if err != nil {
		return nil, err
	}
	size, err := tensor.ByteSize(values.DType(), shape)
	if err != nil {
		return nil, err
	}
	if size > maxDense {
		return nil, fmt.Errorf("sparse %s%v takes more than %d bytes when it is dense", values.DType(), shape, maxDense)
	}
	if indices.DType() != tensor.Int64 {
		return nil, fmt.Errorf("indices of a sparse tensor are %s, not int64", indices.DType())
	}
	idx, nnz, rank := tensor.Data[int64](indices), values.Len(), len(shape)
	if len(idx) != nnz && len(idx) != nnz*rank {
		return nil, fmt.Errorf("sparse tensor has %d values but %d indices", nnz, len(idx))
	}
	out, err := tensor.Zeros(values.DType(), shape...)
	if err != nil {
		return nil, err
	}
	for i := range nnz {
		at := int64(0)
		if indices.Rank() < 2 {
			at = idx[i]
		} else {
			for k, dim := range shape {
				x := idx[i*rank+k]
				if x < 0 || x >= int64(dim) {
					return nil, fmt.Errorf("sparse index %d is outside dimension %d", x, dim)
				}
				at = at*int64(dim) + x
			}
		}
		if at < 0 || at >= int64(out.Len()) {
			return nil, fmt.Errorf("sparse index %d is outside %v", at, shape)
		}
		if values.DType() == tensor.String {
			tensor.Data[string](out)[at] = tensor.Data[string](values)[i]
			continue
		}
		w := values.DType().Size()
		copy(out.Bytes()[int(at)*w:][:w], values.Bytes()[i*w:])
	}
	return &sparseSource{p, out}, nil
}

// sparseProto is the elements of t that are not all zero bits, with their places.
func sparseProto(t *tensor.Tensor) (*onnxpb.SparseTensorProto, error) {
	var at []int64
	p := &onnxpb.SparseTensorProto{}
	for _, d := range t.Shape() {
		p.Dims = append(p.Dims, int64(d))
	}
	var values *tensor.Tensor
	var err error
	if t.DType() == tensor.String {
		var vs []string
		for i, s := range tensor.Data[string](t) {
			if s != "" {
				vs, at = append(vs, s), append(at, int64(i))
			}
		}
		values, err = tensor.FromSlice(vs, []int{len(at)})
	} else {
		var vs []byte
		size := t.DType().Size()
		for i := range t.Len() {
			e := t.Bytes()[i*size : (i+1)*size]
			if slices.ContainsFunc(e, func(b byte) bool { return b != 0 }) {
				vs, at = append(vs, e...), append(at, int64(i))
			}
		}
		values, err = tensor.FromBytes(t.DType(), []int{len(at)}, vs, nil)
	}
	if err != nil {
		return nil, err
	}
	p.Values, p.Indices = tensorProto(values, nil), tensorProto(tensor.New(at), nil)
	return p, nil
}

// tensorProto is t on the wire, its elements as raw bytes (t's own memory, where it can be), with what head
// says of it.
func tensorProto(t *tensor.Tensor, head *onnxpb.TensorProto) *onnxpb.TensorProto {
	p := &onnxpb.TensorProto{}
	if head != nil {
		p = proto.Clone(head).(*onnxpb.TensorProto)
	}
	p.DataType = proto.Int32(int32(t.DType()))
	for _, d := range t.Shape() {
		p.Dims = append(p.Dims, int64(d))
	}
	if t.DType() == tensor.String {
		for _, s := range tensor.Data[string](t) {
			p.StringData = append(p.StringData, []byte(s))
		}
		return p
	}
	raw := t.Bytes()
	if bits := t.DType().Bits(); bits < 8 {
		per, mask := 8/bits, byte(1)<<bits-1
		packed := make([]byte, (len(raw)+per-1)/per)
		for i, b := range raw {
			packed[i/per] |= b & mask << (bits * (i % per))
		}
		raw = packed
	} else if bigEndian {
		raw = swapped(t.DType(), raw)
	}
	if raw == nil {
		raw = []byte{}
	}
	p.RawData = raw
	return p
}

// DecodeTensor reads a TensorProto, as in the .pb files of test data, and its name.
func DecodeTensor(data []byte) (*tensor.Tensor, string, error) {
	var p onnxpb.TensorProto
	if err := proto.Unmarshal(data, &p); err != nil {
		return nil, "", fmt.Errorf("not a TensorProto: %w", err)
	}
	t, err := (&decoder{}).tensor(&p)
	return t, p.GetName(), err
}

// EncodeTensor is t as a TensorProto file, the inverse of [DecodeTensor].
func EncodeTensor(t *tensor.Tensor, name string) ([]byte, error) {
	return proto.Marshal(tensorProto(t, &onnxpb.TensorProto{Name: str(name)}))
}
