package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// GridSample reads an image at the places of a grid, and AffineGrid makes such grids. Each place is a list of
// taps, elements of a plane with weights, that all channels share; the gradients read the same lists.
func init() {
	register(
		Op{Name: "GridSample", Since: []int{16, 20, 22}, MinIn: 2, Types: []TypeSet{0, Floats}, Infer: inferGridSample, Compile: compileGridSample, Grad: gradGridSample},
		// dY, grid, shape of X
		Op{Domain: Internal, Name: "GridSampleGradX", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Index}, Infer: inferShapeInput(2),
			Compile: Table{tensor.Float32: gridGradX[float32], tensor.Float64: gridGradX[float64]}.Always(0), Portable: portableGridGradX},
		// dY, X, grid
		Op{Domain: Internal, Name: "GridSampleGradGrid", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats}, Infer: SameAs(2),
			Compile: Table{tensor.Float32: gridGradGrid[float32], tensor.Float64: gridGradGrid[float64]}.Always(0), Portable: portableGridGradGrid},
		Op{Name: "AffineGrid", Since: []int{20}, MinIn: 2, Types: []TypeSet{Floats, Of(tensor.Int64)}, Infer: inferAffineGrid,
			Compile: Table{tensor.Float32: affineGrid[float32], tensor.Float64: affineGrid[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("AffineGridGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], g.Shape(n.Inputs[0])}, n.Attrs...)[0], nil}, nil
			}},
		// dY, size, shape of theta
		Op{Domain: Internal, Name: "AffineGridGrad", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Index, Index}, Infer: inferShapeInput(2),
			Compile: Table{tensor.Float32: affineGridGrad[float32], tensor.Float64: affineGridGrad[float64]}.Always(0), Portable: portableAffineGridGrad},
	)
}

// maxTaps bounds the elements that one place may hang on: interpolation over many axes takes a power of them.
const maxTaps = 1 << 16

// gridSampler is the attributes of a GridSample over an input of N×C×dims.
type gridSampler struct {
	width   int // taps along each axis: 1 nearest, 2 linear, 4 cubic
	padding string
	align   bool

	n, c      int
	dims, out []int
	strides   []int     // of dims
	slope     []float64 // by axis, the derivative of a place in elements by the coordinate that gives it
	size, pts int       // elements of a plane of X and of Y
	taps      int       // of a place at most
}

func gridModes(n *Node) (width int, padding string, err error) {
	switch mode := n.Str("mode", "linear"); mode {
	case "nearest":
		width = 1
	case "linear", "bilinear": // the names up to opset 16 and from 20 on
		width = 2
	case "cubic", "bicubic":
		width = 4
	default:
		return 0, "", fmt.Errorf("mode %q is not known", mode)
	}
	switch padding = n.Str("padding_mode", "zeros"); padding {
	case "zeros", "border", "reflection":
		return width, padding, nil
	}
	return 0, "", fmt.Errorf("padding_mode %q is not known", padding)
}

func inferGridSample(n *Node) ([]Info, error) {
	x, grid := n.In[0], n.In[1]
	if _, _, err := gridModes(n); err != nil {
		return nil, err
	}
	out := Unranked(x.DType)
	rank := max(x.Rank(), grid.Rank())
	if rank < 0 {
		return []Info{out}, nil
	}
	if rank < 3 || x.Ranked && grid.Ranked && x.Rank() != grid.Rank() {
		return nil, fmt.Errorf("an input of %v does not suit a grid of %v", x.Shape, grid.Shape)
	}
	out = Tensor(x.DType, unknownDims(rank)...)
	if x.Ranked {
		copy(out.Shape, x.Shape[:2])
	}
	if grid.Ranked {
		if alike(out.Shape[0], Unknown) || grid.Shape[0].Known() && !out.Shape[0].Known() {
			out.Shape[0] = grid.Shape[0]
		}
		copy(out.Shape[2:], grid.Shape[1:rank-1])
	}
	return []Info{out}, nil
}

