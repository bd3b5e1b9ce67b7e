package ptfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds on a pickle. Its parts take up to some hundred times their own size in memory once read,
// and the names and shapes of a hundred thousand tensors fit in here.
const (
	maxPickle = 64 << 20
	maxOps    = 8 << 20
	maxMarks  = 1000 // open at once
	maxNumber = 1000 // bytes or digits of an integer, whose reading takes their square in time
	maxFrames = 1 << 16
)

// argument is what follows an opcode in a pickle.
type argument uint8

const (
	unknown argument = iota
	none
	fixed1
	fixed2
	fixed4
	fixed8
	line
	lines2
	numberLine
	counted1 // a byte that counts the bytes after it
	counted4
	counted8
	number1 // the same, of an integer
	number4
	frame
)

var arguments = func() (a [256]argument) {
	for arg, ops := range map[argument]string{
		none:       "(.012NQRabd}elsot])u\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98",
		fixed1:     "Khq\x80\x82",
		fixed2:     "M\x83",
		fixed4:     "Jjr\x84",
		fixed8:     "G",
		line:       "PSV",
		lines2:     "ci",
		numberLine: "FILgp",
		counted1:   "UC\x8c",
		counted4:   "TXB",
		counted8:   "\x8d\x8e\x96",
		number1:    "\x8a",
		number4:    "\x8b",
		frame:      "\x95",
	} {
		for i := range len(ops) {
			a[ops[i]] = arg
		}
	}
	return a
}()

var errCut = errors.New("the pickle ends early")

// scan finds the end of the pickle that data begins with, without running it, and verifies that all it
// counts is there: the unpickler takes memory for what is claimed before it reads.
func scan(data []byte) (end int, err error) {
	if len(data) > maxPickle {
		data = data[:maxPickle]
	}
	at, marks, frames := 0, 0, 0
	skip := func(n uint64) error {
		if n > uint64(len(data)-at) {
			return errCut
		}
		at += int(n)
		return nil
	}
	skipLine := func(most int) error {
		n := bytes.IndexByte(data[at:], '\n')
		if n < 0 {
			return errCut
		}
		if n > most {
			return fmt.Errorf("a number of %d digits is in the pickle", n)
		}
		at += n + 1
		return nil
	}
	counted := func(size int, most uint64) error {
		if size > len(data)-at {
			return errCut
		}
		var b [8]byte
		copy(b[:], data[at:at+size])
		at += size
		n := binary.LittleEndian.Uint64(b[:])
		if n > most {
			return fmt.Errorf("a number of %d bytes is in the pickle", n)
		}
		return skip(n)
	}
	for range maxOps {
		if at >= len(data) {
			return 0, errCut
		}
		op := data[at]
		at++
		var err error
		switch arguments[op] {
		case none:
		case fixed1:
			err = skip(1)
		case fixed2:
			err = skip(2)
		case fixed4:
			err = skip(4)
		case fixed8:
			err = skip(8)
		case line:
			err = skipLine(len(data))
		case numberLine:
			err = skipLine(maxNumber)
		case lines2:
			if err = skipLine(len(data)); err == nil {
				err = skipLine(len(data))
			}
		case counted1:
			err = counted(1, 1<<8)
		case counted4:
			err = counted(4, 1<<32)
		case counted8:
			err = counted(8, 1<<63-1)
		case number1:
			err = counted(1, 1<<8)
		case number4:
			err = counted(4, maxNumber)
		case frame:
			begin := at + 8
			if err = counted(8, 1<<63-1); err == nil {
				at = begin // what is in the frame is scanned too
			}
			if frames++; frames > maxFrames {
				err = errors.New("the pickle has too many frames")
			}
		default:
			err = fmt.Errorf("%#x is no operation of a pickle", op)
		}
		if err != nil {
			return 0, err
		}
		switch op {
		case '.':
			return at, nil
		case '(':
			if marks++; marks > maxMarks {
				return 0, errors.New("the pickle is nested too deep")
			}
		case 't', 'l', 'd', 'u', 'e', 'o', 'i', '1', 0x90, 0x91:
			marks = max(0, marks-1)
		}
	}
	return 0, errors.New("the pickle is too long")
}
