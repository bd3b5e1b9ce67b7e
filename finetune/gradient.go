// Package finetune adapts imported models: it derives the gradient graph of a loss, trains the
// model's parameters with PyTorch's optimizers, and gives the model back as ONNX.
package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
)

// Gradient adds to m's top graph the nodes that compute the gradients of loss, which must hold one
// element, with respect to wrt, and says which value is whose gradient. A wrt that loss does not
// hang on has none. The nodes are meant at [ops.GradOpset] and partly of an internal domain: the graph
// can be run, and saved once [runtime.Portable] has written it in standard operators. Nodes with subgraphs that are differentiated get outputs for what the gradient
// needs of their runs.
func Gradient(m *onnx.Model, loss *onnx.Value, wrt []*onnx.Value) (map[*onnx.Value]*onnx.Value, error) {
	infos, err := runtime.Infer(m)
	if err != nil {
		return nil, err
	}
	return gradient(ops.NewGrad(m, infos), loss, wrt)
}

func gradient(g *ops.Grad, loss *onnx.Value, wrt []*onnx.Value) (map[*onnx.Value]*onnx.Value, error) {
	if !g.Info(loss).DType.IsFloat() {
		return nil, fmt.Errorf("gradient: the loss %q is no floating-point tensor", loss.Name)
	}
	seed := g.ExpandTo(g.Like(loss, 1), loss)
	return g.Backward(g.Graph, map[*onnx.Value][]*onnx.Value{loss: {seed}}, wrt)
}
