package onnx

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// maxNesting bounds how deep subgraphs, types, values and function calls may nest.
const maxNesting = 64

// model decodes a ModelProto.
func (d *decoder) model(data []byte) (*Model, error) {
	s := &skeleton{raws: [][]byte{}}
	if err := s.copy(data, modelMessage, 0); err != nil {
		return nil, fmt.Errorf("not an ONNX model: %w", err)
	}
	d.raws = s.raws
	var p onnxpb.ModelProto
	if err := proto.Unmarshal(s.out, &p); err != nil {
		return nil, fmt.Errorf("not an ONNX model: %w", err)
	}
	if p.Graph == nil {
		return nil, errors.New("not an ONNX model: it has no graph")
	}
	m := &Model{
		IRVersion: p.GetIrVersion(), ProducerName: p.GetProducerName(), ProducerVersion: p.GetProducerVersion(),
		Domain: p.GetDomain(), ModelVersion: p.GetModelVersion(), Doc: p.GetDocString(),
		Opsets: opsets(p.OpsetImport), Metadata: props(p.MetadataProps),
		unknown: carried(&p, &onnxpb.ModelProto{TrainingInfo: p.TrainingInfo, Configuration: p.Configuration}),
	}
	var err error
	if m.Graph, err = d.graph(p.Graph, nil, 0); err != nil {
		return nil, err
	}
	if err := unambiguous(m.Opsets); err != nil {
		return nil, err
	}
	d.inFunction = true
	seen := map[functionID]bool{}
	for _, f := range p.Functions {
		fn, err := d.function(f)
		if err != nil {
			return nil, fmt.Errorf("function %q: %w", f.GetName(), err)
		}
		id := functionID{CanonicalDomain(fn.Domain), fn.Name, fn.Overload}
		if seen[id] {
			return nil, fmt.Errorf("function %q is there twice in domain %q", fn.Name, fn.Domain)
		}
		seen[id] = true
		m.Functions = append(m.Functions, fn)
	}
	m.unmap = d.unmap
	return m, nil
}

// carried is the fields that are carried along and written back as they are: those that p's type
// does not know, and rest, those of p that the graph has no place for.
func carried(p, rest proto.Message) []byte {
	known, err := proto.Marshal(rest)
	if err != nil {
		panic(err) // required fields and invalid strings are what fails; neither exists here
	}
	return append(known, p.ProtoReflect().GetUnknown()...)
}

// unambiguous fails where a domain is imported at two versions.
func unambiguous(opsets []Opset) error {
	versions := map[string]int64{}
	for _, o := range opsets {
		d := CanonicalDomain(o.Domain)
		if v, ok := versions[d]; ok && v != o.Version {
			return fmt.Errorf("domain %q is imported at opset %d and at opset %d", o.Domain, v, o.Version)
		}
		versions[d] = o.Version
	}
	return nil
}

func opsets(ps []*onnxpb.OperatorSetIdProto) []Opset {
	var out []Opset
	for _, p := range ps {
		out = append(out, Opset{p.GetDomain(), p.GetVersion()})
	}
	return out
}

func props(ps []*onnxpb.StringStringEntryProto) []Prop {
	var out []Prop
	for _, p := range ps {
		out = append(out, Prop{p.GetKey(), p.GetValue()})
	}
	return out
}

// scope is the names that a graph sees, its own before those around it. A name that is around the graph
// and also the graph's own further down means the outer value up to there, as it does when
// nodes run in order; otherwise order does not matter.
type scope struct {
	values map[string]*Value
	index  map[*Value]int // the nodes that compute values
	at     int            // the node whose names are looked up
	outer  *scope
}

func newScope(outer *scope) *scope {
	return &scope{values: map[string]*Value{}, index: map[*Value]int{}, outer: outer}
}

func (s *scope) find(name string) *Value {
	if s == nil {
		return nil
	}
	v := s.values[name]
	if v == nil {
		return s.outer.find(name)
	}
	if i, ok := s.index[v]; ok && i >= s.at {
		if w := s.outer.find(name); w != nil {
			return w
		}
	}
	return v
}

func (s *scope) add(v *Value) error {
	if s.values[v.Name] != nil {
		return fmt.Errorf("value %q is defined twice", v.Name)
	}
	s.values[v.Name] = v
	return nil
}

func (s *scope) define(name string) (*Value, error) {
	if name == "" {
		return nil, errors.New("a value has no name")
	}
	v := &Value{Name: name}
	return v, s.add(v)
}

