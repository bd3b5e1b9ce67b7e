package onnx

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// fileLimit is the size from which a protobuf message cannot be read back.
const fileLimit = 1<<31 - 1

// Encode is the model as the bytes of an ONNX file. Refused are nodes meant at another opset than the model
// imports, names that would not stand for the same values when the file is read, and models above 2 GB, which
// only [Save] can write.
func Encode(m *Model) ([]byte, error) {
	p, err := modelProto(m, nil)
	if err != nil {
		return nil, err
	}
	return marshal(p, fileLimit)
}

func marshal(p *onnxpb.ModelProto, limit int) ([]byte, error) {
	if size := proto.Size(p); size > limit {
		return nil, fmt.Errorf("the model takes %d bytes, more than the %d that a file without external data can hold", size, limit)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(p)
}

// modelProto is m as a message that shares the memory of its weights. Initializers go to external, if there
// is one and it takes them.
func modelProto(m *Model, external func(*onnxpb.TensorProto) error) (*onnxpb.ModelProto, error) {
	if m.Graph == nil {
		return nil, errors.New("the model has no graph")
	}
	p := &onnxpb.ModelProto{
		IrVersion: proto.Int64(m.IRVersion), ProducerName: str(m.ProducerName), ProducerVersion: str(m.ProducerVersion),
		Domain: str(m.Domain), DocString: str(m.Doc), OpsetImport: opsetProtos(m.Opsets), MetadataProps: propProtos(m.Metadata),
	}
	if m.ModelVersion != 0 {
		p.ModelVersion = &m.ModelVersion
	}
	p.ProtoReflect().SetUnknown(m.unknown)
	e := &encoder{opsets: m.Opsets, external: external}
	var err error
	if p.Graph, err = e.graph(m.Graph, nil, 0); err != nil {
		return nil, err
	}
	for _, f := range m.Functions {
		fp, err := (&encoder{opsets: f.Opsets, external: external}).function(f)
		if err != nil {
			return nil, fmt.Errorf("function %q: %w", f.Name, err)
		}
		p.Functions = append(p.Functions, fp)
	}
	return p, nil
}

type encoder struct {
	opsets   []Opset
	external func(*onnxpb.TensorProto) error
}

func str(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func opsetProtos(os []Opset) []*onnxpb.OperatorSetIdProto {
	var out []*onnxpb.OperatorSetIdProto
	for _, o := range os {
		out = append(out, &onnxpb.OperatorSetIdProto{Domain: proto.String(o.Domain), Version: proto.Int64(o.Version)})
	}
	return out
}

func propProtos(ps []Prop) []*onnxpb.StringStringEntryProto {
	var out []*onnxpb.StringStringEntryProto
	for _, p := range ps {
		out = append(out, &onnxpb.StringStringEntryProto{Key: proto.String(p.Key), Value: proto.String(p.Value)})
	}
	return out
}

// defineAll notes the names that g defines, as a reader of the file will see them.
func (s *scope) defineAll(g *Graph) error {
	add := func(v *Value) error {
		switch {
		case v == nil:
			return errors.New("an input or initializer is missing")
		case v.Name == "":
			return errors.New("a value has no name")
		}
		return s.add(v)
	}
	for _, v := range g.Inputs {
		if err := add(v); err != nil {
			return err
		}
	}
	for _, v := range g.Inits {
		if v != nil && v.Const == nil {
			return fmt.Errorf("initializer %q has no value", v.Name)
		}
		if v != nil && s.values[v.Name] == v { // an input too
			continue
		}
		if err := add(v); err != nil {
			return err
		}
	}
	for k, n := range g.Nodes {
		for _, v := range n.Outputs {
			if v == nil {
				continue
			}
			if err := add(v); err != nil {
				return fmt.Errorf("node %q (%s): output %w", n.Name, n.Op, err)
			}
			s.index[v] = k
		}
	}
	return nil
}

// check says why v's name does not stand for v.
func (s *scope) check(v *Value) error {
	switch s.find(v.Name) {
	case v:
		return nil
	case nil:
		return fmt.Errorf("value %q is not defined", v.Name)
	}
	return fmt.Errorf("value %q has the name of another value, which hides it", v.Name)
}

func (e *encoder) graph(g *Graph, outer *scope, depth int) (*onnxpb.GraphProto, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("subgraphs nest deeper than %d", maxNesting)
	}
	p := &onnxpb.GraphProto{Name: proto.String(g.Name), DocString: str(g.Doc), MetadataProps: propProtos(g.Metadata)}
	p.ProtoReflect().SetUnknown(g.unknown)
	fail := func(err error) (*onnxpb.GraphProto, error) { return nil, fmt.Errorf("graph %q: %w", g.Name, err) }
	s := newScope(outer)
	if err := s.defineAll(g); err != nil {
		return fail(err)
	}
	told := map[*Value]bool{}
	inputs := map[*Value]bool{}
	for _, v := range g.Inputs {
		p.Input = append(p.Input, valueProto(v))
		told[v], inputs[v] = true, true
	}
	for _, v := range g.Inits {
		if v.sparse != nil && v.sparse.dense == v.Const {
			src := proto.CloneOf(v.sparse.proto)
			src.Values.Name = &v.Name
			if !inputs[v] {
				src.Values.DocString, src.Values.MetadataProps = str(v.Doc), propProtos(v.Meta)
			}
			p.SparseInitializer = append(p.SparseInitializer, src)
			continue
		}
		t := tensorProto(v.Const, v.head)
		t.Name = &v.Name
		if !inputs[v] {
			t.DocString, t.MetadataProps = str(v.Doc), propProtos(v.Meta)
		}
		if e.external != nil {
			if err := e.external(t); err != nil {
				return nil, err
			}
		}
		p.Initializer = append(p.Initializer, t)
	}
	var err error
	if p.Node, err = e.nodes(g, s, depth); err != nil {
		return fail(err)
	}
	for _, v := range g.Outputs {
		if v == nil {
			return fail(errors.New("an output is missing"))
		}
		if err := s.check(v); err != nil {
			return fail(fmt.Errorf("output: %w", err))
		}
		p.Output = append(p.Output, valueProto(v))
		told[v] = true
	}
	p.ValueInfo = g.valueInfos(s, told)
	return p, nil
}

// valueInfos tells of the values that told does not, those that the file told of first, and in its order.
func (g *Graph) valueInfos(s *scope, told map[*Value]bool) []*onnxpb.ValueInfoProto {
	var out []*onnxpb.ValueInfoProto
	for _, info := range g.infos {
		v := info.value
		switch {
		case v == nil:
			if s.values[info.proto.GetName()] == nil {
				out = append(out, info.proto)
			}
			continue
		case s.values[v.Name] != v:
			continue // no longer there
		}
		p := valueProto(v)
		if told[v] || v.Const != nil { // what v says of itself is said elsewhere
			p.DocString, p.MetadataProps = info.proto.DocString, info.proto.MetadataProps
			now := v.Type
			if v.Const != nil {
				now = TypeOfTensor(v.Const)
			}
			p.Type = typeProto(now)
			if t, err := typeOf(info.proto.Type, 0); err == nil && t.agrees(now) {
				p.Type = info.proto.Type
			}
		}
		out = append(out, p)
		told[v] = true
	}
	for _, n := range g.Nodes {
		for _, v := range n.Outputs {
			if v != nil && v.Type != nil && !told[v] {
				out = append(out, valueProto(v))
			}
		}
	}
	return out
}

func (e *encoder) function(f *Function) (*onnxpb.FunctionProto, error) {
	p := &onnxpb.FunctionProto{Name: proto.String(f.Name), Domain: proto.String(f.Domain), Overload: str(f.Overload),
		DocString: str(f.Doc), OpsetImport: opsetProtos(f.Opsets), Attribute: f.Attributes, MetadataProps: propProtos(f.Metadata)}
	p.ProtoReflect().SetUnknown(f.unknown)
	s := newScope(nil)
	for _, a := range f.AttributeDefaults {
		ap, err := e.attribute(a, s, 0)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", a.Name, err)
		}
		p.AttributeProto = append(p.AttributeProto, ap)
	}
	if len(f.Body.Inits) > 0 {
		return nil, errors.New("functions cannot have initializers")
	}
	if err := s.defineAll(f.Body); err != nil {
		return nil, err
	}
	for _, v := range f.Body.Inputs {
		p.Input = append(p.Input, v.Name)
	}
	var err error
	if p.Node, err = e.nodes(f.Body, s, 0); err != nil {
		return nil, err
	}
	for _, v := range f.Body.Outputs {
		if v == nil {
			return nil, errors.New("an output is missing")
		}
		if err := s.check(v); err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		p.Output = append(p.Output, v.Name)
	}
	p.ValueInfo = f.Body.valueInfos(s, map[*Value]bool{})
	return p, nil
}

