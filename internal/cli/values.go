package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// typeName is what is known of a value's type and shape.
func typeName(i ops.Info) string {
	switch i.Kind {
	case onnx.SequenceType:
		if i.Elem != nil && i.Elem.Kind >= 0 {
			return "sequence of " + typeName(*i.Elem)
		}
		return "sequence"
	case onnx.OptionalType:
		return "optional"
	case onnx.MapType:
		return "map"
	}
	if !i.Ranked {
		return i.DType.String() + " of unknown rank"
	}
	return fmt.Sprintf("%s%v", i.DType, i.Shape)
}

// shown is how many elements of a value are printed.
const shown = 8

// element is element i of t as it is printed.
func element(t *tensor.Tensor, i int) string {
	if t.DType() == tensor.String {
		return strconv.Quote(tensor.Data[string](t)[i])
	}
	return strconv.FormatFloat(tensor.Float64At(t, i), 'g', 6, 64)
}

// elements is the first elements of t.
func elements(t *tensor.Tensor) []string {
	out := make([]string, 0, shown+1)
	for i := range min(t.Len(), shown) {
		out = append(out, element(t, i))
	}
	if t.Len() > shown {
		out = append(out, "…")
	}
	return out
}

// describe is v on one line: of a tensor the type, the shape and the first elements, of a sequence its length and the first
// values, of a map its entries.
func describe(v tensor.Value) string {
	switch v := v.(type) {
	case *tensor.Tensor:
		return v.String() + " " + strings.Join(elements(v), " ")
	case *tensor.Sequence:
		parts := make([]string, 0, shown+1)
		for _, e := range v.Values[:min(len(v.Values), shown)] {
			parts = append(parts, describe(e))
		}
		if len(v.Values) > shown {
			parts = append(parts, "…")
		}
		return "sequence of " + strconv.Itoa(len(v.Values)) + ": [" + strings.Join(parts, ", ") + "]"
	case *tensor.Optional:
		if v.Value == nil {
			return "empty optional"
		}
		return "optional of " + describe(v.Value)
	case *tensor.Map:
		values, ok := v.Values.(*tensor.Tensor)
		if !ok || v.Keys == nil || values.Len() != v.Keys.Len() {
			return "map"
		}
		parts := make([]string, 0, shown+1)
		for i := range min(values.Len(), shown) {
			parts = append(parts, element(v.Keys, i)+": "+element(values, i))
		}
		if values.Len() > shown {
			parts = append(parts, "…")
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return "nothing"
}

// asJSONValue is v as it is printed in JSON, abbreviated like [describe].
func asJSONValue(v tensor.Value) any {
	switch v := v.(type) {
	case *tensor.Tensor:
		return map[string]any{"type": v.DType().String(), "shape": v.Shape(), "values": elements(v)}
	case *tensor.Sequence:
		vs := []any{}
		for _, e := range v.Values[:min(len(v.Values), shown)] {
			vs = append(vs, asJSONValue(e))
		}
		return map[string]any{"type": "sequence", "length": len(v.Values), "values": vs}
	case *tensor.Optional:
		out := map[string]any{"type": "optional"}
		if v.Value != nil {
			out["value"] = asJSONValue(v.Value)
		}
		return out
	case *tensor.Map:
		return map[string]any{"type": "map", "keys": asJSONValue(v.Keys), "values": asJSONValue(v.Values)}
	}
	return nil
}

// inType is an array of NumPy's in the element type that is wanted, where NumPy does not have that (bfloat16 and floats of fewer bits come as float32) or holds
// the same integers in fewer bits. Any other array stays, and is refused where it does not fit.
func inType(t *tensor.Tensor, want tensor.DType) (*tensor.Tensor, error) {
	have := t.DType()
	narrow := have == tensor.Float32 && want.IsFloat() && want != tensor.Float16 && want.Bits() <= 16
	if narrow || want == tensor.Int64 && have.IsInteger() && have.Bits() < 64 {
		return tensor.Convert(t, want, true)
	}
	return t, nil
}
