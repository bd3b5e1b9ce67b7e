package ops

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// slopeRule is the derivative of a unary function: from input, output and the output's gradient the
// input's.
type slopeRule func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value

// unaryGrain is the elements that are worth a thread of their own.
const unaryGrain = 1 << 13

// overSlices applies f to matching pieces of input and output.
func overSlices[T, R tensor.Element](f func(dst []R, x []T)) Kernel {
	return func(c *Ctx) error {
		x, y := tensor.Data[T](c.In(0)), tensor.Data[R](c.Out(0))
		if c.Pool.Alone(len(x), unaryGrain) {
			f(y[:len(x)], x)
			return nil
		}
		c.Pool.For(len(x), unaryGrain, func(lo, hi int) { f(y[lo:hi], x[lo:hi]) })
		return nil
	}
}

func each[T, R any](f func(T) R) func([]R, []T) {
	return func(dst []R, x []T) {
		for i, v := range x {
			dst[i] = f(v)
		}
	}
}

// floatKernels are a unary operator's kernels on vectors of the two widths. dst may be x.
type floatKernels struct {
	f32 func(dst, x []float32)
	f64 func(dst, x []float64)
}

func (k floatKernels) table() Table {
	return Table{tensor.Float32: overSlices(k.f32), tensor.Float64: overSlices(k.f64)}
}

// vector is kernels that hang on no attribute.
func vector(f32 func(dst, x []float32), f64 func(dst, x []float64)) func(*Node) floatKernels {
	return func(*Node) floatKernels { return floatKernels{f32, f64} }
}

// scalar is f, computed in float64, for both widths.
func scalar(f func(float64) float64) func(*Node) floatKernels {
	k := scalars(f)
	return func(*Node) floatKernels { return k }
}

func scalars(f func(float64) float64) floatKernels {
	return floatKernels{each(func(v float32) float32 { return float32(f(float64(v))) }), each(f)}
}

type signedElement interface {
	int8 | int16 | int32 | int64
}

// unaryOp is an operator on single elements of one input. floats reads the attributes for the kernels on floats, nil if it takes none; integers
// are the kernels on other types.
func unaryOp(name string, since []int, types TypeSet, floats func(n *Node) floatKernels, slope slopeRule, integers ...Table) Op {
	op := Op{Name: name, Since: since, MinIn: 1, Types: []TypeSet{types}, Infer: SameAs(0), InPlace: []int{0}}
	if floats == nil {
		op.Compile = merge(integers...).Always(0)
	} else {
		op.Compile = func(n *Node) (Kernel, error) { return merge(append(integers, floats(n).table())...).By(0), nil }
		op.Pointwise = func(n *Node) Pointwise { return Pointwise{one: floats(n).f32} }
	}
	if slope == nil {
		op.NoGrad, op.Flat = "zero almost everywhere", true
		return op
	}
	op.Grad = func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		out := make([]*onnx.Value, len(n.Inputs))
		out[0] = slope(g, n, n.Inputs[0], n.Outputs[0], dy[0])
		return out, nil
	}
	return op
}

// geluGrad is of the form without an approximation.
func geluGrad[T kernel.Float](c *Ctx) error {
	if c.In(1) == nil || !slices.Equal(c.In(0).Shape(), c.In(1).Shape()) || c.In(0).DType() != c.In(1).DType() {
		return fmt.Errorf("the gradient is not as the input")
	}
	dy, x, dx := tensor.Data[T](c.In(0)), tensor.Data[T](c.In(1)), tensor.Data[T](c.Out(0))
	c.Pool.For(len(dy), unaryGrain, func(lo, hi int) { kernel.GeluGrad(dx[lo:hi], dy[lo:hi], x[lo:hi]) })
	return nil
}

func reluGrad[T kernel.Float](c *Ctx) error {
	if c.In(1) == nil || !slices.Equal(c.In(0).Shape(), c.In(1).Shape()) || c.In(0).DType() != c.In(1).DType() {
		return fmt.Errorf("the gradient is not as the output")
	}
	dy, y, dx := tensor.Data[T](c.In(0)), tensor.Data[T](c.In(1)), tensor.Data[T](c.Out(0))
	c.Pool.For(len(dy), unaryGrain, func(lo, hi int) { kernel.ReluGrad(dx[lo:hi], dy[lo:hi], y[lo:hi]) })
	return nil
}

func erfInt[T integers]() Kernel {
	return overSlices(each(func(v T) T { return T(math.Erf(float64(v))) }))
}

func invert[T integers]() Kernel { return overSlices(each(func(v T) T { return ^v })) }

func ints[T signedElement](f func(T) T) Kernel { return overSlices(each(f)) }

