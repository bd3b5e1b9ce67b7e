// Package npy reads and writes NumPy's .npy and .npz files.
//
// The code is our own because the files carry element types that the Go library
// for them (sbinet/npyio) has none of, float16 and fixed-width strings among them, and because
// sizes that a header claims must be held against the file before memory is taken.
package npy

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/retune-go/retune/tensor"
)

var magic = []byte("\x93NUMPY")

// codes are numpy's type codes, without the byte order.
var codes = map[string]tensor.DType{
	"f4": tensor.Float32, "f8": tensor.Float64, "f2": tensor.Float16, "b1": tensor.Bool,
	"i1": tensor.Int8, "i2": tensor.Int16, "i4": tensor.Int32, "i8": tensor.Int64,
	"u1": tensor.Uint8, "u2": tensor.Uint16, "u4": tensor.Uint32, "u8": tensor.Uint64,
	"c8": tensor.Complex64, "c16": tensor.Complex128,
}

var (
	descr   = regexp.MustCompile(`'descr'\s*:\s*'([<>|=]?)([a-zA-Z])(\d+)'`)
	fortran = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	shapeRE = regexp.MustCompile(`'shape'\s*:\s*\(([^)]*)\)`)
)

// Decode reads the bytes of a .npy file.
func Decode(data []byte) (*tensor.Tensor, error) {
	if len(data) < 10 || !bytes.HasPrefix(data, magic) {
		return nil, errors.New("npy: not a .npy file")
	}
	at, n := 10, int(binary.LittleEndian.Uint16(data[8:]))
	if data[6] >= 2 {
		if len(data) < 12 {
			return nil, errors.New("npy: truncated header")
		}
		at, n = 12, int(binary.LittleEndian.Uint32(data[8:]))
	}
	if n > len(data)-at {
		return nil, errors.New("npy: truncated header")
	}
	header, body := string(data[at:at+n]), data[at+n:]
	d, f, s := descr.FindStringSubmatch(header), fortran.FindStringSubmatch(header), shapeRE.FindStringSubmatch(header)
	if d == nil || f == nil || s == nil {
		return nil, fmt.Errorf("npy: header %q is not understood", header[:min(len(header), 80)])
	}
	var shape []int
	for _, p := range strings.Split(s[1], ",") {
		if p = strings.TrimSuffix(strings.TrimSpace(p), "L"); p == "" {
			continue
		}
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("npy: bad dimension %q", p)
		}
		shape = append(shape, v)
	}
	count, err := tensor.NumElements(shape)
	if err != nil {
		return nil, err
	}
	width, err := strconv.Atoi(d[3])
	if err != nil {
		return nil, err
	}
	if d[2] == "U" || d[2] == "S" {
		t, err := decodeText(d[1], d[2], width, count, shape, body)
		if err != nil || f[1] == "False" {
			return t, err
		}
		return nil, errors.New("npy: strings in Fortran order are not supported")
	}
	dt, ok := codes[d[2]+d[3]]
	if !ok {
		return nil, fmt.Errorf("npy: element type %s%s is not supported", d[2], d[3])
	}
	if count > len(body)/width || count*width != len(body) {
		return nil, fmt.Errorf("npy: %s%v takes %d bytes, the file has %d", dt, shape, count*width, len(body))
	}
	buf := tensor.AlignedBytes(len(body))
	copy(buf, body)
	if d[1] == ">" {
		word := width
		if d[2] == "c" {
			word /= 2
		}
		for i := 0; i+word <= len(buf); i += word {
			slices.Reverse(buf[i : i+word])
		}
	}
	if dt == tensor.Bool {
		for i, b := range buf {
			if b > 1 {
				buf[i] = 1
			}
		}
	}
	if f[1] == "True" && len(shape) > 1 {
		buf = rowMajor(buf, shape, width)
	}
	return tensor.FromBytes(dt, shape, buf, nil)
}

func decodeText(order, kind string, width, count int, shape []int, body []byte) (*tensor.Tensor, error) {
	size := width
	if kind == "U" {
		size *= 4
	}
	if size < 0 || size > 0 && count > len(body)/size || count*size != len(body) || size == 0 && count > 1<<20 {
		return nil, fmt.Errorf("npy: %d strings of %d bytes are not what the file holds", count, size)
	}
	out := make([]string, count)
	for i := range out {
		b := body[i*size : (i+1)*size]
		if kind == "S" {
			out[i] = string(bytes.TrimRight(b, "\x00"))
			continue
		}
		var sb strings.Builder
		for j := 0; j < len(b); j += 4 {
			r := binary.LittleEndian.Uint32(b[j:])
			if order == ">" {
				r = binary.BigEndian.Uint32(b[j:])
			}
			if r != 0 {
				sb.WriteRune(rune(r))
			}
		}
		out[i] = sb.String()
	}
	return tensor.FromSlice(out, shape)
}

