package difftest

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/ops"
)

// alone are the operators that no model of TestAgainstONNXRuntime holds, and why.
var alone = map[string]string{}

func init() {
	const (
		draws  = "its answer is drawn: ops/random_test.go holds the distribution"
		newer  = "ONNX Runtime 1.30 ends at opset 25"
		maps   = "its binding for JavaScript passes no maps; ops/ml_test.go has own cases"
		absent = "ONNX Runtime has no kernel for processors"
	)
	for why, names := range map[string][]string{
		draws:  {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"},
		newer:  {"BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "SwiGLU", "ai.onnx.preview.FlexAttention"},
		maps:   {"ai.onnx.ml.CastMap", "ai.onnx.ml.DictVectorizer", "ai.onnx.ml.ZipMap"},
		absent: {"ImageDecoder", "ai.onnx.preview.training.Adagrad", "ai.onnx.preview.training.Adam", "ai.onnx.preview.training.Momentum", "com.microsoft.QLinearReduceMean"},
		"its trees are those of TreeEnsembleRegressor, which is compared; the standard's cases hold its form": {"ai.onnx.ml.TreeEnsemble"},
	} {
		for _, name := range names {
			alone[name] = why
		}
	}
}

func TestEveryOperatorIsCompared(t *testing.T) {
	seen := map[string]bool{}
	for _, op := range ops.All() {
		if op.Domain == ops.Internal {
			continue
		}
		name := op.Name
		if op.Domain != "" {
			name = op.Domain + "." + op.Name
		}
		seen[name] = true
		if generators[name] == nil && alone[name] == "" {
			t.Errorf("%s has neither a generator nor a reason why not", name)
		}
		if generators[name] != nil && alone[name] != "" {
			t.Errorf("%s has a generator and a reason why not", name)
		}
	}
	for name := range alone {
		if !seen[name] {
			t.Errorf("%s is no operator", name)
		}
	}
}

var update = flag.Bool("update", false, "write docs/deviations.md")

// docs/deviations.md lists the deviations.
func TestDeviationsAreListed(t *testing.T) {
	var b strings.Builder
	fmt.Fprint(&b, `# Where ONNX Runtime differs from the standard

Retune is held against ONNX Runtime 1.30 on generated models of every operator ('make conformance-ort'). Where the two differ, the standard's
text decides. These are the cases in which ONNX Runtime gives another answer than the text, or refuses what it permits; everything else
agrees within rounding. The table is made from the list that the test goes by: 'go test ./internal/difftest -run Deviations -args -update'.

| operators | what ONNX Runtime does | what the standard says, and what differs |
| --- | --- | --- |
`)
	for _, d := range deviations {
		does := "answers differently"
		if d.refusal != "" {
			does = "refuses"
		}
		names := strings.Fields(d.ops)
		slices.Sort(names)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(names, ", "), does, strings.ReplaceAll(d.clause, "|", "\\|"))
	}
	want := strings.ReplaceAll(b.String(), "'", "`")
	const file = "../../docs/deviations.md"
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s is not what the list of deviations makes: %v", file, err)
	}
}
