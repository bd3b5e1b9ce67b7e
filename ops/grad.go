package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// GradOpset is the opset at which gradient nodes are meant, whatever the model imports.
const GradOpset = 21

// Grad emits gradient nodes into a graph. What it is asked for twice it may build twice:
// the passes of the runtime share it.
type Grad struct {
	Graph *onnx.Graph
	Infos map[*onnx.Value]Info    // of the forward graph's values; those of emitted nodes are added
	Opset func(domain string) int // at which the forward graph's nodes are meant
	Names func(hint string) string
	// StraightThrough has gradients pass what rounds ([Op.Estimate]), through which there is none.
	StraightThrough bool
	err             error
	blocks          int         // of [nchwcBlocks]
	cut             **onnx.Node // the last node found to be constant almost everywhere
	kept            map[*onnx.Value]*kept

	// Of the graph that [Grad.Backward] walks.
	moves map[*onnx.Value]bool          // what hangs on what the gradient is taken by
	parts map[*onnx.Value][]*onnx.Value // what adds up to a value's gradient
}

// NewGrad makes a builder of gradient nodes for m's top graph, of whose values infos tells, with names that m does not have.
func NewGrad(m *onnx.Model, infos map[*onnx.Value]Info) *Grad {
	taken := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for v := range g.Values() {
			taken[v.Name] = true
		}
	})
	next := 0
	return &Grad{Graph: m.Graph, Infos: infos, blocks: nchwcBlocks(m), cut: new(*onnx.Node), kept: map[*onnx.Value]*kept{}, Opset: func(domain string) int { return int(m.OpsetVersion(domain)) }, Names: func(hint string) string {
		for {
			next++
			if name := fmt.Sprintf("grad::%s_%d", hint, next); !taken[name] {
				taken[name] = true
				return name
			}
		}
	}}
}

// Err is the first error of an emitted node.
func (g *Grad) Err() error { return g.err }

// Cut is a node at which a gradient has ended since its output is constant almost everywhere, nil if there is none.
func (g *Grad) Cut() *onnx.Node { return *g.cut }

// Info is what is known of v.
func (g *Grad) Info(v *onnx.Value) Info {
	i := g.Infos[v]
	if v != nil && v.Const != nil && i.Const == nil {
		i = InfoOf(v.Const, true)
	}
	return i
}

// Rank is v's number of dimensions; a rank that is not known before the run is recorded as an error.
func (g *Grad) Rank(v *onnx.Value) int {
	i := g.Info(v)
	if !i.Ranked {
		g.fail(fmt.Errorf("the rank of %q is not known", v.Name))
		return 0
	}
	return len(i.Shape)
}

// Axis is an axis of v counted from the start.
func (g *Grad) Axis(v *onnx.Value, axis int64) (int, error) {
	rank := g.Rank(v)
	if g.err != nil {
		return 0, g.err
	}
	return NormAxis(axis, rank)
}

// DType is v's element type; not knowing it is recorded as an error.
func (g *Grad) DType(v *onnx.Value) tensor.DType {
	d := g.Info(v).DType
	if d == tensor.Undefined {
		g.fail(fmt.Errorf("the element type of %q is not known", v.Name))
		return tensor.Float32
	}
	return d
}

func (g *Grad) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

// Node emits an operator of ai.onnx at [GradOpset] with that many outputs.
func (g *Grad) Node(op string, outs int, in []*onnx.Value, attrs ...*onnx.Attribute) []*onnx.Value {
	return g.emit("", op, GradOpset, outs, in, attrs)
}

// At emits an operator of ai.onnx at another opset.
func (g *Grad) At(opset int, op string, outs int, in []*onnx.Value, attrs ...*onnx.Attribute) []*onnx.Value {
	return g.emit("", op, opset, outs, in, attrs)
}

// Internal emits an operator of the [Internal] domain.
func (g *Grad) Internal(op string, outs int, in []*onnx.Value, attrs ...*onnx.Attribute) []*onnx.Value {
	return g.emit(Internal, op, GradOpset, outs, in, attrs)
}

// Microsoft emits an operator of com.microsoft.
func (g *Grad) Microsoft(op string, outs int, in []*onnx.Value, attrs ...*onnx.Attribute) []*onnx.Value {
	return g.emit("com.microsoft", op, 1, outs, in, attrs)
}

// leaveOut takes outputs that nobody wants from the node that has just been emitted with outputs d.
func leaveOut(d []*onnx.Value, outs ...int) {
	n := d[0].Def()
	for _, i := range outs {
		n.SetOutput(i, nil)
	}
}

