"""A trainer for Pilotlight's pipelines, see docs/training.md: LightGBM's trees about late flights.

It reads train.parquet, holdout.parquet and dataset.json in the folder DATASET, and writes model.onnx, metrics.json,
predictions.parquet and settings.json into the folder OUTPUT. How many trees there are, and from which probability on the label is
1, the newest fifth of train.parquet says; then all of it teaches.
"""

import json
import os
import pathlib
import sys

import numpy as np
import onnx
import pandas as pd
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from late import FEATURES, KNOWN, MISSING_BELOW, TREES, Model, best_f1, to_onnx


def load(path):
    """Flights in the order of time. A number that a caller did not know counts as one that nobody does."""
    flights = pd.read_parquet(path)
    flights["late"] = flights.label.astype(int)
    known = [c for c in KNOWN if c in flights]
    flights[known] = flights[known].astype(np.float32).where(lambda f: f > MISSING_BELOW)
    return flights


def main():
    dataset, output = pathlib.Path(os.environ["DATASET"]), pathlib.Path(os.environ["OUTPUT"])
    said = json.loads((dataset / "dataset.json").read_text())
    inputs = [i["name"] for i in said["inputs"]]
    if said["task"] != "binary" or sorted(inputs) != sorted(FEATURES):
        sys.exit(f"this trainer is for late flights, by {', '.join(FEATURES)}; the dataset has {', '.join(inputs)}")
    params = said.get("options", {})  # of LightGBM, but for this one
    most = params.pop("trees", TREES)

    train, holdout = load(dataset / "train.parquet"), load(dataset / "holdout.parquet")
    newest = max(1, len(train) // 5)
    early, tune = train.iloc[:-newest], train.iloc[-newest:]
    print(f"{len(train):,} flights to learn from, {train.late.mean():.1%} of them late; {len(holdout):,} held out", flush=True)
    first = Model(early, most, tune, params=params)
    trees = first.booster.best_iteration
    threshold = best_f1(tune.late.to_numpy() == 1, first.predict(tune))
    print(f"{trees} trees, label from {threshold:.2f}", flush=True)
    model = Model(train, trees, params=params)

    onnx.save(to_onnx(model, threshold), output / "model.onnx")
    p = model.predict(holdout)
    pd.DataFrame({"prediction": p}).to_parquet(output / "predictions.parquet", index=False)
    metrics = {"trees": trees, "threshold": float(threshold), "rows": len(train)}
    if holdout.late.nunique() == 2:
        metrics |= {"auc": roc_auc_score(holdout.late, p), "log_loss": log_loss(holdout.late, p), "brier": brier_score_loss(holdout.late, p)}
    (output / "metrics.json").write_text(json.dumps(metrics))
    (output / "settings.json").write_text(json.dumps({"quality": {"task": "binary", "output": "probability", "threshold": float(threshold)}}))
    print(metrics)


if __name__ == "__main__":
    main()
