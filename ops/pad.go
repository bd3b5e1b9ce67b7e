package ops

import (
	"errors"
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	register(
		Op{Name: "Pad", Since: []int{1, 2, 11, 13, 18, 19, 21, 23, 24, 25}, MinIn: 1, MaxIn: 4, Infer: inferPad, Moves: []int{0, 2}, Compile: compilePad, Grad: gradPad},
		Op{Domain: Internal, Name: "PadGrad", Since: []int{1}, MinIn: 3, MaxIn: 4, Infer: inferShapeInput(1), Compile: compilePadGrad,
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				return []*onnx.Value{g.MoveBack(n.Inputs[0], n.Inputs[1], func(numbers *onnx.Value) *onnx.Value {
					return g.With("Pad", n.Attrs, numbers, n.Inputs[2], nil, n.Input(3))
				})}, nil
			}},
		Op{Name: "Tile", Since: []int{1, 6, 13}, MinIn: 2, MaxIn: 3, Infer: inferTile, Moves: []int{0}, Compile: compileTile, Grad: gradTile},
		Op{Domain: Internal, Name: "TileGrad", Since: []int{1}, MinIn: 2, Infer: inferShapeInput(1), Compile: compileTileGrad, Portable: portableTileGrad},
	)
}

// padAmounts is what is added before and after each dimension.
func padAmounts(pads, axes []int64, hasAxes bool, rank int) (begin, end []int, err error) {
	k := rank
	if hasAxes {
		k = len(axes)
	}
	if len(pads) != 2*k {
		return nil, nil, fmt.Errorf("%d pads for %d axes", len(pads), k)
	}
	ax := make([]int, k)
	for i := range ax {
		ax[i] = i
	}
	if hasAxes {
		if ax, err = NormAxes(axes, rank); err != nil {
			return nil, nil, err
		}
	}
	begin, end = make([]int, rank), make([]int, rank)
	for i, a := range ax {
		begin[a], end[a] = int(pads[i]), int(pads[k+i])
		for _, v := range []int{begin[a], end[a]} {
			if v > 1<<56 || v < -1<<56 {
				return nil, nil, fmt.Errorf("pad %d of axis %d is too much", v, a)
			}
		}
	}
	return begin, end, nil
}

func padName(n *Node) string {
	if n.Since == 1 && n.Domain != Internal {
		return "paddings"
	}
	return "pads"
}

