"""Tries a running functions/all with schemathesis: openapi.py HOST:PORT [EXAMPLES]

It asks each operation of docs/openapi.yaml with the examples, with what lies at the edges of the schemas and with what a seed makes of them,
right and wrong, and looks at each answer: is it one that is described? The server wants the flights model (SEED) and is not left as it was.
"""
import os
import subprocess
import sys
import tempfile
import zlib

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
DOCUMENT = os.path.join(ROOT, "docs/openapi.yaml")
MODEL = os.path.join(ROOT, "examples/flights/flights.onnx")

# What any operation may answer beside what is described with it. These requests may get no 408, 431, 500 or 504, and a 503 only where it stands with the
# operation: what is asked is not ready, was unloaded, or there is too much at once. With stores that answer, anything else that says 503 is a defect.
ANYWHERE = {400, 403, 404, 405, 413}


def validate():
    import yaml
    from openapi_spec_validator import validate

    with open(DOCUMENT) as f:
        document = yaml.safe_load(f)

    def walk(value, at):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            # A comma in a text that is not quoted, in braces: {description: this, that}
            if inner is None:
                raise SystemExit(f"docs/openapi.yaml: {'/'.join(map(str, at + [key]))} has no value")
            walk(inner, at + [key])

    walk(document, [])
    validate(document)


def main(address, examples="20"):
    validate()
    here, name = os.path.split(os.path.abspath(__file__))
    command = [
        os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", DOCUMENT, "--url", f"http://{address}",
        "--phases", "examples,coverage,fuzzing", "--seed", "1", "--max-examples", examples, "--generation-database", "none",
        # Statuses are checked by described, refusals by refused. Schemas can't say all that has to be right, and some paths are one to the mux.
        "--checks", "all", "--exclude-checks", "not_a_server_error,status_code_conformance,negative_data_rejection,"
        "positive_data_acceptance,unsupported_method,allow_header_conformance",
        "--request-timeout", "20", "--no-color", "--continue-on-failure", "--suppress-health-check", "all",
    ]
    environ = dict(os.environ, SCHEMATHESIS_HOOKS=name.removesuffix(".py"), PYTHONPATH=here)
    with tempfile.TemporaryDirectory() as folder:  # where schemathesis leaves what it found
        raise SystemExit(subprocess.run(command, env=environ, cwd=folder).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
else:
    import requests
    import schemathesis
    from hypothesis import strategies
    from schemathesis.specs.openapi.checks import negative_data_rejection

    # Times whose year has not four digits in UTC, where JSON can't have them.
    far = strategies.sampled_from(["0000-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59Z"])
    near = strategies.datetimes().map(lambda at: at.isoformat() + "Z")
    schemathesis.openapi.format("date-time", far | near)

    with open(MODEL, "rb") as f:
        model = f.read()

    @schemathesis.hook
    def before_call(context, case, kwargs):
        """Has what a seed made of the schemas get further: names that are there in place of some, and bodies that are the example but for one value."""
        if not case.meta or case.meta.generation.mode != schemathesis.GenerationMode.POSITIVE or case.meta.phase.name.value != "fuzzing":
            return
        code = zlib.crc32(repr((case.path_parameters, case.body)).encode())
        for p in case.operation.path_parameters:
            if code % 4 and p.definition.get("example") is not None:
                case.path_parameters[p.name] = p.definition["example"]
        if case.operation.path.startswith("/admin/v1/deadletters/{id}") and code % 4:
            letters = requests.get(f"{case.operation.base_url}/admin/v1/deadletters?limit=1", timeout=20).json()["deadletters"]
            case.path_parameters["id"] = next((letter["id"] for letter in letters), case.path_parameters["id"])
        if case.media_type == "multipart/form-data":
            settings = case.body.pop("settings", None)
            case.body = {**({"settings": settings} if settings else {}), "model": model}
        content = case.operation.definition.raw.get("requestBody", {}).get("content", {})
        example = content.get(case.media_type, {}).get("example")
        if code % 2 and isinstance(example, dict) and isinstance(case.body, (dict, list)):
            places, values = list(inside(example)), list(inside(case.body))
            if places and values:
                at, key = places[code % len(places)][:2]
                value = values[code // len(places) % len(values)]
                case.body = copied(example, at, key, value[0][value[1]])

    def inside(value):
        """Everything that lies in a value, as what holds it and where."""
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield value, key
            yield from inside(value[key])

    def copied(value, at, key, new):
        """A copy of a value, in which another stands at one place."""
        if isinstance(value, dict):
            return {k: new if value is at and k == key else copied(v, at, key, new) for k, v in value.items()}
        if isinstance(value, list):
            return [new if value is at and k == key else copied(v, at, key, new) for k, v in enumerate(value)]
        return value

    @schemathesis.check
    def described(ctx, response, case):
        """A status is one that stands with the operation, or one that any may have; and a refusal is a sentence."""
        status = response.status_code
        said = {int(s) for s in case.operation.definition.raw["responses"] if s != "default"}
        assert status in said | ANYWHERE, f"{status} is not described: {response.text[:500]}"
        assert status < 400 or "internal error" not in response.text, f"a defect: {response.text[:500]}"
        if status in (429, 503) and '"error":' in response.text:
            assert "retry-after" in response.headers, f"{status} without Retry-After: {response.text[:500]}"

    @schemathesis.check
    def refused(ctx, response, case):
        """What is wrong is refused; but null, and an empty text for a time or in a query, are as good as absent."""
        given = [value[key] for part in (case.query or {}, case.body) for value, key in inside(part)]
        if case.body is None or None in given or "" in given or any(value is model for value in given):
            return None
        if "cloudevents" in (case.media_type or ""):  # how strictly it reads them is the SDK's business
            return None
        return negative_data_rejection(ctx, response, case)
