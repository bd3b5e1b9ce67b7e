package finetune

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/tensor"
)

// Optimizer is one of torch.optim's, with its names, defaults and formulas. A zero field
// that PyTorch gives a default takes that default.
type Optimizer interface {
	// start gives the update rule for parameters of these sizes.
	start(sizes []int) rule
	// rate is the learning rate.
	rate() float64
}

// rule changes parameter i by its gradient. w and g are float64 views of one element at a time would
// be slow, so it works on whole slices.
type rule interface {
	step() // a new step begins
	update(i int, w, g []float64, lr float64)
}

// SGD is torch.optim.SGD.
type SGD struct {
	LR, Momentum, Dampening, WeightDecay float64
	Nesterov                             bool
}

// Adam is torch.optim.Adam: weight decay is added to the gradient.
type Adam struct {
	LR          float64    // default 1e-3
	Betas       [2]float64 // default 0.9, 0.999
	Eps         float64    // default 1e-8
	WeightDecay float64
	decoupled   bool
}

// AdamW is torch.optim.AdamW: decoupled weight decay, 0.01 unless NoDecay.
type AdamW struct {
	LR          float64
	Betas       [2]float64
	Eps         float64
	WeightDecay float64 // default 1e-2
	NoDecay     bool
}

// RMSprop is torch.optim.RMSprop.
type RMSprop struct {
	LR          float64 // default 1e-2
	Alpha       float64 // default 0.99
	Eps         float64 // default 1e-8
	WeightDecay float64
	Momentum    float64
	Centered    bool
}

// Adagrad is torch.optim.Adagrad.
type Adagrad struct {
	LR          float64 // default 1e-2
	LRDecay     float64
	WeightDecay float64
	Initial     float64 // initial_accumulator_value
	Eps         float64 // default 1e-10
}

func or(v, def float64) float64 {
	if v == 0 {
		return def
	}
	return v
}

func states(sizes []int) [][]float64 {
	s := make([][]float64, len(sizes))
	for i, n := range sizes {
		s[i] = make([]float64, n)
	}
	return s
}

func (o SGD) rate() float64     { return or(o.LR, 1e-3) }
func (o Adam) rate() float64    { return or(o.LR, 1e-3) }
func (o AdamW) rate() float64   { return or(o.LR, 1e-3) }
func (o RMSprop) rate() float64 { return or(o.LR, 1e-2) }
func (o Adagrad) rate() float64 { return or(o.LR, 1e-2) }

type sgd struct {
	SGD
	t   int
	buf [][]float64
}

func (o SGD) start(sizes []int) rule { return &sgd{SGD: o, buf: states(sizes)} }
func (r *sgd) step()                 { r.t++ }
func (r *sgd) update(i int, w, g []float64, lr float64) {
	buf := r.buf[i]
	for k := range w {
		d := g[k] + r.WeightDecay*w[k]
		if r.Momentum != 0 {
			if r.t == 1 {
				buf[k] = d
			} else {
				buf[k] = r.Momentum*buf[k] + (1-r.Dampening)*d
			}
			if r.Nesterov {
				d += r.Momentum * buf[k]
			} else {
				d = buf[k]
			}
		}
		w[k] -= lr * d
	}
}

type adam struct {
	Adam
	t    int
	m, v [][]float64
}

func (o Adam) start(sizes []int) rule {
	o.Betas[0], o.Betas[1], o.Eps = or(o.Betas[0], 0.9), or(o.Betas[1], 0.999), or(o.Eps, 1e-8)
	return &adam{Adam: o, m: states(sizes), v: states(sizes)}
}

func (o AdamW) start(sizes []int) rule {
	a := Adam{LR: o.LR, Betas: o.Betas, Eps: o.Eps, WeightDecay: or(o.WeightDecay, 1e-2), decoupled: true}
	if o.NoDecay {
		a.WeightDecay = 0
	}
	return a.start(sizes)
}

func (r *adam) step() { r.t++ }
func (r *adam) update(i int, w, g []float64, lr float64) {
	m, v := r.m[i], r.v[i]
	b1, b2 := r.Betas[0], r.Betas[1]
	c1, c2 := 1-math.Pow(b1, float64(r.t)), math.Sqrt(1-math.Pow(b2, float64(r.t)))
	for k := range w {
		d := g[k]
		if r.decoupled {
			w[k] *= 1 - lr*r.WeightDecay
		} else {
			d += r.WeightDecay * w[k]
		}
		m[k] = b1*m[k] + (1-b1)*d
		v[k] = b2*v[k] + (1-b2)*d*d
		w[k] -= lr / c1 * m[k] / (math.Sqrt(v[k])/c2 + r.Eps)
	}
}

type rmsprop struct {
	RMSprop
	sq, avg, buf [][]float64
}

func (o RMSprop) start(sizes []int) rule {
	o.Alpha, o.Eps = or(o.Alpha, 0.99), or(o.Eps, 1e-8)
	return &rmsprop{RMSprop: o, sq: states(sizes), avg: states(sizes), buf: states(sizes)}
}
func (r *rmsprop) step() {}
func (r *rmsprop) update(i int, w, g []float64, lr float64) {
	sq, avg, buf := r.sq[i], r.avg[i], r.buf[i]
	for k := range w {
		d := g[k] + r.WeightDecay*w[k]
		sq[k] = r.Alpha*sq[k] + (1-r.Alpha)*d*d
		den := sq[k]
		if r.Centered {
			avg[k] = r.Alpha*avg[k] + (1-r.Alpha)*d
			den -= avg[k] * avg[k]
		}
		d /= math.Sqrt(den) + r.Eps
		if r.Momentum > 0 {
			buf[k] = r.Momentum*buf[k] + d
			d = buf[k]
		}
		w[k] -= lr * d
	}
}

type adagrad struct {
	Adagrad
	t   int
	sum [][]float64
}

func (o Adagrad) start(sizes []int) rule {
	o.Eps = or(o.Eps, 1e-10)
	r := &adagrad{Adagrad: o, sum: states(sizes)}
	for _, s := range r.sum {
		for k := range s {
			s[k] = o.Initial
		}
	}
	return r
}
func (r *adagrad) step() { r.t++ }
func (r *adagrad) update(i int, w, g []float64, lr float64) {
	sum := r.sum[i]
	lr /= 1 + float64(r.t-1)*r.LRDecay
	for k := range w {
		d := g[k] + r.WeightDecay*w[k]
		sum[k] += d * d
		w[k] -= lr * d / (math.Sqrt(sum[k]) + r.Eps)
	}
}

// floats is t's elements as float64s; store writes them back.
func floats(t *tensor.Tensor, buf []float64) []float64 {
	buf = append(buf[:0], make([]float64, t.Len())...)
	switch t.DType() {
	case tensor.Float32:
		for i, v := range tensor.Data[float32](t) {
			buf[i] = float64(v)
		}
	case tensor.Float64:
		copy(buf, tensor.Data[float64](t))
	}
	return buf
}

func store(t *tensor.Tensor, v []float64) {
	switch t.DType() {
	case tensor.Float32:
		d := tensor.Data[float32](t)
		for i := range d {
			d[i] = float32(v[i])
		}
	case tensor.Float64:
		copy(tensor.Data[float64](t), v)
	}
}

// trainable reports whether the optimizers can update elements of that type.
func trainable(d tensor.DType) error {
	if d != tensor.Float32 && d != tensor.Float64 {
		return fmt.Errorf("%s weights cannot be trained", d)
	}
	return nil
}
