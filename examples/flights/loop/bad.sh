#!/usr/bin/env bash
# A bad candidate, on purpose: it takes late flights for those in time. The gate refuses it; then it is pushed and brought out by hand, past
# the gate, which the next tick that knows better takes back. demo.sh has replay call it (-do). DATA is the server's folder.
set -euo pipefail
cd "$(dirname "$0")/../../.."

pipeline=$DATA/reversed.yaml
sed -E '/^on:/d; /alert.raised/d; s/^pipeline: .*/pipeline: flights-reversed/; s/trainer: [a-z]+/trainer: reversed/' "$DATA/pipeline.yaml" > "$pipeline"
bin/pilotlight pipeline apply -f "$pipeline" > /dev/null
bin/pilotlight pipeline run flights-reversed --detach > /dev/null
until run=$(curl -sf "$PILOTLIGHT_SERVER/admin/v1/pipelines/flights-reversed/runs/latest") && [[ $run == *'"ended"'* && $run != *'"state":"running"'* ]]; do sleep 0.2; done

model=$(find "$DATA/blob/pipelines/flights-reversed" -name 'model-*.onnx' | sort | tail -n 1)
version=$(bin/pilotlight model push flights "$model" --features flights -o json | sed -nE 's/.*"version": ?([0-9]+).*/\1/p' | head -n 1)
bin/pilotlight rollout start flights "$version" --shares 10%,50% --hold 1s > /dev/null ||
  echo "a better one is on its way to callers: the bad one does not get there even by hand"
