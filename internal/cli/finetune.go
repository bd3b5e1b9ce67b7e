package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
	"github.com/retune-go/retune/tensor/safetensors"
)

// dataset reads examples; types is of the arrays that models and losses take.
func (c *config) dataset(path string, types map[string]tensor.DType) (*finetune.Dataset, error) {
	arrays, err := npy.ReadNPZ(path)
	if err != nil {
		return nil, err
	}
	for name, t := range arrays {
		if arrays[name], err = inType(t, types[name]); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, name, err)
		}
	}
	d, err := finetune.NewDataset(arrays, c.Data.BatchAxis)
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
				return usageError{fmt.Errorf("%s: %w", strings.Join(append([]string{"finetune"}, args...), ": "), err)}
			}
			return tune(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	for key, help := range configKeys {
		values[key] = cmd.Flags().String(key, "", help)
	}
	return cmd
}

// tuning is one run of the command.
type tuning struct {
	*config
	trainer      *finetune.Trainer
	train, valid *finetune.Dataset
	perEpoch     int // steps
	steps        int
	planned      bool // the memory of a step has been told
	out          io.Writer
	log          *json.Encoder
	bar          *progressbar.ProgressBar
	curves       map[string][]finetune.Point
}

// tune does what the configuration says. The tuned model is written once training is over.
func tune(ctx context.Context, c *config, out, status io.Writer) error {
	r := &tuning{config: c, out: out, curves: map[string][]finetune.Point{}}
	if err := r.prepare(); err != nil {
		return err
	}
	defer r.trainer.Close()
	if c.Resume != "" {
		if err := r.resume(); err != nil {
			return err
		}
	}
	for _, note := range r.trainer.Notes() {
		fmt.Fprintf(out, "note: %s\n", note)
	}
	if c.TrainingGraph != "" {
		g, err := r.trainer.TrainingGraph()
		if err != nil {
			return err
		}
		if err := onnx.Save(c.TrainingGraph, g); err != nil {
			return err
		}
	}
	if c.Checkpoint != "" {
		if err := wholefile.RemoveAbandoned(c.Checkpoint); err != nil { // by a run that was killed
			return err
		}
	}
	if c.Log != "" {
		f, err := r.openLog()
		if err != nil {
			return err
		}
		defer f.Close()
		r.log = json.NewEncoder(f)
	}
	r.bar = progressbar.NewOptions(r.steps, progressbar.OptionSetWriter(status), progressbar.OptionSetDescription("tuning"), progressbar.OptionClearOnFinish())
	defer r.bar.Clear()
	_ = r.bar.Set(r.trainer.Steps())
	for r.trainer.Steps() < r.steps && !r.stopped() {
		if err := r.epoch(ctx); err != nil {
			return err
		}
	}
	if r.stopped() {
		fmt.Fprintf(out, "stopped: no better validation loss for %d epochs\n", r.trainer.SinceBest())
	}
	return r.write()
}

