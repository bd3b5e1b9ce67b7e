// Package cli is the command lines of retune and convert.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// errQuiet ends a command with exit code 1 after it has said everything itself.
var errQuiet = errors.New("")

// usageError is wrong usage: exit code 2.
type usageError struct{ error }

// Retune is the command retune.
func Retune() *cobra.Command {
	root := &cobra.Command{Use: "retune", Short: "Run, check and fine-tune ONNX models"}
	root.AddCommand(verifyCommand(), runCommand(), benchCommand(), inspectCommand(), finetuneCommand(), gradientsCommand(), Convert())
	return root
}

// Main runs a command and ends the program: 0 done, 1 the work failed or something did not match,
// 2 wrong usage. Errors go to stderr, a sentence each.
func Main(root *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(Execute(ctx, root))
}

// Execute is [Main] without the end: it gives the exit code.
func Execute(ctx context.Context, root *cobra.Command) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	asUsage := func(_ *cobra.Command, err error) error { return usageError{err} }
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.SetFlagErrorFunc(asUsage)
		if args := c.Args; args != nil {
			c.Args = func(c *cobra.Command, a []string) error {
				if err := args(c, a); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errQuiet):
		return 1
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(root.ErrOrStderr(), "%s: %s\n", root.Name(), oneLine(err.Error()))
		return 2
	}
	fmt.Fprintf(root.ErrOrStderr(), "%s: %s\n", root.Name(), oneLine(err.Error()))
	return 1
}
