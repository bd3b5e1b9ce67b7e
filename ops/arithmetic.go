package ops

import (
	"errors"
	"fmt"
	"math"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// runsOf walks two broadcast operands in step with the output: f gets offsets into output, a and b, the
// length of a run, and how far a and b move in it (0 or 1).
func runsOf(out, a, b []int, f func(o, ia, ib, n, sa, sb int)) {
	rank := len(out)
	as, bs := strides(a, rank), strides(b, rank)
	// Merge trailing dimensions in which both operands go on evenly.
	n, sa, sb := 1, 1, 1
	d := rank - 1
	for ; d >= 0; d-- {
		if out[d] == 1 {
			continue
		}
		if n == 1 {
			n, sa, sb = out[d], min(as[d], 1), min(bs[d], 1)
			continue
		}
		if as[d] != sa*n || bs[d] != sb*n {
			break
		}
		n *= out[d]
	}
	count := 1
	for _, v := range out[:d+1] {
		count *= v
	}
	if n == 0 || count == 0 {
		return
	}
	index := make([]int, d+1)
	ia, ib := 0, 0
	for r := range count {
		f(r*n, ia, ib, n, sa, sb)
		for k := d; k >= 0; k-- {
			index[k]++
			ia, ib = ia+as[k], ib+bs[k]
			if index[k] < out[k] {
				break
			}
			ia, ib = ia-as[k]*out[k], ib-bs[k]*out[k]
			index[k] = 0
		}
	}
}

// strides are the steps of a tensor in a broadcast shape of that rank, 0 where it repeats.
func strides(shape []int, rank int) []int {
	out := make([]int, rank)
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 {
			out[rank-len(shape)+i] = step
		}
		step *= shape[i]
	}
	return out
}

// pairwise applies f to runs: a run moves through a slice, or stands at its first element.
func pairwise[A, B, R tensor.Element](f func(dst []R, a []A, b []B, sa, sb int) error) Kernel {
	return func(c *Ctx) error {
		ta, tb, to := c.In(0), c.In(1), c.Out(0)
		if tb == nil || tb.DType() != tensor.TypeOf[B]() {
			return fmt.Errorf("input 1 is %v, want element type %s", tb, tensor.TypeOf[B]())
		}
		a, b, y := tensor.Data[A](ta), tensor.Data[B](tb), tensor.Data[R](to)
		var failed error
		runsOf(to.Shape(), ta.Shape(), tb.Shape(), func(o, ia, ib, n, sa, sb int) {
			if n <= unaryGrain {
				if err := f(y[o:o+n], a[ia:ia+(n-1)*sa+1], b[ib:ib+(n-1)*sb+1], sa, sb); err != nil {
					failed = err
				}
				return
			}
			errs := make(chan error, 1)
			c.Pool.For(n, unaryGrain, func(lo, hi int) {
				if err := f(y[o+lo:o+hi], a[ia+lo*sa:ia+(hi-1)*sa+1], b[ib+lo*sb:ib+(hi-1)*sb+1], sa, sb); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			})
			select {
			case failed = <-errs:
			default:
			}
		})
		return failed
	}
}

// elementwise lifts a function of two elements.
func elementwise[A, B, R tensor.Element](f func(A, B) R) Kernel {
	return pairwise(func(dst []R, a []A, b []B, sa, sb int) error {
		for i := range dst {
			dst[i] = f(a[i*sa], b[i*sb])
		}
		return nil
	})
}

// fast uses a vector kernel, with forms for a scalar on either side.
func fast[T kernel.Float](vv func(dst, x, y []T), vs func(dst, x []T, s T), sv func(dst []T, s T, x []T)) Kernel {
	return pairwise(func(dst, a, b []T, sa, sb int) error {
		switch {
		case sa == 1 && sb == 1 || len(dst) == 1:
			vv(dst, a, b)
		case sa == 1:
			vs(dst, a, b[0])
		case sb == 1:
			sv(dst, a[0], b)
		default:
			one := make([]T, 1)
			vv(one, a[:1], b[:1])
			for i := range dst {
				dst[i] = one[0]
			}
		}
		return nil
	})
}

func flip[T kernel.Float](vs func(dst, x []T, s T)) func(dst []T, s T, x []T) {
	return func(dst []T, s T, x []T) { vs(dst, x, s) }
}

