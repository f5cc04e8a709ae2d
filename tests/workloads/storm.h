/* Several processes that do the same as fast as they can; each tells what it did in shared memory,
 * so that a reader can account for every single operation. */
#pragma once
#include <sys/mman.h>
#include <sys/prctl.h>

#define MAX_WORKERS 64
struct tally {
  uint64_t done, failed, killed;
};

typedef void (*worker)(int index, const struct bounds *bounds, uint64_t deadline, struct tally *tally);

/* Runs `work` in `workers` processes and prints the tallies. Workers die with us. */
static inline int storm(const char *workload, int workers, const struct bounds *bounds, worker work) {
  struct tally *tallies = mmap(NULL, sizeof(struct tally) * MAX_WORKERS, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (tallies == MAP_FAILED) die("mmap: %s", strerror(errno));
  uint64_t started = now_ns(), deadline = started + (uint64_t)(bounds->seconds * 1e9);
  for (int i = 0; i < workers; i++) {
    pid_t child = fork();
    if (child < 0) die("fork: %s", strerror(errno));
    if (!child) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      work(i, bounds, deadline, &tallies[i]);
      _exit(0);
    }
  }
  int bad = 0;
  for (int i = 0, status; i < workers; i++)
    if (wait(&status) < 0 || status) bad++;
  uint64_t took = now_ns() - started, total = 0;
  for (int i = 0; i < workers; i++) total += tallies[i].done;
  printf("{\"workload\":\"%s\",\"count\":%" PRIu64 ",\"seconds\":%.6f,\"rate\":%.1f,\"lost_workers\":%d,\"workers\":[",
         workload, total, (double)took / 1e9, (double)total * 1e9 / (double)took, bad);
  for (int i = 0; i < workers; i++)
    printf("%s{\"done\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"killed\":%" PRIu64 "}", i ? "," : "", tallies[i].done,
           tallies[i].failed, tallies[i].killed);
  printf("]}\n");
  return 0;
}
