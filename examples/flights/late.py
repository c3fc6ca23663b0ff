"""The model "does this flight arrive more than 15 minutes late?": what it takes, how it is taught, and how it becomes an ONNX
file. train.py makes the one that is shipped of it, trainer.py makes new ones in pipelines.
"""

import lightgbm
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LATE_MINUTES = 15
TREES = 300  # at most, to keep the graph small; September and October say how many
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


def best_f1(late, p):
    """The threshold, in hundredths, where precision and recall balance best."""
    def f1(t):
        flagged = p >= t
        return 2 * (late & flagged).sum() / (late.sum() + flagged.sum())
    return max(np.arange(0.05, 0.95, 0.01).round(2), key=f1)
