// Package ops is the registry of operators: for each its versions, shape
// inference, kernel and gradient, in one entry ([Op]) in the file of its family.
// It knows nothing of sessions; package runtime plans and runs what is here.
package ops

import (
	"fmt"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Internal is the domain of the operators that only passes and gradients emit.
const Internal = "ai.retune"

// Op is one operator in the form that it has at the opsets in Since. An operator
// whose form changed so much that one kernel would be two has two entries.
type Op struct {
	Domain string
	Name   string
	Since  []int // opsets at which the definition changed, ascending; what is not listed by any entry is not supported

	MinIn, MaxIn   int // numbers of inputs; MaxIn -1: any
	MinOut, MaxOut int // numbers of outputs; zero values: exactly 1; MaxOut -1: any

	Types []TypeSet // allowed element types by input; the last also stands for further inputs; 0 or none: any
	// AnyKind: inputs may be sequences, optionals and maps. Those of other operators are tensors, as far as
	// kernels are concerned.
	AnyKind bool

	// Infer says what is known of the outputs from what is known of the inputs. With all
	// inputs' shapes (and the values that they hang on) known it must give exact shapes, or
	// unknown ones where they hang on data that it cannot see: then the kernel allocates
	// by [Ctx.Alloc].
	Infer func(n *Node) ([]Info, error)

	// What is known of elements of integers, for shapes that are computed: either Moves, the inputs that the elements of the outputs are
	// taken from as they are (-1: all), or Term, of an elementwise operator, an element of the output from those of the inputs
	// (Unknown where one is left out). Infer may also set [Info.Values] itself.
	Moves []int
	Term  func(n *Node, x []Dim) Dim

	// BodyIn says what is known of the inputs of the subgraph under an attribute: with in nil, in its first run;
	// else in any run, from what was known of its inputs and, from those, of its outputs.
	BodyIn func(n *Node, attr string, in, out []Info) []Info

	// Compile reads the attributes, once, and gives the kernel.
	Compile func(n *Node) (Kernel, error)

	// Expand emits nodes that compute the outputs, in the place of a node without a kernel, whose gradient, unless it has
	// one of its own, is theirs.
	Expand func(g *Grad, n *Node) ([]*onnx.Value, error)

	// Portable writes a node of the internal domain for a file: it emits standard operators, at [GradOpset] or later, that compute
	// the outputs, and internal ones that have such a form themselves. No outputs: the node stands, after it has been changed itself.
	Portable func(g *Grad, n *Node) ([]*onnx.Value, error)

	// FLOPs counts the multiplications and additions of a run, for profiles: of operators whose time goes into those.
	FLOPs func(c *Ctx) int64

	// Pointwise reads the attributes of an operator on single elements for its kernel on vectors of float32, which chains of such
	// operators run tile by tile; the zero value where they leave none.
	Pointwise func(n *Node) Pointwise

	// View: output 0 is input 0's elements under another shape; a kernel has only to check what inference takes for granted.
	View bool
	// InPlace: output 0 may take the memory of the inputs listed, if shape and type agree.
	InPlace []int
	// Impure: two runs may differ (random draws), so it is never folded.
	Impure bool

	// Grad emits the gradient: from the gradients of the outputs (nil where there is
	// none) those of the inputs (nil where an input gets none).
	Grad func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error)
	// NoGrad says why there is no gradient, where none can be.
	NoGrad string
	// Estimate is emitted in place of a gradient that there is none of, or that is nothing, where [Grad.StraightThrough] asks
	// for it: rounding is let through. Integers that such an operator gives stand for real numbers.
	Estimate func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error)
	// Flat: the outputs are constant almost everywhere, so that no gradient is the right gradient (PyTorch's
	// answer for floor, sign, comparisons and the like).
	Flat bool
}

// Kernel computes a node's outputs from its inputs.
type Kernel func(c *Ctx) error

// TypeSet is a set of element types.
type TypeSet uint32

// Of makes a set of types.
func Of(ds ...tensor.DType) TypeSet {
	var s TypeSet
	for _, d := range ds {
		s |= 1 << uint(d)
	}
	return s
}

// Has reports whether d is in s; the empty set holds every type.
func (s TypeSet) Has(d tensor.DType) bool { return s == 0 || s&(1<<uint(d)) != 0 }

// The sets that the standard's type constraints are made of.
var (
	Floats   = Of(tensor.Float32, tensor.Float64, tensor.Float16, tensor.BFloat16)
	Signed   = Of(tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64)
	Unsigned = Of(tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64)
	Integers = Signed | Unsigned
	Numeric  = Floats | Integers
	Bools    = Of(tensor.Bool)
	Index    = Of(tensor.Int32, tensor.Int64)
)

type opKey struct{ domain, name string }

var registry = map[opKey][]*Op{}

