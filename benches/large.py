"""Writes a large transformer with random weights, prunes it, and prints what that took.

    python benches/large.py --size 1G --program target/release/optin-onnx [--folder DIR] [--keep]

Needs `numpy` and `onnx`. The same size gives the same bytes. Above 2 GiB weights go to a file of external data. Two runs are
measured: rewriting alone (`--score magnitude --recover off`), and a whole run with data, default scores and recovery. The
peak is that of the report (VmHWM: pages of mapped files count).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LENGTH = 16
VOCABULARY = 1024
HEAD = 128
# Parameters of a block: four matrices of attention and two of four times the width.
PER_BLOCK = 12


def size(text):
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


class Writer:
    """Collects a graph whose weights go inside the file or beside it."""

    def __init__(self, data):
        self.random = np.random.default_rng(0)
        self.data = data
        self.nodes, self.initializers = [], []
        self.offset = 0

    def weight(self, name, shape, scale=None, value=None):
        if value is None:
            array = self.random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        else:
            array = np.full(shape, value, dtype=np.float32)
        if self.data is None or array.nbytes < 1024:
            self.initializers.append(numpy_helper.from_array(array, name))
            return name
        start = -(-self.offset // 4096) * 4096
        self.data.write(b"\0" * (start - self.offset))
        self.data.write(array.tobytes())
        self.offset = start + array.nbytes
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        fields = {"location": os.path.basename(self.data.name), "offset": start, "length": array.nbytes}
        for key, entry in fields.items():
            tensor.external_data.add(key=key, value=str(entry))
        self.initializers.append(tensor)
        return name

    def ints(self, name, values):
        self.initializers.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x, name, width, out, scale=1.0):
        weight = self.weight(f"{name}.weight", [width, out], scale / np.sqrt(width))
        bias = self.weight(f"{name}.bias", [out], 0.01)
        return self.node("Add", [self.node("MatMul", [x, weight], f"{name}.product"), bias], name)

    def norm(self, x, name, width):
        scale, bias = self.weight(f"{name}.scale", [width], value=1.0), self.weight(f"{name}.shift", [width], value=0.0)
        return self.node("LayerNormalization", [x, scale, bias], name)

    def heads(self, x, order):
        split = self.node("Reshape", [x, "to_heads"], f"{x}.split")
        return self.node("Transpose", [split], f"{x}.heads", perm=order)

    def block(self, x, name, width):
        normed = self.norm(x, f"{name}.norm1", width)
        q = self.heads(self.linear(normed, f"{name}.q", width, width, 1 / np.sqrt(np.sqrt(HEAD))), [0, 2, 1, 3])
        k = self.heads(self.linear(normed, f"{name}.k", width, width, 1 / np.sqrt(np.sqrt(HEAD))), [0, 2, 3, 1])
        v = self.heads(self.linear(normed, f"{name}.v", width, width), [0, 2, 1, 3])
        weights = self.node("Softmax", [self.node("MatMul", [q, k], f"{name}.logits")], f"{name}.attention", axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [weights, v], f"{name}.mixed")], f"{name}.joined", perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", [mixed, "from_heads"], f"{name}.features")
        x = self.node("Add", [x, self.linear(mixed, f"{name}.out", width, width)], f"{name}.attended")
        hidden = self.linear(self.norm(x, f"{name}.norm2", width), f"{name}.up", width, 4 * width)
        hidden = self.node("Relu", [hidden], f"{name}.hidden")
        return self.node("Add", [x, self.linear(hidden, f"{name}.down", 4 * width, width)], f"{name}.result")


def write(path, target):
    """Writes a model of about `target` bytes and returns how many it has."""
    width = 2048 if target < 2**31 else 2560
    blocks = max(1, round(target / (4 * PER_BLOCK * width**2)))
    external = target >= 2**31
    data = open(path + ".data", "wb") if external else None
    writer = Writer(data)
    writer.ints("to_heads", [0, 0, -1, HEAD])
    writer.ints("from_heads", [0, 0, -1])
    table = writer.weight("table", [VOCABULARY, width], 1.0)
    x = writer.node("Gather", [table, "tokens"], "embedded")
    for block in range(blocks):
        x = writer.block(x, f"block{block}", width)
    pooled = writer.node("ReduceMean", [writer.norm(x, "last", width)], "pooled", axes=[1], keepdims=0)
    logits = writer.linear(pooled, "logits", width, 10)
    graph = helper.make_graph(
        writer.nodes,
        "large",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", 10])],
        writer.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if data is not None:
        data.close()
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    return os.path.getsize(path) + (os.path.getsize(path + ".data") if external else 0)


def measure(program, model, calib, output, flags):
    report = output + ".json"
    command = [program, model, output, "--calib", calib, "--flops", "0.5", "-q", "--report", report, *flags]
    start = time.time()
    subprocess.run(command, check=True)
    seconds = time.time() - start
    with open(report, encoding="utf-8") as file:
        return json.load(file), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, required=True, help="bytes of weights, such as 1G")
    parser.add_argument("--program", required=True, help="the optin-onnx to measure")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--folder", help="where the model goes; else a temporary folder")
    parser.add_argument("--runs", default="rewrite,whole", help="which runs, separated by commas")
    parser.add_argument("--flags", default="", help="further flags of the program")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    options = parser.parse_args()
    folder = options.folder or tempfile.mkdtemp(prefix="large-")
    os.makedirs(folder, exist_ok=True)
    model, calib, output = (os.path.join(folder, name) for name in ["large.onnx", "calib.npz", "pruned.onnx"])
    try:
        bytes_ = write(model, options.size)
        tokens = np.random.default_rng(1).integers(0, VOCABULARY, (options.samples, LENGTH))
        np.savez(calib, tokens=tokens)
        runs = {"rewrite": ["--score", "magnitude", "--recover", "off"], "whole": []}
        print("run       file GB  out GB  peak GB  peak / file  seconds")
        for name in options.runs.split(","):
            report, seconds = measure(options.program, model, calib, output, runs[name] + options.flags.split())
            peak, after = report["memory"]["peak"], report["bytes"]["after"]
            figures = f"{bytes_ / 1e9:7.2f} {after / 1e9:7.2f} {peak / 1e9:8.2f} {peak / bytes_:12.2f} {seconds:8.0f}"
            print(f"{name:9} {figures}", flush=True)
            for stage in report["stages"]:
                print(f"    {stage['name']:10} {stage['seconds']:8.1f}", file=sys.stderr)
            for note in report["notes"]:
                print(f"    note: {note}", file=sys.stderr)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
