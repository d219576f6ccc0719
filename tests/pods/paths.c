/* Tries to reach files, programs, sockets and processes of a container from a command whose every path is
   resolved for it. Each success is a line that begins with BREACH; the last line says that all was tried.

   `paths serve` is the other side: it listens at /tmp/witness.sock and writes /tmp/breach when it is
   called. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define WITNESS "/tmp/witness"
#define SOCKET "/tmp/witness.sock"
#define MARK 0x4255494cL
#define ASK 0x42554c44
#define ROUNDS 3000

static void breach(const char *how, const char *what) { printf("BREACH %s: %s\n", how, what); }

static int serve(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(fd, (void *)&name, sizeof name) || listen(fd, 8)) return 1;
    for (;;)
        if (accept(fd, 0, 0) >= 0) close(open("/tmp/breach", O_WRONLY | O_CREAT, 0600));
}

/* Every call that takes a path, with one that would lead to the witness. */
static void reach(const char *path)
{
    struct stat st;
    struct statfs fs;
    char buffer[4096];
    char to[4096];
    struct timeval times[2] = {{1, 0}, {1, 0}};
    snprintf(to, sizeof to, "%s.moved", path);
    if (open(path, O_RDONLY) >= 0) breach("open", path);
    if (open(path, O_RDWR | O_CREAT | O_EXCL, 0600) >= 0) unlink(path);
    if (stat(path, &st) == 0) breach("stat", path);
    if (syscall(SYS_open, path, O_RDONLY) >= 0) breach("old open", path);
    if (access(path, F_OK) == 0) breach("access", path);
    if (readlink(path, buffer, sizeof buffer) >= 0) breach("readlink", path);
    if (chmod(path, 0777) == 0) breach("chmod", path);
    if (lchown(path, -1, -1) == 0) breach("lchown", path);
    if (truncate(path, 0) == 0) breach("truncate", path);
    if (utimes(path, times) == 0) breach("utimes", path);
    if (setxattr(path, "user.x", "x", 1, 0) == 0) breach("setxattr", path);
    if (getxattr(path, "user.w", buffer, 8) >= 0) breach("getxattr", path);
    if (statfs(path, &fs) == 0) breach("statfs", path);
    if (link(path, "/linked") == 0) breach("link", path);
    if (rename(path, "/renamed") == 0) breach("rename", path);
    if (rename(path, to) == 0) breach("rename beside", path);
    if (unlink(path) == 0) breach("unlink", path);
    if (chdir(path) == 0) breach("chdir", path);
    if (chroot(path) == 0) breach("chroot", path);
    if (inotify_add_watch(inotify_init(), path, IN_ACCESS) >= 0) breach("inotify", path);
    if (fork() == 0) {
        execl(path, path, (char *)0);
        _exit(7);
    }
    int status;
    wait(&status);
    if (WEXITSTATUS(status) != 7) breach("execve", path);
}

/* A string that another process changes all the time between a name inside and one outside. */
static void race(void)
{
    char *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    close(open("/inside1234", O_WRONLY | O_CREAT, 0755));
    strcpy(shared, "/inside1234");
    pid_t other = fork();
    if (other == 0)
        for (;;) {
            memcpy(shared, WITNESS, sizeof WITNESS);
            memcpy(shared, "/inside1234", sizeof "/inside1234");
        }
    struct stat st;
    char text[16];
    for (int i = 0; i < ROUNDS; i++) {
        int fd = open(shared, O_RDWR);
        if (fd >= 0 && pread(fd, text, 9, 0) == 9 && memcmp(text, "untouched", 9) == 0)
            breach("open", "a path that changed");
        close(fd);
        if (stat(shared, &st) == 0 && st.st_size == 10) breach("stat", "a path that changed");
        chmod(shared, 0755);
        truncate(shared, 0);
    }
    kill(other, SIGKILL);
    waitpid(other, 0, 0);
}

