package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
)

// trainingRows are the networks of train.py.
var trainingRows = []string{"lstm_classifier", "gru_classifier", "mlp", "encoder", "resnet18"}

// torch is a PyTorch that takes a step for each line it is sent.
type torch struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startTorch(python, script, row, folder string) (*torch, error) {
	cmd := exec.Command(python, script, row, folder)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t := &torch{cmd, in, bufio.NewScanner(out)}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for t.out.Scan() {
		if t.out.Text() == "ready" {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%s ended before it was ready: %v", script, cmd.Wait())
}

func (t *torch) step() (ms float64, err error) {
	if _, err := io.WriteString(t.in, "\n"); err != nil {
		return 0, err
	}
	if !t.out.Scan() {
		return 0, fmt.Errorf("PyTorch ended: %v", t.out.Err())
	}
	return strconv.ParseFloat(t.out.Text(), 64)
}

func (t *torch) close() {
	t.in.Close()
	t.cmd.Wait()
}

// timeTraining times steps of both sides by turns.
func timeTraining(ctx context.Context, python, script, row, folder string, span time.Duration) (*result, error) {
	t, err := startTorch(python, script, row, folder)
	if err != nil {
		return nil, err
	}
	defer t.close()
	m, err := onnx.Load(filepath.Join(folder, row+".onnx"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(folder, row+".json"))
	if err != nil {
		return nil, err
	}
	var shapes struct {
		X, Labels []int
		Below     int64
	}
	if err := json.Unmarshal(text, &shapes); err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	batch := finetune.Batch{"x": random(r, shapes.Below, shapes.X), "labels": random(r, 10, shapes.Labels)}
	trainer, err := finetune.New(m, finetune.Config{Loss: finetune.CrossEntropy{Output: "logits", Target: "labels"}, Optimizer: finetune.AdamW{LR: 1e-3}, Threads: 1})
	if err != nil {
		return nil, err
	}
	defer trainer.Close()
	var ours, theirs []float64
	var before usage
	begin := time.Now()
	for n := -3; n < 10 || time.Since(begin) < span; n++ {
		if n == 0 { // the first steps warm up
			ours, theirs = nil, nil
			before, begin = readUsage(), time.Now()
		}
		start := time.Now()
		if _, err := trainer.Step(ctx, batch); err != nil {
			return nil, err
		}
		ours = append(ours, float64(time.Since(start).Nanoseconds())/1e6)
		ms, err := t.step()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, ms)
	}
	res := &result{Row: "step of " + strings.ReplaceAll(row, "_", " "), Ours: quartiles(ours), Peer: quartiles(theirs)}
	res.Ratio = res.Ours.Median / res.Peer.Median
	// PyTorch is another program, whose time does not count as others'.
	spent := 0.0
	for _, ms := range theirs {
		spent += ms / 1e3
	}
	now := readUsage()
	now.mine += spent
	res.Others = now.others(before, time.Since(begin))
	return res, nil
}
