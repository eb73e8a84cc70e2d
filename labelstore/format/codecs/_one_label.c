/* One label of the codes of many, in one call: to the bit what labelstore/format/encoding.py makes
   of them by NumPy, which takes a microsecond for each array that it touches. Where codes are not
   those of a label nothing is said of them. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

/* The arguments that are arrays, in their order; those of a list are there or not. */
enum {
    TOP, REST, CLASSES, TOP_VALUES, REST_VALUES, IDS, PROBS, LISTS, LIST_PROBS, POWERS, LISTED,
    LISTED_PROBS, BUFFERS
};
#define WITHOUT_LIST LISTS

/* As ``MAX_PRIOR`` of labelstore/format/manifest.py. */
#define MOST_LISTED 1024

static bool
is_written(int part) {
    return part == IDS || part == PROBS || part == LISTED || part == LISTED_PROBS;
}

/* Number ``place`` of little-endian codes of one, two or four bytes. */
static uint32_t
code_at(const Py_buffer *codes, Py_ssize_t place) {
    const char *from = (const char *)codes->buf + place * codes->itemsize;
    uint16_t two;
    uint32_t four;
    switch (codes->itemsize) {
    case 1:
        return *(const uint8_t *)from;
    case 2:
        memcpy(&two, from, sizeof two);
        return two;
    default:
        memcpy(&four, from, sizeof four);
        return four;
    }
}

static Py_ssize_t
count_of(const Py_buffer *array) {
    return array->len / array->itemsize;
}

static bool
has_row(const Py_buffer *codes, Py_ssize_t row, Py_ssize_t width) {
    return (codes->itemsize == 1 || codes->itemsize == 2 || codes->itemsize == 4) && row >= 0 &&
           row < (width ? count_of(codes) / width : PY_SSIZE_T_MAX);
}

static bool
value_of(const Py_buffer *values, uint32_t code, float *out) {
    if (values->itemsize != sizeof(float) || code >= count_of(values)) return false;
    memcpy(out, (const char *)values->buf + code * sizeof(float), sizeof(float));
    return true;
}

/* The probabilities of a label; how many of its classes are stored, 0 where codes are none. */
static Py_ssize_t
decode_probs(const Py_buffer views[], Py_ssize_t place, Py_ssize_t k) {
    float *probs = views[PROBS].buf;
    Py_ssize_t stored = 1;
    if (!value_of(&views[TOP_VALUES], code_at(&views[TOP], place), &probs[0])) return 0;
    for (Py_ssize_t rank = 1; rank < k; rank++) {
        const uint32_t code = code_at(&views[REST], place * (k - 1) + rank - 1);
        if (!value_of(&views[REST_VALUES], code, &probs[rank])) return 0;
        stored += probs[rank] > 0;
    }
    return stored;
}

/* The image's list. */
static bool
decode_list(const Py_buffer views[], Py_ssize_t image, Py_ssize_t m) {
    const uint32_t empty = views[LISTS].itemsize == 2 ? UINT16_MAX : UINT32_MAX;
    int32_t *listed = views[LISTED].buf;
    float *probs = views[LISTED_PROBS].buf;
    for (Py_ssize_t rank = 0; rank < m; rank++) {
        const uint32_t class = code_at(&views[LISTS], image * m + rank);
        listed[rank] = class == empty ? -1 : (int32_t)class;
        if (!value_of(&views[POWERS], code_at(&views[LIST_PROBS], image * m + rank), &probs[rank])) return false;
    }
    return true;
}

