// Package strict decodes the JSON arguments of the contract: a misspelt field is an error.
package strict

import (
	"bytes"
	"encoding/json"
	"io"

	"tailnet/internal/fault"
)

// Unmarshal decodes an argument of the contract, strictly.
func Unmarshal(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) { // "null" would decode, into nothing
		return fault.New(fault.Argument, "arguments are not the JSON expected: want an object")
	}
	if err := d.Decode(into); err != nil {
		return fault.New(fault.Argument, "arguments are not the JSON expected: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fault.New(fault.Argument, "arguments hold more than one JSON document")
	}
	return nil
}