// gridOf reads the attributes and holds the shapes of X and of the grid against each other.
func gridOf(n *Node, xs, gs []int) (*gridSampler, error) {
	s := &gridSampler{align: n.Int("align_corners", 0) != 0}
	var err error
	if s.width, s.padding, err = gridModes(n); err != nil {
		return nil, err
	}
	rank := len(xs) - 2
	if rank < 1 || len(gs) != len(xs) || gs[0] != xs[0] || gs[rank+1] != rank {
		return nil, fmt.Errorf("an input of %v does not suit a grid of %v", xs, gs)
	}
	s.n, s.c, s.dims, s.out = xs[0], xs[1], xs[2:], gs[1:rank+1]
	s.strides, s.size, s.pts = rowMajor(s.dims), product(s.dims), product(s.out)
	for _, d := range s.dims { // those of fromNormal
		if s.align {
			d--
		}
		s.slope = append(s.slope, float64(d)/2)
	}
	s.taps = 1
	for range rank {
		if s.taps *= s.width; s.taps > maxTaps {
			return nil, fmt.Errorf("%d spatial axes are more than mode %q supports", rank, n.Str("mode", "linear"))
		}
	}
	if s.size == 0 && s.padding != "zeros" && s.n*s.pts > 0 {
		return nil, fmt.Errorf("an input of %v has nothing to sample", xs)
	}
	return s, nil
}

func (s *gridSampler) shape() []int { return append([]int{s.n, s.c}, s.out...) }

// places is the grid in elements of X: the coordinate of place i along spatial axis a is places(i, a). It is
// worked in the grid's own precision, as frameworks do, so that ties fall as they do there.
func (s *gridSampler) places(grid *tensor.Tensor) (func(i, a int) float64, error) {
	rank := len(s.dims)
	switch grid.DType() {
	case tensor.Float64:
		return gridPlaces(s, tensor.Data[float64](grid)), nil
	case tensor.Float32:
		return gridPlaces(s, tensor.Data[float32](grid)), nil
	case tensor.Float16, tensor.BFloat16:
		return func(i, a int) float64 {
			return float64(fromNormal(s, float32(tensor.Float64At(grid, i*rank+rank-1-a)), a))
		}, nil
	}
	return nil, fmt.Errorf("a grid of element type %s", grid.DType())
}

// gridPlaces reads the coordinates, which a grid lists from the last axis to the first.
func gridPlaces[G kernel.Float](s *gridSampler, grid []G) func(i, a int) float64 {
	rank := len(s.dims)
	return func(i, a int) float64 { return float64(fromNormal(s, grid[i*rank+rank-1-a], a)) }
}

// fromNormal maps [-1, 1] to the elements of axis a. The conversions keep the steps from being fused.
func fromNormal[G kernel.Float](s *gridSampler, v G, a int) G {
	d := G(s.dims[a])
	if s.align {
		return G((v+1)/2) * (d - 1)
	}
	return (G((v+1)*d) - 1) / 2
}

// reflect mirrors x at lo and hi until it is between them; sign is the derivative.
func reflect(x, lo, hi float64) (y, sign float64) {
	if hi <= lo {
		return lo, 0
	}
	span := hi - lo
	r, sign := x-lo, 1.0
	if r < 0 {
		r, sign = -r, -1
	}
	if r >= 2*span {
		r = math.Mod(r, 2*span)
	}
	if r > span {
		r, sign = 2*span-r, -sign
	}
	return lo + r, sign
}

// axisPlace is the taps of one place along one axis: elements (-1: outside, read as zero), weights, and the
// weights' derivatives by the coordinate.
type axisPlace struct {
	at    [4]int
	w, dw [4]float64
}

