"""The transmitter's side of the link: what lies behind it, and each frame's link options."""

from __future__ import annotations

import logging
import math

import grpc

from commin.backoff import Backoff
from commin.hops import PropagateRequest, propagate_stub
from commin.transport import open_channel
from commin.v1 import channel_pb2, channel_pb2_grpc, frame_pb2
from shared.bundle import Bundle
from shared.errors import FrameError, invalid, unavailable
from shared.options import SNR, TOLD_SNR, check_bundle, check_snr
from transmitter.settings import TransmitterSettings

log = logging.getLogger(__name__)

DESCRIBE_SECONDS = 5.0


class Link:
    """The channel behind the transmitter."""

    def __init__(self, settings: TransmitterSettings) -> None:
        self.target = settings.channel
        self._connection = open_channel(
            settings.channel,
            settings.channel_tls,
            max_message_bytes=settings.max_message_bytes,
            keepalive_seconds=settings.keepalive_seconds,
        )
        self._stub = channel_pb2_grpc.ChannelServiceStub(self._connection)
        self._propagate = propagate_stub(self._connection)

    def propagate(
        self, metadata: tuple[tuple[str, str], ...]
    ) -> grpc.aio.StreamStreamCall[PropagateRequest, channel_pb2.PropagateResponse]:
        """Opens a session with the channel."""
        call: grpc.aio.StreamStreamCall[PropagateRequest, channel_pb2.PropagateResponse]
        call = self._propagate(metadata=metadata)
        return call

    async def describe(
        self, channel_only: bool = False
    ) -> channel_pb2.ChannelServiceDescribeResponse:
        """Asks the channel what it and the receiver are.

        Raises:
            FrameError: If there is no answer in time.
        """
        request = channel_pb2.ChannelServiceDescribeRequest(channel_only=channel_only)
        try:
            return await self._stub.Describe(request, timeout=DESCRIBE_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise unavailable(f"the channel at {self.target}: {error.details()}") from error

    async def default_snr_db(self) -> float:
        """The SNR of frames that set none, as of now, dB; asks until there is an answer."""
        backoff = Backoff()
        while True:
            try:
                return (await self.describe(channel_only=True)).channel.default_snr_db
            except FrameError as error:
                log.warning(str(error))
            await backoff.wait()

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()


async def resolve(
    asked: frame_pb2.FrameOptions, bundle: Bundle, default_seed: int, link: Link
) -> frame_pb2.FrameOptions:
    """What the rest of the link is to do with a frame: everything that was left open is set.

    A frame that sets no true SNR gets the channel's present default here, so that the SNR that
    the encoder is told and the true one agree, and a frame that is sent again is the same frame.

    Arguments:
        asked: What the client set.
        bundle: What is loaded.
        default_seed: For frames that set none.
        link: Asked for the channel's default SNR.

    Raises:
        FrameError: If the frame is meant for another bundle, or an SNR is not usable.
    """
    manifest = bundle.manifest
    check_bundle(asked, manifest.name, bundle.codec_digest, "transmitter")
    options = frame_pb2.FrameOptions()
    options.CopyFrom(asked)
    if not options.channel.HasField("snr_db"):
        options.channel.snr_db = await link.default_snr_db()
    elif not math.isfinite(options.channel.snr_db):
        raise invalid(SNR, f"{options.channel.snr_db:g} dB, expected a finite number")
    told_by_client = options.link.HasField("told_snr_db")
    told = options.link.told_snr_db if told_by_client else options.channel.snr_db
    options.link.told_snr_db = check_told(told, told_by_client, bundle)
    if not options.link.HasField("seed"):
        options.link.seed = default_seed
    options.link.bundle = manifest.name
    options.link.codec_digest = bundle.codec_digest
    return options


def check_told(told_snr_db: float, told_by_client: bool, bundle: Bundle) -> float:
    """The SNR to tell the networks, if they were trained for it, dB.

    Raises:
        FrameError: If they were not; it names the option that the client can change.
    """
    whose = f"bundle {bundle.manifest.name}"
    try:
        return check_snr(TOLD_SNR, told_snr_db, bundle.manifest.snr_range_db, whose)
    except FrameError as error:
        if told_by_client:
            raise
        hint = f"{error.description}; to go beyond, set {TOLD_SNR} to an SNR in that range"
        raise invalid(SNR, hint) from None
