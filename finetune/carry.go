package finetune

import (
	"fmt"
	"maps"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// carried is the states that go from one batch to the next, by the input that takes them: truncated backpropagation through time.
type carried struct {
	outputs map[string]string // the output that is an input's next state
	inputs  map[string]*onnx.Value
	all     []*onnx.Value // inputs of the model
	now     map[string]*tensor.Tensor
}

// newCarried looks up the inputs and outputs that carry names, the former by the latter.
func newCarried(m *onnx.Model, carry map[string]string) (*carried, error) {
	c := &carried{outputs: carry, inputs: map[string]*onnx.Value{}, all: m.Graph.Inputs}
	for _, in := range slices.Sorted(maps.Keys(carry)) {
		for _, v := range m.Graph.Inputs {
			if v.Name == in && v.Type != nil && v.Type.Kind == onnx.TensorType {
				c.inputs[in] = v
			}
		}
		if c.inputs[in] == nil {
			return nil, fmt.Errorf("carry: the model has no input %q that is a tensor", in)
		}
		at := slices.IndexFunc(m.Graph.Outputs, func(v *onnx.Value) bool { return v.Name == carry[in] })
		if at < 0 {
			return nil, fmt.Errorf("carry: the model has no output %q", carry[in])
		}
		if a, b := c.inputs[in].Type, m.Graph.Outputs[at].Type; b != nil && (b.Kind != a.Kind || b.Elem != a.Elem) {
			return nil, fmt.Errorf("carry: input %q is of %s, which output %q of %s cannot be", in, a, carry[in], b)
		}
	}
	return c, nil
}

// of is the outputs of m, a copy of the model, that are states.
func (c *carried) of(m *onnx.Model) []*onnx.Value {
	var vs []*onnx.Value
	for _, in := range slices.Sorted(maps.Keys(c.outputs)) {
		for _, v := range m.Graph.Outputs {
			if v.Name == c.outputs[in] && !slices.Contains(vs, v) {
				vs = append(vs, v)
			}
		}
	}
	return vs
}

// give adds the states to a batch's inputs, but for those that the batch brings itself: what came before, or zeros.
func (c *carried) give(in, batch Batch) error {
	var dims map[string]int64
	for name, v := range c.inputs {
		if batch[name] != nil {
			continue
		}
		if t := c.now[name]; t != nil {
			in[name] = t
			continue
		}
		if dims == nil {
			dims = c.sizes(batch)
		}
		shape := make([]int, len(v.Type.Shape))
		for i, d := range v.Type.Shape {
			n, ok := d.Value, d.Value >= 0
			if !ok {
				n, ok = dims[d.Param]
			}
			if !ok || n > 1<<31 {
				return fmt.Errorf("carry: dimension %d of input %q has no size and no name that another input has: the first batch must bring it", i, name)
			}
			shape[i] = int(n)
		}
		if v.Type.Shape == nil {
			return fmt.Errorf("carry: input %q has no shape: the first batch must bring it", name)
		}
		t, err := tensor.Zeros(v.Type.Elem, shape...)
		if err != nil {
			return fmt.Errorf("carry: input %q: %w", name, err)
		}
		in[name] = t
	}
	return nil
}

// sizes is what the named dimensions are in a batch.
func (c *carried) sizes(batch Batch) map[string]int64 {
	dims := map[string]int64{}
	for _, v := range c.all {
		t, ok := batch[v.Name].(*tensor.Tensor)
		if !ok || v.Type == nil {
			continue
		}
		for i, d := range v.Type.Shape {
			if d.Param != "" && i < t.Rank() {
				dims[d.Param] = int64(t.Shape()[i])
			}
		}
	}
	return dims
}

// keep takes the states that a batch has left.
func (c *carried) keep(out map[string]tensor.Value) {
	if len(c.outputs) == 0 {
		return
	}
	next := map[string]*tensor.Tensor{}
	for in, name := range c.outputs {
		if t, ok := out[name].(*tensor.Tensor); ok {
			next[in] = t
		}
	}
	c.now = next
}
