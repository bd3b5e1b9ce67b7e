package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Mixtures of experts: a router sends each token to a few of many feed-forward networks, whose answers are added by its weights.
func init() {
	op := func(name string, minIn, maxIn int, expand func(g *Grad, n *Node) (*onnx.Value, error)) Op {
		return Op{Domain: "com.microsoft", Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, Expand: func(g *Grad, n *Node) ([]*onnx.Value, error) {
			y, err := expand(g, n)
			return []*onnx.Value{y}, err
		}}
	}
	register(
		op("MoE", 3, 8, func(g *Grad, n *Node) (*onnx.Value, error) {
			if n.Has(6) || n.Has(7) {
				return nil, fmt.Errorf("a third product (fc3) is not supported")
			}
			if !n.Has(4) {
				return nil, fmt.Errorf("input 4 is left out but required")
			}
			k, err := expertsOf(n)
			if err != nil {
				return nil, err
			}
			chosen, weights := g.topExperts(g.With("Softmax", []*onnx.Attribute{IntAttr("axis", -1)}, n.Inputs[1]), k)
			if n.Int("normalize_routing_weights", 0) != 0 {
				weights = g.Div(weights, g.ReduceSum(weights, true, 1))
			}
			return g.mixture(n, n.Inputs[0], chosen, weights, k, n.Inputs[2], n.Input(3), n.Inputs[4], n.Input(5))
		}),
		op("QMoE", 3, 15, qMoE),
		// X·Wᵀ, row by row, each by the matrix of W [experts, N, K] that the row's entry of the third input says.
		Op{Domain: Internal, Name: "ExpertMatMul", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Of(tensor.Int64)},
			Infer: func(n *Node) ([]Info, error) {
				x, w := n.In[0], n.In[1]
				if x.Rank() >= 0 && x.Rank() != 2 || w.Rank() >= 0 && w.Rank() != 3 {
					return nil, fmt.Errorf("rows of rank %d and matrices of rank %d do not multiply", x.Rank(), w.Rank())
				}
				if !x.Ranked || !w.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				if a, b := x.Shape[1], w.Shape[2]; a.Known() && b.Known() && a.N != b.N {
					return nil, fmt.Errorf("rows of %v do not suit matrices of %v", x.Shape, w.Shape)
				}
				return []Info{Tensor(x.DType, x.Shape[0], w.Shape[1])}, nil
			},
			Compile: Table{tensor.Float32: expertMatMul[float32], tensor.Float64: expertMatMul[float64]}.Always(0),
			FLOPs:   matMulFLOPs,
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				dx := g.Internal("ExpertMatMul", 1, []*onnx.Value{dy[0], g.Transpose(n.Inputs[1], 0, 2, 1), n.Inputs[2]})[0]
				dw := g.Internal("ExpertMatMulGrad", 1, []*onnx.Value{dy[0], n.Inputs[0], n.Inputs[2], n.Inputs[1]})[0]
				return []*onnx.Value{dx, dw, nil}, nil
			},
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				last := g.Int64s(2)
				y := g.MatMul(g.Op("Gather", n.Inputs[1], n.Inputs[2]), g.Op("Unsqueeze", n.Inputs[0], last))
				return []*onnx.Value{g.Op("Squeeze", y, last)}, nil
			}},
		// The gradient by W: of each expert dYᵀ·X over its rows.
		Op{Domain: Internal, Name: "ExpertMatMulGrad", Since: []int{1}, MinIn: 4, Types: []TypeSet{Floats, Floats, Of(tensor.Int64), Floats}, Infer: SameAs(3),
			Compile: Table{tensor.Float32: expertMatMulGrad[float32], tensor.Float64: expertMatMulGrad[float64]}.Always(0),
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				dy, x, w := n.Inputs[0], n.Inputs[1], n.Inputs[3]
				each := g.Mul(g.Op("Unsqueeze", dy, g.Int64s(2)), g.Op("Unsqueeze", x, g.Int64s(1)))
				return g.Node("ScatterND", 1, []*onnx.Value{g.Fill(w, g.Shape(w), 0), g.Op("Unsqueeze", n.Inputs[2], g.Int64s(1)), each}, StringAttr("reduction", "add")), nil
			}},
	)
}

// expertsOf is how many experts a token goes to.
func expertsOf(n *Node) (int64, error) {
	k := n.Int("k", 1)
	if probs := n.In[1]; probs.Ranked && (len(probs.Shape) != 2 || probs.Shape[1].Known() && k > int64(probs.Shape[1].N)) || k < 1 {
		return 0, fmt.Errorf("k %d does not suit a router of %v", k, probs.Shape)
	}
	if n.Int("use_sparse_mixer", 0) != 0 {
		return 0, fmt.Errorf("use_sparse_mixer is not supported")
	}
	return k, nil
}

