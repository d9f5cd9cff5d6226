// The choice of those entries of a run whose keys are high enough. Included by kernel.cpp within its namespace.

#include "mask.h"

// Entries of a run that were chosen: a mask for each of its lines, and which lines have any, a bit each.
struct Chosen {
  int64_t start;
  int length;
  Mask lines = 0;
  Mask masks[RUN / LINE];
  static_assert(RUN / LINE == LINE, "a bit for each line");

  // Calls visit(line, mask) for each line that has any.
  template <class Visit>
  void for_lines(Visit visit) const {
    for (uint32_t left = lines; left; left &= left - 1) {
      const int line = lowest_bit(left);
      visit(line, masks[line]);
    }
  }

  void add(int line, Mask mask) {
    masks[line] |= mask;
    lines |= Mask(1 << line);
  }

  int count() const {
    uint64_t words[4];
    memcpy(words, masks, sizeof(masks));
    return bit_count(words[0]) + bit_count(words[1]) + bit_count(words[2]) + bit_count(words[3]);
  }

  // Their positions in the run, in ascending order. Returns how many there are.
  int positions(uint16_t (&out)[RUN + LINE]) const {
    uint16_t* end = out;
    for_lines([&](int line, Mask mask) { end = append_positions(mask, line * LINE, end); });
    return int(end - out);
  }
};

// Chooses, of a run of `length` entries, those with key(i) >= low. With `below`, also chooses there those with a lower
// key that is at least `least`. Calls key once for each i < length.
template <class KeyOf>
void choose(KeyOf key, int length, Key low, Chosen& chosen, Chosen* below = nullptr, Key least = 0) {
  uint32_t lines = 0, lines_below = 0;
  Key keys[LINE];
  const auto mark = [&](int line) {
    const Mask mask = mask_of(keys, low);
    chosen.masks[line] = mask;
    lines |= uint32_t(mask != 0) << line;
    if (!below) return;
    const Mask others = mask_of(keys, least) ^ mask;
    below->masks[line] = others;
    lines_below |= uint32_t(others != 0) << line;
  };
  const int full = length / LINE;
  for (int line = 0; line < full; ++line) {
    INDEPENDENT for (int i = 0; i < LINE; ++i) keys[i] = key(line * LINE + i);
    mark(line);
  }
  if (length < RUN) {
    memset(chosen.masks + full, 0, sizeof(Mask) * (LINE - full));
    for (int i = 0; i < LINE; ++i) keys[i] = full * LINE + i < length ? key(full * LINE + i) : NONE;
    mark(full);
  }
  chosen.length = length;
  chosen.lines = Mask(lines);
  if (below) below->lines = Mask(lines_below);
}
