/* Loaded before the C library (LD_PRELOAD): ends the process, or fails, at the N-th change to the files below a folder.
 *
 *   CRASH_UNDER   part of a path; only files whose path holds it count. Nothing is done without it.
 *   CRASH_AT      N, from 1; 0 only counts
 *   CRASH_AFTER   set: the call is made before the process is killed; of a write otherwise half is made
 *   CRASH_ERRNO   call N and all later ones fail with this errno (28: no space left, 5: input/output error) instead
 *   CRASH_ONCE    set: only call N fails
 *   CRASH_LOG     a file that gets a line for each call: number, call, path
 *
 * Counted: opening for writing, write, fsync, ftruncate, rename, symlink, unlink, rmdir, mkdir.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum turn { GO_ON, DIE, FAIL };

static long count;
static int logging;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static int below(const char *path) {
    const char *folder = setting("CRASH_UNDER");
    return folder && path && strstr(path, folder) != NULL;
}

static int below_fd(int fd) {
    if (fd < 3 || !setting("CRASH_UNDER")) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int below_at(int folder, const char *path) {
    return below(path) || (path && path[0] != '/' && below_fd(folder));
}

static enum turn next_turn(const char *call, const char *path) {
    if (logging) return GO_ON;
    count++;
    const char *log = setting("CRASH_LOG");
    if (log) {
        logging = 1;
        FILE *file = fopen(log, "a");
        if (file) {
            fprintf(file, "%ld %s %s\n", count, call, path ? path : "");
            fclose(file);
        }
        logging = 0;
    }
    long at = setting("CRASH_AT") ? atol(setting("CRASH_AT")) : 0;
    if (at <= 0) return GO_ON;
    if (setting("CRASH_ERRNO")) return count == at || (count > at && !setting("CRASH_ONCE")) ? FAIL : GO_ON;
    return count == at ? DIE : GO_ON;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

static int failure(void) {
    errno = atoi(setting("CRASH_ERRNO"));
    return -1;
}

/* Defines a call of the C library that asks first whose turn it is. */
#define CALL(name, parameters, arguments, path, counts)                            \
    int name parameters {                                                          \
        static int(*real) parameters;                                              \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                 \
        enum turn turn = (counts) ? next_turn(#name, path) : GO_ON;                \
        if (turn == FAIL) return failure();                                        \
        if (turn == DIE && !setting("CRASH_AFTER")) die();                         \
        int result = real arguments;                                               \
        if (turn == DIE) die();                                                    \
        return result;                                                             \
    }

CALL(rename, (const char *from, const char *to), (from, to), to, below(from) || below(to))
CALL(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), to, below_at(a, from) || below_at(b, to))
CALL(symlink, (const char *target, const char *link), (target, link), link, below(link))
CALL(symlinkat, (const char *target, int at, const char *link), (target, at, link), link, below_at(at, link))
CALL(unlink, (const char *path), (path), path, below(path))
CALL(unlinkat, (int at, const char *path, int flags), (at, path, flags), path, below_at(at, path))
CALL(rmdir, (const char *path), (path), path, below(path))
CALL(mkdir, (const char *path, mode_t mode), (path, mode), path, below(path))
CALL(fsync, (int fd), (fd), "", below_fd(fd))
CALL(ftruncate, (int fd, off_t length), (fd, length), "", below_fd(fd))
CALL(ftruncate64, (int fd, off64_t length), (fd, length), "", below_fd(fd))

ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    enum turn turn = !logging && below_fd(fd) ? next_turn("write", "") : GO_ON;
    if (turn == FAIL) return failure();
    if (turn == DIE) {
        real(fd, bytes, setting("CRASH_AFTER") ? length : length / 2);
        die();
    }
    return real(fd, bytes, length);
}

/* Opening takes a third argument where it may make the file. */
#define OPENING(name, parameters, arguments, counts)                                                   \
    int name parameters {                                                                              \
        static int(*real) parameters;                                                                  \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                     \
        mode_t mode = 0;                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
            va_list more;                                                                              \
            va_start(more, flags);                                                                     \
            mode = va_arg(more, mode_t);                                                               \
            va_end(more);                                                                              \
        }                                                                                              \
        int writes = !logging && (flags & O_ACCMODE) != O_RDONLY && (counts);                          \
        enum turn turn = writes ? next_turn(#name, path) : GO_ON;                                      \
        if (turn == FAIL) return failure();                                                            \
        if (turn == DIE && !setting("CRASH_AFTER")) die();                                             \
        int result = real arguments;                                                                   \
        if (turn == DIE) die();                                                                        \
        return result;                                                                                 \
    }

OPENING(open, (const char *path, int flags, ...), (path, flags, mode), below(path))
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode), below(path))
OPENING(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), below_at(at, path))
OPENING(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), below_at(at, path))
