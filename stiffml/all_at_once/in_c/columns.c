/* Substitution for many right-hand sides: n numbers, one for each of them, lie side by side for every component
   of a vector, so that the innermost loops are long and without conditions. With n = 1 Newton's iteration would
   take up to a half longer than by ``substitute`` of rows.c, which is why there are both. */

/* to += factor from, for n numbers. */
static void add_all(int64_t n, double factor, const double *restrict from, double *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

/* Y += A X, for a block (w, w) and X (w, n). */
static void multiply_all(int64_t w, int64_t n, const double *a, const double *x, double *y) {
  for (int64_t i = 0; i < w; i++)
    for (int64_t j = 0; j < w; j++)
      add_all(n, a[i * w + j], x + j * n, y + i * n);
}

static void exchange_all(int64_t n, double *restrict x, double *restrict y) {
  for (int64_t i = 0; i < n; i++) {
    double other = x[i];
    x[i] = y[i];
    y[i] = other;
  }
}

/* As ``solve`` of lu.c, for X (w, n). */
static void solve_all(const double *a, const int32_t *pivots, int64_t w, int64_t n, double *x) {
  for (int64_t k = 0; k < w; k++)
    if (pivots[k] != k) exchange_all(n, x + k * n, x + pivots[k] * n);
  for (int64_t i = 1; i < w; i++)
    for (int64_t j = 0; j < i; j++) add_all(n, -a[i * w + j], x + j * n, x + i * n);
  for (int64_t i = w - 1; i >= 0; i--) {
    double *own = x + i * n, one = a[i * w + i];
    for (int64_t j = i + 1; j < w; j++) add_all(n, -a[i * w + j], x + j * n, own);
    for (int64_t k = 0; k < n; k++) own[k] *= one;
  }
}

static void solve_block_all(const struct system *s, int64_t r, int64_t n, double *x) {
  int64_t w = s->width, size = size_of(s);
  const double *lu = s->lu + r * size * w;
  const int32_t *pivots = s->pivots + r * size;
  if (pivots[0] < 0) {
    for (int64_t i = 0; i < size * n; i++) x[i] *= lu[0];
    return;
  }
  for (int64_t q = 0; q < s->samples; q++)
    solve_all(lu + q * w * w, pivots + q * w, w, n, x + q * w * n);
}

/* As ``substitute`` of rows.c, for v (unknowns, size, n) and d (count, size, n); ``along`` has (nodes, size, n)
   and ``sum`` one vector of these. */
static void substitute_all(const struct system *s, int64_t n, const double *v, double *d, double *const *along,
                           double *sum) {
  int64_t w = s->width, size = size_of(s), all = size * n;
  for (int64_t position = 0; position < s->given + s->unknowns; position++) {
    double *own = d + position * all;
    int64_t r = position - s->given;
    if (r >= 0) {
      int64_t first = s->starts[r], end = s->starts[r + 1], weighted = has_mass(s, r);
      double *to = weighted ? sum : own;
      memset(to, 0, all * sizeof *to);
      for (int64_t e = first; e < end; e++)
        if (s->column[e] != position && s->alpha[e] != 0) add_all(all, s->alpha[e], d + s->column[e] * all, to);
      if (weighted) {
        memset(own, 0, all * sizeof *own);
        for (int64_t q = 0; q < s->samples; q++)
          multiply_all(w, n, mass_of(s, q), sum + q * w * n, own + q * w * n);
      }
      for (int64_t i = 0; i < all; i++) own[i] = v[r * all + i] - own[i];
      for (int64_t e = first; e < end; e++)
        for (int k = 0; k < 2 && s->column[e] != position; k++) {
          double factor = coefficient(s, k, e);
          if (factor != 0) add_all(all, factor, along[k] + s->parts[k].node[s->column[e]] * all, own);
        }
      solve_block_all(s, r, n, own);
    }
    for (int k = 0; k < 2; k++) {
      const double *jacobian = jacobian_at(s, k, position);
      if (!jacobian) continue;
      double *to = along[k] + s->parts[k].node[position] * all;
      memset(to, 0, all * sizeof *to);
      for (int64_t q = 0; q < s->samples; q++)
        multiply_all(w, n, jacobian + q * w * w, own + q * w * n, to + q * w * n);
    }
  }
}
