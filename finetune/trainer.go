package finetune

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Config says what is trained and how.
type Config struct {
	Loss      Loss
	Optimizer Optimizer
	// Trainable is globs over the names of initializers and, with Names, PyTorch's. One that begins with ! takes away what it matches. None, or such alone:
	// all floating-point weights that the loss hangs on. An initializer without axes that the exporter named (onnx::Mul_7, /attn/Constant_output_0, val_3) is
	// a constant of a formula: it is trained only if Names have it or its whole name is listed. So is any that the exporter named where
	// Names have another place for each parameter.
	Trainable []string
	// Names, if there are any, say which PyTorch parameter is where. One that the exporter wrote out twice is
	// then trained as one, and several that it merged into an initializer and its Identity each for itself:
	// the tuned model has initializers in place of those Identities. (So it has for running statistics in any case.)
	Names Names
	// Untie is globs over the names of weights that are not one parameter, though several nodes read them, or an Identity of them: exporters
	// merge what is equal, such as the weights of new norms. Each node is given an initializer of its own.
	Untie []string
	// Tie is initializers that are one parameter, though the file has them twice, as it is or transposed, perhaps with axes of one: each copy, and what it is of. The
	// tuned model has both, still equal.
	Tie map[string]string
	// TieEqual is globs: weights that one matches are one parameter where they are equal, as they are or transposed, but for those that Untie tells apart.
	TieEqual []string
	// StraightThrough lets gradients through what rounds (Round, QuantizeLinear and the products of quantized numbers), but not where a number is
	// saturated: PyTorch's estimate in quantization-aware training. Without it a gradient that would have to pass a quantization is an error, and one that
	// comes to Round is nothing, as in PyTorch. Initializers of integers that DequantizeLinear reads with constant scales are then trained as well: as real
	// numbers, which the graph rounds as the tuned model has them.
	StraightThrough bool
	// PaddingIdx names embeddings, each with the row that gets no gradient where it is looked up: the padding_idx of torch.nn.Embedding, which
	// ONNX does not keep. Names may say it too.
	PaddingIdx map[string]int
	// Mode is how batch norms and dropout behave in steps: none is [AsExported]. [Trainer.Loss] is without
	// training behaviour if the mode is [Train], else the mode's too. The tuned model is as exported.
	Mode Mode
	Seed uint64 // of dropout
	// BatchNormMomentum is the share of a batch in the running statistics of batch norms that train, as PyTorch has it. 0: what each has in the file. Files
	// of modules whose momentum was None, for the mean of all batches, do not say so.
	BatchNormMomentum float64
	// Dropout puts dropout of that ratio after values that it names, in the mode [Train]: for exports that have left theirs out. The
	// tuned model has none of it.
	Dropout map[string]float64
	// Carry names inputs that are states, each with the output that is its state after a batch. What a batch leaves the next one
	// begins with, without a gradient through it (truncated backpropagation through time), in [Trainer.Step] and [Trainer.Loss]
	// alike; the first one begins with zeros, or what it brings itself. See [Trainer.ResetStates].
	Carry map[string]string

	Schedule      Schedule // of the learning rate; nil: it stays
	ScheduleEvery int      // steps of training to a step of the schedule, 0: 1

	// L1 and L2 add L1·Σ|w| + L2·Σw² over the trained weights to what is made small, not to the losses reported.
	// Optimizers have their weight decay beside it.
	L1, L2    float64
	ClipValue float64 // greatest magnitude of a gradient's element, 0: any (torch.nn.utils.clip_grad_value_)
	ClipNorm  float64 // greatest norm of all gradients together, after ClipValue, 0: any (torch.nn.utils.clip_grad_norm_)

	// LossScale is what the loss is multiplied by before its gradient is taken, so that gradients of float16 are
	// not lost as too small. 0: if float16 weights are trained 65536, and adapted as torch.cuda.amp.GradScaler
	// does, else 1. Weights of 16 bits have float32 masters that are updated.
	LossScale float64
	KeepBest  bool // the weights of the best validation loss, for [Trainer.RestoreBest]
	Threads   int  // 0: all cores

	MemoryLimit int64 // bytes that a batch may take beside weights and gradients, 0: [runtime.DefaultMemoryLimit]

	// Recompute has activations computed again in the backward pass rather than kept: the same weights for less memory and more time.
	Recompute runtime.Recompute
	Profile   *runtime.Profile // if not nil, where the time of forward and backward passes goes, node by node
}

