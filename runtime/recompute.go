package runtime

import (
	"cmp"
	"fmt"
	"slices"
)

// Recompute has values computed again rather than kept (rematerialization): of those that are computed up to the first output, which of a
// training graph is the loss, the ones that are read after it, by its gradients. They come out the same, bit for bit. At most one of
// the fields is set. Values that leave the graph, random draws, and what hangs on subgraphs or has shapes that hang on data, are kept.
type Recompute struct {
	// Segments cuts the way to the first output into so many parts, where little goes from one to the next: that is kept, and all else
	// of a part is computed again when something of it is first read, so that the arena holds one part at a time.
	Segments int
	// Budget is how many bytes a run's arena may have: values are computed again, those that take the least time for their size first,
	// until that is enough. What leaves the graph is not counted. A budget that cannot be kept is an error, which says what can.
	Budget int64
	// Auto makes the arena smallest, without computing anything a third time.
	Auto bool
}

// WithRecompute has a session compute values again rather than keep them.
func WithRecompute(r Recompute) Option { return func(s *settings) { s.recompute = r } }

func (r Recompute) check() error {
	given := 0
	for _, set := range []bool{r.Segments != 0, r.Budget != 0, r.Auto} {
		if set {
			given++
		}
	}
	if given > 1 || r.Segments < 0 || r.Budget < 0 {
		return fmt.Errorf("recompute: one of a number of segments, a budget and auto is wanted, not %+v", r)
	}
	return nil
}

// recompute places pl, with as much computed again as r wants.
func (pl *plan) recompute(r Recompute) (*plan, error) {
	a := pl.activations()
	if a == nil {
		r = Recompute{}
	}
	switch {
	case r.Segments > 0:
		return a.dropping(a.but(a.checkpoints(r.Segments), a.turn)), nil
	case r.Auto:
		least, _ := a.least()
		return least, nil
	case r.Budget > 0:
		return a.within(r.Budget)
	}
	pl.place()
	return pl, nil
}

// activations is what a plan, which is not placed yet, computes up to its first output.
type activations struct {
	*plan
	turn   int   // the step that computes the first output
	def    []int // by slot: the step that computes it, -1 if none does
	base   []int // by slot: the one that it is a view of, or itself
	read   []int // by base: the last step up to turn that reads it, -1
	late   []bool
	can    []bool // by base: it may be computed again
	size   []int
	sorted []int // bases that are read late and take little time, those first that take least for their size
}

// activations is nil if there is nothing that could be computed again.
func (pl *plan) activations() *activations {
	n := len(pl.known)
	if len(pl.prog.outputs) == 0 {
		return nil
	}
	a := &activations{plan: pl, turn: -1, def: make([]int, n), base: make([]int, n), read: make([]int, n), late: make([]bool, n), can: make([]bool, n), size: make([]int, n)}
	for i := range n {
		a.def[i], a.base[i], a.read[i] = -1, i, -1
	}
	for i, st := range pl.steps {
		for k, slot := range st.step.outs {
			if slot < 0 {
				continue
			}
			a.def[slot] = i
			if slot == pl.prog.outputs[0] {
				a.turn = i
			}
			if !st.static {
				continue
			}
			if st.node.Def.View && k == 0 {
				a.base[slot] = a.base[st.ins[0]]
			} else {
				a.can[slot], a.size[slot] = !st.node.Def.Impure, st.outs[k].size
			}
		}
	}
	for i, st := range pl.steps {
		for _, slot := range pl.prog.reads(st.step) {
			b := a.base[slot]
			if a.late[b] = a.late[b] || i > a.turn; i <= a.turn {
				a.read[b] = i
			}
			if !st.static { // it may keep what it reads
				a.can[b] = false
			}
		}
	}
	for _, slot := range pl.prog.outputs {
		a.can[a.base[slot]] = false
	}
	for b := range n {
		a.can[b] = a.can[b] && a.def[b] <= a.turn
		if a.can[b] && a.late[b] && !a.heavy(b) {
			a.sorted = append(a.sorted, b)
		}
	}
	if !slices.Contains(a.can, true) {
		return nil
	}
	cost := make([]float64, n) // by base: bytes written to compute it again from what is kept where light values alone are not
	for i, st := range pl.steps[:a.turn+1] {
		from := 0.0
		for _, slot := range pl.prog.reads(st.step) {
			if in := a.base[slot]; a.def[in] < i && a.can[in] && !a.late[in] && !a.heavy(in) {
				from += cost[in]
			}
		}
		for _, slot := range st.step.outs {
			if slot >= 0 {
				cost[slot] = from + float64(a.size[slot])
			}
		}
	}
	slices.SortStableFunc(a.sorted, func(x, y int) int {
		return cmp.Compare(cost[x]/float64(max(1, a.size[x])), cost[y]/float64(max(1, a.size[y])))
	})
	return a
}

// heavy reports whether b takes more than a pass or two over memory.
func (a *activations) heavy(b int) bool { return a.steps[a.def[b]].node.Def.FLOPs != nil }

