"""Images through three processes."""

from __future__ import annotations

import commin
from tests.integration.conftest import ThreeProcesses, picture


def test_200_images_return_200_results_each_with_its_own_id(link: ThreeProcesses) -> None:
    with commin.connect(link.transmitter.address) as client:
        results = list(client.send(map(picture, range(200)), snr_db=5, restorer="none"))
    assert all(result.ok for result in results)
    assert sorted(result.frame_id for result in results) == list(range(200))
