package ops

import (
	"fmt"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Operators on images whose channels lie in blocks, N×⌈C/B⌉×spatial×B (see [kernel.Block]), of one or two spatial axes. A
// pass puts them in the place of convolutions and of what lies between them. The lanes past C are finite numbers of no meaning.
func init() {
	float := []TypeSet{Of(tensor.Float32)}
	lowered := "it is only put in when a graph is run"
	register(
		Op{Domain: Internal, Name: "ToBlocked", Since: []int{1}, MinIn: 1, Types: float, NoGrad: lowered,
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				if len(x.Shape) < 2 {
					return nil, fmt.Errorf("an input of %v has no channels", x.Shape)
				}
				return []Info{blockedInfo(x.Shape)}, nil
			},
			Compile: Table{tensor.Float32: toBlocked}.Always(0)},
		// The attribute channels is C.
		Op{Domain: Internal, Name: "FromBlocked", Since: []int{1}, MinIn: 1, Types: float, NoGrad: lowered,
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				channels := n.Int("channels", 0)
				if len(x.Shape) < 3 || channels < 0 {
					return nil, fmt.Errorf("an input of %v is not of %d channels in blocks", x.Shape, channels)
				}
				out := slices.Clone(x.Shape[:len(x.Shape)-1])
				out[1] = D(int(channels))
				return []Info{Tensor(tensor.Float32, out...)}, nil
			},
			Compile: Table{tensor.Float32: fromBlocked}.Always(0)},
		// X in blocks or, if it has no more axes than W, not; W and B constants, and a residual in blocks, which is added.
		Op{Domain: Internal, Name: "BlockedConv", Since: []int{1}, MinIn: 2, MaxIn: 4, Types: float, NoGrad: lowered,
			Infer: inferBlockedConv, Compile: compileBlockedConv, FLOPs: func(c *Ctx) int64 { // of channels that fill blocks, too
				return tapFLOPs(c.Out(0).Len(), c.In(1))
			}},
		Op{Domain: Internal, Name: "BlockedMaxPool", Since: []int{1}, MinIn: 1, Types: float, NoGrad: lowered,
			Infer: inferBlockedPool, Compile: Table{tensor.Float32: blockedPool(kernel.BlockedMaxPool)}.Always(0)},
		// Padding counts.
		Op{Domain: Internal, Name: "BlockedAveragePool", Since: []int{1}, MinIn: 1, Types: float, NoGrad: lowered,
			Infer: inferBlockedPool, Compile: Table{tensor.Float32: blockedPool(kernel.BlockedAveragePool)}.Always(0)},
		Op{Domain: Internal, Name: "BlockedMean", Since: []int{1}, MinIn: 1, Types: float, NoGrad: lowered,
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				out := slices.Clone(x.Shape)
				for i := 2; i < len(out)-1; i++ {
					out[i] = D(1)
				}
				return []Info{Tensor(tensor.Float32, out...)}, nil
			},
			Compile: Table{tensor.Float32: blockedMean}.Always(0)},
		// X·scale + bias with a number for each channel: scale and bias are of N×⌈C/B⌉×1…×B, or N is 1. One of them may be left out.
		Op{Domain: Internal, Name: "BlockedScale", Since: []int{1}, MinIn: 1, MaxIn: 3, Types: float, NoGrad: lowered,
			Infer: SameAs(0), InPlace: []int{0}, Compile: compileBlockedScale},
	)
}

// blockedInfo is what is known of an image of that shape in blocks.
func blockedInfo(shape []Dim) Info {
	b := max(1, kernel.Block())
	out := append(slices.Clone(shape), D(b))
	out[1] = shape[1].CeilDiv(D(b))
	return Tensor(tensor.Float32, out...)
}

// BlockedConstant is one number for each channel as operators on blocks take it, for images of that many axes.
func BlockedConstant(values []float32, rank int) *tensor.Tensor {
	b := max(1, kernel.Block())
	shape := make([]int, rank+1)
	for i := range shape {
		shape[i] = 1
	}
	shape[1], shape[rank] = (len(values)+b-1)/b, b
	out := make([]float32, shape[1]*b)
	copy(out, values)
	return tensor.New(out, shape...)
}

// BlockableConv reports whether BlockedConv computes a convolution with weights of ws: one or two spatial axes, and channels that fill blocks.
func BlockableConv(ws []int, group int64) bool {
	if len(ws) < 3 || len(ws) > 4 || product(ws) == 0 || group < 1 || int64(ws[0])%group != 0 || kernel.Block() == 0 {
		return false
	}
	return kernel.Blockable(weightsShape(ws, int(group)))
}

