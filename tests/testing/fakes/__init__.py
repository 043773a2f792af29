"""Deliberately wrong methods and model families, one fault each: what the conformance kit must find."""