// axis finds the taps of coordinate x along axis a.
func (s *gridSampler) axis(a int, x float64, p *axisPlace) {
	d, slope := s.dims[a], s.slope[a]
	lo, hi := -0.5, float64(d)-0.5
	if s.align {
		lo, hi = 0, float64(d-1)
	}
	if s.width == 1 {
		x = math.RoundToEven(x)
	}
	if x < lo || x > hi {
		switch s.padding {
		case "border":
			if s.width < 4 { // Cubic reads on beyond the border, as in PyTorch and ONNX Runtime.
				x, slope = math.Max(0, math.Min(x, float64(d-1))), 0
			}
		case "reflection":
			var sign float64
			x, sign = reflect(math.Max(-maxWindow, math.Min(maxWindow, x)), lo, hi)
			slope *= sign
		}
	}
	if s.width == 2 && s.padding != "zeros" && (x <= 0 || x >= float64(d-1)) {
		slope = 0 // a kink; PyTorch takes the side outside
	}
	x = math.Max(-maxWindow, math.Min(maxWindow, x))
	base := math.Floor(x)
	frac, first := x-base, int(base)
	if x != x { // The weights are NaN, so that whatever is read is too.
		if first = 0; s.width == 1 {
			first = -1
		}
	}
	switch s.width {
	case 1:
		p.w[0], p.dw[0] = 1, 0
	case 2:
		p.w[0], p.w[1] = 1-frac, frac
		p.dw[0], p.dw[1] = -slope, slope
	case 4:
		first--
		for k := range p.w {
			u := frac - float64(k-1)
			w, dw := cubicWeight(-0.75, math.Abs(u))
			if u < 0 {
				dw = -dw
			}
			p.w[k], p.dw[k] = w, dw*slope
		}
	}
	for k := range s.width {
		at := first + k
		switch {
		case at >= 0 && at < d:
		case s.padding == "zeros":
			at = -1
		case s.padding == "border":
			at = max(0, min(at, d-1))
		default:
			v, _ := reflect(float64(at), lo, hi)
			at = int(v)
		}
		p.at[k] = at
	}
}

// gridTaps is the taps of a block of places, those of place i in [start[i], start[i+1]): elements of a plane,
// their weights, and by axis the weights' derivatives by the place.
type gridTaps[T kernel.Float] struct {
	start, at []int
	w         []T
	dw        [][]T // nil if they are not wanted
}

// block is how many places are worked at once, so that their taps stay in cache.
func (s *gridSampler) block() int { return max(1, min(1024/s.taps, 256)) }

// fill finds the taps of places [lo, hi), counted over all images: for each axis the list so far once more for
// every tap along it.
func (t *gridTaps[T]) fill(s *gridSampler, places func(i, a int) float64, lo, hi int) {
	t.start, t.at, t.w = t.start[:0], t.at[:0], t.w[:0]
	for b := range t.dw {
		t.dw[b] = t.dw[b][:0]
	}
	var p axisPlace
	for i := lo; i < hi; i++ {
		first := len(t.at)
		t.start, t.at, t.w = append(t.start, first), append(t.at, 0), append(t.w, 1)
		for b := range t.dw {
			t.dw[b] = append(t.dw[b], 1)
		}
		for a, stride := range s.strides {
			s.axis(a, places(i, a), &p)
			end := len(t.at)
			for k := range s.width {
				if p.at[k] < 0 {
					continue
				}
				w, dw, off := T(p.w[k]), T(p.dw[k]), p.at[k]*stride
				for j := first; j < end; j++ {
					t.at, t.w = append(t.at, t.at[j]+off), append(t.w, t.w[j]*w)
				}
				for b, d := range t.dw {
					f := w
					if b == a {
						f = dw
					}
					for _, v := range d[first:end] {
						d = append(d, v*f)
					}
					t.dw[b] = d
				}
			}
			t.at, t.w = slices.Delete(t.at, first, end), slices.Delete(t.w, first, end)
			for b, d := range t.dw {
				t.dw[b] = slices.Delete(d, first, end)
			}
		}
	}
	t.start = append(t.start, len(t.at))
}

