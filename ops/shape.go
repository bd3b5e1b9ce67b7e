package ops

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	register(
		Op{Name: "Shape", Since: []int{1, 13, 15, 19, 21, 23, 24, 25}, MinIn: 1, Infer: inferShape, Compile: compileShape,
			NoGrad: "a shape is made of integers"},
		Op{Name: "Size", Since: []int{1, 13, 19, 21, 23, 24, 25}, MinIn: 1, Infer: inferSize, Compile: compileSize,
			NoGrad: "a size is an integer"},
		Op{Name: "Reshape", Since: []int{1, 5, 13, 14, 19, 21, 23, 24, 25}, MinIn: 1, MaxIn: 2, Types: []TypeSet{0, Of(tensor.Int64)}, View: true, Infer: inferReshape, Compile: compileReshape, Grad: gradReshape},
		Op{Name: "Flatten", Since: []int{1, 9, 11, 13, 21, 23, 24, 25}, MinIn: 1, View: true, Infer: inferFlatten, Grad: gradReshape},
		Op{Name: "Squeeze", Since: []int{1, 11, 13, 21, 23, 24, 25}, MinIn: 1, MaxIn: 2, View: true, Infer: inferSqueeze, Grad: gradReshape},
		Op{Name: "Unsqueeze", Since: []int{1, 11, 13, 21, 23, 24, 25}, MinIn: 1, MaxIn: 2, View: true, Infer: inferUnsqueeze, Grad: gradReshape},
		Op{Name: "Expand", Since: []int{8, 13}, MinIn: 2, Infer: inferExpand, Moves: []int{0}, Compile: compileExpand,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.SumTo(dy[0], n.Inputs[0]), nil}, nil
			}},
		Op{Name: "Constant", Since: []int{1, 9, 11, 12, 13, 19, 21, 23, 24, 25}, Infer: inferConstant, Compile: compileConstant,
			NoGrad: "a constant has no inputs"},
		Op{Name: "ConstantOfShape", Since: []int{9, 20, 21, 23, 24, 25}, MinIn: 1, Infer: inferConstantOfShape, Compile: compileConstantOfShape,
			NoGrad: "the output does not hang on the input's values", Flat: true},
		Op{Name: "Range", Since: []int{11, 27}, MinIn: 3, Types: []TypeSet{Floats | Of(tensor.Int16) | Index}, Infer: inferRange, Compile: compileRange,
			// start + i·delta; the limit moves the length alone.
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				out := []*onnx.Value{g.ReshapeLike(g.ReduceSum(dy[0], false, 0), n.Inputs[0]), nil, nil}
				if g.Moves(n.Inputs[2]) {
					at := g.Op("CastLike", g.Positions(dy[0], 0), dy[0])
					out[2] = g.ReshapeLike(g.ReduceSum(g.Mul(dy[0], at), false, 0), n.Inputs[2])
				}
				return out, nil
			}},
		Op{Name: "EyeLike", Since: []int{9, 22}, MinIn: 1, Infer: inferEyeLike, Compile: compileEyeLike,
			NoGrad: "the output does not hang on the input's values", Flat: true},
	)
}

// toInts and toInt64s convert between the two spellings of shapes.
func toInts(v []int64) []int {
	out := make([]int, len(v))
	for i, d := range v {
		out[i] = int(d)
	}
	return out
}

// unknownDims is a shape of which only the rank is known.
func unknownDims(rank int) []Dim {
	ds := make([]Dim, rank)
	for i := range ds {
		ds[i] = Unknown
	}
	return ds
}

// maxRank bounds the ranks that inference follows: a file may declare a list of any length.
const maxRank = 1 << 10

// listLen is the length of the list that input i holds, -1 if it is not known, or more than [maxRank].
func listLen(n *Node, i int) int {
	if s := n.Info(i).Shape; len(s) == 1 && s[0].Known() && s[0].N <= maxRank {
		return s[0].N
	}
	return -1
}

