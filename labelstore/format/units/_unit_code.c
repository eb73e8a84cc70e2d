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

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define LANES 4
#define LONGEST 11                /* bits of a word, at most */
#define ENTRIES (1 << LONGEST)
#define ONLY 15                   /* in place of a length: the table's only value, of no bits */
#define WIDE 255                  /* in a wide plane: 16 bits follow */
#define WORDS_A_REFILL 5          /* words of LONGEST bits that 56 bits hold */
#define BYTES_A_REFILL 7

enum { BYTE, PLAIN_WIDE, RAW };   /* kinds of planes; which are raw follows from a shard's tables */

typedef struct {
    int32_t array, byte, table, tables, context, kind; /* byte, context (or -1): of a label's part */
} Plane;

typedef struct {
    uint8_t *start;
    int64_t width;                /* bytes a label */
} Array;

typedef struct {
    uint16_t entry[ENTRIES];      /* value << 8 | bits, by the next bits of the longest word */
    int shift;                    /* of 64 bits, the next ones the highest, to be that place */
} Table;

#define PARTS 4                   /* of 256 values, counted side by side: a counter waits for itself */
#define PART (256 / PARTS)

/* Lengths of 256 values as a lookup; 0 where they are no complete code. raw: all words are their values.
   A batch at random decodes few labels with each lookup: it is no larger than the longest word, and
   words are taken in their order, where a processor foresees how many places each fills. */
static int
fill_table(const uint8_t *length, Table *table, uint8_t *raw) {
    uint8_t sorted[256];
    uint8_t next[PARTS][16];
    uint32_t count[PARTS][16] = {{0}}, all[16], at = 0;
    uint16_t *entry = table->entry;
    int longest = 1;
    for (int value = 0; value < PART; value++)
        for (int part = 0; part < PARTS; part++) count[part][length[PART * part + value]]++;
    for (int bits = 0; bits < 16; bits++) {
        all[bits] = 0;
        for (int part = 0; part < PARTS; part++) all[bits] += count[part][bits];
        if (bits > LONGEST && bits != ONLY && all[bits]) return 0;
        if (!bits || bits > LONGEST || !all[bits]) continue;
        at += all[bits] << (LONGEST - bits);
        longest = bits;
    }
    *raw = all[8] == 256;
    table->shift = 64 - longest;
    if (all[ONLY] || !at) {
        if (all[ONLY] > 1 || (all[ONLY] && at)) return 0;
        int only = 0;
        while (all[ONLY] && !length[only]) only++;
        entry[0] = entry[1] = (uint16_t)(only << 8);
        return 1;
    }
    if (at != ENTRIES) return 0;
    at = 0;
    for (int bits = 0; bits <= longest; bits++)
        for (int part = 0; part < PARTS; part++) {
            next[part][bits] = (uint8_t)at;
            at += count[part][bits];
        }
    for (int value = 0; value < PART; value++)
        for (int part = 0; part < PARTS; part++)
            sorted[next[part][length[PART * part + value]]++] = (uint8_t)(PART * part + value);
    const uint8_t *value = sorted + all[0];
    for (int bits = 1; bits <= longest; bits++) {
        const uint32_t many = 1u << (longest - bits);
        for (const uint8_t *end = value + all[bits]; value < end; value++, entry += many) {
            const uint16_t word = (uint16_t)(*value << 8 | bits);
            const uint64_t four = word * UINT64_C(0x0001000100010001);
            if (many < 4)
                for (uint32_t place = 0; place < many; place++) entry[place] = word;
            else
                for (uint32_t place = 0; place < many; place += 4) memcpy(entry + place, &four, 8);
        }
    }
    return 1;
}

/* The first `wanted` of a shard's packed tables; raw[t]: all words of table t are its values. 0 where
   they are damaged. */
