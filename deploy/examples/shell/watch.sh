#!/bin/sh
# Prints the events of a site with the nats tool (github.com/nats-io/natscli), live. An argument narrows the subject.
#
#   NATS_URL=nats://127.0.0.1:4222 ./watch.sh
#   NATS_URL=tls://nats-b.example:4222 CREDS=user.creds CA=ca.pem CERT=client.pem KEY=client.key ./watch.sh 'hf.v1.evt.*.disaster.>'
#
# --raw prints the event and nothing else, one JSON object a line: pipe it into jq.
set -eu
: "${NATS_URL:?set NATS_URL to the address of a site's NATS server, for example nats://127.0.0.1:4222}"
if [ -n "${CREDS:-}" ]; then
  set -- --creds "$CREDS" --tlsca "${CA:?}" --tlscert "${CERT:?}" --tlskey "${KEY:?}" sub --raw "${1:-hf.v1.evt.>}"
else
  set -- sub --raw "${1:-hf.v1.evt.>}"
fi
exec nats --server "$NATS_URL" --no-context "$@"
