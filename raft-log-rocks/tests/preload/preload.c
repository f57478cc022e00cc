/* A disk that can be told what to do, as a library that is loaded before libc.
 *
 * It sees every call by which a process changes files under one directory, the root, and
 *   - records each of them in order, with its bytes, so that `disk.rs` can rebuild the directory as a loss of power at
 *     any moment could have left it;
 *   - kills, stalls or fails the nth call of a kind, or answers a sync without making one.
 * What it cannot model it does not let pass: it says so and aborts.
 *
 * Environment
 *   RAFT_DISK_ROOT      The directory, absolute and without links. Nothing is done without it.
 *   RAFT_DISK_RECORD    File that the record is appended to; none is written without it.
 *   RAFT_DISK_MARKS     A file outside of the root: what the process writes to it becomes marks in the record, in order.
 *   RAFT_DISK_PLAN      Rules, see below.
 *   RAFT_DISK_CONTROL   File whose text replaces the plan whenever the file changes. Replace it by a rename.
 *   RAFT_DISK_SYNC      `record`: syncs are recorded as made and not really made. What is durable is read off the
 *                       record alone, so this only saves time.
 *   RAFT_DISK_HIDE      If set, all of these are taken out of the environment, for a process that refuses what it does
 *                       not know.
 *
 * A plan is rules joined by `;`. A rule is `kind:pattern:nth:action`.
 *   kind     open create write truncate sync dirsync rename unlink mkdir rmdir link, or any of these; anysync for both
 *            kinds of sync; grow for what needs space (create write truncate rename mkdir link); read for itself
 *   pattern  fnmatch(3) on the path below the root, where `*` also matches `/`; the root itself is `.`
 *   nth      which call that matches, from 1; `3+` means the third and all after it
 *   action   kill       the process ends before the call
 *            killafter  the process ends after the call and before it returns
 *            stall      the call waits until a changed plan lets it go on
 *            eio, enospc  the call fails; a sync that fails is recorded, since it drops what was dirty
 *            short      a write takes half of its bytes
 *            skip       a sync answers that it is done; the record says that it was not made
 *            hold       the call reaches the disk, that is the record, only when another one releases it: a wrong order
 *            release    what was held reaches the disk right after this call
 * Of several rules that match, the first that fires counts; all of them count the call.
 *
 * The record is a stream of frames: a header of 32 bytes (struct frame, little-endian) and `length` bytes of payload.
 */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS 4096
#define RULES 64
#define PLAN_BYTES 8192

enum frame_kind {
    FRAME_LIFE = 1, FRAME_OPEN, FRAME_WRITE, FRAME_TRUNCATE, FRAME_ZERO, FRAME_SYNC_START, FRAME_SYNC_END,
    FRAME_RENAME, FRAME_UNLINK, FRAME_LINK, FRAME_MKDIR, FRAME_RMDIR, FRAME_MARK, FRAME_FAULT,
};

struct frame {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t error;
    uint32_t thread;
    uint32_t handle;
    uint64_t a;
    uint64_t b;
};

#define OPEN_CREATED 1
#define OPEN_TRUNCATED 2
#define OPEN_DIRECTORY 4
#define SYNC_SKIPPED 1

/* Bits, so that a call can be of two kinds. */
enum kind {
    KIND_OPEN = 1, KIND_CREATE = 2, KIND_WRITE = 4, KIND_TRUNCATE = 8, KIND_SYNC = 16, KIND_DIRSYNC = 32,
    KIND_RENAME = 64, KIND_UNLINK = 128, KIND_MKDIR = 256, KIND_RMDIR = 512, KIND_LINK = 1024, KIND_ANY = 2047, KIND_READ = 2048,
};
enum action {
    ACTION_NONE, ACTION_KILL, ACTION_KILLAFTER, ACTION_STALL, ACTION_EIO, ACTION_ENOSPC, ACTION_SHORT, ACTION_SKIP,
    ACTION_HOLD, ACTION_RELEASE,
};