func inferPad(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	rank := len(in.Shape)
	pads, ok, known, err := n.IntsInput(padName(n), 1, 11)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("no pads are given")
	}
	axes, axesKnown, err := constInts(n, 3)
	if err != nil {
		return nil, err
	}
	if v := n.Info(1).elements(); !known && v != nil && (!n.Has(3) || axesKnown) {
		ax := make([]int, rank)
		for i := range ax {
			ax[i] = i
		}
		if axesKnown {
			if ax, err = NormAxes(axes, rank); err != nil {
				return nil, err
			}
		}
		if len(v) != 2*len(ax) {
			return nil, fmt.Errorf("%d pads for %d axes", len(v), len(ax))
		}
		out := slices.Clone(in.Shape)
		for i, a := range ax {
			out[a] = out[a].Add(v[i]).Add(v[len(ax)+i])
		}
		return []Info{Tensor(in.DType, out...)}, nil
	}
	if !known || n.Has(3) && !axesKnown {
		out := unknownDims(rank)
		if axesKnown {
			ax, err := NormAxes(axes, rank)
			if err != nil {
				return nil, err
			}
			for i, d := range in.Shape {
				if !slices.Contains(ax, i) {
					out[i] = d
				}
			}
		}
		return []Info{Tensor(in.DType, out...)}, nil
	}
	begin, end, err := padAmounts(pads, axes, n.Has(3), rank)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(in.Shape)
	for i, d := range out {
		switch {
		case d.Known():
			if d.N+begin[i]+end[i] < 0 {
				return nil, fmt.Errorf("pads %d and %d leave less than nothing of dimension %d of %d", begin[i], end[i], i, d.N)
			}
			out[i] = D(d.N + begin[i] + end[i])
		default:
			out[i] = d.Add(number(int64(begin[i]) + int64(end[i])))
		}
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

// padTables is, for each dimension, where in the input each position of the output comes from,
// as an offset.
func padTables(mode string, shape, begin, end []int) ([][]int, error) {
	st := rowMajor(shape)
	tables := make([][]int, len(shape))
	for a, d := range shape {
		lo, hi := max(0, -begin[a]), d-max(0, -end[a])
		m, first := hi-lo, max(begin[a], 0)
		t := make([]int, d+begin[a]+end[a])
		if m <= 0 && len(t) > 0 {
			return nil, fmt.Errorf("mode %s has nothing to pad dimension %d with", mode, a)
		}
		for i := range t {
			j := i - first
			switch mode {
			case "edge":
				j = min(max(j, 0), m-1)
			case "wrap":
				if j %= m; j < 0 {
					j += m
				}
			default:
				if m == 1 {
					j = 0
					break
				}
				period := 2 * (m - 1)
				if j %= period; j < 0 {
					j += period
				}
				if j >= m {
					j = period - j
				}
			}
			t[i] = (lo + j) * st[a]
		}
		tables[a] = t
	}
	return tables, nil
}

// tableOffsets calls f for each row of the tables' product with the row's number and its offset.
func tableOffsets(tables [][]int, f func(row, off int)) {
	k := len(tables) - 1
	idx := make([]int, k)
	total := 1
	for _, t := range tables[:k] {
		total *= len(t)
	}
	for row := range total {
		off := 0
		for a, i := range idx {
			off += tables[a][i]
		}
		f(row, off)
		for a := k - 1; a >= 0; a-- {
			if idx[a]++; idx[a] < len(tables[a]) {
				break
			}
			idx[a] = 0
		}
	}
}

// tableRuns turns tables into runs of single elements, or of whole stretches where the last
// dimension is taken as it is.
func tableRuns(tables [][]int, lastDim int) runs {
	k := len(tables) - 1
	last := tables[k]
	same := len(last) == lastDim
	for i, o := range last {
		same = same && o == i
	}
	r := runs{outer: 1, run: 1}
	if same {
		r.run = lastDim
		last = []int{0}
	}
	tableOffsets(tables, func(_, off int) {
		for _, o := range last {
			r.offs = append(r.offs, off+o)
		}
	})
	return r
}

func padArgs(c *Ctx, rank, padsAt, axesAt, before int) (begin, end []int, err error) {
	pads, ok, err := runInts(c, padName(c.Node), padsAt, before)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, errors.New("no pads are given")
	}
	var axes []int64
	hasAxes := false
	if t := c.In(axesAt); t != nil {
		hasAxes = true
		if axes, err = t.Int64s(); err != nil {
			return nil, nil, err
		}
	}
	return padAmounts(pads, axes, hasAxes, rank)
}

func padMode(n *Node) (string, error) {
	mode := n.Str("mode", "constant")
	switch mode {
	case "constant", "reflect", "edge", "wrap":
		return mode, nil
	}
	return "", fmt.Errorf("mode %q is not known", mode)
}

func compilePad(n *Node) (Kernel, error) {
	mode, err := padMode(n)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		p, err := Keep(c, func() (*padding, error) { return paddingOf(c, x, mode) }, 1, 3)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), p.shape...)
		if err != nil {
			return err
		}
		value := p.value
		switch {
		case y.Len() == 0:
			return nil
		case p.runs != nil:
			return gatherRuns(c.Pool, y, x, *p.runs)
		case c.Node.Since >= 11:
			value = c.In(2)
		}
		if value == nil {
			clearTensor(y)
		} else if value.Len() != 1 {
			return fmt.Errorf("constant_value holds %d elements, not 1", value.Len())
		} else if err := p.fill.run(c.Pool, y, value); err != nil {
			return err
		}
		return p.move.run(c.Pool, y, x)
	}, nil
}

// padding is how a tensor is padded.
type padding struct {
	shape      []int
	runs       *runs     // the output as runs of the input, or nil
	fill, move *movement // else: of the value to all of the output, and then of the input to its place
	value      *tensor.Tensor
}

