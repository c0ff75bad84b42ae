"""Checks of what a client chose for a frame."""

from __future__ import annotations

from commin.v1 import frame_pb2
from shared.errors import invalid, precondition

SNR = "options.channel.snr_db"
TOLD_SNR = "options.link.told_snr_db"
SEED = "options.link.seed"
BUNDLE = "options.link.bundle"
CODEC = "options.link.codec_digest"
TIMEOUT = "options.link.timeout_seconds"


def check_snr(field: str, snr_db: float, limits: tuple[float, float], whose: str) -> float:
    """The SNR, if it is a number within the limits, dB.

    Raises:
        FrameError: If it is not.
    """
    low, high = limits
    if not low <= snr_db <= high:  # NaN is not
        raise invalid(field, f"{snr_db:g} dB, {whose} takes {low:g} to {high:g} dB")
    return snr_db


def timeout_seconds(
    options: frame_pb2.FrameOptions, default_seconds: float, longest_seconds: float
) -> float:
    """What the frame may take, in seconds.

    Raises:
        FrameError: If the client asked for none or for too much.
    """
    if not options.link.HasField("timeout_seconds"):
        return default_seconds
    seconds = options.link.timeout_seconds
    if not 0 < seconds <= longest_seconds:
        raise invalid(TIMEOUT, f"{seconds:g} s, expected more than 0 up to {longest_seconds:g} s")
    return seconds


def check_bundle(options: frame_pb2.FrameOptions, name: str, codec_digest: str, who: str) -> None:
    """Makes sure that the frame is meant for the weights that are loaded.

    Raises:
        FrameError: If it is meant for others.
    """
    link = options.link
    if link.HasField("bundle") and link.bundle != name:
        raise precondition(BUNDLE, f"{link.bundle!r} is asked for, the {who} has {name!r} loaded")
    if link.HasField("codec_digest") and link.codec_digest != codec_digest:
        raise precondition(
            CODEC,
            f"encoder and decoder {link.codec_digest[:12]!r} are asked for, "
            f"the {who} has {codec_digest[:12]!r} loaded",
        )


def require_link_options(link: frame_pb2.LinkOptions) -> None:
    """Makes sure that the transmitter has set what the services behind it rely on.

    Raises:
        FrameError: If it has not.
    """
    if not link.HasField("seed"):
        raise invalid(SEED, "not set; a transmitter sets it")
    if not link.HasField("told_snr_db"):
        raise invalid(TOLD_SNR, "not set; a transmitter sets it")
