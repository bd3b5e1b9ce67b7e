package ops

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// RNN, LSTM and GRU. Gates are in ONNX's order: i for RNN; i, o, f, c for LSTM; z, r, h for GRU.
func init() {
	for _, kind := range []string{"RNN", "LSTM", "GRU"} {
		maxIn := map[string]int{"RNN": 6, "LSTM": 8, "GRU": 6}[kind]
		maxOut := map[string]int{"RNN": 2, "LSTM": 3, "GRU": 2}[kind]
		since := []int{1, 7, 14, 22}
		if kind == "GRU" {
			since = []int{1, 3, 7, 14, 22}
		}
		types := []TypeSet{Floats, Floats, Floats, Floats, Of(tensor.Int32), Floats, Floats, Floats}[:maxIn]
		register(Op{
			Name: kind, Since: since, MinIn: 3, MaxIn: maxIn, MinOut: 0, MaxOut: maxOut, Types: types,
			Infer: inferRNN, FLOPs: rnnFLOPs,
			Compile: func(n *Node) (Kernel, error) {
				spec, err := rnnSpecOf(n, kind)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: runRNN(spec, newRNNWeights[float32](n)),
					tensor.Float64: runRNN(spec, newRNNWeights[float64](n)),
				}.By(0), nil
			},
			Grad: gradRNN,
		})
		// The same with a fourth output: what the backward pass needs of the forward one.
		register(Op{
			Domain: Internal, Name: kind, Since: []int{1}, MinIn: 3, MaxIn: maxIn, MinOut: 0, MaxOut: 4, Types: types,
			Infer: func(n *Node) ([]Info, error) {
				infos, err := inferRNN(n)
				if err != nil {
					return nil, err
				}
				return append(infos, inferTape(n)), nil
			},
			Compile: func(n *Node) (Kernel, error) {
				spec, err := rnnSpecOf(n, kind)
				if err != nil {
					return nil, err
				}
				return Table{
					tensor.Float32: runRNN(spec, newRNNWeights[float32](n)),
					tensor.Float64: runRNN(spec, newRNNWeights[float64](n)),
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) { // once more
				spec, err := rnnSpecOf(n, kind)
				if err != nil {
					return nil, err
				}
				return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
					return g.recurrent(spec, slices.Concat(in, make([]*onnx.Value, 8-len(in))))
				})
			},
			Portable: func(g *Grad, n *Node) ([]*onnx.Value, error) {
				if len(n.Outputs) > 3 && n.Outputs[3] != nil { // for whom hands it on: no gradient in standard operators reads it
					tape := n.Outputs[3]
					n.SetOutput(3, nil)
					g.Fill(n.Inputs[0], g.Int64s(0), 0).Def().SetOutput(0, tape)
					g.Infos[tape] = Tensor(g.DType(n.Inputs[0]), D(0))
				}
				n.Outputs = n.Outputs[:min(maxOut, len(n.Outputs))]
				externalize(n.Node)
				return nil, nil
			},
		})
	}
	register(Op{
		Domain: Internal, Name: "RNNGrad", Since: []int{1}, MinIn: 3, MaxIn: 12, MinOut: 8, MaxOut: 8,
		Types: []TypeSet{Floats, Floats, Floats, Floats, Of(tensor.Int32), Floats}, InPlace: []int{11},
		Infer: func(n *Node) ([]Info, error) {
			x := n.In[0].DType
			out := []Info{n.Info(11), n.In[0], n.In[1], n.In[2], n.Info(3), n.Info(5), n.Info(6), n.Info(7)}
			kind := n.Str("kind", "")
			if _, err := inferRNNOf(n, kind); err != nil {
				return nil, err
			}
			spec, err := rnnSpecOf(n, kind)
			if err != nil {
				return nil, err
			}
			for i, in := range n.In {
				if n.Has(i) && i != 4 && in.DType != x {
					return nil, fmt.Errorf("input %d is of %s, X of %s", i, in.DType, x)
				}
			}
			// Gradients of what was left out are still computed; they need a shape of their own.
			if n.In[0].Ranked && n.In[1].Ranked && len(n.In[0].Shape) == 3 {
				batch, dirs, h := n.In[0].Shape[1], D(spec.dirs), D(spec.hidden)
				state := []Dim{dirs, batch, h}
				if spec.batchFirst {
					batch = n.In[0].Shape[0]
					state = []Dim{batch, dirs, h}
				}
				out[4] = Tensor(x, dirs, D(2*spec.gates*spec.hidden))
				out[5], out[6] = Tensor(x, state...), Tensor(x, state...)
				out[7] = Tensor(x, dirs, D(3*spec.hidden))
			}
			for i := range out {
				out[i] = out[i].WithoutValue()
			}
			return out, nil
		},
		Compile: func(n *Node) (Kernel, error) {
			spec, err := rnnSpecOf(n, n.Str("kind", ""))
			if err != nil {
				return nil, err
			}
			return Table{
				tensor.Float32: func(c *Ctx) error { return runRNNGrad[float32](c, spec) },
				tensor.Float64: func(c *Ctx) error { return runRNNGrad[float64](c, spec) },
			}.By(0), nil
		},
		Portable: portableRNNGrad,
	})
}

// rnnFLOPs is of the products with W and R.
func rnnFLOPs(c *Ctx) int64 {
	x := c.In(0).Shape()
	return 2 * int64(x[0]) * int64(x[1]) * int64(c.In(1).Len()+c.In(2).Len())
}

