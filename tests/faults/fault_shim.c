/* A disk that fails under a process that knows nothing of it: LD_PRELOAD this, compiled with
 *
 *     gcc -shared -fPIC -O1 -o fault_shim.so fault_shim.c -ldl
 *
 * The n-th call of one kind on files whose path holds a text fails, so many times or for good.
 *
 *     FAULT_PATH    the text; nothing is touched without it
 *     FAULT_CALL    open | write | sync
 *     FAULT_AT      the first call to fail, from 1; 0: none, only count
 *     FAULT_TIMES   how many fail; 0: for good
 *     FAULT_ERRNO   what they say: 5 (EIO), 28 (ENOSPC), 30 (EROFS) ...
 *     FAULT_CURED   a file: once it is there, nothing fails any more
 *     FAULT_COUNT   a file: the number of calls is written there at the end
 *     FAULT_SLEEP_US  every such call takes so much longer
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;
static const char *path_part, *kind, *cured, *count_file;
static long at, times, failure, sleep_us;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    path_part = getenv("FAULT_PATH");
    kind = getenv("FAULT_CALL");
    cured = getenv("FAULT_CURED");
    count_file = getenv("FAULT_COUNT");
    at = number("FAULT_AT", 0);
    times = number("FAULT_TIMES", 1);
    failure = number("FAULT_ERRNO", EIO);
    sleep_us = number("FAULT_SLEEP_US", 0);
}

__attribute__((destructor)) static void end(void) {
    FILE *file;
    if (count_file && (file = fopen(count_file, "w"))) {
        fprintf(file, "%ld\n", atomic_load(&calls));
        fclose(file);
    }
}

/* Whether this call is to fail; it is counted if it is one of those that may. */
static int strikes(const char *path, const char *call) {
    long n;
    if (!path_part || !kind || strcmp(kind, call) || !path || !strstr(path, path_part))
        return 0;
    n = atomic_fetch_add(&calls, 1) + 1;
    if (sleep_us)
        usleep(sleep_us);
    if (!at || n < at || (times && n >= at + times) || (cured && !access(cured, F_OK)))
        return 0;
    errno = (int)failure;
    return 1;
}

static int strikes_at(int descriptor, const char *call) {
    char link[64], path[4096];
    ssize_t size;
    int kept = errno;
    if (!path_part)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    size = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (size <= 0)
        return 0;
    path[size] = 0;
    return strikes(path, call);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) {
    REAL(fsync);
    return strikes_at(fd, "sync") ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return strikes_at(fd, "sync") ? -1 : real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return strikes_at(fd, "write") ? -1 : real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite);
    return strikes_at(fd, "write") ? -1 : real(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    return strikes_at(fd, "write") ? -1 : real(fd, data, size, offset);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    return strikes_at(fd, "write") ? -1 : real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return strikes_at(fd, "write") ? -1 : real(fd, size);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        mode_t mode; \
        REAL(name); \
        va_start(more, flags); \
        mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return strikes(path, "open") ? -1 : real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more; \
        mode_t mode; \
        REAL(name); \
        va_start(more, flags); \
        mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return strikes(path, "open") ? -1 : real(folder, path, flags, mode); \
    }

OPENAT(openat)
OPENAT(openat64)
