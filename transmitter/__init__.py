"""The transmitter: image to power-normalised complex symbols."""