type integers interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// intKernels lists the integer types' kernels.
func intKernels(i8, i16, i32, i64, u8, u16, u32, u64 Kernel) Table {
	return Table{tensor.Int8: i8, tensor.Int16: i16, tensor.Int32: i32, tensor.Int64: i64,
		tensor.Uint8: u8, tensor.Uint16: u16, tensor.Uint32: u32, tensor.Uint64: u64}
}

func addK[T integers]() Kernel { return elementwise(func(a, b T) T { return a + b }) }
func subK[T integers]() Kernel { return elementwise(func(a, b T) T { return a - b }) }
func mulK[T integers]() Kernel { return elementwise(func(a, b T) T { return a * b }) }
func maxK[T integers]() Kernel { return elementwise(func(a, b T) T { return max(a, b) }) }
func minK[T integers]() Kernel { return elementwise(func(a, b T) T { return min(a, b) }) }
func andK[T integers]() Kernel { return elementwise(func(a, b T) T { return a & b }) }
func orK[T integers]() Kernel  { return elementwise(func(a, b T) T { return a | b }) }
func xorK[T integers]() Kernel { return elementwise(func(a, b T) T { return a ^ b }) }

var errDivide = errors.New("integer division by zero")

func divK[T integers]() Kernel {
	return pairwise(func(dst, a, b []T, sa, sb int) error {
		for i := range dst {
			if b[i*sb] == 0 {
				return errDivide
			}
			dst[i] = a[i*sa] / b[i*sb]
		}
		return nil
	})
}

// modK is Python's % (the divisor's sign), or C's fmod (the dividend's).
func modK[T integers](fmod bool) Kernel {
	return pairwise(func(dst, a, b []T, sa, sb int) error {
		for i := range dst {
			d := b[i*sb]
			if d == 0 {
				return errDivide
			}
			r := a[i*sa] % d
			if !fmod && r != 0 && (r < 0) != (d < 0) {
				r += d
			}
			dst[i] = r
		}
		return nil
	})
}

func floatMod(fmod bool) func(a, b float64) float64 {
	return func(a, b float64) float64 {
		r := math.Mod(a, b)
		if !fmod && r != 0 && (r < 0) != (b < 0) {
			r += b
		}
		return r
	}
}

func floatPairs(f func(a, b float64) float64) Table {
	return Table{
		tensor.Float32: elementwise(func(a, b float32) float32 { return float32(f(float64(a), float64(b))) }),
		tensor.Float64: elementwise(f),
	}
}

func shiftK[T uint8 | uint16 | uint32 | uint64](left bool) Kernel {
	return elementwise(func(a, b T) T {
		if left {
			return a << b
		}
		return a >> b
	})
}

// inferPair infers the broadcast shape; result 0 is the operands' type.
func inferPair(result tensor.DType) func(n *Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		d := result
		if d == tensor.Undefined {
			d = n.In[0].DType
		}
		if len(n.In) == 2 && n.In[0].DType != n.In[1].DType && n.In[0].DType != 0 && n.In[1].DType != 0 && n.Op != "Pow" && n.Op != "PRelu" {
			return nil, fmt.Errorf("element types %s and %s differ", n.In[0].DType, n.In[1].DType)
		}
		a, b := n.In[0], n.Info(1)
		if axis, ok := legacyAxisOf(n); ok && a.Ranked && b.Ranked {
			b = alignAxis(a, b, axis)
		}
		out, err := Broadcast(d, a, b)
		return []Info{out}, err
	}
}

// legacyAxisOf is where input 1 starts in input 0, as opsets before 7 say it: by attribute, and for
// PRelu's slopes at the channels.
func legacyAxisOf(n *Node) (int, bool) {
	if n.Since >= 7 {
		return 0, false
	}
	if n.Op == "PRelu" {
		return 1, n.Info(1).Rank() == 1 && n.In[1].Shape[0].N != 1
	}
	a := n.Attr("axis")
	if a == nil || n.Int("broadcast", 0) == 0 {
		return 0, false
	}
	return int(a.I), true
}