/* A directory that another process moves up and down while a path goes through it. */
static void moves(void)
{
    mkdir("/a", 0700), mkdir("/a/b", 0700), mkdir("/a/b/c", 0700), mkdir("/x", 0700);
    int deep = open("/a/b/c", O_RDONLY | O_DIRECTORY);
    pid_t other = fork();
    if (other == 0)
        for (;;) rename("/a/b", "/x/b"), rename("/x/b", "/a/b");
    for (int i = 0; i < ROUNDS; i++) {
        int fd = openat(deep, "../../../../../../.." WITNESS, O_RDWR);
        if (fd >= 0) breach("openat", "above a directory that moved");
        fd = openat(deep, "../..", O_RDONLY | O_DIRECTORY);
        if (fd >= 0 && faccessat(fd, "../../../../.." WITNESS, F_OK, 0) == 0)
            breach("faccessat", "above a directory that moved");
        close(fd);
    }
    kill(other, SIGKILL);
    waitpid(other, 0, 0);
}

struct swap { int one, two, at; };

static int swaps(void *data)
{
    struct swap *swap = data;
    for (;;) dup2(swap->one, swap->at), dup2(swap->two, swap->at);
}

/* A socket for addresses of the internet that becomes one for paths while it is looked at. */
static void sockets(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&name, sizeof name) == 0) breach("connect", SOCKET);
    struct sockaddr_un own = {.sun_family = AF_UNIX, .sun_path = "/own.sock"};
    int bound = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(bound, (void *)&own, sizeof own) != 0) puts("failed: a socket of its own");
    if (connect(bound, (void *)&name, sizeof name) == 0) breach("connect", "a socket that is bound");
    if (socket(AF_UNIX, SOCK_DGRAM, 0) >= 0) breach("socket", "datagrams");
    struct swap swap = {fd, bound, socket(AF_INET, SOCK_STREAM, 0)};
    int inet = dup(swap.at);
    static char stack[65536];
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | SIGCHLD;
    swap.two = inet;
    pid_t other = clone(swaps, stack + sizeof stack, flags & ~CLONE_SIGHAND, &swap);
    for (int i = 0; i < ROUNDS; i++) {
        if (connect(swap.at, (void *)&name, sizeof name) == 0) breach("connect", "a swapped socket");
        swap.one = i % 2 ? fd : bound;
    }
    kill(other, SIGKILL);
    waitpid(other, 0, __WALL);
    struct sockaddr_un abstract = {.sun_family = AF_UNIX};
    strcpy(abstract.sun_path + 1, "witness");
    if (connect(fd, (void *)&abstract, sizeof(sa_family_t) + 8) == 0) breach("connect", "an abstract name");
}

/* What servers and clients may expect of sockets of their own. */
static void servers(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memset(name.sun_path, 'n', 100);
    mkdir("/servers", 0755), chdir("/servers");
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), status;
    struct stat st;
    if (bind(server, (void *)&name, sizeof name) || listen(server, 0)) puts("failed: a long name");
    if (stat(name.sun_path, &st) || !S_ISSOCK(st.st_mode)) puts("failed: the file of a long name");
    if (connect(client, (void *)&name, sizeof name)) puts("failed: a connection by a long name");
    int again = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(again, (void *)&name, sizeof name) == 0 || errno != EADDRINUSE) puts("failed: a name in use");
    if (connect(again, (void *)&name, sizeof name) == 0 || errno != EAGAIN) puts("failed: not to wait");
    if (fork() == 0) {
        int waits = socket(AF_UNIX, SOCK_STREAM, 0);
        char got = 0;
        _exit(connect(waits, (void *)&name, sizeof name) || read(waits, &got, 1) != 1 || got != 'x');
    }
    usleep(50000);
    int first = accept(server, 0, 0), second = accept(server, 0, 0);
    if (first < 0 || second < 0 || write(second, "x", 1) != 1) puts("failed: to accept");
    if (wait(&status) < 0 || status != 0) puts("failed: to wait for a server");
    close(server), close(client), close(again), close(first), close(second);
    chdir("/");
}

