// Package runtime compiles a model into a plan and runs it.
//
//	s, err := runtime.NewSession(m)
//	out, err := s.Run(ctx, map[string]tensor.Value{"input": x})
package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"unsafe"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// Session is a model ready to run. It is safe for concurrent use; the model must not
// be changed while a session on it lives.
type Session struct {
	prog    *program                 // of the inputs without a default: those with one are constants in it
	whole   func() (*program, error) // of all inputs
	set     *settings
	inputs  []Port
	outputs []Port
	calls   sync.Pool // of *call
}

// Port is an input or output of a model.
type Port struct {
	Name     string
	Info     ops.Info
	Optional bool // an input that has a default in the file
}

type settings struct {
	threads int
	limit   int64
	pool    *kernel.Pool
	profile *Profile
	without []string // passes that are left out

	recompute Recompute
}

// Option changes how a session runs.
type Option func(*settings)

// Threads sets the number of threads that a run may use; 0, the default, is all cores.
func Threads(n int) Option { return func(s *settings) { s.threads = n } }

// DefaultMemoryLimit is the bytes that one run may hold unless [MemoryLimit] says otherwise.
const DefaultMemoryLimit = 8 << 30

// MemoryLimit sets the bytes that one run may hold in intermediate and output values; a run
// that needs more fails. 0 is no limit.
func MemoryLimit(bytes int64) Option { return func(s *settings) { s.limit = bytes } }

// NewSession compiles m. All operators that are not supported are reported at once.
func NewSession(m *onnx.Model, opts ...Option) (*Session, error) {
	set := &settings{limit: DefaultMemoryLimit}
	for _, o := range opts {
		o(set)
	}
	if err := set.recompute.check(); err != nil {
		return nil, err
	}
	m, err := resolve(m)
	if err != nil {
		return nil, err
	}
	inputs, outputs := m.Graph.Inputs, m.Graph.Outputs
	set.pool = kernel.NewPool(set.threads)
	build := func(m *onnx.Model) (*program, error) {
		m, err := optimize(m, set)
		if err != nil {
			return nil, err
		}
		return compile(m, m.Graph, nil, set)
	}
	usual := m
	if slices.ContainsFunc(inputs, hasDefault) {
		model, graph := *m, *m.Graph
		graph.Inputs = slices.DeleteFunc(slices.Clone(inputs), hasDefault)
		model.Graph, usual = &graph, &model
	}
	prog, err := build(usual)
	if err != nil {
		set.pool.Close()
		return nil, err
	}
	s := &Session{prog: prog, set: set, whole: sync.OnceValues(func() (*program, error) { return build(m) })}
	s.calls.New = func() any { return &call{mem: ops.Meter{Limit: set.limit}} }
	for _, v := range inputs {
		s.inputs = append(s.inputs, Port{v.Name, ops.InfoOfType(v.Type), hasDefault(v)})
	}
	for i, v := range outputs {
		info := prog.infos[prog.outputs[i]]
		if v.Type != nil && (!info.Ranked || usual != m) { // what follows from defaults need not hold
			info = ops.InfoOfType(v.Type)
		}
		s.outputs = append(s.outputs, Port{Name: v.Name, Info: info})
	}
	return s, nil
}

func hasDefault(v *onnx.Value) bool { return v.Const != nil }

// Close frees the session's workers. Runs that are under way finish first.
func (s *Session) Close() { s.set.pool.Close() }

// Inputs lists what [Session.Run] takes.
func (s *Session) Inputs() []Port { return s.inputs }

// Outputs lists what [Session.Run] gives.
func (s *Session) Outputs() []Port { return s.outputs }

// resolve inlines m's functions, expands what is computed by way of other nodes and sees to it that every operator is supported.
func resolve(m *onnx.Model) (*onnx.Model, error) {
	if len(m.Functions) > 0 {
		var err error
		if m, err = onnx.InlineFunctions(m); err != nil {
			return nil, err
		}
	}
	m, err := expandGradients(m)
	if err != nil {
		return nil, err
	}
	if err := unsupported(m); err != nil {
		return nil, err
	}
	return expand(m)
}

// Expand is a copy of m in which the calls of its functions, and operators that are computed by way of others, are replaced by the
// nodes that compute them.
func Expand(m *onnx.Model) (*onnx.Model, error) { return resolve(m.Clone()) }

