/* The floor: what the kernel alone takes for a container with Docker's default security and limits.
 *
 *     floor [-n] [-c] [-t] [-m] [-s FILTER] [-o WORK] [-g PARENT] ROOTFS PROGRAM [ARGUMENT...]
 *
 *     -n         no network namespace
 *     -c         join cgroups (v1 hierarchies under /sys/fs/cgroup, or v2) with limits; -g names the parent
 *     -t         the child joins by writing 0 to `tasks` itself (without it the parent writes cgroup.procs)
 *     -m         Docker's mounts, device nodes, masked and read-only paths
 *     -s FILTER  load this compiled filter (struct sock_filter, as in memory)
 *     -o WORK    ROOTFS is the lower directory of an overlay; upper and work are made in WORK
 *
 * One process clones one child into all namespaces; the child mounts, pivots, drops privileges and executes
 * the program; the parent waits and removes the cgroups. No configuration is parsed, no state is written,
 * nothing is checked that a real runtime must check. It stops at the first error and says the line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) < 0) { dprintf(2, "floor: line %d: %s: %s\n", __LINE__, #call, strerror(errno)); _exit(125); } } while (0)
#define HIERARCHIES 8

static const char *hierarchies[HIERARCHIES] = { "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids" };
static const char *parent_group = "/floor";
static int with_network = 1, with_cgroups, join_by_tasks, with_mounts;
static const char *filter_path, *overlay_work;
static int parent_pid;
static int join_files[HIERARCHIES], joins;

static void put(const char *directory, const char *file, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd);
    CHECK(write(fd, text, strlen(text)));
    close(fd);
}

static void copy_down(const char *parent, const char *directory, const char *file)
{
    char path[512], text[256];
    snprintf(path, sizeof path, "%s/%s", parent, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd);
    ssize_t length = read(fd, text, sizeof text - 1);
    CHECK(length);
    close(fd);
    text[length] = 0;
    put(directory, file, text);
}

static const char *device_rules[] = { "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
    "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:200 rwm" };

static void make_cgroups(void)
{
    char parent[256], directory[300];
    for (int i = 0; i < HIERARCHIES; i++) {
        const char *name = hierarchies[i];
        snprintf(parent, sizeof parent, "/sys/fs/cgroup/%s%s", name, parent_group);
        snprintf(directory, sizeof directory, "%s/floor-%d", parent, getpid());
        CHECK(mkdir(directory, 0755));
        if (!strcmp(name, "cpuset")) {
            copy_down(parent, directory, "cpuset.cpus");
            copy_down(parent, directory, "cpuset.mems");
        } else if (!strcmp(name, "memory")) {
            put(directory, "memory.limit_in_bytes", "268435456");
        } else if (!strcmp(name, "cpu")) {
            put(directory, "cpu.shares", "512");
            put(directory, "cpu.cfs_period_us", "100000");
            put(directory, "cpu.cfs_quota_us", "100000");
        } else if (!strcmp(name, "pids")) {
            put(directory, "pids.max", "100");
        } else if (!strcmp(name, "devices")) {
            put(directory, "devices.deny", "a");
            for (size_t r = 0; r < sizeof device_rules / sizeof *device_rules; r++)
                put(directory, "devices.allow", device_rules[r]);
        }
        strcat(directory, join_by_tasks ? "/tasks" : "/cgroup.procs");
        join_files[joins] = open(directory, O_WRONLY | O_CLOEXEC);
        CHECK(join_files[joins++]);
    }
}

static void remove_cgroups(void)
{
    char directory[300];
    for (int i = 0; i < HIERARCHIES; i++) {
        snprintf(directory, sizeof directory, "/sys/fs/cgroup/%s%s/floor-%d", hierarchies[i], parent_group, getpid());
        while (rmdir(directory) < 0 && errno == EBUSY)
            usleep(200);
    }
}

static void mount_into(const char *type, const char *target, unsigned long flags, const char *options)
{
    if (mkdir(target, 0755) < 0 && errno != EEXIST)
        CHECK(-1);
    CHECK(mount(type, target, type, flags, options));
}

static const char *masked[] = { "proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys",
    "proc/latency_stats", "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware",
    "sys/devices/virtual/powercap" };
static const char *readonly[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };

static void docker_mounts(void)
{
    static const struct { const char *name; int major, minor; } nodes[] = {
        { "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 } };
    static const char *links[][2] = { { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
        { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" }, { "/proc/kcore", "dev/core" } };
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    char path[300], from[300];

    mount_into("proc", "proc", quiet, 0);
    mount_into("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    mount_into("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_into("sysfs", "sys", quiet | MS_RDONLY, 0);
    if (with_cgroups) {
        mount_into("tmpfs", "sys/fs/cgroup", quiet, "mode=755");
        for (int i = 0; i < HIERARCHIES; i++) {
            snprintf(path, sizeof path, "sys/fs/cgroup/%s", hierarchies[i]);
            CHECK(mkdir(path, 0755));
            snprintf(from, sizeof from, "/sys/fs/cgroup/%s%s/floor-%d", hierarchies[i], parent_group, parent_pid);
            CHECK(mount(from, path, 0, MS_BIND, 0));
            CHECK(mount(0, path, 0, MS_BIND | MS_REMOUNT | MS_RDONLY | quiet, 0));
        }
        CHECK(mount(0, "sys/fs/cgroup", 0, MS_REMOUNT | MS_RDONLY | quiet, "mode=755"));
    }
    mount_into("mqueue", "dev/mqueue", quiet, 0);
    mount_into("tmpfs", "dev/shm", quiet, "mode=1777,size=65536k");
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        snprintf(path, sizeof path, "dev/%s", nodes[i].name);
        CHECK(mknod(path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
        CHECK(chmod(path, 0666));
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        CHECK(symlink(links[i][0], links[i][1]));
}

static void hide_paths(void)
{
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) {
        if (mount(readonly[i], readonly[i], 0, MS_BIND | MS_REC, 0) < 0 && errno == ENOENT)
            continue;
        CHECK(mount(0, readonly[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
    }
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (mount("/dev/null", masked[i], 0, MS_BIND, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != ENOTDIR)
            CHECK(-1);
        CHECK(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1"));
    }
}

static int child(const char *rootfs, char **arguments)
{
    static struct sock_filter filter[4096];
    struct sock_fprog program = { 0, filter };

    for (int i = 0; join_by_tasks && i < joins; i++)
        CHECK(write(join_files[i], "0", 1));
    if (filter_path) {
        int fd = open(filter_path, O_RDONLY | O_CLOEXEC);
        CHECK(fd);
        ssize_t length = read(fd, filter, sizeof filter);
        CHECK(length);
        close(fd);
        program.len = length / sizeof *filter;
    }
    CHECK(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
    if (overlay_work) {
        char options[900];
        snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", rootfs, overlay_work, overlay_work);
        snprintf(options + 700, 200, "%s/merged", overlay_work);
        CHECK(mount("overlay", options + 700, "overlay", 0, options));
        CHECK(chdir(options + 700));
    } else {
        CHECK(mount(rootfs, rootfs, 0, MS_BIND | MS_REC, 0));
        CHECK(chdir(rootfs));
    }
    if (with_mounts)
        docker_mounts();
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    CHECK(sethostname("floor", 5));
    if (with_mounts)
        hide_paths();

    /* Docker's fourteen capabilities. */
    const uint64_t keep = 0xa80425fbULL;
    for (int capability = 0; capability <= 40; capability++)
        if (!(keep >> capability & 1))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    if (program.len) {
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
            CHECK(-1);
    }
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0, 0, 0 } };
    CHECK(syscall(SYS_capset, &header, data));
    CHECK(execv(arguments[0], arguments));
    return 125;
}

