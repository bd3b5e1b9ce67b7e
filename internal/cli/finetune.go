package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor/npy"
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
		Shuffle   bool           `yaml:"shuffle"`
		Seed      uint64         `yaml:"seed"`
	} `yaml:"data"`
	Loss struct {
		Kind           string    `yaml:"kind"`
		Output         string    `yaml:"output"`
		Target         string    `yaml:"target"`
		IgnoreIndex    *int64    `yaml:"ignore_index"`
		Weight         []float64 `yaml:"weight"`
		LabelSmoothing float64   `yaml:"label_smoothing"`
		Delta          float64   `yaml:"delta"`
	} `yaml:"loss"`
	Optimizer struct {
		Kind        string     `yaml:"kind"`
		LR          float64    `yaml:"lr"`
		Momentum    float64    `yaml:"momentum"`
		Dampening   float64    `yaml:"dampening"`
		Nesterov    bool       `yaml:"nesterov"`
		WeightDecay *float64   `yaml:"weight_decay"`
		Betas       [2]float64 `yaml:"betas"`
		Eps         float64    `yaml:"eps"`
		Alpha       float64    `yaml:"alpha"`
		Centered    bool       `yaml:"centered"`
		LRDecay     float64    `yaml:"lr_decay"`
		Initial     float64    `yaml:"initial_accumulator_value"`
	} `yaml:"optimizer"`
	Mode      string   `yaml:"mode"`
	Trainable []string `yaml:"trainable"`
	ClipNorm  float64  `yaml:"clip_norm"`
	Epochs    int      `yaml:"epochs"`
	Steps     int      `yaml:"steps"`
	Patience  int      `yaml:"patience"`
	Threads   int      `yaml:"threads"`
	Log       string   `yaml:"log"`
	Plot      string   `yaml:"plot"`
}

// configKeys are the keys that flags can set, and what they mean.
var configKeys = map[string]string{
	"model": "the ONNX model to tune", "out": "where the tuned model is written",
	"data.train": ".npz of training arrays", "data.valid": ".npz of validation arrays",
	"data.batch_axis": "axis of the examples, by array, where it is not the first: {x: 1}",
	"data.batch_size": "examples a batch", "data.shuffle": "shuffle before each epoch", "data.seed": "seed of the shuffle",
	"loss.kind": "cross_entropy, nll, mse, l1, huber or bce_with_logits", "loss.output": "the model output that the loss reads",
	"loss.target": "the array that it should be", "loss.ignore_index": "targets that do not count",
	"loss.weight": "a weight for each class", "loss.label_smoothing": "share of the target given to all classes", "loss.delta": "where huber turns linear",
	"optimizer.kind": "sgd, adam, adamw, rmsprop or adagrad", "optimizer.lr": "learning rate", "optimizer.momentum": "momentum",
	"optimizer.dampening": "dampening", "optimizer.nesterov": "Nesterov momentum", "optimizer.weight_decay": "weight decay",
	"optimizer.betas": "Adam's betas: [0.9, 0.999]", "optimizer.eps": "epsilon", "optimizer.alpha": "RMSprop's alpha",
	"optimizer.centered": "centred RMSprop", "optimizer.lr_decay": "Adagrad's decay", "optimizer.initial_accumulator_value": "Adagrad's start",
	"mode": "as_exported, train or eval: how batch norms and dropout behave", "trainable": "globs over parameter names: [\"fc.*\"]", "clip_norm": "greatest norm of the gradients",
	"epochs": "times over the data", "steps": "steps, in place of epochs", "patience": "stop after so many epochs without a better validation loss",
	"threads": "threads, 0 for all cores", "log": "a line of JSON a step", "plot": "a PNG of the losses",
}

