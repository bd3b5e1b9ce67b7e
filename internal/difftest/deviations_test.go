package difftest

import (
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/retune-go/retune/tensor"
)

// zeroSigned are the operators of whose zeros the sign is known, since they move elements or IEEE 754 says it.
var zeroSigned = map[string]bool{}

func init() {
	for _, op := range strings.Fields(`Abs Neg Identity Mul Div Sub Sqrt Sin Tan Cast CastLike Transpose Reshape Flatten Squeeze Unsqueeze Expand Tile Concat
		Split Slice Pad Gather GatherElements GatherND DepthToSpace SpaceToDepth Compress ReverseSequence CenterCropPad`) {
		zeroSigned[op] = true
	}
}

// deviation is a class of models for which ONNX Runtime gives another answer than the standard, or refuses what it permits.
type deviation struct {
	ops     string                 // names of operators
	when    func(c *testCase) bool // nil: always
	refusal string                 // a regular expression of what it refuses with; "": it answers, differently
	clause  string                 // what the standard says
}

var deviations = []deviation{
	{"Clip", func(c *testCase) bool { return c.in(1) == nil || c.in(2) == nil }, "",
		"the operator's function body does not touch the side whose bound is left out: it clips -∞ and ∞ to the greatest numbers there"},
	{"Clip", nil, "min_ <= max_ was false", "where min is greater than max, every element becomes max"},
	{"DecoderMaskedMultiHeadAttention", func(c *testCase) bool { return c.in(7) != nil && tensor.Data[int32](c.in(7))[0] == 0 }, "",
		"past_sequence_length could be 0: it takes the whole buffer for past then"},
	{"MatMulNBits", func(c *testCase) bool { return c.in(4) != nil && c.in(3) != nil }, "",
		"zero_points are of the blocks that g_idx names: it takes them for the middle where there is a g_idx"},
	{"Softmax LogSoftmax", func(c *testCase) bool { return !finite(c.in(0)) }, "", "Exp(x)/Sum(Exp(x)), each a NaN where the sum is one"},
	{"Mod", func(c *testCase) bool { return c.in(0).DType().Size() == 8 }, "", "fmod of integers: it goes by way of float64"},
	{"Sign", func(c *testCase) bool { return !finite(c.in(0)) }, "", "of NaNs nothing is said: Retune gives NaNs, as it does for float32 and float64; of smaller floats it gives zeros"},
	{"Where", func(c *testCase) bool { return c.in(1).DType().IsFloat() }, "",
		"an element of X or of Y: -0 is not 0"},
	{"Cast CastLike", func(c *testCase) bool { return c.in(0).DType().IsFloat() }, "",
		"a float as a string: how many digits is not said; Retune writes the fewest that read back as the same number"},
	{"Cast CastLike QuantizeLinear", func(c *testCase) bool { return c.node().Attr("saturate") != nil && c.node().Int("saturate", 1) == 0 }, "",
		"saturate false: what is greater than the greatest number of float8e4m3fn is a NaN; of 480 to 496 it makes 448"},
	{"CDist", nil, "", "the square root of the sum of squared differences: it takes it from squares and products, of which nothing is left where points are close"},
	{"Gelu", func(c *testCase) bool { return c.in(0).DType() == tensor.Float64 }, "",
		"0.5·x·(1+Tanh(Sqrt(2/π)·(x+0.044715·x³))): its Sqrt(2/π) has the precision of float32"},
	{"Shrink", func(c *testCase) bool { return c.in(0).DType() != tensor.Float32 }, "",
		"x+bias or x-bias in the type of x: it computes in float32"},
	{"NonZero", func(c *testCase) bool { return c.in(0).Rank() == 0 }, "",
		"for scalar input, NonZero produces output shape (0, N) instead of (1, N), which is different from Numpy's behavior"},
	{"Squeeze", func(c *testCase) bool { return c.in(1) != nil && c.in(1).Len() == 0 || c.node().Attr("axes") != nil }, "",
		"if axes is not provided, all the single dimensions will be removed: it removes them also where an empty list is provided"},
	{"Gather", func(c *testCase) bool { return c.in(0).DType() == tensor.String }, "",
		"output[i, …] = data[indices[i], …]: it leaves strings out"},
	{"ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
		func(c *testCase) bool { return c.in(0).Len() == 0 }, "", "axes counted from the back: of empty tensors it reduces other axes"},
	{"ReduceMax ReduceMin", func(c *testCase) bool { return c.in(0).DType().IsFloat() && !finite(c.in(0)) }, "",
		"whether a NaN is greatest is not said; as NumPy has it, Retune gives a NaN, and it for some types and opsets"},
	{"ReduceLogSumExp", func(c *testCase) bool { return c.in(0).DType().IsInteger() || !finite(c.in(0)) }, "",
		"log(sum(exp(x))): it rounds each exponential to an integer, and loses NaNs beside ∞"},
	{"Resize", func(c *testCase) bool {
		return c.node().Attr("keep_aspect_ratio_policy") != nil && c.node().Attr("axes") != nil
	}, "",
		"the policy keeps the ratio of the axes listed: it counts those that are not"},
	{"Resize", func(c *testCase) bool {
		return strings.HasPrefix(c.node().Str("coordinate_transformation_mode", ""), "tf_")
	}, "",
		"x_original = start_x·(length_original-1) + …, or (x_resized+0.5)/scale: it leaves an axis whose scale is 1 as it is"},
	{"Resize", func(c *testCase) bool {
		return c.node().Str("coordinate_transformation_mode", "") == "align_corners" && (c.in(3) == nil || c.node().Attr("keep_aspect_ratio_policy") != nil)
	}, "",
		"output_width, which can be a fractional number: as the standard's cases have it, Retune maps by it, and it by the length cut to an integer"},
	{"Resize", nil, "Tensor type mis|ScalesValidation", "T1: any type; N-linear interpolation for N-D tensor"},
	{"ScatterND ScatterElements", func(c *testCase) bool { return c.in(0).DType() == tensor.String }, "",
		"strings have no sum: it concatenates"},
	{"ScatterND ScatterElements", nil, "data type is not supported", "T: all tensor types"},
	{"Slice", func(c *testCase) bool { return c.in(4) != nil }, "",
		"for negative stepping ends[i] is clamped to [-1, dims[axes[i]]-1]: it takes the greatest integers for -1"},
	{"Pad", func(c *testCase) bool { return c.node().Str("mode", "") == "wrap" }, "", "negative pads with wrapping: it reads outside the tensor"},
	{"Einsum", nil, "only subscript labels allowed", "one letter for each axis, upper or lower: without '->' it takes no upper ones"},
	{"Pad", nil, "ParseData type mismatch", "Tind: int32, int64"},
	{"Pad", nil, "Pad reflect|zero effective input extent", "negative pads with other modes than constant"},
	{"Resize", func(c *testCase) bool { return c.node().Int("antialias", 0) == 1 && c.in(0).DType().IsInteger() }, "",
		"a weighted average of neighborhood: with antialiasing its int8 has no negative numbers"},
	{"DFT", func(c *testCase) bool { return c.in(0).DType() == tensor.Float64 }, "", "lengths that are no power of two: it computes double in float32"},
	{"MeanVarianceNormalization", nil, "", "(X-EX)/sqrt(E(X-EX)^2) with the 1e-9 of the function body: of one element it gives 0/0"},
	{"MeanVarianceNormalization", nil, "bound to different types", "T: float16, double"},
	{"AveragePool LpPool MaxPool", func(c *testCase) bool {
		return strings.HasPrefix(c.node().Str("auto_pad", ""), "SAME") && c.node().Attr("dilations") != nil
	}, "", "pad_shape[i] = (output_shape[i]-1)·stride[i] + (kernel[i]-1)·dilation[i]+1 - input_shape[i]: it leaves dilation out"},
	{"AveragePool LpPool MaxPool", func(c *testCase) bool { return strings.HasPrefix(c.node().Str("auto_pad", ""), "SAME") },
		"padding values must be non-negative", "output_shape[i] = ceil(input_shape[i] / strides[i]): where the stride skips elements there is nothing to pad"},
	{"LpPool MaxPool", func(c *testCase) bool {
		kernel := c.node().Ints("kernel_shape", nil)
		for i, s := range c.node().Ints("strides", nil) {
			if strings.HasPrefix(c.node().Str("auto_pad", ""), "SAME") && s > kernel[i] {
				return true
			}
		}
		return false
	}, "",
		"output_shape[i] = ceil(input_shape[i] / strides[i]): where the stride skips elements there is nothing to pad, and it crops"},
	{"InstanceNormalization", constantInstance, "", "y = scale·(x-mean)/sqrt(variance+epsilon) + B: of equal elements that is B, of which it loses the last bits"},
	{"Div Mod", nil, "by zero", "of each element: it refuses a 0 that divides none, where A is empty"},
	{"ReduceProd", func(c *testCase) bool { return c.in(0).DType().IsInteger() }, "", "the product of integers: it goes by way of floats"},
	{"ConvTranspose", func(c *testCase) bool { return strings.HasPrefix(c.node().Str("auto_pad", ""), "SAME") }, "",
		"output_shape[i] = input_shape[i] * strides[i]: where the kernel is less than the stride it gives less"},
	{"Col2Im", func(c *testCase) bool { return c.in(1).Len() != 2 }, "", "any number of spatial dimensions: but for two it puts blocks elsewhere"},
	{"LSTM", func(c *testCase) bool { return c.node().Attr("clip") != nil }, "", "clip is applied to the input of activations: it does not apply it to that of h"},
	{"LSTM GRU RNN", func(c *testCase) bool {
		a := c.node().Attr("activations")
		return a != nil && slices.ContainsFunc(a.Strings, func(f []byte) bool { return string(f) == "Softplus" })
	}, "", "Softplus(x) = log(1 + e^x): it overflows where the answer does not"},
	{"LSTM GRU RNN", func(c *testCase) bool { return c.node().Int("layout", 0) == 1 }, "Batchwise recurrent operations", "layout 1"},
	{"LSTM GRU", nil, "does not support double yet", "T: float16, float, double"},
	{"ConvTranspose", nil, "output_padding .* may be too large", "output_padding less than the stride or the dilation: it holds it against the kernel"},
	{"AffineGrid Pad STFT Resize StringNormalizer", nil, `Input shape must have either|HandleNegativeAxis|Pads has incorrect number|window input must have rank|Number of elements of input 'sizes' \(0\)`,
		"an input may be of unknown shape before the run"},
	{"Conv ConvInteger FusedConv QLinearConv", nil, "Dilation not supported for AutoPadType", "auto_pad beside dilations"},
	{"ConvInteger", nil, "W_Zero_Point", "w_zero_point: a scalar or a 1-D tensor, per output channel"},
	{"MatMulInteger", nil, "a_zero_point", "a_zero_point: a scalar or a 1-D tensor, per row"},
	{"LRN", nil, `NumDimensions|size_ % 2`, "(N x C x D1 x D2 ... Dn), and any size"},
	{"QuantizeLinear", func(c *testCase) bool {
		for i := range c.in(0).Len() {
			if v := tensor.Float64At(c.in(0), i); !(math.Abs(v) < 1e9) {
				return true
			}
		}
		return false
	}, "", "y = saturate((x / y_scale) + y_zero_point): quotients beyond int32 it does not saturate, and of NaNs nothing is said"},
	{"QuantizeLinear", func(c *testCase) bool { return c.in(1).DType() == tensor.Float16 }, "",
		"the precision of the division is the same as the type of y_scale: it divides in float32"},
	{"QuantizeLinear DequantizeLinear", nil, "block_size must be 0", "blocks of an axis that is one block"},
	{"SVMClassifier TreeEnsembleClassifier", func(c *testCase) bool {
		return attrLen(c, "classlabels_ints")+attrLen(c, "classlabels_int64s")+attrLen(c, "classlabels_strings") == 2
	}, "", "top class for each point; base values are added to the class scores: of two classes it chooses by the sign of one score, and adds one base value"},
	{"SVMRegressor", func(c *testCase) bool { return c.node().Attr("post_transform") != nil }, "",
		"the transform to apply to the score: it applies none"},
	{"LinearRegressor LinearClassifier TreeEnsembleRegressor TreeEnsembleClassifier", func(c *testCase) bool { return c.node().Str("post_transform", "") == "SOFTMAX_ZERO" }, "",
		"a zero stays a zero: of zeros alone it gives NaNs"},
	{"LinearRegressor TreeEnsembleRegressor", func(c *testCase) bool {
		return c.node().Attr("post_transform") != nil && c.node().Int("targets", 1) == 1 && c.node().Int("n_targets", 1) == 1
	}, "", "the transform to apply to the score: it applies none where there is one score"},
	{"TreeEnsembleRegressor", func(c *testCase) bool {
		return c.node().Attr("base_values") != nil && (c.node().Int("n_targets", 1) > 1 || strings.HasPrefix(c.node().Str("aggregate_function", ""), "M"))
	}, "", "base values are added to the final prediction: it leaves them out where no leaf has a weight for the target"},
	{"TreeEnsembleRegressor TreeEnsembleClassifier", func(c *testCase) bool {
		return slices.ContainsFunc(c.node().Attr("nodes_modes").Strings, func(m []byte) bool { return string(m) == "BRANCH_NEQ" }) && !finite(c.in(0))
	}, "", "if a value is missing (NaN), use the 'true' or 'false' branch based on the value in nodes_missing_value_tracks_true: with BRANCH_NEQ it takes the true one"},
	{"Scaler", nil, "Either both scale and offset", "scale: length of features, or length 1, as offset"},
	{"If", nil, "ShapeInferenceError", "the shapes of the branches may differ"},
	{"Loop", func(c *testCase) bool {
		return tensor.Float64At(c.in(0), 0) == 0 || c.in(1) != nil && tensor.Float64At(c.in(1), 0) == 0
	}, "", "of no iterations the scan outputs are empty in their first dimension: it knows no others"},
	{"StringSplit", nil, "", "consecutive delimiters delimit empty strings: of an empty string it gives none"},
	{"Attention RMSNormalization RotaryEmbedding LayerNormalization", func(c *testCase) bool { return c.in(0).DType() == tensor.Float64 }, "", "it computes double in float32"},
	{"Attention", func(c *testCase) bool {
		return c.node().Int("is_causal", 0) == 1 && c.in(4) != nil && c.in(0).Shape()[c.in(0).Rank()-2] == 1
	}, "",
		"query i attends key j iff j <= i + offset: for a single query it attends all"},
	{"Attention", func(c *testCase) bool { return c.node().Attr("qk_matmul_output_mode") != nil }, "",
		"masked positions contribute -inf: it shows the least number"},
	{"SplitToSequence", func(c *testCase) bool { return c.in(1) != nil && c.node().Attr("keepdims") != nil }, "",
		"keepdims: if input 'split' is specified, this attribute is ignored"},
	{"SplitToSequence", func(c *testCase) bool { return c.in(1) != nil }, "shape_.Size", "keepdims: if input 'split' is specified, this attribute is ignored"},
	{"Attention", nil, "bound to different types|does not match expected type", "T1: double, float16, bfloat16"},
	{"Attention MultiHeadAttention", nil, "cannot have both past and attention_bias|shall have same shape", "past and attention_bias; values of another width than keys"},
	{"Gemm", func(c *testCase) bool { return c.in(0).Len() == 0 }, "", "Y = alpha·A'·B' + beta·C: where the products are empty it leaves out beta"},
	{"MatMul MatMulInteger", func(c *testCase) bool { return c.in(0).Len() == 0 }, "", "a sum of nothing is 0: it leaves the output as it was"},
	{"MatMul", func(c *testCase) bool { return c.in(0).Len() == 0 }, "Tensor type mis", "T: uint32, uint64"},
	{"GroupNormalization HammingWindow BlackmanWindow HannWindow", func(c *testCase) bool { return true }, "",
		"it computes double in float32"},
	{"HannWindow BlackmanWindow HammingWindow", func(c *testCase) bool { return c.node().Int("periodic", 1) == 0 && tensor.Float64At(c.in(0), 0) == 1 }, "",
		"of a symmetric window of one element nothing is said; as SciPy has it, Retune gives 1, and it a NaN"},
}

