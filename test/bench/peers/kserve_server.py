"""KServe's Python server with a model of its own."""

import sys

import numpy as np

from session import GRPC_PORT, NAME, PORT, load

sys.argv += ["--enable_latency_logging", "false", "--log_config_file", f"{sys.path[0]}/kserve_log.json"]
from kserve import InferRequest, Model, ModelServer  # noqa: E402  it reads sys.argv
from kserve.utils.utils import get_predict_response  # noqa: E402


class OnnxModel(Model):
    def __init__(self):
        super().__init__(NAME)
        self.session, self.dtype = load()
        self.ready = True

    def predict(self, payload, headers=None):
        v2 = isinstance(payload, InferRequest)
        x = payload.inputs[0].as_numpy() if v2 else np.asarray(payload["instances"], self.dtype)
        return get_predict_response(payload, self.session.run(None, {"X": x})[0], self.name)


ModelServer(http_port=PORT, grpc_port=GRPC_PORT, workers=1).start([OnnxModel()])
