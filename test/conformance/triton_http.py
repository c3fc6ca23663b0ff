"""Does the unchanged tritonclient.http work with the server at URL?

    pip install -r requirements.txt
    python triton_http.py localhost:8080

The server must hold these models:

    flights         examples/flights/flights.onnx
    simple          INPUT0, INPUT1 INT32 [1,16] -> OUTPUT0 their sum, OUTPUT1 their difference
    identity_bytes  INPUT0 BYTES [-1] -> OUTPUT0 the same
    identity_fp16   INPUT0 FP16 [-1] -> OUTPUT0 the same

Every check runs, one line each; the exit code is 1 if one failed. Where the
protocol leaves a choice, the line says what the server chose. Run it against one
instance: statistics and unloading are an instance's own, not those of a group.
"""

import argparse
import http.client
import json
import pathlib
import sys
import time
import traceback

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
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


def tensor(name, values, binary=True, datatype="INT32"):
    values = np.asarray(values, triton_to_np_dtype(datatype))
    given = InferInput(name, list(values.shape), datatype)
    return given.set_data_from_numpy(values, binary_data=binary)


def two_rows():
    return random.integers(-1000, 1000, (2, 1, 16), dtype=np.int32)


def simple(a, b, binary=(True, True), using=None, **options):
    inputs = [tensor("INPUT0", a, binary[0]), tensor("INPUT1", b, binary[1])]
    return (using or client).infer("simple", inputs, **options)


def same(got, want, what):
    assert got is not None, f"{what}: not in the response"
    assert got.shape == want.shape, f"{what}: shape {got.shape}, want {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, want {want.dtype}"
    assert np.array_equal(got, want), f"{what}: got {got!r}, want {want!r}"


def sum_and_difference(result, a, b):
    same(result.as_numpy("OUTPUT0"), a + b, "OUTPUT0")
    same(result.as_numpy("OUTPUT1"), a - b, "OUTPUT1")


def is_binary(result, name):
    output = result.get_output(name)
    assert output is not None, f"{name} is not among the outputs {names(result)}"
    binary = "binary_data_size" in (output.get("parameters") or {})
    assert binary != ("data" in output), f"{name} must have either data or binary_data_size: {output}"
    return binary


def names(result):
    return [o["name"] for o in result.get_response()["outputs"]]


def refused(call, *words, status=None):
    """The call must fail with a 4xx and a message that names one of the words."""
    try:
        result = call()
    except InferenceServerException as e:
        message, code = e.message() or "", e.status()
        assert code is not None, f"the client itself refused, nothing was sent: {message}"
        assert "while decoding the response" not in message, f"status {code} without a JSON body {{\"error\": ...}}: {message}"
        assert code.startswith("4"), f"status {code}, want 4xx: {message}"
        assert status in (None, code), f"status {code}, want {status}: {message}"
        assert any(w.lower() in message.lower() for w in words), f"the message names none of {words}: {message!r}"
        return f"{code} {message!r}"
    raise AssertionError(f"was not refused, answer: {result!r}")


def latest_version(model):
    versions = client.get_model_metadata(model).get("versions")
    assert versions, f"metadata of {model} lists no versions"
    return versions[-1]


# ---------------------------------------------------------------- health and metadata


@check
def server_is_live_and_ready():
    assert client.is_server_live() is True, "GET v2/health/live is not 200"
    assert client.is_server_ready() is True, "GET v2/health/ready is not 200"


@check
def models_are_ready():
    for model in MODELS:
        # A server may load on first use and answer "not ready" until then.
        client.load_model(model)
        assert client.is_model_ready(model) is True, f"{model} is not ready"
        version = latest_version(model)
        assert client.is_model_ready(model, version) is True, f"{model} version {version} is not ready"


@check
def unknown_models_are_not_ready():
    assert client.is_model_ready("no_such_model") is False, "an unknown model is ready"
    assert client.is_model_ready("simple", "987654") is False, "an unknown version of simple is ready"
    # The client leaves "/" in names as it is, so these paths look like other routes.
    assert client.is_model_ready("no/such/model") is False, "an unknown model with slashes in its name is ready"
    assert client.is_model_ready("kein Modell, größer") is False, "an unknown model with spaces in its name is ready"


