/* Boxes of a photo resized to the very bytes that Pillow makes, many in one call without the GIL.

   Pillow resizes in two passes, columns and rows, each a sum of the pixels under the filter's
   support, in integers: weights in units of 2**-22, rounded to 8 bits after each pass. Integer sums
   come out the same in any order, so they are taken here over 32 neighbours at once. A pass always
   runs along the first axis of its input; for the columns the pixels are transposed, in strips that
   stay in the cache.

   labelstore.images.resampling compares it with the installed Pillow before it is used. It is for
   x86-64 processors with AVX2 (2013 and later), by GCC or Clang; elsewhere Pillow cuts. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

#define AVX2 __attribute__((target("avx2")))
#define ALWAYS_INLINE inline __attribute__((always_inline))

#define BITS 22
#define HALF (1 << (BITS - 1))
#define STRIP 64                  /* rows that are transposed together */
#define STRIP_BYTES (3 * STRIP)
#define STRIP_STRIDE (STRIP_BYTES + 16) /* a pixel is copied as four bytes: room for the last */
#define PI 3.14159265358979323846

enum { LANCZOS = 1, BILINEAR = 2, BICUBIC = 3, BOX = 4, HAMMING = 5 }; /* Pillow's numbers */

static double
support_of(int filter) {
    switch (filter) {
        case LANCZOS: return 3.0;
        case BICUBIC: return 2.0;
        case BOX: return 0.5;
        default: return 1.0;
    }
}

static double
sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= PI;
    return sin(x) / x;
}

/* The filter's weight at a distance, in the order of operations that gives Pillow's bits. */
static double
weight_at(int filter, double x) {
    double away = fabs(x);
    switch (filter) {
        case LANCZOS:
            return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
        case BICUBIC: /* Keys 1981, equation 4, with a = -1/2 */
            if (away < 1.0) return (1.5 * away - 2.5) * away * away + 1;
            if (away < 2.0) return (((away - 5) * away + 8) * away - 4) * -0.5;
            return 0.0;
        case BOX:
            return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
        case HAMMING:
            if (away == 0.0) return 1.0;
            if (away >= 1.0) return 0.0;
            away *= PI;
            return sin(away) / away * (0.54f + 0.46f * cos(away));
        default: /* BILINEAR */
            return away < 1.0 ? 1.0 - away : 0.0;
    }
}

/* Where each pixel of a resized line is summed from, and with what weights.

   A weight is 256 * high + low, 0 <= low < 256, so that sums of 16-bit products give the whole:
   those of two taps lie side by side as one instruction takes them. */
typedef struct {
    int pairs; /* of taps that a pixel has room for */
    int32_t *first, *count;
    int16_t (*weights)[2][2]; /* (size, pairs): high and low, of two taps each */
    double *exact;
} Taps;

static int
pairs_of(int length, int size, int filter) {
    double scale = (double)length / size;
    return (int)ceil(support_of(filter) * (scale < 1.0 ? 1.0 : scale)) + 1;
}

static void
fill_taps(Taps *taps, int length, int size, int filter) {
    double scale = (double)length / size;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double reach = support_of(filter) * stretch, step = 1.0 / stretch;
    taps->pairs = pairs_of(length, size, filter);
    for (int place = 0; place < size; place++) {
        double centre = (place + 0.5) * scale, total = 0.0;
        int first = (int)(centre - reach + 0.5), last = (int)(centre + reach + 0.5);
        int16_t(*weights)[2][2] = taps->weights + (size_t)place * taps->pairs;
        if (first < 0) first = 0;
        if (last > length) last = length;
        for (int tap = 0; tap < last - first; tap++) {
            taps->exact[tap] = weight_at(filter, (tap + first - centre + 0.5) * step);
            total += taps->exact[tap];
        }
        for (int tap = 0; tap < last - first; tap++) {
            double share = total != 0.0 ? taps->exact[tap] / total : taps->exact[tap];
            int32_t weight = (int32_t)(share * (1 << BITS) + (share < 0 ? -0.5 : 0.5));
            weights[tap / 2][0][tap % 2] = (int16_t)(weight >> 8);
            weights[tap / 2][1][tap % 2] = (int16_t)(weight & 255);
        }
        if ((last - first) % 2) {
            weights[(last - first) / 2][0][1] = 0;
            weights[(last - first) / 2][1][1] = 0;
        }
        taps->first[place] = first;
        taps->count[place] = last - first;
    }
}

