# The environment `python3` of the demo: Python, and a C compiler for submissions in C.
# dev/image_store.py builds it where an image registry answers, and makes the same with debootstrap where none does.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
LABEL jobmanager.environment=python3
CMD ["python3"]
