# hwnas in a container. Three targets:
#
#   docker build --target cpu -t hwnas:cpu .        ONNX Runtime and OpenVINO; also runs demo and tests
#   docker build --target gpu -t hwnas:gpu .        TensorRT 10 or 11: Turing and later
#   docker build --target pascal -t hwnas:pascal .  TensorRT 8.6: Pascal and Volta, such as the TITAN Xp
#   docker run --rm --gpus all --network none -v "$PWD:/data" hwnas:gpu profile --device auto
#   docker run --rm --entrypoint make hwnas:cpu -C /opt/hwnas demo test
#
# /data is the user's folder: runs, and under .hwnas the latency tables and caches. None of the GPU images
# has been built or run yet where a GPU is; docs/gpu.md. The base images are build arguments, so that
# NVIDIA's own TensorRT images can take their place.

ARG CPU_BASE=python:3.12-slim-bookworm
ARG GPU_BASE=nvidia/cuda:13.0.0-devel-ubuntu24.04
# The last CUDA 12 that TensorRT 8.6.1 supports, with its cuDNN 8, on the last Ubuntu with Python < 3.12.
ARG PASCAL_BASE=nvidia/cuda:12.1.1-cudnn8-devel-ubuntu22.04


FROM ${CPU_BASE} AS cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# make and g++: the tests compile the CUDA kernels for the host.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 hwnas && install -d -o hwnas /data /opt/hwnas
USER 1000
ENV PATH=/opt/hwnas/.venv/bin:$PATH HWNAS_HOME=/data/.hwnas
WORKDIR /opt/hwnas
COPY --chown=hwnas . .
# torch from the CPU index where the build names one (TORCH_INDEX); PyPI's carries CUDA along.
ARG TORCH_INDEX=
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && .venv/bin/pip install --no-cache-dir -e ".[dev]" \
    && touch .venv/.installed
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=60s CMD ["hwnas", "doctor", "--no-noise", "--quiet"]
ENTRYPOINT ["hwnas"]
CMD ["--help"]


FROM ${GPU_BASE} AS gpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Ubuntu 24.04's image already has a user with number 1000.
RUN useradd --create-home --uid 1001 hwnas && install -d -o hwnas /data /opt/hwnas
USER 1001
ENV PATH=/opt/hwnas/.venv/bin:$PATH HWNAS_HOME=/data/.hwnas NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/hwnas
COPY --chown=hwnas . .
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir torch torchvision \
    && .venv/bin/pip install --no-cache-dir -e ".[trt]"
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=60s CMD ["hwnas", "doctor", "--no-noise", "--quiet"]
ENTRYPOINT ["hwnas"]
CMD ["--help"]


FROM ${PASCAL_BASE} AS pascal
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1001 hwnas && install -d -o hwnas /data /opt/hwnas
USER 1001
ENV PATH=/opt/hwnas/.venv/bin:$PATH HWNAS_HOME=/data/.hwnas NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/hwnas
COPY --chown=hwnas . .
# 2.7 is the last torch on PyPI with code for Pascal and Volta. It brings cuDNN 9, which pip cannot install
# beside 8: TensorRT finds 8 in the base image.
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir "torch>=2.7,<2.8" torchvision \
    && .venv/bin/pip install --no-cache-dir -e ".[trt8-train]"
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=60s CMD ["hwnas", "doctor", "--no-noise", "--quiet"]
ENTRYPOINT ["hwnas"]
CMD ["--help"]
