/* FerKD's rule over codes of largest probabilities (coded_rules.py) in C, without the GIL: one pass
   where NumPy takes nine, each over arrays as large as what is read. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <emmintrin.h>
#include <stdint.h>
#include <string.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define STEP 16                   /* views that are looked at together */
#define MOST_STEPS 255            /* whose sums of ones fit into bytes */

typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t Words __attribute__((vector_size(16), aligned(1), may_alias));

/* A byte with its bits in the other order: the first view is the highest bit. */
#define TWO(n) n, n + 2 * 64, n + 1 * 64, n + 3 * 64
#define FOUR(n) TWO(n), TWO(n + 2 * 16), TWO(n + 1 * 16), TWO(n + 3 * 16)
#define SIX(n) FOUR(n), FOUR(n + 2 * 4), FOUR(n + 1 * 4), FOUR(n + 3 * 4)
static const uint8_t turned[256] = {SIX(0), SIX(2), SIX(1), SIX(3)};

/* The codes from which on a view is no longer too low, no longer calibrated, and too high. */
typedef struct {
    uint16_t low, middle, top;
} Edges;

/* Of 16 views, all bits of each: at `low` or above, below `middle`, below `top`. */
typedef struct {
    Bytes above, uncertain, below;
} Sides;

static ALWAYS_INLINE Sides
sides_of(const uint8_t *codes, const int width, Edges edges) {
    if (width == 1) {
        const Bytes values = *(const Bytes *)codes, none = {0};
        return (Sides){
            (Bytes)(values >= none + (uint8_t)edges.low), (Bytes)(values < none + (uint8_t)edges.middle),
            (Bytes)(values < none + (uint8_t)edges.top)
        };
    }
    const Words one = *(const Words *)codes, other = *(const Words *)(codes + 16), none = {0};
#define BOTH(compared, edge) \
    (Bytes) _mm_packs_epi16((__m128i)(one compared none + (edge)), (__m128i)(other compared none + (edge)))
    return (Sides){BOTH(>=, edges.low), BOTH(<, edges.middle), BOTH(<, edges.top)};
#undef BOTH
}

static ALWAYS_INLINE void
put_bits(Bytes which, uint8_t *to, Py_ssize_t bytes) {
    const int bits = _mm_movemask_epi8((__m128i)which);
    to[0] = turned[bits & 255];
    if (bytes > 1) to[1] = turned[bits >> 8];
}

static ALWAYS_INLINE int64_t
sum_of(Bytes ones) {
    const __m128i sums = _mm_sad_epu8((__m128i)ones, _mm_setzero_si128());
    return _mm_cvtsi128_si64(sums) + _mm_cvtsi128_si64(_mm_srli_si128(sums, 8));
}

/* A row of views; adds to counts of those that are too low, calibrated, and pass. */
static ALWAYS_INLINE void
decide_row(
    const uint8_t *codes, const int width, Py_ssize_t views, Edges edges, uint8_t *passes, uint8_t *calibrated,
    int64_t *counts
) {
    Bytes sums[3] = {{0}, {0}, {0}};
    int held = 0;
    for (Py_ssize_t view = 0; view < views; view += STEP) {
        const Py_ssize_t left = views - view < STEP ? views - view : STEP;
        uint8_t last[2 * STEP] = {0};
        Bytes there = (Bytes){0} - 1;
        const uint8_t *from = codes + view * width;
        if (left < STEP) {
            memcpy(last, from, (size_t)(left * width));
            from = last;
            there = (Bytes)((Bytes){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} < (Bytes){0} + (uint8_t)left);
        }
        const Sides sides = sides_of(from, width, edges);
        const Bytes above = sides.above & there;
        const Bytes pass = above & sides.below, change = above & sides.uncertain;
        put_bits(pass, passes + view / 8, (left + 7) / 8);
        put_bits(change, calibrated + view / 8, (left + 7) / 8);
        /* All bits are -1. */
        sums[0] -= there & ~sides.above;
        sums[1] -= change;
        sums[2] -= pass;
        if (++held == MOST_STEPS || view + STEP >= views) {
            for (int part = 0; part < 3; part++) {
                counts[part] += sum_of(sums[part]);
                sums[part] = (Bytes){0};
            }
            held = 0;
        }
    }
}