/* The same openers of a pipe twice, which wait until they are killed; how many can is bounded. */
static int waiters(void)
{
    enum { MANY = 160, MOST = 128 };
    pid_t all[MANY];
    int status;
    mkfifo("/never", 0600);
    alarm(120);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < MANY; i++)
            if ((all[i] = fork()) == 0) _exit(open("/never", O_RDONLY) < 0 ? errno : 0);
        for (int i = MOST; i < MANY; i++)
            if (wait(&status) < 0 || WEXITSTATUS(status) != EAGAIN) return 1;
        for (int i = 0; i < MANY; i++) kill(all[i], SIGKILL);
        while (wait(0) > 0) {}
        if (round == 1) break;
        if (fork() == 0) _exit(open("/never", O_RDONLY) < 0);
        int end = open("/never", O_WRONLY);
        if (end < 0 || wait(&status) < 0 || status != 0) return 2;
        close(end);
    }
    return 0;
}

/* A descriptor that becomes a pipe, which has no other end, while it is opened: who answers must not wait. */
static void pipes(void)
{
    mkfifo("/waiting", 0600);
    int pipe = open("/waiting", O_RDONLY | O_NONBLOCK), file = open("/inside1234", O_RDONLY | O_CREAT, 0600);
    if (pipe < 0 || file < 0) return;
    struct swap swap = {pipe, file, dup(file)};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", getpid(), swap.at);
    static char stack[65536];
    pid_t other = clone(swaps, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, &swap);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        if (child == 0)
            for (;;) close(open(path, O_RDONLY));
        for (int n = 0; n < 20; n++) access(path, F_OK);
        kill(child, SIGKILL);
        waitpid(child, 0, 0);
    }
    kill(other, SIGKILL);
    waitpid(other, 0, __WALL);
    close(pipe);
}

/* Whatever process can be looked at is one that can be signalled. */
static void others(void)
{
    char path[300], buffer[64];
    mkfifo("/unopened", 0600);
    pid_t child = fork();
    if (child == 0) _exit(open("/unopened", O_RDONLY) >= 0);
    for (int i = 0; i < 100; i++) access("/", F_OK);
    DIR *all = opendir("/proc");
    for (struct dirent *entry; all && (entry = readdir(all));) {
        if (!isdigit(entry->d_name[0]) || kill(atoi(entry->d_name), 0) == 0) continue;
        const char *names[] = {"status", "cmdline", "environ", "maps", "fd", "fd/0", "exe", "cwd"};
        for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, names[n]);
            if (open(path, O_RDONLY) >= 0 || readlink(path, buffer, sizeof buffer) >= 0)
                breach("a process of others", path);
        }
    }
    int file = open("/proc/self/comm", O_RDONLY);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", child, file);
    if (open(path, O_RDONLY) >= 0) breach("open", "a descriptor that another process has not");
    snprintf(path, sizeof path, "/proc/%d/fd/0", child);
    if (access(path, F_OK) != 0) puts("failed: looking at a child");
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    if (access(path, F_OK) == 0) breach("access", "a process that is gone");
    snprintf(path, sizeof path, "/proc/0%d/status", getpid());
    if (open(path, O_RDONLY) >= 0) breach("open", path);
}

/* Writes the beginning of capabilities: the revision. */
static int capable(const char *path, unsigned revision, size_t size)
{
    unsigned char value[256] = {revision, revision >> 8, revision >> 16, revision >> 24, 1};
    return setxattr(path, "security.capability", value, size, 0);
}

