# docker build -t mxa-lite .
# docker run --gpus all -v "$PWD/runs:/home/mxa/runs" -v mxa-cache:/cache mxa-lite run recipes/gsm8k.yaml
#
# Not built by us with a GPU. The sandbox takes the strongest level that Docker's default profile
# allows; `docker run mxa-lite doctor` prints which.
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

# A C compiler and Python's headers: Triton compiles its kernels when they are first used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HF_HOME=/cache PYTHONUNBUFFERED=1

COPY pyproject.toml README.md LICENSE /src/
COPY mxa_lite /src/mxa_lite
COPY recipes /src/recipes
RUN pip install --no-cache-dir '/src[gpu]' && rm -rf /src

RUN useradd --create-home mxa && mkdir -p /home/mxa/runs /cache && chown -R mxa /home/mxa /cache
USER mxa
WORKDIR /home/mxa
ENTRYPOINT ["mxa-lite"]
