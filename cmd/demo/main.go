// Command demo shows the main job on real data: a character LSTM that PyTorch trained on Moby-Dick
// and exported as ONNX is loaded, checked against PyTorch's recorded outputs, fine-tuned on State of
// the Union speeches, written back as ONNX, and checked again from the file.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/internal/cli"
	"github.com/retune-go/retune/internal/wholefile"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

const (
	folder = "models/char_lstm"
	window = 64
	batch  = 16
)

func main() {
	out := flag.String("out", "demo-out", "folder for the tuned model and the plot")
	steps := flag.Int("steps", 400, "steps of fine-tuning")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, *steps); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, steps int) error {
	fmt.Printf("1. Load %s/model.onnx, a character LSTM trained and exported by PyTorch\n", folder)
	m, err := onnx.Load(filepath.Join(folder, "model.onnx"))
	if err != nil {
		return err
	}
	s, err := runtime.NewSession(m)
	if err != nil {
		return err
	}
	defer s.Close()
	weights := 0
	for _, v := range m.Graph.Inits {
		weights += v.Const.Len()
	}
	fmt.Printf("   made by %s %s, opset %d, %d nodes, %d weights\n", m.ProducerName, m.ProducerVersion, m.OpsetVersion(""), len(m.Graph.Nodes), weights)
	for _, p := range s.Inputs() {
		fmt.Printf("   input  %-7s %s%v\n", p.Name, p.Info.DType, p.Info.Shape)
	}
	for _, p := range s.Outputs() {
		fmt.Printf("   output %-7s %s%v\n", p.Name, p.Info.DType, p.Info.Shape)
	}

	fmt.Println("\n2. Compare with the outputs that PyTorch recorded")
	r := cli.Verify(ctx, folder, &cli.Tolerance{Rtol: 1e-4, Atol: 1e-5})
	fmt.Printf("   %s, greatest difference %.2g\n", r.Status, r.MaxAbs)
	if r.Status != "PASS" {
		return fmt.Errorf("the outputs differ from PyTorch's: %s", r.Why)
	}

	fmt.Println("\n3. Fine-tune on State of the Union speeches (the network has only read Moby-Dick)")
	vocab, err := readVocabulary(filepath.Join(folder, "vocab.json"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(folder, "domain", "state_of_the_union.txt"))
	if err != nil {
		return err
	}
	ids := vocab.encode(string(text))
	cut := len(ids) * 9 / 10
	train, valid := ids[:cut], ids[cut:]
	t, err := finetune.New(m, finetune.Config{
		Loss:      finetune.CrossEntropy{Output: "logits", Target: "labels"},
		Optimizer: finetune.AdamW{LR: 2e-3},
		ClipNorm:  1,
	})
	if err != nil {
		return err
	}
	defer t.Close()
	fmt.Printf("   %d characters to train on, %d held out; %d trained tensors\n", len(train), len(valid), len(t.Parameters()))
	before, err := evaluate(ctx, t, valid)
	if err != nil {
		return err
	}
	fmt.Printf("   before: loss %.4f nats a character, perplexity %.2f\n", before, math.Exp(before))
	sample, err := generate(ctx, m, vocab, "The people of America ")
	if err != nil {
		return err
	}
	fmt.Printf("   it writes: %s\n", sample)

	rng := rand.New(rand.NewPCG(1, 2))
	curves := map[string][]finetune.Point{"valid": {{Step: 0, Loss: before}}}
	begin := time.Now()
	for i := range steps {
		st, err := t.Step(ctx, windows(train, batch, func() int { return rng.IntN(len(train) - window - 1) }))
		if err != nil {
			return err
		}
		curves["train"] = append(curves["train"], finetune.Point{Step: st.Step, Loss: st.Loss})
		if (i+1)%max(1, steps/8) == 0 {
			v, err := evaluate(ctx, t, valid)
			if err != nil {
				return err
			}
			curves["valid"] = append(curves["valid"], finetune.Point{Step: st.Step, Loss: v})
			fmt.Printf("   step %4d  train loss %.4f  held-out loss %.4f\n", st.Step, st.Loss, v)
		}
	}
	took := time.Since(begin)
	after, err := evaluate(ctx, t, valid)
	if err != nil {
		return err
	}
	fmt.Printf("   after:  loss %.4f nats a character, perplexity %.2f (%d steps in %.1f s)\n", after, math.Exp(after), steps, took.Seconds())
	if !(after < before) {
		return fmt.Errorf("fine-tuning did not lower the held-out loss")
	}

	fmt.Println("\n4. Write it back as ONNX, load the file again and compare")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, plot := filepath.Join(dir, "char_lstm_tuned.onnx"), filepath.Join(dir, "loss.png")
	if err := onnx.Save(file, t.Model()); err != nil {
		return err
	}
	if err := finetune.PlotLosses(plot, "Moby-Dick to State of the Union", curves); err != nil {
		return err
	}
	again, err := onnx.Load(file)
	if err != nil {
		return err
	}
	diff, err := compare(ctx, t.Model(), again, valid, dir)
	if err != nil {
		return err
	}
	sample, err = generate(ctx, again, vocab, "The people of America ")
	if err != nil {
		return err
	}
	fmt.Printf("   the file's outputs and the trainer's differ by %.2g at most\n", diff)
	fmt.Printf("   it writes: %s\n", sample)
	fmt.Printf("\n   tuned model  %s\n   loss curves  %s\n   inputs and outputs for other runtimes  %s\n", file, plot, filepath.Join(dir, "check.json"))
	return nil
}

type vocabulary struct {
	chars []string
	ids   map[string]int64
}

func readVocabulary(path string) (*vocabulary, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v := &vocabulary{ids: map[string]int64{}}
	if err := json.Unmarshal(data, &v.chars); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, c := range v.chars {
		v.ids[c] = int64(i)
	}
	return v, nil
}

func (v *vocabulary) encode(text string) []int64 {
	out := make([]int64, 0, len(text))
	for _, r := range text {
		out = append(out, v.ids[string(r)])
	}
	return out
}

// windows is a batch of n windows of text and, one character on, what follows each character.
func windows(ids []int64, n int, start func() int) finetune.Batch {
	x, y := make([]int64, 0, n*window), make([]int64, 0, n*window)
	for range n {
		at := start()
		x = append(x, ids[at:at+window]...)
		y = append(y, ids[at+1:at+window+1]...)
	}
	b := state(n)
	b["tokens"], b["labels"] = tensor.New(x, n, window), tensor.New(y, n, window)
	return b
}

// state is the LSTM's state before the first character.
func state(n int) finetune.Batch {
	return finetune.Batch{"h0": tensor.New(make([]float32, n*128), 1, n, 128), "c0": tensor.New(make([]float32, n*128), 1, n, 128)}
}

// evaluate is the mean loss over the first windows of the text, the same ones each time.
func evaluate(ctx context.Context, t *finetune.Trainer, ids []int64) (float64, error) {
	at := -window
	return t.Loss(ctx, windows(ids, min(64, len(ids)/window-1), func() int { at += window; return at }))
}

// generate continues a prompt, drawing each character at a temperature of 0.5.
func generate(ctx context.Context, m *onnx.Model, v *vocabulary, prompt string) (string, error) {
	s, err := runtime.NewSession(m)
	if err != nil {
		return "", err
	}
	defer s.Close()
	rng := rand.New(rand.NewPCG(7, 7))
	ids := v.encode(prompt)
	in := state(1)
	text := prompt
	for range 160 {
		in["tokens"] = tensor.New(ids, 1, len(ids))
		out, err := s.Run(ctx, in)
		if err != nil {
			return "", err
		}
		logits := tensor.Data[float32](out["logits"].(*tensor.Tensor))
		logits = logits[len(logits)-len(v.chars):]
		next := draw(rng, logits, 0.5)
		text += v.chars[next]
		ids = []int64{int64(next)}
		in["h0"], in["c0"] = out["hn"], out["cn"]
	}
	return fmt.Sprintf("%q", strings.Join(strings.Fields(text), " ")), nil
}

func draw(rng *rand.Rand, logits []float32, temperature float64) int {
	top := math.Inf(-1)
	for _, v := range logits {
		top = max(top, float64(v))
	}
	sum := 0.0
	p := make([]float64, len(logits))
	for i, v := range logits {
		p[i] = math.Exp((float64(v) - top) / temperature)
		sum += p[i]
	}
	at := rng.Float64() * sum
	for i, v := range p {
		if at -= v; at < 0 {
			return i
		}
	}
	return len(p) - 1
}

// compare runs both models on held-out text and leaves inputs and outputs in check.json.
func compare(ctx context.Context, a, b *onnx.Model, ids []int64, dir string) (float64, error) {
	in := state(1)
	in["tokens"] = tensor.New(ids[:window], 1, window)
	var outs []map[string]tensor.Value
	for _, m := range []*onnx.Model{a, b} {
		s, err := runtime.NewSession(m)
		if err != nil {
			return 0, err
		}
		out, err := s.Run(ctx, in)
		s.Close()
		if err != nil {
			return 0, err
		}
		outs = append(outs, out)
	}
	type array struct {
		Type  string    `json:"type"`
		Shape []int     `json:"shape"`
		Data  []float64 `json:"data"`
	}
	check := map[string]map[string]array{"inputs": {}, "outputs": {}}
	worst := 0.0
	for part, values := range map[string]map[string]tensor.Value{"inputs": in, "outputs": outs[1]} {
		for name, v := range values {
			t := v.(*tensor.Tensor)
			e := array{Type: t.DType().String(), Shape: t.Shape()}
			for i := range t.Len() {
				e.Data = append(e.Data, tensor.Float64At(t, i))
			}
			check[part][name] = e
		}
	}
	for name, v := range outs[0] {
		d, _, err := tensor.Compare(outs[1][name], v, 0, 1e-6)
		if err != nil {
			return 0, fmt.Errorf("the re-loaded model differs: output %q: %w", name, err)
		}
		worst = max(worst, d)
	}
	data, err := json.Marshal(check)
	if err != nil {
		return 0, err
	}
	return worst, wholefile.Write(filepath.Join(dir, "check.json"), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