// topExperts is the numbers of the k experts that each token has the greatest scores [tokens, experts] for, and the scores. Of equal ones the last are
// taken, as ONNX Runtime does.
func (g *Grad) topExperts(scores *onnx.Value, k int64) (chosen, best *onnx.Value) {
	reversed := g.Op("Slice", scores, g.Int64s(-1), g.Int64s(math.MinInt64), g.Int64s(1), g.Int64s(-1))
	top := g.Node("TopK", 2, []*onnx.Value{reversed, g.Int64s(k)}, IntAttr("axis", 1))
	last := g.Sub(g.Dim(scores, 1), g.Const(tensor.Scalar(int64(1))))
	return g.Sub(last, top[1]), top[0]
}

// mixture is the sum, by weights [tokens, k], of what the chosen experts [tokens, k] make of each token of x: FC2·act(FC1·x + bias) + bias. Numbers of
// 16 bits are float32s on the way.
func (g *Grad) mixture(n *Node, x, chosen, weights *onnx.Value, k int64, w1, b1, w2, b2 *onnx.Value) (*onnx.Value, error) {
	half := g.DType(x)
	if half == tensor.Float16 || half == tensor.BFloat16 {
		for _, v := range []**onnx.Value{&x, &weights, &w1, &b1, &w2, &b2} {
			if *v != nil {
				*v = g.Cast(*v, tensor.Float32)
			}
		}
	}
	width := g.Dims(x, -1)
	rows := g.Op("Reshape", x, g.Concat(g.Int64s(-1), width))
	rows = g.Op("Reshape", g.Op("Expand", g.Op("Unsqueeze", rows, g.Int64s(1)), g.Concat(g.Int64s(1, k), width)), g.Concat(g.Int64s(-1), width)) // one for each expert
	of := g.Flat(chosen)
	linear := func(x, w, b *onnx.Value) *onnx.Value {
		y := g.Internal("ExpertMatMul", 1, []*onnx.Value{x, w, of})[0]
		if b != nil {
			y = g.Add(y, g.Op("Gather", b, of))
		}
		return y
	}
	h, err := g.expertActivation(n, linear(rows, w1, b1))
	if err != nil {
		return nil, err
	}
	y := g.Mul(linear(h, w2, b2), g.Op("Reshape", weights, g.Int64s(-1, 1)))
	y = g.ReduceSum(g.Op("Reshape", y, g.Concat(g.Int64s(-1, k), width)), false, 1)
	return g.Cast(g.ReshapeLike(y, x), half), nil
}

func (g *Grad) expertActivation(n *Node, h *onnx.Value) (*onnx.Value, error) {
	switch name := n.Str("activation_type", "relu"); name {
	case "identity":
		return h, nil
	case "relu":
		return g.Op("Relu", h), nil
	case "gelu":
		return g.At(20, "Gelu", 1, []*onnx.Value{h}, StringAttr("approximate", "tanh"))[0], nil
	case "silu":
		return g.Mul(h, g.Op("Sigmoid", h)), nil
	case "swiglu": // gates and values in turn
		if n.Int("swiglu_fusion", 0) != 1 {
			return nil, fmt.Errorf("swiglu_fusion %d is not supported, 1 alone is", n.Int("swiglu_fusion", 0))
		}
		pairs := g.Op("Reshape", h, g.Concat(g.Dims(h, 0), g.Int64s(-1, 2)))
		part := func(i int64) *onnx.Value {
			return g.With("Gather", []*onnx.Attribute{IntAttr("axis", 2)}, pairs, g.Const(tensor.Scalar(i)))
		}
		gate, value := part(0), part(1)
		if n.Attr("swiglu_limit") != nil {
			limit := float64(n.Float("swiglu_limit", 0))
			gate = g.Op("Clip", gate, nil, g.Like(gate, limit))
			value = g.Op("Clip", value, g.Like(value, -limit), g.Like(value, limit))
		}
		swish := g.Mul(gate, g.Op("Sigmoid", g.Mul(gate, g.Like(gate, float64(n.Float("activation_alpha", 1))))))
		return g.Mul(swish, g.Add(value, g.Like(value, float64(n.Float("activation_beta", 0))))), nil
	default:
		return nil, fmt.Errorf("activation %q is not supported", name)
	}
}

