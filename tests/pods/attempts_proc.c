/* Tries to reach through /proc what is not the command's, or to leave by it. Each success is a line that
   begins with BREACH; the last line says that all was tried. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pty.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void breach(const char *what, const char *path) { printf("BREACH %s %s\n", what, path); }

/* Nothing about a process that is not the command's, by any call. */
static void foreign(long pid)
{
    static const char *names[] = {"", "/environ", "/mem", "/maps", "/root", "/root/witness", "/cwd", "/exe",
        "/fd", "/fd/0", "/fd/3", "/fd/9", "/stat", "/status", "/cmdline", "/task", "/map_files", "/ns/mnt",
        "/comm", "/fdinfo/0", "/mountinfo", "/root/../root/witness", "/cwd/witness", "/attr/current"};
    char path[256], text[256];
    struct stat stat;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/%ld%s", pid, names[i]);
        for (int flags = 0; flags < 3; flags++) {
            int fd = open(path, (int[]){O_RDONLY, O_RDWR, O_PATH}[flags]);
            if (fd >= 0) breach("open", path);
        }
        if (lstat(path, &stat) == 0) breach("lstat", path);
        if (readlink(path, text, sizeof text) > 0) breach("readlink", path);
        if (access(path, F_OK) == 0) breach("access", path);
        if (chdir(path) == 0) breach("chdir", path);
    }
}

/* No descriptor of a directory leads out: not its parents, nor what is relative to it. */
static void directories(void)
{
    static const char *names[] = {"/proc", "/proc/self", "/proc/self/fd", "/proc/self/task", "/proc/sys",
        "/proc/self/root", "/proc/self/cwd", "/proc/self/ns", "/proc/self/net", "/dev/fd", "/proc/self/fd/7"};
    static const char *ways[] = {"witness", "../witness", "../../witness", "../../../witness",
        "../../../../../../../../witness", "root/witness", "self/root/../witness", "1/root/witness",
        "1/environ", "../1/environ", "../../1/environ", "self/cwd/../../../../witness", "self/root/proc/1/environ"};
    char what[256];
    int root = open("/", O_RDONLY | O_DIRECTORY);
    dup2(root, 7);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        for (int flags = 0; flags < 2; flags++) {
            int dir = open(names[i], O_DIRECTORY | (flags ? O_PATH : O_RDONLY));
            if (dir < 0) { printf("lacks %s\n", names[i]); continue; }
            struct statfs fs;
            if (fstatfs(dir, &fs) == 0 && fs.f_type == 0x9fa0) breach("a directory of procfs", names[i]);
            for (unsigned j = 0; j < sizeof ways / sizeof *ways; j++) {
                snprintf(what, sizeof what, "%s: %s", names[i], ways[j]);
                if (openat(dir, ways[j], O_RDONLY) >= 0) breach("openat", what);
                if (fchmodat(dir, ways[j], 0777, 0) == 0) breach("fchmodat", what);
                if (fchownat(dir, ways[j], 1, 1, 0) == 0) breach("fchownat", what);
                if (faccessat(dir, ways[j], F_OK, 0) == 0) breach("faccessat", what);
                if (fchdir(dir) == 0) {
                    if (chmod(ways[j], 0777) == 0) breach("chmod from", what);
                    if (setxattr(ways[j], "user.x", "1", 1, 0) == 0) breach("setxattr from", what);
                    if (access(ways[j], F_OK) == 0) breach("access from", what);
                }
                chdir("/");
            }
            close(dir);
        }
    }
    static const char *entered[] = {"/proc", "/proc/self", "/proc/self/fd", "/proc/self/task", "/proc/sys"};
    for (unsigned i = 0; i < sizeof entered / sizeof *entered; i++) {
        if (chdir(entered[i])) { printf("lacks %s to enter\n", entered[i]); continue; }
        for (unsigned j = 0; j < sizeof ways / sizeof *ways; j++) {
            if (chmod(ways[j], 0777) == 0) breach("chmod entered", ways[j]);
            if (open(ways[j], O_RDONLY) >= 0) breach("open entered", ways[j]);
        }
        chdir("/");
    }
}

