package finetune

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"sort"

	"github.com/retune-go/retune/tensor"
)

// Dataset is arrays of examples: one for each graph input and target.
type Dataset struct {
	DropLast bool // leave out the examples at the end that fill no batch, which a model of a fixed batch size cannot take

	arrays map[string]*tensor.Tensor
	axis   map[string]int
	n      int
}

// NewDataset checks that all arrays hold as many examples. axis says where the examples lie, where it is
// not the first axis. An array without axes is the same for every batch.
func NewDataset(arrays map[string]*tensor.Tensor, axis map[string]int) (*Dataset, error) {
	d := &Dataset{arrays: arrays, axis: axis, n: -1}
	for name := range axis {
		if arrays[name] == nil {
			return nil, fmt.Errorf("data: batch_axis names %q, which the data has not", name)
		}
	}
	var names []string
	for name := range arrays {
		names = append(names, name)
	}
	sort.Strings(names)
	first := ""
	for _, name := range names {
		t := arrays[name]
		if t == nil {
			return nil, fmt.Errorf("data: array %q is nil", name)
		}
		if t.Rank() == 0 {
			continue
		}
		if a := axis[name]; a < 0 || a >= t.Rank() {
			return nil, fmt.Errorf("data: array %q of %v has no axis %d for the examples", name, t.Shape(), a)
		}
		if n := t.Shape()[axis[name]]; d.n < 0 {
			d.n = n
			first = name
		} else if n != d.n {
			return nil, fmt.Errorf("data: array %q holds %d examples, array %q %d", name, n, first, d.n)
		}
		if t.DType() == tensor.String {
			return nil, fmt.Errorf("data: array %q holds strings", name)
		}
	}
	if d.n <= 0 {
		return nil, fmt.Errorf("data: there are no examples")
	}
	return d, nil
}

// Has reports whether there is an array of that name.
func (d *Dataset) Has(name string) bool { return d.arrays[name] != nil }

// Len is the number of examples.
func (d *Dataset) Len() int { return d.n }

// NumBatches is how many batches of size examples there are: none of a size below 1.
func (d *Dataset) NumBatches(size int) int {
	if size < 1 {
		return 0
	}
	if d.DropLast {
		return d.n / size
	}
	return (d.n-1)/size + 1
}

// Batches gives the data once, size examples at a time, the last short batch included unless DropLast: in order,
// or shuffled by rng if it is not nil.
func (d *Dataset) Batches(size int, rng *rand.Rand) iter.Seq[Batch] {
	return d.BatchesFrom(0, size, rng)
}

// BatchesFrom is [Dataset.Batches] without the first ones, as a run that was interrupted goes on.
func (d *Dataset) BatchesFrom(first, size int, rng *rand.Rand) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		order := make([]int, d.n)
		for i := range order {
			order[i] = i
		}
		if rng != nil {
			rng.Shuffle(d.n, func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		for k := max(first, 0); k < d.NumBatches(size); k++ {
			at, b := k*size, Batch{}
			for name, t := range d.arrays {
				if t.Rank() == 0 {
					b[name] = t
					continue
				}
				b[name] = take(t, d.axis[name], order[at:min(at+size, d.n)])
			}
			if !yield(b) {
				return
			}
		}
	}
}

// take is the slices of t at rows along axis.
func take(t *tensor.Tensor, axis int, rows []int) *tensor.Tensor {
	shape := append([]int(nil), t.Shape()...)
	n := shape[axis]
	outer, inner := 1, t.DType().Size()
	for _, v := range shape[:axis] {
		outer *= v
	}
	for _, v := range shape[axis+1:] {
		inner *= v
	}
	shape[axis] = len(rows)
	buf := tensor.AlignedBytes(outer * len(rows) * inner)
	for o := range outer {
		for k, r := range rows {
			copy(buf[(o*len(rows)+k)*inner:][:inner], t.Bytes()[(o*n+r)*inner:])
		}
	}
	out, err := tensor.FromBytes(t.DType(), shape, buf, nil)
	if err != nil {
		panic(err) // the sizes were computed from a tensor that exists
	}
	return out
}
