/* vfork, exec, wait; again and again. execloop [-n N] [-t S] [-c CPU] [PROGRAM [ARGUMENT…]] */
#include "common.h"

static struct meter meter;
static struct outcomes outcomes;

int main(int argc, char **argv) {
  struct bounds bounds = {1000, 10};
  for (int option; (option = getopt(argc, argv, "+" COMMON)) != -1;)
    if (!take_common(option, &bounds)) return 2;
  char *standard[] = {"/bin/true", NULL};
  char **command = optind < argc ? argv + optind : standard;

  meter_start(&meter, &bounds, 25);
  do {
    volatile int failure = 0; /* the child of a vfork shares our memory: its errno is told for free */
    pid_t child = vfork();
    if (child < 0) die("vfork: %s", strerror(errno));
    if (!child) {
      execv(command[0], command);
      failure = errno;
      _exit(127);
    }
    int status;
    if (waitpid(child, &status, 0) != child) die("waitpid: %s", strerror(errno));
    if (WIFSIGNALED(status)) failure = EINTR; /* killed: by the sensor, or by whoever ends the run */
    outcome(&outcomes, failure);
  } while (meter_tick(&meter));

  meter_print(&meter, "execloop");
  outcomes_print(&outcomes);
  printf("}\n");
  return outcomes.by_errno[0] ? 0 : 1;
}
