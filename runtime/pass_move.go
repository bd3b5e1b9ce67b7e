package runtime

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// branches puts the branch that is taken in the place of an If whose condition is known.
func branches(r *rewriter) {
	for i := 0; i < len(r.graph.Nodes); i++ {
		n := r.graph.Nodes[i]
		if !is(n, "If") {
			continue
		}
		cond := r.constant(n.Inputs[0])
		if cond == nil || cond.DType() != tensor.Bool || cond.Len() != 1 {
			continue
		}
		taken, other := n.Attr("then_branch"), n.Attr("else_branch")
		if !tensor.Data[bool](cond)[0] {
			taken, other = other, taken
		}
		if taken == nil || other == nil || taken.G == nil || other.G == nil || len(taken.G.Outputs) != len(n.Outputs) {
			continue
		}
		r.inline(n, taken.G, i)
		forget(other.G)
		i-- // the branch may begin with an If
	}
}

// inline puts the nodes of g, which has no inputs, in the place of n, the i-th node.
func (r *rewriter) inline(n *onnx.Node, g *onnx.Graph, i int) {
	nodes := slices.Clone(g.Nodes)
	for _, v := range g.Outputs {
		if v.Def() != nil && slices.Contains(g.Nodes, v.Def()) || slices.Contains(g.Inits, v) {
			delete(r.outputs, v)
		}
	}
	for k, v := range n.Outputs {
		if v == nil {
			continue
		}
		w := g.Outputs[k]
		n.Outputs[k] = nil
		r.reuse(v, w)
		if r.outputs[v] {
			same := node(ops.GradOpset, "Identity", []*onnx.Value{w})
			same.Name = n.Name
			same.SetOutput(0, v)
			nodes = append(nodes, same)
		}
	}
	for k := range n.Inputs {
		n.SetInput(k, nil)
	}
	delete(r.graphOf, n)
	for _, m := range nodes {
		r.graphOf[m] = r.graph
	}
	r.graph.Nodes = slices.Replace(r.graph.Nodes, i, i+1, nodes...)
	r.graph.Inits = append(r.graph.Inits, g.Inits...)
	g.Nodes, g.Inits, g.Outputs = nil, nil, nil
}

// forget has the nodes of g, which no longer runs, read nothing.
func forget(g *onnx.Graph) {
	g.Walk(func(s *onnx.Graph) {
		for _, n := range s.Nodes {
			for i := range n.Inputs {
				n.SetInput(i, nil)
			}
		}
	})
}

// views are the operators whose result has the elements of what they get, in their order.
var views = []string{"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}

// moves removes what gives a tensor as it was before, joins transpositions, those with operators on single elements between them too, and
// picks before it transposes, or transposes the numbers of what is picked.
func moves(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if r.skip(n) || !r.moving(n) {
			continue
		}
		r.turnMatrices(n)
		if perm := r.permOf(n); perm != nil {
			r.joinTransposes(n, perm)
		}
		if r.graphOf[n] == r.graph {
			r.pickFirst(n)
			r.turnNumbers(n)
		}
	}
}

// moving reports whether n, which is still in the graph, makes one value of another.
func (r *rewriter) moving(n *onnx.Node) bool {
	return r.graphOf[n] == r.graph && len(n.Outputs) == 1 && n.Outputs[0] != nil && len(n.Inputs) > 0 && n.Inputs[0] != nil
}

// skip removes n if its result is sure to be a value that is there before it.
func (r *rewriter) skip(n *onnx.Node) bool {
	if !r.moving(n) || r.outputs[n.Outputs[0]] {
		return false
	}
	from := r.unmoved(n)
	if from == nil {
		return false
	}
	r.reuse(n.Outputs[0], from)
	r.drop(n.Outputs)
	return true
}

