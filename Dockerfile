# The service and its workers. `docker build .` gives an image for processors; torch from the default index brings CUDA's libraries along,
# so that the same image serves the GPU profile. For a smaller one give PIP_EXTRA_INDEX_URL, the index of torch's wheels without them.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/vecmeta
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY vecmeta ./vecmeta
COPY service ./service
RUN /opt/vecmeta/bin/pip install --constraint constraints.txt ".[postgres,otel]"

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/vecmeta --shell /usr/sbin/nologin vecmeta \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/vecmeta
COPY --from=build /opt/vecmeta /opt/vecmeta
ENV PATH=/opt/vecmeta/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/vecmeta VECMETA_DATA=/var/lib/vecmeta/data VECMETA_FILES=/var/lib/vecmeta/files
USER 10001:10001
WORKDIR /var/lib/vecmeta
VOLUME /var/lib/vecmeta
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["vecmeta"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
