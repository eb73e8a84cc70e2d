/* Which labels are in doubt (doubtful.py) in C, without the GIL: one pass over codes where NumPy
   takes some twenty, most of them over arrays larger than what was read. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 2

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* How probabilities are stored. */
enum { BYTES, WORDS, FLOATS, SHARES, KINDS };

static const Py_ssize_t top_bytes[KINDS] = {2, 2, 4, 1}, rest_bytes[KINDS] = {1, 2, 4, 1};
static const Py_ssize_t sizes[KINDS] = {1 << 8, 1 << 16, 0, 1 << 8}; /* of all codes of the rest */

#define TOP_STEPS 65534           /* of the largest probability's codes, where they are words */
#define ROUNDED 64                /* 2**-24 of 2**30, the size of 1: more than a single is rounded by */

typedef struct {
    const void *top, *rest;
    const uint16_t *classes, *lists;
    const uint32_t *rest_sizes;
    uint32_t top_most;
    Py_ssize_t images, views, k, listed;
    int64_t first;                /* number of the first label */
    uint32_t num_classes;
    uint64_t most;
    double most_float;
} Labels;

/* Sixteen bytes that are compared at once, read wherever they lie. */
typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t Words __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint64_t Halves __attribute__((vector_size(16)));

#define AHEAD 16                  /* entries behind those of a label that are read with it, at most */
#define MOST_PAIRED 16            /* classes that are compared in pairs; more are marked as seen */

static const uint8_t masks[32] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};

/* All bits of the first bytes. */
static ALWAYS_INLINE Bytes
first(Py_ssize_t bytes) {
    return *(const Bytes *)(masks + 16 - (bytes < 16 ? bytes : 16));
}

static ALWAYS_INLINE int
is_zero(Bytes bits) {
    const Halves halves = (Halves)bits;
    return !(halves[0] | halves[1]);
}

/* Whether codes fall, or stay; some behind them are read, too. */
static ALWAYS_INLINE int
bytes_fall(const uint8_t *codes, Py_ssize_t count) {
    Bytes rising = {0};
    for (Py_ssize_t place = 0; place < count - 1; place += 16)
        rising |= (Bytes)(*(const Bytes *)(codes + place) < *(const Bytes *)(codes + place + 1)) & first(count - 1 - place);
    return is_zero(rising);
}

static ALWAYS_INLINE int
words_fall(const uint16_t *codes, Py_ssize_t count) {
    Bytes rising = {0};
    for (Py_ssize_t place = 0; place < count - 1; place += 8)
        rising |= (Bytes)(*(const Words *)(codes + place) < *(const Words *)(codes + place + 1)) & first(2 * (count - 1 - place));
    return is_zero(rising);
}

/* Whether codes are different; some behind them are read, too. */
static ALWAYS_INLINE int
words_differ(const uint16_t *codes, Py_ssize_t count) {
    Bytes same = {0};
    for (Py_ssize_t place = 0; place < count - 1; place += 8) {
        const Words here = *(const Words *)(codes + place);
#pragma GCC unroll 16
        for (Py_ssize_t step = 1; step < count - place; step++)
            same |= (Bytes)(here == *(const Words *)(codes + place + step)) & first(2 * (count - place - step));
    }
    return is_zero(same);
}

/* Whether codes are ranks that no earlier ones move beyond `room`; some behind are read, too. */
static ALWAYS_INLINE int
ranks_fit(const uint16_t *codes, Py_ssize_t count, uint32_t room) {
    if (room < (uint32_t)count) return 0;
    const Words most = (Words){7, 6, 5, 4, 3, 2, 1, 0} + (uint16_t)(room - 8);
    Bytes beyond = {0};
    for (Py_ssize_t place = 0; place < count; place += 8)
        beyond |= (Bytes)(*(const Words *)(codes + place) > most - (uint16_t)place) & first(2 * (count - place));
    return is_zero(beyond);
}

/* Whether probabilities are numbers, fall, and have a sum that is small enough, for sure. `inside`:
   so many codes lie behind the label's that some may be read. */
