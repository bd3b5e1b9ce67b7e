package onnx

import (
	"errors"
	"fmt"

	"github.com/retune-go/retune/tensor"
)

// Builder writes a graph, one node after the other:
//
//	b := onnx.NewBuilder("mlp", 21)
//	x := b.Input("x", tensor.Float32, "batch", 10)
//	w := b.Init("w", weights)
//	b.Output("y", b.Op("Relu", b.Op("MatMul", x, w)), tensor.Float32, "batch", 4)
//	m, err := b.Model()
//
// Mistakes are collected and told by [Builder.Model].
type Builder struct {
	model *Model
	graph *Graph
	names *builderNames
}

// builderNames is what a builder and those of its subgraphs have in common.
type builderNames struct {
	taken map[string]bool
	auto  map[*Value]bool // values that the builder named, and may name again
	count map[string]int
	errs  []error
}

// NewBuilder starts a model whose graph has that name and whose operators are those of ai.onnx at opset.
func NewBuilder(name string, opset int64) *Builder {
	// The IR version that came with the opset; older ones than 8 bring nothing.
	ir := int64(8)
	for _, since := range []int64{19, 21, 23, 24, 25} {
		if opset >= since {
			ir++
		}
	}
	g := &Graph{Name: name}
	return &Builder{
		model: &Model{IRVersion: ir, Opsets: []Opset{{Version: opset}}, ProducerName: "retune", Graph: g},
		graph: g,
		names: &builderNames{taken: map[string]bool{}, auto: map[*Value]bool{}, count: map[string]int{}},
	}
}

func (b *Builder) fail(format string, args ...any) {
	b.names.errs = append(b.names.errs, fmt.Errorf("graph %q: "+format, append([]any{b.graph.Name}, args...)...))
}

// take notes that the graph's author uses name.
func (b *Builder) take(name string) {
	switch {
	case name == "":
		b.fail("a value has no name")
	case b.names.taken[name]:
		b.fail("the name %q is used twice", name)
	}
	b.names.taken[name] = true
}

func (b *Builder) fresh(prefix string) string {
	for {
		b.names.count[prefix]++
		name := fmt.Sprintf("%s_%d", prefix, b.names.count[prefix])
		if !b.names.taken[name] {
			b.names.taken[name] = true
			return name
		}
	}
}

// tensorType is the type with these dimensions: an int or int64 is a size, a string a name, nil nothing.
func (b *Builder) tensorType(name string, d tensor.DType, dims []any) *Type {
	t := &Type{Elem: d, Shape: []Dim{}}
	for _, dim := range dims {
		switch dim := dim.(type) {
		case int:
			t.Shape = append(t.Shape, Dim{Value: int64(dim)})
		case int64:
			t.Shape = append(t.Shape, Dim{Value: dim})
		case string:
			t.Shape = append(t.Shape, Dim{Value: -1, Param: dim})
		case nil:
			t.Shape = append(t.Shape, Dim{Value: -1})
		default:
			b.fail("value %q: a dimension is an int, a name or nil, not a %T", name, dim)
		}
	}
	return t
}

// Input adds a tensor input. Its dimensions are ints, names, or nil where nothing is known.
func (b *Builder) Input(name string, d tensor.DType, dims ...any) *Value {
	return b.InputOf(name, b.tensorType(name, d, dims))
}

// InputOf adds an input of any type.
func (b *Builder) InputOf(name string, t *Type) *Value {
	b.take(name)
	v := &Value{Name: name, Type: t}
	b.graph.Inputs = append(b.graph.Inputs, v)
	return v
}

// Init adds an initializer.
func (b *Builder) Init(name string, t *tensor.Tensor) *Value {
	if t == nil {
		b.fail("initializer %q has no value", name)
		t = tensor.Scalar(float32(0))
	}
	b.take(name)
	return b.graph.AddInit(name, t)
}

// Const adds an initializer that the builder names.
func (b *Builder) Const(t *tensor.Tensor) *Value {
	if t == nil {
		return b.Init(b.fresh("const"), t)
	}
	return b.graph.AddInit(b.fresh("const"), t)
}

// Op adds a node with one output and no attributes. A nil input is one that is left out.
func (b *Builder) Op(op string, inputs ...*Value) *Value { return b.Node(op, inputs) }

// Node adds a node with one output.
func (b *Builder) Node(op string, inputs []*Value, attrs ...*Attribute) *Value {
	return b.Multi(op, 1, inputs, attrs...)[0]
}

