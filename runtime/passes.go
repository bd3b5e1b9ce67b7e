package runtime

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// A pass rewrites a graph into one that computes the same in less time. The rewritten graph may hold operators of the internal
// domain; the model that the session was made of is not touched.
type pass struct {
	name string
	run  func(r *rewriter)
}

// passes in the order in which they run.
var passes = []pass{
	{"branches", branches},
	{"identity", identity},
	{"quantized", quantized},
	{"constants", constants},
	{"common", common},
	{"states", states},
	{"moves", moves},
	{"last-steps", lastSteps},
	{"stacks", stacks},
	{"embeddings", embeddings},
	{"one-hot", oneHot},
	{"gelu", gelu},
	{"swish", swish},
	{"norms", norms},
	{"conv-batchnorm", convBatchNorm},
	{"attention", attentions},
	{"integer-products", integerProducts},
	{"transposed", transposed},
	{"linear", linear},
	{"epilogue", epilogues},
	{"blocked", blocked},
	{"pointwise", chains},
}

// Passes names the passes in their order, for [WithoutPass].
func Passes() []string {
	var names []string
	for _, p := range passes {
		names = append(names, p.name)
	}
	return names
}

// WithoutPass leaves out the passes named; "all" leaves out all of them.
func WithoutPass(names ...string) Option {
	return func(s *settings) { s.without = append(s.without, names...) }
}

// optimize runs the passes over a copy of m.
func optimize(m *onnx.Model, set *settings) (*onnx.Model, error) {
	for _, name := range set.without {
		if name != "all" && !slices.Contains(Passes(), name) {
			return nil, fmt.Errorf("there is no pass %q; there are %s", name, strings.Join(Passes(), ", "))
		}
	}
	if slices.Contains(set.without, "all") {
		return m, nil
	}
	m = m.Clone()
	r, err := newRewriter(m, set)
	if err != nil {
		return nil, err
	}
	for _, ps := range passes {
		if slices.Contains(set.without, ps.name) {
			continue
		}
		m.Graph.Walk(func(g *onnx.Graph) {
			r.graph = g
			ps.run(r)
		})
	}
	return m, nil
}

// Fuse rewrites, in m itself, what has a gradient that takes less time and memory than that of the nodes as they are: one operator for what they spell
// out, no more of a recurrent layer's states than are wanted.
// What hangs on the initializers that are trained is taken for no constant.
func Fuse(m *onnx.Model, trained []*onnx.Value) error {
	inputs := m.Graph.Inputs
	defer func() { m.Graph.Inputs = inputs }()
	for _, v := range trained {
		if !slices.Contains(inputs, v) {
			m.Graph.Inputs = append(slices.Clip(m.Graph.Inputs), v)
		}
	}
	if err := m.Graph.Sort(); err != nil {
		return err
	}
	r, err := newRewriter(m, &settings{limit: DefaultMemoryLimit})
	if err != nil {
		return err
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		r.graph = g
		states(r)
		lastSteps(r)
		gelu(r)
		attentionsToTrain(r, trained)
	})
	return nil
}

// newRewriter is ready for passes over m.
func newRewriter(m *onnx.Model, set *settings) (*rewriter, error) {
	p, err := compile(m, m.Graph, nil, set)
	if err != nil {
		return nil, err
	}
	r := &rewriter{model: m, infos: map[*onnx.Value]ops.Info{}, known: map[*onnx.Value]*tensor.Tensor{}, outputs: map[*onnx.Value]bool{},
		graphOf: map[*onnx.Node]*onnx.Graph{}}
	p.collect(r.infos)
	p.collectKnown(r.known)
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Outputs {
			r.outputs[v] = true
		}
		for _, n := range g.Nodes {
			r.graphOf[n] = g
		}
	})
	return r, nil
}

func (p *program) collectKnown(known map[*onnx.Value]*tensor.Tensor) {
	for _, s := range p.steps {
		for _, body := range s.bodies {
			body.collectKnown(known)
		}
		for i, slot := range s.outs {
			if slot < 0 || p.known[slot] == nil {
				continue
			}
			if t, ok := p.known[slot].(*tensor.Tensor); ok {
				known[s.node.Outputs[i]] = t
			}
		}
	}
}

// rewriter is what passes work on: one graph of the model at a time.
type rewriter struct {
	model   *onnx.Model
	graph   *onnx.Graph
	infos   map[*onnx.Value]ops.Info
	known   map[*onnx.Value]*tensor.Tensor // values that hang on no input
	outputs map[*onnx.Value]bool           // of all graphs
	graphOf map[*onnx.Node]*onnx.Graph
}

