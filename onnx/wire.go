package onnx

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a kind of message in which tensors can lie.
type message int

const (
	modelMessage message = iota
	graphMessage
	nodeMessage
	attributeMessage
	functionMessage
	sparseMessage
	tensorMessage
)

// holds is, by message and field number, the messages on the way to a model's tensors. All of them must be here:
// the decoder takes raw_data to be a number everywhere.
var holds = [...]map[protowire.Number]message{
	modelMessage:     {7: graphMessage, 25: functionMessage},
	graphMessage:     {1: nodeMessage, 5: tensorMessage, 15: sparseMessage},
	nodeMessage:      {5: attributeMessage},
	attributeMessage: {5: tensorMessage, 6: graphMessage, 10: tensorMessage, 11: graphMessage, 22: sparseMessage, 23: sparseMessage},
	functionMessage:  {7: nodeMessage, 11: attributeMessage},
	sparseMessage:    {1: tensorMessage, 2: tensorMessage},
	tensorMessage:    nil,
}

const rawDataField = 9

// skeleton copies a ModelProto with each raw_data replaced by its place in raws: proto.Unmarshal
// copies all bytes fields, which for weights costs more than all the rest of loading.
type skeleton struct {
	raws [][]byte
	out  []byte
}

func (s *skeleton) copy(in []byte, kind message, depth int) error {
	if depth > 4*maxNesting { // a subgraph is four messages deep at most
		return fmt.Errorf("messages nest deeper than %d", 4*maxNesting)
	}
	for len(in) > 0 {
		num, typ, n := protowire.ConsumeTag(in)
		if n < 0 {
			return protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(num, typ, in[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		field := in[:n+m]
		in = in[n+m:]
		child, nested := holds[kind][num]
		raw := kind == tensorMessage && num == rawDataField
		if typ != protowire.BytesType || !nested && !raw {
			s.out = append(s.out, field...)
			continue
		}
		body, _ := protowire.ConsumeBytes(field[n:])
		s.out = protowire.AppendTag(s.out, num, typ)
		if raw {
			s.out = binary.LittleEndian.AppendUint32(append(s.out, 4), uint32(len(s.raws)))
			s.raws = append(s.raws, body)
			continue
		}
		at := len(s.out)
		s.out = append(s.out, 0x80, 0x80, 0x80, 0x80, 0) // the length, as a varint of always five bytes
		if err := s.copy(body, child, depth+1); err != nil {
			return err
		}
		size := len(s.out) - at - 5
		for i := range 5 {
			s.out[at+i] |= byte(size>>(7*i)) & 0x7f
		}
	}
	return nil
}
