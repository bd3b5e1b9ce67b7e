package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/tensor"
)

// GreedySearch of com.microsoft: a decoder, which is a subgraph, is run for one token after the other, of which each is the likeliest.
func init() {
	register(Op{Domain: "com.microsoft", Name: "GreedySearch", Since: []int{1}, MinIn: 2, MaxIn: 7, NoGrad: "its output is the numbers of tokens",
		Types: []TypeSet{Of(tensor.Int32), Of(tensor.Int32), Of(tensor.Int32), Of(tensor.Float32), Of(tensor.Int32)},
		Infer: func(n *Node) ([]Info, error) {
			if r := n.In[0].Rank(); r >= 0 && r != 2 {
				return nil, fmt.Errorf("tokens of rank %d are no rows", r)
			}
			return []Info{Tensor(tensor.Int32, n.In[0].batch(), n.number1(1).Max(D(0)))}, nil
		},
		BodyIn: func(n *Node, attr string, in, _ []Info) []Info {
			g := n.Attr(attr).G
			if in != nil || g == nil || len(g.Inputs) < 4 {
				return in
			}
			tokens := Tensor(tensor.Int32, n.In[0].batch(), Unknown)
			in = []Info{tokens, tokens, tokens}
			for _, past := range g.Inputs[3:] {
				info := InfoOfType(past.Type)
				in = append(in, Unranked(info.DType))
			}
			return in
		},
		Compile: func(n *Node) (Kernel, error) {
			if kind := n.Int("model_type", 0); kind != 0 || n.Attr("encoder") != nil || n.Attr("init_decoder") != nil {
				return nil, fmt.Errorf("model_type %d, encoders and decoders of the first token alone are not supported", kind)
			}
			body, a := n.Bodies["decoder"], n.Attr("decoder")
			if body == nil || len(a.G.Inputs) < 4 || body.NumInputs() != body.NumOutputs()+2 {
				return nil, fmt.Errorf("attribute decoder must be a graph from tokens, positions, a mask and states to logits and states; others are not supported")
			}
			past := InfoOfType(a.G.Inputs[3].Type)
			if past.Rank() != 5 || !past.Shape[2].Known() || !past.Shape[4].Known() || past.DType != tensor.Float32 {
				return nil, fmt.Errorf("the decoder's states must be declared as float32 of [2, batch, heads, length, size], of known heads and size")
			}
			s := &greedySearch{heads: past.Shape[2].N, size: past.Shape[4].N, end: n.Int("eos_token_id", -1), pad: n.Int("pad_token_id", -1), gram: n.Int("no_repeat_ngram_size", 0)}
			return s.run, nil
		}})
}

type greedySearch struct {
	heads, size    int
	end, pad, gram int64
}

// lowest is what a token gets that must not come.
const lowest = -math.MaxFloat32