PyDoc_STRVAR(
    decide_doc,
    "decide(codes, edges, passes, calibrated)\n--\n\n"
    "Decide codes (n, views) uint8 or uint16 by edges of their type, (3, 1) or (3, n): those below\n"
    "the first are too low, those others below the second calibrated, and those below the third pass.\n"
    "Fills passes and calibrated (n, ceil(views / 8)) uint8, view 0 in the highest bit; returns how\n"
    "many are too low, are calibrated, and pass."
);

static PyObject *
decide(PyObject *Py_UNUSED(module), PyObject *args) {
    enum { CODES, EDGES, PASSES, CALIBRATED, PARTS };
    PyObject *objects[PARTS], *result = NULL;
    Py_buffer parts[PARTS] = {{0}};
    int64_t counts[3] = {0};
    if (!PyArg_ParseTuple(args, "OOOO", &objects[CODES], &objects[EDGES], &objects[PASSES], &objects[CALIBRATED]))
        return NULL;
    int fit = 1;
    for (int part = 0; part < PARTS; part++) {
        if (PyObject_GetBuffer(objects[part], parts + part, part < PASSES ? PyBUF_ND : PyBUF_ND | PyBUF_WRITABLE) < 0)
            goto end;
        fit &= parts[part].ndim == 2;
    }
    if (fit) {
        const Py_ssize_t *shape = parts[CODES].shape, *edges = parts[EDGES].shape, width = parts[CODES].itemsize;
        fit = (width == 1 || width == 2) && parts[EDGES].itemsize == width && edges[0] == 3 &&
              (edges[1] == 1 || edges[1] == shape[0]);
        for (int part = PASSES; part < PARTS; part++)
            fit = fit && parts[part].itemsize == 1 && parts[part].shape[0] == shape[0] &&
                  parts[part].shape[1] == (shape[1] + 7) / 8;
    }
    if (!fit) {
        PyErr_SetString(PyExc_ValueError, "codes, edges or bits of other shapes or types");
        goto end;
    }
    const Py_ssize_t images = parts[CODES].shape[0], views = parts[CODES].shape[1], many = parts[EDGES].shape[1];
    const Py_ssize_t width = parts[CODES].itemsize, bytes = (views + 7) / 8;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t image = 0; image < images; image++) {
        const Py_ssize_t own = many == 1 ? 0 : image;
        const uint8_t *codes = (const uint8_t *)parts[CODES].buf + image * views * width;
        uint8_t *passes = (uint8_t *)parts[PASSES].buf + image * bytes;
        uint8_t *calibrated = (uint8_t *)parts[CALIBRATED].buf + image * bytes;
        if (width == 1) {
            const uint8_t *edges = (const uint8_t *)parts[EDGES].buf + own;
            decide_row(codes, 1, views, (Edges){edges[0], edges[many], edges[2 * many]}, passes, calibrated, counts);
        } else {
            const uint16_t *edges = (const uint16_t *)parts[EDGES].buf + own;
            decide_row(codes, 2, views, (Edges){edges[0], edges[many], edges[2 * many]}, passes, calibrated, counts);
        }
    }
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("LLL", (long long)counts[0], (long long)counts[1], (long long)counts[2]);
end:
    for (int part = 0; part < PARTS; part++) PyBuffer_Release(parts + part);
    return result;
}

static PyMethodDef methods[] = {{"decide", decide, METH_VARARGS, decide_doc}, {NULL, NULL, 0, NULL}};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_coded_rules", "FerKD's rule over codes.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__coded_rules(void) {
    return PyModuleDef_Init(&definition);
}
