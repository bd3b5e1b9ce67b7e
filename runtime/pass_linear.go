package runtime

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

var oneHotProduct = parsePatterns("MatMul(Cast(Equal(x, count)), table)")

// oneHot takes rows of a constant matrix where the numbers of rows, as vectors of a one among zeros, are multiplied by it.
func oneHot(r *rewriter) {
	r.rewrite(oneHotProduct, func(m *match) *onnx.Node {
		x, table := m.values["x"], m.values["table"]
		t, rows := r.constant(table), r.infos[x]
		if t == nil || t.Rank() != 2 || t.DType() != tensor.Float32 && t.DType() != tensor.Float64 || rows.DType != tensor.Int32 && rows.DType != tensor.Int64 ||
			rows.Rank() < 2 || !r.endsInOne(x) || !r.counts(m.values["count"], t.Shape()[0], rows.Rank()) {
			return nil
		}
		for i := range t.Len() { // zero times which is no zero
			if v := tensor.Float64At(t, i); math.IsInf(v, 0) || math.IsNaN(v) {
				return nil
			}
		}
		return internal("SelectRows", []*onnx.Value{table, x})
	})
}

// endsInOne reports whether the last dimension of v is sure to be 1.
func (r *rewriter) endsInOne(v *onnx.Value) bool {
	info := r.infos[v]
	if info.Rank() < 1 {
		return false
	}
	if info.Shape[len(info.Shape)-1].N == 1 {
		return true
	}
	d := v.Def()
	if !is(d, "Expand") || !r.endsInOne(d.Inputs[0]) {
		return false
	}
	shape := d.Inputs[1] // put together from parts, of which the last counts
	for is(shape.Def(), "Cast") || is(shape.Def(), "Concat") {
		shape = shape.Def().Inputs[len(shape.Def().Inputs)-1]
	}
	t := r.constant(shape)
	if t == nil || t.Len() == 0 {
		return false
	}
	s, err := t.Int64s()
	return err == nil && s[len(s)-1] == 1
}

// counts reports whether v is the constant 0, 1, … of n numbers along the last axis, of no more than that many.
func (r *rewriter) counts(v *onnx.Value, n, rank int) bool {
	t := r.constant(v)
	if t == nil || t.Len() != n || t.Rank() < 1 || t.Rank() > rank || t.Shape()[t.Rank()-1] != n {
		return false
	}
	d, err := t.Int64s()
	for i, x := range d {
		if x != int64(i) {
			return false
		}
	}
	return err == nil
}

// transposed lets products read their operands as they lie instead of transposed copies of them.
func transposed(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "MatMul") || len(n.Inputs) != 2 || !r.float(n.Outputs[0]) {
			continue
		}
		in := slices.Clone(n.Inputs)
		fresh := &onnx.Node{Op: "MatMul", Domain: ops.Internal}
		for i, name := range []string{"transA", "transB"} {
			if x := r.swapped(in[i]); x != nil {
				in[i] = x
				fresh.SetAttr(onnx.IntAttr(name, 1))
			}
		}
		if len(fresh.Attrs) == 0 || r.infos[in[0]].Rank() < 2 || r.infos[in[1]].Rank() < 2 {
			continue
		}
		for i, v := range in {
			fresh.SetInput(i, v)
		}
		r.put(fresh, n, n)
	}
	r.turned()
}

// turned has products whose columns a transposition makes rows computed so: the transpose of A·B is Bᵀ·Aᵀ.
func (r *rewriter) turned() {
	for _, n := range slices.Clone(r.graph.Nodes) {
		perm := r.permOf(n)
		rank := len(perm)
		if rank < 2 || perm[rank-1] != int64(rank-2) {
			continue
		}
		v := n.Inputs[0]
		p := v.Def()
		if p == nil || p.Op != "MatMul" || !is(p, "MatMul") && p.Domain != ops.Internal || r.next(v) != n || r.constant(v) != nil || !r.float(v) ||
			r.infos[p.Inputs[0]].Rank() < 2 || r.infos[p.Inputs[1]].Rank() < 2 {
			continue
		}
		fresh := &onnx.Node{Op: "MatMul", Domain: ops.Internal}
		fresh.SetAttr(onnx.IntAttr("transA", 1-p.Int("transB", 0)))
		fresh.SetAttr(onnx.IntAttr("transB", 1-p.Int("transA", 0)))
		fresh.SetInput(0, p.Inputs[1])
		fresh.SetInput(1, p.Inputs[0])
		for i, axis := range perm {
			switch axis {
			case int64(rank - 2):
				perm[i]++
			case int64(rank - 1):
				perm[i]--
			}
		}
		if slices.Equal(perm, identityPerm(rank)) {
			r.put(fresh, n, p)
			continue
		}
		r.put(fresh, p, p)
		info := r.infos[v]
		info.Shape = slices.Clone(info.Shape)
		info.Shape[rank-2], info.Shape[rank-1] = info.Shape[rank-1], info.Shape[rank-2]
		r.infos[v] = info
		n.SetAttr(onnx.IntsAttr("perm", perm...))
	}
}

// swapped is what v is the transpose of, if it is one that swaps the last two axes, nil otherwise.
func (r *rewriter) swapped(v *onnx.Value) *onnx.Value {
	if v.Def() == nil || r.constant(v) != nil {
		return nil
	}
	perm := r.permOf(v.Def())
	rank := len(perm)
	if rank < 2 {
		return nil
	}
	want := identityPerm(rank)
	want[rank-2], want[rank-1] = want[rank-1], want[rank-2]
	if !slices.Equal(perm, want) {
		return nil
	}
	return v.Def().Inputs[0]
}

