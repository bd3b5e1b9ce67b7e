package runtime

import (
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// blocked keeps images with their channels in blocks of a register from one convolution to the next, which then has nothing to gather. Values go
// in and out of that layout where an operator needs it the other way.
func blocked(r *rewriter) {
	if kernel.Block() == 0 || !slices.ContainsFunc(r.graph.Nodes, r.convolves) {
		return
	}
	b := &blocker{rewriter: r, twins: map[*onnx.Value]*onnx.Value{}}
	nodes := r.graph.Nodes
	for _, n := range nodes {
		if fresh := b.lower(n); fresh == nil {
			b.nodes = append(b.nodes, n)
		} else {
			b.put(fresh, n)
		}
	}
	r.graph.Nodes = b.nodes
	// Twins that nothing needs back.
	for i := len(b.nodes) - 1; i >= 0; i-- {
		if n := b.nodes[i]; n.Domain == ops.Internal && n.Op == "FromBlocked" && !r.outputs[n.Outputs[0]] && len(n.Outputs[0].Users()) == 0 {
			r.graph.Remove(n)
			delete(r.graphOf, n)
		}
	}
}

type blocker struct {
	*rewriter
	nodes []*onnx.Node                // that are in their place
	twins map[*onnx.Value]*onnx.Value // in blocks
}

// internal is an operator of the internal domain.
func internal(op string, inputs []*onnx.Value, attrs ...*onnx.Attribute) *onnx.Node {
	n := onnx.NewNode(op, inputs)
	n.Domain, n.Attrs = ops.Internal, attrs
	return n
}

// put adds fresh, which computes in blocks what n computed, and its way back.
func (b *blocker) put(fresh, n *onnx.Node) {
	out := n.Outputs[0]
	twin := &onnx.Value{Name: out.Name}
	fresh.Name = n.Name
	fresh.SetOutput(0, twin)
	back := internal("FromBlocked", []*onnx.Value{twin}, onnx.IntAttr("channels", int64(b.channels(out))))
	back.Name = n.Name
	n.Outputs[0] = nil
	back.SetOutput(0, out)
	for i := range n.Inputs {
		n.SetInput(i, nil)
	}
	b.twins[out] = twin
	delete(b.graphOf, n)
	for _, m := range []*onnx.Node{fresh, back} {
		b.nodes = append(b.nodes, m)
		b.graphOf[m] = b.graph
	}
}

// convolves reports whether n is a convolution that can be computed in blocks.
func (r *rewriter) convolves(n *onnx.Node) bool {
	if !is(n, "Conv") && !(n.Op == "Conv" && n.Domain == ops.Internal) {
		return false
	}
	w, bias := r.constant(n.Inputs[1]), r.constant(n.Input(2))
	return w != nil && w.DType() == tensor.Float32 && (n.Input(2) == nil || bias != nil && bias.DType() == tensor.Float32) &&
		r.infos[n.Inputs[0]].Rank() == w.Rank() && ops.BlockableConv(w.Shape(), n.Int("group", 1)) && w.Shape()[0] >= kernel.Block()/2
}

// image reports whether v can be held in blocks: float32s, of one or two spatial axes.
func (b *blocker) image(v *onnx.Value) bool {
	i := b.infos[v]
	return v != nil && i.Kind == onnx.TensorType && i.DType == tensor.Float32 && i.Ranked && (len(i.Shape) == 3 || len(i.Shape) == 4)
}

// channels is the number of v's channels, negative if it is not known.
func (b *blocker) channels(v *onnx.Value) int { return b.infos[v].Shape[1].N }

// twin is v in blocks, nil if it cannot be.
func (b *blocker) twin(v *onnx.Value) *onnx.Value {
	if t := b.twins[v]; t != nil || !b.image(v) {
		return t
	}
	n := internal("ToBlocked", []*onnx.Value{v})
	n.Name = v.Name
	t := &onnx.Value{Name: v.Name}
	n.SetOutput(0, t)
	b.nodes = append(b.nodes, n)
	b.graphOf[n] = b.graph
	b.twins[v] = t
	return t
}

// pointwise are the operators on single elements that keep finite numbers finite.
var pointwise = []string{"Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Gelu", "Swish", "Mish", "Erf",
	"Abs", "Neg", "ThresholdedRelu"}

// lower is n on images in blocks, nil if it had better stay as it is.
func (b *blocker) lower(n *onnx.Node) *onnx.Node {
	if len(n.Outputs) != 1 || n.Outputs[0] == nil || !b.image(n.Outputs[0]) || b.channels(n.Outputs[0]) < 0 || len(n.Inputs) == 0 || n.Inputs[0] == nil {
		return nil
	}
	if b.convolves(n) {
		return b.conv(n)
	}
	if onnx.CanonicalDomain(n.Domain) != "" {
		return nil
	}
	x := b.twins[n.Inputs[0]]
	// same is n on x in the place of its first input.
	same := func() *onnx.Node {
		fresh := onnx.NewNode(n.Op, append([]*onnx.Value{x}, n.Inputs[1:]...))
		fresh.Attrs, fresh.Opset, fresh.Domain = n.Attrs, n.Opset, n.Domain
		return fresh
	}
	rank := b.infos[n.Outputs[0]].Rank()
	if x == nil && n.Op == "AveragePool" {
		x = b.twin(n.Inputs[0]) // it is much quicker so
	}
	switch {
	case n.Op == "Add" || n.Op == "Mul" || n.Op == "Sub":
		return b.binary(n)
	case n.Op == "Concat":
		return b.concat(n)
	case x == nil:
	case slices.Contains(pointwise, n.Op):
		return same()
	case n.Op == "Clip", n.Op == "Max" || n.Op == "Min":
		for _, v := range n.Inputs[1:] {
			if _, ok := b.scalar(v); v != nil && !ok {
				return nil
			}
		}
		return same()
	case n.Op == "BatchNormalization":
		return b.batchNorm(n, x)
	case n.Op == "MaxPool" && n.Int("storage_order", 0) == 0:
		return internal("BlockedMaxPool", []*onnx.Value{x}, n.Attrs...)
	case n.Op == "AveragePool" && n.Int("ceil_mode", 0) == 0 && !slices.Contains([]string{"SAME_UPPER", "SAME_LOWER"}, n.Str("auto_pad", "")) &&
		(n.Int("count_include_pad", 0) == 1 || !slices.ContainsFunc(n.Ints("pads", nil), func(p int64) bool { return p != 0 })):
		return internal("BlockedAveragePool", []*onnx.Value{x}, n.Attrs...)
	case n.Op == "Resize":
		return b.resize(n, x)
	case n.Op == "GlobalAveragePool", n.Op == "ReduceMean" && n.Int("keepdims", 1) == 1 && b.reducesSpatial(n, rank):
		return internal("BlockedMean", []*onnx.Value{x})
	}
	return nil
}

func (b *blocker) conv(n *onnx.Node) *onnx.Node {
	w := b.constant(n.Inputs[1])
	group := int(n.Int("group", 1))
	channels, depthwise := w.Shape()[1]*group, group > 1 && w.Shape()[1] == 1
	x := b.twins[n.Inputs[0]]
	if x == nil {
		// A few channels can be read as they are; planes of many are too far apart.
		if x = n.Inputs[0]; depthwise || channels >= kernel.Block() {
			if x = b.twin(x); x == nil {
				return nil
			}
		}
	}
	in := []*onnx.Value{x, b.constants(n.Inputs[1]), b.constants(n.Input(2))}
	if v := n.Input(3); v != nil {
		residual := b.twin(v)
		if residual == nil {
			return nil
		}
		in = append(in, residual)
	}
	return internal("BlockedConv", in, n.Attrs...)
}

// constants is v as a constant of the graph.
func (b *blocker) constants(v *onnx.Value) *onnx.Value {
	if v == nil || v.Const != nil {
		return v
	}
	return b.init(v, b.known[v])
}

// perChannel is the numbers of a constant that has one for each of that many channels of an image of that rank; one number serves all.
func (b *blocker) perChannel(v *onnx.Value, channels, rank int) []float32 {
	t := b.constant(v)
	if t == nil || t.DType() != tensor.Float32 || t.Rank() > rank || t.Len() != 1 && t.Len() != channels {
		return nil
	}
	if t.Len() == channels && channels != 1 {
		if at := t.Rank() - (rank - 1); at < 0 || t.Shape()[at] != channels {
			return nil
		}
	}
	out := make([]float32, channels)
	for i := range out {
		out[i] = tensor.Data[float32](t)[i%t.Len()]
	}
	return out
}

// scaled is x·scale + bias, either of which may be nil.
func (b *blocker) scaled(n *onnx.Node, x *onnx.Value, scale, bias []float32) *onnx.Node {
	in := []*onnx.Value{x, nil, nil}
	for i, v := range [][]float32{scale, bias} {
		if v != nil {
			in[i+1] = b.init(n.Outputs[0], ops.BlockedConstant(v, b.infos[n.Outputs[0]].Rank()))
		}
	}
	return internal("BlockedScale", in)
}

// binary lowers operators on two images, of one size or one of them with a number for each channel.
func (b *blocker) binary(n *onnx.Node) *onnx.Node {
	if len(n.Inputs) != 2 || b.since(n) < 7 {
		return nil
	}
	out := n.Outputs[0]
	channels, rank := b.channels(out), b.infos[out].Rank()
	for i, v := range n.Inputs {
		x, o := b.twins[v], n.Inputs[1-i]
		if x == nil || b.channels(v) != channels {
			continue
		}
		if b.perhapsOfOneSize(v, o) { // whether or not they are: lanes are an axis like others, of one size in both
			in := []*onnx.Value{x, x}
			in[1-i] = b.twin(o)
			fresh := onnx.NewNode(n.Op, in)
			fresh.Opset = n.Opset
			return fresh
		}
		if !b.sameShape(v, out) {
			continue
		}
		if t := b.constant(o); t != nil {
			numbers := b.perChannel(o, channels, rank)
			switch {
			case numbers == nil:
				return nil
			case n.Op == "Mul":
				return b.scaled(n, x, numbers, nil)
			case n.Op == "Sub" && i == 0:
				for k := range numbers {
					numbers[k] = -numbers[k]
				}
			case n.Op == "Sub":
				return nil
			}
			return b.scaled(n, x, nil, numbers)
		}
		if !b.image(o) || b.infos[o].Rank() != rank || b.channels(o) != channels {
			continue
		}
		if gate := b.infos[o].Shape; n.Op == "Mul" && !slices.ContainsFunc(gate[2:], func(d ops.Dim) bool { return d.N != 1 }) {
			return internal("BlockedScale", []*onnx.Value{x, b.twin(o)})
		}
	}
	return nil
}

// resize lowers a Resize along spatial axes alone, by constant scales or to constant sizes: the lanes of a block are one more axis that stays.
func (b *blocker) resize(n *onnx.Node, x *onnx.Value) *onnx.Node {
	rank := b.infos[n.Outputs[0]].Rank()
	if b.since(n) < 11 || n.Attr("axes") != nil || n.Str("keep_aspect_ratio_policy", "stretch") != "stretch" ||
		slices.Contains([]string{"tf_crop_and_resize", "tf_half_pixel_for_nn"}, n.Str("coordinate_transformation_mode", "")) {
		return nil
	}
	in := []*onnx.Value{x, nil, nil, nil}
	scales, sizes := b.constant(n.Input(2)), b.constant(n.Input(3))
	switch {
	case scales != nil && scales.Len() == rank && (n.Input(3) == nil || sizes != nil && sizes.Len() == 0):
		if tensor.Float64At(scales, 0) != 1 || tensor.Float64At(scales, 1) != 1 || scales.DType() != tensor.Float32 {
			return nil
		}
		in[2] = b.init(n.Outputs[0], tensor.New(append(slices.Clone(tensor.Data[float32](scales)), 1), rank+1))
	case sizes != nil && sizes.Len() == rank && (n.Input(2) == nil || scales != nil && scales.Len() == 0):
		to, err := sizes.Int64s()
		from := b.infos[n.Inputs[0]].Shape
		if err != nil || int64(from[0].N) != to[0] || int64(from[1].N) != to[1] {
			return nil
		}
		lanes := int64(kernel.Block())
		to = append(slices.Clone(to), lanes)
		to[1] = (to[1] + lanes - 1) / lanes
		in[3] = b.init(n.Outputs[0], tensor.New(to, rank+1))
	default:
		return nil
	}
	fresh := onnx.NewNode("Resize", in)
	fresh.Attrs, fresh.Opset = n.Attrs, n.Opset
	return fresh
}

// perhapsOfOneSize reports whether two images, no constants, have as many channels, and other sizes that are not known to differ,
// as those do of which one alone is known to be 1.
func (b *blocker) perhapsOfOneSize(v, o *onnx.Value) bool {
	if !b.image(v) || !b.image(o) || b.constant(o) != nil || b.infos[v].Rank() != b.infos[o].Rank() || b.channels(v) != b.channels(o) {
		return false
	}
	for i, d := range b.infos[v].Shape {
		if e := b.infos[o].Shape[i]; d.N != e.N && (d.Known() && e.Known() || d.N == 1 || e.N == 1) {
			return false
		}
	}
	return true
}

// batchNorm lowers a batch norm of inference that no convolution has taken in.
func (b *blocker) batchNorm(n *onnx.Node, x *onnx.Value) *onnx.Node {
	line, ok := b.lineOf(n)
	if !ok {
		return nil
	}
	scale, bias := make([]float32, len(line)), make([]float32, len(line))
	for i, l := range line {
		scale[i], bias[i] = float32(l[0]), float32(l[1])
	}
	return b.scaled(n, x, scale, bias)
}

// concat lowers Concat along the channels: all inputs but the last must fill their blocks.
func (b *blocker) concat(n *onnx.Node) *onnx.Node {
	rank := b.infos[n.Outputs[0]].Rank()
	if axis := n.Int("axis", 1); axis != 1 && axis != int64(1-rank) || !slices.ContainsFunc(n.Inputs, func(v *onnx.Value) bool { return b.twins[v] != nil }) {
		return nil
	}
	for i, v := range n.Inputs {
		if !b.image(v) || b.channels(v) < 0 || i < len(n.Inputs)-1 && b.channels(v)%kernel.Block() != 0 {
			return nil
		}
	}
	in := make([]*onnx.Value, len(n.Inputs))
	for i, v := range n.Inputs {
		in[i] = b.twin(v)
	}
	fresh := onnx.NewNode("Concat", in)
	fresh.Opset = n.Opset
	fresh.SetAttr(onnx.IntAttr("axis", 1))
	return fresh
}
