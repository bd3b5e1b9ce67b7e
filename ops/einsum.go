package ops

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Einsum. Operands are contracted two at a time, each pair as a batched product of matrices: the labels
// that both have and something else needs are the batch, those that nothing else needs are summed.
func init() {
	types := []TypeSet{Floats | Integers}
	register(
		Op{Name: "Einsum", Since: []int{12}, MinIn: 1, MaxIn: -1, Types: types, Infer: inferEinsum,
			Compile: compileEinsum(einsumForward), Grad: gradEinsum},
		// dY, then Einsum's inputs, but of number "operand", whose gradient it is, the shape alone
		Op{Domain: Internal, Name: "EinsumGrad", Since: []int{1}, MinIn: 2, MaxIn: -1,
			Infer: func(n *Node) ([]Info, error) {
				operand := n.Int("operand", 0)
				if operand < 0 || operand >= int64(len(n.Inputs)-1) {
					return nil, fmt.Errorf("operand %d is out of range", operand)
				}
				return inferShapeInput(1 + int(operand))(n)
			},
			Compile: compileEinsum(einsumBackward), Portable: portableEinsumGrad},
	)
}

// label names an index: a letter, or ellipsisLabel + the place of a dimension under an ellipsis, counted
// from the last.
type label int

const ellipsisLabel label = 256

// term is one operand's (or the output's) indices. The ellipsis, if there is one, stands before labels[at].
type term struct {
	labels   []label
	ellipsis bool
	at       int
}

func parseTerm(s string) (t term, err error) {
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z':
			t.labels = append(t.labels, label(b))
		case strings.HasPrefix(s[i:], "..."):
			if t.ellipsis {
				return t, fmt.Errorf("%q has two ellipses", s)
			}
			t.ellipsis, t.at = true, len(t.labels)
			i += 2
		default:
			return t, fmt.Errorf("%q has %q, which is neither a letter nor an ellipsis", s, b)
		}
	}
	return t, nil
}

// spread is the term's labels with dims of them under the ellipsis.
func (t term) spread(dims int) []label {
	if !t.ellipsis {
		return t.labels
	}
	all := slices.Clone(t.labels[:t.at])
	for d := dims - 1; d >= 0; d-- {
		all = append(all, ellipsisLabel+label(d))
	}
	return append(all, t.labels[t.at:]...)
}

type equation struct {
	in  []term
	out term
}

func parseEquation(s string, operands int) (e equation, err error) {
	left, right, explicit := strings.Cut(strings.ReplaceAll(s, " ", ""), "->")
	terms := strings.Split(left, ",")
	if len(terms) != operands {
		return e, fmt.Errorf("the equation %q is of %d operands, the node has %d", s, len(terms), operands)
	}
	count := map[label]int{}
	ellipsis := false
	for _, part := range terms {
		t, err := parseTerm(part)
		if err != nil {
			return e, fmt.Errorf("the equation %q: %w", s, err)
		}
		for _, l := range t.labels {
			count[l]++
		}
		ellipsis = ellipsis || t.ellipsis
		e.in = append(e.in, t)
	}
	if !explicit {
		e.out.ellipsis = ellipsis
		for l, n := range count {
			if n == 1 {
				e.out.labels = append(e.out.labels, l)
			}
		}
		slices.Sort(e.out.labels)
		return e, nil
	}
	if e.out, err = parseTerm(right); err != nil {
		return e, fmt.Errorf("the equation %q: %w", s, err)
	}
	seen := map[label]bool{}
	for _, l := range e.out.labels {
		switch {
		case count[l] == 0:
			return e, fmt.Errorf("the equation %q: no operand has the output's index %q", s, rune(l))
		case seen[l]:
			return e, fmt.Errorf("the equation %q: the output has the index %q twice", s, rune(l))
		}
		seen[l] = true
	}
	return e, nil
}