func (d *decoder) graph(p *onnxpb.GraphProto, outer *scope, depth int) (*Graph, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("subgraphs nest deeper than %d", maxNesting)
	}
	g := &Graph{Name: p.GetName(), Doc: p.GetDocString(), Metadata: props(p.MetadataProps),
		unknown: carried(p, &onnxpb.GraphProto{QuantizationAnnotation: p.QuantizationAnnotation})}
	s := newScope(outer)
	fail := func(err error) (*Graph, error) { return nil, fmt.Errorf("graph %q: %w", g.Name, err) }
	for _, in := range p.Input {
		v, err := s.define(in.GetName())
		if err == nil {
			err = describe(v, in)
		}
		if err != nil {
			return fail(fmt.Errorf("input: %w", err))
		}
		g.Inputs = append(g.Inputs, v)
	}
	for _, t := range p.Initializer {
		c, err := d.tensor(t)
		if err == nil {
			err = g.initializer(s, t, c, nil)
		}
		if err != nil {
			return fail(fmt.Errorf("initializer %q: %w", t.GetName(), err))
		}
	}
	for _, t := range p.SparseInitializer {
		src, err := d.sparse(t)
		if err == nil {
			err = g.initializer(s, t.Values, src.dense, src)
		}
		if err != nil {
			return fail(fmt.Errorf("sparse initializer %q: %w", t.GetValues().GetName(), err))
		}
	}
	if err := d.nodes(g, p.Node, p.ValueInfo, s, depth); err != nil {
		return fail(err)
	}
	for _, out := range p.Output {
		v := s.find(out.GetName())
		if v == nil {
			return fail(fmt.Errorf("output %q is never computed", out.GetName()))
		}
		if v.def != nil && s.values[v.Name] == v || v.Type == nil {
			if err := describe(v, out); err != nil {
				return fail(fmt.Errorf("output: %w", err))
			}
		}
		g.Outputs = append(g.Outputs, v)
	}
	return g, nil
}

// initializer adds the value c, as t names and describes it.
func (g *Graph) initializer(s *scope, t *onnxpb.TensorProto, c *tensor.Tensor, src *sparseSource) error {
	v := s.values[t.GetName()]
	switch {
	case v == nil:
		var err error
		if v, err = s.define(t.GetName()); err != nil {
			return err
		}
		v.Doc, v.Meta = t.GetDocString(), props(t.MetadataProps)
		t.DocString, t.MetadataProps = nil, nil
	case v.Const != nil:
		return errors.New("is defined twice")
	}
	// Before IR version 4, initializers were inputs too, and have the inputs' types.
	v.Const, v.sparse, v.head = c, src, head(t, false)
	if v.Type == nil {
		v.Type = TypeOfTensor(c)
	}
	g.Inits = append(g.Inits, v)
	return nil
}

// nodes defines the outputs of all nodes first, so that their order in the file does not matter
// here; [Graph.Sort] puts it right.
func (d *decoder) nodes(g *Graph, ps []*onnxpb.NodeProto, infos []*onnxpb.ValueInfoProto, s *scope, depth int) error {
	told := map[string]*onnxpb.ValueInfoProto{}
	for _, info := range infos {
		told[info.GetName()] = info
	}
	for k, p := range ps {
		n := &Node{Name: p.GetName(), Op: p.GetOpType(), Domain: p.GetDomain(), Overload: p.GetOverload(),
			Doc: p.GetDocString(), Metadata: props(p.MetadataProps),
			unknown: carried(p, &onnxpb.NodeProto{DeviceConfigurations: p.DeviceConfigurations})}
		for i, name := range p.Output {
			if name == "" {
				n.SetOutput(i, nil)
				continue
			}
			v, err := s.define(name)
			if err == nil && told[name] != nil {
				err = describe(v, told[name])
			}
			if err != nil {
				return fmt.Errorf("node %q (%s): output %d: %w", n.Name, n.Op, i, err)
			}
			s.index[v] = k
			n.SetOutput(i, v)
		}
		g.Nodes = append(g.Nodes, n)
	}
	for _, info := range infos {
		v := s.values[info.GetName()]
		g.infos = append(g.infos, valueInfo{v, info})
		if v != nil && v.Type == nil { // a function's input
			if err := describe(v, info); err != nil {
				return err
			}
		}
	}
	for k, p := range ps {
		n := g.Nodes[k]
		s.at = k
		for i, name := range p.Input {
			if name == "" {
				n.SetInput(i, nil)
				continue
			}
			v := s.find(name)
			if v == nil {
				return fmt.Errorf("node %q (%s): input %d: value %q is not defined", n.Name, n.Op, i, name)
			}
			n.SetInput(i, v)
		}
		for _, a := range p.Attribute {
			attr, err := d.attribute(a, s, depth)
			if err != nil {
				return fmt.Errorf("node %q (%s): attribute %q: %w", n.Name, n.Op, a.GetName(), err)
			}
			if n.Attr(attr.Name) != nil {
				return fmt.Errorf("node %q (%s): attribute %q is there twice", n.Name, n.Op, attr.Name)
			}
			for _, sub := range append(slices.Clone(attr.Graphs), attr.G) {
				if sub != nil {
					sub.Outer = n
				}
			}
			n.Attrs = append(n.Attrs, attr)
		}
	}
	s.at = len(ps)
	return g.Sort()
}

