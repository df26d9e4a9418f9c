"""What every layer stands on: it knows nothing of models, searches or commands."""
