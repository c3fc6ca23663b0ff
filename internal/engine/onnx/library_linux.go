package onnx

const fileName = "libonnxruntime.so"
