package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Normalizations. Those over rows (LayerNormalization, RMSNormalization, and over groups of
// channels InstanceNormalization and GroupNormalization) share the arithmetic of one row.
func init() {
	table := func(f32, f64 Kernel) func(*Node) (Kernel, error) {
		return Table{tensor.Float32: f32, tensor.Float64: f64}.Always(0)
	}
	register(
		Op{Name: "BatchNormalization", Since: []int{1, 6, 7, 9, 14, 15}, MinIn: 5, MinOut: 1, MaxOut: 5, Types: []TypeSet{Floats},
			Infer: inferBatchNorm, Compile: table(batchNorm[float32], batchNorm[float64]), Grad: gradBatchNorm},
		// X, scale, bias give Y and each channel's mean and unbiased variance over the batch, as float64: what running statistics
		// move towards in PyTorch, where the standard's own outputs have the biased variance.
		Op{Domain: Internal, Name: "BatchNormalization", Since: []int{1}, MinIn: 3, MinOut: 1, MaxOut: 3, Types: []TypeSet{Floats},
			Infer: inferTrainingBatchNorm, Compile: table(trainingBatchNorm[float32], trainingBatchNorm[float64]), Grad: gradBatchNorm, Portable: portableTrainingBatchNorm},
		// dY, X, scale and, of running statistics or of the training operator, mean and variance
		Op{Domain: Internal, Name: "BatchNormalizationGrad", Since: []int{1}, MinIn: 3, MaxIn: 5, MinOut: 3, MaxOut: 3, Types: []TypeSet{Floats},
			Infer: inferGrads(2, 2), Compile: table(batchNormGrad[float32], batchNormGrad[float64]), Portable: portableBatchNormGrad},
		// ONNX Runtime has it from opset 1 on, and its optimizer writes it into models before 17.
		Op{Name: "LayerNormalization", Since: []int{1, 17}, MinIn: 2, MaxIn: 3, MinOut: 1, MaxOut: 3, Types: []TypeSet{Floats},
			Infer: inferLayerNorm, Compile: compileLayerNorm(false), Grad: gradLayerNorm(false)},
		Op{Name: "RMSNormalization", Since: []int{23}, MinIn: 2, Types: []TypeSet{Floats},
			Infer: inferLayerNorm, Compile: compileLayerNorm(true), Grad: gradLayerNorm(true)},
		// dY, X, scale; scale's gradient and the bias's have the shape of the axes normalized
		Op{Domain: Internal, Name: "LayerNormalizationGrad", Since: []int{1}, MinIn: 3, MinOut: 3, MaxOut: 3, Types: []TypeSet{Floats},
			Infer: inferLayerNormGrad, Compile: table(layerNormGrad[float32], layerNormGrad[float64]), Portable: portableLayerNormGrad},
		Op{Name: "InstanceNormalization", Since: []int{1, 6, 22}, MinIn: 3, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: table(groupNorm[float32], groupNorm[float64]), Grad: gradGroupNorm},
		Op{Name: "GroupNormalization", Since: []int{18, 21}, MinIn: 3, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: table(groupNorm[float32], groupNorm[float64]), Grad: gradGroupNorm},
		// dY, X, scale
		Op{Domain: Internal, Name: "GroupNormalizationGrad", Since: []int{1}, MinIn: 3, MinOut: 3, MaxOut: 3, Types: []TypeSet{Floats},
			Infer: inferGrads(2, 2), Compile: table(groupNormGrad[float32], groupNormGrad[float64]), Portable: portableGroupNormGrad},
		Op{Name: "LRN", Since: []int{1, 13}, MinIn: 1, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: table(lrn[float32], lrn[float64]), Grad: gradLRN},
		Op{Name: "LpNormalization", Since: []int{1, 22}, MinIn: 1, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: table(lpNormalize[float32], lpNormalize[float64]), Grad: gradLpNormalization},
		Op{Name: "MeanVarianceNormalization", Since: []int{9, 13}, MinIn: 1, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: table(meanVariance[float32], meanVariance[float64]), Grad: gradMeanVariance},
	)
}

// floatsOf is input i as Ts, converted if it is of another floating-point type.
func floatsOf[T kernel.Float](c *Ctx, i int) ([]T, error) {
	t := c.In(i)
	if t == nil {
		return nil, fmt.Errorf("input %d is not a tensor", i)
	}
	d := tensor.TypeOf[T]()
	if t.DType() == d {
		return tensor.Data[T](t), nil
	}
	f, err := c.New(d, t.Shape()...)
	if err != nil {
		return nil, err
	}
	if err := tensor.ConvertInto(f, t, true); err != nil {
		return nil, err
	}
	return tensor.Data[T](f), nil
}

// perChannel is input i as Ts, which must be one for each of n channels.
func perChannel[T kernel.Float](c *Ctx, i, n int) ([]T, error) {
	v, err := floatsOf[T](c, i)
	if err == nil && len(v) != n {
		err = fmt.Errorf("input %d of %v should have %d elements", i, c.In(i).Shape(), n)
	}
	return v, err
}

// store makes vals output i, if the graph uses it, in the type that was inferred.
func store[T kernel.Float](c *Ctx, i int, vals []T, shape ...int) error {
	if !c.Wants(i) {
		return nil
	}
	d := tensor.TypeOf[T]()
	if t := c.Out(i); t != nil {
		d = t.DType()
	}
	t, err := c.Alloc(i, d, shape...)
	if err != nil {
		return err
	}
	src, err := tensor.FromSlice(vals, shape)
	if err != nil {
		return err
	}
	return tensor.ConvertInto(t, src, true)
}

// inferGrads is for a gradient's outputs: the first like input 1, the others like those listed.
func inferGrads(like ...int) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		out := []Info{n.Info(1)}
		for _, i := range like {
			out = append(out, n.Info(i))
		}
		for i := range out {
			out[i] = out[i].WithoutValue()
		}
		return out, nil
	}
}

// channelsOf is the sizes of x as N×C×inner.
func channelsOf(xs []int) (n, ch, inner int, err error) {
	switch len(xs) {
	case 0:
		return 0, 0, 0, fmt.Errorf("a scalar has no channels")
	case 1: // N alone: one channel
		return xs[0], 1, 1, nil
	}
	return xs[0], xs[1], product(xs[2:]), nil
}

func batchTraining(n *Node) bool {
	if n.Domain == Internal || n.Since >= 14 {
		return n.Int("training_mode", 0) != 0
	}
	return len(n.Outputs) > 1
}

// batchChannels is channelsOf, or with statistics for every element of an example where
// opsets before 9 ask for that.
func batchChannels(n *Node, xs []int) (batch, ch, inner int, err error) {
	batch, ch, inner, err = channelsOf(xs)
	if n.Domain != Internal && n.Since < 9 && n.Int("spatial", 1) == 0 || n.Domain == Internal && n.Int("spatial", 1) == 0 {
		ch, inner = ch*inner, 1
	}
	return
}

