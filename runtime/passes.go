package runtime

import (
	"fmt"
	"math"
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
	{"constants", constants},
	{"identity", identity},
	{"common", common},
	{"gelu", gelu},
	{"swish", swish},
	{"conv-batchnorm", convBatchNorm},
	{"integer-products", integerProducts},
	{"transposed", transposed},
	{"linear", linear},
	{"epilogue", epilogues},
	{"blocked", blocked},
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

// near reports whether v is a constant that is x as exporters write it in float32 or float16.
func (r *rewriter) near(v *onnx.Value, x float64) bool {
	c, ok := r.scalar(v)
	return ok && math.Abs(c-x) <= 5e-4*math.Abs(x)
}

// once reports whether v is read by one node alone and leaves no graph.
func (r *rewriter) once(v *onnx.Value) bool { return len(v.Users()) == 1 && !r.outputs[v] }

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

// constants puts the values that hang on no input in the place of the nodes that compute them.
func constants(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if len(n.Graphs()) > 0 || len(n.Outputs) == 0 || slices.ContainsFunc(n.Outputs, func(o *onnx.Value) bool { return o != nil && (r.known[o] == nil || r.outputs[o]) }) {
			continue
		}
		for _, o := range n.Outputs {
			if o == nil {
				continue
			}
			v := r.init(o, r.known[o])
			r.reuse(o, v)
		}
		r.drop(n.Outputs)
	}
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

// identity removes nodes that give what they get.
func identity(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		switch {
		case is(n, "Identity"):
		case is(n, "Dropout") && n.Output(1) == nil && r.since(n) >= 7:
			if v := n.Input(2); v != nil { // training_mode
				if t := r.constant(v); t == nil || t.DType() != tensor.Bool || t.Len() != 1 || tensor.Data[bool](t)[0] {
					continue
				}
			}
		default:
			continue
		}
		if x, y := n.Inputs[0], n.Outputs[0]; x != nil && y != nil && !r.outputs[y] {
			r.reuse(y, x)
			r.drop([]*onnx.Value{y})
		}
	}
}

// common computes what is computed twice once.
func common(r *rewriter) {
	first := map[string]*onnx.Node{}
	for _, n := range slices.Clone(r.graph.Nodes) {
		key, ok := r.key(n)
		if !ok {
			continue
		}
		f := first[key]
		if f == nil {
			first[key] = n
			continue
		}
		same := len(f.Outputs) == len(n.Outputs)
		for i := range n.Outputs {
			same = same && (n.Outputs[i] == nil || f.Outputs[i] != nil && !r.outputs[n.Outputs[i]])
		}
		if !same {
			continue
		}
		for i, o := range n.Outputs {
			if o != nil {
				r.reuse(o, f.Outputs[i])
			}
		}
		r.drop(n.Outputs)
	}
}

