package ops

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Products of 8-bit integers, which are exact, and what makes real numbers of them or rounds them to 8 bits again.
func init() {
	const ms = "com.microsoft"
	bytes := Of(tensor.Int8, tensor.Uint8)
	float := Of(tensor.Float32)
	const why = "its inputs are quantized"
	register(
		Op{Name: "MatMulInteger", Since: []int{10}, MinIn: 2, MaxIn: 4, Types: []TypeSet{bytes}, NoGrad: why, Estimate: estimateMatMulInteger, FLOPs: matMulFLOPs,
			Infer: func(n *Node) ([]Info, error) { return inferProduct(n, n.In[0], n.In[1], tensor.Int32) },
			Compile: func(n *Node) (Kernel, error) {
				packed := constBytes(n, 1)
				return func(c *Ctx) error { return byteMatMul(c, byteOperands{a: 0, b: 1, aZero: 2, bZero: 3}, packed, nil) }, nil
			}},
		Op{Name: "QLinearMatMul", Since: []int{10, 21}, MinIn: 8, Types: []TypeSet{bytes, Floats, bytes, bytes, Floats, bytes, Floats, bytes}, NoGrad: why, Estimate: estimateQLinearMatMul, FLOPs: matMulFLOPs,
			Infer: inferQLinearMatMul, Compile: qLinearMatMul},
		// QLinearMatMul of the standard with a bias of as many int32s as columns, or none, which its sums begin with.
		Op{Domain: Internal, Name: "QLinearMatMul", Since: []int{1}, MinIn: 8, MaxIn: 9, Types: []TypeSet{bytes, float, bytes, bytes, float, bytes, float, bytes, Of(tensor.Int32)}, NoGrad: why, FLOPs: matMulFLOPs,
			Infer: inferQLinearMatMul, Compile: qLinearMatMul},
		// MatMulIntegerToFloat is MatMulInteger, its sums as real numbers: times both scales, plus a bias.
		Op{Domain: ms, Name: "MatMulIntegerToFloat", Since: []int{1}, MinIn: 4, MaxIn: 7, Types: []TypeSet{bytes, bytes, float, float, bytes, bytes, float}, Grad: gradMatMulIntegerToFloat, FLOPs: matMulFLOPs,
			Infer: func(n *Node) ([]Info, error) { return inferProduct(n, n.In[0], n.In[1], tensor.Float32) },
			Compile: func(n *Node) (Kernel, error) {
				packed := constBytes(n, 1)
				return func(c *Ctx) error {
					return byteMatMul(c, byteOperands{a: 0, b: 1, aScale: 2, bScale: 3, aZero: 4, bZero: 5}, packed, c.In(6))
				}, nil
			}},
		Op{Domain: ms, Name: "DynamicQuantizeMatMul", Since: []int{1}, MinIn: 3, MaxIn: 5, MinOut: 1,
			Expand: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				q := g.At(11, "DynamicQuantizeLinear", 3, []*onnx.Value{n.Inputs[0]})
				return g.Microsoft("MatMulIntegerToFloat", 1, []*onnx.Value{q[0], n.Inputs[1], q[1], n.Inputs[2], q[2], n.Input(3), n.Input(4)}), nil
			}},
	)
}

func inferQLinearMatMul(n *Node) ([]Info, error) {
	return inferProduct(n, n.In[0], n.In[3], n.In[7].DType)
}

func qLinearMatMul(n *Node) (Kernel, error) {
	packed := constBytes(n, 3)
	return func(c *Ctx) error {
		if c.In(6).Len() != 1 || c.In(7).Len() != 1 {
			return fmt.Errorf("an output scale of %v and zero point of %v do not suit a product", c.In(6).Shape(), c.In(7).Shape())
		}
		return byteMatMul(c, byteOperands{a: 0, aScale: 1, aZero: 2, b: 3, bScale: 4, bZero: 5}, packed, c.In(8))
	}, nil
}

func inferProduct(n *Node, a, b Info, d tensor.DType) ([]Info, error) {
	if !a.Ranked || !b.Ranked {
		return []Info{Unranked(d)}, nil
	}
	out, _, _, err := matMulDims(a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	return []Info{Tensor(d, out...)}, nil
}

// estimateMatMulInteger is the gradient of the same product of real numbers.
func estimateMatMulInteger(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, []*onnx.Value{g.real(dy[0])}, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		less := func(i int) *onnx.Value {
			x := g.real(in[i])
			if n.Has(i + 2) {
				zero := g.real(in[i+2])
				if i == 0 && g.Rank(zero) == 1 { // one for each row
					zero = g.Op("Unsqueeze", zero, g.Int64s(1))
				}
				x = g.Sub(x, zero)
			}
			return x
		}
		return []*onnx.Value{g.MatMul(less(0), less(1))}
	})
}

