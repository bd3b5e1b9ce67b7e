package runtime

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// trainingDomain is the domain of the standard's operator Gradient.
const trainingDomain = "ai.onnx.preview.training"

// expandGradients puts the nodes that compute a gradient in the place of each Gradient node of m's top graph, in a copy of m. A Gradient
// node names values of its own graph, so it is no operator that a kernel could stand for.
func expandGradients(m *onnx.Model) (*onnx.Model, error) {
	isGradient := func(n *onnx.Node) bool { return n.Domain == trainingDomain && n.Op == "Gradient" }
	if m.OpsetVersion(trainingDomain) != 1 || !slices.ContainsFunc(m.Graph.Nodes, isGradient) {
		return m, nil
	}
	m = m.Clone()
	for {
		// A gradient of a gradient comes after the inner one. No edge says so: the node names what it differentiates.
		var next *onnx.Node
		left := false
		for _, n := range m.Graph.Nodes {
			if isGradient(n) {
				left = true
				if !slices.ContainsFunc(upstream(m.Graph, n.Str("y", ""), nil), isGradient) {
					next = n
					break
				}
			}
		}
		switch {
		case !left:
			return m, nil
		case next == nil:
			return nil, fmt.Errorf("the Gradient nodes differentiate what hangs on their own outputs")
		}
		if err := expandGradient(m, next); err != nil {
			return nil, ops.Errorf(next, "%w", err)
		}
	}
}

// upstream is the nodes of graph that the value of that name hangs on, in order; not those that it hangs on by way of what is given alone.
func upstream(graph *onnx.Graph, name string, given []*onnx.Value) []*onnx.Node {
	var values []*onnx.Value
	for v := range graph.Values() {
		if v.Name == name {
			values = append(values, v)
		}
	}
	nodes, _ := graph.Upstream(values, given)
	return nodes
}

func expandGradient(m *onnx.Model, n *onnx.Node) error {
	values := map[string]*onnx.Value{}
	for v := range m.Graph.Values() {
		values[v.Name] = v
	}
	strs := func(name string) (out []string) {
		if a := n.Attr(name); a != nil {
			for _, s := range a.Strings {
				out = append(out, string(s))
			}
		}
		return out
	}
	xs := strs("xs")
	y := values[n.Str("y", "")]
	if y == nil {
		return fmt.Errorf("attribute y: there is no value %q", n.Str("y", ""))
	}
	names := append(slices.Clone(xs), strs("zs")...)
	if len(names) != len(n.Inputs) || len(xs) != len(n.Outputs) {
		return fmt.Errorf("%d inputs and %d outputs for %d names in xs and %d in zs", len(n.Inputs), len(n.Outputs), len(xs), len(names)-len(xs))
	}
	var given []*onnx.Value // what stands for itself, whatever it hangs on
	own := true
	for i, name := range names {
		switch {
		case values[name] == nil:
			return fmt.Errorf("attributes xs and zs: there is no value %q", name)
		case slices.Contains(given, values[name]):
			return fmt.Errorf("attributes xs and zs: there is %q twice", name)
		case n.Inputs[i] == nil:
			return fmt.Errorf("input %d, the value of %q, is left out", i, name)
		}
		given = append(given, values[name])
		own = own && n.Inputs[i] == values[name]
	}
	if !own { // the graph once more, of the values that are given
		graph := &onnx.Graph{Name: m.Graph.Name, Inputs: given, Nodes: upstream(m.Graph, y.Name, given)}
		prefix := m.Graph.FreshName(n.Op) + "/"
		var args []*onnx.Value
		for i, v := range n.Inputs { // one may be given for several
			same := onnx.NewNode("Identity", []*onnx.Value{v}, prefix+names[i])
			same.Name, same.Opset = same.Outputs[0].Name, ops.GradOpset
			m.Graph.Nodes = append(m.Graph.Nodes, same)
			args = append(args, same.Outputs[0])
		}
		stands := graph.CopyInto(m.Graph, prefix+"of/", args)
		if y = stands[y]; y == nil {
			return fmt.Errorf("%q hangs on none of xs and zs", n.Str("y", ""))
		}
		given = args
	}

	// The graph of what y hangs on is all that is differentiated, as far as to what is given.
	part := &onnx.Graph{Name: m.Graph.Name, Inputs: m.Graph.Inputs, Inits: slices.Clone(m.Graph.Inits), Outputs: []*onnx.Value{y}, Nodes: upstream(m.Graph, y.Name, nil)}
	path := &onnx.Graph{Name: m.Graph.Name, Nodes: upstream(m.Graph, y.Name, given)}
	for _, node := range path.Nodes {
		for _, v := range node.Outputs {
			if slices.Contains(given, v) {
				return fmt.Errorf("%q is differentiated by as a value of its own, but another output of node %q that makes it is needed", v.Name, node.Name)
			}
		}
	}
	before := len(part.Nodes)
	infos, err := Infer(&onnx.Model{IRVersion: m.IRVersion, Opsets: m.Opsets, Graph: part})
	if err != nil {
		return err
	}
	for _, x := range given { // y need not hang on all of them
		if _, ok := infos[x]; !ok {
			infos[x] = ops.InfoOfType(x.Type)
		}
	}
	g := ops.NewGrad(m, infos)
	g.Graph = part
	if !g.Info(y).DType.IsFloat() {
		return fmt.Errorf("%q is no floating-point tensor", y.Name)
	}
	seed := g.ExpandTo(g.Like(y, 1), y)
	grads, err := g.Backward(path, map[*onnx.Value][]*onnx.Value{y: {seed}}, given[:len(xs)])
	if err != nil {
		return err
	}
	for i, out := range slices.Clone(n.Outputs) {
		if out == nil {
			continue
		}
		d := grads[given[i]]
		if d == nil {
			d = g.Zeros(given[i])
		}
		if err := g.Err(); err != nil {
			return err
		}
		same := onnx.NewNode("Identity", []*onnx.Value{d})
		same.Name, same.Opset = out.Name, ops.GradOpset
		n.SetOutput(i, nil)
		same.AddOutput(out)
		part.Nodes = append(part.Nodes, same)
	}
	m.Graph.Remove(n)
	m.Graph.Nodes, m.Graph.Inits = append(m.Graph.Nodes, part.Nodes[before:]...), part.Inits
	return m.Graph.Sort()
}
