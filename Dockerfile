# One image for every part of a cluster: Ray head, learner node, rollout node, and `areal` itself.
#
#   docker build -t areal:cpu .                                                   # with vLLM for CPUs
#   docker build -t areal:images --build-arg REQUIREMENTS=requirements/torch-cpu.txt --build-arg EXTRAS=cluster,images .
#   docker run --rm --shm-size 512m areal:cpu run configs/quickstart.yaml         # a run of one container, as on a laptop
#
# docker-compose.yml builds it and docker-compose.gpu.yml builds it for CUDA; docs/containers.md tells more.
ARG BASE=docker.io/library/python:3.11.13-slim-bookworm

# What builds and installs: uv, and the project as a wheel. None of it stays in the image.
FROM ${BASE} AS build

# Of where it is built: certificates, an index.
ARG SSL_CERT_FILE
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX

RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.9
COPY . /src
RUN /opt/uv/bin/uv build --quiet --no-cache --wheel --build-constraint /src/requirements/constraints.txt \
        --out-dir /dist /src


FROM ${BASE}

# libgomp1 is torch's, libnuma1 vLLM's; on GPUs Triton wants a C compiler too (gcc libc6-dev).
ARG APT="libgomp1 libnuma1"
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ${APT} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --create-home --uid 10001 areal \
    && install -d -o areal -g areal /areal /areal/runs /areal/cache

# What is installed: optional dependencies of pyproject.toml, files for the device, the versions of all. Empty: none.
ARG EXTRAS=cluster,images,judge,math,text,data,reasoning_gym,smollm2
ARG REQUIREMENTS=requirements/cpu.txt
ARG OVERRIDES=requirements/overrides.txt
ARG CONSTRAINTS=requirements/constraints.txt
ARG TORCH_BACKEND=cpu

# Of where it is built: a folder of wheels (mounted), certificates, an index, a cache to use instead of the builder's.
ARG FIND_LINKS=
ARG SSL_CERT_FILE
ARG UV_DEFAULT_INDEX
ARG UV_CACHE_DIR=/var/cache/uv
ARG UV_LINK_MODE=copy

WORKDIR /opt/areal/src
COPY pyproject.toml ./
COPY requirements requirements
RUN --mount=type=bind,from=build,source=/opt/uv,target=/opt/uv --mount=type=cache,id=areal-uv,target=/var/cache/uv \
    python3 -m venv --without-pip /opt/areal \
    && /opt/uv/bin/uv pip install --python /opt/areal/bin/python --compile-bytecode \
        ${TORCH_BACKEND:+--torch-backend ${TORCH_BACKEND}} ${FIND_LINKS:+--find-links ${FIND_LINKS}} \
        ${CONSTRAINTS:+--constraint ${CONSTRAINTS}} ${OVERRIDES:+--override ${OVERRIDES}} \
        ${REQUIREMENTS:+-r ${REQUIREMENTS}} \
        -r pyproject.toml $(printf -- '--extra %s ' $(echo "${EXTRAS}" | tr ',' ' '))

COPY --from=build /dist dist
RUN --mount=type=bind,from=build,source=/opt/uv,target=/opt/uv \
    /opt/uv/bin/uv pip install --python /opt/areal/bin/python --compile-bytecode --no-cache --no-deps dist/*.whl

COPY deploy/docker/areal-node /usr/local/bin/areal-node
COPY configs /areal/configs
COPY examples /areal/examples

ENV PATH=/opt/areal/bin:$PATH PYTHONUNBUFFERED=1 \
    HF_HOME=/areal/cache/huggingface AREAL_CACHE=/areal/cache/areal RAY_USAGE_STATS_ENABLED=0
WORKDIR /areal
USER areal
ENTRYPOINT ["areal"]
CMD ["--help"]
