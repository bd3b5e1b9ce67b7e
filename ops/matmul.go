package ops

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/internal/pages"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// MatMul and Gemm: products of matrices; and Linear, what passes make of either with what follows it.
func init() {
	mm := Floats | Of(tensor.Int32, tensor.Int64, tensor.Uint32, tensor.Uint64)
	register(
		Op{Name: "MatMul", Since: []int{1, 9, 13}, MinIn: 2, Types: []TypeSet{mm}, Infer: inferMatMul, FLOPs: matMulFLOPs,
			Compile: func(n *Node) (Kernel, error) {
				return Table{
					tensor.Float32: matMul(constPanels[float32](n, false)), tensor.Float64: matMul(constPanels[float64](n, false)),
					tensor.Int32: intMatMul[int32], tensor.Int64: intMatMul[int64],
					tensor.Uint32: intMatMul[uint32], tensor.Uint64: intMatMul[uint64],
				}.By(0), nil
			},
			Grad: gradMatMul},
		Op{Name: "Gemm", Since: []int{1, 6, 7, 9, 11, 13}, MinIn: 2, MaxIn: 3, Types: []TypeSet{mm}, Infer: inferGemm, FLOPs: matMulFLOPs,
			Compile: func(n *Node) (Kernel, error) {
				s := gemmSpec{n.Int("transA", 0) != 0, n.Int("transB", 0) != 0, float64(n.Float("alpha", 1)), float64(n.Float("beta", 1))}
				return Table{
					tensor.Float32: gemm(constPanels[float32](n, s.transB), s),
					tensor.Float64: gemm(constPanels[float64](n, s.transB), s),
					tensor.Int32:   func(c *Ctx) error { return intGemm[int32](c, s) },
					tensor.Int64:   func(c *Ctx) error { return intGemm[int64](c, s) },
					tensor.Uint32:  func(c *Ctx) error { return intGemm[uint32](c, s) },
					tensor.Uint64:  func(c *Ctx) error { return intGemm[uint64](c, s) },
				}.By(0), nil
			},
			Grad: gradGemm},
		// MatMul of matrices, or batches of them, each of which may be transposed: transA, transB.
		Op{Domain: Internal, Name: "MatMul", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats}, FLOPs: matMulFLOPs,
			Infer: func(n *Node) ([]Info, error) {
				r := *n
				r.In = slices.Clone(n.In)
				for i, trans := range []string{"transA", "transB"} {
					if x := &r.In[i]; x.Ranked && n.Int(trans, 0) != 0 {
						k := len(x.Shape)
						if k < 2 {
							return nil, fmt.Errorf("input %d of %v is no matrix", i, x.Shape)
						}
						x.Shape = slices.Clone(x.Shape)
						x.Shape[k-1], x.Shape[k-2] = x.Shape[k-2], x.Shape[k-1]
					}
				}
				return inferMatMul(&r)
			},
			Compile: func(n *Node) (Kernel, error) {
				a, b := n.Int("transA", 0) != 0, n.Int("transB", 0) != 0
				return Table{tensor.Float32: transposedMatMul[float32](a, b), tensor.Float64: transposedMatMul[float64](a, b)}.By(0), nil
			}},
		// A, B (transposed if transB), a bias of B's columns, what is added to the result.
		Op{Domain: Internal, Name: "Linear", Since: []int{1}, MinIn: 2, MaxIn: 4, Types: []TypeSet{Floats}, Infer: inferLinear, FLOPs: matMulFLOPs,
			Compile: func(n *Node) (Kernel, error) {
				e, err := endingOf(n)
				if err != nil {
					return nil, err
				}
				trans := n.Int("transB", 0) != 0
				return Table{tensor.Float32: linear(constPanels[float32](n, trans), e), tensor.Float64: linear(constPanels[float64](n, trans), e)}.By(0), nil
			}},
	)
}

