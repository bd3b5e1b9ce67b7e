package ops

import (
	"fmt"

	"github.com/retune-go/retune/internal/kernel"
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
		// The inputs broadcast to the shape of the result, without repeating any axis between two that they have. "steps" are the operators'
		// names, in an order in which each comes after what it reads; "args" has the two operands of each, which are numbered inputs first and
		// then steps, -1 for none; "params" has two numbers for each, what "alpha" and "beta" are of an epilogue's activation.
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

// HasPointwise reports whether a Pointwise node can have a step of that name with so many operands.
func HasPointwise(op string, operands int) bool {
	if operands == 2 {
		return vectorsOf[float32](op).vv != nil
	}
	return operands == 1 && pointwise(op, 0, 0) != nil
}

// pointwise is the kernel of an operator with one operand.
func pointwise(op string, alpha, beta float32) func(dst, x []float32) {
	switch op {
	case "Abs":
		return kernel.Abs[float32]
	case "Clip":
		return func(dst, x []float32) { kernel.Clip(dst, x, alpha, beta) }
	case "Erf":
		return kernel.Erf[float32]
	case "Exp":
		return kernel.Exp[float32]
	case "Gelu":
		return kernel.GeluErf[float32]
	case "GeluTanh":
		return kernel.GeluTanh[float32]
	case "HardSigmoid":
		return func(dst, x []float32) { kernel.HardSigmoid(dst, x, alpha, beta) }
	case "HardSwish":
		return kernel.HardSwish[float32]
	case "LeakyRelu":
		return func(dst, x []float32) { kernel.LeakyRelu(dst, x, alpha) }
	case "Log":
		return kernel.Log[float32]
	case "Mish":
		return mish[float32]
	case "Neg":
		return kernel.Neg[float32]
	case "Reciprocal":
		return kernel.Recip[float32]
	case "Relu":
		return kernel.Relu[float32]
	case "Sigmoid":
		return kernel.Sigmoid[float32]
	case "Softplus":
		return kernel.Softplus[float32]
	case "Sqrt":
		return kernel.Sqrt[float32]
	case "Swish":
		return kernel.Silu[float32]
	case "Tanh":
		return kernel.Tanh[float32]
	}
	return nil
}

// pointwiseProgram is a node's steps.
type pointwiseProgram struct {
	inputs int
	steps  []pointwiseStep
	rooms  int // tiles that are needed at a time
}

type pointwiseStep struct {
	unary func(dst, x []float32)
	pair  vectors[float32]
	a, b  int
	room  int // the tile that the result goes to, -1: the output itself
}

func pointwiseOf(n *Node) (*pointwiseProgram, error) {
	p := &pointwiseProgram{inputs: len(n.Inputs)}
	args, params := n.Ints("args", nil), []float32(nil)
	if a := n.Attr("params"); a != nil {
		params = a.Floats
	}
	names := n.Attr("steps")
	if names == nil || len(names.Strings) == 0 || len(names.Strings) > MaxPointwiseSteps || len(args) != 2*len(names.Strings) || len(params) != len(args) {
		return nil, fmt.Errorf("steps, args and params do not go together")
	}
	last := make([]int, len(names.Strings)) // the step that reads a step's result last
	for i, name := range names.Strings {
		s := pointwiseStep{a: int(args[2*i]), b: int(args[2*i+1])}
		for _, v := range []int{s.a, s.b} {
			if v >= p.inputs+i || v < -1 {
				return nil, fmt.Errorf("step %d reads operand %d", i, v)
			}
			if v >= p.inputs {
				last[v-p.inputs] = i
			}
		}
		if s.b < 0 {
			s.unary = pointwise(string(name), params[2*i], params[2*i+1])
		} else {
			s.pair = vectorsOf[float32](string(name))
		}
		if s.a < 0 || s.unary == nil && s.pair.vv == nil {
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
		if s.unary != nil {
			if a == nil {
				a = dst[:1]
				a[0] = x
				s.unary(a, a)
				fillWith(dst, a[0])
				continue
			}
			s.unary(dst, a)
			continue
		}
		b, y := operand(s.b)
		switch {
		case a != nil && b != nil:
			s.pair.vv(dst, a, b)
		case a != nil:
			s.pair.vs(dst, a, y)
		case b != nil:
			s.pair.sv(dst, x, b)
		default:
			dst[0] = x
			s.pair.vs(dst[:1], dst[:1], y)
			fillWith(dst, dst[0])
		}
	}
}

func fillWith(dst []float32, x float32) {
	for i := range dst {
		dst[i] = x
	}
}
