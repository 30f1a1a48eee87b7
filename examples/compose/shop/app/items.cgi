#!/bin/sh
echo "listing" > /queue/jobs
echo "Content-Type: text/plain"
echo
wget -qO- "http://$DATABASE/items"
