package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// program is a graph whose operators are resolved and compiled, for any input shapes.
type program struct {
	set      *settings
	graph    *onnx.Graph
	slots    map[*onnx.Value]int
	values   []*onnx.Value
	inputs   []int
	outputs  []int
	captures []*onnx.Value // values of the graphs around this one, in the order in which they are bound
	depth    int           // 0 for the top graph
	path     string        // of the graph in the model, "" for the top graph
	steps    []*step

	infos []ops.Info     // by slot: what is known whatever the inputs are
	known []tensor.Value // by slot: the value, where it hangs on no input

	mu    sync.Mutex
	plans map[string]*plan
	last  atomic.Pointer[frame] // of the run that ended last
}

// step is one node of a program.
type step struct {
	node   *ops.Node
	ins    []int // slots, -1 where left out
	outs   []int
	bodies map[string]*program
	kernel ops.Kernel // nil for views
}

// foldLimit bounds the bytes of a value that is computed ahead and kept.
const foldLimit = 64 << 20

// foldGrowth bounds the bytes of one that is made of a few.
const foldGrowth = 4 << 20

// outer is what a subgraph sees of the graphs around it.
type outer struct {
	infos map[*onnx.Value]ops.Info
	in    []ops.Info // what is known of the subgraph's inputs
	depth int
	path  string
}

