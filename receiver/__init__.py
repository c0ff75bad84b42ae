"""The receiver: noisy symbols to a decoded and a restored image."""