// rnnSpec is a recurrent node's attributes.
type rnnSpec struct {
	kind        string
	gates       int
	hidden      int
	dirs        int
	reverse     [2]bool
	batchFirst  bool
	clip        float64
	linearReset bool
	inputForget bool
	acts        [2][]activation // by direction: f, or f g, or f g h
	defaultActs bool
	hasLens     bool // rows may have lengths of their own
	lookup      bool // X is rows of a table
}

// activation is one of the functions that a recurrent node may name.
type activation struct {
	name        string
	alpha, beta float64
}

var rnnActivations = map[string][2]float64{ // default alpha and beta
	"relu": {}, "tanh": {}, "sigmoid": {}, "affine": {1, 0}, "leakyrelu": {0.01, 0}, "thresholdedrelu": {1, 0},
	"scaledtanh": {1, 1}, "hardsigmoid": {0.2, 0.5}, "elu": {1, 0}, "softsign": {}, "softplus": {},
}

func rnnSpecOf(n *Node, kind string) (*rnnSpec, error) {
	s := &rnnSpec{kind: kind, gates: map[string]int{"RNN": 1, "LSTM": 4, "GRU": 3}[kind], dirs: 1}
	s.hidden = int(n.Int("hidden_size", 0))
	if r := n.Info(2); s.hidden == 0 && r.Rank() == 3 && r.Shape[2].Known() {
		s.hidden = r.Shape[2].N
	}
	if s.hidden <= 0 || s.hidden > 1<<28 {
		return nil, fmt.Errorf("attribute hidden_size %d must be positive", s.hidden)
	}
	switch dir := n.Str("direction", "forward"); dir {
	case "forward":
	case "reverse":
		s.reverse[0] = true
	case "bidirectional":
		s.dirs, s.reverse[1] = 2, true
	default:
		return nil, fmt.Errorf("attribute direction %q is none of forward, reverse, bidirectional", dir)
	}
	s.batchFirst, s.hasLens = n.Int("layout", 0) == 1, n.Has(4)
	s.clip = float64(n.Float("clip", 0))
	s.linearReset = n.Int("linear_before_reset", 0) != 0
	s.inputForget = n.Int("input_forget", 0) != 0
	names := map[string][]string{"RNN": {"Tanh"}, "LSTM": {"Sigmoid", "Tanh", "Tanh"}, "GRU": {"Sigmoid", "Tanh"}}[kind]
	per := len(names)
	names = append(names, names...)[:per*s.dirs]
	s.defaultActs = true
	if a := n.Attr("activations"); a != nil && len(a.Strings) > 0 {
		if len(a.Strings) != per*s.dirs {
			return nil, fmt.Errorf("attribute activations names %d functions, %s with %d directions has %d", len(a.Strings), kind, s.dirs, per*s.dirs)
		}
		for i, b := range a.Strings {
			if !strings.EqualFold(names[i], string(b)) {
				s.defaultActs = false
			}
			names[i] = string(b)
		}
	}
	var alphas, betas []float32
	if a := n.Attr("activation_alpha"); a != nil {
		alphas = a.Floats
	}
	if a := n.Attr("activation_beta"); a != nil {
		betas = a.Floats
	}
	ai, bi := 0, 0
	for i, name := range names {
		key := strings.ToLower(name)
		def, ok := rnnActivations[key]
		if !ok {
			return nil, fmt.Errorf("activation %q is not known", name)
		}
		act := activation{key, def[0], def[1]}
		// The lists hold values for those functions alone that take one, in order.
		switch key {
		case "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu":
			if ai < len(alphas) {
				act.alpha = float64(alphas[ai])
				ai++
			}
		}
		switch key {
		case "affine", "scaledtanh", "hardsigmoid":
			if bi < len(betas) {
				act.beta = float64(betas[bi])
				bi++
			}
		}
		s.acts[i/per] = append(s.acts[i/per], act)
	}
	if s.clip > 0 || s.inputForget {
		s.defaultActs = false
	}
	return s, nil
}

// apply sets x to f(x), clipped before if clip is positive.
func apply[T kernel.Float](a activation, x []T, clip float64) {
	if clip > 0 {
		for i, v := range x {
			x[i] = max(T(-clip), min(T(clip), v))
		}
	}
	al, be := T(a.alpha), T(a.beta)
	switch a.name {
	case "tanh":
		kernel.Tanh(x, x)
	case "sigmoid":
		kernel.Sigmoid(x, x)
	case "relu":
		kernel.Relu(x, x)
	case "softplus":
		kernel.Softplus(x, x)
	case "affine":
		for i, v := range x {
			x[i] = al*v + be
		}
	case "leakyrelu":
		kernel.LeakyRelu(x, x, al)
	case "thresholdedrelu":
		for i, v := range x {
			if !(v > al) {
				x[i] = 0
			}
		}
	case "scaledtanh":
		for i, v := range x {
			x[i] = al * T(math.Tanh(float64(be*v)))
		}
	case "hardsigmoid":
		for i, v := range x {
			x[i] = max(0, min(1, al*v+be))
		}
	case "elu":
		for i, v := range x {
			if v < 0 {
				x[i] = al * T(math.Expm1(float64(v)))
			}
		}
	case "softsign":
		for i, v := range x {
			x[i] = v / (1 + T(math.Abs(float64(v))))
		}
	}
}

