package finetune

import (
	"fmt"

	"github.com/retune-go/retune/tensor"
)

// Memory is the bytes that a step of training takes, beside its batches and what kernels need while they run.
type Memory struct {
	Activations int64 // and all that is between inputs and outputs: the arena of [runtime.Session.Planned]
	Weights     int64 // that are trained, and running statistics
	Gradients   int64
	Optimizer   int64 // its state
}

// Total is the sum.
func (m Memory) Total() int64 { return m.Activations + m.Weights + m.Gradients + m.Optimizer }

// Memory plans a step on batches.
func (t *Trainer) Memory(batches ...Batch) (m Memory, err error) {
	for i, b := range batches {
		in, err := t.inputs(t.train, b)
		if err != nil {
			return m, fmt.Errorf("memory: %w", err)
		}
		arena, err := t.train.session.Planned(in)
		if err != nil {
			return m, fmt.Errorf("memory: %w", err)
		}
		m.Activations = max(m.Activations, arena)
		if i > 1 {
			continue
		}
		for _, p := range t.params { // of the first batch, and of the next to be added
			m.Gradients += int64(len(p.Value.Bytes()))
		}
	}
	add := func(sum *int64, ts ...*tensor.Tensor) {
		for _, v := range ts {
			if v != nil {
				*sum += int64(len(v.Bytes()))
			}
		}
	}
	for _, p := range t.params {
		add(&m.Weights, p.Value)
		if p.wide != nil {
			add(&m.Weights, p.master)
			add(&m.Gradients, p.wide)
			if len(batches) > 1 {
				add(&m.Gradients, p.wide) // their sum
			}
		}
		add(&m.Optimizer, p.slots...)
	}
	for _, v := range t.buffers {
		add(&m.Weights, v)
	}
	return m, nil
}
