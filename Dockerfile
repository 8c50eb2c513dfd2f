# The agent's image. No CUDA base: on the node, the nvidia runtime injects libnvidia-ml.so.1 and nvidia-smi, and nothing
# else of CUDA is used. Debian, not Alpine: the injected library needs glibc.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --sbom=true --provenance=true --tag REGISTRY/warmslice:0.1.0 --push .
#   docker build --target sbom --output sbom .      what is in it, as CycloneDX, from the lock file
#   docker build --target dev --tag warmslice-dev . with simulated GPUs, for a cluster without any (hack/kind-up)
#
# Both base images are pinned by tag. Whoever publishes this image should pin them by digest (docker buildx imagetools
# inspect NAME:TAG prints it); a digest is only worth something when it is taken from the registry one trusts.

FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.12-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
# Without compiled bytecode the agent needs 70 MB more memory and 2 s more CPU at each start. By hash, not by time: two builds
# of one lock file then have the same bytes.
ENV UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/warmslice
WORKDIR /src
# Dependencies first: they change less often than the agent.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md LICENSE ./
COPY agent ./agent
# What uv notes of its source has the time of the build in it.
RUN uv sync --frozen --no-dev --no-editable && \
    rm /opt/warmslice/lib/python*/site-packages/warmslice-*.dist-info/uv_cache.json && \
    sed -i '/uv_cache.json/d' /opt/warmslice/lib/python*/site-packages/warmslice-*.dist-info/RECORD

FROM build AS listing
RUN uv export --frozen --no-dev --format cyclonedx1.5 --output-file /sbom.cdx.json

FROM scratch AS sbom
COPY --from=listing /sbom.cdx.json /warmslice.cdx.json

# The simulated GPUs: a compiler out of the lock file, and what it makes.
FROM build AS simgpu
RUN UV_PROJECT_ENVIRONMENT=/opt/tools uv sync --frozen --only-group simgpu
COPY hack/__init__.py ./hack/
COPY hack/simgpu ./hack/simgpu
RUN /opt/tools/bin/python -m hack.simgpu.build --out /opt/simgpu && rm -r /opt/simgpu/objects

FROM python:3.12-slim-bookworm AS agent
LABEL org.opencontainers.image.title="warmslice" \
      org.opencontainers.image.description="Node agent: MIG layouts, warm model weights, slice metrics" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/warmslice /opt/warmslice
# Errors must be in the log before the process is killed, and nothing may be written beside the code. Libraries ask for a home,
# which a user without an entry in /etc/passwd has only where the runtime makes one up.
ENV PATH=/opt/warmslice/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Nobody by default; the partition role alone needs root, and its container says so.
USER 65532:65532
ENTRYPOINT ["warmslice"]
CMD ["run"]

FROM agent AS dev
COPY --from=simgpu /opt/simgpu /opt/simgpu
# The device plugin of manifests/overlays/dev.
COPY hack/__init__.py /opt/dev/hack/
COPY hack/devcluster/__init__.py /opt/dev/hack/devcluster/
COPY hack/devcluster/kubelet/__init__.py hack/devcluster/kubelet/enumerate_gpus.py /opt/dev/hack/devcluster/kubelet/
COPY hack/dev_device_plugin /opt/dev/hack/dev_device_plugin
ENV LD_LIBRARY_PATH=/opt/simgpu \
    PATH=/opt/simgpu:$PATH \
    PYTHONPATH=/opt/dev

FROM agent