struct rule {
    int kinds;
    char pattern[256];
    unsigned long nth;
    int on;
    enum action action;
    unsigned long seen;
};

struct descriptor {
    int used, directory, marks;
    uint32_t handle;
    dev_t device;
    ino_t inode;
    char path[PATH_MAX / 4];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], marks[PATH_MAX], control[PATH_MAX];
static size_t root_length;
static int active, record = -1, real_syncs = 1;
static struct descriptor descriptors[FDS];
static uint32_t handles;
static uint64_t syncs;
static struct rule rules[RULES];
static int rule_count;
static struct timespec control_time;
static off_t control_size = -1;
static ino_t control_inode;
static char *held;
static size_t held_length;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void give_up(const char *what, const char *path) {
    char text[PATH_MAX + 256];
    int length = snprintf(text, sizeof text, "preload: %s: %s\n", what, path ? path : "");
    if (syscall(SYS_write, 2, text, (size_t)length)) {}
    abort();
}

/* ---- rules ---- */

static int kind_of(const char *word) {
    static const struct { const char *word; int kind; } words[] = {
        {"open", KIND_OPEN}, {"create", KIND_CREATE}, {"write", KIND_WRITE}, {"truncate", KIND_TRUNCATE},
        {"sync", KIND_SYNC}, {"dirsync", KIND_DIRSYNC}, {"rename", KIND_RENAME}, {"unlink", KIND_UNLINK},
        {"mkdir", KIND_MKDIR}, {"rmdir", KIND_RMDIR}, {"link", KIND_LINK}, {"any", KIND_ANY},
        {"read", KIND_READ}, {"anysync", KIND_SYNC | KIND_DIRSYNC},
        {"grow", KIND_CREATE | KIND_WRITE | KIND_TRUNCATE | KIND_RENAME | KIND_MKDIR | KIND_LINK},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i].word)) return words[i].kind;
    give_up("a rule of an unknown kind", word);
    return 0;
}

static enum action action_of(const char *word) {
    static const struct { const char *word; enum action action; } words[] = {
        {"kill", ACTION_KILL}, {"killafter", ACTION_KILLAFTER}, {"stall", ACTION_STALL}, {"eio", ACTION_EIO},
        {"enospc", ACTION_ENOSPC}, {"short", ACTION_SHORT}, {"skip", ACTION_SKIP}, {"hold", ACTION_HOLD},
        {"release", ACTION_RELEASE},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i].word)) return words[i].action;
    give_up("a rule with an unknown action", word);
    return ACTION_NONE;
}

static void parse_plan(char *text) {
    rule_count = 0;
    char *rest = NULL;
    for (char *part = strtok_r(text, ";\n", &rest); part; part = strtok_r(NULL, ";\n", &rest)) {
        char kind[32], pattern[256], nth[32], action[32];
        if (sscanf(part, "%31[^:]:%255[^:]:%31[^:]:%31s", kind, pattern, nth, action) != 4)
            give_up("a rule is not kind:pattern:nth:action", part);
        if (rule_count == RULES) give_up("too many rules", part);
        struct rule *rule = &rules[rule_count++];
        memset(rule, 0, sizeof *rule);
        rule->kinds = kind_of(kind);
        strcpy(rule->pattern, pattern);
        rule->nth = strtoul(nth, NULL, 10);
        rule->on = strchr(nth, '+') != NULL;
        rule->action = action_of(action);
    }
}

/* Which plan is in force, by its number. */
static unsigned long plan;

/* Takes over the control file if it has changed. */
static void refresh_plan(void) {
    struct stat now;
    if (!control[0] || stat(control, &now)) return;
    if (now.st_mtim.tv_sec == control_time.tv_sec && now.st_mtim.tv_nsec == control_time.tv_nsec
        && now.st_size == control_size && now.st_ino == control_inode)
        return;
    control_time = now.st_mtim;
    control_size = now.st_size;
    control_inode = now.st_ino;
    char text[PLAN_BYTES];
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length < 0 || length == sizeof text - 1) give_up("the control file is too long", control);
    text[length] = 0;
    parse_plan(text);
    plan++;
}

