#!/bin/sh
set -e
mkdir -p /notes
echo "$TEXT" >/notes/note
