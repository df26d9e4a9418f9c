"""Budgets of model files in CI: `gate` checks them, `diff` lists what changed.

The package has another name than `gate`, which is the function.
"""
