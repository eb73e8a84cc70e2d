/* The code of units (unit_code.py, which says what it is) in C, without the GIL.

   A unit is one stream of bits, and each value's place in it follows from the ones before. So a
   processor would wait for one value most of the time; LANES units are decoded in step instead.

   It reads and writes within its arguments whatever the bits say: they come from files. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define LANES 4
#define LONGEST 11                /* bits of a word, at most */
#define ENTRIES (1 << LONGEST)
#define ONLY 15                   /* in place of a length: the table's only value, of no bits */
#define WIDE 255                  /* in a wide plane: 16 bits follow */
#define ABSENT 255                /* in place of a word's bits: the value has no word */
#define WORDS_A_REFILL 5          /* words of LONGEST bits that 56 bits hold */

enum { BYTE, PLAIN_WIDE, RAW };   /* kinds of planes; which are raw follows from a shard's tables */

typedef struct {
    int32_t byte, table, tables, context, kind; /* context: a place in the record, or -1 */
} Plane;

typedef struct {
    uint16_t entry[ENTRIES];      /* value << 8 | bits */
} Table;

/* Lengths of 256 values as a lookup by the next LONGEST bits; 0 where they are no complete code. */
static int
fill_table(const uint8_t *length, Table *table) {
    uint32_t count[16] = {0}, next[LONGEST + 1], at = 0;
    uint16_t *entry = table->entry;
    for (int value = 0; value < 256; value++) count[length[value]]++;
    if (count[ONLY]) {
        if (count[ONLY] != 1 || count[0] != 255) return 0;
        int only = 0;
        while (!length[only]) only++;
        for (int place = 0; place < ENTRIES; place++) entry[place] = (uint16_t)(only << 8);
        return 1;
    }
    for (int bits = 1; bits <= LONGEST; bits++) {
        next[bits] = at;
        at += count[bits] << (LONGEST - bits);
    }
    if (count[0] == 256) {
        memset(table, 0, sizeof(Table));
        return 1;
    }
    if (at != ENTRIES) return 0;
    for (int value = 0; value < 256; value++) {
        int bits = length[value];
        if (!bits) continue;
        uint32_t many = 1u << (LONGEST - bits), start = next[bits];
        uint16_t word = (uint16_t)(value << 8 | bits);
        uint64_t four = word * UINT64_C(0x0001000100010001);
        next[bits] = start + many;
        if (many < 4)
            for (uint32_t place = 0; place < many; place++) entry[start + place] = word;
        else
            for (uint32_t place = 0; place < many; place += 4) memcpy(entry + start + place, &four, 8);
    }
    return 1;
}

/* A shard's packed tables; raw[t]: all words of table t are its values. 0 where they are damaged. */
static int
unpack_tables(const uint8_t *packed, int64_t size, int tables, Table *table, uint8_t *raw) {
    const uint8_t *end = packed + size;
    for (int number = 0; number < tables; number++) {
        uint8_t length[256] = {0};
        if (packed >= end || *packed > 128 || *packed >= end - packed) return 0;
        int count = *packed++;
        int even = count == 128;
        for (int pair = 0; pair < count; pair++) {
            uint8_t both = *packed++;
            length[2 * pair] = both & 15;
            length[2 * pair + 1] = both >> 4;
            even &= both == 0x88;
        }
        for (int value = 0; value < 256; value++)
            if (length[value] > LONGEST && length[value] != ONLY) return 0;
        raw[number] = (uint8_t)even;
        if (!fill_table(length, table + number)) return 0;
    }
    return packed == end;
}

#define REFILL(lane)                                                      \
    do {                                                                  \
        uint64_t more;                                                    \
        memcpy(&more, from[lane], 8);                                     \
        bits[lane] |= __builtin_bswap64(more) >> held[lane];              \
        from[lane] += (63 - held[lane]) >> 3;                             \
        held[lane] |= 56;                                                 \
    } while (0)
#define DROP(lane, count) (bits[lane] <<= (count), held[lane] -= (count))
#define NEXT(lane, of)                                                    \
    uint16_t entry = (of)->entry[bits[lane] >> (64 - LONGEST)];           \
    DROP(lane, entry & 255)
#define EACH_LABEL(body)                                                  \
    for (int64_t label = 0; label < labels;) {                            \
        int64_t stop = label + WORDS_A_REFILL < labels ? label + WORDS_A_REFILL : labels; \
        for (int lane = 0; lane < lanes; lane++) REFILL(lane);            \
        for (; label < stop; label++) {                                   \
            const int64_t place = label * record + byte;                  \
            for (int lane = 0; lane < lanes; lane++) { body }             \
        }                                                                 \
    }

