package onnx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
)

// LoadOption changes how [Load], [LoadFS] and [Decode] read a model.
type LoadOption func(*loadOptions)

type loadOptions struct {
	symlinks bool
	data     fs.FS
}

// FollowSymlinks lets [Load] read weights through symbolic links, wherever they lead: the caches of
// model hubs are made of them. Without it a link is an error, since a model from elsewhere could
// name one that leads to any file of this machine.
func FollowSymlinks() LoadOption { return func(o *loadOptions) { o.symlinks = true } }

// DataFS is where [Decode] and [LoadFS] find the weights that lie outside the model.
func DataFS(fsys fs.FS) LoadOption { return func(o *loadOptions) { o.data = fsys } }

func options(opts []LoadOption) loadOptions {
	var o loadOptions
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Load reads the model at path. Weights outside the file are read from its folder; they must lie inside
// it, in regular files.
//
// Large files are mapped into memory where the system can do it, and weights are used where they lie: loading
// costs neither the time nor the memory of a copy. Writing to a weight changes this process's
// memory only. The files must not be shortened or overwritten in place while the model is in use; replacing
// them by renaming, as [Save] does, is safe. The mapping lasts until [Model.Close].
func Load(path string, opts ...LoadOption) (*Model, error) {
	m, err := load(path, options(opts))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, plain(err))
	}
	return m, nil
}

// plain drops the file name from an error whose reader has it already.
func plain(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}

func load(name string, o loadOptions) (*Model, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	data, unmap, err := contents(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	d := &decoder{files: map[string][]byte{}}
	if unmap != nil {
		d.unmap = append(d.unmap, unmap)
	}
	dir := filepath.Dir(name)
	switch {
	case o.data != nil:
		d.open = func(name string) (fs.File, error) { return openIn(o.data, name) }
	case o.symlinks:
		d.open = func(name string) (fs.File, error) {
			full := filepath.Join(dir, filepath.FromSlash(name))
			st, err := os.Stat(full)
			if err != nil {
				return nil, err
			}
			if !st.Mode().IsRegular() {
				return nil, errNotRegular
			}
			return os.Open(full)
		}
	default:
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		defer root.Close()
		d.open = func(name string) (fs.File, error) {
			st, err := root.Lstat(name)
			if err != nil {
				return nil, err
			}
			if st.Mode()&fs.ModeSymlink != 0 {
				return nil, errors.New("is a symbolic link, and links are not followed unless that is asked for")
			}
			if !st.Mode().IsRegular() {
				return nil, errNotRegular
			}
			return root.Open(name)
		}
	}
	m, err := d.model(data)
	if err != nil {
		d.close()
		return nil, err
	}
	return m, nil
}

var errNotRegular = errors.New("is not a regular file")

func openIn(fsys fs.FS, name string) (fs.File, error) {
	st, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return fsys.Open(name)
}

// LoadFS reads the model at name in fsys; weights outside the file are read from the folder
// it is in, or from where [DataFS] says.
func LoadFS(fsys fs.FS, name string, opts ...LoadOption) (*Model, error) {
	o := options(opts)
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, plain(err))
	}
	if o.data == nil {
		if o.data, err = fs.Sub(fsys, path.Dir(name)); err != nil {
			return nil, fmt.Errorf("load %s: %w", name, err)
		}
	}
	m, err := decode(data, o)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return m, nil
}

// Decode reads a model from memory. The model's weights stay where they lie in data, which the caller
// must not change from then on. Weights outside it are an error unless [DataFS] says where they are.
func Decode(data []byte, opts ...LoadOption) (*Model, error) { return decode(data, options(opts)) }

func decode(data []byte, o loadOptions) (*Model, error) {
	d := &decoder{files: map[string][]byte{}}
	if o.data != nil {
		d.open = func(name string) (fs.File, error) { return openIn(o.data, name) }
	}
	m, err := d.model(data)
	if err != nil {
		d.close()
		return nil, err
	}
	return m, nil
}

// Close gives back the memory that the model's files are mapped in. None of its weights, nor of its copies',
// may be used afterwards. A model that is kept until the program ends need not be closed.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.unmap {
		errs = append(errs, f())
	}
	m.unmap = nil
	return errors.Join(errs...)
}

func (d *decoder) close() error {
	return (&Model{unmap: d.unmap}).Close()
}

// mapFrom is the size from which files are mapped; smaller ones are read.
const mapFrom = 1 << 20

// contents is the bytes of f, mapped if it is a large regular file; then unmap, which is otherwise nil,
// lets go of them.
func contents(f fs.File) (data []byte, unmap func() error, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if st.Mode().IsRegular() {
		if st.Size() > math.MaxInt {
			return nil, nil, fmt.Errorf("%d bytes are more than this machine can address", st.Size())
		}
		if osFile, ok := f.(*os.File); ok && st.Size() >= mapFrom {
			if data, unmap, err = mapFile(osFile); err == nil {
				return data, unmap, nil
			}
		}
		data = make([]byte, st.Size())
		if _, err := io.ReadFull(f, data); err != nil {
			return nil, nil, err
		}
		return data, nil, nil
	}
	data, err = io.ReadAll(f)
	return data, nil, err
}

// external is the bytes of a weight in a file beside the model.
func (d *decoder) external(entries []*onnxpb.StringStringEntryProto) ([]byte, error) {
	var location string
	offset, length := int64(0), int64(-1)
	for _, e := range entries {
		var err error
		switch e.GetKey() {
		case "location":
			location = e.GetValue()
		case "offset":
			offset, err = strconv.ParseInt(strings.TrimSpace(e.GetValue()), 10, 64)
		case "length":
			length, err = strconv.ParseInt(strings.TrimSpace(e.GetValue()), 10, 64)
			if err == nil && length < 0 {
				err = strconv.ErrRange
			}
		}
		if err != nil {
			return nil, fmt.Errorf("external data %q: %s %q is no size", location, e.GetKey(), e.GetValue())
		}
	}
	data, err := d.file(location)
	if err != nil {
		return nil, fmt.Errorf("external data %q: %w", location, plain(err))
	}
	size := int64(len(data))
	if length < 0 {
		length = size - offset
	}
	if offset < 0 || length < 0 || offset > size || length > size-offset {
		return nil, fmt.Errorf("external data %q: %d bytes at %d are outside the file's %d", location, length, offset, size)
	}
	return data[offset : offset+length : offset+length], nil
}

// file is the whole of a data file, opened once for all its weights.
func (d *decoder) file(location string) ([]byte, error) {
	if d.open == nil {
		return nil, errors.New("the model was not read from a folder")
	}
	clean := path.Clean(filepath.ToSlash(location))
	if !fs.ValidPath(clean) || clean == "." || !filepath.IsLocal(filepath.FromSlash(clean)) {
		return nil, errors.New("the path leaves the model's folder")
	}
	if data, ok := d.files[clean]; ok {
		return data, nil
	}
	f, err := d.open(clean)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, unmap, err := contents(f)
	if err != nil {
		return nil, err
	}
	if unmap != nil {
		d.unmap = append(d.unmap, unmap)
	}
	d.files[clean] = data
	return data, nil
}
