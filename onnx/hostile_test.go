package onnx_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

func modelWith(t testing.TB, g *onnxpb.GraphProto) []byte {
	t.Helper()
	data, err := proto.Marshal(&onnxpb.ModelProto{IrVersion: proto.Int64(8), Graph: g,
		OpsetImport: []*onnxpb.OperatorSetIdProto{{Version: proto.Int64(16)}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func nodeProto(op, name string, in, out []string, attrs ...*onnxpb.AttributeProto) *onnxpb.NodeProto {
	return &onnxpb.NodeProto{OpType: &op, Name: &name, Input: in, Output: out, Attribute: attrs}
}

// nested is n messages, each the field num of the one around it.
func nested(n int, nums ...protowire.Number) []byte {
	var body []byte
	for i := range n {
		num := nums[len(nums)-1-i%len(nums)]
		body = protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), body)
	}
	return body
}

// Each file that is wrong gives an error that says what and where, in one line, without a large allocation.
func TestHostileFiles(t *testing.T) {
	initializer := func(p *onnxpb.TensorProto) []byte {
		p.Name = proto.String("w")
		return modelWith(t, &onnxpb.GraphProto{Name: proto.String("g"), Initializer: []*onnxpb.TensorProto{p}})
	}
	model := func(p *onnxpb.ModelProto) []byte {
		p.Graph = &onnxpb.GraphProto{Name: proto.String("g")}
		data, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	f := &onnxpb.FunctionProto{Name: proto.String("f"), Domain: proto.String("d")}
	float := proto.Int32(1)
	type strs = []string
	for name, c := range map[string]struct {
		data []byte
		want strs
	}{
		"empty":                {nil, strs{"not an ONNX model"}},
		"text":                 {[]byte("hello, this is no model at all"), strs{"not an ONNX model"}},
		"claims more":          {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{1 << 40}, RawData: make([]byte, 8)}), strs{`"w"`, "the file has 8"}},
		"claims more in typed": {initializer(&onnxpb.TensorProto{DataType: proto.Int32(6), Dims: []int64{1 << 40}, Int32Data: []int32{1}}), strs{`"w"`, "the file has 1"}},
		"claims more strings":  {initializer(&onnxpb.TensorProto{DataType: proto.Int32(8), Dims: []int64{1 << 40}}), strs{`"w"`, "strings"}},
		"claims more int4":     {initializer(&onnxpb.TensorProto{DataType: proto.Int32(22), Dims: []int64{1 << 40}, RawData: []byte{1}}), strs{`"w"`, "the file has 1"}},
		"no data":              {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{3}}), strs{`"w"`, "needs 3"}},
		"data for nothing":     {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{0}, FloatData: []float32{1}}), strs{`"w"`, "needs 0"}},
		"overflow":             {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{math.MaxInt64, math.MaxInt64}}), strs{`"w"`, "overflow"}},
		"overflow to zero":     {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{1 << 32, 1 << 32}, RawData: []byte{}}), strs{`"w"`, "overflow"}},
		"negative":             {initializer(&onnxpb.TensorProto{DataType: float, Dims: []int64{-1}}), strs{`"w"`, "-1"}},
		"unknown type":         {initializer(&onnxpb.TensorProto{DataType: proto.Int32(99)}), strs{`"w"`, "99"}},
		"no type":              {initializer(&onnxpb.TensorProto{}), strs{`"w"`, "element type 0"}},
		"raw strings":          {initializer(&onnxpb.TensorProto{DataType: proto.Int32(8), RawData: []byte("x")}), strs{`"w"`, "strings"}},
		"external":             {at(t, "location", "w.bin", "length", "16"), strs{`"w"`, "not read from a folder"}},
		"sparse bomb": {modelWith(t, &onnxpb.GraphProto{SparseInitializer: []*onnxpb.SparseTensorProto{{Dims: []int64{1 << 40},
			Values:  &onnxpb.TensorProto{Name: proto.String("w"), DataType: float, Dims: []int64{1}, FloatData: []float32{1}},
			Indices: &onnxpb.TensorProto{DataType: proto.Int32(7), Dims: []int64{1}, Int64Data: []int64{5}}}}}), strs{`"w"`, "268435456"}},
		"sparse index": {modelWith(t, &onnxpb.GraphProto{SparseInitializer: []*onnxpb.SparseTensorProto{{Dims: []int64{2, 2},
			Values:  &onnxpb.TensorProto{Name: proto.String("w"), DataType: float, Dims: []int64{1}, FloatData: []float32{1}},
			Indices: &onnxpb.TensorProto{DataType: proto.Int32(7), Dims: []int64{1, 2}, Int64Data: []int64{1, 2}}}}}), strs{`"w"`, "outside dimension"}},
		"sparse without values": {modelWith(t, &onnxpb.GraphProto{SparseInitializer: []*onnxpb.SparseTensorProto{{Dims: []int64{2}}}}), strs{"without values"}},
		"cycle": {modelWith(t, &onnxpb.GraphProto{Name: proto.String("g"), Node: []*onnxpb.NodeProto{
			nodeProto("Neg", "after", strs{"a"}, strs{"c"}), nodeProto("Relu", "n1", strs{"b"}, strs{"a"}), nodeProto("Relu", "n2", strs{"a"}, strs{"b"})}}), strs{`"g"`, `"n1" (Relu)`, "cycle"}},
		"own output": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", strs{"a"}, strs{"a"})}}), strs{`"n1"`, "cycle"}},
		"undefined": {modelWith(t, &onnxpb.GraphProto{Name: proto.String("g"), Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", strs{"nope"}, strs{"a"})}}),
			strs{`graph "g"`, `node "n1" (Relu)`, `"nope" is not defined`}},
		"defined twice":      {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", nil, strs{"a", "a"})}}), strs{`"n1"`, `"a" is defined twice`}},
		"initialized twice":  {modelWith(t, &onnxpb.GraphProto{Initializer: []*onnxpb.TensorProto{{Name: proto.String("w"), DataType: float, FloatData: []float32{1}}, {Name: proto.String("w"), DataType: float, FloatData: []float32{1}}}}), strs{`"w"`, "twice"}},
		"output of nothing":  {modelWith(t, &onnxpb.GraphProto{Output: []*onnxpb.ValueInfoProto{{Name: proto.String("y")}}}), strs{`"y" is never computed`}},
		"input without name": {modelWith(t, &onnxpb.GraphProto{Input: []*onnxpb.ValueInfoProto{{}}}), strs{"no name"}},
		"wrong attribute": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", nil, nil,
			&onnxpb.AttributeProto{Name: proto.String("k"), Type: proto.Int32(2), F: proto.Float32(1)})}}), strs{`"n1"`, `"k"`, "said to be int, but holds float"}},
		"empty attribute": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", nil, nil,
			&onnxpb.AttributeProto{Name: proto.String("k"), Type: proto.Int32(4)})}}), strs{`"n1"`, `"k"`, "holds nothing"}},
		"attribute of the future": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("Relu", "n1", nil, nil,
			&onnxpb.AttributeProto{Name: proto.String("k"), Type: proto.Int32(-5), F: proto.Float32(1)})}}), strs{`"k"`, "not known"}},
		"attribute twice": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("LeakyRelu", "n1", nil, nil,
			&onnxpb.AttributeProto{Name: proto.String("k"), F: proto.Float32(1)}, &onnxpb.AttributeProto{Name: proto.String("k"), F: proto.Float32(2)})}}), strs{`"n1"`, `"k" is there twice`}},
		"attribute of no call": {modelWith(t, &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{nodeProto("LeakyRelu", "n1", nil, nil,
			&onnxpb.AttributeProto{Name: proto.String("k"), Type: proto.Int32(1), RefAttrName: proto.String("of")})}}), strs{`"n1"`, `"k"`, "but is in none"}},
		"function twice": {model(&onnxpb.ModelProto{Functions: []*onnxpb.FunctionProto{f, f}}), strs{`"f"`, "twice"}},
		"imported twice": {model(&onnxpb.ModelProto{OpsetImport: []*onnxpb.OperatorSetIdProto{{Version: proto.Int64(13)}, {Domain: proto.String("ai.onnx"), Version: proto.Int64(11)}}}), strs{"opset 13 and at opset 11"}},
		"deep subgraphs": {protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), nested(3*70, 1, 5, 6)), strs{"deeper than"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.onnx")
			if err := os.WriteFile(path, c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := onnx.Decode(c.data)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
				t.Errorf("%d bytes made it allocate %d", len(c.data), used)
			}
			if err == nil {
				t.Fatal("it was read")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %s in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
			if name == "external" { // there, it is another error
				return
			}
			if _, err := onnx.Load(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("loading does not name the file: %v", err)
			}
		})
	}
	for _, n := range []int{100, 1000, 20_000} {
		graphs := nested(3*(n/3), 1, 5, 6)
		function := graphs
		for _, num := range []protowire.Number{6, 5, 7} {
			function = protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), function)
		}
		for num, body := range map[protowire.Number][]byte{7: graphs, 25: function} {
			data := protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), body)
			if _, err := onnx.Decode(data); n >= 1000 && (err == nil || !strings.Contains(err.Error(), "deep")) {
				t.Errorf("%d messages deep in field %d: %v", n, num, err)
			}
		}
		types := protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType),
			protowire.AppendBytes(protowire.AppendTag(nil, 11, protowire.BytesType),
				protowire.AppendBytes(protowire.AppendTag(protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x"), 2, protowire.BytesType), nested(2*n, 4, 1))))
		if _, err := onnx.Decode(types); err == nil || !strings.Contains(err.Error(), "deep") && !strings.Contains(err.Error(), "not an ONNX") {
			t.Errorf("types %d deep: %v", n, err)
		}
	}
}

// Nodes may be out of order, and names inside a subgraph may hide those around it.
func TestNamesAndOrder(t *testing.T) {
	str := proto.String
	branch := &onnxpb.GraphProto{Name: str("branch"), Output: []*onnxpb.ValueInfoProto{{Name: str("r")}}, Node: []*onnxpb.NodeProto{
		nodeProto("Neg", "in1", []string{"late"}, []string{"t"}),
		nodeProto("Neg", "in2", []string{"a"}, []string{"u"}), // the outer a: the inner one comes later
		nodeProto("Neg", "in3", []string{"t"}, []string{"a"}),
		nodeProto("Add", "in4", []string{"a", "u"}, []string{"r"}),
	}}
	g := &onnxpb.GraphProto{Name: str("g"), Input: []*onnxpb.ValueInfoProto{{Name: str("x")}, {Name: str("a")}, {Name: str("c")}},
		Output: []*onnxpb.ValueInfoProto{{Name: str("y")}},
		Node: []*onnxpb.NodeProto{
			nodeProto("If", "if", []string{"c"}, []string{"y"}, &onnxpb.AttributeProto{Name: str("then_branch"), Type: proto.Int32(5), G: branch}),
			nodeProto("Relu", "second", []string{"x", ""}, []string{"late", ""}),
		}}
	m, err := onnx.Decode(modelWith(t, g))
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Graph.Nodes; n[0].Name != "second" || n[0].Inputs[1] != nil || n[0].Outputs[1] != nil {
		t.Errorf("order or empty names: %v", n[0].Name)
	}
	sub := m.Graph.Nodes[1].Graphs()[0]
	if sub.Outer != m.Graph.Nodes[1] || sub.Nodes[0].Inputs[0] != m.Graph.Nodes[0].Outputs[0] ||
		sub.Nodes[1].Inputs[0] != m.Graph.Inputs[1] || sub.Nodes[3].Inputs[0] != sub.Nodes[2].Outputs[0] {
		t.Error("names stand for other values")
	}
	if data, err := onnx.Encode(m); err != nil {
		t.Error(err)
	} else if _, err := onnx.Decode(data); err != nil {
		t.Error(err)
	}
}

// Every element type is read from raw bytes and from the field that the standard has for it.
func TestTensorFields(t *testing.T) {
	for d := tensor.Float32; d.Valid(); d++ {
		p := &onnxpb.TensorProto{Name: proto.String("t"), DataType: proto.Int32(int32(d)), Dims: []int64{3}}
		switch d {
		case tensor.Float32:
			p.FloatData = []float32{1, 0, 1}
		case tensor.Float64:
			p.DoubleData = []float64{1, 0, 1}
		case tensor.Complex64:
			p.FloatData = []float32{1, 0, 0, 0, 1, 0}
		case tensor.Complex128:
			p.DoubleData = []float64{1, 0, 0, 0, 1, 0}
		case tensor.Int64:
			p.Int64Data = []int64{1, 0, 1}
		case tensor.Uint32, tensor.Uint64:
			p.Uint64Data = []uint64{1, 0, 1}
		case tensor.String:
			p.StringData = [][]byte{[]byte("1"), {}, []byte("1")}
		case tensor.Uint4, tensor.Int4, tensor.Float4E2M1:
			p.Int32Data = []int32{0x01, 0x01}
		case tensor.Uint2, tensor.Int2:
			p.Int32Data = []int32{0x11}
		default:
			p.Int32Data = []int32{1, 0, 1}
		}
		data, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		v, name, err := onnx.DecodeTensor(data)
		if err != nil || name != "t" {
			t.Errorf("%s: %v", d, err)
			continue
		}
		if v.Len() != 3 || d != tensor.String && bytes.Count(v.Bytes(), []byte{0}) == len(v.Bytes()) {
			t.Errorf("%s: %v", d, v.Bytes())
		}
		raw, err := onnx.EncodeTensor(v, "t")
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := onnx.DecodeTensor(raw)
		if err != nil {
			t.Errorf("%s: raw: %v", d, err)
		} else if _, _, err := tensor.Compare(again, v, 0, 0); err != nil {
			t.Errorf("%s: raw and typed differ: %v", d, err)
		}
		// One number more or less is an error.
		p.Dims[0] = 100
		if data, err = proto.Marshal(p); err != nil {
			t.Fatal(err)
		}
		if _, _, err := onnx.DecodeTensor(data); err == nil {
			t.Errorf("%s: 3 elements became 100", d)
		}
	}
	v, err := onnx.DecodeValue(mustTensor(t, tensor.New([]tensor.I4{-8, 7, -1})), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tensor.Data[tensor.I4](v.(*tensor.Tensor)); got[0] != -8 || got[1] != 7 || got[2] != -1 {
		t.Errorf("int4: %v", got)
	}
}

func mustTensor(t testing.TB, v *tensor.Tensor) []byte {
	data, err := onnx.EncodeTensor(v, "")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestValues(t *testing.T) {
	f := tensor.New([]float32{1, 2})
	of := &onnx.Type{Elem: tensor.Float32}
	seq := &tensor.Sequence{Elem: tensor.Float32, Values: []tensor.Value{f, f}}
	for _, c := range []struct {
		v tensor.Value
		t *onnx.Type
	}{
		{f, of},
		{f, nil},
		{seq, &onnx.Type{Kind: onnx.SequenceType, Of: of}},
		{&tensor.Sequence{}, &onnx.Type{Kind: onnx.SequenceType, Of: of}},
		{&tensor.Sequence{Values: []tensor.Value{seq, seq}}, &onnx.Type{Kind: onnx.SequenceType}},
		{&tensor.Optional{}, &onnx.Type{Kind: onnx.OptionalType, Of: of}},
		{&tensor.Optional{Value: f}, &onnx.Type{Kind: onnx.OptionalType, Of: of}},
		{&tensor.Optional{Value: seq}, &onnx.Type{Kind: onnx.OptionalType}},
		{&tensor.Sequence{Values: []tensor.Value{&tensor.Optional{Value: f}, &tensor.Optional{}}}, &onnx.Type{Kind: onnx.SequenceType}},
		{&tensor.Map{Keys: tensor.New([]int64{3, 4}), Values: seq}, &onnx.Type{Kind: onnx.MapType}},
		{&tensor.Map{Keys: tensor.New([]string{"a", "b"}), Values: seq}, &onnx.Type{Kind: onnx.MapType}},
	} {
		data, err := onnx.EncodeValue(c.v, "v")
		if err != nil {
			t.Errorf("%v: %v", c.v, err)
			continue
		}
		got, err := onnx.DecodeValue(data, c.t)
		if err != nil {
			t.Errorf("%v: %v", c.v, err)
			continue
		}
		if _, _, err := tensor.Compare(got, c.v, 0, 0); err != nil {
			t.Errorf("%v: %v", c.v, err)
		}
	}
	deep := tensor.Value(f)
	for range 1000 {
		deep = &tensor.Optional{Value: deep}
	}
	if _, err := onnx.EncodeValue(deep, ""); err == nil {
		t.Error("a thousand optionals in each other were written")
	}
	for _, kind := range []onnx.TypeKind{onnx.SequenceType, onnx.OptionalType} {
		if _, err := onnx.DecodeValue(nested(1000, 5, 7), &onnx.Type{Kind: kind}); err == nil {
			t.Error("values nested a thousand deep were read")
		}
	}
	for _, v := range []tensor.Value{nil, (*tensor.Tensor)(nil), &tensor.Map{}, &tensor.Sequence{Values: []tensor.Value{f, seq}}} {
		if _, err := onnx.EncodeValue(v, ""); err == nil {
			t.Errorf("%v was written", v)
		}
	}
}

// What the graph has no place for is written back.
func TestCarriedAlong(t *testing.T) {
	str := proto.String
	sparse := &onnxpb.SparseTensorProto{Dims: []int64{100},
		Values:  &onnxpb.TensorProto{Name: str("s"), DataType: proto.Int32(1), Dims: []int64{2}, FloatData: []float32{1, 2}, DocString: str("doc")},
		Indices: &onnxpb.TensorProto{DataType: proto.Int32(7), Dims: []int64{2}, Int64Data: []int64{5, 50}}}
	w := &onnxpb.TensorProto{Name: str("w"), DataType: proto.Int32(1), Dims: []int64{1}, RawData: []byte{1, 2, 3, 4}, DocString: str("d"),
		MetadataProps: []*onnxpb.StringStringEntryProto{{Key: str("k"), Value: str("v")}}}
	tens := proto.CloneOf(w)
	tens.Name = str("inside")
	n := nodeProto("Relu", "n", []string{"w"}, []string{"y"},
		&onnxpb.AttributeProto{Name: str("t"), Type: proto.Int32(4), T: tens},
		&onnxpb.AttributeProto{Name: str("ts"), Type: proto.Int32(9), Tensors: []*onnxpb.TensorProto{tens, tens}},
		&onnxpb.AttributeProto{Name: str("sp"), Type: proto.Int32(11), SparseTensor: sparse},
		&onnxpb.AttributeProto{Name: str("sps"), Type: proto.Int32(12), SparseTensors: []*onnxpb.SparseTensorProto{sparse, sparse}})
	n.Overload = str("o")
	n.DeviceConfigurations = []*onnxpb.NodeDeviceConfigurationProto{{ConfigurationId: str("gpu"), PipelineStage: proto.Int32(2)}}
	p := &onnxpb.ModelProto{IrVersion: proto.Int64(11), DocString: str("model"), ModelVersion: proto.Int64(5),
		TrainingInfo:  []*onnxpb.TrainingInfoProto{{Algorithm: &onnxpb.GraphProto{Initializer: []*onnxpb.TensorProto{w}}}},
		Configuration: []*onnxpb.DeviceConfigurationProto{{Name: str("gpu"), NumDevices: proto.Int32(2)}},
		Graph: &onnxpb.GraphProto{Name: str("g"), Node: []*onnxpb.NodeProto{n}, Initializer: []*onnxpb.TensorProto{w},
			SparseInitializer:      []*onnxpb.SparseTensorProto{sparse},
			QuantizationAnnotation: []*onnxpb.TensorAnnotation{{TensorName: str("w")}},
			Output:                 []*onnxpb.ValueInfoProto{{Name: str("y"), Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_OpaqueType{OpaqueType: &onnxpb.TypeProto_Opaque{Name: str("thing")}}}}},
			ValueInfo:              []*onnxpb.ValueInfoProto{{Name: str("gone"), DocString: str("of nothing")}}}}
	future := protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "of a later standard")
	p.ProtoReflect().SetUnknown(future)
	p.Graph.ProtoReflect().SetUnknown(future)
	n.ProtoReflect().SetUnknown(future)
	w.ProtoReflect().SetUnknown(future)
	p.Graph.Output[0].ProtoReflect().SetUnknown(future)
	data, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := onnx.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*onnx.Model{m, m.Clone()} {
		saved, err := onnx.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		want, got := parse(t, data), parse(t, saved)
		canonical(t, want.ProtoReflect())
		canonical(t, got.ProtoReflect())
		if !proto.Equal(want, got) {
			t.Error(firstDifference(want, got))
		}
	}
	if s := m.Graph.Init("s"); s.Const.Len() != 100 || tensor.Data[float32](s.Const)[50] != 2 {
		t.Error("the sparse initializer is not dense")
	}
	// Another tensor in the place of a sparse one is written as it is.
	m.Graph.Init("s").Const = tensor.New(make([]float32, 100))
	m.Graph.Nodes[0].Attr("sp").T = tensor.New([]float32{0, 3, 0})
	saved, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	back, err := onnx.Decode(saved)
	if err != nil {
		t.Fatal(err)
	}
	if tensor.Data[float32](back.Graph.Init("s").Const)[50] != 0 || tensor.Data[float32](back.Graph.Nodes[0].Attr("sp").T)[1] != 3 {
		t.Error("the old tensors were written")
	}
}

// Damage to models of many kinds: an error or a model that can be written, never a panic.
func TestDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, data := range seeds(t) {
		for range 400 {
			bad := bytes.Clone(data)
			switch rng.IntN(3) {
			case 0:
				for range 1 + rng.IntN(8) {
					bad[rng.IntN(len(bad))] = byte(rng.IntN(256))
				}
			case 1:
				bad = bad[:rng.IntN(len(bad))]
			case 2:
				i, j := rng.IntN(len(bad)), rng.IntN(len(bad))
				bad = append(bad[:min(i, j)], bad[max(i, j):]...)
			}
			use(t, bad)
		}
	}
}

