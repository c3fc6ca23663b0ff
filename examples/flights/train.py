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

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, precision_score, recall_score, roc_auc_score

HERE = pathlib.Path(__file__).parent
LATE_MINUTES = 15
TREES = 300  # at most, to keep the graph small; September and October say how many
ASKED_MINUTES = 45  # before the scheduled departure; nobody left more than 43 minutes before his
# A missing number. JSON has no NaN, so callers write what weather records have
# always written; anything lower than MISSING_BELOW counts, and so does NaN.
MISSING, MISSING_BELOW = -999.0, -500.0

# The model's inputs. The caller knows the first five; the others are the features of the service "flights" in
# features.yaml. The documentation is stored in the ONNX file too.
CATEGORIES = {
    "carrier": "airline, two letters (IATA)",
    "origin": "airport of departure: EWR, JFK or LGA",
    "dest": "airport of arrival (IATA)",
}
CLOCK = {
    "day_of_week": "day of the scheduled departure, 1 = Monday ... 7 = Sunday",
    "sched_dep_time": "scheduled departure, local clock as HHMM: 1755 = 17:55",
}
WEATHER = {
    "dewp": "dew point, Fahrenheit",
    "humid": "relative humidity, percent",
    "wind_speed": "miles per hour",
    "precip": "rain or melted snow in the hour, inches",
    "pressure": "at sea level, millibars",
    "visib": "visibility, miles, at most 10",
}
# Delays are minutes; what came too early counts below zero.
DAY = {
    "dep_delay_mean_1h": "mean delay of departures from the origin, last hour",
    "dep_delay_mean_3h": "the same, last three hours",
    "departures_1h": "how many flights left the origin in the last hour",
    "carrier_dep_delay_mean_3h": "mean delay of the airline's departures, last three hours",
    "carrier_arr_delay_mean_3h": "mean delay of the airline's arrivals, last three hours",
    "origin_arr_delay_mean_3h": "mean delay of arrivals of flights from the origin, last three hours",
    "dest_arr_delay_mean_3h": "mean delay of arrivals at the destination, last three hours",
    "dest_arr_delay_mean_12h": "the same, last twelve hours",
    "aircraft_arr_delay": "delay of the aircraft's last arrival from New York, of the last twelve hours",
}
KNOWN = WEATHER | DAY  # what may be missing
INTEGERS = [*CLOCK, "departures_1h"]
FEATURES = [*CATEGORIES, *CLOCK, *KNOWN]

PARAMS = dict(
    objective="binary",
    num_leaves=15,
    learning_rate=0.05,
    min_data_in_leaf=1000,
    feature_fraction=0.7,
    bagging_fraction=0.7,
    bagging_freq=1,
    seed=2013,
    num_threads=2,
    deterministic=True,
    force_row_wise=True,
    verbose=-1,
)


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


def rates(train, column, weight=100):
    """The late rate of each category, pulled towards the mean when it has few flights."""
    groups = train.groupby(column).late.agg(["sum", "size"])
    return ((groups["sum"] + weight * train.late.mean()) / (groups["size"] + weight)).astype(np.float32).to_dict()


class Model:
    """Late rates of the categories, then boosted trees."""

    def __init__(self, train, trees, tune=None, extra=(), without=(), params={}):
        self.columns = [c for c in [*FEATURES, *extra] if c not in without]
        self.mean = np.float32(train.late.mean())
        self.rates = {c: rates(train, c) for c in CATEGORIES}
        x = self.matrix(train)
        # One flight in ten is learned without weather, and one without the features of its day, so that
        # the model is sound too for a caller who asks days ahead, and while features are not to be had.
        draw = np.random.default_rng(2013)
        for group in (WEATHER, DAY):
            blind = draw.random(len(x)) < 0.1
            x[np.ix_(blind, [i for i, c in enumerate(self.columns) if c in group])] = np.nan
        valid, callbacks = [], []
        if tune is not None:
            valid = [lightgbm.Dataset(self.matrix(tune), tune.late)]
            callbacks = [lightgbm.early_stopping(30, verbose=False)]
        self.booster = lightgbm.train(
            PARAMS | params, lightgbm.Dataset(x, train.late), trees, valid_sets=valid, callbacks=callbacks
        )

    def matrix(self, flights):
        columns = [flights[c].map(self.rates[c]).fillna(self.mean) if c in self.rates else flights[c] for c in self.columns]
        return np.stack([c.to_numpy(np.float32) for c in columns], axis=1)

    def predict(self, flights):
        return self.booster.predict(self.matrix(flights))


def months(flights, first, last):
    return flights[flights.month.between(first, last)]


def without(flights, names):
    return flights.assign(**{c: np.nan for c in names})


# ---------------------------------------------------------------- ONNX


def floor32(x):
    """The largest float32 that is not above x: keeps `v <= x` true for the same float32 v."""
    with np.errstate(over="ignore"):  # LightGBM's infinity is 1e300
        f = np.float32(x)
    return float(f if float(f) <= x else np.nextafter(f, np.float32(-np.inf)))


