package ops

import (
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// rnnWeights is the weights as factors, made once where they are constants.
type rnnWeights[T kernel.Float] struct {
	constant bool
	make     func(c *Ctx, q *rnnProblem[T], u rnnUnits) (rnnFactors[T], error)
	once     sync.Once
	factors  []rnnFactors[T]
	err      error
	scratch  sync.Pool // of *[]T
}

// rnnUnits is a part of a direction's hidden units: n of them from first on. It is a layer of its own, but that it reads the state of all.
type rnnUnits struct{ d, first, n int }

// cut is the units of all directions in parts, as many in each direction as threads can share.
func (q *rnnProblem[T]) cut() {
	q.parts = max(1, min(q.pool.Threads()/q.dirs, q.hidden/rnnPart))
	q.units = q.units[:0]
	for d := range q.dirs {
		for k := range q.parts {
			// Parts begin where registers do.
			at := func(k int) int { return k * (q.hidden / rnnPart) / q.parts * rnnPart }
			first, end := at(k), at(k+1)
			if k == q.parts-1 {
				end = q.hidden
			}
			q.units = append(q.units, rnnUnits{d, first, end - first})
		}
	}
}

const (
	// rnnPart is the units that parts are multiples of.
	rnnPart = 32
	// rnnTeamWork is the multiplications from which on a layer is shared out among a team.
	rnnTeamWork = 1 << 22
)

// gather copies, of a matrix with a row for each unit of each gate of a direction, those of u, gate by gate.
func gather[E any](dst, src []E, u rnnUnits, gates, hidden, row int) []E {
	for g := range gates {
		at := (u.d*gates+g)*hidden + u.first
		dst = append(dst, src[at*row:(at+u.n)*row]...)
	}
	return dst
}

// rnnFactors: w is W transposed, I×GH; r is R transposed, H×GH, or its first two gates where the third's product comes
// later, which is then in late. rows, in place of w, is the input's share of the gates for each row of a table.
type rnnFactors[T kernel.Float] struct {
	w, r, late rnnFactor[T]
	rows       []T
	finite     bool // r and late, of which nothing comes with a state of zeros then
}

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
	ws := &rnnWeights[T]{constant: constant(1) && constant(2)}
	ws.make = func(_ *Ctx, q *rnnProblem[T], u rnnUnits) (rnnFactors[T], error) {
		f := packRecurrent(q, u, ws.constant)
		f.w = packed(q.I, q.gates*u.n, gather[T](nil, q.w, u, q.gates, q.hidden, q.I), ws.constant)
		return f, nil
	}
	return ws
}

// of gives the factors of all parts.
func (ws *rnnWeights[T]) of(c *Ctx, q *rnnProblem[T]) ([]rnnFactors[T], error) {
	pack := func() (fs []rnnFactors[T], err error) {
		for _, u := range q.units {
			f, err := ws.make(c, q, u)
			if err != nil {
				return nil, err
			}
			fs = append(fs, f)
		}
		return fs, nil
	}
	if !ws.constant {
		return pack()
	}
	ws.once.Do(func() { ws.factors, ws.err = pack() })
	return ws.factors, ws.err
}

// packed is B transposed, k×n; keep tells that it will be used for long.
func packed[T kernel.Float](k, n int, b []T, keep bool) rnnFactor[T] {
	if keep {
		return rnnPanels[T]{kernel.PackWeights(nil, true, k, n, b, k)}
	}
	return rnnPanels[T]{kernel.PackB(true, k, n, b, k)}
}

func packRecurrent[T kernel.Float](q *rnnProblem[T], u rnnUnits, keep bool) (f rnnFactors[T]) {
	H := q.hidden
	r := gather[T](nil, q.r, u, q.gates, H, H)
	f.finite = finite(r)
	if q.kind == "GRU" && !q.linearReset {
		f.r, f.late = packed(H, 2*u.n, r, keep), packed(H, u.n, r[2*u.n*H:], keep)
	} else {
		f.r = packed(H, q.gates*u.n, r, keep)
	}
	return f
}

