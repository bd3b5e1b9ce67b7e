package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Attention and its gradient, by tiles of query rows, so that no matrix of all queries by all keys is made unless it is asked for.
func init() {
	masks := Floats | Integers | Bools
	register(
		Op{Name: "Attention", Since: []int{23, 24, 25}, MinIn: 3, MaxIn: 7, MinOut: 1, MaxOut: 4,
			Types: []TypeSet{Floats, Floats, Floats, masks, Floats, Floats, Of(tensor.Int64)},
			Infer: inferAttention,
			Compile: func(n *Node) (Kernel, error) {
				s, err := attentionSpecOf(n)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return attention[float32](c, s) },
					tensor.Float64: func(c *Ctx) error { return attention[float64](c, s) },
				}.By(0), nil
			},
			Grad: gradAttention},
		Op{Domain: "ai.onnx.preview", Name: "FlexAttention", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats}, Infer: inferFlexAttention,
			BodyIn: func(n *Node, _ string, in, _ []Info) []Info { return []Info{Unranked(flexPrecision(n))} },
			Compile: func(n *Node) (Kernel, error) {
				if d := flexPrecision(n); d != tensor.Float32 && d != tensor.Float64 {
					return nil, fmt.Errorf("softmax_precision %s is not supported", d)
				}
				for _, name := range []string{"score_mod", "prob_mod"} {
					if b := n.Bodies[name]; b != nil && (b.NumInputs() != 1 || b.NumOutputs() != 1) {
						return nil, fmt.Errorf("%s takes %d and gives %d values, not one", name, b.NumInputs(), b.NumOutputs())
					}
				}
				return flexAttention, nil
			}, Grad: gradFlexAttention},
		// The node's inputs, then the gradients of its outputs: those of Q, K, V, past_key and past_value, and
		// of the scores as they go into the softmax.
		Op{Domain: Internal, Name: "AttentionGrad", Since: []int{1}, MinIn: 3, MaxIn: 11, MinOut: 3, MaxOut: 6,
			Infer: func(n *Node) ([]Info, error) {
				scores := Tensor(n.In[0].DType, Unknown, Unknown, Unknown, Unknown)
				return withoutValues([]Info{n.In[0], n.In[1], n.In[2], n.Info(4), n.Info(5), scores}), nil
			},
			Compile: func(n *Node) (Kernel, error) {
				s, err := attentionSpecOf(n)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return attentionGrad[float32](c, s) },
					tensor.Float64: func(c *Ctx) error { return attentionGrad[float64](c, s) },
				}.By(0), nil
			}, Portable: portableAttentionGrad},
	)
}

// attentionSpec is the attributes.
type attentionSpec struct {
	qHeads, kvHeads int // 0: the inputs have an axis of them
	causal          bool
	left, right     int // -1: any
	scale, softcap  float64
	mode            int
}

func attentionSpecOf(n *Node) (*attentionSpec, error) {
	s := &attentionSpec{qHeads: int(n.Int("q_num_heads", 0)), kvHeads: int(n.Int("kv_num_heads", 0)), causal: n.Int("is_causal", 0) != 0,
		left: -1, right: -1, scale: float64(n.Float("scale", 0)), softcap: float64(n.Float("softcap", 0)), mode: int(n.Int("qk_matmul_output_mode", 0))}
	if n.Since >= 25 || n.Domain == Internal {
		s.left, s.right = int(n.Int("left_window_size", -1)), int(n.Int("right_window_size", -1))
	}
	switch d := tensor.DType(n.Int("softmax_precision", 1)); {
	case s.qHeads < 0 || s.kvHeads < 0 || s.qHeads > maxWindow || s.kvHeads > maxWindow:
		return nil, fmt.Errorf("%d and %d heads are out of range", s.qHeads, s.kvHeads)
	case s.mode < 0 || s.mode > 3:
		return nil, fmt.Errorf("qk_matmul_output_mode %d is not known", s.mode)
	case !Floats.Has(d):
		return nil, fmt.Errorf("softmax_precision %s is no floating-point type", d)
	case s.left < -1 || s.right < -1:
		return nil, fmt.Errorf("a window of %d and %d is out of range", s.left, s.right)
	case !(s.softcap >= 0):
		return nil, fmt.Errorf("softcap %v is negative", s.softcap)
	}
	return s, nil
}

