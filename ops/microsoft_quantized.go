package ops

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Quantized operators of com.microsoft that have no kernel of their own. Each is the standard's operator between DequantizeLinear and QuantizeLinear.
func init() {
	op := func(name string, minIn, maxIn int, expand func(g *Grad, n *Node) ([]*onnx.Value, error)) Op {
		return Op{Domain: "com.microsoft", Name: name, Since: []int{1}, MinIn: minIn, MaxIn: maxIn, MinOut: 1, MaxOut: 1, Expand: expand}
	}
	// unary is an operator on X with its scale and zero point, and those of Y.
	unary := func(name string, f func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error)) Op {
		return op(name, 2, 5, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			if !n.Has(3) {
				return nil, fmt.Errorf("input 3 is left out but required")
			}
			y, err := f(g, n, g.dequantize(n.Inputs[0], n.Inputs[1], n.Input(2)))
			if err != nil {
				return nil, err
			}
			return []*onnx.Value{g.quantize(y, n.Inputs[3], n.Input(4))}, nil
		})
	}
	register(
		unary("QLinearSigmoid", func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error) { return g.Op("Sigmoid", x), nil }),
		unary("QLinearLeakyRelu", func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error) {
			return g.With("LeakyRelu", []*onnx.Attribute{FloatAttr("alpha", n.Float("alpha", 0.01))}, x), nil
		}),
		unary("QLinearAveragePool", func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error) { return g.pool("AveragePool", n, x) }),
		unary("QLinearReduceMean", func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error) {
			attrs := []*onnx.Attribute{IntAttr("keepdims", n.Int("keepdims", 1))}
			if axes := n.Ints("axes", nil); axes != nil {
				return g.With("ReduceMean", attrs, x, g.Int64s(axes...)), nil
			}
			return g.With("ReduceMean", attrs, x), nil
		}),
		unary("QLinearSoftmax", func(g *Grad, n *Node, x *onnx.Value) (*onnx.Value, error) {
			opset, axis := 13, n.Int("axis", -1)
			if n.Int("opset", 13) < 13 {
				opset = 11
			}
			return g.At(opset, "Softmax", 1, []*onnx.Value{x}, IntAttr("axis", axis))[0], nil
		}),
		op("QLinearConcat", 5, -1, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			var parts []*onnx.Value
			if len(n.Inputs)%3 != 2 {
				return nil, fmt.Errorf("%d inputs are no scale and zero point and then threes", len(n.Inputs))
			}
			for i := 2; i < len(n.Inputs); i += 3 {
				parts = append(parts, g.dequantize(n.Inputs[i], n.Inputs[i+1], n.Inputs[i+2]))
			}
			y := g.Node("Concat", 1, parts, IntAttr("axis", n.Int("axis", 0)))[0]
			return []*onnx.Value{g.quantize(y, n.Inputs[0], n.Inputs[1])}, nil
		}),
		op("QLinearWhere", 9, 9, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			x, y := g.dequantize(n.Inputs[1], n.Inputs[2], n.Inputs[3]), g.dequantize(n.Inputs[4], n.Inputs[5], n.Inputs[6])
			return []*onnx.Value{g.quantize(g.Op("Where", n.Inputs[0], x, y), n.Inputs[7], n.Inputs[8])}, nil
		}),
		op("QGemm", 6, 9, qGemm),
		op("MatMulNBits", 3, 6, matMulNBits),
		op("MatMulBnb4", 3, 3, matMulBnb4),
		op("MatMulInteger16", 2, 2, func(g *Grad, n *Node) ([]*onnx.Value, error) {
			return []*onnx.Value{g.MatMul(g.Cast(n.Inputs[0], tensor.Int32), g.Cast(n.Inputs[1], tensor.Int32))}, nil
		}),
		Op{Domain: "com.microsoft", Name: "QEmbedLayerNormalization", Since: []int{1}, MinIn: 1, MaxIn: 18, MinOut: 1, MaxOut: 2, Expand: qEmbedLayerNorm},
		op("GatherBlockQuantized", 3, 4, gatherBlockQuantized),
		Op{Domain: "com.microsoft", Name: "QAttention", Since: []int{1}, MinIn: 5, MaxIn: 9, MinOut: 1, MaxOut: 2, Expand: qAttention},
	)
}

