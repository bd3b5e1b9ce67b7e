//go:build !unix

package onnx_test

import "testing"

func makeFIFO(testing.TB, string) {}
