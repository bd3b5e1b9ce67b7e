package finetune

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// gradInput is one input of a [gradCase].
type gradInput struct {
	make  func(r *rand.Rand) *tensor.Tensor
	fixed bool // a constant of the model, not differentiated
}

// gradCase is a node whose gradient is held against central differences.
type gradCase struct {
	domain  string
	op      string // of a graph: the operators that it is about, with spaces between
	opset   int64
	name    string
	attrs   []*onnx.Attribute
	in      []*gradInput // nil: left out
	outs    int
	weighed int                                                   // how many outputs the loss hangs on; 0: all of a floating-point type
	refused string                                                // instead of a gradient, an error with this text
	graph   func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value // more than the node alone; gives the outputs
	step    float64
	tol     float64
}

// uniform is distinct float64 numbers between lo and hi, far enough apart for no step to reorder them.
func uniform(lo, hi float64, shape ...int) *gradInput {
	return &gradInput{make: func(r *rand.Rand) *tensor.Tensor {
		t, err := tensor.Zeros(tensor.Float64, shape...)
		if err != nil {
			panic(err)
		}
		d := tensor.Data[float64](t)
		for i, p := range r.Perm(len(d)) {
			d[i] = lo + (hi-lo)*(float64(p)+0.2+0.6*r.Float64())/float64(len(d))
		}
		return t
	}}
}

// signed is distinct numbers of either sign, away from 0.
func signed(shape ...int) *gradInput {
	in := uniform(0.2, 1.6, shape...)
	magnitude := in.make
	in.make = func(r *rand.Rand) *tensor.Tensor {
		t := magnitude(r)
		for i, v := range tensor.Data[float64](t) {
			if r.IntN(2) == 0 {
				tensor.Data[float64](t)[i] = -v
			}
		}
		return t
	}
	return in
}

func moving(t *tensor.Tensor) *gradInput {
	return &gradInput{make: func(*rand.Rand) *tensor.Tensor { return t.Clone() }}
}

func fixed(t *tensor.Tensor) *gradInput {
	return &gradInput{make: func(*rand.Rand) *tensor.Tensor { return t.Clone() }, fixed: true}
}

func ints(v ...int64) *gradInput { return fixed(tensor.New(v, len(v))) }

func intsOf(shape []int, v ...int64) *gradInput { return fixed(tensor.New(v, shape...)) }

func oneInt(v int64) *gradInput { return fixed(tensor.Scalar(v)) }

func stringsAttr(name string, vs ...string) *onnx.Attribute {
	a := &onnx.Attribute{Name: name, Type: onnx.AttrStrings}
	for _, v := range vs {
		a.Strings = append(a.Strings, []byte(v))
	}
	return a
}

func floatsAttr(name string, vs ...float32) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: onnx.AttrFloats, Floats: vs}
}

// addCase makes a case of an operator with one output, with the usual step and tolerance, which the caller may change.
type addCase = func(op string, opset int64, name string, as []*onnx.Attribute, in ...*gradInput) *gradCase

// gradFamilies lists what adds cases; each file of cases puts its own function here in an init.
var gradFamilies = []func(addCase){generalCases}

// gradCases is at least one case for each operator that has a gradient here.
func gradCases() []*gradCase {
	var cases []*gradCase
	for _, family := range gradFamilies {
		family(func(op string, opset int64, name string, as []*onnx.Attribute, in ...*gradInput) *gradCase {
			c := &gradCase{op: op, opset: opset, name: name, attrs: as, in: in, outs: 1, step: 1e-6, tol: 1e-5}
			cases = append(cases, c)
			return c
		})
	}
	return append(cases, recurrentCases()...)
}

