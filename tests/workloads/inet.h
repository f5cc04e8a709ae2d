/* IPv4 and IPv6 addresses for the workloads that connect. */
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

union address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
};

/* Parses TEXT of either family; returns the length for connect(2), 0 if it is no address. */
static inline socklen_t parse_address(const char *text, uint16_t port, union address *to) {
  memset(to, 0, sizeof(*to));
  if (inet_pton(AF_INET, text, &to->v4.sin_addr) == 1) {
    to->v4.sin_family = AF_INET;
    to->v4.sin_port = htons(port);
    return sizeof(to->v4);
  }
  if (inet_pton(AF_INET6, text, &to->v6.sin6_addr) == 1) {
    to->v6.sin6_family = AF_INET6;
    to->v6.sin6_port = htons(port);
    return sizeof(to->v6);
  }
  return 0;
}
