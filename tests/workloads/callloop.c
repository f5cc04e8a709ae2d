/* System calls and little else: memory mapped and given back, for which the kernel asks for a capability each time; or,
 * with -g, the cheapest call there is.
 * callloop [-n N] [-t S] [-c CPU] [-g] */
#include "common.h"
#include <sys/mman.h>
#include <sys/syscall.h>

static struct meter meter;
static struct outcomes outcomes;

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  bool cheapest = false;
  for (int option; (option = getopt(argc, argv, COMMON "g")) != -1;) {
    if (take_common(option, &bounds)) continue;
    if (option != 'g') return 2;
    cheapest = true;
  }
  if (optind != argc) die("callloop [-n N] [-t S] [-c CPU] [-g]");

  meter_start(&meter, &bounds, 500);
  do {
    if (cheapest) {
      syscall(SYS_getppid);
      outcome(&outcomes, 0);
      continue;
    }
    void *at = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    outcome(&outcomes, at == MAP_FAILED ? errno : 0);
    if (at != MAP_FAILED) munmap(at, 65536);
  } while (meter_tick(&meter));

  meter_print(&meter, "callloop");
  outcomes_print(&outcomes);
  printf("}\n");
  return 0;
}
