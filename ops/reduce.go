package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	wide := Floats | Of(tensor.Int32, tensor.Int64, tensor.Uint32, tensor.Uint64)
	for _, name := range []string{"ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"} {
		register(Op{Name: name, Since: []int{1, 11, 13, 18}, MinIn: 1, MaxIn: 2, Types: []TypeSet{wide, Index}, Infer: inferReduce, Compile: compileReduce, Grad: gradReduce})
	}
	register(
		Op{Name: "ReduceSum", Since: []int{1, 11, 13}, MinIn: 1, MaxIn: 2, Types: []TypeSet{wide, Index}, Infer: inferReduce, Compile: compileReduce, Grad: gradReduce},
		Op{Name: "ReduceMax", Since: []int{1, 11, 12, 13, 18, 20}, MinIn: 1, MaxIn: 2, Types: []TypeSet{Numeric | Bools, Index}, Infer: inferReduce, Compile: compileReduce, Grad: gradReduce},
		Op{Name: "ReduceMin", Since: []int{1, 11, 12, 13, 18, 20}, MinIn: 1, MaxIn: 2, Types: []TypeSet{Numeric | Bools, Index}, Infer: inferReduce, Compile: compileReduce, Grad: gradReduce},
		Op{Name: "ArgMax", Since: []int{1, 11, 12, 13}, MinIn: 1, Types: []TypeSet{Numeric}, Infer: inferArg, Compile: compileArg, NoGrad: "positions are integers"},
		Op{Name: "ArgMin", Since: []int{1, 11, 12, 13}, MinIn: 1, Types: []TypeSet{Numeric}, Infer: inferArg, Compile: compileArg, NoGrad: "positions are integers"},
		Op{Name: "Softmax", Since: []int{1, 11, 13}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferSoftmax,
			Compile: softmaxTable(kernel.SoftmaxRow[float32], kernel.SoftmaxRow[float64]), InPlace: []int{0}, Grad: gradSoftmax},
		Op{Name: "LogSoftmax", Since: []int{1, 11, 13}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferSoftmax,
			Compile: softmaxTable(kernel.LogSoftmaxRow[float32], kernel.LogSoftmaxRow[float64]), InPlace: []int{0}, Grad: gradLogSoftmax},
		Op{Name: "Hardmax", Since: []int{1, 11, 13}, MinIn: 1, Types: []TypeSet{Floats}, Infer: inferSoftmax,
			Compile: softmaxTable(hardmaxRow[float32], hardmaxRow[float64]), InPlace: []int{0}, Flat: true},
	)
}

// axesBefore is the version from which a reduction's axes are an input.
func axesBefore(n *Node) int {
	if n.Op == "ReduceSum" {
		return 13
	}
	return 18
}

// reduceMask tells which dimensions are reduced.
func reduceMask(n *Node, axes []int64, rank int) ([]bool, error) {
	mask := make([]bool, rank)
	if len(axes) == 0 {
		noop := n.Since >= axesBefore(n) && n.Int("noop_with_empty_axes", 0) != 0
		for i := range mask {
			mask[i] = !noop
		}
		return mask, nil
	}
	for _, a := range axes {
		ax, err := NormAxis(a, rank)
		if err != nil {
			return nil, err
		}
		mask[ax] = true
	}
	return mask, nil
}

