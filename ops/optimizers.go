package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Optimizer steps of ai.onnx.preview.training. Inputs are the learning rate R, the update count T, then the
// optimized tensors X, as many gradients G, and as many of each kind of state; outputs are the new X and states.
func init() {
	step := func(name string, states int, compile func(n *Node) (Table, error)) Op {
		return Op{Domain: "ai.onnx.preview.training", Name: name, Since: []int{1}, MinIn: 4 + states, MaxIn: -1, MinOut: 1 + states, MaxOut: -1,
			Types: []TypeSet{Floats, Of(tensor.Int64), Floats},
			Infer: func(n *Node) ([]Info, error) {
				k, err := optimized(n, states)
				if err != nil {
					return nil, err
				}
				out := slices.Concat(n.In[2:2+k], n.In[2+2*k:])
				for i := range out {
					out[i] = out[i].WithoutValue()
				}
				return out, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				if _, err := optimized(n, states); err != nil {
					return nil, err
				}
				t, err := compile(n)
				return t.By(2), err
			},
			NoGrad: "an optimizer's step is not differentiated",
		}
	}
	f := func(n *Node, name string, def float32) float64 { return float64(n.Float(name, def)) }
	register(
		step("Adagrad", 1, func(n *Node) (Table, error) {
			decay, eps, norm := f(n, "decay_factor", 0), f(n, "epsilon", 0), f(n, "norm_coefficient", 0)
			return updates(1, func(r float64, t int64) update {
				r /= 1 + float64(t)*decay
				return func(x, g, h, _ float64) (float64, float64, float64) {
					g += norm * x
					h += g * g
					return x - r*g/(math.Sqrt(h)+eps), h, 0
				}
			}), nil
		}),
		step("Momentum", 1, func(n *Node) (Table, error) {
			alpha, beta, norm, mode := f(n, "alpha", 0), f(n, "beta", 0), f(n, "norm_coefficient", 0), n.Str("mode", "")
			if mode != "standard" && mode != "nesterov" {
				return nil, fmt.Errorf("the mode %q is neither standard nor nesterov", mode)
			}
			return updates(1, func(r float64, t int64) update {
				b := beta
				if t <= 0 { // the first gradient counts in full
					b = 1
				}
				return func(x, g, v, _ float64) (float64, float64, float64) {
					g += norm * x
					v = alpha*v + b*g
					if mode == "nesterov" {
						return x - r*(g+alpha*v), v, 0
					}
					return x - r*v, v, 0
				}
			}), nil
		}),
		step("Adam", 2, func(n *Node) (Table, error) {
			alpha, beta, eps := f(n, "alpha", 0.9), f(n, "beta", 0.999), f(n, "epsilon", 0)
			norm, post := f(n, "norm_coefficient", 0), f(n, "norm_coefficient_post", 0)
			return updates(2, func(r float64, t int64) update {
				if t > 0 {
					r *= math.Sqrt(1-math.Pow(beta, float64(t))) / (1 - math.Pow(alpha, float64(t)))
				}
				return func(x, g, v, h float64) (float64, float64, float64) {
					g += norm * x
					v, h = alpha*v+(1-alpha)*g, beta*h+(1-beta)*g*g
					return (1 - post) * (x - r*v/(math.Sqrt(h)+eps)), v, h
				}
			}), nil
		}),
	)
}

// update is one element's step: from its value, gradient and states to its value and states.
type update func(x, g, v, h float64) (x2, v2, h2 float64)

// optimized is the number of tensors that a step has, and checks the numbers of its inputs and outputs.
func optimized(n *Node, states int) (int, error) {
	k := (len(n.Inputs) - 2) / (2 + states)
	if len(n.Inputs) != 2+k*(2+states) {
		return 0, fmt.Errorf("%d inputs are not the learning rate, the count and %d for each tensor", len(n.Inputs), 2+states)
	}
	if len(n.Outputs) > k*(1+states) {
		return 0, fmt.Errorf("%d outputs, but %d tensors have %d", len(n.Outputs), k, k*(1+states))
	}
	if slices.Contains(n.Inputs, nil) {
		return 0, fmt.Errorf("an input is left out")
	}
	return k, nil
}

func updates(states int, rule func(r float64, t int64) update) Table {
	return Table{
		tensor.Float32: func(c *Ctx) error { return applyUpdates[float32](c, states, rule) },
		tensor.Float64: func(c *Ctx) error { return applyUpdates[float64](c, states, rule) },
	}
}

func applyUpdates[T kernel.Float](c *Ctx, states int, rule func(r float64, t int64) update) error {
	k, err := optimized(c.Node, states)
	if err != nil {
		return err
	}
	r, err := floatsOf[float64](c, 0)
	if err != nil {
		return err
	}
	if len(r) != 1 {
		return fmt.Errorf("the learning rate has %d elements", len(r))
	}
	t, err := scalarInt(c.In(1), "the update count")
	if err != nil {
		return err
	}
	f := rule(r[0], t)
	for i := range k {
		x := c.In(2 + i)
		var in, out [4][]T // X, G and the states
		for j := range 2 + states {
			at := c.In(2 + j*k + i)
			if at.DType() != tensor.TypeOf[T]() || !slices.Equal(at.Shape(), x.Shape()) {
				return fmt.Errorf("input %d is %s%v, but the tensor optimized is %s%v", 2+j*k+i, at.DType(), at.Shape(), x.DType(), x.Shape())
			}
			in[j] = tensor.Data[T](at)
			if j == 1 {
				continue
			}
			y, err := c.Alloc(max(0, j-1)*k+i, at.DType(), at.Shape()...)
			if err != nil {
				return err
			}
			out[j] = tensor.Data[T](y)
		}
		c.Pool.For(x.Len(), unaryGrain, func(lo, hi int) {
			for e := lo; e < hi; e++ {
				var h T
				if states > 1 {
					h = in[3][e]
				}
				x2, v2, h2 := f(float64(in[0][e]), float64(in[1][e]), float64(in[2][e]), float64(h))
				out[0][e], out[2][e] = T(x2), T(v2)
				if states > 1 {
					out[3][e] = T(h2)
				}
			}
		})
	}
	return nil
}