/* Nothing of the machine is written, and nothing that containers hide is there. */
static void machine(void)
{
    static const char *hidden[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug",
        "/proc/sysrq-trigger", "/proc/acpi", "/proc/kmsg", "/proc/kallsyms", "/proc/iomem", "/proc/bus",
        "/proc/irq/0", "/proc/fs", "/proc/scsi", "/proc/self/mem", "/proc/self/pagemap", "/proc/thread-self/mem",
        "/proc/self/map_files", "/proc/self/clear_refs", "/proc/self/ns/user", "/proc/self/ns/mnt"};
    for (unsigned i = 0; i < sizeof hidden / sizeof *hidden; i++)
        for (int flags = 0; flags < 3; flags++)
            if (open(hidden[i], (int[]){O_RDONLY, O_WRONLY, O_RDWR}[flags]) >= 0) breach("open", hidden[i]);
    static const char *written[] = {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches", "/proc/sys/kernel/panic", "/proc/self/oom_adj", "/proc/self/uid_map",
        "/proc/self/attr/current", "/proc/self/loginuid", "/proc/version", "/proc/self/mountinfo",
        "/proc/self/coredump_filter", "/proc/self/status", "/proc/self/exe", "/proc/self/sched"};
    char path[64];
    for (unsigned i = 0; i < sizeof written / sizeof *written; i++) {
        if (open(written[i], O_WRONLY) >= 0) breach("write", written[i]);
        if (truncate(written[i], 0) == 0) breach("truncate", written[i]);
        if (chmod(written[i], 0777) == 0) breach("chmod", written[i]);
        if (fchownat(AT_FDCWD, written[i], 1, 1, 0) == 0) breach("chown", written[i]);
        if (open(written[i], O_WRONLY | O_CREAT | O_TRUNC, 0666) >= 0) breach("create", written[i]);
        int fd = open(written[i], O_RDONLY);
        if (fd < 0) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        int again = open(path, O_RDWR);
        if (chmod(path, 0777) == 0 && strncmp(written[i], "/proc/sys", 9) && strcmp(written[i], "/proc/version")
            && strcmp(written[i], "/proc/self/mountinfo") && strcmp(written[i], "/proc/self/exe"))
            breach("chmod again", written[i]);
        struct statfs fs;
        if (again >= 0 && fstatfs(again, &fs) == 0 && fs.f_type == 0x9fa0) breach("write again", written[i]);
        close(fd);
    }
    struct stat before, after;
    int fd = open("/proc/version", O_RDONLY);
    fchmod(fd, 0777);
    if (stat("/proc/version", &after) == 0 && (after.st_mode & 0777) != 0444) breach("a mode of", "/proc/version");
    /* The null device that is the input is the command's own. */
    fchmod(0, 0600);
    if (fstat(0, &before) == 0 && stat("/dev/null", &after) == 0 && before.st_ino != after.st_ino)
        breach("a device of the container", "/dev/null");
    fchmod(0, 0666);
    fd = open("/dev/tty", O_PATH);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (open(path, O_RDWR | O_NOCTTY) >= 0) breach("the builder's terminal", path);
}

/* A path that changes between the two readings. */
static volatile char shared[64];
static volatile int stop;

static void *swap(void *argument)
{
    const char *one = "/proc/self/status", *two = argument;
    while (!stop) {
        strcpy((char *)shared, one);
        for (volatile int i = 0; i < 50; i++) {}
        strcpy((char *)shared, two);
        for (volatile int i = 0; i < 50; i++) {}
    }
    return 0;
}

static void races(long pid)
{
    char text[128];
    snprintf(text, sizeof text, "/proc/%ld/environ", pid);
    const char *others[] = {text, "/../../../../witness", "/etc/../../../../witness"};
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        char found[4096];
        stop = 0;
        pthread_create(&thread, 0, swap, (void *)others[i]);
        for (int n = 0; n < 1000; n++) {
            int fd = open((char *)shared, O_RDONLY);
            if (fd < 0) continue;
            ssize_t length = read(fd, found, sizeof found - 1);
            close(fd);
            if (length > 0 && strncmp(found, "Name:", 5)) breach("a path that changed", others[i]);
        }
        stop = 1;
        pthread_join(thread, 0);
    }
    /* Processes that die while they are looked at, and threads that call at once. */
    for (int n = 0; n < 60; n++) {
        pid_t child = fork();
        if (child == 0) {
            open("/proc/self/status", O_RDONLY);
            syscall(SYS_kill, getpid(), SIGKILL);
        }
        char path[64], link[64];
        snprintf(path, sizeof path, "/proc/%d/exe", child);
        readlink(path, link, sizeof link);
        open(path, O_RDONLY | O_CLOEXEC);
        kill(child, SIGKILL);
        waitpid(child, 0, 0);
        if (n % 2 && access(path, F_OK) == 0) breach("a process that is gone", path);
        for (int fd = 20; fd < 40; fd++) close(fd);
    }
}

