package onnx

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/retune-go/retune/tensor"
)

// String is the type in ONNX's textual syntax: "float[batch,10]", "seq(int64[])". As there, a type
// without brackets is a scalar, and empty brackets say that the rank is unknown.
func (t *Type) String() string {
	if t == nil {
		return "?"
	}
	switch t.Kind {
	case SequenceType:
		return "seq(" + t.Of.String() + ")"
	case OptionalType:
		return "optional(" + t.Of.String() + ")"
	case MapType:
		return "map(" + t.Elem.String() + ", " + t.Of.String() + ")"
	}
	s := t.Elem.String()
	switch {
	case t.Shape == nil:
		s += "[]"
	case len(t.Shape) > 0:
		dims := make([]string, len(t.Shape))
		for i, d := range t.Shape {
			switch {
			case d.Param != "":
				dims[i] = d.Param
			case d.Value >= 0:
				dims[i] = strconv.FormatInt(d.Value, 10)
			default:
				dims[i] = "?"
			}
		}
		s += "[" + strings.Join(dims, ",") + "]"
	}
	if t.Kind == SparseTensorType {
		s = "sparse_tensor(" + s + ")"
	}
	return s
}

// Fprint writes m as text, in the manner of ONNX's textual syntax. Of tensors, lists and strings longer than a
// few elements the beginning is shown.
func Fprint(w io.Writer, m *Model) error {
	p := &printer{w: bufio.NewWriter(w)}
	p.line("<")
	p.line("  ir_version: %d,", m.IRVersion)
	p.line("  opset_import: %s", opsetText(m.Opsets))
	for _, f := range []struct{ key, value string }{{"producer_name", m.ProducerName}, {"producer_version", m.ProducerVersion}, {"domain", m.Domain}, {"doc_string", m.Doc}} {
		if f.value != "" {
			p.line("  %s: %s", f.key, shortText(f.value))
		}
	}
	if m.ModelVersion != 0 {
		p.line("  model_version: %d", m.ModelVersion)
	}
	if len(m.Metadata) > 0 {
		var props []string
		for _, kv := range m.Metadata {
			props = append(props, strconv.Quote(kv.Key)+": "+shortText(kv.Value))
		}
		p.line("  metadata_props: [%s]", strings.Join(props, ", "))
	}
	p.line(">")
	if m.Graph != nil {
		p.graph(m.Graph, 0)
		p.line("")
	}
	for _, f := range m.Functions {
		p.function(f)
	}
	return p.w.Flush()
}

type printer struct{ w *bufio.Writer }

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.w, format, args...)
	p.w.WriteByte('\n')
}

func opsetText(opsets []Opset) string {
	var out []string
	for _, o := range opsets {
		out = append(out, fmt.Sprintf("%q : %d", o.Domain, o.Version))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// most is how many elements of a list are shown.
const most = 8

func shortText(s string) string {
	if len(s) > 16*most {
		return strconv.Quote(s[:16*most]) + "..."
	}
	return strconv.Quote(s)
}

// name is as it is where it is a word, in quotes elsewhere.
func name(s string) string {
	for _, r := range s {
		if r <= ' ' || strings.ContainsRune("\"'()[]{}<>,=:", r) || r == 0x7f {
			return strconv.Quote(s)
		}
	}
	return s
}

func typed(v *Value) string {
	if v == nil {
		return "?"
	}
	if v.Type == nil {
		return name(v.Name)
	}
	return v.Type.String() + " " + name(v.Name)
}

func list[T any](vs []T, f func(T) string) string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = f(v)
	}
	return strings.Join(out, ", ")
}

func short[T any](vs []T, f func(T) string) string {
	if len(vs) > most {
		return list(vs[:most], f) + fmt.Sprintf(", ... %d more", len(vs)-most)
	}
	return list(vs, f)
}

func constText(t *tensor.Tensor) string {
	if t == nil {
		return "?"
	}
	at := make([]int, t.Len())
	if len(at) > most {
		at = at[:most]
	}
	for i := range at {
		at[i] = i
	}
	text := func(i int) string {
		switch t.DType() {
		case tensor.String:
			return shortText(tensor.Data[string](t)[i])
		case tensor.Complex64:
			return fmt.Sprint(tensor.Data[complex64](t)[i])
		case tensor.Complex128:
			return fmt.Sprint(tensor.Data[complex128](t)[i])
		case tensor.Int64:
			return strconv.FormatInt(tensor.Data[int64](t)[i], 10)
		case tensor.Uint64:
			return strconv.FormatUint(tensor.Data[uint64](t)[i], 10)
		case tensor.Float64:
			return strconv.FormatFloat(tensor.Data[float64](t)[i], 'g', -1, 64)
		}
		if !t.DType().IsFloat() {
			return strconv.FormatFloat(tensor.Float64At(t, i), 'f', -1, 64)
		}
		return strconv.FormatFloat(tensor.Float64At(t, i), 'g', -1, 32)
	}
	if t.Len() > most {
		return "{" + list(at, text) + fmt.Sprintf(", ... %d more}", t.Len()-most)
	}
	return "{" + list(at, text) + "}"
}

