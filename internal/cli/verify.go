package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// Tolerance is what a difference from a recorded output may be.
type Tolerance struct{ Rtol, Atol float64 }

// Result is one case of a verification.
type Result struct {
	Name   string  `json:"name"`
	Status string  `json:"status"` // PASS, FAIL or SKIP
	Why    string  `json:"why,omitempty"`
	MaxAbs float64 `json:"max_abs"`
	MaxRel float64 `json:"max_rel"`
}

// skips are the cases for which the standard fixes no answer, and one that needs what Go has no library for.
var skips = map[string]string{
	"test_bernoulli":                 "random draws without a seed",
	"test_bernoulli_double":          "random draws without a seed",
	"test_bernoulli_seed":            "the standard does not fix the generator behind a seed",
	"test_bernoulli_expanded":        "random draws without a seed",
	"test_bernoulli_double_expanded": "random draws without a seed",
	"test_bernoulli_seed_expanded":   "the standard does not fix the generator behind a seed",

	"test_image_decoder_decode_jpeg2k_rgb": "JPEG 2000 is not supported",
}

// noisy are the cases whose recorded answer is, where the true one is 0, what float32 made of it, and the absolute tolerance
// that this asks for.
var noisy = map[string]float64{
	"test_dft_inverse":         3e-7, // the imaginary parts of row 5 are recorded as 1.9e-7
	"test_dft_inverse_opset19": 3e-7,
}

// Cases lists the folders below path (itself included) that hold a model.onnx and a
// data set, in ONNX's backend-test layout.
func Cases(path string) ([]string, error) {
	if isCase(path) {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if p := filepath.Join(path, e.Name()); e.IsDir() && isCase(p) {
			out = append(out, p)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("%s: no folder with a model.onnx and a test_data_set_0 in it", path)
	}
	return out, nil
}

func isCase(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "model.onnx"))
	sets, _ := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
	return err == nil && len(sets) > 0
}

// Verify runs one case. tol nil: the case's own, from META.json, or 1e-3 and 1e-7 as ONNX's
// own runner has it.
func Verify(ctx context.Context, dir string, tol *Tolerance, opts ...runtime.Option) (r Result) {
	r = Result{Name: filepath.Base(dir), Status: "PASS"}
	if why, ok := skips[r.Name]; ok {
		r.Status, r.Why = "SKIP", why
		return r
	}
	if err := verify(ctx, dir, tol, &r, opts); err != nil {
		r.Status, r.Why = "FAIL", err.Error()
	}
	return r
}

func verify(ctx context.Context, dir string, tol *Tolerance, r *Result, opts []runtime.Option) error {
	m, s, err := open(filepath.Join(dir, "model.onnx"), opts...)
	if err != nil {
		return err
	}
	defer s.Close()
	if tol == nil {
		tol = &Tolerance{1e-3, max(1e-7, noisy[r.Name])}
		var meta struct{ Tol []float64 }
		if data, err := os.ReadFile(filepath.Join(dir, "META.json")); err == nil {
			if err := json.Unmarshal(data, &meta); err == nil && len(meta.Tol) == 2 {
				tol = &Tolerance{meta.Tol[0], meta.Tol[1]}
			}
		}
	}
	sets, err := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
	if err != nil {
		return err
	}
	sort.Strings(sets)
	for _, set := range sets {
		args, err := readInputs(set, m)
		if err != nil {
			return err
		}
		wants, err := readSet(set, "output", m.Graph.Outputs)
		if err != nil {
			return err
		}
		outs, err := s.Run(ctx, args)
		if err != nil {
			return err
		}
		if len(wants) == 0 {
			return fmt.Errorf("%s holds no output", filepath.Base(set))
		}
		for i, want := range wants {
			if want == nil {
				continue
			}
			name := m.Graph.Outputs[i].Name
			a, rel, err := tensor.Compare(outs[name], want, tol.Rtol, tol.Atol)
			r.MaxAbs, r.MaxRel = max(r.MaxAbs, a), max(r.MaxRel, rel)
			if err != nil {
				return fmt.Errorf("output %q: %w", name, err)
			}
		}
	}
	return nil
}

