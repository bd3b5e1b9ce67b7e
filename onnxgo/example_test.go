package onnxgo_test

import (
	"fmt"
	"log"
	"os"

	"github.com/owulveryck/onnx-go"
	"gorgonia.org/tensor"

	"github.com/retune-go/retune/onnxgo"
)

// A program that used gorgonnx changes one line: the one that makes the backend.
func Example() {
	backend := onnxgo.NewGraph() // was: gorgonnx.NewGraph()
	defer backend.Close()
	model := onnx.NewModel(backend)

	data, err := os.ReadFile("../models/mlp/model.onnx")
	if err != nil {
		log.Fatal(err)
	}
	if err := model.UnmarshalBinary(data); err != nil {
		log.Fatal(err)
	}
	digit := tensor.New(tensor.WithShape(1, 64), tensor.Of(tensor.Float32))
	if err := model.SetInput(0, digit); err != nil {
		log.Fatal(err)
	}
	if err := backend.Run(); err != nil {
		log.Fatal(err)
	}
	out, err := model.GetOutputTensors()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out[0].Shape(), out[0].Dtype())
	// Output: (1, 10) float32
}
