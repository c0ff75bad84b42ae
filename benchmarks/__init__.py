"""Measurements against a stated reference, one script each."""
