/* Opens a node and closes it, again and again; a refusal is an outcome like any other.
 * openloop [-n N] [-t S] [-c CPU] [-w] PATH      -w: for writing, too */
#include "common.h"

static struct meter meter;
static struct outcomes outcomes;

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  int flags = O_RDONLY;
  for (int option; (option = getopt(argc, argv, COMMON "w")) != -1;) {
    if (take_common(option, &bounds)) continue;
    if (option != 'w') return 2;
    flags = O_RDWR;
  }
  if (optind + 1 != argc) die("openloop [-n N] [-t S] [-c CPU] [-w] PATH");
  const char *path = argv[optind];

  meter_start(&meter, &bounds, 500);
  do {
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    outcome(&outcomes, fd < 0 ? errno : 0);
    if (fd >= 0) close(fd);
  } while (meter_tick(&meter));

  meter_print(&meter, "openloop");
  outcomes_print(&outcomes);
  printf("}\n");
  return 0;
}
