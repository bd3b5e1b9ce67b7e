package finetune

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
