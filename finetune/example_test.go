package finetune_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// Load a PyTorch export, run it, fine-tune its head and write it back.
func Example() {
	ctx := context.Background()
	m, err := onnx.Load("../models/char_lstm/model.onnx")
	if err != nil {
		log.Fatal(err)
	}
	s, err := runtime.NewSession(m)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	state := tensor.New(make([]float32, 128), 1, 1, 128)
	out, err := s.Run(ctx, map[string]tensor.Value{"tokens": tensor.New([]int64{1, 2, 3}, 1, 3), "h0": state, "c0": state})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out["logits"])

	t, err := finetune.New(m, finetune.Config{
		Loss:      finetune.CrossEntropy{Output: "logits", Target: "labels"},
		Optimizer: finetune.AdamW{LR: 1e-3},
		Trainable: []string{"head.*"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	data, err := npy.ReadNPZ("../models/char_lstm/train_batches.npz")
	if err != nil {
		log.Fatal(err)
	}
	zeros := tensor.New(make([]float32, 160*128), 1, 160, 128)
	batch := finetune.Batch{"tokens": data["tokens"], "labels": data["labels"], "h0": zeros, "c0": zeros}
	first, err := t.Step(ctx, batch)
	if err != nil {
		log.Fatal(err)
	}
	second, err := t.Step(ctx, batch)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(second.Loss < first.Loss)

	dir, err := os.MkdirTemp("", "retune")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fmt.Println(onnx.Save(filepath.Join(dir, "tuned.onnx"), t.Model()))
	// Output:
	// float[1,3,97]
	// true
	// <nil>
}
