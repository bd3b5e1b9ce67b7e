package onnxgo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	onnxgo "github.com/owulveryck/onnx-go"
	gorgonia "gorgonia.org/tensor"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// program is a graph that is compiled for inputs of some element types.
type program struct {
	session *runtime.Session
	inputs  []*Node
	types   map[*Node]tensor.DType     // of inputs
	results map[string]gorgonia.Tensor // of the last run
}

// Run computes the outputs of the model from the values of its inputs. Operators that are not supported are one
// *ErrNotImplemented of onnx-go, which names them all.
func (g *Graph) Run() error { return g.RunContext(context.Background()) }

// RunContext is [Graph.Run] that ends early with ctx.
func (g *Graph) RunContext(ctx context.Context) error {
	if g.failed != nil {
		return g.failed
	}
	if g.program == nil {
		p, err := g.compile()
		if err != nil {
			return err
		}
		g.program = p
	}
	p := g.program
	ins := map[string]tensor.Value{}
	for _, n := range p.inputs {
		t, err := n.input()
		if err != nil {
			return fmt.Errorf("onnxgo: input %q: %w", n.name, err)
		}
		if d := p.types[n]; t.DType() != d {
			return fmt.Errorf("onnxgo: input %q: want element type %s, got %s", n.name, d, t.DType())
		}
		ins[n.name] = t
	}
	outs, err := p.session.Run(ctx, ins)
	if err != nil {
		return fmt.Errorf("onnxgo: %w", err)
	}
	results := map[string]gorgonia.Tensor{}
	for name, v := range outs {
		t, ok := v.(*tensor.Tensor)
		if !ok {
			return fmt.Errorf("onnxgo: output %q is a %s, which onnx-go has no type for", name, v.Kind())
		}
		if results[name], err = toGorgonia(t); err != nil {
			return fmt.Errorf("onnxgo: output %q: %w", name, err)
		}
	}
	p.results, g.ran = results, true
	return nil
}

// input is the node's value in the type that the file declares, if it declares one.
func (n *Node) input() (*tensor.Tensor, error) {
	t, err := fromGorgonia(n.value)
	if err != nil || n.declared == 0 || n.dtype == t.DType() {
		return t, err
	}
	same, err := tensor.Convert(t, n.dtype, false)
	if err != nil {
		return nil, err
	}
	if back, err := tensor.Convert(same, t.DType(), false); err != nil {
		return nil, err
	} else if _, _, err := tensor.Compare(back, t, 0, 0); err != nil {
		return nil, fmt.Errorf("want element type %s, got %s, which does not fit", n.dtype, t)
	}
	return same, nil
}

// computed is the value of that name, of the last run or of another.
func (g *Graph) computed(name string) gorgonia.Tensor {
	if g.program != nil && g.program.results[name] != nil {
		return g.program.results[name]
	}
	if !g.wanted[name] {
		g.wanted[name] = true
		g.Close()
	}
	if g.Run() != nil {
		return nil
	}
	return g.program.results[name]
}

// sources are the nodes that hold the value of names that no operation computes: of one name, the one that was given a
// value, or the one that was declared most.
func (g *Graph) sources(computed map[string]bool) map[string]*Node {
	out := map[string]*Node{}
	for _, n := range g.nodes {
		if n.name == "" || computed[n.name] {
			continue
		}
		if s := out[n.name]; s == nil || s.given < n.given || s.given == n.given && s.declared < n.declared {
			out[n.name] = n
		}
	}
	return out
}

