package ops

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// What is kept hangs on the values: NonZero, Compress, TopK, Unique; and OneHot.
func init() {
	register(
		Op{Name: "OneHot", Since: []int{9, 11}, MinIn: 3, Infer: inferOneHot, Compile: compileOneHot, Grad: gradOneHot},
		Op{Name: "NonZero", Since: []int{9, 13}, MinIn: 1, Infer: inferNonZero, Compile: compileNonZero, NoGrad: "positions are integers"},
		Op{Name: "Compress", Since: []int{9, 11}, MinIn: 2, Infer: inferCompress, Compile: compileCompress, Grad: gradCompress},
		Op{Domain: Internal, Name: "CompressGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileCompressGrad,
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				return []*onnx.Value{g.MoveBack(n.Inputs[0], n.Inputs[2], func(numbers *onnx.Value) *onnx.Value {
					return g.With("Compress", n.Attrs, numbers, n.Inputs[1])
				})}, nil
			}},
		Op{Name: "TopK", Since: []int{1, 10, 11, 24}, MinIn: 1, MaxIn: 2, Types: []TypeSet{Numeric, Index}, MinOut: 1, MaxOut: 2, Infer: inferTopK, Compile: compileTopK, Grad: gradTopK},
		Op{Name: "Unique", Since: []int{11}, MinIn: 1, MinOut: 1, MaxOut: 4, Infer: inferUnique, Compile: compileUnique, Grad: gradUnique},
	)
}

func oneHotDepth(t *tensor.Tensor) (int, error) {
	d, err := scalarInt(t, "the depth")
	if err != nil {
		return 0, err
	}
	if d < 0 || d > 1<<48 {
		return 0, fmt.Errorf("the depth is %d", d)
	}
	return int(d), nil
}

// gradOneHot: of the values, off and on. Indices are integers.
func gradOneHot(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	values := n.Inputs[2]
	flags := g.Node("Concat", 1, []*onnx.Value{g.Op("Unsqueeze", g.Like(values, 0), g.Int64s(0)), g.Op("Unsqueeze", g.Like(values, 1), g.Int64s(0))}, IntAttr("axis", 0))[0]
	on := g.Node("OneHot", 1, []*onnx.Value{n.Inputs[0], n.Inputs[1], flags}, n.Attrs...)[0]
	total := func(v *onnx.Value) *onnx.Value {
		return g.Op("Unsqueeze", g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, v), g.Int64s(0))
	}
	hot := total(g.Mul(dy[0], on))
	return []*onnx.Value{nil, nil, g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, g.Sub(total(dy[0]), hot), hot)}, nil
}

// gradUnique: each element that is kept is the first of its kind.
func gradUnique(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	first := n.Output(1)
	if first == nil {
		first = &onnx.Value{Name: g.Names("first")}
		n.SetOutput(1, first)
		g.Infos[first] = Tensor(tensor.Int64, Unknown)
	}
	x := n.Inputs[0]
	if n.Attr("axis") != nil {
		return g.Internal("GatherGrad", 1, []*onnx.Value{dy[0], first, g.Shape(x)}, IntAttr("axis", n.Int("axis", 0))), nil
	}
	size := g.Op("Reshape", g.Op("Size", x), g.Int64s(1))
	return []*onnx.Value{g.ReshapeLike(g.Internal("GatherGrad", 1, []*onnx.Value{dy[0], first, size}, IntAttr("axis", 0))[0], x)}, nil
}

func inferOneHot(n *Node) ([]Info, error) {
	in, d := n.Info(0), n.Info(2).DType
	if !in.Ranked {
		return []Info{Unranked(d)}, nil
	}
	axis, err := n.Axis("axis", -1, len(in.Shape)+1)
	if err != nil {
		return nil, err
	}
	var depth Dim
	if c := n.Info(1).Const; c != nil {
		k, err := oneHotDepth(c)
		if err != nil {
			return nil, err
		}
		depth = D(k)
	} else {
		depth = n.number1(1)
	}
	return []Info{Tensor(d, slices.Insert(slices.Clone(in.Shape), axis, depth)...)}, nil
}