// unsupported lists every node of m, subgraphs included, that no registry entry covers.
func unsupported(m *onnx.Model) error {
	var errs []error
	seen := map[string]int{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			_, err := ops.Resolve(n, int(m.OpsetVersion(n.Domain)))
			if n.Domain == ops.Internal && n.Opset == 0 { // no file says this: what is emitted has a version of its own
				err = &ops.UnsupportedError{Node: n.Name, Op: n.Op, Domain: n.Domain, Opset: int(m.OpsetVersion(n.Domain))}
			}
			var u *ops.UnsupportedError
			if errors.As(err, &u) {
				if seen[u.Domain+"."+u.Op]++; seen[u.Domain+"."+u.Op] == 1 {
					errs = append(errs, err)
				}
			} else if err != nil {
				errs = append(errs, err)
			}
		}
	})
	if errs == nil {
		return nil
	}
	var parts []string
	for _, e := range errs {
		parts = append(parts, e.Error())
	}
	return &UnsupportedModelError{Problems: errs, text: strings.Join(parts, "; ")}
}

// UnsupportedModelError lists every operator (once) that keeps a model from running.
type UnsupportedModelError struct {
	Problems []error
	text     string
}

func (e *UnsupportedModelError) Error() string { return e.text }

// Run computes the model's outputs from inputs, each under its name. Inputs with a default in the
// file may be left out. The outputs share no memory with the inputs or with other runs.
func (s *Session) Run(ctx context.Context, inputs map[string]tensor.Value) (map[string]tensor.Value, error) {
	outputs := make(map[string]tensor.Value, len(s.outputs))
	for _, p := range s.outputs {
		outputs[p.Name] = nil
	}
	if err := s.RunInto(ctx, inputs, outputs); err != nil {
		return nil, err
	}
	return outputs, nil
}

