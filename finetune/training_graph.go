package finetune

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Names that a training graph has beside the model's own. What an output is called after [NextOf] and an input is that input's value
// for the next step.
const (
	LossName = "retune::loss"      // of a step, before its update
	NormName = "retune::grad_norm" // of all gradients together, before clipping (float64)
	RateName = "retune::lr"        // the learning rate (float64)
	StepName = "retune::step"      // the number of the step, from 1 (int64)
	NextOf   = "next::"

	RoundedOf = "rounded::" // begins the names of integers that stand for new weights, which the model has
)

// TrainingGraph is a step of training as a model in standard operators alone, for any runtime: the forward pass, the loss, the
// gradients and the optimizer's update. Inputs are those of a batch, targets included, and, with what they are now as their defaults,
// the weights that are trained under their names (as float32 where they have 16 bits), the optimizer's state as NAME.SLOT by
// PyTorch's names of the slots, with NAME.step for a weight that a batch may not come to, running statistics, carried states, [RateName], [StepName] and, if the loss is scaled,
// retune::scale. Outputs are [LossName], [NormName] and, for each input that a step changes, its next value under [NextOf] and its name. A
// driver feeds those back. A runtime that takes no value for an input with a default, as ONNX Runtime's JavaScript interface, which goes on with the
// default and says nothing, needs the initializers of those inputs' names taken out of the file and fed by the driver from the first step on.
//
// Results are those of [Trainer.Step] on one batch, within rounding: with every optimizer and its weight decay, L1 and L2, clipping by value and by norm,
// a scaled loss, float32 masters of weights of 16 bits, batch statistics and running ones, carried states and weights that a batch does not come to.
// Weights of integers that are trained straight through come and go as the real numbers that they stand for, and once more as integers under [RoundedOf] and
// their names. Not in the graph are: schedules, since the rate is an input; the mean over several batches; what adapts the scale of the loss, and what holds an update back
// whose gradients are not finite, which [NormName] tells a driver in time for it to keep what it has; and [Config.Seed], since dropout draws by
// the runtime's generator, with a seed for each place. What cannot be written in standard operators is an error that lists it.
func (t *Trainer) TrainingGraph() (*onnx.Model, error) {
	m, err := t.trainingGraph()
	if err != nil {
		return nil, fmt.Errorf("training graph: %w", err)
	}
	return m, nil
}

func (t *Trainer) trainingGraph() (*onnx.Model, error) {
	ties, err := allTies(t.model, t.cfg, t.names, t.apart)
	if err != nil {
		return nil, err
	}
	l, err := t.withGradients(ties)
	if err != nil {
		return nil, err
	}
	u := &updates{Grad: l.builder, trainer: t}
	graph := l.model.Graph
	states := t.states.of(l.model)
	graph.Outputs = nil
	u.lr = u.input(RateName, tensor.Scalar(t.LR()))
	step := u.input(StepName, tensor.Scalar(int64(t.at.Updates+1)))
	u.step = u.Cast(step, tensor.Float64)
	u.first = u.Op("Equal", step, u.Const(tensor.Scalar(int64(1))))
	u.output(LossName, l.loss)

	var ws, ds []*onnx.Value
	for _, p := range t.params {
		w := graph.Init(p.Name)
		ws, ds = append(ws, u.variable(w, p.master)), append(ds, u.Cast(l.grads[w], p.master.DType()))
	}
	ds = u.clip(ws, ds)
	names, _ := t.cfg.Optimizer.slots()
	for i, p := range t.params {
		var slots []*onnx.Value
		for k, name := range names {
			slots = append(slots, u.input(p.Name+"."+name, p.slots[k]))
		}
		own, came, count := u.comes(p, l.reached[p.Name])
		w, next := t.cfg.Optimizer.emit(own, ws[i], ds[i], slots)
		keep := func(name string, next, now *onnx.Value) {
			if came != nil {
				next = u.Op("Where", came, next, now)
			}
			u.output(NextOf+name, next)
		}
		keep(p.Name, w, ws[i])
		if q := t.rounded[p.Name]; q != nil {
			v, err := q.rounded(u.Grad, graph.Outputs[len(graph.Outputs)-1], t.model.Graph.Init(p.Name).Const.DType())
			if err != nil {
				return nil, err
			}
			u.output(RoundedOf+p.Name, v)
		}
		for k, name := range names {
			keep(p.Name+"."+name, next[k], slots[k])
		}
		if came != nil {
			keep(p.Name+".step", u.Add(count, u.Const(tensor.Scalar(int64(1)))), count)
		}
	}
	if err := u.statistics(l.norms); err != nil {
		return nil, err
	}
	for name, from := range t.states.outputs {
		for _, v := range states {
			if v.Name == from {
				u.output(NextOf+name, v)
			}
		}
	}
	u.output(NextOf+StepName, u.Op("Add", step, u.Const(tensor.Scalar(int64(1)))))
	if err := u.Err(); err != nil {
		return nil, err
	}
	for _, v := range graph.Inputs {
		if v.Name == scaleInput {
			if v.Const, err = tensor.Convert(tensor.Scalar(t.at.Scale), v.Type.Elem, true); err != nil {
				return nil, err
			}
			graph.Inits = append(graph.Inits, v)
		}
	}
	m, err := runtime.Portable(l.model)
	if err != nil {
		return nil, err
	}
	// Standard dropout has a seed of its own.
	m.Graph.Inputs = slices.DeleteFunc(m.Graph.Inputs, func(v *onnx.Value) bool { return v.Name == seedInput })
	return m, onnx.Check(m)
}