// headed is where the heads of a tensor lie: [B,H,S,D], or [B,S,H·D].
type headed struct {
	batch, heads, rows, size int
	flat                     bool
}

func headedOf(shape []int, heads int, what string) (headed, error) {
	switch {
	case len(shape) == 4:
		if heads != 0 && heads != shape[1] {
			return headed{}, fmt.Errorf("%s of %v has not %d heads", what, shape, heads)
		}
		return headed{shape[0], shape[1], shape[2], shape[3], false}, nil
	case len(shape) == 3 && heads > 0 && shape[2]%heads == 0:
		return headed{shape[0], heads, shape[1], shape[2] / heads, true}, nil
	case len(shape) == 3:
		return headed{}, fmt.Errorf("%s of %v does not divide among %d heads", what, shape, heads)
	}
	return headed{}, fmt.Errorf("%s of %v has neither three axes nor four", what, shape)
}

// at is where the rows of a head begin, and how far they are apart.
func (h headed) at(b, head int) (at, ld int) {
	if h.flat {
		return b*h.rows*h.heads*h.size + head*h.size, h.heads * h.size
	}
	return (b*h.heads + head) * h.rows * h.size, h.size
}

func inferAttention(n *Node) ([]Info, error) {
	s, err := attentionSpecOf(n)
	if err != nil {
		return nil, err
	}
	q, k, v := n.In[0], n.In[1], n.In[2]
	out := []Info{Unranked(q.DType), Unranked(k.DType), Unranked(v.DType), Unranked(q.DType)}
	if !q.Ranked || !k.Ranked || !v.Ranked {
		return out, nil
	}
	dims := func(i Info, heads int, what string) (d [4]Dim, err error) { // batch, heads, rows, size
		switch len(i.Shape) {
		case 4:
			return [4]Dim(i.Shape), nil
		case 3:
			if heads <= 0 {
				return d, fmt.Errorf("%s has three axes, so the number of its heads must be an attribute", what)
			}
			if w := i.Shape[2]; w.Known() && w.N%heads != 0 {
				return d, fmt.Errorf("%s of %v does not divide among %d heads", what, i.Shape, heads)
			}
			return [4]Dim{i.Shape[0], D(heads), i.Shape[1], i.Shape[2].FloorDiv(D(heads))}, nil
		}
		return d, fmt.Errorf("%s of %v has neither three axes nor four", what, i.Shape)
	}
	qd, err := dims(q, s.qHeads, "Q")
	if err != nil {
		return nil, err
	}
	kd, err := dims(k, s.kvHeads, "K")
	if err != nil {
		return nil, err
	}
	vd, err := dims(v, s.kvHeads, "V")
	if err != nil {
		return nil, err
	}
	total := kd[2]
	if n.Has(4) {
		past := n.In[4]
		switch {
		case past.Ranked && len(past.Shape) != 4:
			return nil, fmt.Errorf("past_key of %v has not four axes", past.Shape)
		case past.Ranked:
			total = total.Add(past.Shape[2])
		default:
			total = Unknown
		}
	}
	for i, of := range map[int][4]Dim{4: kd, 5: vd} {
		if past := n.Info(i); past.Rank() == 4 {
			for _, axis := range []int{0, 1, 3} {
				if a, b := past.Shape[axis], of[axis]; a.Known() && b.Known() && a.N != b.N {
					return nil, fmt.Errorf("input %d of %v does not suit keys and values of %d rows, %d heads and %d elements", i, past.Shape, of[0].N, of[1].N, of[3].N)
				}
			}
		}
	}
	if len(q.Shape) == 4 {
		out[0] = Tensor(q.DType, qd[0], qd[1], qd[2], vd[3])
	} else {
		out[0] = Tensor(q.DType, qd[0], qd[2], qd[1].Mul(vd[3]))
	}
	out[1] = Tensor(k.DType, kd[0], kd[1], total, kd[3])
	out[2] = Tensor(v.DType, vd[0], vd[1], total, vd[3])
	out[3] = Tensor(q.DType, qd[0], qd[1], qd[2], total)
	return out, nil
}

// attentionRows is the rows of a tile.
const attentionRows = 64