// qMoE is MoE with weights of 2, 4 or 8 bits, a scale for each row or each block of one. The best experts' weights are the softmax of their own scores alone.
func qMoE(g *Grad, n *Node) (*onnx.Value, error) {
	k, err := expertsOf(n)
	if err != nil {
		return nil, err
	}
	for i := 8; i < len(n.Inputs); i++ {
		if i != 11 && i != 12 && i != 14 && n.Has(i) {
			return nil, fmt.Errorf("input %d is not supported", i)
		}
	}
	if kind := n.Str("quant_type", "int"); kind != "int" {
		return nil, fmt.Errorf("quant_type %q is not supported", kind)
	}
	for _, i := range []int{3, 5, 6} {
		if !n.Has(i) {
			return nil, fmt.Errorf("input %d is left out but required", i)
		}
	}
	w1, err := g.expertWeights(n, 2, 3, 11)
	if err != nil {
		return nil, err
	}
	w2, err := g.expertWeights(n, 5, 6, 12)
	if err != nil {
		return nil, err
	}
	chosen, weights := g.topExperts(n.Inputs[1], k)
	if n.Has(14) { // the experts' weights apart from what they are chosen by
		weights = g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", 1)}, n.Inputs[14], chosen)
		none := g.Like(weights, 0)
		if n.Int("normalize_routing_weights", 0) != 0 {
			sum := g.ReduceSum(weights, true, 1)
			weights = g.Op("Where", g.Op("Equal", sum, none), none, g.Div(weights, sum))
		}
		weights = g.Op("Where", g.Op("Greater", weights, g.Like(weights, 1e-8)), weights, none) // ONNX Runtime leaves the others out
	} else {
		weights = g.With("Softmax", []*onnx.Attribute{IntAttr("axis", 1)}, weights)
	}
	return g.mixture(n, n.Inputs[0], chosen, weights, k, w1, n.Input(4), w2, n.Input(7))
}

// expertWeights dequantizes the weights that are input at, [experts, rows, columns/(8/bits)], by the inputs scales and zeros.
func (g *Grad) expertWeights(n *Node, at, scales, zeros int) (*onnx.Value, error) {
	bits := n.Int("expert_weight_bits", 4)
	shape, ok := n.In[at].Static()
	of, known := n.In[scales].Static()
	if bits != 2 && bits != 4 && bits != 8 {
		return nil, fmt.Errorf("weights of %d bits are not supported", bits)
	}
	if !ok || !known || len(shape) != 3 || len(of) != 2 && len(of) != 3 || of[0] != shape[0] || of[1] != shape[1] || n.In[at].DType != tensor.Uint8 {
		return nil, fmt.Errorf("weights of %v and scales of %v do not go together, or are not known", n.In[at].Shape, n.In[scales].Shape)
	}
	per := 8 / bits
	experts, rows, columns, blocks := int64(shape[0]), int64(shape[1]), int64(shape[2])*per, int64(1)
	if len(of) == 3 {
		blocks = int64(of[2])
	}
	if size := n.Int("block_size", 0); blocks < 1 || columns%blocks != 0 || blocks > 1 && columns/blocks != size {
		return nil, fmt.Errorf("%d blocks of %d in %d columns", blocks, size, columns)
	}
	scale := n.Inputs[scales]
	if d := g.DType(scale); d == tensor.Float16 || d == tensor.BFloat16 {
		scale = g.Cast(scale, tensor.Float32)
	}
	to := g.DType(scale)
	w := g.Op("Reshape", g.Cast(g.unpack(n.Inputs[at], bits), to), g.Int64s(experts, rows, blocks, columns/blocks))
	zero := g.Like(w, float64(int64(1)<<(bits-1)))
	if n.Has(zeros) {
		z, ok := n.In[zeros].Static()
		all := g.Info(n.Inputs[zeros]).DType == tensor.Uint8 && ok && len(z) == len(of) && int64(z[0]) == experts
		switch {
		case all && len(z) == 3 && int64(z[1]) == rows && int64(z[2])*per >= blocks:
			v := g.Op("Slice", g.unpack(n.Inputs[zeros], bits), g.Int64s(0), g.Int64s(blocks), g.Int64s(2))
			zero = g.Op("Reshape", g.Cast(v, to), g.Int64s(experts, rows, blocks, 1))
		case all && len(z) == 2 && int64(z[1])*per >= rows:
			v := g.Op("Slice", g.unpack(n.Inputs[zeros], bits), g.Int64s(0), g.Int64s(rows), g.Int64s(1))
			zero = g.Op("Reshape", g.Cast(v, to), g.Int64s(experts, rows, 1, 1))
		default:
			return nil, fmt.Errorf("zero points of %v do not suit scales of %v", n.In[zeros].Shape, of)
		}
	}
	w = g.Mul(g.Sub(w, zero), g.Op("Reshape", scale, g.Int64s(experts, rows, blocks, 1)))
	return g.Op("Reshape", w, g.Int64s(experts, rows, columns)), nil
}

