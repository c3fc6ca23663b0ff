"""Prints what Evidently says about drift, as JSON: {column: {stattest: [score, drifted]}}.

Usage: evidently_verdicts.py REFERENCE.parquet CURRENT.parquet...
Prints a line for each current file. Columns of text, and of numbers with at most 20 different
values, are categorical, as in internal/drift. Thresholds are Evidently's defaults. Evidently has
bins of equal width for numbers; psi_deciles and jensenshannon_deciles are what it says of the
same rows when each number is replaced by which decile of the reference it lies in.
"""

import json
import math
import sys

import numpy
import pandas
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType


def verdict(test, ref, cur, kind):
    result = get_stattest(ref, cur, kind, test)(ref, cur, kind, None)
    score = float(result.drift_score)
    return [None if math.isnan(score) else score, bool(result.drifted)]


def verdicts(ref, cur):
    text = not pandas.api.types.is_numeric_dtype(ref.dtype)
    if not text:
        ref, cur = ref.astype(float), cur.astype(float)
    if text or ref.nunique() <= 20:
        return {t: verdict(t, ref, cur, ColumnType.Categorical) for t in ["psi", "jensenshannon", "chisquare"]}
    out = {t: verdict(t, ref, cur, ColumnType.Numerical) for t in ["psi", "jensenshannon", "ks"]}
    edges = numpy.unique(numpy.quantile(ref, numpy.arange(1, 10) / 10, method="inverted_cdf"))
    ref, cur = (pandas.Series(numpy.searchsorted(edges, values)) for values in (ref, cur))
    for t in ["psi", "jensenshannon"]:
        out[t + "_deciles"] = verdict(t, ref, cur, ColumnType.Categorical)
    return out


def main(reference, *currents):
    reference = pandas.read_parquet(reference)
    for current in currents:
        current = pandas.read_parquet(current)
        print(json.dumps({c: verdicts(reference[c].dropna(), current[c].dropna()) for c in reference}))


if __name__ == "__main__":
    main(*sys.argv[1:])
