package ops

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Attention of the [Internal] domain is what passes make of the products, scalings, masks and softmax that exporters write for
// attention. Its operands stay as they lie before the transpositions around the products, by tiles of query rows.
func init() {
	register(
		// Q, K, V, an addend to the scores, a condition under which scores are "fill": where it holds, or where it does not if "fill_where"
		// is 0; that comes after the addition if "fill_last". Gives the result and, if wanted, the probabilities. "perm_q", "perm_k", "perm_v" are the permutations that give [any…, rows, columns]
		// each, and "perm_y" is that of the result, of which the last axis stays the last.
		Op{Domain: Internal, Name: "Attention", Since: []int{1}, MinIn: 3, MaxIn: 5, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats, Floats, Floats, Floats, Bools},
			Infer: inferStridedAttention, Grad: gradStridedAttention, Portable: portableStridedAttention,
			FLOPs: func(c *Ctx) int64 {
				s, err := stridedAttentionOf(c)
				if err != nil {
					return 0
				}
				return 2 * int64(product(s.outer)) * int64(s.rows) * int64(s.total) * int64(s.depth+s.size)
			},
			Compile: func(n *Node) (Kernel, error) {
				return Table{tensor.Float32: attendStrided[float32], tensor.Float64: attendStrided[float64]}.By(0), nil
			}},
	)
}

func inferStridedAttention(n *Node) ([]Info, error) {
	d := n.In[0].DType
	var in [5][]Dim
	for i := range n.In {
		if !n.Has(i) {
			continue
		}
		if !n.In[i].Ranked {
			return []Info{Unranked(d), Unranked(d)}, nil
		}
		in[i] = n.In[i].Shape
	}
	s, err := attentionShape(n, in, D(1), BroadcastDims)
	if err != nil {
		return nil, err
	}
	return []Info{Tensor(d, s.result...), Tensor(d, append(slices.Clone(s.outer), s.rows, s.total)...)}, nil
}

// attentionShapes is the sizes of attention, known or not, and of its result as it lies.
type attentionShapes[D any] struct {
	outer              []D
	rows, total        D
	qRows, kRows, size D
	depth              D
	result             []D
}

// permuted is s by perm, which must be a permutation.
func permuted[D any](s []D, perm []int64, what string) ([]D, error) {
	axes, err := NormAxes(perm, len(s))
	if err != nil || len(axes) != len(s) || len(s) < 2 {
		return nil, fmt.Errorf("%v does not permute the axes of %s of %v", perm, what, s)
	}
	out := make([]D, len(s))
	for i, a := range axes {
		out[i] = s[a]
	}
	return out, nil
}

// attentionShape is what follows from the shapes of the inputs, of which broadcast knows how two go together.
func attentionShape[D any](n *Node, in [5][]D, one D, broadcast func(a, b []D) ([]D, error)) (*attentionShapes[D], error) {
	var s attentionShapes[D]
	var err error
	for i, name := range []string{"q", "k", "v"} {
		if in[i], err = permuted(in[i], n.Ints("perm_"+name, nil), name); err != nil {
			return nil, err
		}
	}
	rank := len(in[0])
	row, col := rank-2, rank-1
	if len(in[1]) != rank || len(in[2]) != rank {
		return nil, fmt.Errorf("inputs Q of %v, K of %v and V of %v have not one rank", in[0], in[1], in[2])
	}
	s.qRows, s.kRows, s.depth, s.size = in[0][row], in[1][row], in[0][col], in[2][col]
	scores := append(slices.Clone(in[0][:row]), s.qRows, s.kRows)
	for _, more := range [][]D{append(slices.Clone(in[1][:row]), one, one), append(slices.Clone(in[2][:row]), one, one), in[3], in[4]} {
		if len(more) > rank {
			return nil, fmt.Errorf("a mask of %v does not suit scores of %v", more, scores)
		}
		if scores, err = broadcast(scores, more); err != nil {
			return nil, err
		}
	}
	s.outer, s.rows, s.total = scores[:row], scores[row], scores[col]
	s.result, err = permuted(append(slices.Clone(s.outer), s.rows, s.size), n.Ints("perm_y", nil), "the result")
	return &s, err
}

// attentionLayout is where an operand of attention lies: steps between its outer axes, rows and columns, 0 where it repeats.
type attentionLayout struct {
	outer    []int
	row, col int
}

func broadcastLayout(shape []int, rank int) attentionLayout {
	s := strides(shape, rank)
	return attentionLayout{s[:rank-2], s[rank-2], s[rank-1]}
}

// permutedLayout is a matrix's, whose rows are apart by row even if there is but one.
func permutedLayout(shape []int, perm []int64) attentionLayout {
	own := rowMajor(shape)
	s := make([]int, len(perm))
	for i, p := range perm {
		s[i] = own[p]
	}
	rank := len(perm)
	o := attentionLayout{s[: rank-2 : rank-2], s[rank-2], s[rank-1]}
	for i := range o.outer {
		if shape[perm[i]] == 1 {
			o.outer[i] = 0
		}
	}
	return o
}

