package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators on bytes that need not become real numbers first.
func init() {
	const ms = "com.microsoft"
	bytes := Of(tensor.Int8, tensor.Uint8)
	float := Of(tensor.Float32)
	const why = "its inputs are integers"
	binary := func(name, standard string, k byteBinary) Op {
		return Op{Domain: ms, Name: name, Since: []int{1}, MinIn: 7, MaxIn: 8, Types: []TypeSet{bytes, float, bytes, bytes, float, bytes, float, bytes}, NoGrad: why,
			Estimate: estimateByteBinary(standard),
			Infer: func(n *Node) ([]Info, error) {
				y, err := Broadcast(n.In[0].DType, n.In[0], n.In[3])
				return []Info{y}, err
			},
			Compile: func(n *Node) (Kernel, error) {
				for _, i := range []int{3, 4, 6} {
					if !n.Has(i) {
						return nil, fmt.Errorf("input %d is left out but required", i)
					}
				}
				return k.run, nil
			}}
	}
	register(
		binary("QLinearAdd", "Add", func(y, a, b []uint8, scale, zero [3]float32, lo, hi float32, signed bool) {
			ra, rb := scale[0]/scale[2], scale[1]/scale[2]
			kernel.AddBytes(y, a, b, ra, rb, zero[2]-float32(float32(ra*zero[0])+float32(rb*zero[1])), lo, hi, signed)
		}),
		binary("QLinearMul", "Mul", func(y, a, b []uint8, scale, zero [3]float32, lo, hi float32, signed bool) {
			kernel.MulBytes(y, a, b, zero[0], zero[1], scale[0]*scale[1]/scale[2], zero[2], lo, hi, signed)
		}),
		// The channels are the second axis, or the last one if channels_last is not 0.
		Op{Domain: ms, Name: "QLinearGlobalAveragePool", Since: []int{1}, MinIn: 5, Types: []TypeSet{bytes, float, bytes, float, bytes}, NoGrad: why, Estimate: estimateQGlobalAveragePool,
			Infer: func(n *Node) ([]Info, error) {
				if !channelsLast(n) {
					return inferGlobalPool(n)
				}
				y := n.In[0]
				y.Const, y.Shape = nil, slices.Clone(y.Shape)
				for i := 1; i < len(y.Shape)-1; i++ {
					y.Shape[i] = D(1)
				}
				return []Info{y}, nil
			},
			Compile: func(n *Node) (Kernel, error) { return qGlobalAveragePool(channelsLast(n)), nil }},
		Op{Domain: ms, Name: "NhwcMaxPool", Since: []int{1}, MinIn: 1, Types: []TypeSet{bytes}, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if len(x.Shape) < 3 {
					return []Info{Unranked(x.DType)}, nil
				}
				r := *n
				last := len(x.Shape) - 1
				r.In = []Info{Tensor(x.DType, append([]Dim{x.Shape[0], x.Shape[last]}, x.Shape[1:last]...)...)}
				out, err := inferPool(&r)
				if err != nil {
					return nil, err
				}
				s := out[0].Shape
				return []Info{Tensor(x.DType, append(append([]Dim{s[0]}, s[2:]...), s[1])...)}, nil
			},
			Compile: func(*Node) (Kernel, error) { return nhwcMaxPool, nil }},
		// The entry of a table of 256 for each byte, int8s as their bits.
		Op{Domain: Internal, Name: "ByteTable", Since: []int{1}, MinIn: 2, Types: []TypeSet{bytes}, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				y := n.In[0]
				y.Const, y.DType = nil, n.In[1].DType
				return []Info{y}, nil
			},
			Compile: func(*Node) (Kernel, error) {
				return func(c *Ctx) error {
					x, t := tensor.View[uint8](c.In(0)), c.In(1)
					if t.Len() != 256 {
						return fmt.Errorf("a table of %v has not 256 entries", t.Shape())
					}
					y, table := tensor.View[uint8](c.Out(0)), (*[256]uint8)(tensor.View[uint8](t))
					if c.Pool.Alone(len(x), 4*unaryGrain) {
						kernel.MapBytes(y, x, table)
						return nil
					}
					c.Pool.For(len(x), 4*unaryGrain, func(lo, hi int) { kernel.MapBytes(y[lo:hi], x[lo:hi], table) })
					return nil
				}, nil
			}},
	)
}

