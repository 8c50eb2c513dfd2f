# The agent's image. No CUDA base: on the node, the nvidia runtime injects libnvidia-ml.so.1 and nvidia-smi, and nothing
# else of CUDA is used. Debian, not Alpine: the injected library needs glibc.
#
# Both base images are pinned by tag. Whoever publishes this image should pin them by digest (docker buildx imagetools
# inspect NAME:TAG prints it); a digest is only worth something when it is taken from the registry one trusts.

FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.12-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
# Without compiled bytecode the agent needs 70 MB more memory and 2 s more CPU at each start.
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/warmslice
WORKDIR /src
# Dependencies first: they change less often than the agent.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md LICENSE ./
COPY agent ./agent
RUN uv sync --frozen --no-dev --no-editable

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="warmslice" \
      org.opencontainers.image.description="Node agent: MIG layouts, warm model weights, slice metrics" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/warmslice /opt/warmslice
# Errors must be in the log before the process is killed, and nothing may be written beside the code.
ENV PATH=/opt/warmslice/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Nobody by default; the partition role alone needs root, and its container says so.
USER 65532:65532
ENTRYPOINT ["warmslice"]
CMD ["run"]
