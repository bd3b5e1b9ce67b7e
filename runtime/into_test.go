package runtime_test

import (
	"context"
	"strings"
	"testing"

	"github.com/retune-go/retune/tensor"
)

func TestRunInto(t *testing.T) {
	s, ctx := lstm(t), context.Background()
	in := batch(2, 5)
	want, err := s.Run(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	into := func(shape ...int) *tensor.Tensor {
		z, err := tensor.Zeros(tensor.Float32, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	logits := into(want["logits"].(*tensor.Tensor).Shape()...)
	// The state that goes in is overwritten by the state that comes out; one output is made, one is not asked for.
	h := into(1, 2, 128)
	in["h0"] = h
	out := map[string]tensor.Value{"logits": logits, "hn": h, "cn": nil}
	if err := s.RunInto(ctx, in, out); err != nil {
		t.Fatal(err)
	}
	if out["logits"] != tensor.Value(logits) || out["hn"] != tensor.Value(h) {
		t.Error("a given tensor was replaced")
	}
	for name, v := range out {
		if _, _, err := tensor.Compare(v, want[name], 0, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for says, out := range map[string]map[string]tensor.Value{
		`no output "bogus"`:                {"bogus": nil},
		"cannot be written into":           {"logits": into(2, 2)},
		"into the memory of another":       {"hn": h, "cn": h},
		"only a tensor can be written":     {"hn": &tensor.Sequence{}},
		`run: output "hn": computed float`: {"hn": tensor.New(make([]float64, 256), 1, 2, 128)},
	} {
		if err := s.RunInto(ctx, batch(2, 5), out); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want an error with %q, got %v", says, err)
		}
	}
}
