"""mosec with a batching worker. A worker speaks JSON or msgpack, each at a path of its own."""

import sys

import msgpack
import numpy as np
import orjson
from mosec import Runtime, Server, Worker

from session import PORT, joined, load


class Model(Worker):
    def __init__(self):
        super().__init__()
        self.session, self.dtype = load()

    def run(self, x):
        return self.session.run(None, {"X": x})[0]

    def forward(self, data):
        return joined(self.run, data)


class JSON(Model):
    def deserialize(self, data):
        return np.asarray(orjson.loads(data)["instances"], self.dtype)

    def serialize(self, data):
        return orjson.dumps({"predictions": data}, option=orjson.OPT_SERIALIZE_NUMPY)


class Msgpack(Model):
    req_mime_type = resp_mime_type = "application/msgpack"

    def deserialize(self, data):
        x = msgpack.unpackb(data)
        return np.frombuffer(x["data"], self.dtype).reshape(x["shape"])

    def serialize(self, data):
        return msgpack.packb({"shape": data.shape, "data": data.tobytes()})


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning", "--timeout", "60000"]
    server = Server()
    # Waiting the least that can be set; it is whole milliseconds.
    batching = {"max_batch_size": 32, "max_wait_time": 1}
    # A process for each format; the one that is not asked only waits.
    server.register_runtime({"/json": [Runtime(JSON, **batching)], "/msgpack": [Runtime(Msgpack, **batching)]})
    server.run()