// rnnTurn is a part's way through the steps, and operands of all rows in the step at hand, with how far apart those of one row and
// the next are.
type rnnTurn[T kernel.Float] struct {
	*rnnProblem[T]
	rnnUnits
	by    rnnFactors[T]
	pool  *kernel.Pool
	all   []T    // the gates of all steps; of the one at hand where the input's share is looked up
	state [2][]T // of all units of the direction
	bias  []T
	ep    kernel.EpilogueOf[T]

	gates, prev, next, cell, hc, rec []T // rec is the product with R where it is not part of gates; prev, next and hc are of all units
	peep, recBias                    []T
	gatesLD, prevLD, nextLD          int
	acts                             []activation
}

// run is the forward pass of which nothing is kept for a backward pass. y, yh and yc may be nil.
func (q *rnnProblem[T]) run(c *Ctx, ws *rnnWeights[T], y, yh, yc []T) error {
	q.cut()
	factors, err := ws.of(c, q)
	if err != nil {
		return err
	}
	H, B := q.hidden, q.B
	GH := q.gates * H
	ahead := q.T // steps whose gates are computed ahead
	if factors[0].rows != nil {
		ahead = 1
	}
	// Room for the gates of these, two states, a cell state, h(c), the products of one step, a bias and peepholes.
	each, once := q.dirs*B*GH, q.dirs*(4*B*H+B*GH+GH+3*H)
	size := tensor.TypeOf[T]().Bits() / 8
	if err := c.Mem.TakeEach(size*each, ahead); err != nil { // of no inputs steps may be many
		return err
	}
	if err := c.Mem.TakeEach(size, once); err != nil {
		return err
	}
	need := ahead*each + once
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
	q.y, q.yh, q.yc = y, yh, yc
	q.turns = grown(q.turns, len(q.units))
	for i, u := range q.units {
		gh, t := q.gates*u.n, &q.turns[i]
		*t = rnnTurn[T]{rnnProblem: q, rnnUnits: u, by: factors[i], acts: q.acts[u.d], all: cut(ahead * B * gh), cell: cut(B * u.n),
			rec: cut(B * gh), bias: cut(gh), peep: cut(3 * u.n)[:0]}
		if u.first > 0 {
			t.state, t.hc = q.turns[i-1].state, q.turns[i-1].hc
		} else {
			t.state, t.hc = [2][]T{cut(B * H), cut(B * H)}, cut(B*H)
		}
	}
	members := len(q.turns)
	if q.T == 1 || q.T*B*(q.I+H)*GH < rnnTeamWork || q.parts > 1 && q.ragged() {
		members = 1
	}
	q.pool.Together(members, q)
	return nil
}

// ragged reports whether rows have unlike lengths.
func (q *rnnProblem[T]) ragged() bool {
	for _, n := range q.lens {
		if n != q.T {
			return true
		}
	}
	return false
}

// Member takes every size-th turn.
func (q *rnnProblem[T]) Member(t *kernel.Team, i int) {
	turns, size := q.turns, t.Size()
	for k := i; k < len(turns); k += size {
		if turns[k].pool = nil; size == 1 {
			turns[k].pool = q.pool
		}
		turns[k].begin()
	}
	if size > 1 && q.parts > 1 {
		t.Wait()
		for s := range q.T {
			for phase := range q.phases() {
				for k := i; k < len(turns); k += size {
					turns[k].step(s, phase)
				}
				t.Wait()
			}
		}
	} else {
		// Directions have nothing to do with each other.
		n := q.parts
		for k := i * n; k < len(turns); k += size * n {
			own := turns[k : k+n]
			for s := range q.T {
				for p := range own {
					own[p].enter(s)
				}
				for phase := range q.phases() {
					for p := range own {
						own[p].step(s, phase)
					}
				}
			}
		}
	}
	for k := i; k < len(turns); k += size {
		turns[k].end()
	}
}