// constInts is the value of input i, known false if it is not known yet.
func constInts(n *Node, i int) (v []int64, known bool, err error) {
	c := n.Info(i).Const
	if c == nil {
		return nil, false, nil
	}
	v, err = c.Int64s()
	return v, true, err
}

// runInts is [Node.IntsInput] at run time; ok is false if neither form is there.
func runInts(c *Ctx, name string, i, before int) (v []int64, ok bool, err error) {
	if c.Node.Since < before {
		a := c.Node.Attr(name)
		if a == nil {
			return nil, false, nil
		}
		return a.Ints, true, nil
	}
	t := c.In(i)
	if t == nil {
		return nil, false, nil
	}
	v, err = t.Int64s()
	return v, true, err
}

// dimsProduct is the product of dimensions, as far as it is known.
func dimsProduct(ds []Dim) Dim {
	p := D(1)
	for _, d := range ds {
		if d.N == 0 {
			return D(0)
		}
		p = p.Mul(d)
	}
	return p
}

// rowMajor is the strides of a contiguous tensor of that shape.
func rowMajor(shape []int) []int {
	s := make([]int, len(shape))
	p := 1
	for i := len(shape) - 1; i >= 0; i-- {
		s[i] = p
		p *= shape[i]
	}
	return s
}

func product(shape []int) int {
	p := 1
	for _, d := range shape {
		p *= d
	}
	return p
}

func clearTensor(t *tensor.Tensor) {
	if t.DType() == tensor.String {
		clear(tensor.View[string](t))
		return
	}
	clear(t.Bytes())
}

func tensorIn(c *Ctx, i int) (*tensor.Tensor, error) {
	t := c.In(i)
	if t == nil {
		return nil, fmt.Errorf("input %d is not a tensor", i)
	}
	return t, nil
}

// scalarInt is the integer that input i holds as a tensor of one element.
func scalarInt(t *tensor.Tensor, what string) (int64, error) {
	if t == nil || t.Len() != 1 {
		return 0, fmt.Errorf("%s is not a single number", what)
	}
	if t.DType() == tensor.Int64 {
		return tensor.View[int64](t)[0], nil
	}
	return int64(tensor.Float64At(t, 0)), nil
}

func shapeRange(n *Node, rank int) (lo, hi int) {
	at := func(name string, def int) int {
		v := n.Int(name, int64(def))
		if v < 0 {
			v += int64(rank)
		}
		return int(min(max(v, 0), int64(rank)))
	}
	lo, hi = at("start", 0), at("end", rank)
	return lo, max(lo, hi)
}

func inferShape(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked || in.Kind != onnx.TensorType {
		return []Info{Tensor(tensor.Int64, Unknown)}, nil
	}
	lo, hi := shapeRange(n, len(in.Shape))
	out := Tensor(tensor.Int64, D(hi-lo))
	out.setElements(in.Shape[lo:hi])
	if v := in.Shape[lo:hi]; len(v) > maxValues && !slices.ContainsFunc(v, func(d Dim) bool { return !d.Known() }) {
		ints := make([]int64, len(v))
		for i, d := range v {
			ints[i] = int64(d.N)
		}
		out.Const = tensor.New(ints, len(ints))
	}
	return []Info{out}, nil
}

func compileShape(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		lo, hi := shapeRange(c.Node, x.Rank())
		y, err := c.Alloc(0, tensor.Int64, hi-lo)
		if err != nil {
			return err
		}
		for i, d := range x.Shape()[lo:hi] {
			tensor.Data[int64](y)[i] = int64(d)
		}
		return nil
	}, nil
}

func inferSize(n *Node) ([]Info, error) {
	out := Tensor(tensor.Int64)
	out.Shape = []Dim{}
	if in := n.Info(0); in.Ranked && in.Kind == onnx.TensorType {
		out.setElements([]Dim{dimsProduct(in.Shape)})
	}
	return []Info{out}, nil
}

func compileSize(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, tensor.Int64)
		if err != nil {
			return err
		}
		tensor.Data[int64](y)[0] = int64(x.Len())
		return nil
	}, nil
}

