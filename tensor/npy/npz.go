package npy

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/tensor"
)

// Archive is the arrays of a .npz file.
type Archive struct {
	Names  []string // in the file's order, without ".npy"
	Arrays map[string]*tensor.Tensor
}

// maxRatio is more than deflate can shrink anything by (1032 to 1): an entry that claims more lies.
const maxRatio = 1100

// DecodeNPZ reads a .npz file of size bytes. An entry's claim to unpack to more than
// its packed bytes can hold, or than the limit allows, is an error before memory is taken for it.
func DecodeNPZ(r io.ReaderAt, size int64, opts ...Option) (*Archive, error) {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names like "/h/MatMul" are no paths here
		return nil, fmt.Errorf("npz: %w", err)
	}
	budget := newOptions(opts).limit
	a := &Archive{Arrays: map[string]*tensor.Tensor{}}
	for _, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok {
			continue // numpy gives such entries as bytes; there is no array in them
		}
		if _, ok := a.Arrays[name]; ok {
			return nil, fmt.Errorf("npz: two arrays are named %q", name)
		}
		t, err := decodeEntry(f, size, &budget)
		if err != nil {
			return nil, fmt.Errorf("npz: array %q: %w", name, err)
		}
		a.Names = append(a.Names, name)
		a.Arrays[name] = t
	}
	return a, nil
}

func decodeEntry(f *zip.File, file int64, budget *int64) (*tensor.Tensor, error) {
	packed, unpacked := f.CompressedSize64, f.UncompressedSize64
	if packed > uint64(file) || unpacked/maxRatio > packed+1 || unpacked > 1<<62 {
		return nil, fmt.Errorf("%d packed bytes cannot unpack to %d", packed, unpacked)
	}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	t, err := decode(r, int64(unpacked), budget)
	if err != nil {
		return nil, err
	}
	// Reading on to the end has the checksum verified.
	if n, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	} else if n > 0 {
		return nil, errors.New("bytes follow the array")
	}
	return t, nil
}

// OpenNPZ reads a .npz file with the order of its arrays.
func OpenNPZ(path string, opts ...Option) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a, err := DecodeNPZ(f, info.Size(), opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// ReadNPZ reads the arrays of a .npz file by name.
func ReadNPZ(path string, opts ...Option) (map[string]*tensor.Tensor, error) {
	a, err := OpenNPZ(path, opts...)
	if err != nil {
		return nil, err
	}
	return a.Arrays, nil
}

// Write writes the archive to path in the order of its names, uncompressed as numpy.savez does; the file is
// whole or not there.
func (a *Archive) Write(path string) error {
	return wholefile.Write(path, func(w io.Writer) error {
		z := zip.NewWriter(w)
		for _, n := range a.Names {
			t := a.Arrays[n]
			if t == nil {
				return fmt.Errorf("npz: there is no array %q", n)
			}
			f, err := z.CreateHeader(&zip.FileHeader{Name: n + ".npy", Method: zip.Store})
			if err != nil {
				return err
			}
			if err := encode(f, t); err != nil {
				return fmt.Errorf("npz: array %q: %w", n, err)
			}
		}
		return z.Close()
	})
}

// WriteNPZ is [Archive.Write] in the order of the sorted names.
func WriteNPZ(path string, arrays map[string]*tensor.Tensor) error {
	a := &Archive{Names: slices.Sorted(maps.Keys(arrays)), Arrays: arrays}
	return a.Write(path)
}