func generalCases(add addCase) {
	type attrs = []*onnx.Attribute
	type inputs = []*gradInput
	i, is, f, s := ops.IntAttr, ops.IntsAttr, ops.FloatAttr, ops.StringAttr

	// Elementwise, one input.
	for _, op := range []string{"Abs", "Asinh", "Atan", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
		"LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"} {
		in := func(shape ...int) *gradInput { return signed(shape...) }
		if op == "Tan" {
			in = func(shape ...int) *gradInput { return uniform(-1.2, 1.2, shape...) }
		}
		add(op, 22, "matrix", nil, in(3, 5))
		add(op, 22, "scalar", nil, in())
		add(op, 22, "empty", nil, in(2, 0))
	}
	for _, op := range []string{"Acos", "Asin", "Atanh"} {
		add(op, 22, "matrix", nil, uniform(-0.9, 0.9, 3, 5))
	}
	add("Acosh", 22, "matrix", nil, uniform(1.2, 4, 3, 5))
	add("Log", 21, "matrix", nil, uniform(0.2, 3, 3, 5))
	add("Sqrt", 21, "matrix", nil, uniform(0.2, 3, 3, 5))
	add("Swish", 24, "default", nil, signed(3, 5))
	add("Swish", 24, "alpha", attrs{f("alpha", 1.7)}, signed(3, 5))
	for _, op := range []string{"Celu", "Elu", "LeakyRelu", "ThresholdedRelu"} {
		add(op, 21, "alpha", attrs{f("alpha", 0.4)}, signed(3, 7))
	}
	add("Elu", 21, "negative alpha", attrs{f("alpha", -0.4)}, signed(3, 7))
	add("Selu", 21, "attributes", attrs{f("alpha", 1.3), f("gamma", 0.7)}, signed(3, 7))
	add("HardSigmoid", 21, "attributes", attrs{f("alpha", 0.7), f("beta", 0.3)}, signed(3, 7))
	add("Gelu", 21, "tanh", attrs{s("approximate", "tanh")}, signed(3, 7))
	add("HardSwish", 21, "saturated", nil, uniform(-5, 5, 4, 5))
	add("Clip", 6, "attributes", attrs{f("min", -0.7), f("max", 0.8)}, signed(3, 7))
	add("Clip", 6, "no bounds", nil, signed(3, 7))
	lo, hi := tensor.Scalar(-0.71), tensor.Scalar(0.83)
	add("Clip", 21, "both", nil, signed(3, 7), fixed(lo), fixed(hi))
	add("Clip", 21, "max", nil, signed(3, 7), nil, fixed(hi))
	add("Clip", 21, "moving bounds", nil, signed(3, 7), moving(lo), moving(hi))
	seed := i("seed", 5)
	on, off := fixed(tensor.Scalar(true)), fixed(tensor.Scalar(false))
	add("Dropout", 10, "inference", nil, signed(3, 5))
	add("Dropout", 6, "inference", attrs{i("is_test", 1)}, signed(3, 5))
	add("Dropout", 1, "inference", attrs{i("is_test", 1)}, signed(3, 5))
	add("Dropout", 21, "inference", nil, signed(3, 5), fixed(tensor.Scalar(0.3)), off)
	add("Dropout", 21, "training", attrs{seed}, signed(3, 5), fixed(tensor.Scalar(0.3)), on).outs = 2
	add("Dropout", 21, "training, no mask", attrs{seed}, signed(3, 5), fixed(tensor.Scalar(0.3)), on)
	add("Dropout", 21, "training, default ratio", attrs{seed}, signed(3, 5), nil, on)
	add("Cast", 21, "double", attrs{i("to", int64(tensor.Float64))}, signed(3, 5))
	narrow := add("Cast", 21, "float", attrs{i("to", int64(tensor.Float32))}, signed(3, 5))
	narrow.step, narrow.tol = 0.5, 1e-5
	add("CastLike", 21, "double", nil, signed(3, 5), fixed(tensor.Scalar(1.0)))
	narrow = add("CastLike", 21, "float", nil, signed(3, 5), fixed(tensor.Scalar(float32(1))))
	narrow.step, narrow.tol = 0.5, 1e-5

	// Elementwise, more inputs.
	shapes := []struct {
		name string
		a, b []int
	}{
		{"same", []int{3, 4}, []int{3, 4}},
		{"row", []int{3, 4}, []int{4}},
		{"column", []int{3, 4}, []int{3, 1}},
		{"left is smaller", []int{1, 4}, []int{2, 3, 4}},
		{"both grow", []int{3, 1, 4}, []int{2, 1}},
		{"size 1", []int{1, 1}, []int{1}},
		{"scalar", []int{}, []int{2, 3}},
		{"scalars", []int{}, []int{}},
	}
	for _, sh := range shapes {
		for _, op := range []string{"Add", "Sub", "Mul", "Div"} {
			add(op, 21, sh.name, nil, signed(sh.a...), signed(sh.b...))
		}
		// Over disjoint grids Max and Min have no ties.
		for _, op := range []string{"Max", "Min", "Mean", "Sum"} {
			add(op, 21, sh.name, nil, signed(sh.a...), signed(sh.b...))
		}
		add("Pow", 21, sh.name, nil, uniform(0.3, 2, sh.a...), signed(sh.b...))
		add("Mod", 21, sh.name, attrs{i("fmod", 1)}, signed(sh.a...), uniform(0.37, 0.43, sh.b...))
		add("Where", 21, sh.name, nil, fixed(tensor.New([]bool{true, false, true}, 3, 1, 1, 1)), signed(sh.a...), signed(sh.b...))
	}
	for _, op := range []string{"Max", "Min", "Mean", "Sum"} {
		add(op, 21, "one input", nil, signed(2, 3))
		add(op, 21, "three inputs", nil, signed(2, 3), signed(3), signed(2, 1))
	}
	for _, op := range []string{"Add", "Sub", "Mul", "Div"} {
		add(op, 6, "axis", attrs{i("broadcast", 1), i("axis", 1)}, signed(2, 3, 4), signed(3))
		add(op, 6, "suffix", attrs{i("broadcast", 1)}, signed(2, 3, 4), signed(3, 4))
		shared := add(op, 21, "one value twice", nil, signed(2, 3), nil)
		shared.in[1] = shared.in[0]
	}
	add("Pow", 6, "axis", attrs{i("broadcast", 1), i("axis", 0)}, uniform(0.3, 2, 2, 3), signed(2))
	add("Pow", 21, "square of either sign", nil, signed(3, 4), fixed(tensor.Scalar(2.0)))
	add("Pow", 21, "integer exponent", nil, signed(3, 4), fixed(tensor.Scalar(int64(3))))
	add("Where", 21, "wide condition", nil, fixed(tensor.New([]bool{true, false, false, true}, 2, 2)), signed(1, 2), signed())
	add("PRelu", 21, "same", nil, signed(2, 3, 4), signed(2, 3, 4))
	add("PRelu", 21, "channel", nil, signed(2, 3, 4), signed(3, 1))
	add("PRelu", 21, "size 1", nil, signed(2, 3, 4), signed(1))
	add("PRelu", 6, "channel", nil, signed(2, 3, 4), signed(3))

	// Products.
	for _, sh := range [][2][]int{{{2, 3}, {3, 4}}, {{3}, {3}}, {{3}, {3, 4}}, {{2, 3}, {3}}, {{5, 2, 3}, {3, 4}}, {{2, 3}, {5, 3, 4}}, {{3}, {5, 3, 4}},
		{{5, 2, 3}, {3}}, {{2, 1, 2, 3}, {5, 3, 4}}, {{1, 2, 3}, {5, 3, 1}}, {{5, 1, 1}, {1, 1, 1}}, {{2, 0}, {0, 3}}} {
		add("MatMul", 21, fmt.Sprint(sh[0], sh[1]), nil, signed(sh[0]...), signed(sh[1]...))
	}
	for _, ta := range []int64{0, 1} {
		for _, tb := range []int64{0, 1} {
			a, b := []int{2, 3}, []int{3, 4}
			if ta == 1 {
				a = []int{3, 2}
			}
			if tb == 1 {
				b = []int{4, 3}
			}
			as := attrs{i("transA", ta), i("transB", tb), f("alpha", 0.7), f("beta", 1.3)}
			for _, c := range [][]int{{2, 4}, {4}, {2, 1}, {1, 4}, {1}, {}} {
				add("Gemm", 21, fmt.Sprint("trans", ta, tb, " C", c), as, signed(a...), signed(b...), signed(c...))
			}
			add("Gemm", 21, fmt.Sprint("trans", ta, tb, " no C"), as, signed(a...), signed(b...))
		}
	}
	add("Gemm", 6, "broadcast", attrs{i("broadcast", 1)}, signed(2, 3), signed(3, 4), signed(4))

	// Convolution and pooling.
	conv := func(name string, as attrs, x, w []int, bias int) {
		in := inputs{signed(x...), signed(w...)}
		if bias > 0 {
			in = append(in, signed(bias))
		}
		add("Conv", 21, name, as, in...)
	}
	conv("1d", nil, []int{2, 2, 6}, []int{3, 2, 3}, 3)
	conv("2d", nil, []int{2, 2, 5, 4}, []int{3, 2, 3, 2}, 3)
	conv("3d", nil, []int{1, 2, 3, 4, 3}, []int{2, 2, 2, 2, 2}, 0)
	conv("1x1", nil, []int{2, 3, 3, 3}, []int{2, 3, 1, 1}, 2)
	conv("stride, pads, dilation", attrs{is("strides", 2, 1), is("pads", 1, 0, 2, 1), is("dilations", 1, 2)}, []int{1, 2, 5, 6}, []int{2, 2, 3, 2}, 2)
	conv("stride leaves a rest", attrs{is("strides", 3, 3)}, []int{1, 1, 6, 7}, []int{1, 1, 2, 2}, 0)
	conv("groups", attrs{i("group", 2)}, []int{2, 4, 4, 4}, []int{6, 2, 3, 3}, 6)
	conv("depthwise", attrs{i("group", 3), is("pads", 1, 1, 1, 1)}, []int{1, 3, 4, 4}, []int{3, 1, 3, 3}, 3)
	conv("same upper", attrs{s("auto_pad", "SAME_UPPER"), is("strides", 2, 2)}, []int{1, 1, 5, 6}, []int{2, 1, 2, 3}, 2)
	conv("same lower", attrs{s("auto_pad", "SAME_LOWER"), is("strides", 2, 2)}, []int{1, 1, 5, 6}, []int{2, 1, 2, 3}, 2)
	trans := func(name string, as attrs, x, w []int, bias int) {
		in := inputs{signed(x...), signed(w...)}
		if bias > 0 {
			in = append(in, signed(bias))
		}
		add("ConvTranspose", 21, name, as, in...)
	}
	trans("1d", nil, []int{2, 2, 4}, []int{2, 3, 3}, 3)
	trans("2d", nil, []int{2, 2, 3, 3}, []int{2, 3, 3, 2}, 3)
	trans("3d", nil, []int{1, 2, 2, 3, 2}, []int{2, 1, 2, 2, 2}, 0)
	trans("stride, pads, dilation", attrs{is("strides", 2, 3), is("pads", 1, 0, 0, 1), is("dilations", 1, 2)}, []int{1, 2, 3, 3}, []int{2, 2, 3, 2}, 2)
	trans("output padding", attrs{is("strides", 2, 2), is("output_padding", 1, 1)}, []int{1, 1, 3, 3}, []int{1, 2, 3, 3}, 2)
	trans("output shape", attrs{is("strides", 2, 2), is("output_shape", 6, 7)}, []int{1, 1, 3, 3}, []int{1, 2, 3, 3}, 0)
	trans("groups", attrs{i("group", 2)}, []int{1, 4, 3, 3}, []int{4, 3, 2, 2}, 6)
	trans("same upper", attrs{s("auto_pad", "SAME_UPPER"), is("strides", 2, 2)}, []int{1, 1, 3, 3}, []int{1, 2, 3, 3}, 2)
	for _, op := range []string{"MaxPool", "AveragePool"} {
		add(op, 21, "1d", attrs{is("kernel_shape", 3)}, signed(2, 2, 6))
		add(op, 21, "2d", attrs{is("kernel_shape", 2, 3), is("strides", 2, 1)}, signed(2, 2, 5, 4))
		add(op, 21, "3d", attrs{is("kernel_shape", 2, 2, 2)}, signed(1, 2, 3, 3, 3))
		add(op, 21, "pads", attrs{is("kernel_shape", 3, 3), is("pads", 1, 1, 0, 2), is("strides", 2, 2)}, signed(1, 2, 5, 6))
		add(op, 21, "dilations", attrs{is("kernel_shape", 2, 2), is("dilations", 2, 3)}, signed(1, 1, 5, 6))
		add(op, 21, "ceil", attrs{is("kernel_shape", 3, 3), is("strides", 2, 2), i("ceil_mode", 1)}, signed(1, 1, 6, 6))
		add(op, 21, "same lower", attrs{is("kernel_shape", 3, 2), is("strides", 2, 2), s("auto_pad", "SAME_LOWER")}, signed(1, 1, 5, 6))
	}
	add("MaxPool", 21, "indices", attrs{is("kernel_shape", 2, 2)}, signed(1, 2, 4, 4)).outs = 2
	add("MaxPool", 21, "column major indices", attrs{is("kernel_shape", 2, 2), i("storage_order", 1)}, signed(1, 2, 4, 4)).outs = 2
	add("AveragePool", 21, "count pads", attrs{is("kernel_shape", 3, 3), is("pads", 1, 1, 1, 1), i("count_include_pad", 1)}, signed(1, 2, 4, 4))
	add("AveragePool", 21, "count pads, ceil", attrs{is("kernel_shape", 3, 3), is("pads", 1, 1, 1, 1), is("strides", 2, 2), i("ceil_mode", 1), i("count_include_pad", 1)}, signed(1, 2, 6, 6))
	for _, op := range []string{"GlobalAveragePool", "GlobalMaxPool"} {
		add(op, 21, "1d", nil, signed(2, 3, 4))
		add(op, 21, "2d", nil, signed(2, 3, 4, 2))
		add(op, 21, "size 1", nil, signed(2, 3, 1, 1))
	}

	// Normalization.
	stats := func(c int) inputs {
		return inputs{fixed(tensor.New(ramp(c, 0.1), c)), fixed(tensor.New(ramp(c, 1), c))}
	}
	for _, x := range [][]int{{4, 3}, {2, 3, 4}, {2, 3, 2, 3}, {2, 1, 3, 1}} {
		c := x[1]
		st := stats(c)
		add("BatchNormalization", 21, fmt.Sprint("inference ", x), nil, signed(x...), signed(c), signed(c), st[0], st[1])
		t := add("BatchNormalization", 21, fmt.Sprint("training ", x), attrs{i("training_mode", 1), f("epsilon", 0.01)}, signed(x...), signed(c), signed(c), st[0], st[1])
		t.outs, t.weighed = 3, 1
	}
	add("BatchNormalization", 9, "inference", nil, signed(2, 3, 4), signed(3), signed(3), stats(3)[0], stats(3)[1])
	add("BatchNormalization", 21, "moving statistics", nil, signed(2, 3, 4), signed(3), signed(3), signed(3), uniform(0.5, 2, 3))
	for _, x := range [][]int{{4, 3}, {2, 3, 4}, {2, 3, 2, 2}} {
		add("BatchNormalization", 21, fmt.Sprint("running statistics weighed ", x), attrs{i("training_mode", 1)}, signed(x...), signed(3), signed(3), signed(3), uniform(0.5, 2, 3)).outs = 3
		add("BatchNormalization", 9, fmt.Sprint("all statistics weighed ", x), nil, signed(x...), signed(3), signed(3), signed(3), uniform(0.5, 2, 3)).outs = 5
	}
	add("BatchNormalization", 7, "statistics of elements", attrs{i("spatial", 0)}, signed(3, 2, 2), signed(4), signed(4), signed(4), uniform(0.5, 2, 4)).outs = 5
	for _, axis := range []int64{-1, 1, 0, -2} {
		x := []int{2, 3, 4}
		at := int(axis)
		if at < 0 {
			at += 3
		}
		as := attrs{i("axis", axis), f("epsilon", 0.01)}
		add("LayerNormalization", 21, fmt.Sprint("axis", axis), as, signed(x...), signed(x[at:]...), signed(x[at:]...))
		add("LayerNormalization", 21, fmt.Sprint("axis", axis, " no bias"), as, signed(x...), signed(x[at:]...))
		st := add("LayerNormalization", 21, fmt.Sprint("axis", axis, " statistics given"), as, signed(x...), signed(x[at:]...), signed(x[at:]...))
		st.outs, st.weighed = 3, 1
		add("RMSNormalization", 23, fmt.Sprint("axis", axis), as, signed(x...), signed(x[at:]...))
	}
	add("LayerNormalization", 21, "scale grows", attrs{i("axis", 1)}, signed(2, 3, 4), signed(4), signed(1, 4))
	statistics := add("LayerNormalization", 21, "statistics weighed", nil, signed(2, 3, 4), signed(4), signed(4))
	statistics.outs, statistics.step, statistics.tol = 3, 1e-3, 2e-3 // the statistics are float32
	add("RMSNormalization", 23, "scale grows", attrs{i("axis", 1)}, signed(2, 3, 4), signed(4))
	add("InstanceNormalization", 21, "1d", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(3), signed(3))
	add("InstanceNormalization", 21, "2d", attrs{f("epsilon", 0.01)}, signed(2, 2, 3, 2), signed(2), signed(2))
	add("GroupNormalization", 18, "scale of groups", attrs{i("num_groups", 2), f("epsilon", 0.01)}, signed(2, 4, 3), signed(2), signed(2))
	add("GroupNormalization", 21, "scale of channels", attrs{i("num_groups", 2), f("epsilon", 0.01)}, signed(2, 4, 3, 2), signed(4), signed(4))
	add("GroupNormalization", 21, "one group", attrs{i("num_groups", 1)}, signed(2, 3, 4), signed(3), signed(3))
	add("GroupNormalization", 21, "channel groups", attrs{i("num_groups", 3)}, signed(2, 3, 4), signed(3), signed(3))
	for _, op := range []string{"Softmax", "LogSoftmax"} {
		for _, axis := range []int64{-1, 0, 1} {
			add(op, 21, fmt.Sprint("axis", axis), attrs{i("axis", axis)}, signed(2, 3, 4))
			add(op, 11, fmt.Sprint("flat axis", axis), attrs{i("axis", axis)}, signed(2, 3, 4))
		}
		add(op, 21, "size 1", nil, signed(3, 1))
	}

	// Reductions.
	for _, op := range []string{"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"} {
		in := func(shape ...int) *gradInput { return signed(shape...) }
		if op == "ReduceLogSum" {
			in = func(shape ...int) *gradInput { return uniform(0.3, 2, shape...) }
		}
		for _, keep := range []int64{0, 1} {
			k := i("keepdims", keep)
			for _, axes := range [][]int64{{0}, {1}, {-1}, {0, 2}, {-2, 0}, {0, 1, 2}} {
				add(op, 21, fmt.Sprint("axes", axes, " keep", keep), attrs{k}, in(2, 3, 4), ints(axes...))
			}
			add(op, 11, fmt.Sprint("axes attribute keep", keep), attrs{k, is("axes", 1, -1)}, in(2, 3, 4))
			add(op, 21, fmt.Sprint("all keep", keep), attrs{k}, in(2, 3))
			add(op, 21, fmt.Sprint("size 1 keep", keep), attrs{k}, in(2, 1, 3), ints(1))
		}
		add(op, 21, "empty axes do nothing", attrs{i("noop_with_empty_axes", 1)}, in(2, 3), ints())
		add(op, 21, "scalar", nil, in())
	}
	add("ReduceProd", 21, "one zero", nil, moving(tensor.New([]float64{1.5, 0, -2, 0.5, 3, 1.2}, 2, 3)), ints(1))
	add("ReduceProd", 21, "two zeros", nil, moving(tensor.New([]float64{1.5, 0, 0, 0.5, 3, 1.2}, 2, 3)), ints(1))
	for _, as := range []attrs{nil, {i("exclusive", 1)}, {i("reverse", 1)}, {i("exclusive", 1), i("reverse", 1)}} {
		for _, axis := range []int64{0, 1, -1} {
			add("CumSum", 21, fmt.Sprint(len(as), " attributes, axis", axis), as, signed(2, 3, 4), oneInt(axis))
		}
	}
	for _, largest := range []int64{0, 1} {
		for _, axis := range []int64{0, 1, -1} {
			add("TopK", 21, fmt.Sprint("largest", largest, " axis", axis), attrs{i("axis", axis), i("largest", largest)}, signed(3, 4, 5), ints(2)).outs = 2
		}
	}
	add("TopK", 1, "attribute", attrs{i("k", 2)}, signed(3, 4)).outs = 2
	add("TopK", 21, "unsorted", attrs{i("sorted", 0)}, signed(3, 6), ints(3)).outs = 2

	// Shape.
	add("Reshape", 21, "numbers", nil, signed(2, 3, 4), ints(4, 6))
	add("Reshape", 21, "zero and rest", nil, signed(2, 3, 4), ints(0, -1))
	add("Reshape", 21, "allow zero", attrs{i("allowzero", 1)}, signed(0, 3), ints(3, 0))
	add("Reshape", 1, "attribute", attrs{is("shape", 3, 2)}, signed(2, 3))
	add("Flatten", 21, "default", nil, signed(2, 3, 4))
	add("Flatten", 21, "axis 0", attrs{i("axis", 0)}, signed(2, 3, 4))
	add("Flatten", 21, "negative axis", attrs{i("axis", -1)}, signed(2, 3, 4))
	add("Squeeze", 21, "axes", nil, signed(1, 3, 1), ints(-1))
	add("Squeeze", 21, "all", nil, signed(1, 3, 1))
	add("Squeeze", 11, "attribute", attrs{is("axes", 0)}, signed(1, 3, 1))
	add("Unsqueeze", 21, "axes", nil, signed(2, 3), ints(0, -1))
	add("Unsqueeze", 11, "attribute", attrs{is("axes", 1)}, signed(2, 3))
	add("Expand", 21, "ahead", nil, signed(3, 1), ints(2, 1, 4))
	add("Expand", 21, "smaller shape", nil, signed(2, 3), ints(1))
	add("Expand", 21, "scalar", nil, signed(), ints(2, 3))
	add("Expand", 21, "size 1 stays", nil, signed(1, 3), ints(1, 3))

	// Movement.
	add("Transpose", 21, "default", nil, signed(2, 3, 4))
	add("Transpose", 21, "cycle", attrs{is("perm", 2, 0, 1)}, signed(2, 3, 4))
	add("Transpose", 21, "rank 5", attrs{is("perm", 3, 0, 4, 2, 1)}, signed(2, 1, 3, 2, 2))
	add("Concat", 21, "axis 0", attrs{i("axis", 0)}, signed(2, 3), signed(1, 3))
	add("Concat", 21, "last axis", attrs{i("axis", -1)}, signed(2, 3), signed(2, 1), signed(2, 2))
	add("Concat", 21, "one and an empty one", attrs{i("axis", 1)}, signed(2, 3), signed(2, 0))
	add("Split", 21, "sizes", attrs{i("axis", 1)}, signed(2, 5), ints(2, 3)).outs = 2
	add("Split", 21, "uneven", attrs{i("axis", -1), i("num_outputs", 3)}, signed(2, 7)).outs = 3
	oneRead := add("Split", 21, "one read", attrs{i("num_outputs", 2)}, signed(4, 2))
	oneRead.outs, oneRead.weighed = 2, 1
	add("Split", 11, "attribute", attrs{i("axis", 0), is("split", 1, 3)}, signed(4, 2)).outs = 2
	add("Split", 13, "even", attrs{i("axis", 0)}, signed(4, 2)).outs = 2
	add("Slice", 21, "plain", nil, signed(4, 5), ints(1, 0), ints(3, 4))
	add("Slice", 21, "axis and step", nil, signed(4, 7), ints(1), ints(7), ints(1), ints(2))
	add("Slice", 21, "backwards", nil, signed(4, 5), ints(-1, 3), ints(-100, 0), ints(-1, 0), ints(-2, -1))
	add("Slice", 21, "clamped", nil, signed(4, 5), ints(-100), ints(100), ints(-2))
	add("Slice", 21, "empty", nil, signed(4, 5), ints(2), ints(2))
	add("Slice", 1, "attributes", attrs{is("starts", 1), is("ends", -1), is("axes", 1)}, signed(3, 5))
	add("Gather", 21, "axis 0", nil, signed(4, 3), intsOf([]int{2, 2}, 0, 3, 3, -1))
	add("Gather", 21, "axis 1", attrs{i("axis", 1)}, signed(2, 4, 3), ints(2, 0, 2))
	add("Gather", 21, "scalar index", attrs{i("axis", -1)}, signed(2, 4), oneInt(-2))
	add("Gather", 21, "int32 index", nil, signed(4, 3), fixed(tensor.New([]int32{1, 1}, 2)))
	add("GatherElements", 21, "axis 0", nil, signed(3, 3), intsOf([]int{2, 3}, 1, 2, 0, 2, 0, 0))
	add("GatherElements", 21, "axis 1, repeated and negative", attrs{i("axis", 1)}, signed(3, 4), intsOf([]int{2, 2}, 1, 1, -1, 0))
	add("GatherND", 21, "elements", nil, signed(2, 3), intsOf([]int{3, 2}, 0, 1, 1, 2, 0, 1))
	add("GatherND", 21, "rows", nil, signed(3, 2, 2), intsOf([]int{2, 1}, 2, -1))
	add("GatherND", 21, "batch", attrs{i("batch_dims", 1)}, signed(2, 3, 2), intsOf([]int{2, 1}, 1, 0))
	add("Scatter", 10, "axis 0", nil, signed(3, 3), intsOf([]int{2, 3}, 1, 0, 2, 0, 2, 1), signed(2, 3))
	add("Scatter", 10, "axis 1", attrs{i("axis", 1)}, signed(2, 4), intsOf([]int{2, 2}, 1, 3, 0, 2), signed(2, 2))
	add("ScatterElements", 21, "axis 0", nil, signed(3, 3), intsOf([]int{2, 3}, 1, 0, 2, 0, 2, 1), signed(2, 3))
	add("ScatterElements", 21, "axis 1, negative", attrs{i("axis", -1)}, signed(2, 4), intsOf([]int{2, 2}, 1, -1, 0, 2), signed(2, 2))
	add("ScatterElements", 21, "add", attrs{s("reduction", "add")}, signed(3, 2), intsOf([]int{3, 2}, 1, 0, 1, 0, 2, 0), signed(3, 2))
	add("ScatterND", 21, "elements", nil, signed(2, 3), intsOf([]int{2, 2}, 0, 1, 1, 2), signed(2))
	add("ScatterND", 21, "rows", nil, signed(3, 2, 2), intsOf([]int{2, 1}, 2, 0), signed(2, 2, 2))
	add("ScatterND", 21, "add", attrs{s("reduction", "add")}, signed(3, 2), intsOf([]int{3, 1}, 1, 0, 1), signed(3, 2))
	for _, how := range []string{"mul", "max", "min"} {
		add("ScatterElements", 21, how, attrs{s("reduction", how)}, signed(3, 2), intsOf([]int{3, 2}, 1, 0, 1, 2, 1, 0), signed(3, 2))
		add("ScatterND", 21, how, attrs{s("reduction", how)}, signed(3, 2), intsOf([]int{3, 1}, 1, 0, 1), signed(3, 2))
	}
	zeros := tensor.New([]float64{0, 0, 2, 3}, 4)
	add("ScatterElements", 21, "mul of zeros", attrs{s("reduction", "mul")}, moving(zeros), intsOf([]int{4}, 0, 1, 1, 2), moving(tensor.New([]float64{2, 0, 3, 0}, 4)))
	add("Mul", 22, "by random draws like it", nil, signed(3, 4)).graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
		return []*onnx.Value{b.Op("Mul", in[0], b.Node("RandomNormalLike", in, f("seed", 5))), b.Op("MatMul", in[0], b.Op("Transpose", b.Op("EyeLike", in[0])))}
	}
	number := func(v float64) *gradInput { return moving(tensor.Scalar(v)) }
	add("Range", 11, "up", nil, number(0.3), number(2.51), number(0.4))
	add("Range", 11, "down", nil, number(1.3), number(-2.1), number(-0.7))
	add("Range", 11, "nothing", nil, number(1), number(0), number(0.5))
	add("OneHot", 11, "values", nil, ints(1, 0, 3, -1), oneInt(4), signed(2))
	add("OneHot", 11, "values, first axis", attrs{i("axis", 0)}, intsOf([]int{2, 2}, 1, 0, 3, 9), oneInt(3), signed(2))
	twice := tensor.New([]float64{2, -1, 2, 3, -1, 2}, 6)
	add("Unique", 11, "sorted", nil, signed(2, 3))
	add("Unique", 11, "unsorted, all outputs", attrs{i("sorted", 0)}, signed(5)).outs = 4
	add("Unique", 11, "rows", attrs{i("axis", 0)}, signed(3, 2))
	add("Unique", 11, "columns", attrs{i("axis", -1)}, signed(2, 4))
	add("Gather Unique", 11, "of what comes twice", nil, moving(twice), ints(0, 1, 3)).graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
		return []*onnx.Value{b.Op("Unique", b.Op("Gather", in[0], in[1]))}
	}
	for _, mode := range []string{"constant", "reflect", "edge", "wrap"} {
		add("Pad", 21, mode, attrs{s("mode", mode)}, signed(3, 4), ints(1, 2, 0, 3))
		add("Pad", 21, mode+" axes", attrs{s("mode", mode)}, signed(3, 4), ints(2, 1), nil, ints(-1))
	}
	add("Pad", 21, "value", nil, signed(3, 4), ints(1, 0, 2, 1), signed())
	add("Pad", 21, "cropping", nil, signed(3, 5), ints(-1, 2, 1, -2))
	add("Pad", 1, "attribute", attrs{is("paddings", 1, 0, 0, 2), f("value", 0.5)}, signed(3, 4))
	add("Pad", 2, "attribute", attrs{is("pads", 1, 0, 0, 2), f("value", 0.5)}, signed(3, 4))
	add("Tile", 21, "repeats", nil, signed(2, 1, 3), ints(2, 3, 1))
	add("Tile", 21, "nothing", nil, signed(2, 3), ints(1, 1))
	add("DepthToSpace", 21, "DCR", attrs{i("blocksize", 2)}, signed(1, 8, 2, 3))
	add("DepthToSpace", 21, "CRD", attrs{i("blocksize", 2), s("mode", "CRD")}, signed(2, 8, 2, 3))
	add("SpaceToDepth", 21, "block 2", attrs{i("blocksize", 2)}, signed(2, 2, 4, 6))
	add("ReverseSequence", 21, "time first", nil, signed(4, 3, 2), ints(4, 1, 3))
	add("ReverseSequence", 21, "batch first", attrs{i("time_axis", 1), i("batch_axis", 0)}, signed(3, 4, 2), ints(2, 4, 3))
	add("Trilu", 21, "upper", nil, signed(2, 3, 4))
	add("Trilu", 21, "upper k", nil, signed(3, 4), oneInt(1))
	add("Trilu", 21, "lower k", attrs{i("upper", 0)}, signed(4, 3), oneInt(-1))
	add("Compress", 21, "axis", attrs{i("axis", 1)}, signed(2, 4), fixed(tensor.New([]bool{true, false, true}, 3)))
	add("Compress", 21, "flat", nil, signed(2, 3), fixed(tensor.New([]bool{false, true, true, false, true}, 5)))

	// Resampling.
	scales := func(v ...float32) *gradInput { return fixed(tensor.New(v, len(v))) }
	for _, mode := range []string{"nearest", "linear", "cubic"} {
		for _, coord := range []string{"half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"} {
			as := attrs{s("mode", mode), s("coordinate_transformation_mode", coord)}
			add("Resize", 21, mode+" "+coord+" up", as, signed(1, 2, 3, 4), nil, scales(1, 1, 2, 1.5))
			add("Resize", 21, mode+" "+coord+" down", as, signed(1, 1, 5, 6), nil, nil, ints(1, 1, 3, 2))
		}
	}
	add("Resize", 21, "linear antialias", attrs{s("mode", "linear"), i("antialias", 1)}, signed(1, 1, 6, 7), nil, nil, ints(1, 1, 3, 4))
	add("Resize", 21, "cubic antialias", attrs{s("mode", "cubic"), i("antialias", 1)}, signed(1, 1, 6, 7), nil, nil, ints(1, 1, 3, 4))
	add("Resize", 21, "cubic exclude outside", attrs{s("mode", "cubic"), i("exclude_outside", 1), f("cubic_coeff_a", -0.5)}, signed(1, 1, 4, 4), nil, scales(1, 1, 1.7, 2))
	add("Resize", 21, "axes", attrs{s("mode", "linear"), is("axes", 2)}, signed(1, 2, 3), nil, scales(2))
	add("Resize", 21, "crop", attrs{s("mode", "linear"), s("coordinate_transformation_mode", "tf_crop_and_resize"), f("extrapolation_value", 3)},
		signed(1, 1, 4, 4), fixed(tensor.New([]float32{0, 0, 0.2, -0.3, 1, 1, 0.9, 1.4}, 8)), nil, ints(1, 1, 3, 5))
	add("Resize", 10, "nearest", nil, signed(1, 1, 2, 3), scales(1, 1, 2, 2))
	add("Resize", 10, "larger and smaller", nil, signed(1, 1, 4, 5), scales(1, 1, 1.7, 0.6))
	add("Resize", 10, "linear", attrs{s("mode", "linear")}, signed(1, 1, 3, 3), scales(1, 1, 2, 1.5))
	add("Upsample", 1, "nearest", attrs{f("width_scale", 2), f("height_scale", 3)}, signed(1, 2, 2, 3))
	add("Upsample", 7, "nearest", attrs{floatsAttr("scales", 1, 1, 2, 3)}, signed(1, 2, 2, 3))
	add("Upsample", 9, "linear", attrs{s("mode", "linear")}, signed(1, 1, 3, 2), scales(1, 1, 2, 3))
}

