/* Attempts to get out of a sandbox, one per name. Prints "NAME refused: why" or "NAME SUCCEEDED".
 *
 * Each is aimed at what the test made, or so chosen that it does no harm where it succeeds: numbers of
 * modules and images that are none, magic that is wrong, memory of a process that only sleeps. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsmount 432
#endif
#define SYS_mount_setattr_ 442

static void say(const char *name, long result) {
    if (result < 0)
        printf("%s refused: %s\n", name, strerror(errno));
    else
        printf("%s SUCCEEDED\n", name);
    fflush(stdout);
}

static long open_node(const char *path, mode_t kind, dev_t device) {
    unlink(path);
    if (mknod(path, kind | 0600, device) < 0) return -1;
    return open(path, O_RDWR);
}

static long read_memory(pid_t pid) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    return process_vm_readv(pid, &here, 1, &there, 1, 0);
}

/* The way out of a chroot for whoever may leave its folder behind. */
static long chroot_escape(const char *marker) {
    mkdir("/tmp/jail", 0755);
    int outside = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/tmp/jail") < 0) return -1;
    if (fchdir(outside) < 0) return -1;
    for (int i = 0; i < 64; i++)
        if (chdir("..") < 0) return -1;
    if (chroot(".") < 0) return -1;
    return open(marker, O_RDONLY);
}

static long connect_abstract(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(address.sun_path + 1, name, length);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(fd, (void *)&address, sizeof(sa_family_t) + 1 + length);
}

static long by_handle(void) {
    struct { struct file_handle handle; unsigned char bytes[8]; } root = {
        .handle = {.handle_bytes = 8, .handle_type = 1}, .bytes = {2}};
    return open_by_handle_at(open("/", O_RDONLY), &root.handle, O_RDONLY);
}

static long type_into_terminal(void) {
    int fd = open("/dev/tty", O_RDWR);
    if (fd < 0) return -1;
    return ioctl(fd, TIOCSTI, "x");
}

static long raise_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max == RLIM_INFINITY) { errno = ERANGE; return -1; }
    limit.rlim_max++;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

static long overlay_fs(void) {
    return syscall(SYS_fsopen, "tmpfs", 0);
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    const char *marker = argv[1], *abstract = argv[2];
    pid_t victim = atoi(argv[3]);
    dev_t loop = makedev(7, atoi(argv[4])), disk = (dev_t)strtoul(argv[5], 0, 10);
    char path[4096];
    struct timeval time = {1, 0};
    struct bpf_insn none = {0};
    union bpf_attr bpf = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 1,
                          .insns = (unsigned long)&none, .license = (unsigned long)"GPL"};
    struct perf_event_attr perf = {.type = PERF_TYPE_SOFTWARE, .size = sizeof perf};

    say("mount tmpfs", mount("x", "/tmp", "tmpfs", 0, 0));
    say("mount proc", mount("x", "/tmp", "proc", 0, 0));
    say("bind mount", mount("/proc", "/tmp", 0, MS_BIND, 0));
    say("remount /proc/sys writable", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0));
    say("unmount a mask", umount2("/proc/sys", MNT_DETACH));
    say("new mount calls", overlay_fs());
    say("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/proc/sys", 1));
    say("mount_setattr", syscall(SYS_mount_setattr_, AT_FDCWD, "/proc/sys", 0, &(long[4]){0, 1}, 32));
    say("pivot_root", syscall(SYS_pivot_root, ".", "."));
    say("make the loop device and open it", open_node("/tmp/loop", S_IFBLK, loop));
    say("make it in /dev and open it", open_node("/dev/loop", S_IFBLK, loop));
    say("make the disk and open it", open_node("/tmp/disk", S_IFBLK, disk));
    say("make memory and open it", open_node("/tmp/mem", S_IFCHR, makedev(1, 1)));
    say("make the kernel log and open it", open_node("/tmp/kmsg", S_IFCHR, makedev(1, 11)));
    say("mount the loop device", mount("/tmp/loop", "/tmp", "ext4", 0, 0));
    for (int i = 0; i < 6; i++) {
        static const char *kinds[] = {"mnt", "user", "pid", "net", "ipc", "cgroup"};
        snprintf(path, sizeof path, "/proc/1/ns/%s", kinds[i]);
        int fd = open(path, O_RDONLY);
        snprintf(path, sizeof path, "join init's %s namespace", kinds[i]);
        say(path, fd < 0 ? -1 : setns(fd, 0));
    }
    say("new user namespace", unshare(CLONE_NEWUSER));
    say("new mount namespace", unshare(CLONE_NEWNS));
    say("new user namespace by clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    say("trace init", ptrace(PTRACE_ATTACH, 1, 0, 0));
    say("trace the victim", ptrace(PTRACE_ATTACH, victim, 0, 0));
    say("read init's memory", read_memory(1));
    say("read the victim's memory", read_memory(victim));
    say("signal the victim", kill(victim, SIGKILL));
    say("pidfd of the victim", syscall(SYS_pidfd_open, victim, 0));
    int init = syscall(SYS_pidfd_open, 1, 0);
    say("take a descriptor of init", init < 0 ? -1 : syscall(SYS_pidfd_getfd, init, 0, 0));
    snprintf(path, sizeof path, "/proc/1/root%s", marker);
    say("read the marker through init's root", open(path, O_RDONLY));
    say("read the marker", open(marker, O_RDONLY));
    say("write init's program", open("/proc/1/exe", O_WRONLY));
    say("read init's environment", open("/proc/1/environ", O_RDONLY));
    say("open init's memory", open("/proc/1/mem", O_RDWR));
    say("list init's descriptors", open("/proc/1/fd/0", O_RDONLY));
    say("connect to the abstract socket", connect_abstract(abstract));
    say("add a key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    say("use the session keyring", syscall(SYS_keyctl, 1, 0));
    say("load a BPF program", syscall(SYS_bpf, BPF_PROG_LOAD, &bpf, sizeof bpf));
    say("perf_event_open", syscall(SYS_perf_event_open, &perf, 0, -1, -1, 0));
    say("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, ~0UL));
    say("init_module", syscall(SYS_init_module, "none", 4, ""));
    say("finit_module", syscall(SYS_finit_module, 0, "", 0));
    say("delete_module", syscall(SYS_delete_module, "no_such_module", O_NONBLOCK));
    say("userfaultfd", syscall(SYS_userfaultfd, 0));
    say("open by handle", by_handle());
    say("io_uring", syscall(SYS_io_uring_setup, 1, &(char[256]){0}));
    say("fanotify of the file system", syscall(SYS_fanotify_init, 0, O_RDONLY));
    say("reboot with wrong magic", syscall(SYS_reboot, 1, 2, 3, 0));
    say("swap on a file", swapon("/tmp/loop", 0));
    say("process accounting", acct("/tmp/acct"));
    say("set the clock", settimeofday(&time, 0));
    say("set the host name", sethostname("other", 5));
    say("read the kernel log", syscall(SYS_syslog, 3, path, sizeof path));
    say("raise a limit", raise_limit());
    say("type into the terminal", type_into_terminal());
    say("packet of a virtual machine", socket(40, SOCK_STREAM, 0));
    say("the kernel's ciphers", socket(38, SOCK_SEQPACKET, 0));
#ifdef SYS_iopl
    say("ports", syscall(SYS_iopl, 3));
#endif
    static const char *files[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/release_agent", "/sys/power/state", 
        "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/net/tun", "/proc/irq/0",
    };
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "write %s", files[i]);
        say(path, open(files[i], O_WRONLY));
    }
    say("leave a chroot", chroot_escape(marker));
    return 0;
}