// Batch is one step's inputs and targets by name.
type Batch = map[string]tensor.Value

// Step is what one step of training did. Loss is the one before the update, as PyTorch prints it.
type Step struct {
	Step     int           `json:"step"`
	Loss     float64       `json:"loss"`
	LR       float64       `json:"lr"`
	GradNorm float64       `json:"grad_norm"` // before clipping
	Skipped  bool          `json:"skipped"`   // the scaled gradients were not finite: no weight changed, the scale is halved
	Time     time.Duration `json:"-"`
}

// Parameter is a trained weight: Value is changed in place.
type Parameter struct {
	Name    string
	Value   *tensor.Tensor
	master  *tensor.Tensor // what is updated: Value itself, or float32 where that has 16 bits
	slots   []*tensor.Tensor
	grad    string
	reached *onnx.Value    // whether a batch has come to it, if one may not
	wide    *tensor.Tensor // the gradient as float32, where Value has 16 bits
}

// Trainer trains one model. It is not safe for concurrent use.
type Trainer struct {
	cfg     Config
	model   *onnx.Model // the portable one, as it came
	params  []*Parameter
	buffers map[string]*tensor.Tensor // running statistics that training moves
	norms   []batchNorm
	train   *graphRun // loss and gradients
	eval    *graphRun // loss alone
	names   Names
	derived map[string]bool             // initializers that are made of parameters or constants, as [Names.derived] has them
	ties    []tie                       // whose parameter is trained
	apart   map[string]bool             // initializers that [Config.Untie] has told from others
	rounded map[string]*quantizedWeight // initializers of integers that are trained
	pool    *kernel.Pool
	chunks  []chunk
	grads   []*tensor.Tensor // of a step's first batch
	more    []*tensor.Tensor // of a later one
	sum     []*tensor.Tensor // of the gradients, over more than one batch
	states  *carried

	at   progress
	best map[string]*tensor.Tensor // masters and buffers of the best validation loss
}

// progress is how far training has come.
type progress struct {
	Steps   int     `json:"steps"`   // of [Trainer.Step]
	Updates int     `json:"updates"` // those that were not skipped
	Draws   uint64  `json:"draws"`   // batches that dropout has drawn for
	Scale   float64 `json:"scale"`   // of the loss
	Grown   int     `json:"grown"`   // steps since the scale changed
	Plateau plateau `json:"plateau"`
	Told    int     `json:"told"`    // validation losses that were the best so far
	BestAt  int     `json:"best_at"` // the step of the best one, and that loss
	Best    float64 `json:"best"`
	Worse   int     `json:"worse"` // validation losses since
	// Of parameters that a batch may not come to: the updates there were before the first that gave it a gradient.
	Started map[string]int `json:"started,omitempty"`
}

// graphRun is a session and what it takes and gives beside the model's own inputs.
type graphRun struct {
	session *runtime.Session
	loss    string
	takes   map[string]bool
}

// New prepares to train m, which it does not change, and which must not be closed while the trainer lives.
func New(m *onnx.Model, cfg Config) (*Trainer, error) {
	if m == nil || cfg.Loss == nil || cfg.Optimizer == nil {
		return nil, fmt.Errorf("finetune: a model, a loss and an optimizer are needed")
	}
	switch cfg.Mode {
	case "":
		cfg.Mode = AsExported
	case AsExported, Train, Eval:
	default:
		return nil, fmt.Errorf("finetune: mode %q is none of %s, %s, %s", cfg.Mode, AsExported, Train, Eval)
	}
	if len(cfg.Dropout) > 0 && cfg.Mode != Train {
		return nil, fmt.Errorf("finetune: dropout is put in in mode %s alone, not in %s", Train, cfg.Mode)
	}
	if err := cfg.Optimizer.check(); err != nil {
		return nil, fmt.Errorf("finetune: optimizer: %w", err)
	}
	if err := notNegative("weight of l1", cfg.L1, "weight of l2", cfg.L2, "clip value", cfg.ClipValue, "clip norm", cfg.ClipNorm, "loss's scale", cfg.LossScale, "memory limit", float64(cfg.MemoryLimit), "momentum of batch norms", cfg.BatchNormMomentum); err != nil {
		return nil, fmt.Errorf("finetune: %w", err)
	}
	if cfg.Schedule != nil {
		if err := cfg.Schedule.check(); err != nil {
			return nil, fmt.Errorf("finetune: %w", err)
		}
	}
	t := &Trainer{cfg: cfg, buffers: map[string]*tensor.Tensor{}}
	t.model = m.Clone()
	var err error
	if t.states, err = newCarried(t.model, cfg.Carry); err != nil {
		return nil, fmt.Errorf("finetune: %w", err)
	}
	liftWeights(t.model.Graph, cfg.Names, cfg.StraightThrough)
	t.derived = cfg.Names.derived(t.model.Graph)
	t.names = cfg.Names.untie(t.model.Graph)
	if t.apart, err = untie(t.model, cfg.Untie); err != nil {
		return nil, fmt.Errorf("finetune: %w", err)
	}
	untieStatistics(t.model, cfg.Mode)
	if err := t.prepare(); err != nil {
		t.Close()
		return nil, fmt.Errorf("finetune: %w", err)
	}
	return t, nil
}

