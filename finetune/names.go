package finetune

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Names says where an exported model holds the parameters and buffers of the PyTorch module that it
// came from, by PyTorch's names: exporters transpose weights, join them and give them other names.
type Names map[string]Origin

// Origin is where one of PyTorch's tensors is.
type Origin struct {
	Shape       []int  `json:"shape"`       // PyTorch's
	Initializer string `json:"initializer"` // none where the file no longer holds the values
	Form        Form   `json:"form"`
	// Of [Gates]: the initializer's first index, and where the rows begin.
	Direction int `json:"direction"`
	Offset    int `json:"offset"`
	// Further initializers that hold the same tensor, as it is or transposed.
	Also []string `json:"also"`
}

// Form is how an initializer holds one of PyTorch's tensors.
type Form string

const (
	Verbatim   Form = "verbatim"
	Transposed Form = "transposed"
	Gates      Form = "gates" // part of a recurrent operator's weight, gates in ONNX's order
)

// ParseNames reads the JSON of [Names]: {"fc.weight": {"shape": [10, 48], "initializer": "onnx::MatMul_12", "form": "transposed"}, …}.
func ParseNames(text []byte) (Names, error) {
	var n Names
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	return n, nil
}

// gateOrder is where a recurrent operator that v is a weight of has PyTorch's gates: PyTorch has
// i f g o and r z n, ONNX i o f c and z r h.
func gateOrder(v *onnx.Value) ([]int, error) {
	for _, n := range v.Users() {
		switch n.Op {
		case "LSTM":
			return []int{0, 2, 3, 1}, nil
		case "GRU":
			return []int{1, 0, 2}, nil
		case "RNN":
			return []int{0}, nil
		}
	}
	return nil, fmt.Errorf("initializer %q is no weight of an RNN, LSTM or GRU", v.Name)
}

// take is PyTorch's tensor out of t, which is the value of initializer v or of its shape.
func (o Origin) take(v *onnx.Value, t *tensor.Tensor) (*tensor.Tensor, error) {
	s := t.Shape()
	unlike := fmt.Errorf("initializer %q of %v does not hold a tensor of %v (%s)", v.Name, s, o.Shape, o.Form)
	switch o.Form {
	case Verbatim:
		if !slices.Equal(s, o.Shape) {
			return nil, unlike
		}
		return t, nil
	case Transposed:
		if len(s) != 2 || len(o.Shape) != 2 || s[0] != o.Shape[1] || s[1] != o.Shape[0] {
			return nil, unlike
		}
		return transpose(t)
	case Gates:
		order, err := gateOrder(v)
		if err != nil {
			return nil, err
		}
		if len(s) < 2 || len(o.Shape) != len(s)-1 || !slices.Equal(s[2:], o.Shape[1:]) || o.Direction < 0 || o.Direction >= s[0] ||
			o.Offset < 0 || o.Shape[0] < 0 || o.Offset > s[1]-o.Shape[0] || o.Shape[0]%len(order) != 0 {
			return nil, unlike
		}
		row := t.DType().Size()
		for _, d := range s[2:] {
			row *= d
		}
		part := t.Bytes()[(o.Direction*s[1]+o.Offset)*row:][:o.Shape[0]*row]
		out, gate := make([]byte, 0, len(part)), len(part)/len(order)
		for _, k := range order {
			out = append(out, part[k*gate:(k+1)*gate]...)
		}
		return tensor.FromBytes(t.DType(), o.Shape, out, nil)
	}
	return nil, fmt.Errorf("form %q is none of %s, %s, %s", o.Form, Verbatim, Transposed, Gates)
}

// transpose is the transposed copy of a matrix.
func transpose(t *tensor.Tensor) (*tensor.Tensor, error) {
	rows, cols, size := t.Shape()[0], t.Shape()[1], t.DType().Size()
	in, out := t.Bytes(), make([]byte, len(t.Bytes()))
	for i := range rows {
		for j := range cols {
			copy(out[(j*rows+i)*size:][:size], in[(i*cols+j)*size:])
		}
	}
	return tensor.FromBytes(t.DType(), []int{cols, rows}, out, nil)
}

// same reports whether two tensors are of one type and shape and hold the same bits.
func same(a, b *tensor.Tensor) bool {
	return a.DType() == b.DType() && slices.Equal(a.Shape(), b.Shape()) && bytes.Equal(a.Bytes(), b.Bytes())
}

