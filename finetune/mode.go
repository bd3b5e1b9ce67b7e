package finetune

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// Mode says whether batch norms and dropout behave as in training or as in inference.
type Mode string

const (
	// AsExported leaves each as the file has it.
	AsExported Mode = "as_exported"
	// Train is PyTorch's train(): batch norms use the batch's statistics and move the running ones, dropout drops.
	Train Mode = "train"
	// Eval is PyTorch's eval(): running statistics, no dropout.
	Eval Mode = "eval"
)

// Inputs that the training graph has beside the model's own.
const (
	seedInput  = "retune::seed"  // what dropout draws by
	scaleInput = "retune::scale" // what the loss is multiplied by before its gradient is taken
)

// batchNorm is a batch norm that uses the batch's statistics.
type batchNorm struct {
	momentum       float64        // PyTorch's: the share of the batch
	mean, variance string         // the initializers of the running statistics, "" where they are none
	stats          [2]*onnx.Value // the batch's mean and unbiased variance
}

// setMode makes the batch norms and dropouts of m, of which infos tells, behave as mode asks. It lists the batch norms
// that then train. Dropout that drops is replaced by our own, which draws by the input [seedInput].
func setMode(m *onnx.Model, infos map[*onnx.Value]ops.Info, mode Mode) ([]batchNorm, error) {
	e := &modeEdit{model: m, infos: infos, mode: mode, outputs: map[*onnx.Value]bool{}}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, v := range g.Outputs {
			e.outputs[v] = true
		}
	})
	var err error
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range slices.Clone(g.Nodes) {
			if err != nil || onnx.CanonicalDomain(n.Domain) != "" {
				continue
			}
			switch n.Op {
			case "BatchNormalization":
				err = e.batchNorm(g, n)
			case "Dropout":
				err = e.dropout(g, n)
			}
			if err != nil {
				err = ops.Errorf(n, "mode %s: %w", mode, err)
			}
		}
	})
	return e.norms, err
}

// insertDropout puts a dropout after each value that ratios names, where the export has left it out.
func insertDropout(m *onnx.Model, ratios map[string]float64) error {
	for _, name := range slices.Sorted(maps.Keys(ratios)) {
		var v *onnx.Value
		for w := range m.Graph.Values() {
			if w.Name == name {
				v = w
			}
		}
		r := ratios[name]
		switch {
		case v == nil || v.Def() == nil:
			return fmt.Errorf("dropout: %q is no output of a node of the model's graph", name)
		case len(v.Users()) == 0:
			return fmt.Errorf("dropout: nothing reads %q", name)
		case !(r >= 0 && r < 1):
			return fmt.Errorf("dropout: the ratio %v of %q is not in [0, 1)", r, name)
		}
		readers := slices.Clone(v.Users())
		n := onnx.NewNode("Dropout", []*onnx.Value{v, m.Graph.AddInit(m.Graph.FreshName("retune::ratio"), tensor.Scalar(r))}, m.Graph.FreshName("retune::dropped"))
		n.Name, n.Opset = name, ops.GradOpset
		for _, reader := range readers {
			for i, in := range reader.Inputs {
				if in == v {
					reader.SetInput(i, n.Outputs[0])
				}
			}
		}
		m.Graph.Nodes = slices.Insert(m.Graph.Nodes, 1+slices.Index(m.Graph.Nodes, v.Def()), n)
	}
	return nil
}

// padding is the row of a table that gets no gradient where it is looked up.
type padding struct {
	row   int64
	asked bool // by the configuration: it is an error if there is no such place
}

// padEmbeddings has rows of tables, by name, get no gradient from where they are looked up.
func padEmbeddings(m *onnx.Model, tables map[string]padding) error {
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		found := false
		m.Graph.Walk(func(g *onnx.Graph) {
			for _, n := range g.Nodes {
				if n.Op != "Gather" || onnx.CanonicalDomain(n.Domain) != "" || n.Input(0) == nil {
					continue
				}
				if a := n.Attr("axis"); a != nil && a.I != 0 {
					continue
				}
				table := n.Inputs[0]
				if d := table.Def(); d != nil && d.Op == "Identity" && table.Name != name {
					table = d.Input(0)
				}
				if table != nil && table.Name == name {
					n.Op, n.Domain, n.Opset, found = "Embedding", ops.Internal, ops.GradOpset, true
					n.Attrs = []*onnx.Attribute{ops.IntAttr("padding_idx", tables[name].row)}
				}
			}
		})
		if !found && tables[name].asked {
			return fmt.Errorf("padding_idx: no Gather looks up rows of %q", name)
		}
	}
	return nil
}