// parseConfig reads the file and lays the flags over it. A key that does not exist is an error.
func parseConfig(data []byte, set map[string]string) (*config, error) {
	tree := map[string]any{}
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	for key, text := range set {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			return nil, fmt.Errorf("--%s: %w", key, err)
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
		return nil, err
	}
	for _, need := range []struct{ key, value string }{
		{"model", c.Model}, {"out", c.Out}, {"data.train", c.Data.Train}, {"loss.kind", c.Loss.Kind},
		{"loss.output", c.Loss.Output}, {"loss.target", c.Loss.Target}, {"optimizer.kind", c.Optimizer.Kind}} {
		if need.value == "" {
			return nil, fmt.Errorf("key %s is missing", need.key)
		}
	}
	switch finetune.Mode(c.Mode) {
	case "", finetune.AsExported, finetune.Train, finetune.Eval:
	default:
		return nil, fmt.Errorf("mode %q is none of as_exported, train, eval", c.Mode)
	}
	if c.Data.BatchSize == 0 {
		c.Data.BatchSize = 16
	}
	if c.Data.BatchSize < 0 || c.Epochs < 0 || c.Steps < 0 {
		return nil, errors.New("batch_size, epochs and steps must be positive")
	}
	if c.Epochs == 0 && c.Steps == 0 {
		c.Epochs = 1
	}
	return &c, nil
}

func (c *config) loss() (finetune.Loss, error) {
	l := c.Loss
	switch l.Kind {
	case "cross_entropy":
		return finetune.CrossEntropy{Output: l.Output, Target: l.Target, IgnoreIndex: l.IgnoreIndex, Weight: l.Weight, LabelSmoothing: l.LabelSmoothing}, nil
	case "nll":
		return finetune.NLL{Output: l.Output, Target: l.Target, IgnoreIndex: l.IgnoreIndex, Weight: l.Weight}, nil
	case "mse":
		return finetune.MSE{Output: l.Output, Target: l.Target}, nil
	case "l1":
		return finetune.L1{Output: l.Output, Target: l.Target}, nil
	case "huber":
		return finetune.Huber{Output: l.Output, Target: l.Target, Delta: l.Delta}, nil
	case "bce_with_logits":
		return finetune.BCEWithLogits{Output: l.Output, Target: l.Target}, nil
	}
	return nil, fmt.Errorf("loss.kind %q is none of cross_entropy, nll, mse, l1, huber, bce_with_logits", l.Kind)
}

func (c *config) optimizer() (finetune.Optimizer, error) {
	o := c.Optimizer
	decay := 0.0
	if o.WeightDecay != nil {
		decay = *o.WeightDecay
	}
	switch o.Kind {
	case "sgd":
		return finetune.SGD{LR: o.LR, Momentum: o.Momentum, Dampening: o.Dampening, Nesterov: o.Nesterov, WeightDecay: decay}, nil
	case "adam":
		return finetune.Adam{LR: o.LR, Betas: o.Betas, Eps: o.Eps, WeightDecay: decay}, nil
	case "adamw":
		return finetune.AdamW{LR: o.LR, Betas: o.Betas, Eps: o.Eps, WeightDecay: decay, NoDecay: o.WeightDecay != nil && decay == 0}, nil
	case "rmsprop":
		return finetune.RMSprop{LR: o.LR, Alpha: o.Alpha, Eps: o.Eps, WeightDecay: decay, Momentum: o.Momentum, Centered: o.Centered}, nil
	case "adagrad":
		return finetune.Adagrad{LR: o.LR, LRDecay: o.LRDecay, WeightDecay: decay, Initial: o.Initial, Eps: o.Eps}, nil
	}
	return nil, fmt.Errorf("optimizer.kind %q is none of sgd, adam, adamw, rmsprop, adagrad", o.Kind)
}