func (g *Grad) dequantize(x, scale, zero *onnx.Value) *onnx.Value {
	return g.Node("DequantizeLinear", 1, []*onnx.Value{x, scale, zero})[0]
}

func (g *Grad) quantize(x, scale, zero *onnx.Value) *onnx.Value {
	return g.Node("QuantizeLinear", 1, []*onnx.Value{x, scale, zero})[0]
}

// channelsFirst is x with its last axis as its second one, and the way back.
func (g *Grad) channelsFirst(x *onnx.Value) (*onnx.Value, func(*onnx.Value) *onnx.Value, error) {
	r := g.Info(x).Rank()
	if r < 3 {
		return nil, nil, fmt.Errorf("the rank of the image must be known, and 3 or more")
	}
	there, back := []int64{0, int64(r - 1)}, []int64{0}
	for i := 1; i < r-1; i++ {
		there, back = append(there, int64(i)), append(back, int64(i+1))
	}
	back = append(back, 1)
	return g.Transpose(x, there...), func(y *onnx.Value) *onnx.Value { return g.Transpose(y, back...) }, nil
}

// pool is a pooling operator on x, channels last where the attribute says so.
func (g *Grad) pool(name string, n *Node, x *onnx.Value) (*onnx.Value, error) {
	var attrs []*onnx.Attribute
	for _, a := range n.Attrs {
		if a.Name != "channels_last" {
			attrs = append(attrs, a)
		}
	}
	if n.Int("channels_last", 0) == 0 {
		return g.Node(name, 1, []*onnx.Value{x}, attrs...)[0], nil
	}
	x, back, err := g.channelsFirst(x)
	if err != nil {
		return nil, err
	}
	return back(g.Node(name, 1, []*onnx.Value{x}, attrs...)[0]), nil
}

// qGemm is alpha·op(A)·op(B) + C of bytes; C is in units of alpha·a_scale·b_scale.
func qGemm(g *Grad, n *Node) ([]*onnx.Value, error) {
	a, b := n.Inputs[0], n.Inputs[3]
	if n.Int("transA", 0) != 0 {
		a = g.Transpose(a, 1, 0)
	}
	if n.Int("transB", 0) != 0 {
		b = g.Transpose(b, 1, 0)
	}
	sums := g.At(10, "MatMulInteger", 1, []*onnx.Value{a, b, n.Inputs[2], n.Inputs[5]})[0]
	if n.Has(6) {
		sums = g.Add(sums, n.Inputs[6])
	}
	scale := g.Mul(n.Inputs[1], n.Inputs[4])
	if alpha := n.Float("alpha", 1); alpha != 1 {
		scale = g.Mul(scale, g.Like(scale, float64(alpha)))
	}
	y := g.Mul(g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Float32))}, sums), scale)
	if n.Has(7) {
		y = g.quantize(y, n.Inputs[7], n.Input(8))
	}
	return []*onnx.Value{y}, nil
}

// unpack is the unsigned integers of that many bits in the bytes of the last axis of x, lowest bits first, of known shape.
func (g *Grad) unpack(x *onnx.Value, bits int64) *onnx.Value {
	if bits == 8 {
		return x
	}
	var shape []int64
	for _, d := range g.Info(x).Shape {
		shape = append(shape, int64(d.N))
	}
	per := 8 / bits
	shifts := make([]uint8, per)
	for i := range shifts {
		shifts[i] = uint8(int64(i) * bits)
	}
	last := g.Int64s(int64(len(shape)))
	parts := g.At(11, "BitShift", 1, []*onnx.Value{g.Op("Unsqueeze", x, last), g.Const(tensor.New(shifts, int(per)))}, StringAttr("direction", "RIGHT"))[0]
	parts = g.Op("BitwiseAnd", parts, g.Const(tensor.Scalar(uint8(1<<bits-1))))
	shape[len(shape)-1] *= per
	return g.Op("Reshape", parts, g.Int64s(shape...))
}

