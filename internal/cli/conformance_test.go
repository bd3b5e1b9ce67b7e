package cli

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// broken112 are cases whose data in ONNX 1.12, the set that Debian packages, is not what their models say;
// later releases of the suite mended them.
var broken112 = map[string]string{
	"test_adam_multiple":                       "the model lacks the epsilon that its answer was computed with",
	"test_cast_FLOAT_to_BFLOAT16":              "expects bfloat16 cut off, where the standard rounds",
	"test_castlike_FLOAT_to_BFLOAT16":          "an input has another shape than the model declares",
	"test_castlike_BFLOAT16_to_FLOAT":          "an input has another shape than the model declares",
	"test_castlike_FLOAT_to_BFLOAT16_expanded": "an input has another shape than the model declares",
	"test_castlike_BFLOAT16_to_FLOAT_expanded": "an input has another shape than the model declares",
	"test_cast_FLOAT_to_BFLOAT16_expanded":     "expects bfloat16 cut off, where the standard rounds",
}

// missingOperator is how a model is refused for an operator that the registry has not.
var missingOperator = regexp.MustCompile(`operator \S+ at opset \d+ is not supported`)

// floors are how many cases of each set have passed before, and must from then on. Raise them.
var floors = map[string]int{"node": 1795, "simple": 23, "pytorch-converted": 82, "pytorch-operator": 35, "real": 32}

// verifyAll runs every case and says how many ran and passed. A case whose operators are all in the
// registry must pass; the rest are counted by the first operator that is missing.
func verifyAll(t *testing.T, set string, dirs []string) {
	passed, skipped, missing := 0, 0, map[string]int{}
	_, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(dirs[0])), "node", "test_attention_4d"))
	old := err != nil && set != "real" // the suite from before opset 23
	for _, d := range dirs {
		r := Verify(context.Background(), d, nil, runtime.Threads(1))
		why, broken := broken112[r.Name]
		switch {
		case old && broken:
			t.Logf("skipped: %s: %s", r.Name, why)
			skipped++
		case r.Status == "PASS":
			passed++
		case r.Status == "SKIP":
			skipped++
		case missingOperator.MatchString(r.Why):
			missing[r.Why[:min(len(r.Why), 100)]]++
		default:
			t.Errorf("%s: %s", r.Name, r.Why)
		}
	}
	unsupported := 0
	for _, n := range missing {
		unsupported += n
	}
	t.Logf("%d cases: %d passed, %d need what is not supported, %d skipped", len(dirs), passed, unsupported, skipped)
	if !old && passed < floors[set] {
		t.Errorf("%d passed, but %d did before", passed, floors[set])
	}
	if passed == 0 {
		t.Error("nothing passed")
	}
}

func TestConformance(t *testing.T) {
	root := testkit.Dir(t, "conformance")
	for _, set := range []string{"node", "simple", "pytorch-converted", "pytorch-operator"} {
		t.Run(set, func(t *testing.T) {
			if _, err := os.Stat(filepath.Join(root, set)); err != nil {
				t.Skipf("skipped: this copy of the suite has no %s", set)
			}
			dirs, err := Cases(filepath.Join(root, set))
			if err != nil {
				t.Fatal(err)
			}
			verifyAll(t, set, dirs)
		})
	}
}

// TestLightModels runs nine classic networks, whose weights are constant, on the input that the standard's runner makes up: a ramp.
// squeezenet's softmax is one of a thousand equal numbers near 1e10, where the last bit of one takes all: what is held against
// the recorded answer, all equal, is its input.
func TestLightModels(t *testing.T) {
	dir := filepath.Join(testkit.Dir(t, "conformance"), "light")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("skipped: this copy of the suite has no light")
	}
	models, err := filepath.Glob(filepath.Join(dir, "*.onnx"))
	if err != nil || len(models) != 9 {
		t.Fatalf("%d models, not nine: %v", len(models), err)
	}
	for _, path := range models {
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, err := onnx.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			tie := filepath.Base(path) == "light_squeezenet.onnx"
			if tie {
				m.Graph.Outputs = []*onnx.Value{m.Graph.Outputs[0].Def().Inputs[0]}
			}
			s, err := runtime.NewSession(m)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			args := map[string]tensor.Value{}
			for _, in := range m.Graph.Inputs {
				if in.Const != nil {
					continue
				}
				shape := make([]int, len(in.Type.Shape))
				for i, d := range in.Type.Shape {
					shape[i] = int(d.Value)
				}
				x, err := tensor.Zeros(tensor.Float32, shape...)
				if err != nil {
					t.Fatal(err)
				}
				for i := range x.Len() {
					tensor.SetFloat64At(x, i, float64(i)/float64(x.Len()))
				}
				args[in.Name] = x
			}
			data, err := os.ReadFile(strings.TrimSuffix(path, ".onnx") + "_output_0.pb")
			if err != nil {
				t.Fatal(err)
			}
			want, err := onnx.DecodeValue(data, nil)
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.Run(context.Background(), args)
			if err != nil {
				t.Fatal(err)
			}
			got := out[m.Graph.Outputs[0].Name]
			if tie {
				x, shares := tensor.Data[float32](got.(*tensor.Tensor)), tensor.Data[float32](want.(*tensor.Tensor))
				if len(x) != len(shares) {
					t.Fatalf("%d logits, where %d shares are recorded", len(x), len(shares))
				}
				for i, p := range shares {
					if p != 0.001 || !(math.Abs(float64(x[i]/x[0])-1) <= 1e-6) { // nor NaN
						t.Fatalf("logit %d is %g, where the first is %g and the recorded share %g", i, x[i], x[0], p)
					}
				}
				return
			}
			if _, _, err := tensor.Compare(got, want, 1e-3, 1e-7); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRealModels(t *testing.T) {
	dirs, err := Cases(testkit.Dir(t, "models"))
	if err != nil {
		t.Fatal(err)
	}
	verifyAll(t, "real", dirs)
}

// The models that the repository ships run to PyTorch's recorded outputs.
func TestShippedModels(t *testing.T) {
	dirs, err := Cases("../../models")
	if err != nil {
		t.Fatal(err)
	}
	variants, err := Cases("../../models/rnn_variants")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(dirs, variants...) {
		if r := Verify(context.Background(), d, &Tolerance{1e-4, 1e-5}); r.Status != "PASS" {
			t.Errorf("%s: %s", r.Name, r.Why)
		}
	}
}
