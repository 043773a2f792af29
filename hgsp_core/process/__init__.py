"""Processes: fresh ones, launched ones, and how one is stopped."""
