package convert

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Diff tells in what b differs from a, one line each: "what: a's → b's", or what is in one of them alone. Nodes are the same if their first outputs have one
// name, inputs, initializers and functions if they have. The order of nodes and initializers is not looked at, nor whether two graphs that
// are written otherwise compute the same.
func Diff(a, b *onnx.Model) []string {
	d := &differ{}
	d.text("ir_version", fmt.Sprint(a.IRVersion), fmt.Sprint(b.IRVersion))
	d.text("producer_name", a.ProducerName, b.ProducerName)
	d.text("producer_version", a.ProducerVersion, b.ProducerVersion)
	d.text("domain", a.Domain, b.Domain)
	d.text("model_version", fmt.Sprint(a.ModelVersion), fmt.Sprint(b.ModelVersion))
	d.text("doc_string", a.Doc, b.Doc)
	d.opsets("opset", a.Opsets, b.Opsets)
	d.props("metadata", a.Metadata, b.Metadata)
	d.graph("", a.Graph, b.Graph)
	name := func(f *onnx.Function) string {
		return strings.Trim(f.Domain+"."+f.Name+":"+f.Overload, ".:")
	}
	pair(d, "function", a.Functions, b.Functions, name, func(what string, f, g *onnx.Function) {
		d.text(what+": doc_string", f.Doc, g.Doc)
		d.opsets(what+": opset", f.Opsets, g.Opsets)
		d.text(what+": attributes", strings.Join(f.Attributes, ", "), strings.Join(g.Attributes, ", "))
		d.attributes(what, f.AttributeDefaults, g.AttributeDefaults)
		d.props(what+": metadata", f.Metadata, g.Metadata)
		d.graph(what+": ", f.Body, g.Body)
	})
	return d.lines
}

type differ struct{ lines []string }

func (d *differ) line(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *differ) text(what, a, b string) {
	if a != b {
		x, y := short(a, b)
		d.line("%s: %s → %s", what, x, y)
	}
}

// short is a and b, which differ, cut where they are long, so that their first difference is seen.
func short(a, b string) (string, string) {
	const before, most = 20, 120
	x, y := []rune(a), []rune(b)
	same := 0
	for same < len(x) && same < len(y) && x[same] == y[same] {
		same++
	}
	cut := func(r []rune) string {
		if len(r) == 0 {
			return "nothing"
		}
		s, from := "", 0
		if len(r) > most && same > before {
			s, from = "…", same-before
		}
		if len(r)-from > most {
			return s + string(r[from:from+most]) + "…"
		}
		return s + string(r[from:])
	}
	return cut(x), cut(y)
}

// pair calls both for what is in a and b under one name, in a's order, and tells what is in one of them alone.
func pair[T any](d *differ, kind string, a, b []T, name func(T) string, both func(what string, x, y T)) {
	rest := make(map[string]T, len(b))
	for _, y := range b {
		rest[name(y)] = y
	}
	seen := make(map[string]bool, len(a))
	for _, x := range a {
		n := name(x)
		what := fmt.Sprintf("%s %q", kind, n)
		if y, ok := rest[n]; ok {
			both(what, x, y)
		} else {
			d.line("%s: in the first alone", what)
		}
		seen[n] = true
	}
	for _, y := range b {
		if n := name(y); !seen[n] {
			d.line("%s %q: in the second alone", kind, n)
		}
	}
}

func (d *differ) opsets(kind string, a, b []onnx.Opset) {
	pair(d, kind, a, b, func(o onnx.Opset) string {
		if o := onnx.CanonicalDomain(o.Domain); o != "" {
			return o
		}
		return "ai.onnx"
	}, func(what string, x, y onnx.Opset) { d.text(what, fmt.Sprint(x.Version), fmt.Sprint(y.Version)) })
}

func (d *differ) props(kind string, a, b []onnx.Prop) {
	pair(d, kind, a, b, func(p onnx.Prop) string { return p.Key }, func(what string, x, y onnx.Prop) { d.text(what, x.Value, y.Value) })
}