// key is equal for nodes that compute the same; ok is false for those that are not looked at.
func (r *rewriter) key(n *onnx.Node) (key string, ok bool) {
	op, since := ops.Lookup(n.Domain, n.Op, max(int(n.Opset), int(r.model.OpsetVersion(n.Domain))))
	if n.Domain == ops.Internal {
		op, since = ops.Lookup(n.Domain, n.Op, 1)
	} else if n.Opset != 0 {
		op, since = ops.Lookup(n.Domain, n.Op, int(n.Opset))
	}
	if op == nil || op.Impure || len(n.Graphs()) > 0 {
		return "", false
	}
	var b strings.Builder
	fmt.Fprint(&b, n.Domain, "/", n.Op, "/", since, "/", len(n.Outputs))
	for _, v := range n.Inputs {
		fmt.Fprintf(&b, " %p", v)
	}
	attrs := slices.Clone(n.Attrs)
	slices.SortFunc(attrs, func(a, b *onnx.Attribute) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range attrs {
		switch a.Type {
		case onnx.AttrInt, onnx.AttrFloat, onnx.AttrString, onnx.AttrInts, onnx.AttrFloats:
			fmt.Fprintf(&b, " %q=%d,%b,%q,%d,%b", a.Name, a.I, a.F, a.S, a.Ints, a.Floats)
		default:
			return "", false
		}
	}
	return b.String(), true
}

// gelu finds x/2 · (1 + erf(x/√2)) in the spellings of exporters that have no Gelu.
func gelu(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "Erf") {
			continue
		}
		inner := n.Inputs[0].Def()
		var x *onnx.Value
		switch {
		case is(inner, "Div") && r.near(inner.Inputs[1], math.Sqrt2):
			x = inner.Inputs[0]
		case is(inner, "Mul") && r.near(inner.Inputs[1], math.Sqrt2/2):
			x = inner.Inputs[0]
		case is(inner, "Mul") && r.near(inner.Inputs[0], math.Sqrt2/2):
			x = inner.Inputs[1]
		default:
			continue
		}
		add := r.next(n.Outputs[0])
		if !is(add, "Add") || !r.near(other(add, n.Outputs[0]), 1) || !r.float(x) {
			continue
		}
		mul := r.next(add.Outputs[0])
		if !is(mul, "Mul") {
			continue
		}
		half := func(v *onnx.Value) bool { // v is x/2
			d := v.Def()
			return is(d, "Mul") && (d.Inputs[0] == x && r.near(d.Inputs[1], 0.5) || d.Inputs[1] == x && r.near(d.Inputs[0], 0.5)) ||
				is(d, "Div") && d.Inputs[0] == x && r.near(d.Inputs[1], 2)
		}
		last := mul
		switch o := other(mul, add.Outputs[0]); {
		case half(o):
		case o == x: // then the half comes last
			if last = r.next(mul.Outputs[0]); !is(last, "Mul") || !r.near(other(last, mul.Outputs[0]), 0.5) {
				continue
			}
		case r.near(o, 0.5):
			if last = r.next(mul.Outputs[0]); !is(last, "Mul") || other(last, mul.Outputs[0]) != x {
				continue
			}
		default:
			continue
		}
		fresh := onnx.NewNode("Gelu", []*onnx.Value{x})
		fresh.Opset = 20
		r.put(fresh, last, n)
	}
}

// swish finds x·σ(x), and x·HardSigmoid(x) as exporters write HardSwish.
func swish(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		var op string
		var opset int64
		switch {
		case is(n, "Sigmoid"):
			op, opset = "Swish", 24
		case is(n, "HardSigmoid") && math.Abs(float64(n.Float("alpha", 0.2))-1.0/6) < 1e-6 && n.Float("beta", 0.5) == 0.5:
			op, opset = "HardSwish", 22
		default:
			continue
		}
		x := n.Inputs[0]
		mul := r.next(n.Outputs[0])
		if !is(mul, "Mul") || other(mul, n.Outputs[0]) != x || mul.Inputs[0] == mul.Inputs[1] {
			continue
		}
		fresh := onnx.NewNode(op, []*onnx.Value{x})
		fresh.Opset = opset
		r.put(fresh, mul, n)
	}
}

// convBatchNorm folds a batch norm of inference into the convolution before it.
func convBatchNorm(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "Conv") || len(n.Outputs) != 1 {
			continue
		}
		bn := r.next(n.Outputs[0])
		if bn == nil || bn.Inputs[0] != n.Outputs[0] {
			continue
		}
		line, ok := r.lineOf(bn)
		w, b := r.constant(n.Inputs[1]), r.constant(n.Input(2))
		if w == nil || w.DType() != tensor.Float32 || w.Rank() < 3 || n.Input(2) != nil && b == nil {
			continue
		}
		channels := w.Shape()[0]
		if b != nil && (b.DType() != tensor.Float32 || b.Len() != channels) || !ok || len(line) != channels || w.Len() == 0 {
			continue
		}
		weights, bias := w.Clone(), make([]float32, channels)
		data, each := tensor.Data[float32](weights), w.Len()/channels
		for c, l := range line {
			for i := c * each; i < (c+1)*each; i++ {
				data[i] = float32(float64(data[i]) * l[0])
			}
			shift := l[1]
			if b != nil {
				shift += float64(tensor.Data[float32](b)[c]) * l[0]
			}
			bias[c] = float32(shift)
		}
		fresh := onnx.NewNode("Conv", []*onnx.Value{n.Inputs[0], r.init(n.Inputs[1], weights), r.init(bn.Inputs[2], tensor.New(bias))})
		fresh.Attrs, fresh.Opset = n.Attrs, n.Opset
		r.put(fresh, bn, n)
	}
}

