"""Seeded campaigns of odd and damaged input against the command line: `python -m tests.fuzz --help`."""
