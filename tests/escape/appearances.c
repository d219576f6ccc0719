/* Attempts to have the supervisor that shows owners act on what the command may not reach. Arguments: the path
 * of a file outside, whose recorded user is 77. Prints "NAME SUCCEEDED" for each that gets there. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char path[4096], outside[4096];
static volatile int stop;

static void tell(const char *name, int through) { printf("%s %s\n", name, through ? "SUCCEEDED" : "refused"); }

/* Rewrites the path while calls that were made with it are being answered. */
static void *rewrite(void *unused) {
    while (!stop) {
        strcpy(path, "/inside");
        strcpy(path, outside);
    }
    return NULL;
}

/* Lets a folder and a link to outside change places. */
static void *swap(void *unused) {
    while (!stop)
        syscall(SYS_renameat2, AT_FDCWD, "/way", AT_FDCWD, "/link", RENAME_EXCHANGE);
    return NULL;
}

static void race(const char *name, void *(*thread)(void *), const char *looked_at) {
    pthread_t other;
    struct stat seen;
    int through = 0, own = 0;
    stop = 0;
    pthread_create(&other, NULL, thread, NULL);
    /* Until the supervisor answered at least once. */
    for (int i = 0; i < 3000 || (!own && i < 1000000); i++) {
        if (stat(looked_at, &seen) == 0) {
            through |= seen.st_uid == 77;
            own += seen.st_uid == 5;
        }
        chown(looked_at, 5, 6);
        close(open(looked_at, O_CREAT | O_WRONLY, 0600));
    }
    stop = 1;
    pthread_join(other, NULL);
    tell(name, through || !own);
}

int main(int argc, char **argv) {
    static const char *const ways[] = {"", "/../../../../../..", "/proc/self/root", "/proc/1/root",
        "/proc/1/cwd", "/proc/thread-self/root", "/proc/self/root/../../..", "/proc/1/root/../.."};
    struct stat seen;
    char long_path[8192];
    close(open("/inside", O_CREAT | O_WRONLY, 0600));
    chown("/inside", 5, 6);
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        snprintf(long_path, sizeof long_path, "%s%s", ways[i], argv[1]);
        unlink("/to");
        symlink(long_path, "/to");
        int through = stat(long_path, &seen) == 0 || stat("/to", &seen) == 0 || chown(long_path, 5, 6) == 0
            || chown("/to", 5, 6) == 0;
        tell(ways[i], through);
    }

    strcpy(outside, argv[1]);
    race("a path that changes", rewrite, path);

    char *name = strrchr(argv[1], '/');
    mkdir("/way", 0755);
    snprintf(long_path, sizeof long_path, "/way%s", name);
    close(open(long_path, O_CREAT | O_WRONLY, 0600));
    chown(long_path, 5, 6);
    *name = 0;
    symlink(argv[1], "/link");
    race("a link that changes places", swap, long_path);

    /* A place for the answer that the command itself may not write to. */
    int file = open("/inside", O_RDWR);
    ftruncate(file, 4096);
    close(file);
    file = open("/inside", O_RDONLY);
    char *shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    long status = syscall(SYS_fstat, file, shared);
    tell("an answer in a file", status == 0 || shared[24] != 0);
    status = syscall(SYS_fstat, file, 0xffffffff80000000);
    tell("an answer in the kernel", status == 0 || errno != EFAULT);
    status = syscall(SYS_getresuid, 8, 16, 24);
    tell("an answer nowhere", status == 0 || errno != EFAULT);
    status = syscall(SYS_setgroups, 4096, 8);
    tell("more groups than there can be", status == 0);
    printf("done\n");
    return 0;
}
