// Package onnxgo runs models for github.com/owulveryck/onnx-go by Retune's runtime: its [Graph] is a
// backend.ComputationBackend, which takes the place of gorgonnx.NewGraph().
//
//	b := onnxgo.NewGraph()
//	m := onnx.NewModel(b)
//	err := m.UnmarshalBinary(data)
//	err = m.SetInput(0, x)
//	err = b.Run()
//	out, err := m.GetOutputTensors()
//
// onnx-go (v0.5.0) gives a backend less than the file says, so that some models need package runtime itself:
//
//   - Opsets and domains are not passed on. Nodes are read as of opset 10, or as of the nearest at which the operator
//     exists and has the inputs and attributes that the node has. What looks the same and means something else at
//     another opset (Softmax of more than two dimensions from opset 13) is computed as of opset 10.
//   - Subgraphs (If, Loop, Scan), sequences, and tensors of 16 bit floats are refused by onnx-go.
//   - SetInput(i, t) means the i-th node of the graph: inputs with an initializer must come after those without.
//     Otherwise use GetNodeByName.
//   - A value of another element type than the file declares is converted if nothing is lost by that.
//   - Declared shapes lose their symbolic dimensions: they are not used. What is given decides.
package onnxgo

import (
	"errors"
	"fmt"
	"math"

	onnxgo "github.com/owulveryck/onnx-go"
	"gonum.org/v1/gonum/graph"
	"gonum.org/v1/gonum/graph/simple"
	"gorgonia.org/tensor"

	"github.com/retune-go/retune/runtime"
	retune "github.com/retune-go/retune/tensor"
)

// Graph is a model that onnx-go decodes into, and that runs. It is not safe for concurrent use.
type Graph struct {
	*simple.WeightedDirectedGraph // for whoever walks it: edges go from what is computed to what it is computed from

	nodes      []*Node
	operations []operation
	decoding   bool // until the first edge: tensors are placeholders or initializers
	ran        bool
	wanted     map[string]bool // values that were asked for though operations read them
	failed     error
	options    []runtime.Option
	program    *program
}

// NewGraph returns a graph without nodes. The options are for the session that runs it.
func NewGraph(opts ...runtime.Option) *Graph {
	return &Graph{WeightedDirectedGraph: simple.NewWeightedDirectedGraph(math.Inf(1), math.Inf(1)), decoding: true, wanted: map[string]bool{}, options: opts}
}

// Node is a value of the graph. Several nodes of one name, such as an input that is an output, stand for one value.
type Node struct {
	graph    *Graph
	id       int64
	name     string
	value    tensor.Tensor
	dtype    retune.DType // of the first value, which an input's file declares
	declared int          // times that a value was set before the first edge: a placeholder, an initializer
	given    int          // times that a value was set since
	constant bool         // its value is part of the program
	op       int          // the operation that computes it, -1: none
	inputs   []*Node
}

type operation struct {
	onnxgo.Operation
	inputs, outputs []*Node
}

// ID is the node's position, from 0: the model's inputs come first.
func (n *Node) ID() int64 { return n.id }

// SetName names the node.
func (n *Node) SetName(name string) { n.name = name }

// GetName is the name of the value in the model.
func (n *Node) GetName() string { return n.name }

// SetTensor gives the node a value, whose elements are read by [Graph.Run]. Those of an initializer are read once, when the model is
// compiled; another tensor in its place has it compiled again.
func (n *Node) SetTensor(t tensor.Tensor) error {
	if t == nil {
		return fmt.Errorf("onnxgo: no tensor for %q", n.name)
	}
	n.value = t
	if n.graph.decoding {
		if n.declared++; n.declared == 1 {
			n.dtype, _ = dtypeOf(t)
		}
	} else {
		n.given++
	}
	if n.constant {
		n.graph.Close()
	}
	return nil
}

// GetTensor is the node's value: what was set or, after [Graph.Run], what was computed; nil if that fails. A value that
// operations read, and that was not asked for before, has the model run once more.
func (n *Node) GetTensor() tensor.Tensor {
	if n.op >= 0 && n.graph.ran {
		return n.graph.computed(n.name)
	}
	return n.value
}

// NewNode returns a node that is not part of the graph yet.
func (g *Graph) NewNode() graph.Node {
	return &Node{graph: g, id: int64(len(g.nodes)), op: -1}
}

// AddNode adds a node of [Graph.NewNode].
func (g *Graph) AddNode(n graph.Node) {
	node, ok := n.(*Node)
	if !ok || node.graph != g || node.id != int64(len(g.nodes)) {
		g.fail(fmt.Errorf("onnxgo: node %v is not the last that NewNode gave", n))
		return
	}
	g.nodes = append(g.nodes, node)
	g.WeightedDirectedGraph.AddNode(n)
}

// SetWeightedEdge notes that e.From() is computed from e.To(), as input number e.Weight(). An operation may have one node
// as several of its inputs.
func (g *Graph) SetWeightedEdge(e graph.WeightedEdge) {
	g.decoding = false
	from, ok := e.From().(*Node)
	to, is := e.To().(*Node)
	i := int(e.Weight())
	switch {
	case !ok || !is || from.graph != g || to.graph != g:
		g.fail(errors.New("onnxgo: an edge joins nodes of another graph"))
	case i != len(from.inputs):
		g.fail(fmt.Errorf("onnxgo: %q has input %d where %d is next", from.name, i, len(from.inputs)))
	default:
		from.inputs = append(from.inputs, to)
		if from != to { // a cycle, which Run tells of
			g.WeightedDirectedGraph.SetWeightedEdge(e)
		}
	}
}

// NewWeightedEdge returns an edge that is not part of the graph yet.
func (g *Graph) NewWeightedEdge(from, to graph.Node, w float64) graph.WeightedEdge {
	return simple.WeightedEdge{F: from, T: to, W: w}
}

// ApplyOperation notes how nodes are computed from the nodes that edges lead to.
func (g *Graph) ApplyOperation(o onnxgo.Operation, ns ...graph.Node) error {
	g.decoding = false
	if g.failed != nil {
		return g.failed
	}
	op := operation{Operation: o}
	for i, n := range ns {
		node, ok := n.(*Node)
		if !ok || node.graph != g {
			return errors.New("onnxgo: an operation is applied to a node of another graph")
		}
		if i == 0 {
			op.inputs = node.inputs
		}
		node.inputs = nil
		if node.name == "" { // outputs that are left out share one node
			node = nil
		} else if node.op >= 0 {
			return fmt.Errorf("onnxgo: %q is computed twice", node.name)
		} else {
			node.op = len(g.operations)
		}
		op.outputs = append(op.outputs, node)
	}
	if len(ns) == 0 {
		return fmt.Errorf("onnxgo: operator %s has no output", o.Name)
	}
	g.operations = append(g.operations, op)
	g.Close()
	return nil
}

// fail keeps the first error of a method that cannot return one.
func (g *Graph) fail(err error) {
	if g.failed == nil {
		g.failed = err
	}
}

// Close frees the session's workers. The graph may still be run: it is compiled again.
func (g *Graph) Close() {
	if g.program != nil {
		g.program.session.Close()
		g.program = nil
	}
	for _, n := range g.nodes {
		n.constant = false
	}
}
