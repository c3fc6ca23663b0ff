"""Trains the model "does this flight arrive more than 15 minutes late?".

    python train.py --ask FILE  write the rows that Pilotlight is to join with features: each flight and when it is asked
    python train.py SET         train on the training set that came of them, measure, write flights.onnx, reference.json,
                                request.json, features.json, calibration.svg and README's results
    python train.py SET --ablation  measure what other inputs would have brought

Everything is seeded: two runs on one machine write the same bytes. Only the
printed latency differs, so it is not written anywhere.
"""

import json
import math
import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, precision_score, recall_score, roc_auc_score

from late import CLOCK, DAY, INTEGERS, KNOWN, LATE_MINUTES, MISSING, TREES, WEATHER, Model, best_f1, feeds, open_session, rates, to_onnx

HERE = pathlib.Path(__file__).parent
ASKED_MINUTES = 45  # before the scheduled departure; nobody left more than 43 minutes before his


def ask(path):
    """The rows to join with features: when each flight is asked for, its keys, and what is to be passed on."""
    flights = pd.read_parquet(HERE / "data/flights.parquet")
    scheduled = flights.time_hour + pd.to_timedelta(flights.minute, unit="min")
    flights["event_timestamp"] = scheduled - pd.Timedelta(minutes=ASKED_MINUTES)
    # The day in New York, not in UTC: a flight at 20:00 on Friday is a Friday flight.
    flights["day_of_week"] = flights.time_hour.dt.tz_convert("America/New_York").dt.day_of_week + 1
    passed = ["flight", "month", "day", "hour", "sched_arr_time", "distance", "arr_delay"]
    flights[["event_timestamp", "carrier", "origin", "dest", "tailnum", *CLOCK, *passed]].to_parquet(path, index=False)
    print(f"{path}: {len(flights):,} flights")


def load(path):
    """The training set: all flights that arrived, in the order of time."""
    flights = pd.read_parquet(path)
    # Cancelled and diverted flights have no arrival delay: nothing to learn, nothing to score.
    flights = flights[flights.arr_delay.notna()].copy()
    flights["late"] = (flights.arr_delay > LATE_MINUTES).astype(int)
    order = ["event_timestamp", "carrier", "flight", "origin"]
    return flights.sort_values(order, kind="stable").reset_index(drop=True)


def months(flights, first, last):
    return flights[flights.month.between(first, last)]


def without(flights, names):
    return flights.assign(**{c: np.nan for c in names})


