package kernel

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type memberFunc func(t *Team, i int)

func (f memberFunc) Member(t *Team, i int) { f(t, i) }

// Members see what the others did before a Wait, however many there are.
func TestTeamWaits(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	for range 50 {
		var cells [2][3]int
		p.Together(3, memberFunc(func(team *Team, i int) {
			for step := range 200 {
				now, before := &cells[step%2], &cells[(step+1)%2]
				sum := 0
				for k := range team.Size() {
					sum += before[k]
				}
				if want := team.Size() * step; sum != want {
					t.Errorf("step %d: the others' sum is %d, not %d", step, sum, want)
				}
				now[i] = step + 1
				team.Wait()
			}
		}))
	}
}

// A team is as many as are free: workers that are busy are not waited for.
func TestTeamDoesNotWaitForTheBusy(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	stop, busy := make(chan struct{}), make(chan struct{})
	var once sync.Once
	go p.For(2, 1, func(lo, hi int) { once.Do(func() { close(busy) }); <-stop })
	<-busy
	time.Sleep(time.Millisecond) // both its goroutines are in the loop
	var sum atomic.Int64
	p.Together(2, memberFunc(func(team *Team, i int) { team.Wait(); sum.Add(int64(team.Size())) }))
	close(stop)
	if n := sum.Load(); n != 1 && n != 4 {
		t.Errorf("the members counted %d", n)
	}
}

func TestTeamPanics(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	fault := errors.New("a fault")
	for who := range 2 {
		func() {
			defer func() {
				if e, ok := recover().(*PanicError); !ok || !errors.Is(e, fault) {
					t.Errorf("member %d: recovered %v", who, e)
				}
			}()
			p.Together(2, memberFunc(func(team *Team, i int) {
				if i == who || team.Size() == 1 {
					panic(fault)
				}
				for range 10 {
					team.Wait()
				}
			}))
		}()
	}
}

func TestTeamAllocatesNothing(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	var m Member = memberFunc(func(team *Team, i int) { team.Wait() })
	if n := testing.AllocsPerRun(100, func() { p.Together(2, m) }); n > 0.5 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTeam(b *testing.B) {
	p := NewPool(2)
	defer p.Close()
	b.Run("together", func(b *testing.B) {
		var m Member = memberFunc(func(team *Team, i int) {})
		for b.Loop() {
			p.Together(2, m)
		}
	})
	b.Run("wait", func(b *testing.B) {
		p.Together(2, memberFunc(func(team *Team, i int) {
			for range b.N {
				team.Wait()
			}
		}))
	})
}