// prepare builds the graphs of training and of validation.
func (t *Trainer) prepare() error {
	ties, err := allTies(t.model, t.cfg, t.names, t.apart)
	if err != nil {
		return err
	}
	l, err := t.withGradients(ties)
	if err != nil {
		return err
	}
	work, g, loss, wrt, grads := l.model, l.builder, l.loss, l.wrt, l.grads
	t.norms = l.norms
	outs := []*onnx.Value{loss}
	for _, b := range t.norms {
		outs = append(outs, b.stats[:]...)
		for _, name := range []string{b.mean, b.variance} {
			if name != "" && t.buffers[name] == nil {
				t.buffers[name] = t.ownCopy(name)
			}
		}
	}
	taken := map[*onnx.Value]bool{}
	for _, v := range wrt {
		d := grads[v]
		if d == nil {
			continue // the loss does not hang on it
		}
		if taken[d] { // it is another's gradient too, and each is changed in place
			d = g.Op("Identity", d)
		}
		taken[d] = true
		p := &Parameter{Name: v.Name, grad: d.Name}
		if p.reached = l.reached[v.Name]; p.reached != nil {
			outs = append(outs, p.reached)
		}
		switch v.Const.DType() {
		case tensor.Float32:
			if t.rounded[v.Name] != nil { // the model has the integers
				p.Value = v.Const.Clone()
				p.master = p.Value
				t.ownCopy(v.Name)
				break
			}
			fallthrough
		case tensor.Float64:
			p.Value = t.ownCopy(v.Name)
			p.master = p.Value
		case tensor.Float16, tensor.BFloat16:
			p.Value = t.ownCopy(v.Name)
			if p.master, err = tensor.Convert(p.Value, tensor.Float32, true); err != nil {
				return err
			}
			if p.wide, err = tensor.Zeros(tensor.Float32, p.Value.Shape()...); err != nil {
				return err
			}
		default:
			return fmt.Errorf("parameter %q: %s weights cannot be trained", v.Name, v.Const.DType())
		}
		t.params = append(t.params, p)
		outs = append(outs, d)
	}
	if err := g.Err(); err != nil {
		return err
	}
	if len(t.params) == 0 {
		return t.untrainable(l)
	}
	if err := t.reachesAll(l); err != nil {
		return err
	}
	for _, x := range ties {
		if slices.ContainsFunc(t.params, func(p *Parameter) bool { return p.Name == x.of }) {
			t.ties = append(t.ties, x)
		}
	}
	if t.train, err = t.compile(work, loss, append(outs, t.states.of(work)...), runtime.WithRecompute(t.cfg.Recompute), runtime.WithProfile(t.cfg.Profile)); err != nil {
		return err
	}
	mode := t.cfg.Mode
	if mode == Train {
		mode = Eval
	}
	if l, err = t.withLoss(mode, ties, false); err != nil {
		return err
	}
	if t.eval, err = t.compile(l.model, l.loss, append(t.states.of(l.model), l.loss)); err != nil {
		return err
	}
	t.pool = kernel.NewPool(t.cfg.Threads)
	return t.startOptimizer()
}

