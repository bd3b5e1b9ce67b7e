package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor/npy"
)

func gradientsCommand() *cobra.Command {
	var files []string
	var loss, out, graph string
	var threads uint
	var straight bool
	cmd := &cobra.Command{
		Use:   "gradients MODEL --input NAME=FILE… --loss OUTPUT[:sum|:mean] --out grads.npz [--graph FILE.onnx]",
		Short: "Gradients of an output's sum or mean for every floating-point weight and input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if loss == "" || out == "" && graph == "" {
				return usageError{fmt.Errorf("gradients: --loss and --out are needed, or --graph in place of the latter")}
			}
			name, mean := strings.TrimSuffix(loss, ":sum"), false
			if name == loss {
				name = strings.TrimSuffix(loss, ":mean")
				mean = name != loss
			}
			m, s, err := open(args[0], runtime.Threads(int(threads)))
			if err != nil {
				return err
			}
			defer s.Close()
			defer m.Close()
			if graph != "" {
				g, err := finetune.GradientGraph(m, name, mean, straight)
				if err != nil {
					return err
				}
				if err := onnx.Save(graph, g); err != nil || out == "" {
					return err
				}
			}
			ins, err := inputs(s, m, files, false, 0, nil)
			if err != nil {
				return err
			}
			grads, err := finetune.OutputGradients(cmd.Context(), m, ins, name, mean, straight, runtime.Threads(int(threads)))
			if err != nil {
				return err
			}
			return npy.WriteNPZ(out, grads)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&files, "input", nil, "NAME=FILE (.npy, .npz, .pb, .json), or a .npz with an array for each input")
	f.StringVar(&loss, "loss", "", "OUTPUT, or OUTPUT:sum, or OUTPUT:mean: what is differentiated")
	f.StringVar(&out, "out", "", "the .npz file for the gradients")
	f.BoolVar(&straight, "straight-through", false, "let gradients through what rounds, by straight-through estimation")
	f.StringVar(&graph, "graph", "", "a file for the model that computes the gradients, in standard operators; no inputs are needed for it")
	f.UintVar(&threads, "threads", 0, "threads; 0 is all cores")
	return cmd
}