func inferReduce(n *Node) ([]Info, error) {
	in := n.Info(0)
	axes, _, known, err := n.IntsInput("axes", 1, axesBefore(n))
	if err != nil {
		return nil, err
	}
	keep := n.Int("keepdims", 1) != 0
	noop := n.Int("noop_with_empty_axes", 0) != 0
	switch {
	case !in.Ranked && known && len(axes) == 0 && !keep && !noop:
		return []Info{{DType: in.DType, Ranked: true, Shape: []Dim{}}}, nil
	case !in.Ranked:
		return []Info{Unranked(in.DType)}, nil
	case !known && keep:
		return []Info{Tensor(in.DType, unknownDims(len(in.Shape))...)}, nil
	case !known:
		if l := listLen(n, 1); l == 1 && len(in.Shape) > 0 { // of more, some may be the same
			return []Info{Tensor(in.DType, unknownDims(len(in.Shape)-1)...)}, nil
		}
		return []Info{Unranked(in.DType)}, nil
	}
	mask, err := reduceMask(n, axes, len(in.Shape))
	if err != nil {
		return nil, err
	}
	out := []Dim{}
	for i, d := range in.Shape {
		if !mask[i] {
			out = append(out, d)
		} else if keep {
			out = append(out, D(1))
		}
	}
	y := Tensor(in.DType, out...)
	if f := reductionTerms[n.Op]; f != nil && in.Values != nil && len(in.Values) > 0 && !slices.Contains(mask, false) {
		v := in.Values[0]
		for _, d := range in.Values[1:] {
			v = f(v, d)
		}
		y.setElements([]Dim{v})
	}
	return []Info{y}, nil
}

// reductionTerms is what reductions make of integers that are known as terms.
var reductionTerms = map[string]func(a, b Dim) Dim{"ReduceSum": Dim.Add, "ReduceProd": Dim.Mul, "ReduceMax": Dim.Max, "ReduceMin": Dim.Min}

// reduction is how elements become one: row reduces all of x; where rows are reduced element by
// element, step takes one more into acc, which starts from init, and finish ends it.
type reduction[T arith] struct {
	row    func(x []T) T
	init   T
	step   func(acc, x []T) // nil: only row
	merge  func(acc, x []T) // joins two accumulators
	finish func(acc []T, n int)
}

// extremes is the least and the greatest value of T.
func extremes[T arith]() (lo, hi T) {
	set := func(a, b any) { lo, hi = a.(T), b.(T) }
	switch any(lo).(type) {
	case float32:
		set(float32(math.Inf(-1)), float32(math.Inf(1)))
	case float64:
		set(math.Inf(-1), math.Inf(1))
	case int8:
		set(int8(math.MinInt8), int8(math.MaxInt8))
	case int16:
		set(int16(math.MinInt16), int16(math.MaxInt16))
	case int32:
		set(int32(math.MinInt32), int32(math.MaxInt32))
	case int64:
		set(int64(math.MinInt64), int64(math.MaxInt64))
	case uint8:
		set(uint8(0), uint8(math.MaxUint8))
	case uint16:
		set(uint16(0), uint16(math.MaxUint16))
	case uint32:
		set(uint32(0), uint32(math.MaxUint32))
	case uint64:
		set(uint64(0), uint64(math.MaxUint64))
	}
	return lo, hi
}

func absOf[T arith](v T) T {
	if v < 0 {
		return -v
	}
	return v
}

// logSumExp is ln Σ e^x, -Inf for no elements.
func logSumExp[T arith](x []T) T {
	top := math.Inf(-1)
	for _, v := range x {
		top = max(top, float64(v))
	}
	if math.IsInf(top, 0) || top != top {
		return T(top)
	}
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return T(top + math.Log(sum))
}