/* Units of the same number of labels, in step; 0 where one does not end where it should. */
static ALWAYS_INLINE int
decode_units(
    const int lanes, const Plane *planes, int count, int whole, const Table *tables, int64_t record,
    const uint8_t *const *data, const int64_t *sizes, uint8_t *const *out, int64_t labels
) {
    uint64_t bits[LANES];
    unsigned held[LANES];
    const uint8_t *from[LANES];
    for (int lane = 0; lane < lanes; lane++) {
        from[lane] = data[lane];
        bits[lane] = held[lane] = 0;
    }
    for (const Plane *plane = planes; plane < planes + count; plane++) {
        const int byte = plane->byte;
        const Table *table = tables + plane->table;
        if (plane->kind == RAW) {
            EACH_LABEL(out[lane][place] = (uint8_t)(bits[lane] >> 56); DROP(lane, 8);)
        } else if (plane->kind == PLAIN_WIDE) {
            EACH_LABEL(
                NEXT(lane, table);
                uint16_t value = entry >> 8;
                if (__builtin_expect(value == WIDE, 0)) {
                    REFILL(lane);
                    value = (uint16_t)(bits[lane] >> 48);
                    DROP(lane, 16);
                    REFILL(lane);
                }
                out[lane][place] = (uint8_t)value;
                out[lane][place + 1] = (uint8_t)(value >> 8);
            )
        } else if (plane->context < 0) {
            EACH_LABEL(NEXT(lane, table); out[lane][place] = (uint8_t)(entry >> 8);)
        } else {
            const int away = plane->context - byte, last = plane->tables - 1;
            EACH_LABEL(
                int which = out[lane][place + away];
                NEXT(lane, table + (which < last ? which : last));
                out[lane][place] = (uint8_t)(entry >> 8);
            )
        }
        /* A plane takes at most 27 bits a label, for which there is room behind the data. */
        for (int lane = 0; lane < lanes; lane++)
            if (from[lane] > data[lane] + sizes[lane] + 8) return 0;
    }
    for (int lane = 0; whole && lane < lanes; lane++)
        if (((from[lane] - data[lane]) * 8 - held[lane] + 7) / 8 != sizes[lane]) return 0;
    return 1;
}

typedef struct {
    Py_buffer planes, packed, packed_sizes, shard_units, data, sizes, labels, out;
    int count, tables;
    int64_t record;
} Task;

/* -1 without memory, 0 where something is damaged, 1 when all is decoded. */
static int
decode_all(const Task *task) {
    const int whole = task->planes.len / (Py_ssize_t)sizeof(Plane) == task->count;
    const uint8_t *packed = task->packed.buf, *data = task->data.buf;
    const int64_t *sizes = task->sizes.buf, *labels = task->labels.buf, *units = task->shard_units.buf;
    uint8_t *out = task->out.buf;
    Table *tables = malloc(sizeof(Table) * (size_t)task->tables);
    Plane *planes = malloc(sizeof(Plane) * (size_t)(task->count + 1));
    uint8_t *raw = malloc((size_t)task->tables);
    int done = tables && planes && raw ? 1 : -1;
    for (int64_t shard = 0; done == 1 && shard < task->shard_units.shape[0]; shard++) {
        const int64_t size = ((const int64_t *)task->packed_sizes.buf)[shard];
        if (!unpack_tables(packed, size, task->tables, tables, raw)) done = 0;
        packed += size;
        for (int number = 0; done == 1 && number < task->count; number++) {
            Plane *plane = planes + number;
            *plane = ((const Plane *)task->planes.buf)[number];
            if (plane->kind == BYTE && plane->context < 0 && raw[plane->table]) plane->kind = RAW;
        }
        for (int64_t left = units[shard]; done == 1 && left > 0;) {
            const uint8_t *from[LANES];
            uint8_t *into[LANES];
            int lanes = 1;
            while (lanes < LANES && lanes < left && labels[lanes] == labels[0]) lanes++;
            if (lanes < LANES) lanes = 1;
            for (int lane = 0; lane < lanes; lane++) {
                from[lane] = data;
                into[lane] = out;
                data += sizes[lane];
                out += labels[lane] * task->record;
            }
            done = lanes == LANES
                ? decode_units(LANES, planes, task->count, whole, tables, task->record, from, sizes, into, labels[0])
                : decode_units(1, planes, task->count, whole, tables, task->record, from, sizes, into, labels[0]);
            sizes += lanes;
            labels += lanes;
            left -= lanes;
        }
    }
    free(tables);
    free(planes);
    free(raw);
    return done;
}