// openLog is the file of the log: a new one, or on resuming the one that is there without the steps after the checkpoint, which are done again.
func (r *tuning) openLog() (f *os.File, err error) {
	st, err := os.Stat(r.Log)
	if r.Resume == "" || err != nil || !st.Mode().IsRegular() {
		return os.OpenFile(r.Log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	}
	if f, err = os.OpenFile(r.Log, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	kept, lines := int64(0), bufio.NewReader(f)
	for n := 1; ; n++ {
		line, end := lines.ReadBytes('\n')
		if end != nil && end != io.EOF {
			return nil, end
		}
		var l struct{ Step int }
		switch bad := json.Unmarshal(line, &l); {
		case end == nil && bad == nil && l.Step > 0 && l.Step <= r.trainer.Steps():
			kept += int64(len(line))
			continue
		case (bad != nil || l.Step <= 0) && !(end == io.EOF && (len(line) == 0 || line[0] == '{')): // the last line may not have been written in full
			return nil, fmt.Errorf("log %s: line %d is none of a step's, and the file stays as it is", r.Log, n)
		}
		break
	}
	if err = f.Truncate(kept); err == nil {
		_, err = f.Seek(kept, io.SeekStart)
	}
	return f, err
}

// prepare reads the files and makes the trainer.
func (r *tuning) prepare() error {
	loss, err := r.Loss.loss()
	if err != nil {
		return usageError{err}
	}
	opt, err := r.config.optimizer()
	if err != nil {
		return usageError{err}
	}
	recompute, err := r.config.recompute()
	if err != nil {
		return usageError{err}
	}
	limit, err := r.config.memoryLimit()
	if err != nil {
		return usageError{err}
	}
	if len(r.Carry) > 0 && r.Data.Shuffle {
		return usageError{fmt.Errorf("finetune: states cannot be carried over batches that are shuffled")}
	}
	if err := r.apart(); err != nil {
		return usageError{err}
	}
	// What would only be found out at the end, after hours.
	for _, path := range []string{r.Out, r.OutStateDict, r.Plot, r.Log, r.Checkpoint, r.TrainingGraph} {
		if st, err := os.Stat(filepath.Dir(path)); path != "" && (err != nil || !st.IsDir()) {
			return fmt.Errorf("%s cannot be written: there is no folder %s", path, filepath.Dir(path))
		}
		if st, err := os.Stat(path); path != "" && err == nil && st.IsDir() {
			return fmt.Errorf("%s cannot be written: it is a folder", path)
		}
	}
	if r.Plot != "" && !finetune.CanPlot(r.Plot) {
		return usageError{fmt.Errorf("plot %s: its ending is that of no kind of picture", r.Plot)}
	}
	if r.OutStateDict != "" && filepath.Ext(r.OutStateDict) != ".safetensors" {
		return usageError{fmt.Errorf("out_state_dict %s: it is written as .safetensors", r.OutStateDict)}
	}
	m, err := onnx.Load(r.Model)
	if err != nil {
		return err
	}
	types := map[string]tensor.DType{}
	r.Loss.classes(func(target string) { types[target] = tensor.Int64 })
	for _, v := range m.Graph.Inputs {
		if v.Type != nil {
			types[v.Name] = v.Type.Elem
		}
	}
	if r.train, err = r.dataset(r.Data.Train, types); err != nil {
		return err
	}
	if r.Data.Valid != "" {
		if r.valid, err = r.dataset(r.Data.Valid, types); err != nil {
			return err
		}
	}
	for _, d := range []*finetune.Dataset{r.train, r.valid} {
		if d == nil {
			continue
		}
		if d.DropLast = r.Data.DropLast; d.NumBatches(r.Data.BatchSize) == 0 {
			return fmt.Errorf("data: %d examples fill no batch of %d, and drop_last leaves them out", d.Len(), r.Data.BatchSize)
		}
	}
	batches := r.train.NumBatches(r.Data.BatchSize)
	r.perEpoch = (batches + r.Accumulate - 1) / r.Accumulate
	if r.steps = r.Steps; r.steps == 0 {
		r.steps = r.Epochs * r.perEpoch
	}
	every, total := 1, r.steps
	if r.Schedule.Per == "epoch" {
		every, total = r.perEpoch, (r.steps+r.perEpoch-1)/r.perEpoch
	}
	schedule, err := r.config.schedule(total)
	if err != nil {
		return usageError{err}
	}
	var names finetune.Names
	if r.Names != "" {
		text, err := os.ReadFile(r.Names)
		if err != nil {
			return err
		}
		if names, err = finetune.ParseNames(text); err != nil {
			return fmt.Errorf("%s: %w", r.Names, err)
		}
	}
	tie, equal := r.Tie.split()
	r.trainer, err = finetune.New(m, finetune.Config{
		Loss: loss, Optimizer: opt, Trainable: r.Trainable, Names: names, Mode: finetune.Mode(r.Mode), Seed: r.Data.Seed, Carry: r.Carry, Dropout: r.Dropout,
		Untie: r.Untie, Tie: tie, TieEqual: equal, StraightThrough: r.StraightThrough, PaddingIdx: r.PaddingIdx,
		Schedule: schedule, ScheduleEvery: every, L1: r.L1, L2: r.L2, ClipValue: r.ClipValue, ClipNorm: r.ClipNorm,
		LossScale: r.LossScale, KeepBest: r.wantsBest(), Threads: r.Threads, Recompute: recompute, MemoryLimit: limit, BatchNormMomentum: r.BatchNormMomentum,
	})
	if err != nil {
		return err
	}
	if r.OutStateDict != "" {
		if _, _, err := r.trainer.StateDict(); err != nil {
			return fmt.Errorf("%s: %w", r.Names, err)
		}
	}
	for i, d := range []*finetune.Dataset{r.train, r.valid} {
		if d == nil {
			continue
		}
		path := []string{r.Data.Train, r.Data.Valid}[i]
		for in := range r.Carry {
			if d.Has(in) {
				return fmt.Errorf("carry: %s has an array %q, with which every batch would begin anew", path, in)
			}
		}
		for _, name := range r.trainer.Inputs() {
			if !d.Has(name) {
				return fmt.Errorf("%s: has no array %q, which the model or the loss takes", path, name)
			}
		}
		if err := r.fits(d, d == r.train); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// fits reports what is wrong with the types and shapes of d, by its first and its last batch, which may be shorter.
func (r *tuning) fits(d *finetune.Dataset, train bool) error {
	last := d.NumBatches(r.Data.BatchSize) - 1
	for _, k := range []int{0, last} {
		for b := range d.BatchesFrom(k, r.Data.BatchSize, nil) {
			if err := r.trainer.Check(b, train); err != nil {
				if short := d.Len() - last*r.Data.BatchSize; k > 0 && short < r.Data.BatchSize {
					err = fmt.Errorf("the last batch, of %d (drop_last leaves it out): %w", short, err)
				}
				return err
			}
			break
		}
	}
	return nil
}

// apart reports files that would be written over others of the same run. The model may be replaced by the tuned one, and a checkpoint by a later one.
func (r *tuning) apart() error {
	type file struct{ key, path string }
	written := []file{{"out", r.Out}, {"out_state_dict", r.OutStateDict}, {"plot", r.Plot}, {"log", r.Log}, {"checkpoint", r.Checkpoint}, {"training_graph", r.TrainingGraph}}
	read := []file{{"model", r.Model}, {"data.train", r.Data.Train}, {"data.valid", r.Data.Valid}, {"names", r.Names}, {"resume", r.Resume}}
	for i, w := range written {
		a, err := os.Stat(w.path)
		if w.path == "" || err == nil && !a.Mode().IsRegular() {
			continue
		}
		for _, o := range append(written[:i:i], read...) {
			if o.path == "" || w.key == "out" && o.key == "model" || w.key == "checkpoint" && o.key == "resume" {
				continue
			}
			b, missing := os.Stat(o.path)
			if filepath.Clean(w.path) == filepath.Clean(o.path) || err == nil && missing == nil && os.SameFile(a, b) {
				return fmt.Errorf("%s and %s are one file, %s", o.key, w.key, w.path)
			}
		}
	}
	return nil
}

func (r *tuning) wantsBest() bool {
	if r.RestoreBest != nil {
		return *r.RestoreBest
	}
	return r.Patience > 0
}

// note is what a checkpoint says of the batches, which a run that resumes must take as the first did.
func (r *tuning) note() string {
	text := fmt.Sprintf("%d examples, batch_size %d, accumulate %d, shuffle %v, seed %d", r.train.Len(), r.Data.BatchSize, r.Accumulate, r.Data.Shuffle, r.Data.Seed)
	if r.Data.DropLast {
		text += ", drop_last"
	}
	return text
}

func (r *tuning) resume() error {
	note, err := r.trainer.Restore(r.Resume)
	if err == nil && note != r.note() {
		err = fmt.Errorf("checkpoint %s: it was made with %s, not %s", r.Resume, note, r.note())
	}
	if err == nil {
		fmt.Fprintf(r.out, "resumed after step %d\n", r.trainer.Steps())
	}
	return err
}

func (r *tuning) stopped() bool { return r.Patience > 0 && r.trainer.SinceBest() >= r.Patience }

// epoch trains from where the trainer is to the end of that epoch, and validates.
func (r *tuning) epoch(ctx context.Context) error {
	done := r.trainer.Steps()
	var shuffle *rand.Rand
	if r.Data.Shuffle { // an order for each epoch, so that it is found again on resuming
		shuffle = rand.New(rand.NewPCG(r.Data.Seed, uint64(done/r.perEpoch)))
	}
	first := done % r.perEpoch * r.Accumulate
	if first == 0 {
		r.trainer.ResetStates()
	}
	for group := range groups(r.train.BatchesFrom(first, r.Data.BatchSize, shuffle), r.Accumulate) {
		if !r.planned {
			m, err := r.trainer.Memory(group...)
			if err != nil {
				return err
			}
			mib := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }
			fmt.Fprintf(r.out, "memory planned: %.1f MiB: activations %.1f, weights %.1f, gradients %.1f, optimizer %.1f\n",
				mib(m.Total()), mib(m.Activations), mib(m.Weights), mib(m.Gradients), mib(m.Optimizer))
			r.planned = true
		}
		s, err := r.trainer.Step(ctx, group...)
		if err != nil {
			if ctx.Err() != nil {
				err = errors.Join(err, r.save())
			}
			return err
		}
		_ = r.bar.Add(1)
		r.curves["train"] = append(r.curves["train"], finetune.Point{Step: s.Step, Loss: s.Loss})
		if r.log != nil {
			line := map[string]any{"step": s.Step, "loss": s.Loss, "lr": s.LR, "grad_norm": s.GradNorm, "ms": float64(s.Time.Nanoseconds()) / 1e6}
			if s.Skipped {
				line["skipped"] = true
			}
			if err := r.log.Encode(line); err != nil {
				return err
			}
		}
		end := s.Step%r.perEpoch == 0 || s.Step == r.steps
		if end && r.valid != nil {
			if err := r.validate(ctx); err != nil {
				return err
			}
		}
		if end && r.CheckpointEvery == 0 || s.Step == r.steps || r.CheckpointEvery > 0 && s.Step%r.CheckpointEvery == 0 || end && r.stopped() {
			if err := r.save(); err != nil {
				return err
			}
		}
		if s.Step == r.steps {
			return nil
		}
	}
	return nil
}

// groups gives n batches at a time; the last ones may be fewer.
func groups(batches iter.Seq[finetune.Batch], n int) iter.Seq[[]finetune.Batch] {
	return func(yield func([]finetune.Batch) bool) {
		var group []finetune.Batch
		for b := range batches {
			if group = append(group, b); len(group) == n {
				if !yield(group) {
					return
				}
				group = nil
			}
		}
		if len(group) > 0 {
			yield(group)
		}
	}
}

func (r *tuning) validate(ctx context.Context) error {
	r.trainer.ResetStates()
	v, err := meanLoss(ctx, r.trainer, r.valid, r.Data.BatchSize)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Data.Valid, err)
	}
	r.trainer.Validated(v)
	r.curves["valid"] = append(r.curves["valid"], finetune.Point{Step: r.trainer.Steps(), Loss: v})
	fmt.Fprintf(r.out, "step %d: validation loss %.6f\n", r.trainer.Steps(), v)
	return nil
}

func (r *tuning) save() error {
	if r.Checkpoint == "" {
		return nil
	}
	return r.trainer.Save(r.Checkpoint, r.note())
}

// write brings the results to their files.
func (r *tuning) write() error {
	if r.wantsBest() {
		if step, ok := r.trainer.RestoreBest(); ok && step < r.trainer.Steps() {
			fmt.Fprintf(r.out, "the weights of step %d, which had the best validation loss, are written\n", step)
		}
	}
	if err := onnx.Save(r.Out, r.trainer.Model()); err != nil {
		return err
	}
	if losses := r.curves["train"]; len(losses) > 0 {
		fmt.Fprintf(r.out, "%d steps, loss %.6f to %.6f; wrote %s\n", r.trainer.Steps(), losses[0].Loss, losses[len(losses)-1].Loss, r.Out)
	} else {
		fmt.Fprintf(r.out, "%d steps were done already; wrote %s\n", r.trainer.Steps(), r.Out)
	}
	if r.OutStateDict != "" {
		if err := r.writeStateDict(); err != nil {
			return err
		}
	}
	if r.Plot != "" {
		return finetune.PlotLosses(r.Plot, r.Model, r.curves)
	}
	return nil
}

// writeStateDict writes the weights under PyTorch's names and in its layout, where names say which they are.
func (r *tuning) writeStateDict() error {
	f := &safetensors.File{Tensors: map[string]*tensor.Tensor{}, Metadata: map[string]string{"format": "pt"}}
	whose := "the model's own names and in its layout: key names would say which are PyTorch's"
	var lost []string
	if r.Names != "" {
		var err error
		if f.Tensors, lost, err = r.trainer.StateDict(); err != nil {
			return err
		}
		whose = "PyTorch's names"
	} else {
		trained := map[string]bool{}
		for _, p := range r.trainer.Parameters() {
			trained[p.Name] = true
		}
		for _, v := range r.trainer.Model().Graph.Inits {
			if v.Const.DType().IsFloat() || trained[v.Name] { // which may be integers
				f.Tensors[v.Name] = v.Const
			}
		}
	}
	if err := f.Write(r.OutStateDict); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "wrote %s: %d tensors by %s\n", r.OutStateDict, len(f.Tensors), whose)
	if len(lost) > 0 {
		fmt.Fprintf(r.out, "the model does not hold %s\n", strings.Join(lost, ", "))
	}
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
