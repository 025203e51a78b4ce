/* One pool of threads for the process. */
#ifndef GPUCNN_THREADS_H
#define GPUCNN_THREADS_H

#include <stddef.h>

typedef ptrdiff_t Index;

typedef void (*Work)(void *job, Index part);

/* Call work(job, part) for part = 0 .. parts-1, on the caller's thread and at most threads-1 workers of the pool. Returns when
 * all are done. Which thread does which part is left to chance; work must not depend on it. While the pool works for one
 * caller, another does all of its own parts itself. */
void parallel(Index parts, int threads, Work work, void *job);

/* The number of worker threads alive in this process. */
int worker_count(void);

/* Memory of this thread that lives until the thread ends: at least `size` bytes, aligned to 64, contents undefined.
 * Two slots: SHARED for what a caller prepares for all parts, OWN for one part. NULL where there is no memory. */
enum { SHARED, OWN, SLOTS };
void *scratch(int slot, Index size);

#endif
