package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// maxNesting bounds how deep subgraphs, types and function calls may nest.
const maxNesting = 64

// Load reads the model at path. Weights outside the file are read from its folder;
// they must lie inside it.
func Load(path string) (*Model, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	defer root.Close()
	m, err := LoadFS(root.FS(), filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

// LoadFS reads the model at name in fsys; weights outside the file are read from the folder
// it is in.
func LoadFS(fsys fs.FS, name string) (*Model, error) {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	dir, err := fs.Sub(fsys, filepath.ToSlash(filepath.Dir(name)))
	if err != nil {
		return nil, err
	}
	return decode(data, dir)
}

// Decode reads a model from memory. Weights outside it are an error.
func Decode(data []byte) (*Model, error) { return decode(data, nil) }

type decoder struct {
	dir   fs.FS // where external data lies, nil if there can be none
	files map[string][]byte
}

func decode(data []byte, dir fs.FS) (*Model, error) {
	var p onnxpb.ModelProto
	if err := proto.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("not an ONNX model: %w", err)
	}
	if p.Graph == nil {
		return nil, errors.New("not an ONNX model: it has no graph")
	}
	d := &decoder{dir: dir, files: map[string][]byte{}}
	m := &Model{
		IRVersion: p.GetIrVersion(), ProducerName: p.GetProducerName(), ProducerVersion: p.GetProducerVersion(),
		Domain: p.GetDomain(), ModelVersion: p.GetModelVersion(), Doc: p.GetDocString(),
		Opsets: opsets(p.OpsetImport), Metadata: props(p.MetadataProps), unknown: p.ProtoReflect().GetUnknown(),
	}
	var err error
	if m.Graph, err = d.graph(p.Graph, nil, 0); err != nil {
		return nil, err
	}
	for _, f := range p.Functions {
		fn, err := d.function(f)
		if err != nil {
			return nil, fmt.Errorf("function %s: %w", f.GetName(), err)
		}
		m.Functions = append(m.Functions, fn)
	}
	return m, nil
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

// scope is the names that a graph sees, its own before those around it.
type scope struct {
	values map[string]*Value
	outer  *scope
}

func (s *scope) find(name string) *Value {
	for ; s != nil; s = s.outer {
		if v := s.values[name]; v != nil {
			return v
		}
	}
	return nil
}

func (s *scope) define(name string) (*Value, error) {
	if v := s.values[name]; v != nil {
		return nil, fmt.Errorf("value %q is defined twice", name)
	}
	v := &Value{Name: name}
	s.values[name] = v
	return v, nil
}

func (d *decoder) graph(p *onnxpb.GraphProto, outer *scope, depth int) (*Graph, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("subgraphs nest deeper than %d", maxNesting)
	}
	g := &Graph{Name: p.GetName(), Doc: p.GetDocString(), Metadata: props(p.MetadataProps), unknown: p.ProtoReflect().GetUnknown()}
	s := &scope{values: map[string]*Value{}, outer: outer}
	for _, in := range p.Input {
		v, err := s.define(in.GetName())
		if err != nil {
			return nil, fmt.Errorf("graph %q: input %w", g.Name, err)
		}
		if err := describe(v, in); err != nil {
			return nil, err
		}
		g.Inputs = append(g.Inputs, v)
	}
	for _, t := range p.Initializer {
		v := s.values[t.GetName()] // before IR version 4, initializers were inputs too
		if v == nil {
			var err error
			if v, err = s.define(t.GetName()); err != nil {
				return nil, err
			}
		} else if v.Const != nil {
			return nil, fmt.Errorf("graph %q: initializer %q is defined twice", g.Name, v.Name)
		}
		c, err := d.tensor(t)
		if err != nil {
			return nil, fmt.Errorf("graph %q: initializer %q: %w", g.Name, t.GetName(), err)
		}
		v.Const, v.Doc, v.Meta = c, t.GetDocString(), props(t.MetadataProps)
		if v.Type == nil {
			v.Type = TypeOfTensor(c)
		}
		g.Inits = append(g.Inits, v)
	}
	for _, t := range p.SparseInitializer {
		v, err := s.define(t.GetValues().GetName())
		if err != nil {
			return nil, err
		}
		if v.Const, err = d.sparse(t); err != nil {
			return nil, fmt.Errorf("graph %q: sparse initializer %q: %w", g.Name, v.Name, err)
		}
		v.Type = TypeOfTensor(v.Const)
		g.Inits = append(g.Inits, v)
	}
	infos := map[string]*onnxpb.ValueInfoProto{}
	for _, info := range p.ValueInfo {
		infos[info.GetName()] = info
	}
	if err := d.nodes(g, p.Node, s, infos, depth); err != nil {
		return nil, err
	}
	for _, out := range p.Output {
		v := s.find(out.GetName())
		if v == nil {
			return nil, fmt.Errorf("graph %q: output %q is never computed", g.Name, out.GetName())
		}
		if s.values[v.Name] == v && v.Type == nil {
			if err := describe(v, out); err != nil {
				return nil, err
			}
		}
		g.Outputs = append(g.Outputs, v)
	}
	return g, nil
}

// nodes defines the outputs of all nodes first, so that their order in the file does not matter
// here; [Graph.Sort] puts it right.
func (d *decoder) nodes(g *Graph, ps []*onnxpb.NodeProto, s *scope, infos map[string]*onnxpb.ValueInfoProto, depth int) error {
	for _, p := range ps {
		n := &Node{Name: p.GetName(), Op: p.GetOpType(), Domain: p.GetDomain(), Overload: p.GetOverload(),
			Doc: p.GetDocString(), Metadata: props(p.MetadataProps), unknown: p.ProtoReflect().GetUnknown()}
		for i, name := range p.Output {
			if name == "" {
				n.SetOutput(i, nil)
				continue
			}
			v, err := s.define(name)
			if err != nil {
				return fmt.Errorf("graph %q: node %q (%s): output %w", g.Name, n.Name, n.Op, err)
			}
			if info := infos[name]; info != nil {
				if err := describe(v, info); err != nil {
					return err
				}
			}
			n.SetOutput(i, v)
		}
		g.Nodes = append(g.Nodes, n)
	}
	for k, p := range ps {
		n := g.Nodes[k]
		for i, name := range p.Input {
			if name == "" {
				n.SetInput(i, nil)
				continue
			}
			v := s.find(name)
			if v == nil {
				return fmt.Errorf("graph %q: node %q (%s): input %q is not defined", g.Name, n.Name, n.Op, name)
			}
			n.SetInput(i, v)
		}
		for _, a := range p.Attribute {
			attr, err := d.attribute(a, s, depth)
			if err != nil {
				return fmt.Errorf("graph %q: node %q (%s): attribute %q: %w", g.Name, n.Name, n.Op, a.GetName(), err)
			}
			for _, sub := range append(slices.Clone(attr.Graphs), attr.G) {
				if sub != nil {
					sub.Outer = n
				}
			}
			n.Attrs = append(n.Attrs, attr)
		}
	}
	return g.Sort()
}

func (d *decoder) function(p *onnxpb.FunctionProto) (*Function, error) {
	f := &Function{Name: p.GetName(), Domain: p.GetDomain(), Overload: p.GetOverload(), Doc: p.GetDocString(),
		Opsets: opsets(p.OpsetImport), Attributes: p.Attribute, Metadata: props(p.MetadataProps),
		unknown: p.ProtoReflect().GetUnknown(), Body: &Graph{Name: p.GetName()}}
	s := &scope{values: map[string]*Value{}}
	for _, a := range p.AttributeProto {
		attr, err := d.attribute(a, s, 0)
		if err != nil {
			return nil, err
		}
		f.AttributeDefaults = append(f.AttributeDefaults, attr)
	}
	for _, name := range p.Input {
		v, err := s.define(name)
		if err != nil {
			return nil, err
		}
		f.Body.Inputs = append(f.Body.Inputs, v)
	}
	infos := map[string]*onnxpb.ValueInfoProto{}
	for _, info := range p.ValueInfo {
		infos[info.GetName()] = info
	}
	if err := d.nodes(f.Body, p.Node, s, infos, 0); err != nil {
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

func (d *decoder) attribute(p *onnxpb.AttributeProto, s *scope, depth int) (*Attribute, error) {
	a := &Attribute{Name: p.GetName(), Doc: p.GetDocString(), Type: AttrType(p.GetType()), Ref: p.GetRefAttrName(),
		F: p.GetF(), I: p.GetI(), S: p.S, Floats: p.Floats, Ints: p.Ints, Strings: p.Strings, unknown: p.ProtoReflect().GetUnknown()}
	var err error
	if p.T != nil {
		if a.T, err = d.tensor(p.T); err != nil {
			return nil, err
		}
		a.tname = p.T.GetName()
	}
	for _, t := range p.Tensors {
		c, err := d.tensor(t)
		if err != nil {
			return nil, err
		}
		a.Tensors = append(a.Tensors, c)
	}
	if p.SparseTensor != nil {
		if a.T, err = d.sparse(p.SparseTensor); err != nil {
			return nil, err
		}
		if a.sparse, err = proto.Marshal(p.SparseTensor); err != nil {
			return nil, err
		}
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
	if a.Type == AttrUndefined { // old files leave it out: the field that is set tells
		switch {
		case p.F != nil:
			a.Type = AttrFloat
		case p.I != nil:
			a.Type = AttrInt
		case p.S != nil:
			a.Type = AttrString
		case p.T != nil:
			a.Type = AttrTensor
		case p.G != nil:
			a.Type = AttrGraph
		case len(p.Floats) > 0:
			a.Type = AttrFloats
		case len(p.Ints) > 0:
			a.Type = AttrInts
		case len(p.Strings) > 0:
			a.Type = AttrStrings
		}
	}
	if a.Ref == "" && (a.Type == AttrTensor && a.T == nil || a.Type == AttrGraph && a.G == nil) {
		return nil, errors.New("says that it is a tensor or graph, but holds none")
	}
	return a, nil
}

func describe(v *Value, p *onnxpb.ValueInfoProto) error {
	v.Doc, v.Meta = p.GetDocString(), props(p.MetadataProps)
	if p.Type == nil {
		return nil
	}
	t, err := typeOf(p.Type, 0)
	if err != nil {
		return fmt.Errorf("value %q: %w", p.GetName(), err)
	}
	v.Type = t
	return nil
}

func typeOf(p *onnxpb.TypeProto, depth int) (*Type, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("types nest deeper than %d", maxNesting)
	}
	t := &Type{Denotation: p.GetDenotation()}
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

func intsOf(dims []int64) ([]int, error) {
	out := make([]int, len(dims))
	for i, d := range dims {
		if d < 0 || d > math.MaxInt {
			return nil, fmt.Errorf("%w: dimension %d", tensor.ErrShape, d)
		}
		out[i] = int(d)
	}
	return out, nil
}

// tensor decodes p; sizes are compared with the bytes that are there before anything is allocated.
func (d *decoder) tensor(p *onnxpb.TensorProto) (*tensor.Tensor, error) {
	dt := tensor.DType(p.GetDataType())
	if !dt.Valid() {
		return nil, fmt.Errorf("element type %d is not known", p.GetDataType())
	}
	shape, err := intsOf(p.Dims)
	if err != nil {
		return nil, err
	}
	n, err := tensor.NumElements(shape)
	if err != nil {
		return nil, err
	}
	if dt == tensor.String {
		if n != len(p.StringData) {
			return nil, fmt.Errorf("shape %v needs %d strings, the file has %d", shape, n, len(p.StringData))
		}
		ss := make([]string, n)
		for i, s := range p.StringData {
			ss[i] = string(s)
		}
		return tensor.FromSlice(ss, shape)
	}
	raw := p.RawData
	if p.GetDataLocation() == 1 {
		if raw, err = d.external(p.ExternalData); err != nil {
			return nil, err
		}
	}
	if raw != nil || n == 0 {
		return fromRaw(dt, shape, n, raw)
	}
	return fromFields(dt, shape, n, p)
}

func fromRaw(dt tensor.DType, shape []int, n int, raw []byte) (*tensor.Tensor, error) {
	if n > math.MaxInt/64 {
		return nil, fmt.Errorf("%w: %v overflows", tensor.ErrShape, shape)
	}
	bits := dt.Bits()
	if want := (n*bits + 7) / 8; want != len(raw) {
		return nil, fmt.Errorf("%s%v takes %d bytes, the file has %d", dt, shape, want, len(raw))
	}
	if bits < 8 {
		return unpack(dt, shape, n, func(i int) byte { return raw[i] })
	}
	if dt == tensor.Bool {
		for i, b := range raw {
			if b > 1 {
				raw[i] = 1 // Go's bool knows no other bits
			}
		}
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		raw = swapped(raw, dt.Size())
	}
	return tensor.FromBytes(dt, shape, raw, nil)
}

func swapped(raw []byte, size int) []byte {
	out := slices.Clone(raw)
	for i := 0; i+size <= len(out); i += size {
		slices.Reverse(out[i : i+size])
	}
	return out
}

// unpack spreads elements narrower than a byte, the first in the low bits, over a byte each.
func unpack(dt tensor.DType, shape []int, n int, at func(i int) byte) (*tensor.Tensor, error) {
	bits := dt.Bits()
	per, mask := 8/bits, byte(1)<<bits-1
	buf := make([]byte, n)
	for i := range buf {
		v := at(i/per) >> (bits * (i % per)) & mask
		if (dt == tensor.Int4 || dt == tensor.Int2) && v>>(bits-1) == 1 {
			v |= ^mask
		}
		buf[i] = v
	}
	return tensor.FromBytes(dt, shape, buf, nil)
}

func fromFields(dt tensor.DType, shape []int, n int, p *onnxpb.TensorProto) (*tensor.Tensor, error) {
	count := func(have int) error {
		if have != n {
			return fmt.Errorf("%s%v needs %d elements, the file has %d", dt, shape, n, have)
		}
		return nil
	}
	switch dt {
	case tensor.Float32:
		if err := count(len(p.FloatData)); err != nil {
			return nil, err
		}
		return tensor.FromSlice(p.FloatData, shape)
	case tensor.Float64:
		if err := count(len(p.DoubleData)); err != nil {
			return nil, err
		}
		return tensor.FromSlice(p.DoubleData, shape)
	case tensor.Int64:
		if err := count(len(p.Int64Data)); err != nil {
			return nil, err
		}
		return tensor.FromSlice(p.Int64Data, shape)
	case tensor.Complex64:
		if err := count(len(p.FloatData) / 2); err != nil {
			return nil, err
		}
		out := make([]complex64, n)
		for i := range out {
			out[i] = complex(p.FloatData[2*i], p.FloatData[2*i+1])
		}
		return tensor.FromSlice(out, shape)
	case tensor.Complex128:
		if err := count(len(p.DoubleData) / 2); err != nil {
			return nil, err
		}
		out := make([]complex128, n)
		for i := range out {
			out[i] = complex(p.DoubleData[2*i], p.DoubleData[2*i+1])
		}
		return tensor.FromSlice(out, shape)
	case tensor.Uint32, tensor.Uint64:
		if err := count(len(p.Uint64Data)); err != nil {
			return nil, err
		}
		if dt == tensor.Uint64 {
			return tensor.FromSlice(p.Uint64Data, shape)
		}
		out := make([]uint32, n)
		for i, v := range p.Uint64Data {
			out[i] = uint32(v)
		}
		return tensor.FromSlice(out, shape)
	}
	if dt.Bits() < 8 {
		per := 8 / dt.Bits()
		if have := len(p.Int32Data); have != (n+per-1)/per {
			return nil, fmt.Errorf("%s%v needs %d packed bytes, the file has %d", dt, shape, (n+per-1)/per, have)
		}
		return unpack(dt, shape, n, func(i int) byte { return byte(p.Int32Data[i]) })
	}
	if err := count(len(p.Int32Data)); err != nil {
		return nil, err
	}
	t, err := tensor.Zeros(dt, shape...)
	if err != nil {
		return nil, err
	}
	for i, v := range p.Int32Data {
		switch b := t.Bytes(); dt.Size() {
		case 1:
			if dt == tensor.Bool && v != 0 {
				v = 1
			}
			b[i] = byte(v)
		case 2:
			binary.NativeEndian.PutUint16(b[2*i:], uint16(v))
		case 4:
			binary.NativeEndian.PutUint32(b[4*i:], uint32(v))
		}
	}
	return t, nil
}

// sparse decodes a sparse tensor into a dense one; a dense size out of proportion to the
// file is refused.
func (d *decoder) sparse(p *onnxpb.SparseTensorProto) (*tensor.Tensor, error) {
	shape, err := intsOf(p.Dims)
	if err != nil {
		return nil, err
	}
	values, err := d.tensor(p.GetValues())
	if err != nil {
		return nil, err
	}
	indices, err := d.tensor(p.GetIndices())
	if err != nil {
		return nil, err
	}
	size, err := tensor.ByteSize(values.DType(), shape)
	if err != nil {
		return nil, err
	}
	if size > 1<<28 || values.DType() == tensor.String || indices.DType() != tensor.Int64 {
		return nil, fmt.Errorf("sparse %s%v is not supported", values.DType(), shape)
	}
	out, err := tensor.Zeros(values.DType(), shape...)
	if err != nil {
		return nil, err
	}
	idx, w := tensor.Data[int64](indices), values.DType().Size()
	nnz, rank := values.Len(), len(shape)
	if len(idx) != nnz && len(idx) != nnz*rank {
		return nil, fmt.Errorf("sparse tensor has %d values but %d indices", nnz, len(idx))
	}
	for i := range nnz {
		at := int64(0)
		if len(idx) == nnz {
			at = idx[i]
		} else {
			for k, dim := range shape {
				if x := idx[i*rank+k]; x < 0 || x >= int64(dim) {
					return nil, fmt.Errorf("sparse index %d is outside dimension %d", x, dim)
				}
				at = at*int64(dim) + idx[i*rank+k]
			}
		}
		if at < 0 || at >= int64(out.Len()) {
			return nil, fmt.Errorf("sparse index %d is outside %v", at, shape)
		}
		copy(out.Bytes()[int(at)*w:][:w], values.Bytes()[i*w:])
	}
	return out, nil
}

// external reads a weight's bytes from a file beside the model.
func (d *decoder) external(entries []*onnxpb.StringStringEntryProto) ([]byte, error) {
	var location string
	offset, length := int64(0), int64(-1)
	for _, e := range entries {
		var err error
		switch e.GetKey() {
		case "location":
			location = e.GetValue()
		case "offset":
			_, err = fmt.Sscan(e.GetValue(), &offset)
		case "length":
			_, err = fmt.Sscan(e.GetValue(), &length)
		}
		if err != nil {
			return nil, fmt.Errorf("external data: %s %q is no number", e.GetKey(), e.GetValue())
		}
	}
	if d.dir == nil {
		return nil, fmt.Errorf("external data %q: the model was not read from a folder", location)
	}
	clean := filepath.ToSlash(filepath.Clean(location))
	if !fs.ValidPath(clean) || clean == "." {
		return nil, fmt.Errorf("external data %q: the path leaves the model's folder", location)
	}
	f, err := d.dir.Open(clean)
	if err != nil {
		return nil, fmt.Errorf("external data: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("external data: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("external data %q: not a regular file", location)
	}
	if length < 0 {
		length = st.Size() - offset
	}
	if offset < 0 || length < 0 || offset > st.Size() || length > st.Size()-offset {
		return nil, fmt.Errorf("external data %q: %d bytes at %d are outside the file's %d", location, length, offset, st.Size())
	}
	buf := tensor.AlignedBytes(int(length))
	if ra, ok := f.(io.ReaderAt); ok {
		_, err = ra.ReadAt(buf, offset)
	} else if _, err = io.CopyN(io.Discard, f, offset); err == nil {
		_, err = io.ReadFull(f, buf)
	}
	if err != nil && !(errors.Is(err, io.EOF) && length == 0) {
		return nil, fmt.Errorf("external data %q: %w", location, err)
	}
	if buf == nil {
		buf = []byte{}
	}
	return buf, nil
}

// DecodeTensor reads a TensorProto, as in the .pb files of test data, and its name.
func DecodeTensor(data []byte) (*tensor.Tensor, string, error) {
	var p onnxpb.TensorProto
	if err := proto.Unmarshal(data, &p); err != nil {
		return nil, "", fmt.Errorf("not a TensorProto: %w", err)
	}
	t, err := (&decoder{}).tensor(&p)
	return t, p.GetName(), err
}

// DecodeValue reads what a .pb file of test data holds: a TensorProto, SequenceProto,
// OptionalProto or MapProto, as t says (nil: a tensor).
func DecodeValue(data []byte, t *Type) (tensor.Value, error) {
	kind := TensorType
	if t != nil {
		kind = t.Kind
	}
	d := &decoder{}
	switch kind {
	case SequenceType:
		var p onnxpb.SequenceProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not a SequenceProto: %w", err)
		}
		return d.sequence(&p, 0)
	case OptionalType:
		var p onnxpb.OptionalProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not an OptionalProto: %w", err)
		}
		return d.optional(&p, 0)
	case MapType:
		var p onnxpb.MapProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not a MapProto: %w", err)
		}
		return d.mapValue(&p, 0)
	}
	v, _, err := DecodeTensor(data)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (d *decoder) sequence(p *onnxpb.SequenceProto, depth int) (tensor.Value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("values nest deeper than %d", maxNesting)
	}
	s := &tensor.Sequence{}
	for _, t := range p.TensorValues {
		v, err := d.tensor(t)
		if err != nil {
			return nil, err
		}
		s.Elem = v.DType()
		s.Values = append(s.Values, v)
	}
	for _, q := range p.SequenceValues {
		v, err := d.sequence(q, depth+1)
		if err != nil {
			return nil, err
		}
		s.Values = append(s.Values, v)
	}
	for _, q := range p.MapValues {
		v, err := d.mapValue(q, depth+1)
		if err != nil {
			return nil, err
		}
		s.Values = append(s.Values, v)
	}
	for _, q := range p.OptionalValues {
		v, err := d.optional(q, depth+1)
		if err != nil {
			return nil, err
		}
		s.Values = append(s.Values, v)
	}
	return s, nil
}

func (d *decoder) optional(p *onnxpb.OptionalProto, depth int) (tensor.Value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("values nest deeper than %d", maxNesting)
	}
	var v tensor.Value
	var err error
	switch {
	case p.TensorValue != nil:
		v, err = d.tensor(p.TensorValue)
	case p.SequenceValue != nil:
		v, err = d.sequence(p.SequenceValue, depth+1)
	case p.MapValue != nil:
		v, err = d.mapValue(p.MapValue, depth+1)
	}
	if err != nil {
		return nil, err
	}
	return &tensor.Optional{Value: v}, nil
}

func (d *decoder) mapValue(p *onnxpb.MapProto, depth int) (tensor.Value, error) {
	m := &tensor.Map{}
	if len(p.StringKeys) > 0 {
		keys := make([]string, len(p.StringKeys))
		for i, k := range p.StringKeys {
			keys[i] = string(k)
		}
		m.Keys = tensor.New(keys)
	} else {
		m.Keys = tensor.New(slices.Clone(p.Keys))
	}
	if p.Values != nil {
		v, err := d.sequence(p.Values, depth+1)
		if err != nil {
			return nil, err
		}
		m.Values = v
	}
	return m, nil
}