// alignAxis is the shape of b with the trailing ones that "axis" of opsets 1 and 6 stands for.
func alignAxis(a, b Info, axis int) Info {
	if axis < 0 {
		axis += len(a.Shape)
	}
	shape := append([]Dim(nil), b.Shape...)
	for len(shape)+axis < len(a.Shape) {
		shape = append(shape, D(1))
	}
	b.Shape = shape
	return b
}

// legacyAxis gives input 1 its trailing ones before the kernel sees it.
func legacyAxis(n *Node, k Kernel) Kernel {
	if n.Since >= 7 {
		return k
	}
	return func(c *Ctx) error {
		axis, ok := legacyAxisOf(c.Node)
		if !ok {
			return k(c)
		}
		b := c.In(1)
		info := alignAxis(InfoOf(c.In(0), false), InfoOf(b, false), axis)
		shape, _ := info.Static()
		r, err := b.Reshape(shape...)
		if err != nil {
			return err
		}
		w := *c
		w.Ins = []tensor.Value{c.Ins[0], r}
		return k(&w)
	}
}

type pairRule func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value)

func pairOp(name string, since []int, types TypeSet, result tensor.DType, table func(n *Node) Table, rule pairRule) Op {
	op := Op{Name: name, Since: since, MinIn: 2, Types: []TypeSet{types}, Infer: inferPair(result),
		Compile: func(n *Node) (Kernel, error) { return legacyAxis(n, table(n).By(0)), nil }}
	if result == tensor.Undefined {
		op.InPlace = []int{0, 1}
	}
	if rule == nil {
		op.NoGrad = "zero: it has no floating-point output, or none that moves"
		return op
	}
	op.Grad = func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		a, b := n.Inputs[0], n.Inputs[1]
		if _, ok := legacyAxisOf(n); ok {
			return nil, fmt.Errorf("no gradient of the form of opset %d with an axis", n.Since)
		}
		da, db := rule(g, n, a, b, n.Outputs[0], dy[0])
		out := []*onnx.Value{nil, nil}
		if da != nil {
			out[0] = g.SumTo(da, a)
		}
		if db != nil {
			out[1] = g.SumTo(db, b)
		}
		return out, nil
	}
	return op
}

func fixed(t Table) func(*Node) Table { return func(*Node) Table { return t } }

func compareTable(lt func(a, b float64) bool, li func(a, b int64) bool, lu func(a, b uint64) bool) Table {
	return Table{
		tensor.Float32: elementwise(func(a, b float32) bool { return lt(float64(a), float64(b)) }), tensor.Float64: elementwise(lt),
		tensor.Float16:  elementwise(func(a, b tensor.F16) bool { return lt(float64(a.Float32()), float64(b.Float32())) }),
		tensor.BFloat16: elementwise(func(a, b tensor.BF16) bool { return lt(float64(a.Float32()), float64(b.Float32())) }),
		tensor.Int8:     elementwise(func(a, b int8) bool { return li(int64(a), int64(b)) }),
		tensor.Int16:    elementwise(func(a, b int16) bool { return li(int64(a), int64(b)) }),
		tensor.Int32:    elementwise(func(a, b int32) bool { return li(int64(a), int64(b)) }), tensor.Int64: elementwise(li),
		tensor.Uint8:  elementwise(func(a, b uint8) bool { return lu(uint64(a), uint64(b)) }),
		tensor.Uint16: elementwise(func(a, b uint16) bool { return lu(uint64(a), uint64(b)) }),
		tensor.Uint32: elementwise(func(a, b uint32) bool { return lu(uint64(a), uint64(b)) }), tensor.Uint64: elementwise(lu),
		tensor.Bool:   elementwise(func(a, b bool) bool { return (a == b) == li(0, 0) }),
		tensor.String: elementwise(func(a, b string) bool { return a == b }),
	}
}

func lt[T ordered](a, b T) bool { return a < b }
func gt[T ordered](a, b T) bool { return a > b }
func le[T ordered](a, b T) bool { return a <= b }
func ge[T ordered](a, b T) bool { return a >= b }
func eq[T ordered](a, b T) bool { return a == b }