// matMulFLOPs is of a product of input 0, which is transposed if transA, and another.
func matMulFLOPs(c *Ctx) int64 {
	a := c.In(0).Shape()
	k := len(a) - 1
	if k > 0 && c.Node.Int("transA", 0) != 0 {
		k--
	}
	if k < 0 {
		return 0
	}
	return 2 * int64(c.Out(0).Len()) * int64(a[k])
}

// inferLinear is a MatMul by one matrix.
func inferLinear(n *Node) ([]Info, error) {
	a, b := n.In[0], n.In[1]
	if !a.Ranked || !b.Ranked {
		return []Info{Unranked(a.DType)}, nil
	}
	for i, in := range n.In[1:] {
		if n.Has(1+i) && in.DType != a.DType && in.DType != tensor.Undefined && a.DType != tensor.Undefined {
			return nil, fmt.Errorf("input %d is of %s, the first of %s", 1+i, in.DType, a.DType)
		}
	}
	if len(b.Shape) != 2 || len(a.Shape) < 1 {
		return nil, fmt.Errorf("shapes %v and %v do not multiply", a.Shape, b.Shape)
	}
	k, cols := b.Shape[0], b.Shape[1]
	if n.Int("transB", 0) != 0 {
		k, cols = cols, k
	}
	last := len(a.Shape) - 1
	if d := a.Shape[last]; d.Known() && k.Known() && d.N != k.N {
		return nil, fmt.Errorf("shapes %v and %v do not multiply", a.Shape, b.Shape)
	}
	return []Info{Tensor(a.DType, append(slices.Clone(a.Shape[:last]), cols)...)}, nil
}

func linear[T kernel.Float](packed *panels[T], e ending) Kernel {
	return func(c *Ctx) error {
		ta, tb, y := c.In(0), c.In(1), tensor.Data[T](c.Out(0))
		trans := c.Node.Int("transB", 0) != 0
		n, k, ld := tb.Shape()[1], tb.Shape()[0], tb.Shape()[1]
		if trans {
			n, k = k, n
		}
		if len(y) == 0 {
			return nil
		}
		var bias, residual []T
		if t := c.In(2); t != nil {
			if bias = tensor.Data[T](t); len(bias) != n {
				return fmt.Errorf("a bias of %v does not suit %d columns", t.Shape(), n)
			}
		}
		if t := c.In(3); t != nil {
			if residual = tensor.Data[T](t); !slices.Equal(t.Shape(), c.Out(0).Shape()) {
				return fmt.Errorf("a residual of %v does not suit an output of %v", t.Shape(), c.Out(0).Shape())
			}
		}
		ep, rows, a := epilogue(c, e, nil, bias, residual, n), len(y)/n, tensor.Data[T](ta)
		if packed != nil {
			packed.gemm(c, false, rows, 1, a, k, 0, y, ep)
		} else {
			kernel.GemmEpilogue(c.Pool, false, trans, rows, n, k, 1, a, k, tensor.Data[T](tb), ld, 0, y, n, ep)
		}
		return nil
	}
}

// matMulDims is the shape of a product by numpy's rules, and the shapes of the operands with the
// dimension of 1 that a vector gets.
func matMulDims(a, b []Dim) (out, a2, b2 []Dim, err error) {
	if len(a) == 0 || len(b) == 0 {
		return nil, nil, nil, fmt.Errorf("a scalar has no matrix product")
	}
	a2, b2 = a, b
	if len(a) == 1 {
		a2 = []Dim{D(1), a[0]}
	}
	if len(b) == 1 {
		b2 = []Dim{b[0], D(1)}
	}
	ka, kb := a2[len(a2)-1], b2[len(b2)-2]
	if ka.Known() && kb.Known() && ka.N != kb.N {
		return nil, nil, nil, fmt.Errorf("shapes %v and %v do not multiply: %d and %d differ", a, b, ka.N, kb.N)
	}
	batch, err := BroadcastDims(a2[:len(a2)-2], b2[:len(b2)-2])
	if err != nil {
		return nil, nil, nil, err
	}
	out = slices.Clone(batch)
	if len(a) > 1 {
		out = append(out, a2[len(a2)-2])
	}
	if len(b) > 1 {
		out = append(out, b2[len(b2)-1])
	}
	return out, a2, b2, nil
}