// reductionOf is the plain form of each reduction, right for every type.
func reductionOf[T arith](name string) reduction[T] {
	var r reduction[T]
	lo, hi := extremes[T]()
	add := combine[T]("add")
	r.step, r.merge = add, add
	each := func(f func(acc []T, n int)) { r.finish = f }
	switch name {
	case "ReduceMean":
		each(func(acc []T, n int) {
			for i := range acc {
				if T(n) == 0 && T(1)/2 == 0 {
					acc[i] = 0 // integers have no NaN
				} else {
					acc[i] /= T(n)
				}
			}
		})
	case "ReduceMax":
		r.init, r.step, r.merge = lo, combine[T]("max"), combine[T]("max")
	case "ReduceMin":
		r.init, r.step, r.merge = hi, combine[T]("min"), combine[T]("min")
	case "ReduceProd":
		r.init, r.step, r.merge = 1, combine[T]("mul"), combine[T]("mul")
	case "ReduceL1":
		r.step = func(acc, x []T) {
			for i, v := range x {
				acc[i] += absOf(v)
			}
		}
	case "ReduceL2", "ReduceSumSquare":
		r.step = func(acc, x []T) {
			for i, v := range x {
				acc[i] += v * v
			}
		}
		if name == "ReduceL2" {
			each(func(acc []T, _ int) {
				for i, v := range acc {
					acc[i] = T(math.Sqrt(float64(v)))
				}
			})
		}
	case "ReduceLogSum":
		each(func(acc []T, _ int) {
			for i, v := range acc {
				acc[i] = T(math.Log(float64(v)))
			}
		})
	case "ReduceLogSumExp":
		r.step, r.row = nil, logSumExp[T]
	}
	if r.row == nil {
		r.row = func(x []T) T {
			acc := []T{r.init}
			for i := range x {
				r.step(acc, x[i:i+1])
			}
			if r.finish != nil {
				r.finish(acc, len(x))
			}
			return acc[0]
		}
	}
	return r
}

// fewElements is up to where a row is summed in float64, which takes no longer than to set out for the vector kernels.
const fewElements = 8

func sum[T kernel.Float](x []T) T {
	if len(x) > fewElements {
		return kernel.Sum(x)
	}
	s := 0.0
	for _, v := range x {
		s += float64(v)
	}
	return T(s)
}

func sumSquares[T kernel.Float](x []T) T {
	if len(x) > fewElements {
		return kernel.SumSquares(x)
	}
	s := 0.0
	for _, v := range x {
		s += float64(v) * float64(v)
	}
	return T(s)
}

// floatReduction has the vector kernels in place of the plain loops.
func floatReduction[T kernel.Float](name string) reduction[T] {
	r := reductionOf[T](name)
	switch name {
	case "ReduceSum":
		r.row = sum[T]
	case "ReduceMean":
		r.row = func(x []T) T { return sum(x) / T(len(x)) }
	case "ReduceMax":
		r.row = kernel.MaxReduce[T]
		r.step = func(acc, x []T) { kernel.Max(acc, acc, x) }
	case "ReduceMin":
		r.row = kernel.MinReduce[T]
		r.step = func(acc, x []T) { kernel.Min(acc, acc, x) }
	case "ReduceProd":
		r.row = func(x []T) T {
			p := 1.0
			for _, v := range x {
				p *= float64(v)
			}
			return T(p)
		}
		r.step = func(acc, x []T) { kernel.Mul(acc, acc, x) }
	case "ReduceL1":
		r.row = func(x []T) T {
			s := 0.0
			for _, v := range x {
				s += math.Abs(float64(v))
			}
			return T(s)
		}
	case "ReduceL2":
		r.row = func(x []T) T { return T(math.Sqrt(float64(sumSquares(x)))) }
	case "ReduceSumSquare":
		r.row = sumSquares[T]
	case "ReduceLogSum":
		r.row = func(x []T) T { return T(math.Log(float64(sum(x)))) }
	}
	switch name {
	case "ReduceSum", "ReduceMean", "ReduceLogSum":
		r.step = func(acc, x []T) { kernel.Add(acc, acc, x) }
	case "ReduceL2", "ReduceSumSquare":
		r.step = func(acc, x []T) { kernel.MulAdd(acc, x, x, acc) }
	}
	return r
}

