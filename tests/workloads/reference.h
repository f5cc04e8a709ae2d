/* A reference that no hook sees: some bytes to a child of ours over a unix socket, and one back. On a shared machine the same
 * work takes half as long again while a neighbour is busy, for milliseconds or seconds; measured in turns with the
 * workload's own operations, it tells how fast the machine was just then. */
#pragma once
#include "common.h"
#include <sys/prctl.h>
#include <sys/socket.h>

#define REFERENCE_MOST (1 << 17)
static char reference_data[REFERENCE_MOST];

struct reference {
  size_t bytes;
  int socket;
  pid_t child;
  uint32_t pairs;
  double ratio[METER_BATCHES];
};

static inline void reference_start(struct reference *reference, size_t bytes) {
  int ends[2];
  reference->bytes = bytes;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) die("socketpair: %s", strerror(errno));
  pid_t parent = getpid();
  reference->child = fork();
  if (reference->child < 0) die("fork: %s", strerror(errno));
  if (!reference->child) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it died before we asked */
    close(ends[0]);
    for (size_t got = 0;;) {
      ssize_t length = read(ends[1], reference_data, bytes - got);
      if (length <= 0) _exit(0);
      got = (got + (size_t)length) % bytes;
      if (!got && write(ends[1], reference_data, 1) != 1) _exit(0);
    }
  }
  close(ends[1]);
  reference->socket = ends[0];
}

/* After a batch of the workload that took `ns` for each operation. */
static inline void reference_turn(struct reference *reference, double ns, uint32_t turns) {
  uint64_t began = now_ns();
  for (uint32_t i = 0; i < turns; i++) {
    for (size_t done = 0; done < reference->bytes;) {
      ssize_t length = write(reference->socket, reference_data, reference->bytes - done);
      if (length <= 0) die("reference: %s", strerror(errno));
      done += (size_t)length;
    }
    if (read(reference->socket, reference_data, 1) != 1) die("reference: its child ended");
  }
  double turn = (double)(now_ns() - began) / turns;
  if (reference->pairs < METER_BATCHES) reference->ratio[reference->pairs++] = ns / turn;
}

static inline void reference_stop(struct reference *reference) {
  close(reference->socket);
  while (waitpid(reference->child, NULL, 0) < 0 && errno == EINTR) continue;
}

static inline void reference_print(struct reference *reference) {
  qsort(reference->ratio, reference->pairs, sizeof(double), compare_doubles);
  printf(",\"ratio\":%.5f", reference->pairs ? reference->ratio[reference->pairs / 2] : 0.0);
}
