# Two stages: the first installs and checks, the second holds only what runs.
FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# The base image brings the runtime that the npm package `node` would bring on other machines.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && rm -rf node_modules/node
COPY tsconfig.json LICENSE ./
COPY src ./src
COPY config/tallygate.yaml config/tallygate.schema.json ./config/
# A config that does not pass never becomes an image.
RUN TALLYGATE_CONFIG=config/tallygate.yaml node --disable-warning=ExperimentalWarning src/main.ts check
# A first start compiles every file: its results are kept, so that the container starts as fast as any later one. Exit code 0: it drained.
RUN timeout --preserve-status --signal=TERM 6 node --disable-warning=ExperimentalWarning src/main.ts serve >/dev/null; rm -rf data

FROM node:24-bookworm-slim
ENV NODE_ENV=production \
    NODE_COMPILE_CACHE=/app/node_modules/.cache/tallygate \
    TALLYGATE_CONFIG=/app/config/tallygate.yaml \
    TALLYGATE_LISTEN=0.0.0.0:8080 \
    TALLYGATE_ADMIN_LISTEN=0.0.0.0:8081
RUN groupadd --gid 10001 tallygate && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tallygate \
 && mkdir /data && chown 10001:10001 /data && rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /opt/yarn*
WORKDIR /app
COPY --from=build /app /app
# The shipped config keeps its books in ./data: in the container that is the volume.
RUN ln -s /data /app/data
USER 10001:10001
VOLUME /data
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8080/-/ready').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "--disable-warning=ExperimentalWarning", "--disable-sigusr1", "src/main.ts"]
CMD ["serve"]