/* What only owners may do. */
static void owners(void)
{
    const unsigned second = 0x02000000, third = 0x03000000;
    close(open("/roots", O_WRONLY | O_CREAT, 0755));
    chmod("/roots", 0755), setxattr("/roots", "user.kept", "x", 1, 0);
    if (fork() == 0) {
        if (setgid(5) || setuid(5)) _exit(0);
        if (chmod("/roots", 04755) == 0) breach("chmod", "a file of root's");
        int file = open("/roots", O_RDONLY);
        if (fchmod(file, 0777) == 0) breach("fchmod", "a file of root's");
        if (setxattr("/roots", "user.x", "x", 1, 0) == 0) breach("setxattr", "a file of root's");
        if (fremovexattr(file, "user.kept") == 0) breach("removexattr", "a file of root's");
        if (capable("/roots", second, 20) == 0) breach("setxattr", "capabilities");
        int own = open("/tmp/own-file", O_WRONLY | O_CREAT, 0600);
        if (fchmod(own, 04711) || setxattr("/tmp/own-file", "user.x", "x", 1, 0)) puts("failed: a file of its own");
        if (fchmod(memfd_create("own", 0), 0700)) puts("failed: a file in memory");
        if (capable("/tmp/own-file", second, 20) == 0) breach("setxattr", "capabilities of its own file");
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    struct { unsigned revision; size_t size; } junk[] = {
        {second, 0}, {second, 4}, {second, 12}, {second, 24}, {second, 65}, {second, 255}, {third, 20},
        {0x01000000, 12}, {0x04000000, 20}, {second + 2, 20}, {0, 20}};
    for (unsigned n = 0; n < sizeof junk / sizeof *junk; n++)
        if (capable("/roots", junk[n].revision, junk[n].size) == 0 || (errno != EINVAL && getuid() == 0))
            breach("setxattr", "junk for capabilities");
    if (capable("/roots", second | 1, 20) || removexattr("/roots", "security.capability"))
        puts("failed: capabilities");
    const char *names[] = {"system.posix_acl_access", "system.posix_acl_default"};
    for (int n = 0; n < 2; n++) {
        if (setxattr("/roots", names[n], "\2\0\0\0", 4, 0) == 0 || (errno != EOPNOTSUPP && getuid() == 0))
            breach("setxattr", names[n]);
        if (setxattr("/tmp", names[n], "\2\0\0\0", 4, 0) == 0) breach("setxattr of a directory", names[n]);
    }
}

/* What a command may do is not refused with it. */
static void terminal(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave = -1;
    if (master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0)
        slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (slave < 0 || write(master, "x\n", 2) != 2) puts("failed: a terminal");
    const char *others[] = {"/dev/pts/0", "/dev/pts/1", "/dev/pts/2"};
    for (int i = 0; i < 3; i++)
        if (strcmp(others[i], ptsname(master)) && open(others[i], O_RDWR | O_NOCTTY) >= 0)
            breach("open", others[i]);
    close(slave);
    char name[64];
    snprintf(name, sizeof name, "%s", ptsname(master));
    close(master);
    if (open(name, O_RDWR | O_NOCTTY) >= 0) breach("open", "a terminal that is gone");
}

/* Programs that the kernel is asked for as the supervisor asks. */
static void programs(const char *self)
{
    char *args[] = {"x", 0}, *none[] = {0};
    const char *paths[] = {"/bin/busybox", WITNESS, "/usr/lib/os-release", self};
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++)
        if (fork() == 0) {
            syscall(SYS_execveat, AT_FDCWD, paths[i], args, none, 0, MARK);
            _exit(errno == EACCES || errno == ENOENT ? 7 : 8);
        } else {
            int status;
            wait(&status);
            if (WEXITSTATUS(status) != 7) breach("execveat", paths[i]);
        }
    /* A program in memory that names an interpreter of the container. */
    struct { Elf64_Ehdr head; Elf64_Phdr parts[2]; char interpreter[32]; } file = {
        .head = {.e_ident = {0x7f, 'E', 'L', 'F', 2, 1, 1}, .e_type = ET_EXEC, .e_machine = EM_X86_64,
            .e_version = 1, .e_entry = 0x700000, .e_phoff = 64, .e_ehsize = 64, .e_phentsize = 56, .e_phnum = 2},
        .interpreter = "/bin/busybox"};
    file.parts[0] = (Elf64_Phdr){.p_type = PT_INTERP, .p_offset = 176, .p_filesz = 13, .p_memsz = 13};
    file.parts[1] = (Elf64_Phdr){.p_type = PT_LOAD, .p_flags = 5, .p_vaddr = 0x700000,
        .p_filesz = sizeof file, .p_memsz = sizeof file, .p_align = 4096};
    int fd = memfd_create("own", 0);
    if (write(fd, &file, sizeof file) != sizeof file) puts("short");
    if (fork() == 0) {
        syscall(SYS_execveat, fd, "", args, none, AT_EMPTY_PATH, MARK);
        _exit(errno == EACCES || errno == ENOENT ? 7 : 8);
    }
    int status;
    wait(&status);
    if (WEXITSTATUS(status) != 7) breach("execveat", "an interpreter of the container");
}

