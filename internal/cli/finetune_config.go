package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/runtime"
)

// config is the file that retune finetune reads.
type config struct {
	Model string `yaml:"model"`
	Out   string `yaml:"out"`
	Data  struct {
		Train     string         `yaml:"train"`
		Valid     string         `yaml:"valid"`
		BatchAxis map[string]int `yaml:"batch_axis"`
		BatchSize int            `yaml:"batch_size"`
		DropLast  bool           `yaml:"drop_last"`
		Shuffle   bool           `yaml:"shuffle"`
		Seed      uint64         `yaml:"seed"`
	} `yaml:"data"`
	Loss      loss `yaml:"loss"`
	Optimizer struct {
		Kind        string    `yaml:"kind"`
		LR          float64   `yaml:"lr"`
		Momentum    float64   `yaml:"momentum"`
		Dampening   float64   `yaml:"dampening"`
		Nesterov    bool      `yaml:"nesterov"`
		WeightDecay *float64  `yaml:"weight_decay"`
		Betas       []float64 `yaml:"betas"`
		Eps         float64   `yaml:"eps"`
		AMSGrad     bool      `yaml:"amsgrad"`
		Alpha       float64   `yaml:"alpha"`
		Centered    bool      `yaml:"centered"`
		LRDecay     float64   `yaml:"lr_decay"`
		Initial     float64   `yaml:"initial_accumulator_value"`
	} `yaml:"optimizer"`
	Schedule          schedule           `yaml:"schedule"`
	Mode              string             `yaml:"mode"`
	Names             string             `yaml:"names"`
	Trainable         globs              `yaml:"trainable"`
	Untie             globs              `yaml:"untie"`
	Tie               ties               `yaml:"tie"`
	StraightThrough   bool               `yaml:"straight_through"`
	PaddingIdx        map[string]int     `yaml:"padding_idx"`
	Carry             map[string]string  `yaml:"carry"`
	Dropout           map[string]float64 `yaml:"dropout"`
	BatchNormMomentum float64            `yaml:"batch_norm_momentum"`
	L1                float64            `yaml:"l1"`
	L2                float64            `yaml:"l2"`
	ClipValue         float64            `yaml:"clip_value"`
	ClipNorm          float64            `yaml:"clip_norm"`
	LossScale         float64            `yaml:"loss_scale"`
	Accumulate        int                `yaml:"accumulate"`
	Epochs            int                `yaml:"epochs"`
	Steps             int                `yaml:"steps"`
	Patience          int                `yaml:"patience"`
	RestoreBest       *bool              `yaml:"restore_best"`
	Checkpoint        string             `yaml:"checkpoint"`
	CheckpointEvery   int                `yaml:"checkpoint_every"`
	Resume            string             `yaml:"resume"`
	Threads           int                `yaml:"threads"`
	Recompute         any                `yaml:"recompute"`
	MemoryLimit       string             `yaml:"memory_limit"`
	Log               string             `yaml:"log"`
	Plot              string             `yaml:"plot"`
	OutStateDict      string             `yaml:"out_state_dict"`
	TrainingGraph     string             `yaml:"training_graph"`
}

// loss is a loss, or a sum of some.
type loss struct {
	Kind           string    `yaml:"kind"`
	Output         string    `yaml:"output"`
	Target         string    `yaml:"target"`
	IgnoreIndex    *int64    `yaml:"ignore_index"`
	Weight         []float64 `yaml:"weight"`
	LabelSmoothing float64   `yaml:"label_smoothing"`
	Delta          float64   `yaml:"delta"`
	Factor         *float64  `yaml:"factor"`
	Terms          []loss    `yaml:"terms"`
}

