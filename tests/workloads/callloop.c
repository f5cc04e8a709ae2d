/* System calls and little else: memory mapped and given back, for which the kernel asks for a capability each time; or,
 * with -g, the cheapest call there is; with -w, 64 KiB written to a file that is cut to nothing again: on a tmpfs it asks
 * for each page.
 * callloop [-n N] [-t S] [-c CPU] [-g | -w PATH] */
#include "common.h"
#include <sys/mman.h>
#include <sys/syscall.h>

static struct meter meter;
static struct outcomes outcomes;

int main(int argc, char **argv) {
  struct bounds bounds = {100000, 10};
  static char bytes[65536];
  bool cheapest = false;
  int file = -1;
  for (int option; (option = getopt(argc, argv, COMMON "gw:")) != -1;) {
    if (take_common(option, &bounds)) continue;
    if (option == 'w') {
      file = open(optarg, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      if (file < 0) die("%s: %s", optarg, strerror(errno));
      unlink(optarg);
    } else if (option == 'g') {
      cheapest = true;
    } else {
      return 2;
    }
  }
  if (optind != argc) die("callloop [-n N] [-t S] [-c CPU] [-g | -w PATH]");

  meter_start(&meter, &bounds, 500);
  do {
    if (cheapest) {
      syscall(SYS_getppid);
      outcome(&outcomes, 0);
      continue;
    }
    if (file >= 0) {
      ssize_t wrote = pwrite(file, bytes, sizeof(bytes), 0);
      outcome(&outcomes, wrote == sizeof(bytes) && !ftruncate(file, 0) ? 0 : EIO);
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