func (g *Grad) emit(domain, op string, opset, outs int, in []*onnx.Value, attrs []*onnx.Attribute) []*onnx.Value {
	names := make([]string, outs)
	for i := range names {
		names[i] = g.Names(op)
	}
	n := onnx.NewNode(op, in, names...)
	n.Name, n.Domain, n.Opset, n.Attrs = names[0], domain, int64(opset), attrs
	g.Graph.Nodes = append(g.Graph.Nodes, n)
	r, err := Resolve(n, opset)
	if err != nil {
		g.fail(err)
		return n.Outputs
	}
	r.In = make([]Info, len(n.Inputs))
	for i, v := range n.Inputs {
		if v != nil {
			r.In[i] = g.Info(v)
		}
	}
	infos, err := r.InferOutputs()
	if err != nil {
		g.fail(err)
		return n.Outputs
	}
	for i, v := range n.Outputs {
		g.Infos[v] = infos[i]
	}
	return n.Outputs
}

// Op emits an operator of ai.onnx with one output and no attributes.
func (g *Grad) Op(op string, in ...*onnx.Value) *onnx.Value { return g.Node(op, 1, in)[0] }

// With emits an operator of ai.onnx with one output over one input, with attributes.
func (g *Grad) With(op string, attrs []*onnx.Attribute, in ...*onnx.Value) *onnx.Value {
	return g.Node(op, 1, in, attrs...)[0]
}

func (g *Grad) Add(a, b *onnx.Value) *onnx.Value    { return g.Op("Add", a, b) }
func (g *Grad) Sub(a, b *onnx.Value) *onnx.Value    { return g.Op("Sub", a, b) }
func (g *Grad) Mul(a, b *onnx.Value) *onnx.Value    { return g.Op("Mul", a, b) }
func (g *Grad) Div(a, b *onnx.Value) *onnx.Value    { return g.Op("Div", a, b) }
func (g *Grad) Neg(a *onnx.Value) *onnx.Value       { return g.Op("Neg", a) }
func (g *Grad) MatMul(a, b *onnx.Value) *onnx.Value { return g.Op("MatMul", a, b) }

// Const is a constant in the graph.
func (g *Grad) Const(t *tensor.Tensor) *onnx.Value {
	v := g.Graph.AddInit(g.Names("const"), t)
	g.Infos[v] = InfoOf(t, true)
	return v
}

// Int64s is a constant list of integers, for axes and shapes.
func (g *Grad) Int64s(v ...int64) *onnx.Value {
	if v == nil {
		v = []int64{}
	}
	return g.Const(tensor.New(v))
}

// Like is the scalar x in v's element type.
func (g *Grad) Like(v *onnx.Value, x float64) *onnx.Value {
	switch d := g.DType(v); d {
	case tensor.Float64:
		return g.Const(tensor.Scalar(x))
	case tensor.Float32:
		return g.Const(tensor.Scalar(float32(x)))
	default:
		t, _ := tensor.Zeros(d)
		if err := tensor.ConvertInto(t, tensor.Scalar(x), true); err != nil {
			g.fail(err)
		}
		return g.Const(t)
	}
}

// Shape is v's shape as a tensor.
func (g *Grad) Shape(v *onnx.Value) *onnx.Value { return g.Op("Shape", v) }

// Dims lists v's sizes along axes.
func (g *Grad) Dims(v *onnx.Value, axes ...int64) *onnx.Value {
	return g.Op("Gather", g.Shape(v), g.Int64s(axes...))
}

// Dim is v's size along axis as a scalar.
func (g *Grad) Dim(v *onnx.Value, axis int64) *onnx.Value {
	return g.Op("Gather", g.Shape(v), g.Const(tensor.Scalar(axis)))
}

// Positions counts along axis of v from 0.
func (g *Grad) Positions(v *onnx.Value, axis int64) *onnx.Value {
	return g.Op("Range", g.Const(tensor.Scalar(int64(0))), g.Dim(v, axis), g.Const(tensor.Scalar(int64(1))))
}

// ReshapeLike gives dy the shape of x.
func (g *Grad) ReshapeLike(dy, x *onnx.Value) *onnx.Value {
	return g.With("Reshape", []*onnx.Attribute{IntAttr("allowzero", 1)}, dy, g.Shape(x))
}

// SumTo sums dy over the dimensions in which x was broadcast, so that it has x's shape.
func (g *Grad) SumTo(dy, x *onnx.Value) *onnx.Value {
	a, b := g.Info(dy), g.Info(x)
	if a.Ranked && b.Ranked && len(a.Shape) == len(b.Shape) {
		same := true
		for i := range a.Shape {
			same = same && a.Shape[i].Same(b.Shape[i])
		}
		if same {
			return dy
		}
	}
	return g.Internal("SumTo", 1, []*onnx.Value{dy, g.Shape(x)})[0]
}

// ExpandTo broadcasts dy to the shape of x.
func (g *Grad) ExpandTo(dy, x *onnx.Value) *onnx.Value { return g.Op("Expand", dy, g.Shape(x)) }

// Reshape gives v a shape, in which 0 is 0 and not the size that is there.
func (g *Grad) Reshape(v, shape *onnx.Value) *onnx.Value {
	return g.With("Reshape", []*onnx.Attribute{IntAttr("allowzero", 1)}, v, shape)
}

