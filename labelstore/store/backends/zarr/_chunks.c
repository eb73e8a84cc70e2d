/* Chunks of shards (shards.py) in C, without the GIL: their checksums compared, and decompressed,
   many in one call: of one shard that has been read, or the same one of many files. A chunk has some
   kB, and Python takes as long to look at one as zstd to decompress it.

   Nothing here says what is wrong with a chunk: where one is not what this library writes, the call
   ends, and Python looks at it. blosc's format is that of c-blosc 1.21 (README_CHUNK_FORMAT.rst);
   zstd's functions are those of the library that numcodecs holds, by their addresses. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

/* What labelstore/compiled.py asks for. */
#define INTERFACE 2

#define CHECKSUM 4                /* bytes behind a chunk */
#define HEADER 16                 /* bytes of blosc's */
#define SHUFFLED 0x01             /* flags of it: first bytes of all values, then second ones, ... */
#define STORED 0x02               /* nothing is compressed */
#define OTHERS 0x0C               /* bits shuffled, and what means nothing yet: Python's to look at */
#define WHOLE 0x10                /* a block is one stream, and not one for each byte of a value */
#define ZSTD 4                    /* in the highest three bits */
#define MOST_STREAMS 16           /* a block of values of more bytes is one stream, too */
#define LEAST_STREAM 128          /* and so is one of fewer values */
#define MOST_BYTES (1 << 26)      /* of a chunk */

typedef struct {
    void *(*create)(void);
    size_t (*release)(void *);
    size_t (*decompress)(void *, void *, size_t, const void *, size_t);
    void *context;
    uint8_t *room;                /* for a shuffled block; as large as a chunk */
} Zstd;

/* By the addresses of its functions, for chunks of so many bytes; whether there is room for it. */
static int
open_zstd(
    Zstd *zstd, unsigned long long create, unsigned long long release, unsigned long long decompress, uint32_t bytes
) {
    zstd->create = (void *(*)(void))(uintptr_t)create;
    zstd->release = (size_t(*)(void *))(uintptr_t)release;
    zstd->decompress = (size_t(*)(void *, void *, size_t, const void *, size_t))(uintptr_t)decompress;
    zstd->context = zstd->create();
    zstd->room = malloc(bytes);
    return zstd->context && zstd->room;
}

static void
close_zstd(Zstd *zstd) {
    if (zstd->context) zstd->release(zstd->context);
    free(zstd->room);
}

static uint32_t
four(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}

/* CRC-32C (RFC 3720, appendix B.4). */
static __attribute__((target("sse4.2"))) uint32_t
checksum(const uint8_t *data, uint64_t size) {
    uint64_t sum = 0xFFFFFFFF, value;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&value, data, 8);
        sum = __builtin_ia32_crc32di(sum, value);
    }
    for (; size; size--) sum = __builtin_ia32_crc32qi((uint32_t)sum, *data++);
    return (uint32_t)sum ^ 0xFFFFFFFF;
}

static inline __attribute__((always_inline)) void
unshuffle_of(const uint8_t *from, const uint32_t width, uint32_t bytes, uint8_t *out) {
    const uint32_t values = bytes / width;
    for (uint32_t value = 0; value < values; value++)
        for (uint32_t byte = 0; byte < width; byte++) out[value * width + byte] = from[byte * values + value];
    memcpy(out + values * width, from + values * width, bytes - values * width);
}

/* Constants for the compiler, in all stores. */
static void
unshuffle(const uint8_t *from, uint32_t width, uint32_t bytes, uint8_t *out) {
    if (width == 2) unshuffle_of(from, 2, bytes, out);
    else if (width == 4) unshuffle_of(from, 4, bytes, out);
    else unshuffle_of(from, width, bytes, out);
}

/* One block of compressed data (size bytes, of which it begins at `at`); whether it is sound. */
static int
decode_block(const Zstd *zstd, const uint8_t *data, uint64_t size, uint64_t at, uint32_t streams, uint32_t bytes, uint8_t *out) {
    const uint32_t each = bytes / streams;
    if (each * streams != bytes) return 0;
    for (uint32_t stream = 0; stream < streams; stream++, out += each) {
        if (at > size || size - at < 4) return 0;
        const uint32_t held = four(data + at);
        at += 4;
        if (!held || held > size - at) return 0;
        if (held == each) memcpy(out, data + at, each);
        else if (zstd->decompress(zstd->context, out, each, data + at, held) != each) return 0;
        at += held;
    }
    return 1;
}

