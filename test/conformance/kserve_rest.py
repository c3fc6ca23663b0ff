"""Does the unchanged kserve client work with the server at URL, by V1 and V2?

    pip install kserve==0.21.0        # 450 MB with what it needs
    python kserve_rest.py localhost:8080

Where kserve is not installed, V1 calls are made as its client makes them, by the
standard library, and the checks of V2 are left out: triton_http.py has those.

The server must hold these models:

    flights         examples/flights/flights.onnx
    simple          INPUT0, INPUT1 INT32 [-1,16] -> OUTPUT0 their sum, OUTPUT1 their difference
    identity_bytes  INPUT0 BYTES [-1] -> OUTPUT0 the same

Every check runs, one line each; the exit code is 1 if one failed.
"""

import argparse
import asyncio
import base64
import importlib.metadata
import json
import pathlib
import sys
import traceback
import urllib.error
import urllib.request

try:
    import kserve
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
except ImportError:
    kserve = None

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "examples/flights/reference.json"

url = None
reference = None
checks = []


def check(function):
    checks.append(function)
    return function


def needs_kserve(function):
    if kserve:
        checks.append(function)
    return function


# ---------------------------------------------------------------- calls


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status} {message}")
        self.status = status


def http(method, path, body=None, headers=()):
    """One plain request: status, headers and body."""
    r = urllib.request.Request(url + path, method=method, data=None if body is None else body.encode(), headers=dict(headers))
    try:
        with urllib.request.urlopen(r, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read().decode()


class AsKServe:
    """The calls of V1 that kserve's client makes, as it makes them."""

    async def is_server_live(self, base):
        return json.loads(http("GET", "/")[2])["status"].lower() == "alive"

    async def is_model_ready(self, base, model):
        status, _, body = http("GET", f"/v1/models/{model}")
        if status == 503:
            return False
        if status // 100 != 2:
            raise Refused(status, body)
        return json.loads(body)["ready"]

    async def infer(self, base, data, model_name, headers=None, response_headers=None):
        status, got, body = http("POST", f"/v1/models/{model_name}:predict", json.dumps(data), {"content-type": "application/json", **(headers or {})})
        if status // 100 != 2:
            raise Refused(status, json.loads(body)["error"])
        if response_headers is not None:
            response_headers.update({k.lower(): v for k, v in got.items()})
        return json.loads(body)


def ask(protocol, call):
    """Runs one call of the client, which is asynchronous."""

    async def run():
        if not kserve:
            return await call(AsKServe())
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60, retries=0))
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(run())


def predict(model, data, **options):
    return ask("v1", lambda c: c.infer(url, data, model_name=model, **options))


def refused(call, status, *words):
    try:
        got = call()
    except Exception as e:
        code = getattr(e, "status", None) or e.response.status_code
        assert code == status, f"status {code}, want {status}: {e}"
        for word in words:
            assert word in str(e), f"{word!r} is not in {e}"
        return str(e)
    raise AssertionError(f"was not refused, answer: {got!r}")


# ---------------------------------------------------------------- V1


@check
def v1_server_is_live():
    assert ask("v1", lambda c: c.is_server_live(url)) is True


@check
def v1_models_are_ready():
    for model in ("flights", "simple", "identity_bytes"):
        assert ask("v1", lambda c, m=model: c.is_model_ready(url, m)) is True, model
    return refused(lambda: ask("v1", lambda c: c.is_model_ready(url, "no_such_model")), 404)


@check
def v1_model_that_is_unloaded_is_not_ready():
    assert http("POST", "/v2/repository/models/identity_bytes/unload")[0] == 200
    assert ask("v1", lambda c: c.is_model_ready(url, "identity_bytes")) is False
    assert http("POST", "/v2/repository/models/identity_bytes/load")[0] == 200
    assert ask("v1", lambda c: c.is_model_ready(url, "identity_bytes")) is True


@check
def v1_models_are_listed():
    status, _, body = http("GET", "/v1/models")
    assert status == 200 and {"flights", "simple", "identity_bytes"} <= set(json.loads(body)["models"]), body


@check
def v1_status_and_metadata_as_tensorflow_serving():
    status, _, body = http("GET", "/v1/models/simple")
    version = json.loads(body)["model_version_status"][0]
    assert status == 200 and version["state"] == "AVAILABLE" and version["status"]["error_code"] == "OK", body
    status, _, body = http("GET", f"/v1/models/simple/versions/{version['version']}/metadata")
    got = json.loads(body)
    assert got["model_spec"] == {"name": "simple", "signature_name": "", "version": version["version"]}, got
    signature = got["metadata"]["signature_def"]["signature_def"]["serving_default"]
    dims = [d["size"] for d in signature["inputs"]["INPUT0"]["tensor_shape"]["dim"]]
    assert signature["inputs"]["INPUT0"]["dtype"] == "DT_INT32" and dims == ["-1", "16"], signature


@check
def v1_rows():
    ones, twos = [1] * 16, [2] * 16
    got = predict("simple", {"instances": [{"INPUT0": ones, "INPUT1": twos}, {"INPUT1": ones, "INPUT0": ones}]})
    assert got == {"predictions": [{"OUTPUT0": [3] * 16, "OUTPUT1": [-1] * 16}, {"OUTPUT0": twos, "OUTPUT1": [0] * 16}]}, got