func (e *encoder) nodes(g *Graph, s *scope, depth int) ([]*onnxpb.NodeProto, error) {
	var out []*onnxpb.NodeProto
	for k, n := range g.Nodes {
		s.at = k
		p, err := e.node(n, s, depth)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		out = append(out, p)
	}
	s.at = len(g.Nodes)
	return out, nil
}

func (e *encoder) node(n *Node, s *scope, depth int) (*onnxpb.NodeProto, error) {
	if v := opsetVersion(e.opsets, n.Domain); n.Opset != 0 && n.Opset != v {
		return nil, fmt.Errorf("is meant at opset %d, but %d is imported", n.Opset, v)
	}
	p := &onnxpb.NodeProto{Name: str(n.Name), OpType: proto.String(n.Op), Domain: str(n.Domain), Overload: str(n.Overload),
		DocString: str(n.Doc), MetadataProps: propProtos(n.Metadata), Input: names(n.Inputs), Output: names(n.Outputs)}
	p.ProtoReflect().SetUnknown(n.unknown)
	for i, v := range n.Inputs {
		if v == nil {
			continue
		}
		if err := s.check(v); err != nil {
			return nil, fmt.Errorf("input %d: %w", i, err)
		}
	}
	for _, a := range n.Attrs {
		ap, err := e.attribute(a, s, depth)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", a.Name, err)
		}
		p.Attribute = append(p.Attribute, ap)
	}
	return p, nil
}

