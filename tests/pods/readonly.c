/* Tries to change what is mounted read-only, by each call that changes something: prints the error of each.
 * /m is such a directory with f, d, l -> f, dangling, out -> /tmp/out and p (a FIFO); /m/rw in it can be
 * written; /deep/er/m is another; /one is such a file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(const char *what, long result) {
    printf("try %s: %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

#define TRY(call) (errno = 0, say(#call, (long)(call)))

static int opened(const char *path, int flags) {
    int file = open(path, flags, 0644), error = errno;
    if (file >= 0) close(file);
    errno = error;
    return file;
}

static int through_proc(const char *path, int how, int flags) {
    char link[64];
    int file = open(path, how);
    if (file < 0) return file;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int result = opened(link, flags), error = errno;
    close(file);
    errno = error;
    return result;
}

static int named(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    int result = bind(file, (void *)&address, sizeof address), error = errno;
    close(file);
    errno = error;
    return result;
}

static int is_shown_read_only(const char *path) {
    struct statvfs found;
    if (statvfs(path, &found) < 0) return -1;
    errno = EROFS;
    return found.f_flag & ST_RDONLY ? 0 : -1;
}

static int in_directory(void) {
    if (chdir("/m/d") < 0) return -1;
    int result = opened("new", O_CREAT | O_WRONLY), error = errno;
    chdir("/");
    errno = error;
    return result;
}

static int by_program(void) {
    int status = system("echo x > /m/f");
    errno = EROFS;
    return status ? -1 : 0;
}

int main(void) {
    umask(022);
    close(open("/tmp/t", O_CREAT | O_WRONLY, 0644));
    TRY(opened("/m/f", O_RDONLY));
    TRY(opened("/m/f", O_WRONLY));
    TRY(opened("/m/f", O_RDWR | O_APPEND));
    TRY(opened("/m/f", O_RDONLY | O_TRUNC));
    TRY(opened("/m/f", O_RDONLY | O_CREAT));
    TRY(opened("/m/f", O_WRONLY | O_CREAT));
    TRY(opened("/m/f", O_WRONLY | O_CREAT | O_EXCL));
    TRY(opened("/m/new", O_WRONLY | O_CREAT));
    TRY(opened("/m/d/new", O_RDONLY | O_CREAT | O_EXCL));
    TRY(opened("/m/none/new", O_WRONLY | O_CREAT));
    TRY(opened("/m/d", O_WRONLY | O_TMPFILE));
    TRY(opened("/m/d", O_WRONLY));
    TRY(opened("/m/d", O_RDONLY | O_DIRECTORY));
    TRY(opened("/m/l", O_WRONLY));
    TRY(opened("/m/l", O_WRONLY | O_NOFOLLOW));
    TRY(opened("/m/dangling", O_WRONLY | O_CREAT));
    TRY(opened("/m/out", O_WRONLY | O_CREAT));
    TRY(opened("/m/p", O_RDWR | O_NONBLOCK));
    TRY(opened("/one", O_WRONLY));
    TRY(opened("/m/../m/./d/../f", O_WRONLY));
    TRY(opened("/to-m/f", O_WRONLY));
    TRY(through_proc("/m/f", O_RDONLY, O_WRONLY));
    TRY(in_directory());
    TRY(by_program());
    TRY(creat("/m/f", 0644));
    TRY(truncate("/m/f", 0));
    TRY(truncate("/m/d", 0));
    TRY(mkdir("/m/new", 0755));
    TRY(mkdir("/m/d", 0755));
    TRY(mkdir("/m", 0755));
    TRY(mkdir("/m/none/new", 0755));
    TRY(rmdir("/m/d"));
    TRY(rmdir("/m/none"));
    TRY(rmdir("/m"));
    TRY(unlink("/m/f"));
    TRY(unlink("/m/none"));
    TRY(unlink("/m/none/none"));
    TRY(unlink("/one"));
    TRY(symlink("x", "/m/new"));
    TRY(symlink("x", "/m/f"));
    TRY(mkfifo("/m/new", 0644));
    TRY(mkfifo("/m/p", 0644));
    TRY(mknod("/m/new", S_IFREG | 0644, 0));
    TRY(link("/m/f", "/m/new"));
    TRY(link("/m/f", "/m/l"));
    TRY(link("/m/f", "/tmp/new"));
    TRY(link("/tmp/t", "/m/new"));
    TRY(link("/one", "/other"));
    TRY(rename("/m/f", "/m/new"));
    TRY(rename("/m/f", "/m/d/f"));
    TRY(rename("/m/none", "/m/new"));
    TRY(rename("/m/f", "/tmp/f"));
    TRY(rename("/tmp/t", "/m/t"));
    TRY(rename("/m", "/m2"));
    TRY(rename("/one", "/two"));
    TRY(rename("/tmp/t", "/one"));
    TRY(renameat2(AT_FDCWD, "/tmp/t", AT_FDCWD, "/one", RENAME_EXCHANGE));
    TRY(chmod("/m/f", 0777));
    TRY(chmod("/m", 0777));
    TRY(chmod("/m/none", 0777));
    TRY(chmod("/one", 0777));
    TRY(chown("/m/f", 1, 1));
    TRY(lchown("/m/l", 1, 1));
    int file = open("/m/f", O_RDONLY);
    TRY(fchmod(file, 0777));
    TRY(fchown(file, 1, 1));
    TRY(futimens(file, NULL));
    TRY(fsetxattr(file, "user.x", "1", 1, 0));
    TRY(fremovexattr(file, "user.x"));
    TRY(write(file, "x", 1));
    TRY(ftruncate(file, 0));
    close(file);
    TRY(utimensat(AT_FDCWD, "/m/f", NULL, 0));
    TRY(utimensat(AT_FDCWD, "/m/l", NULL, AT_SYMLINK_NOFOLLOW));
    TRY(setxattr("/m/f", "user.x", "1", 1, 0));
    TRY(removexattr("/m/f", "user.x"));
    TRY(access("/m/f", R_OK));
    TRY(access("/m/f", W_OK));
    TRY(access("/m/d", W_OK));
    TRY(access("/m/p", W_OK));
    TRY(access("/m/rw", W_OK));
    TRY(named("/m/new"));
    TRY(named("/m/f"));
    TRY(is_shown_read_only("/m/d"));
    TRY(is_shown_read_only("/m/rw"));
    TRY(is_shown_read_only("/tmp"));
    TRY(opened("/m/rw/new", O_WRONLY | O_CREAT));
    TRY(rename("/m/rw/new", "/m/rw/renamed"));
    TRY(rename("/m/rw/renamed", "/m/new"));
    TRY(link("/m/f", "/m/rw/f"));
    TRY(chmod("/m/rw/renamed", 0600));
    TRY(mkdir("/m/rw/d", 0755));
    TRY(rmdir("/m/rw/d"));
    TRY(unlink("/m/rw/renamed"));
    TRY(opened("/deep/er/m/f", O_WRONLY));
    TRY(rename("/deep", "/deeper"));
    TRY(opened("/deeper/er/m/f", O_WRONLY));
    TRY(unlink("/deeper/er/m/f"));
    TRY(opened("/deeper/er/f", O_WRONLY | O_CREAT));
    TRY(rename("/deeper", "/deep"));
    TRY(rename("/deep/er/m", "/deep/er/n"));
    TRY(opened("/deep/er/m/f", O_RDWR));
    TRY(opened("/run/secrets/s", O_WRONLY));
    return 0;
}
