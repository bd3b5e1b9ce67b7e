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
	narrow := Of(tensor.Float32, tensor.Float16, tensor.BFloat16)
	register(
		Op{Name: "LinearAttention", Since: []int{27}, MinIn: 3, MaxIn: 6, MinOut: 1, MaxOut: 2, Types: []TypeSet{narrow}, Infer: inferLinearAttention,
			Compile: func(n *Node) (Kernel, error) {
				s, err := linearAttentionOf(n)
				if err != nil {
					return nil, err
				}
				return Table{tensor.Float32: func(c *Ctx) error { return linearAttention(c, s) }}.By(0), nil
			}, NoGrad: "the gradient of LinearAttention is not implemented"},
		Op{Name: "CausalConvWithState", Since: []int{27}, MinIn: 2, MaxIn: 4, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats},
			Infer: func(n *Node) ([]Info, error) {
				x, w := n.In[0], n.In[1]
				y, state := withoutValues([]Info{x})[0], Unranked(x.DType)
				if x.Ranked && len(x.Shape) != 3 || w.Ranked && len(w.Shape) != 3 {
					return nil, fmt.Errorf("an input of %v and a kernel of %v have not three axes each", x.Shape, w.Shape)
				}
				if x.Ranked && w.Ranked {
					state = Tensor(x.DType, x.Shape[0], x.Shape[1], w.Shape[2].Map(func(k int) int { return max(k-1, 0) }))
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
					w := g.Info(in[1])
					if w.Rank() != 3 || !w.Shape[0].Known() || !w.Shape[2].Known() {
						g.fail(fmt.Errorf("the kernel's shape is not known"))
						return nil
					}
					before := int64(w.Shape[2].N - 1)
					x := in[0]
					if len(in) > 3 && in[3] != nil {
						x = g.With("Concat", []*onnx.Attribute{IntAttr("axis", 2)}, in[3], x)
					} else {
						x = g.Op("Pad", x, g.Int64s(0, 0, before, 0, 0, 0))
					}
					conv := []*onnx.Value{x, in[1]}
					if len(in) > 2 && in[2] != nil {
						conv = append(conv, in[2])
					}
					y := g.With("Conv", []*onnx.Attribute{IntAttr("group", int64(w.Shape[0].N))}, conv...)
					if n.Str("activation", "none") != "none" {
						y = g.Mul(y, g.Op("Sigmoid", y))
					}
					outs := []*onnx.Value{y}
					if before > 0 {
						outs = append(outs, g.Op("Slice", x, g.Int64s(-before), g.Int64s(math.MaxInt64), g.Int64s(2)))
					}
					return outs
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
	per := func(d Dim) Dim { return d.Map(func(n int) int { return n / s.kvHeads }) }
	dk, dv := per(k.Shape[2]), per(v.Shape[2])
	out := Tensor(q.DType, q.Shape[0], q.Shape[1], dv.Map(func(n int) int { return n * s.qHeads }))
	return []Info{out, Tensor(state, q.Shape[0], D(s.kvHeads), dk, dv)}, nil
}

func linearAttention(c *Ctx, s *linearAttentionSpec) error {
	tq, tk, tv, past, decay, beta := c.In(0), c.In(1), c.In(2), c.In(3), c.In(4), c.In(5)
	q, err := headedOf(tq.Shape(), s.qHeads, "query")
	if err != nil {
		return err
	}
	k, err := headedOf(tk.Shape(), s.kvHeads, "key")
	if err != nil {
		return err
	}
	v, err := headedOf(tv.Shape(), s.kvHeads, "value")
	if err != nil {
		return err
	}
	steps, dk, dv := q.rows, k.size, v.size
	if q.batch != k.batch || q.batch != v.batch || k.rows != steps || v.rows != steps || q.size != dk || !q.flat || !k.flat || !v.flat {
		return fmt.Errorf("query of %v, key of %v and value of %v do not go together", tq.Shape(), tk.Shape(), tv.Shape())
	}
	shape := []int{q.batch, s.kvHeads, dk, dv}
	if past != nil && !slices.Equal(past.Shape(), shape) {
		return fmt.Errorf("past_state of %v should be of %v", past.Shape(), shape)
	}
	last := func(t *tensor.Tensor, what string, sizes ...int) (int, error) {
		if t == nil {
			return 0, nil
		}
		if t.Rank() != 3 || t.Shape()[0] != q.batch || t.Shape()[1] != steps || !slices.Contains(sizes, t.Shape()[2]) {
			return 0, fmt.Errorf("%s of %v does not suit query of %v", what, t.Shape(), tq.Shape())
		}
		return t.Shape()[2], nil
	}
	dWidth, err := last(decay, "decay", s.kvHeads*dk, s.kvHeads)
	if err != nil {
		return err
	}
	bWidth, err := last(beta, "beta", s.kvHeads, 1)
	if err != nil {
		return err
	}
	scale := s.scale
	if scale == 0 {
		scale = float32(1 / math.Sqrt(float64(dk)))
	}
	ty, err := c.Alloc(0, tensor.Float32, q.batch, steps, s.qHeads*dv)
	if err != nil {
		return err
	}
	states, err := c.New(tensor.Float32, shape...)
	if err != nil {
		return err
	}
	if past != nil {
		if err := tensor.ConvertInto(states, past, true); err != nil {
			return err
		}
	}
	y, st := tensor.Data[float32](ty), tensor.Data[float32](states)
	qs, ks, vs := tensor.Data[float32](tq), tensor.Data[float32](tk), tensor.Data[float32](tv)
	group := s.qHeads / s.kvHeads
	c.Pool.For(q.batch*s.kvHeads, 1+16384/max(1, steps*dk*dv), func(lo, hi int) {
		read := make([]float32, dv)
		for w := lo; w < hi; w++ {
			b, h := w/s.kvHeads, w%s.kvHeads
			state := st[w*dk*dv:][:dk*dv]
			for t := range steps {
				row := b*steps + t
				key, value := ks[(row*s.kvHeads+h)*dk:][:dk], vs[(row*s.kvHeads+h)*dv:][:dv]
				if s.gated {
					g := tensor.Data[float32](decay)[row*dWidth:][:dWidth]
					for i := range dk {
						e := h // one for each head, or for each of its elements
						if dWidth != s.kvHeads {
							e = h*dk + i
						}
						r := state[i*dv:][:dv]
						kernel.Scale(r, r, float32(math.Exp(float64(g[e]))))
					}
				}
				rate := float32(1)
				if s.delta {
					// What the state already gives for this key is taken off the value.
					clear(read)
					for i, x := range key {
						kernel.Axpy(read, x, state[i*dv:][:dv])
					}
					for j := range read {
						read[j] = value[j] - read[j]
					}
					value = read
					rate = tensor.Data[float32](beta)[row*bWidth+min(h, bWidth-1)]
				}
				for i, x := range key {
					kernel.Axpy(state[i*dv:][:dv], rate*x, value)
				}
				for qh := h * group; qh < (h+1)*group; qh++ {
					out := y[(row*s.qHeads+qh)*dv:][:dv]
					clear(out)
					for i, x := range qs[(row*s.qHeads+qh)*dk:][:dk] {
						kernel.Axpy(out, scale*x, state[i*dv:][:dv])
					}
				}
			}
		}
	})
	if !c.Wants(1) {
		return nil
	}
	d := tensor.Float32
	if past != nil {
		d = past.DType()
	}
	present, err := c.Alloc(1, d, shape...)
	if err != nil {
		return err
	}
	return tensor.ConvertInto(present, states, true)
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