// lineOf is the factor and the term that a batch norm of inference comes down to for each channel.
func (r *rewriter) lineOf(bn *onnx.Node) (line [][2]float64, ok bool) {
	if !is(bn, "BatchNormalization") || r.since(bn) < 7 || bn.Int("training_mode", 0) != 0 || len(bn.Outputs) > 1 || bn.Int("spatial", 1) == 0 {
		return nil, false
	}
	var stats [4][]float32 // scale, bias, mean, variance
	for i := range stats {
		t := r.constant(bn.Inputs[1+i])
		if t == nil || t.DType() != tensor.Float32 {
			return nil, false
		}
		if stats[i] = tensor.Data[float32](t); len(stats[i]) != len(stats[0]) {
			return nil, false
		}
	}
	eps := float64(bn.Float("epsilon", 1e-5))
	line = make([][2]float64, len(stats[0]))
	for c := range line {
		scale := float64(stats[0][c]) / math.Sqrt(float64(stats[3][c])+eps)
		line[c] = [2]float64{scale, float64(stats[1][c]) - float64(stats[2][c])*scale}
	}
	return line, true
}

// transposed lets products read their operands as they lie instead of transposed copies of them.
func transposed(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "MatMul") || len(n.Inputs) != 2 || !r.float(n.Outputs[0]) {
			continue
		}
		in := slices.Clone(n.Inputs)
		fresh := &onnx.Node{Op: "MatMul", Domain: ops.Internal}
		for i, name := range []string{"transA", "transB"} {
			if x := r.untransposed(in[i]); x != nil {
				in[i] = x
				fresh.SetAttr(onnx.IntAttr(name, 1))
			}
		}
		if len(fresh.Attrs) == 0 || r.infos[in[0]].Rank() < 2 || r.infos[in[1]].Rank() < 2 {
			continue
		}
		for i, v := range in {
			fresh.SetInput(i, v)
		}
		r.put(fresh, n, n)
	}
}

// untransposed is what v is the transpose of, if it is one that swaps the last two axes, nil otherwise.
func (r *rewriter) untransposed(v *onnx.Value) *onnx.Value {
	d := v.Def()
	if !is(d, "Transpose") || r.constant(v) != nil {
		return nil
	}
	rank := r.infos[d.Inputs[0]].Rank()
	perm := d.Ints("perm", nil)
	if rank < 2 || len(perm) != rank && (rank != 2 || perm != nil) {
		return nil
	}
	for i, p := range perm {
		want := i
		switch i {
		case rank - 2:
			want = rank - 1
		case rank - 1:
			want = rank - 2
		}
		if int(p) != want && int(p)+rank != want {
			return nil
		}
	}
	return d.Inputs[0]
}

// linear makes MatMul with a bias after it, and plain Gemm, one operator with an epilogue.
func linear(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if len(n.Outputs) != 1 || !r.float(n.Outputs[0]) {
			continue
		}
		switch {
		case is(n, "Gemm"):
			a, b, c := r.infos[n.Inputs[0]], r.infos[n.Inputs[1]], r.infos[n.Input(2)]
			if n.Int("transA", 0) != 0 || n.Float("alpha", 1) != 1 || a.Rank() != 2 || b.Rank() != 2 {
				continue
			}
			in := n.Inputs[:2:2]
			if n.Input(2) != nil {
				cols := b.Shape[1]
				if n.Int("transB", 0) != 0 {
					cols = b.Shape[0]
				}
				if n.Float("beta", 1) != 1 || c.Rank() != 1 || !c.Shape[0].Same(cols) {
					continue
				}
				in = n.Inputs[:3:3]
			}
			fresh := onnx.NewNode("Linear", in)
			fresh.Domain = ops.Internal
			fresh.SetAttr(onnx.IntAttr("transB", n.Int("transB", 0)))
			r.put(fresh, n, n)
		case is(n, "MatMul"), n.Op == "MatMul" && n.Domain == ops.Internal && n.Int("transA", 0) == 0:
			a, b := r.infos[n.Inputs[0]], r.infos[n.Inputs[1]]
			if a.Rank() < 2 || b.Rank() != 2 {
				continue
			}
			cols := b.Shape[1]
			if n.Domain == ops.Internal && n.Int("transB", 0) != 0 {
				cols = b.Shape[0]
			}
			fresh, last := onnx.NewNode("Linear", n.Inputs), n
			if n.Domain == ops.Internal {
				fresh.SetAttr(onnx.IntAttr("transB", n.Int("transB", 0)))
			}
			if add := r.next(n.Outputs[0]); is(add, "Add") {
				bias := other(add, n.Outputs[0])
				if c := r.infos[bias]; bias != n.Outputs[0] && c.Rank() == 1 && c.Shape[0].Same(cols) && c.DType == b.DType {
					fresh.SetInput(2, bias)
					last = add
				}
			}
			if last == n {
				for i := range fresh.Inputs {
					fresh.SetInput(i, nil)
				}
				continue
			}
			fresh.Domain = ops.Internal
			r.put(fresh, last, n)
		}
	}
}