func compileReduce(n *Node) (Kernel, error) {
	switch before := axesBefore(n); {
	case n.Since < before && n.Has(1):
		return nil, fmt.Errorf("axes are an attribute at opset %d, and an input from %d on", n.Since, before)
	case n.Since >= before && n.Attr("axes") != nil:
		return nil, fmt.Errorf("axes are an input at opset %d, and no attribute", n.Since)
	}
	t := Table{
		tensor.Float32: reduceKernel(floatReduction[float32](n.Op)), tensor.Float64: reduceKernel(floatReduction[float64](n.Op)),
		tensor.Int32: reduceKernel(reductionOf[int32](n.Op)), tensor.Int64: reduceKernel(reductionOf[int64](n.Op)),
		tensor.Uint32: reduceKernel(reductionOf[uint32](n.Op)), tensor.Uint64: reduceKernel(reductionOf[uint64](n.Op)),
	}
	if n.Op == "ReduceMax" || n.Op == "ReduceMin" {
		t[tensor.Int8] = reduceKernel(reductionOf[int8](n.Op))
		t[tensor.Uint8] = reduceKernel(reductionOf[uint8](n.Op))
		t[tensor.Int16] = reduceKernel(reductionOf[int16](n.Op))
		t[tensor.Uint16] = reduceKernel(reductionOf[uint16](n.Op))
		b := reductionOf[uint8](n.Op)
		b.init = min(b.init, 1)
		b.row = func(x []uint8) uint8 {
			acc := []uint8{b.init}
			for i := range x {
				b.step(acc, x[i:i+1])
			}
			return acc[0]
		}
		t[tensor.Bool] = reduceKernel(b)
	}
	return t.By(0), nil
}

// fewColumns is from how many on it gains to take one row of them after the other; of fewer floats, each is made a row, up to longColumn elements.
const fewColumns, longColumn = 8, 1024

// A reducing is how the axes of a tensor are reduced.
type reducing struct {
	shape  []int // of the output
	per    int   // elements to each of its elements
	cols   int   // 1: the elements of each lie side by side; else cols of them do
	turned *arrangement
}

func planReduction(shape []int, mask []bool, keepdims bool) *reducing {
	type group struct {
		n      int
		reduce bool
	}
	r := &reducing{shape: []int{}, per: 1, cols: 1}
	var gs []group // neighbours of one kind merged, dimensions of 1 dropped
	for i, d := range shape {
		if !mask[i] {
			r.shape = append(r.shape, d)
		} else {
			r.per *= d
			if keepdims {
				r.shape = append(r.shape, 1)
			}
		}
		if d == 1 {
			continue
		}
		if k := len(gs) - 1; k >= 0 && gs[k].reduce == mask[i] {
			gs[k].n *= d
		} else {
			gs = append(gs, group{d, mask[i]})
		}
	}
	last := len(gs) - 1
	if last <= 0 || last == 1 && gs[last].reduce { // rows
		return r
	}
	if last <= 2 && gs[last-1].reduce {
		r.cols = gs[last].n
	}
	// If columns do not suit, the reduced axes are brought last.
	var kept, reduced, ks, rs []int
	st := rowMajor(shape)
	for i, d := range shape {
		if mask[i] {
			reduced, rs = append(reduced, d), append(rs, st[i])
		} else {
			kept, ks = append(kept, d), append(ks, st[i])
		}
	}
	r.turned = arrange(append(kept, reduced...), append(ks, rs...), 0)
	return r
}

func reduceKernel[T arith](r reduction[T]) Kernel {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		how, err := Keep(c, func() (*reducing, error) {
			axes, _, err := runInts(c, "axes", 1, axesBefore(c.Node))
			if err != nil {
				return nil, err
			}
			mask, err := reduceMask(c.Node, axes, x.Rank())
			if err != nil {
				return nil, err
			}
			return planReduction(x.Shape(), mask, c.Node.Int("keepdims", 1) != 0), nil
		}, 1)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), how.shape...)
		if err != nil {
			return err
		}
		return reduceInto(c, r, y, x, how)
	}
}

