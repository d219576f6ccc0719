/* Tries to leave the root directory of a command, or to reach what runs outside of it. Each success is
   a line that begins with BREACH; the last line says that all was tried. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void breach(const char *what) { printf("BREACH %s\n", what); }

int main(int argc, char **argv)
{
    char buffer[64], path[512] = "";
    struct iovec local = {buffer, sizeof buffer}, remote = {(void *)0x400000, sizeof buffer};
    pid_t keeper = getppid();

    mkdir("/jail", 0700);
    if (chroot("/jail") == 0) breach("a second root directory");
    for (int i = 0; i < 40; i++) strcat(path, "../");
    strcat(path, "witness");
    if (access(path, F_OK) == 0) breach("a file above the root");
    if (chmod(path, 0777) == 0) breach("a mode above the root");
    if (mknod("/disk", S_IFBLK | 0600, makedev(254, 0)) == 0) breach("a block device");
    if (mknod("/mem", S_IFCHR | 0600, makedev(1, 1)) == 0) breach("a character device");
    if (mount("none", "/jail", "tmpfs", 0, "") == 0) breach("a mount");
    if (unshare(CLONE_NEWUSER) == 0) breach("a user namespace");
    if (kill(keeper, 0) == 0) breach("a signal to the keeper");
    if (kill(1, 0) == 0) breach("a signal to process 1");
    if (kill(-1, 0) == 0 && errno == 0) breach("a signal to all");
    if (ptrace(PTRACE_SEIZE, keeper, 0, 0) == 0) breach("a trace of the keeper");
    if (ptrace(PTRACE_SEIZE, 1, 0, 0) == 0) breach("a trace of process 1");
    if (process_vm_readv(keeper, &local, 1, &remote, 1, 0) > 0) breach("the memory of the keeper");
    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) breach("a descriptor that was left open");
    for (int cap = 0; cap < 2; cap++)
        if (prctl(PR_CAPBSET_READ, cap ? 27 : 18, 0, 0, 0) != 0) breach("a capability");
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) breach("new privileges");
    if (open("/proc/1/root/witness", O_RDONLY) >= 0) breach("a root behind /proc");
    for (int i = 1; i < argc; i++) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strcpy(name.sun_path + 1, argv[i]);
        if (connect(fd, (void *)&name, sizeof(sa_family_t) + 1 + strlen(argv[i])) == 0)
            breach("an abstract socket");
    }
    puts("all was tried");
    return 0;
}
