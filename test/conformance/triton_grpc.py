"""Does the unchanged tritonclient.grpc work with the server at URL?

    pip install -r requirements.txt
    python triton_grpc.py localhost:8080

The models that the server must hold are those of triton_http.py, and what is said
of its runs holds here as well.
"""

import argparse
import json
import pathlib
import queue
import sys
import time
import traceback

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "examples/flights/reference.json"
MODELS = ["flights", "simple", "identity_bytes", "identity_fp16"]

# Fresh numbers in every run, so that a prediction cache of an earlier run answers nothing.
random = np.random.default_rng()

client = None  # InferenceServerClient, set by main
url = None
reference = None  # the contents of reference.json
checks = []


def check(function):
    checks.append(function)
    return function


# ---------------------------------------------------------------- helpers


def tensor(name, values, datatype="INT32"):
    values = np.asarray(values, triton_to_np_dtype(datatype))
    return InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def two_rows():
    return random.integers(-1000, 1000, (2, 1, 16), dtype=np.int32)


def both(a, b):
    return [tensor("INPUT0", a), tensor("INPUT1", b)]


def simple(a, b, **options):
    return client.infer("simple", both(a, b), **options)


def same(got, want, what):
    assert got is not None, f"{what}: not in the response"
    assert got.shape == want.shape, f"{what}: shape {got.shape}, want {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, want {want.dtype}"
    assert np.array_equal(got, want), f"{what}: got {got!r}, want {want!r}"


def sum_and_difference(result, a, b):
    same(result.as_numpy("OUTPUT0"), a + b, "OUTPUT0")
    same(result.as_numpy("OUTPUT1"), a - b, "OUTPUT1")


def refused(call, *words, code="INVALID_ARGUMENT"):
    """The call must fail with that code and a message that names one of the words."""
    try:
        result = call()
    except InferenceServerException as e:
        message, status = e.message() or "", e.status()
        assert status is not None, f"the client itself refused, nothing was sent: {message}"
        assert status == f"StatusCode.{code}", f"{status}, want {code}: {message}"
        assert any(w.lower() in message.lower() for w in words), f"the message names none of {words}: {message!r}"
        return f"{code} {message!r}"
    raise AssertionError(f"was not refused, answer: {result!r}")


def latest_version(model):
    versions = client.get_model_metadata(model).versions
    return max(versions, key=int)


# ---------------------------------------------------------------- health and metadata


@check
def server_is_live_and_ready():
    assert client.is_server_live() is True
    assert client.is_server_ready() is True


@check
def models_are_ready():
    for model in MODELS:
        client.load_model(model)
        assert client.is_model_ready(model) is True, f"{model} is not ready"
        version = latest_version(model)
        assert client.is_model_ready(model, version) is True, f"{model} version {version} is not ready"


@check
def server_metadata():
    got = client.get_server_metadata()
    assert got.name and got.version, got
    for name in ("model_repository", "statistics", "model_configuration"):
        assert name in got.extensions, f"extension {name} is not listed: {got}"
    return f"{got.name} {got.version}: {', '.join(got.extensions)}"


@check
def model_metadata():
    got = client.get_model_metadata("simple")
    assert got.name == "simple" and got.platform, got
    for kind, letters in ((got.inputs, "INPUT"), (got.outputs, "OUTPUT")):
        found = sorted((t.name, t.datatype, len(t.shape)) for t in kind)
        assert found == [(f"{letters}0", "INT32", 2), (f"{letters}1", "INT32", 2)], kind
    same_version = client.get_model_metadata("simple", latest_version("simple"))
    assert same_version.inputs == got.inputs, f"{same_version} differs from {got}"
    types = {t.name: (t.datatype, list(t.shape)) for t in client.get_model_metadata("flights").inputs}
    want = {i["name"]: (i["datatype"], [-1, 1]) for i in reference["requests"][0]["body"]["inputs"]}
    assert types == want, f"inputs of flights: {types}, want {want}"
    assert client.get_model_metadata("simple", as_json=True)["name"] == "simple"


