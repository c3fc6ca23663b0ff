"""Do the unchanged clients of the package kserve work with the server at URL?

    make kserve conformance URL=localhost:8080

The server must hold "simple", "identity_bytes" and "identity_fp16" of
triton_http.py. Each check runs with InferenceRESTClient, by V2, and with
InferenceGRPCClient, one line each; the exit code is 1 if one failed.
"""

import argparse
import asyncio
import logging
import sys
import traceback

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

random = np.random.default_rng()
checks = []


def check(function):
    checks.append(function)
    return function


class REST:
    """One face for both clients."""

    def __init__(self, url):
        self.url, self.client = f"http://{url}", InferenceRESTClient(RESTConfig(protocol="v2"))

    def ready(self):
        return self.client.is_server_ready(self.url)

    def live(self):
        return self.client.is_server_live(self.url)

    def model_ready(self, model):
        return self.client.is_model_ready(self.url, model)

    def infer(self, request):
        return self.client.infer(self.url, request, model_name=request.model_name)


class GRPC:
    def __init__(self, url):
        self.client = InferenceGRPCClient(url)

    def ready(self):
        return self.client.is_server_ready()

    def live(self):
        return self.client.is_server_live()

    def model_ready(self, model):
        return self.client.is_model_ready(model)

    def infer(self, request):
        return self.client.infer(request)


def given(name, values, datatype, binary):
    tensor = InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def simple(binary, **options):
    a, b = random.integers(-1000, 1000, (2, 1, 16), dtype=np.int32)
    inputs = [given("INPUT0", a, "INT32", binary), given("INPUT1", b, "INT32", binary)]
    return a, b, InferRequest("simple", inputs, **options)


def outputs(response):
    return {o.name: o.as_numpy() for o in response.outputs}


async def refused(call, word):
    try:
        got = await call
    except (grpc.RpcError, httpx.HTTPStatusError) as e:
        text = e.details() if isinstance(e, grpc.RpcError) else str(e)
        assert word in text, f"the message does not name {word}: {text!r}"
        return text
    raise AssertionError(f"was not refused: {got}")


@check
async def health(client):
    assert await client.live() is True
    assert await client.ready() is True
    assert await client.model_ready("simple") is True


@check
async def unknown_model(client):
    request = simple(True)[2]
    request.model_name = "no_such_model"
    return await refused(client.infer(request), "no_such_model")


@check
async def both_forms(client):
    for binary in (True, False):
        a, b, request = simple(binary, request_id="größer")
        response = await client.infer(request)
        got = outputs(response)
        assert np.array_equal(got["OUTPUT0"], a + b) and np.array_equal(got["OUTPUT1"], a - b), got
        assert response.id == "größer" and response.model_name == "simple", response


@check
async def one_output(client):
    a, b, request = simple(True, request_outputs=[RequestedOutput("OUTPUT1")])
    got = outputs(await client.infer(request))
    assert list(got) == ["OUTPUT1"] and np.array_equal(got["OUTPUT1"], a - b), got


@check
async def strings(client):
    for binary in (True, False):
        values = np.array([b"plain", "Zürich 東京".encode(), b""], dtype=np.object_)
        response = await client.infer(InferRequest("identity_bytes", [given("INPUT0", values, "BYTES", binary)]))
        got = [t.encode() if isinstance(t, str) else t for t in outputs(response)["OUTPUT0"].tolist()]
        assert got == values.tolist(), got


@check
async def half_floats(client):
    values = random.standard_normal(1000).astype(np.float16)
    wanted = [RequestedOutput("OUTPUT0", parameters={"binary_data": True})]  # JSON can't carry them
    response = await client.infer(InferRequest("identity_fp16", [given("INPUT0", values, "FP16", True)], request_outputs=wanted))
    assert np.array_equal(outputs(response)["OUTPUT0"], values)


@check
async def wrong_shape(client):
    request = InferRequest("simple", [given(n, np.zeros((1, 8), np.int32), "INT32", True) for n in ("INPUT0", "INPUT1")])
    return await refused(client.infer(request), "INPUT0")


async def run(url):
    failed = 0
    for client in (REST(url), GRPC(url)):
        for function in checks:
            name = f"{type(client).__name__} {function.__name__.replace('_', ' ')}"
            try:
                said = await function(client)
            except Exception as e:
                failed += 1
                print(f"FAIL  {name}: {type(e).__name__}: {e}", flush=True)
                if not isinstance(e, AssertionError):
                    traceback.print_exc()
            else:
                print(f"ok    {name}" + (f": {said}" if said else ""), flush=True)
        await client.client.close()
    print(f"{2 * len(checks) - failed} of {2 * len(checks)} checks passed")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="host:port, without http://")
    options = parser.parse_args()
    logging.disable()  # the clients log each refusal with its traceback
    return asyncio.run(run(options.url.split("://", 1)[-1].rstrip("/")))


if __name__ == "__main__":
    sys.exit(main())
