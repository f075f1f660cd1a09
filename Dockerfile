# The server of a trained run. `make image` builds it; docs/serving.md says how to start it.
# Any image with Python 3.10 to 3.13 and pip will do as its base.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# What uv calls the kind of torch's wheels that it takes: cpu is without CUDA.
ARG UV_TORCH_BACKEND=cpu
ENV VIRTUAL_ENV=/opt/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1
RUN python -m pip install --no-cache-dir uv==0.13.9 && python -m venv --without-pip /opt/venv
WORKDIR /src
# The dependencies first: they are installed anew only where setup.cfg changes.
COPY setup.cfg pyproject.toml ./
RUN uv pip install --requirement setup.cfg --extra serve --extra transformers --extra onnx --extra chinese \
    # Headers and test programs of torch, 150 MB: nothing is compiled here.
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include /opt/venv/lib/python3*/site-packages/torch/test
COPY . .
RUN uv pip install --no-deps .

FROM ${BASE}
LABEL org.opencontainers.image.title="ulmfit-app" \
      org.opencontainers.image.description="A trained ULMFiT classifier behind a page and a JSON API" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
# Libraries that want a home find it in /tmp, the one folder that has to be writable.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "ulmfit_app", "serve", "--host", "0.0.0.0", "--port", "8000"]
# Where the run is mounted; another path, and options, may follow the image's name.
CMD ["/srv/run"]
