/* Shared by the workloads: bounds, a meter of time per operation, and JSON out. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* getopt letters that every workload knows; `take_common` handles them. */
#define COMMON "n:t:c:"
#define MAX_COUNT 10000000ull
#define MAX_SECONDS 300.0

/* Work ends at `count` operations or after `seconds`, whichever comes first. */
struct bounds {
  uint64_t count;
  double seconds;
};

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  __builtin_va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static inline uint64_t number(const char *text, uint64_t least, uint64_t most) {
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-' || value < least || value > most)
    die("%s: expected a number from %" PRIu64 " to %" PRIu64, text, least, most);
  return value;
}

static inline double duration(const char *text) {
  char *end = NULL;
  double value = strtod(text, &end);
  if (end == text || *end || !(value > 0 && value <= MAX_SECONDS))
    die("%s: expected seconds, at most %.0f", text, MAX_SECONDS);
  return value;
}

static inline void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set)) die("cpu %d: %s", cpu, strerror(errno));
}

static inline bool take_common(int option, struct bounds *bounds) {
  switch (option) {
  case 'n': bounds->count = number(optarg, 1, MAX_COUNT); return true;
  case 't': bounds->seconds = duration(optarg); return true;
  case 'c': pin_to((int)number(optarg, 0, 1023)); return true;
  default: return false;
  }
}

/* Time per operation. Batches, since a clock read costs as much as the quickest operation, and a
 * median over batches since a stray interruption is not the operation's cost. */
#define METER_BATCHES 65536
struct meter {
  uint64_t batch, done, started, batch_started, deadline, wanted;
  uint32_t batches;
  double per_operation[METER_BATCHES];
};

static inline void meter_start(struct meter *meter, const struct bounds *bounds, uint64_t batch) {
  meter->batch = batch;
  meter->wanted = bounds->count;
  meter->started = meter->batch_started = now_ns();
  meter->deadline = meter->started + (uint64_t)(bounds->seconds * 1e9);
}

/* Counts one operation; false when the work is over. */
static inline bool meter_tick(struct meter *meter) {
  meter->done++;
  if (meter->done % meter->batch && meter->done < meter->wanted) return true;
  uint64_t now = now_ns();
  uint64_t size = meter->done % meter->batch ? meter->done % meter->batch : meter->batch;
  if (meter->batches < METER_BATCHES && (size == meter->batch || !meter->batches))
    meter->per_operation[meter->batches++] = (double)(now - meter->batch_started) / (double)size;
  meter->batch_started = now;
  return meter->done < meter->wanted && now < meter->deadline;
}

static inline int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The open JSON object's common members; the caller adds its own and closes it. */
static inline void meter_print(struct meter *meter, const char *workload) {
  uint64_t took = now_ns() - meter->started;
  qsort(meter->per_operation, meter->batches, sizeof(double), compare_doubles);
  printf("{\"workload\":\"%s\",\"count\":%" PRIu64 ",\"ns\":%.1f,\"mean_ns\":%.1f,\"least_ns\":%.1f,\"seconds\":%.6f",
         workload, meter->done, meter->per_operation[meter->batches / 2], (double)took / (double)meter->done,
         meter->per_operation[0], (double)took / 1e9);
}

/* Outcomes by errno; 0 is success. */
struct outcomes {
  uint64_t by_errno[134];
};

static inline void outcome(struct outcomes *outcomes, int error) {
  outcomes->by_errno[error >= 0 && error < 133 ? error : 133]++;
}

static inline void outcomes_print(const struct outcomes *outcomes) {
  const char *comma = "";
  printf(",\"errno\":{");
  for (int i = 0; i < 134; i++)
    if (outcomes->by_errno[i]) {
      printf("%s\"%d\":%" PRIu64, comma, i, outcomes->by_errno[i]);
      comma = ",";
    }
  printf("}");
}
