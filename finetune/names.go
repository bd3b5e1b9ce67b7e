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
	Shape       []int  `json:"shape"`                 // PyTorch's
	Initializer string `json:"initializer,omitempty"` // none where the file no longer holds the values
	Form        Form   `json:"form,omitempty"`
	// Of [Gates]: the initializer's first index, and where the rows begin.
	Direction int `json:"direction,omitempty"`
	Offset    int `json:"offset,omitempty"`
	// Further initializers that hold the same tensor, as it is or transposed, perhaps with further axes of one.
	Also   []string `json:"also,omitempty"`
	Buffer bool     `json:"buffer,omitempty"` // a buffer, which is not trained: a mask, a table, running statistics
	// The tensor that this is another name of: one parameter that the module has twice, not two that the exporter merged.
	SameAs string `json:"same_as,omitempty"`
	// Of an embedding: the row that gets no gradient where it is looked up, if there is one. See [Config.PaddingIdx].
	PaddingIdx *int `json:"padding_idx,omitempty"`
	// Of [Joined]: where its rows are, one part after another. Initializer is then none.
	Parts []Origin `json:"parts,omitempty"`
}

// Form is how an initializer holds one of PyTorch's tensors.
type Form string

const (
	Verbatim   Form = "verbatim"   // perhaps with further axes of 1, or without
	Transposed Form = "transposed" // likewise
	Gates      Form = "gates"      // part of a recurrent operator's weight, gates in ONNX's order
	Joined     Form = "joined"     // in several initializers, as attention's joint projection is where queries, keys and values differ
)

// ParseNames reads the JSON of [Names]: {"fc.weight": {"shape": [10, 48], "initializer": "onnx::MatMul_12", "form": "transposed"}, …}.
func ParseNames(text []byte) (Names, error) {
	var n Names
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	return n, nil
}

// gateOrder is where a recurrent operator of m that v is a weight of has PyTorch's gates: PyTorch has
// i f g o and r z n, ONNX i o f c and z r h.
func gateOrder(m *onnx.Model, v *onnx.Value) ([]int, error) {
	if order := gatesOfReader(m, v, nil); order != nil {
		return order, nil
	}
	return nil, fmt.Errorf("initializer %q is no weight of an RNN, LSTM or GRU", v.Name)
}

// gatesOfReader is the order of gates of the recurrent operator that reads v, itself or in a function that v is handed to from within those
// of calls; nil if there is none.
func gatesOfReader(m *onnx.Model, v *onnx.Value, calls []*onnx.Function) []int {
	for _, n := range v.Users() {
		if fn := m.Function(n.Domain, n.Op, n.Overload); fn != nil {
			for i, in := range n.Inputs {
				if in != v || i >= len(fn.Body.Inputs) || slices.Contains(calls, fn) {
					continue
				}
				if order := gatesOfReader(m, fn.Body.Inputs[i], append(slices.Clip(calls), fn)); order != nil {
					return order
				}
			}
			continue
		}
		switch n.Op {
		case "LSTM":
			return []int{0, 2, 3, 1}
		case "GRU":
			return []int{1, 0, 2}
		case "RNN":
			return []int{0}
		}
	}
	return nil
}