// recurrentCases is RNN, LSTM and GRU in all their variants.
func recurrentCases() []*gradCase {
	const steps, batch, inSize, hidden = 4, 3, 2, 3
	gates := map[string]int{"RNN": 1, "LSTM": 4, "GRU": 3}
	functions := map[string]int{"RNN": 1, "LSTM": 3, "GRU": 2}
	var cases []*gradCase
	type variant struct {
		name                           string
		direction                      string
		bias, lens, states, peep, back bool // back: layout 1
		weighed                        int  // 1: Y alone
		attrs                          []*onnx.Attribute
	}
	add := func(op string, v variant) *gradCase {
		dirs := 1
		if v.direction == "bidirectional" {
			dirs = 2
		}
		dim := func(n ...int) *gradInput { return uniform(-0.9, 0.9, n...) }
		x, state := dim(steps, batch, inSize), []int{dirs, batch, hidden}
		attrs := append([]*onnx.Attribute{ops.IntAttr("hidden_size", hidden)}, v.attrs...)
		if v.back {
			x, state = dim(batch, steps, inSize), []int{batch, dirs, hidden}
			attrs = append(attrs, ops.IntAttr("layout", 1))
		}
		if v.direction != "" {
			attrs = append(attrs, ops.StringAttr("direction", v.direction))
		}
		in := []*gradInput{x, dim(dirs, gates[op]*hidden, inSize), dim(dirs, gates[op]*hidden, hidden), nil, nil, nil}
		if v.bias {
			in[3] = dim(dirs, 2*gates[op]*hidden)
		}
		if v.lens {
			in[4] = fixed(tensor.New([]int32{4, 1, 3}, batch))
		}
		if v.states {
			in[5] = dim(state...)
		}
		outs := 2
		if op == "LSTM" {
			outs = 3
			in = append(in, nil, nil)
			if v.states {
				in[6] = dim(state...)
			}
			if v.peep {
				in[7] = dim(dirs, 3*hidden)
			}
		}
		for in[len(in)-1] == nil {
			in = in[:len(in)-1]
		}
		c := &gradCase{op: op, opset: 21, name: v.name, attrs: attrs, in: in, outs: outs, weighed: v.weighed, step: 1e-6, tol: 1e-5}
		cases = append(cases, c)
		return c
	}
	for _, op := range []string{"RNN", "LSTM", "GRU"} {
		add(op, variant{name: "plain"})
		add(op, variant{name: "only Y", bias: true, weighed: 1})
		for _, d := range []string{"forward", "reverse", "bidirectional"} {
			add(op, variant{name: d, direction: d, bias: true})
			add(op, variant{name: d + " states", direction: d, bias: true, states: true})
			add(op, variant{name: d + " lengths", direction: d, bias: true, states: true, lens: true})
			add(op, variant{name: d + " lengths, no states", direction: d, lens: true})
			add(op, variant{name: d + " layout 1", direction: d, bias: true, states: true, lens: true, back: true})
			add(op, variant{name: d + " clip", direction: d, bias: true, states: true, attrs: []*onnx.Attribute{ops.FloatAttr("clip", 0.4)}})
		}
		for _, name := range []string{"Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"} {
			for _, withValues := range []bool{false, true} {
				takes := map[string]int{"Affine": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "ScaledTanh": 2, "HardSigmoid": 2, "Elu": 1}[name]
				if takes == 0 && withValues || (name == "Affine" || name == "ScaledTanh") && !withValues {
					continue // the standard gives these two no default
				}
				n := functions[op]
				attrs := []*onnx.Attribute{stringsAttr("activations", slices.Repeat([]string{name}, n)...)}
				label := "activation " + name
				if withValues {
					label += " with values"
					attrs = append(attrs, floatsAttr("activation_alpha", slices.Repeat([]float32{0.6}, n)...))
					if takes == 2 {
						attrs = append(attrs, floatsAttr("activation_beta", slices.Repeat([]float32{0.4}, n)...))
					}
				}
				add(op, variant{name: label, bias: true, states: true, attrs: attrs})
			}
		}
		for k, names := range [][]string{{"", "yh"}, {"", "", "yc"}, {"", "yh", "yc"}} {
			if k > 0 && op != "LSTM" {
				break
			}
			v := variant{name: "outputs " + strings.Join(names, ","), direction: "bidirectional", bias: true, states: true, lens: true}
			c := add(op, v)
			c.graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
				n := onnx.NewNode(op, in, names...)
				n.Attrs = c.attrs
				return slices.DeleteFunc(slices.Clone(b.Add(n)), func(v *onnx.Value) bool { return v == nil })
			}
		}
		two := append(slices.Repeat([]string{"Sigmoid"}, functions[op]), slices.Repeat([]string{"Softsign"}, functions[op])...)
		add(op, variant{name: "activations by direction", direction: "bidirectional", bias: true, attrs: []*onnx.Attribute{stringsAttr("activations", two...)}})
	}
	for _, d := range []string{"forward", "reverse", "bidirectional"} {
		add("LSTM", variant{name: d + " peepholes", direction: d, bias: true, states: true, peep: true, lens: true})
		add("LSTM", variant{name: d + " peepholes, clip", direction: d, bias: true, states: true, peep: true, attrs: []*onnx.Attribute{ops.FloatAttr("clip", 0.4)}})
		add("LSTM", variant{name: d + " input_forget", direction: d, bias: true, states: true, peep: true, attrs: []*onnx.Attribute{ops.IntAttr("input_forget", 1)}})
		for _, clip := range []float32{0, 0.4} {
			attrs := []*onnx.Attribute{ops.IntAttr("linear_before_reset", 1)}
			if clip > 0 {
				attrs = append(attrs, ops.FloatAttr("clip", clip))
			}
			add("GRU", variant{name: fmt.Sprint(d, " linear before reset, clip ", clip), direction: d, bias: true, states: true, lens: true, attrs: attrs})
		}
	}
	return cases
}

