// Package models builds the small networks that Retune ships, with fresh weights. Each is the network of the PyTorch module
// of the same name in models/export, with that module's parameter names and PyTorch's initial distributions; LSTM and GRU
// weights are kept as ONNX has them, under the names W, R and B. The files beside this package are PyTorch's exports of them.
package models

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

const opset = 17

// builder adds the layers of torch.nn to a graph.
type builder struct {
	*onnx.Builder
	random *rand.Rand
}

func newBuilder(name string, seed uint64) *builder {
	return &builder{onnx.NewBuilder(name, opset), rand.New(rand.NewPCG(seed, 0))}
}

type values = []*onnx.Value

// uniform is a weight with elements between -bound and bound.
func (b *builder) uniform(name string, bound float64, shape ...int) *onnx.Value {
	return b.weight(name, func() float64 { return bound * (2*b.random.Float64() - 1) }, shape...)
}

func (b *builder) full(name string, x float64, shape ...int) *onnx.Value {
	return b.weight(name, func() float64 { return x }, shape...)
}

func (b *builder) weight(name string, draw func() float64, shape ...int) *onnx.Value {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(draw())
	}
	return b.Init(name, tensor.New(data, shape...))
}

func (b *builder) ints(v ...int64) *onnx.Value { return b.Const(tensor.New(v)) }

func (b *builder) scalar(v float32) *onnx.Value { return b.Const(tensor.Scalar(v)) }

// linear is torch.nn.Linear: weight [out, in], bias [out].
func (b *builder) linear(name string, x *onnx.Value, in, out int, bias bool) *onnx.Value {
	bound := 1 / math.Sqrt(float64(in))
	w := b.Node("Transpose", values{b.uniform(name+".weight", bound, out, in)}, onnx.IntsAttr("perm", 1, 0))
	y := b.Op("MatMul", x, w)
	if bias {
		y = b.Op("Add", y, b.uniform(name+".bias", bound, out))
	}
	return y
}

// embedding is torch.nn.Embedding: weight [vocab, width]; the row of padding, if it is not negative, is zero.
func (b *builder) embedding(name string, ids *onnx.Value, vocab, width, padding int) *onnx.Value {
	i := 0
	w := b.weight(name+".weight", func() float64 {
		x := b.random.NormFloat64()
		if row := i / width; row == padding {
			x = 0
		}
		i++
		return x
	}, vocab, width)
	return b.Op("Gather", w, ids)
}

func (b *builder) layerNorm(name string, x *onnx.Value, width int) *onnx.Value {
	return b.Node("LayerNormalization", values{x, b.full(name+".weight", 1, width), b.full(name+".bias", 0, width)}, onnx.FloatAttr("epsilon", 1e-5))
}

// recurrent is an LSTM, GRU or RNN of one layer over x [time, batch, in]: Y [time, directions, batch, hidden] and the last states
// [directions, batch, hidden]. lens and initial states may be nil.
func (b *builder) recurrent(op, name string, x *onnx.Value, in, hidden, directions int, lens *onnx.Value, initial ...*onnx.Value) values {
	gates := map[string]int{"RNN": 1, "GRU": 3, "LSTM": 4}[op]
	bound := 1 / math.Sqrt(float64(hidden))
	w := b.uniform(name+".W", bound, directions, gates*hidden, in)
	r := b.uniform(name+".R", bound, directions, gates*hidden, hidden)
	bias := b.uniform(name+".B", bound, directions, 2*gates*hidden)
	attrs := []*onnx.Attribute{onnx.IntAttr("hidden_size", int64(hidden))}
	if directions == 2 {
		attrs = append(attrs, onnx.StringAttr("direction", "bidirectional"))
	}
	outs := 2
	switch op {
	case "LSTM":
		outs = 3
	case "GRU":
		attrs = append(attrs, onnx.IntAttr("linear_before_reset", 1)) // PyTorch's form
	}
	return b.Multi(op, outs, append(values{x, w, r, bias, lens}, initial...), attrs...)
}