// compile builds the program of g. Nested graphs are compiled with it.
func compile(m *onnx.Model, g *onnx.Graph, around *outer, set *settings) (*program, error) {
	p := &program{set: set, graph: g, slots: map[*onnx.Value]int{}, plans: map[string]*plan{}}
	for _, v := range g.Inputs {
		p.inputs = append(p.inputs, p.slot(v))
	}
	for _, v := range g.Inits {
		p.slot(v)
	}
	if around != nil {
		p.depth, p.path = around.depth, around.path
		p.captures = g.Captures()
		for _, v := range p.captures {
			p.slot(v)
		}
	}
	for _, n := range g.Nodes {
		r, err := ops.Resolve(n, int(m.OpsetVersion(n.Domain)))
		if err != nil {
			return nil, err
		}
		s := &step{node: r}
		for _, v := range n.Inputs {
			s.ins = append(s.ins, p.slotOrNone(v))
		}
		for _, v := range n.Outputs {
			s.outs = append(s.outs, p.slotOrNone(v))
		}
		p.steps = append(p.steps, s)
	}
	for _, v := range g.Outputs {
		p.outputs = append(p.outputs, p.slot(v))
	}
	if err := p.defined(); err != nil {
		return nil, err
	}
	p.dropDead()

	p.infos = make([]ops.Info, len(p.values))
	p.known = make([]tensor.Value, len(p.values))
	for i, v := range g.Inputs {
		info := ops.InfoOfType(v.Type)
		if around != nil && i < len(around.in) {
			info = bodyInput(around.in[i], info)
		}
		p.infos[p.slots[v]] = info
	}
	isInput := map[*onnx.Value]bool{}
	for _, v := range g.Inputs {
		isInput[v] = true
	}
	for _, v := range g.Inits {
		s := p.slots[v]
		if isInput[v] { // the caller may pass another value
			p.infos[s] = ops.InfoOf(v.Const, false)
			continue
		}
		p.infos[s], p.known[s] = ops.InfoOf(v.Const, true), v.Const
	}
	for _, s := range p.inputs {
		p.nameSizes(s)
	}
	for _, v := range p.captures {
		s := p.slots[v]
		p.infos[s] = around.infos[v]
		if c := around.infos[v].Const; c != nil {
			p.known[s] = c
		}
	}
	for _, s := range p.steps {
		if err := p.compileStep(m, s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// compileStep infers what can be known of the step's outputs before any run, compiles its
// kernel and subgraphs, and computes it now if it hangs on constants alone.
func (p *program) compileStep(m *onnx.Model, s *step) (err error) {
	n := s.node
	defer ops.Caught(n.Node, &err)
	n.In = p.infosOf(s, p.infos)
	for _, a := range n.Attrs {
		if a.G == nil {
			continue
		}
		scope := &outer{infos: map[*onnx.Value]ops.Info{}, depth: p.depth + 1, path: p.pathOf(s.outs) + a.Name + "/"}
		for v, slot := range p.slots {
			scope.infos[v] = p.infos[slot]
		}
		body, err := p.compileBody(m, n, a, scope)
		if err != nil {
			return err
		}
		if s.bodies == nil {
			s.bodies = map[string]*program{}
		}
		s.bodies[a.Name] = body
	}
	if s.bodies != nil {
		r := *n
		r.Bodies = p.bind(s, nil, nil)
		n = &r
	}
	if n.Def.Compile != nil {
		k, err := n.Def.Compile(n)
		if err != nil {
			return ops.Errorf(n.Node, "%w", err)
		}
		s.kernel = k
	} else if !n.Def.View {
		if n.Def.Expand == nil {
			return ops.Errorf(n.Node, "the operator has no kernel")
		}
		s.kernel = func(*ops.Ctx) error {
			return errors.New("the operator has no kernel but other nodes, which are not in its place")
		}
	}
	outs, err := n.InferOutputs()
	if err != nil {
		return err
	}
	p.note(s, outs, p.infos, p.known)
	for _, slot := range s.outs {
		if slot >= 0 {
			p.nameSizes(slot)
		}
	}
	return nil
}

// nameSizes gives the sizes of a value that nothing is known of names, so that what hangs on them is known to be equal.
func (p *program) nameSizes(slot int) {
	shape, cloned := p.infos[slot].Shape, false
	for axis, d := range shape {
		if d != ops.Unknown {
			continue
		}
		if !cloned {
			shape, cloned = slices.Clone(shape), true
			p.infos[slot].Shape = shape
		}
		shape[axis] = ops.Fresh(p.values[slot].Name, axis, p.pathOf([]int{slot}))
	}
}

// pathOf says where in the model the step with those outputs, or the value, is.
func (p *program) pathOf(slots []int) string {
	for _, slot := range slots {
		if slot >= 0 {
			return fmt.Sprint(p.path, slot, "/")
		}
	}
	return p.path + "/"
}

// note adds what was inferred of a step's outputs, and computes them now if all that it reads is known.
func (p *program) note(s *step, outs, infos []ops.Info, known []tensor.Value) {
	for i, slot := range s.outs {
		if slot < 0 {
			continue
		}
		infos[slot] = outs[i]
		if outs[i].Const != nil {
			known[slot] = outs[i].Const
		}
	}
	p.fold(s, infos, known)
}

// maxRounds bounds how often a body's inputs are inferred, and maxDepth the nesting in which that is done more than once,
// since the rounds of nested bodies multiply.
const maxRounds, maxDepth = 4, 4

// compileBody compiles the subgraph a of n. What is known of its inputs must hold for each of its runs, so it is weakened
// until inference of the subgraph confirms it.
func (p *program) compileBody(m *onnx.Model, n *ops.Node, a *onnx.Attribute, scope *outer) (*program, error) {
	if n.Op == "If" && scope.depth <= maxDepth {
		body, err := compile(m, a.G, scope, p.set)
		if err == nil {
			return body, nil
		}
		// The shapes of what it captures do not fit: it is the branch that is not taken, or else its run will say what is wrong.
		for v, i := range scope.infos {
			if i.Const == nil {
				scope.infos[v] = ops.Info{Kind: i.Kind, DType: i.DType, Elem: i.Elem}
			}
		}
	}
	if n.Def.BodyIn == nil || scope.depth > maxDepth {
		return compile(m, a.G, scope, p.set)
	}
	in := n.Def.BodyIn(n, a.Name, nil, nil)
	for range maxRounds {
		scope.in = in
		body, err := compile(m, a.G, scope, p.set)
		if err != nil {
			return nil, err
		}
		out := make([]ops.Info, len(body.outputs))
		for i, slot := range body.outputs {
			out[i] = body.infos[slot].Without(body.path)
		}
		next := n.Def.BodyIn(n, a.Name, in, out)
		if slices.EqualFunc(in, next, ops.Info.Equal) {
			return body, nil
		}
		in = next
	}
	for i := range in {
		in[i] = ops.Info{}
	}
	scope.in = in
	return compile(m, a.G, scope, p.set)
}

// bodyInput is what is known of a subgraph's input: found by inference, or else as declared, but for numbers, which
// exporters take from the first run.
func bodyInput(found, declared ops.Info) ops.Info {
	if found.Ranked || found.Kind != onnx.TensorType {
		return found
	}
	if found.DType != tensor.Undefined && declared.DType != found.DType {
		return found
	}
	for i := range declared.Shape {
		declared.Shape[i] = ops.Unknown
	}
	return declared
}

func (p *program) slot(v *onnx.Value) int {
	s, ok := p.slots[v]
	if !ok {
		s = len(p.values)
		p.slots[v] = s
		p.values = append(p.values, v)
	}
	return s
}

func (p *program) slotOrNone(v *onnx.Value) int {
	if v == nil {
		return -1
	}
	return p.slot(v)
}

// defined sees to it that all that is read is there by then: of a file the loader knows, of a graph made in Go nobody does.
func (p *program) defined() error {
	made := map[int]bool{}
	for _, vs := range [][]*onnx.Value{p.graph.Inputs, p.graph.Inits, p.captures} {
		for _, v := range vs {
			made[p.slot(v)] = true
		}
	}
	for _, s := range p.steps {
		for _, slot := range p.reads(s) {
			if !made[slot] {
				return ops.Errorf(s.node.Node, "reads %q, which nothing gives before it", p.values[slot].Name)
			}
		}
		for _, slot := range s.outs {
			made[slot] = true
		}
	}
	for _, slot := range p.outputs {
		if !made[slot] {
			return fmt.Errorf("graph %q: nothing gives output %q", p.graph.Name, p.values[slot].Name)
		}
	}
	return nil
}

// dropDead removes the steps that no output hangs on.
func (p *program) dropDead() {
	need := make([]bool, len(p.values))
	for _, s := range p.outputs {
		need[s] = true
	}
	live := make([]*step, 0, len(p.steps))
	for i := len(p.steps) - 1; i >= 0; i-- {
		s := p.steps[i]
		used := false
		for _, o := range s.outs {
			used = used || o >= 0 && need[o]
		}
		if !used {
			continue
		}
		live = append(live, s)
		for _, in := range p.reads(s) {
			need[in] = true
		}
	}
	p.steps = p.steps[:0]
	for i := len(live) - 1; i >= 0; i-- {
		p.steps = append(p.steps, live[i])
	}
}

// reads is the slots that a step reads, those that its subgraphs capture included.
func (p *program) reads(s *step) []int {
	var out []int
	for _, in := range s.ins {
		if in >= 0 {
			out = append(out, in)
		}
	}
	for _, g := range s.node.Graphs() {
		for _, v := range g.Captures() {
			out = append(out, p.slot(v))
		}
	}
	return out
}

func (p *program) infosOf(s *step, infos []ops.Info) []ops.Info {
	in := make([]ops.Info, len(s.ins))
	for i, slot := range s.ins {
		if slot >= 0 {
			in[i] = infos[slot]
		}
	}
	return in
}

// fold runs a step now if all that it reads is known and its outputs are small enough to keep.
// A failure is left for the run to report: the node may never be reached.
func (p *program) fold(s *step, infos []ops.Info, known []tensor.Value) {
	if s.node.Def.Impure || s.bodies != nil {
		return
	}
	if folded(s, known) {
		return
	}
	vals := make([]tensor.Value, len(s.ins))
	for i, slot := range s.ins {
		if slot < 0 {
			continue
		}
		if vals[i] = known[slot]; vals[i] == nil {
			return
		}
	}
	r := *s.node
	r.In = make([]ops.Info, len(vals))
	for i, v := range vals {
		if v != nil {
			r.In[i] = ops.InfoOf(v, true)
		}
	}
	c := &ops.Ctx{Context: context.Background(), Pool: p.set.pool, Node: &r, Mem: &ops.Meter{Limit: foldLimit}, Ins: vals}
	if err := execute(s, c); err != nil {
		return
	}
	if grown(vals, c.Outs) {
		return
	}
	for i, slot := range s.outs {
		if slot >= 0 && i < len(c.Outs) && c.Outs[i] != nil {
			known[slot] = c.Outs[i]
			elem := infos[slot].Elem
			infos[slot] = ops.InfoOf(c.Outs[i], true)
			infos[slot].Elem = elem
		}
	}
}

// grown reports whether outs take foldGrowth bytes and much more than ins: then to compute them again in each run costs less than to
// keep them, for every plan.
func grown(ins, outs []tensor.Value) bool {
	size := func(vs []tensor.Value) (n int) {
		for _, v := range vs {
			if t, ok := v.(*tensor.Tensor); ok && t != nil && t.DType() != tensor.String {
				n += len(t.Bytes())
			}
		}
		return n
	}
	n := size(outs)
	return n > foldGrowth && n > 4*size(ins)
}

// execute infers the outputs' shapes from the values at hand, allocates what is known and runs the
// kernel.
func execute(s *step, c *ops.Ctx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked(s.node.Node, r)
		}
	}()
	infos, err := c.Node.InferOutputs()
	if err != nil {
		return err
	}
	c.Outs = make([]tensor.Value, 0, len(s.outs))
	for i := range s.outs {
		c.Outs = append(c.Outs, nil)
		if s.outs[i] < 0 && i > 0 {
			continue
		}
		shape, ok := infos[i].Static()
		if !ok {
			continue
		}
		if s.node.Def.View && i == 0 {
			t := c.In(0)
			if t == nil {
				return ops.Errorf(s.node.Node, "input 0 is not a tensor")
			}
			v, err := t.Reshape(shape...)
			if err != nil {
				return ops.Errorf(s.node.Node, "%w", err)
			}
			c.Outs[0] = v
			continue
		}
		t, err := c.New(infos[i].DType, shape...)
		if err != nil {
			return ops.Errorf(s.node.Node, "%w", err)
		}
		c.Outs[i] = t
	}
	if s.kernel != nil && !allEmpty(c.Outs, s.outs) {
		if err := s.kernel(c); err != nil {
			return ops.Errorf(s.node.Node, "%w", err)
		}
	} else if c.Outs[0] == nil {
		if !s.node.Def.View || len(s.node.In) == 0 || c.Value(0) == nil {
			return ops.Errorf(s.node.Node, "the output's shape is not known")
		}
		c.Outs[0] = c.Value(0) // Identity of a sequence or optional
	}
	for i, o := range s.outs {
		if o >= 0 && (i >= len(c.Outs) || c.Outs[i] == nil) {
			return ops.Errorf(s.node.Node, "output %d was not computed", i)
		}
	}
	return nil
}

// allEmpty reports whether nothing is left to compute: every output, one at least, is there and has no elements. Other sizes of such
// a shape may be anything, so that no kernel should loop over them.
func allEmpty(outs []tensor.Value, slots []int) bool {
	some := false
	for i, slot := range slots {
		if slot < 0 {
			continue
		}
		t, ok := outs[i].(*tensor.Tensor)
		if !ok || t == nil || t.Len() > 0 {
			return false
		}
		some = true
	}
	return some
}

func panicked(n *onnx.Node, r any) error {
	if err, ok := r.(error); ok {
		return ops.Errorf(n, "panic: %w", err)
	}
	return ops.Errorf(n, "panic: %v", r)
}

// Infer tells what is known of every value of m's graphs before a run, for inputs of any sizes that it leaves open. Dimensions are
// numbers or terms ("2*batch", "past+seq", "(width+1)/2") over the names that the inputs' types give sizes; one that hangs on data, or is
// not named, has a name of its own, as "boxes[0]" is the first of the value boxes. The same goes for the elements of integer tensors that
// shapes are made of ([ops.Info.Values]). What a model declares of values that it computes is not looked at. Values that no output hangs on are left
// out. Functions must have been inlined ([Expand]). Its error is that of the node whose inputs no sizes can make fit.
func Infer(m *onnx.Model) (map[*onnx.Value]ops.Info, error) {
	if err := unsupported(m); err != nil {
		return nil, err
	}
	p, err := compile(m, m.Graph, nil, &settings{limit: DefaultMemoryLimit})
	if err != nil {
		return nil, fmt.Errorf("infer: %w", err)
	}
	infos := make(map[*onnx.Value]ops.Info, len(p.values))
	p.collect(infos)
	return infos, nil
}

func (p *program) collect(infos map[*onnx.Value]ops.Info) {
	for _, s := range p.steps {
		for _, body := range s.bodies {
			body.collect(infos)
		}
	}
	for v, s := range p.slots {
		infos[v] = p.infos[s]
	}
}
