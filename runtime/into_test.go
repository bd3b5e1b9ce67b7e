package runtime_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
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

// Once shapes are known, a run into memory of the caller's allocates nothing.
func TestNoAllocations(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties what is kept from run to run
	files, err := filepath.Glob("../models/*/model.onnx")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			m, err := onnx.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := runtime.NewSession(m, runtime.Threads(1))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			in := map[string]tensor.Value{}
			for i, p := range m.Graph.Inputs {
				data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "test_data_set_0", fmt.Sprintf("input_%d.pb", i)))
				if err != nil {
					t.Fatal(err)
				}
				if in[p.Name], err = onnx.DecodeValue(data, p.Type); err != nil {
					t.Fatal(err)
				}
			}
			ctx := context.Background()
			out, err := s.Run(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(20, func() {
				if err := s.RunInto(ctx, in, out); err != nil {
					t.Fatal(err)
				}
			}); n > 0 {
				t.Errorf("%v allocations in a run", n)
			}
		})
	}
}