func init() {
	arith := []int{1, 6, 7, 13, 14}
	bools := func(f func(a, b bool) bool) func(*Node) Table { return fixed(Table{tensor.Bool: elementwise(f)}) }
	register(
		pairOp("Add", arith, Numeric, 0, fixed(merge(Table{
			tensor.Float32: fast(kernel.Add[float32], kernel.AddScalar[float32], flip(kernel.AddScalar[float32])),
			tensor.Float64: fast(kernel.Add[float64], kernel.AddScalar[float64], flip(kernel.AddScalar[float64]))},
			intKernels(addK[int8](), addK[int16](), addK[int32](), addK[int64](), addK[uint8](), addK[uint16](), addK[uint32](), addK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) { return dy, dy }),
		pairOp("Sub", arith, Numeric, 0, fixed(merge(Table{
			tensor.Float32: fast(kernel.Sub[float32], kernel.SubScalar[float32], kernel.ScalarSub[float32]),
			tensor.Float64: fast(kernel.Sub[float64], kernel.SubScalar[float64], kernel.ScalarSub[float64])},
			intKernels(subK[int8](), subK[int16](), subK[int32](), subK[int64](), subK[uint8](), subK[uint16](), subK[uint32](), subK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) { return dy, g.Neg(dy) }),
		pairOp("Mul", arith, Numeric, 0, fixed(merge(Table{
			tensor.Float32: fast(kernel.Mul[float32], kernel.Scale[float32], flip(kernel.Scale[float32])),
			tensor.Float64: fast(kernel.Mul[float64], kernel.Scale[float64], flip(kernel.Scale[float64]))},
			intKernels(mulK[int8](), mulK[int16](), mulK[int32](), mulK[int64](), mulK[uint8](), mulK[uint16](), mulK[uint32](), mulK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
				return g.Mul(dy, b), g.Mul(dy, a)
			}),
		pairOp("Div", arith, Numeric, 0, fixed(merge(Table{
			tensor.Float32: fast(kernel.Div[float32], kernel.DivScalar[float32], kernel.ScalarDiv[float32]),
			tensor.Float64: fast(kernel.Div[float64], kernel.DivScalar[float64], kernel.ScalarDiv[float64])},
			intKernels(divK[int8](), divK[int16](), divK[int32](), divK[int64](), divK[uint8](), divK[uint16](), divK[uint32](), divK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
				da = g.Div(dy, b)
				return da, g.Neg(g.Mul(da, g.Div(a, b)))
			}),
		pairOp("Mod", []int{10, 13}, Numeric, 0, func(n *Node) Table {
			f := n.Int("fmod", 0) != 0
			return merge(floatPairs(floatMod(f)), intKernels(modK[int8](f), modK[int16](f), modK[int32](f), modK[int64](f),
				modK[uint8](f), modK[uint16](f), modK[uint32](f), modK[uint64](f)))
		}, func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
			return dy, g.Neg(g.Mul(dy, g.Div(g.Sub(a, y), b)))
		}),
		powOp(),
		pairOp("PRelu", []int{1, 6, 7, 9, 16}, Numeric, 0, fixed(merge(floatPairs(func(x, s float64) float64 {
			if x < 0 {
				return s * x
			}
			return x
		}), Table{tensor.Int32: elementwise(prelu[int32]), tensor.Int64: elementwise(prelu[int64]),
			tensor.Uint32: elementwise(func(x, _ uint32) uint32 { return x }), tensor.Uint64: elementwise(func(x, _ uint64) uint64 { return x })})),
			func(g *Grad, n *Node, x, s, y, dy *onnx.Value) (da, db *onnx.Value) {
				up, zero := g.Op("Greater", x, g.Like(x, 0)), g.Like(x, 0)
				return g.Op("Where", up, dy, g.Mul(dy, s)), g.Op("Where", up, zero, g.Mul(dy, x))
			}),
		pairOp("And", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a && b }), nil),
		pairOp("Or", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a || b }), nil),
		pairOp("Xor", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a != b }), nil),
		pairOp("Equal", []int{1, 7, 11, 13, 19}, Numeric|Bools|Of(tensor.String), tensor.Bool, fixed(compareTable(eq[float64], eq[int64], eq[uint64])), nil),
		pairOp("Less", []int{1, 7, 9, 13}, Numeric, tensor.Bool, fixed(compareTable(lt[float64], lt[int64], lt[uint64])), nil),
		pairOp("Greater", []int{1, 7, 9, 13}, Numeric, tensor.Bool, fixed(compareTable(gt[float64], gt[int64], gt[uint64])), nil),
		pairOp("LessOrEqual", []int{12, 16}, Numeric, tensor.Bool, fixed(compareTable(le[float64], le[int64], le[uint64])), nil),
		pairOp("GreaterOrEqual", []int{12, 16}, Numeric, tensor.Bool, fixed(compareTable(ge[float64], ge[int64], ge[uint64])), nil),
		pairOp("BitShift", []int{11}, Unsigned, 0, func(n *Node) Table {
			l := n.Str("direction", "") == "LEFT"
			return Table{tensor.Uint8: shiftK[uint8](l), tensor.Uint16: shiftK[uint16](l), tensor.Uint32: shiftK[uint32](l), tensor.Uint64: shiftK[uint64](l)}
		}, nil),
		pairOp("BitwiseAnd", []int{18}, Integers, 0, fixed(intKernels(andK[int8](), andK[int16](), andK[int32](), andK[int64](), andK[uint8](), andK[uint16](), andK[uint32](), andK[uint64]())), nil),
		pairOp("BitwiseOr", []int{18}, Integers, 0, fixed(intKernels(orK[int8](), orK[int16](), orK[int32](), orK[int64](), orK[uint8](), orK[uint16](), orK[uint32](), orK[uint64]())), nil),
		pairOp("BitwiseXor", []int{18}, Integers, 0, fixed(intKernels(xorK[int8](), xorK[int16](), xorK[int32](), xorK[int64](), xorK[uint8](), xorK[uint16](), xorK[uint32](), xorK[uint64]())), nil),
		variadic("Max", []int{1, 6, 8, 12, 13}, merge(Table{
			tensor.Float32: fast(kernel.Max[float32], kernel.MaxScalar[float32], flip(kernel.MaxScalar[float32])),
			tensor.Float64: fast(kernel.Max[float64], kernel.MaxScalar[float64], flip(kernel.MaxScalar[float64]))},
			intKernels(maxK[int8](), maxK[int16](), maxK[int32](), maxK[int64](), maxK[uint8](), maxK[uint16](), maxK[uint32](), maxK[uint64]())), shareTies),
		variadic("Min", []int{1, 6, 8, 12, 13}, merge(Table{
			tensor.Float32: fast(kernel.Min[float32], kernel.MinScalar[float32], flip(kernel.MinScalar[float32])),
			tensor.Float64: fast(kernel.Min[float64], kernel.MinScalar[float64], flip(kernel.MinScalar[float64]))},
			intKernels(minK[int8](), minK[int16](), minK[int32](), minK[int64](), minK[uint8](), minK[uint16](), minK[uint32](), minK[uint64]())), shareTies),
		variadic("Sum", []int{1, 6, 8, 13}, Table{
			tensor.Float32: fast(kernel.Add[float32], kernel.AddScalar[float32], flip(kernel.AddScalar[float32])),
			tensor.Float64: fast(kernel.Add[float64], kernel.AddScalar[float64], flip(kernel.AddScalar[float64]))},
			func(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value { return repeat(dy, len(n.Inputs)) }),
		variadic("Mean", []int{1, 6, 8, 13}, Table{
			tensor.Float32: fast(kernel.Add[float32], kernel.AddScalar[float32], flip(kernel.AddScalar[float32])),
			tensor.Float64: fast(kernel.Add[float64], kernel.AddScalar[float64], flip(kernel.AddScalar[float64]))},
			func(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value {
				return repeat(g.Div(dy, g.Like(dy, float64(len(n.Inputs)))), len(n.Inputs))
			}),
		whereOp(), sumTo(),
	)
}

func prelu[T int32 | int64](x, s T) T {
	if x < 0 {
		return s * x
	}
	return x
}

// powOp takes operands of different types since opset 12; the result has the base's.
func powOp() Op {
	op := pairOp("Pow", []int{1, 7, 12, 13, 15}, Numeric, 0, nil, func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
		e := b
		if g.DType(b) != g.DType(a) {
			e = g.Op("CastLike", b, a)
		}
		da = g.Mul(dy, g.Mul(e, g.Op("Pow", a, g.Sub(e, g.Like(e, 1)))))
		if g.DType(b) == g.DType(a) && g.Info(b).Const == nil {
			// 0^b does not move with b for b > 0, as PyTorch has it.
			safe := g.Op("Where", g.Op("Greater", a, g.Like(a, 0)), a, g.Like(a, 1))
			db = g.Mul(dy, g.Mul(y, g.Op("Log", safe)))
		}
		return da, db
	})
	op.InPlace = nil
	op.Compile = func(n *Node) (Kernel, error) {
		return legacyAxis(n, func(c *Ctx) error {
			a, b, y := c.In(0), c.In(1), c.Out(0)
			if a.DType() == tensor.Float32 && b.DType() == tensor.Float32 && b.Len() == 1 && tensor.Data[float32](b)[0] == 2 {
				x := tensor.Data[float32](a)
				kernel.Mul(tensor.Data[float32](y), x, x)
				return nil
			}
			runsOf(y.Shape(), a.Shape(), b.Shape(), func(o, ia, ib, count, sa, sb int) {
				for i := range count {
					u, v := ia+i*sa, ib+i*sb
					if a.DType().IsInteger() && b.DType().IsInteger() {
						setInt(y, o+i, intPow(intAt(a, u), intAt(b, v)))
						continue
					}
					tensor.SetFloat64At(y, o+i, math.Pow(tensor.Float64At(a, u), tensor.Float64At(b, v)))
				}
			})
			return nil
		}), nil
	}
	return op
}

func intAt(t *tensor.Tensor, i int) int64 {
	if t.DType() == tensor.Int64 {
		return tensor.Data[int64](t)[i]
	}
	return int64(tensor.Float64At(t, i))
}

func setInt(t *tensor.Tensor, i int, v int64) {
	if t.DType() == tensor.Int64 {
		tensor.Data[int64](t)[i] = v
		return
	}
	tensor.SetFloat64At(t, i, float64(v))
}

func intPow(a, b int64) int64 {
	if b < 0 {
		switch a {
		case 1:
			return 1
		case -1:
			return 1 - 2*(-b&1)
		}
		return 0
	}
	r := int64(1)
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			r *= a
		}
		a *= a
	}
	return r
}

