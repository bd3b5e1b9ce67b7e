// Package safetensors reads and writes .safetensors files, the format of Hugging Face's models.
//
// The code is our own: nlpodyssey/safetensors knows none of the 8-bit floats nor complex numbers, and holds a
// file's tensors in a map, so that the order of the names, which is the model's, is lost.
//
// The format: https://github.com/huggingface/safetensors#format
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"unsafe"

	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/tensor"
)

// maxHeader is the reference implementation's limit.
const maxHeader = 100_000_000

// maxRank is more than any framework has dimensions.
const maxRank = 64

// File is the content of a .safetensors file.
type File struct {
	Names    []string // in the header's order
	Tensors  map[string]*tensor.Tensor
	Metadata map[string]string // "__metadata__", nil if there is none
}

var dtypes = map[string]tensor.DType{
	"BOOL": tensor.Bool, "U8": tensor.Uint8, "I8": tensor.Int8, "U16": tensor.Uint16, "I16": tensor.Int16,
	"U32": tensor.Uint32, "I32": tensor.Int32, "U64": tensor.Uint64, "I64": tensor.Int64,
	"F16": tensor.Float16, "BF16": tensor.BFloat16, "F32": tensor.Float32, "F64": tensor.Float64,
	"F8_E4M3": tensor.Float8E4M3FN, "F8_E5M2": tensor.Float8E5M2, "F8_E8M0": tensor.Float8E8M0,
	"F8_E4M3FNUZ": tensor.Float8E4M3FNUZ, "F8_E5M2FNUZ": tensor.Float8E5M2FNUZ,
	"F4": tensor.Float4E2M1, "C64": tensor.Complex64,
}

var names = func() map[tensor.DType]string {
	m := map[tensor.DType]string{}
	for n, d := range dtypes {
		m[d] = n
	}
	return m
}()