/* Sums of 16 neighbours over two taps, in the halves' four accumulators. */
AVX2 ALWAYS_INLINE static void
add_pair(const uint8_t *one, const uint8_t *two, __m256i high, __m256i low, __m256i sums[4]) {
    __m128i a = _mm_loadu_si128((const __m128i *)one), b = _mm_loadu_si128((const __m128i *)two);
    __m256i left = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
    __m256i right = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(left, high));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(right, high));
    sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(left, low));
    sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(right, low));
}

/* 16 sums to 16-bit numbers, in order. */
AVX2 ALWAYS_INLINE static __m256i
rounded(const __m256i sums[4]) {
    __m256i left = _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(sums[0], 8), sums[2]), BITS);
    __m256i right = _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(sums[1], 8), sums[3]), BITS);
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(left, right), 0xD8);
}

/* 32 neighbours of one line of the result. */
AVX2 ALWAYS_INLINE static void
resize_block(const uint8_t *from, size_t stride, int count, int16_t (*weights)[2][2], uint8_t *to) {
    __m256i none = _mm256_setzero_si256(), half = _mm256_set1_epi32(HALF);
    __m256i left[4] = {none, none, half, half}, right[4] = {none, none, half, half};
    for (int tap = 0; tap < count; tap += 2, from += 2 * stride) {
        int32_t packed[2];
        memcpy(packed, weights[tap / 2], sizeof packed);
        __m256i high = _mm256_set1_epi32(packed[0]), low = _mm256_set1_epi32(packed[1]);
        const uint8_t *next = tap + 1 < count ? from + stride : from; /* past the last: weight 0 */
        add_pair(from, next, high, low, left);
        add_pair(from + 16, next + 16, high, low, right);
    }
    __m256i bytes = _mm256_packus_epi16(rounded(left), rounded(right));
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(bytes, 0xD8));
}

/* Weighted sums along the first axis: `size` lines of `bytes` bytes out of lines `stride` apart. */
AVX2 static void
resize_lines(
    const uint8_t *in, size_t stride, size_t bytes, const Taps *taps, int size, uint8_t *out,
    size_t out_stride
) {
    for (int place = 0; place < size; place++, out += out_stride) {
        const uint8_t *line = in + (size_t)taps->first[place] * stride;
        int16_t(*weights)[2][2] = taps->weights + (size_t)place * taps->pairs;
        int count = taps->count[place];
        size_t start = 0;
        for (; start + 32 <= bytes; start += 32)
            resize_block(line + start, stride, count, weights, out + start);
        if (start < bytes && bytes >= 32) {
            start = bytes - 32;
            resize_block(line + start, stride, count, weights, out + start);
            continue;
        }
        for (; start < bytes; start++) {
            int32_t sum = HALF;
            for (int tap = 0; tap < count; tap++) {
                int32_t weight = weights[tap / 2][0][tap % 2] * 256 + weights[tap / 2][1][tap % 2];
                sum += line[start + (size_t)tap * stride] * weight;
            }
            sum >>= BITS;
            out[start] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
        }
    }
}

/* out[column][row] = in[row][column], pixels of three bytes; in[rows - 1 - row][column] if mirrored.

   Four by four pixels go at once, as 16 bytes of which 12 count: they may be read where a line has
   in_room bytes and written where one has out_room, and what is written too much is overwritten,
   for the rows ascend. */
