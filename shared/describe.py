"""What services tell about themselves."""

from __future__ import annotations

from commin.v1 import describe_pb2
from shared.bundle import Bundle


def describe_bundle(bundle: Bundle) -> describe_pb2.BundleDescription:
    """The bundle as Describe calls report it."""
    manifest = bundle.manifest
    architecture = manifest.jscc.architecture
    low, high = manifest.snr_range_db
    return describe_pb2.BundleDescription(
        name=manifest.name,
        image_size=architecture.image_size,
        symbols=architecture.symbols,
        bandwidth_ratio=architecture.bandwidth_ratio,
        power=manifest.power,
        snr_range=describe_pb2.SnrRange(min_db=low, max_db=high),
        codec_digest=bundle.codec_digest,
    )
