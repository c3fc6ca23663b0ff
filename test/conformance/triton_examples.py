"""Does the server at URL say what the example scripts of tritonclient insist on?

    pip install -r requirements.txt
    COMPAT=triton ... the server ...
    python triton_examples.py localhost:8080

The scripts are not part of the package, so this asks the same questions in its
own words: simple_http_health_metadata, simple_http_infer_client (statistics) and
simple_http_model_control, but for what only a repository of Triton's own can
have (seven models). The server must hold the model
simple: INPUT0, INPUT1 INT32 [-1,16] -> OUTPUT0 their sum, OUTPUT1 their difference.
"""

import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

failed = 0


def expect(ok, what):
    global failed
    print(("ok    " if ok else "FAIL  ") + what, flush=True)
    failed += not ok


def error(call):
    try:
        call()
    except InferenceServerException as e:
        return e.message()
    return "no error at all"


def main():
    client = InferenceServerClient(sys.argv[1].split("://", 1)[-1].rstrip("/"))
    query = {"test_1": 1, "test_2": 2}
    expect(client.is_server_live(query_params=query) and client.is_server_ready(), "the server is live and ready")
    client.load_model("simple")
    expect(client.is_model_ready("simple"), "the model is ready once it is loaded")
    name = client.get_server_metadata()["name"]
    expect(name == "triton", f"the server calls itself {name!r}")
    expect(client.get_model_metadata("simple", query_params=query)["name"] == "simple", "the metadata name the model")
    said = error(lambda: client.get_model_metadata("wrong_model_name"))
    expect("Request for unknown model" in said, f"an unknown model: {said}")

    inputs = [InferInput(n, [1, 16], "INT32").set_data_from_numpy(np.ones((1, 16), dtype=np.int32)) for n in ("INPUT0", "INPUT1")]
    result = client.infer("simple", inputs, query_params=query, headers={"test": "1"})
    expect((result.as_numpy("OUTPUT0") == 2).all() and (result.as_numpy("OUTPUT1") == 0).all(), "the model adds and subtracts")
    stats = client.get_inference_statistics(model_name="simple")["model_stats"]
    expect(len(stats) == 1 and stats[0]["name"] == "simple", f"statistics of one model have {len(stats)} entry")

    said = error(lambda: client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}'))
    expect("failed to load" in said, f"settings that are no JSON: {said}")
    before = client.get_model_config("simple")["max_batch_size"]
    client.load_model("simple", config='{"max_batch_size":"16"}')
    got = client.get_model_config("simple")["max_batch_size"]
    expect(got == 16 != before, f"a load changes max_batch_size from {before} to {got}")
    client.unload_model("simple")
    expect(not client.is_model_ready("simple"), "the model is not ready once it is unloaded")
    said = error(lambda: client.load_model("wrong_model_name"))
    expect("failed to load" in said, f"loading an unknown model: {said}")
    client.load_model("simple")
    got = client.get_model_config("simple")["max_batch_size"]
    expect(got == before, f"a load without settings brings max_batch_size back to {got}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