// labels is each operand's labels, dimension by dimension, and the output's, from the operands' ranks.
func (e equation) labels(ranks []int) (in [][]label, out []label, err error) {
	most := 0
	for i, t := range e.in {
		under := ranks[i] - len(t.labels)
		if under < 0 || under > 0 && !t.ellipsis {
			return nil, nil, fmt.Errorf("operand %d has rank %d, but %d indices", i, ranks[i], len(t.labels))
		}
		most = max(most, under)
		in = append(in, t.spread(under))
	}
	return in, e.out.spread(most), nil
}

// bindDims adds one operand's dimensions to sizes. Operands broadcast against each other; within one
// operand, dimensions of the same index must agree.
func bindDims(sizes map[label]Dim, labels []label, shape []Dim) error {
	own := map[label]Dim{}
	for i, l := range labels {
		d := shape[i]
		if o, ok := own[l]; ok {
			if o.Known() && d.Known() && o.N != d.N {
				return fmt.Errorf("an index repeated in a shape %v has sizes %d and %d", shape, o.N, d.N)
			}
			if o.Known() || alike(d, Unknown) {
				d = o
			}
		}
		own[l] = d
	}
	for l, d := range own {
		if o, ok := sizes[l]; ok {
			both, err := BroadcastDims([]Dim{o}, []Dim{d})
			if err != nil {
				return fmt.Errorf("an index has sizes %s and %s", o, d)
			}
			d = both[0]
		}
		sizes[l] = d
	}
	return nil
}

func inferEinsum(n *Node) ([]Info, error) {
	e, err := parseEquation(n.Str("equation", ""), len(n.Inputs))
	if err != nil {
		return nil, err
	}
	d := n.In[0].DType
	ranks := make([]int, len(n.In))
	for i, in := range n.In {
		if in.DType != d && in.DType != tensor.Undefined && d != tensor.Undefined {
			return nil, fmt.Errorf("element types %s and %s differ", d, in.DType)
		}
		if !in.Ranked {
			return []Info{Unranked(d)}, nil
		}
		ranks[i] = len(in.Shape)
	}
	in, out, err := e.labels(ranks)
	if err != nil {
		return nil, err
	}
	sizes := map[label]Dim{}
	for i, labels := range in {
		if err := bindDims(sizes, labels, n.In[i].Shape); err != nil {
			return nil, err
		}
	}
	return []Info{Tensor(d, sizesOf(sizes, out)...)}, nil
}

func sizesOf(sizes map[label]Dim, labels []label) []Dim {
	ds := make([]Dim, len(labels))
	for i, l := range labels {
		ds[i] = sizes[l]
	}
	return ds
}

// arithmeticOf is what contraction needs of an element type.
type arithmeticOf[T arith] struct {
	sum   func([]T) T
	mul   func(dst, a, b []T)
	batch func(p *kernel.Pool, batch int, transA, transB bool, m, n, k int, a, b, y []T)
}

func floatProducts[T kernel.Float]() arithmeticOf[T] {
	return arithmeticOf[T]{kernel.Sum[T], kernel.Mul[T], func(p *kernel.Pool, batch int, transA, transB bool, m, n, k int, a, b, y []T) {
		lda, ldb := k, n
		if transA {
			lda = m
		}
		if transB {
			ldb = k
		}
		kernel.GemmBatch(p, batch, transA, transB, m, n, k, 1, a, m*k, lda, b, k*n, ldb, 0, y, m*n, n)
	}}
}

func intProducts[T integers]() arithmeticOf[T] {
	return arithmeticOf[T]{
		sum: func(x []T) (s T) {
			for _, v := range x {
				s += v
			}
			return s
		},
		mul: func(dst, a, b []T) {
			for i := range dst {
				dst[i] = a[i] * b[i]
			}
		},
		batch: func(p *kernel.Pool, batch int, transA, transB bool, m, n, k int, a, b, y []T) {
			ars, acs, brs, bcs := k, 1, n, 1
			if transA {
				ars, acs = 1, m
			}
			if transB {
				brs, bcs = 1, k
			}
			clear(y)
			p.For(batch, max(1, moveGrain/max(1, m*n*k)), func(lo, hi int) {
				for i := lo; i < hi; i++ {
					intProduct(m, n, k, a[i*m*k:], ars, acs, b[i*k*n:], brs, bcs, y[i*m*n:])
				}
			})
		},
	}
}