func repeat(v *onnx.Value, n int) []*onnx.Value {
	out := make([]*onnx.Value, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// shareTies gives the gradient of Max and Min to the inputs that are equal to the output, in equal shares.
func shareTies(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value {
	y := n.Outputs[0]
	hits := make([]*onnx.Value, len(n.Inputs))
	var count *onnx.Value
	for i, x := range n.Inputs {
		hits[i] = g.Op("CastLike", g.Op("Equal", x, y), y)
		if count == nil {
			count = hits[i]
		} else {
			count = g.Add(count, hits[i])
		}
	}
	share := g.Div(dy, count)
	out := make([]*onnx.Value, len(hits))
	for i, h := range hits {
		out[i] = g.Mul(share, h)
	}
	return out
}

// variadic folds a pairwise kernel over any number of inputs.
func variadic(name string, since []int, table Table, rule func(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value) Op {
	pair := table.By(0)
	return Op{Name: name, Since: since, MinIn: 1, MaxIn: -1, Types: []TypeSet{Numeric},
		Infer: func(n *Node) ([]Info, error) {
			out, err := Broadcast(n.In[0].DType, n.In...)
			return []Info{out}, err
		},
		Compile: func(n *Node) (Kernel, error) {
			return func(c *Ctx) error {
				acc := c.Ins[0]
				for i := 1; i < len(c.Ins); i++ {
					w := *c
					w.Ins = []tensor.Value{acc, c.Ins[i]}
					if i == len(c.Ins)-1 {
						w.Outs = c.Outs
					} else {
						a, b := InfoOf(acc, false), InfoOf(c.Ins[i], false)
						info, err := Broadcast(a.DType, a, b)
						if err != nil {
							return err
						}
						shape, _ := info.Static()
						t, err := c.New(a.DType, shape...)
						if err != nil {
							return err
						}
						w.Outs = []tensor.Value{t}
					}
					if err := pair(&w); err != nil {
						return err
					}
					acc = w.Outs[0]
				}
				if len(c.Ins) == 1 {
					copy(c.Out(0).Bytes(), c.In(0).Bytes())
				}
				if name == "Mean" {
					for i := range c.Out(0).Len() {
						tensor.SetFloat64At(c.Out(0), i, tensor.Float64At(c.Out(0), i)/float64(len(c.Ins)))
					}
				}
				return nil
			}, nil
		},
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			out := rule(g, n, dy[0])
			for i, d := range out {
				out[i] = g.SumTo(d, n.Inputs[i])
			}
			return out, nil
		}}
}

func whereOp() Op {
	return Op{Name: "Where", Since: []int{9, 16}, MinIn: 3, Types: []TypeSet{Bools, 0},
		Infer: func(n *Node) ([]Info, error) {
			out, err := Broadcast(n.In[1].DType, n.In...)
			return []Info{out}, err
		},
		Compile: func(*Node) (Kernel, error) {
			return func(c *Ctx) error {
				if a, b := c.In(1), c.In(2); a == nil || b == nil || a.DType() != b.DType() {
					return fmt.Errorf("inputs 1 and 2 are %v and %v, want one element type", a, b)
				}
				return bySize(c.Out(0).DType(), func() { whereT[uint8](c) }, func() { whereT[uint16](c) }, func() { whereT[uint32](c) },
					func() { whereT[uint64](c) }, func() { whereT[complex128](c) }, func() { whereT[string](c) })
			}, nil
		},
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			zero := g.Like(dy[0], 0)
			return []*onnx.Value{nil, g.SumTo(g.Op("Where", n.Inputs[0], dy[0], zero), n.Inputs[1]),
				g.SumTo(g.Op("Where", n.Inputs[0], zero, dy[0]), n.Inputs[2])}, nil
		}}
}

func whereT[T tensor.Element](c *Ctx) {
	cond, a, b, y := tensor.Data[bool](c.In(0)), tensor.View[T](c.In(1)), tensor.View[T](c.In(2)), tensor.View[T](c.Out(0))
	shape := c.Out(0).Shape()
	rank := len(shape)
	cs, as, bs := strides(c.In(0).Shape(), rank), strides(c.In(1).Shape(), rank), strides(c.In(2).Shape(), rank)
	index := make([]int, rank)
	ic, ia, ib := 0, 0, 0
	for o := range y {
		if cond[ic] {
			y[o] = a[ia]
		} else {
			y[o] = b[ib]
		}
		for k := rank - 1; k >= 0; k-- {
			index[k]++
			ic, ia, ib = ic+cs[k], ia+as[k], ib+bs[k]
			if index[k] < shape[k] {
				break
			}
			ic, ia, ib = ic-cs[k]*shape[k], ia-as[k]*shape[k], ib-bs[k]*shape[k]
			index[k] = 0
		}
	}
}

// sumTo sums its input over the dimensions that broadcasting to it would have repeated.
func sumTo() Op {
	return Op{Domain: Internal, Name: "SumTo", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Of(tensor.Int64)},
		Infer: func(n *Node) ([]Info, error) {
			c := n.In[1].Const
			if c == nil {
				if s := n.In[1]; s.Ranked && len(s.Shape) == 1 && s.Shape[0].Known() {
					dims := make([]Dim, s.Shape[0].N)
					for i := range dims {
						dims[i] = Unknown
					}
					return []Info{Tensor(n.In[0].DType, dims...)}, nil
				}
				return []Info{Unranked(n.In[0].DType)}, nil
			}
			v, err := c.Int64s()
			if err != nil {
				return nil, err
			}
			out := Tensor(n.In[0].DType)
			for _, d := range v {
				out.Shape = append(out.Shape, D(int(d)))
			}
			return []Info{out}, nil
		},
		Compile: Table{tensor.Float32: sumToT[float32], tensor.Float64: sumToT[float64]}.Always(0),
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			return []*onnx.Value{g.ExpandTo(dy[0], n.Inputs[0]), nil}, nil
		}}
}

func sumToT[T kernel.Float](c *Ctx) error {
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](c.Out(0))
	shape := c.In(0).Shape()
	if c.Out(0).Rank() > len(shape) {
		return fmt.Errorf("%v does not sum to %v", shape, c.Out(0).Shape())
	}
	clear(y)
	runsOf(shape, shape, c.Out(0).Shape(), func(o, ia, ib, n, sa, sb int) {
		if sb == 0 {
			y[ib] += kernel.Sum(x[o : o+n])
		} else {
			kernel.Add(y[ib:ib+n], y[ib:ib+n], x[o:o+n])
		}
	})
	return nil
}