// positive refuses sizes that no network has.
func positive(sizes ...int) error {
	for _, s := range sizes {
		if s < 1 || s > 1<<20 {
			return fmt.Errorf("models: a size is %d, which is not between 1 and %d", s, 1<<20)
		}
	}
	return nil
}

// SimpleRNN is the cell of PyTorch's tutorial: from input [batch, input] and hidden [batch, hidden]
//
//	combined = cat(input, hidden)
//	hidden_next = i2h(combined)
//	output = i2o(combined)
func SimpleRNN(input, hidden, output int, seed uint64) (*onnx.Model, error) {
	if err := positive(input, hidden, output); err != nil {
		return nil, err
	}
	b := newBuilder("SimpleRNN", seed)
	x, h := b.Input("input", tensor.Float32, "batch", input), b.Input("hidden", tensor.Float32, "batch", hidden)
	combined := b.Node("Concat", values{x, h}, onnx.IntAttr("axis", 1))
	next := b.linear("i2h", combined, input+hidden, hidden, true)
	out := b.linear("i2o", combined, input+hidden, output, true)
	b.Output("output", out, tensor.Float32, "batch", output)
	b.Output("hidden_next", next, tensor.Float32, "batch", hidden)
	return b.Model()
}

// FeedbackConfig describes a [Feedback] network.
type FeedbackConfig struct {
	Input      int
	Hidden     []int // units of each hidden layer, from the input up
	Output     int
	Activation string  // the operator φ; "": Tanh
	Converge   bool    // run until no unit moves by Tolerance, not for a number of steps
	Tolerance  float32 // 0: 1e-5
	Seed       uint64
}

// Feedback is a network of hidden layers that all feed back. From zero, with the input h_0 = x [batch, input] held fixed, all layers step at
// once:
//
//	h_i(t+1) = φ(W_ii h_i + W_i,i-1 h_i-1 + W_i,o h_o)
//	h_o(t+1) = φ(W_oo h_o + W_o,N h_N)
//
// for a number of steps (the input "steps"), or until no unit moves by the tolerance but for at most "max_steps". The outputs are
// output [batch, output], state, which is all layers side by side, and, if it converges, count, the steps that it took.
func Feedback(c FeedbackConfig) (*onnx.Model, error) {
	if err := positive(append([]int{c.Input, c.Output, len(c.Hidden)}, c.Hidden...)...); err != nil {
		return nil, err
	}
	if c.Activation == "" {
		c.Activation = "Tanh"
	}
	if c.Tolerance == 0 {
		c.Tolerance = 1e-5
	}
	b := newBuilder("Feedback", c.Seed)
	x := b.Input("x", tensor.Float32, "batch", c.Input)
	limitName := "steps"
	if c.Converge {
		limitName = "max_steps"
	}
	limit := b.Input(limitName, tensor.Int64)
	sizes, total := append(append([]int{}, c.Hidden...), c.Output), 0
	for _, s := range sizes {
		total += s
	}
	batch := b.Node("Shape", values{x}, onnx.IntAttr("start", 0), onnx.IntAttr("end", 1))
	zeros := b.Node("Expand", values{b.scalar(0), b.Node("Concat", values{batch, b.ints(int64(total))}, onnx.IntAttr("axis", 0))})

	// The weights belong to the whole graph, so that they have one name each; the body captures them.
	matrix := func(name string, in, out int) *onnx.Value {
		w := b.uniform(name+".weight", 1/math.Sqrt(float64(in)), out, in)
		return b.Node("Transpose", values{w}, onnx.IntsAttr("perm", 1, 0))
	}
	type layer struct{ own, below, back *onnx.Value }
	var layers []layer
	below := c.Input
	for i, size := range c.Hidden {
		name := fmt.Sprint("hidden.", i)
		layers = append(layers, layer{matrix(name+".own", size, size), matrix(name+".below", below, size), matrix(name+".back", c.Output, size)})
		below = size
	}
	layers = append(layers, layer{own: matrix("output.own", c.Output, c.Output), below: matrix("output.below", below, c.Output)})

	body := &builder{b.Sub("step"), nil}
	body.Input("t", tensor.Int64)
	going := body.Input("going", tensor.Bool)
	state := body.Input("h", tensor.Float32, "batch", total)
	part := func(from, size int) *onnx.Value {
		return body.Op("Slice", state, body.ints(int64(from)), body.ints(int64(from+size)), body.ints(1))
	}
	var after values
	under, out, at := x, part(total-c.Output, c.Output), 0
	for i, l := range layers {
		own := part(at, sizes[i])
		sum := body.Op("Add", body.Op("MatMul", own, l.own), body.Op("MatMul", under, l.below))
		if l.back != nil {
			sum = body.Op("Add", sum, body.Op("MatMul", out, l.back))
		}
		after = append(after, body.Op(c.Activation, sum))
		under = own
		at += sizes[i]
	}
	next := body.Node("Concat", after, onnx.IntAttr("axis", 1))
	start := values{zeros}
	if c.Converge {
		move := body.Node("ReduceMax", values{body.Op("Abs", body.Op("Sub", next, state))}, onnx.IntAttr("keepdims", 0))
		body.Output("moving", body.Op("GreaterOrEqual", move, body.scalar(c.Tolerance)), tensor.Bool)
		body.Output("h_next", next, tensor.Float32, "batch", total)
		count := body.Input("n", tensor.Int64)
		body.Output("n_next", body.Op("Add", count, body.Const(tensor.Scalar(int64(1)))), tensor.Int64)
		start = append(start, b.Const(tensor.Scalar(int64(0))))
	} else {
		body.Output("still_going", body.Op("Identity", going), tensor.Bool)
		body.Output("h_next", next, tensor.Float32, "batch", total)
	}
	last := b.Multi("Loop", len(start), append(values{limit, b.Const(tensor.Scalar(true))}, start...), onnx.GraphAttr("body", body.Graph()))
	b.Output("output", b.Op("Slice", last[0], b.ints(int64(total-c.Output)), b.ints(int64(total)), b.ints(1)), tensor.Float32, "batch", c.Output)
	b.Output("state", last[0], tensor.Float32, "batch", total)
	if c.Converge {
		b.Output("count", last[1], tensor.Int64)
	}
	return b.Model()
}

