package ops

import (
	"errors"
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// The Gather and Scatter families.
func init() {
	register(
		Op{Name: "Gather", Since: []int{1, 11, 13}, MinIn: 2, Infer: inferGather, Moves: []int{0}, Compile: compileGather, Grad: gradGather},
		// PyTorch's, with a padding_idx: the row of that number gets no gradient.
		Op{Domain: Internal, Name: "Embedding", Since: []int{1}, MinIn: 2, Infer: inferGather, Moves: []int{0}, Compile: compileGather, Grad: gradEmbedding,
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) { return g.Node("Gather", 1, n.Inputs), nil }},
		// A matrix and numbers of its rows, whose last axis is one of 1: the rows, zeros for numbers that it has not.
		Op{Domain: Internal, Name: "SelectRows", Since: []int{1}, MinIn: 2, Types: []TypeSet{Of(tensor.Float32, tensor.Float64), Index}, Infer: inferSelectRows,
			Compile: func(*Node) (Kernel, error) {
				return Table{tensor.Float32: selectRows[float32], tensor.Float64: selectRows[float64]}.By(0), nil
			}},
		Op{Domain: Internal, Name: "GatherGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(gatherAt), Portable: portableGatherGrad},
		Op{Name: "GatherElements", Since: []int{11, 13}, MinIn: 2, Infer: inferGatherElements, Moves: []int{0}, Compile: compileGatherElements, Grad: gradGather},
		Op{Domain: Internal, Name: "GatherElementsGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(elementsAt), Portable: portableGatherElementsGrad},
		Op{Name: "GatherND", Since: []int{11, 12, 13}, MinIn: 2, Infer: inferGatherND, Moves: []int{0}, Compile: compileGatherND, Grad: gradGather},
		Op{Domain: Internal, Name: "GatherNDGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(ndAt), Portable: portableGatherNDGrad},
		Op{Name: "Scatter", Since: []int{9, 11}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(elementsAt), InPlace: []int{0}, Grad: gradScatter("GatherElements")},
		Op{Name: "ScatterElements", Since: []int{11, 13, 16, 18}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(elementsAt), InPlace: []int{0}, Grad: gradScatter("GatherElements")},
		Op{Name: "ScatterND", Since: []int{11, 13, 16, 18}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(ndAt), InPlace: []int{0}, Grad: gradScatter("GatherND")},
	)
}

// locate finds the runs of data that indices speak of; it keeps their offsets in room if that is large enough.
type locate func(n *Node, data []int, indices *tensor.Tensor, room *[]int) (runs, error)

func resize(room *[]int, n int) []int {
	*room = slices.Grow((*room)[:0], n)[:n]
	return *room
}

func checkIndex(v int64, d, axis int) (int, error) {
	if v < -int64(d) || v >= int64(d) {
		return 0, fmt.Errorf("index %d is outside dimension %d of %d", v, axis, d)
	}
	if v < 0 {
		v += int64(d)
	}
	return int(v), nil
}

func gatherAt(n *Node, data []int, indices *tensor.Tensor, room *[]int) (runs, error) {
	axis, err := n.Axis("axis", 0, len(data))
	if err != nil {
		return runs{}, err
	}
	idx, err := indices.Int64s()
	if err != nil {
		return runs{}, err
	}
	r := runs{outer: product(data[:axis]), run: product(data[axis+1:]), offs: resize(room, len(idx))}
	r.step = r.run * data[axis]
	for i, v := range idx {
		k, err := checkIndex(v, data[axis], axis)
		if err != nil {
			return r, err
		}
		r.offs[i] = k * r.run
	}
	return r, nil
}

func elementsAt(n *Node, data []int, indices *tensor.Tensor, room *[]int) (runs, error) {
	axis, err := n.Axis("axis", 0, len(data))
	if err != nil {
		return runs{}, err
	}
	shape := indices.Shape()
	if len(shape) != len(data) {
		return runs{}, fmt.Errorf("indices have rank %d, the data %d", len(shape), len(data))
	}
	r := runs{outer: 1, run: 1}
	if indices.Len() == 0 {
		return r, nil
	}
	for k, d := range shape {
		if k != axis && d > data[k] {
			return r, fmt.Errorf("dimension %d of the indices is %d, of the data %d", k, d, data[k])
		}
	}
	idx, err := indices.Int64s()
	if err != nil {
		return r, err
	}
	st := rowMajor(data)
	r.offs = resize(room, len(idx))
	ls := make([]loop, len(shape))
	for k, d := range shape {
		ls[k] = loop{n: d, d: st[k]}
		if k == axis {
			ls[k].d = 0
		}
	}
	i := 0
	walkLoops(ls, 0, len(idx), func(d, _, _ int) {
		k, e := checkIndex(idx[i], data[axis], axis)
		if e != nil && err == nil {
			err = e
		}
		r.offs[i] = d + k*st[axis]
		i++
	})
	return r, err
}

func ndAt(n *Node, data []int, indices *tensor.Tensor, room *[]int) (runs, error) {
	b := n.Int("batch_dims", 0)
	shape := indices.Shape()
	if len(shape) == 0 {
		return runs{}, errors.New("the indices are a scalar")
	}
	if b < 0 || b >= int64(len(shape)) || b > int64(len(data)) {
		return runs{}, fmt.Errorf("batch_dims %d is outside indices of rank %d and data of rank %d", b, len(shape), len(data))
	}
	batch := int(b)
	if !slices.Equal(shape[:batch], data[:batch]) {
		return runs{}, fmt.Errorf("the batch dimensions of indices %v and data %v differ", shape, data)
	}
	k := shape[len(shape)-1]
	if k > len(data)-batch {
		return runs{}, fmt.Errorf("indices of %d coordinates into data of shape %v after %d batch dimensions", k, data, batch)
	}
	idx, err := indices.Int64s()
	if err != nil {
		return runs{}, err
	}
	st := rowMajor(data)
	count := product(shape[:len(shape)-1])
	r := runs{outer: 1, run: product(data[batch+k:]), offs: resize(room, count)}
	per := max(1, product(shape[batch:len(shape)-1]))
	size := product(data[batch:])
	for i := range count {
		off := i / per * size
		for j, v := range idx[i*k : (i+1)*k] {
			at, err := checkIndex(v, data[batch+j], batch+j)
			if err != nil {
				return r, err
			}
			off += at * st[batch+j]
		}
		r.offs[i] = off
	}
	return r, nil
}

func inferGather(n *Node) ([]Info, error) {
	in, idx := n.Info(0), n.Info(1)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	axis, err := n.Axis("axis", 0, len(in.Shape))
	if err != nil {
		return nil, err
	}
	if !idx.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	return []Info{Tensor(in.DType, slices.Concat([]Dim{}, in.Shape[:axis], idx.Shape, in.Shape[axis+1:])...)}, nil
}

func gatherKernel(at locate, shapeOf func(n *Node, data, idx []int) []int) Kernel {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		idx, err := tensorIn(c, 1)
		if err != nil {
			return err
		}
		r, err := at(c.Node, x.Shape(), idx, Scratch[[]int](c))
		if err != nil {
			return err
		}
		shape, err := Keep(c, func() (*[]int, error) {
			s := shapeOf(c.Node, x.Shape(), idx.Shape())
			return &s, nil
		})
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), *shape...)
		if err != nil {
			return err
		}
		return gatherRuns(c.Pool, y, x, r)
	}
}

