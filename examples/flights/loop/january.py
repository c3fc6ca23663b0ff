"""Makes what the loop begins with: january.onnx, taught by the flights of January alone.

    python january.py SET FILE   of the training set of train.py; what they were like goes into FILE, for `pilotlight drift reference`
"""

import pathlib
import sys

import onnx

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from late import FEATURES, TREES, Model, best_f1, to_onnx
from train import load

HERE = pathlib.Path(__file__).parent


def main():
    flights = load(sys.argv[1])
    january = flights[flights.month == 1]
    # As trainer.py does: the newest fifth says how many trees, then all of it teaches.
    newest = len(january) // 5
    early, tune = january.iloc[:-newest], january.iloc[-newest:]
    first = Model(early, TREES, tune)
    threshold = best_f1(tune.late.to_numpy() == 1, first.predict(tune))
    model = Model(january, first.booster.best_iteration)
    onnx.save(to_onnx(model, threshold), HERE / "january.onnx")
    january[FEATURES].to_parquet(sys.argv[2], index=False)
    print(f"{len(january):,} flights, {first.booster.best_iteration} trees, label from {threshold:.2f}")


if __name__ == "__main__":
    main()