// CharLSTM is a character language model: tokens [batch, time], states h0 and c0 [1, batch, hidden] → logits [batch, time, vocab], hn, cn.
func CharLSTM(vocab, embed, hidden int, seed uint64) (*onnx.Model, error) {
	if err := positive(vocab, embed, hidden); err != nil {
		return nil, err
	}
	b := newBuilder("CharLSTM", seed)
	tokens := b.Input("tokens", tensor.Int64, "batch", "time")
	h0, c0 := b.Input("h0", tensor.Float32, 1, "batch", hidden), b.Input("c0", tensor.Float32, 1, "batch", hidden)
	x := b.Node("Transpose", values{b.embedding("embed", tokens, vocab, embed, -1)}, onnx.IntsAttr("perm", 1, 0, 2))
	y := b.recurrent("LSTM", "lstm", x, embed, hidden, 1, nil, h0, c0)
	h := b.Node("Transpose", values{b.Op("Squeeze", y[0], b.ints(1))}, onnx.IntsAttr("perm", 1, 0, 2))
	b.Output("logits", b.linear("head", h, hidden, vocab, true), tensor.Float32, "batch", "time", vocab)
	b.Output("hn", y[1], tensor.Float32, 1, "batch", hidden)
	b.Output("cn", y[2], tensor.Float32, 1, "batch", hidden)
	return b.Model()
}

// LSTMClassifier classifies sequences by the last state of an LSTM: rows [time, batch, features] → logits [batch, classes].
func LSTMClassifier(features, hidden, classes int, seed uint64) (*onnx.Model, error) {
	if err := positive(features, hidden, classes); err != nil {
		return nil, err
	}
	b := newBuilder("LSTMClassifier", seed)
	rows := b.Input("rows", tensor.Float32, "time", "batch", features)
	y := b.recurrent("LSTM", "lstm", rows, features, hidden, 1, nil)
	b.Output("logits", b.linear("fc", b.Op("Squeeze", y[1], b.ints(0)), hidden, classes, true), tensor.Float32, "batch", classes)
	return b.Model()
}