// at is where the w-th matrix begins, of those that outer counts.
func (o attentionLayout) at(outer []int, w int) int {
	at := 0
	for i := len(o.outer) - 1; i >= 0; i-- {
		at += w % outer[i] * o.outer[i]
		w /= outer[i]
	}
	return at
}

// stridedAttention is a node's problem for the shapes at hand.
type stridedAttention struct {
	attentionShapes[int]
	q, k, v, y, add, cond attentionLayout
	byColumns             bool // K's rows lie beside each other
	scale, fill           float64
	fillWhere, fillLast   bool
	tile, tiles           int
}

func stridedAttentionOf(c *Ctx) (*stridedAttention, error) {
	return Keep(c, func() (*stridedAttention, error) {
		n := c.Node
		var in [5][]int
		for i := range in {
			if t := c.In(i); t != nil {
				in[i] = t.Shape()
			}
		}
		shapes, err := attentionShape(n, in, 1, broadcastShapes)
		if err != nil {
			return nil, err
		}
		s := &stridedAttention{attentionShapes: *shapes, scale: float64(n.Float("scale", 1)), fill: float64(n.Float("fill", 0)),
			fillWhere: n.Int("fill_where", 1) != 0, fillLast: n.Int("fill_last", 0) != 0}
		rank := len(in[0])
		s.q, s.k, s.v = permutedLayout(in[0], n.Ints("perm_q", nil)), permutedLayout(in[1], n.Ints("perm_k", nil)), permutedLayout(in[2], n.Ints("perm_v", nil))
		k, _ := permuted(in[1], n.Ints("perm_k", nil), "k")
		v, _ := permuted(in[2], n.Ints("perm_v", nil), "v")
		if k[rank-1] != s.depth || v[rank-2] != s.total {
			return nil, fmt.Errorf("inputs Q of %v, K of %v and V of %v do not go together", in[0], in[1], in[2])
		}
		s.byColumns = s.k.col != 1
		if s.q.col != 1 || s.v.col != 1 || s.byColumns && s.k.row != 1 {
			return nil, fmt.Errorf("columns of Q, K or V are not beside each other")
		}
		if in[3] != nil {
			s.add = broadcastLayout(in[3], rank)
		}
		if in[4] != nil {
			s.cond = broadcastLayout(in[4], rank)
		}
		// The result's strides are those of the axes that perm_y puts elsewhere.
		own := rowMajor(s.result)
		ys := make([]int, rank)
		for i, p := range n.Ints("perm_y", nil) {
			ys[p] = own[i]
		}
		s.y = attentionLayout{ys[:rank-2], ys[rank-2], ys[rank-1]}
		if s.y.col != 1 && s.size > 1 {
			return nil, fmt.Errorf("columns of the result are not beside each other")
		}
		s.tile = min(max(attentionRows, min(stridedRows, stridedScores/max(1, s.total))), max(1, s.rows))
		s.tiles = (s.rows + s.tile - 1) / s.tile
		return s, nil
	})
}

// stridedScores is the scores that a tile of more than attentionRows rows may have, and stridedRows its rows: the more they are the
// less often keys and values are packed.
const stridedScores, stridedRows = 1 << 16, 256

func broadcastShapes(a, b []int) ([]int, error) {
	dims, err := BroadcastDims(Dims(a), Dims(b))
	if err != nil {
		return nil, err
	}
	out := make([]int, len(dims))
	for i, d := range dims {
		out[i] = d.N
	}
	return out, nil
}

func attendStrided[T kernel.Float](c *Ctx) error {
	s, err := stridedAttentionOf(c)
	if err != nil {
		return err
	}
	y := c.Out(0)
	if y == nil {
		if y, err = c.Alloc(0, tensor.TypeOf[T](), s.result...); err != nil {
			return err
		}
	}
	if y.Len() == 0 {
		return nil
	}
	a := attendant[T]{stridedAttention: s, qs: tensor.Data[T](c.In(0)), ks: tensor.Data[T](c.In(1)), vs: tensor.Data[T](c.In(2)), ys: tensor.Data[T](y)}
	if s.fillWhere {
		a.filled = 1
	}
	if t := c.In(3); t != nil {
		a.addend = tensor.Data[T](t)
	}
	if t := c.In(4); t != nil {
		a.masked = t.Bytes()
	}
	if c.Wants(1) {
		p, err := c.Alloc(1, tensor.TypeOf[T](), append(slices.Clone(s.outer), s.rows, s.total)...)
		if err != nil {
			return err
		}
		a.ps = tensor.Data[T](p)
	}
	if s.total == 0 {
		clear(a.ys)
		return nil
	}
	kernel.InParts(c.Pool, product(s.outer)*s.tiles, 1+16384/max(1, s.tile*s.total*(s.depth+s.size)/32), a)
	return nil
}

// attendant works on tiles of rows.
type attendant[T kernel.Float] struct {
	*stridedAttention
	qs, ks, vs, ys, addend []T
	ps                     []T // the probabilities, if they are kept
	masked                 []byte
	filled                 byte // what masked has where the scores are fill
}

