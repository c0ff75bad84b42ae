"""The client of CommIN links, and all that a program needs to talk to one.

with commin.connect("localhost:50051") as link:
    for result in link.send(["face.jpg"], snr_db=-5):
        ...
"""

from commin.blocking import Link, configure_channel, connect, connect_async
from commin.client import AsyncLink, LinkError, configure_channel_async
from commin.results import FrameFailure, Result, Timings
from commin.transport import TLSFiles

__all__ = [
    "AsyncLink",
    "FrameFailure",
    "Link",
    "LinkError",
    "Result",
    "TLSFiles",
    "Timings",
    "configure_channel",
    "configure_channel_async",
    "connect",
    "connect_async",
]
