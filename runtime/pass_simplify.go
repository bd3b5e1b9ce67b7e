package runtime

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// constants puts the values that hang on no input in the place of the nodes that compute them.
func constants(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if len(n.Graphs()) > 0 || len(n.Outputs) == 0 || slices.ContainsFunc(n.Outputs, func(o *onnx.Value) bool { return o != nil && (r.known[o] == nil || r.outputs[o]) }) {
			continue
		}
		for _, o := range n.Outputs {
			if o == nil {
				continue
			}
			v := r.init(o, r.known[o])
			r.reuse(o, v)
		}
		r.drop(n.Outputs)
	}
}

// identity removes nodes that give what they get.
func identity(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		switch {
		case is(n, "Identity"):
		case is(n, "Cast") && r.infos[n.Inputs[0]].DType == tensor.DType(n.Int("to", 0)):
		case is(n, "CastLike") && r.infos[n.Inputs[0]].DType != tensor.Undefined && r.infos[n.Inputs[0]].DType == r.infos[n.Inputs[1]].DType:
		case is(n, "Dropout") && r.unread(n.Output(1)) && r.keepsAll(n):
		default:
			continue
		}
		if x, y := n.Inputs[0], n.Outputs[0]; x != nil && y != nil && !r.outputs[y] {
			r.reuse(y, x)
			r.drop([]*onnx.Value{y})
		}
	}
}

// keepsAll reports whether a Dropout is sure to drop nothing: it is not of training, or its ratio is 0.
func (r *rewriter) keepsAll(n *onnx.Node) bool {
	since := r.since(n)
	switch {
	case since < 7:
		return n.Int("is_test", 0) != 0
	case since < 12 || n.Input(2) == nil:
		return true
	}
	if train := r.constant(n.Inputs[2]); train != nil && train.DType() == tensor.Bool && train.Len() == 1 && !tensor.Data[bool](train)[0] {
		return true
	}
	ratio, ok := r.scalar(n.Input(1))
	return ok && ratio == 0
}

// common computes what is computed twice once.
func common(r *rewriter) {
	first := map[string]*onnx.Node{}
	for _, n := range slices.Clone(r.graph.Nodes) {
		key, ok := r.key(n)
		if !ok {
			continue
		}
		f := first[key]
		if f == nil {
			first[key] = n
			continue
		}
		same := len(f.Outputs) == len(n.Outputs)
		for i := range n.Outputs {
			same = same && (n.Outputs[i] == nil || f.Outputs[i] != nil && !r.outputs[n.Outputs[i]])
		}
		if !same {
			continue
		}
		for i, o := range n.Outputs {
			if o != nil {
				r.reuse(o, f.Outputs[i])
			}
		}
		r.drop(n.Outputs)
	}
}

// key is equal for nodes that compute the same; ok is false for those that are not looked at.
func (r *rewriter) key(n *onnx.Node) (key string, ok bool) {
	op, since := ops.Lookup(n.Domain, n.Op, max(int(n.Opset), int(r.model.OpsetVersion(n.Domain))))
	if n.Domain == ops.Internal {
		op, since = ops.Lookup(n.Domain, n.Op, 1)
	} else if n.Opset != 0 {
		op, since = ops.Lookup(n.Domain, n.Op, int(n.Opset))
	}
	if op == nil || op.Impure || len(n.Graphs()) > 0 {
		return "", false
	}
	var b strings.Builder
	fmt.Fprint(&b, n.Domain, "/", n.Op, "/", since, "/", len(n.Outputs))
	for _, v := range n.Inputs {
		fmt.Fprintf(&b, " %p", v)
	}
	attrs := slices.Clone(n.Attrs)
	slices.SortFunc(attrs, func(a, b *onnx.Attribute) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range attrs {
		switch a.Type {
		case onnx.AttrInt, onnx.AttrFloat, onnx.AttrString, onnx.AttrInts, onnx.AttrFloats:
			fmt.Fprintf(&b, " %q=%d,%b,%q,%d,%b", a.Name, a.I, a.F, a.S, a.Ints, a.Floats)
		default:
			return "", false
		}
	}
	return b.String(), true
}