/* Calls by the numbers of other architectures. */
static void foreign(void)
{
    long result = -1;
    if (syscall(0x40000000 + SYS_open, WITNESS, O_RDONLY) >= 0) breach("open", "of x32");
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    strcpy(low, WITNESS);
    if (fork() == 0) {
#ifdef __x86_64__
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(5), "b"(low), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
#endif
        _exit(result >= 0 ? 9 : 7);
    }
    int status;
    wait(&status);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 9) breach("open", "of i386");
    (void)result;
}

static void processes(void)
{
    char buffer[64], path[64];
    struct iovec local = {buffer, sizeof buffer}, remote = {(void *)0x400000, sizeof buffer};
    pid_t keeper = getppid();
    pid_t pids[] = {1, keeper};
    for (int i = 0; i < 2; i++) {
        pid_t pid = pids[i];
        struct rlimit limit = {64, 64};
        if (kill(pid, 0) == 0) breach("kill", i ? "the keeper" : "process 1");
        if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) breach("ptrace", i ? "the keeper" : "process 1");
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) > 0) breach("memory", "another process");
        if (prlimit(pid, RLIMIT_NOFILE, &limit, 0) == 0) breach("prlimit", "another process");
        cpu_set_t set;
        if (sched_getaffinity(pid, sizeof set, &set) == 0 && sched_setaffinity(pid, sizeof set, &set) == 0)
            breach("sched_setaffinity", "another process");
        if (setpriority(PRIO_PROCESS, pid, 1) == 0) breach("setpriority", "another process");
        if (syscall(SYS_ioprio_set, 1, pid, 2 << 13 | 5) == 0) breach("ioprio_set", "another process");
        const char *names[] = {"mem", "environ", "root" WITNESS, "cwd", "exe", "fd", "fd/3", "status", "maps"};
        for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
            snprintf(path, sizeof path, "/proc/%d/%s", pid, names[n]);
            if (open(path, O_RDONLY) >= 0) breach("open", path);
        }
    }
    if (kill(-1, 0) == 0 && errno == 0) {}
    const char *own[] = {"/proc/self/mem", "/proc/self/ns/mnt", "/proc/self/map_files", "/proc/self/root" WITNESS,
        "/proc/self/cwd/../../../../.." WITNESS, "/proc/thread-self/root/../.." WITNESS, "/proc/kcore", "/proc/sysrq-trigger"};
    for (unsigned n = 0; n < sizeof own / sizeof *own; n++)
        if (open(own[n], O_RDONLY) >= 0) breach("open", own[n]);
    if (open("/proc/sys/kernel/hostname", O_WRONLY) >= 0) breach("open", "/proc/sys for writing");
    int numbers[] = {SYS_io_uring_setup, SYS_pidfd_getfd, SYS_kcmp, SYS_unshare, SYS_mount, SYS_open_by_handle_at,
        SYS_name_to_handle_at, SYS_process_vm_writev, SYS_open_tree, SYS_fsopen};
    for (unsigned n = 0; n < sizeof numbers / sizeof *numbers; n++)
        if (syscall(numbers[n], 0, 0, 0, 0, 0) >= 0) breach("a call", "that is refused");
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) breach("prctl", "new privileges");
    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) breach("a descriptor", "that was left open");
}

