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
	jobs    chan task // shared with the workers, which must not hold the Pool
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
	p := &Pool{
		threads: threads,
		jobs:    make(chan task, 4*threads),
		quit:    make(chan struct{}),
		closed:  new(sync.Once),
	}
	if threads <= goruntime.GOMAXPROCS(0) {
		p.patience = patience
	}
	for range threads - 1 {
		go work(p.jobs, p.quit, p.patience)
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
// If a body panics, ranges not yet begun are skipped and For panics with a
// [*PanicError] on the caller's goroutine.
func (p *Pool) For(n, grain int, body func(lo, hi int)) {
	if n <= 0 {
		return
	}
	chunks := 1
	if p != nil && p.threads > 1 {
		select {
		case <-p.quit:
		default:
			chunks = min(n/max(grain, 1), p.threads*chunksPerThread)
		}
	}
	if chunks <= 1 {
		body(0, n)
		return
	}

	j := newJob(n, chunks, body)
	for range min(chunks, p.threads) - 1 {
		j.refs.Add(1)
		select {
		case p.jobs <- j:
			continue
		default: // plenty is queued already
			j.refs.Add(-1)
		}
		break
	}
	j.run()
	await(j.done, p.patience)
	failure := j.failure.Load()
	j.release()
	if failure != nil {
		panic(failure)
	}
}

// patience is how long a goroutine looks for what it waits for before it sleeps. Waking it takes tens of microseconds, while the loops
// of a run mostly follow each other more closely.
const patience = 200 * time.Microsecond

// await receives from c, looking for d before it sleeps.
func await[T any](c <-chan T, d time.Duration) T {
	if v, ok := look(c, d); ok {
		return v
	}
	return <-c
}

// look receives from c if there is something within d.
func look[T any](c <-chan T, d time.Duration) (v T, ok bool) {
	for begin := time.Now(); ; {
		for range 64 {
			select {
			case v = <-c:
				return v, true
			default:
			}
		}
		if time.Since(begin) >= d {
			return v, false
		}
	}
}

// A task is what workers take: a [*job] or a [*Team]. Each entry of the queue is released once.
type task interface {
	run()
	release()
}

func work(jobs <-chan task, quit <-chan struct{}, patience time.Duration) {
	for {
		j, ok := look(jobs, patience)
		if !ok {
			select {
			case j = <-jobs:
			case <-quit:
				return
			}
		}
		j.run()
		j.release()
	}
}

// A job is one call of For. It is recycled when the caller and every queue entry
// have let go of it: an entry can be taken long after its loop has ended.
type job struct {
	n, chunks int
	body      func(lo, hi int)
	next      atomic.Int64 // first chunk not yet taken
	left      atomic.Int64 // chunks not yet finished
	refs      atomic.Int64
	failure   atomic.Pointer[PanicError]
	done      chan struct{} // receives once, when left reaches 0
}

var jobs = sync.Pool{New: func() any { return &job{done: make(chan struct{}, 1)} }}

func newJob(n, chunks int, body func(lo, hi int)) *job {
	j := jobs.Get().(*job)
	j.n, j.chunks, j.body = n, chunks, body
	j.next.Store(0)
	j.left.Store(int64(chunks))
	j.refs.Store(1)
	j.failure.Store(nil)
	return j
}

func (j *job) release() {
	if j.refs.Add(-1) == 0 {
		j.body = nil
		jobs.Put(j)
	}
}

// run takes chunks until none are left.
func (j *job) run() {
	for {
		c := int(j.next.Add(1)) - 1
		if c >= j.chunks {
			return
		}
		j.chunk(c)
	}
}

func (j *job) chunk(c int) {
	returned := false
	defer func() {
		if !returned {
			j.fail(recover())
		}
		if j.left.Add(-1) == 0 {
			j.done <- struct{}{}
		}
	}()
	if j.failure.Load() == nil {
		j.body(c*j.n/j.chunks, (c+1)*j.n/j.chunks)
	}
	returned = true
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
