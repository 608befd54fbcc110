"""Prunes one model by several methods to the same FLOPs, and measures what is left of it.

    python benches/compare.py model.onnx calib.npz eval.npz --budgets 0.8 0.7 0.5 --labels labels

Both archives hold arrays by input name, samples along the first axis; eval.npz may hold class labels too. Every method
sees the same calibration samples, and every file's FLOPs are counted by `optin-onnx inspect`. Columns of the table:

    FLOPs      what is left of the dense model's
    accuracy   share of labels met (with --labels)
    agreement  share of rows whose largest entry is the dense model's
    KL         divergence of the output from the dense one, in nats, mean over rows; logits go through a softmax
    ms         of one batch, the median of runs that alternate with the dense model's, and its ratio to the dense median

Needs numpy, onnx and onnxruntime. With onnxsim 0.8.1 (pip install onnxsim==0.8.1) its structured pruning is measured too.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

try:
    import onnxsim
    from onnxsim.quark_fusions import fuse_gelu
except ImportError as error:
    onnxsim = None
    WITHOUT_ONNXSIM = f"onnxsim was not measured: {error} (pip install onnxsim==0.8.1)"

OURS = {
    "sketch + recovery (default)": [],
    "sketch + recovery, whole heads": ["--granularity", "head"],
    "wanda + recovery": ["--score", "wanda", "--granularity", "head"],
    "sketch": ["--recover", "off", "--granularity", "head"],
    "wanda": ["--score", "wanda", "--recover", "off", "--granularity", "head"],
    "magnitude": ["--score", "magnitude", "--recover", "off", "--granularity", "head"],
}
EXACT = {"exact OPTIN": ["--score", "exact", "--recover", "off", "--granularity", "head"]}
FUSED_GELU_OPSET = 20
BISECTIONS = 10


class Failed(Exception):
    """A method that could not prune to the budget; the message goes into its row."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.8, 0.7, 0.5], help="shares of the FLOPs to keep")
    parser.add_argument("--labels", metavar="NAME", help="the array of class labels in eval.npz")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples: the first so many")
    parser.add_argument("--limit", type=int, help="evaluation samples: the first so many")
    parser.add_argument("--batch", type=int, default=16, help="samples per run")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime, in evaluation and timing; 0 takes all")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each model")
    parser.add_argument("--exact", action="store_true", help="measure exact OPTIN scores too: one masked run per unit")
    parser.add_argument("--binary", default="target/release/optin-onnx")
    return parser.parse_args()


# Data


def first(archive, count, names=None):
    """The first samples of the named arrays (all arrays, if none are named)."""
    with np.load(archive) as arrays:
        return {name: arrays[name][:count] for name in names or arrays.files}


def batches(arrays, size):
    """The samples in runs of `size`."""
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + size] for name, array in arrays.items()} for i in range(0, count, size)]


# Measuring


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def log_probabilities(model, feeds):
    """Of the first output, shape [rows, classes]; it may hold logits or probabilities."""
    name = model.get_outputs()[0].name
    output = np.concatenate([model.run([name], feed)[0] for feed in feeds]).astype(np.float64)
    rows = output.reshape(-1, output.shape[-1])
    if rows.min() >= 0 and np.allclose(rows.sum(-1), 1, atol=1e-3):
        return np.log(np.maximum(rows, 1e-12))
    shifted = rows - rows.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def milliseconds(models, feed, rounds):
    """Median time of each model on one batch; the models take turns, so that other load meets all of them."""
    times = [[] for _ in models]
    for _ in range(rounds + 1):
        for model, taken in zip(models, times):
            start = time.perf_counter()
            model.run(None, feed)
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken[1:]) for taken in times]  # the first run warms up


class Bench:
    """The dense model, and what a pruned one is measured against."""

    def __init__(self, args, calib):
        self.args, self.calib = args, calib
        self.dense = session(args.model, args.threads)
        self.feeds = batches(first(args.eval, args.limit, [i.name for i in self.dense.get_inputs()]), args.batch)
        self.labels = first(args.eval, args.limit, [args.labels])[args.labels].ravel() if args.labels else None
        self.expected = log_probabilities(self.dense, self.feeds)
        self.flops = self.count_flops(args.model)

    def count_flops(self, path):
        """FLOPs of one calibration sample."""
        command = [self.args.binary, "inspect", path, "--json", "--calib", self.calib, "--samples", "1"]
        return json.loads(run(command))["flops"]["total"]

    def row(self, method, budget, path):
        """Everything about one file, as a row of the table."""
        model = session(path, self.args.threads)
        found = log_probabilities(model, self.feeds)
        classes = found.argmax(-1)
        accuracy = "" if self.labels is None else f"{np.mean(classes == self.labels):.4f}"
        agreement = np.mean(classes == self.expected.argmax(-1))
        divergence = np.mean((np.exp(self.expected) * (self.expected - found)).sum(-1))
        dense, pruned = milliseconds([self.dense, model], self.feeds[0], self.args.rounds)
        flops = self.count_flops(path) / self.flops
        return (
            f"| {method} | {budget:g} | {flops:.3f} | {accuracy} | {agreement:.4f} | {divergence:.4f} "
            f"| {pruned:.1f} ({pruned / dense:.2f}) |"
        )


