// The loops that only look: at the keys of a tensor, and at lists of them.
// Included by kernel.cpp within its namespace.

// Calls visit(key, at, size) for each run of a tensor after `moments`, where key(i) is the key of an entry.
template <class Visit>
inline void for_runs(const Tensor& t, int64_t start, int64_t length, Visit visit) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  const Decay decay(t);
  const bool need_v = t.score == MOMENTUM_OVER_RMS, need_g = t.score == GRADIENT || t.codebooks;
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      float* m = load(t, EXP_AVG, at, size, buffer_m);
      float* v = need_v ? load(t, EXP_AVG_SQ, at, size, buffer_v) : m;
      const float* g = need_g ? load_grad(t, at, size, buffer_g) : m;
      if (t.codebooks) {
        if (need_v) decay.squares(g, v, size);
        decay.momenta(g, m, size);
      }
      visit([=](int i) { return rank(g[i], m[i], v[i], at + i); }, at, size);
    }
  });
}

void peek(const Tensor& t, const int64_t* starts, int lines, Key* keys) {
  float buffer_g[LINE], buffer_m[LINE], buffer_v[LINE];
  const Decay decay(t);
  const bool need_v = t.score == MOMENTUM_OVER_RMS;
  for (int line = 0; line < lines; ++line) {
    prefetch(t, GRAD, starts[line], LINE);
    prefetch(t, EXP_AVG, starts[line], LINE);
    if (need_v) prefetch(t, EXP_AVG_SQ, starts[line], LINE);
  }
  with_ranking(t, [&](auto rank) {
    for (int line = 0; line < lines; ++line) {
      const int64_t start = starts[line];
      const float* g = load_grad(t, start, LINE, buffer_g);
      const float* m = load(t, EXP_AVG, start, LINE, buffer_m);
      const float* v = need_v ? load(t, EXP_AVG_SQ, start, LINE, buffer_v) : m;
      for (int i = 0; i < LINE; ++i) {
        keys[line * LINE + i] = rank(g[i], decay.momentum(g[i], m[i]), decay.square(g[i], v[i]), start + i);
      }
    }
  });
}

int64_t count_from(const Key* keys, int64_t count, Key low) {
  int64_t total = 0;
  for (int64_t done = 0; done < count; done += 1 << 16) {
    const int size = count - done < 1 << 16 ? int(count - done) : 1 << 16;
    int32_t found = 0;
    for (int i = 0; i < size; ++i) found += keys[done + i] >= low;
    total += found;
  }
  return total;
}

int64_t keep(Key* keys, int64_t count, Bracket bracket) {
  uint32_t line[LINE];
  uint32_t* end = reinterpret_cast<uint32_t*>(keys);
  int64_t done = 0;
  for (; done + LINE <= count; done += LINE) {  // what is appended, and up to a line more, lies behind what was read
    memcpy(line, keys + done, sizeof(line));
    const Mask mask = mask_of(keys + done, bracket.low) & Mask(~mask_of(keys + done, next_key(bracket.high)));
    end = append_values(mask, line, end);
  }
  int64_t kept = end - reinterpret_cast<uint32_t*>(keys);
  for (; done < count; ++done) {
    const Key key = keys[done];
    keys[kept] = key;
    kept += key >= bracket.low && key <= bracket.high;
  }
  return kept;
}

int64_t count_equal(const Tensor& t, int64_t start, int64_t length, Key wanted) {
  int64_t total = 0;
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    int32_t count = 0;
    for (int i = 0; i < size; ++i) count += key(i) == wanted;
    total += count;
  });
  return total;
}

void histogram(const Tensor& t, int64_t start, int64_t length, Bracket bracket, int shift, int64_t above,
               int64_t* bins) {
  Chosen chosen;
  uint16_t positions[RUN + LINE];
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    choose(key, size, bracket.low, chosen);
    const int count = chosen.positions(positions);
    for (int i = 0; i < count; ++i) {
      const Key found = key(positions[i]);
      ++bins[found > bracket.high ? above : (found - bracket.low) >> shift];
    }
  });
}