// untrainable says why no weight is trained.
func (t *Trainer) untrainable(l *lossGraph) error {
	if n := l.builder.Cut(); n != nil {
		return fmt.Errorf("the loss hangs on no trainable weight but by node %q (%s), whose output is constant almost everywhere", n.Name, n.Op)
	}
	if way := l.builder.Severed(l.loss, l.wrt); way != "" {
		return fmt.Errorf("the loss hangs on no trainable weight but by %s", way)
	}
	if name := t.quantizedWeight(); name != "" && !t.cfg.StraightThrough {
		return fmt.Errorf("the loss hangs on no trainable weight: those of integers, such as %q, are trained by straight-through estimation alone, if it is asked for", name)
	}
	return fmt.Errorf("the loss hangs on no trainable weight")
}

// quantizedWeight names a weight of integers, if there is one.
func (t *Trainer) quantizedWeight() (name string) {
	t.model.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			if in := n.Input(0); n.Op == "DequantizeLinear" && in != nil && (in.Const != nil || in.Def() != nil && in.Def().Op == "Constant") {
				name = in.Name
			}
		}
	})
	return name
}

// reachesAll is an error if what Trainable names is not trained, since the loss does not hang on it.
func (t *Trainer) reachesAll(l *lossGraph) error {
	for _, glob := range t.cfg.Trainable {
		if strings.HasPrefix(glob, "!") {
			continue
		}
		matches := func(name string) bool {
			return slices.ContainsFunc(append(t.names.at(name), name), func(name string) bool {
				ok, _ := path.Match(glob, name)
				return ok
			})
		}
		if slices.ContainsFunc(t.params, func(p *Parameter) bool { return matches(p.Name) }) {
			continue
		}
		wrt := slices.DeleteFunc(slices.Clone(l.wrt), func(v *onnx.Value) bool { return !matches(v.Name) })
		if way := l.builder.Severed(l.loss, wrt); way != "" {
			return fmt.Errorf("trainable %q: the loss hangs on no weight that it matches but by %s", glob, way)
		}
		return fmt.Errorf("trainable %q: the loss hangs on no weight that it matches", glob)
	}
	return nil
}

// weightsToTrain is the initializers that training changes; those of integers among them are also in t.rounded.
func (t *Trainer) weightsToTrain(ties []tie) ([]*onnx.Value, error) {
	m, err := runtime.Expand(t.model)
	if err != nil {
		return nil, err
	}
	integers := map[string]*quantizedWeight{}
	if t.cfg.StraightThrough {
		infos, err := runtime.Infer(m)
		if err != nil {
			return nil, err
		}
		integers = quantizedWeights(m, infos)
	}
	fixed := pytorchBuffers(m)
	for _, x := range ties {
		fixed[x.copy] = true
	}
	for _, o := range t.names {
		for _, part := range o.places() {
			fixed[part.Initializer] = fixed[part.Initializer] || o.Buffer
		}
	}
	chosen, err := t.choose(func(v *onnx.Value) bool {
		return (v.Const.DType().IsFloat() || integers[v.Name] != nil) && !fixed[v.Name]
	})
	t.rounded = map[string]*quantizedWeight{}
	for _, v := range chosen {
		if w := integers[v.Name]; w != nil {
			t.rounded[v.Name] = w
		}
	}
	return chosen, err
}

// ownCopy gives the portable model a copy of an initializer's value, that training may change.
func (t *Trainer) ownCopy(name string) *tensor.Tensor {
	v := t.model.Graph.Init(name)
	v.Const = v.Const.Clone()
	return v.Const
}

// lossGraph is a copy of the model that ends in a loss, and a builder for more.
type lossGraph struct {
	model   *onnx.Model
	builder *ops.Grad
	loss    *onnx.Value
	norms   []batchNorm // those that train
	reached map[string]*onnx.Value

	wrt   []*onnx.Value // the weights that were chosen, and what has their gradients
	grads map[*onnx.Value]*onnx.Value
}

