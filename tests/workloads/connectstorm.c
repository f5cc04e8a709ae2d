/* Processes that connect as fast as they can, never twice to the same place, always on loopback.
 * connectstorm [-n N] [-t S] [-P PROCESSES] [-u]        -n  of each worker    -u  UDP
 * Worker w's connect number k goes to 127.(w+1).(k / 20000 / 250).(k / 20000 % 250 + 1), port 10000 + k % 20000:
 * below the ephemeral ports, where a connect to a closed port can meet itself. */
#include "common.h"
#include "inet.h"
#include "storm.h"

#define PORTS 20000
static int type = SOCK_STREAM;

static void work(int index, const struct bounds *bounds, uint64_t deadline, struct tally *tally) {
  struct sockaddr_in to = {.sin_family = AF_INET};
  for (uint64_t k = 0; k < bounds->count && now_ns() < deadline; k++) {
    uint32_t page = (uint32_t)(k / PORTS);
    to.sin_addr.s_addr = htonl(127u << 24 | (uint32_t)(index + 1) << 16 | (page / 250) << 8 | (page % 250 + 1));
    to.sin_port = htons((uint16_t)(10000 + k % PORTS));
    int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (s < 0) die("socket: %s", strerror(errno));
    /* A closed port's answer is the usual one; only a refusal of the attempt itself is a failure. */
    if (connect(s, (struct sockaddr *)&to, sizeof(to)) && errno != ECONNREFUSED) tally->failed++;
    else tally->done++;
    close(s);
  }
}

int main(int argc, char **argv) {
  struct bounds bounds = {MAX_COUNT, 1};
  int workers = 2;
  for (int option; (option = getopt(argc, argv, COMMON "P:u")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'P': workers = (int)number(optarg, 1, MAX_WORKERS); break;
    case 'u': type = SOCK_DGRAM; break;
    default: return 2;
    }
  }
  return storm("connectstorm", workers, &bounds, work);
}