// reduceInto reduces the axes of x that how tells.
func reduceInto[T arith](c *Ctx, r reduction[T], y, x *tensor.Tensor, how *reducing) error {
	src, dst := tensor.View[T](x), tensor.View[T](y)
	if len(dst) == 0 {
		return nil
	}
	if len(src) == 0 {
		fill(dst, r.row(nil))
		return nil
	}
	n, cols := how.per, how.cols
	switch {
	case how.turned == nil:
	case cols > 1 && r.step != nil && (cols >= fewColumns || !x.DType().IsFloat()):
		parts := (cols + columnsWidth - 1) / columnsWidth
		kernel.InParts(c.Pool, len(dst)/cols*parts, max(1, moveGrain/(n*min(cols, columnsWidth))), reducedColumns[T]{r, dst, src, n, cols})
		return nil
	case cols > 1 && n <= longColumn:
		kernel.InParts(c.Pool, len(dst), max(1, moveGrain/n), reducedFewColumns[T]{r, dst, src, n, cols})
		return nil
	default:
		t, err := c.New(x.DType(), how.turned.shape...)
		if err != nil {
			return err
		}
		if err := how.turned.run(c.Pool, t, x); err != nil {
			return err
		}
		src = tensor.View[T](t)
	}
	kernel.InParts(c.Pool, len(dst), max(1, moveGrain/n), reducedRows[T]{r, dst, src, n, 1})
	return nil
}

// reductionPart is the reduction of the middle of [outer, n, cols].
type reductionPart[T arith] struct {
	r        reduction[T]
	dst, src []T
	n, cols  int
}

type (
	reducedRows[T arith]       reductionPart[T]
	reducedColumns[T arith]    reductionPart[T]
	reducedFewColumns[T arith] reductionPart[T]
)

// Part computes the elements [lo, hi), of one column.
func (a reducedRows[T]) Part(lo, hi int) {
	for i := lo; i < hi; i++ {
		a.dst[i] = a.r.row(a.src[i*a.n : (i+1)*a.n])
	}
}

// Part computes the elements [lo, hi), each by way of a row of its own.
func (a reducedFewColumns[T]) Part(lo, hi int) {
	var buf [longColumn]T
	row := buf[:a.n]
	for i := lo; i < hi; i++ {
		for j, at := 0, i/a.cols*a.n*a.cols+i%a.cols; j < a.n; j, at = j+1, at+a.cols {
			row[j] = a.src[at]
		}
		a.dst[i] = a.r.row(row)
	}
}

const columnsWidth = 1024 // of a piece of a row of columns

// Part computes the pieces [lo, hi) of rows. Rows are accumulated in blocks, so that errors grow with the number of blocks and not of rows.
func (a reducedColumns[T]) Part(lo, hi int) {
	const block = 128
	r, n, cols := a.r, a.n, a.cols
	parts := (cols + columnsWidth - 1) / columnsWidth
	var buf []T
	if n > block {
		buf = make([]T, min(columnsWidth, cols))
	}
	for i := lo; i < hi; i++ {
		o, from := i/parts, i%parts*columnsWidth
		w := min(columnsWidth, cols-from)
		acc := a.dst[o*cols+from:][:w]
		fill(acc, r.init)
		for j0 := 0; j0 < n; j0 += block {
			to := acc
			if n > block {
				to = buf[:w]
				fill(to, r.init)
			}
			for j := j0; j < min(j0+block, n); j++ {
				r.step(to, a.src[(o*n+j)*cols+from:][:w])
			}
			if n > block {
				r.merge(acc, to)
			}
		}
		if r.finish != nil {
			r.finish(acc, n)
		}
	}
}

