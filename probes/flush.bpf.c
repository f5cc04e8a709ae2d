/* Never attached: the reader runs it (BPF_PROG_TEST_RUN) with the key of a repeat that has gone quiet,
 * so that the rest of its count leaves by the ring like everything else, in order and exactly once. */
int on_flush(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u64 words[4];
  words[0] = ctx->args[0];
  words[1] = ctx->args[1];
  words[2] = ctx->args[2];
  words[3] = ctx->args[3];
  struct pf_repeat_key key;
  __builtin_memcpy(&key, words, sizeof(key));
  struct pf_repeat *r = bpf_map_lookup_elem(MAP(repeats), &key);
  if (!r) return 0;
  struct pf_sandbox *sandbox = sandbox_by_id(r->sandbox_id); /* 0: it ended; its count is told all the same */
  u64 now = bpf_ktime_get_ns();
  int failed = 0;
  if (r->count && !(key.bits & PF_KEY_DEVICE) && repeat_unwanted(&key)) r->count = 0;
  if (r->count) {
    if ((key.bits & PF_KEY_CALL) == PF_KEY_CALL)
#ifdef PF_HAVE_TASK_REGISTERS
      failed = send_repeat_call(c, sandbox, &key, r, now);
#else
      failed = 0;
#endif
    else if (key.bits & PF_KEY_DEVICE)
      failed = send_repeat_device(c, sandbox, &key, r, now);
    else
      failed = send_repeat_connect(c, sandbox, &key, r, now);
  }
  /* args[4]: the reader saw nothing for long, forget the key. A count that comes in between the two
   * lines is the one thing this can lose, after many idle seconds. */
  if (!failed && ctx->args[4] && !r->count) {
    struct pf_process *process = process_of(key.tgid);
    if (process && process->exec_id == key.exec_id && process->repeats) process->repeats -= 1;
    bpf_map_delete_elem(MAP(repeats), &key);
  }
  return 0;
}

#ifdef PF_HAVE_CONNECT_UNIX
/* A unix key is longer than the arguments of a raw tracepoint: it comes by a map. */
int on_flush_unix(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u32 zero = 0;
  struct pf_flush_request *request = bpf_map_lookup_elem(MAP(flush_request), &zero);
  if (!request) return 0;
  struct pf_repeat *r = bpf_map_lookup_elem(MAP(unix_repeats), &request->key);
  if (!r) return 0;
  struct pf_sandbox *sandbox = sandbox_by_id(r->sandbox_id); /* 0: it ended; its count is told all the same */
  int failed = 0;
  if (r->count) failed = send_repeat_unix(c, sandbox, &request->key, r, bpf_ktime_get_ns());
  if (!failed && request->forget && !r->count) {
    struct pf_process *process = process_of(request->key.tgid);
    if (process && process->exec_id == request->key.exec_id && process->repeats) process->repeats -= 1;
    bpf_map_delete_elem(MAP(unix_repeats), &request->key);
  }
  return 0;
}
#endif
