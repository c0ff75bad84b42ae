# The client: the commin command, as far as it talks to running services.
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
    && pip --python /opt/commin/bin/python install --find-links /wheelhouse -c constraints.txt '.[client]'
COPY commin /app/commin
COPY shared /app/shared
COPY console /app/console
RUN python -m compileall -q /app

FROM python:3.11-slim-bookworm
RUN python -m pip uninstall --yes wheel setuptools pip \
    && useradd --system --uid 10001 --no-create-home --home-dir /tmp commin
COPY --from=install /opt/commin /opt/commin
COPY --from=install /app /app
ENV PATH=/opt/commin/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["commin"]
