package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// arith is the types that can be added and compared.
type arith interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// bySize picks the mover for a type's element size.
func bySize(d tensor.DType, f1, f2, f4, f8, f16, str func()) error {
	switch {
	case d == tensor.String:
		str()
	case d.Size() == 1:
		f1()
	case d.Size() == 2:
		f2()
	case d.Size() == 4:
		f4()
	case d.Size() == 8:
		f8()
	case d.Size() == 16:
		f16()
	default:
		return fmt.Errorf("elements of type %s cannot be moved", d)
	}
	return nil
}

func sameElem(dst, src *tensor.Tensor) error {
	if dst.DType() != src.DType() {
		return fmt.Errorf("element types %s and %s differ", dst.DType(), src.DType())
	}
	return nil
}

type loop struct{ n, d, s int }

// strided copies src[so + Σ i·ss] to dst[do + Σ i·ds] for all i within shape.
func strided(p *kernel.Pool, dst, src *tensor.Tensor, shape, ds []int, do int, ss []int, so int) error {
	return planMovement(shape, ds, do, ss, so).run(p, dst, src)
}

// movement is how elements that lie evenly go from one tensor to another.
type movement struct {
	kind   moveKind
	do, so int
	outer  []loop
	in     loop // the innermost
	tile   loop // of transpositions: the loop that src goes along; outer's last is over its blocks
	total  int  // what the work is shared out by: turns of the outer loops, or elements of in if there are none
	grain  int
}

type moveKind int

const (
	moveNothing moveKind = iota
	moveOne
	moveRuns
	moveFills
	moveTiles
	moveSingles
)

const (
	moveGrain = 1 << 14
	moveTile  = 32 // the side of the squares that transpositions go by, so that both sides stay in the cache
)

func planMovement(shape, ds []int, do int, ss []int, so int) *movement {
	m := &movement{do: do, so: so}
	ls := make([]loop, 0, len(shape))
	for i, n := range shape {
		if n == 0 {
			return m
		}
		if n == 1 {
			continue
		}
		l := loop{n, ds[i], ss[i]}
		if k := len(ls) - 1; k >= 0 && ls[k].d == l.d*n && ls[k].s == l.s*n {
			ls[k] = loop{ls[k].n * n, l.d, l.s}
			continue
		}
		ls = append(ls, l)
	}
	if len(ls) == 0 {
		m.kind, m.total = moveOne, 1
		return m
	}
	m.outer, m.in = ls[:len(ls)-1], ls[len(ls)-1]
	m.grain = max(1, moveGrain/m.in.n)
	switch {
	case m.in.d == 1 && m.in.s == 1:
		m.kind = moveRuns
	case m.in.d == 1 && m.in.s == 0:
		m.kind = moveFills
	default:
		m.kind = moveSingles
		tile := -1
		for j, l := range m.outer {
			if m.in.d == 1 && l.s == 1 && l.n >= 4 {
				tile = j
			}
		}
		if tile >= 0 {
			t := m.outer[tile]
			m.kind, m.tile, m.grain = moveTiles, t, max(1, moveGrain/(m.in.n*moveTile))
			m.outer = append(slices.Delete(slices.Clone(m.outer), tile, tile+1), loop{(t.n + moveTile - 1) / moveTile, moveTile * t.d, moveTile * t.s})
		}
	}
	m.total = 1
	for _, l := range m.outer {
		m.total *= l.n
	}
	if len(m.outer) == 0 && m.kind != moveSingles {
		m.total, m.grain = m.in.n, 1<<16
	}
	return m
}

// arrangement is the shape of an output and how its elements come into it.
type arrangement struct {
	shape []int
	*movement
}

// arrange is an output of shape with elements from off on, steps apart.
func arrange(shape, steps []int, off int) *arrangement {
	return &arrangement{shape, planMovement(shape, rowMajor(shape), 0, steps, off)}
}

// into computes output 0 from x.
func (a *arrangement) into(c *Ctx, x *tensor.Tensor) error {
	y, err := c.Alloc(0, x.DType(), a.shape...)
	if err != nil {
		return err
	}
	return a.run(c.Pool, y, x)
}

