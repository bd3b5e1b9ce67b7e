package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// The gradient of the internal Attention, which keeps its probabilities for it.
func init() {
	register(
		// Q, K, V, what was added to the scores, the condition, the probabilities, dY; its attributes are Attention's. The gradients lie as what they are of.
		Op{Domain: Internal, Name: "StridedAttentionGrad", Since: []int{1}, MinIn: 3, MaxIn: 7, MinOut: 3, MaxOut: 3,
			Types: []TypeSet{Floats, Floats, Floats, Floats, Bools, Floats, Floats},
			Infer: func(n *Node) ([]Info, error) {
				return []Info{n.In[0].WithoutValue(), n.In[1].WithoutValue(), n.In[2].WithoutValue()}, nil
			},
			FLOPs: func(c *Ctx) int64 {
				s, err := stridedAttentionOf(c)
				if err != nil {
					return 0
				}
				return 4 * int64(product(s.outer)) * int64(s.rows) * int64(s.total) * int64(s.depth+s.size)
			},
			Compile:  Table{tensor.Float32: attendStridedGrad[float32], tensor.Float64: attendStridedGrad[float64]}.Always(0),
			Portable: portableStridedAttentionGrad},
	)
}

// gradStridedAttention is a kernel's unless matrices are broadcast, or more than the result is used.
func gradStridedAttention(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	if slices.ContainsFunc(dy[1:], func(d *onnx.Value) bool { return d != nil }) || len(n.Outputs) > 1 || g.Moves(n.Input(3)) || !AttentionKept(n.Node, n.In) {
		return gradPortable(g, n, dy)
	}
	infos, err := inferStridedAttention(n)
	if err != nil {
		return nil, err
	}
	p := g.output(n.Node, "probabilities", infos[1])
	return g.Internal("StridedAttentionGrad", 3, []*onnx.Value{n.Inputs[0], n.Inputs[1], n.Inputs[2], n.Input(3), n.Input(4), p, dy[0]}, n.Attrs...), nil
}

// AttentionKept reports whether a kernel has the gradient of an internal Attention, whose inputs infos tells of: no matrix is broadcast. What is
// added to the scores must get none.
func AttentionKept(node *onnx.Node, infos []Info) bool {
	n := &Node{Node: node, In: infos}
	var in [5][]Dim
	for i := range n.In {
		if n.Has(i) {
			if !n.In[i].Ranked {
				return false
			}
			in[i] = n.In[i].Shape
		}
	}
	s, err := attentionShape(n, in, D(1), BroadcastDims)
	if err != nil {
		return false
	}
	same := func(a, b []Dim) bool { return slices.EqualFunc(a, b, Dim.Same) }
	for i, name := range []string{"q", "k", "v"} {
		m, err := permuted(in[i], n.Ints("perm_"+name, nil), name)
		if err != nil || !same(m[:len(m)-2], s.outer) {
			return false
		}
	}
	return s.rows.Same(s.qRows) && s.total.Same(s.kRows)
}

// attendantGrad works on matrices.
type attendantGrad[T kernel.Float] struct {
	attendant[T]
	dys, dqs, dks, dvs []T
}

func attendStridedGrad[T kernel.Float](c *Ctx) error {
	s, err := stridedAttentionOf(c)
	if err != nil {
		return err
	}
	var given [7][]T
	for i := range given {
		if t := c.In(i); i != 3 && i != 4 {
			if t == nil || t.DType() != tensor.TypeOf[T]() {
				return fmt.Errorf("input %d is no %s", i, tensor.TypeOf[T]())
			}
			given[i] = tensor.Data[T](t)
		}
	}
	matrices := product(s.outer)
	alike := len(given[0]) == matrices*s.rows*s.depth && len(given[1]) == matrices*s.total*s.depth && len(given[2]) == matrices*s.total*s.size
	if !alike || len(given[5]) != matrices*s.rows*s.total || !slices.Equal(c.In(6).Shape(), s.result) {
		return fmt.Errorf("probabilities of %v and a gradient of %v do not suit Q of %v, K of %v and V of %v",
			c.In(5).Shape(), c.In(6).Shape(), c.In(0).Shape(), c.In(1).Shape(), c.In(2).Shape())
	}
	var outs [3][]T
	for i := range outs {
		t, err := c.Alloc(i, tensor.TypeOf[T](), c.In(i).Shape()...)
		if err != nil {
			return err
		}
		outs[i] = tensor.Data[T](t)
	}
	if matrices*s.rows*s.total == 0 {
		for _, d := range outs {
			clear(d)
		}
		return nil
	}
	if err := c.Mem.TakeEach(tensor.TypeOf[T]().Bits()/8*c.Pool.Threads(), s.tile*s.total); err != nil {
		return err
	}
	a := attendantGrad[T]{attendant: attendant[T]{stridedAttention: s, qs: given[0], ks: given[1], vs: given[2], ps: given[5]},
		dys: given[6], dqs: outs[0], dks: outs[1], dvs: outs[2]}
	if s.fillWhere {
		a.filled = 1
	}
	if t := c.In(4); t != nil {
		a.masked = t.Bytes()
	}
	kernel.InParts(c.Pool, matrices, 1+16384/max(1, s.rows*s.total*(s.depth+s.size)/32), a)
	return nil
}

