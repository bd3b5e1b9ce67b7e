// Package ptfile reads the tensors in the files that PyTorch's torch.save writes (.pt, .pth, .bin): state
// dicts, checkpoints that hold some, whole modules and TorchScript archives, in the zip format
// and in the one before PyTorch 1.6.
//
// Such a file is a pickle, which in Python can run any code. Here it runs none: classes that are not
// about tensors become inert records of what they were made of. The pickle is read by
// nlpodyssey/gopickle, of which only the unpickler is used: its PyTorch half panics on older files, knows no
// complex or 8-bit tensors, and takes memory for storages as large as a file claims.
package ptfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path"
	"strings"
	"unsafe"

	"github.com/nlpodyssey/gopickle/pickle"
	"github.com/nlpodyssey/gopickle/types"

	"github.com/retune-go/retune/tensor"
)

// File is the tensors of a file.
type File struct {
	// Names are in the file's order. The keys of nested dicts, indices of lists and names of submodules are joined
	// by dots: "fc.weight", or "optimizer.state.0.exp_avg". A tensor saved by itself is "tensor".
	Names   []string
	Tensors map[string]*tensor.Tensor
}

// DefaultLimit is the bytes that a file's tensors may take in memory, unless [Limit] says otherwise.
const DefaultLimit = 64 << 30

// Option changes how a file is read.
type Option func(*reader)

// Limit bounds the bytes that a file's tensors may take in memory.
func Limit(bytes int64) Option { return func(r *reader) { r.budget = bytes } }

// Read reads the tensors of a file that torch.save wrote. Tensors that share a storage and are
// contiguous in it share memory here too, as tied weights do.
func Read(path string, opts ...Option) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	out, err := Decode(f, info.Size(), opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// Decode is [Read] from the size bytes of r.
func Decode(r io.ReaderAt, size int64, opts ...Option) (f *File, err error) {
	// The unpickler answers some malformed input by a panic.
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("ptfile: malformed pickle: %v", p)
		}
	}()
	rd := &reader{storages: map[string]*storage{}, budget: DefaultLimit}
	for _, o := range opts {
		o(rd)
	}
	// What is not contiguous is copied; an expanded tensor is larger than its storage.
	rd.copies = min(rd.budget, 4*size+64<<20)
	var lead [4]byte
	if _, err := r.ReadAt(lead[:], 0); err != nil {
		return nil, errors.New("ptfile: not a file of PyTorch")
	}
	var root any
	if string(lead[:]) == "PK\x03\x04" {
		root, err = rd.zip(r, size)
	} else {
		root, err = rd.legacy(r, size)
	}
	if err != nil {
		return nil, fmt.Errorf("ptfile: %w", err)
	}
	w := walker{reader: rd, file: &File{Tensors: map[string]*tensor.Tensor{}}}
	if err := w.walk("", root, 0); err != nil {
		return nil, fmt.Errorf("ptfile: %w", err)
	}
	return w.file, nil
}

type reader struct {
	storages map[string]*storage
	budget   int64
	copies   int64
}

// storage is a flat piece of memory that tensors are views of.
type storage struct {
	dtype tensor.DType // Undefined for an untyped one
	bytes int
	data  []byte
}

// view is a tensor as a pickle describes it.
type view struct {
	storage *storage
	dtype   tensor.DType
	offset  int
	size    []int
	stride  []int
}

// maxRatio is more than deflate can shrink anything by.
const maxRatio = 1100

