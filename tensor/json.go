package tensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strings"
)

// maxJSONRank bounds the nesting of arrays in JSON.
const maxJSONRank = 64

// ParseJSON makes a tensor of type d of nested JSON arrays, [[1,2],[3,4]] being 2 by 2 and a bare number a
// scalar. Numbers, true and false are elements of every type but string; "NaN", "INF" and "-INF" are too,
// for floats; a string tensor has strings. A number that d cannot hold (300 in a uint8, 1.5
// in an int64) is an error, as are arrays of unequal lengths. Complex types are not read.
func ParseJSON(data []byte, d DType) (*Tensor, error) {
	if !d.Valid() || classOf(d) == complexes {
		return nil, fmt.Errorf("tensor: JSON has no elements of type %s", d)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var (
		shape []int // as the first array at each depth has it
		count []int // elements seen in the array open at each depth
		known []bool
		depth = -1 // that elements are at, once one was seen
		texts []string
		wide  []float64
		exact []*big.Int // for integers, beside wide
	)
	isInt := d.IsInteger()
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("tensor: the JSON ends early")
		}
		if err != nil {
			return nil, fmt.Errorf("tensor: JSON: %w", err)
		}
		open := len(count)
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '[':
				if open == maxJSONRank {
					return nil, fmt.Errorf("tensor: JSON arrays are nested more than %d deep", maxJSONRank)
				}
				if depth >= 0 && open >= depth {
					return nil, fmt.Errorf("tensor: an array stands where other arrays have elements, near byte %d", dec.InputOffset())
				}
				if open == len(shape) {
					shape, known = append(shape, 0), append(known, false)
				}
				count = append(count, 0)
				continue
			case ']':
				n := count[open-1]
				if known[open-1] && n != shape[open-1] {
					return nil, fmt.Errorf("tensor: arrays of %d and %d values at one depth, near byte %d", shape[open-1], n, dec.InputOffset())
				}
				if !known[open-1] && n == 0 && len(shape) > open {
					return nil, fmt.Errorf("tensor: an empty array beside others, near byte %d", dec.InputOffset())
				}
				if n == 0 {
					if depth >= 0 && depth != open {
						return nil, fmt.Errorf("tensor: arrays are nested unevenly, near byte %d", dec.InputOffset())
					}
					depth = open
				}
				shape[open-1], known[open-1] = n, true
				count = count[:open-1]
			default:
				return nil, fmt.Errorf("tensor: want arrays and values in the JSON, got an object near byte %d", dec.InputOffset())
			}
		default:
			if depth >= 0 && depth != open || len(shape) > open {
				return nil, fmt.Errorf("tensor: arrays are nested unevenly, near byte %d", dec.InputOffset())
			}
			depth = open
			v, whole, s, err := jsonElement(tok, d)
			if err != nil {
				return nil, err
			}
			switch {
			case d == String:
				texts = append(texts, s)
			case isInt:
				exact = append(exact, whole)
			default:
				wide = append(wide, v)
			}
		}
		if len(count) > 0 {
			count[len(count)-1]++
			continue
		}
		break
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("tensor: the JSON goes on after the array")
	}
	if shape == nil {
		shape = []int{}
	}
	if d == String {
		if texts == nil {
			texts = []string{}
		}
		return FromSlice(texts, shape)
	}
	t, err := Zeros(d, shape...)
	if err != nil {
		return nil, err
	}
	for i, v := range wide {
		setFloat(t, i, v, false, RoundUp)
		if got := Float64At(t, i); math.IsInf(got, 0) != math.IsInf(v, 0) || (got != got) != (v != v) {
			return nil, fmt.Errorf("tensor: element %v: %v is out of the range of %s", place(i, shape), v, d)
		}
	}
	for i, v := range exact {
		if err := parseElement(t, i, v.String(), true, RoundUp); err != nil {
			return nil, err
		}
		got := new(big.Int).SetInt64(t.intAt(i))
		if classOf(d) == uints {
			got.SetUint64(uint64(t.intAt(i)))
		}
		if got.Cmp(v) != 0 {
			return nil, fmt.Errorf("tensor: element %v: %v is out of the range of %s", place(i, shape), v, d)
		}
	}
	return t, nil
}

// jsonElement is one element of the type d: for integers as whole, for strings as s, otherwise as v.
func jsonElement(tok json.Token, d DType) (v float64, whole *big.Int, s string, err error) {
	wrong := func() error { return fmt.Errorf("tensor: %#v in the JSON is no %s", tok, d) }
	if d == String {
		s, ok := tok.(string)
		if !ok {
			return 0, nil, "", wrong()
		}
		return 0, nil, s, nil
	}
	switch tok := tok.(type) {
	case bool:
		whole = new(big.Int)
		if tok {
			v, whole = 1, big.NewInt(1)
		}
		return v, whole, "", nil
	case string:
		if !d.IsFloat() {
			return 0, nil, "", wrong()
		}
		switch strings.ToUpper(strings.TrimPrefix(strings.TrimPrefix(tok, "+"), "-")) {
		case "NAN":
			return math.NaN(), nil, "", nil
		case "INF", "INFINITY":
			if tok[0] == '-' {
				return math.Inf(-1), nil, "", nil
			}
			return math.Inf(1), nil, "", nil
		}
		return 0, nil, "", wrong()
	case json.Number:
		v, err := tok.Float64()
		if d == Float32 && err == nil {
			// One rounding, not two.
			one := Scalar[float32](0)
			if err = parseElement(one, 0, tok.String(), true, RoundUp); err == nil && !math.IsInf(Float64At(one, 0), 0) {
				v = Float64At(one, 0)
			}
		}
		if err != nil {
			return 0, nil, "", fmt.Errorf("tensor: %s in the JSON is out of the range of %s", tok, d)
		}
		if d.IsInteger() {
			whole, ok := new(big.Int).SetString(tok.String(), 10)
			if !ok { // 1e3 and 2.0 are whole too
				if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
					return 0, nil, "", fmt.Errorf("tensor: %s in the JSON is no %s", tok, d)
				}
				whole = big.NewInt(int64(v))
			}
			if !whole.IsInt64() && !whole.IsUint64() {
				return 0, nil, "", fmt.Errorf("tensor: %s in the JSON is out of the range of %s", tok, d)
			}
			return 0, whole, "", nil
		}
		return v, nil, "", nil
	}
	return 0, nil, "", wrong()
}
