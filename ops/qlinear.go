package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Convolutions of 8-bit integers, which are exact, and what rounds their results to 8 bits again.
func init() {
	bytes := Of(tensor.Int8, tensor.Uint8)
	const why = "its inputs are integers"
	register(
		Op{Name: "ConvInteger", Since: []int{10}, MinIn: 2, MaxIn: 4, Types: []TypeSet{bytes}, NoGrad: why, FLOPs: convFLOPs,
			Infer: func(n *Node) ([]Info, error) { return inferIntegerConv(n, n.In[0], n.In[1], Info{}, tensor.Int32) },
			Compile: func(n *Node) (Kernel, error) {
				return func(c *Ctx) error {
					q, err := newByteConv(c, c.In(0), c.In(1), c.In(2), c.In(3))
					if err != nil {
						return err
					}
					y, err := c.Alloc(0, tensor.Int32, q.outShape()...)
					if err != nil {
						return err
					}
					out, pix := tensor.Data[int32](y), product(q.out)
					return q.run(c, func(image, m, channels int, acc []int32) {
						for j := range channels {
							plane := out[(image*q.m+m+j)*pix:][:pix]
							for i := range plane {
								plane[i] = acc[i*channels+j]
							}
						}
					})
				}, nil
			}},
		Op{Name: "QLinearConv", Since: []int{10}, MinIn: 8, MaxIn: 9, NoGrad: why,
			FLOPs: func(c *Ctx) int64 { return tapFLOPs(c.Out(0).Len(), c.In(3)) },
			Types: []TypeSet{bytes, Of(tensor.Float32), bytes, bytes, Of(tensor.Float32), bytes, Of(tensor.Float32), bytes, Of(tensor.Int32)},
			Infer: func(n *Node) ([]Info, error) {
				return inferIntegerConv(n, n.In[0], n.In[3], n.Info(8), n.In[7].DType)
			},
			Compile: func(*Node) (Kernel, error) { return qLinearConv, nil }},
	)
}

func inferIntegerConv(n *Node, x, w, bias Info, d tensor.DType) ([]Info, error) {
	r := *n
	r.In = []Info{x, w, bias}
	out, err := inferConv(false)(&r)
	if err != nil {
		return nil, err
	}
	out[0].DType = d
	return out, nil
}

// requantize rounds accumulators to d: saturate(round(acc·scale) + zero).
func requantize(y *tensor.Tensor, at int, acc []int32, scale func(i int) float32, zero float32) {
	lo, hi, _ := bounds(y.DType())
	put := func(i int, v float32) { tensor.Data[uint8](y)[at+i] = uint8(v) }
	if y.DType() == tensor.Int8 {
		put = func(i int, v float32) { tensor.Data[int8](y)[at+i] = int8(v) }
	}
	for i, v := range acc {
		q := float32(math.RoundToEven(float64(float32(v)*scale(i)))) + zero
		put(i, min(max(q, lo), hi))
	}
}

// byteConv is a convolution of 8-bit integers as products of columns, group by group.
type byteConv struct {
	*convShape        // of three spatial axes
	shape      []int  // of the output
	x          []byte // as unsigned
	pad        byte   // what stands outside
	groups     []*kernel.PackedS8
	zeros      []int8 // of the weights, one or one a channel
}

func (q *byteConv) outShape() []int { return q.shape }