// slope is f'(x) from y = f(x).
func slope[T kernel.Float](a activation, y T) T {
	al, be := T(a.alpha), T(a.beta)
	switch a.name {
	case "tanh":
		return 1 - y*y
	case "sigmoid":
		return y * (1 - y)
	case "relu":
		if y > 0 {
			return 1
		}
		return 0
	case "softplus":
		return T(-math.Expm1(float64(-y)))
	case "affine":
		return al
	case "leakyrelu":
		if y >= 0 {
			return 1
		}
		return al
	case "thresholdedrelu":
		if y != 0 {
			return 1
		}
		return 0
	case "scaledtanh":
		if al == 0 {
			return 0
		}
		return be * (al - y*y/al)
	case "hardsigmoid":
		if y > 0 && y < 1 {
			return al
		}
		return 0
	case "elu":
		if y >= 0 {
			return 1
		}
		return y + al
	case "softsign":
		d := 1 - T(math.Abs(float64(y)))
		return d * d
	}
	return 0
}

func inferRNN(n *Node) ([]Info, error) { return inferRNNOf(n, n.Op) }

func inferRNNOf(n *Node, kind string) ([]Info, error) {
	x := n.In[0]
	spec, err := rnnSpecOf(n, kind)
	if err != nil {
		return nil, err
	}
	if !x.Ranked {
		return []Info{Unranked(x.DType), Unranked(x.DType), Unranked(x.DType)}, nil
	}
	if len(x.Shape) != 3 {
		return nil, fmt.Errorf("input 0 (X): want rank 3, got %v", x.Shape)
	}
	h := D(spec.hidden)
	if err := checkDims("input 1 (W)", n.In[1], D(spec.dirs), D(spec.gates*spec.hidden), x.Shape[2]); err != nil {
		return nil, err
	}
	if err := checkDims("input 2 (R)", n.In[2], D(spec.dirs), D(spec.gates*spec.hidden), h); err != nil {
		return nil, err
	}
	seq, batch := x.Shape[0], x.Shape[1]
	if spec.batchFirst {
		seq, batch = batch, seq
	}
	if err := checkDims("input 3 (B)", n.Info(3), D(spec.dirs), D(2*spec.gates*spec.hidden)); err != nil {
		return nil, err
	}
	if err := checkDims("input 4 (sequence_lens)", n.Info(4), batch); err != nil {
		return nil, err
	}
	y, state := []Dim{seq, D(spec.dirs), batch, h}, []Dim{D(spec.dirs), batch, h}
	if spec.batchFirst {
		y, state = []Dim{batch, seq, D(spec.dirs), h}, []Dim{batch, D(spec.dirs), h}
	}
	for i := 5; i < len(n.In) && i < 7; i++ {
		if err := checkDims(fmt.Sprintf("input %d (initial state)", i), n.Info(i), state...); err != nil {
			return nil, err
		}
	}
	if err := checkDims("input 7 (P)", n.Info(7), D(spec.dirs), D(3*spec.hidden)); err != nil {
		return nil, err
	}
	return []Info{Tensor(x.DType, y...), Tensor(x.DType, state...), Tensor(x.DType, state...)}, nil
}

// checkDims compares a shape, as far as it is known, with the one wanted.
func checkDims(what string, got Info, want ...Dim) error {
	if !got.Ranked {
		return nil
	}
	ok := len(got.Shape) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = !want[i].Known() || !got.Shape[i].Known() || want[i].N == got.Shape[i].N
	}
	if !ok {
		return fmt.Errorf("%s: want %v, got %v", what, want, got.Shape)
	}
	return nil
}

// rnnTape is what one direction of a forward pass leaves for the backward pass. Rows are in the order of
// steps: step s of row b is time s, or counted from the row's own end in reverse.
type rnnTape[T kernel.Float] struct {
	gates []T // [T,B,G·H] activated, rows gatesLD apart
	xh    []T // [T+1,B,I+H] a step's input and the state before it, which one product reads; rows xhLD apart
	c     []T // [T+1,B,H], LSTM
	rec   []T // [T,B,H] GRU: H·Rhᵀ+Rbh, or r⊙H
	pre   []T // [T,B,G·H] before activation, only if clipped
}

// rnnProblem is one node's operands as slices.
type rnnProblem[T kernel.Float] struct {
	*rnnSpec
	pool                  *kernel.Pool
	T, B, I               int
	gatesLD, xhLD         int // of a tape
	x, w, r, b, h0, c0, p []T
	lens                  []int
	rows                  []int // of a table, in place of x; then I is 1

	// Of a run without a tape.
	parts     int // of each direction
	units     []rnnUnits
	turns     []rnnTurn[T] // of each part
	y, yh, yc []T          // or nil
}

func newRNNProblem[T kernel.Float](c *Ctx, s *rnnSpec) (*rnnProblem[T], error) {
	x, q := c.In(0), Scratch[rnnProblem[T]](c)
	*q = rnnProblem[T]{rnnSpec: s, pool: c.Pool, lens: q.lens[:0], units: q.units[:0], turns: q.turns[:0], rows: q.rows[:0]}
	if c.In(1).DType() == tensor.TypeOf[T]() { // DynamicQuantizeLSTM's are bytes
		q.w, q.r = tensor.Data[T](c.In(1)), tensor.Data[T](c.In(2))
	}
	q.T, q.B, q.I = x.Shape()[0], x.Shape()[1], 1
	if !s.lookup {
		q.I, q.x = x.Shape()[2], tensor.Data[T](x)
	} else if err := q.lookUp(x, c.In(rnnTable)); err != nil {
		return nil, err
	}
	if s.batchFirst {
		q.T, q.B = q.B, q.T
	}
	q.gatesLD, q.xhLD = s.tapeLD(q.I)
	opt := func(i int) []T {
		if t := c.In(i); t != nil {
			return tensor.Data[T](t)
		}
		return nil
	}
	q.b, q.h0 = opt(3), opt(5)
	if s.kind == "LSTM" {
		q.c0, q.p = opt(6), opt(7)
	}
	for range q.B {
		q.lens = append(q.lens, q.T)
	}
	if t := c.In(4); t != nil {
		for i, v := range tensor.Data[int32](t) {
			if v < 0 || int(v) > q.T {
				return nil, fmt.Errorf("sequence_lens[%d] is %d, outside 0..%d", i, v, q.T)
			}
			q.lens[i] = int(v)
		}
	}
	return q, nil
}

