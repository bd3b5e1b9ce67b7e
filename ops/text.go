package ops

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/retune-go/retune/tensor"
)

// Operators on strings.
func init() {
	strs := Of(tensor.String)
	const why = "text has no gradient"
	register(
		Op{Name: "StringConcat", Since: []int{20}, MinIn: 2, Types: []TypeSet{strs}, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				out, err := Broadcast(tensor.String, n.In...)
				return []Info{out}, err
			},
			Compile: fixedKernel(stringConcat)},
		Op{Name: "StringSplit", Since: []int{20}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{strs}, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(tensor.String), Unranked(tensor.Int64)}, nil
				}
				return []Info{Tensor(tensor.String, append(slices.Clone(x.Shape), Unknown)...), Tensor(tensor.Int64, x.Shape...)}, nil
			},
			Compile: compileStringSplit},
		Op{Name: "StringNormalizer", Since: []int{10}, MinIn: 1, Types: []TypeSet{strs}, NoGrad: why, Infer: inferStringNormalizer, Compile: compileStringNormalizer},
		Op{Name: "RegexFullMatch", Since: []int{20}, MinIn: 1, Types: []TypeSet{strs}, NoGrad: why,
			Infer: func(n *Node) ([]Info, error) {
				out := n.In[0]
				out = out.WithoutValue()
				out.DType = tensor.Bool
				return []Info{out}, nil
			},
			Compile: compileRegexFullMatch},
		Op{Name: "TfIdfVectorizer", Since: []int{9}, MinIn: 1, Types: []TypeSet{Of(tensor.String, tensor.Int32, tensor.Int64)},
			NoGrad: "n-grams are counted over tokens, which have no gradient", Infer: inferTfIdf, Compile: compileTfIdf},
	)
}

// stringConcat joins strings element by element. The bytes of the answer count against the run's limit: a chain of
// concatenations of a string with itself would double it at every step.
func stringConcat(c *Ctx) error {
	a, b := c.In(0), c.In(1)
	out, err := Broadcast(tensor.String, InfoOf(a, false), InfoOf(b, false))
	if err != nil {
		return err
	}
	shape, _ := out.Static()
	n, err := tensor.NumElements(shape)
	if err != nil {
		return err
	}
	var total uint64
	for _, t := range []*tensor.Tensor{a, b} {
		if t.Len() == 0 {
			continue
		}
		var sum uint64
		for _, s := range tensor.Data[string](t) {
			sum += uint64(len(s))
		}
		hi, lo := bits.Mul64(sum, uint64(n/t.Len())) // each element is repeated as often as any other
		if total += lo; hi != 0 || total>>62 != 0 {
			return errors.New("the strings are too long")
		}
	}
	if err := c.Mem.Take(int64(total)); err != nil {
		return err
	}
	return elementwise(func(x, y string) string { return x + y })(c)
}

// compileStringSplit cuts strings at a delimiter, as Python's str.split does, or at stretches of white space, which are
// removed from both ends even if maxsplit leaves a rest.
func compileStringSplit(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	delimiter, most := a.str("delimiter", ""), a.int("maxsplit", -1)
	cut := func(s string) []string {
		if delimiter != "" {
			limit := -1
			if most >= 0 && most < int64(len(s)) {
				limit = int(most) + 1
			}
			return strings.SplitN(s, delimiter, limit)
		}
		if most < 0 {
			return strings.Fields(s)
		}
		var parts []string
		for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeftFunc(s, unicode.IsSpace) {
			end := strings.IndexFunc(s, unicode.IsSpace)
			if end < 0 || int64(len(parts)) == most {
				parts = append(parts, s)
				break
			}
			parts, s = append(parts, s[:end]), s[end:]
		}
		return parts
	}
	return func(c *Ctx) error {
		x := c.In(0)
		in := tensor.Data[string](x)
		widest := 0
		for _, s := range in {
			widest = max(widest, len(cut(s)))
		}
		y, err := c.Alloc(0, tensor.String, append(slices.Clone(x.Shape()), widest)...)
		if err != nil {
			return err
		}
		var counts []int64
		if c.Wants(1) {
			z, err := c.Alloc(1, tensor.Int64, x.Shape()...)
			if err != nil {
				return err
			}
			counts = tensor.Data[int64](z)
		}
		out := tensor.Data[string](y)
		clear(out)
		for i, s := range in {
			k := copy(out[i*widest:(i+1)*widest], cut(s))
			if counts != nil {
				counts[i] = int64(k)
			}
		}
		return nil
	}, a.err
}

// inferStringNormalizer: [C] or [1,C], where C is fewer if there are stop words.
func inferStringNormalizer(n *Node) ([]Info, error) {
	x := n.In[0]
	switch x.Rank() {
	case -1:
		return []Info{Unranked(tensor.String)}, nil
	case 1:
		return []Info{Tensor(tensor.String, Unknown)}, nil
	case 2:
		if x.Shape[0].Known() && x.Shape[0].N != 1 {
			return nil, fmt.Errorf("input 0 has shape %v, which is neither [C] nor [1,C]", x.Shape)
		}
		return []Info{Tensor(tensor.String, D(1), Unknown)}, nil
	}
	return nil, fmt.Errorf("input 0 has shape %v, which is neither [C] nor [1,C]", x.Shape)
}