// updates builds what comes after the gradients.
type updates struct {
	*ops.Grad
	trainer *Trainer
	lr      *onnx.Value // float64
	step    *onnx.Value // float64
	first   *onnx.Value // whether it is the first step
}

// comes is the updates of p that a batch may not come to, whether this one has been come to by now, and how many updates there have
// been: see [Trainer.update]. Others have those of u alone.
func (u *updates) comes(p *Parameter, reached *onnx.Value) (own *updates, came, count *onnx.Value) {
	if cfg := &u.trainer.cfg; reached == nil || cfg.L1 > 0 || cfg.L2 > 0 {
		return u, nil, nil
	}
	done := int64(0)
	if before, started := u.trainer.at.Started[p.Name]; started {
		done = int64(u.trainer.at.Updates - before)
	}
	count = u.input(p.Name+".step", tensor.Scalar(done))
	one, zero := u.Const(tensor.Scalar(int64(1))), u.Const(tensor.Scalar(int64(0)))
	its := *u
	its.step, its.first = u.Cast(u.Add(count, one), tensor.Float64), u.Op("Equal", count, zero)
	return &its, u.Op("Or", reached, u.Op("Greater", count, zero)), count
}

// input adds an input with a default.
func (u *updates) input(name string, def *tensor.Tensor) *onnx.Value {
	def = def.Clone()
	v := &onnx.Value{Name: name, Const: def, Type: onnx.TypeOfTensor(def)}
	u.Graph.Inits, u.Graph.Inputs = append(u.Graph.Inits, v), append(u.Graph.Inputs, v)
	u.Infos[v] = ops.InfoOf(def, false)
	return v
}

// output adds an output.
func (u *updates) output(name string, v *onnx.Value) {
	n := onnx.NewNode("Identity", []*onnx.Value{v}, name)
	n.Name, n.Opset = name, ops.GradOpset
	u.Graph.Nodes = append(u.Graph.Nodes, n)
	u.Graph.Outputs = append(u.Graph.Outputs, n.Outputs[0])
	n.Outputs[0].Type = &onnx.Type{Elem: u.DType(v)}
	u.Infos[n.Outputs[0]] = u.Info(v).WithoutValue()
}

