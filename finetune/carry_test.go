package finetune

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Carried states are those that a caller would feed by hand, also after a checkpoint; resetting begins with zeros.
func TestCarry(t *testing.T) {
	ctx := context.Background()
	m, err := onnx.Load("../models/char_lstm/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	trainer := func(carry map[string]string) *Trainer {
		tr, err := New(m, Config{Loss: CrossEntropy{Output: "logits", Target: "target"}, Optimizer: Adam{LR: 1e-3}, Carry: carry, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.Close)
		return tr
	}
	carry := map[string]string{"h0": "hn", "c0": "cn"}
	ours, byHand := trainer(carry), trainer(nil)
	r := rand.New(rand.NewPCG(1, 2))
	tokens := func() *tensor.Tensor {
		v := make([]int64, 2*8)
		for i := range v {
			v[i] = r.Int64N(97)
		}
		return tensor.New(v, 2, 8)
	}
	zeros := func() (Batch, *tensor.Tensor) {
		h, _ := tensor.Zeros(tensor.Float32, 1, 2, 128)
		return Batch{"h0": h, "c0": h}, h
	}
	states, _ := zeros()
	file := filepath.Join(t.TempDir(), "checkpoint")
	for step := range 6 {
		switch step {
		case 2: // a new trainer goes on
			if err := ours.Save(file, ""); err != nil {
				t.Fatal(err)
			}
			ours = trainer(carry)
			if _, err := ours.Restore(file); err != nil {
				t.Fatal(err)
			}
		case 4:
			ours.ResetStates()
			states, _ = zeros()
		}
		b := Batch{"tokens": tokens(), "target": tokens()}
		fed := Batch{"tokens": b["tokens"], "target": b["target"], "h0": states["h0"], "c0": states["c0"]}
		s, err := runtime.NewSession(byHand.Model(), runtime.Threads(1))
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Run(ctx, Batch{"tokens": b["tokens"], "h0": states["h0"], "c0": states["c0"]})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		states = Batch{"h0": out["hn"], "c0": out["cn"]}
		got, err := ours.Step(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		want, err := byHand.Step(ctx, fed)
		if err != nil {
			t.Fatal(err)
		}
		if d := got.Loss - want.Loss; d > 1e-6 || d < -1e-6 {
			t.Errorf("step %d: loss %v, by hand %v", step+1, got.Loss, want.Loss)
		}
	}
	for _, c := range []struct {
		carry map[string]string
		says  string
	}{{map[string]string{"h1": "hn"}, `no input "h1"`}, {map[string]string{"h0": "hx"}, `no output "hx"`}} {
		if _, err := New(m, Config{Loss: MSE{Output: "logits", Target: "target"}, Optimizer: SGD{LR: 1}, Carry: c.carry}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want one about %s", c.carry, err, c.says)
		}
	}
}
