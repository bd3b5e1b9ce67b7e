package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const model = "../../models/char_lstm"

// command runs retune and gives its exit code and output.
func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	root := Retune()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	code = Execute(context.Background(), root)
	return code, out.String(), errs.String()
}

func TestVerifyCommand(t *testing.T) {
	code, out, _ := command("verify", "--rtol", "1e-4", "--atol", "1e-5", model)
	if code != 0 || out != "PASS char_lstm\n1 passed, 0 failed, 0 skipped\n" {
		t.Errorf("exit %d: %s", code, out)
	}
	code, out, _ = command("verify", "--rtol", "0", "--atol", "1e-12", model)
	if code != 1 || !strings.HasPrefix(out, "FAIL char_lstm: ") || !strings.HasSuffix(out, "0 passed, 1 failed, 0 skipped\n") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// Wrong usage is exit code 2, failed work 1, and both say why in one line on stderr.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "unknown flag", []string{"verify", "--bogus", model}},
		{2, "requires at least 1 arg", []string{"verify"}},
		{2, "unknown command", []string{"bogus"}},
		{1, "no such file", []string{"run", "none.onnx"}},
		{1, "is missing", []string{"run", model + "/model.onnx"}},
		{1, "not an ONNX model", []string{"inspect", "cli_test.go"}},
		{2, "NAME=FILE", []string{"run", model + "/model.onnx", "--input", "tokens"}},
	} {
		code, _, stderr := command(c.args...)
		if code != c.code || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit %d, want %d: %s", c.args, code, c.code, stderr)
		}
	}
}

func TestRunCommand(t *testing.T) {
	dir := t.TempDir()
	code, out, stderr := command("run", model+"/model.onnx", "--random", "--dim", "time=5", "--dim", "batch=2", "--output-dir", dir)
	if code != 0 || !strings.Contains(out, "[2 5 97]") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	for _, name := range []string{"logits", "hn", "cn"} {
		if _, err := os.Stat(filepath.Join(dir, name+".npy")); err != nil {
			t.Error(err)
		}
	}
}

func TestFinetuneConfig(t *testing.T) {
	full := "model: m\nout: o\ndata: {train: t}\nloss: {kind: mse, output: a, target: b}\noptimizer: {kind: adam}\n"
	c, err := parseConfig([]byte(full), map[string]string{"optimizer.lr": "0.5", "data.batch_axis": "{x: 1}", "trainable": "[a, b]"})
	if err != nil || c.Optimizer.LR != 0.5 || c.Data.BatchAxis["x"] != 1 || len(c.Trainable) != 2 || c.Epochs != 1 {
		t.Errorf("%v %+v", err, c)
	}
	for text, says := range map[string]string{
		full + "optimiser: {}\n":    "optimiser",
		"model: m\n":                "key out is missing",
		full + "mode: fast\n":       "none of",
		full + "steps: -1\n":        "steps must not be negative, got -1",
		full + "epochs: [1, 2]\n":   "epochs: a list cannot be read as int",
		full + "trainable: []\n":    "trainable is empty",
		full + "data: {bogus: 1}\n": "already defined",
	} {
		if _, err := parseConfig([]byte(text), nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q gives %v, want something of %q", text, err, says)
		}
	}
	for key, says := range map[string]string{ // with a value by flag
		"data.batch_size=x": "data.batch_size: `x` cannot be read as int", "optimizer.eta=1": "there is no key optimizer.eta", "data.batch_axis={x: [1]}": "data.batch_axis.x: a list",
		"optimizer.lr=0": "optimizer.lr must not be 0", "optimizer.lr=0.0": "must not be 0", "optimizer.betas=[1]": "two are wanted, got 1", "optimizer.momentum=0.9": "no key of the kind adam",
		"loss.weight=[1]": "loss.weight is no key of the kind mse", "schedule.gamma=0.5": "schedule.gamma is no key of the kind none", "threads=-1": "threads must not be negative",
		"schedule={kind: step, t_max: 3}": "schedule.t_max is no key of the kind step",
	} {
		key, value, _ := strings.Cut(key, "=")
		if _, err := parseConfig([]byte(full), map[string]string{key: value}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("--%s %s gives %v, want something of %q", key, value, err, says)
		}
	}
	if c, err := parseConfig([]byte(full), map[string]string{"optimizer.betas": "[0, 0.9]", "trainable": "*.weight", "schedule": "{kind: linear, start_factor: 1, end_factor: 0}"}); err != nil ||
		len(c.Trainable) != 1 || c.Schedule.EndFactor == nil || *c.Schedule.EndFactor != 0 {
		t.Errorf("%v %+v", err, c)
	}
	for key := range configKeys { // every key that a flag can set exists
		if _, err := parseConfig([]byte(full), map[string]string{key: "~"}); err != nil && strings.Contains(err.Error(), "there is no key") {
			t.Errorf("flag --%s sets no key: %v", key, err)
		}
	}
}

// FuzzConfig gives the training configurations that nobody vouches for.
func FuzzConfig(f *testing.F) {
	f.Add("model: m\nout: o\ndata: {train: t, batch_axis: {x: 1}}\nloss: {kind: nll, output: y, target: t}\noptimizer: {kind: sgd, lr: 1e-3}\nschedule: {kind: step, step_size: 3}\n")
	f.Add("model: &a [x, x]\nout: [*a, *a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig([]byte(text), nil)
		if err != nil {
			return
		}
		_, _ = c.Loss.loss()
		_, _ = c.optimizer()
		_, _ = c.schedule(100)
	})
}
