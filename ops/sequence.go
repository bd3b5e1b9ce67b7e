package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Sequences and optionals. Their values are never changed in place, so they may be shared.
func init() {
	seq := func(n *Node) ([]Info, error) {
		return []Info{{Kind: onnx.SequenceType, DType: n.Info(0).DType}}, nil
	}
	loose := func(d tensor.DType) func(*Node) ([]Info, error) {
		return func(n *Node) ([]Info, error) { return []Info{Tensor(d)}, nil }
	}
	unknown := func(n *Node) ([]Info, error) { return []Info{{DType: n.In[0].DType}}, nil }
	run := func(k Kernel) func(*Node) (Kernel, error) { return func(*Node) (Kernel, error) { return k, nil } }
	const why = "gradients do not pass through sequences"
	register(
		Op{Name: "SequenceEmpty", Since: []int{11}, MinIn: 0, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				return []Info{{Kind: onnx.SequenceType, DType: tensor.DType(n.Int("dtype", 1))}}, nil
			},
			Compile: run(func(c *Ctx) error {
				c.SetOut(0, &tensor.Sequence{Elem: tensor.DType(c.Node.Int("dtype", 1))})
				return nil
			})},
		Op{Name: "SequenceConstruct", Since: []int{11}, MinIn: 1, MaxIn: -1, Infer: seq, NoGrad: why, Compile: run(func(c *Ctx) error {
			c.SetOut(0, &tensor.Sequence{Elem: c.Node.In[0].DType, Values: slices.Clone(c.Ins)})
			return nil
		})},
		Op{Name: "SequenceInsert", Since: []int{11}, MinIn: 2, MaxIn: 3, Infer: seq, NoGrad: why, Compile: run(func(c *Ctx) error {
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
		})},
		Op{Name: "SequenceErase", Since: []int{11}, MinIn: 1, MaxIn: 2, Infer: seq, NoGrad: why, Compile: run(func(c *Ctx) error {
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
		})},
		Op{Name: "SequenceAt", Since: []int{11}, MinIn: 2, NoGrad: why, Infer: unknown, Compile: run(func(c *Ctx) error {
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
		})},
		Op{Name: "SequenceLength", Since: []int{11}, MinIn: 1, NoGrad: why, Infer: loose(tensor.Int64), Compile: run(func(c *Ctx) error {
			s, err := sequence(c, 0)
			if err != nil {
				return err
			}
			c.SetOut(0, tensor.Scalar(int64(len(s.Values))))
			return nil
		})},
		Op{Name: "ConcatFromSequence", Since: []int{11}, MinIn: 1, NoGrad: why, Infer: unknown, Compile: run(concatFromSequence)},
		Op{Name: "SplitToSequence", Since: []int{11, 24}, MinIn: 1, MaxIn: 2, NoGrad: why, Infer: seq, Compile: run(splitToSequence)},
		Op{Name: "Optional", Since: []int{15}, MinIn: 0, MaxIn: 1, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) { return []Info{{Kind: onnx.OptionalType}}, nil },
			Compile: run(func(c *Ctx) error {
				c.SetOut(0, &tensor.Optional{Value: c.Value(0)})
				return nil
			})},
		Op{Name: "OptionalHasElement", Since: []int{15, 18}, MinIn: 0, MaxIn: 1, NoGrad: why, Infer: loose(tensor.Bool), Compile: run(func(c *Ctx) error {
			v := c.Value(0)
			if o, ok := v.(*tensor.Optional); ok {
				v = o.Value
			}
			c.SetOut(0, tensor.Scalar(v != nil))
			return nil
		})},
		Op{Name: "OptionalGetElement", Since: []int{15, 18}, MinIn: 1, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) { return []Info{{}}, nil },
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
			})},
	)
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
	if !ok || first.DType() == tensor.String {
		return fmt.Errorf("the sequence does not hold numeric tensors")
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
	if x == nil || x.DType() == tensor.String {
		return fmt.Errorf("input 0 is no numeric tensor")
	}
	axis, err := NormAxis(c.Node.Int("axis", 0), x.Rank())
	if err != nil {
		return err
	}
	n := x.Shape()[axis]
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