func (m *movement) run(p *kernel.Pool, dst, src *tensor.Tensor) error {
	if err := sameElem(dst, src); err != nil || m.kind == moveNothing {
		return err
	}
	return bySize(dst.DType(),
		func() { moveT(p, m, tensor.View[uint8](dst), tensor.View[uint8](src)) },
		func() { moveT(p, m, tensor.View[uint16](dst), tensor.View[uint16](src)) },
		func() { moveT(p, m, tensor.View[uint32](dst), tensor.View[uint32](src)) },
		func() { moveT(p, m, tensor.View[uint64](dst), tensor.View[uint64](src)) },
		func() { moveT(p, m, tensor.View[complex128](dst), tensor.View[complex128](src)) },
		func() { moveT(p, m, tensor.View[string](dst), tensor.View[string](src)) })
}

func moveT[T any](p *kernel.Pool, m *movement, dst, src []T) {
	if p.Alone(m.total, m.grain) {
		movePart(m, dst, src, 0, m.total)
		return
	}
	p.For(m.total, m.grain, func(lo, hi int) { movePart(m, dst, src, lo, hi) })
}

// movePart is the turns [lo, hi) of m.
func movePart[T any](m *movement, dst, src []T, lo, hi int) {
	do, so, in := m.do, m.so, m.in
	flat := len(m.outer) == 0
	switch m.kind {
	case moveOne:
		dst[do] = src[so]
	case moveRuns:
		if flat {
			copy(dst[do+lo:do+hi], src[so+lo:so+hi])
			return
		}
		walkLoops(m.outer, lo, hi, func(d, s, _ int) { copy(dst[do+d:do+d+in.n], src[so+s:so+s+in.n]) })
	case moveFills:
		if flat {
			fill(dst[do+lo:do+hi], src[so])
			return
		}
		walkLoops(m.outer, lo, hi, func(d, s, _ int) { fill(dst[do+d:do+d+in.n], src[so+s]) })
	case moveTiles:
		t := m.tile
		walkLoops(m.outer, lo, hi, func(d, s, block int) {
			rows := min(moveTile, t.n-block*moveTile)
			for i0 := 0; i0 < in.n; i0 += moveTile {
				w := min(moveTile, in.n-i0)
				if words, ok := any(dst).([]uint32); ok && kernel.Transpose(words[do+d+i0:], t.d, any(src).([]uint32)[so+s+i0*in.s:], in.s, w, rows) {
					continue
				}
				if w < 8 { // channels of an image, say: along the longer side
					for i := range w {
						at := do + d + i0 + i
						for _, v := range src[so+s+(i0+i)*in.s:][:rows] {
							dst[at] = v
							at += t.d
						}
					}
					continue
				}
				for r := range rows {
					out := dst[do+d+r*t.d+i0:][:w]
					at := so + s + r + i0*in.s
					for i := range out {
						out[i] = src[at]
						at += in.s
					}
				}
			}
		})
	case moveSingles:
		walkLoops(m.outer, lo, hi, func(d, s, _ int) {
			d, s = d+do, s+so
			for range in.n {
				dst[d] = src[s]
				d += in.d
				s += in.s
			}
		})
	}
}

func fill[T any](x []T, v T) {
	for i := range x {
		x[i] = v
	}
}

// walkLoops calls f with the offsets of the points [lo, hi) of the loops, and their index in the last one.
func walkLoops(ls []loop, lo, hi int, f func(d, s, last int)) {
	last := len(ls) - 1
	var room [8]int
	idx := append(room[:0], make([]int, len(ls)+1)...)
	d, s, r := 0, 0, lo
	for k := last; k >= 0; k-- {
		idx[k] = r % ls[k].n
		r /= ls[k].n
		d += idx[k] * ls[k].d
		s += idx[k] * ls[k].s
	}
	for i := lo; i < hi; i++ {
		f(d, s, idx[max(last, 0)])
		for k := last; k >= 0; k-- {
			idx[k]++
			d += ls[k].d
			s += ls[k].s
			if idx[k] < ls[k].n {
				break
			}
			d -= ls[k].n * ls[k].d
			s -= ls[k].n * ls[k].s
			idx[k] = 0
		}
	}
}

