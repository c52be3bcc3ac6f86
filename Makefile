# make demo: try everything on synthetic images.   make test: run the tests.   Both set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extras that add to the packages of the workflow.
EXTRAS := export serve track slurm s3 jax torch docs audit
# Install only pinned packages, and check each file against its hash.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --constraints envs/constraints.in --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make pins"

.PHONY: setup dicom slurm s3 jax torch export track demo report serve gpus test test-unit test-slow test-slurm test-s3 test-browser test-backends tutorials lint docs bench bench-quick pins \
	reference audit clean

setup: $(VENV)/.workflow

# Install optional packages. They submit jobs to SLURM (docs/cluster.md), read from object storage (docs/storage.md), replace the
# backend of Keras (`train: {backend: jax}`), record training runs in MLflow and TensorBoard (`tracking`),
# or read DICOM files (docs/own-data.md).
dicom slurm s3 jax torch track: %: $(VENV)/.%

demo: $(VENV)/.workflow
	$(BIN)/snakemake --configfile config/demo.yaml
	@echo
	@echo "Synthetic images, small size, $$(grep -c . results/demo/models/VGG16/history.csv | xargs -I{} expr {} - 1) epochs, no pretrained weights:"
	@echo "this run shows that every stage works, not how well the networks grade."
	@echo "Results: results/demo/comparison (all metrics: comparison.md), results/demo/scores (predictions, metrics, figures),"
	@echo "results/demo/models"

# The results folder of the configuration, and other arguments for `snakemake`, such as `--configfile config/demo.yaml`.
RESULTS ?= results
ARGUMENTS ?=

# Show the results of `snakemake` in a browser: as one file, and as a smaller archive.
report: $(VENV)/.workflow
	$(BIN)/snakemake report $(ARGUMENTS)
	$(BIN)/snakemake report --report $(RESULTS)/report.html $(ARGUMENTS)
	$(BIN)/snakemake report --report $(RESULTS)/report.zip $(ARGUMENTS)

# Write each trained model in the formats of other runtimes.
export: $(VENV)/.export
	$(BIN)/snakemake export $(ARGUMENTS)

# Open a page on this computer that grades the images of one patient.
serve: $(VENV)/.serve
	$(BIN)/retinaflow serve --results $(RESULTS) $(ARGUMENTS)

# Show the job that uses each GPU of this machine.
gpus: $(VENV)/.workflow
	@$(BIN)/retinaflow gpus

# Run all but the slow tests, two files at a time.
test: $(VENV)/.development
	$(BIN)/python -m pytest -m "not slurm and not s3 and not slow" --numprocesses 2 --dist loadfile

# Test only functions, without Snakemake and training, in less than two minutes on two cores.
test-unit: $(VENV)/.development
	$(BIN)/python -m pytest -m "not trains and not real and not slurm and not s3 and not slow" --ignore tests/workflow --numprocesses 2 --dist loadfile

# Run the slow tests: random kills in every stage, a full disk, one core. test-slurm and test-s3 include their slow tests.
test-slow: $(VENV)/.development
	$(BIN)/python -m pytest -m "slow and not slurm and not s3"

# Test with a SLURM that the tests start. Without SLURM, they are skipped with the reason.
test-slurm: $(VENV)/.development $(VENV)/.slurm
	$(BIN)/python -m pytest -m slurm

# Test with an S3 server that the tests start.
test-s3: $(VENV)/.development
	$(BIN)/python -m pytest -m s3

# Test a report in Chromium. Without Chromium, the tests are skipped. `make test` includes them.
test-browser: $(VENV)/.development
	$(BIN)/python -m pytest -m browser

# Run the tests that use Keras with each backend. The torch package has several GB.
COMPUTING := $(addprefix tests/, $(addprefix training/test_, train.py article_defects.py) $(addprefix networks/test_, building.py \
	devices.py kappa.py weights.py backends.py) $(addprefix preprocessing/test_, batches.py augmentation.py) scoring/test_score.py)
test-backends: $(VENV)/.development $(VENV)/.jax $(VENV)/.torch
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend $(BIN)/python -m pytest $(COMPUTING) || exit; done

# Run the commands of the tutorials with a small network. `make test` includes them, without the dry run for SLURM.
tutorials: $(VENV)/.development $(VENV)/.slurm
	$(BIN)/python -m pytest tests/workflow/test_tutorials.py

lint: $(VENV)/.development
	$(BIN)/python -m pytest tests/test_lint.py

# Convert the Markdown files to web pages, site/docs/index.html, with search. A broken link is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . site
	@! grep -rlE '<(script|link|img)[^>]+(src|href)="https?:' site --include='*.html' || \
		{ echo "These pages load from the internet. The site must be readable from a disk."; exit 1; }

# List known vulnerabilities of all pinned packages, and write a bill of materials (CycloneDX) for each list of pins.
# The bills need no network. pip-audit asks pypi.org, and names a package as the cause if that does not answer.
audit: $(VENV)/.audit
	mkdir -p $(RESULTS)/audit
	for list in envs/requirements-*.txt; do \
		$(BIN)/cyclonedx-py requirements $$list --pyproject pyproject.toml --output-reproducible \
			--output-file $(RESULTS)/audit/$$(basename $$list .txt).cdx.json || exit; \
	done
	@$(BIN)/python -c 'import json, urllib.request as r; json.load(r.urlopen("https://pypi.org/pypi/pip/json", timeout=30))["vulnerabilities"]' \
		2>/dev/null || { echo "The bills of materials are in $(RESULTS)/audit. No vulnerabilities were looked up: https://pypi.org/pypi/pip/json" \
		"does not answer. Run make audit on a computer that reaches it."; exit 1; }
	for list in envs/requirements-*.txt; do \
		echo $$list; $(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement $$list || failed=1; \
	done; exit $${failed:-0}

# Run all benchmarks in about 25 minutes on two idle cores. See benchmarks/README.md.
bench: $(VENV)/.workflow
	$(BIN)/python benchmarks/run.py

# Run each benchmark in seconds on a few small synthetic images, to test it.
bench-quick: $(VENV)/.development
	$(BIN)/python -m pytest tests/benchmarks/test_quick.py

$(VENV)/.workflow: envs/requirements-workflow.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "retinaflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another one: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) envs/requirements-workflow.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.workflow envs/requirements-dev.txt
	$(INSTALL) envs/requirements-dev.txt
	@touch $@

$(addprefix $(VENV)/., dicom $(EXTRAS)): $(VENV)/.%: $(VENV)/.workflow envs/requirements-%.txt
	$(INSTALL) envs/requirements-$*.txt
	@touch $@

# Pin the newest compatible versions for every supported Python, in one list for each extra of pyproject.toml.
pins: $(VENV)/.development
	$(COMPILE) --upgrade --extra workflow --output-file envs/requirements-workflow.txt
	for name in $(EXTRAS); do \
		$(COMPILE) --constraints envs/requirements-workflow.txt --extra workflow --extra $$name --output-file envs/requirements-$$name.txt || exit; \
	done
	for name in predict dicom; do \
		$(COMPILE) --constraints envs/requirements-export.txt --extra $$name --output-file envs/requirements-$$name.txt || exit; \
	done
	$(COMPILE) $(addprefix --constraints envs/requirements-, $(addsuffix .txt, workflow predict dicom export serve track s3)) \
		--extra dev --output-file envs/requirements-dev.txt

# Generate the tables of config/README.md and the JSON Schema from the classes of the settings, and pages of docs/.
reference: $(VENV)/.development
	$(BIN)/retinaflow reference
	$(BIN)/python docs/reference.py

clean:
	rm -rf $(VENV) .snakemake site