// estimateQLinearMatMul is the gradient by way of the real numbers that the bytes stand for.
func estimateQLinearMatMul(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		return []*onnx.Value{g.quantize(g.MatMul(g.dequantize(in[0], in[1], in[2]), g.dequantize(in[3], in[4], in[5])), in[6], in[7])}
	})
}

// gradMatMulIntegerToFloat is that of the product of what the integers stand for.
func gradMatMulIntegerToFloat(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		less := func(i int) *onnx.Value {
			x := g.Op("CastLike", in[i], in[2])
			if n.Has(i + 4) {
				x = g.Sub(x, g.Op("CastLike", in[i+4], in[2]))
			}
			return x
		}
		y := g.Mul(g.Mul(g.MatMul(less(0), less(1)), in[2]), in[3])
		if n.Has(6) {
			y = g.Add(y, in[6])
		}
		return []*onnx.Value{y}
	})
}

// asUnsigned is t's elements as uint8, those of int8 moved up by 128 in room, which the same move of the zero point makes up for.
func asUnsigned(t *tensor.Tensor, room *[]uint8) []uint8 {
	if t.DType() == tensor.Uint8 {
		return tensor.Data[uint8](t)
	}
	return flipped(room, tensor.View[uint8](t))
}

// flipped is x with the top bit of each byte turned over.
func flipped(room *[]uint8, x []uint8) []uint8 {
	*room = grown(*room, len(x))
	out := *room
	i := 0
	for ; i+8 <= len(x); i += 8 {
		binary.LittleEndian.PutUint64(out[i:], binary.LittleEndian.Uint64(x[i:])^0x8080808080808080)
	}
	for ; i < len(x); i++ {
		out[i] = x[i] ^ 0x80
	}
	return out
}

// asSigned is the reverse of asUnsigned: uint8 moved down by 128.
func asSigned(t *tensor.Tensor) []int8 {
	if t.DType() == tensor.Int8 {
		return tensor.Data[int8](t)
	}
	out := make([]int8, t.Len())
	for i, v := range tensor.Data[uint8](t) {
		out[i] = int8(v ^ 0x80)
	}
	return out
}

// constBytes packs a constant matrix that is the i-th input once, when it is first used; it is nil if that is not constant.
func constBytes(n *Node, i int) func() *kernel.PackedS8 {
	b := n.Info(i).Const
	if b == nil || b.Rank() != 2 || b.DType() != tensor.Int8 && b.DType() != tensor.Uint8 {
		return nil
	}
	return sync.OnceValue(func() *kernel.PackedS8 {
		return kernel.PackS8(false, b.Shape()[0], b.Shape()[1], asSigned(b), b.Shape()[1])
	})
}

// byteOperands says which inputs are what; scales are only looked for where the output is not int32.
type byteOperands struct{ a, aScale, aZero, b, bScale, bZero int }

// byteRoom is what a product of bytes needs besides its output.
type byteRoom struct {
	a     []uint8
	bZero []int8
	scale kernel.ByteScale
}

