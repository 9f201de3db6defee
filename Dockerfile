# The server, and every other command, in an image that needs no network: the demonstration model is in the package.
#
#   docker build -t maskrcnn .                                                                        CPU
#   docker build -t maskrcnn:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu128 .          NVIDIA GPUs
#   docker run --rm -p 127.0.0.1:8000:8000 -e MASKRCNN_TOKEN=secret maskrcnn                          (--gpus all)
#
# EXTRAS=serve,scale adds Ray: the same image is then a worker of a cluster.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve
WORKDIR /src
RUN python -m venv /opt/maskrcnn
ENV PATH=/opt/maskrcnn/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url ${TORCH} torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/maskrcnn /opt/maskrcnn
# Compiled loops are kept in a folder of any user's, since the package's own cannot be written to.
RUN useradd --create-home --uid 10001 maskrcnn && mkdir -m 1777 /var/cache/maskrcnn
USER maskrcnn
WORKDIR /home/maskrcnn
ENV PATH=/opt/maskrcnn/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/var/cache/maskrcnn
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["maskrcnn"]
CMD ["serve", "--host", "0.0.0.0"]
