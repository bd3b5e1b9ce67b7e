package finetune

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, signalCases) }

func signalCases(add addCase) {
	type attrs = []*onnx.Attribute
	i := ops.IntAttr
	for _, length := range []int{1, 6, 7, 37} { // 37 is a large prime to the transform
		add("DFT", 20, "real", nil, signed(2, length, 1))
		add("DFT", 20, "complex, inverse", attrs{i("inverse", 1)}, signed(length, 2))
		add("DFT", 20, "one-sided", attrs{i("onesided", 1)}, signed(2, length, 1))
	}
	add("DFT", 20, "one-sided inverse, even", attrs{i("onesided", 1), i("inverse", 1)}, signed(2, 4, 2))
	add("DFT", 20, "one-sided inverse, odd", attrs{i("onesided", 1), i("inverse", 1)}, signed(2, 4, 2), oneInt(7))
	add("DFT", 20, "padded, along the first axis", nil, signed(3, 2, 2), oneInt(5), oneInt(0))
	add("DFT", 20, "cut", attrs{i("inverse", 1)}, signed(5, 2), oneInt(3))
	add("DFT", 17, "axis", attrs{i("axis", 0)}, signed(4, 2, 2))
	window := fixed(tensor.New([]float64{0.2, 0.9, 1, 0.4}))
	add("STFT", 17, "real, window", nil, signed(2, 9, 1), oneInt(2), window)
	add("STFT", 17, "complex, length", attrs{i("onesided", 0)}, signed(1, 8, 2), oneInt(3), nil, oneInt(4))
	add("STFT", 17, "both", nil, signed(1, 6), oneInt(1), window, oneInt(4))
	add("STFT", 17, "a window's own", nil, signed(1, 6, 1), oneInt(1), signed(4))
	add("STFT", 17, "a window's own, real", nil, signed(2, 9), oneInt(2), signed(3), oneInt(3))
	add("STFT", 17, "a window's own, complex", attrs{i("onesided", 0)}, signed(1, 7, 2), oneInt(3), signed(4))
}
