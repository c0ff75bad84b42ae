"""What the services measure, for Prometheus. Base units; no label by frame, session or raw SNR."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from http.server import HTTPServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
    start_http_server,
)

from commin.v1 import frame_pb2

# One image on an idle GPU takes milliseconds, Algorithm 1 on a laptop minutes.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BYTES = tuple(float(4**power) for power in range(4, 14))  # 256 B to 64 MiB
DECIBELS = (-30, -20, -10, -5, -3, -1, 1, 3, 5, 10, 15, 20, 30, 40, 60)
PSNR_DECIBELS = (10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 35, 40, 50)
PERFECT_DECIBELS = 100.0  # stands for the infinite PSNR of equal images, which no sum survives
BATCH = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """What all services measure, in a registry of their own.

    Series exist from the start: rates and quantiles miss what a series begins with.

    Arguments:
        stages: The stages that the service measures.
    """

    def __init__(self, stages: tuple[str, ...] = ()) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.stage_seconds = Histogram(
            "commin_stage_duration_seconds",
            "Time that frames spent in each stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.frames = Counter(
            "commin_frames_total",
            "Frames that ended here, by gRPC status name.",
            ["status"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "commin_frames_in_flight", "Frames being worked on.", registry=self.registry
        )
        self.sessions = Gauge(
            "commin_calls_in_flight", "Open calls, by method.", ["method"], registry=self.registry
        )
        self.calls = Counter(
            "commin_calls_total",
            "Calls that ended, by method and gRPC status name.",
            ["method", "status"],
            registry=self.registry,
        )
        self.message_bytes = Histogram(
            "commin_message_size_bytes",
            "Size of gRPC messages.",
            ["direction"],
            buckets=BYTES,
            registry=self.registry,
        )
        self.resent = Counter(
            "commin_frames_resent_total",
            "Frames sent again because the next hop broke.",
            registry=self.registry,
        )
        self.frames.labels("OK")
        for stage in stages:
            self.stage_seconds.labels(stage)

    @contextlib.contextmanager
    def count_in_flight(self) -> Iterator[None]:
        """Counts a frame as in flight within the block."""
        with self.in_flight.track_inprogress():
            yield

    def expose(self, host: str, port: int | None) -> HTTPServer | None:
        """Serves ``/metrics`` from a thread of its own; port 0 or None does nothing.

        Raises:
            OSError: If the port is taken.
        """
        if not port:
            return None
        server, _ = start_http_server(port, host, self.registry)
        return server


class TransmitterTelemetry(Telemetry):
    """What the transmitter measures besides."""

    def __init__(self) -> None:
        super().__init__(stages=("encode", "end_to_end"))
        self.psnr_db = Histogram(
            "commin_psnr_decibels",
            "PSNR against the original.",
            ["image"],
            buckets=PSNR_DECIBELS,
            registry=self.registry,
        )
        self.batch_size = batch_size(self.registry)
        for image in ("decoded", "restored"):
            self.psnr_db.labels(image)

    def observe_result(self, result: frame_pb2.Result) -> None:
        """Records a result on its way to the client, whole timings and quality included."""
        timings, stages = result.timings, self.stage_seconds.labels
        stages("encode").observe(timings.encode_seconds)
        stages("end_to_end").observe(timings.end_to_end_seconds)
        quality = result.quality
        for image, psnr_db in (
            ("decoded", quality.decoded_psnr_db),
            ("restored", quality.restored_psnr_db),
        ):
            self.psnr_db.labels(image).observe(min(psnr_db, PERFECT_DECIBELS))


class ChannelTelemetry(Telemetry):
    """What the channel measures besides."""

    def __init__(self) -> None:
        super().__init__(stages=("propagate",))
        self.snr_db = Histogram(
            "commin_snr_decibels",
            "SNR of frames: what the channel was set to, and what the noise drawn came to.",
            ["kind"],
            buckets=DECIBELS,
            registry=self.registry,
        )
        for kind in ("configured", "realised"):
            self.snr_db.labels(kind)
        self.noise_ratio = Summary(
            "commin_noise_power_ratio",
            "Power of the noise drawn over that of the noise set, per frame; 1 on average.",
            registry=self.registry,
        )
        self.default_snr_db = Gauge(
            "commin_default_snr_decibels",
            "The SNR of frames that set none.",
            registry=self.registry,
        )
        self.symbols = Counter(
            "commin_symbols_total", "Complex symbols sent.", registry=self.registry
        )

    def observe_frame(
        self, snr_db: float, realised_snr_db: float, symbols: int, seconds: float
    ) -> None:
        """Records one frame that was given noise.

        SNRs may be negative, so that sums of them are no counters and Prometheus gets none:
        the noise ratio is what averages are taken of.
        """
        self.stage_seconds.labels("propagate").observe(seconds)
        self.snr_db.labels("configured").observe(snr_db)
        self.snr_db.labels("realised").observe(realised_snr_db)
        self.noise_ratio.observe(10 ** ((snr_db - realised_snr_db) / 10))
        self.symbols.inc(symbols)


class ReceiverTelemetry(Telemetry):
    """What the receiver measures besides."""

    def __init__(self) -> None:
        super().__init__(stages=("queue", "decode", "restore", "first_preview"))
        self.queue_depth = Gauge(
            "commin_queue_depth", "Frames waiting for work.", registry=self.registry
        )
        self.queue_limit = Gauge(
            "commin_queue_limit", "The most frames that wait.", registry=self.registry
        )
        self.step_seconds = Histogram(
            "commin_denoise_step_duration_seconds",
            "Time of one denoising step of a batch.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = batch_size(self.registry)
        self.gpu_memory = Gauge(
            "commin_gpu_memory_bytes",
            "GPU memory that tensors take; 0 without a GPU.",
            registry=self.registry,
        )

    def watch(self, queue_depth: Callable[[], int], gpu_memory: Callable[[], int]) -> None:
        """Reads the gauges from these functions whenever Prometheus asks."""
        self.queue_depth.set_function(queue_depth)
        self.gpu_memory.set_function(gpu_memory)

    def observe_step(self, frames: int, seconds: float) -> None:
        """Records one denoising step of a batch."""
        self.batch_size.observe(frames)
        self.step_seconds.observe(seconds)

    def observe_result(self, timings: frame_pb2.StageTimings) -> None:
        """Records the receiver's stages of one frame."""
        stages = self.stage_seconds.labels
        stages("queue").observe(timings.queue_seconds)
        stages("decode").observe(timings.decode_seconds)
        stages("restore").observe(timings.restore_seconds)
        if timings.HasField("first_preview_seconds"):
            stages("first_preview").observe(timings.first_preview_seconds)


def batch_size(registry: CollectorRegistry) -> Histogram:
    """Frames that share one run of a network."""
    return Histogram(
        "commin_batch_size", "Frames in one run of a network.", buckets=BATCH, registry=registry
    )
