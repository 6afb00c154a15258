# GDSR's images: `service` (no torch), `worker` (one engine and its job workers), `trainer`.
#
#   docker build --target service -t gdsr-service .
#   docker build --target worker -t gdsr-worker .                                   for a CPU
#   docker build --target worker -t gdsr-worker:cuda --build-arg ACCELERATOR=cuda \
#       --build-arg TORCH_INDEX= .                                                  for NVIDIA GPUs
#
# There is no `syntax` line: BuildKit's built-in frontend needs no download.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG ACCELERATOR=cpu

# --- The base of every image: an unprivileged user, and Python.
FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 HOME=/tmp
RUN groupadd --gid 10001 gdsr \
    && useradd --uid 10001 --gid gdsr --no-create-home --home-dir /tmp --shell /usr/sbin/nologin gdsr \
    && install -d -o gdsr -g gdsr /var/lib/gdsr /var/lib/gdsr/blobs /var/cache/gdsr
WORKDIR /var/lib/gdsr

# --- Virtual environments, each built once and copied whole; constraints.txt pins the versions.
FROM base AS build
# Makes Python's bytecode reproducible.
ENV SOURCE_DATE_EPOCH=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/gdsr
WORKDIR /src
COPY constraints.txt ./

FROM build AS build-service
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
COPY workers ./workers
ARG EXTRAS=s3,otel
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/gdsr/bin/python install -c constraints.txt ".[service,${EXTRAS}]"

FROM build AS build-torch
# Empty: pip's own index. Without dependencies, which are installed with the rest.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/gdsr/bin/python install --no-deps \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"

FROM build-torch AS build-worker
COPY pyproject.toml README.md LICENSE ./
COPY model ./model
COPY workers ./workers
# openvino is for CPUs; compose.gpu.yml leaves it out.
ARG EXTRAS=s3,otel,openvino
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/gdsr/bin/python install -c constraints.txt ".[worker,engine,${EXTRAS}]"

FROM build-torch AS build-trainer
COPY pyproject.toml README.md LICENSE ./
COPY model ./model
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/gdsr/bin/python install -c constraints.txt ".[train]"

# --- Runtime packages: none on a CPU; on a GPU torch.compile calls a compiler.
FROM base AS runtime
ENV PATH=/opt/gdsr/bin:$PATH PYTHONDONTWRITEBYTECODE=1

FROM runtime AS runtime-cpu

FROM runtime AS runtime-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# --- The images.
FROM runtime AS service
COPY --from=build-service /opt/gdsr /opt/gdsr
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="gdsr-service" \
      org.opencontainers.image.description="GDSR: HTTP service for x4 image upscaling" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV GDSR_HOST=0.0.0.0 GDSR_PORT=8000 GDSR_BLOB_DIR=/var/lib/gdsr/blobs \
    GDSR_METRICS_HOST=0.0.0.0 GDSR_METRICS_PORT=9100
EXPOSE 8000 9100
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GDSR_PORT'] + '/livez', timeout=3)"]
CMD ["gdsr-service"]

# hadolint ignore=DL3006
FROM runtime-${ACCELERATOR} AS worker
COPY --from=build-worker /opt/gdsr /opt/gdsr
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="gdsr-worker" \
      org.opencontainers.image.description="GDSR: job workers and the engine that runs the network" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV GDSR_BLOB_DIR=/var/lib/gdsr/blobs GDSR_METRICS_HOST=0.0.0.0 GDSR_WORKER_METRICS_PORT=9101 \
    GDSR_CACHE_DIR=/var/cache/gdsr
EXPOSE 9101 9102
USER 10001:10001
STOPSIGNAL SIGTERM
# The worker has no HTTP service. On a GPU the first warm-up compiles, for minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-m", "workers.host.health"]
CMD ["gdsr-worker"]

# hadolint ignore=DL3006
FROM runtime-${ACCELERATOR} AS trainer
COPY --from=build-trainer /opt/gdsr /opt/gdsr
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="gdsr-trainer" \
      org.opencontainers.image.description="GDSR: training and evaluation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV MPLCONFIGDIR=/tmp \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/gdsr/inductor TRITON_CACHE_DIR=/var/cache/gdsr/triton
USER 10001:10001
# A training run ends by itself, with an exit status.
HEALTHCHECK NONE
ENTRYPOINT ["gdsr-train"]
CMD ["--help"]