#ifdef __x86_64__
/* The same paths by the calls of 32-bit programs, with strings that they can name. */
static long narrow(long number, const char *text, long second, long third)
{
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    strcpy(low, text);
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(low), "c"(second), "d"(third) : "memory");
    return result;
}

static void narrow_calls(long pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/environ", pid);
    if (narrow(5, path, O_RDONLY, 0) >= 0) breach("open of 32 bits", path);
    if (narrow(5, "/proc/self/mem", O_RDWR, 0) >= 0) breach("open of 32 bits", "/proc/self/mem");
    if (narrow(5, "/proc/sys/kernel/panic", O_WRONLY, 0) >= 0) breach("open of 32 bits", "a setting");
    if (narrow(33, path, F_OK, 0) == 0) breach("access of 32 bits", path);
}
#else
static void narrow_calls(long pid) { (void)pid; }
#endif

static void works(const char *what, int is) { if (!is) printf("BREACH does not work: %s\n", what); }

/* Terminals: the command's own and no other. */
static void terminals(void)
{
    char name[64], text[64];
    struct stat by_name, open_one;
    for (int number = 0; number < 32; number++) {
        snprintf(name, sizeof name, "/dev/pts/%d", number);
        if (open(name, O_RDWR | O_NOCTTY) >= 0) breach("a terminal of the container", name);
        if (access(name, F_OK) == 0) breach("a terminal of the container", name);
    }
    struct statfs fs;
    works("their file system", !statfs("/dev/pts", &fs) && fs.f_type == 0x1cd1);
    int near = posix_openpt(O_RDWR | O_NOCTTY);
    works("a new terminal", near >= 0 && !grantpt(near) && !unlockpt(near) && !ptsname_r(near, name, sizeof name));
    int far = open(name, O_RDWR | O_NOCTTY);
    works("its far side", far >= 0 && isatty(far) && !(fcntl(far, F_GETFL) & O_NONBLOCK));
    works("its name", !ttyname_r(far, text, sizeof text) && !strcmp(text, name));
    works("its owner", !stat(name, &by_name) && !fstat(far, &open_one) && by_name.st_ino == open_one.st_ino
        && by_name.st_uid == getuid());
    works("what is typed", write(near, "x\n", 2) == 2 && read(far, text, 8) == 2);
    snprintf(text, sizeof text, "/proc/self/fd/%d", near);
    if (open(text, O_RDWR | O_NOCTTY) >= 0) breach("a near side again", text);
    pid_t child = forkpty(&(int){0}, text, 0, 0);
    if (child == 0) _exit(open("/dev/tty", O_RDWR) >= 0 && isatty(0) ? 7 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    works("a terminal of its own", WIFEXITED(status) && WEXITSTATUS(status) == 7);
    close(near);
    works("a terminal that is gone", open(name, O_RDWR | O_NOCTTY) < 0);
}

/* What must work in the meantime. */

static void useful(const char *own)
{
    char text[4096], path[64];
    struct stat stat;
    struct statfs fs;
    ssize_t length = readlink("/proc/self/exe", text, sizeof text);
    works("the link to the program", length > 0 && !strncmp(text, own, length));
    snprintf(path, sizeof path, "/proc/%d/status", getpid());
    works("a number", open(path, O_RDONLY) >= 0);
    works("a status", !access("/proc/thread-self/status", R_OK) && access("/proc/cpuinfo", W_OK));
    works("a stat", !lstat("/proc/self/exe", &stat) && S_ISLNK(stat.st_mode));
    works("a file system", !statfs("/proc", &fs) && fs.f_type == 0x9fa0);
    works("no attributes", getxattr("/proc/self/exe", "user.x", text, 8) < 0 && errno == EOPNOTSUPP);
    int pipes[2];
    pipe(pipes);
    snprintf(path, sizeof path, "/dev/fd/%d", pipes[1]);
    int again = open(path, O_WRONLY);
    works("a pipe again", again >= 0 && write(again, "x", 1) == 1 && !(fcntl(again, F_GETFL) & O_NONBLOCK));
    int named = mkfifo("/fifo", 0600) == 0 ? open("/fifo", O_RDWR) : -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", named);
    works("a pipe with a name", open(path, O_RDONLY) >= 0);
    int file = open("/", O_TMPFILE | O_RDWR, 0600);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    works("a mode by a descriptor", !chmod(path, 0640) && !fstat(file, &stat) && (stat.st_mode & 0777) == 0640);
    works("an owner", !fchownat(AT_FDCWD, path, 5, -1, 0) && !fstat(file, &stat) && stat.st_uid == 5 && stat.st_gid == 0);
    struct timespec times[2] = {{7, 0}, {9, 0}};
    works("a time", !utimensat(AT_FDCWD, path, times, 0) && !fstat(file, &stat) && stat.st_mtime == 9);
    works("a name", !linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) && !access("/named", F_OK));
    works("one of a name that is there", linkat(AT_FDCWD, path, AT_FDCWD, "/named", AT_SYMLINK_FOLLOW) < 0 && errno == EEXIST);
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
    snprintf(path, sizeof path, "%d", pipes[1]);
    works("a descriptor by its directory", openat(dir, path, O_WRONLY) >= 0);
    DIR *listed = fdopendir(dir);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listed));) count += entry->d_name[0] != '.';
    works("a list of descriptors", count > 3);
    works("a name", open("/proc/self/comm", O_WRONLY) >= 0);
    int score = open("/proc/self/oom_score_adj", O_WRONLY);
    works("to be killed sooner", write(score, "500", 3) == 3);
    works("not later", write(score, "-500", 4) < 0);
    works("where it is", chdir("/proc/self") == 0 && open("comm", O_RDONLY) >= 0 && open("fd/1", O_WRONLY) >= 0);
    chdir("/");
    works("a link of the image", open("/mtab", O_RDONLY) >= 0);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "again", (char *)0);
        _exit(1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    works("itself as a program", WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[0], "again")) return 7;
    /* Outside: a terminal that is held, and a program in one. */
    if (argc > 1 && !strcmp(argv[1], "hold")) {
        int near = posix_openpt(O_RDWR | O_NOCTTY);
        if (near < 0 || unlockpt(near)) return 1;
        if (argc > 2) {
            struct sockaddr_un name = {.sun_family = AF_UNIX};
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            strncpy(name.sun_path + 1, argv[2], sizeof name.sun_path - 2);
            if (bind(fd, (void *)&name, sizeof(sa_family_t) + 1 + strlen(argv[2])) || listen(fd, 4)) return 1;
        }
        pause();
    }
    if (argc > 2 && !strcmp(argv[1], "terminal")) {
        int near, status = 1;
        char text[4096];
        pid_t child = forkpty(&near, 0, 0, 0);
        if (child == 0) {
            execv(argv[2], argv + 2);
            _exit(127);
        }
        for (ssize_t length; (length = read(near, text, sizeof text)) > 0;) write(1, text, length);
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    /* A store of which no time tells where files are in memory. */
    if (argc > 2 && !strcmp(argv[1], "store")) {
        int fd = open(argv[2], O_RDWR);
        char *byte = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (byte == MAP_FAILED) return 1;
        *byte += 1;
        return 0;
    }
    /* It is started by the keeper itself; the builder and the spawner came before that. */
    pid_t keeper = getppid();
    for (long pid = 1; pid <= keeper; pid++) foreign(pid);
    if (getuid() == 0) useful("/proc-attempt");
    /* A file of root and its group, which the builder is in. */
    else if (open("/proc/self/root/roots", O_RDONLY) >= 0) breach("a file of another user", "/roots");
    works("a file that all may read", open("/proc/self/root/etc/passwd", O_RDONLY) >= 0);
    terminals();
    directories();
    machine();
    races(keeper);
    narrow_calls(keeper);
    puts("all was tried");
    return 0;
}
