package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators that the standard had as experimental ones and took back at opset 10. Converters of Core ML and Caffe wrote them, and ONNX Runtime has kept them.
func init() {
	op := func(name string, minIn, maxIn int, expand func(g *Grad, n *Node) (*onnx.Value, error)) Op {
		return Op{Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, Expand: func(g *Grad, n *Node) ([]*onnx.Value, error) {
			y, err := expand(g, n)
			return []*onnx.Value{y}, err
		}}
	}
	param := func(g *Grad, n *Node, name string, def float32) *onnx.Value {
		return g.Like(n.Inputs[0], float64(n.Float(name, def)))
	}
	register(
		op("Affine", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			return g.Add(g.Mul(n.Inputs[0], param(g, n, "alpha", 1)), param(g, n, "beta", 0)), nil
		}),
		op("Scale", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			return g.Mul(n.Inputs[0], param(g, n, "scale", 1)), nil
		}),
		op("ScaledTanh", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			return g.Mul(g.Op("Tanh", g.Mul(n.Inputs[0], param(g, n, "beta", 1))), param(g, n, "alpha", 1)), nil
		}),
		op("ParametricSoftplus", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			return g.Mul(g.Op("Softplus", g.Mul(n.Inputs[0], param(g, n, "beta", 1))), param(g, n, "alpha", 1)), nil
		}),
		op("ImageScaler", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			x := n.Inputs[0]
			y := g.Mul(x, param(g, n, "scale", 1))
			if a := n.Attr("bias"); a != nil && len(a.Floats) > 0 { // of the channels
				bias := g.Const(tensor.New(append([]float32{}, a.Floats...), len(a.Floats), 1, 1))
				y = g.Add(y, g.Cast(bias, g.DType(x)))
			}
			return y, nil
		}),
		op("Crop", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			border, scale := n.Ints("border", nil), n.Ints("scale", nil)
			if len(border) != 4 || scale != nil && len(scale) != 2 {
				return nil, fmt.Errorf("border %v and scale %v are no four and two numbers", border, scale)
			}
			for _, v := range append(append([]int64{}, border...), scale...) {
				if v < 0 || v > math.MaxInt32 {
					return nil, fmt.Errorf("border %v and scale %v are out of range", border, scale)
				}
			}
			left, top, right, bottom := border[0], border[1], border[2], border[3]
			x := n.Inputs[0]
			ends := g.Sub(g.Dims(x, 2, 3), g.Int64s(bottom, right))
			if scale != nil {
				ends = g.Int64s(top+scale[0], left+scale[1])
			}
			return g.Op("Slice", x, g.Int64s(top, left), ends, g.Int64s(2, 3)), nil
		}),
		op("DynamicSlice", 3, 4, func(g *Grad, n *Node) (*onnx.Value, error) {
			return g.Op("Slice", n.Inputs...), nil
		}),
		op("MeanVarianceNormalization", 1, 1, func(g *Grad, n *Node) (*onnx.Value, error) {
			x, axes := n.Inputs[0], []int64{0, 2, 3}
			if n.Int("across_channels", 0) != 0 {
				axes = []int64{0, 1, 2, 3}
			}
			x = g.Sub(x, g.ReduceMean(x, axes...))
			if n.Int("normalize_variance", 1) == 0 {
				return x, nil
			}
			return g.Div(x, g.Op("Sqrt", g.ReduceMean(g.Mul(x, x), axes...))), nil
		}),
	)
}
