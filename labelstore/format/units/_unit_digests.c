/* The digests of units (unit_digests of unit_code.py) and of chunks (array_digests of arrays.py) in
   C, without the GIL: of many in one call, for they have some hundred bytes, or some thousand, and a
   call from Python costs more than they do.

   The algorithm and its constants are those of XXH3 of 64 bits by Yann Collet (xxHash 0.8, BSD
   2-Clause License, https://github.com/Cyan4973/xxHash), with a seed, for all lengths. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 2

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define SECRET 192                /* bytes */
#define STRIPE 64                 /* bytes that are taken at a time */
#define STRIPES ((SECRET - STRIPE) / 8) /* after which the sums are stirred */
#define BLOCK (STRIPE * STRIPES)

static const uint64_t
    P32_1 = 0x9E3779B1, P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D, P64_1 = 0x9E3779B185EBCA87,
    P64_2 = 0xC2B2AE3D27D4EB4F, P64_3 = 0x165667B19E3779F9, P64_4 = 0x85EBCA77C2B2AE63,
    P64_5 = 0x27D4EB2F165667C5, MIX_1 = 0x165667919E3779F9, MIX_2 = 0x9FB21C651E98DF25;

static const uint8_t secret_of_all[SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static ALWAYS_INLINE uint64_t
eight(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, 8);
    return value;
}

static ALWAYS_INLINE uint64_t
four(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}

static ALWAYS_INLINE uint64_t
turned(uint64_t value, int bits) {
    return value << bits | value >> (64 - bits);
}

