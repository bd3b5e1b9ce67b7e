// Package npy reads and writes NumPy's .npy files and .npz archives of them.
//
// The code is our own: of the Go library for these files, sbinet/npyio, the versions to be had know neither
// float16 nor strings beyond one element, index out of range on a malformed header,
// and take memory for as many elements as a header claims before reading one.
//
// The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/tensor"
)

const (
	magic = "\x93NUMPY"
	// maxHeader bounds the text of a header; numpy's own limit for a trusted one is 10,000.
	maxHeader = 1 << 20
	// maxRank is generous: numpy 2 stops at 64 dimensions.
	maxRank = 64
	// DefaultLimit is the bytes that the arrays of one file may take in memory, unless [Limit] says otherwise.
	DefaultLimit = 16 << 30
)

// Option changes how a file is read.
type Option func(*options)

type options struct{ limit int64 }

// Limit bounds the bytes that all the arrays of a file together may take in memory.
func Limit(bytes int64) Option { return func(o *options) { o.limit = bytes } }

func newOptions(opts []Option) *options {
	o := &options{limit: DefaultLimit}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// codes are numpy's type codes, without the byte order.
var codes = []struct {
	code string
	d    tensor.DType
}{
	{"f2", tensor.Float16}, {"f4", tensor.Float32}, {"f8", tensor.Float64}, {"b1", tensor.Bool},
	{"i1", tensor.Int8}, {"i2", tensor.Int16}, {"i4", tensor.Int32}, {"i8", tensor.Int64},
	{"u1", tensor.Uint8}, {"u2", tensor.Uint16}, {"u4", tensor.Uint32}, {"u8", tensor.Uint64},
	{"c8", tensor.Complex64}, {"c16", tensor.Complex128},
}

var (
	descrRE   = regexp.MustCompile(`['"]descr['"]\s*:\s*['"]([<>|=]?)([a-zA-Z?])(\d{0,9})['"]`)
	fortranRE = regexp.MustCompile(`['"]fortran_order['"]\s*:\s*(True|False)`)
	shapeRE   = regexp.MustCompile(`['"]shape['"]\s*:\s*\(([^()]*)\)`)
)

// header is what stands before the elements of a .npy file.
type header struct {
	big     bool         // big-endian
	kind    byte         // 'U', 'S' for strings, 0 for all else
	dtype   tensor.DType // String for both kinds of strings
	width   int          // bytes an element
	fortran bool
	shape   []int
	count   int
}

// readHeader reads up to the first element, and gives the bytes that it read.
func readHeader(r io.Reader) (h header, n int64, err error) {
	var lead [12]byte
	if _, err := io.ReadFull(r, lead[:10]); err != nil || string(lead[:6]) != magic {
		return h, 0, errors.New("npy: not a .npy file")
	}
	n, size := 10, uint32(binary.LittleEndian.Uint16(lead[8:]))
	switch lead[6] {
	case 1:
	case 2, 3: // 3 differs from 2 in that the text is UTF-8
		if _, err := io.ReadFull(r, lead[10:]); err != nil {
			return h, 0, errors.New("npy: truncated header")
		}
		n, size = 12, binary.LittleEndian.Uint32(lead[8:])
	default:
		return h, 0, fmt.Errorf("npy: version %d.%d of the format is not known", lead[6], lead[7])
	}
	if size > maxHeader {
		return h, 0, fmt.Errorf("npy: a header of %d bytes is too long", size)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, 0, errors.New("npy: truncated header")
	}
	h, err = parseHeader(text)
	return h, n + int64(size), err
}

func parseHeader(text []byte) (h header, err error) {
	descr, fortran, shape := descrRE.FindSubmatch(text), fortranRE.FindSubmatch(text), shapeRE.FindSubmatch(text)
	if descr == nil || fortran == nil || shape == nil {
		return h, fmt.Errorf("npy: header %q is not understood", text[:min(len(text), 80)])
	}
	h.big, h.fortran = string(descr[1]) == ">", string(fortran[1]) == "True"
	for _, p := range strings.Split(string(shape[1]), ",") {
		if p = strings.TrimSuffix(strings.TrimSpace(p), "L"); p == "" { // Python 2 wrote 3L
			continue
		}
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 {
			return h, fmt.Errorf("npy: %q is no dimension", p)
		}
		h.shape = append(h.shape, v)
	}
	if len(h.shape) > maxRank {
		return h, fmt.Errorf("npy: %d dimensions are too many", len(h.shape))
	}
	if h.count, err = tensor.NumElements(h.shape); err != nil {
		return h, err
	}
	code := string(descr[2]) + string(descr[3])
	switch code[0] {
	case 'U', 'S', 'a':
		h.kind, h.dtype = code[0], tensor.String
		if h.width, err = strconv.Atoi(string(descr[3])); err != nil {
			return h, fmt.Errorf("npy: element type %q is not understood", code)
		}
		if h.kind == 'U' {
			h.width *= 4
		} else {
			h.kind = 'S'
		}
		return h, nil
	case '?':
		code = "b1"
	}
	for _, c := range codes {
		if c.code == code {
			h.dtype, h.width = c.d, c.d.Size()
			return h, nil
		}
	}
	return h, fmt.Errorf("npy: element type %q is not supported", code)
}

// decode reads an array of which size bytes are there to be read, and takes no more than *budget
// bytes of memory for it, which it lowers.
func decode(r io.Reader, size int64, budget *int64) (*tensor.Tensor, error) {
	h, n, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	if size -= n; h.width > 0 && int64(h.count) > size/int64(h.width) || int64(h.count)*int64(h.width) != size {
		return nil, fmt.Errorf("npy: %s%v does not take the %d bytes that are there", h.dtype, h.shape, size)
	}
	need := size
	if h.dtype == tensor.String {
		if int64(h.count) > *budget/16 { // a string's own 16 bytes
			return nil, fmt.Errorf("npy: %d strings are more than the limit allows", h.count)
		}
		need += 16 * int64(h.count)
	}
	if need > *budget {
		return nil, fmt.Errorf("npy: %s%v takes more than the limit of memory", h.dtype, h.shape)
	}
	*budget -= need
	buf := tensor.AlignedBytes(int(size))
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, fmt.Errorf("npy: the elements of %s%v: %w", h.dtype, h.shape, err)
	}
	if h.dtype == tensor.String {
		return h.strings(buf)
	}
	if h.big {
		word := h.width
		if h.dtype == tensor.Complex64 || h.dtype == tensor.Complex128 {
			word /= 2
		}
		for i := 0; word > 1 && i+word <= len(buf); i += word {
			slices.Reverse(buf[i : i+word])
		}
	}
	if h.dtype == tensor.Bool { // a Go bool must not be anything but 0 and 1
		for i, b := range buf {
			if b > 1 {
				buf[i] = 1
			}
		}
	}
	if h.fortran && len(h.shape) > 1 {
		out := tensor.AlignedBytes(len(buf))
		i := 0
		h.columnMajor(func(at int) {
			copy(out[i:i+h.width], buf[at*h.width:])
			i += h.width
		})
		buf = out
	}
	return tensor.FromBytes(h.dtype, h.shape, buf, nil)
}

