package runtime

import (
	"math"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// attentions makes one node of softmax(scale·Q·Kᵀ, masked)·V, in whatever order exporters scale and mask, and of the transpositions that
// bring heads before rows and back.
func attentions(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if r.graphOf[n] == r.graph && (is(n, "MatMul") || is(n, "Einsum")) {
			if a := r.attentionOf(n); a != nil {
				a.put(a.node(), a.last, a.first)
			}
		}
	}
}

// attentionsToTrain does so where a kernel has the gradient, which none of what is added to the scores may hang on.
func attentionsToTrain(r *rewriter, trained []*onnx.Value) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if r.graphOf[n] != r.graph || !is(n, "MatMul") && !is(n, "Einsum") {
			continue
		}
		a := r.attentionOf(n)
		if a == nil || a.add != nil && r.hangsOn(a.add, trained, map[*onnx.Value]bool{}) {
			continue
		}
		fresh := a.node()
		var infos []ops.Info
		for _, v := range fresh.Inputs {
			infos = append(infos, r.infos[v])
		}
		if ops.AttentionKept(fresh, infos) {
			fresh.Opset = ops.GradOpset // the model does not import the domain
			a.put(fresh, a.last, a.first)
			continue
		}
		for i := range fresh.Inputs {
			fresh.SetInput(i, nil)
		}
	}
}

// hangsOn reports whether v is computed from any of others; seen is what has been looked at.
func (r *rewriter) hangsOn(v *onnx.Value, others []*onnx.Value, seen map[*onnx.Value]bool) bool {
	if v == nil || seen[v] {
		return false
	}
	seen[v] = true
	if slices.Contains(others, v) {
		return true
	}
	n := v.Def()
	if n == nil {
		return r.graph != r.model.Graph && v.Const == nil // of another graph
	}
	reads := slices.Clone(n.Inputs)
	for _, g := range n.Graphs() {
		reads = append(reads, g.Captures()...)
	}
	return slices.ContainsFunc(reads, func(w *onnx.Value) bool { return r.hangsOn(w, others, seen) })
}

// matrices is an operand of a product: a value, and the permutation of its axes that gives [any…, rows, columns].
type matrices struct {
	value *onnx.Value
	perm  []int64
}

// attention is the parts of one.
type attention struct {
	*rewriter
	first, last *onnx.Node
	q, k, v     matrices
	result      []int64
	scale       float64
	add, cond   *onnx.Value
	fill        float64
	fillWhere   bool
	fillLast    bool
}

// attentionOf is the attention whose last product is n, nil if there is none.
func (r *rewriter) attentionOf(n *onnx.Node) *attention {
	a := &attention{rewriter: r, last: n, scale: 1}
	p, v, result, ok := r.product(n)
	if !ok || !slices.Equal(p.perm, identityPerm(len(p.perm))) {
		return nil
	}
	a.v, a.result = a.untransposed(v, false), result
	softmax := p.value.Def()
	if !is(softmax, "Softmax") || r.next(p.value) != n || r.graphOf[softmax] != r.graph || !r.overLast(softmax) {
		return nil
	}
	if !a.scores(softmax.Inputs[0], softmax) {
		return nil
	}
	for _, m := range []*matrices{&a.q, &a.v} {
		if m.perm[len(m.perm)-1] != int64(len(m.perm)-1) {
			return nil
		}
	}
	rank := len(a.q.perm)
	if rank < 3 || len(a.k.perm) != rank || len(a.v.perm) != rank || int(a.result[rank-1]) != rank-1 ||
		int(a.k.perm[rank-1]) != rank-1 && int(a.k.perm[rank-2]) != rank-1 {
		return nil
	}
	// What follows a product may be a transposition, too.
	if t := r.next(n.Outputs[0]); is(t, "Transpose") && r.graphOf[t] == r.graph {
		if perm := r.permOf(t); perm != nil && int(perm[rank-1]) == rank-1 {
			a.result, a.last = composed(a.result, perm), t
		}
	}
	return a
}

// overLast reports whether a softmax is over the last axis.
func (r *rewriter) overLast(n *onnx.Node) bool {
	rank := int64(r.infos[n.Inputs[0]].Rank())
	axis := n.Int("axis", -1)
	if r.since(n) < 13 {
		axis = n.Int("axis", 1)
	}
	return rank > 0 && (axis == -1 || axis == rank-1)
}

