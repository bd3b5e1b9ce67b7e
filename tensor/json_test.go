package tensor

import (
	"strings"
	"testing"
)

func TestParseJSON(t *testing.T) {
	for _, c := range []struct {
		text string
		want *Tensor
	}{
		{`[[1, 2.5], [3e2, -4]]`, New([]float32{1, 2.5, 300, -4}, 2, 2)},
		{`7`, Scalar(int64(7))},
		{`[9007199254740993, -9223372036854775808]`, New([]int64{9007199254740993, -9223372036854775808})},
		{`[18446744073709551615]`, New([]uint64{18446744073709551615})},
		{`[1e2, 2.0]`, New([]int8{100, 2})},
		{`[true, false, 1, 0]`, New([]bool{true, false, true, false})},
		{`[true]`, New([]int32{1})},
		{`["NaN", "-INF", "inf"]`, New([]float64{nan, -inf, inf})},
		{`[["a"], ["b"]]`, New([]string{"a", "b"}, 2, 1)},
		{`[]`, New([]float32{}, 0)},
		{`[[], []]`, New([]float32{}, 2, 0)},
		{`[]`, New([]string{}, 0)},
		{`[0.1]`, New([]F16{F16From(0.1)})},
		{`[-8, 7]`, New([]I4{-8, 7})},
	} {
		got, err := ParseJSON([]byte(c.text), c.want.DType())
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if _, _, err := Compare(got, c.want, 0, 0); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	for _, c := range []struct {
		text string
		d    DType
	}{
		{``, Float32}, {`[1`, Float32}, {`[1] 2`, Float32}, {`[[1,2],[3]]`, Float32}, {`[1,[2]]`, Float32}, {`[[1],2]`, Float32},
		{`[[],[1]]`, Float32}, {`[[1],[]]`, Float32}, {`[[[]],[]]`, Float32}, {`[[],[[]]]`, Float32}, {`{"a":1}`, Float32}, {`[null]`, Float32},
		{`[300]`, Uint8}, {`[-1]`, Uint8}, {`[1.5]`, Int64}, {`["1"]`, Int64}, {`["x"]`, Float32}, {`[1]`, String},
		{`[9223372036854775808]`, Int64}, {`[-1]`, Uint64}, {`[99999999999999999999]`, Uint64}, {`[8]`, Int4},
		{`[1e39]`, Float32}, {`[1e999]`, Float64}, {`[70000]`, Float16}, {`[1000]`, Float8E4M3FN}, {`[0]`, Float8E8M0}, {`[1]`, Complex64}, {`[1]`, Undefined},
		{strings.Repeat("[", 100), Float32},
	} {
		if got, err := ParseJSON([]byte(c.text), c.d); err == nil {
			t.Errorf("%s as %s: no error but %s", c.text, c.d, got)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`[[1, 2.5], [3e2, -4]]`), int32(Float32))
	f.Add([]byte(`[["a"], [""]]`), int32(String))
	f.Add([]byte(`[[], []]`), int32(Int64))
	f.Fuzz(func(t *testing.T, data []byte, d int32) {
		got, err := ParseJSON(data, DType(d))
		if err == nil {
			if n, err := NumElements(got.Shape()); err != nil || n != got.Len() {
				t.Fatal(got, err)
			}
		}
	})
}