func names(vs []*Value) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		if v != nil {
			out[i] = v.Name
		}
	}
	return out
}

var errNothing = errors.New("holds nothing")

func (e *encoder) attribute(a *Attribute, s *scope, depth int) (*onnxpb.AttributeProto, error) {
	p := &onnxpb.AttributeProto{Name: proto.String(a.Name), DocString: str(a.Doc), RefAttrName: str(a.Ref), Type: proto.Int32(int32(a.Type))}
	p.ProtoReflect().SetUnknown(a.unknown)
	if a.Ref != "" {
		return p, nil
	}
	switch a.Type {
	case AttrFloat:
		p.F = &a.F
	case AttrInt:
		p.I = &a.I
	case AttrString:
		p.S = append([]byte{}, a.S...)
	case AttrFloats:
		p.Floats = a.Floats
	case AttrInts:
		p.Ints = a.Ints
	case AttrStrings:
		p.Strings = a.Strings
	case AttrTensor:
		if a.T == nil {
			return nil, errNothing
		}
		p.T = tensorProto(a.T, at(a.heads, 0))
	case AttrTensors:
		for i, t := range a.Tensors {
			p.Tensors = append(p.Tensors, tensorProto(t, at(a.heads, i)))
		}
	case AttrSparseTensor:
		if a.T == nil {
			return nil, errNothing
		}
		var err error
		if p.SparseTensor, err = a.sparseAt(0, a.T); err != nil {
			return nil, err
		}
	case AttrSparseTensors:
		for i, t := range a.Tensors {
			q, err := a.sparseAt(i, t)
			if err != nil {
				return nil, err
			}
			p.SparseTensors = append(p.SparseTensors, q)
		}
	case AttrGraph:
		if a.G == nil {
			return nil, errNothing
		}
		var err error
		if p.G, err = e.graph(a.G, s, depth+1); err != nil {
			return nil, err
		}
	case AttrGraphs:
		for _, g := range a.Graphs {
			gp, err := e.graph(g, s, depth+1)
			if err != nil {
				return nil, err
			}
			p.Graphs = append(p.Graphs, gp)
		}
	case AttrTypeProto:
		p.Tp = &onnxpb.TypeProto{}
		if a.TP != nil {
			p.Tp = typeProto(a.TP)
		}
	case AttrTypeProtos:
		for _, t := range a.Types {
			p.TypeProtos = append(p.TypeProtos, typeProto(t))
		}
	}
	return p, nil
}

