package finetune

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Batches hold the same examples of every array, along its own axis, in order or in one that hangs on the seed alone; the last is shorter.
func TestBatches(t *testing.T) {
	columns := tensor.New([]float32{0, 1, 2, 3, 4, 10, 11, 12, 13, 14}, 2, 5)
	d, err := NewDataset(map[string]*tensor.Tensor{"x": columns, "y": tensor.New([]int64{0, 1, 2, 3, 4}), "same": tensor.Scalar(7.0)}, map[string]int{"x": 1})
	if err != nil {
		t.Fatal(err)
	}
	read := func(size int, seed uint64) (order []int64, sizes []int) {
		var rng *rand.Rand
		if seed > 0 {
			rng = rand.New(rand.NewPCG(seed, 0))
		}
		for b := range d.Batches(size, rng) {
			x, y := b["x"].(*tensor.Tensor), tensor.Data[int64](b["y"].(*tensor.Tensor))
			n := len(y)
			if !slices.Equal(x.Shape(), []int{2, n}) || b["same"].(*tensor.Tensor).Rank() != 0 {
				t.Errorf("a batch of %d has x of %v", n, x.Shape())
			}
			for i, v := range y {
				if got := tensor.Data[float32](x); got[i] != float32(v) || got[n+i] != float32(10+v) {
					t.Errorf("example %d is %v and %v in x", v, got[i], got[n+i])
				}
			}
			order, sizes = append(order, y...), append(sizes, n)
		}
		return order, sizes
	}
	inOrder := []int64{0, 1, 2, 3, 4}
	for _, c := range []struct {
		size  int
		sizes string
		drop  string
	}{{2, "[2 2 1]", "[2 2]"}, {5, "[5]", "[5]"}, {6, "[5]", "[]"}, {math.MaxInt, "[5]", "[]"}, {0, "[]", "[]"}, {-1, "[]", "[]"}} {
		for _, drop := range []bool{false, true} {
			d.DropLast = drop
			want := c.sizes
			if drop {
				want = c.drop
			}
			order, sizes := read(c.size, 0)
			if fmt.Sprint(sizes) != want || d.NumBatches(c.size) != len(sizes) || !slices.Equal(order, inOrder[:len(order)]) {
				t.Errorf("size %d, drop %v: batches of %v in order %v", c.size, drop, sizes, order)
			}
		}
	}
	d.DropLast = false
	a, _ := read(2, 1)
	b, _ := read(2, 1)
	other, _ := read(2, 2)
	if !slices.Equal(a, b) || slices.Equal(a, other) || !slices.Equal(slices.Sorted(slices.Values(a)), inOrder) {
		t.Errorf("orders %v and %v of one seed, %v of another", a, b, other)
	}
}

func TestDatasetsThatAreNone(t *testing.T) {
	two, three := tensor.New([]float32{1, 2}), tensor.New([]float32{1, 2, 3})
	for _, c := range []struct {
		arrays map[string]*tensor.Tensor
		axis   map[string]int
		says   string
	}{
		{nil, nil, "no examples"},
		{map[string]*tensor.Tensor{"x": tensor.Scalar(1.0)}, nil, "no examples"},
		{map[string]*tensor.Tensor{"x": tensor.New([]float32{}, 0, 3)}, nil, "no examples"},
		{map[string]*tensor.Tensor{"x": nil}, nil, `"x" is nil`},
		{map[string]*tensor.Tensor{"x": two, "y": three}, nil, `"y" holds 3 examples, array "x" 2`},
		{map[string]*tensor.Tensor{"x": two}, map[string]int{"x": 1}, "no axis 1"},
		{map[string]*tensor.Tensor{"x": two}, map[string]int{"x": -1}, "no axis -1"},
		{map[string]*tensor.Tensor{"x": two}, map[string]int{"z": 0}, `names "z"`},
		{map[string]*tensor.Tensor{"x": tensor.New([]string{"a"})}, nil, "strings"},
	} {
		if _, err := NewDataset(c.arrays, c.axis); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("the error is %v, not that %s", err, c.says)
		}
	}
}

// What is wrong with a batch is told by its own names, not by the parameters that the graph takes beside them.
func TestBatchesThatDoNotFit(t *testing.T) {
	b := onnx.NewBuilder("m", 17)
	b.Output("y", b.Op("Mul", b.Input("x", tensor.Float32, "n", 2), b.Init("w", tensor.New([]float32{1, 1}))), tensor.Float32, "n", 2)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(nil, Config{Loss: MSE{Output: "y", Target: "t"}, Optimizer: SGD{}}); err == nil {
		t.Error("no model can be trained")
	}
	tr, err := New(m, Config{Loss: MSE{Output: "y", Target: "t"}, Optimizer: SGD{LR: 0.1}})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	good := tensor.New([]float32{1, 2}, 1, 2)
	for _, c := range []struct {
		batch Batch
		says  string
	}{
		{nil, `the batch has no "x"`},
		{Batch{"x": good}, `the batch has no "t"`},
		{Batch{"x": good, "t": good, "z": good}, `the batch has "z"`},
		{Batch{"x": good, "t": good, "w": good}, `the batch has "w"`},
		{Batch{"x": (*tensor.Tensor)(nil), "t": good}, `input "x": the value is nil`},
		{Batch{"x": &tensor.Sequence{}, "t": good}, `input "x": a sequence`},
		{Batch{"x": tensor.New([]float64{1, 2}, 1, 2), "t": good}, `input "x": want element type float, got double[1,2]`},
		{Batch{"x": tensor.New([]float32{1}, 1, 1), "t": good}, `input "x": want shape [n 2], got [1 1]`},
		{Batch{"x": tensor.New([]float32{1, float32(math.Inf(1))}, 1, 2), "t": good}, `and "x" of the batch holds +Inf`},
	} {
		if _, err := tr.Step(context.Background(), c.batch); err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "step 1: ") {
			t.Errorf("the error is %v, not that %s", err, c.says)
		}
		if c.says[0] != 'a' {
			if err := tr.Check(c.batch, true); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("before it is run the error is %v, not that %s", err, c.says)
			}
		}
	}
	if s, err := tr.Step(context.Background(), Batch{"x": good, "t": good}); err != nil || s.Loss != 0 {
		t.Errorf("a batch that fits gives %v, %v", s, err)
	}
}
