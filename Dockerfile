# Two images: `--target rillet` for trainer, server and commands, `--target flink` for the joiner's cluster.
#
#   docker build --target rillet -t rillet .
#   docker build --target flink -t rillet-flink .

ARG FLINK=flink:2.3.0-java17

# --- the Kafka connector, by its Maven coordinates
FROM maven:3.9-eclipse-temurin-17 AS jars
COPY jobs/pom.xml /build/pom.xml
RUN mvn -q -B -f /build/pom.xml package -Djars=/jars

# --- Python with every dependency at the version of constraints.txt
FROM python:3.11-slim-bookworm AS base
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
# g++: what PyFlink depends on and has no wheel is compiled once, here
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && pip install uv==0.13.8
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY embeddings embeddings
COPY joiner joiner
COPY trainer trainer
COPY sync sync
COPY serving serving
COPY sources sources
COPY connectors connectors
COPY pipelines pipelines
COPY operators operators
COPY jobs jobs
COPY inspection inspection
COPY devstack devstack
COPY recordings recordings
COPY audit audit
COPY backtest backtest
COPY demo demo
COPY specs specs
COPY src src
COPY deploy deploy
# "cpu" leaves out the CUDA libraries; build with --build-arg UV_TORCH_BACKEND=auto to keep them
ARG UV_TORCH_BACKEND=cpu
RUN UV_TORCH_BACKEND=${UV_TORCH_BACKEND} uv pip install --system --no-cache \
    -c constraints.txt -b constraints.txt '.[joiner,serving,tensorboard]'

# --- trainer, server, commands
FROM base AS rillet
RUN useradd --create-home --uid 9999 rillet && mkdir /data && chown rillet /data
USER rillet
VOLUME /data
ENTRYPOINT ["rillet"]
CMD ["--help"]

# --- Flink of the official image, on the Python that the job needs (the official image has none, its system another)
FROM ${FLINK} AS official
FROM base AS flink
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless libjemalloc2 gettext-base procps \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s "/usr/lib/jvm/java-17-openjdk-$(dpkg --print-architecture)" /usr/lib/jvm/java-17 \
    && useradd --create-home --uid 9999 flink && mkdir /data && chown flink /data
COPY --from=official --chown=flink:flink /opt/flink /opt/flink
COPY --from=official /docker-entrypoint.sh /docker-entrypoint.sh
COPY --from=jars --chown=flink:flink /jars/flink/ /opt/flink/lib/
# A TaskManager that took it from a job's files could run no other job after that one.
RUN ln -s /opt/flink/opt/flink-python-*.jar /opt/flink/lib/
ENV FLINK_HOME=/opt/flink PATH=/opt/flink/bin:$PATH
ENV JAVA_HOME=/usr/lib/jvm/java-17
USER flink
VOLUME /data
ENTRYPOINT ["/docker-entrypoint.sh"]
CMD ["help"]
