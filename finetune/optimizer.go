package finetune

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
)

// Optimizer is one of torch.optim's, with its names, defaults and formulas. A zero field
// that PyTorch gives a default takes that default.
type Optimizer interface {
	// rate is the learning rate.
	rate() float64
	// check refuses what PyTorch refuses.
	check() error
	// slots names what is kept for each element of a parameter, as PyTorch's state_dict does, and says what it begins with.
	slots() (names []string, initial float64)
	// rule is the update of step t, counted from 1.
	rule(t int, lr float64) rule
	// emit is the rule as nodes of a training graph: from a parameter, its gradient and its slots, those as they become.
	emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value)
}

// maxSlots is the most slots that an optimizer has.
const maxSlots = 3

// rule changes parameters w by gradients g, at each element type. It may overwrite g. Arithmetic is in the parameters'
// type, operation by operation as PyTorch rounds it.
type rule struct {
	f32 update[float32]
	f64 update[float64]
}

type update[T kernel.Float] func(w, g []T, s *[maxSlots][]T)

// SGD is torch.optim.SGD.
type SGD struct {
	LR, Momentum, Dampening, WeightDecay float64
	Nesterov                             bool
}

// Adam is torch.optim.Adam: weight decay is added to the gradient.
type Adam struct {
	LR          float64    // default 1e-3
	Betas       [2]float64 // both 0: 0.9, 0.999
	Eps         float64    // default 1e-8
	WeightDecay float64
	AMSGrad     bool // the greatest mean of squares so far, rather than the latest
}

// AdamW is torch.optim.AdamW: decoupled weight decay, 0.01 unless NoDecay.
type AdamW struct {
	LR          float64
	Betas       [2]float64
	Eps         float64
	WeightDecay float64 // default 1e-2
	NoDecay     bool
	AMSGrad     bool
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

func (o SGD) rate() float64     { return or(o.LR, 1e-3) }
func (o Adam) rate() float64    { return or(o.LR, 1e-3) }
func (o AdamW) rate() float64   { return or(o.LR, 1e-3) }
func (o RMSprop) rate() float64 { return or(o.LR, 1e-2) }
func (o Adagrad) rate() float64 { return or(o.LR, 1e-2) }

func (o SGD) check() error {
	if o.Nesterov && (o.Momentum == 0 || o.Dampening != 0) {
		return errors.New("with Nesterov there must be a momentum and no dampening")
	}
	return notNegative("learning rate", o.LR, "momentum", o.Momentum, "weight decay", o.WeightDecay)
}

func (o Adam) check() error {
	for _, b := range o.Betas {
		if b >= 1 {
			return fmt.Errorf("a beta must be below 1, got %v", b)
		}
	}
	return notNegative("learning rate", o.LR, "beta", o.Betas[0], "beta", o.Betas[1], "epsilon", o.Eps, "weight decay", o.WeightDecay)
}

// betas is the defaults if both are 0; one alone may be.
func (o Adam) betas() (beta1, beta2 float64) {
	if o.Betas == [2]float64{} {
		return 0.9, 0.999
	}
	return o.Betas[0], o.Betas[1]
}

func (o AdamW) check() error {
	return errors.Join(o.adam().check(), notNegative("weight decay", o.WeightDecay))
}

func (o RMSprop) check() error {
	return notNegative("learning rate", o.LR, "alpha", o.Alpha, "epsilon", o.Eps, "weight decay", o.WeightDecay, "momentum", o.Momentum)
}

func (o Adagrad) check() error {
	return notNegative("learning rate", o.LR, "decay of the learning rate", o.LRDecay, "weight decay", o.WeightDecay, "initial accumulator value", o.Initial, "epsilon", o.Eps)
}

// notNegative takes names and numbers in turn.
func notNegative(vs ...any) error {
	for i := 0; i < len(vs); i += 2 {
		if v := vs[i+1].(float64); !(v >= 0) || math.IsInf(v, 1) {
			return fmt.Errorf("the %s must be a finite number of 0 or more, got %v", vs[i], v)
		}
	}
	return nil
}

func (o SGD) slots() ([]string, float64) {
	if o.Momentum == 0 {
		return nil, 0
	}
	return []string{"momentum_buffer"}, 0
}
func (o Adam) slots() ([]string, float64) {
	names := []string{"exp_avg", "exp_avg_sq"}
	if o.AMSGrad {
		names = append(names, "max_exp_avg_sq")
	}
	return names, 0
}
func (o AdamW) slots() ([]string, float64) { return o.adam().slots() }
func (o RMSprop) slots() ([]string, float64) {
	names := []string{"square_avg"}
	if o.Momentum > 0 {
		names = append(names, "momentum_buffer")
	}
	if o.Centered {
		names = append(names, "grad_avg")
	}
	return names, 0
}
func (o Adagrad) slots() ([]string, float64) { return []string{"sum"}, o.Initial }

func (o SGD) rule(t int, lr float64) rule {
	return rule{sgd[float32](o, t, lr), sgd[float64](o, t, lr)}
}

func sgd[T kernel.Float](o SGD, t int, lr float64) update[T] {
	rate, decay, momentum, fresh := T(lr), T(o.WeightDecay), T(o.Momentum), T(1-o.Dampening)
	return func(w, g []T, s *[maxSlots][]T) {
		if decay != 0 {
			for k, v := range w {
				g[k] += decay * v
			}
		}
		if momentum != 0 {
			buf := s[0]
			for k, d := range g {
				if t == 1 {
					buf[k] = d
				} else {
					buf[k] = buf[k]*momentum + d*fresh
				}
				if o.Nesterov {
					g[k] = d + buf[k]*momentum
				} else {
					g[k] = buf[k]
				}
			}
		}
		for k, d := range g {
			w[k] -= rate * d
		}
	}
}

func (o SGD) emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	d = u.decay(d, w, o.WeightDecay)
	if o.Momentum != 0 {
		buf := u.Add(u.times(slots[0], o.Momentum), u.times(d, 1-o.Dampening))
		if o.Dampening != 0 { // the first gradient counts in full
			buf = u.Op("Where", u.first, d, buf)
		}
		slots = []*onnx.Value{buf}
		if o.Nesterov {
			d = u.Add(d, u.times(buf, o.Momentum))
		} else {
			d = buf
		}
	}
	return u.Sub(w, u.Mul(d, u.as(w, u.lr))), slots
}

