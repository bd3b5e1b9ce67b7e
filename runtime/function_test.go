package runtime_test

import (
	"context"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// function is a model-local function of domain "f" whose body build writes.
func function(name, overload string, build func(b *onnx.Builder), attrs ...*onnx.Attribute) *onnx.Function {
	b := onnx.NewBuilder(name, 17)
	build(b)
	f := &onnx.Function{Name: name, Domain: "f", Overload: overload, Opsets: []onnx.Opset{{Version: 17}, {Domain: "f", Version: 1}}, Body: b.Graph()}
	for _, a := range attrs {
		if a.Type == 0 {
			f.Attributes = append(f.Attributes, a.Name)
		} else {
			f.AttributeDefaults = append(f.AttributeDefaults, a)
		}
	}
	return f
}

// call adds a node that calls function name.
func call(b *onnx.Builder, name, overload string, x *onnx.Value, as string, attrs ...*onnx.Attribute) *onnx.Value {
	n := onnx.NewNode(name, []*onnx.Value{x}, as)
	n.Domain, n.Overload, n.Attrs = "f", overload, attrs
	return b.Add(n)[0]
}

func ref(name string, typ onnx.AttrType, to string) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: typ, Ref: to}
}

// Attributes by reference and by default, overloads, calls from functions and from subgraphs, in numbers.
func TestFunctionsRun(t *testing.T) {
	unary := func(last func(b *onnx.Builder, x *onnx.Value) *onnx.Value) func(b *onnx.Builder) {
		return func(b *onnx.Builder) { b.Output("out", last(b, b.Input("in", tensor.Float32)), tensor.Float32) }
	}
	scale := func(op string) func(b *onnx.Builder) {
		return unary(func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Op(op, x, b.Node("Constant", nil, ref("value_float", onnx.AttrFloat, "by")))
		})
	}
	functions := []*onnx.Function{
		function("scale", "", scale("Mul"), onnx.FloatAttr("by", 2)),
		function("scale", "shift", scale("Add"), &onnx.Attribute{Name: "by"}),
		// (in · by) + by, by way of both
		function("affine", "", unary(func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return call(b, "scale", "shift", call(b, "scale", "", x, "scaled", ref("by", onnx.AttrFloat, "k")), "shifted", ref("by", onnx.AttrFloat, "k"))
		}), onnx.FloatAttr("k", 10)),
		// either one or the other, the call in a branch
		function("choose", "", unary(func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			yes, no := b.Sub("yes"), b.Sub("no")
			yes.Output("a", call(yes, "affine", "", x, "yes_out"), tensor.Float32)
			no.Output("b", call(no, "scale", "", x, "no_out", ref("by", onnx.AttrFloat, "factor")), tensor.Float32)
			zero := b.Node("Constant", nil, onnx.FloatAttr("value_float", 0))
			return b.Node("If", []*onnx.Value{b.Op("Greater", x, zero)}, onnx.GraphAttr("then_branch", yes.Graph()), onnx.GraphAttr("else_branch", no.Graph()))
		}), &onnx.Attribute{Name: "factor"}),
	}
	b := onnx.NewBuilder("functions", 21)
	b.Import("f", 1)
	x := b.Input("x", tensor.Float32)
	b.Output("default", call(b, "scale", "", x, "v1"), tensor.Float32)
	b.Output("given", call(b, "scale", "", x, "v2", onnx.FloatAttr("by", 3)), tensor.Float32)
	b.Output("affine", call(b, "affine", "", x, "v3", onnx.FloatAttr("k", 5)), tensor.Float32)
	b.Output("choice", call(b, "choose", "", x, "v4", onnx.FloatAttr("factor", 7)), tensor.Float32)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	m.Functions = functions
	file, err := onnx.Encode(m) // and back: what the file says is what counts
	if err != nil {
		t.Fatal(err)
	}
	if m, err = onnx.Decode(file); err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	s, err := runtime.NewSession(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct {
		x    float32
		want map[string]float32
	}{
		{1, map[string]float32{"default": 2, "given": 3, "affine": 10, "choice": 20}},
		{-1, map[string]float32{"default": -2, "given": -3, "affine": 0, "choice": -7}},
	} {
		out, err := s.Run(context.Background(), map[string]tensor.Value{"x": tensor.Scalar(c.x)})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range c.want {
			if got := tensor.Data[float32](out[name].(*tensor.Tensor))[0]; got != want {
				t.Errorf("%s of %v is %v, want %v", name, c.x, got, want)
			}
		}
	}
}