/* Questions of the loader by who is none, after a program that could not be executed. */
static void questions(const char *self)
{
    char *none[] = {0}, *args[] = {"raised", "raised", 0};
    unsigned long *words = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int from = open(self, O_RDONLY), to = open("/raised", O_WRONLY | O_CREAT, 0755);
    char buffer[65536];
    for (long n; (n = read(from, buffer, sizeof buffer)) > 0;) write(to, buffer, n);
    close(to);
    chmod("/raised", 04755);
    int status;
    for (int odd = 0; odd < 16; odd++)
        if (fork() == 0) {
            memset(words, 0xff, 8192);
            execve(self, (char **)8, none);
            prctl(ASK, (char *)words + odd, 0, 0, 0);
            memset(words + 1, 0, 4096);
            execve(self, (char **)8, none);
            prctl(ASK, words, 0, 0, 0);
            _exit(0);
        } else
            wait(&status);
    if (fork() == 0) {
        int before = open("/", O_RDONLY);
        for (int i = 0; i < 16; i++) execve(self, (char **)8, none), access("/", F_OK);
        if (open("/", O_RDONLY) > before + 2) puts("failed: the descriptors after programs that did not run");
        fflush(stdout);
        _exit(0);
    }
    wait(&status);
    if (fork() == 0) {
        setuid(5);
        memset(words, 0, 8192);
        words += 512;
        words[0] = 1, words[1] = 8;
        execve("/raised", (char **)8, none);
        prctl(ASK, words, 0, 0, 0);
        if (geteuid() == 0) breach("execve", "a set-id program that did not run");
        fflush(stdout);
        execve("/raised", args, none);
        _exit(7);
    }
    wait(&status);
    if (status != 0) puts("failed: a set-id program");
}

#ifdef __x86_64__
/* A call whose instruction becomes an endless loop while the call waits. */
static void loops(void)
{
    for (int i = 0; i < 80; i++) {
        char *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        volatile int *calls = (int *)(page + 1024);
        /* mov eax, chdir; nop; syscall; ret */
        memcpy(page, "\xb8\x50\0\0\0\x90\x0f\x05\xc3", 9);
        pid_t writer = fork();
        if (writer == 0) {
            while (!*calls) {}
            for (volatile int n = 0; n < i * 3000; n++) {}
            *(volatile unsigned short *)(page + 6) = 0xfeeb;
            _exit(0);
        }
        pid_t caller = fork();
        if (caller == 0) {
            struct itimerval soon = {.it_value = {0, 20000}};
            setitimer(ITIMER_REAL, &soon, 0);
            *calls = 1;
            for (;;) ((long (*)(const char *))page)("/");
        }
        int status;
        waitpid(caller, &status, 0);
        kill(writer, SIGKILL);
        waitpid(writer, 0, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) break;
    }
}

static int own_program = -1;

static int executes(void *data)
{
    char *none[] = {0};
    for (volatile int n = 0; n < *(int *)data; n++) {}
    syscall(SYS_execveat, own_program, "", none, none, AT_EMPTY_PATH, MARK);
    return 0;
}

/* Another thread executes a program, an endless loop, while a call waits. */
static void executions(void)
{
    struct { Elf64_Ehdr head; Elf64_Phdr part; char code[8]; } file = {
        .head = {.e_ident = {0x7f, 'E', 'L', 'F', 2, 1, 1}, .e_type = ET_EXEC, .e_machine = EM_X86_64,
            .e_version = 1, .e_entry = 0x700078, .e_phoff = 64, .e_ehsize = 64, .e_phentsize = 56, .e_phnum = 1},
        .part = {.p_type = PT_LOAD, .p_flags = 5, .p_vaddr = 0x700000, .p_filesz = sizeof file,
            .p_memsz = sizeof file, .p_align = 4096},
        .code = "\xeb\xfe"};
    own_program = memfd_create("own", 0);
    write(own_program, &file, sizeof file);
    volatile pid_t *started = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 40; i++) {
        *started = 0;
        if (fork() == 0) {
            if (fork() != 0) _exit(0);
            static char stack[65536];
            int after = i * 20000;
            int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
            *started = getpid();
            clone(executes, stack + sizeof stack, flags, &after);
            for (;;) syscall(SYS_chdir, "/");
        }
        wait(0);
        while (!*started) {}
        usleep(10000);
        access("/", F_OK);
        kill(*started, SIGKILL);
    }
    close(own_program);
}
#else
static void loops(void) {}
static void executions(void) {}
#endif

