// A library to be loaded before libc (LD_PRELOAD): the n-th call on files under a folder fails, is cut short, or is the
// process's last. SQLite, Python and FAISS reach files through these functions alone.
//
// What is not armed costs a comparison; nothing is armed before torture_arm. One thread at a time may call it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, RENAME = 16, TRUNCATE = 32, UNLINK = 64, MAP = 128, MKDIR = 256 };
enum action { COUNT, FAIL, SHORT, KILL_BEFORE, KILL_AFTER, KILL_WITHIN };

enum { MOST_FILES = 4096 };

static char folder[PATH_MAX];
static size_t folder_length;
static unsigned armed_calls;
static long num_calls, chosen_call, num_of_kind[9];
static enum action chosen_action;
static int chosen_errno, is_lasting;
static unsigned char is_under[MOST_FILES];

// Let call number `nth` (from 1) of those in the mask `calls`, on files under `path`, do `action`; if `lasting`, all
// later ones too.
void torture_arm(const char* path, unsigned calls, long nth, int action, int error, int lasting) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    num_calls = 0;
    memset(num_of_kind, 0, sizeof num_of_kind);
    chosen_call = nth;
    chosen_action = (enum action)action;
    chosen_errno = error;
    is_lasting = lasting;
    armed_calls = calls;
}

// Return how many calls there were since torture_arm.
long torture_disarm(void) {
    armed_calls = 0;
    return num_calls;
}

// Return how many calls there were of one kind, a bit of the mask, since torture_arm.
long torture_count(unsigned call) { return num_of_kind[__builtin_ctz(call)]; }

static int is_own_path(int directory, const char* path) {
    if (folder_length == 0 || path == NULL) return 0;
    if (path[0] == '/') return strncmp(path, folder, folder_length) == 0;
    return directory >= 0 && directory < MOST_FILES && is_under[directory];
}

static int is_own_file(int file) { return file >= 0 && file < MOST_FILES && is_under[file]; }

// ── what is not on disk yet ─────────────────────────────────────────────────────────────────────────────────────────

// Inodes of files written, and of folders that got a name, since they were last synced: a power cut may take those back.
static struct { dev_t device; ino_t inode; } unsynced[MOST_FILES];
static int num_unsynced;

static void note(const struct stat* of, int is_synced) {
    for (int i = 0; i < num_unsynced; ++i) {
        if (unsynced[i].device != of->st_dev || unsynced[i].inode != of->st_ino) continue;
        if (is_synced) unsynced[i] = unsynced[--num_unsynced];
        return;
    }
    if (is_synced || num_unsynced == MOST_FILES) return;
    unsynced[num_unsynced].device = of->st_dev;
    unsynced[num_unsynced++].inode = of->st_ino;
}

static void note_file(int file, int is_synced) {
    struct stat of;
    if (is_own_file(file) && fstat(file, &of) == 0) note(&of, is_synced);
}

// Note that a path, if it is one of ours, is a new name in its folder.
static void note_name(const char* path) {
    char parent[PATH_MAX];
    struct stat of;
    if (!is_own_path(-1, path) || snprintf(parent, sizeof parent, "%s", path) >= (int)sizeof parent) return;
    char* slash = strrchr(parent, '/');
    if (slash == NULL || slash == parent) return;
    *slash = 0;
    if (stat(parent, &of) == 0) note(&of, 0);
}

// Note that a file goes: its inode may be another's soon.
static void note_end(const char* path) {
    struct stat of;
    if (is_own_path(-1, path) && lstat(path, &of) == 0 && of.st_nlink == 1) note(&of, 1);
}

// Return how many inodes are not synced, and which.
int torture_unsynced(unsigned long long* inodes, int most) {
    for (int i = 0; i < num_unsynced && i < most; ++i) inodes[i] = unsynced[i].inode;
    return num_unsynced;
}

// ── what a call is to do ────────────────────────────────────────────────────────────────────────────────────────────

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// Count a call, and return what it is to do.
static enum action next_action(unsigned call, int is_own) {
    if (!(armed_calls & call) || !is_own) return COUNT;
    ++num_of_kind[__builtin_ctz(call)];
    long number = ++num_calls;
    if (number != chosen_call && !(is_lasting && number > chosen_call)) return COUNT;
    if (chosen_action == KILL_BEFORE) die();
    if (chosen_action == FAIL) errno = chosen_errno;
    return chosen_action;
}