func compileGather(*Node) (Kernel, error) {
	return gatherKernel(gatherAt, func(n *Node, data, idx []int) []int {
		axis, _ := n.Axis("axis", 0, len(data))
		return slices.Concat(data[:axis], idx, data[axis+1:])
	}), nil
}

func inferSelectRows(n *Node) ([]Info, error) {
	table, rows := n.In[0], n.In[1]
	if !table.Ranked || !rows.Ranked {
		return []Info{Unranked(table.DType)}, nil
	}
	last := len(rows.Shape) - 1
	if len(table.Shape) != 2 || last < 0 || rows.Shape[last].Known() && rows.Shape[last].N != 1 {
		return nil, fmt.Errorf("rows of %v by numbers of %v", table.Shape, rows.Shape)
	}
	return []Info{Tensor(table.DType, append(slices.Clone(rows.Shape[:last]), table.Shape[1])...)}, nil
}

func selectRows[T kernel.Float](c *Ctx) error {
	table, y := tensor.Data[T](c.In(0)), c.Out(0)
	count, size := c.In(0).Shape()[0], c.In(0).Shape()[1]
	if y == nil {
		var err error
		shape := c.In(1).Shape()
		if y, err = c.Alloc(0, c.In(0).DType(), append(slices.Clone(shape[:len(shape)-1]), size)...); err != nil {
			return err
		}
	}
	dst := tensor.Data[T](y)
	if len(dst) == 0 {
		return nil
	}
	if t := c.In(1); t.DType() == tensor.Int32 {
		kernel.InParts(c.Pool, t.Len(), 1+8192/size, tableRows[T, int32]{dst, table, tensor.Data[int32](t), count, size})
	} else {
		kernel.InParts(c.Pool, t.Len(), 1+8192/size, tableRows[T, int64]{dst, table, tensor.Data[int64](t), count, size})
	}
	return nil
}

