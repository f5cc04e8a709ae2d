/* A server of one's own: a forked child that serves a listener on loopback, in the same sandbox and, where we are
 * pinned, on the same core. */
#pragma once
#include "common.h"
#include "inet.h"
#include <sys/prctl.h>

struct server {
  union address at; /* where it listens: one address, and a port that the kernel chose */
  socklen_t length;
  pid_t child;
};

/* `serve` gets the listener and never returns. The child dies with us. */
static inline struct server start_server(const char *address, void (*serve)(int listener)) {
  struct server server;
  server.length = parse_address(address, 0, &server.at);
  if (!server.length) die("%s: no address", address);
  int listener = socket(server.at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, &server.at.any, server.length) || listen(listener, 128) ||
      getsockname(listener, &server.at.any, &server.length))
    die("listen: %s", strerror(errno));
  pid_t parent = getpid();
  server.child = fork();
  if (server.child < 0) die("fork: %s", strerror(errno));
  if (!server.child) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it died before we asked */
    serve(listener);
    _exit(0);
  }
  close(listener);
  return server;
}

/* One that is there already: it has no child to stop. */
static inline struct server server_at(const char *address, uint16_t port) {
  struct server server = {.child = 0};
  server.length = parse_address(address, port, &server.at);
  if (!server.length) die("%s: no address", address);
  return server;
}

static inline void stop_server(const struct server *server) {
  kill(server->child, SIGKILL);
  while (waitpid(server->child, NULL, 0) < 0 && errno == EINTR) continue;
}

/* A new connection to it, or -1 and errno. */
static inline int dial_server(const struct server *server) {
  int s = socket(server->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s < 0 || !connect(s, &server->at.any, server->length)) return s;
  int error = errno;
  close(s);
  errno = error;
  return -1;
}
