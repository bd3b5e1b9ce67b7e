package finetune

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/safetensors"
)

// A checkpoint is a .safetensors file. Its tensors are
//
//	parameter/NAME        a trained weight, float32 where the model has 16 bits
//	optimizer/SLOT/NAME   the optimizer's state, by PyTorch's names: exp_avg, momentum_buffer, …
//	buffer/NAME           a running statistic
//	carried/INPUT         a state that the next batch begins with
//	best/…                parameters and buffers of the best validation loss
//
// and its metadata holds, beside "format", one key, "retune.checkpoint", of JSON.
type checkpoint struct {
	Version   int      `json:"version"`
	Model     string   `json:"model"` // a digest of the graph without the weights' values
	Optimizer string   `json:"optimizer"`
	Progress  progress `json:"progress"`
	Note      string   `json:"note"`
	Digest    string   `json:"digest"` // of all tensors
}

const (
	checkpointKey     = "retune.checkpoint"
	checkpointVersion = 1
)

// Save writes all that training hangs on beside the configuration and the batches, so that a trainer that restores
// it goes on bit for bit. note comes back from [Trainer.Restore]: where the caller is in its data, say. The file is written whole,
// beside path, and renamed.
func (t *Trainer) Save(path, note string) error {
	f := &safetensors.File{Tensors: t.state()}
	for name, v := range t.best {
		f.Tensors["best/"+name] = v
	}
	for name, v := range t.states.now {
		f.Tensors["carried/"+name] = v
	}
	c := checkpoint{Version: checkpointVersion, Model: graphDigest(t.model), Optimizer: fmt.Sprintf("%T", t.cfg.Optimizer),
		Progress: t.at, Note: note, Digest: tensorDigest(f.Tensors)}
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	f.Metadata = map[string]string{"format": "pt", checkpointKey: string(text)}
	if err := f.Write(path); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// Restore goes back to what [Trainer.Save] wrote, of a trainer of the same model with the same weights to train and the same kind
// of optimizer; the configuration's numbers are this trainer's. A file that is damaged or another's is an error and changes nothing.
func (t *Trainer) Restore(path string) (note string, err error) {
	f, err := safetensors.Read(path)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	fail := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("checkpoint %s: %w", path, fmt.Errorf(format, args...))
	}
	text, ok := f.Metadata[checkpointKey]
	if !ok {
		return fail("it is no checkpoint of Retune's")
	}
	var c checkpoint
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return fail("%w", err)
	}
	switch {
	case c.Version != checkpointVersion:
		return fail("it is of version %d, this is %d", c.Version, checkpointVersion)
	case c.Digest != tensorDigest(f.Tensors):
		return fail("it is damaged: its tensors are not those that were written")
	case c.Model != graphDigest(t.model):
		return fail("it is of another model")
	case c.Optimizer != fmt.Sprintf("%T", t.cfg.Optimizer):
		return fail("it was made with %s, not %T", c.Optimizer, t.cfg.Optimizer)
	case c.Progress.Steps < 0 || c.Progress.Updates < 0 || !(c.Progress.Scale >= 1) || (c.Progress.Scale == 1) != (t.at.Scale == 1):
		return fail("its progress is not one of this trainer's: %+v", c.Progress)
	}
	into := t.state()
	best := map[string]*tensor.Tensor{}
	for name, v := range t.weights() {
		if _, ok := f.Tensors["best/"+name]; ok {
			best[name] = v.Clone()
			into["best/"+name] = best[name]
		}
	}
	if len(best) > 0 && len(best) < len(t.weights()) {
		return fail("the best weights are not all there")
	}
	states := map[string]*tensor.Tensor{}
	for name := range t.states.inputs {
		if v := f.Tensors["carried/"+name]; v != nil {
			states[name] = v
			into["carried/"+name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Tensors)) {
		if into[name] == nil {
			return fail("it holds %q, which is not trained here", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(into)) {
		v := f.Tensors[name]
		if v == nil {
			return fail("it does not hold %q", name)
		}
		if v.DType() != into[name].DType() || !slices.Equal(v.Shape(), into[name].Shape()) {
			return fail("%q is %s%v, not %s%v", name, v.DType(), v.Shape(), into[name].DType(), into[name].Shape())
		}
	}
	for name, v := range into {
		copy(v.Bytes(), f.Tensors[name].Bytes())
	}
	t.at, t.best, t.states.now = c.Progress, nil, states
	if len(best) > 0 {
		t.best = best
	}
	t.narrow()
	return c.Note, nil
}

// state is the tensors that training changes.
func (t *Trainer) state() map[string]*tensor.Tensor {
	all := t.weights()
	slots, _ := t.cfg.Optimizer.slots()
	for _, p := range t.params {
		for i, slot := range slots {
			all["optimizer/"+slot+"/"+p.Name] = p.slots[i]
		}
	}
	return all
}

func tensorDigest(ts map[string]*tensor.Tensor) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(ts)) {
		fmt.Fprintf(h, "%q %s %v\n", name, ts[name].DType(), ts[name].Shape())
		h.Write(ts[name].Bytes())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// graphDigest tells models apart by their nodes, and their initializers' names and shapes.
func graphDigest(m *onnx.Model) string {
	h := sha256.New()
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Inits {
			fmt.Fprintf(h, "%q %s %v\n", v.Name, v.Const.DType(), v.Const.Shape())
		}
		for _, n := range g.Nodes {
			fmt.Fprintf(h, "%q %q", n.Domain, n.Op)
			writeNames(h, n.Inputs)
			writeNames(h, n.Outputs)
		}
		writeNames(h, g.Inputs)
		writeNames(h, g.Outputs)
	})
	return hex.EncodeToString(h.Sum(nil))
}

func writeNames(w io.Writer, vs []*onnx.Value) {
	for _, v := range vs {
		if v == nil {
			fmt.Fprint(w, " -")
		} else {
			fmt.Fprintf(w, " %q", v.Name)
		}
	}
	fmt.Fprintln(w)
}
