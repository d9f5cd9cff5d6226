// Which entries of a run have keys that are high enough. Included by kernel.cpp within its namespace.

// For each set of eight marks, a bit each, their positions in ascending order, and how many there are.
struct Positions {
  uint16_t of[256][8];
  uint8_t count[256];

  constexpr Positions() : of(), count() {
    for (int set = 0; set < 256; ++set) {
      for (int bit = 0; bit < 8; ++bit) {
        if (set >> bit & 1) of[set][count[set]++] = uint16_t(bit);
      }
    }
  }
};
constexpr Positions POSITIONS;

#include "mask.h"

// Appends the positions of the entries of a line, which begins at `first`, whose bit is set. Which ones are is
// unpredictable, so there are no branches on them. Writes up to eight positions more than there are.
inline int append_positions(uint32_t mask, int first, uint16_t* positions, int count) {
  for (int i = 0; i < LINE; i += 8, mask >>= 8) {
    const uint32_t set = mask & 0xFF;
    for (int j = 0; j < 8; ++j) positions[count + j] = uint16_t(POSITIONS.of[set][j] + (first + i));
    count += POSITIONS.count[set];
  }
  return count;
}

// Entries of a run that were chosen.
struct Chosen {
  int64_t start;
  int length, count;
  uint16_t positions[RUN + 8];

  // Those with key(i) >= low. Calls key once for each i < length.
  template <class KeyOf>
  void choose(KeyOf key, Key low) {
    count = 0;
    Key keys[LINE];
    int line = 0;
    for (; line + LINE <= length; line += LINE) {
      INDEPENDENT for (int i = 0; i < LINE; ++i) keys[i] = key(line + i);
      count = append_positions(reached(keys, low), line, positions, count);
    }
    for (; line < length; ++line) {
      positions[count] = uint16_t(line);
      count += key(line) >= low;
    }
  }
};
