package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Transpose and the other ways to put the same elements in another order.
func init() {
	register(
		Op{Name: "Transpose", Since: []int{1, 13, 21, 23, 24, 25}, MinIn: 1, Infer: inferTranspose, Moves: []int{0}, Compile: compileTranspose, Grad: gradTranspose},
		Op{Name: "DepthToSpace", Since: []int{1, 11, 13}, MinIn: 1, Infer: inferDepthToSpace, Compile: compileDepthToSpace, Grad: gradDepthToSpace},
		Op{Name: "SpaceToDepth", Since: []int{1, 13}, MinIn: 1, Infer: inferSpaceToDepth, Compile: compileSpaceToDepth, Grad: gradSpaceToDepth},
		Op{Domain: Internal, Name: "SpaceToDepthCRD", Since: []int{1}, MinIn: 1, Infer: inferSpaceToDepth, Compile: compileSpaceToDepth, Portable: portableSpaceToDepthCRD},
		Op{Name: "ReverseSequence", Since: []int{10}, MinIn: 2, Infer: SameAs(0), Compile: compileReverseSequence, Grad: gradSame},
		Op{Name: "Trilu", Since: []int{14}, MinIn: 1, MaxIn: 2, Infer: SameAs(0), Compile: compileTrilu, Grad: gradSame},
	)
}

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
		t, err := Keep(c, func() (*arrangement, error) { return planTranspose(c.Node, x.Shape()) })
		if err != nil {
			return err
		}
		return t.into(c, x)
	}, nil
}

func planTranspose(n *Node, from []int) (*arrangement, error) {
	perm, err := permOf(n, len(from))
	if err != nil {
		return nil, err
	}
	shape, ss := make([]int, len(perm)), make([]int, len(perm))
	rs := rowMajor(from)
	for i, p := range perm {
		shape[i], ss[i] = from[p], rs[p]
	}
	return arrange(shape, ss, 0), nil
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
	return []Info{Tensor(in.DType, in.Shape[0], in.Shape[1].FloorDiv(D(b*b)), in.Shape[2].Mul(D(b)), in.Shape[3].Mul(D(b)))}, nil
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
	return []Info{Tensor(in.DType, in.Shape[0], in.Shape[1].Mul(D(b*b)), in.Shape[2].FloorDiv(D(b)), in.Shape[3].FloorDiv(D(b)))}, nil
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
		a, err := Keep(c, func() (*arrangement, error) {
			node := *c.Node
			node.In = []Info{InfoOf(x, false)}
			if _, err := inferDepthToSpace(&node); err != nil {
				return nil, err
			}
			b, _ := blockSize(c.Node)
			s := x.Shape()
			shape, space, depth := blockStrides(s[0], s[1]/(b*b), s[2], s[3], b, mode == "CRD")
			return &arrangement{[]int{s[0], s[1] / (b * b), s[2] * b, s[3] * b}, planMovement(shape, space, 0, depth, 0)}, nil
		})
		if err != nil {
			return err
		}
		return a.into(c, x)
	}, nil
}

func compileSpaceToDepth(n *Node) (Kernel, error) {
	crd := n.Op == "SpaceToDepthCRD"
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		a, err := Keep(c, func() (*arrangement, error) {
			node := *c.Node
			node.In = []Info{InfoOf(x, false)}
			if _, err := inferSpaceToDepth(&node); err != nil {
				return nil, err
			}
			b, _ := blockSize(c.Node)
			s := x.Shape()
			shape, space, depth := blockStrides(s[0], s[1], s[2]/b, s[3]/b, b, crd)
			return &arrangement{[]int{s[0], s[1] * b * b, s[2] / b, s[3] / b}, planMovement(shape, depth, 0, space, 0)}, nil
		})
		if err != nil {
			return err
		}
		return a.into(c, x)
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

func portableSpaceToDepthCRD(g *Grad, n *Node) ([]*onnx.Value, error) {
	b := g.Int64s(n.Int("blocksize", 0))
	dim := func(a int64) *onnx.Value { return g.Dims(n.Inputs[0], a) }
	high, wide := g.Op("Div", dim(2), b), g.Op("Div", dim(3), b)
	x := g.Reshape(n.Inputs[0], g.Concat(dim(0), dim(1), high, b, wide, b))
	return []*onnx.Value{g.Reshape(g.Transpose(x, 0, 1, 3, 5, 2, 4), g.Concat(dim(0), g.Op("Mul", dim(1), g.Op("Mul", b, b)), high, wide))}, nil
}