// turnMatrices makes one transposition of matrices that are made one batch of, transposed, and put in their places again, as PyTorch
// transposes the keys of attention.
func (r *rewriter) turnMatrices(n *onnx.Node) {
	if !is(n, "Reshape") {
		return
	}
	turned := n.Inputs[0].Def()
	if !is(turned, "Transpose") || !slices.Equal(r.permOf(turned), []int64{0, 2, 1}) {
		return
	}
	flat := turned.Inputs[0].Def()
	if !is(flat, "Reshape") {
		return
	}
	x := flat.Inputs[0]
	from, mid, to := r.infos[x].Shape, r.infos[turned.Inputs[0]].Shape, r.infos[n.Outputs[0]].Shape
	rank := len(from)
	if rank < 3 || len(to) != rank || !slices.EqualFunc(from[:rank-2], to[:rank-2], ops.Dim.Same) {
		return
	}
	rows, cols := from[rank-2], from[rank-1]
	if !mid[1].Same(rows) || !mid[2].Same(cols) || !to[rank-2].Same(cols) || !to[rank-1].Same(rows) {
		return
	}
	perm := identityPerm(rank)
	perm[rank-2], perm[rank-1] = perm[rank-1], perm[rank-2]
	fresh := node(13, "Transpose", []*onnx.Value{x}, onnx.IntsAttr("perm", perm...))
	r.put(fresh, n, turned)
}

// pickFirst takes an element of an axis of x rather than of x transposed.
func (r *rewriter) pickFirst(n *onnx.Node) {
	if !is(n, "Gather") || r.infos[n.Inputs[1]].Rank() != 0 || r.infos[n.Inputs[1]].Kind != onnx.TensorType {
		return
	}
	turned := n.Inputs[0].Def()
	if turned == nil || r.graphOf[turned] != r.graph || !r.once(n.Inputs[0]) {
		return
	}
	perm := r.permOf(turned)
	axis, err := ops.NormAxis(n.Int("axis", 0), len(perm))
	if perm == nil || err != nil {
		return
	}
	from, x := perm[axis], turned.Inputs[0]
	rest := slices.Delete(slices.Clone(perm), axis, axis+1)
	for i, p := range rest {
		if p > from {
			rest[i]--
		}
	}
	pick := node(13, "Gather", []*onnx.Value{x, n.Inputs[1]}, onnx.IntAttr("axis", from))
	if slices.Equal(rest, identityPerm(len(rest))) {
		r.put(pick, n, n)
		return
	}
	info := r.infos[x]
	part := r.before(n, pick, n, ops.Tensor(info.DType, slices.Delete(slices.Clone(info.Shape), int(from), int(from)+1)...))
	r.put(node(13, "Transpose", []*onnx.Value{part}, onnx.IntsAttr("perm", rest...)), n, turned)
}

// turnNumbers transposes the numbers of rows that a Gather takes rather than the rows.
func (r *rewriter) turnNumbers(n *onnx.Node) {
	perm := r.permOf(n)
	if perm == nil || !r.once(n.Inputs[0]) {
		return
	}
	rows := n.Inputs[0].Def()
	if !is(rows, "Gather") || r.graphOf[rows] != r.graph || rows.Int("axis", 0) != 0 {
		return
	}
	numbers := rows.Inputs[1]
	info := r.infos[numbers]
	rank := info.Rank()
	if rank < 2 || !slices.Equal(perm[rank:], identityPerm(len(perm))[rank:]) {
		return
	}
	shape := make([]ops.Dim, rank)
	for i, p := range perm[:rank] {
		shape[i] = info.Shape[p]
	}
	turned := r.before(n, node(13, "Transpose", []*onnx.Value{numbers}, onnx.IntsAttr("perm", perm[:rank]...)), n, ops.Tensor(info.DType, shape...))
	r.put(node(13, "Gather", []*onnx.Value{rows.Inputs[0], turned}, onnx.IntAttr("axis", 0)), n, rows)
}

// before puts fresh before n, under the name of another, and returns its result.
func (r *rewriter) before(n, fresh, named *onnx.Node, info ops.Info) *onnx.Value {
	fresh.Name = named.Name
	v := &onnx.Value{Name: named.Outputs[0].Name}
	fresh.SetOutput(0, v)
	r.infos[v] = info
	r.insert(fresh, n)
	return v
}

