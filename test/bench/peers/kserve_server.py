"""KServe's Python server with a model of its own."""

import sys

import numpy as np

from session import GRPC_PORT, NAME, PORT, load

sys.argv += ["--enable_latency_logging", "false", "--log_config_file", f"{sys.path[0]}/kserve_log.json"]
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402  it reads sys.argv
from kserve.utils.utils import generate_uuid  # noqa: E402


class OnnxModel(Model):
    def __init__(self):
        super().__init__(NAME)
        self.session, self.dtype = load()
        self.ready = True

    def predict(self, payload, headers=None):
        if not isinstance(payload, InferRequest):  # V1
            (y,) = self.session.run(None, {"X": np.asarray(payload["instances"], self.dtype)})
            return {"predictions": y.tolist()}
        (y,) = self.session.run(None, {"X": payload.inputs[0].as_numpy()})
        output = InferOutput("Y", list(y.shape), "FP32")
        binary = payload.use_binary_outputs or payload.from_grpc
        output.set_data_from_numpy(y, binary_data=binary)
        return InferResponse(payload.id or generate_uuid(), NAME, [output])


ModelServer(http_port=PORT, grpc_port=GRPC_PORT, workers=1).start([OnnxModel()])
