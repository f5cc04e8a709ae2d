/* One TCP flow over loopback, one way, as fast as it goes: we send, a child receives. An operation is one send.
 * throughput [-n SENDS] [-t S] [-c CPU] [-a ADDRESS] [-b BYTES] [-r]
 *   -b  bytes of a send (default 131072, as iperf3 has it)
 *   -r  in turns with a reference; `ratio` is how many times as long a send took
 * What the child has received when the stream ends must be what was sent. */
#include "reference.h"
#include "server.h"

#define MOST_BYTES (1 << 20)
/* The socket buffers hold some megabytes, so that one side runs ahead of the other: a batch is many times that, else
 * its time would be that of sending alone or of receiving alone. */
#define BATCH 256

static struct reference reference;
static struct meter meter;
static struct outcomes outcomes;
static char data[MOST_BYTES];

static void receive(int listener) {
  int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  uint64_t total = 0;
  ssize_t length = -1;
  while (s >= 0 && (length = recv(s, data, sizeof(data), 0)) > 0) total += (uint64_t)length;
  if (length) _exit(1);
  if (send(s, &total, sizeof(total), MSG_NOSIGNAL) != sizeof(total)) _exit(1);
}

static int send_all(int s, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t step = send(s, data + done, length - done, MSG_NOSIGNAL);
    if (step < 0 && errno != EINTR) return errno;
    if (step > 0) done += (size_t)step;
  }
  return 0;
}

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  const char *address = "127.0.0.1";
  size_t length = 131072;
  bool referring = false;
  for (int option; (option = getopt(argc, argv, COMMON "a:b:r")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'a': address = optarg; break;
    case 'b': length = (size_t)number(optarg, 1, MOST_BYTES); break;
    case 'r': referring = true; break;
    default: return 2;
    }
  }
  struct server server = start_server(address, receive);
  int s = dial_server(&server), error;
  if (s < 0) die("connect: %s", strerror(errno));

  if (referring) reference_start(&reference, REFERENCE_MOST);
  meter_start(&meter, &bounds, BATCH);
  bool more;
  do {
    outcome(&outcomes, error = send_all(s, length));
    more = !error && meter_tick(&meter);
    if (referring && meter.batches && meter.done % BATCH == 0) {
      reference_turn(&reference, meter.per_operation[meter.batches - 1], BATCH / 2);
      meter.batch_started = now_ns();
    }
  } while (more);
  if (referring) reference_stop(&reference);

  uint64_t received = 0;
  if (shutdown(s, SHUT_WR) || recv(s, &received, sizeof(received), MSG_WAITALL) != sizeof(received)) received = 0;
  stop_server(&server);
  uint64_t sent = meter.done * length;
  if (!error && received != sent) die("%" PRIu64 " bytes of %" PRIu64 " arrived", received, sent);
  meter_print(&meter, "throughput");
  if (referring) reference_print(&reference);
  printf(",\"bytes\":%zu,\"received\":%" PRIu64, length, received);
  outcomes_print(&outcomes);
  printf("}\n");
  return error != 0;
}
