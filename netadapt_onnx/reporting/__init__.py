"""Runs explained in one file."""

# What a run's own report is called, in its directory.
REPORT_FILE = "report.html"