static int
planes_fit(const Py_buffer *planes, int tables, int64_t record) {
    for (Py_ssize_t number = 0; number < planes->shape[0]; number++) {
        const Plane *plane = (const Plane *)planes->buf + number;
        if (plane->byte < 0 || plane->byte + (plane->kind == PLAIN_WIDE) >= record || plane->table < 0 ||
            plane->tables < 1 || plane->table > tables - plane->tables || plane->context < -1 ||
            plane->context >= record || plane->kind < BYTE || plane->kind > PLAIN_WIDE)
            return 0;
    }
    return 1;
}

/* The sum of numbers from 0 to most; -1 where one is not. */
static int64_t
sum_of(const Py_buffer *numbers, int64_t most) {
    int64_t sum = 0;
    for (Py_ssize_t place = 0; place < numbers->shape[0]; place++) {
        int64_t number = ((const int64_t *)numbers->buf)[place];
        if (number < 0 || number > most || sum > most) return -1;
        sum += number;
    }
    return sum;
}

static int
task_fits(const Task *task) {
    const Py_buffer *lists[] = {&task->packed_sizes, &task->shard_units, &task->sizes, &task->labels};
    for (int number = 0; number < 4; number++)
        if (lists[number]->ndim != 1 || lists[number]->itemsize != 8) return 0;
    if (task->planes.ndim != 2 || task->planes.itemsize != 4 || task->planes.shape[1] != 5 ||
        task->record < 1 || task->record > 1 << 20 || task->tables < 1 || task->tables > 1 << 20 ||
        task->count < 0 || task->count > task->planes.shape[0] ||
        !planes_fit(&task->planes, task->tables, task->record) ||
        task->packed_sizes.shape[0] != task->shard_units.shape[0] ||
        task->sizes.shape[0] != task->labels.shape[0])
        return 0;
    int64_t most = 0, held = sum_of(&task->sizes, task->data.len);
    for (Py_ssize_t unit = 0; unit < task->labels.shape[0]; unit++) {
        int64_t labels = ((const int64_t *)task->labels.buf)[unit];
        if (labels > most) most = labels;
    }
    return most < 1 << 24 && held >= 0 && held + 4 * most + 32 <= task->data.len &&
           sum_of(&task->packed_sizes, task->packed.len) == task->packed.len &&
           sum_of(&task->shard_units, task->sizes.shape[0]) == task->sizes.shape[0] &&
           sum_of(&task->labels, task->out.len) * task->record == task->out.len;
}

PyDoc_STRVAR(
    decode_doc,
    "decode(planes, packed, packed_sizes, shard_units, data, sizes, labels, out, count, tables, record)\n--\n\n"
    "Fill out (labels, record) uint8 with the first count planes of units; all arrays contiguous.\n"
    "planes (planes, 5) int32; packed: tables of the shards, of packed_sizes bytes each; shard_units:\n"
    "units of each; data: the units, of sizes bytes and labels labels each, and 4 bytes a label of\n"
    "the largest unit and 32 behind them. False where they are damaged."
);