func gradReshape(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.ReshapeLike(dy[0], n.Inputs[0])
	return out, nil
}

// compileReshape gives a kernel that moves nothing: inference takes one size that it is not told from the sizes that it knows, and here the
// shape asked for is held against that.
func compileReshape(n *Node) (Kernel, error) {
	if n.Info(1).Const != nil || n.Since < 5 {
		return nil, nil
	}
	allowZero := n.Int("allowzero", 0) != 0
	return func(c *Ctx) error {
		want := tensor.Data[int64](c.In(1))
		for i, d := range c.Out(0).Shape() {
			if w := want[i]; w != int64(d) && w != -1 && (w != 0 || allowZero) {
				return fmt.Errorf("shape %v does not hold the elements of %v", want, c.In(0).Shape())
			}
		}
		return nil
	}, nil
}

func inferReshape(n *Node) ([]Info, error) {
	in := n.Info(0)
	var want []Dim
	known := true
	if n.Since < 5 {
		want = numbers(n.Ints("shape", nil))
		known = n.Attr("shape") != nil
	} else if known = n.Has(1); known {
		v, ok, err := n.list(1)
		if err != nil {
			return nil, err
		}
		if !ok || len(v) == 0 && n.Info(1).Const == nil { // a scalar's shape would pass for known, and the list go unread
			return []Info{Unranked(in.DType)}, nil
		}
		want = v
	}
	if !known {
		return nil, errors.New("no shape is given")
	}
	allowZero := n.Int("allowzero", 0) != 0
	out := make([]Dim, len(want))
	infer, unknown, zeros := -1, 0, false // the place of -1
	copied := make([]bool, len(in.Shape))
	for i, d := range want {
		w, ok := d.Int()
		switch {
		case !ok:
			if out[i] = d; alike(d, Unknown) {
				unknown++
			}
		case w == -1:
			if infer >= 0 {
				return nil, fmt.Errorf("shape %v has two dimensions of -1", want)
			}
			infer = i
			out[i] = Unknown
		case w < -1:
			return nil, fmt.Errorf("shape %v has the negative dimension %d", want, w)
		case w == 0 && !allowZero:
			if !in.Ranked {
				out[i] = Unknown
				break
			}
			if i >= len(in.Shape) {
				return nil, fmt.Errorf("dimension %d of shape %v copies one that an input of rank %d does not have", i, want, len(in.Shape))
			}
			out[i] = in.Shape[i]
			copied[i] = true
		default:
			zeros = zeros || w == 0
			out[i] = d
		}
	}
	if allowZero && infer >= 0 && zeros {
		return nil, fmt.Errorf("shape %v has both -1 and 0 under allowzero", want)
	}
	if !in.Ranked {
		return []Info{Tensor(in.DType, out...)}, nil
	}
	if infer < 0 && unknown == 1 { // what no one knows is what the others leave, be it said or not
		infer = slices.IndexFunc(want, func(d Dim) bool { return alike(d, Unknown) })
		unknown = 0
	} else if infer >= 0 && unknown > 0 {
		return []Info{Tensor(in.DType, out...)}, nil
	}
	var have, rest []Dim // what is left of either side without the copied dimensions
	allKnown, zero := true, false
	for i, d := range in.Shape {
		if !copied[i] {
			have = append(have, d)
			continue
		}
		allKnown = allKnown && d.Known()
		zero = zero || d.N == 0 // a copied dimension of 0 leaves nothing to divide
	}
	for i, d := range want {
		if w, ok := d.Int(); i != infer && (!ok || w != 0 || allowZero) {
			rest = append(rest, out[i])
		}
	}
	h, r := dimsProduct(have), dimsProduct(rest)
	said := infer >= 0 && want[infer].Same(number(-1))
	switch {
	case infer >= 0 && h.Known() && r.Known() && said:
		if r.N == 0 {
			if h.N != 0 {
				return nil, fmt.Errorf("shape %v does not hold the elements of %v", want, in.Shape)
			}
			out[infer] = D(0)
			break
		}
		if h.N%r.N != 0 && !zero {
			return nil, fmt.Errorf("shape %v does not divide the elements of %v", want, in.Shape)
		}
		out[infer] = D(h.N / r.N)
	case infer >= 0 && !zero && !(h.Known() && r.Known() && (r.N == 0 || h.N%r.N != 0)):
		out[infer] = h.FloorDiv(r)
	case infer < 0 && h.Known() && r.Known() && h.N != r.N && !zero && allKnown:
		return nil, fmt.Errorf("shape %v does not hold the elements of %v", want, in.Shape)
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

func inferFlatten(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Tensor(in.DType, Unknown, Unknown)}, nil
	}
	r := int64(len(in.Shape))
	axis := n.Int("axis", 1)
	if axis < -r || axis > r {
		return nil, fmt.Errorf("axis %d is outside a tensor of rank %d", axis, r)
	}
	if axis < 0 {
		axis += r
	}
	return []Info{Tensor(in.DType, dimsProduct(in.Shape[:axis]), dimsProduct(in.Shape[axis:]))}, nil
}