// matMulNBits is A·Bᵀ + bias, where B's rows are blocks of block_size integers with a scale and a zero point each.
func matMulNBits(g *Grad, n *Node) ([]*onnx.Value, error) {
	bits, size, rows, k := n.Int("bits", 4), n.Int("block_size", 0), n.Int("N", 0), n.Int("K", 0)
	switch {
	case bits != 2 && bits != 4 && bits != 8:
		return nil, fmt.Errorf("weights of %d bits are not supported", bits)
	case size < 16 || size&(size-1) != 0 || size > 1<<20 || rows < 1 || k < 1 || rows > 1<<24 || k > 1<<24:
		return nil, fmt.Errorf("attributes N %d, K %d and block_size %d are out of range", rows, k, size)
	}
	blocks := (k + size - 1) / size
	if b, ok := n.In[1].Static(); !ok || int64(product(b)) != rows*blocks*size*bits/8 {
		return nil, fmt.Errorf("weights of %v do not suit N %d, K %d and block_size %d", n.In[1].Shape, rows, k, size)
	}
	b := g.unpack(g.Op("Reshape", n.Inputs[1], g.Int64s(rows, blocks, size*bits/8)), bits)
	scale := g.Op("Reshape", n.Inputs[2], g.Int64s(rows, blocks, 1))
	float := []*onnx.Attribute{IntAttr("to", int64(g.DType(scale)))}
	var zero *onnx.Value
	switch {
	case !n.Has(3):
		zero = g.Like(scale, float64(int64(1)<<(bits-1)))
	case n.In[3].DType == tensor.Uint8:
		per := 8 / bits
		bytes := (blocks + per - 1) / per
		all := g.unpack(g.Op("Reshape", n.Inputs[3], g.Int64s(rows, bytes)), bits)
		all = g.Op("Slice", all, g.Int64s(0), g.Int64s(blocks), g.Int64s(1))
		zero = g.With("Cast", float, g.Op("Reshape", all, g.Int64s(rows, blocks, 1)))
	default:
		zero = g.Op("Reshape", n.Inputs[3], g.Int64s(rows, blocks, 1))
	}
	whole := func(v *onnx.Value) *onnx.Value {
		return g.Op("Slice", g.Op("Reshape", v, g.Int64s(rows, blocks*size)), g.Int64s(0), g.Int64s(k), g.Int64s(1))
	}
	b = g.With("Cast", float, b)
	var w *onnx.Value
	if n.Has(4) { // says of each column which scale and zero point are its own
		of := g.Op("Slice", n.Inputs[4], g.Int64s(0), g.Int64s(k), g.Int64s(0))
		own := func(v *onnx.Value) *onnx.Value {
			if g.Rank(v) == 0 {
				return v
			}
			return g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, g.Op("Reshape", v, g.Int64s(rows, blocks)), of)
		}
		w = g.Mul(g.Sub(whole(b), own(zero)), own(scale))
	} else {
		w = whole(g.Mul(g.Sub(b, zero), scale))
	}
	y := g.MatMul(n.Inputs[0], g.Transpose(w, 1, 0))
	if n.Has(5) {
		y = g.Add(y, n.Inputs[5])
	}
	return []*onnx.Value{y}, nil
}

// bnb4 is what the sixteen numbers of bitsandbytes' types of 4 bits stand for: fp4 and nf4, of which the latter are quantiles of the normal distribution.
var bnb4 = [2][]float32{
	{0, 5.208333333e-03, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25, 0, -5.208333333e-03, -0.66666667, -1, -0.33333333, -0.5, -0.16666667, -0.25},
	{-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
		0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1},
}