// time is when row b takes its step s in direction d.
func (q *rnnProblem[T]) time(d, s, b int) int {
	if q.reverse[d] {
		return q.lens[b] - 1 - s
	}
	return s
}

func (q *rnnProblem[T]) xAt(t, b int) int {
	if q.batchFirst {
		return (b*q.T + t) * q.I
	}
	return (t*q.B + b) * q.I
}

func (q *rnnProblem[T]) yAt(t, d, b int) int {
	if q.batchFirst {
		return ((b*q.T+t)*q.dirs + d) * q.hidden
	}
	return ((t*q.dirs+d)*q.B + b) * q.hidden
}

func (q *rnnProblem[T]) stateAt(d, b int) int {
	if q.batchFirst {
		return (b*q.dirs + d) * q.hidden
	}
	return (d*q.B + b) * q.hidden
}

// reorders reports whether the steps of direction d are not those of X, all of them, in X's order.
func (s *rnnSpec) reorders(d int) bool { return s.reverse[d] || s.batchFirst || s.hasLens }

// tapeLD is how far apart a tape's rows of gates, and of inputs and states, are.
func (s *rnnSpec) tapeLD(in int) (gates, xh int) {
	return kernel.RowStride(s.gates * s.hidden), kernel.RowStride(in + s.hidden)
}

// tapeSize is the elements of a direction's tape.
func (s *rnnSpec) tapeSize(steps, batch, in int) int {
	gates, xh := s.tapeLD(in)
	rows, h := steps*batch, batch*s.hidden
	n := rows*gates + (rows+batch)*xh
	switch s.kind {
	case "LSTM":
		n += (steps + 1) * h
	case "GRU":
		n += steps * h
	}
	if s.clip > 0 {
		n += steps * h * s.gates
	}
	return n
}

// tapesSize is that of all directions.
func (s *rnnSpec) tapesSize(steps, batch, in int) int { return s.dirs * s.tapeSize(steps, batch, in) }

// inferTape is the tape of all directions as an output.
func inferTape(n *Node) Info {
	x := n.In[0]
	out := Tensor(x.DType, Unknown)
	shape, ok := x.Static()
	s, err := rnnSpecOf(n, n.Op)
	if !ok || len(shape) != 3 || err != nil {
		return out
	}
	steps, batch := shape[0], shape[1]
	if s.batchFirst {
		steps, batch = batch, steps
	}
	out.Shape[0] = D(s.tapesSize(steps, batch, shape[2]))
	return out
}

// tapes lays the tapes of all directions out in buf.
func (q *rnnProblem[T]) tapes(buf []T) (tapes [2]rnnTape[T]) {
	cut := func(n int) []T {
		s := buf[:n:n]
		buf = buf[n:]
		return s
	}
	rows, h := q.T*q.B, q.B*q.hidden
	for d := range q.dirs {
		tp := &tapes[d]
		tp.gates, tp.xh = cut(rows*q.gatesLD), cut((rows+q.B)*q.xhLD)
		switch q.kind {
		case "LSTM":
			tp.c = cut((q.T + 1) * h)
		case "GRU":
			tp.rec = cut(q.T * h)
		}
		if q.clip > 0 {
			tp.pre = cut(rows * q.gates * q.hidden)
		}
	}
	return tapes
}

// groups is how many gates have their products at once: of a GRU, the product of the third with R is apart.
func (s *rnnSpec) groups() []int {
	if s.kind == "GRU" {
		return []int{2, 1}
	}
	return []int{s.gates}
}

// packForward lays W and R of direction d out in room, transposed, as the lower and the upper rows of a right factor for each of the groups.
func (q *rnnProblem[T]) packForward(d int, room []T) (factors [2]*kernel.PackedBOf[T]) {
	H, I, at := q.hidden, q.I, d*q.gates*q.hidden
	for i, gates := range q.groups() {
		n := gates * H
		pb := kernel.PackedBIn(room, I+H, n)
		pb.Rows(0, I).Pack(true, q.w[at*I:(at+n)*I], I)
		pb.Rows(I, I+H).Pack(true, q.r[at*H:(at+n)*H], H)
		factors[i], room, at = pb, room[kernel.PackedBSize[T](I+H, n):], at+n
	}
	return factors
}

// packedForward is the room that packForward takes.
func (q *rnnProblem[T]) packedForward() (n int) {
	for _, gates := range q.groups() {
		n += kernel.PackedBSize[T](q.I+q.hidden, gates*q.hidden)
	}
	return n
}