// Damage to what the messages say, in files that are otherwise whole: names and numbers changed for others, entries
// dropped, doubled and swapped.
func TestDamagedMeaning(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for _, data := range seeds(t)[:3] {
		for range 400 {
			p := parse(t, data)
			for range 1 + rng.IntN(3) {
				var places []func()
				collect(p.ProtoReflect(), rng, &places)
				places[rng.IntN(len(places))]()
			}
			bad, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			use(t, bad)
		}
	}
}

// collect gathers a change for each scalar and list of m and the messages in it.
func collect(m protoreflect.Message, rng *rand.Rand, places *[]func()) {
	words := []string{"", "x", "w", "h", "y", "leaf", "out", "f", "const_1", "%s%d"}
	numbers := []int64{-1, 0, 1, 2, 4, 5, 8, 11, 26, 99, math.MaxInt32, math.MaxInt64, math.MinInt64}
	scalar := func(f protoreflect.FieldDescriptor) protoreflect.Value {
		n := numbers[rng.IntN(len(numbers))]
		switch f.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(words[rng.IntN(len(words))])
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes(make([]byte, rng.IntN(20)))
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(n))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(n)
		}
		return f.Default()
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			list := v.List()
			*places = append(*places, func() {
				i, j := rng.IntN(list.Len()), rng.IntN(list.Len())
				switch rng.IntN(3) {
				case 0:
					list.Append(list.Get(i))
				case 1:
					a, b := list.Get(i), list.Get(j)
					list.Set(i, b)
					list.Set(j, a)
				case 2:
					list.Truncate(i)
				}
			})
			for i := range list.Len() {
				if f.Kind() == protoreflect.MessageKind {
					collect(list.Get(i).Message(), rng, places)
				} else if v := scalar(f); v.IsValid() {
					*places = append(*places, func() {
						if i < list.Len() {
							list.Set(i, v)
						}
					})
				}
			}
		case f.Kind() == protoreflect.MessageKind:
			*places = append(*places, func() { m.Clear(f) })
			collect(v.Message(), rng, places)
		default:
			*places = append(*places, func() { m.Set(f, scalar(f)) }, func() { m.Clear(f) })
		}
		return true
	})
}

// use does with data all that can be done, and holds what is written to be readable.
func use(t testing.TB, data []byte) {
	m, err := onnx.Decode(data)
	if err != nil {
		return
	}
	checked := onnx.Check(m)
	var text bytes.Buffer
	if err := onnx.Fprint(&text, m); err != nil {
		t.Error(err)
	}
	if c, err := onnx.InlineFunctions(m); err == nil {
		_, _ = onnx.Encode(c)
	}
	saved, err := onnx.Encode(m.Clone())
	if err != nil {
		if checked == nil {
			t.Errorf("nothing is wrong, but it cannot be written: %v", err)
		}
		return
	}
	if _, err := onnx.Decode(saved); err != nil {
		t.Errorf("what was written cannot be read: %v", err)
	}
}

// seeds is small models with all that a model can have.
func seeds(t testing.TB) [][]byte {
	var out [][]byte
	for _, m := range []*onnx.Model{countdown(t), weights(t, 8), withFunctions()} {
		data, err := onnx.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return append(out, shipped(t)[:4000])
}
