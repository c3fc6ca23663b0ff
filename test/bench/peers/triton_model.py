"""A model of Triton's Python backend that runs an ONNX file."""


import triton_python_backend_utils as pb

from session import joined, load


class TritonPythonModel:
    def initialize(self, args):
        self.session, _ = load()

    def run(self, x):
        return self.session.run(None, {"X": x})[0]

    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]
        return [pb.InferenceResponse([pb.Tensor("Y", y)]) for y in joined(self.run, inputs)]