// attentionProblem is a node's operands.
type attentionProblem[T kernel.Float] struct {
	*attentionSpec
	q, k, v      headed // k and v with what is past, if there is
	qs, ks, vs   []T
	past         int
	total, group int
	scale        T
	mask         *tensor.Tensor
	maskAt       [4]int // strides, 0 where it repeats
	maskLen      int    // keys that the mask speaks of
	lengths      []int64
	rows         int // of a tile
	dScores      []T // gradients of the scores, where they are asked for
	dQK          []T // and of those that are the node's output
}

func newAttention[T kernel.Float](c *Ctx, s *attentionSpec) (*attentionProblem[T], error) {
	if err := c.alike(1, 2, 4, 5, 7, 8, 9); err != nil {
		return nil, err
	}
	tq, tk, tv := c.In(0), c.In(1), c.In(2)
	p := &attentionProblem[T]{attentionSpec: s, qs: tensor.Data[T](tq), ks: tensor.Data[T](tk), vs: tensor.Data[T](tv)}
	var err error
	if p.q, err = headedOf(tq.Shape(), s.qHeads, "Q"); err != nil {
		return nil, err
	}
	if p.k, err = headedOf(tk.Shape(), s.kvHeads, "K"); err != nil {
		return nil, err
	}
	if p.v, err = headedOf(tv.Shape(), s.kvHeads, "V"); err != nil {
		return nil, err
	}
	q, k, v := p.q, p.k, p.v
	if q.batch != k.batch || q.batch != v.batch || k.heads != v.heads || k.rows != v.rows || q.size != k.size || k.heads == 0 || q.heads%max(k.heads, 1) != 0 {
		return nil, fmt.Errorf("inputs Q of %v, K of %v and V of %v do not go together", tq.Shape(), tk.Shape(), tv.Shape())
	}
	p.group, p.total = q.heads/k.heads, k.rows
	p.scale = T(s.scale)
	if s.scale == 0 {
		p.scale = T(1 / math.Sqrt(float64(q.size)))
	}
	pk, pv := c.In(4), c.In(5)
	if (pk == nil) != (pv == nil) {
		return nil, fmt.Errorf("past_key and past_value come together or not at all")
	}
	if pk != nil {
		want := []int{k.batch, k.heads, 0, k.size}
		if pk.Rank() == 4 {
			want[2] = pk.Shape()[2]
		}
		if !slices.Equal(pk.Shape(), want) || !slices.Equal(pv.Shape(), []int{v.batch, v.heads, want[2], v.size}) {
			return nil, fmt.Errorf("past_key of %v and past_value of %v do not suit K of %v and V of %v", pk.Shape(), pv.Shape(), tk.Shape(), tv.Shape())
		}
		p.past = want[2]
		p.total += p.past
	}
	if t := c.In(6); t != nil {
		if p.lengths = tensor.Data[int64](t); len(p.lengths) != q.batch {
			return nil, fmt.Errorf("nonpad_kv_seqlen of %v does not suit a batch of %d", t.Shape(), q.batch)
		}
	}
	if err := p.setMask(c.In(3)); err != nil {
		return nil, err
	}
	p.rows = min(attentionRows, max(1, q.rows))
	return p, nil
}

func (p *attentionProblem[T]) setMask(t *tensor.Tensor) error {
	if t == nil {
		return nil
	}
	if d := t.DType(); d != tensor.Bool && d != tensor.TypeOf[T]() {
		return fmt.Errorf("a mask of %s does not suit Q of %s", d, tensor.TypeOf[T]())
	}
	shape := t.Shape()
	full := []int{p.q.batch, p.q.heads, p.q.rows, p.total}
	if len(shape) < 1 || len(shape) > 4 {
		return fmt.Errorf("a mask of %v does not broadcast to %v", shape, full)
	}
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		at := i + 4 - len(shape)
		switch d := shape[i]; {
		case at == 3 && d <= p.total: // shorter: the rest is masked
			p.maskAt[3], p.maskLen = 1, d
		case d == full[at]:
			p.maskAt[at] = step
		case d != 1:
			return fmt.Errorf("a mask of %v does not broadcast to %v", shape, full)
		}
		step *= shape[i]
	}
	p.mask = t
	return nil
}

