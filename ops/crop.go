package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
)

func init() {
	register(Op{Name: "CenterCropPad", Since: []int{18}, MinIn: 2, Types: []TypeSet{0, Index}, Infer: inferCenterCropPad,
		Compile: func(*Node) (Kernel, error) { return centerCropPad, nil },
		// Cropping by what was padded, and padding by what was cropped, begin at the same element.
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			return []*onnx.Value{g.Op("CenterCropPad", dy[0], g.Shape(n.Inputs[0])), nil}, nil
		}})
}

// cropAxes is the axes that the sizes of input 1, count of them, are for.
func cropAxes(n *Node, rank, count int) ([]int, error) {
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if v := n.Ints("axes", nil); len(v) > 0 {
		var err error
		if axes, err = NormAxes(v, rank); err != nil {
			return nil, err
		}
	}
	if count >= 0 && count != len(axes) {
		return nil, fmt.Errorf("%d sizes for %d axes", count, len(axes))
	}
	return axes, nil
}

func inferCenterCropPad(n *Node) ([]Info, error) {
	x := n.In[0]
	v, known, err := n.list(1)
	if err != nil {
		return nil, err
	}
	if !x.Ranked {
		return []Info{Unranked(x.DType)}, nil
	}
	count := -1
	if known {
		count = len(v)
	}
	axes, err := cropAxes(n, len(x.Shape), count)
	if err != nil {
		return nil, err
	}
	sizes := unknownDims(len(axes))
	if known {
		if sizes, err = dimsOf(v); err != nil {
			return nil, err
		}
	}
	out := Tensor(x.DType, append([]Dim(nil), x.Shape...)...)
	for i, a := range axes {
		out.Shape[a] = sizes[i]
	}
	return []Info{out}, nil
}

func centerCropPad(c *Ctx) error {
	x, err := tensorIn(c, 0)
	if err != nil {
		return err
	}
	sizes, err := shapeOperand(c, 1)
	if err != nil {
		return err
	}
	axes, err := cropAxes(c.Node, x.Rank(), len(sizes))
	if err != nil {
		return err
	}
	shape := append([]int(nil), x.Shape()...)
	for i, a := range axes {
		shape[a] = sizes[i]
	}
	y, err := c.Alloc(0, x.DType(), shape...)
	if err != nil {
		return err
	}
	clearTensor(y)
	from, to := rowMajor(x.Shape()), rowMajor(shape)
	both, so, do := make([]int, len(shape)), 0, 0
	for i, d := range shape {
		in := x.Shape()[i]
		both[i] = min(d, in)
		if d < in {
			so += (in - d) / 2 * from[i]
		} else {
			do += (d - in) / 2 * to[i]
		}
	}
	return strided(c.Pool, y, x, both, to, do, from, so)
}