// Multi adds a node with several outputs.
func (b *Builder) Multi(op string, outputs int, inputs []*Value, attrs ...*Attribute) []*Value {
	n := NewNode(op, inputs)
	n.Attrs = attrs
	for i := range outputs {
		v := &Value{}
		if i == 0 {
			n.Name = b.fresh(op)
			v.Name = n.Name
		} else {
			v.Name = b.fresh(op)
		}
		b.names.auto[v] = true
		n.AddOutput(v)
	}
	return b.Add(n)
}

// Add adds a node made elsewhere, whose outputs have names; it returns its outputs. The domain of
// another operator set than ai.onnx is made known by [Builder.Import].
func (b *Builder) Add(n *Node) []*Value {
	for _, v := range n.Outputs {
		if v != nil && !b.names.auto[v] {
			b.take(v.Name)
		}
	}
	for _, g := range n.Graphs() {
		g.Outer = n
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n.Outputs
}

// Import makes an operator set known to the model.
func (b *Builder) Import(domain string, version int64) {
	if b.model == nil {
		b.fail("operator sets are the model's, not a subgraph's")
		return
	}
	b.model.Opsets = append(b.model.Opsets, Opset{domain, version})
}

// Sub starts a graph for an attribute ([GraphAttr]) of a node of this one, all of whose values it may read.
func (b *Builder) Sub(name string) *Builder {
	return &Builder{graph: &Graph{Name: name}, names: b.names}
}

// Graph is the graph as far as it is built, for [GraphAttr].
func (b *Builder) Graph() *Graph { return b.graph }

// Output makes v an output of the graph under that name.
func (b *Builder) Output(name string, v *Value, d tensor.DType, dims ...any) {
	b.OutputOf(name, v, b.tensorType(name, d, dims))
}

// OutputOf makes v an output of any type; nil says nothing of the type.
func (b *Builder) OutputOf(name string, v *Value, t *Type) {
	if v == nil {
		b.fail("output %q is no value", name)
		return
	}
	if own := b.names.auto[v] && v.def != nil && indexOf(b.graph.Nodes, v.def); !own && v.Name != name {
		v = b.Op("Identity", v) // it has a name already, or is not this graph's
	}
	if v.Name != name {
		b.take(name)
		delete(b.names.taken, v.Name)
		delete(b.names.auto, v)
		v.Name = name
	}
	v.Type = t
	b.graph.Outputs = append(b.graph.Outputs, v)
}

func indexOf(nodes []*Node, n *Node) bool {
	for i := len(nodes) - 1; i >= 0; i-- { // it is one of the last, as a rule
		if nodes[i] == n {
			return true
		}
	}
	return false
}

// Model is the model, checked.
func (b *Builder) Model() (*Model, error) {
	if b.model == nil {
		return nil, errors.New("a subgraph's builder has no model")
	}
	if err := errors.Join(b.names.errs...); err != nil {
		return nil, err
	}
	if err := Check(b.model); err != nil {
		return nil, err
	}
	return b.model, nil
}

// IntAttr is an integer attribute.
func IntAttr(name string, v int64) *Attribute { return &Attribute{Name: name, Type: AttrInt, I: v} }

// FloatAttr is a float attribute.
func FloatAttr(name string, v float32) *Attribute {
	return &Attribute{Name: name, Type: AttrFloat, F: v}
}

// StringAttr is a string attribute.
func StringAttr(name, v string) *Attribute {
	return &Attribute{Name: name, Type: AttrString, S: []byte(v)}
}

// IntsAttr is a list of integers.
func IntsAttr(name string, v ...int64) *Attribute {
	return &Attribute{Name: name, Type: AttrInts, Ints: v}
}

// FloatsAttr is a list of floats.
func FloatsAttr(name string, v ...float32) *Attribute {
	return &Attribute{Name: name, Type: AttrFloats, Floats: v}
}

// StringsAttr is a list of strings.
func StringsAttr(name string, v ...string) *Attribute {
	a := &Attribute{Name: name, Type: AttrStrings}
	for _, s := range v {
		a.Strings = append(a.Strings, []byte(s))
	}
	return a
}

// TensorAttr is a tensor as an attribute.
func TensorAttr(name string, t *tensor.Tensor) *Attribute {
	return &Attribute{Name: name, Type: AttrTensor, T: t}
}

// GraphAttr is a subgraph: a branch of If, the body of Loop or Scan.
func GraphAttr(name string, g *Graph) *Attribute {
	return &Attribute{Name: name, Type: AttrGraph, G: g}
}
