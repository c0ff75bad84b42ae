"""A receiver's resident memory after 2,000 frames against that after 200.

python -m benchmarks.memory [--quick]

Sixteen clients; most frames are decoded only, every tenth is restored in a few steps, and some are
left by their client on the way. Needs /proc.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from benchmarks.common import Finding, parser, report
from benchmarks.engine import CLIENTS, Load
from benchmarks.processes import running
from commin.transport import SESSION_KEY, open_channel
from commin.v1 import receiver_pb2_grpc
from receiver.models import load_receiver
from receiver.restorers import restorers_for
from shared.bundle import Bundle
from shared.weights import pick_device

LIMIT = 1.05
STEPS = 3
RESTORE_EVERY, LEAVE_EVERY = 10, 50


def main() -> None:
    """Sends frames and reads the process' memory twice."""
    arguments = parser(__doc__).parse_args()
    first, last = (40, 80) if arguments.quick else (200, 2000)
    bundle = Bundle.open(arguments.bundle)
    best = list(restorers_for(load_receiver(bundle, pick_device())))[-1]
    load = Load(bundle, best, STEPS, rounds=1)
    with running("receiver", bundle=arguments.bundle, max_batch=CLIENTS) as receiver:
        asyncio.run(send(load, receiver.address, range(first)))
        early = receiver.resident_bytes()
        asyncio.run(send(load, receiver.address, range(first, last)))
        late = receiver.resident_bytes()
    finding = Finding(
        f"receiver's resident memory after {last} frames / after {first}",
        late / early,
        "at most",
        LIMIT,
        {"MB then": late / 1e6, "MB first": early / 1e6, "restored by": f"{best}, {STEPS} steps"},
    )
    report(__file__, [finding], arguments)


async def send(load: Load, address: str, frame_ids: range) -> None:
    """Has the frames received, sixteen at a time."""
    decode_only = replace(load, restorer="none")
    async with open_channel(address) as connection:
        stub = receiver_pb2_grpc.ReceiverServiceStub(connection)
        places = asyncio.Semaphore(CLIENTS)

        async def one(frame_id: int) -> None:
            kind = decode_only if frame_id % RESTORE_EVERY else load
            async with places:
                metadata = ((SESSION_KEY, f"client-{frame_id % CLIENTS}"),)
                call = stub.Receive(kind.request(frame_id), metadata=metadata)
                async for response in call:
                    if response.event.HasField("error"):
                        raise RuntimeError(response.event.error.message)
                    if frame_id % LEAVE_EVERY == 0:
                        call.cancel()
                        return

        async with asyncio.TaskGroup() as group:
            for frame_id in frame_ids:
                group.create_task(one(frame_id))


if __name__ == "__main__":
    main()
