"""The two calls that carry symbols, with ``commin.wire`` in place of the generated code.

On the wire they are the same calls: either side works with a peer that uses the generated code.
"""

from __future__ import annotations

from typing import Any

import grpc

from commin.v1 import channel_pb2, receiver_pb2
from commin.wire import Packer, Parcel

PropagateRequest = Parcel[channel_pb2.PropagateRequest]
ReceiveRequest = Parcel[receiver_pb2.ReceiveRequest]

PROPAGATE = Packer(channel_pb2.PropagateRequest, "symbols")
RECEIVE = Packer(receiver_pb2.ReceiveRequest, "symbols")

CHANNEL = channel_pb2.DESCRIPTOR.services_by_name["ChannelService"].full_name
RECEIVER = receiver_pb2.DESCRIPTOR.services_by_name["ReceiverService"].full_name


def propagate_stub(connection: grpc.aio.Channel) -> Any:
    """``ChannelServiceStub.Propagate`` for parcels."""
    return connection.stream_stream(
        f"/{CHANNEL}/Propagate",
        request_serializer=PROPAGATE.write,
        response_deserializer=channel_pb2.PropagateResponse.FromString,
    )


def receive_stub(connection: grpc.aio.Channel) -> Any:
    """``ReceiverServiceStub.Receive`` for parcels."""
    return connection.unary_stream(
        f"/{RECEIVER}/Receive",
        request_serializer=RECEIVE.write,
        response_deserializer=receiver_pb2.ReceiveResponse.FromString,
    )


def serve_propagate(server: grpc.aio.Server, behaviour: Any) -> None:
    """Has a server, with the generated handlers, give ``Propagate`` parcels."""
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour,
        request_deserializer=PROPAGATE.read,
        response_serializer=channel_pb2.PropagateResponse.SerializeToString,
    )
    server.add_registered_method_handlers(CHANNEL, {"Propagate": handler})


def serve_receive(server: grpc.aio.Server, behaviour: Any) -> None:
    """Has a server, with the generated handlers, give ``Receive`` parcels."""
    handler = grpc.unary_stream_rpc_method_handler(
        behaviour,
        request_deserializer=RECEIVE.read,
        response_serializer=receiver_pb2.ReceiveResponse.SerializeToString,
    )
    server.add_registered_method_handlers(RECEIVER, {"Receive": handler})