// estimateByteBinary is the gradient by way of the real numbers that the bytes stand for, of which standard makes the result.
func estimateByteBinary(standard string) func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
			return []*onnx.Value{g.quantize(g.Op(standard, g.dequantize(in[0], in[1], in[2]), g.dequantize(in[3], in[4], in[5])), in[6], n.Input(7))}
		})
	}
}

// estimateQGlobalAveragePool is likewise.
func estimateQGlobalAveragePool(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		first, end := 2, g.Rank(in[0])
		if channelsLast(n) {
			first, end = 1, end-1
		}
		var axes []int64
		for i := first; i < end; i++ {
			axes = append(axes, int64(i))
		}
		return []*onnx.Value{g.quantize(g.Op("ReduceMean", g.dequantize(in[0], in[1], in[2]), g.Int64s(axes...)), in[3], in[4])}
	})
}

// byteScale is the scale at input i and the zero point after it, which may be left out.
func byteScale(c *Ctx, i int) (scale, zero float32, err error) {
	s, z := c.In(i), c.In(i+1)
	if s.Len() != 1 || z != nil && z.Len() != 1 {
		return 0, 0, fmt.Errorf("the scale %s or its zero point is not a single number", s)
	}
	if z != nil {
		zero = float32(b8(z, 0))
	}
	return tensor.Data[float32](s)[0], zero, nil
}

// spreadBytes is the operands of a sum or product spread over its shape.
type spreadBytes struct{ from [2]*movement }

// A byteBinary computes y from the bytes of two operands; the scales and zero points are theirs and y's.
type byteBinary func(y, a, b []uint8, scale, zero [3]float32, lo, hi float32, signed bool)

func (k byteBinary) run(c *Ctx) error {
	var scale, zero [3]float32
	for i := range 3 {
		var err error
		if scale[i], zero[i], err = byteScale(c, 3*i+1-i/2); err != nil {
			return err
		}
	}
	a, b := c.In(0), c.In(3)
	y := c.Out(0)
	if a.DType() != b.DType() {
		return fmt.Errorf("element types %s and %s differ", a.DType(), b.DType())
	}
	spread, err := Keep(c, func() (*spreadBytes, error) {
		var s spreadBytes
		for k, x := range []*tensor.Tensor{a, b} {
			if slices.Equal(x.Shape(), y.Shape()) {
				continue
			}
			steps, from, missing := make([]int, y.Rank()), rowMajor(x.Shape()), y.Rank()-x.Rank()
			for i, d := range x.Shape() {
				if d != 1 {
					steps[missing+i] = from[i]
				}
			}
			s.from[k] = planMovement(y.Shape(), rowMajor(y.Shape()), 0, steps, 0)
		}
		return &s, nil
	})
	if err != nil {
		return err
	}
	x := [2]*tensor.Tensor{a, b}
	for k, m := range spread.from {
		if m == nil {
			continue
		}
		whole, err := c.New(y.DType(), y.Shape()...)
		if err != nil {
			return err
		}
		if err := m.run(c.Pool, whole, x[k]); err != nil {
			return err
		}
		x[k] = whole
	}
	lo, hi, _ := bounds(y.DType())
	va, vb, vy := tensor.View[uint8](x[0]), tensor.View[uint8](x[1]), tensor.View[uint8](y)
	signed := y.DType() == tensor.Int8
	kernel.InParts(c.Pool, len(vy), unaryGrain, byteParts{k, vy, va, vb, scale, zero, lo, hi, signed})
	return nil
}

// byteParts is one call of a byteBinary.
type byteParts struct {
	k           byteBinary
	y, a, b     []uint8
	scale, zero [3]float32
	lo, hi      float32
	signed      bool
}

// Part computes the bytes [i, j).
func (p byteParts) Part(i, j int) {
	p.k(p.y[i:j], p.a[i:j], p.b[i:j], p.scale, p.zero, p.lo, p.hi, p.signed)
}

// byteMean is a mean over the spatial axes as a convolution with weights of 1.
type byteMean struct {
	cv    kernel.Conv3D
	w     *kernel.PackedConvS8
	there *movement // to channels last, if they are not
	in    []int
	scale kernel.ByteScale
}