@check
def model_config():
    got = client.get_model_config("simple").config
    assert got.name == "simple", got
    assert sorted(i.name for i in got.input) == ["INPUT0", "INPUT1"], got
    assert sorted(o.name for o in got.output) == ["OUTPUT0", "OUTPUT1"], got
    config = client.get_model_config("simple", as_json=True)["config"]
    for t in config["input"] + config["output"]:
        assert t["data_type"] == "TYPE_INT32", t
        assert len(t["dims"]) == (1 if got.max_batch_size > 0 else 2), t
    kinds = {t["name"]: t["data_type"] for t in client.get_model_config("flights", as_json=True)["config"]["input"]}
    assert kinds["carrier"] == "TYPE_STRING", kinds


@check
def unknown_models_are_refused():
    a, b = two_rows()
    for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics, client.is_model_ready):
        refused(lambda: call("no_such_model"), "no_such_model", code="NOT_FOUND")
        refused(lambda: call("simple", "987654"), "987654", code="NOT_FOUND")
    refused(lambda: client.load_model("no_such_model"), "no_such_model", code="NOT_FOUND")
    refused(lambda: client.infer("simple", both(a, b), model_version="987654"), "987654", code="NOT_FOUND")
    return refused(lambda: client.infer("no_such_model", both(a, b)), "no_such_model", code="NOT_FOUND")


@check
def what_is_not_there_says_so():
    refused(client.get_system_shared_memory_status, "", code="UNIMPLEMENTED")
    refused(client.get_trace_settings, "", code="UNIMPLEMENTED")
    return refused(client.get_log_settings, "", code="UNIMPLEMENTED")


# ---------------------------------------------------------------- repository and statistics


@check
def repository_index():
    got = client.get_model_repository_index().models
    for model in MODELS:
        entries = [e for e in got if e.name == model]
        assert any(e.state == "READY" for e in entries), f"{model} is not READY: {entries}"


@check
def load_and_unload():
    client.unload_model("identity_fp16")
    assert client.is_model_ready("identity_fp16") is False, "an unloaded model is still ready"
    client.load_model("identity_fp16")
    assert client.is_model_ready("identity_fp16") is True, "a loaded model is not ready"
    client.unload_model("identity_fp16", unload_dependents=True)
    client.load_model("identity_fp16")
    client.load_model("identity_fp16")  # a model that is loaded can be loaded again


@check
def statistics_count():
    def stats():
        got = client.get_inference_statistics("simple").model_stats
        assert len(got) == 1 and got[0].name == "simple", got
        return got[0]

    simple(*two_rows())
    before = stats()
    for _ in range(3):
        simple(*two_rows())
    after = stats()
    assert after.inference_count >= before.inference_count + 3, f"{before} {after}"
    assert after.execution_count > before.execution_count, f"{before} {after}"
    assert after.inference_stats.success.count >= before.inference_stats.success.count + 3, f"{before} {after}"
    assert after.inference_stats.success.ns > before.inference_stats.success.ns, f"{before} {after}"
    age = time.time() * 1000 - after.last_inference
    assert abs(age) < 60_000, f"last_inference is {age:.0f} ms ago, want milliseconds since 1970"
    assert "simple" in {s.name for s in client.get_inference_statistics().model_stats}


# ---------------------------------------------------------------- inference


@check
def raw_contents():
    a, b = two_rows()
    result = simple(a, b)
    sum_and_difference(result, a, b)
    got = result.get_response()
    assert got.model_name == "simple" and got.model_version == latest_version("simple"), got
    assert len(got.raw_output_contents) == len(got.outputs) == 2, got
    sum_and_difference(client.infer("simple", [tensor("INPUT1", b), tensor("INPUT0", a)]), a, b)


@check
def typed_contents():
    """The other form of tensors, which this client never sends, by its own stub."""
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        a, b = two_rows()
        request = service_pb2.ModelInferRequest(model_name="simple", id="7")
        for name, values in (("INPUT0", a), ("INPUT1", b)):
            given = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            given.contents.int_contents.extend(values.flatten().tolist())
        got = stub.ModelInfer(request)
        assert got.id == "7" and not got.raw_output_contents, got
        outputs = {o.name: list(o.contents.int_contents) for o in got.outputs}
        assert outputs == {"OUTPUT0": (a + b).flatten().tolist(), "OUTPUT1": (a - b).flatten().tolist()}, outputs

        request = service_pb2.ModelInferRequest(model_name="identity_bytes")
        given = request.inputs.add(name="INPUT0", datatype="BYTES", shape=[2])
        given.contents.bytes_contents.extend([b"", b"\xff text"])
        assert list(stub.ModelInfer(request).outputs[0].contents.bytes_contents) == [b"", b"\xff text"]

        request.raw_input_contents.append(b"\0\0\0\0\0\0\0\0")
        try:
            stub.ModelInfer(request)
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, e
            return e.details()
        raise AssertionError("raw and typed contents in one request were not refused")