// einsumCall is one run's problem: operands, and the labels and shape of what they make.
type einsumCall func(c *Ctx, e equation) (terms []operand, target []label, shape []int, err error)

func compileEinsum(call einsumCall) func(n *Node) (Kernel, error) {
	return func(n *Node) (Kernel, error) {
		operands := len(n.Inputs)
		if n.Domain == Internal {
			operands--
		}
		e, err := parseEquation(n.Str("equation", ""), operands)
		if err != nil {
			return nil, err
		}
		t := intKernels(einsum(e, call, intProducts[int8]()), einsum(e, call, intProducts[int16]()),
			einsum(e, call, intProducts[int32]()), einsum(e, call, intProducts[int64]()),
			einsum(e, call, intProducts[uint8]()), einsum(e, call, intProducts[uint16]()),
			einsum(e, call, intProducts[uint32]()), einsum(e, call, intProducts[uint64]()))
		t[tensor.Float32] = einsum(e, call, floatProducts[float32]())
		t[tensor.Float64] = einsum(e, call, floatProducts[float64]())
		return t.By(0), nil
	}
}

// operand is a tensor whose dimensions are labelled; those of size 1 are left out, and with them all that
// is there to broadcasting.
type operand struct {
	t      *tensor.Tensor
	labels []label
	dims   []int
	steps  []int
}

// labelled drops dimensions of size 1, and joins those of a repeated label into the diagonal.
func labelled(t *tensor.Tensor, labels []label, shape []int) operand {
	o := operand{t: t}
	for i, step := range rowMajor(shape) {
		if shape[i] == 1 {
			continue
		}
		if k := slices.Index(o.labels, labels[i]); k >= 0 {
			o.steps[k] += step
			continue
		}
		o.labels, o.dims, o.steps = append(o.labels, labels[i]), append(o.dims, shape[i]), append(o.steps, step)
	}
	return o
}

// pick is the dims and steps of labels; a label that o does not have has step 0 and size 1.
func (o operand) pick(labels []label) (dims, steps []int) {
	for _, l := range labels {
		if k := slices.Index(o.labels, l); k >= 0 {
			dims, steps = append(dims, o.dims[k]), append(steps, o.steps[k])
		} else {
			dims, steps = append(dims, 1), append(steps, 0)
		}
	}
	return dims, steps
}

func (o operand) size(labels []label) int {
	dims, _ := o.pick(labels)
	return product(dims)
}

// packed is o with exactly labels for its dimensions, dense in that order.
func (o operand) packed(c *Ctx, labels []label) (operand, error) {
	dims, steps := o.pick(labels)
	dense := rowMajor(dims)
	if slices.Equal(steps, dense) {
		return operand{o.t, labels, dims, steps}, nil
	}
	t, err := c.New(o.t.DType(), dims...)
	if err != nil {
		return operand{}, err
	}
	return operand{t, labels, dims, dense}, strided(c.Pool, t, o.t, dims, dense, 0, steps, 0)
}

func (o operand) has(l label) bool { return slices.Contains(o.labels, l) }

// split is the labels that f holds of, and the others.
func split(labels []label, f func(label) bool) (yes, no []label) {
	for _, l := range labels {
		if f(l) {
			yes = append(yes, l)
		} else {
			no = append(no, l)
		}
	}
	return yes, no
}