// weightsShape is a convolution with weights of ws, of no input yet.
func weightsShape(ws []int, group int) kernel.Conv2D {
	cv := kernel.Conv2D{N: 1, M: ws[0], C: ws[1] * group, Group: group, H: 1, W: 1, KH: 1, KW: ws[len(ws)-1]}
	if len(ws) == 4 {
		cv.KH = ws[2]
	}
	return cv
}

func toBlocked(c *Ctx) error {
	x, b := c.In(0), kernel.Block()
	if x.Rank() < 2 || b == 0 {
		return fmt.Errorf("an input of %v cannot be cut into blocks of %d channels", x.Shape(), b)
	}
	xs := x.Shape()
	shape := Scratch[[]int](c)
	*shape = append(append((*shape)[:0], xs...), b)
	(*shape)[1] = (xs[1] + b - 1) / b
	y, err := c.Alloc(0, tensor.Float32, *shape...)
	if err != nil {
		return err
	}
	kernel.ToBlocks(c.Pool, tensor.Data[float32](y), tensor.Data[float32](x), xs[0], xs[1], product(xs[2:]))
	return nil
}

func fromBlocked(c *Ctx) error {
	x, channels := c.In(0), int(c.Node.Int("channels", 0))
	xs := x.Shape()
	last := len(xs) - 1
	if last < 2 || xs[last] != kernel.Block() || channels > xs[1]*xs[last] || channels < 0 {
		return fmt.Errorf("an input of %v is not of %d channels in blocks", xs, channels)
	}
	shape := Scratch[[]int](c)
	*shape = append((*shape)[:0], xs[:last]...)
	(*shape)[1] = channels
	y, err := c.Alloc(0, tensor.Float32, *shape...)
	if err != nil {
		return err
	}
	kernel.FromBlocks(c.Pool, tensor.Data[float32](y), tensor.Data[float32](x), xs[0], channels, product(xs[2:last]))
	return nil
}

// plain is n as an operator on an image of channels not in blocks.
func plain(n *Node, channels Dim) *Node {
	m := *n
	m.In = slices.Clone(n.In)
	x := n.In[0]
	shape := slices.Clone(x.Shape[:len(x.Shape)-1])
	shape[1] = channels
	m.In[0] = Tensor(tensor.Float32, shape...)
	return &m
}

func inferBlockedConv(n *Node) ([]Info, error) {
	x, w := n.In[0], n.In[1]
	if !x.Ranked || !w.Ranked {
		return []Info{Unranked(tensor.Float32)}, nil
	}
	m := n
	if r := len(w.Shape); len(x.Shape) == r+1 && r >= 2 {
		m = plain(n, Unknown)
	} else if len(x.Shape) != r {
		return nil, fmt.Errorf("weights of %v do not suit an image of %v", w.Shape, x.Shape)
	}
	out, err := inferConv(false)(m)
	if err != nil {
		return nil, err
	}
	return []Info{blockedInfo(out[0].Shape)}, nil
}

func compileBlockedConv(n *Node) (Kernel, error) {
	e, err := endingOf(n)
	if err != nil {
		return nil, err
	}
	w, bias := n.Info(1).Const, []float32(nil)
	if w == nil || n.Has(2) && n.Info(2).Const == nil || !BlockableConv(w.Shape(), n.Int("group", 1)) {
		return nil, fmt.Errorf("the weights are no constants for images in blocks")
	}
	ws := w.Shape()
	if n.Has(2) {
		if bias = tensor.Data[float32](n.Info(2).Const); len(bias) != ws[0] {
			return nil, fmt.Errorf("a bias of %d does not suit %d output channels", len(bias), ws[0])
		}
	}
	packed := sync.OnceValue(func() *kernel.BlockWeights {
		return kernel.PackBlocks(weightsShape(ws, int(n.Int("group", 1))), tensor.Data[float32](w), bias)
	})
	return func(c *Ctx) error {
		x, b := c.In(0), kernel.Block()
		planar := x.Rank() == len(ws)
		s, err := Keep(c, func() (*convShape, error) {
			xs := x.Shape()
			if !planar {
				if len(xs) != len(ws)+1 || xs[len(xs)-1] != b || xs[1] != (ws[1]*int(c.Node.Int("group", 1))+b-1)/b {
					return nil, fmt.Errorf("an input of %v does not suit weights of %v", xs, ws)
				}
				xs = slices.Clone(xs[:len(ws)])
				xs[1] = ws[1] * int(c.Node.Int("group", 1))
			}
			s, err := shapeOfConv(c.Node, xs, ws, false)
			if err != nil {
				return nil, err
			}
			s.output = append(s.output, b)
			s.output[1] = (s.m + b - 1) / b
			return s, nil
		})
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, tensor.Float32, s.output...)
		if err != nil {
			return err
		}
		var residual []float32
		if r := c.In(3); r != nil {
			if !slices.Equal(r.Shape(), s.output) {
				return fmt.Errorf("a residual of %v does not suit an output of %v", r.Shape(), s.output)
			}
			residual = tensor.Data[float32](r)
		}
		cv, _ := s.flat()
		kernel.BlockedConv(c.Pool, cv, tensor.Data[float32](y), tensor.Data[float32](x), planar, packed(), epilogue(c, e, nil, nil, residual, 0))
		return nil
	}, nil
}