// unmoved is a value that n's result is sure to be, nil if none is found.
func (r *rewriter) unmoved(n *onnx.Node) *onnx.Value {
	x, y := n.Inputs[0], n.Outputs[0]
	switch {
	case is(n, "Transpose"):
		if perm := r.permOf(n); perm != nil && slices.Equal(perm, identityPerm(len(perm))) {
			return x
		}
	case is(n, "Expand") && r.sameShape(x, y):
		return x
	case is(n, "Slice") && r.wholeSlice(n):
		return x
	default:
		for d := n; d != nil && slices.Contains(views, d.Op) && onnx.CanonicalDomain(d.Domain) == ""; d = x.Def() {
			if x = d.Inputs[0]; x == nil {
				break
			}
			if r.sameShape(x, y) && r.infos[x].Kind == onnx.TensorType {
				return x
			}
		}
	}
	return nil
}

// wholeSlice reports whether a Slice is sure to take everything.
func (r *rewriter) wholeSlice(n *onnx.Node) bool {
	list := func(attr string, i int) ([]int64, bool) {
		if r.since(n) < 10 {
			return n.Ints(attr, nil), true
		}
		if n.Input(i) == nil {
			return nil, true
		}
		t := r.constant(n.Input(i))
		if t == nil {
			return nil, false
		}
		v, err := t.Int64s()
		return v, err == nil
	}
	starts, ok1 := list("starts", 1)
	ends, ok2 := list("ends", 2)
	axes, ok3 := list("axes", 3)
	steps, ok4 := list("", 4)
	info := r.infos[n.Inputs[0]]
	if !ok1 || !ok2 || !ok3 || !ok4 || len(starts) != len(ends) || slices.ContainsFunc(steps, func(s int64) bool { return s != 1 }) ||
		slices.ContainsFunc(starts, func(s int64) bool { return s != 0 }) || !info.Ranked {
		return false
	}
	for i, end := range ends {
		axis := int64(i)
		if axes != nil {
			if len(axes) != len(ends) {
				return false
			}
			axis = axes[i]
		}
		at, err := ops.NormAxis(axis, len(info.Shape))
		if err != nil || end < math.MaxInt32 && !(info.Shape[at].Known() && end >= int64(info.Shape[at].N)) {
			return false
		}
	}
	return true
}

// joinTransposes makes one of the transposition n by perm and one before it, if nothing but operators on single elements, which nothing
// else reads, are between them.
func (r *rewriter) joinTransposes(n *onnx.Node, perm []int64) {
	var between []*onnx.Node
	for v := n.Inputs[0]; ; {
		d := v.Def()
		if d == nil || r.graphOf[d] != r.graph || r.constant(v) != nil {
			return
		}
		first := r.permOf(d)
		if first != nil {
			r.joined(n, between, d, composed(first, perm))
			return
		}
		if !r.once(v) || !r.single(d) {
			return
		}
		between = append(between, d)
		v = d.Inputs[0]
	}
}

// single reports whether d is an operator on the single elements of its first input, with numbers for the others.
func (r *rewriter) single(d *onnx.Node) bool {
	if r.pointwise(d) == nil || r.infos[d.Outputs[0]].Rank() != r.infos[d.Inputs[0]].Rank() {
		return false
	}
	for _, v := range d.Inputs[1:] {
		if t := r.constant(v); v != nil && (t == nil || t.Len() != 1) {
			return false
		}
	}
	return true
}

// joined puts perm in the place of two transpositions, before the operators between them, the last of which comes first.
func (r *rewriter) joined(n *onnx.Node, between []*onnx.Node, first *onnx.Node, perm []int64) {
	x, same := first.Inputs[0], slices.Equal(perm, identityPerm(len(perm)))
	if len(between) == 0 {
		if same && r.outputs[n.Outputs[0]] {
			return
		}
		fresh := node(13, "Transpose", []*onnx.Value{x}, onnx.IntsAttr("perm", perm...))
		y := n.Outputs[0]
		r.put(fresh, n, n)
		if same {
			r.reuse(y, x)
			r.drop([]*onnx.Value{y})
		}
		return
	}
	last := between[0].Outputs[0]
	if y := n.Outputs[0]; r.outputs[y] {
		return
	}
	if !same {
		moved := node(13, "Transpose", []*onnx.Value{x}, onnx.IntsAttr("perm", perm...))
		x = r.before(between[len(between)-1], moved, n, r.infos[n.Outputs[0]])
	}
	was := between[len(between)-1].Inputs[0]
	between[len(between)-1].SetInput(0, x)
	for _, d := range between {
		r.infos[d.Outputs[0]] = r.infos[n.Outputs[0]]
	}
	r.reuse(n.Outputs[0], last)
	r.drop([]*onnx.Value{n.Outputs[0], was})
}

