package onnx

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// Save writes the model to path: beside it first, then renamed, so that path holds either what it
// held or the whole new model.
func Save(path string, m *Model) error {
	data, err := Encode(m)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := writeFile(path, data); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Encode is the model as the bytes of an ONNX file. Nodes meant at another opset than the model
// imports are refused.
func Encode(m *Model) ([]byte, error) {
	p := &onnxpb.ModelProto{
		IrVersion: proto.Int64(m.IRVersion), ProducerName: str(m.ProducerName), ProducerVersion: str(m.ProducerVersion),
		Domain: str(m.Domain), DocString: str(m.Doc), OpsetImport: opsetProtos(m.Opsets), MetadataProps: propProtos(m.Metadata),
	}
	if m.ModelVersion != 0 {
		p.ModelVersion = &m.ModelVersion
	}
	p.ProtoReflect().SetUnknown(m.unknown)
	e := &encoder{opsets: m.Opsets}
	var err error
	if p.Graph, err = e.graph(m.Graph); err != nil {
		return nil, err
	}
	for _, f := range m.Functions {
		fp, err := (&encoder{opsets: f.Opsets}).function(f)
		if err != nil {
			return nil, fmt.Errorf("function %s: %w", f.Name, err)
		}
		p.Functions = append(p.Functions, fp)
	}
	if size := proto.Size(p); size >= 1<<31 {
		return nil, fmt.Errorf("the model takes %d bytes, more than the 2 GB that a file without external data can hold", size)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(p)
}

type encoder struct{ opsets []Opset }

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

func (e *encoder) graph(g *Graph) (*onnxpb.GraphProto, error) {
	p := &onnxpb.GraphProto{Name: proto.String(g.Name), DocString: str(g.Doc), MetadataProps: propProtos(g.Metadata)}
	p.ProtoReflect().SetUnknown(g.unknown)
	told := map[*Value]bool{}
	for _, v := range g.Inputs {
		p.Input = append(p.Input, valueProto(v))
		told[v] = true
	}
	for _, v := range g.Outputs {
		p.Output = append(p.Output, valueProto(v))
		told[v] = true
	}
	for _, v := range g.Inits {
		t, err := tensorProto(v.Const, v.Name)
		if err != nil {
			return nil, fmt.Errorf("initializer %q: %w", v.Name, err)
		}
		t.DocString, t.MetadataProps = str(v.Doc), propProtos(v.Meta)
		p.Initializer = append(p.Initializer, t)
	}
	for _, n := range g.Nodes {
		np, err := e.node(n)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		p.Node = append(p.Node, np)
		for _, v := range n.Outputs {
			if v != nil && v.Type != nil && !told[v] {
				p.ValueInfo = append(p.ValueInfo, valueProto(v))
			}
		}
	}
	return p, nil
}

func (e *encoder) function(f *Function) (*onnxpb.FunctionProto, error) {
	p := &onnxpb.FunctionProto{Name: proto.String(f.Name), Domain: proto.String(f.Domain), Overload: str(f.Overload),
		DocString: str(f.Doc), OpsetImport: opsetProtos(f.Opsets), Attribute: f.Attributes, MetadataProps: propProtos(f.Metadata)}
	p.ProtoReflect().SetUnknown(f.unknown)
	for _, a := range f.AttributeDefaults {
		ap, err := e.attribute(a)
		if err != nil {
			return nil, err
		}
		p.AttributeProto = append(p.AttributeProto, ap)
	}
	for _, v := range f.Body.Inputs {
		p.Input = append(p.Input, v.Name)
	}
	for _, v := range f.Body.Outputs {
		p.Output = append(p.Output, v.Name)
	}
	for _, n := range f.Body.Nodes {
		np, err := e.node(n)
		if err != nil {
			return nil, err
		}
		p.Node = append(p.Node, np)
		for _, v := range n.Outputs {
			if v != nil && v.Type != nil {
				p.ValueInfo = append(p.ValueInfo, valueProto(v))
			}
		}
	}
	return p, nil
}

func (e *encoder) node(n *Node) (*onnxpb.NodeProto, error) {
	if v := opsetVersion(e.opsets, n.Domain); n.Opset != 0 && n.Opset != v {
		return nil, fmt.Errorf("is meant at opset %d, the model imports %d", n.Opset, v)
	}
	p := &onnxpb.NodeProto{Name: str(n.Name), OpType: proto.String(n.Op), Domain: str(n.Domain), Overload: str(n.Overload),
		DocString: str(n.Doc), MetadataProps: propProtos(n.Metadata), Input: names(n.Inputs), Output: names(n.Outputs)}
	p.ProtoReflect().SetUnknown(n.unknown)
	for _, a := range n.Attrs {
		ap, err := e.attribute(a)
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

func (e *encoder) attribute(a *Attribute) (*onnxpb.AttributeProto, error) {
	p := &onnxpb.AttributeProto{Name: proto.String(a.Name), DocString: str(a.Doc), RefAttrName: str(a.Ref),
		Type: proto.Int32(int32(a.Type)), Floats: a.Floats, Ints: a.Ints, Strings: a.Strings}
	p.ProtoReflect().SetUnknown(a.unknown)
	var err error
	switch {
	case a.Ref != "":
	case a.Type == AttrFloat:
		p.F = &a.F
	case a.Type == AttrInt:
		p.I = &a.I
	case a.Type == AttrString:
		p.S = slices.Clone(a.S)
		if p.S == nil {
			p.S = []byte{}
		}
	case a.Type == AttrTensor:
		if p.T, err = tensorProto(a.T, a.tname); err != nil {
			return nil, err
		}
	case a.Type == AttrSparseTensor:
		p.SparseTensor = &onnxpb.SparseTensorProto{}
		if err := proto.Unmarshal(a.sparse, p.SparseTensor); err != nil {
			return nil, err
		}
	case a.Type == AttrGraph:
		if p.G, err = e.graph(a.G); err != nil {
			return nil, err
		}
	case a.Type == AttrTypeProto && a.TP != nil:
		p.Tp = typeProto(a.TP)
	}
	for _, t := range a.Tensors {
		tp, err := tensorProto(t, "")
		if err != nil {
			return nil, err
		}
		p.Tensors = append(p.Tensors, tp)
	}
	for _, g := range a.Graphs {
		gp, err := e.graph(g)
		if err != nil {
			return nil, err
		}
		p.Graphs = append(p.Graphs, gp)
	}
	for _, t := range a.Types {
		p.TypeProtos = append(p.TypeProtos, typeProto(t))
	}
	return p, nil
}

func valueProto(v *Value) *onnxpb.ValueInfoProto {
	p := &onnxpb.ValueInfoProto{Name: proto.String(v.Name), MetadataProps: propProtos(v.Meta)}
	if v.Const == nil {
		p.DocString = str(v.Doc)
	}
	if v.Type != nil {
		p.Type = typeProto(v.Type)
	}
	return p
}

func typeProto(t *Type) *onnxpb.TypeProto {
	p := &onnxpb.TypeProto{Denotation: str(t.Denotation)}
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

// tensorProto is t on the wire, its elements as raw bytes.
func tensorProto(t *tensor.Tensor, name string) (*onnxpb.TensorProto, error) {
	p := &onnxpb.TensorProto{Name: str(name), DataType: proto.Int32(int32(t.DType()))}
	for _, d := range t.Shape() {
		p.Dims = append(p.Dims, int64(d))
	}
	if t.DType() == tensor.String {
		for _, s := range tensor.Data[string](t) {
			p.StringData = append(p.StringData, []byte(s))
		}
		return p, nil
	}
	raw := t.Bytes()
	if bits := t.DType().Bits(); bits < 8 {
		per, mask := 8/bits, byte(1)<<bits-1
		packed := make([]byte, (len(raw)+per-1)/per)
		for i, b := range raw {
			packed[i/per] |= b & mask << (bits * (i % per))
		}
		raw = packed
	} else if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		raw = swapped(raw, t.DType().Size())
	}
	if raw == nil {
		raw = []byte{}
	}
	p.RawData = raw
	return p, nil
}

// EncodeTensor is t as a TensorProto file, the inverse of [DecodeTensor].
func EncodeTensor(t *tensor.Tensor, name string) ([]byte, error) {
	p, err := tensorProto(t, name)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(p)
}