func newByteConv(c *Ctx, x, w, xz, wz *tensor.Tensor) (*byteConv, error) {
	if x.Rank() < 3 || w.Rank() < 3 {
		return nil, fmt.Errorf("%s and %s have no spatial axis", x, w)
	}
	s, err := shapeOfConv(c.Node, x.Shape(), w.Shape(), false)
	if err != nil {
		return nil, err
	}
	q := &byteConv{convShape: s, shape: s.output, x: asUnsigned(x, new([]uint8))}
	for len(s.in) < 3 { // fewer axes are worked as three
		for _, v := range []struct {
			list *[]int
			one  int
		}{{&s.in, 1}, {&s.out, 1}, {&s.kernel, 1}, {&s.stride, 1}, {&s.dil, 1}, {&s.begin, 0}, {&s.end, 0}} {
			*v.list = slices.Insert(slices.Clone(*v.list), 0, v.one)
		}
	}
	if x.DType() == tensor.Int8 {
		q.pad = 128
	}
	if xz != nil {
		if xz.Len() != 1 || xz.DType() != x.DType() {
			return nil, fmt.Errorf("the input's zero point %s does not suit %s", xz, x)
		}
		q.pad += uint8(b8(xz, 0))
	}
	q.zeros = []int8{0}
	if w.DType() == tensor.Uint8 {
		q.zeros[0] = -128
	}
	if wz != nil {
		if wz.DType() != w.DType() || wz.Len() != 1 && wz.Len() != s.m {
			return nil, fmt.Errorf("the weights' zero point %s does not suit %s", wz, w)
		}
		q.zeros = asSigned(wz)
	}
	rows, k := s.m/s.group, s.c/s.group*product(s.kernel)
	ws := asSigned(w)
	for g := range s.group {
		q.groups = append(q.groups, kernel.PackS8(true, k, rows, ws[g*rows*k:], k))
	}
	return q, nil
}

// run calls done with the sums of each image and group: those of channels from m on, pixel by pixel.
func (q *byteConv) run(c *Ctx, done func(image, m, channels int, acc []int32)) error {
	rows, k, pix := q.m/q.group, q.c/q.group*product(q.kernel), product(q.out)
	if pix == 0 || rows == 0 {
		return nil
	}
	columns, err := c.New(tensor.Uint8, pix, k)
	if err != nil {
		return err
	}
	sums, err := c.New(tensor.Int32, pix, rows)
	if err != nil {
		return err
	}
	cols, acc := tensor.Data[uint8](columns), tensor.Data[int32](sums)
	image := q.c * product(q.in)
	for n := range q.n {
		x := q.x[n*image:]
		for g := range q.group {
			for i := range cols {
				cols[i] = q.pad
			}
			c.Pool.For(k, 1+16384/pix, func(lo, hi int) {
				for l := lo; l < hi; l++ {
					q.taps(g, l, func(col, at, count int) {
						for i := range count {
							cols[(col+i)*k+l] = x[at+i*q.stride[2]]
						}
					})
				}
			})
			z := q.zeros
			if len(z) > 1 {
				z = z[g*rows:][:rows]
			}
			kernel.GemmU8S8(c.Pool, pix, cols, k, q.pad, q.groups[g], z, acc, rows)
			done(n, g*rows, rows, acc)
		}
	}
	return nil
}

func qLinearConv(c *Ctx) error {
	q, err := newByteConv(c, c.In(0), c.In(3), c.In(2), c.In(5))
	if err != nil {
		return err
	}
	y, err := c.Alloc(0, c.In(7).DType(), q.outShape()...)
	if err != nil {
		return err
	}
	xs, ws, ys := tensor.Data[float32](c.In(1)), tensor.Data[float32](c.In(4)), tensor.Data[float32](c.In(6))
	if len(xs) != 1 || len(ys) != 1 || len(ws) != 1 && len(ws) != q.m || c.In(7).Len() != 1 {
		return fmt.Errorf("scales of %v, %v and %v do not suit %d output channels", c.In(1).Shape(), c.In(4).Shape(), c.In(6).Shape(), q.m)
	}
	var bias []int32
	if b := c.In(8); b != nil {
		if bias = tensor.Data[int32](b); len(bias) != q.m {
			return fmt.Errorf("a bias of %v does not suit %d output channels", b.Shape(), q.m)
		}
	}
	pix, zero := product(q.out), float32(b8(c.In(7), 0))
	plane := make([]int32, pix)
	return q.run(c, func(image, m, channels int, acc []int32) {
		for j := range channels {
			for i := range plane {
				plane[i] = acc[i*channels+j]
				if bias != nil {
					plane[i] += bias[m+j]
				}
			}
			scale := xs[0] * ws[min(m+j, len(ws)-1)] / ys[0]
			requantize(y, (image*q.m+m+j)*pix, plane, func(int) float32 { return scale }, zero)
		}
	})
}
