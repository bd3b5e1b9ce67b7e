package ops

import (
	"fmt"
	"strings"
	"sync"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Cast and CastLike.
func init() {
	register(
		Op{Name: "BitCast", Since: []int{26}, MinIn: 1, NoGrad: "it looks at bits", Infer: func(n *Node) ([]Info, error) {
			to, x := tensor.DType(n.Int("to", 0)), n.In[0]
			if !to.Valid() || to == tensor.String || x.DType == tensor.String || x.DType != tensor.Undefined && x.DType.Bits() != to.Bits() {
				return nil, fmt.Errorf("the bits of %s cannot be those of %s", x.DType, to)
			}
			x = x.WithoutValue()
			x.DType = to
			return []Info{x}, nil
		}, Compile: func(n *Node) (Kernel, error) {
			return func(c *Ctx) error {
				y, err := c.Alloc(0, tensor.DType(c.Node.Int("to", 0)), c.In(0).Shape()...)
				if err != nil {
					return err
				}
				copy(y.Bytes(), c.In(0).Bytes())
				return nil
			}, nil
		}},
		Op{Name: "Cast", Since: []int{1, 6, 9, 13, 19, 21, 23, 24, 25}, MinIn: 1,
			Infer: func(n *Node) ([]Info, error) {
				d, err := castTarget(n)
				out := n.In[0]
				out = out.WithoutValue()
				out.DType = d
				return []Info{out}, err
			},
			Compile: compileCast, Term: castTerm,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{castBack(g, n, dy[0])}, nil
			}},
		Op{Name: "CastLike", Since: []int{15, 19, 21, 23, 24, 25}, MinIn: 2,
			Infer: func(n *Node) ([]Info, error) {
				out := n.In[0]
				out = out.WithoutValue()
				out.DType = n.In[1].DType
				return []Info{out}, nil
			},
			Compile: compileCast,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{castBack(g, n, dy[0]), nil}, nil
			}},
	)
}

// castTerm is an element under another integer type.
func castTerm(n *Node, x []Dim) Dim {
	d, err := castTarget(n)
	switch {
	case err != nil:
		return Unknown
	case d != tensor.Bool:
		return x[0]
	}
	return not(equalTerm(n, []Dim{x[0], D(0)}))
}

// castBack is the gradient of a cast between floating-point types, or of integers that stand for real numbers; others let none through.
func castBack(g *Grad, n *Node, dy *onnx.Value) *onnx.Value {
	if dy != nil && g.Moves(n.Inputs[0]) && !g.DType(n.Inputs[0]).IsFloat() {
		return dy
	}
	if dy == nil || !g.DType(n.Inputs[0]).IsFloat() || !g.DType(n.Outputs[0]).IsFloat() {
		return nil
	}
	return g.Op("CastLike", dy, n.Inputs[0])
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
	mode := tensor.RoundUp
	switch m := n.Str("round_mode", "up"); m {
	case "up":
	case "down":
		mode = tensor.RoundDown
	case "nearest":
		mode = tensor.RoundNearest
	default:
		return nil, fmt.Errorf("attribute round_mode %q is none of up, down and nearest", m)
	}
	convert := func(dst, src *tensor.Tensor) error {
		if dst.DType() == tensor.Float8E8M0 {
			return tensor.ConvertE8M0(dst, src, saturate, mode)
		}
		return tensor.ConvertInto(dst, src, saturate)
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
		return castInto(c, c.Out(0), c.In(0), convert)
	}, nil
}

// castGrain is the elements that are worth a thread of their own.
const castGrain = 1 << 15

// castInto converts in parallel what is long, strings aside.
func castInto(c *Ctx, dst, src *tensor.Tensor, convert func(dst, src *tensor.Tensor) error) error {
	n, ds, ss := src.Len(), dst.DType().Size(), src.DType().Size()
	if n < 2*castGrain || ds == 0 || ss == 0 || dst.Len() != n {
		return convert(dst, src)
	}
	var (
		once   sync.Once
		failed error
	)
	c.Pool.For(n, castGrain, func(lo, hi int) {
		d, err := tensor.FromBytes(dst.DType(), []int{hi - lo}, dst.Bytes()[lo*ds:hi*ds], dst)
		if err == nil {
			var s *tensor.Tensor
			if s, err = tensor.FromBytes(src.DType(), []int{hi - lo}, src.Bytes()[lo*ss:hi*ss], src); err == nil {
				err = convert(d, s)
			}
		}
		if err != nil {
			once.Do(func() { failed = err })
		}
	})
	return failed
}