func (d *decoder) function(p *onnxpb.FunctionProto) (*Function, error) {
	f := &Function{Name: p.GetName(), Domain: p.GetDomain(), Overload: p.GetOverload(), Doc: p.GetDocString(),
		Opsets: opsets(p.OpsetImport), Attributes: p.Attribute, Metadata: props(p.MetadataProps),
		unknown: p.ProtoReflect().GetUnknown(), Body: &Graph{Name: p.GetName()}}
	if err := unambiguous(f.Opsets); err != nil {
		return nil, err
	}
	s := newScope(nil)
	for _, a := range p.AttributeProto {
		attr, err := d.attribute(a, s, 0)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", a.GetName(), err)
		}
		f.AttributeDefaults = append(f.AttributeDefaults, attr)
	}
	for _, name := range p.Input {
		v, err := s.define(name)
		if err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		f.Body.Inputs = append(f.Body.Inputs, v)
	}
	if err := d.nodes(f.Body, p.Node, p.ValueInfo, s, 0); err != nil {
		return nil, err
	}
	for _, name := range p.Output {
		v := s.find(name)
		if v == nil {
			return nil, fmt.Errorf("output %q is never computed", name)
		}
		f.Body.Outputs = append(f.Body.Outputs, v)
	}
	return f, nil
}

// fields is the types of those fields of p that are set, a bit each.
func fields(p *onnxpb.AttributeProto) (set uint) {
	for t, has := range [...]bool{
		AttrFloat: p.F != nil, AttrInt: p.I != nil, AttrString: p.S != nil, AttrTensor: p.T != nil, AttrGraph: p.G != nil,
		AttrFloats: p.Floats != nil, AttrInts: p.Ints != nil, AttrStrings: p.Strings != nil, AttrTensors: p.Tensors != nil,
		AttrGraphs: p.Graphs != nil, AttrSparseTensor: p.SparseTensor != nil, AttrSparseTensors: p.SparseTensors != nil,
		AttrTypeProto: p.Tp != nil, AttrTypeProtos: p.TypeProtos != nil,
	} {
		if has {
			set |= 1 << t
		}
	}
	return set
}