// check says which key, of those of that section, is missing or one too many.
func (l *loss) check(section string) error {
	if l.Kind == "sum" {
		if l.Output != "" || l.Target != "" {
			return fmt.Errorf("%s.output and %s.target are no keys of the kind sum, whose terms have their own", section, section)
		}
		if len(l.Terms) == 0 {
			return fmt.Errorf("key %s.terms is missing", section)
		}
		for i := range l.Terms {
			if err := l.Terms[i].check(fmt.Sprintf("%s.terms[%d]", section, i)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, need := range []struct{ key, value string }{{"kind", l.Kind}, {"output", l.Output}, {"target", l.Target}} {
		if need.value == "" {
			return fmt.Errorf("key %s.%s is missing", section, need.key)
		}
	}
	return nil
}

// classes calls f with the names of targets that are classes.
func (l *loss) classes(f func(target string)) {
	if l.Kind == "cross_entropy" || l.Kind == "nll" {
		f(l.Target)
	}
	for i := range l.Terms {
		l.Terms[i].classes(f)
	}
}

// globs is a list, or one of them.
type globs []string

func (g *globs) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*g = globs{n.Value}
		return nil
	}
	return n.Decode((*[]string)(g))
}

// ties is {copy: of}, or a list of copy=of and of globs over weights that are one where they are equal: those are there without a value.
type ties map[string]string

func (t *ties) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		return n.Decode((*map[string]string)(t))
	}
	var list globs
	if err := list.UnmarshalYAML(n); err != nil {
		return err
	}
	*t = ties{}
	for _, s := range list {
		copy, of, _ := strings.Cut(s, "=")
		(*t)[copy] = of
	}
	return nil
}

// split is the copies with what they are of, and the globs.
func (t ties) split() (of map[string]string, equal []string) {
	of = map[string]string{}
	for _, copy := range slices.Sorted(maps.Keys(t)) {
		if t[copy] == "" {
			equal = append(equal, copy)
		} else {
			of[copy] = t[copy]
		}
	}
	return of, equal
}

// schedule has the keys of PyTorch's schedulers, each kind those that it knows.
type schedule struct {
	Kind        string   `yaml:"kind"`
	Per         string   `yaml:"per"`
	Warmup      int      `yaml:"warmup"`
	WarmupStart float64  `yaml:"warmup_start"`
	StepSize    int      `yaml:"step_size"`
	Gamma       float64  `yaml:"gamma"`
	Milestones  []int    `yaml:"milestones"`
	TMax        int      `yaml:"t_max"`
	EtaMin      float64  `yaml:"eta_min"`
	StartFactor float64  `yaml:"start_factor"`
	EndFactor   *float64 `yaml:"end_factor"`
	TotalIters  int      `yaml:"total_iters"`
	MaxLR       float64  `yaml:"max_lr"`
	TotalSteps  int      `yaml:"total_steps"`
	PctStart    float64  `yaml:"pct_start"`
	DivFactor   float64  `yaml:"div_factor"`
	FinalDiv    float64  `yaml:"final_div_factor"`
	Factor      float64  `yaml:"factor"`
	Patience    *int     `yaml:"patience"`
	Threshold   *float64 `yaml:"threshold"`
	Cooldown    int      `yaml:"cooldown"`
	MinLR       float64  `yaml:"min_lr"`
	Eps         float64  `yaml:"eps"`
}

