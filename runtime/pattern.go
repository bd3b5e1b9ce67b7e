package runtime

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// A pattern is the form of a subgraph that ends in one value, written as a term:
//
//	Op(t, …)     what a node of ai.onnx of that operator makes of these inputs, in either order where that is all the same; a last …
//	             stands for any further inputs
//	Op?(t)       the same, or t itself
//	name         any value, the same one wherever the name stands
//	name:Op(…)   a node that has a name, by which its value may stand elsewhere, too
//	0.5          a constant of one element that is that number, as exporters round it
//	t | t        either; parentheses group
//
// A match ends in a node whose graph has all the others; what they compute is read by nodes of the match alone and leaves no graph.
type pattern struct {
	op       string
	args     []*pattern
	more     bool // further inputs may follow
	optional bool
	name     string
	number   float64
	kind     patternKind
}

// commutative are the operators with two inputs that may change places.
var commutative = []string{"Add", "Mul", "Equal"}

type patternKind byte

const (
	nodePattern patternKind = iota
	valuePattern
	numberPattern
	eitherPattern // of args
)

// parsePattern reads a pattern; one that is not well-formed is a mistake of this program.
func parsePattern(text string) *pattern {
	p := &patternParser{text: text}
	out := p.either()
	if p.space(); p.text != "" {
		panic(fmt.Sprintf("pattern %q: %q is left over", text, p.text))
	}
	return out
}

func parsePatterns(texts ...string) []*pattern {
	var out []*pattern
	for _, t := range texts {
		out = append(out, parsePattern(t))
	}
	return out
}

type patternParser struct{ text string }

func (p *patternParser) space() { p.text = strings.TrimLeftFunc(p.text, unicode.IsSpace) }

// take reports whether token comes next, and passes it.
func (p *patternParser) take(token string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.text, token)
	if ok {
		p.text = rest
	}
	return ok
}

func (p *patternParser) want(token string) {
	if !p.take(token) {
		panic(fmt.Sprintf("pattern: %q should begin with %q", p.text, token))
	}
}

func (p *patternParser) word() string {
	p.space()
	n := strings.IndexFunc(p.text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '-' })
	if n < 0 {
		n = len(p.text)
	}
	w := p.text[:n]
	p.text = p.text[n:]
	return w
}

func (p *patternParser) either() *pattern {
	args := []*pattern{p.term()}
	for p.take("|") {
		args = append(args, p.term())
	}
	if len(args) == 1 {
		return args[0]
	}
	return &pattern{kind: eitherPattern, args: args}
}

func (p *patternParser) term() *pattern {
	if p.take("(") {
		t := p.either()
		p.want(")")
		return t
	}
	w := p.word()
	if x, err := strconv.ParseFloat(w, 64); err == nil {
		return &pattern{kind: numberPattern, number: x}
	}
	if w == "" {
		panic(fmt.Sprintf("pattern: %q should begin with a term", p.text))
	}
	if !unicode.IsUpper(rune(w[0])) {
		if !p.take(":") {
			return &pattern{kind: valuePattern, name: w}
		}
		t := p.term()
		t.name = w
		return t
	}
	t := &pattern{op: w, optional: p.take("?")}
	p.want("(")
	for {
		if p.take("…") {
			t.more = true
			break
		}
		t.args = append(t.args, p.either())
		if !p.take(",") {
			break
		}
	}
	p.want(")")
	return t
}

// match is a subgraph that has the form of a pattern.
type match struct {
	*rewriter
	values map[string]*onnx.Value // by name
	nodes  []*onnx.Node           // the last of the graph first
	ranks  int                    // the greatest rank of a number
}

// node is the node that has the name.
func (m *match) node(name string) *onnx.Node {
	if v := m.values[name]; v != nil {
		return v.Def()
	}
	return nil
}

// rewrite puts what build makes of a match in the place of its last node, pattern by pattern. build gives nil for a match that it
// does not want, and then must not have made a node that reads anything.
func (r *rewriter) rewrite(patterns []*pattern, build func(m *match) *onnx.Node) {
	for _, p := range patterns {
		for _, n := range slices.Clone(r.graph.Nodes) {
			if r.graphOf[n] != r.graph || !p.endsIn(n) || n.Outputs[0] == nil {
				continue
			}
			m := &match{rewriter: r, values: map[string]*onnx.Value{}}
			var fresh *onnx.Node
			p.match(m, n.Outputs[0], func() bool {
				if !m.closed(n) || !m.keepsRank(n.Outputs[0]) {
					return false
				}
				fresh = build(m)
				return fresh != nil
			})
			if fresh != nil {
				r.put(fresh, n, n)
			}
		}
	}
}