// einsumForward takes the operands as they are.
func einsumForward(c *Ctx, e equation) (terms []operand, target []label, shape []int, err error) {
	ts := make([]*tensor.Tensor, len(c.Ins))
	shapes := make([][]int, len(c.Ins))
	for i := range ts {
		if ts[i], err = tensorIn(c, i); err != nil {
			return nil, nil, nil, err
		}
		if err := sameElem(ts[i], ts[0]); err != nil {
			return nil, nil, nil, err
		}
		shapes[i] = ts[i].Shape()
	}
	in, target, shape, err := e.bind(shapes)
	if err != nil {
		return nil, nil, nil, err
	}
	for i, t := range ts {
		terms = append(terms, labelled(t, in[i], t.Shape()))
	}
	return terms, target, shape, nil
}

// einsumBackward puts the output's gradient in the place of the operand whose gradient is asked for, whose
// labels are then the target's.
func einsumBackward(c *Ctx, e equation) (terms []operand, target []label, shape []int, err error) {
	which := int(c.Node.Int("operand", 0))
	shapes := make([][]int, len(e.in))
	for i := range shapes {
		if i == which {
			shapes[i], err = shapeOperand(c, 1+i)
		} else if t := c.In(1 + i); t != nil {
			shapes[i], err = t.Shape(), sameElem(t, c.In(0))
		}
		if err != nil {
			return nil, nil, nil, err
		}
	}
	in, out, outShape, err := e.bind(shapes)
	if err != nil {
		return nil, nil, nil, err
	}
	if !slices.Equal(outShape, c.In(0).Shape()) {
		return nil, nil, nil, fmt.Errorf("a gradient of %v does not suit an output of %v", c.In(0).Shape(), outShape)
	}
	for i, labels := range in {
		if i == which {
			terms = append(terms, labelled(c.In(0), out, outShape))
		} else {
			terms = append(terms, labelled(c.In(1+i), labels, shapes[i]))
		}
	}
	// An index of which the gradient's operand has one element may be summed over many by the others; it is
	// not in the target then. One that only broadcasting of other operands' ones made is counted by dY.
	return terms, in[which], shapes[which], nil
}

// bind is the labels of operands of those shapes, and the output's labels and shape.
func (e equation) bind(shapes [][]int) (in [][]label, out []label, outShape []int, err error) {
	ranks := make([]int, len(shapes))
	for i, s := range shapes {
		ranks[i] = len(s)
	}
	if in, out, err = e.labels(ranks); err != nil {
		return nil, nil, nil, err
	}
	sizes := map[label]Dim{}
	for i, labels := range in {
		if err := bindDims(sizes, labels, Dims(shapes[i])); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, d := range sizesOf(sizes, out) {
		outShape = append(outShape, d.N)
	}
	return in, out, outShape, nil
}

func einsum[T arith](e equation, call einsumCall, ar arithmeticOf[T]) Kernel {
	return func(c *Ctx) error {
		terms, target, shape, err := call(c, e)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
		if err != nil {
			return err
		}
		if y.Len() == 0 {
			return nil
		}
		goal := labelled(y, target, shape)
		for _, o := range terms {
			if slices.Contains(o.dims, 0) { // sums of nothing
				clearTensor(y)
				return nil
			}
		}
		for {
			for i := range terms {
				others := append(slices.Clone(terms[:i]), terms[i+1:]...)
				if terms[i], err = sumOut(c, ar, terms[i], needed(goal, others)); err != nil {
					return err
				}
			}
			if len(terms) == 1 {
				break
			}
			i, j := nextPair(goal, terms)
			a, b := terms[i], terms[j]
			terms = slices.Delete(slices.Delete(terms, j, j+1), i, i+1)
			r, err := contract(c, ar, a, b, goal, terms)
			if err != nil {
				return err
			}
			terms = append(terms, r)
		}
		if len(goal.labels) < dimsAbove1(shape) {
			clearTensor(y) // what is off the diagonal
		}
		_, steps := terms[0].pick(goal.labels)
		return strided(c.Pool, y, terms[0].t, goal.dims, goal.steps, 0, steps, 0)
	}
}

func dimsAbove1(shape []int) int {
	n := 0
	for _, d := range shape {
		if d > 1 {
			n++
		}
	}
	return n
}

// needed tells which labels must be kept for the goal and the operands.
func needed(goal operand, others []operand) func(label) bool {
	return func(l label) bool {
		return goal.has(l) || slices.ContainsFunc(others, func(o operand) bool { return o.has(l) })
	}
}

// sumOut sums over the labels that are not kept.
func sumOut[T arith](c *Ctx, ar arithmeticOf[T], o operand, keep func(label) bool) (operand, error) {
	kept, summed := split(o.labels, keep)
	if len(summed) == 0 {
		return o, nil
	}
	o, err := o.packed(c, append(slices.Clone(kept), summed...))
	if err != nil {
		return o, err
	}
	dims, _ := o.pick(kept)
	t, err := c.New(o.t.DType(), dims...)
	if err != nil {
		return o, err
	}
	src, dst, n := tensor.View[T](o.t), tensor.View[T](t), o.size(summed)
	c.Pool.For(len(dst), max(1, moveGrain/n), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			dst[i] = ar.sum(src[i*n : (i+1)*n])
		}
	})
	return operand{t, kept, dims, rowMajor(dims)}, nil
}