// ramp is c numbers up from first.
func ramp(c int, first float64) []float64 {
	v := make([]float64, c)
	for i := range v {
		v[i] = first + 0.3*float64(i)
	}
	return v
}

// build makes the model of c's node alone, or of its graph, and its inputs that move.
func (c *gradCase) build(vals map[*gradInput]*tensor.Tensor) (m *onnx.Model, wrt []*onnx.Value, err error) {
	b := onnx.NewBuilder("case", c.opset)
	if c.domain != "" {
		b.Import(c.domain, c.opset)
	}
	made := map[*gradInput]*onnx.Value{}
	var in []*onnx.Value
	for i, a := range c.in {
		switch {
		case a == nil:
			in = append(in, nil)
			continue
		case made[a] != nil:
		case a.fixed:
			made[a] = b.Init(fmt.Sprint("x", i), vals[a])
		default:
			made[a] = b.InputOf(fmt.Sprint("x", i), onnx.TypeOfTensor(vals[a]))
			wrt = append(wrt, made[a])
		}
		in = append(in, made[a])
	}
	var outs []*onnx.Value
	if c.graph != nil {
		outs = c.graph(b, in)
	} else {
		var names []string
		for i := range c.outs {
			names = append(names, fmt.Sprint("y", i))
		}
		n := onnx.NewNode(c.op, in, names...)
		n.Name, n.Domain, n.Attrs = "node", c.domain, c.attrs
		if c.domain == ops.Internal {
			n.Opset = ops.GradOpset
		}
		outs = b.Add(n)
	}
	for i, v := range outs {
		b.OutputOf(fmt.Sprint("y", i), v, nil)
	}
	m, err = b.Model()
	return m, wrt, err
}

