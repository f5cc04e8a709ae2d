/* Processes that exec as fast as they can, each exec with a number of its own in its arguments.
 * execstorm [-n N] [-t S] [-P PROCESSES] [-i MICROSECONDS] [-m MARKER]
 * Worker w's exec number k has the argument MARKER-w-k; k runs from 0 to done + failed + killed - 1.
 *   -n  execs of each worker    -i  pause between two execs */
#include "common.h"
#include "storm.h"

static const char *marker = "storm";
static useconds_t pause_us;

/* A function of its own: what lives across a vfork may not sit in the caller's registers. */
static __attribute__((noinline)) pid_t spawn(char **command) {
  pid_t child = vfork();
  if (!child) {
    execv(command[0], command);
    _exit(127);
  }
  return child;
}

static void work(int index, const struct bounds *bounds, uint64_t deadline, struct tally *tally) {
  char label[128];
  char *command[] = {"/bin/true", label, NULL};
  for (uint64_t k = 0; k < bounds->count && now_ns() < deadline; k++) {
    snprintf(label, sizeof(label), "%s-%d-%" PRIu64, marker, index, k);
    pid_t child = spawn(command);
    if (child < 0) die("vfork: %s", strerror(errno));
    int status;
    if (waitpid(child, &status, 0) != child) die("waitpid: %s", strerror(errno));
    if (WIFSIGNALED(status)) tally->killed++;
    else if (WEXITSTATUS(status)) tally->failed++;
    else tally->done++;
    if (pause_us) usleep(pause_us);
  }
}

int main(int argc, char **argv) {
  struct bounds bounds = {MAX_COUNT, 1};
  int workers = 2;
  for (int option; (option = getopt(argc, argv, COMMON "P:i:m:")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'P': workers = (int)number(optarg, 1, MAX_WORKERS); break;
    case 'i': pause_us = (useconds_t)number(optarg, 1, 999999); break;
    case 'm': marker = optarg; break;
    default: return 2;
    }
  }
  if (strlen(marker) > 64) die("-m: at most 64 bytes");
  return storm("execstorm", workers, &bounds, work);
}