func merge(ts ...Table) Table {
	out := Table{}
	for _, t := range ts {
		for d, k := range t {
			out[d] = k
		}
	}
	return out
}

func negate[T signedElement](v T) T { return -v }
func absolute[T signedElement](v T) T {
	if v < 0 {
		return -v
	}
	return v
}
func signum[T signedElement](v T) T {
	switch {
	case v > 0:
		return 1
	case v < 0:
		return -1
	}
	return 0
}
func positive[T signedElement](v T) T { return max(v, 0) }

func same[T tensor.Element](dst, x []T) { copy(dst, x) }

// unsignedTable is a copy for the unsigned types, for which Abs and Relu change nothing.
var unsignedTable = Table{
	tensor.Uint8: overSlices(same[uint8]), tensor.Uint16: overSlices(same[uint16]),
	tensor.Uint32: overSlices(same[uint32]), tensor.Uint64: overSlices(same[uint64]),
}

func signedTable(a Kernel, b Kernel, c Kernel, d Kernel) Table {
	return Table{tensor.Int8: a, tensor.Int16: b, tensor.Int32: c, tensor.Int64: d}
}

func sign(v float64) float64 {
	switch {
	case v > 0:
		return 1
	case v < 0:
		return -1
	}
	return v // zero, or NaN
}

