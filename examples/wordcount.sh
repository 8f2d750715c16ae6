#!/bin/sh
# wordcount.sh NAME.txt: counts its words into NAME.counts, one line "COUNT WORD" each.
# A word is a run of the letters a to z; upper case counts as lower case.
set -eu
export LC_ALL=C
tr -cs 'A-Za-z' '\n' < "$1" | tr 'A-Z' 'a-z' | sort | uniq -c > "${1%.txt}.counts"
