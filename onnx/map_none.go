//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package onnx

import (
	"errors"
	"os"
)

// mapFile is for systems that cannot map files, or (Windows) not replace one that is mapped.
func mapFile(*os.File) ([]byte, func() error, error) { return nil, nil, errors.ErrUnsupported }
