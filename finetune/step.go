package finetune

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/retune-go/retune/tensor"
)

// Step is what one step of training did. Loss is the one before the update, as PyTorch prints it.
type Step struct {
	Step     int           `json:"step"`
	Loss     float64       `json:"loss"`
	LR       float64       `json:"lr"`
	GradNorm float64       `json:"grad_norm"` // before clipping
	Skipped  bool          `json:"skipped"`   // the scaled gradients were not finite: no weight changed, the scale is halved
	Time     time.Duration `json:"-"`
}

// LR is the learning rate of the next step.
func (t *Trainer) LR() float64 {
	lr := t.cfg.Optimizer.rate()
	if t.cfg.Schedule != nil {
		lr = t.cfg.Schedule.at(lr, t.at.Steps/max(1, t.cfg.ScheduleEvery))
	}
	if t.at.Plateau.Factor != 0 {
		lr *= t.at.Plateau.Factor
	}
	return lr
}

// Step trains on a batch, or on the mean of several (gradient accumulation). A loss or gradient that is not finite is
// an error, and changes no weight.
func (t *Trainer) Step(ctx context.Context, batches ...Batch) (Step, error) {
	begin := time.Now()
	s := Step{Step: t.at.Steps + 1, LR: t.LR()}
	fail := func(err error) (Step, error) { return s, fmt.Errorf("step %d: %w", s.Step, err) }
	if len(batches) == 0 {
		return fail(fmt.Errorf("there is no batch"))
	}
	var grads []*tensor.Tensor
	draws, states := t.at.Draws, t.states.now
	buffers := map[string]*tensor.Tensor{} // as they are to become
	came := make([]bool, len(t.params))
	for i, b := range batches {
		batch := &t.grads
		if i > 0 {
			batch = &t.more
		}
		if *batch == nil {
			var err error
			if *batch, err = t.gradients(); err != nil {
				return fail(err)
			}
		}
		loss, out, err := t.run(ctx, t.train, b, *batch)
		if err == nil {
			if s.Loss += loss / float64(len(batches)); math.IsNaN(loss) || math.IsInf(loss, 0) {
				err = fmt.Errorf("the loss is %v%s", loss, notFinite(b))
			}
		}
		if err == nil {
			grads, err = t.gather(*batch, i == 0, len(batches) > 1)
		}
		if err != nil {
			t.at.Draws, t.states.now = draws, states
			return fail(err)
		}
		t.at.Draws++
		t.moveStatistics(out, buffers)
		for k, p := range t.params {
			came[k] = came[k] || p.reached == nil || tensor.Data[bool](out[p.reached.Name].(*tensor.Tensor))[0]
		}
	}
	squares, clipped := t.measure(grads, 1/(t.at.Scale*float64(len(batches))))
	s.GradNorm = math.Sqrt(squares)
	if math.IsNaN(squares) || math.IsInf(squares, 0) {
		if t.at.Scale == 1 || t.cfg.LossScale != 0 {
			t.at.Draws, t.states.now = draws, states
			return fail(fmt.Errorf("the norm of the gradients is %v", s.GradNorm))
		}
		s.Skipped, s.GradNorm = true, 0
		t.at.Scale, t.at.Grown = t.at.Scale/2, 0
		if t.at.Scale < 1 {
			return fail(fmt.Errorf("gradients are not finite however small the scale of the loss"))
		}
	}
	for name, v := range buffers {
		copy(t.buffers[name].Bytes(), v.Bytes())
	}
	t.at.Steps++
	if !s.Skipped {
		scale := 1.0
		if c := t.cfg.ClipNorm; c > 0 {
			scale = min(1, c/(math.Sqrt(clipped)+1e-6))
		}
		t.at.Updates++
		t.update(grads, came, s.LR, scale)
		if t.at.Grown++; t.at.Scale != 1 && t.cfg.LossScale == 0 && t.at.Grown == 2000 {
			t.at.Scale, t.at.Grown = t.at.Scale*2, 0
		}
	}
	s.Time = time.Since(begin)
	return s, nil
}