func gradReduce(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x, y, d := n.Inputs[0], n.Outputs[0], dy[0]
	out := make([]*onnx.Value, len(n.Inputs))
	var axes *onnx.Value // nil: all of them
	noop := false
	if n.Since < axesBefore(n) {
		if a := n.Ints("axes", nil); len(a) > 0 {
			axes = g.Int64s(a...)
		}
	} else {
		axes = n.Input(1)
		if axes != nil {
			if s := g.Info(axes).Shape; len(s) == 1 && s[0].N == 0 {
				axes = nil
			}
		}
		noop = axes == nil && n.Int("noop_with_empty_axes", 0) != 0
	}
	if noop {
		switch n.Op {
		case "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd":
			out[0] = d
			return out, nil
		}
	}
	// wide gives v, of y's shape, one that broadcasts to x; a scalar does already.
	wide := func(v *onnx.Value) *onnx.Value {
		if axes == nil || n.Int("keepdims", 1) != 0 {
			return v
		}
		return g.Op("Unsqueeze", v, axes)
	}
	total := func(op string, v *onnx.Value) *onnx.Value {
		in := []*onnx.Value{v}
		if axes != nil {
			in = append(in, axes)
		}
		return g.With(op, []*onnx.Attribute{IntAttr("keepdims", 1)}, in...)
	}
	asX := func(v *onnx.Value) *onnx.Value {
		return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(g.DType(x)))}, v)
	}
	d = wide(d)
	switch n.Op {
	case "ReduceSum":
		out[0] = g.ExpandTo(d, x)
	case "ReduceMean":
		var count *onnx.Value
		xs, ok := g.Info(x).Static()
		ys, ok2 := g.Info(y).Static()
		if ok && ok2 && product(ys) > 0 {
			count = g.Like(x, float64(product(xs)/product(ys)))
		} else {
			count = g.Div(asX(g.Op("Size", x)), asX(g.Op("Size", y)))
		}
		out[0] = g.ExpandTo(g.Div(d, count), x)
	case "ReduceMax", "ReduceMin": // what ties shares equally
		mask := asX(g.Op("Equal", x, wide(y)))
		out[0] = g.Mul(mask, g.Div(d, total("ReduceSum", mask)))
	case "ReduceProd":
		all := g.factors(x)
		for i, v := range all {
			all[i] = total([]string{"ReduceProd", "ReduceSum", "ReduceSum", "ReduceSum"}[i], v)
		}
		out[0] = g.Mul(d, g.otherFactors(x, all))
	case "ReduceL1":
		out[0] = g.Mul(d, g.Op("Sign", x))
	case "ReduceL2":
		out[0] = g.Mul(d, g.Div(x, g.orOne(wide(y))))
	case "ReduceLogSum":
		out[0] = g.ExpandTo(g.Div(d, g.Op("Exp", wide(y))), x)
	case "ReduceLogSumExp":
		out[0] = g.Mul(d, g.Op("Exp", g.Sub(x, wide(y))))
	case "ReduceSumSquare":
		out[0] = g.Mul(g.Mul(d, g.Like(x, 2)), x)
	default:
		return nil, fmt.Errorf("there is no gradient of %s", n.Op)
	}
	return out, nil
}

// factors is v with ones for its zeros, where those are, as numbers, and they alone and their squares, whose values tell nothing but whose gradients do.
func (g *Grad) factors(v *onnx.Value) []*onnx.Value {
	zero := g.Like(v, 0)
	at := g.Op("Equal", v, zero)
	zeros := g.Op("Where", at, v, zero)
	return []*onnx.Value{g.Op("Where", at, g.Like(v, 1), v), g.Cast(at, g.DType(v)), zeros, g.Mul(zeros, zeros)}
}

