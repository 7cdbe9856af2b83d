# docker build -t mxa-lite .
# mkdir -p runs
# docker run --gpus all -v "$PWD/runs:/home/mxa/runs" -v mxa-cache:/cache mxa-lite run recipes/gsm8k.yaml
#
# Never built or run by us as it stands. The sandbox takes the strongest level that Docker's default
# profile allows; `docker run mxa-lite doctor` prints which. runs/ must be writable for user 1000.
#
# The CUDA libraries, 13 for torch 2.13.0, come with torch's wheels, so that a plain base is enough;
# the driver outside has to know CUDA 13. Another base, of the Ubuntu or Debian kind with Python 3.11
# to 3.13: docker build --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 -t mxa-lite .
ARG BASE=ubuntu:24.04
FROM ${BASE}

# Without a CUDA base nothing else asks the container toolkit for the driver's libraries.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# A C compiler and Python's headers: Triton compiles its kernels when they are first used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# Models, data sets and compiled kernels go to /cache, a volume that outlives the container.
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/cache TRITON_CACHE_DIR=/cache/triton PYTHONUNBUFFERED=1

COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY mxa_lite /src/mxa_lite
COPY recipes /src/recipes
RUN pip install --no-cache-dir '/src[gpu]' -c /src/constraints.txt && rm -rf /src

# Ubuntu's image comes with a user of the usual number 1000, which files in a mounted runs/ belong to.
RUN (userdel ubuntu || true) && useradd --create-home --uid 1000 mxa \
    && mkdir -p /home/mxa/runs /cache && chown -R mxa /home/mxa /cache
USER mxa
WORKDIR /home/mxa
ENTRYPOINT ["mxa-lite"]
