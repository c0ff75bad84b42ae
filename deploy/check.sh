#!/usr/bin/env bash
# Checks every file of the deployment without starting anything. Tools: deploy/install-tools.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$(realpath -m "${DEPLOY_TOOLS:-.venv-deploy}")
python=${COMMIN_PYTHON:-.venv/bin/python}
PATH=$tools/bin:$PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf '\n== %s\n' "$*"; }

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

say "Dockerfiles"
hadolint deploy/docker/*.Dockerfile

say "Shell"
shellcheck deploy/*.sh .ci/run

say "YAML"
yamllint --strict -c deploy/.yamllint.yml docker-compose*.yml deploy

say "Compose"
compose -f docker-compose.yml --profile '*' config --quiet
compose -f docker-compose.yml -f docker-compose.gpu.yml --profile '*' config --quiet

say "Prometheus"
promtool check config deploy/prometheus/prometheus.yml
promtool check rules --lint=all --lint-fatal deploy/prometheus/rules/*.yml
promtool test rules deploy/prometheus/tests/*.yml
for role in Transmitter Channel Receiver; do
  # What the libraries export besides (python_*, process_*) is theirs to name.
  "$python" - "$role" <<'PY' | promtool check metrics
import sys

from prometheus_client import generate_latest

from shared import telemetry

exported = generate_latest(getattr(telemetry, f"{sys.argv[1]}Telemetry")().registry).decode()
ours = (line for line in exported.splitlines() if "commin_" in line)
print(*ours, sep="\n")
PY
done

say "Kubernetes"
for folder in base overlays/gpu overlays/autoscaled; do
  kubectl kustomize "deploy/kubernetes/$folder" > "$scratch/all.yaml"
  kubernetes-validate --strict --quiet --no-warn "$scratch/all.yaml"  # no schema for KEDA's own kind
done
kubernetes-validate --strict --quiet deploy/kubernetes/components/hpa/receiver.yaml
mkdir "$scratch/hpa"
cat > "$scratch/hpa/kustomization.yaml" <<YAML
resources: [$(realpath --relative-to="$scratch/hpa" deploy/kubernetes/base)]
components: [$(realpath --relative-to="$scratch/hpa" deploy/kubernetes/components/hpa)]
YAML
kubectl kustomize "$scratch/hpa" > /dev/null

say "Everything is in order"
