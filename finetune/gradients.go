package finetune

import (
	"context"
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// OutputGradients is the gradients of the sum of an output's elements, or of their mean, with respect to every floating-point
// weight and input of m, under their names. Those on which the output does not hang are zero. With straightThrough they pass what rounds, as
// [Config.StraightThrough] has them.
func OutputGradients(ctx context.Context, m *onnx.Model, inputs map[string]tensor.Value, name string, mean, straightThrough bool, opts ...runtime.Option) (map[string]*tensor.Tensor, error) {
	work, err := runtime.Expand(m)
	if err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	liftWeights(work.Graph, nil)
	infos, err := runtime.Infer(work)
	if err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	own := map[string]bool{} // and not what the expansion of operators has added
	for _, v := range slices.Concat(m.Graph.Inputs, m.Graph.Inits) {
		own[v.Name] = true
	}
	seen := map[*onnx.Value]bool{}
	var wrt []*onnx.Value
	for _, list := range [][]*onnx.Value{work.Graph.Inputs, work.Graph.Inits} {
		for _, v := range list {
			if d := infos[v].DType; own[v.Name] && d.IsFloat() && !seen[v] && infos[v].Kind == onnx.TensorType {
				seen[v] = true
				wrt = append(wrt, v)
			}
		}
	}
	g := ops.NewGrad(work, infos)
	g.StraightThrough = straightThrough
	out, err := output(g, work, name)
	if err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	reduce := "ReduceSum"
	if mean {
		reduce = "ReduceMean"
	}
	loss := g.With(reduce, []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, out)
	if err := g.Err(); err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	grads, err := gradient(g, loss, wrt)
	if err != nil {
		return nil, err
	}
	var outs []*onnx.Value
	taken := map[string]bool{}
	for _, v := range wrt {
		d := grads[v]
		if d == nil {
			d = g.Zeros(v)
		}
		if taken[d.Name] { // two that have one gradient
			d = g.Op("Identity", d)
		}
		taken[d.Name] = true
		outs = append(outs, d)
	}
	if err := g.Err(); err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	view, graph := *work, *work.Graph
	graph.Outputs, view.Graph = outs, &graph
	s, err := runtime.NewSession(&view, opts...)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	got, err := s.Run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	result := make(map[string]*tensor.Tensor, len(got))
	for i, v := range wrt {
		x, ok := inputs[v.Name].(*tensor.Tensor)
		if !ok {
			x = v.Const
		}
		result[v.Name] = got[outs[i].Name].(*tensor.Tensor)
		if d := result[v.Name]; x != nil && (d.DType() != x.DType() || !slices.Equal(d.Shape(), x.Shape())) {
			return nil, fmt.Errorf("gradients: that of %q, %s, came out as %s: the model does not compute %q", v.Name, x, d, name)
		}
	}
	return result, nil
}