static void after(enum action action) {
    if (action == KILL_AFTER || action == KILL_WITHIN) die();
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

// ── open, close ─────────────────────────────────────────────────────────────────────────────────────────────────────

static int opened(int file, int is_own, enum action action) {
    if (file >= 0 && file < MOST_FILES) is_under[file] = (unsigned char)is_own;
    after(action);
    return file;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define DEFINE_OPEN(name) \
    int name(const char* path, int flags, ...) { \
        REAL(name); \
        MODE \
        int is_own = is_own_path(-1, path); \
        enum action action = next_action(OPEN, is_own); \
        if (action == FAIL) return -1; \
        if (is_own && (flags & O_CREAT) && access(path, F_OK) != 0) note_name(path); \
        return opened(real(path, flags, mode), is_own, action); \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name) \
    int name(int directory, const char* path, int flags, ...) { \
        REAL(name); \
        MODE \
        int is_own = is_own_path(directory, path); \
        enum action action = next_action(OPEN, is_own); \
        if (action == FAIL) return -1; \
        return opened(real(directory, path, flags, mode), is_own, action); \
    }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

#define DEFINE_FOPEN(name) \
    FILE* name(const char* path, const char* mode) { \
        REAL(name); \
        int is_own = is_own_path(-1, path); \
        enum action action = next_action(OPEN, is_own); \
        if (action == FAIL) return NULL; \
        FILE* stream = real(path, mode); \
        if (stream) opened(fileno(stream), is_own, action); \
        return stream; \
    }
DEFINE_FOPEN(fopen)
DEFINE_FOPEN(fopen64)

int close(int file) {
    REAL(close);
    if (file >= 0 && file < MOST_FILES) is_under[file] = 0;
    return real(file);
}

int fclose(FILE* stream) {
    REAL(fclose);
    int file = stream ? fileno(stream) : -1;
    if (file >= 0 && file < MOST_FILES) is_under[file] = 0;
    return real(stream);
}

// ── read, write ─────────────────────────────────────────────────────────────────────────────────────────────────────

// A call may move fewer bytes than asked for: half of them, or none at an end that is not there yet.
#define TRANSFER(call, whole, part) \
    enum action action = next_action(call, is_own_file(file)); \
    if (action == FAIL) return -1; \
    int is_part = (action == SHORT || action == KILL_WITHIN) && size > 1; \
    ssize_t moved = is_part ? (part) : (whole); \
    if (call == WRITE && moved > 0) note_file(file, 0); \
    after(action); \
    return moved

ssize_t read(int file, void* buffer, size_t size) {
    REAL(read);
    TRANSFER(READ, real(file, buffer, size), real(file, buffer, size / 2));
}
ssize_t write(int file, const void* buffer, size_t size) {
    REAL(write);
    TRANSFER(WRITE, real(file, buffer, size), real(file, buffer, size / 2));
}

#define DEFINE_AT(name, call, kind, position) \
    ssize_t name(int file, kind buffer, size_t size, position offset) { \
        REAL(name); \
        TRANSFER(call, real(file, buffer, size, offset), real(file, buffer, size / 2, offset)); \
    }
DEFINE_AT(pread, READ, void*, off_t)
DEFINE_AT(pread64, READ, void*, off64_t)
DEFINE_AT(pwrite, WRITE, const void*, off_t)
DEFINE_AT(pwrite64, WRITE, const void*, off64_t)

size_t fread(void* buffer, size_t size, size_t count, FILE* stream) {
    REAL(fread);
    enum action action = next_action(READ, is_own_file(fileno(stream)));
    if (action == FAIL) return 0;
    size_t moved = real(buffer, size, count, stream);  // which is short at the end of a file only
    after(action);
    return moved;
}

// ── the rest: done or not done ──────────────────────────────────────────────────────────────────────────────────────

#define DO(call, is_own, result, noted) \
    enum action action = next_action(call, is_own); \
    if (action == FAIL) return -1; \
    int done = (result); \
    if (done == 0) noted; \
    after(action); \
    return done

int fsync(int file) {
    REAL(fsync);
    DO(SYNC, is_own_file(file), real(file), note_file(file, 1));
}
int fdatasync(int file) {
    REAL(fdatasync);
    DO(SYNC, is_own_file(file), real(file), note_file(file, 1));
}
int ftruncate(int file, off_t length) {
    REAL(ftruncate);
    DO(TRUNCATE, is_own_file(file), real(file, length), note_file(file, 0));
}
int ftruncate64(int file, off64_t length) {
    REAL(ftruncate64);
    DO(TRUNCATE, is_own_file(file), real(file, length), note_file(file, 0));
}
int posix_fallocate(int file, off_t offset, off_t length) {
    REAL(posix_fallocate);
    enum action action = next_action(TRUNCATE, is_own_file(file));
    if (action == FAIL) return chosen_errno;
    int error = real(file, offset, length);
    after(action);
    return error;
}
int rename(const char* from, const char* to) {
    REAL(rename);
    note_end(to);
    DO(RENAME, is_own_path(-1, to), real(from, to), note_name(to));
}
int renameat(int from_directory, const char* from, int to_directory, const char* to) {
    REAL(renameat);
    DO(RENAME, is_own_path(to_directory, to), real(from_directory, from, to_directory, to), note_name(to));
}
int unlink(const char* path) {
    REAL(unlink);
    note_end(path);
    DO(UNLINK, is_own_path(-1, path), real(path), (void)0);
}
int unlinkat(int directory, const char* path, int flags) {
    REAL(unlinkat);
    struct stat of;
    int is_found = is_own_path(directory, path) && fstatat(directory, path, &of, AT_SYMLINK_NOFOLLOW) == 0;
    DO(UNLINK, is_own_path(directory, path), real(directory, path, flags), if (is_found) note(&of, 1));
}
int rmdir(const char* path) {
    REAL(rmdir);
    note_end(path);
    DO(UNLINK, is_own_path(-1, path), real(path), (void)0);
}
int mkdir(const char* path, mode_t mode) {
    REAL(mkdir);
    DO(MKDIR, is_own_path(-1, path), real(path, mode), note_name(path));
}

#define DEFINE_MAP(name, position) \
    void* name(void* address, size_t size, int protection, int flags, int file, position offset) { \
        REAL(name); \
        enum action action = next_action(MAP, is_own_file(file)); \
        if (action == FAIL) return MAP_FAILED; \
        void* mapped = real(address, size, protection, flags, file, offset); \
        after(action); \
        return mapped; \
    }
DEFINE_MAP(mmap, off_t)
DEFINE_MAP(mmap64, off64_t)