static int
unpack_tables(const uint8_t *packed, int64_t size, int tables, int wanted, Table *table, uint8_t *raw) {
    const uint8_t *end = packed + size;
    for (int number = 0; number < tables; number++) {
        uint8_t pairs[128] = {0}, length[256];
        if (packed >= end || *packed > 128 || *packed >= end - packed) return 0;
        const int count = *packed++;
        if (number < wanted) {
            memcpy(pairs, packed, (size_t)count);
            for (int pair = 0; pair < 128; pair++) {
                length[2 * pair] = pairs[pair] & 15;
                length[2 * pair + 1] = pairs[pair] >> 4;
            }
            if (!fill_table(length, table + number, raw + number)) return 0;
        }
        packed += count;
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
#define NEXT(lane, of, shift)                                             \
    uint16_t entry = (of)->entry[bits[lane] >> (shift)];                  \
    DROP(lane, entry & 255)
#define EACH_LABEL(words, body)                                           \
    for (int64_t label = 0, place = 0; label < labels;) {                 \
        int64_t stop = label + (words) < labels ? label + (words) : labels; \
        for (int lane = 0; lane < lanes; lane++) REFILL(lane);            \
        for (; label < stop; label++, place += width) {                   \
            for (int lane = 0; lane < lanes; lane++) { body }             \
        }                                                                 \
    }

typedef struct {
    const uint8_t *data;
    int64_t size, labels, first;  /* first: the place of its first label in the arrays */
} Unit;

/* Units of the same number of labels, in step; 0 where one does not end where it should. A plane
   reads at most room_behind(labels) bytes behind the end of a unit. */
static ALWAYS_INLINE int
decode_units(const int lanes, const Unit *units, const Plane *planes, int count, int whole, const Table *tables, const Array *arrays) {
    const int64_t labels = units->labels;
    uint64_t bits[LANES];
    unsigned held[LANES];
    const uint8_t *from[LANES];
    for (int lane = 0; lane < lanes; lane++) {
        from[lane] = units[lane].data;
        bits[lane] = held[lane] = 0;
    }
    for (const Plane *plane = planes; plane < planes + count; plane++) {
        const Table *table = tables + plane->table;
        const int shift = table->shift;
        const int64_t width = arrays[plane->array].width;
        uint8_t *out[LANES];
        for (int lane = 0; lane < lanes; lane++)
            out[lane] = arrays[plane->array].start + units[lane].first * width + plane->byte;
        if (plane->kind == RAW) {
            EACH_LABEL(BYTES_A_REFILL, out[lane][place] = (uint8_t)(bits[lane] >> 56); DROP(lane, 8);)
        } else if (plane->kind == PLAIN_WIDE) {
            EACH_LABEL(
                WORDS_A_REFILL,
                NEXT(lane, table, shift);
                uint16_t value = entry >> 8;
                if (__builtin_expect(value == WIDE, 0)) {
                    REFILL(lane);
                    value = (uint16_t)(bits[lane] >> 48);
                    DROP(lane, 16);
                    REFILL(lane);
                }
                memcpy(out[lane] + place, &value, 2);
            )
        } else if (plane->context < 0) {
            EACH_LABEL(WORDS_A_REFILL, NEXT(lane, table, shift); out[lane][place] = (uint8_t)(entry >> 8);)
        } else {
            const int away = plane->context - plane->byte, last = plane->tables - 1;
            EACH_LABEL(
                WORDS_A_REFILL,
                int which = out[lane][place + away];
                const Table *of = table + (which < last ? which : last);
                NEXT(lane, of, of->shift);
                out[lane][place] = (uint8_t)(entry >> 8);
            )
        }
        for (int lane = 0; lane < lanes; lane++)
            if ((from[lane] - units[lane].data) * 8 - held[lane] > units[lane].size * 8) return 0;
    }
    for (int lane = 0; whole && lane < lanes; lane++) {
        const int64_t left = units[lane].size * 8 - ((from[lane] - units[lane].data) * 8 - held[lane]);
        if (left > 7 || (left && units[lane].data[units[lane].size - 1] & ((1 << left) - 1))) return 0;
    }
    return 1;
}

typedef int Decoder(const Unit *, const Plane *, int, int, const Table *, const Array *);

static int
decode_in_step(const Unit *units, const Plane *planes, int count, int whole, const Table *tables, const Array *arrays) {
    return decode_units(LANES, units, planes, count, whole, tables, arrays);
}

static int
decode_alone(const Unit *units, const Plane *planes, int count, int whole, const Table *tables, const Array *arrays) {
    return decode_units(1, units, planes, count, whole, tables, arrays);
}

/* The same with shifts by a variable that are one step: of every x86-64 since 2013. */
__attribute__((target("bmi,bmi2"))) static int
decode_in_step_by_bmi2(const Unit *units, const Plane *planes, int count, int whole, const Table *tables, const Array *arrays) {
    return decode_units(LANES, units, planes, count, whole, tables, arrays);
}

/* A plane takes at most 11 + 16 bits a label, and 8 bytes are read where one is wanted. */
static int64_t
room_behind(int64_t labels) {
    return 4 * labels + 32;
}

#define MOST_ARRAYS 16

typedef struct {
    Py_buffer planes, widths, packed, packed_sizes, data, sizes, labels, shards, views[MOST_ARRAYS];
    Array arrays[MOST_ARRAYS];
    int whole, tables, wanted;
} Task;

/* The next units of a shard that can be decoded in step, LANES or 1 of them. */
static int
units_in_step(const int64_t *labels, const int64_t *shards, int64_t left) {
    if (left < LANES) return 1;
    for (int lane = 1; lane < LANES; lane++)
        if (labels[lane] != labels[0] || shards[lane] != shards[0]) return 1;
    return LANES;
}

/* -1 without memory, 0 where something is damaged, 1 when all is decoded. */
static int
decode_all(const Task *task) {
    const int64_t *sizes = task->sizes.buf, *labels = task->labels.buf, *shards = task->shards.buf;
    const int64_t *packed_sizes = task->packed_sizes.buf, many = task->sizes.shape[0];
    const uint8_t *packed = task->packed.buf, *data = task->data.buf, *end = data + task->data.len;
    const int count = (int)task->planes.shape[0];
    Decoder *in_step = __builtin_cpu_supports("bmi2") ? decode_in_step_by_bmi2 : decode_in_step;
    Table *tables = malloc(sizeof(Table) * (size_t)task->wanted + 1);
    Plane *planes = malloc(sizeof(Plane) * (size_t)count + 1);
    uint8_t *raw = malloc((size_t)task->wanted + 1), *scratch = NULL;
    int done = tables && planes && raw ? 1 : -1;
    int64_t next = 0, first = 0, room = 0; /* next: the shard whose tables come next */
    for (int64_t at = 0; done == 1 && at < many;) {
        for (; done == 1 && next <= shards[at]; packed += packed_sizes[next++]) {
            if (next < shards[at]) continue;
            done = unpack_tables(packed, packed_sizes[next], task->tables, task->wanted, tables, raw);
            for (int number = 0; done && number < count; number++) {
                Plane *plane = planes + number;
                *plane = ((const Plane *)task->planes.buf)[number];
                if (plane->kind == BYTE && plane->context < 0 && raw[plane->table]) plane->kind = RAW;
            }
        }
        if (done != 1) break;
        Unit units[LANES];
        const int lanes = units_in_step(labels + at, shards + at, many - at);
        for (int lane = 0; lane < lanes; lane++, at++) {
            units[lane] = (Unit){data, sizes[at], labels[at], first};
            data += sizes[at];
            first += labels[at];
        }
        if (end - data < room_behind(units->labels)) {
            /* The last ones: with room behind each. */
            int64_t needed = 0;
            for (int lane = 0; lane < lanes; lane++) needed += units[lane].size + room_behind(units->labels);
            if (needed > room) {
                free(scratch);
                scratch = calloc((size_t)needed, 1);
                room = needed;
            }
            if (!scratch) {
                done = -1;
                break;
            }
            uint8_t *to = scratch;
            for (int lane = 0; lane < lanes; lane++) {
                memcpy(to, units[lane].data, (size_t)units[lane].size);
                units[lane].data = to;
                to += units[lane].size + room_behind(units->labels);
            }
        }
        done = lanes == LANES
            ? in_step(units, planes, count, task->whole, tables, task->arrays)
            : decode_alone(units, planes, count, task->whole, tables, task->arrays);
    }
    free(tables);
    free(planes);
    free(raw);
    free(scratch);
    return done;
}

static int
planes_fit(const Py_buffer *planes, const Array *arrays, Py_ssize_t count, int tables) {
    for (Py_ssize_t number = 0; number < planes->shape[0]; number++) {
        const Plane *plane = (const Plane *)planes->buf + number;
        if (plane->array < 0 || plane->array >= count || plane->byte < 0 ||
            plane->byte + (plane->kind == PLAIN_WIDE) >= arrays[plane->array].width || plane->table < 0 ||
            plane->tables < 1 || plane->table > tables - plane->tables || plane->context < -1 ||
            plane->context >= arrays[plane->array].width || plane->kind < BYTE || plane->kind > PLAIN_WIDE)
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

/* Lists of int64. */
static int
lists_fit(const Py_buffer *const *lists, int count) {
    for (int number = 0; number < count; number++)
        if (lists[number]->ndim != 1 || lists[number]->itemsize != 8) return 0;
    return 1;
}

/* Whether widths are ones, and planes rows of Plane. */
static int
rows_fit(const Py_buffer *planes, const Py_buffer *widths) {
    if (planes->ndim != 2 || planes->itemsize != 4 || planes->shape[1] != sizeof(Plane) / 4 ||
        widths->shape[0] < 1 || widths->shape[0] > MOST_ARRAYS)
        return 0;
    for (Py_ssize_t number = 0; number < widths->shape[0]; number++) {
        int64_t width = ((const int64_t *)widths->buf)[number];
        if (width < 1 || width > 1 << 20) return 0;
    }
    return 1;
}

/* The arrays of a tuple, `widths` bytes a label each; -1 with an exception where they are none. */
static int
take_arrays(PyObject *tuple, const Py_buffer *widths, int64_t labels, int flags, Py_buffer *views, Array *arrays) {
    Py_ssize_t count = PyTuple_Size(tuple);
    if (count != widths->shape[0]) goto wrong;
    for (Py_ssize_t number = 0; number < count; number++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, number), views + number, flags) < 0) return -1;
        arrays[number] = (Array){views[number].buf, ((const int64_t *)widths->buf)[number]};
        if (views[number].len != labels * arrays[number].width) goto wrong;
    }
    return 0;
wrong:
    PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
    return -1;
}

/* Whether the numbers of a task fit each other; *labels: of all its units. */
static int
task_fits(Task *task, int64_t *labels) {
    const Py_buffer *lists[] = {&task->widths, &task->packed_sizes, &task->sizes, &task->labels, &task->shards};
    if (!lists_fit(lists, 5) || !rows_fit(&task->planes, &task->widths) || task->tables < 1 ||
        task->tables > 1 << 20 || task->sizes.shape[0] != task->labels.shape[0] ||
        task->sizes.shape[0] != task->shards.shape[0] || (*labels = sum_of(&task->labels, INT64_C(1) << 40)) < 0)
        return 0;
    int64_t shard = 0;
    for (Py_ssize_t unit = 0; unit < task->shards.shape[0]; unit++) {
        int64_t of = ((const int64_t *)task->shards.buf)[unit];
        if (of < shard || of >= task->packed_sizes.shape[0]) return 0;
        shard = of;
    }
    for (Py_ssize_t number = 0; number < task->planes.shape[0]; number++) {
        const Plane *plane = (const Plane *)task->planes.buf + number;
        if (plane->table < 0 || plane->table > task->tables || plane->tables > task->tables) return 0;
        if (plane->table + plane->tables > task->wanted) task->wanted = plane->table + plane->tables;
    }
    const int64_t held = sum_of(&task->sizes, task->data.len);
    return held >= 0 && held <= task->data.len &&
           sum_of(&task->packed_sizes, task->packed.len) == task->packed.len;
}

PyDoc_STRVAR(
    decode_doc,
    "decode(planes, widths, packed, packed_sizes, data, sizes, labels, shards, arrays, whole, tables)\n--\n\n"
    "Fill arrays, a tuple of contiguous ones of widths (arrays,) int64 bytes a label, with planes of\n"
    "units. planes (planes, 6) int32, all of a unit if whole; packed: tables of the shards, of\n"
    "packed_sizes (shards,) int64 bytes each; data: the units, of sizes bytes and labels labels each,\n"
    "both (units,) int64; shards (units,) int64, of each the shard, never falling; tables: of a shard.\n"
    "False where they are damaged; ValueError where these do not fit each other."
);

static PyObject *
decode(PyObject *Py_UNUSED(module), PyObject *args) {
    Task task;
    memset(&task, 0, sizeof task);
    PyObject *objects[8], *tuple, *result = NULL;
    Py_buffer *buffers[] = {&task.planes, &task.widths, &task.packed, &task.packed_sizes,
                            &task.data, &task.sizes, &task.labels, &task.shards};
    int64_t labels;
    int done;
    if (!PyArg_ParseTuple(args, "OOOOOOOOO!ii", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4],
                          &objects[5], &objects[6], &objects[7], &PyTuple_Type, &tuple, &task.whole, &task.tables))
        return NULL;
    for (int number = 0; number < 8; number++)
        if (PyObject_GetBuffer(objects[number], buffers[number], PyBUF_ND) < 0) goto end;
    if (!task_fits(&task, &labels)) goto wrong;
    if (take_arrays(tuple, &task.widths, labels, PyBUF_ND | PyBUF_WRITABLE, task.views, task.arrays) < 0) goto end;
    if (!planes_fit(&task.planes, task.arrays, task.widths.shape[0], task.tables)) goto wrong;
    Py_BEGIN_ALLOW_THREADS
    done = decode_all(&task);
    Py_END_ALLOW_THREADS
    result = done < 0 ? PyErr_NoMemory() : PyBool_FromLong(done);
    goto end;
wrong:
    PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
end:
    for (int number = 0; number < 8; number++) PyBuffer_Release(buffers[number]);
    for (int number = 0; number < MOST_ARRAYS; number++) PyBuffer_Release(task.views + number);
    return result;
}

