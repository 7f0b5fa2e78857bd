"""
A proof of a model of 1 GB takes at most three times its weights and 0.3 GB, PyTorch's own copy included.

What the libraries take is not counted: of the same files Linux maps more at once while they are new in its cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

GIGABYTE = 2**30

PROOF = r"""
import json, re, sys
from pathlib import Path
import onnx, onnxruntime, torch
from onnx import helper
from model_release import parity
from model_release.parity.report import Source
from model_release.spec import ModelSpec

def kilobytes(what):
    return int(re.search(what + r":\s*(\d+) kB", Path("/proc/self/status").read_text())[1])

LIBRARIES = kilobytes("VmRSS")
WIDTH, LAYERS = 4096, 16
torch.set_num_threads(2)

class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        one = torch.randn(WIDTH, WIDTH) / 64
        weights = [one.roll(place) for place in range(LAYERS)]
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(each, requires_grad=False) for each in weights])

    def forward(self, x):
        for weight in self.weights:
            x = x @ weight
        return x

def write(path):
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(LAYERS)]
    ends = [helper.make_tensor_value_info(name, 1, ["batch", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    for i, weight in enumerate(Layers().weights):
        model.graph.initializer.add(
            name=f"w{i}", data_type=1, dims=[WIDTH, WIDTH], raw_data=weight.numpy().tobytes()
        )
    onnx.save(model, path)

def prove(path):
    one = {"dtype": "float32", "shape": [WIDTH]}
    spec = ModelSpec.model_validate({
        "name": "layers", "source": {"checkpoint": "file:///layers.safetensors", "factory": "layers:build"},
        "inputs": [{"name": "x", **one}], "outputs": [{"name": "y", **one}], "serving": {"max_batch_size": 4},
    })
    source = Source(uri="file:///layers.safetensors", sha256="0" * 64)
    report = parity.prove(spec, Layers().eval(), Path(path), source=source)
    # Not ru_maxrss, into which Linux counts what the parent held.
    most = 1024 * (kilobytes("VmHWM") - LIBRARIES)
    print(json.dumps({"passed": report.passed, "bytes": report.onnx.size_bytes, "most": most, "s": report.seconds}))

{"write": write, "prove": prove}[sys.argv[1]](sys.argv[2])
"""


def run(what: str, path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", PROOF, what, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_gigabyte_of_weights_is_proved_within_three_times_their_size(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    run("write", path)
    found = json.loads(run("prove", path))
    path.unlink()
    assert found["passed"]
    assert found["bytes"] >= GIGABYTE
    assert found["most"] <= 3 * found["bytes"] + 0.3 * GIGABYTE, f"{found['most'] / GIGABYTE:.2f} GB"
