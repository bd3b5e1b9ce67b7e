package ops

import (
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// rnnWeights is a direction's weights as panels, packed once where they are constants.
type rnnWeights[T kernel.Float] struct {
	constW, constR bool
	once           sync.Once
	panels         [2]rnnPanels[T]
	scratch        sync.Pool // of *[]T
}

// rnnPanels: w is W transposed, I×GH; r is R transposed, H×GH, or its first two gates where the third's product comes
// later, which is then in late.
type rnnPanels[T kernel.Float] struct{ w, r, late *kernel.PackedBOf[T] }

func newRNNWeights[T kernel.Float](n *Node, s *rnnSpec) *rnnWeights[T] {
	constant := func(i int) bool {
		c := n.Info(i).Const
		return c != nil && c.DType() == tensor.TypeOf[T]()
	}
	return &rnnWeights[T]{constW: constant(1), constR: constant(2)}
}

// of gives the panels of direction d.
func (ws *rnnWeights[T]) of(q *rnnProblem[T], d int) rnnPanels[T] {
	if ws.constW && ws.constR {
		ws.once.Do(func() {
			for d := range q.dirs {
				ws.panels[d] = q.pack(d)
			}
		})
		return ws.panels[d]
	}
	return q.pack(d)
}

func (q *rnnProblem[T]) pack(d int) rnnPanels[T] {
	H, GH, I := q.hidden, q.gates*q.hidden, q.I
	w, r := q.w[d*GH*I:(d+1)*GH*I], q.r[d*GH*H:(d+1)*GH*H]
	p := rnnPanels[T]{w: kernel.PackB(true, I, GH, w, I)}
	if q.kind == "GRU" && !q.linearReset {
		p.r, p.late = kernel.PackB(true, H, 2*H, r, H), kernel.PackB(true, H, H, r[2*H*H:], H)
	} else {
		p.r = kernel.PackB(true, H, GH, r, H)
	}
	return p
}

// run is the forward pass of sequences that all take T > 0 steps, of which nothing is kept for a backward pass. y, yh and
// yc may be nil.
func (q *rnnProblem[T]) run(c *Ctx, ws *rnnWeights[T], y, yh, yc []T) error {
	H, B := q.hidden, q.B
	GH := q.gates * H
	// Room for the gates of all steps, two states, a cell state, a row of h(c), and the products of one step.
	need := q.T*B*GH + 4*B*H + B*GH + GH
	if err := c.Mem.Take(int64(need) * int64(tensor.TypeOf[T]().Bits()/8)); err != nil {
		return err
	}
	buf, _ := ws.scratch.Get().(*[]T)
	if buf == nil || cap(*buf) < need {
		buf = new([]T)
		*buf = make([]T, need)
	}
	defer ws.scratch.Put(buf)
	rest := (*buf)[:need]
	cut := func(n int) []T {
		s := rest[:n:n]
		rest = rest[n:]
		return s
	}
	gates, state, cell, hc, step, bias := cut(q.T*B*GH), [2][]T{cut(B * H), cut(B * H)}, cut(B*H), cut(B*H), cut(B*GH), cut(GH)
	for d := range q.dirs {
		q.direction(d, ws.of(q, d), y, yh, yc, gates, state, cell, hc, step, bias)
	}
	return nil
}

func (q *rnnProblem[T]) direction(d int, w rnnPanels[T], y, yh, yc, gates []T, state [2][]T, cell, hc, step, bias []T) {
	H, B, GH, acts := q.hidden, q.B, q.gates*q.hidden, q.acts[d]
	clear(bias)
	var recBias []T
	if q.b != nil {
		wb, rb := q.b[d*2*GH:d*2*GH+GH], q.b[d*2*GH+GH:(d+1)*2*GH]
		copy(bias, wb)
		n := GH
		if q.kind == "GRU" && q.linearReset {
			n, recBias = 2*H, rb[2*H:]
		}
		for i := range n {
			bias[i] += rb[i]
		}
	}
	var peep []T
	if q.p != nil {
		peep = q.p[d*3*H : (d+1)*3*H]
	}
	// The input's share of all steps' gates is one product, in the order of X.
	kernel.GemmPackedB(q.pool, false, q.T*B, 1, q.x, q.I, w.w, 0, gates, GH, &kernel.EpilogueOf[T]{ColBias: bias})
	start := func(to, from []T) {
		clear(to)
		for b := range B {
			if from != nil {
				copy(to[b*H:(b+1)*H], from[q.stateAt(d, b):])
			}
		}
	}
	prev, prevLD := state[0], H
	start(prev, q.h0)
	if q.kind == "LSTM" {
		start(cell, q.c0)
	}
	for s := range q.T {
		t := s
		if q.reverse[d] {
			t = q.T - 1 - s
		}
		// Row b's gates, and where its state goes: into Y, or one of two buffers by turns.
		g, gLD := gates[t*B*GH:], GH
		if q.batchFirst {
			g, gLD = gates[t*GH:], q.T*GH
		}
		next, nextLD := state[(s+1)%2], H
		if y != nil {
			next = y[q.yAt(t, d, 0):]
			if q.batchFirst {
				nextLD = q.T * q.dirs * H
			}
		}
		product := kernel.GemmPackedB[T]
		if s%2 == 1 {
			product = kernel.GemmPackedBBack[T]
		}
		if q.kind == "GRU" && q.linearReset {
			product(q.pool, false, B, 1, prev, prevLD, w.r, 0, step, GH, nil)
		} else {
			product(q.pool, false, B, 1, prev, prevLD, w.r, 1, g, gLD, nil)
		}
		q.pool.For(B, 1+16384/GH, func(lo, hi int) {
			for b := lo; b < hi; b++ {
				g, h, p := g[b*gLD:][:GH], next[b*nextLD:][:H], prev[b*prevLD:][:H]
				switch q.kind {
				case "RNN":
					copy(h, g)
					apply(acts[0], h, q.clip)
				case "LSTM":
					q.lstm(g, peep, cell[b*H:][:H], cell[b*H:][:H], h, hc[b*H:][:H], acts, nil, 0)
				case "GRU":
					if !q.linearReset {
						apply(acts[0], g[:2*H], q.clip)
						kernel.Mul(hc[b*H:][:H], g[H:2*H], p)
						continue
					}
					rec := step[b*GH:][:GH]
					kernel.Add(g[:2*H], g[:2*H], rec[:2*H])
					if recBias != nil {
						kernel.Add(rec[2*H:], rec[2*H:], recBias)
					}
					if q.defaultActs {
						kernel.GRUCell(H, g, rec[2*H:], p, h)
						continue
					}
					apply(acts[0], g[:2*H], q.clip)
					kernel.MulAdd(g[2*H:], g[H:2*H], rec[2*H:], g[2*H:])
					q.gruOutput(g, p, h, acts)
				}
			}
		})
		if q.kind == "GRU" && !q.linearReset {
			product(q.pool, false, B, 1, hc, H, w.late, 1, g[2*H:], gLD, nil)
			for b := range B {
				q.gruOutput(g[b*gLD:][:GH], prev[b*prevLD:][:H], next[b*nextLD:][:H], acts)
			}
		}
		prev, prevLD = next, nextLD
	}
	for b := range B {
		if yh != nil {
			copy(yh[q.stateAt(d, b):][:H], prev[b*prevLD:])
		}
		if yc != nil && q.kind == "LSTM" {
			copy(yc[q.stateAt(d, b):][:H], cell[b*H:])
		}
	}
}

// gruOutput ends a row's step: g holds z and r activated and the third gate before it is.
func (q *rnnProblem[T]) gruOutput(g, prev, next []T, acts []activation) {
	H := q.hidden
	n := g[2*H : 3*H]
	apply(acts[1], n, q.clip)
	for j := range next {
		next[j] = (1-g[j])*n[j] + g[j]*prev[j]
	}
}