// withGradients is the loss in the mode of training and its gradients, multiplied by the loss's scale.
func (t *Trainer) withGradients(ties []tie) (*lossGraph, error) {
	chosen, err := t.weightsToTrain(ties)
	if err != nil {
		return nil, err
	}
	l, err := t.withLoss(t.cfg.Mode, ties, true)
	if err != nil {
		return nil, err
	}
	half := false
	for _, v := range chosen {
		l.wrt = append(l.wrt, l.model.Graph.Init(v.Name))
		half = half || v.Const.DType() == tensor.Float16
	}
	if t.at.Scale == 0 {
		if t.at.Scale = t.cfg.LossScale; t.at.Scale == 0 {
			t.at.Scale = 1
			if half {
				t.at.Scale = 65536
			}
		}
	}
	if err := runtime.Fuse(l.model, l.wrt); err != nil {
		return nil, err
	}
	g, scaled := l.builder, l.loss
	if t.at.Scale != 1 || half && t.cfg.LossScale == 0 {
		scale := &onnx.Value{Name: scaleInput, Type: &onnx.Type{Elem: g.DType(scaled), Shape: []onnx.Dim{}}}
		l.model.Graph.Inputs = append(l.model.Graph.Inputs, scale)
		g.Infos[scale] = ops.Tensor(g.DType(scaled))
		scaled = g.Mul(scaled, scale)
	}
	// Shapes that inference knew as constants stay known; the weights themselves become inputs.
	l.grads, err = gradient(g, scaled, l.wrt)
	return l, err
}

// withLoss copies the model in that mode and adds the loss and, to train, what tells which parameters a batch comes to.
func (t *Trainer) withLoss(mode Mode, ties []tie, train bool) (*lossGraph, error) {
	m, err := runtime.Expand(t.model)
	if err != nil {
		return nil, err
	}
	for _, x := range ties {
		x.compute(m.Graph)
	}
	for _, name := range slices.Sorted(maps.Keys(t.rounded)) {
		if err := t.rounded[name].compute(m.Graph); err != nil {
			return nil, err
		}
	}
	if train {
		tables, err := t.names.padding(t.model.Graph, t.cfg.PaddingIdx)
		if err == nil {
			err = padEmbeddings(m, tables)
		}
		if err != nil {
			return nil, err
		}
	}
	if mode == Train {
		if err := insertDropout(m, t.cfg.Dropout); err != nil {
			return nil, err
		}
	}
	infos, err := runtime.Infer(m)
	if err != nil {
		return nil, err
	}
	l := &lossGraph{model: m}
	if l.norms, err = setMode(m, infos, mode); err != nil {
		return nil, err
	}
	if t.cfg.BatchNormMomentum > 0 {
		for i := range l.norms {
			l.norms[i].momentum = t.cfg.BatchNormMomentum
		}
	}
	if train {
		l.reached = reached(m)
	}
	if infos, err = runtime.Infer(m); err != nil {
		return nil, err
	}
	for _, b := range l.norms {
		for _, v := range b.stats {
			if infos[v].DType == tensor.Undefined { // nothing reads it yet
				infos[v] = ops.Tensor(tensor.Float64, ops.Unknown)
			}
		}
	}
	l.builder = ops.NewGrad(m, infos)
	l.builder.StraightThrough = t.cfg.StraightThrough
	l.loss, err = t.cfg.Loss.build(l.builder, m)
	return l, err
}

// compile makes a session of work with these outputs, parameters and buffers being inputs.
func (t *Trainer) compile(work *onnx.Model, loss *onnx.Value, outs []*onnx.Value, opts ...runtime.Option) (*graphRun, error) {
	moves := maps.Clone(t.buffers)
	for _, p := range t.params {
		moves[p.Name] = p.Value
	}
	work.Graph.Inits = slices.DeleteFunc(work.Graph.Inits, func(v *onnx.Value) bool {
		if moves[v.Name] == nil {
			return false
		}
		v.Type, v.Const = onnx.TypeOfTensor(v.Const), nil
		if !slices.Contains(work.Graph.Inputs, v) {
			work.Graph.Inputs = append(work.Graph.Inputs, v)
		}
		return true
	})
	opts = append(opts, runtime.Threads(t.cfg.Threads))
	if t.cfg.MemoryLimit > 0 {
		opts = append(opts, runtime.MemoryLimit(t.cfg.MemoryLimit))
	}
	s, err := session(work, outs, opts...)
	if err != nil {
		return nil, err
	}
	r := &graphRun{session: s, loss: loss.Name, takes: map[string]bool{}}
	for _, p := range s.Inputs() {
		r.takes[p.Name] = true
	}
	return r, nil
}