// constantInstance reports whether the elements of some channel of some example are all equal.
func constantInstance(c *testCase) bool {
	x, n := c.in(0), 1
	for _, d := range x.Shape()[2:] {
		n *= d
	}
	for at := 0; n > 0 && at < x.Len(); at += n {
		same := true
		for i := range n {
			same = same && tensor.Float64At(x, at+i) == tensor.Float64At(x, at)
		}
		if same {
			return true
		}
	}
	return false
}

// finite reports whether all elements of t are numbers.
func finite(t *tensor.Tensor) bool {
	for i := range t.Len() {
		if v := tensor.Float64At(t, i); v-v != 0 {
			return false
		}
	}
	return true
}

// attrLen is how many elements a list attribute has.
func attrLen(c *testCase, name string) int {
	a := c.node().Attr(name)
	if a == nil {
		return 0
	}
	return len(a.Ints) + len(a.Strings)
}

// known reports whether a difference, or a refusal, is one of [deviations].
func known(c *testCase, refusal error) bool {
	return slices.ContainsFunc(deviations, func(d deviation) bool {
		if !slices.Contains(strings.Fields(d.ops), c.node().Op) || (refusal != nil) != (d.refusal != "") || d.when != nil && !d.when(c) {
			return false
		}
		return refusal == nil || regexp.MustCompile(d.refusal).MatchString(refusal.Error())
	})
}
