package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
	"github.com/retune-go/retune/tensor/safetensors"
)

const convnet = "../../models/convnet_preserved"

// tuneArgs are flags of a short run of the convnet that writes to dir/name.onnx.
func tuneArgs(dir, name string, more ...string) []string {
	return append([]string{"finetune", "--model", convnet + "/model.onnx", "--out", filepath.Join(dir, name+".onnx"), "--data.train", convnet + "/train_batches.npz",
		"--data.batch_size", "50", "--data.shuffle", "true", "--loss.kind", "cross_entropy", "--loss.output", "logits", "--loss.target", "target",
		"--optimizer.kind", "adam", "--mode", "train"}, more...)
}

func mustTune(t *testing.T, args []string) string {
	t.Helper()
	code, out, stderr := command(args...)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	return out
}

func contents(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A run that goes on from a checkpoint writes the bytes and logs the losses of one that was not interrupted.
func TestFinetuneResumes(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	more := []string{"--accumulate", "2", "--schedule.kind", "step", "--schedule.step_size", "3", "--schedule.gamma", "0.5"}
	mustTune(t, append(tuneArgs(dir, "whole", more...), "--steps", "11", "--log", file("whole.jsonl")))
	mustTune(t, append(tuneArgs(dir, "part", more...), "--steps", "6", "--log", file("part.jsonl"), "--checkpoint", file("c")))
	out := mustTune(t, append(tuneArgs(dir, "part", more...), "--steps", "11", "--log", file("part.jsonl"), "--resume", file("c")))
	if !strings.HasPrefix(out, "resumed after step 6\n") {
		t.Errorf("it says %q", out)
	}
	if !bytes.Equal(contents(t, dir, "whole.onnx"), contents(t, dir, "part.onnx")) {
		t.Error("the resumed run's model is another")
	}
	read := func(name string) (lines []map[string]any) {
		for line := range bytes.Lines(contents(t, dir, name)) {
			var l map[string]any
			if err := json.Unmarshal(line, &l); err != nil {
				t.Fatal(err)
			}
			delete(l, "ms")
			lines = append(lines, l)
		}
		return lines
	}
	a, b := read("whole.jsonl"), read("part.jsonl")
	if len(a) != 11 || !reflect.DeepEqual(a, b) {
		t.Errorf("logs\n%v\n%v", a, b)
	}
	if a[0]["lr"] != 1e-3 || a[3]["lr"] != 5e-4 {
		t.Errorf("rates %v and %v", a[0]["lr"], a[3]["lr"])
	}
	for _, c := range []struct{ says, flag, value string }{
		{"it was made with 320 examples, batch_size 50", "--data.batch_size", "40"},
		{"it was made with finetune.Adam", "--optimizer.kind", "sgd"},
		{"no such file", "--resume", "nowhere"},
	} {
		code, _, stderr := command(append(tuneArgs(dir, "other", more...), "--resume", file("c"), c.flag, c.value)...)
		if code != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit %d: %s", c.flag, code, stderr)
		}
	}
}