// span is the keys that row i of batch b may look at, but for the mask.
func (p *attentionProblem[T]) span(b, i int) (lo, hi int) {
	hi = p.total
	at := p.past
	if p.lengths != nil {
		n := int(min(max(p.lengths[b], 0), int64(p.total)))
		hi = n
		if p.past == 0 {
			at = int(min(max(p.lengths[b], 0), int64(p.total))) - p.q.rows
		}
	}
	at += i
	if p.causal {
		hi = min(hi, at+1)
	}
	if p.left >= 0 {
		lo = max(0, at-p.left)
	}
	if p.right >= 0 {
		hi = min(hi, at+p.right+1)
	}
	if hi < lo {
		return 0, 0
	}
	return lo, hi
}

// bias adds the mask to row i of the scores, those outside its span included, which become -Inf. It reports whether
// any key is left.
func (p *attentionProblem[T]) bias(row []T, b, h, i int) bool {
	lo, hi := p.span(b, i)
	inf := T(math.Inf(-1))
	if p.mask != nil {
		hi = min(hi, p.maskLen)
		lo = min(lo, hi)
	}
	for j := range lo {
		row[j] = inf
	}
	for j := max(hi, 0); j < len(row); j++ {
		row[j] = inf
	}
	if p.mask != nil && hi > lo {
		at := b*p.maskAt[0] + h*p.maskAt[1] + i*p.maskAt[2]
		if p.mask.DType() == tensor.Bool {
			for j, keep := range tensor.Data[bool](p.mask)[at+lo : at+hi] {
				if !keep {
					row[lo+j] = inf
				}
			}
		} else {
			kernel.Add(row[lo:hi], row[lo:hi], tensor.Data[T](p.mask)[at+lo:at+hi])
		}
	}
	return hi > lo && slices.ContainsFunc(row[lo:hi], func(v T) bool { return !(v == inf) })
}

// withPast joins what is past and what is new into [B,H,total,size].
func withPast[T kernel.Float](dst, past, now []T, h headed, pastRows int) {
	total := pastRows + h.rows
	for b := range h.batch {
		for head := range h.heads {
			out := dst[(b*h.heads+head)*total*h.size:][:total*h.size]
			if pastRows > 0 {
				copy(out, past[(b*h.heads+head)*pastRows*h.size:][:pastRows*h.size])
			}
			at, ld := h.at(b, head)
			for i := range h.rows {
				copy(out[(pastRows+i)*h.size:][:h.size], now[at+i*ld:])
			}
		}
	}
}

// join puts past and new keys and values together where that is needed.
func (p *attentionProblem[T]) join(c *Ctx, keys, values *tensor.Tensor) error {
	for i, side := range []struct {
		h    *headed
		data *[]T
		out  *tensor.Tensor
	}{{&p.k, &p.ks, keys}, {&p.v, &p.vs, values}} {
		past := c.In(4 + i)
		if past == nil && side.out == nil {
			continue
		}
		if side.out == nil {
			var err error
			if side.out, err = c.New(tensor.TypeOf[T](), side.h.batch, side.h.heads, p.total, side.h.size); err != nil {
				return err
			}
		}
		var before []T
		if past != nil {
			before = tensor.Data[T](past)
		}
		dst := tensor.Data[T](side.out)
		withPast(dst, before, *side.data, *side.h, p.past)
		*side.data = dst
		side.h.rows, side.h.flat = p.total, false
	}
	return nil
}

// scores computes the probabilities of rows [r, r+n) of a head into s, n×total. keep gets each stage's scores, and, with softcap, capped
// the scores divided by it.
func (p *attentionProblem[T]) scores(s []T, b, h, r, n int, keep func(mode int, s []T)) {
	qAt, qLD := p.q.at(b, h)
	kAt, kLD := p.k.at(b, h/p.group)
	kernel.Gemm(nil, false, true, n, p.total, p.q.size, p.scale, p.qs[qAt+r*qLD:], qLD, p.ks[kAt:], kLD, 0, s, p.total)
	keep(0, s)
	if p.softcap > 0 {
		kernel.Scale(s, s, T(1/p.softcap))
		kernel.Tanh(s, s)
		kernel.Scale(s, s, T(p.softcap))
	}
	keep(1, s)
	var dead [attentionRows]bool // rows without a key to look at, which give zeros
	for i := range n {
		dead[i] = !p.bias(s[i*p.total:][:p.total], b, h, r+i)
	}
	keep(2, s)
	for i := range n {
		row := s[i*p.total:][:p.total]
		if dead[i] {
			clear(row)
		} else {
			kernel.SoftmaxRow(row, row)
		}
	}
	keep(3, s)
}