func compileOneHot(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		values, err := tensorIn(c, 2)
		if err != nil {
			return err
		}
		axis, err := c.Node.Axis("axis", -1, x.Rank()+1)
		if err != nil {
			return err
		}
		depth, err := oneHotDepth(c.In(1))
		if err != nil {
			return err
		}
		if values.Len() != 2 {
			return fmt.Errorf("%d values, not off and on", values.Len())
		}
		shape := slices.Insert(slices.Clone(x.Shape()), axis, depth)
		y, err := c.Alloc(0, values.DType(), shape...)
		if err != nil {
			return err
		}
		if err := strided(c.Pool, y, values, shape, rowMajor(shape), 0, make([]int, len(shape)), 0); err != nil {
			return err
		}
		inner := product(shape[axis+1:])
		idx, err := x.Int64s()
		if err != nil {
			idx = make([]int64, x.Len())
			for i := range idx {
				idx[i] = int64(tensor.Float64At(x, i))
			}
		}
		size := y.DType().Size()
		for i, v := range idx {
			if v < 0 {
				v += int64(depth)
			}
			if v < 0 || v >= int64(depth) {
				continue // a row of off values
			}
			at := (i/inner*depth+int(v))*inner + i%inner
			if y.DType() == tensor.String {
				tensor.View[string](y)[at] = tensor.View[string](values)[1]
			} else {
				copy(y.Bytes()[at*size:(at+1)*size], values.Bytes()[size:2*size])
			}
		}
		return nil
	}, nil
}

// isSet tells which elements differ from zero, false and the empty string.
func isSet(t *tensor.Tensor) func(i int) bool {
	switch d := t.DType(); {
	case d == tensor.String:
		s := tensor.View[string](t)
		return func(i int) bool { return s[i] != "" }
	case d == tensor.Float32:
		s := tensor.View[float32](t)
		return func(i int) bool { return s[i] != 0 }
	case d == tensor.Complex64:
		s := tensor.View[complex64](t)
		return func(i int) bool { return s[i] != 0 }
	case d == tensor.Complex128:
		s := tensor.View[complex128](t)
		return func(i int) bool { return s[i] != 0 }
	case d.IsFloat():
		return func(i int) bool { return tensor.Float64At(t, i) != 0 }
	default:
		size, b := d.Size(), t.Bytes()
		return func(i int) bool {
			for _, v := range b[i*size : (i+1)*size] {
				if v != 0 {
					return true
				}
			}
			return false
		}
	}
}

func inferNonZero(n *Node) ([]Info, error) {
	if r := n.Info(0).Rank(); r >= 0 {
		count := Unknown
		if def := n.Inputs[0].Def(); def != nil && def.Op == "ConstantOfShape" && onnx.CanonicalDomain(def.Domain) == "" {
			if a := def.Attr("value"); a != nil && a.T != nil && a.T.Len() == 1 && isSet(a.T)(0) { // as exporters write a range
				count = dimsProduct(n.Info(0).Shape)
			}
		}
		return []Info{Tensor(tensor.Int64, D(r), count)}, nil
	}
	return []Info{Tensor(tensor.Int64, Unknown, Unknown)}, nil
}

func compileNonZero(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		set := isSet(x)
		var at []int
		for i := range x.Len() {
			if set(i) {
				at = append(at, i)
			}
		}
		y, err := c.Alloc(0, tensor.Int64, x.Rank(), len(at))
		if err != nil {
			return err
		}
		out := tensor.Data[int64](y)
		for i, p := range at {
			for k := x.Rank() - 1; k >= 0; k-- {
				d := x.Shape()[k]
				out[k*len(at)+i] = int64(p % d)
				p /= d
			}
		}
		return nil
	}, nil
}

