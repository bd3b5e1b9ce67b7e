package ops_test

import (
	"math"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// standardNode is a model of one operator of ai.onnx.
func standardNode(op string, outputs int, in []*tensor.Tensor, attrs ...*onnx.Attribute) *onnx.Model {
	m := mlNode(op, 1, outputs, in, attrs...)
	m.Opsets[0].Version, m.Graph.Nodes[0].Domain = 21, ""
	return m
}

func TestText(t *testing.T) {
	one := func(x *tensor.Tensor) []*tensor.Tensor { return []*tensor.Tensor{x} }
	grams := func(mode string, indexes ...int64) []*onnx.Attribute {
		return []*onnx.Attribute{onnx.StringAttr("mode", mode), onnx.IntAttr("min_gram_length", 1), onnx.IntAttr("max_gram_length", 2),
			onnx.IntAttr("max_skip_count", 1), onnx.IntsAttr("ngram_counts", 0, 3), onnx.IntsAttr("ngram_indexes", indexes...),
			onnx.IntsAttr("pool_int64s", 1, 2, 3, 1, 2, 3, 3), onnx.FloatsAttr("weights", .1, .2, .3, .4, .5)}
	}
	tokens := tensor.New([]int64{1, 2, 3, 1, 3, 3, 3, 2}, 2, 4)
	for _, c := range []struct {
		name  string
		op    string
		attrs []*onnx.Attribute
		in    *tensor.Tensor
		want  []*tensor.Tensor
	}{
		{"white space keeps the rest as it is", "StringSplit", []*onnx.Attribute{onnx.IntAttr("maxsplit", 1)}, tensor.New([]string{" a\tb  c", "", "d "}),
			[]*tensor.Tensor{tensor.New([]string{"a", "b  c", "", "", "d", ""}, 3, 2), tensor.New([]int64{2, 0, 1})}},
		{"delimiter", "StringSplit", []*onnx.Attribute{onnx.StringAttr("delimiter", ","), onnx.IntAttr("maxsplit", 1)}, tensor.New([]string{",x,", "y"}),
			[]*tensor.Tensor{tensor.New([]string{"", "x,", "y", ""}, 2, 2), tensor.New([]int64{2, 1})}},
		{"no splits", "StringSplit", []*onnx.Attribute{onnx.StringAttr("delimiter", ","), onnx.IntAttr("maxsplit", 0)}, tensor.New([]string{"a,b"}),
			[]*tensor.Tensor{tensor.New([]string{"a,b"}, 1, 1), tensor.New([]int64{1})}},
		{"stop words of any case", "StringNormalizer", []*onnx.Attribute{onnx.StringAttr("case_change_action", "UPPER"), onnx.StringsAttr("stopwords", "ÜNDER")},
			tensor.New([]string{"ünder", "Straße", "Ünder"}), one(tensor.New([]string{"STRAßE"}))},
		{"Turkish", "StringNormalizer", []*onnx.Attribute{onnx.StringAttr("case_change_action", "UPPER"), onnx.StringAttr("locale", "tr_TR")},
			tensor.New([]string{"iı"}, 1, 1), one(tensor.New([]string{"İI"}, 1, 1))},
		{"no words", "StringNormalizer", nil, tensor.New([]string{}, 0), one(tensor.New([]string{""}))},
		{"alternatives", "RegexFullMatch", []*onnx.Attribute{onnx.StringAttr("pattern", "(?i)a.c|ab")}, tensor.New([]string{"ABC", "a\nc", "ab", "abx"}),
			one(tensor.New([]bool{true, false, true, false}))},
		{"end of text only", "RegexFullMatch", []*onnx.Attribute{onnx.StringAttr("pattern", "abc$")}, tensor.New([]string{"abc", "abc\n"}), one(tensor.New([]bool{true, false}))},
		// the rest is what ONNX Runtime answers
		{"counts", "TfIdfVectorizer", grams("TF", 6, 0, 1, 3, 2), tokens, one(tensor.New([]float32{1, 1, 0, 1, 0, 0, 2, 1, 3, 3, 0, 0, 0, 0}, 2, 7))},
		{"weights", "TfIdfVectorizer", grams("IDF", 6, 0, 1, 3, 2), tokens, one(tensor.New([]float32{.2, .3, 0, .4, 0, 0, .1, .2, .3, .5, 0, 0, 0, 0}, 2, 7))},
		{"weighed counts", "TfIdfVectorizer", grams("TFIDF", 6, 0, 1, 3, 2), tokens, one(tensor.New([]float32{.2, .3, 0, .4, 0, 0, .2, .2, .9, 1.5, 0, 0, 0, 0}, 2, 7))},
	} {
		in := one(c.in)
		out, err := runNode(standardNode(c.op, len(c.want), in, c.attrs...), in)
		if err != nil {
			t.Errorf("%s, %s: %v", c.op, c.name, err)
			continue
		}
		for i, want := range c.want {
			if _, _, err := tensor.Compare(out["y"+string(rune('0'+i))], want, 1e-5, 1e-6); err != nil {
				t.Errorf("%s, %s: output %d: %v", c.op, c.name, i, err)
			}
		}
	}
}

func TestMalformedTextAttributesAreRefused(t *testing.T) {
	x := []*tensor.Tensor{tensor.New([]int64{1, 2})}
	attrs := func(more ...*onnx.Attribute) []*onnx.Attribute {
		n := &onnx.Node{Attrs: []*onnx.Attribute{onnx.StringAttr("mode", "TF"), onnx.IntAttr("min_gram_length", 1), onnx.IntAttr("max_gram_length", 2),
			onnx.IntAttr("max_skip_count", 0), onnx.IntsAttr("ngram_counts", 0, 1), onnx.IntsAttr("ngram_indexes", 0, 1), onnx.IntsAttr("pool_int64s", 1, 1, 2)}}
		for _, a := range more {
			n.SetAttr(a)
		}
		return n.Attrs
	}
	for _, c := range []struct {
		why   string
		attrs []*onnx.Attribute
	}{
		{"ngram_counts", attrs(onnx.IntsAttr("ngram_counts", 0, 9))},
		{"ngram_counts", attrs(onnx.IntsAttr("ngram_counts", -1, 1))},
		{"ngram_counts", attrs(onnx.IntsAttr("ngram_counts", 0, 2))},
		{"ngram_indexes", attrs(onnx.IntsAttr("ngram_indexes", 0, math.MinInt64))},
		{"more n-grams", attrs(onnx.IntsAttr("ngram_indexes", 0))},
		{"n-grams of 1 to 9", attrs(onnx.IntAttr("max_gram_length", 9))},
		{"memory", attrs(onnx.IntsAttr("ngram_indexes", 0, math.MaxInt32), onnx.IntAttr("max_skip_count", math.MaxInt64))},
	} {
		in := []*tensor.Tensor{tensor.New([]int64{1, 2}, 1, 2)}
		if c.why == "memory" { // a row more makes the answer larger than any limit
			in[0] = tensor.New([]int64{1, 2, 1, 2, 1, 2}, 3, 2)
		}
		if _, err := runNode(standardNode("TfIdfVectorizer", 1, in, c.attrs...), in); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("want an error with %q, got %v", c.why, err)
		}
	}
	if _, err := runNode(standardNode("RegexFullMatch", 1, x, onnx.StringAttr("pattern", "a)(b")), x); err == nil {
		t.Error("a pattern of unbalanced parentheses passes")
	}
}