/* Bytes straight to the record. */
static void put_raw(const void *bytes, size_t length) {
    while (length) {
        ssize_t put = syscall(SYS_write, record, bytes, length);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) give_up("the record cannot be written", strerror(errno));
        bytes = (const char *)bytes + put;
        length -= (size_t)put;
    }
}

static void put_frame(int hold, struct frame frame, const void *payload) {
    if (record < 0) return;
    frame.thread = (uint32_t)syscall(SYS_gettid);
    if (hold) {
        held = realloc(held, held_length + sizeof frame + frame.length);
        if (!held) give_up("no memory", "");
        memcpy(held + held_length, &frame, sizeof frame);
        memcpy(held + held_length + sizeof frame, payload, frame.length);
        held_length += sizeof frame + frame.length;
        return;
    }
    /* One system call, so that a kill leaves whole frames. */
    struct iovec parts[2] = {{&frame, sizeof frame}, {(void *)payload, frame.length}};
    ssize_t put = syscall(SYS_writev, record, parts, 2);
    if (put < 0) give_up("the record cannot be written", strerror(errno));
    size_t done = (size_t)put;
    if (done < sizeof frame) give_up("the record cannot be written whole", "");
    put_raw((const char *)payload + (done - sizeof frame), frame.length - (done - sizeof frame));
}

static void put_held(void) {
    if (record >= 0 && held_length) put_raw(held, held_length);
    held_length = 0;
}

static void put_fault(const struct rule *rule, const char *path) {
    static const char *names[] = {"", "kill", "killafter", "stall", "eio", "enospc", "short", "skip", "hold", "release"};
    char text[PATH_MAX + 64];
    if (rule->action == ACTION_HOLD || rule->action == ACTION_RELEASE || rule->action == ACTION_SKIP) return;
    int length = snprintf(text, sizeof text, "%s %s", names[rule->action], path);
    put_frame(0, (struct frame){.length = (uint32_t)length, .kind = FRAME_FAULT}, text);
}

static void end_process(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Which action a call meets. Called with the mutex held; a stall gives it up meanwhile. */
static enum action meet(int kinds, const char *path) {
    refresh_plan();
again:;
    struct rule *fires = NULL;
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (!(rule->kinds & kinds) || fnmatch(rule->pattern, path, 0)) continue;
        rule->seen++;
        if (!fires && (rule->seen == rule->nth || (rule->on && rule->seen > rule->nth))) fires = rule;
    }
    if (!fires) return ACTION_NONE;
    put_fault(fires, path);
    if (fires->action == ACTION_KILL) end_process();
    if (fires->action != ACTION_STALL) return fires->action;
    /* Another thread may be the one that takes over the new plan. */
    for (unsigned long stalled_by = plan;;) {
        pthread_mutex_unlock(&mutex);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pthread_mutex_lock(&mutex);
        refresh_plan();
        if (plan != stalled_by) goto again;
    }
}

static void after(enum action action) {
    if (action == ACTION_KILLAFTER) end_process();
    if (action == ACTION_RELEASE) put_held();
}

/* Whether the call fails, with errno set. */
static int fails(enum action action) {
    if (action == ACTION_EIO) errno = EIO;
    else if (action == ACTION_ENOSPC) errno = ENOSPC;
    else return 0;
    return 1;
}

/* ---- paths and descriptors ---- */

