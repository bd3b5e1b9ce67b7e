package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators of models whose attention is a recurrence: LinearAttention, and CausalConvWithState before it.
func init() {
	register(
		Op{Name: "LinearAttention", Since: []int{27}, MinIn: 3, MaxIn: 6, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats}, Infer: inferLinearAttention,
			Compile: func(n *Node) (Kernel, error) {
				s, err := linearAttentionOf(n)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return linearAttention[float32](c, s) },
					tensor.Float64: func(c *Ctx) error { return linearAttention[float64](c, s) },
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				in := make([]*onnx.Value, 8)
				for i := range 6 {
					in[i] = n.Input(i)
				}
				copy(in[6:], dy)
				d := g.Internal("LinearAttentionGrad", 6, in, n.Attrs...)
				for i := 3; i < 6; i++ {
					if !n.Has(i) {
						leaveOut(d, i)
					}
				}
				return d, nil
			}},
		// The node's inputs, then the gradients of its outputs: those of its inputs.
		Op{Domain: Internal, Name: "LinearAttentionGrad", Since: []int{1}, MinIn: 3, MaxIn: 8, MinOut: 6, MaxOut: 6, Portable: portableLinearAttentionGrad,
			Infer: func(n *Node) ([]Info, error) {
				return withoutValues([]Info{n.Info(0), n.Info(1), n.Info(2), n.Info(3), n.Info(4), n.Info(5)}), nil
			},
			Compile: func(n *Node) (Kernel, error) {
				s, err := linearAttentionOf(n)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return linearAttentionGrad[float32](c, s) },
					tensor.Float64: func(c *Ctx) error { return linearAttentionGrad[float64](c, s) },
				}.By(0), nil
			}},
		Op{Name: "CausalConvWithState", Since: []int{27}, MinIn: 2, MaxIn: 4, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats},
			Infer: func(n *Node) ([]Info, error) {
				x, w := n.In[0], n.In[1]
				y, state := x.WithoutValue(), Unranked(x.DType)
				if x.Ranked && len(x.Shape) != 3 || w.Ranked && len(w.Shape) != 3 {
					return nil, fmt.Errorf("an input of %v and a kernel of %v have not three axes each", x.Shape, w.Shape)
				}
				if x.Ranked && w.Ranked {
					state = Tensor(x.DType, x.Shape[0], x.Shape[1], w.Shape[2].Sub(D(1)).Max(D(0)))
				}
				return []Info{y, state}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				act := n.Str("activation", "none")
				if act != "none" && act != "silu" && act != "swish" {
					return nil, fmt.Errorf("activation %q is none of none, silu, swish", act)
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return causalConv[float32](c, act != "none") },
					tensor.Float64: func(c *Ctx) error { return causalConv[float64](c, act != "none") },
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
					x, w := in[0], in[1]
					one := g.Int64s(1)
					before := g.Op("Sub", g.Dims(w, 2), one)
					if len(in) > 3 && in[3] != nil {
						x = g.With("Concat", []*onnx.Attribute{IntAttr("axis", 2)}, in[3], x)
					} else {
						x = g.Op("Pad", x, g.Concat(g.Int64s(0, 0), before, g.Int64s(0, 0, 0)))
					}
					var y *onnx.Value
					if shape := g.Info(w); shape.Rank() == 3 && shape.Shape[0].Known() {
						y = g.With("Conv", []*onnx.Attribute{IntAttr("group", int64(shape.Shape[0].N))}, x, w)
					} else { // what each place looks back at, as an axis
						at := g.Op("Add", g.Op("Unsqueeze", g.Positions(in[0], 2), one), g.Positions(w, 2))
						y = g.ReduceSum(g.Mul(g.With("Gather", []*onnx.Attribute{IntAttr("axis", 2)}, x, at), w), false, 3)
					}
					if len(in) > 2 && in[2] != nil {
						y = g.Add(y, g.Op("Unsqueeze", in[2], one))
					}
					if n.Str("activation", "none") != "none" {
						y = g.Mul(y, g.Op("Sigmoid", y))
					}
					return []*onnx.Value{y, g.Op("Slice", x, g.Dims(in[0], 2), g.Int64s(math.MaxInt64), g.Int64s(2))}
				})
			}},
	)
}