func at[T any](s []*T, i int) *T {
	if i >= len(s) {
		return nil
	}
	return s[i]
}

// sparseAt is the i-th sparse tensor as it was read, or t made sparse if it is another one by now.
func (a *Attribute) sparseAt(i int, t *tensor.Tensor) (*onnxpb.SparseTensorProto, error) {
	if src := at(a.sparse, i); src != nil && src.dense == t {
		return src.proto, nil
	}
	return sparseProto(t)
}

// valueProto describes v. The doc string and metadata of an initializer that is no input are its tensor's.
func valueProto(v *Value) *onnxpb.ValueInfoProto {
	p := &onnxpb.ValueInfoProto{Name: proto.String(v.Name), DocString: str(v.Doc), MetadataProps: propProtos(v.Meta)}
	p.ProtoReflect().SetUnknown(v.unknown)
	switch {
	case v.Type != nil:
		p.Type = typeProto(v.Type)
	case v.opaque != nil:
		p.Type = &onnxpb.TypeProto{}
		if err := proto.Unmarshal(v.opaque, p.Type); err != nil {
			panic(err) // it was such a message before
		}
	}
	return p
}

func typeProto(t *Type) *onnxpb.TypeProto {
	p := &onnxpb.TypeProto{}
	if t == nil {
		return p
	}
	p.Denotation = str(t.Denotation)
	p.ProtoReflect().SetUnknown(t.unknown)
	var of *onnxpb.TypeProto
	if t.Of != nil {
		of = typeProto(t.Of)
	}
	elem := proto.Int32(int32(t.Elem))
	switch t.Kind {
	case TensorType:
		p.Value = &onnxpb.TypeProto_TensorType{TensorType: &onnxpb.TypeProto_Tensor{ElemType: elem, Shape: shapeProto(t.Shape)}}
	case SparseTensorType:
		p.Value = &onnxpb.TypeProto_SparseTensorType{SparseTensorType: &onnxpb.TypeProto_SparseTensor{ElemType: elem, Shape: shapeProto(t.Shape)}}
	case SequenceType:
		p.Value = &onnxpb.TypeProto_SequenceType{SequenceType: &onnxpb.TypeProto_Sequence{ElemType: of}}
	case OptionalType:
		p.Value = &onnxpb.TypeProto_OptionalType{OptionalType: &onnxpb.TypeProto_Optional{ElemType: of}}
	case MapType:
		p.Value = &onnxpb.TypeProto_MapType{MapType: &onnxpb.TypeProto_Map{KeyType: elem, ValueType: of}}
	}
	return p
}

func shapeProto(dims []Dim) *onnxpb.TensorShapeProto {
	if dims == nil {
		return nil
	}
	p := &onnxpb.TensorShapeProto{}
	for _, d := range dims {
		q := &onnxpb.TensorShapeProto_Dimension{Denotation: str(d.Denotation)}
		switch {
		case d.Param != "":
			q.Value = &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: d.Param}
		case d.Value >= 0:
			q.Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: d.Value}
		}
		p.Dim = append(p.Dim, q)
	}
	return p
}