func (o Adam) rule(t int, lr float64) rule {
	return rule{adam[float32](o, 1, t, lr), adam[float64](o, 1, t, lr)}
}

// adam is the rule without its decay.
func (o AdamW) adam() Adam { return Adam{LR: o.LR, Betas: o.Betas, Eps: o.Eps, AMSGrad: o.AMSGrad} }

func (o AdamW) rule(t int, lr float64) rule {
	a := o.adam()
	keep := 1 - lr*or(o.WeightDecay, 1e-2)
	if o.NoDecay {
		keep = 1
	}
	return rule{adam[float32](a, keep, t, lr), adam[float64](a, keep, t, lr)}
}

func (o Adam) emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	return u.adam(o, nil, w, d, slots)
}

func (o AdamW) emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	var keep *onnx.Value
	if !o.NoDecay {
		keep = u.Sub(u.wide(1), u.Mul(u.lr, u.wide(or(o.WeightDecay, 1e-2))))
	}
	return u.adam(o.adam(), keep, w, d, slots)
}

// adam first multiplies the parameter by keep, if that is not nil.
func (u *updates) adam(o Adam, keep, w, d *onnx.Value, before []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	beta1, beta2 := o.betas()
	rest := func(beta float64) *onnx.Value { return u.Sub(u.wide(1), u.Op("Pow", u.wide(beta), u.step)) }
	d = u.decay(d, w, o.WeightDecay)
	m := u.Add(u.times(before[0], beta1), u.times(d, 1-beta1))
	v := u.Add(u.times(before[1], beta2), u.times(u.Mul(d, d), 1-beta2))
	slots, top := []*onnx.Value{m, v}, v
	if o.AMSGrad {
		top = u.Op("Max", before[2], v)
		slots = append(slots, top)
	}
	root := u.as(w, u.Op("Sqrt", rest(beta2)))
	move := u.Mul(u.as(w, u.Div(u.lr, rest(beta1))), u.Div(m, u.Add(u.Div(u.Op("Sqrt", top), root), u.Like(w, or(o.Eps, 1e-8)))))
	if keep != nil {
		w = u.Mul(w, u.as(w, keep))
	}
	return u.Sub(w, move), slots
}

