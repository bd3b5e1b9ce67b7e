package ops

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	register(
		Op{Name: "Transpose", Since: []int{1, 13, 21, 23, 24, 25}, MinIn: 1, Infer: inferTranspose, Compile: compileTranspose, Grad: gradTranspose},
		Op{Name: "Concat", Since: []int{1, 4, 11, 13}, MinIn: 1, MaxIn: -1, Infer: inferConcat, Compile: compileConcat, Grad: gradConcat},
		Op{Name: "Split", Since: []int{1, 2, 11, 13, 18}, MinIn: 1, MaxIn: 2, MinOut: 1, MaxOut: -1, Infer: inferSplit, Compile: compileSplit, Grad: gradSplit},
		Op{Name: "Slice", Since: []int{1, 10, 11, 13}, MinIn: 1, MaxIn: 5, Infer: inferSlice, Compile: compileSlice, Grad: gradSlice},
		Op{Domain: Internal, Name: "SliceGrad", Since: []int{1}, MinIn: 4, MaxIn: 6, Infer: inferShapeInput(1), Compile: compileSliceGrad, NoGrad: noSecond},
		Op{Name: "Gather", Since: []int{1, 11, 13}, MinIn: 2, Infer: inferGather, Compile: compileGather, Grad: gradGather},
		Op{Domain: Internal, Name: "GatherGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(gatherAt), NoGrad: noSecond},
		Op{Name: "GatherElements", Since: []int{11, 13}, MinIn: 2, Infer: inferGatherElements, Compile: compileGatherElements, Grad: gradGather},
		Op{Domain: Internal, Name: "GatherElementsGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(elementsAt), NoGrad: noSecond},
		Op{Name: "GatherND", Since: []int{11, 12, 13}, MinIn: 2, Infer: inferGatherND, Compile: compileGatherND, Grad: gradGather},
		Op{Domain: Internal, Name: "GatherNDGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileGatherGrad(ndAt), NoGrad: noSecond},
		Op{Name: "Scatter", Since: []int{9, 11}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(elementsAt), InPlace: []int{0}, Grad: gradScatter("GatherElements")},
		Op{Name: "ScatterElements", Since: []int{11, 13, 16, 18}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(elementsAt), InPlace: []int{0}, Grad: gradScatter("GatherElements")},
		Op{Name: "ScatterND", Since: []int{11, 13, 16, 18}, MinIn: 3, Infer: SameAs(0), Compile: compileScatter(ndAt), InPlace: []int{0}, Grad: gradScatter("GatherND")},
		Op{Name: "Pad", Since: []int{1, 2, 11, 13, 18, 19, 21, 23, 24, 25}, MinIn: 1, MaxIn: 4, Infer: inferPad, Compile: compilePad, Grad: gradPad},
		Op{Domain: Internal, Name: "PadGrad", Since: []int{1}, MinIn: 3, MaxIn: 4, Infer: inferShapeInput(1), Compile: compilePadGrad, NoGrad: noSecond},
		Op{Name: "Tile", Since: []int{1, 6, 13}, MinIn: 2, MaxIn: 3, Infer: inferTile, Compile: compileTile, Grad: gradTile},
		Op{Domain: Internal, Name: "TileGrad", Since: []int{1}, MinIn: 2, Infer: inferShapeInput(1), Compile: compileTileGrad, NoGrad: noSecond},
		Op{Name: "DepthToSpace", Since: []int{1, 11, 13}, MinIn: 1, Infer: inferDepthToSpace, Compile: compileDepthToSpace, Grad: gradDepthToSpace},
		Op{Name: "SpaceToDepth", Since: []int{1, 13}, MinIn: 1, Infer: inferSpaceToDepth, Compile: compileSpaceToDepth, Grad: gradSpaceToDepth},
		Op{Domain: Internal, Name: "SpaceToDepthCRD", Since: []int{1}, MinIn: 1, Infer: inferSpaceToDepth, Compile: compileSpaceToDepth, NoGrad: noSecond},
		Op{Name: "ReverseSequence", Since: []int{10}, MinIn: 2, Infer: SameAs(0), Compile: compileReverseSequence, Grad: gradSame},
		Op{Name: "Trilu", Since: []int{14}, MinIn: 1, MaxIn: 2, Infer: SameAs(0), Compile: compileTrilu, Grad: gradSame},
		Op{Name: "OneHot", Since: []int{9, 11}, MinIn: 3, Infer: inferOneHot, Compile: compileOneHot, NoGrad: "indices are not differentiable"},
		Op{Name: "NonZero", Since: []int{9, 13}, MinIn: 1, Infer: inferNonZero, Compile: compileNonZero, NoGrad: "positions are integers"},
		Op{Name: "Compress", Since: []int{9, 11}, MinIn: 2, Infer: inferCompress, Compile: compileCompress, Grad: gradCompress},
		Op{Domain: Internal, Name: "CompressGrad", Since: []int{1}, MinIn: 3, Infer: inferShapeInput(2), Compile: compileCompressGrad, NoGrad: noSecond},
		Op{Name: "TopK", Since: []int{1, 10, 11, 24}, MinIn: 1, MaxIn: 2, MinOut: 1, MaxOut: 2, Infer: inferTopK, Compile: compileTopK, Grad: gradTopK},
		Op{Name: "Unique", Since: []int{11}, MinIn: 1, MinOut: 1, MaxOut: 4, Infer: inferUnique, Compile: compileUnique, NoGrad: "which elements are kept hangs on the values"},
		Op{Name: "CumSum", Since: []int{11, 14}, MinIn: 2, Infer: SameAs(0), Compile: compileCumSum, Grad: gradCumSum},
		Op{Name: "CumProd", Since: []int{26}, MinIn: 2, Types: []TypeSet{Floats | Index | Of(tensor.Uint32, tensor.Uint64), Index}, Infer: SameAs(0), Compile: compileCumProd,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return []*onnx.Value{g.Internal("CumProdGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], n.Inputs[0]}, n.Attrs...)[0], nil}, nil
			}},
		// dY, the axis, X
		Op{Domain: Internal, Name: "CumProdGrad", Since: []int{1}, MinIn: 3, Infer: SameAs(0), Compile: compileCumProdGrad, NoGrad: noSecond},
	)
}

const noSecond = "gradients of gradients are not supported"

// ---- moving elements

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
	if err := sameElem(dst, src); err != nil {
		return err
	}
	ls := make([]loop, 0, len(shape))
	for i, n := range shape {
		if n == 0 {
			return nil
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
	return bySize(dst.DType(),
		func() { stridedT(p, tensor.View[uint8](dst), tensor.View[uint8](src), ls, do, so) },
		func() { stridedT(p, tensor.View[uint16](dst), tensor.View[uint16](src), ls, do, so) },
		func() { stridedT(p, tensor.View[uint32](dst), tensor.View[uint32](src), ls, do, so) },
		func() { stridedT(p, tensor.View[uint64](dst), tensor.View[uint64](src), ls, do, so) },
		func() { stridedT(p, tensor.View[complex128](dst), tensor.View[complex128](src), ls, do, so) },
		func() { stridedT(p, tensor.View[string](dst), tensor.View[string](src), ls, do, so) })
}

const moveGrain = 1 << 14

func stridedT[T any](p *kernel.Pool, dst, src []T, ls []loop, do, so int) {
	if len(ls) == 0 {
		dst[do] = src[so]
		return
	}
	outer, in := ls[:len(ls)-1], ls[len(ls)-1]
	grain := max(1, moveGrain/in.n)
	switch {
	case in.d == 1 && in.s == 1:
		if len(outer) == 0 {
			p.For(in.n, 1<<16, func(lo, hi int) { copy(dst[do+lo:do+hi], src[so+lo:so+hi]) })
			return
		}
		forLoops(p, outer, grain, func(d, s, _ int) { copy(dst[do+d:do+d+in.n], src[so+s:so+s+in.n]) })
	case in.d == 1 && in.s == 0:
		if len(outer) == 0 {
			v := src[so]
			p.For(in.n, 1<<16, func(lo, hi int) { fill(dst[do+lo:do+hi], v) })
			return
		}
		forLoops(p, outer, grain, func(d, s, _ int) { fill(dst[do+d:do+d+in.n], src[so+s]) })
	default:
		tile := -1
		if in.d == 1 {
			for j, l := range outer {
				if l.s == 1 && l.n >= 4 {
					tile = j
				}
			}
		}
		if tile >= 0 { // a transposition: square tiles, so that both sides stay in cache
			const side = 32
			t := outer[tile]
			rest := append(slices.Delete(slices.Clone(outer), tile, tile+1), loop{(t.n + side - 1) / side, side * t.d, side * t.s})
			forLoops(p, rest, max(1, moveGrain/(in.n*side)), func(d, s, block int) {
				rows := min(side, t.n-block*side)
				for i0 := 0; i0 < in.n; i0 += side {
					w := min(side, in.n-i0)
					if words, ok := any(dst).([]uint32); ok && kernel.Transpose(words[do+d+i0:], t.d, any(src).([]uint32)[so+s+i0*in.s:], in.s, w, rows) {
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
			return
		}
		forLoops(p, outer, grain, func(d, s, _ int) {
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

// forLoops calls f with the offsets of each point of the loops, and its index in the last one.
func forLoops(p *kernel.Pool, ls []loop, grain int, f func(d, s, last int)) {
	total, last := 1, len(ls)-1
	for _, l := range ls {
		total *= l.n
	}
	p.For(total, grain, func(lo, hi int) {
		idx := make([]int, len(ls)+1)
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
	})
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
	p.For(r.outer*n, max(1, moveGrain/r.run), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			at := i/n*r.step + r.offs[i%n]
			if r.run == 1 {
				dst[i] = src[at]
			} else {
				copy(dst[i*r.run:(i+1)*r.run], src[at:at+r.run])
			}
		}
	})
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
		d := n.Info(0).DType
		v, known, err := constInts(n, i)
		if err != nil {
			return nil, err
		}
		if known {
			shape, err := dimsOf(v)
			return []Info{Tensor(d, shape...)}, err
		}
		if l := listLen(n, i); l >= 0 {
			return []Info{Tensor(d, unknownDims(l)...)}, nil
		}
		return []Info{Unranked(d)}, nil
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

// ---- Transpose

func permOf(n *Node, rank int) ([]int, error) {
	a := n.Attr("perm")
	perm := make([]int, rank)
	if a == nil {
		for i := range perm {
			perm[i] = rank - 1 - i
		}
		return perm, nil
	}
	if len(a.Ints) != rank {
		return nil, fmt.Errorf("perm %v does not fit a tensor of rank %d", a.Ints, rank)
	}
	return NormAxes(a.Ints, rank)
}

func inferTranspose(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	perm, err := permOf(n, len(in.Shape))
	if err != nil {
		return nil, err
	}
	out := make([]Dim, len(perm))
	for i, p := range perm {
		out[i] = in.Shape[p]
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

func compileTranspose(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		perm, err := permOf(c.Node, x.Rank())
		if err != nil {
			return err
		}
		shape, ss := make([]int, len(perm)), make([]int, len(perm))
		rs := rowMajor(x.Shape())
		for i, p := range perm {
			shape[i], ss[i] = x.Shape()[p], rs[p]
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, x, shape, rowMajor(shape), 0, ss, 0)
	}, nil
}

func gradTranspose(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	if n.Attr("perm") == nil {
		return []*onnx.Value{g.Op("Transpose", dy[0])}, nil
	}
	perm := n.Ints("perm", nil)
	p, err := NormAxes(perm, len(perm))
	if err != nil {
		return nil, err
	}
	inv := make([]int64, len(p))
	for i, a := range p {
		inv[a] = int64(i)
	}
	return []*onnx.Value{g.Transpose(dy[0], inv...)}, nil
}

// ---- Concat, Split

func concatAxis(n *Node, rank int) (int, error) {
	if n.Attr("axis") == nil && n.Since >= 4 {
		return 0, errors.New("no axis is given")
	}
	return n.Axis("axis", 1, rank)
}

func inferConcat(n *Node) ([]Info, error) {
	var out Info
	out.DType = n.Info(0).DType
	rank := -1
	for i, in := range n.In {
		if out.DType == tensor.Undefined {
			out.DType = in.DType
		}
		if in.Ranked && rank >= 0 && len(in.Shape) != rank {
			return nil, fmt.Errorf("input %d has rank %d, others %d", i, len(in.Shape), rank)
		}
		if in.Ranked {
			rank = len(in.Shape)
		}
	}
	if rank < 0 {
		return []Info{out}, nil
	}
	axis, err := concatAxis(n, rank)
	if err != nil {
		return nil, err
	}
	out.Ranked, out.Shape = true, unknownDims(rank)
	sum := D(0)
	for i, in := range n.In {
		if !in.Ranked {
			sum = Unknown
			continue
		}
		for k, d := range in.Shape {
			switch {
			case k == axis:
				if sum.Known() && d.Known() {
					sum = D(sum.N + d.N)
				} else if len(n.In) == 1 {
					sum = d
				} else {
					sum = Unknown
				}
			case d.Known() && out.Shape[k].Known() && d.N != out.Shape[k].N:
				return nil, fmt.Errorf("dimension %d of input %d is %d, of others %d", k, i, d.N, out.Shape[k].N)
			case d.Known(), i == 0:
				out.Shape[k] = d
			}
		}
	}
	out.Shape[axis] = sum
	return []Info{out}, nil
}

func compileConcat(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		axis, err := concatAxis(c.Node, x.Rank())
		if err != nil {
			return err
		}
		shape := slices.Clone(x.Shape())
		shape[axis] = 0
		for i := range c.Ins {
			t, err := tensorIn(c, i)
			if err != nil {
				return err
			}
			if t.Rank() != len(shape) {
				return fmt.Errorf("input %d has rank %d, others %d", i, t.Rank(), len(shape))
			}
			for k, d := range t.Shape() {
				if k == axis {
					shape[k] += d
				} else if d != shape[k] {
					return fmt.Errorf("dimension %d of input %d is %d, of others %d", k, i, d, shape[k])
				}
			}
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		ds, at := rowMajor(shape), 0
		for i := range c.Ins {
			t := c.In(i)
			if err := strided(c.Pool, y, t, t.Shape(), ds, at*ds[axis], rowMajor(t.Shape()), 0); err != nil {
				return err
			}
			at += t.Shape()[axis]
		}
		return nil
	}, nil
}

// gradConcat slices dy: by numbers where the lengths are known, else by a Split of lengths taken at run time.
func gradConcat(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	rank := g.Rank(n.Inputs[0])
	if g.Err() != nil {
		return nil, g.Err()
	}
	axis, err := concatAxis(n, rank)
	if err != nil {
		return nil, err
	}
	if len(n.Inputs) == 1 {
		return []*onnx.Value{dy[0]}, nil
	}
	lengths := make([]int64, len(n.Inputs))
	parts := make([]*onnx.Value, len(n.Inputs))
	known := true
	for i, v := range n.Inputs {
		if in := g.Info(v); in.Ranked && in.Shape[axis].Known() {
			lengths[i] = int64(in.Shape[axis].N)
		} else {
			known = false
		}
	}
	split := g.Int64s(lengths...)
	if !known {
		for i, v := range n.Inputs {
			parts[i] = g.With("Shape", []*onnx.Attribute{IntAttr("start", int64(axis)), IntAttr("end", int64(axis+1))}, v)
		}
		split = g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, parts...)
	}
	return g.Node("Split", len(n.Inputs), []*onnx.Value{dy[0], split}, IntAttr("axis", int64(axis))), nil
}

// splitSizes is the lengths of the parts of a dimension of d.
func splitSizes(n *Node, d int, split []int64, given bool) ([]int, error) {
	outs := len(n.Outputs)
	sizes := make([]int, outs)
	if given {
		if len(split) != outs {
			return nil, fmt.Errorf("split %v gives %d parts for %d outputs", split, len(split), outs)
		}
		sum := int64(0)
		for i, s := range split {
			if s < 0 || s > int64(d)-sum {
				return nil, fmt.Errorf("split %v does not divide a dimension of %d", split, d)
			}
			sum += s
			sizes[i] = int(s)
		}
		if sum != int64(d) {
			return nil, fmt.Errorf("split %v does not divide a dimension of %d", split, d)
		}
		return sizes, nil
	}
	if n.Since >= 18 {
		if k := n.Int("num_outputs", int64(outs)); k != int64(outs) {
			return nil, fmt.Errorf("num_outputs is %d, the node has %d outputs", k, outs)
		}
	} else if d%outs != 0 {
		return nil, fmt.Errorf("a dimension of %d does not divide into %d equal parts", d, outs)
	}
	chunk := (d + outs - 1) / outs
	for i := range sizes {
		sizes[i] = max(0, min(chunk, d-i*chunk))
	}
	return sizes, nil
}

func inferSplit(n *Node) ([]Info, error) {
	in := n.Info(0)
	out := make([]Info, len(n.Outputs))
	for i := range out {
		out[i] = Unranked(in.DType)
	}
	if !in.Ranked {
		return out, nil
	}
	axis, err := n.Axis("axis", 0, len(in.Shape))
	if err != nil {
		return nil, err
	}
	split, given, known, err := n.IntsInput("split", 1, 13)
	if n.Since == 1 && n.Has(1) {
		given = true
		split, known, err = constInts(n, 1)
	}
	if err != nil {
		return nil, err
	}
	for i := range out {
		s := slices.Clone(in.Shape)
		s[axis] = Unknown
		if given && known && i < len(split) && split[i] >= 0 {
			s[axis] = D(int(split[i]))
		}
		out[i] = Tensor(in.DType, s...)
	}
	if !known || !in.Shape[axis].Known() {
		return out, nil
	}
	sizes, err := splitSizes(n, in.Shape[axis].N, split, given)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Shape[axis] = D(sizes[i])
	}
	return out, nil
}

func compileSplit(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		axis, err := c.Node.Axis("axis", 0, x.Rank())
		if err != nil {
			return err
		}
		before := 13
		if c.Node.Since == 1 && c.In(1) != nil {
			before = 1
		}
		split, given, err := runInts(c, "split", 1, before)
		if err != nil {
			return err
		}
		sizes, err := splitSizes(c.Node, x.Shape()[axis], split, given)
		if err != nil {
			return err
		}
		ss, at := rowMajor(x.Shape()), 0
		for i, s := range sizes {
			from := at
			at += s
			if i > 0 && !c.Wants(i) {
				continue
			}
			shape := slices.Clone(x.Shape())
			shape[axis] = s
			y, err := c.Alloc(i, x.DType(), shape...)
			if err != nil {
				return err
			}
			if err := strided(c.Pool, y, x, shape, rowMajor(shape), 0, ss, from*ss[axis]); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func gradSplit(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	parts := make([]*onnx.Value, len(n.Outputs))
	for i, y := range n.Outputs {
		switch {
		case i < len(dy) && dy[i] != nil:
			parts[i] = dy[i]
		case y != nil:
			parts[i] = g.ExpandTo(g.Like(n.Inputs[0], 0), y)
		default:
			return nil, fmt.Errorf("output %d is left out: the gradient's shape is not known", i)
		}
	}
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.With("Concat", []*onnx.Attribute{IntAttr("axis", n.Int("axis", 0))}, parts...)
	return out, nil
}

// ---- Slice

// span1 is what a slice takes of one dimension.
type span1 struct{ start, step, n int }

// sliceSpan cuts start, end and step to a dimension of d.
func sliceSpan(start, end, step int64, axis, d int) (span1, error) {
	if step == 0 {
		return span1{}, fmt.Errorf("the step of axis %d is 0", axis)
	}
	n := int64(d)
	lo, hi := int64(0), n
	if step < 0 {
		lo, hi = -1, n-1
	}
	at := func(v int64) int64 {
		if v < 0 {
			v += n
		}
		return min(max(v, lo), hi)
	}
	s, e := at(start), at(end)
	if step < 0 && s < 0 || d == 0 {
		return span1{0, 1, 0}, nil
	}
	count := int64(0)
	if step > 0 && e > s {
		count = (e-s-1)/step + 1
	} else if step < 0 && e < s {
		count = (s-e-1)/-max(step, -math.MaxInt64) + 1
	}
	if count <= 1 {
		step = 1
	}
	return span1{int(s), int(step), int(count)}, nil
}

// sliceArgs is the axes, starts, ends and steps, from what get gives for each of the inputs from at on.
func sliceArgs(starts, ends, axes, steps []int64, hasAxes, hasSteps bool, rank int) (ax []int, st []int64, err error) {
	k := len(starts)
	if !hasAxes {
		axes = make([]int64, k)
		for i := range axes {
			axes[i] = int64(i)
		}
	}
	if !hasSteps {
		steps = slices.Repeat([]int64{1}, k)
	}
	if len(ends) != k || len(axes) != k || len(steps) != k {
		return nil, nil, fmt.Errorf("%d starts, %d ends, %d axes and %d steps", k, len(ends), len(axes), len(steps))
	}
	ax, err = NormAxes(axes, rank)
	return ax, steps, err
}

func inferSlice(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	var v [4][]int64
	var ok, known [4]bool
	for i, name := range []string{"starts", "ends", "axes", "steps"} {
		var err error
		if v[i], ok[i], known[i], err = n.IntsInput(name, i+1, 10); err != nil {
			return nil, err
		}
	}
	if !ok[0] || !ok[1] {
		return nil, errors.New("starts or ends are not given")
	}
	out := slices.Clone(in.Shape)
	if !known[0] || !known[1] || !known[2] || !known[3] {
		if ok[2] && known[2] {
			ax, err := NormAxes(v[2], len(out))
			if err != nil {
				return nil, err
			}
			for _, a := range ax {
				out[a] = Unknown
			}
			return []Info{Tensor(in.DType, out...)}, nil
		}
		if l := listLen(n, 1); l >= 0 && !ok[2] {
			for i := range min(l, len(out)) {
				out[i] = Unknown
			}
			return []Info{Tensor(in.DType, out...)}, nil
		}
		return []Info{Tensor(in.DType, unknownDims(len(out))...)}, nil
	}
	ax, steps, err := sliceArgs(v[0], v[1], v[2], v[3], ok[2], ok[3], len(out))
	if err != nil {
		return nil, err
	}
	for i, a := range ax {
		if !out[a].Known() {
			if steps[i] == 0 {
				return nil, fmt.Errorf("the step of axis %d is 0", a)
			}
			if v[0][i] != 0 || v[1][i] < math.MaxInt32 || steps[i] != 1 {
				out[a] = Unknown
			}
			continue
		}
		s, err := sliceSpan(v[0][i], v[1][i], steps[i], a, out[a].N)
		if err != nil {
			return nil, err
		}
		out[a] = D(s.n)
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

// sliceAt is the shape that a slice of shape has, and where its elements lie. The arguments
// are the inputs from first on, or attributes.
func sliceAt(c *Ctx, shape []int, first, before int) (out, strides []int, off int, err error) {
	var v [4][]int64
	var ok [4]bool
	for i, name := range []string{"starts", "ends", "axes", "steps"} {
		if v[i], ok[i], err = runInts(c, name, first+i, before); err != nil {
			return nil, nil, 0, err
		}
	}
	if !ok[0] || !ok[1] {
		return nil, nil, 0, errors.New("starts or ends are not given")
	}
	ax, steps, err := sliceArgs(v[0], v[1], v[2], v[3], ok[2], ok[3], len(shape))
	if err != nil {
		return nil, nil, 0, err
	}
	out, strides = slices.Clone(shape), rowMajor(shape)
	for i, a := range ax {
		s, err := sliceSpan(v[0][i], v[1][i], steps[i], a, shape[a])
		if err != nil {
			return nil, nil, 0, err
		}
		out[a] = s.n
		off += s.start * strides[a]
		strides[a] *= s.step
	}
	return out, strides, off, nil
}

func compileSlice(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		shape, ss, off, err := sliceAt(c, x.Shape(), 1, 10)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, x, shape, rowMajor(shape), 0, ss, off)
	}, nil
}

func compileSliceGrad(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		dy, dx, err := allocLike(c, 1)
		if err != nil {
			return err
		}
		shape, ds, off, err := sliceAt(c, dx.Shape(), 2, 0)
		if err != nil {
			return err
		}
		if !slices.Equal(shape, dy.Shape()) {
			return fmt.Errorf("the gradient has shape %v, the slice %v", dy.Shape(), shape)
		}
		return strided(c.Pool, dx, dy, shape, ds, off, rowMajor(shape), 0)
	}, nil
}

func gradSlice(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	args := []*onnx.Value{dy[0], g.Shape(n.Inputs[0])}
	if n.Since < 10 {
		args = append(args, g.Int64s(n.Ints("starts", nil)...), g.Int64s(n.Ints("ends", nil)...))
		if a := n.Attr("axes"); a != nil {
			args = append(args, g.Int64s(a.Ints...))
		}
	} else {
		args = append(args, n.Inputs[1:]...)
	}
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.Internal("SliceGrad", 1, args)[0]
	return out, nil
}

// ---- Gather and Scatter families

// locate finds the runs of data that indices speak of.
type locate func(n *Node, data []int, indices *tensor.Tensor) (runs, error)

func checkIndex(v int64, d, axis int) (int, error) {
	if v < -int64(d) || v >= int64(d) {
		return 0, fmt.Errorf("index %d is outside dimension %d of %d", v, axis, d)
	}
	if v < 0 {
		v += int64(d)
	}
	return int(v), nil
}

func gatherAt(n *Node, data []int, indices *tensor.Tensor) (runs, error) {
	axis, err := n.Axis("axis", 0, len(data))
	if err != nil {
		return runs{}, err
	}
	idx, err := indices.Int64s()
	if err != nil {
		return runs{}, err
	}
	r := runs{outer: product(data[:axis]), run: product(data[axis+1:]), offs: make([]int, len(idx))}
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

func elementsAt(n *Node, data []int, indices *tensor.Tensor) (runs, error) {
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
	r.offs = make([]int, len(idx))
	ls := make([]loop, len(shape))
	for k, d := range shape {
		ls[k] = loop{n: d, d: st[k]}
		if k == axis {
			ls[k].d = 0
		}
	}
	i := 0
	forLoops(nil, ls, 1, func(d, _, _ int) {
		k, e := checkIndex(idx[i], data[axis], axis)
		if e != nil && err == nil {
			err = e
		}
		r.offs[i] = d + k*st[axis]
		i++
	})
	return r, err
}

func ndAt(n *Node, data []int, indices *tensor.Tensor) (runs, error) {
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
	r := runs{outer: 1, run: product(data[batch+k:]), offs: make([]int, count)}
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
		r, err := at(c.Node, x.Shape(), idx)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), shapeOf(c.Node, x.Shape(), idx.Shape())...)
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

func inferGatherElements(n *Node) ([]Info, error) {
	out := n.Info(1)
	out.DType, out.Const = n.Info(0).DType, nil
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
			r, err := at(c.Node, dx.Shape(), idx)
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
			r, err := at(c.Node, x.Shape(), idx)
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
	return func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		var axis []*onnx.Attribute
		if a := n.Attr("axis"); a != nil {
			axis = append(axis, a)
		}
		idx, up := n.Inputs[1], n.Inputs[2]
		dx := dy[0]
		switch how := n.Str("reduction", "none"); how {
		case "none":
			name := "ScatterElements"
			if gather == "GatherND" {
				name = "ScatterND"
			}
			dx = g.With(name, axis, dx, idx, g.ExpandTo(g.Like(up, 0), up))
		case "add":
		default:
			return nil, fmt.Errorf("there is no gradient of reduction %q", how)
		}
		return []*onnx.Value{dx, nil, g.With(gather, axis, dy[0], idx)}, nil
	}
}

// ---- Pad, Tile

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
		case begin[i] != 0 || end[i] != 0:
			out[i] = Unknown
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
		begin, end, err := padArgs(c, x.Rank(), 1, 3, 11)
		if err != nil {
			return err
		}
		shape := make([]int, x.Rank())
		for i, d := range x.Shape() {
			shape[i] = d + begin[i] + end[i]
			if shape[i] < 0 {
				return fmt.Errorf("pads %d and %d leave less than nothing of dimension %d of %d", begin[i], end[i], i, d)
			}
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		if y.Len() == 0 {
			return nil
		}
		if len(shape) == 0 {
			return copyTensor(y, x)
		}
		if mode != "constant" {
			tables, err := padTables(mode, x.Shape(), begin, end)
			if err != nil {
				return err
			}
			return gatherRuns(c.Pool, y, x, tableRuns(tables, x.Shape()[len(shape)-1]))
		}
		var value *tensor.Tensor
		if c.Node.Since < 11 {
			if v := c.Node.Float("value", 0); v != 0 {
				value, err = tensor.Convert(tensor.Scalar(v), x.DType(), true)
			}
		} else {
			value = c.In(2)
		}
		if err != nil {
			return err
		}
		if value == nil {
			clearTensor(y)
		} else if value.Len() != 1 {
			return fmt.Errorf("constant_value holds %d elements, not 1", value.Len())
		} else if err := strided(c.Pool, y, value, shape, rowMajor(shape), 0, make([]int, len(shape)), 0); err != nil {
			return err
		}
		ds, ss := rowMajor(shape), rowMajor(x.Shape())
		part, do, so := make([]int, len(shape)), 0, 0
		for i, d := range x.Shape() {
			lo, hi := max(0, -begin[i]), d-max(0, -end[i])
			part[i] = max(0, hi-lo)
			do += max(0, begin[i]) * ds[i]
			so += lo * ss[i]
		}
		return strided(c.Pool, y, x, part, ds, do, ss, so)
	}, nil
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
		out[i] = Unknown
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

// ---- DepthToSpace, SpaceToDepth, ReverseSequence, Trilu

func blockSize(n *Node) (int, error) {
	b := n.Int("blocksize", 0)
	if b < 1 || b > 1<<20 {
		return 0, fmt.Errorf("blocksize %d", b)
	}
	return int(b), nil
}

func inferDepthToSpace(n *Node) ([]Info, error) {
	in := n.Info(0)
	b, err := blockSize(n)
	if err != nil {
		return nil, err
	}
	if !in.Ranked {
		return []Info{Tensor(in.DType, unknownDims(4)...)}, nil
	}
	if len(in.Shape) != 4 {
		return nil, fmt.Errorf("the input has rank %d, not 4", len(in.Shape))
	}
	if ch := in.Shape[1]; ch.Known() && ch.N%(b*b) != 0 {
		return nil, fmt.Errorf("dimension 1 of %d does not divide by %d", ch.N, b*b)
	}
	up := func(v int) int { return v * b }
	return []Info{Tensor(in.DType, in.Shape[0], in.Shape[1].Map(func(v int) int { return v / (b * b) }), in.Shape[2].Map(up), in.Shape[3].Map(up))}, nil
}

func inferSpaceToDepth(n *Node) ([]Info, error) {
	in := n.Info(0)
	b, err := blockSize(n)
	if err != nil {
		return nil, err
	}
	if !in.Ranked {
		return []Info{Tensor(in.DType, unknownDims(4)...)}, nil
	}
	if len(in.Shape) != 4 {
		return nil, fmt.Errorf("the input has rank %d, not 4", len(in.Shape))
	}
	for i, d := range in.Shape[2:] {
		if d.Known() && d.N%b != 0 {
			return nil, fmt.Errorf("dimension %d of %d does not divide by %d", i+2, d.N, b)
		}
	}
	down := func(v int) int { return v / b }
	return []Info{Tensor(in.DType, in.Shape[0], in.Shape[1].Map(func(v int) int { return v * b * b }), in.Shape[2].Map(down), in.Shape[3].Map(down))}, nil
}

// blockStrides walks the space side (n, h, by, w, bx, c) and the depth side at once.
func blockStrides(n, c, h, w, b int, crd bool) (shape, space, depth []int) {
	// c, h, w: of the depth side after taking c/(b*b)
	shape = []int{n, c, h, b, w, b}
	space = []int{c * h * b * w * b, h * b * w * b, b * w * b, w * b, b, 1}
	if crd { // channel = (c, by, bx)
		depth = []int{c * b * b * h * w, b * b * h * w, w, b * h * w, 1, h * w}
	} else { // channel = (by, bx, c)
		depth = []int{c * b * b * h * w, h * w, w, b * c * h * w, 1, c * h * w}
	}
	return shape, space, depth
}

func compileDepthToSpace(n *Node) (Kernel, error) {
	mode := n.Str("mode", "DCR")
	if mode != "DCR" && mode != "CRD" {
		return nil, fmt.Errorf("mode %q is not known", mode)
	}
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		node := *c.Node
		node.In = []Info{InfoOf(x, false)}
		if _, err := inferDepthToSpace(&node); err != nil {
			return err
		}
		b, _ := blockSize(c.Node)
		s := x.Shape()
		shape, space, depth := blockStrides(s[0], s[1]/(b*b), s[2], s[3], b, mode == "CRD")
		y, err := c.Alloc(0, x.DType(), s[0], s[1]/(b*b), s[2]*b, s[3]*b)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, x, shape, space, 0, depth, 0)
	}, nil
}

func compileSpaceToDepth(n *Node) (Kernel, error) {
	crd := n.Op == "SpaceToDepthCRD"
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		node := *c.Node
		node.In = []Info{InfoOf(x, false)}
		if _, err := inferSpaceToDepth(&node); err != nil {
			return err
		}
		b, _ := blockSize(c.Node)
		s := x.Shape()
		shape, space, depth := blockStrides(s[0], s[1], s[2]/b, s[3]/b, b, crd)
		y, err := c.Alloc(0, x.DType(), s[0], s[1]*b*b, s[2]/b, s[3]/b)
		if err != nil {
			return err
		}
		return strided(c.Pool, y, x, shape, depth, 0, space, 0)
	}, nil
}

func gradDepthToSpace(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	b := IntAttr("blocksize", n.Int("blocksize", 0))
	if n.Str("mode", "DCR") == "CRD" {
		return g.Internal("SpaceToDepthCRD", 1, []*onnx.Value{dy[0]}, b), nil
	}
	return g.Node("SpaceToDepth", 1, []*onnx.Value{dy[0]}, b), nil
}

func gradSpaceToDepth(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Node("DepthToSpace", 1, []*onnx.Value{dy[0]}, IntAttr("blocksize", n.Int("blocksize", 0))), nil
}

func compileReverseSequence(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		lens, err := tensorIn(c, 1)
		if err != nil {
			return err
		}
		ba, err := c.Node.Axis("batch_axis", 1, x.Rank())
		if err != nil {
			return err
		}
		ta, err := c.Node.Axis("time_axis", 0, x.Rank())
		if err != nil {
			return err
		}
		if ba == ta {
			return fmt.Errorf("batch and time are both axis %d", ba)
		}
		v, err := lens.Int64s()
		if err != nil {
			return err
		}
		shape := x.Shape()
		if len(v) != shape[ba] {
			return fmt.Errorf("%d sequence lengths for dimension %d of %d", len(v), ba, shape[ba])
		}
		y, err := c.Alloc(0, x.DType(), shape...)
		if err != nil {
			return err
		}
		st := rowMajor(shape)
		part := slices.Clone(shape)
		part[ba] = 1
		back := slices.Clone(st)
		back[ta] = -st[ta]
		for b, l := range v {
			if l < 0 || l > int64(shape[ta]) {
				return fmt.Errorf("length %d of sequence %d is outside dimension %d of %d", l, b, ta, shape[ta])
			}
			k, off := int(l), b*st[ba]
			part[ta] = k
			if err := strided(c.Pool, y, x, part, st, off, back, off+max(0, k-1)*st[ta]); err != nil {
				return err
			}
			part[ta] = shape[ta] - k
			if err := strided(c.Pool, y, x, part, st, off+k*st[ta], st, off+k*st[ta]); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func compileTrilu(n *Node) (Kernel, error) {
	upper := n.Int("upper", 1) != 0
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		k := int64(0)
		if t := c.In(1); t != nil {
			if k, err = scalarInt(t, "k"); err != nil {
				return err
			}
		}
		if x.Rank() < 2 || x.DType() == tensor.String {
			return fmt.Errorf("no triangle of %s", x)
		}
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		rows, cols := x.Shape()[x.Rank()-2], x.Shape()[x.Rank()-1]
		if x.Len() == 0 {
			return nil
		}
		k = min(max(k, -int64(rows)), int64(cols))
		size := x.DType().Size()
		dst, src := y.Bytes(), x.Bytes()
		c.Pool.For(x.Len()/cols, max(1, moveGrain/cols), func(lo, hi int) {
			for r := lo; r < hi; r++ {
				// upper keeps from i+k on, lower up to i+k included
				at := r%rows + int(k)
				if !upper {
					at++
				}
				at = min(max(at, 0), cols) * size
				d, s := dst[r*cols*size:(r+1)*cols*size], src[r*cols*size:(r+1)*cols*size]
				if upper {
					clear(d[:at])
					copy(d[at:], s[at:])
				} else {
					copy(d[:at], s[:at])
					clear(d[at:])
				}
			}
		})
		return nil
	}, nil
}

// ---- OneHot, NonZero, Compress

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

func inferOneHot(n *Node) ([]Info, error) {
	in, d := n.Info(0), n.Info(2).DType
	if !in.Ranked {
		return []Info{Unranked(d)}, nil
	}
	axis, err := n.Axis("axis", -1, len(in.Shape)+1)
	if err != nil {
		return nil, err
	}
	depth := Unknown
	if c := n.Info(1).Const; c != nil {
		k, err := oneHotDepth(c)
		if err != nil {
			return nil, err
		}
		depth = D(k)
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
		return []Info{Tensor(tensor.Int64, D(r), Unknown)}, nil
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

// ---- TopK, Unique, CumSum

func inferTopK(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType), Unranked(tensor.Int64)}, nil
	}
	axis, err := n.Axis("axis", -1, len(in.Shape))
	if err != nil {
		return nil, err
	}
	d := Unknown
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

func compileCumSum(*Node) (Kernel, error) {
	return Table{
		tensor.Float32: cumulate(sums[float32]), tensor.Float64: cumulate(sums[float64]), tensor.Int32: cumulate(sums[int32]), tensor.Int64: cumulate(sums[int64]),
		tensor.Uint32: cumulate(sums[uint32]), tensor.Uint64: cumulate(sums[uint64]),
	}.By(0), nil
}

func compileCumProd(*Node) (Kernel, error) {
	return Table{
		tensor.Float32: cumulate(products[float32]), tensor.Float64: cumulate(products[float64]), tensor.Int32: cumulate(products[int32]), tensor.Int64: cumulate(products[int64]),
		tensor.Uint32: cumulate(products[uint32]), tensor.Uint64: cumulate(products[uint64]),
	}.By(0), nil
}

// sums sets a lane's n elements, from at in steps, to the sums up to each.
func sums[T arith](dst, src []T, at, step, n int, exclusive bool) {
	var sum T
	for range n {
		v := src[at]
		if exclusive {
			dst[at] = sum
			sum += v
		} else {
			sum += v
			dst[at] = sum
		}
		at += step
	}
}

func products[T arith](dst, src []T, at, step, n int, exclusive bool) {
	p := T(1)
	for range n {
		v := src[at]
		if exclusive {
			dst[at] = p
			p *= v
		} else {
			p *= v
			dst[at] = p
		}
		at += step
	}
}

// cumulate runs a kernel over each lane of the axis that input 1 names.
func cumulate[T arith](lane func(dst, src []T, at, step, n int, exclusive bool)) Kernel {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		a, err := scalarInt(c.In(1), "the axis")
		if err != nil {
			return err
		}
		axis, err := NormAxis(a, x.Rank())
		if err != nil {
			return err
		}
		exclusive, reverse := c.Node.Int("exclusive", 0) != 0, c.Node.Int("reverse", 0) != 0
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		if x.Len() == 0 {
			return nil
		}
		src, dst := tensor.View[T](x), tensor.View[T](y)
		d, inner := x.Shape()[axis], product(x.Shape()[axis+1:])
		c.Pool.For(x.Len()/d, max(1, moveGrain/d), func(lo, hi int) {
			for l := lo; l < hi; l++ {
				at, step := l/inner*d*inner+l%inner, inner
				if reverse {
					at, step = at+(d-1)*inner, -inner
				}
				lane(dst, src, at, step, d, exclusive)
			}
		})
		return nil
	}
}

func compileCumProdGrad(*Node) (Kernel, error) {
	return Table{tensor.Float32: cumProdGrad[float32], tensor.Float64: cumProdGrad[float64]}.By(0), nil
}

// cumProdGrad needs no division, so that zeros in X are as good as anything: of element i the gradient is
// the product of those before it, times what follows from dY and the elements after it, taken from the end.
func cumProdGrad[T kernel.Float](c *Ctx) error {
	x, err := tensorIn(c, 2)
	if err != nil {
		return err
	}
	if err := sameElem(x, c.In(0)); err != nil {
		return err
	}
	if !slices.Equal(x.Shape(), c.In(0).Shape()) {
		return fmt.Errorf("a gradient of %v does not suit an input of %v", c.In(0).Shape(), x.Shape())
	}
	xs := tensor.Data[T](x)
	return cumulate(func(dst, dy []T, at, step, n int, exclusive bool) {
		p, i := T(1), at
		for range n {
			dst[i] = p
			p *= xs[i]
			i += step
		}
		var rest T // Σ over outputs from here on of dy · the product of the elements after this one
		for range n {
			i -= step
			if exclusive {
				dst[i] *= rest
				rest = dy[i] + xs[i]*rest
			} else {
				rest += dy[i]
				dst[i] *= rest
				rest *= xs[i]
			}
		}
	})(c)
}

func gradCumSum(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return []*onnx.Value{g.With("CumSum", []*onnx.Attribute{
		IntAttr("exclusive", n.Int("exclusive", 0)), IntAttr("reverse", 1-n.Int("reverse", 0)),
	}, dy[0], n.Inputs[1]), nil}, nil
}
