# Verified with a Debian 12 base (Python 3.11), see docker/README.md; any base with python3 >= 3.11 and venv will do.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Where the default index has no CPU wheels of torch, give pip the address of one that has: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG TORCH=torch==2.13.0
# service,mlflow for workers that register conversions in MLflow
ARG EXTRAS=service
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# torch alone and first: it is most of the image and changes least
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-compile "${TORCH}"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY converter converter
COPY service service
# Bytecode that does not depend on file times: buildah and podman round those of half the files up by a second, and then every
# conversion compiles again what it imports. torch's file that is left out is one of its tests, for Python 3.12 alone.
RUN /opt/venv/bin/pip install --no-compile ".[${EXTRAS}]" \
    && /opt/venv/bin/python3 -m compileall -qq -x py312_intrinsics --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 zsq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin zsq \
    && install -d -o 10001 -g 10001 /data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1 \
    ZSQ_HOST=0.0.0.0 \
    ZSQ_PORT=8000 \
    ZSQ_DATA_DIR=/data
WORKDIR /data
VOLUME /data
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"ZSQ_PORT\"]}/healthz', timeout=4)"]
CMD ["zsq", "serve"]
