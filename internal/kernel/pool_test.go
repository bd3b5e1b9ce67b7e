package kernel

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestForCoversEachIndexOnce(t *testing.T) {
	pools := []*Pool{nil, NewPool(1), NewPool(2), NewPool(7), NewPool(0)}
	for _, p := range pools {
		for _, n := range []int{0, 1, 2, 7, 64, 1000} {
			for _, grain := range []int{0, 1, 3, 64, 2000} {
				seen := make([]atomic.Int32, n)
				p.For(n, grain, func(lo, hi int) {
					if hi-lo < min(grain, n) {
						t.Errorf("n=%d grain=%d: range [%d,%d)", n, grain, lo, hi)
					}
					for i := lo; i < hi; i++ {
						seen[i].Add(1)
					}
				})
				for i := range seen {
					if got := seen[i].Load(); got != 1 {
						t.Fatalf("threads=%d n=%d grain=%d: index %d run %d times", p.Threads(), n, grain, i, got)
					}
				}
			}
		}
		p.Close()
		p.For(10, 1, func(lo, hi int) {})
	}
}

func TestForNestedAndConcurrent(t *testing.T) {
	p := NewPool(4)
	defer p.Close()
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				p.For(8, 1, func(lo, hi int) {
					for range hi - lo {
						p.For(16, 2, func(lo, hi int) { total.Add(int64(hi - lo)) })
					}
				})
			}
		})
	}
	wg.Wait()
	if want := int64(16 * 20 * 8 * 16); total.Load() != want {
		t.Errorf("ran %d bodies, want %d", total.Load(), want)
	}
}

func TestForPanic(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	for _, nested := range []bool{false, true} {
		err := func() (err error) {
			defer func() { err = recover().(*PanicError) }()
			p.For(100, 1, func(lo, hi int) {
				if nested {
					p.For(10, 1, func(lo, hi int) { panic(io.ErrUnexpectedEOF) })
				}
				if lo == 0 {
					panic(io.ErrUnexpectedEOF)
				}
			})
			return nil
		}()
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("nested=%v: got %v", nested, err)
		}
	}
	p.For(100, 1, func(lo, hi int) {}) // still usable
}

// A body blocks until another goroutine has entered it, so the loop ends only
// if a second worker takes part.
func TestForUsesWorkers(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	var in atomic.Int32
	p.For(2, 1, func(lo, hi int) {
		in.Add(1)
		for deadline := time.Now().Add(5 * time.Second); in.Load() < 2; {
			if time.Now().After(deadline) {
				t.Error("no second worker came")
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func TestForDoesNotAllocate(t *testing.T) {
	if poolsForget {
		t.Skip("sync.Pool does not keep")
	}
	p := NewPool(2)
	defer p.Close()
	body := func(lo, hi int) {}
	if n := testing.AllocsPerRun(100, func() { p.For(64, 1, body) }); n > 0.5 {
		t.Errorf("%v allocations per loop", n)
	}
}

func BenchmarkPoolFor(b *testing.B) {
	p := NewPool(2)
	defer p.Close()
	body := func(lo, hi int) {}
	for b.Loop() {
		p.For(64, 1, body)
	}
}