static ALWAYS_INLINE int
probabilities_fit(const Labels *of, const int kind, const Py_ssize_t k, const int inside, Py_ssize_t label) {
    const Py_ssize_t others = k - 1;
    if (kind == FLOATS) {
        const float *rest = (const float *)of->rest + label * others;
        float before = ((const float *)of->top)[label];
        double sum = before;
        int fit = before <= 1;
        for (Py_ssize_t place = 0; place < others; place++) {
            fit &= rest[place] <= before;
            before = rest[place];
            sum += before;
        }
        return fit & (before >= 0) & (sum <= of->most_float);
    }
    const uint8_t *bytes = (const uint8_t *)of->rest + label * others;
    const uint16_t *words = (const uint16_t *)of->rest + label * others;
    const uint32_t code = kind == SHARES ? ((const uint8_t *)of->top)[label] : ((const uint16_t *)of->top)[label];
    if (code > of->top_most) return 0;
    /* Of even steps; the value is rounded to single precision. */
    const uint64_t top = kind == SHARES ? 0 : ((uint64_t)code << 30) / TOP_STEPS;
    uint64_t sum = top + ROUNDED;
    for (Py_ssize_t place = 0; place < others; place++) sum += of->rest_sizes[kind == WORDS ? words[place] : bytes[place]];
    if (sum > of->most) return 0;
    if (kind == SHARES || !others) return 1;
    if (of->rest_sizes[kind == WORDS ? words[0] : bytes[0]] + ROUNDED > top) return 0;
    if (inside) return kind == WORDS ? words_fall(words, others) : bytes_fall(bytes, others);
    int fit = 1;
    for (Py_ssize_t place = 1; place < others; place++)
        fit &= kind == WORDS ? words[place] <= words[place - 1] : bytes[place] <= bytes[place - 1];
    return fit;
}

/* As probabilities_fit, of the last labels. */
static __attribute__((noinline)) int
last_probabilities_fit(const Labels *of, int kind, Py_ssize_t label) {
    return probabilities_fit(of, kind, of->k, 0, label);
}

static int
is_held(const Labels *of, int kind, Py_ssize_t label, Py_ssize_t place) {
    const Py_ssize_t at = label * (of->k - 1) + place - 1;
    if (!place) return 1;
    return kind == FLOATS  ? ((const float *)of->rest)[at] > 0
           : kind == WORDS ? ((const uint16_t *)of->rest)[at] > 0
                           : ((const uint8_t *)of->rest)[at] > 0;
}

/* Whether class ids, or ranks in the image's list, are those of different classes, for sure.
   `seen` has the label of all arrays that named each class last; they count from 1. */
static __attribute__((noinline)) int
classes_fit(const Labels *of, int kind, Py_ssize_t label, const uint16_t *list, uint32_t room, uint32_t *seen) {
    const uint16_t *classes = of->classes + label * of->k;
    const uint32_t size = (uint32_t)of->listed, mark = (uint32_t)(of->first + label) + 1;
    int fit = 1;
    for (Py_ssize_t place = 0; place < of->k; place++) {
        const uint32_t code = classes[place], id = code - size;
        const int held = is_held(of, kind, label, place);
        if (code < size) {
            /* Ranks are different, whatever they are; each is moved by the earlier ones at most. */
            fit &= !held | (code + (uint32_t)place < room);
            continue;
        }
        if (id >= of->num_classes) return 0;
        if (!held) continue;
        fit &= seen[id] != mark;
        seen[id] = mark;
        for (uint32_t rank = 0; rank < size; rank++) fit &= list[rank] != id;
    }
    return fit;
}

/* Whether codes of classes are all in range. */
static int
in_range(const uint16_t *classes, Py_ssize_t count, uint32_t limit) {
    const Words most = (Words){0} + (uint16_t)(limit - 1);
    Bytes beyond = {0};
    Py_ssize_t at = 0;
    if (limit > UINT16_MAX) return 1;
    for (; at <= count - 8; at += 8) beyond |= (Bytes)(*(const Words *)(classes + at) > most);
    for (; at < count; at++) beyond |= (Bytes)((Words){0} + classes[at] > most);
    return is_zero(beyond);
}

