# The channel: numpy and gRPC, never torch.
# The build context is the repository; wheels in the build context "wheelhouse" are used before any
# index, see deploy/README.md.

FROM scratch AS wheelhouse

FROM python:3.11-slim-bookworm AS install
WORKDIR /build
COPY pyproject.toml LICENSE constraints.txt ./
# Without pip: nothing that installs gets into the final image. There are no packages yet: this
# installs the dependencies alone.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    python -m venv --without-pip /opt/commin \
    && pip --python /opt/commin/bin/python install --find-links /wheelhouse -c constraints.txt '.[channel]'
COPY commin /app/commin
COPY shared /app/shared
COPY channel /app/channel
RUN python -m compileall -q /app

FROM python:3.11-slim-bookworm
RUN python -m pip uninstall --yes wheel setuptools pip \
    && useradd --system --uid 10001 --no-create-home --home-dir /tmp commin
COPY --from=install /opt/commin /opt/commin
COPY --from=install /app /app
ENV PATH=/opt/commin/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COMMIN_CHANNEL_HOST=0.0.0.0 \
    COMMIN_CHANNEL_PORT=50052 \
    COMMIN_CHANNEL_METRICS_PORT=9464
WORKDIR /app
USER 10001:10001
EXPOSE 50052 9464
ENTRYPOINT ["python", "-m", "channel"]