static ALWAYS_INLINE uint64_t
folded(uint64_t one, uint64_t other) {
    const unsigned __int128 product = (unsigned __int128)one * other;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static ALWAYS_INLINE uint64_t
avalanche(uint64_t value) {
    value = (value ^ value >> 37) * MIX_1;
    return value ^ value >> 32;
}

static uint64_t
digest_to_16(const uint8_t *data, int64_t size, uint64_t seed) {
    const uint8_t *secret = secret_of_all;
    uint64_t value;
    if (size > 8) {
        const uint64_t low = eight(data) ^ ((eight(secret + 24) ^ eight(secret + 32)) + seed);
        const uint64_t high = eight(data + size - 8) ^ ((eight(secret + 40) ^ eight(secret + 48)) - seed);
        return avalanche((uint64_t)size + __builtin_bswap64(low) + high + folded(low, high));
    }
    if (size >= 4) {
        seed ^= (uint64_t)__builtin_bswap32((uint32_t)seed) << 32;
        value = four(data + size - 4) + (four(data) << 32);
        value ^= (eight(secret + 8) ^ eight(secret + 16)) - seed;
        value = (value ^ turned(value, 49) ^ turned(value, 24)) * MIX_2;
        value = (value ^ ((value >> 35) + (uint64_t)size)) * MIX_2;
        return value ^ value >> 28;
    }
    if (size) {
        value = (uint64_t)data[0] << 16 | (uint64_t)data[size >> 1] << 24 | data[size - 1] | (uint64_t)size << 8;
        value ^= (four(secret) ^ four(secret + 4)) + seed;
    } else {
        value = seed ^ eight(secret + 56) ^ eight(secret + 64);
    }
    value = (value ^ value >> 33) * P64_2;
    value = (value ^ value >> 29) * P64_3;
    return value ^ value >> 32;
}

static ALWAYS_INLINE uint64_t
mixed(const uint8_t *data, const uint8_t *secret, uint64_t seed) {
    return folded(eight(data) ^ (eight(secret) + seed), eight(data + 8) ^ (eight(secret + 8) - seed));
}

static uint64_t
digest_to_240(const uint8_t *data, int64_t size, uint64_t seed) {
    const uint8_t *secret = secret_of_all;
    uint64_t sum = (uint64_t)size * P64_1;
    if (size <= 128) {
        for (int64_t pair = (size - 1) / 32; pair >= 0; pair--) {
            sum += mixed(data + 16 * pair, secret + 32 * pair, seed);
            sum += mixed(data + size - 16 * (pair + 1), secret + 32 * pair + 16, seed);
        }
        return avalanche(sum);
    }
    for (int64_t part = 0; part < 8; part++) sum += mixed(data + 16 * part, secret + 16 * part, seed);
    sum = avalanche(sum);
    for (int64_t part = 8; part < size / 16; part++)
        sum += mixed(data + 16 * part, secret + 16 * (part - 8) + 3, seed);
    return avalanche(sum + mixed(data + size - 16, secret + 136 - 17, seed));
}

/* Two sums at a time, which every x86-64 can. */
typedef uint64_t Pair __attribute__((vector_size(16)));

static ALWAYS_INLINE void
add_stripe(Pair *sums, const uint8_t *data, const uint8_t *secret) {
    for (int pair = 0; pair < 4; pair++) {
        Pair value, key;
        memcpy(&value, data + 16 * pair, 16);
        memcpy(&key, secret + 16 * pair, 16);
        key ^= value;
        sums[pair] += (Pair){value[1], value[0]} + (key & 0xFFFFFFFF) * (key >> 32);
    }
}

static uint64_t
digest_beyond_240(const uint8_t *data, int64_t size, uint64_t seed) {
    uint8_t secret[SECRET];
    Pair sums[4] = {{P32_3, P64_1}, {P64_2, P64_3}, {P64_4, P32_2}, {P64_5, P32_1}};
    for (int place = 0; place < SECRET; place += 16) {
        const uint64_t both[2] = {eight(secret_of_all + place) + seed, eight(secret_of_all + place + 8) - seed};
        memcpy(secret + place, both, 16);
    }
    const int64_t blocks = (size - 1) / BLOCK;
    for (int64_t block = 0; block < blocks; block++) {
        for (int stripe = 0; stripe < STRIPES; stripe++)
            add_stripe(sums, data + BLOCK * block + STRIPE * stripe, secret + 8 * stripe);
        for (int pair = 0; pair < 4; pair++) {
            Pair key;
            memcpy(&key, secret + SECRET - STRIPE + 16 * pair, 16);
            sums[pair] = (sums[pair] ^ sums[pair] >> 47 ^ key) * P32_1;
        }
    }
    const int64_t rest = (size - 1 - BLOCK * blocks) / STRIPE;
    for (int64_t stripe = 0; stripe < rest; stripe++)
        add_stripe(sums, data + BLOCK * blocks + STRIPE * stripe, secret + 8 * stripe);
    add_stripe(sums, data + size - STRIPE, secret + SECRET - STRIPE - 7);
    uint64_t value = (uint64_t)size * P64_1;
    for (int pair = 0; pair < 4; pair++)
        value += folded(sums[pair][0] ^ eight(secret + 11 + 16 * pair), sums[pair][1] ^ eight(secret + 19 + 16 * pair));
    return avalanche(value);
}

static uint64_t
digest_of(const uint8_t *data, int64_t size, uint64_t seed) {
    return size <= 16 ? digest_to_16(data, size, seed)
         : size <= 240 ? digest_to_240(data, size, seed)
         : digest_beyond_240(data, size, seed);
}

#define MOST_ARRAYS 16
#define STEP 16                   /* bytes that are copied at a time, also those of the next array */

typedef struct {
    const uint8_t *from;
    int64_t width;
} Array;

/* Labels' records, array by array each. What is copied too much is written over by the next array
   or label, and lies in `room` behind the last one; `exact` where the arrays might end too early. */
static ALWAYS_INLINE uint8_t *
copy_records(const Array *arrays, const int count, const int exact, int64_t label, int64_t stop, uint8_t *to) {
    for (; label < stop; label++)
        for (int number = 0; number < count; number++) {
            const int64_t width = arrays[number].width;
            const uint8_t *from = arrays[number].from + label * width;
            if (exact || width > 2 * STEP) {
                memcpy(to, from, (size_t)width);
            } else {
                memcpy(to, from, STEP);
                if (width > STEP) memcpy(to + width - STEP, from + width - STEP, STEP);
            }
            to += width;
        }
    return to;
}

static void
copy_unit(const Array *arrays, int count, int64_t label, int64_t stop, int64_t last, uint8_t *to) {
    const int64_t exact = last - STEP < label ? label : last - STEP < stop ? last - STEP : stop;
    /* A constant for the compiler, in most stores. */
    if (count == 2) to = copy_records(arrays, 2, 0, label, exact, to);
    else if (count == 3) to = copy_records(arrays, 3, 0, label, exact, to);
    else to = copy_records(arrays, count, 0, label, exact, to);
    copy_records(arrays, count, 1, exact, stop, to);
}

PyDoc_STRVAR(
    digests_doc,
    "digests(arrays, widths, labels, seeds, out)\n--\n\n"
    "Fill out (units,) uint64 with xxh3_64 of the records of units with seeds (units,) uint64.\n"
    "arrays: a tuple of contiguous ones, of widths (arrays,) int64 bytes a label, labels (units,)\n"
    "int64 of each unit, unit after unit."
);

static PyObject *
digests(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *tuple, *objects[4], *result = NULL;
    Py_buffer views[MOST_ARRAYS] = {0}, widths = {0}, labels = {0}, seeds = {0}, out = {0};
    Py_buffer *lists[] = {&widths, &labels, &seeds, &out};
    Array arrays[MOST_ARRAYS];
    Py_ssize_t count = 0;
    int64_t record = 0, most = 0, all = 0;
    uint8_t *records = NULL;
    int fit = 1;
    if (!PyArg_ParseTuple(args, "O!OOOO", &PyTuple_Type, &tuple, &objects[0], &objects[1], &objects[2], &objects[3]))
        return NULL;
    for (int number = 0; number < 4; number++) {
        if (PyObject_GetBuffer(objects[number], lists[number], number == 3 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0)
            goto end;
        fit &= lists[number]->ndim == 1 && lists[number]->itemsize == 8;
    }
    count = PyTuple_Size(tuple);
    fit = fit && count > 0 && count <= MOST_ARRAYS && widths.len == 8 * count &&
          seeds.len == labels.len && out.len == labels.len;
    for (Py_ssize_t unit = 0; fit && unit < labels.len / 8; unit++) {
        const int64_t many = ((const int64_t *)labels.buf)[unit];
        fit = many >= 0 && many <= INT64_C(1) << 40 && all <= INT64_C(1) << 40;
        if (many > most) most = many;
        all += many;
    }
    for (Py_ssize_t number = 0; fit && number < count; number++) {
        const int64_t width = ((const int64_t *)widths.buf)[number];
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, number), views + number, PyBUF_ND) < 0) goto end;
        fit = width > 0 && width <= 1 << 20 && views[number].len == width * all;
        arrays[number] = (Array){views[number].buf, width};
        record += width;
    }
    if (!fit) {
        PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
        goto end;
    }
    if (count > 1 && !(records = malloc((size_t)(record * most + STEP)))) {
        PyErr_NoMemory();
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    int64_t label = 0;
    for (Py_ssize_t unit = 0; unit < labels.len / 8; unit++) {
        const int64_t many = ((const int64_t *)labels.buf)[unit];
        const uint8_t *data = records ? records : arrays[0].from + label * record;
        if (records) copy_unit(arrays, (int)count, label, label + many, all, records);
        ((uint64_t *)out.buf)[unit] = digest_of(data, many * record, ((const uint64_t *)seeds.buf)[unit]);
        label += many;
    }
    Py_END_ALLOW_THREADS
    Py_INCREF(Py_None);
    result = Py_None;
end:
    free(records);
    for (Py_ssize_t number = 0; number < MOST_ARRAYS; number++) PyBuffer_Release(views + number);
    for (int number = 0; number < 4; number++) PyBuffer_Release(lists[number]);
    return result;
}

