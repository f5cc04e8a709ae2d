/* connect through IORING_OP_CONNECT. uring_connect [-n N] [-w] [-u] ADDRESS PORT
 *   -w  force a kernel worker thread (IOSQE_ASYNC): the hooks then run in its context    -u  UDP */
#include "common.h"
#include "inet.h"
#include "uring.h"

int main(int argc, char **argv) {
  struct bounds bounds = {1, 10};
  uint8_t flags = 0;
  int type = SOCK_STREAM;
  for (int option; (option = getopt(argc, argv, COMMON "wu")) != -1;) {
    if (take_common(option, &bounds)) continue;
    if (option == 'w') flags = IOSQE_ASYNC;
    else if (option == 'u') type = SOCK_DGRAM;
    else return 2;
  }
  if (optind + 2 != argc) die("uring_connect [-n N] [-w] [-u] ADDRESS PORT");
  union address to;
  socklen_t length = parse_address(argv[optind], (uint16_t)number(argv[optind + 1], 1, 65535), &to);
  if (!length) die("%s: no address", argv[optind]);

  struct uring ring = {0};
  int refused = uring_open(&ring), result = 0;
  uint64_t done = 0, deadline = now_ns() + (uint64_t)(bounds.seconds * 1e9);
  while (!refused && done < bounds.count && now_ns() < deadline) {
    int s = socket(to.any.sa_family, type | SOCK_CLOEXEC, 0);
    if (s < 0) die("socket: %s", strerror(errno));
    struct io_uring_sqe request = {
        .opcode = IORING_OP_CONNECT, .flags = flags, .fd = s, .addr = (uintptr_t)&to, .off = length};
    result = uring_run(&ring, &request);
    close(s);
    done++;
  }
  return uring_report("uring_connect", refused, result, done);
}
