# A host: exports, calibrates, quantizes, measures and scores for x86 and ARM. From the repository's root:
#   docker build -f docker/x86.Dockerfile -t edgeq .
#   docker run --rm -v "$PWD:/work" edgeq quickstart
# PyTorch's build is that of the index that you name, for CPUs alone the address that PyTorch's own page gives:
#   docker build -f docker/x86.Dockerfile --build-arg PIP_EXTRA_INDEX_URL=ADDRESS -t edgeq .
FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL=
COPY pyproject.toml README.md LICENSE /source/
COPY edgeq /source/edgeq
RUN python -m venv /opt/edgeq && /opt/edgeq/bin/pip install --no-cache-dir '/source[export,openvino,litert,report]'

FROM python:3.11-slim
COPY --from=build /opt/edgeq /opt/edgeq
ENV PATH=/opt/edgeq/bin:$PATH
RUN useradd --create-home edgeq
USER edgeq
WORKDIR /work
ENTRYPOINT ["edgeq"]
CMD ["doctor"]
