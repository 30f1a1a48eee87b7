/* Rules on standard input become libseccomp's program on standard output: the other opinion in a test. */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    scmp_filter_ctx ctx = NULL;
    char word[64];
    while (scanf("%63s", word) == 1) {
        if (!strcmp(word, "default")) {
            unsigned action;
            if (scanf("%u", &action) != 1 || !(ctx = seccomp_init(action)))
                return 2;
            seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        } else if (!strcmp(word, "arch")) {
            unsigned arch;
            if (scanf("%u", &arch) != 1)
                return 3;
            int ret = seccomp_arch_add(ctx, arch);
            if (ret && ret != -EEXIST)
                return 4;
        } else {
            unsigned action, count;
            char name[64];
            struct scmp_arg_cmp tests[6];
            if (scanf("%u %63s %u", &action, name, &count) != 3 || count > 6)
                return 5;
            for (unsigned i = 0; i < count; i++) {
                unsigned index, op;
                unsigned long long a, b;
                if (scanf("%u %u %llu %llu", &index, &op, &a, &b) != 4)
                    return 6;
                tests[i] = (struct scmp_arg_cmp){index, op, a, b};
            }
            int number = seccomp_syscall_resolve_name(name);
            if (number == __NR_SCMP_ERROR)
                continue;
            int ret = seccomp_rule_add_array(ctx, action, number, count, tests);
            if (ret) {
                fprintf(stderr, "%s: %d\n", name, ret);
                return 7;
            }
        }
    }
    return seccomp_export_bpf(ctx, 1) ? 8 : 0;
}
