package finetune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// chain joins nodes of [gradCases] to a graph. What an input of a node is given is the case's own numbers, moved a little, each element its own way, by what
// an earlier node gives, so that it stays where the case is differentiable.
type chain struct {
	*rand.Rand
	b      *onnx.Builder
	inputs map[string]tensor.Value
	wrt    []string
	given  []*onnx.Value // outputs so far
	shapes map[*onnx.Value][]int
	unread map[*onnx.Value]bool
	told   []string
}

func (c *chain) draw(lo, hi float64, shape ...int) *onnx.Value {
	t, _ := tensor.Zeros(tensor.Float64, shape...)
	for i := range t.Len() {
		tensor.SetFloat64At(t, i, lo+(hi-lo)*c.Float64())
	}
	return c.b.Const(t)
}

// sum is a weighted sum of v, as a scalar.
func (c *chain) sum(v *onnx.Value) *onnx.Value {
	return c.b.Node("ReduceSum", []*onnx.Value{c.b.Op("Mul", v, c.draw(-1, 1, c.shapes[v]...))}, onnx.IntAttr("keepdims", 0))
}

// add joins a case, of which own is the value of its first output, maybe in a branch.
func (c *chain) add(of *gradCase, vals map[*gradInput]*tensor.Tensor, own *tensor.Tensor) {
	k := len(c.told)
	made := map[*gradInput]*onnx.Value{}
	var in []*onnx.Value
	for i, a := range of.in {
		switch {
		case a == nil:
			in = append(in, nil)
			continue
		case made[a] != nil:
		case a.fixed:
			made[a] = c.b.Const(vals[a])
		case !vals[a].DType().IsFloat() || len(c.given) == 0 || c.IntN(3) == 0:
			name := fmt.Sprintf("x%d_%d", k, i)
			made[a] = c.b.InputOf(name, onnx.TypeOfTensor(vals[a]))
			c.inputs[name] = vals[a]
			c.wrt = append(c.wrt, name)
		default:
			from := c.given[c.IntN(len(c.given))]
			delete(c.unread, from)
			by := c.b.Op("Sin", c.sum(from))
			made[a] = c.b.Op("Add", c.b.Const(vals[a]), c.b.Op("Mul", by, c.draw(-0.002, 0.002, vals[a].Shape()...)))
		}
		in = append(in, made[a])
	}
	node := func(b *onnx.Builder) *onnx.Value {
		n := onnx.NewNode(of.op, in, slices.Repeat([]string{""}, of.outs)...)
		for i := range n.Outputs {
			n.SetOutput(i, nil)
			n.SetOutput(i, &onnx.Value{Name: fmt.Sprintf("y%d_%d", k, i)})
		}
		n.Name, n.Domain, n.Opset = fmt.Sprint("node", k), of.domain, of.opset
		for _, a := range of.attrs {
			n.SetAttr(a)
		}
		return b.Add(n)[0]
	}
	told := fmt.Sprintf("%s-%d/%s", of.op, of.opset, of.name)
	var y *onnx.Value
	if c.IntN(4) > 0 {
		y = node(c.b)
	} else { // in a branch, which is taken
		told = "If(" + told + ")"
		then, other := c.b.Sub(fmt.Sprint("then", k)), c.b.Sub(fmt.Sprint("else", k))
		then.OutputOf(fmt.Sprint("t", k), then.Op("Identity", node(then)), nil)
		zeros, _ := tensor.Zeros(tensor.Float64, own.Shape()...)
		other.OutputOf(fmt.Sprint("e", k), other.Op("Identity", other.Const(zeros)), nil)
		y = c.b.Node("If", []*onnx.Value{c.b.Const(tensor.Scalar(true))}, onnx.GraphAttr("then_branch", then.Graph()), onnx.GraphAttr("else_branch", other.Graph()))
	}
	c.given, c.shapes[y], c.unread[y] = append(c.given, y), own.Shape(), true
	c.told = append(c.told, told)
}

