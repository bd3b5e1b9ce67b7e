package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Sequences and optionals. Their values are never changed in place, so they may be shared. The gradient of a sequence is a
// sequence of the gradients of its elements, in which nil stands for one that is zero; that of an optional is
// that of its element.
func init() {
	same := func(n *Node) ([]Info, error) { return withoutValues([]Info{n.In[0]}), nil }
	scalar := func(d tensor.DType) func(*Node) ([]Info, error) {
		return func(n *Node) ([]Info, error) { return []Info{Tensor(d)}, nil }
	}
	element := func(n *Node) ([]Info, error) { return []Info{n.In[0].element()}, nil }
	run := func(k Kernel) func(*Node) (Kernel, error) { return func(*Node) (Kernel, error) { return k, nil } }
	register(
		Op{Name: "SequenceEmpty", Since: []int{11}, MinIn: 0, NoGrad: "it has no inputs",
			Infer: func(n *Node) ([]Info, error) {
				return []Info{{Kind: onnx.SequenceType, DType: tensor.DType(n.Int("dtype", 1)), Elem: &Info{Kind: none}}}, nil
			},
			Compile: run(func(c *Ctx) error {
				c.SetOut(0, &tensor.Sequence{Elem: tensor.DType(c.Node.Int("dtype", 1))})
				return nil
			})},
		Op{Name: "SequenceConstruct", Since: []int{11}, AnyKind: true, MinIn: 1, MaxIn: -1,
			Infer: func(n *Node) ([]Info, error) {
				e := Info{Kind: none}
				for _, x := range n.In {
					e = join(e, x)
				}
				return []Info{SequenceOf(e)}, nil
			},
			Compile: run(func(c *Ctx) error {
				if i := slices.Index(c.Ins, nil); i >= 0 {
					return fmt.Errorf("input %d is left out", i)
				}
				c.SetOut(0, &tensor.Sequence{Elem: c.Node.In[0].DType, Values: slices.Clone(c.Ins)})
				return nil
			}),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				dx := make([]*onnx.Value, len(n.Inputs))
				for i, x := range n.Inputs {
					if g.Moves(x) {
						dx[i] = g.elementGrad(dy[0], g.Const(tensor.Scalar(int64(i))), x)
					}
				}
				return dx, nil
			}},
		Op{Name: "SequenceInsert", Since: []int{11}, AnyKind: true, MinIn: 2, MaxIn: 3,
			Infer: func(n *Node) ([]Info, error) {
				if s := n.In[0]; s.Elem != nil {
					return []Info{SequenceOf(join(*s.Elem, n.In[1]))}, nil
				}
				return []Info{{Kind: onnx.SequenceType, DType: n.In[0].DType}}, nil
			},
			Compile: run(func(c *Ctx) error {
				s, err := sequence(c, 0)
				if err != nil {
					return err
				}
				at := len(s.Values)
				if c.Value(2) != nil {
					if at, err = position(c, 2, len(s.Values), true); err != nil {
						return err
					}
				}
				c.SetOut(0, &tensor.Sequence{Elem: s.Elem, Values: slices.Insert(slices.Clone(s.Values), at, c.Ins[1])})
				return nil
			}),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				// Counted from the end, the position is one of the shorter sequence; of the longer it is as far from the start.
				at := g.insertedAt(n)
				return []*onnx.Value{g.Op("SequenceErase", dy[0], at), g.elementGrad(dy[0], at, n.Inputs[1])}, nil
			}},
		Op{Name: "SequenceErase", Since: []int{11}, AnyKind: true, MinIn: 1, MaxIn: 2, Infer: same,
			Compile: run(func(c *Ctx) error {
				s, err := sequence(c, 0)
				if err != nil {
					return err
				}
				at := len(s.Values) - 1
				if c.Value(1) != nil || at < 0 {
					if at, err = position(c, 1, len(s.Values), false); err != nil {
						return err
					}
				}
				c.SetOut(0, &tensor.Sequence{Elem: s.Elem, Values: slices.Delete(slices.Clone(s.Values), at, at+1)})
				return nil
			}),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("SequenceEraseGrad", 1, []*onnx.Value{dy[0], n.Inputs[0], n.Input(1)})[0]}, nil
			}},
		Op{Name: "SequenceAt", Since: []int{11}, AnyKind: true, MinIn: 2, Infer: element,
			Compile: run(func(c *Ctx) error {
				s, err := sequence(c, 0)
				if err != nil {
					return err
				}
				at, err := position(c, 1, len(s.Values), false)
				if err != nil {
					return err
				}
				c.SetOut(0, s.Values[at])
				return nil
			}),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("SequenceAtGrad", 1, []*onnx.Value{dy[0], n.Inputs[0], n.Inputs[1]})[0]}, nil
			}},
		Op{Name: "SequenceLength", Since: []int{11}, AnyKind: true, MinIn: 1, NoGrad: "it counts", Infer: scalar(tensor.Int64), Compile: run(func(c *Ctx) error {
			s, err := sequence(c, 0)
			if err != nil {
				return err
			}
			c.SetOut(0, tensor.Scalar(int64(len(s.Values))))
			return nil
		})},
		Op{Name: "ConcatFromSequence", Since: []int{11}, AnyKind: true, MinIn: 1, Infer: inferConcatFromSequence, Compile: run(concatFromSequence),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("ConcatFromSequenceGrad", 1, []*onnx.Value{dy[0], n.Inputs[0]},
					IntAttr("axis", n.Int("axis", 0)), IntAttr("new_axis", n.Int("new_axis", 0))), nil
			}},
		Op{Name: "SplitToSequence", Since: []int{11, 24}, MinIn: 1, MaxIn: 2, Infer: inferSplitToSequence, Compile: run(splitToSequence),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				fresh := int64(0)
				if !n.Has(1) && n.Int("keepdims", 1) == 0 {
					fresh = 1
				}
				return g.Internal("SplitToSequenceGrad", 1, []*onnx.Value{dy[0], n.Outputs[0], n.Inputs[0]},
					IntAttr("axis", n.Int("axis", 0)), IntAttr("new_axis", fresh)), nil
			}},
		Op{Name: "Optional", Since: []int{15}, AnyKind: true, MinIn: 0, MaxIn: 1,
			Infer: func(n *Node) ([]Info, error) {
				if len(n.In) == 0 {
					return []Info{{Kind: onnx.OptionalType}}, nil
				}
				e := n.In[0].WithoutValue()
				return []Info{{Kind: onnx.OptionalType, DType: e.DType, Elem: &e}}, nil
			},
			Compile: run(func(c *Ctx) error {
				c.SetOut(0, &tensor.Optional{Value: c.Value(0)})
				return nil
			}), Grad: passGrad},
		Op{Name: "OptionalHasElement", Since: []int{15, 18}, AnyKind: true, MinIn: 0, MaxIn: 1, NoGrad: "it tells whether something is there", Infer: scalar(tensor.Bool), Compile: run(func(c *Ctx) error {
			v := c.Value(0)
			if o, ok := v.(*tensor.Optional); ok {
				v = o.Value
			}
			c.SetOut(0, tensor.Scalar(v != nil))
			return nil
		})},
		Op{Name: "OptionalGetElement", Since: []int{15, 18}, AnyKind: true, MinIn: 1,
			Infer: func(n *Node) ([]Info, error) {
				if n.In[0].Kind != onnx.OptionalType {
					return []Info{n.In[0].WithoutValue()}, nil
				}
				if n.In[0].Elem == nil {
					return []Info{{}}, nil
				}
				return []Info{n.In[0].element()}, nil
			},
			Compile: run(func(c *Ctx) error {
				v := c.Value(0)
				if o, ok := v.(*tensor.Optional); ok {
					v = o.Value
				}
				if v == nil {
					return fmt.Errorf("the optional is empty")
				}
				c.SetOut(0, v)
				return nil
			}), Grad: passGrad},

		Op{Domain: Internal, Name: "SequenceZeros", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSequenceZeros, MinIn: 1,
			Infer: func(n *Node) ([]Info, error) { // of an optional that of what it holds
				if n.In[0].Kind == onnx.OptionalType {
					return withoutValues([]Info{n.In[0].element()}), nil
				}
				return same(n)
			},
			Compile: run(func(c *Ctx) error {
				z, err := zerosLike(c, c.Value(0))
				if err != nil {
					return err
				}
				c.SetOut(0, z)
				return nil
			})},
		Op{Domain: Internal, Name: "SequenceAdd", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSequenceAdd, MinIn: 2, Infer: same, Compile: func(n *Node) (Kernel, error) {
			add, _ := Lookup("", "Add", GradOpset)
			k, err := add.Compile(n)
			if err != nil {
				return nil, err
			}
			return func(c *Ctx) error {
				v, err := addValues(c, k, c.Value(0), c.Value(1))
				if err != nil {
					return err
				}
				c.SetOut(0, v)
				return nil
			}, nil
		}},
		// (gradient of a sequence, position, the element there): the element's gradient.
		Op{Domain: Internal, Name: "SequenceElementGrad", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSequenceElementGrad, MinIn: 3,
			Infer: func(n *Node) ([]Info, error) { return withoutValues([]Info{n.In[2]}), nil },
			Compile: run(func(c *Ctx) error {
				s, err := sequence(c, 0)
				if err != nil {
					return err
				}
				at, err := position(c, 1, len(s.Values), false)
				if err != nil {
					return err
				}
				v := s.Values[at]
				if v == nil {
					if v, err = zerosLike(c, c.Value(2)); err != nil {
						return err
					}
				}
				if t, x := v.(*tensor.Tensor); x != (c.In(2) != nil) || x && t.DType() != c.In(2).DType() {
					return fmt.Errorf("the gradient at %d is none of such an element", at)
				}
				c.SetOut(0, v)
				return nil
			})},
		// (gradient of an element, the sequence, position): the sequence's gradient.
		Op{Domain: Internal, Name: "SequenceAtGrad", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSequenceAtGrad, MinIn: 3, Infer: func(n *Node) ([]Info, error) { return []Info{n.In[1]}, nil },
			Compile: run(func(c *Ctx) error {
				s, err := sequence(c, 1)
				if err != nil {
					return err
				}
				at, err := position(c, 2, len(s.Values), false)
				if err != nil {
					return err
				}
				d := make([]tensor.Value, len(s.Values))
				d[at] = c.Value(0)
				c.SetOut(0, &tensor.Sequence{Elem: s.Elem, Values: d})
				return nil
			})},
		// (gradient of the shorter sequence, the longer sequence, position): the longer one's gradient.
		Op{Domain: Internal, Name: "SequenceEraseGrad", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSequenceEraseGrad, MinIn: 2, MaxIn: 3, Infer: same,
			Compile: run(func(c *Ctx) error {
				d, err := sequence(c, 0)
				if err != nil {
					return err
				}
				s, err := sequence(c, 1)
				if err != nil {
					return err
				}
				at := len(s.Values) - 1
				if c.Value(2) != nil {
					if at, err = position(c, 2, len(s.Values), false); err != nil {
						return err
					}
				}
				if len(d.Values) != len(s.Values)-1 {
					return fmt.Errorf("a gradient of %d elements is none of what is left of %d", len(d.Values), len(s.Values))
				}
				c.SetOut(0, &tensor.Sequence{Elem: d.Elem, Values: slices.Insert(slices.Clone(d.Values), at, tensor.Value(nil))})
				return nil
			})},
		// (gradient of the joined tensor, the sequence): the sequence's gradient.
		Op{Domain: Internal, Name: "ConcatFromSequenceGrad", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableConcatFromSequenceGrad, MinIn: 2, Infer: func(n *Node) ([]Info, error) { return []Info{n.In[1]}, nil },
			Compile: run(concatFromSequenceGrad)},
		// (gradient of the sequence, the sequence, the tensor that was split): the tensor's gradient.
		Op{Domain: Internal, Name: "SplitToSequenceGrad", Since: []int{1}, AnyKind: true, NoGrad: noSecond, Portable: portableSplitToSequenceGrad, MinIn: 3, Infer: func(n *Node) ([]Info, error) { return withoutValues([]Info{n.In[2]}), nil },
			Compile: run(func(c *Ctx) error {
				d, err := sequence(c, 0)
				if err != nil {
					return err
				}
				whole, err := sequence(c, 1)
				if err != nil {
					return err
				}
				full := &tensor.Sequence{Elem: d.Elem, Values: slices.Clone(d.Values)}
				for i, v := range full.Values {
					if v == nil {
						if full.Values[i], err = zerosLike(c, whole.Values[i]); err != nil {
							return err
						}
					}
				}
				if len(full.Values) == 0 { // of an axis of size 0
					z, err := zerosLike(c, c.Value(2))
					c.SetOut(0, z)
					return err
				}
				return concatFromSequence(&Ctx{Context: c.Context, Pool: c.Pool, Node: c.Node, Mem: c.Mem, Ins: []tensor.Value{full}, Outs: c.Outs})
			})},
	)
}