func qGlobalAveragePool(last bool) Kernel {
	return func(c *Ctx) error {
		x, y := c.In(0), c.Out(0)
		xs, xz, err := byteScale(c, 1)
		if err != nil {
			return err
		}
		ys, yz, err := byteScale(c, 3)
		if err != nil {
			return err
		}
		if x.Len() == 0 {
			return fmt.Errorf("an input of %v has no mean", x.Shape())
		}
		// The weights are as many as an image has bytes, and packed four times as wide.
		ones := 5 * int64(x.Len()/x.Shape()[0])
		m, err := Keep(c, func() (*byteMean, error) {
			if err := c.Mem.Take(ones); err != nil {
				return nil, err
			}
			c.Mem.Give(ones)
			m := &byteMean{in: x.Shape()}
			if !last {
				m.in, m.there, _ = turned(x.Shape())
			}
			channels, pixels := m.in[len(m.in)-1], product(m.in[1:len(m.in)-1])
			m.cv.Conv2D = kernel.Conv2D{N: m.in[0], C: channels, M: channels, Group: channels, H: 1, W: pixels, KH: 1, KW: pixels}
			m.w, m.scale.Scale = kernel.PackConvS8(m.cv, slices.Repeat([]int8{1}, channels*pixels), nil), slices.Repeat([]float32{1}, channels)
			return m, nil
		})
		if err != nil {
			return err
		}
		room := int64(m.w.FrameBytes(m.cv)) + ones
		if err := c.Mem.Take(room); err != nil {
			return err
		}
		defer c.Mem.Give(room)
		if m.there != nil {
			turned, err := c.New(x.DType(), m.in...)
			if err != nil {
				return err
			}
			if err := m.there.run(c.Pool, turned, x); err != nil {
				return err
			}
			x = turned
		}
		flip := uint8(0)
		if x.DType() == tensor.Int8 {
			flip, xz = 0x80, xz+128
		}
		by := m.scale
		by.By, by.Zero = xs/(ys*float32(m.cv.KW)), yz
		by.Lo, by.Hi, _ = bounds(y.DType())
		kernel.ConvU8S8(c.Pool, m.cv, tensor.View[uint8](y), tensor.View[uint8](x), flip, uint8(xz), m.w, &by)
		return nil
	}
}

// nhwcMaxPool takes the maxima over the rows of windows first, whole rows of the image at a time.
func nhwcMaxPool(c *Ctx) error {
	x := c.In(0)
	xs := x.Shape()
	if len(xs) < 3 {
		return fmt.Errorf("an input of %v has no spatial axis", xs)
	}
	s, err := Keep(c, func() (*poolShape, error) {
		return poolOf(c.Node, append([]int{xs[0], xs[len(xs)-1]}, xs[1:len(xs)-1]...))
	})
	if err != nil {
		return err
	}
	channels := s.shape[1]
	y, err := c.Alloc(0, x.DType(), append(append([]int{s.shape[0]}, s.shape[2:]...), channels)...)
	if err != nil {
		return err
	}
	if y.Len() == 0 {
		return nil
	}
	row := s.in[2] * channels
	src, dst, signed := tensor.View[uint8](x), tensor.View[uint8](y), x.DType() == tensor.Int8
	least := uint8(0)
	if signed {
		least = 0x80
	}
	rows := s.out[0] * s.out[1]
	if err := c.Mem.Take(int64(c.Pool.Threads() * row)); err != nil {
		return err
	}
	defer c.Mem.Give(int64(c.Pool.Threads() * row))
	c.Pool.For(s.shape[0]*rows, 1+moveGrain/(row+1), func(lo, hi int) {
		most := make([]uint8, row)
		for q := lo; q < hi; q++ {
			image, depth, height := src[q/rows*s.in[0]*s.in[1]*row:], s.spans[0][q%rows/s.out[1]], s.spans[1][q%s.out[1]]
			begun := false
			for d := range depth.count {
				for h := range height.count {
					from := image[((depth.lo+d*s.dil[0])*s.in[1]+height.lo+h*s.dil[1])*row:][:row]
					if !begun {
						copy(most, from)
						begun = true
						continue
					}
					kernel.MaxBytes(most, from, signed)
				}
			}
			out := dst[q*s.out[2]*channels:][:s.out[2]*channels]
			for i, w := range s.spans[2] {
				to := out[i*channels:][:channels]
				if !begun || w.count == 0 {
					for j := range to {
						to[j] = least
					}
					continue
				}
				copy(to, most[w.lo*channels:])
				for k := 1; k < w.count; k++ {
					kernel.MaxBytes(to, most[(w.lo+k*s.dil[2])*channels:][:channels], signed)
				}
			}
		}
	})
	return nil
}
