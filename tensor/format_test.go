package tensor

import (
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	long := make([]int64, 1000)
	for i := range long {
		long[i] = int64(i)
	}
	for _, c := range []struct {
		in   *Tensor
		want string
	}{
		{New([]float32{1, 2.5, 3, 4, 5, -6}, 2, 3), "[[ 1.   2.5  3. ]\n [ 4.   5.  -6. ]]"},
		{New([]float64{0.1, 1.0 / 3}), "[0.1        0.33333333]"},
		{New([]float32{1e-5, 1}), "[1.e-05 1.e+00]"},
		{New([]float32{float32(nan), float32(inf), -float32(inf), 0}), "[ nan  inf -inf   0.]"},
		{Scalar[float32](3), "3."},
		{Scalar("x"), `"x"`},
		{New([]string{"a", "déjà"}, 1, 2), `[[   "a" "déjà"]]`},
		{New([]bool{true, false}), "[ true false]"},
		{New([]complex64{1 + 2i}), "[(1+2i)]"},
		{New([]int32{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2), "[[[1 2]\n  [3 4]]\n\n [[5 6]\n  [7 8]]]"},
		{New([]float32{}, 0, 3), "[] (shape [0,3])"},
		{New(long), "[  0   1   2 ... 997 998 999]"},
		{New(long, 10, 100), "[[  0   1   2 ...  97  98  99]\n [100 101 102 ... 197 198 199]\n [200 201 202 ... 297 298 299]\n ...\n [700 701 702 ... 797 798 799]\n [800 801 802 ... 897 898 899]\n [900 901 902 ... 997 998 999]]"},
	} {
		var b strings.Builder
		if err := Format(&b, c.in, 100); err != nil {
			t.Fatal(err)
		}
		if b.String() != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.in, b.String(), c.want)
		}
	}
}