func passGrad(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) { return dy, nil }

// sequenceOf is a sequence of those values.
func sequenceOf(vs []tensor.Value) *tensor.Sequence {
	s := &tensor.Sequence{Values: vs}
	if len(vs) > 0 {
		if t, ok := vs[0].(*tensor.Tensor); ok {
			s.Elem = t.DType()
		}
	}
	return s
}

// elementGrad is the gradient of x, which stands at that position, in the gradient ds of the sequence.
func (g *Grad) elementGrad(ds, at, x *onnx.Value) *onnx.Value {
	return g.Internal("SequenceElementGrad", 1, []*onnx.Value{ds, at, x})[0]
}

// insertedAt is the position in the longer sequence of what a SequenceInsert put in.
func (g *Grad) insertedAt(n *Node) *onnx.Value {
	length := g.Op("SequenceLength", n.Inputs[0])
	if !n.Has(2) {
		return length
	}
	at := g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}, n.Inputs[2])
	zero := g.Const(tensor.Scalar(int64(0)))
	return g.Op("Where", g.Op("Less", at, zero), g.Add(at, length), at)
}

// zerosLike is a gradient that is nothing, of a value like v.
func zerosLike(c *Ctx, v tensor.Value) (tensor.Value, error) {
	switch v := v.(type) {
	case *tensor.Tensor:
		return c.New(v.DType(), v.Shape()...)
	case *tensor.Sequence:
		return &tensor.Sequence{Elem: v.Elem, Values: make([]tensor.Value, len(v.Values))}, nil
	case *tensor.Optional:
		return zerosLike(c, v.Value)
	}
	return nil, fmt.Errorf("a value of kind %T has no gradient", v)
}

