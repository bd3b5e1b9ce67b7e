package difftest

import (
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// generators make a case of each operator, by its name, which has its domain before it where that is not ai.onnx.
var generators = map[string]func(*gen){}

// each gives several operators one generator.
func each(names string, f func(*gen)) {
	for _, name := range strings.Fields(names) {
		generators[name] = f
	}
}

func init() {
	each(`Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Log Mish Neg Not
		Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh Size NonZero`, unary)
	generators["Shape"] = func(g *gen) {
		if g.since >= 15 {
			g.maybe("start", 0, 1, -1, 2, -3, 7, -7)
			g.maybe("end", 0, 1, -1, 2, -3, 7, -7)
		}
		unary(g)
	}
	each(`Add Sub Mul Div And Or Xor BitwiseAnd BitwiseOr BitwiseXor Equal Less Greater LessOrEqual GreaterOrEqual`, binary)
	each(`Max Min Sum Mean`, variadic)
	generators["Celu"] = func(g *gen) { // of an alpha of next to nothing exponentials overflow, or not, by how they are rounded
		if g.chance(2) {
			g.float("alpha", one[float32](g, -1, 1)*(0.1+g.Float32()))
		}
		unary(g)
	}
	each(`Elu LeakyRelu ThresholdedRelu Swish`, func(g *gen) {
		g.maybeFloat("alpha", -1, 2)
		unary(g)
	})
	generators["Selu"] = func(g *gen) {
		g.maybeFloat("alpha", 0, 2)
		g.maybeFloat("gamma", 0, 2)
		unary(g)
	}
	generators["HardSigmoid"] = func(g *gen) {
		g.maybeFloat("alpha", 0, 1)
		g.maybeFloat("beta", 0, 1)
		unary(g)
	}
	generators["Shrink"] = func(g *gen) {
		g.maybeFloat("lambd", 0, 3)
		g.maybeFloat("bias", -2, 2)
		unary(g)
	}
	generators["Gelu"] = func(g *gen) {
		if g.chance(2) {
			g.str("approximate", one(g, "none", "tanh"))
		}
		unary(g)
	}
	generators["IsInf"] = func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Float64, tensor.Float16)
		g.maybe("detect_positive", 0, 1)
		g.maybe("detect_negative", 0, 1)
		unary(g)
	}
	generators["BitShift"] = func(g *gen) {
		g.str("direction", one(g, "LEFT", "RIGHT"))
		s := g.shape(0, 4)
		g.node(1, g.rand(s...), g.rand(g.broadcasts(s)...))
	}
	generators["Mod"] = func(g *gen) {
		if g.dtype.IsFloat() || g.chance(3) {
			g.int("fmod", 1)
		}
		binary(g)
	}
	generators["Pow"] = func(g *gen) {
		s := g.shape(0, 4)
		g.plain = g.dtype.IsInteger() // no overflow
		x := g.rand(s...)
		if g.since >= 12 {
			g.dtype = one(g, tensor.Float32, tensor.Float64, tensor.Int32, tensor.Int64)
		}
		y := g.tensor(g.dtype, g.broadcasts(s)...)
		if g.dtype.IsInteger() { // what 0 to a negative power is the standard does not say of integers
			for i := range y.Len() {
				tensor.SetFloat64At(y, i, float64(g.in(0, 5)))
			}
		}
		g.node(1, x, g.feed(y))
	}
	generators["PRelu"] = func(g *gen) {
		s := g.shape(0, 4)
		slope := g.full(0, 0)
		for _, d := range s[g.IntN(len(s)+1):] {
			slope = append(slope, one(g, 1, d))
		}
		g.node(1, g.rand(s...), g.rand(slope...))
	}
	generators["Where"] = func(g *gen) {
		s := g.shape(0, 4)
		if !g.widen {
			g.dtype = one(g, castTypes...)
		}
		g.node(1, g.feed(g.tensor(tensor.Bool, g.broadcasts(s)...)), g.rand(s...), g.rand(g.broadcasts(s)...))
	}
	generators["Clip"] = func(g *gen) {
		if g.since < 11 {
			g.maybeFloat("min", -3, 0)
			g.maybeFloat("max", -1, 3)
			unary(g)
			return
		}
		bound := func() *onnx.Value {
			if g.chance(4) {
				return nil
			}
			return g.rand()
		}
		g.node(1, g.rand(g.shape(0, 4)...), bound(), bound())
	}
	each(`Softmax LogSoftmax Hardmax`, func(g *gen) {
		g.plain = g.def.Name == "Hardmax"
		s := g.shape(1, 4)
		if !g.chance(4) || len(s) == 1 {
			g.int("axis", g.axis(len(s), g.since >= 11))
		}
		g.node(1, g.rand(s...))
	})
	generators["Cast"] = func(g *gen) {
		to := one(g, castTypes...)
		if g.since >= 13 && g.chance(2) {
			to = g.narrow()
		}
		g.int("to", int(to))
		x := g.tensor(g.dtype, g.shape(0, 3)...)
		g.numerals(x, to)
		g.node(1, g.feed(x))
	}
	generators["CastLike"] = func(g *gen) {
		to := one(g, castTypes...)
		if g.chance(3) {
			to = g.narrow()
		}
		x := g.tensor(g.dtype, g.shape(0, 3)...)
		g.numerals(x, to)
		g.node(1, g.feed(x), g.feed(g.tensor(to, g.shape(0, 2)...)))
	}
}

