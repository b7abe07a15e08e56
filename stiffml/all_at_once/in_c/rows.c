/* Residuals, factors of the diagonal blocks, and substitution with the rows in order or in reverse. */

static int64_t size_of(const struct system *s) { return s->samples * s->width; }

static void add(int64_t n, double factor, const double *from, double *to) {
  if (factor != 0)
    for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

/* y += factor A x, or with A transposed, for blocks (samples, width, width). */
static void multiply(const struct system *s, double factor, const double *a, int transposed, const double *x,
                     double *y) {
  int64_t w = s->width;
  for (int64_t q = 0; q < s->samples; q++, a += w * w, x += w, y += w)
    for (int64_t i = 0; i < w; i++) {
      if (transposed) {
        double scaled = factor * x[i];
        for (int64_t j = 0; j < w; j++) y[j] += scaled * a[i * w + j];
      } else {
        double sum = 0;
        for (int64_t j = 0; j < w; j++) sum += a[i * w + j] * x[j];
        y[i] += factor * sum;
      }
    }
}

static int has_mass(const struct system *s, int64_t r) { return s->mass && s->weighted[r]; }

static const double *mass_of(const struct system *s, int64_t sample) {
  return s->mass + (s->masses == 1 ? 0 : sample) * s->width * s->width;
}

/* y = L x, or with L transposed. */
static void weigh(const struct system *s, int64_t r, int transposed, const double *x, double *y) {
  int64_t w = s->width, size = size_of(s);
  if (!has_mass(s, r)) {
    memcpy(y, x, size * sizeof *y);
    return;
  }
  memset(y, 0, size * sizeof *y);
  for (int64_t q = 0; q < s->samples; q++)
    for (int64_t i = 0; i < w; i++)
      for (int64_t j = 0; j < w; j++) {
        double entry = mass_of(s, q)[i * w + j];
        if (transposed) y[q * w + j] += entry * x[q * w + i];
        else y[q * w + i] += entry * x[q * w + j];
      }
}

/* f and g with their Jacobians at the vectors x (count, size); ``y`` has room for as many. */
static int evaluate(const struct system *s, const double *x, double *y) {
  int64_t size = size_of(s), w = s->width;
  for (int k = 0; k < 2; k++) {
    const struct part *part = s->parts + k;
    if (!part->nodes) continue;
    for (int64_t n = 0; n < part->nodes; n++) memcpy(y + n * size, x + part->at[n] * size, size * sizeof *y);
    if (part->blocks(part->nodes, part->samples, w, part->t, y, part->p, part->values, part->jacobians)) return 1;
    if (part->direction < 0) {
      for (int64_t i = 0; i < part->nodes * size; i++) part->values[i] = -part->values[i];
      for (int64_t i = 0; i < part->nodes * size * w; i++) part->jacobians[i] = -part->jacobians[i];
    }
  }
  return 0;
}

/* beta, or epsilon, of an entry. */
static double coefficient(const struct system *s, int k, int64_t entry) {
  return !s->parts[k].nodes ? 0 : k ? s->epsilon[entry] : s->beta[entry];
}

/* v (unknowns, size); ``sum`` has room for one vector. */
static void residual(const struct system *s, const double *x, double *v, double *sum) {
  int64_t size = size_of(s);
  for (int64_t r = 0; r < s->unknowns; r++, v += size) {
    memset(sum, 0, size * sizeof *sum);
    for (int64_t e = s->starts[r]; e < s->starts[r + 1]; e++) add(size, s->alpha[e], x + s->column[e] * size, sum);
    weigh(s, r, 0, sum, v);
    for (int64_t e = s->starts[r]; e < s->starts[r + 1]; e++)
      for (int k = 0; k < 2; k++) {
        double factor = coefficient(s, k, e);
        if (factor != 0) add(size, -factor, s->parts[k].values + s->parts[k].node[s->column[e]] * size, v);
      }
  }
}

/* alpha L - beta J: factors of the blocks of a row. Of a multiple of the identity the first number is the
   reciprocal, and the first pivot -1. */
static int factorise_block(const struct system *s, int64_t r, double alpha, const double *factors,
                           const double *const *jacobians, double *lu, int32_t *pivots) {
  int64_t w = s->width, singular = 0;
  if (factors[0] == 0 && factors[1] == 0 && !has_mass(s, r)) {
    lu[0] = 1 / alpha;
    pivots[0] = -1;
    return alpha == 0;
  }
  for (int64_t q = 0; q < s->samples; q++, lu += w * w, pivots += w) {
    if (has_mass(s, r))
      for (int64_t i = 0; i < w * w; i++) lu[i] = alpha * mass_of(s, q)[i];
    else {
      memset(lu, 0, w * w * sizeof *lu);
      for (int64_t i = 0; i < w; i++) lu[i * w + i] = alpha;
    }
    for (int k = 0; k < 2; k++)
      if (factors[k] != 0) add(w * w, -factors[k], jacobians[k] + q * w * w, lu);
    singular |= factorise(lu, pivots, w);
  }
  return (int)singular;
}

static void solve_block(const struct system *s, const double *lu, const int32_t *pivots, int transposed, double *x) {
  int64_t w = s->width;
  if (pivots[0] < 0) {
    for (int64_t i = 0; i < size_of(s); i++) x[i] *= lu[0];
    return;
  }
  for (int64_t q = 0; q < s->samples; q++, lu += w * w, pivots += w, x += w) {
    if (transposed) solve_transposed(lu, pivots, w, x);
    else solve(lu, pivots, w, x);
  }
}

static const double *jacobian_at(const struct system *s, int k, int64_t position) {
  const struct part *part = s->parts + k;
  int64_t node = part->nodes ? part->node[position] : -1;
  return node < 0 ? 0 : part->jacobians + node * size_of(s) * s->width;
}

/* Factors of all diagonal blocks; 1 if one is singular. */
static int factorise_all(const struct system *s) {
  int64_t size = size_of(s);
  for (int64_t r = 0; r < s->unknowns; r++) {
    int64_t own = s->given + r, e = s->starts[r + 1] - 1;
    while (s->column[e] != own) e--;
    double factors[2] = {coefficient(s, 0, e), coefficient(s, 1, e)};
    const double *jacobians[2] = {jacobian_at(s, 0, own), jacobian_at(s, 1, own)};
    if (factorise_block(s, r, s->alpha[e], factors, jacobians, s->lu + r * size * s->width, s->pivots + r * size))
      return 1;
  }
  return 0;
}

/* The unknowns' part of d (count, size), so that dR/dx d = v (unknowns, size) with what d has for the given
   vectors. ``along``: for f and g, (nodes, size), gets J d; ``sum`` has room for one vector. */
static void substitute(const struct system *s, const double *v, double *d, double *const *along, double *sum) {
  int64_t size = size_of(s);
  for (int64_t position = 0; position < s->given + s->unknowns; position++) {
    double *own = d + position * size;
    int64_t r = position - s->given;
    if (r >= 0) {
      int64_t first = s->starts[r], end = s->starts[r + 1];
      memset(sum, 0, size * sizeof *sum);
      for (int64_t e = first; e < end; e++)
        if (s->column[e] != position) add(size, s->alpha[e], d + s->column[e] * size, sum);
      weigh(s, r, 0, sum, own);
      for (int64_t i = 0; i < size; i++) own[i] = v[r * size + i] - own[i];
      for (int64_t e = first; e < end; e++)
        for (int k = 0; k < 2 && s->column[e] != position; k++) {
          double factor = coefficient(s, k, e);
          if (factor != 0) add(size, factor, along[k] + s->parts[k].node[s->column[e]] * size, own);
        }
      solve_block(s, s->lu + r * size * s->width, s->pivots + r * size, 0, own);
    }
    for (int k = 0; k < 2; k++) {
      const double *jacobian = jacobian_at(s, k, position);
      if (!jacobian) continue;
      double *to = along[k] + s->parts[k].node[position] * size;
      memset(to, 0, size * sizeof *to);
      multiply(s, 1, jacobian, 0, own, to);
    }
  }
}

/* The transposed system. ``x`` (count, size) has dL/dx of the unknowns and gets that of the given vectors; w
   (unknowns, size) the multipliers, ``slopes`` for f and g (nodes, size) dL/df and dL/dg, all zero before;
   ``sum`` has room for one vector. */
static void reverse(const struct system *s, double *x, double *w, double *const *slopes, double *sum) {
  int64_t size = size_of(s);
  for (int64_t position = s->given + s->unknowns - 1; position >= 0; position--) {
    double *own = x + position * size;
    for (int k = 0; k < 2; k++) {
      const double *jacobian = jacobian_at(s, k, position);
      if (jacobian) multiply(s, 1, jacobian, 1, slopes[k] + s->parts[k].node[position] * size, own);
    }
    int64_t r = position - s->given;
    if (r < 0) continue;
    double *multiplier = w + r * size;
    memcpy(multiplier, own, size * sizeof *own);
    solve_block(s, s->lu + r * size * s->width, s->pivots + r * size, 1, multiplier);
    weigh(s, r, 1, multiplier, sum);
    for (int64_t e = s->starts[r]; e < s->starts[r + 1]; e++) {
      int64_t c = s->column[e];
      if (c != position) add(size, -s->alpha[e], sum, x + c * size);
      for (int k = 0; k < 2; k++) {
        double factor = coefficient(s, k, e);
        if (factor != 0) add(size, factor, multiplier, slopes[k] + s->parts[k].node[c] * size);
      }
    }
  }
}