func record(f *zip.File, file, limit int64) ([]byte, error) {
	packed, n := f.CompressedSize64, f.UncompressedSize64
	if packed > uint64(file) || n/maxRatio > packed+1 {
		return nil, fmt.Errorf("%s: %d packed bytes cannot unpack to %d", f.Name, packed, n)
	}
	if n > uint64(max(limit, 0)) {
		return nil, fmt.Errorf("%s: %d bytes are more than the limit", f.Name, n)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	defer r.Close()
	data := tensor.AlignedBytes(int(n))
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF { // the checksum is verified at the end
		return nil, fmt.Errorf("%s: its content does not fit its size or checksum: %w", f.Name, err)
	}
	return data, nil
}

func (rd *reader) zip(r io.ReaderAt, size int64) (any, error) {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, err
	}
	records := make(map[string]*zip.File, len(z.File))
	root := ""
	for _, f := range z.File {
		if records[f.Name] != nil {
			return nil, fmt.Errorf("two records are named %q", f.Name)
		}
		records[f.Name] = f
		if path.Base(f.Name) == "data.pkl" && (root == "" || len(f.Name) < len(root)) {
			root = f.Name
		}
	}
	if root == "" {
		return nil, errors.New("the archive has no data.pkl")
	}
	dir := strings.TrimSuffix(root, "data.pkl")
	if f := records[dir+"byteorder"]; f != nil {
		if order, err := record(f, size, 100); err != nil || string(order) != "little" {
			return nil, fmt.Errorf("byte order %q is not supported", order)
		}
	}
	text, err := record(records[root], size, maxPickle)
	if err != nil {
		return nil, err
	}
	if _, err := scan(text); err != nil {
		return nil, err
	}
	return rd.unpickle(text, func(s *storage, key string) error {
		f := records[dir+"data/"+key]
		if f == nil {
			return fmt.Errorf("there is no record of storage %q", key)
		}
		if f.UncompressedSize64 != uint64(s.bytes) {
			return fmt.Errorf("storage %q takes %d bytes, its record has %d", key, s.bytes, f.UncompressedSize64)
		}
		rd.budget -= int64(s.bytes)
		s.data, err = record(f, size, rd.budget+int64(s.bytes))
		return err
	})
}

// magic begins a file before PyTorch 1.6, as a pickle of this number.
var magic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// legacy reads the older format: pickles of the magic number, a version, facts about the machine, the object, and
// the list of storages, then the storages themselves.
func (rd *reader) legacy(r io.ReaderAt, size int64) (any, error) {
	notOurs := errors.New("not a file of PyTorch")
	start := make([]byte, min(size, 64))
	if _, err := r.ReadAt(start, 0); err != nil {
		return nil, notOurs
	}
	if n, err := scan(start); err != nil {
		return nil, notOurs
	} else if v, err := rd.unpickle(start[:n], nil); err != nil {
		return nil, notOurs
	} else if m, ok := v.(*big.Int); !ok || m.Cmp(magic) != 0 {
		return nil, notOurs
	}
	if size > rd.budget {
		return nil, fmt.Errorf("%d bytes are more than the limit", size)
	}
	data := tensor.AlignedBytes(int(size))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), data); err != nil {
		return nil, err
	}
	at := 0
	next := func(load func(*storage, string) error) (any, error) {
		n, err := scan(data[at:])
		if err != nil {
			return nil, err
		}
		v, err := rd.unpickle(data[at:at+n], load)
		at += n
		return v, err
	}
	var parts [5]any
	for i := range parts {
		var load func(*storage, string) error
		if i == 3 {
			load = func(*storage, string) error { return nil } // they come later
		}
		v, err := next(load)
		if err != nil {
			return nil, err
		}
		parts[i] = v
	}
	if v, ok := parts[1].(int); !ok || v != 1001 {
		return nil, fmt.Errorf("version %v of the older format is not known", parts[1])
	}
	if info, ok := parts[2].(*types.Dict); ok {
		if little, ok := info.Get("little_endian"); ok && little != true {
			return nil, errors.New("files of big-endian machines are not supported")
		}
	}
	keys, ok := parts[4].(*types.List)
	if !ok {
		return nil, errors.New("the list of storages is missing")
	}
	for _, k := range *keys {
		key, _ := k.(string)
		s := rd.storages[key]
		if s == nil || s.data != nil {
			return nil, fmt.Errorf("storage %v is not one of the pickle's, or comes twice", k)
		}
		if len(data)-at < 8 {
			return nil, errCut
		}
		n := binary.LittleEndian.Uint64(data[at:])
		at += 8
		width := 1
		if s.dtype != tensor.Undefined {
			width = s.dtype.Size()
		}
		if n != uint64(s.bytes/width) || s.bytes > len(data)-at {
			return nil, fmt.Errorf("storage %q of %d bytes is not in the file", key, s.bytes)
		}
		s.data = data[at : at+s.bytes : at+s.bytes]
		at += s.bytes
		if len(s.data) > 0 && uintptr(unsafe.Pointer(&s.data[0]))%16 != 0 {
			s.data = append(tensor.AlignedBytes(s.bytes)[:0], s.data...)
		}
		if s.data == nil {
			s.data = []byte{}
		}
	}
	return parts[3], nil
}

