package convert

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
)

// Extract is the part of m that computes the values named outputs from those named inputs, as a model of its own; without names of either, the
// model's own. Values are those of the main graph. Their types are as declared, or as inferred where the operators are known. Errors: a name
// that the graph has not, an input of m that the outputs need besides, an input that they do not need.
func Extract(m *onnx.Model, inputs, outputs []string) (*onnx.Model, error) {
	types := types(m)
	m = m.Clone()
	g := m.Graph
	if err := g.Sort(); err != nil {
		return nil, err
	}
	values := map[string]*onnx.Value{}
	for v := range g.Values() {
		values[v.Name] = v
	}
	var wrong []error
	find := func(names []string, own []*onnx.Value) (found []*onnx.Value) {
		if names == nil {
			return slices.Clone(own)
		}
		for i, name := range names {
			v := values[name]
			switch {
			case v == nil:
				wrong = append(wrong, fmt.Errorf("the graph has no value %q", name))
			case slices.Contains(names[:i], name):
				wrong = append(wrong, fmt.Errorf("value %q is named twice", name))
			default:
				found = append(found, v)
			}
		}
		return found
	}
	from, to := find(inputs, g.Inputs), find(outputs, g.Outputs)
	for i, v := range from {
		if inputs != nil && slices.Contains(to, v) {
			wrong = append(wrong, fmt.Errorf("value %q is an input and an output", v.Name))
		}
		if slices.Contains(g.Inputs, v) || wrong != nil {
			continue
		}
		cut := &onnx.Value{Name: v.Name, Type: types[v.Name]}
		if cut.Type == nil {
			wrong = append(wrong, fmt.Errorf("the type of value %q is not known", v.Name))
			continue
		}
		v.Name = g.FreshName(v.Name)
		replace(g, v, cut)
		from[i] = cut
	}
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	for _, v := range to {
		if t := types[v.Name]; v.Type == nil {
			v.Type = t
		}
	}
	g.Outputs = to

	needed, reached := g.Upstream(to, nil)
	keep := map[*onnx.Node]bool{}
	for _, n := range needed {
		keep[n] = true
	}
	for _, n := range slices.Backward(slices.Clone(g.Nodes)) {
		if !keep[n] {
			g.Remove(n)
		}
	}
	var missing []string
	for _, v := range g.Inputs {
		if reached[v] && v.Const == nil && !slices.Contains(from, v) {
			missing = append(missing, v.Name)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("the outputs need the inputs %s too", strings.Join(missing, ", "))
	}
	g.Inputs = slices.DeleteFunc(from, func(v *onnx.Value) bool {
		if !reached[v] && inputs != nil {
			wrong = append(wrong, fmt.Errorf("no output needs input %q", v.Name))
		}
		return !reached[v]
	})
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	g.Inits = slices.DeleteFunc(g.Inits, func(v *onnx.Value) bool { return !reached[v] })
	called := map[*onnx.Function]bool{}
	call(m, g, called)
	m.Functions = slices.DeleteFunc(m.Functions, func(f *onnx.Function) bool { return !called[f] })
	return m, onnx.Check(m)
}

// types is what is declared of the values of m's main graph by name, and what is inferred where nothing is.
func types(m *onnx.Model) map[string]*onnx.Type {
	types := map[string]*onnx.Type{}
	if e, err := runtime.Expand(m); err == nil {
		if infos, err := runtime.Infer(e); err == nil {
			for v := range e.Graph.Values() {
				if info, ok := infos[v]; ok {
					types[v.Name] = info.Type()
				}
			}
		}
	}
	for v := range m.Graph.Values() {
		if v.Type != nil {
			types[v.Name] = v.Type
		}
	}
	return types
}

// replace has everything in g and below that reads v, results of subgraphs too, read w.
func replace(g *onnx.Graph, v, w *onnx.Value) {
	g.Walk(func(s *onnx.Graph) { s.ReplaceUses(v, w) })
}

// call notes which functions of m the nodes of g call, and those in turn.
func call(m *onnx.Model, g *onnx.Graph, called map[*onnx.Function]bool) {
	g.Walk(func(s *onnx.Graph) {
		for _, n := range s.Nodes {
			if f := m.Function(n.Domain, n.Op, n.Overload); f != nil && !called[f] {
				called[f] = true
				call(m, f.Body, called)
			}
		}
	})
}
