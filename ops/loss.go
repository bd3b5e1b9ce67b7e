package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Losses over class indices: the standard's NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, and
// CrossEntropy, which is torch.nn.functional.cross_entropy. Inputs are scores (N×C×d1…), targets (N×d1…,
// int64 or int32) and, optionally, a weight for each class. Attributes:
// ignore_index (absent: every target counts) and reduction; of CrossEntropy also label_smoothing, and
// log_probs if the scores are log-probabilities already. CrossEntropy's class axis is the last if the targets
// have the scores' shape without it, else axis 1, where the standard's losses always have it.
// CrossEntropyGrad takes the loss's gradient first.
func init() {
	types := []TypeSet{Floats, Index, Floats}
	loss := Op{MinIn: 2, MaxIn: 3, Types: types, Infer: inferLoss, Compile: compileLoss(0), Grad: gradLoss}
	nll, softmax, torch := loss, loss, loss
	nll.Name, nll.Since = "NegativeLogLikelihoodLoss", []int{12, 13, 22}
	softmax.Name, softmax.Since, softmax.MinOut, softmax.MaxOut = "SoftmaxCrossEntropyLoss", []int{12, 13}, 1, 2
	torch.Domain, torch.Name, torch.Since, torch.Portable = Internal, "CrossEntropy", []int{1}, portableLoss
	register(nll, softmax, torch,
		Op{Domain: Internal, Name: "CrossEntropyGrad", Since: []int{1}, MinIn: 3, MaxIn: 4, Types: append([]TypeSet{Floats}, types...),
			Infer: SameAs(1), Compile: compileLoss(1), Portable: portableLossGrad})
}

type lossSpec struct {
	ignores   bool
	ignore    int64
	smooth    float64
	logProbs  bool
	reduction string
	axis1     bool // the class axis is axis 1 whatever the targets' shape
}

func lossSpecOf(n *Node) (lossSpec, error) {
	s := lossSpec{
		ignores: n.Attr("ignore_index") != nil, ignore: n.Int("ignore_index", 0),
		smooth: float64(n.Float("label_smoothing", 0)), reduction: n.Str("reduction", "mean"),
		logProbs: n.Op == "NegativeLogLikelihoodLoss" || n.Int("log_probs", 0) != 0,
		axis1:    n.Domain != Internal || n.Int("axis_1", 0) != 0,
	}
	if !slices.Contains([]string{"mean", "sum", "none"}, s.reduction) {
		return s, fmt.Errorf("the reduction %q is none of mean, sum, none", s.reduction)
	}
	return s, nil
}

func inferLoss(n *Node) ([]Info, error) {
	s, err := lossSpecOf(n)
	if err != nil {
		return nil, err
	}
	scores, target := n.In[0], n.In[1]
	scores = scores.WithoutValue()
	out := Tensor(scores.DType)
	if s.reduction == "none" {
		if out = Unranked(scores.DType); target.Ranked {
			out = Tensor(scores.DType, target.Shape...)
		}
	}
	return []Info{out, scores}, nil
}

// compileLoss makes the loss (at 0) or its gradient (at 1, where input 0 is the loss's gradient).
func compileLoss(at int) func(n *Node) (Kernel, error) {
	return func(n *Node) (Kernel, error) {
		s, err := lossSpecOf(n)
		if err != nil {
			return nil, err
		}
		return Table{
			tensor.Float32: func(c *Ctx) error { return crossEntropy[float32](c, at, s) },
			tensor.Float64: func(c *Ctx) error { return crossEntropy[float64](c, at, s) },
		}.By(0), nil
	}
}

