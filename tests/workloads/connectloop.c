/* socket, connect, close to the same few addresses, or to distinct ones.
 * connectloop [-n N] [-t S] [-c CPU] [-a ADDRESS] [-p PORT] [-d DESTINATIONS] [-u] [-s] [-l]
 *   -d  how many destinations, ADDRESS:PORT upwards by port (default 4)
 *   -u  UDP    -s  UDP, sendmsg on a socket that is never connected (one datagram of one byte)
 *   -l  TCP to listeners of our own, accepted in this very thread; else closed ports do */
#include "common.h"
#include "inet.h"

static struct meter meter;
static struct outcomes outcomes;

static int attempt(const union address *to, socklen_t length, int type, bool unconnected, int listener) {
  int s = socket(to->any.sa_family, type | SOCK_CLOEXEC, 0);
  if (s < 0) return errno;
  int error = 0;
  if (unconnected) {
    char byte = 'x';
    if (sendto(s, &byte, 1, MSG_DONTWAIT, &to->any, length) < 0) error = errno;
  } else if (connect(s, &to->any, length)) {
    error = errno;
  }
  if (listener >= 0 && !error) {
    int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (accepted < 0) error = errno;
    /* The client resets: a TIME_WAIT for each would use up the ports within seconds. */
    struct linger now = {1, 0};
    setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(s);
    if (accepted >= 0) close(accepted);
    return error;
  }
  close(s);
  return error;
}

static int listen_at(const union address *at, socklen_t length) {
  int s = socket(at->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) || bind(s, &at->any, length) ||
      listen(s, 16))
    die("listen: %s", strerror(errno));
  return s;
}

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  const char *address = "127.0.0.1";
  uint16_t port = 20000; /* below the ephemeral ports: there a connect to a closed port can meet itself */
  uint64_t destinations = 4;
  int type = SOCK_STREAM;
  bool unconnected = false, listening = false;
  for (int option; (option = getopt(argc, argv, COMMON "a:p:d:usl")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'a': address = optarg; break;
    case 'p': port = (uint16_t)number(optarg, 1, 65535); break;
    case 'd': destinations = number(optarg, 1, 60000); break;
    case 'u': type = SOCK_DGRAM; break;
    case 's': type = SOCK_DGRAM; unconnected = true; break;
    case 'l': listening = true; break;
    default: return 2;
    }
  }
  if (listening && (type != SOCK_STREAM || destinations > 64)) die("-l: TCP, at most 64 destinations");
  if (port + destinations > 65536) die("ports end at 65535");

  int listeners[64];
  union address to;
  socklen_t length = parse_address(address, port, &to);
  if (!length) die("%s: no address", address);
  for (uint64_t i = 0; listening && i < destinations; i++) {
    to.v4.sin_port = htons((uint16_t)(port + i)); /* both families keep the port at the same place */
    listeners[i] = listen_at(&to, length);
  }
  uint64_t turn = 0;
  meter_start(&meter, &bounds, 100);
  do {
    to.v4.sin_port = htons((uint16_t)(port + turn));
    outcome(&outcomes, attempt(&to, length, type, unconnected, listening ? listeners[turn] : -1));
    turn = turn + 1 == destinations ? 0 : turn + 1;
  } while (meter_tick(&meter));

  meter_print(&meter, "connectloop");
  outcomes_print(&outcomes);
  printf("}\n");
  return 0;
}