// weigh ends m in one number: the sum of its outputs, each element times a weight of its own.
func (c *gradCase) weigh(m *onnx.Model, ys map[string]tensor.Value) (*onnx.Value, error) {
	r := rand.New(rand.NewPCG(3, 4))
	emit := func(op string, attrs []*onnx.Attribute, in ...*onnx.Value) *onnx.Value {
		k := onnx.NewNode(op, in, fmt.Sprint("loss", len(m.Graph.Nodes)))
		k.Attrs, k.Opset = attrs, ops.GradOpset
		m.Graph.Nodes = append(m.Graph.Nodes, k)
		return k.Outputs[0]
	}
	var loss *onnx.Value
	for i, o := range m.Graph.Outputs {
		y, ok := ys[o.Name].(*tensor.Tensor)
		if !ok || !y.DType().IsFloat() || c.weighed > 0 && i >= c.weighed {
			continue
		}
		w, err := tensor.Zeros(tensor.Float64, y.Shape()...)
		if err != nil {
			return nil, err
		}
		for j := range w.Len() {
			tensor.SetFloat64At(w, j, 2*r.Float64()-1)
		}
		if y.DType() != tensor.Float64 {
			o = emit("Cast", []*onnx.Attribute{ops.IntAttr("to", int64(tensor.Float64))}, o)
		}
		part := emit("ReduceSum", []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, emit("Mul", nil, o, m.Graph.AddInit(fmt.Sprint("w", i), w)))
		if loss != nil {
			part = emit("Add", nil, loss, part)
		}
		loss = part
	}
	if loss == nil {
		return nil, fmt.Errorf("no output is of a floating-point type")
	}
	m.Graph.Outputs = []*onnx.Value{loss}
	return loss, nil
}

