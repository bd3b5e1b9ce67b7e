package difftest

import (
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func (g *gen) floats(name string, v ...float32) {
	g.attrs = append(g.attrs, onnx.FloatsAttr(name, v...))
}
func (g *gen) strs(name string, v ...string) { g.attrs = append(g.attrs, onnx.StringsAttr(name, v...)) }

// numbers are n random float32s, small fractions so that sums of them are exact.
func (g *gen) numbers(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(g.in(-40, 40)) / 8
	}
	return out
}

// labels gives a classifier n classes, integers or strings, and says what they are called.
func (g *gen) labels(ints, strs string, n int) {
	if g.chance(2) {
		names := []string{"a", "bb", "c", "d", "e"}
		g.strs(strs, names[:n]...)
		return
	}
	v := []int64{}
	for i := range n {
		v = append(v, int64(3*i-1))
	}
	if g.chance(2) {
		for i := range v {
			v[i] = int64(i)
		}
	}
	g.ints(ints, v...)
}

// post are the transforms of scores but PROBIT, which the standard does not give a formula for.
var post = []string{"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"}

func init() {
	ml := func(name string, f func(g *gen)) {
		generators["ai.onnx.ml."+name] = func(g *gen) { g.plain = true; f(g) }
	}
	ml("ArrayFeatureExtractor", func(g *gen) {
		s := g.full(1, 3)
		idx := make([]int64, g.in(1, 4))
		for i := range idx {
			idx[i] = int64(g.IntN(s[len(s)-1]))
		}
		g.node(1, g.rand(s...), g.int64s(idx...))
	})
	ml("Binarizer", func(g *gen) {
		g.maybeFloat("threshold", -1, 1)
		g.node(1, g.rand(g.full(1, 3)...))
	})
	ml("CategoryMapper", func(g *gen) {
		names := []string{"", "a", "b", "Abc", "zwei"}
		g.strs("cats_strings", names...)
		g.ints("cats_int64s", 5, 2, 7, 1, -3)
		g.dtype = one(g, tensor.String, tensor.Int64)
		if g.dtype == tensor.String {
			g.maybe("default_int64", -1, 42)
		} else if g.chance(2) {
			g.str("default_string", "none")
		}
		g.node(1, g.rand(g.full(1, 2)...))
	})
	ml("FeatureVectorizer", func(g *gen) {
		n, rows := g.in(1, 3), g.in(1, 3)
		sizes, inputs := []int64{}, []*onnx.Value{}
		g.dtype = one(g, tensor.Float32, tensor.Float64, tensor.Int32, tensor.Int64)
		for range n {
			w := g.in(1, 4)
			sizes, inputs = append(sizes, int64(w)), append(inputs, g.rand(rows, w))
		}
		g.ints("inputdimensions", sizes...)
		g.node(1, inputs...)
	})
	ml("Imputer", func(g *gen) {
		s := []int{g.in(1, 4), g.in(1, 4)}
		n := one(g, 1, s[1])
		x := g.tensor(g.dtype, s...)
		if g.dtype.IsFloat() {
			g.floats("imputed_value_floats", g.numbers(n)...)
			bad := float64(one(g, 0, 1))
			if g.chance(2) {
				bad = math.NaN()
			}
			g.float("replaced_value_float", float32(bad))
			for i := range x.Len() {
				if g.chance(3) {
					tensor.SetFloat64At(x, i, bad)
				}
			}
		} else {
			v := make([]int64, n)
			for i := range v {
				v[i] = int64(g.in(-5, 5))
			}
			g.ints("imputed_value_int64s", v...)
			g.int("replaced_value_int64", 2)
		}
		g.node(1, g.feed(x))
	})
	ml("LabelEncoder", func(g *gen) {
		if g.since == 1 {
			g.strs("classes_strings", "a", "b", "Abc", "zwei", "1")
			g.dtype = one(g, tensor.String, tensor.Int64)
			if g.dtype == tensor.String {
				g.maybe("default_int64", -1, 9)
			} else if g.chance(2) {
				g.str("default_string", "none")
			}
			g.node(1, g.rand(g.full(1, 3)...))
			return
		}
		kinds := []tensor.DType{tensor.String, tensor.Int64, tensor.Float32}
		from, to := one(g, kinds...), one(g, kinds...)
		if g.since == 2 {
			for from == to && g.chance(2) {
				to = one(g, kinds...)
			}
		}
		put := func(prefix string, d tensor.DType) {
			switch d {
			case tensor.String:
				g.strs(prefix+"_strings", "a", "b", "Abc", "1")
			case tensor.Int64:
				g.ints(prefix+"_int64s", 1, 2, -3, 0)
			default:
				g.floats(prefix+"_floats", 1, 2, -3, 4.5)
			}
		}
		put("keys", from)
		put("values", to)
		if g.chance(2) {
			switch to {
			case tensor.String:
				g.str("default_string", "none")
			case tensor.Int64:
				g.int("default_int64", 77)
			default:
				g.float("default_float", 7.5)
			}
		}
		g.dtype = from
		x := g.tensor(from, g.full(1, 3)...)
		for i := range x.Len() {
			if from != tensor.String && g.chance(2) {
				v := one(g, 1.0, 2, -3, 0)
				if from == tensor.Float32 && g.chance(3) {
					v = math.NaN()
				}
				tensor.SetFloat64At(x, i, v)
			}
		}
		g.node(1, g.feed(x))
	})
	ml("Normalizer", func(g *gen) {
		g.str("norm", one(g, "MAX", "L1", "L2"))
		g.node(1, g.rand(g.full(1, 2)...))
	})
	ml("OneHotEncoder", func(g *gen) {
		g.maybe("zeros", 0, 1)
		if g.dtype == tensor.String {
			g.strs("cats_strings", "a", "b", "Abc", "", "1")
		} else {
			g.ints("cats_int64s", -1, 0, 1, 2, 3)
		}
		x := g.tensor(g.dtype, g.full(1, 3)...)
		for i := range x.Len() {
			if g.dtype != tensor.String {
				tensor.SetFloat64At(x, i, float64(g.in(-1, 3)))
			}
		}
		g.node(1, g.feed(x))
	})
	ml("Scaler", func(g *gen) {
		s := g.full(1, 3)
		n := one(g, 1, s[len(s)-1])
		g.floats("offset", g.numbers(n)...)
		g.floats("scale", g.numbers(n)...)
		g.node(1, g.rand(s...))
	})
	ml("LinearRegressor", func(g *gen) {
		n, f, targets := g.in(1, 4), g.in(1, 4), g.in(1, 3)
		g.floats("coefficients", g.numbers(f*targets)...)
		if g.chance(2) {
			g.floats("intercepts", g.numbers(targets)...)
		}
		g.int("targets", targets)
		if g.chance(2) {
			g.str("post_transform", one(g, post...))
		}
		g.node(1, g.rand(n, f))
	})
	ml("LinearClassifier", func(g *gen) {
		n, f, classes := g.in(1, 4), g.in(1, 4), g.in(2, 4)
		rows := classes
		if classes == 2 && g.chance(2) {
			rows = 1
		}
		g.floats("coefficients", g.numbers(f*rows)...)
		g.floats("intercepts", g.numbers(rows)...)
		g.labels("classlabels_ints", "classlabels_strings", classes)
		if g.chance(2) {
			g.str("post_transform", one(g, post...))
		}
		g.maybe("multi_class", 0, 1)
		g.node(2, g.rand(n, f))
	})
	kernel := func(g *gen) {
		g.str("kernel_type", one(g, "LINEAR", "POLY", "RBF", "SIGMOID"))
		g.floats("kernel_params", 0.25+g.Float32()/4, g.Float32(), float32(g.in(1, 3)))
	}
	ml("SVMRegressor", func(g *gen) {
		n, f, sv := g.in(1, 4), g.in(1, 4), g.in(0, 3)
		kernel(g)
		g.floats("rho", g.numbers(1)...)
		if sv == 0 {
			g.floats("coefficients", g.numbers(f)...)
		} else {
			g.floats("coefficients", g.numbers(sv)...)
			g.floats("support_vectors", g.numbers(sv*f)...)
		}
		g.int("n_supports", sv)
		g.maybe("one_class", 0, 1)
		if g.chance(2) {
			g.str("post_transform", one(g, post...))
		}
		g.node(1, g.rand(n, f))
	})
	ml("SVMClassifier", func(g *gen) {
		n, f, classes := g.in(1, 4), g.in(1, 4), g.in(2, 4)
		kernel(g)
		g.labels("classlabels_ints", "classlabels_strings", classes)
		if g.chance(4) { // a linear one without support vectors
			g.floats("coefficients", g.numbers(f*classes)...)
			g.floats("rho", g.numbers(1)...)
		} else {
			per, total := []int64{}, 0
			for range classes {
				k := g.in(1, 3)
				per, total = append(per, int64(k)), total+k
			}
			g.ints("vectors_per_class", per...)
			g.floats("support_vectors", g.numbers(total*f)...)
			g.floats("coefficients", g.numbers(total*(classes-1))...)
			pairs := classes * (classes - 1) / 2
			g.floats("rho", g.numbers(pairs)...)
			if g.chance(2) {
				g.floats("prob_a", g.numbers(pairs)...)
				g.floats("prob_b", g.numbers(pairs)...)
			}
		}
		if g.chance(2) {
			g.str("post_transform", one(g, post...))
		}
		g.node(2, g.rand(n, f))
	})
	ml("TreeEnsembleRegressor", func(g *gen) {
		targets := g.in(1, 3)
		g.str("aggregate_function", one(g, "SUM", "AVERAGE", "MIN", "MAX"))
		g.int("n_targets", targets)
		if g.chance(2) {
			g.floats("base_values", g.numbers(targets)...)
		}
		if g.chance(3) {
			g.str("post_transform", one(g, post...))
		}
		g.trees("target", targets)
	})
	ml("TreeEnsembleClassifier", func(g *gen) {
		classes := g.in(2, 4)
		g.labels("classlabels_int64s", "classlabels_strings", classes)
		if g.chance(2) {
			g.floats("base_values", g.numbers(classes)...)
		}
		if g.chance(2) {
			g.str("post_transform", one(g, post...))
		}
		weights := classes
		if classes == 2 && g.chance(2) {
			weights = 1
		}
		g.trees("class", weights)
	})
}

