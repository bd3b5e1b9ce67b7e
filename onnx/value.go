package onnx

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// DecodeValue reads what a .pb file of test data holds: a TensorProto, SequenceProto,
// OptionalProto or MapProto, as t says (nil: a tensor).
func DecodeValue(data []byte, t *Type) (tensor.Value, error) {
	kind := TensorType
	if t != nil {
		kind = t.Kind
	}
	d := &decoder{}
	switch kind {
	case SequenceType:
		var p onnxpb.SequenceProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not a SequenceProto: %w", err)
		}
		return d.sequence(&p, 0)
	case OptionalType:
		var p onnxpb.OptionalProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not an OptionalProto: %w", err)
		}
		return d.optional(&p, 0)
	case MapType:
		var p onnxpb.MapProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not a MapProto: %w", err)
		}
		return d.mapping(&p, 0)
	case SparseTensorType:
		var p onnxpb.SparseTensorProto
		if err := proto.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("not a SparseTensorProto: %w", err)
		}
		s, err := d.sparse(&p)
		if err != nil {
			return nil, err
		}
		return s.dense, nil
	}
	v, _, err := DecodeTensor(data)
	if err != nil {
		return nil, err
	}
	return v, nil
}

var errDeepValue = fmt.Errorf("values nest deeper than %d", maxNesting)

