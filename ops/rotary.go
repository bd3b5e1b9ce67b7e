package ops

import (
	"fmt"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// RotaryEmbedding, and TensorScatter, with which caches of keys and values are filled.
func init() {
	rotate := Op{Name: "RotaryEmbedding", Since: []int{23}, MinIn: 3, MaxIn: 4, Types: []TypeSet{Floats, Floats, Floats, Of(tensor.Int64)}, Infer: SameAs(0), InPlace: []int{0},
		Compile: func(n *Node) (Kernel, error) {
			r, err := rotaryOf(n)
			if err != nil {
				return nil, err
			}
			return Table{tensor.Float32: rotary[float32](r), tensor.Float64: rotary[float64](r)}.By(0), nil
		},
		Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
			if g.Moves(n.Inputs[1]) || g.Moves(n.Inputs[2]) {
				return gradRotaryTables(g, n, dy)
			}
			// A rotation's gradient is the rotation back.
			in := append([]*onnx.Value{dy[0], n.Inputs[1], g.Neg(n.Inputs[2])}, n.Inputs[3:]...)
			return g.Internal("RotaryEmbedding", 1, in, n.Attrs...), nil
		}}
	back := rotate // gradients are meant at an opset that has no such operator
	back.Domain, back.Since, back.Grad = Internal, []int{1}, nil
	back.Portable = func(g *Grad, n *Node) ([]*onnx.Value, error) {
		return g.At(23, "RotaryEmbedding", 1, n.Inputs, n.Attrs...), nil
	}
	register(rotate, back,
		Op{Name: "TensorScatter", Since: []int{24}, MinIn: 2, MaxIn: 3, Types: []TypeSet{0, 0, Of(tensor.Int64)}, Infer: SameAs(0),
			Compile: func(n *Node) (Kernel, error) {
				mode := n.Str("mode", "linear")
				if mode != "linear" && mode != "circular" {
					return nil, fmt.Errorf("mode %q is neither linear nor circular", mode)
				}
				return func(c *Ctx) error { return tensorScatter(c, mode == "circular") }, nil
			}, Grad: gradTensorScatter},
	)
}

type rotarySpec struct {
	heads, dim  int
	interleaved bool
}

func rotaryOf(n *Node) (rotarySpec, error) {
	r := rotarySpec{int(n.Int("num_heads", 0)), int(n.Int("rotary_embedding_dim", 0)), n.Int("interleaved", 0) != 0}
	if r.heads < 0 || r.heads > maxWindow || r.dim < 0 || r.dim > maxWindow || r.dim%2 != 0 {
		return r, fmt.Errorf("num_heads %d or rotary_embedding_dim %d is out of range", r.heads, r.dim)
	}
	return r, nil
}