def latency(session, flights, rounds):
    """Microseconds of one run, median and 99th percentile."""
    given, times = feeds(flights), []
    for _ in range(rounds):
        start = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - start)
    return np.percentile(np.array(times[rounds // 10 :]) * 1e6, [50, 99])


# ---------------------------------------------------------------- how good is it


def bins(late, p):
    """Ten groups of equally many flights, by predicted probability: predicted and observed mean, size."""
    groups = np.array_split(np.argsort(p, kind="stable"), 10)
    return [(p[g].mean(), late[g].mean(), len(g)) for g in groups]


def ece(late, p):
    return sum(abs(a - b) * n for a, b, n in bins(late, p)) / len(p)


def auc_interval(flights, p, rounds=1000):
    """95% interval of the AUC. Whole days are drawn, not flights: the flights of
    one day share its weather and its jams, and drawing them singly would make
    the interval look several times better than it is."""
    days, day = np.unique(flights[["month", "day"]].to_numpy(), axis=0, return_inverse=True)
    late, day = flights.late.to_numpy(), day.ravel()
    draw = np.random.default_rng(2013)
    aucs = []
    for _ in range(rounds):
        weight = np.bincount(draw.integers(len(days), size=len(days)), minlength=len(days))[day]
        aucs.append(roc_auc_score(late, p, sample_weight=weight))
    return np.percentile(aucs, [2.5, 97.5])


def measures(flights, p):
    late = flights.late.to_numpy()
    low, high = auc_interval(flights, p)
    return f"{roc_auc_score(late, p):.3f} ({low:.3f}-{high:.3f}) | {log_loss(late, p):.4f} | {brier_score_loss(late, p):.4f} | {ece(late, p):.3f}"


def hour_rates(train, test):
    """The trivial baseline: how often this carrier was late in this hour of the day."""
    key = lambda f: f.carrier + f.hour.astype(str)
    return key(test).map(rates(train.assign(key=key(train)), "key")).fillna(train.late.mean()).to_numpy(float)


def results(model, plain, threshold, train, test):
    late = test.late.to_numpy()
    p = model.predict(test)
    out = [
        f"Test flights: {len(test):,}, of which {late.mean():.1%} were late (training: {train.late.mean():.1%}).",
        "",
        "| November and December | AUC (95% interval) | log loss | Brier | ECE |",
        "|---|---|---|---|---|",
        f"| the model | {measures(test, p)} |",
        f"| the model, weather not known | {measures(test, model.predict(without(test, WEATHER)))} |",
        f"| the model, the day not known | {measures(test, model.predict(without(test, DAY)))} |",
        f"| the model, neither known | {measures(test, model.predict(without(test, KNOWN)))} |",
        f"| a model taught without features of the day | {measures(test, plain.predict(test))} |",
        f"| baseline: carrier and hour | {measures(test, hour_rates(train, test))} |",
        f"| baseline: the training mean | 0.500 | {log_loss(late, np.full(len(test), train.late.mean())):.4f}"
        f" | {brier_score_loss(late, np.full(len(test), train.late.mean())):.4f} | {abs(late.mean() - train.late.mean()):.3f} |",
        "",
        "| month | flights | late | mean probability | AUC (95% interval) | log loss | Brier | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for month, name in [(11, "November"), (12, "December")]:
        part = test[test.month == month]
        q = model.predict(part)
        out.append(f"| {name} | {len(part):,} | {part.late.mean():.1%} | {q.mean():.1%} | {measures(part, q)} |")
    out += ["", "| tenth of the flights | predicted | late |", "|---|---|---|"]
    out += [f"| {i} | {a:.1%} | {b:.1%} |" for i, (a, b, _) in enumerate(bins(late, p), 1)]
    label = p >= threshold
    out += [
        "",
        f"`label` is 1 from probability {threshold:.2f} on: that flags {label.mean():.1%} of the flights, {precision_score(late, label):.1%} of"
        f" those flagged were late (precision), and {recall_score(late, label):.1%} of the late ones were flagged (recall).",
    ]
    return "\n".join(out)


def plot(late, p):
    """Predicted against observed, as a small SVG."""
    size, edge, top = 300, 40, 0.6
    x = lambda v: edge + v / top * size
    y = lambda v: size + 10 - v / top * size
    dots = [(x(a), y(b)) for a, b, _ in bins(late, p)]
    parts = [f'<rect width="{size + edge + 20}" height="{size + 50}" fill="white"/>']
    for t in np.arange(0, top + 0.01, 0.1):
        parts.append(f'<path d="M{x(t):.0f} {y(0):.0f}V{y(top):.0f}M{x(0):.0f} {y(t):.0f}H{x(top):.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(t):.0f}" y="{y(0) + 15:.0f}" text-anchor="middle">{t:.1f}</text>')
        parts.append(f'<text x="{x(0) - 5:.0f}" y="{y(t) + 4:.0f}" text-anchor="end">{t:.1f}</text>')
    parts.append(f'<path d="M{x(0):.0f} {y(0):.0f}L{x(top):.0f} {y(top):.0f}" stroke="#999" stroke-dasharray="4"/>')
    parts.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in dots)}" fill="none" stroke="#c2410c"/>')
    parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="#c2410c"/>' for a, b in dots]
    parts.append(f'<text x="{x(top / 2):.0f}" y="{size + 43}" text-anchor="middle">predicted probability</text>')
    parts.append(f'<text x="12" y="{y(top / 2):.0f}" text-anchor="middle" transform="rotate(-90 12 {y(top / 2):.0f})">share late</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size + edge + 20}" height="{size + 50}" font-family="sans-serif" font-size="11">'
    (HERE / "calibration.svg").write_text("\n".join([head, *parts, "</svg>"]) + "\n")


def ablation(flights):
    """What other choices would have brought, by walking through January to October;
    November and December are not looked at."""
    planes = pd.read_parquet(HERE / "data/planes.parquet")[["tailnum", "year", "seats", "engines"]]
    planes["plane_age"] = 2013 - planes.pop("year")
    flights = flights.merge(planes, on="tailnum", how="left", validate="many_to_one")
    folds = [((1, 4), (5, 6)), ((1, 6), (7, 8)), ((1, 8), (9, 10))]

    def platt(train, test):
        last = train.month.max()
        model = Model(months(train, 1, last - 1), TREES)
        logit = lambda f: model.booster.predict(model.matrix(f), raw_score=True)[:, None]
        fit = LogisticRegression(C=1e6).fit(logit(months(train, last, last)), months(train, last, last).late)
        return fit.predict_proba(logit(test))[:, 1]

    plain = lambda trees=TREES, **more: lambda train, test: Model(train, trees, **more).predict(test)
    part = lambda word: [c for c in DAY if c.startswith(word)]
    print("| choice | AUC | log loss |\n|---|---|---|")
    for name, predict in {
        "as shipped": plain(),
        "without features of the day": plain(without=DAY),
        "without weather": plain(without=WEATHER),
        "without the aircraft": plain(without=part("aircraft")),
        "without the airline": plain(without=part("carrier")),
        "without the airport": plain(without=[*part("dep"), *part("origin")]),
        "without the destination": plain(without=part("dest")),
        "and the month": plain(extra=["month"]),
        "and scheduled arrival, distance": plain(extra=["sched_arr_time", "distance"]),
        "and the plane's age, seats, engines": plain(extra=["plane_age", "seats", "engines"]),
        "twice the leaves": plain(params=dict(num_leaves=31)),
        "calibrated (Platt) on the last month": platt,
    }.items():
        scores = []
        for (a, b), (c, d) in folds:
            test = months(flights, c, d)
            p = predict(months(flights, a, b), test)
            scores.append((roc_auc_score(test.late, p), log_loss(test.late, p)))
        auc, loss = np.mean(scores, axis=0)
        print(f"| {name} | {auc:.4f} | {loss:.4f} |", flush=True)


# ---------------------------------------------------------------- files for tests and people


def number(x):
    """The shortest decimal that reads back as this float32."""
    short = float(str(np.float32(x)))
    assert np.float32(short) == np.float32(x)
    return short


def body(flights):
    """A complete V2 inference request. One column of the flights becomes one input."""
    inputs = []
    for name, values in feeds(flights).items():
        if values.dtype == np.float32:
            kind, data = "FP32", [MISSING if math.isnan(v) else number(v) for v in values.ravel()]
        else:
            kind, data = "INT64" if name in INTEGERS else "BYTES", values.ravel().tolist()
        inputs.append({"name": name, "shape": [len(flights), 1], "datatype": kind, "data": data})
    return {"inputs": inputs}


def answer(session, request):
    """What Python's onnxruntime answers to the request, as V2 outputs."""
    kinds = {"BYTES": object, "INT64": np.int64, "FP32": np.float32}
    given = {i["name"]: np.array(i["data"], kinds[i["datatype"]]).reshape(i["shape"]) for i in request["inputs"]}
    probability, label = session.run(["probability", "label"], given)
    shape = list(probability.shape)
    return [
        {"name": "probability", "datatype": "FP32", "shape": shape, "data": [number(v) for v in probability.ravel()]},
        {"name": "label", "datatype": "INT64", "shape": shape, "data": label.ravel().tolist()},
    ]


def write_reference(session, test):
    sample = test.sample(200, random_state=2013).sort_index()
    one = sample.head(1)
    hole = test[test.pressure.isna() & test.visib.notna()].head(1)
    cases = [(f"one flight: {flight_name(f)}", f) for f in (sample.iloc[i : i + 1] for i in range(20))]
    cases += [
        ("unknown carrier", one.assign(carrier="ZZ")),
        ("unknown carrier, origin and destination, empty and not ASCII", one.assign(carrier="", origin="Zürich", dest="東京")),
        ("lower case is another category", one.assign(carrier=one.carrier.str.lower())),
        ("no weather known", without(one, WEATHER)),
        ("nothing known of the day", without(one, DAY)),
        ("pressure not recorded", hole),
        ("nothing known but the hour and the day", without(one, KNOWN).assign(carrier="?", origin="?", dest="?")),
        ("no such day or hour", one.assign(day_of_week=0, sched_dep_time=-1)),
        ("a batch of 2, one of them without weather", pd.concat([one, without(one, WEATHER)])),
        ("a batch of 180 flights", sample.tail(180)),
    ]
    requests = []
    for name, flights in cases:
        request = body(flights)
        requests.append({"name": name, "body": request, "outputs": answer(session, request)})
    reference = {
        "made_by": f"train.py, onnxruntime {onnxruntime.__version__} (Python, CPU, one thread)",
        "tolerance": 1e-5,
        "requests": requests,
    }
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in requests)
    head = json.dumps({k: v for k, v in reference.items() if k != "requests"})[:-1]
    (HERE / "reference.json").write_text(f'{head}, "requests": [\n{lines}\n]}}\n', encoding="utf-8")


def flight_name(flight):
    f = flight.iloc[0]
    return f"{f.carrier} {f.flight} {f.origin}-{f.dest}, 2013-{f.month:02d}-{f.day:02d} {f.sched_dep_time // 100:02d}:{f.sched_dep_time % 100:02d}"


def write_request(session, flight):
    """The flight as it is asked for by its keys alone, what Pilotlight then knows of it, and both in one."""
    complete, keys = body(flight), body(flight)
    keys["inputs"] = [i for i in keys["inputs"] if i["name"] not in KNOWN]
    keys["inputs"].append({"name": "tailnum", "shape": [1, 1], "datatype": "BYTES", "data": [flight.tailnum.iloc[0]]})
    keys["parameters"] = {"feature_time": flight.event_timestamp.iloc[0].strftime("%Y-%m-%dT%H:%M:%SZ")}
    for name, request in {"request": keys, "complete": complete}.items():
        lines = ",\n".join("  " + json.dumps(i) for i in request["inputs"])
        head = f'"parameters": {json.dumps(request["parameters"])}, ' if "parameters" in request else ""
        (HERE / f"{name}.json").write_text(f'{{{head}"inputs": [\n{lines}\n]}}\n')
    row = flight.iloc[0]
    known = {c: None if pd.isna(row[c]) else int(row[c]) if c in INTEGERS else float(row[c]) for c in KNOWN}
    expected = {"features": known, "outputs": answer(session, complete)}
    (HERE / "features.json").write_text(json.dumps(expected, indent=1, allow_nan=False) + "\n")
    probability = expected["outputs"][0]["data"][0]
    print(f"request.json: {flight_name(flight)}, arrived {flight.arr_delay.iloc[0]:.0f} minutes late; probability {probability}")


def into_readme(text):
    """The numbers in README.md are written here and by nobody else."""
    path, begin, end = HERE / "README.md", "<!-- results: written by train.py -->", "<!-- end of results -->"
    readme = path.read_text(encoding="utf-8")
    head, tail = readme.split(begin)[0], readme.split(end)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main():
    if sys.argv[1:2] == ["--ask"]:
        return ask(sys.argv[2])
    flights = load(sys.argv[1])
    if "--ablation" in sys.argv:
        return ablation(flights)

    # January to August teach, September and October say how many trees and where
    # the label turns; then all ten months teach, with that many trees.
    # November and December are looked at once, here at the end.
    tune, train, test = months(flights, 9, 10), months(flights, 1, 10), months(flights, 11, 12)
    early = Model(months(flights, 1, 8), TREES, tune)
    threshold = best_f1(tune.late.to_numpy() == 1, early.predict(tune))
    model = Model(train, early.booster.best_iteration)
    print(f"{early.booster.best_iteration} trees, label from {threshold:.2f}")
    early_plain = Model(months(flights, 1, 8), TREES, tune, without=DAY)
    plain = Model(train, early_plain.booster.best_iteration, without=DAY)

    path = HERE / "flights.onnx"
    onnx.save(to_onnx(model, threshold), path)
    session = open_session(path)

    p = model.predict(test)
    diffs = [
        np.abs(session.run(["probability"], feeds(f))[0].ravel() - model.predict(f)).max()
        for f in [test, *(without(test, names) for names in (WEATHER, DAY))]
    ]
    text = results(model, plain, threshold, train, test)
    assert max(diffs) < 1e-5, "the ONNX graph does not compute what LightGBM does"
    text += (
        f"\n\nThe ONNX graph has {early.booster.best_iteration} trees, {path.stat().st_size / 1024:.0f} KiB; over all test flights, with"
        f" and without weather and features of the day, its probabilities differ from LightGBM's by at most {max(diffs):.1e}."
    )
    print(text)
    into_readme(text)
    plot(test.late.to_numpy(), p)
    write_reference(session, test)
    # The flight that the first version of this example was asked about.
    write_request(session, test[(test.month == 12) & (test.day == 23) & (test.carrier == "B6") & (test.flight == 418)])
    for size in (1, 100):
        median, p99 = latency(session, test.head(size), 5000)
        print(f"batch {size}: {median:.1f} us median, {p99:.1f} us 99th percentile, one thread")


if __name__ == "__main__":
    main()