// light drops the first n of the values that take little time, and what is read for them alone.
func (a *activations) light(n int) []bool {
	drop := make([]bool, len(a.known))
	for b := range drop {
		drop[b] = a.can[b] && !a.late[b] && !a.heavy(b)
	}
	for _, b := range a.sorted[:n] {
		drop[b] = true
	}
	return drop
}

// checkpoints is the values that go from one of n parts of the steps up to turn to the next. The parts have about as many bytes each; they are cut
// where the least goes over.
func (a *activations) checkpoints(n int) []bool {
	made, crossing := make([]int, a.turn+1), make([]int, a.turn+2)
	for b, can := range a.can {
		if !can {
			continue
		}
		made[a.def[b]] += a.size[b]
		if a.read[b] > a.def[b] {
			crossing[a.def[b]] += a.size[b]
			crossing[a.read[b]] -= a.size[b]
		}
	}
	total := 0
	for i := range made {
		if i > 0 {
			crossing[i] += crossing[i-1]
		}
		total += made[i]
	}
	keep := make([]bool, len(a.known))
	n = min(n, a.turn+1)
	sum, cut, best := 0, 1, -1
	for i := range a.turn {
		sum += made[i]
		// Cut k may be anywhere from half a part before k/n of all to half a part after it.
		for cut < n && 2*n*sum >= (2*cut+1)*total {
			a.keepAcross(keep, best)
			cut, best = cut+1, -1
		}
		if cut < n && 2*n*sum >= (2*cut-1)*total && (best < 0 || crossing[i] < crossing[best]) {
			best = i
		}
	}
	a.keepAcross(keep, best)
	return keep
}

// keepAcross marks the values that are read after step i, up to turn, of those computed by then.
func (a *activations) keepAcross(keep []bool, i int) {
	for b, can := range a.can {
		if can && a.def[b] <= i && a.read[b] > i {
			keep[b] = true
		}
	}
}

// but drops all that is computed up to a step, but what is to be kept, and of what comes later what takes little time.
func (a *activations) but(keep []bool, last int) []bool {
	drop := a.light(len(a.sorted))
	for b := range drop {
		if a.can[b] && a.def[b] <= last {
			drop[b] = !keep[b]
		}
	}
	return drop
}

// least is the smallest plan, and the values that it keeps; nil if it keeps all that take time.
func (a *activations) least() (*plan, []bool) {
	best, keep := a.dropping(make([]bool, len(a.known))), []bool(nil)
	if light := a.dropping(a.light(len(a.sorted))); light.arena < best.arena {
		best = light
	}
	for n := 2; n <= a.turn+1; n += 1 + n/3 {
		points := a.checkpoints(n)
		if pl := a.dropping(a.but(points, a.turn)); pl.arena < best.arena {
			best, keep = pl, points
		}
	}
	return best, keep
}

// within is the plan that computes least again of those that keep to a budget.
func (a *activations) within(budget int64) (*plan, error) {
	fits := func(pl *plan) bool { return int64(pl.arena) <= budget }
	if pl := a.dropping(make([]bool, len(a.known))); fits(pl) {
		return pl, nil
	}
	if best := a.dropping(a.light(len(a.sorted))); fits(best) {
		for lo, hi := 0, len(a.sorted); lo+1 < hi; {
			mid := (lo + hi) / 2
			if pl := a.dropping(a.light(mid)); fits(pl) {
				best, hi = pl, mid
			} else {
				lo = mid
			}
		}
		return best, nil
	}
	best, keep := a.least()
	if !fits(best) {
		return nil, fmt.Errorf("recompute: a budget of %d bytes is too small: %d is the least that was found", budget, best.arena)
	}
	for lo, hi := 0, a.turn; lo+1 < hi; {
		mid := (lo + hi) / 2
		if pl := a.dropping(a.but(keep, mid)); fits(pl) {
			best, hi = pl, mid
		} else {
			lo = mid
		}
	}
	return best, nil
}

// dropping is a plan, placed, in which the values in drop, given by base, are computed again where they are read after turn.
func (a *activations) dropping(drop []bool) *plan {
	q := &plan{prog: a.prog, known: slices.Clone(a.known)}
	again := map[int]int{} // the slots of values that are computed a second time
	add := func(st planStep, in func(slot int) int, out func(slot int) int) {
		s := *st.step
		s.ins, s.outs = slices.Clone(s.ins), slices.Clone(s.outs)
		for _, side := range []struct {
			slots []int
			to    func(int) int
		}{{s.ins, in}, {s.outs, out}} {
			for k, slot := range side.slots {
				if slot >= 0 {
					side.slots[k] = side.to(slot)
				}
			}
		}
		st.step, st.outs = &s, slices.Clone(st.outs)
		q.steps = append(q.steps, st)
	}
	same := func(slot int) int { return slot }
	var second func(slot int) int
	second = func(slot int) int {
		if !drop[a.base[slot]] {
			return slot
		}
		if _, ok := again[slot]; !ok {
			add(a.steps[a.def[slot]], second, func(o int) int {
				q.known = append(q.known, nil)
				again[o] = len(q.known) - 1
				return again[o]
			})
		}
		return again[slot]
	}
	for i, st := range a.steps {
		if i > a.turn && st.static {
			add(st, second, same)
		} else {
			add(st, same, same)
		}
	}
	q.place()
	return q
}
