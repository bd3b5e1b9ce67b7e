package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/retune-go/retune/convert"
	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
)

// Convert is the command convert, and a subcommand of retune.
func Convert() *cobra.Command {
	root := &cobra.Command{Use: "convert", Short: "Change a model, or the form of its weights"}
	root.AddCommand(inspectCommand(), simplifyCommand(), extractCommand(), diffCommand(), externalCommand(), inlineCommand(), weightsCommand(), namesCommand())
	return root
}

// rewrite loads IN, lets change make another model of it or work on it itself, and saves that as OUT, which may be IN.
func rewrite(in, out string, change func(m *onnx.Model) (*onnx.Model, error), opts ...onnx.SaveOption) error {
	m, err := onnx.Load(in)
	if err != nil {
		return err
	}
	defer m.Close()
	if change != nil {
		if m, err = change(m); err != nil {
			return err
		}
	}
	return onnx.Save(out, m, opts...)
}

// trial is what a verb that rewrites a model is asked to check of it before it is saved.
type trial struct {
	check      bool
	files      []string
	dims       []string
	seed       uint64
	rtol, atol float64
}

func (t *trial) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&t.check, "check", false, "run both models, and save OUT if its outputs are within --rtol and --atol of IN's")
	cmd.Flags().StringArrayVar(&t.files, "input", nil, "NAME=FILE: an input for --check; the others are random")
	cmd.Flags().StringArrayVar(&t.dims, "dim", nil, "NAME=N: the size of a named dimension of random inputs, 1 unless given")
	cmd.Flags().Uint64Var(&t.seed, "seed", 0, "of the random inputs")
	cmd.Flags().Float64Var(&t.rtol, "rtol", 1e-3, "greatest relative difference that --check allows")
	cmd.Flags().Float64Var(&t.atol, "atol", 1e-5, "greatest absolute difference that --check allows beside it")
}

// run tells, if it is asked for, how far after's outputs are from before's, and is an error if that is too far.
func (t *trial) run(cmd *cobra.Command, before, after *onnx.Model) error {
	if !t.check {
		if len(t.files) > 0 || len(t.dims) > 0 {
			return usageError{errors.New("--input and --dim are for --check")}
		}
		return nil
	}
	s, err := runtime.NewSession(before)
	if err != nil {
		return err
	}
	ins, err := inputs(s, before, t.files, true, t.seed, t.dims)
	s.Close()
	if err != nil {
		return err
	}
	all, err := convert.Compare(cmd.Context(), before, after, ins, t.rtol, t.atol)
	if err != nil {
		return err
	}
	var wrong []error
	for _, d := range all {
		fmt.Fprintf(cmd.OutOrStdout(), "output %s: greatest difference %.2g, relative %.2g\n", d.Output, d.MaxAbs, d.MaxRel)
		if d.Err != nil {
			wrong = append(wrong, fmt.Errorf("output %q: %w", d.Output, d.Err))
		}
	}
	return errors.Join(wrong...)
}

// checked is change, with what t asks for after it.
func (t *trial) checked(cmd *cobra.Command, change func(m *onnx.Model) (*onnx.Model, error)) func(m *onnx.Model) (*onnx.Model, error) {
	return func(m *onnx.Model) (*onnx.Model, error) {
		after, err := change(m)
		if err != nil {
			return nil, err
		}
		return after, t.run(cmd, m, after)
	}
}

