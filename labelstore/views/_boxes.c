/* Boxes and flips of views in one call, without the interpreter's lock: to the bit what
   labelstore/views/boxes.py draws by NumPy, which says what each step is. They are compared before
   this is used. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdint.h>

/* What labelstore/compiled.py asks for. */
#define INTERFACE 1

#if FLT_EVAL_METHOD != 0
#error "intermediate results would be more precise than float64"
#endif

#define ROUNDS 10
#define TRIES 10
#define FLIP_DRAW 16
#define LN2 0.6931471805599453
#define TERMS 16

/* 1/n!, n = 15 to 0: factorials that float64 holds exactly. */
static const double EXP_TERMS[TERMS] = {
    1.0 / 1307674368000.0, 1.0 / 87178291200.0, 1.0 / 6227020800.0, 1.0 / 479001600.0,
    1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0,
    1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0,
};

typedef struct {
    uint64_t seed;
    double area_low, area_high, log_low, log_high, ratio_low, ratio_high, flip;
} Law;

static void
philox(uint64_t seed, uint64_t hash, uint64_t draw, uint64_t number, uint32_t words[4]) {
    uint64_t c0 = hash & 0xFFFFFFFF, c1 = hash >> 32, c2 = draw, c3 = number;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        uint64_t first = c0 * 0xD2511F53, second = c2 * 0xCD9E8D57;
        c0 = (second >> 32) ^ c1 ^ k0;
        c1 = second & 0xFFFFFFFF;
        c2 = (first >> 32) ^ c3 ^ k1;
        c3 = first & 0xFFFFFFFF;
    }
    words[0] = (uint32_t)c0, words[1] = (uint32_t)c1, words[2] = (uint32_t)c2, words[3] = (uint32_t)c3;
}

static double
uniform(uint32_t word) {
    return word * 0x1p-32;
}

static double
between(double unit, double low, double high) {
    return low + (high - low) * unit;
}

static double
exact_exp(double x) {
    double halvings = rint(x / LN2), rest = x - halvings * LN2, result = EXP_TERMS[0];
    for (int term = 1; term < TERMS; term++) result = result * rest + EXP_TERMS[term];
    return ldexp(result, (int)halvings);
}

static int32_t
place_of(uint32_t word, int64_t limit) {
    return (int32_t)((word * (uint64_t)limit) >> 32);
}

static void
draw_box(const Law *law, uint64_t hash, uint64_t number, int64_t width, int64_t height, int32_t box[4]) {
    for (int attempt = 0; attempt < TRIES; attempt++) {
        uint32_t words[4];
        philox(law->seed, hash, (uint64_t)attempt, number, words);
        double area = (double)(width * height) * between(uniform(words[0]), law->area_low, law->area_high);
        double aspect = exact_exp(between(uniform(words[1]), law->log_low, law->log_high));
        double wide = rint(sqrt(area * aspect)), tall = rint(sqrt(area / aspect));
        if (wide > 0 && wide <= (double)width && tall > 0 && tall <= (double)height) {
            box[0] = place_of(words[2], height - (int64_t)tall + 1);
            box[1] = place_of(words[3], width - (int64_t)wide + 1);
            box[2] = (int32_t)tall, box[3] = (int32_t)wide;
            return;
        }
    }
    double aspect = (double)width / (double)height;
    int64_t wide = width, tall = height;
    if (aspect > law->ratio_high) wide = (int64_t)rint((double)height * law->ratio_high);
    if (aspect < law->ratio_low) tall = (int64_t)rint((double)width / law->ratio_low);
    wide = wide < 1 ? 1 : wide > width ? width : wide;
    tall = tall < 1 ? 1 : tall > height ? height : tall;
    box[0] = (int32_t)((height - tall) / 2), box[1] = (int32_t)((width - wide) / 2);
    box[2] = (int32_t)tall, box[3] = (int32_t)wide;
}

PyDoc_STRVAR(
    draw_doc,
    "draw(hashes, numbers, widths, heights, law, box, flip)\n--\n\n"
    "Fill box (n, 4) int32 and flip (n,) uint8 for views of images by hashes (n,) uint64, numbers\n"
    "(n,) uint64, widths and heights (n,) int64, at least 1; all contiguous. law: the seed, the range\n"
    "of the area, of the logarithm of the ratio and of the ratio, and the probability of mirroring."
);

static PyObject *
draw(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *objects[6], *result = NULL;
    Py_buffer views[6] = {{0}};
    const int items[6] = {8, 8, 8, 8, 4, 1};
    unsigned long long seed;
    Law law;
    if (!PyArg_ParseTuple(
            args, "OOOO(Kddddddd)OO", &objects[0], &objects[1], &objects[2], &objects[3], &seed,
            &law.area_low, &law.area_high, &law.log_low, &law.log_high, &law.ratio_low,
            &law.ratio_high, &law.flip, &objects[4], &objects[5]
        ))
        return NULL;
    law.seed = seed;
    for (int part = 0; part < 6; part++)
        if (PyObject_GetBuffer(objects[part], &views[part], part < 4 ? PyBUF_ND : PyBUF_ND | PyBUF_WRITABLE) < 0)
            goto end;
    Py_ssize_t count = views[0].ndim == 1 ? views[0].shape[0] : -1;
    for (int part = 0; part < 6; part++) {
        int ndim = part == 4 ? 2 : 1;
        if (views[part].ndim != ndim || views[part].shape[0] != count ||
            views[part].itemsize != items[part] || (ndim == 2 && views[part].shape[1] != 4)) {
            PyErr_SetString(PyExc_ValueError, "arrays of other shapes or types");
            goto end;
        }
    }
    const uint64_t *hashes = views[0].buf, *numbers = views[1].buf;
    const int64_t *widths = views[2].buf, *heights = views[3].buf;
    int32_t *box = views[4].buf;
    uint8_t *flip = views[5].buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t view = 0; view < count; view++) {
        draw_box(&law, hashes[view], numbers[view], widths[view], heights[view], box + 4 * view);
        if (law.flip == 0.0 || law.flip == 1.0) {
            flip[view] = law.flip == 1.0;
        } else {
            uint32_t words[4];
            philox(law.seed, hashes[view], FLIP_DRAW, numbers[view], words);
            flip[view] = uniform(words[0]) < law.flip;
        }
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
end:
    for (int part = 0; part < 6; part++) PyBuffer_Release(&views[part]);
    return result;
}

static PyMethodDef methods[] = {{"draw", draw, METH_VARARGS, draw_doc}, {NULL, NULL, 0, NULL}};

static int
add_interface(PyObject *module) {
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_interface}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_boxes", "Boxes and flips of many views at once.", 0, methods, slots,
};

PyMODINIT_FUNC
PyInit__boxes(void) {
    return PyModuleDef_Init(&definition);
}