// register is called by each family's init; the registry is read-only afterwards.
func register(entries ...Op) {
	for i := range entries {
		op := &entries[i]
		if op.MaxOut == 0 {
			op.MinOut, op.MaxOut = 1, 1
		}
		if op.MaxIn == 0 {
			op.MaxIn = op.MinIn
		}
		k := opKey{op.Domain, op.Name}
		for _, other := range registry[k] {
			for _, s := range op.Since {
				if slices.Contains(other.Since, s) {
					panic(fmt.Sprintf("ops: %s %d registered twice", op.Name, s))
				}
			}
		}
		registry[k] = append(registry[k], op)
	}
}

// Lookup finds the entry of an operator at an opset, and the version of its definition
// that is in force there. nil: not supported.
func Lookup(domain, name string, opset int) (op *Op, since int) {
	for _, e := range registry[opKey{onnx.CanonicalDomain(domain), name}] {
		for _, s := range e.Since {
			if s <= opset && s > since {
				op, since = e, s
			}
		}
	}
	return op, since
}

// All lists the entries by domain and name.
func All() []*Op {
	var all []*Op
	for _, es := range registry {
		all = append(all, es...)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if a.Domain != b.Domain {
			return a.Domain < b.Domain
		}
		if a.Name != b.Name {
			return a.Name < b.Name
		}
		return a.Since[0] < b.Since[0]
	})
	return all
}

// Node is a node of a graph together with its operator and what is known of its inputs.
type Node struct {
	*onnx.Node
	Def   *Op
	Since int    // version of the definition in force
	In    []Info // one for each of Node.Inputs; the zero Info where an input is left out

	// Bodies are the node's subgraphs by attribute name, ready to infer and to run.
	Bodies map[string]Body

	mistyped *atomic.Pointer[error] // the first attribute that was asked for and is of another type
}

// Body is a subgraph as If, Loop and Scan see it. Values that it captures from around it are
// bound by whoever made it.
type Body interface {
	NumInputs() int
	NumOutputs() int
	Infer(inputs []Info) ([]Info, error)
	Run(c *Ctx, inputs []tensor.Value) ([]tensor.Value, error)
}

// Resolve finds n's operator at opset and checks the numbers of its inputs and outputs.
func Resolve(n *onnx.Node, opset int) (*Node, error) {
	if n.Opset != 0 {
		opset = int(n.Opset)
	}
	if n.Domain == Internal {
		opset = 1
	}
	op, since := Lookup(n.Domain, n.Op, opset)
	if op == nil {
		return nil, &UnsupportedError{Node: n.Name, Op: n.Op, Domain: n.Domain, Opset: opset}
	}
	r := &Node{Node: n, Def: op, Since: since, mistyped: new(atomic.Pointer[error])}
	ins, outs := len(n.Inputs), len(n.Outputs)
	if ins < op.MinIn || op.MaxIn >= 0 && ins > op.MaxIn {
		return nil, Errorf(n, "has %d inputs, the operator takes %s", ins, span(op.MinIn, op.MaxIn))
	}
	for i := range op.MinIn {
		if n.Inputs[i] == nil {
			return nil, Errorf(n, "input %d is left out but required", i)
		}
	}
	if outs < op.MinOut || op.MaxOut >= 0 && outs > op.MaxOut {
		return nil, Errorf(n, "has %d outputs, the operator gives %s", outs, span(op.MinOut, op.MaxOut))
	}
	return r, nil
}