func rotary[T kernel.Float](r rotarySpec) Kernel {
	return func(c *Ctx) error {
		x, cosT, sinT, ids := c.In(0), c.In(1), c.In(2), c.In(3)
		h, err := headedOf(x.Shape(), map[bool]int{true: r.heads}[x.Rank() == 3], "X")
		if err != nil {
			return err
		}
		dim := r.dim
		if dim == 0 {
			dim = h.size
		}
		half := dim / 2
		rows := 0 // of the tables
		switch {
		case dim > h.size || dim%2 != 0:
			return fmt.Errorf("%d of a head's %d elements cannot be rotated", dim, h.size)
		case cosT.Rank() < 1 || cosT.Len() != sinT.Len() || cosT.Shape()[cosT.Rank()-1] != half:
			return fmt.Errorf("tables of %v and %v do not suit a rotation of %d elements", cosT.Shape(), sinT.Shape(), dim)
		case half > 0:
			rows = cosT.Len() / half
		}
		at := func(b, s int) (int, error) { return b*h.rows + s, nil }
		if ids != nil {
			id := tensor.Data[int64](ids)
			if len(id) != h.batch*h.rows {
				return fmt.Errorf("position_ids of %v do not suit X of %v", ids.Shape(), x.Shape())
			}
			at = func(b, s int) (int, error) {
				p := id[b*h.rows+s]
				if p < 0 || p >= int64(rows) {
					return 0, fmt.Errorf("position %d is outside tables of %d", p, rows)
				}
				return int(p), nil
			}
		} else if half > 0 && rows != h.batch*h.rows {
			return fmt.Errorf("tables of %v do not suit X of %v", cosT.Shape(), x.Shape())
		}
		y, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
		if err != nil {
			return err
		}
		xs, ys, cs, ss := tensor.Data[T](x), tensor.Data[T](y), tensor.Data[T](cosT), tensor.Data[T](sinT)
		if len(ys) > 0 && len(xs) > 0 && &ys[0] != &xs[0] {
			copy(ys, xs) // what is not rotated stays
		}
		for b := range h.batch {
			for s := range h.rows {
				p, err := at(b, s)
				if err != nil {
					return err
				}
				cos, sin := cs[p*half:][:half], ss[p*half:][:half]
				for head := range h.heads {
					base, ld := h.at(b, head)
					v := ys[base+s*ld:][:dim]
					for i := range half {
						j, k := i, half+i
						if r.interleaved {
							j, k = 2*i, 2*i+1
						}
						v[j], v[k] = cos[i]*v[j]-sin[i]*v[k], sin[i]*v[j]+cos[i]*v[k]
					}
				}
			}
		}
		return nil
	}
}

// gradRotaryTables is the gradient where the cosines and sines have one as well.
func gradRotaryTables(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	r, err := rotaryOf(n)
	if err != nil {
		return nil, err
	}
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		x, shape := in[0], in[0]
		concat := func(axis int64, parts ...*onnx.Value) *onnx.Value {
			return g.With("Concat", []*onnx.Attribute{IntAttr("axis", axis)}, parts...)
		}
		exactly := []*onnx.Attribute{IntAttr("allowzero", 1)}
		reshape := func(v *onnx.Value, sizes ...*onnx.Value) *onnx.Value {
			return g.With("Reshape", exactly, v, concat(0, sizes...))
		}
		four := g.Rank(x) == 4
		heads := g.Int64s(int64(r.heads))
		if four { // to [batch, tokens, heads, size]
			x = g.Transpose(x, 0, 2, 1, 3)
		} else {
			x = reshape(x, g.Dims(x, 0, 1), heads, g.Div(g.Dims(x, 2), heads))
		}
		dim := g.Int64s(int64(r.dim))
		if r.dim == 0 {
			dim = g.Dims(x, 3)
		}
		cut := func(v, from, to *onnx.Value) *onnx.Value { return g.Op("Slice", v, from, to, g.Int64s(3)) }
		zero, two, half := g.Int64s(0), g.Int64s(2), g.Div(dim, g.Int64s(2))
		turned, rest := cut(x, zero, dim), cut(x, dim, g.Dims(x, 3))
		pairs, axis := reshape(turned, g.Dims(x, 0, 1, 2), two, half), int64(3) // [batch, tokens, heads, 2, half], or with the last two the other way
		if r.interleaved {
			pairs, axis = reshape(turned, g.Dims(x, 0, 1, 2), half, two), 4
		}
		part := func(i int64) *onnx.Value {
			return g.With("Gather", []*onnx.Attribute{IntAttr("axis", axis)}, pairs, g.Const(tensor.Scalar(i)))
		}
		table := func(v *onnx.Value) *onnx.Value { // [batch, tokens, 1, half]
			if len(in) > 3 && in[3] != nil {
				v = g.Op("Gather", reshape(v, g.Div(g.Op("Reshape", g.Op("Size", v), g.Int64s(1)), half), half), in[3])
			}
			return reshape(v, g.Dims(x, 0, 1), g.Int64s(1), half)
		}
		a, b, cos, sin := part(0), part(1), table(in[1]), table(in[2])
		put := g.Int64s(axis)
		turned = concat(axis, g.Op("Unsqueeze", g.Sub(g.Mul(cos, a), g.Mul(sin, b)), put), g.Op("Unsqueeze", g.Add(g.Mul(sin, a), g.Mul(cos, b)), put))
		y := concat(3, reshape(turned, g.Dims(x, 0, 1, 2), dim), rest)
		if four {
			return []*onnx.Value{g.Transpose(y, 0, 2, 1, 3)}
		}
		return []*onnx.Value{g.ReshapeLike(y, shape)}
	})
}

