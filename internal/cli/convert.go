package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/retune-go/retune/convert"
	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
)

// Convert is the command convert, and a subcommand of retune.
func Convert() *cobra.Command {
	root := &cobra.Command{Use: "convert", Short: "Change a model, or the form of its weights"}
	root.AddCommand(inspectCommand(), externalCommand(), inlineCommand(), weightsCommand())
	return root
}

// rewrite loads IN, lets change work on it, and saves it as OUT, which may be IN.
func rewrite(in, out string, change func(m *onnx.Model) error, opts ...onnx.SaveOption) error {
	m, err := onnx.Load(in)
	if err != nil {
		return err
	}
	defer m.Close()
	if change != nil {
		if err := change(m); err != nil {
			return err
		}
	}
	return onnx.Save(out, m, opts...)
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
			return rewrite(args[0], args[1], func(m *onnx.Model) error {
				own := convert.Weights(m)
				weights, err := convert.Unwrapped(weights, func(name string) bool {
					_, ok := known[name]
					return ok || known == nil && own[name] != nil
				})
				if err != nil {
					return fmt.Errorf("%s: %w", from, err)
				}
				if known != nil {
					if weights, err = known.Initializers(m, weights, partial); err != nil {
						return fmt.Errorf("%s: %w", from, err)
					}
				}
				if err := convert.SetWeights(m, weights, partial || known != nil); err != nil {
					return fmt.Errorf("%s: %w", from, err)
				}
				return nil
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
