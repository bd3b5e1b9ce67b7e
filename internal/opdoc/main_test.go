package main

import (
	"os"
	"testing"
)

func TestPageIsFresh(t *testing.T) {
	have, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page() {
		t.Error("docs/operators.md is stale: run go generate ./internal/opdoc")
	}
}