// take is PyTorch's tensor out of t, which is the value of initializer v of m or of its shape.
func (o Origin) take(m *onnx.Model, v *onnx.Value, t *tensor.Tensor) (*tensor.Tensor, error) {
	s := t.Shape()
	unlike := fmt.Errorf("initializer %q of %v does not hold a tensor of %v (%s)", v.Name, s, o.Shape, o.Form)
	switch o.Form {
	case Verbatim:
		switch {
		case slices.Equal(s, o.Shape):
			return t, nil
		case slices.Equal(withoutOnes(s), withoutOnes(o.Shape)):
			return t.Reshape(o.Shape...)
		}
		return nil, unlike
	case Transposed:
		if len(o.Shape) != 2 || !slices.Equal(withoutOnes(s), withoutOnes([]int{o.Shape[1], o.Shape[0]})) {
			return nil, unlike
		}
		t, err := t.Reshape(o.Shape[1], o.Shape[0])
		if err != nil {
			return nil, err
		}
		return transpose(t)
	case Gates:
		order, err := gateOrder(m, v)
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
	return nil, fmt.Errorf("form %q is none of %s, %s, %s, %s", o.Form, Verbatim, Transposed, Gates, Joined)
}

// places is where the tensor is: o itself, or its parts.
func (o Origin) places() []Origin {
	if o.Form == Joined {
		return o.Parts
	}
	return []Origin{o}
}

// lost reports whether the file no longer holds the tensor.
func (o Origin) lost() bool { return o.Initializer == "" && len(o.Parts) == 0 }

// read is PyTorch's tensor out of what value gives for initializers of m: tensors of their shapes.
func (o Origin) read(m *onnx.Model, value func(*onnx.Value) *tensor.Tensor) (*tensor.Tensor, error) {
	if o.Form != Joined {
		v := m.Graph.Init(o.Initializer)
		if v == nil {
			return nil, fmt.Errorf("it should be in initializer %q, which the model has not", o.Initializer)
		}
		return o.take(m, v, value(v))
	}
	var joined []byte
	var dtype tensor.DType
	for i, part := range o.Parts {
		if part.Form == Joined || len(part.Shape) == 0 || len(o.Shape) == 0 || !slices.Equal(part.Shape[1:], o.Shape[1:]) {
			return nil, fmt.Errorf("part %d, of %v (%s), is no part of %v", i, part.Shape, part.Form, o.Shape)
		}
		t, err := part.read(m, value)
		if err != nil {
			return nil, err
		}
		if i > 0 && t.DType() != dtype {
			return nil, fmt.Errorf("its parts are of %s and %s", dtype, t.DType())
		}
		joined, dtype = append(joined, t.Bytes()...), t.DType()
	}
	return tensor.FromBytes(dtype, o.Shape, joined, nil)
}

// withoutOnes is a shape's axes of more than 1.
func withoutOnes(shape []int) []int {
	return slices.DeleteFunc(slices.Clone(shape), func(d int) bool { return d == 1 })
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
		if n[name].lost() {
			lost = append(lost, name)
			continue
		}
		dict[name], err = n[name].read(m, func(v *onnx.Value) *tensor.Tensor { return v.Const })
		if err != nil {
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
		case o.lost():
			continue // the model has no place for it
		case !slices.Equal(dict[name].Shape(), o.Shape):
			return nil, fmt.Errorf("names: %q is %s, not of shape %v", name, dict[name], o.Shape)
		}
		rows := dict[name].Bytes()
		for _, part := range o.places() {
			w := dict[name]
			if o.Form == Joined {
				count, err := tensor.NumElements(part.Shape)
				if err != nil || count > len(rows)/w.DType().Size() {
					return nil, fmt.Errorf("names: %q of %v does not hold its part of %v", name, o.Shape, part.Shape)
				}
				size := count * w.DType().Size()
				if w, err = tensor.FromBytes(w.DType(), part.Shape, rows[:size], nil); err != nil {
					return nil, fmt.Errorf("names: %q: %w", name, err)
				}
				rows = rows[size:]
			}
			if err := part.write(m, out, w); err != nil {
				return nil, fmt.Errorf("names: %q: %w", name, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if _, ok := dict[name]; !ok && !partial && !n[name].lost() {
			return nil, fmt.Errorf("names: no tensor for %q", name)
		}
	}
	return out, nil
}

// write puts PyTorch's tensor into copies, in out, of the initializers of m that hold it.
func (o Origin) write(m *onnx.Model, out map[string]*tensor.Tensor, w *tensor.Tensor) error {
	for i, initializer := range append([]string{o.Initializer}, o.Also...) {
		v := m.Graph.Init(initializer)
		if v == nil {
			return fmt.Errorf("it should be in initializer %q, which the model has not", initializer)
		}
		if out[initializer] == nil {
			out[initializer] = v.Const.Clone()
		}
		form := o
		if first := m.Graph.Init(o.Initializer).Const; i > 0 && !alike(v.Const, first) {
			form.Form = Verbatim // they have been changed apart: its shape is all that tells
			if isTransposed(v.Const, first) && o.Form != Transposed || !slices.Equal(pressed(v.Const).Shape(), pressed(w).Shape()) {
				form.Form = Transposed
			}
		}
		if err := form.put(m, v, out[initializer], w); err != nil {
			return err
		}
	}
	return nil
}

// put is the reverse of take: it puts PyTorch's tensor w into t, a copy of the value of initializer v of m.
func (o Origin) put(m *onnx.Model, v *onnx.Value, t, w *tensor.Tensor) error {
	old, err := o.take(m, v, t)
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
		order, err := gateOrder(m, v)
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
		if o, ok := n[out.Name]; ok && o.SameAs == "" && o.Initializer == node.Inputs[0].Name {
			ownInitializer(g, node)
			o.Initializer, o.Also = out.Name, nil
			n[out.Name] = o
		}
	}
	return n
}

// liftWeights makes initializers of weights that the exporter has left as Constant nodes, as it does in scripted modules: those that names
// says are there, those of recurrent layers and convolutions and, if integers are to be trained, those that DequantizeLinear reads, as it does in
// quantized modules.
func liftWeights(top *onnx.Graph, names Names, integers bool) {
	named := map[string]bool{}
	for _, o := range names {
		for _, part := range o.places() {
			named[part.Initializer] = true
			for _, also := range part.Also {
				named[also] = true
			}
		}
	}
	top.Walk(func(g *onnx.Graph) {
		for _, n := range slices.Clone(g.Nodes) {
			a := n.Attr("value")
			if n.Op != "Constant" || onnx.CanonicalDomain(n.Domain) != "" || a == nil || a.T == nil || !a.T.DType().IsFloat() && !(integers && a.T.DType().IsInteger()) || n.Output(0) == nil {
				continue
			}
			v := n.Outputs[0]
			if !named[v.Name] && !slices.ContainsFunc(v.Users(), func(u *onnx.Node) bool { return isWeight(u, v) }) || top.Init(v.Name) != nil || slices.Contains(g.Outputs, v) {
				continue
			}
			g.Remove(n)
			n.SetOutput(0, nil)
			v.Const, v.Type = a.T, onnx.TypeOfTensor(a.T)
			top.Inits = append(top.Inits, v)
		}
	})
}

// isWeight reports whether v is a weight of n, a recurrent layer or a convolution, or what makes numbers of integers.
func isWeight(n *onnx.Node, v *onnx.Value) bool {
	var at []int
	switch n.Op {
	case "RNN", "GRU":
		at = []int{1, 2, 3}
	case "LSTM":
		at = []int{1, 2, 3, 7}
	case "Conv", "ConvTranspose":
		at = []int{1, 2}
	case "DequantizeLinear":
		at = []int{0}
	}
	return onnx.CanonicalDomain(n.Domain) == "" && slices.ContainsFunc(at, func(i int) bool { return n.Input(i) == v })
}

// ties is the copies among g's initializers. One that is the place of another parameter is none.
func (n Names) ties(g *onnx.Graph) ([]tie, error) {
	own := map[string]bool{}
	for _, o := range n {
		for _, part := range o.places() {
			own[part.Initializer] = true
		}
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

// derived is the initializers, named by the exporter, that hold none of PyTorch's tensors though each of its parameters is in some: what folding has made
// of constants, which no optimizer of PyTorch's sees. Where parameters are lost, they may be what is left of them.
func (n Names) derived(g *onnx.Graph) map[string]bool {
	held := map[string]bool{}
	for _, o := range n {
		if o.lost() && !o.Buffer {
			return nil
		}
		for _, part := range o.places() {
			held[part.Initializer] = true
			for _, also := range part.Also {
				held[also] = true
			}
		}
	}
	found := map[string]bool{}
	for _, v := range g.Inits {
		if len(n) > 0 && !held[v.Name] && !parameterName.MatchString(v.Name) {
			found[v.Name] = true
		}
	}
	return found
}

// padding is the rows of tables among g's initializers that get no gradient: those that names tell of and those that rows adds, by name
// of PyTorch or of the initializer.
func (n Names) padding(g *onnx.Graph, rows map[string]int) (map[string]padding, error) {
	found := map[string]padding{}
	add := func(name string, row int, asked bool) error {
		table := g.Init(name)
		if o, ok := n[name]; ok {
			table = g.Init(o.Initializer)
		}
		if table == nil || table.Const.Rank() == 0 {
			return fmt.Errorf("padding_idx: %q is no table of the model's", name)
		}
		count := table.Const.Shape()[0]
		if row < -count || row >= count {
			return fmt.Errorf("padding_idx: %q has %d rows, and none that is %d", name, count, row)
		}
		found[table.Name] = padding{row: int64((row + count) % count), asked: asked}
		return nil
	}
	for name, o := range n {
		if o.PaddingIdx != nil && !o.lost() {
			if err := add(name, *o.PaddingIdx, false); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if err := add(name, rows[name], true); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// at is PyTorch's names of what initializer holds.
func (n Names) at(initializer string) []string {
	var names []string
	for name, o := range n {
		if slices.ContainsFunc(o.places(), func(part Origin) bool { return part.Initializer == initializer }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