/* The path below the root into `out`; false when it is not below it. Purely by the letters. */
static int below(int directory, const char *path, char *out) {
    char whole[PATH_MAX * 2], clean[PATH_MAX * 2];
    if (!active || !path) return 0;
    if (path[0] == '/') snprintf(whole, sizeof whole, "%s", path);
    else if (directory == AT_FDCWD) {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
    } else if (directory >= 0 && directory < FDS && descriptors[directory].used && descriptors[directory].directory)
        snprintf(whole, sizeof whole, "%s/%s/%s", root, descriptors[directory].path, path);
    else return 0;
    size_t length = 0;
    for (const char *at = whole; *at;) {
        while (*at == '/') at++;
        const char *end = strchrnul(at, '/');
        size_t part = (size_t)(end - at);
        if (part == 2 && at[0] == '.' && at[1] == '.') {
            while (length && clean[--length] != '/') {}
        } else if (part && !(part == 1 && at[0] == '.')) {
            clean[length++] = '/';
            memcpy(clean + length, at, part);
            length += part;
        }
        at = end;
    }
    clean[length] = 0;
    if (strncmp(clean, root, root_length) || (clean[root_length] && clean[root_length] != '/')) return 0;
    const char *relative = clean[root_length] ? clean + root_length + 1 : ".";
    if (strlen(relative) >= sizeof descriptors[0].path) give_up("a path is too long", relative);
    strcpy(out, relative);
    return 1;
}

/* The descriptor's entry, if it is one of ours. It may have been closed by a way that is not seen here and opened again
 * as something else, so the file itself is compared. */
static struct descriptor *known(int fd) {
    if (!active || fd < 0 || fd >= FDS || !descriptors[fd].used) return NULL;
    struct stat now;
    if (fstat(fd, &now) || now.st_dev != descriptors[fd].device || now.st_ino != descriptors[fd].inode) {
        descriptors[fd].used = 0;
        return NULL;
    }
    return &descriptors[fd];
}

static void learn(int fd, const char *path, int directory, int is_marks, uint32_t handle) {
    if (fd >= FDS) give_up("too many open files", path);
    struct stat now;
    if (fstat(fd, &now)) give_up("fstat of a fresh descriptor", path);
    struct descriptor *entry = &descriptors[fd];
    entry->used = 1;
    entry->directory = directory;
    entry->marks = is_marks;
    entry->handle = handle;
    entry->device = now.st_dev;
    entry->inode = now.st_ino;
    strcpy(entry->path, path);
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("RAFT_DISK_ROOT");
    if (!text) return;
    snprintf(root, sizeof root, "%s", text);
    root_length = strlen(root);
    if ((text = getenv("RAFT_DISK_MARKS"))) snprintf(marks, sizeof marks, "%s", text);
    if ((text = getenv("RAFT_DISK_CONTROL"))) snprintf(control, sizeof control, "%s", text);
    if ((text = getenv("RAFT_DISK_SYNC"))) real_syncs = strcmp(text, "record") != 0;
    if ((text = getenv("RAFT_DISK_PLAN"))) {
        char plan[PLAN_BYTES];
        if (strlen(text) >= sizeof plan) give_up("the plan is too long", text);
        parse_plan(strcpy(plan, text));
    }
    if ((text = getenv("RAFT_DISK_RECORD"))) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        /* Out of the way of those who count descriptors. */
        record = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FDS / 2);
        if (record < 0) record = fd;
        else syscall(SYS_close, fd);
        if (record < 0) give_up("the record cannot be opened", text);
    }
    if (getenv("RAFT_DISK_HIDE")) {
        const char *names[] = {"ROOT", "RECORD", "MARKS", "PLAN", "CONTROL", "SYNC", "HIDE"};
        for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
            char name[32];
            snprintf(name, sizeof name, "RAFT_DISK_%s", names[at]);
            unsetenv(name);
        }
    }
    active = 1;
    put_frame(0, (struct frame){.length = (uint32_t)root_length, .kind = FRAME_LIFE}, root);
}

/* ---- open and close ---- */