static int fails_late(void *data)
{
    struct rlimit little = {1 << 16, 1 << 16};
    char *none[] = {0}, *args[] = {"/raised", 0};
    setrlimit(RLIMIT_AS, &little);
    execve("/raised", args, none);
    return 9;
}

/* A thread executes a program, and ends with its process once it has that one's number. */
static int ends(void)
{
    static char stack[65536];
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    clone(fails_late, stack + sizeof stack, flags, 0);
    for (;;) pause();
}

static int waits(void *data) { return read(*(int *)data, data, 1) != 1; }

/* By its own number a process may do what it may by the number zero. */
static void itself(void)
{
    pid_t me = getpid();
    int ends[2], flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    static char stack[65536];
    pipe(ends);
    pid_t thread = clone(waits, stack + sizeof stack, flags, ends);
    struct sched_param param = {0};
    struct rlimit limit, locks = {5, 5};
    cpu_set_t set;
    if (prlimit(me, RLIMIT_NOFILE, 0, &limit) || prlimit(me, RLIMIT_NOFILE, &limit, 0)) puts("failed: its limit");
    if (prlimit(me, RLIMIT_LOCKS, &locks, 0)) puts("failed: its limit of locks");
    pid_t both[] = {me, thread};
    for (int i = 0; i < 2; i++) {
        if (sched_getaffinity(both[i], sizeof set, &set) || sched_setaffinity(both[i], sizeof set, &set))
            puts("failed: its processors");
        if (sched_setscheduler(both[i], SCHED_OTHER, &param)) puts("failed: its policy");
        if (setpriority(PRIO_PROCESS, both[i], 0)) puts("failed: its priority");
        if (syscall(SYS_ioprio_set, 1, both[i], 2 << 13 | 4)) puts("failed: its priority of storage");
    }
    write(ends[1], "x", 1);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "ends") == 0) return ends();
    if (argc > 1 && strcmp(argv[1], "raised") == 0) return geteuid() != 0 || getauxval(AT_SECURE) != 1;
    if (argc > 1 && strcmp(argv[1], "waiters") == 0) return waiters();
    if (argc > 1) return serve();
    processes();
    itself();
    char up[512] = "/", path[600];
    reach(WITNESS);
    for (int i = 0; i < 40; i++) strcat(up, "../");
    strcat(up, "tmp/witness");
    reach(up);
    reach(up + 1);
    symlink(WITNESS, "/absolute");
    reach("/absolute/../witness");
    symlink(up + 1, "/relative");
    symlink("/proc/1/root" WITNESS, "/magic");
    symlink("/proc/self/root" WITNESS, "/own");
    const char *links[] = {"/absolute", "/relative", "/magic", "/own"};
    for (int i = 0; i < 4; i++) {
        struct stat st;
        if (stat(links[i], &st) == 0) breach("stat", links[i]);
        if (open(links[i], O_RDWR) >= 0) breach("open", links[i]);
        if (chmod(links[i], 0777) == 0) breach("chmod", links[i]);
    }
    int root = open("/", O_RDONLY | O_DIRECTORY);
    if (fchdir(root) != 0 || openat(root, "../../.." WITNESS, O_RDONLY) >= 0) breach("openat", "the root");
    int proc = open("/proc/self", O_RDONLY | O_DIRECTORY);
    if (openat(proc, "../1/root" WITNESS, O_RDONLY) >= 0) breach("openat", "a directory of /proc");
    if (fchdir(proc) == 0 && open("root/../../../.." WITNESS, O_RDONLY) >= 0) breach("open", "from /proc");
    fchdir(root);
    for (int depth = 1; depth < 12; depth++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d/", root);
        for (int i = 0; i < depth; i++) strcat(path, "../");
        strcat(path, "tmp/witness");
        if (open(path, O_RDONLY) >= 0) breach("open", path);
    }
    terminal();
    race();
    moves();
    sockets();
    servers();
    pipes();
    others();
    owners();
    programs(argv[0]);
    foreign();
    questions(argv[0]);
    loops();
    executions();
    puts("all was tried");
    return 0;
}