// Fit trains on batches in their order until they end, the context does, or a step fails.
func (t *Trainer) Fit(ctx context.Context, batches iter.Seq2[Batch, error]) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		for b, err := range batches {
			if err != nil {
				yield(Step{}, err)
				return
			}
			s, err := t.Step(ctx, b)
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// Loss is the loss of a batch, without training on it.
func (t *Trainer) Loss(ctx context.Context, b Batch) (float64, error) {
	loss, _, err := t.run(ctx, t.eval, b, nil)
	return loss, err
}

// Gradients is the loss of a batch and its gradients by parameter, multiplied by the loss scale if there is one.
func (t *Trainer) Gradients(ctx context.Context, b Batch) (float64, map[string]*tensor.Tensor, error) {
	loss, out, err := t.run(ctx, t.train, b, nil)
	if err != nil {
		return 0, nil, err
	}
	grads := make(map[string]*tensor.Tensor, len(t.params))
	for _, p := range t.params {
		grads[p.Name] = out[p.grad].(*tensor.Tensor)
	}
	return loss, grads, nil
}

// Check reports what is wrong with a batch's names, types and shapes, for [Trainer.Step] or, if it is not to train on, for [Trainer.Loss].
func (t *Trainer) Check(b Batch, train bool) error {
	r := t.eval
	if train {
		r = t.train
	}
	in, err := t.inputs(r, b)
	if err == nil {
		_, err = r.session.Planned(in)
	}
	return err
}

// ResetStates has the next batch begin with zeros in the states of [Config.Carry]: at the start of a text, and between training and
// validation.
func (t *Trainer) ResetStates() { t.states.now = nil }

// inputs is a batch, together with what the trainer holds.
func (t *Trainer) inputs(r *graphRun, b Batch) (map[string]tensor.Value, error) {
	in := make(map[string]tensor.Value, len(b)+len(t.params)+len(t.buffers)+2)
	own := t.own()
	for name, v := range b {
		if !r.takes[name] || own[name] {
			return nil, fmt.Errorf("the batch has %q, which neither the model nor the loss takes", name)
		}
		in[name] = v
	}
	if err := t.states.give(in, b); err != nil {
		return nil, err
	}
	for _, p := range r.session.Inputs() {
		if in[p.Name] == nil && !own[p.Name] && !p.Optional {
			return nil, fmt.Errorf("the batch has no %q, which the model or the loss takes", p.Name)
		}
	}
	for _, p := range t.params {
		if r.takes[p.Name] {
			in[p.Name] = p.Value
		}
	}
	for name, v := range t.buffers {
		if r.takes[name] {
			in[name] = v
		}
	}
	if r.takes[seedInput] {
		in[seedInput] = tensor.Scalar(int64(t.cfg.Seed*0x9e3779b97f4a7c15 + t.at.Draws))
	}
	if r.takes[scaleInput] {
		for _, p := range r.session.Inputs() {
			if p.Name == scaleInput {
				v, err := tensor.Convert(tensor.Scalar(t.at.Scale), p.Info.DType, true)
				if err != nil {
					return nil, err
				}
				in[scaleInput] = v
			}
		}
	}
	return in, nil
}

// run runs a batch. Gradients are written into grads, by parameter, unless that is nil.
func (t *Trainer) run(ctx context.Context, r *graphRun, b Batch, grads []*tensor.Tensor) (float64, map[string]tensor.Value, error) {
	in, err := t.inputs(r, b)
	if err != nil {
		return 0, nil, err
	}
	out := make(map[string]tensor.Value)
	for _, p := range r.session.Outputs() {
		out[p.Name] = nil
	}
	for i, d := range grads {
		out[t.params[i].grad] = d
	}
	if err := r.session.RunInto(ctx, in, out); err != nil {
		return 0, nil, err
	}
	t.states.keep(out)
	return tensor.Float64At(out[r.loss].(*tensor.Tensor), 0), out, nil
}

// notFinite says which arrays of a batch hold numbers that are not finite.
func notFinite(b Batch) string {
	said := ""
	for _, name := range slices.Sorted(maps.Keys(b)) {
		v, ok := b[name].(*tensor.Tensor)
		if !ok || !v.DType().IsFloat() {
			continue
		}
		for i := range v.Len() {
			if x := tensor.Float64At(v, i); math.IsNaN(x) || math.IsInf(x, 0) {
				said += fmt.Sprintf(", and %q of the batch holds %v", name, x)
				break
			}
		}
	}
	return said
}

// moveStatistics moves running statistics towards a batch's, in next or, where they are not there yet, from what they are.
func (t *Trainer) moveStatistics(out map[string]tensor.Value, next map[string]*tensor.Tensor) {
	for _, b := range t.norms {
		for i, name := range []string{b.mean, b.variance} {
			if name == "" {
				continue
			}
			if next[name] == nil {
				next[name] = t.buffers[name].Clone()
			}
			running := next[name]
			for k, v := range tensor.Data[float64](out[b.stats[i].Name].(*tensor.Tensor)) {
				tensor.SetFloat64At(running, k, b.momentum*v+(1-b.momentum)*tensor.Float64At(running, k))
			}
		}
	}
}
