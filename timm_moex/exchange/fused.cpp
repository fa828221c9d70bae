// The three loops of fused.py for CPU tensors, compiled on first use (kernels.py). Rows of (R, I) elements lie one
// after the other; moments run over R, so each row has I of them. Sums are kept in float for 64 terms, then in double.
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using Index = int64_t;
constexpr Index kRun = 64;     // terms a float accumulator takes before it is emptied into a double
constexpr Index kLanes = 32;   // columns a contiguous row is dealt into
constexpr Index kBlock = 256;  // columns of a strided row worked on at a time: R x 256 floats stay in the cache

struct bf16 {
    uint16_t bits;
};

inline float load(float v) { return v; }
inline float load(bf16 v) {
    uint32_t bits = uint32_t(v.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
inline void store(float* p, float v) { *p = v; }
inline void store(bf16* p, float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    p->bits = uint16_t(v != v ? 0x7fc0 : rounded);
}

template <class F>
void parallel(Index count, Index threads, F work) {
    std::vector<std::thread> others;
    for (Index t = 1; t < threads; t++) {
        Index begin = count * t / threads, end = count * (t + 1) / threads;
        try {
            others.emplace_back(work, begin, end);
        } catch (const std::system_error&) {  // the system gives no more threads
            work(begin, end);
        }
    }
    work(0, count / threads);
    for (auto& other : others) other.join();
}

// total[i] += sum over r of f(r * stride + i), i < width <= kBlock
template <class F>
void sum_rows(Index rows, Index stride, Index width, double* total, F f) {
    float part[kBlock];
    for (Index begin = 0; begin < rows; begin += kRun) {
        Index end = begin + kRun < rows ? begin + kRun : rows;
        for (Index i = 0; i < width; i++) part[i] = 0;
        for (Index r = begin; r < end; r++)
            for (Index i = 0; i < width; i++) part[i] += f(r * stride + i, i);
        for (Index i = 0; i < width; i++) total[i] += part[i];
    }
}

// The same for a row that is contiguous: its elements are dealt into lanes, which are added up pairwise.
template <class F>
double sum_contiguous(Index count, F f) {
    double total = 0;
    for (Index begin = 0; begin < count; begin += kRun * kLanes) {
        Index k = begin, end = begin + kRun * kLanes < count ? begin + kRun * kLanes : count;
        float lanes[kLanes] = {}, tail = 0;
        for (; k + kLanes <= end; k += kLanes)
            for (Index i = 0; i < kLanes; i++) lanes[i] += f(k + i);
        for (; k < end; k++) tail += f(k);
        for (Index half = kLanes / 2; half; half /= 2)
            for (Index i = 0; i < half; i++) lanes[i] += lanes[i + half];
        total += lanes[0] + tail;
    }
    return total;
}

// Calls work(offset of x, offset of the moments, columns) for every piece of x whose moments are computed together.
template <class F>
void for_each_piece(Index rows, Index R, Index I, Index threads, F work) {
    Index pieces = (I + kBlock - 1) / kBlock;
    parallel(rows * pieces, threads, [=](Index begin, Index end) {
        for (Index k = begin; k < end; k++) {
            Index row = k / pieces, i = k % pieces * kBlock;
            work(row * R * I + i, row * I + i, I - i < kBlock ? I - i : kBlock);
        }
    });
}

// The rounding of the mean leaves a rest, sum(x - mean), which corrects both moments.
inline void finish(double mean, double rest, double squares, Index R, float* out_mean, float* out_var) {
    *out_mean = float(mean + rest / R);
    *out_var = float((squares - rest * rest / R) / (R - 1));
}

template <class T>
void moments(const T* x, float* mean, float* var, Index rows, Index R, Index I, Index threads) {
    for_each_piece(rows, R, I, threads, [=](Index at, Index to, Index width) {
        const T* v = x + at;
        if (I == 1) {
            float m = float(sum_contiguous(R, [=](Index k) { return load(v[k]); }) / R);
            double rest = sum_contiguous(R, [=](Index k) { return load(v[k]) - m; });
            double squares = sum_contiguous(R, [=](Index k) { return (load(v[k]) - m) * (load(v[k]) - m); });
            return finish(m, rest, squares, R, mean + to, var + to);
        }
        double sum[kBlock] = {}, rest[kBlock] = {}, squares[kBlock] = {};
        float m[kBlock];
        sum_rows(R, I, width, sum, [=](Index k, Index) { return load(v[k]); });
        for (Index i = 0; i < width; i++) m[i] = float(sum[i] / R);
        sum_rows(R, I, width, rest, [&](Index k, Index i) { return load(v[k]) - m[i]; });
        sum_rows(R, I, width, squares, [&](Index k, Index i) { return (load(v[k]) - m[i]) * (load(v[k]) - m[i]); });
        for (Index i = 0; i < width; i++) finish(m[i], rest[i], squares[i], R, mean + to + i, var + to + i);
    });
}

// total = sum(g), along = sum(g * (x - mean))
template <class T>
void sums(const T* x, const T* g, const float* mean, float* total, float* along, Index rows, Index R, Index I,
          Index threads) {
    for_each_piece(rows, R, I, threads, [=](Index at, Index to, Index width) {
        const T *v = x + at, *w = g + at;
        const float* m = mean + to;
        if (I == 1) {
            float m0 = *m;
            total[to] = float(sum_contiguous(R, [=](Index k) { return load(w[k]); }));
            along[to] = float(sum_contiguous(R, [=](Index k) { return load(w[k]) * (load(v[k]) - m0); }));
            return;
        }
        double s[kBlock] = {}, t[kBlock] = {};
        sum_rows(R, I, width, s, [=](Index k, Index) { return load(w[k]); });
        sum_rows(R, I, width, t, [=](Index k, Index i) { return load(w[k]) * (load(v[k]) - m[i]); });
        for (Index i = 0; i < width; i++) total[to + i] = float(s[i]), along[to + i] = float(t[i]);
    });
}

// y = (x - mean) * a + b, plus g * c where there is a g
template <class T>
void combine(const T* x, const T* g, const float* mean, const float* a, const float* b, const float* c, T* y,
             Index rows, Index R, Index I, Index threads) {
    auto along_row = [=](Index at, Index p, Index count, Index step) {  // step 0: one set of moments for all of them
        const T *v = x + at, *w = g + at;
        T* out = y + at;
        for (Index i = 0; i < count; i++) {
            float value = (load(v[i]) - mean[p + i * step]) * a[p + i * step] + b[p + i * step];
            store(out + i, g ? value + load(w[i]) * c[p + i * step] : value);
        }
    };
    parallel(rows, threads, [=](Index begin, Index end) {
        for (Index row = begin; row < end; row++) {
            if (I == 1) along_row(row * R, row, R, 0);
            else for (Index r = 0; r < R; r++) along_row((row * R + r) * I, row * I, I, 1);
        }
    });
}

}  // namespace

#define EXPORT(T, NAME)                                                                                              \
    extern "C" void moments_##NAME(const void* x, float* mean, float* var, Index rows, Index R, Index I,             \
                                   Index threads) {                                                                  \
        moments((const T*)x, mean, var, rows, R, I, threads);                                                        \
    }                                                                                                                \
    extern "C" void sums_##NAME(const void* x, const void* g, const float* mean, float* total, float* along,         \
                                Index rows, Index R, Index I, Index threads) {                                       \
        sums((const T*)x, (const T*)g, mean, total, along, rows, R, I, threads);                                     \
    }                                                                                                                \
    extern "C" void combine_##NAME(const void* x, const void* g, const float* mean, const float* a, const float* b,  \
                                   const float* c, void* y, Index rows, Index R, Index I, Index threads) {           \
        combine((const T*)x, (const T*)g, mean, a, b, c, (T*)y, rows, R, I, threads);                                \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