// columnMajor calls f with the place in a Fortran-ordered file of each element, in row-major order.
func (h *header) columnMajor(f func(at int)) {
	index := make([]int, len(h.shape))
	strides := make([]int, len(h.shape))
	s := 1
	for k, d := range h.shape {
		strides[k] = s
		s *= d
	}
	at := 0
	for range h.count {
		f(at)
		for k := len(h.shape) - 1; k >= 0; k-- {
			at += strides[k]
			if index[k]++; index[k] < h.shape[k] {
				break
			}
			at -= strides[k] * index[k]
			index[k] = 0
		}
	}
}

func (h *header) strings(buf []byte) (*tensor.Tensor, error) {
	order := binary.ByteOrder(binary.LittleEndian)
	if h.big {
		order = binary.BigEndian
	}
	out := make([]string, 0, h.count)
	var runes []byte
	add := func(at int) {
		b := buf[at*h.width : (at+1)*h.width]
		if h.kind == 'S' {
			out = append(out, string(bytes.TrimRight(b, "\x00")))
			return
		}
		runes = runes[:0]
		for j := 0; j < len(b); j += 4 {
			r := order.Uint32(b[j:])
			if r > utf8.MaxRune {
				r = utf8.RuneError
			}
			runes = utf8.AppendRune(runes, rune(r))
		}
		out = append(out, string(bytes.TrimRight(runes, "\x00")))
	}
	if h.fortran && len(h.shape) > 1 {
		h.columnMajor(add)
	} else {
		for i := range h.count {
			add(i)
		}
	}
	return tensor.FromSlice(out, h.shape)
}