func inferBatchNorm(n *Node) ([]Info, error) {
	x, mean := n.In[0].WithoutValue(), n.In[3].WithoutValue()
	ch := Unknown
	if x.Ranked && (n.Since >= 9 || n.Int("spatial", 1) != 0) {
		switch len(x.Shape) {
		case 0:
			return nil, fmt.Errorf("a scalar has no channels")
		case 1:
			ch = D(1)
		default:
			ch = x.Shape[1]
		}
		for i := 1; i < 5; i++ {
			p := n.In[i]
			if p.Ranked && (len(p.Shape) != 1 || p.Shape[0].Known() && ch.Known() && p.Shape[0].N != ch.N) {
				return nil, fmt.Errorf("input %d of %v does not suit %v channels", i, p.Shape, ch)
			}
		}
	}
	if !mean.Ranked && ch.Known() {
		mean.Ranked, mean.Shape = true, []Dim{ch}
	}
	if n.Since >= 14 && len(n.Outputs) > 1 && (len(n.Outputs) > 3 || !batchTraining(n)) {
		return nil, fmt.Errorf("%d outputs with training_mode %d", len(n.Outputs), n.Int("training_mode", 0))
	}
	return []Info{x, mean, mean, mean, mean}[:len(n.Outputs)], nil
}

func inferTrainingBatchNorm(n *Node) ([]Info, error) {
	x, stat := n.In[0], Tensor(tensor.Float64, Unknown)
	x.Const = nil
	switch {
	case !x.Ranked:
	case len(x.Shape) == 0:
		return nil, fmt.Errorf("a scalar has no channels")
	case len(x.Shape) == 1:
		stat.Shape[0] = D(1)
	default:
		stat.Shape[0] = x.Shape[1]
	}
	if shape, ok := x.Static(); ok {
		if batch, _, inner, err := channelsOf(shape); err != nil {
			return nil, err
		} else if err := enoughOfChannel(batch*inner, shape); err != nil {
			return nil, err
		}
	}
	return []Info{x, stat, stat}[:len(n.Outputs)], nil
}

// channels is the sizes of N×C×inner elements, seen by channel.
type channels struct{ n, ch, inner int }

// planes is the elements of one channel: count planes of size elements, step apart.
type planes[T kernel.Float] struct {
	data              []T
	step, count, size int
}

func (r planes[T]) plane(i int) []T { return r.data[i*r.step:][:r.size] }

// smallPlane is below how many elements planes are worked on side by side in a buffer.
const smallPlane = 32

// buffer is memory for as many elements as a channel has, if its planes are small, nil otherwise.
func buffer[T kernel.Float](s channels) []T {
	if s.inner >= smallPlane || s.n == 1 {
		return nil
	}
	return make([]T, s.n*s.inner)
}

// channel is channel k of x, a copy in buf unless that is nil.
func channel[T kernel.Float](s channels, x []T, k int, buf []T) planes[T] {
	if buf == nil && s.n > 0 {
		return planes[T]{x[k*s.inner:], s.ch * s.inner, s.n, s.inner}
	}
	if s.inner == 1 {
		for i := range buf {
			buf[i] = x[i*s.ch+k]
		}
	} else {
		for i := range s.n {
			copy(buf[i*s.inner:][:s.inner], x[(i*s.ch+k)*s.inner:])
		}
	}
	return planes[T]{buf, len(buf), 1, len(buf)}
}

// putChannel makes buf channel k of y, unless it is nil.
func putChannel[T kernel.Float](s channels, y []T, k int, buf []T) {
	if s.inner == 1 {
		for i, v := range buf {
			y[i*s.ch+k] = v
		}
	} else if buf != nil {
		for i := range s.n {
			copy(y[(i*s.ch+k)*s.inner:], buf[i*s.inner:][:s.inner])
		}
	}
}

// moments gives the mean and the sum of the squares of the differences from it.
func (r planes[T]) moments() (mean, squares float64) {
	count := float64(max(1, r.count*r.size))
	for i := range r.count {
		mean += float64(kernel.Sum(r.plane(i)))
	}
	mean /= count
	m := T(mean)
	for i := range r.count {
		squares += float64(kernel.SquaredDeviations(r.plane(i), m))
	}
	off := mean - float64(m) // what the mean lost in T
	return mean, max(0, squares-count*off*off)
}

// forChannels calls f, on several threads, with ranges of channels.
func (s channels) forChannels(p *kernel.Pool, f func(lo, hi int)) {
	p.For(s.ch, 1+16384/max(1, s.n*s.inner), f)
}

func invStd[T kernel.Float](variance []T, eps float64) []T {
	out := make([]T, len(variance))
	for i, v := range variance {
		out[i] = T(1 / math.Sqrt(float64(v)+eps))
	}
	return out
}

// batchNorm normalizes by given statistics, or by the batch's.
func batchNorm[T kernel.Float](c *Ctx) error {
	n := c.Node
	x := c.In(0)
	batch, ch, inner, err := batchChannels(n, x.Shape())
	if err != nil {
		return err
	}
	var in [5][]T
	for i := 1; i < 5; i++ {
		if in[i], err = perChannel[T](c, i, ch); err != nil {
			return err
		}
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	xs, ys := tensor.Data[T](x), tensor.Data[T](t)
	scale, bias, mean, variance := in[1], in[2], in[3], in[4]
	eps := float64(n.Float("epsilon", 1e-5))
	if batchTraining(n) {
		momentum := T(n.Float("momentum", 0.9))
		means, squares := normalizeBatch(c.Pool, channels{batch, ch, inner}, ys, xs, scale, bias, eps)
		mean, variance = make([]T, ch), make([]T, ch)
		rm, rv := make([]T, ch), make([]T, ch)
		for k := range ch {
			mean[k], variance[k] = T(means[k]), T(squares[k]/float64(max(1, batch*inner)))
			rm[k] = in[3][k]*momentum + mean[k]*(1-momentum)
			rv[k] = in[4][k]*momentum + variance[k]*(1-momentum)
		}
		for i, v := range [][]T{rm, rv, mean, variance} {
			if err := store(c, i+1, v, c.In(3).Shape()...); err != nil {
				return err
			}
		}
		return nil
	}
	for i, v := range [][]T{mean, variance, mean, variance} { // the old test mode passes the statistics through
		if err := store(c, i+1, v, c.In(3).Shape()...); err != nil {
			return err
		}
	}
	a := invStd(variance, eps)
	b := make([]T, ch)
	for k := range ch {
		a[k] *= scale[k]
		b[k] = bias[k] - mean[k]*a[k]
	}
	if inner == 1 {
		c.Pool.For(batch, 1+8192/max(1, ch), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				for k, v := range xs[i*ch : (i+1)*ch] {
					ys[i*ch+k] = v*a[k] + b[k]
				}
			}
		})
		return nil
	}
	c.Pool.For(batch*ch, 1+8192/max(1, inner), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			kernel.Affine(ys[i*inner:(i+1)*inner], xs[i*inner:(i+1)*inner], a[i%ch], b[i%ch])
		}
	})
	return nil
}

