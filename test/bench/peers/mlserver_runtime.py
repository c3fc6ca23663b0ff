"""An MLServer runtime for ONNX files, as its documentation has custom ones."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from session import load


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self._session, _ = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self._session.run(None, {"X": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("Y", y)])