// phases is how many parts a step has, between which the parts of a direction wait for each other.
func (q *rnnProblem[T]) phases() int {
	if q.kind == "GRU" && !q.linearReset {
		return 2
	}
	return 1
}

// biases sets bias to the sum of W's and R's for the gates of u, but for a share of R's that is added elsewhere, and is returned.
func (q *rnnProblem[T]) biases(u rnnUnits, bias []T) (recBias []T) {
	clear(bias)
	if q.b == nil {
		return nil
	}
	// B is the gates of W and then those of R.
	both := rnnUnits{2 * u.d, u.first, u.n}
	gather(bias[:0], q.b, both, q.gates, q.hidden, 1)
	both.d++
	n := len(bias)
	if q.kind == "GRU" && q.linearReset {
		n, recBias = 2*u.n, q.b[(both.d*3+2)*q.hidden+u.first:][:u.n]
	}
	for g := range n / u.n {
		for i, v := range q.b[(both.d*q.gates+g)*q.hidden+u.first:][:u.n] {
			bias[g*u.n+i] += v
		}
	}
	return recBias
}

// begin computes the input's share of all steps' gates, which is one product, in the order of X, and sets the states.
func (u *rnnTurn[T]) begin() {
	q, bias := u.rnnProblem, u.bias
	u.recBias = q.biases(u.rnnUnits, bias)
	if q.p != nil {
		u.peep = gather(u.peep, q.p, u.rnnUnits, 3, q.hidden, 1)
	} else {
		u.peep = nil
	}
	if u.by.rows == nil {
		u.ep = kernel.EpilogueOf[T]{ColBias: bias}
		u.by.w.times(u.pool, false, q.T*q.B, q.x, q.I, 0, u.all, len(bias), &u.ep)
	}
	u.prev, u.prevLD = u.state[0], q.hidden
	for b := range q.B {
		u.start(b)
		if q.lens[b] == 0 {
			u.leave(b, u.prev[b*q.hidden:])
		}
	}
}

// enter sets the states of rows that begin with step s and not with the first one.
func (u *rnnTurn[T]) enter(s int) {
	if t := u.T - 1 - s; u.reverse[u.d] && s > 0 {
		for b, n := range u.lens {
			if n == t+1 {
				u.start(b)
			}
		}
	}
}

// step computes a phase of step s for every row. What a row gives outside its own length means nothing: it is cleared in the end.
func (u *rnnTurn[T]) step(s, phase int) {
	q, d := u.rnnProblem, u.d
	H, B, gh := q.hidden, q.B, q.gates*u.n
	t := s
	if q.reverse[d] {
		t = q.T - 1 - s
	}
	back := s%2 == 1
	zeros := s == 0 && q.h0 == nil && u.by.finite
	if phase == 0 {
		// Row b's gates, and where its state goes: into Y, or one of two buffers by turns.
		switch {
		case u.by.rows != nil:
			u.gates, u.gatesLD = u.all, gh
			for b := range B {
				copy(u.gates[b*gh:][:gh], u.by.rows[q.rows[q.xAt(t, b)]*gh:])
			}
		case q.batchFirst:
			u.gates, u.gatesLD = u.all[t*gh:], q.T*gh
		default:
			u.gates, u.gatesLD = u.all[t*B*gh:], gh
		}
		u.next, u.nextLD = u.state[(s+1)%2], H
		if q.y != nil {
			u.next = q.y[q.yAt(t, d, 0):]
			if q.batchFirst {
				u.nextLD = q.T * q.dirs * H
			}
		}
		switch linear := q.kind == "GRU" && q.linearReset; {
		case zeros && linear:
			clear(u.rec)
		case zeros:
		case linear:
			u.by.r.times(u.pool, back, B, u.prev, u.prevLD, 0, u.rec, gh, nil)
		default:
			u.by.r.times(u.pool, back, B, u.prev, u.prevLD, 1, u.gates, u.gatesLD, nil)
		}
		if grain := 1 + 16384/gh; u.pool.Alone(B, grain) {
			u.cells(0, B)
		} else {
			u.pool.For(B, grain, u.cells)
		}
		if q.phases() > 1 {
			return
		}
	} else {
		if !zeros {
			u.by.late.times(u.pool, back, B, u.hc, H, 1, u.gates[2*u.n:], u.gatesLD, nil)
		}
		for b := range B {
			q.gruOutput(u.gates[b*u.gatesLD:][:gh], u.of(u.prev, b, u.prevLD), u.of(u.next, b, u.nextLD), u.acts)
		}
	}
	for b, n := range q.lens {
		if n > 0 && q.time(d, n-1, b) == t {
			u.leave(b, u.next[b*u.nextLD:])
		}
	}
	u.prev, u.prevLD = u.next, u.nextLD
}