var castTypes = []tensor.DType{tensor.Float32, tensor.Float64, tensor.Float16, tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64,
	tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64, tensor.Bool, tensor.String}

// narrowTypes are those that the peer has no tensors of, though models of it may hold them.
var narrowTypes = []tensor.DType{tensor.BFloat16, tensor.Float8E4M3FN, tensor.Float8E4M3FNUZ, tensor.Float8E5M2, tensor.Float8E5M2FNUZ, tensor.Uint4, tensor.Int4,
	tensor.Float4E2M1, tensor.Uint2, tensor.Int2}

// narrowSince is the opset from which Cast takes them.
var narrowSince = map[tensor.DType]int{tensor.BFloat16: 13, tensor.Float8E4M3FN: 19, tensor.Float8E4M3FNUZ: 19, tensor.Float8E5M2: 19, tensor.Float8E5M2FNUZ: 19,
	tensor.Uint4: 21, tensor.Int4: 21, tensor.Float4E2M1: 23, tensor.Uint2: 25, tensor.Int2: 25}

// narrow is a narrow type to cast to.
func (g *gen) narrow() tensor.DType {
	to := one(g, narrowTypes...)
	if g.opset < narrowSince[to] {
		to = tensor.BFloat16
	}
	g.widen = true
	if g.since >= 19 && to != tensor.BFloat16 && !to.IsInteger() {
		g.maybe("saturate", 0, 1)
	}
	if g.dtype == tensor.String {
		g.dtype = tensor.Float32
	}
	return to
}

// numerals makes strings such that can be cast.
func (g *gen) numerals(t *tensor.Tensor, to tensor.DType) {
	if t.DType() != tensor.String || to == tensor.String {
		return
	}
	for i := range tensor.Data[string](t) {
		s := one(g, "0", "1", "12", "7")
		switch {
		case to.IsFloat():
			s = one(g, "1", "-2.5", "1e3", "NaN", "INF", "-INF", "0.1", "+3", "1e-50", "-0", ".5", "5.")
		case to == tensor.Int8 || to == tensor.Int16 || to == tensor.Int32 || to == tensor.Int64:
			s = one(g, "0", "-7", "12", "+5", "99")
		}
		tensor.Data[string](t)[i] = s
	}
}

func unary(g *gen) { g.node(1, g.rand(g.shape(0, 4)...)) }

func binary(g *gen) {
	s := g.shape(0, 4)
	a, b := s, g.broadcasts(s)
	if g.chance(2) {
		a, b = b, a
	}
	g.node(1, g.rand(a...), g.rand(b...))
}

func variadic(g *gen) {
	s := g.shape(0, 4)
	ins := []*onnx.Value{g.rand(s...)}
	for range g.IntN(4) {
		t := s
		if g.since >= 8 {
			t = g.broadcasts(s)[0:]
			if len(t) > len(s) {
				t = s
			}
		}
		ins = append(ins, g.rand(t...))
	}
	g.node(1, ins...)
}
