"""Pages of HTML that explain runs: a run directory is read back, drawn and written as sections of one file."""

# The name of a run's own report, in its directory.
REPORT_FILE = "report.html"