// runs is where the runs of a gather or scatter lie in the larger tensor: run elements at each
// of offs, outer times over at a distance of step.
type runs struct {
	outer, step, run int
	offs             []int
}

// gatherRuns copies the runs of src one after the other to dst.
func gatherRuns(p *kernel.Pool, dst, src *tensor.Tensor, r runs) error {
	if err := sameElem(dst, src); err != nil {
		return err
	}
	return bySize(dst.DType(),
		func() { gatherT(p, tensor.View[uint8](dst), tensor.View[uint8](src), r) },
		func() { gatherT(p, tensor.View[uint16](dst), tensor.View[uint16](src), r) },
		func() { gatherT(p, tensor.View[uint32](dst), tensor.View[uint32](src), r) },
		func() { gatherT(p, tensor.View[uint64](dst), tensor.View[uint64](src), r) },
		func() { gatherT(p, tensor.View[complex128](dst), tensor.View[complex128](src), r) },
		func() { gatherT(p, tensor.View[string](dst), tensor.View[string](src), r) })
}

func gatherT[T any](p *kernel.Pool, dst, src []T, r runs) {
	n := len(r.offs)
	if n == 0 || r.run == 0 {
		return
	}
	total, grain := r.outer*n, max(1, moveGrain/r.run)
	if p.Alone(total, grain) {
		gatherPart(dst, src, r, 0, total)
		return
	}
	p.For(total, grain, func(lo, hi int) { gatherPart(dst, src, r, lo, hi) })
}

func gatherPart[T any](dst, src []T, r runs, lo, hi int) {
	n := len(r.offs)
	for i := lo; i < hi; i++ {
		at := i/n*r.step + r.offs[i%n]
		if r.run == 1 {
			dst[i] = src[at]
		} else {
			copy(dst[i*r.run:(i+1)*r.run], src[at:at+r.run])
		}
	}
}

// scatterRuns combines src, one run after the other, into the runs of dst.
func scatterRuns(p *kernel.Pool, how string, dst, src *tensor.Tensor, r runs) error {
	if err := sameElem(dst, src); err != nil {
		return err
	}
	switch how {
	case "none":
		return bySize(dst.DType(),
			func() { scatterT(p, tensor.View[uint8](dst), tensor.View[uint8](src), r, nil) },
			func() { scatterT(p, tensor.View[uint16](dst), tensor.View[uint16](src), r, nil) },
			func() { scatterT(p, tensor.View[uint32](dst), tensor.View[uint32](src), r, nil) },
			func() { scatterT(p, tensor.View[uint64](dst), tensor.View[uint64](src), r, nil) },
			func() { scatterT(p, tensor.View[complex128](dst), tensor.View[complex128](src), r, nil) },
			func() { scatterT(p, tensor.View[string](dst), tensor.View[string](src), r, nil) })
	case "add", "mul", "max", "min":
	default:
		return fmt.Errorf("reduction %q is not known", how)
	}
	switch dst.DType() {
	case tensor.Float32:
		scatterT(p, tensor.View[float32](dst), tensor.View[float32](src), r, combine[float32](how))
	case tensor.Float64:
		scatterT(p, tensor.View[float64](dst), tensor.View[float64](src), r, combine[float64](how))
	case tensor.Int8:
		scatterT(p, tensor.View[int8](dst), tensor.View[int8](src), r, combine[int8](how))
	case tensor.Int16:
		scatterT(p, tensor.View[int16](dst), tensor.View[int16](src), r, combine[int16](how))
	case tensor.Int32:
		scatterT(p, tensor.View[int32](dst), tensor.View[int32](src), r, combine[int32](how))
	case tensor.Int64:
		scatterT(p, tensor.View[int64](dst), tensor.View[int64](src), r, combine[int64](how))
	case tensor.Uint8:
		scatterT(p, tensor.View[uint8](dst), tensor.View[uint8](src), r, combine[uint8](how))
	case tensor.Uint16:
		scatterT(p, tensor.View[uint16](dst), tensor.View[uint16](src), r, combine[uint16](how))
	case tensor.Uint32:
		scatterT(p, tensor.View[uint32](dst), tensor.View[uint32](src), r, combine[uint32](how))
	case tensor.Uint64:
		scatterT(p, tensor.View[uint64](dst), tensor.View[uint64](src), r, combine[uint64](how))
	case tensor.Bool: // or, and
		scatterT(p, tensor.View[uint8](dst), tensor.View[uint8](src), r, combine[uint8](map[string]string{"add": "max", "max": "max", "mul": "min", "min": "min"}[how]))
	case tensor.Float16:
		f := combine[float32](how)
		scatterT(p, tensor.Data[tensor.F16](dst), tensor.Data[tensor.F16](src), r, func(d, s []tensor.F16) {
			for i := range d {
				a := []float32{d[i].Float32()}
				f(a, []float32{s[i].Float32()})
				d[i] = tensor.F16From(a[0])
			}
		})
	case tensor.BFloat16:
		f := combine[float32](how)
		scatterT(p, tensor.Data[tensor.BF16](dst), tensor.Data[tensor.BF16](src), r, func(d, s []tensor.BF16) {
			for i := range d {
				a := []float32{d[i].Float32()}
				f(a, []float32{s[i].Float32()})
				d[i] = tensor.BF16From(a[0])
			}
		})
	default:
		return fmt.Errorf("elements of type %s cannot be combined by %s", dst.DType(), how)
	}
	return nil
}

