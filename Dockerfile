# stiffml in a container:  docker build -t stiffml . && docker run --rm -it stiffml
# Written by the steps of README; no container has been built from it yet.
FROM python:3.12-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /stiffml
# What the environment depends on comes first, so that a changed source file does not build PETSc again.
COPY pyproject.toml README.md ./
COPY environment environment
COPY stiffml stiffml
COPY problems problems
RUN python3 environment/bootstrap.py --extras chemistry,compile
COPY . .

ENV PATH=/stiffml/.venv/bin:$PATH OMP_NUM_THREADS=1
CMD ["stiffml", "--help"]