// is reports whether n is an operator of ai.onnx of that name.
func is(n *onnx.Node, op string) bool {
	return n != nil && n.Op == op && onnx.CanonicalDomain(n.Domain) == ""
}

// since is the version of n's definition.
func (r *rewriter) since(n *onnx.Node) int {
	opset := int(n.Opset)
	if opset == 0 {
		opset = int(r.model.OpsetVersion(n.Domain))
	}
	_, since := ops.Lookup(n.Domain, n.Op, opset)
	return since
}

// constant is v's value if it is a constant of the graph that no caller may replace.
func (r *rewriter) constant(v *onnx.Value) *tensor.Tensor {
	if v == nil {
		return nil
	}
	if v.Const != nil && v.Def() == nil && !slices.Contains(r.model.Graph.Inputs, v) && !slices.Contains(r.graph.Inputs, v) {
		return v.Const
	}
	return r.known[v]
}

// scalar is v's value if it is a constant of one element.
func (r *rewriter) scalar(v *onnx.Value) (float64, bool) {
	t := r.constant(v)
	if t == nil || t.Len() != 1 || !t.DType().IsFloat() {
		return 0, false
	}
	return tensor.Float64At(t, 0), true
}

// once reports whether v is read by one node alone and leaves no graph.
func (r *rewriter) once(v *onnx.Value) bool { return len(v.Users()) == 1 && !r.outputs[v] }

// unread reports whether nobody reads v, if there is such a value.
func (r *rewriter) unread(v *onnx.Value) bool {
	return v == nil || len(v.Users()) == 0 && !r.outputs[v]
}

// next is the node that alone reads v, nil if there is no such.
func (r *rewriter) next(v *onnx.Value) *onnx.Node {
	if !r.once(v) || r.graphOf[v.Users()[0]] != r.graph {
		return nil
	}
	return v.Users()[0]
}

// other is the input of a node of two that is not v.
func other(n *onnx.Node, v *onnx.Value) *onnx.Value {
	if n.Inputs[0] == v {
		return n.Inputs[1]
	}
	return n.Inputs[0]
}

// float reports whether v is known to be a tensor of a floating-point type.
func (r *rewriter) float(v *onnx.Value) bool {
	i := r.infos[v]
	return i.Kind == onnx.TensorType && i.DType.IsFloat()
}

// sameShape reports whether two tensors are sure to have one shape and type.
func (r *rewriter) sameShape(v, w *onnx.Value) bool {
	a, b := r.infos[v], r.infos[w]
	return a.Ranked && b.Ranked && a.DType == b.DType && slices.EqualFunc(a.Shape, b.Shape, ops.Dim.Same)
}

// put makes fresh compute what last computed, in its place, and removes what nothing reads any more. named gives it its name.
func (r *rewriter) put(fresh, last, named *onnx.Node) {
	fresh.Name = named.Name
	for i, v := range slices.Clone(last.Outputs) {
		last.Outputs[i] = nil
		fresh.SetOutput(i, v)
	}
	r.graph.Nodes[slices.Index(r.graph.Nodes, last)] = fresh
	r.graphOf[fresh] = r.graph
	delete(r.graphOf, last)
	inputs := slices.Clone(last.Inputs)
	for i := range last.Inputs {
		last.SetInput(i, nil)
	}
	r.drop(inputs)
}

// drop removes the nodes that compute vs and of which nothing is read, and in turn what they alone read.
func (r *rewriter) drop(vs []*onnx.Value) {
	for _, v := range vs {
		if v == nil || v.Def() == nil || r.graphOf[v.Def()] != r.graph {
			continue
		}
		n := v.Def()
		if len(n.Graphs()) > 0 || slices.ContainsFunc(n.Outputs, func(o *onnx.Value) bool { return o != nil && (len(o.Users()) > 0 || r.outputs[o]) }) {
			continue
		}
		inputs := slices.Clone(n.Inputs)
		r.graph.Remove(n)
		delete(r.graphOf, n)
		r.drop(inputs)
	}
}

// init adds a constant.
func (r *rewriter) init(like *onnx.Value, t *tensor.Tensor) *onnx.Value {
	v := &onnx.Value{Name: like.Name, Const: t, Type: onnx.TypeOfTensor(t)}
	r.graph.Inits = append(r.graph.Inits, v)
	r.infos[v] = ops.InfoOf(t, true)
	return v
}

// reuse makes all nodes read w where they read v, which is no output.
func (r *rewriter) reuse(v, w *onnx.Value) {
	for _, n := range slices.Clone(v.Users()) {
		for i, in := range n.Inputs {
			if in == v {
				n.SetInput(i, w)
			}
		}
	}
}