func init() {
	old := []int{1, 6, 13}
	trig := []int{7, 22}
	hyper := []int{9, 22}
	// Shorthands for slopes.
	sq := func(g *Grad, v *onnx.Value) *onnx.Value { return g.Mul(v, v) }
	one := func(g *Grad, v *onnx.Value) *onnx.Value { return g.Like(v, 1) }
	where := func(g *Grad, c, a, b *onnx.Value) *onnx.Value { return g.Op("Where", c, a, b) }
	attr := func(n *Node, name string, def float32) float64 { return float64(n.Float(name, def)) }

	register(
		withTerm(unaryOp("Abs", old, Numeric, vector(kernel.Abs[float32], kernel.Abs[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Op("Sign", x)) },
			unsignedTable, signedTable(ints(absolute[int8]), ints(absolute[int16]), ints(absolute[int32]), ints(absolute[int64]))), func(_ *Node, x []Dim) Dim { return x[0].Max(D(0).Sub(x[0])) }),
		withTerm(unaryOp("Neg", old, Floats|Signed, vector(kernel.Neg[float32], kernel.Neg[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Neg(dy) },
			signedTable(ints(negate[int8]), ints(negate[int16]), ints(negate[int32]), ints(negate[int64]))), func(_ *Node, x []Dim) Dim { return D(0).Sub(x[0]) }),
		unaryOp("Sign", []int{9, 13}, Numeric, scalar(sign), nil, Table{
			tensor.Uint8:  overSlices(each(func(v uint8) uint8 { return min(v, 1) })),
			tensor.Uint16: overSlices(each(func(v uint16) uint16 { return min(v, 1) })),
			tensor.Uint32: overSlices(each(func(v uint32) uint32 { return min(v, 1) })),
			tensor.Uint64: overSlices(each(func(v uint64) uint64 { return min(v, 1) }))},
			signedTable(ints(signum[int8]), ints(signum[int16]), ints(signum[int32]), ints(signum[int64]))),
		unaryOp("Ceil", old, Floats, scalar(math.Ceil), nil),
		unaryOp("Floor", old, Floats, scalar(math.Floor), nil),
		letThrough(unaryOp("Round", []int{11, 22}, Floats, scalar(math.RoundToEven), nil)),
		unaryOp("Sqrt", old, Floats, vector(kernel.Sqrt[float32], kernel.Sqrt[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				if g.sumsSquares(x) {
					y = g.orOne(y)
				}
				return g.Div(dy, g.Mul(y, g.Like(y, 2)))
			}),
		unaryOp("Reciprocal", old, Floats, vector(kernel.Recip[float32], kernel.Recip[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Neg(g.Mul(dy, sq(g, y))) }),
		unaryOp("Exp", old, Floats, vector(kernel.Exp[float32], kernel.Exp[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, y) }),
		unaryOp("Log", old, Floats, vector(kernel.Log[float32], kernel.Log[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Div(dy, x) }),
		unaryOp("Sin", trig, Floats, scalar(math.Sin),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Op("Cos", x)) }),
		unaryOp("Cos", trig, Floats, scalar(math.Cos),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Neg(g.Mul(dy, g.Op("Sin", x))) }),
		unaryOp("Tan", trig, Floats, scalar(math.Tan),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Add(sq(g, y), one(g, y))) }),
		unaryOp("Asin", trig, Floats, scalar(math.Asin),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Div(dy, g.Op("Sqrt", g.Sub(one(g, x), sq(g, x))))
			}),
		unaryOp("Acos", trig, Floats, scalar(math.Acos),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Neg(g.Div(dy, g.Op("Sqrt", g.Sub(one(g, x), sq(g, x)))))
			}),
		unaryOp("Atan", trig, Floats, scalar(math.Atan),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Div(dy, g.Add(sq(g, x), one(g, x))) }),
		unaryOp("Sinh", hyper, Floats, scalar(math.Sinh),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Op("Cosh", x)) }),
		unaryOp("Cosh", hyper, Floats, scalar(math.Cosh),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Op("Sinh", x)) }),
		unaryOp("Asinh", hyper, Floats, scalar(math.Asinh),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Div(dy, g.Op("Sqrt", g.Add(sq(g, x), one(g, x))))
			}),
		unaryOp("Acosh", hyper, Floats, scalar(math.Acosh),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Div(dy, g.Op("Sqrt", g.Sub(sq(g, x), one(g, x))))
			}),
		unaryOp("Atanh", hyper, Floats, scalar(math.Atanh),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Div(dy, g.Sub(one(g, x), sq(g, x))) }),
		unaryOp("Tanh", old, Floats, vector(kernel.Tanh[float32], kernel.Tanh[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Sub(one(g, y), sq(g, y))) }),
		unaryOp("Sigmoid", old, Floats, vector(kernel.Sigmoid[float32], kernel.Sigmoid[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Mul(dy, g.Mul(y, g.Sub(one(g, y), y)))
			}),
		unaryOp("Erf", []int{9, 13}, Numeric, vector(kernel.Erf[float32], kernel.Erf[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Mul(g.Mul(dy, g.Like(x, 2/math.Sqrt(math.Pi))), g.Op("Exp", g.Neg(sq(g, x))))
			}, intKernels(erfInt[int8](), erfInt[int16](), erfInt[int32](), erfInt[int64](), erfInt[uint8](), erfInt[uint16](), erfInt[uint32](), erfInt[uint64]())),
		unaryOp("Relu", []int{1, 6, 13, 14}, Floats|Signed, vector(kernel.Relu[float32], kernel.Relu[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Internal("ReluGrad", 1, []*onnx.Value{dy, y})[0]
			}, signedTable(ints(positive[int8]), ints(positive[int16]), ints(positive[int32]), ints(positive[int64]))),
		// dY, Y
		Op{Domain: Internal, Name: "ReluGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats}, Infer: SameAs(0), InPlace: []int{0},
			Compile: Table{tensor.Float32: reluGrad[float32], tensor.Float64: reluGrad[float64]}.Always(0),
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				dy, y := n.Inputs[0], n.Inputs[1]
				return []*onnx.Value{where(g, g.Op("LessOrEqual", y, g.Like(y, 0)), g.Like(dy, 0), dy)}, nil
			}},
		// dY, X
		Op{Domain: Internal, Name: "GeluGrad", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats}, Infer: SameAs(0), InPlace: []int{0, 1},
			Compile: Table{tensor.Float32: geluGrad[float32], tensor.Float64: geluGrad[float64]}.Always(0),
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				dy, x := n.Inputs[0], n.Inputs[1]
				cdf := g.Mul(g.Like(x, 0.5), g.Add(g.Like(x, 1), g.Op("Erf", g.Mul(x, g.Like(x, math.Sqrt2/2)))))
				pdf := g.Mul(g.Op("Exp", g.Mul(g.Mul(x, x), g.Like(x, -0.5))), g.Like(x, 1/math.Sqrt(2*math.Pi)))
				return []*onnx.Value{g.Mul(dy, g.Add(cdf, g.Mul(x, pdf)))}, nil
			}},
		unaryOp("LeakyRelu", []int{1, 6, 16}, Floats, func(n *Node) floatKernels {
			a := attr(n, "alpha", 0.01)
			return floatKernels{func(dst, x []float32) { kernel.LeakyRelu(dst, x, float32(a)) }, func(dst, x []float64) { kernel.LeakyRelu(dst, x, a) }}
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			return where(g, g.Op("Greater", x, g.Like(x, 0)), dy, g.Mul(dy, g.Like(dy, attr(n, "alpha", 0.01))))
		}),
		unaryOp("ThresholdedRelu", []int{1, 10, 22}, Floats, func(n *Node) floatKernels {
			a := attr(n, "alpha", 1)
			return scalars(func(x float64) float64 {
				if x > a { // a NaN is not
					return x
				}
				return 0
			})
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			return where(g, g.Op("Greater", x, g.Like(x, attr(n, "alpha", 1))), dy, g.Like(dy, 0))
		}),
		unaryOp("Elu", []int{1, 6, 22}, Floats, func(n *Node) floatKernels {
			a := attr(n, "alpha", 1)
			return scalars(func(x float64) float64 {
				if x < 0 {
					return a * math.Expm1(x)
				}
				return x
			})
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			return where(g, g.Op("Greater", x, g.Like(x, 0)), dy, g.Mul(dy, g.Add(y, g.Like(y, attr(n, "alpha", 1)))))
		}),
		unaryOp("Selu", []int{1, 6, 22}, Floats, func(n *Node) floatKernels {
			a, gamma := attr(n, "alpha", 1.6732632), attr(n, "gamma", 1.050701)
			return scalars(func(x float64) float64 {
				if x <= 0 {
					return gamma * a * math.Expm1(x)
				}
				return gamma * x
			})
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			a, gamma := attr(n, "alpha", 1.6732632), attr(n, "gamma", 1.050701)
			return where(g, g.Op("Greater", x, g.Like(x, 0)), g.Mul(dy, g.Like(dy, gamma)), g.Mul(dy, g.Add(y, g.Like(y, a*gamma))))
		}),
		unaryOp("Celu", []int{12, 28}, Floats, func(n *Node) floatKernels {
			a := attr(n, "alpha", 1)
			return scalars(func(x float64) float64 {
				if x < 0 {
					return a * math.Expm1(x/a)
				}
				return x
			})
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			a := attr(n, "alpha", 1)
			return where(g, g.Op("Greater", x, g.Like(x, 0)), dy, g.Mul(dy, g.Op("Exp", g.Div(x, g.Like(x, a)))))
		}),
		unaryOp("HardSigmoid", []int{1, 6, 22}, Floats, func(n *Node) floatKernels {
			a, b := attr(n, "alpha", 0.2), attr(n, "beta", 0.5)
			return floatKernels{func(dst, x []float32) { kernel.HardSigmoid(dst, x, float32(a), float32(b)) }, func(dst, x []float64) { kernel.HardSigmoid(dst, x, a, b) }}
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			inside := g.Op("And", g.Op("Greater", y, g.Like(y, 0)), g.Op("Less", y, g.Like(y, 1)))
			return where(g, inside, g.Mul(dy, g.Like(dy, attr(n, "alpha", 0.2))), g.Like(dy, 0))
		}),
		unaryOp("HardSwish", []int{14, 22}, Floats, vector(kernel.HardSwish[float32], kernel.HardSwish[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				mid := g.Mul(dy, g.Add(g.Div(x, g.Like(x, 3)), g.Like(x, 0.5)))
				return where(g, g.Op("LessOrEqual", x, g.Like(x, -3)), g.Like(dy, 0), where(g, g.Op("GreaterOrEqual", x, g.Like(x, 3)), dy, mid))
			}),
		unaryOp("Softplus", []int{1, 22}, Floats, vector(kernel.Softplus[float32], kernel.Softplus[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value { return g.Mul(dy, g.Op("Sigmoid", x)) }),
		unaryOp("Softsign", []int{1, 22}, Floats, scalar(func(x float64) float64 { return x / (1 + math.Abs(x)) }),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				return g.Div(dy, sq(g, g.Add(g.Op("Abs", x), one(g, x))))
			}),
		unaryOp("Mish", []int{18, 22}, Floats, vector(mish[float32], mish[float64]),
			func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
				t := g.Op("Tanh", g.Op("Softplus", x))
				return g.Mul(dy, g.Add(t, g.Mul(g.Mul(x, g.Op("Sigmoid", x)), g.Sub(one(g, t), sq(g, t)))))
			}),
		Op{Name: "SwiGLU", Since: []int{28}, MinIn: 2, Types: []TypeSet{Floats}, Infer: func(n *Node) ([]Info, error) {
			a, b := n.In[0], n.In[1]
			if a.Ranked && b.Ranked && len(a.Shape) != len(b.Shape) || a.DType != b.DType && a.DType != 0 && b.DType != 0 {
				return nil, fmt.Errorf("the gate %s%v and the value %s%v differ", a.DType, a.Shape, b.DType, b.Shape)
			}
			a = a.WithoutValue()
			return []Info{a}, nil
		}, Compile: func(n *Node) (Kernel, error) {
			alpha := float64(n.Float("alpha", 1))
			return Table{tensor.Float32: swiGLU[float32](alpha), tensor.Float64: swiGLU[float64](alpha)}.By(0), nil
		}, Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
				gate := g.Mul(in[0], g.Op("Sigmoid", g.Mul(in[0], g.Like(in[0], float64(n.Float("alpha", 1))))))
				return []*onnx.Value{g.Mul(gate, in[1])}
			})
		}},
		unaryOp("Swish", []int{24}, Floats, func(n *Node) floatKernels {
			a := attr(n, "alpha", 1)
			if a == 1 {
				return floatKernels{kernel.Silu[float32], kernel.Silu[float64]}
			}
			return scalars(func(x float64) float64 { return x / (1 + math.Exp(-a*x)) })
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			a := g.Like(x, attr(n, "alpha", 1))
			s := g.Op("Sigmoid", g.Mul(x, a))
			return g.Mul(dy, g.Add(s, g.Mul(g.Mul(a, y), g.Sub(one(g, s), s))))
		}),
		gelu(),
		Op{Name: "Shrink", Since: []int{9}, MinIn: 1, Types: []TypeSet{Numeric}, Infer: SameAs(0), InPlace: []int{0}, Compile: compileShrink,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				x, lambd := n.Inputs[0], attr(n, "lambd", 0.5)
				out := g.Op("Or", g.Op("Less", x, g.Like(x, -lambd)), g.Op("Greater", x, g.Like(x, lambd)))
				return []*onnx.Value{where(g, out, dy[0], g.Like(dy[0], 0))}, nil
			}},
		Op{Name: "Identity", Since: []int{1, 13, 14, 16, 19, 21, 23, 24, 25}, AnyKind: true, MinIn: 1, View: true, Infer: func(n *Node) ([]Info, error) { return []Info{n.In[0]}, nil },
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) { return dy, nil }},
		Op{Name: "Not", Since: []int{1}, MinIn: 1, Types: []TypeSet{Bools}, Infer: SameAs(0), InPlace: []int{0}, NoGrad: "it has no floating-point output", Flat: true,
			Term:    func(_ *Node, x []Dim) Dim { return not(x[0]) },
			Compile: Table{tensor.Bool: overSlices(each(func(v bool) bool { return !v }))}.Always(0)},
		unaryOp("BitwiseNot", []int{18}, Integers, nil, nil, intKernels(invert[int8](), invert[int16](), invert[int32](), invert[int64](),
			invert[uint8](), invert[uint16](), invert[uint32](), invert[uint64]())),
		boolTest("IsNaN", []int{9, 13, 20}, func(*Node) func(float64) bool { return func(v float64) bool { return v != v } }),
		boolTest("IsInf", []int{10, 20}, func(n *Node) func(float64) bool {
			up, down := n.Int("detect_positive", 1) != 0, n.Int("detect_negative", 1) != 0
			return func(v float64) bool { return up && math.IsInf(v, 1) || down && math.IsInf(v, -1) }
		}),
		unaryOp("Clip", []int{1, 6}, Floats, func(n *Node) floatKernels {
			lo, hi := attr(n, "min", -math.MaxFloat32), attr(n, "max", math.MaxFloat32)
			return floatKernels{func(dst, x []float32) { kernel.Clip(dst, x, float32(lo), float32(hi)) }, func(dst, x []float64) { kernel.Clip(dst, x, lo, hi) }}
		}, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
			lo, hi := attr(n, "min", -math.MaxFloat32), attr(n, "max", math.MaxFloat32)
			in := g.Op("And", g.Op("GreaterOrEqual", x, g.Like(x, lo)), g.Op("LessOrEqual", x, g.Like(x, hi)))
			return where(g, in, dy, g.Like(dy, 0))
		}),
		Op{Name: "Clip", Since: []int{11, 12, 13}, MinIn: 1, MaxIn: 3, Types: []TypeSet{Numeric}, Infer: SameAs(0), InPlace: []int{0},
			Term: func(n *Node, x []Dim) Dim {
				y := x[0]
				if n.Has(1) {
					y = y.Max(x[1])
				}
				if n.Has(2) {
					y = y.Min(x[2])
				}
				return y
			},
			Compile: Table{
				tensor.Float32: clipFloat[float32], tensor.Float64: clipFloat[float64], tensor.Int8: clip[int8], tensor.Int16: clip[int16],
				tensor.Int32: clip[int32], tensor.Int64: clip[int64], tensor.Uint8: clip[uint8], tensor.Uint16: clip[uint16],
				tensor.Uint32: clip[uint32], tensor.Uint64: clip[uint64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				x, d, zero := n.Inputs[0], dy[0], g.Like(dy[0], 0)
				out := make([]*onnx.Value, len(n.Inputs))
				lo, hi := n.Input(1), n.Input(2)
				if lo != nil {
					d = where(g, g.Op("GreaterOrEqual", x, lo), d, zero)
					below := g.Op("Less", x, lo)
					if hi != nil {
						below = g.Op("And", below, g.Op("Less", lo, hi))
					}
					out[1] = g.SumTo(where(g, below, dy[0], zero), lo)
				}
				if hi != nil {
					d = where(g, g.Op("LessOrEqual", x, hi), d, zero)
					above := g.Op("Greater", x, hi)
					if lo != nil {
						above = g.Op("Or", above, g.Op("Less", hi, lo))
					}
					out[2] = g.SumTo(where(g, above, dy[0], zero), hi)
				}
				out[0] = d
				return out, nil
			}},
		Op{Name: "Dropout", Since: []int{1, 6, 7, 10}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats}, Infer: inferDropout, InPlace: []int{0}, Impure: true,
			Compile: compileDropout, Grad: gradDropout},
		Op{Name: "Dropout", Since: []int{12, 13, 22}, MinIn: 1, MaxIn: 3, MinOut: 1, MaxOut: 2, Types: []TypeSet{Floats, Floats, Bools}, Infer: inferDropout, InPlace: []int{0}, Impure: true,
			Compile: compileDropout, Grad: gradDropout},
	)
}