// choose gives the initializers that Trainable names, of those that may be.
func (t *Trainer) choose(may func(*onnx.Value) bool) ([]*onnx.Value, error) {
	var chosen []*onnx.Value
	matched := make([]bool, len(t.cfg.Trainable))
	all := !slices.ContainsFunc(t.cfg.Trainable, func(glob string) bool { return !strings.HasPrefix(glob, "!") })
	for _, v := range t.model.Graph.Inits {
		if !may(v) {
			continue
		}
		held := t.names.at(v.Name)
		constant := (isConstant(v) || t.derived[v.Name]) && len(held) == 0
		names := append(held, v.Name) // the last one is that of all parts
		on, off := make([]bool, len(names)), make([]bool, len(names))
		on[len(held)] = all && !constant
		for i, glob := range t.cfg.Trainable {
			glob, not := strings.CutPrefix(glob, "!")
			for k, name := range names {
				ok, err := path.Match(glob, name)
				if err != nil {
					return nil, fmt.Errorf("trainable %q: %w", t.cfg.Trainable[i], err)
				}
				if ok && not {
					off[k], matched[i] = true, true
				} else if ok && (!constant || glob == name) {
					on[k], matched[i] = true, true
				}
			}
		}
		some, whole := 0, len(held)
		for k := range held {
			if (on[k] || on[whole]) && !off[k] && !off[whole] {
				some++
			}
		}
		if some > 0 && some < len(held) {
			return nil, fmt.Errorf("trainable: initializer %q holds %s, which can only be trained together", v.Name, strings.Join(held, ", "))
		}
		if some > 0 || len(held) == 0 && on[whole] && !off[whole] {
			chosen = append(chosen, v)
		}
	}
	for i, ok := range matched {
		if !ok {
			return nil, fmt.Errorf("trainable %q matches no floating-point weight", t.cfg.Trainable[i])
		}
	}
	return chosen, nil
}

// pytorchBuffers names the weights that PyTorch has as buffers, which no optimizer sees: batch norms' running means and variances, the
// weights of classes in a loss, tables of cosines and sines, the scales of what is quantized.
func pytorchBuffers(m *onnx.Model) map[string]bool {
	names := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			var held []*onnx.Value
			switch {
			case n.Op == "QuantizeLinear", n.Op == "DequantizeLinear":
				held = []*onnx.Value{n.Input(1)}
			case n.Op == "QLinearConv", n.Op == "QLinearMatMul":
				held = []*onnx.Value{n.Input(1), n.Input(4), n.Input(6)}
			case n.Op == "MatMulIntegerToFloat":
				held = []*onnx.Value{n.Input(2), n.Input(3)}
			case onnx.CanonicalDomain(n.Domain) != "":
			case n.Op == "BatchNormalization":
				held = []*onnx.Value{n.Input(3), n.Input(4)}
			case n.Op == "NegativeLogLikelihoodLoss", n.Op == "SoftmaxCrossEntropyLoss":
				held = []*onnx.Value{n.Input(2)}
			case n.Op == "RotaryEmbedding":
				held = []*onnx.Value{n.Input(1), n.Input(2)}
			}
			for _, v := range held {
				if v != nil && v.Const != nil {
					names[v.Name] = true
				}
			}
		}
	})
	return names
}

func session(m *onnx.Model, outs []*onnx.Value, opts ...runtime.Option) (*runtime.Session, error) {
	g, view := *m.Graph, *m
	g.Outputs = outs
	view.Graph = &g
	return runtime.NewSession(&view, opts...)
}

// Close frees the trainer's workers.
func (t *Trainer) Close() {
	for _, r := range []*graphRun{t.train, t.eval} {
		if r != nil {
			r.session.Close()
		}
	}
	t.pool.Close()
}

// Parameters lists what is trained.
func (t *Trainer) Parameters() []*Parameter { return t.params }

// Steps is the number of steps so far, those before a [Trainer.Restore] included.
func (t *Trainer) Steps() int { return t.at.Steps }

// own is the inputs of the graphs that the trainer gives.
func (t *Trainer) own() map[string]bool {
	own := map[string]bool{seedInput: true, scaleInput: true}
	for _, p := range t.params {
		own[p.Name] = true
	}
	for name := range t.buffers {
		own[name] = true
	}
	return own
}

// Inputs names what a batch must bring: the model's inputs without a default, but for states that are carried, and targets.
func (t *Trainer) Inputs() []string {
	own := t.own()
	var names []string
	for name := range t.states.inputs {
		own[name] = true
	}
	for _, p := range t.train.session.Inputs() {
		if !own[p.Name] && !p.Optional {
			names = append(names, p.Name)
		}
	}
	return names
}