// TestChainRuleThroughTheRegistry joins operators of nearly the whole registry to random graphs, each operator once and some cases more, and holds the gradients
// along a random direction against differences, and those of a sum against the sum.
func TestChainRuleThroughTheRegistry(t *testing.T) {
	type link struct {
		c    *gradCase
		vals map[*gradInput]*tensor.Tensor
		own  *tensor.Tensor
	}
	r := rand.New(rand.NewPCG(21, 22))
	var first, rest []link
	seen, all := map[string]bool{}, map[string]bool{}
	for _, c := range gradCases() {
		if c.graph == nil {
			all[c.domain+" "+c.op] = true
		}
		// A draw that a run makes by itself is another one each time, and a list is no tensor to go on with.
		if c.graph != nil || c.refused != "" || c.step != 1e-6 || c.op == "Dropout" || c.op == "SeededDropout" || seen[c.domain+" "+c.op] && r.IntN(12) > 0 {
			continue
		}
		vals, inputs := c.draw()
		m, _, err := c.build(vals)
		if err != nil {
			t.Fatal(err)
		}
		ys, err := runOnce(m, inputs)
		if err != nil {
			t.Fatal(err)
		}
		own, ok := ys["y0"].(*tensor.Tensor)
		if !ok || own.DType() != tensor.Float64 || own.Len() == 0 {
			continue
		}
		if l := (link{c, vals, own}); seen[c.domain+" "+c.op] {
			rest = append(rest, l)
		} else {
			first = append(first, l)
		}
		seen[c.domain+" "+c.op] = true
	}
	links := append(first, rest...)
	r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
	if t.Logf("%d operators of %d that have a case of one node, in %d nodes", len(seen), len(all), len(links)); 10*len(seen) < 9*len(all) {
		t.Errorf("only %d operators of %d are in the graphs", len(seen), len(all))
	}
	for n := 0; n < len(links); n += 5 {
		part := links[n:min(n+5, len(links))]
		t.Run(fmt.Sprint(n/5), func(t *testing.T) {
			c := &chain{Rand: rand.New(rand.NewPCG(6, uint64(n))), b: onnx.NewBuilder("chain", ops.GradOpset), inputs: map[string]tensor.Value{}, shapes: map[*onnx.Value][]int{}, unread: map[*onnx.Value]bool{}}
			imported := map[string]bool{"": true, ops.Internal: true}
			for _, l := range part {
				if !imported[l.c.domain] {
					c.b.Import(l.c.domain, l.c.opset)
					imported[l.c.domain] = true
				}
				c.add(l.c, l.vals, l.own)
			}
			var losses []*onnx.Value
			for _, v := range c.given {
				if c.unread[v] {
					losses = append(losses, c.sum(v))
				}
			}
			for len(losses) > 2 {
				losses = append(losses[2:], c.b.Op("Add", losses[0], losses[1]))
			}
			total := losses[0]
			if len(losses) == 2 {
				total = c.b.Op("Add", losses[0], losses[1])
			}
			losses = append(losses, total)
			for i, l := range losses {
				c.b.OutputOf(fmt.Sprint("loss", i), c.b.Op("Identity", l), nil)
			}
			m, err := c.b.Model()
			if err != nil {
				t.Fatal(err)
			}
			told := strings.Join(c.told, " → ")
			if m, _, err = expanded(m, nil); err != nil {
				t.Fatalf("%s: %v", told, err)
			}
			var got [][]*tensor.Tensor
			for i := range losses {
				g, err := gradientsOf(m, i, len(c.wrt), c.inputs)
				if err != nil {
					t.Fatalf("%s: %v", told, err)
				}
				got = append(got, g)
			}
			const h = 1e-5
			up, down := map[string]tensor.Value{}, map[string]tensor.Value{}
			along, scale := 0.0, 0.0
			whole := got[len(got)-1]
			for k, name := range c.wrt {
				x := c.inputs[name].(*tensor.Tensor)
				a, b := x.Clone(), x.Clone()
				up[name], down[name] = a, b
				for j := range x.Len() {
					u := 2*c.Float64() - 1
					tensor.SetFloat64At(a, j, tensor.Float64At(x, j)+h*u)
					tensor.SetFloat64At(b, j, tensor.Float64At(x, j)-h*u)
					d := tensor.Float64At(whole[k], j)
					along, scale = along+u*d, scale+math.Abs(u*d)
					if len(losses) == 3 {
						if sum := tensor.Float64At(got[0][k], j) + tensor.Float64At(got[1][k], j); !(math.Abs(sum-d) <= 1e-10*(1+math.Abs(sum))) {
							t.Fatalf("%s: the gradient of a sum is %g, the sum of gradients %g", told, d, sum)
						}
					}
				}
			}
			at := func(in map[string]tensor.Value) float64 {
				out, err := runOnce(m, in)
				if err != nil {
					t.Fatalf("%s: %v", told, err)
				}
				return tensor.Float64At(out[m.Graph.Outputs[len(losses)-1].Name].(*tensor.Tensor), 0)
			}
			if slope := (at(up) - at(down)) / (2 * h); !(math.Abs(along-slope) <= 1e-5*(scale+0.01)) {
				t.Errorf("%s: the gradient along a direction is %.9g, by differences %.9g", told, along, slope)
			}
		})
	}
}
