package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	generators["com.microsoft.GreedySearch"] = func(g *gen) {
		g.plain, g.declared, g.dtype = true, true, tensor.Float32
		const words = 7
		b, length, heads, size := g.in(1, 3), g.in(1, 4), g.in(1, 2), g.in(1, 3)
		most := length + g.in(1, 6)
		ints := func(lo, hi int, shape ...int) *tensor.Tensor {
			t, _ := tensor.Zeros(tensor.Int32, shape...)
			for i := range t.Len() {
				tensor.Data[int32](t)[i] = int32(g.in(lo, hi))
			}
			return t
		}
		number := func(v int) *onnx.Value { return g.feed(tensor.New([]int32{int32(v)}, 1)) }

		// A decoder in which each token sees the mean of what the mask lets it see of the states so far, and its position.
		d := g.b.Sub("decoder")
		ids := d.Input("input_ids", tensor.Int32, "batch", "sequence")
		positions := d.Input("position_ids", tensor.Int32, "batch", "sequence")
		mask := d.Input("attention_mask", tensor.Int32, "batch", "total")
		past := d.Input("past_0", tensor.Float32, 2, "batch", heads, "past", size)
		table := func(rows int) *onnx.Value {
			t := g.tensor(tensor.Float32, rows, heads*size)
			for i := range t.Len() {
				tensor.SetFloat64At(t, i, g.NormFloat64())
			}
			return d.Const(t)
		}
		list := func(v ...int64) *onnx.Value { return d.Const(tensor.New(v, len(v))) }
		x := d.Op("Add", d.Op("Gather", table(words), ids), d.Op("Gather", table(most), positions))
		split := d.Node("Transpose", []*onnx.Value{d.Op("Reshape", x, list(0, 0, int64(heads), int64(size)))}, onnx.IntsAttr("perm", 0, 2, 1, 3))
		split = d.Op("Unsqueeze", split, list(0))
		both := d.Node("Concat", []*onnx.Value{split, d.Op("Tanh", split)}, onnx.IntAttr("axis", 0))
		present := d.Node("Concat", []*onnx.Value{past, both}, onnx.IntAttr("axis", 3))
		weights := d.Op("Unsqueeze", d.Node("Cast", []*onnx.Value{mask}, onnx.IntAttr("to", int64(tensor.Float32))), list(0, 2, 4))
		seen := d.Op("ReduceSum", d.Op("Mul", present, weights), list(3))
		of := d.Node("Gather", []*onnx.Value{seen, d.Const(tensor.Scalar(int64(1)))}, onnx.IntAttr("axis", 0))
		x = d.Op("Add", x, d.Op("Reshape", of, list(0, 1, int64(heads*size))))
		logits := d.Op("MatMul", x, d.Node("Transpose", []*onnx.Value{table(words)}))
		d.Output("logits", logits, tensor.Float32, "batch", "sequence", words)
		d.Output("present_0", present, tensor.Float32, 2, "batch", heads, "total", size)

		g.attrs = append(g.attrs, onnx.GraphAttr("decoder", d.Graph()))
		// Where all rows end early, ONNX Runtime leaves in the rest of the output what was in memory. So they end at the last token, or not at all.
		ends := g.chance(2)
		if ends {
			g.int("eos_token_id", g.IntN(words))
		} else {
			g.int("eos_token_id", words+1)
		}
		g.int("pad_token_id", g.IntN(words))
		g.maybe("no_repeat_ngram_size", 1, 2, 3)
		inputs := []*onnx.Value{g.feed(ints(0, words-1, b, length)), number(most), nil, nil, nil, nil, nil}
		if ends {
			inputs[2] = number(most - 1)
		}
		if g.chance(2) {
			inputs[3] = g.feed(tensor.New([]float32{0.5 + 1.5*g.Float32()}, 1))
		}
		some := func(shape ...int) *onnx.Value { // the first word is always allowed
			t := ints(0, 1, shape...)
			for i := 0; i < t.Len(); i += words {
				tensor.Data[int32](t)[i] = 1
			}
			return g.feed(t)
		}
		if g.chance(3) {
			inputs[4] = some(words)
		}
		if g.chance(3) {
			inputs[5] = some(b, words)
		}
		if g.chance(3) {
			t := ints(1, 1, b, length)
			for i := range b {
				for k := range g.IntN(length) {
					tensor.Data[int32](t)[i*length+k] = 0
				}
			}
			inputs[6] = g.feed(t)
		}
		g.node(1, inputs...)
	}
}
