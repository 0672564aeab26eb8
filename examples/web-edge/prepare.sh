#!/bin/sh
# Makes the directories that the server writes to.
set -eu

for directory in var/log/web-edge var/lib/web-edge; do
    mkdir -p "$POTLUCK_ROOT/$directory"
    echo "made /$directory"
done
