package dense

import (
	"fmt"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/retune-go/retune/tensor"
)

func ExampleView() {
	a := tensor.New([]float64{1, 2, 3, 4}, 2, 2)
	m, err := View(a)
	if err != nil {
		panic(err)
	}
	var p mat.Dense
	p.Mul(m, m)
	fmt.Println(tensor.Data[float64](Tensor(&p)))
	// Output: [7 10 15 22]
}

func TestAliases(t *testing.T) {
	a := tensor.New([]float64{1, 2, 3, 4, 5, 6}, 2, 3)
	m, err := View(a)
	if err != nil {
		t.Fatal(err)
	}
	m.Set(1, 2, -6)
	b := Tensor(m)
	tensor.Data[float64](b)[0] = -1
	if got := tensor.Data[float64](a); got[5] != -6 || got[0] != -1 {
		t.Errorf("memory is not shared: %v", got)
	}
	part := Tensor(m.Slice(0, 2, 1, 3).(*mat.Dense))
	if _, _, err := tensor.Compare(part, tensor.New([]float64{2, 3, 5, -6}, 2, 2), 0, 0); err != nil {
		t.Error(err)
	}
	row := Tensor(m.Slice(1, 2, 1, 3).(*mat.Dense))
	if _, _, err := tensor.Compare(row, tensor.New([]float64{5, -6}, 1, 2), 0, 0); err != nil {
		t.Error(err)
	}
}

func TestCopies(t *testing.T) {
	a := tensor.New([]float32{1, 2}, 2)
	m, err := Copy(a)
	if err != nil {
		t.Fatal(err)
	}
	if r, c := m.Dims(); r != 2 || c != 1 || m.At(1, 0) != 2 {
		t.Errorf("%d by %d: %v", r, c, m)
	}
	back, err := TensorOf(m.T(), tensor.Float32)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tensor.Compare(back, tensor.New([]float32{1, 2}, 1, 2), 0, 0); err != nil {
		t.Error(err)
	}
	if got := Tensor(&mat.Dense{}); got.String() != "double[0,0]" {
		t.Error(got)
	}
}

func TestErrors(t *testing.T) {
	for _, a := range []*tensor.Tensor{
		tensor.New([]float32{1}, 1, 1), tensor.Scalar(1.0), tensor.New([]float64{1}, 1, 1, 1), tensor.New([]float64{}, 0, 2),
	} {
		if _, err := View(a); err == nil {
			t.Errorf("a view of %s", a)
		}
	}
	if _, err := Copy(tensor.New([]string{"a"})); err == nil {
		t.Error("a copy of strings")
	}
}