/* The labels in doubt. What is quick is asked first, where it may be: ids that differ are those of
   a label if all are in range, and so are small ranks. */
static ALWAYS_INLINE Py_ssize_t
find(const Labels *of, const int kind, const Py_ssize_t k, uint32_t *seen, int64_t *out) {
    const Py_ssize_t labels = of->images * of->views;
    const int ranged = in_range(of->classes, labels * k, of->num_classes + (uint32_t)of->listed);
    const Py_ssize_t inside = k > 1 && ranged ? labels - 1 - AHEAD / (k - 1) : 0;
    Py_ssize_t found = 0, label = 0;
    for (Py_ssize_t image = 0; image < of->images; image++) {
        const uint16_t *list = of->lists + image * of->listed;
        uint32_t room = (uint32_t)of->listed;
        while (room && list[room - 1] == UINT16_MAX) room--;
        for (Py_ssize_t view = 0; view < of->views; view++, label++) {
            const uint16_t *classes = of->classes + label * k;
            int fit;
            if (label < inside) {
                fit = probabilities_fit(of, kind, k, 1, label);
                const int quick = of->listed          ? ranks_fit(classes, k, room)
                                  : k <= MOST_PAIRED ? words_differ(classes, k)
                                                      : 0;
                if (!quick) fit = fit && classes_fit(of, kind, label, list, room, seen);
            } else {
                fit = last_probabilities_fit(of, kind, label) && classes_fit(of, kind, label, list, room, seen);
            }
            out[found] = of->first + label;
            found += !fit;
        }
    }
    return found;
}

/* Constants for the compiler, in most stores. */
static ALWAYS_INLINE Py_ssize_t
find_of_kind(const Labels *of, const int kind, uint32_t *seen, int64_t *out) {
    if (of->k == 4) return find(of, kind, 4, seen, out);
    if (of->k == 5) return find(of, kind, 5, seen, out);
    if (of->k == 10) return find(of, kind, 10, seen, out);
    return find(of, kind, of->k, seen, out);
}

static Py_ssize_t
find_of(const Labels *of, int kind, uint32_t *seen, int64_t *out) {
    switch (kind) {
    case BYTES: return find_of_kind(of, BYTES, seen, out);
    case WORDS: return find_of_kind(of, WORDS, seen, out);
    case FLOATS: return find_of_kind(of, FLOATS, seen, out);
    default: return find_of_kind(of, SHARES, seen, out);
    }
}

PyDoc_STRVAR(
    doubtful_doc,
    "doubtful(kind, chunks, rest_sizes, top_most, num_classes, most, most_float, out)\n--\n\n"
    "Fill out (labels,) int64 with the numbers of labels in doubt, chunk after chunk; returns how many.\n"
    "chunks: a list of tuples of top, rest, classes and lists, contiguous. kind: 0 for top (images,\n"
    "views) uint16 and rest (images, views, k - 1) uint8, 1 both uint16, 2 both float32, 3 both uint8,\n"
    "the rest shares. classes (images, views, k) and lists (images, m) uint16. rest_sizes: (2**bits of\n"
    "a code,) uint32, 2**30 for 1, above most for no value. top_most: the largest code of top. most,\n"
    "most_float: the largest sums."
);

enum { TOP, REST, CLASSES, LISTS, PARTS };

/* Whether arrays are those of labels stored in a way. */
static int
parts_fit(const Py_buffer *views, int kind) {
    static const int ndims[PARTS] = {2, 3, 3, 2};
    for (int part = 0; part < PARTS; part++)
        if (views[part].ndim != ndims[part]) return 0;
    const Py_ssize_t *shape = views[CLASSES].shape;
    return shape[2] > 0 && views[TOP].itemsize == top_bytes[kind] && views[REST].itemsize == rest_bytes[kind] &&
           views[CLASSES].itemsize == 2 && views[LISTS].itemsize == 2 && views[TOP].shape[0] == shape[0] &&
           views[TOP].shape[1] == shape[1] && views[REST].shape[0] == shape[0] && views[REST].shape[1] == shape[1] &&
           views[REST].shape[2] == shape[2] - 1 && views[LISTS].shape[0] == shape[0];
}

