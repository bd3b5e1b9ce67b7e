package cli

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"retune":  func() { os.Exit(Execute(context.Background(), Retune())) },
		"convert": func() { os.Exit(Execute(context.Background(), Convert())) },
	})
}

// The scripts in testdata read like terminal sessions: what is typed, and what comes of it. $MODELS is the folder of the shipped
// models; "broken NAME" makes a broken model NAME.onnx, "digits FILE" a training set.
func TestScripts(t *testing.T) {
	models, err := filepath.Abs("../../models")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MODELS", models)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"broken": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					ts.Check(breakModel(name, ts.MkAbs(name+".onnx")))
				}
			},
			"digits": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(digits(ts.MkAbs(args[0])))
			},
		},
	})
}

// digits writes a small training set for the mlp; in nan.npz a pixel is no number, in wide.npz all are double.
func digits(path string) error {
	x, y := make([]float32, 20*64), make([]int64, 20)
	for i := range x {
		x[i] = float32(i%17) / 16
	}
	for i := range y {
		y[i] = int64(i % 10)
	}
	if filepath.Base(path) == "nan.npz" {
		x[3] = float32(math.NaN())
	}
	pixels := tensor.New(x, 20, 64)
	if filepath.Base(path) == "wide.npz" {
		var err error
		if pixels, err = tensor.Convert(pixels, tensor.Float64, true); err != nil {
			return err
		}
	}
	return npy.WriteNPZ(path, map[string]*tensor.Tensor{"pixels": pixels, "labels": tensor.New(y)})
}

// breakModel writes a model that is wrong in the way of its name.
func breakModel(name, path string) error {
	b := onnx.NewBuilder(name, 17)
	x := b.Input("x", tensor.Float32, 2)
	y := b.Op("Relu", x)
	b.Output("y", y, tensor.Float32, 2)
	m, err := b.Model()
	if err != nil {
		return err
	}
	n := m.Graph.Nodes[0]
	switch name {
	case "cycle":
		m.Graph.Nodes = append(m.Graph.Nodes, onnx.NewNode("Add", []*onnx.Value{x, n.Outputs[0]}, "loop"))
		m.Graph.Nodes[1].Name = "back"
		n.SetInput(0, m.Graph.Nodes[1].Outputs[0])
	case "undefined": // which Save would refuse: the input's own name, the last one, is changed in the file
		x.Name = "nowhere"
		data, err := onnx.Encode(m)
		if err != nil {
			return err
		}
		copy(data[bytes.LastIndex(data, []byte("nowhere")):], "NOWHERE")
		return os.WriteFile(path, data, 0o644)
	case "unknown":
		n.Op = "Frobnicate"
		n.Name = "strange"
		m.Graph.Nodes = append(m.Graph.Nodes, onnx.NewNode("Defenestrate", []*onnx.Value{x}, "z"))
		m.Graph.Nodes[1].Name = "window"
	case "huge":
		n.Op = "ConstantOfShape"
		n.SetInput(0, m.Graph.AddInit("shape", tensor.New([]int64{1 << 40, 1 << 40})))
	case "vast": // an input of a terabyte
		x.Type = &onnx.Type{Elem: tensor.Float32, Shape: []onnx.Dim{{Value: 1 << 20}, {Value: 1 << 18}}}
	case "large": // a terabyte that the file does not hold
		n.Op = "ConstantOfShape"
		n.SetInput(0, m.Graph.AddInit("shape", tensor.New([]int64{1 << 20, 1 << 18})))
	}
	return onnx.Save(path, m)
}
