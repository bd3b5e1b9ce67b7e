// Package onnxpb is the generated form of ONNX's wire format.
package onnxpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative onnx.proto
