package kernel

import (
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Team is goroutines of a pool that are at one piece of work at the same time, so that they may wait for each other. Loops that
// follow closely on one another cost less so than by [Pool.For], and what a member computes stays in its own caches.
type Team struct {
	letter
	work   Member
	size   int
	joined atomic.Int64 // members besides the caller
	ready  atomic.Bool  // size is settled
	left   atomic.Int64 // members that are not done

	arrived, phase atomic.Int64 // of Wait
	failure        atomic.Pointer[PanicError]
}

// A Member is a piece of work that a [Team] does together.
type Member interface {
	// Member is called once for each i below the team's size, at the same time.
	Member(t *Team, i int)
}

// muster is how long the caller waits for workers to join, as long as waking one takes.
const muster = 150 * time.Microsecond

var teams = sync.Pool{New: func() any {
	t := new(Team)
	t.task = t
	return t
}}

// Together has at most n goroutines of the pool, the caller's among them, do work: as many as are free. It returns when all are done. If one
// panics, the others do at their next [Team.Wait], and Together panics with a [*PanicError].
func (p *Pool) Together(n int, work Member) {
	t := teams.Get().(*Team)
	t.work = work
	t.joined.Store(0)
	t.ready.Store(false)
	t.arrived.Store(0)
	t.phase.Store(0)
	t.failure.Store(nil)
	var workers []*worker
	if n > 1 && p.open() {
		workers = p.workers[:min(n, p.threads)-1]
	}
	asked := 0
	for _, w := range workers {
		if w.post(&t.letter) {
			asked++
		}
	}
	for begin := time.Now(); int(t.joined.Load()) < asked && time.Since(begin) < muster; {
	}
	t.size = 1 + asked
	for _, w := range workers {
		if w.recall(&t.letter) {
			t.size--
		}
	}
	t.left.Store(int64(t.size))
	t.ready.Store(true)
	t.member(0, nil)
	for spins := 0; t.left.Load() > 0; spins++ {
		idle(spins)
	}
	failure := t.failure.Load()
	t.work = nil
	teams.Put(t)
	if failure != nil {
		panic(failure)
	}
}

// Size is how many the members are.
func (t *Team) Size() int { return t.size }

// Wait returns when every member has called it as often as this one.
func (t *Team) Wait() {
	if t.size == 1 {
		return
	}
	phase := t.phase.Load()
	if t.arrived.Add(1) == int64(t.size) {
		t.arrived.Store(0)
		t.phase.Add(1)
		return
	}
	for spins := 0; t.phase.Load() == phase; spins++ {
		if e := t.failure.Load(); e != nil {
			panic(e)
		}
		idle(spins)
	}
}

// idle lets others have the processor now and then while a goroutine looks for something.
func idle(spins int) {
	if spins%256 == 255 {
		goruntime.Gosched()
	}
}

// run joins the team.
func (t *Team) run(w *worker) {
	i := int(t.joined.Add(1))
	for spins := 0; !t.ready.Load(); spins++ {
		idle(spins)
	}
	t.member(i, w)
}

func (t *Team) member(i int, w *worker) {
	returned := false
	defer func() {
		if !returned {
			t.failure.CompareAndSwap(nil, panicError(recover()))
		}
		if w != nil {
			w.free()
		}
		t.left.Add(-1)
	}()
	t.work.Member(t, i)
	returned = true
}
