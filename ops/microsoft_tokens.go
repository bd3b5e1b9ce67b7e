package ops

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators of com.microsoft on tokens: hashes of them, and what the search for a sequence does between runs of a model.
func init() {
	const integers = "its output is integers"
	op := func(name string, o Op) Op {
		o.Domain, o.Name, o.Since = "com.microsoft", name, []int{1}
		return o
	}
	register(
		op("MurmurHash3", Op{MinIn: 1, Types: []TypeSet{Index | Of(tensor.Uint32, tensor.Uint64, tensor.Float32, tensor.Float64, tensor.String)}, NoGrad: integers,
			Infer: func(n *Node) ([]Info, error) {
				y := n.In[0].WithoutValue()
				if y.DType = tensor.Uint32; n.Int("positive", 1) == 0 {
					y.DType = tensor.Int32
				}
				return []Info{y}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				seed := n.Int("seed", 0)
				if seed < math.MinInt32 || seed > math.MaxUint32 {
					return nil, fmt.Errorf("seed %d is out of range", seed)
				}
				return func(c *Ctx) error { return hashEach(c, uint32(seed)) }, nil
			}}),
		op("NGramRepeatBlock", Op{MinIn: 2, Types: []TypeSet{Of(tensor.Int64), Of(tensor.Float32, tensor.Float64)}, Infer: SameAs(1),
			Compile: func(n *Node) (Kernel, error) {
				size := n.Int("ngram_size", 0)
				if size < 1 {
					return nil, fmt.Errorf("ngram_size %d is out of range", size)
				}
				return Table{
					tensor.Float32: func(c *Ctx) error { return blockRepeats[float32](c, size) },
					tensor.Float64: func(c *Ctx) error { return blockRepeats[float64](c, size) },
				}.By(1), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) { // nothing where the token is blocked
				y := g.Microsoft("NGramRepeatBlock", 1, n.Inputs, n.Attrs...)[0]
				return []*onnx.Value{nil, g.Op("Where", g.Op("Equal", y, g.Like(y, math.Inf(-1))), g.Like(y, 0), dy[0])}, nil
			}}),
		op("BifurcationDetector", Op{MinIn: 3, MaxIn: 4, MinOut: 2, MaxOut: 2, Types: []TypeSet{Of(tensor.Int64)}, NoGrad: integers,
			Infer: func(n *Node) ([]Info, error) {
				tokens := Tensor(tensor.Int64, Unknown)
				if !n.Has(3) {
					tokens = n.In[1].WithoutValue()
				}
				return []Info{tokens, n.In[2].WithoutValue()}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				least, most := n.Int("min_ngram_size", 1), n.Int("max_ngram_size", 3)
				if least < 1 || most < least {
					return nil, fmt.Errorf("n-grams of %d to %d tokens are out of range", least, most)
				}
				return func(c *Ctx) error { return bifurcate(c, int(min(least, math.MaxInt32)), int(min(most, math.MaxInt32))) }, nil
			}}),
		op("DynamicTimeWarping", Op{MinIn: 1, Types: []TypeSet{Of(tensor.Float32)}, NoGrad: integers,
			Infer: func(n *Node) ([]Info, error) {
				if r := n.In[0].Rank(); r >= 0 && r != 2 && r != 3 {
					return nil, fmt.Errorf("costs of rank %d are no matrix", r)
				}
				return []Info{Tensor(tensor.Int32, D(2), Unknown)}, nil
			},
			Compile: func(*Node) (Kernel, error) { return warp, nil }}),
	)
}

// murmur3 is MurmurHash3_x86_32 of b.
func murmur3(b []byte, seed uint32) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	h, size := seed, uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		h ^= bits.RotateLeft32(binary.LittleEndian.Uint32(b)*c1, 15) * c2
		h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	}
	if len(b) > 0 {
		var k uint32
		for i, v := range b {
			k |= uint32(v) << (8 * i)
		}
		h ^= bits.RotateLeft32(k*c1, 15) * c2
	}
	h ^= size
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// hashEach hashes the bytes of each element, or string.
func hashEach(c *Ctx, seed uint32) error {
	x, y := c.In(0), c.Out(0).Bytes()
	if x.DType() == tensor.String {
		for i, s := range tensor.Data[string](x) {
			binary.LittleEndian.PutUint32(y[4*i:], murmur3([]byte(s), seed))
		}
		return nil
	}
	size := x.DType().Size()
	for i, b := 0, x.Bytes(); i < x.Len(); i++ {
		binary.LittleEndian.PutUint32(y[4*i:], murmur3(b[i*size:(i+1)*size], seed))
	}
	return nil
}

