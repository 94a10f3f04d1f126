#!/bin/sh
# Installs what the tests of clusters need: SLURM, MariaDB and PostgreSQL from Debian's packages, Ray and a driver from PyPI.
# Usage: install.sh PYTHON
set -eu
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurm-wlm slurmdbd munge mariadb-server postgresql >/dev/null
else
    echo "Not root on Debian: what is missing is skipped. It takes slurm-wlm, slurmdbd, munge, mariadb-server, postgresql."
fi
"$1" -m pip install --quiet --disable-pip-version-check "psycopg[binary]>=3.2" ||
    echo "psycopg could not be installed: the tests of PostgreSQL are skipped."
[ -x .venv-ray/bin/python ] || {
    python3 -m venv .venv-ray
    .venv-ray/bin/pip install --quiet --disable-pip-version-check -e ".[ray]" ||
        echo "Ray could not be installed: its test is skipped."
}