// runOnce runs m in a session of its own, so that seeded draws come again.
func runOnce(m *onnx.Model, inputs map[string]tensor.Value) (map[string]tensor.Value, error) {
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(context.Background(), inputs)
}

// draw makes c's inputs, and those of them that move by name.
func (c *gradCase) draw() (vals map[*gradInput]*tensor.Tensor, inputs map[string]tensor.Value) {
	h := fnv.New64a()
	fmt.Fprint(h, c.op, c.opset, c.name)
	r := rand.New(rand.NewPCG(1, h.Sum64()))
	vals, inputs = map[*gradInput]*tensor.Tensor{}, map[string]tensor.Value{}
	for i, a := range c.in {
		if a == nil || vals[a] != nil {
			continue
		}
		vals[a] = a.make(r)
		if !a.fixed {
			inputs[fmt.Sprint("x", i)] = vals[a]
		}
	}
	return vals, inputs
}

// errAlone is that the node cannot be run, let alone differentiated.
var errAlone = errors.New("the node alone")

// gradients is those of the weighed outputs by the inputs' names, where there are any, and the model of the loss alone.
func (c *gradCase) gradients(vals map[*gradInput]*tensor.Tensor, inputs map[string]tensor.Value) (grads map[string]*tensor.Tensor, lossOnly *onnx.Model, err error) {
	m, _, err := c.build(vals)
	if err != nil {
		return nil, nil, err
	}
	ys, err := runOnce(m, inputs)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAlone, err)
	}
	lossOnly, _, _ = c.build(vals)
	if _, err := c.weigh(lossOnly, ys); err != nil {
		return nil, nil, err
	}
	m, wrt, _ := c.build(vals)
	if _, err := c.weigh(m, ys); err != nil {
		return nil, nil, err
	}
	if m, wrt, err = expanded(m, wrt); err != nil {
		return nil, nil, err
	}
	of, err := Gradient(m, m.Graph.Outputs[0], wrt)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range wrt {
		if g := of[v]; g != nil && !slices.Contains(m.Graph.Outputs, g) {
			m.Graph.Outputs = append(m.Graph.Outputs, g)
		}
	}
	got, err := runOnce(m, inputs)
	if err != nil {
		return nil, nil, fmt.Errorf("the gradients: %w", err)
	}
	grads = map[string]*tensor.Tensor{}
	for _, v := range wrt {
		if g := of[v]; g != nil {
			grads[v.Name] = got[g.Name].(*tensor.Tensor)
		}
	}
	return grads, lossOnly, nil
}