// byteMatMul computes the product of matrices or batches of them into output 0: the sums as int32, or scaled, as float32, or rounded
// by the scale and the zero point that are inputs 6 and 7 then, as bytes. A bias of int32s is added to the sums, one of float32s to what
// they are scaled to. A has one scale and one zero point, or one for each row, B one, or one
// for each column.
func byteMatMul(c *Ctx, in byteOperands, packed func() *kernel.PackedS8, bias *tensor.Tensor) error {
	a, b, y := c.In(in.a), c.In(in.b), c.Out(0)
	if a.Rank() == 0 || b.Rank() == 0 {
		return fmt.Errorf("a scalar has no matrix product")
	}
	if y.Len() == 0 {
		return nil
	}
	m, n, k, ba, bb := matrices(a, b)
	rows, err := zeroPoints(a, c.In(in.aZero), m, "A")
	if err != nil {
		return err
	}
	cols, err := zeroPoints(b, c.In(in.bZero), n, "B")
	if err != nil {
		return err
	}
	var as, bs []float32
	if y.DType() != tensor.Int32 {
		if as, err = floats32(c, c.In(in.aScale)); err != nil {
			return err
		}
		if bs, err = floats32(c, c.In(in.bScale)); err != nil {
			return err
		}
		if len(as) != 1 && len(as) != m || len(bs) != 1 && len(bs) != n || bias != nil && bias.Len() != n {
			return fmt.Errorf("scales of %v and %v, or the bias, do not suit a product of %v", c.In(in.aScale).Shape(), c.In(in.bScale).Shape(), y.Shape())
		}
	}
	room := Scratch[byteRoom](c)
	room.scale = kernel.ByteScale{Scale: room.scale.Scale[:0]}
	if bias != nil && bias.DType() == tensor.Int32 {
		room.scale.Add = tensor.Data[int32](bias)
	} else if bias != nil {
		room.scale.Bias = tensor.Data[float32](bias)
	}
	if y.DType() != tensor.Int32 {
		room.scale.By = as[0]
		for j := range n {
			room.scale.Scale = append(room.scale.Scale, bs[j%len(bs)])
		}
	}
	if y.DType() == tensor.Int8 || y.DType() == tensor.Uint8 {
		ys, err := floats32(c, c.In(6))
		if err != nil {
			return err
		}
		room.scale.Lo, room.scale.Hi, _ = bounds(y.DType())
		room.scale.Zero = float32(b8(c.In(7), 0))
		if len(as) > 1 {
			room.scale.By = 1
		}
		for j, s := range room.scale.Scale {
			room.scale.Scale[j] = room.scale.By * s / ys[0]
		}
		room.scale.By = 1
	}
	if len(bb) == 0 && len(rows.v) == 1 && len(as) <= 1 { // one matrix on the right: the batch is just more rows
		m, ba = y.Len()/n, nil
	}
	unsigned := asUnsigned(a, &room.a)
	move := int32(0)
	if a.DType() == tensor.Int8 {
		move = 128
	}
	signed := func(z []int32) []int8 {
		room.bZero = room.bZero[:0]
		for _, v := range z {
			if b.DType() == tensor.Uint8 {
				v -= 128
			}
			room.bZero = append(room.bZero, int8(v))
		}
		return room.bZero
	}
	batches(ba, bb, func(ia, ib, io int) {
		pb := (*kernel.PackedS8)(nil)
		if packed != nil {
			pb = packed()
		} else {
			pb = kernel.PackS8(false, k, n, asSigned(b)[ib*k*n:], n)
		}
		az, bz, from, at := rows.of(ia), signed(cols.of(ib)), unsigned[ia*m*k:], io*m*n
		if len(az) == 1 && len(as) <= 1 {
			byteProduct(c.Pool, m, from, k, uint8(az[0]+move), pb, bz, &room.scale, y, at)
			return
		}
		for i := range m {
			if len(as) > 1 {
				room.scale.By = as[i]
			}
			byteProduct(c.Pool, 1, from[i*k:], k, uint8(az[min(i, len(az)-1)]+move), pb, bz, &room.scale, y, at+i*n)
		}
	})
	return nil
}

// byteProduct computes y's elements from at on by y's type.
func byteProduct(p *kernel.Pool, m int, a []uint8, k int, aZero uint8, pb *kernel.PackedS8, bZero []int8, scale *kernel.ByteScale, y *tensor.Tensor, at int) {
	_, n := pb.Dims()
	switch y.DType() {
	case tensor.Int32:
		kernel.GemmU8S8(p, m, a, k, aZero, pb, bZero, tensor.Data[int32](y)[at:], n)
	case tensor.Float32:
		kernel.GemmU8S8Float(p, m, a, k, aZero, pb, bZero, scale, tensor.Data[float32](y)[at:], n)
	default:
		kernel.GemmU8S8Bytes(p, m, a, k, aZero, pb, bZero, scale, tensor.View[uint8](y)[at:], n)
	}
}

func b8(t *tensor.Tensor, i int) int {
	if t.DType() == tensor.Int8 {
		return int(tensor.Data[int8](t)[i])
	}
	return int(tensor.Data[uint8](t)[i])
}

// zeros is the zero points of the rows or columns of matrices: one for all, one each, or one each for every matrix.
type zeros struct {
	v    []int32
	each int
}

func (z zeros) of(matrix int) []int32 {
	if len(z.v) <= z.each {
		return z.v
	}
	return z.v[matrix*z.each:][:z.each]
}

func zeroPoints(t, z *tensor.Tensor, n int, what string) (zeros, error) {
	if z == nil {
		return zeros{[]int32{0}, 1}, nil
	}
	if z.DType() != t.DType() {
		return zeros{}, fmt.Errorf("%s's zero point is %s, %s itself %s", what, z.DType(), what, t.DType())
	}
	matrices := 1
	for _, d := range t.Shape()[:max(0, t.Rank()-2)] {
		matrices *= d
	}
	v := make([]int32, z.Len())
	for i := range v {
		v[i] = int32(b8(z, i))
	}
	if len(v) != 1 && len(v) != n && len(v) != n*matrices {
		return zeros{}, fmt.Errorf("%s's zero point of %v does not suit %v", what, z.Shape(), t.Shape())
	}
	if len(v) == 1 {
		return zeros{v, 1}, nil
	}
	return zeros{v, n}, nil
}