// tableRows is rows of a table to be copied.
type tableRows[T kernel.Float, I int32 | int64] struct {
	dst, table  []T
	rows        []I
	count, size int
}

// Part copies rows [lo, hi).
func (t tableRows[T, I]) Part(lo, hi int) {
	for i, r := range t.rows[lo:hi] {
		dst := t.dst[(lo+i)*t.size:][:t.size]
		if r >= 0 && int64(r) < int64(t.count) {
			copy(dst, t.table[int(r)*t.size:])
		} else {
			clear(dst)
		}
	}
}

func inferGatherElements(n *Node) ([]Info, error) {
	out := n.Info(1)
	out = out.WithoutValue()
	out.DType = n.Info(0).DType
	return []Info{out}, nil
}

func compileGatherElements(*Node) (Kernel, error) {
	return gatherKernel(elementsAt, func(_ *Node, _, idx []int) []int { return idx }), nil
}

func inferGatherND(n *Node) ([]Info, error) {
	in, idx := n.Info(0), n.Info(1)
	if !in.Ranked || !idx.Ranked || len(idx.Shape) == 0 {
		return []Info{Unranked(in.DType)}, nil
	}
	last := len(idx.Shape) - 1
	if !idx.Shape[last].Known() {
		return []Info{Unranked(in.DType)}, nil
	}
	k := int(n.Int("batch_dims", 0)) + idx.Shape[last].N
	if k < 0 || k > len(in.Shape) {
		return nil, fmt.Errorf("indices of %d coordinates into data of shape %v", idx.Shape[last].N, in.Shape)
	}
	return []Info{Tensor(in.DType, slices.Concat([]Dim{}, idx.Shape[:last], in.Shape[k:])...)}, nil
}

func compileGatherND(*Node) (Kernel, error) {
	return gatherKernel(ndAt, func(n *Node, data, idx []int) []int {
		last := len(idx) - 1
		return slices.Concat(idx[:last], data[int(n.Int("batch_dims", 0))+idx[last]:])
	}), nil
}

func gradGather(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return []*onnx.Value{g.Internal(n.Op+"Grad", 1, []*onnx.Value{dy[0], n.Inputs[1], g.Shape(n.Inputs[0])}, n.Attrs...)[0], nil}, nil
}

func gradEmbedding(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	at := n.Inputs[1]
	padding := g.Op("Equal", g.Cast(at, tensor.Int64), g.Const(tensor.Scalar(n.Int("padding_idx", 0))))
	kept := g.Op("Where", g.Op("Unsqueeze", padding, g.Int64s(-1)), g.Like(dy[0], 0), dy[0])
	return []*onnx.Value{g.Internal("GatherGrad", 1, []*onnx.Value{kept, at, g.Shape(n.Inputs[0])})[0], nil}, nil
}

func compileGatherGrad(at locate) func(*Node) (Kernel, error) {
	return func(*Node) (Kernel, error) {
		return func(c *Ctx) error {
			dy, dx, err := allocLike(c, 2)
			if err != nil {
				return err
			}
			idx, err := tensorIn(c, 1)
			if err != nil {
				return err
			}
			r, err := at(c.Node, dx.Shape(), idx, Scratch[[]int](c))
			if err != nil {
				return err
			}
			if r.outer*len(r.offs)*r.run != dy.Len() {
				return fmt.Errorf("the gradient's shape %v does not fit", dy.Shape())
			}
			return scatterRuns(c.Pool, "add", dx, dy, r)
		}, nil
	}
}

