// A disk that is full from some moment on, for a program that is started with this library preloaded.
//
// Whatever would take space below the folder FULL_DISK_BELOW fails with ENOSPC after the first FULL_DISK_AFTER times;
// at its end the program writes to the file FULL_DISK_COUNT how often that was asked for. Everything else goes its way.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *below;
static long after = LONG_MAX;
static atomic_long asked;

__attribute__((constructor)) static void begin(void) {
    const char *allowed = getenv("FULL_DISK_AFTER");
    below = getenv("FULL_DISK_BELOW");
    if (allowed) after = atol(allowed);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("FULL_DISK_COUNT");
    if (!path) return;
    char text[32];
    int length = snprintf(text, sizeof text, "%ld", atomic_load(&asked));
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd >= 0) syscall(SYS_write, fd, text, length);
}

// Whether the disk is too full for what is asked for now.
static int full(void) {
    if (atomic_fetch_add(&asked, 1) < after) return 0;
    errno = ENOSPC;
    return 1;
}

static int is_below(const char *path) { return below && strncmp(path, below, strlen(below)) == 0; }

static int is_file_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (is_file_below(fd) && full()) return -1;
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (is_file_below(fd) && full()) return -1;
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (is_file_below(fd) && full()) return -1;
    return syscall(SYS_writev, fd, parts, count);
}

int ftruncate64(int fd, off64_t length) {
    if (is_file_below(fd) && full()) return -1;
    return syscall(SYS_ftruncate, fd, length);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags) {
    if (is_file_below(to) && full()) return -1;
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, count, flags);
}

// A name takes space in its folder.
static int opened(int folder, const char *path, int flags, mode_t mode) {
    if ((flags & O_CREAT) && is_below(path) && access(path, F_OK) != 0 && full()) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

#define OPENS(name)                          \
    int name(const char *path, int flags, ...) { \
        va_list rest;                        \
        va_start(rest, flags);               \
        mode_t mode = mode_of(flags, rest);  \
        va_end(rest);                        \
        return opened(AT_FDCWD, path, flags, mode); \
    }

#define OPENS_AT(name)                       \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest;                        \
        va_start(rest, flags);               \
        mode_t mode = mode_of(flags, rest);  \
        va_end(rest);                        \
        return opened(folder, path, flags, mode); \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int mkdir(const char *path, mode_t mode) {
    if (is_below(path) && access(path, F_OK) != 0 && full()) return -1;
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int link(const char *from, const char *to) {
    if (is_below(to) && access(to, F_OK) != 0 && full()) return -1;
    return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    if (is_below(to) && access(to, F_OK) != 0 && full()) return -1;
    return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

int rename(const char *from, const char *to) {
    if (is_below(to) && access(to, F_OK) != 0 && full()) return -1;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