// addValues is the sum of two gradients of one value; nil is zero. add adds tensors.
func addValues(c *Ctx, add Kernel, a, b tensor.Value) (tensor.Value, error) {
	if a == nil {
		return b, nil
	}
	if b == nil {
		return a, nil
	}
	switch a := a.(type) {
	case *tensor.Tensor:
		if other, ok := b.(*tensor.Tensor); !ok || other.DType() != a.DType() || !slices.Equal(other.Shape(), a.Shape()) {
			return nil, fmt.Errorf("gradients of different shapes")
		}
		out, err := c.New(a.DType(), a.Shape()...)
		if err != nil {
			return nil, err
		}
		return out, add(&Ctx{Context: c.Context, Pool: c.Pool, Node: c.Node, Mem: c.Mem, Ins: []tensor.Value{a, b}, Outs: []tensor.Value{out}})
	case *tensor.Sequence:
		other, ok := b.(*tensor.Sequence)
		if !ok || len(other.Values) != len(a.Values) {
			return nil, fmt.Errorf("gradients of sequences of different lengths")
		}
		sum := &tensor.Sequence{Elem: a.Elem, Values: make([]tensor.Value, len(a.Values))}
		for i := range sum.Values {
			v, err := addValues(c, add, a.Values[i], other.Values[i])
			if err != nil {
				return nil, err
			}
			sum.Values[i] = v
		}
		return sum, nil
	}
	return nil, fmt.Errorf("a value of kind %T has no gradient", a)
}

