/* Many TCP connections at once, to one listening address of a child, held open until standard input ends.
 * holdflows [-n CONNECTIONS] [-t S] [-c CPU] [-a ADDRESS] [-r RATE]
 *   -n  at most 20000: both ends of each are sockets of ours (default 1000)
 *   -r  connections a second (default 1000)
 * Over each goes one small HTTP exchange. The report comes when all stand; -t ends it in any case. */
#include "server.h"
#include <poll.h>
#include <sys/resource.h>

#define MOST 20000

static const char request[] = "GET /events HTTP/1.1\r\nHost: localhost\r\nUser-Agent: holdflows\r\nAccept: */*\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\nServer: holdflows\r\nContent-Type: text/event-stream\r\n\r\n";
static struct outcomes outcomes;

/* Accepts and answers, one after the other, and closes none. */
static void serve(int listener) {
  char data[sizeof(request)];
  for (;;) {
    int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (s < 0) _exit(1);
    if (recv(s, data, sizeof(request) - 1, MSG_WAITALL) != sizeof(request) - 1) continue;
    send(s, response, sizeof(response) - 1, MSG_NOSIGNAL);
  }
}

static int hold_one(const struct server *server) {
  char data[sizeof(response)];
  int s = dial_server(server);
  if (s < 0) return errno;
  if (send(s, request, sizeof(request) - 1, MSG_NOSIGNAL) != sizeof(request) - 1) return errno;
  ssize_t length = recv(s, data, sizeof(response) - 1, MSG_WAITALL);
  return length < 0 ? errno : length == sizeof(response) - 1 ? 0 : EPROTO;
}

static void allow_descriptors(uint64_t count) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit: %s", strerror(errno));
  if (limit.rlim_cur >= count) return;
  limit.rlim_cur = count;
  if (limit.rlim_max < count) limit.rlim_max = count; /* takes CAP_SYS_RESOURCE */
  if (setrlimit(RLIMIT_NOFILE, &limit)) die("%" PRIu64 " descriptors: %s", count, strerror(errno));
}

int main(int argc, char **argv) {
  struct bounds bounds = {1000, 60};
  const char *address = "127.0.0.1";
  uint64_t rate = 1000;
  for (int option; (option = getopt(argc, argv, COMMON "a:r:")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'a': address = optarg; break;
    case 'r': rate = number(optarg, 1, 1000000); break;
    default: return 2;
    }
  }
  if (bounds.count > MOST) die("at most %d connections", MOST);
  allow_descriptors(bounds.count + 64);
  struct server server = start_server(address, serve);
  uint64_t started = now_ns(), deadline = started + (uint64_t)(bounds.seconds * 1e9), held = 0;
  while (held < bounds.count && now_ns() < deadline) {
    uint64_t due = started + held * 1000000000ull / rate, now = now_ns();
    if (due > now) {
      struct timespec pause = {(time_t)((due - now) / 1000000000ull), (long)((due - now) % 1000000000ull)};
      nanosleep(&pause, NULL);
    }
    outcome(&outcomes, hold_one(&server));
    held++;
  }
  double took = (double)(now_ns() - started) / 1e9;
  printf("{\"workload\":\"holdflows\",\"count\":%" PRIu64 ",\"seconds\":%.6f", held, took);
  outcomes_print(&outcomes);
  printf("}\n");
  fflush(stdout);
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  for (uint64_t now; (now = now_ns()) < deadline;) {
    char byte;
    if (poll(&input, 1, (int)((deadline - now) / 1000000) + 1) > 0 && read(STDIN_FILENO, &byte, 1) <= 0) break;
  }
  stop_server(&server);
  return 0;
}