// compileStringNormalizer drops stop words and changes case. Where nothing is left, the answer is one empty string.
func compileStringNormalizer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	change := a.choice("case_change_action", "NONE", "LOWER", "UPPER")
	exact, stop, locale := a.int("is_case_sensitive", 0) != 0, a.strings("stopwords"), a.str("locale", "")
	lower, upper := strings.ToLower, strings.ToUpper
	if lang, _, _ := strings.Cut(strings.ReplaceAll(locale, "-", "_"), "_"); lang == "tr" || lang == "az" {
		// the two languages whose i has a dotted and a dotless form; the others share Unicode's simple mapping
		lower = func(s string) string { return strings.ToLowerSpecial(unicode.TurkishCase, s) }
		upper = func(s string) string { return strings.ToUpperSpecial(unicode.TurkishCase, s) }
	}
	drop := make(map[string]bool, len(stop))
	for _, s := range stop {
		if !exact {
			s = lower(s)
		}
		drop[s] = true
	}
	return func(c *Ctx) error {
		x := c.In(0)
		s := x.Shape()
		if len(s) != 1 && (len(s) != 2 || s[0] != 1) {
			return fmt.Errorf("input 0 is %s, which is neither [C] nor [1,C]", x)
		}
		var kept []string
		for _, w := range tensor.Data[string](x) {
			if len(drop) > 0 && (exact && drop[w] || !exact && drop[lower(w)]) {
				continue
			}
			switch change {
			case 1:
				w = lower(w)
			case 2:
				w = upper(w)
			}
			kept = append(kept, w)
		}
		if len(kept) == 0 {
			kept = []string{""}
		}
		shape := slices.Clone(s)
		shape[len(shape)-1] = len(kept)
		y, err := c.Alloc(0, tensor.String, shape...)
		if err != nil {
			return err
		}
		copy(tensor.Data[string](y), kept)
		return nil
	}, a.err
}

// compileRegexFullMatch tells which strings match as a whole. The standard's syntax is RE2's, which Go's package follows
// but for \C.
func compileRegexFullMatch(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	pattern := a.str("pattern", "")
	if n.Attr("pattern") == nil {
		a.fail("attribute pattern is missing")
	}
	if a.err != nil {
		return nil, a.err
	}
	// on its own first: a parenthesis too many must not close the group around it
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, fmt.Errorf("attribute pattern: %w", err)
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("attribute pattern: %w", err)
	}
	return func(c *Ctx) error {
		x := c.In(0)
		y, err := c.Alloc(0, tensor.Bool, x.Shape()...)
		if err != nil {
			return err
		}
		in, out := tensor.Data[string](x), tensor.Data[bool](y)
		c.Pool.For(len(in), 64, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				out[i] = whole.MatchString(in[i])
			}
		})
		return nil
	}, nil
}

// tfIdfWidth is the number of columns: one more than the greatest index.
func tfIdfWidth(indexes []int64) (int, error) {
	top := int64(-1)
	for _, i := range indexes {
		if i < 0 || i > math.MaxInt32 {
			return 0, fmt.Errorf("attribute ngram_indexes holds %d", i)
		}
		top = max(top, i)
	}
	return int(top + 1), nil
}

func inferTfIdf(n *Node) ([]Info, error) {
	width, err := tfIdfWidth(n.Ints("ngram_indexes", nil))
	if err != nil {
		return nil, err
	}
	x := n.In[0]
	switch x.Rank() {
	case -1:
		return []Info{Unranked(tensor.Float32)}, nil
	case 1:
		return []Info{Tensor(tensor.Float32, D(width))}, nil
	case 2:
		return []Info{Tensor(tensor.Float32, x.Shape[0], D(width))}, nil
	}
	return nil, fmt.Errorf("input 0 has shape %v, which is neither [C] nor [N,C]", x.Shape)
}

// tfIdf is TfIdfVectorizer's attributes.
type tfIdf struct {
	mode           int // countTokens and so on
	shortest, most int
	skips          int
	indexes        []int64
	weights        []float32
	width          int
}

const (
	termFrequency = iota
	inverseDocumentFrequency
	bothFrequencies
)

// gram is a prefix of n-grams: where they go on, and the number of the one that ends here, -1 for none.
type gram[K comparable] struct {
	next map[K]*gram[K]
	id   int
}

