#!/bin/sh
# Adds up the lines "COUNT WORD" of all part-*.counts here; the most frequent word first.
set -eu
export LC_ALL=C
cat part-*.counts | sort -k 2 | {
    last='' sum=0
    while read -r count word; do
        if [ "$word" = "$last" ]; then
            sum=$((sum + count))
            continue
        fi
        # What stands before the first letter of a part makes an empty word, which is none.
        if [ -n "$last" ]; then echo "$sum $last"; fi
        last=$word sum=$count
    done
    if [ -n "$last" ]; then echo "$sum $last"; fi
} | sort -k 1,1nr -k 2