func paddingOf(c *Ctx, x *tensor.Tensor, mode string) (*padding, error) {
	begin, end, err := padArgs(c, x.Rank(), 1, 3, 11)
	if err != nil {
		return nil, err
	}
	shape := make([]int, x.Rank())
	for i, d := range x.Shape() {
		shape[i] = d + begin[i] + end[i]
		if shape[i] < 0 {
			return nil, fmt.Errorf("pads %d and %d leave less than nothing of dimension %d of %d", begin[i], end[i], i, d)
		}
	}
	p := &padding{shape: shape}
	if slices.Contains(shape, 0) {
		return p, nil
	}
	if mode != "constant" && len(shape) > 0 {
		tables, err := padTables(mode, x.Shape(), begin, end)
		if err != nil {
			return nil, err
		}
		r := tableRuns(tables, x.Shape()[len(shape)-1])
		p.runs = &r
		return p, nil
	}
	if c.Node.Since < 11 {
		if v := c.Node.Float("value", 0); v != 0 {
			if p.value, err = tensor.Convert(tensor.Scalar(v), x.DType(), true); err != nil {
				return nil, err
			}
		}
	}
	ds, ss := rowMajor(shape), rowMajor(x.Shape())
	part, do, so := make([]int, len(shape)), 0, 0
	for i, d := range x.Shape() {
		lo, hi := max(0, -begin[i]), d-max(0, -end[i])
		part[i] = max(0, hi-lo)
		do += max(0, begin[i]) * ds[i]
		so += lo * ss[i]
	}
	p.fill, p.move = planMovement(shape, ds, 0, make([]int, len(shape)), 0), planMovement(part, ds, do, ss, so)
	return p, nil
}

// gradPad: padding by the negative amounts cuts off what was added and puts zeros where it was cut.
func gradPad(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	mode, err := padMode(n)
	if err != nil {
		return nil, err
	}
	var pads, axes *onnx.Value
	if n.Since < 11 {
		pads = g.Int64s(n.Ints(padName(n), nil)...)
	} else {
		pads, axes = n.Input(1), n.Input(3)
	}
	out := make([]*onnx.Value, len(n.Inputs))
	if mode != "constant" {
		out[0] = g.Internal("PadGrad", 1, []*onnx.Value{dy[0], g.Shape(n.Inputs[0]), pads, axes}, StringAttr("mode", mode))[0]
		return out, nil
	}
	out[0] = g.Op("Pad", dy[0], g.Neg(pads), nil, axes)
	if n.Since >= 11 && n.Has(2) { // the fill value gets what did not go to the input
		all := func(v *onnx.Value) *onnx.Value {
			return g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, v)
		}
		out[2] = g.ReshapeLike(g.Sub(all(dy[0]), all(out[0])), n.Inputs[2])
	}
	return out, nil
}

func compilePadGrad(n *Node) (Kernel, error) {
	mode, err := padMode(n)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		dy, dx, err := allocLike(c, 1)
		if err != nil {
			return err
		}
		begin, end, err := padArgs(c, dx.Rank(), 2, 3, 0)
		if err != nil {
			return err
		}
		if dx.Rank() == 0 {
			return copyTensor(dx, dy)
		}
		for i, d := range dx.Shape() {
			if i >= dy.Rank() || dy.Shape()[i] != d+begin[i]+end[i] {
				return fmt.Errorf("the gradient's shape %v does not fit", dy.Shape())
			}
		}
		if dy.Len() == 0 { // along its other axes it may be of any length
			return nil
		}
		tables, err := padTables(mode, dx.Shape(), begin, end)
		if err != nil {
			return err
		}
		return scatterRuns(c.Pool, "add", dx, dy, tableRuns(tables, dx.Shape()[dx.Rank()-1]))
	}, nil
}

// tileRepeats is how often each dimension is repeated; version 1 repeats one axis.
func tileRepeats(n *Node, get func(i int) *tensor.Tensor, rank int) ([]int64, error) {
	t := get(1)
	if n.Since == 1 && n.Domain != Internal && n.Has(2) {
		k, err := scalarInt(t, "tiles")
		if err != nil {
			return nil, err
		}
		a, err := scalarInt(get(2), "axis")
		if err != nil {
			return nil, err
		}
		axis, err := NormAxis(a, rank)
		if err != nil {
			return nil, err
		}
		out := slices.Repeat([]int64{1}, rank)
		out[axis] = k
		return out, tileCheck(out, rank)
	}
	v, err := t.Int64s()
	if err != nil {
		return nil, err
	}
	return v, tileCheck(v, rank)
}

