/* LU factors of many blocks (n, n), by ``lu.c``. */
#define EXPORT __attribute__((visibility("default")))

/* Blocks are overwritten by their factors; those of a singular one are NaN. */
EXPORT void stiffml_factorise(int64_t count, int64_t n, double *blocks, int32_t *pivots) {
  for (int64_t q = 0; q < count; q++)
    if (factorise(blocks + q * n * n, pivots + q * n, n))
      for (int64_t i = 0; i < n; i++) {
        pivots[q * n + i] = (int32_t)i;
        for (int64_t j = 0; j < n; j++) blocks[(q * n + i) * n + j] = NAN;
      }
}

/* Right-hand sides (count, n) are overwritten by solutions. */
EXPORT void stiffml_solve(int64_t count, int64_t n, const double *blocks, const int32_t *pivots, double *x) {
  for (int64_t q = 0; q < count; q++) solve(blocks + q * n * n, pivots + q * n, n, x + q * n);
}