int main(int argc, char **argv)
{
    int option;
    while ((option = getopt(argc, argv, "+nctms:o:g:")) != -1) {
        switch (option) {
        case 'n': with_network = 0; break;
        case 'c': with_cgroups = 1; break;
        case 't': join_by_tasks = 1; break;
        case 'm': with_mounts = 1; break;
        case 's': filter_path = optarg; break;
        case 'o': overlay_work = optarg; break;
        case 'g': parent_group = optarg; break;
        default: return 125;
        }
    }
    if (argc - optind < 2)
        return 125;
    parent_pid = getpid();
    if (with_cgroups)
        make_cgroups();
    int gate[2], pidfd = -1;
    CHECK(pipe2(gate, O_CLOEXEC));
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | (with_network ? CLONE_NEWNET : 0),
        .exit_signal = SIGCHLD, .pidfd = (uintptr_t)&pidfd };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    CHECK(pid);
    if (pid == 0) {
        char byte;
        if (!join_by_tasks)
            CHECK(read(gate[0], &byte, 1));
        _exit(child(argv[optind], argv + optind + 1));
    }
    if (!join_by_tasks) {
        char text[16];
        snprintf(text, sizeof text, "%d", pid);
        for (int i = 0; i < joins; i++)
            CHECK(write(join_files[i], text, strlen(text)));
        CHECK(write(gate[1], "", 1));
    }
    int status;
    CHECK(waitpid(pid, &status, 0));
    if (with_cgroups)
        remove_cgroups();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
