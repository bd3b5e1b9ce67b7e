package finetune

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"path"
	"strings"
	"time"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Config says what is trained and how.
type Config struct {
	Loss      Loss
	Optimizer Optimizer
	// Trainable is globs over the names of initializers and, with Names, PyTorch's. None: all floating-point
	// weights that the loss hangs on.
	Trainable []string
	// Names, if there are any, say which PyTorch parameter is where. One that the exporter wrote out twice is
	// then trained as one, and several that it merged into an initializer and its Identity each for itself:
	// those are the only nodes that the tuned model lacks.
	Names    Names
	ClipNorm float64 // greatest norm of all gradients together, 0: any (torch.nn.utils.clip_grad_norm_)
	Threads  int     // 0: all cores
}

// Batch is one step's inputs and targets by name.
type Batch = map[string]tensor.Value

// Step is what one step of training did. Loss is the one before the update, as PyTorch prints it.
type Step struct {
	Step     int           `json:"step"`
	Loss     float64       `json:"loss"`
	LR       float64       `json:"lr"`
	GradNorm float64       `json:"grad_norm"`
	Time     time.Duration `json:"-"`
}

// Parameter is a trained weight: Value is changed in place.
type Parameter struct {
	Name  string
	Value *tensor.Tensor
	grad  string
}

// Trainer trains one model. It is not safe for concurrent use.
type Trainer struct {
	cfg    Config
	model  *onnx.Model // the portable one, as it came
	params []*Parameter
	train  *runtime.Session // loss and gradients
	eval   *runtime.Session // loss alone
	loss   string
	names  Names
	ties   []tie // whose parameter is trained
	rule   rule
	step   int
}

// New prepares to train m, which it does not change, and which must not be closed while the trainer lives.
func New(m *onnx.Model, cfg Config) (*Trainer, error) {
	if cfg.Loss == nil || cfg.Optimizer == nil {
		return nil, fmt.Errorf("finetune: a loss and an optimizer are needed")
	}
	t := &Trainer{cfg: cfg}
	t.model = m.Clone()
	t.names = cfg.Names.untie(t.model.Graph)
	if err := t.prepare(); err != nil {
		t.Close()
		return nil, fmt.Errorf("finetune: %w", err)
	}
	return t, nil
}

// prepare builds the training graph: the model with its parameters as inputs, the loss and the gradients.
func (t *Trainer) prepare() error {
	work, err := onnx.InlineFunctions(t.model)
	if err != nil {
		return err
	}
	ties, err := t.names.ties(t.model.Graph)
	if err != nil {
		return err
	}
	copies := map[string]bool{}
	for _, x := range ties {
		x.compute(work.Graph)
		copies[x.copy] = true
	}
	infos, err := runtime.Infer(work)
	if err != nil {
		return err
	}
	g := newBuilder(work, infos)
	loss, err := t.cfg.Loss.build(g, work)
	if err != nil {
		return err
	}
	t.loss = loss.Name
	buffers := runningStatistics(work)
	chosen, err := t.choose(func(v *onnx.Value) bool { return v.Const.DType().IsFloat() && !buffers[v.Name] && !copies[v.Name] })
	if err != nil {
		return err
	}
	var wrt []*onnx.Value
	for _, v := range chosen {
		wrt = append(wrt, work.Graph.Init(v.Name))
	}
	// Shapes that inference knew as constants stay known; the weights themselves become inputs.
	grads, err := gradient(g, loss, wrt)
	if err != nil {
		return err
	}
	outs := []*onnx.Value{loss}
	moved := map[*onnx.Value]bool{}
	var sizes []int
	for _, v := range wrt {
		d := grads[v]
		if d == nil {
			continue // the loss does not hang on it
		}
		if err := trainable(v.Const.DType()); err != nil {
			return fmt.Errorf("parameter %q: %w", v.Name, err)
		}
		p := &Parameter{Name: v.Name, Value: v.Const.Clone(), grad: d.Name}
		t.params = append(t.params, p)
		t.model.Graph.Init(v.Name).Const = p.Value
		sizes = append(sizes, p.Value.Len())
		outs = append(outs, d)
		moved[v] = true
	}
	for _, x := range ties {
		if moved[work.Graph.Init(x.of)] {
			t.ties = append(t.ties, x)
		}
	}
	if len(t.params) == 0 {
		return fmt.Errorf("the loss hangs on no trainable weight")
	}
	var inits []*onnx.Value
	isInput := map[*onnx.Value]bool{}
	for _, v := range work.Graph.Inputs {
		isInput[v] = true
	}
	for _, v := range work.Graph.Inits {
		if !moved[v] {
			inits = append(inits, v)
			continue
		}
		v.Type, v.Const = onnx.TypeOfTensor(v.Const), nil
		if !isInput[v] {
			work.Graph.Inputs = append(work.Graph.Inputs, v)
		}
	}
	work.Graph.Inits = inits
	if t.eval, err = session(work, []*onnx.Value{loss}, t.cfg.Threads); err != nil {
		return err
	}
	if t.train, err = session(work, outs, t.cfg.Threads); err != nil {
		return err
	}
	t.rule = t.cfg.Optimizer.start(sizes)
	return nil
}