// rowMajor re-orders column-major elements.
func rowMajor(src []byte, shape []int, width int) []byte {
	out := tensor.AlignedBytes(len(src))
	index := make([]int, len(shape))
	for i := 0; i < len(out)/width; i++ {
		at, stride := 0, 1
		for k, x := range index {
			at += x * stride
			stride *= shape[k]
		}
		copy(out[i*width:(i+1)*width], src[at*width:])
		for k := len(shape) - 1; k >= 0; k-- {
			if index[k]++; index[k] < shape[k] {
				break
			}
			index[k] = 0
		}
	}
	return out
}

// Encode is t as the bytes of a .npy file. bfloat16 and the narrower floats, which numpy has not,
// are widened to float32; 4- and 2-bit integers take a byte.
func Encode(t *tensor.Tensor) ([]byte, error) {
	code := ""
	body := t.Bytes()
	switch d := t.DType(); d {
	case tensor.String:
		width := 1
		for _, s := range tensor.Data[string](t) {
			width = max(width, len([]rune(s)))
		}
		code = fmt.Sprintf("<U%d", width)
		body = make([]byte, 4*width*t.Len())
		for i, s := range tensor.Data[string](t) {
			for j, r := range []rune(s) {
				binary.LittleEndian.PutUint32(body[4*(i*width+j):], uint32(r))
			}
		}
	case tensor.Uint4, tensor.Uint2:
		code = "|u1"
	case tensor.Int4, tensor.Int2:
		code = "|i1"
	default:
		for c, e := range codes {
			if e == d {
				code = "<" + c
				if d.Size() == 1 {
					code = "|" + c
				}
			}
		}
		if code == "" {
			w, err := tensor.Convert(t, tensor.Float32, true)
			if err != nil {
				return nil, err
			}
			code, body = "<f4", w.Bytes()
		}
	}
	dims := make([]string, t.Rank())
	for i, d := range t.Shape() {
		dims[i] = strconv.Itoa(d)
	}
	shape := strings.Join(dims, ", ")
	if len(dims) == 1 {
		shape += ","
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", code, shape)
	pad := 64 - (10+len(header)+1)%64
	header += strings.Repeat(" ", pad%64) + "\n"
	out := append([]byte{}, magic...)
	out = append(out, 1, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(header)))
	return append(append(out, header...), body...), nil
}

// Read reads a .npy file.
func Read(path string) (*tensor.Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Write writes t to path; the file is whole or not there.
func Write(path string, t *tensor.Tensor) error {
	data, err := Encode(t)
	if err != nil {
		return err
	}
	return replace(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// maxEntry bounds what one array of a .npz file may unpack to.
const maxEntry = 4 << 30

// ReadNPZ reads the arrays of a .npz file by name.
func ReadNPZ(path string) (map[string]*tensor.Tensor, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer z.Close()
	out := map[string]*tensor.Tensor{}
	for _, f := range z.File {
		if f.UncompressedSize64 > maxEntry {
			return nil, fmt.Errorf("%s: %s unpacks to %d bytes, more than %d", path, f.Name, f.UncompressedSize64, int64(maxEntry))
		}
		r, err := f.Open()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		data, err := io.ReadAll(io.LimitReader(r, maxEntry))
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		t, err := Decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		out[strings.TrimSuffix(f.Name, ".npy")] = t
	}
	return out, nil
}

// WriteNPZ writes arrays under their names, in order of the names.
func WriteNPZ(path string, arrays map[string]*tensor.Tensor) error {
	names := make([]string, 0, len(arrays))
	for n := range arrays {
		names = append(names, n)
	}
	sort.Strings(names)
	return replace(path, func(w io.Writer) error {
		z := zip.NewWriter(w)
		for _, n := range names {
			data, err := Encode(arrays[n])
			if err != nil {
				return err
			}
			f, err := z.CreateHeader(&zip.FileHeader{Name: n + ".npy", Method: zip.Deflate})
			if err != nil {
				return err
			}
			if _, err := f.Write(data); err != nil {
				return err
			}
		}
		return z.Close()
	})
}

// replace writes a file beside path and renames it over path once it is whole.
func replace(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
