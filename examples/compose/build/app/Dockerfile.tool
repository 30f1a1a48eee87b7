FROM busybox
ARG WHO=nobody
RUN echo "made for $WHO" > /made
CMD ["cat", "/made"]
