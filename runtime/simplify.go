package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// simplifying are the passes whose results are standard operators at the opsets that the nodes before them were at.
var simplifying = []func(*rewriter){branches, identity, constants, unmoved, common, convBatchNorm}

// Simplify is a copy of m in fewer operators, all of them at m's opsets, that computes the same, but for the rounding of weights that change: what hangs on no input is computed, if that takes no
// more room than the weights that it is made of; branches whose conditions are known are taken; batch norms of inference go into the weights of the convolutions before them; what gives what it
// gets, what is computed twice and what nobody reads is left out. Calls of model-local functions become the functions' nodes. Inputs, outputs and
// the names of what stays are as they were; an initializer that is an input too is no constant.
func Simplify(m *onnx.Model) (*onnx.Model, error) {
	m, err := inlined(m)
	if err != nil {
		return nil, err
	}
	old := map[*onnx.Value]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Inits {
			old[v] = true
		}
	})
	for before := -1; before != nodes(m); { // one may make room for another
		before = nodes(m)
		if err := m.Graph.Sort(); err != nil {
			return nil, err
		}
		r, err := newRewriter(m, &settings{limit: DefaultMemoryLimit})
		if err != nil {
			return nil, fmt.Errorf("simplify: %w", err)
		}
		r.affordable()
		for _, pass := range simplifying {
			m.Graph.Walk(func(g *onnx.Graph) {
				r.graph = g
				pass(r)
			})
		}
		sweep(m)
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			if is(n, "Identity") {
				n.Opset = 0 // it is the same at every opset
			}
		}
	})
	rename(m, old)
	return m, onnx.Check(m)
}

// inlined is a copy of m without functions, all of whose nodes are at the model's opsets.
func inlined(m *onnx.Model) (*onnx.Model, error) {
	if len(m.Functions) == 0 {
		return m.Clone(), nil
	}
	m, err := onnx.InlineFunctions(m)
	if err != nil {
		return nil, err
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			if n.Opset != 0 && err == nil {
				err = fmt.Errorf("node %q: its function is of opset %d of %q, the model of %d", n.Name, n.Opset, onnx.CanonicalDomain(n.Domain), m.OpsetVersion(n.Domain))
			}
		}
	})
	return m, err
}

func nodes(m *onnx.Model) (n int) {
	m.Graph.Walk(func(g *onnx.Graph) { n += len(g.Nodes) })
	return n
}

// cheap is up to how many bytes a value that is known may have whatever it is made of.
const cheap = 4 << 10

// affordable forgets known values that take more room than the weights that they are made of, each counted as often as it is read.
func (r *rewriter) affordable() {
	room := map[*onnx.Value]int64{}
	r.model.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			sum := int64(0)
			for _, v := range n.Inputs {
				of := room[v]
				if v != nil && v.Const != nil && v.Def() == nil {
					of = bytesOf(v.Const)
				}
				if sum += of; sum < 0 {
					sum = math.MaxInt64
				}
			}
			for _, v := range n.Outputs {
				t := r.known[v]
				if t == nil {
					continue
				}
				if room[v] = sum; is(n, "Constant") {
					room[v] = bytesOf(t)
				}
				if size := bytesOf(t); size > max(cheap, room[v]) {
					delete(r.known, v)
				}
			}
		}
	})
}

func bytesOf(t *tensor.Tensor) int64 { return int64(max(len(t.Bytes()), t.Len())) }

// unmoved removes what gives a tensor as it was before.
func unmoved(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		r.skip(n)
	}
}

// rename gives initializers that are not old names that nothing else of m has.
func rename(m *onnx.Model, old map[*onnx.Value]bool) {
	taken := map[string]bool{}
	each := func(f func(v *onnx.Value)) {
		m.Graph.Walk(func(g *onnx.Graph) {
			for v := range g.Values() {
				f(v)
			}
		})
	}
	fresh := func(v *onnx.Value) bool { return v.Const != nil && v.Def() == nil && !old[v] }
	each(func(v *onnx.Value) { taken[v.Name] = taken[v.Name] || !fresh(v) })
	each(func(v *onnx.Value) {
		if !fresh(v) {
			return
		}
		name := v.Name
		for i := 1; taken[v.Name]; i++ {
			v.Name = fmt.Sprintf("%s_%d", name, i)
		}
		taken[v.Name] = true
	})
}