func gradLoss(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	s, err := lossSpecOf(n)
	if err != nil {
		return nil, err
	}
	out := make([]*onnx.Value, len(n.Inputs))
	if dy[0] != nil {
		flag := func(name string, v bool) *onnx.Attribute {
			if v {
				return IntAttr(name, 1)
			}
			return IntAttr(name, 0)
		}
		attrs := []*onnx.Attribute{StringAttr("reduction", s.reduction), FloatAttr("label_smoothing", float32(s.smooth)),
			flag("log_probs", s.logProbs), flag("axis_1", s.axis1)}
		if s.ignores {
			attrs = append(attrs, IntAttr("ignore_index", s.ignore))
		}
		out[0] = g.Internal("CrossEntropyGrad", 1, append([]*onnx.Value{dy[0]}, n.Inputs...), attrs...)[0]
	}
	if len(dy) > 1 && dy[1] != nil { // the log-probabilities' part
		d := g.Sub(dy[1], g.Mul(g.Op("Exp", n.Outputs[1]), g.ReduceSum(dy[1], true, 1)))
		if out[0] == nil {
			out[0] = d
		} else {
			out[0] = g.Add(out[0], d)
		}
	}
	if n.Has(2) && dy[0] != nil && g.Moves(n.Inputs[2]) {
		if n.Domain == Internal {
			return nil, fmt.Errorf("the weights of classes have none")
		}
		out[2] = g.classWeights(n, dy[0], s)
	}
	return out, nil
}

// classWeights is the gradient of a standard loss by the weights of the classes: each target that counts adds, to its class, its
// negative log-probability, and in a mean the share by which it moves the divisor.
func (g *Grad) classWeights(n *Node, dy *onnx.Value, s lossSpec) *onnx.Value {
	logs, weight := n.Inputs[0], n.Inputs[2]
	if !s.logProbs {
		logs = g.With("LogSoftmax", []*onnx.Attribute{IntAttr("axis", 1)}, logs)
	}
	target := g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}, n.Inputs[1])
	zero := g.Like(logs, 0)
	counts := func(v *onnx.Value) *onnx.Value { return v }
	if s.ignores {
		valid := g.Op("Not", g.Op("Equal", target, g.Const(tensor.Scalar(s.ignore))))
		target = g.Op("Where", valid, target, g.Const(tensor.Scalar(int64(0))))
		counts = func(v *onnx.Value) *onnx.Value { return g.Op("Where", valid, v, zero) }
	}
	axis := g.Int64s(1)
	d := g.Neg(g.Op("Squeeze", g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", 1)}, logs, g.Op("Unsqueeze", target, axis)), axis))
	if s.reduction == "mean" {
		sum := g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, counts(g.Op("Gather", weight, target)))
		d = g.Div(g.Sub(d, n.Outputs[0]), sum)
	}
	flat := g.Int64s(-1)
	return g.With("ScatterElements", []*onnx.Attribute{StringAttr("reduction", "add")}, g.ExpandTo(zero, weight), g.Op("Reshape", target, flat),
		g.Op("Reshape", counts(g.Mul(d, dy)), flat))
}

