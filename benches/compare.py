"""Prunes one model in several ways to the same budgets, and measures what is left of it.

    python benches/compare.py model.onnx calib.npz eval.npz --budgets 0.8 0.7 0.5 --labels labels

`eval.npz` holds arrays by input name, and may hold class labels. Printed are, for each way and budget, the accuracy (with
labels), how often the pruned model's class is the dense model's, the divergence of its outputs from the dense ones, and how
much faster it is. Needs numpy and onnxruntime.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

WAYS = {
    "sketch + recovery (default)": ["--score", "sketch"],
    "sketch": ["--score", "sketch", "--recover", "off"],
    "wanda + recovery": ["--score", "wanda"],
    "wanda": ["--score", "wanda", "--recover", "off"],
    "magnitude": ["--score", "magnitude", "--recover", "off"],
    "exact": ["--score", "exact", "--recover", "off"],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("--budgets", nargs="+", default=["0.8", "0.7", "0.5"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[way for way in WAYS if way != "exact"])
    parser.add_argument("--labels", help="name of the array of class labels in eval.npz")
    parser.add_argument("--samples", default="128", help="calibration samples")
    parser.add_argument("--limit", type=int, help="evaluation samples")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--binary", default="target/release/optin-onnx")
    return parser.parse_args()


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model, inputs, batch):
    """The first output over all samples."""
    count = len(next(iter(inputs.values())))
    parts = [{k: v[i : i + batch] for k, v in inputs.items()} for i in range(0, count, batch)]
    return np.concatenate([model.run(None, part)[0] for part in parts])


def log_probabilities(scores):
    """Logarithms of class probabilities; the scores may be probabilities already."""
    if scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def speed_up(dense, pruned, inputs, batch, rounds=9):
    """Time of the dense model over that of the pruned one: medians of interleaved runs of one batch."""
    feed = {k: v[:batch] for k, v in inputs.items()}
    times = {dense: [], pruned: []}
    for _ in range(rounds):
        for model, taken in times.items():
            start = time.perf_counter()
            model.run(None, feed)
            taken.append(time.perf_counter() - start)
    return statistics.median(times[dense]) / statistics.median(times[pruned])


def prune(args, way, budget, scores, output):
    """Prunes by the scores of an earlier budget, if there are any; whether it could be done."""
    command = [args.binary, args.model, output, "--flops", budget, "--calib", args.calib, "--samples", args.samples]
    command += WAYS[way] + ["--quiet", "--scores" if scores.exists() else "--save-scores", scores]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"| {way} | {budget} | {done.stderr.strip()} |")
    return done.returncode == 0


def main():
    args = arguments()
    data = np.load(args.eval)
    dense = session(args.model)
    inputs = {i.name: data[i.name][: args.limit] for i in dense.get_inputs()}
    labels = data[args.labels][: args.limit] if args.labels else None
    expected = log_probabilities(run(dense, inputs, args.batch))
    accuracy = lambda scores: f"{np.mean(scores.argmax(-1) == labels):.4f}" if labels is not None else ""
    print("| way | FLOPs | accuracy | agreement | divergence | speed-up |\n|---|---|---|---|---|---|")
    print(f"| dense | 1 | {accuracy(expected)} | 1 | 0 | 1 |")
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(args.ways):
            for budget in args.budgets:
                output = Path(folder) / "pruned.onnx"
                if not prune(args, way, budget, Path(folder) / f"{number}.json", output):
                    continue
                pruned = session(output)
                found = log_probabilities(run(pruned, inputs, args.batch))
                agreement = np.mean(found.argmax(-1) == expected.argmax(-1))
                divergence = np.mean((np.exp(expected) * (expected - found)).sum(-1))
                faster = speed_up(dense, pruned, inputs, args.batch)
                row = f"| {way} | {budget} | {accuracy(found)} | {agreement:.3f} | {divergence:.4f} | {faster:.2f}× |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
