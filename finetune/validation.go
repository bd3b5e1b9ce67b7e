package finetune

import (
	"math"

	"github.com/retune-go/retune/tensor"
)

// Validated tells the trainer a validation loss, which a [ReduceLROnPlateau] goes by. It reports whether that is the best
// so far; then [Config.KeepBest] has the weights kept.
func (t *Trainer) Validated(loss float64) (best bool) {
	if s, ok := t.plateauOf(); ok {
		base := t.cfg.Schedule.at(t.cfg.Optimizer.rate(), t.at.Steps/max(1, t.cfg.ScheduleEvery))
		t.at.Plateau.tell(s, loss, base)
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) || t.at.Told > 0 && loss >= t.at.Best {
		t.at.Worse++
		return false
	}
	t.at.Best, t.at.BestAt, t.at.Worse = loss, t.at.Steps, 0
	t.at.Told++
	if t.cfg.KeepBest {
		t.best = map[string]*tensor.Tensor{}
		for name, v := range t.weights() {
			t.best[name] = v.Clone()
		}
	}
	return true
}

func (t *Trainer) plateauOf() (ReduceLROnPlateau, bool) {
	s := t.cfg.Schedule
	if w, ok := s.(Warmup); ok {
		s = w.Then
	}
	p, ok := s.(ReduceLROnPlateau)
	return p, ok
}

// SinceBest is how many validation losses have been told since the best one.
func (t *Trainer) SinceBest() int { return t.at.Worse }

// RestoreBest brings back the weights and running statistics of the best validation loss, and says after which step
// that was; ok is false if none were kept.
func (t *Trainer) RestoreBest() (step int, ok bool) {
	if t.best == nil {
		return 0, false
	}
	for name, v := range t.weights() {
		if b := t.best[name]; b != nil {
			copy(v.Bytes(), b.Bytes())
		}
	}
	t.narrow()
	return t.at.BestAt, true
}

// weights is what training changes in the model, by kind and name.
func (t *Trainer) weights() map[string]*tensor.Tensor {
	w := make(map[string]*tensor.Tensor, len(t.params)+len(t.buffers))
	for _, p := range t.params {
		w["parameter/"+p.Name] = p.master
	}
	for name, v := range t.buffers {
		w["buffer/"+name] = v
	}
	return w
}