func inferSqueeze(n *Node) ([]Info, error) {
	in := n.Info(0)
	axes, ok, known, err := n.IntsInput("axes", 1, 13)
	if err != nil {
		return nil, err
	}
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	if !known {
		if l := listLen(n, 1); l >= 0 && l < len(in.Shape) {
			return []Info{Tensor(in.DType, unknownDims(len(in.Shape)-l)...)}, nil
		}
		return []Info{Unranked(in.DType)}, nil
	}
	out := []Dim{}
	if !ok {
		for _, d := range in.Shape {
			if l, ok := d.Least(); !d.Known() && !(ok && l > 1) {
				return []Info{Unranked(in.DType)}, nil
			}
			if d.N != 1 {
				out = append(out, d)
			}
		}
		return []Info{Tensor(in.DType, out...)}, nil
	}
	drop, err := NormAxes(axes, len(in.Shape))
	if err != nil {
		return nil, err
	}
	for i, d := range in.Shape {
		if !slices.Contains(drop, i) {
			out = append(out, d)
		} else if d.Known() && d.N != 1 {
			return nil, fmt.Errorf("dimension %d of %v is not 1 and cannot be squeezed", i, in.Shape)
		}
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

func inferUnsqueeze(n *Node) ([]Info, error) {
	in := n.Info(0)
	axes, ok, known, err := n.IntsInput("axes", 1, 13)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("no axes are given")
	}
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	if !known {
		if l := listLen(n, 1); l >= 0 && len(in.Shape)+l > 0 {
			return []Info{Tensor(in.DType, unknownDims(len(in.Shape)+l)...)}, nil
		}
		return []Info{Unranked(in.DType)}, nil
	}
	r := len(in.Shape) + len(axes)
	at, err := NormAxes(axes, r)
	if err != nil {
		return nil, err
	}
	out := make([]Dim, 0, r)
	k := 0
	for i := range r {
		if slices.Contains(at, i) {
			out = append(out, D(1))
		} else {
			out = append(out, in.Shape[k])
			k++
		}
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

// dimsOf is a list of dimensions from a shape-like value.
func dimsOf(v []Dim) ([]Dim, error) {
	for i, d := range v {
		if n, ok := d.Int(); ok && n < 0 {
			return nil, fmt.Errorf("dimension %d of shape %v is negative", i, v)
		}
	}
	return v, nil
}

// shaped is the Info of a tensor whose shape is the list in input i.
func (n *Node) shaped(d tensor.DType, i int) (Info, error) {
	v, ok, err := n.list(i)
	if err != nil || !ok {
		return Unranked(d), err
	}
	v, err = dimsOf(v)
	return Tensor(d, v...), err
}

func inferExpand(n *Node) ([]Info, error) {
	in := n.Info(0)
	want, err := n.shaped(in.DType, 1)
	if err != nil || !want.Ranked || !in.Ranked {
		return []Info{Unranked(in.DType)}, err
	}
	want.Shape, err = BroadcastDims(in.Shape, want.Shape)
	return []Info{want}, err
}

func compileExpand(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		a, err := Keep(c, func() (*arrangement, error) { return planExpand(c, x.Shape()) }, 1)
		if err != nil {
			return err
		}
		return a.into(c, x)
	}, nil
}

func planExpand(c *Ctx, from []int) (*arrangement, error) {
	v, _, err := runInts(c, "", 1, 0)
	if err != nil {
		return nil, err
	}
	want, err := dimsOf(numbers(v))
	if err != nil {
		return nil, err
	}
	dims, err := BroadcastDims(Dims(from), want)
	if err != nil {
		return nil, err
	}
	shape := make([]int, len(dims))
	for i, d := range dims {
		shape[i] = d.N
	}
	return arrange(shape, strides(from, len(shape)), 0), nil
}

// constantOf is the value of a Constant node.
func constantOf(n *Node) (*tensor.Tensor, error) {
	for _, a := range n.Attrs {
		switch a.Name {
		case "value":
			if a.T == nil {
				return nil, errors.New("attribute value holds no tensor")
			}
			return a.T, nil
		case "value_float":
			return tensor.Scalar(a.F), nil
		case "value_floats":
			return tensor.New(slices.Clone(a.Floats), len(a.Floats)), nil
		case "value_int":
			return tensor.Scalar(a.I), nil
		case "value_ints":
			return tensor.New(slices.Clone(a.Ints), len(a.Ints)), nil
		case "value_string":
			return tensor.Scalar(string(a.S)), nil
		case "value_strings":
			s := make([]string, len(a.Strings))
			for i, b := range a.Strings {
				s[i] = string(b)
			}
			return tensor.New(s, len(s)), nil
		case "sparse_value":
			return nil, errors.New("sparse constants are not supported")
		}
	}
	return nil, errors.New("a constant without a value")
}

func inferConstant(n *Node) ([]Info, error) {
	t, err := constantOf(n)
	if err != nil {
		return nil, err
	}
	return []Info{InfoOf(t, true)}, nil
}

func compileConstant(n *Node) (Kernel, error) {
	t, err := constantOf(n)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		c.SetOut(0, t)
		return nil
	}, nil
}

func fillValue(n *Node) (*tensor.Tensor, error) {
	a := n.Attr("value")
	if a == nil || a.T == nil {
		return tensor.Scalar(float32(0)), nil
	}
	if a.T.Len() != 1 {
		return nil, fmt.Errorf("attribute value holds %d elements, not 1", a.T.Len())
	}
	return a.T, nil
}

func inferConstantOfShape(n *Node) ([]Info, error) {
	t, err := fillValue(n)
	if err != nil {
		return nil, err
	}
	out, err := n.shaped(t.DType(), 0)
	return []Info{out}, err
}

func compileConstantOfShape(n *Node) (Kernel, error) {
	t, err := fillValue(n)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		v, _, err := runInts(c, "", 0, 0)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, t.DType(), toInts(v)...)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, t, y.Shape(), rowMajor(y.Shape()), 0, make([]int, y.Rank()), 0)
	}, nil
}