@check
def v1_columns():
    got = predict("simple", {"signature_name": "serving_default", "inputs": {"INPUT0": [[1] * 16], "INPUT1": [[2] * 16]}})
    assert got == {"outputs": {"OUTPUT0": [[3] * 16], "OUTPUT1": [[-1] * 16]}}, got


@check
def v1_strings():
    raw = {"b64": base64.b64encode(b"\xff\xfe").decode()}
    got = predict("identity_bytes", {"instances": ["plain", "東京 \"🔥\"", {"b64": base64.b64encode(b"text").decode()}, raw]})
    assert got == {"predictions": ["plain", "東京 \"🔥\"", "text", raw]}, got


@check
def v1_flights_as_in_the_reference():
    for request in reference["requests"]:
        inputs = request["body"]["inputs"]
        rows = inputs[0]["shape"][0]
        got = predict("flights", {"instances": [{i["name"]: [i["data"][row]] for i in inputs} for row in range(rows)]})["predictions"]
        want = request["outputs"][0]["data"]
        worst = max(abs(p["probability"][0] - w) for p, w in zip(got, want, strict=True))
        assert worst <= reference["tolerance"], f"{request['name']}: {worst} away"
        assert [p["label"][0] for p in got] == request["outputs"][1]["data"], request["name"]


@check
def v1_refusals():
    refused(lambda: predict("no_such_model", {"instances": [1]}), 404, "no_such_model")
    refused(lambda: predict("simple", {"instances": [[1] * 16]}), 400, "INPUT0", "INPUT1")
    refused(lambda: predict("simple", {"instances": [{"INPUT0": [1] * 16, "INPUT1": [1] * 15}]}), 400, "instances[0].INPUT1 has 15 elements")
    refused(lambda: predict("identity_bytes", {}), 400, "instances")
    return refused(lambda: predict("identity_bytes", {"instances": ["a", 1]}), 400, "instances[1]")


# ---------------------------------------------------------------- CloudEvents


@check
def v1_event_is_answered_by_an_event():
    ids = set()
    for _ in range(2):
        got = {}
        event = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/conformance", "ce-type": "org.kubeflow.serving.inference.request"}
        answer = predict("identity_bytes", {"instances": ["a"]}, headers=event, response_headers=got)
        assert answer == {"predictions": ["a"]} and got["ce-specversion"] == "1.0", got
        assert got["ce-type"] != event["ce-type"] and got["ce-source"] != event["ce-source"], got
        ids.add(got["ce-id"])
    assert len(ids) == 1, f"an event that comes twice is answered by the ids {ids}"
    return f"{got['ce-type']} {got['ce-id']}"


# ---------------------------------------------------------------- V2


@needs_kserve
def v2_health():
    assert ask("v2", lambda c: c.is_server_live(url)) is True
    assert ask("v2", lambda c: c.is_server_ready(url)) is True
    assert ask("v2", lambda c: c.is_model_ready(url, "simple")) is True
    assert ask("v2", lambda c: c.is_model_ready(url, "no_such_model")) is False


@needs_kserve
def v2_infer():
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), dtype=np.int32)
    for binary in (True, False):
        inputs = []
        for name, values in (("INPUT0", a), ("INPUT1", b)):
            given = InferInput(name, list(values.shape), "INT32")
            given.set_data_from_numpy(values, binary_data=binary)
            inputs.append(given)
        request = InferRequest(model_name="simple", infer_inputs=inputs, request_id="r1")
        got = ask("v2", lambda c: c.infer(url, request, model_name="simple"))
        assert got.id == "r1" and got.model_name == "simple", got
        for name, want in (("OUTPUT0", a + b), ("OUTPUT1", a - b)):
            assert np.array_equal(got.get_output_by_name(name).as_numpy(), want), f"{name}, binary {binary}: {got}"


@needs_kserve
def v2_refusals():
    given = InferInput("INPUT0", [1, 1], "INT32")
    given.set_data_from_numpy(np.ones((1, 1), dtype=np.int32), binary_data=False)
    request = InferRequest(model_name="simple", infer_inputs=[given])
    return refused(lambda: ask("v2", lambda c: c.infer(url, request, model_name="simple")), 400, "INPUT1")


def main():
    global url, reference
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="host:port")
    parser.add_argument("--reference", default=REFERENCE, type=pathlib.Path, help="reference.json of examples/flights")
    options = parser.parse_args()
    url = "http://" + options.url.split("://", 1)[-1].rstrip("/")
    reference = json.loads(options.reference.read_text(encoding="utf-8"))

    print("calls are made by " + ("kserve " + importlib.metadata.version("kserve") if kserve else "the standard library"))
    failed = 0
    for function in checks:
        name = function.__name__.replace("_", " ")
        try:
            said = function()
        except Exception as e:
            failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {e}", flush=True)
            if not isinstance(e, AssertionError):
                traceback.print_exc()
        else:
            print(f"ok    {name}" + (f": {said}" if said else ""), flush=True)
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