// nextPair is the two operands whose product takes least memory beyond theirs, the first such; of very many
// operands simply the first two.
func nextPair(goal operand, terms []operand) (i, j int) {
	j = 1
	if len(terms) == 2 || len(terms) > 16 {
		return i, j
	}
	volume := func(dims []int) float64 {
		v := 1.0
		for _, d := range dims {
			v *= float64(d)
		}
		return v
	}
	first, best := true, 0.0
	for p := range terms {
		for q := p + 1; q < len(terms); q++ {
			others := slices.Concat(terms[:p], terms[p+1:q], terms[q+1:])
			keep := needed(goal, others)
			cost := 1.0
			for k, l := range terms[p].labels {
				if keep(l) {
					cost *= float64(terms[p].dims[k])
				}
			}
			for k, l := range terms[q].labels {
				if keep(l) && !terms[p].has(l) {
					cost *= float64(terms[q].dims[k])
				}
			}
			cost -= volume(terms[p].dims) + volume(terms[q].dims)
			if first || cost < best {
				first, best, i, j = false, cost, p, q
			}
		}
	}
	return i, j
}

// contract multiplies a and b and sums over the labels that neither the goal nor the others need; both
// have those, for sumOut came before.
func contract[T arith](c *Ctx, ar arithmeticOf[T], a, b, goal operand, others []operand) (operand, error) {
	keep := needed(goal, others)
	shared, freeA := split(a.labels, b.has)
	_, freeB := split(b.labels, a.has)
	batch, summed := split(shared, keep)
	labels := slices.Concat(batch, freeA, freeB)
	if swapped := slices.Concat(batch, freeB, freeA); len(others) == 0 && slices.Equal(swapped, goal.labels) {
		a, b, freeA, freeB, labels = b, a, freeB, freeA, swapped
	}
	m, n, k, count := a.size(freeA), b.size(freeB), a.size(summed), a.size(batch)
	// Either order of a matrix's rows and columns suits the product; a copy is made if an operand has neither.
	arrange := func(o operand, rows, cols []label) (operand, bool, error) {
		turned := slices.Concat(batch, cols, rows)
		if dims, steps := o.pick(turned); slices.Equal(steps, rowMajor(dims)) {
			return o, true, nil
		}
		o, err := o.packed(c, slices.Concat(batch, rows, cols))
		return o, false, err
	}
	a, transA, err := arrange(a, freeA, summed)
	if err != nil {
		return a, err
	}
	b, transB, err := arrange(b, summed, freeB)
	if err != nil {
		return b, err
	}
	dims, _ := a.pick(slices.Concat(batch, freeA))
	dimsB, _ := b.pick(freeB)
	dims = append(dims, dimsB...)
	t, err := c.New(a.t.DType(), dims...)
	if err != nil {
		return a, err
	}
	av, bv, yv := tensor.View[T](a.t), tensor.View[T](b.t), tensor.View[T](t)
	if m == 1 && n == 1 && k == 1 {
		c.Pool.For(count, moveGrain, func(lo, hi int) { ar.mul(yv[lo:hi], av[lo:hi], bv[lo:hi]) })
	} else {
		ar.batch(c.Pool, count, transA, transB, m, n, k, av, bv, yv)
	}
	return operand{t, labels, dims, rowMajor(dims)}, nil
}