// crossEntropy computes the loss and, if wanted, the log-probabilities, or the gradient.
func crossEntropy[T kernel.Float](c *Ctx, at int, s lossSpec) error {
	tl, tt := c.In(at), c.In(at+1)
	if tl.DType() != tensor.TypeOf[T]() {
		return fmt.Errorf("scores are %s, but their gradient's type is %s", tl.DType(), tensor.TypeOf[T]())
	}
	scores := tensor.Data[T](tl)
	target, err := tt.Int64s()
	if err != nil {
		return err
	}
	shape := tl.Shape()
	rank := len(shape)
	if rank == 0 || tt.Rank() != rank-1 {
		return fmt.Errorf("targets of %v do not suit scores of %v", tt.Shape(), shape)
	}
	axis := rank - 1
	if s.axis1 || !slices.Equal(shape[:axis], tt.Shape()) {
		axis = min(1, rank-1)
		if !slices.Equal(slices.Concat(shape[:axis], shape[axis+1:]), tt.Shape()) {
			return fmt.Errorf("targets of %v do not suit scores of %v", tt.Shape(), shape)
		}
	}
	classes, inner := shape[axis], product(shape[axis+1:])
	var weights []T
	if w := c.In(at + 2); w != nil {
		if weights, err = floatsOf[T](c, at+2); err != nil {
			return err
		}
		if len(weights) != classes {
			return fmt.Errorf("%d class weights for %d classes", len(weights), classes)
		}
	}
	weight := func(k int) float64 {
		if weights == nil {
			return 1
		}
		return float64(weights[k])
	}
	counts := func(k int64) bool { return !s.ignores || k != s.ignore }
	norm := 1.0
	if s.reduction == "mean" {
		norm = 0
	}
	for i, k := range target {
		if !counts(k) {
			continue
		}
		if k < 0 || k >= int64(classes) {
			return fmt.Errorf("target %d at %d is outside the %d classes", k, i, classes)
		}
		if s.reduction == "mean" {
			norm += weight(int(k))
		}
	}
	each := func(f func(i, base int, logp []T)) {
		c.Pool.For(len(target), max(1, 4096/max(1, classes)), func(lo, hi int) {
			row, logp := make([]T, classes), make([]T, classes)
			if s.logProbs {
				logp = row
			}
			for i := lo; i < hi; i++ {
				base := i/inner*classes*inner + i%inner
				for j := range row {
					row[j] = scores[base+j*inner]
				}
				if !s.logProbs {
					kernel.LogSoftmaxRow(logp, row)
				}
				f(i, base, logp)
			}
		})
	}
	if at == 1 {
		dy := tensor.Data[T](c.In(0))
		want := 1
		if s.reduction == "none" {
			want = len(target)
		}
		if len(dy) != want {
			return fmt.Errorf("a gradient of %v does not suit targets of %v", c.In(0).Shape(), tt.Shape())
		}
		out, err := c.Alloc(0, tl.DType(), shape...)
		if err != nil {
			return err
		}
		grad := tensor.Data[T](out)
		each(func(i, base int, logp []T) {
			k := target[i]
			if !counts(k) {
				for j := range classes {
					grad[base+j*inner] = 0
				}
				return
			}
			scale := float64(dy[min(i, len(dy)-1)]) / norm
			lossSlopes(s, int(k), logp, weight, func(j int, d float64) { grad[base+j*inner] = T(d * scale) })
		})
		return nil
	}

	var probs []T
	if c.Wants(1) {
		t, err := c.Alloc(1, tl.DType(), shape...)
		if err != nil {
			return err
		}
		probs = tensor.Data[T](t)
	}
	each64, err := c.New(tensor.Float64, len(target))
	if err != nil {
		return err
	}
	losses := tensor.Data[float64](each64)
	each(func(i, base int, logp []T) {
		if probs != nil {
			for j, v := range logp {
				probs[base+j*inner] = v
			}
		}
		k := target[i]
		if !counts(k) {
			return
		}
		losses[i] = -(1 - s.smooth) * weight(int(k)) * float64(logp[k])
		if s.smooth > 0 {
			for j, v := range logp {
				losses[i] -= s.smooth / float64(classes) * weight(j) * float64(v)
			}
		}
	})
	if s.reduction == "none" {
		t, err := c.Alloc(0, tl.DType(), tt.Shape()...)
		if err != nil {
			return err
		}
		for i, v := range losses {
			tensor.Data[T](t)[i] = T(v)
		}
		return nil
	}
	t, err := c.Alloc(0, tl.DType())
	if err != nil {
		return err
	}
	var sum float64
	for _, v := range losses {
		sum += v
	}
	tensor.Data[T](t)[0] = T(sum / norm)
	return nil
}

// lossSlopes gives f the derivative of target k's loss by each score.
func lossSlopes[T kernel.Float](s lossSpec, k int, logp []T, weight func(int) float64, f func(j int, d float64)) {
	total := (1 - s.smooth) * weight(k)
	if s.smooth > 0 {
		for j := range logp {
			total += s.smooth / float64(len(logp)) * weight(j)
		}
	}
	for j, v := range logp {
		d := 0.0
		if !s.logProbs { // through the softmax
			d = total * math.Exp(float64(v))
		}
		if s.smooth > 0 {
			d -= s.smooth / float64(len(logp)) * weight(j)
		}
		if j == k {
			d -= (1 - s.smooth) * weight(j)
		}
		f(j, d)
	}
}

// lossRows is a loss over class indices laid out for standard operators: a row of log-probabilities for each target.
type lossRows struct {
	logs, target  *onnx.Value // of the rows; targets that do not count are 0
	counts        *onnx.Value // whether a target does; nil: each does
	own, all      *onnx.Value // the weight of each row's class, and those of all classes; nil: 1
	classes, rows *onnx.Value // sizes, as lists
	back          func(rows *onnx.Value) *onnx.Value
}