type linearAttentionSpec struct {
	qHeads, kvHeads int
	gated, delta    bool
	scale           float32
}

func linearAttentionOf(n *Node) (*linearAttentionSpec, error) {
	s := &linearAttentionSpec{qHeads: int(n.Int("q_num_heads", 0)), kvHeads: int(n.Int("kv_num_heads", 0)), scale: n.Float("scale", 0)}
	rule := n.Str("update_rule", "gated_delta")
	switch rule {
	case "linear":
	case "gated":
		s.gated = true
	case "delta":
		s.delta = true
	case "gated_delta":
		s.gated, s.delta = true, true
	default:
		return nil, fmt.Errorf("update_rule %q is none of linear, gated, delta, gated_delta", rule)
	}
	if s.qHeads < 1 || s.kvHeads < 1 || s.qHeads%s.kvHeads != 0 || s.qHeads > maxWindow {
		return nil, fmt.Errorf("%d heads of queries and %d of keys do not go together", s.qHeads, s.kvHeads)
	}
	if s.gated && !n.Has(4) || s.delta && !n.Has(5) {
		return nil, fmt.Errorf("update_rule %q needs decay (input 4) or beta (input 5), which is left out", rule)
	}
	return s, nil
}

func inferLinearAttention(n *Node) ([]Info, error) {
	s, err := linearAttentionOf(n)
	if err != nil {
		return nil, err
	}
	q, k, v := n.In[0], n.In[1], n.In[2]
	state := q.DType
	if n.Has(3) {
		state = n.In[3].DType
	}
	if !q.Ranked || !k.Ranked || !v.Ranked {
		return []Info{Unranked(q.DType), Unranked(state)}, nil
	}
	if len(q.Shape) != 3 || len(k.Shape) != 3 || len(v.Shape) != 3 {
		return nil, fmt.Errorf("query of %v, key of %v and value of %v have not three axes each", q.Shape, k.Shape, v.Shape)
	}
	for _, x := range []struct {
		what  string
		width Dim
		heads int
	}{{"query", q.Shape[2], s.qHeads}, {"key", k.Shape[2], s.kvHeads}, {"value", v.Shape[2], s.kvHeads}} {
		if x.width.Known() && x.width.N%x.heads != 0 {
			return nil, fmt.Errorf("%s of %d columns does not divide among %d heads", x.what, x.width.N, x.heads)
		}
	}
	dk, dv := k.Shape[2].FloorDiv(D(s.kvHeads)), v.Shape[2].FloorDiv(D(s.kvHeads))
	out := Tensor(q.DType, q.Shape[0], q.Shape[1], dv.Mul(D(s.qHeads)))
	return []Info{out, Tensor(state, q.Shape[0], D(s.kvHeads), dk, dv)}, nil
}

// linearProblem is one node's operands. Each head of keys and values has a state S, dk×dv.
type linearProblem[T kernel.Float] struct {
	*linearAttentionSpec
	batch, steps, dk, dv, group int
	q, k, v, decay, beta        []T
	dWidth, bWidth              int // of a row of decay and of beta
	scale                       T
}

