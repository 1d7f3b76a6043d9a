# The gateway in a container: built in one stage, and nothing of the build in the other. No Docker engine is part of the
# tests; tests/package/run does the same in a Debian root.
#
#   docker build -t cardea .
#   docker run --rm -v cardea:/var/lib/cardea cardea init --dir /var/lib/cardea/fleet --host gateway.example.org
#   docker run -v cardea:/var/lib/cardea -p 8883:8883 -p 8443:8443 --read-only --cap-drop ALL --stop-timeout 20 cardea
FROM node:22.12.0-bookworm-slim AS console
WORKDIR /src/console
COPY console/package.json console/package-lock.json ./
RUN ["npm", "ci", "--no-audit", "--no-fund"]
COPY console/ ./
RUN ["npm", "run", "build"]

FROM rust:1.95.0-slim-bookworm AS build
# What the tag of the base stands for changes with its packages: a build takes them as they are patched then.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc make libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
COPY --from=console /src/console/dist console/dist
RUN ["cargo", "build", "--locked", "--release", "--bin", "cardea"]

FROM debian:12.12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/cardea --shell /usr/sbin/nologin cardea \
    && install -d -o cardea -g cardea -m 0750 /var/lib/cardea
COPY --from=build /src/target/release/cardea /usr/bin/cardea
COPY config/station-mappings /usr/share/cardea/station-mappings
USER 10001:10001
VOLUME /var/lib/cardea
EXPOSE 8883 8443
STOPSIGNAL SIGTERM
# The program asks itself; there is no shell and no curl in it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --start-interval=2s --retries=3 \
    CMD ["/usr/bin/cardea", "doctor", "--ready", "--config", "/var/lib/cardea/fleet/cardea.toml"]
ENTRYPOINT ["/usr/bin/cardea"]
# A container's own addresses; who may reach them is the host's to say.
CMD ["serve", "--config", "/var/lib/cardea/fleet/cardea.toml", "--set", "mqtt.listen=0.0.0.0:8883", "--set", "http.listen=0.0.0.0:8443"]
