#!/usr/bin/env bash
# Makes .runtime/, a Python environment that gives the tests ONNX Runtime's library, the onnx checker, Pillow, tokenizers
# and a validator of JSON Schema.
# Does nothing when the environment already holds the pinned packages. PYTHON chooses the interpreter (3.11 or later).
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements=tests/setup/requirements.txt
stamp=.runtime/requirements.txt
cmp --silent "$requirements" "$stamp" && exit 0

"${PYTHON:-python3}" -m venv --clear .runtime
.runtime/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
cp "$requirements" "$stamp" # last, so that an interrupted run starts over