// Part computes the tiles [lo, hi).
func (a attendant[T]) Part(lo, hi int) {
	room, pool := takeRoom[T](a.tile * a.total)
	defer pool.Put(room)
	for w := lo; w < hi; w++ {
		m, r := w/a.tiles, w%a.tiles*a.tile
		a.attend(*room, m, r, min(a.tile, a.rows-r))
	}
}

// attend computes rows [r, r+n) of matrix m.
func (a attendant[T]) attend(room []T, m, r, n int) {
	add, cond := a.add.at(a.outer, m)+r*a.add.row, a.cond.at(a.outer, m)+r*a.cond.row
	var sums [stridedRows]T
	total := a.total
	if a.ps != nil {
		room = a.ps[(m*a.rows+r)*total:][:n*total]
	} else {
		total = a.reach(add, cond, n)
	}
	if !a.probabilities(room, sums[:n], m, r, total, add, cond) {
		total = a.total
		a.probabilities(room, sums[:n], m, r, total, add, cond)
	}
	if a.ps != nil {
		for i := range n {
			p := room[i*total:][:total]
			kernel.Scale(p, p, 1/sums[i])
		}
	}
	v, y := a.v.at(a.outer, m), a.y.at(a.outer, m)+r*a.y.row
	kernel.Gemm(nil, false, false, n, a.size, total, 1, room, total, a.vs[v:], a.v.row, 0, a.ys[y:], a.y.row)
	if a.ps != nil {
		return
	}
	for i, sum := range sums[:n] {
		out := a.ys[y+i*a.y.row:][:a.size]
		kernel.Scale(out, out, 1/sum)
	}
}

// probabilities puts what is to be divided by sums into room, for the first total keys; false if the others count, too.
func (a attendant[T]) probabilities(room, sums []T, m, r, total, add, cond int) bool {
	n := len(sums)
	q, k := a.q.at(a.outer, m), a.k.at(a.outer, m)
	// What a mask repeats is computed once.
	qn, kn := n, total
	if a.qRows < a.rows {
		qn = 1
	} else {
		q += r * a.q.row
	}
	if a.kRows < a.total {
		kn = 1
	}
	ld := max(a.k.row, a.depth)
	if a.byColumns {
		ld = a.k.col
	}
	kernel.Gemm(nil, false, !a.byColumns, qn, kn, a.depth, T(a.scale), a.qs[q:], max(a.q.row, a.depth), a.ks[k:], ld, 0, room, total)
	for i := range qn {
		for j := kn; j < total; j++ {
			room[i*total+j] = room[i*total]
		}
	}
	for i := qn; i < n; i++ {
		copy(room[i*total:][:total], room[:total])
	}
	for i := range n {
		row := room[i*total:][:total]
		if a.masked != nil && !a.fillLast {
			a.fillRow(row, cond+i*a.cond.row)
		}
		if a.addend != nil {
			if at := add + i*a.add.row; a.add.col == 1 {
				kernel.Add(row, row, a.addend[at:at+total])
			} else {
				kernel.AddScalar(row, row, a.addend[at])
			}
		}
		if a.masked != nil && a.fillLast {
			a.fillRow(row, cond+i*a.cond.row)
		}
		if total < a.total && !math.IsInf(a.fill, -1) && !(math.Exp(a.fill-float64(kernel.MaxReduce(row))) < math.SmallestNonzeroFloat32/2) {
			return false
		}
		sums[i] = kernel.SoftmaxTerms(row, row)
	}
	return true
}

// fillRow puts fill where the condition, at that place, says so.
func (a attendant[T]) fillRow(row []T, at int) {
	fill := T(a.fill)
	if a.cond.col == 0 {
		if a.masked[at] == a.filled {
			for j := range row {
				row[j] = fill
			}
		}
		return
	}
	mask := a.masked[at : at+len(row)]
	for {
		next := bytes.IndexByte(mask, a.filled)
		if next < 0 {
			return
		}
		mask, row = mask[next:], row[next:]
		n := bytes.IndexByte(mask, 1-a.filled)
		if n < 0 {
			n = len(mask)
		}
		for j := range row[:n] {
			row[j] = fill
		}
		mask, row = mask[n:], row[n:]
	}
}

// reach is the keys up to the last that any of n rows looks at: those after it are all filled, or -Inf is added to them.
func (a attendant[T]) reach(add, cond, n int) int {
	last := 0
	for i := n - 1; i >= 0 && last < a.total; i-- {
		switch {
		case a.masked != nil && a.cond.col == 1 && (a.fillLast || a.addend == nil || math.IsInf(a.fill, -1)):
			mask := a.masked[cond+i*a.cond.row:][last:a.total]
			if bytes.IndexByte(mask, 1-a.filled) >= 0 {
				last += bytes.LastIndexByte(mask, 1-a.filled) + 1
			}
		case a.addend != nil && a.masked == nil && a.add.col == 1:
			row := a.addend[add+i*a.add.row:][:a.total]
			j := a.total
			for j > last && math.IsInf(float64(row[j-1]), -1) {
				j--
			}
			last = j
		default:
			return a.total
		}
	}
	if last == 0 {
		return a.total
	}
	return last
}