// unpickle runs a scanned pickle. load is called for each storage when it is first met; nil if none may be.
func (rd *reader) unpickle(text []byte, load func(*storage, string) error) (any, error) {
	u := pickle.NewUnpickler(bytes.NewReader(text))
	u.FindClass = findClass
	u.PersistentLoad = func(id any) (any, error) {
		t, ok := id.(*types.Tuple)
		if !ok || load == nil || t.Len() < 2 {
			return nil, errors.New("a storage is described in no known way")
		}
		if t.Get(0) == "module" { // the older format's note of a class's source
			return t.Get(1), nil
		}
		if t.Get(0) != "storage" || t.Len() < 5 {
			return nil, errors.New("a storage is described in no known way")
		}
		kind, ok1 := t.Get(1).(storageType)
		key, ok2 := t.Get(2).(string)
		count, ok3 := t.Get(4).(int)
		if !ok1 || !ok2 || !ok3 || count < 0 {
			return nil, fmt.Errorf("storage %v is of a type that is not supported", t.Get(2))
		}
		if t.Len() > 5 && t.Get(5) != nil {
			return nil, fmt.Errorf("storage %q is a view of another, which is not supported", key)
		}
		if s := rd.storages[key]; s != nil {
			return s, nil
		}
		s := &storage{dtype: tensor.DType(kind), bytes: count}
		if s.dtype != tensor.Undefined {
			n, err := tensor.ByteSize(s.dtype, []int{count})
			if err != nil {
				return nil, err
			}
			s.bytes = n
		}
		if err := load(s, key); err != nil {
			return nil, err
		}
		rd.storages[key] = s
		return s, nil
	}
	return u.Load()
}

// tensor makes a view a contiguous tensor.
func (rd *reader) tensor(v *view) (*tensor.Tensor, error) {
	width := v.dtype.Size()
	if _, err := tensor.ByteSize(v.dtype, v.size); err != nil {
		return nil, err
	}
	n, err := tensor.NumElements(v.size)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return tensor.FromBytes(v.dtype, v.size, nil, nil)
	}
	if v.storage.data == nil {
		return nil, errors.New("its storage is not in the file")
	}
	have := len(v.storage.data) / width
	last, dense, contiguous := v.offset, 1, true
	if v.offset < 0 || v.offset >= have {
		return nil, fmt.Errorf("it begins at element %d of a storage of %d", v.offset, have)
	}
	for k := len(v.size) - 1; k >= 0; k-- {
		d, s := v.size[k], v.stride[k]
		if d == 1 {
			continue
		}
		if s < 0 || s > 0 && d-1 > (have-1-last)/s {
			return nil, fmt.Errorf("sizes %v by strides %v from element %d leave a storage of %d", v.size, v.stride, v.offset, have)
		}
		last += (d - 1) * s
		contiguous = contiguous && s == dense
		dense *= d
	}
	if contiguous && v.dtype != tensor.Bool {
		from := v.offset * width
		return tensor.FromBytes(v.dtype, v.size, v.storage.data[from:from+n*width:from+n*width], nil)
	}
	if int64(n*width) > rd.copies {
		return nil, fmt.Errorf("its %d elements are more than the limit allows of a file this small", n)
	}
	rd.copies -= int64(n * width)
	out := tensor.AlignedBytes(n * width)
	index := make([]int, len(v.size))
	at := v.offset
	for i := 0; i < len(out); i += width {
		copy(out[i:i+width], v.storage.data[at*width:])
		for k := len(v.size) - 1; k >= 0; k-- {
			at += v.stride[k]
			if index[k]++; index[k] < v.size[k] {
				break
			}
			at -= v.stride[k] * index[k]
			index[k] = 0
		}
	}
	if v.dtype == tensor.Bool { // a Go bool must not be anything but 0 and 1
		for i, b := range out {
			if b > 1 {
				out[i] = 1
			}
		}
	}
	return tensor.FromBytes(v.dtype, v.size, out, nil)
}
