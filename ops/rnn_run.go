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

// rnnStep is one time step of one direction: operands of all rows, and how far apart those of one row and the next are.
type rnnStep[T kernel.Float] struct {
	gates, prev, next, cell, hc, rec []T // rec is the product with R where it is not part of gates
	peep, recBias                    []T
	gatesLD, prevLD, nextLD          int
	acts                             []activation
}

// run is the forward pass of which nothing is kept for a backward pass. y, yh and yc may be nil.
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
	gates, state, cell, hc, rec, bias := cut(q.T*B*GH), [2][]T{cut(B * H), cut(B * H)}, cut(B*H), cut(B*H), cut(B*GH), cut(GH)
	for d := range q.dirs {
		q.step = rnnStep[T]{cell: cell, hc: hc, rec: rec, acts: q.acts[d]}
		q.direction(d, ws.of(q, d), y, yh, yc, gates, state, bias)
	}
	return nil
}

// direction computes every row for all T steps. What a row gives outside its own length means nothing: it is cleared in the end.
func (q *rnnProblem[T]) direction(d int, w rnnPanels[T], y, yh, yc, gates []T, state [2][]T, bias []T) {
	H, B, GH, st := q.hidden, q.B, q.gates*q.hidden, &q.step
	clear(bias)
	if q.b != nil {
		wb, rb := q.b[d*2*GH:d*2*GH+GH], q.b[d*2*GH+GH:(d+1)*2*GH]
		copy(bias, wb)
		n := GH
		if q.kind == "GRU" && q.linearReset {
			n, st.recBias = 2*H, rb[2*H:]
		}
		for i := range n {
			bias[i] += rb[i]
		}
	}
	if q.p != nil {
		st.peep = q.p[d*3*H : (d+1)*3*H]
	}
	// The input's share of all steps' gates is one product, in the order of X.
	q.ep = kernel.EpilogueOf[T]{ColBias: bias}
	kernel.GemmPackedB(q.pool, false, q.T*B, 1, q.x, q.I, w.w, 0, gates, GH, &q.ep)
	st.prev, st.prevLD = state[0], H
	for b := range B {
		q.start(d, b)
		if q.lens[b] == 0 {
			q.leave(d, b, st.prev[b*H:], yh, yc)
		}
	}
	for s := range q.T {
		t := s
		if q.reverse[d] {
			t = q.T - 1 - s
		}
		// Row b's gates, and where its state goes: into Y, or one of two buffers by turns.
		st.gates, st.gatesLD = gates[t*B*GH:], GH
		if q.batchFirst {
			st.gates, st.gatesLD = gates[t*GH:], q.T*GH
		}
		st.next, st.nextLD = state[(s+1)%2], H
		if y != nil {
			st.next = y[q.yAt(t, d, 0):]
			if q.batchFirst {
				st.nextLD = q.T * q.dirs * H
			}
		}
		if q.reverse[d] && s > 0 {
			for b, n := range q.lens {
				if n == t+1 {
					q.start(d, b)
				}
			}
		}
		product := kernel.GemmPackedB[T]
		if s%2 == 1 {
			product = kernel.GemmPackedBBack[T]
		}
		if q.kind == "GRU" && q.linearReset {
			product(q.pool, false, B, 1, st.prev, st.prevLD, w.r, 0, st.rec, GH, nil)
		} else {
			product(q.pool, false, B, 1, st.prev, st.prevLD, w.r, 1, st.gates, st.gatesLD, nil)
		}
		if grain := 1 + 16384/GH; q.pool.Alone(B, grain) {
			q.cells(0, B)
		} else {
			q.pool.For(B, grain, q.cells)
		}
		if q.kind == "GRU" && !q.linearReset {
			product(q.pool, false, B, 1, st.hc, H, w.late, 1, st.gates[2*H:], st.gatesLD, nil)
			for b := range B {
				q.gruOutput(st.gates[b*st.gatesLD:][:GH], st.prev[b*st.prevLD:][:H], st.next[b*st.nextLD:][:H], st.acts)
			}
		}
		for b, n := range q.lens {
			if n > 0 && q.time(d, n-1, b) == t {
				q.leave(d, b, st.next[b*st.nextLD:], yh, yc)
			}
		}
		st.prev, st.prevLD = st.next, st.nextLD
	}
	if y != nil {
		for b, n := range q.lens {
			for t := n; t < q.T; t++ {
				clear(y[q.yAt(t, d, b):][:H])
			}
		}
	}
}

// start puts row b's initial states where the next step looks for them.
func (q *rnnProblem[T]) start(d, b int) {
	H, st := q.hidden, &q.step
	initial := func(to, from []T) {
		if from == nil {
			clear(to[:H])
		} else {
			copy(to[:H], from[q.stateAt(d, b):])
		}
	}
	initial(st.prev[b*st.prevLD:], q.h0)
	initial(st.cell[b*H:], q.c0)
}

// leave copies row b's last states, h and the cell's, into the outputs.
func (q *rnnProblem[T]) leave(d, b int, h, yh, yc []T) {
	H, at := q.hidden, q.stateAt(d, b)
	if yh != nil {
		copy(yh[at:at+H], h)
	}
	if yc != nil && q.kind == "LSTM" {
		copy(yc[at:at+H], q.step.cell[b*H:])
	}
}

// cells does a step's work on rows [lo, hi) after the products.
func (q *rnnProblem[T]) cells(lo, hi int) {
	H, GH, st := q.hidden, q.gates*q.hidden, &q.step
	for b := lo; b < hi; b++ {
		g, h, p := st.gates[b*st.gatesLD:][:GH], st.next[b*st.nextLD:][:H], st.prev[b*st.prevLD:][:H]
		cell, hc := st.cell[b*H:][:H], st.hc[b*H:][:H]
		switch q.kind {
		case "RNN":
			copy(h, g)
			apply(st.acts[0], h, q.clip)
		case "LSTM":
			q.lstm(g, st.peep, cell, cell, h, hc, st.acts, nil, 0)
		case "GRU":
			if !q.linearReset {
				apply(st.acts[0], g[:2*H], q.clip)
				kernel.Mul(hc, g[H:2*H], p)
				continue
			}
			rec := st.rec[b*GH:][:GH]
			kernel.Add(g[:2*H], g[:2*H], rec[:2*H])
			if st.recBias != nil {
				kernel.Add(rec[2*H:], rec[2*H:], st.recBias)
			}
			if q.defaultActs {
				kernel.GRUCell(H, g, rec[2*H:], p, h)
				continue
			}
			apply(st.acts[0], g[:2*H], q.clip)
			kernel.MulAdd(g[2*H:], g[H:2*H], rec[2*H:], g[2*H:])
			q.gruOutput(g, p, h, st.acts)
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
