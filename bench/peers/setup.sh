#!/bin/sh
# Restate's server (npm), PostgreSQL (Debian's packages, unpacked, nothing installed) and both Python SDKs, into
# the directory that is given. Does nothing where it is there already.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$1
stamp="$cache/.stamp"
if [ -f "$stamp" ] && [ "$stamp" -nt "$here/requirements.txt" ] && [ "$stamp" -nt "$0" ]; then exit 0; fi
mkdir -p "$cache/debs"
python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
npm install --no-save --silent --ignore-scripts --prefix "$cache/npm" @restatedev/restate-server@1.7.12
cd "$cache/debs"
if ! command -v pg_ctl >/dev/null && [ ! -d /usr/lib/postgresql ]; then
  apt-get download --quiet postgresql-15 libpq5
  for package in *.deb; do dpkg -x "$package" "$cache/postgresql"; done
fi
touch "$stamp"