func dataset(path string, axis map[string]int) (*finetune.Dataset, error) {
	arrays, err := npy.ReadNPZ(path)
	if err != nil {
		return nil, err
	}
	d, err := finetune.NewDataset(arrays, axis)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func finetuneCommand() *cobra.Command {
	values := map[string]*string{}
	cmd := &cobra.Command{
		Use:   "finetune CONFIG.yaml",
		Short: "Train a model's weights further and write it back",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var text []byte
			if len(args) == 1 {
				var err error
				if text, err = os.ReadFile(args[0]); err != nil {
					return err
				}
			}
			set := map[string]string{}
			for key, v := range values {
				if cmd.Flags().Changed(key) {
					set[key] = *v
				}
			}
			c, err := parseConfig(text, set)
			if err != nil {
				return usageError{fmt.Errorf("finetune: %s: %w", strings.Join(args, ""), err)}
			}
			return tune(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	for key, help := range configKeys {
		values[key] = cmd.Flags().String(key, "", help)
	}
	return cmd
}

// tune does what the configuration says. The tuned model is written once training is over.
func tune(ctx context.Context, c *config, out, status io.Writer) error {
	loss, err := c.loss()
	if err != nil {
		return usageError{err}
	}
	opt, err := c.optimizer()
	if err != nil {
		return usageError{err}
	}
	m, err := onnx.Load(c.Model)
	if err != nil {
		return err
	}
	train, err := dataset(c.Data.Train, c.Data.BatchAxis)
	if err != nil {
		return err
	}
	var valid *finetune.Dataset
	if c.Data.Valid != "" {
		if valid, err = dataset(c.Data.Valid, c.Data.BatchAxis); err != nil {
			return err
		}
	}
	t, err := finetune.New(m, finetune.Config{Loss: loss, Optimizer: opt, Trainable: c.Trainable, Mode: finetune.Mode(c.Mode), Seed: c.Data.Seed, ClipNorm: c.ClipNorm, Threads: c.Threads})
	if err != nil {
		return err
	}
	defer t.Close()
	var log *json.Encoder
	if c.Log != "" {
		f, err := os.Create(c.Log)
		if err != nil {
			return err
		}
		defer f.Close()
		log = json.NewEncoder(f)
	}
	perEpoch := (train.Len() + c.Data.BatchSize - 1) / c.Data.BatchSize
	steps := c.Steps
	if steps == 0 {
		steps = c.Epochs * perEpoch
	}
	bar := progressbar.NewOptions(steps, progressbar.OptionSetWriter(status), progressbar.OptionSetDescription("tuning"), progressbar.OptionClearOnFinish())
	curves := map[string][]finetune.Point{}
	rng := rand.New(rand.NewPCG(c.Data.Seed, 0))
	done, best, bad := 0, 0.0, 0
	for done < steps {
		var shuffle *rand.Rand
		if c.Data.Shuffle {
			shuffle = rng
		}
		for b := range train.Batches(c.Data.BatchSize, shuffle) {
			if done == steps {
				break
			}
			s, err := t.Step(ctx, b)
			if err != nil {
				return err
			}
			done++
			_ = bar.Add(1)
			curves["train"] = append(curves["train"], finetune.Point{Step: s.Step, Loss: s.Loss})
			if log != nil {
				if err := log.Encode(map[string]any{"step": s.Step, "loss": s.Loss, "lr": s.LR, "grad_norm": s.GradNorm, "ms": float64(s.Time.Nanoseconds()) / 1e6}); err != nil {
					return err
				}
			}
		}
		if valid == nil {
			continue
		}
		v, err := meanLoss(ctx, t, valid, c.Data.BatchSize)
		if err != nil {
			return err
		}
		curves["valid"] = append(curves["valid"], finetune.Point{Step: done, Loss: v})
		fmt.Fprintf(out, "step %d: validation loss %.6f\n", done, v)
		if len(curves["valid"]) == 1 || v < best {
			best, bad = v, 0
		} else if bad++; c.Patience > 0 && bad >= c.Patience {
			fmt.Fprintf(out, "stopped: no better validation loss for %d epochs\n", bad)
			break
		}
	}
	if c.Plot != "" {
		if err := finetune.PlotLosses(c.Plot, c.Model, curves); err != nil {
			return err
		}
	}
	if err := onnx.Save(c.Out, t.Model()); err != nil {
		return err
	}
	last := curves["train"][len(curves["train"])-1]
	fmt.Fprintf(out, "%d steps, loss %.6f to %.6f; wrote %s\n", done, curves["train"][0].Loss, last.Loss, c.Out)
	return nil
}

// meanLoss is the loss over a data set, each batch weighed by its examples.
func meanLoss(ctx context.Context, t *finetune.Trainer, d *finetune.Dataset, size int) (float64, error) {
	sum, seen := 0.0, 0
	for b := range d.Batches(size, nil) {
		n := min(size, d.Len()-seen)
		v, err := t.Loss(ctx, b)
		if err != nil {
			return 0, err
		}
		sum, seen = sum+v*float64(n), seen+n
	}
	return sum / float64(seen), nil
}