/* Groups that are cut out of rows together: those of about a line of memory. */
#define TOGETHER 16

/* Bytes of many objects. */
typedef struct {
    const uint8_t *data;
    int64_t size;
} Piece;

/* `width` bytes of each row, for each of some groups that lie side by side in rows. */
static ALWAYS_INLINE void
copy_columns(const uint8_t *rows, int64_t count, int64_t row, const int64_t width, int64_t groups, uint8_t *const *to) {
    for (int64_t number = 0; number < count; number++, rows += row)
        for (int64_t group = 0; group < groups; group++)
            memcpy(to[group] + number * width, rows + group * width, (size_t)width);
}

/* The digests of groups of `width` bytes a row, each behind its head; `room` has `step` bytes for each. */
static void
digest_columns(
    const uint8_t *rows, int64_t count, int64_t row, int64_t width, int64_t groups, const Piece *heads, uint8_t *room,
    int64_t step, uint64_t *out
) {
    uint8_t *to[TOGETHER];
    for (int64_t group = 0; group < groups; group++) {
        to[group] = room + group * step + heads[group].size;
        memcpy(room + group * step, heads[group].data, (size_t)heads[group].size);
    }
    /* Constants for the compiler, in most stores. */
    if (width == row) memcpy(to[0], rows, (size_t)(count * row));
    else if (width == 2) copy_columns(rows, count, row, 2, groups, to);
    else if (width == 4) copy_columns(rows, count, row, 4, groups, to);
    else if (width == 8) copy_columns(rows, count, row, 8, groups, to);
    else copy_columns(rows, count, row, width, groups, to);
    for (int64_t group = 0; group < groups; group++)
        out[group] = digest_of(room + group * step, heads[group].size + count * width, 0);
}