func attention[T kernel.Float](c *Ctx, s *attentionSpec) error {
	p, err := newAttention[T](c, s)
	if err != nil {
		return err
	}
	out := func(i int, shape ...int) (*tensor.Tensor, error) {
		if !c.Wants(i) {
			return nil, nil
		}
		return c.Alloc(i, tensor.TypeOf[T](), shape...)
	}
	shape := []int{p.q.batch, p.q.heads, p.q.rows, p.v.size}
	if p.q.flat {
		shape = []int{p.q.batch, p.q.rows, p.q.heads * p.v.size}
	}
	ty, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
	if err != nil {
		return err
	}
	pk, err := out(1, p.k.batch, p.k.heads, p.total, p.k.size)
	if err != nil {
		return err
	}
	pv, err := out(2, p.v.batch, p.v.heads, p.total, p.v.size)
	if err != nil {
		return err
	}
	tqk, err := out(3, p.q.batch, p.q.heads, p.q.rows, p.total)
	if err != nil {
		return err
	}
	if err := p.join(c, pk, pv); err != nil {
		return err
	}
	var qk []T
	if tqk != nil {
		qk = tensor.Data[T](tqk)
	}
	y := tensor.Data[T](ty)
	yh := headed{p.q.batch, p.q.heads, p.q.rows, p.v.size, p.q.flat}
	if len(y) == 0 && len(qk) == 0 {
		return nil
	}
	tiles := (p.q.rows + p.rows - 1) / p.rows
	c.Pool.For(p.q.batch*p.q.heads*tiles, 1+16384/max(1, p.rows*p.total*p.q.size/16), func(lo, hi int) {
		room, pool := takeRoom[T](p.rows * p.total)
		defer pool.Put(room)
		for q := lo; q < hi; q++ {
			b, h, r := q/tiles/p.q.heads, q/tiles%p.q.heads, q%tiles*p.rows
			n := min(p.rows, p.q.rows-r)
			sc := (*room)[:n*p.total]
			p.scores(sc, b, h, r, n, func(mode int, s []T) {
				if qk != nil && mode == p.mode {
					copy(qk[((b*p.q.heads+h)*p.q.rows+r)*p.total:], s)
				}
			})
			vAt, vLD := p.v.at(b, h/p.group)
			yAt, yLD := yh.at(b, h)
			if len(y) > 0 {
				kernel.Gemm(nil, false, false, n, p.v.size, p.total, 1, sc, p.total, p.vs[vAt:], vLD, 0, y[yAt+r*yLD:], yLD)
			}
		}
	})
	return nil
}

func gradAttention(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	in := make([]*onnx.Value, 7+len(dy))
	for i := range 7 {
		in[i] = n.Input(i)
	}
	copy(in[7:], dy)
	mask, outs := n.Input(3), 5
	if !g.Moves(mask) {
		mask = nil
	} else {
		outs = 6
	}
	d := g.Internal("AttentionGrad", outs, in, n.Attrs...)
	if !n.Has(4) {
		leaveOut(d, 3, 4)
	}
	if mask != nil { // which may have fewer columns than there are keys
		scores := g.Op("Slice", d[5], g.Int64s(0), g.Dims(mask, -1), g.Int64s(3))
		mask = g.SumTo(scores, mask)
	}
	return []*onnx.Value{d[0], d[1], d[2], mask, d[3], d[4]}, nil
}