// gridBlocks calls f for blocks of places [lo, hi), each within image n, with their taps.
func gridBlocks[T kernel.Float](c *Ctx, s *gridSampler, grid *tensor.Tensor, slopes bool, f func(n, lo, hi int, t *gridTaps[T])) error {
	places, err := s.places(grid)
	if err != nil || s.n*s.pts == 0 {
		return err
	}
	block := s.block()
	each := (s.pts + block - 1) / block
	c.Pool.For(s.n*each, 1, func(from, to int) {
		var t gridTaps[T]
		if slopes {
			t.dw = make([][]T, len(s.dims))
		}
		for i := from; i < to; i++ {
			n, lo := i/each, i%each*block
			hi := min(lo+block, s.pts)
			t.fill(s, places, n*s.pts+lo, n*s.pts+hi)
			f(n, lo, hi, &t)
		}
	})
	return nil
}

func compileGridSample(n *Node) (Kernel, error) {
	width, _, err := gridModes(n)
	if err != nil {
		return nil, err
	}
	if width == 1 {
		return gridNearest, nil
	}
	real := Table{
		tensor.Float32: gridSample[float32], tensor.Float64: gridSample[float64],
		tensor.Complex64: gridSample[float32], tensor.Complex128: gridSample[float64],
	}.By(0)
	integer := viaFloat64(gridSample[float64])
	return func(c *Ctx) error {
		if x := c.In(0); x != nil && x.DType().IsInteger() {
			return integer(c)
		}
		return real(c)
	}, nil
}

// gridInputs is the geometry, the output and the grid of a GridSample.
func gridInputs(c *Ctx) (s *gridSampler, x, y, grid *tensor.Tensor, err error) {
	if x, err = tensorIn(c, 0); err != nil {
		return
	}
	if grid, err = tensorIn(c, 1); err != nil {
		return
	}
	if s, err = gridOf(c.Node, x.Shape(), grid.Shape()); err != nil {
		return
	}
	y, err = c.Alloc(0, x.DType(), s.shape()...)
	return
}

func gridNearest(c *Ctx) error {
	s, x, y, grid, err := gridInputs(c)
	if err != nil {
		return err
	}
	failed := error(nil)
	err = bySize(x.DType(),
		func() { failed = pickGrid(c, s, grid, tensor.View[uint8](y), tensor.View[uint8](x)) },
		func() { failed = pickGrid(c, s, grid, tensor.View[uint16](y), tensor.View[uint16](x)) },
		func() { failed = pickGrid(c, s, grid, tensor.View[uint32](y), tensor.View[uint32](x)) },
		func() { failed = pickGrid(c, s, grid, tensor.View[uint64](y), tensor.View[uint64](x)) },
		func() { failed = pickGrid(c, s, grid, tensor.View[complex128](y), tensor.View[complex128](x)) },
		func() { failed = pickGrid(c, s, grid, tensor.View[string](y), tensor.View[string](x)) })
	if err == nil {
		err = failed
	}
	return err
}

func pickGrid[E any](c *Ctx, s *gridSampler, grid *tensor.Tensor, y, x []E) error {
	return gridBlocks(c, s, grid, false, func(n, lo, hi int, t *gridTaps[float32]) {
		for plane := n * s.c; plane < (n+1)*s.c; plane++ {
			in, out := x[plane*s.size:(plane+1)*s.size], y[plane*s.pts+lo:plane*s.pts+hi]
			for i := range out {
				if j := t.start[i]; j < t.start[i+1] {
					out[i] = in[t.at[j]]
				} else {
					clear(out[i : i+1])
				}
			}
		}
	})
}

