package ops

import (
	"context"
	"slices"

	"github.com/retune-go/retune/tensor"
)

// maxValues bounds the elements that [Info.Values] tells of: it is there for shapes.
const maxValues = 64

// elements is what is known of the elements of a tensor of few integers or bools, nil if it is none, or has many, or nobody knows how many.
func (i Info) elements() []Dim {
	switch {
	case i.Values != nil:
		return i.Values
	case i.DType != tensor.Int64 && i.DType != tensor.Int32 && i.DType != tensor.Bool:
		return nil
	case i.Const != nil && i.Const.Len() <= maxValues:
		v := make([]Dim, i.Const.Len())
		if i.DType == tensor.Bool {
			for k, yes := range tensor.View[bool](i.Const) {
				v[k] = truth(yes)
			}
			return v
		}
		ints, err := i.Const.Int64s()
		if err != nil {
			return nil
		}
		for k, n := range ints {
			v[k] = number(n)
		}
		return v
	case i.Const == nil:
		if shape, ok := i.Static(); ok {
			if n, err := tensor.NumElements(shape); err == nil && n <= maxValues {
				return unknownDims(n)
			}
		}
	}
	return nil
}

// truth is a bool as an element.
func truth(yes bool) Dim {
	if yes {
		return D(1)
	}
	return D(0)
}

// setElements notes the elements of a tensor: as its value, if all of them are numbers.
func (i *Info) setElements(v []Dim) {
	i.Values = nil
	if i.Const != nil || len(v) > maxValues {
		return
	}
	shape, ok := i.Static()
	if n, err := tensor.NumElements(shape); !ok || err != nil || n != len(v) {
		return
	}
	ints, some := make([]int64, len(v)), false
	for k, d := range v {
		n, known := d.Int()
		if ints != nil {
			ints[k] = n
		}
		if !known {
			ints = nil
		}
		some = some || !alike(d, Unknown)
	}
	if ints == nil {
		if some {
			i.Values = v
		}
		return
	}
	var t *tensor.Tensor
	switch i.DType {
	case tensor.Int64:
		t, _ = tensor.FromSlice(ints, shape)
	case tensor.Int32:
		narrow := make([]int32, len(ints))
		for k, n := range ints {
			if n != int64(int32(n)) {
				return
			}
			narrow[k] = int32(n)
		}
		t, _ = tensor.FromSlice(narrow, shape)
	case tensor.Bool:
		bools := make([]bool, len(ints))
		for k, n := range ints {
			bools[k] = n != 0
		}
		t, _ = tensor.FromSlice(bools, shape)
	}
	i.Const = t
}

// list is what is known of the elements of input i, a list of integers: ok is false if not even their number is.
func (n *Node) list(i int) (v []Dim, ok bool, err error) {
	in := n.Info(i)
	if in.Const != nil {
		ints, err := in.Const.Int64s()
		return numbers(ints), true, err
	}
	if in.Values != nil {
		return in.Values, true, nil
	}
	if l := listLen(n, i); l >= 0 {
		return unknownDims(l), true, nil
	}
	return nil, false, nil
}

// number1 is what is known of input i, a single integer.
func (n *Node) number1(i int) Dim {
	if v := n.Info(i).elements(); len(v) == 1 {
		return v[0]
	}
	return Unknown
}

// numbers are integers of either sign as elements.
func numbers(v []int64) []Dim {
	out := make([]Dim, len(v))
	for i, x := range v {
		out[i] = number(x)
	}
	return out
}

// inferValues adds to what is known of n's outputs the elements that follow from those of its inputs, where these are no constants.
func (n *Node) inferValues(out []Info) {
	some := false
	for _, in := range n.In {
		some = some || in.Values != nil
	}
	def := n.Def
	if !some || len(out) == 0 || out[0].Const != nil || out[0].Values != nil {
		return
	}
	switch {
	case def.View:
		if v := n.In[0].elements(); v != nil && out[0].DType == n.In[0].DType {
			out[0].setElements(v)
		}
	case def.Term != nil:
		n.inferTerms(&out[0])
	case def.Moves != nil:
		n.inferMoves(out)
	}
}

