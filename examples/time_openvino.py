"""Prints how many milliseconds OpenVINO takes for one run of an ONNX model, for --measure-with:

    optin-onnx in.onnx out.onnx --latency 0.6 --measure-with "python examples/time_openvino.py {model}"

Needs the packages openvino and numpy. Options: --device CPU, --threads 1, --seconds 0.5."""

import argparse
import statistics
import time

import numpy as np
import openvino


def numbers(port, random):
    """Random numbers for an input; zeros where it takes whole numbers, which may be places in a table."""
    shape = [1 if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape()]
    dtype = port.get_element_type().to_dtype()
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5)
    asked = parser.parse_args()

    hints = {"PERFORMANCE_HINT": "LATENCY"}
    if asked.device == "CPU":
        hints["INFERENCE_NUM_THREADS"] = asked.threads
    compiled = openvino.Core().compile_model(asked.model, asked.device, hints)
    request, random = compiled.create_infer_request(), np.random.default_rng(0)
    request.infer({port: numbers(port, random) for port in compiled.inputs})

    # Of each block of runs the least, and of those the median: what disturbs a run makes it longer.
    blocks, start = [], time.perf_counter()
    while len(blocks) < 3 or time.perf_counter() - start < asked.seconds:
        runs = []
        for _ in range(5):
            before = time.perf_counter()
            request.infer()
            runs.append(time.perf_counter() - before)
        blocks.append(min(runs))
    print(1e3 * statistics.median(blocks))


if __name__ == "__main__":
    main()