// adam first multiplies the parameters by keep.
func adam[T kernel.Float](o Adam, keep float64, t int, lr float64) update[T] {
	beta1, beta2 := o.betas()
	rates := kernel.AdamRates[T]{
		Beta1: T(beta1), Rest1: T(1 - beta1), Beta2: T(beta2), Rest2: T(1 - beta2), Keep: T(keep),
		Step: T(lr / (1 - math.Pow(beta1, float64(t)))), Root: T(math.Sqrt(1 - math.Pow(beta2, float64(t)))), Eps: T(or(o.Eps, 1e-8)),
	}
	decay := T(o.WeightDecay)
	return func(w, g []T, s *[maxSlots][]T) {
		if decay != 0 {
			kernel.Axpy(g, decay, w)
		}
		if !o.AMSGrad {
			kernel.Adam(w, g, s[0], s[1], rates)
			return
		}
		r, m, v, top := rates, s[0], s[1], s[2]
		for i, d := range g {
			m[i] = r.Beta1*m[i] + r.Rest1*d
			v[i] = r.Beta2*v[i] + r.Rest2*d*d
			top[i] = max(top[i], v[i])
			w[i] = r.Keep*w[i] - r.Step*m[i]/(T(math.Sqrt(float64(top[i])))/r.Root+r.Eps)
		}
	}
}

func (o RMSprop) rule(_ int, lr float64) rule {
	return rule{rmsprop[float32](o, lr), rmsprop[float64](o, lr)}
}

func rmsprop[T kernel.Float](o RMSprop, lr float64) update[T] {
	alpha := or(o.Alpha, 0.99)
	rate, keep, fresh, eps, decay, momentum := T(lr), T(alpha), T(1-alpha), T(or(o.Eps, 1e-8)), T(o.WeightDecay), T(o.Momentum)
	return func(w, g []T, s *[maxSlots][]T) {
		sq, slot := s[0], 1
		var buf, avg []T
		if momentum > 0 {
			buf, slot = s[slot], slot+1
		}
		if o.Centered {
			avg = s[slot]
		}
		for k, p := range w {
			d := g[k]
			if decay != 0 {
				d += decay * p
			}
			sq[k] = sq[k]*keep + fresh*d*d
			den := sq[k]
			if avg != nil {
				avg[k] = avg[k]*keep + fresh*d
				den = max(0, den-avg[k]*avg[k]) // a variance, but for rounding
			}
			den = T(math.Sqrt(float64(den))) + eps
			if buf != nil {
				buf[k] = buf[k]*momentum + d/den
				w[k] = p - rate*buf[k]
			} else {
				w[k] = p - rate*d/den
			}
		}
	}
}

func (o RMSprop) emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	alpha := or(o.Alpha, 0.99)
	d = u.decay(d, w, o.WeightDecay)
	blend := func(a, b *onnx.Value) *onnx.Value { return u.Add(u.times(a, alpha), u.times(b, 1-alpha)) }
	next := slices.Clone(slots)
	next[0] = blend(slots[0], u.Mul(d, d))
	den := next[0]
	if o.Centered {
		at := len(slots) - 1
		next[at] = blend(slots[at], d)
		den = u.Op("Max", u.Sub(den, u.Mul(next[at], next[at])), u.Like(den, 0)) // a variance, but for rounding
	}
	move := u.Div(d, u.Add(u.Op("Sqrt", den), u.Like(w, or(o.Eps, 1e-8))))
	if o.Momentum > 0 {
		next[1] = u.Add(u.times(slots[1], o.Momentum), move)
		move = next[1]
	}
	return u.Sub(w, u.Mul(u.as(w, u.lr), move)), next
}

func (o Adagrad) emit(u *updates, w, d *onnx.Value, slots []*onnx.Value) (*onnx.Value, []*onnx.Value) {
	d = u.decay(d, w, o.WeightDecay)
	rate := u.Div(u.lr, u.Add(u.wide(1), u.Mul(u.Sub(u.step, u.wide(1)), u.wide(o.LRDecay))))
	sum := u.Add(slots[0], u.Mul(d, d))
	return u.Sub(w, u.Div(u.Mul(u.as(w, rate), d), u.Add(u.Op("Sqrt", sum), u.Like(w, or(o.Eps, 1e-10))))), []*onnx.Value{sum}
}

func (o Adagrad) rule(t int, lr float64) rule {
	return rule{adagrad[float32](o, t, lr), adagrad[float64](o, t, lr)}
}

func adagrad[T kernel.Float](o Adagrad, t int, lr float64) update[T] {
	rate, eps, decay := T(lr/(1+float64(t-1)*o.LRDecay)), T(or(o.Eps, 1e-10)), T(o.WeightDecay)
	return func(w, g []T, s *[maxSlots][]T) {
		sum := s[0]
		for k, p := range w {
			d := g[k]
			if decay != 0 {
				d += decay * p
			}
			sum[k] += d * d
			w[k] = p - rate*d/(T(math.Sqrt(float64(sum[k])))+eps)
		}
	}
}