func (g *Grad) lossRows(s lossSpec, scores, target, weight *onnx.Value) *lossRows {
	rank := g.Rank(scores)
	last, first := int64(rank-1), make([]int64, 0, rank)
	for a := range int64(rank) {
		if a != 1 {
			first = append(first, a)
		}
	}
	perm := append(first, 1) // the classes at the end
	back := []int64{0, last}
	for a := int64(1); a < last; a++ {
		back = append(back, a)
	}
	l := &lossRows{}
	shape := g.Shape(scores)
	toRows := func(g *Grad, v, classes *onnx.Value) *onnx.Value {
		return g.Reshape(v, g.Concat(g.Int64s(-1), classes))
	}
	same := !s.axis1
	if in, t := g.Info(scores), g.Info(target); same {
		same = t.Ranked && len(t.Shape) == rank-1
		for i := 0; same && i < rank-1; i++ {
			same = t.Shape[i].Same(in.Shape[i])
		}
	}
	logits := scores
	switch {
	case rank == 1:
		l.classes = g.Dims(scores, 0)
		logits = toRows(g, scores, l.classes)
		l.back = func(rows *onnx.Value) *onnx.Value { return g.Reshape(rows, shape) }
	case rank == 2 || same:
		l.classes = g.Dims(scores, last)
		logits = toRows(g, scores, l.classes)
		l.back = func(rows *onnx.Value) *onnx.Value { return g.Reshape(rows, shape) }
	case s.axis1:
		l.classes = g.Dims(scores, 1)
		moved := g.Transpose(scores, perm...)
		logits = toRows(g, moved, l.classes)
		l.back = func(rows *onnx.Value) *onnx.Value { return g.Transpose(g.ReshapeLike(rows, moved), back...) }
	default: // where the classes are hangs on the targets' shape
		before := g.Op("Slice", shape, g.Int64s(0), g.Int64s(last))
		atEnd := g.With("ReduceMin", []*onnx.Attribute{IntAttr("keepdims", 0)},
			g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}, g.Op("Equal", before, g.Shape(target))))
		atEnd = g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Bool))}, atEnd)
		l.classes = g.Op("Where", atEnd, g.Dims(scores, last), g.Dims(scores, 1))
		choose := func(v *onnx.Value, rank int, as func(g *Grad) *onnx.Value, or func(g *Grad) *onnx.Value) *onnx.Value {
			var branches []*onnx.Attribute
			for i, f := range []func(*Grad) *onnx.Value{as, or} {
				b := g.inner("classes")
				b.Graph.Outputs = []*onnx.Value{f(b)}
				g.fail(b.err)
				branches = append(branches, &onnx.Attribute{Name: []string{"then_branch", "else_branch"}[i], Type: onnx.AttrGraph, G: b.Graph})
			}
			out := g.Node("If", 1, []*onnx.Value{atEnd}, branches...)[0]
			g.Infos[out] = Tensor(g.DType(v), unknownDims(rank)...)
			return out
		}
		logits = choose(scores, 2, func(g *Grad) *onnx.Value { return toRows(g, scores, l.classes) },
			func(g *Grad) *onnx.Value { return toRows(g, g.Transpose(scores, perm...), l.classes) })
		l.back = func(rows *onnx.Value) *onnx.Value {
			return choose(rows, rank, func(g *Grad) *onnx.Value { return g.Reshape(rows, shape) }, func(g *Grad) *onnx.Value {
				moved := g.Op("Gather", shape, g.Int64s(perm...))
				return g.Transpose(g.Reshape(rows, moved), back...)
			})
		}
	}
	if l.logs = logits; !s.logProbs {
		l.logs = g.With("LogSoftmax", []*onnx.Attribute{IntAttr("axis", 1)}, logits)
	}
	scalar := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
	l.target = g.Flat(g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Int64))}, target))
	l.rows = g.Shape(l.target)
	size := g.Op("Squeeze", l.classes)
	// A negative target is none: it must not count from the end.
	l.target = g.Op("Where", g.Op("Less", l.target, scalar(0)), g.Op("Add", size, g.Op("Abs", l.target)), l.target)
	if s.ignores {
		skip := scalar(s.ignore)
		if s.ignore < 0 {
			skip = g.Op("Sub", size, skip)
		}
		l.counts = g.Op("Not", g.Op("Equal", l.target, skip))
		l.target = g.Op("Where", l.counts, l.target, scalar(0))
	}
	if weight != nil {
		l.all = g.Cast(weight, g.DType(scores))
		l.own = g.Op("Gather", l.all, l.target)
	}
	return l
}

