package runtime

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// stacks takes parts of a tensor that is stacked twice, and puts such together, in one copy instead of two: exporters unstack and stack
// the cached keys and values of all layers so.
func stacks(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if r.graphOf[n] != r.graph {
			continue
		}
		switch {
		case is(n, "Gather"):
			r.unstack(n)
		case is(n, "Concat"):
			r.stack(n)
		}
	}
}

// part is the number of the part of its first input's leading axis that a Gather takes, and how many there are.
func (r *rewriter) part(n *onnx.Node) (i, of int, ok bool) {
	if !is(n, "Gather") || r.infos[n.Inputs[0]].Rank() < 1 {
		return 0, 0, false
	}
	axis, err := ops.NormAxis(n.Int("axis", 0), r.infos[n.Inputs[0]].Rank())
	t, d := r.constant(n.Inputs[1]), r.infos[n.Inputs[0]].Shape[0]
	if err != nil || axis != 0 || t == nil || t.Rank() != 0 || !d.Known() {
		return 0, 0, false
	}
	v, err := t.Int64s()
	if err != nil || v[0] < -int64(d.N) || v[0] >= int64(d.N) {
		return 0, 0, false
	}
	at := int(v[0])
	if at < 0 {
		at += d.N
	}
	return at, d.N, true
}

// unstack makes one Gather of two.
func (r *rewriter) unstack(n *onnx.Node) {
	outer := n.Inputs[0].Def()
	j, inner, ok := r.part(n)
	if !ok || outer == nil || r.graphOf[outer] != r.graph || r.constant(outer.Outputs[0]) != nil {
		return
	}
	i, of, ok := r.part(outer)
	if !ok {
		return
	}
	x := outer.Inputs[0]
	joined, ok := shapeOf(append([]ops.Dim{ops.D(of * inner)}, r.infos[x].Shape[2:]...))
	if !ok {
		return
	}
	flat := r.reshape(n, x, joined)
	r.put(node(13, "Gather", []*onnx.Value{flat, r.init(n.Inputs[1], tensor.Scalar(int64(i*inner+j)))}), n, n)
}

// stack makes one Concat of a Concat of stacked Concats.
func (r *rewriter) stack(n *onnx.Node) {
	out := n.Outputs[0]
	if n.Int("axis", 1) != 0 || r.infos[out].Rank() < 2 || r.outputs[out] { // a view that leaves the graph is a copy, too
		return
	}
	var parts []*onnx.Value
	for _, v := range n.Inputs {
		u := v.Def()
		if !is(u, "Unsqueeze") || r.next(v) != n || !slices.Equal(r.unsqueezed(u), []int{0}) {
			return
		}
		c := u.Inputs[0].Def()
		if !is(c, "Concat") || r.next(u.Inputs[0]) != u || c.Int("axis", 1) != 0 {
			return
		}
		parts = append(parts, c.Inputs...)
	}
	shape, ok := shapeOf(r.infos[out].Shape)
	if !ok {
		return
	}
	flat := node(13, "Concat", parts, onnx.IntAttr("axis", 0))
	flat.Name = n.Name + "/parts"
	v := &onnx.Value{Name: out.Name}
	flat.SetOutput(0, v)
	r.insert(flat, n)
	r.infos[v] = ops.Info{DType: r.infos[out].DType}
	r.put(node(13, "Reshape", []*onnx.Value{v, r.init(out, tensor.New(shape, len(shape)))}), n, n)
}

// unsqueezed is the axes that an Unsqueeze adds, nil if they are not known.
func (r *rewriter) unsqueezed(n *onnx.Node) []int {
	list := n.Ints("axes", nil)
	if v := n.Input(1); v != nil {
		t := r.constant(v)
		if t == nil {
			return nil
		}
		list, _ = t.Int64s()
	}
	axes, err := ops.NormAxes(list, r.infos[n.Outputs[0]].Rank())
	if err != nil {
		return nil
	}
	return axes
}

// shapeOf is a Reshape's form of a shape with one unknown dimension at most, and none that is 0.
func shapeOf(dims []ops.Dim) (shape []int64, ok bool) {
	unknown := 0
	for _, d := range dims {
		n := int64(d.N)
		if !d.Known() {
			n = -1
			unknown++
		}
		if n == 0 {
			return nil, false
		}
		shape = append(shape, n)
	}
	return shape, unknown <= 1
}

// insert puts fresh before n.
func (r *rewriter) insert(fresh, n *onnx.Node) {
	r.graph.Nodes = slices.Insert(r.graph.Nodes, slices.Index(r.graph.Nodes, n), fresh)
	r.graphOf[fresh] = r.graph
}

// reshape is x under another shape, by a node before n.
func (r *rewriter) reshape(n *onnx.Node, x *onnx.Value, shape []int64) *onnx.Value {
	fresh := node(13, "Reshape", []*onnx.Value{x, r.init(x, tensor.New(shape, len(shape)))})
	fresh.Name = n.Name + "/" + x.Name
	v := &onnx.Value{Name: x.Name}
	fresh.SetOutput(0, v)
	r.insert(fresh, n)
	return v
}
