package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// SequenceMap runs a subgraph on each element of a sequence, further sequences going along with it and tensors
// standing still.
func init() {
	register(Op{Name: "SequenceMap", Since: []int{17}, AnyKind: true, MinIn: 1, MaxIn: -1, MinOut: 1, MaxOut: -1,
		Infer: inferSequenceMap, BodyIn: sequenceMapBodyIn, Compile: compileSequenceMap,
		Grad: gradSequenceMap})
}

// gradSequenceMap is that of a Loop which takes the elements out one by one and appends the results.
func gradSequenceMap(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	body := n.Attr("body").G
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		loop := g.inner("map")
		at := loop.input("i", Tensor(tensor.Int64))
		more := loop.input("more", Tensor(tensor.Bool))
		args := []*onnx.Value{g.Op("SequenceLength", in[0]), g.Const(tensor.Scalar(true))}
		var soFar []*onnx.Value
		for i := range n.Outputs {
			elem := g.Info(body.Outputs[i])
			if elem.Kind != onnx.TensorType || elem.DType == tensor.Undefined {
				g.fail(fmt.Errorf("the type of output %d of the body is not known", i))
				return nil
			}
			args = append(args, g.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(elem.DType))}))
			soFar = append(soFar, loop.input("results", SequenceOf(elem)))
		}
		var elems []*onnx.Value
		for i, v := range in {
			if i == 0 || g.Info(v).Kind == onnx.SequenceType {
				v = loop.Op("SequenceAt", v, at)
			}
			elems = append(elems, v)
		}
		loop.Graph.Outputs = []*onnx.Value{loop.Op("Identity", more)}
		for i, v := range loop.Inline(body, elems)[:len(n.Outputs)] {
			loop.Graph.Outputs = append(loop.Graph.Outputs, loop.Op("SequenceInsert", soFar[i], v))
		}
		if loop.err != nil {
			g.fail(loop.err)
			return nil
		}
		return g.Node("Loop", len(n.Outputs), args, &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: loop.Graph})
	})
}

// sequenceMapBodyIn: an element of each sequence, and the tensors. Runs are independent of each other.
func sequenceMapBodyIn(n *Node, _ string, in, _ []Info) []Info {
	if in != nil {
		return in
	}
	for i, x := range n.In {
		if i == 0 || x.Kind == onnx.SequenceType {
			x = x.element()
		}
		in = append(in, x)
	}
	return withoutValues(in)
}

func inferSequenceMap(n *Node) ([]Info, error) {
	out := make([]Info, len(n.Outputs))
	for i := range out {
		out[i] = Info{Kind: onnx.SequenceType}
	}
	if n.Bodies["body"] == nil {
		return out, nil // Compile refuses it
	}
	body, err := n.Bodies["body"].Infer(nil)
	if err != nil {
		return nil, err
	}
	for i := range out[:min(len(out), len(body))] {
		out[i] = SequenceOf(body[i])
	}
	return out, nil
}

func compileSequenceMap(n *Node) (Kernel, error) {
	b := n.Bodies["body"]
	if b == nil {
		return nil, fmt.Errorf("attribute body must be a graph")
	}
	if b.NumInputs() != len(n.Inputs) || b.NumOutputs() < len(n.Outputs) {
		return nil, fmt.Errorf("the body takes %d and gives %d values, the node has %d inputs and %d outputs",
			b.NumInputs(), b.NumOutputs(), len(n.Inputs), len(n.Outputs))
	}
	return runSequenceMap, nil
}

func runSequenceMap(c *Ctx) error {
	first, err := sequence(c, 0)
	if err != nil {
		return err
	}
	for i, v := range c.Ins {
		if s, ok := v.(*tensor.Sequence); ok && len(s.Values) != len(first.Values) {
			return fmt.Errorf("input %d is a sequence of %d, input 0 one of %d", i, len(s.Values), len(first.Values))
		}
	}
	results := make([][]tensor.Value, len(c.Node.Outputs))
	for k := range first.Values {
		if err := c.Context.Err(); err != nil {
			return err
		}
		args := make([]tensor.Value, len(c.Ins))
		for i, v := range c.Ins {
			if args[i] = v; i == 0 {
				args[i] = first.Values[k]
			} else if s, ok := v.(*tensor.Sequence); ok {
				args[i] = s.Values[k]
			}
		}
		outs, err := c.Body("body").Run(c, args)
		if err != nil {
			return fmt.Errorf("element %d: %w", k, err)
		}
		for i := range results {
			if t, ok := outs[i].(*tensor.Tensor); ok {
				if err := c.Mem.Take(int64(len(t.Bytes()))); err != nil {
					return err
				}
			}
			results[i] = append(results[i], outs[i])
		}
	}
	for i, vs := range results {
		if c.Wants(i) {
			c.SetOut(i, sequenceOf(vs))
		}
	}
	return nil
}
