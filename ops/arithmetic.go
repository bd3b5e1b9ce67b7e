package ops

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// lockstep is how up to three broadcast operands are walked in step with an output: in count runs of n
// elements, in which each operand goes on evenly (step 1) or stands still (0).
type lockstep struct {
	n, count int
	step     [3]int
	outer    []int    // the dimensions that runs are counted over
	steps    [3][]int // of each operand in them
}

func planRuns(out []int, operands ...[]int) *lockstep {
	r := &lockstep{n: 1, count: 1}
	flat := true
	for k, shape := range operands {
		switch {
		case slices.Equal(shape, out):
			r.step[k] = 1
		case !allOnes(shape):
			flat = false
		}
	}
	if flat {
		for _, v := range out {
			r.n *= v
		}
		return r
	}
	for k, shape := range operands {
		r.steps[k] = strides(shape, len(out))
	}
	// Merge trailing dimensions in which every operand goes on evenly.
	d, begun := len(out)-1, false
merge:
	for ; d >= 0; d-- {
		if out[d] == 1 {
			continue
		}
		for k := range operands {
			if begun && r.steps[k][d] != r.step[k]*r.n {
				break merge
			}
			if !begun {
				r.step[k] = min(r.steps[k][d], 1)
			}
		}
		begun = true
		r.n *= out[d]
	}
	r.outer = out[:d+1]
	for _, v := range r.outer {
		r.count *= v
	}
	return r
}

func allOnes(shape []int) bool {
	for _, d := range shape {
		if d != 1 {
			return false
		}
	}
	return true
}

// walk calls f for the runs [lo, hi) with where each begins in the output and in the operands.
func (r *lockstep) walk(lo, hi int, f func(o int, at [3]int)) {
	if r.n == 0 || lo >= hi {
		return
	}
	var at [3]int
	var room [8]int
	index := append(room[:0], make([]int, len(r.outer))...)
	for k, rest := len(r.outer)-1, lo; k >= 0; k-- {
		index[k] = rest % r.outer[k]
		rest /= r.outer[k]
		for j, s := range r.steps {
			if s != nil {
				at[j] += index[k] * s[k]
			}
		}
	}
	for i := lo; i < hi; i++ {
		f(i*r.n, at)
		for k := len(r.outer) - 1; k >= 0; k-- {
			index[k]++
			back := 0
			if index[k] == r.outer[k] {
				index[k], back = 0, r.outer[k]
			}
			for j, s := range r.steps {
				if s != nil {
					at[j] += s[k] * (1 - back)
				}
			}
			if back == 0 {
				break
			}
		}
	}
}

// alone reports whether each would go through the runs one by one.
func (r *lockstep) alone(p *kernel.Pool) bool {
	return p.Threads() == 1 || r.n <= unaryGrain && p.Alone(r.count, unaryGrain/max(r.n, 1))
}

// each is walk over all runs on the pool, cutting long ones: f also gets the length of its piece.
func (r *lockstep) each(p *kernel.Pool, f func(o, n int, at [3]int)) {
	if r.n <= unaryGrain {
		p.For(r.count, unaryGrain/max(r.n, 1), func(lo, hi int) {
			r.walk(lo, hi, func(o int, at [3]int) { f(o, r.n, at) })
		})
		return
	}
	r.walk(0, r.count, func(o int, at [3]int) {
		p.For(r.n, unaryGrain, func(lo, hi int) {
			part := at
			for k := range part {
				part[k] += lo * r.step[k]
			}
			f(o+lo, hi-lo, part)
		})
	})
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
		r, err := Keep(c, func() (*lockstep, error) { return planRuns(to.Shape(), ta.Shape(), tb.Shape()), nil })
		if err != nil {
			return err
		}
		if r.alone(c.Pool) {
			r.walk(0, r.count, func(o int, at [3]int) {
				if e := pairRun(r, f, y, a, b, o, r.n, at); e != nil {
					err = e
				}
			})
			return err
		}
		var (
			once   sync.Once
			failed error
		)
		r.each(c.Pool, func(o, n int, at [3]int) {
			if e := pairRun(r, f, y, a, b, o, n, at); e != nil {
				once.Do(func() { failed = e })
			}
		})
		return failed
	}
}

