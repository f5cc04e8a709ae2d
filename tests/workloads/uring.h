/* One request through io_uring by system calls alone: no liburing, nothing that a syscall-level
 * sensor would see as connect or openat. */
#pragma once
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

struct uring {
  int fd;
  unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
};

/* 0, or the errno with which the kernel refused io_uring itself. */
static inline int uring_open(struct uring *ring) {
  struct io_uring_params params = {0};
  ring->fd = (int)syscall(SYS_io_uring_setup, 4, &params);
  if (ring->fd < 0) return errno;
  size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  size_t sqe_size = params.sq_entries * sizeof(struct io_uring_sqe);
  const int rw = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_POPULATE;
  char *sq = mmap(NULL, sq_size, rw, shared, ring->fd, IORING_OFF_SQ_RING);
  char *cq = mmap(NULL, cq_size, rw, shared, ring->fd, IORING_OFF_CQ_RING);
  ring->sqes = mmap(NULL, sqe_size, rw, shared, ring->fd, IORING_OFF_SQES);
  if (sq == MAP_FAILED || cq == MAP_FAILED || ring->sqes == MAP_FAILED) return errno;
  ring->sq_tail = (unsigned *)(sq + params.sq_off.tail);
  ring->sq_mask = (unsigned *)(sq + params.sq_off.ring_mask);
  ring->sq_array = (unsigned *)(sq + params.sq_off.array);
  ring->cq_head = (unsigned *)(cq + params.cq_off.head);
  ring->cq_tail = (unsigned *)(cq + params.cq_off.tail);
  ring->cq_mask = (unsigned *)(cq + params.cq_off.ring_mask);
  ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
  return 0;
}

/* Submits `request`, waits, returns the completion's res: a value, or minus an errno. */
static inline int uring_run(struct uring *ring, const struct io_uring_sqe *request) {
  unsigned tail = *ring->sq_tail, index = tail & *ring->sq_mask;
  ring->sqes[index] = *request;
  ring->sq_array[index] = index;
  __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
  while (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
    if (errno != EINTR) return -errno;
  unsigned head = *ring->cq_head;
  if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) return -EAGAIN;
  int result = ring->cqes[head & *ring->cq_mask].res;
  __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
  return result;
}

/* Exit status: 0 the request ran, whatever its outcome; 3 this kernel refuses io_uring. */
static inline int uring_report(const char *workload, int setup_errno, int result, uint64_t count) {
  printf("{\"workload\":\"%s\",\"setup_errno\":%d,\"count\":%" PRIu64 ",\"errno\":%d,\"res\":%d}\n", workload,
         setup_errno, count, result < 0 ? -result : 0, result);
  return setup_errno ? 3 : 0;
}
