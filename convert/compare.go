package convert

import (
	"context"
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Difference is how far an output of a rewritten model is from what the model gave before.
type Difference struct {
	Output         string
	MaxAbs, MaxRel float64 // greatest of all elements, as [tensor.Compare] gives them
	Err            error   // out of tolerance: where, and by how much
}

// Compare runs before, a model, and after, what it was rewritten to, and compares the outputs of after with before's values of those names. inputs
// are before's; an input of after that is none of them is given what before computes under that name. Values of another element type in after are
// converted.
func Compare(ctx context.Context, before, after *onnx.Model, inputs map[string]tensor.Value, rtol, atol float64) ([]Difference, error) {
	ref := before.Clone()
	values := map[string]*onnx.Value{}
	for v := range ref.Graph.Values() {
		values[v.Name] = v
	}
	ref.Graph.Outputs = nil
	read := map[string]bool{}
	for _, v := range append(after.Graph.Outputs, after.Graph.Inputs...) {
		w := values[v.Name]
		switch {
		case w != nil && !read[v.Name] && inputs[v.Name] == nil:
			ref.Graph.Outputs = append(ref.Graph.Outputs, w)
			read[v.Name] = true
		case w == nil:
			return nil, fmt.Errorf("the model before has no value %q", v.Name)
		}
	}
	want, err := run(ctx, ref, inputs)
	if err != nil {
		return nil, fmt.Errorf("the model before: %w", err)
	}
	given := map[string]tensor.Value{}
	for _, v := range after.Graph.Inputs {
		x := inputs[v.Name]
		if x == nil {
			x = want[v.Name]
		}
		if v.Type != nil {
			if x, err = as(x, v.Type.Elem); err != nil {
				return nil, err
			}
		}
		given[v.Name] = x
	}
	got, err := run(ctx, after, given)
	if err != nil {
		return nil, fmt.Errorf("the model after: %w", err)
	}
	var all []Difference
	for _, v := range after.Graph.Outputs {
		w := want[v.Name]
		if w == nil {
			w = inputs[v.Name]
		}
		g := got[v.Name]
		if t, ok := w.(*tensor.Tensor); ok {
			if g, err = as(g, t.DType()); err != nil {
				return nil, err
			}
		}
		d := Difference{Output: v.Name}
		d.MaxAbs, d.MaxRel, d.Err = tensor.Compare(g, w, rtol, atol)
		all = append(all, d)
	}
	return all, nil
}

func run(ctx context.Context, m *onnx.Model, inputs map[string]tensor.Value) (map[string]tensor.Value, error) {
	s, err := runtime.NewSession(m)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(ctx, inputs)
}

// as is v, a tensor of floating-point numbers in another type than d, in d.
func as(v tensor.Value, d tensor.DType) (tensor.Value, error) {
	t, ok := v.(*tensor.Tensor)
	if !ok || t.DType() == d || !t.DType().IsFloat() || !d.IsFloat() {
		return v, nil
	}
	return tensor.Convert(t, d, false)
}
