#!/bin/sh
# Writes an index of the site; with `--check` only says, by its exit code, whether the one that is there is right.
set -eu

site="$POTLUCK_ROOT/srv/www"
index="$POTLUCK_ROOT/var/lib/web-edge/index"

list() {
    (cd "$site" && find . -type f -exec cksum {} + | sort -k 3)
}

if [ "${1-}" = "--check" ]; then
    [ -e "$index" ] && list | cmp -s - "$index"
    exit
fi

list >"$index.new"
mv "$index.new" "$index"
echo "indexed $(wc -l <"$index") files"