// matMulBnb4 is A·Bᵀ, where B's elements, one after the other, are blocks of numbers of 4 bits, the first of a byte in its upper half, with the greatest magnitude of each.
func matMulBnb4(g *Grad, n *Node) ([]*onnx.Value, error) {
	size, rows, k, kind := n.Int("block_size", 0), n.Int("N", 0), n.Int("K", 0), n.Int("quant_type", 1)
	if kind != 0 && kind != 1 || size < 16 || size > 1<<20 || rows < 1 || k < 1 || rows > 1<<24 || k > 1<<24 {
		return nil, fmt.Errorf("attributes N %d, K %d, block_size %d and quant_type %d are out of range", rows, k, size, kind)
	}
	if n.Int("transB", 1) == 0 || n.Int("training_mode", 0) != 0 {
		return nil, fmt.Errorf("transB %d and training_mode %d are not supported", n.Int("transB", 1), n.Int("training_mode", 0))
	}
	bytes, ok := n.In[1].Static()
	if !ok || int64(product(bytes)) != (rows*k+1)/2 {
		return nil, fmt.Errorf("weights of %v do not suit N %d and K %d", n.In[1].Shape, rows, k)
	}
	packed, blocks := g.Flat(n.Inputs[1]), (rows*k+size-1)/size
	upper := g.At(11, "BitShift", 1, []*onnx.Value{packed, g.Const(tensor.Scalar(uint8(4)))}, StringAttr("direction", "RIGHT"))[0]
	lower := g.Op("BitwiseAnd", packed, g.Const(tensor.Scalar(uint8(15))))
	last := g.Int64s(1)
	pairs := g.Node("Concat", 1, []*onnx.Value{g.Op("Unsqueeze", upper, last), g.Op("Unsqueeze", lower, last)}, IntAttr("axis", 1))[0]
	scale := g.Op("Reshape", n.Inputs[2], g.Int64s(blocks, 1))
	w := g.Cast(g.Op("Gather", g.Const(tensor.New(bnb4[kind], 16)), g.Cast(g.Flat(pairs), tensor.Int32)), g.DType(scale))
	if missing := blocks*size - 2*((rows*k+1)/2); missing > 0 {
		w = g.Op("Pad", w, g.Int64s(0, missing))
	}
	w = g.Flat(g.Mul(g.Op("Reshape", g.Op("Slice", w, g.Int64s(0), g.Int64s(blocks*size), g.Int64s(0)), g.Int64s(blocks, size)), scale))
	w = g.Op("Reshape", g.Op("Slice", w, g.Int64s(0), g.Int64s(rows*k), g.Int64s(0)), g.Int64s(rows, k))
	return []*onnx.Value{g.MatMul(n.Inputs[0], g.Transpose(w, 1, 0))}, nil
}

// qEmbedLayerNorm is EmbedLayerNormalization of tables, scale and bias of bytes: inputs 2 to 6, with their scales from 8 and their zero points from 13 on.
func qEmbedLayerNorm(g *Grad, n *Node) ([]*onnx.Value, error) {
	in := []*onnx.Value{n.Inputs[0], n.Input(1), nil, nil, nil, nil, nil, n.Input(7)}
	for i := 2; i < 7; i++ {
		switch {
		case n.Has(i) && n.Has(i+6):
			in[i] = g.dequantize(n.Inputs[i], g.Op("Reshape", n.Inputs[i+6], g.Int64s()), n.Input(i+11))
		case n.Has(i) || i != 4:
			return nil, fmt.Errorf("input %d or its scale is left out but required", i)
		}
	}
	plain := *n
	plain.Node = &onnx.Node{Name: n.Name, Op: "EmbedLayerNormalization", Domain: n.Domain, Inputs: in, Outputs: n.Outputs, Attrs: n.Attrs}
	return embedLayerNorm(g, &plain)
}