// realParts is t's elements as real numbers; complex ones are two each.
func realParts[T kernel.Float](t *tensor.Tensor) (parts []T, each int, err error) {
	d := tensor.TypeOf[T]()
	if t.DType() == d {
		return tensor.Data[T](t), 1, nil
	}
	t, err = tensor.FromBytes(d, append(slices.Clone(t.Shape()), 2), t.Bytes(), t)
	if err != nil {
		return nil, 0, err
	}
	return tensor.Data[T](t), 2, nil
}

func gridSample[T kernel.Float](c *Ctx) error {
	s, xt, yt, grid, err := gridInputs(c)
	if err != nil {
		return err
	}
	x, each, err := realParts[T](xt)
	if err != nil {
		return err
	}
	y, _, err := realParts[T](yt)
	if err != nil {
		return err
	}
	return gridBlocks(c, s, grid, false, func(n, lo, hi int, t *gridTaps[T]) {
		for plane := n * s.c; plane < (n+1)*s.c; plane++ {
			in, out := x[plane*s.size*each:(plane+1)*s.size*each], y[(plane*s.pts+lo)*each:(plane*s.pts+hi)*each]
			if each == 1 {
				sumTaps(out, in, t)
				continue
			}
			for i := range hi - lo {
				var re, im T
				for j := t.start[i]; j < t.start[i+1]; j++ {
					re += t.w[j] * in[2*t.at[j]]
					im += t.w[j] * in[2*t.at[j]+1]
				}
				out[2*i], out[2*i+1] = re, im
			}
		}
	})
}

func sumTaps[T kernel.Float](out, in []T, t *gridTaps[T]) {
	start := t.start
	for i := range out {
		at := t.at[start[i]:start[i+1]]
		w := t.w[start[i]:start[i+1]]
		if len(at) == 4 && len(w) == 4 { // two axes, linear, inside
			out[i] = w[0]*in[at[0]] + w[1]*in[at[1]] + w[2]*in[at[2]] + w[3]*in[at[3]]
			continue
		}
		var sum T
		for j, a := range at {
			sum += w[j] * in[a]
		}
		out[i] = sum
	}
}

func gradGridSample(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x, grid := n.Inputs[0], n.Inputs[1]
	dx := g.Internal("GridSampleGradX", 1, []*onnx.Value{dy[0], grid, g.Shape(x)}, n.Attrs...)[0]
	d := g.DType(grid)
	wide := grid // A narrow grid may go with a wider input.
	if d.Size() == 2 {
		wide = g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Float32))}, grid)
	}
	dgrid := g.Internal("GridSampleGradGrid", 1, []*onnx.Value{dy[0], x, wide}, n.Attrs...)[0]
	if wide != grid {
		dgrid = g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(d))}, dgrid)
	}
	return []*onnx.Value{dx, dgrid}, nil
}

// gridGradient checks that dy is the gradient of a sampling of xs, and makes output 0 of that type and shape.
func gridGradient(c *Ctx, xs []int, grid *tensor.Tensor, d tensor.DType, shape []int) (*gridSampler, *tensor.Tensor, error) {
	if grid == nil {
		return nil, nil, fmt.Errorf("the grid is not a tensor")
	}
	s, err := gridOf(c.Node, xs, grid.Shape())
	if err != nil {
		return nil, nil, err
	}
	if !slices.Equal(c.In(0).Shape(), s.shape()) {
		return nil, nil, fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), s.shape())
	}
	out, err := c.Alloc(0, d, shape...)
	return s, out, err
}

