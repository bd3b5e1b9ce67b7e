// Command bench times Retune beside ONNX Runtime in one process: the same model files, the same inputs, runs of the two by turns, outputs
// compared; and with -train steps of training beside PyTorch's. See README.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	goruntime "runtime"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

func main() {
	library := flag.String("ort", "", "ONNX Runtime's shared library")
	folder := flag.String("models", "", "folder that export.py has written")
	real := flag.String("real", "", "folder of real models in the layout of retune verify")
	threads := flag.Int("threads", 1, "threads of either side")
	span := flag.Duration("time", 3*time.Second, "time for each row")
	only := flag.String("only", "", "rows whose name holds this")
	out := flag.String("json", "", "file for the numbers")
	busy := flag.Float64("busy", 0.05, "greatest share of the machine that others may take while a row is timed")
	train := flag.String("train", "", "train.py: time training beside PyTorch instead; its models go to the folder given by -models")
	python := flag.String("python", "/usr/bin/python3", "the Python that has PyTorch")
	grow := flag.String("grow", "", "take steps of this row alone, and print how much memory that takes")
	load := flag.String("load", "", "load the model of the row given by -only on this side, retune or ort, and write what that took")
	flag.Parse()
	if *grow != "" {
		if err := growTraining(context.Background(), *grow, *folder); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *load != "" {
		if err := loadOnce(context.Background(), *load, *library, *folder, *only, *threads); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	o := options{*library, *folder, *real, *only, *out, *train, *python, *threads, *span, *busy}
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	ort, folder, real, only, out, train, python string
	threads                                     int
	span                                        time.Duration
	busy                                        float64
}

func (o *options) run() error {
	ctx := context.Background()
	goruntime.GOMAXPROCS(max(o.threads, 1))
	var results []*result
	note := func(res *result, err error) error {
		if err != nil {
			return err
		}
		if res.Others > o.busy {
			return fmt.Errorf("%s: other programs took %.0f %% of the machine: no number is reported", res.Row, 100*res.Others)
		}
		results = append(results, res)
		fmt.Fprintf(os.Stderr, "%-36s %9.3f ms  peer %9.3f ms  ratio %.2f  difference %.1e\n", res.Row, res.Ours.Median, res.Peer.Median, res.Ratio, res.Difference)
		return nil
	}
	peer := "ONNX Runtime"
	if o.train != "" {
		peer = "PyTorch"
		for _, row := range trainingRows {
			if !strings.Contains(row, o.only) {
				continue
			}
			if err := note(timeTraining(ctx, o.python, o.train, row, o.folder, o.span)); err != nil {
				return fmt.Errorf("%s: %w", row, err)
			}
		}
	} else {
		if err := startORT(o.ort); err != nil {
			return err
		}
		rows, err := exported(o.folder)
		if err != nil {
			return err
		}
		rows = append(rows, products()...)
		if o.real != "" {
			rows = append(rows, recordedModels(o.real)...)
		}
		for _, r := range rows {
			if !strings.Contains(r.name, o.only) {
				continue
			}
			var err error
			if r.file == "" {
				err = note(r.time(ctx, o.threads, o.span))
			} else {
				err = note(r.timeLoad(o))
			}
			if no := (*refusal)(nil); errors.As(err, &no) {
				fmt.Fprintf(os.Stderr, "%-36s left out: ONNX Runtime: %v\n", r.name, no)
			} else if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	table(os.Stdout, peer, results, o.threads)
	if o.out == "" {
		return nil
	}
	text, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, text, 0o644)
}

// times are of runs, in milliseconds.
type times struct {
	Median float64 `json:"median_ms"`
	Low    float64 `json:"p25_ms"`
	High   float64 `json:"p75_ms"`
	Runs   int     `json:"runs"`
}

type result struct {
	Row        string  `json:"row"`
	Ours       times   `json:"retune"`
	Peer       times   `json:"peer"`
	Ratio      float64 `json:"ratio"` // Retune's median over the peer's
	Difference float64 `json:"greatest_difference"`
	Others     float64 `json:"others_share"` // of the machine's time that other programs took

	Memory *[2]int64 `json:"memory_bytes,omitempty"` // where it was measured: Retune's, the peer's
}

func quartiles(ms []float64) times {
	sort.Float64s(ms)
	at := func(q float64) float64 { return ms[int(q*float64(len(ms)-1)+0.5)] }
	return times{at(0.5), at(0.25), at(0.75), len(ms)}
}

// On more than one thread a side's workers, which look for work for a while after a run, would take the other side's processors. Sides run
// in turns of this length then, each after all threads of the process have come to rest and one run that is not counted.
const turnTime = 50 * time.Millisecond

// rest waits until this process takes hardly any time of processors. ONNX Runtime's workers look for work for some 30 ms.
func rest() {
	const look = 5 * time.Millisecond
	for range 100 {
		before := spent()
		time.Sleep(look)
		if spent()-before < look/4 {
			return
		}
	}
}

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// compare runs two sides by turns for span, after a warm-up of each.
func compare(ours, theirs func() error, threads int, span time.Duration) (a, b times, others float64, err error) {
	sides := []func() error{ours, theirs}
	var ms [2][]float64
	for i, f := range sides {
		warm := time.Now()
		for n := 0; n < 3 || time.Since(warm) < span/20; n++ {
			if err := f(); err != nil {
				return a, b, 0, fmt.Errorf("side %d: %w", i, err)
			}
		}
	}
	goruntime.GC()
	before, begin := readUsage(), time.Now()
	for n := 0; n < 10 || time.Since(begin) < span; n++ {
		for k := range sides {
			i := (n + k) % 2
			if threads > 1 {
				rest()
				if err := sides[i](); err != nil {
					return a, b, 0, err
				}
			}
			for turn := time.Now(); ; {
				start := time.Now()
				if err := sides[i](); err != nil {
					return a, b, 0, err
				}
				ms[i] = append(ms[i], float64(time.Since(start).Nanoseconds())/1e6)
				if threads == 1 || time.Since(turn) > turnTime {
					break
				}
			}
		}
	}
	return quartiles(ms[0]), quartiles(ms[1]), readUsage().others(before, time.Since(begin)), nil
}

// usage is processor time since the machine's start.
type usage struct{ all, mine float64 }

// readUsage reads Linux's /proc; elsewhere it tells nothing.
func readUsage() usage {
	const hertz = 100 // the kernel's unit for user programs
	var u usage
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		line, _, _ := bytes.Cut(text, []byte("\n"))
		var user, nice, system, idle, wait, irq, soft, steal float64
		fmt.Sscanf(string(line), "cpu %f %f %f %f %f %f %f %f", &user, &nice, &system, &idle, &wait, &irq, &soft, &steal)
		u.all = (user + nice + system + irq + soft + steal) / hertz
	}
	if text, err := os.ReadFile("/proc/self/stat"); err == nil {
		if i := bytes.LastIndexByte(text, ')'); i >= 0 {
			f := strings.Fields(string(text[i+1:]))
			var user, system float64
			fmt.Sscan(f[11], &user)
			fmt.Sscan(f[12], &system)
			u.mine = (user + system) / hertz
		}
	}
	return u
}

func (u usage) others(before usage, wall time.Duration) float64 {
	return math.Max(0, (u.all-before.all)-(u.mine-before.mine)) / (wall.Seconds() * float64(goruntime.NumCPU()))
}

func table(w io.Writer, peer string, results []*result, threads int) {
	fmt.Fprintf(w, "\n%d thread(s); medians of interleaved runs in ms, quartiles in brackets\n\n", threads)
	head, line := fmt.Sprintf("| work | Retune | %s | ratio |", peer), "| --- | --- | --- | --- |"
	if slices.ContainsFunc(results, func(r *result) bool { return r.Memory != nil }) {
		head, line = head+fmt.Sprintf(" Retune, MB | %s, MB | ratio |", peer), line+" --- | --- | --- |"
	}
	fmt.Fprintf(w, "%s\n%s\n", head, line)
	sum := 0.0
	for _, r := range results {
		fmt.Fprintf(w, "| %s | %.3f (%.3f–%.3f) | %.3f (%.3f–%.3f) | %.2f |", r.Row, r.Ours.Median, r.Ours.Low, r.Ours.High, r.Peer.Median, r.Peer.Low, r.Peer.High, r.Ratio)
		if m := r.Memory; m != nil {
			fmt.Fprintf(w, " %.1f | %.1f | %.2f |", float64(m[0])/1e6, float64(m[1])/1e6, float64(m[0])/float64(m[1]))
		}
		fmt.Fprintln(w)
		sum += math.Log(r.Ratio)
	}
	if len(results) > 0 {
		fmt.Fprintf(w, "| geometric mean | | | %.2f |\n", math.Exp(sum/float64(len(results))))
	}
}
