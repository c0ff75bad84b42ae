#!/usr/bin/env bash
# Does for real what the deployment promises: builds it, starts it, sends faces through it, asks
# Prometheus what it saw, and breaks it in mid-stream. Needs Docker with Compose, and a bundle.
#
#   COMMIN_BUNDLE=folder     another bundle than models/faces64
#   COMMIN_WHEELHOUSE=folder wheels to install from before any index
#   VERIFY_STEPS=30          denoising steps of a frame; with 10 or fewer there are no previews to measure
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

frames=20
steps=${VERIFY_STEPS:-30}
port=${COMMIN_PORT:-50051}
work=$(mktemp -d)
passed=0 failed=0
exec 3>&1

export COMPOSE_PROJECT_NAME=commin-verify
COMMIN_USER=$(id -u):$(id -g)
export COMMIN_USER
export COMMIN_IMAGES=$work/images COMMIN_RECEIVED=$work/received
export COMPOSE_PROGRESS=plain

say() { printf '\n%4ds  %s\n' "$SECONDS" "$*"; }

finish() {
  docker rm -f commin-verify-outside >/dev/null 2>&1
  [ "$failed" -eq 0 ] || docker compose logs --tail 40
  docker compose --profile '*' down --volumes --remove-orphans >"$work/down.log" 2>&1
  rm -rf "$work"
  printf '\n%4ds\n%d passed, %d failed\n' "$SECONDS" "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}
trap finish EXIT

# check NAME COMMAND…: runs it; what it prints is the detail.
check() {
  local name=$1 detail
  shift
  if detail=$("$@" 2>"$work/errors"); then
    passed=$((passed + 1))
    printf '%4ds  PASS  %s: %s\n' "$SECONDS" "$name" "$(tail -1 <<<"$detail")"
  else
    failed=$((failed + 1))
    printf '%4ds  FAIL  %s: %s\n%s\n' "$SECONDS" "$name" "$(tail -1 <<<"$detail")" \
      "$(tail -15 "$work/errors")"
    return 1
  fi
}

helper() {
  docker compose run --rm -T --no-deps -v "$PWD/deploy/verify.py:/verify.py:ro" \
    -v "$PWD/models/faces64/samples:/samples:ro" -v "$work:/verify" \
    --entrypoint python client /verify.py "$@"
}

# send FOLDER SNR: the images through the link, with the same seed each time.
options=(--seed 7 --restorer commin --steps "$steps" --preview-every 10)
send() {
  docker compose run --rm -T --no-deps client send /images --snr="$2" "${options[@]}" \
    --out "received/$1" >"$work/$1.log" 2>&1 || { tail -5 "$work/$1.log" >&2; return 1; }
}

metric() { # metric SERVICE NAME: a sample without labels, from the service itself
  docker compose exec -T "$1" python -c '
import sys, urllib.request
text = urllib.request.urlopen("http://localhost:9464/metrics", timeout=5).read().decode()
print(next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(sys.argv[1] + " ")))
' "$2"
}

denoised() { metric receiver commin_denoise_step_duration_seconds_count; }

# at_work STEPS: waits until the receiver has made more steps than that, so frames are in mid-stream.
at_work() {
  local made
  for _ in $(seq 120); do
    made=$(denoised 2>/dev/null || echo 0)
    if [ "$made" -ge $(($1 + steps / 4)) ]; then return; fi
    sleep 0.3
  done
  echo "the receiver does not work" >&2
  return 1
}

container() { docker compose ps -q "$1"; }

healthy() { # every service, as Docker sees it
  local id state
  for id in $(docker compose ps -aq); do
    state=$(docker inspect -f '{{.Name}} {{.State.Health.Status}}' "$id")
    echo "$state" >&2
    [ "${state##* }" = healthy ] || return 1
  done
  docker compose ps -q | wc -l | sed 's/$/ containers healthy/'
}

image_is_bare() { # no installer, no root; torch, which brings setuptools, only where it is used
  docker run --rm --read-only --network none --entrypoint python "commin/$1:local" -c '
import importlib.util, os, shutil, sys
found = importlib.util.find_spec
assert os.getuid() == 10001, os.getuid()
assert not found("pip"), "pip"
assert not any(map(shutil.which, ("pip", "pip3", "gcc", "cc", "make"))), "a build tool"
assert bool(found("torch")) == (sys.argv[1] in ("transmitter", "receiver")), "torch"
others = {"transmitter", "channel", "receiver", "training", "evaluation"} - {sys.argv[1]}
assert not any(map(found, others)), "code of another service"
print("bare")
' "$1" >/dev/null && docker image inspect -f '{{.Size}}' "commin/$1:local" |
    awk '{printf "%.0f MB, user 10001, no pip, no compiler\n", $1 / 1e6}'
}