func (d *decoder) attribute(p *onnxpb.AttributeProto, s *scope, depth int) (*Attribute, error) {
	a := &Attribute{Name: p.GetName(), Doc: p.GetDocString(), Type: AttrType(p.GetType()), Ref: p.GetRefAttrName(),
		F: p.GetF(), I: p.GetI(), S: p.S, Floats: p.Floats, Ints: p.Ints, Strings: p.Strings, unknown: p.ProtoReflect().GetUnknown()}
	set := fields(p)
	switch {
	case a.Type == AttrUndefined && set != 0: // old files leave it out: the field that is set tells
		a.Type = AttrType(bits.TrailingZeros(set))
	case a.Type < 0 || a.Type > AttrTypeProtos:
		return nil, fmt.Errorf("type %d is not known", a.Type)
	}
	if a.Ref != "" && !d.inFunction {
		return nil, fmt.Errorf("refers to the attribute %q of a function, but is in none", a.Ref)
	}
	if a.Ref == "" {
		if other := set &^ (1 << a.Type); other != 0 {
			return nil, fmt.Errorf("is said to be %s, but holds %s", a.Type, AttrType(bits.TrailingZeros(other)))
		}
		if set == 0 && slices.Contains([]AttrType{AttrTensor, AttrGraph, AttrSparseTensor, AttrTypeProto}, a.Type) {
			return nil, fmt.Errorf("is said to be %s, but holds nothing", a.Type)
		}
	}
	var err error
	one := func(t *onnxpb.TensorProto) (*tensor.Tensor, error) {
		c, err := d.tensor(t)
		a.heads = append(a.heads, head(t, true))
		return c, err
	}
	oneSparse := func(t *onnxpb.SparseTensorProto) (*tensor.Tensor, error) {
		src, err := d.sparse(t)
		if err != nil {
			return nil, err
		}
		a.sparse = append(a.sparse, src)
		return src.dense, nil
	}
	if p.T != nil {
		if a.T, err = one(p.T); err != nil {
			return nil, err
		}
	}
	for _, t := range p.Tensors {
		c, err := one(t)
		if err != nil {
			return nil, err
		}
		a.Tensors = append(a.Tensors, c)
	}
	if p.SparseTensor != nil {
		if a.T, err = oneSparse(p.SparseTensor); err != nil {
			return nil, err
		}
	}
	for _, t := range p.SparseTensors {
		c, err := oneSparse(t)
		if err != nil {
			return nil, err
		}
		a.Tensors = append(a.Tensors, c)
	}
	if p.G != nil {
		if a.G, err = d.graph(p.G, s, depth+1); err != nil {
			return nil, err
		}
	}
	for _, g := range p.Graphs {
		sub, err := d.graph(g, s, depth+1)
		if err != nil {
			return nil, err
		}
		a.Graphs = append(a.Graphs, sub)
	}
	if p.Tp != nil {
		if a.TP, err = typeOf(p.Tp, 0); err != nil {
			return nil, err
		}
	}
	for _, t := range p.TypeProtos {
		ty, err := typeOf(t, 0)
		if err != nil {
			return nil, err
		}
		a.Types = append(a.Types, ty)
	}
	return a, nil
}

func describe(v *Value, p *onnxpb.ValueInfoProto) error {
	v.Doc, v.Meta, v.unknown = p.GetDocString(), props(p.MetadataProps), p.ProtoReflect().GetUnknown()
	if p.Type == nil {
		return nil
	}
	t, err := typeOf(p.Type, 0)
	if err != nil {
		return fmt.Errorf("value %q: %w", p.GetName(), err)
	}
	if v.Type = t; t == nil {
		v.opaque = carried(p.Type, &onnxpb.TypeProto{Value: p.Type.Value, Denotation: p.Type.Denotation})
	}
	return nil
}

// typeOf is nil for types that say nothing, or are of a kind that is not known.
func typeOf(p *onnxpb.TypeProto, depth int) (*Type, error) {
	if p == nil {
		return nil, nil
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("types nest deeper than %d", maxNesting)
	}
	t := &Type{Denotation: p.GetDenotation(), unknown: p.ProtoReflect().GetUnknown()}
	var inner *onnxpb.TypeProto
	switch v := p.Value.(type) {
	case *onnxpb.TypeProto_TensorType:
		t.Elem, t.Shape = tensor.DType(v.TensorType.GetElemType()), dims(v.TensorType.Shape)
	case *onnxpb.TypeProto_SparseTensorType:
		t.Kind, t.Elem, t.Shape = SparseTensorType, tensor.DType(v.SparseTensorType.GetElemType()), dims(v.SparseTensorType.Shape)
	case *onnxpb.TypeProto_SequenceType:
		t.Kind, inner = SequenceType, v.SequenceType.ElemType
	case *onnxpb.TypeProto_OptionalType:
		t.Kind, inner = OptionalType, v.OptionalType.ElemType
	case *onnxpb.TypeProto_MapType:
		t.Kind, t.Elem, inner = MapType, tensor.DType(v.MapType.GetKeyType()), v.MapType.ValueType
	default:
		return nil, nil
	}
	if inner != nil {
		var err error
		if t.Of, err = typeOf(inner, depth+1); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func dims(p *onnxpb.TensorShapeProto) []Dim {
	if p == nil {
		return nil
	}
	out := make([]Dim, len(p.Dim))
	for i, d := range p.Dim {
		out[i] = Dim{Value: -1, Denotation: d.GetDenotation()}
		switch v := d.Value.(type) {
		case *onnxpb.TensorShapeProto_Dimension_DimValue:
			out[i].Value = v.DimValue
		case *onnxpb.TensorShapeProto_Dimension_DimParam:
			out[i].Param = v.DimParam
		}
	}
	return out
}