func newLinearProblem[T kernel.Float](c *Ctx, s *linearAttentionSpec) (*linearProblem[T], error) {
	if err := c.alike(1, 2, 4, 5, 6); err != nil { // states may be wider
		return nil, err
	}
	tq, tk, tv, past := c.In(0), c.In(1), c.In(2), c.In(3)
	q, err := headedOf(tq.Shape(), s.qHeads, "query")
	if err != nil {
		return nil, err
	}
	k, err := headedOf(tk.Shape(), s.kvHeads, "key")
	if err != nil {
		return nil, err
	}
	v, err := headedOf(tv.Shape(), s.kvHeads, "value")
	if err != nil {
		return nil, err
	}
	if q.batch != k.batch || q.batch != v.batch || k.rows != q.rows || v.rows != q.rows || q.size != k.size || !q.flat || !k.flat || !v.flat {
		return nil, fmt.Errorf("query of %v, key of %v and value of %v do not go together", tq.Shape(), tk.Shape(), tv.Shape())
	}
	p := &linearProblem[T]{linearAttentionSpec: s, batch: q.batch, steps: q.rows, dk: k.size, dv: v.size, group: s.qHeads / s.kvHeads,
		q: tensor.Data[T](tq), k: tensor.Data[T](tk), v: tensor.Data[T](tv), scale: T(s.scale)}
	if p.scale == 0 {
		p.scale = T(1 / math.Sqrt(float64(p.dk)))
	}
	if shape := p.stateShape(); past != nil && !slices.Equal(past.Shape(), shape) {
		return nil, fmt.Errorf("past_state of %v should be of %v", past.Shape(), shape)
	}
	for _, x := range []struct {
		i     int
		what  string
		sizes []int
		data  *[]T
		width *int
	}{{4, "decay", []int{s.kvHeads * p.dk, s.kvHeads}, &p.decay, &p.dWidth}, {5, "beta", []int{s.kvHeads, 1}, &p.beta, &p.bWidth}} {
		t := c.In(x.i)
		if t == nil {
			continue
		}
		if t.Rank() != 3 || t.Shape()[0] != p.batch || t.Shape()[1] != p.steps || !slices.Contains(x.sizes, t.Shape()[2]) {
			return nil, fmt.Errorf("%s of %v does not suit query of %v", x.what, t.Shape(), tq.Shape())
		}
		*x.data, *x.width = tensor.Data[T](t), t.Shape()[2]
	}
	return p, nil
}

func (p *linearProblem[T]) stateShape() []int { return []int{p.batch, p.kvHeads, p.dk, p.dv} }

// keyAt, valueAt and queryAt are where a head's row is; row is batch·steps + step.
func (p *linearProblem[T]) keyAt(row, h int) int   { return (row*p.kvHeads + h) * p.dk }
func (p *linearProblem[T]) valueAt(row, h int) int { return (row*p.kvHeads + h) * p.dv }
func (p *linearProblem[T]) queryAt(row, h int) int { return (row*p.qHeads + h) * p.dk }

// decayAt is where element i of a key's decay is: of its own, or its head's.
func (p *linearProblem[T]) decayAt(row, h, i int) int {
	if p.dWidth != p.kvHeads {
		return row*p.dWidth + h*p.dk + i
	}
	return row*p.dWidth + h
}

func (p *linearProblem[T]) betaAt(row, h int) int { return row*p.bWidth + min(h, p.bWidth-1) }

// fade applies a step's decay to the state of a head.
func (p *linearProblem[T]) fade(state []T, row, h int) {
	if !p.gated {
		return
	}
	for i := range p.dk {
		r := state[i*p.dv:][:p.dv]
		kernel.Scale(r, r, T(math.Exp(float64(p.decay[p.decayAt(row, h, i)]))))
	}
}

// added is what a step adds to the faded state for its key, and its rate. Where that is not the value itself, it lies in read.
func (p *linearProblem[T]) added(state []T, row, h int, read []T) (added []T, rate T) {
	value := p.v[p.valueAt(row, h):][:p.dv]
	if !p.delta {
		return value, 1
	}
	// What the state already gives for this key is taken off the value.
	clear(read)
	for i, x := range p.k[p.keyAt(row, h):][:p.dk] {
		kernel.Axpy(read, x, state[i*p.dv:][:p.dv])
	}
	for j := range read {
		read[j] = value[j] - read[j]
	}
	return read, p.beta[p.betaAt(row, h)]
}