// byExpert lists rows in the order of their experts: those of expert e are rows[begin[e]:begin[e+1]].
func byExpert(of []int64, experts int) (rows, begin []int, err error) {
	begin = make([]int, experts+1)
	for _, e := range of {
		if e < 0 || e >= int64(experts) {
			return nil, nil, fmt.Errorf("there is no expert %d of %d", e, experts)
		}
		begin[e+1]++
	}
	for e := range experts {
		begin[e+1] += begin[e]
	}
	rows = make([]int, len(of))
	next := append([]int{}, begin...)
	for r, e := range of {
		rows[next[e]] = r
		next[e]++
	}
	return rows, begin, nil
}

// expertRows copies rows of n elements into the order listed.
func expertRows[T kernel.Float](c *Ctx, src []T, rows []int, n int) ([]T, error) {
	t, err := c.New(tensor.TypeOf[T](), len(rows), n)
	if err != nil {
		return nil, err
	}
	dst := tensor.Data[T](t)
	for i, r := range rows {
		copy(dst[i*n:(i+1)*n], src[r*n:])
	}
	return dst, nil
}

func expertMatMul[T kernel.Float](c *Ctx) error {
	if err := c.alike(1); err != nil {
		return err
	}
	w := c.In(1)
	experts, n, k := w.Shape()[0], w.Shape()[1], w.Shape()[2]
	rows, begin, err := byExpert(tensor.Data[int64](c.In(2)), experts)
	if err != nil {
		return err
	}
	if x := c.In(0); x.Shape()[0] != len(rows) || x.Shape()[1] != k {
		return fmt.Errorf("rows of %v do not suit %d experts' matrices of %v", x.Shape(), len(rows), w.Shape())
	}
	x, err := expertRows(c, tensor.Data[T](c.In(0)), rows, k)
	if err != nil {
		return err
	}
	t, err := c.New(tensor.TypeOf[T](), len(rows), n)
	if err != nil {
		return err
	}
	y, out := tensor.Data[T](t), tensor.Data[T](c.Out(0))
	for e := range experts {
		if lo, hi := begin[e], begin[e+1]; lo < hi && n > 0 {
			kernel.Gemm(c.Pool, false, true, hi-lo, n, k, 1, x[lo*k:hi*k], k, tensor.Data[T](w)[e*n*k:(e+1)*n*k], k, 0, y[lo*n:hi*n], n)
		}
	}
	for i, r := range rows {
		copy(out[r*n:(r+1)*n], y[i*n:])
	}
	return nil
}

func expertMatMulGrad[T kernel.Float](c *Ctx) error {
	if err := c.alike(1, 3); err != nil {
		return err
	}
	w := c.In(3)
	if w.Rank() != 3 {
		return fmt.Errorf("matrices of %v", w.Shape())
	}
	experts, n, k := w.Shape()[0], w.Shape()[1], w.Shape()[2]
	rows, begin, err := byExpert(tensor.Data[int64](c.In(2)), experts)
	if err != nil {
		return err
	}
	for i, width := range []int{n, k} {
		if s := c.In(i).Shape(); len(s) != 2 || s[0] != len(rows) || s[1] != width {
			return fmt.Errorf("input %d of %v does not suit %d rows and matrices of %v", i, s, len(rows), w.Shape())
		}
	}
	dy, err := expertRows(c, tensor.Data[T](c.In(0)), rows, n)
	if err != nil {
		return err
	}
	x, err := expertRows(c, tensor.Data[T](c.In(1)), rows, k)
	if err != nil {
		return err
	}
	dw := tensor.Data[T](c.Out(0))
	clear(dw)
	for e := range experts {
		if lo, hi := begin[e], begin[e+1]; lo < hi && n > 0 && k > 0 {
			kernel.Gemm(c.Pool, true, false, n, k, hi-lo, 1, dy[lo*n:hi*n], n, x[lo*k:hi*k], k, 0, dw[e*n*k:(e+1)*n*k], k)
		}
	}
	return nil
}