// endsIn reports whether n can be a match's last node.
func (p *pattern) endsIn(n *onnx.Node) bool {
	if p.kind == eitherPattern {
		return slices.ContainsFunc(p.args, func(a *pattern) bool { return a.endsIn(n) })
	}
	return p.kind == nodePattern && (is(n, p.op) || p.optional && p.args[0].endsIn(n))
}

// match binds what p says of v and goes on with then, for each way in which that can be done, until then is content.
func (p *pattern) match(m *match, v *onnx.Value, then func() bool) bool {
	if v == nil {
		return false
	}
	switch p.kind {
	case eitherPattern:
		return slices.ContainsFunc(p.args, func(a *pattern) bool { return a.match(m, v, then) })
	case numberPattern:
		rank, ok := m.number(v, p.number)
		if !ok {
			return false
		}
		before := m.ranks
		m.ranks = max(m.ranks, rank)
		if then() {
			return true
		}
		m.ranks = before
		return false
	case valuePattern:
		return m.bind(p.name, v, then)
	}
	if p.optional && p.args[0].match(m, v, then) {
		return true
	}
	n := v.Def()
	if !is(n, p.op) || m.graphOf[n] != m.graph || n.Outputs[0] != v || len(n.Inputs) < len(p.args) || len(n.Inputs) > len(p.args) && !p.more {
		return false
	}
	return m.bind(p.name, v, func() bool {
		m.nodes = append(m.nodes, n)
		ok := matchAll(m, p.args, n.Inputs, then)
		if !ok && slices.Contains(commutative, p.op) && len(p.args) == 2 {
			ok = matchAll(m, p.args, []*onnx.Value{n.Inputs[1], n.Inputs[0]}, then)
		}
		if !ok {
			m.nodes = m.nodes[:len(m.nodes)-1]
		}
		return ok
	})
}

func matchAll(m *match, ps []*pattern, vs []*onnx.Value, then func() bool) bool {
	if len(ps) == 0 {
		return then()
	}
	return ps[0].match(m, vs[0], func() bool { return matchAll(m, ps[1:], vs[1:], then) })
}

// bind goes on with v under name, if no other value has it. No name is bound to anything.
func (m *match) bind(name string, v *onnx.Value, then func() bool) bool {
	before, bound := m.values[name]
	if name == "" || bound {
		return (name == "" || before == v) && then()
	}
	m.values[name] = v
	if then() {
		return true
	}
	delete(m.values, name)
	return false
}

// closed reports whether nothing but last's outputs is to be seen from outside of the match.
func (m *match) closed(last *onnx.Node) bool {
	for _, n := range m.nodes {
		if n == last {
			continue
		}
		for _, o := range n.Outputs {
			if o == nil {
				continue
			}
			if m.outputs[o] || slices.ContainsFunc(o.Users(), func(u *onnx.Node) bool { return !slices.Contains(m.nodes, u) }) {
				return false
			}
		}
	}
	return true
}

// keepsRank reports whether no number of the match can give its result more axes than x has.
func (m *match) keepsRank(out *onnx.Value) bool {
	x := m.values["x"]
	return x == nil || m.ranks == 0 || m.infos[x].Rank() >= m.ranks || m.infos[x].Ranked && m.infos[x].Rank() == m.infos[out].Rank()
}

// number reports whether v is a constant of one element that is x but for the rounding of its type, and its rank.
func (r *rewriter) number(v *onnx.Value, x float64) (rank int, ok bool) {
	t := r.constant(v)
	if t == nil || t.Len() != 1 || t.DType() == tensor.String || t.DType() == tensor.Bool {
		return 0, false
	}
	tolerance := 1e-5 // of what is written with six digits
	switch t.DType() {
	case tensor.Float16:
		tolerance = 5e-4
	case tensor.BFloat16:
		tolerance = 4e-3
	}
	return t.Rank(), math.Abs(tensor.Float64At(t, 0)-x) <= tolerance*math.Abs(x)
}
