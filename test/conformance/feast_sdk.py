"""Does the unchanged Feast SDK work with a server of ours, and we with its Redis?

    pip install -r requirements-feast.txt
    python feast_sdk.py remote http://localhost:8080     # online_store: {type: remote}
    python feast_sdk.py redis localhost:6379,password=x PROJECT  # fills a Redis by Feast itself

The server must have the definitions of this file's repository: see driversYAML in
internal/feature/feast_test.go. Every check runs, one line each; the exit code is
1 if one failed. What the second form writes it prints as JSON.
"""

import json
import os
import sys
import tempfile
import traceback
from datetime import datetime, timedelta, timezone

import pandas as pd

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.errors import FeastError, FeatureViewNotFoundException
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

NOW = datetime.now(timezone.utc).replace(microsecond=123000)

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
stats_push = PushSource(
    name="stats_push", batch_source=FileSource(name="stats_files", path="stats.parquet", timestamp_field="event_timestamp", created_timestamp_column="created"),
)
driver_stats = FeatureView(
    name="driver_stats", entities=[driver], ttl=timedelta(days=1), source=stats_push,
    schema=[Field(name="driver_id", dtype=Int64), Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int32), Field(name="small", dtype=Float32)],
)
driver_tags = FeatureView(
    name="driver_tags", entities=[driver], ttl=timedelta(0), source=stats_push,
    schema=[Field(name="driver_id", dtype=Int64), Field(name="tags", dtype=Array(String)), Field(name="since", dtype=UnixTimestamp)],
)
driver_raw = FeatureView(  # for Redis alone: what the SDK sends to a server can't be bytes
    name="driver_raw", entities=[driver], ttl=timedelta(0), source=stats_push, schema=[Field(name="driver_id", dtype=Int64), Field(name="raw", dtype=Bytes)],
)
at_airport = FeatureView(
    name="at_airport", entities=[driver, airport], ttl=timedelta(0), source=FileSource(name="pairs", path="stats.parquet", timestamp_field="event_timestamp"),
    schema=[Field(name="driver_id", dtype=Int64), Field(name="origin", dtype=String), Field(name="seen", dtype=Int64), Field(name="open", dtype=Bool)],
)
eta = FeatureService(name="eta", features=[driver_stats[["rate"]], driver_tags[["tags"]], at_airport[["seen"]]])

checks = []
store = None


def check(function):
    checks.append(function)
    return function


def open_store(online, project="conformance", more=()):
    os.chdir(tempfile.mkdtemp())
    # What Feast itself looks at of the offline store is that it is there.
    stats_frame().head(0).to_parquet("stats.parquet")
    s = FeatureStore(config=RepoConfig(
        project=project, provider="local", registry="registry.db", entity_key_serialization_version=3, online_store=online, offline_store={"type": "file"},
    ))
    s.apply([driver, airport, driver_stats, driver_tags, at_airport, eta, *more])
    return s


def stats_frame():
    return pd.DataFrame({
        "driver_id": [1001, 1002, 1003],
        "rate": [0.5, 1 / 3, 0.25],
        "trips": pd.array([3, -4, 5], dtype="int32"),
        "small": pd.array([0.1, 5, -1], dtype="float32"),
        "tags": [["a", "b"], ["ü"], ["c"]],
        "since": [datetime(2013, 1, 2, 3, 4, 5, tzinfo=timezone.utc)] * 3,
        "raw": [b"\x00\xff", b"x", b"yz"],
        "event_timestamp": [NOW, NOW - timedelta(hours=1), NOW - timedelta(days=5)],
        "created": [NOW, NOW, NOW],
    })


def pairs_frame(seen):
    return pd.DataFrame({
        "driver_id": [1001, 1001], "origin": ["JFK", "Zürich"], "seen": seen, "open": [True, False], "event_timestamp": [NOW, NOW - timedelta(minutes=1)],
    })


def equal(got, want):
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def get(features, rows, **options):
    return store.get_online_features(features=features, entity_rows=rows, **options).to_dict()


@check
def push_and_read():
    store.push("stats_push", stats_frame())
    equal(get(["driver_stats:rate", "driver_stats:trips"], [{"driver_id": i} for i in (1001, 1002, 1003, 1004)]), {
        "driver_id": [1001, 1002, 1003, 1004], "rate": [0.5, 1 / 3, None, None], "trips": [3, -4, None, None],
    })


@check
def push_has_no_mode_of_its_own():
    store.push("stats_push", stats_frame(), to=PushMode.ONLINE)


