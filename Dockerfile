# The image of the pipeline's steps and of a training's nodes: `make image` builds it, docs/operate.md says how it runs.
# Any base with Python 3.11, pip and venv does. A site with a package index of its own passes its pip.conf as the build
# secret `pip`, so that neither address nor password stays in a layer.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN python3 -m venv --without-pip /opt/qfundus
COPY requirements/image.lock /build/
# The lock is whole but for the CUDA libraries that torch's own wheel names; a CPU wheel names none.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/qfundus/bin/python install --no-cache-dir --no-deps -r /build/image.lock \
    && python3 -m pip --python /opt/qfundus/bin/python install --no-cache-dir torch -c /build/image.lock
COPY pyproject.toml README.md /build/
COPY src /build/src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/qfundus/bin/python install --no-cache-dir --no-deps /build

FROM ${BASE}
COPY --from=build /opt/qfundus /opt/qfundus
COPY components /srv/qfundus/components
COPY configs /srv/qfundus/configs
COPY feature_repo /srv/qfundus/feature_repo
COPY pipelines /srv/qfundus/pipelines
COPY deploy/triton /srv/qfundus/deploy/triton
# By this name, and this commit, each training is logged.
COPY requirements/image.lock /srv/qfundus/requirements/qfundus.lock
ARG REVISION=
# Everything that is written goes below /tmp, so the root may be read-only.
ENV PATH=/opt/qfundus/bin:$PATH \
    PYTHONPATH=/srv/qfundus \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QFUNDUS_CHECKOUT=/srv/qfundus \
    QFUNDUS_HOME=/tmp/qfundus \
    QFUNDUS_REVISION=$REVISION \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    GIT_PYTHON_REFRESH=quiet
WORKDIR /tmp
USER 10001:10001
CMD ["qfundus", "--help"]
