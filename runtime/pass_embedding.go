package runtime

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// embeddingLimit is the bytes of a table of gates, up to which one is made.
const embeddingLimit = 8 << 20

// embeddings has recurrent layers that read rows of a constant table look up what their weights make of each row: a part of the gates,
// which is as often computed as there are rows, and not as there are steps.
func embeddings(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "LSTM") && !is(n, "GRU") && !is(n, "RNN") {
			continue
		}
		rows := n.Inputs[0].Def()
		if !is(rows, "Gather") || rows.Int("axis", 0) != 0 || r.graphOf[rows] != r.graph || r.constant(n.Inputs[0]) != nil || r.infos[rows.Inputs[1]].Rank() != 2 {
			continue
		}
		table, w, b := r.constant(rows.Inputs[0]), r.constant(n.Inputs[1]), n.Input(3)
		if table == nil || table.Rank() != 2 || w == nil || w.Rank() != 3 || w.DType() != table.DType() || r.constant(n.Inputs[2]) == nil || b != nil && r.constant(b) == nil {
			continue
		}
		if bits := table.DType().Bits(); bits < 32 || table.Shape()[0]*w.Shape()[0]*w.Shape()[1] > embeddingLimit*8/bits {
			continue
		}
		in := make([]*onnx.Value, 9)
		copy(in, n.Inputs)
		in[0], in[8] = rows.Inputs[1], rows.Inputs[0]
		fresh := node(ops.GradOpset, "EmbeddingRNN", in, append([]*onnx.Attribute{onnx.StringAttr("kind", n.Op)}, n.Attrs...)...)
		fresh.Domain = ops.Internal
		r.put(fresh, n, n)
	}
}