// trees are the attributes of a forest and the node over it.
func (g *gen) trees(prefix string, targets int) {
	if g.since == 5 { // deprecated there
		return
	}
	f := g.in(1, 4)
	var tree, id, feature, yes, no, missing []int64
	var values, weights []float32
	var modes []string
	var wTree, wNode, wID []int64
	mode := one(g, "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
	mixed := g.chance(4)
	for t := range g.in(1, 4) {
		next := 0
		var grow func(depth int) int64
		grow = func(depth int) int64 {
			me := next
			next++
			at := len(id)
			tree, id = append(tree, int64(t)), append(id, int64(me))
			feature, yes, no, missing = append(feature, 0), append(yes, 0), append(no, 0), append(missing, 0)
			values, modes = append(values, 0), append(modes, "LEAF")
			if depth == 0 || depth < 3 && g.chance(3) {
				for k := range targets {
					if k > 0 && g.chance(3) {
						continue
					}
					wTree, wNode, wID = append(wTree, int64(t)), append(wNode, int64(me)), append(wID, int64(k))
					weights = append(weights, g.numbers(1)[0])
				}
				return int64(me)
			}
			m := mode
			if mixed {
				m = one(g, "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
			}
			modes[at], feature[at], values[at], missing[at] = m, int64(g.IntN(f)), float32(g.in(-3, 3)), int64(g.IntN(2))
			y := grow(depth - 1)
			n := grow(depth - 1)
			yes[at], no[at] = y, n
			return int64(me)
		}
		grow(3)
	}
	g.ints("nodes_treeids", tree...)
	g.ints("nodes_nodeids", id...)
	g.ints("nodes_featureids", feature...)
	g.ints("nodes_truenodeids", yes...)
	g.ints("nodes_falsenodeids", no...)
	tracks := g.chance(2)
	if tracks {
		g.ints("nodes_missing_value_tracks_true", missing...)
	}
	g.strs("nodes_modes", modes...)
	g.floats("nodes_values", values...)
	g.ints(prefix+"_treeids", wTree...)
	g.ints(prefix+"_nodeids", wNode...)
	g.ints(prefix+"_ids", wID...)
	g.floats(prefix+"_weights", weights...)
	x := g.tensor(g.dtype, g.in(1, 6), f)
	for i := range x.Len() {
		if v := tensor.Float64At(x, i); g.dtype.IsFloat() {
			tensor.SetFloat64At(x, i, math.Round(v))
			if tracks && g.chance(8) {
				tensor.SetFloat64At(x, i, math.NaN())
			}
		}
	}
	outs := 1
	if prefix == "class" {
		outs = 2
	}
	g.node(outs, g.feed(x))
}
