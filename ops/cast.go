package ops

import (
	"fmt"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Cast and CastLike.
func init() {
	register(
		Op{Name: "Cast", Since: []int{1, 6, 9, 13, 19, 21, 23, 24, 25}, MinIn: 1,
			Infer: func(n *Node) ([]Info, error) {
				d, err := castTarget(n)
				out := n.In[0]
				out.DType, out.Const = d, nil
				return []Info{out}, err
			},
			Compile: compileCast,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Op("CastLike", dy[0], n.Inputs[0])}, nil
			}},
		Op{Name: "CastLike", Since: []int{15, 19, 21, 23, 24, 25}, MinIn: 2,
			Infer: func(n *Node) ([]Info, error) {
				out := n.In[0]
				out.DType, out.Const = n.In[1].DType, nil
				return []Info{out}, nil
			},
			Compile: compileCast,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Op("CastLike", dy[0], n.Inputs[0]), nil}, nil
			}},
	)
}

// castTarget is the attribute "to", which opset 1 gives as a name.
func castTarget(n *Node) (tensor.DType, error) {
	if a := n.Attr("to"); a != nil && a.Type == onnx.AttrString {
		return tensor.ParseDType(strings.ToLower(string(a.S)))
	}
	d := tensor.DType(n.Int("to", 0))
	if !d.Valid() {
		return 0, fmt.Errorf("attribute to: %d is no element type", int(d))
	}
	return d, nil
}

func compileCast(n *Node) (Kernel, error) {
	saturate := n.Int("saturate", 1) != 0
	if m := n.Str("round_mode", "up"); m != "up" {
		return nil, fmt.Errorf("attribute round_mode %q is not supported", m)
	}
	return func(c *Ctx) error {
		if c.Out(0) == nil { // strings, or CastLike of what is not known before
			d, err := c.In(1), error(nil)
			to := tensor.Undefined
			if d != nil {
				to = d.DType()
			} else if to, err = castTarget(c.Node); err != nil {
				return err
			}
			if _, err := c.Alloc(0, to, c.In(0).Shape()...); err != nil {
				return err
			}
		}
		return tensor.ConvertInto(c.Out(0), c.In(0), saturate)
	}, nil
}