// scores takes apart the scores v, which reader alone reads: masks first, then scales, then the product.
func (a *attention) scores(v *onnx.Value, reader *onnx.Node) bool {
	rank := a.infos[v].Rank()
	for {
		n := v.Def()
		if n == nil || a.graphOf[n] != a.graph || a.next(v) != reader || a.infos[v].Rank() != rank {
			return false
		}
		reader = n
		switch {
		case is(n, "Add") && a.add == nil && a.scale == 1:
			s, mask := n.Inputs[0], n.Inputs[1]
			if !a.isScores(s, n) {
				s, mask = mask, s
			}
			if info := a.infos[mask]; !a.isScores(s, n) || info.Rank() < 0 || info.Rank() > rank {
				return false
			}
			a.add, v = mask, s
		case is(n, "Where") && a.cond == nil && a.scale == 1:
			s, fill := n.Inputs[1], n.Inputs[2]
			if a.fillWhere = !a.isScores(s, n); a.fillWhere {
				s, fill = fill, s
			}
			x, ok := a.scalar(fill)
			if info := a.infos[n.Inputs[0]]; !ok || a.constant(fill).Rank() > rank || info.Rank() < 0 || info.Rank() > rank {
				return false
			}
			a.fill, a.cond, a.fillLast, v = x, n.Inputs[0], a.add == nil, s
		case is(n, "MatMul"), is(n, "Einsum"):
			q, k, result, ok := a.product(n)
			if !ok || !slices.Equal(result, identityPerm(rank)) || !a.floats(n.Outputs[0]) {
				return false
			}
			// The second operand is Kᵀ.
			a.first, a.q, a.k = n, a.unscaled(q, false), a.unscaled(k, true)
			i, j := len(a.k.perm)-1, len(a.k.perm)-2
			a.k.perm[i], a.k.perm[j] = a.k.perm[j], a.k.perm[i]
			return a.scale != 0 && !math.IsInf(a.scale, 0) && !math.IsNaN(a.scale)
		default:
			s, factor, ok := a.factor(n)
			if !ok {
				return false
			}
			a.scale *= factor
			v = s
		}
	}
}

// isScores reports whether reader alone reads v and v can be taken apart further.
func (a *attention) isScores(v *onnx.Value, reader *onnx.Node) bool {
	n := v.Def()
	if n == nil || a.next(v) != reader {
		return false
	}
	switch {
	case is(n, "MatMul"), is(n, "Einsum"), is(n, "Add"), is(n, "Where"):
		return true
	case is(n, "Mul"), is(n, "Div"):
		s, _, ok := a.factor(n)
		return ok && s.Def() != nil && (is(s.Def(), "MatMul") || is(s.Def(), "Einsum") || is(s.Def(), "Mul") || is(s.Def(), "Div"))
	}
	return false
}

// floats reports whether v is known to be of float32s or float64s.
func (r *rewriter) floats(v *onnx.Value) bool {
	i := r.infos[v]
	return i.Kind == onnx.TensorType && (i.DType == tensor.Float32 || i.DType == tensor.Float64)
}

// factor is what n multiplies by a constant number, and the number.
func (r *rewriter) factor(n *onnx.Node) (v *onnx.Value, x float64, ok bool) {
	if !is(n, "Mul") && !is(n, "Div") {
		return nil, 0, false
	}
	v, by := n.Inputs[0], n.Inputs[1]
	x, ok = r.scalar(by)
	if !ok && is(n, "Mul") {
		v, by = by, v
		x, ok = r.scalar(by)
	}
	if !ok || r.constant(by).Rank() > r.infos[v].Rank() || x == 0 {
		return nil, 0, false
	}
	if is(n, "Div") {
		x = 1 / x
	}
	return v, x, true
}

// unscaled takes transpositions and factors off an operand, the factors into the scale.
func (a *attention) unscaled(m matrices, either bool) matrices {
	for {
		m = a.untransposed(m, either)
		n := m.value.Def()
		if n == nil {
			return m
		}
		v, x, ok := a.factor(n)
		if readers := m.value.Users(); !ok || a.outputs[m.value] || len(readers) != 1 || a.infos[v].Rank() != len(m.perm) {
			return m
		}
		a.scale *= x
		m.value = v
	}
}

// untransposed takes transpositions off an operand whose columns must lie beside each other in the end, or, if either, its rows.
func (r *rewriter) untransposed(m matrices, either bool) matrices {
	found := m
	for {
		n := m.value.Def()
		perm := []int64(nil)
		if n != nil && r.constant(m.value) == nil {
			perm = r.permOf(n)
		}
		if perm == nil {
			return found
		}
		m = matrices{n.Inputs[0], composed(perm, m.perm)}
		if rank := len(m.perm); int(m.perm[rank-1]) == rank-1 || either && int(m.perm[rank-2]) == rank-1 {
			found = m
		}
	}
}