func compileScatter(at locate) func(*Node) (Kernel, error) {
	return func(n *Node) (Kernel, error) {
		how := n.Str("reduction", "none")
		return func(c *Ctx) error {
			x, err := tensorIn(c, 0)
			if err != nil {
				return err
			}
			idx, err := tensorIn(c, 1)
			if err != nil {
				return err
			}
			up, err := tensorIn(c, 2)
			if err != nil {
				return err
			}
			y, err := c.Alloc(0, x.DType(), x.Shape()...)
			if err != nil {
				return err
			}
			if err := copyTensor(y, x); err != nil {
				return err
			}
			if idx.Len() == 0 { // places without coordinates are no more than there are updates
				if places, err := tensor.NumElements(idx.Shape()[:max(0, idx.Rank()-1)]); up.Len() == 0 || err != nil {
					return err
				} else if places > up.Len() {
					return fmt.Errorf("updates of shape %v do not fit indices of shape %v", up.Shape(), idx.Shape())
				}
			}
			r, err := at(c.Node, x.Shape(), idx, Scratch[[]int](c))
			if err != nil {
				return err
			}
			if r.outer*len(r.offs)*r.run != up.Len() {
				return fmt.Errorf("updates of shape %v do not fit indices of shape %v", up.Shape(), idx.Shape())
			}
			return scatterRuns(c.Pool, how, y, up, r)
		}, nil
	}
}

func gradScatter(gather string) func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	name := "ScatterElements"
	if gather == "GatherND" {
		name = "ScatterND"
	}
	return func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		var axis []*onnx.Attribute
		if a := n.Attr("axis"); a != nil {
			axis = append(axis, a)
		}
		x, idx, up := n.Inputs[0], n.Inputs[1], n.Inputs[2]
		take := func(v *onnx.Value) *onnx.Value { return g.With(gather, axis, v, idx) }
		put := func(how string, x, up *onnx.Value) *onnx.Value {
			return g.With(name, append(axis[:len(axis):len(axis)], StringAttr("reduction", how)), x, idx, up)
		}
		// ones is 1 where a and b are equal and 0 elsewhere.
		ones := func(a, b *onnx.Value) *onnx.Value {
			return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(g.DType(x)))}, g.Op("Equal", a, b))
		}
		zero := g.Like(x, 0)
		switch how := n.Str("reduction", "none"); how {
		case "none":
			return []*onnx.Value{put("none", dy[0], g.ExpandTo(zero, up)), nil, take(dy[0])}, nil
		case "add":
			return []*onnx.Value{dy[0], nil, take(dy[0])}, nil
		case "max", "min":
			// Those that are the greatest, or least, share the gradient.
			y := n.Outputs[0]
			first, rest := ones(x, y), ones(up, take(y))
			share := g.Div(dy[0], put("add", first, rest))
			return []*onnx.Value{g.Mul(share, first), nil, g.Mul(take(share), rest)}, nil
		case "mul":
			all, ofUp := g.factors(x), g.factors(up)
			taken := make([]*onnx.Value, len(all))
			for i, how := range []string{"mul", "add", "add", "add"} {
				all[i] = put(how, all[i], ofUp[i])
				taken[i] = take(all[i])
			}
			return []*onnx.Value{g.Mul(dy[0], g.otherFactors(x, all)), nil, g.Mul(take(dy[0]), g.otherFactors(up, taken))}, nil
		default:
			return nil, fmt.Errorf("there is no gradient of reduction %q", how)
		}
	}
}

func portableGatherGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, at, shape := n.Inputs[0], n.Inputs[1], n.Inputs[2]
	if n.Int("axis", 0) == 0 { // rows of a table
		at = g.Op("Unsqueeze", g.Cast(at, tensor.Int64), g.Int64s(-1))
		return g.Node("ScatterND", 1, []*onnx.Value{g.Fill(dy, shape, 0), at, dy}, StringAttr("reduction", "add")), nil
	}
	return []*onnx.Value{g.MoveBack(dy, shape, func(numbers *onnx.Value) *onnx.Value { return g.With("Gather", n.Attrs, numbers, at) })}, nil
}

func portableGatherElementsGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	attrs := append(slices.Clone(n.Attrs), StringAttr("reduction", "add"))
	return g.Node("ScatterElements", 1, []*onnx.Value{g.Fill(n.Inputs[0], n.Inputs[2], 0), n.Inputs[1], n.Inputs[0]}, attrs...), nil
}

func portableGatherNDGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, at, shape := n.Inputs[0], n.Inputs[1], n.Inputs[2]
	if n.Int("batch_dims", 0) == 0 {
		return g.Node("ScatterND", 1, []*onnx.Value{g.Fill(dy, shape, 0), at, dy}, StringAttr("reduction", "add")), nil
	}
	return []*onnx.Value{g.MoveBack(dy, shape, func(numbers *onnx.Value) *onnx.Value { return g.With("GatherND", n.Attrs, numbers, at) })}, nil
}