// graph compares two graphs; within says which, for the beginning of lines.
func (d *differ) graph(within string, a, b *onnx.Graph) {
	if a == nil || b == nil {
		if a != b {
			d.line("%sgraph: in one alone", within)
		}
		return
	}
	d.text(within+"graph name", a.Name, b.Name)
	d.text(within+"graph doc_string", a.Doc, b.Doc)
	d.props(within+"graph metadata", a.Metadata, b.Metadata)
	name := func(v *onnx.Value) string { return v.Name }
	value := func(what string, v, w *onnx.Value) {
		d.text(what, v.Type.String(), w.Type.String())
		d.text(what+": doc_string", v.Doc, w.Doc)
	}
	pair(d, within+"input", a.Inputs, b.Inputs, name, value)
	pair(d, within+"output", a.Outputs, b.Outputs, name, value)
	d.order(within+"inputs", a.Inputs, b.Inputs)
	d.order(within+"outputs", a.Outputs, b.Outputs)
	pair(d, within+"initializer", a.Inits, b.Inits, name, func(what string, v, w *onnx.Value) { d.tensor(what, v.Const, w.Const) })
	pair(d, within+"node", a.Nodes, b.Nodes, func(n *onnx.Node) string {
		for _, v := range n.Outputs {
			if v != nil {
				return v.Name
			}
		}
		return n.Name
	}, d.node)
}

// order tells where the same names stand in another order.
func (d *differ) order(what string, a, b []*onnx.Value) {
	x, y := names(a), names(b)
	if slices.Equal(x, y) {
		return
	}
	s, t := slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y))
	if slices.Equal(s, t) {
		d.text(what, strings.Join(x, ", "), strings.Join(y, ", "))
	}
}

// names is the values' names, empty where one is left out.
func names(vs []*onnx.Value) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		if v != nil {
			out[i] = v.Name
		}
	}
	return out
}

func (d *differ) tensor(what string, t, u *tensor.Tensor) {
	if t == nil || u == nil {
		if t != u {
			d.line("%s: in one alone", what)
		}
		return
	}
	if t.DType() != u.DType() || !slices.Equal(t.Shape(), u.Shape()) {
		d.line("%s: %s → %s", what, t, u)
		return
	}
	if t.DType() != tensor.String && bytes.Equal(t.Bytes(), u.Bytes()) {
		return
	}
	if _, _, err := tensor.Compare(u, t, 0, 0); err != nil {
		d.line("%s: %v", what, err)
	}
}

func (d *differ) node(what string, n, m *onnx.Node) {
	op := func(n *onnx.Node) string {
		return strings.Trim(onnx.CanonicalDomain(n.Domain)+"."+n.Op+":"+n.Overload, ".:")
	}
	what += fmt.Sprintf(" (%s)", n.Op)
	d.text(what+": operator", op(n), op(m))
	d.text(what+": name", n.Name, m.Name)
	d.text(what+": doc_string", n.Doc, m.Doc)
	d.text(what+": inputs", strings.Join(names(n.Inputs), ", "), strings.Join(names(m.Inputs), ", "))
	d.text(what+": outputs", strings.Join(names(n.Outputs), ", "), strings.Join(names(m.Outputs), ", "))
	for i, v := range n.Outputs {
		if w := m.Output(i); v != nil && w != nil {
			d.text(fmt.Sprintf("%s: type of %q", what, v.Name), v.Type.String(), w.Type.String())
		}
	}
	d.attributes(what, n.Attrs, m.Attrs)
	d.props(what+": metadata", n.Metadata, m.Metadata)
}

func (d *differ) attributes(what string, a, b []*onnx.Attribute) {
	pair(d, what+": attribute", a, b, func(a *onnx.Attribute) string { return a.Name }, func(what string, x, y *onnx.Attribute) {
		if x.Type != y.Type || len(x.Tensors) != len(y.Tensors) || len(x.Graphs) != len(y.Graphs) {
			d.line("%s: %s → %s", what, x.Type, y.Type)
			return
		}
		d.text(what, plain(x), plain(y))
		d.tensor(what, x.T, y.T)
		for i := range x.Tensors {
			d.tensor(what, x.Tensors[i], y.Tensors[i])
		}
		d.graph(what+": ", x.G, y.G)
		for i := range x.Graphs {
			d.graph(fmt.Sprintf("%s, %d: ", what, i), x.Graphs[i], y.Graphs[i])
		}
	})
}

// plain is an attribute's value, but for tensors and graphs, as text.
func plain(a *onnx.Attribute) string {
	if a.Ref != "" {
		return "@" + a.Ref
	}
	switch a.Type {
	case onnx.AttrInt:
		return fmt.Sprint(a.I)
	case onnx.AttrFloat:
		return fmt.Sprint(a.F)
	case onnx.AttrString:
		return fmt.Sprintf("%q", a.S)
	case onnx.AttrInts:
		return fmt.Sprint(a.Ints)
	case onnx.AttrFloats:
		return fmt.Sprint(a.Floats)
	case onnx.AttrStrings:
		return fmt.Sprintf("%q", a.Strings)
	case onnx.AttrTypeProto:
		return a.TP.String()
	case onnx.AttrTypeProtos:
		var all []string
		for _, t := range a.Types {
			all = append(all, t.String())
		}
		return strings.Join(all, ", ")
	}
	return ""
}
