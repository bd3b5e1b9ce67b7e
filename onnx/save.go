package onnx

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
)

// SaveOption changes how [Save] writes a model.
type SaveOption func(*saveOptions)

type saveOptions struct {
	file      string
	threshold int
	limit     int
}

// ExternalData puts initializers of threshold bytes and more into a file of that name beside the model. Where there are none, neither is the file.
func ExternalData(file string, threshold int) SaveOption {
	return func(o *saveOptions) { o.file, o.threshold = file, threshold }
}

// pageSize is what weights in a data file are aligned to, so that each can be mapped alone.
const pageSize = 4096

// Save writes the model to path, and its weights into one file with it, as long as that stays below 2 GB; above,
// initializers of 1 KiB and more go to path+".data".
//
// Files are written beside their places and moved there when they are whole, so that an error leaves what was
// there before.
func Save(path string, m *Model, opts ...SaveOption) error {
	o := saveOptions{limit: fileLimit}
	for _, f := range opts {
		f(&o)
	}
	if err := save(path, m, o); err != nil {
		return fmt.Errorf("save %s: %w", path, plain(err))
	}
	return nil
}

func save(path string, m *Model, o saveOptions) (err error) {
	if o.file == "" {
		p, err := modelProto(m, nil)
		if err != nil {
			return err
		}
		if proto.Size(p) <= o.limit {
			data, err := marshal(p, o.limit)
			if err != nil {
				return err
			}
			return writeModel(path, data)
		}
		o.file, o.threshold = filepath.Base(path)+".data", 1024
	}
	if !filepath.IsLocal(o.file) || filepath.Clean(o.file) == filepath.Base(path) {
		return fmt.Errorf("external data cannot be written to %q", o.file)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return errors.New("a model with external data is written to regular files only")
	}
	target := filepath.Join(filepath.Dir(path), o.file)
	f, err := createBeside(target)
	if err != nil {
		return err
	}
	data := &dataFile{w: bufio.NewWriterSize(f, 1<<20), name: filepath.ToSlash(o.file), threshold: o.threshold}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	p, err := modelProto(m, data.put)
	if err != nil {
		return err
	}
	bytes, err := marshal(p, o.limit)
	if err != nil {
		return err
	}
	if data.size == 0 {
		if err = errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return err
		}
		return writeModel(path, bytes)
	}
	if err = data.w.Flush(); err != nil {
		return err
	}
	if err = finish(f); err != nil {
		return err
	}
	// The old data stays at hand until the model that names the new data is there too.
	old := ""
	if _, e := os.Lstat(target); e == nil {
		old = target + suffix()
		if err = os.Rename(target, old); err != nil {
			return err
		}
	}
	if err = os.Rename(f.Name(), target); err == nil {
		err = writeModel(path, bytes)
		if err != nil && old == "" {
			os.Remove(target)
		}
	}
	if old != "" {
		if err != nil {
			return errors.Join(err, os.Rename(old, target))
		}
		return os.Remove(old)
	}
	return err
}

// dataFile collects weights that lie outside the model.
type dataFile struct {
	w         *bufio.Writer
	name      string
	threshold int
	size      int64
}

// put moves t's elements to the data file, if there are enough of them.
func (d *dataFile) put(t *onnxpb.TensorProto) error {
	if t.RawData == nil || len(t.RawData) < max(d.threshold, 1) {
		return nil
	}
	pad := -d.size & (pageSize - 1)
	if _, err := d.w.Write(make([]byte, pad)); err != nil {
		return err
	}
	if _, err := d.w.Write(t.RawData); err != nil {
		return err
	}
	entry := func(k, v string) *onnxpb.StringStringEntryProto {
		return &onnxpb.StringStringEntryProto{Key: &k, Value: &v}
	}
	at := d.size + pad
	t.ExternalData = []*onnxpb.StringStringEntryProto{entry("location", d.name),
		entry("offset", strconv.FormatInt(at, 10)), entry("length", strconv.Itoa(len(t.RawData)))}
	t.DataLocation = proto.Int32(int32(onnxpb.TensorProto_EXTERNAL))
	d.size = at + int64(len(t.RawData))
	t.RawData = nil
	return nil
}

// writeModel puts data at path. What is there and is no regular file (a pipe, a device) is written to.
func writeModel(path string, data []byte) (err error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	}
	f, err := createBeside(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = finish(f); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func suffix() string { return fmt.Sprintf(".tmp-%08x", rand.Uint32()) }

// createBeside makes a new file in path's folder, with the permissions of the file at path if there is one.
func createBeside(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path+suffix(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			_ = f.Chmod(st.Mode().Perm()) // not worth failing for
		}
		return f, nil
	}
}

func finish(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
