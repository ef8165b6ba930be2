# Not built by us, as no registry of images could be reached: the steps are those of `make demo CPU=1`.
#
#   docker build --tag mobilenet-tasks .
#   docker run --rm --shm-size 1g --user "$(id -u):$(id -g)" --volume "$PWD:/work" mobilenet-tasks tasks.detection fit
#
# --shm-size, as loading processes hand over their batches in shared memory, of which Docker gives 64 MB; --user, so that
# the run folder is yours. For a GPU leave out the line of torch, and run with `--gpus all`.
FROM python:3.12-slim
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY backbone backbone
COPY configs configs
COPY data data
COPY tasks tasks
RUN pip install --no-cache-dir .
# A user without a name or a home here: torch asks for the one, caches need the other.
ENV USER=user HOME=/tmp
WORKDIR /work
ENTRYPOINT ["python", "-m"]
CMD ["tasks"]
