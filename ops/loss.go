package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// CrossEntropy is torch.nn.functional.cross_entropy with reduction "mean": logits, targets (class
// indices, int64 or int32) and, optionally, a weight for each class. The class axis is the last if the
// targets have the logits' shape without it, else axis 1. Attributes: ignore_index,
// label_smoothing, and log_probs if the "logits" are
// log-probabilities already (torch.nn.functional.nll_loss). CrossEntropyGrad takes the loss's gradient first.
func init() {
	types := []TypeSet{Floats, Index, Floats}
	register(
		Op{Domain: Internal, Name: "CrossEntropy", Since: []int{1}, MinIn: 2, MaxIn: 3, Types: types,
			Infer: func(n *Node) ([]Info, error) { return []Info{Tensor(n.In[0].DType)}, nil },
			Compile: func(n *Node) (Kernel, error) {
				s := lossSpec{n.Int("ignore_index", -100), float64(n.Float("label_smoothing", 0)), n.Int("log_probs", 0) != 0}
				return Table{
					tensor.Float32: func(c *Ctx) error { return crossEntropy[float32](c, 0, s) },
					tensor.Float64: func(c *Ctx) error { return crossEntropy[float64](c, 0, s) },
				}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				in := append([]*onnx.Value{dy[0]}, n.Inputs...)
				return []*onnx.Value{g.Internal("CrossEntropyGrad", 1, in, n.Attrs...)[0], nil, nil}, nil
			}},
		Op{Domain: Internal, Name: "CrossEntropyGrad", Since: []int{1}, MinIn: 3, MaxIn: 4, Types: append([]TypeSet{Floats}, types...),
			Infer: SameAs(1),
			Compile: func(n *Node) (Kernel, error) {
				s := lossSpec{n.Int("ignore_index", -100), float64(n.Float("label_smoothing", 0)), n.Int("log_probs", 0) != 0}
				return Table{
					tensor.Float32: func(c *Ctx) error { return crossEntropy[float32](c, 1, s) },
					tensor.Float64: func(c *Ctx) error { return crossEntropy[float64](c, 1, s) },
				}.By(0), nil
			},
			NoGrad: "it is a gradient itself"},
	)
}

type lossSpec struct {
	ignore   int64
	smooth   float64
	logProbs bool
}

// crossEntropy computes the loss (at 0) or its gradient (at 1, when input 0 is the loss's gradient).
func crossEntropy[T kernel.Float](c *Ctx, at int, s lossSpec) error {
	ignore, smooth := s.ignore, s.smooth
	tl, tt := c.In(at), c.In(at+1)
	logits := tensor.Data[T](tl)
	target, err := tt.Int64s()
	if err != nil {
		return err
	}
	shape := tl.Shape()
	rank := len(shape)
	if rank == 0 || tt.Rank() != rank-1 {
		return fmt.Errorf("cross entropy: targets of %v do not suit logits of %v", tt.Shape(), shape)
	}
	axis := rank - 1
	if !slices.Equal(shape[:axis], tt.Shape()) {
		axis = min(1, rank-1)
		if !slices.Equal(append(slices.Clone(shape[:axis]), shape[axis+1:]...), tt.Shape()) {
			return fmt.Errorf("cross entropy: targets of %v do not suit logits of %v", tt.Shape(), shape)
		}
	}
	classes, inner := shape[axis], 1
	for _, d := range shape[axis+1:] {
		inner *= d
	}
	var weights []T
	if w := c.In(at + 2); w != nil {
		if weights = tensor.Data[T](w); len(weights) != classes {
			return fmt.Errorf("cross entropy: %d class weights for %d classes", len(weights), classes)
		}
	}
	weight := func(k int) float64 {
		if weights == nil {
			return 1
		}
		return float64(weights[k])
	}
	var sum, norm, smoothSum float64
	for i, k := range target {
		if k == ignore {
			continue
		}
		if k < 0 || k >= int64(classes) {
			return fmt.Errorf("cross entropy: target %d at %d is outside the %d classes", k, i, classes)
		}
		norm += weight(int(k))
	}
	var grad []T
	scale := 0.0
	if at == 1 {
		grad = tensor.Data[T](c.Out(0))
		clear(grad)
		scale = float64(tensor.Data[T](c.In(0))[0]) / norm
	}
	row, logp := make([]T, classes), make([]T, classes)
	for i, k := range target {
		if k == ignore {
			continue
		}
		base := i/inner*classes*inner + i%inner
		for j := range row {
			row[j] = logits[base+j*inner]
		}
		if s.logProbs {
			copy(logp, row)
		} else {
			kernel.LogSoftmaxRow(logp, row)
		}
		if at == 0 {
			sum -= weight(int(k)) * float64(logp[k])
			if smooth > 0 {
				for j, v := range logp {
					smoothSum -= weight(j) * float64(v)
				}
			}
			continue
		}
		total := (1 - smooth) * weight(int(k))
		if smooth > 0 {
			for j := range classes {
				total += smooth / float64(classes) * weight(j)
			}
		}
		for j, v := range logp {
			d := 0.0
			if !s.logProbs { // through the softmax
				d = total * math.Exp(float64(v))
			}
			if smooth > 0 {
				d -= smooth / float64(classes) * weight(j)
			}
			if j == int(k) {
				d -= (1 - smooth) * weight(j)
			}
			grad[base+j*inner] = T(d * scale)
		}
	}
	if at == 0 {
		tensor.Data[T](c.Out(0))[0] = T(((1-smooth)*sum + smooth/float64(classes)*smoothSum) / norm)
	}
	return nil
}
