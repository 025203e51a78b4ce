/* The pool. Workers spin for a short while after a job, since the next one usually follows at once, then sleep.
 *
 * A job is open while `open` > 0. A worker joins by taking one off; it may then read the job until it counts itself in
 * `finished`. The caller works too, and when no part is left it closes the job and waits only for workers that joined: one that
 * wakes late is not waited for. A worker that lost its core in the middle of a part does hold the caller up; then the caller
 * leaves the workers alone for a time in proportion, so that busy cores cost about a tenth. */
#include "threads.h"

#include <stdlib.h>

#ifdef _WIN32

void parallel(Index parts, int threads, Work work, void *job) {
  (void)threads;
  for (Index part = 0; part < parts; part++) work(job, part);
}

int worker_count(void) { return 0; }

static void *slots(void) {
  static _Thread_local void *memory[2 * SLOTS];
  return memory;
}

#else

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { MOST_WORKERS = 255 };
static const int64_t SPIN = 100000;           /* ns that a worker looks for the next job before it sleeps */
static const int64_t CALLER_SPIN = 30000;     /* ns that a caller looks for workers to finish before it sleeps */
static const int64_t LONG_WAIT = 300000;      /* ns of waiting, beyond a few parts' time, that mean a worker lost its core */
static const int64_t REST = 12;               /* times such a wait that workers are left alone, doubled each time */
static const int64_t LONGEST_REST = 500000000;

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whom the pool works for */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* for sleeping and waking */
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static atomic_int open_places, finished, sleepers, waiting, alive;
static _Atomic Index next_part;
static Index part_count;
static Work current_work;
static void *current_job;
static int64_t rest_until, rest; /* guarded by owner */

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static Index do_parts(void) {
  Index count = 0;
  for (Index part; (part = atomic_fetch_add(&next_part, 1)) < part_count; count++) current_work(current_job, part);
  return count;
}

static int join_job(void) {
  int places = atomic_load(&open_places);
  while (places > 0)
    if (atomic_compare_exchange_weak(&open_places, &places, places - 1)) return 1;
  return 0;
}

static void *live(void *unused) {
  (void)unused;
  for (;;) {
    int joined = 0;
    for (int64_t start = now(); !joined && now() - start < SPIN;)
      for (int i = 0; i < 32 && !(joined = join_job()); i++) pause_briefly();
    if (!joined) {
      pthread_mutex_lock(&lock);
      atomic_fetch_add(&sleepers, 1);
      while (!(joined = join_job())) pthread_cond_wait(&opened, &lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&lock);
    }
    do_parts();
    atomic_fetch_add(&finished, 1);
    if (atomic_load(&waiting)) {
      pthread_mutex_lock(&lock);
      pthread_cond_signal(&done);
      pthread_mutex_unlock(&lock);
    }
  }
  return NULL;
}

/* A forked child has only the thread that forked: it starts its own workers when it needs them. */
static void forget(void) {
  pthread_mutex_init(&owner, NULL);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&opened, NULL);
  pthread_cond_init(&done, NULL);
  atomic_store(&open_places, 0);
  atomic_store(&finished, 0);
  atomic_store(&sleepers, 0);
  atomic_store(&waiting, 0);
  atomic_store(&alive, 0);
  rest_until = rest = 0;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_made;

static void free_scratch(void *memory) {
  void **slots = memory;
  for (int i = 0; i < SLOTS; i++) free(slots[i]);
  free(slots);
}

static void prepare(void) {
  key_made = !pthread_key_create(&key, free_scratch);
  pthread_atfork(NULL, NULL, forget);
}

/* Start workers until there are `count`, or as many as the system allows. Signals are for the interpreter's own threads. */
static void enlarge(int count) {
  if (count > MOST_WORKERS) count = MOST_WORKERS;
  if (atomic_load(&alive) >= count) return;
  pthread_once(&once, prepare);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  for (pthread_t thread; atomic_load(&alive) < count; atomic_fetch_add(&alive, 1))
    if (pthread_create(&thread, &attributes, live, NULL)) break;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int worker_count(void) { return atomic_load(&alive); }

/* Wait for the workers that joined. */
static void wait_for(int joined) {
  for (int64_t start = now(); atomic_load(&finished) < joined;) {
    for (int i = 0; i < 32 && atomic_load(&finished) < joined; i++) pause_briefly();
    if (now() - start > CALLER_SPIN) {
      pthread_mutex_lock(&lock);
      atomic_store(&waiting, 1);
      while (atomic_load(&finished) < joined) pthread_cond_wait(&done, &lock);
      atomic_store(&waiting, 0);
      pthread_mutex_unlock(&lock);
    }
  }
}

void parallel(Index parts, int threads, Work work, void *job) {
  if (parts > 1 && threads > 1 && !pthread_mutex_trylock(&owner)) {
    int64_t start = now();
    if (start >= rest_until) {
      int wanted = (int)(parts < threads ? parts : threads) - 1;
      enlarge(wanted);
      if (wanted > atomic_load(&alive)) wanted = atomic_load(&alive);
      current_work = work;
      current_job = job;
      part_count = parts;
      atomic_store(&next_part, 0);
      atomic_store(&finished, 0);
      atomic_store(&open_places, wanted);
      if (wanted && atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&opened);
        pthread_mutex_unlock(&lock);
      }
      Index mine = do_parts();
      int joined = wanted - atomic_exchange(&open_places, 0);
      int64_t alone = now();
      wait_for(joined);
      int64_t waited = now() - alone, each = (alone - start) / (mine ? mine : 1);
      if (waited > LONG_WAIT + 4 * each) {
        rest = 2 * rest > REST * waited ? 2 * rest : REST * waited;
        if (rest > LONGEST_REST) rest = LONGEST_REST;
        rest_until = alone + waited + rest;
      } else {
        rest /= 2;
      }
      pthread_mutex_unlock(&owner);
      return;
    }
    pthread_mutex_unlock(&owner);
  }
  for (Index part = 0; part < parts; part++) work(job, part);
}

static void **slots(void) {
  pthread_once(&once, prepare);
  void **memory = key_made ? pthread_getspecific(key) : NULL;
  if (!memory && key_made) {
    memory = calloc(2 * SLOTS, sizeof *memory);
    if (memory && pthread_setspecific(key, memory)) {
      free(memory);
      memory = NULL;
    }
  }
  return memory;
}

#endif

/* Slot i's block and, SLOTS further on, its size. */
void *scratch(int slot, Index size) {
  enum { LINE = 64 };
  void **memory = slots();
  if (!memory) return NULL;
  if ((Index)(size_t)memory[SLOTS + slot] < size) {
    free(memory[slot]);
    size += size / 4;
    memory[slot] = malloc((size_t)size + LINE);
    memory[SLOTS + slot] = (void *)(size_t)(memory[slot] ? size : 0);
  }
  if (!memory[slot]) return NULL;
  return (void *)(((size_t)memory[slot] + LINE - 1) & ~(size_t)(LINE - 1));
}
