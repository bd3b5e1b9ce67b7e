//go:build !linux

package pages

// Huge does nothing here.
func Huge([]byte) {}

// Drop does nothing here.
func Drop([]byte) {}