func inferMatMul(n *Node) ([]Info, error) {
	a, b := n.In[0], n.In[1]
	if !a.Ranked || !b.Ranked {
		return []Info{Unranked(a.DType)}, nil
	}
	if a.DType != b.DType && a.DType != 0 && b.DType != 0 {
		return nil, fmt.Errorf("element types %s and %s differ", a.DType, b.DType)
	}
	out, _, _, err := matMulDims(a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	return []Info{Tensor(a.DType, out...)}, nil
}

// panels is a constant right operand, packed for products.
type panels[T kernel.Float] struct {
	trans bool
	k, n  int
	b     *tensor.Tensor

	once sync.Once
	seen atomic.Bool // a product was made of it
	made atomic.Pointer[kernel.PackedBOf[T]]
}

// usedOnce is the bytes of a matrix from which on it is not packed for a first product of few rows, which would take less time than the packing.
const usedOnce = 1 << 20

// constPanels are of a constant matrix B, transposed if trans; they are nil if B is not constant.
func constPanels[T kernel.Float](n *Node, trans bool) *panels[T] {
	b := n.Info(1).Const
	if b == nil || b.DType() != tensor.TypeOf[T]() || b.Rank() != 2 || b.Len() == 0 {
		return nil
	}
	k, cols := b.Shape()[0], b.Shape()[1]
	if trans {
		k, cols = cols, k
	}
	return &panels[T]{trans: trans, k: k, n: cols, b: b}
}

// gemm is C = alpha·op(A)·B + beta·C of m rows, followed by ep.
func (ps *panels[T]) gemm(c *Ctx, transA bool, m int, alpha T, a []T, lda int, beta T, y []T, ep *kernel.EpilogueOf[T]) {
	packed := ps.made.Load()
	if packed == nil {
		b := tensor.Data[T](ps.b)
		ld := ps.b.Shape()[1]
		if len(ps.b.Bytes()) >= usedOnce && kernel.SamePacked[T](m, ps.n, ps.trans) && !ps.seen.Swap(true) {
			kernel.GemmEpilogue(c.Pool, transA, ps.trans, m, ps.n, ps.k, alpha, a, lda, b, ld, beta, y, ps.n, ep)
			return
		}
		ps.once.Do(func() {
			ps.made.Store(kernel.PackWeights(c.Pool, ps.trans, ps.k, ps.n, b, ld))
			pages.Drop(ps.b.Bytes())
		})
		packed = ps.made.Load()
	}
	kernel.GemmPackedB(c.Pool, transA, m, alpha, a, lda, packed, beta, y, ps.n, ep)
}

// batches walks the pairs of matrices of a broadcast product.
func batches(a, b []int, f func(ia, ib, io int)) {
	rank := max(len(a), len(b))
	dim := func(s []int, i int) int {
		if j := i - (rank - len(s)); j >= 0 {
			return s[j]
		}
		return 1
	}
	n := 1
	for i := range rank {
		n *= max(dim(a, i), dim(b, i))
		if dim(a, i) == 0 || dim(b, i) == 0 {
			return
		}
	}
	for io := range n {
		ia, ib, rest := 0, 0, io
		sa, sb := 1, 1
		for i := rank - 1; i >= 0; i-- {
			da, db := dim(a, i), dim(b, i)
			d := max(da, db)
			x := rest % d
			rest /= d
			if da > 1 {
				ia += x * sa
			}
			if db > 1 {
				ib += x * sb
			}
			sa, sb = sa*da, sb*db
		}
		f(ia, ib, io)
	}
}

// matrices is the operands of a MatMul as matrices: m, n, k and the shapes of the batch.
func matrices(a, b *tensor.Tensor) (m, n, k int, ba, bb []int) {
	sa, sb := a.Shape(), b.Shape()
	if len(sa) == 1 {
		sa = []int{1, sa[0]}
	}
	if len(sb) == 1 {
		sb = []int{sb[0], 1}
	}
	return sa[len(sa)-2], sb[len(sb)-1], sa[len(sa)-1], sa[:len(sa)-2], sb[:len(sb)-2]
}

func matMul[T kernel.Float](packed *panels[T]) Kernel {
	return func(c *Ctx) error {
		ta, tb := c.In(0), c.In(1)
		a, b, y := tensor.Data[T](ta), tensor.Data[T](tb), tensor.Data[T](c.Out(0))
		m, n, k, ba, bb := matrices(ta, tb)
		if len(y) == 0 {
			return nil
		}
		if len(bb) == 0 { // one matrix on the right: the batch is just more rows
			rows := len(y) / n
			if packed != nil {
				packed.gemm(c, false, rows, 1, a, k, 0, y, nil)
			} else {
				kernel.Gemm(c.Pool, false, false, rows, n, k, 1, a, k, b, n, 0, y, n)
			}
			return nil
		}
		if slices.Equal(ba, bb) {
			count := len(y) / (m * n)
			kernel.GemmBatch(c.Pool, count, false, false, m, n, k, 1, a, m*k, k, b, k*n, n, 0, y, m*n, n)
			return nil
		}
		batches(ba, bb, func(ia, ib, io int) {
			kernel.Gemm(c.Pool, false, false, m, n, k, 1, a[ia*m*k:], k, b[ib*k*n:], n, 0, y[io*m*n:], n)
		})
		return nil
	}
}

func transposedMatMul[T kernel.Float](transA, transB bool) Kernel {
	return func(c *Ctx) error {
		ta, tb := c.In(0), c.In(1)
		sa, sb := ta.Shape(), tb.Shape()
		if len(sa) < 2 || len(sb) < 2 {
			return fmt.Errorf("%s and %s are no matrices", ta, tb)
		}
		a, b, y := tensor.Data[T](ta), tensor.Data[T](tb), tensor.Data[T](c.Out(0))
		lda, ldb := sa[len(sa)-1], sb[len(sb)-1]
		m, k, n := sa[len(sa)-2], lda, ldb
		if transA {
			m, k = k, m
		}
		if transB {
			n = sb[len(sb)-2]
		}
		ba, bb := sa[:len(sa)-2], sb[:len(sb)-2]
		switch {
		case len(y) == 0:
		case len(bb) == 0 && !transA:
			kernel.Gemm(c.Pool, false, transB, len(y)/n, n, k, 1, a, lda, b, ldb, 0, y, n)
		case slices.Equal(ba, bb):
			kernel.GemmBatch(c.Pool, len(y)/(m*n), transA, transB, m, n, k, 1, a, m*k, lda, b, k*n, ldb, 0, y, m*n, n)
		default:
			batches(ba, bb, func(ia, ib, io int) {
				kernel.Gemm(c.Pool, transA, transB, m, n, k, 1, a[ia*m*k:], lda, b[ib*k*n:], ldb, 0, y[io*m*n:], n)
			})
		}
		return nil
	}
}

type integer interface {
	int32 | int64 | uint32 | uint64
}

func intMatMul[T integer](c *Ctx) error {
	ta, tb := c.In(0), c.In(1)
	a, b, y := tensor.Data[T](ta), tensor.Data[T](tb), tensor.Data[T](c.Out(0))
	m, n, k, ba, bb := matrices(ta, tb)
	clear(y)
	batches(ba, bb, func(ia, ib, io int) {
		intProduct(m, n, k, a[ia*m*k:], k, 1, b[ib*k*n:], n, 1, y[io*m*n:])
	})
	return nil
}

// intProduct adds A·B to Y; A's and B's elements lie at row·rs + column·cs.
func intProduct[T integers](m, n, k int, a []T, ars, acs int, b []T, brs, bcs int, y []T) {
	for i := range m {
		for l := range k {
			v := a[i*ars+l*acs]
			for j := range n {
				y[i*n+j] += v * b[l*brs+j*bcs]
			}
		}
	}
}

func gradMatMul(g *Grad, n *Node, dys []*onnx.Value) ([]*onnx.Value, error) {
	a, b, dy := n.Inputs[0], n.Inputs[1], dys[0]
	ra, rb := g.Rank(a), g.Rank(b)
	// Vectors become matrices, and their gradients vectors again.
	a2, b2 := a, b
	if ra == 1 {
		a2 = g.Op("Unsqueeze", a, g.Int64s(0))
	}
	if rb == 1 {
		b2 = g.Op("Unsqueeze", b, g.Int64s(1))
	}
	if rb == 1 {
		dy = g.Op("Unsqueeze", dy, g.Int64s(-1))
	}
	if ra == 1 {
		dy = g.Op("Unsqueeze", dy, g.Int64s(-2))
	}
	var da, db *onnx.Value
	if rb <= 2 && ra > 2 {
		// One matrix on the right, as of a linear layer: dB is one product over all rows.
		rows := func(v *onnx.Value) *onnx.Value {
			if shape := g.Info(v).Shape; len(shape) > 0 && shape[len(shape)-1].N > 0 {
				return g.Op("Reshape", v, g.Int64s(-1, int64(shape[len(shape)-1].N)))
			}
			return g.Op("Reshape", v, g.Node("Concat", 1, []*onnx.Value{g.Int64s(-1), g.Dims(v, -1)}, IntAttr("axis", 0))[0])
		}
		db = g.MatMul(g.Transpose(rows(a)), rows(dy))
	} else {
		db = g.MatMul(g.Transpose(a2), dy)
	}
	db = g.SumTo(db, b2) // first, since it mostly is the last that reads a
	da = g.SumTo(g.MatMul(dy, g.Transpose(b2)), a2)
	if ra == 1 {
		da = g.ReshapeLike(da, a)
	}
	if rb == 1 {
		db = g.ReshapeLike(db, b)
	}
	return []*onnx.Value{da, db}, nil
}

type gemmSpec struct {
	transA, transB bool
	alpha, beta    float64
}

func inferGemm(n *Node) ([]Info, error) {
	a, b := n.In[0], n.In[1]
	for i, x := range n.In[1:] {
		if x.DType != a.DType && x.DType != tensor.Undefined && a.DType != tensor.Undefined {
			return nil, fmt.Errorf("inputs 0 and %d have element types %s and %s", i+1, a.DType, x.DType)
		}
	}
	if !a.Ranked || !b.Ranked {
		return []Info{Tensor(a.DType, Unknown, Unknown)}, nil
	}
	if len(a.Shape) != 2 || len(b.Shape) != 2 {
		return nil, fmt.Errorf("want matrices, got %v and %v", a.Shape, b.Shape)
	}
	m, ka, kb, k := a.Shape[0], a.Shape[1], b.Shape[0], b.Shape[1]
	if n.Int("transA", 0) != 0 {
		m, ka = ka, m
	}
	if n.Int("transB", 0) != 0 {
		kb, k = k, kb
	}
	if ka.Known() && kb.Known() && ka.N != kb.N {
		return nil, fmt.Errorf("shapes %v and %v do not multiply", a.Shape, b.Shape)
	}
	if c := n.Info(2); c.Ranked {
		s, err := BroadcastDims([]Dim{m, k}, c.Shape)
		if err != nil || len(s) > 2 || m.Known() && s[0].Known() && s[0].N != m.N || k.Known() && s[1].Known() && s[1].N != k.N {
			return nil, fmt.Errorf("input 2 (C) of %v does not broadcast to [%v %v]", c.Shape, m, k)
		}
	}
	return []Info{Tensor(a.DType, m, k)}, nil
}

// broadcastC copies beta·C, broadcast to m×n, into y.
func broadcastC[T float32 | float64 | int32 | int64 | uint32 | uint64](y, c []T, shape []int, m, n int, beta T) {
	rs, cs := 0, 0
	if k := len(shape); k > 0 && shape[k-1] > 1 {
		cs = 1
	}
	if k := len(shape); k == 2 && shape[0] > 1 {
		rs = shape[1]
	}
	for i := range m {
		for j := range n {
			y[i*n+j] = beta * c[i*rs+j*cs]
		}
	}
}

func gemm[T kernel.Float](packed *panels[T], s gemmSpec) Kernel {
	return func(c *Ctx) error {
		ta, tb := c.In(0), c.In(1)
		a, b, y := tensor.Data[T](ta), tensor.Data[T](tb), tensor.Data[T](c.Out(0))
		m, n := c.Out(0).Shape()[0], c.Out(0).Shape()[1]
		k := ta.Shape()[1]
		if s.transA {
			k = ta.Shape()[0]
		}
		beta := T(0)
		if tc := c.In(2); tc != nil && s.beta != 0 {
			broadcastC(y, tensor.Data[T](tc), tc.Shape(), m, n, T(s.beta))
			beta = 1
		}
		if m == 0 || n == 0 {
			return nil
		}
		if packed != nil {
			packed.gemm(c, s.transA, m, T(s.alpha), a, ta.Shape()[1], beta, y, nil)
		} else {
			kernel.Gemm(c.Pool, s.transA, s.transB, m, n, k, T(s.alpha), a, ta.Shape()[1], b, tb.Shape()[1], beta, y, n)
		}
		return nil
	}
}

func intGemm[T integer](c *Ctx, s gemmSpec) error {
	ta, tb := c.In(0), c.In(1)
	y := tensor.Data[T](c.Out(0))
	m, n := c.Out(0).Shape()[0], c.Out(0).Shape()[1]
	k, ars, acs := ta.Shape()[1], ta.Shape()[1], 1
	if s.transA {
		k, ars, acs = ta.Shape()[0], 1, ta.Shape()[1]
	}
	brs, bcs := tb.Shape()[1], 1
	if s.transB {
		brs, bcs = 1, tb.Shape()[1]
	}
	if s.alpha != 1 || s.beta != 1 && s.beta != 0 {
		return fmt.Errorf("alpha %v and beta %v of integers are not supported", s.alpha, s.beta)
	}
	clear(y)
	if tc := c.In(2); tc != nil && s.beta != 0 {
		broadcastC(y, tensor.Data[T](tc), tc.Shape(), m, n, 1)
	}
	intProduct(m, n, k, tensor.Data[T](ta), ars, acs, tensor.Data[T](tb), brs, bcs, y)
	return nil
}

func gradGemm(g *Grad, n *Node, dys []*onnx.Value) ([]*onnx.Value, error) {
	a, b, dy := n.Inputs[0], n.Inputs[1], dys[0]
	product := func(x, y *onnx.Value, tx, ty bool) *onnx.Value {
		var attrs []*onnx.Attribute
		for name, t := range map[string]bool{"transA": tx, "transB": ty} {
			if t {
				attrs = append(attrs, IntAttr(name, 1))
			}
		}
		return g.With("Gemm", append(attrs, FloatAttr("alpha", n.Float("alpha", 1))), x, y)
	}
	tA, tB := n.Int("transA", 0) != 0, n.Int("transB", 0) != 0
	out := make([]*onnx.Value, len(n.Inputs))
	// dB first, since it mostly is the last that reads A.
	if tB { // Y = A'Bᵀ, dB = dYᵀ·A'
		out[1] = product(dy, a, true, tA)
	} else { // dB = A'ᵀ·dY
		out[1] = product(a, dy, !tA, false)
	}
	if tA { // Y = AᵀB', dA = B'·dYᵀ
		out[0] = product(b, dy, tB, true)
	} else { // dA = dY·B'ᵀ
		out[0] = product(dy, b, false, !tB)
	}
	if n.Has(2) {
		dc := g.SumTo(dy, n.Inputs[2])
		if beta := n.Float("beta", 1); beta != 1 {
			dc = g.Mul(dc, g.Like(dc, float64(beta)))
		}
		out[2] = dc
	}
	return out, nil
}