// mish is x·tanh(softplus(x)), by pieces that fit the cache. dst may be x.
func mish[T kernel.Float](dst, x []T) {
	var room [1024]T
	for len(x) > 0 {
		n := min(len(x), len(room))
		t := room[:n]
		kernel.Softplus(t, x[:n])
		kernel.Tanh(t, t)
		kernel.Mul(dst[:n], x[:n], t)
		dst, x = dst[n:], x[n:]
	}
}

type ordered interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

func clip[T ordered](c *Ctx) error {
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](c.Out(0))
	lo, hasLo, err := bound[T](c, 1)
	if err != nil {
		return err
	}
	hi, hasHi, err := bound[T](c, 2)
	if err != nil {
		return err
	}
	c.Pool.For(len(x), unaryGrain, func(a, b int) {
		for i, v := range x[a:b] {
			if hasLo && v < lo {
				v = lo
			}
			if hasHi && v > hi {
				v = hi
			}
			y[a+i] = v
		}
	})
	return nil
}

// bound is the single element of input i, ok false if that is left out.
func bound[T ordered](c *Ctx, i int) (v T, ok bool, err error) {
	t := c.In(i)
	if t == nil {
		return 0, false, nil
	}
	if t.Len() != 1 || t.DType() != c.In(0).DType() {
		return 0, false, fmt.Errorf("input %d must be a single %s, got %s", i, c.In(0).DType(), t)
	}
	return tensor.Data[T](t)[0], true, nil
}