// states leaves out initial states of zeros, which recurrent layers begin with anyway.
func states(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "LSTM") && !is(n, "GRU") && !is(n, "RNN") {
			continue
		}
		for i := 5; i < min(7, len(n.Inputs)); i++ {
			if v := n.Inputs[i]; v != nil && r.zeros(v) {
				n.SetInput(i, nil)
				r.drop([]*onnx.Value{v})
			}
		}
	}
}

// lastSteps takes the state that a recurrent layer ends in rather than the last of all the states that it gives, which nobody may want then.
func lastSteps(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "Gather") {
			continue
		}
		axis, x := n.Int("axis", 0), n.Inputs[0]
		if turned := x.Def(); turned != nil {
			if perm := r.permOf(turned); perm != nil {
				at, err := ops.NormAxis(axis, len(perm))
				if err != nil {
					continue
				}
				axis = perm[at]
				if perm = slices.Delete(slices.Clone(perm), at, at+1); !slices.IsSorted(perm) {
					continue
				}
				x = turned.Inputs[0]
			}
		}
		y := x
		for d := y.Def(); d != nil && slices.Contains(views, d.Op) && onnx.CanonicalDomain(d.Domain) == ""; d = y.Def() {
			y = d.Inputs[0]
		}
		layer := y.Def()
		if axis != 0 || layer == nil || r.graphOf[layer] != r.graph || layer.Outputs[0] != y || len(layer.Outputs) < 2 || layer.Outputs[1] == nil ||
			!is(layer, "LSTM") && !is(layer, "GRU") && !is(layer, "RNN") && layer.Op != "DynamicQuantizeLSTM" || layer.Input(4) != nil || layer.Int("layout", 0) != 0 {
			continue
		}
		// Of steps and rows, and of one direction. Without a step there is no last one, but a state.
		all, seen := r.infos[y].Shape, r.infos[x].Shape
		if len(all) != 4 || len(seen) != 3 || !slices.EqualFunc(seen, []ops.Dim{all[0], all[2], all[3]}, ops.Dim.Same) || !all[1].Same(ops.D(1)) || !all[0].Known() || all[0].N == 0 {
			continue
		}
		last := int64(-1)
		if layer.Str("direction", "forward") == "reverse" {
			last = 0
		}
		index := r.constant(n.Inputs[1])
		if index == nil || index.Rank() != 0 {
			continue
		}
		// The number is good for the one direction of the state, too.
		if i, err := index.Int64s(); err != nil || i[0] != last {
			continue
		}
		r.put(node(13, "Gather", []*onnx.Value{layer.Outputs[1], n.Inputs[1]}, onnx.IntAttr("axis", 0)), n, n)
		if len(y.Users()) == 0 && !r.outputs[y] {
			layer.SetOutput(0, nil)
		}
	}
}

// zeros reports whether every element of v is sure to be 0, whatever its shape.
func (r *rewriter) zeros(v *onnx.Value) bool {
	if r.all(v, 0) {
		return true
	}
	d := v.Def()
	switch {
	case d == nil || onnx.CanonicalDomain(d.Domain) != "":
		return false
	case d.Op == "ConstantOfShape":
		a := d.Attr("value")
		return a == nil || a.T != nil && a.T.Len() == 1 && a.T.DType().IsFloat() && tensor.Float64At(a.T, 0) == 0
	case d.Op == "Expand", d.Op == "Slice", d.Op == "Gather", d.Op == "Transpose", slices.Contains(views, d.Op):
		return r.zeros(d.Inputs[0])
	}
	return false
}