all_arrived() { # all_arrived STATUS FOLDER: of a send that is over
  tail -5 "$work/$2.log" >&2
  [ "$1" -eq 0 ] && helper images "/verify/received/$2" "$frames"
}

same_as_undisturbed() { helper compare "/verify/received/$1" /verify/received/low; }

resent() {
  local count
  count=$(metric "$1" commin_frames_resent_total)
  [ "$count" -gt 0 ] && echo "$count frames were sent again by the $1"
}

say "Bundle"
bundle=${COMMIN_BUNDLE:-models/faces64}
if [ ! -f "$bundle/bundle.json" ]; then
  echo "verify: $bundle has no bundle.json; set COMMIN_BUNDLE" >&2
  failed=1
  exit 1
fi
# Readable by the services' user, whatever the original's permissions are.
cp -r "$bundle" "$work/bundle" && chmod -R a+rX "$work" && chmod 755 "$work"
export COMMIN_BUNDLE=$work/bundle
mkdir -p "$work/images" "$work/received"

say "Build"
docker compose --profile client build >"$work/build.log" 2>&1 || {
  tail -40 "$work/build.log"
  failed=1
  exit 1
}
for role in transmitter channel receiver client; do check "image $role" image_is_bare "$role"; done

say "Start"
started=$SECONDS
docker compose up -d --wait --wait-timeout 180 >"$work/up.log" 2>&1 || {
  tail -20 "$work/up.log"
  failed=1
  exit 1
}
say "up after $((SECONDS - started)) s"
check "health" healthy
check "images to send" helper make-images /samples /verify/images "$frames" || exit 1

say "Send $frames images at two SNRs"
check "sent at -5 dB" send low -5
check "received at -5 dB" helper images /verify/received/low "$frames"
check "sent at 5 dB" send high 5
check "received at 5 dB" helper images /verify/received/high "$frames"

say "What Prometheus saw"
check "targets" helper targets 1
check "stages" helper stages
check "counters" helper counters $((2 * frames))

say "The receiver dies in mid-stream"
before=$(denoised)
send killed -5 &
sending=$!
check "frames in flight" at_work "$before"
docker compose kill receiver >/dev/null 2>&1
sleep 3
check "receiver is up again" docker compose up -d --wait --wait-timeout 120
wait "$sending"
check "every frame arrives" all_arrived $? killed
check "frames sent again" resent channel
check "results after the kill" same_as_undisturbed killed

say "The channel is off the network for 10 s"
before=$(denoised)
send cut -5 &
sending=$!
check "frames in flight" at_work "$before"
network=${COMPOSE_PROJECT_NAME}_default
docker network disconnect "$network" "$(container channel)"
sleep 10
docker network connect --alias channel "$network" "$(container channel)"
wait "$sending"
check "every frame arrives" all_arrived $? cut
check "frames sent again" resent transmitter
check "results after the cut" same_as_undisturbed cut

say "Two receivers"
docker compose up -d --wait --wait-timeout 180 --scale receiver=2 --force-recreate --no-deps receiver \
  >"$work/scale.log" 2>&1 || tail -5 "$work/scale.log"
check "two healthy receivers" healthy
sleep 16 # the channel looks for receivers when a connection ends: after 15 s at most
check "targets" helper targets 2
check "sent to both" send shared -5
check "results of both" same_as_undisturbed shared
check "frames are shared" helper shares "$frames"

say "Everything goes down in mid-stream"
before=$(denoised)
# A client from outside, which the project does not take down with it.
docker run --rm --name commin-verify-outside --network host --user "$COMMIN_USER" \
  -v "$work/images:/images:ro" -v "$work/received:/work/received" commin/client:local \
  send /images --link "127.0.0.1:$port" --snr=-5 "${options[@]}" --out received/down \
  >"$work/outside.log" 2>&1 &
sending=$!
check "frames in flight" at_work "$before"
check "project goes down" docker compose down
wait "$sending"
unfinished() {
  local arrived reported
  arrived=$(find "$work/received/down" -maxdepth 1 -name '*.restored.png' 2>/dev/null | wc -l)
  reported=$(grep -cE '^commin: .*face-[0-9]+\.png: [A-Z_]+:' "$work/outside.log")
  grep -E '^commin: ' "$work/outside.log" | tail -3 >&2
  echo "$arrived arrived, $reported reported as failed"
  grep -m 1 -E '^commin: .*png: ' "$work/outside.log" | sed 's/^/      for example: /' >&3
  [ $((arrived + reported)) -eq "$frames" ]
}
check "every frame is accounted for" unfinished