func clipFloat[T kernel.Float](c *Ctx) error {
	lo, ok, err := bound[T](c, 1)
	if err != nil {
		return err
	}
	if !ok {
		lo = T(math.Inf(-1))
	}
	hi, ok, err := bound[T](c, 2)
	if err != nil {
		return err
	}
	if !ok {
		hi = T(math.Inf(1))
	}
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](c.Out(0))
	c.Pool.For(len(x), unaryGrain, func(a, b int) { kernel.Clip(y[a:b], x[a:b], lo, hi) })
	return nil
}

func boolTest(name string, since []int, f func(n *Node) func(float64) bool) Op {
	return Op{Name: name, Since: since, MinIn: 1, NoGrad: "it has no floating-point output", Flat: true,
		Types: []TypeSet{Floats | Of(tensor.Float8E4M3FN, tensor.Float8E4M3FNUZ, tensor.Float8E5M2, tensor.Float8E5M2FNUZ)},
		Infer: func(n *Node) ([]Info, error) {
			out := n.In[0]
			out = out.WithoutValue()
			out.DType = tensor.Bool
			return []Info{out}, nil
		},
		Compile: func(n *Node) (Kernel, error) {
			test := f(n)
			return func(c *Ctx) error {
				x, y := c.In(0), tensor.Data[bool](c.Out(0))
				c.Pool.For(len(y), unaryGrain, func(lo, hi int) {
					if x.DType() == tensor.Float32 {
						for i, v := range tensor.Data[float32](x)[lo:hi] {
							y[lo+i] = test(float64(v))
						}
						return
					}
					for i := lo; i < hi; i++ {
						y[i] = test(tensor.Float64At(x, i))
					}
				})
				return nil
			}, nil
		}}
}