// configKeys are the keys that flags can set, and what they mean.
var configKeys = map[string]string{
	"model": "the ONNX model to tune", "out": "where the tuned model is written",
	"data.train": ".npz of training arrays", "data.valid": ".npz of validation arrays",
	"data.batch_axis": "axis of the examples, by array, where it is not the first: {x: 1}",
	"data.batch_size": "examples a batch", "data.drop_last": "leave out the examples at the end that fill no batch", "data.shuffle": "shuffle before each epoch", "data.seed": "seed of the shuffle",
	"loss.kind": "cross_entropy, nll, mse, l1, huber, bce_with_logits or sum", "loss.output": "the model output that the loss reads",
	"loss.target": "the array that it should be", "loss.ignore_index": "targets that do not count",
	"loss.weight": "a weight for each class", "loss.label_smoothing": "share of the target given to all classes", "loss.delta": "where huber turns linear",
	"loss.factor": "what the loss is multiplied by", "loss.terms": "of sum, losses: [{kind: mse, output: y, target: z, factor: 0.5}, …]",
	"optimizer.kind": "sgd, adam, adamw, rmsprop or adagrad", "optimizer.lr": "learning rate", "optimizer.momentum": "momentum",
	"optimizer.dampening": "dampening", "optimizer.nesterov": "Nesterov momentum", "optimizer.weight_decay": "weight decay",
	"optimizer.betas": "Adam's betas: [0.9, 0.999]", "optimizer.eps": "epsilon", "optimizer.alpha": "RMSprop's alpha",
	"optimizer.amsgrad": "Adam by the greatest squares so far", "optimizer.centered": "centred RMSprop", "optimizer.lr_decay": "Adagrad's decay", "optimizer.initial_accumulator_value": "Adagrad's start",
	"mode": "as_exported, train or eval: how batch norms and dropout behave", "names": "JSON that says which initializer holds which PyTorch parameter",
	"dropout":             "ratios of dropout put in after values, by name, in mode train: {hidden: 0.1}",
	"batch_norm_momentum": "share of a batch in the running statistics of batch norms that train, PyTorch's; what the file has unless given",
	"carry":               "inputs that are states, each with the output that it is after a batch: {h0: hn}",
	"untie":               "globs over weights that are not one parameter though several nodes read them",
	"tie":                 "COPY=OF, weights that are one parameter, as they are or transposed, or a glob over such as are equal",
	"straight_through":    "let gradients through what rounds, and train quantized weights",
	"padding_idx":         "rows of embeddings, by name, that get no gradient where they are looked up, as PyTorch's padding_idx: {embed.weight: 0}",
	"trainable":           "globs over parameter names: [\"fc.*\"], or with ! of those that are not trained: [\"!features.*\"]", "l1": "weight of the sum of the weights' magnitudes", "l2": "weight of the sum of their squares",
	"clip_value": "greatest magnitude of a gradient's element", "clip_norm": "greatest norm of the gradients",
	"loss_scale": "factor of the loss in the gradients, 0: adapted for float16 weights", "accumulate": "batches to a step",
	"epochs": "times over the data", "steps": "steps, in place of epochs", "patience": "stop after so many epochs without a better validation loss",
	"restore_best": "write the weights of the best validation loss; true if there is a patience",
	"checkpoint":   "file to go on from later", "checkpoint_every": "steps between checkpoints, 0: each epoch", "resume": "checkpoint to go on from",
	"recompute":    "activations computed again rather than kept: auto, a number of segments, or a budget such as 512MiB",
	"memory_limit": "the most that the values of a batch may take, such as 24GiB; 8GiB unless given",
	"threads":      "threads, 0 for all cores", "log": "a line of JSON a step", "plot": "a PNG of the losses",
	"out_state_dict": "where the weights are written as .safetensors, by PyTorch's names if names are given",
	"training_graph": "where a step of this training is written, before the first one, as a model in standard operators",
	"schedule.kind":  "step, multistep, exponential, cosine, linear, one_cycle or reduce_on_plateau", "schedule.per": "what moves the schedule: step or epoch",
	"schedule.warmup": "steps of a linear warm-up before it", "schedule.warmup_start": "share of the rate that the warm-up begins with",
	"schedule.step_size": "of step", "schedule.gamma": "of step, multistep and exponential", "schedule.milestones": "of multistep: [30, 80]",
	"schedule.t_max": "of cosine; all of the training", "schedule.eta_min": "of cosine", "schedule.start_factor": "of linear", "schedule.end_factor": "of linear",
	"schedule.total_iters": "of linear", "schedule.max_lr": "of one_cycle; the optimizer's rate", "schedule.total_steps": "of one_cycle; all of the training",
	"schedule.pct_start": "of one_cycle", "schedule.div_factor": "of one_cycle", "schedule.final_div_factor": "of one_cycle",
	"schedule.factor": "of reduce_on_plateau", "schedule.patience": "of reduce_on_plateau, in validations", "schedule.threshold": "of reduce_on_plateau, relative",
	"schedule.cooldown": "of reduce_on_plateau", "schedule.min_lr": "of reduce_on_plateau", "schedule.eps": "of reduce_on_plateau",
}