/* A chunk of so many bytes on disk, of values of `width` bytes; whether it is sound. */
static int
decode_chunk(const Zstd *zstd, const uint8_t *data, uint64_t size, uint32_t width, uint32_t bytes, uint8_t *out) {
    if (size < HEADER + CHECKSUM || size > (uint64_t)bytes + HEADER + CHECKSUM) return 0;
    size -= CHECKSUM;
    if (checksum(data, size) != four(data + size)) return 0;
    const uint32_t flags = data[2], block = four(data + 8);
    if (data[0] != 2 || data[1] != 1 || data[3] != width || four(data + 4) != bytes || four(data + 12) != size) return 0;
    if (!block || block > bytes) return 0;
    if (flags >> 5 != ZSTD || flags & OTHERS) return 0;
    if (flags & STORED) {
        if (size != (uint64_t)bytes + HEADER) return 0;
        memcpy(out, data + HEADER, bytes);
        return 1;
    }
    const uint32_t blocks = (bytes - 1) / block + 1, shuffled = flags & SHUFFLED && width > 1;
    if (size < HEADER + 4 * (uint64_t)blocks) return 0;
    const int split = !(flags & WHOLE) && width <= MOST_STREAMS && block / width >= LEAST_STREAM;
    for (uint32_t number = 0; number < blocks; number++, out += block) {
        const uint32_t left = bytes - number * block, held = left < block ? left : block;
        uint8_t *to = shuffled ? zstd->room : out;
        if (!decode_block(zstd, data, size, four(data + HEADER + 4 * number), split && held == block ? width : 1, held, to))
            return 0;
        if (shuffled) unshuffle(to, width, held, out);
    }
    return 1;
}

PyDoc_STRVAR(
    decode_doc,
    "decode(create, release, decompress, data, start, entries, width, out)\n--\n\n"
    "Decode chunks into out (n, bytes) uint8; whether all are sound, out being undefined if not.\n"
    "create, release, decompress: addresses of ZSTD_createDCtx, ZSTD_freeDCtx, ZSTD_decompressDCtx.\n"
    "data: bytes of a shard from its byte start on; entries (n, 2) uint64: where in the shard each\n"
    "chunk begins, and its bytes. width: bytes of a value."
);

static PyObject *
decode(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned long long create, release, decompress, start;
    unsigned int width;
    PyObject *objects[3], *result = NULL;
    Py_buffer data = {0}, entries = {0}, out = {0};
    Zstd zstd = {0};
    if (!PyArg_ParseTuple(
            args, "KKKOKOIO", &create, &release, &decompress, &objects[0], &start, &objects[1], &width, &objects[2]
        ))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &data, PyBUF_ND) < 0 || PyObject_GetBuffer(objects[1], &entries, PyBUF_ND) < 0 ||
        PyObject_GetBuffer(objects[2], &out, PyBUF_ND | PyBUF_WRITABLE) < 0)
        goto end;
    if (!create || !release || !decompress || !width || entries.ndim != 2 || entries.itemsize != 8 ||
        entries.shape[1] != 2 || out.ndim != 2 || out.itemsize != 1 || out.shape[0] != entries.shape[0] ||
        out.shape[1] < 1 || out.shape[1] > MOST_BYTES) {
        PyErr_SetString(PyExc_ValueError, "chunks of other shapes");
        goto end;
    }
    const uint32_t bytes = (uint32_t)out.shape[1];
    const uint64_t size = (uint64_t)data.len;
    int sound = 0;
    Py_BEGIN_ALLOW_THREADS
    sound = open_zstd(&zstd, create, release, decompress, bytes);
    for (Py_ssize_t place = 0; sound && place < entries.shape[0]; place++) {
        const uint64_t *entry = (const uint64_t *)entries.buf + 2 * place;
        sound = entry[0] >= start && entry[0] - start <= size && entry[1] <= size - (entry[0] - start) &&
                decode_chunk(
                    &zstd, (const uint8_t *)data.buf + (entry[0] - start), entry[1], width, bytes,
                    (uint8_t *)out.buf + place * (Py_ssize_t)bytes
                );
    }
    close_zstd(&zstd);
    Py_END_ALLOW_THREADS
    result = PyBool_FromLong(sound);
end:
    PyBuffer_Release(&data);
    PyBuffer_Release(&entries);
    PyBuffer_Release(&out);
    return result;
}

/* What openat2(2) takes; not in the headers of older systems. */
typedef struct {
    uint64_t flags, mode, resolve;
} How;

#define NO_MAGIC_LINKS 0x02       /* what a path may not have */
#define NO_LINKS 0x04
#define BENEATH 0x08              /* it stays in the folder */

/* Open a file below an open folder for reading, where no part of its name is a link; -1 where that
   cannot be had. */