// Model is the model with its weights and running statistics as they are now: names, opset, metadata and inputs
// are those it came with. It shares the weights with the trainer.
func (t *Trainer) Model() *onnx.Model {
	for _, p := range t.params {
		if w := t.rounded[p.Name]; w != nil {
			w.round(t.model.Graph.Init(p.Name).Const, p.Value)
		}
	}
	for _, x := range t.ties {
		c := t.model.Graph.Init(x.copy)
		if v, err := x.value(t.model.Graph.Init(x.of).Const, c.Const.Shape()); err == nil { // of the shape that it had
			c.Const = v
		}
	}
	return t.model
}

// StateDict is [Names.StateDict] of the tuned model.
func (t *Trainer) StateDict() (dict map[string]*tensor.Tensor, lost []string, err error) {
	return t.names.StateDict(t.Model())
}

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

// ResetStates has the next batch begin with zeros in the states of [Config.Carry]: at the start of a text, and between training and
// validation.
func (t *Trainer) ResetStates() { t.states.now = nil }

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

// Notes says, a sentence each, where this training may be another than what was meant.
func (t *Trainer) Notes() []string {
	var notes []string
	if t.cfg.Mode == Train && len(t.norms) == 0 && !t.train.takes[seedInput] {
		notes = append(notes, "mode train changes nothing: the model has no batch norm, which exporters fold into convolutions, and no dropout, which they leave out")
	}
	if name := t.quantizedWeight(); name != "" && !t.cfg.StraightThrough {
		notes = append(notes, fmt.Sprintf("weights of integers, such as %q, stay as they are without straight-through estimation", name))
	}
	for _, b := range t.norms {
		if b.momentum == 0 && b.mean != "" {
			notes = append(notes, fmt.Sprintf("the running statistic %q stays as it is: its momentum is 0 in the file, as PyTorch writes it for None too", b.mean))
		}
	}
	for _, p := range t.params {
		var merged []string
		for _, n := range t.model.Graph.Init(p.Name).Users() {
			if isCopy(n) && parameterName.MatchString(n.Outputs[0].Name) && !madeUp.MatchString(n.Outputs[0].Name) {
				merged = append(merged, n.Outputs[0].Name)
			}
		}
		if len(merged) > 0 {
			notes = append(notes, fmt.Sprintf("%s are trained as one with %s, which the exporter merged them into since they were equal: untie tells them apart", strings.Join(merged, ", "), p.Name))
		}
	}
	return notes
}

// Memory is the bytes that a step of training takes, beside its batches and what kernels need while they run.
type Memory struct {
	Activations int64 // and all that is between inputs and outputs: the arena of [runtime.Session.Planned]
	Weights     int64 // that are trained, and running statistics
	Gradients   int64
	Optimizer   int64 // its state
}

// Total is the sum.
func (m Memory) Total() int64 { return m.Activations + m.Weights + m.Gradients + m.Optimizer }

// Memory plans a step on batches.
func (t *Trainer) Memory(batches ...Batch) (m Memory, err error) {
	for i, b := range batches {
		in, err := t.inputs(t.train, b)
		if err != nil {
			return m, fmt.Errorf("memory: %w", err)
		}
		arena, err := t.train.session.Planned(in)
		if err != nil {
			return m, fmt.Errorf("memory: %w", err)
		}
		m.Activations = max(m.Activations, arena)
		if i > 1 {
			continue
		}
		for _, p := range t.params { // of the first batch, and of the next to be added
			m.Gradients += int64(len(p.Value.Bytes()))
		}
	}
	add := func(sum *int64, ts ...*tensor.Tensor) {
		for _, v := range ts {
			if v != nil {
				*sum += int64(len(v.Bytes()))
			}
		}
	}
	for _, p := range t.params {
		add(&m.Weights, p.Value)
		if p.wide != nil {
			add(&m.Weights, p.master)
			add(&m.Gradients, p.wide)
			if len(batches) > 1 {
				add(&m.Gradients, p.wide) // their sum
			}
		}
		add(&m.Optimizer, p.slots...)
	}
	for _, v := range t.buffers {
		add(&m.Weights, v)
	}
	return m, nil
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