// StateDict is the module's tensors as the model has them, under PyTorch's names and in PyTorch's
// layout, and the names of those that the model does not hold.
func (n Names) StateDict(m *onnx.Model) (dict map[string]*tensor.Tensor, lost []string, err error) {
	dict = map[string]*tensor.Tensor{}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		o := n[name]
		if o.Initializer == "" {
			lost = append(lost, name)
			continue
		}
		v := m.Graph.Init(o.Initializer)
		if v == nil {
			return nil, nil, fmt.Errorf("names: %q should be in initializer %q, which the model has not", name, o.Initializer)
		}
		if dict[name], err = o.take(v, v.Const); err != nil {
			return nil, nil, fmt.Errorf("names: %q: %w", name, err)
		}
	}
	return dict, lost, nil
}

// Initializers is the reverse of [Names.StateDict]: from tensors under PyTorch's names and in its layout, the whole initializers of m that
// hold them. Names that n has not, and, unless partial, those that dict leaves out, are errors.
func (n Names) Initializers(m *onnx.Model, dict map[string]*tensor.Tensor, partial bool) (map[string]*tensor.Tensor, error) {
	out := map[string]*tensor.Tensor{}
	for _, name := range slices.Sorted(maps.Keys(dict)) {
		o, ok := n[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("names: %q is not among them", name)
		case o.Initializer == "":
			continue // the model has no place for it
		case !slices.Equal(dict[name].Shape(), o.Shape):
			return nil, fmt.Errorf("names: %q is %s, not of shape %v", name, dict[name], o.Shape)
		}
		for i, initializer := range append([]string{o.Initializer}, o.Also...) {
			v := m.Graph.Init(initializer)
			if v == nil {
				return nil, fmt.Errorf("names: %q should be in initializer %q, which the model has not", name, initializer)
			}
			if out[initializer] == nil {
				out[initializer] = v.Const.Clone()
			}
			form := o
			if i > 0 && !slices.Equal(v.Const.Shape(), o.Shape) { // a copy may be transposed
				form.Form = Transposed
			} else if i > 0 && o.Form == Transposed {
				form.Form = Verbatim
			}
			if err := form.put(v, out[initializer], dict[name]); err != nil {
				return nil, fmt.Errorf("names: %q: %w", name, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if _, ok := dict[name]; !ok && !partial && n[name].Initializer != "" {
			return nil, fmt.Errorf("names: no tensor for %q", name)
		}
	}
	return out, nil
}

// put is the reverse of take: it puts PyTorch's tensor w into t, a copy of the value of initializer v.
func (o Origin) put(v *onnx.Value, t, w *tensor.Tensor) error {
	old, err := o.take(v, t)
	if err != nil {
		return err
	}
	if old.DType() != w.DType() {
		return fmt.Errorf("it is %s, the initializer %s", w.DType(), old.DType())
	}
	switch o.Form {
	case Verbatim:
		copy(t.Bytes(), w.Bytes())
	case Transposed:
		turned, err := transpose(w)
		if err != nil {
			return err
		}
		copy(t.Bytes(), turned.Bytes())
	case Gates:
		order, err := gateOrder(v)
		if err != nil {
			return err
		}
		s, row := t.Shape(), t.DType().Size()
		for _, d := range s[2:] {
			row *= d
		}
		part := t.Bytes()[(o.Direction*s[1]+o.Offset)*row:][:o.Shape[0]*row]
		gate := len(part) / len(order)
		for i, k := range order {
			copy(part[k*gate:(k+1)*gate], w.Bytes()[i*gate:])
		}
	}
	return nil
}

// untie gives parameters that the exporter merged because they were equal an initializer each again: the
// second is there as the Identity of the first, under its own name. It returns the names as they then are.
func (n Names) untie(g *onnx.Graph) Names {
	n = maps.Clone(n)
	for _, node := range slices.Clone(g.Nodes) {
		if !isCopy(node) {
			continue
		}
		out := node.Outputs[0]
		if o, ok := n[out.Name]; ok && o.Initializer == node.Inputs[0].Name {
			ownInitializer(g, node)
			o.Initializer, o.Also = out.Name, nil
			n[out.Name] = o
		}
	}
	return n
}

// ties is the copies among g's initializers. One that is the place of another parameter is none.
func (n Names) ties(g *onnx.Graph) ([]tie, error) {
	own := map[string]bool{}
	for _, o := range n {
		own[o.Initializer] = true
	}
	var ties []tie
	for _, name := range slices.Sorted(maps.Keys(n)) {
		o := n[name]
		for _, also := range o.Also {
			if own[also] {
				continue
			}
			t, err := newTie(g, also, o.Initializer)
			if err != nil {
				return nil, fmt.Errorf("names: %q: %w", name, err)
			}
			ties = append(ties, t)
		}
	}
	return ties, nil
}

// at is PyTorch's names of what initializer holds.
func (n Names) at(initializer string) []string {
	var names []string
	for name, o := range n {
		if o.Initializer == initializer {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
