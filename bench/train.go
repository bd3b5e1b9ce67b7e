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

// training makes the trainer of a row, and its batch.
func training(row, folder string) (*finetune.Trainer, finetune.Batch, error) {
	m, err := onnx.Load(filepath.Join(folder, row+".onnx"))
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(filepath.Join(folder, row+".json"))
	if err != nil {
		return nil, nil, err
	}
	var shapes struct {
		X, Labels []int
		Below     int64
	}
	if err := json.Unmarshal(text, &shapes); err != nil {
		return nil, nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	batch := finetune.Batch{"x": random(r, shapes.Below, shapes.X), "labels": random(r, 10, shapes.Labels)}
	t, err := finetune.New(m, finetune.Config{Loss: finetune.CrossEntropy{Output: "logits", Target: "labels"}, Optimizer: finetune.AdamW{LR: 1e-3}, Threads: 1})
	return t, batch, err
}

// status is a number of bytes that Linux tells of this process.
func status(key string) (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), key)
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("/proc/self/status has no %s", key)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}

// growTraining takes five steps and prints by how many bytes this process has grown at most, pages of files apart: those of programs and of the
// mapped model.
func growTraining(ctx context.Context, row, folder string) error {
	before, err := status("RssAnon:")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins again
		return err
	}
	trainer, batch, err := training(row, folder)
	if err != nil {
		return err
	}
	defer trainer.Close()
	for range 5 {
		if _, err := trainer.Step(ctx, batch); err != nil {
			return err
		}
	}
	peak, err := status("VmHWM:")
	if err != nil {
		return err
	}
	files, err := status("RssFile:")
	if err != nil {
		return err
	}
	fmt.Println(peak - files - before)
	return nil
}

// measureTraining is the memory of both sides, in bytes, each in a process of its own.
func measureTraining(python, script, row, folder string) (memory [2]int64, err error) {
	self, err := os.Executable()
	if err != nil {
		return memory, err
	}
	for i, cmd := range []*exec.Cmd{exec.Command(self, "-grow", row, "-models", folder), exec.Command(python, script, row)} {
		cmd.Env, cmd.Stderr = append(os.Environ(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1"), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return memory, fmt.Errorf("%v: %w", cmd.Args, err)
		}
		if memory[i], err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err != nil {
			return memory, err
		}
	}
	return memory, nil
}

// timeTraining times steps of both sides by turns.
func timeTraining(ctx context.Context, python, script, row, folder string, span time.Duration) (*result, error) {
	t, err := startTorch(python, script, row, folder)
	if err != nil {
		return nil, err
	}
	defer t.close()
	trainer, batch, err := training(row, folder)
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
	memory, err := measureTraining(python, script, row, folder)
	res.Memory = &memory
	return res, err
}
