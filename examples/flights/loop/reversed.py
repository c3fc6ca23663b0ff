"""A trainer that is wrong on purpose: it takes every late flight for one in time, and the other way round. What it makes is
sound in every other respect, so that only what came true can tell."""

import os
import pathlib
import shutil
import sys
import tempfile

import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import trainer

with tempfile.TemporaryDirectory() as folder:
    given, turned = pathlib.Path(os.environ["DATASET"]), pathlib.Path(folder)
    shutil.copy(given / "dataset.json", turned)
    for name in ("train.parquet", "holdout.parquet"):
        flights = pd.read_parquet(given / name)
        flights.assign(label=1 - flights.label).to_parquet(turned / name, index=False)
    os.environ["DATASET"] = folder
    trainer.main()