// normalizeBatch normalizes each channel of x by its own statistics, which it returns: the mean, and the sum of the squares of the
// differences from it. A nil y is not written.
func normalizeBatch[T kernel.Float](p *kernel.Pool, s channels, y, x, scale, bias []T, eps float64) (means, squares []float64) {
	means, squares = make([]float64, s.ch), make([]float64, s.ch)
	count := float64(max(1, s.n*s.inner))
	s.forChannels(p, func(lo, hi int) {
		buf := buffer[T](s)
		for k := lo; k < hi; k++ {
			from := channel(s, x, k, buf)
			means[k], squares[k] = from.moments()
			if y == nil {
				continue
			}
			a := scale[k] * T(1/math.Sqrt(squares[k]/count+eps))
			b := bias[k] - T(means[k])*a
			to := from
			if buf == nil {
				to = channel(s, y, k, nil)
			}
			for i := range from.count {
				kernel.Affine(to.plane(i), from.plane(i), a, b)
			}
			putChannel(s, y, k, buf)
		}
	})
	return means, squares
}

// enoughOfChannel is an error where the variance of each channel of an input of that shape cannot be told.
func enoughOfChannel(values int, shape []int) error {
	if values < 2 {
		return fmt.Errorf("training needs more than one value of each channel, got %v", shape)
	}
	return nil
}

// trainingBatchNorm gives beside Y each channel's mean and unbiased variance over the batch.
func trainingBatchNorm[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	batch, ch, inner, err := channelsOf(x.Shape())
	if err != nil {
		return err
	}
	if err := enoughOfChannel(batch*inner, x.Shape()); err != nil {
		return err
	}
	var in [3][]T
	for i := 1; i < 3; i++ {
		if in[i], err = perChannel[T](c, i, ch); err != nil {
			return err
		}
	}
	var y []T
	if c.Wants(0) {
		t, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
		if err != nil {
			return err
		}
		y = tensor.Data[T](t)
	}
	means, squares := normalizeBatch(c.Pool, channels{batch, ch, inner}, y, tensor.Data[T](x), in[1], in[2], float64(c.Node.Float("epsilon", 1e-5)))
	for k := range squares {
		squares[k] /= float64(batch*inner - 1)
	}
	if err := store(c, 1, means, ch); err != nil {
		return err
	}
	return store(c, 2, squares, ch)
}

func batchNormGrad[T kernel.Float](c *Ctx) error {
	n := c.Node
	x := c.In(1)
	if x == nil || !slices.Equal(c.In(0).Shape(), x.Shape()) {
		return fmt.Errorf("the gradient's shape is not the input's")
	}
	batch, ch, inner, err := batchChannels(n, x.Shape())
	if err != nil {
		return err
	}
	xs, err := floatsOf[T](c, 1)
	if err != nil {
		return err
	}
	scale, err := perChannel[T](c, 2, ch)
	if err != nil {
		return err
	}
	var stats [2][]float64
	if c.In(3) != nil {
		for i := range stats {
			if stats[i], err = perChannel[float64](c, 3+i, ch); err != nil {
				return err
			}
		}
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	dy, dx := tensor.Data[T](c.In(0)), tensor.Data[T](t)
	training := batchTraining(n)
	eps := float64(n.Float("epsilon", 1e-5))
	dscale, dbias := make([]T, ch), make([]T, ch)
	count := float64(max(1, batch*inner))
	s := channels{batch, ch, inner}
	s.forChannels(c.Pool, func(lo, hi int) {
		bufX, bufDY := buffer[T](s), buffer[T](s)
		for k := lo; k < hi; k++ {
			rx, rdy := channel(s, xs, k, bufX), channel(s, dy, k, bufDY)
			var mean, variance float64
			if stats[0] == nil {
				mean, variance = rx.moments()
				variance /= count
			} else if mean, variance = stats[0][k], stats[1][k]; training { // the unbiased one
				variance *= (count - 1) / count
			}
			inv := 1 / math.Sqrt(variance+eps)
			m := T(mean)
			var sum, dot float64
			for i := range rx.count {
				sum += float64(kernel.Sum(rdy.plane(i)))
				dot += float64(kernel.DotDeviations(rdy.plane(i), rx.plane(i), m))
			}
			dot = (dot - sum*(mean-float64(m))) * inv
			dscale[k], dbias[k] = T(dot), T(sum)
			// dx = w·(dy - mean of dy - (x - mean)·inv · mean of dy·(x - mean)·inv)
			w := float64(scale[k]) * inv
			var by, less float64
			if training {
				by, less = w*dot/count*inv, w*sum/count
			}
			to := rdy
			if bufDY == nil {
				to = channel(s, dx, k, nil)
			}
			for i := range rx.count {
				kernel.DeviationGrad(to.plane(i), rdy.plane(i), rx.plane(i), m, T(w), T(-by), T(-less))
			}
			putChannel(s, dx, k, bufDY)
		}
	})
	if err := store(c, 1, dscale, c.In(2).Shape()...); err != nil {
		return err
	}
	return store(c, 2, dbias, c.In(2).Shape()...)
}

func gradBatchNorm(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	if n.Domain == Internal && (n.Output(1) == nil || n.Output(2) == nil || slices.ContainsFunc(dy[1:], func(d *onnx.Value) bool { return d != nil })) {
		return nil, fmt.Errorf("the statistics of a batch must be outputs, and no part of a loss")
	}
	if slices.ContainsFunc(dy[1:], func(d *onnx.Value) bool { return d != nil }) {
		return gradBatchStatistics(g, n, dy)
	}
	attrs := []*onnx.Attribute{FloatAttr("epsilon", n.Float("epsilon", 1e-5)), IntAttr("training_mode", 1), IntAttr("spatial", 1)}
	in := []*onnx.Value{dy[0], n.Inputs[0], n.Inputs[1]}
	switch {
	case n.Domain == Internal:
		d := g.Internal("BatchNormalizationGrad", 3, append(in, n.Outputs[1], n.Outputs[2]), attrs...)
		return d, nil
	case !batchTraining(n):
		attrs[1].I = 0
		in = append(in, n.Inputs[3], n.Inputs[4])
	}
	if n.Since < 9 {
		attrs[2].I = n.Int("spatial", 1)
	}
	d := g.Internal("BatchNormalizationGrad", 3, in, attrs...)
	out := []*onnx.Value{d[0], d[1], d[2], nil, nil}
	if attrs[1].I == 0 {
		// y = scale·(x−mean)/√(var+eps) + bias: what mean and var get follows from dScale and dBias.
		mean, variance := n.Inputs[3], n.Inputs[4]
		scale := g.Op("CastLike", n.Inputs[1], variance)
		total := g.Add(variance, g.Like(variance, float64(n.Float("epsilon", 1e-5))))
		perStd := g.Div(scale, g.Op("Sqrt", total))
		out[3] = g.Op("CastLike", g.Neg(g.Mul(g.Op("CastLike", d[2], variance), perStd)), mean)
		dScale := g.Op("CastLike", d[1], variance)
		out[4] = g.Mul(g.Mul(dScale, g.Div(scale, total)), g.Like(variance, -0.5))
	}
	return out, nil
}

// gradBatchStatistics is the gradient of BatchNormalization whose running, or saved, mean and variance are used as well.
func gradBatchStatistics(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value { return g.batchNorm(n, in) })
}