// rangeLen is how many elements a Range has.
func rangeLen(start, limit, delta *tensor.Tensor) (int, error) {
	for i, t := range []*tensor.Tensor{start, limit, delta} {
		if t == nil || t.Len() != 1 || t.DType() == tensor.String {
			return 0, fmt.Errorf("input %d is not a single number", i)
		}
		if t.DType() != start.DType() {
			return 0, fmt.Errorf("inputs of element types %s and %s", start.DType(), t.DType())
		}
	}
	if start.DType() == tensor.Int64 {
		s, l, d := tensor.View[int64](start)[0], tensor.View[int64](limit)[0], tensor.View[int64](delta)[0]
		var span, step uint64
		switch {
		case d == 0:
			return 0, errors.New("the step is 0")
		case d > 0 && l > s:
			span, step = uint64(l)-uint64(s), uint64(d)
		case d < 0 && l < s:
			span, step = uint64(s)-uint64(l), -uint64(d)
		default:
			return 0, nil
		}
		n := (span-1)/step + 1
		if n > math.MaxInt64/16 {
			return 0, fmt.Errorf("%d elements are too many", n)
		}
		return int(n), nil
	}
	s, l, d := tensor.Float64At(start, 0), tensor.Float64At(limit, 0), tensor.Float64At(delta, 0)
	if d == 0 {
		return 0, errors.New("the step is 0")
	}
	n := math.Ceil((l - s) / d)
	if n <= 0 {
		return 0, nil
	}
	if !(n < 1<<50) {
		return 0, fmt.Errorf("from %v to %v by %v are too many elements", s, l, d)
	}
	return int(n), nil
}