// tensorScatter writes update into a copy of the cache, from each sample's index on.
func tensorScatter(c *Ctx, circular bool) error {
	cache, update, indices := c.In(0), c.In(1), c.In(2)
	axis, err := c.Node.Axis("axis", -2, cache.Rank())
	if err != nil {
		return err
	}
	s, u := cache.Shape(), update.Shape()
	suits := axis > 0 && len(s) == len(u) && update.DType() == cache.DType()
	for i := range s {
		suits = suits && (s[i] == u[i] || i == axis && u[i] <= s[i])
	}
	if !suits {
		return fmt.Errorf("an update of %s does not suit a cache of %s along axis %d", update, cache, axis)
	}
	if indices != nil && indices.Len() != s[0] {
		return fmt.Errorf("write_indices of %v do not suit a batch of %d", indices.Shape(), s[0])
	}
	y, err := c.Alloc(0, cache.DType(), s...)
	if err != nil {
		return err
	}
	if cache.DType() == tensor.String {
		copy(tensor.Data[string](y), tensor.Data[string](cache))
	} else {
		copy(y.Bytes(), cache.Bytes())
	}
	inner := product(s[axis+1:])
	prefixes, each := product(s[:axis]), 1
	if s[0] > 0 {
		each = prefixes / s[0]
	}
	for p := range prefixes {
		at := 0
		if indices != nil {
			i := tensor.Data[int64](indices)[p/each]
			if i < 0 || !circular && i > int64(s[axis]-u[axis]) {
				return fmt.Errorf("writing %d elements at %d goes beyond a cache of %d", u[axis], i, s[axis])
			}
			if circular && s[axis] > 0 {
				i %= int64(s[axis])
			}
			at = int(i)
		}
		for k := range u[axis] {
			to, from := (p*s[axis]+(at+k)%s[axis])*inner, (p*u[axis]+k)*inner
			if cache.DType() == tensor.String {
				copy(tensor.Data[string](y)[to:to+inner], tensor.Data[string](update)[from:])
				continue
			}
			size := cache.DType().Size()
			copy(y.Bytes()[to*size:(to+inner)*size], update.Bytes()[from*size:])
		}
	}
	return nil
}

// gradTensorScatter: each place along the axis is one of the update, counted from where that is written, or the past's.
func gradTensorScatter(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		past, update := in[0], in[1]
		rank := g.Rank(past)
		axis, err := NormAxis(n.Int("axis", -2), rank)
		if err != nil {
			g.fail(err)
			return []*onnx.Value{past}
		}
		along := int64(axis)
		at := g.Positions(past, along)
		if len(in) > 2 && in[2] != nil {
			at = g.Sub(at, g.Op("Unsqueeze", in[2], g.Int64s(1))) // [batch, places]
		} else {
			at = g.Op("Unsqueeze", at, g.Int64s(0))
		}
		if n.Str("mode", "linear") == "circular" {
			at = g.Op("Mod", at, g.Dim(past, along))
		}
		var around []int64
		for i := 1; i < rank; i++ {
			if i != axis {
				around = append(around, int64(i))
			}
		}
		at = g.Op("Unsqueeze", at, g.Int64s(around...))
		zero, count := g.Const(tensor.Scalar(int64(0))), g.Dim(update, along)
		written := g.Op("And", g.Op("GreaterOrEqual", at, zero), g.Op("Less", at, count))
		at = g.ExpandTo(g.Op("Where", written, at, zero), past)
		fresh := g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", along)}, update, at)
		return []*onnx.Value{g.Op("Where", written, fresh, past)}
	})
}
