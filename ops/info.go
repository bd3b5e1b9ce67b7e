package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Info is what is known of a value before it is computed.
type Info struct {
	Kind   onnx.TypeKind
	DType  tensor.DType // Undefined: not known; of a sequence: its elements'
	Ranked bool         // whether Shape says anything
	Shape  []Dim
	Const  *tensor.Tensor // the value itself, where it is known
	Values []Dim          // else, of few integers or bools, the elements as far as they are known; nil: none is
	Elem   *Info          // of a sequence or optional: what is known of each element; nil: nothing
}

// none is what is known of the elements of a sequence that is empty.
const none = onnx.TypeKind(-1)

// SequenceOf is the Info of a sequence of such elements.
func SequenceOf(elem Info) Info {
	elem = elem.WithoutValue()
	return Info{Kind: onnx.SequenceType, DType: elem.DType, Elem: &elem}
}

// WithoutValue is what is known but for the value.
func (i Info) WithoutValue() Info {
	i.Const, i.Values = nil, nil
	return i
}

// Without is what is known but for what hangs on sizes that are [Fresh] under the path: what holds whenever the subgraph there has run.
func (i Info) Without(path string) Info {
	each := func(ds []Dim) []Dim {
		if !slices.ContainsFunc(ds, func(d Dim) bool { return !alike(d, d.without(path)) }) {
			return ds
		}
		out := make([]Dim, len(ds))
		for k, d := range ds {
			out[k] = d.without(path)
		}
		return out
	}
	i.Shape, i.Values = each(i.Shape), each(i.Values)
	if i.Elem != nil {
		e := i.Elem.Without(path)
		i.Elem = &e
	}
	return i
}

// element is what is known of an element of a sequence or optional.
func (i Info) element() Info {
	if i.Elem == nil || i.Elem.Kind == none {
		return Info{DType: i.DType}
	}
	return *i.Elem
}

// Equal reports whether the same is known; values are not looked at.
func (i Info) Equal(j Info) bool {
	return i.Kind == j.Kind && i.DType == j.DType && i.Ranked == j.Ranked && slices.EqualFunc(i.Shape, j.Shape, alike) &&
		(i.Elem == nil) == (j.Elem == nil) && (i.Elem == nil || i.Elem.Equal(*j.Elem))
}

// InfoOf describes a value exactly. The tensor itself is included as Const only if keep.
func InfoOf(v tensor.Value, keep bool) Info {
	switch v := v.(type) {
	case *tensor.Tensor:
		i := Info{DType: v.DType(), Ranked: true, Shape: make([]Dim, v.Rank())}
		for k, d := range v.Shape() {
			i.Shape[k] = D(d)
		}
		if keep {
			i.Const = v
		}
		return i
	case *tensor.Sequence:
		return Info{Kind: onnx.SequenceType, DType: v.Elem}
	case *tensor.Optional:
		return Info{Kind: onnx.OptionalType}
	case *tensor.Map:
		return Info{Kind: onnx.MapType}
	}
	return Info{}
}

// InfoOfType is what a declared type says.
func InfoOfType(t *onnx.Type) Info {
	if t == nil {
		return Info{}
	}
	i := Info{Kind: t.Kind, DType: t.Elem}
	if t.Kind != onnx.TensorType {
		if t.Of != nil {
			i.DType = t.Of.Elem
			if t.Of.Kind != onnx.TensorType {
				e := InfoOfType(t.Of)
				i.DType, i.Elem = e.DType, &e
			}
		}
		return i
	}
	if t.Shape != nil {
		i.Ranked = true
		for _, d := range t.Shape {
			switch {
			case d.Param != "":
				i.Shape = append(i.Shape, Symbol(d.Param))
			case d.Value >= 0:
				i.Shape = append(i.Shape, D(int(d.Value)))
			default:
				i.Shape = append(i.Shape, Unknown)
			}
		}
	}
	return i
}

// Type is the type that says what i does, nil if that is no element type. A dimension that is a term over several names is left open.
func (i Info) Type() *onnx.Type {
	if i.DType == tensor.Undefined {
		return nil
	}
	if i.Kind != onnx.TensorType {
		return &onnx.Type{Kind: i.Kind, Of: i.element().Type()}
	}
	t := &onnx.Type{Elem: i.DType}
	if i.Ranked {
		t.Shape = make([]onnx.Dim, len(i.Shape))
		for k, d := range i.Shape {
			t.Shape[k].Value = -1
			if d.Known() {
				t.Shape[k].Value = int64(d.N)
			} else if name, ok := d.Name(); ok {
				t.Shape[k].Param = name
			}
		}
	}
	return t
}

// Rank is the number of dimensions, -1 if not known.
func (i Info) Rank() int {
	if !i.Ranked {
		return -1
	}
	return len(i.Shape)
}

// Static is the shape as numbers, ok false if some dimension is unknown.
func (i Info) Static() (shape []int, ok bool) {
	if i.Kind != onnx.TensorType || !i.Ranked || i.DType == tensor.Undefined {
		return nil, false
	}
	shape = make([]int, len(i.Shape))
	for k, d := range i.Shape {
		if !d.Known() {
			return nil, false
		}
		shape[k] = d.N
	}
	return shape, true
}

// Tensor is the Info of a tensor of known rank.
func Tensor(d tensor.DType, shape ...Dim) Info { return Info{DType: d, Ranked: true, Shape: shape} }

// Unranked is the Info of a tensor of which only the type is known.
func Unranked(d tensor.DType) Info { return Info{DType: d} }

// Dims makes known dimensions.
func Dims(shape []int) []Dim {
	ds := make([]Dim, len(shape))
	for i, d := range shape {
		ds[i] = D(d)
	}
	return ds
}

// SameAs infers one output of the type and shape of input i.
func SameAs(i int) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		out := n.Info(i)
		out = out.WithoutValue()
		return []Info{out}, nil
	}
}

// BroadcastDims is the shape that a and b broadcast to, by numpy's rule.
func BroadcastDims(a, b []Dim) ([]Dim, error) {
	if len(a) < len(b) {
		a, b = b, a
	}
	out := make([]Dim, len(a))
	copy(out, a)
	off := len(a) - len(b)
	for i, d := range b {
		e := a[off+i]
		switch {
		case e.Same(d) || d.N == 1:
		case e.N == 1:
			out[off+i] = d
		case e.Known() && d.Known():
			return nil, fmt.Errorf("shapes %v and %v do not broadcast", a, b)
		case e.Known(): // not 1: the unknown one is 1 or the same
		case d.Known():
			out[off+i] = d
		default:
			out[off+i] = broadcastOf(e, d)
		}
	}
	return out, nil
}

// Broadcast infers one output of input typeOf's element type and the shape that the listed
// inputs (all, if none is listed) broadcast to.
func Broadcast(d tensor.DType, infos ...Info) (Info, error) {
	out := Info{DType: d, Ranked: true, Shape: []Dim{}}
	for _, in := range infos {
		if !in.Ranked {
			return Unranked(d), nil
		}
		s, err := BroadcastDims(out.Shape, in.Shape)
		if err != nil {
			return Info{}, err
		}
		out.Shape = s
	}
	return out, nil
}