// step takes the state of a head one step on.
func (p *linearProblem[T]) step(state []T, row, h int, read []T) {
	p.fade(state, row, h)
	added, rate := p.added(state, row, h, read)
	for i, x := range p.k[p.keyAt(row, h):][:p.dk] {
		kernel.Axpy(state[i*p.dv:][:p.dv], rate*x, added)
	}
}

func linearAttention[T kernel.Float](c *Ctx, s *linearAttentionSpec) error {
	p, err := newLinearProblem[T](c, s)
	if err != nil {
		return err
	}
	past, dk, dv := c.In(3), p.dk, p.dv
	ty, err := c.Alloc(0, tensor.TypeOf[T](), p.batch, p.steps, s.qHeads*dv)
	if err != nil {
		return err
	}
	states, err := c.New(tensor.TypeOf[T](), p.stateShape()...)
	if err != nil {
		return err
	}
	if past != nil {
		if err := tensor.ConvertInto(states, past, true); err != nil {
			return err
		}
	}
	y, st := tensor.Data[T](ty), tensor.Data[T](states)
	c.Pool.For(p.batch*s.kvHeads, 1+16384/max(1, p.steps*dk*dv), func(lo, hi int) {
		read := make([]T, dv)
		for w := lo; w < hi; w++ {
			b, h := w/s.kvHeads, w%s.kvHeads
			state := st[w*dk*dv:][:dk*dv]
			for t := range p.steps {
				row := b*p.steps + t
				p.step(state, row, h, read)
				for qh := h * p.group; qh < (h+1)*p.group; qh++ {
					out := y[(row*s.qHeads+qh)*dv:][:dv]
					clear(out)
					for i, x := range p.q[p.queryAt(row, qh):][:dk] {
						kernel.Axpy(out, p.scale*x, state[i*dv:][:dv])
					}
				}
			}
		}
	})
	if !c.Wants(1) {
		return nil
	}
	d := tensor.TypeOf[T]()
	if past != nil {
		d = past.DType()
	}
	present, err := c.Alloc(1, d, p.stateShape()...)
	if err != nil {
		return err
	}
	return tensor.ConvertInto(present, states, true)
}