func sequence(c *Ctx, i int) (*tensor.Sequence, error) {
	if o, ok := c.Value(i).(*tensor.Optional); ok {
		if s, ok := o.Value.(*tensor.Sequence); ok {
			return s, nil
		}
	}
	s, ok := c.Value(i).(*tensor.Sequence)
	if !ok {
		return nil, fmt.Errorf("input %d is no sequence", i)
	}
	return s, nil
}

// position is the scalar input i as an index into n values; end allows n itself.
func position(c *Ctx, i, n int, end bool) (int, error) {
	t := c.In(i)
	if t == nil || t.Len() != 1 {
		return 0, fmt.Errorf("input %d must be a single index", i)
	}
	v, err := t.Int64s()
	if err != nil {
		return 0, err
	}
	top := int64(n)
	if end {
		top++
	}
	at := v[0]
	if at < 0 {
		at += int64(n)
	}
	if at < 0 || at >= top {
		return 0, fmt.Errorf("index %d is outside a sequence of %d", v[0], n)
	}
	return int(at), nil
}

func inferSplitToSequence(n *Node) ([]Info, error) {
	x := n.In[0].WithoutValue()
	if x.Ranked {
		axis, err := NormAxis(n.Int("axis", 0), len(x.Shape))
		if err != nil {
			return nil, err
		}
		x.Shape = slices.Clone(x.Shape)
		switch {
		case n.Has(1):
			x.Shape[axis] = Unknown
		case n.Int("keepdims", 1) != 0:
			x.Shape[axis] = D(1)
		default:
			x.Shape = slices.Delete(x.Shape, axis, axis+1)
		}
	}
	return []Info{SequenceOf(x)}, nil
}