// parseConfig reads the file and lays the flags over it. A key that does not exist is an error.
func parseConfig(data []byte, set map[string]string) (*config, error) {
	tree := map[string]any{}
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	for key, text := range set {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil || key == "trainable" && strings.HasPrefix(text, "!") {
			if key != "untie" && key != "tie" && key != "trainable" {
				return nil, fmt.Errorf("--%s: %w", key, err)
			}
			v = text // a glob, which may begin with what YAML has a meaning for
		}
		at := tree
		parts := strings.Split(key, ".")
		for _, p := range parts[:len(parts)-1] {
			sub, ok := at[p].(map[string]any)
			if !ok {
				sub = map[string]any{}
				at[p] = sub
			}
			at = sub
		}
		at[parts[len(parts)-1]] = v
	}
	text, err := yaml.Marshal(tree)
	if err != nil {
		return nil, err
	}
	var c config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, ofKeys(err, string(text))
	}
	if err := checkWhole("", tree, reflect.TypeFor[config]()); err != nil {
		return nil, err
	}
	if err := checkKeys(tree); err != nil {
		return nil, err
	}
	for _, need := range []struct{ key, value string }{
		{"model", c.Model}, {"out", c.Out}, {"data.train", c.Data.Train}, {"optimizer.kind", c.Optimizer.Kind}} {
		if need.value == "" {
			return nil, fmt.Errorf("key %s is missing", need.key)
		}
	}
	if err := c.Loss.check("loss"); err != nil {
		return nil, err
	}
	switch finetune.Mode(c.Mode) {
	case "", finetune.AsExported, finetune.Train, finetune.Eval:
	default:
		return nil, fmt.Errorf("mode %q is none of as_exported, train, eval", c.Mode)
	}
	if c.Data.BatchSize == 0 {
		c.Data.BatchSize = 16
	}
	if c.Accumulate == 0 {
		c.Accumulate = 1
	}
	for key, v := range map[string]int{"data.batch_size": c.Data.BatchSize, "epochs": c.Epochs, "steps": c.Steps, "accumulate": c.Accumulate,
		"patience": c.Patience, "checkpoint_every": c.CheckpointEvery, "schedule.warmup": c.Schedule.Warmup, "threads": c.Threads} {
		if v < 0 {
			return nil, fmt.Errorf("%s must not be negative, got %d", key, v)
		}
	}
	if n := len(c.Optimizer.Betas); n != 0 && n != 2 {
		return nil, fmt.Errorf("optimizer.betas: two are wanted, got %d", n)
	}
	if c.Trainable != nil && len(c.Trainable) == 0 {
		return nil, errors.New("trainable is empty: there is nothing to train")
	}
	if c.Data.Valid == "" && (c.Patience > 0 || c.RestoreBest != nil && *c.RestoreBest || c.Schedule.Kind == "reduce_on_plateau") {
		return nil, errors.New("patience, restore_best and reduce_on_plateau go by a validation loss: key data.valid is missing")
	}
	if c.CheckpointEvery > 0 && c.Checkpoint == "" {
		return nil, errors.New("key checkpoint is missing: checkpoint_every has no file")
	}
	if c.TrainingGraph != "" && c.Accumulate > 1 {
		return nil, fmt.Errorf("training_graph: a step of the graph is of one batch, not of the mean of %d that accumulate asks for", c.Accumulate)
	}
	if c.Epochs == 0 && c.Steps == 0 {
		c.Epochs = 1
	}
	return &c, nil
}

