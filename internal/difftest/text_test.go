package difftest

import (
	"strings"

	"github.com/retune-go/retune/tensor"
)

func init() {
	generators["StringConcat"] = func(g *gen) { binary(g) }
	generators["StringNormalizer"] = func(g *gen) {
		g.str("case_change_action", one(g, "LOWER", "UPPER", "NONE"))
		g.maybe("is_case_sensitive", 0, 1)
		g.str("locale", "C")
		if g.chance(2) {
			g.strs("stopwords", "a", "ABC", "zwei")
		}
		s := []int{g.in(1, 5)}
		if g.chance(2) {
			s = []int{1, g.in(1, 5)}
		}
		x := g.tensor(tensor.String, s...)
		for i, v := range tensor.Data[string](x) {
			tensor.Data[string](x)[i] = strings.ReplaceAll(v, "ü", "U") // which letters there are is the locale's
		}
		g.node(1, g.feed(x))
	}
	generators["StringSplit"] = func(g *gen) {
		x := g.tensor(tensor.String, g.shape(0, 2)...)
		for i := range tensor.Data[string](x) {
			tensor.Data[string](x)[i] = one(g, "a b", " a  b ", "", "a,b,,c", ",", "one", "a\tb\nc", "x--y--", "ü ö")
		}
		if g.chance(2) {
			g.str("delimiter", one(g, ",", " ", "--", ""))
		}
		g.maybe("maxsplit", 1, 2, 3)
		g.node(2, g.feed(x))
	}
	generators["RegexFullMatch"] = func(g *gen) {
		g.str("pattern", one(g, "a", "[a-z]+", ".*", "(a|b)?", `\d+`, "Abc|zwei", `-?\d+(\.\d+)?`, "^a$", "(?i)ABC"))
		g.node(1, g.rand(g.shape(0, 3)...))
	}
	generators["TfIdfVectorizer"] = func(g *gen) {
		g.dtype = one(g, tensor.Int32, tensor.Int64, tensor.String)
		maxN := g.in(1, 3)
		minN := g.in(1, maxN)
		g.int("min_gram_length", minN)
		g.int("max_gram_length", maxN)
		g.int("max_skip_count", g.in(0, 3))
		g.str("mode", one(g, "TF", "IDF", "TFIDF"))
		words := []string{"a", "b", "c", "d"}
		counts, pool, n := []int64{}, []int64{}, 0
		seen := map[[3]int64]bool{}
		for size := 1; size <= maxN; size++ {
			counts = append(counts, int64(len(pool)))
			for range g.in(1, 4) {
				var gram [3]int64
				for i := range size {
					gram[i] = 1 + int64(g.IntN(4))
				}
				if seen[gram] {
					continue
				}
				seen[gram] = true
				pool = append(pool, gram[:size]...)
				n++
			}
		}
		g.ints("ngram_counts", counts...)
		index := make([]int64, n)
		for i, p := range g.Perm(n) {
			index[i] = int64(2 * p)
		}
		g.ints("ngram_indexes", index...)
		if g.chance(2) {
			g.floats("weights", g.numbers(n)...)
		}
		x := g.tensor(g.dtype, g.full(1, 2)...)
		for i := range x.Len() {
			if g.dtype == tensor.String {
				tensor.Data[string](x)[i] = words[g.IntN(4)]
			} else {
				tensor.SetFloat64At(x, i, float64(g.in(1, 4)))
			}
		}
		if g.dtype == tensor.String {
			var text []string
			for _, v := range pool {
				text = append(text, words[v-1])
			}
			g.strs("pool_strings", text...)
		} else {
			g.ints("pool_int64s", pool...)
		}
		g.node(1, g.feed(x))
	}
}
