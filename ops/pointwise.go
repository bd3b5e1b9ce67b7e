package ops

import (
	"fmt"
	"strings"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Pointwise of the [Internal] domain is what passes make of chains and trees of operators on single elements. It goes through them tile
// by tile, so that what lies between them stays in the cache.
func init() {
	inPlace := make([]int, MaxPointwiseInputs)
	for i := range inPlace {
		inPlace[i] = i
	}
	register(
		// The inputs broadcast to the shape of the result, without repeating any axis between two that they have. "steps" are the names of
		// operators of ai.onnx, in an order in which each comes after what it reads, and "since" the versions of their definitions; "args" has the
		// two operands of each, which are numbered inputs first and then steps, -1 for none. An attribute "2.alpha" is "alpha" of step 2.
		Op{Domain: Internal, Name: "Pointwise", Since: []int{1}, MinIn: 1, MaxIn: MaxPointwiseInputs, Types: []TypeSet{Of(tensor.Float32)}, InPlace: inPlace,
			Infer: func(n *Node) ([]Info, error) {
				out, err := Broadcast(tensor.Float32, n.In...)
				return []Info{out}, err
			},
			Compile: func(n *Node) (Kernel, error) {
				p, err := pointwiseOf(n)
				if err != nil {
					return nil, err
				}
				return p.run, nil
			}},
	)
}

// MaxPointwiseInputs is the most inputs that a Pointwise node can have, and MaxPointwiseSteps the most steps.
const MaxPointwiseInputs, MaxPointwiseSteps = 16, 32

// pointwiseTile is the elements of a tile: the vectors of a step lie in the first cache.
const pointwiseTile = 1024

// Pointwise is what an operator does to vectors of float32: of one operand, where dst may be x, or of two with forms for numbers in the
// place of vectors.
type Pointwise struct {
	one func(dst, x []float32)
	two vectors[float32]
}

// Takes reports whether it is an operator on so many operands.
func (p Pointwise) Takes(operands int) bool {
	return operands == 1 && p.one != nil || operands == 2 && p.two.vv != nil
}

// pointwiseProgram is a node's steps.
type pointwiseProgram struct {
	inputs int
	steps  []pointwiseStep
	rooms  int // tiles that are needed at a time
}

type pointwiseStep struct {
	Pointwise
	a, b int
	room int // the tile that the result goes to, -1: the output itself
}

func pointwiseOf(n *Node) (*pointwiseProgram, error) {
	p := &pointwiseProgram{inputs: len(n.Inputs)}
	names, since, args := n.Attr("steps"), n.Ints("since", nil), n.Ints("args", nil)
	if names == nil || len(names.Strings) == 0 || len(names.Strings) > MaxPointwiseSteps || len(since) != len(names.Strings) || len(args) != 2*len(names.Strings) {
		return nil, fmt.Errorf("steps, since and args do not go together")
	}
	last := make([]int, len(names.Strings)) // the step that reads a step's result last
	for i, name := range names.Strings {
		s := pointwiseStep{a: int(args[2*i]), b: int(args[2*i+1])}
		operands := 0
		for _, v := range []int{s.a, s.b} {
			if v >= p.inputs+i || v < -1 {
				return nil, fmt.Errorf("step %d reads operand %d", i, v)
			}
			if v >= p.inputs {
				last[v-p.inputs] = i
			}
			if v >= 0 {
				operands++
			}
		}
		step := &onnx.Node{Op: string(name), Inputs: make([]*onnx.Value, operands)}
		prefix := fmt.Sprintf("%d.", i)
		for _, a := range n.Attrs {
			if of, found := strings.CutPrefix(a.Name, prefix); found {
				b := *a
				b.Name = of
				step.Attrs = append(step.Attrs, &b)
			}
		}
		if op, at := Lookup("", step.Op, int(since[i])); op != nil && op.Pointwise != nil && s.a >= 0 {
			s.Pointwise = op.Pointwise(&Node{Node: step, Def: op, Since: at})
		}
		if !s.Takes(operands) {
			return nil, fmt.Errorf("step %d, %s, is not known", i, name)
		}
		p.steps = append(p.steps, s)
	}
	var free []int
	for i := range p.steps {
		s := &p.steps[i]
		for k, v := range []int{s.a, s.b} { // a result may take the tile of an operand
			if v >= p.inputs && last[v-p.inputs] == i && (k == 0 || s.a != v) {
				free = append(free, p.steps[v-p.inputs].room)
			}
		}
		if i == len(p.steps)-1 {
			s.room = -1
			break
		}
		if len(free) == 0 {
			free = append(free, p.rooms)
			p.rooms++
		}
		s.room = free[len(free)-1]
		free = free[:len(free)-1]
	}
	return p, nil
}

// repetition is how an input is repeated: element i of the result reads its element i/run mod size.
type repetition struct {
	run, size int
	room      int // where a short row is repeated, -1: it is not
}

// pointwisePlan is a program for given shapes.
type pointwisePlan struct {
	total  int
	inputs [MaxPointwiseInputs]repetition
	cut    int // tiles end at its multiples; 0: anywhere
	room   int
}

// plan finds how inputs of these shapes are repeated in a result of that shape.
func (p *pointwiseProgram) plan(c *Ctx) (*pointwisePlan, error) {
	shape := c.Out(0).Shape()
	pl := &pointwisePlan{total: product(shape), room: p.rooms * pointwiseTile}
	for i := range c.Ins {
		in := c.In(i).Shape()
		for len(in) > 0 && in[0] == 1 {
			in = in[1:]
		}
		at := len(shape) // in covers the axes that end here
		run := 1
		for len(in) > 0 && in[len(in)-1] == 1 {
			at--
			run *= shape[at]
			in = in[:len(in)-1]
		}
		if len(in) > at {
			return nil, fmt.Errorf("an input of %v does not broadcast to %v", c.In(i).Shape(), shape)
		}
		for k, d := range in {
			if d != shape[at-len(in)+k] {
				return nil, fmt.Errorf("an input of %v is not repeated evenly in %v", c.In(i).Shape(), shape)
			}
		}
		r := repetition{run: run, size: product(in), room: -1}
		cut := 0
		switch {
		case r.size == 1:
			r.run = max(pl.total, 1)
		case r.run > 1:
			cut = r.run
		case r.size < pl.total && r.size <= pointwiseTile:
			r.room = pl.room
			pl.room += pointwiseTile + r.size
		case r.size < pl.total:
			cut = r.size
		}
		if cut > 0 && (pl.cut == 0 || cut < pl.cut) {
			pl.cut = cut
		}
		pl.inputs[i] = r
	}
	return pl, nil
}

func (p *pointwiseProgram) run(c *Ctx) error {
	if c.Out(0).Len() == 0 {
		return nil
	}
	pl, err := Keep(c, func() (*pointwisePlan, error) { return p.plan(c) })
	if err != nil {
		return err
	}
	w := pointwiseWork{pointwiseProgram: p, pointwisePlan: pl, out: tensor.Data[float32](c.Out(0))}
	for i := range c.Ins {
		w.in[i] = tensor.Data[float32](c.In(i))
	}
	kernel.InParts(c.Pool, (pl.total+pointwiseTile-1)/pointwiseTile, max(1, unaryGrain/pointwiseTile/len(p.steps)), w)
	return nil
}

// pointwiseWork is a run.
type pointwiseWork struct {
	*pointwiseProgram
	*pointwisePlan
	in  [MaxPointwiseInputs][]float32
	out []float32
}

// Part computes the tiles [lo, hi), which are cut where an input begins anew.
func (w pointwiseWork) Part(lo, hi int) {
	lo, hi = lo*pointwiseTile, min(hi*pointwiseTile, w.total)
	taken, pool := takeRoom[float32](w.room)
	defer pool.Put(taken)
	room := *taken
	for i, r := range w.pointwisePlan.inputs[:w.pointwiseProgram.inputs] {
		if r.room >= 0 {
			for at := 0; at < pointwiseTile+r.size; at += r.size {
				copy(room[r.room+at:r.room+pointwiseTile+r.size], w.in[i])
			}
		}
	}
	for lo < hi {
		n := min(pointwiseTile, hi-lo)
		if w.cut > 0 {
			n = min(n, w.cut-lo%w.cut)
		}
		w.tile(room, lo, n)
		lo += n
	}
}

// tile computes n elements from o on.
func (w pointwiseWork) tile(room []float32, o, n int) {
	// operand is a vector, or if it has but one number in this tile that.
	operand := func(v int) ([]float32, float32) {
		if v >= w.pointwiseProgram.inputs {
			at := w.steps[v-w.pointwiseProgram.inputs].room * pointwiseTile
			return room[at : at+n], 0
		}
		r := &w.pointwisePlan.inputs[v]
		switch {
		case r.run > 1:
			return nil, w.in[v][o/r.run%r.size]
		case r.room >= 0:
			at := r.room + o%r.size
			return room[at : at+n], 0
		}
		at := o % r.size
		return w.in[v][at : at+n], 0
	}
	for i := range w.steps {
		s := &w.steps[i]
		dst := w.out[o : o+n]
		if s.room >= 0 {
			dst = room[s.room*pointwiseTile:][:n]
		}
		a, x := operand(s.a)
		if s.one != nil {
			if a == nil {
				a = dst[:1]
				a[0] = x
				s.one(a, a)
				fillWith(dst, a[0])
				continue
			}
			s.one(dst, a)
			continue
		}
		b, y := operand(s.b)
		switch {
		case a != nil && b != nil:
			s.two.vv(dst, a, b)
		case a != nil:
			s.two.vs(dst, a, y)
		case b != nil:
			s.two.sv(dst, x, b)
		default:
			dst[0] = x
			s.two.vs(dst[:1], dst[:1], y)
			fillWith(dst, dst[0])
		}
	}
}

func fillWith(dst []float32, x float32) {
	for i := range dst {
		dst[i] = x
	}
}