func gelu() Op {
	floats := func(n *Node) floatKernels {
		switch n.Str("approximate", "none") {
		case "none":
			return floatKernels{kernel.GeluErf[float32], kernel.GeluErf[float64]}
		case "tanh":
			return floatKernels{kernel.GeluTanh[float32], kernel.GeluTanh[float64]}
		}
		return floatKernels{}
	}
	op := unaryOp("Gelu", []int{20}, Floats, floats, func(g *Grad, n *Node, x, y, dy *onnx.Value) *onnx.Value {
		half, one := g.Like(x, 0.5), g.Like(x, 1)
		if n.Str("approximate", "none") == "tanh" {
			k := math.Sqrt(2 / math.Pi)
			x2 := g.Mul(x, x)
			t := g.Op("Tanh", g.Mul(g.Mul(x, g.Like(x, k)), g.Add(one, g.Mul(x2, g.Like(x, 0.044715)))))
			du := g.Mul(g.Like(x, k), g.Add(one, g.Mul(x2, g.Like(x, 3*0.044715))))
			d := g.Add(g.Mul(half, g.Add(one, t)), g.Mul(g.Mul(g.Mul(half, x), g.Sub(one, g.Mul(t, t))), du))
			return g.Mul(dy, d)
		}
		return g.Internal("GeluGrad", 1, []*onnx.Value{dy, x})[0]
	})
	compile := op.Compile
	op.Compile = func(n *Node) (Kernel, error) {
		if floats(n).f32 == nil {
			return nil, fmt.Errorf("attribute approximate %q is neither none nor tanh", n.Str("approximate", "none"))
		}
		return compile(n)
	}
	return op
}