# Pruning


def run(command):
    """What a command prints; its complaint as an exception, if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(" ".join(done.stderr.split()))
    return done.stdout


class Ours:
    """A way to call optin-onnx: scores once, then plans every budget from those scores."""

    def __init__(self, bench, options, scores):
        self.bench, self.options, self.scores = bench, options, scores

    def prune(self, budget, output):
        args = self.bench.args
        scores = ["--scores" if self.scores.exists() else "--save-scores", self.scores]
        command = [args.binary, args.model, output, "--flops", budget, "--calib", self.bench.calib, "--quiet"]
        run(command + ["--samples", args.samples] + self.options + scores)


class Onnxsim:
    """onnxsim's pruning by wanda, then its ridge regression; opset 20 with one Gelu operator, or it matches no FFN."""

    def __init__(self, bench):
        self.bench = bench
        dense = onnx.load(bench.args.model)
        opset = next(o.version for o in dense.opset_import if o.domain in ("", "ai.onnx"))
        if opset < FUSED_GELU_OPSET:
            dense = onnx.version_converter.convert_version(dense, FUSED_GELU_OPSET)
        self.model = fuse_gelu(dense, style="ort")
        self.feeds = batches(first(bench.calib, None), bench.args.batch)

    def cut(self, sparsity, feeds):
        """Removes a share of the channels, and of the heads, of every layer that is matched."""
        model = onnxsim.apply_structured_wanda_pruning(self.model, calibration_data=feeds, sparsity=sparsity)
        return onnxsim.apply_attention_head_wanda_pruning(model, calibration_data=feeds, sparsity=sparsity)

    def sparsity(self, budget, scratch):
        """The least sparsity that meets the budget. How much goes depends on no data: one batch is enough here."""
        low, high = 0.0, 1 - 2.0**-BISECTIONS  # 1 is refused
        for step in range(BISECTIONS + 1):
            middle = (low + high) / 2 if step else high
            onnx.save(self.cut(middle, self.feeds[:1]), scratch)
            left = self.bench.count_flops(scratch) / self.bench.flops
            if step == 0 and left > budget:
                raise Failed(f"can go down to {left:.3f}")
            low, high = (low, middle) if left <= budget else (middle, high)
        return high

    def prune(self, budget, output):
        try:
            pruned = self.cut(self.sparsity(budget, output), self.feeds)
            onnx.save(onnxsim.apply_pruning_finetune(self.model, pruned, calibration_data=self.feeds), output)
        except (RuntimeError, ValueError) as error:
            raise Failed(" ".join(str(error).split())) from error


def methods(bench, folder):
    """All methods by name; their scores are kept in `folder`."""
    named = OURS | EXACT if bench.args.exact else OURS
    found = {name: Ours(bench, options, folder / f"{i}.json") for i, (name, options) in enumerate(named.items())}
    if onnxsim is not None:
        found[f"onnxsim {onnxsim.__version__.lstrip('v')}, wanda + ridge"] = Onnxsim(bench)
    return found


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calib, output = folder / "calib.npz", folder / "pruned.onnx"
        np.savez(calib, **first(args.calib, args.samples))
        bench = Bench(args, calib)
        print("| method | budget | FLOPs | accuracy | agreement | KL | ms |\n|---|---|---|---|---|---|---|")
        print(bench.row("dense", 1, args.model), flush=True)
        ways = methods(bench, folder)
        for budget in args.budgets:
            for method, way in ways.items():
                try:
                    way.prune(budget, output)
                    print(bench.row(method, budget, output), flush=True)
                except Failed as reason:
                    print(f"| {method} | {budget:g} | {reason} | | | | |", flush=True)
    if onnxsim is None:
        print(f"\n{WITHOUT_ONNXSIM}")


if __name__ == "__main__":
    main()
