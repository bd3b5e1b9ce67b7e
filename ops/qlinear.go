package ops

import (
	"fmt"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Convolutions of 8-bit integers, which are exact, and what rounds their results to 8 bits again. The kernels want channels last.
func init() {
	bytes := Of(tensor.Int8, tensor.Uint8)
	const why = "its inputs are quantized"
	register(
		Op{Name: "ConvInteger", Since: []int{10}, MinIn: 2, MaxIn: 4, Types: []TypeSet{bytes}, NoGrad: why, Estimate: estimateConvInteger, FLOPs: convFLOPs,
			Infer: func(n *Node) ([]Info, error) {
				return inferByteConv(n, n.In[0], n.In[1], Info{}, tensor.Int32, false)
			},
			Compile: func(n *Node) (Kernel, error) {
				b := newByteConv(n, byteConvInputs{x: 0, w: 1, xZero: 2, wZero: 3}, false)
				return func(c *Ctx) error { return b.run(c, tensor.Int32, nil) }, nil
			}},
	)
	for _, domain := range []string{"", "com.microsoft"} {
		op := Op{Domain: domain, Name: "QLinearConv", Since: []int{10}, MinIn: 8, MaxIn: 9, NoGrad: why, Estimate: estimateQLinearConv,
			FLOPs: func(c *Ctx) int64 { return tapFLOPs(c.Out(0).Len(), c.In(3)) },
			Types: []TypeSet{bytes, Of(tensor.Float32), bytes, bytes, Of(tensor.Float32), bytes, Of(tensor.Float32), bytes, Of(tensor.Int32)},
			Infer: func(n *Node) ([]Info, error) {
				return inferByteConv(n, n.In[0], n.In[3], n.Info(8), n.In[7].DType, channelsLast(n))
			},
			Compile: func(n *Node) (Kernel, error) {
				b := newByteConv(n, byteConvInputs{x: 0, xZero: 2, w: 3, wZero: 5}, channelsLast(n))
				return func(c *Ctx) error { return qLinearConv(c, b) }, nil
			}}
		if domain != "" {
			op.Since, op.Estimate = []int{1}, nil
		}
		register(op)
	}
}

// channelsLast reports whether images of n have their channels as their last axis, which com.microsoft knows.
func channelsLast(n *Node) bool { return n.Domain != "" && n.Int("channels_last", 0) != 0 }

// estimateConvInteger is the gradient of the same convolution of real numbers.
func estimateConvInteger(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, []*onnx.Value{g.real(dy[0])}, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		less := func(i int) *onnx.Value {
			x := g.real(in[i])
			if n.Has(i + 2) {
				zero := g.real(in[i+2])
				if i == 1 && g.Rank(zero) == 1 { // one for each channel
					zero = g.beside(zero, x, 0)
				}
				x = g.Sub(x, zero)
			}
			return x
		}
		return g.Node("Conv", 1, []*onnx.Value{less(0), less(1)}, n.Attrs...)
	})
}

// estimateQLinearConv is the gradient by way of the real numbers that the integers stand for.
func estimateQLinearConv(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		w := g.Node("DequantizeLinear", 1, in[3:6], IntAttr("axis", 0))[0]
		operands := []*onnx.Value{g.dequantize(in[0], in[1], in[2]), w}
		if n.Has(8) {
			operands = append(operands, g.Mul(g.real(in[8]), g.Mul(in[1], in[4])))
		}
		return []*onnx.Value{g.quantize(g.Node("Conv", 1, operands, n.Attrs...)[0], in[6], in[7])}
	})
}

// inferByteConv is a convolution's shape, wherever its operands stand.
func inferByteConv(n *Node, x, w, bias Info, d tensor.DType, last bool) ([]Info, error) {
	turn := func(i Info, from, to int) Info {
		if last && len(i.Shape) > 2 {
			c := i.Shape[from]
			i.Shape = slices.Insert(slices.Delete(slices.Clone(i.Shape), from, from+1), to, c)
		}
		return i
	}
	r := *n
	r.In = []Info{turn(x, len(x.Shape)-1, 1), w, bias}
	out, err := inferConv(false)(&r)
	if err != nil {
		return nil, err
	}
	out[0] = turn(out[0], 1, len(out[0].Shape)-1)
	out[0].DType = d
	return out, nil
}

// byteConvInputs says which inputs are what.
type byteConvInputs struct{ x, w, xZero, wZero int }

// byteConv is a convolution of bytes, to one output.
type byteConv struct {
	byteConvInputs
	last     bool // whether the channels are the last axis
	constant bool // whether the weights are
	once     sync.Once
	packed   *kernel.PackedConvS8
}

func newByteConv(n *Node, in byteConvInputs, last bool) *byteConv {
	return &byteConv{byteConvInputs: in, last: last, constant: n.Info(in.w).Const != nil && (!n.Has(in.wZero) || n.Info(in.wZero).Const != nil)}
}

// byteConvPlan is what hangs on shapes.
type byteConvPlan struct {
	cv          kernel.Conv3D
	in, out     []int     // channels last
	there, back *movement // to and from that
}

// turned is a shape with its second axis last, and how its elements get there and back.
func turned(s []int) (last []int, there, back *movement) {
	order := append([]int{0}, seq(2, len(s))...)
	order = append(order, 1)
	last = make([]int, len(s))
	steps, from := make([]int, len(s)), rowMajor(s)
	for i, a := range order {
		last[i], steps[i] = s[a], from[a]
	}
	return last, planMovement(last, rowMajor(last), 0, steps, 0), planMovement(last, steps, 0, rowMajor(last), 0)
}

