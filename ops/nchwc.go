package ops

import (
	"fmt"
	"runtime"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"golang.org/x/sys/cpu"
)

const nchwc = "com.microsoft.nchwc"

// Operators on images whose channels are in blocks, which ONNX Runtime's optimizer writes into the models that it saves at its highest level. Their
// tensors have the shapes of ordinary images, with channels filled up to whole blocks, and so they are ordinary images here: only the
// weights, which are in the file, have to be put in another order. What the runtime makes of them is its own affair.
func init() {
	op := func(name string, minIn, maxIn int, expand func(g *Grad, n *Node) (*onnx.Value, error)) Op {
		return Op{Domain: nchwc, Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, Expand: func(g *Grad, n *Node) ([]*onnx.Value, error) {
			y, err := expand(g, n)
			return []*onnx.Value{y}, err
		}}
	}
	same := func(name string) Op {
		return op(name, 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) { return g.With(name, n.Attrs, n.Inputs[0]), nil })
	}
	register(
		op("ReorderInput", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			x := n.Inputs[0]
			if n.Int("channels_last", 0) != 0 {
				x = g.Transpose(x, 0, 3, 1, 2)
			}
			block, err := g.nchwcBlock()
			if err != nil {
				return nil, err
			}
			if info := g.Info(x); info.Rank() == 4 && info.Shape[1].Known() && info.Shape[1].N%block == 0 {
				return x, nil
			}
			size := g.Const(tensor.Scalar(int64(block)))
			more := g.Node("Mod", 1, []*onnx.Value{g.Neg(g.Dims(x, 1)), size})[0]
			return g.Op("Pad", x, g.Concat(g.Int64s(0, 0, 0, 0, 0), more, g.Int64s(0, 0))), nil
		}),
		op("ReorderOutput", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			x, channels := n.Inputs[0], n.Int("channels", 0)
			if channels < 1 {
				return nil, fmt.Errorf("channels %d is out of range", channels)
			}
			if info := g.Info(x); info.Rank() != 4 || int64(info.Shape[1].N) != channels {
				x = g.Op("Slice", x, g.Int64s(0), g.Int64s(channels), g.Int64s(1))
			}
			if n.Int("channels_last", 0) != 0 {
				x = g.Transpose(x, 0, 2, 3, 1)
			}
			return x, nil
		}),
		op("Conv", 2, 4, nchwcConv),
		same("MaxPool"), same("AveragePool"), same("GlobalMaxPool"), same("GlobalAveragePool"),
		op("Upsample", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			scales := n.Ints("scales", nil)
			var factors []float32
			for _, s := range scales {
				if s < 1 || s > 1<<20 {
					return nil, fmt.Errorf("scales %v are out of range", scales)
				}
				factors = append(factors, float32(s))
			}
			mode, places := n.Str("mode", "nearest"), n.Str("coordinate_transformation_mode", "asymmetric")
			if len(scales) != 4 || mode != "nearest" && mode != "linear" {
				return nil, fmt.Errorf("scales %v with mode %q are not supported", scales, mode)
			}
			if mode == "nearest" { // always the pixel below, whatever is said of places
				places = "asymmetric"
			}
			return g.With("Resize", []*onnx.Attribute{StringAttr("mode", mode), StringAttr("coordinate_transformation_mode", places), StringAttr("nearest_mode", "floor")},
				n.Inputs[0], nil, g.Const(tensor.New(factors, 4))), nil
		}),
	)
}

// nchwcConv is FusedConv with weights in blocks: of channels that are read and channels that are made, [O/b, I/b, h, w, b, b], or, where what is
// read is an ordinary image of fewer channels than a block has, or a single channel, of those that are made, [O/b, I, h, w, b].
func nchwcConv(g *Grad, n *Node) (*onnx.Value, error) {
	block, err := g.nchwcBlock()
	if err != nil {
		return nil, err
	}
	w := n.Inputs[1]
	shape, ok := n.In[1].Static()
	if !ok || len(shape) != 4 {
		return nil, fmt.Errorf("the shape of the weights must be known, and of rank 4")
	}
	o, i, kh, kw, b := int64(shape[0]), int64(shape[1]), int64(shape[2]), int64(shape[3]), int64(block)
	switch {
	case o%b != 0 || i >= b && i%b != 0:
		return nil, fmt.Errorf("weights of %v do not come in blocks of %d", shape, b)
	case i < b:
		w = g.Transpose(g.Op("Reshape", w, g.Int64s(o/b, i, kh, kw, b)), 0, 4, 1, 2, 3)
	default:
		w = g.Transpose(g.Op("Reshape", w, g.Int64s(o/b, i/b, kh, kw, b, b)), 0, 5, 1, 4, 2, 3)
	}
	w = g.Op("Reshape", w, g.Int64s(o, i, kh, kw))
	return g.fusedConv(n, n.Inputs[0], w)
}

// nchwcBlock is how many channels a block has in the model at hand. A file does not say: it is meant for the kind of processor that it was written on, where
// registers hold 8 or 16 numbers. Where no count of channels tells the two apart it is what ONNX Runtime takes on this machine.
func (g *Grad) nchwcBlock() (int, error) {
	switch g.blocks {
	case 8 | 16:
		return 0, fmt.Errorf("the model has blocks of 8 channels and blocks of 16")
	case 0:
		if runtime.GOARCH == "amd64" && !cpu.X86.HasAVX512F {
			return 8, nil
		}
		return 16, nil
	}
	return g.blocks, nil
}

// nchwcBlocks is the sizes of blocks that a model's nodes give away, together: 8, 16, both or neither.
func nchwcBlocks(m *onnx.Model) (blocks int) {
	m.Graph.Walk(func(graph *onnx.Graph) {
		for _, n := range graph.Nodes {
			if n.Domain != nchwc || n.Input(0) == nil {
				continue
			}
			from := n.Inputs[0].Def()
			blocked := from != nil && from.Domain == nchwc && from.Op != "ReorderOutput"
			switch {
			case n.Op == "Conv" && n.Input(1) != nil && n.Inputs[1].Const != nil && n.Inputs[1].Const.Rank() == 4:
				o, i := n.Inputs[1].Const.Shape()[0], n.Inputs[1].Const.Shape()[1]
				if o%16 != 0 || blocked && n.Int("group", 1) == 1 && i%16 != 0 {
					blocks |= 8
				} else if !blocked && i >= 8 && i < 16 { // too few for a block
					blocks |= 16
				}
			case n.Op == "ReorderOutput" && blocked && from.Op == "Conv" && from.Input(1) != nil && from.Inputs[1].Const != nil && from.Inputs[1].Const.Rank() == 4:
				if int64(from.Inputs[1].Const.Shape()[0])-n.Int("channels", 0) >= 8 { // more than fills up blocks of 8
					blocks |= 16
				}
			}
		}
	})
	return blocks
}