// attentionGrad computes the probabilities again, tile by tile. Heads that share keys are one worker's.
func attentionGrad[T kernel.Float](c *Ctx, s *attentionSpec) error {
	p, err := newAttention[T](c, s)
	if err != nil {
		return err
	}
	kIn, vIn := p.k, p.v
	if err := p.join(c, nil, nil); err != nil {
		return err
	}
	var outs [5]*tensor.Tensor
	for i, like := range []int{0, 1, 2, 4, 5} {
		if t := c.In(like); t != nil && c.Wants(i) {
			if outs[i], err = c.Alloc(i, tensor.TypeOf[T](), t.Shape()...); err != nil {
				return err
			}
			clear(tensor.Data[T](outs[i]))
		}
	}
	if c.Wants(5) {
		t, err := c.Alloc(5, tensor.TypeOf[T](), p.q.batch, p.q.heads, p.q.rows, p.total)
		if err != nil {
			return err
		}
		p.dScores = tensor.Data[T](t)
		clear(p.dScores)
	}
	if t := c.In(10); t != nil {
		p.dQK = tensor.Data[T](t)
	}
	// Gradients of all keys and values, past ones included.
	full := func(h headed) (*tensor.Tensor, error) {
		return c.New(tensor.TypeOf[T](), h.batch, h.heads, p.total, h.size)
	}
	tk, err := full(p.k)
	if err != nil {
		return err
	}
	tv, err := full(p.v)
	if err != nil {
		return err
	}
	dk, dv := tensor.Data[T](tk), tensor.Data[T](tv)
	for i, d := range [][]T{dk, dv} {
		if t := c.In(8 + i); t != nil {
			copy(d, tensor.Data[T](t))
		}
	}
	var dy, dq []T
	if t := c.In(7); t != nil {
		if dy = tensor.Data[T](t); len(dy) != p.q.batch*p.q.heads*p.q.rows*p.v.size {
			return fmt.Errorf("a gradient of %v is none of Y", t.Shape())
		}
	}
	if outs[0] != nil {
		dq = tensor.Data[T](outs[0])
	}
	yh := headed{p.q.batch, p.q.heads, p.q.rows, p.v.size, p.q.flat}
	if (len(dy) > 0 || len(p.dQK) > 0) && p.total > 0 {
		c.Pool.For(p.k.batch*p.k.heads, 1, func(lo, hi int) {
			room, pool := takeRoom[T](3 * p.rows * p.total)
			defer pool.Put(room)
			for q := lo; q < hi; q++ {
				b, kh := q/p.k.heads, q%p.k.heads
				for h := kh * p.group; h < (kh+1)*p.group; h++ {
					for r := 0; r < p.q.rows; r += p.rows {
						n := min(p.rows, p.q.rows-r)
						p.backward(*room, b, h, r, n, dy, yh, dq, dk[q*p.total*p.k.size:], dv[q*p.total*p.v.size:])
					}
				}
			}
		})
	}
	for _, side := range []struct {
		h         headed
		d         []T
		now, past *tensor.Tensor
	}{{kIn, dk, outs[1], outs[3]}, {vIn, dv, outs[2], outs[4]}} {
		for b := range side.h.batch {
			for h := range side.h.heads {
				src := side.d[(b*side.h.heads+h)*p.total*side.h.size:][:p.total*side.h.size]
				if side.past != nil {
					copy(tensor.Data[T](side.past)[(b*side.h.heads+h)*p.past*side.h.size:], src[:p.past*side.h.size])
				}
				if side.now != nil {
					at, ld := side.h.at(b, h)
					for r := range side.h.rows {
						copy(tensor.Data[T](side.now)[at+r*ld:][:side.h.size], src[(p.past+r)*side.h.size:])
					}
				}
			}
		}
	}
	return nil
}

