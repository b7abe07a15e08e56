/* LU factors of a small matrix (n, n) with partial pivoting, stored by rows, with the reciprocals of the pivots. */
#include <math.h>
#include <stdint.h>

/* Returns 1 if the matrix is singular. */
static int factorise(double *a, int32_t *pivots, int64_t n) {
  for (int64_t k = 0; k < n; k++) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; i++)
      if (fabs(a[i * n + k]) > fabs(a[best * n + k])) best = i;
    pivots[k] = (int32_t)best;
    if (best != k)
      for (int64_t j = 0; j < n; j++) {
        double other = a[k * n + j];
        a[k * n + j] = a[best * n + j];
        a[best * n + j] = other;
      }
    if (!(fabs(a[k * n + k]) > 0)) return 1;
    double *restrict row = a + k * n, one = row[k] = 1 / row[k];
    for (int64_t i = k + 1; i < n; i++) {
      double *restrict other = a + i * n, factor = other[k] *= one;
      if (factor != 0)
        for (int64_t j = k + 1; j < n; j++) other[j] -= factor * row[j];
    }
  }
  return 0;
}

static void solve(const double *a, const int32_t *pivots, int64_t n, double *x) {
  for (int64_t k = 0; k < n; k++) {
    double value = x[pivots[k]];
    x[pivots[k]] = x[k];
    x[k] = value;
  }
  for (int64_t i = 1; i < n; i++) {
    double sum = x[i];
    for (int64_t j = 0; j < i; j++) sum -= a[i * n + j] * x[j];
    x[i] = sum;
  }
  for (int64_t i = n - 1; i >= 0; i--) {
    double sum = x[i];
    for (int64_t j = i + 1; j < n; j++) sum -= a[i * n + j] * x[j];
    x[i] = sum * a[i * n + i];
  }
}

/* The same with the transposed matrix. */
static inline void solve_transposed(const double *a, const int32_t *pivots, int64_t n, double *x) {
  for (int64_t i = 0; i < n; i++) {
    double value = x[i] *= a[i * n + i];
    for (int64_t j = i + 1; j < n; j++) x[j] -= a[i * n + j] * value;
  }
  for (int64_t i = n - 1; i > 0; i--)
    for (int64_t j = 0; j < i; j++) x[j] -= a[i * n + j] * x[i];
  for (int64_t k = n - 1; k >= 0; k--) {
    double value = x[pivots[k]];
    x[pivots[k]] = x[k];
    x[k] = value;
  }
}