func span(lo, hi int) string {
	switch {
	case hi < 0:
		return fmt.Sprintf("%d or more", lo)
	case lo == hi:
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// UnsupportedError says that no entry of the registry covers a node.
type UnsupportedError struct {
	Node, Op, Domain string
	Opset            int
}

func (e *UnsupportedError) Error() string {
	domain := e.Domain
	if domain == "" {
		domain = "ai.onnx"
	}
	if e.Opset == 0 {
		return fmt.Sprintf("node %q: operator %s.%s is not supported: the model imports no opset of its domain", e.Node, domain, e.Op)
	}
	return fmt.Sprintf("node %q: operator %s.%s at opset %d is not supported", e.Node, domain, e.Op, e.Opset)
}

// Caught, deferred, makes an error of n of a panic: a fault of ours that what a model says has brought out.
func Caught(n *onnx.Node, err *error) {
	if r := recover(); r != nil {
		*err = Errorf(n, "panic: %v", r)
	}
}

// Errorf is an error that names the node and its operator.
func Errorf(n *onnx.Node, format string, args ...any) error {
	name := n.Name
	if name == "" && len(n.Outputs) > 0 && n.Outputs[0] != nil {
		name = "→" + n.Outputs[0].Name
	}
	return fmt.Errorf("node %q (%s): %w", name, n.Op, fmt.Errorf(format, args...))
}

// InferOutputs runs the operator's shape inference after checking input types, and
// pads the answer to the number of outputs.
func (n *Node) InferOutputs() (out []Info, err error) {
	defer Caught(n.Node, &err)
	for i, in := range n.In {
		if in.Kind != onnx.TensorType && !n.Def.AnyKind {
			return nil, Errorf(n.Node, "input %d is no tensor", i)
		}
		if len(n.Def.Types) == 0 || in.DType == tensor.Undefined || n.Inputs[i] == nil {
			continue
		}
		if set := n.Def.Types[min(i, len(n.Def.Types)-1)]; !set.Has(in.DType) {
			return nil, Errorf(n.Node, "input %d has element type %s, which opset %d does not allow there", i, in.DType, n.Since)
		}
	}
	if n.Def.Infer == nil {
		return make([]Info, len(n.Outputs)), nil
	}
	if out, err = n.Def.Infer(n); err != nil {
		return nil, Errorf(n.Node, "%w", err)
	}
	if err := n.Mistyped(); err != nil {
		return nil, err
	}
	for len(out) < len(n.Outputs) {
		out = append(out, Info{})
	}
	out = out[:len(n.Outputs)]
	n.inferValues(out)
	return out, nil
}

// typed is the attribute name, if it is there and of type t; that it is of another one is noted.
func (n *Node) typed(name string, t onnx.AttrType) *onnx.Attribute {
	a := n.Attr(name)
	if a == nil || a.Type == t {
		return a
	}
	if n.mistyped != nil {
		err := fmt.Errorf("attribute %s is of another type than the operator's", name)
		n.mistyped.CompareAndSwap(nil, &err)
	}
	return nil
}

// Mistyped is an error if an attribute that the operator's functions asked for is of another type.
func (n *Node) Mistyped() error {
	if n.mistyped == nil {
		return nil
	}
	if err := n.mistyped.Load(); err != nil {
		return Errorf(n.Node, "%w", *err)
	}
	return nil
}

// Int is the integer attribute name, or def.
func (n *Node) Int(name string, def int64) int64 {
	if a := n.typed(name, onnx.AttrInt); a != nil {
		return a.I
	}
	return def
}

// Float is the float attribute name, or def.
func (n *Node) Float(name string, def float32) float32 {
	if a := n.typed(name, onnx.AttrFloat); a != nil {
		return a.F
	}
	return def
}

// Str is the string attribute name, or def.
func (n *Node) Str(name, def string) string {
	if a := n.typed(name, onnx.AttrString); a != nil {
		return string(a.S)
	}
	return def
}

// Ints is the integer-list attribute name, or def.
func (n *Node) Ints(name string, def []int64) []int64 {
	if a := n.typed(name, onnx.AttrInts); a != nil {
		return a.Ints
	}
	return def
}

// Has reports whether the i-th input is there.
func (n *Node) Has(i int) bool { return n.Input(i) != nil }

// Info is what is known of the i-th input, the zero Info if it is left out.
func (n *Node) Info(i int) Info {
	if i >= len(n.In) {
		return Info{}
	}
	return n.In[i]
}

// Axis is the integer attribute name as an axis of a tensor of that rank, negative ones
// counted from the end.
func (n *Node) Axis(name string, def, rank int) (int, error) {
	return NormAxis(n.Int(name, int64(def)), rank)
}

// NormAxis maps axis in [-rank, rank) to [0, rank).
func NormAxis(axis int64, rank int) (int, error) {
	if axis < -int64(rank) || axis >= int64(rank) {
		return 0, fmt.Errorf("axis %d is outside a tensor of rank %d", axis, rank)
	}
	if axis < 0 {
		axis += int64(rank)
	}
	return int(axis), nil
}

// NormAxes is [NormAxis] for a list, which must have no duplicates.
func NormAxes(axes []int64, rank int) ([]int, error) {
	out := make([]int, len(axes))
	for i, a := range axes {
		ax, err := NormAxis(a, rank)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out[:i], ax) {
			return nil, fmt.Errorf("axis %d is listed twice in %v", ax, axes)
		}
		out[i] = ax
	}
	return out, nil
}

// IntsInput is the attribute name up to the version before, and the i-th input from it on
// (ok false: neither is there, or the input's value is not known yet: known tells).
func (n *Node) IntsInput(name string, i, before int) (v []int64, ok, known bool, err error) {
	if n.Since < before {
		if n.Has(i) {
			return nil, false, false, fmt.Errorf("input %d came with opset %d", i, before)
		}
		a := n.Attr(name)
		if a == nil {
			return nil, false, true, nil
		}
		return a.Ints, true, true, nil
	}
	if !n.Has(i) {
		return nil, false, true, nil
	}
	c := n.Info(i).Const
	if c == nil {
		return nil, true, false, nil
	}
	v, err = c.Int64s()
	return v, true, true, err
}