// linearAttentionGrad makes each head's states again and goes back through them.
func linearAttentionGrad[T kernel.Float](c *Ctx, s *linearAttentionSpec) error {
	p, err := newLinearProblem[T](c, s)
	if err != nil {
		return err
	}
	dk, dv, size := p.dk, p.dv, p.dk*p.dv
	float := tensor.TypeOf[T]()
	var sums [6]*tensor.Tensor
	var d [6][]T
	for i := range d {
		if c.In(i) == nil {
			continue
		}
		if sums[i], err = c.New(float, c.In(i).Shape()...); err != nil {
			return err
		}
		d[i] = tensor.Data[T](sums[i])
	}
	// State t is that before step t; behind them the gradient of the state and two rows.
	room, err := c.New(float, (p.steps+2)*size+2*dv)
	if err != nil {
		return err
	}
	mem := tensor.Data[T](room)
	ds, read, dAdded := mem[(p.steps+1)*size:][:size], mem[(p.steps+2)*size:][:dv], mem[(p.steps+2)*size+dv:][:dv]
	var dy, dPresent []T
	if t := c.In(6); t != nil {
		dy = tensor.Data[T](t)
	}
	if t := c.In(7); t != nil {
		wide, err := tensor.Convert(t, float, true)
		if err != nil {
			return err
		}
		dPresent = tensor.Data[T](wide)
	}
	for w := range p.batch * s.kvHeads {
		b, h := w/s.kvHeads, w%s.kvHeads
		state := func(t int) []T { return mem[t*size:][:size] }
		clear(state(0))
		if past := c.In(3); past != nil {
			for i := range size {
				state(0)[i] = T(tensor.Float64At(past, w*size+i))
			}
		}
		for t := range p.steps {
			copy(state(t+1), state(t))
			p.step(state(t+1), b*p.steps+t, h, read)
		}
		clear(ds)
		if dPresent != nil {
			copy(ds, dPresent[w*size:])
		}
		for t := p.steps - 1; t >= 0; t-- {
			row := b*p.steps + t
			after, before := state(t+1), state(t)
			for qh := h * p.group; dy != nil && qh < (h+1)*p.group; qh++ {
				q, dq, dOut := p.q[p.queryAt(row, qh):][:dk], d[0][p.queryAt(row, qh):][:dk], dy[(row*s.qHeads+qh)*dv:][:dv]
				for i, x := range q {
					dq[i] += p.scale * kernel.Dot(after[i*dv:][:dv], dOut)
					kernel.Axpy(ds[i*dv:][:dv], p.scale*x, dOut)
				}
			}
			copy(after, before) // and from here on it is the faded state
			p.fade(after, row, h)
			added, rate := p.added(after, row, h, read)
			key, dKey, dValue := p.k[p.keyAt(row, h):][:dk], d[1][p.keyAt(row, h):][:dk], d[2][p.valueAt(row, h):][:dv]
			clear(dAdded)
			for i, x := range key {
				toward := kernel.Dot(ds[i*dv:][:dv], added)
				dKey[i] += rate * toward
				if s.delta {
					d[5][p.betaAt(row, h)] += x * toward
				}
				kernel.Axpy(dAdded, rate*x, ds[i*dv:][:dv])
			}
			kernel.Add(dValue, dValue, dAdded)
			for i, x := range key {
				if s.delta {
					dKey[i] -= kernel.Dot(after[i*dv:][:dv], dAdded)
					kernel.Axpy(ds[i*dv:][:dv], -x, dAdded)
				}
				if s.gated {
					e := p.decayAt(row, h, i)
					d[4][e] += kernel.Dot(ds[i*dv:][:dv], after[i*dv:][:dv])
					kernel.Scale(ds[i*dv:][:dv], ds[i*dv:][:dv], T(math.Exp(float64(p.decay[e]))))
				}
			}
		}
		if d[3] != nil {
			copy(d[3][w*size:], ds)
		}
	}
	for i, t := range sums {
		if t == nil || !c.Wants(i) {
			continue
		}
		out, err := c.Alloc(i, c.In(i).DType(), c.In(i).Shape()...)
		if err != nil {
			return err
		}
		if err := tensor.ConvertInto(out, t, true); err != nil {
			return err
		}
	}
	return nil
}

// causalConv is a depthwise convolution that looks back, over the state and the input.
func causalConv[T kernel.Float](c *Ctx, silu bool) error {
	x, w, bias, past := c.In(0), c.In(1), c.In(2), c.In(3)
	if x.Rank() != 3 || w.Rank() != 3 || w.Shape()[0] != x.Shape()[1] || w.Shape()[1] != 1 || w.Shape()[2] < 1 || bias != nil && bias.Len() != w.Shape()[0] {
		return fmt.Errorf("an input of %v and a kernel of %v do not go together", x.Shape(), w.Shape())
	}
	batch, channels, length, taps := x.Shape()[0], x.Shape()[1], x.Shape()[2], w.Shape()[2]
	if past != nil && !slices.Equal(past.Shape(), []int{batch, channels, taps - 1}) {
		return fmt.Errorf("past_state of %v should be of %v", past.Shape(), []int{batch, channels, taps - 1})
	}
	ty, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	var state []T
	if c.Wants(1) {
		t, err := c.Alloc(1, tensor.TypeOf[T](), batch, channels, taps-1)
		if err != nil {
			return err
		}
		state = tensor.Data[T](t)
	}
	scratch, err := c.New(tensor.TypeOf[T](), length+taps-1)
	if err != nil {
		return err
	}
	xs, ws, y, line := tensor.Data[T](x), tensor.Data[T](w), tensor.Data[T](ty), tensor.Data[T](scratch)
	for q := range batch * channels {
		clear(line)
		if past != nil {
			copy(line, tensor.Data[T](past)[q*(taps-1):][:taps-1])
		}
		copy(line[taps-1:], xs[q*length:][:length])
		out, b := y[q*length:][:length], T(0)
		if bias != nil {
			b = tensor.Data[T](bias)[q%channels]
		}
		for i := range out {
			out[i] = b
		}
		for t := range taps {
			kernel.Axpy(out, ws[q%channels*taps+t], line[t:t+length])
		}
		if silu {
			kernel.Silu(out, out)
		}
		if state != nil {
			copy(state[q*(taps-1):][:taps-1], line[length:])
		}
	}
	return nil
}

