"""Feast's own server on a Redis that it has filled: feast_server.py FOLDER REDIS VIEW ENTITIES FEATURES."""

import os
import sys
from datetime import datetime, timedelta, timezone

import pandas as pd
import yaml

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

folder, redis, name, entities, features = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
os.makedirs(folder)
os.chdir(folder)
frame = pd.DataFrame({"driver_id": range(entities)})
for j in range(features):
    frame[f"f{j}"] = [(i * features + j) / 7 for i in range(entities)]
frame["event_timestamp"] = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=1)
frame.head(1).to_parquet("rows.parquet")
with open("feature_store.yaml", "w") as f:
    yaml.safe_dump({
        "project": "bench", "provider": "local", "registry": "registry.db", "entity_key_serialization_version": 3,
        "online_store": {"type": "redis", "connection_string": redis}, "offline_store": {"type": "file"},
    }, f)
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
store = FeatureStore(repo_path=".")
store.apply([driver, FeatureView(
    name=name, entities=[driver], ttl=timedelta(days=1), source=FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp"),
    schema=[Field(name="driver_id", dtype=Int64)] + [Field(name=f"f{j}", dtype=Float64) for j in range(features)],
)])
store.write_to_online_store(name, frame)
program = os.path.join(os.path.dirname(sys.executable), "feast")
os.execv(program, [program, "serve", "--host", "127.0.0.1", "--port", os.environ["PORT"], "--no-access-log", "--max-requests", "0", "--max-requests-jitter", "0"])