// open loads a model and makes a session of it.
func open(path string, opts ...runtime.Option) (*onnx.Model, *runtime.Session, error) {
	m, err := onnx.Load(path)
	if err != nil {
		return nil, nil, err
	}
	s, err := runtime.NewSession(m, opts...)
	if err != nil {
		return nil, nil, err
	}
	return m, s, nil
}

// readInputs is a data set's inputs by name.
func readInputs(set string, m *onnx.Model) (map[string]tensor.Value, error) {
	vs, err := readSet(set, "input", m.Graph.Inputs)
	if err != nil {
		return nil, err
	}
	ins := map[string]tensor.Value{}
	for i, v := range vs {
		if v != nil {
			ins[m.Graph.Inputs[i].Name] = v
		}
	}
	return ins, nil
}

// readSet reads PREFIX_0.pb, PREFIX_1.pb, … as the values of the ports, by position.
func readSet(dir, prefix string, ports []*onnx.Value) ([]tensor.Value, error) {
	var out []tensor.Value
	for i, p := range ports {
		file := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", prefix, i))
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			out = append(out, nil)
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(data) == 0 && p.Type != nil && p.Type.Kind == onnx.OptionalType {
			out = append(out, &tensor.Optional{})
			continue
		}
		v, err := onnx.DecodeValue(data, p.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		// ONNX 1.12's own data files hold bfloat16 as the bits of uint16.
		if t, ok := v.(*tensor.Tensor); ok && t.DType() == tensor.Uint16 && p.Type != nil && p.Type.Elem == tensor.BFloat16 {
			if v, err = tensor.FromBytes(tensor.BFloat16, t.Shape(), t.Bytes(), nil); err != nil {
				return nil, err
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func verifyCommand() *cobra.Command {
	var rtol, atol float64
	var threads uint
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [--rtol R] [--atol A] [--threads N] [--json] PATH…",
		Short: "Run models on recorded inputs and compare with the recorded outputs",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			var tol *Tolerance
			if !(rtol >= 0 && atol >= 0) || math.IsInf(rtol+atol, 0) { // nothing would differ by them
				return usageError{fmt.Errorf("verify: tolerances must be finite numbers of 0 or more, not %v and %v", rtol, atol)}
			}
			if cmd.Flags().Changed("rtol") || cmd.Flags().Changed("atol") {
				tol = &Tolerance{rtol, atol}
			}
			var dirs []string
			for _, p := range paths {
				d, err := Cases(p)
				if err != nil {
					return err
				}
				dirs = append(dirs, d...)
			}
			count := map[string]int{}
			for _, d := range dirs {
				r := Verify(cmd.Context(), d, tol, runtime.Threads(int(threads)))
				count[r.Status]++
				report(cmd.OutOrStdout(), r, asJSON)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d passed, %d failed, %d skipped\n", count["PASS"], count["FAIL"], count["SKIP"])
			if count["FAIL"] > 0 {
				return errQuiet
			}
			return nil
		},
	}
	cmd.Flags().Float64Var(&rtol, "rtol", 1e-3, "relative tolerance; by default that of the case")
	cmd.Flags().Float64Var(&atol, "atol", 1e-7, "absolute tolerance; by default that of the case")
	cmd.Flags().UintVar(&threads, "threads", 0, "threads of a run; 0 is all cores")
	cmd.Flags().BoolVar(&asJSON, "json", false, "a line of JSON for each case")
	return cmd
}

func report(w io.Writer, r Result, asJSON bool) {
	if asJSON {
		r.Why = oneLine(r.Why)
		data, err := json.Marshal(r)
		if err != nil { // an infinite difference has no JSON
			r.MaxAbs, r.MaxRel = -1, -1
			data, _ = json.Marshal(r)
		}
		fmt.Fprintf(w, "%s\n", data)
		return
	}
	if r.Why == "" {
		fmt.Fprintf(w, "%s %s\n", r.Status, r.Name)
		return
	}
	fmt.Fprintf(w, "%s %s: %s\n", r.Status, r.Name, oneLine(r.Why))
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