func tileCheck(v []int64, rank int) error {
	if len(v) != rank {
		return fmt.Errorf("%d repeats for a tensor of rank %d", len(v), rank)
	}
	for i, r := range v {
		if r < 0 {
			return fmt.Errorf("dimension %d is repeated %d times", i, r)
		}
	}
	return nil
}

func inferTile(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	if v := n.Info(1).elements(); n.Info(1).Const == nil && !n.Has(2) && len(v) == len(in.Shape) {
		out := slices.Clone(in.Shape)
		for i := range out {
			out[i] = out[i].Mul(v[i])
		}
		return []Info{Tensor(in.DType, out...)}, nil
	}
	if n.Info(1).Const == nil || n.Has(2) && n.Info(2).Const == nil {
		return []Info{Tensor(in.DType, unknownDims(len(in.Shape))...)}, nil
	}
	rep, err := tileRepeats(n, func(i int) *tensor.Tensor { return n.Info(i).Const }, len(in.Shape))
	if err != nil {
		return nil, err
	}
	out := slices.Clone(in.Shape)
	for i, r := range rep {
		if r == 1 {
			continue
		}
		if out[i].Known() {
			if s, err := tensor.NumElements([]int{out[i].N, int(r)}); err == nil {
				out[i] = D(s)
				continue
			}
			return nil, fmt.Errorf("dimension %d of %d is repeated %d times", i, out[i].N, r)
		}
		out[i] = out[i].Mul(number(r))
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

func compileTile(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		if _, err := tensorIn(c, 1); err != nil {
			return err
		}
		rep, err := tileRepeats(c.Node, c.In, x.Rank())
		if err != nil {
			return err
		}
		shape := make([]int, x.Rank())
		var loops, ss []int
		rs := rowMajor(x.Shape())
		for i, d := range x.Shape() {
			if shape[i], err = tensor.NumElements([]int{d, int(rep[i])}); err != nil {
				return err
			}
			loops = append(loops, int(rep[i]), d)
			ss = append(ss, 0, rs[i])
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, x, loops, rowMajor(loops), 0, ss, 0)
	}, nil
}

func gradTile(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.Internal("TileGrad", 1, []*onnx.Value{dy[0], g.Shape(n.Inputs[0])})[0]
	return out, nil
}

func compileTileGrad(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		dy, dx, err := allocLike(c, 1)
		if err != nil {
			return err
		}
		if dy.Len() == 0 || dx.Len() == 0 {
			return nil
		}
		if dx.Rank() == 0 {
			return copyTensor(dx, dy)
		}
		if dx.Rank() != dy.Rank() {
			return fmt.Errorf("the gradient's shape %v does not fit", dy.Shape())
		}
		if dy.Len() == 0 { // along its other axes it may be of any length
			return nil
		}
		st := rowMajor(dx.Shape())
		tables := make([][]int, dx.Rank())
		for a, d := range dx.Shape() {
			tables[a] = make([]int, dy.Shape()[a])
			for i := range tables[a] {
				tables[a][i] = i % d * st[a]
			}
		}
		return scatterRuns(c.Pool, "add", dx, dy, tableRuns(tables, dx.Shape()[dx.Rank()-1]))
	}, nil
}

// portableTileGrad has each axis as two, of the repeats and of the size, and sums over the former.
func portableTileGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, shape := n.Inputs[0], n.Inputs[1]
	rank := g.Rank(dy)
	if rank == 0 {
		return []*onnx.Value{g.Op("Identity", dy)}, nil
	}
	repeats := g.Op("Div", g.Shape(dy), g.Op("Max", shape, g.Int64s(1)))
	column := func(v *onnx.Value) *onnx.Value { return g.Op("Unsqueeze", v, g.Int64s(1)) }
	pairs := g.Flat(g.Node("Concat", 1, []*onnx.Value{column(repeats), column(shape)}, IntAttr("axis", 1))[0])
	var axes []int64
	for a := range int64(rank) {
		axes = append(axes, 2*a)
	}
	return []*onnx.Value{g.Reshape(g.ReduceSum(g.Reshape(dy, pairs), false, axes...), shape)}, nil
}
