/* open through IORING_OP_OPENAT. uring_open [-n N] [-w] PATH
 *   -w  force a kernel worker thread (IOSQE_ASYNC) */
#include "common.h"
#include "uring.h"

int main(int argc, char **argv) {
  struct bounds bounds = {1, 10};
  uint8_t flags = 0;
  for (int option; (option = getopt(argc, argv, COMMON "w")) != -1;) {
    if (take_common(option, &bounds)) continue;
    if (option != 'w') return 2;
    flags = IOSQE_ASYNC;
  }
  if (optind + 1 != argc) die("uring_open [-n N] [-w] PATH");

  struct uring ring = {0};
  int refused = uring_open(&ring), result = 0;
  uint64_t done = 0, deadline = now_ns() + (uint64_t)(bounds.seconds * 1e9);
  while (!refused && done < bounds.count && now_ns() < deadline) {
    struct io_uring_sqe request = {.opcode = IORING_OP_OPENAT,
                                   .flags = flags,
                                   .fd = AT_FDCWD,
                                   .addr = (uintptr_t)argv[optind],
                                   .open_flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC};
    result = uring_run(&ring, &request);
    if (result >= 0) close(result);
    done++;
  }
  return uring_report("uring_open", refused, result, done);
}