func (s *greedySearch) run(c *Ctx) error {
	ids := c.In(0)
	if ids.Rank() != 2 || c.In(1).Len() != 1 {
		return fmt.Errorf("tokens of %v and a length of %v", ids.Shape(), c.In(1).Shape())
	}
	batch, length, most := ids.Shape()[0], ids.Shape()[1], int(tensor.Data[int32](c.In(1))[0])
	if length < 1 || most <= length {
		return fmt.Errorf("%d tokens of at most %d leave nothing to add", length, most)
	}
	least, penalty := 0, float32(1)
	if t := c.In(2); t != nil && t.Len() == 1 {
		least = int(tensor.Data[int32](t)[0])
	}
	if t := c.In(3); t != nil && t.Len() == 1 {
		penalty = tensor.Data[float32](t)[0]
	}
	if t := c.In(6); t != nil && !slices.Equal(t.Shape(), ids.Shape()) {
		return fmt.Errorf("an attention mask of %v does not suit tokens of %v", t.Shape(), ids.Shape())
	}
	out, err := c.Alloc(0, tensor.Int32, batch, most)
	if err != nil {
		return err
	}
	rows := tensor.Data[int32](out)
	for i := range rows {
		rows[i] = int32(s.pad)
	}
	for b := range batch {
		copy(rows[b*most:], tensor.Data[int32](ids)[b*length:(b+1)*length])
	}
	// Padding does not count as a position, nor is it seen, unless a mask says so.
	positions, err := c.New(tensor.Int32, batch, length)
	if err != nil {
		return err
	}
	mask, err := c.New(tensor.Int32, batch, length)
	if err != nil {
		return err
	}
	next := make([]int32, batch)
	for b := range batch {
		for j := range length {
			at := b*length + j
			filler := int64(tensor.Data[int32](ids)[at]) == s.pad
			if given := c.In(6); given != nil {
				tensor.Data[int32](mask)[at] = tensor.Data[int32](given)[at]
			} else if !filler {
				tensor.Data[int32](mask)[at] = 1
			}
			if !filler {
				tensor.Data[int32](positions)[at] = next[b]
				next[b]++
			}
		}
	}
	empty, err := c.New(tensor.Float32, 2, batch, s.heads, 0, s.size)
	if err != nil {
		return err
	}
	body := c.Body("decoder")
	in := []tensor.Value{ids, positions, mask}
	for len(in) < body.NumInputs() {
		in = append(in, empty)
	}
	done := make([]bool, batch)
	for now := length; now < most; now++ {
		if err := c.Context.Err(); err != nil {
			return err
		}
		outs, err := body.Run(c, in)
		if err != nil {
			return fmt.Errorf("token %d: %w", now, err)
		}
		logits, ok := outs[0].(*tensor.Tensor)
		if !ok || logits.DType() != tensor.Float32 || logits.Rank() != 3 || logits.Shape()[0] != batch || logits.Shape()[1] < 1 || logits.Shape()[2] < 1 {
			return fmt.Errorf("the decoder gives %v, no logits", outs[0])
		}
		steps, words := logits.Shape()[1], logits.Shape()[2]
		tokens, err := c.New(tensor.Int32, batch, 1)
		if err != nil {
			return err
		}
		finished := true
		for b := range batch {
			scores := append([]float32{}, tensor.Data[float32](logits)[((b+1)*steps-1)*words:(b+1)*steps*words]...)
			if err := s.process(c, scores, rows[b*most:b*most+now], b, now == length, least, penalty); err != nil {
				return err
			}
			best := 0
			for w, v := range scores {
				if v > scores[best] {
					best = w
				}
			}
			token := int32(best)
			if done[b] = done[b] || int64(best) == s.end; done[b] {
				token = int32(s.pad)
			}
			finished = finished && done[b]
			tensor.Data[int32](tokens)[b], rows[b*most+now] = token, token
		}
		if finished {
			break
		}
		if positions, err = c.New(tensor.Int32, batch, 1); err != nil {
			return err
		}
		longer, err := c.New(tensor.Int32, batch, now+1)
		if err != nil {
			return err
		}
		for b := range batch {
			row := tensor.Data[int32](longer)[b*(now+1) : (b+1)*(now+1)]
			copy(row, tensor.Data[int32](mask)[b*now:(b+1)*now])
			row[now] = 1
			tensor.Data[int32](positions)[b] = next[b]
			next[b]++
		}
		mask = longer
		in = append([]tensor.Value{tokens, positions, mask}, outs[1:]...)
	}
	return nil
}

// process changes the scores of row b's next token as the inputs ask for it, in ONNX Runtime's order.
func (s *greedySearch) process(c *Ctx, scores []float32, row []int32, b int, first bool, least int, penalty float32) error {
	words := len(scores)
	if penalty != 1 {
		seen := map[int32]bool{}
		for _, w := range row {
			if w < 0 || int(w) >= words || seen[w] {
				continue
			}
			if seen[w] = true; scores[w] < 0 {
				scores[w] *= penalty
			} else {
				scores[w] /= penalty
			}
		}
	}
	if n := int(min(s.gram, int64(len(row)+1))); s.gram > 0 && n <= len(row) {
		tail := row[len(row)+1-n:]
		for i := 0; i+n <= len(row); i++ {
			same := true
			for k, w := range tail {
				same = same && row[i+k] == w
			}
			if w := row[i+n-1]; same && w >= 0 && int(w) < words {
				scores[w] = lowest
			}
		}
	}
	masked := func(mask []int32) {
		for w, m := range mask {
			if m == 0 {
				scores[w] = lowest
			}
		}
	}
	if t := c.In(4); t != nil {
		if t.Len() != words {
			return fmt.Errorf("a mask of %v does not suit %d words", t.Shape(), words)
		}
		masked(tensor.Data[int32](t))
	}
	if t := c.In(5); t != nil && first {
		if !slices.Equal(t.Shape(), []int{c.In(0).Shape()[0], words}) {
			return fmt.Errorf("masks of %v do not suit %d words", t.Shape(), words)
		}
		masked(tensor.Data[int32](t)[b*words : (b+1)*words])
	}
	if len(row) < least && s.end >= 0 && s.end < int64(words) {
		scores[s.end] = lowest
	}
	return nil
}
