package ops_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func TestImageDecoder(t *testing.T) {
	decode := func(file, format string) (*tensor.Tensor, error) {
		in := []*tensor.Tensor{tensor.New([]byte(file))}
		out, err := runNode(standardNode("ImageDecoder", 1, in, onnx.StringAttr("pixel_format", format)), in)
		if err != nil {
			return nil, err
		}
		return out["y0"].(*tensor.Tensor), nil
	}
	for _, c := range []struct{ file, format, want string }{
		{"P6 1 1 255\n\x0a\x14\xc8", "RGB", "[1 1 3] [10 20 200]"},
		{"P6 1 1 255\n\x0a\x14\xc8", "BGR", "[1 1 3] [200 20 10]"},
		{"P6 1 1 255\n\x0a\x14\xc8", "Grayscale", "[1 1 1] [38]"},
		{"P6 1 1 255\n\x0a\x14", "RGB", "[0 0 3] []"}, // what cannot be decoded is empty
	} {
		if y, err := decode(c.file, c.format); err != nil || fmt.Sprint(y.Shape(), tensor.Data[uint8](y)) != c.want {
			t.Errorf("%q as %s: %v, %v, not %s", c.file, c.format, y, err, c.want)
		}
	}
	if y, err := decode("P6 1 1 255\n\x0a\x14\xc8", "HSV"); err == nil {
		t.Error("a pixel format that there is not:", y)
	}
	if y, err := decode("\x00\x00\x00\x0cjP  \r\n\x87\n", "RGB"); err == nil {
		t.Error("JPEG 2000:", y)
	}
	var over *ops.ErrMemory
	if y, err := decode("P6 100000 100000 255\n", "RGB"); !errors.As(err, &over) {
		t.Error("an image of ten gigapixels:", y, err)
	}
}