// batchNorm is all outputs of a BatchNormalization over those inputs, by its arithmetic.
func (g *Grad) batchNorm(n *Node, in []*onnx.Value) []*onnx.Value {
	x, mean, variance := in[0], in[3], in[4]
	rank := int64(g.Rank(x))
	axes, around := []int64{0}, []int64{0}
	if n.Since >= 9 || n.Int("spatial", 1) != 0 {
		for a := int64(2); a < rank; a++ {
			axes, around = append(axes, a), append(around, a)
		}
	}
	if rank == 1 { // one channel
		around = nil
	}
	beside := func(v *onnx.Value) *onnx.Value { // a statistic, to stand beside x
		if around == nil {
			return v
		}
		if len(axes) == 1 && rank > 2 { // one for each element of an example
			return g.Op("Reshape", v, g.With("Concat", []*onnx.Attribute{IntAttr("axis", 0)}, g.Int64s(1), g.Op("Slice", g.Shape(x), g.Int64s(1), g.Int64s(math.MaxInt64), g.Int64s(0))))
		}
		return g.Op("Unsqueeze", v, g.Int64s(around...))
	}
	outs := []*onnx.Value{nil, mean, variance, mean, variance}
	if batchTraining(n) {
		like := func(v *onnx.Value) *onnx.Value { return g.ReshapeLike(g.Op("CastLike", v, mean), mean) }
		average := func(v *onnx.Value) *onnx.Value {
			return g.With("ReduceMean", []*onnx.Attribute{IntAttr("keepdims", 1)}, v, g.Int64s(axes...))
		}
		m := average(x)
		d := g.Sub(x, m)
		own, spread := like(m), like(average(g.Mul(d, d)))
		share := float64(n.Float("momentum", 0.9))
		toward := func(old, now *onnx.Value) *onnx.Value {
			return g.Add(g.Mul(old, g.Like(mean, share)), g.Mul(now, g.Like(mean, 1-share)))
		}
		outs = []*onnx.Value{nil, toward(mean, own), toward(variance, spread), own, spread}
		mean, variance = own, spread
	}
	perStd := g.Op("Reciprocal", g.Op("Sqrt", g.Add(variance, g.Like(variance, float64(n.Float("epsilon", 1e-5))))))
	asX := func(v *onnx.Value) *onnx.Value { return beside(g.Op("CastLike", v, x)) }
	outs[0] = g.Add(g.Mul(g.Mul(g.Sub(x, asX(mean)), asX(perStd)), asX(in[1])), asX(in[2]))
	return outs
}

// LayerNormalization and RMSNormalization

func inferLayerNorm(n *Node) ([]Info, error) {
	x := n.In[0]
	x = x.WithoutValue()
	stat := Unranked(statType(n))
	if x.Ranked {
		axis, err := n.Axis("axis", -1, len(x.Shape))
		if err != nil {
			return nil, err
		}
		stat.Ranked = true
		for i, d := range x.Shape {
			if i >= axis {
				d = D(1)
			}
			stat.Shape = append(stat.Shape, d)
		}
		for i := 1; i < 3; i++ {
			if p := n.Info(i); p.Ranked {
				s, err := BroadcastDims(x.Shape, p.Shape)
				if err != nil || len(s) != len(x.Shape) {
					return nil, fmt.Errorf("input %d of %v does not broadcast to %v", i, p.Shape, x.Shape)
				}
			}
		}
	}
	return []Info{x, stat, stat}[:max(1, len(n.Outputs))], nil
}

// statType is the type of LayerNormalization's statistics.
func statType(n *Node) tensor.DType {
	switch d := tensor.DType(n.Int("stash_type", int64(tensor.Float32))); d {
	case tensor.BFloat16, tensor.Float16, tensor.Float64:
		return d
	}
	return tensor.Float32
}

// broadcastTo is t's elements under the broadcast to shape; t's own where nothing changes.
func broadcastTo[T kernel.Float](c *Ctx, v []T, from, shape []int) ([]T, error) {
	if len(from) > len(shape) {
		return nil, fmt.Errorf("%v does not broadcast to %v", from, shape)
	}
	off, same := len(shape)-len(from), true
	for i, d := range shape {
		if i < off {
			same = same && d == 1
		} else if f := from[i-off]; f != d {
			if same = false; f != 1 {
				return nil, fmt.Errorf("%v does not broadcast to %v", from, shape)
			}
		}
	}
	if same {
		return v, nil
	}
	size, err := tensor.ByteSize(tensor.TypeOf[T](), shape)
	if err == nil {
		err = c.Mem.Take(int64(size))
	}
	if err != nil {
		return nil, err
	}
	out := make([]T, product(shape))
	for i := range out {
		at, step, rest := 0, 1, i
		for k := len(shape) - 1; k >= off; k-- {
			j := rest % shape[k]
			rest /= shape[k]
			if from[k-off] != 1 {
				at += j * step
			}
			step *= from[k-off]
		}
		out[i] = v[at]
	}
	return out, nil
}

// layerParam is input i broadcast to a row, or, if its shape says so, to all of x (whole).
func layerParam[T kernel.Float](c *Ctx, i, axis int, xs []int) (v []T, whole bool, err error) {
	t := c.In(i)
	if t == nil {
		return nil, false, nil
	}
	if v, err = floatsOf[T](c, i); err != nil {
		return nil, false, err
	}
	from := t.Shape()
	for len(from) > len(xs)-axis && from[0] == 1 {
		from = from[1:]
	}
	if len(from) <= len(xs)-axis {
		v, err = broadcastTo(c, v, from, xs[axis:])
		return v, false, err
	}
	v, err = broadcastTo(c, v, from, xs)
	return v, true, err
}

// normRow writes (x-mean)·inv to y, or x·inv by the root of the mean square if rms.
func normRow[T kernel.Float](y, x []T, eps T, rms bool) (mean, inv T) {
	mean, inv = kernel.RowStatistics(x, eps, rms)
	kernel.NormalizeRow(y, x, nil, nil, mean, inv)
	return mean, inv
}

