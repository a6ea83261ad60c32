/* Preloaded: answers the CPUID of libraries whose `cpuid` instructions were replaced by `ud2`, an illegal instruction,
   with that of the CPU less AVX-512, VNNI and AMX; and shows the file CPUINFO as /proc/cpuinfo. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(number) (1u << (number))

/* Intel's manual, volume 2A, CPUID, leaf 7. */
static const unsigned hidden_ebx = /* avx512 f dq ifma pf er cd bw vl */
    BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const unsigned hidden_ecx = /* avx512 vbmi vbmi2 vnni bitalg vpopcntdq */
    BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const unsigned hidden_edx = /* avx512 4vnniw 4fmaps vp2intersect, amx-bf16, avx512-fp16, amx-tile, amx-int8 */
    BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);

static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void answer(int signal, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], eax, ebx, ecx, edx;
    (void)signal, (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0x0b)
        abort();
    __cpuid_count(leaf, part, eax, ebx, ecx, edx);
    if (leaf == 7 && part == 0) {
        ebx &= ~hidden_ebx;
        ecx &= ~hidden_ecx;
        edx &= ~hidden_edx;
    } else if (leaf == 7) { /* avx-vnni, avx512-bf16, amx-fp16, avx-vnni-int8, ...: nothing older than VNNI */
        eax = ebx = ecx = edx = 0;
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void)
{
    struct sigaction action = {0};
    if (real_sigaction)
        return;
    real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    real_sigaction(SIGILL, &action, NULL);
}

/* pytest's faulthandler would take the signal over. */
int sigaction(int signal, const struct sigaction *new, struct sigaction *old)
{
    start();
    if (signal != SIGILL)
        return real_sigaction(signal, new, old);
    if (old)
        memset(old, 0, sizeof *old);
    return 0;
}

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...)                                  \
    {                                                                           \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);          \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;       \
        va_end(rest);                                                           \
        return real(strcmp(path, "/proc/cpuinfo") ? path : CPUINFO, flags, mode); \
    }
OPEN(open)
OPEN(open64)