// The log of a run that was killed after its last checkpoint goes on from there: steps that are done again are logged once, a line that was not
// finished goes, and a file that is no log stays as it is.
func TestFinetuneLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	mustTune(t, append(tuneArgs(dir, "whole"), "--steps", "6", "--log", file("log")))
	whole := contents(t, dir, "log")
	mustTune(t, append(tuneArgs(dir, "part"), "--steps", "3", "--checkpoint", file("c")))
	steps := func(log []byte) (n []float64) {
		for line := range bytes.Lines(log) {
			var l map[string]any
			if err := json.Unmarshal(line, &l); err != nil {
				t.Fatal(err)
			}
			n = append(n, l["step"].(float64))
		}
		return n
	}
	for _, c := range []struct {
		name, log string
		first     float64
	}{
		{"steps after it", string(whole), 1},
		{"a line half written", string(whole[:len(whole)-9]), 1},
		{"half the first line", string(whole[:9]), 4},
		{"nothing", "", 4},
	} {
		if err := os.WriteFile(file("log"), []byte(c.log), 0o644); err != nil {
			t.Fatal(err)
		}
		mustTune(t, append(tuneArgs(dir, "part"), "--steps", "6", "--resume", file("c"), "--log", file("log")))
		var want []float64
		for k := c.first; k <= 6; k++ {
			want = append(want, k)
		}
		if got := steps(contents(t, dir, "log")); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: steps %v, want %v", c.name, got, want)
		}
	}
	for _, text := range []string{"notes\n", "notes", "{}\n"} {
		if err := os.WriteFile(file("log"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := command(append(tuneArgs(dir, "part"), "--steps", "6", "--resume", file("c"), "--log", file("log"))...)
		if code != 1 || !strings.Contains(stderr, "line 1 is none of a step's") || string(contents(t, dir, "log")) != text {
			t.Errorf("%q: exit %d: %s", text, code, stderr)
		}
	}
}

// cancels is a status writer that ends a context when it has been written to a number of times.
type cancels struct {
	left   int
	cancel func()
}

func (c *cancels) Write(b []byte) (int, error) {
	if c.left--; c.left == 0 {
		c.cancel()
	}
	return len(b), nil
}

// An interrupted run leaves a checkpoint to go on from, and no model.
func TestFinetuneInterrupted(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	mustTune(t, append(tuneArgs(dir, "whole"), "--epochs", "2"))
	c, err := parseConfig(nil, map[string]string{"model": convnet + "/model.onnx", "out": file("part.onnx"), "data.train": convnet + "/train_batches.npz", "data.batch_size": "50",
		"data.shuffle": "true", "loss.kind": "cross_entropy", "loss.output": "logits", "loss.target": "target", "optimizer.kind": "adam", "mode": "train", "epochs": "2", "checkpoint": file("c")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := tune(ctx, c, io.Discard, &cancels{10, cancel}); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted run gives %v", err)
	}
	if _, err := os.Stat(file("part.onnx")); err == nil {
		t.Error("an interrupted run wrote a model")
	}
	out := mustTune(t, append(tuneArgs(dir, "part"), "--epochs", "2", "--resume", file("c")))
	if strings.HasPrefix(out, "resumed after step 0\n") || !bytes.Equal(contents(t, dir, "whole.onnx"), contents(t, dir, "part.onnx")) {
		t.Errorf("the resumed run's model is another: %s", out)
	}
}

// Training stops when the validation loss no longer becomes better, and the best weights are written.
func TestFinetuneKeepsTheBest(t *testing.T) {
	dir := t.TempDir()
	arrays, err := npy.ReadNPZ(convnet + "/train_batches.npz")
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range tensor.Data[int64](arrays["target"]) { // what it learns makes these worse
		tensor.Data[int64](arrays["target"])[i] = (v + 1) % 10
	}
	valid := filepath.Join(dir, "valid.npz")
	if err := npy.WriteNPZ(valid, arrays); err != nil {
		t.Fatal(err)
	}
	args := append(tuneArgs(dir, "best"), "--data.valid", valid, "--epochs", "9", "--patience", "2")
	out := mustTune(t, args)
	if !strings.Contains(out, "stopped: no better validation loss for 2 epochs") || !strings.Contains(out, "which had the best validation loss, are written") {
		t.Errorf("it says %s", out)
	}
	mustTune(t, append(args, "--restore_best", "false", "--out", filepath.Join(dir, "last.onnx")))
	if bytes.Equal(contents(t, dir, "best.onnx"), contents(t, dir, "last.onnx")) {
		t.Error("the last weights are the best")
	}
}

func TestFinetuneStateDict(t *testing.T) {
	dir := t.TempDir()
	lstm := "../../models/lstm_classifier"
	dict := filepath.Join(dir, "tuned.safetensors")
	args := []string{"finetune", "--model", lstm + "/model.onnx", "--out", filepath.Join(dir, "tuned.onnx"), "--data.train", lstm + "/train_batches.npz", "--data.batch_axis", "{rows: 1}",
		"--loss.kind", "cross_entropy", "--loss.output", "logits", "--loss.target", "target", "--optimizer.kind", "sgd", "--steps", "1", "--out_state_dict", dict}
	if out := mustTune(t, args); !strings.Contains(out, "by the model's own names") {
		t.Errorf("it says %s", out)
	}
	if f, err := safetensors.Read(dict); err != nil || f.Tensors["onnx::LSTM_105"] == nil {
		t.Errorf("the model's own names: %v", err)
	}
	if out := mustTune(t, append(args, "--names", lstm+"/names.json")); !strings.Contains(out, "6 tensors by PyTorch's names") {
		t.Errorf("it says %s", out)
	}
	f, err := safetensors.Read(dict)
	if err != nil {
		t.Fatal(err)
	}
	if w := f.Tensors["lstm.weight_ih_l0"]; w == nil || len(f.Tensors) != 6 || w.DType() != tensor.Float32 || !reflect.DeepEqual(w.Shape(), []int{192, 14}) {
		t.Errorf("%d tensors, %v", len(f.Tensors), w)
	}
}

func TestFinetuneSchedules(t *testing.T) {
	full := "model: m\nout: o\ndata: {train: t, valid: v}\nloss: {kind: mse, output: a, target: b}\noptimizer: {kind: adam}\nschedule: "
	patience := 3
	for text, want := range map[string]finetune.Schedule{
		"{kind: multistep, milestones: [2, 5]}":             finetune.MultiStepLR{Milestones: []int{2, 5}},
		"{kind: cosine, eta_min: 0.1}":                      finetune.CosineAnnealingLR{TMax: 20, EtaMin: 0.1},
		"{kind: cosine, warmup: 5, warmup_start: 0.2}":      finetune.Warmup{Steps: 5, Start: 0.2, Then: finetune.CosineAnnealingLR{TMax: 15}},
		"{kind: one_cycle, max_lr: 0.5, div_factor: 10}":    finetune.OneCycleLR{Max: 0.5, Total: 20, Div: 10},
		"{kind: linear, start_factor: 0.5, total_iters: 4}": finetune.LinearLR{Start: 0.5, Total: 4},
		"{kind: exponential, gamma: 0.9}":                   finetune.ExponentialLR{Gamma: 0.9},
		"{kind: reduce_on_plateau, patience: 3}":            finetune.ReduceLROnPlateau{Patience: &patience},
		"{warmup: 5}":                                       finetune.Warmup{Steps: 5},
		"{}":                                                nil,
	} {
		c, err := parseConfig([]byte(full+text), nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := c.schedule(20); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s gives %+v (%v)", text, got, err)
		}
	}
	for _, text := range []string{"{kind: bogus}", "{kind: step, per: week}"} {
		c, err := parseConfig([]byte(full+text), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.schedule(20); err == nil {
			t.Errorf("%s is a schedule", text)
		}
	}
}

// Every key of the file has a flag.
func TestFinetuneFlags(t *testing.T) {
	var visit func(prefix string, ty reflect.Type)
	visit = func(prefix string, ty reflect.Type) {
		for i := range ty.NumField() {
			f := ty.Field(i)
			key := prefix + f.Tag.Get("yaml")
			if f.Type.Kind() == reflect.Struct {
				visit(key+".", f.Type)
			} else if configKeys[key] == "" {
				t.Errorf("key %s has no flag", key)
			}
		}
	}
	visit("", reflect.TypeFor[config]())
}
