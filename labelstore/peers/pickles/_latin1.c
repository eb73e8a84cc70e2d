/* The bytes that pickles of protocol 2 keep as text, in C: Latin-1 encoded as UTF-8, in which a byte
   of 0x80 and more takes two. Bytes of numbers mix both at random, and a decoder that branches at
   each character guesses wrongly at every other: this one looks at sixteen at a time.

   The first of two bytes is 0xC2 or 0xC3, the second 0x80 to 0xBF. The character is the second, with
   its next bit set behind 0xC3; the first is left out. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <string.h>
#include <tmmintrin.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

#define WIDE __attribute__((target("ssse3")))

/* For each set of eight bytes, bit by bit, the places of those that are not in it, then none. */
static uint8_t left_by[256][8];

static void
fill_left_by(void) {
    for (int set = 0; set < 256; set++) {
        int count = 0;
        for (int place = 0; place < 8; place++)
            if (!(set >> place & 1)) left_by[set][count++] = (uint8_t)place;
        while (count < 8) left_by[set][count++] = 0x80;
    }
}

/* Write eight bytes less a set of them; behind the last there is room for the rest of eight. */
static inline WIDE uint8_t *
write_left(uint8_t *out, __m128i value, int set) {
    const __m128i places = _mm_loadl_epi64((const __m128i *)left_by[set]);
    _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(value, places));
    return out + 8 - __builtin_popcount((unsigned)set);
}

/* Decode sixteen bytes that follow sixteen others; bits are set in wrong where they are no Latin-1.
   Writes up to sixteen bytes, and returns where the next ones belong. */
static inline WIDE uint8_t *
decode_sixteen(uint8_t *out, __m128i here, __m128i last, __m128i *wrong) {
    const __m128i least = _mm_set1_epi8((char)0xC0);
    const __m128i before = _mm_alignr_epi8(here, last, 15);
    const __m128i first = _mm_cmpeq_epi8(_mm_max_epu8(here, least), here);
    const __m128i behind_first = _mm_cmpeq_epi8(_mm_max_epu8(before, least), before);
    const __m128i second = _mm_cmpeq_epi8(_mm_and_si128(here, least), _mm_set1_epi8((char)0x80));
    const __m128i either = _mm_and_si128(here, _mm_set1_epi8((char)0xFE));
    const __m128i known = _mm_cmpeq_epi8(either, _mm_set1_epi8((char)0xC2));
    *wrong = _mm_or_si128(*wrong, _mm_xor_si128(second, behind_first));
    *wrong = _mm_or_si128(*wrong, _mm_andnot_si128(known, first));
    const __m128i high = _mm_cmpeq_epi8(before, _mm_set1_epi8((char)0xC3));
    const __m128i value = _mm_or_si128(here, _mm_and_si128(high, _mm_set1_epi8(0x40)));
    const int set = _mm_movemask_epi8(first);
    out = write_left(out, value, set & 0xFF);
    return write_left(out, _mm_srli_si128(value, 8), set >> 8);
}

/* Decode size bytes into as many; returns how many came of them, -1 where they are no Latin-1. */
static WIDE Py_ssize_t
decode(const uint8_t *in, Py_ssize_t size, uint8_t *out) {
    uint8_t *next = out, end_in[16] = {0}, end_out[16];
    const Py_ssize_t rest = size % 16;
    __m128i last = _mm_setzero_si128(), wrong = last, here;
    if (size && in[size - 1] >= 0xC0) return -1;
    for (const uint8_t *end = in + size - rest; in < end; in += 16, last = here) {
        here = _mm_loadu_si128((const __m128i *)in);
        next = decode_sixteen(next, here, last, &wrong);
    }
    memcpy(end_in, in, (size_t)rest);
    here = _mm_loadu_si128((const __m128i *)end_in);
    const Py_ssize_t count = decode_sixteen(end_out, here, last, &wrong) - end_out - (16 - rest);
    if (_mm_movemask_epi8(wrong)) return -1;
    memcpy(next, end_out, (size_t)count);
    return next - out + count;
}

PyDoc_STRVAR(
    latin1_doc,
    "latin1(text)\n--\n\n"
    "The bytes that a text's characters are in Latin-1: of bytes of UTF-8; None where these are\n"
    "no UTF-8, or of other characters."
);

static PyObject *
latin1(PyObject *Py_UNUSED(module), PyObject *text) {
    char *in;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(text, &in, &size) < 0) return NULL;
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    if (result == NULL) return NULL;
    const Py_ssize_t count = size ? decode((const uint8_t *)in, size, (uint8_t *)PyBytes_AsString(result)) : 0;
    if (count < 0) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    /* On failure it sets the result to NULL, and an error. */
    if (count < size) (void)_PyBytes_Resize(&result, count);
    return result;
}

static int
start(PyObject *module) {
    if (!__builtin_cpu_supports("ssse3")) {
        PyErr_SetString(PyExc_ImportError, "the processor has no SSSE3");
        return -1;
    }
    fill_left_by();
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyMethodDef methods[] = {{"latin1", latin1, METH_O, latin1_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_latin1", "The bytes that pickles keep as text.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__latin1(void) {
    return PyModuleDef_Init(&definition);
}
