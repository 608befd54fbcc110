"""What exchanging units would gain over eliminating them one by one, in the products of a model.

    python benches/rearrange.py model.onnx calib.npz --nodes fc2 --keep 0.5

For each MatMul with a constant weight whose result's name matches --nodes: half of what it sums over is eliminated by optimal
brain surgery; then, again and again, the eliminated entry that would help most comes back and the entry that is missed least
goes, until that changes nothing. Prints the mean square that is lost with the others refitted, relative to the result's
variance, before and after. Needs numpy, onnx and onnxruntime.
"""

import argparse
import re

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

RIDGE = 1e-2
MOST_EXCHANGES = 200
ROWS = 8192


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calib")
    parser.add_argument("--nodes", default=".", help="regular expression on the names of results")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the entries to keep")
    parser.add_argument("--samples", type=int, default=64)
    return parser.parse_args()


def products(model, pattern):
    """Operand, weight and result of each matching product."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and re.search(pattern, node.output[0]):
            yield node.input[0], numpy_helper.to_array(weights[node.input[1]]).astype(np.float64), node.output[0]


def observe(model, names, calib, samples):
    """Rows of some values, over all samples."""
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = {name: [] for name in names}
    with np.load(calib) as data:
        arrays = {name: data[name][:samples] for name in data.files}
    for start in range(0, samples, 16):
        feed = {name: array[start : start + 16] for name, array in arrays.items()}
        for name, value in zip(names, session.run(names, feed)):
            rows[name].append(value.reshape(-1, value.shape[-1]))
    stacked = {name: np.concatenate(parts) for name, parts in rows.items()}
    pick = np.random.default_rng(0)
    return {n: x[pick.permutation(len(x))[:ROWS]].astype(np.float64) for n, x in stacked.items()}


def eliminate(covariance, weight, count):
    """The entries that are left when the one that is missed least goes, `count` times, and all others are refitted."""
    inverse, weight = np.linalg.inv(covariance), weight.copy()
    alive = np.ones(len(weight), bool)
    for _ in range(count):
        cost = np.where(alive, (weight**2).sum(1) / np.maximum(np.diag(inverse), 1e-300), np.inf)
        gone = int(cost.argmin())
        column = inverse[:, gone] / inverse[gone, gone]
        weight -= np.outer(column, weight[gone])
        inverse -= np.outer(column, inverse[gone])
        alive[gone] = False
    return alive


def refit(covariance, target, kept):
    """Inverse covariance of the kept entries, their weights, and what of the target's energy they explain."""
    inverse = np.linalg.inv(covariance[np.ix_(kept, kept)])
    weight = inverse @ target[kept]
    return inverse, weight, (target[kept] * weight).sum()


def exchange(covariance, target, alive):
    """Exchanges entries for as long as that helps; returns how many exchanges there were."""
    for done in range(MOST_EXCHANGES):
        kept, gone = np.flatnonzero(alive), np.flatnonzero(~alive)
        inverse, weight, _ = refit(covariance, target, kept)
        across = covariance[np.ix_(gone, kept)]
        missing = target[gone] - across @ weight
        left = np.diag(covariance)[gone] - ((across @ inverse) * across).sum(1)
        back = gone[((missing**2).sum(1) / left).argmax()]
        alive[back] = True
        kept = np.flatnonzero(alive)
        inverse, weight, _ = refit(covariance, target, kept)
        out = kept[((weight**2).sum(1) / np.diag(inverse)).argmin()]
        alive[out] = False
        if out == back:
            return done
    return MOST_EXCHANGES


def main():
    options = arguments()
    model = onnx.load(options.model)
    found = list(products(model, options.nodes))
    rows = observe(model, sorted({operand for operand, _, _ in found}), options.calib, options.samples)
    for operand, weight, result in found:
        x = rows[operand] - rows[operand].mean(0)
        covariance = x.T @ x / len(x)
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        target = covariance @ weight
        energy = (weight * target).sum()
        alive = eliminate(covariance, weight, round((1 - options.keep) * len(weight)))
        before = 1 - refit(covariance, target, np.flatnonzero(alive))[2] / energy
        exchanges = exchange(covariance, target, alive)
        after = 1 - refit(covariance, target, np.flatnonzero(alive))[2] / energy
        print(f"{result}: {before:.4f} -> {after:.4f} by {exchanges} exchanges ({1 - after / before:.1%} less)")


if __name__ == "__main__":
    main()
