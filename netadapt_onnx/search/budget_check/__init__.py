"""Whether a model is within a budget that cannot be counted: predicted by a table, measured beside the original."""