// otherFactors is the product without v, one of its factors: from the product of the first and the sums of the others of what [Grad.factors] gives of
// all. With one zero among the others it is 0 and hangs on that one, with two it hangs on their product; with more neither it nor its first two
// gradients change.
func (g *Grad) otherFactors(v *onnx.Value, all []*onnx.Value) *onnx.Value {
	own, rest := g.factors(v), all[0]
	rest = g.Div(rest, own[0])
	left, sum, squares := g.Sub(all[1], own[1]), g.Sub(all[2], own[2]), g.Sub(all[3], own[3])
	pair := g.Mul(g.Sub(g.Mul(sum, sum), squares), g.Like(v, 0.5))
	factor := g.Like(v, 0) // what stands for the zeros
	for count, f := range []*onnx.Value{g.Like(v, 1), sum, pair} {
		factor = g.Op("Where", g.Op("Equal", left, g.Like(v, float64(count))), f, factor)
	}
	return g.Mul(rest, factor)
}

// ---- ArgMax, ArgMin

func inferArg(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(tensor.Int64)}, nil
	}
	axis, err := n.Axis("axis", 0, len(in.Shape))
	if err != nil {
		return nil, err
	}
	out := slices.Clone(in.Shape)
	if n.Int("keepdims", 1) != 0 {
		out[axis] = D(1)
	} else {
		out = slices.Delete(out, axis, axis+1)
	}
	return []Info{Tensor(tensor.Int64, out...)}, nil
}

func compileArg(n *Node) (Kernel, error) {
	return Table{
		tensor.Float32: argOf[float32], tensor.Float64: argOf[float64],
		tensor.Int8: argOf[int8], tensor.Int16: argOf[int16], tensor.Int32: argOf[int32], tensor.Int64: argOf[int64],
		tensor.Uint8: argOf[uint8], tensor.Uint16: argOf[uint16], tensor.Uint32: argOf[uint32], tensor.Uint64: argOf[uint64],
	}.By(0), nil
}

// argOf finds the extreme along an axis. A NaN passes for the extreme, as in numpy.
func argOf[T arith](c *Ctx) error {
	x, err := tensorIn(c, 0)
	if err != nil {
		return err
	}
	axis, err := c.Node.Axis("axis", 0, x.Rank())
	if err != nil {
		return err
	}
	shape := slices.Clone(x.Shape())
	d, inner := shape[axis], product(shape[axis+1:])
	if c.Node.Int("keepdims", 1) != 0 {
		shape[axis] = 1
	} else {
		shape = slices.Delete(shape, axis, axis+1)
	}
	y, err := c.Alloc(0, tensor.Int64, shape...)
	if err != nil {
		return err
	}
	if y.Len() == 0 {
		return nil
	}
	if d == 0 {
		return fmt.Errorf("dimension %d is empty", axis)
	}
	greatest, latest := c.Node.Op == "ArgMax", c.Node.Int("select_last_index", 0) != 0
	src, dst := tensor.View[T](x), tensor.Data[int64](y)
	c.Pool.For(len(dst), max(1, moveGrain/d), func(lo, hi int) {
		for l := lo; l < hi; l++ {
			at := l/inner*d*inner + l%inner
			best, where := src[at], 0
			for i := 1; i < d; i++ {
				at += inner
				v := src[at]
				switch {
				case best != best:
					if latest && v != v {
						where = i
					}
				case v != v, greatest && v > best, !greatest && v < best, latest && v == best:
					best, where = v, i
				}
			}
			dst[l] = int64(where)
		}
	})
	return nil
}

// ---- Softmax, LogSoftmax, Hardmax

func inferSoftmax(n *Node) ([]Info, error) {
	if in := n.Info(0); in.Ranked {
		if _, _, _, err := softmaxSpan(n, make([]int, len(in.Shape))); err != nil {
			return nil, err
		}
	}
	return SameAs(0)(n)
}

