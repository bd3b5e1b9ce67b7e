package finetune

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// A parameter that only branches and bodies read has no gradient in a batch that does not come to them: PyTorch's is None, and its
// optimizers leave the parameter alone, decay and count of steps included. A gradient of zeros does not tell, since one that was reached may be
// zero too. So the training graph says itself: If and Loop get an output more for whether a run has read the parameter.

// reached adds to m, for each initializer that a run may leave unread, a scalar that tells. Others have none.
func reached(m *onnx.Model) map[string]*onnx.Value {
	e := &reachEdit{top: m.Graph}
	told := map[string]*onnx.Value{}
	for _, v := range slices.Clone(m.Graph.Inits) {
		if !v.Const.DType().IsFloat() {
			continue
		}
		if r := e.in(m.Graph, v); r.by != nil {
			told[v.Name] = r.by
		}
	}
	return told
}

type reachEdit struct {
	top *onnx.Graph
}

// reach is whether a run of a graph reads a value: always, if a scalar of the graph is true, or, with neither, never.
type reach struct {
	always bool
	by     *onnx.Value
}

func (e *reachEdit) in(g *onnx.Graph, v *onnx.Value) reach {
	if slices.Contains(g.Outputs, v) {
		return reach{always: true}
	}
	var within []*onnx.Node
	var layouts []*onnx.Value
	for _, n := range g.Nodes {
		if slices.Contains(n.Inputs, v) {
			if !isLayout(n) {
				return reach{always: true}
			}
			layouts = append(layouts, n.Outputs[0])
		}
		if slices.ContainsFunc(n.Graphs(), func(sub *onnx.Graph) bool { return slices.Contains(sub.Captures(), v) }) {
			within = append(within, n)
		}
	}
	var all []reach
	for _, out := range layouts {
		all = append(all, e.in(g, out))
	}
	for _, n := range within {
		if len(all) > 0 && all[len(all)-1].always {
			break
		}
		switch {
		case onnx.CanonicalDomain(n.Domain) == "" && n.Op == "If":
			all = append(all, e.ofIf(n, v))
		case onnx.CanonicalDomain(n.Domain) == "" && n.Op == "Loop":
			all = append(all, e.ofLoop(n, v))
		default:
			all = append(all, reach{always: true})
		}
	}
	var some reach
	for _, r := range all {
		switch {
		case r.always:
			return r
		case some.by == nil:
			some = r
		case r.by != nil:
			some.by = e.add(g, onnx.NewNode("Or", []*onnx.Value{some.by, r.by}))
		}
	}
	return some
}

// isLayout reports whether n only lays a weight out, as exporters do outside of the graph that reads it.
func isLayout(n *onnx.Node) bool {
	return onnx.CanonicalDomain(n.Domain) == "" && len(n.Outputs) == 1 && n.Outputs[0] != nil &&
		slices.Contains([]string{"Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast"}, n.Op)
}

func (e *reachEdit) ofIf(n *onnx.Node, v *onnx.Value) reach {
	then, other := n.Attr("then_branch").G, n.Attr("else_branch").G
	a, b := e.in(then, v), e.in(other, v)
	if a.always && b.always {
		return a
	}
	then.Outputs = append(then.Outputs, e.value(then, a))
	other.Outputs = append(other.Outputs, e.value(other, b))
	return reach{by: e.output(n, len(n.Outputs))}
}

func (e *reachEdit) ofLoop(n *onnx.Node, v *onnx.Value) reach {
	body := n.Attr("body").G
	if len(n.Inputs) != len(body.Inputs) {
		return reach{always: true}
	}
	states := len(body.Inputs) - 2
	r := e.in(body, v)
	now := e.value(body, r)
	before := &onnx.Value{Name: e.top.FreshName("retune::reached"), Type: boolean()}
	body.Inputs = append(body.Inputs, before)
	after := e.add(body, onnx.NewNode("Or", []*onnx.Value{before, now}))
	body.Outputs = slices.Insert(body.Outputs, 1+states, after)
	n.SetInput(len(n.Inputs), e.top.AddInit(e.top.FreshName("retune::reached"), tensor.Scalar(false)))
	return reach{by: e.output(n, states)}
}

// value is r as a value of g.
func (e *reachEdit) value(g *onnx.Graph, r reach) *onnx.Value {
	n := onnx.NewNode("Constant", nil)
	if r.by != nil { // an output of the graph may not be there twice
		n = onnx.NewNode("Identity", []*onnx.Value{r.by})
	} else {
		n.SetAttr(onnx.TensorAttr("value", tensor.Scalar(r.always)))
	}
	return e.add(g, n)
}

// add puts a node at the end of g and gives it an output.
func (e *reachEdit) add(g *onnx.Graph, n *onnx.Node) *onnx.Value {
	n.Opset = ops.GradOpset
	g.Nodes = append(g.Nodes, n)
	return e.output(n, 0)
}

// output inserts an output of n.
func (e *reachEdit) output(n *onnx.Node, at int) *onnx.Value {
	v := &onnx.Value{Name: e.top.FreshName("retune::reached"), Type: boolean()}
	n.AddOutput(v)
	last := len(n.Outputs) - 1
	copy(n.Outputs[at+1:], n.Outputs[at:last])
	n.Outputs[at] = v
	return v
}

func boolean() *onnx.Type { return &onnx.Type{Elem: tensor.Bool, Shape: []onnx.Dim{}} }
