package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Det: determinants of the matrices in the last two dimensions.
func init() {
	register(
		Op{Name: "Det", Since: []int{11, 22}, MinIn: 1, Types: []TypeSet{Floats},
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				r := len(x.Shape)
				if r < 2 || x.Shape[r-1].Known() && x.Shape[r-2].Known() && x.Shape[r-1] != x.Shape[r-2] {
					return nil, fmt.Errorf("%v are not square matrices", x.Shape)
				}
				return []Info{Tensor(x.DType, x.Shape[:r-2]...)}, nil
			},
			Compile: Table{tensor.Float32: det[float32], tensor.Float64: det[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				return g.Internal("DetGrad", 1, []*onnx.Value{dy[0], n.Inputs[0]}), nil
			}},
		Op{Domain: Internal, Name: "DetGrad", Since: []int{1}, MinIn: 2, Infer: SameAs(1),
			Compile: Table{tensor.Float32: detGrad[float32], tensor.Float64: detGrad[float64]}.Always(0), Portable: portableDetGrad},
		Op{Domain: "com.microsoft", Name: "Inverse", Since: []int{1}, MinIn: 1, Types: []TypeSet{Floats}, Infer: SameAs(0),
			Compile: Table{tensor.Float32: inverse[float32], tensor.Float64: inverse[float64]}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				y := g.Transpose(n.Outputs[0])
				return []*onnx.Value{g.Neg(g.MatMul(g.MatMul(y, dy[0]), y))}, nil
			}},
	)
}

func squares(t *tensor.Tensor) (count, n int, err error) {
	s := t.Shape()
	r := len(s)
	if r < 2 || s[r-1] != s[r-2] {
		return 0, 0, fmt.Errorf("%v are not square matrices", s)
	}
	return product(s[:r-2]), s[r-1], nil
}

func det[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	count, n, err := squares(x)
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, x.DType(), x.Shape()[:x.Rank()-2]...)
	if err != nil {
		return err
	}
	scratch, err := c.New(tensor.Float64, n, n)
	if err != nil {
		return err
	}
	a, in, out := tensor.Data[float64](scratch), tensor.Data[T](x), tensor.Data[T](t)
	for i := range count {
		widen(a, in[i*n*n:(i+1)*n*n])
		out[i] = T(determinant(a, n))
	}
	return nil
}

func widen[T kernel.Float](dst []float64, src []T) {
	for i, v := range src {
		dst[i] = float64(v)
	}
}

// determinant is that of the n×n matrix a, which elimination with row pivots leaves in pieces.
func determinant(a []float64, n int) float64 {
	d := 1.0
	for k := range n {
		p := k
		for i := k + 1; i < n; i++ {
			if math.Abs(a[i*n+k]) > math.Abs(a[p*n+k]) {
				p = i
			}
		}
		pivot := a[p*n+k]
		if pivot == 0 {
			return 0
		}
		if p != k {
			for j := range n {
				a[p*n+j], a[k*n+j] = a[k*n+j], a[p*n+j]
			}
			d = -d
		}
		d *= pivot
		for i := k + 1; i < n; i++ {
			f := a[i*n+k] / pivot
			for j := k + 1; j < n; j++ {
				a[i*n+j] -= f * a[k*n+j]
			}
		}
	}
	return d
}

// detGrad is dY times the matrix of cofactors, each a determinant, so that singular matrices have theirs too.
func detGrad[T kernel.Float](c *Ctx) error {
	x, dy := c.In(1), c.In(0)
	count, n, err := squares(x)
	if err != nil {
		return err
	}
	if err := sameElem(dy, x); err != nil {
		return err
	}
	if dy.Len() != count {
		return fmt.Errorf("a gradient of %v does not suit an input of %v", dy.Shape(), x.Shape())
	}
	t, err := c.Alloc(0, x.DType(), x.Shape()...)
	if err != nil {
		return err
	}
	if t.Len() == 0 {
		return nil
	}
	in, out, d := tensor.Data[T](x), tensor.Data[T](t), tensor.Data[T](dy)
	c.Pool.For(count*n*n, max(1, moveGrain/(n*n*n)), func(lo, hi int) {
		minor := make([]float64, (n-1)*(n-1))
		for e := lo; e < hi; e++ {
			m, row, col := e/(n*n), e/n%n, e%n
			k := 0
			for i := range n {
				for j := range n {
					if i != row && j != col {
						minor[k] = float64(in[m*n*n+i*n+j])
						k++
					}
				}
			}
			v := determinant(minor, n-1)
			if (row+col)%2 == 1 {
				v = -v
			}
			out[e] = T(v * float64(d[m]))
		}
	})
	return nil
}