func compileShrink(n *Node) (Kernel, error) {
	bias, lambd := float64(n.Float("bias", 0)), float64(n.Float("lambd", 0.5))
	return Table{
		tensor.Float32: shrink[float32](bias, lambd), tensor.Float64: shrink[float64](bias, lambd),
		tensor.Int8: shrink[int8](bias, lambd), tensor.Int16: shrink[int16](bias, lambd), tensor.Int32: shrink[int32](bias, lambd), tensor.Int64: shrink[int64](bias, lambd),
		tensor.Uint8: shrink[uint8](bias, lambd), tensor.Uint16: shrink[uint16](bias, lambd), tensor.Uint32: shrink[uint32](bias, lambd), tensor.Uint64: shrink[uint64](bias, lambd),
	}.By(0), nil
}

// shrink pulls what lies beyond ±lambd towards zero by bias and makes the rest zero.
func shrink[T ordered](bias, lambd float64) Kernel {
	return overSlices(each(func(v T) T {
		switch x := float64(v); {
		case x < -lambd:
			return T(x + bias)
		case x > lambd:
			return T(x - bias)
		}
		return 0
	}))
}

func inferDropout(n *Node) ([]Info, error) {
	y := n.In[0].WithoutValue()
	mask := y
	if n.Since >= 10 {
		mask.DType = tensor.Bool
	}
	return []Info{y, mask}, nil
}

// compileDropout lets everything through unless in training mode. With a seed, the draws of a kernel's
// first run are those of the standard's reference (NumPy's), and later runs go on from there.
func compileDropout(n *Node) (Kernel, error) {
	always := n.Since < 7 && n.Int("is_test", 0) == 0
	var draws *mersenne
	if a := n.Attr("seed"); a != nil && n.Since >= 12 {
		draws = newMersenne(uint32(a.I))
	}
	return func(c *Ctx) error {
		ratio, train := float64(n.Float("ratio", 0.5)), always
		if n.Since >= 12 {
			ratio = 0.5
			if r := c.In(1); r != nil {
				if r.Len() != 1 {
					return fmt.Errorf("input 1 must be a single number, got %s", r)
				}
				ratio = tensor.Float64At(r, 0)
			}
			if m := c.In(2); m != nil {
				if m.Len() != 1 {
					return fmt.Errorf("input 2 must be a single bool, got %s", m)
				}
				train = tensor.Data[bool](m)[0]
			}
		}
		if train && !(ratio >= 0 && ratio <= 1) {
			return fmt.Errorf("the ratio %v is outside [0, 1]", ratio)
		}
		if !train || ratio == 0 {
			copy(c.Out(0).Bytes(), c.In(0).Bytes())
			fillMask(c.Out(1), nil)
			return nil
		}
		keep := make([]bool, c.In(0).Len())
		drawMask(c, keep, ratio, draws)
		fillMask(c.Out(1), keep)
		return Table{
			tensor.Float32: func(c *Ctx) error { return drop[float32](c, keep, ratio) },
			tensor.Float64: func(c *Ctx) error { return drop[float64](c, keep, ratio) },
		}.By(0)(&Ctx{Context: c.Context, Pool: c.Pool, Node: c.Node, Mem: c.Mem, Ins: c.Ins[:1], Outs: c.Outs[:1]})
	}, nil
}

func drop[T kernel.Float](c *Ctx, keep []bool, ratio float64) error {
	x, y, scale := tensor.Data[T](c.In(0)), tensor.Data[T](c.Out(0)), T(1/(1-ratio))
	c.Pool.For(len(x), unaryGrain, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			if keep[i] {
				y[i] = x[i] * scale
			} else {
				y[i] = 0
			}
		}
	})
	return nil
}