func combine[T arith](how string) func(d, s []T) {
	switch how {
	case "add":
		return func(d, s []T) {
			for i, v := range s {
				d[i] += v
			}
		}
	case "mul":
		return func(d, s []T) {
			for i, v := range s {
				d[i] *= v
			}
		}
	case "max":
		return func(d, s []T) {
			for i, v := range s {
				d[i] = max(d[i], v)
			}
		}
	}
	return func(d, s []T) {
		for i, v := range s {
			d[i] = min(d[i], v)
		}
	}
}

// scatterT goes through the runs in order, so that what falls on one place is combined in order;
// the loop is split where no two parts meet: over outer, or over the elements of a run.
func scatterT[T any](p *kernel.Pool, dst, src []T, r runs, f func(d, s []T)) {
	n := len(r.offs)
	part := func(o, lo, hi int) {
		for i, off := range r.offs {
			at, from := o*r.step+off, (o*n+i)*r.run
			if f == nil {
				copy(dst[at+lo:at+hi], src[from+lo:from+hi])
			} else {
				f(dst[at+lo:at+hi], src[from+lo:from+hi])
			}
		}
	}
	if n == 0 || r.run == 0 {
		return
	}
	if r.outer > 1 {
		p.For(r.outer, max(1, moveGrain/(n*r.run)), func(lo, hi int) {
			for o := lo; o < hi; o++ {
				part(o, 0, r.run)
			}
		})
		return
	}
	if r.outer == 1 {
		p.For(r.run, max(32, moveGrain/n), func(lo, hi int) { part(0, lo, hi) })
	}
}

// inferShapeInput infers an output of input 0's type whose shape is the value of input i.
func inferShapeInput(i int) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		out, err := n.shaped(n.Info(0).DType, i)
		return []Info{out}, err
	}
}

// allocLike allocates output 0 of input 0's type in the shape that input i holds, cleared.
func allocLike(c *Ctx, i int) (dy, out *tensor.Tensor, err error) {
	if dy, err = tensorIn(c, 0); err != nil {
		return nil, nil, err
	}
	s, err := tensorIn(c, i)
	if err != nil {
		return nil, nil, err
	}
	v, err := s.Int64s()
	if err != nil {
		return nil, nil, err
	}
	if out, err = c.Alloc(0, dy.DType(), toInts(v)...); err != nil {
		return nil, nil, err
	}
	clearTensor(out)
	return dy, out, nil
}

// gradSame sends dy through the same operator with the same further inputs.
func gradSame(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.With(n.Op, n.Attrs, append([]*onnx.Value{dy[0]}, n.Inputs[1:]...)...)
	return out, nil
}

func copyTensor(dst, src *tensor.Tensor) error {
	if err := sameElem(dst, src); err != nil {
		return err
	}
	if dst.DType() == tensor.String {
		copy(tensor.View[string](dst), tensor.View[string](src))
		return nil
	}
	copy(dst.Bytes(), src.Bytes())
	return nil
}