func inferConcatFromSequence(n *Node) ([]Info, error) {
	e := n.In[0].element()
	out := Unranked(e.DType)
	if e.Ranked {
		shape := slices.Clone(e.Shape)
		fresh := n.Int("new_axis", 0) != 0
		if fresh {
			shape = append(shape, Unknown)
		}
		axis, err := NormAxis(n.Int("axis", 0), len(shape))
		if err != nil {
			return nil, err
		}
		if fresh {
			copy(shape[axis+1:], shape[axis:])
		}
		shape[axis] = Unknown
		out = Tensor(e.DType, shape...)
	}
	return []Info{out}, nil
}

// concatFromSequenceGrad cuts the gradient of what was joined as the sequence was.
func concatFromSequenceGrad(c *Ctx) error {
	dy := c.In(0)
	if dy == nil {
		return fmt.Errorf("input 0 is no tensor")
	}
	s, err := sequence(c, 1)
	if err != nil {
		return err
	}
	fresh := c.Node.Int("new_axis", 0) != 0
	axis, err := NormAxis(c.Node.Int("axis", 0), dy.Rank())
	if err != nil {
		return err
	}
	d := &tensor.Sequence{Elem: s.Elem, Values: make([]tensor.Value, len(s.Values))}
	steps, at := rowMajor(dy.Shape()), 0
	for i, v := range s.Values {
		x, ok := v.(*tensor.Tensor)
		if !ok || x.DType() != dy.DType() {
			return fmt.Errorf("element %d is no tensor of %s", i, dy.DType())
		}
		out, err := c.New(x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		shape, size := x.Shape(), 1
		if fresh && axis <= len(shape) {
			shape = slices.Insert(slices.Clone(shape), axis, 1)
		}
		part := slices.Clone(dy.Shape())
		if len(shape) == len(part) {
			size = shape[axis]
			part[axis] = size
		}
		if !slices.Equal(shape, part) || at+size > dy.Shape()[axis] {
			return fmt.Errorf("element %d of %v is no part of a tensor of %v", i, x.Shape(), dy.Shape())
		}
		if err := strided(c.Pool, out, dy, shape, rowMajor(shape), 0, steps, at*steps[axis]); err != nil {
			return err
		}
		at += size
		d.Values[i] = out
	}
	c.SetOut(0, d)
	return nil
}

// concatFromSequence joins tensors along an axis, a new one if new_axis is set.
func concatFromSequence(c *Ctx) error {
	s, err := sequence(c, 0)
	if err != nil {
		return err
	}
	if len(s.Values) == 0 {
		return fmt.Errorf("the sequence is empty")
	}
	first, ok := s.Values[0].(*tensor.Tensor)
	if !ok {
		return fmt.Errorf("the sequence does not hold tensors")
	}
	fresh := c.Node.Int("new_axis", 0) != 0
	rank := first.Rank()
	if fresh {
		rank++
	}
	axis, err := NormAxis(c.Node.Int("axis", 0), rank)
	if err != nil {
		return err
	}
	parts := make([]*tensor.Tensor, len(s.Values))
	total := 0
	for i, v := range s.Values {
		t, ok := v.(*tensor.Tensor)
		if !ok || t.DType() != first.DType() || t.Rank() != first.Rank() {
			return fmt.Errorf("value %d of the sequence does not suit %s", i, first)
		}
		if fresh {
			if t, err = t.Reshape(slices.Insert(slices.Clone(t.Shape()), axis, 1)...); err != nil {
				return err
			}
		}
		for k, d := range t.Shape() {
			if i > 0 && k != axis && d != parts[0].Shape()[k] {
				return fmt.Errorf("value %d of the sequence is %s, which does not join %s", i, t, parts[0])
			}
		}
		parts[i] = t
		total += t.Shape()[axis]
	}
	shape := slices.Clone(parts[0].Shape())
	shape[axis] = total
	out, err := c.New(first.DType(), shape...)
	if err != nil {
		return err
	}
	steps, at := rowMajor(shape), 0
	for _, t := range parts {
		if err := strided(c.Pool, out, t, t.Shape(), steps, at*steps[axis], rowMajor(t.Shape()), 0); err != nil {
			return err
		}
		at += t.Shape()[axis]
	}
	c.SetOut(0, out)
	return nil
}

// splitToSequence cuts a tensor along an axis into pieces of a size, of given sizes, or of one.
func splitToSequence(c *Ctx) error {
	x := c.In(0)
	if x == nil {
		return fmt.Errorf("input 0 is no tensor")
	}
	axis, err := NormAxis(c.Node.Int("axis", 0), x.Rank())
	if err != nil {
		return err
	}
	n := x.Shape()[axis]
	if c.In(1) == nil || c.In(1).Rank() == 0 { // parts of nothing may be many
		if err := c.Mem.TakeEach(8, n); err != nil {
			return err
		}
	}
	var sizes []int
	squeeze := false
	switch split := c.In(1); {
	case split == nil:
		squeeze = c.Node.Int("keepdims", 1) == 0
		for range n {
			sizes = append(sizes, 1)
		}
	default:
		v, err := split.Int64s()
		if err != nil {
			return err
		}
		if split.Rank() == 0 {
			if v[0] <= 0 {
				return fmt.Errorf("split %d must be positive", v[0])
			}
			for at := 0; at < n; at += int(v[0]) {
				sizes = append(sizes, min(int(v[0]), n-at))
			}
			break
		}
		sum := 0
		for _, d := range v {
			if d < 0 || d > int64(n) {
				return fmt.Errorf("split %v does not suit an axis of %d", v, n)
			}
			sizes = append(sizes, int(d))
			sum += int(d)
		}
		if sum != n {
			return fmt.Errorf("split %v does not add up to %d", v, n)
		}
	}
	s := &tensor.Sequence{Elem: x.DType()}
	steps, at := rowMajor(x.Shape()), 0
	for _, size := range sizes {
		if squeeze {
			t, err := slab(c, x, axis, at)
			if err != nil {
				return err
			}
			s.Values = append(s.Values, t)
			at++
			continue
		}
		shape := slices.Clone(x.Shape())
		shape[axis] = size
		t, err := c.New(x.DType(), shape...)
		if err != nil {
			return err
		}
		if err := strided(c.Pool, t, x, shape, rowMajor(shape), 0, steps, at*steps[axis]); err != nil {
			return err
		}
		at += size
		s.Values = append(s.Values, t)
	}
	c.SetOut(0, s)
	return nil
}

// The gradients in standard operators, where each element is there: zeros stand for what has no gradient.

// sequence is what f gives at each position below count, of that element type.
func (g *Grad) sequence(count *onnx.Value, d tensor.DType, f func(w *Grad, at *onnx.Value) *onnx.Value) *onnx.Value {
	return g.appended(g.With("SequenceEmpty", []*onnx.Attribute{IntAttr("dtype", int64(d))}), count, f)
}

// appended is a sequence with what f gives at each position below count after it.
func (g *Grad) appended(to, count *onnx.Value, f func(w *Grad, at *onnx.Value) *onnx.Value) *onnx.Value {
	w := g.inner("elements")
	at := w.input("at", Tensor(tensor.Int64))
	w.input("condition", Tensor(tensor.Bool))
	info := SequenceOf(Unranked(g.DType(to)))
	next := w.Op("SequenceInsert", w.input("before", info), f(w, at))
	w.Graph.Outputs = []*onnx.Value{w.Op("Identity", w.Const(tensor.Scalar(true))), next}
	g.fail(w.err)
	out := g.Node("Loop", 1, []*onnx.Value{count, nil, to}, &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: w.Graph})[0]
	g.Infos[out] = info
	return out
}