func compileLayerNorm(rms bool) func(*Node) (Kernel, error) {
	return func(n *Node) (Kernel, error) {
		k := Table{
			tensor.Float32: func(c *Ctx) error { return layerNorm[float32](c, rms) },
			tensor.Float64: func(c *Ctx) error { return layerNorm[float64](c, rms) },
		}.By(0)
		return func(c *Ctx) error {
			x := c.In(0)
			if x == nil {
				return fmt.Errorf("input 0 is not a tensor")
			}
			axis, err := c.Node.Axis("axis", -1, x.Rank())
			if err != nil {
				return err
			}
			// The statistics have their own type, whatever x's: they are made here.
			for i := 1; i < 3; i++ {
				if c.Wants(i) {
					stat := slices.Clone(x.Shape())
					for k := axis; k < len(stat); k++ {
						stat[k] = 1
					}
					if _, err := c.Alloc(i, statType(c.Node), stat...); err != nil {
						return err
					}
				}
			}
			return k(c)
		}, nil
	}
}

// layerRows are the rows of a layer normalization; scale and bias are of one row, or of all if they are whole.
type layerRows[T kernel.Float] struct {
	ys, xs, scale, bias, means, invs []T
	scaleWhole, biasWhole            bool
	size                             int
	eps                              T
	rms                              bool
}

// Part normalizes the rows [lo, hi).
func (l layerRows[T]) Part(lo, hi int) {
	for r := lo; r < hi; r++ {
		y, x := l.ys[r*l.size:(r+1)*l.size], l.xs[r*l.size:(r+1)*l.size]
		mean, inv := kernel.RowStatistics(x, l.eps, l.rms)
		if l.means != nil {
			l.means[r], l.invs[r] = mean, inv
		}
		scale, bias := l.scale, l.bias
		if l.scaleWhole {
			scale = scale[r*l.size:][:l.size]
		}
		if l.biasWhole {
			bias = bias[r*l.size:][:l.size]
		}
		kernel.NormalizeRow(y, x, scale, bias, mean, inv)
	}
}

func layerNorm[T kernel.Float](c *Ctx, rms bool) error {
	x := c.In(0)
	shape := x.Shape()
	axis, err := c.Node.Axis("axis", -1, len(shape))
	if err != nil {
		return err
	}
	rows, size := product(shape[:axis]), product(shape[axis:])
	scale, scaleWhole, err := layerParam[T](c, 1, axis, shape)
	if err != nil {
		return err
	}
	bias, biasWhole, err := layerParam[T](c, 2, axis, shape)
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
	if err != nil {
		return err
	}
	eps := T(c.Node.Float("epsilon", 1e-5))
	xs, ys := tensor.Data[T](x), tensor.Data[T](t)
	var means, invs []T
	if c.Wants(1) || c.Wants(2) {
		if err := c.Mem.TakeEach(16, rows); err != nil { // rows of nothing may be many
			return err
		}
		means, invs = make([]T, rows), make([]T, rows)
	}
	if size > 0 {
		kernel.InParts(c.Pool, rows, 1+8192/size, layerRows[T]{ys, xs, scale, bias, means, invs, scaleWhole, biasWhole, size, eps, rms})
	}
	if means != nil {
		stat := append([]int{}, shape...)
		for i := axis; i < len(stat); i++ {
			stat[i] = 1
		}
		if err := store(c, 1, means, stat...); err != nil {
			return err
		}
		return store(c, 2, invs, stat...)
	}
	return nil
}

func inferLayerNormGrad(n *Node) ([]Info, error) {
	x, p := n.In[1], Unranked(n.In[2].DType)
	x = x.WithoutValue()
	if x.Ranked {
		axis, err := n.Axis("axis", -1, len(x.Shape))
		if err != nil {
			return nil, err
		}
		p = Tensor(p.DType, x.Shape[axis:]...)
	}
	return []Info{x, p, p}, nil
}

// gradRow writes to dx the gradient of a row from g, that of its normalized elements, and xhat,
// those elements.
func gradRow[T kernel.Float](dx, g, xhat []T, inv T, rms bool) {
	count := T(len(g))
	md := kernel.Dot(g, xhat) / count
	var ms T
	if !rms {
		ms = kernel.Sum(g) / count
	}
	kernel.DeviationGrad(dx, g, xhat, 0, inv, -inv*md, -inv*ms)
}

func layerNormGrad[T kernel.Float](c *Ctx) error {
	x := c.In(1)
	if x == nil || !slices.Equal(c.In(0).Shape(), x.Shape()) {
		return fmt.Errorf("the gradient's shape is not the input's")
	}
	shape := x.Shape()
	axis, err := c.Node.Axis("axis", -1, len(shape))
	if err != nil {
		return err
	}
	rows, size := product(shape[:axis]), product(shape[axis:])
	xs, err := floatsOf[T](c, 1)
	if err != nil {
		return err
	}
	scale, whole, err := layerParam[T](c, 2, axis, shape)
	if err != nil {
		return err
	}
	if whole {
		return fmt.Errorf("the gradient of a scale of %v over an input of %v is not supported", c.In(2).Shape(), shape)
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
	if err != nil {
		return err
	}
	rms := c.Node.Int("rms", 0) != 0
	eps := T(c.Node.Float("epsilon", 1e-5))
	dy, dx := tensor.Data[T](c.In(0)), tensor.Data[T](t)
	// Sums over rows go by a fixed number of parts, so that they do not hang on the workers.
	parts := min(16, max(1, rows))
	if err := c.Mem.TakeEach(16*parts, size); err != nil {
		return err
	}
	dscale, dbias := make([]T, parts*size), make([]T, parts*size)
	if size > 0 {
		c.Pool.For(parts, 1, func(lo, hi int) {
			for part := lo; part < hi; part++ {
				ds, db := dscale[part*size:(part+1)*size], dbias[part*size:(part+1)*size]
				for r := part * rows / parts; r < (part+1)*rows/parts; r++ {
					g, x := dy[r*size:(r+1)*size], xs[r*size:(r+1)*size]
					mean, inv := kernel.RowStatistics(x, eps, rms)
					dot, sum := kernel.NormalizedSums(ds, db, g, x, scale[:size], mean, inv)
					if rms {
						sum = 0
					}
					kernel.ScaledDeviationGrad(dx[r*size:(r+1)*size], g, x, scale[:size], mean, inv, -inv*inv*dot/T(size), -inv*sum/T(size))
				}
			}
		})
		for part := 1; part < parts; part++ {
			kernel.Add(dscale[:size], dscale[:size], dscale[part*size:(part+1)*size])
			kernel.Add(dbias[:size], dbias[:size], dbias[part*size:(part+1)*size])
		}
	}
	if err := store(c, 1, dscale[:size], shape[axis:]...); err != nil {
		return err
	}
	return store(c, 2, dbias[:size], shape[axis:]...)
}

func gradLayerNorm(rms bool) func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
		if slices.ContainsFunc(dy[1:], func(d *onnx.Value) bool { return d != nil }) {
			return gradLayerStatistics(g, n, dy)
		}
		attrs := []*onnx.Attribute{FloatAttr("epsilon", n.Float("epsilon", 1e-5)), IntAttr("axis", n.Int("axis", -1)), IntAttr("rms", 0)}
		if rms {
			attrs[2].I = 1
		}
		d := g.Internal("LayerNormalizationGrad", 3, []*onnx.Value{dy[0], n.Inputs[0], n.Inputs[1]}, attrs...)
		out := []*onnx.Value{d[0], g.SumTo(d[1], n.Inputs[1]), nil}
		if n.Has(2) {
			out[2] = g.SumTo(d[2], n.Inputs[2])
		}
		return out[:len(n.Inputs)], nil
	}
}