// each appends what get makes of each element.
func each[P any](out []tensor.Value, ps []P, get func(P) (tensor.Value, error)) ([]tensor.Value, error) {
	for _, p := range ps {
		v, err := get(p)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (d *decoder) tensorValue(p *onnxpb.TensorProto) (tensor.Value, error) {
	t, err := d.tensor(p)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (d *decoder) sparseValue(p *onnxpb.SparseTensorProto) (tensor.Value, error) {
	s, err := d.sparse(p)
	if err != nil {
		return nil, err
	}
	return s.dense, nil
}

func (d *decoder) sequence(p *onnxpb.SequenceProto, depth int) (tensor.Value, error) {
	if depth > maxNesting {
		return nil, errDeepValue
	}
	s := &tensor.Sequence{}
	var err error
	if s.Values, err = each(s.Values, p.TensorValues, d.tensorValue); err != nil {
		return nil, err
	}
	if s.Values, err = each(s.Values, p.SparseTensorValues, d.sparseValue); err != nil {
		return nil, err
	}
	for _, v := range s.Values {
		s.Elem = v.(*tensor.Tensor).DType()
	}
	if s.Values, err = each(s.Values, p.SequenceValues, func(q *onnxpb.SequenceProto) (tensor.Value, error) {
		return d.sequence(q, depth+1)
	}); err != nil {
		return nil, err
	}
	if s.Values, err = each(s.Values, p.MapValues, func(q *onnxpb.MapProto) (tensor.Value, error) {
		return d.mapping(q, depth+1)
	}); err != nil {
		return nil, err
	}
	if s.Values, err = each(s.Values, p.OptionalValues, func(q *onnxpb.OptionalProto) (tensor.Value, error) {
		return d.optional(q, depth+1)
	}); err != nil {
		return nil, err
	}
	return s, nil
}

func (d *decoder) optional(p *onnxpb.OptionalProto, depth int) (tensor.Value, error) {
	if depth > maxNesting {
		return nil, errDeepValue
	}
	var v tensor.Value
	var err error
	switch {
	case p.TensorValue != nil:
		v, err = d.tensorValue(p.TensorValue)
	case p.SparseTensorValue != nil:
		v, err = d.sparseValue(p.SparseTensorValue)
	case p.SequenceValue != nil:
		v, err = d.sequence(p.SequenceValue, depth+1)
	case p.MapValue != nil:
		v, err = d.mapping(p.MapValue, depth+1)
	case p.OptionalValue != nil:
		v, err = d.optional(p.OptionalValue, depth+1)
	}
	if err != nil {
		return nil, err
	}
	return &tensor.Optional{Value: v}, nil
}

func (d *decoder) mapping(p *onnxpb.MapProto, depth int) (tensor.Value, error) {
	m := &tensor.Map{}
	if len(p.StringKeys) > 0 || tensor.DType(p.GetKeyType()) == tensor.String {
		keys := make([]string, len(p.StringKeys))
		for i, k := range p.StringKeys {
			keys[i] = string(k)
		}
		m.Keys = tensor.New(keys)
	} else {
		m.Keys = tensor.New(slices.Clone(p.Keys))
	}
	if p.Values == nil {
		return nil, errors.New("a map without values")
	}
	v, err := d.sequence(p.Values, depth+1)
	if err != nil {
		return nil, err
	}
	// A value for each key, or all of them in one tensor.
	have := v.(*tensor.Sequence).Values
	if n := m.Keys.Len(); len(have) != n {
		if t, ok := one(have).(*tensor.Tensor); !ok || t.Len() != n {
			return nil, fmt.Errorf("a map has %d keys and %d values", n, len(have))
		}
	}
	m.Values = v
	return m, nil
}

func one(vs []tensor.Value) tensor.Value {
	if len(vs) == 1 {
		return vs[0]
	}
	return nil
}

// EncodeValue is v as a file of test data, the inverse of [DecodeValue].
func EncodeValue(v tensor.Value, name string) ([]byte, error) {
	p, err := valueMessage(v, 0)
	if err != nil {
		return nil, err
	}
	switch p := p.(type) {
	case *onnxpb.TensorProto:
		p.Name = str(name)
	case *onnxpb.SequenceProto:
		p.Name = str(name)
	case *onnxpb.OptionalProto:
		p.Name = str(name)
	case *onnxpb.MapProto:
		p.Name = str(name)
	}
	return proto.Marshal(p)
}

// The values of SequenceProto.DataType and OptionalProto.DataType.
const (
	ofNothing int32 = iota
	ofTensor
	ofSparseTensor
	ofSequence
	ofMap
	ofOptional
)

func valueMessage(v tensor.Value, depth int) (proto.Message, error) {
	if depth > maxNesting {
		return nil, errDeepValue
	}
	switch v := v.(type) {
	case *tensor.Tensor:
		if v == nil {
			break
		}
		return tensorProto(v, nil), nil
	case *tensor.Sequence:
		return sequenceProto(v, depth)
	case *tensor.Optional:
		p := &onnxpb.OptionalProto{ElemType: proto.Int32(ofNothing)}
		if v.Value == nil {
			return p, nil
		}
		q, err := valueMessage(v.Value, depth+1)
		if err != nil {
			return nil, err
		}
		var kind int32
		switch q := q.(type) {
		case *onnxpb.TensorProto:
			kind, p.TensorValue = ofTensor, q
		case *onnxpb.SequenceProto:
			kind, p.SequenceValue = ofSequence, q
		case *onnxpb.MapProto:
			kind, p.MapValue = ofMap, q
		case *onnxpb.OptionalProto:
			kind, p.OptionalValue = ofOptional, q
		}
		p.ElemType = &kind
		return p, nil
	case *tensor.Map:
		p := &onnxpb.MapProto{}
		if v.Keys == nil || v.Values == nil {
			return nil, errors.New("a map without keys or values")
		}
		p.KeyType = proto.Int32(int32(v.Keys.DType()))
		if v.Keys.DType() == tensor.String {
			for _, k := range tensor.Data[string](v.Keys) {
				p.StringKeys = append(p.StringKeys, []byte(k))
			}
		} else {
			keys, err := tensor.Convert(v.Keys, tensor.Int64, false)
			if err != nil {
				return nil, fmt.Errorf("keys of a map: %w", err)
			}
			p.Keys = tensor.Data[int64](keys)
		}
		s, ok := v.Values.(*tensor.Sequence)
		if !ok {
			s = &tensor.Sequence{Values: []tensor.Value{v.Values}}
		}
		var err error
		p.Values, err = sequenceProto(s, depth+1)
		return p, err
	}
	return nil, errors.New("there is no value to encode")
}

func sequenceProto(s *tensor.Sequence, depth int) (*onnxpb.SequenceProto, error) {
	p := &onnxpb.SequenceProto{}
	kind := ofTensor
	for i, v := range s.Values {
		q, err := valueMessage(v, depth+1)
		if err != nil {
			return nil, err
		}
		was := kind
		switch q := q.(type) {
		case *onnxpb.TensorProto:
			kind, p.TensorValues = ofTensor, append(p.TensorValues, q)
		case *onnxpb.SequenceProto:
			kind, p.SequenceValues = ofSequence, append(p.SequenceValues, q)
		case *onnxpb.MapProto:
			kind, p.MapValues = ofMap, append(p.MapValues, q)
		case *onnxpb.OptionalProto:
			kind, p.OptionalValues = ofOptional, append(p.OptionalValues, q)
		}
		if i > 0 && kind != was {
			return nil, errors.New("a sequence holds values of several kinds")
		}
	}
	p.ElemType = &kind
	return p, nil
}