// packBackward lays R of direction d out in room as a right factor for each of the groups, and W as one for all gates.
func (q *rnnProblem[T]) packBackward(d int, room []T) (r [2]*kernel.PackedBOf[T], w *kernel.PackedBOf[T]) {
	H, I, at := q.hidden, q.I, d*q.gates*q.hidden
	w = kernel.PackBInto(room, false, q.gates*H, I, q.w[at*I:], I)
	room = room[kernel.PackedBSize[T](q.gates*H, I):]
	for i, gates := range q.groups() {
		n := gates * H
		r[i] = kernel.PackBInto(room, false, n, H, q.r[at*H:(at+n)*H], H)
		room, at = room[kernel.PackedBSize[T](n, H):], at+n
	}
	return r, w
}

// packedBackward is the room that packBackward takes.
func (q *rnnProblem[T]) packedBackward() int {
	n := kernel.PackedBSize[T](q.gates*q.hidden, q.I)
	for _, gates := range q.groups() {
		n += kernel.PackedBSize[T](gates*q.hidden, q.hidden)
	}
	return n
}

// state is that of row b before step s.
func (q *rnnProblem[T]) state(tp *rnnTape[T], s, b int) []T {
	return tp.xh[(s*q.B+b)*q.xhLD+q.I:][:q.hidden]
}

// finite reports whether x has no NaNs and infinities, or says no where its squares are too large.
func finite[T kernel.Float](x []T) bool {
	s := kernel.SumSquares(x)
	return s-s == 0
}

// forward runs direction d and fills its tape. room is for packForward.
func (q *rnnProblem[T]) forward(d int, tp *rnnTape[T], room []T) {
	H, G, B, I := q.hidden, q.gates, q.B, q.I
	GH, ldG, ldX := G*H, q.gatesLD, q.xhLD
	acts := q.acts[d]
	for s := range q.T {
		for b := range B {
			if x := tp.xh[(s*B+b)*ldX:][:I]; s < q.lens[b] {
				copy(x, q.x[q.xAt(q.time(d, s, b), b):])
			} else {
				clear(x)
			}
		}
	}
	start := func(to, from []T, b int) {
		if from != nil {
			copy(to, from[q.stateAt(d, b):])
		} else {
			clear(to)
		}
	}
	for b := range B {
		start(q.state(tp, 0, b), q.h0, b)
		if tp.c != nil {
			start(tp.c[b*H:(b+1)*H], q.c0, b)
		}
	}
	bias := make([]T, GH)
	var recBias []T
	if q.b != nil {
		wb, rb := q.b[d*2*GH:d*2*GH+GH], q.b[d*2*GH+GH:(d+1)*2*GH]
		copy(bias, wb)
		n := GH
		if q.kind == "GRU" && q.linearReset {
			n, recBias = 2*H, rb[2*H:]
		}
		for i := range n {
			bias[i] += rb[i]
		}
	}
	var peep []T
	if q.p != nil {
		peep = q.p[d*3*H : (d+1)*3*H]
	}
	factors := q.packForward(d, room)
	gru := q.kind == "GRU"
	wr, ep := factors[0], &kernel.EpilogueOf[T]{ColBias: bias}
	var w, r *kernel.PackedBOf[T] // of a GRU's third gate
	var epW, epR *kernel.EpilogueOf[T]
	if gru {
		w, r = factors[1].Rows(0, I), factors[1].Rows(I, I+H)
		ep, epW, epR = &kernel.EpilogueOf[T]{ColBias: bias[:2*H]}, &kernel.EpilogueOf[T]{ColBias: bias[2*H:]}, &kernel.EpilogueOf[T]{ColBias: recBias}
	}
	hc := make([]T, H)
	for s := range q.T {
		if B == 0 {
			break
		}
		product := productBy[T](s)
		wr, r := wr, r
		if s == 0 && q.h0 == nil && finite(q.r[d*GH*H:(d+1)*GH*H]) { // zeros, which give nothing
			wr = wr.Rows(0, I)
			if gru {
				r = r.Rows(0, 0)
			}
		}
		gates, xh := tp.gates[s*B*ldG:], tp.xh[s*B*ldX:]
		product(q.pool, false, B, 1, xh, ldX, wr, 0, gates, ldG, ep)
		if gru {
			rec := tp.rec[s*B*H : (s+1)*B*H]
			product(q.pool, false, B, 1, xh, ldX, w, 0, gates[2*H:], ldG, epW)
			if q.linearReset {
				product(q.pool, false, B, 1, xh[I:], ldX, r, 0, rec, H, epR)
			} else {
				for b := range B {
					zr := gates[b*ldG:][:2*H]
					if tp.pre != nil {
						copy(tp.pre[(s*B+b)*GH:], zr)
					}
					apply(acts[0], zr, q.clip)
					kernel.Mul(rec[b*H:(b+1)*H], zr[H:], q.state(tp, s, b))
				}
				product(q.pool, false, B, 1, rec, H, r, 1, gates[2*H:], ldG, nil)
			}
		}
		for b := range B {
			row := s*B + b
			g, prev, next := gates[b*ldG:][:GH], q.state(tp, s, b), q.state(tp, s+1, b)
			pre := func(from, to int) {
				if tp.pre != nil {
					copy(tp.pre[row*GH+from:row*GH+to], g[from:to])
				}
			}
			switch q.kind {
			case "RNN":
				pre(0, H)
				apply(acts[0], g, q.clip)
				copy(next, g)
			case "LSTM":
				pre(0, GH)
				q.lstm(g, peep, tp.c[row*H:][:H], tp.c[(row+B)*H:][:H], next, hc, acts, tp.pre, row*GH)
			case "GRU":
				if q.linearReset {
					rec := tp.rec[row*H:][:H]
					if q.defaultActs {
						kernel.GRUCell(H, g, rec, prev, next)
						break
					}
					pre(0, 2*H)
					apply(acts[0], g[:2*H], q.clip)
					kernel.MulAdd(g[2*H:], g[H:2*H], rec, g[2*H:])
				}
				pre(2*H, GH)
				q.gruOutput(g, prev, next, acts)
			}
			if s >= q.lens[b] { // the row has ended: its state stays
				copy(next, prev)
				if tp.c != nil {
					copy(tp.c[(row+B)*H:][:H], tp.c[row*H:][:H])
				}
			}
		}
	}
}

