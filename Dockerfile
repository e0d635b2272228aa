# The pinned set of requirements.txt, each package by hash, and Snakemake on the checkout at /prrmse.
#   docker build -t prrmse .
#   docker run --rm -v "$PWD/results:/prrmse/results" prrmse --cores 2
# Not built yet: no builder was at hand where it was written.
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /prrmse
COPY requirements-uv.txt requirements.txt ./
RUN python -m pip install --no-cache-dir --require-hashes -r requirements-uv.txt \
    && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements.txt
COPY . .
RUN uv pip install --system --no-cache --no-deps --no-build-isolation -e .
ENTRYPOINT ["snakemake"]
CMD ["--cores", "1"]
