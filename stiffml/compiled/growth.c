/* How much longer than the last steps the next one of an adaptive run may be, the same as in methods/growth.py. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#define MOST_GROWING 6

/* The next size, at most that wanted, after a step of the size ``taken``, which was to be longer if it is ``cut``.
   Of the ``last`` sizes, newest first, ``steps`` count; see there for ``ratio`` and ``most``. */
static double next_size(double last[MOST_GROWING], int64_t steps, double ratio, double most, double taken,
                        double wanted, int cut) {
  double grown = 0, power = 1;
  if (cut) memset(last, 0, MOST_GROWING * sizeof *last);
  memmove(last + 1, last, (MOST_GROWING - 1) * sizeof *last);
  last[0] = taken;
  for (int64_t i = 0; i < steps; i++) {
    power *= ratio;
    if (last[i] > 0) grown = fmax(grown, power * last[i]);
  }
  return fmin(wanted, fmin(grown, most * taken));
}