// Flat is v's elements as a list.
func (g *Grad) Flat(v *onnx.Value) *onnx.Value { return g.Op("Reshape", v, g.Int64s(-1)) }

// Fill is a tensor of that shape, each of whose elements is x, in v's element type.
func (g *Grad) Fill(v, shape *onnx.Value, x float64) *onnx.Value {
	return g.Op("Expand", g.Like(v, x), shape)
}

// Concat joins lists of integers, for shapes.
func (g *Grad) Concat(parts ...*onnx.Value) *onnx.Value {
	return g.Node("Concat", 1, parts, IntAttr("axis", 0))[0]
}

// Tail is a list without its first n elements.
func (g *Grad) Tail(list *onnx.Value, n int64) *onnx.Value {
	return g.Op("Slice", list, g.Int64s(n), g.Int64s(math.MaxInt64))
}

// Cast converts v to another element type, unless it has that already.
func (g *Grad) Cast(v *onnx.Value, to tensor.DType) *onnx.Value {
	if g.DType(v) == to {
		return v
	}
	return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(to))}, v)
}

// ReduceMean averages over axes, which stay with a size of 1.
func (g *Grad) ReduceMean(v *onnx.Value, axes ...int64) *onnx.Value {
	return g.With("ReduceMean", []*onnx.Attribute{IntAttr("keepdims", 1)}, v, g.Int64s(axes...))
}

// MoveBack is the gradient by a tensor of that shape of what move does to it, which is to put its elements elsewhere, or several
// times, or nowhere: move is done to the numbers of the elements, which then tell where those of dy belong.
func (g *Grad) MoveBack(dy, shape *onnx.Value, move func(numbers *onnx.Value) *onnx.Value) *onnx.Value {
	size := g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, shape)
	one := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
	numbers := g.Reshape(g.Op("Range", one(0), g.Op("Squeeze", size), one(1)), shape)
	sums := g.Node("ScatterElements", 1, []*onnx.Value{g.Fill(dy, size, 0), g.Flat(move(numbers)), g.Flat(dy)}, StringAttr("reduction", "add"))
	return g.Reshape(sums[0], shape)
}

// Transpose permutes the axes; without perm it swaps the last two of v.
func (g *Grad) Transpose(v *onnx.Value, perm ...int64) *onnx.Value {
	if perm == nil {
		r := g.Rank(v)
		for i := range r {
			perm = append(perm, int64(i))
		}
		if r >= 2 {
			perm[r-1], perm[r-2] = perm[r-2], perm[r-1]
		}
	}
	return g.With("Transpose", []*onnx.Attribute{IntsAttr("perm", perm...)}, v)
}

// ReduceSum sums over axes.
func (g *Grad) ReduceSum(v *onnx.Value, keep bool, axes ...int64) *onnx.Value {
	k := int64(0)
	if keep {
		k = 1
	}
	return g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", k)}, v, g.Int64s(axes...))
}

// IntAttr is an integer attribute.
func IntAttr(name string, v int64) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: onnx.AttrInt, I: v}
}

// IntsAttr is an integer-list attribute.
func IntsAttr(name string, v ...int64) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: onnx.AttrInts, Ints: v}
}

// FloatAttr is a float attribute.
func FloatAttr(name string, v float32) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: onnx.AttrFloat, F: v}
}

// StringAttr is a string attribute.
func StringAttr(name, v string) *onnx.Attribute {
	return &onnx.Attribute{Name: name, Type: onnx.AttrString, S: []byte(v)}
}

// sumsSquares reports whether v is a sum or a mean of squares, perhaps scaled: a root of it is a norm, a distance or a deviation as exporters write
// them, and the gradient of one that is zero is PyTorch's, zero, not the infinite slope of the root times that of the squares.
func (g *Grad) sumsSquares(v *onnx.Value) bool {
	for range 8 {
		n := v.Def()
		if n == nil || onnx.CanonicalDomain(n.Domain) != "" || n.Input(0) == nil {
			return false
		}
		switch n.Op {
		case "ReduceSumSquare":
			return true
		case "ReduceSum", "ReduceMean":
			return g.squares(n.Inputs[0])
		case "Mul", "Div", "Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Expand":
			v = n.Inputs[0]
		default:
			return false
		}
	}
	return false
}

// squares reports whether v is the squares of something.
func (g *Grad) squares(v *onnx.Value) bool {
	n := v.Def()
	if n == nil || onnx.CanonicalDomain(n.Domain) != "" || n.Input(1) == nil {
		return false
	}
	switch c := g.Info(n.Inputs[1]).Const; n.Op {
	case "Mul":
		return n.Inputs[0] == n.Inputs[1]
	case "Pow":
		return c != nil && c.Len() == 1 && tensor.Float64At(c, 0) == 2
	}
	return false
}

// orOne is v with ones for its zeros.
func (g *Grad) orOne(v *onnx.Value) *onnx.Value {
	return g.Op("Where", g.Op("Equal", v, g.Like(v, 0)), g.Like(v, 1), v)
}
