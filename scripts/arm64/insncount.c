/* A QEMU TCG plugin (API 1, QEMU 6 and later): counts executed AArch64 instructions by class, between marks of the guest.
 *
 *   gcc -O2 -fvisibility=hidden -shared -fPIC -o libinsncount.so insncount.c
 *   qemu-aarch64 -plugin libinsncount.so,out=FILE PROGRAM      one JSON line per marked region
 *
 * A mark is prctl(0x45434e4e, N): N=1 starts a region, N=2 ends it. Real kernels answer EINVAL and nothing happens.
 * Counters are global and not atomic: exact for a guest with one busy thread.
 *
 *   gcc -DCLASSIFY -o classify insncount.c; echo 4e849441 | ./classify      says the class of instruction words
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INT, BRANCH, LOAD, STORE, PREFETCH, VLOAD, VSTORE, FMA, DOT, MMLA, IMAC, VOTHER, SVESME, OTHER, CLASSES };
static const char *const name[CLASSES] = { "int",  "branch", "load", "store", "prefetch", "vload", "vstore",
                                           "fma",  "dot",    "mmla", "imac",  "vother",   "svesme", "other" };

/* Loads and stores; `vector` if the registers are those of Advanced SIMD and floating point. */
static int class_of_memory(uint32_t i)
{
    bool vector = (i >> 26) & 1, bit22 = (i >> 22) & 1, load;
    uint32_t group = (i >> 28) & 3, size = i >> 30, opc = (i >> 22) & 3;

    if (group == 1 && !((i >> 24) & 1)) {              /* literal; size 3 of the general registers is PRFM */
        if (!vector && size == 3) return PREFETCH;
        load = true;
    } else if (group == 1) {                           /* unscaled with release or acquire, tags, copies */
        load = opc != 0;
    } else if (group == 3 && !vector) {                /* one register, every way to address it; and atomics */
        if (size == 3 && opc == 2 && (((i >> 24) & 1) || !((i >> 21) & 1) || ((i >> 10) & 3) == 2)) return PREFETCH;
        bool atomic = !((i >> 24) & 1) && ((i >> 21) & 1) && ((i >> 10) & 3) == 0;     /* LDADD, SWP: read and write */
        load = opc != 0 || atomic;
    } else {                                           /* structures LD1..LD4, exclusive, pairs, one vector register */
        load = bit22;
    }
    return vector ? (load ? VLOAD : VSTORE) : (load ? LOAD : STORE);
}

/* Vector instructions of Advanced SIMD, and scalar floating point. */
static int class_of_vector(uint32_t i)
{
    uint32_t top = i & 0x9f000000u, u = (i >> 29) & 1, op;

    if ((i & 0x5f000000u) == 0x1f000000u) return FMA;                  /* FMADD and its kin */
    if (top != 0x0e000000u && top != 0x0f000000u) return VOTHER;
    if ((i & 0x9f208400u) == 0x0e008400u) {                            /* three registers, extension */
        op = (i >> 11) & 15;
        if (op == 2 || op == 3 || op == 13 || op == 15) return DOT;    /* SDOT UDOT, USDOT, BFMMLA, BFDOT */
        if (op == 4 || op == 5) return MMLA;                           /* SMMLA UMMLA, USMMLA */
        return op < 2 ? IMAC : VOTHER;                                 /* SQRDMLAH, SQRDMLSH; FCMLA and FCADD */
    }
    if ((i & 0x9f60c400u) == 0x0e400400u)                              /* three registers of half precision */
        return !u && ((i >> 11) & 7) == 1 ? FMA : VOTHER;
    if ((i & 0x9f200400u) == 0x0e200400u) {                            /* three registers of one type */
        op = (i >> 11) & 31;
        if ((op == 25 && !u) || (op == 29 && !u && !((i >> 22) & 1))) return FMA;      /* FMLA FMLS, FMLAL */
        return op == 18 ? IMAC : VOTHER;                               /* MLA MLS */
    }
    if ((i & 0x9f200c00u) == 0x0e200000u) {                            /* three registers, the result is wider */
        op = (i >> 12) & 15;
        return op >= 8 && op <= 13 ? IMAC : VOTHER;                    /* SMLAL SQDMLAL SMLSL SQDMLSL SMULL SQDMULL */
    }
    if ((i & 0x9f000400u) == 0x0f000000u) {                            /* by element */
        op = (i >> 12) & 15;
        if (!u && (op == 1 || op == 5)) return FMA;                    /* FMLA FMLS */
        if (op == 14 || (op == 15 && !u)) return DOT;                  /* SDOT UDOT, USDOT SUDOT BFDOT */
        if (op == 0 || op == 4 || op == 2 || op == 3 || op == 6 || op == 7 || op == 10 || op == 11) return IMAC;
    }
    return VOTHER;
}

static int class_of(uint32_t i)
{
    uint32_t op0 = (i >> 25) & 15;

    if ((op0 & 14) == 8) return INT;                                   /* data processing, immediate */
    if ((op0 & 14) == 10) return BRANCH;                               /* branches, exceptions, system */
    if ((op0 & 7) == 5) return INT;                                    /* data processing, register */
    if (op0 == 2 || (op0 == 0 && i >> 31)) return SVESME;
    if ((op0 & 5) == 4) return class_of_memory(i);
    if ((op0 & 7) == 7) return class_of_vector(i);
    return OTHER;
}

#ifdef CLASSIFY
int main(void)
{
    uint32_t word;
    while (scanf("%" SCNx32, &word) == 1) puts(name[class_of(word)]);
    return 0;
}
#else

/* The part of qemu-plugin.h that is used, so that its header need not be installed. */
#define EXPORT __attribute__((visibility("default")))
typedef uint64_t plugin_id;
typedef struct {
    const char *target_name;
    struct { int min, cur; } version;
    bool system_emulation;
    int smp_vcpus, max_vcpus;
} plugin_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum plugin_op { INLINE_ADD_U64 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
EXPORT int qemu_plugin_version = 1;

enum { PRCTL = 167, MARK = 0x45434e4e, START = 1, END = 2 };
static uint64_t count[CLASSES], at_start[CLASSES];
static bool inside;
static FILE *out;

/* A block of translated code adds what it holds each time it runs. */
static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    uint32_t holds[CLASSES] = { 0 }, word;
    size_t n = qemu_plugin_tb_n_insns(tb);
    (void)id;
    for (size_t k = 0; k < n; k++) {
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, k)), sizeof word);
        holds[class_of(word)]++;
    }
    for (int c = 0; c < CLASSES; c++)
        if (holds[c]) qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &count[c], holds[c]);
}

static void write_region(void)
{
    for (int c = 0; c < CLASSES; c++)
        fprintf(out, "%s\"%s\": %" PRIu64, c ? ", " : "{", name[c], count[c] - at_start[c]);
    fprintf(out, "}\n");
    fflush(out);
}

static void system_call(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                        uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != PRCTL || a1 != MARK) return;
    if (a2 == START) {
        memcpy(at_start, count, sizeof count);
        inside = true;
    } else if (a2 == END && inside) {
        write_region();
        inside = false;
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int argc, char **argv)
{
    if (strcmp(info->target_name, "aarch64") || argc != 1 || strncmp(argv[0], "out=", 4)) {
        fprintf(stderr, "insncount: for aarch64, with out=FILE\n");
        return -1;
    }
    out = fopen(argv[0] + 4, "w");
    if (!out) {
        perror(argv[0] + 4);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, system_call);
    return 0;
}
#endif