def tree_attributes(booster):
    """LightGBM's trees as attributes of the ONNX operator TreeEnsembleRegressor."""
    a = {f"nodes_{k}": [] for k in "treeids nodeids featureids values modes truenodeids falsenodeids missing_value_tracks_true".split()}
    a |= {f"target_{k}": [] for k in "treeids nodeids ids weights".split()}

    def add(tree, node, ids):
        me = next(ids)
        at = len(a["nodes_nodeids"])
        leaf = "leaf_value" in node
        for key, value in dict(
            treeids=tree,
            nodeids=me,
            featureids=0 if leaf else node["split_feature"],
            values=0.0 if leaf else floor32(node["threshold"]),
            modes="LEAF" if leaf else "BRANCH_LEQ",
            truenodeids=0,
            falsenodeids=0,
            missing_value_tracks_true=0 if leaf else int(missing_goes_left(node)),
        ).items():
            a["nodes_" + key].append(value)
        if leaf:
            for key, value in dict(treeids=tree, nodeids=me, ids=0, weights=node["leaf_value"]).items():
                a["target_" + key].append(value)
        else:
            assert node["decision_type"] == "<=", node["decision_type"]
            a["nodes_truenodeids"][at] = add(tree, node["left_child"], ids)
            a["nodes_falsenodeids"][at] = add(tree, node["right_child"], ids)
        return me

    for tree in booster.dump_model()["tree_info"]:
        add(tree["tree_index"], tree["tree_structure"], iter(range(10**6)))
    return a


def missing_goes_left(node):
    # Where training saw no NaN, LightGBM takes NaN for zero.
    return node["default_left"] if node["missing_type"] == "NaN" else 0.0 <= node["threshold"]


def to_onnx(model, threshold):
    """The whole pipeline as one graph: raw values in, probability and label out."""
    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node(
            "LabelEncoder", [c], [c + "_rate"], domain=ml,
            keys_strings=list(r), values_floats=[float(v) for v in r.values()], default_float=float(model.mean),
        )
        for c, r in model.rates.items()
    ]
    nodes += [helper.make_node("Cast", [c], [c + "_float"], to=TensorProto.FLOAT) for c in INTEGERS]
    number = lambda c: c + "_float" if c in INTEGERS else c
    nodes += [
        helper.make_node("Concat", [number(c) for c in KNOWN], ["given"], axis=1),
        helper.make_node("LessOrEqual", ["given", "missing_below"], ["missing"]),
        helper.make_node("Where", ["missing", "nan", "given"], ["known"]),
        helper.make_node("Concat", [*(c + "_rate" for c in CATEGORIES), *map(number, CLOCK), "known"], ["features"], axis=1),
        helper.make_node(
            "TreeEnsembleRegressor", ["features"], ["score"], domain=ml,
            n_targets=1, aggregate_function="SUM", **tree_attributes(model.booster),
        ),
        # A node of its own: ONNX Runtime ignores post_transform="LOGISTIC" where there is one target.
        helper.make_node("Sigmoid", ["score"], ["probability"]),
        helper.make_node("GreaterOrEqual", ["probability", "threshold"], ["late"]),
        helper.make_node("Cast", ["late"], ["label"], to=TensorProto.INT64),
    ]

    def value(name, kind, doc):
        return helper.make_tensor_value_info(name, kind, ["N", 1], doc)

    unknown = f"; {MISSING:g} (or NaN) when not known"
    graph = helper.make_graph(
        nodes,
        "flights",
        [value(c, TensorProto.STRING, d + "; others than those learned from are taken as average") for c, d in CATEGORIES.items()]
        + [value(c, TensorProto.INT64, d) for c, d in CLOCK.items()]
        + [value(c, TensorProto.INT64 if c in INTEGERS else TensorProto.FLOAT, d + unknown) for c, d in KNOWN.items()],
        [
            value("probability", TensorProto.FLOAT, f"that the flight arrives more than {LATE_MINUTES} minutes late"),
            value("label", TensorProto.INT64, f"1 where the probability is {threshold:.2f} or more"),
        ],
        [
            numpy_helper.from_array(np.float32(MISSING_BELOW), "missing_below"),
            numpy_helper.from_array(np.float32(np.nan), "nan"),
            numpy_helper.from_array(np.float32(threshold), "threshold"),
        ],
    )
    proto = helper.make_model(
        graph,
        producer_name="pilotlight examples/flights",
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ml, 3)],
        ir_version=8,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(flights):
    """What a caller sends who gives all inputs: raw values, one array [N,1] each."""
    given = {c: flights[c].to_numpy(object) for c in CATEGORIES}
    given |= {c: flights[c].fillna(MISSING).to_numpy(np.int64) for c in INTEGERS}
    given |= {c: flights[c].to_numpy(np.float32) for c in KNOWN if c not in INTEGERS}
    return {c: given[c][:, None] for c in FEATURES}


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


def best_f1(late, p):
    """The threshold, in hundredths, where precision and recall balance best."""
    def f1(t):
        flagged = p >= t
        return 2 * (late & flagged).sum() / (late.sum() + flagged.sum())
    return max(np.arange(0.05, 0.95, 0.01).round(2), key=f1)


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