// blockRepeats gives -∞ to each token that would complete an n-gram that its row has already.
func blockRepeats[T kernel.Float](c *Ctx, size int64) error {
	ids, scores := c.In(0), c.In(1)
	if ids.Rank() != 2 || scores.Rank() != 2 || ids.Shape()[0] != scores.Shape()[0] {
		return fmt.Errorf("tokens of %v do not suit scores of %v", ids.Shape(), scores.Shape())
	}
	length, words := ids.Shape()[1], scores.Shape()[1]
	y := tensor.Data[T](c.Out(0))
	copy(y, tensor.Data[T](scores))
	if size > int64(length) {
		return nil
	}
	n := int(size)
	for b := range ids.Shape()[0] {
		row := tensor.Data[int64](ids)[b*length : (b+1)*length]
		tail := row[length+1-n:]
		for i := 0; i+n <= length; i++ {
			if !slices.Equal(row[i:i+n-1], tail) {
				continue
			}
			token := row[i+n-1]
			if token < 0 || token >= int64(words) {
				return fmt.Errorf("there is no token %d of %d", token, words)
			}
			y[b*words+int(token)] = T(math.Inf(-1))
		}
	}
	return nil
}

// bifurcate appends the predicted tokens, up to the first that the source has not, to the current ones, and says where in the source the
// last n-gram of them goes on, if there is one such place.
func bifurcate(c *Ctx, least, most int) error {
	source, tokens := tensor.Data[int64](c.In(0)), tensor.Data[int64](c.In(1))
	if c.In(0).Rank() != 1 || c.In(1).Rank() != 1 || c.In(2).Len() != 1 {
		return fmt.Errorf("tokens of %v and %v and an index of %v", c.In(0).Shape(), c.In(1).Shape(), c.In(2).Shape())
	}
	if p := c.In(3); p != nil {
		predicted, from := tensor.Data[int64](p), tensor.Data[int64](c.In(2))[0]
		if from < 0 || from > int64(len(source)) || int64(len(predicted)) != int64(len(source))+1-from {
			return fmt.Errorf("%d predicted tokens do not suit a source of %d from %d on", len(predicted), len(source), from)
		}
		same := 0
		for same < len(source)-int(from) && predicted[same] == source[int(from)+same] {
			same++
		}
		tokens = append(slices.Clone(tokens), predicted[:same+1]...)
	}
	out, err := c.Alloc(0, tensor.Int64, len(tokens))
	if err != nil {
		return err
	}
	copy(tensor.Data[int64](out), tokens)
	find := func(gram []int64, from int) int { // where it begins, -1 if it is not there
		for i := from; i+len(gram) <= len(source); i++ {
			if slices.Equal(source[i:i+len(gram)], gram) {
				return i
			}
		}
		return -1
	}
	suffix := -1
	for n := least; n <= most && n <= len(tokens); n++ {
		gram := tokens[len(tokens)-n:]
		at := find(gram, 0)
		if at < 0 {
			break
		}
		if suffix = at + n; suffix >= len(source) {
			break
		}
		if find(gram, at+1) >= 0 {
			suffix = -1
		}
	}
	index, err := c.Alloc(1, tensor.Int64, c.In(2).Shape()...)
	if err != nil {
		return err
	}
	tensor.Data[int64](index)[0] = int64(suffix)
	return nil
}

// warp is the cheapest way through a matrix of costs, from its first element to its last, by steps along either axis or both.
func warp(c *Ctx) error {
	x := c.In(0)
	s := x.Shape()
	if len(s) == 3 && s[0] == 1 {
		s = s[1:]
	}
	if len(s) != 2 {
		return fmt.Errorf("costs of %v are no matrix", x.Shape())
	}
	rows, columns, costs := s[0], s[1], tensor.Data[float32](x)
	// Sums and the steps that they came by, with a row and a column before the first.
	width := columns + 1
	ts, err := c.New(tensor.Float32, rows+1, width)
	if err != nil {
		return err
	}
	tb, err := c.New(tensor.Int8, rows+1, width)
	if err != nil {
		return err
	}
	const both, down, right = 0, 1, 2
	sums, by := tensor.Data[float32](ts), tensor.Data[int8](tb)
	for i := range sums {
		sums[i] = float32(math.Inf(1))
	}
	sums[0] = 0
	for j := range width {
		by[j] = right
	}
	for i := 1; i <= rows; i++ {
		by[i*width] = down
		for j := 1; j <= columns; j++ {
			at := i*width + j
			a, b, d := sums[at-width-1], sums[at-width], sums[at-1]
			step, least := int8(right), d
			if a < b && a < d {
				step, least = both, a
			} else if b < a && b < d {
				step, least = down, b
			}
			sums[at], by[at] = costs[(i-1)*columns+j-1]+least, step
		}
	}
	var path [][2]int32
	for i, j := rows, columns; i > 0 || j > 0; {
		path = append(path, [2]int32{int32(i - 1), int32(j - 1)})
		switch by[i*width+j] {
		case both:
			i, j = i-1, j-1
		case down:
			i--
		default:
			j--
		}
	}
	t, err := c.Alloc(0, tensor.Int32, 2, len(path))
	if err != nil {
		return err
	}
	y := tensor.Data[int32](t)
	for k, p := range path {
		y[len(path)-1-k], y[2*len(path)-1-k] = p[0], p[1]
	}
	return nil
}