// productBy is the product with a packed factor that every step multiplies by: of step s.
func productBy[T kernel.Float](s int) func(p *kernel.Pool, transA bool, m int, alpha T, a []T, lda int, pb *kernel.PackedBOf[T], beta T, c []T, ldc int, ep *kernel.EpilogueOf[T]) {
	if s%2 == 1 {
		return kernel.GemmPackedBBack[T]
	}
	return kernel.GemmPackedB[T]
}

// lstm is the step of a row, or of a part of its units; g holds the pre-activations and gets the gates.
func (q *rnnProblem[T]) lstm(g, peep, c, cn, h, hc []T, acts []activation, pre []T, at int) {
	H := len(h)
	if q.defaultActs {
		kernel.LSTMCell(H, g, peep, c, cn, h, hc)
		return
	}
	i, o, f, gg := g[:H], g[H:2*H], g[2*H:3*H], g[3*H:4*H]
	if peep != nil {
		for j := range H {
			i[j] += peep[j] * c[j]
			f[j] += peep[2*H+j] * c[j]
		}
	}
	if pre != nil {
		copy(pre[at:at+4*H], g)
	}
	apply(acts[0], i, q.clip)
	if q.inputForget {
		for j := range H {
			f[j] = 1 - i[j]
		}
	} else {
		apply(acts[0], f, q.clip)
	}
	apply(acts[1], gg, q.clip)
	for j := range H {
		cn[j] = f[j]*c[j] + i[j]*gg[j]
	}
	if peep != nil {
		for j := range H {
			o[j] += peep[H+j] * cn[j]
		}
	}
	if pre != nil {
		copy(pre[at+H:at+2*H], o)
	}
	apply(acts[0], o, q.clip)
	copy(hc, cn)
	apply(acts[2], hc, q.clip)
	kernel.Mul(h, o, hc)
}

func runRNN[T kernel.Float](s *rnnSpec, weights *rnnWeights[T]) Kernel {
	return func(c *Ctx) error {
		q, err := newRNNProblem[T](c, s)
		if err != nil {
			return err
		}
		out := func(i int) []T {
			if t := c.Out(i); t != nil {
				return tensor.Data[T](t)
			}
			return nil
		}
		y, yh, yc := out(0), out(1), out(2)
		if !c.Wants(3) {
			return q.run(c, weights, y, yh, yc)
		}
		t, err := c.Alloc(3, tensor.TypeOf[T](), q.tapesSize(q.T, q.B, q.I))
		if err != nil {
			return err
		}
		room, pool, err := takeMetered[T](c, q.packedForward())
		if err != nil {
			return err
		}
		defer pool.Put(room)
		if q.hasLens {
			clear(y)
		}
		for d, tp := range q.tapes(tensor.Data[T](t)) {
			if d == q.dirs {
				break
			}
			q.forward(d, &tp, *room)
			if y != nil {
				for s := range q.T {
					for b, n := range q.lens {
						if s < n {
							copy(y[q.yAt(q.time(d, s, b), d, b):], q.state(&tp, s+1, b))
						}
					}
				}
			}
			for b := range q.B {
				at := q.stateAt(d, b)
				if yh != nil {
					copy(yh[at:], q.state(&tp, q.T, b))
				}
				if yc != nil && tp.c != nil {
					copy(yc[at:], tp.c[(q.T*q.B+b)*q.hidden:][:q.hidden])
				}
			}
		}
		return nil
	}
}

func gradRNN(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	in := make([]*onnx.Value, 12)
	for i := range 8 {
		in[i] = n.Input(i)
	}
	for i, v := range dy {
		in[8+i] = v
	}
	internalize(n.Node, 3)
	in[11] = g.output(n.Node, "tape", inferTape(n))
	attrs := append([]*onnx.Attribute{StringAttr("kind", n.Op)}, n.Attrs...)
	d := g.Internal("RNNGrad", 8, in, attrs...)
	out := make([]*onnx.Value, len(n.Inputs))
	var unwanted []int
	for i, of := range []int{0, 1, 2, 3, 5, 6, 7} {
		if n.Has(of) && g.Moves(n.Inputs[of]) {
			out[of] = d[1+i]
		} else {
			unwanted = append(unwanted, 1+i)
		}
	}
	leaveOut(d, unwanted...)
	return out, nil
}