@check
def outputs_selected():
    a, b = two_rows()
    want = {"OUTPUT0": a + b, "OUTPUT1": a - b}
    for chosen in (["OUTPUT1"], ["OUTPUT1", "OUTPUT0"], ["OUTPUT0", "OUTPUT1"]):
        result = simple(a, b, outputs=[InferRequestedOutput(n) for n in chosen])
        got = [o.name for o in result.get_response().outputs]
        assert got == chosen, f"asked for {chosen}, got {got}"
        for name in chosen:
            same(result.as_numpy(name), want[name], name)


@check
def request_id_and_version():
    a, b = two_rows()
    for request_id in ("7", "größer, 東京 \" \\ /"):
        got = simple(a, b, request_id=request_id).get_response().id
        assert got == request_id, f"sent id {request_id!r}, got {got!r}"
    assert simple(a, b).get_response().id == "", "an id came back that was not sent"
    version = latest_version("simple")
    assert simple(a, b, model_version=version).get_response().model_version == version


@check
def other_parameters_do_no_harm():
    a, b = two_rows()
    options = dict(priority=1, timeout=10_000_000, parameters={"text": "x", "number": 1, "yes": True})
    sum_and_difference(simple(a, b, **options), a, b)
    sum_and_difference(simple(a, b, headers={"x-other": "1"}, client_timeout=60), a, b)


@check
def compression():
    text = np.array(["a long text that compresses well " * 5000], dtype=np.object_)
    for algorithm in ("gzip", "deflate", None):
        a, b = two_rows()
        sum_and_difference(simple(a, b, compression_algorithm=algorithm), a, b)
        result = client.infer("identity_bytes", [tensor("INPUT0", text, "BYTES")], compression_algorithm=algorithm)
        assert result.as_numpy("OUTPUT0")[0] == text[0].encode(), f"{algorithm}: the text came back changed"


@check
def asynchronous():
    done = queue.Queue()
    rows = [two_rows() for _ in range(20)]
    for i, (a, b) in enumerate(rows):
        client.async_infer("simple", both(a, b), callback=lambda result, error: done.put((result, error)), request_id=str(i))
    for _ in rows:
        result, error = done.get(timeout=60)
        assert error is None, error
        sum_and_difference(result, *rows[int(result.get_response().id)])


@check
def streams():
    done = queue.Queue()
    client.start_stream(callback=lambda result, error: done.put((result, error)))
    rows = [two_rows() for _ in range(20)]
    for i, (a, b) in enumerate(rows):
        if i == 10:
            client.async_stream_infer("no_such_model", both(a, b), request_id="bad")
        client.async_stream_infer("simple", both(a, b), request_id=str(i))
    said = None
    for i, (a, b) in enumerate(rows):
        if i == 10:
            result, said = done.get(timeout=60)
            assert result is None and "no_such_model" in said.message(), f"{result}, {said}"
        result, error = done.get(timeout=60)
        assert error is None, error
        assert result.get_response().id == str(i), f"answer {i} is {result.get_response().id}"
        sum_and_difference(result, a, b)
    client.async_stream_infer("simple", both(a, b))
    result, error = done.get(timeout=60)
    assert error is None, error
    assert result.get_response().id == "", "an id came back that was not sent"
    sum_and_difference(result, a, b)
    client.stop_stream()
    return f"20 in order, one refused in between: {said}"


def identity(model, datatype, values):
    values = np.array(values, dtype=triton_to_np_dtype(datatype))
    result = client.infer(model, [tensor("INPUT0", values, datatype)])
    assert result.get_output("OUTPUT0").datatype == datatype, result.get_output("OUTPUT0")
    return values, result.as_numpy("OUTPUT0")


