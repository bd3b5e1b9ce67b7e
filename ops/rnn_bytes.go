package ops

import (
	"fmt"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// DynamicQuantizeLSTM of com.microsoft: an LSTM whose W and R are bytes, transposed, and which rounds the left side of each product to
// bytes, by the range of all its rows.
func init() {
	bytes, float := Of(tensor.Int8, tensor.Uint8), Of(tensor.Float32)
	register(Op{Domain: "com.microsoft", Name: "DynamicQuantizeLSTM", Since: []int{1}, MinIn: 3, MaxIn: 12, MaxOut: 3, FLOPs: rnnFLOPs,
		Types:  []TypeSet{float, bytes, bytes, float, Of(tensor.Int32), float, float, float, float, bytes, float, bytes},
		NoGrad: "its weights are quantized: train the model before it is quantized",
		Infer: func(n *Node) ([]Info, error) {
			turned := *n
			turned.In = append([]Info(nil), n.In...)
			for i := 1; i <= 2; i++ {
				if s := n.In[i].Shape; len(s) == 3 {
					turned.In[i].Shape = []Dim{s[0], s[2], s[1]}
				}
			}
			return inferRNNOf(&turned, "LSTM")
		},
		Compile: func(n *Node) (Kernel, error) {
			spec, err := rnnSpecOf(n, "LSTM")
			if err != nil {
				return nil, err
			}
			for i := 8; i < 12; i++ {
				if !n.Has(i) {
					return nil, fmt.Errorf("input %d is left out but required", i)
				}
			}
			ws := &rnnWeights[float32]{make: byteFactors, constant: true}
			for _, i := range []int{1, 2, 8, 9, 10, 11} {
				ws.constant = ws.constant && n.Info(i).Const != nil
			}
			return runRNN(spec, ws), nil
		}})
}

// byteFactor is a matrix of bytes B that stands for (B - zero)·scale.
type byteFactor struct {
	*kernel.PackedS8
	scale []float32 // of each column
	zero  []int8
	room  sync.Pool // of *byteSteps
}

// byteSteps is what one product needs.
type byteSteps struct {
	x   []uint8
	sum []float32
	by  kernel.ByteScale
}

func byteFactors(c *Ctx, q *rnnProblem[float32], u rnnUnits) (f rnnFactors[float32], err error) {
	if f.w, err = newByteFactor(c, q, u, 1, 8, q.I); err != nil {
		return f, err
	}
	r, err := newByteFactor(c, q, u, 2, 10, q.hidden)
	if err != nil {
		return f, err
	}
	f.r, f.finite = r, finite(r.scale)
	return f, nil
}

// newByteFactor packs the columns of u of input i, k×4·hidden for each direction, whose scales are input at and whose zero points are the
// one after it.
func newByteFactor(c *Ctx, q *rnnProblem[float32], u rnnUnits, i, at, k int) (*byteFactor, error) {
	b, scale, zero, n := c.In(i), c.In(at), c.In(at+1), 4*q.hidden
	if scale.Len() != q.dirs && scale.Len() != q.dirs*n || zero.Len() != q.dirs && zero.Len() != q.dirs*n || zero.DType() != b.DType() {
		return nil, fmt.Errorf("scales %s and zero points %s do not suit weights %s", scale, zero, b)
	}
	all, own := asSigned(b)[u.d*k*n:(u.d+1)*k*n], make([]int8, 0, k*4*u.n)
	for row := range k {
		own = gather(own, all[row*n:(row+1)*n], rnnUnits{0, u.first, u.n}, 4, q.hidden, 1)
	}
	f := &byteFactor{PackedS8: kernel.PackS8(false, k, 4*u.n, own, 4*u.n)}
	// One number for a direction, or one for each of its columns.
	if zeros := asSigned(zero); zero.Len() == q.dirs {
		f.zero = zeros[u.d : u.d+1]
	} else {
		f.zero = gather(f.zero, zeros, u, 4, q.hidden, 1)
	}
	if scales := tensor.Data[float32](scale); scale.Len() == q.dirs {
		f.scale = slices.Repeat(scales[u.d:u.d+1], 4*u.n)
	} else {
		f.scale = gather(f.scale, scales, u, 4, q.hidden, 1)
	}
	return f, nil
}

func (f *byteFactor) times(p *kernel.Pool, _ bool, rows int, x []float32, ldx int, beta float32, y []float32, ldy int, ep *kernel.EpilogueOf[float32]) {
	k, n := f.Dims()
	r, _ := f.room.Get().(*byteSteps)
	if r == nil {
		r = new(byteSteps)
	}
	defer f.room.Put(r)
	r.x, r.by.Scale, r.by.Bias = grown(r.x, rows*k), f.scale, nil
	if ep != nil {
		r.by.Bias = ep.ColBias
	}
	lo, hi := float32(0), float32(0)
	if ldx == k {
		lo, hi = min(lo, kernel.MinReduce(x[:rows*k])), max(hi, kernel.MaxReduce(x[:rows*k]))
	} else {
		for i := range rows {
			row := x[i*ldx:][:k]
			lo, hi = min(lo, kernel.MinReduce(row)), max(hi, kernel.MaxReduce(row))
		}
	}
	scale, zero := scaleOfRange(lo, hi)
	for i := range rows {
		kernel.QuantizeBytes(r.x[i*k:][:k], x[i*ldx:][:k], scale, float32(zero), 0, 255)
	}
	r.by.By = scale
	if beta == 0 {
		kernel.GemmU8S8Float(p, rows, r.x, k, zero, f.PackedS8, f.zero, &r.by, y, ldy)
		return
	}
	r.sum = grown(r.sum, rows*n)
	kernel.GemmU8S8Float(p, rows, r.x, k, zero, f.PackedS8, f.zero, &r.by, r.sum, n)
	for i := range rows {
		row := y[i*ldy:][:n]
		kernel.Add(row, row, r.sum[i*n:][:n])
	}
}

// grown is s with n elements, whatever they are.
func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
