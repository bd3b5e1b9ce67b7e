// Package onnx is the model format: an in-memory graph that is easy to edit
// ([Model], [Graph], [Node], [Value]), read from and written to ONNX files
// ([Load], [Save]), checked ([Check]), built in Go ([Builder]) and printed.
// It knows nothing of execution.
package onnx

import (
	"fmt"
	"iter"
	"slices"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// Model is one ONNX file.
type Model struct {
	IRVersion       int64
	Opsets          []Opset // in file order
	ProducerName    string
	ProducerVersion string
	Domain          string
	ModelVersion    int64
	Doc             string
	Graph           *Graph
	Functions       []*Function
	Metadata        []Prop

	unknown []byte // what the graph has no place for and later standards' fields, as they were
	unmap   []func() error
}

// Opset says at which version a domain's operators are meant. The domain "" is ai.onnx.
type Opset struct {
	Domain  string
	Version int64
}

// Prop is one entry of a metadata list.
type Prop struct{ Key, Value string }

// OpsetVersion is the version at which the model imports domain, 0 if it does not.
// "" and "ai.onnx" are the same domain.
func (m *Model) OpsetVersion(domain string) int64 { return opsetVersion(m.Opsets, domain) }

func opsetVersion(opsets []Opset, domain string) int64 {
	domain = CanonicalDomain(domain)
	for _, o := range opsets {
		if CanonicalDomain(o.Domain) == domain {
			return o.Version
		}
	}
	return 0
}

// CanonicalDomain maps "ai.onnx" to "", the standard's default domain.
func CanonicalDomain(domain string) string {
	if domain == "ai.onnx" {
		return ""
	}
	return domain
}

// Function is a model-local function: a graph over formal names, called like an operator.
type Function struct {
	Name, Domain, Overload string
	Doc                    string
	Opsets                 []Opset
	Attributes             []string     // formal attributes without a default
	AttributeDefaults      []*Attribute // formal attributes with one
	Body                   *Graph       // inputs and outputs carry no types
	Metadata               []Prop

	unknown []byte
}

// Graph is a list of nodes over values. Nodes are in topological order once
// [Check] or [Graph.Sort] has passed; edits that break the order are allowed.
type Graph struct {
	Name     string
	Doc      string
	Nodes    []*Node
	Inputs   []*Value
	Outputs  []*Value
	Inits    []*Value // values with Const set, in file order; some may be Inputs too (IR version 3)
	Metadata []Prop

	Outer *Node // the node whose attribute this graph is, nil for a top graph

	infos   []valueInfo // in file order
	unknown []byte
}

// valueInfo is an entry of a file's value_info, and the value that it tells of, nil if there is none.
type valueInfo struct {
	value *Value
	proto *onnxpb.ValueInfoProto
}

// Value is an edge: a graph input, an initializer or a node's output. A subgraph
// may use values of the graphs around it.
type Value struct {
	Name  string
	Doc   string
	Type  *Type          // nil where the file says nothing
	Const *tensor.Tensor // set for initializers
	Meta  []Prop

	def   *Node
	users []*Node // one entry a use: a node that reads v twice is listed twice

	head    *onnxpb.TensorProto // what the file says of an initializer beside its elements
	sparse  *sparseSource       // set if the initializer was a sparse one
	opaque  []byte              // a type of a kind that [Type] does not know
	unknown []byte
}

// Def is the node that computes v, nil for inputs and initializers.
func (v *Value) Def() *Node { return v.def }

// Users is the nodes that read v, each as often as it reads it. Graph outputs do not count.
func (v *Value) Users() []*Node { return v.users }

// Node is one call of an operator.
type Node struct {
	Name     string
	Op       string
	Domain   string
	Overload string
	Doc      string
	Inputs   []*Value // nil where an optional input is left out; change with SetInput
	Outputs  []*Value // nil where an optional output is left out
	Attrs    []*Attribute
	Metadata []Prop

	// Opset, if not 0, is the version at which this node is meant, whatever the
	// model imports: passes and gradients mix versions in one graph. A file
	// cannot say this; Save refuses a graph whose nodes disagree with its imports.
	Opset int64

	unknown []byte
}

// TypeKind tells a [Type]'s variant.
type TypeKind int

// The kinds of value type.
const (
	TensorType TypeKind = iota
	SequenceType
	OptionalType
	MapType
	SparseTensorType
)

// Type is what a file declares of a value. It is a hint to the runtime, never a constraint,
// but for a graph's inputs.
type Type struct {
	Kind       TypeKind
	Elem       tensor.DType // of a (sparse) tensor; of the keys of a map
	Shape      []Dim        // of a (sparse) tensor; nil if the rank is unknown
	Of         *Type        // element of a sequence or optional, value of a map
	Denotation string

	unknown []byte
}

// Dim is one declared dimension: a number (Value ≥ 0, Param ""), a name, or nothing
// (Value -1, Param "").
type Dim struct {
	Value      int64
	Param      string
	Denotation string
}

// Attribute is a named constant of a node. Exactly one of the fields that its
// Type names is meaningful. Sparse tensors are in T and Tensors, made dense.
type Attribute struct {
	Name string
	Doc  string
	Type AttrType
	Ref  string // in a function's body: the name of the caller's attribute that stands here

	F       float32
	I       int64
	S       []byte
	T       *tensor.Tensor
	G       *Graph
	TP      *Type
	Floats  []float32
	Ints    []int64
	Strings [][]byte
	Tensors []*tensor.Tensor
	Graphs  []*Graph
	Types   []*Type

	heads   []*onnxpb.TensorProto // what the file says of T or Tensors beside their elements
	sparse  []*sparseSource       // of T or Tensors, if Type says that they are sparse
	unknown []byte
}

// AttrType is AttributeProto.AttributeType.
type AttrType int32

// The attribute types, with the standard's numbers.
const (
	AttrUndefined     AttrType = 0
	AttrFloat         AttrType = 1
	AttrInt           AttrType = 2
	AttrString        AttrType = 3
	AttrTensor        AttrType = 4
	AttrGraph         AttrType = 5
	AttrFloats        AttrType = 6
	AttrInts          AttrType = 7
	AttrStrings       AttrType = 8
	AttrTensors       AttrType = 9
	AttrGraphs        AttrType = 10
	AttrSparseTensor  AttrType = 11
	AttrSparseTensors AttrType = 12
	AttrTypeProto     AttrType = 13
	AttrTypeProtos    AttrType = 14
)

var attrTypes = [...]string{"undefined", "float", "int", "string", "tensor", "graph", "floats", "ints", "strings", "tensors", "graphs",
	"sparse_tensor", "sparse_tensors", "type_proto", "type_protos"}

// String is ONNX's spelling: "float", "ints", "sparse_tensor".
func (t AttrType) String() string {
	if t < 0 || int(t) >= len(attrTypes) {
		return fmt.Sprintf("attribute type %d", int32(t))
	}
	return attrTypes[t]
}

// Attr is the node's attribute of that name, nil if it has none.
func (n *Node) Attr(name string) *Attribute {
	for _, a := range n.Attrs {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// Int is the integer attribute name, or def.
func (n *Node) Int(name string, def int64) int64 {
	if a := n.Attr(name); a != nil && a.Type == AttrInt {
		return a.I
	}
	return def
}

// Float is the float attribute name, or def.
func (n *Node) Float(name string, def float32) float32 {
	if a := n.Attr(name); a != nil && a.Type == AttrFloat {
		return a.F
	}
	return def
}

// Str is the string attribute name, or def.
func (n *Node) Str(name, def string) string {
	if a := n.Attr(name); a != nil && a.Type == AttrString {
		return string(a.S)
	}
	return def
}

// Ints is the integer-list attribute name, or def.
func (n *Node) Ints(name string, def []int64) []int64 {
	if a := n.Attr(name); a != nil && a.Type == AttrInts {
		return a.Ints
	}
	return def
}

// SetAttr adds a, in place of an attribute of its name if there is one.
func (n *Node) SetAttr(a *Attribute) {
	for i, b := range n.Attrs {
		if b.Name == a.Name {
			n.Attrs[i] = a
			return
		}
	}
	n.Attrs = append(n.Attrs, a)
}

// DelAttr removes the attribute of that name, if there is one.
func (n *Node) DelAttr(name string) {
	n.Attrs = slices.DeleteFunc(n.Attrs, func(a *Attribute) bool { return a.Name == name })
}

// Graphs is the node's subgraphs, in attribute order.
func (n *Node) Graphs() []*Graph {
	var gs []*Graph
	for _, a := range n.Attrs {
		if a.G != nil {
			gs = append(gs, a.G)
		}
		gs = append(gs, a.Graphs...)
	}
	return gs
}

// Input is the i-th input, nil if it is left out.
func (n *Node) Input(i int) *Value {
	if i >= len(n.Inputs) {
		return nil
	}
	return n.Inputs[i]
}

// Output is the i-th output, nil if it is left out.
func (n *Node) Output(i int) *Value {
	if i >= len(n.Outputs) {
		return nil
	}
	return n.Outputs[i]
}

// NewNode makes a node over inputs with fresh outputs, one for each name, and does not put
// it in a graph. An output whose name is "" is left out.
func NewNode(op string, inputs []*Value, outputs ...string) *Node {
	n := &Node{Op: op}
	for i, in := range inputs {
		n.SetInput(i, in)
	}
	for _, name := range outputs {
		if name == "" {
			n.Outputs = append(n.Outputs, nil)
			continue
		}
		n.AddOutput(&Value{Name: name})
	}
	return n
}

// AddOutput appends v, which no other node may compute, to the node's outputs.
func (n *Node) AddOutput(v *Value) {
	n.SetOutput(len(n.Outputs), v)
}

// SetOutput makes v (nil: none) the i-th output.
func (n *Node) SetOutput(i int, v *Value) {
	for len(n.Outputs) <= i {
		n.Outputs = append(n.Outputs, nil)
	}
	if old := n.Outputs[i]; old != nil && old.def == n {
		old.def = nil
	}
	n.Outputs[i] = v
	if v != nil {
		v.def = n
	}
}

// SetInput makes v (nil: left out) the i-th input.
func (n *Node) SetInput(i int, v *Value) {
	for len(n.Inputs) <= i {
		n.Inputs = append(n.Inputs, nil)
	}
	if old := n.Inputs[i]; old != nil {
		old.removeUser(n)
	}
	n.Inputs[i] = v
	if v != nil {
		v.users = append(v.users, n)
	}
}

func (v *Value) removeUser(n *Node) {
	if i := slices.Index(v.users, n); i >= 0 {
		v.users = slices.Delete(v.users, i, i+1)
	}
}

// ReplaceUses makes every node that reads v read w instead, and g's outputs too.
// (Outputs of subgraphs that name v are the caller's to see to.)
func (g *Graph) ReplaceUses(v, w *Value) {
	for _, n := range slices.Clone(v.users) {
		for i, in := range n.Inputs {
			if in == v {
				n.SetInput(i, w)
			}
		}
	}
	for i, o := range g.Outputs {
		if o == v {
			g.Outputs[i] = w
		}
	}
}

// Remove takes n out of g and lets go of its inputs. Its outputs must no longer be read.
func (g *Graph) Remove(n *Node) {
	for i := range n.Inputs {
		n.SetInput(i, nil)
	}
	if i := slices.Index(g.Nodes, n); i >= 0 {
		g.Nodes = slices.Delete(g.Nodes, i, i+1)
	}
}

// Upstream is the nodes of g, which are in topological order, that the values hang on, and all values that those read or that are asked for; not what they hang
// on by way of given alone.
func (g *Graph) Upstream(values, given []*Value) (nodes []*Node, read map[*Value]bool) {
	stop := map[*Value]bool{nil: true}
	for _, v := range given {
		stop[v] = true
	}
	read = map[*Value]bool{}
	for _, v := range values {
		read[v] = true
	}
	for _, n := range slices.Backward(g.Nodes) {
		if !slices.ContainsFunc(n.Outputs, func(v *Value) bool { return read[v] && !stop[v] }) {
			continue
		}
		nodes = append(nodes, n)
		for _, v := range n.Inputs {
			read[v] = true
		}
		for _, sub := range n.Graphs() {
			for _, v := range sub.Captures() {
				read[v] = true
			}
		}
	}
	delete(read, nil)
	slices.Reverse(nodes)
	return nodes, read
}

// Init is g's initializer of that name, nil if it has none.
func (g *Graph) Init(name string) *Value {
	for _, v := range g.Inits {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// AddInit adds an initializer. The caller sees to it that the name is free.
func (g *Graph) AddInit(name string, t *tensor.Tensor) *Value {
	v := &Value{Name: name, Const: t, Type: TypeOfTensor(t)}
	g.Inits = append(g.Inits, v)
	return v
}

// Values yields each value that g itself defines, once: inputs, initializers, then nodes' outputs.
func (g *Graph) Values() iter.Seq[*Value] {
	return func(yield func(*Value) bool) {
		inputs := map[*Value]bool{}
		for _, v := range g.Inputs {
			inputs[v] = true
			if !yield(v) {
				return
			}
		}
		for _, v := range g.Inits {
			if !inputs[v] && !yield(v) {
				return
			}
		}
		for _, n := range g.Nodes {
			for _, v := range n.Outputs {
				if v != nil && !yield(v) {
					return
				}
			}
		}
	}
}

// FreshName is prefix, or prefix with a number, such that neither g, nor its subgraphs, nor what
// they read of the graphs around g has that name. It looks at the whole graph each time.
func (g *Graph) FreshName(prefix string) string {
	taken := map[string]bool{}
	g.Walk(func(s *Graph) {
		for v := range s.Values() {
			taken[v.Name] = true
		}
		for _, n := range s.Nodes {
			for _, v := range n.Inputs {
				if v != nil {
					taken[v.Name] = true
				}
			}
		}
		for _, v := range s.Outputs {
			taken[v.Name] = true
		}
	})
	name := prefix
	for i := 1; taken[name] || name == ""; i++ {
		name = fmt.Sprintf("%s_%d", prefix, i)
	}
	return name
}

// TypeOfTensor is the declared type that describes t exactly.
func TypeOfTensor(t *tensor.Tensor) *Type {
	ty := &Type{Kind: TensorType, Elem: t.DType(), Shape: make([]Dim, 0, t.Rank())}
	for _, d := range t.Shape() {
		ty.Shape = append(ty.Shape, Dim{Value: int64(d)})
	}
	return ty
}

// agrees reports whether t and u can be said of one value: t may say less, and names of dimensions
// stand for any size.
func (t *Type) agrees(u *Type) bool {
	if t == nil || u == nil {
		return t == u
	}
	return t.Kind == u.Kind && t.Elem == u.Elem && (t.Of == nil) == (u.Of == nil) && (t.Of == nil || t.Of.agrees(u.Of)) &&
		(t.Shape == nil || u.Shape == nil || slices.EqualFunc(t.Shape, u.Shape, func(a, b Dim) bool {
			return a.Value < 0 || b.Value < 0 || a.Param != "" || b.Param != "" || a.Value == b.Value
		}))
}

// Walk calls f for each graph of the model: the top graph, then subgraphs as they
// come, then functions' bodies.
func (m *Model) Walk(f func(*Graph)) {
	m.Graph.Walk(f)
	for _, fn := range m.Functions {
		fn.Body.Walk(f)
	}
}

// Walk calls f for g and then for each of its subgraphs, outside in.
func (g *Graph) Walk(f func(*Graph)) {
	f(g)
	for _, n := range g.Nodes {
		for _, sub := range n.Graphs() {
			sub.Walk(f)
		}
	}
}

// Captures is the values of surrounding graphs that g and its subgraphs read,
// each once, in order of first use.
func (g *Graph) Captures() []*Value {
	own := map[*Value]bool{}
	g.Walk(func(s *Graph) {
		for _, v := range s.Inputs {
			own[v] = true
		}
		for _, v := range s.Inits {
			own[v] = true
		}
		for _, n := range s.Nodes {
			for _, v := range n.Outputs {
				own[v] = true
			}
		}
	})
	var out []*Value
	seen := map[*Value]bool{nil: true}
	note := func(v *Value) {
		if !own[v] && !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	g.Walk(func(s *Graph) {
		for _, n := range s.Nodes {
			for _, v := range n.Inputs {
				note(v)
			}
		}
		for _, v := range s.Outputs {
			note(v)
		}
	})
	return out
}