// composed is the permutation that is first and then second.
func composed(first, second []int64) []int64 {
	out := make([]int64, len(second))
	for i, p := range second {
		out[i] = first[p]
	}
	return out
}

func identityPerm(rank int) []int64 {
	p := make([]int64, rank)
	for i := range p {
		p[i] = int64(i)
	}
	return p
}

// permOf is the permutation of a Transpose of known rank, nil if n is none.
func (r *rewriter) permOf(n *onnx.Node) []int64 {
	if !is(n, "Transpose") {
		return nil
	}
	rank := r.infos[n.Inputs[0]].Rank()
	if rank < 0 {
		return nil
	}
	perm := n.Ints("perm", nil)
	if perm == nil {
		perm = identityPerm(rank)
		slices.Reverse(perm)
	}
	axes, err := ops.NormAxes(perm, rank)
	if err != nil || len(axes) != rank {
		return nil
	}
	out := make([]int64, rank)
	for i, a := range axes {
		out[i] = int64(a)
	}
	return out
}

// product is the operands of n, a MatMul of batches or an Einsum that comes down to one, and the permutation of its result.
func (r *rewriter) product(n *onnx.Node) (a, b matrices, result []int64, ok bool) {
	if is(n, "MatMul") {
		a, b = matrices{value: n.Inputs[0]}, matrices{value: n.Inputs[1]}
		for _, m := range []*matrices{&a, &b} {
			rank := r.infos[m.value].Rank()
			if rank < 3 {
				return a, b, nil, false
			}
			m.perm = identityPerm(rank)
		}
		return a, b, identityPerm(len(a.perm)), len(a.perm) == len(b.perm)
	}
	if len(n.Inputs) != 2 {
		return a, b, nil, false
	}
	terms, out, found := strings.Cut(strings.ReplaceAll(n.Str("equation", ""), " ", ""), "->")
	left, right, two := strings.Cut(terms, ",")
	if !found || !two || len(left) < 3 || len(right) != len(left) || len(out) != len(left) {
		return a, b, nil, false
	}
	for _, term := range []string{left, right, out} {
		for i, c := range term {
			if c < 'a' || c > 'z' || strings.ContainsRune(term[i+1:], c) {
				return a, b, nil, false
			}
		}
	}
	var batch, rows, inner, columns []byte
	for i := range len(out) {
		c := out[i]
		switch inLeft, inRight := strings.IndexByte(left, c) >= 0, strings.IndexByte(right, c) >= 0; {
		case inLeft && inRight:
			batch = append(batch, c)
		case inLeft:
			rows = append(rows, c)
		case inRight:
			columns = append(columns, c)
		default:
			return a, b, nil, false
		}
	}
	for i := range len(left) {
		if c := left[i]; strings.IndexByte(out, c) < 0 && strings.IndexByte(right, c) >= 0 {
			inner = append(inner, c)
		}
	}
	if len(rows) != 1 || len(inner) != 1 || len(columns) != 1 || r.infos[n.Inputs[0]].Rank() != len(left) || r.infos[n.Inputs[1]].Rank() != len(right) {
		return a, b, nil, false
	}
	places := func(in string, axes ...[]byte) []int64 {
		var perm []int64
		for _, c := range slices.Concat(axes...) {
			perm = append(perm, int64(strings.IndexByte(in, c)))
		}
		return perm
	}
	a = matrices{n.Inputs[0], places(left, batch, rows, inner)}
	b = matrices{n.Inputs[1], places(right, batch, inner, columns)}
	natural := string(slices.Concat(batch, rows, columns))
	return a, b, places(natural, []byte(out)), true
}

// node is the attention as one node.
func (a *attention) node() *onnx.Node {
	fresh := internal("Attention", []*onnx.Value{a.q.value, a.k.value, a.v.value}, onnx.FloatAttr("scale", float32(a.scale)),
		onnx.IntsAttr("perm_q", a.q.perm...), onnx.IntsAttr("perm_k", a.k.perm...), onnx.IntsAttr("perm_v", a.v.perm...), onnx.IntsAttr("perm_y", a.result...))
	if a.add != nil {
		fresh.SetInput(3, a.add)
	}
	if a.cond != nil {
		fresh.SetInput(4, a.cond)
		fresh.SetAttr(onnx.FloatAttr("fill", float32(a.fill)))
		for name, set := range map[string]bool{"fill_where": a.fillWhere, "fill_last": a.fillLast} {
			i := int64(0)
			if set {
				i = 1
			}
			fresh.SetAttr(onnx.IntAttr(name, i))
		}
	}
	return fresh
}