type modeEdit struct {
	model   *onnx.Model
	infos   map[*onnx.Value]ops.Info
	mode    Mode
	outputs map[*onnx.Value]bool
	norms   []batchNorm
	seed    *onnx.Value
	streams int64
}

// since is the version of the operator's definition that is in force at n.
func (e *modeEdit) since(n *onnx.Node) int {
	opset := n.Opset
	if opset == 0 {
		opset = e.model.OpsetVersion("")
	}
	_, since := ops.Lookup("", n.Op, int(opset))
	return since
}

// drop takes away n's outputs from the first-th, which no one may read.
func (e *modeEdit) drop(n *onnx.Node, first int) error {
	for i := first; i < len(n.Outputs); i++ {
		if v := n.Outputs[i]; v != nil && (len(v.Users()) > 0 || e.outputs[v]) {
			return fmt.Errorf("output %q is read, which only the other mode has", v.Name)
		}
	}
	n.Outputs = n.Outputs[:min(first, len(n.Outputs))]
	return nil
}

func (e *modeEdit) batchNorm(g *onnx.Graph, n *onnx.Node) error {
	since := e.since(n)
	training := trains(n, since)
	switch {
	case e.mode == Train && !training:
		if since < 9 && n.Int("spatial", 1) == 0 {
			return fmt.Errorf("statistics of each element (spatial 0) are not supported in training")
		}
		if err := e.drop(n, 1); err != nil {
			return err
		}
		for _, old := range []string{"spatial", "is_test", "consumed_inputs"} {
			n.DelAttr(old)
		}
		n.SetAttr(ops.IntAttr("training_mode", 1))
		n.Opset, training = ops.GradOpset, true
	case e.mode == Eval && training:
		if err := e.drop(n, 1); err != nil {
			return err
		}
		if since >= 14 {
			n.DelAttr("training_mode")
		}
		training = false
	}
	if !training {
		return nil
	}
	if g != e.model.Graph {
		return fmt.Errorf("training is not supported in a subgraph, where the running statistics cannot be written back")
	}
	b := batchNorm{momentum: 1 - decimal(n.Float("momentum", 0.9))}
	for i, name := range []*string{&b.mean, &b.variance} {
		v := n.Input(3 + i)
		if v != nil && v.Def() != nil && !hangsOnInput(v, map[*onnx.Value]bool{}) { // else there is none: PyTorch's track_running_stats=False
			return fmt.Errorf("the running statistic %q is a node's output, not an initializer, and cannot be written back", v.Name)
		}
		if v != nil && v.Const != nil {
			*name = v.Name
		}
	}
	// Our own operator gives the batch's statistics too. Where the standard's running ones are read, it stands beside.
	own := onnx.NewNode("BatchNormalization", n.Inputs[:3:3], "", g.FreshName("retune::mean"), g.FreshName("retune::variance"))
	own.Name, own.Domain, own.Opset = n.Name, ops.Internal, ops.GradOpset
	own.Attrs = []*onnx.Attribute{ops.FloatAttr("epsilon", n.Float("epsilon", 1e-5))}
	b.stats = [2]*onnx.Value{own.Outputs[1], own.Outputs[2]}
	at := slices.Index(g.Nodes, n)
	if e.drop(n, 1) == nil {
		y := n.Outputs[0]
		n.Outputs[0] = nil
		own.SetOutput(0, y)
		for i := range n.Inputs {
			n.SetInput(i, nil)
		}
		g.Nodes[at] = own
	} else {
		g.Nodes = slices.Insert(g.Nodes, at+1, own)
	}
	e.norms = append(e.norms, b)
	return nil
}

// hangsOnInput reports whether v is computed from what a batch brings, seen being values of which that is known not to be so.
func hangsOnInput(v *onnx.Value, seen map[*onnx.Value]bool) bool {
	switch {
	case v == nil || v.Const != nil || seen[v]:
		return false
	case v.Def() == nil:
		return true
	}
	seen[v] = true
	return slices.ContainsFunc(v.Def().Inputs, func(in *onnx.Value) bool { return hangsOnInput(in, seen) })
}

// trains reports whether a batch norm of that version uses the batch's statistics.
func trains(n *onnx.Node, since int) bool {
	if since >= 14 {
		return n.Int("training_mode", 0) != 0
	}
	return len(n.Outputs) > 1
}

