"""Torch building blocks that the encoder, the decoder and the INN share."""
