# syntax=docker/dockerfile:1
# The server as one static program in an empty image, for linux/amd64 and linux/arm64. It is compiled on the build
# machine's own architecture: zig stands in as the C compiler and linker of the target, so nothing runs emulated.

FROM --platform=$BUILDPLATFORM rust:1.95-slim-trixie AS tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/zig \
    && /opt/zig/bin/pip install --no-cache-dir cargo-zigbuild==0.24.0 ziglang==0.17.1 \
    && cargo install --locked cargo-chef --version 0.1.78
ENV PATH="/opt/zig/bin:$PATH"
RUN rustup target add x86_64-unknown-linux-musl aarch64-unknown-linux-musl
WORKDIR /src

# Leaves one file: all that the dependencies depend on. While it stays the same, so does their compiled layer below.
FROM tools AS chef
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM tools AS builder
ARG TARGETARCH
# The full optimizer is for what is shipped, not for every release build on a laptop. Panics unwind: the supervisor of
# tasks leans on it.
ENV CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
RUN case "$TARGETARCH" in \
        amd64) echo x86_64-unknown-linux-musl ;; \
        arm64) echo aarch64-unknown-linux-musl ;; \
        *) echo "unsupported architecture: $TARGETARCH" >&2; exit 1 ;; \
    esac > /target
COPY --from=chef /recipe.json /recipe.json
RUN cargo chef cook --locked --release --zigbuild --target "$(cat /target)" \
        --package runs-fleet-server --no-default-features --features aws,local --recipe-path /recipe.json
COPY . .
ARG COMMIT=unknown
RUN RUNS_FLEET_COMMIT="$COMMIT" \
        cargo zigbuild --locked --release --target "$(cat /target)" \
        --package runs-fleet-server --no-default-features --features aws,local \
    && mkdir -p /root-fs/app /root-fs/etc/ssl/certs /state \
    && cp "target/$(cat /target)/release/runs-fleet-server" /root-fs/app/server \
    && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \
    && echo 'runs-fleet:x:1000:1000::/app:/sbin/nologin' > /root-fs/etc/passwd \
    && echo 'runs-fleet:x:1000:' > /root-fs/etc/group \
    && install -d -m 1777 /root-fs/tmp

# The name of this stage is what layer caches are filtered by: it stays.
FROM scratch AS runtime
ARG VERSION=dev
ARG COMMIT=unknown
ARG CREATED
LABEL org.opencontainers.image.title="runs-fleet" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT" \
      org.opencontainers.image.created="$CREATED"
COPY --from=builder /root-fs/ /
# The embedded store's place. Mount a volume here, or the records go with the container.
COPY --from=builder --chown=1000:1000 /state /var/lib/runs-fleet
WORKDIR /app
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["/app/server"]
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD ["/app/server", "healthcheck"]