/* Class ids of codes that are places in what is left of a list of ``m`` after those before them. */
static bool
decode_places(const Py_buffer views[], Py_ssize_t place, Py_ssize_t k, Py_ssize_t stored, Py_ssize_t m) {
    int32_t *ids = views[IDS].buf, left[MOST_LISTED];
    uint32_t rest = (uint32_t)m;
    if (m > MOST_LISTED) return false;
    memcpy(left, views[LISTED].buf, (size_t)m * sizeof *left);
    for (Py_ssize_t rank = 0; rank < stored; rank++) {
        const uint32_t code = code_at(&views[CLASSES], place * k + rank);
        if (code >= (uint32_t)m) {
            ids[rank] = (int32_t)(code - (uint32_t)m);
            continue;
        }
        if (code >= rest || left[code] < 0) return false;
        ids[rank] = left[code];
        rest--;
        memmove(left + code, left + code + 1, (rest - code) * sizeof *left);
    }
    memset(ids + stored, 0, (size_t)(k - stored) * sizeof *ids);
    return true;
}

static bool
decode(const Py_buffer views[], int buffers, Py_ssize_t place, Py_ssize_t image) {
    const Py_ssize_t k = count_of(&views[IDS]);
    const uint32_t none = views[CLASSES].itemsize == 2 ? UINT16_MAX : UINT32_MAX;
    int32_t *ids = views[IDS].buf;
    if (!k || views[IDS].itemsize != 4 || views[PROBS].itemsize != 4 || count_of(&views[PROBS]) != k ||
        !has_row(&views[TOP], place, 1) || !has_row(&views[REST], place, k - 1) ||
        !has_row(&views[CLASSES], place, k) || code_at(&views[CLASSES], place * k) == none)
        return false;
    const Py_ssize_t stored = decode_probs(views, place, k);
    if (!stored) return false;
    if (buffers == WITHOUT_LIST) {
        for (Py_ssize_t rank = 0; rank < k; rank++) ids[rank] = (int32_t)code_at(&views[CLASSES], place * k + rank);
        return true;
    }
    const Py_ssize_t m = count_of(&views[LISTED]);
    return m && views[LISTED].itemsize == 4 && views[LISTED_PROBS].itemsize == 4 &&
           count_of(&views[LISTED_PROBS]) == m && has_row(&views[LISTS], image, m) &&
           has_row(&views[LIST_PROBS], image, m) && decode_list(views, image, m) &&
           decode_places(views, place, k, stored, m);
}

PyDoc_STRVAR(
    one_label_doc,
    "one_label(place, image, top, rest, classes, top_values, rest_values, ids, probs,\n"
    "          lists, list_probs, powers, listed, listed_probs)\n--\n\n"
    "Whether the label number ``place`` has been decoded; the last five may be left out.\n\n"
    "Args:\n"
    "    place: of the label; image: of its list: numbers.\n"
    "    top, rest, classes: codes (n,), (n, k - 1) and (n, k).\n"
    "    top_values, rest_values: float32, of their codes.\n"
    "    ids, probs: (k,) int32 and float32; written.\n"
    "    lists, list_probs: codes (images, m). powers: float32, of the second's codes.\n"
    "    listed, listed_probs: (m,) int32 and float32; written."
);

static PyObject *
one_label(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer views[BUFFERS];
    int held = 0;
    const int buffers = (int)count - 2;
    PyObject *result = NULL;
    if (count != BUFFERS + 2 && count != WITHOUT_LIST + 2) {
        PyErr_SetString(PyExc_TypeError, "another number of arguments");
        return NULL;
    }
    const Py_ssize_t place = PyLong_AsSsize_t(arguments[0]), image = PyLong_AsSsize_t(arguments[1]);
    if (PyErr_Occurred()) return NULL;
    for (; held < buffers; held++)
        if (PyObject_GetBuffer(arguments[held + 2], &views[held], is_written(held) ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
            goto end;
    result = PyBool_FromLong(decode(views, buffers, place, image));
end:
    while (held) PyBuffer_Release(&views[--held]);
    return result;
}

static PyMethodDef methods[] = {
    {"one_label", (PyCFunction)(void (*)(void))one_label, METH_FASTCALL, one_label_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_one_label", "One label, decoded.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__one_label(void) {
    return PyModuleDef_Init(&definition);
}
