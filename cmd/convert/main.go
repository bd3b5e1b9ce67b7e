// Command convert changes ONNX models and the form of their weights.
package main

import "github.com/retune-go/retune/internal/cli"

func main() { cli.Main(cli.Convert()) }