func seq(lo, hi int) (s []int) {
	for i := lo; i < hi; i++ {
		s = append(s, i)
	}
	return s
}

func (b *byteConv) plan(c *Ctx) (*byteConvPlan, error) {
	xs, w := c.In(b.x).Shape(), c.In(b.w)
	if len(xs) < 3 || w.Rank() < 3 {
		return nil, fmt.Errorf("%s and %s have no spatial axis", c.In(b.x), w)
	}
	if b.last {
		xs = append([]int{xs[0], xs[len(xs)-1]}, xs[1:len(xs)-1]...)
	}
	s, err := shapeOfConv(c.Node, xs, w.Shape(), false)
	if err != nil {
		return nil, err
	}
	p := &byteConvPlan{}
	p.in, p.there, _ = turned(s.input)
	p.out, _, p.back = turned(s.output)
	flat := *s
	if len(s.in) == 3 {
		p.cv.D, p.cv.KD, p.cv.StrideD, p.cv.DilD, p.cv.PadFront, p.cv.PadBack = s.in[0], s.kernel[0], s.stride[0], s.dil[0], s.begin[0], s.end[0]
		for _, v := range []*[]int{&flat.in, &flat.kernel, &flat.stride, &flat.dil, &flat.begin, &flat.end} {
			*v = (*v)[1:]
		}
	}
	p.cv.Conv2D, _ = flat.flat()
	return p, nil
}

// weights packs the weights, once if they are constant.
func (b *byteConv) weights(c *Ctx, cv kernel.Conv3D) (*kernel.PackedConvS8, error) {
	w, wz := c.In(b.w), c.In(b.wZero)
	zeros := []int8{0}
	if w.DType() == tensor.Uint8 {
		zeros[0] = -128
	}
	if wz != nil {
		if wz.DType() != w.DType() || wz.Len() != 1 && wz.Len() != cv.M {
			return nil, fmt.Errorf("the weights' zero point %s does not suit %s", wz, w)
		}
		zeros = asSigned(wz)
	}
	if !b.constant {
		return kernel.PackConvS8(cv, asSigned(w), zeros), nil
	}
	b.once.Do(func() { b.packed = kernel.PackConvS8(cv, asSigned(w), zeros) })
	return b.packed, nil
}

// run computes output 0, of type d, which is int32 for sums and otherwise what scale rounds them to.
func (b *byteConv) run(c *Ctx, d tensor.DType, scale func(m int) (*kernel.ByteScale, error)) error {
	x, xz := c.In(b.x), c.In(b.xZero)
	p, err := Keep(c, func() (*byteConvPlan, error) { return b.plan(c) })
	if err != nil {
		return err
	}
	flip, pad := uint8(0), uint8(0)
	if x.DType() == tensor.Int8 {
		flip = 0x80
	}
	if xz != nil {
		if xz.Len() != 1 || xz.DType() != x.DType() {
			return fmt.Errorf("the input's zero point %s does not suit %s", xz, x)
		}
		pad = uint8(b8(xz, 0))
	}
	w, err := b.weights(c, p.cv)
	if err != nil {
		return err
	}
	var by *kernel.ByteScale
	if scale != nil {
		if by, err = scale(p.cv.M); err != nil {
			return err
		}
	}
	room := int64(w.FrameBytes(p.cv))
	if err := c.Mem.Take(room); err != nil {
		return err
	}
	defer c.Mem.Give(room)
	shape := p.out
	if !b.last {
		turned, err := c.New(x.DType(), p.in...)
		if err != nil {
			return err
		}
		if err := p.there.run(c.Pool, turned, x); err != nil {
			return err
		}
		x = turned
		shape = append([]int{p.out[0], p.cv.M}, p.out[1:len(p.out)-1]...)
	}
	y, err := c.Alloc(0, d, shape...)
	if err != nil {
		return err
	}
	to := y
	if !b.last {
		if to, err = c.New(d, p.out...); err != nil {
			return err
		}
	}
	if from := tensor.View[uint8](x); d == tensor.Int32 {
		kernel.ConvU8S8(c.Pool, p.cv, tensor.Data[int32](to), from, flip, pad^flip, w, by)
	} else {
		kernel.ConvU8S8(c.Pool, p.cv, tensor.View[uint8](to), from, flip, pad^flip, w, by)
	}
	if to == y {
		return nil
	}
	return p.back.run(c.Pool, y, to)
}

func qLinearConv(c *Ctx, b *byteConv) error {
	return b.run(c, c.In(7).DType(), func(m int) (*kernel.ByteScale, error) {
		xs, ws, ys := tensor.Data[float32](c.In(1)), tensor.Data[float32](c.In(4)), tensor.Data[float32](c.In(6))
		if len(xs) != 1 || len(ys) != 1 || len(ws) != 1 && len(ws) != m || c.In(7).Len() != 1 {
			return nil, fmt.Errorf("scales of %v, %v and %v do not suit %d output channels", c.In(1).Shape(), c.In(4).Shape(), c.In(6).Shape(), m)
		}
		s := Scratch[kernel.ByteScale](c)
		*s = kernel.ByteScale{By: 1, Scale: grown(s.Scale, m), Zero: float32(b8(c.In(7), 0))}
		s.Lo, s.Hi, _ = bounds(c.In(7).DType())
		for i := range s.Scale {
			s.Scale[i] = xs[0] * ws[i%len(ws)] / ys[0]
		}
		if bias := c.In(8); bias != nil {
			if s.Add = tensor.Data[int32](bias); len(s.Add) != m {
				return nil, fmt.Errorf("a bias of %v does not suit %d output channels", bias.Shape(), m)
			}
		}
		return s, nil
	})
}