// checkWhole refuses fractions where t, into which v has been read, has integers: reading cuts them off.
func checkWhole(key string, v any, t reflect.Type) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case float64:
		if k := t.Kind(); k >= reflect.Int && k <= reflect.Uint64 && (v != math.Trunc(v) || math.IsInf(v, 0)) {
			return fmt.Errorf("%s: %v cannot be read as %v", key, v, t)
		}
	case []any:
		for _, e := range v {
			if t.Kind() != reflect.Slice {
				break
			}
			if err := checkWhole(key, e, t.Elem()); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			sub := t
			switch t.Kind() {
			case reflect.Map:
				sub = t.Elem()
			case reflect.Struct:
				f, _ := t.FieldByNameFunc(func(field string) bool {
					f, _ := t.FieldByName(field)
					return f.Tag.Get("yaml") == name
				})
				sub = f.Type
			}
			path := name
			if key != "" {
				path = key + "." + name
			}
			if err := checkWhole(path, v[name], sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// keysOf is the keys of a section that only some of its kinds know, by kind.
var keysOf = map[string]map[string]string{
	"loss": {"cross_entropy": "ignore_index weight label_smoothing", "nll": "ignore_index weight", "huber": "delta", "sum": "terms"},
	"optimizer": {"sgd": "momentum dampening nesterov", "adam": "betas eps amsgrad", "adamw": "betas eps amsgrad", "rmsprop": "alpha eps momentum centered",
		"adagrad": "lr_decay eps initial_accumulator_value"},
	"schedule": {"step": "step_size gamma", "multistep": "milestones gamma", "exponential": "gamma", "cosine": "t_max eta_min", "linear": "start_factor end_factor total_iters",
		"one_cycle": "max_lr total_steps pct_start div_factor final_div_factor", "reduce_on_plateau": "factor patience threshold cooldown min_lr eps"},
}

// notZero are the keys of numbers of which there is one if they are left out, and to which 0 would be no other.
var notZero = []string{"loss.delta", "optimizer.lr", "optimizer.eps", "optimizer.alpha", "schedule.gamma", "schedule.t_max", "schedule.start_factor",
	"schedule.total_iters", "schedule.max_lr", "schedule.total_steps", "schedule.pct_start", "schedule.div_factor", "schedule.final_div_factor", "schedule.factor", "schedule.eps"}

// checkKeys refuses what would be passed over in silence: keys that the kind of loss, optimizer or schedule does not know, and zeros that would be taken
// for what holds where nothing is said.
func checkKeys(tree map[string]any) error {
	for _, section := range []string{"loss", "optimizer", "schedule"} {
		set, _ := tree[section].(map[string]any)
		if err := checkKind(section, section, set); err != nil {
			return err
		}
	}
	data, _ := tree["data"].(map[string]any)
	for key, v := range map[string]any{"data.batch_size": data["batch_size"], "accumulate": tree["accumulate"], "batch_norm_momentum": tree["batch_norm_momentum"]} {
		if v == 0 || v == 0.0 {
			return fmt.Errorf("%s must not be 0", key)
		}
	}
	return nil
}

// checkKind refuses keys of a section, at path, that its kind does not know, and likewise of the terms of a sum.
func checkKind(section, path string, set map[string]any) error {
	kind, _ := set["kind"].(string)
	for _, key := range slices.Sorted(maps.Keys(set)) {
		some := false // it is of some kinds alone
		for _, keys := range keysOf[section] {
			some = some || slices.Contains(strings.Fields(keys), key)
		}
		known, ok := keysOf[section][kind]
		if v := set[key]; slices.Contains(notZero, section+"."+key) && (v == 0 || v == 0.0) {
			return fmt.Errorf("%s.%s must not be 0", path, key)
		}
		if !some || slices.Contains(strings.Fields(known), key) || !ok && kind != "" && section != "loss" { // a kind that there is not is told later
			continue
		}
		if kind == "" {
			kind = "none"
		}
		return fmt.Errorf("%s.%s is no key of the kind %s", path, key, kind)
	}
	terms, _ := set["terms"].([]any)
	for i, term := range terms {
		if set, ok := term.(map[string]any); ok {
			if err := checkKind(section, fmt.Sprintf("%s.terms[%d]", path, i), set); err != nil {
				return err
			}
		}
	}
	return nil
}

// ofKeys says an error of decoding text, in which keys are one a line, by the keys rather than by lines that the reader does not have.
func ofKeys(err error, text string) error {
	var bad *yaml.TypeError
	if !errors.As(err, &bad) {
		return err
	}
	lines := strings.Split(text, "\n")
	var all []string
	for _, e := range bad.Errors {
		var line int
		rest, ok := "", false
		if _, scan := fmt.Sscanf(e, "line %d:", &line); scan == nil && line <= len(lines) {
			_, rest, ok = strings.Cut(e, ": ")
		}
		if !ok {
			all = append(all, e)
			continue
		}
		// The key of the line, or the last one before it that is further left, and what it is in.
		path, indent := []string{}, math.MaxInt
		for i := line - 1; i >= 0; i-- {
			key, _, isKey := strings.Cut(strings.TrimLeft(lines[i], " "), ":")
			if d := len(lines[i]) - len(strings.TrimLeft(lines[i], " ")); isKey && !strings.HasPrefix(key, "- ") && d < indent {
				path, indent = append([]string{key}, path...), d
			}
		}
		what := strings.Join(path, ".")
		switch {
		case strings.HasPrefix(rest, "field "):
			all = append(all, "there is no key "+what)
		default:
			value, to, _ := strings.Cut(strings.TrimPrefix(rest, "cannot unmarshal "), " into ")
			if _, literal, ok := strings.Cut(value, " "); ok { // after its tag
				value = literal
			}
			value = strings.NewReplacer("!!seq", "a list", "!!map", "a map").Replace(value)
			all = append(all, fmt.Sprintf("%s: %s cannot be read as %s", what, value, to))
		}
	}
	return errors.New(strings.Join(all, "; "))
}

// recompute reads "auto", a number of segments, or a budget in KiB, MiB or GiB.
func (c *config) recompute() (runtime.Recompute, error) {
	switch v := c.Recompute.(type) {
	case nil:
		return runtime.Recompute{}, nil
	case int:
		if v > 0 {
			return runtime.Recompute{Segments: v}, nil
		}
	case string:
		if v == "auto" {
			return runtime.Recompute{Auto: true}, nil
		}
		if n, ok := byteCount(v); ok {
			return runtime.Recompute{Budget: n}, nil
		}
	}
	return runtime.Recompute{}, fmt.Errorf("recompute: %v is none of auto, a number of segments, and a budget in KiB, MiB or GiB", c.Recompute)
}

// memoryLimit is the limit of a run in bytes, 0 if none is given.
func (c *config) memoryLimit() (int64, error) {
	n, ok := byteCount(c.MemoryLimit)
	if !ok && c.MemoryLimit != "" {
		return 0, fmt.Errorf("memory_limit: %s is no number of KiB, MiB or GiB", c.MemoryLimit)
	}
	return n, nil
}

// byteCount reads a number of KiB, MiB or GiB.
func byteCount(s string) (int64, bool) {
	for unit, bytes := range map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		number, ok := strings.CutSuffix(s, unit)
		if f, err := strconv.ParseFloat(strings.TrimSpace(number), 64); ok && err == nil && f*bytes >= 1 && f*bytes < 1<<62 {
			return int64(f * bytes), true
		}
	}
	return 0, false
}

// loss makes the loss.
func (l *loss) loss() (finetune.Loss, error) {
	var made finetune.Loss
	switch l.Kind {
	case "cross_entropy":
		made = finetune.CrossEntropy{Output: l.Output, Target: l.Target, IgnoreIndex: l.IgnoreIndex, Weight: l.Weight, LabelSmoothing: l.LabelSmoothing}
	case "nll":
		made = finetune.NLL{Output: l.Output, Target: l.Target, IgnoreIndex: l.IgnoreIndex, Weight: l.Weight}
	case "mse":
		made = finetune.MSE{Output: l.Output, Target: l.Target}
	case "l1":
		made = finetune.L1{Output: l.Output, Target: l.Target}
	case "huber":
		made = finetune.Huber{Output: l.Output, Target: l.Target, Delta: l.Delta}
	case "bce_with_logits":
		made = finetune.BCEWithLogits{Output: l.Output, Target: l.Target}
	case "sum":
		var sum finetune.Sum
		for i := range l.Terms {
			term, err := l.Terms[i].loss()
			if err != nil {
				return nil, err
			}
			sum = append(sum, finetune.Term{Loss: term, Weight: 1})
		}
		made = sum
	default:
		return nil, fmt.Errorf("loss.kind %q is none of cross_entropy, nll, mse, l1, huber, bce_with_logits, sum", l.Kind)
	}
	if l.Factor != nil {
		made = finetune.Sum{{Loss: made, Weight: *l.Factor}}
	}
	return made, nil
}

func (c *config) optimizer() (finetune.Optimizer, error) {
	o := c.Optimizer
	var betas [2]float64
	copy(betas[:], o.Betas)
	decay := 0.0
	if o.WeightDecay != nil {
		decay = *o.WeightDecay
	}
	switch o.Kind {
	case "sgd":
		return finetune.SGD{LR: o.LR, Momentum: o.Momentum, Dampening: o.Dampening, Nesterov: o.Nesterov, WeightDecay: decay}, nil
	case "adam":
		return finetune.Adam{LR: o.LR, Betas: betas, Eps: o.Eps, WeightDecay: decay, AMSGrad: o.AMSGrad}, nil
	case "adamw":
		return finetune.AdamW{LR: o.LR, Betas: betas, Eps: o.Eps, WeightDecay: decay, NoDecay: o.WeightDecay != nil && decay == 0, AMSGrad: o.AMSGrad}, nil
	case "rmsprop":
		return finetune.RMSprop{LR: o.LR, Alpha: o.Alpha, Eps: o.Eps, WeightDecay: decay, Momentum: o.Momentum, Centered: o.Centered}, nil
	case "adagrad":
		return finetune.Adagrad{LR: o.LR, LRDecay: o.LRDecay, WeightDecay: decay, Initial: o.Initial, Eps: o.Eps}, nil
	}
	return nil, fmt.Errorf("optimizer.kind %q is none of sgd, adam, adamw, rmsprop, adagrad", o.Kind)
}

// schedule makes the schedule of the learning rate for that many steps (or epochs), nil if it stays.
func (c *config) schedule(total int) (finetune.Schedule, error) {
	s := &c.Schedule
	whole := func(v int) int {
		if v == 0 {
			return total - s.Warmup
		}
		return v
	}
	var made finetune.Schedule
	switch s.Kind {
	case "":
	case "step":
		made = finetune.StepLR{Size: s.StepSize, Gamma: s.Gamma}
	case "multistep":
		made = finetune.MultiStepLR{Milestones: s.Milestones, Gamma: s.Gamma}
	case "exponential":
		made = finetune.ExponentialLR{Gamma: s.Gamma}
	case "cosine":
		made = finetune.CosineAnnealingLR{TMax: whole(s.TMax), EtaMin: s.EtaMin}
	case "linear":
		made = finetune.LinearLR{Start: s.StartFactor, End: s.EndFactor, Total: s.TotalIters}
	case "one_cycle":
		made = finetune.OneCycleLR{Max: s.MaxLR, Total: whole(s.TotalSteps), PctStart: s.PctStart, Div: s.DivFactor, FinalDiv: s.FinalDiv}
	case "reduce_on_plateau":
		made = finetune.ReduceLROnPlateau{Factor: s.Factor, Patience: s.Patience, Threshold: s.Threshold, Cooldown: s.Cooldown, MinLR: s.MinLR, Eps: s.Eps}
	default:
		return nil, fmt.Errorf("schedule.kind %q is none of step, multistep, exponential, cosine, linear, one_cycle, reduce_on_plateau", s.Kind)
	}
	if s.Per != "" && s.Per != "step" && s.Per != "epoch" {
		return nil, fmt.Errorf("schedule.per %q is neither step nor epoch", s.Per)
	}
	if s.Warmup > 0 {
		made = finetune.Warmup{Steps: s.Warmup, Start: s.WarmupStart, Then: made}
	}
	return made, nil
}