// GRUClassifier classifies words by the last states of a bidirectional GRU: letters [batch, time], 0 where a word has ended, and lengths
// [batch] → logits [batch, classes].
func GRUClassifier(vocab, embed, hidden, classes int, seed uint64) (*onnx.Model, error) {
	if err := positive(vocab, embed, hidden, classes); err != nil {
		return nil, err
	}
	b := newBuilder("GRUClassifier", seed)
	letters, lengths := b.Input("letters", tensor.Int64, "batch", "time"), b.Input("lengths", tensor.Int64, "batch")
	x := b.Node("Transpose", values{b.embedding("embed", letters, vocab, embed, 0)}, onnx.IntsAttr("perm", 1, 0, 2))
	lens := b.Node("Cast", values{lengths}, onnx.IntAttr("to", int64(tensor.Int32)))
	y := b.recurrent("GRU", "gru", x, embed, hidden, 2, lens)
	h := b.Op("Reshape", b.Node("Transpose", values{y[1]}, onnx.IntsAttr("perm", 1, 0, 2)), b.ints(0, int64(2*hidden)))
	b.Output("logits", b.linear("fc", h, 2*hidden, classes, true), tensor.Float32, "batch", classes)
	return b.Model()
}

// MLP is linear layers fc1, fc2 … of these sizes, inputs first, with an activation's operator ("Relu", "Tanh" …) after each but the last; the last
// given stands for all that follow, and none for Relu.
func MLP(sizes []int, seed uint64, activations ...string) (*onnx.Model, error) {
	if err := positive(sizes...); err != nil {
		return nil, err
	}
	if len(sizes) < 2 {
		return nil, fmt.Errorf("models: an MLP needs the sizes of its input and of at least one layer, not %v", sizes)
	}
	if len(activations) == 0 {
		activations = []string{"Relu"}
	}
	b := newBuilder("MLP", seed)
	x := b.Input("pixels", tensor.Float32, "batch", sizes[0])
	for i, out := range sizes[1:] {
		if i > 0 {
			x = b.Op(activations[min(i-1, len(activations)-1)], x)
		}
		x = b.linear(fmt.Sprint("fc", i+1), x, sizes[i], out, true)
	}
	b.Output("logits", x, tensor.Float32, "batch", sizes[len(sizes)-1])
	return b.Model()
}

// ConvNet is two blocks of a 3×3 convolution, batch norm, ReLU and a max pooling by 2, then a linear layer: image [batch, channels, size,
// size] → logits [batch, classes]. Its batch norms are those of inference; finetune's mode "train" gives them the batch's statistics.
func ConvNet(channels, size, classes int, seed uint64) (*onnx.Model, error) {
	if err := positive(channels, size/4, classes); err != nil {
		return nil, err
	}
	b := newBuilder("ConvNet", seed)
	x := b.Input("image", tensor.Float32, "batch", channels, size, size)
	in := channels
	for i, out := range []int{8, 16} {
		bound := 1 / math.Sqrt(float64(in*9))
		x = b.Node("Conv", values{x, b.uniform(fmt.Sprintf("conv%d.weight", i+1), bound, out, in, 3, 3)}, onnx.IntsAttr("pads", 1, 1, 1, 1))
		bn := fmt.Sprintf("bn%d.", i+1)
		x = b.Node("BatchNormalization", values{x, b.full(bn+"weight", 1, out), b.full(bn+"bias", 0, out),
			b.full(bn+"running_mean", 0, out), b.full(bn+"running_var", 1, out)}, onnx.FloatAttr("epsilon", 1e-5), onnx.FloatAttr("momentum", 0.9))
		x = b.Node("MaxPool", values{b.Op("Relu", x)}, onnx.IntsAttr("kernel_shape", 2, 2), onnx.IntsAttr("strides", 2, 2))
		in = out
	}
	flat := in * (size / 4) * (size / 4)
	b.Output("logits", b.linear("fc", b.Node("Flatten", values{x}), flat, classes, true), tensor.Float32, "batch", classes)
	return b.Model()
}