static PyObject *
decode(PyObject *Py_UNUSED(module), PyObject *args) {
    Task task;
    memset(&task, 0, sizeof task);
    PyObject *objects[8], *result = NULL;
    Py_buffer *buffers[] = {&task.planes, &task.packed, &task.packed_sizes, &task.shard_units,
                            &task.data, &task.sizes, &task.labels, &task.out};
    long long record;
    int done;
    if (!PyArg_ParseTuple(args, "OOOOOOOOiiL", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4],
                          &objects[5], &objects[6], &objects[7], &task.count, &task.tables, &record))
        return NULL;
    task.record = record;
    for (int number = 0; number < 8; number++)
        if (PyObject_GetBuffer(objects[number], buffers[number], number == 7 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0)
            goto end;
    if (!task_fits(&task)) {
        PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    done = decode_all(&task);
    Py_END_ALLOW_THREADS
    result = done < 0 ? PyErr_NoMemory() : PyBool_FromLong(done);
end:
    for (int number = 0; number < 8; number++) PyBuffer_Release(buffers[number]);
    return result;
}

/* One unit's bits; the byte behind its last one, or NULL where a value has no word. */
static uint8_t *
encode_unit(const Plane *planes, int64_t count, const uint16_t *words, const uint8_t *bits, const uint8_t *records, int64_t record, int64_t labels, uint8_t *out) {
    uint64_t held = 0; /* the last `many` bits are still to be written */
    int many = 0;
    for (const Plane *plane = planes; plane < planes + count; plane++)
        for (int64_t label = 0; label < labels; label++) {
            const uint8_t *from = records + label * record;
            uint32_t value = from[plane->byte], which = plane->table;
            if (plane->kind == PLAIN_WIDE) value |= (uint32_t)from[plane->byte + 1] << 8;
            if (plane->context >= 0) {
                int context = from[plane->context];
                which += context < plane->tables ? context : plane->tables - 1;
            }
            const uint32_t low = value < WIDE ? value : WIDE, place = which * 256 + low;
            if (bits[place] == ABSENT) return NULL;
            held = held << bits[place] | words[place];
            many += bits[place];
            if (plane->kind == PLAIN_WIDE && low == WIDE) {
                held = held << 16 | value;
                many += 16;
            }
            while (many >= 8) {
                many -= 8;
                *out++ = (uint8_t)(held >> many);
            }
        }
    if (many) *out++ = (uint8_t)(held << (8 - many));
    return out;
}

PyDoc_STRVAR(
    encode_doc,
    "encode(planes, words, bits, records, labels, out, sizes)\n--\n\n"
    "Write units of records (n, record) uint8, labels (units,) int64 of each, to out, and of how many\n"
    "bytes each is to sizes (units,) int64; out has 4 bytes for each byte of a record and one for\n"
    "each unit. planes as decode takes them; words (tables, 256) uint16 and how many bits each has,\n"
    "uint8, 255 for none. The bytes written; ValueError where a value has no word."
);

static PyObject *
encode(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer planes = {0}, words = {0}, bits = {0}, records = {0}, labels = {0}, out = {0}, sizes = {0};
    Py_buffer *buffers[] = {&planes, &words, &bits, &records, &labels, &out, &sizes};
    PyObject *objects[7], *result = NULL;
    const uint8_t *from;
    uint8_t *into;
    if (!PyArg_ParseTuple(args, "OOOOOOO", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4], &objects[5], &objects[6]))
        return NULL;
    for (int number = 0; number < 7; number++)
        if (PyObject_GetBuffer(objects[number], buffers[number], number > 4 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0)
            goto end;
    if (planes.ndim != 2 || planes.itemsize != 4 || planes.shape[1] != 5 || words.ndim != 2 || words.itemsize != 2 ||
        words.shape[1] != 256 || bits.len * 2 != words.len || records.ndim != 2 || records.itemsize != 1 ||
        labels.ndim != 1 || labels.itemsize != 8 || sizes.len != labels.len || words.shape[0] > 1 << 20 ||
        records.shape[1] < 1 || records.shape[1] > 1 << 20 ||
        !planes_fit(&planes, (int)words.shape[0], records.shape[1]) ||
        sum_of(&labels, records.shape[0]) != records.shape[0] || out.len / 4 < records.len + labels.shape[0]) {
        PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
        goto end;
    }
    from = records.buf;
    into = out.buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t unit = 0; into && unit < labels.shape[0]; unit++) {
        const int64_t count = ((const int64_t *)labels.buf)[unit];
        uint8_t *next = encode_unit(planes.buf, planes.shape[0], words.buf, bits.buf, from, records.shape[1], count, into);
        ((int64_t *)sizes.buf)[unit] = next ? next - into : 0;
        into = next;
        from += count * records.shape[1];
    }
    Py_END_ALLOW_THREADS
    if (into) result = PyLong_FromSsize_t(into - (uint8_t *)out.buf);
    else PyErr_SetString(PyExc_ValueError, "a value has no word in its table");
end:
    for (int number = 0; number < 7; number++) PyBuffer_Release(buffers[number]);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc}, {"encode", encode, METH_VARARGS, encode_doc}, {NULL, NULL, 0, NULL}
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_unit_code", "The code of units.", 0, methods,
};

PyMODINIT_FUNC
PyInit__unit_code(void) {
    return PyModuleDef_Init(&definition);
}
