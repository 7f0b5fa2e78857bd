# Everything a person or a CI does here; `make` lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# ONNX Runtime's wheels keep a database of events in the user's folder and send it to their maker.
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3.11
BIN := .venv/bin
NAME ?=
MODEL ?= digits_classifier
EVERY ?= 1
# A file's tests share what they set up, so they stay in one process.
TWO := --numprocesses 2 --dist loadfile

.PHONY: help install up down status logs demo demo-rollback show-overhead show-exports show-gates show-chaos show-canary show-race show-publish show-reload show-fleet show-backfill show-parse show-batching show-tuner show-router show-repeatability test test-fast lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed .venv-triton/.installed ## .venv and .venv-triton, from the locks; nothing to do when they are as the locks say

.venv/.installed: requirements.lock requirements-dev.lock requirements-sandbox.lock pyproject.toml scripts/install
	@scripts/install project "$(PYTHON)"

.venv-triton/.installed: requirements-triton.lock scripts/install
	@scripts/install triton "$(PYTHON)"

.venv-analyzer/.installed: requirements-analyzer.lock scripts/install
	@scripts/install analyzer "$(PYTHON)"

up: install ## start the sandbox: S3, Tritons, Envoy, traffic, Airflow
	@$(BIN)/python -m sandbox up

down: ## stop all of it; its state stays in .sandbox
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m sandbox down; fi

status: install ## what runs, its memory and address
	@$(BIN)/python -m sandbox status

logs: install ## the last lines of all logs, or of one: make logs NAME=envoy
	@$(BIN)/python -m sandbox logs $(NAME)

demo: up ## a first release, then a retrained model through a 10/50/100 % canary
	@$(BIN)/python -m sandbox.demo --model $(MODEL)

demo-rollback: up ## a broken candidate is stopped: by the canary, or by validate with MODEL=embedding_model or text_classifier
	@$(BIN)/python -m sandbox.demo --model $(MODEL) --broken

test: install ## every tier of tests, the fastest first
	@echo "== architecture"; $(BIN)/python -m pytest -q tests/architecture
	@for tier in unit models dags sandbox; do echo "== $$tier"; $(BIN)/python -m pytest -q $(TWO) "tests/$$tier"; done

test-fast: install ## unit and architecture tests alone
	@$(BIN)/python -m pytest -q $(TWO) tests/unit tests/architecture

lint: install ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install ## let ruff write the files as it wants them
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: install ## write the locks anew from requirements*.txt
	@scripts/lock

clean: down ## remove the state of the sandbox
	@rm -rf .sandbox

show-exports: install ## real architectures exported and proved, and what is refused: docs/exports.md (minutes)
	@$(BIN)/python -m sandbox.exports

show-chaos: install ## a release killed at every instant, its S3 failing at every request (an hour or more; EVERY=9 is a ninth)
	@$(BIN)/python -m tests.sandbox.chaos --every $(EVERY)

show-canary: install ## a canary under live traffic: errors, slowness, kills, an outage of the metrics, a hang: docs/canary.md (20 minutes)
	@$(BIN)/python -m tests.sandbox.canary

show-publish: up ## sealing 1 GB against `aws s3 cp` of the same files, and the bytes of a deploy
	@$(BIN)/python -m sandbox.show_publish

show-batching: install ## dynamic batching on against off, and Triton against FastAPI: docs/benchmark-measured.md (minutes)
	@$(BIN)/python -m sandbox.show_benchmarks batching

show-tuner: install .venv-analyzer/.installed ## the tuner, and NVIDIA's Model Analyzer, against brute force: the same page (an hour)
	@$(BIN)/python -m sandbox.show_benchmarks tuner

show-router: install ## what Envoy costs: the same page
	@$(BIN)/python -m sandbox.show_benchmarks router

show-repeatability: install ## the same tuning five times: the same page
	@$(BIN)/python -m sandbox.show_benchmarks repeatability

show-gates: install ## the gates against simulated traffic, beside other rules: docs/gates.md (minutes)
	@$(BIN)/python -m sandbox.show_gates

show-overhead: up ## the DAG's wall time against the same release from the command line
	@$(BIN)/python -m sandbox.show_overhead

show-backfill: up ## by REST: releases of past dates, then backfills back to them: seconds to 100 %, with and without a warm standby
	@$(BIN)/python -m sandbox.show_backfill

show-parse: install ## Airflow's parse of the DAG file with 1, 20 and 200 models, one bad config among them
	@$(BIN)/python -m sandbox.show_parse

show-race: up ## eight processes publish, deploy and restore one model for a minute: one holds it at any time
	@$(BIN)/python -m sandbox.show_race

show-reload: install ## reloading every replica against one bare load call; swaps, a restore, a rollback under load: docs/reload.md (minutes)
	@$(BIN)/python -m tests.sandbox.reload

show-fleet: install ## two models on a fleet, one bad in five ways under the clients of the other: docs/bad-versions.md (minutes)
	@$(BIN)/python -m tests.sandbox.bad_versions