func compileTfIdf(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	m := tfIdf{mode: a.choice("mode", "TF", "IDF", "TFIDF"), indexes: a.ints("ngram_indexes"), weights: a.floats("weights")}
	shortest, longest, skips := a.int("min_gram_length", 0), a.int("max_gram_length", 0), a.int("max_skip_count", 0)
	starts, ints, strs := a.ints("ngram_counts"), a.ints("pool_int64s"), a.strings("pool_strings")
	if n.Str("mode", "") == "" {
		a.fail("attribute mode is missing")
	}
	switch {
	case shortest < 1 || longest < shortest || longest > int64(len(starts)):
		a.fail("n-grams of %d to %d, with %d counts", shortest, longest, len(starts))
	case skips < 0:
		a.fail("attribute max_skip_count is %d", skips)
	case (len(ints) == 0) == (len(strs) == 0):
		a.fail("exactly one of the attributes pool_int64s and pool_strings must be given")
	case len(m.weights) != 0 && len(m.weights) != len(m.indexes):
		a.fail("%d weights for %d n-grams", len(m.weights), len(m.indexes))
	}
	if a.err != nil {
		return nil, a.err
	}
	var err error
	if m.width, err = tfIdfWidth(m.indexes); err != nil {
		return nil, err
	}
	m.shortest, m.most, m.skips = int(shortest), int(longest), int(min(skips, math.MaxInt32))
	if len(ints) > 0 {
		root, err := gramsOf(ints, starts, m)
		if err != nil {
			return nil, err
		}
		wide := vectorize(root, m, func(x *tensor.Tensor) []int64 {
			v, _ := x.Int64s() // an int32 or int64 tensor has them
			return v
		})
		return Table{tensor.Int64: wide, tensor.Int32: wide}.By(0), nil
	}
	root, err := gramsOf(strs, starts, m)
	if err != nil {
		return nil, err
	}
	return Table{tensor.String: vectorize(root, m, tensor.Data[string])}.By(0), nil
}

// gramsOf reads the pool: from starts[k-1] on the n-grams of length k, one after the other. They are numbered
// through, whether their length counts or not.
func gramsOf[K comparable](pool []K, starts []int64, m tfIdf) (*gram[K], error) {
	root, id := &gram[K]{id: -1}, 0
	for k := range starts {
		length, end := k+1, int64(len(pool))
		if k+1 < len(starts) {
			end = starts[k+1]
		}
		if starts[k] < 0 || starts[k] > end || end > int64(len(pool)) || (end-starts[k])%int64(length) != 0 {
			return nil, fmt.Errorf("attribute ngram_counts: %d-grams cannot be elements %d to %d of a pool of %d", length, starts[k], end, len(pool))
		}
		for at := int(starts[k]); at < int(end); at += length {
			if id >= len(m.indexes) {
				return nil, fmt.Errorf("the pool holds more n-grams than the %d of attribute ngram_indexes", len(m.indexes))
			}
			if length >= m.shortest && length <= m.most {
				g := root
				for _, w := range pool[at : at+length] {
					if g.next == nil {
						g.next = map[K]*gram[K]{}
					}
					if g.next[w] == nil {
						g.next[w] = &gram[K]{id: -1}
					}
					g = g.next[w]
				}
				g.id = id
			}
			id++
		}
	}
	return root, nil
}

func vectorize[K comparable](root *gram[K], m tfIdf, read func(*tensor.Tensor) []K) Kernel {
	return func(c *Ctx) error {
		x := c.In(0)
		rows, width, err := mlRows(x)
		if err != nil {
			return err
		}
		shape := []int{m.width}
		if x.Rank() == 2 {
			shape = []int{rows, m.width}
		}
		y, err := c.Alloc(0, tensor.Float32, shape...)
		if err != nil {
			return err
		}
		words, out := read(x), tensor.Data[float32](y)
		clear(out)
		c.Pool.For(rows, 1+1024/max(1, width), func(lo, hi int) {
			for r := lo; r < hi; r++ {
				if c.Context.Err() != nil {
					return
				}
				m.count(root.in(words[r*width:(r+1)*width]), width, out[r*m.width:(r+1)*m.width])
			}
		})
		return c.Context.Err()
	}
}

// in is the walk through words: each gram found from a start at a distance, told with its length.
func (g *gram[K]) in(words []K) func(start, distance, most int, found func(length, id int)) {
	return func(start, distance, most int, found func(length, id int)) {
		at := g
		for length := 1; length <= most && start < len(words); length++ {
			if at = at.next[words[start]]; at == nil {
				return
			}
			if at.id >= 0 {
				found(length, at.id)
			}
			start += distance
		}
	}
}

// count adds up the n-grams of one row, words of which up to skips may lie between any two of an n-gram. Single words
// have none between them and count once.
func (m tfIdf) count(walk func(start, distance, most int, found func(length, id int)), words int, out []float32) {
	shortest := m.shortest
	hit := func(length, id int) {
		if length < shortest {
			return
		}
		weight := float32(1)
		if m.mode != termFrequency && len(m.weights) > 0 {
			weight = m.weights[id]
		}
		o := &out[m.indexes[id]]
		if m.mode != inverseDocumentFrequency {
			*o += weight
		} else if *o == 0 {
			*o = weight
		}
	}
	for distance := 1; distance <= m.skips+1; distance++ {
		if distance*(shortest-1) >= words {
			return
		}
		for start := range words {
			walk(start, distance, m.most, hit)
		}
		if shortest == 1 {
			if shortest++; shortest > m.most {
				return
			}
		}
	}
}
