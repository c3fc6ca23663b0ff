"""FastAPI with orjson, on uvicorn with uvloop and httptools."""

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from session import NAME, PORT, load

session, dtype = load()
app = FastAPI()


@app.post(f"/v1/models/{NAME}:predict")
async def predict(request: Request) -> Response:
    # A run is too short to be worth another thread.
    instances = np.asarray(orjson.loads(await request.body())["instances"], dtype)
    (y,) = session.run(None, {"X": instances})
    return Response(orjson.dumps({"predictions": y}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop", http="httptools", access_log=False, log_level="warning")