// of is the turn's units in row b of x.
func (u *rnnTurn[T]) of(x []T, b, ld int) []T { return x[b*ld+u.first:][:u.n] }

// end clears what lies past the rows' ends.
func (u *rnnTurn[T]) end() {
	if u.y == nil {
		return
	}
	for b, n := range u.lens {
		for t := n; t < u.T; t++ {
			clear(u.of(u.y[u.yAt(t, u.d, b):], 0, 0))
		}
	}
}

// start puts row b's initial states where the next step looks for them.
func (u *rnnTurn[T]) start(b int) {
	initial := func(to, from []T) {
		if from == nil {
			clear(to)
		} else {
			copy(to, from[u.stateAt(u.d, b)+u.first:])
		}
	}
	initial(u.of(u.prev, b, u.prevLD), u.h0)
	initial(u.cell[b*u.n:][:u.n], u.c0)
}

// leave copies row b's last states, h and the cell's, into the outputs.
func (u *rnnTurn[T]) leave(b int, h []T) {
	at := u.stateAt(u.d, b) + u.first
	if u.yh != nil {
		copy(u.yh[at:at+u.n], h[u.first:])
	}
	if u.yc != nil && u.kind == "LSTM" {
		copy(u.yc[at:at+u.n], u.cell[b*u.n:])
	}
}

// cells does a step's work on rows [lo, hi) after the products.
func (u *rnnTurn[T]) cells(lo, hi int) {
	q, n, gh := u.rnnProblem, u.n, u.rnnProblem.gates*u.n
	for b := lo; b < hi; b++ {
		g, h, p := u.gates[b*u.gatesLD:][:gh], u.of(u.next, b, u.nextLD), u.of(u.prev, b, u.prevLD)
		cell, hc := u.cell[b*n:][:n], u.of(u.hc, b, q.hidden)
		switch q.kind {
		case "RNN":
			copy(h, g)
			apply(u.acts[0], h, q.clip)
		case "LSTM":
			q.lstm(g, u.peep, cell, cell, h, hc, u.acts, nil, 0)
		case "GRU":
			if !q.linearReset {
				apply(u.acts[0], g[:2*n], q.clip)
				kernel.Mul(hc, g[n:2*n], p)
				continue
			}
			rec := u.rec[b*gh:][:gh]
			kernel.Add(g[:2*n], g[:2*n], rec[:2*n])
			if u.recBias != nil {
				kernel.Add(rec[2*n:], rec[2*n:], u.recBias)
			}
			if q.defaultActs {
				kernel.GRUCell(n, g, rec[2*n:], p, h)
				continue
			}
			apply(u.acts[0], g[:2*n], q.clip)
			kernel.MulAdd(g[2*n:], g[n:2*n], rec[2*n:], g[2*n:])
			q.gruOutput(g, p, h, u.acts)
		}
	}
}

// gruOutput ends a row's step: g holds z and r activated and the third gate before it is.
func (q *rnnProblem[T]) gruOutput(g, prev, next []T, acts []activation) {
	n := g[2*len(next):]
	apply(acts[1], n, q.clip)
	kernel.GRUBlend(g[:len(next)], n, prev, next)
}