// zerosOf is a sequence of zeros like s.
func (g *Grad) zerosOf(s *onnx.Value) *onnx.Value {
	return g.sequence(g.Op("SequenceLength", s), g.DType(s), func(w *Grad, at *onnx.Value) *onnx.Value {
		return w.Fill(s, w.Shape(w.Op("SequenceAt", s, at)), 0)
	})
}

// fromStart is a position of s counted from the start; nil is the last one.
func (g *Grad) fromStart(at, s *onnx.Value) *onnx.Value {
	length := g.Op("SequenceLength", s)
	if at == nil {
		return g.Op("Sub", length, g.Const(tensor.Scalar(int64(1))))
	}
	at = g.Cast(at, tensor.Int64)
	return g.Op("Where", g.Op("Less", at, g.Const(tensor.Scalar(int64(0)))), g.Op("Add", at, length), at)
}

func portableSequenceZeros(g *Grad, n *Node) ([]*onnx.Value, error) {
	switch v := n.Inputs[0]; g.Info(v).Kind {
	case onnx.SequenceType:
		return []*onnx.Value{g.zerosOf(v)}, nil
	case onnx.OptionalType: // of what it holds
		return g.Internal("SequenceZeros", 1, []*onnx.Value{g.Op("OptionalGetElement", v)}), nil
	case onnx.TensorType:
		return []*onnx.Value{g.Zeros(v)}, nil
	default:
		return nil, fmt.Errorf("%q is neither a tensor nor a sequence", v.Name)
	}
}