// softmaxSpan sees the input as [outer, n, inner], n normalised: up to version 11 all dimensions
// from axis on are one, from 13 on axis is alone.
func softmaxSpan(n *Node, shape []int) (outer, size, inner int, err error) {
	rank := len(shape)
	if n.Since < 13 {
		a := n.Int("axis", 1)
		if a < -int64(rank) || a > int64(rank) {
			return 0, 0, 0, fmt.Errorf("axis %d is outside a tensor of rank %d", a, rank)
		}
		if a < 0 {
			a += int64(rank)
		}
		return product(shape[:a]), product(shape[a:]), 1, nil
	}
	if rank == 0 {
		return 1, 1, 1, nil
	}
	axis, err := n.Axis("axis", -1, rank)
	if err != nil {
		return 0, 0, 0, err
	}
	return product(shape[:axis]), shape[axis], product(shape[axis+1:]), nil
}

func softmaxTable(f32 func(dst, x []float32), f64 func(dst, x []float64)) func(*Node) (Kernel, error) {
	return Table{tensor.Float32: softmaxKernel(f32), tensor.Float64: softmaxKernel(f64)}.Always(0)
}

// rowByRow makes rows of n elements of dst from those of src.
type rowByRow[T any] struct {
	row      func(dst, src []T)
	dst, src []T
	n        int
}

// Part makes the rows [lo, hi).
func (r rowByRow[T]) Part(lo, hi int) {
	for i := lo; i < hi; i++ {
		r.row(r.dst[i*r.n:(i+1)*r.n], r.src[i*r.n:(i+1)*r.n])
	}
}

func softmaxKernel[T kernel.Float](row func(dst, x []T)) Kernel {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		outer, n, inner, err := softmaxSpan(c.Node, x.Shape())
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		if x.Len() == 0 {
			return nil
		}
		grain := max(1, moveGrain/8/n)
		if inner == 1 {
			kernel.InParts(c.Pool, outer, grain, rowByRow[T]{row, tensor.View[T](y), tensor.View[T](x), n})
			return nil
		}
		t, err := c.New(x.DType(), outer, inner, n)
		if err != nil {
			return err
		}
		across, along := []int{n * inner, 1, inner}, []int{n * inner, n, 1}
		if err := strided(c.Pool, t, x, t.Shape(), along, 0, across, 0); err != nil {
			return err
		}
		kernel.InParts(c.Pool, outer*inner, grain, rowByRow[T]{row, tensor.View[T](t), tensor.View[T](t), n})
		return strided(c.Pool, y, t, []int{outer, n, inner}, []int{n * inner, inner, 1}, 0, []int{n * inner, 1, n}, 0)
	}
}

// hardmaxRow is 1 at the first greatest element and 0 elsewhere.
func hardmaxRow[T kernel.Float](dst, x []T) {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	clear(dst)
	if len(dst) > 0 {
		dst[best] = 1
	}
}

// softmaxAxes is the axes over which a node normalises.
func softmaxAxes(g *Grad, n *Node) []int64 {
	if n.Since >= 13 {
		return []int64{n.Int("axis", -1)}
	}
	rank := int64(g.Rank(n.Inputs[0]))
	a := n.Int("axis", 1)
	if a < -rank || a > rank {
		g.fail(fmt.Errorf("axis %d is outside a tensor of rank %d", a, rank))
		return nil
	}
	if a < 0 {
		a += rank
	}
	axes := []int64{}
	for ; a < rank; a++ {
		axes = append(axes, a)
	}
	return axes
}

// axesSum sums over axes; over none it is v itself, where ReduceSum would take all.
func axesSum(g *Grad, v *onnx.Value, axes []int64) *onnx.Value {
	if len(axes) == 0 {
		return v
	}
	return g.ReduceSum(v, true, axes...)
}

func gradSoftmax(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	y := n.Outputs[0]
	sum := axesSum(g, g.Mul(dy[0], y), softmaxAxes(g, n))
	return []*onnx.Value{g.Mul(y, g.Sub(dy[0], sum))}, nil
}

func gradLogSoftmax(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	sum := axesSum(g, dy[0], softmaxAxes(g, n))
	return []*onnx.Value{g.Sub(dy[0], g.Mul(g.Op("Exp", n.Outputs[0]), sum))}, nil
}
