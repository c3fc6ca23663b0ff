package onnx

// Trim is for tests that measure memory.
func Trim() { trim() }

// Find is for tests of where the library is looked for.
func Find(c Config) (string, error) { return find(c) }
