package ops

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// What training needs of operators beside their gradients.
func init() {
	register(
		// X, ratio, seed (int64) gives Y and, if it is wanted, the mask. The draws hang on the seed and on attribute
		// stream alone.
		Op{Domain: Internal, Name: "SeededDropout", Since: []int{1}, MinIn: 3, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats, Floats, Of(tensor.Int64)},
			Infer: func(n *Node) ([]Info, error) {
				y := n.In[0].WithoutValue()
				mask := y
				mask.DType = tensor.Bool
				return []Info{y, mask}, nil
			},
			InPlace: []int{0}, Compile: Table{tensor.Float32: seededDropout[float32], tensor.Float64: seededDropout[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				if dy[0] == nil {
					return nil, nil
				}
				mask := n.Output(1)
				if mask == nil {
					info := withoutValues([]Info{g.Info(n.Inputs[0])})[0]
					info.DType = tensor.Bool
					n.Outputs = n.Outputs[:1]
					mask = g.output(n.Node, "mask", info)
				}
				return []*onnx.Value{g.Internal("DropoutGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], mask})[0], nil, nil}, nil
			},
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) { // which draws by a seed of its own
				return g.Node("Dropout", 2, []*onnx.Value{n.Inputs[0], n.Inputs[1], g.Const(tensor.Scalar(true))}, IntAttr("seed", 1+n.Int("stream", 0))), nil
			}},
		// dY, ratio, mask
		Op{Domain: Internal, Name: "DropoutGrad", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Bools}, Infer: SameAs(0),
			InPlace: []int{0}, Compile: Table{tensor.Float32: dropoutGrad[float32], tensor.Float64: dropoutGrad[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("DropoutGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], n.Inputs[2]})[0], nil, nil}, nil
			},
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				dy, one := n.Inputs[0], tensor.Scalar(1.0)
				scale := g.Op("Div", g.Const(one), g.Op("Sub", g.Const(one), g.Cast(n.Inputs[1], tensor.Float64)))
				return []*onnx.Value{g.Op("Where", n.Inputs[2], g.Mul(dy, g.Cast(scale, g.DType(dy))), g.Like(dy, 0))}, nil
			}},
	)
}

// dropoutBlock is how many elements one generator draws for, whatever the number of threads.
const dropoutBlock = 4096

func seededDropout[T kernel.Float](c *Ctx) error {
	for i := 1; i < 3; i++ {
		if t := c.In(i); t == nil || t.Len() != 1 {
			return fmt.Errorf("input %d must be a single number", i)
		}
	}
	ratio, seed := tensor.Float64At(c.In(1), 0), tensor.Data[int64](c.In(2))[0]
	if !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("the ratio %v is outside [0, 1]", ratio)
	}
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](c.Out(0))
	var mask []bool
	if t := c.Out(1); t != nil {
		mask = tensor.Data[bool](t)
	}
	if ratio == 0 { // exports keep such
		copy(y, x)
		fill(mask, true)
		return nil
	}
	scale := T(1 / (1 - ratio))
	bound := uint64(math.Round(ratio * (1 << 32))) // draws of 32 bits below it are dropped
	stream := uint64(c.Node.Int("stream", 0)) << 32
	c.Pool.For((len(x)+dropoutBlock-1)/dropoutBlock, 1, func(lo, hi int) {
		for b := lo; b < hi; b++ {
			r := rand.NewPCG(uint64(seed), stream+uint64(b))
			for i := b * dropoutBlock; i < min(len(x), (b+1)*dropoutBlock); i++ {
				keep := r.Uint64()>>32 >= bound
				if keep {
					y[i] = x[i] * scale
				} else {
					y[i] = 0
				}
				if mask != nil {
					mask[i] = keep
				}
			}
		}
	})
	return nil
}

func dropoutGrad[T kernel.Float](c *Ctx) error {
	if t := c.In(1); t == nil || t.Len() != 1 {
		return fmt.Errorf("input 1 must be a single number")
	}
	scale := T(1 / (1 - tensor.Float64At(c.In(1), 0)))
	dy, mask, dx := tensor.Data[T](c.In(0)), tensor.Data[bool](c.In(2)), tensor.Data[T](c.Out(0))
	if len(mask) != len(dy) {
		return fmt.Errorf("a mask of %v does not suit a gradient of %v", c.In(2).Shape(), c.In(0).Shape())
	}
	c.Pool.For(len(dy), unaryGrain, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			if mask[i] {
				dx[i] = dy[i] * scale
			} else {
				dx[i] = 0
			}
		}
	})
	return nil
}
