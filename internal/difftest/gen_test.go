package difftest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// gen is a model in the making, with the inputs to run it on: mostly one node, of the operator that is tested.
type gen struct {
	*rand.Rand
	b        *onnx.Builder
	def      *ops.Op
	opset    int // of the operator's domain
	since    int // the version of the operator in force there
	dtype    tensor.DType
	declared bool                            // inputs have their shapes declared
	plain    bool                            // no NaN, infinity or extreme in the elements
	then     func(y *onnx.Value) *onnx.Value // what is made of an output before it is one of the model
	widen    bool                            // outputs are cast to float, since the peer has no tensors of their type
	typed    map[int]tensor.DType            // outputs whose types are not to be inferred
	shared   map[string]string               // outputs that the peer must write into inputs
	feeds    map[string]*tensor.Tensor
	attrs    []*onnx.Attribute
}

// one of the values, each as likely.
func one[T any](g *gen, values ...T) T { return values[g.IntN(len(values))] }

// in is a number from lo to hi.
func (g *gen) in(lo, hi int) int { return lo + g.IntN(hi-lo+1) }

// chance is true once in n times.
func (g *gen) chance(n int) bool { return g.IntN(n) == 0 }

// shape has a rank from lo to hi, and rarely a dimension of 0.
func (g *gen) shape(lo, hi int) []int {
	s := make([]int, g.in(lo, hi))
	for i := range s {
		s[i] = g.in(1, 5)
		if g.chance(60) {
			s[i] = 0
		}
	}
	return s
}

// full is a shape without empty dimensions.
func (g *gen) full(lo, hi int) []int {
	s := g.shape(lo, hi)
	for i := range s {
		s[i] = max(s[i], 1)
	}
	return s
}

// broadcasts is a shape that broadcasts with s.
func (g *gen) broadcasts(s []int) []int {
	out := append([]int{}, s[g.IntN(len(s)+1):]...)
	for i := range out {
		if g.chance(3) {
			out[i] = 1
		}
	}
	if len(out) == len(s) && g.chance(3) {
		out = append(g.full(0, 1), out...)
	}
	return out
}

// axis of a tensor of that rank, counted from either end where neg allows it.
func (g *gen) axis(rank int, neg bool) int {
	if a := g.IntN(rank); !neg || g.chance(2) {
		return a
	}
	return -1 - g.IntN(rank)
}

// axes are some of a tensor's axes in any order.
func (g *gen) axes(rank int, neg bool) []int64 {
	out := []int64{}
	for _, a := range g.Perm(rank)[:g.IntN(rank+1)] {
		if neg && g.chance(2) {
			a -= rank
		}
		out = append(out, int64(a))
	}
	return out
}

// Attributes of the node.
func (g *gen) int(name string, v int) { g.attrs = append(g.attrs, onnx.IntAttr(name, int64(v))) }
func (g *gen) ints(name string, v ...int64) {
	g.attrs = append(g.attrs, onnx.IntsAttr(name, v...))
}
func (g *gen) float(name string, v float32) { g.attrs = append(g.attrs, onnx.FloatAttr(name, v)) }
func (g *gen) str(name, v string)           { g.attrs = append(g.attrs, onnx.StringAttr(name, v)) }

// maybe gives the node an integer attribute, or leaves it at its default.
func (g *gen) maybe(name string, values ...int) {
	if g.chance(4) {
		return
	}
	g.int(name, one(g, values...))
}

func (g *gen) maybeFloat(name string, lo, hi float32) {
	if !g.chance(4) {
		g.float(name, lo+(hi-lo)*g.Float32())
	}
}

// specials are what kernels forget.
var specials = []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), 1, -1, 0.5, -0.5, 2.5, -1.5, 1e30, -1e30, 1e-40, 65504, 127.5, 128, 255.5, -129, 2147483648, -2147483648, 9.3e18}

