/* A reverse relay of a few lines. relay ADDRESS PORT TARGET_PORT
 * Connects out, waits for bytes, then dials 127.0.0.1:TARGET_PORT and copies both ways; when either
 * end closes it starts anew. Ends by itself when its fuse has burnt. */
#include "common.h"
#include "inet.h"
#include <poll.h>

#define FUSE_SECONDS 300

static int dial(const char *host, uint16_t port) {
  union address to;
  socklen_t length = parse_address(host, port, &to);
  if (!length) die("%s: no address", host);
  int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %s", strerror(errno));
  if (!connect(fd, &to.any, length)) return fd;
  close(fd);
  return -1;
}

/* False at the end of the stream, and where the other side takes no more. */
static bool copy(int from, int to) {
  char data[16384];
  ssize_t length = read(from, data, sizeof(data)), step;
  for (ssize_t done = 0; done < length; done += step)
    if ((step = send(to, data + done, (size_t)(length - done), MSG_NOSIGNAL)) <= 0) return false;
  return length > 0;
}

static void relay(int outer, uint16_t target) {
  struct pollfd ends[2] = {{.fd = outer, .events = POLLIN}};
  if (poll(ends, 1, -1) != 1) return;
  ends[1] = (struct pollfd){.fd = dial("127.0.0.1", target), .events = POLLIN};
  bool going = ends[1].fd >= 0;
  while (going && poll(ends, 2, -1) > 0)
    for (int i = 0; i < 2 && going; i++)
      if (ends[i].revents) going = copy(ends[i].fd, ends[!i].fd);
  if (ends[1].fd >= 0) close(ends[1].fd);
}

int main(int argc, char **argv) {
  if (argc != 4) die("relay ADDRESS PORT TARGET_PORT");
  uint16_t port = (uint16_t)number(argv[2], 1, 65535), target = (uint16_t)number(argv[3], 1, 65535);
  alarm(FUSE_SECONDS);
  for (;;) {
    int outer = dial(argv[1], port);
    if (outer >= 0) {
      relay(outer, target);
      close(outer);
    }
    usleep(20000); /* the outside may not listen yet, or no longer */
  }
}
