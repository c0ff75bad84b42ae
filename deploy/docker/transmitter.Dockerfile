# The transmitter: image decoding and the DeepJSCC encoder.
# The build context is the repository; wheels in the build context "wheelhouse" are used before any
# index, see deploy/README.md.

FROM scratch AS wheelhouse

FROM python:3.11-slim-bookworm AS install
# Which torch, and the index to take it from; an empty index is pip's own (on Linux: with CUDA).
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /build
# Without pip: nothing that installs gets into the final image. Torch goes first and by itself, so
# that neither a change of the code nor of other packages fetches it again. What only its own tests
# and C++ extensions need is 180 MB.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    python -m venv --without-pip /opt/commin \
    && if ls /wheelhouse/torch-*.whl >/dev/null 2>&1; \
       then set -- --no-index --find-links /wheelhouse; \
       else set -- ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}; \
       fi \
    && pip --python /opt/commin/bin/python install --no-deps "$@" "$TORCH" \
    && torch=/opt/commin/lib/python3.11/site-packages/torch \
    && rm -rf "$torch/include" "$torch/test" \
    && find "$torch/bin" -type f ! -name torch_shm_manager -delete
COPY pyproject.toml LICENSE constraints.txt ./
# There are no packages yet: this installs the dependencies alone.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    pip --python /opt/commin/bin/python install --find-links /wheelhouse -c constraints.txt '.[transmitter]'
COPY commin /app/commin
COPY shared /app/shared
COPY transmitter /app/transmitter
RUN python -m compileall -q /app

FROM python:3.11-slim-bookworm
RUN python -m pip uninstall --yes wheel setuptools pip \
    && useradd --system --uid 10001 --no-create-home --home-dir /tmp commin
COPY --from=install /opt/commin /opt/commin
COPY --from=install /app /app
# Weights that were just trained may be their owner's alone to read.
COPY --chmod=755 models/faces64 /bundle
ENV PATH=/opt/commin/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    COMMIN_TRANSMITTER_BUNDLE=/bundle \
    COMMIN_TRANSMITTER_HOST=0.0.0.0 \
    COMMIN_TRANSMITTER_PORT=50051 \
    COMMIN_TRANSMITTER_METRICS_PORT=9464
WORKDIR /app
USER 10001:10001
EXPOSE 50051 9464
ENTRYPOINT ["python", "-m", "transmitter"]