/* The code that a plane's value has, and the value. */
static ALWAYS_INLINE uint32_t
value_of(const Plane *plane, const uint8_t *part, uint32_t *table) {
    uint32_t value = part[plane->byte];
    *table = (uint32_t)plane->table;
    if (plane->kind == PLAIN_WIDE) value |= (uint32_t)part[plane->byte + 1] << 8;
    if (plane->context >= 0) {
        int context = part[plane->context];
        *table += (uint32_t)(context < plane->tables ? context : plane->tables - 1);
    }
    return value;
}

/* One unit's bits; the byte behind its last one, or NULL where a value has no word. */
static uint8_t *
encode_unit(const Plane *planes, int64_t count, const uint16_t *words, const uint8_t *bits, const Array *arrays, int64_t first, int64_t labels, uint8_t *out) {
    uint64_t held = 0; /* the last `many` bits are still to be written */
    int many = 0;
    for (const Plane *plane = planes; plane < planes + count; plane++) {
        const int64_t width = arrays[plane->array].width;
        const uint8_t *part = arrays[plane->array].start + first * width;
        for (int64_t label = 0; label < labels; label++, part += width) {
            uint32_t table, value = value_of(plane, part, &table);
            const uint32_t low = value < WIDE ? value : WIDE, place = table * 256 + low;
            if (bits[place] > LONGEST) return NULL;
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
    }
    if (many) *out++ = (uint8_t)(held << (8 - many));
    return out;
}

PyDoc_STRVAR(
    encode_doc,
    "encode(planes, widths, words, bits, arrays, labels, out, sizes)\n--\n\n"
    "Write units of arrays, labels (units,) int64 of each, to out, and of how many bytes each is to\n"
    "sizes (units,) int64; out has 4 bytes for each byte of a label and one for each unit. planes,\n"
    "widths and arrays as decode takes them; words (tables, 256) uint16 and how many bits each has,\n"
    "uint8, 255 for none. The bytes written; ValueError where a value has no word."
);

static PyObject *
encode(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer planes = {0}, widths = {0}, words = {0}, bits = {0}, labels = {0}, out = {0}, sizes = {0};
    Py_buffer *buffers[] = {&planes, &widths, &words, &bits, &labels, &out, &sizes}, views[MOST_ARRAYS] = {0};
    const Py_buffer *lists[] = {&widths, &labels, &sizes};
    PyObject *objects[7], *tuple, *result = NULL;
    Array arrays[MOST_ARRAYS];
    int64_t all, record = 0, first = 0;
    uint8_t *into;
    if (!PyArg_ParseTuple(args, "OOOOO!OOO", &objects[0], &objects[1], &objects[2], &objects[3], &PyTuple_Type, &tuple, &objects[4], &objects[5], &objects[6]))
        return NULL;
    for (int number = 0; number < 7; number++)
        if (PyObject_GetBuffer(objects[number], buffers[number], number > 4 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0)
            goto end;
    if (!lists_fit(lists, 3) || !rows_fit(&planes, &widths) || words.ndim != 2 || words.itemsize != 2 ||
        words.shape[1] != 256 || bits.len * 2 != words.len || words.shape[0] > 1 << 20 ||
        sizes.len != labels.len || (all = sum_of(&labels, INT64_C(1) << 40)) < 0)
        goto wrong;
    if (take_arrays(tuple, &widths, all, PyBUF_ND, views, arrays) < 0) goto end;
    for (Py_ssize_t number = 0; number < widths.shape[0]; number++) record += arrays[number].width;
    if (!planes_fit(&planes, arrays, widths.shape[0], (int)words.shape[0]) ||
        planes.shape[0] > record || out.len / 4 < record * all + labels.shape[0])
        goto wrong;
    into = out.buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t unit = 0; into && unit < labels.shape[0]; unit++) {
        const int64_t count = ((const int64_t *)labels.buf)[unit];
        uint8_t *next = encode_unit(planes.buf, planes.shape[0], words.buf, bits.buf, arrays, first, count, into);
        ((int64_t *)sizes.buf)[unit] = next ? next - into : 0;
        into = next;
        first += count;
    }
    Py_END_ALLOW_THREADS
    if (into) result = PyLong_FromSsize_t(into - (uint8_t *)out.buf);
    else PyErr_SetString(PyExc_ValueError, "a value has no word in its table");
    goto end;
wrong:
    PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
end:
    for (int number = 0; number < 7; number++) PyBuffer_Release(buffers[number]);
    for (int number = 0; number < MOST_ARRAYS; number++) PyBuffer_Release(views + number);
    return result;
}

PyDoc_STRVAR(
    count_doc,
    "count(planes, widths, arrays, labels, counts)\n--\n\n"
    "Add to counts (tables, 256) int64 how often each table is asked for each value, in so many\n"
    "labels; planes, widths and arrays as decode takes them."
);

static PyObject *
count(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer planes = {0}, widths = {0}, counts = {0}, views[MOST_ARRAYS] = {0};
    Py_buffer *buffers[] = {&planes, &widths, &counts};
    const Py_buffer *lists[] = {&widths};
    PyObject *objects[3], *tuple, *result = NULL;
    Array arrays[MOST_ARRAYS];
    long long labels;
    if (!PyArg_ParseTuple(args, "OOO!LO", &objects[0], &objects[1], &PyTuple_Type, &tuple, &labels, &objects[2]))
        return NULL;
    for (int number = 0; number < 3; number++)
        if (PyObject_GetBuffer(objects[number], buffers[number], number == 2 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0)
            goto end;
    if (!lists_fit(lists, 1) || !rows_fit(&planes, &widths) || counts.ndim != 2 || counts.itemsize != 8 ||
        counts.shape[1] != 256 || counts.shape[0] > 1 << 20 || labels < 0 || labels > INT64_C(1) << 40)
        goto wrong;
    if (take_arrays(tuple, &widths, labels, PyBUF_ND, views, arrays) < 0) goto end;
    if (!planes_fit(&planes, arrays, widths.shape[0], (int)counts.shape[0])) goto wrong;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t number = 0; number < planes.shape[0]; number++) {
        const Plane *plane = (const Plane *)planes.buf + number;
        const int64_t width = arrays[plane->array].width;
        const uint8_t *part = arrays[plane->array].start;
        for (int64_t label = 0; label < labels; label++, part += width) {
            uint32_t table, value = value_of(plane, part, &table);
            ((int64_t *)counts.buf)[table * 256 + (value < WIDE ? value : WIDE)]++;
        }
    }
    Py_END_ALLOW_THREADS
    Py_INCREF(Py_None);
    result = Py_None;
    goto end;
wrong:
    PyErr_SetString(PyExc_ValueError, "arrays of units that do not fit each other");
end:
    for (int number = 0; number < 3; number++) PyBuffer_Release(buffers[number]);
    for (int number = 0; number < MOST_ARRAYS; number++) PyBuffer_Release(views + number);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc},
    {"encode", encode, METH_VARARGS, encode_doc},
    {"count", count, METH_VARARGS, count_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_unit_code", "The code of units.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__unit_code(void) {
    return PyModuleDef_Init(&definition);
}
