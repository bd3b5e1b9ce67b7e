package finetune

import (
	"fmt"
	"math/rand/v2"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, microsoftCases) }

// single is in as float32.
func single(in *gradInput) *gradInput {
	return &gradInput{fixed: in.fixed, make: func(r *rand.Rand) *tensor.Tensor {
		t, err := tensor.Convert(in.make(r), tensor.Float32, true)
		if err != nil {
			panic(err)
		}
		return t
	}}
}

// microsoftCases are operators of com.microsoft, most of which are differentiated as what they are computed by.
func microsoftCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, is, f, s := ops.IntAttr, ops.IntsAttr, ops.FloatAttr, ops.StringAttr
	ms := func(op, name string, as attrs, in ...*gradInput) *gradCase {
		c := add(op, 1, name, as, in...)
		c.domain = "com.microsoft"
		return c
	}
	int32s := func(shape []int, v ...int32) *gradInput { return fixed(tensor.New(v, shape...)) }
	ms("Gelu", "", nil, signed(3, 5))
	ms("QuickGelu", "", attrs{f("alpha", 1.4)}, signed(3, 5))
	ms("BiasGelu", "", nil, signed(2, 3, 5), signed(5))
	ms("FastGelu", "", nil, signed(3, 5))
	ms("FastGelu", "bias", nil, signed(2, 3, 5), signed(5))
	ms("SkipLayerNormalization", "all", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(2, 3, 4), signed(4), signed(4), signed(4))
	ms("SkipLayerNormalization", "no bias", attrs{f("epsilon", 0.01)}, signed(3, 4), signed(3, 4), signed(4))
	named := func(c *gradCase, outs ...string) { // with the outputs named, "" standing for one that is left out
		op, as := c.op, c.attrs
		c.graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
			n := onnx.NewNode(op, in, outs...)
			n.Domain, n.Attrs = c.domain, as
			var made []*onnx.Value
			b.Add(n)
			for _, v := range n.Outputs {
				if v != nil {
					made = append(made, v)
				}
			}
			return made
		}
	}
	named(ms("SkipLayerNormalization", "sum", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(2, 3, 4), signed(4), signed(4), signed(4)), "out", "", "", "sum")
	named(ms("SkipLayerNormalization", "statistics", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(3, 4), signed(4)), "out", "mean", "inverse", "sum")
	named(ms("SkipSimplifiedLayerNormalization", "statistics", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(2, 3, 4), signed(4)), "out", "", "inverse", "sum")
	named(ms("SkipSimplifiedLayerNormalization", "sum", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(2, 3, 4), signed(4), signed(4)), "out", "", "", "sum")
	ms("SimplifiedLayerNormalization", "", attrs{f("epsilon", 0.01)}, signed(2, 3, 4), signed(4)).domain = ""
	named(ms("EmbedLayerNormalization", "sum", attrs{f("epsilon", 0.01)}, int32s([]int{2, 3}, 1, 0, 3, 2, 1, 1), int32s([]int{2, 3}, 0, 0, 1, 1, 0, 1),
		signed(4, 5), signed(3, 5), signed(2, 5), signed(5), signed(5)), "out", "", "sum")
	for _, op := range []string{"FusedMatMul", "TransposeMatMul"} {
		ms(op, "alpha, transposed", attrs{f("alpha", 0.7), i("transA", 1), i("transB", 1)}, signed(2, 3, 4), signed(2, 5, 3))
	}
	ms("FusedMatMul", "batch transposed", attrs{i("transBatchA", 1)}, signed(3, 2, 4), signed(2, 4, 5))
	ms("FusedGemm", "leaky", attrs{s("activation", "LeakyRelu"), f("activation_alpha", 0.3), i("transB", 1)}, signed(2, 3), signed(4, 3), signed(4))
	ms("FusedConv", "sum, relu", attrs{s("activation", "Relu"), is("kernel_shape", 3, 3), is("pads", 1, 1, 1, 1)}, signed(1, 2, 4, 4), signed(2, 2, 3, 3), signed(2), signed(1, 2, 4, 4))
	ms("Trilu", "lower", attrs{i("upper", 0)}, signed(2, 3, 4))

	ms("LinearAttention", "fewer heads of queries and keys", attrs{i("q_num_heads", 2), i("kv_num_heads", 4)},
		signed(1, 3, 4), signed(1, 3, 4), signed(1, 3, 8), signed(1, 4, 2, 2), uniform(-0.9, -0.1, 1, 3, 4), uniform(0.1, 0.9, 1, 3, 1)).outs = 2
	ms("CausalConvWithState", "channels last, apart", attrs{s("activation", "silu"), i("channels_last", 1), i("dilation", 2)},
		signed(1, 4, 3), signed(3, 1, 2), signed(3), signed(1, 2, 3)).outs = 2
	ms("LinearAttentionGate", "", nil, signed(2, 3), signed(3), signed(3), signed(2, 3)).outs = 2
	ms("GatedRMSNorm", "groups", attrs{f("epsilon", 0.01)}, signed(2, 6), signed(3), signed(2, 6))
	ms("GatedAdd", "", nil, signed(2, 3), signed(2, 3), signed(2, 1))
	for layout := range int64(2) {
		ms("MRotaryEmbedding", fmt.Sprintf("layout %d", layout), attrs{i("num_heads", 2), is("mrope_section", 2, 1, 1), i("mrope_layout", layout), f("scale", 0.8)},
			signed(1, 2, 16), intsOf([]int{3, 1, 2}, 0, 1, 2, 3, 1, 0), signed(4, 4), signed(4, 4))
	}
	ms("NGramRepeatBlock", "", attrs{i("ngram_size", 2)}, intsOf([]int{2, 4}, 0, 1, 2, 0, 2, 1, 0, 2), signed(2, 3)).graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
		n := onnx.NewNode("NGramRepeatBlock", in, "blocked")
		n.Domain, n.Attrs = "com.microsoft", attrs{i("ngram_size", 2)}
		return []*onnx.Value{b.Op("Max", b.Add(n)[0], b.Const(tensor.Scalar(-5.)))} // of -∞ there are no differences
	}
	ms("ConvTransposeWithDynamicPads", "bias", attrs{is("strides", 2, 1), is("kernel_shape", 2, 2)}, signed(1, 2, 3, 3), signed(2, 2, 2, 2), ints(1, 0, 0, 1), signed(2))
	ms("SparseToDenseMatMul", "", attrs{f("alpha", 0.6), i("transA", 1)}, signed(3, 2), signed(3, 4))
	withdrawn := func(op string, as attrs, in ...*gradInput) { ms(op, "withdrawn", as, in...).domain = "" }
	withdrawn("Affine", attrs{f("alpha", 0.4), f("beta", 0.3)}, signed(2, 3))
	withdrawn("Scale", attrs{f("scale", 0.4)}, signed(2, 3))
	withdrawn("ScaledTanh", attrs{f("alpha", 0.4), f("beta", 0.3)}, signed(2, 3))
	withdrawn("ParametricSoftplus", attrs{f("alpha", 0.4), f("beta", 0.3)}, signed(2, 3))
	withdrawn("ImageScaler", attrs{f("scale", 0.4), floatsAttr("bias", 1, 2)}, signed(1, 2, 2, 2))
	withdrawn("Crop", attrs{is("border", 1, 0, 1, 2), is("scale", 1, 2)}, signed(1, 2, 3, 4))
	withdrawn("DynamicSlice", nil, signed(3, 4), ints(1, 0), ints(3, 3), ints(1, 0))
	withdrawn("MeanVarianceNormalization", attrs{i("across_channels", 1)}, signed(1, 2, 2, 2))

	ms("ExpandDims", "", nil, signed(2, 3), int32s([]int{}, 1))
	ms("Range", "", nil, moving(tensor.Scalar(0.3)), moving(tensor.Scalar(2.51)), moving(tensor.Scalar(0.4)))
	ms("GatherND", "", nil, signed(2, 3, 4), intsOf([]int{2, 2}, 1, 2, 0, 1))
	ms("Unique", "", nil, signed(5))
	ms("Pad", "", nil, signed(2, 3), ints(1, 0, 0, 2), signed(1))
	ms("GridSample", "", nil, signed(1, 2, 3, 4), uniform(-0.8, 0.8, 1, 2, 2, 2))
	ms("CDist", "squares", attrs{s("metric", "sqeuclidean")}, signed(3, 4), signed(2, 4))
	ms("CDist", "distances", attrs{s("metric", "euclidean")}, uniform(1, 2, 3, 4), uniform(-2, -1, 2, 4))
	ms("UnfoldTensor", "", attrs{i("dim", 1), i("size", 3), i("step", 2)}, signed(2, 7))
	ms("CropAndResize", "", nil, signed(2, 2, 5, 4), moving(tensor.New([]float64{0.11, 0.22, 0.83, 0.94, 0.35, 0.07, 0.96, 0.61}, 2, 4)), int32s([]int{2}, 1, 0), int32s([]int{2}, 3, 2))
	ms("SampleOp", "", nil, signed(2, 3))

	heads := i("num_heads", 2)
	ms("Attention", "bias", attrs{heads}, signed(2, 3, 4), signed(4, 12), signed(12))
	ms("Attention", "lengths", attrs{heads}, signed(2, 3, 4), signed(4, 12), signed(12), int32s([]int{2}, 3, 2))
	ms("Attention", "causal, past and present", attrs{heads, i("unidirectional", 1)}, signed(2, 3, 4), signed(4, 12), signed(12), nil, signed(2, 2, 2, 2, 2)).outs = 2
	ms("Attention", "mask, added bias", attrs{heads}, signed(1, 3, 4), signed(4, 12), signed(12), int32s([]int{1, 3}, 1, 0, 1), nil, signed(1, 2, 3, 3))
	ms("Attention", "a buffer, rotary", attrs{heads, i("past_present_share_buffer", 1), i("do_rotary", 1), i("unidirectional", 1)}, signed(2, 2, 4), signed(4, 12), signed(12), nil,
		signed(2, 2, 2, 5, 2), nil, int32s([]int{1}, 2)).outs = 2
	square := int32s([]int{1, 1, 4, 4}, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1)
	ms("Attention", "a mask of all", attrs{heads}, signed(1, 2, 4), signed(4, 12), signed(12), square, signed(2, 1, 2, 1, 2)).outs = 2
	ms("MultiHeadAttention", "packed", attrs{heads}, signed(2, 3, 2, 3, 2), nil, nil, signed(12)).outs = 3
	ms("MultiHeadAttention", "packed in columns", attrs{heads}, signed(2, 3, 12))
	ms("MultiHeadAttention", "packed keys and values", attrs{heads}, signed(2, 3, 4), signed(2, 4, 2, 2, 2))
	ms("MultiHeadAttention", "scores", attrs{heads}, signed(1, 3, 4), signed(1, 5, 4), signed(1, 5, 4), nil, nil, signed(1, 2, 3, 5)).outs = 4
	past := []*gradInput{signed(2, 2, 5, 2), signed(2, 2, 5, 2)}
	beams := int32s([]int{1, 2, 5}, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0)
	ms("MultiHeadAttention", "a buffer of beams", attrs{heads}, signed(2, 1, 4), signed(2, 1, 4), signed(2, 1, 4), signed(12), nil, nil, past[0], past[1], int32s([]int{1}, 3), beams).outs = 3
	ms("DecoderMaskedMultiHeadAttention", "a buffer", attrs{heads, i("past_present_share_buffer", 1)}, signed(2, 1, 4), signed(2, 1, 4), signed(2, 1, 4), int32s([]int{2, 4}, 1, 0, 1, 1, 0, 1, 1, 1),
		signed(1, 2, 1, 4), past[0], past[1], int32s([]int{1}, 3), nil, nil, signed(12)).outs = 4
	ms("DecoderMaskedMultiHeadAttention", "beams", attrs{heads, i("past_present_share_buffer", 1)}, signed(2, 1, 4), signed(2, 1, 4), signed(2, 1, 4), nil, nil, past[0], past[1],
		int32s([]int{1}, 3), int32s([]int{1}, 2), beams)
	ms("DecoderMaskedMultiHeadAttention", "keys of another sequence", attrs{heads}, signed(2, 1, 4), signed(2, 2, 3, 2), signed(2, 2, 3, 2))
	ms("MultiHeadAttention", "bias", attrs{heads}, signed(2, 3, 4), signed(2, 5, 4), signed(2, 5, 4), signed(12))
	ms("MultiHeadAttention", "mask, added bias", attrs{heads, f("scale", 0.4)}, signed(1, 3, 4), signed(1, 5, 4), signed(1, 5, 4), nil, int32s([]int{1, 5}, 1, 1, 0, 1, 1), signed(1, 2, 3, 5))
	ms("MultiHeadAttention", "past and present", attrs{heads, i("unidirectional", 1)}, signed(1, 2, 4), signed(1, 2, 4), signed(1, 2, 4), nil, nil, nil, signed(1, 2, 3, 2), signed(1, 2, 3, 2)).outs = 3
	ms("MultiHeadAttention", "keys with an axis of heads", attrs{heads}, signed(2, 3, 4), signed(2, 2, 5, 2), signed(2, 2, 5, 2))
	lens, total := int32s([]int{2}, 2, 2), int32s([]int{}, 3)
	ms("GroupQueryAttention", "first run", attrs{i("num_heads", 4), i("kv_num_heads", 2)}, signed(2, 3, 8), signed(2, 3, 4), signed(2, 3, 4), nil, nil, lens, total)
	ms("GroupQueryAttention", "caches, window, softcap", attrs{i("num_heads", 4), i("kv_num_heads", 2), i("local_window_size", 3), f("softcap", 2), f("scale", 0.6)},
		signed(2, 1, 8), signed(2, 1, 4), signed(2, 1, 4), signed(2, 2, 4, 2), signed(2, 2, 4, 2), int32s([]int{2}, 3, 2), int32s([]int{}, 4)).outs = 3
	ms("GroupQueryAttention", "packed, rotary", attrs{i("num_heads", 2), i("kv_num_heads", 1), i("do_rotary", 1)},
		signed(2, 3, 16), nil, nil, nil, nil, lens, total, signed(4, 2), signed(4, 2))
	ms("GroupQueryAttention", "norms, part of a rotation, bias, scores", attrs{i("num_heads", 2), i("kv_num_heads", 1), i("do_rotary", 1), i("qk_output", 1)},
		signed(2, 3, 8), signed(2, 3, 4), signed(2, 3, 4), nil, nil, lens, total, signed(4, 1), signed(4, 1), nil, signed(1, 2, 3, 3), nil, nil, nil, signed(4), signed(4)).outs = 4
	ms("GroupQueryAttention", "not causal, probabilities", attrs{i("num_heads", 2), i("kv_num_heads", 2), i("causal", 0), i("qk_output", 2)},
		signed(1, 3, 4), signed(1, 3, 4), signed(1, 3, 4), nil, nil, int32s([]int{1}, 2), total).outs = 4
	ms("SparseAttention", "two layouts", attrs{i("num_heads", 2), i("kv_num_heads", 1), i("sparse_block_size", 2)}, signed(1, 2, 4), signed(1, 2, 2), signed(1, 2, 2),
		signed(1, 1, 6, 2), signed(1, 1, 6, 2), int32s([]int{2, 4}, 0, 1, 3, 5, 0, 1, 2, 3), int32s([]int{2, 5}, 0, 0, 1, 0, 2, 0, 1, 2, -1, -1), int32s([]int{1}, 5), int32s([]int{1}, 5)).outs = 3
	ms("RotaryEmbedding", "part of each head", attrs{i("num_heads", 2), i("rotary_embedding_dim", 2)}, signed(2, 2, 3, 4), intsOf([]int{2, 3}, 0, 1, 2, 3, 1, 0), signed(4, 1), signed(4, 1))
	ms("RotaryEmbedding", "", attrs{i("num_heads", 2)}, signed(2, 3, 8), intsOf([]int{2, 3}, 0, 1, 2, 3, 1, 0), signed(4, 2), signed(4, 2))
	ms("RotaryEmbedding", "one position, interleaved", attrs{i("interleaved", 1)}, signed(2, 2, 3, 4), ints(1), signed(5, 2), signed(5, 2))

	ms("MoE", "two of three, by their softmax", attrs{i("k", 2), i("normalize_routing_weights", 1), s("activation_type", "silu")},
		signed(5, 3), signed(5, 3), signed(3, 4, 3), signed(3, 4), signed(3, 3, 4), signed(3, 3))
	ms("MoE", "swiglu", attrs{i("k", 1), s("activation_type", "swiglu"), i("swiglu_fusion", 1), f("activation_beta", 1), f("swiglu_limit", 2)},
		signed(2, 2, 3), signed(4, 3), signed(3, 8, 3), nil, signed(3, 3, 4))

	uint8s := func(shape []int, v ...uint8) *gradInput { return fixed(tensor.New(v, shape...)) }
	exact := func(c *gradCase) { c.step, c.tol = 0.25, 1e-4 } // of what is linear in each number, in float32
	bytes := func(n int) []uint8 {
		v := make([]uint8, n)
		for i := range v {
			v[i] = uint8(37*i + 11)
		}
		return v
	}
	exact(ms("MatMulIntegerToFloat", "zero points, bias", nil, uint8s([]int{2, 3}, bytes(6)...), uint8s([]int{3, 2}, bytes(6)...),
		single(signed(1)), single(signed(2)), uint8s([]int{}, 100), uint8s([]int{2}, 90, 7), single(signed(2))))
	exact(ms("MatMulNBits", "", attrs{i("K", 16), i("N", 2), i("bits", 4), i("block_size", 16)}, single(signed(3, 16)), uint8s([]int{2, 1, 8}, bytes(16)...), single(signed(2))))
	exact(ms("GatherBlockQuantized", "", attrs{i("block_size", 16), i("bits", 8), i("gather_axis", 0), i("quantize_axis", 1)}, uint8s([]int{3, 16}, bytes(48)...), ints(2, 0, 2), single(signed(3, 1))))
	ms("MatMulBnb4", "", attrs{i("K", 5), i("N", 3), i("block_size", 16)}, signed(2, 5), uint8s([]int{8}, bytes(8)...), uniform(0.1, 0.9, 1))
	ms("QMoE", "", attrs{i("k", 2), s("activation_type", "silu"), i("expert_weight_bits", 8)}, signed(3, 4), signed(3, 3),
		uint8s([]int{3, 2, 4}, bytes(24)...), uniform(0.001, 0.01, 3, 2), signed(3, 2), uint8s([]int{3, 4, 2}, bytes(24)...), uniform(0.001, 0.01, 3, 4), signed(3, 4))
	for _, domain := range []string{"", "com.microsoft"} {
		for name, in := range map[string][]*gradInput{
			"one scale":     {uint8s([]int{2, 3}, bytes(6)...), single(signed()), uint8s([]int{}, 100)},
			"one of a list": {uint8s([]int{2, 3}, bytes(6)...), single(signed(1))},
			"columns":       {uint8s([]int{2, 3, 2}, bytes(12)...), single(signed(3)), uint8s([]int{3}, 100, 3, 7)},
		} {
			c := ms("DequantizeLinear", name, nil, in...)
			exact(c)
			if c.domain = domain; domain == "" {
				c.opset = 21
			}
		}
	}
	refused := func(c *gradCase) { c.refused = "straight-through" }
	for _, op := range []string{"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Upsample", "ReorderInput", "ReorderOutput"} {
		var as attrs
		switch op {
		case "MaxPool", "AveragePool":
			as = attrs{is("kernel_shape", 2, 2), is("pads", 0, 1, 1, 0)}
		case "Upsample":
			as = attrs{is("scales", 1, 1, 2, 3), s("mode", "linear")}
		case "ReorderInput":
			as = attrs{i("channels_last", 1)}
		case "ReorderOutput":
			as = attrs{i("channels", 12)}
		}
		ms(op, "blocks", as, signed(1, 16, 3, 3)).domain = "com.microsoft.nchwc"
	}
	ms("Conv", "blocks, sum", attrs{s("activation", "Tanh"), is("kernel_shape", 1, 2)}, signed(1, 16, 2, 3), signed(16, 16, 1, 2), signed(16), signed(1, 16, 2, 2)).domain = "com.microsoft.nchwc"
	for _, domain := range []string{"", "com.microsoft"} {
		c := ms("QuantizeLinear DequantizeLinear", "refused", nil, single(signed(2, 3)), fixed(tensor.Scalar(float32(0.1))))
		refused(c)
		if c.domain = domain; domain == "" {
			c.opset = 21
		}
		c.graph = func(b *onnx.Builder, in []*onnx.Value) []*onnx.Value {
			q := onnx.NewNode("QuantizeLinear", in, "q")
			q.Domain = domain
			d := onnx.NewNode("DequantizeLinear", []*onnx.Value{b.Add(q)[0], in[1]}, "d")
			d.Domain = domain
			return b.Add(d)
		}
	}
	cache := fixed(tensor.New(make([]int8, 32), 1, 1, 4, 8))
	refused(ms("GroupQueryAttention", "a cache of bytes", attrs{i("num_heads", 1), i("kv_num_heads", 1), s("k_quant_type", "PER_TENSOR"), s("v_quant_type", "PER_TENSOR")},
		single(signed(1, 1, 8)), single(signed(1, 1, 8)), single(signed(1, 1, 8)), cache, cache, int32s([]int{1}, 2), int32s([]int{}, 3), nil, nil, nil, nil, nil,
		fixed(tensor.New([]float32{0.1}, 1)), fixed(tensor.New([]float32{0.1}, 1))))
	refused(ms("DynamicQuantizeMatMul", "refused", nil, single(signed(2, 3)), uint8s([]int{3, 2}, bytes(6)...), single(signed(1))))
}