func inferCompress(n *Node) ([]Info, error) {
	in := n.Info(0)
	if n.Attr("axis") == nil {
		return []Info{Tensor(in.DType, Unknown)}, nil
	}
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	axis, err := n.Axis("axis", 0, len(in.Shape))
	if err != nil {
		return nil, err
	}
	out := slices.Clone(in.Shape)
	out[axis] = Unknown
	return []Info{Tensor(in.DType, out...)}, nil
}

// compressRuns is what a condition keeps of a tensor of that shape.
func compressRuns(c *Ctx, shape []int) (r runs, axis int, err error) {
	axis = -1
	cond, err := tensorIn(c, 1)
	if err != nil {
		return r, axis, err
	}
	d := product(shape)
	r = runs{outer: 1, run: 1}
	if c.Node.Attr("axis") != nil {
		if axis, err = c.Node.Axis("axis", 0, len(shape)); err != nil {
			return r, axis, err
		}
		d = shape[axis]
		r.outer, r.run = product(shape[:axis]), product(shape[axis+1:])
	}
	if cond.DType() != tensor.Bool || cond.Rank() != 1 || cond.Len() > d {
		return r, axis, fmt.Errorf("a condition of %s over %d elements", cond, d)
	}
	r.step = r.run * d
	for i, v := range tensor.View[uint8](cond) {
		if v != 0 {
			r.offs = append(r.offs, i*r.run)
		}
	}
	return r, axis, nil
}

func compileCompress(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		r, axis, err := compressRuns(c, x.Shape())
		if err != nil {
			return err
		}
		shape := []int{len(r.offs)}
		if axis >= 0 {
			shape = slices.Clone(x.Shape())
			shape[axis] = len(r.offs)
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		return gatherRuns(c.Pool, y, x, r)
	}, nil
}

func gradCompress(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return []*onnx.Value{g.Internal("CompressGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], g.Shape(n.Inputs[0])}, n.Attrs...)[0], nil}, nil
}

func compileCompressGrad(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		dy, dx, err := allocLike(c, 2)
		if err != nil {
			return err
		}
		r, _, err := compressRuns(c, dx.Shape())
		if err != nil {
			return err
		}
		if r.outer*len(r.offs)*r.run != dy.Len() {
			return fmt.Errorf("the gradient's shape %v does not fit", dy.Shape())
		}
		return scatterRuns(c.Pool, "none", dx, dy, r)
	}, nil
}

func inferTopK(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType), Unranked(tensor.Int64)}, nil
	}
	axis, err := n.Axis("axis", -1, len(in.Shape))
	if err != nil {
		return nil, err
	}
	var d Dim
	k, known := n.Int("k", -1), n.Since < 10
	if !known && n.Info(1).Const != nil {
		known = true
		if k, err = scalarInt(n.Info(1).Const, "k"); err != nil {
			return nil, err
		}
	}
	if known {
		if k < 0 || in.Shape[axis].Known() && k > int64(in.Shape[axis].N) {
			return nil, fmt.Errorf("the top %d of dimension %d of %v", k, axis, in.Shape[axis])
		}
		d = D(int(k))
	} else {
		d = n.number1(1)
	}
	a, b := slices.Clone(in.Shape), slices.Clone(in.Shape)
	a[axis], b[axis] = d, d
	return []Info{Tensor(in.DType, a...), Tensor(tensor.Int64, b...)}, nil
}

func compileTopK(*Node) (Kernel, error) {
	return Table{
		tensor.Float32: topK[float32], tensor.Float64: topK[float64],
		tensor.Int8: topK[int8], tensor.Int16: topK[int16], tensor.Int32: topK[int32], tensor.Int64: topK[int64],
		tensor.Uint8: topK[uint8], tensor.Uint16: topK[uint16], tensor.Uint32: topK[uint32], tensor.Uint64: topK[uint64],
	}.By(0), nil
}