// runRNNGrad is back-propagation through time: inputs are those of the node, then the gradients
// of its outputs, then the tape; outputs are a tape of gradients, which may take the memory of the tape that was read, and the gradients of
// X, W, R, B, initial_h, initial_c and P.
func runRNNGrad[T kernel.Float](c *Ctx, s *rnnSpec) error {
	q, err := newRNNProblem[T](c, s)
	if err != nil {
		return err
	}
	in := func(i int) []T {
		if t := c.In(i); t != nil {
			return tensor.Data[T](t)
		}
		return nil
	}
	dY, dYh, dYc, tape := in(8), in(9), in(10), in(11)
	size, state := q.tapesSize(q.T, q.B, q.I), q.dirs*q.B*q.hidden
	if dY != nil && len(dY) != q.T*state || dYh != nil && len(dYh) != state || dYc != nil && len(dYc) != state || len(tape) != size {
		return fmt.Errorf("the gradients and the tape are not those of a pass over %v", c.In(0).Shape())
	}
	out, err := c.Alloc(0, tensor.TypeOf[T](), size)
	if err != nil {
		return err
	}
	room, pool, err := takeMetered[T](c, q.backwardRoom())
	if err != nil {
		return err
	}
	defer pool.Put(room)
	var o [7][]T
	for i := range o {
		if t := c.Out(1 + i); t != nil {
			o[i] = tensor.Data[T](t)
		}
	}
	for _, sum := range [][]T{o[3], o[6]} {
		clear(sum)
	}
	if q.reorders(0) {
		clear(o[0])
	}
	tapes, ds := q.tapes(tape), q.tapes(tensor.Data[T](out))
	for d := range q.dirs {
		q.backward(d, &tapes[d], &ds[d], dY, dYh, dYc, o, *room)
	}
	return nil
}

// backwardRoom is the room that backward takes: for five times a state, inputs of a step, and packBackward, after which a gradient of W and R.
func (q *rnnProblem[T]) backwardRoom() int {
	return 4*q.B*q.hidden + q.hidden + q.B*q.I + max(q.packedBackward(), q.gates*q.hidden*(q.I+q.hidden))
}

// backward goes back through direction d. dt has the places of the tape for gradients: of the gates, before activation, as the input's
// products see them, and of rec, where the product with R is apart.
func (q *rnnProblem[T]) backward(d int, tp, dt *rnnTape[T], dY, dYh, dYc []T, o [7][]T, room []T) {
	H, G, B, I := q.hidden, q.gates, q.B, q.I
	GH, ldG := G*H, q.gatesLD
	acts := q.acts[d]
	cut := func(n int) []T {
		s := room[:n:n]
		room = room[n:]
		clear(s)
		return s
	}
	dh, dhPrev, dc, drh, tanhC, dx := cut(B*H), cut(B*H), cut(B*H), cut(B*H), cut(H), cut(B*I)
	rs, w := q.packBackward(d, room)
	r, late := rs[0], rs[1]
	for b := range B {
		if dYh != nil {
			copy(dh[b*H:(b+1)*H], dYh[q.stateAt(d, b):])
		}
		if dYc != nil {
			copy(dc[b*H:(b+1)*H], dYc[q.stateAt(d, b):])
		}
	}
	var peep, dPeep, dBW, dBR []T
	if q.p != nil {
		peep = q.p[d*3*H : (d+1)*3*H]
		dPeep = make([]T, 3*H)
		if o[6] != nil {
			dPeep = o[6][d*3*H : (d+1)*3*H]
		}
	}
	if o[3] != nil { // of the biases
		dBW, dBR = o[3][d*2*GH:][:GH], o[3][d*2*GH+GH:][:GH]
	}
	gru := q.kind == "GRU"
	linear := gru && q.linearReset
	clipped := func(at int) bool {
		return tp.pre != nil && (float64(tp.pre[at]) > q.clip || float64(tp.pre[at]) < -q.clip)
	}
	for s := q.T - 1; s >= 0 && B > 0; s-- {
		dg := dt.gates[s*B*ldG:]
		// gate goes through the activation of gate j of row b.
		gate := func(a activation, dy T, b, j int) T {
			if clipped((s*B+b)*GH + j) {
				return 0
			}
			return dy * slope(a, tp.gates[(s*B+b)*ldG+j])
		}
		for b := range B {
			at := (s*B + b) * H
			row, out := dh[b*H:(b+1)*H], dhPrev[b*H:(b+1)*H]
			g := dg[b*ldG:][:GH]
			clear(out)
			if s >= q.lens[b] {
				copy(out, row)
				clear(g)
				if linear {
					clear(dt.rec[at:][:H])
				}
				continue
			}
			if dY != nil {
				kernel.Add(row, row, dY[q.yAt(q.time(d, s, b), d, b):][:H])
			}
			gs, hp := tp.gates[(s*B+b)*ldG:][:GH], q.state(tp, s, b)
			switch q.kind {
			case "RNN":
				for j := range H {
					g[j] = gate(acts[0], row[j], b, j)
				}
			case "LSTM":
				cp, cn, dcr := tp.c[at:][:H], tp.c[at+B*H:][:H], dc[b*H:(b+1)*H]
				if q.defaultActs && peep == nil {
					kernel.LSTMCellGrad(H, gs, cp, cn, row, dcr, g)
					break
				}
				copy(tanhC, cn)
				apply(acts[2], tanhC, q.clip)
				for j := range H {
					i, og, f, gg := gs[j], gs[H+j], gs[2*H+j], gs[3*H+j]
					do := gate(acts[0], row[j]*tanhC[j], b, H+j)
					dct := dcr[j]
					if !(q.clip > 0 && math.Abs(float64(cn[j])) > q.clip) {
						dct += row[j] * og * slope(acts[2], tanhC[j])
					}
					if peep != nil {
						dct += do * peep[H+j]
						dPeep[H+j] += do * cn[j]
					}
					var di, df T
					if q.inputForget {
						di = gate(acts[0], dct*(gg-cp[j]), b, j)
					} else {
						di = gate(acts[0], dct*gg, b, j)
						df = gate(acts[0], dct*cp[j], b, 2*H+j)
					}
					g[j], g[H+j], g[2*H+j], g[3*H+j] = di, do, df, gate(acts[1], dct*i, b, 3*H+j)
					dcr[j] = dct * f
					if peep != nil {
						dcr[j] += di*peep[j] + df*peep[2*H+j]
						dPeep[j] += di * cp[j]
						dPeep[2*H+j] += df * cp[j]
					}
				}
			case "GRU":
				rec, dRec := tp.rec[at:][:H], dt.rec[at:][:H]
				if q.defaultActs && linear {
					kernel.GRUCellGrad(H, gs, rec, hp, row, g, dRec, out)
					break
				}
				for j := range H {
					z, rr, n := gs[j], gs[H+j], gs[2*H+j]
					dn := gate(acts[1], row[j]*(1-z), b, 2*H+j)
					g[j] = gate(acts[0], row[j]*(hp[j]-n), b, j)
					g[2*H+j] = dn
					out[j] = row[j] * z
					if linear {
						g[H+j] = gate(acts[0], dn*rec[j], b, H+j)
						dRec[j] = dn * rr
					}
				}
			}
		}
		product := productBy[T](s)
		if linear {
			product(q.pool, false, B, 1, dt.rec[s*B*H:], H, late, 1, dhPrev, H, nil)
		} else if gru {
			product(q.pool, false, B, 1, dg[2*H:], ldG, late, 0, drh, H, nil)
			for b := range B {
				if s >= q.lens[b] {
					continue
				}
				hp := q.state(tp, s, b)
				for j := range H {
					dr := drh[b*H+j]
					dhPrev[b*H+j] += dr * tp.gates[(s*B+b)*ldG+H+j]
					dg[b*ldG+H+j] = gate(acts[0], dr*hp[j], b, H+j)
				}
			}
		}
		if s > 0 || o[4] != nil {
			product(q.pool, false, B, 1, dg, ldG, r, 1, dhPrev, H, nil)
		}
		if o[0] != nil {
			if q.reorders(d) {
				product(q.pool, false, B, 1, dg, ldG, w, 0, dx, I, nil)
				for b, n := range q.lens {
					if s < n {
						dst := o[0][q.xAt(q.time(d, s, b), b):][:I]
						kernel.Add(dst, dst, dx[b*I:(b+1)*I])
					}
				}
			} else { // the first direction
				product(q.pool, false, B, 1, dg, ldG, w, 0, o[0][s*B*I:], I, nil)
			}
		}
		for b := range B {
			if dBW != nil {
				kernel.Add(dBW, dBW, dg[b*ldG:][:GH])
			}
			if dBW != nil && linear {
				kernel.Add(dBR[2*H:], dBR[2*H:], dt.rec[(s*B+b)*H:][:H])
			}
		}
		dh, dhPrev = dhPrev, dh
	}
	if linear {
		copy(dBR, dBW[:min(2*H, len(dBW))])
	} else {
		copy(dBR, dBW)
	}
	q.weightGradients(tp, dt, part(o[1], d*GH*I, GH*I), part(o[2], d*GH*H, GH*H), room)
	for b := range B {
		at := q.stateAt(d, b)
		if o[4] != nil {
			copy(o[4][at:at+H], dh[b*H:(b+1)*H])
		}
		if o[5] != nil && q.kind == "LSTM" {
			copy(o[5][at:at+H], dc[b*H:(b+1)*H])
		}
	}
}

