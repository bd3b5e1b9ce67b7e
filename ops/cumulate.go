package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	accumulated := Floats | Index | Of(tensor.Uint32, tensor.Uint64)
	register(
		Op{Name: "CumSum", Since: []int{11, 14}, MinIn: 2, Types: []TypeSet{accumulated, Index}, Infer: SameAs(0), Compile: compileCumSum, Grad: gradCumSum},
		Op{Name: "CumProd", Since: []int{26}, MinIn: 2, Types: []TypeSet{accumulated, Index}, Infer: SameAs(0), Compile: compileCumProd,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("CumProdGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], n.Inputs[0]}, n.Attrs...)[0], nil}, nil
			}},
		// dY, the axis, X
		Op{Domain: Internal, Name: "CumProdGrad", Since: []int{1}, MinIn: 3, Infer: SameAs(0), Compile: compileCumProdGrad, Portable: portableCumProdGrad},
	)
}

func compileCumSum(*Node) (Kernel, error) {
	return Table{
		tensor.Float32: cumulate(sums[float32]), tensor.Float64: cumulate(sums[float64]), tensor.Int32: cumulate(sums[int32]), tensor.Int64: cumulate(sums[int64]),
		tensor.Uint32: cumulate(sums[uint32]), tensor.Uint64: cumulate(sums[uint64]),
	}.By(0), nil
}

func compileCumProd(*Node) (Kernel, error) {
	return Table{
		tensor.Float32: cumulate(products[float32]), tensor.Float64: cumulate(products[float64]), tensor.Int32: cumulate(products[int32]), tensor.Int64: cumulate(products[int64]),
		tensor.Uint32: cumulate(products[uint32]), tensor.Uint64: cumulate(products[uint64]),
	}.By(0), nil
}

// sums sets a lane's n elements, from at in steps, to the sums up to each.
func sums[T arith](dst, src []T, at, step, n int, exclusive bool) {
	var sum T
	for range n {
		v := src[at]
		if exclusive {
			dst[at] = sum
			sum += v
		} else {
			sum += v
			dst[at] = sum
		}
		at += step
	}
}

func products[T arith](dst, src []T, at, step, n int, exclusive bool) {
	p := T(1)
	for range n {
		v := src[at]
		if exclusive {
			dst[at] = p
			p *= v
		} else {
			p *= v
			dst[at] = p
		}
		at += step
	}
}

// cumulate runs a kernel over each lane of the axis that input 1 names.
func cumulate[T arith](lane func(dst, src []T, at, step, n int, exclusive bool)) Kernel {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		a, err := scalarInt(c.In(1), "the axis")
		if err != nil {
			return err
		}
		axis, err := NormAxis(a, x.Rank())
		if err != nil {
			return err
		}
		exclusive, reverse := c.Node.Int("exclusive", 0) != 0, c.Node.Int("reverse", 0) != 0
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		if x.Len() == 0 {
			return nil
		}
		src, dst := tensor.View[T](x), tensor.View[T](y)
		d, inner := x.Shape()[axis], product(x.Shape()[axis+1:])
		c.Pool.For(x.Len()/d, max(1, moveGrain/d), func(lo, hi int) {
			for l := lo; l < hi; l++ {
				at, step := l/inner*d*inner+l%inner, inner
				if reverse {
					at, step = at+(d-1)*inner, -inner
				}
				lane(dst, src, at, step, d, exclusive)
			}
		})
		return nil
	}
}

func compileCumProdGrad(*Node) (Kernel, error) {
	return Table{tensor.Float32: cumProdGrad[float32], tensor.Float64: cumProdGrad[float64]}.By(0), nil
}

// cumProdGrad needs no division, so that zeros in X are as good as anything: of element i the gradient is
// the product of those before it, times what follows from dY and the elements after it, taken from the end.
func cumProdGrad[T kernel.Float](c *Ctx) error {
	x, err := tensorIn(c, 2)
	if err != nil {
		return err
	}
	if err := sameElem(x, c.In(0)); err != nil {
		return err
	}
	if !slices.Equal(x.Shape(), c.In(0).Shape()) {
		return fmt.Errorf("a gradient of %v does not suit an input of %v", c.In(0).Shape(), x.Shape())
	}
	xs := tensor.Data[T](x)
	return cumulate(func(dst, dy []T, at, step, n int, exclusive bool) {
		p, i := T(1), at
		for range n {
			dst[i] = p
			p *= xs[i]
			i += step
		}
		var rest T // Σ over outputs from here on of dy · the product of the elements after this one
		for range n {
			i -= step
			if exclusive {
				dst[i] *= rest
				rest = dy[i] + xs[i]*rest
			} else {
				rest += dy[i]
				dst[i] *= rest
				rest *= xs[i]
			}
		}
	})(c)
}

func gradCumSum(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return []*onnx.Value{g.With("CumSum", []*onnx.Attribute{
		IntAttr("exclusive", n.Int("exclusive", 0)), IntAttr("reverse", 1-n.Int("reverse", 0)),
	}, dy[0], n.Inputs[1]), nil}, nil
}

// portableCumProdGrad does what [cumProdGrad] does, by a Scan from the end.
func portableCumProdGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, x := n.Inputs[0], n.Inputs[2]
	at := g.Info(n.Inputs[1]).Const
	if at == nil {
		return nil, fmt.Errorf("the axis is not known")
	}
	a, err := scalarInt(at, "the axis")
	if err != nil {
		return nil, err
	}
	axis, err := g.Axis(x, a)
	if err != nil {
		return nil, err
	}
	exclusive, reverse := n.Int("exclusive", 0) != 0, n.Int("reverse", 0)
	before := g.At(26, "CumProd", 1, []*onnx.Value{x, n.Inputs[1]}, IntAttr("exclusive", 1), IntAttr("reverse", reverse))[0]
	none := g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, g.Op("Slice", x, g.Int64s(0), g.Int64s(0), g.Int64s(int64(axis))), g.Int64s(int64(axis)))
	_, rest := g.scan([]*onnx.Value{none}, []*onnx.Value{dy, x}, axis, reverse == 0, func(g *Grad, rest, parts []*onnx.Value) (after, results []*onnx.Value) {
		if exclusive {
			return []*onnx.Value{g.Add(parts[0], g.Mul(parts[1], rest[0]))}, []*onnx.Value{g.Op("Identity", rest[0])}
		}
		sum := g.Add(rest[0], parts[0])
		return []*onnx.Value{g.Mul(sum, parts[1])}, []*onnx.Value{sum}
	})
	return []*onnx.Value{g.Mul(before, rest[0])}, nil
}
