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
		// stream alone, so that the gradient is the same operator on dY.
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
				d := g.Internal("SeededDropout", 1, []*onnx.Value{dy[0], n.Inputs[1], n.Inputs[2]}, IntAttr("stream", n.Int("stream", 0)))
				return []*onnx.Value{d[0], nil, nil}, nil
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
