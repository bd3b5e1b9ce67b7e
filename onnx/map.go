//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package onnx

import (
	"os"

	"github.com/edsrzf/mmap-go"
)

// mapFile maps f so that writes stay in this process.
func mapFile(f *os.File) ([]byte, func() error, error) {
	m, err := mmap.Map(f, mmap.COPY, 0)
	if err != nil {
		return nil, nil, err
	}
	return m, m.Unmap, nil
}