// gradLayerStatistics is the gradient of LayerNormalization whose mean and inverse deviation are used as well.
func gradLayerStatistics(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		wide := tensor.DType(n.Int("stash_type", int64(tensor.Float32)))
		own := g.DType(in[0])
		if own == tensor.Float64 {
			wide = own
		}
		cast := func(v *onnx.Value, d tensor.DType) *onnx.Value {
			return g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(d))}, v)
		}
		rank := int64(g.Rank(in[0]))
		var axes []int64
		for a := (n.Int("axis", -1) + rank) % max(rank, 1); a < rank; a++ {
			axes = append(axes, a)
		}
		mean := func(v *onnx.Value) *onnx.Value {
			return g.With("ReduceMean", []*onnx.Attribute{IntAttr("keepdims", 1)}, v, g.Int64s(axes...))
		}
		x := cast(in[0], wide)
		m := mean(x)
		d := g.Sub(x, m)
		inv := g.Op("Reciprocal", g.Op("Sqrt", g.Add(mean(g.Mul(d, d)), g.Like(x, float64(n.Float("epsilon", 1e-5))))))
		y := g.Mul(cast(g.Mul(d, inv), own), in[1])
		if n.Has(2) {
			y = g.Add(y, in[2])
		}
		outs := []*onnx.Value{y, m, inv}
		for i, o := range n.Outputs[1:] {
			if o != nil {
				outs[1+i] = cast(outs[1+i], g.DType(o))
			}
		}
		return outs
	})
}

// InstanceNormalization and GroupNormalization

// groupShape is the rows of x: groups for each of batch examples, of chans channels of
// inner elements; wide if scale and bias are for groups, not channels.
type groupShape struct {
	batch, groups, chans, inner int
	wide                        bool
}

func groupsOf(n *Node, xs []int) (s groupShape, err error) {
	if len(xs) < 2 {
		return s, fmt.Errorf("an input of %v has no channels", xs)
	}
	s = groupShape{batch: xs[0], groups: xs[1], chans: 1, inner: product(xs[2:])}
	if n.Op == "InstanceNormalization" || n.Domain == Internal && n.Int("num_groups", 0) == 0 {
		return s, nil
	}
	groups := n.Int("num_groups", 0)
	if groups < 1 || groups > maxWindow || xs[1]%int(groups) != 0 {
		return s, fmt.Errorf("%d channels do not divide into %d groups", xs[1], groups)
	}
	s.groups, s.chans = int(groups), xs[1]/int(groups)
	s.wide = n.Domain != Internal && n.Since < 21 || n.Domain == Internal && n.Int("per_group", 0) != 0
	return s, nil
}

// params is the number of elements of scale and bias.
func (s groupShape) params() int {
	if s.wide {
		return s.groups
	}
	return s.groups * s.chans
}

// param is the element of scale and bias for channel k of row r.
func (s groupShape) param(r, k int) int {
	if s.wide {
		return r % s.groups
	}
	return r%s.groups*s.chans + k
}

func groupNorm[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	s, err := groupsOf(c.Node, x.Shape())
	if err != nil {
		return err
	}
	scale, err := perChannel[T](c, 1, s.params())
	if err != nil {
		return err
	}
	bias, err := perChannel[T](c, 2, s.params())
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	xs, ys := tensor.Data[T](x), tensor.Data[T](t)
	eps := T(c.Node.Float("epsilon", 1e-5))
	size := s.chans * s.inner
	if size == 0 {
		return nil
	}
	c.Pool.For(s.batch*s.groups, 1+8192/size, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			y := ys[r*size : (r+1)*size]
			normRow(y, xs[r*size:(r+1)*size], eps, false)
			for k := range s.chans {
				at := s.param(r, k)
				kernel.Affine(y[k*s.inner:(k+1)*s.inner], y[k*s.inner:(k+1)*s.inner], scale[at], bias[at])
			}
		}
	})
	return nil
}

func groupNormGrad[T kernel.Float](c *Ctx) error {
	x := c.In(1)
	if x == nil || !slices.Equal(c.In(0).Shape(), x.Shape()) {
		return fmt.Errorf("the gradient's shape is not the input's")
	}
	s, err := groupsOf(c.Node, x.Shape())
	if err != nil {
		return err
	}
	xs, err := floatsOf[T](c, 1)
	if err != nil {
		return err
	}
	scale, err := perChannel[T](c, 2, s.params())
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	dy, dx := tensor.Data[T](c.In(0)), tensor.Data[T](t)
	eps := T(c.Node.Float("epsilon", 1e-5))
	size, rows := s.chans*s.inner, s.batch*s.groups
	var ds, db []T
	if len(xs) == 0 { // there may be any number of rows of nothing, or of channels without any
		rows = 0
	} else {
		ds, db = make([]T, rows*s.chans), make([]T, rows*s.chans)
		c.Pool.For(rows, 1+4096/size, func(lo, hi int) {
			xhat, gs := make([]T, size), make([]T, size)
			for r := lo; r < hi; r++ {
				_, inv := normRow(xhat, xs[r*size:(r+1)*size], eps, false)
				for k := range s.chans {
					a, b := k*s.inner, (k+1)*s.inner
					g := dy[r*size+a : r*size+b]
					ds[r*s.chans+k], db[r*s.chans+k] = kernel.Dot(g, xhat[a:b]), kernel.Sum(g)
					kernel.Scale(gs[a:b], g, scale[s.param(r, k)])
				}
				gradRow(dx[r*size:(r+1)*size], gs, xhat, inv, false)
			}
		})
	}
	dscale, dbias := make([]T, s.params()), make([]T, s.params())
	for r := range rows {
		for k := range s.chans {
			at := s.param(r, k)
			dscale[at] += ds[r*s.chans+k]
			dbias[at] += db[r*s.chans+k]
		}
	}
	if err := store(c, 1, dscale, c.In(2).Shape()...); err != nil {
		return err
	}
	return store(c, 2, dbias, c.In(2).Shape()...)
}

func gradGroupNorm(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	attrs := []*onnx.Attribute{FloatAttr("epsilon", n.Float("epsilon", 1e-5)), IntAttr("num_groups", 0), IntAttr("per_group", 0)}
	if n.Op == "GroupNormalization" {
		attrs[1].I = n.Int("num_groups", 0)
		if n.Since < 21 {
			attrs[2].I = 1
		}
	}
	return g.Internal("GroupNormalizationGrad", 3, []*onnx.Value{dy[0], n.Inputs[0], n.Inputs[1]}, attrs...), nil
}

// The rest

