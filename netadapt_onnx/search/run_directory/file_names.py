"""The names of the files in a run directory."""

from __future__ import annotations

IDENTITY_FILE, JOURNAL_FILE, HISTORY_FILE, RESULT_FILE = "run.json", "journal.jsonl", "history.jsonl", "result.json"
# The model of the run, and that of an iteration or of a proposal in its own folder.
MODEL_FILE = "model.onnx"
ITERATIONS = "iterations"
# Of an iteration: the channels of the original that it kept, and the plan that repeats its cut.
KEPT_FILE, PLAN_FILE = "kept.json", "plan.toml"
