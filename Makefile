# make demo: try everything on drawn photographs.   make test: pass the tests.   Both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Only what the pins name, each file checked against its hash.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --constraints envs/constraints.in --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make pins"

.PHONY: setup slurm s3 jax torch export track demo report serve gpus test test-unit test-slow test-slurm test-s3 test-browser test-backends lint docs bench bench-quick pins \
	reference clean

setup: $(VENV)/.workflow

# With what submits to SLURM (docs/cluster.md), reads from object storage (docs/storage.md), computes with another backend
# of Keras (`train: {backend: jax}`), or tells MLflow and TensorBoard of trainings (`tracking`).
slurm s3 jax torch track: %: $(VENV)/.%

demo: $(VENV)/.workflow
	$(BIN)/snakemake --configfile config/demo.yaml
	@echo
	@cat results/demo/comparison/comparison.md
	@echo
	@echo "Drawn photographs, small images, $$(grep -c . results/demo/models/VGG16/history.csv | xargs -I{} expr {} - 1) epochs, no pretrained weights:"
	@echo "this shows that every stage works, not how well the networks grade."
	@echo "Results: results/demo/comparison (tables), results/demo/scores (predictions, metrics, figures), results/demo/models"

# Where the configuration has `results:`; and what else `snakemake` is to be told, such as `--configfile config/demo.yaml`.
RESULTS ?= results
ARGUMENTS ?=

# What `snakemake` made, for a browser: in one file, and in an archive that takes less space.
report: $(VENV)/.workflow
	$(BIN)/snakemake report $(ARGUMENTS)
	$(BIN)/snakemake report --report $(RESULTS)/report.html $(ARGUMENTS)
	$(BIN)/snakemake report --report $(RESULTS)/report.zip $(ARGUMENTS)

# Each trained model in the formats of other runtimes.
export: $(VENV)/.export
	$(BIN)/snakemake export $(ARGUMENTS)

# A page on this computer that grades the photographs of one patient.
serve: $(VENV)/.serve
	$(BIN)/retinaflow serve --results $(RESULTS) $(ARGUMENTS)

# Which job has which GPU of this machine, also while jobs run.
gpus: $(VENV)/.workflow
	@$(BIN)/retinaflow gpus

# Two files of tests at a time.
test: $(VENV)/.development
	$(BIN)/python -m pytest -m "not slurm and not s3 and not slow" --numprocesses 2 --dist loadfile

# Functions alone: no Snakemake, no training. Under two minutes on two cores.
test-unit: $(VENV)/.development
	$(BIN)/python -m pytest -m "not trains and not real and not slurm and not s3 and not slow" --ignore tests/workflow --numprocesses 2 --dist loadfile

# The rest: killed at random in every stage, a full disk, on one core. test-slurm and test-s3 have their slow ones, too.
test-slow: $(VENV)/.development
	$(BIN)/python -m pytest -m "slow and not slurm and not s3"

# On a SLURM that it starts itself, or skipped with the reason.
test-slurm: $(VENV)/.development $(VENV)/.slurm
	$(BIN)/python -m pytest -m slurm

# On an S3 server that it starts itself.
test-s3: $(VENV)/.development
	$(BIN)/python -m pytest -m s3

# Clicks through a report in Chromium, or is skipped where there is none. `make test` does, too.
test-browser: $(VENV)/.development
	$(BIN)/python -m pytest -m browser

# What computes with Keras, with each backend. torch is several GB.
COMPUTING := $(addprefix tests/, $(addprefix training/test_, train.py article_defects.py) $(addprefix networks/test_, building.py \
	devices.py kappa.py weights.py backends.py) $(addprefix preprocessing/test_, batches.py augmentation.py) scoring/test_score.py)
test-backends: $(VENV)/.development $(VENV)/.jax $(VENV)/.torch
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend $(BIN)/python -m pytest $(COMPUTING) || exit; done

lint: $(VENV)/.development
	$(BIN)/python -m pytest tests/test_lint.py

# The Markdown files as pages, site/docs/index.html; a link that leads nowhere is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . site

# About 25 minutes on two cores, which should do nothing else. See benchmarks/README.md.
bench: $(VENV)/.workflow
	$(BIN)/python benchmarks/run.py

# Each benchmark in seconds on few and small drawn images, to see that it works.
bench-quick: $(VENV)/.development
	$(BIN)/python -m pytest tests/benchmarks/test_quick.py

$(VENV)/.workflow: envs/requirements-workflow.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "retinaflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) envs/requirements-workflow.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.workflow envs/requirements-dev.txt
	$(INSTALL) envs/requirements-dev.txt
	@touch $@

$(addprefix $(VENV)/., slurm s3 jax torch docs export serve track): $(VENV)/.%: $(VENV)/.workflow envs/requirements-%.txt
	$(INSTALL) envs/requirements-$*.txt
	@touch $@

# Newest versions that fit together, for every supported Python: one list of pins for each extra of pyproject.toml.
pins: $(VENV)/.development
	$(COMPILE) --upgrade --extra workflow --output-file envs/requirements-workflow.txt
	for name in export serve track slurm s3 jax torch docs; do \
		$(COMPILE) --constraints envs/requirements-workflow.txt --extra workflow --extra $$name --output-file envs/requirements-$$name.txt || exit; \
	done
	for name in predict dicom; do \
		$(COMPILE) --constraints envs/requirements-export.txt --extra $$name --output-file envs/requirements-$$name.txt || exit; \
	done
	$(COMPILE) $(addprefix --constraints envs/requirements-, $(addsuffix .txt, workflow predict export serve track s3)) \
		--extra dev --output-file envs/requirements-dev.txt

# The tables of config/README.md and the JSON Schema, from the classes of the settings.
reference: $(VENV)/.workflow
	$(BIN)/retinaflow reference

clean:
	rm -rf $(VENV) .snakemake site
