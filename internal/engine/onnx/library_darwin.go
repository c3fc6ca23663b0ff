package onnx

const fileName = "libonnxruntime.dylib"