// gridGradX adds each element of dY to the taps of its place. Planes are apart, so they are what is divided among
// workers; each finds the taps anew for the planes that it has.
func gridGradX[T kernel.Float](c *Ctx) error {
	xs, err := shapeOperand(c, 2)
	if err != nil {
		return err
	}
	grid := c.In(1)
	s, out, err := gridGradient(c, xs, grid, tensor.TypeOf[T](), xs)
	if err != nil {
		return err
	}
	places, err := s.places(grid)
	if err != nil {
		return err
	}
	dy, dx := tensor.Data[T](c.In(0)), tensor.Data[T](out)
	clear(dx)
	c.Pool.For(s.n*s.c, 1+4096/max(1, s.pts*s.taps), func(from, to int) {
		var t gridTaps[T]
		for from < to {
			n := from / s.c
			end := min(to, (n+1)*s.c)
			for lo := 0; lo < s.pts; lo += s.block() {
				hi := min(lo+s.block(), s.pts)
				t.fill(s, places, n*s.pts+lo, n*s.pts+hi)
				for plane := from; plane < end; plane++ {
					d := dx[plane*s.size : (plane+1)*s.size]
					for i, v := range dy[plane*s.pts+lo : plane*s.pts+hi] {
						for j := t.start[i]; j < t.start[i+1]; j++ {
							d[t.at[j]] += t.w[j] * v
						}
					}
				}
			}
			from = end
		}
	})
	return nil
}

func gridGradGrid[T kernel.Float](c *Ctx) error {
	x, grid := c.In(1), c.In(2)
	if x == nil || x.DType() != c.In(0).DType() {
		return fmt.Errorf("input 1 is not a tensor of the gradient's type")
	}
	if grid == nil {
		return fmt.Errorf("input 2 is not a tensor")
	}
	s, out, err := gridGradient(c, x.Shape(), grid, grid.DType(), grid.Shape())
	if err != nil {
		return err
	}
	switch grid.DType() {
	case tensor.Float32:
		return gridSlopes(c, s, grid, tensor.Data[float32](out), tensor.Data[T](c.In(0)), tensor.Data[T](x))
	case tensor.Float64:
		return gridSlopes(c, s, grid, tensor.Data[float64](out), tensor.Data[T](c.In(0)), tensor.Data[T](x))
	}
	return fmt.Errorf("a grid of element type %s", grid.DType())
}

// gridSlopes weighs, for each place, what its taps add to the loss by the derivatives of their weights.
func gridSlopes[T, G kernel.Float](c *Ctx, s *gridSampler, grid *tensor.Tensor, dgrid []G, dy, x []T) error {
	rank := len(s.dims)
	return gridBlocks(c, s, grid, true, func(n, lo, hi int, t *gridTaps[T]) {
		sums := make([]T, len(t.at))
		for plane := n * s.c; plane < (n+1)*s.c; plane++ {
			in := x[plane*s.size : (plane+1)*s.size]
			for i, v := range dy[plane*s.pts+lo : plane*s.pts+hi] {
				for j := t.start[i]; j < t.start[i+1]; j++ {
					sums[j] += v * in[t.at[j]]
				}
			}
		}
		for i := range hi - lo {
			for a, dw := range t.dw {
				var sum T
				for j := t.start[i]; j < t.start[i+1]; j++ {
					sum += dw[j] * sums[j]
				}
				dgrid[(n*s.pts+lo+i)*rank+rank-1-a] = G(sum)
			}
		}
	})
}

func inferAffineGrid(n *Node) ([]Info, error) {
	theta := n.In[0]
	if theta.Ranked && (len(theta.Shape) != 3 || theta.Shape[1].Known() && theta.Shape[2].Known() && theta.Shape[2].N != theta.Shape[1].N+1) {
		return nil, fmt.Errorf("theta of %v is not a batch of matrices [2, 3] or [3, 4]", theta.Shape)
	}
	v, ok, err := n.list(1)
	if err != nil || !ok {
		return []Info{Unranked(theta.DType)}, err
	}
	if c := n.Info(1).Const; c != nil {
		size, err := c.Int64s()
		if err != nil {
			return nil, err
		}
		if _, err := affineShape(toInts(size)); err != nil {
			return nil, err
		}
	}
	if len(v) != 4 && len(v) != 5 {
		return nil, fmt.Errorf("a size of %v is not N×C×H×W or N×C×D×H×W", v)
	}
	return []Info{Tensor(theta.DType, slices.Concat(v[:1], v[2:], []Dim{D(len(v) - 2)})...)}, nil
}

