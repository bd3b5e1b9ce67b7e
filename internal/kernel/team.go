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
	work  Member
	size  int
	state atomic.Int64 // members that have joined, and teamClosed
	ready atomic.Bool  // size is settled
	left  atomic.Int64 // members that are not done

	arrived, phase atomic.Int64 // of Wait
	failure        atomic.Pointer[PanicError]
	refs           atomic.Int64
}

// A Member is a piece of work that a [Team] does together.
type Member interface {
	// Member is called once for each i below the team's size, at the same time.
	Member(t *Team, i int)
}

const (
	teamClosed = 1 << 32
	// muster is how long the caller waits for workers to join, as long as waking one takes.
	muster = 150 * time.Microsecond
)

var teams = sync.Pool{New: func() any { return new(Team) }}

// Together has at most n goroutines of the pool, the caller's among them, do work: as many as are free. It returns when all are done. If one
// panics, the others do at their next [Team.Wait], and Together panics with a [*PanicError].
func (p *Pool) Together(n int, work Member) {
	t := teams.Get().(*Team)
	t.work = work
	t.state.Store(0)
	t.ready.Store(false)
	t.arrived.Store(0)
	t.phase.Store(0)
	t.failure.Store(nil)
	t.refs.Store(1)
	asked := 0
	if p != nil {
		select {
		case <-p.quit:
		default:
			for asked < min(n, p.threads)-1 {
				t.refs.Add(1)
				select {
				case p.jobs <- t:
					asked++
					continue
				default: // plenty is queued already
					t.refs.Add(-1)
				}
				break
			}
		}
	}
	for begin := time.Now(); int(t.state.Load()) < asked && time.Since(begin) < muster; {
	}
	t.size = int(t.state.Or(teamClosed)) + 1
	t.left.Store(int64(t.size))
	t.ready.Store(true)
	t.member(0)
	for spins := 0; t.left.Load() > 0; spins++ {
		idle(spins)
	}
	failure := t.failure.Load()
	t.release()
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

// run joins the team, if it still takes members.
func (t *Team) run() {
	for {
		n := t.state.Load()
		if n&teamClosed != 0 {
			return
		}
		if t.state.CompareAndSwap(n, n+1) {
			for spins := 0; !t.ready.Load(); spins++ {
				idle(spins)
			}
			t.member(int(n) + 1)
			return
		}
	}
}

func (t *Team) member(i int) {
	returned := false
	defer func() {
		if !returned {
			t.failure.CompareAndSwap(nil, panicError(recover()))
		}
		t.left.Add(-1)
	}()
	t.work.Member(t, i)
	returned = true
}

func (t *Team) release() {
	if t.refs.Add(-1) == 0 {
		t.work = nil
		teams.Put(t)
	}
}