static int
open_below(int folder, const char *name) {
#ifdef SYS_openat2
    const How how = {O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0, NO_MAGIC_LINKS | NO_LINKS | BENEATH};
    return (int)syscall(SYS_openat2, folder, name, &how, sizeof how);
#else
    (void)folder, (void)name;
    return -1;
#endif
}

static int
read_at(int file, uint8_t *out, uint64_t size, uint64_t start) {
    return pread(file, out, size, (off_t)start) == (ssize_t)size;
}

/* A chunk of an open shard: which of how many, of how many bytes; `data` has room for the index and
   for a chunk. Whether it is sound. */
static int
decode_place(const Zstd *zstd, int file, uint64_t place, uint64_t count, uint32_t width, uint32_t bytes, uint8_t *data, uint8_t *out) {
    const uint64_t index = 16 * count + CHECKSUM;
    struct stat state;
    uint64_t entry[2];
    if (fstat(file, &state) < 0 || !S_ISREG(state.st_mode) || (uint64_t)state.st_size < index) return 0;
    const uint64_t end = (uint64_t)state.st_size - index;
    if (!read_at(file, data, index, end)) return 0;
    if (checksum(data, index - CHECKSUM) != four(data + index - CHECKSUM)) return 0;
    memcpy(entry, data + 16 * place, 16);
    if (entry[1] > (uint64_t)bytes + HEADER + CHECKSUM || entry[1] > end || entry[0] > end - entry[1]) return 0;
    return read_at(file, data, entry[1], entry[0]) && decode_chunk(zstd, data, entry[1], width, bytes, out);
}

PyDoc_STRVAR(
    decode_files_doc,
    "decode_files(create, release, decompress, folder, names, place, count, width, out)\n--\n\n"
    "Decode the same chunk of many shards, files below an open folder, into out (n, bytes) uint8;\n"
    "whether all are there and sound, out being undefined if not; False also where a link leads to\n"
    "one, and where the system cannot tell. create, release, decompress: as decode. folder: its\n"
    "descriptor. names: of the n files, a NUL behind each. place: of the chunk, of count in a shard.\n"
    "width: bytes of a value."
);

static PyObject *
decode_files(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned long long create, release, decompress, place, count;
    unsigned int width;
    int folder;
    const char *names;
    Py_ssize_t length;
    PyObject *object, *result = NULL;
    Py_buffer out = {0};
    Zstd zstd = {0};
    if (!PyArg_ParseTuple(
            args, "KKKiy#KKIO", &create, &release, &decompress, &folder, &names, &length, &place, &count, &width, &object
        ))
        return NULL;
    if (PyObject_GetBuffer(object, &out, PyBUF_ND | PyBUF_WRITABLE) < 0) return NULL;
    Py_ssize_t ends = 0;
    for (Py_ssize_t at = 0; at < length; at++) ends += !names[at];
    if (!create || !release || !decompress || !width || place >= count || count > MOST_BYTES / 16 || out.ndim != 2 ||
        out.itemsize != 1 || out.shape[1] < 1 || out.shape[1] > MOST_BYTES || ends != out.shape[0] ||
        (length && names[length - 1])) {
        PyErr_SetString(PyExc_ValueError, "chunks of other shapes");
        goto end;
    }
    const uint32_t bytes = (uint32_t)out.shape[1];
    const uint64_t index = 16 * count + CHECKSUM, chunk = (uint64_t)bytes + HEADER + CHECKSUM;
    uint8_t *data = NULL;
    int sound = 0;
    Py_BEGIN_ALLOW_THREADS
    data = malloc(index > chunk ? index : chunk);
    sound = open_zstd(&zstd, create, release, decompress, bytes) && data;
    for (Py_ssize_t number = 0; sound && number < out.shape[0]; number++, names += strlen(names) + 1) {
        const int file = open_below(folder, names);
        sound = file >= 0 &&
                decode_place(&zstd, file, place, count, width, bytes, data, (uint8_t *)out.buf + number * (Py_ssize_t)bytes);
        if (file >= 0) close(file);
    }
    close_zstd(&zstd);
    free(data);
    Py_END_ALLOW_THREADS
    result = PyBool_FromLong(sound);
end:
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc},
    {"decode_files", decode_files, METH_VARARGS, decode_files_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_contents(PyObject *module) {
    /* Of processors that do not have the instruction, none is as fast as Python's libraries. */
    if (PyModule_AddIntConstant(module, "CHECKS", __builtin_cpu_supports("sse4.2") != 0) < 0) return -1;
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_contents}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_chunks", "Chunks of a shard.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__chunks(void) {
    return PyModuleDef_Init(&definition);
}