/* As digest_columns, of all groups of whole rows, the last of which may be narrower. */
static void
digest_rows(
    const uint8_t *rows, int64_t count, int64_t row, int64_t width, const Piece *heads, uint8_t *room, int64_t step,
    uint64_t *out
) {
    const int64_t whole = row / width;
    for (int64_t group = 0; group < whole; group += TOGETHER)
        digest_columns(
            rows + group * width, count, row, width, whole - group < TOGETHER ? whole - group : TOGETHER, heads + group,
            room, step, out + group
        );
    if (whole * width < row || !row)
        digest_columns(rows + whole * width, count, row, row - whole * width, 1, heads + whole, room, step, out + whole);
}

PyDoc_STRVAR(
    group_digests_doc,
    "group_digests(heads, arrays, width, out)\n--\n\n"
    "Fill out (groups,) uint64 with xxh3_64 of each group's head and bytes, array after array.\n"
    "heads: a list of bytes objects. arrays: a list of contiguous ones (rows, ...), of which each\n"
    "group has width bytes of every row, the last one of an array what is left."
);

static PyObject *
group_digests(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *names, *list, *object, *result = NULL;
    Py_buffer *views = NULL, out = {0};
    Piece *heads = NULL;
    uint8_t *room = NULL;
    long long width;
    int64_t longest = 0, most = 0;
    Py_ssize_t groups = 0;
    if (!PyArg_ParseTuple(args, "O!O!LO", &PyList_Type, &names, &PyList_Type, &list, &width, &object)) return NULL;
    const Py_ssize_t count = PyList_Size(names), arrays = PyList_Size(list);
    if (PyObject_GetBuffer(object, &out, PyBUF_ND | PyBUF_WRITABLE) < 0) return NULL;
    views = calloc((size_t)arrays + 1, sizeof *views);
    heads = calloc((size_t)count + 1, sizeof *heads);
    if (!views || !heads) {
        PyErr_NoMemory();
        goto end;
    }
    for (Py_ssize_t number = 0; number < count; number++) {
        char *data;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyList_GetItem(names, number), &data, &size) < 0) goto end;
        heads[number] = (Piece){(const uint8_t *)data, size};
        if (size > longest) longest = size;
    }
    int fit = width > 0 && out.ndim == 1 && out.itemsize == 8 && out.shape[0] == count;
    for (Py_ssize_t number = 0; fit && number < arrays; number++) {
        Py_buffer *view = views + number;
        if (PyObject_GetBuffer(PyList_GetItem(list, number), view, PyBUF_ND) < 0) goto end;
        const int64_t row = view->len ? view->len / view->shape[0] : 0, own = row < width ? row : width;
        fit = view->ndim > 0;
        groups += row ? (row - 1) / width + 1 : 1;
        if (view->len && own * view->shape[0] > most) most = own * view->shape[0];
    }
    if (!fit || groups != count) {
        PyErr_SetString(PyExc_ValueError, "codes of other groups than those that have heads");
        goto end;
    }
    if (!(room = malloc((size_t)((longest + most) * (count < TOGETHER ? count : TOGETHER)) + 1))) {
        PyErr_NoMemory();
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    groups = 0;
    for (Py_ssize_t number = 0; number < arrays; number++) {
        const Py_buffer *view = views + number;
        const int64_t rows = view->len ? view->shape[0] : 0, row = rows ? view->len / rows : 0;
        digest_rows(view->buf, rows, row, width, heads + groups, room, longest + most, (uint64_t *)out.buf + groups);
        groups += row ? (row - 1) / width + 1 : 1;
    }
    Py_END_ALLOW_THREADS
    Py_INCREF(Py_None);
    result = Py_None;
end:
    if (views)
        for (Py_ssize_t number = 0; number < arrays; number++) PyBuffer_Release(views + number);
    free(views);
    free(heads);
    free(room);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"digests", digests, METH_VARARGS, digests_doc},
    {"group_digests", group_digests, METH_VARARGS, group_digests_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_unit_digests", "The digests of units.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__unit_digests(void) {
    return PyModuleDef_Init(&definition);
}
