package kernel

import (
	"fmt"
	goruntime "runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A Pool runs loops on a fixed number of goroutines. Its goroutines sleep when
// there has been nothing to do for a moment. A nil *Pool is valid and runs everything on the
// caller's goroutine.
//
// Pools may be shared: any number of goroutines may call [Pool.For] at once, and
// a loop body may itself call For. The goroutine that calls For always works on
// its own loop, so a loop finishes even when every other worker is busy.
type Pool struct {
	threads int
	workers []*worker // which must not hold the Pool
	quit    chan struct{}
	closed  *sync.Once

	patience time.Duration // see [patience]; 0 where more goroutines than processors would look
}

// chunksPerThread is how finely a loop is cut: fine enough that a worker that
// is late or slow costs a fraction of its share, no finer.
const chunksPerThread = 4

// NewPool returns a pool that runs loops on threads goroutines, the caller's
// included; 0 means GOMAXPROCS. A pool that is no longer reachable gives up its
// goroutines; [Pool.Close] does so at once.
func NewPool(threads int) *Pool {
	if threads <= 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	p := &Pool{threads: threads, quit: make(chan struct{}), closed: new(sync.Once)}
	if threads <= goruntime.GOMAXPROCS(0) {
		p.patience = patience
	}
	for id := 1; id < threads; id++ {
		w := &worker{id: id, wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		go w.work(p.quit, p.patience)
	}
	closed, quit := p.closed, p.quit
	goruntime.AddCleanup(p, func(quit chan struct{}) { closed.Do(func() { close(quit) }) }, quit)
	return p
}

// Threads returns how many goroutines work on a loop at most; 1 for nil.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Close lets the pool's goroutines end. Loops under way finish, and later ones
// run on their caller's goroutine alone.
func (p *Pool) Close() {
	if p != nil {
		p.closed.Do(func() { close(p.quit) })
	}
}

// A PanicError is what [Pool.For] panics with when a body panicked.
type PanicError struct {
	Value any    // what the body panicked with
	Stack []byte // of the goroutine that ran the body
}

// Error gives the panic's value; the stack is in Stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic in a parallel loop: %v", e.Value) }

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Alone reports whether [Pool.For] over these is one call in place: a caller that cannot do without memory for its body may spare it then.
func (p *Pool) Alone(n, grain int) bool { return p.Threads() == 1 || n/max(grain, 1) <= 1 }

// InParts is [Pool.For] over w's Part, for which it takes memory only if there is more than one call.
func InParts[W interface{ Part(lo, hi int) }](p *Pool, n, grain int, w W) {
	if p.Alone(n, grain) {
		w.Part(0, n)
	} else {
		p.For(n, grain, w.Part)
	}
}

// For calls body on ranges that together cover [0, n), each of at least grain
// indices (but for n < grain), on the pool's goroutines and the caller's. It
// returns when all calls have. A nil pool, or n <= grain, is one call in place.
//
// Each goroutine begins with a share of its own of the indices, the caller with the first. Loops over the same rows, one after
// the other, thus find them in the caches of the processor that wrote them.
//
// If a body panics, ranges not yet begun are skipped and For panics with a
// [*PanicError] on the caller's goroutine.
func (p *Pool) For(n, grain int, body func(lo, hi int)) {
	if n <= 0 {
		return
	}
	chunks := 1
	if p.open() {
		if chunks = min(n/max(grain, 1), p.threads*chunksPerThread); chunks > p.threads {
			chunks -= chunks % p.threads
		}
	}
	if chunks <= 1 {
		body(0, n)
		return
	}

	shares := min(chunks, p.threads)
	j := newJob(n, chunks, shares, body)
	workers := p.workers[:shares-1]
	for _, w := range workers {
		if !w.post(&j.letter) {
			j.pending.Add(-1)
		}
	}
	j.take(0)
	for _, w := range workers { // those that have not come by now need not
		if w.recall(&j.letter) {
			j.pending.Add(-1)
		}
	}
	j.wait(p.patience)
	failure := j.failure.Load()
	j.body = nil
	jobs.Put(j)
	if failure != nil {
		panic(failure)
	}
}

// open reports whether p has workers that take work.
func (p *Pool) open() bool {
	if p == nil || p.threads == 1 {
		return false
	}
	select {
	case <-p.quit:
		return false
	default:
		return true
	}
}

// patience is how long a goroutine looks for what it waits for before it sleeps. Waking it takes tens of microseconds, while the loops
// of a run mostly follow each other more closely.
const patience = 200 * time.Microsecond

// look calls done until it gives true or that long has passed, and gives what it gave last.
func look(d time.Duration, done func() bool) bool {
	for begin := (time.Time{}); ; {
		for range 64 {
			if done() {
				return true
			}
		}
		if begin.IsZero() { // most often it takes less than a look at the clock
			begin = time.Now()
		}
		if time.Since(begin) >= d {
			return done()
		}
	}
}

// A task is what workers do: a [*job] or a [*Team].
type task interface {
	// run is a worker's part. Before it counts itself off there, and lets go of the task, it calls [worker.free].
	run(w *worker)
}

// A letter is a task as workers get it. Whoever posts it waits for the workers that took it.
type letter struct{ task }

var (
	asleep  = new(letter) // the worker must be woken
	engaged = new(letter) // the worker has work
)

// A worker is a goroutine of a pool. What goes from one processor to another when it is given work is the line of its box alone.
type worker struct {
	box atomic.Pointer[letter] // nil while the worker looks for work
	_   [120]byte

	id   int // from 1 on
	wake chan struct{}
}

// post gives w work, unless it has some.
func (w *worker) post(l *letter) bool {
	for {
		before := w.box.Load()
		if before != nil && before != asleep {
			return false
		}
		if w.box.CompareAndSwap(before, l) {
			if before == asleep {
				select {
				case w.wake <- struct{}{}:
				default: // it has not yet seen that it was woken before
				}
			}
			return true
		}
	}
}

// recall takes back work that w has not begun.
func (w *worker) recall(l *letter) bool { return w.box.Load() == l && w.box.CompareAndSwap(l, nil) }

// free lets w be given more work, which it will look for when it is done with what it does.
func (w *worker) free() { w.box.Store(nil) }

func (w *worker) work(quit <-chan struct{}, patience time.Duration) {
	var l *letter
	take := func() bool {
		l = w.box.Load()
		return l != nil && w.box.CompareAndSwap(l, engaged)
	}
	for {
		if look(patience, take) {
			l.run(w)
			continue
		}
		if w.box.CompareAndSwap(nil, asleep) {
			select {
			case <-w.wake:
			case <-quit:
				return
			}
		}
	}
}

// A job is one call of For.
type job struct {
	letter
	n, chunks int
	body      func(lo, hi int)
	shares    []chunkShare
	failure   atomic.Pointer[PanicError]
	done      chan struct{} // receives once if the caller sleeps
	_         [64]byte
	pending   atomic.Int64 // workers that may take chunks yet, and callerSleeps
}

// A chunkShare is the chunks that one goroutine begins with.
type chunkShare struct {
	next atomic.Int64 // the first that is not taken
	end  int64
	_    [112]byte
}

const callerSleeps = 1 << 32

var jobs = sync.Pool{New: func() any {
	j := &job{done: make(chan struct{}, 1)}
	j.task = j
	return j
}}

// newJob is a job that workers have yet to be given, one for each share but the first.
func newJob(n, chunks, shares int, body func(lo, hi int)) *job {
	j := jobs.Get().(*job)
	j.n, j.chunks, j.body = n, chunks, body
	if cap(j.shares) < shares {
		j.shares = make([]chunkShare, shares)
	}
	j.shares = j.shares[:shares]
	for i := range j.shares {
		j.shares[i].next.Store(int64(i * chunks / shares))
		j.shares[i].end = int64((i + 1) * chunks / shares)
	}
	j.pending.Store(int64(shares - 1))
	j.failure.Store(nil)
	return j
}

// run is a worker's part in j, of which it holds nothing when it has counted itself off.
func (j *job) run(w *worker) {
	defer func() {
		w.free()
		done := j.done
		if j.pending.Add(-1) == callerSleeps {
			done <- struct{}{}
		}
	}()
	j.take(w.id)
}

// take does chunks until none are left: those of a goroutine's own share, then those that others are late with.
func (j *job) take(worker int) {
	for i := range j.shares {
		s := &j.shares[(worker+i)%len(j.shares)]
		for s.next.Load() < s.end {
			c := s.next.Add(1) - 1
			if c >= s.end {
				break
			}
			j.chunk(int(c))
		}
	}
}

func (j *job) chunk(c int) {
	returned := false
	defer func() {
		if !returned {
			j.fail(recover())
		}
	}()
	if j.failure.Load() == nil {
		j.body(c*j.n/j.chunks, (c+1)*j.n/j.chunks)
	}
	returned = true
}

// wait returns when no worker has chunks any more, having looked for that long before it sleeps.
func (j *job) wait(d time.Duration) {
	if look(d, func() bool { return j.pending.Load() == 0 }) {
		return
	}
	if j.pending.Add(callerSleeps) != callerSleeps {
		<-j.done
	}
}

// fail records the first panic.
func (j *job) fail(value any) { j.failure.CompareAndSwap(nil, panicError(value)) }

// panicError is a recovered value as an error: one that comes from a loop within the body is passed on as it is. A nil value is a body that
// called runtime.Goexit.
func panicError(value any) *PanicError {
	if e, ok := value.(*PanicError); ok {
		return e
	}
	if value == nil {
		value = "runtime.Goexit in a loop body"
	}
	return &PanicError{Value: value, Stack: debug.Stack()}
}