// TransformerConfig describes a [Transformer].
type TransformerConfig struct {
	Vocab, Context, Width, Layers, Heads int
	Seed                                 uint64
}

// Transformer is a causal language model of pre-norm blocks with learned positions: tokens [batch, time], time at most Context →
// logits [batch, time, vocab].
func Transformer(c TransformerConfig) (*onnx.Model, error) {
	if err := positive(c.Vocab, c.Context, c.Width, c.Layers, c.Heads); err != nil {
		return nil, err
	}
	if c.Width%c.Heads != 0 {
		return nil, fmt.Errorf("models: a width of %d does not divide among %d heads", c.Width, c.Heads)
	}
	b := newBuilder("Transformer", c.Seed)
	tokens := b.Input("tokens", tensor.Int64, "batch", "time")
	size := c.Width / c.Heads
	zero, one := b.Const(tensor.Scalar(int64(0))), b.Const(tensor.Scalar(int64(1)))
	time := b.Op("Gather", b.Op("Shape", tokens), one)
	x := b.Op("Add", b.embedding("embed", tokens, c.Vocab, c.Width, -1),
		b.embedding("position", b.Op("Range", zero, time, one), c.Context, c.Width, -1))
	square := b.Op("Expand", b.scalar(float32(math.Inf(-1))), b.Node("Concat", values{b.Op("Unsqueeze", time, b.ints(0)), b.Op("Unsqueeze", time, b.ints(0))}, onnx.IntAttr("axis", 0)))
	mask := b.Node("Trilu", values{square, one}, onnx.IntAttr("upper", 1)) // -inf above the diagonal, 0 elsewhere
	split := func(v *onnx.Value, perm ...int64) *onnx.Value {
		return b.Node("Transpose", values{b.Op("Reshape", v, b.ints(0, 0, int64(c.Heads), int64(size)))}, onnx.IntsAttr("perm", perm...))
	}
	for i := range c.Layers {
		name := fmt.Sprintf("blocks.%d.", i)
		qkv := b.Multi("Split", 3, values{b.linear(name+"qkv", b.layerNorm(name+"norm1", x, c.Width), c.Width, 3*c.Width, false),
			b.ints(int64(c.Width), int64(c.Width), int64(c.Width))}, onnx.IntAttr("axis", 2))
		scores := b.Op("Mul", b.Op("MatMul", split(qkv[0], 0, 2, 1, 3), split(qkv[1], 0, 2, 3, 1)), b.scalar(float32(1/math.Sqrt(float64(size)))))
		y := b.Op("MatMul", b.Node("Softmax", values{b.Op("Add", scores, mask)}, onnx.IntAttr("axis", -1)), split(qkv[2], 0, 2, 1, 3))
		y = b.Op("Reshape", b.Node("Transpose", values{y}, onnx.IntsAttr("perm", 0, 2, 1, 3)), b.ints(0, 0, int64(c.Width)))
		x = b.Op("Add", x, b.linear(name+"proj", y, c.Width, c.Width, true))
		up := b.linear(name+"up", b.layerNorm(name+"norm2", x, c.Width), c.Width, 4*c.Width, true)
		// GELU as opset 17 spells it: u/2 · (1 + erf(u/√2)).
		gelu := b.Op("Mul", b.Op("Mul", up, b.scalar(0.5)), b.Op("Add", b.scalar(1), b.Op("Erf", b.Op("Mul", up, b.scalar(float32(math.Sqrt(0.5)))))))
		x = b.Op("Add", x, b.linear(name+"down", gelu, 4*c.Width, c.Width, true))
	}
	b.Output("logits", b.linear("head", b.layerNorm("norm", x, c.Width), c.Width, c.Vocab, false), tensor.Float32, "batch", "time", c.Vocab)
	return b.Model()
}