// untieStatistics gives the batch norms that will train running statistics of their own: those of new modules are
// equal, and an exporter then writes the first ones and Identities of them.
func untieStatistics(m *onnx.Model, mode Mode) {
	for _, n := range slices.Clone(m.Graph.Nodes) {
		if n.Op != "BatchNormalization" || onnx.CanonicalDomain(n.Domain) != "" || mode == Eval {
			continue
		}
		if _, since := ops.Lookup("", n.Op, int(m.OpsetVersion(""))); mode == AsExported && !trains(n, since) {
			continue
		}
		for i := 3; i < 5; i++ {
			if v := n.Input(i); v != nil && v.Def() != nil && isCopy(v.Def()) {
				ownInitializer(m.Graph, v.Def())
			}
		}
	}
}

// decimal is the number that was meant by an attribute: files have 0.9 as the float32 next to it.
func decimal(f float32) float64 {
	v, _ := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	return v
}

func (e *modeEdit) dropout(g *onnx.Graph, n *onnx.Node) error {
	since := e.since(n)
	on := since < 7 && n.Int("is_test", 0) == 0
	if t := n.Input(2); since >= 12 && t != nil {
		c := e.infos[t].Const
		if t.Const != nil {
			c = t.Const
		}
		if c == nil && e.mode == AsExported {
			return nil // decided as it runs
		}
		on = c != nil && c.Len() == 1 && tensor.Float64At(c, 0) != 0
	}
	on = on || e.mode == Train
	if e.mode == Eval || on && e.dropsNone(n, since) {
		on = false
		switch {
		case e.drop(n, 1) == nil: // nothing reads the mask
			for i := 1; i < len(n.Inputs); i++ {
				n.SetInput(i, nil)
			}
			n.Op, n.Opset, n.Attrs, n.Inputs = "Identity", ops.GradOpset, nil, n.Inputs[:1]
		case since < 7:
			n.SetAttr(ops.IntAttr("is_test", 1))
		case since >= 12 && n.Input(2) != nil:
			n.SetInput(2, nil)
		}
	}
	if !on {
		return nil
	}
	for in := g; in.Outer != nil; in = e.graphOf(in.Outer) {
		if in.Outer.Op != "If" {
			return fmt.Errorf("dropout in the body of a %s is not supported in training: each turn would drop the same", in.Outer.Op)
		}
	}
	if since < 10 {
		if err := e.drop(n, 1); err != nil { // a mask of floats
			return err
		}
	}
	var ratio *onnx.Value
	if since >= 12 {
		ratio = n.Input(1)
	}
	if ratio == nil {
		r := 0.5
		if since < 12 {
			r = decimal(n.Float("ratio", 0.5))
		}
		ratio = e.model.Graph.AddInit(e.model.Graph.FreshName("retune::ratio"), tensor.Scalar(r))
	}
	if e.seed == nil {
		e.seed = &onnx.Value{Name: seedInput, Type: &onnx.Type{Elem: tensor.Int64, Shape: []onnx.Dim{}}}
		e.model.Graph.Inputs = append(e.model.Graph.Inputs, e.seed)
	}
	x := n.Input(0)
	for i := range n.Inputs {
		n.SetInput(i, nil)
	}
	n.Inputs = nil
	for i, v := range []*onnx.Value{x, ratio, e.seed} {
		n.SetInput(i, v)
	}
	n.Op, n.Domain, n.Opset = "SeededDropout", ops.Internal, ops.GradOpset
	n.Attrs = []*onnx.Attribute{ops.IntAttr("stream", e.streams)}
	e.streams++
	return nil
}

// dropsNone reports whether a dropout's ratio is 0.
func (e *modeEdit) dropsNone(n *onnx.Node, since int) bool {
	if since < 12 {
		return n.Float("ratio", 0.5) == 0
	}
	v := n.Input(1)
	if v == nil {
		return false
	}
	c := e.infos[v].Const
	if v.Const != nil && !slices.Contains(e.model.Graph.Inputs, v) {
		c = v.Const
	}
	return c != nil && c.Len() == 1 && tensor.Float64At(c, 0) == 0
}

// graphOf is the graph that n is a node of.
func (e *modeEdit) graphOf(n *onnx.Node) *onnx.Graph {
	var found *onnx.Graph
	e.model.Graph.Walk(func(g *onnx.Graph) {
		if slices.Contains(g.Nodes, n) {
			found = g
		}
	})
	return found
}
