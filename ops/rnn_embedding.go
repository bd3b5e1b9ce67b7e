package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// rnnTable is the input of an EmbeddingRNN that is the table.
const rnnTable = 8

// A recurrent layer whose X is rows of a table, given by their numbers, where table, W, R and B are constants: what W makes of a row is one
// too, and is looked up. Other inputs are those of LSTM; kind is that of the layer.
func init() {
	register(Op{Domain: Internal, Name: "EmbeddingRNN", Since: []int{1}, MinIn: 3, MaxIn: rnnTable + 1, MinOut: 0, MaxOut: 3,
		Types: []TypeSet{Index, Floats, Floats, Floats, Of(tensor.Int32), Floats}, NoGrad: "it is only put in when a graph is run",
		FLOPs: func(c *Ctx) int64 { return 2 * int64(c.In(0).Len()) * int64(c.In(2).Len()) },
		Infer: func(n *Node) ([]Info, error) {
			in, table := *n, n.Info(rnnTable)
			if !n.In[0].Ranked || n.In[0].Rank() != 2 || table.Rank() != 2 {
				return nil, fmt.Errorf("numbers of shape %v and a table of shape %v: want rank 2", n.In[0].Shape, table.Shape)
			}
			in.In = slices.Clone(n.In)
			in.In[0] = Tensor(table.DType, n.In[0].Shape[0], n.In[0].Shape[1], table.Shape[1])
			return inferRNNOf(&in, n.Str("kind", ""))
		},
		Compile: func(n *Node) (Kernel, error) {
			spec, err := rnnSpecOf(n, n.Str("kind", ""))
			if err != nil {
				return nil, err
			}
			spec.lookup = true
			for _, i := range []int{1, 2, 3, rnnTable} {
				if n.Info(i).Const == nil && (i != 3 || n.Has(i)) {
					return nil, fmt.Errorf("input %d is no constant", i)
				}
			}
			return Table{
				tensor.Float32: runRNN(spec, &rnnWeights[float32]{constant: true, make: packEmbedding[float32]}),
				tensor.Float64: runRNN(spec, &rnnWeights[float64]{constant: true, make: packEmbedding[float64]}),
			}.By(rnnTable), nil
		}})
}

// packEmbedding multiplies the table by W.
func packEmbedding[T kernel.Float](c *Ctx, q *rnnProblem[T], u rnnUnits) (rnnFactors[T], error) {
	table, n := c.In(rnnTable), q.gates*u.n
	rows, width := table.Shape()[0], table.Shape()[1]
	f, bias := packRecurrent(q, u, true), make([]T, n)
	q.biases(u, bias)
	f.rows = make([]T, rows*n)
	kernel.GemmEpilogue(q.pool, false, true, rows, n, width, 1, tensor.Data[T](table), width, gather[T](nil, q.w, u, q.gates, q.hidden, width), width, 0, f.rows, n,
		&kernel.EpilogueOf[T]{ColBias: bias})
	return f, nil
}

// lookUp reads numbers of rows of a table, which count from its end below 0.
func (q *rnnProblem[T]) lookUp(numbers, table *tensor.Tensor) error {
	all, err := numbers.Int64s()
	if err != nil {
		return err
	}
	q.rows = grown(q.rows, len(all))
	for i, v := range all {
		if q.rows[i], err = checkIndex(v, table.Shape()[0], 0); err != nil {
			return err
		}
	}
	return nil
}