func inferBlockedPool(n *Node) ([]Info, error) {
	if !n.In[0].Ranked || len(n.In[0].Shape) < 4 {
		return []Info{Unranked(tensor.Float32)}, nil
	}
	out, err := inferPool(plain(n, Unknown))
	if err != nil {
		return nil, err
	}
	shape := append(out[0].Shape, n.In[0].Shape[len(n.In[0].Shape)-1])
	shape[1] = n.In[0].Shape[1]
	return []Info{Tensor(tensor.Float32, shape...)}, nil
}

// blockedPool is a pooling of windows of which each has an element of the image.
func blockedPool(pool func(p *kernel.Pool, cv kernel.Conv2D, y, x []float32)) Kernel {
	return func(c *Ctx) error {
		x, b := c.In(0), kernel.Block()
		xs := x.Shape()
		rank := len(xs) - 3
		if rank < 1 || rank > 2 || xs[len(xs)-1] != b {
			return fmt.Errorf("an input of %v is not in blocks", xs)
		}
		s, err := Keep(c, func() (*convShape, error) {
			w, err := poolWindow(c.Node, rank)
			if err != nil {
				return nil, err
			}
			s := &convShape{n: xs[0], c: xs[1] * b, m: xs[1] * b, group: 1, in: xs[2 : 2+rank], kernel: w.kernel, stride: w.stride, dil: w.dil,
				out: make([]int, rank), begin: make([]int, rank), end: make([]int, rank)}
			for i, d := range s.in {
				if s.out[i], s.begin[i], s.end[i], err = w.axis(i, d); err != nil {
					return nil, err
				}
				// What ceil_mode adds at the end.
				s.end[i] = max(s.end[i], (s.out[i]-1)*w.stride[i]+w.reach(i)-d-s.begin[i])
			}
			s.output = append([]int{xs[0], xs[1]}, s.out...)
			s.output = append(s.output, b)
			return s, nil
		})
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, tensor.Float32, s.output...)
		if err != nil {
			return err
		}
		cv, _ := s.flat()
		pool(c.Pool, cv, tensor.Data[float32](y), tensor.Data[float32](x))
		return nil
	}
}

func blockedMean(c *Ctx) error {
	x := c.In(0)
	xs := x.Shape()
	if len(xs) < 4 || xs[len(xs)-1] != kernel.Block() {
		return fmt.Errorf("an input of %v is not in blocks", xs)
	}
	pix := product(xs[2 : len(xs)-1])
	if pix == 0 {
		return fmt.Errorf("an image of %v has no mean", xs)
	}
	shape := Scratch[[]int](c)
	*shape = append((*shape)[:0], xs...)
	for i := 2; i < len(xs)-1; i++ {
		(*shape)[i] = 1
	}
	y, err := c.Alloc(0, tensor.Float32, *shape...)
	if err != nil {
		return err
	}
	if y.Len() > 0 {
		kernel.BlockedMean(c.Pool, tensor.Data[float32](y), tensor.Data[float32](x), pix)
	}
	return nil
}

func compileBlockedScale(n *Node) (Kernel, error) {
	e, err := endingOf(n)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		x := c.In(0)
		xs, b := x.Shape(), kernel.Block()
		last := len(xs) - 1
		if last < 3 || xs[last] != b {
			return fmt.Errorf("an input of %v is not in blocks", xs)
		}
		y, err := c.Alloc(0, tensor.Float32, xs...)
		if err != nil {
			return err
		}
		operand := func(i int) ([]float32, error) {
			t := c.In(i)
			if t == nil {
				return nil, nil
			}
			if ts := t.Shape(); t.Rank() != len(xs) || ts[0] != 1 && ts[0] != xs[0] || ts[1] != xs[1] || ts[last] != b || t.Len() != ts[0]*ts[1]*b {
				return nil, fmt.Errorf("%v has no number for each channel of %v", ts, xs)
			}
			return tensor.Data[float32](t), nil
		}
		scale, err := operand(1)
		if err != nil {
			return err
		}
		bias, err := operand(2)
		if err != nil {
			return err
		}
		kernel.BlockedScale(c.Pool, tensor.Data[float32](y), tensor.Data[float32](x), scale, bias, xs[0]*xs[1], product(xs[2:last]), epilogue[float32](c, e, nil, nil, nil, 0))
		return nil
	}, nil
}
