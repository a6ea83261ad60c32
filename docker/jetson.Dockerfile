# A Jetson with JetPack 6: builds engines, measures and scores on the board. TensorRT comes with the base image, NVIDIA's
# l4t-tensorrt for JetPack 6, so the environment sees the system's packages. On the board, from the repository's root:
#   docker build -f docker/jetson.Dockerfile --build-arg BASE=ADDRESS/nvidia/l4t-tensorrt:r10.3.0-devel -t edgeq-jetson .
#   docker run --rm --runtime nvidia -v "$PWD:/work" edgeq-jetson build artifacts/*.jetson-orin.int8.onnx
ARG BASE=l4t-tensorrt:r10.3.0-devel
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /source/
COPY edgeq /source/edgeq
RUN python3 -m venv --system-site-packages /opt/edgeq && /opt/edgeq/bin/pip install --no-cache-dir /source
ENV PATH=/opt/edgeq/bin:$PATH
WORKDIR /work
ENTRYPOINT ["edgeq"]
CMD ["doctor", "--device-test"]