// choose gives the initializers that Trainable names, of those that may be.
func (t *Trainer) choose(may func(*onnx.Value) bool) ([]*onnx.Value, error) {
	var chosen []*onnx.Value
	matched := make([]bool, len(t.cfg.Trainable))
	for _, v := range t.model.Graph.Inits {
		if !may(v) {
			continue
		}
		whole, held := len(t.cfg.Trainable) == 0, t.names.at(v.Name)
		some := 0
		parts := make([]bool, len(held))
		for i, glob := range t.cfg.Trainable {
			ok, err := path.Match(glob, v.Name)
			if err != nil {
				return nil, fmt.Errorf("trainable %q: %w", glob, err)
			}
			whole, matched[i] = whole || ok, matched[i] || ok
			for k, name := range held {
				if ok, _ := path.Match(glob, name); ok {
					matched[i] = true
					if !parts[k] {
						parts[k] = true
						some++
					}
				}
			}
		}
		if !whole && some > 0 && some < len(held) {
			return nil, fmt.Errorf("trainable: initializer %q holds %s, which can only be trained together", v.Name, strings.Join(held, ", "))
		}
		if whole || some > 0 {
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

// runningStatistics names the weights that are batch norms' running means and variances: PyTorch has them
// as buffers, which no optimizer sees.
func runningStatistics(m *onnx.Model) map[string]bool {
	names := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			if n.Op != "BatchNormalization" || onnx.CanonicalDomain(n.Domain) != "" {
				continue
			}
			for _, v := range []*onnx.Value{n.Input(3), n.Input(4)} {
				if v != nil && v.Const != nil {
					names[v.Name] = true
				}
			}
		}
	})
	return names
}

func session(m *onnx.Model, outs []*onnx.Value, threads int) (*runtime.Session, error) {
	g, view := *m.Graph, *m
	g.Outputs = outs
	view.Graph = &g
	return runtime.NewSession(&view, runtime.Threads(threads))
}

// Close frees the trainer's workers.
func (t *Trainer) Close() {
	for _, s := range []*runtime.Session{t.train, t.eval} {
		if s != nil {
			s.Close()
		}
	}
}

// Parameters lists what is trained.
func (t *Trainer) Parameters() []*Parameter { return t.params }

// Model is the model with its weights as they are now: names, opset, metadata and inputs
// are those it came with. It shares the weights with the trainer.
func (t *Trainer) Model() *onnx.Model {
	for _, x := range t.ties {
		if v, err := x.value(t.model.Graph.Init(x.of).Const); err == nil { // of the shape that it had
			t.model.Graph.Init(x.copy).Const = v
		}
	}
	return t.model
}

// inputs is a batch together with the parameters.
func (t *Trainer) inputs(b Batch) map[string]tensor.Value {
	in := make(map[string]tensor.Value, len(b)+len(t.params))
	maps.Copy(in, b)
	for _, p := range t.params {
		in[p.Name] = p.Value
	}
	return in
}

// Loss is the loss of a batch, without training on it.
func (t *Trainer) Loss(ctx context.Context, b Batch) (float64, error) {
	out, err := t.eval.Run(ctx, t.inputs(b))
	if err != nil {
		return 0, err
	}
	return tensor.Float64At(out[t.loss].(*tensor.Tensor), 0), nil
}

// Gradients is the loss of a batch and its gradients by parameter.
func (t *Trainer) Gradients(ctx context.Context, b Batch) (float64, map[string]*tensor.Tensor, error) {
	out, err := t.train.Run(ctx, t.inputs(b))
	if err != nil {
		return 0, nil, err
	}
	grads := make(map[string]*tensor.Tensor, len(t.params))
	for _, p := range t.params {
		grads[p.Name] = out[p.grad].(*tensor.Tensor)
	}
	return tensor.Float64At(out[t.loss].(*tensor.Tensor), 0), grads, nil
}

// Step trains on one batch. A loss or gradient that is not finite is an error, and changes no weight.
func (t *Trainer) Step(ctx context.Context, b Batch) (Step, error) {
	begin := time.Now()
	s := Step{Step: t.step + 1, LR: t.cfg.Optimizer.rate()}
	loss, grads, err := t.Gradients(ctx, b)
	if err != nil {
		return s, fmt.Errorf("step %d: %w", s.Step, err)
	}
	s.Loss = loss
	values := make([][]float64, len(t.params))
	for i, p := range t.params {
		values[i] = floats(grads[p.Name], nil)
		for _, v := range values[i] {
			s.GradNorm += v * v
		}
	}
	s.GradNorm = math.Sqrt(s.GradNorm)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return s, fmt.Errorf("step %d: the loss is %v", s.Step, loss)
	}
	if math.IsNaN(s.GradNorm) || math.IsInf(s.GradNorm, 0) {
		return s, fmt.Errorf("step %d: the norm of the gradients is %v", s.Step, s.GradNorm)
	}
	scale := 1.0
	if c := t.cfg.ClipNorm; c > 0 {
		scale = min(1, c/(s.GradNorm+1e-6))
	}
	t.step++
	t.rule.step()
	var w []float64
	for i, p := range t.params {
		if scale != 1 {
			for k := range values[i] {
				values[i][k] *= scale
			}
		}
		w = floats(p.Value, w)
		t.rule.update(i, w, values[i], s.LR)
		store(p.Value, w)
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

// StateDict is [Names.StateDict] of the tuned model.
func (t *Trainer) StateDict() (dict map[string]*tensor.Tensor, lost []string, err error) {
	return t.names.StateDict(t.Model())
}