// backward adds the share of rows [r, r+n) of a head. room holds three matrices of n×total.
func (p *attentionProblem[T]) backward(room []T, b, h, r, n int, dy []T, yh headed, dq, dk, dv []T) {
	size := n * p.total
	prob, ds, capped := room[:size], room[size:2*size], room[2*size:3*size]
	var biased []T
	if p.dQK != nil && p.mode == 2 {
		biased = make([]T, size)
	}
	p.scores(prob, b, h, r, n, func(mode int, s []T) {
		if mode == 1 && p.softcap > 0 {
			copy(capped, s)
		}
		if mode == 2 && biased != nil {
			copy(biased, s)
		}
	})
	if len(dy) > 0 {
		yAt, yLD := yh.at(b, h)
		dyr := dy[yAt+r*yLD:]
		vAt, vLD := p.v.at(b, h/p.group)
		kernel.Gemm(nil, true, false, p.total, p.v.size, n, 1, prob, p.total, dyr, yLD, 1, dv, p.v.size)
		kernel.Gemm(nil, false, true, n, p.total, p.v.size, 1, dyr, yLD, p.vs[vAt:], vLD, 0, ds, p.total)
	} else {
		clear(ds)
	}
	own := func(mode int) { // the share that comes by the scores themselves
		if p.dQK != nil && p.mode == mode {
			kernel.Add(ds, ds, p.dQK[((b*p.q.heads+h)*p.q.rows+r)*p.total:][:size])
		}
	}
	own(3)
	for i := range n {
		d, w := ds[i*p.total:][:p.total], prob[i*p.total:][:p.total]
		sum := kernel.Dot(d, w)
		kernel.SubScalar(d, d, sum)
		kernel.Mul(d, d, w)
	}
	if p.dQK != nil && p.mode == 2 {
		own(2)
		for i, v := range biased {
			if math.IsInf(float64(v), -1) { // masked: a constant
				ds[i] = 0
			}
		}
	}
	if p.dScores != nil {
		copy(p.dScores[((b*p.q.heads+h)*p.q.rows+r)*p.total:], ds)
	}
	own(1)
	if p.softcap > 0 {
		for i, v := range capped {
			t := v / T(p.softcap)
			if ds[i] != 0 { // where nothing is masked
				ds[i] *= 1 - t*t
			}
		}
	}
	own(0)
	qAt, qLD := p.q.at(b, h)
	kAt, kLD := p.k.at(b, h/p.group)
	if dq != nil {
		kernel.Gemm(nil, false, false, n, p.q.size, p.total, p.scale, ds, p.total, p.ks[kAt:], kLD, 0, dq[qAt+r*qLD:], qLD)
	}
	kernel.Gemm(nil, true, false, p.total, p.k.size, n, p.scale, ds, p.total, p.qs[qAt+r*qLD:], qLD, 1, dk, p.k.size)
}

// flexPrecision is the type of the scores: float32, or float64 of such inputs, unless an attribute says otherwise.
func flexPrecision(n *Node) tensor.DType {
	if d := tensor.DType(n.Int("softmax_precision", 0)); d != 0 {
		return d
	}
	if n.Info(0).DType == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

func inferFlexAttention(n *Node) ([]Info, error) {
	q, v := n.In[0], n.In[2]
	if !q.Ranked || !v.Ranked {
		return []Info{Unranked(q.DType)}, nil
	}
	if len(q.Shape) != 4 || len(v.Shape) != 4 {
		return nil, fmt.Errorf("inputs Q of %v and V of %v have not four axes each", q.Shape, v.Shape)
	}
	return []Info{Tensor(q.DType, q.Shape[0], q.Shape[1], q.Shape[2], v.Shape[3])}, nil
}

// flexAttention forms all scores, since its subgraphs look at all of them.
func flexAttention(c *Ctx) error {
	d := flexPrecision(c.Node)
	var in [3]*tensor.Tensor
	for i := range in {
		var err error
		if in[i], err = tensor.Convert(c.In(i), d, true); err != nil {
			return err
		}
	}
	y, err := c.Alloc(0, c.In(0).DType(), append(slices.Clone(c.In(0).Shape()[:3]), c.In(2).Shape()[3])...)
	if err != nil {
		return err
	}
	wide, err := c.New(d, y.Shape()...)
	if err != nil {
		return err
	}
	if d == tensor.Float64 {
		err = flexible[float64](c, in, wide)
	} else {
		err = flexible[float32](c, in, wide)
	}
	if err != nil {
		return err
	}
	return tensor.ConvertInto(y, wide, true)
}

// gradFlexAttention: all scores are formed, and the subgraphs put between the products. Heads that share keys and values lie in rows one after
// the other.
func gradFlexAttention(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	d := flexPrecision(n)
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		to := func(v *onnx.Value, d tensor.DType) *onnx.Value {
			if g.DType(v) == d {
				return v
			}
			return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(d))}, v)
		}
		q, k, v := to(in[0], d), to(in[1], d), to(in[2], d)
		size := g.Op("Sqrt", g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(d))}, g.Dim(q, 3)))
		scale := g.Op("Reciprocal", size)
		if n.Attr("scale") != nil {
			scale = g.Like(q, float64(n.Float("scale", 0)))
		}
		// rows has q's heads, or the heads of what they attend to, with all rows of each.
		list := func(parts ...*onnx.Value) *onnx.Value {
			return g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, parts...)
		}
		shared := func(x *onnx.Value) *onnx.Value {
			return g.Op("Reshape", x, list(g.Dims(k, 0, 1), g.Int64s(-1), g.Dims(x, 3)))
		}
		scores := g.MatMul(shared(g.Mul(q, scale)), g.Transpose(k, 0, 1, 3, 2))
		whole := list(g.Dims(q, 0, 1, 2), g.Dims(k, 2))
		change := func(name string) {
			if a := n.Attr(name); a != nil && a.G != nil {
				scores = g.Inline(a.G, []*onnx.Value{scores})[0]
			}
		}
		scores = g.Op("Reshape", scores, whole)
		change("score_mod")
		scores = g.With("Softmax", []*onnx.Attribute{IntAttr("axis", -1)}, scores)
		change("prob_mod")
		y := g.MatMul(shared(scores), v)
		return []*onnx.Value{to(g.Op("Reshape", y, list(g.Dims(q, 0, 1, 2), g.Dims(v, 3))), n.In[0].DType)}
	})
}