@check
def types():
    equal(get(["driver_tags:tags", "driver_tags:since", "driver_stats:small"], [{"driver_id": 1001}, {"driver_id": 1002}]), {
        "driver_id": [1001, 1002], "tags": [["a", "b"], ["ü"]], "since": [1357095845, 1357095845], "small": [0.10000000149011612, 5.0],
    })


@check
def full_names():
    equal(get(["driver_stats:rate"], [{"driver_id": 1001}], full_feature_names=True), {"driver_id": [1001], "driver_stats__rate": [0.5]})


@check
def write_of_two_entities():
    store.write_to_online_store("at_airport", pairs_frame([7, 8]))
    equal(get(["at_airport:seen", "at_airport:open"], [{"driver_id": 1001, "origin": o} for o in ("JFK", "Zürich", "LAX")]), {
        "driver_id": [1001] * 3, "origin": ["JFK", "Zürich", "LAX"], "seen": [7, 8, None], "open": [True, False, None],
    })


@check
def an_older_row_changes_nothing():
    frame = pairs_frame([70, 80])
    frame["event_timestamp"] -= timedelta(minutes=5)
    store.write_to_online_store("at_airport", frame)
    equal(get(["at_airport:seen"], [{"driver_id": 1001, "origin": "JFK"}])["seen"], [7])


@check
def a_view_is_written_by_itself():
    """Another view of the same source keeps what it has."""
    frame = stats_frame()[["driver_id", "rate", "trips", "small", "event_timestamp", "created"]]
    frame["event_timestamp"] += timedelta(seconds=1)
    store.write_to_online_store("driver_stats", frame)
    equal(get(["driver_tags:tags"], [{"driver_id": 1001}])["tags"], [["a", "b"]])


@check
def service():
    equal(get(store.get_feature_service("eta"), [{"driver_id": 1001, "origin": "JFK"}]), {
        "driver_id": [1001], "origin": ["JFK"], "rate": [0.5], "tags": [["a", "b"]], "seen": [7],
    })


@check
def versions():
    response = store.get_online_features(features=["driver_stats:rate"], entity_rows=[{"driver_id": 1001}], include_feature_view_version_metadata=True)
    equal([v.name for v in response.proto.metadata.feature_view_metadata], ["driver_stats"])


@check
def low_level_read():
    """What Feast's own server would call, with the view's types."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    view = store.get_feature_view("driver_stats")
    keys = [EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=i)]) for i in (1001, 1004)]
    rows = store._get_provider().online_store.online_read(store.config, view, keys, ["rate", "trips", "small"])
    equal([r[1]["rate"].double_val for r in rows], [0.5, 0.0])
    equal([r[1]["trips"].int32_val for r in rows], [3, 0])
    equal(rows[0][0], NOW + timedelta(seconds=1))


@check
def unknown_view():
    try:
        get(["nothing:rate"], [{"driver_id": 1001}])
    except FeatureViewNotFoundException as e:
        equal("nothing" in str(e), True)
        return
    raise AssertionError("it was answered")


@check
def wrong_key_type():
    try:
        get(["driver_stats:rate"], [{"driver_id": "x"}])
    except FeastError as e:
        equal("driver_id" in str(e), True)
        return
    raise AssertionError("it was answered")


@check
def uneven_columns():
    try:
        store.get_online_features(features=["at_airport:seen"], entity_rows={"driver_id": [1, 2], "origin": ["JFK"]})
    except FeastError as e:
        equal("same number" in str(e), True)
        return
    raise AssertionError("it was answered")


def remote(url):
    global store
    store = open_store({"type": "remote", "path": url})
    failed = 0
    for function in checks:
        try:
            function()
            print(f"ok    {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAIL  {function.__name__}")
            traceback.print_exc(limit=-3, file=sys.stdout)
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


def redis(address, project):
    """Fills a Redis, and prints what Feast itself reads there."""
    global store
    store = open_store({"type": "redis", "connection_string": address}, project, [driver_raw])
    store.push("stats_push", stats_frame())
    store.write_to_online_store("at_airport", pairs_frame([7, 8]))
    answers = [
        get(["driver_stats:rate", "driver_stats:trips", "driver_stats:small"], [{"driver_id": i} for i in (1001, 1002, 1004)]),
        get(["driver_tags:tags"], [{"driver_id": i} for i in (1001, 1002)]),
        get(["at_airport:seen", "at_airport:open"], [{"driver_id": 1001, "origin": o} for o in ("JFK", "Zürich", "LAX")]),
    ]
    print(json.dumps({"now": int(NOW.timestamp() * 1000) * 1000, "answers": answers}))
    return 0


if __name__ == "__main__":
    sys.exit({"remote": remote, "redis": redis}[sys.argv[1]](*sys.argv[2:]))
