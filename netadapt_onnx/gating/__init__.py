"""Budgets of model files in CI: `gate` judges them, `diff` says what changed. Named so that `gate` is the function."""
