// Package dense shows tensors as matrices of gonum and the other way round, without copying where both
// have the elements as float64s in rows. It stands apart from package tensor so that programs
// that need no gonum do not carry it.
package dense

import (
	"fmt"

	"gonum.org/v1/gonum/mat"

	"github.com/retune-go/retune/tensor"
)

// View is t as a matrix over the same memory: a rank-2 double tensor as it is, a rank-1 one as a column. It fails
// for other types and ranks ([Copy] converts types), and for a matrix without elements, which gonum has not.
func View(t *tensor.Tensor) (*mat.Dense, error) {
	if t.DType() != tensor.Float64 {
		return nil, fmt.Errorf("dense: a matrix has double elements, not those of %s", t)
	}
	return matrix(t, tensor.Data[float64](t))
}

// Copy is t as a matrix of its own memory, its elements converted to float64.
func Copy(t *tensor.Tensor) (*mat.Dense, error) {
	data := tensor.Float64s(t)
	if data == nil && t.Len() > 0 {
		return nil, fmt.Errorf("dense: %s has no real numbers", t)
	}
	return matrix(t, data)
}

func matrix(t *tensor.Tensor, data []float64) (*mat.Dense, error) {
	rows, cols := 0, 1
	switch s := t.Shape(); len(s) {
	case 1:
		rows = s[0]
	case 2:
		rows, cols = s[0], s[1]
	default:
		return nil, fmt.Errorf("dense: %s has not the rank of a matrix", t)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("dense: %s has no elements", t)
	}
	return mat.NewDense(rows, cols, data), nil
}

// Tensor is m as a double tensor, over the same memory if m's rows follow each other in it (m is no
// slice of a wider matrix), otherwise over a copy.
func Tensor(m *mat.Dense) *tensor.Tensor {
	raw := m.RawMatrix()
	if raw.Rows*raw.Cols == 0 {
		return tensor.New([]float64{}, raw.Rows, raw.Cols)
	}
	if raw.Stride == raw.Cols || raw.Rows == 1 {
		return tensor.New(raw.Data[:raw.Rows*raw.Cols], raw.Rows, raw.Cols)
	}
	data := make([]float64, 0, raw.Rows*raw.Cols)
	for i := range raw.Rows {
		data = append(data, raw.Data[i*raw.Stride:i*raw.Stride+raw.Cols]...)
	}
	return tensor.New(data, raw.Rows, raw.Cols)
}

// TensorOf is a copy of any matrix of gonum as a tensor of type d.
func TensorOf(m mat.Matrix, d tensor.DType) (*tensor.Tensor, error) {
	return tensor.Convert(Tensor(mat.DenseCopyOf(m)), d, true)
}
