# The environment `python3` of the demo: Python, compilers for C and C++ and make, git for the pipeline of a course.
# dev/image_store.py builds it where an image registry answers, and makes the same with debootstrap where none does.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pytest gcc g++ libc6-dev make git \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
LABEL jobmanager.environment=python3
CMD ["python3"]