// Part computes the gradients of the matrices [lo, hi), each by tiles of rows.
func (a attendantGrad[T]) Part(lo, hi int) {
	room, pool := takeRoom[T](a.tile * a.total)
	defer pool.Put(room)
	for m := lo; m < hi; m++ {
		for r := 0; r < a.rows; r += a.tile {
			a.attend(*room, m, r, min(a.tile, a.rows-r))
		}
	}
}

// attend adds what rows [r, r+n) of matrix m come to.
func (a attendantGrad[T]) attend(room []T, m, r, n int) {
	q, k, v, y := a.q.at(a.outer, m)+r*a.q.row, a.k.at(a.outer, m), a.v.at(a.outer, m), a.y.at(a.outer, m)+r*a.y.row
	qs, ks, vs, dy := a.qs[q:], a.ks[k:], a.vs[v:], a.dys[y:]
	qld, kld, vld, yld := max(a.q.row, a.depth), max(a.k.row, a.depth), max(a.v.row, a.size), max(a.y.row, a.size)
	p := a.ps[(m*a.rows+r)*a.total:][:n*a.total]
	beta := T(0)
	if r > 0 {
		beta = 1
	}
	kernel.Gemm(nil, true, false, a.total, a.size, n, 1, p, a.total, dy, yld, beta, a.dvs[v:], vld)
	kernel.Gemm(nil, false, true, n, a.total, a.size, 1, dy, yld, vs, vld, 0, room, a.total)
	cond := a.cond.at(a.outer, m) + r*a.cond.row
	a.fill = 0
	for i := range n {
		row := room[i*a.total:][:a.total]
		kernel.SoftmaxGradRow(row, p[i*a.total:][:a.total], row)
		if a.masked != nil {
			a.fillRow(row, cond+i*a.cond.row)
		}
	}
	scale := T(a.scale)
	if a.byColumns {
		kernel.Gemm(nil, false, true, n, a.depth, a.total, scale, room, a.total, ks, a.k.col, 0, a.dqs[q:], qld)
		kernel.Gemm(nil, true, false, a.depth, a.total, n, scale, qs, qld, room, a.total, beta, a.dks[k:], a.k.col)
		return
	}
	kernel.Gemm(nil, false, false, n, a.depth, a.total, scale, room, a.total, ks, kld, 0, a.dqs[q:], qld)
	kernel.Gemm(nil, true, false, a.total, a.depth, n, scale, room, a.total, qs, qld, beta, a.dks[k:], kld)
}

// portableStridedAttention is products and a softmax of all scores.
func portableStridedAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	y, p := g.stridedAttention(n, n.Inputs)
	return []*onnx.Value{y, p}[:max(1, len(n.Outputs))], g.err
}

// stridedAttention is the result and the probabilities of n, on other inputs.
func (g *Grad) stridedAttention(n *Node, in []*onnx.Value) (y, p *onnx.Value) {
	in = append(slices.Clip(in), nil, nil)
	q, k, v := g.Transpose(in[0], n.Ints("perm_q", nil)...), g.Transpose(in[1], n.Ints("perm_k", nil)...), g.Transpose(in[2], n.Ints("perm_v", nil)...)
	scores := g.MatMul(g.Mul(q, g.Like(q, float64(n.Float("scale", 1)))), g.Transpose(k))
	fill := func() {
		if cond := in[4]; cond != nil {
			yes, no := g.Like(q, float64(n.Float("fill", 0))), scores
			if n.Int("fill_where", 1) == 0 {
				yes, no = no, yes
			}
			scores = g.Op("Where", cond, yes, no)
		}
	}
	last := n.Int("fill_last", 0) != 0
	if !last {
		fill()
	}
	if add := in[3]; add != nil {
		scores = g.Add(scores, add)
	}
	if last {
		fill()
	}
	p = g.With("Softmax", []*onnx.Attribute{IntAttr("axis", -1)}, scores)
	return g.Transpose(g.MatMul(p, v), n.Ints("perm_y", nil)...), p
}

func portableStridedAttentionGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	if len(n.Inputs) < 7 {
		return nil, fmt.Errorf("there is no gradient")
	}
	return g.composed(n.Inputs[:5], n.Inputs[6:], []int{0, 1, 2}, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		y, _ := g.stridedAttention(n, in)
		return []*onnx.Value{y}
	})
}