func pairRun[A, B, R any](r *lockstep, f func(dst []R, a []A, b []B, sa, sb int) error, y []R, a []A, b []B, o, n int, at [3]int) error {
	sa, sb := r.step[0], r.step[1]
	return f(y[o:o+n], a[at[0]:at[0]+(n-1)*sa+1], b[at[1]:at[1]+(n-1)*sb+1], sa, sb)
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

// vectors is the vector kernels of an operator on two operands, with forms for a scalar on either side.
type vectors[T kernel.Float] struct {
	vv func(dst, x, y []T)
	vs func(dst, x []T, s T)
	sv func(dst []T, s T, x []T)
}

func addition[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Add[T], kernel.AddScalar[T], flip(kernel.AddScalar[T])}
}
func subtraction[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Sub[T], kernel.SubScalar[T], kernel.ScalarSub[T]}
}
func multiplication[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Mul[T], kernel.Scale[T], flip(kernel.Scale[T])}
}
func division[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Div[T], kernel.DivScalar[T], kernel.ScalarDiv[T]}
}
func maximum[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Max[T], kernel.MaxScalar[T], flip(kernel.MaxScalar[T])}
}
func minimum[T kernel.Float]() vectors[T] {
	return vectors[T]{kernel.Min[T], kernel.MinScalar[T], flip(kernel.MinScalar[T])}
}

// vectorTable is the kernels of both widths over broadcast operands.
func vectorTable(f32 vectors[float32], f64 vectors[float64]) Table {
	return Table{tensor.Float32: fast(f32), tensor.Float64: fast(f64)}
}

// chained lets chains have an operator on two operands, in the spellings that broadcast as all do today.
func chained(op Op, f vectors[float32]) Op {
	op.Pointwise = func(n *Node) Pointwise {
		if n.Since < 7 || len(n.Inputs) != 2 {
			return Pointwise{}
		}
		return Pointwise{two: f}
	}
	return op
}