func (p *printer) indent(depth int) { p.w.WriteString(strings.Repeat("  ", depth)) }

func (p *printer) graph(g *Graph, depth int) {
	fmt.Fprintf(p.w, "%s (%s) => (%s)", name(g.Name), list(g.Inputs, typed), list(g.Outputs, typed))
	if len(g.Inits) > 0 {
		p.line("")
		p.indent(depth)
		p.w.WriteString("<")
		for i, v := range g.Inits {
			if i > 0 {
				p.line(",")
				p.indent(depth)
				p.w.WriteString(" ")
			}
			t := v.Type
			if v.Const != nil {
				t = TypeOfTensor(v.Const)
			}
			fmt.Fprintf(p.w, "%s %s = %s", t, name(v.Name), constText(v.Const))
		}
		p.w.WriteString(">")
	}
	p.line("")
	p.body(g, depth)
}

func (p *printer) body(g *Graph, depth int) {
	p.indent(depth)
	p.line("{")
	for _, n := range g.Nodes {
		p.node(n, depth+1)
	}
	p.indent(depth)
	p.w.WriteString("}")
}

func (p *printer) node(n *Node, depth int) {
	p.indent(depth)
	if n.Name != "" {
		fmt.Fprintf(p.w, "[%s] ", name(n.Name))
	}
	value := func(v *Value) string {
		if v == nil {
			return `""`
		}
		return name(v.Name)
	}
	if len(n.Outputs) > 0 {
		p.w.WriteString(list(n.Outputs, value) + " = ")
	}
	if n.Domain != "" {
		p.w.WriteString(n.Domain + ".")
	}
	p.w.WriteString(name(n.Op))
	if n.Overload != "" {
		p.w.WriteString(":" + n.Overload)
	}
	if len(n.Attrs) > 0 {
		p.w.WriteString(" <")
		for i, a := range n.Attrs {
			if i > 0 {
				p.w.WriteString(", ")
			}
			p.attribute(a, depth)
		}
		p.w.WriteString(">")
	}
	p.line(" (%s)", list(n.Inputs, value))
}

func (p *printer) attribute(a *Attribute, depth int) {
	fmt.Fprintf(p.w, "%s: %s = ", name(a.Name), a.Type)
	if a.Ref != "" {
		p.w.WriteString("@" + a.Ref)
		return
	}
	constant := func(t *tensor.Tensor) string {
		if t == nil {
			return "?"
		}
		return TypeOfTensor(t).String() + " " + constText(t)
	}
	number := func(f float32) string { return strconv.FormatFloat(float64(f), 'g', -1, 32) }
	switch a.Type {
	case AttrFloat:
		p.w.WriteString(number(a.F))
	case AttrInt:
		fmt.Fprint(p.w, a.I)
	case AttrString:
		p.w.WriteString(shortText(string(a.S)))
	case AttrTensor, AttrSparseTensor:
		p.w.WriteString(constant(a.T))
	case AttrFloats:
		p.w.WriteString("[" + short(a.Floats, number) + "]")
	case AttrInts:
		p.w.WriteString("[" + short(a.Ints, func(i int64) string { return strconv.FormatInt(i, 10) }) + "]")
	case AttrStrings:
		p.w.WriteString("[" + short(a.Strings, func(s []byte) string { return shortText(string(s)) }) + "]")
	case AttrTensors, AttrSparseTensors:
		p.w.WriteString("[" + short(a.Tensors, constant) + "]")
	case AttrTypeProto:
		p.w.WriteString(a.TP.String())
	case AttrTypeProtos:
		p.w.WriteString("[" + short(a.Types, (*Type).String) + "]")
	case AttrGraph, AttrGraphs:
		graphs := a.Graphs
		if a.G != nil {
			graphs = []*Graph{a.G}
		}
		for i, g := range graphs {
			if i > 0 {
				p.w.WriteString(", ")
			}
			p.graph(g, depth+1)
		}
	}
}

func (p *printer) function(f *Function) {
	p.line("<")
	p.line("  domain: %q,", f.Domain)
	if f.Overload != "" {
		p.line("  overload: %q,", f.Overload)
	}
	p.line("  opset_import: %s", opsetText(f.Opsets))
	p.line(">")
	p.w.WriteString(name(f.Name))
	if len(f.Attributes)+len(f.AttributeDefaults) > 0 {
		p.w.WriteString(" <" + list(f.Attributes, name))
		for i, a := range f.AttributeDefaults {
			if i > 0 || len(f.Attributes) > 0 {
				p.w.WriteString(", ")
			}
			p.attribute(a, 1)
		}
		p.w.WriteString(">")
	}
	if f.Body == nil {
		return
	}
	p.line(" (%s) => (%s)", list(f.Body.Inputs, typed), list(f.Body.Outputs, typed))
	p.body(f.Body, 0)
	p.line("")
}