// RunInto is [Session.Run] for the outputs that are named in outputs, where a tensor is the memory that the output is written into,
// and nil is replaced by the output. A tensor must have the output's element type and shape, and share no memory with another. It may
// be an input too, which costs a copy. After an error its elements are undefined. Once a session has seen the shapes of its inputs twice, a run
// on one thread into tensors for all of its outputs takes no new memory, for most networks without loops.
func (s *Session) RunInto(ctx context.Context, inputs, outputs map[string]tensor.Value) error {
	c := s.calls.Get().(*call)
	whole, err := s.take(c, inputs)
	if err == nil {
		err = s.give(c, outputs)
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	prog := s.prog
	if whole {
		if prog, err = s.whole(); err != nil {
			return fmt.Errorf("run: with other values for inputs that have defaults: %w", err)
		}
	}
	if err := prog.run(ctx, &c.mem, c.ins, nil, c.outs); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	for i, p := range s.outputs {
		v, ok := outputs[p.Name]
		switch {
		case !ok:
		case v == nil:
			outputs[p.Name] = c.outs[i]
		case v != c.outs[i]: // it shares memory with an input
			if err := fill(v, c.outs[i]); err != nil {
				return fmt.Errorf("run: output %q: %w", p.Name, err)
			}
		}
	}
	clear(c.ins)
	clear(c.outs)
	s.calls.Put(c) // not after an error: a worker may still hold its meter
	return nil
}

// Planned is how many bytes the arena has in which a run with these inputs keeps its intermediate values. Outputs, and values whose sizes hang
// on data, come on top of it.
func (s *Session) Planned(inputs map[string]tensor.Value) (int64, error) {
	c := &call{}
	whole, err := s.take(c, inputs)
	if err != nil {
		return 0, fmt.Errorf("plan: %w", err)
	}
	prog := s.prog
	if whole {
		if prog, err = s.whole(); err != nil {
			return 0, fmt.Errorf("plan: with other values for inputs that have defaults: %w", err)
		}
	}
	pl, err := prog.planFor(c.ins, nil)
	if err != nil {
		return 0, fmt.Errorf("plan: %w", err)
	}
	return int64(pl.arena), nil
}

// call is what a run takes and gives, in the order of the model's inputs and outputs.
type call struct {
	ins, outs []tensor.Value
	mem       ops.Meter
}

// take checks inputs and puts them in order, without the inputs that have defaults unless one of those is given, which it reports.
func (s *Session) take(c *call, inputs map[string]tensor.Value) (whole bool, err error) {
	used := 0
	for _, p := range s.inputs {
		v, ok := inputs[p.Name]
		if !ok && !p.Optional {
			return false, fmt.Errorf("input %q is missing; the model takes %s", p.Name, portNames(s.inputs))
		}
		if ok {
			used++
			whole = whole || p.Optional
			if err := accepts(p, v); err != nil {
				return false, fmt.Errorf("input %q: %w", p.Name, err)
			}
		}
	}
	if used < len(inputs) {
		return false, fmt.Errorf("the model has no input %s; it takes %s", unknownNames(inputs, s.inputs), portNames(s.inputs))
	}
	c.ins = c.ins[:0]
	for _, p := range s.inputs {
		if whole || !p.Optional {
			c.ins = append(c.ins, inputs[p.Name])
		}
	}
	return whole, nil
}

// give checks outputs and puts them in order.
func (s *Session) give(c *call, outputs map[string]tensor.Value) error {
	c.outs = c.outs[:0]
	used := 0
	for _, p := range s.outputs {
		v, ok := outputs[p.Name]
		if ok {
			used++
		}
		t, is := v.(*tensor.Tensor)
		if v != nil && (!is || t == nil) {
			return fmt.Errorf("output %q: only a tensor can be written into, not %v", p.Name, v)
		}
		if is && slices.ContainsFunc(c.outs, func(o tensor.Value) bool { return overlap(o, t) }) {
			return fmt.Errorf("output %q is to be written into the memory of another output", p.Name)
		}
		c.outs = append(c.outs, v)
	}
	if used < len(outputs) {
		return fmt.Errorf("the model has no output %s; it gives %s", unknownNames(outputs, s.outputs), portNames(s.outputs))
	}
	for i, o := range c.outs {
		if t, ok := o.(*tensor.Tensor); ok && slices.ContainsFunc(c.ins, func(in tensor.Value) bool { return overlap(in, t) }) {
			c.outs[i] = nil
		}
	}
	return nil
}

// overlap reports whether t has memory in common with v.
func overlap(v tensor.Value, t *tensor.Tensor) bool {
	switch v := v.(type) {
	case *tensor.Tensor:
		if v == t {
			return true
		}
		a, b := v.Bytes(), t.Bytes()
		if len(a) == 0 || len(b) == 0 {
			return false
		}
		first, other := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
		return first < other+uintptr(len(b)) && other < first+uintptr(len(a))
	case *tensor.Sequence:
		return slices.ContainsFunc(v.Values, func(e tensor.Value) bool { return overlap(e, t) })
	case *tensor.Optional:
		return overlap(v.Value, t)
	}
	return false
}

// unknownNames lists the names that no port has.
func unknownNames(values map[string]tensor.Value, ports []Port) string {
	var unknown []string
	for name := range values {
		if !slices.ContainsFunc(ports, func(p Port) bool { return p.Name == name }) {
			unknown = append(unknown, fmt.Sprintf("%q", name))
		}
	}
	sort.Strings(unknown)
	return strings.Join(unknown, ", ")
}

func portNames(ps []Port) string {
	var names []string
	for _, p := range ps {
		names = append(names, fmt.Sprintf("%q", p.Name))
	}
	return strings.Join(names, ", ")
}

// accepts compares an input with what the model declares of it.
func accepts(p Port, v tensor.Value) error {
	if v == nil {
		return errors.New("the value is nil")
	}
	t, ok := v.(*tensor.Tensor)
	if !ok || p.Info.Kind != onnx.TensorType {
		if got := ops.InfoOf(v, false).Kind; got != p.Info.Kind {
			return fmt.Errorf("a %s, which the model does not declare", v.Kind())
		}
		return nil
	}
	if t == nil {
		return errors.New("the value is nil")
	}
	if p.Info.DType != tensor.Undefined && t.DType() != p.Info.DType {
		return fmt.Errorf("want element type %s, got %s", p.Info.DType, t)
	}
	if !p.Info.Ranked {
		return nil
	}
	fits := len(p.Info.Shape) == t.Rank()
	for i := 0; fits && i < t.Rank(); i++ {
		fits = !p.Info.Shape[i].Known() || p.Info.Shape[i].N == t.Shape()[i]
	}
	if !fits {
		return fmt.Errorf("want shape %v, got %v", p.Info.Shape, t.Shape())
	}
	return nil
}
