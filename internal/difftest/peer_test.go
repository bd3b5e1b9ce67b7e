package difftest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/retune-go/retune/tensor"
)

// script is what runs ONNX Runtime; its npm package lies beside it or above.
const script = "../../scripts/ort/serve.mjs"

// peer is a process of node that runs models in ONNX Runtime.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// newPeer starts the process, or skips the test where node or the package is missing.
func newPeer(t *testing.T) *peer {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("skipped: there is no node to run ONNX Runtime with")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "node_modules", "onnxruntime-node")); err != nil {
		t.Skip("skipped: onnxruntime-node is not installed; make conformance-ort does it")
	}
	p := &peer{}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func (p *peer) start() (err error) {
	p.cmd = exec.Command("node", script)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.out = bufio.NewReader(out)
	return p.cmd.Start()
}

func (p *peer) stop() {
	p.in.Close()
	p.cmd.Wait()
}

// wireTensor is a tensor as the script reads and writes it.
type wireTensor struct {
	Type    string   `json:"type"`
	Dims    []int    `json:"dims"`
	Data    []byte   `json:"data,omitempty"`
	Strings []string `json:"strings,omitempty"`
}

// wireTypes are the element types that ONNX Runtime's JavaScript interface carries, by its names.
var wireTypes = map[tensor.DType]string{
	tensor.Float32: "float32", tensor.Float64: "float64", tensor.Float16: "float16", tensor.Bool: "bool", tensor.String: "string",
	tensor.Int8: "int8", tensor.Int16: "int16", tensor.Int32: "int32", tensor.Int64: "int64",
	tensor.Uint8: "uint8", tensor.Uint16: "uint16", tensor.Uint32: "uint32", tensor.Uint64: "uint64",
}

// run gives the outputs of a model, of which those in shared are written into inputs. A process that ends without an answer is started again.
func (p *peer) run(model []byte, inputs map[string]*tensor.Tensor, shared map[string]string) (outputs map[string]*tensor.Tensor, err error) {
	ins := map[string]wireTensor{}
	for name, t := range inputs {
		w := wireTensor{Type: wireTypes[t.DType()], Dims: t.Shape()}
		if t.DType() == tensor.String {
			w.Strings = append([]string{}, tensor.Data[string](t)...)
		} else {
			w.Data = t.Bytes()
		}
		if w.Dims == nil {
			w.Dims = []int{}
		}
		ins[name] = w
	}
	ask, err := json.Marshal(map[string]any{"model": model, "inputs": ins, "shared": shared})
	if err != nil {
		return nil, err
	}
	var line []byte
	if _, err = p.in.Write(append(ask, '\n')); err == nil {
		line, err = p.out.ReadBytes('\n')
	}
	if err != nil {
		p.stop()
		if err := p.start(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("ONNX Runtime ended without an answer: %v", p.cmd.ProcessState)
	}
	var answer struct {
		Outputs map[string]wireTensor
		Error   string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s", answer.Error)
	}
	outputs = map[string]*tensor.Tensor{}
	for name, w := range answer.Outputs {
		var t *tensor.Tensor
		if w.Type == "string" {
			t, err = tensor.FromSlice(w.Strings, w.Dims)
		} else {
			for d, s := range wireTypes {
				if s != w.Type {
					continue
				}
				if t, err = tensor.Zeros(d, w.Dims...); err == nil && copy(t.Bytes(), w.Data) != len(t.Bytes()) {
					err = fmt.Errorf("%d bytes for %s", len(w.Data), t)
				}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", name, err)
		}
		outputs[name] = t
	}
	return outputs, nil
}
