"""Tiny ONNX files that keep to the contract of exported ones: what they answer follows from the image's mean colour."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ["red", "green", "blue"]
# Of the three objects, in the order of their scores; 0 to 1.
BOXES = [[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 1.0, 1.0], [0.5, 0.25, 0.75, 0.5]]
CELLS = {"latlng": [[48.2, 16.4], [-33.9, 151.2], [64.1, -21.9]], "tokens": ["47", "6b", "48"], "decode": "best"}
THRESHOLDS = [0.5, 0.25, 0.75]

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_OUTPUTS = {
    "detection": {
        "boxes_xyxy": (_FLOAT, ["N", 100, 4]),
        "scores": (_FLOAT, ["N", 100]),
        "labels": (_INT64, ["N", 100]),
        "count": (_INT64, ["N"]),
    },
    "classification": {"probabilities": (_FLOAT, ["N", 3])},
    "face_attributes": {"probabilities": (_FLOAT, ["N", 3]), "present": (_BOOL, ["N", 3])},
    "face_embeddings": {"embedding": (_FLOAT, ["N", 3])},
    "geolocalization": {"probabilities": (_FLOAT, ["N", 3]), "latlng": (_FLOAT, ["N", 2])},
}


def metadata(task, size=(8, 8), crop=None, interpolation="bilinear", draft_at_least=None, **changes):
    """What an exported file of the task says of itself, as far as it is read."""
    rule = {"crop": crop, "interpolation": interpolation, "draft_at_least": draft_at_least, "rule": ""}
    named = task not in ("face_embeddings", "geolocalization")
    about = {"task": task, "image_size": list(size), "resize": rule, "names": NAMES if named else []}
    about |= {"outputs": list(_OUTPUTS[task])}
    about |= {
        "detection": {"nms": "in graph", "ids": [1, 2, 3]},
        "face_attributes": {"thresholds": THRESHOLDS},
        "geolocalization": {"cells": CELLS},
    }.get(task, {})
    return {**about, **changes}


def write_onnx(path, task, text=None, **changes):
    """Write the file of a task; `text` stands for the metadata's JSON, "" for none. Returns the path.

    With the mean colour m, 0 to 1: detection's scores are m, best first, an object where it is over 0.1; the
    probabilities are m, or m over its sum where they are of one thing; the embedding is m over its length; the place
    is 90 m, of red and green.
    """
    about = metadata(task, **changes)
    height, width = about["image_size"]
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(kind, inputs, *outputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, list(outputs), **attributes))

    add("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
    add("ReduceMean", ["pixels"], "bright", axes=[1, 2], keepdims=0)
    add("Div", ["bright", constant("most", np.float32(255))], "mean")
    if task == "detection":
        add("TopK", ["mean", constant("three", np.array([3]))], "best", "best_labels", axis=1)
        pad = constant("pad", np.array([0, 0, 0, 97]))
        add("Pad", ["best", pad], "scores")
        add("Pad", ["best_labels", pad, constant("none", np.int64(-1))], "labels")
        add("Greater", ["best", constant("least", np.float32(0.1))], "objects")
        add("Cast", ["objects"], "ones", to=TensorProto.INT64)
        add("ReduceSum", ["ones", constant("axis", np.array([1]))], "count", keepdims=0)
        boxes = np.zeros((1, 100, 4), np.float32)
        boxes[0, :3] = BOXES
        add("Unsqueeze", ["scores", constant("last", np.array([2]))], "scores_3d")
        add("Mul", ["scores_3d", constant("zero", np.float32(0))], "zeros")
        add("Add", ["zeros", constant("boxes", boxes)], "boxes_xyxy")
    elif task == "face_attributes":
        add("Identity", ["mean"], "probabilities")
        add("GreaterOrEqual", ["mean", constant("thresholds", np.array(THRESHOLDS, np.float32))], "present")
    elif task == "face_embeddings":
        add("LpNormalization", ["mean"], "embedding", axis=1)
    else:
        add("ReduceSum", ["mean", constant("axis", np.array([1]))], "sum")
        add("Div", ["mean", "sum"], "probabilities")
        if task == "geolocalization":
            add("MatMul", ["mean", constant("degrees", np.array([[90, 0], [0, 90], [0, 0]], np.float32))], "latlng")
    outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in _OUTPUTS[task].items()]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", height, width, 3])
    graph = helper.make_graph(nodes, task, [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    helper.set_model_props(model, {} if text == "" else {"mobilenet_tasks": text or json.dumps(about)})
    onnx.save(model, path)
    return path
