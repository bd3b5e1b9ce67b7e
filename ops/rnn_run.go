package ops

import (
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// rnnWeights is a direction's weights as factors, made once where they are constants.
type rnnWeights[T kernel.Float] struct {
	constant bool
	make     func(c *Ctx, q *rnnProblem[T], d int) (rnnFactors[T], error)
	once     sync.Once
	factors  [2]rnnFactors[T]
	err      error
	scratch  sync.Pool // of *[]T
}

// rnnFactors: w is W transposed, I×GH; r is R transposed, H×GH, or its first two gates where the third's product comes
// later, which is then in late.
type rnnFactors[T kernel.Float] struct{ w, r, late rnnFactor[T] }

// rnnFactor is the right side F of a product: times sets y = x·F + beta·y of that many rows. back tells that it is every second
// product by F.
type rnnFactor[T kernel.Float] interface {
	times(p *kernel.Pool, back bool, rows int, x []T, ldx int, beta T, y []T, ldy int, ep *kernel.EpilogueOf[T])
}

type rnnPanels[T kernel.Float] struct{ *kernel.PackedBOf[T] }

func (f rnnPanels[T]) times(p *kernel.Pool, back bool, rows int, x []T, ldx int, beta T, y []T, ldy int, ep *kernel.EpilogueOf[T]) {
	product := kernel.GemmPackedB[T]
	if back {
		product = kernel.GemmPackedBBack[T]
	}
	product(p, false, rows, 1, x, ldx, f.PackedBOf, beta, y, ldy, ep)
}

func newRNNWeights[T kernel.Float](n *Node) *rnnWeights[T] {
	constant := func(i int) bool {
		c := n.Info(i).Const
		return c != nil && c.DType() == tensor.TypeOf[T]()
	}
	return &rnnWeights[T]{constant: constant(1) && constant(2), make: packRNN[T]}
}

// of gives the factors of direction d.
func (ws *rnnWeights[T]) of(c *Ctx, q *rnnProblem[T], d int) (rnnFactors[T], error) {
	if !ws.constant {
		return ws.make(c, q, d)
	}
	ws.once.Do(func() {
		for d := range q.dirs {
			if ws.factors[d], ws.err = ws.make(c, q, d); ws.err != nil {
				return
			}
		}
	})
	return ws.factors[d], ws.err
}

func packRNN[T kernel.Float](_ *Ctx, q *rnnProblem[T], d int) (rnnFactors[T], error) {
	H, GH, I := q.hidden, q.gates*q.hidden, q.I
	w, r := q.w[d*GH*I:(d+1)*GH*I], q.r[d*GH*H:(d+1)*GH*H]
	pack := func(k, n int, b []T) rnnFactor[T] { return rnnPanels[T]{kernel.PackB(true, k, n, b, k)} }
	f := rnnFactors[T]{w: pack(I, GH, w)}
	if q.kind == "GRU" && !q.linearReset {
		f.r, f.late = pack(H, 2*H, r), pack(H, H, r[2*H*H:])
	} else {
		f.r = pack(H, GH, r)
	}
	return f, nil
}

// rnnTurn is one direction's way through the steps, and operands of all rows in the step at hand, with how far apart those of one row and
// the next are.
type rnnTurn[T kernel.Float] struct {
	*rnnProblem[T]
	d     int
	pool  *kernel.Pool
	all   []T // the gates of all steps
	state [2][]T
	bias  []T
	ep    kernel.EpilogueOf[T]

	gates, prev, next, cell, hc, rec []T // rec is the product with R where it is not part of gates
	peep, recBias                    []T
	gatesLD, prevLD, nextLD          int
	acts                             []activation
}

// run is the forward pass of which nothing is kept for a backward pass. y, yh and yc may be nil.
func (q *rnnProblem[T]) run(c *Ctx, ws *rnnWeights[T], y, yh, yc []T) error {
	var factors [2]rnnFactors[T]
	for d := range q.dirs {
		var err error
		if factors[d], err = ws.of(c, q, d); err != nil {
			return err
		}
	}
	H, B := q.hidden, q.B
	GH := q.gates * H
	abreast := q.dirs == 2 && q.pool.Threads() > 1
	// Room for the gates of all steps, two states, a cell state, a row of h(c), and the products of one step.
	need := q.T*B*GH + 4*B*H + B*GH + GH
	if abreast {
		need *= 2
	}
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
	for d := range q.dirs {
		u := &q.turns[d]
		if d == 1 && !abreast {
			rest = (*buf)[:need]
		}
		*u = rnnTurn[T]{rnnProblem: q, d: d, pool: q.pool, acts: q.acts[d], all: cut(q.T * B * GH), state: [2][]T{cut(B * H), cut(B * H)},
			cell: cut(B * H), hc: cut(B * H), rec: cut(B * GH), bias: cut(GH)}
		if abreast && q.pool.Threads() == 2 {
			u.pool = nil // both are taken
		}
	}
	if abreast {
		q.pool.For(2, 1, func(lo, hi int) {
			for d := lo; d < hi; d++ {
				q.turns[d].run(factors[d], y, yh, yc)
			}
		})
		return nil
	}
	for d := range q.dirs {
		q.turns[d].run(factors[d], y, yh, yc)
	}
	return nil
}

// run computes every row for all T steps. What a row gives outside its own length means nothing: it is cleared in the end.
func (u *rnnTurn[T]) run(w rnnFactors[T], y, yh, yc []T) {
	q, d, bias := u.rnnProblem, u.d, u.bias
	H, B, GH := q.hidden, q.B, q.gates*q.hidden
	clear(bias)
	if q.b != nil {
		wb, rb := q.b[d*2*GH:d*2*GH+GH], q.b[d*2*GH+GH:(d+1)*2*GH]
		copy(bias, wb)
		n := GH
		if q.kind == "GRU" && q.linearReset {
			n, u.recBias = 2*H, rb[2*H:]
		}
		for i := range n {
			bias[i] += rb[i]
		}
	}
	if q.p != nil {
		u.peep = q.p[d*3*H : (d+1)*3*H]
	}
	// The input's share of all steps' gates is one product, in the order of X.
	u.ep = kernel.EpilogueOf[T]{ColBias: bias}
	w.w.times(u.pool, false, q.T*B, q.x, q.I, 0, u.all, GH, &u.ep)
	u.prev, u.prevLD = u.state[0], H
	for b := range B {
		u.start(b)
		if q.lens[b] == 0 {
			u.leave(b, u.prev[b*H:], yh, yc)
		}
	}
	for s := range q.T {
		t := s
		if q.reverse[d] {
			t = q.T - 1 - s
		}
		// Row b's gates, and where its state goes: into Y, or one of two buffers by turns.
		u.gates, u.gatesLD = u.all[t*B*GH:], GH
		if q.batchFirst {
			u.gates, u.gatesLD = u.all[t*GH:], q.T*GH
		}
		u.next, u.nextLD = u.state[(s+1)%2], H
		if y != nil {
			u.next = y[q.yAt(t, d, 0):]
			if q.batchFirst {
				u.nextLD = q.T * q.dirs * H
			}
		}
		if q.reverse[d] && s > 0 {
			for b, n := range q.lens {
				if n == t+1 {
					u.start(b)
				}
			}
		}
		back := s%2 == 1
		if q.kind == "GRU" && q.linearReset {
			w.r.times(u.pool, back, B, u.prev, u.prevLD, 0, u.rec, GH, nil)
		} else {
			w.r.times(u.pool, back, B, u.prev, u.prevLD, 1, u.gates, u.gatesLD, nil)
		}
		if grain := 1 + 16384/GH; u.pool.Alone(B, grain) {
			u.cells(0, B)
		} else {
			u.pool.For(B, grain, u.cells)
		}
		if q.kind == "GRU" && !q.linearReset {
			w.late.times(u.pool, back, B, u.hc, H, 1, u.gates[2*H:], u.gatesLD, nil)
			for b := range B {
				q.gruOutput(u.gates[b*u.gatesLD:][:GH], u.prev[b*u.prevLD:][:H], u.next[b*u.nextLD:][:H], u.acts)
			}
		}
		for b, n := range q.lens {
			if n > 0 && q.time(d, n-1, b) == t {
				u.leave(b, u.next[b*u.nextLD:], yh, yc)
			}
		}
		u.prev, u.prevLD = u.next, u.nextLD
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
func (u *rnnTurn[T]) start(b int) {
	q, H := u.rnnProblem, u.hidden
	initial := func(to, from []T) {
		if from == nil {
			clear(to[:H])
		} else {
			copy(to[:H], from[q.stateAt(u.d, b):])
		}
	}
	initial(u.prev[b*u.prevLD:], q.h0)
	initial(u.cell[b*H:], q.c0)
}

// leave copies row b's last states, h and the cell's, into the outputs.
func (u *rnnTurn[T]) leave(b int, h, yh, yc []T) {
	q, H, at := u.rnnProblem, u.hidden, u.stateAt(u.d, b)
	if yh != nil {
		copy(yh[at:at+H], h)
	}
	if yc != nil && q.kind == "LSTM" {
		copy(yc[at:at+H], u.cell[b*H:])
	}
}

// cells does a step's work on rows [lo, hi) after the products.
func (u *rnnTurn[T]) cells(lo, hi int) {
	q, H, GH := u.rnnProblem, u.hidden, u.rnnProblem.gates*u.hidden
	for b := lo; b < hi; b++ {
		g, h, p := u.gates[b*u.gatesLD:][:GH], u.next[b*u.nextLD:][:H], u.prev[b*u.prevLD:][:H]
		cell, hc := u.cell[b*H:][:H], u.hc[b*H:][:H]
		switch q.kind {
		case "RNN":
			copy(h, g)
			apply(u.acts[0], h, q.clip)
		case "LSTM":
			q.lstm(g, u.peep, cell, cell, h, hc, u.acts, nil, 0)
		case "GRU":
			if !q.linearReset {
				apply(u.acts[0], g[:2*H], q.clip)
				kernel.Mul(hc, g[H:2*H], p)
				continue
			}
			rec := u.rec[b*GH:][:GH]
			kernel.Add(g[:2*H], g[:2*H], rec[:2*H])
			if u.recBias != nil {
				kernel.Add(rec[2*H:], rec[2*H:], u.recBias)
			}
			if q.defaultActs {
				kernel.GRUCell(H, g, rec[2*H:], p, h)
				continue
			}
			apply(u.acts[0], g[:2*H], q.clip)
			kernel.MulAdd(g[2*H:], g[H:2*H], rec[2*H:], g[2*H:])
			q.gruOutput(g, p, h, u.acts)
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