func topK[T arith](c *Ctx) error {
	x, err := tensorIn(c, 0)
	if err != nil {
		return err
	}
	axis, err := c.Node.Axis("axis", -1, x.Rank())
	if err != nil {
		return err
	}
	k64 := c.Node.Int("k", -1)
	if c.Node.Since >= 10 {
		if k64, err = scalarInt(c.In(1), "k"); err != nil {
			return err
		}
	}
	d := x.Shape()[axis]
	if k64 < 0 || k64 > int64(d) {
		return fmt.Errorf("the top %d of dimension %d of %d", k64, axis, d)
	}
	k := int(k64)
	shape := slices.Clone(x.Shape())
	shape[axis] = k
	vals, err := c.Alloc(0, x.DType(), shape...)
	if err != nil {
		return err
	}
	var where []int64
	if c.Wants(1) {
		t, err := c.Alloc(1, tensor.Int64, shape...)
		if err != nil {
			return err
		}
		where = tensor.Data[int64](t)
	}
	if k == 0 || x.Len() == 0 {
		return nil
	}
	src, dst := tensor.View[T](x), tensor.View[T](vals)
	inner := product(shape[axis+1:])
	largest := c.Node.Int("largest", 1) != 0
	c.Pool.For(x.Len()/d, max(1, moveGrain/8/d), func(lo, hi int) {
		lane := make([]T, d)
		// before: a's element comes before b's; NaN counts as the greatest number
		before := func(a, b int) int {
			r := cmp.Compare(lane[a], lane[b])
			if lane[a] != lane[a] || lane[b] != lane[b] {
				r = -r
			}
			if largest {
				r = -r
			}
			if r == 0 {
				return cmp.Compare(a, b)
			}
			return r
		}
		best := make([]int, 0, d)
		for l := lo; l < hi; l++ {
			o, in := l/inner, l%inner
			for i := range lane {
				lane[i] = src[(o*d+i)*inner+in]
			}
			best = best[:0]
			if k <= 64 {
				for i := range lane {
					if len(best) == k {
						if before(best[k-1], i) < 0 {
							continue
						}
						best = best[:k-1]
					}
					at, _ := slices.BinarySearchFunc(best, i, before)
					best = slices.Insert(best, at, i)
				}
			} else {
				for i := range lane {
					best = append(best, i)
				}
				slices.SortFunc(best, before)
			}
			for i, b := range best[:k] {
				at := (o*k+i)*inner + in
				dst[at] = lane[b]
				if where != nil {
					where[at] = int64(b)
				}
			}
		}
	})
	return nil
}

func gradTopK(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	if dy[0] == nil {
		return out, nil
	}
	idx := n.Output(1)
	axis := IntAttr("axis", n.Int("axis", -1))
	if idx == nil {
		k := n.Input(1)
		if n.Since < 10 {
			k = g.Int64s(n.Int("k", 0))
		}
		idx = g.Node("TopK", 2, []*onnx.Value{n.Inputs[0], k}, axis, IntAttr("largest", n.Int("largest", 1)))[1]
	}
	out[0] = g.Internal("GatherElementsGrad", 1, []*onnx.Value{dy[0], idx, g.Shape(n.Inputs[0])}, axis)[0]
	return out, nil
}

func inferUnique(n *Node) ([]Info, error) {
	in := n.Info(0)
	y := Tensor(in.DType, Unknown)
	if n.Attr("axis") != nil {
		y = Unranked(in.DType)
		if in.Ranked {
			axis, err := n.Axis("axis", 0, len(in.Shape))
			if err != nil {
				return nil, err
			}
			s := slices.Clone(in.Shape)
			s[axis] = Unknown
			y = Tensor(in.DType, s...)
		}
	}
	list := func() Info { return Tensor(tensor.Int64, Unknown) }
	return []Info{y, list(), list(), list()}, nil
}

func compareRows[T cmp.Ordered](x []T, run int) func(a, b int) int {
	return func(a, b int) int { return slices.Compare(x[a*run:(a+1)*run], x[b*run:(b+1)*run]) }
}

