"""Importance of units and layers: scorers, priors, normalizers."""