func simplifyCommand() *cobra.Command {
	var t trial
	cmd := &cobra.Command{
		Use:   "simplify IN OUT [--check]",
		Short: "Write a model that computes the same in fewer operators",
		Long: `Write a model that computes the same in fewer operators, standard ones at the model's opsets: what hangs on no input is computed,
batch norms go into the convolutions before them, and what changes nothing, is computed twice or is read by nobody is left out.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return rewrite(args[0], args[1], t.checked(cmd, func(m *onnx.Model) (*onnx.Model, error) {
				after, err := runtime.Simplify(m)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%d nodes → %d\n", countNodes(m), countNodes(after))
				}
				return after, err
			}))
		},
	}
	t.flags(cmd)
	return cmd
}

// countNodes is the nodes of m's graphs, subgraphs and functions.
func countNodes(m *onnx.Model) (n int) {
	m.Walk(func(g *onnx.Graph) { n += len(g.Nodes) })
	return n
}

func extractCommand() *cobra.Command {
	var t trial
	var ins, outs []string
	cmd := &cobra.Command{
		Use:   "extract IN OUT [--inputs NAME,…] [--outputs NAME,…] [--check]",
		Short: "Write the part of a model between values of it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ins == nil && outs == nil {
				return usageError{errors.New("want --inputs or --outputs, the names of values")}
			}
			return rewrite(args[0], args[1], t.checked(cmd, func(m *onnx.Model) (*onnx.Model, error) { return convert.Extract(m, ins, outs) }))
		},
	}
	cmd.Flags().StringSliceVar(&ins, "inputs", nil, "values that OUT takes; the model's inputs, as far as they are needed, unless given")
	cmd.Flags().StringSliceVar(&outs, "outputs", nil, "values that OUT computes; the model's outputs unless given")
	t.flags(cmd)
	return cmd
}

func diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Tell in what two models differ; exit code 1 if they do",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ms [2]*onnx.Model
			for i := range ms {
				m, err := onnx.Load(args[i])
				if err != nil {
					return err
				}
				defer m.Close()
				ms[i] = m
			}
			lines := convert.Diff(ms[0], ms[1])
			for _, l := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), l)
			}
			if lines != nil {
				return errQuiet
			}
			return nil
		},
	}
}

func externalCommand() *cobra.Command {
	var location string
	var threshold int
	cmd := &cobra.Command{
		Use:   "external IN OUT",
		Short: "Put weights into a file beside the model",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if threshold < 0 {
				return usageError{fmt.Errorf("--threshold %d is negative", threshold)}
			}
			file := location
			if file == "" {
				file = filepath.Base(args[1]) + ".data"
			}
			return rewrite(args[0], args[1], nil, onnx.ExternalData(file, threshold))
		},
	}
	cmd.Flags().StringVar(&location, "location", "", "name of the data file; OUT with .data after it unless given")
	cmd.Flags().IntVar(&threshold, "threshold", 1024, "bytes from which on a weight is put there")
	return cmd
}

func inlineCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inline IN OUT",
		Short: "Put weights that lie in files beside the model into it",
		Args:  cobra.ExactArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return rewrite(args[0], args[1], nil) },
	}
}

func weightsCommand() *cobra.Command {
	var from, names string
	var partial bool
	cmd := &cobra.Command{
		Use:   "weights IN OUT",
		Short: "Write a model's weights to a .safetensors or .npz file, or a model with the weights of --from",
		Long: `Write the weights of model IN to OUT, a .safetensors or .npz file; or, with --from, the model IN with the weights of a
.safetensors, .npz, .pt or .pth file to OUT. Weights have the initializers' names, or, with --names, those that PyTorch's
module has for them, in its layout. Those that --from has within others, as {"state_dict": …}, are found there.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var known finetune.Names
			if names != "" {
				text, err := os.ReadFile(names)
				if err != nil {
					return err
				}
				if known, err = finetune.ParseNames(text); err != nil {
					return fmt.Errorf("%s: %w", names, err)
				}
			}
			if from == "" {
				return extractWeights(args[0], args[1], known)
			}
			weights, err := convert.ReadWeights(from)
			if err != nil {
				return err
			}
			return rewrite(args[0], args[1], func(m *onnx.Model) (*onnx.Model, error) {
				own := convert.Weights(m)
				weights, err := convert.Unwrapped(weights, func(name string) bool {
					_, ok := known[name]
					return ok || known == nil && own[name] != nil
				})
				if err != nil {
					return nil, fmt.Errorf("%s: %w", from, err)
				}
				if known != nil {
					if weights, err = known.Initializers(m, weights, partial); err != nil {
						return nil, fmt.Errorf("%s: %w", from, err)
					}
				}
				if err := convert.SetWeights(m, weights, partial || known != nil); err != nil {
					return nil, fmt.Errorf("%s: %w", from, err)
				}
				return m, nil
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "file of the weights that OUT is to have")
	cmd.Flags().StringVar(&names, "names", "", "JSON that says which initializer holds which of PyTorch's parameters, and how")
	cmd.Flags().BoolVar(&partial, "partial", false, "weights that --from does not name stay as they are")
	return cmd
}

func extractWeights(in, out string, names finetune.Names) error {
	m, err := onnx.Load(in)
	if err != nil {
		return err
	}
	defer m.Close()
	weights := convert.Weights(m)
	if names != nil {
		if weights, _, err = names.StateDict(m); err != nil {
			return err
		}
	}
	return convert.WriteWeights(out, weights)
}

func namesCommand() *cobra.Command {
	var dict string
	var buffers []string
	cmd := &cobra.Command{
		Use:   "names IN OUT --state-dict FILE [--buffers GLOB,…]",
		Short: "Find where a model holds the tensors of a PyTorch module",
		Long: `Find by their values where model IN, an export of a PyTorch module, holds the tensors of the module's state_dict, a .pt, .pth, .safetensors or .npz
file: as they are, transposed, as gates of recurrent layers or joined. OUT is a .json file, for --names and for fine-tuning, or else the model
with PyTorch's names for the weights that are such a tensor, as it is or transposed.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dict == "" {
				return usageError{errors.New("--state-dict is needed: the file of the module's tensors")}
			}
			m, err := onnx.Load(args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			tensors, err := convert.ReadWeights(dict)
			if err != nil {
				return err
			}
			names, doubts, err := finetune.FindNames(m, tensors, buffers)
			if err != nil {
				return usageError{err}
			}
			out := cmd.OutOrStdout()
			var lost []string
			for _, name := range slices.Sorted(maps.Keys(names)) {
				if o := names[name]; o.Initializer == "" && o.Parts == nil {
					lost = append(lost, name)
				}
			}
			fmt.Fprintf(out, "%d of %d tensors are in the model\n", len(names)-len(lost), len(names))
			for _, name := range lost {
				fmt.Fprintf(out, "not found: %s\n", name)
			}
			for _, d := range doubts {
				fmt.Fprintf(out, "in doubt: %s\n", d)
			}
			if len(lost) == len(names) {
				return fmt.Errorf("%s: none of its tensors is in %s", dict, args[0])
			}
			if filepath.Ext(args[1]) != ".json" {
				names.Rename(m)
				return onnx.Save(args[1], m)
			}
			text, err := json.MarshalIndent(names, "", " ")
			if err != nil {
				return err
			}
			return wholefile.Write(args[1], func(w io.Writer) error {
				_, err := w.Write(append(text, '\n'))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&dict, "state-dict", "", "file of the module's tensors")
	cmd.Flags().StringSliceVar(&buffers, "buffers", nil, "names of tensors that are no parameters, beside batch norms' statistics")
	return cmd
}