// linear makes MatMul with a bias after it, and plain Gemm, one operator with an epilogue.
func linear(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if len(n.Outputs) != 1 || !r.float(n.Outputs[0]) {
			continue
		}
		switch {
		case is(n, "Gemm"):
			a, b, c := r.infos[n.Inputs[0]], r.infos[n.Inputs[1]], r.infos[n.Input(2)]
			if n.Int("transA", 0) != 0 || n.Float("alpha", 1) != 1 || a.Rank() != 2 || b.Rank() != 2 {
				continue
			}
			in := n.Inputs[:2:2]
			if n.Input(2) != nil {
				cols := b.Shape[1]
				if n.Int("transB", 0) != 0 {
					cols = b.Shape[0]
				}
				if n.Float("beta", 1) != 1 || c.Rank() != 1 || !c.Shape[0].Same(cols) {
					continue
				}
				in = n.Inputs[:3:3]
			}
			fresh := onnx.NewNode("Linear", in)
			fresh.Domain = ops.Internal
			fresh.SetAttr(onnx.IntAttr("transB", n.Int("transB", 0)))
			r.put(fresh, n, n)
		case is(n, "MatMul"), n.Op == "MatMul" && n.Domain == ops.Internal && n.Int("transA", 0) == 0:
			a, b := r.infos[n.Inputs[0]], r.infos[n.Inputs[1]]
			if a.Rank() < 2 || b.Rank() != 2 {
				continue
			}
			cols := b.Shape[1]
			if n.Domain == ops.Internal && n.Int("transB", 0) != 0 {
				cols = b.Shape[0]
			}
			fresh, last := onnx.NewNode("Linear", n.Inputs), n
			if n.Domain == ops.Internal {
				fresh.SetAttr(onnx.IntAttr("transB", n.Int("transB", 0)))
			}
			if add := r.next(n.Outputs[0]); is(add, "Add") {
				bias := other(add, n.Outputs[0])
				if c := r.infos[bias]; bias != n.Outputs[0] && c.Rank() == 1 && c.Shape[0].Same(cols) && c.DType == b.DType {
					fresh.SetInput(2, bias)
					last = add
				}
			}
			if last == n {
				for i := range fresh.Inputs {
					fresh.SetInput(i, nil)
				}
				continue
			}
			fresh.Domain = ops.Internal
			r.put(fresh, last, n)
		}
	}
}

// epilogues moves what follows a convolution or linear layer into it: the addition of a tensor of the same shape and an activation.
func epilogues(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		conv, lin := is(n, "Conv"), n.Op == "Linear" && n.Domain == ops.Internal
		if !conv && !lin || len(n.Outputs) != 1 || !r.float(n.Outputs[0]) {
			continue
		}
		out := n.Outputs[0]
		var residual *onnx.Value
		last := n
		if add := r.next(out); is(add, "Add") && add.Inputs[0] != add.Inputs[1] {
			if v := other(add, out); r.sameShape(v, out) {
				residual, last, out = v, add, add.Outputs[0]
			}
		}
		act, attrs := "", []*onnx.Attribute(nil)
		if next := r.next(out); next != nil && next.Inputs[0] == out {
			if a, params, ok := r.activation(next); ok {
				act, attrs, last = a, params, next
			}
		}
		if last == n {
			continue
		}
		fresh := onnx.NewNode(n.Op, n.Inputs)
		fresh.Domain = ops.Internal
		fresh.Attrs = append(slices.Clone(n.Attrs), attrs...)
		if residual != nil {
			fresh.SetInput(3, residual)
		}
		if act != "" {
			fresh.SetAttr(onnx.StringAttr("activation", act))
		}
		r.put(fresh, last, n)
		for i := range n.Inputs {
			n.SetInput(i, nil)
		}
	}
}

// activation is an epilogue's form of n.
func (r *rewriter) activation(n *onnx.Node) (name string, params []*onnx.Attribute, ok bool) {
	if onnx.CanonicalDomain(n.Domain) != "" || len(n.Outputs) != 1 {
		return "", nil, false
	}
	ab := func(alpha, beta float64) []*onnx.Attribute {
		return []*onnx.Attribute{onnx.FloatAttr("alpha", float32(alpha)), onnx.FloatAttr("beta", float32(beta))}
	}
	switch n.Op {
	case "LeakyRelu":
		return n.Op, ab(float64(n.Float("alpha", 0.01)), 0), true
	case "HardSigmoid":
		return n.Op, ab(float64(n.Float("alpha", 0.2)), float64(n.Float("beta", 0.5))), true
	case "Clip":
		lo, hi := math.Inf(-1), math.Inf(1)
		if r.since(n) < 11 {
			lo, hi = float64(n.Float("min", -math.MaxFloat32)), float64(n.Float("max", math.MaxFloat32))
		} else {
			for i, at := range []*float64{&lo, &hi} {
				if v := n.Input(1 + i); v != nil {
					x, ok := r.scalar(v)
					if !ok {
						return "", nil, false
					}
					*at = x
				}
			}
		}
		if lo > hi {
			return "", nil, false
		}
		return n.Op, ab(lo, hi), true
	case "Gelu":
		if n.Str("approximate", "none") == "tanh" {
			return "GeluTanh", nil, true
		}
		return n.Op, nil, true
	case "Swish":
		return n.Op, nil, n.Float("alpha", 1) == 1
	case "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Erf":
		return n.Op, nil, true
	}
	return "", nil, false
}