func portableSequenceAdd(g *Grad, n *Node) ([]*onnx.Value, error) {
	a, b := n.Inputs[0], n.Inputs[1]
	if g.Info(a).Kind == onnx.TensorType { // of an optional
		return []*onnx.Value{g.Add(a, b)}, nil
	}
	return []*onnx.Value{g.sequence(g.Op("SequenceLength", a), g.DType(a), func(w *Grad, at *onnx.Value) *onnx.Value {
		return w.Op("Add", w.Op("SequenceAt", a, at), w.Op("SequenceAt", b, at))
	})}, nil
}

func portableSequenceElementGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	return []*onnx.Value{g.Op("SequenceAt", n.Inputs[0], n.Inputs[1])}, nil
}

func portableSequenceAtGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	at := g.fromStart(n.Inputs[2], n.Inputs[1])
	return []*onnx.Value{g.Op("SequenceInsert", g.Op("SequenceErase", g.zerosOf(n.Inputs[1]), at), n.Inputs[0], at)}, nil
}

func portableSequenceEraseGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	s := n.Inputs[1]
	at := g.fromStart(n.Input(2), s)
	return []*onnx.Value{g.Op("SequenceInsert", n.Inputs[0], g.Fill(s, g.Shape(g.Op("SequenceAt", s, at)), 0), at)}, nil
}

func portableConcatFromSequenceGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, s, axis := n.Inputs[0], n.Inputs[1], IntAttr("axis", n.Int("axis", 0))
	if n.Int("new_axis", 0) != 0 {
		return g.Node("SplitToSequence", 1, []*onnx.Value{dy}, axis, IntAttr("keepdims", 0)), nil
	}
	// As much of the axis as each element has.
	w := g.inner("sizes")
	at := w.input("at", Tensor(tensor.Int64))
	w.input("condition", Tensor(tensor.Bool))
	size := w.Op("Gather", w.Shape(w.Op("SequenceAt", s, at)), w.Const(tensor.Scalar(axis.I)))
	w.Graph.Outputs = []*onnx.Value{w.Op("Identity", w.Const(tensor.Scalar(true))), size}
	g.fail(w.err)
	sizes := g.Node("Loop", 1, []*onnx.Value{g.Op("SequenceLength", s), nil}, &onnx.Attribute{Name: "body", Type: onnx.AttrGraph, G: w.Graph})[0]
	g.Infos[sizes] = Tensor(tensor.Int64, Unknown)
	return g.Node("SplitToSequence", 1, []*onnx.Value{dy, sizes}, axis), nil
}

func portableSplitToSequenceGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	d := g.Node("ConcatFromSequence", 1, n.Inputs[:1], IntAttr("axis", n.Int("axis", 0)), IntAttr("new_axis", n.Int("new_axis", 0)))[0]
	return []*onnx.Value{g.ReshapeLike(d, n.Inputs[2])}, nil
}
