/* Files with capabilities and set-id bits, and all the ways to change their content. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static const int modes[] = {0755, 04755, 04555, 06511, 02745, 04111, 02455};
static const char *ways[] = {"none", "append", "truncate", "open", "ftruncate", "fallocate", "old"};
enum { MODES = sizeof modes / sizeof *modes, WAYS = sizeof ways / sizeof *ways };

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static void make(const char *path, int mode) {
    unsigned int capability[5] = {0x02000001, 1 << 10, 0, 0, 0};
    unlink(path);
    int file = open(path, O_CREAT | O_RDWR, 0644);
    check(file, path);
    check(write(file, "x", 1), "write");
    check(fchmod(file, mode), "fchmod");
    check(fsetxattr(file, "security.capability", capability, sizeof capability, 0), "fsetxattr");
    close(file);
}

static void change(const char *path, const char *way) {
    int file = -1;
    if (!strcmp(way, "none")) {
        check(file = open(path, O_RDWR), path);
    } else if (!strcmp(way, "append")) {
        check(file = open(path, O_WRONLY | O_APPEND), path);
        check(write(file, "y", 1), "write");
    } else if (!strcmp(way, "truncate")) {
        check(truncate(path, 1), path);
    } else if (!strcmp(way, "open")) {
        check(file = open(path, O_WRONLY | O_TRUNC), path);
    } else if (!strcmp(way, "ftruncate")) {
        check(file = open(path, O_RDWR), path);
        check(ftruncate(file, 0), "ftruncate");
    } else if (!strcmp(way, "fallocate")) {
        check(file = open(path, O_RDWR), path);
        check(fallocate(file, 0, 0, 100), "fallocate");
    } else {
        /* The old content and the old times. */
        struct stat stat;
        check(file = open(path, O_RDWR), path);
        check(fstat(file, &stat), "fstat");
        check(pwrite(file, "x", 1, 0), "pwrite");
        struct timespec times[] = {stat.st_atim, stat.st_mtim};
        check(futimens(file, times), "futimens");
    }
    if (file >= 0) close(file);
}

static void show(const char *path) {
    struct stat stat_;
    char value[64], names[64];
    check(stat(path, &stat_), path);
    int length = getxattr(path, "security.capability", value, sizeof value);
    int listed = listxattr(path, names, sizeof names);
    printf("%s %o %d %d\n", path, stat_.st_mode & 07777, length, listed);
}

int main(int count, char **arguments) {
    (void)count;
    mkdir("/f", 0755);
    for (int way = 0; way < WAYS; way++) {
        for (int mode = 0; mode < MODES; mode++) {
            char path[64];
            snprintf(path, sizeof path, "/f/%s-%o", ways[way], modes[mode]);
            if (!strcmp(arguments[1], "make")) make(path, modes[mode]);
            if (!strcmp(arguments[1], "change")) change(path, ways[way]);
            show(path);
        }
    }
    return 0;
}
