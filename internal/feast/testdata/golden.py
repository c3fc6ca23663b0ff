"""Writes golden.json and registry.db beside it, as the package feast writes them.

Run it with the environment of `make feast`:
.venv-feast/bin/python internal/feast/testdata/golden.py
"""

import json
import math
import os
import tempfile
from datetime import datetime, timedelta, timezone

import pandas as pd
from google.protobuf.timestamp_pb2 import Timestamp

from feast import (
    Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, KafkaSource, PushSource, RepoConfig, RequestSource, StreamFeatureView, ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.feature_server_utils import convert_response_to_dict
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import (
    BoolList, BytesList, DoubleList, FloatList, Int32List, Int64List, RepeatedValue, StringList, Value,
)
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

HERE = os.path.dirname(os.path.abspath(__file__))


def values():
    """(type, JSON as internal/row writes it, message); null for what JSON has no number for is told by bits."""
    yield "bool", "true", Value(bool_val=True)
    yield "bool", "false", Value(bool_val=False)
    for i in (0, 1, -1, 2**31 - 1, -(2**31)):
        yield "int32", str(i), Value(int32_val=i)
    for i in (0, 1, -1, 2**63 - 1, -(2**63)):
        yield "int64", str(i), Value(int64_val=i)
    for f in (0.0, -2.5, 1e300):
        yield "float64", json.dumps(f), Value(double_val=f)
    for f in (0.0, -2.5, 1.5e30):
        yield "float32", json.dumps(f), Value(float_val=f)
    for s in ("", "Zürich", "x" * 300):
        yield "string", json.dumps(s), Value(string_val=s)
    yield "bytes", '"AP8="', Value(bytes_val=b"\x00\xff")
    yield "timestamp", '"2013-01-02T03:04:05Z"', Value(unix_timestamp_val=1357095845)
    yield "timestamp", '"1969-12-31T23:59:59Z"', Value(unix_timestamp_val=-1)
    yield "list(bool)", "[true,false]", Value(bool_list_val=BoolList(val=[True, False]))
    yield "list(int32)", "[1,-1]", Value(int32_list_val=Int32List(val=[1, -1]))
    yield "list(int64)", "[1,-9223372036854775808]", Value(int64_list_val=Int64List(val=[1, -(2**63)]))
    yield "list(int64)", json.dumps(list(range(200))), Value(int64_list_val=Int64List(val=range(200)))
    yield "list(int64)", "[]", Value(int64_list_val=Int64List())
    yield "list(float64)", "[1.5,-2]", Value(double_list_val=DoubleList(val=[1.5, -2]))
    yield "list(float32)", "[1.5,-2]", Value(float_list_val=FloatList(val=[1.5, -2]))
    yield "list(string)", '["","Zürich"]', Value(string_list_val=StringList(val=["", "Zürich"]))
    yield "list(bytes)", '["AP8=",""]', Value(bytes_list_val=BytesList(val=[b"\x00\xff", b""]))
    yield "list(timestamp)", '["1970-01-01T00:00:01Z"]', Value(unix_timestamp_list_val=Int64List(val=[1]))


def keys():
    """(project, join keys, type and JSON of each value, name of the hash)."""
    for project, join, vals in (
        ("demo", ["driver_id"], [("int64", "1001", Value(int64_val=1001))]),
        ("demo", ["driver_id"], [("int64", "-1", Value(int64_val=-1))]),
        ("demo", ["driver_id"], [("int32", "-7", Value(int32_val=-7))]),
        ("größe", ["name"], [("string", '"Zürich"', Value(string_val="Zürich"))]),
        ("p", ["name"], [("string", '""', Value(string_val=""))]),
        ("p", ["b"], [("bytes", '"AP8="', Value(bytes_val=b"\x00\xff"))]),
        ("p", ["t"], [("timestamp", '"2013-01-02T03:04:05Z"', Value(unix_timestamp_val=1357095845))]),
        ("p", ["origin", "carrier"], [("string", '"JFK"', Value(string_val="JFK")), ("int64", "3", Value(int64_val=3))]),
        ("p", ["a", "B", "c"], [("int32", "1", Value(int32_val=1)), ("string", '"x"', Value(string_val="x")), ("int64", "2", Value(int64_val=2))]),
    ):
        key = EntityKey(join_keys=join, entity_values=[v for _, _, v in vals])
        yield {"project": project, "keys": join, "values": [[t, j] for t, j, _ in vals], "hash": _redis_key(project, key).hex()}


def timestamp(us):
    t = Timestamp()
    t.FromMicroseconds(us)
    return t


CELLS = [  # of two rows each: value, number of the status, microseconds
    ("driver_id", [(Value(int64_val=1001), 1, 0), (Value(int64_val=1002), 1, 0)]),
    ("rate", [(Value(double_val=0.5), 1, 1357095845000000), (Value(), 3, 0)]),
    ("trips", [(Value(int64_val=3), 1, 1357095845120000), (Value(), 2, 1357095845123456)]),
    ("small", [(Value(float_val=0.1), 1, -1), (Value(float_val=5), 4, 1)]),
    ("odd", [(Value(double_val=math.nan), 1, 0), (Value(double_val=-math.inf), 1, 0)]),
    ("words", [(Value(string_list_val=StringList(val=["a", "b"])), 1, 0), (Value(bytes_val=b"\x00\xff"), 1, 0)]),
    ("at", [(Value(unix_timestamp_val=1357095845), 1, 0), (Value(bool_val=True), 0, 0)]),
]


def response():
    r = GetOnlineFeaturesResponse(status=True)
    for name, cells in CELLS:
        r.metadata.feature_names.val.append(name)
        r.results.add(values=[c[0] for c in cells], statuses=[c[1] for c in cells], event_timestamps=[timestamp(c[2]) for c in cells])
    r.metadata.feature_view_metadata.add(name="stats", version=3)
    return r


def request():
    r = GetOnlineFeaturesRequest(full_feature_names=True, include_feature_view_version_metadata=True)
    r.features.val.extend(["stats:rate", "stats:trips"])
    r.entities["driver_id"].CopyFrom(RepeatedValue(val=[Value(int64_val=1001), Value(int64_val=1002)]))
    r.request_context["amount"].CopyFrom(RepeatedValue(val=[Value(double_val=1.5), Value()]))
    return r


def registry(path):
    with tempfile.TemporaryDirectory() as repo:
        os.chdir(repo)
        start = datetime(2013, 1, 1, tzinfo=timezone.utc)
        pd.DataFrame({"driver_id": [1], "rate": [0.5], "trips": [3], "event_timestamp": [start], "created": [start]}).to_parquet("stats.parquet")
        store = FeatureStore(config=RepoConfig(
            project="demo", provider="local", registry=path, entity_key_serialization_version=3,
            online_store={"type": "sqlite", "path": "online.db"}, offline_store={"type": "file"},
        ))
        driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
        airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
        files = FileSource(name="stats_files", path="stats.parquet", timestamp_field="event_timestamp", created_timestamp_column="created")
        push = PushSource(name="stats_push", batch_source=files)
        stats = FeatureView(
            name="driver_stats", entities=[driver], ttl=timedelta(days=1), source=push,
            schema=[Field(name="driver_id", dtype=Int64), Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int32)],
        )
        fresh = FeatureView(
            name="driver_fresh", entities=[driver], ttl=timedelta(minutes=90), source=push,
            schema=[Field(name="driver_id", dtype=Int64), Field(name="trips", dtype=Int32), Field(name="tags", dtype=Array(String)), Field(name="since", dtype=UnixTimestamp)],
        )
        weather_files = FileSource(name="weather_files", path="stats.parquet", timestamp_field="event_timestamp")
        weather = FeatureView(
            name="weather", entities=[airport], ttl=timedelta(0), source=weather_files,
            schema=[Field(name="origin", dtype=String), Field(name="wind", dtype=Float32), Field(name="open", dtype=Bool)],
        )
        both = FeatureView(
            name="at_airport", entities=[driver, airport], ttl=timedelta(days=2), source=FileSource(name="both_files", path="stats.parquet", timestamp_field="event_timestamp"),
            schema=[Field(name="driver_id", dtype=Int64), Field(name="origin", dtype=String), Field(name="seen", dtype=Int64)],
        )
        everywhere = FeatureView(
            name="everywhere", entities=[], ttl=timedelta(days=2), source=FileSource(name="global_files", path="stats.parquet", timestamp_field="event_timestamp"),
            schema=[Field(name="total", dtype=Int64)],
        )
        kafka = KafkaSource(
            name="rides", kafka_bootstrap_servers="kafka:9092", topic="rides", timestamp_field="event_timestamp",
            batch_source=FileSource(name="ride_files", path="stats.parquet", timestamp_field="event_timestamp"), message_format=JsonFormat("driver_id int"),
        )
        rides = StreamFeatureView(
            name="ride_windows", entities=[driver], ttl=timedelta(days=1), source=kafka, mode="spark", timestamp_field="event_timestamp",
            schema=[Field(name="driver_id", dtype=Int64), Field(name="sum_fare_3600s", dtype=Float64), Field(name="mean_fare_3600s", dtype=Float64), Field(name="count_fare_3600s", dtype=Int64)],
            aggregations=[
                Aggregation(column="fare", function=f, time_window=timedelta(hours=1), slide_interval=timedelta(minutes=5)) for f in ("sum", "mean", "count")
            ],
        )
        amounts = RequestSource(name="amounts", schema=[Field(name="amount", dtype=Float64)])

        @on_demand_feature_view(sources=[stats, amounts], schema=[Field(name="ratio", dtype=Float64)], mode="pandas")
        def ratio(inputs):
            out = pd.DataFrame()
            out["ratio"] = inputs["amount"] * inputs["rate"]
            return out

        service = FeatureService(name="eta", features=[stats[["rate", "trips"]], weather, both, rides])
        second = FeatureService(name="eta_computed", features=[stats[["rate"]], ratio])
        store.apply([driver, airport, stats, fresh, weather, both, everywhere, rides, ratio, service, second])
        # Pickled code has the path of this file in it.
        with open(path, "rb") as f:
            r = Registry.FromString(f.read())
        for view in r.on_demand_feature_views:
            view.spec.feature_transformation.user_defined_function.body = b""
        r.ClearField("feature_view_version_history")
        with open(path, "wb") as f:
            f.write(r.SerializeToString(deterministic=True))


def main():
    response_ = response()
    golden = {
        "values": [[t, j, v.SerializeToString().hex()] for t, j, v in values()],
        "keys": list(keys()),
        "fields": [[s, _mmh3(s).hex()] for s in ("", "a", "ab", "abc", "abcd", "driver_stats:rate", "größe:ä")],
        "times": [[us, timestamp(us).SerializeToString().hex()] for us in (0, 1, -1, 1357095845123456, -62135596800000000)],
        "request": request().SerializeToString(deterministic=True).hex(),
        "cells": [[n, [[v.SerializeToString().hex(), s, us] for v, s, us in cells]] for n, cells in CELLS],
        "response": response_.SerializeToString(deterministic=True).hex(),
        "answer": convert_response_to_dict(response_),
    }
    with open(os.path.join(HERE, "golden.json"), "w") as f:
        json.dump(golden, f, indent=1, ensure_ascii=False)
        f.write("\n")
    path = os.path.join(HERE, "registry.db")
    if os.path.exists(path):
        os.remove(path)
    registry(path)


main()
