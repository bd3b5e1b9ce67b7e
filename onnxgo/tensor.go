package onnxgo

import (
	"fmt"
	"slices"

	gorgonia "gorgonia.org/tensor"

	"github.com/retune-go/retune/tensor"
)

var dtypes = map[gorgonia.Dtype]tensor.DType{
	gorgonia.Bool: tensor.Bool, gorgonia.Float32: tensor.Float32, gorgonia.Float64: tensor.Float64,
	gorgonia.Int8: tensor.Int8, gorgonia.Int16: tensor.Int16, gorgonia.Int32: tensor.Int32, gorgonia.Int64: tensor.Int64,
	gorgonia.Byte: tensor.Uint8, gorgonia.Uint16: tensor.Uint16, gorgonia.Uint32: tensor.Uint32, gorgonia.Uint64: tensor.Uint64,
	gorgonia.Complex64: tensor.Complex64, gorgonia.Complex128: tensor.Complex128, gorgonia.String: tensor.String,
	gorgonia.Int: tensor.Int64,
}

func dtypeOf(t gorgonia.Tensor) (tensor.DType, error) {
	if d, ok := dtypes[t.Dtype()]; ok {
		return d, nil
	}
	return tensor.Undefined, fmt.Errorf("ONNX has no element type for %v", t.Dtype())
}

// fromGorgonia is a copy of t, or its own memory where it lies as ONNX has it: row by row.
func fromGorgonia(t gorgonia.Tensor) (*tensor.Tensor, error) {
	d, ok := t.(*gorgonia.Dense)
	if !ok {
		return nil, fmt.Errorf("a %T is not dense", t)
	}
	if d.RequiresIterator() || d.DataOrder().IsColMajor() {
		fresh := gorgonia.New(gorgonia.Of(d.Dtype()), gorgonia.WithShape(d.Shape()...))
		if err := gorgonia.Copy(fresh, d); err != nil {
			return nil, err
		}
		d = fresh
	}
	switch v := d.Data().(type) {
	case bool:
		return tensor.Scalar(v), nil
	case float32:
		return tensor.Scalar(v), nil
	case float64:
		return tensor.Scalar(v), nil
	case int8:
		return tensor.Scalar(v), nil
	case int16:
		return tensor.Scalar(v), nil
	case int32:
		return tensor.Scalar(v), nil
	case int64:
		return tensor.Scalar(v), nil
	case int:
		return tensor.Scalar(int64(v)), nil
	case uint8:
		return tensor.Scalar(v), nil
	case uint16:
		return tensor.Scalar(v), nil
	case uint32:
		return tensor.Scalar(v), nil
	case uint64:
		return tensor.Scalar(v), nil
	case complex64:
		return tensor.Scalar(v), nil
	case complex128:
		return tensor.Scalar(v), nil
	case string:
		return tensor.Scalar(v), nil
	case []bool:
		return fromSlice(v, d)
	case []float32:
		return fromSlice(v, d)
	case []float64:
		return fromSlice(v, d)
	case []int8:
		return fromSlice(v, d)
	case []int16:
		return fromSlice(v, d)
	case []int32:
		return fromSlice(v, d)
	case []int64:
		return fromSlice(v, d)
	case []int:
		wide := make([]int64, len(v))
		for i, x := range v {
			wide[i] = int64(x)
		}
		return fromSlice(wide, d)
	case []uint8:
		return fromSlice(v, d)
	case []uint16:
		return fromSlice(v, d)
	case []uint32:
		return fromSlice(v, d)
	case []uint64:
		return fromSlice(v, d)
	case []complex64:
		return fromSlice(v, d)
	case []complex128:
		return fromSlice(v, d)
	case []string:
		return fromSlice(v, d)
	}
	return nil, fmt.Errorf("ONNX has no element type for %v", d.Dtype())
}

func fromSlice[T tensor.Element](v []T, d *gorgonia.Dense) (*tensor.Tensor, error) {
	return tensor.FromSlice(v, slices.Clone([]int(d.Shape())))
}

// toGorgonia shares t's memory.
func toGorgonia(t *tensor.Tensor) (gorgonia.Tensor, error) {
	switch t.DType() {
	case tensor.Bool:
		return dense[bool](t)
	case tensor.Float32:
		return dense[float32](t)
	case tensor.Float64:
		return dense[float64](t)
	case tensor.Int8:
		return dense[int8](t)
	case tensor.Int16:
		return dense[int16](t)
	case tensor.Int32:
		return dense[int32](t)
	case tensor.Int64:
		return dense[int64](t)
	case tensor.Uint8:
		return dense[uint8](t)
	case tensor.Uint16:
		return dense[uint16](t)
	case tensor.Uint32:
		return dense[uint32](t)
	case tensor.Uint64:
		return dense[uint64](t)
	case tensor.Complex64:
		return dense[complex64](t)
	case tensor.Complex128:
		return dense[complex128](t)
	case tensor.String:
		return dense[string](t)
	}
	return nil, fmt.Errorf("onnx-go has no element type for %s", t.DType())
}

func dense[T tensor.Element](t *tensor.Tensor) (gorgonia.Tensor, error) {
	v := tensor.Data[T](t)
	switch {
	case len(v) == 0:
		return nil, fmt.Errorf("%s has no elements, which onnx-go has no tensor for", t)
	case t.Rank() == 0:
		return gorgonia.New(gorgonia.FromScalar(v[0])), nil
	}
	return gorgonia.New(gorgonia.WithShape(t.Shape()...), gorgonia.WithBacking(v)), nil
}