@check
def strings():
    raw = [b"", "Zürich 東京 🔥".encode(), bytes(range(1, 256)), b"\xff\xfe not UTF-8", b"x" * (1 << 20), b""]
    _, got = identity("identity_bytes", "BYTES", raw)
    assert got.tolist() == raw, "strings came back changed"


@check
def large_messages():
    """More than the 4 MiB that stacks of gRPC take unless they are told otherwise."""
    raw = [random.bytes(1 << 20).replace(b"\0", b"1") for _ in range(9)]
    _, got = identity("identity_bytes", "BYTES", raw)
    assert got.tolist() == raw, "strings came back changed"


@check
def fp16():
    values = [0.0, -0.0, 1.0, -1.5, 65504.0, -65504.0, 6e-8, 6.1e-5, 0.1, np.inf, -np.inf, np.nan]
    sent, got = identity("identity_fp16", "FP16", values)
    assert np.array_equal(got.view(np.uint16), sent.view(np.uint16)), f"sent {sent}, got {got}"
    sent, got = identity("identity_fp16", "FP16", random.standard_normal(10_000))
    same(got, sent, "10,000 values")


# ---------------------------------------------------------------- a real model


@check
def flights_as_in_the_reference():
    for request in reference["requests"]:
        inputs = []
        for i in request["body"]["inputs"]:
            values = np.array(i["data"], dtype=triton_to_np_dtype(i["datatype"])).reshape(i["shape"])
            inputs.append(tensor(i["name"], values, i["datatype"]))
        result = client.infer("flights", inputs)
        for output in request["outputs"]:
            name, got = output["name"], result.as_numpy(output["name"])
            want = np.array(output["data"], dtype=triton_to_np_dtype(output["datatype"])).reshape(output["shape"])
            assert got is not None and got.shape == want.shape and got.dtype == want.dtype, f"{name}: {got!r}, want {want!r}"
            worst = np.abs(got.astype(float) - want).max()
            limit = reference["tolerance"] if output["datatype"] == "FP32" else 0
            assert worst <= limit, f"{request['name']}: {name} is {worst} away from what Python's onnxruntime answers"
    return f"{len(reference['requests'])} requests"


# ---------------------------------------------------------------- refusals


@check
def wrong_tensors_are_refused():
    a, b = two_rows()
    refused(lambda: client.infer("simple", [tensor("INPUT0", a, "FP32"), tensor("INPUT1", b)]), "INPUT0")
    for shape in ([1, 8], [16], [1, 1, 16]):
        wrong = tensor("INPUT0", np.resize(a, shape))
        refused(lambda: client.infer("simple", [wrong, tensor("INPUT1", b)]), "INPUT0")
    for values in (a[:, :8], np.concatenate([a, a], axis=1)):
        wrong = tensor("INPUT0", values)
        wrong.set_shape([1, 16])
        refused(lambda: client.infer("simple", [wrong, tensor("INPUT1", b)]), "INPUT0")
    refused(lambda: client.infer("simple", [tensor("INPUT0", a)]), "INPUT1")
    refused(lambda: client.infer("simple", [*both(a, b), tensor("INPUT7", a)]), "INPUT7")
    return refused(lambda: client.infer("simple", both(a, b), outputs=[InferRequestedOutput("OUTPUT7")]), "OUTPUT7")


@check
def the_server_works_after_refusals():
    a, b = two_rows()
    sum_and_difference(simple(a, b), a, b)


def main():
    global client, url, reference
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="host:port, without http://")
    parser.add_argument("--reference", default=REFERENCE, type=pathlib.Path, help="reference.json of examples/flights")
    options = parser.parse_args()
    url = options.url.split("://", 1)[-1].rstrip("/")
    reference = json.loads(options.reference.read_text(encoding="utf-8"))
    client = InferenceServerClient(url)

    failed = 0
    for function in checks:
        name = function.__name__.replace("_", " ")
        try:
            said = function()
        except Exception as e:
            failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {e}", flush=True)
            if not isinstance(e, (AssertionError, InferenceServerException)):
                traceback.print_exc()
        else:
            print(f"ok    {name}" + (f": {said}" if said else ""), flush=True)
    client.close()
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
