/* A fork bomb with a fuse: every process forks two more until -n processes were made in all; each
 * ends by itself when -t seconds are over. forkbomb [-n PROCESSES] [-t S] */
#include "common.h"
#include <sys/mman.h>

int main(int argc, char **argv) {
  struct bounds bounds = {200, 5};
  for (int option; (option = getopt(argc, argv, COMMON)) != -1;)
    if (!take_common(option, &bounds)) return 2;
  if (bounds.count > 4000) die("-n: at most 4000 processes");

  uint64_t *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) die("mmap: %s", strerror(errno));
  uint64_t deadline = now_ns() + (uint64_t)(bounds.seconds * 1e9);
  pid_t first = getpid();
  int children = 0;
  while (children < 2 && now_ns() < deadline) {
    if (__atomic_add_fetch(made, 1, __ATOMIC_RELAXED) > bounds.count) {
      __atomic_sub_fetch(made, 1, __ATOMIC_RELAXED);
      break;
    }
    pid_t child = fork();
    if (child < 0) { /* a limit of the host or of the cgroup: the bomb is over */
      __atomic_sub_fetch(made, 1, __ATOMIC_RELAXED);
      break;
    }
    if (!child) children = 0;
    else children++;
  }
  while (now_ns() < deadline) usleep(20000);
  while (wait(NULL) > 0) continue;
  if (getpid() == first) printf("{\"workload\":\"forkbomb\",\"count\":%" PRIu64 "}\n", *made);
  return 0;
}