static PyObject *
doubtful(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *chunks, *objects[2], *result = NULL;
    Py_buffer *views = NULL, rest_sizes = {0}, out = {0};
    uint32_t *seen = NULL;
    int kind;
    unsigned int num_classes, top_most;
    unsigned long long most;
    double most_float;
    if (!PyArg_ParseTuple(
            args, "iO!OIIKdO", &kind, &PyList_Type, &chunks, &objects[0], &top_most, &num_classes, &most, &most_float,
            &objects[1]
        ))
        return NULL;
    const Py_ssize_t count = PyList_Size(chunks);
    if (PyObject_GetBuffer(objects[0], &rest_sizes, PyBUF_ND) < 0 ||
        PyObject_GetBuffer(objects[1], &out, PyBUF_ND | PyBUF_WRITABLE) < 0)
        goto end;
    if (!(views = calloc((size_t)count * PARTS + 1, sizeof *views))) {
        PyErr_NoMemory();
        goto end;
    }
    int fit = kind >= 0 && kind < KINDS && num_classes <= UINT16_MAX && rest_sizes.ndim == 1 && rest_sizes.itemsize == 4 &&
              out.ndim == 1 && out.itemsize == 8 && out.shape[0] < UINT32_MAX;
    fit = fit && rest_sizes.shape[0] >= sizes[kind];
    Py_ssize_t labels = 0;
    for (Py_ssize_t number = 0; fit && number < count; number++) {
        PyObject *chunk = PyList_GetItem(chunks, number);
        fit = PyTuple_Check(chunk) && PyTuple_Size(chunk) == PARTS;
        for (int part = 0; fit && part < PARTS; part++)
            if (PyObject_GetBuffer(PyTuple_GetItem(chunk, part), views + number * PARTS + part, PyBUF_ND) < 0) goto end;
        fit = fit && parts_fit(views + number * PARTS, kind);
        if (fit) labels += views[number * PARTS].shape[0] * views[number * PARTS].shape[1];
    }
    if (!fit || labels != out.shape[0]) {
        PyErr_SetString(PyExc_ValueError, "arrays of labels of other shapes or types");
        goto end;
    }
    if (!(seen = calloc((size_t)num_classes + 1, sizeof *seen))) {
        PyErr_NoMemory();
        goto end;
    }
    Py_ssize_t found = 0;
    Py_BEGIN_ALLOW_THREADS
    labels = 0;
    for (Py_ssize_t number = 0; number < count; number++) {
        const Py_buffer *of_chunk = views + number * PARTS;
        const Py_ssize_t *shape = of_chunk[CLASSES].shape;
        const Labels of = {
            of_chunk[TOP].buf, of_chunk[REST].buf, of_chunk[CLASSES].buf, of_chunk[LISTS].buf, rest_sizes.buf,
            top_most, shape[0], shape[1], shape[2], of_chunk[LISTS].shape[1], labels, num_classes, most, most_float,
        };
        found += find_of(&of, kind, seen, (int64_t *)out.buf + found);
        labels += shape[0] * shape[1];
    }
    Py_END_ALLOW_THREADS
    result = PyLong_FromSsize_t(found);
end:
    free(seen);
    if (views)
        for (Py_ssize_t number = 0; number < count * PARTS; number++) PyBuffer_Release(views + number);
    free(views);
    PyBuffer_Release(&rest_sizes);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {{"doubtful", doubtful, METH_VARARGS, doubtful_doc}, {NULL, NULL, 0, NULL}};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_doubtful", "Which labels are in doubt.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__doubtful(void) {
    return PyModuleDef_Init(&definition);
}
