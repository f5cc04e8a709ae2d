/* connect, one HTTP/1.1 request, its response, close; again and again, to one listening address of a child.
 * requests [-n N] [-t S] [-c CPU] [-a ADDRESS] [-p PORT] [-r]
 * -p: to a server that is there already. -r: in turns with a reference; `ratio` is how many times as long a request took.
 *
 * The server closes first, as HTTP's `Connection: close` has it, so that TIME_WAIT is on its side: there it holds none
 * of the client's ports, and a SYN from the same port is taken as a new connection (RFC 6191, by the timestamp), so
 * that no number of requests uses the ports up. Closing with a reset would spare TIME_WAIT, and with it four of the
 * packets whose cost is looked for. */
#include "reference.h"
#include "server.h"

#define BODY "<!doctype html><title>A small page</title><p>A couple of hundred bytes, with its head.</p>\n"
static const char request[] = "GET /index.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: requests\r\nAccept: */*\r\n"
                              "Connection: close\r\n\r\n";
static char response[512];
static size_t response_length;

#define BATCH 50
#define TURNS 6 /* that many take about as long as a request */
static struct reference reference;
static struct meter meter;
static struct outcomes outcomes;

static void serve(int listener) {
  char data[1024];
  for (;;) {
    int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (s < 0) _exit(1);
    size_t got = 0;
    for (ssize_t length; got < sizeof(request) - 1; got += (size_t)length)
      if ((length = recv(s, data, sizeof(data), 0)) <= 0) break;
    if (got == sizeof(request) - 1) send(s, response, response_length, MSG_NOSIGNAL);
    close(s);
  }
}

/* 0 where the whole response came back, or of another's server any, and then the stream's end. */
static int ask(int s, bool ours) {
  char data[1024];
  if (send(s, request, sizeof(request) - 1, MSG_NOSIGNAL) != sizeof(request) - 1) return errno;
  size_t got = 0;
  ssize_t length;
  while ((length = recv(s, data, sizeof(data), 0)) > 0) got += (size_t)length;
  if (length < 0) return errno;
  return ours ? got == response_length ? 0 : EPROTO : got ? 0 : EPROTO;
}

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  const char *address = "127.0.0.1";
  uint16_t port = 0;
  bool referring = false;
  for (int option; (option = getopt(argc, argv, COMMON "a:p:r")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'a': address = optarg; break;
    case 'p': port = (uint16_t)number(optarg, 1, 65535); break;
    case 'r': referring = true; break;
    default: return 2;
    }
  }
  response_length = (size_t)snprintf(response, sizeof(response),
                                     "HTTP/1.1 200 OK\r\nServer: requests\r\nContent-Type: text/html\r\n"
                                     "Content-Length: %zu\r\nConnection: close\r\n\r\n" BODY,
                                     sizeof(BODY) - 1);
  struct server server = port ? server_at(address, port) : start_server(address, serve);
  if (referring) reference_start(&reference, 1);
  meter_start(&meter, &bounds, BATCH);
  bool more;
  do {
    int s = dial_server(&server);
    outcome(&outcomes, s < 0 ? errno : ask(s, !port));
    if (s >= 0) close(s);
    more = meter_tick(&meter);
    if (referring && meter.batches && meter.done % BATCH == 0) {
      reference_turn(&reference, meter.per_operation[meter.batches - 1], BATCH * TURNS);
      meter.batch_started = now_ns();
    }
  } while (more);
  if (!port) stop_server(&server);
  meter_print(&meter, "requests");
  if (referring) {
    reference_stop(&reference);
    reference_print(&reference);
  }
  outcomes_print(&outcomes);
  printf("}\n");
  return 0;
}
