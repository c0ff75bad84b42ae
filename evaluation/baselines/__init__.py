"""Classical schemes to compare with."""