AVX2 static void
transpose(
    const uint8_t *in, size_t in_stride, size_t in_room, int rows, int columns, uint8_t *out,
    size_t out_stride, size_t out_room, int mirror
) {
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    const __m128i pack = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    ptrdiff_t step = mirror ? -(ptrdiff_t)in_stride : (ptrdiff_t)in_stride;
    if (mirror) in += (size_t)(rows - 1) * in_stride;
    int row = 0;
    for (; row + 4 <= rows && 3 * (size_t)row + 16 <= out_room; row += 4) {
        const uint8_t *from = in + row * step;
        uint8_t *to = out + 3 * (size_t)row;
        int column = 0;
        for (; column + 4 <= columns && 3 * (size_t)column + 16 <= in_room; column += 4, from += 12) {
            __m128i a = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)from), spread);
            __m128i b = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(from + step)), spread);
            __m128i c = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(from + 2 * step)), spread);
            __m128i d = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(from + 3 * step)), spread);
            __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d);
            __m128i ab2 = _mm_unpackhi_epi32(a, b), cd2 = _mm_unpackhi_epi32(c, d);
            __m128i lines[4] = {
                _mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd),
                _mm_unpacklo_epi64(ab2, cd2), _mm_unpackhi_epi64(ab2, cd2),
            };
            for (int line = 0; line < 4; line++, to += out_stride)
                _mm_storeu_si128((__m128i *)to, _mm_shuffle_epi8(lines[line], pack));
        }
        for (; column < columns; column++, from += 3, to += out_stride)
            for (int next = 0; next < 4; next++) memcpy(to + 3 * next, from + next * step, 3);
    }
    for (; row < rows; row++)
        for (int column = 0; column < columns; column++)
            memcpy(out + column * out_stride + 3 * (size_t)row, in + row * step + 3 * (size_t)column, 3);
}

typedef struct {
    Taps across, down;
    uint8_t *strip, *narrow, *half;
} Scratch;

/* `rows` lines of `width` pixels to lines of `out_width`: the pass over the columns. */
static void
resize_columns(
    const uint8_t *in, size_t stride, size_t room, int rows, int width, int mirror, uint8_t *out,
    int out_width, Scratch *scratch
) {
    size_t line = 3 * (size_t)out_width;
    for (int top = 0; top < rows; top += STRIP, in += STRIP * stride, out += STRIP * line) {
        int part = rows - top < STRIP ? rows - top : STRIP;
        transpose(in, stride, room, part, width, scratch->strip, STRIP_STRIDE, STRIP_STRIDE, 0);
        resize_lines(
            scratch->strip, STRIP_STRIDE, 3 * (size_t)part, &scratch->across, out_width,
            scratch->narrow, STRIP_STRIDE
        );
        transpose(
            scratch->narrow, STRIP_STRIDE, STRIP_STRIDE, out_width, part, out, line, line, mirror
        );
    }
}

static int
get_taps(Taps *taps, int longest, int size, int filter) {
    size_t pairs = (size_t)pairs_of(longest, size, filter);
    taps->first = malloc(sizeof(int32_t) * size);
    taps->count = malloc(sizeof(int32_t) * size);
    taps->weights = malloc(sizeof *taps->weights * size * pairs);
    taps->exact = malloc(sizeof(double) * 2 * pairs);
    return taps->first && taps->count && taps->weights && taps->exact;
}

static void
free_taps(Taps *taps) {
    free(taps->first);
    free(taps->count);
    free(taps->weights);
    free(taps->exact);
}

/* The rules of labelstore/images/pillow_passes.py, by the same numbers. */
static int
rows_first(int order, int height, int width, int out_height, int out_width) {
    if (height <= out_height) return 0;
    if (order == 1) return height - out_height > 2 * (int64_t)(width - out_width);
    return order == 2 && height > 100 * (int64_t)width;
}

