package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
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

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/internal/wholefile"
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
	for name, v := range out {
		if t, ok := v.(*tensor.Tensor); ok && types[name] != nil {
			fit, err := inType(t, types[name].Elem)
			if err != nil {
				return nil, fmt.Errorf("input %q: %w", name, err)
			}
			out[name] = fit
		}
	}
	if !random {
		if len(dims) > 0 {
			return nil, usageError{fmt.Errorf("--dim %s is for --random", dims[0])}
		}
		return out, nil
	}
	named := map[string]bool{}
	for _, p := range s.Inputs() {
		for _, d := range p.Info.Shape {
			if name, ok := d.Name(); ok && !d.Known() {
				named[name] = true
			}
		}
	}
	sizes := map[string]int{}
	for _, d := range dims {
		name, n, ok := strings.Cut(d, "=")
		size, err := strconv.Atoi(n)
		if !ok || err != nil || size < 0 {
			return nil, usageError{fmt.Errorf("--dim %s: want NAME=N", d)}
		}
		if !named[name] {
			return nil, usageError{fmt.Errorf("--dim %s: the dimensions of inputs that have names are %s", d, strings.Join(slices.Sorted(maps.Keys(named)), ", "))}
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
			} else if name, ok := d.Name(); ok {
				if n, ok := sizes[name]; ok {
					shape[i] = n
				}
			}
		}
		size, err := tensor.ByteSize(p.Info.DType, shape)
		if err == nil && size > runtime.DefaultMemoryLimit {
			err = fmt.Errorf("%d bytes are over the memory limit of %d", size, runtime.DefaultMemoryLimit)
		}
		if err != nil {
			return nil, fmt.Errorf("input %q cannot be made at random: %w", p.Name, err)
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

// fileName is a value's name as that of a file: in one folder, and one that the system can have.
func fileName(name string) string {
	refused := `/\`
	if goruntime.GOOS == "windows" {
		refused += `:*?"<>|`
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(refused, r) {
			return '_'
		}
		return r
	}, name)
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
			file := filepath.Join(dir, fileName(p.Name)+".npy")
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
	var threads uint
	var runs int
	var asJSON, profile bool
	var trace string
	cmd := &cobra.Command{
		Use:   "bench MODEL [--dim NAME=N]… [--threads N] [--runs N] [--profile] [--trace FILE] [--json]",
		Short: "Time a model on random inputs, or on the first data set of a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, set := args[0], ""
			if isCase(path) {
				path, set = filepath.Join(path, "model.onnx"), filepath.Join(path, "test_data_set_0")
			}
			begin := time.Now()
			prof := &runtime.Profile{Trace: trace != ""}
			opts := []runtime.Option{runtime.Threads(int(threads))}
			if profile || prof.Trace {
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
					prof.Reset()
				}
				begin := time.Now()
				if _, err := s.Run(cmd.Context(), ins); err != nil {
					return err
				}
				if i > 0 {
					times = append(times, float64(time.Since(begin).Nanoseconds())/1e6)
				}
			}
			if prof.Trace {
				if err := wholefile.Write(trace, prof.WriteTrace); err != nil {
					return err
				}
			}
			slices.Sort(times)
			if threads == 0 {
				threads = uint(goruntime.GOMAXPROCS(0))
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
	f.UintVar(&threads, "threads", 0, "threads of a run; 0 is all cores")
	f.IntVar(&runs, "runs", 20, "timed runs")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&profile, "profile", false, "print time, GFLOP/s and GB/s by operator")
	f.StringVar(&trace, "trace", "", "`file` for the time of every node, as Chrome's trace events")
	return cmd
}

// printProfile sums up by operator. What runs in a subgraph has a share in the time of the node that runs it, which has rows of its own.
func printProfile(w io.Writer, p *runtime.Profile) {
	byOp := map[string]*runtime.NodeTime{}
	var total time.Duration
	for _, n := range p.ByNode {
		r := byOp[n.Op]
		if r == nil {
			r = &runtime.NodeTime{Op: n.Op}
			byOp[n.Op] = r
		}
		r.Calls, r.Time, r.Bytes, r.FLOPs = r.Calls+n.Calls, r.Time+n.Time, r.Bytes+n.Bytes, r.FLOPs+n.FLOPs
		if !n.Inner {
			total += n.Time
		}
	}
	rows := slices.SortedFunc(maps.Values(byOp), func(a, b *runtime.NodeTime) int { return cmp.Compare(b.Time, a.Time) })
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		ns := float64(max(r.Time, 1))
		rate := "\t"
		if r.FLOPs > 0 {
			rate = fmt.Sprintf("%.1f GFLOP/s\t", float64(r.FLOPs)/ns)
		}
		if r.Bytes > 0 {
			rate += fmt.Sprintf("%.2f GB/s", float64(r.Bytes)/ns)
		}
		fmt.Fprintf(table, "%s\t%d calls\t%v\t%.1f %%\t%s\n", r.Op, r.Calls, r.Time, 100*float64(r.Time)/float64(max(total, 1)), rate)
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

// printValues prints the type and the shape of every value that m's nodes compute, as far as they are known before a run, and the elements
// of those that shapes are made of.
func printValues(w io.Writer, m *onnx.Model) error {
	m, err := runtime.Expand(m)
	if err != nil {
		return err
	}
	infos, err := runtime.Infer(m)
	if err != nil {
		return err
	}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			for _, v := range n.Outputs {
				info, live := infos[v]
				if v == nil || !live {
					continue
				}
				fmt.Fprintf(w, "value %s %s of %s", v.Name, typeName(info), n.Op)
				if c := info.Const; info.Values != nil {
					fmt.Fprintf(w, " = %v", info.Values)
				} else if c != nil && c.Len() <= 8 && !c.DType().IsFloat() {
					fmt.Fprintf(w, " = %v", elements(c))
				}
				fmt.Fprintln(w)
			}
		}
	})
	return nil
}

// sharing is a line about an initializer that is more than one, or one of several.
func sharing(s finetune.Sharing) string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"read by", s.Nodes}, {"equal to", s.Copies}, {"transposed in", s.Transposed}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+" "+strings.Join(p.names, ", "))
		}
	}
	return "shared " + s.Initializer + ": " + strings.Join(parts, "; ")
}

func inspectCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "inspect MODEL [--values]",
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
			shared, err := finetune.Shared(m)
			if err != nil {
				return err
			}
			for _, s := range shared {
				fmt.Fprintln(w, sharing(s))
			}
			if all {
				return printValues(w, m)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "values", false, "also the shape of every value, as far as it is known before a run")
	return cmd
}