// part is n elements of x from at on, or nil if x is.
func part[T any](x []T, at, n int) []T {
	if x == nil {
		return nil
	}
	return x[at:][:n]
}

// weightGradients sets the gradients of W and R, either of which may be nil, for the direction of the tapes. The gates' are a factor of both, which is
// read once, by way of room.
func (q *rnnProblem[T]) weightGradients(tp, dt *rnnTape[T], dW, dR, room []T) {
	H, I, n := q.hidden, q.I, q.T*q.B
	product := func(rows int, dg []T, ldg, cols int, x []T, ldx int, to []T, ld int) {
		kernel.Gemm(q.pool, true, false, rows, cols, n, 1, dg, ldg, x, ldx, 0, to, ld)
	}
	rows, h := q.groups()[0]*H, tp.xh[min(I, len(tp.xh)):]
	switch {
	case dW != nil && dR != nil:
		product(rows, dt.gates, q.gatesLD, I+H, tp.xh, q.xhLD, room, I+H)
		for i := range rows {
			row := room[i*(I+H):][:I+H]
			copy(dW[i*I:][:I], row)
			copy(dR[i*H:][:H], row[I:])
		}
	case dW != nil:
		product(rows, dt.gates, q.gatesLD, I, tp.xh, q.xhLD, dW, I)
	case dR != nil:
		product(rows, dt.gates, q.gatesLD, H, h, q.xhLD, dR, H)
	}
	if q.kind != "GRU" {
		return
	}
	third := dt.gates[min(rows, len(dt.gates)):]
	if dW != nil {
		product(H, third, q.gatesLD, I, tp.xh, q.xhLD, dW[rows*I:], I)
	}
	if dR != nil && q.linearReset {
		product(H, dt.rec, H, H, h, q.xhLD, dR[rows*H:], H)
	} else if dR != nil {
		product(H, third, q.gatesLD, H, tp.rec, H, dR[rows*H:], H)
	}
}
