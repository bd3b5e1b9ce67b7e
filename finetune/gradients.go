package finetune

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// OutputGradients is the gradients of the sum of an output's elements, or of their mean, with respect to every floating-point
// weight and input of m, under their names. Those on which the output does not hang are zero. With straightThrough they pass what rounds, as
// [Config.StraightThrough] has them.
func OutputGradients(ctx context.Context, m *onnx.Model, inputs map[string]tensor.Value, name string, mean, straightThrough bool, opts ...runtime.Option) (map[string]*tensor.Tensor, error) {
	work, err := outputGradients(m, name, mean, straightThrough)
	if err != nil {
		return nil, fmt.Errorf("gradients: %w", err)
	}
	s, err := runtime.NewSession(work, opts...)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	got, err := s.Run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	result := make(map[string]*tensor.Tensor, len(got))
	for of, v := range got {
		d := v.(*tensor.Tensor)
		of = strings.TrimPrefix(of, GradientOf)
		x, _ := inputs[of].(*tensor.Tensor)
		if w := work.Graph.Init(of); x == nil && w != nil {
			x = w.Const
		}
		if x != nil && (d.DType() != x.DType() || !slices.Equal(d.Shape(), x.Shape())) {
			return nil, fmt.Errorf("gradients: that of %q, %s, came out as %s: the model does not compute %q", of, x, d, name)
		}
		result[of] = d
	}
	return result, nil
}

// GradientOf begins the names of a gradient graph's outputs: that of a weight's or an input's gradient goes on with its name.
const GradientOf = "gradient::"

// GradientGraph is a model in standard operators alone that computes what [OutputGradients] gives, each under [GradientOf] and its name. What
// cannot be written so is an error that lists it.
func GradientGraph(m *onnx.Model, name string, mean, straightThrough bool) (*onnx.Model, error) {
	work, err := outputGradients(m, name, mean, straightThrough)
	if err == nil {
		work, err = runtime.Portable(work)
	}
	if err == nil {
		err = onnx.Check(work)
	}
	if err != nil {
		return nil, fmt.Errorf("gradient graph: %w", err)
	}
	return work, nil
}

// outputGradients is m with those gradients as its outputs.
func outputGradients(m *onnx.Model, name string, mean, straightThrough bool) (*onnx.Model, error) {
	work := m.Clone()
	liftWeights(work.Graph, nil, false)
	own := map[string]bool{} // and not what the expansion of operators adds
	for _, v := range slices.Concat(work.Graph.Inputs, work.Graph.Inits) {
		own[v.Name] = true
	}
	work, err := runtime.Expand(work)
	if err != nil {
		return nil, err
	}
	infos, err := runtime.Infer(work)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	reduce := "ReduceSum"
	if mean {
		reduce = "ReduceMean"
	}
	loss := g.With(reduce, []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, out)
	if err := g.Err(); err != nil {
		return nil, err
	}
	grads, err := gradient(g, loss, wrt)
	if err != nil {
		return nil, err
	}
	u := &updates{Grad: g}
	work.Graph.Outputs = nil
	for _, v := range wrt {
		d := grads[v]
		if d == nil {
			d = g.Zeros(v)
		}
		u.output(GradientOf+v.Name, d)
	}
	return work, g.Err()
}
