"""Architectures as teams write them themselves, with seeded random weights."""

from __future__ import annotations

from sandbox.exports.architecture import Architecture, tensor

_MODULES = "sandbox.exports.own_modules"
_IMAGE = {
    "inputs": [tensor("image", "float32", 3, 32, 32, bounds=(0, 1))],
    "outputs": [tensor("logits", "float32", 10)],
}

OWN = [
    Architecture(
        "tabular_mixed",
        "tabular, four dtypes in",
        f"{_MODULES}:MixedTabular",
        {
            "inputs": [
                tensor("categories", "int64", 3, bounds=(0, 99)),
                tensor("numbers", "float32", 6, bounds=(-3, 3)),
                tensor("coarse", "float16", 4, bounds=(-3, 3)),
                tensor("flags", "bool", 2),
            ],
            "outputs": [tensor("price", "float32"), tensor("tier", "int64"), tensor("eligible", "bool")],
        },
    ),
    Architecture(
        "unet",
        "segmentation, any size",
        f"{_MODULES}:UNet",
        {
            "inputs": [tensor("image", "float32", 3, "height", "width", bounds=(0, 1))],
            "dynamic_axes": {"height": {"min": 16, "max": 64}, "width": {"min": 16, "max": 64}},
            "outputs": [tensor("mask", "float32", 3, "height", "width")],
        },
    ),
    Architecture(
        "two_tower",
        "recommender",
        f"{_MODULES}:TwoTower",
        {
            "inputs": [
                tensor("user_id", "int64", bounds=(0, 4999)),
                tensor("history", "int64", "items", bounds=(0, 1999)),
                tensor("history_mask", "bool", "items"),
                tensor("item_id", "int64", bounds=(0, 1999)),
                tensor("item_features", "float32", 8, bounds=(-3, 3)),
            ],
            "dynamic_axes": {"items": {"min": 1, "max": 20}},
            "outputs": [
                tensor("score", "float32"),
                tensor("user", "float32", 32),
                tensor("item", "float32", 32),
            ],
        },
    ),
    Architecture(
        "tcn",
        "time series",
        f"{_MODULES}:Tcn",
        {
            "inputs": [tensor("series", "float32", 4, "time", bounds=(-3, 3))],
            "dynamic_axes": {"time": {"min": 1, "max": 100}},
            "outputs": [tensor("forecast", "float32", "time")],
        },
    ),
    Architecture(
        "torch_transformer",
        "torch's own encoder",
        f"{_MODULES}:PlainTransformer",
        {
            "inputs": [tensor("tokens", "int64", "seq", bounds=(0, 999)), tensor("kept", "bool", "seq")],
            "dynamic_axes": {"seq": {"min": 2, "max": 32}},
            "outputs": [tensor("embedding", "float32", 64)],
        },
    ),
    Architecture(
        "unet_fp16",
        "segmentation, fp16",
        f"{_MODULES}:UNet",
        {
            "inputs": [tensor("image", "float32", 3, 32, 32, bounds=(0, 1))],
            "outputs": [tensor("mask", "float32", 3, 32, 32)],
            "export": {"precision": "fp16"},
        },
    ),
    Architecture("cnn_pt2", "an exported program", f"{_MODULES}:SmallCnn", _IMAGE, format="exported_program"),
    Architecture("cnn_torchscript", "TorchScript", f"{_MODULES}:SmallCnn", _IMAGE, format="torchscript"),
]