// variable has an initializer come as an input of its name instead, of the type of now, its default, and gives that.
func (u *updates) variable(w *onnx.Value, now *tensor.Tensor) *onnx.Value {
	u.Graph.Inputs = slices.DeleteFunc(u.Graph.Inputs, func(v *onnx.Value) bool { return v == w })
	type_ := w.Const.DType()
	if type_ == now.DType() {
		w.Const, w.Type = now.Clone(), onnx.TypeOfTensor(now)
		u.Graph.Inputs = append(u.Graph.Inputs, w)
		return w
	}
	u.Graph.Inits = slices.DeleteFunc(u.Graph.Inits, func(v *onnx.Value) bool { return v == w })
	v := u.input(w.Name, now)
	cast := u.With("Cast", []*onnx.Attribute{ops.IntAttr("to", int64(type_))}, v).Def()
	w.Name, w.Const, w.Type = cast.Outputs[0].Name, nil, nil
	cast.SetOutput(0, nil)
	cast.SetOutput(0, w)
	return v
}

// wide is a constant of float64.
func (u *updates) wide(x float64) *onnx.Value { return u.Const(tensor.Scalar(x)) }

// as is a number of float64 in w's type.
func (u *updates) as(w, v *onnx.Value) *onnx.Value { return u.Cast(v, u.DType(w)) }

// times is v multiplied by x.
func (u *updates) times(v *onnx.Value, x float64) *onnx.Value { return u.Mul(v, u.Like(v, x)) }

// decay adds the gradient of a weight decay to d.
func (u *updates) decay(d, w *onnx.Value, by float64) *onnx.Value {
	if by == 0 {
		return d
	}
	return u.Add(d, u.times(w, by))
}

// clip is the gradients as the optimizer sees them: unscaled, with those of L1 and L2, clipped.
func (u *updates) clip(ws, ds []*onnx.Value) []*onnx.Value {
	cfg := &u.trainer.cfg
	var scale *onnx.Value
	for _, v := range u.Graph.Inputs {
		if v.Name == scaleInput {
			scale = v
		}
	}
	norm := func() *onnx.Value {
		var sum *onnx.Value
		for _, d := range ds {
			s := u.Cast(u.With("ReduceSumSquare", []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, d), tensor.Float64)
			if sum != nil {
				s = u.Add(sum, s)
			}
			sum = s
		}
		return u.Op("Sqrt", sum)
	}
	for i, w := range ws {
		if scale != nil {
			ds[i] = u.Div(ds[i], u.as(w, scale))
		}
		if cfg.L2 != 0 {
			ds[i] = u.Add(ds[i], u.times(w, 2*cfg.L2))
		}
		if cfg.L1 != 0 {
			ds[i] = u.Add(ds[i], u.times(u.Op("Sign", w), cfg.L1))
		}
	}
	n := norm()
	u.output(NormName, n)
	if c := cfg.ClipValue; c > 0 {
		for i, d := range ds {
			ds[i] = u.Op("Clip", d, u.Like(d, -c), u.Like(d, c))
		}
		n = norm()
	}
	if c := cfg.ClipNorm; c > 0 {
		by := u.Op("Min", u.wide(1), u.Div(u.wide(c), u.Add(n, u.wide(1e-6))))
		for i, d := range ds {
			ds[i] = u.Mul(d, u.as(d, by))
		}
	}
	return ds
}

// statistics moves the running statistics of the batch norms that train.
func (u *updates) statistics(norms []batchNorm) error {
	now := map[string]*onnx.Value{}
	var order []string
	for _, b := range norms {
		for i, name := range []string{b.mean, b.variance} {
			if name == "" {
				continue
			}
			running := now[name]
			if running == nil {
				init := u.Graph.Init(name)
				if init == nil {
					return fmt.Errorf("there is no initializer %q", name)
				}
				running = u.variable(init, u.trainer.buffers[name])
				order = append(order, name)
			}
			moved := u.Add(u.times(b.stats[i], b.momentum), u.times(u.Cast(running, tensor.Float64), 1-b.momentum))
			now[name] = u.Cast(moved, u.DType(running))
		}
	}
	for _, name := range order {
		u.output(NextOf+name, now[name])
	}
	return nil
}
