/* Joins cgroups, then runs a command. enter CGROUP_FOLDER… -- COMMAND [ARGUMENT…]
 * More than one folder is a migration: the task is moved from each to the next, without an exec.
 *   -k  clone the command straight into the (only) folder with CLONE_INTO_CGROUP, which no
 *       cgroup_attach_task announces, and wait for it */
#include "common.h"
#include <linux/sched.h>
#include <sys/syscall.h>

static void join(const char *folder) {
  char path[4096];
  if (snprintf(path, sizeof(path), "%s/cgroup.procs", folder) >= (int)sizeof(path)) die("%s: too long", folder);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "0", 1) != 1) die("%s: %s", path, strerror(errno));
  close(fd);
}

static int clone_into(const char *folder, char **command) {
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) die("%s: %s", folder, strerror(errno));
  struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)fd};
  long child = syscall(SYS_clone3, &how, sizeof(how));
  if (child < 0) die("clone3: %s", strerror(errno));
  if (!child) {
    execvp(command[0], command);
    die("%s: %s", command[0], strerror(errno));
  }
  int status;
  if (waitpid((pid_t)child, &status, 0) < 0) die("waitpid: %s", strerror(errno));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv) {
  bool clone = argc > 1 && !strcmp(argv[1], "-k");
  int at = clone ? 2 : 1, first = at;
  while (at < argc && strcmp(argv[at], "--")) at++;
  if (at == first || at + 1 >= argc || (clone && at != first + 1)) die("enter [-k] CGROUP_FOLDER… -- COMMAND…");
  if (clone) return clone_into(argv[first], argv + at + 1);
  for (int i = first; i < at; i++) join(argv[i]);
  execvp(argv[at + 1], argv + at + 1);
  die("%s: %s", argv[at + 1], strerror(errno));
}