func lrn[T kernel.Float](c *Ctx) error {
	n, x := c.Node, c.In(0)
	xs := x.Shape()
	size := n.Int("size", 0)
	if len(xs) < 2 || size < 1 || size > maxWindow {
		return fmt.Errorf("size %d does not suit an input of %v", size, xs)
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return err
	}
	ch, inner := xs[1], product(xs[2:])
	alpha, beta, bias := float64(n.Float("alpha", 1e-4)), float64(n.Float("beta", 0.75)), float64(n.Float("bias", 1))
	before := int(size-1) / 2
	after := int(size-1) - before
	in, out := tensor.Data[T](x), tensor.Data[T](t)
	c.Pool.For(xs[0]*ch, 1+1024/max(1, inner), func(lo, hi int) {
		sum := make([]T, inner)
		for i := lo; i < hi; i++ {
			clear(sum)
			k := i % ch
			for j := max(0, k-before); j <= min(ch-1, k+after); j++ {
				for e, v := range in[(i-k+j)*inner : (i-k+j+1)*inner] {
					sum[e] += v * v
				}
			}
			for e, v := range in[i*inner : (i+1)*inner] {
				out[i*inner+e] = T(float64(v) / math.Pow(bias+alpha/float64(size)*float64(sum[e]), beta))
			}
		}
	})
	return nil
}

func lpNormalize[T kernel.Float](c *Ctx) error {
	n, x := c.Node, c.In(0)
	xs := x.Shape()
	axis, err := n.Axis("axis", -1, len(xs))
	if err != nil {
		return err
	}
	p := n.Int("p", 2)
	if p != 1 && p != 2 {
		return fmt.Errorf("p is %d, but must be 1 or 2", p)
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return err
	}
	in, out := tensor.Data[T](x), tensor.Data[T](t)
	d, inner := xs[axis], product(xs[axis+1:])
	c.Pool.For(product(xs[:axis])*inner, 1+4096/max(1, d), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			at := i/inner*d*inner + i%inner
			var sum float64
			for k := range d {
				sum += powAbs(float64(in[at+k*inner]), float64(p))
			}
			if sum = rootOf(sum, float64(p)); sum == 0 {
				sum = 1 // all are zero, and stay so
			}
			for k := range d {
				out[at+k*inner] = T(float64(in[at+k*inner]) / sum)
			}
		}
	})
	return nil
}

// gradLpNormalization differentiates x over its norm. Where all is zero, and so is the answer, the norm counts as 1.
func gradLpNormalization(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		norm := g.With(map[bool]string{true: "ReduceL1", false: "ReduceL2"}[n.Int("p", 2) == 1], nil, in[0], g.Int64s(n.Int("axis", -1)))
		return []*onnx.Value{g.Div(in[0], g.Op("Where", g.Op("Equal", norm, g.Like(norm, 0)), g.Like(norm, 1), norm))}
	})
}

// gradLRN differentiates x·(bias + alpha/size·Σx²)^-beta, where the sum over neighbouring channels is a mean over windows of size, of a plane in
// which the channels are rows.
func gradLRN(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	size := n.Int("size", 0)
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		x := in[0]
		plane := g.Op("Reshape", g.Op("Unsqueeze", g.Mul(x, x), g.Int64s(1)), g.Int64s(0, 0, 0, -1))
		mean := g.With("AveragePool", []*onnx.Attribute{IntsAttr("kernel_shape", size, 1), IntsAttr("pads", (size-1)/2, 0, size/2, 0),
			IntAttr("count_include_pad", 1)}, plane)
		mean = g.ReshapeLike(mean, x)
		base := g.Add(g.Mul(mean, g.Like(x, float64(n.Float("alpha", 1e-4)))), g.Like(x, float64(n.Float("bias", 1))))
		return []*onnx.Value{g.Mul(x, g.Op("Pow", base, g.Like(x, -float64(n.Float("beta", 0.75)))))}
	})
}

// gradMeanVariance differentiates (x-E[x]) / (√(E[x²]-E[x]²) + 1e-9).
func gradMeanVariance(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	axes := n.Ints("axes", []int64{0, 2, 3})
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		mean := func(v *onnx.Value) *onnx.Value { return g.Op("ReduceMean", v, g.Int64s(axes...)) }
		centred := g.Sub(in[0], mean(in[0]))
		deviation := g.Op("Sqrt", mean(g.Mul(centred, centred)))
		return []*onnx.Value{g.Div(centred, g.Add(deviation, g.Like(deviation, 1e-9)))}
	})
}

func meanVariance[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	xs := x.Shape()
	axes, err := NormAxes(c.Node.Ints("axes", []int64{0, 2, 3}), len(xs))
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), xs...)
	if err != nil {
		return err
	}
	in, out := tensor.Data[T](x), tensor.Data[T](t)
	if len(in) == 0 {
		return nil
	}
	steps := make([]int, len(xs)) // of each axis in the statistics
	for i := range steps {
		steps[i] = 1
	}
	for _, a := range axes {
		steps[a] = 0
	}
	groups := 1
	for i := len(xs) - 1; i >= 0; i-- {
		if steps[i] != 0 {
			steps[i] = groups
			groups *= xs[i]
		}
	}
	group := func(i int) int {
		at := 0
		for k := len(xs) - 1; k >= 0; k-- {
			at += i % xs[k] * steps[k]
			i /= xs[k]
		}
		return at
	}
	count := float64(len(in) / groups)
	mean, variance := make([]float64, groups), make([]float64, groups)
	for i, v := range in {
		mean[group(i)] += float64(v) / count
	}
	for i, v := range in {
		k := group(i)
		d := float64(v) - mean[k]
		variance[k] += d * d / count
	}
	c.Pool.For(len(in), 4096, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			k := group(i)
			out[i] = T((float64(in[i]) - mean[k]) / (math.Sqrt(variance[k]) + 1e-9))
		}
	})
	return nil
}

// The gradients in standard operators

// axesFrom is the axes in [lo, hi).
func axesFrom(lo, hi int) []int64 {
	axes := []int64{}
	for a := lo; a < hi; a++ {
		axes = append(axes, int64(a))
	}
	return axes
}

// channelAxes is the axes of a tensor of that rank that a batch norm goes over, and the shape in which a list of one number for each channel
// stands beside it.
func channelAxes(rank int) (axes, view []int64) {
	axes, view = append([]int64{0}, axesFrom(2, rank)...), []int64{1, -1}
	for range axes[1:] {
		view = append(view, 1)
	}
	if rank == 1 { // one channel
		view = []int64{1}
	}
	return axes, view
}

