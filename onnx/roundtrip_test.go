package onnx_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/onnx/internal/onnxpb"
)

// canonical writes p as Save would: elements as raw bytes, an attribute's type said, and no field that says
// only what its absence says.
func canonical(t testing.TB, m protoreflect.Message) {
	switch p := m.Interface().(type) {
	case *onnxpb.TensorProto:
		data, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		v, name, err := onnx.DecodeTensor(data)
		if err != nil {
			t.Fatal(err)
		}
		if data, err = onnx.EncodeTensor(v, name); err != nil {
			t.Fatal(err)
		}
		q := &onnxpb.TensorProto{}
		if err := proto.Unmarshal(data, q); err != nil {
			t.Fatal(err)
		}
		p.FloatData, p.Int32Data, p.Int64Data, p.DoubleData, p.Uint64Data = nil, nil, nil, nil, nil
		p.RawData, p.StringData, p.DataLocation = q.RawData, q.StringData, nil
	case *onnxpb.AttributeProto:
		if p.GetType() == 0 || p.Type == nil {
			data, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			p.Type = proto.Int32(attributeType(t, data))
		}
		if p.RefAttrName == nil || *p.RefAttrName == "" {
			switch onnx.AttrType(p.GetType()) {
			case onnx.AttrFloat:
				p.F = proto.Float32(p.GetF())
			case onnx.AttrInt:
				p.I = proto.Int64(p.GetI())
			case onnx.AttrString:
				p.S = append([]byte{}, p.S...)
			}
		}
	case *onnxpb.TensorShapeProto_Dimension:
		switch d := p.Value.(type) {
		case *onnxpb.TensorShapeProto_Dimension_DimParam:
			if d.DimParam == "" {
				p.Value = nil
			}
		case *onnxpb.TensorShapeProto_Dimension_DimValue:
			if d.DimValue < 0 {
				p.Value = nil
			}
		}
	}
	// Always there, as they are in most files.
	always := map[protoreflect.FullName]bool{
		"retune.onnx.ModelProto.ir_version": true, "retune.onnx.OperatorSetIdProto.domain": true, "retune.onnx.OperatorSetIdProto.version": true,
		"retune.onnx.GraphProto.name": true, "retune.onnx.ValueInfoProto.name": true, "retune.onnx.NodeProto.op_type": true,
		"retune.onnx.AttributeProto.name": true, "retune.onnx.FunctionProto.name": true, "retune.onnx.FunctionProto.domain": true,
		"retune.onnx.StringStringEntryProto.key": true, "retune.onnx.StringStringEntryProto.value": true,
		"retune.onnx.TypeProto.Tensor.elem_type": true, "retune.onnx.TensorProto.data_type": true,
		"retune.onnx.AttributeProto.f": true, "retune.onnx.AttributeProto.i": true, "retune.onnx.AttributeProto.s": true,
		"retune.onnx.TensorProto.raw_data": true,
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			for k := range m.Get(f).List().Len() {
				if f.Kind() == protoreflect.MessageKind {
					canonical(t, m.Get(f).List().Get(k).Message())
				}
			}
			continue
		}
		switch {
		case always[f.FullName()] && !m.Has(f) && !strings.HasPrefix(string(f.FullName()), "retune.onnx.AttributeProto.") && f.Name() != "raw_data":
			m.Set(f, f.Default())
		case !m.Has(f):
		case f.Kind() == protoreflect.MessageKind:
			canonical(t, m.Mutable(f).Message())
		case f.ContainingOneof() == nil && !always[f.FullName()] && m.Get(f).Equal(f.Default()):
			m.Clear(f)
		}
	}
}

// attributeType is what the loader makes of an attribute that does not say its type.
func attributeType(t testing.TB, data []byte) int32 {
	p := &onnxpb.ModelProto{Graph: &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{{Attribute: []*onnxpb.AttributeProto{{}}}}}}
	if err := proto.Unmarshal(data, p.Graph.Node[0].Attribute[0]); err != nil {
		t.Fatal(err)
	}
	model, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := onnx.Decode(model)
	if err != nil {
		return 0 // subgraphs with names from outside: none such is without a type
	}
	return int32(m.Graph.Nodes[0].Attrs[0].Type)
}

func parse(t testing.TB, data []byte) *onnxpb.ModelProto {
	t.Helper()
	p := &onnxpb.ModelProto{}
	if err := proto.Unmarshal(data, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// firstDifference is the first line in which the messages' texts differ.
func firstDifference(want, got proto.Message) string {
	w := strings.Split(prototext.Format(want), "\n")
	g := strings.Split(prototext.Format(got), "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d: loaded %.200q, saved %.200q", i, w[i], g[i])
		}
	}
	return fmt.Sprintf("loaded %d lines, saved %d", len(w), len(g))
}

func modelFiles(t testing.TB, dirs ...string) []string {
	var files []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".onnx" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// What is saved says what was loaded: as messages, in canonical form, the two are the same.
func TestSavedIsLoaded(t *testing.T) {
	for _, set := range []string{"shipped", "conformance", "models"} {
		t.Run(set, func(t *testing.T) {
			dir := "../models"
			if set != "shipped" {
				dir = testkit.Dir(t, set)
			}
			files := modelFiles(t, dir)
			dir = t.TempDir()
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				m, err := onnx.Load(file)
				if err != nil {
					t.Errorf("%v", err)
					continue
				}
				out := filepath.Join(dir, "m.onnx")
				if err := onnx.Save(out, m); err != nil {
					t.Errorf("%s: %v", file, err)
					continue
				}
				saved, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				want, got := parse(t, data), parse(t, saved)
				canonical(t, want.ProtoReflect())
				canonical(t, got.ProtoReflect())
				if !proto.Equal(want, got) {
					t.Errorf("%s: what is saved differs: %s", file, firstDifference(want, got))
				}
				if err := m.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			t.Logf("%d models", len(files))
		})
	}
}
