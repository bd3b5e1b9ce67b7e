// Command retune runs, checks and times ONNX models.
package main

import "github.com/retune-go/retune/internal/cli"

func main() { cli.Main(cli.Retune()) }
