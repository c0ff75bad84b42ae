"""``python -m shared.healthcheck HOST:PORT``: is a service healthy? Exit code 0 if so.

For container health checks, which so need no binary besides Python.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from commin.transport import TLSFiles


def check(target: str, tls: TLSFiles, seconds: float) -> str:
    """Asks a server how it is; "SERVING", another status, or what went wrong."""
    try:
        with _open(target, tls) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs lack the methods
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    except OSError as error:
        return f"TLS file cannot be read: {error}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _open(target: str, tls: TLSFiles) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if not tls:
        return grpc.insecure_channel(target, options)
    cert, key, ca = tls.read()
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options)


def main() -> None:
    """Runs the check that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m shared.healthcheck", description=__doc__)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to wait")
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, help="PEM file; see commin.TLSFiles")
    asked = parser.parse_args()
    tls = TLSFiles(cert=asked.cert, key=asked.key, ca=asked.ca)
    status = check(asked.target, tls, asked.seconds)
    print(status)
    sys.exit(status != "SERVING")


if __name__ == "__main__":
    main()
