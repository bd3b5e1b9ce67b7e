package main

import (
	"fmt"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func startORT(library string) error {
	if library == "" {
		return fmt.Errorf("-ort must name ONNX Runtime's shared library")
	}
	ort.SetSharedLibraryPath(library)
	return ort.InitializeEnvironment(ort.WithLogLevelError())
}

// peer is a model in ONNX Runtime with its inputs.
type peer struct {
	session *ort.DynamicAdvancedSession
	in, out []ort.Value
}

// newPeer loads the model in data, or in the file at path where data is nil. Of m it takes the names of inputs and outputs.
func newPeer(path string, data []byte, m *onnx.Model, inputs map[string]tensor.Value, threads int) (*peer, error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	for _, err := range []error{options.SetIntraOpNumThreads(threads), options.SetInterOpNumThreads(1),
		options.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll)} {
		if err != nil {
			return nil, err
		}
	}
	p := &peer{}
	var inNames, outNames []string
	for _, v := range m.Graph.Inputs {
		x, ok := inputs[v.Name].(*tensor.Tensor)
		if !ok {
			continue
		}
		shape := make([]int64, x.Rank())
		for i, d := range x.Shape() {
			shape[i] = int64(d)
		}
		if x.Rank() == 0 && x.DType() == tensor.Int64 {
			s, err := ort.NewScalar(tensor.Data[int64](x)[0])
			if err != nil {
				return nil, err
			}
			p.in = append(p.in, s)
		} else {
			c, err := ort.NewCustomDataTensor(ort.NewShape(shape...), x.Bytes(), ort.TensorElementDataType(x.DType()))
			if err != nil {
				return nil, err
			}
			p.in = append(p.in, c)
		}
		inNames = append(inNames, v.Name)
	}
	for _, v := range m.Graph.Outputs {
		outNames = append(outNames, v.Name)
	}
	p.out = make([]ort.Value, len(outNames))
	if data == nil {
		p.session, err = ort.NewDynamicAdvancedSession(path, inNames, outNames, options)
	} else {
		p.session, err = ort.NewDynamicAdvancedSessionWithONNXData(data, inNames, outNames, options)
	}
	return p, err
}

// run computes the outputs, which ONNX Runtime allocates, as Retune does its own.
func (p *peer) run() error {
	p.drop()
	return p.session.Run(p.in, p.out)
}

func (p *peer) drop() {
	for i, v := range p.out {
		if v != nil {
			v.Destroy()
			p.out[i] = nil
		}
	}
}

// outputs are those of a run, nil where they are not float32.
func (p *peer) outputs() ([][]float32, error) {
	if err := p.run(); err != nil {
		return nil, err
	}
	out := make([][]float32, len(p.out))
	for i, v := range p.out {
		if t, ok := v.(*ort.Tensor[float32]); ok {
			out[i] = append([]float32(nil), t.GetData()...)
		}
	}
	return out, nil
}

func (p *peer) close() {
	p.drop()
	for _, v := range p.in {
		v.Destroy()
	}
	p.session.Destroy()
}

// refusal is why the peer cannot run a row.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }
