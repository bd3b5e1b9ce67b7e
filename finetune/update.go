package finetune

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// chunkSize is how many elements of a parameter are one piece of parallel work. Sums are by chunk, so that they
// do not hang on the number of threads.
const chunkSize = 1 << 14

// chunk is a piece of a parameter.
type chunk struct {
	param, lo, hi int
	squares       float64 // of the gradient's elements
	clipped       float64 // the same after ClipValue
}

// startOptimizer makes the optimizer's state and cuts the parameters up.
func (t *Trainer) startOptimizer() error {
	names, initial := t.cfg.Optimizer.slots()
	for i, p := range t.params {
		for range names {
			s, err := tensor.Zeros(p.master.DType(), p.master.Shape()...)
			if err != nil {
				return err
			}
			if initial != 0 {
				for k := range s.Len() {
					tensor.SetFloat64At(s, k, initial)
				}
			}
			p.slots = append(p.slots, s)
		}
		for lo := 0; lo < p.master.Len(); lo += chunkSize {
			t.chunks = append(t.chunks, chunk{param: i, lo: lo, hi: min(lo+chunkSize, p.master.Len())})
		}
	}
	return nil
}

// gradients makes memory for the gradients of a batch.
func (t *Trainer) gradients() ([]*tensor.Tensor, error) {
	grads := make([]*tensor.Tensor, len(t.params))
	for i, p := range t.params {
		var err error
		if grads[i], err = tensor.Zeros(p.Value.DType(), p.Value.Shape()...); err != nil {
			return nil, err
		}
	}
	return grads, nil
}

// gather gives the gradients of a batch in the masters' types. With more than one batch they are added up.
func (t *Trainer) gather(batch []*tensor.Tensor, first, several bool) ([]*tensor.Tensor, error) {
	grads := slices.Clone(batch)
	for i, p := range t.params {
		if p.wide != nil {
			if err := tensor.ConvertInto(p.wide, batch[i], true); err != nil {
				return nil, err
			}
			grads[i] = p.wide
		}
	}
	if !several {
		return grads, nil
	}
	if first {
		t.sum = grads
		for i, p := range t.params {
			if p.wide != nil {
				t.sum[i] = p.wide.Clone()
			}
		}
		return t.sum, nil
	}
	t.eachChunk(func(c *chunk) {
		switch d := grads[c.param]; d.DType() {
		case tensor.Float32:
			s := tensor.Data[float32](t.sum[c.param])[c.lo:c.hi]
			kernel.Add(s, s, tensor.Data[float32](d)[c.lo:c.hi])
		case tensor.Float64:
			s := tensor.Data[float64](t.sum[c.param])[c.lo:c.hi]
			kernel.Add(s, s, tensor.Data[float64](d)[c.lo:c.hi])
		}
	})
	return t.sum, nil
}

func (t *Trainer) eachChunk(f func(c *chunk)) {
	t.pool.For(len(t.chunks), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f(&t.chunks[i])
		}
	})
}

// measure multiplies the gradients by inverse, adds those of L1 and L2, and clips by value. It gives the sum of squares
// before and after that clipping.
func (t *Trainer) measure(grads []*tensor.Tensor, inverse float64) (squares, clipped float64) {
	t.eachChunk(func(c *chunk) {
		switch g, w := grads[c.param], t.params[c.param].master; g.DType() {
		case tensor.Float32:
			c.squares, c.clipped = measure(&t.cfg, float32(inverse), tensor.Data[float32](g)[c.lo:c.hi], tensor.Data[float32](w)[c.lo:c.hi])
		case tensor.Float64:
			c.squares, c.clipped = measure(&t.cfg, inverse, tensor.Data[float64](g)[c.lo:c.hi], tensor.Data[float64](w)[c.lo:c.hi])
		}
	})
	for i := range t.chunks {
		squares, clipped = squares+t.chunks[i].squares, clipped+t.chunks[i].clipped
	}
	return squares, clipped
}

func measure[T kernel.Float](cfg *Config, inverse T, g, w []T) (squares, clipped float64) {
	if inverse != 1 {
		for k := range g {
			g[k] *= inverse
		}
	}
	if l1, l2 := T(cfg.L1), T(2*cfg.L2); l1 != 0 || l2 != 0 {
		for k, v := range w {
			d := l2 * v
			if v > 0 {
				d += l1
			} else if v < 0 {
				d -= l1
			}
			g[k] += d
		}
	}
	// The sum of a chunk may be made in the gradients' own arithmetic, unless that is too narrow for it.
	if squares = float64(kernel.Dot(g, g)); !(squares > 1e-30 && squares < 1e30) {
		squares = 0
		for _, d := range g {
			squares += float64(d) * float64(d)
		}
	}
	if cfg.ClipValue <= 0 {
		return squares, squares
	}
	for k, d := range g {
		g[k] = max(-T(cfg.ClipValue), min(T(cfg.ClipValue), d))
		clipped += float64(g[k]) * float64(g[k])
	}
	return squares, clipped
}

// update applies the optimizer's rule to all parameters, the gradients multiplied by scale. A parameter that no batch has come to yet
// is left as it is and its updates are counted from the first that does: PyTorch's gradient of it is None until then, and zeros,
// which count, from then on.
func (t *Trainer) update(grads []*tensor.Tensor, came []bool, lr, scale float64) {
	penalty := t.cfg.L1 > 0 || t.cfg.L2 > 0 // which comes to all
	rules, made := make([]*rule, len(t.params)), map[int]*rule{}
	for i, p := range t.params {
		before, started := t.at.Started[p.Name]
		if p.reached != nil && !started {
			if !came[i] && !penalty {
				continue
			}
			if t.at.Started == nil {
				t.at.Started = map[string]int{}
			}
			before = t.at.Updates - 1
			t.at.Started[p.Name] = before
		}
		n := t.at.Updates - before
		if made[n] == nil {
			r := t.cfg.Optimizer.rule(n, lr)
			made[n] = &r
		}
		rules[i] = made[n]
	}
	t.eachChunk(func(c *chunk) {
		p, r := t.params[c.param], rules[c.param]
		if r == nil {
			return
		}
		switch p.master.DType() {
		case tensor.Float32:
			updateChunk(r.f32, c, p, grads[c.param], float32(scale))
		case tensor.Float64:
			updateChunk(r.f64, c, p, grads[c.param], scale)
		}
	})
	t.narrow()
}

func updateChunk[T kernel.Float](f update[T], c *chunk, p *Parameter, grad *tensor.Tensor, scale T) {
	var s [maxSlots][]T
	for i, slot := range p.slots {
		s[i] = tensor.Data[T](slot)[c.lo:c.hi]
	}
	g := tensor.Data[T](grad)[c.lo:c.hi]
	if scale != 1 {
		for k := range g {
			g[k] *= scale
		}
	}
	f(tensor.Data[T](p.master)[c.lo:c.hi], g, &s)
}

// narrow rounds the masters of 16-bit weights to those.
func (t *Trainer) narrow() {
	for _, p := range t.params {
		if p.wide != nil {
			if err := tensor.ConvertInto(p.Value, p.master, true); err != nil {
				panic(fmt.Sprintf("finetune: %s to %s: %v", p.master.DType(), p.Value.DType(), err)) // both are floating-point
			}
		}
	}
}