// rowOrder compares rows of run elements of t.
func rowOrder(t *tensor.Tensor, run int) func(a, b int) int {
	switch t.DType() {
	case tensor.Float32:
		return compareRows(tensor.View[float32](t), run)
	case tensor.Float64:
		return compareRows(tensor.View[float64](t), run)
	case tensor.Int64:
		return compareRows(tensor.View[int64](t), run)
	case tensor.Int32:
		return compareRows(tensor.View[int32](t), run)
	case tensor.Uint64:
		return compareRows(tensor.View[uint64](t), run)
	case tensor.Uint8, tensor.Bool:
		x := tensor.View[uint8](t)
		return func(a, b int) int { return bytes.Compare(x[a*run:(a+1)*run], x[b*run:(b+1)*run]) }
	case tensor.String:
		x := tensor.View[string](t)
		return func(a, b int) int {
			return slices.CompareFunc(x[a*run:(a+1)*run], x[b*run:(b+1)*run], strings.Compare)
		}
	}
	return func(a, b int) int {
		for i := range run {
			if r := cmp.Compare(tensor.Float64At(t, a*run+i), tensor.Float64At(t, b*run+i)); r != 0 {
				return r
			}
		}
		return 0
	}
}

func compileUnique(n *Node) (Kernel, error) {
	sorted := n.Int("sorted", 1) != 0
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		rows, run, axis := x, 1, -1
		count := x.Len()
		var front []int // strides of the rows' layout in x's order of axes
		if c.Node.Attr("axis") != nil {
			if axis, err = c.Node.Axis("axis", 0, x.Rank()); err != nil {
				return err
			}
			count = x.Shape()[axis]
			rest := slices.Delete(slices.Clone(x.Shape()), axis, axis+1)
			run = product(rest)
			front = slices.Insert(rowMajor(rest), axis, run)
			if rows, err = c.New(x.DType(), append([]int{count}, rest...)...); err != nil {
				return err
			}
			if err := strided(c.Pool, rows, x, x.Shape(), front, 0, rowMajor(x.Shape()), 0); err != nil {
				return err
			}
		}
		if err := c.Mem.TakeEach(6*8, count); err != nil { // rows of nothing may be many
			return err
		}
		order := rowOrder(rows, run)
		at := make([]int, count)
		for i := range at {
			at[i] = i
		}
		slices.SortStableFunc(at, order)
		var first, counts []int // of each group, in sorted order
		group := make([]int, count)
		for i, r := range at {
			if i == 0 || order(at[i-1], r) != 0 {
				first, counts = append(first, r), append(counts, 0)
			}
			group[r] = len(first) - 1
			counts[len(first)-1]++
		}
		rank := make([]int, len(first)) // place of a group in the output
		byPlace := make([]int, len(first))
		for i := range byPlace {
			byPlace[i] = i
		}
		if !sorted {
			slices.SortFunc(byPlace, func(a, b int) int { return cmp.Compare(first[a], first[b]) })
		}
		for p, g := range byPlace {
			rank[g] = p
		}
		shape := []int{len(first)}
		if axis >= 0 {
			shape = slices.Clone(x.Shape())
			shape[axis] = len(first)
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		part, ds := slices.Clone(shape), rowMajor(shape)
		if axis >= 0 {
			part[axis] = 1
		} else {
			part[0], axis, front = 1, 0, []int{1}
		}
		for p, g := range byPlace {
			if err := strided(c.Pool, y, rows, part, ds, p*ds[axis], front, first[g]*run); err != nil {
				return err
			}
		}
		list := func(i, n int, f func(i int) int) error {
			if !c.Wants(i) {
				return nil
			}
			t, err := c.Alloc(i, tensor.Int64, n)
			if err != nil {
				return err
			}
			for k := range n {
				tensor.Data[int64](t)[k] = int64(f(k))
			}
			return nil
		}
		if err := list(1, len(first), func(i int) int { return first[byPlace[i]] }); err != nil {
			return err
		}
		if err := list(2, count, func(i int) int { return rank[group[i]] }); err != nil {
			return err
		}
		return list(3, len(first), func(i int) int { return counts[byPlace[i]] })
	}, nil
}