// fast is vector kernels over broadcast operands.
func fast[T kernel.Float](f vectors[T]) Kernel {
	return pairwise(func(dst, a, b []T, sa, sb int) error {
		switch {
		case sa == 1 && sb == 1 || len(dst) == 1:
			f.vv(dst, a, b)
		case sa == 1:
			f.vs(dst, a, b[0])
		case sb == 1:
			f.sv(dst, a[0], b)
		default:
			one := make([]T, 1)
			f.vv(one, a[:1], b[:1])
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
			if n.Op == "PRelu" && !b.Shape[0].Known() { // one slope for all is no channel's
				return []Info{Unranked(d)}, nil
			}
			var err error
			if b, err = alignAxis(a, b, axis); err != nil {
				return nil, err
			}
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
func alignAxis(a, b Info, axis int) (Info, error) {
	at := axis
	if at < 0 {
		at += len(a.Shape)
	}
	if at < 0 || at > len(a.Shape)-len(b.Shape) {
		return b, fmt.Errorf("axis %d: shape %v does not lie within %v", axis, b.Shape, a.Shape)
	}
	shape := append([]Dim(nil), b.Shape...)
	for len(shape)+at < len(a.Shape) {
		shape = append(shape, D(1))
	}
	b.Shape = shape
	return b, nil
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
		info, err := alignAxis(InfoOf(c.In(0), false), InfoOf(b, false), axis)
		if err != nil {
			return err
		}
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
		op.NoGrad, op.Flat = "it has no floating-point output, or none that moves", true
		return op
	}
	op.Grad = func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		a, b := n.Inputs[0], n.Inputs[1]
		wide := b // with the trailing ones that "axis" stands for
		if axis, ok := legacyAxisOf(n); ok {
			rank := g.Rank(b)
			g.Rank(a)
			if err := g.Err(); err != nil {
				return nil, err
			}
			aligned, err := alignAxis(g.Info(a), g.Info(b), axis)
			if err != nil {
				return nil, err
			}
			var axes []int64
			for i := range aligned.Shape[rank:] {
				axes = append(axes, int64(rank+i))
			}
			if axes != nil {
				wide = g.Op("Unsqueeze", b, g.Int64s(axes...))
			}
		}
		da, db := rule(g, n, a, wide, n.Outputs[0], dy[0])
		out := []*onnx.Value{nil, nil}
		if da != nil {
			out[0] = g.SumTo(da, a)
		}
		if db != nil {
			out[1] = g.SumTo(db, wide)
			if wide != b {
				out[1] = g.ReshapeLike(out[1], b)
			}
		}
		return out, nil
	}
	return op
}

func fixed(t Table) func(*Node) Table { return func(*Node) Table { return t } }

// comparison is one of < > ≤ ≥ =.
type comparison int

const (
	less comparison = iota
	greater
	lessOrEqual
	greaterOrEqual
	equal
)

func compareSlices[T ordered](how comparison, dst []bool, a, b []T, sa, sb int) {
	switch how {
	case less:
		for i := range dst {
			dst[i] = a[i*sa] < b[i*sb]
		}
	case greater:
		for i := range dst {
			dst[i] = a[i*sa] > b[i*sb]
		}
	case lessOrEqual:
		for i := range dst {
			dst[i] = a[i*sa] <= b[i*sb]
		}
	case greaterOrEqual:
		for i := range dst {
			dst[i] = a[i*sa] >= b[i*sb]
		}
	default:
		for i := range dst {
			dst[i] = a[i*sa] == b[i*sb]
		}
	}
}

func compareK[T ordered](how comparison) Kernel {
	return pairwise(func(dst []bool, a, b []T, sa, sb int) error {
		compareSlices(how, dst, a, b, sa, sb)
		return nil
	})
}

// compareHalves decodes blocks, as every half is exact in float32.
func compareHalves[H interface {
	tensor.Element
	Float32() float32
}](how comparison) Kernel {
	return pairwise(func(dst []bool, a, b []H, sa, sb int) error {
		var fa, fb [256]float32
		for lo := 0; lo < len(dst); lo += len(fa) {
			n := min(len(fa), len(dst)-lo)
			for i := range n {
				fa[i], fb[i] = a[(lo+i)*sa].Float32(), b[(lo+i)*sb].Float32()
			}
			compareSlices(how, dst[lo:lo+n], fa[:n], fb[:n], 1, 1)
		}
		return nil
	})
}

func compareTable(how comparison) func(*Node) Table {
	t := merge(intKernels(compareK[int8](how), compareK[int16](how), compareK[int32](how), compareK[int64](how),
		compareK[uint8](how), compareK[uint16](how), compareK[uint32](how), compareK[uint64](how)), Table{
		tensor.Float32: compareK[float32](how), tensor.Float64: compareK[float64](how),
		tensor.Float16: compareHalves[tensor.F16](how), tensor.BFloat16: compareHalves[tensor.BF16](how)})
	if how == equal {
		t[tensor.Bool] = elementwise(func(a, b bool) bool { return a == b })
		t[tensor.String] = elementwise(func(a, b string) bool { return a == b })
	}
	return fixed(t)
}

// modTerm is the remainder of two elements.
func modTerm(n *Node, x []Dim) Dim {
	if n.Int("fmod", 0) != 0 {
		return x[0].Sub(x[0].Div(x[1]).Mul(x[1]))
	}
	return x[0].Mod(x[1])
}

func init() {
	arith := []int{1, 6, 7, 13, 14}
	bools := func(f func(a, b bool) bool) func(*Node) Table { return fixed(Table{tensor.Bool: elementwise(f)}) }
	register(
		withTerm(chained(pairOp("Add", arith, Numeric, 0, fixed(merge(vectorTable(addition[float32](), addition[float64]()),
			intKernels(addK[int8](), addK[int16](), addK[int32](), addK[int64](), addK[uint8](), addK[uint16](), addK[uint32](), addK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) { return dy, dy }), addition[float32]()), fold1(Dim.Add)),
		withTerm(chained(pairOp("Sub", arith, Numeric, 0, fixed(merge(vectorTable(subtraction[float32](), subtraction[float64]()),
			intKernels(subK[int8](), subK[int16](), subK[int32](), subK[int64](), subK[uint8](), subK[uint16](), subK[uint32](), subK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) { return dy, g.Neg(dy) }), subtraction[float32]()), fold1(Dim.Sub)),
		withTerm(chained(pairOp("Mul", arith, Numeric, 0, fixed(merge(vectorTable(multiplication[float32](), multiplication[float64]()),
			intKernels(mulK[int8](), mulK[int16](), mulK[int32](), mulK[int64](), mulK[uint8](), mulK[uint16](), mulK[uint32](), mulK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
				return g.Mul(dy, b), g.Mul(dy, a)
			}), multiplication[float32]()), fold1(Dim.Mul)),
		withTerm(chained(pairOp("Div", arith, Numeric, 0, fixed(merge(vectorTable(division[float32](), division[float64]()),
			intKernels(divK[int8](), divK[int16](), divK[int32](), divK[int64](), divK[uint8](), divK[uint16](), divK[uint32](), divK[uint64]()))),
			func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
				da = g.Div(dy, b)
				return da, g.Neg(g.Mul(da, g.Div(a, b)))
			}), division[float32]()), fold1(Dim.Div)),
		withTerm(pairOp("Mod", []int{10, 13}, Numeric, 0, func(n *Node) Table {
			f := n.Int("fmod", 0) != 0
			return merge(floatPairs(floatMod(f)), intKernels(modK[int8](f), modK[int16](f), modK[int32](f), modK[int64](f),
				modK[uint8](f), modK[uint16](f), modK[uint32](f), modK[uint64](f)))
		}, func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
			return dy, g.Neg(g.Mul(dy, g.Div(g.Sub(a, y), b)))
		}), modTerm),
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
		withTerm(pairOp("And", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a && b }), nil), fold1(Dim.Mul)),
		withTerm(pairOp("Or", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a || b }), nil), fold1(Dim.Max)),
		pairOp("Xor", []int{1, 7}, Bools, tensor.Bool, bools(func(a, b bool) bool { return a != b }), nil),
		withTerm(pairOp("Equal", []int{1, 7, 11, 13, 19}, Numeric|Bools|Of(tensor.String), tensor.Bool, compareTable(equal), nil), equalTerm),
		withTerm(pairOp("Less", []int{1, 7, 9, 13}, Numeric, tensor.Bool, compareTable(less), nil), func(_ *Node, x []Dim) Dim { return not(notLess(x[0], x[1])) }),
		withTerm(pairOp("Greater", []int{1, 7, 9, 13}, Numeric, tensor.Bool, compareTable(greater), nil), func(_ *Node, x []Dim) Dim { return not(notLess(x[1], x[0])) }),
		withTerm(pairOp("LessOrEqual", []int{12, 16}, Numeric, tensor.Bool, compareTable(lessOrEqual), nil), func(_ *Node, x []Dim) Dim { return notLess(x[1], x[0]) }),
		withTerm(pairOp("GreaterOrEqual", []int{12, 16}, Numeric, tensor.Bool, compareTable(greaterOrEqual), nil), func(_ *Node, x []Dim) Dim { return notLess(x[0], x[1]) }),
		bitShift(),
		pairOp("BitwiseAnd", []int{18}, Integers, 0, fixed(intKernels(andK[int8](), andK[int16](), andK[int32](), andK[int64](), andK[uint8](), andK[uint16](), andK[uint32](), andK[uint64]())), nil),
		pairOp("BitwiseOr", []int{18}, Integers, 0, fixed(intKernels(orK[int8](), orK[int16](), orK[int32](), orK[int64](), orK[uint8](), orK[uint16](), orK[uint32](), orK[uint64]())), nil),
		pairOp("BitwiseXor", []int{18}, Integers, 0, fixed(intKernels(xorK[int8](), xorK[int16](), xorK[int32](), xorK[int64](), xorK[uint8](), xorK[uint16](), xorK[uint32](), xorK[uint64]())), nil),
		withTerm(chained(variadic("Max", []int{1, 6, 8, 12, 13}, merge(vectorTable(maximum[float32](), maximum[float64]()),
			intKernels(maxK[int8](), maxK[int16](), maxK[int32](), maxK[int64](), maxK[uint8](), maxK[uint16](), maxK[uint32](), maxK[uint64]())), shareTies), maximum[float32]()), fold1(Dim.Max)),
		withTerm(chained(variadic("Min", []int{1, 6, 8, 12, 13}, merge(vectorTable(minimum[float32](), minimum[float64]()),
			intKernels(minK[int8](), minK[int16](), minK[int32](), minK[int64](), minK[uint8](), minK[uint16](), minK[uint32](), minK[uint64]())), shareTies), minimum[float32]()), fold1(Dim.Min)),
		chained(variadic("Sum", []int{1, 6, 8, 13}, vectorTable(addition[float32](), addition[float64]()),
			func(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value { return repeat(dy, len(n.Inputs)) }), addition[float32]()),
		variadic("Mean", []int{1, 6, 8, 13}, vectorTable(addition[float32](), addition[float64]()),
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

func bitShift() Op {
	op := pairOp("BitShift", []int{11}, Unsigned, 0, func(n *Node) Table {
		l := n.Str("direction", "") == "LEFT"
		return Table{tensor.Uint8: shiftK[uint8](l), tensor.Uint16: shiftK[uint16](l), tensor.Uint32: shiftK[uint32](l), tensor.Uint64: shiftK[uint64](l)}
	}, nil)
	compile := op.Compile
	op.Compile = func(n *Node) (Kernel, error) {
		if d := n.Str("direction", ""); d != "LEFT" && d != "RIGHT" {
			return nil, fmt.Errorf("attribute direction %q is neither LEFT nor RIGHT", d)
		}
		return compile(n)
	}
	return op
}

// powOp takes operands of different types since opset 12; the result has the base's.
func powOp() Op {
	table := merge(Table{tensor.Float32: powFloat[float32](), tensor.Float64: powFloat[float64]()},
		intKernels(powInt[int8](), powInt[int16](), powInt[int32](), powInt[int64](), powInt[uint8](), powInt[uint16](), powInt[uint32](), powInt[uint64]()))
	op := pairOp("Pow", []int{1, 7, 12, 13, 15}, Numeric, 0, fixed(table), func(g *Grad, n *Node, a, b, y, dy *onnx.Value) (da, db *onnx.Value) {
		e, mixed := b, g.DType(b) != g.DType(a)
		if mixed {
			e = g.Op("CastLike", b, a)
		}
		base, c := a, g.Info(b).Const
		if c != nil && c.Len() == 1 && tensor.Float64At(c, 0) > 0 && tensor.Float64At(c, 0) < 1 && g.sumsSquares(a) {
			base = g.orOne(a)
		}
		da = g.Mul(dy, g.Mul(e, g.Op("Pow", base, g.Sub(e, g.Like(e, 1)))))
		if c == nil || c.Len() != 1 || tensor.Float64At(c, 0) == 0 {
			da = g.Op("Where", g.Op("Equal", e, g.Like(e, 0)), g.Like(da, 0), da) // 0⁰ does not move
		}
		if !g.DType(b).IsFloat() {
			return da, nil
		}
		// 0ᵇ does not move with b ≥ 0; below 0 it is not a number, as the logarithm is.
		still := g.Op("And", g.Op("Equal", a, g.Like(a, 0)), g.Op("GreaterOrEqual", e, g.Like(e, 0)))
		db = g.Op("Where", still, g.Like(dy, 0), g.Mul(dy, g.Mul(y, g.Op("Log", a))))
		if mixed {
			db = g.Op("CastLike", db, b)
		}
		return da, db
	})
	op.InPlace = []int{0}
	return op
}

// powFloat takes exponents of its own type as they are, and others by way of float64.
func powFloat[T kernel.Float]() Kernel {
	own, wide := powers[T, T](), powers[T, float64]()
	return func(c *Ctx) error {
		if c.In(1) != nil && c.In(1).DType() == tensor.TypeOf[T]() {
			return own(c)
		}
		return withExponent(c, tensor.Float64, wide)
	}
}

func powInt[T integers]() Kernel {
	whole := elementwise(func(a T, b int64) T { return T(intPow(int64(a), b)) })
	broken := powers[T, float64]()
	return func(c *Ctx) error {
		if c.In(1) != nil && c.In(1).DType().IsInteger() {
			return withExponent(c, tensor.Int64, whole)
		}
		return withExponent(c, tensor.Float64, broken)
	}
}

func powers[A ordered, B kernel.Float]() Kernel {
	return pairwise(func(dst, a []A, b []B, sa, sb int) error {
		if sa == 1 && sb == 0 {
			switch b[0] {
			case 1:
				copy(dst, a)
				return nil
			case 2:
				for i, v := range a {
					dst[i] = v * v
				}
				return nil
			case 3:
				for i, v := range a {
					dst[i] = v * v * v
				}
				return nil
			}
		}
		for i := range dst {
			dst[i] = A(math.Pow(float64(a[i*sa]), float64(b[i*sb])))
		}
		return nil
	})
}

// withExponent runs k with input 1 converted to d.
func withExponent(c *Ctx, d tensor.DType, k Kernel) error {
	e := c.In(1)
	if e == nil {
		return errors.New("input 1 is not a tensor")
	}
	if e.DType() == d {
		return k(c)
	}
	t, err := c.New(d, e.Shape()...)
	if err != nil {
		return err
	}
	if err := tensor.ConvertInto(t, e, true); err != nil {
		return err
	}
	w := *c
	w.Ins = []tensor.Value{c.Ins[0], t}
	return k(&w)
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

// fold runs a pairwise kernel over any number of inputs, and finish, if any, over the result.
func fold(pair Kernel, finish func(c *Ctx)) Kernel {
	return func(c *Ctx) error {
		if len(c.Ins) == 2 && finish == nil {
			return pair(c)
		}
		acc, last := c.In(0), len(c.Ins)-1
		if last == 0 {
			copy(c.Out(0).Bytes(), acc.Bytes())
		}
		var spare *tensor.Tensor
		for i := 1; i <= last; i++ {
			out := c.Out(0)
			if i < last {
				// Not in the output: it may be the memory of an input that is yet to come.
				info, err := Broadcast(acc.DType(), InfoOf(acc, false), InfoOf(c.Ins[i], false))
				if err != nil {
					return err
				}
				shape, _ := info.Static()
				if spare == nil || !slices.Equal(spare.Shape(), shape) {
					if spare, err = c.New(acc.DType(), shape...); err != nil {
						return err
					}
				}
				out = spare
			}
			w := *c
			w.Static = false
			w.Ins, w.Outs = []tensor.Value{acc, c.Ins[i]}, []tensor.Value{out}
			if err := pair(&w); err != nil {
				return err
			}
			acc = out
		}
		if finish != nil {
			finish(c)
		}
		return nil
	}
}

func meanOf[T kernel.Float](c *Ctx) {
	y := tensor.Data[T](c.Out(0))
	c.Pool.For(len(y), unaryGrain, func(lo, hi int) { kernel.DivScalar(y[lo:hi], y[lo:hi], T(len(c.Ins))) })
}

func variadic(name string, since []int, table Table, rule func(g *Grad, n *Node, dy *onnx.Value) []*onnx.Value) Op {
	folded := Table{}
	var types TypeSet = Floats
	for d, k := range table {
		folded[d] = fold(k, nil)
		types |= Of(d)
	}
	if name == "Mean" {
		folded = Table{tensor.Float32: fold(table[tensor.Float32], meanOf[float32]), tensor.Float64: fold(table[tensor.Float64], meanOf[float64])}
	}
	return Op{Name: name, Since: since, MinIn: 1, MaxIn: -1, Types: []TypeSet{types}, InPlace: []int{0},
		Infer: func(n *Node) ([]Info, error) {
			out, err := Broadcast(n.In[0].DType, n.In...)
			return []Info{out}, err
		},
		Compile: folded.Always(0),
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			out := rule(g, n, dy[0])
			for i, d := range out {
				out[i] = g.SumTo(d, n.Inputs[i])
			}
			return out, nil
		}}
}

func whereOp() Op {
	return Op{Name: "Where", Since: []int{9, 16}, MinIn: 3, Types: []TypeSet{Bools, 0}, InPlace: []int{1, 2},
		Term: func(_ *Node, x []Dim) Dim {
			switch {
			case x[0].Known() && x[0].N != 0, x[1].Same(x[2]):
				return x[1]
			case x[0].Known():
				return x[2]
			}
			return Unknown
		},
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
	w := choice[T]{tensor.Data[bool](c.In(0)), tensor.View[T](c.In(1)), tensor.View[T](c.In(2)), tensor.View[T](c.Out(0)), nil}
	w.runs, _ = Keep(c, func() (*lockstep, error) {
		return planRuns(c.Out(0).Shape(), c.In(0).Shape(), c.In(1).Shape(), c.In(2).Shape()), nil
	})
	if w.runs.alone(c.Pool) {
		w.runs.walk(0, w.runs.count, func(o int, at [3]int) { w.run(o, w.runs.n, at) })
		return
	}
	w.runs.each(c.Pool, w.run)
}

// choice is the operands of Where.
type choice[T any] struct {
	cond    []bool
	a, b, y []T
	runs    *lockstep
}

func (w choice[T]) run(o, n int, at [3]int) {
	dst, ic, ia, ib := w.y[o:o+n], at[0], at[1], at[2]
	sc, sa, sb := w.runs.step[0], w.runs.step[1], w.runs.step[2]
	switch {
	case sc == 0:
		src, i, s := w.b, ib, sb
		if w.cond[ic] {
			src, i, s = w.a, ia, sa
		}
		if s == 1 {
			copy(dst, src[i:i+n])
			return
		}
		for k := range dst {
			dst[k] = src[i]
		}
	case sa == 1 && sb == 1:
		a, b := w.a[ia:ia+n], w.b[ib:ib+n]
		for k, yes := range w.cond[ic : ic+n] {
			if yes {
				dst[k] = a[k]
			} else {
				dst[k] = b[k]
			}
		}
	default:
		for k, yes := range w.cond[ic : ic+n] {
			if yes {
				dst[k] = w.a[ia+k*sa]
			} else {
				dst[k] = w.b[ib+k*sb]
			}
		}
	}
}

// sumTo sums its input over the dimensions that broadcasting to it would have repeated.
func sumTo() Op {
	return Op{Domain: Internal, Name: "SumTo", Since: []int{1}, MinIn: 2, Types: []TypeSet{Floats, Of(tensor.Int64)},
		Infer:   inferShapeInput(1),
		Compile: Table{tensor.Float32: sumToT[float32], tensor.Float64: sumToT[float64]}.Always(0),
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			return []*onnx.Value{g.ExpandTo(dy[0], n.Inputs[0]), nil}, nil
		},
		Portable: portableSumTo}
}

func portableSumTo(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, shape := n.Inputs[0], n.Inputs[1]
	from := g.Info(dy)
	var to Info // of what has the shape
	if d := shape.Def(); d != nil && d.Op == "Shape" && d.Domain == "" && len(d.Attrs) == 0 {
		to = g.Info(d.Inputs[0])
	} else if s := g.Info(shape); s.Ranked && len(s.Shape) == 1 && s.Shape[0].Known() {
		to = Tensor(from.DType, unknownDims(s.Shape[0].N)...)
	}
	sum := func(axes *onnx.Value) []*onnx.Value {
		s := g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 1), IntAttr("noop_with_empty_axes", 1)}, dy, axes)
		return []*onnx.Value{g.Reshape(s, shape)}
	}
	if from.Ranked && to.Ranked {
		more := len(from.Shape) - len(to.Shape)
		axes, sure := []int64{}, true
		for i, d := range from.Shape {
			switch {
			case i < more:
				axes = append(axes, int64(i))
			case d.Same(to.Shape[i-more]):
			case to.Shape[i-more].N == 1:
				axes = append(axes, int64(i))
			default:
				sure = false
			}
		}
		if sure {
			return sum(g.Int64s(axes...)), nil
		}
	}
	// Axes at which the shape, with ones put before it, has a 1: a sum along one element is that.
	rank := g.Shape(g.Shape(dy))
	padded := shape
	switch {
	case !from.Ranked || !to.Ranked || len(from.Shape) > len(to.Shape):
		padded = g.Concat(g.Op("Expand", g.Const(tensor.Scalar(int64(1))), g.Op("Sub", rank, g.Shape(shape))), shape)
	case len(from.Shape) < len(to.Shape):
		padded = g.Tail(shape, int64(len(to.Shape)-len(from.Shape)))
	}
	return sum(g.Flat(g.Op("NonZero", g.Op("Equal", padded, g.Int64s(1))))), nil
}

func sumToT[T kernel.Float](c *Ctx) error {
	out := c.Out(0)
	if out == nil {
		v, err := c.In(1).Int64s()
		if err != nil {
			return err
		}
		shape := make([]int, len(v))
		for i, d := range v {
			shape[i] = int(d)
		}
		if out, err = c.Alloc(0, c.In(0).DType(), shape...); err != nil {
			return err
		}
	}
	from, to := c.In(0).Shape(), out.Shape()
	if more := len(to) - len(from); more > 0 {
		from = append(slices.Repeat([]int{1}, more), from...)
	}
	fits := true
	for i, d := range to {
		fits = fits && (d == 1 || d == from[len(from)-len(to)+i])
	}
	if !fits {
		return fmt.Errorf("%v does not sum to %v", from, to)
	}
	r := planRuns(from, from, to)
	if r.step[1] != 0 && r.n < fewColumns {
		mask := make([]bool, len(from))
		for i := range from {
			k := i - len(from) + len(to)
			mask[i] = k < 0 || to[k] == 1
		}
		return reduceInto(c, floatReduction[T]("ReduceSum"), out, c.In(0), planReduction(from, mask, true))
	}
	x, y := tensor.Data[T](c.In(0)), tensor.Data[T](out)
	clear(y)
	if r.step[1] == 0 && r.n > 1 {
		r.walk(0, r.count, func(o int, at [3]int) { y[at[1]] += sum(x[o : o+r.n]) })
		return nil
	}
	// Each worker takes some columns of every run.
	c.Pool.For(r.n, max(256, unaryGrain/max(r.count, 1)), func(lo, hi int) {
		r.walk(0, r.count, func(o int, at [3]int) {
			part := y[at[1]+lo : at[1]+hi]
			kernel.Add(part, part, x[o+lo:o+hi])
		})
	})
	return nil
}