// portableLinearAttentionGrad differentiates the node written as a Scan over its steps.
func portableLinearAttentionGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	s, err := linearAttentionOf(n)
	if err != nil {
		return nil, err
	}
	own, wide := g.DType(n.Inputs[0]), g.normWide(n.Inputs[0])
	in, dy := make([]*onnx.Value, 6), make([]*onnx.Value, 2)
	var wrt []int
	for i := range in {
		if v := n.Input(i); v != nil {
			in[i] = g.Cast(v, wide)
			if n.Outputs[i] != nil {
				wrt = append(wrt, i)
			}
		}
	}
	for i := range dy {
		if d := n.Input(6 + i); d != nil {
			dy[i] = g.Cast(d, wide)
		}
	}
	ds, err := g.composed(in, dy, wrt, func(g *Grad, in []*onnx.Value) []*onnx.Value { return g.linearAttention(s, in) })
	if err != nil {
		return nil, err
	}
	dx := make([]*onnx.Value, 6)
	for k, i := range wrt {
		d := own
		if i == 3 {
			d = g.DType(n.Inputs[3])
		}
		dx[i] = g.Cast(ds[k], d)
	}
	return dx, nil
}

// linearAttention is LinearAttention's outputs by standard operators.
func (g *Grad) linearAttention(s *linearAttentionSpec, in []*onnx.Value) []*onnx.Value {
	batch, heads := g.Dims(in[0], 0), int64(s.kvHeads)
	split := func(v *onnx.Value, parts ...int64) *onnx.Value { // of the last axis
		return g.Op("Reshape", v, g.Int64s(append([]int64{0, 0}, parts...)...))
	}
	q, k, v := split(in[0], heads, int64(s.qHeads/s.kvHeads), -1), split(in[1], heads, -1, 1), split(in[2], heads, 1, -1)
	scale := g.Op("Reciprocal", g.Op("Sqrt", g.Cast(g.Dim(k, 3), g.DType(k))))
	if s.scale != 0 {
		scale = g.Like(k, float64(s.scale))
	}
	scanned := []*onnx.Value{g.Mul(q, scale), k, v}
	if s.gated {
		scanned = append(scanned, split(g.Op("Exp", in[4]), heads, -1, 1))
	}
	if s.delta {
		scanned = append(scanned, split(in[5], -1, 1, 1))
	}
	state := in[3]
	if state == nil {
		state = g.Fill(k, g.Concat(batch, g.Int64s(heads), g.Dims(k, 3), g.Dims(v, 4)), 0)
	}
	last, ys := g.scan([]*onnx.Value{state}, scanned, 1, false, func(g *Grad, before, x []*onnx.Value) (after, results []*onnx.Value) {
		state, key, added := before[0], x[1], x[2]
		if s.gated {
			state = g.Mul(state, x[3])
		}
		if s.delta { // what the state already gives for this key is taken off the value
			added = g.Sub(added, g.MatMul(g.Transpose(key), state))
			key = g.Mul(key, x[len(x)-1])
		}
		state = g.Add(state, g.MatMul(key, added))
		return []*onnx.Value{state}, []*onnx.Value{g.MatMul(x[0], state)}
	})
	return []*onnx.Value{g.Op("Reshape", ys[0], g.Int64s(0, 0, -1)), last[0]}
}
