package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// readValue reads one value from a .npy, .npz (of one array), .pb or .json file.
func readValue(path string, t *onnx.Type) (tensor.Value, error) {
	switch filepath.Ext(path) {
	case ".npy":
		return npy.Read(path)
	case ".npz":
		all, err := npy.ReadNPZ(path)
		if err != nil {
			return nil, err
		}
		if len(all) != 1 {
			return nil, fmt.Errorf("%s: holds %d arrays, where one is wanted for an input", path, len(all))
		}
		for _, v := range all {
			return v, nil
		}
	case ".json":
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if t == nil || t.Kind != onnx.TensorType {
			return nil, fmt.Errorf("%s: the model declares no tensor of that name", path)
		}
		v, err := tensor.ParseJSON(data, t.Elem)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return v, nil
	case ".pb":
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		v, err := onnx.DecodeValue(data, t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return v, nil
	}
	return nil, usageError{fmt.Errorf("%s: inputs are .npy, .npz, .pb or .json files", path)}
}

// inputs gathers a run's inputs: files, then random ones for the rest.
func inputs(s *runtime.Session, m *onnx.Model, files []string, random bool, seed uint64, dims []string) (map[string]tensor.Value, error) {
	out := map[string]tensor.Value{}
	types := map[string]*onnx.Type{}
	for _, v := range m.Graph.Inputs {
		types[v.Name] = v.Type
	}
	for _, f := range files {
		name, path, ok := strings.Cut(f, "=")
		if !ok {
			if filepath.Ext(f) != ".npz" {
				return nil, usageError{fmt.Errorf("--input %s: want NAME=FILE, or a .npz file", f)}
			}
			all, err := npy.ReadNPZ(f)
			if err != nil {
				return nil, err
			}
			for k, v := range all {
				out[k] = v
			}
			continue
		}
		v, err := readValue(path, types[name])
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	if !random {
		return out, nil
	}
	sizes := map[string]int{}
	for _, d := range dims {
		name, n, ok := strings.Cut(d, "=")
		size, err := strconv.Atoi(n)
		if !ok || err != nil || size < 0 {
			return nil, usageError{fmt.Errorf("--dim %s: want NAME=N", d)}
		}
		sizes[name] = size
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, p := range s.Inputs() {
		if _, ok := out[p.Name]; ok || p.Optional {
			continue
		}
		if p.Info.Kind != onnx.TensorType || !p.Info.Ranked {
			return nil, fmt.Errorf("input %q cannot be made at random: the model does not say its shape", p.Name)
		}
		shape := make([]int, len(p.Info.Shape))
		for i, d := range p.Info.Shape {
			shape[i] = 1
			if d.Known() {
				shape[i] = d.N
			} else if n, ok := sizes[d.Sym]; ok {
				shape[i] = n
			}
		}
		t, err := tensor.Zeros(p.Info.DType, shape...)
		if err != nil {
			return nil, err
		}
		if t.DType() != tensor.String {
			for i := range t.Len() {
				if t.DType().IsFloat() {
					tensor.SetFloat64At(t, i, rng.NormFloat64())
				} else if t.DType() == tensor.Bool {
					tensor.SetFloat64At(t, i, float64(rng.IntN(2)))
				} else {
					tensor.SetFloat64At(t, i, 1)
				}
			}
		}
		out[p.Name] = t
	}
	return out, nil
}

func runCommand() *cobra.Command {
	var files, dims []string
	var random, asJSON bool
	var seed uint64
	var dir string
	cmd := &cobra.Command{
		Use:   "run MODEL [--input NAME=FILE]… [--random --seed S] [--dim NAME=N]… [--output-dir DIR] [--json]",
		Short: "Run a model once",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, s, err := open(args[0])
			if err != nil {
				return err
			}
			defer s.Close()
			ins, err := inputs(s, m, files, random, seed, dims)
			if err != nil {
				return err
			}
			outs, err := s.Run(cmd.Context(), ins)
			if err != nil {
				return err
			}
			if dir != "" {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
			}
			return writeOutputs(cmd.OutOrStdout(), s, outs, dir, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&files, "input", nil, "NAME=FILE (.npy, .npz, .pb, .json), or a .npz with an array for each input")
	f.BoolVar(&random, "random", false, "random values for the inputs that no file gives")
	f.Uint64Var(&seed, "seed", 0, "seed of --random")
	f.StringArrayVar(&dims, "dim", nil, "NAME=N: size of a named dimension for --random")
	f.StringVar(&dir, "output-dir", "", "write each output there as a .npy file")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeOutputs(w io.Writer, s *runtime.Session, outs map[string]tensor.Value, dir string, asJSON bool) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	result := map[string]any{}
	for _, p := range s.Outputs() {
		t, ok := outs[p.Name].(*tensor.Tensor)
		if !ok {
			fmt.Fprintf(table, "%s\t%s\t\t%s\n", p.Name, outs[p.Name].Kind(), describe(outs[p.Name]))
			result[p.Name] = asJSONValue(outs[p.Name])
			continue
		}
		if dir != "" {
			file := filepath.Join(dir, strings.ReplaceAll(p.Name, "/", "_")+".npy")
			if err := npy.Write(file, t); err != nil {
				return err
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%v\t%s\n", p.Name, t.DType(), t.Shape(), strings.Join(elements(t), " "))
		result[p.Name] = asJSONValue(t)
	}
	if asJSON {
		return json.NewEncoder(w).Encode(result)
	}
	return table.Flush()
}

func benchCommand() *cobra.Command {
	var dims []string
	var threads, runs int
	var asJSON, profile bool
	cmd := &cobra.Command{
		Use:   "bench MODEL [--dim NAME=N]… [--threads N] [--runs N] [--profile] [--json]",
		Short: "Time a model on random inputs, or on the first data set of a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, set := args[0], ""
			if isCase(path) {
				path, set = filepath.Join(path, "model.onnx"), filepath.Join(path, "test_data_set_0")
			}
			begin := time.Now()
			prof := &runtime.Profile{}
			opts := []runtime.Option{runtime.Threads(threads)}
			if profile {
				opts = append(opts, runtime.WithProfile(prof))
			}
			m, s, err := open(path, opts...)
			if err != nil {
				return err
			}
			defer s.Close()
			load := time.Since(begin)
			var ins map[string]tensor.Value
			if set != "" {
				if ins, err = readInputs(set, m); err != nil {
					return err
				}
			} else if ins, err = inputs(s, m, nil, true, 0, dims); err != nil {
				return err
			}
			if runs < 1 {
				return usageError{fmt.Errorf("--runs %d: at least 1", runs)}
			}
			var times []float64
			for i := range runs + 1 { // the first run plans
				if i == 1 {
					prof.ByNode = nil
				}
				begin := time.Now()
				if _, err := s.Run(cmd.Context(), ins); err != nil {
					return err
				}
				if i > 0 {
					times = append(times, float64(time.Since(begin).Nanoseconds())/1e6)
				}
			}
			slices.Sort(times)
			if threads == 0 {
				threads = goruntime.GOMAXPROCS(0)
			}
			out := map[string]any{"median_ms": times[len(times)/2], "p90_ms": times[len(times)*9/10], "min_ms": times[0],
				"load_ms": float64(load.Nanoseconds()) / 1e6, "peak_rss_bytes": peakRSS(), "runs": runs, "threads": threads}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "median %.3f ms, p90 %.3f ms, min %.3f ms; load %.1f ms; peak memory %d bytes; %d runs, %d threads\n",
				out["median_ms"], out["p90_ms"], out["min_ms"], out["load_ms"], out["peak_rss_bytes"], runs, threads)
			if profile {
				printProfile(cmd.OutOrStdout(), prof)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&dims, "dim", nil, "NAME=N: size of a named dimension")
	f.IntVar(&threads, "threads", 0, "threads of a run; 0 is all cores")
	f.IntVar(&runs, "runs", 20, "timed runs")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&profile, "profile", false, "print the time by operator")
	return cmd
}

func printProfile(w io.Writer, p *runtime.Profile) {
	type row struct {
		op    string
		calls int
		time  time.Duration
	}
	byOp := map[string]*row{}
	var total time.Duration
	for _, n := range p.ByNode {
		if byOp[n.Op] == nil {
			byOp[n.Op] = &row{op: n.Op}
		}
		byOp[n.Op].calls += n.Calls
		byOp[n.Op].time += n.Time
		total += n.Time
	}
	var rows []*row
	for _, r := range byOp {
		rows = append(rows, r)
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].time > rows[j].time })
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%d calls\t%v\t%.1f %%\n", r.op, r.calls, r.time, 100*float64(r.time)/float64(max(total, 1)))
	}
	table.Flush()
}

// peakRSS is the most memory that the process has held, 0 where the system does not tell.
func peakRSS() int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}

func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Say what a model is: inputs, outputs, operators, weights",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := onnx.Load(args[0])
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "IR version %d, made by %s %s\n", m.IRVersion, m.ProducerName, m.ProducerVersion)
			for _, o := range m.Opsets {
				domain := o.Domain
				if domain == "" {
					domain = "ai.onnx"
				}
				fmt.Fprintf(w, "opset %s %d\n", domain, o.Version)
			}
			for _, p := range m.Metadata {
				fmt.Fprintf(w, "metadata %s=%s\n", p.Key, p.Value)
			}
			s, err := runtime.NewSession(m)
			if err == nil {
				defer s.Close()
				for _, p := range s.Inputs() {
					fmt.Fprintf(w, "input %s %s\n", p.Name, typeName(p.Info))
				}
				for _, p := range s.Outputs() {
					fmt.Fprintf(w, "output %s %s\n", p.Name, typeName(p.Info))
				}
			} else {
				fmt.Fprintf(w, "cannot be run: %v\n", err)
			}
			counts := map[string]int{}
			m.Walk(func(g *onnx.Graph) {
				for _, n := range g.Nodes {
					counts[n.Op]++
				}
			})
			var ops []string
			for op := range counts {
				ops = append(ops, op)
			}
			sort.Slice(ops, func(i, j int) bool {
				return counts[ops[i]] > counts[ops[j]] || counts[ops[i]] == counts[ops[j]] && ops[i] < ops[j]
			})
			for _, op := range ops {
				fmt.Fprintf(w, "operator %s %d\n", op, counts[op])
			}
			params, bytes := 0, 0
			for _, v := range m.Graph.Inits {
				fmt.Fprintf(w, "initializer %s %s\n", v.Name, v.Const)
				params += v.Const.Len()
				bytes += len(v.Const.Bytes())
			}
			fmt.Fprintf(w, "%d weights in %d initializers, %d bytes\n", params, len(m.Graph.Inits), bytes)
			return nil
		},
	}
}
