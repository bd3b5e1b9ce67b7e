package runtime

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// WithProfile collects the time of each node of every run in p.
func WithProfile(p *Profile) Option { return func(s *settings) { s.profile = p } }

// Profile is where the time of runs goes, which may be concurrent. It may be read between runs.
type Profile struct {
	ByNode map[string]*NodeTime // summed over runs

	// Trace, set before the session is made, keeps every node of every run in Spans.
	Trace bool
	Spans []Span

	mu    sync.Mutex
	runs  int
	start time.Time // of the first span
}

// NodeTime is one node's share of a profile. The nodes are those that run, after the passes.
type NodeTime struct {
	Name, Op string
	Calls    int
	Time     time.Duration
	Bytes    int64 // of its inputs and outputs; 0 where it gives another view of an input
	FLOPs    int64 // multiplications and additions, of products and convolutions; else 0
	Inner    bool  // in a subgraph: its time is part of the time of the node that ran it, too
}

// Span is one node in one run.
type Span struct {
	Name, Op     string
	Run          int           // from 1, in the order in which runs began
	Start, Time  time.Duration // since the first span's start, and how long
	Bytes, FLOPs int64
}

type runKey struct{}

// Reset forgets what was collected.
func (p *Profile) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ByNode, p.Spans, p.runs, p.start = nil, nil, 0, time.Time{}
}

// begin gives a run its number, which the context carries to the runs of subgraphs.
func (p *Profile) begin(ctx context.Context) context.Context {
	if !p.Trace || ctx.Value(runKey{}) != nil {
		return ctx
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs++
	return context.WithValue(ctx, runKey{}, p.runs)
}

// add notes that st ran; c holds its inputs and outputs.
func (p *Profile) add(ctx context.Context, n *onnx.Node, c *ops.Ctx, inner bool, begin time.Time, d time.Duration) {
	t := NodeTime{Name: n.Name, Op: n.Op, Calls: 1, Time: d, Inner: inner}
	if t.Name == "" && len(n.Outputs) > 0 && n.Outputs[0] != nil {
		t.Name = n.Outputs[0].Name
	}
	if !c.Node.Def.View {
		for _, v := range slices.Concat(c.Ins, c.Outs) {
			t.Bytes += held(v)
		}
	}
	if c.Node.Def.FLOPs != nil {
		t.FLOPs = c.Node.Def.FLOPs(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Trace {
		if p.start.IsZero() {
			p.start = begin
		}
		run, _ := ctx.Value(runKey{}).(int)
		p.Spans = append(p.Spans, Span{t.Name, t.Op, run, begin.Sub(p.start), d, t.Bytes, t.FLOPs})
	}
	if p.ByNode == nil {
		p.ByNode = map[string]*NodeTime{}
	}
	if sum := p.ByNode[t.Name]; sum != nil {
		t.Calls, t.Time, t.Bytes, t.FLOPs = t.Calls+sum.Calls, t.Time+sum.Time, t.Bytes+sum.Bytes, t.FLOPs+sum.FLOPs
	}
	p.ByNode[t.Name] = &t
}

// WriteTrace writes the spans in Chrome's trace event format (JSON), which chrome://tracing, Perfetto and speedscope
// read: each run is a thread.
func (p *Profile) WriteTrace(w io.Writer) error {
	type args struct {
		Bytes int64 `json:"bytes"`
		FLOPs int64 `json:"flops,omitempty"`
	}
	type event struct {
		Name     string  `json:"name"`
		Category string  `json:"cat"`
		Phase    string  `json:"ph"`
		Start    float64 `json:"ts"`  // µs
		Duration float64 `json:"dur"` // µs
		Process  int     `json:"pid"`
		Thread   int     `json:"tid"`
		Args     args    `json:"args"`
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	events := make([]event, 0, len(p.Spans))
	for _, s := range p.Spans {
		events = append(events, event{s.Op + " " + s.Name, s.Op, "X", us(s.Start), us(s.Time), 1, s.Run, args{s.Bytes, s.FLOPs}})
	}
	return json.NewEncoder(w).Encode(map[string]any{"traceEvents": events, "displayTimeUnit": "ms"})
}