// fillMask writes a mask, which is of bools, or before opset 10 of the data's type; a nil keep keeps all.
func fillMask(m *tensor.Tensor, keep []bool) {
	if m == nil {
		return
	}
	if m.DType() == tensor.Bool {
		mask := tensor.Data[bool](m)
		if copy(mask, keep); keep == nil {
			for i := range mask {
				mask[i] = true
			}
		}
		return
	}
	for i := range m.Len() {
		v := 1.0
		if keep != nil && !keep[i] {
			v = 0
		}
		tensor.SetFloat64At(m, i, v)
	}
}

func drawMask(c *Ctx, keep []bool, ratio float64, draws *mersenne) {
	if draws != nil {
		draws.Lock()
		defer draws.Unlock()
		for i := range keep {
			keep[i] = draws.float64() >= ratio
		}
		return
	}
	c.Pool.For(len(keep), unaryGrain, func(lo, hi int) {
		r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
		for i := lo; i < hi; i++ {
			keep[i] = r.Float64() >= ratio
		}
	})
}

// mersenne is MT19937, seeded and read as NumPy's RandomState does.
type mersenne struct {
	sync.Mutex
	state [624]uint32
	at    int
}

func newMersenne(seed uint32) *mersenne {
	m := &mersenne{at: 624}
	for i := range m.state {
		m.state[i] = seed
		seed = 1812433253*(seed^seed>>30) + uint32(i) + 1
	}
	return m
}

func (m *mersenne) next() uint32 {
	if m.at == len(m.state) {
		for i := range m.state {
			y := m.state[i]&0x80000000 | m.state[(i+1)%624]&0x7fffffff
			m.state[i] = m.state[(i+397)%624] ^ y>>1 ^ -(y&1)&0x9908b0df
		}
		m.at = 0
	}
	y := m.state[m.at]
	m.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// float64 is uniform in [0, 1).
func (m *mersenne) float64() float64 {
	a, b := m.next()>>5, m.next()>>6
	return (float64(a)*(1<<26) + float64(b)) / (1 << 53)
}

// letThrough has straight-through estimation pass op as if it were nothing.
func letThrough(op Op) Op {
	op.Estimate = func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) { return dy, nil }
	return op
}

// gradDropout sends the gradient the way that the mask let through, which the node gets as an output if it
// has none.
func gradDropout(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	if dy[0] == nil {
		return out, nil
	}
	train, fixed := n.Input(2), false // fixed: train's value is known
	switch {
	case n.Since < 7:
		fixed = n.Int("is_test", 0) == 0
		train = nil
	case train != nil:
		if c := g.Info(train).Const; c != nil && c.Len() == 1 {
			fixed, train = tensor.Float64At(c, 0) != 0, nil
		}
	}
	if train == nil && !fixed {
		out[0] = dy[0]
		return out, nil
	}
	mask := n.Output(1)
	if mask == nil {
		mask = &onnx.Value{Name: g.Names("mask")}
		n.SetOutput(1, mask)
		info := n.Info(0)
		info = info.WithoutValue()
		if n.Since >= 10 {
			info.DType = tensor.Bool
		}
		g.Infos[mask] = info
	}
	if n.Since < 10 {
		mask = g.Op("Greater", mask, g.Like(mask, 0))
	}
	one := g.Like(dy[0], 1)
	scale := g.Like(dy[0], 2)
	if n.Since < 12 {
		scale = g.Like(dy[0], 1/(1-float64(n.Float("ratio", 0.5))))
	} else if n.Has(1) {
		scale = g.Div(one, g.Sub(one, g.Op("CastLike", n.Inputs[1], dy[0])))
	}
	if train != nil {
		scale = g.Op("Where", train, scale, one)
	}
	out[0] = g.Op("Where", mask, g.Mul(dy[0], scale), g.Like(dy[0], 0))
	return out, nil
}

func swiGLU[T kernel.Float](alpha float64) Kernel {
	return func(c *Ctx) error {
		if !slices.Equal(c.In(0).Shape(), c.In(1).Shape()) {
			return fmt.Errorf("the gate's shape %v is not the value's, %v", c.In(0).Shape(), c.In(1).Shape())
		}
		a, b, y := tensor.Data[T](c.In(0)), tensor.Data[T](c.In(1)), tensor.Data[T](c.Out(0))
		c.Pool.For(len(y), unaryGrain, func(lo, hi int) {
			a, b, y := a[lo:hi], b[lo:hi], y[lo:hi]
			if alpha == 1 {
				kernel.Silu(y, a)
			} else {
				kernel.Scale(y, a, T(alpha))
				kernel.Sigmoid(y, y)
				kernel.Mul(y, y, a)
			}
			kernel.Mul(y, y, b)
		})
		return nil
	}
}