func inverse[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	count, n, err := squares(x)
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, x.DType(), x.Shape()...)
	if err != nil {
		return err
	}
	scratch, err := c.New(tensor.Float64, 2, n, n)
	if err != nil {
		return err
	}
	a, b := tensor.Data[float64](scratch)[:n*n], tensor.Data[float64](scratch)[n*n:]
	for i := range count {
		widen(a, tensor.Data[T](x)[i*n*n:(i+1)*n*n])
		if !eliminate(b, a, n) {
			return fmt.Errorf("matrix %d is singular", i)
		}
		for j, v := range b {
			tensor.Data[T](t)[i*n*n+j] = T(v)
		}
	}
	return nil
}

// eliminate sets b to the inverse of the n×n matrix a by elimination with row pivots, which spends a. It fails on a singular one.
func eliminate(b, a []float64, n int) bool {
	clear(b)
	for i := range n {
		b[i*n+i] = 1
	}
	row := func(m []float64, i int) []float64 { return m[i*n:][:n] }
	for k := range n {
		p := k
		for i := k + 1; i < n; i++ {
			if math.Abs(a[i*n+k]) > math.Abs(a[p*n+k]) {
				p = i
			}
		}
		pivot := a[p*n+k]
		if pivot == 0 || pivot != pivot {
			return false
		}
		for _, m := range [][]float64{a, b} {
			for j := range n {
				m[p*n+j], m[k*n+j] = m[k*n+j], m[p*n+j]/pivot
			}
		}
		for i := range n {
			if f := a[i*n+k]; i != k && f != 0 {
				kernel.Axpy(row(a, i), -f, row(a, k))
				kernel.Axpy(row(b, i), -f, row(b, k))
			}
		}
	}
	return true
}

// portableDetGrad is what [detGrad] is: the matrices without a row and a column are picked by lists of all others.
func portableDetGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, x := n.Inputs[0], n.Inputs[1]
	rank := g.Rank(x)
	if rank < 2 {
		return nil, fmt.Errorf("%v are not square matrices", g.Info(x).Shape)
	}
	dy = g.Op("Unsqueeze", dy, g.Int64s(-1, -2))
	if size := g.Info(x).Shape; size[rank-1].N == 1 { // there is nothing else
		return []*onnx.Value{g.ExpandTo(dy, x)}, nil
	}
	lines, one := g.Positions(x, int64(rank-1)), g.Int64s(1)
	column := g.Op("Unsqueeze", lines, one)
	others := g.Op("Slice", lines, g.Int64s(0), g.Int64s(-1))
	others = g.Op("Add", others, g.Cast(g.Op("GreaterOrEqual", others, column), tensor.Int64)) // n × n-1
	pick := func(v *onnx.Value, axis int) *onnx.Value {
		return g.With("Gather", []*onnx.Attribute{IntAttr("axis", int64(axis))}, v, others)
	}
	minors := pick(pick(x, rank-1), rank-2) // … × n × n-1 × n × n-1
	minors = g.Transpose(minors, append(axesFrom(0, rank-2), int64(rank-2), int64(rank), int64(rank-1), int64(rank+1))...)
	odd := g.Op("Equal", g.Op("Mod", g.Op("Add", lines, column), g.Int64s(2)), one)
	cofactors := g.Op("Det", minors)
	return []*onnx.Value{g.Mul(g.Op("Where", odd, g.Neg(cofactors), cofactors), dy)}, nil
}
