package onnx

const fileName = "libonnxruntime.dylib"

// trim has nothing to do, large blocks go back to the system when they are freed.
func trim() {}