func gradEinsum(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	for i, x := range n.Inputs {
		in := append([]*onnx.Value{dy[0]}, n.Inputs...)
		in[1+i] = g.Shape(x)
		out[i] = g.Internal("EinsumGrad", 1, in, StringAttr("equation", n.Str("equation", "")), IntAttr("operand", int64(i)))[0]
	}
	return out, nil
}

// portableEinsumGrad is an Einsum of dY and the other operands, and then what its equation cannot say: an operand's index of one element
// that others have many of, an index that nothing else has, and one that the operand has twice.
func portableEinsumGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	which := int(n.Int("operand", 0))
	e, err := parseEquation(n.Str("equation", ""), len(n.Inputs)-1)
	if err != nil {
		return nil, err
	}
	shape := n.Inputs[1+which]
	ranks := make([]int, len(e.in))
	for i := range ranks {
		if !e.in[i].ellipsis {
			ranks[i] = len(e.in[i].labels)
		} else if i != which {
			ranks[i] = g.Rank(n.Inputs[1+i])
		} else if s := g.Info(shape); s.Ranked && len(s.Shape) == 1 && s.Shape[0].Known() {
			ranks[i] = s.Shape[0].N
		} else {
			return nil, fmt.Errorf("the rank of operand %d is not known", i)
		}
	}
	in, out, err := e.labels(ranks)
	if err != nil {
		return nil, err
	}
	letters := map[label]string{}
	name := func(labels []label) string {
		var b strings.Builder
		for _, l := range labels {
			if letters[l] == "" {
				const all = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				if len(letters) == len(all) {
					g.fail(fmt.Errorf("the equation has more than %d indices", len(all)))
					return ""
				}
				letters[l] = all[len(letters):][:1]
			}
			b.WriteString(letters[l])
		}
		return b.String()
	}
	terms, operands, there := []string{name(out)}, []*onnx.Value{n.Inputs[0]}, map[label]bool{}
	for _, l := range out {
		there[l] = true
	}
	for i, labels := range in {
		if i == which {
			continue
		}
		terms, operands = append(terms, name(labels)), append(operands, n.Inputs[1+i])
		for _, l := range labels {
			there[l] = true
		}
	}
	var own, found []label // the operand's, each once; those of them that anything else has
	var first, absent []int64
	for i, l := range in[which] {
		if slices.Contains(own, l) {
			continue
		}
		first = append(first, int64(i))
		if there[l] {
			found = append(found, l)
		} else {
			absent = append(absent, int64(len(own)))
		}
		own = append(own, l)
	}
	d := g.Node("Einsum", 1, operands, StringAttr("equation", strings.Join(terms, ",")+"->"+name(found)))[0]
	if len(absent) > 0 {
		d = g.Op("Unsqueeze", d, g.Int64s(absent...))
	}
	if len(own) > 0 {
		to := g.Op("Gather", shape, g.Int64s(first...))
		d = g.Internal("SumTo", 1, []*onnx.Value{d, g.Op("Min", to, g.Shape(d))})[0]
		d = g.Op("Expand", d, to)
	}
	if len(own) < len(in[which]) {
		equation := StringAttr("equation", name(in[which])+"->"+name(own))
		d = g.MoveBack(d, shape, func(numbers *onnx.Value) *onnx.Value { return g.With("Einsum", []*onnx.Attribute{equation}, numbers) })
	}
	return []*onnx.Value{d}, nil
}