/* 0 where there is no memory. */
static int
resize_all(
    const uint8_t *photo, size_t stride, const int32_t *boxes, const uint8_t *flips,
    Py_ssize_t count, uint8_t *out, int out_height, int out_width, int filter, int order
) {
    int tallest = 1, widest = 1, done = 0;
    for (Py_ssize_t number = 0; number < count; number++) {
        if (boxes[4 * number + 2] > tallest) tallest = boxes[4 * number + 2];
        if (boxes[4 * number + 3] > widest) widest = boxes[4 * number + 3];
    }
    Scratch scratch;
    memset(&scratch, 0, sizeof scratch);
    size_t half = 3 * (size_t)tallest * out_width, other = 3 * (size_t)widest * out_height;
    scratch.strip = malloc((size_t)widest * STRIP_STRIDE);
    scratch.narrow = malloc((size_t)out_width * STRIP_STRIDE);
    scratch.half = malloc(half > other ? half : other);
    if (get_taps(&scratch.across, widest, out_width, filter) &&
        get_taps(&scratch.down, tallest, out_height, filter) && scratch.strip && scratch.narrow &&
        scratch.half) {
        for (Py_ssize_t number = 0; number < count; number++) {
            const int32_t *box = boxes + 4 * number;
            int height = box[2], width = box[3];
            const uint8_t *crop = photo + (size_t)box[0] * stride + 3 * (size_t)box[1];
            fill_taps(&scratch.across, width, out_width, filter);
            fill_taps(&scratch.down, height, out_height, filter);
            if (rows_first(order, height, width, out_height, out_width)) {
                size_t line = 3 * (size_t)width;
                resize_lines(crop, stride, line, &scratch.down, out_height, scratch.half, line);
                resize_columns(
                    scratch.half, line, line, out_height, width, flips[number], out, out_width,
                    &scratch
                );
            } else {
                size_t line = 3 * (size_t)out_width, room = stride - 3 * (size_t)box[1];
                resize_columns(
                    crop, stride, room, height, width, flips[number], scratch.half, out_width,
                    &scratch
                );
                resize_lines(scratch.half, line, line, &scratch.down, out_height, out, line);
            }
            out += 3 * (size_t)out_height * out_width;
        }
        done = 1;
    }
    free_taps(&scratch.across);
    free_taps(&scratch.down);
    free(scratch.strip);
    free(scratch.narrow);
    free(scratch.half);
    return done;
}

static int
fits(const Py_buffer *photo, const int32_t *boxes, Py_ssize_t count) {
    for (Py_ssize_t number = 0; number < count; number++) {
        int64_t top = boxes[4 * number], left = boxes[4 * number + 1];
        int64_t height = boxes[4 * number + 2], width = boxes[4 * number + 3];
        if (top < 0 || left < 0 || height < 1 || width < 1 || top + height > photo->shape[0] ||
            left + width > photo->shape[1])
            return 0;
    }
    return 1;
}

PyDoc_STRVAR(
    resize_boxes_doc,
    "resize_boxes(photo, boxes, flips, out, filter, order)\n--\n\n"
    "Fill out (n, height, width, 3) uint8 with boxes (n, 4) int32 of photo (H, W, 3) uint8, resized\n"
    "by Pillow's filter of that number and mirrored where flips (n,) uint8 says so; all contiguous.\n"
    "order: which boxes have their rows summed first, a rule of labelstore/images/pillow_passes.py."
);

static PyObject *
resize_boxes(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer photo = {0}, boxes = {0}, flips = {0}, out = {0};
    PyObject *objects[4], *result = NULL;
    int filter, order, done;
    if (!PyArg_ParseTuple(args, "OOOOii", &objects[0], &objects[1], &objects[2], &objects[3], &filter, &order))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &photo, PyBUF_ND) < 0 ||
        PyObject_GetBuffer(objects[1], &boxes, PyBUF_ND) < 0 ||
        PyObject_GetBuffer(objects[2], &flips, PyBUF_ND) < 0 ||
        PyObject_GetBuffer(objects[3], &out, PyBUF_ND | PyBUF_WRITABLE) < 0)
        goto end;
    if (photo.ndim != 3 || photo.shape[2] != 3 || photo.itemsize != 1 || boxes.ndim != 2 ||
        boxes.shape[1] != 4 || boxes.itemsize != 4 || flips.ndim != 1 || flips.itemsize != 1 ||
        flips.shape[0] != boxes.shape[0] || out.ndim != 4 || out.shape[0] != boxes.shape[0] ||
        out.shape[3] != 3 || out.itemsize != 1 || out.shape[1] < 1 || out.shape[2] < 1 ||
        out.shape[1] > 65536 || out.shape[2] > 65536 || filter < LANCZOS || filter > HAMMING ||
        !fits(&photo, boxes.buf, boxes.shape[0])) {
        PyErr_SetString(PyExc_ValueError, "arrays of other shapes, a box outside the photo or an unknown filter");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    done = resize_all(photo.buf, 3 * (size_t)photo.shape[1], boxes.buf, flips.buf, boxes.shape[0], out.buf, (int)out.shape[1], (int)out.shape[2], filter, order);
    Py_END_ALLOW_THREADS
    result = done ? Py_NewRef(Py_None) : PyErr_NoMemory();
end:
    PyBuffer_Release(&photo);
    PyBuffer_Release(&boxes);
    PyBuffer_Release(&flips);
    PyBuffer_Release(&out);
    return result;
}

