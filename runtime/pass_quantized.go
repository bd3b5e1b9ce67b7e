package runtime

import (
	"cmp"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// quantized computes on bytes what stands between DequantizeLinear and QuantizeLinear. Images keep their channels as the last axis from
// one operator to the next.
func quantized(r *rewriter) {
	q := &quantizer{rewriter: r, last: map[*onnx.Value]*onnx.Value{}}
	nodes := r.graph.Nodes
	for _, n := range nodes {
		if !q.lower(n) {
			q.nodes = append(q.nodes, n)
		}
	}
	r.graph.Nodes = q.nodes
	r.drop(q.unused)
	// Ways back that nothing takes.
	for _, n := range slices.Backward(slices.Clone(q.backs)) {
		r.drop(n.Outputs)
	}
}

type quantizer struct {
	*rewriter
	nodes  []*onnx.Node                // that are in their place
	last   map[*onnx.Value]*onnx.Value // images of bytes, their channels last
	unused []*onnx.Value               // what nothing reads any more, perhaps
	backs  []*onnx.Node                // ways from channels last
}

// A grain is what bytes stand for: (value - zero)·scale.
type grain struct {
	scale, zero *onnx.Value
	s           float32
	z           int
	d           tensor.DType
}

func (g grain) same(h grain) bool { return g.s == h.s && g.z == h.z && g.d == h.d }

// quantize is the byte that x becomes, before it is held within its type's bounds.
func (g grain) quantize(x float64) float64 {
	return math.RoundToEven(float64(float32(x)/g.s)) + float64(g.z)
}

// bounds is the least and the greatest byte.
func (g grain) bounds() (lo, hi float64) {
	if g.d == tensor.Int8 {
		return -128, 127
	}
	return 0, 255
}

// isQDQ reports whether n is QuantizeLinear or DequantizeLinear, as op says, of whole tensors or axes.
func isQDQ(n *onnx.Node, op string) bool {
	return n != nil && n.Op == op && (onnx.CanonicalDomain(n.Domain) == "" || n.Domain == microsoft) && n.Int("block_size", 0) == 0 && n.Int("precision", 0) <= 1 &&
		len(n.Outputs) == 1 && n.Outputs[0] != nil
}

// grainOf is the scale and the zero point of n if they are constant and single numbers, for bytes of type d.
func (q *quantizer) grainOf(n *onnx.Node, d tensor.DType) (g grain, ok bool) {
	if d != tensor.Uint8 && d != tensor.Int8 {
		return g, false
	}
	s, z := q.constant(n.Inputs[1]), q.constant(n.Input(2))
	if s == nil || s.DType() != tensor.Float32 || s.Len() != 1 || s.Rank() > 1 || n.Input(2) != nil && (z == nil || z.DType() != d || z.Len() != 1) {
		return g, false
	}
	g = grain{scale: n.Inputs[1], zero: n.Input(2), s: tensor.Data[float32](s)[0], d: d}
	if z != nil {
		g.z = int(tensor.Float64At(z, 0))
	} else {
		t, _ := tensor.Zeros(d)
		g.zero = q.init(n.Inputs[1], t)
	}
	return g, g.s > 0 && !math.IsInf(float64(g.s), 0)
}

// bytesOf is the bytes that v is made of, and what they stand for.
func (q *quantizer) bytesOf(v *onnx.Value) (x *onnx.Value, g grain, ok bool) {
	if v == nil || q.infos[v].DType != tensor.Float32 || !isQDQ(v.Def(), "DequantizeLinear") {
		return nil, g, false
	}
	x = v.Def().Inputs[0]
	g, ok = q.grainOf(v.Def(), q.infos[x].DType)
	return x, g, ok
}

// byteWeights are constant bytes with a scale for all or for each index of an axis.
type byteWeights struct {
	v, scale, zero *onnx.Value
	t              *tensor.Tensor
	scales         []float32
}

func (q *quantizer) weightsOf(v *onnx.Value, axis int) (w byteWeights, ok bool) {
	if v == nil || q.infos[v].DType != tensor.Float32 || !isQDQ(v.Def(), "DequantizeLinear") {
		return w, false
	}
	d := v.Def()
	w = byteWeights{v: d.Inputs[0], scale: d.Inputs[1], zero: d.Input(2), t: q.constant(d.Inputs[0])}
	s, z := q.constant(w.scale), q.constant(w.zero)
	if w.t == nil || s == nil || w.t.DType() != tensor.Uint8 && w.t.DType() != tensor.Int8 || s.DType() != tensor.Float32 || w.t.Rank() <= axis || s.Rank() > 1 ||
		w.zero != nil && (z == nil || z.DType() != w.t.DType() || z.Len() != s.Len()) {
		return w, false
	}
	if at := d.Int("axis", 1); s.Len() != 1 && (at != int64(axis) && at+int64(w.t.Rank()) != int64(axis) || s.Len() != w.t.Shape()[axis]) {
		return w, false
	}
	if w.zero == nil {
		t, _ := tensor.Zeros(w.t.DType())
		w.zero = q.init(w.v, t)
	}
	w.scales = tensor.Data[float32](s)
	return w, true
}

// bias is v as int32s in units of the scales of a product, ok false if it is no constant of n numbers or they do not fit.
func (q *quantizer) bias(v *onnx.Value, x float32, w []float32, n int) (b *onnx.Value, ok bool) {
	if v == nil {
		return nil, true
	}
	t := q.constant(v)
	if t == nil || t.DType() != tensor.Float32 || t.Len() != n {
		return nil, false
	}
	ints := make([]int32, n)
	for i, f := range tensor.Data[float32](t) {
		r := math.RoundToEven(float64(f) / (float64(x) * float64(w[i%len(w)])))
		if !(math.Abs(r) < math.MaxInt32) {
			return nil, false
		}
		ints[i] = int32(r)
	}
	return q.init(v, tensor.New(ints)), true
}

// add puts a node at the end of those that are in their place, and makes its output a new value. It is named after that if it has no name.
func (q *quantizer) add(n *onnx.Node, named *onnx.Value) *onnx.Value {
	out := &onnx.Value{Name: named.Name}
	n.Name = cmp.Or(n.Name, named.Name)
	n.SetOutput(0, out)
	q.nodes = append(q.nodes, n)
	q.graphOf[n] = q.graph
	return out
}

// turned is v with its axes in another order.
func (q *quantizer) turned(v, named *onnx.Value, perm []int64) *onnx.Value {
	n := onnx.NewNode("Transpose", []*onnx.Value{v})
	n.Attrs = []*onnx.Attribute{onnx.IntsAttr("perm", perm...)}
	return q.add(n, named)
}

// image is v, of that rank, with its channels last.
func (q *quantizer) image(v *onnx.Value, rank int) *onnx.Value {
	if q.last[v] == nil {
		perm := []int64{0}
		for i := 2; i < rank; i++ {
			perm = append(perm, int64(i))
		}
		q.last[v] = q.turned(v, v, append(perm, 1))
	}
	return q.last[v]
}

// result makes fresh, an image with its channels last if that is said, what n computed from d's result, held within the bytes [lo, hi].
func (q *quantizer) result(n, d, fresh *onnx.Node, last bool, g grain, lo, hi float64) {
	out := n.Outputs[0]
	fresh.Name = d.Name
	y := q.add(fresh, out)
	if least, most := g.bounds(); lo > least || hi < most {
		y = q.table(y, out, g, func(i float64) float64 { return min(max(i, lo), hi) })
	}
	n.Outputs[0] = nil
	if last {
		q.last[out] = y
		perm := []int64{0, int64(q.infos[out].Rank() - 1)}
		for i := 1; i < q.infos[out].Rank()-1; i++ {
			perm = append(perm, int64(i))
		}
		y = q.turned(y, out, perm)
	}
	def := y.Def()
	if last {
		q.backs = append(q.backs, def)
	}
	def.SetOutput(0, out)
	q.remove(n)
}

// remove takes out n, whose outputs are something else's now.
func (q *quantizer) remove(n *onnx.Node) {
	q.unused = append(q.unused, n.Inputs...)
	for i := range n.Inputs {
		n.SetInput(i, nil)
	}
	delete(q.graphOf, n)
}

// table is f of each byte of x, which is of g's type.
func (q *quantizer) table(x, named *onnx.Value, g grain, f func(i float64) float64) *onnx.Value {
	t, _ := tensor.Zeros(g.d, 256)
	least, _ := g.bounds()
	for i := range 256 {
		v := float64(i)
		if least < 0 {
			v = float64(int8(i))
		}
		tensor.SetFloat64At(t, i, f(v))
	}
	return q.add(internal("ByteTable", []*onnx.Value{x, q.init(named, t)}), named)
}

// regrained is x, bytes that stand for what g says, as bytes of another grain.
func (q *quantizer) regrained(x *onnx.Value, from, to grain) *onnx.Value {
	if from.same(to) {
		return x
	}
	bytes := q.everyByte(from, x)
	d := onnx.NewNode("DequantizeLinear", []*onnx.Value{bytes, from.scale, from.zero})
	f := q.add(d, x)
	t := q.add(onnx.NewNode("QuantizeLinear", []*onnx.Value{f, to.scale, to.zero}), x)
	return q.add(internal("ByteTable", []*onnx.Value{x, t}), x)
}

// everyByte is the 256 bytes of g's type, by their bits.
func (q *quantizer) everyByte(g grain, named *onnx.Value) *onnx.Value {
	t, _ := tensor.Zeros(g.d, 256)
	for i, b := 0, t.Bytes(); i < 256; i++ {
		b[i] = uint8(i)
	}
	return q.init(named, t)
}

// lower puts what computes n on bytes in its place, if there is such.
func (q *quantizer) lower(n *onnx.Node) bool {
	switch {
	case isQDQ(n, "QuantizeLinear"):
		g, ok := q.grainOf(n, q.infos[n.Outputs[0]].DType)
		return ok && q.infos[n.Inputs[0]].DType == tensor.Float32 && (q.operator(n, g) || q.unary(n, g))
	case is(n, "MatMul"), is(n, "Gemm"):
		return q.floatProduct(n)
	case n.Op == "QLinearConv" && n.Int("channels_last", 0) == 0:
		return q.alone(n, "QLinearConv", n.Inputs[:1], q.constant(n.Inputs[3]) != nil)
	case n.Op == "QLinearGlobalAveragePool" && n.Domain == microsoft && n.Int("channels_last", 0) == 0:
		return q.alone(n, n.Op, n.Inputs[:1], q.last[n.Inputs[0]] != nil)
	case n.Op == "QLinearAdd" && n.Domain == microsoft:
		return q.alone(n, n.Op, []*onnx.Value{n.Inputs[0], n.Inputs[3]}, q.sameShape(n.Inputs[0], n.Inputs[3]) && (q.last[n.Inputs[0]] != nil || q.last[n.Inputs[3]] != nil))
	case is(n, "MaxPool") && len(n.Outputs) == 1 && n.Int("storage_order", 0) == 0:
		return q.alone(n, "NhwcMaxPool", n.Inputs[:1], q.last[n.Inputs[0]] != nil)
	}
	return false
}

// alone lowers an operator on bytes to one on images with their channels last.
func (q *quantizer) alone(n *onnx.Node, op string, images []*onnx.Value, ok bool) bool {
	rank := q.infos[n.Outputs[0]].Rank()
	if !ok || rank < 3 || rank > 5 || q.infos[images[0]].Rank() != rank {
		return false
	}
	in := slices.Clone(n.Inputs)
	for i, v := range in {
		if slices.Contains(images, v) {
			in[i] = q.image(v, rank)
		}
	}
	fresh := microsoftNode(op, in...)
	fresh.Attrs = slices.Clone(n.Attrs)
	if op == "QLinearConv" || op == "QLinearGlobalAveragePool" {
		fresh.SetAttr(onnx.IntAttr("channels_last", 1))
	}
	q.result(n, n, fresh, true, grain{d: tensor.Uint8}, 0, 255)
	return true
}

// clamped is what v is before Relus and Clips, and what they hold it between.
func (q *quantizer) clamped(v *onnx.Value) (x *onnx.Value, lo, hi float64) {
	lo, hi = math.Inf(-1), math.Inf(1)
	for q.next(v) != nil {
		d := v.Def()
		a, b := 0.0, math.Inf(1)
		if !is(d, "Relu") {
			if !is(d, "Clip") {
				break
			}
			_, params, ok := q.activation(d)
			if !ok {
				break
			}
			a, b = float64(params[0].F), float64(params[1].F)
		}
		lo, hi = min(max(a, lo), hi), min(max(b, lo), hi)
		v = d.Inputs[0]
	}
	return v, lo, hi
}

// operator lowers the operator whose result n, which has grain g, rounds.
func (q *quantizer) operator(n *onnx.Node, g grain) bool {
	v, least, most := q.clamped(n.Inputs[0])
	d := v.Def()
	if q.next(v) == nil || d == nil || onnx.CanonicalDomain(d.Domain) != "" || len(d.Outputs) != 1 || len(d.Inputs) == 0 || q.graphOf[d] != q.graph {
		return false
	}
	lo, hi := g.bounds()
	lo, hi = min(max(lo, g.quantize(least)), hi), max(min(hi, g.quantize(most)), lo)
	x, from, ok := q.bytesOf(d.Inputs[0])
	rank := q.infos[v].Rank()
	image := rank >= 3 && rank <= 5 && q.infos[d.Inputs[0]].Rank() == rank
	switch d.Op {
	case "Concat":
		return q.concat(n, d, g, lo, hi)
	case "Conv":
		w, constant := q.weightsOf(d.Inputs[1], 0)
		if !ok || !image || !constant || w.t.Rank() != rank {
			return false
		}
		b, ok := q.bias(d.Input(2), from.s, w.scales, w.t.Shape()[0])
		if !ok {
			return false
		}
		fresh := microsoftNode("QLinearConv", q.image(x, rank), from.scale, from.zero, w.v, w.scale, w.zero, g.scale, g.zero, b)
		fresh.Attrs = slices.Clone(d.Attrs)
		fresh.SetAttr(onnx.IntAttr("channels_last", 1))
		q.result(n, d, fresh, true, g, lo, hi)
		return true
	case "Gemm", "MatMul":
		p, product := q.product(d)
		if !product || len(p.bias) > 1 {
			return false
		}
		in := []*onnx.Value{p.x, p.from.scale, p.from.zero, p.w, p.scale, p.zero, g.scale, g.zero}
		if len(p.bias) > 0 {
			b, ok := q.bias(p.bias[0], p.from.s, p.scales, p.columns)
			if !ok {
				return false
			}
			in = append(in, b)
		}
		q.result(n, d, internal("QLinearMatMul", in), false, g, lo, hi)
		return true
	case "Add":
		y, other, second := q.bytesOf(d.Inputs[1])
		if !ok || !second || from.d != other.d || from.d != g.d || !q.sameShape(d.Inputs[0], d.Inputs[1]) {
			return false
		}
		last := image && (q.last[x] != nil || q.last[y] != nil)
		if last {
			x, y = q.image(x, rank), q.image(y, rank)
		}
		q.result(n, d, microsoftNode("QLinearAdd", x, from.scale, from.zero, y, other.scale, other.zero, g.scale, g.zero), last, g, lo, hi)
		return true
	case "Mul":
		y, other, second := q.bytesOf(d.Inputs[1])
		if !ok || !second || x == y || from.d != other.d || from.d != g.d {
			return false
		}
		last := image && q.infos[d.Inputs[1]].Rank() == rank && (q.last[x] != nil || q.last[y] != nil)
		if last {
			x, y = q.image(x, rank), q.image(y, rank)
		}
		q.result(n, d, microsoftNode("QLinearMul", x, from.scale, from.zero, y, other.scale, other.zero, g.scale, g.zero), last, g, lo, hi)
		return true
	case "MaxPool":
		if !ok || !image || !from.same(g) || d.Int("storage_order", 0) != 0 {
			return false
		}
		fresh := microsoftNode("NhwcMaxPool", q.image(x, rank))
		fresh.Attrs = slices.Clone(d.Attrs)
		q.result(n, d, fresh, true, g, lo, hi)
		return true
	case "GlobalAveragePool", "ReduceMean":
		xr := q.infos[d.Inputs[0]].Rank()
		if !ok || xr < 3 || xr > 5 || from.d != g.d || d.Op == "ReduceMean" && !q.reducesSpatial(d, xr) {
			return false
		}
		fresh := microsoftNode("QLinearGlobalAveragePool", q.image(x, xr), from.scale, from.zero, g.scale, g.zero)
		fresh.SetAttr(onnx.IntAttr("channels_last", 1))
		if d.Op == "GlobalAveragePool" || d.Int("keepdims", 1) != 0 {
			q.result(n, d, fresh, true, g, lo, hi)
			return true
		}
		fresh.Name = d.Name
		flat := onnx.NewNode("Reshape", []*onnx.Value{q.add(fresh, n.Outputs[0]), q.init(n.Outputs[0], tensor.New([]int64{0, -1}))})
		q.result(n, d, flat, false, g, lo, hi)
		return true
	case "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice":
		if !ok || from.d != g.d {
			return false
		}
		fresh := onnx.NewNode(d.Op, append([]*onnx.Value{q.regrained(x, from, g)}, d.Inputs[1:]...))
		fresh.Attrs, fresh.Opset = slices.Clone(d.Attrs), d.Opset
		q.result(n, d, fresh, false, g, lo, hi)
		return true
	}
	return false
}

// reducesSpatial reports whether the reduction n of a tensor of that rank is over all axes but the first two.
func (r *rewriter) reducesSpatial(n *onnx.Node, rank int) bool {
	axes := n.Ints("axes", nil)
	if v := n.Input(1); v != nil {
		t := r.constant(v)
		if t == nil {
			return false
		}
		axes, _ = t.Int64s()
	}
	seen := map[int64]bool{}
	for _, a := range axes {
		if a < 0 {
			a += int64(rank)
		}
		if a < 2 {
			return false
		}
		seen[a] = true
	}
	return len(seen) == rank-2
}

// concat lowers the concatenation d.
func (q *quantizer) concat(n, d *onnx.Node, g grain, lo, hi float64) bool {
	rank := q.infos[d.Outputs[0]].Rank()
	axis := d.Int("axis", 1)
	if axis < 0 {
		axis += int64(rank)
	}
	last := false
	for _, v := range d.Inputs {
		x, from, ok := q.bytesOf(v)
		if !ok || from.d != g.d || q.infos[v].Rank() != rank || axis >= int64(rank) {
			return false
		}
		last = last || q.last[x] != nil
	}
	last = last && rank >= 3 && rank <= 5
	var in []*onnx.Value
	for _, v := range d.Inputs {
		x, from, _ := q.bytesOf(v)
		if last {
			x = q.image(x, rank)
		}
		in = append(in, q.regrained(x, from, g))
	}
	if last && axis > 0 {
		axis = (axis+int64(rank)-3)%int64(rank-1) + 1 // the second goes to the end
	}
	fresh := onnx.NewNode("Concat", in)
	fresh.Opset = d.Opset
	fresh.SetAttr(onnx.IntAttr("axis", axis))
	q.result(n, d, fresh, last, g, lo, hi)
	return true
}

// byteProduct is a product of bytes with constant ones.
type byteProduct struct {
	x, w, scale, zero *onnx.Value
	from              grain
	scales            []float32
	bias              []*onnx.Value // none or one
	columns           int
}

// product is the operands of d, a MatMul or Gemm, as bytes.
func (q *quantizer) product(d *onnx.Node) (p byteProduct, ok bool) {
	axis := 1
	if is(d, "Gemm") {
		if d.Int("transA", 0) != 0 || d.Float("alpha", 1) != 1 || d.Float("beta", 1) != 1 {
			return p, false
		}
		axis -= int(d.Int("transB", 0))
	}
	if p.x, p.from, ok = q.bytesOf(d.Inputs[0]); !ok || q.infos[d.Inputs[0]].Rank() < 1 {
		return p, false
	}
	w, ok := q.weightsOf(d.Inputs[1], axis&1)
	if !ok || w.t.Rank() != 2 || axis < 0 {
		return p, false
	}
	p.w, p.scale, p.zero, p.scales, p.columns = w.v, w.scale, w.zero, w.scales, w.t.Shape()[axis]
	if axis == 0 {
		p.w = q.init(w.v, transposedBytes(w.t))
	} else if w.v.Const == nil {
		p.w = q.init(w.v, w.t)
	}
	if b := d.Input(2); b != nil {
		if i := q.infos[b]; i.Rank() < 1 || i.Rank() > 2 || i.Rank() == 2 && i.Shape[0].N != 1 || i.Shape[i.Rank()-1].N != p.columns {
			return p, false
		}
		p.bias = []*onnx.Value{b}
	}
	return p, true
}

// transposedBytes is the transpose of a matrix of bytes.
func transposedBytes(t *tensor.Tensor) *tensor.Tensor {
	rows, cols := t.Shape()[0], t.Shape()[1]
	out, _ := tensor.Zeros(t.DType(), cols, rows)
	from, to := t.Bytes(), out.Bytes()
	for i := range rows {
		for j := range cols {
			to[j*rows+i] = from[i*cols+j]
		}
	}
	return out
}

// floatProduct lowers a product whose result nothing rounds.
func (q *quantizer) floatProduct(n *onnx.Node) bool {
	v := n.Outputs[0]
	if x := q.next(v); x != nil { // the rounding sees to that
		for is(x, "Relu") || is(x, "Clip") {
			x = q.next(x.Outputs[0])
		}
		if isQDQ(x, "QuantizeLinear") {
			return false
		}
	}
	p, ok := q.product(n)
	if !ok {
		return false
	}
	in := []*onnx.Value{p.x, p.w, p.from.scale, p.scale, p.from.zero, p.zero}
	for _, b := range p.bias {
		if q.infos[b].Rank() != 1 {
			return false
		}
		in = append(in, b)
	}
	q.result(n, n, microsoftNode("MatMulIntegerToFloat", in...), false, grain{d: tensor.Uint8}, 0, 255)
	return true
}

// onSingle are the operators that give for each element of their first input what hangs on it alone, if other inputs are single constants.
var onSingle = append([]string{"Clip", "Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Exp", "Sqrt", "Reciprocal", "PRelu", "QuantizeLinear", "DequantizeLinear"}, pointwise...)

// unary lowers what n rounds if it hangs on the bytes of one tensor, element by element: a table has all of it.
func (q *quantizer) unary(n *onnx.Node, g grain) bool {
	var x *onnx.Value
	var from grain
	seen := map[*onnx.Node]bool{}
	var look func(v *onnx.Value) bool
	look = func(v *onnx.Value) bool {
		if v == nil {
			return true
		}
		if t := q.constant(v); t != nil {
			return t.Len() == 1 && t.Rank() <= 1
		}
		if y, h, ok := q.bytesOf(v); ok {
			if x == nil {
				x, from = y, h
			}
			return x == y && from.same(h)
		}
		d := v.Def()
		if d == nil || onnx.CanonicalDomain(d.Domain) != "" || q.graphOf[d] != q.graph || len(d.Outputs) != 1 || !slices.Contains(onSingle, d.Op) || len(d.Attrs) > 0 && d.Attr("axis") != nil {
			return false
		}
		if seen[d] {
			return true
		}
		seen[d] = true
		return len(seen) <= 16 && !slices.ContainsFunc(d.Inputs, func(v *onnx.Value) bool { return !look(v) })
	}
	if !look(n.Inputs[0]) || x == nil || q.infos[x].Rank() < 1 {
		return false
	}
	copies := map[*onnx.Node]*onnx.Value{}
	bytes := q.everyByte(from, n.Outputs[0])
	var made func(v *onnx.Value) *onnx.Value
	made = func(v *onnx.Value) *onnx.Value {
		if v == nil || q.constant(v) != nil {
			return v
		}
		d := v.Def()
		if copies[d] == nil {
			in := []*onnx.Value{bytes, from.scale, from.zero}
			if _, _, ok := q.bytesOf(v); !ok {
				in = nil
				for _, v := range d.Inputs {
					in = append(in, made(v))
				}
			}
			c := onnx.NewNode(d.Op, in)
			c.Domain, c.Opset, c.Attrs = d.Domain, d.Opset, slices.Clone(d.Attrs)
			copies[d] = q.add(c, v)
		}
		return copies[d]
	}
	t := onnx.NewNode(n.Op, []*onnx.Value{made(n.Inputs[0]), g.scale, g.zero})
	t.Domain, t.Opset = n.Domain, n.Opset
	last := q.last[x]
	fresh := internal("ByteTable", []*onnx.Value{x, q.add(t, n.Outputs[0])})
	if last != nil {
		fresh.SetInput(0, last)
	}
	lo, hi := g.bounds()
	q.result(n, n, fresh, last != nil, g, lo, hi)
	return true
}
