"""Metrics, in-process evaluation of a bundle, sweeps and figures."""