// where is v in the rows that count and 0 in the others.
func (l *lossRows) where(g *Grad, v *onnx.Value) *onnx.Value {
	if l.counts == nil {
		return v
	}
	return g.Op("Where", l.counts, v, g.Like(v, 0))
}

// norm is what the sum of the losses is divided by for their mean.
func (l *lossRows) norm(g *Grad) *onnx.Value {
	w := l.own
	if w == nil {
		w = g.Fill(l.logs, l.rows, 1)
	}
	return g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, l.where(g, w))
}

func portableLoss(g *Grad, n *Node) ([]*onnx.Value, error) {
	s, err := lossSpecOf(n)
	if err != nil {
		return nil, err
	}
	l := g.lossRows(s, n.Inputs[0], n.Inputs[1], n.Input(2))
	axis := g.Int64s(1)
	each := g.Op("Squeeze", g.With("GatherElements", []*onnx.Attribute{IntAttr("axis", 1)}, l.logs, g.Op("Unsqueeze", l.target, axis)), axis)
	if l.own != nil {
		each = g.Mul(each, l.own)
	}
	if s.smooth > 0 {
		all := l.logs
		if l.all != nil {
			all = g.Mul(all, l.all)
		}
		mean := g.With("ReduceMean", []*onnx.Attribute{IntAttr("keepdims", 0)}, all, axis)
		each = g.Add(g.Mul(each, g.Like(each, 1-s.smooth)), g.Mul(mean, g.Like(each, s.smooth)))
	}
	each = l.where(g, g.Neg(each))
	if s.reduction == "none" {
		return []*onnx.Value{g.ReshapeLike(each, n.Inputs[1])}, nil
	}
	sum := g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, each)
	if s.reduction == "mean" {
		sum = g.Div(sum, l.norm(g))
	}
	return []*onnx.Value{sum}, nil
}

func portableLossGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	s, err := lossSpecOf(n)
	if err != nil {
		return nil, err
	}
	l := g.lossRows(s, n.Inputs[1], n.Inputs[2], n.Input(3))
	axis := g.Int64s(1)
	column := func(v *onnx.Value) *onnx.Value { return g.Op("Unsqueeze", v, axis) }
	// The derivative by log-probability: -(1-smooth) times the weight at the target, -smooth times the weight over the classes anywhere.
	hot := g.With("OneHot", []*onnx.Attribute{IntAttr("axis", 1)}, l.target, g.Op("Squeeze", l.classes), g.Concat(g.Fill(l.logs, g.Int64s(1), 0), g.Fill(l.logs, g.Int64s(1), s.smooth-1)))
	if l.own != nil {
		hot = g.Mul(hot, column(l.own))
	}
	if s.smooth > 0 {
		each := g.Div(g.Like(l.logs, s.smooth), g.Cast(l.classes, g.DType(l.logs)))
		if l.all != nil {
			each = g.Mul(each, l.all)
		}
		hot = g.Sub(hot, each)
	}
	if !s.logProbs { // through the softmax
		hot = g.Sub(hot, g.Mul(g.Op("Exp", l.logs), g.ReduceSum(hot, true, 1)))
	}
	dy := g.Cast(n.Inputs[0], g.DType(l.logs))
	if s.reduction == "mean" {
		dy = g.Div(dy, l.norm(g))
	}
	dy = l.where(g, g.Op("Expand", g.Flat(dy), l.rows))
	d := g.Mul(hot, column(dy))
	if l.counts != nil { // 0 even where the scores are not finite
		d = g.Op("Where", column(l.counts), d, g.Like(d, 0))
	}
	return []*onnx.Value{l.back(d)}, nil
}