type entry struct {
	DType   *string  `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets []uint64 `json:"data_offsets"`

	name  string
	dtype tensor.DType
	bytes int // in the file
}

// Decode reads the bytes of a .safetensors file. Tensors share memory with data where that is possible (where
// their elements lie aligned, and are not packed), so data must not change afterwards.
func Decode(data []byte) (*File, error) {
	if len(data) < 8 {
		return nil, errors.New("safetensors: not a .safetensors file")
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxHeader || n > uint64(len(data)-8) {
		return nil, fmt.Errorf("safetensors: a header of %d bytes is claimed, the file has %d", n, len(data))
	}
	text, body := data[8:8+n], data[8+n:]
	f := &File{Tensors: map[string]*tensor.Tensor{}}
	entries, err := f.header(text)
	if err != nil {
		return nil, fmt.Errorf("safetensors: header: %w", err)
	}
	// The format wants every byte to be in exactly one tensor.
	byPlace := slices.Clone(entries)
	slices.SortStableFunc(byPlace, func(a, b *entry) int {
		for i := range 2 {
			if a.Offsets[i] != b.Offsets[i] {
				if a.Offsets[i] < b.Offsets[i] {
					return -1
				}
				return 1
			}
		}
		return 0
	})
	at := uint64(0)
	for _, e := range byPlace {
		if e.Offsets[0] != at || e.Offsets[1] < at || e.Offsets[1] > uint64(len(body)) {
			return nil, fmt.Errorf("safetensors: tensor %q: bytes %d to %d overlap another's, leave a gap or pass the end", e.name, e.Offsets[0], e.Offsets[1])
		}
		if at = e.Offsets[1]; at-e.Offsets[0] != uint64(e.bytes) {
			return nil, fmt.Errorf("safetensors: tensor %q: %s%v takes %d bytes, not %d", e.name, e.dtype, e.Shape, e.bytes, at-e.Offsets[0])
		}
	}
	if at != uint64(len(body)) {
		return nil, fmt.Errorf("safetensors: the tensors end at byte %d of %d", at, len(body))
	}
	for _, e := range entries {
		t, err := tensor.FromBytes(e.dtype, e.Shape, unpack(e.dtype, body[e.Offsets[0]:e.Offsets[1]]), nil)
		if err != nil {
			return nil, fmt.Errorf("safetensors: tensor %q: %w", e.name, err)
		}
		f.Names = append(f.Names, e.name)
		f.Tensors[e.name] = t
	}
	return f, nil
}

// header reads the JSON object by token, for its order and to see names that occur twice.
func (f *File) header(text []byte) ([]*entry, error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, errors.New("it is no JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	var entries []*entry
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := tok.(string)
		if !ok || seen[name] {
			return nil, fmt.Errorf("the name %v occurs twice", tok)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := dec.Decode(&f.Metadata); err != nil {
				return nil, fmt.Errorf("__metadata__: %w", err)
			}
			continue
		}
		e := &entry{name: name}
		if err := dec.Decode(e); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		if e.DType == nil || e.Shape == nil || len(e.Offsets) != 2 || len(e.Shape) > maxRank {
			return nil, fmt.Errorf("tensor %q has not a dtype, a shape and two data_offsets", name)
		}
		if e.dtype, ok = dtypes[*e.DType]; !ok {
			return nil, fmt.Errorf("tensor %q: element type %q is not known", name, *e.DType)
		}
		// ByteSize is of memory; only F4 differs in the file.
		if e.bytes, err = tensor.ByteSize(e.dtype, e.Shape); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		if e.dtype == tensor.Float4E2M1 {
			if e.bytes%2 != 0 {
				return nil, fmt.Errorf("tensor %q: %d elements of four bits end within a byte", name, e.bytes)
			}
			e.bytes /= 2
		}
		entries = append(entries, e)
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, err
	}
	if rest := bytes.TrimRight(text[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, errors.New("something follows the JSON object")
	}
	return entries, nil
}

// unpack gives the elements as they lie in memory, without copying where they already do.
func unpack(d tensor.DType, b []byte) []byte {
	switch {
	case len(b) == 0:
		return nil
	case d == tensor.Float4E2M1:
		out := tensor.AlignedBytes(2 * len(b))
		for i, v := range b {
			out[2*i], out[2*i+1] = v&15, v>>4
		}
		return out
	case d == tensor.Bool:
		// A Go bool must not be anything but 0 and 1.
		out := tensor.AlignedBytes(len(b))
		for i, v := range b {
			if v != 0 {
				out[i] = 1
			}
		}
		return out
	case uintptr(unsafe.Pointer(&b[0]))%uintptr(alignment(d)) != 0:
		out := tensor.AlignedBytes(len(b))
		copy(out, b)
		return out
	}
	return b
}

func alignment(d tensor.DType) int {
	if d == tensor.Complex64 {
		return 4
	}
	return d.Size()
}

// Read reads a .safetensors file.
func Read(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Encode writes f. The header names the tensors in the order of f.Names (or sorted, if that is
// nil); the elements follow by falling alignment, as the reference implementation has it. Strings, complex128
// and the 2- and 4-bit integers have no place in the format.
func (f *File) Encode(w io.Writer) error {
	order := f.Names
	if order == nil {
		order = slices.Sorted(maps.Keys(f.Tensors))
	}
	if len(order) != len(f.Tensors) {
		return fmt.Errorf("safetensors: %d names for %d tensors", len(order), len(f.Tensors))
	}
	entries := make([]*entry, len(order))
	seen := map[string]bool{"__metadata__": true}
	for i, name := range order {
		t := f.Tensors[name]
		if t == nil || seen[name] {
			return fmt.Errorf("safetensors: %q is not the name of one tensor", name)
		}
		seen[name] = true
		code, ok := names[t.DType()]
		if !ok {
			return fmt.Errorf("safetensors: tensor %q: the format has no %s", name, t.DType())
		}
		e := &entry{name: name, dtype: t.DType(), DType: &code, Shape: t.Shape(), bytes: len(t.Bytes())}
		if e.dtype == tensor.Float4E2M1 {
			if e.bytes%2 != 0 {
				return fmt.Errorf("safetensors: tensor %q: %d elements of four bits end within a byte", name, e.bytes)
			}
			e.bytes /= 2
		}
		entries[i] = e
	}
	byPlace := slices.Clone(entries)
	slices.SortStableFunc(byPlace, func(a, b *entry) int { return b.dtype.Size() - a.dtype.Size() })
	at := uint64(0)
	for _, e := range byPlace {
		e.Offsets = []uint64{at, at + uint64(e.bytes)}
		at += uint64(e.bytes)
	}
	head, err := f.encodeHeader(entries)
	if err != nil {
		return err
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, e := range byPlace {
		b := f.Tensors[e.name].Bytes()
		if e.dtype == tensor.Float4E2M1 {
			b = pack(b)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) encodeHeader(entries []*entry) ([]byte, error) {
	var b bytes.Buffer
	put := func(key string, value any) error {
		lead := byte(',')
		if b.Len() == 0 {
			lead = '{'
		}
		b.WriteByte(lead)
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(key); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1) // the encoder's line feed
		b.WriteByte(':')
		if err := enc.Encode(value); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1)
		return nil
	}
	if f.Metadata != nil {
		if err := put("__metadata__", f.Metadata); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		if err := put(e.name, e); err != nil {
			return nil, err
		}
	}
	if b.Len() == 0 {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 { // so that the elements are aligned in the file
		b.WriteByte(' ')
	}
	if b.Len() > maxHeader {
		return nil, fmt.Errorf("safetensors: a header of %d bytes is more than the format allows", b.Len())
	}
	return b.Bytes(), nil
}

func pack(b []byte) []byte {
	out := make([]byte, len(b)/2)
	for i := range out {
		out[i] = b[2*i]&15 | b[2*i+1]<<4
	}
	return out
}

// Write writes f to path as [File.Encode] does; the file is whole or not there.
func (f *File) Write(path string) error { return wholefile.Write(path, f.Encode) }
