package finetune

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
	"github.com/retune-go/retune/tensor/safetensors"
)

// Twelve steps are bit for bit those of five, a checkpoint, and seven of another trainer: every optimizer, dropout, running
// statistics, schedules, 16 bits, and the best weights.
func TestResumeIsExact(t *testing.T) {
	ctx := context.Background()
	images, err := npy.ReadNPZ("../models/convnet/train_batches.npz")
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDataset(images, nil)
	if err != nil {
		t.Fatal(err)
	}
	convnet := load(t, "../models/convnet_preserved")
	pictures := slices.Collect(d.Batches(20, nil))
	x := Batch{"x": tensor.New(slices.Repeat([]float32{0.5}, 6400), 64, 100), "target": tensor.New(make([]float32, 6400), 64, 100)}
	for _, c := range []struct {
		name  string
		m     *onnx.Model
		batch func(i int) Batch
		cfg   Config
	}{
		{"sgd", convnet, func(i int) Batch { return pictures[i] }, Config{Mode: Train, Optimizer: SGD{LR: 0.01, Momentum: 0.9}, Schedule: StepLR{Size: 3}}},
		{"adam", convnet, func(i int) Batch { return pictures[i] }, Config{Mode: Train, Optimizer: Adam{}, ClipNorm: 1}},
		{"rmsprop", convnet, func(i int) Batch { return pictures[i] }, Config{Optimizer: RMSprop{Momentum: 0.9, Centered: true}}},
		{"adagrad, dropout, plateau", dropped(t, 13, false), func(int) Batch { return x }, Config{Mode: Train, Seed: 3, Optimizer: Adagrad{},
			Loss: MSE{Output: "y", Target: "target"}, Schedule: ReduceLROnPlateau{Patience: new(int), Threshold: new(0.5)}}},
		{"half", linear(t, tensor.Float16), func(i int) Batch { return rows(t, tensor.Float16, tensor.Float32, i, 4) }, Config{Optimizer: AdamW{}, Loss: MSE{Output: "y", Target: "t"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cfg.Loss == nil {
				c.cfg.Loss = CrossEntropy{Output: "logits", Target: "target"}
			}
			c.cfg.KeepBest = true
			path := filepath.Join(t.TempDir(), "checkpoint.safetensors")
			steps := func(tr *Trainer, from, to int) (all []Step) {
				for i := from; i < to; i++ {
					s, err := tr.Step(ctx, c.batch(i))
					if err != nil {
						t.Fatal(err)
					}
					s.Time = 0
					all = append(all, s)
					v, err := tr.Loss(ctx, c.batch(i))
					if err != nil {
						t.Fatal(err)
					}
					tr.Validated(v)
				}
				return all
			}
			whole := trainer(t, c.m, c.cfg)
			want := steps(whole, 0, 12)
			first := trainer(t, c.m, c.cfg)
			steps(first, 0, 5)
			if err := first.Save(path, "five"); err != nil {
				t.Fatal(err)
			}
			second := trainer(t, c.m, c.cfg)
			note, err := second.Restore(path)
			if err != nil || note != "five" || second.Steps() != 5 {
				t.Fatal(note, second.Steps(), err)
			}
			if got := steps(second, 5, 12); !slices.Equal(got, want[5:]) {
				t.Errorf("steps\n%v, want\n%v", got, want[5:])
			}
			exact := func() {
				t.Helper()
				a, b := whole.state(), second.state()
				for name := range a {
					if !same(a[name], b[name]) {
						t.Errorf("%s is another", name)
					}
				}
				for i, v := range whole.Model().Graph.Inits {
					if !same(v.Const, second.Model().Graph.Inits[i].Const) {
						t.Errorf("%s in the tuned model is another", v.Name)
					}
				}
			}
			exact()
			a, kept := whole.RestoreBest()
			if b, also := second.RestoreBest(); !kept || !also || a != b || whole.SinceBest() != second.SinceBest() {
				t.Errorf("the best weights are of step %d, not %d", b, a)
			}
			exact()
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
				t.Errorf("left beside the checkpoint: %v (%v)", entries, err)
			}
		})
	}
}

// Files that are damaged or another trainer's are refused and change nothing.
func TestForeignCheckpoints(t *testing.T) {
	ctx := context.Background()
	m := linear(t, tensor.Float32)
	b := rows(t, tensor.Float32, tensor.Float32, 0, 4)
	adam := Config{Optimizer: Adam{}}
	tr := trainer(t, m, adam)
	if _, err := tr.Step(ctx, b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "checkpoint")
	if err := tr.Save(path, ""); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := values(tr)
	refuse := func(name, says string, tr *Trainer, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		before := values(tr)
		if _, err := tr.Restore(path); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: want an error of %q that names the file, got %v", name, says, err)
		}
		if apart(before, values(tr)) != 0 {
			t.Errorf("%s: weights changed", name)
		}
	}
	edit := func(f func(*safetensors.File)) []byte {
		t.Helper()
		file, err := safetensors.Decode(slices.Clone(whole))
		if err != nil {
			t.Fatal(err)
		}
		f(file)
		file.Names = nil
		var out strings.Builder
		if err := file.Encode(&out); err != nil {
			t.Fatal(err)
		}
		return []byte(out.String())
	}
	for cut := range len(whole) {
		if cut%37 == 0 {
			refuse("cut short", "", tr, whole[:cut])
		}
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)-3] ^= 4
	refuse("a bit", "damaged", tr, flipped)
	refuse("no checkpoint", "no checkpoint", tr, edit(func(f *safetensors.File) { f.Metadata = nil }))
	refuse("no JSON", "JSON", tr, edit(func(f *safetensors.File) { f.Metadata[checkpointKey] = "{" }))
	refuse("version", "version 7", tr, edit(func(f *safetensors.File) { f.Metadata[checkpointKey] = `{"version":7}` }))
	refuse("missing", "damaged", tr, edit(func(f *safetensors.File) { delete(f.Tensors, "parameter/bias") }))
	refuse("optimizer", "made with finetune.Adam", trainer(t, m, Config{Optimizer: SGD{}}), whole)
	refuse("other weights", "not trained here", trainer(t, m, Config{Optimizer: Adam{}, Trainable: []string{"bias"}}), whole)
	refuse("other type", "another model", trainer(t, linear(t, tensor.Float64), adam), whole)
	refuse("other model", "another model", trainer(t, dropped(t, 13, false), Config{Optimizer: Adam{}, Loss: MSE{Output: "y", Target: "t"}}), whole)
	part := trainer(t, m, Config{Optimizer: Adam{}, Trainable: []string{"bias"}})
	if err := part.Save(path, ""); err != nil {
		t.Fatal(err)
	}
	less, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refuse("fewer weights", "does not hold", tr, less)
	if _, err := tr.Restore(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("a file that is not there was restored")
	}
	if apart(begin, values(tr)) != 0 {
		t.Error("weights changed")
	}
}
