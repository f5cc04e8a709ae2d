/* connect, one HTTP/1.1 request, its response, close; again and again, to one listening address of a child.
 * requests [-n N] [-t S] [-c CPU] [-a ADDRESS]
 *
 * The server closes first, as HTTP's `Connection: close` has it, so that TIME_WAIT is on its side: there it holds none
 * of the client's ports, and a SYN from the same port is taken as a new connection (RFC 6191, by the timestamp), so
 * that no number of requests uses the ports up. Closing with a reset would spare TIME_WAIT, and with it four of the
 * packets whose cost is looked for. */
#include "server.h"

#define BODY "<!doctype html><title>A small page</title><p>A couple of hundred bytes, with its head.</p>\n"
static const char request[] = "GET /index.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: requests\r\nAccept: */*\r\n"
                              "Connection: close\r\n\r\n";
static char response[512];
static size_t response_length;

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

/* 0 where the whole response came back and then the stream's end. */
static int ask(int s) {
  char data[1024];
  if (send(s, request, sizeof(request) - 1, MSG_NOSIGNAL) != sizeof(request) - 1) return errno;
  size_t got = 0;
  ssize_t length;
  while ((length = recv(s, data, sizeof(data), 0)) > 0) got += (size_t)length;
  if (length < 0) return errno;
  return got == response_length ? 0 : EPROTO;
}

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  const char *address = "127.0.0.1";
  for (int option; (option = getopt(argc, argv, COMMON "a:")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'a': address = optarg; break;
    default: return 2;
    }
  }
  response_length = (size_t)snprintf(response, sizeof(response),
                                     "HTTP/1.1 200 OK\r\nServer: requests\r\nContent-Type: text/html\r\n"
                                     "Content-Length: %zu\r\nConnection: close\r\n\r\n" BODY,
                                     sizeof(BODY) - 1);
  struct server server = start_server(address, serve);
  meter_start(&meter, &bounds, 100);
  do {
    int s = dial_server(&server);
    outcome(&outcomes, s < 0 ? errno : ask(s));
    if (s >= 0) close(s);
  } while (meter_tick(&meter));
  stop_server(&server);
  meter_print(&meter, "requests");
  outcomes_print(&outcomes);
  printf("}\n");
  return 0;
}