// expanded is m with operators as what they are computed by, and wrt in it.
func expanded(m *onnx.Model, wrt []*onnx.Value) (*onnx.Model, []*onnx.Value, error) {
	m, err := runtime.Expand(m)
	if err != nil {
		return nil, nil, err
	}
	in := make([]*onnx.Value, len(wrt))
	for i, v := range wrt {
		in[i] = m.Graph.Inputs[slices.IndexFunc(m.Graph.Inputs, func(w *onnx.Value) bool { return w.Name == v.Name })]
	}
	return m, in, nil
}

// check holds the node's gradients against central differences of the loss, at so many elements of each input, or, of a variant that
// cannot be run, is skipped. It reports whether there was something to check.
func (c *gradCase) check(t *testing.T, most int, variant bool) bool {
	vals, inputs := c.draw()
	grads, lossOnly, err := c.gradients(vals, inputs)
	if variant && errors.Is(err, errAlone) {
		return false
	}
	if c.refused != "" {
		if err == nil || !strings.Contains(err.Error(), c.refused) {
			t.Fatalf("error %v, want one about %q", err, c.refused)
		}
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	at := func() float64 {
		out, err := runOnce(lossOnly, inputs)
		if err != nil {
			t.Fatal(err)
		}
		return tensor.Float64At(out[lossOnly.Graph.Outputs[0].Name].(*tensor.Tensor), 0)
	}
	if variant && math.IsNaN(at()) { // the mean of nothing
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		x, dx := inputs[name].(*tensor.Tensor), grads[name]
		if dx != nil && (!slices.Equal(dx.Shape(), x.Shape()) || dx.DType() != x.DType()) {
			t.Errorf("the gradient of %s is %s%v, the input %s%v", name, dx.DType(), dx.Shape(), x.DType(), x.Shape())
			continue
		}
		wrong := 0
		for i := 0; i < x.Len(); i += 1 + x.Len()/most {
			old := tensor.Float64At(x, i)
			tensor.SetFloat64At(x, i, old+c.step)
			up := at()
			tensor.SetFloat64At(x, i, old-c.step)
			want := (up - at()) / (2 * c.step)
			tensor.SetFloat64At(x, i, old)
			var have float64
			if dx != nil {
				have = tensor.Float64At(dx, i)
			}
			// Not >, so that NaN is wrong too.
			if !(math.Abs(have-want) <= c.tol*(math.Abs(want)+0.1)) {
				if wrong++; wrong <= 3 {
					t.Errorf("gradient of %s%v at element %d (%g): %.9g, by differences %.9g", name, x.Shape(), i, old, have, want)
				}
			}
		}
		if wrong > 3 {
			t.Errorf("gradient of %s: %d of %d elements are wrong", name, wrong, x.Len())
		}
	}
	return true
}

// TestGradientsByDifferences holds every operator's gradient against central differences in float64.
func TestGradientsByDifferences(t *testing.T) {
	for _, c := range gradCases() {
		t.Run(fmt.Sprintf("%s-%d/%s", c.op, c.opset, c.name), func(t *testing.T) {
			t.Parallel()
			c.check(t, math.MaxInt, false)
		})
	}
}

// TestEveryGradientHasACase names the entries of the registry whose gradient no case reaches, and those that have neither a gradient nor a
// reason why not.
func TestEveryGradientHasACase(t *testing.T) {
	reached := map[*ops.Op]bool{}
	for _, c := range gradCases() {
		used := []string{c.op}
		if c.graph != nil {
			used = strings.Fields(c.op)
		}
		for _, name := range used {
			op, _ := ops.Lookup(c.domain, name, int(c.opset))
			if op == nil || op.Grad == nil && op.Expand == nil && op.Estimate == nil {
				t.Errorf("%s at opset %d has a case and no gradient", name, c.opset)
				continue
			}
			if c.refused == "" || op.Grad == nil {
				reached[op] = true
			}
		}
	}
	for _, op := range ops.All() {
		if op.Domain != ops.Internal && op.Grad == nil && op.Expand == nil && !op.Flat && op.NoGrad == "" {
			t.Errorf("%s %s (from opset %d) has neither a gradient nor a reason why not", op.Domain, op.Name, op.Since[0])
		}
		bytes := strings.HasPrefix(op.Name, "Q") || op.Name == "NhwcMaxPool" || op.Name == "MatMulInteger16" // in and out: by way of operators that have cases
		if op.Domain != ops.Internal && (op.Grad != nil || op.Expand != nil && !bytes) && !reached[op] {
			t.Errorf("%s (from opset %d) has a gradient and no case", op.Name, op.Since[0])
		}
	}
}
