"""Devices that only a person can reach: a zip to carry there, and a table of what comes back."""