// epilogues moves what follows a convolution or linear layer into it: the addition of a tensor of the same shape and an activation.
func epilogues(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		conv, lin := is(n, "Conv"), n.Op == "Linear" && n.Domain == ops.Internal
		if !conv && !lin || len(n.Outputs) != 1 || !r.float(n.Outputs[0]) {
			continue
		}
		out := n.Outputs[0]
		var residual *onnx.Value
		last := n
		if add := r.next(out); is(add, "Add") && add.Inputs[0] != add.Inputs[1] {
			if v := other(add, out); r.sameShape(v, out) {
				residual, last, out = v, add, add.Outputs[0]
			}
		}
		act, attrs := "", []*onnx.Attribute(nil)
		if next := r.next(out); next != nil && next.Inputs[0] == out {
			if a, params, ok := r.activation(next); ok {
				act, attrs, last = a, params, next
			}
		}
		if last == n {
			continue
		}
		fresh := onnx.NewNode(n.Op, n.Inputs)
		fresh.Domain = ops.Internal
		fresh.Attrs = append(slices.Clone(n.Attrs), attrs...)
		if residual != nil {
			fresh.SetInput(3, residual)
		}
		if act != "" {
			fresh.SetAttr(onnx.StringAttr("activation", act))
		}
		r.put(fresh, last, n)
		for i := range n.Inputs {
			n.SetInput(i, nil)
		}
	}
}

// activation is an epilogue's form of n.
func (r *rewriter) activation(n *onnx.Node) (name string, params []*onnx.Attribute, ok bool) {
	if onnx.CanonicalDomain(n.Domain) != "" || len(n.Outputs) != 1 {
		return "", nil, false
	}
	ab := func(alpha, beta float64) []*onnx.Attribute {
		return []*onnx.Attribute{onnx.FloatAttr("alpha", float32(alpha)), onnx.FloatAttr("beta", float32(beta))}
	}
	switch n.Op {
	case "LeakyRelu":
		return n.Op, ab(float64(n.Float("alpha", 0.01)), 0), true
	case "HardSigmoid":
		return n.Op, ab(float64(n.Float("alpha", 0.2)), float64(n.Float("beta", 0.5))), true
	case "Clip":
		lo, hi := math.Inf(-1), math.Inf(1)
		if r.since(n) < 11 {
			lo, hi = float64(n.Float("min", -math.MaxFloat32)), float64(n.Float("max", math.MaxFloat32))
		} else {
			for i, at := range []*float64{&lo, &hi} {
				if v := n.Input(1 + i); v != nil {
					x, ok := r.scalar(v)
					if !ok {
						return "", nil, false
					}
					*at = x
				}
			}
		}
		if lo > hi {
			return "", nil, false
		}
		return n.Op, ab(lo, hi), true
	case "Gelu":
		if n.Str("approximate", "none") == "tanh" {
			return "GeluTanh", nil, true
		}
		return n.Op, nil, true
	case "Swish":
		return n.Op, nil, n.Float("alpha", 1) == 1
	case "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Erf":
		return n.Op, nil, true
	}
	return "", nil, false
}
