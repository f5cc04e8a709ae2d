/* How long an exec'd victim lives. killlatency [-n SAMPLES] [-t S] [-i MICROSECONDS] [-m MARKER]
 * Again and again: a child takes the time and execs this program with MARKER in its arguments,
 * which then does nothing for two seconds; the parent takes the time when SIGKILL has ended it.
 * Prints each victim's nanoseconds from just before execve to the parent's knowledge of its death. */
#include "common.h"
#include <sys/mman.h>

#define MAX_SAMPLES 10000
static uint64_t samples[MAX_SAMPLES];

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "victim")) {
    sleep(2);
    return 0;
  }
  struct bounds bounds = {300, 120};
  const char *marker = "kill-latency-victim";
  useconds_t gap_us = 10000;
  for (int option; (option = getopt(argc, argv, COMMON "i:m:")) != -1;) {
    if (take_common(option, &bounds)) continue;
    switch (option) {
    case 'i': gap_us = (useconds_t)number(optarg, 1, 999999); break;
    case 'm': marker = optarg; break;
    default: return 2;
    }
  }
  if (bounds.count > MAX_SAMPLES) die("-n: at most %d", MAX_SAMPLES);
  volatile uint64_t *started = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (started == MAP_FAILED) die("mmap: %s", strerror(errno));
  char *command[] = {"/proc/self/exe", "victim", (char *)marker, NULL};

  uint64_t taken = 0, survived = 0, deadline = now_ns() + (uint64_t)(bounds.seconds * 1e9);
  while (taken + survived < bounds.count && now_ns() < deadline) {
    usleep(gap_us); /* an idle machine: the sensor sleeps again before the next one */
    pid_t child = fork();
    if (child < 0) die("fork: %s", strerror(errno));
    if (!child) {
      *started = now_ns();
      execv(command[0], command);
      _exit(127);
    }
    int status;
    if (waitpid(child, &status, 0) != child) die("waitpid: %s", strerror(errno));
    uint64_t ended = now_ns();
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) samples[taken++] = ended - *started;
    else survived++;
    if (survived > 10) break; /* nobody kills: no need to wait two seconds for each of the rest */
  }
  printf("{\"workload\":\"killlatency\",\"count\":%" PRIu64 ",\"survived\":%" PRIu64 ",\"samples_ns\":[", taken, survived);
  for (uint64_t i = 0; i < taken; i++) printf("%s%" PRIu64, i ? "," : "", samples[i]);
  printf("]}\n");
  return 0;
}