func (g *Graph) compile() (*program, error) {
	if len(g.operations) == 0 {
		return nil, errors.New("onnxgo: the graph has no operation")
	}
	computed, read := map[string]bool{}, map[string]bool{}
	for _, o := range g.operations {
		for _, n := range o.outputs {
			if n != nil {
				computed[n.name] = true
			}
		}
		for _, n := range o.inputs {
			read[n.name] = true
		}
	}
	// What the file declares becomes nodes in the order of inputs, values, outputs, and initializers that are none of those. So a node that
	// has been set once is an initializer if it comes after all that are computed; before, it has a placeholder.
	last := int64(-1)
	for _, n := range g.nodes {
		if n.op >= 0 && n.declared > 0 {
			last = n.id
		}
	}
	p := &program{types: map[*Node]tensor.DType{}}
	m := &onnx.Model{IRVersion: 8, Opsets: []onnx.Opset{{Version: baseOpset}}, Graph: &onnx.Graph{Name: "onnx-go"}}
	values := map[string]*onnx.Value{}
	sources := g.sources(computed)
	var missing []string
	for _, n := range g.nodes {
		if sources[n.name] != n || !read[n.name] {
			continue
		}
		v := &onnx.Value{Name: n.name}
		switch {
		case n.given < 2 && (n.declared > 1 || n.declared == 1 && n.id > last): // else it changes from run to run
			t, err := fromGorgonia(n.value)
			if err != nil {
				return nil, fmt.Errorf("onnxgo: initializer %q: %w", n.name, err)
			}
			v.Const, n.constant = t, true
			m.Graph.Inits = append(m.Graph.Inits, v)
		case n.given > 0:
			t, err := n.input()
			if err != nil {
				return nil, fmt.Errorf("onnxgo: input %q: %w", n.name, err)
			}
			v.Type = &onnx.Type{Elem: t.DType()}
			m.Graph.Inputs = append(m.Graph.Inputs, v)
			p.inputs = append(p.inputs, n)
			p.types[n] = t.DType()
		case n.declared == 0 && strings.HasSuffix(n.name, "/input"): // onnx-go's stand-in for the input of an operator without one
			continue
		default:
			missing = append(missing, fmt.Sprintf("%q", n.name))
		}
		values[n.name] = v
	}
	if missing != nil {
		return nil, fmt.Errorf("onnxgo: no value is set for %s", strings.Join(missing, ", "))
	}
	for _, o := range g.operations {
		for _, n := range o.outputs {
			if n != nil {
				values[n.name] = &onnx.Value{Name: n.name}
			}
		}
	}
	var unsupported []string
	for _, o := range g.operations {
		n, err := o.node(values)
		if err != nil {
			return nil, err
		}
		if !settle(n) && !slices.Contains(unsupported, o.Name) {
			unsupported = append(unsupported, o.Name)
		}
		m.Graph.Nodes = append(m.Graph.Nodes, n)
		for _, v := range n.Outputs {
			if v != nil && (!read[v.Name] || g.wanted[v.Name]) {
				m.Graph.Outputs = append(m.Graph.Outputs, v)
			}
		}
	}
	if unsupported != nil {
		return nil, &onnxgo.ErrNotImplemented{Operator: strings.Join(unsupported, ", "), Message: "not supported by Retune"}
	}
	if err := onnx.Check(m); err != nil {
		return nil, fmt.Errorf("onnxgo: %w", err)
	}
	var err error
	if p.session, err = runtime.NewSession(m, g.options...); err != nil {
		return nil, fmt.Errorf("onnxgo: %w", err)
	}
	return p, nil
}

// node is the operation as a node over values; nodes that have none are inputs and outputs that are left out.
func (o *operation) node(values map[string]*onnx.Value) (*onnx.Node, error) {
	n := &onnx.Node{Op: o.Name}
	for i, in := range o.inputs {
		if v := values[in.name]; v != nil {
			n.SetInput(i, v)
		}
	}
	for i, out := range o.outputs {
		if out == nil {
			continue
		}
		n.SetOutput(i, values[out.name])
		if n.Name == "" {
			n.Name = out.name
		}
	}
	for name, a := range o.Attributes {
		attr, err := attribute(name, a)
		if err != nil {
			return nil, fmt.Errorf("onnxgo: operator %s, which computes %q: %w", o.Name, n.Name, err)
		}
		n.Attrs = append(n.Attrs, attr)
	}
	slices.SortFunc(n.Attrs, func(a, b *onnx.Attribute) int { return strings.Compare(a.Name, b.Name) })
	return n, nil
}

func attribute(name string, v any) (*onnx.Attribute, error) {
	switch v := v.(type) {
	case float32:
		return onnx.FloatAttr(name, v), nil
	case int64:
		return onnx.IntAttr(name, v), nil
	case string:
		return onnx.StringAttr(name, v), nil
	case []float32:
		return onnx.FloatsAttr(name, v...), nil
	case []int64:
		return onnx.IntsAttr(name, v...), nil
	case []string:
		return onnx.StringsAttr(name, v...), nil
	case gorgonia.Tensor:
		t, err := fromGorgonia(v)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		return onnx.TensorAttr(name, t), nil
	}
	return nil, fmt.Errorf("attribute %s has no type that onnx-go passes on", name)
}