// tensor has random elements: integers in a small range for the most part, floats around 0.
func (g *gen) tensor(d tensor.DType, shape ...int) *tensor.Tensor {
	t, err := tensor.Zeros(d, shape...)
	if err != nil {
		panic(err)
	}
	if d == tensor.String {
		for i := range tensor.Data[string](t) {
			tensor.Data[string](t)[i] = one(g, "", "a", "b", "Abc", "zwei", "ü", "1", "-2.5", "nan", "1e3")
		}
		return t
	}
	if d == tensor.Bool {
		for i := range t.Bytes() {
			t.Bytes()[i] = byte(g.IntN(2))
		}
		return t
	}
	odd := !g.plain && g.chance(4)
	whole := g.chance(3) // floats that are integers bring ties
	for i := range t.Len() {
		switch {
		case d.IsInteger() && odd && g.chance(3):
			for k := range d.Size() {
				t.Bytes()[i*d.Size()+k] = one(g, 0, 255, 127, 128, byte(g.IntN(256)))
			}
		case d.IsInteger():
			lo := -10
			if d == tensor.Uint8 || d == tensor.Uint16 || d == tensor.Uint32 || d == tensor.Uint64 {
				lo = 0
			}
			tensor.SetFloat64At(t, i, float64(g.in(lo, 10)))
		case odd && g.chance(3):
			tensor.SetFloat64At(t, i, one(g, specials...))
		case whole:
			tensor.SetFloat64At(t, i, float64(g.in(-4, 4)))
		default:
			tensor.SetFloat64At(t, i, g.NormFloat64()*2)
		}
	}
	return t
}

// rand is an input of the node: a tensor of the case's element type.
func (g *gen) rand(shape ...int) *onnx.Value { return g.feed(g.tensor(g.dtype, shape...)) }

func (g *gen) int64s(v ...int64) *onnx.Value {
	return g.feed(tensor.New(append([]int64{}, v...), len(v)))
}

// feed makes t an input or an initializer of the model; an input's shape is declared in full, by names, or not at all.
func (g *gen) feed(t *tensor.Tensor) *onnx.Value {
	if g.chance(3) || wireTypes[t.DType()] == "" {
		return g.b.Const(t)
	}
	return g.input(t)
}

func (g *gen) input(t *tensor.Tensor) *onnx.Value {
	name := fmt.Sprintf("x%d", len(g.feeds))
	g.feeds[name] = t
	how := g.IntN(4)
	if g.declared {
		how = 0
	}
	if how == 3 {
		return g.b.InputOf(name, &onnx.Type{Elem: t.DType()})
	}
	dims := []any{}
	for i, d := range t.Shape() {
		if how == 2 {
			dims = append(dims, fmt.Sprintf("%s_%d", name, i))
		} else {
			dims = append(dims, d)
		}
	}
	return g.b.Input(name, t.DType(), dims...)
}

// beside adds another operator of the tested one's domain.
func (g *gen) beside(op string, inputs []*onnx.Value, attrs ...*onnx.Attribute) *onnx.Value {
	n := onnx.NewNode(op, inputs)
	n.Domain, n.Attrs = g.def.Domain, attrs
	n.AddOutput(&onnx.Value{Name: fmt.Sprintf("%s%d", op, len(g.b.Graph().Nodes))})
	return g.b.Add(n)[0]
}

// add adds the node, with that many outputs.
func (g *gen) add(outs int, inputs ...*onnx.Value) []*onnx.Value {
	for len(inputs) > 0 && inputs[len(inputs)-1] == nil {
		inputs = inputs[:len(inputs)-1]
	}
	n := onnx.NewNode(g.def.Name, inputs)
	n.Domain, n.Attrs, n.Name = g.def.Domain, g.attrs, "tested"
	for i := range outs {
		v := &onnx.Value{Name: fmt.Sprintf("y%d", i)}
		n.AddOutput(v)
	}
	return g.b.Add(n)
}

// node adds the node and makes all of its outputs outputs of the model.
func (g *gen) node(outs int, inputs ...*onnx.Value) {
	for i, v := range g.add(outs, inputs...) {
		if g.then != nil {
			v = g.then(v)
		}
		if g.widen {
			v = g.b.Node("Cast", []*onnx.Value{v}, onnx.IntAttr("to", int64(tensor.Float32)))
		}
		var t *onnx.Type
		if d, ok := g.typed[i]; ok {
			t = &onnx.Type{Elem: d}
		}
		g.b.OutputOf(v.Name, v, t)
	}
}

// joined has the peer show a sequence, which it cannot as such: how many elements it has, and them along their first axis.
func (g *gen) joined(seq *onnx.Value) {
	g.b.OutputOf("n", g.b.Op("SequenceLength", seq), nil)
	g.b.OutputOf("y", g.b.Node("ConcatFromSequence", []*onnx.Value{seq}, onnx.IntAttr("axis", 0)), nil)
}