// affineShape is the shape of the grid for an image of that size, N×C×spatial.
func affineShape(size []int) ([]int, error) {
	if len(size) != 4 && len(size) != 5 {
		return nil, fmt.Errorf("a size of %v is not N×C×H×W or N×C×D×H×W", size)
	}
	shape := append([]int{size[0]}, size[2:]...)
	shape = append(shape, len(size)-2)
	_, err := tensor.ByteSize(tensor.Float64, shape)
	return shape, err
}

// affineBase is the homogeneous positions of the grid's places, a row [.., y, x, 1] → [x, y, .., 1] for each.
func affineBase[T kernel.Float](c *Ctx, dims []int) ([]T, error) {
	rank, pts := len(dims), product(dims)
	t, err := c.New(tensor.TypeOf[T](), pts, rank+1)
	if err != nil {
		return nil, err
	}
	base, align := tensor.Data[T](t), c.Node.Int("align_corners", 0) != 0
	for i := range pts {
		row, rest := base[i*(rank+1):(i+1)*(rank+1)], i
		row[rank] = 1
		for a := rank - 1; a >= 0; a-- {
			k, d := rest%dims[a], dims[a]
			rest /= d
			switch {
			case !align:
				row[rank-1-a] = T(float64(2*k+1)/float64(d) - 1)
			case d > 1: // else the centre, as PyTorch has it
				row[rank-1-a] = T(float64(2*k)/float64(d-1) - 1)
			}
		}
	}
	return base, nil
}

// affineOf checks theta's shape against the size in input i, and gives the spatial dimensions.
func affineOf(c *Ctx, i int, theta []int) (shape, dims []int, err error) {
	size, err := shapeOperand(c, i)
	if err != nil {
		return nil, nil, err
	}
	if shape, err = affineShape(size); err != nil {
		return nil, nil, err
	}
	dims = size[2:]
	if want := []int{size[0], len(dims), len(dims) + 1}; !slices.Equal(theta, want) {
		return nil, nil, fmt.Errorf("theta of %v where a size of %v wants %v", theta, size, want)
	}
	return shape, dims, nil
}

func affineGrid[T kernel.Float](c *Ctx) error {
	theta := c.In(0)
	shape, dims, err := affineOf(c, 1, theta.Shape())
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, theta.DType(), shape...)
	if err != nil || out.Len() == 0 {
		return err
	}
	base, err := affineBase[T](c, dims)
	if err != nil {
		return err
	}
	r, pts := len(dims), product(dims)
	kernel.GemmBatch(c.Pool, shape[0], false, true, pts, r, r+1, 1, base, 0, r+1, tensor.Data[T](theta), r*(r+1), r+1, 0, tensor.Data[T](out), pts*r, r)
	return nil
}

func affineGridGrad[T kernel.Float](c *Ctx) error {
	theta, err := shapeOperand(c, 2)
	if err != nil {
		return err
	}
	shape, dims, err := affineOf(c, 1, theta)
	if err != nil {
		return err
	}
	dy := c.In(0)
	if !slices.Equal(dy.Shape(), shape) {
		return fmt.Errorf("a gradient of %v where %v is wanted", dy.Shape(), shape)
	}
	out, err := c.Alloc(0, dy.DType(), theta...)
	if err != nil {
		return err
	}
	clearTensor(out)
	if dy.Len() == 0 {
		return nil
	}
	base, err := affineBase[T](c, dims)
	if err != nil {
		return err
	}
	r, pts := len(dims), product(dims)
	kernel.GemmBatch(c.Pool, shape[0], true, false, r, r+1, pts, 1, tensor.Data[T](dy), pts*r, r, base, 0, r+1, 0, tensor.Data[T](out), r*(r+1), r+1)
	return nil
}