static int open_tracked(int directory, const char *path, int flags, mode_t mode) {
    char relative[PATH_MAX];
    int is_marks = active && marks[0] && path && !strcmp(path, marks);
    if (!is_marks && !below(directory, path, relative))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    if (is_marks) strcpy(relative, "");
    if ((flags & O_TMPFILE) == O_TMPFILE) give_up("O_TMPFILE is not modelled", path);
    pthread_mutex_lock(&mutex);
    struct stat before;
    int existed = !fstatat(directory, path, &before, 0);
    enum action action = ACTION_NONE;
    if (!is_marks) action = meet(flags & O_CREAT && !existed ? KIND_CREATE | KIND_OPEN : KIND_OPEN, relative);
    int fd = fails(action) ? -1 : (int)syscall(SYS_openat, directory, path, flags, mode);
    int error = errno;
    if (fd >= 0) {
        struct stat now;
        if (fstat(fd, &now)) give_up("fstat of a fresh descriptor", path);
        int is_directory = S_ISDIR(now.st_mode);
        learn(fd, relative, is_directory, is_marks, ++handles);
        int truncated = existed && flags & O_TRUNC && before.st_size > 0;
        uint8_t what = (uint8_t)((existed ? 0 : OPEN_CREATED) | (truncated ? OPEN_TRUNCATED : 0)
                                 | (is_directory ? OPEN_DIRECTORY : 0));
        int writes = (flags & O_ACCMODE) != O_RDONLY;
        if (!is_marks && (writes || is_directory || what))
            put_frame(action == ACTION_HOLD, (struct frame){.length = (uint32_t)strlen(relative), .kind = FRAME_OPEN,
                      .flags = what, .handle = handles, .a = (uint64_t)flags}, relative);
        after(action);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list list; va_start(list, flags); mode = (mode_t)va_arg(list, int); va_end(list); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_tracked(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_tracked(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_tracked(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_tracked(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_tracked(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

static FILE *refuse_to_write(const char *path, const char *mode) {
    char relative[PATH_MAX];
    if (strpbrk(mode, "wa+") && below(AT_FDCWD, path, relative)) give_up("fopen for writing is not modelled", path);
    return NULL;
}

FILE *fopen(const char *path, const char *mode) { REAL(fopen); refuse_to_write(path, mode); return real(path, mode); }
FILE *fopen64(const char *path, const char *mode) { REAL(fopen64); refuse_to_write(path, mode); return real(path, mode); }

int close(int fd) {
    if (active && fd >= 0 && fd < FDS) {
        pthread_mutex_lock(&mutex);
        descriptors[fd].used = 0;
        pthread_mutex_unlock(&mutex);
    }
    return (int)syscall(SYS_close, fd);
}

static int duplicated(int from, int to) {
    if (active && to >= 0 && from != to) {
        pthread_mutex_lock(&mutex);
        struct descriptor *entry = known(from);
        if (entry) learn(to, entry->path, entry->directory, entry->marks, entry->handle);
        else if (to < FDS) descriptors[to].used = 0;
        pthread_mutex_unlock(&mutex);
    }
    return to;
}

int dup(int fd) { REAL(dup); return duplicated(fd, real(fd)); }
int dup2(int from, int to) { REAL(dup2); return duplicated(from, real(from, to)); }
int dup3(int from, int to, int flags) { REAL(dup3); return duplicated(from, real(from, to, flags)); }

#define FCNTL(name) \
    int name(int fd, int command, ...) { \
        REAL(name); \
        va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list); \
        int result = real(fd, command, argument); \
        return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result; \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---- writes ---- */

/* All ways to write come here. `at` is -1 for the descriptor's own position. */
static ssize_t write_tracked(int fd, const struct iovec *parts, int count, off_t at) {
    if (!active || fd < 0 || fd >= FDS || !descriptors[fd].used)
        return at < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, at, 0);
    pthread_mutex_lock(&mutex);
    struct descriptor *entry = known(fd);
    if (!entry) {
        pthread_mutex_unlock(&mutex);
        return at < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, at, 0);
    }
    size_t length = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    char *bytes = malloc(length ? length : 1);
    if (!bytes) give_up("no memory", entry->path);
    size_t filled = 0;
    for (int i = 0; i < count; i++) {
        memcpy(bytes + filled, parts[i].iov_base, parts[i].iov_len);
        filled += parts[i].iov_len;
    }
    enum action action = entry->marks ? ACTION_NONE : meet(KIND_WRITE, entry->path);
    if (action == ACTION_SHORT && length > 1) length /= 2;
    off_t offset = at;
    int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
    if (flags & O_APPEND) {
        struct stat now;
        offset = fstat(fd, &now) ? 0 : now.st_size;
    } else if (at < 0) offset = lseek(fd, 0, SEEK_CUR);
    ssize_t put = -1;
    if (!fails(action)) put = at < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, at);
    int error = errno;
    if (put > 0) {
        put_frame(action == ACTION_HOLD, (struct frame){.length = (uint32_t)put,
                  .kind = entry->marks ? FRAME_MARK : FRAME_WRITE, .handle = entry->handle, .a = (uint64_t)offset}, bytes);
        after(action);
    }
    free(bytes);
    pthread_mutex_unlock(&mutex);
    errno = error;
    return put;
}

#define ONE(bytes, length) (&(struct iovec){(void *)(bytes), (length)}), 1

ssize_t write(int fd, const void *bytes, size_t length) { return write_tracked(fd, ONE(bytes, length), -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return write_tracked(fd, ONE(bytes, length), at); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return write_tracked(fd, ONE(bytes, length), at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_tracked(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return write_tracked(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return write_tracked(fd, parts, count, at); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    (void)flags;
    return write_tracked(fd, parts, count, at);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    return pwritev2(fd, parts, count, at, flags);
}

/* Ways to write that callers can do without: they fall back to reading and writing. */
static int ours(int fd) {
    pthread_mutex_lock(&mutex);
    int found = known(fd) != NULL;
    pthread_mutex_unlock(&mutex);
    return found;
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    REAL(copy_file_range);
    if (ours(to)) { errno = ENOSYS; return -1; }
    return real(from, from_at, to, to_at, length, flags);
}
ssize_t sendfile(int to, int from, off_t *at, size_t length) {
    REAL(sendfile);
    if (ours(to)) { errno = ENOSYS; return -1; }
    return real(to, from, at, length);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t length) { return sendfile(to, from, at, length); }
ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    REAL(splice);
    if (ours(to)) { errno = ENOSYS; return -1; }
    return real(from, from_at, to, to_at, length, flags);
}
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t at) {
    if (fd >= 0 && protection & PROT_WRITE && flags & MAP_SHARED && ours(fd))
        give_up("writing through a mapping is not modelled", descriptors[fd].path);
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, at);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t at) {
    return mmap(address, length, protection, flags, fd, at);
}

/* ---- reads ---- */

/* Reads are not recorded. They can fail. */
static int read_fails(int fd) {
    if (!active || fd < 0 || fd >= FDS || !descriptors[fd].used) return 0;
    pthread_mutex_lock(&mutex);
    struct descriptor *entry = known(fd);
    int failed = entry && !entry->directory && !entry->marks && fails(meet(KIND_READ, entry->path));
    pthread_mutex_unlock(&mutex);
    return failed;
}

ssize_t read(int fd, void *bytes, size_t length) {
    return read_fails(fd) ? -1 : syscall(SYS_read, fd, bytes, length);
}
ssize_t pread(int fd, void *bytes, size_t length, off_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, bytes, length, at);
}
ssize_t pread64(int fd, void *bytes, size_t length, off64_t at) { return pread(fd, bytes, length, at); }
ssize_t readv(int fd, const struct iovec *parts, int count) {
    return read_fails(fd) ? -1 : syscall(SYS_readv, fd, parts, count);
}
ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_preadv, fd, parts, count, at, 0);
}
ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) { return preadv(fd, parts, count, at); }

/* ---- lengths ---- */

int ftruncate(int fd, off_t length) {
    pthread_mutex_lock(&mutex);
    struct descriptor *entry = known(fd);
    enum action action = entry ? meet(KIND_TRUNCATE, entry->path) : ACTION_NONE;
    int result = fails(action) ? -1 : (int)syscall(SYS_ftruncate, fd, length);
    int error = errno;
    if (entry && !result) {
        put_frame(action == ACTION_HOLD,
                  (struct frame){.kind = FRAME_TRUNCATE, .handle = entry->handle, .a = (uint64_t)length}, "");
        after(action);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int truncate(const char *path, off_t length) {
    char relative[PATH_MAX];
    if (below(AT_FDCWD, path, relative)) give_up("truncate by path is not modelled", path);
    return (int)syscall(SYS_truncate, path, length);
}
int truncate64(const char *path, off64_t length) { return truncate(path, length); }

int fallocate(int fd, int mode, off_t at, off_t length) {
    pthread_mutex_lock(&mutex);
    struct descriptor *entry = known(fd);
    if (entry && mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) give_up("this fallocate is not modelled", entry->path);
    enum action action = entry ? meet(KIND_TRUNCATE, entry->path) : ACTION_NONE;
    int result = fails(action) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, length);
    int error = errno;
    if (entry && !result) {
        struct stat now;
        /* Blocks alone are no content. A new length reads as zeros, and so does a hole within the length. */
        if (!(mode & FALLOC_FL_KEEP_SIZE) && !fstat(fd, &now))
            put_frame(0, (struct frame){.kind = FRAME_TRUNCATE, .handle = entry->handle, .a = (uint64_t)now.st_size}, "");
        if (mode & FALLOC_FL_PUNCH_HOLE)
            put_frame(0, (struct frame){.kind = FRAME_ZERO, .handle = entry->handle, .a = (uint64_t)at, .b = (uint64_t)length}, "");
        after(action);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}
int fallocate64(int fd, int mode, off64_t at, off64_t length) { return fallocate(fd, mode, at, length); }
int posix_fallocate(int fd, off_t at, off_t length) { return fallocate(fd, 0, at, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t length) { return posix_fallocate(fd, at, length); }

/* ---- syncs ---- */

static int sync_tracked(int fd, long number) {
    pthread_mutex_lock(&mutex);
    struct descriptor *entry = known(fd);
    if (!entry) {
        pthread_mutex_unlock(&mutex);
        return (int)syscall(number, fd);
    }
    enum action action = meet(entry->directory ? KIND_DIRSYNC : KIND_SYNC, entry->path);
    int hold = action == ACTION_HOLD;
    uint32_t handle = entry->handle;
    uint64_t id = ++syncs;
    put_frame(hold, (struct frame){.kind = FRAME_SYNC_START, .handle = handle, .a = id}, "");
    /* Writes of other threads go on meanwhile; only what came before the start is sure to be durable. */
    pthread_mutex_unlock(&mutex);
    int result = fails(action) ? -1 : 0;
    if (!result && action != ACTION_SKIP && real_syncs) result = (int)syscall(number, fd);
    int error = errno;
    pthread_mutex_lock(&mutex);
    put_frame(hold, (struct frame){.kind = FRAME_SYNC_END, .flags = action == ACTION_SKIP ? SYNC_SKIPPED : 0,
              .error = (uint16_t)(result ? error : 0), .handle = handle, .a = id}, "");
    after(action);
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_tracked(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_tracked(fd, SYS_fdatasync); }
/* It promises nothing about a loss of power, so it is none of our business. */
int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, at, length, flags);
}
int syncfs(int fd) {
    if (ours(fd)) give_up("syncfs is not modelled", descriptors[fd].path);
    return (int)syscall(SYS_syncfs, fd);
}
int msync(void *address, size_t length, int flags) { return (int)syscall(SYS_msync, address, length, flags); }

/* ---- names ---- */

static int two_names(int kind, int frame_kind, int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char both[PATH_MAX * 2], second[PATH_MAX];
    int inside = below(from_at, from, both), arrives = below(to_at, to, second);
    int rename_call = frame_kind == FRAME_RENAME;
    if (!inside && !arrives)
        return rename_call ? (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags)
                           : (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    if (inside != arrives) give_up("a name that crosses the root is not modelled", from);
    if (rename_call && flags) give_up("renameat2 with flags is not modelled", from);
    pthread_mutex_lock(&mutex);
    /* A rule names either: the new name says more about what is going on. */
    enum action action = meet(kind, second);
    int result = -1;
    if (!fails(action)) result = rename_call ? (int)syscall(SYS_renameat2, from_at, from, to_at, to, 0)
                                             : (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    int error = errno;
    if (!result) {
        size_t length = strlen(both) + 1;
        strcpy(both + length, second);
        put_frame(action == ACTION_HOLD,
                  (struct frame){.length = (uint32_t)(length + strlen(second)), .kind = (uint8_t)frame_kind}, both);
        for (int fd = 0; rename_call && fd < FDS; fd++)
            if (descriptors[fd].used && !strcmp(descriptors[fd].path, both)) strcpy(descriptors[fd].path, second);
        after(action);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    return two_names(KIND_RENAME, FRAME_RENAME, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
    return two_names(KIND_RENAME, FRAME_RENAME, from_at, from, to_at, to, 0);
}
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    return two_names(KIND_RENAME, FRAME_RENAME, from_at, from, to_at, to, flags);
}
int link(const char *from, const char *to) {
    return two_names(KIND_LINK, FRAME_LINK, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    return two_names(KIND_LINK, FRAME_LINK, from_at, from, to_at, to, (unsigned)flags);
}
int symlink(const char *target, const char *path) {
    char relative[PATH_MAX];
    if (below(AT_FDCWD, path, relative)) give_up("symbolic links are not modelled", path);
    return (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

static int one_name(int kind, int frame_kind, int at, const char *path, mode_t mode, int flags) {
    char relative[PATH_MAX];
    int tracked = below(at, path, relative);
    enum action action = ACTION_NONE;
    if (tracked) {
        pthread_mutex_lock(&mutex);
        action = meet(kind, relative);
    }
    int result = -1;
    if (!fails(action)) result = frame_kind == FRAME_MKDIR ? (int)syscall(SYS_mkdirat, at, path, mode)
                                                           : (int)syscall(SYS_unlinkat, at, path, flags);
    int error = errno;
    if (tracked) {
        if (!result) {
            put_frame(action == ACTION_HOLD,
                      (struct frame){.length = (uint32_t)strlen(relative), .kind = (uint8_t)frame_kind}, relative);
            after(action);
        }
        pthread_mutex_unlock(&mutex);
    }
    errno = error;
    return result;
}

int unlink(const char *path) { return one_name(KIND_UNLINK, FRAME_UNLINK, AT_FDCWD, path, 0, 0); }
int unlinkat(int at, const char *path, int flags) {
    return flags & AT_REMOVEDIR ? one_name(KIND_RMDIR, FRAME_RMDIR, at, path, 0, flags)
                                : one_name(KIND_UNLINK, FRAME_UNLINK, at, path, 0, flags);
}
int mkdir(const char *path, mode_t mode) { return one_name(KIND_MKDIR, FRAME_MKDIR, AT_FDCWD, path, mode, 0); }
int mkdirat(int at, const char *path, mode_t mode) { return one_name(KIND_MKDIR, FRAME_MKDIR, at, path, mode, 0); }
int rmdir(const char *path) { return one_name(KIND_RMDIR, FRAME_RMDIR, AT_FDCWD, path, 0, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlink(path);
    return result && errno == EISDIR ? rmdir(path) : result;
}