// normWide is the element type in which norms of v's are computed.
func (g *Grad) normWide(v *onnx.Value) tensor.DType {
	if g.DType(v) == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

// inverseStd is 1/√(variance+eps).
func (g *Grad) inverseStd(variance *onnx.Value, eps float32) *onnx.Value {
	return g.Op("Reciprocal", g.Op("Sqrt", g.Add(variance, g.Like(variance, float64(eps)))))
}

// throughNorm is the gradient by x of (x-mean)·inv, where both are x's own over axes: mean only if centered.
func (g *Grad) throughNorm(dy, xhat, inv *onnx.Value, centered bool, axes []int64) *onnx.Value {
	d := g.Sub(dy, g.Mul(xhat, g.ReduceMean(g.Mul(dy, xhat), axes...)))
	if centered {
		d = g.Sub(d, g.ReduceMean(dy, axes...))
	}
	return g.Mul(inv, d)
}

func portableTrainingBatchNorm(g *Grad, n *Node) ([]*onnx.Value, error) {
	x, wide := n.Inputs[0], g.normWide(n.Inputs[0])
	axes, view := channelAxes(g.Rank(x))
	param := func(i int) *onnx.Value { return g.Reshape(g.Cast(n.Inputs[i], wide), g.Int64s(view...)) }
	moments := func(x *onnx.Value) (mean, deviation, squares *onnx.Value) {
		mean = g.ReduceMean(x, axes...)
		deviation = g.Sub(x, mean)
		return mean, deviation, g.Mul(deviation, deviation)
	}
	_, d, squares := moments(g.Cast(x, wide))
	y := g.Mul(d, g.inverseStd(g.ReduceMean(squares, axes...), n.Float("epsilon", 1e-5)))
	out := []*onnx.Value{g.Cast(g.Add(g.Mul(y, param(1)), param(2)), g.DType(x))}
	if len(n.Outputs) > 1 {
		mean, _, squares := moments(g.Cast(x, tensor.Float64))
		sums := g.With("ReduceSum", []*onnx.Attribute{IntAttr("keepdims", 0)}, squares, g.Int64s(axes...))
		count := g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 0)}, g.Dims(x, axes...))
		out = append(out, g.Flat(mean), g.Flat(g.Div(sums, g.Cast(g.Sub(count, g.Const(tensor.Scalar(int64(1)))), tensor.Float64))))
	}
	return out, nil
}

func portableBatchNormGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	wide := g.normWide(n.Inputs[1])
	dy, x := g.Cast(n.Inputs[0], wide), g.Cast(n.Inputs[1], wide)
	axes, view := channelAxes(g.Rank(n.Inputs[1]))
	shape := g.Int64s(view...)
	if n.Int("spatial", 1) == 0 {
		axes, shape = []int64{0}, g.Concat(g.Int64s(1), g.Tail(g.Shape(x), 1))
	}
	param := func(i int) *onnx.Value { return g.Reshape(g.Cast(n.Inputs[i], wide), shape) }
	scale, training := param(2), batchTraining(n)
	var mean, variance *onnx.Value
	if training {
		mean = g.ReduceMean(x, axes...)
		d := g.Sub(x, mean)
		variance = g.ReduceMean(g.Mul(d, d), axes...)
	} else if !n.Has(3) || !n.Has(4) {
		return nil, fmt.Errorf("the statistics are left out")
	} else {
		mean, variance = param(3), param(4)
	}
	inv := g.inverseStd(variance, n.Float("epsilon", 1e-5))
	xhat := g.Mul(g.Sub(x, mean), inv)
	dx := g.Mul(dy, scale)
	if training {
		dx = g.throughNorm(dx, xhat, inv, true, axes)
	} else {
		dx = g.Mul(dx, inv)
	}
	of := func(v *onnx.Value) *onnx.Value {
		return g.Cast(g.ReshapeLike(g.ReduceSum(v, true, axes...), n.Inputs[2]), g.DType(n.Inputs[2]))
	}
	return []*onnx.Value{g.Cast(dx, g.DType(n.Inputs[1])), of(g.Mul(dy, xhat)), of(dy)}, nil
}

func portableLayerNormGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	wide, rank := g.normWide(n.Inputs[1]), g.Rank(n.Inputs[1])
	axis, err := n.Axis("axis", -1, rank)
	if err != nil {
		return nil, err
	}
	if g.Rank(n.Inputs[2]) > rank-axis {
		return nil, fmt.Errorf("the gradient of a scale of %d axes over %d is not supported", g.Rank(n.Inputs[2]), rank-axis)
	}
	dy, x, scale := g.Cast(n.Inputs[0], wide), g.Cast(n.Inputs[1], wide), g.Cast(n.Inputs[2], wide)
	axes, centered, d := axesFrom(axis, rank), n.Int("rms", 0) == 0, x
	if centered {
		d = g.Sub(x, g.ReduceMean(x, axes...))
	}
	inv := g.inverseStd(g.ReduceMean(g.Mul(d, d), axes...), n.Float("epsilon", 1e-5))
	xhat := g.Mul(d, inv)
	of := func(v *onnx.Value) *onnx.Value {
		if axis > 0 {
			v = g.ReduceSum(v, false, axesFrom(0, axis)...)
		}
		return g.Cast(v, g.DType(n.Inputs[1]))
	}
	dx := g.throughNorm(g.Mul(dy, scale), xhat, inv, centered, axes)
	return []*onnx.Value{g.Cast(dx, g.DType(n.Inputs[1])), of(g.Mul(dy, xhat)), of(dy)}, nil
}

func portableGroupNormGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	wide, groups := g.normWide(n.Inputs[1]), g.Int64s(n.Int("num_groups", 0))
	shape := g.Shape(n.Inputs[1])
	channels := g.Dims(n.Inputs[1], 1)
	if n.Int("num_groups", 0) == 0 { // each channel is one
		groups = channels
	}
	rows := g.Concat(g.Dims(n.Inputs[1], 0), groups, g.Op("Div", channels, groups), g.Int64s(-1))
	dy, x := g.Op("Reshape", g.Cast(n.Inputs[0], wide), rows), g.Op("Reshape", g.Cast(n.Inputs[1], wide), rows)
	view, sums := g.Concat(g.Int64s(1), groups, g.Op("Div", channels, groups), g.Int64s(1)), []int64{0, 3}
	if n.Int("per_group", 0) != 0 {
		view, sums = g.Concat(g.Int64s(1), groups, g.Int64s(1, 1)), []int64{0, 2, 3}
	}
	scale := g.Op("Reshape", g.Cast(n.Inputs[2], wide), view)
	d := g.Sub(x, g.ReduceMean(x, 2, 3))
	inv := g.inverseStd(g.ReduceMean(g.Mul(d, d), 2, 3), n.Float("epsilon", 1e-5))
	xhat := g.Mul(d, inv)
	of := func(v *onnx.Value) *onnx.Value {
		return g.Cast(g.ReshapeLike(g.ReduceSum(v, false, sums...), n.Inputs[2]), g.DType(n.Inputs[2]))
	}
	dx := g.Reshape(g.throughNorm(g.Mul(dy, scale), xhat, inv, true, []int64{2, 3}), shape)
	return []*onnx.Value{g.Cast(dx, g.DType(n.Inputs[1])), of(g.Mul(dy, xhat)), of(dy)}, nil
}