/* The part of Apache Arrow's C data interface (arrow.apache.org/docs/format/CDataInterface.html) by
   which Pillow (11.2 and later) lends the memory of an image. */
typedef struct {
    const char *format;
} ArrowSchema;

typedef struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
} ArrowArray;

/* Pixels of four bytes to pixels of three. */
AVX2 static void
pack_pixels(const uint8_t *in, size_t count, uint8_t *out) {
    const __m128i pack = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    size_t pixel = 0;
    for (; pixel + 8 <= count; pixel += 4) { /* 16 bytes are written, of which 12 count */
        __m128i four = _mm_loadu_si128((const __m128i *)(in + 4 * pixel));
        _mm_storeu_si128((__m128i *)(out + 3 * pixel), _mm_shuffle_epi8(four, pack));
    }
    for (; pixel < count; pixel++) memcpy(out + 3 * pixel, in + 4 * pixel, 3);
}

PyDoc_STRVAR(
    take_pixels_doc,
    "take_pixels(schema, array, out)\n--\n\n"
    "Fill out (H, W, 3) uint8, contiguous, with an RGB image of Pillow's that lies in one piece, as\n"
    "its __arrow_c_array__ gives it. ValueError: the image is of another kind or size."
);

static PyObject *
take_pixels(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer out = {0};
    PyObject *objects[3], *result = NULL;
    if (!PyArg_ParseTuple(args, "OOO", &objects[0], &objects[1], &objects[2])) return NULL;
    const ArrowSchema *schema = PyCapsule_GetPointer(objects[0], "arrow_schema");
    const ArrowArray *array = PyCapsule_GetPointer(objects[1], "arrow_array");
    if (!schema || !array || PyObject_GetBuffer(objects[2], &out, PyBUF_ND | PyBUF_WRITABLE) < 0)
        return NULL;
    const ArrowArray *bytes = array->n_children == 1 ? array->children[0] : NULL;
    if (out.ndim != 3 || out.shape[2] != 3 || out.itemsize != 1 || strcmp(schema->format, "+w:4") ||
        array->length != out.shape[0] * out.shape[1] || array->offset || !bytes || bytes->offset ||
        bytes->length != 4 * array->length || bytes->n_buffers != 2 || !bytes->buffers[1]) {
        PyErr_SetString(PyExc_ValueError, "no RGB image in one piece, or an array of another shape");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    pack_pixels(bytes->buffers[1], (size_t)array->length, out.buf);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&out);
    return result;
}

static PyObject *
usable(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args)) {
    return PyBool_FromLong(__builtin_cpu_supports("avx2"));
}

static PyMethodDef methods[] = {
    {"usable", usable, METH_NOARGS, "Whether this processor has the instructions."},
    {"resize_boxes", resize_boxes, METH_VARARGS, resize_boxes_doc},
    {"take_pixels", take_pixels, METH_VARARGS, take_pixels_doc}, {NULL, NULL, 0, NULL}
};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_resample", "Pillow's resizing, of many boxes at once.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__resample(void) {
    return PyModuleDef_Init(&definition);
}