@check
def server_metadata():
    got = client.get_server_metadata()
    for key in ("name", "version"):
        assert isinstance(got.get(key), str) and got[key], f"{key} is missing: {got}"
    for name in ("binary_tensor_data", "model_repository", "statistics", "model_configuration"):
        assert name in got.get("extensions", []), f"extension {name} is not listed: {got}"
    return f"{got['name']} {got['version']}: {', '.join(got['extensions'])}"


@check
def model_metadata():
    got = client.get_model_metadata("simple")
    assert got["name"] == "simple", got
    assert isinstance(got.get("platform"), str) and got["platform"], f"platform is missing: {got}"
    for kind in ("inputs", "outputs"):
        found = sorted((t["name"], t["datatype"], len(t["shape"])) for t in got[kind])
        letters = kind[:-1].upper()
        assert found == [(f"{letters}0", "INT32", 2), (f"{letters}1", "INT32", 2)], f"{kind}: {got[kind]}"
    version = latest_version("simple")
    assert isinstance(version, str), f"versions must be strings: {got}"
    same_version = client.get_model_metadata("simple", version)
    assert same_version["inputs"] == got["inputs"], f"{same_version} differs from {got}"

    flights = client.get_model_metadata("flights")
    types = {t["name"]: (t["datatype"], t["shape"]) for t in flights["inputs"]}
    want = {i["name"]: (i["datatype"], [-1, 1]) for i in reference["requests"][0]["body"]["inputs"]}
    assert types == want, f"inputs of flights: {types}, want {want}"


@check
def metadata_of_unknown_models_is_refused():
    refused(lambda: client.get_model_metadata("no_such_model"), "no_such_model")
    refused(lambda: client.get_model_metadata("simple", "987654"), "987654")
    refused(lambda: client.get_model_config("no_such_model"), "no_such_model")
    refused(lambda: client.get_inference_statistics("no_such_model"), "no_such_model")
    # Answered by no route at all: even then the client wants JSON.
    return refused(lambda: client.get_model_metadata("no/such/model"), "")


@check
def model_config():
    got = client.get_model_config("simple")
    assert got["name"] == "simple", got
    assert isinstance(got.get("max_batch_size"), int), f"max_batch_size is missing: {got}"
    assert sorted(i["name"] for i in got["input"]) == ["INPUT0", "INPUT1"], got
    assert sorted(o["name"] for o in got["output"]) == ["OUTPUT0", "OUTPUT1"], got
    for t in got["input"] + got["output"]:
        assert t["data_type"] == "TYPE_INT32", f"data_type of {t['name']}: {t}"
        # With batching on, the dims leave out the batch dimension.
        assert len(t["dims"]) == (1 if got["max_batch_size"] > 0 else 2), f"dims of {t['name']}: {got}"
    assert client.get_model_config("simple", latest_version("simple"))["name"] == "simple"
    kinds = {t["name"]: t["data_type"] for t in client.get_model_config("flights")["input"]}
    assert kinds["carrier"] == "TYPE_STRING", f"BYTES is written TYPE_STRING in a configuration: {kinds}"


# ---------------------------------------------------------------- repository and statistics


@check
def repository_index():
    got = client.get_model_repository_index()
    assert isinstance(got, list), got
    for entry in got:
        assert isinstance(entry.get("name"), str), entry
    for model in MODELS:
        entries = [e for e in got if e["name"] == model]
        assert entries, f"{model} is not in the index {got}"
        assert any(e.get("state") == "READY" for e in entries), f"{model} is not READY: {entries}"


@check
def load_and_unload():
    client.unload_model("identity_fp16")
    assert client.is_model_ready("identity_fp16") is False, "an unloaded model is still ready"
    client.load_model("identity_fp16")
    assert client.is_model_ready("identity_fp16") is True, "a loaded model is not ready"
    client.unload_model("identity_fp16", unload_dependents=True)
    client.load_model("identity_fp16")
    client.load_model("identity_fp16")  # a model that is loaded can be loaded again
    identity("identity_fp16", "FP16", [1.5])
    return refused(lambda: client.load_model("no_such_model"), "no_such_model")


