package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// loaded is what one process took to load a model and run it once.
type loaded struct {
	Milliseconds float64   // from before the file is opened to the first outputs
	Bytes        int64     // by how much the process grew at most, pages of mapped files included
	Output       []float32 // the first
}

// loadOnce loads the model of a row on one side, runs it once, and writes to the standard output what that took.
func loadOnce(ctx context.Context, side, library, folder, name string, threads int) error {
	rows, err := exported(folder)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.name != name {
			continue
		}
		took, err := r.load(ctx, side, library, threads)
		if err != nil {
			return err
		}
		return gob.NewEncoder(os.Stdout).Encode(took)
	}
	return fmt.Errorf("there is no row %q", name)
}

func (r row) load(ctx context.Context, side, library string, threads int) (*loaded, error) {
	m, err := onnx.Load(r.file) // for the names
	if err != nil {
		return nil, err
	}
	inputs, err := r.inputs(m)
	if err != nil {
		return nil, err
	}
	first := m.Graph.Outputs[0].Name
	if side == "ort" {
		if err := startORT(library); err != nil {
			return nil, err
		}
	}
	before, err := status("VmRSS:")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins again
		return nil, err
	}
	var took loaded
	begin := time.Now()
	if side == "ort" {
		p, err := newPeer(r.file, nil, m, inputs, threads)
		if err != nil {
			return nil, &refusal{err}
		}
		defer p.close()
		outputs, err := p.outputs()
		if err != nil {
			return nil, err
		}
		took.Output = outputs[0]
	} else {
		m, err := onnx.Load(r.file)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		session, err := runtime.NewSession(m, runtime.Threads(threads))
		if err != nil {
			return nil, err
		}
		defer session.Close()
		outputs, err := session.Run(ctx, inputs)
		if err != nil {
			return nil, err
		}
		took.Output = tensor.Data[float32](outputs[first].(*tensor.Tensor))
	}
	took.Milliseconds = float64(time.Since(begin).Nanoseconds()) / 1e6
	peak, err := status("VmHWM:")
	took.Bytes = peak - before
	return &took, err
}

// timeLoad has processes of either side load the row's model, by turns: one that is not counted and then as many as the time allows.
func (r row) timeLoad(o *options) (*result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var ms [2][]float64
	var memory [2][]float64
	res := &result{Row: r.name, Memory: new([2]int64)}
	before, begin := readUsage(), time.Now()
	spent := 0.0
	for n := -1; n < 5 || time.Since(begin) < o.span; n++ {
		if n == 0 {
			before, begin, spent = readUsage(), time.Now(), 0
		}
		var outputs [2][]float32
		for i, side := range []string{"retune", "ort"} {
			cmd := exec.Command(self, "-load", side, "-only", r.name, "-ort", o.ort, "-models", o.folder, "-threads", strconv.Itoa(o.threads))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return nil, fmt.Errorf("%v: %w", cmd.Args, err)
			}
			spent += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			var took loaded
			if err := gob.NewDecoder(bytes.NewReader(out)).Decode(&took); err != nil {
				return nil, err
			}
			outputs[i] = took.Output
			if n >= 0 {
				ms[i], memory[i] = append(ms[i], took.Milliseconds), append(memory[i], float64(took.Bytes))
			}
		}
		if res.Difference, err = difference(tensor.New(outputs[0], len(outputs[0])), outputs[1], r.quantized); err != nil {
			return nil, err
		}
		if !(res.Difference < 1e-2) {
			return nil, fmt.Errorf("the two sides' outputs differ by %g", res.Difference)
		}
	}
	now := readUsage()
	now.mine += spent
	res.Others = now.others(before, time.Since(begin))
	res.Ours, res.Peer = quartiles(ms[0]), quartiles(ms[1])
	res.Ratio = res.Ours.Median / res.Peer.Median
	for i := range memory {
		res.Memory[i] = int64(quartiles(memory[i]).Median)
	}
	return res, nil
}