func flexible[T kernel.Float](c *Ctx, in [3]*tensor.Tensor, y *tensor.Tensor) error {
	var h [3]headed
	for i, t := range in {
		var err error
		if h[i], err = headedOf(t.Shape(), 0, "QKV"[i:i+1]); err != nil {
			return err
		}
	}
	q, k, v := h[0], h[1], h[2]
	if q.flat || k.flat || v.flat || q.batch != k.batch || q.batch != v.batch || k.heads != v.heads || k.rows != v.rows || q.size != k.size || k.heads == 0 || q.heads%k.heads != 0 {
		return fmt.Errorf("inputs Q of %v, K of %v and V of %v do not go together", in[0].Shape(), in[1].Shape(), in[2].Shape())
	}
	scale := T(1 / math.Sqrt(float64(q.size)))
	if c.Node.Attr("scale") != nil {
		scale = T(c.Node.Float("scale", 0))
	}
	scores, err := c.New(tensor.TypeOf[T](), q.batch, q.heads, q.rows, k.rows)
	if err != nil {
		return err
	}
	group, heads := q.heads/k.heads, q.batch*q.heads
	head := func(w int) (qAt, kv int) { return w, w/q.heads*k.heads + w%q.heads/group }
	c.Pool.For(heads, 1, func(lo, hi int) {
		for w := lo; w < hi; w++ {
			a, b := head(w)
			kernel.Gemm(nil, false, true, q.rows, k.rows, q.size, scale, tensor.Data[T](in[0])[a*q.rows*q.size:], q.size,
				tensor.Data[T](in[1])[b*k.rows*k.size:], k.size, 0, tensor.Data[T](scores)[w*q.rows*k.rows:], k.rows)
		}
	})
	change := func(name string) error {
		body := c.Body(name)
		if body == nil {
			return nil
		}
		out, err := body.Run(c, []tensor.Value{scores})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t, ok := out[0].(*tensor.Tensor)
		if !ok || t.DType() != scores.DType() || !slices.Equal(t.Shape(), scores.Shape()) {
			return fmt.Errorf("%s gives %v for %s", name, out[0], scores)
		}
		scores = t.Clone() // it may be a constant
		return nil
	}
	if err := change("score_mod"); err != nil {
		return err
	}
	if k.rows > 0 {
		s := tensor.Data[T](scores)
		c.Pool.For(heads*q.rows, 1+4096/k.rows, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				kernel.SoftmaxRow(s[r*k.rows:][:k.rows], s[r*k.rows:][:k.rows])
			}
		})
	}
	if err := change("prob_mod"); err != nil {
		return err
	}
	out := tensor.Data[T](y)
	c.Pool.For(heads, 1, func(lo, hi int) {
		for w := lo; w < hi; w++ {
			_, b := head(w)
			if q.rows*v.size > 0 {
				kernel.Gemm(nil, false, false, q.rows, v.size, k.rows, 1, tensor.Data[T](scores)[w*q.rows*k.rows:], k.rows,
					tensor.Data[T](in[2])[b*v.rows*v.size:], v.size, 0, out[w*q.rows*v.size:], v.size)
			}
		}
	})
	return nil
}
