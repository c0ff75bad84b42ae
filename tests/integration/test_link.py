"""Images through three processes."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import commin
from tests.integration.conftest import ThreeProcesses, picture, png
from tests.tiny import SIZE


@pytest.fixture
def client(link: ThreeProcesses) -> Iterator[commin.Link]:
    with commin.connect(link.transmitter.address) as client:
        yield client


def test_200_images_return_200_results_each_with_its_own_id(link: ThreeProcesses) -> None:
    images = [picture(number) for number in range(200)]
    with commin.connect(link.transmitter.address, max_in_flight=64) as client:
        results = list(client.send(images, snr_db=60, told_snr_db=5, restorer="none"))
        alone = [
            next(
                client.send(
                    [images[n]], snr_db=60, told_snr_db=5, restorer="none", first_frame_id=n
                )
            )
            for n in (0, 77, 199)
        ]
    assert all(result.ok for result in results)
    assert sorted(result.frame_id for result in results) == list(range(200))
    by_id = {result.frame_id: result for result in results}
    for result in alone:  # each result belongs to its image, not to a batch mate's
        mate = by_id[result.frame_id].decoded.astype(int)
        assert np.abs(result.decoded.astype(int) - mate).max() <= 1
        assert result.source == "0"


def test_a_result_says_everything(client: commin.Link) -> None:
    seen = []
    (result,) = client.send(
        [picture(1)],
        snr_db=-2,
        told_snr_db=1,
        seed=5,
        restorer="commin",
        steps=6,
        preview_every=2,
        on_progress=lambda *progress: seen.append(progress),
    )
    assert result.ok
    assert (result.frame_id, result.restorer, result.steps) == (0, "commin", 6)
    assert (result.snr_db, result.told_snr_db) == (-2, 1)
    assert abs(result.realised_snr_db + 2) < 3
    assert result.restored.shape == result.decoded.shape == (SIZE, SIZE, 3)
    mse = np.mean((picture(1) / 255 - result.decoded / 255) ** 2)
    assert result.decoded_psnr_db == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    timings = result.timings
    stages = (
        timings.encode_seconds,
        timings.propagate_seconds,
        timings.queue_seconds,
        timings.decode_seconds,
        timings.restore_seconds,
    )
    assert all(seconds > 0 for seconds in stages)
    assert sum(stages) <= timings.end_to_end_seconds
    assert timings.first_preview_seconds is not None
    frame_id, step, steps, _ = seen[-1]
    assert (frame_id, steps) == (0, 6)
    assert 0 < step <= 6
    assert any(preview is not None for *_, preview in seen)


def test_the_seed_and_the_frame_id_decide_the_noise(client: commin.Link) -> None:
    def realised(seed: int, first: int) -> float:
        (result,) = client.send(
            [picture(1)], snr_db=0, seed=seed, first_frame_id=first, restorer="none"
        )
        return result.realised_snr_db

    assert realised(1, 0) == realised(1, 0)
    assert len({realised(1, 0), realised(2, 0), realised(1, 1)}) == 3


def test_noise_is_what_was_asked_for(client: commin.Link) -> None:
    results = list(client.send(map(picture, range(40)), snr_db=3, restorer="none"))
    linear = [10 ** (-result.realised_snr_db / 10) for result in results]
    assert 10 * math.log10(1 / np.mean(linear)) == pytest.approx(3, abs=0.4)


def test_every_kind_of_image_is_taken(client: commin.Link, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "face.png"
    path.write_bytes(png(3))
    exact = picture(3)
    floats = exact / 255
    images = [path, str(path), png(3), exact, floats, Image.fromarray(exact)]
    results = list(client.send(images, snr_db=0, told_snr_db=0, ordered=True, restorer="none"))
    assert all(result.ok for result in results)
    quality = [result.decoded_psnr_db for result in results]
    assert quality == pytest.approx([quality[0]] * 6, abs=0.3)
    assert results[0].source == str(path)
    larger = [picture(3, 4 * SIZE), picture(3, 2 * SIZE)[: SIZE + 5] / 255]
    assert all(result.ok for result in client.send(larger, snr_db=0, restorer="none"))


def test_order_can_be_kept_and_images_are_taken_as_needed(link: ThreeProcesses) -> None:
    taken = 0

    def endless() -> Iterator[object]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield picture(number)

    with commin.connect(link.transmitter.address, max_in_flight=8) as client:
        results = client.send(endless(), snr_db=0, restorer="none", ordered=True)
        ids = [result.frame_id for result in itertools.islice(results, 30)]
        results.close()
        assert ids == list(range(30))
        assert taken <= 30 + 8 + 1
        (again,) = client.send([picture(0)], restorer="none")
        assert again.ok


def test_an_error_of_the_caller_reaches_the_caller(client: commin.Link) -> None:
    def broken() -> Iterator[object]:
        yield picture(0)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera unplugged"):
        list(client.send(broken(), restorer="none"))
    with pytest.raises(ValueError, match=r"-1|range"):
        list(client.send([picture(0)], seed=-1))


async def test_the_async_twin(link: ThreeProcesses) -> None:
    async def cameras() -> object:
        for number in range(5):
            await asyncio.sleep(0.01)
            yield picture(number)

    async with commin.connect_async(link.transmitter.address) as client:
        description = await client.describe()
        outcomes = [each async for each in client.send(cameras(), restorer="none")]
    assert description.transmitter.bundle.name == "tiny"
    assert sorted(each.frame_id for each in outcomes) == list(range(5))


def test_describe_tells_what_is_loaded(client: commin.Link) -> None:
    link = client.describe()
    bundle = link.transmitter.bundle
    assert (bundle.name, bundle.image_size, bundle.symbols) == ("tiny", SIZE, 64)
    assert bundle.bandwidth_ratio == pytest.approx(64 / (3 * SIZE**2))
    assert link.receiver.bundle == bundle
    assert (link.channel.model, link.channel.default_snr_db) == ("awgn", 0)
    restorers = {restorer.name: restorer for restorer in link.receiver.restorers}
    assert {"none", "commin"} <= restorers.keys()
    assert len({restorer.digest for restorer in restorers.values()}) == len(restorers)
    assert link.receiver.default_restorer == "commin-fast"


def test_the_default_snr_changes_while_running(link: ThreeProcesses, client: commin.Link) -> None:
    def sent_at() -> tuple[float, float]:
        (result,) = client.send([picture(0)], restorer="none")
        return result.snr_db, result.told_snr_db

    assert sent_at() == (0, 0)
    channel = commin.configure_channel(link.channel.address, default_snr_db=-4.5)
    assert channel.default_snr_db == -4.5
    assert sent_at() == (-4.5, -4.5)
    with pytest.raises(ValueError, match="default_snr_db: 99 dB, this channel takes -30 to 60"):
        commin.configure_channel(link.channel.address, default_snr_db=99)
    assert sent_at() == (-4.5, -4.5)
    commin.configure_channel(link.channel.address, default_snr_db=0)


def test_nobody_there_is_said_with_the_address() -> None:
    with pytest.raises(commin.LinkError, match=r"127\.0\.0\.1:1 "):
        commin.connect("127.0.0.1:1", connect_seconds=0.5)