func inferRange(n *Node) ([]Info, error) {
	d := n.Info(0).DType
	if n.Info(0).Const == nil || n.Info(1).Const == nil || n.Info(2).Const == nil {
		start, limit, delta := n.number1(0), n.number1(1), n.number1(2)
		out := Tensor(d, Unknown)
		switch step, ok := delta.Int(); {
		case ok && step > 0:
			out.Shape[0] = limit.Sub(start).CeilDiv(delta).Max(D(0))
		case ok && step < 0 && step > math.MinInt64:
			out.Shape[0] = start.Sub(limit).CeilDiv(number(-step)).Max(D(0))
		}
		if l := out.Shape[0]; l.Known() && l.N <= maxValues {
			v := make([]Dim, l.N)
			for i := range v {
				v[i] = start.Add(delta.Mul(D(i)))
			}
			out.setElements(v)
		}
		return []Info{out}, nil
	}
	l, err := rangeLen(n.Info(0).Const, n.Info(1).Const, n.Info(2).Const)
	if err != nil {
		return nil, err
	}
	return []Info{Tensor(d, D(l))}, nil
}

func compileRange(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		l, err := rangeLen(c.In(0), c.In(1), c.In(2))
		if err != nil {
			return err
		}
		start, delta := c.In(0), c.In(2)
		y, err := c.Alloc(0, start.DType(), l)
		if err != nil {
			return err
		}
		if y.DType() == tensor.Int64 {
			s, d := tensor.View[int64](start)[0], tensor.View[int64](delta)[0]
			for i := range tensor.View[int64](y) {
				tensor.View[int64](y)[i] = s + int64(i)*d
			}
			return nil
		}
		s, d := tensor.Float64At(start, 0), tensor.Float64At(delta, 0)
		for i := range l {
			tensor.SetFloat64At(y, i, s+float64(i)*d)
		}
		return nil
	}, nil
}

func inferEyeLike(n *Node) ([]Info, error) {
	in := n.Info(0)
	d := in.DType
	if a := n.Attr("dtype"); a != nil {
		d = tensor.DType(a.I)
		if !d.Valid() || d == tensor.String {
			return nil, fmt.Errorf("dtype %d is no element type of a matrix", a.I)
		}
	}
	if !in.Ranked {
		return []Info{Tensor(d, Unknown, Unknown)}, nil
	}
	if len(in.Shape) != 2 {
		return nil, fmt.Errorf("the input has rank %d, not 2", len(in.Shape))
	}
	return []Info{Tensor(d, in.Shape...)}, nil
}

func compileEyeLike(n *Node) (Kernel, error) {
	k := n.Int("k", 0)
	to := tensor.DType(n.Int("dtype", 0))
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		d := to
		if d == tensor.Undefined {
			d = x.DType()
		}
		if x.Rank() != 2 {
			return fmt.Errorf("the input has rank %d, not 2", x.Rank())
		}
		y, err := c.Alloc(0, d, x.Shape()...)
		if err != nil {
			return err
		}
		clearTensor(y)
		rows, cols := int64(x.Shape()[0]), int64(x.Shape()[1])
		for i := max(0, -k); i < rows && i+k < cols; i++ {
			tensor.SetFloat64At(y, int(i*cols+i+k), 1)
		}
		return nil
	}, nil
}