// Decode reads the bytes of a .npy file.
func Decode(data []byte, opts ...Option) (*tensor.Tensor, error) {
	return decode(bytes.NewReader(data), int64(len(data)), &newOptions(opts).limit)
}

// Read reads a .npy file.
func Read(path string, opts ...Option) (*tensor.Tensor, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var t *tensor.Tensor
	if info.Mode().IsRegular() {
		t, err = decode(f, info.Size(), &newOptions(opts).limit)
	} else { // a pipe, whose size is not known before its end
		limit := newOptions(opts).limit
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, limit)); err == nil {
			t, err = Decode(data, opts...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// encode writes t as a .npy file of version 1, or 2 where the header is too long for that.
func encode(w io.Writer, t *tensor.Tensor) error {
	head, body, err := layout(t)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

func layout(t *tensor.Tensor) (head, body []byte, err error) {
	code := ""
	body = t.Bytes()
	switch d := t.DType(); d {
	case tensor.String:
		if code, body, err = layoutStrings(tensor.Data[string](t)); err != nil {
			return nil, nil, err
		}
	case tensor.Uint4, tensor.Uint2:
		code = "|u1"
	case tensor.Int4, tensor.Int2:
		code = "|i1"
	default:
		for _, c := range codes {
			if c.d == d {
				code = "<" + c.code
				if d.Size() == 1 {
					code = "|" + c.code
				}
			}
		}
		if code == "" {
			w, err := tensor.Convert(t, tensor.Float32, true)
			if err != nil {
				return nil, nil, err
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
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", code, shape)
	lead := 10
	if len(text)+64 > 0xffff {
		lead = 12
	}
	// The elements begin at a multiple of 64, and a line feed ends the header.
	size := (lead+len(text)+1+63)/64*64 - lead
	head = append(head, magic...)
	if lead == 10 {
		head = binary.LittleEndian.AppendUint16(append(head, 1, 0), uint16(size))
	} else {
		head = binary.LittleEndian.AppendUint32(append(head, 2, 0), uint32(size))
	}
	head = append(head, text...)
	head = append(head, strings.Repeat(" ", size-len(text)-1)...)
	return append(head, '\n'), body, nil
}

// layoutStrings pads strings to the longest. numpy cannot tell padding from a string's own trailing
// NULs, so those are refused rather than lost. Strings that are no UTF-8 are numpy's strings of bytes.
func layoutStrings(strs []string) (code string, body []byte, err error) {
	width, bytes := 1, slices.ContainsFunc(strs, func(s string) bool { return !utf8.ValidString(s) })
	for _, s := range strs {
		if strings.HasSuffix(s, "\x00") {
			return "", nil, errors.New("npy: numpy's strings cannot end with a NUL")
		}
		if bytes {
			width = max(width, len(s))
		} else {
			width = max(width, utf8.RuneCountInString(s))
		}
	}
	unit := tensor.Int32
	if bytes {
		unit = tensor.Uint8
	}
	size, err := tensor.ByteSize(unit, []int{len(strs), width})
	if err != nil || int64(size) > DefaultLimit {
		return "", nil, fmt.Errorf("npy: %d strings padded to %d characters are too much", len(strs), width)
	}
	body = make([]byte, size)
	if bytes {
		for i, s := range strs {
			copy(body[i*width:], s)
		}
		return fmt.Sprintf("|S%d", width), body, nil
	}
	for i, s := range strs {
		at := 4 * i * width
		for _, r := range s {
			binary.LittleEndian.PutUint32(body[at:], uint32(r))
			at += 4
		}
	}
	return fmt.Sprintf("<U%d", width), body, nil
}

// Encode is t as the bytes of a .npy file. bfloat16 and the narrower floats, which numpy has not,
// are widened to float32; 4- and 2-bit integers take a byte; strings are padded to the longest.
func Encode(t *tensor.Tensor) ([]byte, error) {
	head, body, err := layout(t)
	if err != nil {
		return nil, err
	}
	return append(head, body...), nil
}

// Write writes t to path as [Encode] has it; the file is whole or not there.
func Write(path string, t *tensor.Tensor) error {
	return wholefile.Write(path, func(w io.Writer) error { return encode(w, t) })
}