// gatherBlockQuantized gathers integers and their scales and zero points alike, and dequantizes what it has.
func gatherBlockQuantized(g *Grad, n *Node) ([]*onnx.Value, error) {
	data, scale, zero, bits := n.Inputs[0], n.Inputs[2], n.Input(3), n.Int("bits", 4)
	shape, ok := n.In[0].Static()
	rank := len(shape)
	if !ok || rank < 1 {
		return nil, fmt.Errorf("the shape of the data must be known")
	}
	axis := func(name string, def int64) (int64, error) {
		a := n.Int(name, def)
		if a < -int64(rank) || a >= int64(rank) {
			return 0, fmt.Errorf("%s %d is out of range for %v", name, a, shape)
		}
		return (a + int64(rank)) % int64(rank), nil
	}
	along, err := axis("gather_axis", 0)
	if err != nil {
		return nil, err
	}
	blocked, err := axis("quantize_axis", 1)
	if err != nil {
		return nil, err
	}
	size := n.Int("block_size", 128)
	d := n.In[0].DType
	if d != tensor.Uint8 && d != tensor.Int4 && d != tensor.Uint4 || size < 16 || size&(size-1) != 0 {
		return nil, fmt.Errorf("data of %s in blocks of %d are not supported", d, size)
	}
	if d == tensor.Uint8 {
		if bits != 2 && bits != 4 && bits != 8 || along != 0 || blocked != int64(rank-1) {
			return nil, fmt.Errorf("bytes of %d bits gathered along axis %d and in blocks along axis %d are not supported", bits, along, blocked)
		}
		data = g.unpack(data, bits)
		shape[rank-1] *= int(8 / bits)
		if zero != nil {
			s, ok := n.In[2].Static()
			z, known := n.In[3].Static()
			if !ok || !known {
				return nil, fmt.Errorf("the shapes of the scales and zero points must be known")
			}
			if len(s) != rank || len(z) != rank {
				return nil, fmt.Errorf("scales of %v and zero points of %v do not suit data of %v", s, z, n.In[0].Shape)
			}
			zero = g.Op("Slice", g.unpack(zero, bits), g.Int64s(0), g.Int64s(int64(s[rank-1])), g.Int64s(int64(rank-1)))
		} else {
			zero = g.Const(tensor.Scalar(uint8(1 << (bits - 1))))
		}
	}
	if along == blocked || shape[blocked] > 1<<20 {
		return nil, fmt.Errorf("gathering along the axis of the blocks, or blocks along one of more than 2^20, are not supported")
	}
	to := []*onnx.Attribute{IntAttr("to", int64(g.DType(scale)))}
	gather := func(v *onnx.Value) *onnx.Value {
		return g.With("Gather", []*onnx.Attribute{IntAttr("axis", along)}, v, n.Inputs[1])
	}
	// Blocks are repeated to the length of the axis, which comes later in what is gathered if it came after the axis gathered along.
	spread := func(v *onnx.Value) *onnx.Value {
		index := make([]int64, shape[blocked])
		for i := range index {
			index[i] = int64(i) / size
		}
		return gather(g.With("Gather", []*onnx.Attribute{IntAttr("axis", blocked)}, v, g.Int64s(index...)))
	}
	y := g.With("Cast", to, gather(data))
	if zero != nil {
		z := g.With("Cast", to, zero)
		if n.Has(3) {
			z = spread(z)
		}
		y = g.Sub(y, z)
	}
	return []*onnx.Value{g.Mul(y, spread(scale))}, nil
}

// qAttention is Attention with an input and weights of bytes.
func qAttention(g *Grad, n *Node) ([]*onnx.Value, error) {
	scale := g.Mul(n.Inputs[3], n.Inputs[4])
	sums := g.At(10, "MatMulInteger", 1, []*onnx.Value{n.Inputs[0], n.Inputs[1], n.Input(6), n.Input(7)})[0]
	x := g.Mul(g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Float32))}, sums), scale)
	return g.packedAttention(n, g.Add(x, n.Inputs[2]), n.In[1], n.Input(5), n.Input(8), nil, nil)
}
