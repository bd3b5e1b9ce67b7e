//go:build unix

package onnx_test

import (
	"syscall"
	"testing"
)

func makeFIFO(t testing.TB, path string) {
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Skipf("skipped: %v", err)
	}
}
