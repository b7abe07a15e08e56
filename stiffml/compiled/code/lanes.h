/* Numbers of LANES states side by side, and the operations of the generated code on them. One lane is a double. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define EXPORT __attribute__((visibility("default")))
#define NOT_INLINED __attribute__((noinline))

#if LANES == 1
typedef double vec;
#define all(x) ((double)(x))
#define TRUTH(condition) ((double)(condition))
#define PICK(condition, x) ((condition) != 0.0 ? (x) : 0.0)
#define EACH(name, one) static inline vec name(vec x) { return one(x); }
#define EACH_PAIR(name, one) static inline vec name(vec x, vec y) { return one(x, y); }
#else
typedef double vec __attribute__((vector_size(8 * LANES)));
typedef int64_t bits __attribute__((vector_size(8 * LANES)));
#define all(x) ((double)(x) - (vec){0}) /* minus keeps the sign of -0 */
#define TRUTH(condition) ((vec)((condition) & (bits)all(1)))
#define PICK(condition, x) ((vec)(((condition) != 0.0) & (bits)(x)))
#define EACH(name, one) \
  static inline vec name(vec x) { for (int l = 0; l < LANES; l++) x[l] = one(x[l]); return x; }
#define EACH_PAIR(name, one) \
  static inline vec name(vec x, vec y) { for (int l = 0; l < LANES; l++) x[l] = one(x[l], y[l]); return x; }
#endif

/* Where the C library has functions of four numbers, these. Their errors are below four units in the last place. */
#ifdef LIBMVEC
#define MANY(name, one) vec _ZGVdN4v_##one(vec); static inline vec name(vec x) { return _ZGVdN4v_##one(x); }
#define MANY_PAIR(name, one) \
  vec _ZGVdN4vv_##one(vec, vec); static inline vec name(vec x, vec y) { return _ZGVdN4vv_##one(x, y); }
#else
#define MANY EACH
#define MANY_PAIR EACH_PAIR
#endif

static inline double sign_of(double x) { return x < 0 ? -1 : x > 0 ? 1 : x; }

MANY(v_exp, exp) MANY(v_expm1, expm1) MANY(v_log, log) MANY(v_log1p, log1p) MANY(v_erf, erf)
MANY(v_sin, sin) MANY(v_cos, cos) MANY(v_tan, tan) MANY(v_asin, asin) MANY(v_acos, acos) MANY(v_atan, atan)
MANY(v_sinh, sinh) MANY(v_cosh, cosh) MANY(v_tanh, tanh)
MANY(v_asinh, asinh) MANY(v_acosh, acosh) MANY(v_atanh, atanh)
MANY_PAIR(v_pow, pow) MANY_PAIR(v_atan2, atan2) MANY_PAIR(v_hypot, hypot)
EACH(v_sqrt, sqrt) EACH(v_floor, floor) EACH(v_ceil, ceil) EACH(v_fabs, fabs) EACH(v_sign, sign_of)
EACH_PAIR(v_fmin, fmin) EACH_PAIR(v_fmax, fmax) EACH_PAIR(v_fmod, fmod) EACH_PAIR(v_remainder, remainder)
EACH_PAIR(v_copysign, copysign)

/* Room for a number of vectors, a constant, by a name: on the stack if it is small, else NULL if there is none. */
#define SMALL 1024
#define TAKE_ROOM(name, number) \
  vec name##_fixed[(number) <= SMALL ? (number) : 1], *name = name##_fixed; \
  if ((number) > SMALL) name = aligned_alloc(64, ((number) * sizeof(vec) / 64 + 1) * 64)
#define GIVE_BACK(name) if (name != name##_fixed) free(name)

static inline int64_t at_most(int64_t most, int64_t count) { return count < most ? count : most; }

/* For groups of states side by side, each of ``count`` states from the one with the number ``first`` on. */
#define EACH_GROUP(states) \
  for (int64_t first = 0, count; (count = at_most(LANES, (states) - first)) > 0; first += LANES)

/* The numbers (size,) of the states first ... first + count - 1 of many; the last stands in for lanes left over. */
static inline void gather(int64_t size, int64_t first, int64_t count, const double *from, vec *to) {
  for (int64_t l = 0; l < LANES; l++) {
    const double *own = from + (first + at_most(count - 1, l)) * size;
    for (int64_t i = 0; i < size; i++) ((double *)(to + i))[l] = own[i];
  }
}

static inline void scatter(int64_t size, int64_t first, int64_t count, const vec *from, double *to) {
  for (int64_t l = 0; l < count; l++)
    for (int64_t i = 0; i < size; i++) to[(first + l) * size + i] = ((const double *)(from + i))[l];
}

/* Their times, of t with one for so many ``samples``. */
static inline vec times_of(int64_t samples, int64_t first, int64_t count, const double *t) {
  vec own = all(t[first / samples]);
#if LANES > 1
  if (samples == 1 || first % samples + count > samples)
    for (int64_t l = 0; l < LANES; l++) own[l] = t[(first + at_most(count - 1, l)) / samples];
#endif
  return own;
}

/* Add the sum over ``count`` lanes of each of so many vectors. */
static inline void add_lanes(int64_t size, int64_t count, const vec *from, double *to) {
  for (int64_t i = 0; i < size; i++)
    for (int64_t l = 0; l < count; l++) to[i] += ((const double *)(from + i))[l];
}

/* The same into ``sum``, lane by lane, where all lanes count. */
static inline void add_up(int64_t size, int64_t count, const vec *from, vec *sum, double *to) {
  if (count < LANES) add_lanes(size, count, from, to);
  else
    for (int64_t i = 0; i < size; i++) sum[i] += from[i];
}