// inferTerms applies an elementwise operator's Term.
func (n *Node) inferTerms(out *Info) {
	shape, ok := out.Static()
	size, err := tensor.NumElements(shape)
	if _, old := legacyAxisOf(n); !ok || err != nil || size > maxValues || old ||
		out.DType != tensor.Int64 && out.DType != tensor.Int32 && out.DType != tensor.Bool {
		return
	}
	ins, steps := make([][]Dim, len(n.In)), make([][]int, len(n.In))
	for i, in := range n.In {
		if !n.Has(i) {
			continue
		}
		from, ok := in.Static()
		if ins[i] = in.elements(); ins[i] == nil || !ok || len(from) > len(shape) {
			return
		}
		steps[i] = strides(from, len(shape))
	}
	at, x, v := make([]int, len(shape)), make([]Dim, len(n.In)), make([]Dim, size)
	for k := range v {
		for i := range ins {
			if x[i] = Unknown; ins[i] != nil {
				off := 0
				for a, s := range steps[i] {
					off += at[a] * s
				}
				x[i] = ins[i][off]
			}
		}
		v[k] = n.Def.Term(n, x)
		for a := len(at) - 1; a >= 0; a-- {
			if at[a]++; at[a] < shape[a] {
				break
			}
			at[a] = 0
		}
	}
	out.setElements(v)
}

// inferMoves has the kernel of an operator that moves elements move numbers that stand for them.
func (n *Node) inferMoves(out []Info) {
	r := *n
	r.In = slices.Clone(n.In)
	c := &Ctx{Context: context.Background(), Node: &r, Mem: &Meter{Limit: 1 << 20}, Ins: make([]tensor.Value, len(n.In)), Outs: make([]tensor.Value, len(out))}
	stand := []Dim{D(0)} // 0 is what kernels fill gaps with
	for i, in := range n.In {
		if !n.Has(i) {
			continue
		}
		if !slices.Contains(n.Def.Moves, i) && n.Def.Moves[0] >= 0 {
			if in.Const == nil {
				return
			}
			c.Ins[i] = in.Const
			continue
		}
		shape, ok := in.Static()
		v := in.elements()
		if v == nil || !ok {
			return
		}
		codes := make([]int64, len(v))
		for k := range codes {
			codes[k] = int64(len(stand) + k)
		}
		stand = append(stand, v...)
		t, err := tensor.FromSlice(codes, shape)
		if err != nil {
			return
		}
		c.Ins[i], r.In[i] = t, InfoOf(t, true)
	}
	for k, o := range out {
		if n.Output(k) == nil && k > 0 {
			continue
		}
		shape, ok := o.Static()
		if size, err := tensor.NumElements(shape); !ok || err != nil || size > maxValues {
			return
		}
		t, err := c.New(tensor.Int64, shape...)
		if err != nil {
			return
		}
		c.Outs[k] = t
	}
	if !runKernel(c) {
		return
	}
	for k := range out {
		t := c.Out(k)
		if t == nil || t.DType() != tensor.Int64 {
			continue
		}
		v := make([]Dim, t.Len())
		for j, code := range tensor.View[int64](t) {
			if code < 0 || code >= int64(len(stand)) {
				return
			}
			v[j] = stand[code]
		}
		out[k].setElements(v)
	}
}

// runKernel reports whether the node's kernel runs on c. A failure is left for the run itself to report.
func runKernel(c *Ctx) (ok bool) {
	defer func() { _ = recover() }()
	if c.Node.Def.Compile == nil {
		return false
	}
	k, err := c.Node.Def.Compile(c.Node)
	return err == nil && k(c) == nil
}

// withTerm is an elementwise operator whose elements, where they are integers, are terms of its inputs'.
func withTerm(op Op, term func(n *Node, x []Dim) Dim) Op {
	op.Term = term
	return op
}

// fold1 applies f to the elements one after the other.
func fold1(f func(a, b Dim) Dim) func(*Node, []Dim) Dim {
	return func(_ *Node, x []Dim) Dim {
		y := x[0]
		for _, e := range x[1:] {
			y = f(y, e)
		}
		return y
	}
}

// notLess is whether a ≥ b, Unknown if that hangs on what is not known.
func notLess(a, b Dim) Dim {
	if l, ok := a.Sub(b).Least(); ok && l >= 0 {
		return D(1)
	}
	if l, ok := b.Sub(a).Least(); ok && l > 0 {
		return D(0)
	}
	return Unknown
}

// not is whether a bool is false.
func not(a Dim) Dim {
	if a.Known() {
		return truth(a.N == 0)
	}
	return Unknown
}

// equalTerm is whether two elements are equal.
func equalTerm(_ *Node, x []Dim) Dim {
	if x[0].Same(x[1]) {
		return D(1)
	}
	if notLess(x[0], x[1]).N == 0 || notLess(x[1], x[0]).N == 0 {
		return D(0)
	}
	return Unknown
}
