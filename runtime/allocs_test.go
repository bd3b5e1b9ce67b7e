//go:build !race

package runtime_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Once shapes are known, a run into memory of the caller's allocates nothing: but for loops, which make values of each turn, for
// statistics of a batch, and for the sorting of packed sequences. (The race detector has pools forget at random.)
func TestNoAllocations(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties what is kept from run to run
	files, err := filepath.Glob("../models/*/model.onnx")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	allocating := []string{"feedback", "feedback_converge", "scripted_if_loop", "convnet", "gru_classifier"}
	for _, file := range files {
		if slices.Contains(allocating, filepath.Base(filepath.Dir(file))) {
			continue
		}
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