@check
def statistics_count():
    def stats(version=""):
        got = client.get_inference_statistics("simple", version)["model_stats"]
        assert len(got) == 1, f"want exactly one entry for a named model: {got}"
        assert got[0]["name"] == "simple", got
        return got[0]

    before = stats(latest_version("simple"))
    for _ in range(3):
        simple(*two_rows())
    after = stats()
    assert after["version"] == before["version"], f"{after['version']} and {before['version']}"
    for name, get in {
        "inference_count": lambda s: s["inference_count"],
        "execution_count": lambda s: s["execution_count"],
        "success.count": lambda s: s["inference_stats"]["success"]["count"],
        "success.ns": lambda s: s["inference_stats"]["success"]["ns"],
        "last_inference": lambda s: s["last_inference"],
    }.items():
        least = 0 if name == "last_inference" else 3
        assert get(after) >= get(before) + least, f"{name} went from {get(before)} to {get(after)} in 3 requests"
    age = time.time() * 1000 - after["last_inference"]
    assert abs(age) < 60_000, f"last_inference is {age:.0f} ms ago, want milliseconds since 1970"
    for part in ("fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert set(after["inference_stats"][part]) >= {"count", "ns"}, f"{part}: {after['inference_stats']}"

    failures = after["inference_stats"]["fail"]["count"]
    refused(lambda: client.infer("simple", [tensor("INPUT0", two_rows()[0])]), "INPUT1")
    now = stats()["inference_stats"]["fail"]["count"]
    everything = {s["name"] for s in client.get_inference_statistics()["model_stats"]}
    assert "simple" in everything, f"statistics of all models have only {everything}"
    return f"a request without INPUT1 counts {now - failures} failures"


# ---------------------------------------------------------------- inference


@check
def inputs_as_json():
    a, b = two_rows()
    sum_and_difference(simple(a, b, (False, False)), a, b)


@check
def inputs_as_bytes():
    a, b = two_rows()
    sum_and_difference(simple(a, b), a, b)


@check
def inputs_mixed():
    for binary in ((True, False), (False, True)):
        a, b = two_rows()
        sum_and_difference(simple(a, b, binary), a, b)


@check
def inputs_in_any_order():
    a, b = two_rows()
    # The bytes stand in the order of the inputs in the request, not of those of the model.
    sum_and_difference(client.infer("simple", [tensor("INPUT1", b), tensor("INPUT0", a)]), a, b)


@check
def no_outputs_given_means_all_and_binary():
    a, b = two_rows()
    result = simple(a, b)
    assert sorted(names(result)) == ["OUTPUT0", "OUTPUT1"], names(result)
    assert is_binary(result, "OUTPUT0") and is_binary(result, "OUTPUT1"), "binary_data_output was asked for"
    response = result.get_response()
    assert response["model_name"] == "simple", response
    assert isinstance(response.get("model_version"), str), f"model_version must be a string: {response}"
    for output in response["outputs"]:
        assert output["datatype"] == "INT32" and output["shape"] == [1, 16], output
        assert output["parameters"]["binary_data_size"] == 64, output


@check
def outputs_selected():
    a, b = two_rows()
    want = {"OUTPUT0": a + b, "OUTPUT1": a - b}
    for chosen in (
        [("OUTPUT1", True)],
        [("OUTPUT1", False)],
        [("OUTPUT1", True), ("OUTPUT0", True)],
        [("OUTPUT1", False), ("OUTPUT0", False)],
        [("OUTPUT0", True), ("OUTPUT1", False)],
        [("OUTPUT0", False), ("OUTPUT1", True)],
    ):
        for sent in (True, False):
            result = simple(a, b, (sent, sent), outputs=[InferRequestedOutput(n, binary_data=bin) for n, bin in chosen])
            assert names(result) == [n for n, _ in chosen], f"asked for {chosen}, got {names(result)}"
            for name, binary in chosen:
                assert is_binary(result, name) == binary, f"asked for {chosen}, {name} came in the other form"
                same(result.as_numpy(name), want[name], name)
    assert result.as_numpy("OUTPUT2") is None


@check
def request_id_comes_back():
    a, b = two_rows()
    for request_id in ("7", "a1-B2_c3", "größer, 東京 \" \\ /"):
        for binary in (True, False):
            got = simple(a, b, (binary, binary), request_id=request_id).get_response().get("id")
            assert got == request_id, f"sent id {request_id!r}, got {got!r}"
    assert simple(a, b).get_response().get("id", "") == "", "an id came back that was not sent"


@check
def model_version_given():
    a, b = two_rows()
    version = latest_version("simple")
    result = simple(a, b, model_version=version)
    sum_and_difference(result, a, b)
    got = result.get_response()["model_version"]
    assert got == version, f"asked for version {version}, got {got}"


@check
def other_parameters_do_no_harm():
    a, b = two_rows()
    options = dict(priority=1, timeout=10_000_000, parameters={"text": "x", "number": 1, "yes": True})
    sum_and_difference(simple(a, b, **options), a, b)
    sum_and_difference(simple(a, b, headers={"X-Other": "1"}, query_params={"other": "1"}), a, b)


@check
def compression():
    for ask in ("gzip", "deflate", None):
        for sent in ("gzip", "deflate", None):
            for binary in (True, False):
                a, b = two_rows()
                how = dict(request_compression_algorithm=sent, response_compression_algorithm=ask)
                outputs = [InferRequestedOutput(n, binary_data=binary) for n in ("OUTPUT0", "OUTPUT1")]
                try:
                    sum_and_difference(simple(a, b, (binary, binary), outputs=outputs, **how), a, b)
                except Exception as e:
                    raise AssertionError(f"{how}, binary {binary}: {e}") from e
    texts = np.array(["a long text that compresses well " * 5000], dtype=np.object_)
    result = client.infer(
        "identity_bytes",
        [InferInput("INPUT0", [1], "BYTES").set_data_from_numpy(texts)],
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    )
    assert result.as_numpy("OUTPUT0")[0] == texts[0].encode(), "the text came back changed"


@check
def compression_is_used():
    """The client does not show how the response came, so send what it would send and look."""
    given = InferInput("INPUT0", [1], "BYTES").set_data_from_numpy(np.array(["pilot light " * 10_000], dtype=np.object_))
    body, json_size = InferenceServerClient.generate_request_body([given])
    chosen = []
    for algorithm in ("gzip", "deflate"):
        connection = http.client.HTTPConnection(url, timeout=60)
        headers = {"Accept-Encoding": algorithm, "Inference-Header-Content-Length": str(json_size)}
        connection.request("POST", "/v2/models/identity_bytes/infer", body, headers)
        response = connection.getresponse()
        content, encoding = response.read(), response.headers["Content-Encoding"]
        connection.close()
        assert response.status == 200, f"status {response.status}: {content[:200]}"
        assert encoding in (None, "identity", algorithm), f"asked for {algorithm}, got {encoding}"
        size = int(response.headers["Inference-Header-Content-Length"])
        result = InferResult.from_response_body(content, header_length=size, content_encoding=encoding)
        assert result.as_numpy("OUTPUT0")[0] == b"pilot light " * 10_000, f"{algorithm}: the text came back changed"
        chosen.append(f"{algorithm}: {encoding or 'not compressed'}, {len(content)} bytes")
    return "; ".join(chosen)


@check
def asynchronous():
    many = InferenceServerClient(url, concurrency=4)
    rows = [two_rows() for _ in range(20)]
    started = [
        many.async_infer("simple", [tensor("INPUT0", a), tensor("INPUT1", b)], request_id=f"r{i}")
        for i, (a, b) in enumerate(rows)
    ]
    for i, (request, (a, b)) in enumerate(zip(started, rows)):
        result = request.get_result(timeout=60)
        sum_and_difference(result, a, b)
        assert result.get_response()["id"] == f"r{i}", f"answer {i} has id {result.get_response()['id']}"
    a, b = two_rows()
    failed = many.async_infer("no_such_model", [tensor("INPUT0", a)])
    refused(lambda: failed.get_result(timeout=60), "no_such_model")
    many.close()


def identity(model, datatype, values, binary=True, binary_output=True):
    values = np.array(values, dtype=triton_to_np_dtype(datatype))
    given = InferInput("INPUT0", list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)
    result = client.infer(model, [given], outputs=[InferRequestedOutput("OUTPUT0", binary_data=binary_output)])
    assert is_binary(result, "OUTPUT0") == binary_output, "the output came in the other form"
    assert result.get_output("OUTPUT0")["datatype"] == datatype, result.get_output("OUTPUT0")
    return values, result.as_numpy("OUTPUT0")


TEXTS = ["", "plain", "Zürich", "東京", "🔥 emoji", "two\nlines\tand \"quotes\" \\", ""]


@check
def bytes_as_bytes():
    raw = [t.encode() for t in TEXTS] + [bytes(range(1, 256)), b"\xff\xfe not UTF-8", b"x" * (1 << 20), b""]
    _, got = identity("identity_bytes", "BYTES", raw)
    assert got.tolist() == raw, "binary strings came back changed"
    _, got = identity("identity_bytes", "BYTES", [b""])
    assert got.tolist() == [b""], f"one empty string came back as {got!r}"


@check
def bytes_as_json():
    long = ["é" * 100_000]
    for binary in (True, False):
        for binary_output in (True, False):
            _, got = identity("identity_bytes", "BYTES", TEXTS + long, binary, binary_output)
            texts = [t.decode() if isinstance(t, bytes) else t for t in got]
            assert texts == TEXTS + long, f"sent binary {binary}, asked binary {binary_output}: strings came back changed"


@check
def bytes_with_zeros():
    """Runtimes whose strings end at a zero byte cannot take it: an error is right, a cut string is not."""
    raw = [b"zero\x00inside", b"trailing zero\x00"]
    try:
        _, got = identity("identity_bytes", "BYTES", raw)
    except InferenceServerException as e:
        assert e.status() == "400", e
        return f"refused: {e}"
    assert got.tolist() == raw, f"strings were cut: {got.tolist()}"
    return "answered"


@check
def bytes_not_utf8_asked_as_json():
    """JSON cannot carry these bytes: an error is right, damaged text or a broken response is not."""
    try:
        _, got = identity("identity_bytes", "BYTES", [b"\xff\xfe"], binary_output=False)
    except InferenceServerException as e:
        assert e.status() is not None, f"the response is not UTF-8: {e}"
        assert "while decoding the response" not in e.message(), e
        return str(e)
    return f"answered {got.tolist()!r}"


@check
def no_elements():
    """A tensor of shape [0]: nothing in, nothing out, or a refusal."""
    for model, datatype in (("identity_fp16", "FP16"), ("identity_bytes", "BYTES")):
        try:
            _, got = identity(model, datatype, [])
        except InferenceServerException as e:
            assert (e.status() or "").startswith("4"), f"{model}: {e}"
            assert "while decoding the response" not in e.message(), e
            return f"refused: {e}"
        assert got.shape == (0,), f"{model}: shape {got.shape}, want (0,)"
    return "answered with no elements"


@check
def fp16():
    values = [0.0, -0.0, 1.0, -1.5, 65504.0, -65504.0, 6e-8, 6.1e-5, 0.1, np.inf, -np.inf, np.nan]
    sent, got = identity("identity_fp16", "FP16", values)
    assert got.dtype == np.float16, got.dtype
    assert np.array_equal(got.view(np.uint16), sent.view(np.uint16)), f"sent {sent}, got {got}"
    sent, got = identity("identity_fp16", "FP16", random.standard_normal(10_000))
    same(got, sent, "10,000 values")


# ---------------------------------------------------------------- a real model


def flights(request, binary=True, change=lambda name, values: values):
    inputs = []
    for i in request["body"]["inputs"]:
        values = np.array(i["data"], dtype=triton_to_np_dtype(i["datatype"])).reshape(i["shape"])
        inputs.append(tensor(i["name"], change(i["name"], values), binary, i["datatype"]))
    return client.infer("flights", inputs, outputs=[InferRequestedOutput(n, binary) for n in ("probability", "label")])


def close(result, request):
    for output in request["outputs"]:
        name, got = output["name"], result.as_numpy(output["name"])
        want = np.array(output["data"], dtype=triton_to_np_dtype(output["datatype"])).reshape(output["shape"])
        assert got is not None and got.shape == want.shape and got.dtype == want.dtype, f"{name}: {got!r}, want {want!r}"
        worst = np.abs(got.astype(float) - want).max()
        limit = reference["tolerance"] if output["datatype"] == "FP32" else 0
        assert worst <= limit, f"{request['name']}: {name} is {worst} away from what Python's onnxruntime answers"


@check
def flights_as_in_the_reference():
    for request in reference["requests"]:
        for binary in (True, False):
            close(flights(request, binary), request)
    rows = sum(r["outputs"][0]["shape"][0] for r in reference["requests"])
    return f"{len(reference['requests'])} requests with {rows} flights, binary and JSON"


def nan_for_missing(name, values):
    return np.where(values == -999, np.float32(np.nan), values) if values.dtype == np.float32 else values


@check
def flights_with_nan():
    for request in reference["requests"]:
        close(flights(request, change=nan_for_missing), request)


@check
def nan_as_json():
    """The client writes a bare NaN, which is not JSON: an answer or a 4xx is fine."""
    request = next(r for r in reference["requests"] if r["name"] == "no weather known")
    try:
        result = flights(request, binary=False, change=nan_for_missing)
    except InferenceServerException as e:
        assert (e.status() or "").startswith("4"), e
        assert "while decoding the response" not in e.message(), e
        return f"refused: {e}"
    close(result, request)
    return "answered"


# ---------------------------------------------------------------- refusals


@check
def unknown_model_is_refused():
    a, b = two_rows()
    inputs = [tensor("INPUT0", a), tensor("INPUT1", b)]
    refused(lambda: client.infer("simple", inputs, model_version="987654"), "987654")
    return refused(lambda: client.infer("no_such_model", inputs), "no_such_model")


@check
def wrong_dtype_is_refused():
    a, b = two_rows()
    for binary in (True, False):
        wrong = tensor("INPUT0", a, binary, "FP32")
        said = refused(lambda: client.infer("simple", [wrong, tensor("INPUT1", b, binary)]), "INPUT0", status="400")
    return said


@check
def wrong_shape_is_refused():
    a, b = two_rows()
    for shape in ([1, 8], [16], [1, 1, 16]):
        for binary in (True, False):
            wrong = tensor("INPUT0", np.resize(a, shape), binary)
            said = refused(lambda: client.infer("simple", [wrong, tensor("INPUT1", b, binary)]), "INPUT0", "shape", status="400")
    return said


@check
def shape_that_is_not_that_of_the_data_is_refused():
    a, b = two_rows()
    for binary in (True, False):
        # Half the numbers that the shape promises, and twice as many.
        for values in (a[:, :8], np.concatenate([a, a], axis=1)):
            wrong = tensor("INPUT0", values, binary).set_shape([1, 16])
            said = refused(lambda: client.infer("simple", [wrong, tensor("INPUT1", b, binary)]), "INPUT0", status="400")
    return said


@check
def missing_input_is_refused():
    a, b = two_rows()
    return refused(lambda: client.infer("simple", [tensor("INPUT0", a)]), "INPUT1", status="400")


@check
def unknown_names_are_refused():
    a, b = two_rows()
    inputs = [tensor("INPUT0", a), tensor("INPUT1", b)]
    refused(lambda: client.infer("simple", [*inputs, tensor("INPUT7", a)]), "INPUT7", status="400")
    return refused(lambda: client.infer("simple", inputs, outputs=[InferRequestedOutput("OUTPUT7")]), "OUTPUT7", status="400")


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
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
