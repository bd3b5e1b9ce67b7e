package ops

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Random draws. As with Dropout, a seed fixes the draws of a kernel's first run, and later runs go on from there.
func init() {
	shaped := func(name string, draw func(n *Node) func(r *rand.Rand) float64) Op {
		return Op{Name: name, Since: []int{1, 22}, MinIn: 0, Impure: true, NoGrad: "random draws hang on no input",
			Infer: func(n *Node) ([]Info, error) {
				d, err := drawnType(n, tensor.Float32, Floats)
				if err != nil {
					return nil, err
				}
				dims, err := dimsOf(numbers(n.Ints("shape", nil)))
				return []Info{Tensor(d, dims...)}, err
			}, Compile: compileDraws(draw)}
	}
	like := func(name string, draw func(n *Node) func(r *rand.Rand) float64) Op {
		return Op{Name: name, Since: []int{1, 22}, MinIn: 1, Impure: true, NoGrad: "random draws hang on no input's values", Flat: true,
			Infer: func(n *Node) ([]Info, error) { return inferDrawnLike(n, Floats) }, Compile: compileDraws(draw)}
	}
	normal := func(n *Node) func(r *rand.Rand) float64 {
		mean, scale := float64(n.Float("mean", 0)), float64(n.Float("scale", 1))
		return func(r *rand.Rand) float64 { return mean + scale*r.NormFloat64() }
	}
	uniform := func(n *Node) func(r *rand.Rand) float64 {
		low, high := float64(n.Float("low", 0)), float64(n.Float("high", 1))
		return func(r *rand.Rand) float64 { return low + (high-low)*r.Float64() }
	}
	register(
		shaped("RandomNormal", normal), shaped("RandomUniform", uniform),
		like("RandomNormalLike", normal), like("RandomUniformLike", uniform),
		Op{Name: "Bernoulli", Since: []int{15, 22}, MinIn: 1, Types: []TypeSet{Floats}, Impure: true, Flat: true, NoGrad: "a draw of 0 or 1 is constant almost everywhere",
			Infer: func(n *Node) ([]Info, error) { return inferDrawnLike(n, Numeric|Bools) }, Compile: compileBernoulli},
		Op{Name: "Multinomial", Since: []int{7, 22}, MinIn: 1, Types: []TypeSet{Floats}, Impure: true, NoGrad: "it has no floating-point output", Flat: true,
			Infer: inferMultinomial, Compile: compileMultinomial},
	)
}

// drawer is a generator that runs of a node share.
type drawer struct {
	sync.Mutex
	*rand.Rand
}

func drawerOf(n *Node) *drawer {
	a := n.Attr("seed")
	if a == nil {
		return &drawer{Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
	}
	seed := uint64(math.Float32bits(a.F))
	if a.Type == onnx.AttrInt {
		seed = uint64(a.I)
	}
	return &drawer{Rand: rand.New(rand.NewPCG(seed, 0))}
}

// drawnType is the attribute dtype, which must be in allowed.
func drawnType(n *Node, def tensor.DType, allowed TypeSet) (tensor.DType, error) {
	a := n.Attr("dtype")
	if a == nil {
		return def, nil
	}
	if d := tensor.DType(a.I); a.I > 0 && a.I < 32 && d.Valid() && allowed.Has(d) {
		return d, nil
	}
	return 0, fmt.Errorf("elements of type %d cannot be drawn", a.I)
}

func inferDrawnLike(n *Node, allowed TypeSet) ([]Info, error) {
	out := n.In[0]
	out = out.WithoutValue()
	var err error
	out.DType, err = drawnType(n, out.DType, allowed)
	if err == nil && out.DType != tensor.Undefined && !allowed.Has(out.DType) {
		err = fmt.Errorf("elements of type %s cannot be drawn: the attribute dtype is needed", out.DType)
	}
	return []Info{out}, err
}

func compileDraws(draw func(n *Node) func(r *rand.Rand) float64) func(n *Node) (Kernel, error) {
	return func(n *Node) (Kernel, error) {
		gen, one := drawerOf(n), draw(n)
		return func(c *Ctx) error {
			y := c.Out(0)
			if y == nil { // its shape is known only now
				x, err := tensorIn(c, 0)
				if err != nil {
					return err
				}
				d, err := drawnType(n, x.DType(), Floats)
				if err != nil {
					return err
				}
				if y, err = c.Alloc(0, d, x.Shape()...); err != nil {
					return err
				}
			}
			gen.Lock()
			defer gen.Unlock()
			for i := range y.Len() {
				tensor.SetFloat64At(y, i, one(gen.Rand))
			}
			return nil
		}, nil
	}
}

func compileBernoulli(n *Node) (Kernel, error) {
	gen := drawerOf(n)
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		d, err := drawnType(n, x.DType(), Numeric|Bools)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, d, x.Shape()...)
		if err != nil {
			return err
		}
		gen.Lock()
		defer gen.Unlock()
		for i := range x.Len() {
			p := tensor.Float64At(x, i)
			if !(p >= 0 && p <= 1) {
				return fmt.Errorf("element %d, a probability, is %v", i, p)
			}
			v := 0.0
			if gen.Float64() < p {
				v = 1
			}
			tensor.SetFloat64At(y, i, v)
		}
		return nil
	}, nil
}

func multinomialOf(n *Node) (d tensor.DType, samples int, err error) {
	if d, err = drawnType(n, tensor.Int32, Index); err != nil {
		return d, 0, err
	}
	s := n.Int("sample_size", 1)
	if s < 0 || s > math.MaxInt32 {
		return d, 0, fmt.Errorf("sample_size is %d", s)
	}
	return d, int(s), nil
}

func inferMultinomial(n *Node) ([]Info, error) {
	d, samples, err := multinomialOf(n)
	if err != nil {
		return nil, err
	}
	x := n.In[0]
	if !x.Ranked {
		return []Info{Tensor(d, Unknown, D(samples))}, nil
	}
	if len(x.Shape) != 2 {
		return nil, fmt.Errorf("an input of %v is not batch by classes", x.Shape)
	}
	return []Info{Tensor(d, x.Shape[0], D(samples))}, nil
}

// compileMultinomial draws classes by their unnormalized log-probabilities.
func compileMultinomial(n *Node) (Kernel, error) {
	d, samples, err := multinomialOf(n)
	if err != nil {
		return nil, err
	}
	gen := drawerOf(n)
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		if x.Rank() != 2 {
			return fmt.Errorf("an input of %v is not batch by classes", x.Shape())
		}
		y, err := c.Alloc(0, d, x.Shape()[0], samples)
		if err != nil {
			return err
		}
		classes := x.Shape()[1]
		sums := make([]float64, classes) // of the probabilities so far
		gen.Lock()
		defer gen.Unlock()
		for b := range x.Shape()[0] {
			top := math.Inf(-1)
			for k := range sums {
				top = math.Max(top, tensor.Float64At(x, b*classes+k))
			}
			total := 0.0
			for k := range sums {
				total += math.Exp(tensor.Float64At(x, b*classes+k) - top)
				sums[k] = total
			}
			if samples > 0 && !(total > 0) { // no class, or NaN among the scores
				return fmt.Errorf("row %d of %v has no probabilities to draw by", b, x.Shape())
			}
			for s := range samples {
				u := gen.Float64() * total
				lo, hi := 0, classes-1
				for lo < hi {
					if m := (lo + hi) / 2; u < sums[m] {
						hi = m
					} else {
						lo = m + 1
					}
				}
				tensor.SetFloat64At(y, b*samples+s, float64(lo))
			}
		}
		return nil
	}, nil
}
