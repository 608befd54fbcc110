# make test      sets up .runtime/ (ONNX Runtime, the onnx checker) once and runs all tests
# make check     what has to hold before a merge: format, lints, documentation, tests
# make coverage  prunes the models of MODELS (folders) and the fixtures, and writes COVERAGE.md
# make fixtures  trains and exports the models in fixtures/ anew (see fixtures/README.md)

VENV_PYTHON := .runtime/bin/python
# An interpreter with PyTorch: Debian's, with its package python3-torch.
TORCH_PYTHON ?= /usr/bin/python3
FIXTURES := fixtures/vit.onnx fixtures/cnn.onnx
# Folders of models to measure, besides the fixtures.
MODELS ?=

.PHONY: test check coverage runtime fixtures

ORT := ORT_DYLIB_PATH=$$(echo $(CURDIR)/.runtime/lib/python*/site-packages/onnxruntime/capi/libonnxruntime.*)

# The same random inputs on every run, so that what is merged does not depend on luck; cargo test alone draws new ones.
test: runtime
	$(ORT) \
	PROPTEST_RNG_SEED=1 \
	OPTIN_REQUIRE_ORT=1 \
	OPTIN_PYTHON=$(CURDIR)/$(VENV_PYTHON) \
	cargo test --release --locked

# Lints and documentation share one metadata build of the dependencies; the tests build them in full.
check:
	cargo fmt --check
	cargo clippy --release --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --locked
	$(MAKE) test

coverage: runtime
	$(ORT) cargo run --release --locked --example coverage -- $(MODELS)

runtime:
	tests/setup/python.sh

fixtures: runtime
	$(TORCH_PYTHON) fixtures/make_data.py
	$(TORCH_PYTHON) fixtures/train_vit.py
	$(TORCH_PYTHON) fixtures/train_cnn.py
	$(VENV_PYTHON) fixtures/check_export.py $(FIXTURES)
	$(VENV_PYTHON) fixtures/accuracy.py $(FIXTURES)
